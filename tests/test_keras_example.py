"""The study of Keras's example: its nets, its plan, its verdicts."""

import json
import pathlib
import types

from conftest import ROOT
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import words
from experiments.keras_example import as_run, config, study
from experiments.keras_example.model import Net
from experiments.protocol import Options, Place
from kd_jax import config as config_lib
from kd_jax import data as data_lib
from kd_jax import losses, methods, report
from kd_jax.config import build, names
from kd_jax.config import run as run_lib
from kd_jax.core import types as kd_types
from kd_jax.core.errors import UserError
from kd_jax.methods import terms as terms_lib
from kd_jax.models.convolutional import Cnn
from kd_jax.training import parameters, step

LENGTHS = (3, 10)


@pytest.fixture(autouse=True)
def _as_users_run_it():
  with jax.numpy_dtype_promotion("standard"):
    yield


def mnist() -> data_lib.Dataset:
  """Of MNIST's sizes, without pixels of their own."""
  examples = data_lib.Examples(
      np.broadcast_to(np.uint8(0), (60_000, 28, 28, 1)),
      np.zeros(60_000, np.int32))
  return data_lib.Dataset(
      name="mnist", source="fake", notice="", train=examples, test=examples,
      train_ids=np.arange(60_000, dtype=np.int32),
      heldout_ids=np.zeros((0,), np.int32), num_classes=10, fingerprint="")


@pytest.mark.parametrize(("widths", "number"), [
    # 9 * 256 + 256; 9 * 256 * 512 + 512; 49 * 512 * 10 + 10: Keras's summary.
    ((256, 512), 2_560 + 1_180_160 + 250_890),
    ((16, 32), 160 + 4_640 + 15_690)])
def test_the_nets_have_as_many_parameters_as_published(widths, number):
  image = jnp.zeros((1, 28, 28, 1))
  shapes = jax.eval_shape(Net(10, widths).init, jax.random.key(0), image)
  assert parameters.num_parameters(shapes["params"]) == number
  assert number in (1_433_610, 20_490)


def test_weights_start_as_keras_starts_them():
  image = jnp.zeros((1, 28, 28, 1))
  params = jax.jit(Net(10).init)(jax.random.key(0), image)["params"]
  # Glorot: uniform within sqrt(6 / (fan in + fan out)), 9 weights a channel pair.
  for name, fans in (("Conv_0", 9 * (1 + 16)), ("Conv_1", 9 * (16 + 32)),
                     ("Dense_0", 49 * 32 + 10)):
    limit = (6 / fans) ** 0.5
    largest = float(jnp.max(jnp.abs(params[name]["kernel"])))
    assert 0.95 * limit < largest <= limit, name
    assert not jnp.any(params[name]["bias"])


def drawn(shapes):
  """Parameters of these shapes; to compile an initialiser takes seconds."""
  draw = np.random.default_rng(0)
  return jax.tree.map(
      lambda leaf: np.float32(draw.normal(0, 0.3, leaf.shape)), shapes)


def test_the_products_of_matrices_are_the_convolutions():
  # An even and an odd size: "same" pads them in unlike ways.
  image = np.float32(np.random.default_rng(1).uniform(size=(3, 10, 9, 2)))
  net, plain = Net(10, (4, 6)), Cnn(10, (4, 6))
  held = drawn(jax.eval_shape(net.init, jax.random.key(0), image))

  @jax.jit
  def both(held):
    told = []
    for said in (lambda held: net.apply(held, image),
                 lambda held: plain.apply(held, image)[0]):
      logits, back = jax.vjp(said, held)
      told.append((logits, back(jnp.cos(logits))))
    return told

  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5),
               *both(held))


