"""Methods: which named terms a student's loss is the weighted sum of.

A new method is an equation, a function in `terms.py` (or of one's own) that binds
it to the numbers of a run, and an entry in `METHODS` here. Its own numbers are
keys of the config at once, `config.METHOD.NAME`. Nothing in the step, the loop or
the trainer knows a method by name.
"""

from collections.abc import Callable, Mapping
import re
import types as python_types
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
  import jax

  from kd_jax.core import types
  from kd_jax.methods.terms import Terms

_NONE: Mapping[str, float] = python_types.MappingProxyType({})
_NO_RANGES: Mapping[str, tuple[float, float]] = python_types.MappingProxyType({})


def no_params(key: "jax.Array") -> "types.Tree":
  """The parameters of a method that has none."""
  del key
  return {}


class Method(NamedTuple):
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
    within: Lowest and highest value of a number, where it is not any >= 0.
    whole: Those of `within` that count something.
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
  init: "Callable[[jax.Array], types.Tree]"
  terms: "Callable[..., Terms]"
  needs_teacher: bool = True
  numbers: Mapping[str, float] = _NONE
  within: Mapping[str, tuple[float, float]] = _NO_RANGES
  whole: tuple[str, ...] = ()
  relations: bool = False
  setting: Mapping[str, float] = _NONE
  any_temperature: bool = False
  paper: str = ""

  @property
  def softens(self) -> bool:
    """Whether `hparams.temperature` makes a difference to its terms."""
    return "{temperature" in self.formula

  def named(self) -> str:
    """The formula with names in place of numbers.

    Example:
      >>> METHODS["kd"].named()
      'h * CE + s * T**2 * KL'
    """
    text = self.formula.removesuffix(", T = {temperature:g}")
    return re.sub(r"\{(\w+)[^}]*\}", lambda m: NAMES.get(m[1], m[1]), text)


# Names as formulas have them; a number of a method's own keeps its.
NAMES = {"hard_weight": "h", "soft_weight": "s", "temperature": "T"}
_HARD = "{hard_weight:.3g} * CE + "
_WEIGHTED = _HARD + "{soft_weight:.3g} * "
_AT_T = ", T = {temperature:g}"
_HINTON = "Hinton, Vinyals & Dean (2015), arXiv 1503.02531"


def _function(name: str) -> Callable[..., Any]:
  """The function of `terms.py`, which is imported when it is called.

  Keys are made from this file, so a command line is read with it, before jax
  starts: a mistake is told at once, and a sweep can still choose its devices.
  """
  def function(*arguments: Any) -> Any:
    from kd_jax.methods import terms  # pylint: disable=g-import-not-at-top
    return getattr(terms, name)(*arguments)

  return function


def _set(hard: float, soft: float, temperature: float) -> dict[str, float]:
  return {"hard_weight": hard, "soft_weight": soft, "temperature": temperature}


