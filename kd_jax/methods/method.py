"""What a method is: a formula, terms, and what of its own they need."""

from collections.abc import Callable, Mapping
import functools
import importlib
import re
import types as python_types
from typing import TYPE_CHECKING, Any, NamedTuple

from kd_jax.methods.pairs import Pairs, Shapes

if TYPE_CHECKING:
  import jax

  from kd_jax.core import types
  from kd_jax.methods.terms import Changed, Terms

_NONE: Mapping[str, float] = python_types.MappingProxyType({})
_NO_RANGES: Mapping[str, tuple[float, float]] = python_types.MappingProxyType({})
# Names as formulas have them; a number of a method's own keeps its.
NAMES = {"hard_weight": "h", "soft_weight": "s", "temperature": "T"}
HARD = "{hard_weight:.3g} * CE + "
WEIGHTED = HARD + "{soft_weight:.3g} * "
AT_T = ", T = {temperature:g}"


def nothing(
    key: "jax.Array", student: Shapes, teacher: Shapes
) -> "tuple[types.Tree, types.Tree]":
  """Parameters and state of a method that has none."""
  del key, student, teacher
  return {}, {}


class Method(NamedTuple):
  """A method of distillation.

  Attributes:
    formula: The loss in words, with hard_weight, soft_weight, temperature and
      the names of `numbers` to be filled in; it stands in every table.
    init: `(key, student_shapes, teacher_shapes) -> (params, state)`: what it has of
      its own, sized by the taps of its pairs (of one example). Parameters train
      beside the student's, state is carried from step to step; neither is in
      the net that comes out, but for `inference`.
    terms: `(own, student, teacher, batch, hparams) -> Terms`; the loss of an
      example is the sum of weight times value. `own` is a `terms.Own` of
      parameters, state and more; a method that changes its state gives
      `terms.Changed(terms, state)`. `teacher` is None where the method needs
      none. `features` of both nets hold the taps of the pairs, in their order
      and under the same names. `hparams.numbers` holds the method's own, and
      `hparams.progress` the part of the run that is done.
    pairs: `(student_shapes, teacher_shapes) -> Pairs`, the taps that it compares
      unless the config names others; None for a method on logits.
    softens: Whether `hparams.temperature` makes a difference to its terms.
    needs_teacher: Whether the terms look at a teacher.
    reads_labels: Whether a term beside the hard one reads the labels.
    own_labels: Whether the term of the labels is the user's, and none of the
      library, so that smoothing and weights do not reach it.
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
    inference: `(own, Outputs) -> Outputs`: the outputs of the finished net, where a
      module of the method stays in it. Its parameters are then counted, saved and
      evaluated with the student's, and its state is saved. `features` hold the
      taps of the pairs.
    memory: Whether it remembers something of every example: its `init` is then
      also given `examples`, how many there are, and `own.labels` has their classes.
    classes: Whether its `init` is also given `classes`, how many there are.
    heads: Whether it looks at the layers that make both nets' logits, `own.heads`.
      Its teacher is then asked live.
    gradients: `(own, {term: gradient}, hparams) -> gradient`, where the method
      wants the gradients of its weighted terms apart; their sum otherwise.
    weights: Of hard_weight, soft_weight and `numbers` those that weigh its terms:
      if all are 0, there is nothing to learn. () if that cannot be, or is unknown.
    added: The formula without the labels, where it can stand beside another.
    two_views: Whether each example goes through the net twice in a step, in two
      views that are drawn apart: `batch` is then one of `Batch.twice`.
    probe: Whether the labels train the last layer alone, and all below it learns
      without them: a linear probe, whose errors say how good the features are.
    embed: `(own, Outputs, batch) -> Outputs`: what of its taps a net that trains
      beside others shows them, by what the method has of its own; None for the
      taps themselves.
    members: Of several methods together, each by its name; {} where nothing of its
      own stays in the finished net.
  """

  formula: str
  init: "Callable[..., tuple[types.Tree, types.Tree]]"
  terms: "Callable[..., Terms | Changed]"
  pairs: Callable[[Shapes, Shapes], Pairs] | None = None
  softens: bool = True
  needs_teacher: bool = True
  reads_labels: bool = False
  own_labels: bool = False
  numbers: Mapping[str, float] = _NONE
  within: Mapping[str, tuple[float, float]] = _NO_RANGES
  whole: tuple[str, ...] = ()
  relations: bool = False
  setting: Mapping[str, float] = _NONE
  any_temperature: bool = False
  paper: str = ""
  inference: Callable[..., Any] | None = None
  memory: bool = False
  classes: bool = False
  heads: bool = False
  gradients: Callable[..., Any] | None = None
  weights: tuple[str, ...] = ()
  added: str = ""
  two_views: bool = False
  probe: bool = False
  embed: Callable[..., Any] | None = None
  members: "Mapping[str, Method] | None" = None

  @property
  def on_logits(self) -> bool:
    """Whether logits are all that it looks at."""
    return self.pairs is None

  def named(self) -> str:
    """The formula with names in place of numbers.

    Example:
      >>> from kd_jax.methods import METHODS
      >>> METHODS["kd"].named()
      'h * CE + s * T**2 * KL'
    """
    return _named(self.formula, tuple(
        (name, number) for name, method in (self.members or {}).items()
        for number in method.numbers))


@functools.cache  # Every key that is made of a number tells its method's formula.
def _named(formula: str, numbers: tuple[tuple[str, str], ...]) -> str:
  shown = NAMES | {f"{name}_{number}": f"{name}.{number}"
                   for name, number in numbers}
  return re.sub(r"\{(\w+)[^}]*\}", lambda m: shown.get(m[1], m[1]),
                formula.removesuffix(AT_T))


def sizes(method: Method, examples: int, classes: int) -> dict[str, int]:
  """What `init` of a method is given beside shapes."""
  return ({"examples": examples} if method.memory else {}) | (
      {"classes": classes} if method.classes else {})


def function(module: str, name: str) -> Callable[..., Any]:
  """The function of a module here, which is imported when it is called.

  Keys are made from tables of methods, so a command line is read with them, before
  jax starts: a mistake is told at once, and a sweep can still choose its devices.
  """
  def called(*arguments: Any, **more: Any) -> Any:
    found = importlib.import_module(f"kd_jax.methods.{module}")
    return getattr(found, name)(*arguments, **more)

  return called


def setting(hard: float, soft: float, temperature: float) -> dict[str, float]:
  return {"hard_weight": hard, "soft_weight": soft, "temperature": temperature}


def weighted(formula: str, init, terms, **fields: Any) -> Method:
  """A method of a term that `soft_weight` weighs, and that of the labels."""
  return Method(WEIGHTED + formula, init, terms,
                weights=("hard_weight", "soft_weight"), **fields)


def beside(added: str, init, terms, **fields: Any) -> Method:
  """A method whose terms have weights of their own, beside that of the labels."""
  return Method(
      HARD + added, init, terms, softens=False, added=added,
      weights=("hard_weight", "weight"),
      setting={"hard_weight": 1.0, "soft_weight": 0.0}, **fields)