def test_the_config_is_the_example():
  own = config.get_config()
  config_lib.check(own)
  student, teacher = build.student(own, mnist()), build.teacher(own, mnist(), 0)
  assert (student.total_steps, teacher.total_steps) == (3 * 1875, 5 * 1875)
  for training in (student, teacher):
    assert training.optimizer_spec.name == "adam"
    assert training.optimizer_spec.epsilon == 1e-7
    assert training.hparams.learning_rate == np.float32(1e-3)
    schedule = training.optimizer_spec.schedule
    assert {float(schedule(n)) for n in (0, 9, 5624)} == {1.0}
  np.testing.assert_allclose(
      [student.hparams.hard_weight, student.hparams.soft_weight,
       student.hparams.temperature], [0.1, 0.9, 10.0], rtol=1e-6)
  with pytest.raises(UserError, match="no variant is called smok"):
    config.get_config("smok")


def test_without_t_squared_is_the_first_versions_loss():
  point = study.points({}, LENGTHS)["distilled without T**2, 3 epochs"]
  hparams = kd_types.Hparams(**{key: point[key] for key in (
      "hard_weight", "soft_weight", "temperature")})
  z, v = jax.random.normal(jax.random.key(0), (2, 5, 10))
  label = jnp.arange(5)
  terms = methods.METHODS["kd"].terms(
      {}, kd_types.Outputs(z, {}), kd_types.Outputs(v, {}),
      types.SimpleNamespace(label=label, mixed=None), hparams)
  wanted = 0.1 * losses.hard_cross_entropy(z, label) + (
      0.9 * losses.distillation_kl(z, v, 10.0))
  np.testing.assert_allclose(terms_lib.total(terms), wanted, rtol=1e-5)


def test_the_plan_is_what_the_readme_says():
  choosing, table, last = study.stages(Options(pathlib.Path("anywhere")))
  first = choosing.config({})
  # 8 settings for labels alone, 8 for distilling, 2 seeds.
  assert len(first.sweep.points) == 16 * 2
  assert [len(each) for each in study._SETTINGS.values()] == [8, 8]
  assert first.data.holdout == 0.1 and first.teacher.epochs == 1
  second = table.config({})
  # (2 lengths x (scratch, distilled, both chosen) + one without T**2) x 10.
  assert len(second.sweep.points) == 9 * 10
  assert second.data.holdout == 0 and second.teacher.epochs == 5
  assert second.data.embedded == first.data.embedded == "never"
  assert last.config is None and last.run is not None
  small = study.stages(Options(pathlib.Path("anywhere"), quick=True))
  assert small[1].config({}).data.embedded == "only"


def chosen(setting, curve, **more):
  return {"overrides": {**setting, "seed": 100}, "failed": None,
          "heldout_curve": curve, "test_errors": 0} | more


def test_settings_are_chosen_on_held_out_data_for_each_length():
  first, second = study._SETTINGS["distilled"][:2]
  other = study._SETTINGS["scratch"][5]
  rows = [chosen(first, [9, 9, 20, 9, 9, 9, 9, 9, 9, 30]),
          chosen(second, [9, 9, 21, 9, 9, 9, 9, 9, 9, 29]),
          chosen(study._SETTINGS["distilled"][2], [0] * 10, failed="nan"),
          chosen(other, [1] * 10)]
  assert study.choose(rows, "distilled", 3) == first
  assert study.choose(rows, "distilled", 10) == second
  assert study.choose(rows, "scratch", 3) == other


# Errors of 10,000 that a seed adds, alike for rows that are compared.
NOISE = (0, 30, -20, 10, -10, 20, 5, -30, 10, -15)


def planted(errors, seeds=10, teacher=220):
  """Rows whose mean errors are those named, the noise mostly the seed's."""
  rows = []
  for name, point in study.points({}, LENGTHS).items():
    mean = errors.get(name, errors["others"])
    for seed in range(seeds):
      rows.append({
          "overrides": point | {"seed": seed}, "seed": seed, "failed": None,
          "test_errors": mean + NOISE[seed] + (7 * seed + mean) % 11 - 5,
          "test_examples": 10_000,
          "curve": {"train_hard": [0.5, 0.1], "train_soft": [2.0, 0.3]}})
  # Nothing is chosen here, so that a name may mean what an earlier one does.
  distinct: dict[str, dict] = {}
  for row in rows:
    distinct.setdefault(json.dumps(row["overrides"], sort_keys=True), row)
  return {"table": list(distinct.values()), "choosing": [], "teachers": [{
      "net": "teacher", "test_errors": teacher, "test_examples": 10_000,
      "train_hard": 0.06}]}


