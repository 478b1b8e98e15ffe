"""A student beside its teacher: how alike their taps are, and where they look."""

from collections.abc import Mapping
import itertools
from typing import Any

from kd_jax.report import canvas

# What `inspected.json` holds: of each net by its name, `cka` and `examples`.
Found = Mapping[str, Mapping[str, Any]]


@canvas.styled
def alignment(found: Found) -> Any:
  """CKA of every tap of a student with every tap of its teacher, below each other.
  """
  if not found:
    return None
  tables = [(f"{name}, {when} training", net["cka"][when])
            for name, net in found.items() for when in ("before", "after")]
  own = max((table for _, table in tables), key=len)
  others = max((row for _, table in tables for row in table.values()), key=len)
  longest = lambda taps: 0.065 * max(map(len, taps))
  drawn, parts = canvas.stacked(
      [(title, [], 1) for title, _ in tables],
      height=0.7 + longest(others) + max(1.2, 0.28 * len(own)),
      width=max(canvas.WIDTH, 0.7 + longest(own) + 0.4 * len(others)))
  for (title, table), (_, (at,)) in zip(tables, parts):
    values = [[float("nan") if value is None else value for value in row.values()]
              for row in table.values()]
    canvas.cells(at, values, digits=2, limits=(0, 1))
    across = [*next(iter(table.values()))]
    at.set_xticks(range(len(across)), across, rotation=90, fontsize=8)
    at.set_yticks(range(len(table)), list(table), fontsize=8)
    at.set(title=canvas.wrapped(title), xlabel="tap of the teacher",
           ylabel="tap of the student")
  return drawn


@canvas.styled
def attention(found: Found) -> Any:
  """Mean over channels of squared maps, of a few test images, stage by stage."""
  shown = [(name, example) for name, net in found.items()
           for example in net.get("examples") or []]
  if not shown:
    return None
  # All nets' first stages beside each other, then their second ones.
  columns = [(net, tap) for both in itertools.zip_longest(*(
      [(net, tap) for tap in taps] for net, taps in shown[0][1].items()
      if net.startswith(("student", "teacher"))))
             for net, tap in filter(None, both)]
  drawn, axes = canvas.figure(
      len(shown), 1 + len(columns),
      (max(canvas.WIDTH, 0.9 * (1 + len(columns))), 0.9 * len(shown) + 0.5))
  for (name, example), (picture, *maps) in zip(shown, axes):
    canvas.picture(picture, example["image"])
    label = f"label {example['label']}"
    picture.set_ylabel(label if len(found) == 1 else f"{name}\n{label}", fontsize=8)
    for (net, tap), at in zip(columns, maps):
      at.imshow(example[net].get(tap, [[0]]), cmap="cividis", vmin=0, vmax=255,
                interpolation="bilinear")
  for at in axes.flat:
    at.set(xticks=[], yticks=[])
    at.spines[:].set_visible(False)
    at.grid(False)
  axes[0, 0].set_title("image", fontsize=8)
  for (net, tap), at in zip(columns, axes[0, 1:]):
    at.set_title("\n".join(canvas.wrapped(text, 14) for text in (net, tap)),
                 fontsize=8)
  return drawn
