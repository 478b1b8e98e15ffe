"""Running a training: stopped anywhere, it goes on to the same bits."""

import contextlib
import queue
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_step import a_teacher

from kd_jax import config as config_lib
from kd_jax import data, methods, teachers
from kd_jax.config import build
from kd_jax.core.errors import UserError
from kd_jax.data import preprocess, views
from kd_jax.methods import terms as terms_lib
from kd_jax.models import MODELS
from kd_jax.training import (
  cost,
  devices,
  fit,
  monitor,
  parameters,
  segment,
  train_loop,
)
from kd_jax.training import step as step_lib
from kd_jax.training.checkpoints import Checkpoints


def training(own_data, **changes):
  """A training on 300 examples: three epochs of five steps."""
  config = config_lib.default()
  config.alpha, config.batch_size, config.epochs = 0.9, 64, 3
  config.student.widths, config.student.views = (12,), "shift2"
  config.student.hidden_dropout = 0.3
  config.data.holdout = 0.1
  config.update_from_flattened_dict(changes)
  found = data.load("blobs", directory=own_data, holdout=config.data.holdout)
  return build.student(config, found), found


@pytest.fixture(scope="module")
def own(own_data):
  """A training, its data on the device, and a live teacher's learner."""
  trained, found = training(own_data)
  scaling = preprocess.of("unit", found.train.inputs)
  put = lambda part, ids: build.device_data(part, ids, scaling)
  train = put(found.train, found.train_ids)
  test = put(found.test, np.arange(len(found.test.label)))
  teacher = a_teacher(jax.random.key(3), train.preprocess(train.inputs[:1]))
  learner = step_lib.Learner(
      trained.model, methods.METHODS["kd"], trained.optimizer_spec, teacher)
  return trained, train, test, learner


def runs_of(own, folder):
  """Runs a training, stopping after `pieces` segments if that is given."""
  own_training, own_train, test, learner = own

  def go(pieces=None, mark="m", *, train=own_train, heldout=None,
         trained=own_training, tick=lambda step: None, every="99 epochs",
         **options):
    # Saved where it is stopped alone, or a slow machine would save in between.
    rows, asked = [], []
    progress = Checkpoints(folder, {"mark": mark}, every=every, **options)

    def stop():
      asked.append(1)
      return pieces is not None and len(asked) >= pieces

    with contextlib.closing(progress):
      fitted = fit.fit(
          trained, learner._replace(optimizer_spec=trained.optimizer_spec), train,
          {"test": fit.Split(test)} | ({"heldout": heldout} if heldout else {}),
          devices=devices.choose("single"), checkpoints=progress, stop=stop,
          report=rows.append, tick=tick)
    return fitted, rows

  go.training, go.train = own_training, own_train
  return go


@pytest.fixture
def run(own, tmp_path):
  return runs_of(own, tmp_path / "progress")


@pytest.fixture(scope="module")
def whole(own, tmp_path_factory):
  """What the training leaves that nothing interrupts, and its rows."""
  with jax.numpy_dtype_promotion("strict"):
    return runs_of(own, tmp_path_factory.mktemp("whole") / "progress")()


def sha(fitted):
  return parameters.parameters_sha256(fitted.variables.params)


def test_rows_tell_of_every_epoch(whole):
  fitted, rows = whole
  assert [row["epoch"] for row in rows] == [1, 2, 3]
  assert [row["step"] for row in rows] == [5, 10, 15]
  last = rows[-1]
  assert last == fitted.row
  assert last["train_examples"] == 270 and last["test_examples"] == 110
  assert last["test_errors"] == len(fitted.test_wrong_ids)
  for name in ("train_hard", "train_soft", "train_gradient_ratio", "test_nll",
               "test_ece", "learning_rate", "examples_per_second"):
    assert last[name] >= 0
  assert last["test_accuracy"] == 1 - last["test_errors"] / 110
  assert rows[0]["train_hard"] > rows[-1]["train_hard"]
  # P18: the rate that was realised at the last step of each epoch.
  assert rows[0]["learning_rate"] > rows[1]["learning_rate"] > 0


def test_cuts_and_saves_in_between_are_told_and_change_nothing(
    run, whole, monkeypatch, tmp_path):
  monkeypatch.setattr(cost, "segment_steps", lambda *args: 2)
  told = []
  fitted, _ = run(tick=told.append, every="1 steps")
  # Of 5 steps in pieces of 2, 2 and 1; the end of an epoch is a row.
  assert told == [2, 4, 7, 9, 12, 14]
  assert sha(fitted) == sha(whole[0])
  assert len(list((tmp_path / "progress").iterdir())) <= 2


