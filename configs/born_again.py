r"""Born-again generations (Furlanello et al. 2018, arXiv 1805.04770) on MNIST.

A net of 2x800 learns from labels: `generation_0`. Each next generation has the
same architecture and is the student of the one before; `generation_1` is
self-distillation. `student` learns from generations 1-3 at once, that is from the
mean of their probabilities.

  python -m kd_jax.main --config=configs/born_again.py --workdir=runs/born_again

Each net has the keys of a student, such as `nets.generation_2.alpha`. Others:

  --config.alpha=1.0                              all from their teachers alone
  --config.nets.student.teachers="('generation_0',)"
  --config.nets.student.method=dkpp               the paper's controls: cwtm, dkpp

Variants:
  configs/born_again.py          20 epochs of each net
  configs/born_again.py:smoke    the same program, 60 steps of each net

The loss of each student is hard_weight * CE + soft_weight * T**2 * KL at T = 1;
alpha is the share of the SOFT term. At 0.5 it is half of the paper's CE + KL
(BAN+L), which is nearly the same to Adam. Scores: experiments/ban_mnist.
"""

from kd_jax import config as config_lib

VARIANTS = ("default", "smoke")
GENERATIONS = tuple(f"generation_{number}" for number in range(5))


def get_config(variant: str = "default"):
  """The config of a variant."""
  config_lib.check_variant(variant, VARIANTS)
  config = config_lib.default(*GENERATIONS, "student")

  config.data.name = "mnist"
  config.method = "kd"
  config.temperature = 1.0
  config.alpha = 0.5
  config.batch_size = 128
  config.epochs = 20
  config.optimizer.name = "adam"
  config.optimizer.learning_rate = 1e-3
  config.optimizer.schedule = "cosine"

  for number, name in enumerate(GENERATIONS):
    config.nets[name].widths = (800, 800)
    config.nets[name].teachers = GENERATIONS[max(number - 1, 0):number]
  config.nets.student.widths = (800, 800)
  config.nets.student.teachers = GENERATIONS[1:4]

  if variant == "smoke":
    config.steps = 60
  return config
