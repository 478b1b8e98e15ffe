"""The conformance tool: ours passes, and every planted defect is found."""

import dataclasses
import json
import os
import subprocess
import sys
import types

from conftest import ROOT
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import losses
from kd_jax.conformance import (
  __main__,
  adapters,
  feature_loss,
  oracle,
  properties,
  targets,
)
from kd_jax.core.errors import UserError
from kd_jax.losses import standardised

ROWS = list(properties.PROPERTIES)
_MAPS = ("hint", "at", "ft", "nst", "fsp", "ab", "reviewkd")
_RELATIONS = ("sp", "pkt", "rkd_distance", "rkd_angle", "cc", "cc_kernel", "pefd",
              "srd", "itrd_correlation", "itrd_information")


def log_softmax(x, *, careful=True):
  if careful:
    x = x - x.max(axis=-1, keepdims=True)
  return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def softmax(x):
  return np.exp(log_softmax(x))


def products(p, x):
  """sum_i p_i x_i, in which a class of probability 0 adds nothing."""
  return np.where(p > 0, p * np.where(p > 0, x, 0), 0).sum(axis=-1)


@dataclasses.dataclass(frozen=True)
class Plain:
  """Distillation in NumPy; a defect overrides a method."""

  def distance(self, z, v):
    """KL(p || q) of logits that are divided by T already."""
    log_p, log_q = self.log_softmax(v), self.log_softmax(z)
    p = np.exp(log_p)
    return products(p, np.where(p > 0, log_p, 0) - np.where(p > 0, log_q, 0))

  def log_softmax(self, x):
    return log_softmax(x)

  def scale(self, t, alpha):
    return t**2

  def weights(self, alpha):
    return 1 - alpha, alpha

  def hard(self, z, y, t):
    return -self.log_softmax(z)[np.arange(len(y)), y]

  def reduce(self, values):
    return values.mean()

  def __call__(self, student_logits, teacher_logits, labels, temperature, alpha):
    hard_weight, soft_weight = self.weights(alpha)
    soft = self.distance(
        student_logits / temperature, teacher_logits / temperature)
    return self.reduce(
        hard_weight * self.hard(student_logits, labels, temperature)
        + soft_weight * self.scale(temperature, alpha) * soft)


class NoSquare(Plain):
  def scale(self, t, alpha):
    return 1.0


class SquareWhereItIsHigh(Plain):
  def scale(self, t, alpha):
    return t**2 if t >= 50 else 1.0


class OnlyT(Plain):
  def scale(self, t, alpha):
    return t


class ClassMean(Plain):
  def distance(self, z, v):
    return super().distance(z, v) / z.shape[-1]


class Reversed(Plain):
  def distance(self, z, v):
    return super().distance(v, z)


class NoSoftmaxOnStudent(Plain):
  def distance(self, z, v):
    log_p = log_softmax(v)
    return products(np.exp(log_p), log_p - z)


class NoSoftmaxOnTeacher(Plain):
  def distance(self, z, v):
    return -products(np.exp(v), log_softmax(z))


class ClippedLogits(Plain):
  """As Keras does when the loss is given by its name."""

  def distance(self, z, v):
    z, v = np.clip(z, 1e-7, 1), np.clip(v, 1e-7, 1)
    return (v * np.log(v / z)).sum(axis=-1)


class Twice(Plain):
  def distance(self, z, v):
    return super().distance(softmax(z), softmax(v))


class TwiceOnStudent(Plain):
  def distance(self, z, v):
    return super().distance(softmax(z), v)


class SquareDroppedAtZero(Plain):
  """As torchdistill does, whose alpha weighs the hard term."""

  def scale(self, t, alpha):
    return 1.0 if alpha == 0 else t**2

  def weights(self, alpha):
    return alpha, 1 - alpha


class BatchSum(Plain):
  def reduce(self, values):
    return values.sum()


class PerExample(Plain):
  def reduce(self, values):
    return values


class PerExampleOverBatch(Plain):
  def reduce(self, values):
    return values / len(values)


class Swapped(Plain):
  def weights(self, alpha):
    return alpha, 1 - alpha


class FreeSum(Plain):
  def weights(self, alpha):
    return 1.0, alpha


class FreeHard(Plain):
  def weights(self, alpha):
    return alpha, 1.0


class Squared(Plain):
  def weights(self, alpha):
    return 1 - alpha**2, alpha**2


