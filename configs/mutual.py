r"""Deep mutual learning (Zhang et al. 2018, arXiv 1706.00384) on MNIST.

Two nets train together, without a teacher: each learns from the labels and from
what the other says of the same batch at the same step.

  python -m kd_jax.main --config=configs/mutual.py --workdir=runs/mutual

The row `student+peer` is of both as one, by the mean of their probabilities;
`student` and `peer` are of each. Others:

  --config.nets.peer.widths="(30,30)"   a small net beside a large one
  --config.method=hard                  the control: each learns from labels alone

Variants:
  configs/mutual.py           20 epochs
  configs/mutual.py:three     each learns from the mean of the two others
  configs/mutual.py:static    the peer is trained first, and is an ordinary teacher
  configs/mutual.py:smoke     the same program, 60 steps

The loss of each net is CE + T**2 * KL(mean of the others || itself) at T = 1.
"""

from kd_jax import config as config_lib

VARIANTS = ("default", "three", "static", "smoke")


def get_config(variant: str = "default"):
  """The config of a variant."""
  config_lib.check_variant(variant, VARIANTS)
  static = variant == "static"
  names = ("student", "peer", "third")[:3 if variant == "three" else 2]
  entries = ("peer", "student") if static else ("+".join(names),)
  config = config_lib.default(*entries)

  config.data.name = "mnist"
  config.method = "kd"
  config.temperature = 1.0
  config.alpha, config.hard_weight, config.soft_weight = None, 1.0, 1.0
  config.batch_size = 128
  config.epochs = 20
  config.optimizer.name = "adam"
  config.optimizer.learning_rate = 1e-3
  config.optimizer.schedule = "cosine"
  for name in names:
    config.nets[name].widths = (800, 800)
  if static:
    config.nets.student.teachers = ("peer",)

  if variant == "smoke":
    config.steps = 60
  return config
