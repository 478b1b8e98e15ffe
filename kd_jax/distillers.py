"""Methods: which named terms a student's loss is the weighted sum of.

A new method is an equation, a function in `terms.py` (or of one's own) that binds
it to the numbers of a run, and an entry in `DISTILLERS` here. Its own numbers are
keys of the config at once, `config.METHOD.NAME`. Nothing in the step, the loop or
the trainer knows a method by name.
"""

from collections.abc import Callable, Mapping
import types as python_types
from typing import NamedTuple

import jax

from kd_jax import terms, types
from kd_jax.terms import Term, Terms, total

__all__ = ["DISTILLERS", "Distiller", "Term", "Terms", "total"]

_NONE: Mapping[str, float] = python_types.MappingProxyType({})


def no_params(key: jax.Array) -> types.Tree:
  """The parameters of a method that has none."""
  del key
  return {}


class Distiller(NamedTuple):
  """A method of distillation.

  Attributes:
    formula: The loss in words, with hard_weight, soft_weight, temperature and
      the names of `numbers` to be filled in; it stands in every table.
    init: `(key) -> params`, the parameters of its own that train beside the
      student's and are dropped afterwards; `{}` for most.
    terms: `(params, student, teacher, batch, hparams) -> Terms`; the loss of an
      example is the sum of weight times value. `teacher` is None where the
      method needs none. `hparams.numbers` holds the method's own, and
      `hparams.progress` the part of the run that is done.
    needs_teacher: Whether the terms look at a teacher.
    numbers: Its own hyper-parameters with the paper's values: keys of the
      config, traced, lanes of a sweep.
    relations: Whether the terms look at relations between examples. They are
      then given the whole batch, of all devices, with `batch.mask`, and a value
      may be a scalar over the valid examples.
    setting: The paper's hard_weight, soft_weight and temperature, taken when
      the method is chosen by name and they are not given; {} leaves them.
    any_temperature: Whether the terms soften the teacher at other temperatures
      than `hparams.temperature`: an ensemble must then be a mean of logits,
      since its mean of probabilities belongs to one temperature.
    paper: Where the method comes from.
  """

  formula: str
  init: Callable[[jax.Array], types.Tree]
  terms: Callable[..., Terms]
  needs_teacher: bool = True
  numbers: Mapping[str, float] = _NONE
  relations: bool = False
  setting: Mapping[str, float] = _NONE
  any_temperature: bool = False
  paper: str = ""


_WEIGHTED = "{hard_weight:.3g} * CE + {soft_weight:.3g} * "
_HINTON = "Hinton, Vinyals & Dean (2015), arXiv 1503.02531"

DISTILLERS: dict[str, Distiller] = {
    "hard": Distiller("CE", no_params, terms.hard, needs_teacher=False),
    "kd": Distiller(
        _WEIGHTED + "T**2 * KL, T = {temperature:g}", no_params, terms.kd,
        paper=_HINTON),
    "logits": Distiller(
        _WEIGHTED + "|z - v|**2 / 2N", no_params, terms.logits,
        paper=f"{_HINTON}, eq. 4; Ba & Caruana (2014), arXiv 1312.6184"),
}
