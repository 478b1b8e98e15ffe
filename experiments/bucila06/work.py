"""What the study runs: a library, its ensemble, and nets that learn from it.

A cell is a problem and a draw of its labelled examples, and leaves all rows of it.
Its nets are runs of `configs/compress.py` with the ensemble's log-probabilities in
`teacher.logits`: sweeps of a folder each, which a run that goes on finds again.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from sklearn import datasets

from configs import compress
from experiments import tasks
from experiments.bucila06 import library, plan, select
from experiments.bucila06.plan import Item
from experiments.protocol import Place
from kd_jax import config as config_lib
from kd_jax import report
from kd_jax.config import build, identity, sweep
from kd_jax.config import run as run_lib
from kd_jax.core import compilation
from kd_jax.core.screen import Screen
from kd_jax.report import Row
from kd_jax.runs import driver, kept_logits
from kd_jax.training.train_loop import Interrupted

_HOLDOUT = 0.2
# Probabilities of the ensemble are cut before their logarithm is taken.
_LEAST = 1e-6
# Examples that the ensemble is asked at once.
_ASKED = 20_000


def run(form: plan.Form, place: Place) -> None:
  """A task a cell."""
  compilation.use_cache()
  if form.quick:
    _toy(place.folder.parent)
  todo = []
  for split in range(form.splits):
    for problem in form.problems:
      cell = Cell(form, problem, split, place)
      names = tuple(cell.fingerprint(item) for item in cell.items)
      todo.append(tasks.Task(
          f"{problem}, split {split}", names, functools.partial(_rows, cell)))
  tasks.run(todo, place, study=plan.NAME)


def _rows(cell: "Cell", stop: Callable[[], bool]) -> Sequence[Row]:
  del stop  # The cell has it from its place.
  return cell.rows()


class Cell:
  """A problem and a split.

  Args:
    form: Sizes.
    problem: Name of a data set.
    split: Seed of everything: the split, models, pseudo examples and nets.
    place: Nets are kept in the folder beside it.
  """

  def __init__(self, form: plan.Form, problem: str, split: int, place: Place):
    self.form, self._place = form, place
    self.problem, self.split = problem, split
    self.folder = place.folder.parent / "nets" / f"{problem}-{split}"
    self.items = [*plan.items(form), *(
        item for arm in plan.ARMS for item in plan.choices(form, arm))]
    self._kept: dict[str, Any] = {}

  def fingerprint(self, item: Item) -> str:
    """Of the row of an item."""
    return identity.fingerprint({
        "study": plan.NAME, "item": list(item), "form": self.form._asdict(),
        "data": self.dataset.fingerprint, "split": self.split})

  @functools.cached_property
  def dataset(self) -> Any:
    """The labelled examples and the test set, without pseudo examples."""
    return build.dataset(config_lib.flatten(self.config({})), say=lambda _: None)

  def config(self, values: Mapping[str, Any]) -> Any:
    """A config of the cell with some values changed."""
    config = compress.get_config()
    shared = {
        "data.name": self.problem, "data.split": self.split, "data.pseudo": "none",
        "data.split_size": self.form.labelled, "data.holdout": _HOLDOUT,
        "data.pseudo_seed": self.split, "steps": self.form.steps,
        "seed": self.split, "sweep.logits": True, "sweep.lanes": "1x1",
        # Of two classes an ensemble may well say 0.5 and 0.5.
        "teacher.check": "off", "tensorboard": False,
        "student.widths": (self.form.hidden[-1],)}
    if self.form.quick:
      shared["data.dir"] = str(self._place.folder.parent)
    return sweep.applied(config, shared | values)

  def rows(self) -> list[Row]:
    """All rows, in the order of the items."""
    found = {item: self._row(item, numbers) for item, numbers in (
        *self._models().items(), *self._unassisted().items(),
        *self._compressed().items())}
    return [found[item] for item in self.items]

  def _row(self, item: Item, numbers: Row) -> Row:
    return {
        "row": f"{self.problem}, {plan.ARMS[item.arm]}", "method": item.arm,
        "overrides": plan.overrides(self.problem, self.split, item),
        "seed": self.split, "fingerprint": self.fingerprint(item), "failed": None,
        "data": self.dataset.source, "data_sha256": self.dataset.fingerprint,
        **numbers}

  @functools.cached_property
  def _ensemble(self) -> tuple[list[library.Fitted], np.ndarray]:
    """The library and the weights of its ensemble."""
    data, train = self.dataset, self.dataset.train
    part = lambda ids: (train.inputs[ids], train.label[ids])
    models = library.fit(
        library.models(self.split, quick=self.form.quick), part(data.train_ids),
        part(data.heldout_ids), self._stop)
    x, label = part(data.heldout_ids)
    p = np.stack([library.asked([model], np.ones(1), x) for model in models])
    return models, select.select(p, label, rounds=self.form.rounds).weights

  def _stop(self) -> None:
    if self._place.stop():
      raise Interrupted

  def _models(self) -> dict[Item, Row]:
    """The ensemble, and the model that is best on what is held out."""
    models, weights = self._ensemble
    alone = np.eye(len(models))
    heldout = [self._judged(models, each)["heldout_rmse"] for each in alone]
    best = int(np.argmin(heldout))
    used = lambda w: {
        models[i].name: round(float(w[i]), 4) for i in np.flatnonzero(w)}
    return {Item(arm): self._judged(models, w, timed=True) | {
        "models": used(w), "bytes": sum(models[i].size for i in np.flatnonzero(w)),
        "fit_seconds": round(sum(model.seconds for model in models), 2)}
            for arm, w in (("ensemble", weights), ("single", alone[best]))}

  def _judged(self, models, weights, *, timed: bool = False) -> Row:
    """RMSE of an ensemble, and the processor's seconds for 10,000 examples."""
    data = self.dataset
    x, label = (each[data.heldout_ids] for each in data.train)
    row: Row = {"heldout_rmse": _rmse(library.asked(models, weights, x), label)}
    if timed:
      began = time.process_time()
      p = library.asked(models, weights, data.test.inputs)
      took = time.process_time() - began
      row |= {"test_rmse": _rmse(p, data.test.label),
              "seconds_10k": round(took / len(p) * 10_000, 4)}
    return row

  def _unassisted(self) -> dict[Item, Row]:
    """Nets without pseudo examples: of labels, of the ensemble's probabilities."""
    found: dict[Item, Row] = {}
    for arm, method in (("labels", "hard"), ("soft", "kd")):
      values = {"method": method} | (
          {"hard_weight": 1.0, "soft_weight": 0.0, "alpha": None}
          if method == "hard" else {})
      choices = plan.choices(self.form, arm)
      tried = dict(zip(choices, self._nets(arm, values, [
          _setting(item) for item in choices])))
      best = min(tried, key=lambda item: tried[item]["heldout_rmse"])
      found |= {item: _unseen(row) for item, row in tried.items()}
      for item in plan.items(self.form):
        if item.arm == arm and item.hidden == self.form.hidden[-1]:
          found[item] = tried[best] | {"chosen": list(best.setting)}
      rest = [item for item in plan.items(self.form)
              if item.arm == arm and item not in found]
      points = [_setting(best) | {"student.widths": (item.hidden,)}
                for item in rest]
      found |= {item: row | {"chosen": list(best.setting)} for item, row in zip(
          rest, self._nets(f"{arm}-hidden", values, points) if rest else [])}
    return found

  def _compressed(self) -> dict[Item, Row]:
    """Nets that learn the ensemble's probabilities on pseudo examples."""
    choices = plan.choices(self.form, "munge")
    # p and s change the data, so each has a folder.
    tried = {item: self._nets(
        f"munge-{number}", self._pseudo("munge", item.size, item.setting), [{}])[0]
             for number, item in enumerate(choices)}
    best = min(tried, key=lambda item: tried[item]["heldout_rmse"]).setting
    found = {item: _unseen(row) for item, row in tried.items()}
    for arm in plan.GENERATORS:
      setting = best if arm == "munge" else ()
      # The largest first: the others begin with the same examples.
      for size in reversed(plan.sizes(self.form, arm)):
        own = [item for item in plan.items(self.form)
               if (item.arm, item.size) == (arm, size)]
        rows = self._nets(
            f"{arm}-{size}", self._pseudo(arm, size, setting),
            [{"student.widths": (item.hidden,)} for item in own])
        found |= {item: row | {"chosen": list(setting)}
                  for item, row in zip(own, rows)}
      self._kept.clear()
    return found

  def _pseudo(self, arm: str, size: int, setting: tuple[float, ...]) -> Row:
    own = dict(zip(("data.munge_p", "data.munge_s"), setting))
    return {"data.pseudo": arm, "data.pseudo_size": size, **own}

  def _nets(self, name: str, values: Row, points: Sequence[Row]) -> list[Row]:
    """Trains a net a point, or finds it; their numbers."""
    self._stop()
    folder = self.folder / name
    if values.get("method") != "hard":
      values = values | {"teacher.logits": str(self._logits(folder, values))}
    config = self.config(values)
    config.sweep.points = tuple(points)
    with Screen() as screen:
      driver.train(run_lib.read(config), folder / "run", screen=screen,
                   asked=driver.Asked(stop=self._place.stop, study=plan.NAME))
    rows = report.read(folder / "run")
    by_point = {str(sorted(row["overrides"].items())): row for row in rows}
    return [self._numbers(folder / "run", by_point[str(sorted(
        (key, list(value) if isinstance(value, tuple) else value)
        for key, value in point.items()))]) for point in points]

  def _logits(self, folder: pathlib.Path, values: Row) -> pathlib.Path:
    """The file of the ensemble's logits of all training examples of a config."""
    file = folder / "logits.npy"
    if file.is_file():
      return file
    inputs = build.dataset(config_lib.flatten(self.config(values)),
                           say=lambda _: None).train.inputs
    # Nets of fewer pseudo examples have the first of those of more.
    known = self._kept.get("inputs")
    if known is None or len(known) < len(inputs) or not np.array_equal(
        known[:len(inputs)], inputs):
      self._kept = {"inputs": inputs, "p": self._asked(inputs)}
    folder.mkdir(parents=True, exist_ok=True)
    fresh = folder / "logits.new.npy"
    np.save(fresh, logits(self._kept["p"][:len(inputs)]))
    fresh.replace(file)
    return file

  def _asked(self, inputs: np.ndarray) -> np.ndarray:
    parts = []
    for first in range(0, len(inputs), _ASKED):
      self._stop()
      parts.append(library.asked(*self._ensemble, inputs[first:first + _ASKED]))
    return np.concatenate(parts)

  def _numbers(self, folder: pathlib.Path, row: Row) -> Row:
    """What a row of the study says of a net's row."""
    said = kept_logits.load(folder, row)
    data = self.dataset
    labels = {"heldout": data.train.label[data.heldout_ids],
              "test": data.test.label}
    width = row["overrides"].get("student.widths", self.form.hidden[-1:])[0]
    return {**{f"{part}_rmse": _rmse(probability(said[part]), label)
               for part, label in labels.items()},
            **{key: row[key]
               for key in ("test_errors", "test_examples", "seconds")},
            "bytes": 4 * row["parameters"], "seconds_10k": self._seconds(width)}

  def _seconds(self, width: int) -> float:
    """Of the processor, that a net of this width takes for 10,000 examples."""
    columns = self.dataset.test.inputs.shape[1]
    if (columns, width) not in _TIMED:
      training = build.student(
          self.config({"student.widths": (width,)}), self.dataset)
      x = jnp.asarray(np.resize(self.dataset.test.inputs, (10_000, columns)))
      variables = training.model.init(jax.random.key(0), x[:1])
      ask = jax.jit(lambda x: training.model.apply(
          variables, x, train=False)[0].logits)
      ask(x).block_until_ready()
      began = time.process_time()
      for _ in range(10):
        ask(x).block_until_ready()
      _TIMED[columns, width] = round((time.process_time() - began) / 10, 5)
    return _TIMED[columns, width]


