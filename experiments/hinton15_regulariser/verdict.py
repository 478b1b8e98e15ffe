"""What the rows of `hinton15_regulariser` say, beside the paper."""

from collections.abc import Mapping, Sequence
import pathlib

from experiments import claims, sources, words
from experiments.protocol import Rows
from kd_jax.report import Row, canvas, statistics

# Per cent of frames right, training and test: all data; 3% with early stopping;
# 3% with soft targets.
PAPER = {"all": (63.4, 58.9), "hard": (67.3, 44.5), "soft": (65.4, 57.0)}
_PART = 0.03
_STOPPED, _FULL, _SOFT = (
    "hard labels, stopped early", "hard labels, to the end", "soft targets")

# Rows by part and way of training.
Cells = dict[tuple[float, str], list[Row]]


def told(
    rows: Rows, parts: Mapping[float, int], whole: Mapping[str, Sequence[Row]]
) -> str:
  """Accuracies, gaps, and the share of what the missing data cost."""
  cells = _cells(rows["table"], parts, whole)
  lines = [_line(part, way, done, cells) for (part, way), done in cells.items()]
  head = ["data, training", "paper: training, test %", "training %", "test %",
          "gap", "epochs", "share recovered"]
  return words.table(head, lines) + (
      f"\n{words.SPREAD} {words.APART} One model of all would not do, as runs on "
      "1% of the data vary several times more than those on all of it. Training "
      "accuracy is that of the last epoch, counted while training. Share "
      "recovered: (soft - hard, stopped early) / (all data, hard labels - hard, "
      "stopped early), of test accuracy, for each part of the "
      f"data and its teacher; the paper's is {_papers_share():.2f}.\n\n"
      + _verdict(cells))


def phrase(
    rows: Rows, parts: Mapping[float, int], whole: Mapping[str, Sequence[Row]]
) -> str:
  """The paper's three numbers as they came out here."""
  cells = _cells(rows["table"], parts, whole)
  found = {"hard": cells.get((_PART, _STOPPED)), "soft": cells.get((_PART, _SOFT)),
           "all the data": cells.get((1.0, _FULL))}
  return "on 3%: " + ", ".join(
      f"{name} {words.spread(done, _test(done), '.2f')}%"
      for name, done in found.items() if done)


def _cells(table, parts, whole) -> Cells:
  cells: Cells = {}
  for part in parts:
    mine = [row for row in table if row["overrides"]["transfer.part"] == part
            and row["failed"] is None]
    hard = [row for row in mine if not row["overrides"]["alpha"]]
    longest = max((row["overrides"]["epochs"] for row in hard), default=0)
    end = [row for row in hard if row["overrides"]["epochs"] == longest]
    # Where stopping early is not stopping, the two are one.
    cells[part, _STOPPED] = [row for row in hard if row not in end] or end
    cells[part, _FULL] = end
    cells[part, _SOFT] = [row for row in mine if row["overrides"]["alpha"]]
  cells[1.0, _FULL] = list(whole.get("small", ()))
  cells[1.0, _SOFT] = list(whole.get("distilled, T = 20", ()))
  return {key: done for key, done in cells.items() if done}


def _line(part: float, way: str, done: Sequence[Row], cells: Cells) -> list[str]:
  training = [100 * (1 - row["train_errors"] / row["train_examples"])
              for row in done]
  gap = [a - b for a, b in zip(training, _test(done), strict=True)]
  return [sources.linked(f"{100 * part:g}%, {way}", done), _papers(part, way),
          *(words.spread(done, values, ".2f")
            for values in (training, _test(done), gap)),
          str(done[0]["overrides"].get("epochs", "")),
          words.interval(_shares(part, cells), ".2f") if way == _SOFT else ""]


def _test(done: Sequence[Row]) -> list[float]:
  return [100 * (1 - row["test_errors"] / row["test_examples"]) for row in done]


def _by_part(cells: Cells, part: float, way: str) -> dict[int, float]:
  """Mean accuracy for each part of the data: its students are alike."""
  done = cells.get((part, way), [])
  groups: dict[int, list[float]] = {}
  for row, value in zip(done, _test(done), strict=True):
    groups.setdefault(row["overrides"].get("transfer.seed", 0), []).append(value)
  return {seed: statistics.summary(of).mean for seed, of in groups.items()}


def _shares(part: float, cells: Cells) -> list[float]:
  full = _test(cells.get((1.0, _FULL), []))
  if part == 1 or not full:
    return []
  whole = statistics.summary(full).mean
  hard, soft = (_by_part(cells, part, way) for way in (_STOPPED, _SOFT))
  return [(soft[seed] - hard[seed]) / (whole - hard[seed])
          for seed in sorted(hard.keys() & soft.keys())]


def _papers(part: float, way: str) -> str:
  name = {(1.0, _FULL): "all", (_PART, _STOPPED): "hard", (_PART, _SOFT): "soft"}
  if (part, way) not in name:
    return ""
  training, test = PAPER[name[part, way]]
  return f"{training}, {test}"


def _papers_share() -> float:
  hard, soft, full = (PAPER[name][1] for name in ("hard", "soft", "all"))
  return (soft - hard) / (full - hard)


def _verdict(cells: Cells) -> str:
  hard, soft = (_by_part(cells, _PART, way) for way in (_STOPPED, _SOFT))
  both = sorted(hard.keys() & soft.keys())
  if len(both) < 2:
    return "Not enough teachers yet for a verdict.\n"
  test = statistics.paired([soft[s] for s in both], [hard[s] for s in both])
  better = claims.Claim(above=0.0).judged(test.low, test.high)
  said = (f"On {100 * _PART:g}% of the data, soft targets minus hard labels "
          f"stopped early: {words.difference(test, '+.2f')} points of test "
          f"accuracy (over {test.n} teachers, p {words.p_value(test.p)}); that "
          f"soft targets do better {better} here.")
  shares = _shares(_PART, cells)
  if shares:
    said += (f" They recover {words.interval(shares, '.2f')} of what the missing "
             f"data cost, where the paper's recover {_papers_share():.2f}.")
  return said + "\n"


@canvas.styled
def draw(
    rows: Rows, parts: Mapping[float, int], whole: Mapping[str, Sequence[Row]],
    file: pathlib.Path
) -> bool:
  """Test accuracy against the share of the data, a line a way of training."""
  cells = _cells(rows["table"], parts, whole)
  drawn, ((axes,),) = canvas.figure(1, 1, (4.8, 3.2))
  for number, way in enumerate((_STOPPED, _FULL, _SOFT)):
    told = {part: words.summary(done, _test(done))
            for (part, each), done in sorted(cells.items()) if each == way}
    # Aside, or one of the two on hard labels would hide the other.
    canvas.means(axes, {100 * part * 1.04 ** (number - 1): each
                        for part, each in told.items()}, number, way)
  axes.set(xlabel="share of the training data (%, log scale)",
           ylabel="test accuracy (%)")
  canvas.log_values(axes, [100 * part for part in sorted({p for p, _ in cells})])
  axes.legend()
  return canvas.save(drawn, file)