class Scale(Plain):
  def weights(self, alpha):
    return 0.0, alpha


class Fixed(Plain):
  def weights(self, alpha):
    return 0.1, 0.9


class Ignored(Plain):
  def weights(self, alpha):
    return 0.0, 1.0


class NanWhenMasked(Plain):
  def distance(self, z, v):
    log_p, log_q = log_softmax(v), log_softmax(z)
    return (np.exp(log_p) * (log_p - log_q)).sum(axis=-1)


class MaskedAsZero(Plain):
  """A class at -inf is given back: its logit is 0."""

  def log_softmax(self, x):
    return log_softmax(np.where(np.isinf(x), 0.0, x))


class TemperatureIgnored(Plain):
  def __call__(self, z, v, y, t, alpha):
    return super().__call__(z, v, y, 1.0, alpha)


class TemperatureFixed(Plain):
  """T = 4 whatever is asked for."""

  def __call__(self, z, v, y, t, alpha):
    return super().__call__(z, v, y, 4.0, alpha)


class Overflow(Plain):
  """exp(z) without taking the largest away: infinite in float16 from z = 11."""

  def log_softmax(self, x):
    return log_softmax(x, careful=False)


class CrossEntropy(Plain):
  def distance(self, z, v):
    return -products(softmax(v), log_softmax(z))


class SoftenedHard(Plain):
  def hard(self, z, y, t):
    return super().hard(z / t, y, t)


class ForgottenTemperature(Plain):
  """The student's logits are not divided by T (4 in the test of equality)."""

  def __call__(self, z, v, y, t, alpha):
    return self.reduce((1 - alpha) * self.hard(z, y, t)
                       + alpha * t**2 * self.distance(z, v / t))


class RawSquares(Plain):
  def distance(self, z, v):
    return np.square(z - v).sum(axis=-1) / 2


class WholeBatch(Plain):
  """Standardises by the batch: no mean of its halves."""

  def distance(self, z, v):
    return super().distance(z / z.std(), v / v.std())


class Twofold(Plain):
  def scale(self, t, alpha):
    return 2 * t**2


# The rows that must fail, and no others. Some defects are several: what has no
# softmax has no T**2 and no limit either. Teacher gradients are not judged here.
PLANTED = {
    Plain: "",
    PerExample: "",
    CrossEntropy: "",
    NoSquare: "temperature",
    SquareWhereItIsHigh: "temperature",
    OnlyT: "temperature",
    ClassMean: "classes",
    BatchSum: "batch",
    PerExampleOverBatch: "batch",
    Reversed: "direction",
    # -p / T instead of (q - p) / T: of order T, and -p at equality.
    NoSoftmaxOnStudent: "temperature softmax shift equality limit",
    # Targets exp(v) sum to 7 at high T, and to infinity in half precision.
    NoSoftmaxOnTeacher: "softmax shift equality limit half",
    ClippedLogits: "temperature softmax shift equality limit half",
    # The second softmax of N numbers in [0, 1] is nearly even: x 1 / N**2.
    Twice: "classes softmax limit",
    TwiceOnStudent: "classes softmax equality limit",
    # Of squares T is a factor, and T**2 takes it out: nothing depends on T.
    RawSquares: "temperature softmax shift limit masked",
    ForgottenTemperature: "temperature equality limit",
    Twofold: "limit",
    Swapped: "alpha",
    FreeSum: "alpha",
    FreeHard: "alpha",
    Squared: "alpha",
    Fixed: "alpha",
    Scale: "alpha",
    Ignored: "alpha",
    SoftenedHard: "hard",
    SquareDroppedAtZero: "alpha continuity",
    NanWhenMasked: "masked",
    MaskedAsZero: "masked",
    TemperatureIgnored: "temperature limit",
    TemperatureFixed: "temperature limit",
    Overflow: "half",
    # What divides by a number of the batch undoes T, too.
    WholeBatch: "classes temperature shift limit masked split",
}


_NO_SOFT_TERM = (
    "classes batch temperature direction softmax equality limit hard split")
# What cannot be judged then.
HIDDEN = {
    NoSoftmaxOnStudent: "direction",
    NoSoftmaxOnTeacher: "direction",
    ClippedLogits: "direction",
    Twice: "direction",
    TwiceOnStudent: "direction",
    RawSquares: "direction",
    Squared: _NO_SOFT_TERM,
    Fixed: _NO_SOFT_TERM,
    Scale: "hard",
    Ignored: "hard",
    # Asked at T = 1, they answer of another.
    TemperatureFixed: "direction softmax",
    WholeBatch: "direction softmax",
}


