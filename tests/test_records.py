"""Records in a workdir: whole lines, one writer, nobody else's folder."""

import json
import resource

import pytest

from kd_jax.core import strict
from kd_jax.core.errors import UserError
from kd_jax.runs import records, results


def test_half_a_line_of_a_killed_program_spoils_no_other(tmp_path):
  (tmp_path / "metrics.jsonl").write_text('{"net": "a"}\n{"net": "b", "st')
  recorder = records.Recorder(tmp_path, tensorboard=False)
  recorder.row("c", {"step": 1})
  recorder.close()
  lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
  assert len(lines) == 3
  assert json.loads(lines[2])["net"] == "c"


def _rows(*names, errors=7):
  return [{"schema": 2, "fingerprint": name, "overrides": {}, "packing": "1x1x1",
           "test_errors": errors} for name in names]


def _store(folder, wanted):
  folder.mkdir(exist_ok=True)
  found = results.Results(folder, print)
  found.want(wanted)
  return found


def test_adding_rows_takes_as_much_work_as_there_are_rows(tmp_path, monkeypatch):
  names = [f"{number:04}" for number in range(200)]
  found = _store(tmp_path, names)
  written, dumps = [], strict.dumps
  monkeypatch.setattr(
      strict, "dumps", lambda row: written.append(row) or dumps(row))
  looked, arranged = [], results.arranged
  monkeypatch.setattr(results, "arranged", lambda rows, wanted: arranged(
      [looked.append(row) or row for row in rows], wanted))
  for name in names:
    found.add(_rows(name))
    assert found.has([name]) and found.rows[-1]["fingerprint"] == name
  assert (len(written), len(looked)) == (200, 0)
  appended = (tmp_path / "results.jsonl").read_text()
  found.describe({})  # Writes all of it anew.
  assert len(written) == 400
  assert (tmp_path / "results.jsonl").read_text() == appended
  assert results.read(tmp_path) == found.rows == _rows(*names)


def test_rows_stand_in_the_order_of_the_run_whenever_they_come(tmp_path):
  for order in ("abcd", "dcba", "bdac"):
    found = _store(tmp_path / order, "abcd")
    for name in order:
      found.add(_rows(name))
      assert results.read(tmp_path / order) == found.rows == _rows(*sorted(
          order[:order.index(name) + 1]))


def test_rows_go_beside_those_that_the_run_does_not_ask_for(tmp_path, capsys):
  _store(tmp_path, "ab").add(_rows("a", "b"))
  found = _store(tmp_path, "bcde")
  found.add(_rows("c"))
  found.add(_rows("e"))
  found.add(_rows("d"))
  assert results.read(tmp_path) == found.rows == _rows(*"bcde")
  asked, others = results.split(tmp_path)
  assert (asked, others) == (_rows(*"bcde"), _rows("a"))
  found.add(_rows("c", errors=8), again=True)
  assert results.read(tmp_path)[1] == _rows("c", errors=8)[0]
  with pytest.raises(UserError, match="has another result of c"):
    found.add(_rows("c", errors=9))
  assert capsys.readouterr().out == ""
  # Of a net that was trained again for its students, on another machine.
  found.add(_rows("c", errors=9), for_others=True)
  assert "from its row in test_errors" in capsys.readouterr().out
  assert results.read(tmp_path)[1] == _rows("c", errors=9)[0]
  # One that nobody asks for is there, but not shown.
  found.add(_rows("x"))
  assert results.read(tmp_path) == found.rows and found.others == 2
  assert results.split(tmp_path)[1] == [*_rows("x"), *_rows("a")]


def test_rows_for_which_there_is_no_place_leave_the_others_whole(tmp_path):
  found = _store(tmp_path, "abc")
  found.add(_rows("a"))
  file = tmp_path / "results.jsonl"
  before, limits = file.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, limits[1]))
  try:
    with pytest.raises(OSError):
      found.add(_rows("b"))
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert file.read_bytes() == before


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
  assert (tmp_path / ".lock").exists()  # Nor is it removed, being somebody's.


def test_a_workdir_in_which_nothing_was_left_is_removed(tmp_path):
  with pytest.raises(UserError), records.locked(tmp_path / "a" / "new"):
    raise UserError("no data")
  assert [*(tmp_path / "a").iterdir()] == []
  with records.locked(tmp_path / "a" / "run"):
    (tmp_path / "a" / "run" / "config.json").write_text("{}")
  assert (tmp_path / "a" / "run" / "config.json").exists()


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

  in_turn = lambda **options: records.in_turn(
      tmp_path / "shelf" / "net", say=said.append, **options)
  with in_turn(stop=lambda: False), in_turn(stop=stop):
    pass
  assert len(asked) == 4
  assert len(said) == 1 and "waiting for it" in said[0]
