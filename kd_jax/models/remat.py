"""A part of a net that the backward pass computes again instead of storing it.

  y = f(x),   dx = f'(x + 0 dy)^T dy

f is not computed again before dy is known: `0 dy` makes it wait, for XLA does not
leave out a product with 0, which may be NaN. `jax.checkpoint` has an optimisation
barrier in its place. XLA's CPU compiler drops it before it puts the operations in
order, computes all parts again at once, and so saves nothing.
"""

from collections.abc import Callable
from typing import Any

from flax.core import lift
import flax.linen as nn
import jax
import jax.numpy as jnp


def again(function: Callable[..., Any]) -> Callable[..., Any]:
  """`function(others, x)` of an array x, computed again for its gradients.

  Example:
    >>> jax.grad(lambda x: again(lambda a, x: a * x**2)(3.0, x))(jnp.float32(2))
    Array(12., dtype=float32)
  """
  @jax.custom_vjp
  def computed(others, x):
    return function(others, x)

  def forward(others, x):
    return function(others, x), (others, x)

  def backward(arguments, dy):
    others, x = arguments
    nothing = sum(jnp.sum(0.0 * leaf.ravel()[:1], dtype=x.dtype)
                  for leaf in jax.tree.leaves(dy)
                  if jnp.issubdtype(leaf.dtype, jnp.floating))
    return jax.vjp(function, others, x + nothing)[1](dy)

  computed.defvjp(forward, backward)
  return computed


def lifted(function: Callable[..., Any]) -> Callable[..., Any]:
  """`again` for `function(module, mask, x)`, of the module's variables too."""
  def transform(function):
    def inner(scope_of, repacked, variables, streams, mask, x):
      def pure(others, x):
        scope = scope_of(others[0], streams)
        # The backward pass begins where `linen_model` has ended.
        with jax.numpy_dtype_promotion("standard"):
          return function(scope, others[1], x), repacked(scope)
      return again(pure)((variables, mask), x)
    return lift.pack(inner, (True,), (True,), (), name="again")

  return nn.transforms.lift_transform(transform, function)