def test_a_gain_is_told_with_its_size():
  rows = planted({"others": 250, "scratch, 3 epochs": 250,
                  "distilled, 3 epochs": 200, "distilled, 10 epochs": 250})
  said = study.conclude(json.loads(json.dumps(rows)))
  assert "A gain over training from scratch: shown." in said
  assert "A gain of +0.5 points: the interval has it." in said
  assert "Better than the teacher: shown." in said
  line = next(x for x in said.splitlines() if x.startswith("| distilled |"))
  # 200 errors are 98.0%: 98.1 is one of such runs, 96.92 is none; and the loss
  # is 0.1 * 0.1 + 0.9 * 0.3.
  assert line.startswith(
      "| distilled | 98.1 | not excluded | 96.92 | excluded, below | 98.00 ±")
  assert line.endswith("| 0.0223 | 0.2800 ± 0.0000 (10) |")
  assert "| 97.6 |  | 97.81 |  | 97.80 (1) | 0.0582 | 0.0600 (1) |" in said
  assert study.status(rows).startswith("gain in points: +0.51 [+0.46, +0.55]")


def test_no_gain_and_a_loss_are_told():
  said = study.conclude(planted({"others": 230}))
  assert "A gain over training from scratch: not shown." in said
  assert "the interval does not have it" in said
  said = study.conclude(planted({"others": 230, "distilled, 3 epochs": 300}))
  assert "A gain over training from scratch: no, a loss is shown." in said
  assert "Better than the teacher: no, a loss is shown." in said


def test_published_numbers_are_compared_with_what_their_version_computes():
  rows = planted({"others": 230})
  moved = {"row": "teacher not frozen", "overrides": {"alpha": 0.9},
           "test_examples": 10_000, "train_hard": 0.1, "train_soft": 0.02}
  rows["as_run"] = [
      moved | {"seed": seed, "test_errors": errors}
      for seed, errors in enumerate((300, 310, 320))]
  said = study.conclude(rows)
  # 97, 96.9, 96.8: 96.9 ± t(2) 0.1 sqrt(4/3) = 4.303 * 0.1155 = 0.50.
  assert ("96.92% as one more run of this version (as run: teacher not frozen): "
          "not excluded by [96.40, 97.40], of 3 runs from one teacher.") in said
  assert "roles swapped)" not in said
  # 0.1 * 0.1 + 0.9 * 0.02.
  assert "0.0280 ± 0.0000 (3/1) |" in said


def test_a_single_run_lies_within_more_than_the_mean():
  # 1, 2, 3: s = 1, t(2) = 4.303, times sqrt(4/3).
  low, high = words.single([1.0, 2.0, 3.0])
  assert [round(low, 2), round(high, 2)] == [-2.97, 6.97]
  assert words.single([1.0]) is None


def test_few_rows_or_none_are_no_verdict():
  assert "No row" in study.conclude({"table": [], "choosing": [], "teachers": []})
  assert "Too few" in study.conclude(planted({"others": 230}, seeds=1))


def test_a_teacher_that_is_not_frozen_has_a_gradient():
  teacher = build.models.linen_model(Net(10, (2, 3)))
  image = np.float32(np.random.default_rng(1).uniform(size=(4, 8, 8, 1)))
  params = drawn(jax.eval_shape(teacher.init, jax.random.key(0), image)).params
  batch = types.SimpleNamespace(inputs=image, label=jnp.arange(4), mixed=None)
  student = kd_types.Outputs(jax.random.normal(jax.random.key(2), (4, 10)), {})
  hparams = kd_types.Hparams(
      temperature=10.0, hard_weight=0.1, soft_weight=0.9)

  def schedules(params):
    return terms_lib.total(as_run._moving_terms(teacher)(
        terms_lib.Own(params, {}), student, None, batch, hparams))

  def frozen(params):
    said, _ = teacher.apply(
        kd_types.Variables(params, {}), image, train=False)
    return terms_lib.total(methods.METHODS["kd"].terms(
        {}, student, said, batch, hparams))

  @jax.jit
  def told(params):
    pulled = [jax.vjp(loss, params) for loss in (schedules, frozen)]
    return [(loss, back(jnp.ones(4))[0]) for loss, back in pulled]

  (loss, gradient), (same, none) = told(params)
  np.testing.assert_allclose(loss, same, rtol=2e-4)
  assert all(np.any(leaf) for leaf in jax.tree.leaves(gradient))
  assert not any(np.any(leaf) for leaf in jax.tree.leaves(none))


