"""Several teachers, of unlike nets, whose taps a student is compared with."""

import contextlib
import json
import shutil

from conftest import ROOT
import jax
import jax.numpy as jnp
import modes
import numpy as np
import pytest
from test_step import a_batch, distance, hyper

from kd_jax import config as config_lib
from kd_jax import main, methods, teachers
from kd_jax.config import build, identity, recipe
from kd_jax.core import types
from kd_jax.core.errors import UserError
from kd_jax.losses.alignment import alignment
from kd_jax.methods import fitting
from kd_jax.methods import terms as terms_lib
from kd_jax.methods.on_features import ON_FEATURES
from kd_jax.models import MODELS
from kd_jax.report import inspected, plots
from kd_jax.runs import results
from kd_jax.runs.doctor import command
from kd_jax.training import optimizers, parameters, schedules
from kd_jax.training import step as step_lib

NAMES = ("wide", "deep")
STUDENT = {"stem": (8, 8, 4), "stage1": (8, 8, 4), "stage2": (4, 4, 8),
           "pooled": (8,)}
WIDE = {"stem": (8, 8, 4), "stage1": (8, 8, 4), "stage2": (4, 4, 8),
        "pooled": (8,)}
DEEP = {"stage1.preact": (8, 8, 6), **WIDE, "stage3": (2, 2, 9), "pooled": (9,)}
BOTH = methods.joined(NAMES, [WIDE, DEEP])


# Pairs.


def test_the_taps_of_one_are_its_own_and_of_several_have_a_name_before():
  assert methods.joined(["wide"], [WIDE]) is WIDE
  assert BOTH["wide.pooled"] == (8,) and BOTH["deep.pooled"] == (9,)
  assert BOTH["deep.stage1.preact"] == (8, 8, 6)
  assert len(BOTH) == len(WIDE) + len(DEEP)
  assert BOTH.of("wide") == WIDE and BOTH.of("deep") == DEEP


def test_each_method_has_its_own_choice_of_each_teacher():
  chosen = lambda name, given=(): methods.bind(
      methods.find(name), STUDENT, BOTH, given)[1]
  assert chosen("kd") == ()
  # The middle of two stages, and of three.
  assert chosen("hint") == (("stage2", "wide.stage2"), ("stage2", "deep.stage2"))
  assert chosen("hint+rkd") == (
      ("stage2", "wide.stage2"), ("stage2", "deep.stage2"),
      ("pooled", "wide.pooled"), ("pooled", "deep.pooled"))
  assert chosen("hint", methods.ALL) == tuple(
      (stage, f"{name}.{stage}") for name in NAMES
      for stage in ("stage1", "stage2"))
  assert chosen("hint", (("stage1", "deep.stage1.preact"),)) == (
      ("stage1", "deep.stage1.preact"),)


@pytest.mark.parametrize(("pair", "says"), [
    (("stage2", "stage2"), "did you mean wide.stage2 or deep.stage2"),
    (("stage2", "wise.stage2"), "did you mean wide.stage2"),
    (("stage2", "wide.stage3"), "the teachers have no tap 'wide.stage3'"),
    (("stage9", "wide.stage2"), "the student has no tap 'stage9'"),
])
def test_a_tap_that_no_teacher_has_is_told(pair, says):
  with pytest.raises(ValueError, match=says):
    methods.bind(methods.find("hint"), STUDENT, BOTH, (pair,))


def test_a_teacher_without_a_stage_in_common_is_told():
  other = methods.joined(NAMES, [WIDE, {"conv_0": (8,)}])
  with pytest.raises(ValueError, match="no stage of the same name"):
    methods.bind(methods.find("hint"), STUDENT, other, methods.ALL)


def test_what_fits_is_first_of_the_same_teacher():
  with pytest.raises(ValueError) as error:
    fitting.check(methods.find("hint"), STUDENT, BOTH, (
        ("stage1", "wide.stage1"), ("pooled", "deep.stage2")), hyper(
            numbers={"weight": 1.0}))
  assert "the student's pooled (8) with the teacher's deep.stage2 (4x4x8)" in str(
      error.value)
  fits = str(error.value).rpartition("what fits: ")[2]
  assert fits.startswith("('pooled', 'deep.pooled'), ('pooled', 'wide.pooled')")
  assert "('stage2', 'deep.stage2')" in fits


