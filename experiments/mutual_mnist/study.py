"""Is a peer that trains beside a student as good as a teacher that is trained?

Students of 2x30 that learn from labels; together with a net like them, with two, or
with one of 2x800; and from nets of both sizes that are trained already. Each arm is
tried with six settings on held-out digits; then the best is trained on all digits
with 20 seeds. Pairs of students are judged as one too, by the mean of their
probabilities.
"""

from collections.abc import Sequence
import pathlib

import ml_collections

from configs import mutual
from experiments import fair
from experiments.protocol import Options, Rows, Stage
from kd_jax.report import comparison, statistics
from kd_jax.runs import arms as arms_lib
from kd_jax.runs.arms import arm

CLAIM = ("nets that learn from each other from the start are better than by labels "
         "alone, and than by a powerful teacher that is trained before; more peers "
         "are better; CIFAR-100: ResNet-32 from 68.99 to 71.19%, MobileNet from "
         "73.65 to 76.13% (numbers from memory)")
DATA = "MNIST; the paper's CIFAR-100, Market-1501"
UNIT = "errors of 10,000; the paper's: accuracy in %"
COMMAND = "--config=configs/mutual.py"
REFERENCE = None
NOT_COMMITTED = dict.fromkeys(
    (f"{name}{stage}" for name in ("", "three_", "static_")
     for stage in ("choosing", "table")), fair.NOT_COMMITTED)

SMALL, LARGE = (30, 30), (800, 800)
_TEMPERATURES, _RATES = (1.0, 2.0, 4.0), (1e-3, 3e-3)
_PEER, _RATE = "nets.peer.widths", "optimizer.learning_rate"
_ASKED = {"temperature": _TEMPERATURES, _RATE: _RATES}
_ALONE = {f"nets.student.{key}": values for key, values in _ASKED.items()}

LABELS = arm("labels", {_PEER: (SMALL,), "method": ("hard",),
                        "label_smoothing": (0.0, 0.05, 0.1), _RATE: _RATES})
TOGETHER = (
    LABELS,
    arm("a peer like it", {_PEER: (SMALL,), **_ASKED}),
    arm("a large peer", {_PEER: (LARGE,), **_ASKED}))
THREE = (
    arm("two peers like it", {
        _PEER: (SMALL,), "nets.third.widths": (SMALL,), **_ASKED}),)
STATIC = (
    arm("a teacher like it", {_PEER: (SMALL,), **_ALONE}),
    arm("a large teacher", {_PEER: (LARGE,), **_ALONE}))
ARMS = (*TOGETHER, *THREE, *STATIC)
_BY_NAME = {each.name: each for each in ARMS}
_KINDS = {"": ("default", TOGETHER), "three_": ("three", THREE),
          "static_": ("static", STATIC)}
# As one, by the mean of their probabilities: arms of `TOGETHER`.
_PAIRS = {"labels": "two from labels, as one",
          "a peer like it": "two peers, as one"}


def stages(options: Options) -> list[Stage]:
  """Choosing and the table of nets that train together, of three, and in turn."""
  seeds = options.seeds or (2 if options.quick else 20)
  found = []
  for prefix, (variant, arms) in _KINDS.items():
    if options.quick and variant == "three":
      continue
    config = lambda variant=variant: _config(variant, quick=options.quick)
    command = f"{COMMAND}:{variant}" if prefix else COMMAND
    few = arms[:1 if prefix else 2] if options.quick else arms
    groups = lambda _, few=few: {"": few}
    found += [
        fair.choosing(f"{prefix}choosing", groups, config,
                      seeds=1 if options.quick else 2, command=command),
        fair.table(f"{prefix}table", groups, config, seeds=seeds,
                   command=command)]
  return found


def _config(variant: str, *, quick: bool) -> ml_collections.ConfigDict:
  config = mutual.get_config(variant)
  config.data.embedded = "never"
  config.nets.student.widths = SMALL
  config.sweep.lanes = "2x1"
  if quick:  # The same program in a minute or two: few digits, short runs.
    config.data.embedded = "only"
    config.steps = 40
  return config


