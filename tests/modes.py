"""Every way to run a method on real digits, checked against the plainest one."""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from test_step import distance, hyper

from kd_jax import methods, teachers
from kd_jax.core import compilation, randomness, types
from kd_jax.data import embedded, views
from kd_jax.data.preprocess import Scaling
from kd_jax.methods import terms as terms_lib
from kd_jax.models import MODELS
from kd_jax.training import checkpoints, devices, lanes, optimizers, schedules
from kd_jax.training import segment as segment_lib
from kd_jax.training import step as step_lib

BATCH, LENGTH = 24, 3
NONE = views.VIEWS["none"]
# Of a method that sees an example twice in a step.
TWICE = dataclasses.replace(
    views.VIEWS["shift2"], independent=True, twice=True)


@functools.cache
def digits() -> segment_lib.DeviceData:
  """64 real digits: two batches of 24, and one of 16 with padding."""
  image, label, _, _ = embedded.load()
  chosen = np.random.default_rng(0).permutation(len(label))[:64]
  return segment_lib.DeviceData(
      jnp.asarray(image[chosen]), jnp.asarray(label[chosen]),
      jnp.arange(64, dtype=jnp.int32), Scaling(
          jnp.full((1,), 1 / 255, jnp.float32), jnp.zeros((1,), jnp.float32)))


@functools.cache
def teacher() -> teachers.Teacher:
  """A bank of a teacher who is right and has doubts."""
  doubts = jax.random.normal(jax.random.key(7), (64, 1, 1, 10))
  right = jax.nn.one_hot(digits().label, 10)[:, None, None]
  return teachers.banked(doubts + 4.0 * right)


@functools.cache
def live_teacher(dtype: str = "float32") -> teachers.Teacher:
  """A wider net than the student of taps, with taps of its own."""
  model = MODELS["mlp"](num_classes=10, widths=(12,), dtype=dtype)
  image = jnp.zeros((1, 28, 28, 1), jnp.float32)
  return teachers.live([model], [model.init(jax.random.key(5), image)],
                       taps={"hidden_0": (12,), "pooled": (12,)})


@functools.cache
def _of_maps(dtype: str) -> teachers.Teacher:
  """A convolutional net that is like the student but for its weights."""
  return _alive(MODELS["cnn"](num_classes=10, widths=(4, 6), dtype=dtype))


@functools.cache
def _of_stages(dtype: str) -> teachers.Teacher:
  """A residual net like the student but for its weights and one width."""
  return _alive(MODELS["resnet"](
      num_classes=10, depth=8, widths=(2, 3, 5), dtype=dtype))


def _alive(model: types.Model) -> teachers.Teacher:
  image = jnp.zeros((1, 28, 28, 1), jnp.float32)
  held = model.init(jax.random.key(5), image)
  return teachers.live([model], [held], taps=_taps(model))


@functools.cache
def _taps(model: types.Model) -> methods.Shapes:
  image = jnp.zeros((1, 28, 28, 1), jnp.float32)
  outputs, _ = jax.eval_shape(lambda key: model.apply(
      model.init(key, image), image, train=False), jax.random.key(0))
  return {name: tap.shape[1:] for name, tap in outputs.features.items()}


def learner(method: str, dtype: str = "float32") -> step_lib.Learner:
  """A small student of a method, with hidden layers or stages as it needs them."""
  own = methods.find(method)
  constant = optimizers.schedule("constant", total_steps=100)
  student = _student(dtype) if own.on_logits else MODELS["mlp"](
      num_classes=10, widths=(8,), dtype=dtype)
  asked = teacher() if own.on_logits else live_teacher(dtype)
  for name, widths, other in (("cnn", (4, 6), _of_maps),
                              ("resnet", (2, 3, 4), _of_stages)):
    try:
      own, pairs = methods.bind(own, _taps(student), asked.taps, ())
      break
    except ValueError:  # It compares maps, or stages of a net that pools.
      depth = {"depth": 8} if name == "resnet" else {}
      student = MODELS[name](num_classes=10, widths=widths, dtype=dtype, **depth)
      asked = other(dtype)
  else:
    own, pairs = methods.bind(own, _taps(student), asked.taps, ())
  return step_lib.Learner(
      student, own, optimizers.OptimizerSpec("sgd", constant),
      asked if own.needs_teacher else None, pairs,
      schedules=schedules.Schedules(total_steps=100))


