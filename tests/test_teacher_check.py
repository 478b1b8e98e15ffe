"""Logits from elsewhere: the wrong ones are refused, and no right one is."""

import functools
import json
import tracemalloc

import jax
import numpy as np
import pytest

from kd_jax import main, teachers
from kd_jax.runs import logit_bank


def made(number=600, classes=10, margin=6.0, seed=0, noise=1.0):
  draw = np.random.default_rng(seed)
  label = draw.integers(0, classes, number)
  logits = draw.normal(0, noise, (number, classes))
  logits[np.arange(number), label] += margin
  return logits.astype(np.float32), label


@pytest.mark.parametrize("number", [200, 600, 3000])
@pytest.mark.parametrize("seed", range(5))
def test_shuffled_and_shifted_rows_are_refused(number, seed):
  logits, label = made(number, seed=seed)
  order = np.random.default_rng(seed + 100).permutation(number)
  for wrong in (logits[order], np.roll(logits, 1, axis=0)):
    assert "order of the data set" in teachers.problem(wrong, label)
    # Rows of a net that is asked are in order, so it is something else.
    assert "load its weights" in teachers.problem(wrong, label, asked=True)


@pytest.mark.parametrize(("number", "classes"), [
    (60, 10), (600, 10), (3000, 3), (3000, 100)])
def test_the_other_sign_is_named(number, classes):
  logits, label = made(number, classes)
  log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  for wrong in (-logits, -log_p):
    assert "save -logits" in teachers.problem(wrong, label)
    assert "return -logits" in teachers.problem(wrong, label, asked=True)
    assert not teachers.problem(-wrong, label)


def log_p(logits):
  wide = logits.astype(np.float64)
  return wide - np.log(np.exp(wide).sum(-1, keepdims=True))


@pytest.mark.parametrize(("spoilt", "remedy"), [
    (lambda z: np.exp(log_p(z)), "{} log(p)"),
    (lambda z: 100 * np.exp(log_p(z)), "{} log(p)"),
    (lambda z: 1 / (1 + np.exp(-z)), "{} log(p / (1 - p))"),
    (lambda z: 0 * z, "{} what the teacher gives")])
def test_the_remedy_of_a_function_is_to_return_and_of_a_file_to_save(
    spoilt, remedy):
  logits, label = made(600, 10)
  wrong = spoilt(logits)
  found = [teachers.problem(wrong, label, asked=asked) for asked in (False, True)]
  for text, word in zip(found, ("save", "return")):
    assert remedy.format(word) in text
  assert found[1] == found[0].replace("save", "return")
  notes = teachers.account(7 * np.exp(log_p(logits)) - 3, label, "test", asked=True)
  assert any("if they are, return log(p)" in note for note in notes)


@pytest.mark.parametrize("number", [3000, 20_000])
@pytest.mark.parametrize("seed", range(3))
def test_a_part_of_the_rows_in_another_order_is_refused(number, seed):
  logits, label = made(number, seed=seed)
  half, fifth = number // 2, number // 5
  for wrong in (
      np.concatenate([logits[:half], logits[half:][::-1]]),
      np.concatenate([logits[:half][::-1], logits[half:]]),
      np.concatenate([logits[:-fifth], np.roll(logits[-fifth:], 1, 0)])):
    told = teachers.problem(wrong, label)
    assert "its rows" in told and "order of the data set" in told
  # A teacher that does not know three classes, of rows that are sorted by class.
  order = np.argsort(label, kind="stable")
  blind = 10 * np.where(np.arange(10) < 3, logits[:, 9:] - 9, logits)
  # The same of rows whose classes 0 to 2 stand at both ends.
  ends = np.argsort(
      np.where(label < 3, np.arange(number) % 2 * 9, 5), kind="stable")
  for rows in (order, ends):
    assert not teachers.problem(blind[rows], label[rows])


