"""Runs in Python, for notebooks and scripts: `kd_jax.run` and `kd_jax.load`.

  run = kd_jax.run("configs/mnist.py:smoke", "runs/mnist", {"temperature": 8})
  run.rows[["net", "test_errors"]]                      # a pandas data frame
  run.net("distilled").predict(images).labels           # class names
"""

from collections.abc import Mapping, Sequence
import os
import pathlib
from typing import TYPE_CHECKING, Any

from kd_jax import config as config_lib
from kd_jax import predict as predict_lib
from kd_jax import sweep as sweep_lib
from kd_jax.config import command_line, schema
from kd_jax.core import machine, strict
from kd_jax.core.errors import UserError
from kd_jax.core.files import at_home

if TYPE_CHECKING:
  import pandas

  from kd_jax.runs.trained import Trained

# Of a sweep by keys, the values of each; of one by points, these.
Sweep = Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Any]]


class Net:
  """A finished net of a run.

  Attributes:
    name: In its run.
    classes: The names of its classes, in the order of the logits.
    shape: Of one input, as the data set stores it.
    variables: Its parameters and running state.
  """

  def __init__(self, opened: "Trained"):
    self._opened = opened
    self.name, self.classes = opened.name, opened.classes
    self.shape, self.variables = opened.shape, opened.variables

  def __repr__(self) -> str:
    return (f"<net {self.name}: inputs {list(self.shape)}, "
            f"{len(self.classes)} classes>")

  def predict(self, inputs: Any) -> predict_lib.Prediction:
    """Asks it, with the preprocessing of its run.

    Args:
      inputs: As the data set stores them, `[N, *shape]`: uint8 pixels, float tables
        or token ids. Grey images may lack their last axis.

    Returns:
      Class names, probabilities and logits.

    Raises:
      UserError: If it takes other inputs.
    """
    return predict_lib.ask(
        self._opened, predict_lib.checked(self._opened, inputs, "inputs"))


class Run:
  """A run in its folder.

  Attributes:
    path: The folder.
  """

  def __init__(self, path: pathlib.Path):
    self.path = path

  def __repr__(self) -> str:
    return f"<run in {self.path}: {', '.join(self.nets)}>"

  @property
  def config(self) -> dict[str, Any]:
    """What was asked for, by dotted keys."""
    from kd_jax.runs import trained  # pylint: disable=g-import-not-at-top
    return trained.config(self.path)

  @property
  def summary(self) -> dict[str, Any]:
    """What `summary.json` holds; {} of a run that has not come to its end."""
    file = self.path / "summary.json"
    return strict.read(file) if file.is_file() else {}

  @property
  def rows(self) -> "pandas.DataFrame":
    """The rows of `results.jsonl`, what was overridden as columns of its own."""
    from kd_jax.runs import results  # pylint: disable=g-import-not-at-top
    rows = results.split(self.path)[0]
    found = _frame([{**row.get("overrides", {}), **row} for row in rows])
    first = dict.fromkeys(
        ["net", *(key for row in rows for key in row.get("overrides", {})), "seed",
         *(f"test_{name}" for name in ("errors", "accuracy", "nll", "ece"))])
    return found[[*(name for name in first if name in found),
                  *(name for name in found if name not in first)]]

  @property
  def metrics(self) -> "pandas.DataFrame":
    """The epochs of `metrics.jsonl`, by net; in a sweep a list, by lane.

    Of a net of a single run that was trained again with another config, these are
    of the last training.
    """
    from kd_jax.runs import rows as rows_lib  # pylint: disable=g-import-not-at-top
    rows = rows_lib.every_epoch(self.path)
    if not self.config["sweep.points"]:
      last = {row["net"]: row["fingerprint"] for row in rows}
      rows = [row for row in rows if row["fingerprint"] == last[row["net"]]]
    return _frame(rows)

  @property
  def nets(self) -> list[str]:
    """The names of the nets that are kept; of a sweep those of its teachers."""
    return sorted(each.parent.name for each in self.path.glob(
        "parameters/[!.]*/record.json") if not each.parent.suffix)

  def net(self, name: str | None = None) -> Net:
    """A net; by default the one that the run is about.

    Raises:
      UserError: If there is no such net.
    """
    from kd_jax.runs import trained  # pylint: disable=g-import-not-at-top
    return Net(trained.load(self.path, name))


