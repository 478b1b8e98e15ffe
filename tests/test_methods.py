"""Methods: one function and one entry each, their numbers, relations, courses."""

import types

from conftest import ROOT, groups
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_step import a_batch, a_step, a_teacher, distance, hyper, learner

import kd_jax
from kd_jax import config as config_lib
from kd_jax import methods
from kd_jax.config import build, command_line, identity, recipe, schema, sweep
from kd_jax.config import run as run_lib
from kd_jax.core import types as core_types
from kd_jax.core.errors import UserError
from kd_jax.methods import Method
from kd_jax.methods.terms import Term
from kd_jax.runs import jobs, teacher_store
from kd_jax.training import schedules
from kd_jax.training import step as step_lib


def spread(own, student, teacher, batch, hparams):
  """A toy: labels, and the distance of the batch's mean outputs, a scalar."""
  del own
  hard = methods.METHODS["hard"].terms(
      {}, student, teacher, batch, hparams)["hard"].value
  gap = jnp.mean(student.logits - teacher.logits, axis=0,
                 where=batch.mask[:, None])
  return {"hard": Term(hparams.hard_weight, hard),
          "means": Term(hparams.numbers["pull"], jnp.sum(gap**2))}


TOY = Method(
    "CE + {pull:g} * |mean z - mean v|**2", methods.nothing, spread,
    numbers={"pull": 3.0}, relations=True,
    setting={"hard_weight": 1.0, "soft_weight": 0.0})


@pytest.fixture
def toy(monkeypatch):
  """What adding a method takes: a function, and an entry in the dict."""
  monkeypatch.setitem(methods.METHODS, "toy", TOY)


def parsed(*words):
  return command_line.parse([f"--config={ROOT / 'configs/mnist.py'}", *words])[0]


# Numbers.


def test_a_methods_numbers_are_keys_at_once(toy):
  config = parsed("--config.method=toy", "--config.toy.pull=0.5")
  assert config.toy.pull == 0.5
  assert build.student_hparams(config).numbers == {"pull": 0.5}
  assert config_lib.default().toy.pull == 3.0
  assert "--config.toy.pull=3.0" in config_lib.describe()
  assert build.student_hparams(parsed()).numbers is None


@pytest.mark.parametrize(("word", "says"), [
    ("--config.toy.push=1", "did you mean toy.pull"),
    ("--config.toy.pull=-1", "toy.pull=-1.0: must be a number >= 0"),
    ("--config.toy.pull=x", "toy.pull"),
])
def test_a_mistake_in_a_number_is_told(toy, word, says):
  with pytest.raises(UserError, match=says):
    parsed("--config.method=toy", word)


def test_a_method_chosen_by_name_brings_its_papers_weights(toy):
  config = parsed("--config.method=toy")
  assert (config.alpha, config.hard_weight, config.soft_weight) == (None, 1, 0)
  assert parsed("--config.method=toy", "--config.alpha=0.5").alpha == 0.5
  both = ("--config.hard_weight=2", "--config.soft_weight=3")
  config = parsed("--config.method=toy", *both)
  assert (config.alpha, config.hard_weight, config.soft_weight) == (None, 2, 3)
  assert parsed("--config.method=logits").alpha == 0.9, "has no such setting"


def test_one_weight_given_leaves_the_papers_other():
  config = parsed("--config.method=dkd", "--config.soft_weight=2")
  # Zhao et al. (2022): hard weight 1, T = 4.
  assert (config.hard_weight, config.soft_weight, config.temperature) == (1, 2, 4)
  config = parsed("--config.method=dkd", "--config.alpha=0.5")
  assert config.alpha == 0.5 and config.hard_weight is None


@pytest.mark.parametrize(("words", "says"), [
    (["--config.dkd.beta=4"], "add --config.method=dkd"),
    (["--config.method=topk", "--config.topk.k=2.5"], "a whole number from 1"),
    (["--config.temperature=8", "--sweep.method=kd,dkd"],
     "--sweep.temperature=VALUE")])
def test_words_that_no_method_hears_are_refused(words, says):
  with pytest.raises(UserError, match=says):
    parsed(*words)
  parsed("--config.dkd.beta=4", "--sweep.method=kd,dkd")


