"""Rows of a sweep become points, tables, plots: by hand-derived numbers."""

import base64
import csv
import gzip
import json
import math
import pathlib
import random
import re
import subprocess
import sys
import types
from xml.etree import ElementTree

from conftest import ROOT
import figures
from PIL import Image
import pytest

import kd_jax
from kd_jax import report
from kd_jax.core.errors import UserError
from kd_jax.report import (
  canvas,
  line_plots,
  names,
  panels,
  plots,
  points,
  soft_targets,
  svg,
  tables,
)

pytestmark = pytest.mark.pictures

TEACHER = "a" * 64


def row(errors, seed=0, *, teacher=TEACHER, over=None, **more):
  """A row of a sweep; `over` are its overrides but for the seed."""
  over = {"alpha": 0.9, "temperature": 4.0} if over is None else over
  return {
      "schema": 1, "study": "toy", "row": "r", "method": "kd",
      "loss": "0.1 * CE + 0.9 * T**2 * KL, T = 4",
      "overrides": {**over, "seed": seed}, "seed": seed,
      "fingerprint": f"{teacher[:4]}{sorted(over.items())}{seed}{errors}",
      "teacher_fingerprint": teacher, "test_errors": errors,
      "test_examples": 10000, "test_nll": 0.05, "test_ece": 0.01,
      "agreement": 0.975, "failed": None, "seconds": 2.0,
      "numerics": kd_jax.NUMERICS,
      "command": f"python -m kd_jax.main --config.seed={seed}", **more}


def runs(values, **more):
  return [row(errors, seed, **more) for seed, errors in enumerate(values)]


def sweep_rows():
  """Two widths, three T and alpha 0, three seeds."""
  rows = []
  for width, base in ((30, 300), (800, 80)):
    widths = [width, width]
    rows += runs([base + 50, base + 56, base + 62],
                 over={"student.widths": widths, "alpha": 0.0},
                 curve={"train_hard": [0.5, 0.2], "train_soft": []})
    for t in (1.0, 4.0, 20.0):
      rows += runs(
          [base + t, base + 2 * t, base + 6],
          over={"student.widths": widths, "alpha": 0.9, "temperature": t},
          curve={"train_hard": [0.5, 0.2], "train_soft": [0.9, 0.3]},
          test_bins={"count": [10, 90], "confidence": [4.0, 80.0],
                     "correct": [5, 81]})
  return rows


def teacher_json():
  example = {"id": 3, "label": 1, "image": [[0, 255], [128, 0]],
             "logits": [0.0, 4.0, 1.0]}
  return {"schema": 1, "teacher_fingerprint": TEACHER, "examples": [example],
          "entropy": [{"temperature": t, "mean": 0.2, "low": 0.1, "high": 0.4}
                      for t in (1.0, 4.0, 20.0)]}


def lines(text):
  """The cells of a markdown table by line, and what follows it."""
  table, below = text.split("\n\n", 1)
  return [line[2:-2].split(" | ") for line in table.splitlines()], below


def cells(rows, **more):
  """The one line of a table, by title of the column."""
  (titles, _, *found), _ = lines(tables.markdown(points.gather(rows, **more)))
  return [dict(zip(titles, line)) for line in found]


def test_cells_are_those_derived_by_hand():
  # 90, 96, 102: mean 96, sd 6, s.e. 3.464; t(2, 0.975) = 4.303 -> 14.9.
  # Binomial: sqrt(10000 * 0.0096 * 0.9904) = 9.75.
  (line,) = cells(runs([90, 96, 102]))
  assert line["test errors"] == "96.0 ± 14.9" and line["sd"] == "6.0"
  assert (line["n"], line["failed"], line["binomial"]) == ("3", "0", "9.8")
  assert line["NLL"] == "0.0500" and line["agreement %"] == "97.50"
  assert line["seconds"] == "2.0" and "difference" not in line


def test_one_run_has_no_interval():
  (line,) = cells([row(90)])
  assert line["test errors"] == "90.0" and "sd" not in line


def test_keys_that_do_not_vary_are_told_once():
  sweep = points.gather(
      [row(9, over={"alpha": 0.0, "epochs": 2, "optimizer.b2": 0.9}),
       row(8, over={"alpha": 0.9, "epochs": 2.0, "temperature": 4,
                    "optimizer.b2": 0.99})])
  assert sweep.keys == ("alpha", "temperature", "optimizer.b2")
  assert sweep.common == {"epochs": 2}
  (titles, _, first, _), below = lines(tables.markdown(sweep))
  assert titles[:3] == ["alpha", "T", "b2"] and first[:3] == ["0", "-", "0.9"]
  assert "In all points: epochs 2." in below
  assert "- is not set for these runs" in below
  assert "alpha is the share of the soft term" in below


def test_points_are_sorted_by_number_not_by_text():
  rows = [row(9, over={"temperature": t, "student.widths": [w, w]})
          for t in (10, 2.5, 1) for w in (800, 30)]
  found = [(p.values["student.widths"][0], p.values["temperature"])
           for p in points.records(rows)]
  assert found == [(30, 1), (30, 2.5), (30, 10), (800, 1), (800, 2.5), (800, 10)]


def test_the_difference_is_paired_by_seed_and_corrected_by_family():
  # Differences -8, -10, -12: mean -10, sd 2, s.e. 1.1547, half 4.97;
  # t = 8.66 with 2 degrees: p = 0.0131. Of T = 8: 2, 3, 4, p = 0.0351.
  reference = runs([100, 110, 120], over={"alpha": 0.0})
  four = runs([92, 100, 108])
  eight = runs([102, 113, 124], over={"alpha": 0.9, "temperature": 8})
  first, a, b = cells(reference + four[::-1] + eight, reference={"alpha": 0})
  assert first["difference"] == "reference" and first["p"] == ""
  assert a["difference"] == "−10.0 [−15.0, −5.0]"
  assert (a["p"], b["p"]) == ("0.013", "0.035")
  # Holm: the smaller of two times two, then the larger once.
  assert (a["p (Holm)"], b["p (Holm)"]) == ("0.026", "0.035")


