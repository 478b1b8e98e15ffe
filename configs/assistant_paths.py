r"""All paths of assistants (Mirzadeh et al. 2020, arXiv 1902.03393) on MNIST.

From a 2x1200 teacher down to students of 2x30, past any of the assistants 2x800,
2x300 and 2x100: 8 paths, which share the nets of the same beginning, 15 in all.
`net_800_100` is the net of 2x100 that learns from the one of 2x800; `net_30` learns
from the teacher; `labels` is a net of 2x30 that learns from labels alone.

  python -m kd_jax.main --config=configs/assistant_paths.py --workdir=runs/paths

Each net has the keys of a student, such as `nets.net_800_30.temperature`. One path
alone: `configs/assistant.py`. Scores: experiments/takd_mnist.

Variants:
  configs/assistant_paths.py          20 epochs of each net
  configs/assistant_paths.py:smoke    the same program, 60 steps of each net

The loss of a student is hard_weight * CE + soft_weight * T**2 * KL; alpha is the
share of the SOFT term.
"""

import itertools

from kd_jax import config as config_lib

VARIANTS = ("default", "smoke")
TEACHER, ASSISTANTS, STUDENT = 1200, (800, 300, 100), 30
# Shorter paths first: a net comes after its teacher.
_PAST = [past for number in range(len(ASSISTANTS) + 1)
         for past in itertools.combinations(ASSISTANTS, number)]
WHOLE = tuple((*past, STUDENT) for past in _PAST)
PATHS = (*_PAST[1:], *WHOLE)


def name(path: tuple[int, ...]) -> str:
  """The net at the end of a path; of no path, the teacher."""
  return "_".join(["net", *map(str, path)]) if path else "teacher"


def get_config(variant: str = "default"):
  """The config of a variant."""
  config_lib.check_variant(variant, VARIANTS)
  config = config_lib.default("teacher", "labels", *map(name, PATHS))

  config.data.name = "mnist"
  config.method = "kd"
  config.temperature, config.alpha = 4.0, 0.9
  config.batch_size, config.epochs = 128, 20
  config.optimizer.name = "adam"
  config.optimizer.learning_rate = 1e-3
  config.optimizer.schedule = "cosine"

  teacher, labels = config.nets.teacher, config.nets.labels
  teacher.widths, labels.widths = (TEACHER, TEACHER), (STUDENT, STUDENT)
  teacher.views = "shift2"
  teacher.seed = 0  # One teacher for all seeds, as in the main job.
  for path in PATHS:
    net = config.nets[name(path)]
    net.widths, net.teachers = path[-1:] * 2, (name(path[:-1]),)
  config.steps = 60 if variant == "smoke" else None
  return config
