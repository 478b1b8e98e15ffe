"""The roads to a small file, and their sizes; it needs no jax."""

from typing import Any, NamedTuple

# Forms of a file, as kinds of int8: as it is, and with weights of 8 and of 4 bits.
FORMS = ("none", "dynamic", "static", "dynamic4")
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
    name: Of the study.
    seeds: Runs, each with a teacher of its own.
    teacher: Keys of the teacher.
    units: Sizes of small nets: units a layer of an MLP, or the factor on the widths
      of a ResNet of depth 8.
    shares: Of the teacher's weights that are pruned.
    ranks: Of low-rank nets; with units to prune, of an MLP alone.
    epochs: Of each net; the teacher has twice as many.
    bits8: The kind of int8 that suits the nets.
    part: Of the training images that all nets learn from.
    quick: Whether to take few digits.
  """

  name: str
  seeds: int
  teacher: dict[str, Any]
  units: tuple[float, ...]
  shares: tuple[float, ...]
  ranks: tuple[int, ...] = ()
  epochs: int = 10
  bits8: str = "dynamic"
  part: float = 1.0
  quick: bool = False

  @property
  def width(self) -> int:
    """Units a layer of a teacher that is an MLP; 0 of another."""
    return self.teacher["widths"][0] if "widths" in self.teacher else 0


MNIST = Form(
    "deploy_mnist", 5, {"widths": (800, 800), "hidden_dropout": 0.2},
    (16, 32, 64, 128, 256), (0.8, 0.9, 0.95, 0.98), (8, 16, 32, 64))
CIFAR = Form(
    "deploy_cifar", 3, {"name": "resnet14"}, (0.25, 0.5, 1.0), (0.8, 0.95),
    epochs=6, bits8="static", part=0.4)
# The same program in a minute or two.
QUICK = {
    "deploy_mnist": Form("deploy_mnist", 2, {"widths": (48, 48)}, (8,), (0.5, 0.8),
                         (4,), epochs=1, quick=True),
    "deploy_cifar": Form(
        "deploy_cifar", 2, {"name": "resnet8", "model.width": 0.25}, (0.25,),
        (0.5,), epochs=1, bits8="static", part=0.1, quick=True)}


class Net(NamedTuple):
  """A net of a run: its road, and its size on it.

  Attributes:
    road: A key of `ROADS`.
    size: Units a layer, weights kept in percent, or the rank.
    own: Keys of the net in the recipe.
    forms: Of its file.
  """

  road: str
  size: float
  own: dict[str, Any]
  forms: tuple[str, ...]

  @property
  def name(self) -> str:
    return self.road if self.road == "teacher" else (
        f"{self.road}_{self.size:g}".replace(".", "_"))


def nets(form: Form) -> list[Net]:
  """All nets of a seed, each after those that it needs."""
  mlp = "widths" in form.teacher
  eight = ("none", form.bits8)
  # Weights of 4 bits are asked of nets that are not pruned.
  all_forms = (*eight, "dynamic4")
  size = lambda units: ({"widths": (units, units)} if mlp else
                        {"name": "resnet8", "model.width": units})
  small = lambda road, forms, **own: [
      Net(road, units, {**size(units), **own}, forms) for units in form.units]
  start = {**form.teacher, "init_from": "teacher", "optimizer.learning_rate": (
      3e-4 if mlp else 0.02)}
  start.pop("hidden_dropout", None)
  found = [
      Net("teacher", 1, {**form.teacher, "epochs": 2 * form.epochs}, all_forms),
      *small("labels", all_forms),
      *small("distilled", all_forms, teachers=("teacher",)),
      *small("few_bits", ("dynamic4",), teachers=("teacher",), weight_bits=4)]
  before = "teacher"
  for share in form.shares:
    kept = round(100 * (1 - share), 1)
    found.append(Net("pruned", kept, {**start, "prune": share}, eight))
    found.append(Net(
        "gradual", kept, {**start, "prune": share, "init_from": before}, eight))
    before = found[-1].name
  if not mlp:
    return found
  found += [Net("channels", units, {
      **start, "prune": 1 - units / form.width, "prune_by": "channels"}, eight)
            for units in form.units]
  return found + [Net("low_rank", rank, {**start, "model.rank": rank}, eight)
                  for rank in form.ranks]
