"""A user's own method, given by its file; its numbers are keys of the config.

  python -m kd_jax.main --config=configs/mnist.py:smoke \
      --config.method=examples/own_method.py:focal_kd --config.focal_kd.power=2
"""

from kd_jax import losses
from kd_jax.methods import Method, nothing
from kd_jax.methods.terms import Term


def terms(own, student, teacher, batch, hparams):
  """T**2 * KL, weighed by how unsure the teacher is of the label."""
  del own
  t = hparams.temperature
  kl = losses.distillation_kl(student.logits, teacher.logits, t)
  sure = losses.tempered_softmax(teacher.logits, t).max(axis=-1)
  weight = (1.0 - sure) ** hparams.numbers["power"]
  return {
      "hard": Term(hparams.hard_weight, losses.hard_cross_entropy(
          student.logits, batch.label)),
      "soft": Term(hparams.soft_weight, weight * t**2 * kl)}


focal_kd = Method(
    "{hard_weight:.3g} * CE + {soft_weight:.3g} * (1 - p)**{power:g} * T**2 * KL, "
    "T = {temperature:g}", nothing, terms, numbers={"power": 1.0},
    weights=("hard_weight", "soft_weight"))
