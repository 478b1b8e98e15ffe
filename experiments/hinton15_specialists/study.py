"""A generalist and its specialists; Hinton, Vinyals & Dean (2015), section 5.

Tables 2, 3 and 4 in the paper's form, on letters of the alphabet, and what the
paper left open: generalist and specialists distilled back into a single net.

Three stages choose on a held-out quarter of the training set, of at most eight
settings a row (`plan.py`), by two seeds each: `generalists`, then `specialists`
and the generalist trained on for as long as they are, then `students`. `table`
trains on all of the training set and looks at the test set once. What is tested is
fixed in `verdict.py`, before any run.
"""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import tasks
from experiments.hinton15_specialists import (
  chain,
  confusable,
  letters,
  plan,
  specialists,
)
from experiments.hinton15_specialists.ledger import NAME, Ledger
from experiments.hinton15_specialists.verdict import conclude, pictures, status
from experiments.protocol import Options, Place, Rows, Stage

__all__ = ["CLAIM", "COMMAND", "conclude", "pictures", "stages", "status"]

CLAIM = ("61 specialists raise a generalist from 25.0% to 26.1%, the more of them "
         "know a class the more; left open: distil all of them into one net")
DATA = "UCI letter, 26 classes; the paper's JFT, 15,000"
UNIT = "test accuracy in %; the paper's too"
# No stage is a sweep.
COMMAND = ""
# Lanes of a seed: generalists from 0, specialists from 40, then single nets.
_SPECIALIST, _CONTINUED, _STUDENT = 40, 80, 81


def stages(options: Options) -> list[Stage]:
  """Three that choose, and the table."""
  form = plan.QUICK if options.quick else plan.FULL
  if options.seeds:
    form = form._replace(seeds=options.seeds)
  return [Stage(name, run=functools.partial(_run, form, name))
          for name in (*plan.CHOSEN, "table")]


def _run(form: plan.Plan, stage: str, rows: Rows, place: Place) -> None:
  """One stage: a task a seed."""
  choice = plan.choose(form, rows, stage)
  dataset = form.load(0.0 if stage == "table" else plan.HOLDOUT)
  make = {"generalists": _generalists, "specialists": _specialists,
          "students": _students, "table": _table}[stage]
  todo = []
  for seed in range(form.seeds) if stage == "table" else form.choosing:
    ledger = Ledger(form, dataset, choice, seed)
    todo.append(tasks.Task(f"{stage}, seed {seed}", ledger.promised(stage),
                           functools.partial(_done, make, ledger)))
  tasks.run(todo, place, study=NAME)


def _done(make, ledger: Ledger, stop) -> list[dict[str, Any]]:
  ledger.rows.clear()
  make(ledger, chain.Setup(ledger.dataset, ledger.plan.length, stop))
  return ledger.rows


def _generalists(ledger: Ledger, bench: chain.Setup) -> None:
  grid = ledger.plan.grids["generalist"]
  told = chain.generalists(bench, ledger.seeds(0) * len(grid), grid)
  _add_each(ledger, bench, "generalist", told)


def _specialists(ledger: Ledger, bench: chain.Setup) -> None:
  generalist = chain.generalists(
      bench, ledger.seeds(0), [ledger.choice["generalist"]])
  grid = ledger.plan.grids["specialists"]
  rates = list(dict.fromkeys(each["learning_rate"] for each in grid))
  apart = {}
  for sets in dict.fromkeys(each["sets"] for each in grid):
    inside = _sets(bench, generalist, sets)
    told = chain.specialised(
        bench, generalist, inside, ledger.seeds(_SPECIALIST, len(inside)),
        [{"learning_rate": rate} for rate in rates])
    apart |= {(sets, rate): (inside, said) for rate, said in zip(rates, told)}
  for settings in grid:
    inside, said = apart[settings["sets"], settings["learning_rate"]]
    ledger.add(bench, "specialists", chain.together(
        chain.of_all_classes(generalist), said, inside, settings["top"]), settings)
  further = ledger.plan.grids["continued"]
  _add_each(ledger, bench, "continued", chain.continued(
      bench, generalist, *ledger.seeds(_CONTINUED), further))


def _students(ledger: Ledger, bench: chain.Setup) -> None:
  family = _family(ledger, bench)
  grids, own = ledger.plan.grids, ledger.choice["specialists"]
  held = chain.regularised(
      bench, family.generalist, family.inside,
      ledger.seeds(_SPECIALIST, len(family.inside)),
      [own | settings for settings in grids["regularised"]])
  for settings, apart in zip(grids["regularised"], held):
    ledger.add(bench, "regularised", chain.together(
        family.alone, apart, family.inside, own["top"]), settings)
  for method in ("hard labels", *plan.DISTILLED):
    _add_each(ledger, bench, method, chain.students(
        bench, *ledger.seeds(_STUDENT), grids[method],
        [family.teacher(method)] * len(grids[method])))


