"""Each example twice in a step, probes, and two nets that compare their taps."""

import dataclasses

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_step import a_batch, a_model, distance, hyper, learner

from kd_jax import config as config_lib
from kd_jax import main, methods, models, teachers
from kd_jax.config import build
from kd_jax.core import types
from kd_jax.core.errors import UserError
from kd_jax.data.views import VIEWS
from kd_jax.methods import terms
from kd_jax.training import devices, peers, segment
from kd_jax.training import step as step_lib

NAMES = ("a", "b")
APART = dataclasses.replace(VIEWS["shift2"], independent=True)
TWICE = dataclasses.replace(APART, twice=True)
BATCH = 24


def taps_of(model, inputs):
  outputs, _ = jax.eval_shape(lambda key: model.apply(
      model.init(key, inputs), inputs, train=False), jax.random.key(0))
  return {tap: x.shape[1:] for tap, x in outputs.features.items()}


def together(method, inputs, widths=((16,), (12,)), probe=False):
  """The learner of two peers that compare taps."""
  own = methods.find(method)
  nets = [a_model("mlp", each) for each in widths]
  nets = [models.probed(net) for net in nets] if probe else nets
  every = peers.taps([taps_of(net, inputs) for net in nets])
  made, pairs = methods.bind(peers.method(own, NAMES, "probabilities"), every,
                             every, ())
  return learner()._replace(model=peers.model(nets), method=made, pairs=pairs)


def asked(method, **changes):
  own = methods.find(method)
  return hyper(**({"numbers": dict(own.numbers)} | changes))


def twice(data, number=BATCH, valid=BATCH):
  ids = jnp.arange(number, dtype=jnp.int32)
  view, other = (jax.random.randint(jax.random.key(seed), (len(data.label),), 0, 25)
                 for seed in (1, 2))
  return segment.take(data, TWICE, ids, view[ids], ids < valid, other)


def test_a_batch_has_each_example_in_both_of_its_views(device_data):
  ids = jnp.array([5, 3], jnp.int32)
  view, other = (jnp.full(len(device_data.label), each) for each in (4, 9))
  once = segment.take(device_data, APART, ids, view[ids], ids < 4, other)
  both = segment.take(device_data, TWICE, ids, view[ids], ids < 4, other)
  np.testing.assert_array_equal(both.inputs[::2], once.inputs)
  np.testing.assert_array_equal(both.inputs[1::2], once.clean)
  assert not np.array_equal(once.inputs, once.clean)
  np.testing.assert_array_equal(both.id, [5, 5, 3, 3])
  np.testing.assert_array_equal(both.view, [4, 9, 4, 9])
  np.testing.assert_array_equal(both.mask, [False, False, True, True])
  np.testing.assert_array_equal(both.second, [False, True] * 2)
  np.testing.assert_array_equal(both.label, jnp.repeat(once.label, 2))
  assert both.clean is None and both.other is None and both.weight is None


def test_a_step_sees_two_views_that_are_drawn_apart(key, device_data):
  """What a method is given in a segment: as many rows as twice the batch."""
  seen = []

  def look(own, student, teacher, batch, hparams):
    seen.append(batch)
    differ = jnp.any(batch.inputs[::2] != batch.inputs[1::2], (1, 2, 3))
    return {"hard": terms.labels(student, batch, hparams), "differ": terms.Term(
        0.0, jnp.repeat(differ.astype(jnp.float32), 2))}

  for two in (False, True):
    hard = methods.METHODS["hard"]
    looks = learner()._replace(
        method=hard._replace(terms=look) if two else hard)
    state = step_lib.init(looks, key, device_data.inputs[:1].astype(
        jnp.float32), hyper())
    _, totals = segment.compiled_segment(looks, TWICE if two else APART, BATCH)(
        state, device_data, (), hyper(), key, jnp.int32(1))
    assert totals["errors"].count == BATCH  # Of examples.
    assert totals["hard"].count == BATCH * (1 + two)
  assert seen[0].second.shape == (2 * BATCH,)
  # One of 25 pairs of views is of one view.
  assert totals["differ"].compute() > 0.8


