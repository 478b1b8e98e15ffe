"""Records in a workdir: whole lines, one writer, nobody else's folder."""

import json

import pytest

from kd_jax.core.errors import UserError
from kd_jax.runs import records


def test_half_a_line_of_a_killed_program_spoils_no_other(tmp_path):
  (tmp_path / "metrics.jsonl").write_text('{"net": "a"}\n{"net": "b", "st')
  recorder = records.Recorder(tmp_path, tensorboard=False)
  recorder.row("c", {"step": 1})
  recorder.close()
  lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
  assert len(lines) == 3
  assert json.loads(lines[2])["net"] == "c"


@pytest.mark.parametrize(("manifest", "words"), [
    ('{"schema": 99, "versions": {"kd_jax": "9"}}', "has schema 99"),
    ('{"name": "photos"}', "not of kd_jax"),
    ("binary?", "not of kd_jax")])
def test_a_folder_of_somebody_else_is_refused(manifest, words, tmp_path):
  (tmp_path / "manifest.json").write_text(manifest)
  with pytest.raises(UserError, match=words):
    records.Recorder(tmp_path, tensorboard=False)
  assert (tmp_path / "manifest.json").read_text() == manifest


def test_a_workdir_has_one_program(tmp_path):
  with (records.locked(tmp_path),
        pytest.raises(UserError, match="another program is at work"),
        records.locked(tmp_path)):
    pass
  with records.locked(tmp_path):
    pass  # Free again.


def test_a_workdir_below_a_file_cannot_be_written(tmp_path):
  (tmp_path / "file").write_text("")
  with (pytest.raises(UserError, match="cannot be written"),
        records.locked(tmp_path / "file" / "run")):
    pass


def test_waiting_for_a_shelf_ends_with_a_wish_to_stop(tmp_path):
  said, asked = [], []

  def stop():
    asked.append(1)
    return len(asked) > 3

  alone = lambda **options: records.alone(
      tmp_path / "shelf" / "net", say=said.append, **options)
  with alone(stop=lambda: False), alone(stop=stop):
    pass
  assert len(asked) == 4
  assert len(said) == 1 and "waiting for it" in said[0]