def judge(loss, alpha="soft", names=ROWS):
  return {row.name: row for row in properties.judge(loss, alpha, names)}


def hidden(rows):
  """What was not judged because of something that fails."""
  return {name for name, row in rows.items()
          if row.finding.holds is None and not row.finding.absent}


def failing(rows):
  return {name for name, row in rows.items() if row.finding.holds is False}


@pytest.fixture(scope="module")
def judged():
  """All rows of every planted defect."""
  return {defect: judge(adapters.numpy(defect())) for defect in PLANTED}


@pytest.mark.parametrize("defect", PLANTED, ids=lambda defect: defect.__name__)
def test_a_planted_defect_fails_its_rows_and_no_others(judged, defect):
  assert failing(judged[defect]) == set(PLANTED[defect].split())
  assert hidden(judged[defect]) == set(HIDDEN.get(defect, "").split())


@pytest.mark.parametrize(("defect", "row", "said"), [
    (NoSquare, "temperature", "T**-2 from T = 100 to 400: as without T**2"),
    (SquareWhereItIsHigh, "temperature", "x 0.25 at T = 2; x 0.0625 at T = 4"),
    (TemperatureIgnored, "temperature", "logits are not divided by T"),
    (TemperatureFixed, "softmax", "cannot be told: see temperature"),
    (MaskedAsZero, "masked", "24% off that of classes of probability 0"),
    (OnlyT, "temperature", "T**-1 from T = 100 to 400: as with T instead of T**2"),
    (ClassMean, "classes", "x 0.5 with twice the classes"),
    (ClassMean, "limit", "size 0.143 (x 1 but for classes)"),
    (BatchSum, "batch", "x 1 when the batch is repeated: a sum"),
    (PerExample, "batch", "one value an example"),
    (Reversed, "direction", "KL(student || teacher), reversed"),
    (Reversed, "softmax", "KL(student || teacher), reversed"),
    (Twice, "softmax", "softmax applied twice"),
    (TwiceOnStudent, "softmax", "softmax applied twice to the student"),
    (NoSoftmaxOnStudent, "softmax", "no softmax on the student"),
    (NoSoftmaxOnTeacher, "softmax", "no softmax on the teacher, exp(v)"),
    (ClippedLogits, "softmax", "not applied to the student"),
    (RawSquares, "softmax", "the squared distance of logits"),
    (CrossEntropy, "equality", "the teacher's entropy"),
    (Plain, "equality", "0, as of KL"),
    (Twofold, "limit", "size 2"),
    (Swapped, "alpha", "weight of the hard term, as in Keras"),
    (FreeSum, "alpha", "beside a fixed hard term"),
    (Ignored, "alpha", "--alpha=none"),
    (FreeHard, "alpha", "beside a fixed soft term"),
    (Scale, "alpha", "beside no hard one"),
    (Fixed, "alpha", "a fixed mixture"),
    (Fixed, "limit", "the hard term cannot be taken away"),
    (Squared, "alpha", "no end is without the other; 6.6% off linear"),
    # 1 / 16 at T = 4.
    (SquareDroppedAtZero, "continuity", "at 0 (gradient x 0.0625)"),
    (NanWhenMasked, "masked", "loss nan"),
    (Plain, "teacher", "NumPy has no gradients"),
])
def test_a_row_says_what_was_found(judged, defect, row, said):
  assert said in judged[defect][row].finding.found


def test_an_alpha_of_the_hard_term_is_right_where_one_says_so(judged):
  rows = judge(adapters.numpy(Swapped()), "hard")
  assert not failing(rows)
  assert "--alpha=hard" in rows["alpha"].rule.expected
  assert failing(judge(adapters.numpy(Plain()), "hard", ["alpha"])) == {"alpha"}


def test_a_soft_term_alone_needs_no_alpha():
  rows = judge(adapters.numpy(Ignored()), "none")
  assert not failing(rows) and rows["hard"].finding.holds is None
  # What cannot be judged is no pass: a row that fails says why.
  assert {row.finding.holds for row in rows.values()} == {True, None}
  # And with labels in it, it is none.
  assert "alpha" in failing(judge(adapters.numpy(Plain()), "none", ["alpha"]))


