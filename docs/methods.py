"""Writes `docs/methods.md` from the code: every method, and what is known of it.

  python -m docs.methods

Formulas, terms and defaults are those of `kd_jax.distillers`, the differences from
authors' code those of `tests/fixtures/authors.json`, the costs XLA's own count
of a loss and its gradient, before it optimises, and the status what the committed
rows of `experiments/methods_mnist` say.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp

from experiments import index
from experiments.methods_mnist import study, verdict
from kd_jax import distillers, types
from kd_jax import terms as terms_lib
from kd_jax.distillers import Distiller

FILE = pathlib.Path(__file__).with_suffix(".md")
FIXTURE = FILE.parents[1] / "tests/fixtures/authors.json"
BATCH, CLASSES = 128, 100
_HEAD = f"""# Methods

Generated from the code by `python -m docs.methods`; a test makes it again.

`--config.method=NAME` trains a student by any of these. A method's own numbers are
keys, `--config.NAME.NUMBER=VALUE`, and lanes of a sweep. A method that is chosen on
a command line, or in a sweep, takes its paper's weights h = `hard_weight` and s =
`soft_weight`, and its T = `temperature`, unless they (or `alpha`, which is h = 1 -
alpha, s = alpha) are given; where none stands under *defaults*, they are the
config's. In a config file the weights are written out.

z, q are the student's logits and softmax, v, p the teacher's, N the classes; what
the other names mean stands in `kd_jax/losses.py` and `kd_jax/logit_losses/`, with
the paper's equation. A term marked * is one number for a whole batch, over all
devices.

*Cost* is the number of arithmetic operations in the loss and its gradient in the
logits over those of `kd`, at {CLASSES} classes and batches of {BATCH}, counted by
XLA (`cost_analysis` of the program before optimisation); a net's own are far more.
*Others' code*: the largest relative difference, in float32, of values and gradients
from code of the authors or of a library, over so many functions; below is which,
and with which option of ours where that code departs from its paper. Every method's
whole loss is held to its formula in float64 NumPy (`tests/test_terms.py`), its
equations to oracles, identities and degenerate inputs (`test_logit_losses.py`,
`test_logit_identities.py`, `test_relations.py`, `test_losses.py`); all train on
real digits in every mode, the teacher untouched (`tests/soak/methods.py`).
*Status*: proven so, and what it came to in
[methods_mnist](../experiments/methods_mnist), test errors of 10,000 minus those of
`kd` on 2x800 and on 2x30, with the paper's numbers and as few settings tried for
each; bold where it can be told from 0.

Where defaults are from: the paper, as far as it was at hand, or the authors' code.
WTTM's are of its README's example, which has CRD beside it; RLD's beta = 8 is the
default of its code (a table of its paper has 4); DIST's are its CIFAR-100 recipe,
with T**2 as in the code that trained it; k = 5 of the top-k losses is nobody's.
CTKD's slow start needs SGD: Adam divides the size of a gradient out, and its ramp
with it.
"""
_LEFT_OUT = """
## Left out

- CTKD's temperature for each example: a net of its own, whose layout the published
  code leaves out. The global temperature is here.
- MLKD's two views of an image, one of them with strong augmentation, and the masks
  of its trainer, which the paper does not have: all terms here see one view.
- Warm-up of the soft weight (20 epochs of 240 in the code of DKD and RLD) is no
  part of a method: `--config.schedules.warmup_percent=8.3` does it for any.
- Tf-KD's second half, a student as its own teacher, is `kd` with the student's
  architecture as `teacher`.

