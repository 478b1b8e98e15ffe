"""A finished net of a run, opened again: to explain, to export or to use it.

What a net needs to be used lies beside its parameters, so it needs no data set.
"""

from collections.abc import Callable, Mapping, Sequence
import os
import pathlib
from typing import Any, NamedTuple
import warnings

import jax
import numpy as np

from kd_jax import data as data_lib
from kd_jax.config import build, recipe, schema
from kd_jax.config import run as run_lib
from kd_jax.core import sources, strict, types
from kd_jax.core.errors import Notice, UserError, nearest
from kd_jax.data import preprocess as preprocess_lib
from kd_jax.training import parameters, step

# What the record of a net says of its inputs and classes.
USE = "use"
# NAME_best is the net NAME as it was after its epoch of the fewest held-out errors.
BEST = "_best"
# The training images whose borders it tells of, at most.
_LOOKED_AT = 1000


class Trained(NamedTuple):
  """A finished net.

  Attributes:
    name: In its run.
    model: The net as it is used: what a method leaves in it is part of it.
    variables: Its arrays.
    preprocess: What makes the model's inputs of stored ones, such as pixels.
    shape: Of one stored input.
    dtype: Of stored inputs.
    classes: Their names, in the order of the logits.
    values: The config whose net it is, flat.
    border: Between which two values the mean brightness of the border is, of 98%
      of the training images; None for other inputs, and nets of before.
    range: The least and the largest of the training inputs, if they are floats.
  """

  name: str
  model: types.Model
  variables: types.Variables
  preprocess: preprocess_lib.Scaling | preprocess_lib.AsStored
  shape: tuple[int, ...]
  dtype: np.dtype
  classes: tuple[str, ...]
  values: dict[str, Any]
  border: tuple[float, float] | None = None
  range: tuple[float, float] | None = None

  def logits(self, inputs: Any) -> jax.Array:
    """Of inputs `[B, *shape]` as they are stored, `[B, classes]`; may be traced."""
    outputs, _ = self.model.apply(
        self.variables, self.preprocess(inputs), train=False)
    return outputs.logits