# Values.


def random_taps(shapes, seed):
  keys = jax.random.split(jax.random.key(seed), len(shapes))
  return {tap: jax.random.normal(key, (6, *shape))
          for key, (tap, shape) in zip(keys, shapes.items())}


def found(method, pairs, own, student, teacher):
  """The terms of a bound method, and its state after them, on random taps."""
  named = lambda taps, of: types.Outputs(
      random_taps({"z": (3,)}, 9)["z"],
      {"-".join(pair): taps[pair[of]] for pair in pairs})
  ids = jnp.arange(6)
  batch = types.Batch(None, ids % 3, ids, ids, ids < 5)
  numbers = {name: 0.9 * value for name, value in method.numbers.items()}
  return terms_lib.and_state(method.terms(
      own, named(student, 0), named(teacher, 1), batch,
      hyper(numbers=numbers).replace(progress=0.5)), own)


def begun(method, pairs, student, teacher, key):
  shapes = lambda taps, of: {"-".join(pair): taps[pair[of]] for pair in pairs}
  return method.init(key, shapes(student, 0), shapes(teacher, 1),
                     **methods.sizes(method, 6, 3))


OF_TAPS = [name for name, own in ON_FEATURES.items() if not own.heads]
QUICK = ("hint", "at", "ab", "fsp", "ofd", "reviewkd", "rkd", "crd")


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
    for name in OF_TAPS])
def test_the_terms_are_those_with_each_teacher_alone(name):
  """Also of methods that look at neighbouring pairs, or remember something."""
  method, key = methods.find(name), jax.random.key(3)
  wide, deep = WIDE, DEEP
  if name == "fsp":  # Of as many channels.
    deep = WIDE
  bound, pairs = methods.bind(
      method, STUDENT, methods.joined(NAMES, [wide, deep]), ())
  student = random_taps(STUDENT, 0)
  each = {"wide": random_taps(wide, 1), "deep": random_taps(deep, 2)}
  whole = {f"{net}.{tap}": x for net, taps in each.items()
           for tap, x in taps.items()}
  own = terms_lib.Own(
      *begun(bound, pairs, STUDENT, methods.joined(NAMES, [wide, deep]), key),
      labels=jnp.arange(6) % 3, key=key)
  together = found(bound, pairs, own, student, whole)
  assert next(iter(together.terms)) == "hard"
  expected = {}
  for place, (net, shapes) in enumerate(zip(NAMES, (wide, deep))):
    alone, its = methods.bind(method, STUDENT, shapes, ())
    params, state = begun(
        alone, its, STUDENT, shapes, jax.random.fold_in(key, place))
    at = f"teacher_{place}"
    for one, other in zip(jax.tree.leaves((own.params[at], own.state[at])),
                          jax.tree.leaves((params, state)), strict=True):
      np.testing.assert_array_equal(one, other)
    single = found(alone, its, own._replace(params=params, state=state), student,
                   each[net])
    expected |= {term if term == "hard" else f"{net}_{term}": value
                 for term, value in single.terms.items()}
    for one, other in zip(jax.tree.leaves(together.state[at]),
                          jax.tree.leaves(single.state), strict=True):
      np.testing.assert_array_equal(one, other)
  assert together.terms.keys() == expected.keys()
  for term, (weight, value) in together.terms.items():
    np.testing.assert_array_equal(value, expected[term].value)
    np.testing.assert_array_equal(weight, expected[term].weight)
  assert bound.formula.count("each of 2 teachers") == 1


def both(names=("cnn", "resnet")):
  """Two unlike nets with maps, as one teacher of images of 12 x 10."""
  made = {"cnn": MODELS["cnn"](num_classes=7, widths=(3, 4)),
          "resnet": MODELS["resnet"](num_classes=7, depth=8, widths=(2, 3, 5)),
          "mlp": MODELS["mlp"](num_classes=7, widths=(12,)),
          "deep": MODELS["mlp"](num_classes=7, widths=(9, 5))}
  nets = [made[name] for name in names]
  image = jnp.zeros((1, 12, 10, 1))
  held = [net.init(jax.random.key(place), image)
          for place, net in enumerate(nets)]
  shapes = [shapes_of(net, image) for net in nets]
  return teachers.live(nets, held, taps=methods.joined(NAMES, shapes)), nets