def found(rows: Rows) -> list[comparison.Result]:
  """What the rows say of every arm, and of pairs of students as one."""
  stages_of = [f"{prefix}table" for prefix in _KINDS]
  results = [each._replace(seconds=each.seconds + _together(each, rows))
             for each in fair.results(ARMS, rows, stages_of)]
  pairs = [row for row in rows.get("table", ())
           if row.get("net") == "student+peer"]
  for name, shown in _PAIRS.items():
    each = _BY_NAME[name]
    results.append(comparison.result(
        each, fair.chosen(each, rows), [], pairs)._replace(name=shown))
  return results


def _together(each: comparison.Result, rows: Rows) -> float:
  """Seconds of the chosen setting's nets as they trained together."""
  return sum(row["seconds"] for name, found in rows.items()
             if name.endswith("table") for row in found
             if "+" in (row.get("net") or "") and arms_lib.of(row) == each.setting)


def conclude(rows: Rows) -> str:
  """Every arm against labels, what else the paper claims, and what was seen."""
  results = found(rows)
  tried = [row for prefix in _KINDS
           for row in arms_lib.judged(rows.get(f"{prefix}choosing", ()))]
  lines = [f"**{status(rows)}.**\n",
           fair.markdown(results, "labels", ARMS, tried),
           *fair.steps("planned besides", "difference of errors",
                       _planned(results), lambda name: fair.linked(
                           name, [each for each in results
                                  if each.name in name.split(" minus ")])), ""]
  return "\n".join([*lines, *_large(rows), *_second(rows, results)]) + "\n"


def _planned(
    results: Sequence[comparison.Result]
) -> dict[str, statistics.Paired]:
  """A peer against a trained teacher of its size, and two peers against one."""
  tests = {}
  for one, other in (("a peer like it", "a teacher like it"),
                     ("a large peer", "a large teacher"),
                     ("two peers like it", "a peer like it")):
    pair = [each for each in results if each.name in (one, other)]
    if one in (test := comparison.differences(pair, other)[0]):
      tests[f"{one} minus {other}"] = test[one]
  return tests


def _errors(
    net: str, name: str, rows: Rows, stage: str = "table"
) -> dict[int, int]:
  """The test errors of a net of an arm, by seed."""
  setting = fair.chosen(_BY_NAME[name], rows)
  return {row["seed"]: row["test_errors"] for row in rows.get(stage, ())
          if row.get("net") == net and row["failed"] is None
          and arms_lib.of(row) == setting}


def _large(rows: Rows) -> list[str]:
  """The large nets themselves, whom the students of two arms learn from."""
  peer = _errors("peer", "a large peer", rows)
  teacher = _errors("peer", "a large teacher", rows, "static_table")
  test = statistics.paired_by_seed(peer, teacher)
  rate = _config("static", quick=False).optimizer.learning_rate
  return [] if test is None else [
      "- post hoc, of the nets of 2x800 themselves: the peer "
      f"{fair.with_half([*peer.values()])}, the teacher, with the learning rate "
      f"{rate:g}, {fair.with_half([*teacher.values()])}; "
      f"{fair.minus('the peer', 'the teacher', test)}"]


def _second(rows: Rows, results: Sequence[comparison.Result]) -> list[str]:
  """The two nets of labels, of which one is the arm; and means against means."""
  first, second = (_errors(net, "labels", rows) for net in ("student", "peer"))
  both = {seed: (first[seed] + second[seed]) / 2
          for seed in first.keys() & second.keys()}
  test = statistics.paired_by_seed(
      _errors("student", "a large peer", rows), both)
  lines = [] if test is None else [
      "- post hoc, of the two nets that learn from the same labels: the other "
      f"{fair.with_half([*second.values()])}; "
      f"{fair.minus('a large peer', 'the mean of the errors of both', test)}"]
  labels, peers = _PAIRS.values()
  pair = [each for each in results if each.name in (labels, peers)]
  if peers in (tests := comparison.differences(pair, labels)[0]):
    lines.append(f"- post hoc: {fair.minus(peers, labels, tests[peers])}")
  return lines


def status(rows: Rows) -> str:
  """Which are better than labels alone, and which are worse."""
  return fair.outcome(found(rows)[:len(ARMS)], "labels")


def pictures(rows: Rows, folder: pathlib.Path) -> None:
  """Differences from labels."""
  comparison.draw(found(rows), "labels", folder / "arms.png")