def test_only_common_seeds_are_compared():
  rows = runs([100, 110, 120], over={"alpha": 0.0}) + runs([90, 100])
  _, point = points.records(rows, reference={"alpha": 0})
  assert (point.difference, point.pairs, point.n) == (-10.0, 2, 2)


def test_each_width_has_its_own_reference_and_family():
  sweep = points.gather(sweep_rows(), reference={"alpha": 0})
  by_width = {}
  for point in sweep.points:
    by_width.setdefault(point.values["student.widths"][0], set()).add(
        point.reference)
  assert by_width == {30: {None, "widths 30x30, alpha 0"},
                      800: {None, "widths 800x800, alpha 0"}}
  caption = tables.captions(sweep)[-1]
  assert "3 against widths 30x30, alpha 0" in caption
  assert "3 against widths 800x800, alpha 0" in caption


def test_t_of_a_reference_without_soft_term_does_not_matter():
  rows = runs([10, 12], over={"alpha": 0.0, "temperature": 2.5})
  rows += runs([7, 8], over={"alpha": 0.5, "temperature": 8.0})
  point = points.records(rows, reference={"alpha": 0})[1]
  assert point.difference == -3.5
  # Where alpha is 1 in the reference, its T does matter.
  rows = runs([10, 12], over={"alpha": 1.0, "temperature": 2.5})
  rows += runs([7, 8], over={"alpha": 0.5, "temperature": 8.0})
  point = points.records(rows, reference={"alpha": 1})[0]
  assert point.difference is None and point.reference is None


def test_the_reference_of_the_same_t_comes_first():
  rows = [row(errors, over={"alpha": a, "temperature": t})
          for errors, a, t in ((10, 0, 1), (20, 0, 2), (15, 1, 2))]
  assert points.records(rows, reference={"alpha": 0})[2].difference == -5


def test_failed_runs_are_counted_and_in_no_mean():
  rows = runs([90, 96, 102])
  rows.append(row(9999, 3, failed="nan in epoch 3", test_nll=None))
  (line,) = cells(rows)
  assert (line["n"], line["failed"]) == ("3", "1")
  assert line["test errors"] == "96.0 ± 14.9"
  assert "failed runs are counted" in tables.markdown(points.gather(rows))


def test_a_point_of_failures_alone_has_no_numbers():
  failed = row(None, over={"alpha": 0.5}, failed="nan in epoch 1")
  first, second = cells([failed, row(90)], reference={"alpha": 0.5})
  assert (first["n"], first["failed"], first["test errors"]) == ("0", "1", "")
  assert second["test errors"] == "90.0" and "difference" not in second


def test_a_fingerprint_counts_once_and_differing_copies_are_told():
  rows = runs([90, 96, 102])
  (line,) = cells(rows + rows[:2])
  assert line["n"] == "3" and line["test errors"] == "96.0 ± 14.9"
  other = {**rows[0], "test_errors": 95}
  for order in ([*rows, other], [other, *rows]):
    sweep = points.gather(order)
    assert sweep.points[0].n == 3 and sweep.points[0].errors == 96
    assert "different test errors" in sweep.notes[0]


def test_a_repeated_run_replaces_its_failure():
  good = row(90)
  (point,) = points.records([{**good, "failed": "nan in epoch 1"}, good])
  assert (point.n, point.failed) == (1, 0)


def test_a_seed_under_two_configs_is_told():
  sweep = points.gather([row(90, fingerprint="x"), row(91, fingerprint="y")])
  assert sweep.points[0].n == 2 and "seeds 0 ran under" in sweep.notes[0]


def test_with_one_teacher_the_caption_says_so():
  below = tables.markdown(points.gather(runs([90, 96])))
  assert "given this teacher (aaaaaaaa)" in below


def test_with_two_teachers_the_interval_is_over_teachers():
  # Means 10 and 14: mean 12, sd 2.828, s.e. 2, t(1) = 12.706 -> 25.4. Within:
  # 9, 11 and 13, 15: pooled variance (2 + 2) / 2 = 2.
  rows = runs([9, 11]) + runs([13, 15], teacher="b" * 64)
  rows += runs([10, 14], over={"alpha": 0.0})
  rows += runs([18, 20], over={"alpha": 0.0}, teacher="b" * 64)
  _, line = cells(rows, reference={"alpha": 0})
  assert line["test errors"] == "12.0 ± 25.4" and "sd" not in line
  assert line["sd between teachers"] == "2.8" and line["sd within"] == "1.4"
  # By teacher 10 - 12 and 14 - 19: the two do not make four.
  point = points.records(rows, reference={"alpha": 0})[1]
  assert (point.difference, point.pairs, point.teachers) == (-3.5, 4, 2)
  below = tables.markdown(points.gather(rows))
  assert "one mixed model of the table" in below
  assert "given this teacher" not in below
  # Labels alone have no teacher: 10 and 18, 14 and 20 are of the same two seeds.
  hard, taught = points.records(rows, reference={"alpha": 0})
  assert (hard.errors, hard.teachers, hard.over) == (15.5, 0, "runs")
  assert hard.half == pytest.approx(12.706 * 1.5, rel=1e-3)  # 14 and 17
  assert (taught.over, taught.difference_over) == ("teachers", "teachers")


def test_the_seed_of_the_teacher_makes_no_point_of_its_own():
  rows = [row(9, over={"alpha": 0.9, "teacher.seed": 0}),
          row(8, over={"alpha": 0.9, "teacher.seed": 1}, teacher="b" * 64)]
  assert len(points.records(rows)) == 1


def test_the_best_epoch_is_one_for_all_seeds_and_held_out():
  # Means by epoch: 30, 20, 25; the best of each seed would be 19 and 20.
  rows = [row(90, 0, heldout_errors=26, heldout_examples=600,
              heldout_curve=[30, 21, 26]),
          row(91, 1, heldout_errors=24, heldout_examples=600,
              heldout_curve=[30, 19, 24], train_examples=5400)]
  (line,) = cells(rows)
  assert line["held-out errors"] == "25.0"
  assert line["held-out, best epoch"] == "20.0 (epoch 2)"
  below = tables.markdown(points.gather(rows))
  assert "600 training examples" in below and "never test" in below
  assert "trained on 5,400 others" in below


