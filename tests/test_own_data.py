"""A user's own arrays: right shape, wrong meaning is refused or said."""

import itertools
import json

import numpy as np
import pytest

from kd_jax import main
from kd_jax.data import preprocess

CLASSES = 4
PATTERNS = np.random.default_rng(9).integers(0, 200, (CLASSES, 6, 6))


def arrays(number, seed):
  draw = np.random.default_rng(seed)
  label = draw.permutation(np.arange(number) % CLASSES)
  return (PATTERNS[label] + draw.integers(0, 56, (number, 6, 6))).astype(
      np.uint8), label


X, Y = arrays(120, 1)
X_TEST, Y_TEST = arrays(40, 2)
X[0, 0, :2] = X_TEST[0, 0, :2] = 0, 255


@pytest.fixture(name="run")
def fixture_run(tmp_path, capsys):
  """A few steps on a user's own set: code and what is said, in one line."""
  numbers = itertools.count()

  def go(*words, x=X, y=Y, x_test=X_TEST, y_test=Y_TEST):
    workdir = tmp_path / f"run{next(numbers)}"
    np.savez(tmp_path / "mine.npz", x_train=x, y_train=y, x_test=x_test,
             y_test=y_test)
    code = main.run([
        "--config=configs/mnist.py:smoke", "--config.steps=3",
        "--config.method=hard", "--config.student.widths=(8,)",
        "--config.student.views=none", "--config.data.name=mine",
        "--config.tensorboard=false", f"--config.data.dir={tmp_path}",
        f"--workdir={workdir}", *words])
    told = capsys.readouterr()
    if code:
      assert code == 2 and "Traceback" not in told.err
      assert told.err.strip().count("\n") == 0
      assert not (workdir / "manifest.json").exists()
    return code, " ".join((told.out + told.err).split())
  return go


def both(change):
  return {"x": change(X), "x_test": change(X_TEST)}


# Images and tables that are taken, and what is said of them.


@pytest.mark.parametrize(("change", "words"), [
    (lambda x: x, "6 x 6 x 1 uint8 pixels, 0 to 255"),
    (lambda x: x[..., None].repeat(3, -1), "6 x 6 x 3 uint8 pixels"),
    (lambda x: x / 255, "6 x 6 x 1 float32 pixels, 0"),
    (lambda x: (x / 255)[..., None].astype(np.float16), "float32 pixels, 0"),
    (lambda x: x.reshape(-1, 36) / 255, "120 x 36 table of float32, 0"),
    (lambda x: x.reshape(-1, 36).astype(int), "120 x 36 table of integers"),
    # No channels come first in what is lower or wider than any image.
    (lambda x: x.reshape(-1, 1, 1, 36), "1 x 1 x 36 uint8 pixels"),
    (lambda x: x.reshape(-1, 4, 3, 3), "4 x 3 x 3 uint8 pixels")])
def test_what_is_taken_is_told_with_shape_type_and_range(run, change, words):
  code, told = run(**both(change))
  assert code == 0 and words in told and "***" not in told
  assert "4 classes of 30 to 30 training examples" in told


def test_a_net_sees_the_same_numbers_of_uint8_and_float(run, tmp_path):
  found = []
  for name, words in (("a", {}), ("b", both(lambda x: x / np.float32(255)))):
    assert run("--config.steps=30", f"--workdir={tmp_path / name}", **words)[0] == 0
    summary = json.loads((tmp_path / name / "summary.json").read_text())
    found.append(summary["baseline"]["test_nll"])
  assert found[0] == pytest.approx(found[1], rel=1e-4)


@pytest.mark.parametrize(("change", "word"), [
    (lambda x: x.astype(np.float32), "up to 255"),
    (lambda x: (x > 100).astype(np.uint8), "up to 0.0039"),
    (lambda x: 1e4 * x.reshape(-1, 36).astype(float), "e+06")])
def test_numbers_far_from_1_are_said_and_standardised_if_asked(run, change, word):
  code, told = run(**both(change))
  assert code == 0 and "***" in told and word in told
  assert "--config.data.scale=standard" in told
  code, told = run("--config.data.scale=standard", **both(change))
  assert code == 0 and "as numbers up to" not in told


