"""Frozen teachers: live nets, ensembles of them, and banks of their logits."""

from kd_jax.teachers.check import problem
from kd_jax.teachers.teacher import (
    MEANS,
    Teacher,
    banked,
    combine,
    live,
    outputs,
    streamed,
)

__all__ = [
    "MEANS", "Teacher", "banked", "combine", "live", "outputs", "problem",
    "streamed",
]
