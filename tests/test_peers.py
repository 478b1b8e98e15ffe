"""Peers: nets that train together, one in every step and each afterwards."""

import contextlib

from conftest import ROOT
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_step import a_batch, a_model, distance, hyper, learner

from kd_jax import config as config_lib
from kd_jax import main, methods
from kd_jax.config import recipe
from kd_jax.core import randomness, types
from kd_jax.core.errors import UserError
from kd_jax.data.views import VIEWS
from kd_jax.methods import METHODS, terms
from kd_jax.report import plots
from kd_jax.runs import results
from kd_jax.training import devices, parameters, peers
from kd_jax.training import step as step_lib
from kd_jax.training.schedules import STILL

PEERS = ("--config=tests/fixtures/peers.py", "--config.tensorboard=false")
NETS = ["one+two", "one", "two", "student"]
NAMES = ("a", "b", "c")


def softmax(z):
  return np.exp(z) / np.exp(z).sum(-1, keepdims=True)


def together(method="kd", names=NAMES, mean="probabilities", name="mlp", **widths):
  """The learner of peers, of the small nets of other tests."""
  one = learner(method=method, name=name)
  return one._replace(
      model=peers.model([a_model(name, widths.get(each, (16,))) for each in names]),
      method=peers.method(one.method, names, mean))


def loss(method, logits, y, names=NAMES, **numbers):
  """The sum of the losses of a batch, whose size it is divided by."""
  own = peers.method(method, names, "probabilities")
  params, state = own.init(jax.random.key(0), {}, {})
  found = terms.and_state(own.terms(
      terms.Own(params, state), types.Outputs(logits, {}), None,
      types.Batch(None, y, y, y, y >= 0), hyper(**numbers)), None)
  return jnp.mean(terms.total(found.terms))


def test_the_gradient_is_that_of_deep_mutual_learning(key):
  """dL/dz_k = (p_k - y) + mean over the others j of (p_k - p_j), at T = 1.

  In Zhang et al. (2018) the KL is inside the mean over the others.
  """
  z = 2 * jax.random.normal(key, (5, 3, 7))
  y = jnp.arange(5)
  got = jax.grad(lambda z: loss(
      METHODS["kd"], z, y, temperature=1.0, hard_weight=1.0, soft_weight=1.0))(z)
  p, onehot = softmax(np.asarray(z, np.float64)), np.eye(7)[:5]
  for k in range(3):
    others = [p[:, k] - p[:, j] for j in range(3) if j != k]
    wanted = (p[:, k] - onehot + np.mean(others, axis=0)) / 5
    np.testing.assert_allclose(got[:, k], wanted, atol=1e-7)


def test_two_peers_that_agree_learn_nothing_from_each_other(key):
  z = jnp.repeat(jax.random.normal(key, (5, 1, 7)), 2, axis=1)
  only_soft = {"hard_weight": 0.0, "soft_weight": 1.0}
  found = jax.value_and_grad(lambda z: loss(
      METHODS["kd"], z, jnp.arange(5), NAMES[:2], **only_soft))(z)
  for value in found:
    np.testing.assert_allclose(value, 0, atol=1e-6)


def test_who_is_asked_is_a_constant(key):
  """Also by a method that does not see to it: half the gradient of |z_a - z_b|**2.
  """
  gap = METHODS["kd"]._replace(terms=lambda own, student, teacher, *_: {
      "gap": terms.Term(1.0, jnp.sum((student.logits - teacher.logits)**2, -1))})
  z = jax.random.normal(key, (5, 2, 7))
  got = jax.grad(lambda z: loss(gap, z, jnp.arange(5), NAMES[:2]))(z)
  np.testing.assert_allclose(got, 2 * (z - z[:, ::-1]) / 5, rtol=1e-5)


@pytest.mark.parametrize("name", ["mlp", "normed"])
def test_nets_that_do_not_ask_each_other_are_nets_alone(key, device_data, name):
  """By method=hard: one step of all is a step of each; also running statistics."""
  batch, asked = a_batch(device_data, valid=27), hyper()
  joined = together("hard", name=name, b=(9,))
  state = step_lib.init(joined, key, batch.inputs, asked)
  after, _ = jax.jit(step_lib.make_step(joined))(state, batch, (), asked, key)
  for place, net in enumerate(NAMES):
    own = learner((9,) if net == "b" else (16,), method="hard", name=name)
    alone = step_lib.init(own, key, batch.inputs, asked).replace(
        student=types.Variables(
            state.student.params[f"peer_{place}"],
            state.student.state[f"peer_{place}"]))
    # Where weights come from.
    drawn = own.model.init(jax.random.fold_in(_named(key), place), batch.inputs)
    assert distance(drawn.params, alone.student.params) == 0
    alone, _ = jax.jit(step_lib.make_step(own))(alone, batch, (), asked, key)
    at = f"peer_{place}"
    assert distance(after.student.params[at], alone.student.params) < 1e-6
    for left, right in zip(jax.tree.leaves(after.student.state[at]),
                           jax.tree.leaves(alone.student.state)):
      np.testing.assert_allclose(left, right, rtol=1e-6)