def shapes_of(net, image):
  outputs, _ = jax.eval_shape(lambda key: net.apply(
      net.init(key, image), image, train=False), jax.random.key(0))
  return {name: tap.shape[1:] for name, tap in outputs.features.items()}


def learner(method, asked, student, given=()):
  own, pairs = methods.bind(methods.find(method), shapes_of(
      student, jnp.zeros((1, 12, 10, 1))), asked.taps, given)
  return step_lib.Learner(
      student, own, optimizers.OptimizerSpec("sgd", optimizers.schedule(
          "constant", total_steps=100)), asked, pairs,
      schedules=schedules.Schedules(total_steps=100))


def attention(f):
  """Of Zagoruyko & Komodakis (2017): mean of squares over channels, of norm 1."""
  q = jnp.mean(jnp.square(f), axis=-1).reshape(len(f), -1)
  return q / jnp.linalg.norm(q, axis=1, keepdims=True)


def test_a_step_is_gradient_descent_on_the_sum_of_both(key, device_data):
  """hard CE + w (|q(f) - q(g_wide)|**2 + |q(f) - q(g_deep)|**2) / size."""
  asked, (wide, deep) = both()
  student = MODELS["cnn"](num_classes=7, widths=(2, 3))
  learns = learner("at", asked, student, (
      ("conv_0", "wide.conv_0"), ("conv_0", "deep.stage2")))
  batch = a_batch(device_data)
  numbers = hyper(hard_weight=0.3, learning_rate=0.5, numbers={"weight": 2.0})
  state = step_lib.init(learns, key, batch.inputs, numbers)
  after, told = jax.jit(step_lib.make_step(learns))(
      state, batch, asked.arrays, numbers, key)
  tap = lambda net, held, name: net.apply(
      held, batch.inputs, train=False)[0].features[name]
  goals = [attention(tap(wide, asked.arrays[0], "conv_0")),
           attention(tap(deep, asked.arrays[1], "stage2"))]

  def terms(params):
    said, _ = student.apply(
        state.student._replace(params=params), batch.inputs, train=True)
    q = attention(said.features["conv_0"])
    hard = -jnp.mean(jax.nn.log_softmax(said.logits)[
        jnp.arange(len(q)), batch.label])
    return hard, *(jnp.mean(jnp.square(q - goal)) for goal in goals)

  hard, *gaps = terms(state.student.params)
  for name, value in (("hard", hard), ("wide_attention", gaps[0]),
                      ("deep_attention", gaps[1])):
    assert float(told[name].total) / int(told[name].count) == pytest.approx(
        float(value), rel=1e-5)
  assert float(gaps[0]) != pytest.approx(float(gaps[1]), rel=0.01)
  gradient = jax.grad(lambda params: jnp.dot(
      jnp.array([0.3, 2.0, 2.0]), jnp.stack(terms(params))))(state.student.params)
  wanted = jax.tree.map(lambda p, g: p - 0.5 * g, state.student.params, gradient)
  assert distance(after.student.params, wanted) < 1e-6


VECTORS = (("hidden_0", "wide.hidden_0"), ("hidden_0", "deep.hidden_1"))


def of_vectors(method="kd+hint"):
  asked, _ = both(("mlp", "deep"))
  student = MODELS["mlp"](num_classes=7, widths=(8,))
  numbers = hyper(numbers=dict(methods.find(method).numbers), learning_rate=0.01)
  return learner(method, asked, student, VECTORS), numbers


def test_no_gradient_reaches_any_teacher(key, device_data):
  learns, numbers = of_vectors()
  batch = a_batch(device_data)
  state = step_lib.init(learns, key, batch.inputs, numbers)
  step = step_lib.make_step(learns)

  def ends(arrays):
    after, _ = step(state, batch, arrays, numbers, key)
    return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(after.trainable))

  value, gradient = jax.jit(jax.value_and_grad(ends))(learns.teacher.arrays)
  moved = jax.tree.map(lambda x: 1.1 * x, learns.teacher.arrays)
  assert ends(moved) != value, "the teachers make a difference"
  for leaf in jax.tree.leaves(gradient):
    np.testing.assert_array_equal(leaf, 0.0)