@pytest.mark.parametrize("known", oracle.GRADIENTS, ids=lambda k: k.name)
def test_known_gradients_are_those_of_what_they_are_called(known):
  log_q, soft = jax.nn.log_softmax, jax.nn.softmax
  kl = lambda a, b: jnp.sum(jnp.exp(a) * (a - b))  # Of log-probabilities.
  mixed = lambda z, v: jnp.log((soft(z) + soft(v)) / 2)
  meant = {
      "KL(teacher || student)": lambda z, v: kl(log_q(v), log_q(z)),
      "KL(student || teacher), reversed": lambda z, v: kl(log_q(z), log_q(v)),
      "the Jensen-Shannon divergence": lambda z, v: (
          kl(log_q(z), mixed(z, v)) + kl(log_q(v), mixed(z, v))) / 2,
      "the squared distance of probabilities":
          lambda z, v: jnp.sum((soft(z) - soft(v))**2) / 2,
      "KL with its sign turned": lambda z, v: -kl(log_q(v), log_q(z)),
      "softmax applied twice":
          lambda z, v: kl(log_q(soft(v)), log_q(soft(z))),
      "softmax applied twice to the student":
          lambda z, v: kl(log_q(v), log_q(soft(z))),
      "softmax applied twice to the teacher":
          lambda z, v: kl(log_q(soft(v)), log_q(z)),
      "no softmax on the student": lambda z, v: kl(log_q(v), z),
      "no softmax on either, exp(v) weighing v - z": lambda z, v: kl(v, z),
      "no softmax on the teacher": lambda z, v: -jnp.sum(v * log_q(z)),
      "no softmax on the teacher, exp(v) weighing log q":
          lambda z, v: -jnp.sum(jnp.exp(v) * log_q(z)),
      "the squared distance of logits": lambda z, v: jnp.sum((z - v)**2) / 2,
      "the squared distance of centred logits": lambda z, v: jnp.sum(
          (z - v - jnp.mean(z - v))**2) / 2,
  }[known.name]
  z, v, _ = oracle.problem()
  with jax.enable_x64(True):
    gradient = np.asarray(
        jax.vmap(jax.grad(meant))(jnp.asarray(z), jnp.asarray(v)))
  np.testing.assert_allclose(
      known.gradient(z, v), gradient, rtol=1e-9, atol=1e-12)
  assert oracle.recognise(3 * gradient, z, v, 1e-3) is known


def run(*arguments):
  before = dict(os.environ)
  code = __main__.main(arguments)
  assert dict(os.environ) == before, "of use to other programs than this"
  return code


def test_ours_keeps_the_contract(capsys):
  assert run("kd_jax.conformance.ours:kd", "--json") == 0
  told = json.loads(capsys.readouterr().out)
  assert told["holds"] and told["framework"] == "jax"
  assert told["versions"]["jax"] == jax.__version__
  assert [row["property"] for row in told["rows"]] == ROWS
  assert {row["verdict"] for row in told["rows"]} == {"holds"}


def test_ours_keeps_it_as_a_cross_entropy_and_in_the_library_itself(capsys):
  rows = "--only=equality,alpha"
  assert run("kd_jax.conformance.ours:cross_entropy", rows) == 0
  assert "the teacher's entropy" in " ".join(capsys.readouterr().out.split())
  # T and alpha by name only.
  assert run("kd_jax.losses:distillation_loss", rows) == 0


def flowing(z, v, y, t, alpha):
  """Ours, of a teacher that is not stopped: H(p) - H(p, q) passes p on."""
  hard = losses.hard_cross_entropy(z, y)
  log_p, log_q = jax.nn.log_softmax(v / t), jax.nn.log_softmax(z / t)
  soft = jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)
  return jnp.mean((1 - alpha) * hard + alpha * t**2 * soft)


def test_a_gradient_into_the_teacher_is_found_in_jax():
  rows = judge(adapters.jax(flowing), names=["teacher", "shift", "alpha"])
  assert failing(rows) == {"teacher"}