def test_rows_that_say_nothing_are_refused():
  _, label = made()
  for wrong in (np.zeros((600, 10)), np.full((600, 10), 3.5),
                np.arange(600.0)[:, None] + np.zeros(10)):
    assert "constant" in teachers.problem(wrong, label)
    assert "constant" in teachers.problem(wrong, np.full(600, -1))
  alike = np.tile(np.arange(10.0), (600, 1))
  assert "all the same" in teachers.problem(alike, label)


def test_columns_in_the_order_of_text_are_named():
  logits, label = made(1200, classes=12)
  text = sorted(range(12), key=str)
  found = teachers.problem(logits[:, text], label)
  assert "sorted as text: 0, 1, 10" in found
  # The remedy that is named is one.
  restored = logits[:, text][:, np.argsort(text)]
  assert not teachers.problem(restored, label)


def test_two_columns_exchanged_are_named():
  logits, label = made(1200)
  logits[:, [3, 5]] = logits[:, [5, 3]]
  assert "class 3 is in column 5" in teachers.problem(logits, label)


@pytest.mark.parametrize("label", [
    np.arange(24) % 2, np.arange(3) % 2, np.arange(2475) == 0,
    np.random.default_rng(1).random(2000) < 0.01, np.zeros(50, int),
    np.arange(10)])
@pytest.mark.parametrize("margin", [1e-3, 2.0, 50.0, 1e4])
def test_a_perfect_teacher_is_never_refused(label, margin):
  label = np.asarray(label, int)
  logits = margin * np.eye(10)[label]
  assert not teachers.problem(logits, label)
  assert not teachers.problem(np.where(logits, logits, -np.inf), label)


def false_alarms(times):
  """Refusals of right teachers: calibrated, too unsure, and ten times too sure."""
  refused = 0
  for seed in range(times):
    draw = np.random.default_rng(seed)
    number = int(draw.choice([5, 12, 24, 60, 150, 400, 1000]))
    classes = int(draw.choice([2, 3, 10]))
    strength = 10 ** draw.uniform(-2, 1)
    z = draw.normal(0, strength, (number, classes)) + draw.normal(0, 1, classes)
    label = (z + draw.gumbel(size=z.shape)).argmax(-1)
    told = z * draw.choice([0.3, 1.0, 10.0]) + draw.normal(0, 1, classes)
    refused += bool(teachers.problem(told, label))
  return refused


def test_right_teachers_pass_weak_ones_too():
  assert false_alarms(1000) == 0


@pytest.mark.slow
def test_right_teachers_pass_in_a_long_simulation():
  assert false_alarms(20_000) == 0


def softmax(logits):
  p = np.exp(logits - logits.max(-1, keepdims=True))
  return p / p.sum(-1, keepdims=True)


@pytest.mark.parametrize("rows", [
    slice(300, 600), slice(540, 600), slice(0, 12), slice(0, 600, 9)])
@pytest.mark.parametrize("value", [0.0, -1.0])
def test_a_file_that_was_filled_in_part_is_refused(rows, value):
  logits, label = made()
  logits[rows] = value
  number = len(range(600)[rows])
  for known in (label, np.full(600, -1), np.where(np.arange(600) < 50, label, -1)):
    found = f"{number} of its 600 rows are one value throughout ({rows.start}, "
    assert found in teachers.problem(logits, known)
  views = np.stack([made()[0], logits], axis=1)
  assert "in view 1, " in teachers.problem(views, label)
  assert not teachers.problem(np.stack(2 * [made()[0]], axis=1), label)