def _named(key):
  """The key of which the weights of peers are drawn."""
  student = randomness.stream(key, "student")
  return randomness.stream(student, "peer")


def test_peers_begin_apart_and_drop_other_units(key, device_data):
  batch = a_batch(device_data)
  net = peers.model([a_model("mlp", (16,))] * 3)
  held = net.init(key, batch.inputs)
  kernels = [each["Dense_0"]["kernel"] for each in held.params.values()]
  assert not jnp.allclose(kernels[0], kernels[1])
  # Of the same weights: only what is dropped can differ.
  same = held._replace(params=dict.fromkeys(held.params, held.params["peer_0"]))
  says = lambda **more: net.apply(same, batch.inputs, **more)[0].logits
  dropped = says(train=True, rngs={"dropout": key}, rates={
      "input": jnp.float32(0.0), "hidden": jnp.float32(0.5)})
  assert not jnp.allclose(dropped[:, 0], dropped[:, 1])
  still = says(train=False)
  np.testing.assert_array_equal(still[:, 0], still[:, 1])


@pytest.mark.parametrize("kind", ["pmap", "sharded"])
def test_devices_and_padding_change_nothing(key, device_data, kind):
  joined, asked = together(name="normed", b=(9,)), hyper()
  batch = a_batch(device_data, number=24, valid=19)
  state = step_lib.init(joined, key, batch.inputs, asked)
  one, said = jax.jit(step_lib.make_step(joined))(state, batch, (), asked, key)
  many = devices.choose(kind, most=8)
  run = devices.compiled_segment(many, joined, VIEWS["none"], 24)
  data = device_data._replace(ids=jnp.arange(19, dtype=jnp.int32))
  alone = devices.compiled_segment(
      devices.choose("single"), joined, VIEWS["none"], 24)
  copy = lambda tree: jax.tree.map(jnp.copy, tree)
  after, _ = run(devices.copies(many, copy(state)), devices.copies(many, data), (),
                 devices.copies(many, asked), key, jnp.int32(1))
  wanted, _ = alone(copy(state), data, (), asked, key, jnp.int32(1))
  assert distance(jax.device_get(after.student.params),
                  jax.device_get(wanted.student.params)) < 1e-5
  assert said["a_soft"].count == 19 and one.step == 1


def test_what_comes_out_is_the_mean_of_their_probabilities(key, device_data):
  batch, joined = a_batch(device_data), together()
  state = step_lib.init(joined, key, batch.inputs, hyper())
  net = step_lib.deployed_variables(joined, state)
  logits = step_lib.deployed(joined).apply(net, batch.inputs, train=False)[0].logits
  each = [a_model("mlp", (16,)).apply(
      peers.net(net, place), batch.inputs, train=False)[0].logits
          for place in range(3)]
  np.testing.assert_allclose(
      softmax(logits), np.mean([softmax(z) for z in each], axis=0), atol=1e-6)
  # The errors of a step are of the same.
  _, said = jax.jit(step_lib.make_step(joined))(state, batch, (), hyper(), key)
  assert int(said["errors"].total) == int(
      np.sum(np.argmax(logits, -1) != np.asarray(batch.label)))


@pytest.mark.parametrize(("method", "nets", "words"), [
    ("hint", 3, "the taps of two nets, not of 3"), ("kd+rkd", 3, "of two nets"),
    ("simkd", 2, "needs more"), ("crd", 2, "needs more")])
def test_methods_that_need_more_than_logits_and_taps_are_refused(
    method, nets, words):
  with pytest.raises(ValueError, match=words):
    peers.method(methods.find(method), NAMES[:nets], "probabilities")


def test_each_peer_has_what_a_method_learns_of_its_own(key, device_data):
  """CTKD's temperature: three of them, and each moves."""
  joined, batch = together("ctkd"), a_batch(device_data)
  joined = joined._replace(schedules=STILL._replace(total_steps=40))
  # At the first step its gradient is still 0.
  asked = hyper(numbers=dict(METHODS["ctkd"].numbers))
  state = step_lib.init(joined, key, batch.inputs, asked).replace(
      step=jnp.int32(20))
  assert len(state.method) == 3
  after, _ = jax.jit(step_lib.make_step(joined))(state, batch, (), asked, key)
  for at in state.method:
    assert distance(after.method[at], state.method[at]) > 0


# ---- The recipe


