"""Methods on features: which taps they get, what they keep, and several at once."""

import json

from conftest import ROOT, groups
import jax
import jax.numpy as jnp
import modes
import numpy as np
import pytest
from test_step import hyper

from kd_jax import config as config_lib
from kd_jax import data, main, methods
from kd_jax.checkpoint import load_parameters
from kd_jax.config import build, command_line, identity, names, sweep
from kd_jax.core import types
from kd_jax.core.errors import UserError
from kd_jax.methods import fitting
from kd_jax.methods import terms as terms_lib
from kd_jax.methods.terms import Changed, Own, Term
from kd_jax.models import MODELS
from kd_jax.training import segment as segment_lib
from kd_jax.training import step as step_lib

SMALL = {"stem": (8, 8, 4), "stage1": (8, 8, 4), "stage2": (4, 4, 8),
         "pooled": (8,)}
LARGE = {"stem": (8, 8, 9), "stage1": (8, 8, 9), "stage2": (4, 4, 9),
         "stage3": (2, 2, 9), "pooled": (9,)}


def parsed(*words):
  return command_line.parse([f"--config={ROOT / 'configs/mnist.py'}", *words])[0]


# Pairs.


def test_each_method_has_taps_of_its_own_choice():
  chosen = lambda name, given=(): methods.bind(
      methods.find(name), SMALL, LARGE, given)[1]
  assert chosen("kd") == ()
  assert chosen("hint") == (("stage2", "stage2"),)
  assert chosen("rkd") == (("pooled", "pooled"),)
  assert chosen("hint+rkd") == (("stage2", "stage2"), ("pooled", "pooled"))
  assert chosen("hint", methods.ALL) == (
      ("stage1", "stage1"), ("stage2", "stage2"))
  assert chosen("hint", (("stage1", "stage3"),)) == (("stage1", "stage3"),)


@pytest.mark.parametrize(("name", "given", "says"), [
    ("hint", (("stage9", "stage2"),), "the student has no tap 'stage9'"),
    ("hint", (("stage2", "hidden"),), "the teacher has no tap 'hidden'"),
])
def test_a_tap_that_is_not_there_is_told(name, given, says):
  with pytest.raises(ValueError, match=says):
    methods.bind(methods.find(name), SMALL, LARGE, given)


@pytest.mark.parametrize(("name", "given", "fits"), [
    # A map of half the size has a layer, one of a quarter has none.
    ("kd+hint", (("stage3", "stage1"),), ("stage3", "stage2")),
    ("hint", (("stage2", "stage2"), ("pooled", "stage1")), ("pooled", "pooled")),
    ("rkd", (("stage1", "pooled"),), ("pooled", "pooled")),  # Its terms refuse it.
])
def test_taps_that_cannot_be_compared_come_with_those_that_can(name, given, fits):
  student = {"stage1": (32, 32, 4), "stage2": (16, 16, 8), "stage3": (8, 8, 8),
             "pooled": (8,)}
  teacher = {tap: (*shape[:-1], 2 * shape[-1]) for tap, shape in student.items()}
  method = methods.find(name)
  numbers = hyper(numbers=dict(method.numbers))
  wrong = given[-1]
  with pytest.raises(ValueError) as error:
    fitting.check(method, student, teacher, given, numbers)
  for tap, of in zip(wrong, (student, teacher)):
    assert f"{tap} ({'x'.join(map(str, of[tap]))})" in str(error.value)
  assert str(fits) in str(error.value).rpartition("what fits")[2]
  assert str(wrong) not in str(error.value)
  fitting.check(method, student, teacher, (fits,), numbers)


def test_nets_without_a_stage_in_common_are_told():
  with pytest.raises(ValueError, match="no stage of the same name"):
    methods.bind(methods.find("hint"), {"conv_0": (8,)}, LARGE, methods.ALL)
  with pytest.raises(ValueError, match="the student has none; its taps are pooled"):
    methods.bind(methods.find("hint"), {"pooled": (8,)}, LARGE, ())


# A method of one's own: one function, and one entry.