@pytest.fixture
def small(own_data):
  """The config on 300 noisy patterns, and a teacher as if it were trained."""
  own = config.get_config()
  own.data.name, own.data.dir = "blobs", str(own_data)
  own.student.widths, own.teacher.widths = (2, 3), (4, 5)
  dataset = build.dataset(own)
  net, *_ = names.model(
      own.teacher.name, {"widths": own.teacher.widths}, dataset, prefix="teacher")
  trained = drawn(jax.eval_shape(
      net.init, jax.random.key(0), jnp.zeros((1, 12, 10, 1))))
  return own, dataset, trained


def test_in_one_version_both_nets_are_trained(small):
  own, dataset, trained = small
  bench = types.SimpleNamespace(dataset=dataset, run=run_lib.read(own))
  training, learner = as_run.moving(own, bench, 7, trained)
  assert training.seed == 7 and learner.teacher is None
  state = jax.eval_shape(
      lambda key: step.init(learner, key, jnp.zeros((1, 12, 10, 1)),
                             training.hparams), jax.random.key(0))
  size = parameters.num_parameters
  assert size(state.method) == size(trained.params) > size(state.student.params)
  assert learner.method.formula.endswith("teacher trained too")


@pytest.mark.slow
def test_in_the_other_the_teacher_learns_on(small, tmp_path, monkeypatch):
  own, _, trained = small
  name = "roles swapped"
  monkeypatch.setattr(as_run, "_POINTS", {name: as_run._POINTS[name]})
  place = Place(tmp_path / "as_run", lambda: False, print)
  rows = {"teachers": [{"net": "teacher", "fingerprint": "f"}]}
  parameters.save_net(
      tmp_path / "table/parameters/teacher", trained, {"fingerprint": "f"})
  for _ in range(2):  # The second time nothing is trained.
    as_run.run(own, 1, [0], rows, place)
    row, = report.read(tmp_path / "as_run")
    # A row of a teacher that is no more, which the next run leaves out.
    with (tmp_path / "as_run/results.jsonl").open("a") as file:
      file.write(json.dumps(row | {"fingerprint": "other"}) + "\n")
  assert row["row"] == name and row["loss"].startswith("0.1 * CE + 0.009 * T")
  assert len(row["test_wrong_ids"]) == row["test_errors"]
  kept = parameters.load_parameters(
      tmp_path / "as_run/parameters/roles_swapped_0").params
  # 300 examples are 10 steps of Adam, of 1e-3 each: not far from the teacher.
  gaps = jax.tree.leaves(jax.tree.map(
      lambda a, b: float(np.max(np.abs(a - b))), kept, trained.params))
  assert 0 < max(gaps) < 0.02


@pytest.mark.slow
def test_without_the_tables_teacher_it_is_trained_anew(
    small, tmp_path, monkeypatch):
  own, _, _ = small
  own.teacher.epochs = 1
  monkeypatch.setattr(as_run, "_POINTS", {})
  as_run.run(own, 1, [0], {}, Place(tmp_path / "as_run", lambda: False, print))
  record = parameters.load_record(tmp_path / "as_run/parameters/teacher")
  assert record["epoch"] == 1 and record["test_examples"] == 110
  assert not (tmp_path / "as_run/banks").exists()


def test_the_readme_tells_the_plan():
  text = (ROOT / "experiments/keras_example/README.md").read_text()
  assert "python -m experiments.reproduce keras_example" in text
  assert "Eight settings" in text and "ten seeds" in text
