r"""Keras's knowledge-distillation example, as published (K. Borup, 2020).

keras.io/examples/vision/knowledge_distillation: a convolutional teacher of
1,433,610 parameters, trained for 5 epochs, and a student of 20,490, trained for 3
on labels alone and distilled.

  python -m kd_jax.main --config=experiments/keras_example/config.py \
    --workdir=runs/keras

The example's alpha = 0.1 is the weight of the HARD loss; ours is the share of the
SOFT one, so 0.9. Its `batch_size = 64` is never used: `fit` takes 32, its default,
which is 1875 steps an epoch. About 20 minutes on two cores, nearly all of it the
teacher's. What it comes to: README.md beside this file.
"""

from kd_jax import config as config_lib

VARIANTS = ("default",)


def get_config(variant: str = "default"):
  """The config of the example."""
  config_lib.check_variant(variant, VARIANTS)
  config = config_lib.default()
  config.data.name = "mnist"
  config.method = "kd"
  config.temperature = 10.0
  config.alpha = 0.9
  config.epochs = 3
  config.teacher.epochs = 5
  for run in (config, config.teacher):
    run.batch_size = 32
    run.optimizer.name = "adam"
    run.optimizer.learning_rate = 1e-3
    run.optimizer.epsilon = 1e-7
    run.optimizer.schedule = "constant"
  for net, widths in ((config.student, (16, 32)), (config.teacher, (256, 512))):
    net.name = "experiments.keras_example.model:Net"
    net.widths = widths
    net.views = "none"
  return config