def counting(own, student, teacher, batch, hparams):
  """Labels, the distance of the taps through a matrix, and a count of the steps."""
  hard = methods.METHODS["hard"].terms(
      own, student, teacher, batch, hparams)["hard"].value
  (tap,), (other,) = student.features.values(), teacher.features.values()
  gap = jnp.sum(jnp.square(tap @ own.params["matrix"] - other), axis=-1)
  seen = jnp.sum(batch.mask, dtype=jnp.int32)
  if own.axis_name is not None:
    seen = jax.lax.psum(seen, own.axis_name)
  return Changed(
      {"hard": Term(hparams.hard_weight, hard), "gap": Term(0.01, gap)},
      {"examples": own.state["examples"] + seen})


def start(key, student, teacher):
  (own,), (other,) = student.values(), teacher.values()
  return ({"matrix": 0.1 * jax.random.normal(key, (own[0], other[0]))},
          {"examples": jnp.int32(0)})


@pytest.fixture
def toy(monkeypatch):
  monkeypatch.setitem(methods.METHODS, "toy", methods.Method(
      "CE + 0.01 * |A f - g|**2", start, counting, pairs=lambda student, teacher: (
          ("hidden_0", "pooled"),), softens=False, numbers={},
      setting={"hard_weight": 1.0, "soft_weight": 0.0}))
  modes._segment.cache_clear()
  yield
  modes._segment.cache_clear()


def test_a_method_has_parameters_and_state_of_its_own(toy):
  learns, numbers = modes.learner("toy"), modes.hparams("toy")
  assert learns.pairs == (("hidden_0", "pooled"),)
  state = modes.begun(learns, jax.random.key(0), numbers)
  before = np.array(state.method["matrix"])
  after, totals = modes.single("toy", numbers, cuts=(3, 1), state=state)
  # Three steps of an epoch of 64 in batches of 24, and the first of the next.
  assert int(after.method_state["examples"]) == 64 + 24
  assert before.shape == (8, 12)
  assert np.abs(after.method["matrix"] - before).max() > 0
  # Of each term a gradient with respect to logits, and to the taps.
  assert totals["gradient_hard"].total > 0 and totals["gradient_gap"].total == 0
  assert totals["gradient_hard_taps"].total == 0 < totals["gradient_gap_taps"].total


@pytest.mark.parametrize("check", [
    modes.check_lanes, lambda method: modes.check_devices(method, "pmap"),
    lambda method: modes.check_devices(method, "sharded")])
def test_a_method_of_ones_own_runs_in_every_mode(toy, check):
  check("toy")


def test_a_method_of_ones_own_is_resumed(toy, tmp_path):
  modes.check_resume("toy", tmp_path)


@pytest.mark.parametrize("method", ["hint", "kd+rkd", "kd+hint+rkd"])
def test_padding_is_a_slice(method):
  """Also in the statistics of a regressor."""
  learns, numbers = modes.learner(method), modes.hparams(method)
  data, key = modes.digits(), jax.random.key(0)
  step = jax.jit(step_lib.make_step(learns))

  def after(ids, valid):
    batch = segment_lib.take(data, modes.NONE, ids, 0 * ids, valid)
    # What padding holds must not matter.
    batch = batch._replace(inputs=jnp.where(
        valid[:, None, None, None], batch.inputs, 7.0))
    state = modes.begun(learns, key, numbers)
    return step(state, batch, learns.teacher.arrays, numbers, key)

  ids = jnp.arange(12, dtype=jnp.int32)
  padded, told = after(ids, ids < 9)
  alone, says = after(ids[:9], ids[:9] < 9)
  for one, other in zip(jax.tree.leaves((modes.own(padded), told)),
                        jax.tree.leaves((modes.own(alone), says)), strict=True):
    np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-5)


# Several at once.


