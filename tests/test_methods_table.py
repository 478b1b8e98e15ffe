"""`docs/methods.md` is what the code says."""

import re

from docs import methods
from kd_jax import distillers

# XLA counts a little otherwise from version to version.
_COST = re.compile(r"(?m)^(\| `(\w+)` .*\| )(\d+\.\d)((?: \|[^|]*){3} \|)$")


def test_the_table_of_methods_is_the_codes():
  written, made = methods.FILE.read_text(), "\n".join(methods.lines())
  assert _COST.sub(r"\1-\4", written) == _COST.sub(r"\1-\4", made), (
      "python -m docs.methods writes it anew")
  costs = [{name: float(cost) for _, name, cost, _ in _COST.findall(text)}
           for text in (written, made)]
  assert set(costs[0]) == set(costs[1]) == set(distillers.DISTILLERS)
  for name, cost in costs[0].items():
    assert 0.7 * cost - 0.1 < costs[1][name] < 1.4 * cost + 0.1, name