def test_csv_has_plain_names_and_all_digits():
  text = tables.comma_separated(points.gather(runs([90, 96, 101])))
  (line,) = csv.DictReader(text.splitlines())
  assert float(line["test_errors"]) == pytest.approx(287 / 3, rel=1e-9)
  assert line["test_errors_low"] and line["n"] == "3"


HOSTILE = 'a|b_<script>alert(1)</script>,"50%" \\ & $x^{2}~#'


def test_hostile_text_is_text():
  rows = [row(9, over={"data.name": HOSTILE, "alpha": 0.5}),
          row(8, over={"data.name": "plain", "alpha": 0.5})]
  sweep = points.gather(rows)
  markdown = tables.markdown(sweep)
  assert "<script" not in markdown and r"a\|b_&lt;script>" in markdown
  parsed = list(csv.DictReader(tables.comma_separated(sweep).splitlines()))
  assert HOSTILE in [line["data.name"] for line in parsed]
  assert (r"a$|$b\_$<$script$>$alert(1)$<$/script$>$,"
          r'"50\%" \textbackslash{} \& \$x\textasciicircum{}\{2\}'
          r"\textasciitilde{}\#") in tables.latex(sweep)


def test_latex_is_booktabs():
  text = tables.latex(points.gather(runs([90, 96, 102])))
  for word in (r"\toprule", r"\midrule", r"\bottomrule", r"96.0 $\pm$ 14.9"):
    assert word in text
  assert "±" not in text and "−" not in text


def test_files_do_not_depend_on_the_order_of_rows(tmp_path):
  rows = sweep_rows()
  contents = []
  for seed in range(2):
    random.Random(seed).shuffle(rows)
    folder = tmp_path / str(seed)
    folder.mkdir()
    (folder / "results.jsonl").write_text("".join(
        json.dumps(dict(random.Random(seed).sample(list(r.items()), len(r))))
        + "\n" for r in rows))
    (folder / "teacher.json").write_text(json.dumps(teacher_json()))
    written = report.write(folder, reference={"alpha": 0})
    contents.append({path.name: path.read_bytes() for path in written})
  assert contents[0] == contents[1]
  assert set(contents[0]) == {
      "table.md", "table.csv", "table.tex", "errors.png", "differences.png",
      "learning.png", "reliability.png", "dark.png", "report.html"}
  assert str(tmp_path).encode() not in contents[0]["report.html"]
  # Nor on the version of what drew them.
  assert b"matplotlib" not in contents[0]["errors.png"]


def test_what_is_not_there_is_not_drawn(tmp_path):
  """No side file, no curve, no T: tables and a page all the same."""
  (tmp_path / "results.jsonl").write_text(
      "\n".join(json.dumps(r) for r in runs([90, 96], over={"alpha": 0.5})))
  written = {path.name for path in report.write(tmp_path)}
  assert written == {"table.md", "table.csv", "table.tex", "report.html"}
  page = (tmp_path / "report.html").read_text()
  assert "<svg" not in page and "Manifest" not in page


def test_only_pictures_of_the_report_are_removed(tmp_path):
  folder = written(tmp_path / "own", sweep_rows())
  (folder / "heat.png").write_text("somebody's own")
  report.write(folder, reference={"alpha": 0})
  assert (folder / "errors.png").is_file() and (folder / "learning.png").is_file()
  written(folder, runs([90, 96], over={"alpha": 0.5}))
  report.write(folder)
  assert [path.name for path in folder.glob("*.png")] == ["heat.png"]


def test_a_committed_study_gets_the_page_alone(tmp_path, capsys):
  folder = written(tmp_path / "study", sweep_rows())
  (folder / "study.py").touch()
  for name in ("errors.png", "heat.png", "table.md"):
    (folder / name).write_text("the study's own")
  before = {path.name: path.read_bytes() for path in folder.iterdir()}
  assert report.main([str(folder), "--reference", "alpha=0"]) == 0
  after = {path.name: path.read_bytes() for path in folder.iterdir()}
  page = after.pop("report.html")
  assert after == before and page.count(b"<svg") == 4
  out, error = capsys.readouterr()
  assert "only report.html is written" in error and "−50.0 [" in out


def test_rows_of_several_methods_have_no_mean_in_common():
  rows = [row(errors, seed, over={"rate": 0.1}, method=method,
              fingerprint=f"{method}{seed}", command="", teacher="")
          for method, base in (("ensemble", 200), ("one net", 300))
          for seed, errors in enumerate((base, base + 4))]
  found = {line["method"]: (line["n"], line["test errors"].split()[0])
           for line in cells(rows)}
  assert found == {"ensemble": ("2", "202.0"), "one net": ("2", "302.0")}
  # Where another key tells them apart it stays what it was.
  apart = [one | {"overrides": {"rate": len(one["method"])}} for one in rows]
  assert all("method" not in line for line in cells(apart))


@pytest.mark.parametrize(("parts", "noted"), [
    ((0, 0, 1, 1), True), ((0, 1, 2, 3), False), ((0, 0, 0, 0), False)])
def test_runs_that_share_a_part_of_the_data_are_noted(parts, noted):
  rows = [row(errors, seed, over={"alpha": 0.0, "transfer.seed": part})
          for seed, (errors, part) in enumerate(zip((90, 92, 120, 122), parts))]
  (point,), notes = points.gather(rows).points, points.gather(rows).notes
  assert point.n == 4 and any("part of the data" in note for note in notes) == noted
  # With a teacher a part each, intervals are over teachers.
  students = [one | {"teacher_fingerprint": f"{part}" * 64, "overrides": {
      **one["overrides"], "alpha": 0.9}} for one, part in zip(rows, parts)]
  assert not any("part of" in note for note in points.gather(students).notes)


@pytest.mark.parametrize(("errors", "titles"), [
    ((0, 0), ["point", "test errors", "T"]), ((None, None), ["point", "T"])])
def test_the_page_leaves_out_what_says_nothing(tmp_path, errors, titles):
  rows = [row(one, over={"temperature": t}) for t, one in zip((1, 2), errors)]
  page = report.write(written(tmp_path / "study", rows))[-1].read_text()
  head = re.search('id="table">(.*?)</thead>', page)[1]
  found = re.findall('<button type="button">(.*?)</button>', head)
  assert found[:len(titles)] == titles
  assert not {"n", "failed", "seconds"} & {*found} and "NLL" in found