def test_blank_images_and_constant_columns_are_said(run):
  blank = np.where(np.arange(120) < 7, 0, 1)[:, None, None] * X
  code, told = run(x=blank.astype(np.uint8))
  assert code == 0 and "7 training images are of one colour" in told
  table = lambda x: x.reshape(-1, 36) / 255 * (np.arange(36) != 3)
  code, told = run("--config.data.scale=standard", **both(table))
  assert code == 0 and "1 of 36 columns are constant" in told


@pytest.mark.parametrize("shape", [(50, 6), (50, 5, 4, 3)])
def test_standard_floats_have_mean_0_and_deviation_1(shape):
  x = (1e-4 * np.random.default_rng(0).normal(7, 3, shape)).astype(np.float32)
  x[..., 1] = 0.1
  seen = np.asarray(preprocess.of("standard", x)(x)).reshape(-1, shape[-1])
  np.testing.assert_allclose(seen.mean(0), 0, atol=1e-3)
  np.testing.assert_allclose(
      seen.std(0), np.arange(shape[-1]) != 1, rtol=1e-3, atol=1e-6)


# What is refused, before any work, with the remedy.


def standard(x, axis=None):
  return (x - X.mean(axis)) / X.std(axis)


def some(x, value):
  x = x.astype(np.float32) / 255
  x[3, 2, :2] = value
  return x


