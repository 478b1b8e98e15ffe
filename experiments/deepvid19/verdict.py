"""What the rows say: local fidelity on one side, deletion on the other.

What is tested is fixed here: VAE minus masks and VAE minus noise with the first
teacher, b = 1 and soft targets, paired by instance (the means over seeds), in five
measures; Holm's correction over these ten.
"""

from collections.abc import Callable, Sequence
import pathlib
from typing import Any

import numpy as np

from experiments import words
from experiments.deepvid19 import plan
from experiments.protocol import Rows
from kd_jax.report import Row, canvas, statistics

# By their name in a row's `each`; whether more is better.
MEASURES = {"own": ("own samples", True),
            **{kind: (f"real, {name}", True) for kind, name in plan.NEAR.items()},
            "deletion": ("p after deletion", False)}
_LOCAL = tuple(plan.NEAR)
_COLUMNS = ("agreement, own samples", "KL", "R2",
            *(f"agreement, {name}" for name in plan.NEAR.values()), "KL, real",
            "R2, real", "p after deletion", "stability")


def conclude(rows: Rows) -> str:
  """Tables of fidelity, deletion and stability, and the tests."""
  teachers = _teachers(rows)
  if not teachers or any(not _cell(rows, teachers[0], s) for s in plan.SAMPLERS):
    return "Not all samplers have rows yet.\n"
  return "\n".join([
      *(_samplers(rows, teacher) for teacher in teachers
        if all(_cell(rows, teacher, s) for s in plan.SAMPLERS)),
      _tested(rows, teachers[0]), _reaches(rows, teachers[0]),
      _distances(rows, teachers[0])])


def status(rows: Rows) -> str:
  """Agreement on real neighbours and deletion, in a phrase."""
  teachers = _teachers(rows)
  found = {sampler: _cell(rows, teacher, sampler)
           for teacher in teachers[:1] for sampler in plan.SAMPLERS}
  if not found or not all(found.values()):
    return "not all samplers yet"
  real = lambda row: np.mean([row[kind]["agreement"] for kind in _LOCAL])
  means = lambda read: ", ".join(
      f"{np.mean([read(row) for row in part]):.3f} {sampler}"
      for sampler, part in found.items())
  return (f"agreement on real neighbours {means(real)}; p of the class while 90 "
          f"pixels go {means(lambda row: np.mean(row['deletion']))}")


def pictures(rows: Rows, folder: pathlib.Path) -> None:
  """Deletion curves, fidelity against distance, and what is explained how."""
  teachers = _teachers(rows)
  if teachers and all(_cell(rows, teachers[0], s) for s in plan.SAMPLERS):
    _draw_curves(rows, teachers[0], folder / "curves.png")
  if rows.get("examples"):
    _draw_examples(rows["examples"], folder / "neighbours.png")


def _teachers(rows: Rows) -> list[str]:
  return list(dict.fromkeys(
      row["overrides"]["teacher"] for row in rows.get("table", ())))


def _cell(rows: Rows, teacher: str, sampler: str, targets: str = "soft",
          b: float = 1.0) -> list[Row]:
  """The rows of a cell, by seed."""
  wanted = {"teacher": teacher, "sampler": sampler, "targets": targets,
            "b": b if sampler == "vae" else None}
  return sorted((row for row in rows["table"] if all(
      row["overrides"][key] == value for key, value in wanted.items())),
      key=lambda row: row["seed"])


def _line(part: Sequence[Row]) -> list[str]:
  """A line of numbers: means over seeds and their intervals."""
  get = lambda read, form=".3f": words.interval([read(row) for row in part], form)
  alike = [row["stability"] for row in part if row["stability"] is not None]
  return [
      get(lambda row: row["own"]["agreement"]), get(lambda row: row["own"]["kl"]),
      get(lambda row: row["own"]["r2"], ".2f"),
      *(get(lambda row, kind=kind: row[kind]["agreement"]) for kind in _LOCAL),
      get(lambda row: np.mean([row[kind]["kl"] for kind in _LOCAL]), ".2f"),
      get(lambda row: np.mean([row[kind]["r2"] for kind in _LOCAL]), ".2f"),
      get(lambda row: np.mean(row["deletion"])),
      f"{np.mean(alike):.2f}" if alike else ""]