@functools.cache
def _student(dtype: str) -> types.Model:
  """A linear net whose first weights are drawn by NumPy: nothing to compile."""
  model = MODELS["mlp"](num_classes=10, widths=(), dtype=dtype)
  image = jax.ShapeDtypeStruct((1, 28, 28, 1), jnp.float32)
  draw = np.random.default_rng(0)
  first = jax.tree.map(
      lambda x: (0.04 * draw.standard_normal(x.shape)).astype(x.dtype),
      jax.eval_shape(model.init, jax.random.key(0), image))
  # A copy each time, as segments take their state over.
  return model._replace(init=lambda key, image: jax.tree.map(jnp.array, first))


def hparams(method: str, **changes):
  """The paper's numbers, and a learning rate that is safe for all of them."""
  own = methods.find(method)
  return hyper(**({"learning_rate": 0.01, "momentum": 0.5,
                   "numbers": dict(own.numbers) or None}
                  | own.setting | changes))


def single(method: str, numbers, seed: int = 0, cuts=(LENGTH,), state=None,
           dtype: str = "float32"):
  """State and totals of a run on one device."""
  learns = learner(method, dtype)
  data, key = digits(), jax.random.key(seed)
  if state is None:
    state = begun(learns, key, numbers)
  arrays = learns.teacher.arrays if learns.teacher else ()
  segment = _segment(method, dtype)
  for length in cuts:
    state, told = segment(state, data, arrays, numbers, key, length)
  return state, told


def begun(learns: step_lib.Learner, key: jax.Array, numbers):
  """The state before the first step, as lanes have it."""
  image = jnp.zeros((1, 28, 28, 1), jnp.float32)
  init = compilation.once(("begun", step_lib.key_of(learns)), lambda: jax.jit(
      lambda key, numbers: step_lib.init(learns, key, image, numbers, 64)))
  return init(randomness.stream(key, "init"), numbers)


def seen(method: str) -> views.Views:
  """The views of its examples."""
  return TWICE if methods.find(method).two_views else NONE


@functools.cache
def _segment(method: str, dtype: str):
  return segment_lib.compiled_segment(learner(method, dtype), seen(method), BATCH)


def own(state):
  """All that a run trains: the student's parameters, and what the method has."""
  return *state.trainable, state.method_state


def check_lanes(method: str) -> float:
  """Two points as lanes are two single runs; gives the largest distance."""
  shape = lanes.Shape(1, 1, 2)
  name = next(iter(methods.find(method).numbers), None)
  points = [hparams(method), hparams(method, soft_weight=0.5, learning_rate=0.02)]
  if name:  # A number of the method's own is a lane too.
    other = dict(points[1].numbers) | {name: points[1].numbers[name] * 0.5}
    points[1] = points[1].replace(numbers=other)
  program = lanes.compile_lanes(
      learner(method), seen(method), BATCH, shape, digits(), points[0])
  stacked = lanes.stack(points, shape)
  seeds = jnp.zeros((1,), jnp.uint32)
  state = program.init(seeds, stacked)
  state, told = program.segment(state, stacked, seeds, LENGTH)
  worst = 0.0
  for number, point in enumerate(points):
    alone, says = single(method, point)
    of_lane = jax.tree.map(lambda x, n=number: x[0, n], (own(state), told))
    worst = max(worst, distance(of_lane[0], own(alone)))
    np.testing.assert_allclose(
        [of_lane[1][name].total for name in says],
        [says[name].total for name in says], rtol=1e-3, atol=1e-5)
  assert worst < 1e-5, (method, worst)
  return worst


def check_devices(method: str, kind: str) -> float:
  """Eight devices are one; the last batch leaves three of them without rows."""
  learns, numbers = learner(method), hparams(method)
  where, key = devices.choose(kind, most=8), jax.random.key(0)
  put = functools.partial(devices.copies, where)
  segment = devices.compiled_segment(where, learns, seen(method), BATCH)
  arrays = put(learns.teacher.arrays) if learns.teacher else ()
  state = put(begun(learns, key, numbers))
  spread, shared = segment(
      state, put(digits()), arrays, put(numbers), key, jnp.int32(LENGTH))
  alone, told = single(method, numbers)
  apart = distance(own(spread), own(alone))
  assert apart < 1e-5, (method, kind, apart)
  for name in told:
    assert int(shared[name].count) == int(told[name].count)
    np.testing.assert_allclose(
        shared[name].total, told[name].total, rtol=1e-3, atol=1e-5)
  return apart


