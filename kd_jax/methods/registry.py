"""Methods: which named terms a student's loss is the weighted sum of.

A new method is an equation, a function in `terms.py` (or of one's own) that binds
it to the numbers of a run, and an entry in `METHODS` here. Its own numbers are
keys of the config at once, `config.METHOD.NAME`. Nothing in the step, the loop or
the trainer knows a method by name.
"""

from collections.abc import Callable, Mapping
import functools
import importlib
import re
import types as python_types
from typing import TYPE_CHECKING, Any, NamedTuple

from kd_jax.core import limits, sources
from kd_jax.core.errors import UserError
from kd_jax.methods.pairs import (
  Pairs,
  Shapes,
  before_relu,
  levels,
  pooled,
  pooled_maps,
  stages,
)

if TYPE_CHECKING:
  import jax

  from kd_jax.core import types
  from kd_jax.methods.terms import Changed, Terms

_NONE: Mapping[str, float] = python_types.MappingProxyType({})
_NO_RANGES: Mapping[str, tuple[float, float]] = python_types.MappingProxyType({})

# Stands for every stage that both nets have.
ALL: Pairs = (("all", "all"),)


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
    added: The formula without the labels, where it can stand beside another.
    members: Of several methods together, each by its name.
  """

  formula: str
  init: "Callable[..., tuple[types.Tree, types.Tree]]"
  terms: "Callable[..., Terms | Changed]"
  pairs: Callable[[Shapes, Shapes], Pairs] | None = None
  softens: bool = True
  needs_teacher: bool = True
  reads_labels: bool = False
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
  added: str = ""
  members: "Mapping[str, Method] | None" = None

  @property
  def on_logits(self) -> bool:
    """Whether logits are all that it looks at."""
    return self.pairs is None

  def named(self) -> str:
    """The formula with names in place of numbers.

    Example:
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
                formula.removesuffix(_AT_T))


# Names as formulas have them; a number of a method's own keeps its.
NAMES = {"hard_weight": "h", "soft_weight": "s", "temperature": "T"}
_HARD = "{hard_weight:.3g} * CE + "
_WEIGHTED = _HARD + "{soft_weight:.3g} * "
_AT_T = ", T = {temperature:g}"
_HINTON = "Hinton, Vinyals & Dean (2015), arXiv 1503.02531"


def _function(name: str, module: str = "terms") -> Callable[..., Any]:
  """The function of a module here, which is imported when it is called.

  Keys are made from this file, so a command line is read with it, before jax
  starts: a mistake is told at once, and a sweep can still choose its devices.
  """
  def function(*arguments: Any, **more: Any) -> Any:
    found = importlib.import_module(f"kd_jax.methods.{module}")
    return getattr(found, name)(*arguments, **more)

  return function


_feature = functools.partial(_function, module="feature_terms")


def _set(hard: float, soft: float, temperature: float) -> dict[str, float]:
  return {"hard_weight": hard, "soft_weight": soft, "temperature": temperature}


