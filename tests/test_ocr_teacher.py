"""A recogniser of text as a teacher: what it sees, CTC, the fixed comparisons."""

import hashlib
import itertools
import sys
import types

from conftest import ROOT
import numpy as np
import pytest

from experiments import reproduce
from experiments.ocr_teacher import study, teacher
from experiments.protocol import Options
from kd_jax.report import plots

STUDENTS = [(alpha, t) for alpha in (1.0, 0.5) for t in (1.0, 2.0, 4.0, 8.0)]


@pytest.fixture(autouse=True)
def _as_users_run_it(monkeypatch):
  monkeypatch.chdir(ROOT)
  monkeypatch.setattr(plots, "write", lambda *_: {})


def test_ctc_adds_the_probabilities_of_all_alignments_of_a_digit():
  p = np.random.default_rng(0).dirichlet([1, 1, 1], size=(2, 5))
  # Every sequence of blank (0) and two characters, which collapses to its runs
  # without blanks.
  expected = np.zeros((2, 2))
  for path in itertools.product(range(3), repeat=5):
    text = [symbol for symbol, _ in itertools.groupby(path) if symbol]
    if len(text) == 1:
      expected[:, text[0] - 1] += np.prod(
          [p[:, place, symbol] for place, symbol in enumerate(path)], axis=0)
  np.testing.assert_allclose(np.exp(teacher.of_texts(p)), expected, rtol=1e-12)
  certain = np.float32([[[0.5, 0.5], [0.75, 0.25]]])
  assert np.exp(teacher.of_texts(certain)) == pytest.approx(0.375 + 0.125 + 0.125)


def test_unlikely_texts_have_finite_logits_in_float32():
  p = np.full((1, 12, 11), 1e-10, np.float32)
  p[..., 0] = 1
  # 12 places, each 1e-10; two or more are nothing beside them.
  assert teacher.of_texts(p) == pytest.approx(np.log(12e-10), abs=1e-5)


def test_a_digit_is_shown_enlarged_dark_on_light_at_the_left():
  image = np.random.default_rng(0).random((28, 28)).astype(np.float32)
  lines = teacher.shown(np.stack([image, 0 * image])[..., None])
  assert lines.shape == (2, 3, 48, 96) and lines.dtype == np.float32
  centre = (np.arange(48) + 0.5) * 28 / 48 - 0.5
  wide = np.stack([np.interp(centre, np.arange(28), row) for row in image])
  high = np.stack([np.interp(centre, np.arange(28), c) for c in wide.T], axis=1)
  np.testing.assert_allclose(lines[0, 1, :, :48], 1 - 2 * high, atol=1e-6)
  assert (lines[0, :1] == lines[0, 1:]).all()
  assert (lines[1, :, :, :48] == 1).all() and (lines[..., 48:] == 0).all()


def test_the_recogniser_is_asked_in_parts_and_by_the_columns_of_digits(monkeypatch):
  asked, columns = [], [3, 11, 10, 9, 8, 7, 6, 5, 4, 2, 1]

  def run(outputs, inputs):
    """The digit that the first pixel shows, between two blanks."""
    asked.append(len(inputs["x"]))
    digit = np.rint(5 * (1 - inputs["x"][:, 0, 0, 0])).astype(int)
    p = np.full((len(digit), 3, 12), 0.01, np.float32)
    p[:, [0, 2], columns[0]] = 0.89
    p[np.arange(len(digit)), 1, np.array(columns[1:])[digit]] = 0.89
    return [p]

  session = types.SimpleNamespace(
      run=run, get_inputs=lambda: [types.SimpleNamespace(name="x")])
  monkeypatch.setattr(teacher, "_session", lambda: (session, columns))
  digits = np.arange(120) % 10
  images = np.broadcast_to((digits / 10)[:, None, None, None], (120, 28, 28, 1))
  logits = teacher.logits(images)
  assert asked == [50, 50, 20] and logits.shape == (120, 10)
  np.testing.assert_array_equal(logits.argmax(1), digits)
  # It in the middle; at one end; in two places; in all three.
  assert logits.max() == pytest.approx(np.log(
      0.89**3 + 2 * 0.01**2 * 0.89 + 2 * 0.01 * 0.89**2 + 0.01**2 * 0.89))


def _installed(monkeypatch, folder, content):
  """A package rapidocr with a net of these bytes, and an onnxruntime."""
  (folder / "rapidocr/models").mkdir(parents=True)
  (folder / "rapidocr/__init__.py").write_text("")
  (folder / "rapidocr/models/PP-OCRv6_rec_small.onnx").write_bytes(content)
  monkeypatch.syspath_prepend(folder)
  known = "\n".join(["a", *"9876543210", "b"])
  meta = types.SimpleNamespace(custom_metadata_map={"character": known})
  session = types.SimpleNamespace(get_modelmeta=lambda: meta)
  monkeypatch.setitem(sys.modules, "onnxruntime", types.SimpleNamespace(
      InferenceSession=lambda found, providers: session))


def test_the_columns_of_digits_are_those_of_its_alphabet(monkeypatch, tmp_path):
  _installed(monkeypatch, tmp_path, b"net")
  with pytest.raises(ImportError, match="another version; pip install rapidocr=="):
    teacher._session.__wrapped__()
  monkeypatch.setattr(teacher, "SHA256", hashlib.sha256(b"net").hexdigest())
  # After the blank, "a", then "9" to "0".
  assert teacher._session.__wrapped__()[1] == [0, *range(11, 1, -1)]


def test_without_the_recogniser_one_line_says_how_to_install_it(
    monkeypatch, tmp_path, capsys):
  monkeypatch.setitem(sys.modules, "onnxruntime", None)
  code = reproduce.main(["ocr_teacher", "--plan", f"--workdir={tmp_path}"])
  error = capsys.readouterr().err
  assert code == 2 and "Traceback" not in error and error.count("\n") == 1
  assert "pip install rapidocr==3.10.0 onnxruntime==1.32.0" in error


