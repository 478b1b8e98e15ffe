"""A set of which few labels are known: which, what is learnt of the others."""

import json

from conftest import ROOT
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_step import NONE, a_teacher, hyper, learner

from kd_jax import config as config_lib
from kd_jax import data, losses, main, teachers
from kd_jax.config import build, identity
from kd_jax.config import run as run_lib
from kd_jax.methods import terms
from kd_jax.runs import estimate
from kd_jax.training import inspection, metrics, peers, segment
from kd_jax.training import step as step_lib

LABELS = np.random.default_rng(0).integers(0, 7, 3000)
CONFIG = '''
from kd_jax import config as config_lib


def get_config():
  config = config_lib.default("teacher", "student")
  config.data.name, config.hard_weight, config.soft_weight = "blobs", 1.0, 1.0
  config.alpha, config.temperature, config.batch_size = None, 1.0, 32
  config.epochs = 2
  config.nets.teacher.widths = config.nets.student.widths = (16,)
  config.nets.student.teachers = ("teacher",)
  config.transfer.labelled, config.tensorboard = 21, False
  return config
'''


@pytest.fixture
def run(own_data, tmp_path, monkeypatch, capsys):
  """Runs a teacher and a student of 300 examples, 21 of them labelled."""
  monkeypatch.chdir(ROOT)
  file = tmp_path / "few.py"
  file.write_text(CONFIG)

  def go(*words):
    with jax.numpy_dtype_promotion("standard"):
      code = main.run([f"--config={file}", f"--config.data.dir={own_data}",
                       f"--workdir={tmp_path / 'run'}", *words])
    told = capsys.readouterr()
    if code:
      return code, told.err
    lines = (tmp_path / "run/results.jsonl").read_text().splitlines()
    return code, {row["net"]: row for row in map(json.loads, lines)}
  return go


# ---- Which labels are known.


def test_as_many_of_each_class_are_labelled():
  ids = np.arange(100, 3000)
  for number in (7, 10, 70, 301):
    chosen = data.labelled_ids(ids, LABELS, number=number)
    counts = np.bincount(LABELS[chosen], minlength=7)
    assert len(chosen) == number and counts.max() - counts.min() <= 1
    assert (np.diff(chosen) > 0).all() and chosen.min() >= 100


def test_fewer_labels_are_some_of_more_and_another_seed_draws_others():
  ids = np.arange(3000)
  chosen = [set(data.labelled_ids(ids, LABELS, number=n)) for n in (30, 300, 2999)]
  assert chosen[0] < chosen[1] < chosen[2]
  other = set(data.labelled_ids(ids, LABELS, number=300, seed=1))
  # Of two independent tenths 30 would be common.
  assert 12 < len(other & chosen[1]) < 60
  # Where a class has no more, the others have.
  few = np.where(np.arange(3000) < 5, 6, LABELS % 6)
  counts = np.bincount(few[data.labelled_ids(ids, few, number=700)])
  assert counts[6] == 5 and set(counts[:6]) == {115, 116}


def test_unknown_labels_stay_unknown():
  partly = np.where(np.arange(3000) % 2, LABELS, -1)
  chosen = data.labelled_ids(np.arange(3000), partly, number=1500)
  np.testing.assert_array_equal(chosen, np.arange(1, 3000, 2))


def test_a_student_sees_all_examples_and_few_labels(own_data):
  config = config_lib.default()
  config.data.name, config.data.dir = "blobs", str(own_data)
  config.data.holdout, config.transfer.labelled = 0.1, 21
  values = config_lib.flatten(config)
  whole = build.dataset(values)
  seen = build.transfer_set(values, whole)
  np.testing.assert_array_equal(seen.train_ids, whole.train_ids)
  known = seen.train_ids[seen.train.known[seen.train_ids]]
  assert len(known) == 21
  np.testing.assert_array_equal(seen.train.label[known], whole.train.label[known])
  # What is held out is judged by its labels.
  assert seen.train.known[whole.heldout_ids].all()
  assert whole.train.known.all(), "those of others are as they were"
  other = build.transfer_set(values | {"transfer.seed": 1}, whole)
  assert (other.train.known != seen.train.known).any()


def test_the_labelled_part_is_of_students_and_came_later():
  values = config_lib.flatten(config_lib.default())
  of = lambda values: (
      identity.student(values, content="d", source={}, method="kd", weights=(1, 1)),
      identity.member(values, content="d", source={}, seed=0))
  plain, few = of(values), of(values | {"transfer.labelled": 300})
  assert few[0] == plain[0] | {"transfer.labelled": 300} and few[1] == plain[1]


# ---- What a step makes of them.