def test_a_failure_comes_with_its_remedy_which_mends_it(tmp_path, capsys):
  file = tmp_path / "target.py"
  text = (
      "import jax, jax.numpy as jnp\n"
      "def loss(student_logits, teacher_logits, temperature):\n"
      "  p = jax.nn.softmax(teacher_logits / temperature)\n"
      "  log_q = jax.nn.log_softmax(student_logits / temperature)\n"
      "  return temperature**2 * ({}).sum(-1)\n")
  file.write_text(text.format("p * (jnp.log(p) - log_q)"))
  rows = "--only=teacher,masked,batch"
  assert run(str(file), rows, "--json") == 1
  rows_of = json.loads(capsys.readouterr().out)["rows"]
  told = {row["property"]: row for row in rows_of}
  assert [told[name]["verdict"] for name in told] == ["fails", "fails", "holds"]
  assert "remedy" not in told["batch"]
  assert "jax.lax.stop_gradient(teacher_" in told["teacher"]["remedy"]
  assert run(str(file), rows) == 1
  shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
  for name in ("teacher", "masked"):
    assert f"remedy {told[name]['remedy']}" in shown
  file.write_text(text.format(told["masked"]["remedy"].partition(": ")[2]).replace(
      "(teacher_logits", "(jax.lax.stop_gradient(teacher_logits)"))
  assert run(str(file), rows) == 0
  assert "remedy" not in capsys.readouterr().out


SOME = """
from kd_jax import losses
def soft(temperature, teacher_logits, student_logits):
  return temperature**2 * losses.distillation_kl(
      student_logits, teacher_logits, temperature)
def swapped(student_logits, teacher_logits, temperature):
  return losses.distillation_kl(teacher_logits, student_logits, temperature)
def fixed(student_logits, teacher_logits, labels):
  return losses.distillation_loss(
      student_logits, teacher_logits, labels, temperature=2.0, alpha=0.5)
"""


@pytest.mark.parametrize(("name", "code", "alpha", "said"), [
    ("soft", 0, "none", "labels neither"), ("fixed", 1, "soft", "a fixed mixture"),
    ("swapped", 2, None, "student and teacher in the wrong order?")])
def test_a_loss_may_take_some_of_the_arguments_as_in_a_run(
    tmp_path, capsys, name, code, alpha, said):
  file = tmp_path / "some.py"
  file.write_text(SOME)
  assert run(f"{file}:{name}", "--json", "--only=alpha,temperature") == code
  text = capsys.readouterr().out
  assert said in text and json.loads(text).get("alpha") == alpha


def test_a_loss_may_compute_in_float32():
  """Where e^-200 is 0, and its logarithm times 0 no number."""
  def loss(z, v, y, t, alpha):
    z, v = z.astype(jnp.float32), jax.lax.stop_gradient(v).astype(jnp.float32)
    p, q = jax.nn.softmax(v / t), jax.nn.softmax(z / t)
    soft = jnp.sum(p * (jnp.log(p) - jnp.log(q)), axis=-1)
    return jnp.mean((1 - alpha) * losses.hard_cross_entropy(z, y)
                    + alpha * t**2 * soft)
  assert failing(judge(adapters.jax(loss))) == {"masked"}


def test_a_mean_over_the_classes_that_exist_is_no_failure_of_masks():
  def loss(z, v, y, t, alpha):
    soft = standardised.standardised_kl(z, v, t)
    return jnp.mean((1 - alpha) * losses.hard_cross_entropy(z, y)
                    + alpha * t**2 * soft)
  rows = judge(adapters.jax(loss), names=["masked"])
  assert rows["masked"].finding.holds


def test_a_loss_that_refuses_unusual_logits_fails_there():
  def loss(z, v, y, t, alpha):
    if z.dtype == np.float16:
      raise ValueError("float32 only\nplease")
    return Plain()(z, v, y, t, alpha)
  rows = judge(adapters.numpy(loss), names=["half", "split"])
  assert rows["half"].finding == (
      False, "raises ValueError: float32 only please", {}, False)
  assert rows["split"].finding.holds


def test_a_framework_that_is_not_there_is_told(monkeypatch, capsys):
  for name in ("torch", "keras"):
    monkeypatch.setitem(sys.modules, name, None)  # As if it was not installed.
    assert run("kd_jax.conformance.ours:kd", f"--framework={name}") == 2
    error = capsys.readouterr().err
    assert name in error and len(error.splitlines()) == 1


