"""What the user sees while something takes long."""

import io

import pytest
import rich.console

from kd_jax.core import screen as screens


@pytest.fixture
def shown(monkeypatch):
  """A screen without a terminal, and a clock to turn."""
  clock = [0.0]
  monkeypatch.setattr(screens.time, "monotonic", lambda: clock[0])
  file = io.StringIO()
  screen = screens.Screen(rich.console.Console(file=file, width=80))

  def lines():
    return file.getvalue().splitlines()

  return screen, clock, lines


def test_the_time_left_is_that_of_the_parts_done(shown):
  screen, clock, lines = shown
  for done in range(1, 5):
    clock[0] += 30
    screen.advance("bank", done, 10, f"{done} of 10 views")
  # Three parts in 90 s, six are left.
  assert " ".join(lines()[-1].split()) == "bank 40% 4 of 10 views 3:00 left"


def test_what_comes_later_by_the_same_name_has_a_time_of_its_own(shown):
  screen, clock, lines = shown
  screen.advance("bank", 1, 1, "1 of 1 views")
  screen.advance("bank", 1, 1, "1 of 1 views")
  clock[0] += 3600
  screen.advance("bank", 10, 10, "10 of 10 views")
  for done in range(1, 5):
    clock[0] += 30
    screen.advance("bank", done, 10, f"{done} of 10 views")
  assert lines()[-1].endswith("3:00 left")


def test_lines_of_what_takes_long_are_far_between(shown):
  screen, clock, lines = shown
  for done in range(3600):
    clock[0] += 1
    screen.advance("net", done, 4000, "in epoch 1")
  # Every 5 s at first, every 2% of the time after 250 s: 50 + 50 log(3600 / 250).
  assert 150 < len(lines()) < 200