def example(method, numbers):
  """Terms of a bound method on random outputs."""
  draw = jax.random.normal(jax.random.key(0), (4, 6, 8))
  batch = types.Batch(None, jnp.arange(6), None, None, jnp.ones(6, bool))
  bound, pairs = methods.bind(
      methods.find(method), {"hidden_0": (8,), "pooled": (8,)},
      {"hidden_0": (8,), "pooled": (8,)}, ())
  taps = {"hidden_0": draw[0], "pooled": draw[1]}
  others = {"hidden_0": draw[2], "pooled": draw[3]}
  named = lambda taps, of: {"-".join(pair): taps[pair[of]] for pair in pairs}
  shapes = lambda taps, of: {k: v.shape[1:] for k, v in named(taps, of).items()}
  own = Own(*bound.init(jax.random.key(1), shapes(taps, 0), shapes(others, 1)))
  return terms_lib.and_state(bound.terms(
      own, types.Outputs(draw[0], named(taps, 0)),
      types.Outputs(draw[1], named(others, 1)), batch,
      hyper(numbers=numbers)), own)


def test_together_there_is_one_term_of_the_labels_and_each_further_one():
  weights = {"rkd_weight": 2.0, "rkd_distance": 3.0, "rkd_angle": 5.0}
  both = example("kd+rkd", weights).terms
  kd = example("kd", None).terms
  rkd = example("rkd", {"weight": 2.0, "distance": 3.0, "angle": 5.0}).terms
  assert list(both) == ["hard", "soft", "distance", "angle"]
  assert [float(both[name].weight) for name in ("distance", "angle")] == [6.0, 10.0]
  for name in both:
    source = kd if name in kd else rkd
    np.testing.assert_array_equal(both[name].value, source[name].value)
    np.testing.assert_array_equal(both[name].weight, source[name].weight)


def test_together_each_has_its_own_taps_and_state():
  three = example("kd+hint+rkd", {"hint_weight": 1.0, "rkd_weight": 1.0,
                                  "rkd_distance": 1.0, "rkd_angle": 1.0})
  assert list(three.terms) == ["hard", "soft", "hint", "distance", "angle"]
  assert set(three.state["hint"]) == {"hidden_0-hidden_0"}
  assert three.state["kd"] == three.state["rkd"] == {}


def test_the_formula_of_several_names_every_number():
  method = methods.find("dkd+rkd")
  assert method.named() == (
      "h * CE + s * T**2 * (dkd.alpha * TCKD + dkd.beta * NCKD) + "
      "rkd.weight * (rkd.distance * D + rkd.angle * A)")
  numbers = dict.fromkeys(("temperature", "hard_weight", "soft_weight"), 1.5)
  assert method.formula.format(**numbers, **method.numbers).endswith(", T = 1.5")


def test_numbers_of_several_are_keys_and_lanes():
  config = parsed("--config.method=kd+rkd", "--config.rkd.weight=0.5")
  assert names.numbers(config_lib.flatten(config)) == {
      "rkd_weight": 0.5, "rkd_distance": 25.0, "rkd_angle": 50.0}
  group, = groups(config, sweep.product({"rkd.weight": (0.1, 1.0)}))
  assert [float(build.student_hparams(lane.values).numbers["rkd_weight"])
          for lane in group] == [np.float32(0.1), 1.0]


def test_the_identity_of_several_has_the_numbers_of_each_and_no_other():
  values = config_lib.flatten(parsed("--config.method=kd+rkd"))
  of = lambda values: identity.student(
      values, content="d", source={}, method=values["method"], weights=(1, 1))
  assert "rkd.weight" not in of(values), "a later key at its default"
  other = of(values | {"rkd.weight": 0.5})
  assert other == of(values) | {"rkd.weight": 0.5}
  assert of(values | {"hint.weight": 0.5, "dkd.beta": 1.0}) == of(values)
  assert "rkd.weight" not in of(values | {"method": "kd", "rkd.weight": 0.5})


@pytest.mark.parametrize(("words", "says"), [
    (("--config.method=kd+foo",), "no such method"),
    (("--config.method=rkd+kd",), "kd cannot follow a +"),
    (("--config.method=kd+rkd+rkd",), "once each"),
    (("--config.method=kd+simkd", "--config.teacher.count=2"), "of one alone"),
    (("--config.method=kd+rkd", "--config.teacher.logits=x.npy"), "has none"),
])
def test_mistakes_are_told_before_any_work(words, says):
  with pytest.raises(UserError, match=says.replace("+", r"\+")) as error:
    build.check_names(parsed(*words))
  assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("words", [
    ("--config.hint.weight=2",),
    ("--config.method=kd+rkd", "--config.hint.weight=2"),
    ("--config.features.pairs=('a','b')",)])