def small(*entries):
  config = config_lib.default(*entries)
  config.data.name, config.alpha = "blobs", 0.9
  return config


def nets(config):
  return {net.name: net for net in recipe.nets(
      config_lib.flatten(config), swept=False)}


def test_peers_are_one_net_and_then_each_of_them():
  config = small("one+two", "student")
  config.nets.two.widths = (5,)
  config.nets.student.teachers = ("two",)
  made = nets(config)
  assert [*made] == NETS
  assert [name for name, _ in made["one+two"].peers] == ["one", "two"]
  assert (made["two"].start, made["two"].peer) == ("one+two", 1)
  assert made["one+two"].peers[1][1]["student.widths"] == (5,)
  # As somebody learns from one of them.
  assert made["one+two"].role == 1 and made["student"].role == 0


@pytest.mark.parametrize(("key", "value", "words"), [
    ("two.teachers", ("one",), "config.nets.two.teachers: two is of one+two"),
    ("two.init_from", "one", "leave it out"),
    ("two.temperature", 3.0, "config.nets.one.temperature=4.0 and config.nets.two."
                             "temperature=3.0: one+two train together"),
    ("one.hidden_dropout", 0.5, "config.nets.one.hidden_dropout=0.5 and "),
    ("two.teacher_mean", "logits", "config.nets.two.teacher_mean=logits: one+two"),
    ("student.teacher_epochs", (2,), "at their last epoch alone"),
    ("student.teachers", ("one+two",), "is no net before it"),
    ("one.teacher_classes", ((1, 2),), "one.teacher_classes: one is of one+two"),
    ("one.teacher_sees", "clean", "config.teacher.sees=clean: one+two train"),
    ("two.method", "dkd", "config.nets.two.method=dkd: one+two train together"),
])
def test_peers_that_cannot_be_are_refused(key, value, words):
  config = small("one+two", "student")
  config.nets.student.teachers = ("two",)
  name, leaf = key.split(".")
  config.nets[name][leaf] = value
  with pytest.raises(UserError) as refused:
    nets(config)
  assert words in str(refused.value)


@pytest.mark.parametrize("entries", [
    ("one+one",), ("one", "one+two"), ("one+",), ("one + two",)])
def test_names_of_peers_are_words_that_stand_once(entries):
  with pytest.raises(UserError, match="must be a Python name"):
    config_lib.default(*entries)


@contextlib.contextmanager
def _as_users_run_it():
  with pytest.MonkeyPatch.context() as patch, (
      jax.numpy_dtype_promotion("standard")):
    patch.chdir(ROOT)
    patch.setattr(plots, "write", lambda *_: {})
    yield


def run(own_data, place, *more):
  with _as_users_run_it():
    assert main.run([*PEERS, f"--config.data.dir={own_data}",
                     f"--workdir={place}", *more]) == 0
  found: dict[str, list] = {}
  for row in results.split(place)[0]:
    found.setdefault(row["net"], []).append(row)
  return found


def test_they_run_alone_and_as_lanes_and_are_found_again(
    own_data, tmp_path, capsys):
  single = ("--config.parallel=single",)
  rows = run(own_data, tmp_path / "alone", *single)
  assert [*rows] == NETS
  sizes = [row["parameters"] for row, in rows.values()]
  assert sizes[0] == sizes[1] + sizes[2]
  assert rows["student"][0]["teacher_sha256"] == [
      rows[name][0]["parameters_sha256"] for name in ("one", "two")]
  joined = parameters.load_parameters(tmp_path / "alone/parameters/one+two")
  two = parameters.load_parameters(tmp_path / "alone/parameters/two")
  assert distance(peers.net(joined, 1).params, two.params) == 0
  capsys.readouterr()
  again = run(own_data, tmp_path / "alone", *single)
  assert capsys.readouterr().out.count("already trained") == 4
  assert [row["test_nll"] for row, in again.values()] == [
      row["test_nll"] for row, in rows.values()]
  swept = run(own_data, tmp_path / "swept", "--sweep.seed=0,1",
              "--sweep.temperature=2,4", "--config.sweep.lanes=2x2")
  assert {name: len(some) for name, some in swept.items()} == dict.fromkeys(NETS, 4)
  for name in NETS:
    mine = next(row for row in swept[name]
                if row["overrides"] == {"seed": 0, "temperature": 2})
    assert mine["test_nll"] == pytest.approx(rows[name][0]["test_nll"], rel=1e-4)
    # One that is taken from them ran where they did.
    if name != "student":
      assert mine["packing"] == "2x1x2"
      assert mine["command"].endswith("--config.sweep.lanes=1x2")
  # Who is taken from them is of the bits of that packing, as any student is.
  assert swept[NETS[0]][0]["fingerprint"] == rows[NETS[0]][0]["fingerprint"]


