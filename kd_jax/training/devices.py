"""One training on several devices: the step of one, in two thin wrappers.

To read the algorithm, skip this file: `steps.py` holds it. Both wrappers hold the
state and the data on every device and give each device its rows of every batch.
`pmap` runs the step once a device, with a named axis that gradients, counts and
metrics are summed over; `sharded` runs it once, on global arrays, and leaves it to
the compiler to split it. Which rows a batch has, in which view and under which
dropout mask, depends on neither; nor on the number of devices.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from kd_jax.core import types
from kd_jax.core.errors import UserError
from kd_jax.data import views as views_lib
from kd_jax.training import segment as segment_lib
from kd_jax.training import step

KINDS = ("auto", "single", "pmap", "sharded")
_AXIS = "devices"


class Parallel(NamedTuple):
  """Where a training runs.

  Attributes:
    kind: "single", "pmap" or "sharded".
    mesh: The devices, along one axis.
  """

  kind: str
  mesh: Mesh

  @property
  def size(self) -> int:
    """Number of devices."""
    return self.mesh.size


def choose(kind: str = "auto", *, most: int | None = None) -> Parallel:
  """The devices of this run, and how it uses them.

  Args:
    kind: One of `KINDS`; "auto" is single on one device, pmap on several, and
      sharded on those of several hosts.
    most: At most so many devices; default all.

  Returns:
    The choice.

  Raises:
    UserError: If the devices cannot be used so.
  """
  devices = jax.devices()[:most]
  hosts = jax.process_count()
  if kind == "auto":
    kind = "sharded" if hosts > 1 else "pmap" if len(devices) > 1 else "single"
  if hosts > 1 and kind != "sharded":
    raise UserError(
        f"config.parallel={kind}: several processes work as one with sharded "
        "(or auto) only")
  if kind == "single":
    devices = devices[:1]
  return Parallel(kind, Mesh(np.asarray(devices), (_AXIS,)))


def copies(parallel: Parallel, tree: Any) -> Any:
  """A copy of host arrays on every device; all processes must have the same."""
  if parallel.kind == "single":
    return jax.device_put(tree)
  everywhere = NamedSharding(parallel.mesh, P())
  if jax.process_count() == 1:
    return jax.device_put(tree, everywhere)
  # device_put would compare the values of all hosts first.
  return jax.tree.map(
      lambda x: jax.make_array_from_process_local_data(
          everywhere, np.asarray(x), np.shape(x)), tree)


def make(parallel: Parallel, function: Callable[..., Any]) -> Callable[..., Any]:
  """`function`, compiled to leave its results on every device."""
  if parallel.kind == "single":
    return jax.jit(function)
  return jax.jit(function, out_shardings=NamedSharding(parallel.mesh, P()))


def compiled_segment(
    parallel: Parallel,
    learner: step.Learner,
    views: views_lib.Views,
    batch_size: int,
) -> Callable[..., Any]:
  """`loop.make_segment`, compiled for these devices; the state is donated.

  Args:
    parallel: Of `choose`.
    learner: What `steps.make_step` needs.
    views: The augmentation of the transfer set.
    batch_size: Examples a step, of all devices together; any number.

  Returns:
    `segment(state, data, teacher_arrays, hparams, key, length)`, as of
    `loop.make_segment`; state and totals lie on every device.
  """
  if parallel.kind == "single":
    return segment_lib.compiled_segment(learner, views, batch_size)
  if parallel.kind == "pmap":
    return _mapped(parallel, learner, views, batch_size)
  return _sharded(parallel, learner, views, batch_size)


def make_predict(
    parallel: Parallel, model: types.Model, views: views_lib.Views
) -> Callable[..., jax.Array]:
  """`loop.make_predict`, its batches dealt out to the devices.

  Each device computes whole batches, so that an example's logits have the same
  bits whatever the number of devices.
  """
  if parallel.kind == "single":
    return segment_lib.make_predict(model, views)

  def spread(function):
    # Rows are independent: nothing to check between devices.
    return jax.shard_map(
        function, mesh=parallel.mesh, in_specs=(P(), P(), P(), P(_AXIS)),
        out_specs=P(_AXIS), check_vma=False)

  predict = segment_lib.make_predict(
      model, views, parts=parallel.size, spread=spread)
  return make(parallel, predict)


def _mapped(parallel, learner, views, batch_size):
  """The step once a device; sums over the axis make them one."""
  def own(rows):
    rows = _padded(rows, parallel.size)
    size = rows.shape[1] // parallel.size
    return jax.lax.dynamic_slice_in_dim(
        rows, jax.lax.axis_index(_AXIS) * size, size, axis=1)

  segment = segment_lib.make_segment(
      learner, views, batch_size, axis_name=_AXIS, own=own)
  # pmap wants something to map over; everything else is alike on all devices.
  mapped = jax.pmap(
      lambda device, *arguments: segment(*arguments), axis_name=_AXIS,
      in_axes=(0, *(None,) * 6), out_axes=None,
      devices=parallel.mesh.devices.tolist(), donate_argnums=1)
  places = np.arange(parallel.size)
  return lambda *arguments: mapped(places, *arguments)


def _sharded(parallel, learner, views, batch_size):
  """The step once, on global arrays whose rows lie on several devices."""
  rows_apart = NamedSharding(parallel.mesh, P(None, _AXIS))
  everywhere = NamedSharding(parallel.mesh, P())

  def own(rows):
    return jax.lax.with_sharding_constraint(
        _padded(rows, parallel.size), rows_apart)

  segment = segment_lib.make_segment(learner, views, batch_size, own=own)
  return jax.jit(segment, out_shardings=everywhere, donate_argnums=0)


def _padded(rows: jax.Array, devices: int) -> jax.Array:
  """`[steps, B]` with zeros (False) up to a multiple of the devices."""
  return jnp.pad(rows, ((0, 0), (0, -rows.shape[1] % devices)))