def test_words_that_are_not_heard_are_refused(words):
  with pytest.raises(UserError):
    parsed(*words)


# Gradients of terms apart, and modules that stay.


def summed(own, gradients, hparams):
  """What the step does by itself."""
  del own, hparams
  return jax.tree.map(lambda *parts: sum(parts[1:], parts[0]), *gradients.values())


def only_gap(own, gradients, hparams):
  """The gradient of one term alone."""
  del own, hparams
  return gradients["gap"]


def test_a_method_may_have_its_gradients_apart(toy, monkeypatch):
  numbers = modes.hparams("toy")
  plain, _ = modes.single("toy", numbers)

  def run(combined, number):
    monkeypatch.setitem(methods.METHODS, "toy", methods.METHODS["toy"]._replace(
        gradients=combined))
    modes._segment.cache_clear()
    return modes.single("toy", number)[0]

  for one, other in zip(jax.tree.leaves(modes.own(run(summed, numbers))),
                        jax.tree.leaves(modes.own(plain)), strict=True):
    np.testing.assert_allclose(one, other, rtol=2e-4, atol=1e-6)
  # Without the labels' gradient it is the run without their weight.
  without = numbers.replace(hard_weight=jnp.float32(0))
  for one, other in zip(jax.tree.leaves(modes.own(run(only_gap, numbers))),
                        jax.tree.leaves(modes.own(run(summed, without))),
                        strict=True):
    np.testing.assert_allclose(one, other, rtol=2e-4, atol=1e-6)
  modes.check_lanes("toy")
  modes.check_devices("toy", "pmap")


def head(own, student, teacher, batch, hparams):
  """Labels learnt through a layer of the method, which stays."""
  said = staying(own, student)
  hard = methods.METHODS["hard"].terms(
      own, said, teacher, batch, hparams)["hard"].value
  return {"hard": Term(hparams.hard_weight, hard)}


def staying(own, outputs):
  return outputs._replace(logits=outputs.logits @ own.params["layer"])


def test_a_module_that_stays_is_counted_saved_and_evaluated(
    own_data, tmp_path, monkeypatch):
  monkeypatch.chdir(ROOT)
  begin = lambda key, student, teacher: (
      {"layer": jnp.eye(7) + 0.1 * jax.random.normal(key, (7, 7))}, {})
  monkeypatch.setitem(methods.METHODS, "head", methods.Method(
      "CE through a layer", begin, head, needs_teacher=False, softens=False,
      inference=staying))
  words = [
      "--config=configs/mnist.py", "--config.data.name=blobs",
      f"--config.data.dir={own_data}", "--config.method=head",
      "--config.student.widths=(8,)", "--config.steps=40", "--config.alpha=0",
      "--config.batch_size=64", "--config.tensorboard=false",
      "--config.parallel=single", "--config.data.holdout=0.1"]
  with jax.numpy_dtype_promotion("standard"):
    assert main.run([*words, f"--workdir={tmp_path / 'w'}"]) == 0
    assert main.run([*words, f"--workdir={tmp_path / 's'}", "--sweep.seed=0,1",
                     "--config.sweep.lanes=1x1"]) == 0
  rows = [json.loads(line) for line in
          (tmp_path / "w/results.jsonl").read_text().splitlines()]
  plain, stays = 120 * 8 + 8 + 8 * 7 + 7, 49
  assert [row["parameters"] for row in rows] == [plain, plain + stays]
  found = data.load("blobs", directory=own_data)
  for net in ("distilled", "distilled_best"):
    held = load_parameters(tmp_path / "w/parameters" / net)
    assert held.params["method"]["layer"].shape == (7, 7)
  model = MODELS["mlp"](num_classes=7, widths=(8,))
  held = load_parameters(tmp_path / "w/parameters/distilled")
  logits = model.apply(
      types.Variables(held.params["student"], {}),
      found.test.inputs.astype(np.float32) / 255, train=False)[0].logits
  wrong = np.argmax(logits @ held.params["method"]["layer"], -1) != found.test.label
  assert np.flatnonzero(wrong).tolist() == rows[1]["test_wrong_ids"]
  lane = json.loads((tmp_path / "s/results.jsonl").read_text().splitlines()[0])
  assert lane["test_wrong_ids"] == rows[1]["test_wrong_ids"]
  assert lane["parameters"] == plain + stays


