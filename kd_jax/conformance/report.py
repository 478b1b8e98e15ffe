"""What is told of a judgement: a table, or JSON."""

from collections.abc import Mapping, Sequence
import importlib.metadata
import platform
import sys
from typing import Any

from kd_jax.conformance.adapters import Adapted
from kd_jax.conformance.properties import Row

SCHEMA = 1
VERDICTS = {True: "holds", False: "FAILS", None: "not judged"}
# Imported name -> distribution, of what a target may stand on.
_LIBRARIES = {
    "jax": "jax", "keras": "keras", "numpy": "numpy", "optax": "optax",
    "tensorflow": "tensorflow", "torch": "torch",
    "torchdistill": "torchdistill", "tunix": "google-tunix",
}


def holds(rows: Sequence[Row]) -> bool:
  """Whether every row holds that there is something to judge of."""
  return all(row.finding.holds or row.finding.absent for row in rows)


def as_json(target: str, loss: Adapted, asked: Mapping[str, Any],
            rows: Sequence[Row]) -> dict[str, Any]:
  """The judgement as plain values, with the versions that it is true of."""
  return {
      "schema": SCHEMA, "target": target, **asked,
      "framework": loss.framework, "holds": holds(rows),
      "versions": versions(),
      "rows": [{
          "property": row.name, "expected": row.rule.expected,
          "verdict": VERDICTS[row.finding.holds].lower(),
          "found": row.finding.found,
          # A number that is not finite has no place in JSON.
          "numbers": {name: float(f"{value:.6g}") if abs(value) < 1e300
                      else None for name, value in row.finding.numbers.items()},
          "effect": row.rule.effect,
          **({"remedy": row.rule.remedy} if _remedied(row) else {}),
      } for row in rows],
  }


def _remedied(row: Row) -> bool:
  return row.finding.holds is False and bool(row.rule.remedy)


def versions() -> dict[str, str]:
  """Of Python and of those libraries that the target brought in."""
  found = {"python": platform.python_version()}
  for name, distribution in _LIBRARIES.items():
    if name in sys.modules:
      try:
        found[distribution] = importlib.metadata.version(distribution)
      except importlib.metadata.PackageNotFoundError:
        continue  # Run from its source.
  return found


def show(target: str, loss: Adapted, question: str, rows: Sequence[Row],
         screen: Any) -> None:
  """Prints a row a property, and the verdict."""
  screen.prose(
      f"{target}, as {loss.framework}: {question}?",
      ["property", "expected, found, and what a failure does to training"],
      [[f"{row.name}\n{VERDICTS[row.finding.holds]}",
        f"expected  {row.rule.expected}\nfound     {row.finding.found}\n"
        f"{'so' if row.finding.holds is False else 'or else':<8}  {row.rule.effect}"
        + (f"\nremedy    {row.rule.remedy}" if _remedied(row) else "")]
       for row in rows])
  failed = [row.name for row in rows if row.finding.holds is False]
  open_ = [row.name for row in rows if row.finding.holds is None]
  fail = "fails" if len(failed) == 1 else "fail"
  line = f"{len(failed)} of {len(rows)} {fail}: {', '.join(failed)}" if failed \
      else f"{len(rows) - len(open_)} of {len(rows)} hold"
  screen.say(line + (f"; not judged: {', '.join(open_)}" if open_ else ""))
  also = [row.name for row in rows
          if row.finding.holds is False and row.rule.of_kl]
  if also and "direction" in failed + open_:
    screen.say(
        "where another objective than KL(teacher || student) is meant, "
        f"{', '.join(also)} may fail by its nature; the other rows judge any loss")
