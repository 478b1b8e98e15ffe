"""Every key a run can have: its default, what is allowed, and what it means.

There is no second place where a key gets a default or a check. Those of a method's
own numbers, `METHOD.NAME`, are made from `methods.METHODS`; those of the nets of a
recipe, `nets.NAME.KEY`, are the student's.
"""

import ast
from collections.abc import Callable, Container, Sequence
import functools
import re
from typing import Any, NamedTuple

from kd_jax import methods
from kd_jax.core import limits

# What a key has influence on. `identity.py` says what follows from it.
DATA = "data"  # which examples there are; their content is hashed
INPUT = "input"  # where files lie that are read; their content is hashed
NETS = "nets"  # every net
STUDENT = "student"  # the student, however it is trained
OBJECTIVE = "objective"  # the student, where it has a teacher
TEACHER = "teacher"  # each member of the teacher
MIXTURE = "mixture"  # how the members are combined
PROGRAM = "program"  # what is compiled, but nothing that comes out
RUN = "run"  # how a run is carried out and shown, but nothing that comes out
# When a checkpoint is due.
EVERY = re.compile(r"auto|([0-9]+(?:\.[0-9]+)?) (steps|epochs|minutes)")


class Rule(NamedTuple):
  """What a value may be: in words, and as a test."""

  allowed: str
  check: Callable[[Any], bool]

  def allows(self, value: Any) -> bool:
    """Whether a value, of any type, may be given."""
    try:
      return self.check(value)
    except TypeError:
      return False


class Key(NamedTuple):
  """One key.

  Attributes:
    default: Its value where nobody gives one.
    rule: What it may be.
    meaning: In words, for `--help`.
    kind: Its type, needed only where the default is None.
    affects: What it has influence on, one of the words above.
    traced: Whether a program takes it as a number, so that lanes of one program
      may differ in it.
    later: Whether rows had been recorded before the key came. It is then part of
      an identity only where it is not at its default.
  """

  default: Any
  rule: Rule
  meaning: str
  kind: type | None = None
  affects: str = ""
  traced: bool = False
  later: bool = False

  @property
  def type(self) -> type:
    return self.kind or type(self.default)

  def converted(self, value: Any) -> Any:
    """A value as a config holds it: 1 as 1.0, 30 as (30,), where it is to be so."""
    value = plain(value)
    if self.type is float and _integer(value) and _finite(value):
      return float(value)
    if self.type is bool and value in (0, 1):
      return bool(value)
    if self.type is tuple and value is not None and not isinstance(value, tuple):
      return (value,)
    return value


def plain(value: Any) -> Any:
  """Lists as tuples, as configs have them; NumPy's numbers as Python's."""
  if isinstance(value, (list, tuple)):
    return tuple(plain(each) for each in value)
  return value.item() if hasattr(value, "item") else value


def literal(text: str) -> Any:
  """What a word on a command line is: `2.5`, `(30,30)`, `true`, `none` or text."""
  try:
    return plain(ast.literal_eval(text))
  except (ValueError, SyntaxError, RecursionError, MemoryError):  # Of any text.
    names = {"true": True, "false": False, "none": None, "null": None}
    return names.get(text.lower(), text)


def _integer(value: Any) -> bool:
  return isinstance(value, int) and not isinstance(value, bool)


def _finite(value: Any) -> bool:
  """Whether it is a number that float32 holds, as programs take all in it."""
  number = _integer(value) or isinstance(value, float)
  return number and (value == 0 or 1.2e-38 < abs(value) < 3.4e38)


def _one_of(*names: str) -> Rule:
  return Rule(f"one of {', '.join(names)}", lambda value: value in names)


