"""Tasks leave rows once: done ones are passed over, stopped ones are not done."""

import json

import pytest

from experiments import tasks
from experiments.protocol import Place
from kd_jax import report
from kd_jax.config import identity
from kd_jax.core.errors import UserError
from kd_jax.runs import records
from kd_jax.runs.shard import Shard
from kd_jax.training.train_loop import Interrupted


class World:
  """A place with a memory of what was said and run."""

  def __init__(self, folder, *, stop_after=None, shard=None):
    self.said, self.ran, self.stop_after = [], [], stop_after
    self.place = Place(folder, self.stop, self.said.append, shard)

  def stop(self) -> bool:
    return self.stop_after is not None and len(self.ran) >= self.stop_after

  def task(self, name: str, *, rows: int = 1, fails: Exception | None = None):
    marks = tuple(identity.fingerprint({"task": name, "row": i})
                  for i in range(rows))

    def run(stop):
      self.ran.append(name)
      if fails is not None:
        raise fails
      return [{"fingerprint": mark, "overrides": {"row": i}, "row": name}
              for i, mark in enumerate(marks)]

    return tasks.Task(name, marks, run)

  def run(self, *names, **more) -> bool:
    return tasks.run([self.task(name, **more) for name in names], self.place,
                     study="planted")


def rows(folder) -> list[str]:
  return [row["row"] for row in report.read(folder)]


def test_rows_say_who_made_them(tmp_path):
  world = World(tmp_path)
  assert world.run("a", "b", rows=2)
  first = report.read(tmp_path)[0]
  assert rows(tmp_path) == ["a", "a", "b", "b"]
  assert first["schema"] == 2 and first["study"] == "planted"
  assert {"commit", "dirty", "versions", "device", "processor", "cores",
          "seconds"} <= set(first)
  assert world.said[-2].startswith("planted: 1 of 2, a: 0:0") and (
      world.said[-2].endswith("left"))
  assert world.said[-1].startswith("planted: 2 of 2, b: ")


def test_what_is_done_is_passed_over(tmp_path):
  assert World(tmp_path).run("a", "b")
  before = (tmp_path / "results.jsonl").read_text()
  again = World(tmp_path)
  assert again.run("a", "b") and again.ran == []
  assert (tmp_path / "results.jsonl").read_text() == before
  assert again.said == ["planted: 2 of 2 tasks are done"]


def test_a_task_half_of_whose_rows_are_there_is_done_again(tmp_path):
  World(tmp_path).run("a", rows=2)
  file = tmp_path / "results.jsonl"
  file.write_text(file.read_text().splitlines()[0] + "\n")
  again = World(tmp_path)
  assert again.run("a", rows=2) and again.ran == ["a"]
  assert rows(tmp_path) == ["a", "a"]


def test_a_stop_is_heard_between_tasks_and_the_rest_done_later(tmp_path):
  world = World(tmp_path, stop_after=2)
  assert not world.run("a", "b", "c")
  assert world.ran == rows(tmp_path) == ["a", "b"]
  assert world.said[-1] == (
      "planted: stopped with 1 of 3 tasks to do; the same command goes on")
  again = World(tmp_path)
  assert again.run("a", "b", "c") and again.ran == ["c"]
  assert rows(tmp_path) == ["a", "b", "c"]


def test_a_stop_within_a_task_leaves_no_row_of_it(tmp_path):
  world = World(tmp_path)
  assert not tasks.run(
      [world.task("a"), world.task("b", fails=Interrupted()), world.task("c")],
      world.place, study="planted")
  assert rows(tmp_path) == ["a"] and world.ran == ["a", "b"]


def test_a_task_that_fails_takes_nothing_with_it(tmp_path):
  world = World(tmp_path)
  with pytest.raises(ZeroDivisionError):
    tasks.run([world.task("a"), world.task("b", fails=ZeroDivisionError())],
              world.place, study="planted")
  assert rows(tmp_path) == ["a"]


def test_shards_do_their_own_and_together_all(tmp_path):
  names = "abcde"
  parts = [World(tmp_path / str(i), shard=Shard(i, 2)) for i in (1, 2)]
  assert all(part.run(*names) for part in parts)
  assert [part.ran for part in parts] == [["a", "c", "e"], ["b", "d"]]


def test_rows_of_other_settings_are_kept_aside_and_come_back(tmp_path):
  World(tmp_path).run("a", "b")
  World(tmp_path).run("b", "c")
  assert rows(tmp_path) == ["b", "c"]
  again = World(tmp_path)
  assert again.run("a", "b") and again.ran == []


def test_the_order_is_that_of_the_tasks_whoever_was_first(tmp_path):
  World(tmp_path).run("b")
  World(tmp_path).run("a", "b")
  assert rows(tmp_path) == ["a", "b"]


def test_a_promise_is_kept(tmp_path):
  world = World(tmp_path)
  wrong = world.task("a")._replace(fingerprints=("0" * 64,))
  with pytest.raises(ValueError, match=r"a: left .* promised"):
    tasks.run([wrong], world.place, study="planted")
  assert rows(tmp_path) == []


def test_a_second_program_is_refused(tmp_path):
  with records.locked(tmp_path), pytest.raises(UserError, match="another program"):
    World(tmp_path).run("a")


def test_a_folder_of_something_else_is_refused(tmp_path):
  (tmp_path / "results.jsonl").write_text(json.dumps({"net": "teacher"}) + "\n")
  with pytest.raises(UserError, match="another workdir"):
    World(tmp_path).run("a")