METHODS: dict[str, Method] = {
    "hard": Method("CE", no_params, _function("hard"), needs_teacher=False),
    "kd": Method(
        _WEIGHTED + "T**2 * KL" + _AT_T, no_params, _function("kd"), paper=_HINTON),
    "logits": Method(
        _WEIGHTED + "|z - v|**2 / 2N", no_params, _function("logits"),
        any_temperature=True,
        paper=f"{_HINTON}, eq. 4; Ba & Caruana (2014), arXiv 1312.6184"),
    "mse": Method(
        _WEIGHTED + "|z - v|**2 / N, not centred", no_params, _function("mse"),
        setting={"hard_weight": 0.0, "soft_weight": 1.0}, any_temperature=True,
        paper="Kim et al. (2021), arXiv 2105.08919"),
    "reverse_kl": Method(
        _WEIGHTED + "T**2 * KL(student || teacher)" + _AT_T,
        no_params, _function("reverse_kl"),
        paper="Gu et al. (2024), MiniLLM, arXiv 2306.08543"),
    "jsd": Method(
        _WEIGHTED + "T**2 * JSD({beta:g})" + _AT_T, no_params, _function("jsd"),
        numbers={"beta": 0.5}, within={"beta": (0.0, 1.0)},
        paper="Agarwal et al. (2024), GKD, arXiv 2306.13649"),
    "ls": Method(
        _WEIGHTED + "T**2 * KL of Z-scores" + _AT_T, no_params, _function("ls"),
        setting=_set(0.1, 9.0, 2.0), any_temperature=True,
        paper="Sun et al. (2024), arXiv 2403.01427"),
    "normkd": Method(
        _WEIGHTED + "(T d)**2 * KL at T d, d the logits' deviation" + _AT_T,
        no_params, _function("normkd"), setting=_set(0.1, 0.9, 2.0),
        any_temperature=True, paper="Chi et al. (2023), arXiv 2308.00520"),
    "dkd": Method(
        _WEIGHTED + "T**2 * ({alpha:g} * TCKD + {beta:g} * NCKD)" + _AT_T,
        no_params, _function("dkd"), numbers={"alpha": 1.0, "beta": 8.0},
        setting=_set(1.0, 1.0, 4.0), paper="Zhao et al. (2022), arXiv 2203.08679"),
    "nkd": Method(
        _WEIGHTED + "(p_y * CE + {gamma:g} * T**2 * CE of the others)" + _AT_T,
        no_params, _function("nkd"), numbers={"gamma": 1.5}, any_temperature=True,
        setting=_set(1.0, 1.0, 1.0), paper="Yang et al. (2023), arXiv 2303.13005"),
    "rld": Method(
        _WEIGHTED + "({alpha:g} * S**2 * SCD + {beta:g} * T**2 * MCD), "
        "S = {confidence_temperature:g}" + _AT_T, no_params, _function("rld"),
        numbers={"alpha": 1.0, "beta": 8.0, "confidence_temperature": 1.0},
        within={"confidence_temperature": (1e-3, 1e6)}, any_temperature=True,
        setting=_set(1.0, 1.0, 4.0), paper="Sun et al. (2024), arXiv 2408.07703"),
    "wttm": Method(
        _WEIGHTED + "U * KL(teacher at T || student at 1)" + _AT_T,
        no_params, _function("wttm"), setting=_set(1.0, 4.0, 5.0),
        any_temperature=True, paper="Zheng & Yang (2024), arXiv 2402.11148"),
    "topk": Method(
        _WEIGHTED + "T**2 * KL of the top {k:g} and the rest" + _AT_T,
        no_params, _function("topk"), numbers={"k": 5.0},
        within={"k": (1.0, 1e6)}, whole=("k",)),
    "topk_renormalised": Method(
        _WEIGHTED + "T**2 * KL of the top {k:g}, renormalised" + _AT_T,
        no_params, _function("topk_renormalised"), numbers={"k": 5.0},
        within={"k": (1.0, 1e6)}, whole=("k",)),
    "tfkd": Method(
        _WEIGHTED + "KL(u at T || student at 1), u_y = {correct:g}" + _AT_T,
        no_params, _function("tfkd"), needs_teacher=False,
        numbers={"correct": 0.99}, within={"correct": (1e-6, 1.0)},
        setting=_set(0.9, 0.1, 20.0), paper="Yuan et al. (2020), arXiv 1909.11723"),
    "dist": Method(
        _WEIGHTED + "T**2 * ({beta:g} * rows + {gamma:g} * columns), each "
        "1 - correlation" + _AT_T, no_params, _function("dist"),
        numbers={"beta": 2.0, "gamma": 2.0}, relations=True,
        setting=_set(1.0, 1.0, 4.0), paper="Huang et al. (2022), arXiv 2205.10536"),
    "mlkd": Method(
        _WEIGHTED + "(S**2 * KL + {batch:g} * |PP' - QQ'|**2 / B + {classes:g} * "
        "|P'P - Q'Q|**2 / N), summed over S = {temperature:g} * (0.5, 0.75, 1, "
        "1.25, 1.5)", no_params, _function("mlkd"),
        numbers={"batch": 1.0, "classes": 1.0}, relations=True,
        setting=_set(0.1, 0.9, 4.0), any_temperature=True,
        paper="Jin et al. (2023), CVPR"),
    "ctkd": Method(
        _WEIGHTED + "T**2 * KL, T learned in {start:g} + (0, {span:g}), reversed "
        "over {ramp:.3g} of the run", _function("ctkd_params"), _function("ctkd"),
        numbers={"start": 1.0, "span": 20.0, "ramp": 10 / 240},
        within={"start": (1e-3, 1e6)}, any_temperature=True,
        setting={"hard_weight": 0.1, "soft_weight": 0.9},
        paper="Li et al. (2023), arXiv 2211.16231"),
}
