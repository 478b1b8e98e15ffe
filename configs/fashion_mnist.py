"""Distilling on Fashion-MNIST (Xiao, Rasul & Vollgraf 2017, arXiv 1708.07747).

The nets of Hinton, Vinyals & Dean (2015), section 3, on a set of MNIST's size
and shape that is harder: a 2x1200 teacher, a 2x800 student on hard labels, and
the same student with soft targets. No paper we know of gives this pair here.

  python -m kd_jax.main --config=configs/fashion_mnist.py --workdir=runs/fashion

Data: the four idx files of github.com/zalandoresearch/fashion-mnist in
DIR/fashion_mnist or DIR/FashionMNIST/raw, with --config.data.dir=DIR or
KD_JAX_DATA=DIR; else TFDS's `fashion_mnist`. Do not mix its files with MNIST's,
which have the same names.

Variants:
  configs/fashion_mnist.py          20 epochs of each net
  configs/fashion_mnist.py:smoke    the same program with small nets, 500 steps

The loss is hard_weight * CE + soft_weight * T**2 * KL; alpha is the share of
the SOFT term. Expected score: not measured. The settings are those of
configs/mnist.py, not chosen for this set.
"""

from kd_jax import config as config_lib

VARIANTS = ("default", "smoke")


def get_config(variant: str = "default"):
  """The config of a variant."""
  config_lib.check_variant(variant, VARIANTS)
  config = config_lib.default()

  config.data.name = "fashion_mnist"
  config.method = "kd"
  config.temperature = 8.0
  config.alpha = 0.9

  for run in (config, config.teacher):
    run.batch_size = 128
    run.epochs = 20
    run.optimizer.name = "adam"
    run.optimizer.learning_rate = 1e-3
    run.optimizer.schedule = "cosine"

  config.student.name = "mlp"
  config.student.widths = (800, 800)
  config.student.views = "none"

  config.teacher.name = "mlp"
  config.teacher.widths = (1200, 1200)
  config.teacher.views = "shift2"

  if variant == "smoke":
    config.steps = config.teacher.steps = 500
    config.student.widths = (100, 100)
    config.teacher.widths = (200, 200)
  return config