def _samplers(rows: Rows, teacher: str) -> str:
  first = _cell(rows, teacher, "vae")[0]
  lines = []
  for targets in plan.TARGETS:
    for sampler, name in plan.SAMPLERS.items():
      part = _cell(rows, teacher, sampler, targets)
      lines += [[f"{name}, {targets}", *_line(part)]] if part else []
  chance = [float(np.mean(row["deletion_random"]))
            for row in _cell(rows, teacher, "vae")]
  return "\n".join([
      f"**Teacher {teacher}** ({first['teacher_errors']} test errors), "
      f"{first['instances']} instances, b = 1. Mean ± half the 95% t-interval over "
      "seeds (n), of the means over instances.\n",
      words.table(["neighbours, targets", *_COLUMNS], lines),
      f"Real neighbours are the {plan.REAL} nearest training images in each "
      "space; their KL and R2 are means of the three. Both are at T; "
      "R2 below 0 is worse than the mean. p after deletion is the mean p of the "
      f"class while 0 to {plan.COUNTS[-1]} of the pixels of the largest weight x "
      "pixel go, less is better; while inked pixels go at random it is "
      f"{words.interval(chance, '.3f')}. Stability is the rank correlation of the "
      f"maps of two seeds.{_constant(rows, teacher)}\n"])


def _constant(rows: Rows, teacher: str) -> str:
  """What agreement on real neighbours is worth."""
  found = [row for row in rows.get("constant", ())
           if row["overrides"]["teacher"] == teacher]
  if not found:
    return ""
  each = ", ".join(f"{found[0][kind]:.3f} ({name})"
                   for kind, name in plan.NEAR.items())
  return (" Always to name the class of the instance, without any student, agrees "
          f"on {each}, the latent being that of seed 0.")


def _paired(
    rows: Rows, teacher: str, other: str, get: Callable[[Row], Any]
) -> tuple[statistics.Paired, statistics.Paired]:
  """VAE minus another sampler: over instances, and over seeds."""
  one, two = (np.array([get(row) for row in _cell(rows, teacher, sampler)])
              for sampler in ("vae", other))
  number = min(len(one), len(two))
  one, two = one[:number], two[:number]
  return (statistics.paired(one.mean(axis=0), two.mean(axis=0)),
          statistics.paired(one.mean(axis=1), two.mean(axis=1)))


def _tested(rows: Rows, teacher: str) -> str:
  tests = {(other, key): _paired(
      rows, teacher, other, lambda row, key=key: row["each"][key])
      for other in ("masks", "noise") for key in MEASURES}
  known = {pair: both[0].p for pair, both in tests.items() if both[0].p is not None}
  adjusted = statistics.holm(known)
  lines, verdicts = [], {}
  for (other, key), (instances, seeds) in tests.items():
    name, more = MEASURES[key]
    p = adjusted.get((other, key))
    good = "not shown"
    if p is not None and p < 0.05:
      good = "VAE" if (instances.difference > 0) == more else plan.SAMPLERS[other]
    verdicts[other, key] = good
    lines.append([
        f"VAE minus {other}: {name}", words.difference(instances, "+.3f"),
        words.difference(seeds, "+.3f"), words.p_value(p), good])
  return "\n".join([
      f"**Differences**, teacher {teacher}, soft targets: 95% t-intervals over "
      f"{next(iter(tests.values()))[0].n} instances (means over seeds), and over "
      f"seeds (means over instances); p over instances, corrected (Holm) for these "
      f"{len(tests)}.\n",
      words.table(
          ["", "over instances", "over seeds", "p (Holm)", "better"], lines),
      _both_sides(verdicts)])


