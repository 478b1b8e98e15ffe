"""What each of several processes reads and says; the real ones: test_faults.py."""

from hypothesis import given
from hypothesis import strategies as st
import jax
import numpy as np
import pytest

from kd_jax.core import hosts
from kd_jax.core.errors import UserError


class Processes:
  """Pretends to be each process in turn."""

  def __init__(self, monkeypatch, count):
    self.count, self._patch = count, monkeypatch
    monkeypatch.setattr(jax, "process_count", lambda: count)

  def each(self, function):
    found = []
    for index in range(self.count):
      self._patch.setattr(jax, "process_index", lambda index=index: index)
      found.append(function())
    return found


@given(st.integers(0, 1000), st.integers(1, 9))
def test_shares_are_all_of_it_and_even(number, count):
  with pytest.MonkeyPatch.context() as patch:
    shares = Processes(patch, count).each(lambda: hosts.share(number))
  assert [i for share in shares for i in share] == list(range(number))
  sizes = [len(share) for share in shares]
  assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("number", [1, 7, 8])
def test_shares_are_joined_in_order(number, monkeypatch):
  processes = Processes(monkeypatch, 3)
  rows = np.arange(2 * number, dtype=np.uint8).reshape(number, 2)
  gather = hosts.multihost_utils
  own = lambda: rows[hosts.share(number).start:hosts.share(number).stop]
  # As all would send it: padded to one shape.
  sent = processes.each(lambda: np.pad(
      own(), ((0, -(-number // 3) - len(own())), (0, 0))))
  whole = np.stack(sent)
  monkeypatch.setattr(gather, "process_allgather", lambda x: whole)
  for found in processes.each(lambda: hosts.joined(own(), number)):
    np.testing.assert_array_equal(found, rows)


def test_alone_nothing_is_asked_of_anybody(tmp_path):
  (tmp_path / "file").write_bytes(b"abc")
  assert hosts.first() and hosts.any_of(True) and not hosts.any_of(False)
  assert hosts.agreed(lambda: {"x": 1}) == {"x": 1}
  assert hosts.agreed_arrays(lambda: None, {}) is None
  assert hosts.read(tmp_path / "file") == b"abc"
  hosts.together("nobody")


@pytest.mark.parametrize(("error", "code", "words"), [
    (UserError("no such file"), 2, "error: no such file"),
    (ValueError("UNKNOWN: Gloo AllGather failed: Connection"), 4,
     "another process of this run is lost"),
    (ZeroDivisionError("oh"), 1, "ZeroDivisionError")])
def test_leaving_says_why(error, code, words, monkeypatch, capsys):
  left = []

  def leave(code):
    left.append(code)
    raise SystemExit

  monkeypatch.setattr(hosts.os, "_exit", leave)
  with pytest.raises(SystemExit):
    hosts.leave(error)
  assert left == [code]
  assert words in capsys.readouterr().err