def test_stopped_in_the_middle_they_go_on_to_the_same_bits(
    own_data, tmp_path, monkeypatch):
  whole = run(own_data, tmp_path / "whole", "--config.parallel=single")
  place, asked, stops = tmp_path / "cut", [], 0

  def late(signals):
    asked.append(None)
    return len(asked) > 3

  with monkeypatch.context() as patch:
    patch.setattr(main.Signals, "__call__", late)
    while not (place / "summary.json").is_file():
      stops += 1
      asked.clear()
      with _as_users_run_it():
        main.run([*PEERS, "--config.parallel=single",
                  f"--config.data.dir={own_data}", f"--workdir={place}"])
      assert stops < 20
  assert stops > 1
  cut = run(own_data, place, "--config.parallel=single")
  for name in NETS:
    assert cut[name][0]["parameters_sha256"] == whole[name][0]["parameters_sha256"]


def test_a_method_that_peers_cannot_learn_by_is_a_line(own_data, tmp_path, capsys):
  with _as_users_run_it():
    assert main.run([
        *PEERS, f"--config.data.dir={own_data}", f"--workdir={tmp_path / 'w'}",
        "--config.nets.one.method=crd", "--config.nets.two.method=crd"]) == 2
  message = "config.method=crd: is none for one+two"
  assert message in capsys.readouterr().err


def test_what_diverged_is_told_of_each_of_them(own_data, tmp_path):
  """A lane of NaN is none to choose; the other ends as it should."""
  place = tmp_path / "w"
  with _as_users_run_it():
    main.run([*PEERS, f"--config.data.dir={own_data}", f"--workdir={place}",
              "--config.optimizer.name=sgd", "--config.sweep.lanes=1x2",
              "--config.nets.student.teachers=()",
              "--sweep.optimizer.learning_rate=0.001,1e30"])
  assert (place / "summary.json").is_file()
  rows, _ = results.split(place)
  for name in NETS[:3]:
    failed = {row["overrides"]["optimizer.learning_rate"]: row["failed"]
              for row in rows if row["net"] == name}
    assert failed[0.001] is None and "not finite" in failed[1e30]


def test_names_make_no_other_nets(own_data, tmp_path, capsys):
  """Under other names they are found again in a store."""
  first = run(own_data, tmp_path / "a", "--config.parallel=single")
  other = tmp_path / "peers.py"
  text = (ROOT / "tests/fixtures/peers.py").read_text()
  other.write_text(text.replace('"one', '"left').replace("+two", "+right").replace(
      '"two"', '"right"').replace("nets.two", "nets.right"))
  capsys.readouterr()
  with _as_users_run_it():
    assert main.run([
        f"--config={other}", *PEERS[1:], f"--config.data.dir={own_data}",
        f"--workdir={tmp_path / 'b'}", "--config.parallel=single",
        f"--config.teacher.dir={tmp_path / 'a/teachers'}"]) == 0
  assert capsys.readouterr().out.count("already trained") == 4
  again = {row["net"]: row for row in results.split(tmp_path / "b")[0]}
  assert [*again] == ["left+right", "left", "right", "student"]
  assert again["right"]["parameters_sha256"] == first["two"][0]["parameters_sha256"]


def test_the_mean_of_one_other_is_no_other_run():
  from kd_jax.config import run as run_lib
  from kd_jax.runs import jobs
  class Setup:
    dataset = type("Data", (), {"fingerprint": "f"})
  def identity(entry, mean):
    config = small(entry)
    config.teacher.mean = mean
    net = nets(config)[entry]
    setup = Setup()
    setup.run = run_lib.read(net.values)
    return jobs.identity(net, setup)
  assert identity("a+b", "logits") == identity("a+b", "probabilities")
  assert identity("a+b+c", "logits") != identity("a+b+c", "probabilities")
  assert identity("a+b", "logits") == identity("c+d", "logits")


def test_a_plan_and_the_doctor_count_them_once(own_data, tmp_path, capsys):
  from kd_jax.runs.doctor import command
  own = [*PEERS, f"--config.data.dir={own_data}", f"--workdir={tmp_path / 'w'}"]
  with _as_users_run_it():
    assert main.run([*own, "--plan", "--sweep.seed=0,1"]) == 0
  assert "4 runs in 2 compilations" in " ".join(capsys.readouterr().out.split())
  with _as_users_run_it():
    assert command.run(own) == 0
  told = capsys.readouterr().out
  assert "not foreseen" not in told and "one_soft" not in told  # Of the student.


def test_the_first_of_the_last_peers_is_judged():
  from kd_jax.config import schema
  assert schema.judged(("teacher", "one+two")) == "one"
  assert schema.judged(("one+two", "student")) == schema.judged(()) == "student"
