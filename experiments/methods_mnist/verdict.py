"""What the rows of `methods_mnist` say: every method against KD."""

from collections.abc import Mapping, Sequence
import pathlib

from experiments import claims, sources, words
from kd_jax.report import Row, canvas, dots, names, statistics

Key = tuple[tuple[int, ...], str]
Named = Mapping[Key, Sequence[Row]]
_REFERENCE = "kd"


def family(named: Named) -> claims.Family:
  """Each method minus KD of its size, by seed; p corrected over the whole table."""
  errors = {key: {row["seed"]: row["test_errors"] for row in rows}
            for key, rows in named.items()}
  tests = {
      (widths, method): statistics.paired_by_seed(
          own, errors.get((widths, _REFERENCE), {}))
      for (widths, method), own in errors.items() if method != _REFERENCE}
  return claims.Family({key: test for key, test in tests.items() if test})


def told(named: Named) -> str:
  """The verdict, and one table of all methods and sizes."""
  judged, lines = family(named), []
  for key in sorted(named, key=lambda key: names.shown(key[0]), reverse=True):
    rows = named[key]
    follows = [100 * row["agreement"] for row in rows
               if row.get("agreement") is not None]
    lines.append([
        sources.linked(f"{names.shown(key[0])} {key[1]}", rows), _setting(rows[0]),
        _errors(rows), words.spread(rows, follows, ".2f") if follows else "",
        words.spread(rows, [row["test_nll"] for row in rows], ".4f"),
        *judged.line(key)])
  return f"**{phrase(named)}.**\n\n" + words.table(
      ["student, method", "chosen", "test errors", "agreement %", "NLL",
       f"minus {_REFERENCE}", "p (Holm)"], lines) + (
           f"\n{words.SPREAD} Each is Student's t over seeds. Differences in test "
           "errors are paired by seed; p is corrected by Holm over all rows of the "
           f"table. Better and worse: p < {claims.LEVEL}.\n")


def phrase(named: Named) -> str:
  """Who is better than KD, and who is worse, by size."""
  judged = family(named)
  listed = lambda widths, verdict: ", ".join(sorted(
      f"{method} {judged.line((own, method))[0]}"
      for own, method in judged.having(verdict) if own == widths)) or "none"
  return "; ".join(
      f"{names.shown(widths)}: KD {_errors(named.get((widths, _REFERENCE), ()))}, "
      f"better {listed(widths, claims.HOLDS)}, worse {listed(widths, claims.FAILS)}"
      for widths in dict.fromkeys(widths for widths, _ in named))


def _errors(rows: Sequence[Row]) -> str:
  return words.spread(rows, [row["test_errors"] for row in rows])


@canvas.styled
def draw(named: Named, file: pathlib.Path) -> bool:
  """Differences from KD with their intervals, a panel a size."""
  judged = family(named)
  sizes = sorted({widths for widths, _ in judged.tests}, reverse=True)
  if not sizes:
    return False
  found = {names.shown(widths): sorted((
      dots.compared(key[1], test, sure=judged.verdict(key) != claims.OPEN)
      for key, test in judged.tests.items() if key[0] == widths),
                                       key=lambda dot: (dot.value, dot.label))
           for widths in sizes}
  drawn = dots.alone(
      found, f"test errors minus {_REFERENCE}'s\n{dots.COMPARED}", zero=True)
  return canvas.save(drawn, file)


def _setting(row: Row) -> str:
  """What was chosen for a row, in words."""
  own = {key: value for key, value in row["overrides"].items()
         if key not in ("seed", "method", "student.widths")}
  return names.label(own, names.columns(own))