def test_a_course_of_what_a_method_has_is_told(toy):
  moving = schedules.Schedules(
      100, schedules.Course("linear", 50), warmup=10)
  numbers = {"correct": 0.9}
  told = lambda name: teacher_store.loss_record(
      methods.METHODS[name], core_types.Hparams(
          temperature=8.0, ends={"temperature": 2.0}, numbers=numbers),
      moving)["loss"]
  assert "; T from 8 to 2 (linear, 50 steps)" in told("tfkd")
  assert "T from" not in told("mse") and "over 10 steps" in told("mse")
  assert "steps" not in told("hard")


def test_help_has_names_for_numbers():
  assert schema.every()["dkd.beta"].meaning == (
      "of method dkd: h * CE + s * T**2 * (alpha * TCKD + beta * NCKD)")


def identity_of(values):
  return identity.student(
      values, content="d", source={}, method=values["method"], weights=(0.1, 0.9))


def test_numbers_are_part_of_a_run_that_has_them_and_of_no_other(toy):
  plain = config_lib.flatten(parsed())
  assert "toy.pull" not in identity_of(plain)
  values = plain | {"toy.pull": 4.0}
  assert identity_of(values) == identity_of(plain), "kd does not read it"
  values["method"] = "toy"
  assert identity_of(values)["toy.pull"] == 4.0
  assert "toy.pull" not in identity_of(plain | {"method": "toy"})


def test_rows_that_were_recorded_keep_their_fingerprints(monkeypatch):
  """Marks of the default student, as they were before methods had numbers."""
  monkeypatch.setattr(kd_jax, "NUMERICS", 2)
  config = parsed()
  setup = types.SimpleNamespace(
      run=run_lib.read(config),
      dataset=types.SimpleNamespace(fingerprint="d"))
  prepared = types.SimpleNamespace(
      identity=["t"], teacher=types.SimpleNamespace(weights=np.ones(1)))
  made = jobs.identity(
      recipe.Net("distilled", {}), setup, jobs.mixture(setup.run, prepared))
  assert made.pop("lane") == "kd"  # Rows of main runs had none.
  assert identity.fingerprint(made)[:16] == DISTILLED
  setup.run = run_lib.read(config_lib.flatten(config) | {"method": "hard"})
  made = jobs.identity(recipe.Net("baseline", {}), setup)
  assert made.pop("lane") == "hard"
  assert identity.fingerprint(made)[:16] == BASELINE


DISTILLED, BASELINE = "eb02f9344379aed9", "f7bd4ffbce702feb"


def test_numbers_are_lanes_of_one_program(toy):
  base = parsed("--config.method=toy")
  points = sweep.product({"toy.pull": (0.0, 1.0)})
  group, = groups(base, points)
  assert [build.student_hparams(lane.values).numbers["pull"].tolist()
          for lane in group] == [0.0, 1.0]
  assert group[1].name == "toy.pull=1"


@pytest.mark.parametrize("method", methods.METHODS)
def test_every_formula_can_be_filled_in(method):
  own = methods.METHODS[method]
  names = {"temperature", "hard_weight", "soft_weight"}
  assert not names & own.numbers.keys(), "they stand beside the run's own"
  assert set(own.setting) <= names
  text = own.formula.format(**dict.fromkeys(names, 1.25), **own.numbers)
  assert text and all(f"{{{name}" in own.formula for name in own.numbers)


def test_no_methods_name_is_a_key_of_the_config():
  taken = {name.split(".")[0] for name in schema.every() if not schema.owner(name)}
  assert not taken & set(methods.METHODS)