def _table(ledger: Ledger, bench: chain.Setup) -> None:
  family, choice = _family(ledger, bench), ledger.choice
  own = choice["specialists"]
  further = chain.continued(
      bench, family.generalist, *ledger.seeds(_CONTINUED), [choice["continued"]])
  held = chain.regularised(
      bench, family.generalist, family.inside,
      ledger.seeds(_SPECIALIST, len(family.inside)), [own | choice["regularised"]])
  both = chain.together(family.alone, held[0], family.inside, own["top"])
  single = ("hard labels", *plan.DISTILLED)
  taught = chain.students(
      bench, *ledger.seeds(_STUDENT), [choice[method] for method in single],
      [family.teacher(method) for method in single])
  said = {
      "generalist": family.alone, "continued": chain.of_all_classes(further),
      "specialists": family.together, "regularised": both,
      "ensemble": family.ensemble,
      **{method: chain.of_all_classes(taught, number)
         for number, method in enumerate(single)}}
  for method in plan.METHODS:
    more = {}
    if method in ("specialists", "regularised"):
      more = _by_sets(bench, family, said[method], own["top"])
    ledger.add(bench, method, said[method], **more)


class _Family(NamedTuple):
  """A generalist, its specialists, and as many generalists."""

  generalist: chain.Nets
  inside: np.ndarray
  alone: chain.Said
  together: chain.Said
  ensemble: chain.Said

  def teacher(self, method: str) -> np.ndarray:
    """What a student's teacher says of the training examples."""
    # Hard labels have weight 0 on the teacher, whoever it is.
    said = {"from specialists": self.together, "from ensemble": self.ensemble}
    return said.get(method, self.alone).train


def _family(ledger: Ledger, bench: chain.Setup) -> _Family:
  own = ledger.choice["specialists"]
  number = own["sets"][0]
  members = chain.generalists(
      bench, ledger.seeds(0, number + 1),
      [ledger.choice["generalist"]] * (number + 1))
  generalist = chain.one(members, 0)
  alone = chain.of_all_classes(generalist)
  inside = _sets(bench, generalist, own["sets"])
  apart, = chain.specialised(
      bench, generalist, inside, ledger.seeds(_SPECIALIST, number), [own])
  return _Family(
      generalist, inside, alone,
      chain.together(alone, apart, inside, own["top"]),
      chain.ensemble(members))


def _sets(bench: chain.Setup, generalist: chain.Nets, sets) -> np.ndarray:
  """What the generalist confuses, by what it says of the training examples."""
  said = chain.of_all_classes(generalist).train[bench.dataset.train_ids]
  return confusable.confusable_sets(
      jax.jit(confusable.prediction_covariance)(said), count=sets[0],
      size=sets[1])


def _by_sets(bench, family: _Family, both: chain.Said, top: int):
  """For Tables 2, 3 and 4: the sets, and who is right by them."""
  label, inside = bench.label, family.inside
  z = {"generalist": family.alone.judged, "together": both.judged}
  right = {name: np.argmax(said, axis=-1) == label for name, said in z.items()}
  within = {name: [np.argmax(np.where(row, said, -np.inf), axis=-1) == label
                   for row in inside] for name, said in z.items()}
  known = inside[:, label]
  times = known.sum(axis=0)
  names = letters.names(bench.classes)
  asked = specialists.active_specialists(
      jax.numpy.asarray(family.alone.judged), jax.numpy.asarray(inside), top=top)
  return {
      "sets": ["".join(np.array([*names])[row]) for row in inside],
      "asked": round(float(np.sum(asked, axis=-1).mean()), 4),
      # Examples of S_m, predictions of S_m alone, all m together.
      "conditional": {"examples": int(known.sum())} | {
          name: int((np.stack(each) & known).sum())
          for name, each in within.items()},
      # How often covered: examples, the generalist right, together right.
      "covered": {str(number): [
          int((times == number).sum()), *(
              int(each[times == number].sum()) for each in right.values())]
          for number in range(times.max() + 1)}}


def _add_each(
    ledger: Ledger, bench: chain.Setup, method: str, told: chain.Nets) -> None:
  """A row for each setting of a method's grid."""
  for number, settings in enumerate(ledger.plan.grids[method]):
    ledger.add(bench, method, chain.of_all_classes(told, number), settings)
