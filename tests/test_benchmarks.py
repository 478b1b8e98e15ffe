"""The sweep benchmark: what is measured, and that its tables say it."""

import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_step import distance

from benchmarks import sweep, sweep_tables, tables
from benchmarks.problem import Problem
from kd_jax.core.errors import UserError
from kd_jax.training import state as states


@pytest.fixture(scope="module")
def parts():
  """The module that measures; its import must not slow the other tests."""
  kept = jax.config.jax_enable_compilation_cache
  from benchmarks import sweep_parts
  jax.config.update("jax_enable_compilation_cache", kept)
  return sweep_parts


def alone(**more):
  return {"wall": 10.0, "steps": 1.0, "again": 2.0, "count": 5,
          "peak_bytes": 2**30, "device_peak_bytes": 0, **more}


def rounds(seconds, **more):
  """Two rounds, the second twice as slow in everything."""
  taken = {name: [one, 2 * one] for name, one in seconds.items()}
  return {"step_seconds": taken | {"square": [0.1, 0.2]}, "left_out": [],
          "compile_seconds": {}, "bytes": {}, "auto": None, "per_epoch": 5,
          **more}


def a_report():
  """A lane of 1x1x32 costs a quarter of the loop, of 1x4x8 half, of 64 more."""
  narrow = rounds({"loop": 0.4, "1x1x1": 0.4, "1x1x32": 3.2, "1x4x8": 6.4,
                   "1x1x64": 8.0})
  wide = rounds({"loop": 4.0, "1x1x8": 40.0},
                auto={"shape": "1x1x8", "said": ""})
  kinds = {"cold": [alone()], "warm": [alone(wall=8.0)]}
  return {
      "machine": {"cpu": "a cpu", "cores": 2, "backend": "cpu", "devices": 1,
                  "device": {"jax": "cpu"}, "versions": {"jax": "0"}},
      "settings": {"command": "c", "commit": "abc", "date": "today",
                   "load": 0.0, "data": "MNIST"},
      "widths": {
          "30": {"rounds": {"1": narrow},
                 "alone": {"loop": kinds, "1x1x32": kinds}},
          "800": {"rounds": {"1": wide}, "alone": {}}}}


def test_rectangles_are_few_where_lanes_are_slow():
  named = lambda *shape, **more: sweep.rectangles(
      *shape, quick=False, **{"backend": "cpu", **more})
  assert "1x1x64" in named(30, 1) and "1x8x8" in named(30, 1)
  assert named(800, 1) == ["1x1x1", "1x1x2", "1x1x4", "1x1x8", "1x1x32"]
  assert named(800, 2) == ["2x1x1", "2x1x4"]
  assert "1x1x64" in named(800, 1, backend="gpu")
  assert named(30, 16) == ["16x1x1", "16x1x4"]


def test_the_floor_is_that_of_the_formula():
  # Kernels 784*30, 30*30, 30*10; thrice but for the image's gradient.
  assert sweep_tables.flops(30) == 2 * 128 * (3 * 24720 - 23520)
  assert sweep_tables.moved(30) == 5 * 4 * (24720 + 30 + 30 + 10)


def test_wall_times_by_hand():
  found = a_report()["widths"]["30"]
  seconds = lambda *more: sweep_tables.run_seconds(found, *more)
  # 10 - 1 - 2 s beside the steps, 1 s for an epoch of five.
  assert seconds("process", "cold", 1) == 32 * 8
  assert seconds("process", "cold", 20) == 32 * (7 + 20)
  assert seconds("process", "warm", 1) == 32 * 6
  # 0.4 and 0.8 s a step: the median is 0.6.
  assert seconds("loop", "cold", 1) == pytest.approx(7 + 31 * 2 + 32 * 5 * 0.6)
  assert seconds("1x1x32", "cold", 20) == pytest.approx(7 + 20 * 5 * 4.8)
  assert seconds("1x4x8", "cold", 1) is None
  # PyTorch with the better number of threads, its steps alone.
  found["rounds"]["1"]["step_seconds"] |= {
      "torch, threads: 1": [0.3], "torch, threads: 2": [0.5]}
  assert seconds("torch", "cold", 1) == pytest.approx(32 * 5 * 0.3)


