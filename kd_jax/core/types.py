"""The types that all packages share: batch, outputs, variables, model, hparams."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

# A nested dict of arrays. Flax calls it a variable collection, jax a pytree.
Tree = Any


class Batch(NamedTuple):
  """Some examples, as one step sees them.

  Attributes:
    inputs: What the model takes, a tree of arrays `[B, ...]`: pixels of the chosen
      views, float32 `[B, H, W, C]`; or token ids, int32 `[B, L]`.
    label: True classes, int32 `[B]`.
    id: Positions of the examples in the unsplit data set, int32 `[B]`.
    view: Which transform made each input, int32 `[B]`; 0 is the identity.
    mask: False for the padding that fills a ragged last batch, bool `[B]`.
    clean: What the teacher takes, where it does not see these views; else None.
    mixed: Of inputs that are mixed, the second class of each, int32 `[B]`, and its
      share in [0, 1/2], float32 `[B]`; else None.
    other: The view that `clean` is, int32 `[B]`; None where it is the image itself.
    weight: Of the hard term, float32 `[B]`; None where all are alike.
    second: Of `twice`, whether a row is the second of its example, bool `[2 B]`.
  """

  inputs: Tree
  label: jax.Array
  id: jax.Array
  view: jax.Array
  mask: jax.Array
  clean: Tree = None
  mixed: tuple[jax.Array, jax.Array] | None = None
  other: jax.Array | None = None
  weight: jax.Array | None = None
  second: jax.Array | None = None

  def twice(self) -> "Batch":
    """Each example in two rows, 2 b and 2 b + 1: as it is here, and as `clean` is.

    Without another view, both rows are alike. A device that has a part of a batch
    has the same part of this one.
    """
    rows = lambda *pair: jnp.stack(pair, 1).reshape((-1, *pair[0].shape[1:]))
    two = lambda first, second: jax.tree.map(
        rows, first, first if second is None else second)
    return Batch(
        two(self.inputs, self.clean), two(self.label, None), two(self.id, None),
        two(self.view, self.other), two(self.mask, None),
        weight=two(self.weight, None),
        second=jnp.arange(2 * len(self.id)) % 2 == 1)


class Outputs(NamedTuple):
  """What a model returns: logits `[B, classes]` and named feature taps."""

  logits: jax.Array
  features: Mapping[str, jax.Array]


class Variables(NamedTuple):
  """The arrays of a model: trained parameters, and running state (BatchNorm)."""

  params: Tree
  state: Tree


class Model(NamedTuple):
  """A model as a pair of pure functions.

  Attributes:
    init: `(key, inputs) -> Variables`.
    apply: `(variables, inputs, *, train, rngs=None, mask=None, rates=None,
      axis_name=None) -> (Outputs, new_state)`. `mask` `[B]` marks the valid
      examples, `rates` holds the dropout rates by name as traced scalars, and
      `axis_name` names the mapped device axis, where there is one.
    understands: Those of the keywords that its module takes.
    settle: What becomes of its variables when it is used; None if nothing does.
    on_host: Of a net that is asked outside JAX, `inputs -> Outputs`, both
      NumPy arrays; it has no parameters. Else None.
  """

  init: Callable[..., Variables]
  apply: Callable[..., tuple[Outputs, Tree]]
  understands: frozenset[str] = frozenset()
  settle: Callable[[Variables], Variables] | None = None
  on_host: Callable[[Any], Outputs] | None = None


@flax.struct.dataclass
class Hparams:
  """The traced numbers of a run. Other values need no new compilation.

  Attributes:
    temperature: T of the soft targets, > 0.
    hard_weight: Weight of the hard term (cross-entropy with the labels).
    soft_weight: Weight of the soft term (T**2 times the KL to the teacher).
    label_smoothing: Share of the hard target spread over all classes.
    learning_rate: Peak learning rate; a factor outside the unit-peak schedule.
    momentum: Decay of the first moment (SGD's momentum, Adam's b1).
    momentum_end: What momentum moves to, or None where it stays.
    weight_decay: L2 coefficient (coupled in SGD, decoupled in AdamW).
    rates: Dropout rates by the place they act on, or None without dropout.
    max_norm: Largest norm of a unit's incoming weights, or None without it.
    init_scale: Factor on the model's initial kernels, or None without it.
    clip_norm: Largest norm of the whole gradient, or None without it.
    ema: Decay of the average of the weights, or None without one.
    numbers: The method's own hyper-parameters by name, or None if it has none.
    ends: What the temperature, and alpha, move to, where they are scheduled.
    progress: Part of the run that is done, in [0, 1]; the step sets it.
  """

  temperature: jax.Array | float = 1.0
  hard_weight: jax.Array | float = 1.0
  soft_weight: jax.Array | float = 0.0
  label_smoothing: jax.Array | float = 0.0
  learning_rate: jax.Array | float = 1e-3
  momentum: jax.Array | float = 0.9
  momentum_end: jax.Array | float | None = None
  weight_decay: jax.Array | float = 0.0
  rates: Mapping[str, jax.Array | float] | None = None
  max_norm: jax.Array | float | None = None
  init_scale: jax.Array | float | None = None
  clip_norm: jax.Array | float | None = None
  ema: jax.Array | float | None = None
  numbers: Mapping[str, jax.Array | float] | None = None
  ends: Mapping[str, jax.Array | float] | None = None
  progress: jax.Array | float | None = None
