"""Terms of methods on maps: WKD-F, ReviewKD, OFD, SimKD and CAT.

As in `terms.py`, of one signature. A tap called NAME.preact comes before a ReLU.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
from typing import Any

import jax
import jax.numpy as jnp

from kd_jax.core import types
from kd_jax.losses import curriculum, features, stages, wasserstein
from kd_jax.methods import fusion, layers, regressor, transfer
from kd_jax.methods.feature_terms import hint_init
from kd_jax.methods.pairs import in_order
from kd_jax.methods.projector_terms import mean_so_far
from kd_jax.methods.terms import (
  Changed,
  Own,
  Term,
  Terms,
  beside_labels,
  sum_of,
)

SIZES = (1, 2, 4, 8)  # Of grids, for numbers that are traced.


def _of_size(
    number: jax.Array | float, sizes: Sequence[int],
    value: Callable[[int], jax.Array],
) -> jax.Array:
  """The value at the largest size that is at most a traced number, alone."""
  _, *others = sizes
  place = sum(jnp.int32(number >= size) for size in others)
  return jax.lax.switch(place, [functools.partial(value, size) for size in sizes])


def _only(pairs: Mapping[str, Any]) -> str:
  """The name of the only pair."""
  if len(pairs) > 1:
    raise ValueError("it compares one map of both nets, not "
                     f"{len(pairs)}: {', '.join(pairs)}")
  return next(iter(pairs))


def _rectified(pair: str, tap: jax.Array, of: int) -> jax.Array:
  """The map that is pooled, of student (0) or teacher (1)."""
  before = pair.split("-")[of].endswith(".preact")
  return jnp.maximum(tap, 0.0) if before else tap


wkd_f_init = hint_init


def wkd_f(own, student, teacher, batch, hparams) -> Changed:
  """hard_weight * hard + weight * (mean * M + D), summed over pairs.

  M and D are distances of the channels' means and deviations in grid x grid cells,
  the largest of 1, 2, 4, 8 that `grid` allows and the map has room for (Lv et al.
  2024). The student's map goes through a regressor, FitNets' as in the code. The
  weight falls to 0 from `decay` of the run on.
  """
  numbers, values, states = hparams.numbers, [], {}
  for pair, tap in student.features.items():
    guess, states[pair] = regressor.apply(
        own.params[pair], own.state[pair], tap, batch.mask, axis_name=own.axis_name)
    goal = layers.clean(teacher.features[pair], batch.mask)

    def distance(grid, guess=guess, goal=goal):
      means, deviations = wasserstein.gaussian_distance(guess, goal, grid=grid)
      return numbers["mean"] * means + deviations

    height, width = goal.shape[1:3] if goal.ndim == 4 else (1, 1)
    fitting = [size for size in SIZES if not height % size and not width % size
               and height * width >= 2 * size**2]
    values.append(_of_size(numbers["grid"], fitting or SIZES[:1], distance))
  weight = numbers["weight"] * curriculum.cosine_decay(
      hparams.progress, numbers["decay"])
  return Changed(beside_labels(
      student, batch, hparams, moments=Term(weight, sum_of(values))), states)


def reviewkd_init(key, student, teacher):
  """The modules that fuse the student's stages (Chen et al. 2021)."""
  return fusion.init(key, student, teacher, in_order(student))


def reviewkd(own, student, teacher, batch, hparams) -> Changed:
  """hard_weight * hard + weight * min(1, progress / warmup) * sum of HCL.

  The student's stages and `pooled` are fused from the deepest to the first and
  compared with the teacher's (Chen et al. 2021). The warm-up is a share of the run
  and goes on within an epoch; the authors' is 20 epochs of 240, in steps of one.
  """
  goals = {pair: layers.clean(fusion.as_map(tap), batch.mask)
           for pair, tap in teacher.features.items()}
  made, states = fusion.apply(
      own.params, own.state, student.features,
      {pair: goal.shape[1:3] for pair, goal in goals.items()}, batch.mask,
      in_order(student.features), axis_name=own.axis_name)
  numbers = hparams.numbers
  warm = curriculum.linear_ramp(hparams.progress, numbers["warmup"])
  return Changed(beside_labels(student, batch, hparams, review=Term(
      numbers["weight"] * warm, sum_of(
          stages.hierarchical_distance(made[pair], goals[pair])
          for pair in made))), states)


def ofd_init(key, student, teacher):
  """A connector for each pair; the mean of the teacher's negative values so far."""
  params, state = {}, {}
  for place, pair in enumerate(in_order(student)):
    channels = teacher[pair][-1]
    params[pair], running = transfer.connector_init(
        jax.random.fold_in(key, place), student[pair][-1], channels)
    state[pair] = {"connector": running,
                   "margin": jnp.zeros(channels, jnp.float32),
                   "count": jnp.zeros(channels, jnp.float32)}
  return params, state