def middle(student: Shapes, teacher: Shapes) -> Pairs:
  """The middle stage of both nets, as in FitNets."""
  own, other = stages(student), stages(teacher)
  if not own or not other:
    raise ValueError("it compares a stage of both nets, and one has none")
  return ((own[len(own) // 2], other[len(other) // 2]),)


def every_stage(student: Shapes, teacher: Shapes) -> Pairs:
  """Every stage that both nets have."""
  return tuple((tap, tap) for tap in stages(student) if tap in stages(teacher))


def last_stage(student: Shapes, teacher: Shapes) -> Pairs:
  """The last stage of both nets."""
  own, other = stages(student), stages(teacher)
  if not own or not other:
    raise ValueError("it compares a stage of both nets, and one has none")
  return ((own[-1], other[-1]),)


def every_map(student: Shapes, teacher: Shapes) -> Pairs:
  """Every stage that both nets have and whose tap has a height and a width."""
  maps = tuple((left, right) for left, right in every_stage(student, teacher)
               if len(student[left]) == len(teacher[right]) == 3)
  if not maps:
    raise ValueError("it compares maps of stages, and the nets have none of the "
                     "same name")
  return maps


def every_flow(student: Shapes, teacher: Shapes) -> Pairs:
  """The stem and every map, from the input to the output."""
  stem = (("stem", "stem"),) if "stem" in student and "stem" in teacher else ()
  return stem + every_map(student, teacher)


def last_map(student: Shapes, teacher: Shapes) -> Pairs:
  """The last stage whose tap has a height and a width, of both nets."""
  maps = lambda taps: {name: x for name, x in taps.items() if len(x) == 3}
  return last_stage(maps(student), maps(teacher))


def every_preact(student: Shapes, teacher: Shapes) -> Pairs:
  """Every stage that both nets have, before its ReLU where a net has that tap."""
  before = lambda tap, taps: f"{tap}.preact" if f"{tap}.preact" in taps else tap
  return tuple((before(left, student), before(right, teacher))
               for left, right in every_stage(student, teacher))


def _beside(added: str, init, terms, **fields: Any) -> Method:
  """A method whose terms have weights of their own, beside that of the labels."""
  return Method(
      _HARD + added, init, terms, softens=False, added=added,
      setting={"hard_weight": 1.0, "soft_weight": 0.0}, **fields)


def _contrast(others: str) -> Method:
  """CRD; `others` says in words what an example is told from."""
  name = "crd_drawn" if "drawn" in others else "crd"
  return _beside(
      "{weight:.3g} * NCE at {tau:g} against " + others, _function("crd_init"),
      _function(name), pairs=pooled, relations=True, reads_labels=True,
      memory=True, numbers={"weight": 0.8, "tau": 0.07, "negatives": 16384.0},
      within={"tau": (1e-2, 1e6), "negatives": (1.0, 1e9)},
      whole=("negatives",), paper="Tian et al. (2020), arXiv 1910.10699")


_TRANSPORT = (
    "{target:g} * p_y CE + {weight:.3g} * W of the other classes, cost 1 - "
    "exp(-{sharpness:g} (1 - cos)), r = {regularisation:g}, to 0 from {decay:.3g} "
    "of the run on")

METHODS: dict[str, Method] = {
    "hard": Method(
        "CE", nothing, _function("hard"), needs_teacher=False, softens=False),
    "kd": Method(
        _WEIGHTED + "T**2 * KL" + _AT_T, nothing, _function("kd"), paper=_HINTON),
    "logits": Method(
        _WEIGHTED + "|z - v|**2 / 2N", nothing, _function("logits"),
        any_temperature=True, softens=False,
        paper=f"{_HINTON}, eq. 4; Ba & Caruana (2014), arXiv 1312.6184"),
    "mse": Method(
        _WEIGHTED + "|z - v|**2 / N, not centred", nothing, _function("mse"),
        setting={"hard_weight": 0.0, "soft_weight": 1.0}, any_temperature=True,
        softens=False, paper="Kim et al. (2021), arXiv 2105.08919"),
    "reverse_kl": Method(
        _WEIGHTED + "T**2 * KL(student || teacher)" + _AT_T,
        nothing, _function("reverse_kl"),
        paper="Gu et al. (2024), MiniLLM, arXiv 2306.08543"),
    "jsd": Method(
        _WEIGHTED + "T**2 * JSD({beta:g})" + _AT_T, nothing, _function("jsd"),
        numbers={"beta": 0.5}, within={"beta": (0.0, 1.0)},
        paper="Agarwal et al. (2024), GKD, arXiv 2306.13649"),
    "ls": Method(
        _WEIGHTED + "T**2 * KL of Z-scores" + _AT_T, nothing, _function("ls"),
        setting=_set(0.1, 9.0, 2.0), any_temperature=True,
        paper="Sun et al. (2024), arXiv 2403.01427"),
    "normkd": Method(
        _WEIGHTED + "(T d)**2 * KL at T d, d the logits' deviation" + _AT_T,
        nothing, _function("normkd"), setting=_set(0.1, 0.9, 2.0),
        any_temperature=True, paper="Chi et al. (2023), arXiv 2308.00520"),
    "dkd": Method(
        _WEIGHTED + "T**2 * ({alpha:g} * TCKD + {beta:g} * NCKD)" + _AT_T,
        nothing, _function("dkd"), numbers={"alpha": 1.0, "beta": 8.0},
        reads_labels=True, setting=_set(1.0, 1.0, 4.0),
        paper="Zhao et al. (2022), arXiv 2203.08679"),
    "nkd": Method(
        _WEIGHTED + "(p_y * CE + {gamma:g} * T**2 * CE of the others)" + _AT_T,
        nothing, _function("nkd"), numbers={"gamma": 1.5}, any_temperature=True,
        reads_labels=True,
        setting=_set(1.0, 1.0, 1.0), paper="Yang et al. (2023), arXiv 2303.13005"),
    "rld": Method(
        _WEIGHTED + "({alpha:g} * S**2 * SCD + {beta:g} * T**2 * MCD), "
        "S = {confidence_temperature:g}" + _AT_T, nothing, _function("rld"),
        numbers={"alpha": 1.0, "beta": 8.0, "confidence_temperature": 1.0},
        within={"confidence_temperature": limits.TEMPERATURES},
        any_temperature=True, reads_labels=True,
        setting=_set(1.0, 1.0, 4.0), paper="Sun et al. (2024), arXiv 2408.07703"),
    "wttm": Method(
        _WEIGHTED + "U * KL(teacher at T || student at 1)" + _AT_T,
        nothing, _function("wttm"), setting=_set(1.0, 4.0, 5.0),
        any_temperature=True, paper="Zheng & Yang (2024), arXiv 2402.11148"),
    "topk": Method(
        _WEIGHTED + "T**2 * KL of the top {k:g} and the rest" + _AT_T,
        nothing, _function("topk"), numbers={"k": 5.0},
        within={"k": (1.0, 1e6)}, whole=("k",)),
    "topk_renormalised": Method(
        _WEIGHTED + "T**2 * KL of the top {k:g}, renormalised" + _AT_T,
        nothing, _function("topk_renormalised"), numbers={"k": 5.0},
        within={"k": (1.0, 1e6)}, whole=("k",)),
    "tfkd": Method(
        _WEIGHTED + "KL(u at T || student at 1), u_y = {correct:g}" + _AT_T,
        nothing, _function("tfkd"), needs_teacher=False,
        numbers={"correct": 0.99}, within={"correct": (1e-6, 1.0)},
        setting=_set(0.9, 0.1, 20.0), paper="Yuan et al. (2020), arXiv 1909.11723"),
    "dist": Method(
        _WEIGHTED + "T**2 * ({beta:g} * rows + {gamma:g} * columns), each "
        "1 - correlation" + _AT_T, nothing, _function("dist"),
        numbers={"beta": 2.0, "gamma": 2.0}, relations=True,
        setting=_set(1.0, 1.0, 4.0), paper="Huang et al. (2022), arXiv 2205.10536"),
    "mlkd": Method(
        _WEIGHTED + "(S**2 * KL + {batch:g} * |PP' - QQ'|**2 / B + {classes:g} * "
        "|P'P - Q'Q|**2 / N), summed over S = {temperature:g} * (0.5, 0.75, 1, "
        "1.25, 1.5)", nothing, _function("mlkd"),
        numbers={"batch": 1.0, "classes": 1.0}, relations=True,
        setting=_set(0.1, 0.9, 4.0), any_temperature=True,
        paper="Jin et al. (2023), CVPR"),
    "ctkd": Method(
        _WEIGHTED + "T**2 * KL, T learned in {start:g} + (0, {span:g}), reversed "
        "over {ramp:.3g} of the run", _function("ctkd_init"), _function("ctkd"),
        numbers={"start": 1.0, "span": 20.0, "ramp": 10 / 240},
        within={"start": limits.TEMPERATURES}, any_temperature=True, softens=False,
        setting={"hard_weight": 0.1, "soft_weight": 0.9},
        paper="Li et al. (2023), arXiv 2211.16231"),
    "hint": _beside(
        "{weight:.3g} * |r(f) - g|**2 / size", _function("hint_init"),
        _function("hint"), pairs=middle, numbers={"weight": 100.0},
        paper="Romero et al. (2015), FitNets, arXiv 1412.6550"),
    "rkd": _beside(
        "{weight:.3g} * ({distance:g} * D + {angle:g} * A)", nothing,
        _function("rkd"), pairs=pooled, relations=True,
        numbers={"weight": 1.0, "distance": 25.0, "angle": 50.0},
        paper="Park et al. (2019), arXiv 1904.05068"),
    "pefd": _beside(
        "{weight:.3g} * (1 - cos(mean relu(A f), g))",
        _function("pefd_init", "vector_terms"), _function("pefd", "vector_terms"),
        pairs=pooled, numbers={"weight": 25.0},
        paper="Chen et al. (2022), arXiv 2210.15274"),
    "srd": _beside(
        "{weight:.3g} * log |A f - g|**4, both standardised",
        _function("projector_init", "vector_terms"),
        _function("srd", "vector_terms"), pairs=pooled, relations=True,
        numbers={"weight": 2.0},
        paper="Miles & Mikolajczyk (2024), arXiv 2303.11098"),
    "itrd": _beside(
        "{weight:.3g} * ({correlation:g} * log2 |c - 1|**(2 * {alpha:g}) + "
        "{information:g} * (|G|**2 - |GH|**2))",
        _function("projector_init", "vector_terms"),
        _function("itrd", "vector_terms"), pairs=pooled, relations=True,
        numbers={"weight": 1.0, "correlation": 2.0, "information": 1.0,
                 "alpha": 1.01}, within={"alpha": (0.51, 10.0)},
        paper="Miles et al. (2022), arXiv 2112.00459"),
    "nd": _beside(
        "{weight:.3g} * (1 - <f, c> / max(|f|, |g|)), c the class's mean of norm 1",
        _function("nd_init", "vector_terms"), _function("nd", "vector_terms"),
        pairs=pooled, numbers={"weight": 2.0}, classes=True, reads_labels=True,
        paper="Wang et al. (2023), KD++, arXiv 2305.17007"),
    "wkd_l": _beside(
        _TRANSPORT + _AT_T,
        # Its tap says that it needs a net, and one alone.
        nothing, _function("wkd_l", "vector_terms"), pairs=pooled, heads=True,
        numbers={"weight": 600.0, "target": 1.0, "sharpness": 1.0,
                 "regularisation": 0.05, "decay": 150 / 240},
        within={"regularisation": (1e-3, 1e3), "decay": (0.0, 1.0)},
        reads_labels=True, any_temperature=True)._replace(
            softens=True, setting=_set(1.0, 0.0, 8.0),
            added=_TRANSPORT,
            paper="Lv et al. (2024), arXiv 2412.08139"),
    "wkd_f": _beside(
        "{weight:.3g} * ({mean:g} * |means|**2 + |deviations|**2), {grid:g} x "
        "{grid:g} cells, to 0 from {decay:.3g} of the run on",
        _function("wkd_f_init", "map_terms"),
        _function("wkd_f", "map_terms"), pairs=last_map,
        numbers={"weight": 0.08, "mean": 4.0, "grid": 1.0, "decay": 150 / 240},
        within={"grid": (1.0, 8.0), "decay": (0.0, 1.0)}, whole=("grid",),
        paper="Lv et al. (2024), arXiv 2412.08139"),
    "reviewkd": _beside(
        "{weight:.3g} * HCL of fused stages, over {warmup:.3g} of the run from 0",
        _function("reviewkd_init", "map_terms"), _function("reviewkd", "map_terms"),
        pairs=levels, numbers={"weight": 5.0, "warmup": 20 / 240},
        within={"warmup": (0.0, 1.0)},
        paper="Chen et al. (2021), arXiv 2104.09044"),
    "ofd": _beside(
        "{weight:.3g} * |r(f) - max(g, m)|**2 where it counts, stages halved",
        _function("ofd_init", "map_terms"), _function("ofd", "map_terms"),
        pairs=before_relu, numbers={"weight": 1e-3},
        paper="Heo et al. (2019), arXiv 1904.01866"),
    "cat": _beside(
        "{weight:.3g} * |A - B|**2 / size, maps of classes of {resolution:g} x "
        "{resolution:g}, of norm 1 if {normalised:g}", nothing,
        _function("cat", "map_terms"), pairs=pooled_maps, heads=True,
        numbers={"weight": 15.0, "resolution": 2.0, "normalised": 0.0},
        within={"resolution": (1.0, 8.0), "normalised": (0.0, 1.0)},
        whole=("resolution", "normalised"),
        paper="Guo et al. (2023), arXiv 2304.12777"),
    "simkd": _beside(
        "{weight:.3g} * |r(f) - g|**2 / size; then the teacher's last layer",
        _function("simkd_init", "map_terms"), _function("simkd", "map_terms"),
        pairs=pooled_maps, heads=True, classes=True, numbers={"weight": 1.0},
        inference=_function("simkd_inference", "map_terms"),
        paper="Chen et al. (2022), arXiv 2203.14001")._replace(
            added="", setting={"hard_weight": 0.0, "soft_weight": 0.0}),
    "at": _beside(
        "{weight:.3g} * |q(f) - q(g)|**2 / size", _feature("maps_init"),
        _feature("at"), pairs=every_map, numbers={"weight": 1000.0},
        paper="Zagoruyko & Komodakis (2017), arXiv 1612.03928"),
    "sp": _beside(
        "{weight:.3g} * |G - H|**2 / B**2", nothing, _feature("sp"),
        pairs=last_stage, relations=True, numbers={"weight": 3000.0},
        paper="Tung & Mori (2019), arXiv 1907.09682"),
    "pkt": _beside(
        "{weight:.3g} * KL(P || Q) / B**2", nothing, _feature("pkt"), pairs=pooled,
        relations=True, numbers={"weight": 30000.0},
        paper="Passalis & Tefas (2018), arXiv 1803.10837"),
    "vid": _beside(
        "{weight:.3g} * -log N(g; m(f), v) / size", _feature("vid_init"),
        _feature("vid"), pairs=every_stage, numbers={"weight": 1.0},
        paper="Ahn et al. (2019), arXiv 1904.05835"),
    "cc": _beside(
        "{weight:.3g} * <|d_b|, |d_(b+1)|> / (B - 1)", _feature("cc_init"),
        _feature("cc"), pairs=pooled, relations=True, numbers={"weight": 0.02},
        paper="Peng et al. (2019), arXiv 1904.01802, as RepDistiller has it"),
    "cc_kernel": _beside(
        "{weight:.3g} * |K - H|**2 / B**2, K = exp(-{gamma:g} |u - u'|**2)",
        nothing, _feature("cc_kernel"), pairs=pooled, relations=True,
        numbers={"weight": 1.0, "gamma": 0.4},
        paper="Peng et al. (2019), arXiv 1904.01802"),
    "nst": _beside(
        "{weight:.3g} * |M - W|**2", _feature("maps_init"), _feature("nst"),
        pairs=every_map, numbers={"weight": 50.0},
        paper="Huang & Wang (2017), arXiv 1707.01219"),
    "fsp": _beside(
        "{weight:.3g} * |G - H|**2 / size", _feature("fsp_init"), _feature("fsp"),
        pairs=every_flow, numbers={"weight": 50.0},
        paper="Yim et al. (2017), CVPR"),
    "ab": _beside(
        "{weight:.3g} * sum_i 2**(i - n) * boundary", _feature("ab_init"),
        _feature("ab"), pairs=every_preact, numbers={"weight": 0.003},
        paper="Heo et al. (2019), arXiv 1811.03233"),
    "ft": _beside(
        "{weight:.3g} * |q(F) - q(G)| / size + {paraphrase:.3g} * |P(g) - g|**2 / "
        "size", _feature("ft_init"), _feature("ft"), pairs=last_map,
        numbers={"weight": 500.0, "paraphrase": 1.0},
        paper="Kim et al. (2018), arXiv 1802.04977"),
    "ft_attention": _beside(
        "{weight:.3g} * |a(F) - a(G)| / size + {paraphrase:.3g} * |P(g) - g|**2 / "
        "size", _feature("ft_attention_init"), _feature("ft_attention"),
        pairs=last_map, numbers={"weight": 200.0, "paraphrase": 1.0},
        paper="Kim et al. (2018), arXiv 1802.04977, as RepDistiller has it"),
    "crd": _contrast("all examples of other classes, as {negatives:g} of them"),
    "crd_drawn": _contrast("{negatives:g} drawn examples of other classes"),
}


def parts(name: str) -> list[str]:
  """The methods that a name is made of, a user's own without its file.

  Example:
    >>> parts("kd+rkd"), parts("my/file.py:MINE")
    (['kd', 'rkd'], ['MINE'])
  """
  return [part.rpartition(":")[2] for part in name.split("+")]


def add_own(*names: str) -> None:
  """Adds the user's own methods that are parts of names."""
  for part in "+".join(names).split("+"):
    if sources.named(part):
      add(part)


def add(name: str) -> None:
  """Adds a user's own method to `METHODS`, so that its numbers are keys.

  Args:
    name: `module:NAME` or `file.py:NAME` of a `Method`; it is called NAME.

  Raises:
    UserError: If there is no such method, or another is called NAME.
  """
  own, (called,) = sources.load("config.method", name), parts(name)
  place = name.rpartition(":")[0]
  if not isinstance(own, Method):
    raise UserError(f"config.method={name}: is a {type(own).__name__}, and must be "
                    "a kd_jax.methods.Method")
  if called in METHODS and _ADDED.get(called) != place:
    raise UserError(f"config.method={name}: there is another method {called}; give "
                    "yours another name")
  _ADDED[called] = place
  METHODS[called] = own  # Its file may have been edited.


# Where the user's own methods lie, by name.
_ADDED: dict[str, str] = {}


def find(name: str) -> Method:
  """The method of a name, or of several joined by +.

  Of several, the first brings the labels, `soft_weight` and the temperature. Each
  further one adds its terms, at its own weight.

  Raises:
    KeyError: With the part that is no method, or that cannot stand beside another.

  Example:
    >>> find("kd+rkd").named()
    'h * CE + s * T**2 * KL + rkd.weight * (rkd.distance * D + rkd.angle * A)'
  """
  first, *others = parts(name)
  for part in (first, *others):
    if part not in METHODS:
      raise KeyError(part)
  for part in others:
    if not METHODS[part].added or parts(name).count(part) > 1:
      raise KeyError(part)
  for part in (first, *others) if others else ():
    if METHODS[part].inference or METHODS[part].gradients:
      raise KeyError(part)  # Both say what becomes of the whole loss or net.
  if not others:
    return METHODS[first]
  return _together({part: METHODS[part] for part in (first, *others)})


def bind(
    method: Method, student: Shapes, teacher: Shapes, given: Pairs
) -> tuple[Method, Pairs]:
  """The method for two nets, and the taps that it compares.

  Args:
    method: Of `find`.
    student: Shapes of the student's taps, of one example, by name.
    teacher: The same of the teacher.
    given: The pairs that the config names, `ALL` for every stage that both have,
      none for the method's own choice.

  Raises:
    ValueError: If a net has no such tap.
  """
  own: dict[str, Pairs] = {}
  for name, part in (method.members or {"": method}).items():
    chosen = every_stage if given == ALL else part.pairs
    own[name] = () if part.pairs is None or chosen is None else (
        chosen(student, teacher) if given in ((), ALL) else given)
    if part.pairs is not None and not own[name]:
      raise ValueError("the nets have no stage of the same name")
  pairs = tuple(dict.fromkeys(pair for some in own.values() for pair in some))
  for pair in pairs:
    for taps, tap, net in ((student, pair[0], "student"),
                           (teacher, pair[1], "teacher")):
      if tap not in taps:
        raise ValueError(
            f"the {net} has no tap {tap!r}; it has {', '.join(taps) or 'none'}")
  if method.members:
    method = _together(method.members, own)
  return method, pairs


def _together(
    members: Mapping[str, Method], pairs: Mapping[str, Pairs] | None = None
) -> Method:
  """One method of several; `pairs` says which taps each of them compares."""
  first = next(iter(members.values()))
  at_t = _AT_T if first.formula.endswith(_AT_T) else ""
  named = {name: _prefixed(method.added, name, method.numbers)
           for name, method in list(members.items())[1:]}
  head = _prefixed(first.formula, next(iter(members)), first.numbers)
  many = lambda field: {
      f"{name}_{number}": value for name, method in members.items()
      for number, value in getattr(method, field).items()}
  return Method(
      formula=" + ".join([head.removesuffix(_AT_T), *named.values()]) + at_t,
      init=functools.partial(_init_together, members, pairs or {}),
      terms=functools.partial(_terms_together, members, pairs or {}),
      pairs=next((m.pairs for m in members.values() if m.pairs), None),
      softens=first.softens,
      needs_teacher=any(m.needs_teacher for m in members.values()),
      reads_labels=any(m.reads_labels for m in members.values()),
      numbers=many("numbers"), within=many("within"),
      whole=tuple(f"{name}_{number}" for name, m in members.items()
                  for number in m.whole),
      relations=any(m.relations for m in members.values()),
      memory=any(m.memory for m in members.values()),
      classes=any(m.classes for m in members.values()),
      heads=any(m.heads for m in members.values()),
      setting=first.setting,
      any_temperature=any(m.any_temperature for m in members.values()),
      paper="; ".join(m.paper for m in members.values() if m.paper),
      members=members)


def _prefixed(formula: str, name: str, numbers: Mapping[str, float]) -> str:
  """A formula whose own numbers are called after their method too."""
  for number in numbers:
    formula = formula.replace("{" + number, "{" + f"{name}_{number}")
  return formula


def sizes(method: Method, examples: int, classes: int) -> dict[str, int]:
  """What `init` of a method is given beside shapes."""
  return ({"examples": examples} if method.memory else {}) | (
      {"classes": classes} if method.classes else {})


def _init_together(
    members, pairs, key, student: Shapes, teacher: Shapes, examples: int = 0,
    classes: int = 0):
  import jax  # pylint: disable=g-import-not-at-top
  only = lambda taps, name: {
      tap: taps[tap] for tap in map("-".join, pairs.get(name, ()))}
  made = {name: method.init(jax.random.fold_in(key, place), only(student, name),
                            only(teacher, name),
                            **sizes(method, examples, classes))
          for place, (name, method) in enumerate(members.items())}
  return ({name: params for name, (params, _) in made.items()},
          {name: state for name, (_, state) in made.items()})


def _terms_together(members, pairs, own, student, teacher, batch, hparams):
  """The terms of all, but with one term of the labels."""
  from kd_jax.methods import terms  # pylint: disable=g-import-not-at-top
  found: dict[str, Any] = {}
  states = {}
  for name, method in members.items():
    names = list(map("-".join, pairs.get(name, ())))
    only = lambda outputs, names=names: outputs and outputs._replace(
        features={tap: outputs.features[tap] for tap in names})
    part = own._replace(params=own.params[name], state=own.state[name])
    numbers = {number: hparams.numbers[f"{name}_{number}"]
               for number in method.numbers}
    result = terms.and_state(method.terms(
        part, only(student), only(teacher), batch,
        hparams.replace(numbers=numbers)), part)
    states[name] = result.state
    found |= {term: value for term, value in result.terms.items()
              if not (found and term == "hard")}
  return terms.Changed(found, states)