def test_the_table_tells_which_targets_are_met(tmp_path):
  file = tmp_path / "made_up.json"
  file.write_text(json.dumps(a_report()))
  text = sweep_tables.block(str(file))
  line = lambda start: next(
      line for line in text.splitlines() if line.startswith(start))
  assert line("| 2x30: 1x1x32 over").endswith(
      "| 4.00 (4.00 to 4.00) | >= 3.5 | met |")
  assert line("| 2x30: 1x4x8 over").endswith(
      "| 2.00 (2.00 to 2.00) | >= 2.8 | missed |")
  assert "0.80 (0.80 to 0.80) | >= 0.95 | missed" in line("| 2x800: lanes=auto")
  # 8.0 / 64 s a lane after 3.2 / 32 s.
  assert "1.25 at 1x1x64" in line("| 2x30: most that a lane")
  assert ">= 40" not in text
  readme = tmp_path / "README.md"
  readme.write_text("a\n<!-- begin made_up -->\n<!-- end made_up -->\nb\n")
  tables.put(text, str(readme))
  assert readme.read_text() == f"a\n{text}\nb\n"


def test_on_a_gpu_there_are_more_targets(tmp_path):
  report = a_report()
  report["machine"]["backend"] = "gpu"
  file = tmp_path / "made_up.json"
  file.write_text(json.dumps(report))
  text = sweep_tables.block(str(file))
  assert "| 2x30: 1x1x64 over the loop | 3.20 (3.20 to 3.20) | >= 40" in text
  assert "| 2x800: 1x1x64 over the loop | not measured | >= 6 |" in text


def test_mistakes_are_told(tmp_path, monkeypatch):
  with pytest.raises(UserError, match=r"nowhere\.json: not a file"):
    sweep_tables.block(str(tmp_path / "nowhere.json"))
  other = tmp_path / "other.json"
  other.write_text("{}")
  with pytest.raises(UserError, match=r"wrote .KeyError"):
    sweep_tables.block(str(other))
  with pytest.raises(UserError, match="there is no such folder"):
    sweep.main([f"--out={tmp_path}/nowhere/sweep.json"])


def test_a_step_has_its_part_of_the_epochs_order(parts, monkeypatch):
  now = [0.0]
  clock = types.SimpleNamespace(perf_counter=lambda: now[0])
  monkeypatch.setattr(parts, "time", clock)

  def advance(state, length):
    now[0] += 2.0 + 0.5 * length  # Two seconds for an order.
    return state.replace(step=state.step + length)

  start = lambda: states.TrainState(jnp.int32(0), {}, {}, {}, {})
  program = parts.Program(start, advance, lambda state: None)
  for wanted in (3.0, 1000.0):
    step = parts.timing(program, 10, wanted)()
    assert step == pytest.approx(0.5 + 2.0 / 10)


@pytest.mark.slow
def test_lanes_and_loop_train_the_same(parts):
  draw = np.random.default_rng(0)
  problem = Problem(
      draw.integers(0, 256, (300, 28, 28, 1), np.uint8),
      draw.integers(0, 10, 300).astype(np.int32), "noise", width=4)
  todo = parts.work(problem)
  # The first lane's temperature.
  todo = todo._replace(hparams=todo.hparams.replace(temperature=jnp.float32(1)))
  seconds: dict[str, float] = {}
  one = parts.single(todo, seconds)
  two = parts.program(todo, parts.rectangle(todo, "1x1x2", seconds))
  alone, both = (each.advance(each.start(), 3) for each in (one, two))
  first, second = (
      jax.tree.map(lambda x, lane=lane: x[0, lane], both.student.params)
      for lane in range(2))
  assert distance(first, alone.student.params) < 1e-5
  assert distance(second, alone.student.params) > 1e-4
  for each, trained in ((one, alone), (two, both)):
    each.evaluate(trained)
  assert set(seconds) == {"loop", "1x1x2"}