def test_a_page_leads_to_its_conclusion(tmp_path):
  folder = written(tmp_path / "study", sweep_rows())
  link = '<a href="conclusion.md">'
  assert link not in report.write(folder)[-1].read_text()
  (folder / "conclusion.md").touch()
  assert link in report.write(folder)[-1].read_text()


def test_the_numerics_of_rows_are_said():
  notes = lambda *made: points.gather([
      row(90, seed, numerics=version) for seed, version in enumerate(made)]).notes
  now = kd_jax.NUMERICS
  assert notes(now, now) == ()
  assert notes(1, 1)[0].startswith(
      f"All 2 runs were made by version 1 of the numerics; this is version {now}, ")
  assert notes(2)[0].startswith("The run was made by version 2 of")
  assert notes(1, now, 1)[0].startswith(
      f"All 3 runs were made by version 1 (2), by version {now} (1) of the")


def test_the_name_of_a_point_is_what_tells_it_apart():
  usual = {"alpha": 0.9, "optimizer.b1": 0.9}
  rows = [row(9, over=usual | {"zeta": t, "epochs": 10 * t})
          for t in (1, 2, 4, 8, 16, 32)]
  rows += [row(8, over={"alpha": 0.9, "zeta": 2, "epochs": 20}),
           row(7, over=usual | {"method": "hint", "zeta": 2, "epochs": 20})]
  sweep = points.gather(rows)
  # Epochs go with zeta, b1 and the method are said where they are not as in most.
  assert {sweep.name(point) for point in sweep.points} == {
      *(f"zeta {t}" for t in (1, 2, 4, 8, 16, 32)), "zeta 2, b1 -", "hint, zeta 2"}
  assert sweep.usual == {"method": "kd", "optimizer.b1": "0.9"}
  alone = points.gather(rows[:1])
  assert alone.name(alone.points[0]) == "all runs"


def test_lists_sort_by_all_their_numbers():
  sweep = points.gather([row(9, over={"student.widths": widths})
                         for widths in ([32] * 11, [32, 32], [32, 8], [100])])
  (column, *_) = tables.columns(sweep)
  ends = [(column.number(point), point.values["student.widths"])
          for point in sweep.points]
  assert [widths for _, widths in sorted(ends)] == [
      [32, 8], [32, 32], [32] * 11, [100]]


def test_the_heat_map_needs_t_and_alpha(tmp_path):
  grid = [row(t * 10 + a, over={"alpha": a, "temperature": t})
          for t in (1, 4) for a in (0.5, 0.9)]
  assert plots.heat_map(points.gather(sweep_rows())) is None
  drawn = plots.heat_map(points.gather(grid))
  assert [text.get_text() for text in drawn.axes[0].texts] == [
      "10.5", "40.5", "10.9", "40.9"]
  canvas.save(drawn, tmp_path / "heat.png")
  assert (tmp_path / "heat.png").read_bytes()[:4] == b"\x89PNG"


def test_bins_are_added_up_before_dividing():
  bins = {"count": [10, 60], "confidence": [4.0, 48.0], "correct": [5, 54]}
  # 120 examples, 96 of confidence, 108 right; 20 are too few to be shown.
  assert line_plots._bins([{"test_bins": bins}] * 2) == [(0.8, 0.9)]


def test_one_epoch_is_no_curve():
  rows = runs([9, 8], curve={"train_hard": [0.5]})
  assert line_plots.learning(points.gather(rows)) is None


def test_curves_are_averaged_once_a_name_however_many_seeds(monkeypatch):
  asked = []
  monkeypatch.setattr(
      line_plots, "_mean_curve", lambda rows, name: asked.append(name) or [1.0])
  rows = [{"curve": {"train_soft": [1], "train_hard": [2], "test": [3]}}] * 50
  point = types.SimpleNamespace(good=rows)
  assert line_plots._curves([point], "train_") == ["hard", "soft"]
  assert len(asked) == 2
  # A log axis has no place for a term that is 0 throughout.
  monkeypatch.setattr(line_plots, "_mean_curve", lambda rows, name: [0.0, 0.0])
  assert line_plots._curves([point], "train_") == []


@pytest.mark.pictures
def test_lines_of_one_colour_differ_in_their_dash_too():
  _, ((at,),) = canvas.figure(1, 1, (3, 2))
  point = types.SimpleNamespace(mean=2.0, low=1.0, high=3.0)
  lines = [canvas.means(at, {1.0: point, 2.0: point}, index, "")[0]
           for index in range(28)]
  assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 28


def test_a_legend_of_many_lines_has_its_room_and_its_marks():
  marks = [tuple(canvas.style(index).values()) for index in range(49)]
  assert len(set(marks)) == 49
  many = [row(90 + k, over={"temperature": float(t), "method": f"m{k}"},
              curve={"train_hard": [0.5, 0.2]})
          for k in range(40) for t in (1, 4)]
  few = [r for r in many if r["test_errors"] < 92]
  heights, room = [], []
  for rows in (few, many):
    drawn = plots.errors(points.gather(rows))
    drawn.draw_without_rendering()
    heights.append(drawn.get_figheight())
    room.append(drawn.axes[0].get_window_extent().height / drawn.dpi)
  # 40 lines are above the axes, three beside each other: 14 of 0.175 inches.
  assert heights[0] < 3 and heights[1] > 2.2 + 14 * 0.17
  assert min(room) > 1.3


def test_points_that_t_does_not_tell_apart_share_a_panel():
  sweep = points.gather([
      row(90, over={"student.widths": [width], "temperature": t, "method": method})
      | {"method": method}
      for width in (30, 800) for method, t in (("kd", 4.0), ("dkd", width / 10))])
  (narrow, first), (wide, other) = line_plots._panels(sweep)
  assert narrow == "widths 30" and wide == "widths 800"
  assert [line.label for line in first] == ["T 3, method dkd", "T 4, method kd"]
  assert [line.label for line in other] == ["T 4, method kd", "T 80, method dkd"]
  # A method has one look, wherever it stands.
  assert [line.style for line in first] == [line.style for line in other[::-1]]
  assert first[0].style != first[1].style