def test_all_settings_are_of_both_sets_and_no_label_is_in_soft_outputs_alone():
  made = {stage.name: stage.config({}) for stage in study.stages(Options(ROOT))}
  assert [*made] == ["table", "mnist"]
  assert [each.data.embedded for each in made.values()] == ["only", "never"]
  assert made["mnist"].sweep.points == made["table"].sweep.points
  points = made["table"].sweep.points
  assert len(points) == 10 * 9
  assert {(point["alpha"], point["temperature"]) for point in points} == {
      (0.0, 1.0), *STUDENTS}
  assert study.ALONE == 1.0  # The share of the hard term is 1 - alpha.
  assert {each.teacher.name for each in made.values()} == {study.TEACHER}
  quick = [stage.config({}) for stage in study.stages(Options(ROOT, quick=True))]
  assert all("ocr" not in each.teacher.name for each in quick)


def row(alpha, t, seed, errors, of):
  return {"net": "student", "seed": seed, "failed": None, "test_errors": errors,
          "overrides": {"alpha": alpha, "temperature": t, "seed": seed},
          "test_examples": of, "fingerprint": f"{alpha:g}-{t:g}-{of}-{seed}"}


def rows_of(minus):
  """Rows of four seeds; `minus(stage, alpha, seed)` is added to labels' errors."""
  made = {}
  for stage, of, labels in (("table", 1_000, 60), ("mnist", 10_000, 200)):
    made[stage] = [row(0.0, 1.0, seed, labels + 5 * seed, of) for seed in range(4)]
    made[stage] += [
        row(alpha, t, seed, labels + 5 * seed + minus(stage, alpha, seed)
            # Other temperatures are not those that are compared.
            - 50 * (t != 4.0), of)
        for alpha, t in STUDENTS for seed in range(4)]
  own = {"net": "teacher", "test_errors": 22, "test_examples": 1_000}
  large = own | {"test_errors": 240, "test_examples": 10_000}
  return made | {"teachers": [own], "mnist_teachers": [large]}


@pytest.mark.parametrize(("minus", "verdicts"), [
    (lambda *_: -10, ["holds"] * 4),
    (lambda *_: 10, ["does not hold"] * 4),
    (lambda stage, alpha, seed: (-9, 9, -5, 7)[seed], ["is not shown"] * 4),
    (lambda stage, alpha, seed: (-10 if stage == "mnist" and alpha == 0.5 else 10),
     ["does not hold"] * 3 + ["holds"]),
    # t = -3.66 of 3 degrees: p = 0.035 by itself, with an interval below 0, and
    # 0.14 of four.
    (lambda stage, alpha, seed: (-1, -2, -3, -1)[seed], ["is not shown"] * 4),
])
def test_the_verdict_can_go_either_way(minus, verdicts):
  spread = lambda stage, alpha, seed: minus(stage, alpha, seed) + (
      seed % 2 if abs(minus(stage, alpha, 0)) == 10 else 0)
  rows = rows_of(spread)
  found = study.compared(rows)
  assert [*found.tests] == [*itertools.product(("table", "mnist"), (1.0, 0.5))]
  assert [found.verdict(key) for key in found.tests] == verdicts
  assert [study.status(rows).count(f"({each})") for each in dict.fromkeys(verdicts)
          ] == [verdicts.count(each) for each in dict.fromkeys(verdicts)]


def test_holm_counts_all_four_comparisons():
  found = study.compared(rows_of(lambda stage, alpha, seed: (-1, -2, -3, -1)[seed]))
  for key, test in found.tests.items():
    assert test.high < 0 and test.difference == -1.75
    assert found.adjusted[key] == pytest.approx(4 * test.p)


def test_a_stage_that_was_stopped_is_counted_and_not_judged(tmp_path):
  rows = rows_of(lambda stage, alpha, seed: (-10, -11, -10, -11)[seed])
  rows["mnist"] = rows["mnist"][:-1]
  found = study.compared(rows)
  # Both by 4: the second of equal p is not below the first.
  for key in (("table", 1.0), ("table", 0.5)):
    assert found.adjusted[key] == pytest.approx(4 * found.tests[key].p)
  said = study.conclude(rows)
  assert "All of MNIST: not run to its end yet, and not judged." in said
  assert "errors of 10,000" not in said and "of 10,000" not in study.status(rows)
  study.pictures(rows, tmp_path)
  assert (tmp_path / "errors.png").is_file()


def test_each_set_of_digits_has_a_table_of_its_own():
  said = study.conclude(rows_of(lambda *_: -10))
  small, large = said.split("### The embedded digits")[1].split("### All of MNIST")
  assert "errors of 1,000 (n)" in small and "errors of 10,000 (n)" in large
  # 60, 65, 70, 75 of labels; 10 fewer at T = 4 and 60 fewer elsewhere.
  assert "alone](rows.md#0-1-1000) |  | 67.5 ± 10.3 (4) | reference |" in small
  assert "alone](rows.md#1-4-1000) | 4 | 57.5 ± 10.3 (4) | -10.0 [" in small
  assert "[both](rows.md#0.5-8-10) | 8 | 147.5 ± 10.3 (4) | -60.0" in large
  assert "The recogniser itself makes 22 errors of 1,000." in small
  assert "The recogniser itself makes 240 errors of 10,000." in large
  assert "It is not known whether the recogniser saw digits of MNIST" in said


def test_the_figure_has_both_sets(tmp_path):
  study.pictures(rows_of(lambda *_: -10), tmp_path)
  assert (tmp_path / "errors.png").stat().st_size > 10_000