# Teachers of taps: stored where they are small, live where they are not.


@pytest.fixture
def run(own_data, tmp_path, teachers, monkeypatch, capsys):
  """Runs a small job on features; gives its distilled row and what it said."""
  monkeypatch.chdir(ROOT)

  def runs(*more, workdir="w"):
    with jax.numpy_dtype_promotion("standard"):
      code = main.run([
          "--config=configs/mnist.py", "--config.data.name=blobs",
          f"--config.data.dir={own_data}", f"--workdir={tmp_path / workdir}",
          f"--config.teacher.dir={teachers}",
          "--config.student.widths=(8,)", "--config.teacher.widths=(12,)",
          "--config.steps=12", "--config.teacher.steps=12",
          "--config.batch_size=300", "--config.tensorboard=false",
          "--config.parallel=single", *more])
    said = capsys.readouterr()
    if code:
      return None, said.err
    lines = (tmp_path / workdir / "results.jsonl").read_text().splitlines()
    return json.loads(lines[-1]), said.out
  return runs


@pytest.mark.parametrize("method", [
    pytest.param("kd+rkd", marks=pytest.mark.slow), "kd+hint"])
def test_small_taps_are_stored_and_teach_as_a_live_teacher_does(run, method):
  stored, said = run(f"--config.method={method}", "--config.teacher.bank=always",
                     "--config.student.views=shift2")
  live, says = run(f"--config.method={method}", "--config.teacher.bank=never",
                   "--config.student.views=shift2", workdir="live")
  assert "teacher: live" in says and "teacher: live" not in said
  assert stored["test_nll"] == pytest.approx(live["test_nll"], rel=1e-4)
  assert stored["fingerprint"] == live["fingerprint"]
  assert ("+ 100 * |r(f) - g|**2 / size" in said) == (method == "kd+hint")


CNN = ("--config.student.name=cnn", "--config.student.widths=(2,3)",
       "--config.teacher.name=cnn", "--config.teacher.widths=(2,3)",
       "--config.method=kd+hint")


@pytest.mark.slow
def test_maps_are_not_stored_and_the_run_says_so(run, tmp_path):
  _, said = run(*CNN)
  assert "teacher: live, as method kd+hint compares features" in said
  assert not (tmp_path / "w/banks").exists()
  _, error = run(*CNN, "--config.teacher.bank=always", workdir="always")
  assert "is too large to store; use teacher.bank=auto" in error
  assert not (tmp_path / "always/parameters").exists()


# Both nets' last layers.

STAGES = ("--config.student.name=resnet", "--config.student.widths=(2,2,3)",
          "--config.student.model.depth=8", "--config.teacher.name=resnet",
          "--config.teacher.widths=(2,3,4)", "--config.teacher.model.depth=8",
          "--config.steps=3", "--config.teacher.steps=3")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["simkd", "kd+simkd", "kd+rkd+simkd"])
def test_a_reused_classifier_is_in_the_net_that_comes_out(
    run, tmp_path, teachers, method):
  row, _ = run(*STAGES, f"--config.method={method}")
  held = load_parameters(tmp_path / "w/parameters/distilled")
  own = held.state["method"]
  head = (own if method == "simkd" else own["simkd"])["head"]
  saved = [load_parameters(path.parent) for path in teachers.rglob("arrays")]
  assert sum(np.array_equal(net.params["Dense_0"]["kernel"], head["kernel"])
             for net in saved) == 1
  # 3 to 2, 3 x 3 of 2, and 2 to 4 channels, each with BatchNorm.
  student = MODELS["resnet"](num_classes=7, depth=8, widths=(2, 2, 3))
  image = jnp.zeros((1, 12, 10, 1))
  plain = sum(x.size for x in jax.tree.leaves(
      jax.eval_shape(student.init, jax.random.key(0), image).params))
  assert row["parameters"] == plain + (6 + 4) + (36 + 4) + (8 + 8)
  assert row["loss"].partition(", T = ")[0].endswith(
      "then the teacher's last layer")
  assert ("T**2 * KL" in row["loss"]) == ("kd+" in method)


