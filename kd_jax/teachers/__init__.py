"""Frozen teachers: live nets, ensembles of them, and banks of their logits."""

from kd_jax.teachers.check import account, problem
from kd_jax.teachers.teacher import (
    MEANS,
    Teacher,
    averaged,
    banked,
    combine,
    live,
    outputs,
    streamed,
    weights_of,
)

__all__ = [
    "MEANS", "Teacher", "account", "averaged", "banked", "combine", "live",
    "outputs", "problem", "streamed", "weights_of",
]