def test_keras_is_asked_through_its_backend(monkeypatch):
  for backend, said in (("jax", "keras on jax"), ("tensorflow", "KERAS_BACKEND")):
    fake = types.SimpleNamespace(
        backend=types.SimpleNamespace(backend=lambda name=backend: name))
    monkeypatch.setitem(sys.modules, "keras", fake)
    if backend == "jax":
      adapted = adapters.keras(flowing)
      assert adapted.framework == said
      assert failing(judge(adapted, names=["teacher", "batch"])) == {"teacher"}
    else:
      with pytest.raises(UserError, match=said):
        adapters.keras(flowing)


def test_a_gradient_that_is_nan_in_half_precision_is_no_pass():
  def ask(function, case):
    soft = case.student - case.teacher
    bad = case.dtype == "float16"
    return adapters.Answer(
        np.array(1.0), np.full_like(soft, np.nan) if bad else soft, 0 * soft)
  row = judge(adapters.Adapted(flowing, "own", ask), names=["half"])["half"]
  assert row.finding.holds is False
  assert "nan off (float16, T = 1), 0% off (bfloat16" in row.finding.found


@pytest.mark.parametrize(("value", "wrong", "holds"), [
    (1.0, 0.0, True), (np.inf, 0.0, False), (1.0, np.nan, False),
    (1.0, 0.1, False)])
def test_masked_classes_need_a_finite_loss_and_get_no_gradient(
    value, wrong, holds):
  def ask(function, case):
    masked = case.student < -50
    return adapters.Answer(
        np.array(value if np.isinf(case.student).any() else 1.0),
        np.where(masked, wrong, case.alpha + case.labels[:, None]), None)
  row = judge(adapters.Adapted(flowing, "own", ask), names=["masked"])["masked"]
  assert row.finding.holds is holds


TORCH = """
import torch
from torch.nn import functional as F

def loss(student_logits, teacher_logits, labels, temperature, alpha):
  {before}
  soft = F.kl_div(
      F.log_softmax(student_logits.float() / temperature, dim=-1),
      F.log_softmax(teacher_logits.float() / temperature, dim=-1),
      log_target=True, reduction="none").sum(-1)
  {after}
  hard = F.cross_entropy(student_logits.float(), labels)
  return (1 - alpha) * hard + alpha * temperature**2 * soft
"""


@pytest.mark.parametrize(("before", "after", "rows"), [
    ("teacher_logits = teacher_logits.detach()", "soft = soft.mean()", "masked"),
    ("", "soft = soft.mean()", "teacher masked"),
    ("teacher_logits = teacher_logits.detach()",
     "soft = soft.mean() / student_logits.shape[-1]", "classes masked"),
    ("teacher_logits = teacher_logits.detach()",
     "soft = soft.mean() / temperature**2", "temperature masked"),
])
def test_a_loss_of_pytorch_is_judged_by_autograd(
    tmp_path, capsys, before, after, rows):
  pytest.importorskip("torch")
  file = tmp_path / "kd.py"
  file.write_text(TORCH.format(before=before, after=after))
  assert run(str(file), "--json") == 1
  told = json.loads(capsys.readouterr().out)
  assert told["framework"] == "torch" and "torch" in told["versions"]
  assert rows.split() == [
      row["property"] for row in told["rows"] if row["verdict"] == "fails"]
  assert all(row["verdict"] != "not judged" for row in told["rows"])


WRONG = {
    "shape": "return (student_logits - teacher_logits)**2",
    "nan": "return np.log(-np.abs(student_logits)).sum()",
    "rounded": "return np.mean(np.argmax(student_logits, -1) == labels)",
    "pair": "return np.mean(student_logits**2), {}",
    "raises": "raise KeyError('logits')",
    "single": "return np.mean(student_logits**2).astype(np.float32)",
    "exits_asked": "raise SystemExit(0)",
}