@pytest.mark.parametrize("pieces", [1, 2, 6])
def test_stopped_and_continued_is_uninterrupted(run, whole, pieces, monkeypatch):
  # Two segments an epoch, so that it also stops in the middle of one.
  monkeypatch.setattr(cost, "segment_steps", lambda *args: 3)
  try:
    fitted, rows = run(pieces)
    assert pieces == 6  # the sixth segment is the last: nothing to stop
  except train_loop.Interrupted:
    fitted, rows = run()
    assert rows[0] == {"event": "resumed", "step": [3, 5][pieces - 1]}
    # The first is the epoch within which it was stopped.
    assert all(row["train_examples"] == 270 for row in rows[1:]), (
        "the epoch's totals were saved too")
  assert sha(fitted) == sha(whole[0])


def bank_of(broken=()):
  """Logits of every view of every example; those of one may be NaN."""
  bank = np.random.default_rng(5).normal(size=(300, 25, 1, 7)).astype(np.float32)
  bank[tuple(broken) or slice(0)] = np.nan
  return bank


def with_bank(own, make, folder, **more):
  """As `runs_of`, of a teacher that `make` makes of a bank."""
  trained, train, test, learner = own
  return runs_of((trained, train, test, learner._replace(
      teacher=make(bank_of(**more)))), folder)


@pytest.mark.parametrize("pieces", [1, 3])
def test_a_bank_on_the_host_is_one_on_the_device(
    own, tmp_path, monkeypatch, pieces):
  monkeypatch.setattr(cost, "segment_steps", lambda *args: 3)
  fitted, rows = with_bank(
      own, lambda bank: teachers.banked(jnp.asarray(bank)), tmp_path / "whole")()
  lies, put = [], devices.copies
  monkeypatch.setattr(devices, "copies", lambda where, tree: (
      lies.append(np.shape(tree)) or put(where, tree)))
  go = with_bank(own, teachers.streamed, tmp_path / "streamed")
  with pytest.raises(train_loop.Interrupted):
    go(pieces)
  again, more = go()
  assert sha(again) == sha(fitted)
  same = lambda row: {name: value for name, value in row.items()
                      if name != "examples_per_second"}
  assert [same(row) for row in more[1:]] == [
      same(row) for row in rows[-len(more[1:]):]]
  # Each epoch that is run is sent, and never all of the bank.
  assert (300, 1, 1, 7) in lies and (300, 25, 1, 7) not in lies


def test_nan_in_a_bank_on_the_host_is_told_of_its_step(own, tmp_path):
  """An example in a view in which the second epoch shows it, but not the first."""
  trained, train, _, _ = own
  view = [np.asarray(segment.views_of_epoch(
      jax.random.key(trained.seed), epoch, 300, views.VIEWS["shift2"]))
          for epoch in range(3)]
  at = next((id, view[1][id]) for id in np.asarray(train.ids)
            if view[0][id] != view[1][id])
  told = []
  for name, make in (("streamed", teachers.streamed),
                     ("whole", lambda bank: teachers.banked(jnp.asarray(bank)))):
    with pytest.raises(monitor.Diverged) as error:
      with_bank(own, make, tmp_path / name, broken=at)()
    told.append(str(error.value))
  assert told[0] == told[1] and "as the teacher's logits of 1 of its" in told[0]
  step = int(re.search(r"at step (\d+)", told[0])[1])
  assert 5 < step <= 10


def test_rows_of_the_next_epoch_come_while_the_present_one_runs(own, tmp_path):
  asked: queue.Queue = queue.Queue()

  def make(bank):
    made = teachers.streamed(bank)
    return made._replace(rows=lambda view: asked.put(view) or made.rows(view))

  trained, train, _, learner = own
  arrays = fit._teacher_arrays(
      trained, learner._replace(teacher=make(bank_of())), train,
      devices.choose("single"))
  bank = bank_of()
  expected = [
      np.asarray(segment.views_of_epoch(
          jax.random.key(trained.seed), epoch, 300, views.VIEWS["shift2"]))
      for epoch in range(3)]
  coming = iter(expected)
  for epoch, more in ((0, 2), (1, 1), (2, 0)):
    found = arrays(5 * epoch)
    for _ in range(more):  # The next epoch's too, which nobody waits for.
      np.testing.assert_array_equal(asked.get(timeout=60), next(coming))
    arrays(5 * epoch + 4)
    np.testing.assert_array_equal(
        found[:, 0], bank[np.arange(300), expected[epoch]])
  assert asked.empty()