def check_resume(method: str, folder: pathlib.Path) -> None:
  """A run that is cut, saved and read again ends with the same bits."""
  numbers = hparams(method)
  whole, _ = single(method, numbers)
  half, _ = single(method, numbers, cuts=(1,))
  saved = checkpoints.Checkpoints(folder, {"method": method})
  saved.save(1, {"state": half}, wait=True)
  like = begun(learner(method), jax.random.key(1), numbers)
  state = saved.load({"state": like})["state"]
  saved.close()
  again, _ = single(method, numbers, cuts=(LENGTH - 1,), state=state)
  jax.tree.map(np.testing.assert_array_equal, own(again), own(whole))


def check_half_precision(method: str) -> float:
  """Nets in bfloat16 learn nearly what nets in float32 do; gives the distance."""
  # Where a large weight makes large steps, roundings grow from step to step.
  numbers = hparams(method, learning_rate=0.001)
  exact, totals = single(method, numbers)
  rounded, others = single(method, numbers, dtype="bfloat16")
  for leaf in jax.tree.leaves((own(rounded), others)):
    assert np.isfinite(leaf).all(), method
  # Parameters, modules and memories stay in float32.
  kinds = lambda state: [leaf.dtype for leaf in jax.tree.leaves(own(state))]
  assert kinds(rounded) == kinds(exact), method
  for name, total in totals.items():
    if not name.startswith("gradient_"):
      np.testing.assert_allclose(
          others[name].total, total.total, rtol=0.06, atol=2.0, err_msg=name)
  apart = distance(own(rounded), own(exact))
  assert 0 < apart < 0.05, (method, apart)
  return apart


def check_training(method: str) -> tuple[float, float]:
  """The loss is finite and falls; none of its gradient reaches the teacher."""
  learns, numbers = learner(method), hparams(method)
  data, key = digits(), jax.random.key(0)
  batch = segment_lib.take(
      data, seen(method), data.ids, jnp.zeros_like(data.ids), data.ids < 60,
      3 * data.ids % 25 if seen(method).twice else None)
  arrays = learns.teacher.arrays if learns.teacher else ()
  step = step_lib.make_step(learns)

  def loss(taught, state, batch, numbers):
    said = step_lib.compared(learns.model.apply(
        state.student, batch.inputs, train=False)[0], learns.pairs, 0)
    terms = learns.method.terms(
        terms_lib.Own(
            state.method, state.method_state, labels=data.label, key=key,
            heads=step_lib.heads(learns, arrays, state.student.params)),
        said, taught, batch, numbers.replace(progress=0.5))
    if isinstance(terms, terms_lib.Changed):
      terms = terms.terms
    return jnp.mean(terms_lib.total(terms), where=batch.mask)

  # Run once: compiling it well would take longer than it runs.
  @functools.partial(
      jax.jit, compiler_options={"xla_backend_optimization_level": 0})
  def few_steps(state, batch, arrays, numbers):
    taught = learns.teacher and step_lib.compared(teachers.outputs(
        learns.teacher, arrays, batch, numbers.temperature), learns.pairs, 1)
    # Of the method's own stop: that of `teachers.outputs` is in test_step.py.
    into_teacher = jax.grad(loss)(taught, state, batch, numbers) if taught else ()

    def one(state, _):
      after, told = step(state, batch, arrays, numbers, key, data.label)
      return after, (loss(taught, state, batch, numbers), told)

    return *jax.lax.scan(one, state, length=6)[1], into_teacher

  values, told, into_teacher = few_steps(
      begun(learns, key, numbers), batch, arrays, numbers)
  first, last = float(values[0]), float(values[-1])
  assert np.isfinite(jax.tree.leaves((values, told))).all(), method
  assert last < first, (method, first, last)
  for name, mean in told.items():
    twice = batch.second is not None and name != "errors"
    assert (mean.count == 60 * (1 + twice)).all(), name
  for gradient in jax.tree.leaves(into_teacher):
    np.testing.assert_array_equal(gradient, 0.0, method)
  return first, last
