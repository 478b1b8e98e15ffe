"""Checkpoints of unfinished runs: whole, checked, and only for their config."""

import contextlib
import json
import os
import shutil
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.core.errors import UserError
from kd_jax.training import checkpoints as progresses
from kd_jax.training.checkpoints import Checkpoints

MARKS = {"temperature": 8.0, "seed": 0, "teachers": ["a" * 64]}


def tree(value: float):
  """Some 200 kB, so that its numbers have a file of their own."""
  draw = np.random.default_rng(0)
  weights = draw.normal(size=(256, 200)).astype("f4") + np.float32(value)
  return {"state": {"w": jnp.asarray(weights), "empty": {}},
          "done": jnp.int32(value)}


@pytest.fixture
def saved(tmp_path):
  """A folder with checkpoints of steps 5 and 9."""
  with contextlib.closing(Checkpoints(tmp_path / "p", MARKS)) as made:
    made.save(2, tree(2))
    made.save(5, tree(5))
    made.save(9, tree(9), wait=True)
  return tmp_path / "p"


def loaded(path, marks=MARKS, **options):
  said = []
  made = Checkpoints(path, marks, say=said.append, **options)
  with contextlib.closing(made):
    return made.load(tree(0)), said


def test_the_newest_comes_back_to_the_bit(saved):
  found, said = loaded(saved)
  jax.tree.map(np.testing.assert_array_equal, found, tree(9))
  assert not said
  steps = {p.name for p in saved.iterdir() if p.is_dir()}
  assert steps == {"5", "9"}, "the last two are kept"


