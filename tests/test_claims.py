"""What is said of claims: the rule that every study's verdict is made by."""

import numpy as np
import pytest

from experiments import claims
from experiments.claims import FAILS, HOLDS, OPEN, Claim
from kd_jax.report import statistics


@pytest.mark.parametrize(("claim", "inside", "outside", "both"), [
    (Claim(below=0), (-3, -1), (0, 2), (-1, 2)),
    (Claim(above=0.8), (0.85, 0.9), (0.4, 0.8), (0.7, 0.9)),
    (Claim(-10, 10), (-9, 9), (11, 20), (5, 15))])
def test_a_claim_does_not_hold_only_where_the_interval_excludes_it(
    claim, inside, outside, both):
  assert claim.judged(*inside) == HOLDS
  assert claim.judged(*outside) == FAILS
  assert claim.judged(*both) == claim.judged(None, None) == OPEN


@pytest.mark.parametrize("seed", range(5))
def test_a_claim_is_the_test_of_its_interval(seed):
  rng = np.random.default_rng(seed)
  a, b = rng.normal(0, 1, (2, 8)) + [[0.6], [0]]
  test = statistics.paired(a, b)
  assert (Claim(above=0).judged(test.low, test.high) == HOLDS) == (
      test.difference > 0 and test.p < 0.05)
  alike = statistics.equivalence(a, b, margin=1.5)
  assert (Claim(-1.5, 1.5).judged(alike.low, alike.high) == HOLDS
          ) == alike.equivalent == (alike.p < 0.05)


def test_a_family_judges_by_the_corrected_p_and_tells_in_the_studys_words():
  draw = np.random.default_rng(0).normal(0, 1, 9)
  gaps = {"less": -9 + draw, "more": 9 + draw, "near": -0.75 + draw,
          "none": [0.1], "alike": -draw}
  family = claims.Family(
      {key: statistics.paired(gap, [0.0] * len(gap)) for key, gap in gaps.items()})
  near = family.tests["near"]
  assert near.p < 0.05 < family.adjusted["near"] and near.high < 0
  assert "none" not in family.adjusted and len(family.adjusted) == 4
  assert family.having(HOLDS) == ["less"] and family.having(FAILS) == ["more"]
  assert family.having(OPEN) == ["near", "none", "alike"]
  wanted = {key: claims.MORE if key == "more" else claims.LESS for key in gaps}
  both = claims.Family(family.tests, wanted)
  assert both.having(HOLDS) == ["less", "more"]
  shown = {HOLDS: "fewer", FAILS: "more", OPEN: "not shown"}
  lines = family.table(str.upper, "+.1f", "errors", shown).splitlines()
  assert lines[0] == "|  | difference | p (Holm) | errors |"
  assert lines[2].startswith(f"| LESS | {np.mean(gaps['less']):+.1f} [")
  assert lines[2].endswith(" | < 0.001 | fewer |")
  assert lines[5] == "| NONE | +0.1 |  | not shown |"
  assert family.line("unknown") == ["", ""]


def test_a_claim_of_several_parts_needs_all_of_them():
  assert claims.every([HOLDS, HOLDS]) == HOLDS
  assert claims.every([HOLDS, OPEN]) == OPEN == claims.every([])
  assert claims.every([HOLDS, OPEN, FAILS]) == FAILS


def test_a_claim_of_several_parts_is_made_by_mistake_as_seldom_as_one():
  """Of ten that hold and one just not: 5% or fewer, without a correction."""
  rng = np.random.default_rng(2)
  made = 0
  for _ in range(1000):
    parts = rng.normal([-3.0] * 10 + [0.0], 1, (6, 11))
    made += claims.every(
        Claim(below=0).judged(*statistics.summary(part)[2:4])
        for part in parts.T) == HOLDS
  assert made <= 50


def test_a_papers_run_is_no_mean():
  values = [90, 98, 99, 91]  # 94.5 ± t(3) 4.65 sqrt(5 / 4) = 3.182 * 5.202
  place = claims.single(74, values)
  assert (place.low, place.high) == pytest.approx((77.94, 111.06), abs=0.02)
  assert place.verdict == "excluded, below" and place.interval == "[77.9, 111.1]"
  assert claims.single(80, values).verdict == "not excluded"
  assert claims.single(112, values).verdict == "excluded, above"
  # Though the mean's own interval is [87.1, 101.9].
  assert not statistics.summary(values).low <= 80 <= statistics.summary(values).high
  assert claims.single(None, values) is claims.single(80, [1]) is None
  assert claims.single(80, []) is None