def test_padding_is_a_slice(key, device_data):
  learns, numbers = of_vectors()
  step = jax.jit(step_lib.make_step(learns))

  def after(batch):
    state = step_lib.init(learns, key, batch.inputs, numbers)
    return step(state, batch, learns.teacher.arrays, numbers, key)

  whole = a_batch(device_data, number=12, valid=9)
  padded, told = after(whole._replace(inputs=jnp.where(
      whole.mask[:, None, None, None], whole.inputs, 7.0)))
  alone, says = after(jax.tree.map(lambda x: x[:9], whole))
  for one, other in zip(jax.tree.leaves((modes.own(padded), told)),
                        jax.tree.leaves((modes.own(alone), says)), strict=True):
    np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-5)


# Who cannot.


def small(**student):
  config = config_lib.default("wide", "deep", "student")
  config.data.name, config.alpha = "blobs", 0.9
  config.nets.student.teachers = NAMES
  for key, value in student.items():
    config.nets.student[key] = value
  return config


def net_of(config, name="student"):
  return {net.name: net for net in recipe.nets(
      config_lib.flatten(config), swept=False)}[name]


@pytest.mark.parametrize("method", ["simkd", "cat", "kd+wkd_l", "hint+simkd"])
def test_a_method_of_one_teacher_is_a_line_with_what_to_give(method):
  with pytest.raises(UserError) as error:
    build.check_net(net_of(small(method=method)))
  for words in ("config.nets.student", "is of one alone", "one of its teachers",
                "such as hint"):
    assert words in str(error.value)
  build.check_net(net_of(small(method="hint")))


# Identity.


def test_which_teacher_has_a_tap_is_in_the_identity_and_its_name_is_not():
  of = lambda names, *pairs: identity.by_place(
      {"features.pairs": pairs}, names)["features.pairs"]
  assert of(NAMES, ("a", "wide.b.c"), ("d", "deep.e")) == (
      ("a", "0.b.c"), ("d", "1.e"))
  assert of(NAMES, ("a", "wide.b")) == of(("left", "right"), ("a", "left.b"))
  assert of(NAMES, ("a", "wide.b")) != of(NAMES[::-1], ("a", "wide.b"))
  # Of one teacher, a dot is in the name of a tap; and all are all.
  assert of(("stage1",), ("a", "stage1.preact")) == (("a", "stage1.preact"),)
  assert identity.by_place({"features.pairs": ("all",)}, NAMES) == {
      "features.pairs": ("all",)}


# Whole runs.


SEVERAL = ("--config=tests/fixtures/several.py", "--config.tensorboard=false",
           "--config.parallel=single")


@contextlib.contextmanager
def as_users_run_it():
  with pytest.MonkeyPatch.context() as patch, (
      jax.numpy_dtype_promotion("standard")):
    patch.chdir(ROOT)
    patch.setattr(plots, "write", lambda *_: {})
    yield


def run(own_data, place, *more):
  """Rows by net, in order."""
  with as_users_run_it():
    assert main.run([*SEVERAL, f"--config.data.dir={own_data}",
                     f"--workdir={place}", *more]) == 0
  rows: dict[str, list] = {}
  for row in results.split(place)[0]:
    rows.setdefault(row["net"], []).append(row)
  return rows


@pytest.fixture(scope="module")
def once(own_data, tmp_path_factory):
  """A single run that is looked at, and its rows."""
  place = tmp_path_factory.mktemp("several") / "w"
  return place, run(own_data, place, "--config.inspect=40")


def test_a_run_has_the_terms_of_each_teacher(once):
  _, rows = once
  row, = rows["student"]
  assert row["teacher_sha256"] == [
      rows[name][0]["parameters_sha256"] for name in NAMES]
  assert "0.1 * |r(f) - g|**2 / size (each of 2 teachers), T = 4" in row["loss"]
  curve = row["curve"]
  for name in NAMES:
    assert len(curve[f"train_{name}_hint"]) == len(curve["train_soft"])
    assert curve[f"share_{name}_hint"][-1] > 0


