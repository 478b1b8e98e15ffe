"""The roads to a small file, and their sizes; it needs no jax."""

from typing import Any, NamedTuple

NAME = "deploy_mnist"
# Forms of a file: as it is, with 8-bit and with 4-bit weights.
FORMS = ("none", "dynamic", "dynamic4")
# A road, in words.
ROADS = {
    "teacher": "the teacher itself",
    "labels": "small net on labels",
    "distilled": "small net, distilled",
    "few_bits": "small net, distilled with weights of 4 bits",
    "pruned": "teacher, weights pruned at once",
    "gradual": "teacher, weights pruned in turns",
    "channels": "teacher, units pruned",
    "low_rank": "teacher, low rank"}


class Form(NamedTuple):
  """Sizes of the study.

  Attributes:
    seeds: Runs, each with a teacher of its own.
    teacher: Widths of the teacher.
    units: Units a layer of small nets.
    shares: Of the teacher's weights that are pruned.
    ranks: Of low-rank nets.
    epochs: Of each net; the teacher has twice as many.
    quick: Whether to take few digits.
  """

  seeds: int = 5
  teacher: tuple[int, int] = (800, 800)
  units: tuple[int, ...] = (16, 32, 64, 128, 256)
  shares: tuple[float, ...] = (0.8, 0.9, 0.95, 0.98)
  ranks: tuple[int, ...] = (8, 16, 32, 64)
  epochs: int = 10
  quick: bool = False


FULL = Form()
QUICK = Form(seeds=2, teacher=(48, 48), units=(8,), shares=(0.5, 0.8),
             ranks=(4,), epochs=1, quick=True)


class Net(NamedTuple):
  """A net of a run: its road, and its size on it.

  Attributes:
    road: A key of `ROADS`.
    size: Units a layer, weights kept in percent, or the rank.
    own: Keys of the net in the recipe.
  """

  road: str
  size: float
  own: dict[str, Any]

  @property
  def name(self) -> str:
    return self.road if self.road == "teacher" else (
        f"{self.road}_{self.size:g}".replace(".", "_"))

  @property
  def forms(self) -> tuple[str, ...]:
    """The forms of its file: 4 bits are asked of the small nets alone."""
    small = self.road in ("teacher", "labels", "distilled")
    return {"few_bits": FORMS[2:]}.get(self.road, FORMS if small else FORMS[:2])


def nets(form: Form) -> list[Net]:
  """All nets of a seed, each after those that it needs."""
  width = form.teacher[0]
  of_units = lambda road, **own: [
      Net(road, units, {"widths": (units, units), **own}) for units in form.units]
  start = {"widths": form.teacher, "init_from": "teacher",
           "optimizer.learning_rate": 3e-4}
  found = [
      Net("teacher", width, {
          "widths": form.teacher, "hidden_dropout": 0.2,
          "epochs": 2 * form.epochs}),
      *of_units("labels"), *of_units("distilled", teachers=("teacher",)),
      *of_units("few_bits", teachers=("teacher",), weight_bits=4)]
  before = "teacher"
  for share in form.shares:
    kept = round(100 * (1 - share), 1)
    found.append(Net("pruned", kept, {**start, "prune": share}))
    found.append(Net(
        "gradual", kept, {**start, "prune": share, "init_from": before}))
    before = found[-1].name
  found += [Net("channels", units, {
      **start, "prune": 1 - units / width, "prune_by": "channels"})
            for units in form.units]
  return found + [Net("low_rank", rank, {**start, "model.rank": rank})
                  for rank in form.ranks]