def test_of_several_methods_only_what_stays_is_in_the_net():
  learner = modes.learner("kd+hint+simkd")
  state = step_lib.init(learner, jax.random.key(0), modes.digits().preprocess(
      modes.digits().inputs[:1]), modes.hparams("kd+hint+simkd"))
  assert state.method.keys() == {"kd", "hint", "simkd"}
  held = step_lib.deployed_variables(learner, state)
  assert held.params["method"].keys() == held.state["method"].keys() == {"simkd"}
  with pytest.raises(KeyError, match="simkd"):
    methods.find("kd+simkd+simkd")


def test_training_errors_of_a_module_that_stays_are_those_of_the_whole_net():
  learns, numbers = modes.learner("simkd"), modes.hparams("simkd")
  digits, key, arrays = modes.digits(), jax.random.key(0), learns.teacher.arrays
  batch = segment_lib.take(
      digits, modes.NONE, digits.ids, digits.ids * 0, digits.ids < 60)
  step = jax.jit(step_lib.make_step(learns))
  # After the first step it has the teacher's last layer.
  state, _ = step(
      modes.begun(learns, key, numbers), batch, arrays, numbers, key, digits.label)
  outputs, _ = learns.model.apply(
      state.student, batch.inputs, train=True, mask=batch.mask)
  whole = learns.method.inference(
      terms_lib.Own(state.method, state.method_state),
      step_lib.compared(outputs, learns.pairs, 0))
  # If the labels are what the whole net says, it makes no error.
  for logits, none in ((whole.logits, True), (outputs.logits, False)):
    label = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    _, totals = step(
        state, batch._replace(label=label), arrays, numbers, key, digits.label)
    assert (totals["errors"].total == 0) == none


@pytest.mark.slow
def test_a_method_that_looks_at_weights_asks_a_live_teacher(run):
  row, said = run("--config.method=kd+wkd_l")
  assert "teacher: live, as method kd+wkd_l looks at its weights" in said
  assert "W of the other classes" in row["loss"]
  assert row["loss"].endswith("of the run on, T = 8")


@pytest.mark.slow
def test_a_teacher_of_mixed_inputs_is_asked_live(run):
  # A bank would be cheaper here: there is one view.
  _, said = run("--config.method=kd", "--config.mixup=0.2")
  assert "teacher: live, as mixup mixes what it sees" in said
  row, said = run("--config.method=kd", workdir="v")
  assert row["net"] == "distilled" and "teacher: live" not in said


@pytest.mark.parametrize(("words", "says"), [
    (("--config.method=cat",), "it compares maps of both nets, and the student"),
    ((*CNN[:-1], "--config.method=hint",
      "--config.features.pairs=(('conv_1','conv_0'),)"),
     "no layer takes a student's tap of shape"),
    ((*CNN[:-1], "--config.method=rkd",
      "--config.features.pairs=(('conv_1','conv_1'),)"),
     "relations need embeddings"),
    ((*STAGES, "--config.method=cat", "--config.features.pairs=all"),
     "it compares one map of both nets, not 3"),
    ((*STAGES, "--config.method=cat",
      "--config.features.pairs=(('stage1','stage3'),)"),
     "a net's last map has 2 channels")])
def test_taps_that_fit_no_module_are_told_before_any_training(
    run, tmp_path, words, says):
  _, error = run(*words)
  assert says in error and "config.features.pairs" in error
  assert len(error.strip().splitlines()) == 1
  assert not (tmp_path / "w/parameters").exists()
