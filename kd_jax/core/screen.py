"""What the user sees: a progress bar with the time left, or lines; and tables.

A notebook is no terminal: what is drawn there is an output, which is kept. So the
bar is one output that is replaced, and a saved notebook has its last state. Rich's
own bar in a notebook is a widget: it needs ipywidgets, and is lost on saving.
"""

import time
from typing import Any

import rich.console
import rich.progress
import rich.table
import rich.text

from kd_jax.core import exits
from kd_jax.core.errors import printable

# The least time between plain lines, where there is no terminal for a bar: seconds,
# and a share of the time since the task began.
_LINE_SECONDS, _LINE_SHARE = 5.0, 0.02
# The least time between two bars of a notebook, in seconds.
_DRAW_SECONDS = 0.5


class _Console(rich.console.Console):
  """One whose reader may go away."""

  closed = False

  def on_broken_pipe(self) -> None:
    """Says no more; by itself rich would end the program here."""
    self.closed = self.quiet = True
    exits.unread()


class Screen:
  """Shows the progress of nets that train one after another.

  Use it as a context manager. A terminal and a notebook show a live bar. Elsewhere
  there is a line from time to time, and always one for the last epoch.
  """

  def __init__(
      self, console: rich.console.Console | None = None, *, quiet: bool = False):
    self.console = console or _Console(
        highlight=False, soft_wrap=True, quiet=quiet, emoji=False)
    self._bar = rich.progress.Progress(
        rich.progress.TextColumn("{task.description:>10}"),
        rich.progress.BarColumn(bar_width=24),
        rich.progress.TextColumn("{task.fields[message]}"),
        rich.progress.TimeElapsedColumn(),
        rich.progress.TextColumn("left"),
        rich.progress.TimeRemainingColumn(elapsed_when_finished=False),
        console=self.console, disable=not self.console.is_terminal,
        # The time left is told by all that was done of a task.
        speed_estimate_period=float("inf"), get_time=time.monotonic)
    self._last_line = 0.0
    self._drawn: Any = None  # Where the bar is, of a notebook.

  def __enter__(self) -> "Screen":
    self._bar.start()
    return self

  def __exit__(self, *error) -> None:
    self._bar.stop()

  @property
  def closed(self) -> bool:
    """Whether nobody reads what is shown any more."""
    return getattr(self.console, "closed", False)

  def say(self, text: str, *, style: str | None = None) -> None:
    """Prints text that stays on the screen."""
    self.console.print(printable(text), style=style, markup=False)

  def row(self, net: str, row: dict[str, Any]) -> None:
    """Shows an epoch of a net."""
    if row.get("event") == "resumed":
      self.say(f"{net}: goes on from step {row['step']}" if row["step"]
               else f"{net}: begins again")
      self._bar.update(self._begun(net).id, completed=row["step"])
      return
    self.advance(net, row["step"], row["total_steps"], _message(row))

  def advance(self, what: str, done: float, total: int, message: str) -> None:
    """Shows that `done` of `total` parts of something are done."""
    tasks = [task for task in self._bar.tasks if task.description == what]
    # Fewer than before: another task of the same name begins, such as a next bank.
    new = not tasks or done < tasks[-1].completed
    task = self._begun(what) if new else tasks[-1]
    self._bar.update(task.id, completed=done, total=total, message=message)
    if self.console.is_jupyter:
      self._draw(at_once=done >= total)
    elif not self.console.is_terminal:
      self._line(what, task, message)

  def _draw(self, *, at_once: bool) -> None:
    """Puts the bar into a notebook, in the place where it was before."""
    now = time.monotonic()
    if self.console.quiet or (
        now - self._last_line < _DRAW_SECONDS and not at_once):
      return
    self._last_line = now
    if self._drawn is None:
      from IPython import display  # pylint: disable=g-import-not-at-top
      self._drawn = display.display(self._bar, display_id=True)
    else:
      self._drawn.update(self._bar)

  def _line(self, what: str, task: rich.progress.Task, message: str) -> None:
    """Prints how far a task is, from time to time and at its end."""
    now, left = time.monotonic(), task.time_remaining
    least = max(_LINE_SECONDS, _LINE_SHARE * (task.elapsed or 0))
    if now - self._last_line < least and not task.finished:
      return
    self._last_line = now
    clock = f"  {_clock(left)} left" if left else ""
    # Rounded down: 100% is what is done.
    self.say(f"{what:>10}  {int(task.percentage):3d}%  {message}{clock}")

  def _begun(self, what: str) -> rich.progress.Task:
    self._bar.add_task(what, total=None, message="")
    return self._bar.tasks[-1]

  def table(self, title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Prints a table; the first column is text, the others are figures."""
    table = rich.table.Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
      table.add_column(column, justify="right" if index else "left")
    for row in rows:
      table.add_row(*map(_plain, row))
    self.console.print(table)

  def prose(self, title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Prints a table of sentences, which are wrapped."""
    table = rich.table.Table(
        title=rich.text.Text(title), title_justify="left", show_lines=True)
    for column in columns:
      table.add_column(column, overflow="fold")
    for row in rows:
      table.add_row(*map(_plain, row))
    self.console.print(table, soft_wrap=False)


def _plain(text: str) -> rich.text.Text:
  """A cell in which nothing is markup, and nothing commands the terminal."""
  return rich.text.Text(printable(text))


def _message(row: dict[str, Any]) -> str:
  split = "heldout" if "heldout_errors" in row else "test"
  return (f"epoch {row['epoch']}  {row[f'{split}_errors']} errors of "
          f"{row[f'{split}_examples']} ({split})  "
          f"{row['examples_per_second']:,.0f} examples/s")


def _clock(seconds: float) -> str:
  return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