def ofd(own, student, teacher, batch, hparams) -> Changed:
  """hard_weight * hard + weight * sum over stages i of 2**(i - last) * L_i.

  L_i sums squared gaps of the maps before their ReLU, values of the teacher below a
  margin counting as the margin (Heo et al. 2019, eq. 2). The margin is E[x | x < 0]
  of each channel, measured on all that the teacher gave so far. The authors derive
  it from the last BatchNorm, whose output is not the tap where a shortcut is added.
  Our teacher is in evaluation mode, theirs in training mode.
  """
  order, values, states = in_order(student.features), [], {}
  for place, pair in enumerate(order):
    state, goal = own.state[pair], jax.lax.stop_gradient(teacher.features[pair])
    tap, goal = features.pooled_alike(*(
        layers.clean(fusion.as_map(x), batch.mask)
        for x in (student.features[pair], goal)))
    guess, running = transfer.apply(
        own.params[pair], state["connector"], tap, batch.mask, relu=False,
        axis_name=own.axis_name)
    below = goal < 0  # Of padding nothing is.
    over = lambda x, below=below: jnp.sum(
        jnp.where(below, x, 0.0), axis=(0, 1, 2))
    margin, count = mean_so_far(
        state["margin"], state["count"], over(goal), over(jnp.ones_like(goal)),
        own.axis_name)
    states[pair] = {"connector": running, "margin": margin, "count": count}
    values.append(2.0**(place + 1 - len(order)) * stages.margin_distance(
        guess, goal, margin))
  return Changed(beside_labels(student, batch, hparams, stages=Term(
      hparams.numbers["weight"], sum_of(values))), states)


def simkd_init(key, student, teacher, classes):
  """A projector, and the teacher's last layer as it is after the first step."""
  pair = _only(student)
  inputs = student[pair]
  params, state = transfer.projector_init(key, inputs[-1], teacher[pair][-1])
  return params, {"projector": state, "head": {
      "kernel": jnp.zeros((teacher[pair][-1], classes), jnp.float32),
      "bias": jnp.zeros(classes, jnp.float32)}}


def simkd(own, student, teacher, batch, hparams) -> Changed:
  """hard_weight * hard + weight * mean |r(f) - g|**2 of the maps that are pooled.

  The net that comes out is the student's trunk, the projector r and the teacher's
  last layer (Chen et al. 2022). The student's own last layer learns from the labels
  alone, at hard_weight, and is not used; the paper's hard_weight is 0. Where the
  student's map is the larger one it is pooled after r, the authors' before.
  """
  pair = _only(student.features)
  tap = student.features[pair]
  made, running = transfer.apply(
      own.params, own.state["projector"], fusion.as_map(_rectified(pair, tap, 0)),
      batch.mask, axis_name=own.axis_name)
  goal = layers.clean(fusion.as_map(
      _rectified(pair, teacher.features[pair], 1)), batch.mask)
  gap = features.mean_squared_error(*features.pooled_alike(made, goal))
  head = jax.tree.map(lambda new, old: new.astype(old.dtype),
                      own.heads[1], own.state["head"])
  return Changed(
      beside_labels(student, batch, hparams, map=Term(
          hparams.numbers["weight"], gap)), {"projector": running, "head": head})


def simkd_inference(own: Own, outputs: types.Outputs) -> types.Outputs:
  """Logits of the projected map by the teacher's last layer."""
  (pair, tap), = outputs.features.items()
  made, _ = transfer.apply(
      own.params, own.state["projector"], fusion.as_map(_rectified(pair, tap, 0)),
      None, train=False)
  return outputs._replace(
      logits=layers.linear(own.state["head"], jnp.mean(made, axis=(1, 2))))


def cat(own, student, teacher, batch, hparams) -> Terms:
  """hard_weight * hard + weight * mean |A - B|**2 of the nets' maps of classes.

  A = f W of the map f that is pooled and the weights W of the last layer, pooled to
  the largest of 1, 2, 4, 8 that `resolution` allows; with `normalised` = 1 each is
  divided by its norm (Guo et al. 2023, eq. 5). The authors' nets have no bias in
  that layer; ours keep it, and it is in no map.
  """
  pair = _only(student.features)

  def maps(net: Mapping[str, jax.Array], of: int) -> jax.Array:
    return stages.class_maps(fusion.as_map(_rectified(
        pair, layers.clean(net[pair], batch.mask), of)), own.heads[of]["kernel"])

  a, b = maps(student.features, 0), maps(teacher.features, 1)
  numbers = hparams.numbers
  least = min(*a.shape[1:3], *b.shape[1:3])

  def distance(size):
    plain, normalised = (stages.class_map_distance(
        a, b, resolution=size, normalised=way) for way in (False, True))
    return jnp.where(numbers["normalised"] > 0, normalised, plain)

  gap = _of_size(numbers["resolution"], [n for n in SIZES if n <= least], distance)
  return beside_labels(
      student, batch, hparams, maps=Term(numbers["weight"], gap))