@pytest.mark.parametrize(("target", "said"), [
    ("no_such_module:loss", "there is no such module"),
    ("kd_jax.no_such:loss", "there is no such module"),
    ("no_such.py", "there is no such file"),
    ("kd_jax.losses:distilation_loss", "did you mean distillation_loss"),
    ("kd_jax.losses", "has no function loss"),
    ("kd_jax.losses:tempered_softmax", "must take (student_logits, teacher"),
    ("kd_jax.methods:METHODS", "METHODS is a dict, not a function"),
    ("{shape}", "returned shape (6, 7)"),
    ("{nan}", "returned nan for ordinary finite logits"),
    ("{rounded}", "is not differentiable"),
    ("{pair}", "returned a tuple"),
    ("{raises}", "raises KeyError: 'logits'"),
    ("{single}", "float32"),
    ("{exits_asked}", "raises SystemExit: 0"),
    ("", "names no module"),
    ("{number}", "loss is a int, not a function; it has none at all"),
    ("{order}", "student and teacher in the wrong order?"),
    ("{same}", "as jax and numpy it raises KeyError: 'logits'"),
    ("{broken}", "raises SyntaxError"),
    ("{needs}", "needs no_such_library, which is not installed"),
    ("{exits}", "raises SystemExit: 3"),
])
def test_a_users_mistake_is_told_in_a_line(tmp_path, capsys, target, said):
  files = {}
  for name, body in WRONG.items():
    files[name] = tmp_path / f"{name}.py"
    files[name].write_text(
        "import numpy as np\ndef loss(student_logits, teacher_logits, labels, "
        f"temperature, alpha):\n  {body}\n")
  for name, text in (("broken", "def"), ("needs", "import no_such_library"),
                     ("exits", "import sys\nsys.exit(3)"), ("number", "loss = 3"),
                     ("order", "from kd_jax.conformance.ours import kd\n"
                      "loss = lambda z, v, y, t, a: kd(v, z, y, t, a)"),
                     ("same", "def loss(z, v, y, t, a): raise KeyError('logits')")):
    files[name] = tmp_path / f"{name}.py"
    files[name].write_text(text)
  # A loss of NumPy is called so at once, without a try as jax.
  framework = ["--framework=numpy"] if target[1:-1] in WRONG else []
  assert run(target.format(**files), *framework) == 2
  error = capsys.readouterr().err.strip()
  assert said in error and "Traceback" not in error
  assert len(error.splitlines()) == 1


def test_frameworks_are_found_out(tmp_path):
  file = tmp_path / "target.py"
  file.write_text(
      "import numpy as np\n"
      "def loss(z, v, y, t, alpha):\n"
      "  return float(np.mean(np.square(np.asarray(z) - np.asarray(v))))\n")
  assert targets.load(str(file)).framework == "numpy"
  assert targets.load("kd_jax.conformance.ours:kd").framework == "jax"


def test_rows_and_options_are_checked(capsys):
  ours = "kd_jax.conformance.ours:kd"
  for arguments, said in [
      ([ours, "--only=masks"], "did you mean masked"),
      ([ours, "--only="], "names no row"),
      ([ours, "--alpha=both"], "--alpha"),
      ([ours, "--framework=theano"], "--framework"),
      ([], "TARGET"),
      ([ours, "--quick"], "--quick"),
  ]:
    assert run(*arguments, "--json") == 2
    told = capsys.readouterr()
    assert said in told.err and said in json.loads(told.out)["error"]
    assert len(told.err.splitlines()) == 1


def test_what_is_hidden_by_another_failure_is_no_pass(tmp_path, capsys):
  file = tmp_path / "target.py"
  file.write_text(
      "import numpy as np\n"
      "def loss(student_logits, teacher_logits, labels, temperature, alpha):\n"
      "  return np.mean(np.square(student_logits - teacher_logits))\n")
  numpy = (str(file), "--framework=numpy", "--alpha=none")
  assert run(*numpy, "--only=direction") == 1
  assert "not judged: direction" in capsys.readouterr().out
  assert run(*numpy, "--only=teacher,hard,batch") == 0


def test_the_table_tells_expected_found_and_effect(tmp_path, capsys):
  file = tmp_path / "target.py"
  file.write_text(
      "import numpy as np\n"
      "def loss(student_logits, teacher_logits, labels, temperature, alpha):\n"
      "  print('noise')\n"
      "  return np.mean(np.square(student_logits - teacher_logits))\n")
  assert run(str(file), "--framework=numpy", "--only=classes,batch") == 1
  said = capsys.readouterr()
  text = " ".join(said.out.replace("│", " ").split())
  for part in ("classes", "FAILS", "expected a sum over classes",
               "x 0.5 with twice the classes", "so the soft term gets weaker",
               "batch", "holds", "or else the gradient grows",
               "1 of 2 fails: classes"):
    assert part in text, part
  assert "noise" not in said.out and "noise" in said.err
  # A squared distance is no KL, and what it cannot have is told apart.
  file.write_text(file.read_text().replace("numpy", "jax.numpy"))
  assert run(str(file), "--only=direction,classes,batch,teacher") == 1
  text = " ".join(capsys.readouterr().out.split())
  assert "is meant, classes may fail by its nature; the other rows" in text