def test_right_teachers_with_constant_rows_pass_and_are_named():
  for seed in range(200):
    draw = np.random.default_rng(seed)
    classes, scale = int(draw.choice([2, 3, 10])), 10 ** draw.uniform(-1, 1)
    z = scale * draw.normal(draw.normal(), 1, (500, classes))
    label = (z + draw.gumbel(size=z.shape)).argmax(-1)
    for right in (np.maximum(z, 0), z.round(), np.clip(z, -1, 1), z.round() / 2):
      if 0 < (right == right[:, :1]).all(-1).sum() < 500:
        assert "one value throughout" not in teachers.problem(right, label)
        assert "one value throughout" in "".join(
            teachers.account(right, label, "training"))
  logits, label = made()
  logits[[7, 40, 41, 42, 43]] = 0  # A net without biases, of blank images.
  assert not teachers.problem(logits, label)
  assert "5 of its 600 rows are one value throughout (7, 40, 41, ...)" in (
      teachers.account(logits, label, "training"))


SCALED = {
    "2p - 1": lambda p: 2 * p - 1,
    "p less its mean": lambda p: p - p.mean(-1, keepdims=True),
    "p less its columns' means": lambda p: p - p.mean(0),
    "float16": lambda p: (p - p.mean(-1, keepdims=True)).astype(np.float16),
    "1000 p": lambda p: 1000 * p, "round(255 p)": lambda p: np.round(255 * p),
    "1 - p": lambda p: 1 - p}


@pytest.mark.parametrize("number, classes, margin", [
    (200, 5, 4), (600, 10, 5), (2000, 10, 6)])
@pytest.mark.parametrize("name", SCALED)
def test_probabilities_times_a_number_are_refused_or_named(
    name, number, classes, margin):
  logits, label = made(number, classes, margin, seed=1)
  wrong = SCALED[name](softmax(logits.astype(float)))
  for known in (label, np.full(number, -1)):
    found = teachers.problem(wrong, known)
    if name in ("1000 p", "round(255 p)"):
      assert "probabilities times" in found and "save log(p)" in found
      times = float(found.split("times ")[1].split(" ")[0])
      assert times == pytest.approx(1000 if name == "1000 p" else 255, rel=0.05)
    elif found:
      assert name == "1 - p" and "the other sign" in found
    else:  # Right logits may be so.
      assert "the same sum" in "".join(
          teachers.account(wrong, known, "training"))


def of_equal_sums(seed):
  """Right logits whose rows sum to one number, and labels drawn from them."""
  draw = np.random.default_rng(seed)
  number = int(draw.choice([60, 100, 200, 600, 2000]))
  classes = int(draw.choice([2, 3, 4, 5, 6, 10, 50]))
  label = draw.integers(0, classes, number)
  one_hot = np.eye(classes)[label]
  margin = 10 ** draw.uniform(-0.5, 1.5)
  spread = margin * 10 ** draw.uniform(-3, 0.5)
  noise = spread * draw.normal(size=(number, classes))
  means = margin * np.eye(classes) + draw.normal(0, margin / 5, (classes, classes))
  hard = draw.random((number, 1)) < 0.2
  vectors = draw.normal(size=(classes, 16))
  features = vectors[label] + draw.normal(0, 0.3, (number, 16))
  cosine = features @ (vectors - vectors.mean(0)).T
  z = [margin * one_hot + noise, np.maximum(margin * one_hot + noise, 0),
       margin * one_hot * draw.gamma(2, 1, (number, 1)) + noise,
       np.tanh(margin * one_hot + noise), noise,
       np.log(softmax(margin * one_hot + noise)), cosine,
       np.where(hard, means[draw.integers(0, classes, number)] / 2, 0)
       + means[label] + noise][int(draw.integers(8))]
  z = z - z.mean(-1, keepdims=True)
  return z + draw.choice([0.0, -6.9, -z.min()]), label


def test_right_logits_of_equal_sums_are_no_probabilities():
  for seed in range(3000):
    logits, label = of_equal_sums(seed)
    for stored in (np.float32, np.float16):
      assert "probabilities times" not in teachers.problem(
          logits.astype(stored), np.full(len(label), -1)), seed