def test_cka_is_of_the_taps_of_each_teacher(once, own_data):
  place, rows = once
  made = json.loads((place / "inspected.json").read_text())["student"]["cka"]
  with np.load(own_data / "blobs.npz") as file:
    images = jnp.float32(file["x_train"][:40] / 255)
  widths = {"wide": (24,), "deep": (16, 9), "student": (8,)}
  taps = {name: MODELS["mlp"](num_classes=7, widths=own).apply(
      parameters.load_parameters(place / "parameters" / name), images,
      train=False)[0].features for name, own in widths.items()}
  wanted = {f"{name}.{tap}": x for name in NAMES for tap, x in taps[name].items()}
  assert made["after"]["hidden_0"].keys() == wanted.keys()
  for other, x in wanted.items():
    assert made["after"]["hidden_0"][other] == pytest.approx(
        float(alignment(taps["student"]["hidden_0"], x)), abs=2e-4), other
  curve = rows["student"][0]["curve"]
  assert [name for name in curve if name.startswith("cka_")] == [
      "cka_hidden_0-wide.hidden_0", "cka_hidden_0-deep.hidden_1"]


@pytest.mark.parametrize("lanes", [
    pytest.param("1x1", marks=pytest.mark.slow), "2x2"])
def test_lanes_are_single_runs(once, own_data, tmp_path, lanes):
  """Each row of lanes has the two teachers of its own seed."""
  _, rows = once
  swept = run(own_data, tmp_path / "swept", "--sweep.seed=0,1",
              "--sweep.nets.student.hint.weight=0.1,1",
              f"--config.sweep.lanes={lanes}")
  assert {name: len(some) for name, some in swept.items()} == {
      "wide": 2, "deep": 2, "student": 4}
  mine = next(row for row in swept["student"] if row["overrides"] == {
      "seed": 0, "nets.student.hint.weight": 0.1})
  assert mine["test_nll"] == pytest.approx(rows["student"][0]["test_nll"], rel=1e-4)
  assert len({row["test_nll"] for row in swept["student"]}) == 4
  if lanes == "1x1":
    for key in ("test_wrong_ids", "fingerprint"):
      assert mine[key] == rows["student"][0][key]


def test_points_may_name_the_teachers_in_another_order(own_data, tmp_path):
  """A pair is then of a net at another place, also of nets that are alike.

  All else being alike, only a single run shows whose taps they are.
  """
  same = ("--config.nets.deep.widths=(24,)", "--config.nets.deep.seed=7",
          "--config.nets.student.features.pairs=(('hidden_0','wide.hidden_0'),)",
          "--config.nets.student.alpha=0", "--config.nets.student.hint.weight=9")
  swept = run(own_data, tmp_path / "w", *same, "--config.sweep.lanes=1x1",
              "--sweep.nets.student.teachers=('wide','deep'),('deep','wide')")
  one, other = swept["student"]
  assert one["teacher_sha256"] == other["teacher_sha256"][::-1]
  assert one["fingerprint"] != other["fingerprint"]
  alone, = run(own_data, tmp_path / "alone", *same,
               f"--config.teacher.dir={tmp_path / 'w/teachers'}",
               "--config.nets.student.teachers=('deep','wide')")["student"]
  assert alone["fingerprint"] == other["fingerprint"]
  assert alone["test_nll"] == pytest.approx(other["test_nll"], rel=1e-6)


def test_stopped_in_the_middle_it_goes_on_to_the_same_bits(
    once, own_data, tmp_path, monkeypatch):
  place, asked, stops = tmp_path / "cut", [], 0
  # The teachers are there.
  shutil.copytree(once[0] / "teachers", place / "teachers")
  shutil.rmtree(place / "teachers" / once[1]["student"][0]["fingerprint"][:16])

  def late(signals):
    asked.append(None)
    return len(asked) > 2

  with monkeypatch.context() as patch:
    patch.setattr(main.Signals, "__call__", late)
    while not (place / "summary.json").is_file():
      stops += 1
      asked.clear()
      with as_users_run_it():
        main.run([*SEVERAL, f"--config.data.dir={own_data}",
                  f"--workdir={place}"])
      assert stops < 20
  assert stops > 1
  cut = run(own_data, place)
  assert cut["student"][0]["parameters_sha256"] == (
      once[1]["student"][0]["parameters_sha256"])


