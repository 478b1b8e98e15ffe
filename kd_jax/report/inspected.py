"""A student beside its teacher: how alike their taps are, and where they look."""

from collections.abc import Mapping
import itertools
import pathlib
from typing import Any

from kd_jax.report import canvas

# What `inspected.json` holds: of each net by its name, `cka` and `examples`.
Found = Mapping[str, Mapping[str, Any]]


@canvas.styled
def alignment(found: Found, path: pathlib.Path) -> bool:
  """CKA of every tap of a student with every tap of its teacher, a row a net."""
  if not found:
    return False
  tables = [(name, when, net["cka"][when]) for name, net in found.items()
            for when in ("before", "after")]

  def others(table: Mapping[str, Any]) -> list[str]:
    first, *_ = table.values()
    return list(first)

  size = 1.3 + 0.4 * max(
      max(len(table), len(others(table))) for _, _, table in tables)
  drawn, axes = canvas.figure(
      len(found), 2, (2 * size + 0.6, (size + 0.2) * len(found)))
  for (name, when, table), at in zip(tables, axes.flat):
    values = [list(row.values()) for row in table.values()]
    image = at.imshow(
        [[float("nan") if value is None else value for value in row]
         for row in values], vmin=0, vmax=1, cmap="cividis_r")
    for y, row in enumerate(values):
      for x, value in enumerate(row):
        if value is not None:
          at.text(x, y, f"{value:.2f}", ha="center", va="center", fontsize=7,
                  color="white" if value > 0.5 else "black")
    at.set_xticks(range(len(others(table))), others(table), rotation=90)
    at.set_yticks(range(len(table)), list(table))
    at.set(title=f"{name}, {when} training", xlabel="tap of the teacher")
    at.grid(False)
  for at in axes[:, 0]:
    at.set_ylabel("tap of the student")
  drawn.colorbar(image, ax=axes, label="linear CKA", shrink=0.6)
  return canvas.save(drawn, path)


@canvas.styled
def attention(found: Found, path: pathlib.Path) -> bool:
  """Mean over channels of squared maps, of a few test images, stage by stage."""
  shown = [(name, example) for name, net in found.items()
           for example in net.get("examples") or []]
  if not shown:
    return False
  # All nets' first stages beside each other, then their second ones.
  columns = [(net, tap) for both in itertools.zip_longest(*(
      [(net, tap) for tap in taps] for net, taps in shown[0][1].items()
      if net.startswith(("student", "teacher"))))
             for net, tap in filter(None, both)]
  drawn, axes = canvas.figure(
      len(shown), 1 + len(columns),
      (1.15 * (1 + len(columns)), 1.1 * len(shown) + 0.5))
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
    at.set_title(f"{net}\n{tap}", fontsize=8)
  return canvas.save(drawn, path, colours=None)
