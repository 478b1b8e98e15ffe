r"""Hints in two stages (Romero et al. 2015, arXiv 1412.6550) on MNIST.

A teacher of 3x400 and a thin deep student of 15x32. First `guided` learns the
teacher's middle layer alone, by its own middle layer and a regressor. Then
`student` starts from it, and learns from the teacher's soft targets.

  python -m kd_jax.main --config=configs/fitnets.py --workdir=runs/fitnets

Each net has the keys of a student, such as `nets.student.temperature`. Hints beside
the labels from the first step on, in one stage, are
`--config=configs/mnist.py --config.method=hint`.

Variants:
  configs/fitnets.py          10 epochs of each student
  configs/fitnets.py:smoke    the same program with small nets, 200 steps

The loss of `guided` is hint.weight * |r(f) - g|**2 / size, that of `student`
hard_weight * CE + soft_weight * T**2 * KL; alpha is the share of the SOFT term. The
paper has convolutions of maxout units, and lowers the soft term over the epochs.
Scores: experiments/fitnets_mnist.
"""

from kd_jax import config as config_lib

VARIANTS = ("default", "smoke")


def get_config(variant: str = "default"):
  """The config of a variant."""
  config_lib.check_variant(variant, VARIANTS)
  config = config_lib.default("teacher", "guided", "student")
  teacher, guided, student = (config.nets[name] for name in config.recipe)

  config.data.name = "mnist"
  config.method = "kd"
  config.temperature = 4.0
  config.alpha = 0.9
  config.batch_size = 128
  config.epochs = 10
  config.optimizer.name = "adam"
  config.optimizer.learning_rate = 1e-3
  config.optimizer.schedule = "cosine"

  teacher.widths = (400, 400, 400)
  teacher.views = "shift2"
  teacher.epochs, teacher.min_steps = 20, 4000
  teacher.seed = 0  # One teacher for all seeds, as in the main job.

  guided.widths = student.widths = (32,) * 15
  guided.teachers = student.teachers = ("teacher",)
  guided.method = "hint"
  guided.hard_weight = 0.0
  guided.features.pairs = (("hidden_9", "hidden_1"),)
  student.init_from = "guided"

  if variant == "smoke":
    config.steps = teacher.steps = 200
    teacher.widths = (64, 64, 64)
  return config
