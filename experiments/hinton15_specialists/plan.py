"""What is trained, in which settings, and how the settings are chosen."""

from collections.abc import Callable, Mapping, Sequence
import itertools
from typing import Any, NamedTuple

import numpy as np

from experiments.hinton15_specialists import chain, letters
from experiments.protocol import Rows
from kd_jax import data
from kd_jax.core.errors import UserError

HOLDOUT = 0.25

Settings = Mapping[str, Any]
Choice = Mapping[str, Settings]

# Methods, and what their rows are called.
METHODS = {
    "generalist": "generalist",
    "continued": "generalist, trained on",
    "specialists": "+ specialists",
    "regularised": "+ specialists with soft targets",
    "ensemble": "as many generalists",
    "hard labels": "one net, hard labels",
    "from generalist": "one net, from the generalist",
    "from ensemble": "one net, from as many generalists",
    "from specialists": "one net, from generalist and specialists"}
DISTILLED = ("from generalist", "from ensemble", "from specialists")
TEACHERS = {"regularised": "generalist", "from generalist": "generalist",
            "from ensemble": "ensemble", "from specialists": "specialists"}
# On whose settings the nets of a method depend, beside their own. An ensemble has
# as many members as the generalist and its specialists are.
NEEDS: Mapping[str, tuple[str, ...]] = {
    "generalist": (), "hard labels": (), "continued": ("generalist",),
    "specialists": ("generalist",), "from generalist": ("generalist",),
    **dict.fromkeys(("regularised", "ensemble", "from ensemble",
                     "from specialists"), ("generalist", "specialists"))}
# Which stage chooses what.
CHOSEN = {"generalists": ("generalist",),
          "specialists": ("specialists", "continued"),
          "students": ("regularised", "hard labels", *DISTILLED)}


class Plan(NamedTuple):
  """A form of the study: the real one, or the quick one.

  Attributes:
    load: `(holdout) -> Dataset`.
    length: How long nets are trained.
    grids: The settings of each method to choose from, at most eight.
    seeds: Of the table.
    choosing: Seeds of the choices.
  """

  load: Callable[[float], data.Dataset]
  length: chain.Length
  grids: Mapping[str, Sequence[Settings]]
  seeds: int
  choosing: tuple[int, ...] = (1000, 1001)


def _grid(**values: Sequence[Any]) -> tuple[Settings, ...]:
  return tuple(dict(zip(values, each)) for each in
               itertools.product(*values.values()))


_HARD = _grid(
    learning_rate=(0.003, 0.01, 0.02, 0.04), label_smoothing=(0.0, 0.1))
_SOFT = _grid(
    learning_rate=(0.01, 0.02), alpha=(0.5, 0.9), temperature=(1.0, 3.0))

FULL = Plan(
    letters.load, chain.Length((32,), 128, 40, 40), {
        "generalist": _HARD, "continued": _HARD, "hard labels": _HARD,
        # `sets`: how many, and of how many classes.
        "specialists": _grid(
            sets=((7, 6), (11, 4)), learning_rate=(0.01, 0.03), top=(1, 3)),
        # At the learning rate and on the sets of the specialists.
        "regularised": _grid(alpha=(0.5, 0.9), temperature=(1.0, 3.0)),
        **dict.fromkeys(DISTILLED, _SOFT)}, seeds=10)

_FEW = _grid(learning_rate=(0.003, 0.01))
QUICK = Plan(
    letters.digits, chain.Length((16,), 200, 3, 3), {
        "generalist": _FEW, "continued": _FEW, "hard labels": _FEW,
        "specialists": _grid(
            sets=((3, 4),), learning_rate=(0.003,), top=(1, 2)),
        "regularised": _grid(alpha=(0.5,), temperature=(1.0, 3.0)),
        **dict.fromkeys(DISTILLED, _grid(
            learning_rate=(0.01,), alpha=(0.9,), temperature=(1.0, 3.0)))},
    seeds=2)


def choose(plan: Plan, rows: Rows, stage: str = "table") -> Choice:
  """For each method chosen before a stage, the setting with the least errors.

  Args:
    plan: The settings that there were.
    rows: Of the stages before, with errors on held-out data.
    stage: Which stage is to come.

  Returns:
    The settings by method; of equals the first in the grid.

  Raises:
    UserError: If rows are missing.
  """
  choice: dict[str, Settings] = {}
  for before, methods in CHOSEN.items():
    if before == stage:
      break
    for method in methods:
      choice[method] = _best(plan, method, rows.get(before, ()), before)
  return choice


def plain(settings: Settings) -> dict[str, Any]:
  """As JSON has it, without the seed."""
  return {name: list(value) if isinstance(value, tuple) else value
          for name, value in settings.items() if name != "seed"}


def _best(plan: Plan, method: str, rows, stage: str) -> Settings:
  errors = []
  for settings in plan.grids[method]:
    own = [row["heldout_errors"] for row in rows if row["method"] == method
           and plain(row["overrides"]) == plain(settings)]
    if len(own) < len(plan.choosing):
      raise UserError(
          f"stage {stage}: lacks rows of {method} with {plain(settings)}; give "
          "the command again without --shard")
    errors.append(sum(own))
  return plan.grids[method][int(np.argmin(errors))]
