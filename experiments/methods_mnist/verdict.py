"""What the rows of `methods_mnist` say: every method against KD."""

from collections.abc import Mapping, Sequence
import pathlib

from experiments import words
from kd_jax.report import Row, canvas, names, statistics

Key = tuple[tuple[int, ...], str]
Named = Mapping[Key, Sequence[Row]]
_REFERENCE = "kd"
LEVEL = 0.05


def tests(named: Named) -> tuple[dict[Key, statistics.Paired], dict[Key, float]]:
  """Each method minus KD of its size, by seed; p corrected over the whole table."""
  found = {}
  for (widths, method), rows in named.items():
    reference = {row["seed"]: row["test_errors"]
                 for row in named.get((widths, _REFERENCE), ())}
    own = {row["seed"]: row["test_errors"] for row in rows}
    if method != _REFERENCE and (
        test := statistics.paired_by_seed(own, reference)):
      found[widths, method] = test
  return found, statistics.holm(
      {key: test.p for key, test in found.items() if test.p is not None})


def told(named: Named) -> str:
  """The verdict, and one table of all methods and sizes."""
  differences, adjusted = tests(named)
  lines = []
  for key, rows in named.items():
    widths, method = key
    test = differences.get(key)
    follows = [100 * row["agreement"] for row in rows
               if row.get("agreement") is not None]
    lines.append([
        f"{names.shown(widths)} {method}", _setting(rows[0]),
        words.interval([row["test_errors"] for row in rows]),
        words.interval(follows, ".2f"),
        words.interval([row["test_nll"] for row in rows], ".4f"),
        words.difference(test) if test else "",
        words.p_value(adjusted.get(key)) if test else ""])
  lines.sort(key=lambda line: line[0].split()[0], reverse=True)
  return f"**{phrase(named)}.**\n\n" + words.table(
      ["student, method", "chosen", "test errors", "agreement %", "NLL",
       f"minus {_REFERENCE}", "p (Holm)"], lines) + (
           "\nMean ± half the 95% t-interval over seeds (n). Differences in test "
           "errors are paired by seed; p is corrected by Holm over all rows of the "
           f"table. Better and worse: p < {LEVEL}.\n")


def phrase(named: Named) -> str:
  """Who is better than KD, and who is worse, by size."""
  differences, adjusted = tests(named)
  said = []
  for widths in dict.fromkeys(widths for widths, _ in named):
    clear = {method: test.difference for (own, method), test in differences.items()
             if own == widths and adjusted.get((own, method), 1.0) < LEVEL}
    better = sorted(method for method, gap in clear.items() if gap < 0)
    worse = sorted(method for method, gap in clear.items() if gap > 0)
    said.append(f"{names.shown(widths)}: better than KD {_listed(better)}, "
                f"worse {_listed(worse)}")
  return "; ".join(said)


@canvas.styled
def draw(named: Named, file: pathlib.Path) -> bool:
  """Differences from KD with their intervals, a panel a size; filled if sure."""
  differences, adjusted = tests(named)
  sizes = sorted({widths for widths, _ in differences}, reverse=True)
  if not sizes:
    return False
  most = max(sum(own == widths for own, _ in differences) for widths in sizes)
  drawn, axes = canvas.figure(
      1, len(sizes), (0.6 + 3.4 * len(sizes), 1.1 + 0.2 * most))
  for widths, at in zip(sizes, axes[0]):
    found = sorted(((test.difference, method, test)
                    for (own, method), test in differences.items()
                    if own == widths), key=lambda each: each[:2])
    for place, (difference, method, test) in enumerate(found):
      canvas.difference(at, place, difference, test.low, test.high,
                        sure=adjusted.get((widths, method), 1.0) < LEVEL)
    at.axvline(0, color="black", linewidth=0.8)
    at.set_yticks(range(len(found)), [method for _, method, _ in found])
    at.set(title=names.shown(widths), ylim=(len(found) - 0.4, -0.6),
           xlabel=f"test errors minus {_REFERENCE}'s\n"
                  f"95% interval; filled: p (Holm) < {LEVEL},\n"
                  "blue better, orange worse")
  return canvas.save(drawn, file)


def _setting(row: Row) -> str:
  """What was chosen for a row, in words."""
  own = {key: value for key, value in row["overrides"].items()
         if key not in ("seed", "method", "student.widths")}
  return names.label(own, names.columns(own))


def _listed(methods: Sequence[str]) -> str:
  return ", ".join(methods) if methods else "none"