# By columns and units: nets of one shape take alike.
_TIMED: dict[tuple[int, int], float] = {}


def logits(p: np.ndarray) -> np.ndarray:
  """log p of both classes, `[N, 2]` float32, of the probability of class 1, `[N]`.

  Example:
    >>> np.exp(logits(np.array([0.25])))
    array([[0.75, 0.25]], dtype=float32)
  """
  p = np.clip(p, _LEAST, 1 - _LEAST)
  return np.log(np.stack([1 - p, p], axis=1)).astype(np.float32)


def probability(logits: np.ndarray) -> np.ndarray:
  """The probability of class 1 that logits `[N, 2]` say, `[N]`."""
  return scipy.special.expit((logits[:, 1] - logits[:, 0]).astype(np.float64))


def _rmse(p: np.ndarray, label: np.ndarray) -> float:
  return round(float(select.rmse(p, label)), 6)


def _unseen(row: Row) -> Row:
  """The numbers of a setting that was tried: none of them is of the test set."""
  return {key: value for key, value in row.items() if not key.startswith("test")}


def _setting(item: Item) -> Row:
  return dict(zip(("steps", "optimizer.weight_decay"), item.setting))


def _toy(folder: pathlib.Path) -> None:
  """A table of two interleaved shapes and of columns of noise, as a user's own."""
  file = folder / "toy.npz"
  if file.is_file():
    return
  x, y = datasets.make_moons(3000, noise=0.25, random_state=0)
  noise = np.random.default_rng(0).random((len(x), 2))
  x = (x - x.min(axis=0)) / np.ptp(x, axis=0)
  x, y = np.hstack([x, noise]).astype(np.float32), y.astype(np.int32)
  folder.mkdir(parents=True, exist_ok=True)
  np.savez(file, x_train=x[:2000], y_train=y[:2000], x_test=x[2000:],
           y_test=y[2000:])