def _frame(rows: list[dict[str, Any]]) -> "pandas.DataFrame":
  try:
    import pandas  # pylint: disable=g-import-not-at-top
  except ImportError:
    raise UserError("rows and metrics need pip install pandas") from None
  return pandas.DataFrame(rows)


def run(
    config: Any, workdir: str | os.PathLike,
    overrides: Mapping[str, Any] | None = None, *, sweep: Sweep | None = None,
    quiet: bool = False,
) -> Run:
  """Trains what a config asks for, or goes on where the same call was stopped.

  It is `python -m kd_jax.main`: the folder it leaves, and what it refuses, are the
  same. Ctrl-C, or a notebook's stop button, saves and raises KeyboardInterrupt.

  Args:
    config: `FILE[:VARIANT]`, or a config made of `kd_jax.config.default()`.
    workdir: Where results go, and where the same call goes on.
    overrides: Keys that are given anew, such as `{"student.widths": (30, 30)}`.
    sweep: `{"temperature": (1, 4), "seed": range(3)}` for every combination, or the
      points of `kd_jax.sweep`.
    quiet: Whether to show nothing.

  Returns:
    The run, for its rows and nets.

  Raises:
    UserError: For whatever cannot be, in a line.
    kd_jax.training.monitor.Diverged: If the loss is not finite; the last good state
      is saved.
  """
  from kd_jax import main  # pylint: disable=g-import-not-at-top
  if not isinstance(workdir, str | os.PathLike):
    raise UserError(
        f"workdir={workdir}: must be a folder; keys come after it, as in "
        "kd_jax.run('mnist:smoke', 'runs/first', {'temperature': 8})")
  words = {key: value if isinstance(value, str) else str(schema.plain(value))
           for key, value in _of_files(overrides or {}).items()}
  points = None if sweep is None else (
      sweep_lib.product(sweep) if isinstance(sweep, Mapping) else [
          dict(point) for point in sweep])
  command = ""
  if isinstance(config, str | os.PathLike):
    command = f"--config={os.fspath(config)}"
    config, _ = command_line.parse([command])
  values = config_lib.flatten(config)
  made = command_line.changed(values, words, points)
  if made.sweep.points:
    machine.use_all_cores()
  from kd_jax.core.screen import Screen  # pylint: disable=g-import-not-at-top
  from kd_jax.training import train_loop  # pylint: disable=g-import-not-at-top
  folder = at_home(workdir)
  with main.Signals() as stop:
    try:
      main.execute(made, folder, Screen(quiet=quiet), stop, command)
    except train_loop.Interrupted:
      raise KeyboardInterrupt(
          f"stopped; what is done is kept in {folder}, and the same call goes on"
      ) from None
  return Run(folder)


def _of_files(overrides: Mapping[str, Any]) -> Mapping[str, Any]:
  """Refuses what a notebook's cell made: its file is part of what a net is."""
  for key, value in overrides.items():
    if callable(value):
      name = getattr(value, "__name__", "NAME")
      raise UserError(
          f"{key}: is a {type(value).__name__} without a file, by which a net is "
          f"known; write it to one (%%writefile mine.py) and give 'mine.py:{name}'")
  return overrides


def load(workdir: str | os.PathLike) -> Run:
  """The run that was made in a folder, here or elsewhere.

  Raises:
    UserError: If the folder is of no run.

  Example:
    >>> load("nowhere")
    Traceback (most recent call last):
    ...
    kd_jax.errors.UserError: nowhere: holds no run; give the folder of one
  """
  found = Run(at_home(workdir))
  assert found.config  # Refuses what is no run.
  return found