def mixed():
  """T varies on one line; three points have one T, and to two it says nothing."""
  plain = {"epochs": 10, "alpha": 0.9}
  return [
      *[row(90 + t, over=plain | {"temperature": float(t)}) for t in (1, 2, 4)],
      row(70, over=plain | {"temperature": 4.0, "epochs": 40}),
      row(80, over=plain | {"temperature": 1.0, "method": "logits"}),
      row(99, over={"epochs": 10, "alpha": 0.0, "temperature": 1.0,
                    "label_smoothing": 0.1})]


def test_points_that_t_does_not_order_stand_below_each_other():
  sweep = points.gather(mixed())
  (panel,) = panels.panels(sweep)
  assert [panels.temperature(point) for point in panel.lines[0].points] == [1, 2, 4]
  drawn = plots.errors(sweep)
  drawn.draw_without_rendering()
  against, below = drawn.axes
  assert against.get_xscale() == "log" and below.get_xscale() == "linear"
  # Smoothed labels and matched logits have no T, whatever their config has.
  labels = [" ".join(label.get_text().split()) for label in below.get_yticklabels()]
  assert labels == ["alpha 0, epochs 10, label smoothing 0.1",
                    "alpha 0.9, epochs 10, method logits",
                    "alpha 0.9, T 4, epochs 40"]
  (line,) = [line for line in below.lines if len(line.get_xdata()) == 3
             and line.get_marker() == "o"]
  assert list(line.get_xdata()) == [99, 80, 70]
  assert list(line.get_ydata()) == list(below.get_yticks())


def test_few_levels_are_bands_and_many_are_none():
  line = [row(90 + t, over={"alpha": 0.9, "temperature": t}) for t in (1.0, 4.0)]
  hard = [row(95 + k, over={"alpha": 0.0, "label_smoothing": k / 10})
          for k in range(3)]
  few, many = (panels.panels(points.gather(line + hard[:number]))[0]
               for number in (2, 3))
  assert len(few.levels) == 2 and few.others == []
  assert many.levels == [] and len(many.others) == 3


def test_points_of_which_no_errors_are_known_are_left_out():
  rows = mixed()
  rows[3]["test_errors"] = None
  drawn = plots.errors(points.gather(rows))
  assert len(drawn.axes[1].get_yticks()) == 2


def test_panels_of_one_name_are_one():
  # Each width has one point that is on no line: their panels have no title.
  sweep = points.gather([
      row(width, over={"student.widths": [width], "temperature": t, "method": m})
      for width in (30, 800) for t, m in ((1.0, "kd"), (4.0, "kd"), (4.0, "dkd"))])
  drawn = plots.errors(sweep)
  *_, below = drawn.axes
  assert [len(below.get_yticks()), below.get_title("left")] == [2, ""]


def test_labels_of_several_lines_have_their_room():
  long = {"label_smoothing": 0.005241, "optimizer.learning_rate": 0.00125}
  sweep = points.gather([
      row(errors, seed, over={"alpha": 0.9, "temperature": t} | long | {
          "epochs": int(t)}) for t in map(float, range(1, 13)) for seed, errors in (
              (0, 90 + t), (1, 92 + t), (2, 94 - t))] + runs(
                  [99, 98, 93], over={"alpha": 0.0, "epochs": 1} | long),
      reference={"alpha": 0})
  for drawn in (plots.errors(sweep), plots.differences(sweep)):
    drawn.draw_without_rendering()
    assert figures.faults(drawn) == []


def test_faults_of_a_figure_are_found():
  drawn, ((at,),) = canvas.figure(1, 1, (3, 2))
  drawn.set_layout_engine("none")
  at.plot([1, 10], [1, 1000])
  at.set_yscale("log")
  at.set_xticks([1, 1.1], ["one of many", "another"])
  at.text(9, 5, "over the edge of it all")
  canvas.styled(drawn.draw_without_rendering)()
  told = figures.faults(drawn)
  assert any(text.startswith("a formula: $\\math") for text in told)
  assert "upon another: one of many and another" in told
  assert "cut: over the edge of it all" in told


def terms(*names_, epochs=3, zero=()):
  return {f"train_{name}": [0.0 if name in zero else 1 / (1 + epoch)
                            for epoch in range(epochs)] for name in names_}


def test_every_term_has_a_panel_and_what_is_not_recorded_is_told():
  many = [f"t{number}" for number in range(7)]
  recorded = row(90, over={"method": "hint", "epochs": 3}, method="hint",
                 curve=terms("hard", *many))
  lost = row(80, over={"method": "hint", "epochs": 4}, method="hint",
             curve=terms("hard"))
  plain = row(70, over={"method": "hard", "epochs": 5}, method="hard",
              curve=terms("hard"))
  drawn = line_plots.learning(points.gather([recorded, lost, plain]))
  shown = [axes for axes in drawn.axes if axes.axison]
  assert [axes.get_ylabel().split()[0] for axes in shown] == ["hard", *many]
  assert drawn.get_figwidth() == canvas.WIDTH, "a phone has room for no more"
  drawn.draw_without_rendering()
  assert figures.faults(drawn) == []
  # Of labels alone no such term is missed.
  assert {axes.get_title() for axes in shown[1:]} == {"not recorded: 1 of 2"}
  assert shown[0].get_title() == "" and len(shown[0].lines) == 3


def test_a_term_that_no_row_of_a_panel_has_is_told_and_no_empty_panel():
  with_hint, without = (
      [row(90, over={"method": "hint", "student.widths": [width], "epochs": epochs},
           method="hint", curve=terms(*names_)) for epochs in (3, 4)]
      for width, names_ in ((30, ("hard", "hint")), (800, ("hard",))))
  drawn = line_plots.learning(points.gather(with_hint + without))
  assert [bool(axes.lines) for axes in drawn.axes if axes.axison] == [True] * 3
  titles = [legend.get_title().get_text() for part in drawn.subfigs
            for legend in part.legends]
  assert "not recorded" not in titles[0]
  assert "hint term: not recorded" in titles[1].replace("\n", " ")


