"""What the rows say: local fidelity on one side, deletion on the other.

What is tested is fixed here: VAE minus masks and VAE minus noise with the first
teacher, b = 1 and soft targets, paired by instance (the means over seeds), in five
measures; Holm's correction over these ten.
"""

from collections.abc import Callable, Sequence
import pathlib
from typing import Any

import numpy as np

from experiments import claims, sources, words
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
      f"{words.interval([read(row) for row in part], '.3f')} {sampler}"
      for sampler, part in found.items())
  constant = "".join(
      f", {np.mean([row[kind] for kind in _LOCAL]):.3f} to name the instance's "
      "class without any student" for row in rows.get("constant", ())
      if row["overrides"]["teacher"] == teachers[0])
  return (f"agreement on real neighbours {means(real)}{constant}; mean p of the "
          f"class while 0 to {plan.COUNTS[-1]} pixels go, less is better, "
          f"{means(lambda row: np.mean(row['deletion']))}")


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
      lines += [[sources.linked(f"{name}, {targets}", part), *_line(part)]
                ] if part else []
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
  both = {(other, key): _paired(
      rows, teacher, other, lambda row, key=key: row["each"][key])
      for other in ("masks", "noise") for key in MEASURES}
  family = claims.Family(
      {pair: instances for pair, (instances, _) in both.items()},
      {(other, key): claims.MORE if MEASURES[key][1] else claims.LESS
       for other, key in both})
  lines = []
  for (other, key), (_, seeds) in both.items():
    difference, p = family.line((other, key), "+.3f")
    better = {claims.HOLDS: "VAE", claims.FAILS: plan.SAMPLERS[other],
              claims.OPEN: "not shown"}[family.verdict((other, key))]
    lines.append([
        sources.linked(f"VAE minus {other}: {MEASURES[key][0]}", [
            row for each in ("vae", other) for row in _cell(rows, teacher, each)]),
        difference, words.difference(seeds, "+.3f"), p, better])
  sides = {"A VAE's neighbours make the student more faithful on real images near "
           "the instance": _LOCAL,
           "Its weights name the pixels that matter better": ("deletion",)}
  said = [(claim, other, claims.every(family.verdict((other, key)) for key in keys))
          for claim, keys in sides.items() for other in ("masks", "noise")]
  return "\n".join([
      f"**Differences**, teacher {teacher}, soft targets: 95% t-intervals over "
      f"{next(iter(both.values()))[0].n} instances (means over seeds), and over "
      f"seeds (means over instances); p over instances, corrected (Holm) for these "
      f"{len(both)}.\n",
      words.table(
          ["", "over instances", "over seeds", "p (Holm)", "better"], lines),
      *(f"- {claim} than {plan.SAMPLERS[other]}: {verdict}"
        f"{', it is worse' * (verdict == claims.FAILS)}."
        for claim, other, verdict in said), ""])


def _reaches(rows: Rows, teacher: str) -> str:
  reaches = sorted({row["overrides"]["b"] for row in rows["table"]
                    if row["overrides"]["teacher"] == teacher
                    and row["overrides"]["b"] is not None})
  lines = [[sources.linked(f"b = {b:g}, {targets}", part), *_line(part)]
           for targets in plan.TARGETS
           for b in reaches if (part := _cell(rows, teacher, "vae", targets, b))]
  return "\n".join([
      f"**How far the VAE reaches**, teacher {teacher}.\n",
      words.table(["", *_COLUMNS], lines)])


def _distances(rows: Rows, teacher: str) -> str:
  bounds = [f"{low + 1}-{high}" for low, high in zip((0, *plan.RANKS), plan.RANKS)]
  lines = []
  for kind, space in plan.NEAR.items():
    for sampler, name in plan.SAMPLERS.items():
      part = _cell(rows, teacher, sampler)
      ranks = np.mean([row[kind]["by_rank"] for row in part], axis=0)
      lines.append([sources.linked(f"{space}: {name}", part),
                    *(f"{each:.3f}" for each in ranks)])
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
