"""What the rows of `open_mnist` say, beside what is published."""

from collections.abc import Mapping, Sequence
import math

from experiments import claims, fair, sources, words
from experiments.protocol import Rows
from kd_jax.report import Row, statistics

Named = Mapping[str, Sequence[Row]]

# Errors of 10,000, and whose.
PUBLISHED = {
    "distortion-aware": "74 distilled (Hinton et al. 2015); 35 with 12 million "
                        "weights (Cireşan et al. 2010)",
    "hard labels, same views": "70 (Simard et al. 2003, one layer of 800)",
    "permutation-invariant": "57 (Rasmus et al. 2015; Pezeshki et al. 2016)"}
_MET = {claims.HOLDS: "met", claims.FAILS: "missed", claims.OPEN: "not shown"}
AIM = {"distortion-aware": 40, "permutation-invariant": 57}


def told(
    rows: Rows, named: Named,
    chosen: Mapping[str, tuple[fair.Setting, Sequence[fair.Setting]]]
) -> str:
  """Errors of each track and of its teachers, what was chosen, and the verdict."""
  lines = [_line(rows, name, done) for name, done in named.items() if done]
  columns = ["2x800", "published", "teacher", "its members",
             "errors of 10,000", "fewest to most", "NLL", "aim", "verdict"]
  return "\n".join([
      words.table(columns, lines),
      "Mean ± half the 95% t-interval over seeds, which holds the test set fixed; "
      "(n/1) is of n runs with one set of teachers. The aim is for the mean: met "
      "or missed where the interval says so.\n",
      fair.at_ends(chosen), *_difference(named)])


def phrase(named: Named) -> str:
  """The tracks' errors, in short."""
  return ", ".join(
      f"{name} {words.spread(named[name], _errors(named[name]))}"
      for name in AIM if named[name])


def _line(rows: Rows, name: str, done: Sequence[Row]) -> list[str]:
  errors = _errors(done)
  nll = statistics.summary([row["test_nll"] for row in done]).mean
  aim, met = AIM.get(name), ""
  if aim is not None:
    mean = statistics.summary(errors)
    at_most = claims.Claim(below=math.nextafter(aim, math.inf))
    met = _MET[at_most.judged(mean.low, mean.high)]
  return [sources.linked(name, done), PUBLISHED[name], *_teacher(rows, done),
          words.spread(done, errors), f"{min(errors)} to {max(errors)}",
          f"{nll:.4f}",
          "" if aim is None else f"at most {aim}", met]


def _teacher(rows: Rows, done: Sequence[Row]) -> list[str]:
  """Errors of the teacher that these rows had, and of its members."""
  nets = {row["fingerprint"]: row for stage in ("teachers", "plain_teachers")
          for row in rows.get(stage, ())}
  used = [nets[name] for name in dict.fromkeys(
      row["teacher_fingerprint"] for row in done) if name in nets]
  members = [nets[name]["test_errors"] for row in used
             for name in row.get("members", ()) if name in nets]
  listed = lambda errors: ", ".join(map(str, errors))
  return [listed([row["test_errors"] for row in used]), listed(members)]


def _difference(named: Named) -> list[str]:
  """What the teacher gives beyond the views, by seed."""
  taught, alone = (
      {row["seed"]: row["test_errors"] for row in named[name]}
      for name in ("distortion-aware", "hard labels, same views"))
  both = sorted(set(taught) & set(alone))
  if not both:
    return []
  gap = statistics.paired([taught[s] for s in both], [alone[s] for s in both])
  return ["Distilled minus hard labels, on the same views and paired by seed "
          f"(n = {gap.n}, for orientation): {gap.difference:+.1f} errors.\n"]


def _errors(done: Sequence[Row]) -> list[int]:
  return [row["test_errors"] for row in done]