@pytest.mark.parametrize("name", ["mlp", "resnet"])
def test_labels_train_the_last_layer_of_a_probe_alone(key, device_data, name):
  size = {"depth": 8, "widths": (2, 3, 4)} if name == "resnet" else {
      "widths": (16, 12)}
  model = models.MODELS[name](num_classes=5, **size)
  batch, probe = a_batch(device_data), models.probed(model)
  held = model.init(key, batch.inputs)
  says = lambda net, params: net.apply(
      held._replace(params=params), batch.inputs, train=False)[0]
  np.testing.assert_allclose(says(probe, held.params).logits,
                             says(model, held.params).logits, atol=1e-5)
  gradient = lambda net, of: jax.grad(
      lambda params: jnp.sum(jnp.square(of(says(net, params)))))(held.params)
  logits = lambda outputs: outputs.logits
  got, whole = gradient(probe, logits), gradient(model, logits)
  last = models.head(whole)
  for leaf in ("kernel", "bias"):
    np.testing.assert_allclose(models.head(got)[leaf], last[leaf], rtol=1e-4)
  norm = lambda tree: sum(float(jnp.sum(x**2)) for x in jax.tree.leaves(tree))
  assert norm(got) == pytest.approx(norm(last), rel=1e-4)
  assert norm(whole) > norm(got)
  # What is below learns from the taps.
  below = lambda outputs: outputs.features["pooled"]
  assert norm(gradient(probe, below)) == pytest.approx(
      norm(gradient(model, below)), rel=1e-5)


@pytest.mark.parametrize("method", ["rkd", "kd+rkd", "hint"])
def test_a_peer_learns_as_from_a_teacher_that_is_the_other(
    key, device_data, method):
  """One step of two nets is a step of each, of a teacher that is asked live."""
  batch = a_batch(device_data, BATCH, 19)
  joined, numbers = together(method, batch.inputs), asked(method)
  state = step_lib.init(joined, key, batch.inputs, numbers)
  after, _ = jax.jit(step_lib.make_step(joined))(state, batch, (), numbers, key)
  widths = ((16,), (12,))
  for place in range(2):
    at, other = f"peer_{place}", f"peer_{1 - place}"
    model, its = (a_model("mlp", widths[each]) for each in (place, 1 - place))
    held = types.Variables(*(getattr(state.student, part)[other]
                             for part in ("params", "state")))
    teacher = teachers.live([its], [held], taps=taps_of(its, batch.inputs))
    own, pairs = methods.bind(methods.find(method), taps_of(model, batch.inputs),
                              teacher.taps, ())
    alone = learner()._replace(
        model=model, method=own, pairs=pairs, teacher=teacher)
    begun = step_lib.init(alone, key, batch.inputs, numbers).replace(
        student=types.Variables(*(getattr(state.student, part)[at]
                                  for part in ("params", "state"))),
        method=state.method[at], method_state=state.method_state[at])
    single, _ = jax.jit(step_lib.make_step(alone))(
        begun, batch, teacher.arrays, numbers, key)
    assert distance(after.student.params[at], single.student.params) < 1e-6
    assert distance(after.student.params[at], state.student.params[at]) > 1e-4


def test_the_taps_of_the_other_are_constants(key):
  """Also where a method does not see to it: half the gradient of |f_a - f_b|**2."""
  def gap(own, student, teacher, batch, hparams):
    (f,), (g,) = (net.features.values() for net in (student, teacher))
    return {"gap": terms.Term(1.0, jnp.sum((f - g)**2, -1))}

  own = methods.find("rkd")._replace(terms=gap, relations=False)
  made = peers.method(own, NAMES, "probabilities")
  ids = jnp.arange(6)
  batch = types.Batch((), ids % 3, ids, ids, ids >= 0)

  def loss(taps):
    outputs = types.Outputs(jnp.zeros((6, 2, 3)), {
        f"peer_{place}.pooled-peer_{place}.pooled": tap
        for place, tap in enumerate(taps)})
    found = made.terms(terms.Own({"peer_0": {}, "peer_1": {}}, {
        "peer_0": {}, "peer_1": {}}), outputs, None, batch, hyper())
    return jnp.sum(terms.total(found.terms))

  f = jax.random.normal(key, (2, 6, 4))
  np.testing.assert_allclose(jax.grad(loss)(f), 2 * (f - f[::-1]), rtol=1e-5)