def flip(file):
  content = bytearray(file.read_bytes())
  content[len(content) // 2] ^= 0x10
  file.write_bytes(content)


def cut(file):
  file.write_bytes(file.read_bytes()[:file.stat().st_size // 2])


def largest(folder):
  return max((f for f in folder.rglob("*") if f.is_file()),
             key=lambda f: f.stat().st_size)


@pytest.mark.parametrize("which", [
    largest, lambda p: p / "record/metadata", lambda p: p / "arrays/_METADATA",
    lambda p: p / "arrays/manifest.ocdbt"],
    ids=["numbers", "record", "metadata", "manifest"])
@pytest.mark.parametrize("damage", [flip, cut, os.remove])
# Orbax leaves a future of its event loop behind when files are gone.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_damaged_one_is_noticed_and_the_one_before_is_used(
    saved, which, damage):
  file = which(saved / "9")
  damage(file)
  gone = not file.exists()
  found, said = loaded(saved)
  if file.name == "_METADATA" and gone:
    # Orbax does without; the checksum says that it did well.
    jax.tree.map(np.testing.assert_array_equal, found, tree(9))
    return
  assert int(found["done"]) == 5
  jax.tree.map(np.testing.assert_array_equal, found, tree(5))
  assert "the checkpoint of step 9 is damaged" in said[0]


def test_a_single_wrong_bit_of_the_numbers_is_noticed(saved):
  # Orbax itself reads it without complaint.
  file = largest(saved / "9")
  content = bytearray(file.read_bytes())
  content[3 * len(content) // 4] ^= 1
  file.write_bytes(content)
  found, said = loaded(saved)
  assert int(found["done"]) == 5 and "is damaged" in said[0]


def test_without_a_whole_one_the_run_begins_anew_and_says_so(saved):
  for step in ("5", "9"):
    cut(largest(saved / step))
  found, said = loaded(saved)
  assert found is None
  assert "no whole checkpoint is left" in said[-1]
  with contextlib.closing(Checkpoints(saved, MARKS)) as again:
    again.save(9, tree(9), wait=True)
  assert int(loaded(saved)[0]["done"]) == 9


def test_half_a_save_is_none(saved):
  # What a program that dies while saving leaves behind.
  (saved / "9").rename(saved / "9.orbax-checkpoint-tmp")
  found, said = loaded(saved)
  assert int(found["done"]) == 5 and not said


def test_half_of_the_first_save_is_none_either(saved):
  shutil.rmtree(saved / "5")
  (saved / "9").rename(saved / "9.orbax-checkpoint-tmp")
  assert loaded(saved) == (None, [])
  with contextlib.closing(Checkpoints(saved, MARKS)) as again:
    again.save(9, tree(9), wait=True)
  assert int(loaded(saved)[0]["done"]) == 9


def test_another_config_is_refused_with_what_changed(saved):
  other = MARKS | {"temperature": 2.0, "teachers": ["b" * 64]}
  with pytest.raises(UserError) as refused:
    loaded(saved, other)
  assert "temperature was 8.0, is 2.0; teachers was ['aaa" in str(refused.value)
  assert "seed" not in str(refused.value)
  assert "--resume=force" in str(refused.value)
  found, said = loaded(saved, other, force=True)
  assert int(found["done"]) == 9
  assert "goes on although changed: temperature was 8.0" in said[0]


def test_a_newer_format_and_a_foreign_folder_are_refused(saved, tmp_path):
  record = saved / "9/record/metadata"
  told = json.loads(record.read_text())
  record.write_text(json.dumps(told | {"schema": 99}))
  with pytest.raises(UserError, match="schema 99"):
    loaded(saved)
  (tmp_path / "holiday").mkdir()
  (tmp_path / "holiday/photo.jpg").write_bytes(b"x")
  with pytest.raises(UserError, match="holds no checkpoint"):
    loaded(tmp_path / "holiday")
  assert (tmp_path / "holiday/photo.jpg").is_file()


def test_nothing_is_there_before_the_first_save(tmp_path):
  assert loaded(tmp_path / "none") == (None, [])
  assert not (tmp_path / "none").exists()


def test_a_finished_run_leaves_nothing(saved):
  made = Checkpoints(saved, MARKS)
  made.load(tree(0))
  made.drop()
  assert not saved.exists()


@pytest.mark.parametrize(("every", "due"), [
    ("3 steps", [False, False, True, True]), ("2 epochs", [False, False, False,
                                                           True])])
def test_a_save_is_due_every_so_often(tmp_path, every, due):
  made = Checkpoints(tmp_path, MARKS, every=every)
  made.begin(10, per_epoch=2)
  assert [made.due(step) for step in (11, 12, 13, 14)] == due


def test_a_save_is_due_after_minutes(tmp_path, monkeypatch):
  now = [100.0]
  monkeypatch.setattr(time, "monotonic", lambda: now[0])
  made = Checkpoints(tmp_path, MARKS, every="0.5 minutes")
  made.begin(0, per_epoch=2)
  now[0] += 29
  assert not made.due(8)
  now[0] += 2
  assert made.due(9)


def test_what_is_saved_is_of_that_moment(tmp_path):
  # The next step writes over the arrays while they are still being written.
  donated = jax.jit(lambda x: x + 1, donate_argnums=0)
  held = jnp.zeros((512, 512))
  with contextlib.closing(Checkpoints(tmp_path / "p", MARKS)) as made:
    made.save(1, {"x": held})
    for _ in range(5):
      held = donated(held)
  with contextlib.closing(Checkpoints(tmp_path / "p", MARKS)) as made:
    found = made.load({"x": held})
  assert not np.any(found["x"])


def test_changes_shows_keys_that_came_or_went():
  assert progresses.changes({"a": 1}, {"b": 2}) == [
      "a was 1, is None", "b was None, is 2"]


def test_by_default_saving_costs_a_hundredth_and_five_seconds_lie_between(
    tmp_path, monkeypatch):
  now, cost = [100.0], 0.034
  monkeypatch.setattr(time, "monotonic", lambda: now[0])
  whole = jax.device_get

  def slow(held):
    now[0] += cost
    return whole(held)

  monkeypatch.setattr(jax, "device_get", slow)
  with contextlib.closing(Checkpoints(tmp_path / "p", MARKS)) as made:
    made.begin(0, per_epoch=2)

    def pause():
      """Seconds until the next save is due."""
      for seconds in range(1000):
        if made.due(8):
          return seconds
        now[0] += 1
      raise AssertionError("never due")

    assert pause() == 5, "nothing is known of its cost yet"
    made.save(8, tree(8))
    assert pause() == 5
    cost = 2.0
    made.save(9, tree(9))
    assert 190 <= pause() <= 200
    cost = 0.034
    made.save(10, tree(10))
    assert pause() == 5


def test_the_seconds_of_a_training_are_those_of_all_programs(tmp_path, monkeypatch):
  now = [100.0]
  monkeypatch.setattr(time, "monotonic", lambda: now[0])
  with contextlib.closing(Checkpoints(tmp_path / "p", MARKS)) as first:
    now[0] += 30
    first.save(1, tree(1), wait=True)
    now[0] += 7  # Lost, as what was done in them is done again.
  now[0] += 1000
  with contextlib.closing(Checkpoints(tmp_path / "p", MARKS)) as second:
    assert second.load(tree(0)) is not None
    now[0] += 5
    assert second.seconds() == 35
    second.save(2, tree(2), wait=True)
  with contextlib.closing(Checkpoints(tmp_path / "p", MARKS)) as third:
    assert third.seconds() == 0, "before it goes on"
    third.load(tree(0))
    now[0] += 2
    assert third.seconds() == 37