def test_a_run_of_other_settings_is_refused_and_leaves_its_checkpoint_alone(run):
  with pytest.raises(train_loop.Interrupted):
    run(1, mark="one")
  with pytest.raises(UserError, match="mark was one, is other"):
    run(mark="other")
  sgd = run.training._replace(
      optimizer_spec=run.training.optimizer_spec._replace(name="sgd"))
  with pytest.raises(UserError, match="its arrays do not fit this config"):
    run(trained=sgd, mark="other", force=True)
  short = run.training._replace(total_steps=5)
  with pytest.raises(UserError, match="is at step 5, and this config ends at 5"):
    run(trained=short, mark="other", force=True)
  _, rows = run(mark="other", force=True)
  assert rows[0] == {"event": "resumed", "step": 5}


def test_long_epochs_are_cut_into_segments(own_data, monkeypatch):
  trained, found = training(own_data)
  pieces = lambda: cost.segment_steps(
      5, cost.step_seconds(trained, found.train.inputs))
  assert pieces() == 5
  monkeypatch.setattr(cost, "_FLOPS_PER_CORE", 1e3)
  assert pieces() == 1


@pytest.mark.parametrize("name", ["mlp", "resnet8"])
def test_the_cost_of_a_batch_is_that_of_its_examples(run, name):
  model, image = MODELS[name](num_classes=7), run.train.inputs
  whole = cost.flops(
      lambda held, x: model.apply(held, x, train=False)[0].logits,
      cost.variables(model, image), preprocess.seen(image, 100))
  assert cost.forward_flops(model, image, 100) == pytest.approx(whole, rel=0.001)


def test_a_live_teacher_counts_in_the_cost_of_a_step(run):
  trained, image = run.training, run.train.inputs
  pixels = run.train.preprocess(image[:1])
  alone = cost.step_flops(trained, image)
  models = [MODELS["mlp"](num_classes=7, widths=(width,)) for width in (24, 48)]
  teacher = teachers.live(
      models, [model.init(jax.random.key(0), pixels) for model in models])
  # Of each member a forward pass: 64 examples through its two matrices, and in
  # all less than a hundredth more for biases and activations.
  products = 2 * 64 * sum(120 * width + width * 7 for width in (24, 48))
  assert cost.step_flops(trained, image, teacher) - alone == pytest.approx(
      products, rel=0.02)
  # A bank is looked up, for next to nothing.
  banked = teachers.banked(jax.ShapeDtypeStruct((300, 25, 1, 7), jnp.float32))
  assert cost.step_flops(trained, image, banked) < alone + products / 20


def test_the_best_held_out_epoch_is_kept_even_over_a_stop(run, own_data):
  found = data.load("blobs", directory=own_data, holdout=0.1)
  held = data.Examples(*(a[found.heldout_ids] for a in found.train))
  split = fit.Split(build.device_data(
      held, np.arange(len(held.label)), preprocess.of("unit", found.train.inputs)))
  fitted, rows = run(heldout=split)
  errors = {row["epoch"]: row["heldout_errors"] for row in rows}
  first = min(errors, key=lambda epoch: (errors[epoch], epoch))
  assert int(fitted.best.epoch) == first
  assert int(fitted.best.errors) == errors[first]
  predict = segment.make_predict(run.training.model, views.VIEWS["none"])
  totals, _ = fit.evaluate(predict, fitted.best.variables, split)
  assert int(totals["errors"].total) == int(fitted.best.errors)
  with pytest.raises(train_loop.Interrupted):
    run(2, heldout=split)
  continued, _ = run(heldout=split)
  jax.tree.map(np.testing.assert_array_equal, continued.best, fitted.best)


def test_a_run_that_diverges_names_the_step_and_keeps_the_last_good_state(run):
  # Every pixel is NaN from here on.
  broken = run.train._replace(preprocess=run.train.preprocess._replace(
      scale=jnp.full((1,), jnp.nan)))
  with pytest.raises(monitor.Diverged, match=r"not finite at step 1 .*T = 4"):
    run(train=broken)
  with pytest.raises(train_loop.Interrupted):
    run(2)
  with pytest.raises(monitor.Diverged, match=r"at step 11 .*the state of step 10"):
    run(train=broken)
  _, rows = run()
  assert rows[0] == {"event": "resumed", "step": 10}


