r"""Teachers of some classes each, and one student of all classes, on MNIST.

`low` sees the digits 0 to 4 alone, `high` 5 to 9. `student` sees all digits without
their labels, and learns from both at once. Of each class the teacher counts that
knows it (`teacher_classes`); of each digit the one that is surer of it
(`teacher_mean`). In `features` they are unlike nets, and the student compares its
last vector with those of both too, each through a regressor of its own; the tap of
a teacher is `NAME.tap` (`features.pairs`). All nets are tested on all ten digits,
so a teacher of five of them misses at least the other half.

  python -m kd_jax.main --config=configs/tasks.py --workdir=runs/tasks

Each net has the keys of a student, such as `nets.student.temperature`. Others:

  --config.nets.student.teacher_mean=logits          their logits side by side
  --config.nets.student.alpha=0.5                    labels too

Variants:
  configs/tasks.py             20 epochs of each net
  configs/tasks.py:features    unlike teachers, and their features too
  configs/tasks.py:smoke       the same program, 60 steps of each net

The loss of the student is hard_weight * CE + soft_weight * T**2 * KL; alpha is the
share of the SOFT term. The weight of the features is not chosen, and nothing is
measured here.
"""

from kd_jax import config as config_lib

VARIANTS = ("default", "features", "smoke")
CLASSES = ((0, 1, 2, 3, 4), (5, 6, 7, 8, 9))


def get_config(variant: str = "default"):
  """The config of a variant."""
  config_lib.check_variant(variant, VARIANTS)
  config = config_lib.default("low", "high", "student")

  config.data.name = "mnist"
  config.method = "kd"
  config.temperature, config.alpha = 4.0, 1.0
  config.batch_size, config.epochs = 128, 20
  config.optimizer.name = "adam"
  config.optimizer.learning_rate = 1e-3
  config.optimizer.schedule = "cosine"

  for name, classes in zip(("low", "high"), CLASSES):
    config.nets[name].widths = (800, 800)
    config.nets[name].transfer.classes = classes
  student = config.nets.student
  student.widths, student.teachers = (300, 300), ("low", "high")
  student.teacher_classes, student.teacher_mean = CLASSES, "certainty"
  if variant == "features":
    config.nets.high.name, config.nets.high.widths = "convnet", ()
    student.method, student.hint.weight = "kd+hint", 1.0
    student.features.pairs = (
        ("pooled", "low.pooled"), ("pooled", "high.hidden"))
  if variant == "smoke":
    config.steps = 60
  return config
