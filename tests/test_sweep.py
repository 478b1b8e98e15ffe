"""A sweep as data: its algebra, its groups, its rectangles."""

import json
import re

from conftest import groups
from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from kd_jax import config as config_lib
from kd_jax.config import schema, sweep
from kd_jax.core.errors import UserError
from kd_jax.runs import plan
from kd_jax.training import lanes


@pytest.fixture
def config():
  made = config_lib.default()
  made.alpha = 0.9
  return made


def test_a_product_is_every_combination_the_last_fastest():
  points = sweep.product({"temperature": (1.0, 4.0), "seed": (0, 1)})
  assert points == [
      {"temperature": 1.0, "seed": 0}, {"temperature": 1.0, "seed": 1},
      {"temperature": 4.0, "seed": 0}, {"temperature": 4.0, "seed": 1}]


def test_zipped_chain_and_fixed():
  pairs = sweep.zipped({"epochs": (40, 20)}, {"seed": (1, 2)})
  assert pairs == [{"epochs": 40, "seed": 1}, {"epochs": 20, "seed": 2}]
  one = sweep.fixed({"alpha": 0.0})
  assert sweep.chain(one, pairs) == [{"alpha": 0.0}, *pairs]
  assert sweep.product(one, {"seed": range(2)}) == [
      {"alpha": 0.0, "seed": 0}, {"alpha": 0.0, "seed": 1}]


def test_algebra():
  a = sweep.product({"seed": (0, 1, 2)})
  b = sweep.product({"temperature": (1.0, 2.0)})
  nothing = sweep.fixed({})
  assert sweep.product(a, nothing) == sweep.product(nothing, a) == a
  assert len(sweep.product(a, b)) == 6
  assert sweep.product(sweep.chain(a, a), b) == sweep.chain(
      sweep.product(a, b), sweep.product(a, b))


@pytest.mark.parametrize(("make", "says"), [
    (lambda: sweep.fixed({"temprature": 1.0}), "did you mean temperature"),
    (lambda: sweep.product({"seed": (1,)}, {"seed": (2,)}), "two parts"),
    (lambda: sweep.zipped({"seed": (1, 2)}, {"epochs": (1,)}), r"\[2, 1\]"),
    (lambda: sweep.product({"seed": 3}), "several values"),
    (lambda: sweep.product({"student.name": "mlp"}), "several values"),
    (lambda: sweep.fixed({"sweep.lanes": "1x1"}), "no difference"),
    (lambda: sweep.parse(["temperature"]), "needs values"),
    (lambda: sweep.parse(["temprature=1,2"]), "did you mean temperature"),
    (lambda: sweep.read("nowhere.json"), "cannot be read"),
])
def test_what_is_wrong_is_told(make, says):
  with pytest.raises(UserError, match=says):
    make()


def test_words_of_a_command_line():
  parse = lambda word: [next(iter(p.values())) for p in sweep.parse([word])]
  assert parse("temperature=1,2.5") == [1, 2.5]
  assert parse("student.widths=(30,30),(300,300)") == [(30, 30), (300, 300)]
  assert parse("student.widths=(30,),(8,)") == [(30,), (8,)]
  assert parse("student.max_norm=none,3.5") == [None, 3.5]
  assert parse("method=kd,hard") == ["kd", "hard"]
  assert parse("optimizer.nesterov=true,false") == [True, False]


def test_a_sweep_from_a_file(tmp_path):
  file = tmp_path / "points.json"
  file.write_text(json.dumps([{"student.widths": [8, 8], "seed": 1}]))
  assert len(sweep.read(str(file))) == 1
  for wrong in ("{}", "[1]", "no"):
    file.write_text(wrong)
    with pytest.raises(UserError, match=r"points\.json"):
      sweep.read(str(file))


def test_traced_keys_are_lanes_and_static_ones_groups(config):
  points = sweep.product(
      {"student.widths": ((8,), (16,)), "seed": range(3),
       "temperature": (1.0, 4.0), "optimizer.learning_rate": (0.1, 0.2)})
  made = groups(config, points)
  assert [len(group) for group in made] == [12, 12]
  assert [group[0].values["student.widths"] for group in made] == [(8,), (16,)]


@pytest.mark.parametrize(
    "key", [name for name, key in schema.every().items()
            if key.traced and not schema.owner(name)])
def test_every_traced_key_makes_no_group(config, key):
  # Rates and norms that are in use, and numbers that any of the keys allows.
  config.student.input_dropout = config.student.hidden_dropout = 0.5
  config.student.max_norm = 3.0
  if what := re.fullmatch(r"schedules\.(\w+)_end", key):
    config.schedules[what[1]] = "linear"
  both = {"hard_weight": 0.5, "soft_weight": 0.5}
  fixed = {k: v for k, v in both.items() if "weight" in key and k != key
           and key in both}
  values = (1, 2) if key == "seed" else (0.1, 0.2)
  points = sweep.product(sweep.fixed(fixed), {key: values})
  assert len(groups(config, points)) == 1


def test_structure_makes_a_group(config):
  # A program without dropout cannot serve a lane that has it.
  points = sweep.product({"student.hidden_dropout": (0.0, 0.5)})
  assert len(groups(config, points)) == 2
  points = sweep.product({"student.max_norm": (None, 2.0, 3.0)})
  assert len(groups(config, points)) == 2


def test_a_lane_is_the_config_with_its_point(config):
  group, = groups(config, sweep.product({"alpha": (0.0, 0.5)}))
  assert [lane.values["alpha"] for lane in group] == [0.0, 0.5]
  assert config.alpha == 0.9, "the base is left alone"