@pytest.mark.slow
def test_right_logits_of_equal_sums_pass_in_a_long_simulation():
  for seed in range(3000, 40_000):
    logits, label = of_equal_sums(seed)
    assert "probabilities times" not in teachers.problem(
        logits.astype(np.float32), np.full(len(label), -1)), seed


def test_what_may_be_scaled_is_named_where_it_is_not_sure():
  logits, label = made(60, 3, 1)
  for unsure in (1000 * softmax(logits), 1000 * softmax(logits[:, :2])):
    known = np.minimum(label, unsure.shape[1] - 1)
    assert "the same sum" in "".join(teachers.account(unsure, known, "training"))
  for right in (logits, 30 * np.eye(3)[label], logits - logits.mean(-1)[:, None],
                np.log(softmax(logits)), np.maximum(logits, 0)):
    assert "the same sum" not in "".join(teachers.account(right, label, "training"))


def blind(seed, number=3000, right=1.0):
  """A teacher that surely takes class 7 for 3, and knows of 3 a share."""
  draw = np.random.default_rng(seed)
  label = draw.integers(0, 10, number)
  z = draw.normal(0, 1, (number, 10))
  column = np.where(label == 7, 3, label)
  others = (label == 3) & (draw.random(number) > right)
  column[others] = draw.choice([0, 1, 2, 4, 5, 6, 8, 9], others.sum())
  z[np.arange(number), column] += 3
  z[label == 7, 3] += 1
  return z, label


@pytest.mark.parametrize(("number", "right"), [
    (3000, 1.0), (3000, 0.8), (20_000, 0.9), (20_000, 0.5)])
def test_a_teacher_that_is_blind_to_a_class_passes(number, right):
  for seed in range(50 if number < 10_000 else 5):
    logits, label = blind(seed, number, right)
    for of in (logits, 5 * logits):
      assert not teachers.problem(of, label)
    # All columns in another order are still seen.
    assert "another order" in teachers.problem(np.roll(logits, 1, 1), label)


def test_columns_that_are_likelier_but_not_more_often_right_pass():
  for seed in range(20):
    logits, label = made(3000, seed=seed)
    # It takes classes 3 and 7 for 5; which of them is next tells nothing sure.
    for one, other in ((3, 7), (7, 3)):
      logits[label == one] = made(3000, seed=100 + seed)[0][label == one] / 10
      logits[label == one, 5] += 4
      logits[label == one, other] += 2
    assert not teachers.problem(logits, label)


