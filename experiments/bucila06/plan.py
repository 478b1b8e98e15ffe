"""What is measured, in full and in the quick form; it needs no jax."""

import itertools
from typing import Any, NamedTuple

NAME = "bucila06"
# The paper's Table 2: the net on MUNGE's examples, the ensemble, the best net on
# labels, the best single model, and the share of the gain that the net keeps.
PAPER = {
    "adult": (0.325, 0.317, 0.328, 0.319, 0.29),
    "letter.p1": (0.075, 0.075, 0.092, 0.092, 1.01),
    "letter.p2": (0.179, 0.178, 0.228, 0.203, 0.98)}
# By arm, in words.
ARMS = {
    "ensemble": "ensemble", "single": "best single model",
    "labels": "net, labels",
    "soft": "net, ensemble's probabilities, no pseudo data",
    "munge": "net, MUNGE", "nbe": "net, NBE", "random": "net, RANDOM"}
GENERATORS = ("munge", "nbe", "random")


class Form(NamedTuple):
  """Sizes of the study.

  Attributes:
    problems: Names of data sets.
    splits: Draws of the labelled examples.
    labelled: How many there are, one fifth of them to choose by.
    rounds: Of ensemble selection.
    hidden: Units of the net, the main number last.
    steps: Of a net of soft targets.
    settings: Of a net without pseudo data; its hidden numbers take the best one.
    munges: p and s, as many as those settings.
    choosing: Pseudo examples by which p and s are chosen.
    sizes: Pseudo examples, ascending.
    most: The largest size of each generator.
    quick: Whether to take a small library, and a data set that is made.
  """

  problems: tuple[str, ...]
  splits: int
  labelled: int
  rounds: int
  hidden: tuple[int, ...]
  steps: int
  settings: tuple[tuple[int, float], ...]
  munges: tuple[tuple[float, float], ...]
  choosing: int
  sizes: tuple[int, ...]
  most: dict[str, int]
  quick: bool = False


class Item(NamedTuple):
  """A row of a cell.

  Attributes:
    arm: A key of `ARMS`.
    size: Pseudo examples.
    hidden: Units; 0 of what is no net.
    setting: (steps, L2) without pseudo examples, (p, s) of MUNGE.
    stage: "choosing" of the rows that choose a setting, else "table".
  """

  arm: str
  size: int = 0
  hidden: int = 0
  setting: tuple[float, ...] = ()
  stage: str = "table"


_PS = tuple(itertools.product((0.1, 0.25, 0.5), (5.0, 20.0)))
FULL = Form(
    tuple(PAPER), splits=5, labelled=5000, rounds=60,
    hidden=(1, 2, 4, 8, 16, 32, 64, 128, 256), steps=20_000,
    # By length alone, as the paper's nets stop early; on adult soon, else late.
    settings=tuple((steps, 0.0) for steps in (300, 1000, 2000, 4000, 8000, 20_000)),
    munges=_PS, choosing=36_000, sizes=(8000, 20_000, 36_000, 100_000, 400_000),
    most={"munge": 400_000, "nbe": 100_000, "random": 100_000})
QUICK = Form(
    ("toy",), splits=2, labelled=500, rounds=10, hidden=(4, 32), steps=2000,
    settings=((500, 0.0), (2000, 0.0)), munges=((0.25, 2.0), (0.5, 10.0)),
    choosing=2000, sizes=(1000, 4000),
    most={"munge": 4000, "nbe": 4000, "random": 4000}, quick=True)


def choices(form: Form, arm: str) -> list[Item]:
  """The settings of an arm of which its best is taken; [] if there are none."""
  settings = {"labels": form.settings, "soft": form.settings,
              "munge": form.munges}.get(arm, ())
  size = form.choosing if arm == "munge" else 0
  return [Item(arm, size, form.hidden[-1], setting, "choosing")
          for setting in settings]


def items(form: Form) -> list[Item]:
  """All rows of a cell but those of settings that are not chosen.

  Example:
    >>> [item.arm for item in items(QUICK)][:5]
    ['ensemble', 'single', 'labels', 'labels', 'soft']
  """
  found = [Item("ensemble"), Item("single")]
  found += [Item("labels", 0, hidden) for hidden in form.hidden]
  found.append(Item("soft", 0, form.hidden[-1]))
  for arm in GENERATORS:
    found += [Item(arm, size, form.hidden[-1]) for size in sizes(form, arm)]
  found += [Item("munge", form.sizes[-1], hidden) for hidden in form.hidden[:-1]]
  return found


def sizes(form: Form, arm: str) -> list[int]:
  """The numbers of pseudo examples of a generator."""
  return [size for size in form.sizes if size <= form.most[arm]]


def overrides(problem: str, split: int, item: Item) -> dict[str, Any]:
  """What a row says of its item."""
  return {"problem": problem, "split": split, **item._asdict(),
          "setting": list(item.setting)}