Several teachers (`teacher.count`) are mixed by `teacher.mean`: the arithmetic mean
of probabilities at the temperature of the loss, the geometric one, or the first
with weights of each example's own; `teacher.weights` are fixed. Methods that
soften the teacher at other temperatures than T take the geometric mean only.
"""


def lines() -> Iterator[str]:
  """The document, block by block."""
  rows = json.loads(FIXTURE.read_text())["rows"]
  costs = {name: operations(own) for name, own in distillers.DISTILLERS.items()}
  tried = study.named(index.committed(index.ROOT / "methods_mnist"))
  yield _HEAD
  yield from table(
      ("method", "loss", "terms", "defaults", "cost", "others' code", "status",
       "paper"),
      ([f"`{name}`", f"`{own.named()}`", ", ".join(named(own)),
        defaults(name, own), f"{costs[name] / costs['kd']:.1f}",
        agreement(authors(name, rows)), status(name, tried), own.paper or "-"]
       for name, own in distillers.DISTILLERS.items()))
  yield "\n## Against the authors' own code\n"
  yield from table(
      ("row", "source", "commit", "float64", "float32", "where the code departs"),
      ([name, f"{row['source']} `{row['function']}`", row["commit"][:8],
        *(f"{row['largest_difference'][kind]:.0e}" if row["largest_difference"]
          else "-" for kind in ("float64", "float32")),
        row["departs"] or "-"] for name, row in rows.items()))
  yield _LEFT_OUT


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
  """Markdown of a table."""
  yield f"| {' | '.join(head)} |"
  yield "|---" * len(head) + "|"
  for row in rows:
    yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"


def defaults(name: str, method: Distiller) -> str:
  """The paper's setting and the method's own numbers."""
  known = [f"{distillers.NAMES[key]} {value:g}"
           for key, value in method.setting.items()]
  known += [f"{name}.{key} {value:.3g}" for key, value in method.numbers.items()]
  return ", ".join(known) or "-"


def named(method: Distiller) -> list[str]:
  """Names of the terms, those of a whole batch marked."""
  found = jax.eval_shape(*example(method))
  # jax sorts the names; labels come first everywhere else.
  return [name if found[name].value.ndim else f"{name}*"
          for name in sorted(found, key=lambda name: (name != "hard", name))]


def example(method: Distiller) -> tuple[Any, ...]:
  """The terms of a method as a function, and shapes to call it with."""
  shape = lambda *dims, dtype=jnp.float32: jax.ShapeDtypeStruct(dims, dtype)
  integer = shape(BATCH, dtype=jnp.int32)
  logits = shape(BATCH, CLASSES)
  hparams = types.Hparams(
      temperature=4.0, soft_weight=1.0, progress=0.5, numbers=dict(method.numbers))

  def terms(student, teacher, label, mask):
    batch = types.Batch(student, label, label, label, mask)
    return method.terms(
        method.init(jax.random.key(0)), types.Outputs(student, {}),
        types.Outputs(teacher, {}), batch, hparams)

  return terms, logits, logits, integer, shape(BATCH, dtype=jnp.bool_)


def operations(method: Distiller) -> float:
  """Arithmetic operations of the loss and its gradient in the logits, by XLA."""
  terms, *shapes = example(method)
  loss = lambda student, *rest: jnp.mean(terms_lib.total(terms(student, *rest)))
  counted = jax.jit(jax.value_and_grad(loss)).lower(*shapes).cost_analysis()
  return counted["flops"]


def authors(name: str, rows: Mapping[str, Any]) -> dict[str, Any]:
  """The fixture's rows of a method: those whose first word it is."""
  first = {"topk_renormalised": "topk"}.get(name, name)
  return {row: found for row, found in rows.items() if row.split()[0] == first}


def agreement(rows: Mapping[str, Any]) -> str:
  """The largest difference in float32 from others' code, and from how much."""
  found = [row["largest_difference"]["float32"] for row in rows.values()
           if row["largest_difference"]]
  if not found:
    return "-"
  return f"{max(found):.0e} ({len(found)})"


def status(name: str, tried: verdict.Named) -> str:
  """A method's errors minus those of KD for each size, the certain ones in bold."""
  differences, adjusted = verdict.tests(tried)
  if all(method != name for _, method in tried):
    return "not tried"
  return ", ".join(
      f"**{test.difference:+.1f}**" if adjusted[key] < verdict.LEVEL
      else f"{test.difference:+.1f}"
      for key, test in differences.items() if key[1] == name) or "the reference"


if __name__ == "__main__":
  FILE.write_text("\n".join(lines()))
