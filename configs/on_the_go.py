r"""Distill on the Go (Bhat et al. 2021, arXiv 2104.09866) on MNIST.

Two nets learn features together, without labels: each tells the other view of a
digit from all other digits of the batch (SimCLR), and finds those digits alike that
the other net finds alike. Labels train the last layer alone, so the errors of a
net are those of a linear probe that is trained along with its features.

  python -m kd_jax.main --config=configs/on_the_go.py --workdir=runs/go

A net of another run, with as many units, goes on from these features, such as with
few labels, `transfer.labelled=300`, by `init_from=runs/go/parameters/student`.

Others:

  --config.dogo.weight=0                 the control: each net by itself, SimCLR
  --config.nets.peer.widths="(100,100)"  a peer of the same size
  --config.student.views=elastic         other views
  --config.hard_weight=0                 no labels at all; errors say nothing then

Variants:
  configs/on_the_go.py         40 epochs
  configs/on_the_go.py:smoke   the same program, 60 steps

The loss of each net is CE (of the probe) + contrast * NT-Xent + weight * KL of
likenesses. `dogo` and the batch are as in the authors' code, for ResNet-18 on
CIFAR-10; its rate is 3e-4 and constant. Nothing is chosen or measured here.
"""

from kd_jax import config as config_lib

VARIANTS = ("default", "smoke")


def get_config(variant: str = "default"):
  """The config of a variant."""
  config_lib.check_variant(variant, VARIANTS)
  config = config_lib.default("student+peer")

  config.data.name = "mnist"
  config.method = "dogo"
  config.alpha, config.hard_weight, config.soft_weight = None, 1.0, 0.0
  config.student.views = "distort"
  config.batch_size = 256
  config.epochs = 40
  config.optimizer.name = "adam"
  config.optimizer.learning_rate = 1e-3
  config.optimizer.schedule = "cosine"
  config.nets.student.widths = (100, 100)
  config.nets.peer.widths = (800, 800)

  if variant == "smoke":
    config.steps, config.batch_size = 60, 64
  return config