def test_each_net_is_shown_the_others_projections(key, device_data):
  """`dogo` of two nets, by the equations of the losses, and who moves whom."""
  batch = twice(device_data, valid=19)
  joined, numbers = together("dogo", batch.inputs, probe=True), asked("dogo")
  state = step_lib.init(joined, key, batch.inputs, numbers)
  own = terms.Own(state.method, state.method_state)

  def found(trainable, of=None):
    params, mine = trainable
    outputs, _ = joined.model.apply(
        state.student._replace(params=params), batch.inputs, train=True)
    made = joined.method.terms(
        own._replace(params=mine), step_lib.compared(outputs, joined.pairs, 0),
        None, batch, numbers)
    return made.terms if of is None else jnp.sum(
        jnp.where(batch.mask, made.terms[of].value, 0.0))

  start = (state.student.params, state.method)
  assert {*found(start)} == {
      f"{net}_{term}" for net in NAMES for term in ("hard", "contrast", "likeness")}
  weights = {name.partition("_")[2]: float(term.weight)
             for name, term in found(start).items()}
  assert weights == pytest.approx(
      {"hard": 0.3, "contrast": 1.0, "likeness": 100 / 256})
  norm = lambda tree: sum(float(jnp.sum(x**2)) for x in jax.tree.leaves(tree))
  for term in ("hard", "contrast", "likeness"):
    params, mine = jax.grad(found)(start, f"a_{term}")
    assert norm(params["peer_0"]) > 0 == norm(params["peer_1"])
    assert (norm(mine["peer_0"]) > 0) == (term != "hard")
    assert norm(mine["peer_1"]) == 0
    below = params["peer_0"]["Dense_0"]
    assert (norm(below) > 0) == (term != "hard")
  # With the same net and projector both find the same alike.
  same = together("dogo", batch.inputs, widths=((16,), (16,)))
  begun = step_lib.init(same, key, batch.inputs, numbers)
  copied = lambda tree: dict.fromkeys(tree, tree["peer_0"])
  outputs, _ = same.model.apply(
      types.Variables(copied(begun.student.params), begun.student.state),
      batch.inputs, train=True)
  values = same.method.terms(
      terms.Own(copied(begun.method), begun.method_state),
      step_lib.compared(outputs, same.pairs, 0), None, batch, numbers).terms
  for net in NAMES:
    np.testing.assert_allclose(
        values[f"{net}_likeness"].value[batch.mask], 0, atol=1e-5)


@pytest.mark.parametrize("kind", ["pmap", "sharded"])
def test_devices_and_padding_change_nothing(key, device_data, kind):
  """Also which units are dropped, which depends on the place of a row."""
  example = device_data.inputs[:1].astype(jnp.float32)
  joined = together("dogo", example, probe=True)
  numbers = asked("dogo", learning_rate=0.05, rates={"input": 0.1, "hidden": 0.5})
  data = device_data._replace(ids=jnp.arange(19, dtype=jnp.int32))
  after = []
  for where in (devices.choose("single"), devices.choose(kind, most=8)):
    state = step_lib.init(joined, key, example, numbers)
    run = devices.compiled_segment(where, joined, TWICE, BATCH)
    moved, totals = run(*(devices.copies(where, each) for each in (
        state, data, (), numbers)), key, jnp.int32(1))
    after.append(jax.device_get((moved.student.params, moved.method,
                                 moved.method_state)))
    assert totals["a_contrast"].count == 2 * 19
  assert distance(after[1], after[0]) < 1e-5


def test_no_part_of_it_stays_in_the_nets_that_come_out(key, device_data):
  batch = twice(device_data)
  joined = together("dogo", batch.inputs, probe=True)
  state = step_lib.init(joined, key, batch.inputs, asked("dogo"))
  net = step_lib.deployed_variables(joined, state)
  assert net.params["method"] == {} and [*net.params["student"]] == [
      "peer_0", "peer_1"]


class Own(nn.Module):
  """A user's net, with more than a layer behind its tap."""

  @nn.compact
  def __call__(self, image, *, train):
    x = nn.relu(nn.Dense(8)(image.reshape((len(image), -1))))
    return nn.Dense(5)(3.0 * nn.LayerNorm()(x)), {"pooled": x}


