r"""Annealing-KD (Jafari et al. 2021, arXiv 2104.07163) on MNIST.

A teacher of 2x1200 and a student of 2x30 in two phases. First `annealed` regresses
the teacher's logits, of which it is shown 1/10, then 2/10, at last all. Then
`student` starts from it, and learns from the labels alone.

  python -m kd_jax.main --config=configs/annealed.py --workdir=runs/annealed

Each net has the keys of a student, such as `nets.annealed.epochs`. Others:

  --config.annealed.levels=4                  T_max, the number of steps
  --config.nets.annealed.annealed.levels=1    all logits at once: the control

Variants:
  configs/annealed.py          20 epochs of the first phase, 10 of the second
  configs/annealed.py:smoke    the same program with small nets, 60 steps

The loss of `annealed` is |z - a v|**2 / N with a = 1 - (T - 1) / T_max, that of
`student` CE. The authors' code has 200 and 100 epochs of SGD on CIFAR, T_max = 10,
and starts the second phase from the best epoch of the first by the test set; here
it is the last. Expected score: not measured.
"""

from kd_jax import config as config_lib

VARIANTS = ("default", "smoke")


def get_config(variant: str = "default"):
  """The config of a variant."""
  config_lib.check_variant(variant, VARIANTS)
  config = config_lib.default("teacher", "annealed", "student")
  teacher, annealed, student = (config.nets[name] for name in config.recipe)

  config.data.name = "mnist"
  config.alpha = 1.0
  config.batch_size = 128
  config.optimizer.name = "adam"
  config.optimizer.learning_rate = 1e-3
  config.optimizer.schedule = "cosine"

  teacher.widths = (1200, 1200)
  teacher.views = "shift2"
  teacher.seed = 0  # One teacher for all seeds, as in the main job.
  teacher.epochs = annealed.epochs = 20
  student.epochs = 10

  annealed.widths = student.widths = (30, 30)
  annealed.teachers = ("teacher",)
  annealed.method = "annealed"
  student.init_from = "annealed"

  if variant == "smoke":
    teacher.steps = annealed.steps = student.steps = 60
    teacher.widths = (64, 64)
  return config