def test_small_taps_of_all_are_stored_and_teach_as_live_teachers_do(
    once, own_data, tmp_path, capsys):
  rows = []
  for bank in ("always", "never"):
    place = tmp_path / bank
    shutil.copytree(once[0] / "teachers", place / "teachers")
    shutil.rmtree(place / "teachers" / once[1]["student"][0]["fingerprint"][:16])
    capsys.readouterr()
    rows += run(own_data, place, f"--config.nets.student.teacher_bank={bank}",
                "--config.nets.student.views=shift2")["student"]
    assert ("teacher: live, as method kd+hint" in capsys.readouterr().out) == (
        bank == "never")
  assert rows[0]["fingerprint"] == rows[1]["fingerprint"]
  assert rows[0]["test_nll"] == pytest.approx(rows[1]["test_nll"], rel=1e-4)


def test_members_of_the_main_job_are_called_by_their_places(own_data, tmp_path):
  words = [
      "--config=configs/mnist.py", "--config.data.name=blobs",
      f"--config.data.dir={own_data}", "--config.student.widths=(8,)",
      "--config.teacher.widths=(12,)", "--config.teacher.count=2",
      "--config.steps=6", "--config.teacher.steps=6", "--config.batch_size=64",
      "--config.tensorboard=false", "--config.parallel=single",
      "--config.method=hint", "--config.features.pairs=all",
      f"--workdir={tmp_path / 'w'}"]
  with as_users_run_it():
    assert main.run(words) == 0
  row = results.split(tmp_path / "w")[0][-1]
  assert {"train_teacher_0_hint", "train_teacher_1_hint"} <= set(row["curve"])


def test_the_doctor_shows_the_names_and_mends_a_pair(own_data, tmp_path, capsys):
  words = [*SEVERAL, f"--config.data.dir={own_data}",
           f"--workdir={tmp_path / 'w'}"]
  with as_users_run_it():
    assert command.run(words) == 0
  said = " ".join(capsys.readouterr().out.split())
  # A matrix and a bias, and the two numbers of a channel's norm.
  assert "hidden_0 8 with wide.hidden_0 24, 264 parameters" in said
  assert "hidden_0 8 with deep.hidden_1 9, 99 parameters" in said
  assert "(each of 2 teachers)" in said and "deep_hint" in said
  for pair, says in (("hidden_1", "did you mean deep.hidden_1"),
                     ("deep.hidden_2", "did you mean deep.hidden_1")):
    with as_users_run_it():
      assert command.run([
          *words, "--config.nets.student.features.pairs="
          f"(('hidden_0','{pair}'),)"]) == 1
    assert says in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(("more", "says"), [
    (("--config.nets.student.teachers=('wide','wide')",), "is named twice"),
    (("--config.nets.student.teachers=('wide',)",),
     "the teacher has no tap 'wide.hidden_0'"),
])
def test_a_mistake_is_a_line(more, says, own_data, tmp_path, capsys):
  with as_users_run_it():
    assert main.run([*SEVERAL, f"--config.data.dir={own_data}",
                     f"--workdir={tmp_path / 'w'}", *more]) == 2
  told = capsys.readouterr().err
  assert says in told and "config.nets.student." in told
  assert len(told.strip().splitlines()) == 1


@pytest.mark.pictures
def test_attention_of_all_nets_is_drawn_stage_by_stage():
  a = [[0, 255], [3, 4]]
  example = {"id": 0, "label": 1, "image": a, "student": {"s1": a},
             "teacher wide": {"w1": a, "w2": a}, "teacher deep": {"d1": a}}
  drawn = inspected.attention({"student": {"examples": [example]}})
  assert [axes.get_title() for axes in drawn.axes] == [
      "image", "student\ns1", "teacher wide\nw1", "teacher deep\nd1",
      "teacher wide\nw2"]