def test_curves_of_more_gradients_than_are_shown_are_counted():
  sweep = points.gather([
      row(90, over={"epochs": epochs}, curve={"share_hard": [0.5, 0.6]})
      for epochs in range(6)])
  drawn = line_plots.inspected(sweep)
  titles = [legend.get_title().get_text() for part in drawn.subfigs
            for legend in part.legends]
  assert len(titles) == 4 and titles[-1].endswith("(2 more points not shown)")


def test_a_ramp_is_seen_on_white():
  linear = lambda value: (value / 12.92 if value <= 0.04045
                          else ((value + 0.055) / 1.055) ** 2.4)
  for colour in canvas.ramp(12):
    luminance = sum(weight * linear(value) for weight, value in zip(
        (0.2126, 0.7152, 0.0722), colour))
    assert 1.05 / (luminance + 0.05) >= 3


def test_points_find_their_line_and_their_level():
  sweep = points.gather(sweep_rows(), reference={"alpha": 0})
  narrow, wide = panels.panels(sweep)
  assert (narrow.title, wide.title) == ("widths 30x30", "widths 800x800")
  assert [panels.temperature(p) for p in narrow.lines[0].points] == [1, 4, 20]
  assert [p.values["student.widths"] for p in narrow.levels] == [[30, 30]]
  # Without a reference the point has no T all the same.
  assert panels.panels(points.gather(sweep_rows()))[0].levels


def test_the_svg_tells_each_value():
  sweep = points.gather(sweep_rows(), reference={"alpha": 0})
  drawn = svg.inline(
      plots.errors(sweep), pathlib.Path("errors.png"), 'a "b" <c>')
  # 304, 308, 306: mean 306, sd 2, half 4.97.
  assert "widths 30x30, alpha 0.9, T 4; 306.0 ± 5.0 test errors; n 3" in drawn
  assert drawn.count("<title>") == 8
  # The colours are those of the page.
  assert "var(--c0)" in drawn and "var(--ground)" in drawn
  assert not re.findall("#[0-9a-f]{6}", drawn)
  assert 'aria-label="a &quot;b&quot; &lt;c&gt;"' in drawn


def test_each_mark_tells_its_own_value_where_it_is():
  sweep = points.gather([row(100 * t, over={"temperature": float(t), "alpha": 0.9})
                         for t in (1, 2, 4)])
  root = ElementTree.fromstring(
      svg.inline(
          plots.errors(sweep), pathlib.Path("errors.png"), "errors"))
  told = [(float(mark.get("x")), -float(mark.get("y")), point.find("title").text)
          for point in root.iter("g") if point.get("class") == "point"
          for mark in point.iter("use")]
  # To the right T rises, and upwards errors do.
  for way in (0, 1):
    assert [text.split(";")[1] for *_, text in sorted(
        told, key=lambda one: one[way])] == [
            " 100.0 test errors", " 200.0 test errors", " 400.0 test errors"]


def test_a_mark_is_met_in_its_middle_whatever_is_near():
  sweep = points.gather([
      row(100 * t + 2 * k, over={"temperature": float(t), "alpha": k / 10})
      for t in (1, 2, 4) for k in range(1, 6)])
  root = ElementTree.fromstring(svg.inline(
      plots.errors(sweep), pathlib.Path("errors.png"), "errors"))
  found = [[float(area.get(key)) for key in ("cx", "cy", "r")]
           for area in root.iter("circle")]
  assert len(found) == 15
  for x, y, r in found:
    others = [distance for other in found
              if (distance := math.dist((x, y), other[:2]))]
    assert len(others) == 14 and 0 < r <= min(8, min(others) / 2 + 0.01)
  # Nor do intervals that are drawn above hide it.
  assert root.get("pointer-events") == "none"
  assert {point.get("pointer-events") for point in root.iter("g")
          if point.get("class") == "point"} == {"auto"}


def test_a_line_is_seen_beside_its_own_reference():
  sweep = points.gather([
      each for k in (10, 40) for each in runs(
          [99, 98, 97], over={"alpha": 0.0, "epochs": k}) + [
              r for t in (1.0, 4.0) for r in runs([90 + t, 91, 92], over={
                  "alpha": 0.9, "epochs": k, "temperature": t})]],
      reference={"alpha": 0})
  (panel,) = panels.panels(sweep)
  assert [point.values["epochs"] for point in panel.levels] == [10, 40]
  assert [[point.values["epochs"] for point in panels.beside(line, panel, sweep)]
          for line in panel.lines] == [[10], [40]]


def test_no_axis_of_errors_goes_below_zero():
  # 0, 4, 8: 4 ± 9.9; and 0 errors in all runs, which is a mark on the axis.
  sweep = points.gather(
      runs([0, 4, 8], over={"temperature": 1.0, "alpha": 0.9})
      + runs([0, 0, 0], over={"temperature": 4.0, "alpha": 0.9})
      + runs([3, 9, 9], over={"alpha": 0.0}))
  assert min(p.low for p in sweep.points) < -5
  drawn = plots.errors(sweep)
  low, high = drawn.axes[0].get_ylim()
  assert low == 0 and high > 9


def test_a_title_beside_long_labels_is_whole():
  long = {"label_smoothing": 0.125, "optimizer.learning_rate": 0.00125,
          "epochs": 10}
  sweep = points.gather(
      runs([9, 8, 7], over={"alpha": 0.0, **long}) + [
          each for t in (10.0, 20.0) for each in runs([4, 8, t], over=long | {
              "alpha": 0.9, "temperature": t})] + runs([4, 8, 6], over={
              "alpha": 0.9, "temperature": 2.0, "label_smoothing": 0.25,
              "optimizer.learning_rate": 0.5, "epochs": 20}),
      reference={"alpha": 0})
  drawn = plots.differences(sweep)
  drawn.draw_without_rendering()
  (at,) = drawn.axes
  for text in (at._left_title, *at.get_yticklabels(), at.xaxis.label):
    box = text.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= drawn.bbox.x1, text.get_text()
  assert "learning rate 0.00125" in at.get_title("left").replace("\n", " ")


