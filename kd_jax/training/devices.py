"""One training on several devices: the step of one, in three thin wrappers.

To read the algorithm, skip this file: `step.py` holds it. All wrappers hold the
state and the data on every device and give each device its rows of every batch.
`pmap` runs the step once a device, with a named axis that gradients, counts and
metrics are summed over; `shard_map` is the same by the function that jax develops
further. `sharded` runs the step once, on global arrays, and leaves it to the
compiler to split it. Which rows a batch has, in which view and under which
dropout mask, depends on neither; nor on the number of devices.
"""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from kd_jax.core import compilation, types
from kd_jax.core.errors import UserError
from kd_jax.data import views as views_lib
from kd_jax.training import segment as segment_lib
from kd_jax.training import step

KINDS = ("auto", "single", "pmap", "shard_map", "sharded")
_AXIS = "devices"


class Devices(NamedTuple):
  """Where a training runs.

  Attributes:
    kind: "single", "pmap", "shard_map" or "sharded".
    mesh: The devices, along one axis.
  """

  kind: str
  mesh: Mesh

  @property
  def size(self) -> int:
    """Number of devices."""
    return self.mesh.size


def choose(kind: str = "auto", *, most: int | None = None) -> Devices:
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
  return Devices(kind, Mesh(np.asarray(devices), (_AXIS,)))


def copies(devices: Devices, tree: Any) -> Any:
  """A copy of host arrays on every device; all processes must have the same."""
  if devices.kind == "single":
    return jax.device_put(tree)
  everywhere = NamedSharding(devices.mesh, P())
  if jax.process_count() == 1:
    return jax.device_put(tree, everywhere)
  # device_put would compare the values of all hosts first.
  return jax.tree.map(
      lambda x: jax.make_array_from_process_local_data(
          everywhere, np.asarray(x), np.shape(x)), tree)


def split(devices: Devices, tree: Any) -> Any:
  """The leading axis of host arrays spread over the devices of this process."""
  if devices.kind == "single":
    return jax.device_put(tree)
  return jax.device_put(tree, NamedSharding(devices.mesh, P(_AXIS)))


def spread(
    devices: Devices, function: Callable[..., Any], in_axes: Any, out_axes: Any
) -> Callable[..., Any]:
  """`function` for each device's own part; no part depends on another.

  Args:
    devices: Of `choose`.
    function: To be compiled.
    in_axes: For each argument, as for `vmap`: 0 is spread, None is copied.
    out_axes: The same for its results.
  """
  if devices.kind == "single":
    return function
  specs = lambda axes: jax.tree.map(
      lambda axis: P() if axis is None else P(_AXIS), axes,
      is_leaf=lambda axis: axis is None)
  return jax.shard_map(
      function, mesh=devices.mesh, in_specs=specs(in_axes),
      out_specs=specs(out_axes), check_vma=False)  # Nothing to check between them.


def make(
    devices: Devices, function: Callable[..., Any], *, donate: bool = False
) -> Callable[..., Any]:
  """`function`, compiled to leave its results on every device."""
  donated = (0,) if donate else ()
  if devices.kind == "single":
    return jax.jit(function, donate_argnums=donated)
  return jax.jit(function, out_shardings=NamedSharding(devices.mesh, P()),
                 donate_argnums=donated)


def compiled_segment(
    devices: Devices,
    learner: step.Learner,
    views: views_lib.Views,
    batch_size: int,
) -> Callable[..., Any]:
  """`segment.make_segment`, compiled for these devices; the state is donated.

  Args:
    devices: Of `choose`.
    learner: What `step.make_step` needs.
    views: The augmentation of the transfer set.
    batch_size: Examples a step, of all devices together; any number.

  Returns:
    `segment(state, data, teacher_arrays, hparams, key, length)`, as of
    `segment.make_segment`; state and totals lie on every device.
  """
  bare = step.without_arrays(learner)

  def made():
    if devices.kind in ("pmap", "shard_map"):
      return _mapped(devices, bare, views, batch_size)
    own = (_rows_apart(devices, bare.accumulate) if devices.kind == "sharded"
           else lambda rows: rows)
    return make(devices, segment_lib.make_segment(
        bare, views, batch_size, own=own), donate=True)

  return compilation.once(
      ("segment", devices, step.key_of(learner), views, batch_size), made)


def compiled_init(
    devices: Devices, learner: step.Learner, data: segment_lib.DeviceData
) -> Callable[..., Any]:
  """`segment.make_init`, compiled to leave the state on every device."""
  bare = step.without_arrays(learner)
  return compilation.once(
      ("init", devices, step.key_of(learner), compilation.shapes(data)),
      lambda: make(devices, segment_lib.make_init(bare, data.inputs)))


@functools.lru_cache(maxsize=32)
def make_predict(
    devices: Devices, model: types.Model, views: views_lib.Views,
    of: Callable[[types.Outputs], Any] = lambda outputs: outputs.logits,
) -> Callable[..., Any]:
  """`segment.make_predict`, its batches dealt out to the devices.

  Each device computes whole batches, so that an example's logits have the same
  bits whatever the number of devices.
  """
  if model.on_host is not None:
    return segment_lib.make_asked(model.on_host, views, of=of)
  return make(devices, segment_lib.make_predict(
      model, views, parts=devices.size, of=of, spread=lambda batches: spread(
          devices, batches, (None, None, None, 0), 0)))


def _mapped(devices, learner, views, batch_size):
  """The step once a device; sums over the axis make them one."""
  def own(rows):
    rows = _padded(rows, devices.size * learner.accumulate)
    size = rows.shape[1] // devices.size
    return jax.lax.dynamic_slice_in_dim(
        rows, jax.lax.axis_index(_AXIS) * size, size, axis=1)

  segment = segment_lib.make_segment(
      learner, views, batch_size, axis_name=_AXIS, own=own)
  if devices.kind == "shard_map":
    return jax.jit(jax.shard_map(
        segment, mesh=devices.mesh, in_specs=P(), out_specs=P(), check_vma=False),
                   donate_argnums=0)
  # pmap wants something to map over; everything else is alike on all devices.
  mapped = jax.pmap(
      lambda device, *arguments: segment(*arguments), axis_name=_AXIS,
      in_axes=(0, *(None,) * 6), out_axes=None,
      devices=devices.mesh.devices.tolist(), donate_argnums=1)
  places = np.arange(devices.size)
  return lambda *arguments: mapped(places, *arguments)


def _rows_apart(devices, parts):
  """Leaves the step once, on global arrays whose rows lie on several devices."""
  return lambda rows: jax.lax.with_sharding_constraint(
      _padded(rows, devices.size * parts),
      NamedSharding(devices.mesh, P(None, _AXIS)))


def _padded(rows: jax.Array, multiple: int) -> jax.Array:
  """`[steps, B]` with zeros (False) up to a multiple of devices, and of parts."""
  return jnp.pad(rows, ((0, 0), (0, -rows.shape[1] % multiple)))
