"""What the rows of the stage `utterances` say of Table 1.

The speaker left out is the unit: nets of one speaker are averaged first, and
intervals and tests are over speakers.
"""

from collections.abc import Mapping, Sequence
import pathlib
from typing import Any, NamedTuple

import numpy as np

from experiments import claims, sources, words
from experiments.protocol import Rows
from kd_jax.report import Row, statistics

# Frame accuracy and word error rate of the paper's Table 1, in percent.
PAPER = {"baseline": (58.9, 10.9), "ensemble": (61.1, 10.7),
         "distilled": (60.8, 10.7)}
PAPER_KEPT = (60.8 - 58.9) / (61.1 - 58.9)
CLAIMED = 0.8
# The temperature of the table's distilled net: the paper's best.
HEADLINE = 2.0
_BETTER = {claims.HOLDS: "yes", claims.FAILS: "no", claims.OPEN: "not shown"}
# Members of the ensemble, and students on hard labels of the same settings.
_BASELINES = ("baseline", "hard")

System = str | float  # "baseline", "ensemble", or T of a distilled net
Values = dict[System, np.ndarray]


class Cells(NamedTuple):
  """By system, a mean a speaker, in percent `[speakers]`."""

  speakers: tuple[str, ...]
  accuracy: Values
  error: Values
  nets: int
  rows: Mapping[System, Sequence[Row]]

  def label(self, text: str, system: System) -> str:
    """A label that leads to the rows of a system."""
    return sources.linked(text, self.rows[system])


def conclude(rows: Rows) -> str:
  """Table 1 in the paper's form, by temperature, and the verdicts."""
  cells = gather(rows.get("utterances", ()))
  if not _whole(cells):
    return "Not all systems have two speakers yet.\n"
  return "\n".join([_table(cells), _share(cells), _by_t(cells)])


def status(rows: Rows) -> str:
  """The paper's numbers as they came out here, and the share of the gain."""
  cells = gather(rows.get("utterances", ()))
  if not _whole(cells):
    return "not finished"
  shown = {"one net": "baseline", "ten": "ensemble",
           f"distilled, T = {HEADLINE:g},": HEADLINE}
  levels = ", ".join(f"{name} {_mean(cells.accuracy[system])}%"
                     for name, system in shown.items())
  gains = ", ".join(words.difference(_against(cells.accuracy, system), "+.2f")
                    for system in ("ensemble", HEADLINE))
  return (f"{levels}, n is speakers; ten and distilled minus one {gains} points; "
          f"of the gain {_told(_kept(cells, HEADLINE))} (paper {PAPER_KEPT:.0%})")


def gather(rows: Sequence[Row]) -> Cells:
  """Means by system and speaker, of the speakers that have every system."""
  found: dict[System, dict[str, list[tuple[float, float]]]] = {}
  own: dict[System, list[Row]] = {}
  for row in rows:
    system: System = row["system"]
    if system in _BASELINES:
      system = "baseline"
    elif system == "distilled":
      system = row["temperature"]
    own.setdefault(system, []).append(row)
    found.setdefault(system, {}).setdefault(row["speaker"], []).append((
        100 * (1 - row["frame_errors"] / row["frames"]),
        100 * row["utterance_errors"] / row["utterances"]))
  speakers = tuple(sorted(
      set.intersection(*(set(of) for of in found.values())) if found else ()))
  means = {system: np.array([np.mean(of[name], axis=0) for name in speakers])
           for system, of in found.items()}
  column = lambda place: {
      system: values.reshape(-1, 2)[:, place] for system, values in means.items()}
  return Cells(speakers, column(0), column(1), len(rows), own)


def _whole(cells: Cells) -> bool:
  return (len(cells.speakers) > 1
          and {"baseline", "ensemble", HEADLINE} <= set(cells.accuracy))


def _table(cells: Cells) -> str:
  systems: dict[str, System] = {
      "baseline": "baseline", "ensemble": "ensemble", "distilled": HEADLINE}
  family = claims.Family({name: _against(cells.accuracy, systems[name])
                          for name in ("ensemble", "distilled")}, claims.MORE)
  lines = []
  for name, system in systems.items():
    shown = f"distilled, T = {HEADLINE:g}" if name == "distilled" else name
    more, p = family.line(name, "+.2f")
    less = better = ""
    if name in family.tests:
      less = words.difference(_against(cells.error, system), "+.2f")
      better = _BETTER[family.verdict(name)]
    accuracy, error = PAPER[name]
    lines.append([
        cells.label(shown, system), str(accuracy), _mean(cells.accuracy[system]),
        more, p, better, str(error), _mean(cells.error[system]), less])
  return (
      "Frame accuracy and utterance error in percent: mean ± 95% t-interval over "
      f"speakers left out (n; {', '.join(cells.speakers)}), of {cells.nets} nets "
      "and ensembles, averaged by speaker first. Differences are paired by "
      "speaker; p of their t-test, Holm-adjusted in the family of these "
      f"{len(family.tests)}. Utterance error stands in for the word error rate and "
      "is told for orientation.\n\n" + words.table(
          ["system", "frame accuracy, paper", "ours", "minus baseline", "p, Holm",
           "better?", "WER, paper", "utterance error, ours", "minus baseline"],
          lines))