@pytest.fixture(scope="module")
def document():
  """The program that writes docs/conformance.md."""
  return targets.module(str(ROOT / "docs/conformance/make.py"))


def test_the_document_is_that_of_its_records(document):
  found = document.read()
  assert document.DOCUMENT.read_text() == document.document(found)
  for name, each in found.items():
    assert ("error" in each) == (name == "optax_logits")
    rules = (feature_loss if name in document.FEATURES else properties).PROPERTIES
    assert [row["effect"] for row in each.get("rows", ())] == (
        [] if "error" in each else [rule.effect for rule in rules.values()])
  # What is known of these libraries shows, and nothing in ours.
  rows = lambda name: {row["property"] for row in document.failing(found[name])}
  assert not rows("ours_kd")
  assert {"softmax", "temperature", "shift"} <= rows("keras_default")
  assert "continuity" in rows("torchdistill_kd")
  assert "direction" in rows("optax_swapped")


@pytest.mark.slow
@pytest.mark.parametrize("name", [
    "keras_default", "keras_instance", "optax_right", "optax_log_logits"])
def test_other_libraries_are_judged_as_the_records_say(document, name):
  done = subprocess.run(
      [sys.executable, "-m", "kd_jax.conformance",
       *document.TARGETS[name].arguments.split(), "--json"], cwd=ROOT,
      env=os.environ | {"KERAS_BACKEND": "jax"}, capture_output=True, text=True,
      check=False)
  verdicts = lambda told: {
      row["property"]: row["verdict"] for row in told["rows"]}
  assert done.returncode == 1, done.stderr
  told = json.loads(done.stdout)
  assert verdicts(told) == verdicts(document.read()[name])


@pytest.mark.parametrize(("name", "row"), [
    ("ours_kd", "classes"), ("rkd_angle", "equality")])
def test_a_document_needs_a_note_for_every_failure(document, name, row):
  found = document.read()
  found[name]["rows"][0]["verdict"] = "fails"
  with pytest.raises(ValueError, match=row):
    document.document(found)


@pytest.mark.parametrize("name", [
    each if each in ("hint", "pkt") else pytest.param(each, marks=pytest.mark.slow)
    for each in (*_MAPS, *_RELATIONS)])
def test_our_losses_of_features_are_judged_as_the_records_say(
    document, capsys, name):
  assert set(document.FEATURES) == {*_MAPS, *_RELATIONS}
  words = document.features_arguments(name).split()
  recorded = json.loads(
      (ROOT / "docs/conformance" / f"{name}.json").read_text())
  assert run(*words, "--json") == int(not recorded["holds"])
  told = json.loads(capsys.readouterr().out)
  verdicts = lambda each: {row["property"]: row["verdict"] for row in each["rows"]}
  assert verdicts(told) == verdicts(recorded)
  assert recorded["holds"] == (not document.FEATURES[name][3])


def test_targets_of_the_document_are_there(document):
  for arguments in [*(each.arguments for each in document.TARGETS.values()),
                    *map(document.features_arguments, document.FEATURES)]:
    file = arguments.split()[0].partition(":")[0]
    assert file.startswith("kd_jax.") or (ROOT / file).is_file()


def test_help_is_light_and_no_framework_comes_uncalled_for(tmp_path):
  (tmp_path / "target.py").write_text(
      "import numpy as np\nfrom kd_jax.conformance import adapters\n"
      "@adapters.numpy\ndef loss(z, v, y, t, alpha):\n"
      "  return np.mean(np.square(z - v))\n")
  heavy = "[m for m in ('jax', 'torch', 'keras', 'tensorflow', 'rich') " \
      "if m in sys.modules]"
  code = (
      "import sys\nfrom kd_jax.conformance import __main__ as m\n"
      "try:\n  m.main(['--help'])\nexcept SystemExit as e:\n  assert not e.code\n"
      f"print({heavy})\n"
      "m.main([sys.argv[1], '--only=batch', '--json'])\n"
      f"print({heavy})\n")
  done = subprocess.run(
      [sys.executable, "-c", code, str(tmp_path / "target.py")], cwd=ROOT,
      capture_output=True, text=True, check=True)
  assert "module:function or file.py:function" in done.stdout
  assert "\n[]\n{" in done.stdout and '"holds": true' in done.stdout
  assert done.stdout.endswith("\n[]\n")
