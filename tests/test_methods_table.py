"""`docs/methods.md` is what the code says."""

import importlib
import re

from conftest import ROOT
import logit_objectives
import test_born_again
import test_losses
import test_relations

from docs import feature_methods, methods
from kd_jax.methods import METHODS

EVERY = list(METHODS)  # Before a test adds one of its own.
# XLA counts a little otherwise from version to version.
_COST = re.compile(r"(?m)^(\| `(\w+)` .*\| )(\d+\.\d)((?: \|[^|]*){3} \|)$")


def test_the_table_of_methods_is_the_codes():
  written, made = methods.FILE.read_text(), "\n".join(methods.lines())
  assert _COST.sub(r"\1-\4", written) == _COST.sub(r"\1-\4", made), (
      "python -m docs.methods writes it anew")
  costs = [{name: float(cost) for _, name, cost, _ in _COST.findall(text)}
           for text in (written, made)]
  assert set(costs[0]) == set(costs[1]) == set(methods.LOGITS)
  for name, cost in costs[0].items():
    assert 0.7 * cost - 0.1 < costs[1][name] < 1.4 * cost + 0.1, name


def test_every_method_is_proven_by_tests_that_are_there():
  assert set(methods.LOGITS) == {
      name for name in methods.PROOFS if " " not in name}
  oracles = {*logit_objectives.OBJECTIVES, *test_losses.OBJECTIVES,
             *test_relations.ROWS, *test_relations.BATCH, *test_born_again.ORACLES}
  tests = _tests()
  for name, proof in methods.PROOFS.items():
    assert set(proof.equations) <= oracles, name
    assert set(proof.beside) <= tests, name


def test_every_method_on_features_is_proven_by_tests_that_are_there():
  assert feature_methods.PROOFS.keys() == feature_methods.FEATURES.keys()
  tests = _tests()
  for name, (equations, beside) in feature_methods.PROOFS.items():
    for equation in equations:
      module, function = equation.split(".")
      assert hasattr(importlib.import_module(f"kd_jax.losses.{module}"), function)
    assert set(beside) <= tests, name


def _tests():
  """Names of all tests, less their `test_`."""
  return set(re.findall(r"(?m)^def test_(\w+)\(", "".join(
      file.read_text() for file in (ROOT / "tests").glob("test_*.py"))))


def test_every_method_was_run_in_every_mode():
  rows = re.findall(r"(?m)^\| ([\w+]+) \| (.*) \|$",
                    (methods.FILE.parent / "modes.md").read_text())[1:]
  assert [name for name, _ in rows if "+" not in name] == EVERY
  assert len(rows) > len(EVERY), "and some of several"
  assert all(found.endswith("| same bits") and "FAILED" not in found
             for _, found in rows)