@pytest.mark.parametrize("name", ["mlp", "own"])
def test_a_probe_is_of_the_net_as_it_is(key, device_data, name):
  """Also with dropout, and with what stands between a tap and the last layer."""
  model, context = models.linen_model(Own()), {"train": True}
  if name == "mlp":
    model = a_model("mlp", (16,))
    context |= {"rngs": {"dropout": key}, "rates": {
        "input": jnp.float32(0.1), "hidden": jnp.float32(0.5)}}
  batch, probe = a_batch(device_data), models.probed(model)
  held = model.init(key, batch.inputs)
  says = lambda net, params: net.apply(
      held._replace(params=params), batch.inputs, **context)[0].logits
  np.testing.assert_allclose(
      says(probe, held.params), says(model, held.params), rtol=1e-6)
  gradient = jax.grad(lambda params: jnp.sum(says(probe, params)**2))(held.params)
  moved = [path for path, x in jax.tree_util.tree_flatten_with_path(gradient)[0]
           if jnp.any(x != 0)]
  assert len(moved) == 2 and len({path[:-1] for path in moved}) == 1
  assert models.probed(model) is probe


# ---- The config


def values(**changes):
  config = config_lib.default("student+peer")
  config.data.name, config.method, config.student.views = "blobs", "dogo", "shift2"
  config.alpha, config.hard_weight, config.soft_weight = None, 1.0, 0.0
  config.nets.student.widths = config.nets.peer.widths = (8,)
  return config_lib.changed(config_lib.flatten(config), changes)


@pytest.mark.parametrize(("changes", "words"), [
    ({"student.views": "none"}, "sees each example in two views, and there is one"),
    ({"mixup": 0.2}, "use mixup=0"),
    ({"teacher.sees": "clean"}, "use teacher.sees=views"),
    ({"accumulate": 2}, "use accumulate=1"),
    ({"method": "dogo+rkd"}, "dogo"),
    ({"method": "kd+dogo"}, "dogo"),
    ({"dogo.tau": 0.0}, "config.dogo.tau=0.0"),
])
def test_what_two_views_cannot_be_with_is_a_line(own_data, changes, words):
  def made():
    of = config_lib.flatten(values(**changes)) | {"data.dir": str(own_data)}
    build.check_names(of)
    build.student(of, build.dataset(of, say=lambda _: None))

  with pytest.raises(UserError) as refused:
    made()
  assert words in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("words", [
    ("--config.nets.peer.name=convnet", "--config.nets.peer.widths=()"),
    ("--config.nets.student.features.pairs=(('pooled','pooled'),)",)])
def test_taps_that_two_nets_cannot_compare_are_a_line(
    own_data, tmp_path, capsys, words):
  assert main.run([
      "--config=configs/on_the_go.py:smoke", f"--config.data.dir={own_data}",
      "--config.data.name=blobs", "--config.student.views=shift2",
      f"--workdir={tmp_path / 'w'}", "--plan", *words]) == 2
  error = capsys.readouterr().err
  assert error.count("\n") == 1 and "config." in error


@pytest.mark.parametrize("method", [
    name for name, own in methods.METHODS.items()
    if own.pairs and not any(getattr(own, field) for field in (
        "inference", "gradients", "memory", "classes", "heads"))])
def test_two_nets_compare_the_taps_that_a_student_and_its_teacher_would(method):
  """Nets of three and of four stages, with taps before a ReLU, and a dash."""
  nets = [{"stem": (8, 8, 4), **{
      tap: (8 >> stage, 8 >> stage, 4) for stage in range(stages)
      for tap in (f"stage{stage + 1}", f"stage{stage + 1}.preact", f"a-{stage}")},
           "pooled": (4,)} for stages in (3, 4)]
  own = methods.find(method)
  every = peers.taps(nets)
  _, pairs = methods.bind(
      peers.method(own, NAMES, "probabilities"), every, every, ())
  each = peers._of_each({"-".join(pair): every[pair[0]] for pair in pairs}, 2)
  assert each == nets
  for place in range(2):
    assert peers._bound(own, each, place)[1] == methods.bind(
        own, nets[place], nets[1 - place], ())[1]


def test_three_nets_cannot_compare_taps(own_data, tmp_path, capsys):
  assert main.run([
      "--config=configs/mutual.py:three", f"--config.data.dir={own_data}",
      "--config.data.name=blobs", f"--workdir={tmp_path / 'w'}", "--plan",
      *(f"--config.nets.{net}.method=rkd" for net in ("student", "peer", "third"))
  ]) == 2
  assert "it compares the taps of two nets, not of 3" in capsys.readouterr().err