@pytest.mark.parametrize(("words", "says"), [
    (("--config.method=ctkd",), "ctkd asks at others; use teacher.mean=logits"),
    (("--config.teacher.mean=confidence", "--config.teacher.weights=(1.0,2.0)"),
     "weights of its own"),
    (("--config.teacher.mean=agreement", "--config.teacher.weights=(1.0,2.0)"),
     "teacher.mean=agreement has weights of its own"),
    (("--config.method=ctkd", "--config.teacher.mean=certainty"),
     "certainty: its mixture belongs to one temperature"),
    (("--config.teacher.classes=((0,1),)",), "the classes of each of 2 members"),
])
def test_mixtures_that_cannot_be_are_refused(words, says):
  config = parsed("--config.teacher.count=2", *words)
  with pytest.raises(UserError, match=says):
    build.check_names(config)
  build.check_names(parsed(
      "--config.teacher.count=2", "--config.method=ctkd",
      "--config.teacher.mean=logits"))


# Relations.


@pytest.fixture
def relating(key, device_data):
  batch = a_batch(device_data, 32, valid=25)
  learns = learner(teacher=a_teacher(key, batch.inputs))._replace(method=TOY)
  return learns, batch, hyper(numbers={"pull": 2.0}, learning_rate=0.1)


def test_a_batch_term_is_descended_with_the_others(relating, key):
  """dL/dz of a linear net: (q - y) / n + 2 pull (mean z - mean v) / n."""
  learns, batch, hparams = relating
  learns = learns._replace(model=learner(widths=()).model)
  before, after, told = a_step(learns, key, batch, hparams)
  valid = np.asarray(batch.mask)
  x = np.asarray(batch.inputs, np.float64).reshape(32, -1)[valid]
  w = np.asarray(before.student.params["Dense_0"]["kernel"], np.float64)
  v = np.asarray(
      learns.teacher.members(learns.teacher.arrays, batch).logits[0])[valid]
  z = x @ w
  q = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
  y = np.eye(7)[np.asarray(batch.label)[valid]]
  gap = z.mean(0) - v.mean(0)
  hard = 0.3 * (q - y)
  expected = w - 0.1 * x.T @ (hard + 4 * gap) / 25
  np.testing.assert_allclose(
      after.student.params["Dense_0"]["kernel"], expected, atol=2e-6)
  # The scalar is told as it is, its gradient as that of the other terms.
  assert told["means"].compute() == pytest.approx((gap**2).sum(), rel=1e-4)
  assert float(told["gradient_hard"].total) == pytest.approx(
      (hard**2).sum(), rel=1e-4)
  assert float(told["gradient_means"].total) == pytest.approx(
      25 * ((4 * gap)**2).sum(), rel=1e-4)


def test_relations_reach_over_eight_devices(relating, key):
  """25 valid rows of 32: the last device has one, and the sums are global."""
  learns, batch, hparams = relating
  state, alone, told = a_step(learns, key, batch, hparams)
  shards = jax.tree.map(lambda x: x.reshape((8, 4) + x.shape[1:]), batch)
  together, shared = jax.pmap(
      step_lib.make_step(learns, axis_name="device"), axis_name="device",
      in_axes=(None, 0, None, None, None))(
          state, shards, learns.teacher.arrays, hparams, key)
  ones, other = (jax.tree.map(lambda x, i=i: x[i], together) for i in (0, 5))
  assert distance(ones.student.params, alone.student.params) < 1e-6
  jax.tree.map(np.testing.assert_array_equal, ones.student, other.student)
  for name in told:
    assert int(shared[name].count[3]) == int(told[name].count) == 25
    assert shared[name].total[3] == pytest.approx(
        float(told[name].total), rel=1e-4)


# Courses.


def test_courses_by_hand():
  half = lambda shape: float(
      schedules.fraction(schedules.Course(shape, 8), jnp.int32(2)))
  assert half("constant") == 0.0
  assert half("linear") == 0.25
  assert half("cosine") == pytest.approx(0.5 - 0.5 * np.cos(np.pi / 4))
  for shape in ("linear", "cosine"):
    course = schedules.Course(shape, 8)
    assert float(schedules.fraction(course, jnp.int32(0))) == 0.0
    assert float(schedules.fraction(course, jnp.int32(99))) == pytest.approx(1)