def test_the_ids_of_two_pictures_are_apart():
  sweep = points.gather(sweep_rows(), reference={"alpha": 0})
  ids = []
  for name in ("errors", "again"):
    text = svg.inline(
        plots.errors(sweep), pathlib.Path(name), name)
    known = re.findall(r'\bid="(.*?)"', text)
    assert known and len(known) == len(set(known))
    refers = re.findall(r'(?:href="|url\()#(.*?)[")]', text)
    assert set(refers) == set(known)
    ids.append(set(known))
  assert not ids[0] & ids[1]


def test_a_picture_of_too_many_lines_is_of_pixels(tmp_path):
  """400 lines of 400 epochs are some megabytes as text."""
  rows = [row(n, over={"temperature": float(n), "alpha": 0.9},
              curve={"train_hard": [1 / (1 + (n * e) % 97) for e in range(1, 400)]})
          for n in range(1, 400)]
  found = plots.write(points.gather(rows), {}, tmp_path)["learning"]
  data = base64.b64encode(found.file.read_bytes()).decode()
  assert f'href="data:image/png;base64,{data}"' in found.svg
  assert "<path" not in found.svg and "Learning curves" in found.svg
  width, height = re.findall(r'viewBox="0 0 (\S+) (.*?)"', found.svg)[0]
  with Image.open(found.file) as image:
    assert image.width / image.height == pytest.approx(
        float(width) / float(height), rel=0.01)


def test_hostile_text_in_a_picture_is_text():
  rows = [row(9 + t, over={"data.name": HOSTILE, "alpha": 0.5, "temperature": t})
          for t in (1, 4)]
  rows += [row(8, over={"data.name": "plain", "alpha": 0.5, "temperature": 1})]
  text = svg.inline(
      plots.errors(points.gather(rows)), pathlib.Path("errors.png"),
      "errors")
  assert "<script" not in text and "&lt;script&gt;" in text
  assert "$x^{2}~#" in text, "no formula"


def test_soft_targets_and_their_temperatures():
  # softmax([0, 2 log 2] / 2) = [1, 2] / 3.
  assert soft_targets.softened([0.0, 1.3862943611198906], 2.0) == pytest.approx(
      [1 / 3, 2 / 3])
  assert soft_targets.temperatures(teacher_json()) == [1.0, 4.0]
  assert soft_targets.knowledge(None) is None
  assert soft_targets.knowledge({"schema": 1}) is None


def test_names_that_would_meet_stay_long():
  assert names.short(["student.widths", "teacher.widths"]) == {
      "student.widths": "widths", "teacher.widths": "teacher widths"}
  assert set(names.short(["data.name", "student.name"]).values()) == {
      "data name", "student name"}


@pytest.fixture
def study(tmp_path):
  (tmp_path / "results.jsonl").write_text(
      "".join(json.dumps(r) + "\n" for r in sweep_rows()))
  return tmp_path


def test_the_door_writes_the_files_and_the_readme(study, capsys):
  readme = study / "R.md"
  readme.write_text(f"a <!-- results: {study.name} -->old"
                    "<!-- end of results --> b")
  assert report.main([str(study), "--readme", str(readme),
                      "--reference", "widths=30x30", "--reference", "T=4"]) == 0
  table = (study / "table.md").read_text()
  assert table in readme.read_text() and table == capsys.readouterr().out
  assert "reference (widths 30x30, T 4)" in table
  assert (study / "report.html").is_file()


@pytest.mark.parametrize(("words", "told"), [
    (["--reference", "alpha"], "KEY=VALUE"),
    (["--reference", "alhpa=0"], "did you mean alpha?"),
    (["--reference", "alpha=0.3"], "there are alpha=0, alpha=0.9"),
])
def test_a_wrong_reference_is_told(study, capsys, words, told):
  assert report.main([str(study), *words]) == 2
  error = capsys.readouterr().err
  assert told in error and error.startswith("error: ") and error.count("\n") == 1


@pytest.mark.parametrize(("text", "told"), [
    ('{"row": 1', "line 1: is no row of JSON"),
    ("[1]", "line 1: is no row of JSON"),
    ("", "has no rows yet"),
    ('{"row": "x"}', "1 of neither"),
    ('{"schema": 2, "fingerprint": "f", "overrides": {}}\n{"net": "n"}',
     "keep one kind"),
    ('{"net": "n"}\n{"overrides": {}}', "line 2: is no row of a sweep"),
    ('{"schema": 9, "overrides": {}}', "schema 1 or 2"),
])
def test_wrong_rows_are_told(tmp_path, capsys, text, told):
  (tmp_path / "results.jsonl").write_text(text)
  assert report.main([str(tmp_path)]) == 2
  error = capsys.readouterr().err
  assert told in error and error.count("\n") == 1


def test_main_runs_have_no_reference(tmp_path, capsys):
  (tmp_path / "results.jsonl").write_text('{"net": "teacher"}')
  assert report.main([str(tmp_path), "--reference", "alpha=0"]) == 2
  assert "only sweeps have a reference" in capsys.readouterr().err


def test_a_broken_side_file_is_told(study):
  (study / "config.json").write_text("{")
  with pytest.raises(UserError, match=r"config\.json: is not JSON"):
    report.write(study)


def test_the_command_helps_and_starts_light():
  run = lambda *words: subprocess.run(
      [sys.executable, "-W", "error", *words], cwd=ROOT, capture_output=True,
      text=True, check=False)
  help_ = run("-m", "kd_jax.report", "--help")
  assert help_.returncode == 0 and "--reference" in help_.stdout
  light = run("-c", "import sys, kd_jax.report; "
              "sys.exit('matplotlib' in sys.modules or 'scipy' in sys.modules)")
  assert light.returncode == 0, light.stderr


def test_where_the_teacher_is_what_varies_each_point_has_its_own_interval():
  rows = runs([90, 96, 102], over={"teacher.epochs": 5})
  rows += runs([80, 80, 86], over={"teacher.epochs": 20}, teacher="b" * 64)
  _, better = cells(rows, reference={"teacher.epochs": 5})
  # 80, 80, 86: mean 82, sd 3.46; differences -10, -16, -16 by seed: mean -14.
  assert better["test errors"] == "82.0 ± 8.6" and better["sd"] == "3.5"
  assert better["difference"].replace("−", "-").startswith("-14.0")
  assert "given the one teacher of each point" in tables.markdown(
      points.gather(rows))


