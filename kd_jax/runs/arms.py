"""Arms of a comparison: each is tried with the same number of settings.

A setting is chosen by its errors on held-out data, then the chosen one is trained
on everything. What is compared so differs in its method, and not in how much work
went into its numbers.
"""

from collections.abc import Iterable, Mapping, Sequence
import random
import tomllib
from typing import Any, NamedTuple

from kd_jax import config as config_lib
from kd_jax import methods
from kd_jax.config import schema, sweep
from kd_jax.core.errors import UserError
from kd_jax.core.files import at_home, refuse_pipes
from kd_jax.core.words import counted
from kd_jax.runs.results import Row

# Of the seeds that settings are tried with: none is of a table, so that nothing is
# chosen by its luck.
FIRST_SEED = 100


class Arm(NamedTuple):
  """One of what is compared.

  Attributes:
    name: Such as the method's.
    axes: By key, the values that are tried.
    settings: The points that are tried, as many for each arm.
  """

  name: str
  axes: Mapping[str, tuple[Any, ...]]
  settings: sweep.Sweep

  def edges(self, setting: Mapping[str, Any]) -> list[str]:
    """The keys of which a setting has the lowest or highest number tried.

    Example:
      >>> arm("kd", {"temperature": (2.0, 4.0, 8.0)}).edges({"temperature": 8.0})
      ['temperature']
    """
    tried = {key: {each[key] for each in self.settings} for key in self.axes}
    return [key for key, values in tried.items()
            if len(values) > 1 and {*map(type, values)} <= {int, float}
            and setting[key] in (min(values), max(values))]


def arm(name: str, axes: Mapping[str, Sequence[Any]]) -> Arm:
  """An arm that tries every combination of some values."""
  plain = {key: tuple(schema.plain(value) for value in values)
           for key, values in axes.items()}
  return Arm(name, plain, sweep.product(plain))


def read(file: str, budget: int | None) -> list[Arm]:
  """The arms of a TOML file: a table each, of keys with values or lists of them.

    [kd]
    method = "kd"
    temperature = [2, 4, 8]
    optimizer.learning_rate = [1e-3, 3e-3]

  Args:
    file: The file.
    budget: Settings of each arm; None for all of the arm that has the fewest. Of
      an arm with more, so many are drawn, always the same.

  Raises:
    UserError: If it cannot be read, or an arm has fewer.
  """
  try:
    refuse_pipes(at_home(file))
    content = tomllib.loads(at_home(file).read_text(encoding="utf-8"))
  except (OSError, ValueError, RecursionError) as error:
    raise UserError(f"--arms={file}: cannot be read as TOML: {error}") from None
  if len(content) < 2 or not all(
      isinstance(table, dict) and table for table in content.values()):
    raise UserError(
        f"--arms={file}: must be two or more tables, [NAME] and below it keys such "
        "as temperature = [2, 4, 8]")
  axes = {name: _axes(table) for name, table in content.items()}
  try:
    methods.add_own(*(str(name) for each in axes.values()
                      for name in each.get("method", ())))
    _check(axes)
    arms = [arm(name, each) for name, each in axes.items()]
  except UserError as error:
    raise UserError(f"--arms={file}: {error}") from None
  budget = budget or min(len(each.settings) for each in arms)
  return [_within(budget, each, file) for each in arms]


def _axes(table: Mapping[str, Any], prefix: str = "") -> dict[str, Sequence[Any]]:
  """The keys below a table, dotted; a value that is no list is tried alone."""
  axes: dict[str, Sequence[Any]] = {}
  for name, value in table.items():
    key = prefix + name
    if isinstance(value, dict):
      axes |= _axes(value, f"{key}.")
      continue
    values = value if isinstance(value, list) else [value]
    axes[key] = [schema.literal(v) if isinstance(v, str) else v for v in values]
  return axes


def _check(arms: Mapping[str, Mapping[str, Sequence[Any]]]) -> None:
  for name, axes in arms.items():
    for key, values in axes.items():
      what = None
      if key in ("seed", "data.holdout", "data.test"):
        what = "is for all arms alike: --seeds and --holdout"
      elif schema.find(key) is None:
        what = config_lib.unknown(key)
      elif not values:
        what = "needs a value"
      if what:
        raise UserError(f"[{name}] {key}: {what}")


def _within(budget: int, each: Arm, file: str) -> Arm:
  """An arm with as many settings as the budget."""
  number = len(each.settings)
  if number < budget:
    raise UserError(
        f"--arms={file}: {each.name} has {counted(number, 'setting')}, fewer than "
        f"--budget={budget}; list more values, or give --budget={number}")
  drawn = sorted(random.Random(0).sample(range(number), budget))
  return each._replace(settings=[each.settings[place] for place in drawn])


def tried(arms: Sequence[Arm], seeds: Iterable[int]) -> sweep.Sweep:
  """Every setting of every arm with each seed, to be judged by what is held out."""
  return sweep.product(
      sweep.chain(*(each.settings for each in arms)), {"seed": seeds})


def final(chosen: Iterable[sweep.Point], seeds: Iterable[int]) -> sweep.Sweep:
  """What was chosen with each seed, to be trained on everything."""
  return sweep.product(sweep.chain(*map(sweep.fixed, chosen)), {"seed": seeds})


def choose(each: Arm, rows: Sequence[Row], seeds: int) -> sweep.Point | None:
  """The setting with the fewest held-out errors on average; of equals the first.

  A setting that has diverged with one of its seeds is not chosen. None if nothing
  is left.
  """
  def errors(setting: sweep.Point) -> list[float]:
    return [row["heldout_errors"] for row in rows
            if row["failed"] is None and of(row) == setting]
  means = [(sum(found) / seeds, place)
           for place, setting in enumerate(each.settings)
           if (found := errors(setting)) and len(found) == seeds]
  return dict(each.settings[min(means)[1]]) if means else None


def judged(rows: Iterable[Row], net: str = "student") -> list[Row]:
  """Without the rows of a recipe's other nets, which are not what is compared."""
  return [row for row in rows if row.get("net") in (None, net)]


def of(row: Row) -> sweep.Point:
  """What a row sets, but for its seed."""
  return {key: schema.plain(value) for key, value in row["overrides"].items()
          if key != "seed"}