def test_temperature_alpha_and_warm_up_move():
  moving = schedules.Schedules(
      20, schedules.Course("linear", 10), schedules.Course("linear", 20), 4)
  start = hyper(temperature=8.0, hard_weight=0.2, soft_weight=0.8,
                ends={"temperature": 2.0, "alpha": 0.4})
  found = [schedules.at(moving, jnp.int32(step), start) for step in (0, 2, 5, 20)]
  values = lambda name: [round(float(getattr(h, name)), 6) for h in found]
  assert values("temperature") == [8.0, 6.8, 5.0, 2.0]
  assert values("hard_weight") == [0.2, 0.24, 0.3, 0.6]
  # 0, half of 0.76, and then alpha itself.
  assert values("soft_weight") == [0.0, 0.38, 0.7, 0.4]
  assert values("progress") == [0.0, 0.1, 0.25, 1.0]
  assert "T from 8 to 2 (linear, 10 steps); alpha from 0.8 to 0.4" in (
      schedules.in_words(moving, start))


def test_a_jump_is_at_the_end_of_its_part():
  """KD that stops early: both terms for 6 steps, then labels alone."""
  stops = schedules.Schedules(20, alpha=schedules.Course("jump", 6))
  start = hyper(hard_weight=0.1, soft_weight=0.9, ends={"alpha": 0.0})
  found = [schedules.at(stops, jnp.int32(step), start) for step in range(8)]
  assert [float(h.soft_weight) for h in found] == pytest.approx(
      [0.9] * 6 + [0.0] * 2)
  assert [float(h.hard_weight) for h in found] == pytest.approx(
      [0.1] * 6 + [1.0] * 2)
  assert float(found[-1].soft_weight) == 0.0


def test_what_does_not_move_keeps_its_bits():
  start = hyper(temperature=0.1)
  found = schedules.at(schedules.Schedules(20), jnp.int32(7), start)
  assert found.replace(progress=None) == start
  assert schedules.in_words(schedules.Schedules(20), start) == ""


def test_a_scheduled_step_is_that_of_its_temperature(key, device_data):
  """The ensemble too is combined at the temperature of this step's loss."""
  batch = a_batch(device_data)
  nets = [a_teacher(jax.random.key(n), batch.inputs) for n in range(2)]
  from kd_jax import teachers
  teacher = teachers.live([learner((24,)).model] * 2,
                          [net.arrays[0] for net in nets])
  moving = schedules.Schedules(2, schedules.Course("linear", 1))
  learns = learner(teacher=teacher)._replace(schedules=moving)
  state = step_lib.init(learns, key, batch.inputs, hyper())
  later = state.replace(step=state.step + 1)
  hot = hyper(temperature=1.0, ends={"temperature": 6.0})
  after, _ = jax.jit(step_lib.make_step(learns))(
      later, batch, teacher.arrays, hot, key)
  still = learns._replace(schedules=schedules.Schedules())
  plain, _ = jax.jit(step_lib.make_step(still))(
      later, batch, teacher.arrays, hyper(temperature=6.0), key)
  assert distance(after.student.params, plain.student.params) < 1e-6


@pytest.mark.parametrize(("words", "says"), [
    (("--config.schedules.temperature=cosine",), "temperature_end"),
    (("--config.schedules.alpha_end=0.5",), "schedules.alpha=constant"),
    (("--config.schedules.alpha=linear", "--config.schedules.alpha_end=0.1",
      "--config.hard_weight=1", "--config.soft_weight=1"), "give alpha"),
    (("--config.schedules.temperature=step",), "constant, linear, cosine"),
])
def test_courses_that_cannot_be_are_refused(words, says):
  with pytest.raises(UserError, match=says):
    parsed(*words)


def test_a_course_comes_from_its_keys(own_data):
  from kd_jax import data
  config = parsed(
      "--config.schedules.temperature=cosine",
      "--config.schedules.temperature_end=2", "--config.steps=50",
      "--config.schedules.temperature_percent=40",
      "--config.schedules.warmup_percent=10")
  training = build.student(config, data.load("blobs", directory=own_data))
  assert training.schedules == schedules.Schedules(
      50, schedules.Course("cosine", 20.0), schedules.Course("constant", 50.0),
      5.0)
  assert training.hparams.ends == {"temperature": 2.0}
  lanes = groups(config, sweep.product(
      {"schedules.temperature_end": (1.0, 2.0)}))
  assert len(lanes) == 1