def _all(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
  return lambda values: all(check(value) for value in values)


def _held(allowed: str, check: Callable[[Any], bool]) -> Rule:
  return Rule(f"{allowed} that float32 holds", lambda v: _finite(v) and check(v))


_WHOLE = Rule("an integer >= 1", lambda v: _integer(v) and v >= 1)
_COUNT = Rule("an integer >= 0", lambda v: _integer(v) and v >= 0)
_SHARE = _held("a number in [0, 1]", lambda v: 0 <= v <= 1)
_PART = _held("a number in [0, 1)", lambda v: 0 <= v < 1)
_POSITIVE = _held("a number > 0", lambda v: v > 0)
_NOT_NEGATIVE = _held("a number >= 0", lambda v: v >= 0)
_FRACTION = _held("a number in (0, 1]", lambda v: 0 < v <= 1)
# Adam moves a weight by about its rate: below this one, float32 keeps all weights
# above 2e-5 as they are.
_RATE = _held("a number >= 1e-12 (smaller ones move no weight)",
              lambda v: v >= 1e-12)
_PERCENT = _held("a number in [0, 100]", lambda v: 0 <= v <= 100)
_TEMPERATURE = Rule(
    "a number > 0, from {:g} to {:g} (float32 holds the soft term of no other; "
    "method=logits is the limit of a large one)".format(*limits.TEMPERATURES),
    lambda v: _finite(v) and (
        limits.TEMPERATURES[0] <= v <= limits.TEMPERATURES[1]))
_TEXT = Rule("text", lambda v: isinstance(v, str) and bool(v))
_BOOL = Rule("true or false", lambda v: isinstance(v, bool))
_WIDTHS = Rule(
    "integers from 1 to 1000000, such as (800,800), 200 of them at most",
    lambda values: len(values) <= 200 and all(
        _integer(v) and 1 <= v <= 10**6 for v in values))
_SEED = Rule("an integer in [0, 2**32)", lambda v: _integer(v) and 0 <= v < 2**32)


def _optional(kind: type, rule: Rule, meaning: str) -> Key:
  """A key that may be None, and is unless someone sets it."""
  either = Rule(f"{rule.allowed}, or None",
                lambda value: value is None or rule.check(value))
  return Key(None, either, meaning, kind)


def _of(
    affects: str, keys: dict[str, Key], *, traced: Container[str] = (),
    later: Container[str] = (),
) -> dict[str, Key]:
  """The keys with what they have influence on; of `traced` and `later`, which."""
  return {name: key._replace(affects=affects, traced=name in traced,
                             later=name in later)
          for name, key in keys.items()}


def _net(widths: tuple[int, ...], views: str) -> dict[str, Key]:
  """Keys of a net, alike for `student` and `teacher`."""
  return {
      "name": Key("mlp", _TEXT, "a net of docs/nets.md, or your own file.py:NAME"),
      "widths": Key(widths, _WIDTHS, "widths of the layers; () for the net's own"),
      "model.depth": _optional(
          int, _WHOLE, "number of layers, for a family such as resnet, wrn or vgg"),
      "model.width": _optional(float, _POSITIVE, "factor on all widths"),
      "model.rank": _optional(
          int, _WHOLE, "rank of the weights of hidden layers (mlp): each is a "
          "product of two matrices"),
      "input_dropout": Key(0.0, _PART, "rate at which pixels are dropped"),
      "hidden_dropout": Key(0.0, _PART, "rate at which units are dropped"),
      "max_norm": _optional(
          float, _POSITIVE, "largest norm of a unit's incoming weights"),
      "init_scale": Key(1.0, _POSITIVE, "factor on the initial weights"),
      "views": Key(views, _TEXT, "augmentation: none, shift2, crop4_flip, "
                   "crop4_flip_cutout, crop4_flip_strong, affine, elastic or "
                   "distort"),
  }


def _training(epochs: int) -> dict[str, Key]:
  """Keys of a training, alike for the student and, under `teacher`, for it."""
  return {
      "seed": Key(
          0, _SEED, "random seed of initialisation, order of examples, views and "
          "dropout"),
      "batch_size": Key(128, _WHOLE, "examples per step"),
      "accumulate": Key(
          1, _WHOLE, "number of parts of a batch (gradient accumulation); "
          "BatchNorm and the modules of a method see one part at a time"),
      "epochs": Key(epochs, _WHOLE, "length of the training in epochs"),
      "steps": _optional(int, _WHOLE, "length in steps, instead of epochs"),
      "min_steps": Key(0, _COUNT, "minimum length in steps, for small data"),
      "patience": _optional(
          int, _WHOLE, "early stopping after so many epochs without fewer held-out "
          "errors; the result is the net of the first epoch with the fewest"),
      "label_smoothing": Key(0.0, _SHARE, "label smoothing, of the hard term only"),
      "class_weights": Key(
          (), Rule("numbers >= 0, one a class, or balanced",
                   lambda values: tuple(values) == ("balanced",) or _all(
                       _NOT_NEGATIVE.check)(values)),
          "weights of the classes in the hard term; balanced: N / (classes * "
          "examples of the class); () for equal weights"),
      "mixup": Key(
          0.0, _NOT_NEGATIVE, "a of Beta(a, a), from which the shares of two mixed "
          "inputs are drawn, the same for both nets; 0 for no mixup"),
      "optimizer.name": Key(
          "adam", _one_of("sgd", "adam", "adamw", "rmsprop"), "optimiser"),
      "optimizer.learning_rate": Key(
          1e-3, _RATE, "peak learning rate of the schedule"),
      "optimizer.momentum": Key(0.9, _PART, "momentum of SGD; b1 of Adam"),
      "optimizer.momentum_end": _optional(
          float, _PART, "final momentum, after a linear change (sgd); None for no "
          "change"),
      "optimizer.momentum_epochs": _optional(
          float, _POSITIVE, "length of this change in epochs; None for the whole "
          "run"),
      "optimizer.nesterov": Key(False, _BOOL, "Nesterov momentum (sgd)"),
      "optimizer.weight_decay": Key(
          0.0, _NOT_NEGATIVE, "coefficient of L2 regularisation; decoupled for "
          "adamw"),
      "optimizer.clip_norm": _optional(
          float, _POSITIVE, "largest norm of the gradient of all parameters "
          "together; a larger gradient is scaled down to it"),
      "optimizer.ema": _optional(
          float, _PART, "decay of an exponential moving average of the weights, "
          "which is then the net; None for no average"),
      "optimizer.b2": Key(0.999, _PART, "decay of the second moment"),
      "optimizer.epsilon": Key(
          1e-8, _POSITIVE, "added to the root of the second moment"),
      "optimizer.schedule": Key(
          "cosine", _one_of("constant", "cosine", "linear", "step", "exponential"),
          "learning-rate schedule"),
      "optimizer.warmup_steps": _optional(
          int, _COUNT, "length of the linear warm-up in steps"),
      "optimizer.warmup_epochs": _optional(
          float, _NOT_NEGATIVE, "length of the warm-up in epochs"),
      "optimizer.warmup_percent": _optional(
          float, _PERCENT, "length of the warm-up in percent of the run"),
      "optimizer.boundaries_percent": Key(
          (), Rule("percents of the run, such as (50.0,75.0)",
                   _all(_PERCENT.check)), "where schedule=step multiplies the "
                   "learning rate by factor"),
      "optimizer.factor": Key(
          0.1, _POSITIVE, "what schedule=step multiplies the learning rate by at "
          "each boundary, and schedule=exponential after each epoch"),
  }


def _under(prefix: str, keys: dict[str, Key]) -> dict[str, Key]:
  return {f"{prefix}.{name}": key for name, key in keys.items()}


def _course(what: str, rule: Rule) -> dict[str, Key]:
  """Keys of how a value moves over the run."""
  return {
      f"schedules.{what}": Key(
          "constant", _one_of("constant", "linear", "cosine", "jump"),
          f"how {what} changes; jump: at once, at the end of its percent"),
      f"schedules.{what}_end": _optional(
          float, rule, f"final {what}, where it is not constant"),
      f"schedules.{what}_percent": Key(
          100.0, Rule("a number in (0, 100]",
                      lambda v: _PERCENT.check(v) and v > 0),
          "percent of the run during which it changes"),
  }


_OBJECTIVE: dict[str, Key] = {
    "method": Key(
        "kd", _TEXT, "a method of docs/methods.md, some of them joined by +, or "
        "your own file.py:NAME"),
    "temperature": Key(4.0, _TEMPERATURE, "temperature T of the soft targets"),
    "alpha": _optional(
        float, _SHARE,
        "hard_weight = 1 - alpha, soft_weight = alpha: share of the SOFT term"),
    "hard_weight": _optional(
        float, _NOT_NEGATIVE, "weight of the hard term, instead of alpha"),
    "soft_weight": _optional(
        float, _NOT_NEGATIVE, "weight of the soft term, instead of alpha"),
}
_FEATURES: dict[str, Key] = {
    "features.pairs": Key(
        (), Rule(
            "pairs of taps such as (('stage2','stage2'),), or ('all',)",
            lambda pairs: tuple(pairs) == ("all",) or all(
                len(pair) == 2 and all(isinstance(tap, str) for tap in pair)
                for pair in pairs)),
        "pairs of taps (student's, teacher's) that a method on features compares; "
        "with several teachers NAME.tap; () for the method's own, ('all',) for "
        "every stage that both nets have"),
}
_SCHEDULES: dict[str, Key] = {
    **_course("temperature", _TEMPERATURE),
    **_course("alpha", _SHARE),
    "schedules.warmup_percent": Key(
        0.0, _PERCENT, "percent of the run over which soft_weight rises from 0"),
}
_TRANSFER: dict[str, Key] = {
    "transfer.classes": Key(
        (), Rule("classes, such as (7,8)", _all(_COUNT.check)),
        "classes of the examples that students see; () for all"),
    "transfer.part": Key(
        1.0, _FRACTION, "part of the training set that students see"),
    "transfer.labelled": _optional(
        int, _WHOLE, "number of these examples whose label a student knows, "
        "equally many per class; from the others it learns by its teacher alone. A "
        "net that learns from labels alone sees only the labelled ones"),
    "transfer.seed": Key(
        0, _SEED, "random seed of the choice of part and of labelled"),
}
# Examples that are drawn: another split, and pseudo examples beside it.
_DRAWN: dict[str, Key] = {
    "data.split": _optional(
        int, _SEED, "random seed of a new split of all examples into training and "
        "test set"),
    "data.split_size": Key(
        5000, _WHOLE, "training examples of that split; the rest is the test set"),
    "data.pseudo": Key(
        "none", _one_of("none", "munge", "random", "nbe"),
        "examples without labels that are made from the training set, a table; "
        "only students of a teacher see them"),
    "data.pseudo_size": Key(100_000, _WHOLE, "number of pseudo examples"),
    "data.pseudo_seed": Key(0, _SEED, "random seed of the pseudo examples"),
    "data.munge_p": Key(0.5, _SHARE, "probability that MUNGE changes an attribute"),
    "data.munge_s": Key(
        10.0, _POSITIVE, "distance of two numbers divided by the standard "
        "deviation of MUNGE's draw"),
}
# How a user's own files are read.
_FILES: dict[str, Key] = {
    "data.test_fraction": _optional(
        float, _held("a number in (0, 1)", lambda v: 0 < v < 1),
        "part of each class that becomes the test set, for images in one folder "
        "or a table in one file; chosen by a hash, the same in every run"),
    "data.channels": _optional(
        int, Rule("1 or 3", lambda v: _integer(v) and v in (1, 3)),
        "channels of images in folders: 1 converts all to grey, 3 to RGB"),
    "data.label": _optional(
        str, _TEXT, "column of a table (.csv, .tsv, .parquet) with the labels"),
    "data.weights": _optional(
        str, _TEXT, "column of a table with the weights of the training examples; "
        "arrays have w_train"),
    "data.without": Key(
        (), Rule("names of columns, such as ('id','name')", _all(
            lambda v: isinstance(v, str))), "columns of a table to leave out"),
    "data.first_class": Key(
        0, Rule("an integer from -1000000 to 1000000",
                lambda v: _integer(v) and abs(v) <= 10**6),
        "smallest label in your own arrays"),
}
_OPTIMIZER = ("label_smoothing", "optimizer.learning_rate", "optimizer.momentum",
              "optimizer.momentum_end", "optimizer.weight_decay",
              "optimizer.clip_norm", "optimizer.ema")
_LATER_IN_TRAINING = (
    "accumulate", "class_weights", "mixup", "optimizer.clip_norm", "optimizer.ema",
    "optimizer.momentum_end", "optimizer.momentum_epochs", "patience")
_NET = ("input_dropout", "hidden_dropout", "max_norm", "init_scale")
_LATER = ("init_scale", "model.depth", "model.rank", "model.width")

_OWN: dict[str, Key] = {
    **_of(OBJECTIVE, _OBJECTIVE, traced=(
        "temperature", "alpha", "hard_weight", "soft_weight")),
    **_of(OBJECTIVE, _FEATURES, later=_FEATURES),
    **_of(OBJECTIVE, _SCHEDULES, later=_SCHEDULES, traced=(
        "schedules.temperature_end", "schedules.alpha_end")),
    **_of(STUDENT, _training(20), traced=("seed", *_OPTIMIZER),
          later=_LATER_IN_TRAINING),
    **_of(DATA, {
        "data.name": Key(
            "mnist", _TEXT, "a data set of TFDS, or of your own files")}),
    **_of(INPUT, {
        "data.dir": _optional(
            str, _TEXT, "folder of the data; None for the environment variable "
            "KD_JAX_DATA")}),
    **_of(DATA, {
        "data.holdout": Key(
            0.0, _PART, "part of the training set that is held out"),
        "data.test": Key(
            "own", _one_of("own", "heldout"),
            "data for the final evaluation: the test set (own), or the held-out "
            "part, so that the test set stays unseen"),
        "data.embedded": Key(
            "auto", _one_of("auto", "never", "only"),
            "use of the 5,000 built-in digits of MNIST"),
        "data.num_classes": _optional(
            int, Rule("an integer from 2 to 100000",
                      lambda v: _integer(v) and 2 <= v <= 100_000),
            "number of classes, if the data lack some"),
        "data.resize": _optional(
            tuple, Rule("(height,width), or one number for both", lambda v: (
                len(v) in (1, 2) and all(map(_WHOLE.check, v)))),
            "size to scale all images to (folders of images, TFDS)"),
        "data.scale": Key(
            "unit", _one_of("unit", "standard"),
            "unit: uint8 pixels to [0, 1], floats unchanged; standard: both to "
            "mean 0 and standard deviation 1 over the training set"),
        **_DRAWN,
        **_FILES,
    }, later=("data.num_classes", "data.test", *_DRAWN, *_FILES)),
    **_of(STUDENT, _TRANSFER, later=_TRANSFER),
    **_under("student", _of(
        STUDENT, _net((800, 800), "none"), traced=_NET, later=_LATER)),
    **_under("student", _of(STUDENT, {
        "weight_bits": _optional(
            int, Rule("an integer from 2 to 8",
                      lambda v: _integer(v) and 2 <= v <= 8),
            "bits of the weights, in quantisation-aware training"),
    }, later=("weight_bits",))),
    **_under("teacher", _of(
        TEACHER, _net((1200, 1200), "shift2"), later=_LATER)),
    **_under("teacher", _of(TEACHER, _training(20), later=_LATER_IN_TRAINING)),
    **_under("teacher", _of(TEACHER, {
        "dtype": _optional(
            str, _one_of("float32", "bfloat16"),
            "dtype of the teacher's arithmetic; None for the run's dtype"),
    }, later=("dtype",))),
    **_of(MIXTURE, {
        "teacher.count": Key(
            1, Rule("an integer from 1 to 1000",
                    lambda v: _integer(v) and 1 <= v <= 1000),
            "number of teachers in the ensemble"),
        "teacher.mean": Key(
            "probabilities", _one_of("probabilities", "logits", "confidence",
                                     "certainty", "agreement"),
            "how the outputs of the members are combined: arithmetic mean of "
            "probabilities, geometric mean (logits), or a mean of probabilities "
            "with weights for each example: by how close a member is to the label "
            "(confidence), how sure it is (certainty), or how much the others "
            "agree with it (agreement)"),
        "teacher.weights": Key(
            (), Rule("numbers >= 0, one a member", _all(_NOT_NEGATIVE.check)),
            "weights of the members; () for equal weights"),
        "teacher.classes": Key(
            (), Rule("classes for each member, such as ((0,1,2),(2,3,4)), () for "
                     "all", _all(lambda each: isinstance(each, tuple) and all(
                         _integer(v) and v >= 0 for v in each))),
            "classes that each member knows; for a class, only members that know "
            "it count; () for all classes"),
        "teacher.bank_dtype": Key(
            "float32", _one_of("float32", "float16"),
            "dtype of the stored logits; the run reports what the rounding costs"),
    }, later=("teacher.bank_dtype", "teacher.classes")),
    **_of(OBJECTIVE, {
        "teacher.sees": Key(
            "views", _TEXT,
            "input of the teacher: views (the same as the student's), clean (the "
            "original images), independent (views of its own), or a family of "
            "views, such as shift2: its output is then the mean over all of them, "
            "as in teacher.mean"),
    }, later=("teacher.sees",)),
    **_of(PROGRAM, {
        "teacher.bank": Key(
            "auto", _one_of("auto", "always", "never"),
            "whether to store the logits; auto: if it costs less")}),
    **_of(PROGRAM, remat := {
        f"{net}.model.remat": Key(
            False, _BOOL, "recompute blocks of a convolutional net for its "
            "gradients, to save memory")
        for net in ("student", "teacher")}, later=remat),
    **_of(RUN, {
        "teacher.check": Key(
            "on", _one_of("on", "off"), "refuse logits that do not match the "
            "labels of the data")}),
    **_of(INPUT, {
        "teacher.dir": _optional(
            str, _TEXT, "folder where trained teachers are saved and found again; "
            "None for one in the workdir"),
        "teacher.state_dict": _optional(
            str, _TEXT, "file of weights of a released net, as PyTorch saves them; "
            "this net is the teacher and is not trained"),
        "teacher.logits": _optional(
            str, _TEXT, "file (.npy or .npz) of the teacher's logits [N, C] or [N, "
            "V, C] by id"),
        "teacher.test_logits": _optional(
            str, _TEXT, "file (.npy) of the teacher's logits [N, C] of the test "
            "set"),
    }, later=("teacher.state_dict",)),
    **_of(INPUT, {
        "init_from": _optional(
            str, _TEXT, "folder of a finished run: students start from its nets of "
            "the same names; or of one net, RUN/parameters/NAME. The optimiser and "
            "its schedule start again"),
    }, later=("init_from",)),
    **_of(NETS, {
        "dtype": Key(
            "float32", _one_of("float32", "bfloat16"),
            "dtype of the nets' arithmetic; parameters and losses stay float32"),
        "nonfinite": Key(
            "stop", _one_of("stop", "skip"),
            "at a NaN or infinite gradient: stop, or skip the step"),
    }, later=("dtype", "nonfinite")),
    **_of(RUN, {
        "recipe": Key(
            (), Rule("names of nets in the order in which they are trained, with a "
                     "+ between those that train together",
                     _all(_TEXT.check)),
            "the nets of a recipe, as given to kd_jax.config.default; () for the "
            "main job: teacher, baseline, distilled"),
        "parallel": Key(
            "auto", _one_of("auto", "single", "pmap", "shard_map", "sharded"),
            "how one training uses several devices"),
        "checkpoint.every": Key(
            "auto", Rule(
                "auto, or so many steps, epochs or minutes, such as '2 epochs'",
                lambda v: bool(EVERY.fullmatch(v)) and (
                    v == "auto" or float(v.split()[0]) > 0)),
            "how often an unfinished training is saved; auto: so that it costs 1% "
            "of the time, and at least 5 seconds apart"),
        "checkpoint.keep": Key(2, _WHOLE, "number of checkpoints to keep"),
        "checkpoint.resume": Key(
            "same", _one_of("same", "force", "keep"),
            "same: resume only with the same config; force: also resume from a "
            "checkpoint of another config; keep: move a run of another config to "
            "kept/FINGERPRINT and start again"),
        "tensorboard": Key(True, _BOOL, "write TensorBoard event files"),
        "tracker": _optional(
            str, _TEXT, "module:NAME or file.py:NAME of a function (config, "
            "workdir) -> log; log(kind, what) is called for every epoch, result "
            "and figure, and at the end (examples/trackers)"),
        "inspect": Key(
            0, Rule("0, or an integer from 4 to 5000",
                    lambda v: _integer(v) and (v == 0 or 4 <= v <= 5000)),
            "number of training examples on which a single run measures, after "
            "every epoch, the CKA of the taps of student and teacher and the "
            "share of each term in the gradient; it also makes attention maps; 0 "
            "for none"),
        "evaluate.corruptions": Key(
            False, _BOOL, "also evaluate each net that has a row on corrupted test "
            "images: 8 kinds in 3 strengths, which are 24 test sets in memory"),
        "sweep.points": Key(
            (), Rule("a sweep of kd_jax.sweep: dicts of dotted keys", _all(
                lambda point: isinstance(point, dict) and all(
                    isinstance(name, str) for name in point))),
            "points of the sweep; () for a single run"),
        "sweep.lanes": Key(
            "auto", Rule("auto, or seeds x points such as 4x8", lambda v: bool(
                re.fullmatch("auto|[1-9][0-9]*x[1-9][0-9]*", v))),
            "runs that one program trains at once"),
        "sweep.memory": Key(
            0.4, _FRACTION, "largest share of the device's memory for the lanes"),
        "sweep.logits": Key(
            False, _BOOL, "save the logits of every net for test and held-out "
            "data"),
        "sweep.reference": Key(
            (), Rule("pairs of key and value, such as (('alpha', 0.0),)", _all(
                lambda pair: len(pair) == 2 and pair[0] in every())),
            "the point that tables compare the others with"),
    }),
}


# The keys that are paths.
PATHS = tuple(name for name, key in _OWN.items() if key.affects == INPUT)
# What a net of a recipe has beside the keys of a student.
_RECIPE: dict[str, Key] = {
    "teachers": Key(
        (), Rule("names of nets before it", _all(_TEXT.check)),
        "nets, earlier in the recipe, that it learns from; () for labels alone"),
    "teacher_epochs": Key(
        (), Rule("epochs, one a teacher; 0 for its last", _all(_COUNT.check)),
        "epoch of each teacher from which it learns"),
    "init_from": _optional(
        str, _TEXT, "an earlier net that it starts from: of the same shape, or of "
        "full rank, of which it keeps the largest singular values"),
    "prune": Key(
        0.0, _PART, "share of the weights of each layer that is set to 0 at its "
        "start, and stays 0"),
    "prune_by": Key(
        "weights", _one_of("weights", "channels"), "what prune sets to 0: single "
        "weights, or outputs of a layer (channels)"),
}
# Keys of the main job's teacher that say how teachers are asked.
_COMBINED = ("teacher.mean", "teacher.weights", "teacher.classes", "teacher.bank",
             "teacher.bank_dtype", "teacher.sees")


@functools.cache
def of_nets() -> dict[str, str]:
  """The keys of a recipe's net, and the key of a run that each stands for."""
  keys = {name.removeprefix("student."): name for name, key in _OWN.items()
          if (key.affects in (STUDENT, OBJECTIVE) and name not in _COMBINED)
          or name.startswith("student.")}
  return keys | {name.replace(".", "_"): name for name in _COMBINED}


def peers(entry: str) -> list[str]:
  """The nets of an entry of a recipe: one, or several that train together.

  Example:
    >>> peers("student"), peers("first+second")
    (['student'], ['first', 'second'])
  """
  return entry.split("+")


def judged(recipe: Sequence[str]) -> str:
  """The net that a recipe is for: its last; of peers, the first of them.

  Example:
    >>> judged(("teacher", "student+peer")), judged(())
    ('student', 'student')
  """
  return peers(recipe[-1])[0] if recipe else "student"


def every(*entries: str) -> dict[str, Key]:
  """All keys by name, also those of the nets of a recipe's entries.

  A method put into `METHODS` has its own at once. A net's key that is None leaves
  the run's own.
  """
  nets = [net for entry in entries for net in peers(entry)]
  numbers = _numbers()
  run = _OWN | numbers
  if not nets:
    return run
  own = _RECIPE | {
      name: _optional(run[of].type, run[of].rule, run[of].meaning)
      for name, of in (of_nets() | {name: name for name in numbers}).items()}
  return run | {f"nets.{net}.{name}": key
                for net in nets for name, key in own.items()}


def find(name: str) -> Key | None:
  """The key of a name, also of a net of some recipe; None if there is none."""
  net = name.split(".")[1:2] if name.startswith("nets.") else ()
  return every(*net).get(name)


def owner(name: str) -> str | None:
  """The method whose number a key is, or None."""
  method, _, number = name.partition(".")
  known = methods.METHODS.get(method)
  return method if known and number in known.numbers else None


def _numbers() -> dict[str, Key]:
  """The keys of the methods' own numbers."""
  return {
      f"{name}.{number}": Key(
          float(value), _between(own.within.get(number), number in own.whole),
          f"of method {name}: {own.named()}", affects=OBJECTIVE, traced=True,
          later=True)
      for name, own in methods.METHODS.items()
      for number, value in own.numbers.items()}


def _between(ends: tuple[float, float] | None, whole: bool) -> Rule:
  if ends is None:
    return _NOT_NEGATIVE
  low, high = ends
  return Rule(
      f"a {'whole ' if whole else ''}number from {low:g} to {high:g}",
      lambda v: _finite(v) and low <= v <= high and (not whole or v == int(v)))