def test_a_step_has_the_hard_term_of_known_labels_alone(key, device_data):
  ids = jnp.arange(32, dtype=jnp.int32)
  batch = segment.take(device_data, NONE, ids, ids * 0, ids < 30)
  known = np.arange(32) % 4 == 1
  few = batch._replace(label=jnp.where(known, batch.label, -1))
  teacher = a_teacher(key, batch.inputs)
  own = learner(teacher=teacher)._replace(unlabelled=True)
  state = step_lib.init(own, key, batch.inputs, hyper())
  after, totals = step_lib.make_step(own)(
      state, few, teacher.arrays, hyper(), key)

  def loss(params):
    logits = own.model.apply(
        state.student._replace(params=params), batch.inputs, train=False)[0].logits
    said = teachers.outputs(teacher, teacher.arrays, batch, 3.0).logits
    hard = losses.hard_cross_entropy(logits, batch.label)
    soft = 9 * losses.distillation_kl(logits, said, 3.0)
    # Over all 30 valid examples, of which 8 have a label.
    return jnp.sum((0.3 * jnp.where(known, hard, 0.0) + 0.7 * soft)[:30]) / 30

  wanted = jax.tree.map(lambda p, g: p - 0.5 * g, state.student.params,
                        jax.grad(loss)(state.student.params))
  jax.tree.map(lambda found, right: np.testing.assert_allclose(
      found, right, rtol=1e-5, atol=1e-7), after.student.params, wanted)
  logits = own.model.apply(state.student, batch.inputs, train=False)[0].logits
  assert (known[:30]).sum() == 8
  wrong = np.asarray(metrics.errors(logits, batch.label))[known][:8]
  assert int(totals["errors"].count) == 8
  assert int(totals["errors"].total) == wrong.sum()
  hard = losses.hard_cross_entropy(logits, batch.label)[known][:8]
  np.testing.assert_allclose(totals["hard"].compute(), hard.mean(), rtol=1e-5)
  # The term's gradient in the logits is of known labels too.
  q = np.asarray(jax.nn.softmax(logits))
  each = np.square(0.3 * (q - np.eye(q.shape[-1])[batch.label])).sum(-1)
  np.testing.assert_allclose(
      totals["gradient_hard"].total, each[known][:8].sum(), rtol=1e-4)


def test_the_first_batch_is_looked_at_with_known_labels_alone(key, device_data):
  ids = jnp.arange(32, dtype=jnp.int32)
  batch = segment.take(device_data, NONE, ids, ids * 0, ids < 32)
  known = np.arange(32) % 4 == 1
  few = batch._replace(label=jnp.where(known, batch.label, -1))
  teacher = a_teacher(key, batch.inputs)
  own = learner(teacher=teacher)._replace(unlabelled=True)
  state = step_lib.init(own, key, batch.inputs, hyper())
  _, mean, _ = inspection.make_terms(own)(
      state, few, few.label, teacher.arrays, hyper(), key)["hard"]
  logits = own.model.apply(state.student, batch.inputs, train=False)[0].logits
  wanted = np.asarray(losses.hard_cross_entropy(logits, batch.label))[known].sum()
  np.testing.assert_allclose(mean, wanted / 32, rtol=1e-5)


def test_nets_that_train_together_have_the_terms_of_known_labels_alone(
    key, device_data):
  ids = jnp.arange(32, dtype=jnp.int32)
  batch = segment.take(device_data, NONE, ids, ids * 0, ids < 32)
  known = np.arange(32) % 4 == 1
  few = batch._replace(label=jnp.where(known, batch.label, -1))
  own = learner()
  own = own._replace(
      model=peers.model([own.model, own.model]), unlabelled=True,
      method=peers.method(own.method, ("one", "two"), "probabilities"))
  state = step_lib.init(own, key, batch.inputs, hyper())
  outputs, _ = own.model.apply(state.student, batch.inputs, train=False)
  found = step_lib.terms_of(
      own, terms.Own(state.method, state.method_state),
      step_lib.View(outputs, None, few), hyper()).terms
  for place, name in enumerate(("one", "two")):
    hard = losses.hard_cross_entropy(outputs.logits[:, place], batch.label)
    np.testing.assert_allclose(
        found[f"{name}_hard"].value, np.where(known, hard, 0), rtol=1e-6)
    assert (found[f"{name}_soft"].value > 0).all()


# ---- Runs.


def test_a_teacher_learns_from_labels_and_a_student_from_all(run, tmp_path):
  code, rows = run()
  assert code == 0
  assert rows["teacher"]["train_examples"] == 21
  assert rows["student"]["train_examples"] == 300
  assert rows["student"]["test_examples"] == 110
  # Errors of an epoch are of the labels that are known.
  *_, last = map(json.loads, (
      tmp_path / "run/metrics.jsonl").read_text().splitlines())
  assert last["net"] == "student" and last["train_examples"] == 21


def test_a_plan_counts_the_steps_of_known_labels(own_data, tmp_path):
  file = tmp_path / "few.py"
  file.write_text(CONFIG)
  asked, *_ = main.parse([f"--config={file}", f"--config.data.dir={own_data}",
                          "--workdir=anywhere"])
  groups = estimate._groups(run_lib.read(asked), print, {})
  # Two epochs of 21 examples, and of 300, in batches of 32.
  assert {group.net.name: group.training.total_steps for group in groups} == {
      "teacher": 2, "student": 20}


@pytest.mark.slow
def test_another_draw_makes_other_nets_and_a_single_run_is_a_lane(run):
  code, rows = run("--sweep.transfer.seed=0,1", "--config.sweep.lanes=1x1")
  assert code == 0
  # `rows` has the last of each net, that of the second draw.
  code, alone = run("--config.transfer.seed=1", "--config.checkpoint.resume=keep")
  assert code == 0
  for net in ("teacher", "student"):
    assert alone[net]["test_wrong_ids"] == rows[net]["test_wrong_ids"]


@pytest.mark.parametrize(("words", "says"), [
    (("--config.transfer.labelled=301",), "only 300 examples have a label"),
    (("--config.transfer.labelled=6",), "there are 7 classes"),
    (("--config.transfer.labelled=0",), "an integer >= 1"),
    (("--config.nets.student.mixup=0.2",), "mixes two labels"),
    (("--config.nets.student.method=dkd",), "may read labels")])
def test_what_makes_no_sense_is_refused_in_a_line(run, words, says):
  code, told = run(*words)
  assert code == 2 and says in told and "Traceback" not in told