def test_weights_and_alpha_make_way_for_each_other(config):
  weights = sweep.fixed({"hard_weight": 0.3, "soft_weight": 0.7})
  lane = groups(config, weights)[0][0]
  assert lane.values["alpha"] is None and lane.values["soft_weight"] == 0.7
  again = sweep.applied(lane.values, {"alpha": 0.2})
  assert again.alpha == 0.2 and again.hard_weight is None


def test_a_point_given_twice_counts_once(config):
  points = sweep.fixed({"temperature": 2.0})
  group, = groups(config, sweep.chain(points, points))
  assert len(group) == 1


@pytest.mark.parametrize("point", [
    {"temperature": -1.0}, {"temperature": "hot"}, {"epochs": 1.5},
    {"alpha": 0.5, "hard_weight": 0.5}])
def test_bad_values_are_refused(config, point):
  with pytest.raises(UserError):
    groups(config, sweep.fixed(point))


def test_names_are_for_people(config):
  point = {"student.widths": (30, 30), "temperature": 2.5, "seed": 3}
  lane = groups(config, sweep.fixed(point))[0][0]
  assert lane.name == "widths=30x30 temperature=2.5" and lane.seed == 3


# Rectangles.

SEEDS = st.lists(st.integers(0, 5), min_size=1, max_size=40)
LARGEST = st.builds(lanes.Shape, st.integers(1, 3), st.integers(1, 5),
                    st.integers(1, 9))


@settings(max_examples=200, deadline=None)
@given(SEEDS, LARGEST)
def test_chunks_hold_every_lane_once_and_one_seed_a_row(seeds, largest):
  shape = plan.balanced(seeds, largest)
  assert all(a <= b for a, b in zip(shape, largest, strict=True))
  marked = [(seed, f"{seed}-{n}") for n, seed in enumerate(seeds)]
  made = plan.chunks("g", marked, shape)
  assert all(len(chunk.lanes) == shape.size for chunk in made)
  held = [mark for chunk in made for mark in dict.fromkeys(chunk.lanes)]
  assert sorted(held) == sorted(mark for _, mark in marked)
  for chunk in made:
    rows = [chunk.lanes[k:k + shape.points]
            for k in range(0, shape.size, shape.points)]
    assert all(len({mark.split("-")[0] for mark in row}) == 1 for row in rows)


@settings(max_examples=100, deadline=None)
@given(SEEDS, LARGEST)
def test_balanced_needs_no_more_chunks(seeds, largest):
  marked = [(seed, str(n)) for n, seed in enumerate(seeds)]
  most = max(seeds.count(seed) for seed in seeds)
  cut = largest._replace(points=min(largest.points, most))
  assert len(plan.chunks("", marked, plan.balanced(seeds, largest))) <= len(
      plan.chunks("", marked, cut))
  assert 0 < plan.efficiency(
      len(seeds), seeds, plan.balanced(seeds, largest)) <= 1


def test_even_parts_of_one_seed_do_not_split_another():
  # Five and four lanes: threes would make four rows, fours make three.
  shape = plan.balanced([0] * 5 + [1] * 4, lanes.Shape(1, 1, 4))
  assert shape == lanes.Shape(1, 1, 4)


def test_twelve_points_in_rectangles_of_eight_are_two_of_six():
  seeds = [0] * 12
  assert plan.balanced(seeds, lanes.Shape(1, 1, 8)).points == 6
  assert plan.efficiency(12, seeds, lanes.Shape(1, 1, 6)) == 1.0
  # Eight and four padded to eight: 12 of 16.
  assert plan.efficiency(12, seeds, lanes.Shape(1, 1, 8)) == 0.75


def extended(kept, names, finished=(), done=()):
  shape = lanes.Shape(1, 1, 2)
  done = {*done, *(lane for chunk in finished for lane in chunk.lanes)}
  return plan.extend(kept, "g", [(0, name) for name in names], done,
                     lambda seeds: shape, devices=1)


def test_a_plan_is_extended_never_repacked():
  first = extended([], "abc")
  assert [chunk.lanes for chunk in first] == [("a", "b"), ("c", "c")]
  more = extended(first, "abcde", finished=first)
  assert more[:2] == first and more[2].lanes == ("d", "e")
  # And it does not matter whether they were finished.
  assert extended(first, "abcde") == more


def test_an_unfinished_chunk_with_a_lane_nobody_wants_is_given_up():
  first = extended([], "abc")
  less = extended(first, "bc")
  assert [chunk.lanes for chunk in less] == [("c", "c"), ("b", "b")]
  assert extended(first, "bc", finished=first) == first


def test_an_unfinished_chunk_for_more_devices_is_given_up():
  wide = plan.Chunk("g", lanes.Shape(2, 1, 1), ("a", "b"))
  assert [chunk.lanes for chunk in extended([wide], "ab")] == [("a", "b")]
  assert extended([wide], "ab")[0].shape == lanes.Shape(1, 1, 2)
  assert extended([wide], "ab", finished=[wide]) == [wide]


def test_a_chunk_is_fingerprinted_and_a_lane_is_not_packed():
  (first, second), (other,) = extended([], "abc"), extended([], "ad")
  assert len({first.fingerprint, second.fingerprint, other.fingerprint}) == 3
  assert {each.packing for each in (first, second, other)} == {"1x1x2"}
  assert set(first.lanes) == {"a", "b"}


def test_a_lane_that_has_a_row_in_whatever_packing_is_not_planned():
  assert not extended([], "ab", done="ab")
  assert [chunk.lanes for chunk in extended([], "abc", done="b")] == [("a", "c")]


def test_a_plan_is_kept_on_disk(tmp_path):
  made = extended([], "abc")
  file = tmp_path / "plan.json"
  assert plan.load(file) == []
  plan.save(file, made)
  assert plan.load(file) == made
  file.write_text("{")
  with pytest.raises(UserError, match="unreadable"):
    plan.load(file)
