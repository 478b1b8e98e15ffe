"""The study of all objectives: the same budget for each, one family of tests."""

from conftest import groups
import numpy as np
import pytest

from experiments.methods_mnist import study, verdict
from experiments.protocol import Options
from kd_jax.config import sweep
from kd_jax.methods import METHODS
from kd_jax.report import statistics

WIDE, SMALL = (800, 800), (30, 30)


def row(method, widths, seed, errors, **more):
  point = dict(study.settings(method)[more.pop("place", 0)])
  return {"overrides": point | {
      "method": method, "student.widths": list(widths), "seed": seed},
          "seed": seed, "failed": None, "test_errors": errors, "test_nll": 0.1,
          "heldout_errors": errors, "agreement": 0.99} | more


@pytest.mark.parametrize("method", study.METHODS)
def test_every_method_has_the_same_budget(method):
  tried = study.settings(method)
  assert len(tried) == 6
  assert len({tuple(sorted(point.items())) for point in tried}) == 6
  # Lanes of one program: nothing but numbers is tried.
  base = study._config()
  assert len(groups(base, sweep.product({"method": (method,)}, tried))) == 1


def test_the_stages_are_what_the_readme_says(tmp_path):
  first, second = (
      stage.config({}) for stage in study.stages(Options(tmp_path)))
  count = len(study.METHODS)
  assert set(study.METHODS) <= set(METHODS)
  assert len(first.sweep.points) == 2 * count * 6 * 2
  assert first.data.holdout == 0.1 and second.data.holdout == 0
  assert len(second.sweep.points) == 2 * count * 10
  assert not second.sweep.reference, "the verdict compares, within a size"
  lane = sweep.applied(second, {"method": "dkd", "temperature": 4.0})
  assert (lane.hard_weight, lane.soft_weight, lane.alpha) == (1.0, 1.0, None)
  assert sweep.applied(second, {"method": "kd"}).alpha == 0.9


def test_the_setting_of_fewest_held_out_errors_is_chosen():
  rows = [row("dkd", widths, seed, 60 + abs(place - best) + seed - 100, place=place)
          for widths, best in ((WIDE, 4), (SMALL, 1)) for place in range(6)
          for seed in (100, 101)]
  assert study.choose(rows, "dkd", WIDE) == study.settings("dkd")[4]
  assert study.choose(rows, "dkd", SMALL) == study.settings("dkd")[1]
  assert study.choose([], "dkd", SMALL) == study.settings("dkd")[0]


def test_the_picture_has_a_line_for_each_method_and_a_panel_for_each_size(
    tmp_path, monkeypatch):
  drawn = []
  monkeypatch.setattr(verdict.canvas, "save", lambda it, _: drawn.append(it))
  gaps = {"kd": 0, "dkd": -20, "mse": 30, "ls": 0}
  study.pictures({"table": [
      row(method, widths, seed, 100 + seed + gap + (seed == 3))
      for widths in (WIDE, SMALL) for method, gap in gaps.items()
      for seed in range(10)]}, tmp_path)
  wide, small = drawn[0].axes
  told = [label.get_text() for label in wide.get_yticklabels()]
  assert told[0] == "dkd" and told[-1] == "mse" and len(told) == 3
  assert [at.get_title("left") for at in (wide, small)] == ["800x800", "30x30"]


def test_differences_are_paired_and_corrected_over_the_whole_table():
  noise = np.arange(10) * 7  # of the seed, shared: it must not count
  gaps = {"dkd": [-5, -6, -4, -5, -6, -5, -4, -5, -6, -4],
          "ls": [3, -2, 4, -3, 2, -4, 1, -1, 2, -2],
          "mse": [9, 8, 9, 10, 8, 9, 9, 8, 10, 9]}
  rows = [row(method, widths, seed, 100 + noise[seed] + gap[seed])
          for widths in (WIDE, SMALL)
          for method, gap in ({"kd": [0] * 10} | gaps).items()
          for seed in range(10)]
  named = study.named({"table": rows})
  found, adjusted = verdict.family(named).tests, verdict.family(named).adjusted
  assert len(adjusted) == 6, "both sizes are one family"
  expected = statistics.paired(gaps["ls"], [0] * 10)
  assert found[WIDE, "ls"].p == pytest.approx(expected.p)
  assert adjusted[WIDE, "dkd"] == pytest.approx(4 * found[WIDE, "dkd"].p)
  # d of dkd is -5 ± 0.58, of mse 8.9 ± 0.53; KD is 100 and the noise of seeds.
  one = ("KD 131.5 ± 15.2 (10), better dkd -5.0 [-5.6, -4.4], worse mse +8.9 "
         "[+8.4, +9.4]")
  assert verdict.phrase(named) == f"800x800: {one}; 30x30: {one}"
  said = verdict.told(named)
  assert said.count("\n| 800x800") == 4 and "T 2" in said
