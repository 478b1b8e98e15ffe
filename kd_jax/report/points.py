"""Rows of a sweep -> a record a point, with statistics over its seeds.

A point is all rows whose overrides are alike but for the seeds, and their net,
method and data too. Keys alike in all points are `common`; the others are columns.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
import json
import math
from typing import Any

import kd_jax
from kd_jax.core.words import counted
from kd_jax.report import clustered, compare, names, statistics
from kd_jax.report.main_table import Row
from kd_jax.report.sweep import Point, Sweep

# The version of numbers of rows from before a row said it.
_UNSAID = 2
_NOTES = 12

# By what makes a point, its rows.
Groups = dict[Any, list[Row]]


def records(
    rows: Iterable[Row], *, reference: Mapping[str, Any] | None = None
) -> list[Point]:
  """The points of `gather`."""
  return list(gather(rows, reference=reference).points)


def gather(
    rows: Iterable[Row], *, reference: Mapping[str, Any] | None = None
) -> Sweep:
  """Gathers the rows of a sweep into points, whatever order they come in.

  Args:
    rows: Rows with overrides.
    reference: Overrides (keys by their full or short names) of the point that
      others are compared with; of several, each point takes the one whose other
      settings are its own.

  Raises:
    UserError: If no point is the reference.
  """
  distinct, notes = _distinct(rows)
  groups, unclear = _apart(_grouped(distinct))
  distinct = [row for group in groups.values() for row in group]
  settings = [names.setting(group[0]) for group in groups.values()]
  keys, common = _varying(settings)
  teachers = sorted({
      teacher for row in distinct if (teacher := names.teacher(row))})
  cells = clustered.Cells({key: _runs(group) for key, group in groups.items()})
  points = [
      _point({key: setting[key] for key in keys if key in setting}, group, name,
             cells)
      for setting, (name, group) in zip(settings, groups.items())]
  points.sort(key=lambda point: [
      names.order(point.values.get(key)) for key in keys])
  notes += _twice(points, keys) + _parts(points)
  if reference is not None:
    points = compare.compared(points, reference, keys, common, cells)
  notes += (unclear + _machines(distinct) + _numerics(distinct)
            + _test_set(distinct))
  study = ", ".join(sorted({str(row.get("study", "")) for row in distinct}))
  return Sweep(
      study, tuple(points), tuple(keys), common, tuple(teachers),
      dict(reference) if reference is not None else None, tuple(notes),
      cells.model.described() if cells.model else None)


def _machines(rows: Sequence[Row]) -> list[str]:
  """A note where rows come from several kinds of machine, or versions."""
  jax_of = lambda row: str((row.get("versions") or {}).get("jax"))
  kinds = {(row["device"], row.get("cores"), jax_of(row))
           for row in rows if row.get("device")}
  if len(kinds) < 2:
    return []
  fields = sorted(
      f"{device}, {cores} cores, jax {jax}" for device, cores, jax in kinds)
  return ["Runs are of several machines or versions ("
          f"{names.some(fields, '; ')}): paired runs may differ by more than their "
          "settings."]


def _numerics(rows: Sequence[Row]) -> list[str]:
  """A note where rows are of numbers that the same command gives no more."""
  made = Counter(row.get("numerics", _UNSAID) for row in rows)
  if made.keys() == {kd_jax.NUMERICS}:
    return []
  each = [f"by version {version}" + (f" ({made[version]:,})" * (len(made) > 1))
          for version in sorted(made)]
  runs = "The run was" if len(rows) == 1 else f"All {len(rows):,} runs were"
  return [f"{runs} made {names.some(each)} of the numerics; this is version "
          f"{kd_jax.NUMERICS}, and each gives other numbers for the same settings "
          "(docs/reliability.md)."]


def _test_set(rows: Sequence[Row]) -> list[str]:
  """A note where numbers called of the test set are of held-out examples."""
  judged = sum(row.get("test_set") == "heldout" for row in rows)
  if not judged:
    return []
  of = "" if judged == len(rows) else f" of {counted(judged, 'run')}"
  return [f"The test set was not looked at: test errors{of} are of the held-out "
          "training examples (data.test=heldout)."]


def _distinct(rows: Iterable[Row]) -> tuple[list[Row], list[str]]:
  """Rows in an order of their own, one a fingerprint; notes on the others."""
  text = lambda row: json.dumps(row, sort_keys=True, default=list)
  copies: dict[str, list[Row]] = {}
  for row in rows:
    copies.setdefault(str(row.get("fingerprint") or text(row)), []).append(row)
  # The content decides, not the place in the file: of a run that failed and was
  # then repeated, the one that ended.
  rank = lambda row: (
      row.get("failed") is not None, row.get("seed") or 0, text(row))
  found = {name: group[0] if len(group) == 1 else min(group, key=rank)
           for name, group in copies.items()}
  differ = sorted({
      name[:8] for name, group in copies.items() for row in group
      if row.get("failed") is None
      and row.get("test_errors") != found[name].get("test_errors")})
  notes = []
  if differ:
    notes.append("Recorded twice with different test errors, counted once: "
                 f"{names.some(differ)}.")
  by_run = lambda name: (str(found[name].get("teacher_fingerprint") or ""),
                         found[name].get("seed") or 0, name)
  return [found[name] for name in sorted(found, key=by_run)], notes


def _grouped(rows: Iterable[Row]) -> Groups:
  """Rows by what makes their point."""
  groups: Groups = {}
  for row in rows:
    groups.setdefault(names.identity(row), []).append(row)
  return groups


def _apart(groups: Groups) -> tuple[Groups, list[str]]:
  """The points with what their rows are, where that differs, as settings.

  Rows of other programs may have it in these fields alone. Their `row` is no such
  field: a sweep's has the teacher's seed in it.
  """
  notes = []
  for name in ("method", "data_sha256"):
    known = [{row.get(name) for row in group} for group in groups.values()]
    if any(len(found - {None}) > 1 for found in known):
      # Of a hash its beginning.
      own = lambda row, name=name: {
          name: row.get(name, "unknown")[:8 if name == "data_sha256" else None]}
      groups = _grouped(row | {"overrides": own(row) | row["overrides"]}
                        for group in groups.values() for row in group)
    elif name == "data_sha256" and (mixed := sum(len(each) > 1 for each in known)):
      notes.append(f"In {mixed:,} of the points some rows, of earlier versions, do "
                   "not say of which data they are.")
  return groups, notes


def _twice(points: Iterable[Point], keys: Sequence[str]) -> list[str]:
  """A note where a point has a seed twice: another config lies beneath."""
  notes = []
  for point in points:
    if len(point.runs) < 2:
      continue
    runs = [(row.get("teacher_fingerprint"), row.get("seed")) for row in point.good]
    if len(set(runs)) < len(runs):
      seeds = sorted({
          seed or 0 for (_, seed), times in Counter(runs).items() if times > 1})
      where = names.label(point.values, keys) or "all runs"
      notes.append(
          f"{where}: seeds {names.some(seeds)} ran under several fingerprints "
          "(another config or version); all are in its mean.")
  if len(notes) > _NOTES:
    more = counted(len(notes) - _NOTES, "more point")
    return [*notes[:_NOTES], f"So it is with {more}."]
  return notes


def _parts(points: Iterable[Point]) -> list[str]:
  """A note where runs without a teacher share parts of the data."""
  part = lambda row: row["overrides"].get("transfer.seed")
  number = sum(not point.teachers and 1 < len({*map(part, point.good)}) < point.n
               for point in points)
  return [f"In {counted(number, 'point')} without a teacher several runs see the "
          "same part of the data (transfer.seed): their ± is over runs, and too "
          "small for other parts."] if number else []


def _varying(
    settings: list[dict[str, Any]]
) -> tuple[list[str], dict[str, Any]]:
  """The keys that vary, in order, and those alike in all settings."""
  everything = names.columns(key for one in settings for key in one)
  common = {
      key: value for key, value in (settings[0] if settings else {}).items()
      if all(key in one and names.same(one[key], value) for one in settings)}
  return [key for key in everything if key not in common], common


def _runs(rows: Iterable[Row]) -> list[clustered.Run]:
  """The runs of a point that were tested, by teacher."""
  runs = [
      clustered.Run(names.teacher(row), row.get("seed"), row["test_errors"])
      for row in rows
      if row.get("failed") is None and row.get("test_errors") is not None]
  return sorted(runs, key=lambda run: str(run.teacher or ""))


def _mean(rows: Sequence[Row], name: str) -> float | None:
  if len(rows) == 1:  # As most points have where there are many.
    value = rows[0].get(name)
    return None if value is None else float(value)
  values = [value for row in rows if (value := row.get(name)) is not None]
  # In whatever order: some means lie halfway between two digits.
  return math.fsum(values) / len(values) if values else None


def _point(
    values: dict[str, Any], runs: list[Row], key: Any, cells: clustered.Cells
) -> Point:
  """The point of these runs, which is a cell of the sweep's."""
  good = [row for row in runs if row.get("failed") is None]
  fields: dict[str, Any] = {
      "n": len(good), "failed": len(runs) - len(good),
      "teachers": len({names.teacher(row) for row in good} - {None}), "cell": key,
      **{name: _mean(good, key) for name, key in (
          ("nll", "test_nll"), ("ece", "test_ece"), ("agreement", "agreement"),
          ("seconds", "seconds"), ("heldout", "heldout_errors"))}}
  tested = [row for row in good if row.get("test_errors") is not None]
  if tested:
    fields |= _errors(tested, key, cells)
  fields |= _heldout(good)
  return Point(values, tuple(runs), **fields)