def test_a_live_teacher_that_is_not_finite_is_named(own, tmp_path):
  trained, train, test, learner = own
  third = segment.batch_of_step(
      train, trained.views, 64, jax.random.key(trained.seed), 2)
  bad = jnp.zeros(len(train.label), bool).at[third.id[:3]].set(True)

  def fails(arrays, batch):
    found = learner.teacher.members(arrays, batch)
    return found._replace(logits=jnp.where(
        bad[batch.id][None, :, None], jnp.nan, found.logits))

  spoilt = learner._replace(teacher=learner.teacher._replace(members=fails))
  ids = ", ".join(map(str, third.id[:3]))
  with pytest.raises(monitor.Diverged, match=(
      rf"at step 3 .*the teacher's logits of 3 of its examples \({ids}\) are not")):
    runs_of((trained, train, test, spoilt), tmp_path / "wrong")()
  # A student that diverges by itself is not blamed on its teacher.
  hot = trained._replace(hparams=trained.hparams.replace(
      learning_rate=jnp.float32(jnp.inf)))
  with pytest.raises(monitor.Diverged, match=r"^((?!teacher).)*$"):
    runs_of(own, tmp_path / "hot")(trained=hot)


def test_features_that_are_not_finite_are_the_teachers(own, tmp_path):
  trained, train, test, learner = own
  bad = segment.batch_of_step(
      train, trained.views, 64, jax.random.key(trained.seed), 1).id[5]

  def members(arrays, batch):
    found = learner.teacher.members(arrays, batch)
    tap = jnp.where(batch.id == bad, jnp.inf, 1.0)[:, None]
    return found._replace(features={"x": jnp.tile(tap, 12), "unread": tap / 0})

  def terms(own, student, teacher, batch, hparams):
    apart, = (student.features[pair] - teacher.features[pair]
              for pair in student.features)
    return {"pull": terms_lib.Term(1.0, jnp.square(apart).mean(-1))}

  spoilt = learner._replace(
      method=methods.Method("pull", methods.nothing, terms),
      pairs=(("hidden_0", "x"),),
      teacher=learner.teacher._replace(members=members, taps={"x": (12,)}))
  with pytest.raises(monitor.Diverged, match=(
      rf"at step 2 .*, as the teacher's features x of 1 of its examples \({bad}\) "
      "are not; .* Mend the teacher")):
    runs_of((trained, train, test, spoilt), tmp_path)()


def test_a_loss_that_is_infinite_from_the_start_is_not_the_learning_rates(
    own, tmp_path):
  trained, train, test, learner = own

  def terms(own, student, teacher, batch, hparams):
    return {"large": terms_lib.Term(1.0, jnp.exp(1e3 + student.logits[:, 0]))}

  large = learner._replace(method=methods.Method("large", methods.nothing, terms))
  with pytest.raises(monitor.Diverged, match=(
      r"not finite at step 1 .*, the first one, so it is not the learning rate; "
      "the state of step 0 is kept. Mend the loss or the data, at which")):
    runs_of((trained, train, test, large), tmp_path)()


def test_parameters_alone_that_are_not_finite_are_noticed(run):
  # One step an epoch: its loss is finite, what it leaves behind is not.
  hot = run.training._replace(
      batch_size=512, total_steps=3, hparams=run.training.hparams.replace(
          learning_rate=jnp.float32(jnp.inf)))
  with pytest.raises(monitor.Diverged, match=(
      r"at step 1 .*state of step 0.* Lower the learning rate")):
    run(trained=hot)


def test_segments_get_shorter_where_steps_take_long(monkeypatch):
  now = [0.0]
  monkeypatch.setattr(train_loop.time, "monotonic", lambda: now[0])
  pace = train_loop._Pace(100)
  for _ in range(3):
    pace.dispatched(pace.steps, jnp.zeros(()))
    now[0] += 6.0  # Twice as long as a segment should be.
  assert pace.steps == 50
  pace.dispatched(pace.steps, jnp.zeros(()))
  now[0] += 0.1
  pace.dispatched(pace.steps, jnp.zeros(()))
  assert pace.steps == 100, "never longer than it began"
