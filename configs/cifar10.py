"""Distilling on CIFAR-10 (Krizhevsky 2009) with small residual nets.

The student is the ResNet of He et al. (2015), arXiv 1512.03385, section 4.2,
with one block a stage, 78,042 parameters; the teacher has twice its channels,
308,650 parameters. No paper we know of gives this pair.

  python -m kd_jax.main --config=configs/cifar10.py --workdir=runs/cifar10

Data: the six .bin files of the official "binary version" in DIR/cifar10 or
DIR/cifar-10-batches-bin, with --config.data.dir=DIR or KD_JAX_DATA=DIR; else
TFDS's `cifar10`.

Variants:
  configs/cifar10.py          164 epochs of each net: meant for an accelerator
  configs/cifar10.py:smoke    the same program with tiny nets, 20 steps

As in section 4.2: batches of 128, 64,000 steps, learning rate 0.1, divided by
10 at a half and at three quarters, 4 pixels of padding, crop and flip. Not as
there: Nesterov's momentum, weight decay 5e-4 (theirs is 1e-4), projections
where channels change (theirs have none), pixels scaled by channel (they
subtract the mean of each pixel). T = 4 and alpha = 0.9 are those of Tian et al.
(2020), arXiv 1910.10699.

The loss is hard_weight * CE + soft_weight * T**2 * KL; alpha is the share of
the SOFT term. Expected score: not measured.
"""

from kd_jax import config as config_lib

VARIANTS = ("default", "smoke")


def get_config(variant: str = "default"):
  """The config of a variant."""
  config_lib.check_variant(variant, VARIANTS)
  config = config_lib.default()

  config.data.name = "cifar10"
  config.data.scale = "standard"
  config.method = "kd"
  config.temperature = 4.0
  config.alpha = 0.9

  for run in (config, config.teacher):
    run.batch_size = 128
    run.epochs = 164
    run.optimizer.name = "sgd"
    run.optimizer.learning_rate = 0.1
    run.optimizer.momentum = 0.9
    run.optimizer.nesterov = True
    run.optimizer.weight_decay = 5e-4
    run.optimizer.schedule = "step"
    run.optimizer.boundaries_percent = (50.0, 75.0)
    run.optimizer.factor = 0.1

  # The teacher sees the very pixels that the student sees.
  config.student.name = config.teacher.name = "resnet8"
  config.student.views = config.teacher.views = "crop4_flip"
  config.student.widths = (16, 32, 64)
  config.teacher.widths = (32, 64, 128)

  if variant == "smoke":
    config.steps = config.teacher.steps = 20
    config.student.widths = (4, 4, 8)
    config.teacher.widths = (4, 8, 16)
  return config