def _both_sides(verdicts: dict[tuple[str, str], str]) -> str:
  """The two sides, a sentence each and sampler."""
  sides = {"A VAE's neighbours make the student more faithful on real images near "
           "the instance": _LOCAL,
           "Its weights name the pixels that matter better": ("deletion",)}
  lines = []
  for claim, measures in sides.items():
    for other in ("masks", "noise"):
      found = [verdicts[other, key] for key in measures]
      wins, losses = found.count("VAE"), found.count(plan.SAMPLERS[other])
      state = ("holds" if wins == len(found) else
               "does not hold, it is worse" if losses == len(found) else
               "is not shown" if not wins and not losses else
               f"holds in {wins} of {len(found)} spaces, is worse in {losses}")
      lines.append(f"- {claim} than {plan.SAMPLERS[other]}: {state}.")
  return "\n".join(lines) + "\n"


def _reaches(rows: Rows, teacher: str) -> str:
  reaches = sorted({row["overrides"]["b"] for row in rows["table"]
                    if row["overrides"]["teacher"] == teacher
                    and row["overrides"]["b"] is not None})
  lines = [[f"b = {b:g}, {targets}", *_line(part)] for targets in plan.TARGETS
           for b in reaches if (part := _cell(rows, teacher, "vae", targets, b))]
  return "\n".join([
      f"**How far the VAE reaches**, teacher {teacher}.\n",
      words.table(["", *_COLUMNS], lines)])


def _distances(rows: Rows, teacher: str) -> str:
  bounds = [f"{low + 1}-{high}" for low, high in zip((0, *plan.RANKS), plan.RANKS)]
  lines = []
  for kind, space in plan.NEAR.items():
    for sampler, name in plan.SAMPLERS.items():
      ranks = np.mean([row[kind]["by_rank"]
                       for row in _cell(rows, teacher, sampler)], axis=0)
      lines.append([f"{space}: {name}", *(f"{each:.3f}" for each in ranks)])
  return "\n".join([
      f"**Agreement against distance**, teacher {teacher}, soft targets: real "
      "neighbours by their rank, nearest first.\n",
      words.table(["", *bounds], lines)])


@canvas.styled
def _draw_curves(rows: Rows, teacher: str, file: pathlib.Path) -> bool:
  drawn, axes = canvas.figure(1, 1 + len(plan.NEAR), (10.4, 2.8))
  first, *others = axes[0]
  for number, (sampler, name) in enumerate(plan.SAMPLERS.items()):
    part, style = _cell(rows, teacher, sampler), canvas.style(number)
    first.plot(plan.COUNTS, np.mean([row["deletion"] for row in part], axis=0),
               markersize=4, label=name, **style)
    for panel, kind in zip(others, plan.NEAR):
      panel.plot(plan.RANKS, np.mean(
          [row[kind]["by_rank"] for row in part], axis=0), markersize=4, **style)
  first.plot(plan.COUNTS, np.mean(
      [row["deletion_random"] for row in _cell(rows, teacher, "vae")], axis=0),
      color=canvas.GREY, linestyle="--", label="inked pixels at random")
  first.set(xlabel="pixels deleted", ylabel="mean p of the class", ylim=(0, 1))
  drawn.legend(loc="outside upper center", ncols=4)
  for panel, name in zip(others, plan.NEAR.values()):
    panel.set(xlabel="rank of real neighbours", title=name)
  others[0].set(ylabel="agreement")
  return canvas.save(drawn, file)


@canvas.styled
def _draw_examples(examples: Sequence[Row], file: pathlib.Path) -> bool:
  drawn, axes = canvas.figure(len(examples), 11, (11.5, 1.4 * len(examples)))
  for panels, row in zip(axes, examples, strict=True):
    side = round(len(row["image"])**0.5)
    square = lambda flat, side=side: np.reshape(flat, (side, side))
    for panel, flat in zip(panels, [row["image"], *row["neighbours"]]):
      panel.imshow(square(flat), cmap="gray_r", vmin=0, vmax=255)
    panels[0].set(title=f"a {row['label']}")
    panels[1].set(title="neighbours")
    for panel, flat, c, p in zip(panels[9:], row["maps"], row["classes"], row["p"]):
      most = max(np.abs(flat).max(), 1)
      panel.imshow(square(flat), cmap="RdBu_r", vmin=-most, vmax=most)
      panel.set(title=f"for {c} ({p:.2f})")
    for panel in panels:
      panel.set_axis_off()
  return canvas.save(drawn, file)