def test_an_accuracy_far_below_what_is_promised_is_named():
  logits, label = made(200, 5, 4)
  order = np.random.default_rng(3).permutation(200)
  accuracy, *notes = teachers.account(logits[order], label, "training")
  promised = softmax(logits.astype(float)).max(-1).mean()
  right = (logits[order].argmax(-1) == label).mean()
  assert accuracy == f"accuracy {right:.2%} on the training set" and right < 0.4
  assert notes[0].startswith(f"its own probabilities promise {promised:.2%}")
  assert "200 rows with a label cannot tell" in notes[1]
  needed = int(notes[1].split("about ")[1].split(" ")[0])
  for seed in range(20):  # So many tell, and a quarter of them do not.
    logits, label = made(needed, 5, 4, seed=seed)
    assert "order of the data set" in teachers.problem(np.roll(logits, 1, 0), label)
    few, of_few = np.roll(logits[:needed // 4], 1, 0), label[:needed // 4]
    assert not teachers.problem(few, of_few)
    assert "cannot tell" in teachers.account(few, of_few, "training")[-1]
    # Rows that are in order are known to be, by their labels.
    assert len(teachers.account(logits[:60], label[:60], "training")) == 1
  logits, label = made(3000, 10, 4)
  assert len(teachers.account(logits, label, "training")) == 1
  # A right teacher that is somewhat too sure of itself is not so far off.
  draw = np.random.default_rng(0)
  z = draw.normal(0, 2, (3000, 10))
  label = (z + draw.gumbel(size=z.shape)).argmax(-1)
  assert len(teachers.account(1.2 * z, label, "training")) == 1
  assert "far too sure of itself" in teachers.account(9 * z, label, "training")[1]


def test_unknown_labels_are_left_out():
  logits, label = made()
  assert not teachers.problem(logits, np.full(600, -1))
  half = np.where(np.arange(600) < 300, label, -1)
  assert not teachers.problem(logits, half)
  assert teachers.problem(np.roll(logits, 1, 0), half)


def made_images(label, seed=0):
  draw = np.random.default_rng(seed)
  return (20 * label[:, None, None] + draw.integers(
      0, 40, (len(label), 8, 8))).astype(np.uint8)


@pytest.fixture(name="run")
def fixture_run(tmp_path, capsys):
  """A few steps on a user's set with a file of logits: code and what is said."""
  _, label = made(seed=0)
  _, of_test = made(200, seed=1)
  x, x_test = made_images(label), made_images(of_test, seed=1)

  def go(*words, y=label, y_test=of_test, x=x):
    np.savez(tmp_path / "mine.npz", x_train=x, y_train=y, x_test=x_test,
             y_test=y_test)
    code = main.run([
        "--config=configs/mnist.py:smoke", "--config.steps=3",
        "--config.student.widths=(16,)", "--config.data.name=mine",
        "--config.tensorboard=false", f"--config.data.dir={tmp_path}",
        f"--workdir={tmp_path / 'run'}", *words])
    told = capsys.readouterr()
    return code, " ".join((told.out + told.err).split())
  return go


def sigmoid(logits):
  return 1 / (1 + np.exp(-logits))


@pytest.mark.parametrize(("number", "classes", "margin", "noise"), [
    (600, 10, 6, 1), (100, 10, 6, 1), (600, 10, 2, 1), (600, 100, 4, 1),
    (600, 2, 12, 3), (2000, 2, 6, 1), (600, 3, 4, 3)])
def test_outputs_of_a_sigmoid_are_refused(number, classes, margin, noise):
  logits, label = made(number, classes, margin, noise=noise)
  for found in (sigmoid(logits), sigmoid(logits).astype(np.float16)):
    assert "log(p / (1 - p))" in teachers.problem(found, label)
  p = sigmoid(logits.astype(float))
  assert not teachers.problem(np.log(p / (1 - p)), label)


def test_logits_that_all_lie_between_0_and_1_are_no_sigmoids():
  refused = near = 0
  for seed in range(1000):
    draw = np.random.default_rng(seed)
    number, classes = int(draw.choice([24, 150, 6000])), int(draw.choice([2, 3, 5]))
    z = draw.normal(0, 10 ** draw.uniform(-1, 0.7), (number, classes))
    label = (z + draw.gumbel(size=z.shape)).argmax(-1)
    low, high = np.sort(draw.uniform(size=2))
    told = low + (z - z.min()) * ((high - low) / np.ptp(z))
    if np.ptp(z) > 4 * np.ptp(told):
      continue  # More than 4 times too unsure of itself.
    near += 1
    refused += bool(teachers.problem(told, label))
  assert near > 50 and not refused
  for seed in range(200):  # After a ReLU, the least is 0 and the largest near 1.
    draw = np.random.default_rng(seed)
    z = np.maximum(draw.normal(0, 1, (1000, 3)), 0)
    z *= draw.uniform(1 - 4e-4, 1) / z.max()
    label = (z + draw.gumbel(size=z.shape)).argmax(-1)
    assert not teachers.problem(z, label)


@pytest.mark.parametrize("unlabelled", [False, True])
def test_a_run_refuses_probabilities_and_takes_their_logarithm(
    run, tmp_path, unlabelled):
  logits, _ = made()
  if unlabelled:
    words = ["--config.alpha=1", "--config.data.num_classes=10"]
    run = functools.partial(run, *words, y=np.full(600, -1))
  p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  percent = (100 * p).round(1)
  file = tmp_path / "z.npy"
  for wrong in (p, p.astype(np.float16), percent):
    np.save(file, wrong)
    code, told = run(f"--config.teacher.logits={file}")
    assert code == 2 and "log(p)" in told
  np.save(file, np.log(p))
  assert run(f"--config.teacher.logits={file}")[0] == 0
  np.save(file, p)
  code, _ = run(f"--config.teacher.logits={file}", "--config.teacher.check=off",
                f"--workdir={tmp_path / 'off'}")
  assert code == 0


def test_a_run_reads_npz_and_refuses_what_torch_saves(run, tmp_path):
  import zipfile  # pylint: disable=g-import-not-at-top
  np.savez(tmp_path / "z.npz", made()[0])
  np.savez(tmp_path / "two.npz", a=made()[0], b=made()[0])
  with zipfile.ZipFile(tmp_path / "z.pt", "w") as archive:
    archive.writestr("archive/version", "3")
  assert run(f"--config.teacher.logits={tmp_path / 'z.npz'}")[0] == 0
  for name in ("two.npz", "z.pt"):
    for key in ("logits", "test_logits"):
      code, told = run(f"--config.teacher.logits={tmp_path / 'z.npz'}",
                       f"--config.teacher.{key}={tmp_path / name}",
                       f"--workdir={tmp_path / 'other'}")
      assert code == 2 and "numpy.save" in told


def test_logits_that_do_not_fit_in_memory_are_told(run, tmp_path, monkeypatch):
  np.save(tmp_path / "z.npy", made()[0])
  monkeypatch.setattr(logit_bank, "_SPARE", 2**60)
  code, told = run(f"--config.teacher.logits={tmp_path / 'z.npy'}")
  assert code == 2 and "do not fit in memory" in told


def test_a_run_names_what_its_check_cannot_tell(run, tmp_path):
  logits, label = made()
  of_test, test_label = made(200, seed=1)
  np.save(tmp_path / "z.npy", logits)
  np.save(tmp_path / "t.npy", of_test)
  words = [f"--config.teacher.logits={tmp_path / 'z.npy'}", "--config.alpha=1"]
  code, found = run(*words, y=np.where(np.arange(600) < 50, label, -1))
  assert code == 0 and "on the 50 of 600 training examples with a label" in found
  assert "not checked for the other 550" in found
  few = np.where(np.arange(600) < 9, np.roll(label, 1), -1)
  code, found = run(*words, f"--workdir={tmp_path / 'few'}", y=few)
  assert code == 0 and "9 rows with a label cannot tell" in found
  code, found = run(*words, f"--config.teacher.test_logits={tmp_path / 't.npy'}",
                    f"--workdir={tmp_path / 'test'}")
  right = (of_test.argmax(-1) == test_label).mean()
  assert code == 0 and f"accuracy {right:.2%} on the test set" in found
  code, found = run(*words, "--config.teacher.check=off",
                    f"--workdir={tmp_path / 'off'}")
  assert code == 0 and "not checked, as teacher.check=off" in found
  of_test[100:] = 0
  np.save(tmp_path / "t.npy", of_test)
  code, found = run(*words, f"--config.teacher.test_logits={tmp_path / 't.npy'}",
                    f"--workdir={tmp_path / 'part'}")
  assert code == 2 and "100 of its 200 rows are one value throughout (100," in found


def test_a_run_names_the_key_that_does_not_fit_and_what_is_too_large(run, tmp_path):
  file = tmp_path / "z.npy"
  logits, label = made(classes=5)
  np.save(file, logits)
  code, found = run(f"--config.teacher.logits={file}",
                    "--config.data.num_classes=10", y=label,
                    y_test=np.arange(200) % 5)
  assert code == 2 and "at most 4, so they fit" in found
  assert "config.data.num_classes" in found and "numbered" not in found
  code, found = run(f"--config.teacher.logits={file}", y=label + 1,
                    y_test=np.arange(200) % 5 + 1)
  assert code == 2 and "up to 5: are they numbered from 0?" in found
  large = logits.astype(np.float64)
  large[3, 2] = 1e39
  for value, word in ((1e39, "1e+39, which is farther from 0 than float32"),
                      (np.inf, "NaN or infinite"), (np.nan, "NaN or infinite")):
    large[3, 2] = value
    np.save(file, large)
    code, found = run(f"--config.teacher.logits={file}", y=label,
                      y_test=np.arange(200) % 5)
    assert code == 2 and word in found


@pytest.mark.slow
def test_logits_need_one_copy_beside_their_file(tmp_path, monkeypatch):
  monkeypatch.setattr(logit_bank, "_SPARE", 1)  # It is asked for, not written to.
  number, classes, file = 60_000, 1000, tmp_path / "z.npy"
  label = np.random.default_rng(0).integers(0, classes, number)
  z = np.lib.format.open_memmap(
      file, mode="w+", dtype=np.float16, shape=(number, classes))
  z[np.arange(number), label] = 5
  z.flush()
  del z
  tracemalloc.start()
  held, accuracy = logit_bank.from_file(
      str(file), label, num_views=1, num_classes=classes)
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert accuracy == 1 and held.nbytes == 4 * number * classes
  assert peak < held.nbytes + file.stat().st_size
  # On a CPU the device takes it as it is.
  assert jax.device_put(held).unsafe_buffer_pointer() == held.ctypes.data


def test_a_run_looks_at_test_logits_too(run, tmp_path):
  file, of_test = tmp_path / "z.npy", tmp_path / "t.npy"
  np.save(file, made()[0])
  words = [f"--config.teacher.{key}={path}" for key, path in (
      ("logits", file), ("test_logits", of_test))]
  logits, _ = made(200, seed=1)
  broken = logits.copy()
  broken[3, 2] = np.nan
  for wrong, word in ((np.roll(logits, 1, 0), "order"), (broken, "NaN"),
                      (logits.view("V4"), "float32")):
    np.save(of_test, wrong)
    code, told = run(*words)
    assert code == 2 and "test_logits" in told and word in told


OWN = """
import jax, jax.numpy as jnp
from kd_jax.core.types import Model, Outputs, Variables

def net(num_classes):
  def init(key, inputs):
    return Variables({"w": 20 * jnp.arange(10)[None] / 255}, {})

  def apply(variables, inputs, *, train, **_):
    x = inputs.reshape(len(inputs), -1)
    mean = x.mean(-1, keepdims=True) - 20 / 255
    z = -2000 * (mean - jax.lax.stop_gradient(variables.params["w"])) ** 2
    return Outputs(z if train else CHANGED, {}), {}

  return Model(init, apply)
"""


@pytest.mark.parametrize(("changed", "word"), [
    ("z", None), ("jax.nn.sigmoid(z + 50)", "outputs of a sigmoid"),
    ("z[:, ::-1]", "class 5 is in column 4"),
    ("jnp.where(x[:, :1] * 255 > 190, jnp.nan, z)", "NaN or infinite logits of"),
    ("jnp.where(x[:, :1] == 1.0, jnp.nan, z)", "of 1 training examples"),
    ("jnp.where(x[:, :1] * 255 > 190, 0, z)", "are one value throughout")])
def test_a_users_own_net_is_looked_at_like_a_file(
    run, tmp_path, changed, word):
  (tmp_path / "own.py").write_text(OWN.replace("CHANGED", changed))
  words = [f"--config.teacher.name={tmp_path}/own.py:net",
           "--config.teacher.widths=()", "--config.teacher.views=none",
           "--config.teacher.steps=1", "--config.teacher.bank=always"]
  x = made_images(made()[1])
  x[5, 0, 0] = 255
  code, told = run(*words, x=x)
  assert code == (2 if word else 0), told
  assert word is None or (word in told and "distilled" not in told)
  if changed == "z[:, ::-1]":
    assert run(*words, "--config.teacher.check=off", x=x)[0] == 0


def test_what_is_unusual_in_a_users_own_net_is_named(run, tmp_path):
  (tmp_path / "own.py").write_text(
      OWN.replace("CHANGED", "2 * jax.nn.softmax(z / 4) - 1"))
  code, found = run(
      f"--config.teacher.name={tmp_path}/own.py:net", "--config.teacher.widths=()",
      "--config.teacher.views=none", "--config.teacher.steps=1",
      x=made_images(made()[1]))
  assert code == 0 and "100.00% on the test set; all rows have the same" in found


def test_distilling_on_unlabelled_data_runs(run, tmp_path):
  file = tmp_path / "z.npy"
  logits, label = made()
  np.save(file, logits)
  words = [f"--config.teacher.logits={file}", "--config.alpha=1"]
  code, told = run(*words, y=np.full(600, -1), y_test=np.zeros(200, int))
  assert code == 2 and "data.num_classes" in told
  code, told = run(*words, "--config.data.num_classes=10", y=np.full(600, -1))
  assert code == 0 and "not checked" in told
  summary = json.loads((tmp_path / "run/summary.json").read_text())
  assert "baseline" not in summary and "test_errors" in summary["distilled"]
  half = np.where(np.arange(600) < 300, label, -1)
  # The hard term is of those whose label is known.
  code, _ = run(words[0], "--config.alpha=0.5", f"--workdir={tmp_path / 'half'}",
                y=half)
  assert code == 0
  *_, last = (json.loads(line) for line in (
      tmp_path / "half/metrics.jsonl").read_text().splitlines())
  assert last["train_examples"] <= 300


@pytest.mark.parametrize(("words", "known", "says"), [
    (("--config.method=dkd", "--config.hard_weight=0"), 300, "may read labels"),
    (("--config.alpha=0.5", "--config.data.num_classes=10"), 0, "no training"),
    (("--config.alpha=1", "--config.schedules.alpha=linear",
      "--config.schedules.alpha_end=0", "--config.data.num_classes=10"), 0,
     "no training"),
    (("--config.alpha=0.5", "--config.mixup=0.2"), 300, "mixup")])
def test_a_hard_term_without_labels_is_refused(run, tmp_path, words, known, says):
  logits, label = made()
  np.save(tmp_path / "z.npy", logits)
  code, told = run(f"--config.teacher.logits={tmp_path / 'z.npy'}", *words,
                   y=np.where(np.arange(600) < known, label, -1))
  assert code == 2 and says in told


def test_a_class_that_is_missing_is_named_and_given(run, tmp_path):
  logits, label = made()
  np.save(tmp_path / "z.npy", logits)
  label, words = label % 9, ["--config.teacher.check=off",
                             f"--config.teacher.logits={tmp_path / 'z.npy'}"]
  code, told = run(*words, y=label, y_test=np.arange(200) % 9)
  assert code == 2 and "data.num_classes=10" in told
  code, told = run(*words, "--config.data.num_classes=10", y=label,
                   y_test=np.arange(200) % 9)
  assert code == 0 and "no example of class 9" in told


@pytest.mark.parametrize(("change", "code", "word"), [
    (lambda y: y + 1, 0, "labels run from 1"),
    (lambda y: 255 * (y > 4), 2, "data.num_classes=256"),
    (lambda y: np.where(np.arange(len(y)) == 3, 2_000_000, y), 2, "2000000"),
    (lambda y: y - 5, 2, "labels from -5")])
def test_labels_that_are_no_classes_are_said_or_refused(run, change, code, word):
  _, label = made()
  _, of_test = made(200, seed=1)
  found, told = run("--config.method=hard", y=change(label), y_test=change(of_test))
  assert found == code and word in told