def use(
    dataset: data_lib.Dataset,
    preprocess: preprocess_lib.Scaling | preprocess_lib.AsStored,
) -> dict[str, Any]:
  """What the record of a net says, so that it can be used without its data."""
  inputs = dataset.train.inputs
  more: dict[str, Any] = {}
  if preprocess_lib.are_images(inputs) and inputs.dtype == np.uint8:
    some = inputs[:: -(-len(inputs) // _LOOKED_AT)]
    more = {"border": np.percentile(borders(some), (1, 99)).tolist()}
  elif getattr(getattr(inputs, "dtype", None), "kind", "") == "f":
    more = {"range": [float(inputs.min()), float(inputs.max())]}
  return {"shape": inputs.shape[1:], "dtype": inputs.dtype.name,
          "classes": list(dataset.class_names), **more,
          **{name: np.asarray(numbers).tolist()
             for name, numbers in preprocess._asdict().items()}}


def borders(images: np.ndarray) -> np.ndarray:
  """The mean of the outermost pixels of images `[N, H, W, C]`, `[N]`.

  Example:
    >>> image = np.full((1, 3, 3, 1), 8); image[0, 1, 1] = 200
    >>> borders(image)
    array([8.])
  """
  outer = np.ones(images.shape[1:3], bool)
  outer[1:-1, 1:-1] = False
  return images[:, outer].mean(axis=(1, 2))


def config(workdir: pathlib.Path) -> dict[str, Any]:
  """The config of a run, flat, with tuples where JSON has lists.

  Raises:
    UserError: If the folder is of no run.
  """
  try:
    values = strict.read(workdir / "config.json")
  except (OSError, ValueError):
    values = None
  if not isinstance(values, dict) or "data.name" not in values:
    raise UserError(f"{workdir}: holds no run; give the folder of one")
  # Keys that came later have the default that means what was done without them.
  later = {name: key.default for name, key in schema.every(
      *values.get("recipe") or ()).items()
           if key.later or name.startswith("nets.")}
  return later | {key: _plain(value) for key, value in values.items()}


def record(workdir: pathlib.Path, name: str) -> dict[str, Any]:
  """What is known of a net; {} if nothing is.

  That of `NAME_best` has its epoch and its held-out errors; what determines it and
  how it is used stand in that of `NAME`.
  """
  own = parameters.load_record(workdir / "parameters" / name) or {}
  if name.endswith(BEST) and USE not in own:
    last = record(workdir, name.removesuffix(BEST))
    own = {key: last[key] for key in (USE, "identity") if key in last} | own
  return own


def load(
    workdir: str | os.PathLike, name: str | None = None, *,
    data: str | os.PathLike | None = None, float32: bool = False,
) -> Trained:
  """Opens a net that is kept in `workdir/parameters`.

  Args:
    workdir: Of a run.
    name: Of the net, or `NAME_best`; by default that which the run is about.
    data: The folder of its data set, where that has moved.
    float32: Whether it computes in float32, though it did in bfloat16 in its run.

  Raises:
    UserError: If there is no such net, or it is damaged.

  Warns:
    Notice: If the user's file that makes the net was edited since.
  """
  workdir = pathlib.Path(workdir)
  values = config(workdir)
  if data is not None:
    values["data.dir"] = str(data)
  if float32:
    values |= {key: "float32" for key in values if in_bfloat16(values, key)}
  try:
    nets = {net.name: net for net in recipe.nets(
        values, swept=bool(values["sweep.points"]))}
  except KeyError as error:
    raise UserError(f"{workdir / 'config.json'}: has no {error}; it is of another "
                    "version of kd_jax") from None
  net = _chosen(workdir, values, nets, name)
  path = workdir / "parameters" / net.name
  known = record(workdir, net.name).get(USE) or _of_data(values)
  inputs = np.zeros((1, *known["shape"]), known["dtype"])
  like = data_lib.stand_in(inputs, tuple(known["classes"]))
  scaling = ({name: np.float32(known[name]) for name in ("scale", "offset")}
             if "scale" in known else None)
  _look_at_source(workdir, net)
  return Trained(
      net.name, _deployed(net, nets, like), parameters.load_parameters(path),
      preprocess_lib.Scaling(**scaling) if scaling else preprocess_lib.AsStored(),
      inputs.shape[1:], inputs.dtype, like.class_names, net.values,
      *(tuple(known[name]) if name in known else None
        for name in ("border", "range")))


def _look_at_source(workdir: pathlib.Path, net: recipe.Net) -> None:
  """Warns of a net of the user's own whose file is not as it was."""
  kind = "student" if net.member is None else "teacher"
  name = net.values[f"{kind}.name"]
  before = record(workdir, net.name).get("identity", {}).get("source")
  if before is None or not sources.named(name):
    return
  # After that of the net stand those of the user's own methods.
  if before.split("+")[0] != sources.sha256(name):
    warnings.warn(
        f"{workdir}: {name} was edited after {net.name} was trained, so it may be "
        "another net with the same parameters; to be sure, use the file as it was",
        Notice, stacklevel=3)


def dataset_with(
    net: Trained, numbers: Sequence[int], say: Callable[[str], None]
) -> data_lib.Dataset:
  """The data set of a net's run.

  Raises:
    UserError: If it is not there, or has no test example of one of these numbers.
  """
  found = build.dataset(net.values, say=say)
  for number in numbers:
    if not 0 <= number < len(found.test.label):
      raise UserError(
          f"--id={number}: must be from 0 to {len(found.test.label) - 1}")
  return found


def in_bfloat16(values: Mapping[str, Any], key: str) -> bool:
  """Whether a key asks for nets that compute in bfloat16."""
  return key.rpartition(".")[2] == "dtype" and values[key] == "bfloat16"


def _of_data(values: Mapping[str, Any]) -> dict[str, Any]:
  """Of a net of an earlier version, whose data set must be at hand."""
  dataset = build.dataset(values, say=lambda line: None)
  return use(dataset, preprocess_lib.of(
      values["data.scale"], dataset.train.inputs))


def _chosen(
    workdir: pathlib.Path, values: Mapping[str, Any],
    nets: Mapping[str, recipe.Net], name: str | None,
) -> recipe.Net:
  """The net that is asked for, one of those that are kept."""
  best = {each + BEST: net._replace(name=each + BEST) for each, net in nets.items()}
  kept = {each: net for each, net in (best | dict(nets)).items()
          if (workdir / "parameters" / each).is_dir()}
  swept = bool(values["sweep.points"])
  if not kept:
    raise UserError(f"{workdir}: no net is kept in it; " + (
        "of a sweep only those that others learn from are" if swept else
        "is the run finished? Its command again goes on with it"))
  if name is not None and name not in kept:
    raise UserError(f"{workdir}: has no net {name!r}; {nearest(name, kept)}")
  # The last is of the last epoch.
  asked = name or (schema.judged(values["recipe"]) if values["recipe"] else None)
  if swept and asked not in kept:
    raise UserError(
        f"{workdir}: a sweep keeps no students, only nets that others learn from; "
        f"give --net={[*kept][-1]}, or train a student again by its command in the "
        "report")
  return kept.get(asked or "") or [*kept.values()][-1]


def _deployed(
    net: recipe.Net, nets: Mapping[str, recipe.Net], dataset: data_lib.Dataset
) -> types.Model:
  """The model of a net, with what its method leaves in it."""
  net = net._replace(epoch=None)  # Its length in steps is that of real data.
  run, training = run_lib.read(net.values), build.training(net, dataset)
  method = build.method(net, run)
  if method.inference is None:
    return training.model
  teachers = [nets[name]._replace(epoch=None) for name in net.teachers]
  asked = build.training(teachers[0], dataset) if teachers else training
  method, pairs = build.bound(run, training, method, asked.taps)
  return step.deployed(step.Learner(
      training.model, method, training.optimizer_spec, pairs=pairs))


def _plain(value: Any) -> Any:
  return tuple(map(_plain, value)) if isinstance(value, list) else value
