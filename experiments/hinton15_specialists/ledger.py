"""Rows of one seed: what they will be called, and what was measured."""

from typing import Any

from experiments.hinton15_specialists import chain, plan
from kd_jax import data
from kd_jax.config import identity

NAME = "hinton15_specialists"


class Ledger:
  """Promises the rows of a stage for one seed, and keeps the promise.

  Attributes:
    plan: The form of the study.
    dataset: What is learnt.
    choice: The settings chosen so far.
    rows: What was measured so far.
  """

  def __init__(self, form: plan.Plan, dataset: data.Dataset, choice: plan.Choice,
               seed: int):
    self.plan, self.dataset, self.choice, self._seed = form, dataset, choice, seed
    self.rows: list[dict[str, Any]] = []

  def promised(self, stage: str) -> tuple[str, ...]:
    """The fingerprints of all rows of a stage, in their order."""
    if stage == "table":
      return tuple(self._mark(method, self.own(method))
                   for method in plan.METHODS)
    return tuple(self._mark(method, settings) for method in plan.CHOSEN[stage]
                 for settings in self.plan.grids[method])

  def own(self, method: str) -> plan.Settings:
    """What was chosen for a method; an ensemble has the generalist's settings."""
    return self.choice["generalist" if method == "ensemble" else method]

  def add(self, bench: chain.Setup, method: str, said: chain.Said,
          settings: plan.Settings | None = None, **more: Any) -> None:
    """Writes down what a net, or several together, said."""
    taught = plan.TEACHERS.get(method)
    chosen = self.own(method) if settings is None else settings
    row = {
        "row": plan.METHODS[method], "method": method,
        "overrides": {**plan.plain(chosen), "seed": self._seed},
        "seed": self._seed, "fingerprint": self._mark(method, chosen),
        "teacher_seed": self._seed if taught else None,
        "teacher_fingerprint":
            self._mark(taught, self.own(taught)) if taught else None,
        "data": self.dataset.source,
        "train_examples": len(self.dataset.train_ids)}
    self.rows.append(row | chain.numbers(bench, said) | more)

  def seeds(self, first: int, number: int = 1) -> list[int]:
    """Seeds of lanes: a hundred for each seed of the study."""
    start = 100 * self._seed + first
    return list(range(start, start + number))

  def _mark(self, method: str, settings: plan.Settings) -> str:
    """The fingerprint of a row: all that determines it, known before it is made."""
    return identity.fingerprint({
        "study": NAME, "method": method, "seed": self._seed,
        "settings": settings,
        "given": {name: self.choice[name] for name in plan.NEEDS[method]},
        "length": self.plan.length._asdict(), "data": self.dataset.fingerprint,
        "holdout": len(self.dataset.heldout_ids)})
