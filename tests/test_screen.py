"""What the user sees while something takes long."""

import io
import sys
import types

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


def test_100_percent_is_all_of_it(shown):
  screen, clock, lines = shown
  for done in (999, 1000):
    clock[0] += 30
    screen.advance("sweep", done, 1000, "")
  assert [line.split()[1] for line in lines()] == ["99%", "100%"]


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


class Notebook:
  """What IPython does with what is displayed: `outputs`, in which some change."""

  def __init__(self):
    self.outputs, self.updates = [], 0

  def display(self, *things, display_id=None):
    thing, = things
    self.outputs.append(thing._repr_mimebundle_((), ()))
    place = len(self.outputs) - 1

    def update(other):
      self.updates += 1
      self.outputs[place] = other._repr_mimebundle_((), ())
    return types.SimpleNamespace(update=update) if display_id else None


@pytest.fixture(name="notebook")
def fixture_notebook(monkeypatch):
  """A notebook, a screen in it, and a clock to turn."""
  clock, found = [0.0], Notebook()
  monkeypatch.setattr(screens.time, "monotonic", lambda: clock[0])
  modules = {"IPython": types.ModuleType("IPython"),
             "IPython.display": types.ModuleType("IPython.display")}
  modules["IPython"].display = modules["IPython.display"]
  modules["IPython.display"].display = found.display
  for name, module in modules.items():
    monkeypatch.setitem(sys.modules, name, module)
  console = lambda **how: rich.console.Console(force_jupyter=True, width=115, **how)
  return found, console, clock


def test_a_notebook_has_one_bar_that_is_drawn_again_in_its_place(notebook):
  found, console, clock = notebook
  with screens.Screen(console()) as screen:
    screen.say("data: as they are")
    for net in ("teacher", "student"):
      for done in range(1, 1001):
        clock[0] += 0.1
        screen.advance(net, done, 1000, f"epoch {done}")
    screen.say("done")
  texts = [output["text/plain"] for output in found.outputs]
  assert [text.strip() for text in texts[::2]] == ["data: as they are", "done"]
  # Of 200 seconds, twice a second at most.
  assert len(texts) == 3 and 300 < found.updates <= 400
  lines = texts[1].splitlines()
  assert len(lines) == 2
  for name, line in zip(("teacher", "student"), lines):
    assert line.split()[0] == name and "epoch 1000" in line
    assert "\u2501" * 24 in line and "left" in line


def test_the_bar_of_a_notebook_is_drawn_at_the_end_of_what_was_fast(notebook):
  found, console, clock = notebook
  clock[0] = 100.0
  screen = screens.Screen(console())
  for done in (1, 2, 3):
    screen.advance("bank", done, 3, f"{done} of 3 views")
  assert found.updates == 1 and "3 of 3" in found.outputs[0]["text/plain"]


def test_a_quiet_screen_draws_nothing_in_a_notebook(notebook):
  found, console, _ = notebook
  screen = screens.Screen(console(quiet=True))
  screen.advance("bank", 1, 1, "1 of 1 views")
  assert not found.outputs