@pytest.mark.parametrize(("given", "words"), [
    (both(lambda x: x[:, None].repeat(5, 2)), "numpy.moveaxis(x, 1, -1)"),
    (both(lambda x: x[:, None].repeat(3, 1) / 255), "numpy.moveaxis(x, 1, -1)"),
    (both(lambda x: np.moveaxis(x, 0, -1)), "numpy.moveaxis(x, -1, 0)"),
    (both(lambda x: x.astype(np.uint16) * 257), "x / 65535"),
    (both(lambda x: x.astype(np.uint16)), "x.astype('uint8')"),
    (both(lambda x: x.astype(np.int16) - 100), "x / 32767"),
    (both(lambda x: x.astype(int) * 1000), "(x / 25"),
    (both(lambda x: x > 100), "x.astype('float32')"),
    (both(lambda x: x.reshape(-1, 36)), "x.reshape(-1, H, W)"),
    (both(lambda x: x.reshape(-1, 36).astype(int) - 9), "x.astype('float32')"),
    (both(lambda x: x.astype(complex)), "complex128"),
    (both(lambda x: x[:, None, None, None]), "[120, 1, 1, 1, 6, 6]"),
    ({"x": some(X, np.nan), "x_test": X_TEST / 255}, "2 NaN or infinite numbers"),
    ({"x": X / 255, "x_test": some(X_TEST, np.inf)}, "in 1 of 40 test inputs"),
    (both(lambda x: x * 1e300), "NaN or infinite"),
    ({"x_test": X_TEST / 255}, "save both alike"),
    ({"x": X / 255, "x_test": X_TEST * 1.0}, "scale both alike"),
    ({"x": X * 1.0, "x_test": X_TEST / 255}, "scale both alike"),
    ({"x_test": X_TEST // 150}, "scale both alike"),
    ({"x": standard(X), "x_test": X_TEST / 255}, "training inputs have numbers"),
    ({"x": X / 255, "x_test": standard(X_TEST)}, "test inputs have numbers below"),
    ({"x": standard(X, 0).reshape(-1, 36), "x_test": X_TEST.reshape(-1, 36) / 255},
     "standardised"),
    ({"x": X / 127.5 - 1, "x_test": X_TEST / 255}, "scale both alike"),
    ({"x_test": X_TEST * 0}, "all test inputs are the same"),
    (both(lambda x: (x * [1, 1, 1, 1, 1, 900.0]).reshape(-1, 36)) | {
        "x_test": (X_TEST * [1, 1, 1, 1, 1, 900.0]).reshape(-1, 36) / 255},
     "scale both alike"),
    ({"x_test": X_TEST[:, :5]}, "differ in shape"),
    (both(lambda x: x * 0), "all training inputs are the same")])
def test_inputs_that_mean_something_else_are_refused(run, given, words):
  code, told = run(**given)
  assert code == 2 and words in told, told


def test_sets_of_other_luck_are_not_refused(run):
  table = lambda number, seed: np.random.default_rng(seed).lognormal(
      0, 3, (number, 5))
  for test in (table(40, 2), table(40, 3) * [1, 1, 1, 1, 0]):
    assert run("--config.data.scale=standard", x=table(120, 1), x_test=test)[0] == 0
  # Of a column that is seldom below 0, a small test set may have none.
  rare = lambda x: np.where(np.arange(len(x))[:, None] % 60 == 3, -1, 1) * x
  assert run(x=rare(table(120, 1)), x_test=table(40, 2))[0] == 0
  assert run(**both(standard))[0] == 0


# Labels.


@pytest.mark.parametrize(("change", "words"), [
    (lambda y: 255 * (y > 1), "--config.data.num_classes=256"),
    (lambda y: np.where(y == y[0], 200, y), "--config.data.num_classes=201"),
    (lambda y: np.where(np.arange(len(y)) == 3, 200, y), "1 of 160"),
    (lambda y: 2 * (y > 1) - 1, "-1 means unknown"),
    (lambda y: y * 0 + 3, "all labels are 3"),
    (lambda y: y.astype(float), "y.astype('int32')"),
    (lambda y: y > 1, "y.astype('int32')"),
    (lambda y: y / 3, "number the classes"),
    (lambda y: np.eye(4)[y], "y.argmax(1)"),
    (lambda y: np.array(["cat", "dog", "owl", "fox"])[y], "numpy.unique(y")])
def test_labels_that_are_no_classes_are_refused(run, change, words):
  code, told = run(y=change(Y), y_test=change(Y_TEST) if words != "1 of 160"
                   else Y_TEST)
  assert code == 2 and words in told, told


@pytest.mark.parametrize("part", ["y", "y_test"])
def test_labels_of_one_part_numbered_from_1_are_refused(run, part):
  labels = {"y": Y, "y_test": Y_TEST}
  labels[part] = labels[part] + 1
  code, told = run(**labels)
  assert code == 2 and "number both alike" in told
  assert run("--config.data.num_classes=5", **labels)[0] == 0
  # A small test set may lack its first class, or its last.
  assert run(y=Y, y_test=np.maximum(Y_TEST, 1))[0] == 0


def test_twelve_channels_that_come_first_are_told(run):
  first = lambda x: x[:, None, :, :].repeat(3, 1) / 255
  wide = lambda x: first(x)[:, :, np.arange(24) % 6][..., np.arange(24) % 6]
  twelve = lambda x: wide(x).repeat(4, 1)
  code, told = run(**both(twelve))
  assert code == 0 and "12 of them, save numpy.moveaxis(x, 1, -1)" in told
  assert "moveaxis" not in run(**both(lambda x: np.moveaxis(twelve(x), 1, -1)))[1]


@pytest.mark.parametrize(("change", "words"), [
    (lambda y: y + 1, ("labels run from 1",)),
    (lambda y: 255 * (y > 1), ("256 classes", "--config.data.num_classes=256"))])
def test_labels_that_are_meant_so_are_taken(run, change, words):
  code, told = run(*words[1:], y=change(Y), y_test=change(Y_TEST))
  assert code == 0 and words[0] in told


def test_unknown_test_labels_are_left_out_of_the_count(run, tmp_path):
  draw = np.random.default_rng(0)
  of = lambda y: 6 * np.eye(CLASSES)[y] + draw.normal(0, 2, (len(y), CLASSES))
  np.save(tmp_path / "z.npy", of(Y))
  of_test, known = of(Y_TEST), np.arange(40) % 4 != 1
  summaries = []
  for name, kept, y_test in (
      ("some", of_test, np.where(known, Y_TEST, -1)),
      ("rest", of_test[known], Y_TEST[known])):
    np.save(tmp_path / "t.npy", kept)
    code, told = run(
        "--config.method=kd", f"--config.teacher.logits={tmp_path}/z.npy",
        f"--config.teacher.test_logits={tmp_path}/t.npy",
        f"--workdir={tmp_path / name}", x=X / 255, y_test=y_test,
        x_test=(X_TEST[known] if name == "rest" else X_TEST) / 255)
    assert code == 0
    assert ("10 of 40 test examples have no label" in told) == (name == "some")
    summaries.append(json.loads((tmp_path / name / "summary.json").read_text()))
  shown = json.loads((tmp_path / "some/teacher.json").read_text())["examples"]
  assert shown and max(max(map(max, each["image"])) for each in shown) == 255
  for net in ("teacher", "distilled"):
    some, rest = ({key: summary[net][key] for key in (
        "test_examples", "test_errors", "test_wrong_ids")} for summary in summaries)
    assert some == rest and some["test_examples"] == 30
  code, told = run(y_test=np.full(40, -1))
  assert code == 2 and "no test example has a label" in told