def _share(cells: Cells) -> str:
  found = _kept(cells, HEADLINE)
  verdict = "cannot be judged, as the ensemble's gain may be none,"
  if found.low is not None and found.high is not None:
    verdict = claims.Claim(above=CLAIMED).judged(found.low, found.high)
  return (
      "Of the ensemble's gain in frame accuracy the distilled net keeps "
      f"{_told(found)}: ratio of mean gains, Fieller's 95% interval over speakers; "
      f"the paper's keeps {PAPER_KEPT:.0%}. The claim of more than {CLAIMED:.0%} "
      f"{verdict} here.\n")


def _by_t(cells: Cells) -> str:
  return words.table(
      ["T", "frame accuracy", "minus baseline", "of the ensemble's gain",
       "utterance error"],
      [[cells.label(f"{t:g}", t), _mean(cells.accuracy[t]),
        words.difference(_against(cells.accuracy, t), "+.2f"),
        _told(_kept(cells, t)), _mean(cells.error[t])]
       for t in temperatures(cells)])


def temperatures(cells: Cells) -> list[float]:
  """T of the distilled nets, in order."""
  return sorted(t for t in cells.accuracy if isinstance(t, float))


def _kept(cells: Cells, t: float) -> statistics.Ratio:
  """Share of the ensemble's gain that a distilled net keeps, a ratio of means.

  The mean of ratios would be ruled by the speaker for whom the ensemble gains
  least.
  """
  values = cells.accuracy
  return statistics.ratio(values[t] - values["baseline"],
                          values["ensemble"] - values["baseline"])


def _against(values: Mapping[System, np.ndarray], system: System):
  return statistics.paired(values[system], values["baseline"])


def _mean(values: np.ndarray) -> str:
  return words.interval(values.tolist())


def _told(found: statistics.Ratio) -> str:
  if found.low is None or found.high is None:
    return "a share that cannot be told"
  return f"{found.ratio:.0%} [{found.low:.0%}, {found.high:.0%}]"


def pictures(rows: Rows, folder: pathlib.Path) -> None:
  """`gains.png`: what each temperature gains over the baseline."""
  cells = gather(rows.get("utterances", ()))
  if _whole(cells):
    _draw(cells, folder / "gains.png")


def _draw(cells: Cells, path: pathlib.Path) -> None:
  # pylint: disable-next=g-import-not-at-top
  from kd_jax.report import canvas  # with matplotlib, which is slow to start

  @canvas.styled
  def drawn() -> bool:
    figure, ((axes,),) = canvas.figure(1, 1, (5, 3.4))
    ts = temperatures(cells)
    tests = [_against(cells.accuracy, t) for t in ts]
    ends = {}
    for name, one in zip(cells.speakers, _gains(cells, ts).T, strict=True):
      axes.plot(ts, one, color="0.65", linewidth=0.8)
      ends[name] = one[-1]
    axes.errorbar(
        ts, [test.difference for test in tests],
        [[test.difference - test.low for test in tests],
         [test.high - test.difference for test in tests]],
        color=canvas.COLOURS[0], marker="o", capsize=3,
        label="distilled, mean and 95% interval")
    axes.axhline(_against(cells.accuracy, "ensemble").difference,
                 color=canvas.COLOURS[1], label="ensemble, mean")
    axes.axhline(0, color="black", linewidth=0.8, label="baseline")
    axes.set_ylabel("frame accuracy minus baseline, points")
    canvas.log_temperature(axes, ts)
    axes.set_xlim(right=1.5 * ts[-1])  # room for the names
    _name(axes, 1.06 * ts[-1], ends)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left",
                  ncols=2)
    return canvas.save(figure, path)

  drawn()


def _name(axes: Any, x: float, ends: Mapping[str, float]) -> None:
  """Names beside the ends of lines, as far apart as letters are high."""
  low, high = axes.get_ylim()
  least, last = 0.045 * (high - low), float("-inf")
  for name, y in sorted(ends.items(), key=lambda each: each[1]):
    last = max(y, last + least)
    axes.text(x, last, name, fontsize=7, color="0.4", va="center")


def _gains(cells: Cells, ts: Sequence[float]) -> Any:
  """Of each temperature and speaker, `[T, speakers]`."""
  values = cells.accuracy
  return np.stack([values[t] - values["baseline"] for t in ts])