def _errors(rows: list[Row], key: Any, cells: clustered.Cells) -> dict[str, Any]:
  """Mean test errors of runs, and how far to trust it."""
  found = cells.mean(key)
  fields: dict[str, Any] = {
      "errors": found.mean, "low": found.low, "high": found.high}
  if found.high is not None:
    fields["over"] = cells.over(key)
  if cells.several:
    fields |= {"between_sd": found.between_sd, "within_sd": found.within_sd}
  else:
    fields["sd"] = found.within_sd
  examples = rows[0].get("test_examples")
  if examples:
    fields |= {"examples": examples, "binomial": statistics.binomial_error(
        fields["errors"], examples)}
  return fields


def _heldout(rows: list[Row]) -> dict[str, Any]:
  """The epoch with the fewest mean held-out errors."""
  fields: dict[str, Any] = {}
  sizes = [row["heldout_examples"] for row in rows if row.get("heldout_examples")]
  if sizes:
    fields["heldout_examples"] = sizes[0]
  curves = [row["heldout_curve"] for row in rows if row.get("heldout_curve")]
  if curves:
    # One epoch for all seeds: the best of each would flatter twice.
    means = [sum(errors) / len(errors) for errors in zip(*curves)]
    fields["heldout_best"] = min(means)
    fields["best_epoch"] = means.index(min(means)) + 1
  return fields
