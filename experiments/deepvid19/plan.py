"""What is measured, in full and in the quick form; it needs no jax."""

from collections.abc import Mapping
from typing import Any, NamedTuple

NAME = "deepvid19"
SAMPLERS = {"vae": "VAE (DeepVID)", "masks": "cells masked (LIME-like)",
            "noise": "Gaussian noise, sd 0.3"}
TARGETS = ("soft", "argmax")
# Where real neighbours are nearest, and of how many the table's numbers are.
NEAR = {"latent": "VAE's latent", "pixels": "pixels",
        "last": "teacher's last layer"}
REAL = 50
# Fidelity against distance: agreement among the first 10, those to 25, ...
RANKS = (10, 25, 50, 100, 200)
# Deletion: how many pixels go.
COUNTS = tuple(range(0, 100, 10))


class Form(NamedTuple):
  """Sizes of the study.

  Attributes:
    teachers: By name what their config sets. The first has all values of b.
    reaches: The values of b, the main one first.
    instances: Of each class.
    number: Neighbours that a linear student is fitted to.
    fresh: Further ones that it is judged by.
    seeds: Of VAE and draws.
    epochs: Of a VAE.
    temperature: T of the softened labels.
    l2: Penalty of the weights.
    steps: Of a fit.
    quick: Whether data that come with a package serve.
  """

  teachers: Mapping[str, Mapping[str, Any]]
  reaches: tuple[float, ...] = (1.0, 0.25, 0.5, 2.0)
  instances: int = 10
  number: int = 400
  fresh: int = 100
  seeds: int = 5
  epochs: int = 8
  temperature: float = 4.0
  l2: float = 1e-2
  steps: int = 150
  quick: bool = False

  def __hash__(self):
    return hash(repr(self))


class Cell(NamedTuple):
  """A teacher, a sampler, and the reach b of the VAE's."""

  teacher: str
  sampler: str
  b: float | None


_CONVNET = {"teacher.name": "convnet"}
FULL = Form({
    "mlp": {"teacher.widths": (400, 400), "teacher.epochs": 10},
    "convnet": _CONVNET | {
        "teacher.widths": (16, 32, 32, 64), "teacher.epochs": 3,
        "teacher.optimizer.learning_rate": 2e-3}})
QUICK = Form({
    "mlp": {"teacher.widths": (60,), "teacher.steps": 300},
    "convnet": _CONVNET | {
        "teacher.widths": (4, 8, 8, 16), "teacher.steps": 100}},
    reaches=(1.0, 0.5), instances=2, number=60, fresh=30, seeds=2, epochs=2,
    steps=50, quick=True)


def cells(form: Form) -> list[Cell]:
  """All cells, the main one first.

  Example:
    >>> [named(cell) for cell in cells(QUICK)][:4]
    ['mlp, vae, b = 1', 'mlp, masks', 'mlp, noise', 'mlp, vae, b = 0.5']
  """
  found = []
  for place, teacher in enumerate(form.teachers):
    main = form.reaches[0]
    found += [Cell(teacher, sampler, main if sampler == "vae" else None)
              for sampler in SAMPLERS]
    if not place:
      found += [Cell(teacher, "vae", b) for b in form.reaches[1:]]
  return found


def named(cell: Cell) -> str:
  """A cell in words."""
  reach = "" if cell.b is None else f", b = {cell.b:g}"
  return f"{cell.teacher}, {cell.sampler}{reach}"