def test_rows_of_several_machines_are_told():
  known = {"device": "cpu", "cores": 2, "versions": {"jax": "0.10.2"}}
  one = runs([90, 96], **known)
  assert "several machines" not in tables.markdown(points.gather(one))
  rows = [*one, row(99, 2, **{**known, "cores": 64})]
  assert "several machines or versions (cpu, 2 cores, jax 0.10.2; cpu, 64" in (
      tables.markdown(points.gather(rows)))


def test_what_goes_with_the_widths_is_in_no_label():
  rows = []
  for width, epochs in ((30, 40), (800, 8)):
    for t in (1.0, 4.0):
      rows += runs([90, 96], over={
          "student.widths": [width, width], "epochs": epochs, "temperature": t})
  sweep = points.gather(rows)
  assert "epochs" in sweep.keys and "epochs" not in sweep.telling
  assert [panel.title for panel in panels.panels(sweep)] == [
      "widths 30x30", "widths 800x800"]


def test_two_nets_are_compared_by_mcnemar(tmp_path, capsys):
  # Only the first is wrong on 1, 2, 3: p = 2 / 2**3.
  rows = [row(4, 0, test_wrong_ids=[1, 2, 3, 9]), row(1, 1, test_wrong_ids=[9])]
  rows[0]["fingerprint"], rows[1]["fingerprint"] = "abc1", "def2"
  (tmp_path / "results.jsonl").write_text(
      "".join(json.dumps(r) + "\n" for r in rows))
  assert report.main([str(tmp_path), "--compare", "abc", "def"]) == 0
  told = capsys.readouterr().out
  assert "only the first is wrong on 3" in told and "p = 0.25" in told
  assert report.main([str(tmp_path), "--compare", "abc", "x"]) == 2
  assert "0 rows have a fingerprint" in capsys.readouterr().err


def test_the_door_takes_the_sweeps_own_reference(tmp_path):
  rows = runs([90, 96], over={"alpha": 0.9}) + runs([99, 98], over={"alpha": 0.0})
  (tmp_path / "results.jsonl").write_text(
      "".join(json.dumps(r) + "\n" for r in rows))
  (tmp_path / "config.json").write_text(
      json.dumps({"sweep.reference": [["alpha", 0.0]]}))
  assert report.main([str(tmp_path)]) == 0
  assert "reference" in (tmp_path / "table.md").read_text()


def written(folder, rows):
  """The folder with rows of a sweep."""
  folder.mkdir(exist_ok=True)
  (folder / "results.jsonl").write_text(
      "".join(json.dumps(r) + "\n" for r in rows))
  return folder


def packed(folder, name):
  """All rows that a page brings for a long table."""
  text = (folder / "report.html").read_text()
  found = re.search(
      f'data-of="{name}".*?<script type="text/plain">(.*?)</script>', text, re.S)
  return json.loads(gzip.decompress(base64.b64decode(found[1])))


def test_five_thousand_rows_are_all_there(tmp_path, capsys):
  rows = [row((7 * t + 3 * seed) % 50 + t % 9, seed,
              over={"alpha": 0.9, "temperature": float(t)})
          for t in range(1, 2501) for seed in (0, 1)]
  folder = written(tmp_path / "whole", rows)
  assert report.main([str(folder), "--reference", "T=4"]) == 0
  told = capsys.readouterr().out
  assert len(told.splitlines()) < 520
  assert "first 500 of 2,500 points" in told and "table.csv" in told
  with (folder / "table.csv").open() as file:
    table = list(csv.DictReader(file))
  assert [float(line["temperature"]) for line in table] == list(range(1, 2501))
  points_, runs_ = packed(folder, "table"), packed(folder, "runs-table")
  assert [len(each) for each in (points_, *runs_)] == [2500, *[2] * 2500]
  assert points_[0][1:3] == ["T 1", ["9.5 ± 19.1", "9.5"]]
  assert points_[-1][1] == "T 2500"
  assert runs_[0][0][1:3] == ["0", "8"] and runs_[-1][1][1] == "1"
  # A part of them says the same of its points.
  part = written(tmp_path / "part", [r for r in rows if (
      r["overrides"]["temperature"] in (4.0, 900.0, 2500.0))])
  report.write(part, reference={"temperature": 4})
  with (part / "table.csv").open() as file:
    few = {line["temperature"]: line for line in csv.DictReader(file)}
  for line in table:
    if line["temperature"] in few:
      assert {**line, "p_holm": ""} == {**few[line["temperature"]], "p_holm": ""}
  assert float(table[899]["pairs"]) == 2


def test_one_point_of_many_seeds_is_counted_once_for_each(tmp_path):
  rows = runs([n % 7 for n in range(1500)])
  rows += [{**r, "fingerprint": f"{r['fingerprint']}again"} for r in rows]
  folder = written(tmp_path / "one", rows)
  report.write(folder)
  assert [len(each) for each in packed(folder, "runs-table")] == [3000]
  (line,), below = lines((folder / "table.md").read_text())[0][2:], (
      folder / "table.md").read_text()
  assert line[0] == "3000" and "1,488 more ran under several" in below


def test_above_500_points_only_the_teacher_is_drawn(tmp_path):
  rows = [row(t, over={"temperature": float(t), "alpha": 0.5},
              curve={"train_hard": [0.5, 0.2]}) for t in range(1, 502)]
  folder = written(tmp_path / "many", rows)
  (folder / "teacher.json").write_text(json.dumps(teacher_json()))
  names_ = {path.name for path in report.write(folder)}
  assert names_ == {"table.md", "table.csv", "table.tex", "dark.png", "report.html"}
  text = (folder / "report.html").read_text()
  assert "No picture shows more than 500 points" in text
  assert text.count("<svg") == 1


def test_two_thousand_keys_are_told(tmp_path, capsys):
  rows = [row(n, over={f"key.x{i}": n + i for i in range(2000)}) for n in range(3)]
  assert report.main([str(written(tmp_path / "keys", rows))]) == 0
  assert len(capsys.readouterr().out.splitlines()[0].split(" | ")) > 2000
