r"""Teachers of some classes each, and one student of all classes, on MNIST.

`low` sees the digits 0 to 4 alone, `high` 5 to 9. `student` sees all digits without
their labels, and learns from both at once. Of each class the teacher counts that
knows it (`teacher_classes`); of each digit the one that is surer of it
(`teacher_mean`).

  python -m kd_jax.main --config=configs/tasks.py --workdir=runs/tasks

Each net has the keys of a student, such as `nets.student.temperature`. Others:

  --config.nets.student.teacher_mean=logits          their logits side by side
  --config.nets.student.alpha=0.5                    labels too

Variants:
  configs/tasks.py          20 epochs of each net
  configs/tasks.py:smoke    the same program, 60 steps of each net

The loss of the student is hard_weight * CE + soft_weight * T**2 * KL; alpha is the
share of the SOFT term. Expected score: not measured.
"""

from kd_jax import config as config_lib

VARIANTS = ("default", "smoke")
CLASSES = ((0, 1, 2, 3, 4), (5, 6, 7, 8, 9))


def get_config(variant: str = "default"):
  """The config of a variant."""
  config_lib.check_variant(variant, VARIANTS)
  config = config_lib.default("low", "high", "student")

  config.data.name = "mnist"
  config.method = "kd"
  config.temperature = 4.0
  config.alpha = 1.0
  config.batch_size = 128
  config.epochs = 20
  config.optimizer.name = "adam"
  config.optimizer.learning_rate = 1e-3
  config.optimizer.schedule = "cosine"

  for name, classes in zip(("low", "high"), CLASSES):
    config.nets[name].widths = (800, 800)
    config.nets[name].transfer.classes = classes
  config.nets.student.widths = (300, 300)
  config.nets.student.teachers = ("low", "high")
  config.nets.student.teacher_classes = CLASSES
  config.nets.student.teacher_mean = "certainty"

  if variant == "smoke":
    config.steps = 60
  return config
