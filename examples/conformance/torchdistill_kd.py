"""torchdistill's `KDLoss`."""

from torchdistill.losses.mid_level import KDLoss

from kd_jax.conformance import adapters


@adapters.torch
def loss(student_logits, teacher_logits, labels, temperature, alpha):
  """Its training runs the teacher under `no_grad`; here it is detached."""
  return KDLoss("net", "output", "net", "output", temperature, alpha=alpha)(
      {"net": {"output": student_logits}},
      {"net": {"output": teacher_logits.detach()}}, labels)
