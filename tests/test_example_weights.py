"""Weights of training examples: what they do to the loss, and how they are read."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_devices
import test_lanes
from test_step import NONE, a_batch, a_step, a_teacher, distance, hyper, learner

from kd_jax import config as config_lib
from kd_jax import data as data_lib
from kd_jax import losses, main, teachers
from kd_jax.config import build, identity
from kd_jax.core.errors import UserError
from kd_jax.data.preprocess import AsStored
from kd_jax.runs import setup
from kd_jax.runs.doctor import sources
from kd_jax.training import lanes, segment

CLASS_WEIGHTS = (0.5, 3.0, 1.0, 0.25, 1.0, 2.0, 0.0)
WEIGHTS = np.array([0.0, 2.0, 0.5, 1.0], np.float32)
DRAW = np.random.default_rng(3)
X, X_TEST = (DRAW.normal(size=(n, 3)).astype(np.float32) for n in (40, 10))
Y, Y_TEST = np.arange(40) % 2, np.arange(10) % 2
W = np.where(np.arange(40) % 4, np.arange(40) / 8, 0)


def quiet(line):
  del line


# The loss.


@pytest.mark.parametrize("unlabelled", [False, True])
@pytest.mark.parametrize("accumulate", [1, 4])
def test_example_weights_multiply_those_of_classes_in_the_hard_term_alone(
    unlabelled, accumulate, key, device_data):
  # 27 valid rows of 32: the padding has weights too, and no part in anything.
  batch = a_batch(device_data, 32, valid=27)._replace(
      weight=jnp.asarray(np.resize(WEIGHTS, 32)))
  known = np.arange(32) % 3 > 0 if unlabelled else np.ones(32, bool)
  seen = batch._replace(label=jnp.where(known, batch.label, -1))
  teacher = a_teacher(key, batch.inputs)
  own = learner(teacher=teacher)._replace(
      class_weights=CLASS_WEIGHTS, unlabelled=unlabelled, accumulate=accumulate)
  before, after, totals = a_step(own, key, seen, hyper())
  weight = np.where(
      known, np.resize(WEIGHTS, 32) * np.asarray(CLASS_WEIGHTS)[batch.label], 0)

  def terms(params):
    logits = own.model.apply(
        before.student._replace(params=params), batch.inputs, train=False)[0].logits
    asked = teachers.outputs(teacher, teacher.arrays, batch, 3.0).logits
    hard = jnp.float32(weight) * losses.hard_cross_entropy(logits, batch.label)
    return hard[:27], 9 * losses.distillation_kl(logits, asked, 3.0)[:27]

  def loss(params):
    hard, soft = terms(params)
    return jnp.sum(0.3 * hard + 0.7 * soft) / 27

  wanted = jax.tree.map(lambda p, g: p - 0.5 * g, before.student.params,
                        jax.grad(loss)(before.student.params))
  assert distance(after.student.params, wanted) < 1e-6
  for name, value in zip(("hard", "soft"), terms(before.student.params)):
    assert float(totals[name].total) == pytest.approx(float(value.sum()), rel=1e-5)


def test_example_weights_of_one_give_the_bits_of_none(key, device_data):
  batch = a_batch(device_data, 32, valid=27)
  own = learner(teacher=a_teacher(key, batch.inputs))
  _, plain, _ = a_step(own, key, batch, hyper())
  _, ones, _ = a_step(own, key, batch._replace(weight=jnp.ones(32)), hyper())
  jax.tree.map(np.testing.assert_array_equal, ones.student.params,
               plain.student.params)


def test_an_example_weight_of_0_is_an_unknown_label(key, device_data):
  batch, left_out = a_batch(device_data), jnp.arange(32) % 3 == 0
  own = learner(teacher=a_teacher(key, batch.inputs))
  weight = jnp.where(left_out, 0.0, 1.0)
  _, weighed, _ = a_step(own, key, batch._replace(weight=weight), hyper())
  _, hidden, _ = a_step(
      own._replace(unlabelled=True), key,
      batch._replace(label=jnp.where(left_out, -1, batch.label)), hyper())
  assert distance(weighed.student.params, hidden.student.params) < 1e-6


def dataset(weights, holdout=0.0, label=Y):
  found = data_lib.Dataset(
      "few", "raw", "", data_lib.Examples(X, label.astype(np.int32)),
      data_lib.Examples(X_TEST, Y_TEST.astype(np.int32)),
      *data_lib.split_ids(40, holdout), 2, "f")
  return found._replace(weights=np.asarray(weights, np.float32))


def after_all(key, found):
  """Parameters after one step of labels alone, on all examples at once."""
  on_device = build.device_data(
      found.train, found.train_ids, AsStored(), build.example_weights(found))
  rows = jnp.asarray(found.train_ids)
  batch = segment.take(on_device, NONE, rows, rows * 0, rows >= 0)
  return a_step(learner(method="hard"), key, batch, hyper())[1].student.params


def test_an_example_weight_of_2_is_the_example_shown_twice_and_0_not_at_all(key):
  weights = np.where(np.arange(40) < 7, 2, np.where(np.arange(40) < 12, 0, 1))
  shown = np.repeat(np.arange(40), weights)
  twice = dataset(np.ones(len(shown)))._replace(
      train=data_lib.Examples(X[shown], Y[shown].astype(np.int32)),
      train_ids=np.arange(len(shown), dtype=np.int32), weights=None)
  wanted = after_all(key, twice)
  # However large they are: what counts is their share.
  for scale in (1, 1000):
    assert distance(after_all(key, dataset(scale * weights)), wanted) < 1e-6
  assert distance(after_all(key, dataset(weights + 1)), wanted) > 1e-3


# On devices, as lanes, on parts of a set.


def weighed(device_data):
  return device_data._replace(weight=jnp.asarray(np.resize(WEIGHTS, 150)))


@pytest.mark.parametrize("wrapper", [
    ("pmap", 8), pytest.param(("shard_map", 8), marks=pytest.mark.slow),
    ("sharded", 8)], ids=str)
def test_example_weights_on_any_devices_are_those_on_one(wrapper, device_data, key):
  # 64 a batch: the third of an epoch has 22 rows, of which devices have 3 or none.
  learns = learner((8,), teacher=test_devices.a_bank(key))
  run = lambda data: test_devices.both(
      wrapper, learns, data, hyper(), batch_size=64, segments=(3, 2))
  (spread, told), (alone, single) = run(weighed(device_data))
  assert distance(spread.student.params, alone.student.params) < 1e-5
  test_devices.counts_agree(told, single)
  _, (plain, _) = run(device_data)
  assert distance(alone.student.params, plain.student.params) > 1e-3


def test_a_lane_weighs_its_examples_as_a_single_run(device_data, key):
  data, shape, values = weighed(device_data), lanes.Shape(1, 2, 2), (
      test_lanes.points(4))
  learns = learner((8,), teacher=a_teacher(key, data.inputs[:1].astype("f4")))
  _, state, told = test_lanes.run(learns, data, shape, values)
  single, alone = test_lanes.singles(learns, data)(1, values[3])
  own = test_lanes.lane(state.student, shape, 3)
  assert distance(own.params, single.student.params) < 1e-5
  assert float(test_lanes.lane(told["hard"].total, shape, 3)) == pytest.approx(
      float(alone["hard"].total), rel=1e-4)


def test_example_weights_have_a_mean_of_1_over_the_labels_to_train_on():
  label = np.where(np.arange(40) < 5, -1, Y)
  found = dataset(W, holdout=0.25, label=label)
  known = [i for i in found.train_ids if i >= 5]
  wanted = W / np.mean([W[i] for i in known])
  np.testing.assert_allclose(build.example_weights(found), wanted, rtol=1e-6)
  values = config_lib.flatten(config_lib.default()) | {"transfer.labelled": 6}
  few = build.transfer_set(values, found)
  known = few.train_ids[few.train.label[few.train_ids] >= 0]
  assert len(known) == 6
  assert build.example_weights(few)[known].mean() == pytest.approx(1)
  part = build.transfer_set(values | {
      "transfer.labelled": None, "transfer.classes": (1,)}, found)
  known = part.train_ids
  assert build.example_weights(part)[known].mean() == pytest.approx(1)
  assert build.example_weights(found._replace(weights=None)) is None


def test_a_part_whose_example_weights_are_all_0_is_refused():
  values = config_lib.flatten(config_lib.default()) | {"transfer.classes": (1,)}
  seen = build.transfer_set(values, dataset(1 - Y))
  with pytest.raises(UserError, match=r"20 examples with a label .* all weigh 0"):
    build.example_weights(seen)


@pytest.mark.parametrize("key", ["mixup", "teacher.mixup"])
def test_example_weights_and_mixup_are_refused(key):
  values = config_lib.flatten(config_lib.default()) | {
      key: 0.2, "alpha": 0.5, "teacher.views": "none", "batch_size": 8,
      "teacher.batch_size": 8}
  with pytest.raises(UserError, match=f"config.{key}=0.2: .* weight of its own"):
    build.student(values, dataset(W))
    build.teacher(values, dataset(W), 0)


def test_pseudo_examples_have_no_say_in_example_weights():
  found = dataset(W)
  more = data_lib.with_pseudo(found, "munge", number=7)
  assert more.weights.shape == (47,)
  np.testing.assert_array_equal(
      build.example_weights(more)[:40], build.example_weights(found))
  other = data_lib.with_pseudo(dataset(W + 1), "munge", number=7)
  assert other.fingerprint != more.fingerprint


# How they are read.


def saved(folder, weights=W, name="mine"):
  np.savez(folder / f"{name}.npz", x_train=X, y_train=Y, x_test=X_TEST,
           y_test=Y_TEST, **({} if weights is None else {"w_train": weights}))
  return folder


def load(folder, name="mine", say=quiet, **how):
  return data_lib.load(name, directory=folder, say=say, **how)


@pytest.mark.parametrize("form", ["f8", "f2", "i4", "u1", "?"])
def test_example_weights_of_arrays_of_any_numbers(form, tmp_path):
  found = load(saved(tmp_path, W.astype(form)), holdout=0.1)
  assert found.weights.dtype == np.float32
  np.testing.assert_array_equal(found.weights, W.astype(form).astype("f4"))
  words = f"weights 0 to {W.astype(form).max():.4g}"
  assert f"; of {words};" in setup.in_words(found)
  assert f"40 training of {words} (4 held out)" in sources.describe(found)


def test_example_weights_are_part_of_the_hash_unless_all_are_alike(tmp_path):
  lines = []
  hashes = {}
  for name, weights in {"none": None, "one": np.ones(40), "seven": np.full(40, 7),
                        "some": W, "more": W + 1}.items():
    hashes[name] = load(saved(tmp_path, weights), say=lines.append).fingerprint
  assert hashes["none"] == hashes["one"] == hashes["seven"]
  assert len({*hashes.values()}) == 3
  assert "one weight, which is as without weights" in " ".join(lines)
  # As before there were weights.
  assert hashes["none"] == data_lib._fingerprint(
      (X, Y.astype(np.int32), X_TEST, Y_TEST.astype(np.int32)), None)


def changed(place, value, form=float):
  weights = W.astype(form)
  weights[place] = value
  return weights


@pytest.mark.parametrize(("weights", "words"), [
    (changed(3, -0.5), "w_train[3] is -0.5; weights must be numbers >= 0"),
    (changed(5, np.nan), "w_train[5] is nan;"),
    (changed(5, np.inf), "w_train[5] is inf;"),
    (changed(5, 1e39), "w_train[5] is 1e+39;"),
    (np.zeros(40), "weights of all training examples are 0; give some a weight"),
    (W[:30], "numbers [40], one for each training example; got float64 [30]"),
    (W[:, None], "got float64 [40, 1]"),
    (W.astype(str), "must be numbers [40]"),
    (W.astype(complex), "got complex128 [40]")])
def test_wrong_example_weights_are_refused(weights, words, tmp_path):
  for read in (lambda: load(saved(tmp_path, weights)),
               lambda: data_lib.from_arrays(X, Y, X_TEST, Y_TEST, w_train=weights,
                                            directory=tmp_path / "kept")):
    with pytest.raises(UserError) as refused:
      read()
    assert words in str(refused.value) and "\n" not in str(refused.value)
    assert str(refused.value).startswith("data.name=mine: ")
  assert not (tmp_path / "kept").exists()


def test_from_arrays_keeps_example_weights_as_another_set(tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  keep = lambda **how: data_lib.from_arrays(X, Y, X_TEST, Y_TEST, **how)
  plain, with_weights = keep(), keep(w_train=W)
  assert plain != with_weights == keep(w_train=W)
  assert load(plain).weights is None
  np.testing.assert_array_equal(load(with_weights).weights, W.astype("f4"))
  keep(directory=tmp_path / "own", w_train=W)
  for other in ({}, {"w_train": W + 1}, {"w_train": W.astype("f4")}):
    with pytest.raises(UserError, match="holds another data set"):
      keep(directory=tmp_path / "own", **other)


def table(weights=W, first=0, header="length,weight,kind"):
  return header + "\n" + "".join(
      f"{first + i + i % 2 / 4},{w},{('oak', 'birch')[i % 2]}\n"
      for i, w in enumerate(weights))


def test_a_column_of_a_table_weighs_its_examples_and_is_no_feature(tmp_path):
  (tmp_path / "trees").mkdir()
  (tmp_path / "trees/train.csv").write_text(table())
  how = {"label": "kind", "weights": "weight"}
  # Test examples need no weights, and those that they have do not count.
  without = "length,kind\n" + "".join(
      f"{50 + i + i % 2 / 4},{('oak', 'birch')[i % 2]}\n" for i in range(10))
  for text in (table(["x"] * 10, 50), table([-1] * 10, 50), without):
    (tmp_path / "trees/test.csv").write_text(text)
    found = load(tmp_path, "trees", **how)
    assert (found.train.inputs.shape, found.test.inputs.shape) == ((40, 1), (10, 1))
    np.testing.assert_allclose(found.weights, W, rtol=1e-6)


def test_example_weights_stay_with_their_rows_in_any_split(tmp_path):
  (tmp_path / "trees.csv").write_text(table())
  plain = load(tmp_path, "trees", label="kind", test_fraction=0.25)
  how = {"label": "kind", "weights": "weight"}
  for split in ({"test_fraction": 0.25}, {"split": 4, "split_size": 25}):
    found = load(tmp_path, "trees", **how, **split)
    # The length of a row tells its number.
    row = np.floor(found.train.inputs[:, 0]).astype(int)
    np.testing.assert_allclose(found.weights, W[row], rtol=1e-6)
    if "split" not in split:  # The same rows are the test set.
      np.testing.assert_array_equal(found.test.inputs, plain.test.inputs[:, :1])
  with pytest.raises(UserError, match=r"data.split=4: .* has no weights"):
    load(saved(tmp_path), split=4, split_size=25)


@pytest.mark.parametrize(("weights", "how", "words"), [
    (changed(3, -0.5), {}, "trees.csv: row 5 is -0.5; weights must be numbers"),
    (["", *W[1:]], {}, "trees.csv: row 2 is nan; weights"),
    (["heavy", *W[1:]], {}, "the column has numbers in 39 of 40 rows"),
    (["heavy"] * 40, {}, "the column has texts; weights are numbers"),
    (np.zeros(40), {}, "weights of all training examples are 0"),
    (W, {"weights": "weigth"}, "no such column; did you mean weight "),
    (W, {"weights": "kind"}, "is the label"),
    (W, {"label": None}, "which of its columns names the classes?")])
def test_wrong_columns_of_example_weights_are_refused(
    weights, how, words, tmp_path):
  (tmp_path / "trees.csv").write_text(table(weights))
  with pytest.raises(UserError) as refused:
    load(tmp_path, "trees", **{"label": "kind", "weights": "weight",
                               "test_fraction": 0.25} | how)
  assert words in str(refused.value) and "\n" not in str(refused.value)


def test_the_column_of_example_weights_is_for_tables(tmp_path):
  with pytest.raises(UserError, match=r"for tables; arrays have w_train"):
    load(saved(tmp_path), weights="w")


# As a run.


def test_a_run_with_other_example_weights_is_another_run(tmp_path, capsys):
  (tmp_path / "trees.csv").write_text(table())
  found = {}

  def run(name, *words):
    with jax.numpy_dtype_promotion("standard"):
      assert main.run([
          "--config=configs/mnist.py:smoke", f"--config.data.dir={tmp_path}",
          "--config.data.name=trees", "--config.data.label=kind",
          "--config.data.test_fraction=0.25", "--config.student.widths=(8,)",
          "--config.teacher.widths=(8,)", "--config.steps=6",
          "--config.teacher.steps=6", "--config.tensorboard=false",
          "--config.teacher.views=none", "--config.data.holdout=0.2",
          "--config.transfer.labelled=16", "--config.data.scale=standard",
          f"--workdir={tmp_path / name}", *words]) == 0
    lines = (tmp_path / name / "results.jsonl").read_text().splitlines()
    found[name] = {row["net"]: row for row in map(json.loads, lines)}
    return capsys.readouterr().out

  said = run("weighed", "--config.data.weights=weight")
  assert "of weights 0 to 4.875;" in " ".join(said.split())
  run("plain", "--config.data.without=weight")
  assert "data.weights" in found["weighed"]["distilled"]["command"]
  for net, row in found["weighed"].items():
    other = found["plain"][net]
    assert row["fingerprint"] != other["fingerprint"], net
    assert row["data_sha256"] != other["data_sha256"]
    assert row["test_nll"] != other["test_nll"]


def test_the_key_of_example_weights_came_later():
  values = config_lib.flatten(config_lib.default())
  of = lambda values: identity.data(values, "content")
  assert of(values) == of(values | {"data.weights": "weight"})
