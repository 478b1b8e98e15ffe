r"""Noisy students (Xie et al. 2020, arXiv 1911.04252) on MNIST with few labels.

1,000 of the 60,000 labels are known. A teacher learns from these alone; a student
sees all digits, learns the teacher's outputs for them, and is the teacher of the
next: three rounds. The student has noise, which is views (shifts) and dropout; the
teacher sees the digit itself, without dropout. A student is as large as its teacher
or larger.

  python -m kd_jax.main --config=configs/noisy_student.py --workdir=runs/noisy

Others:
  --config.transfer.labelled=300 --config.transfer.seed=1   fewer, another draw
  --config.method=pseudo_label             the teacher's class, and not its softmax
  --config.student.views=none --config.student.hidden_dropout=0     without noise
  --config.student.widths="(1200,1200)"    students that are larger
  --config.evaluate.corruptions=true       errors on corrupted digits too

Variants:
  configs/noisy_student.py          10 epochs of each student
  configs/noisy_student.py:once     one round
  configs/noisy_student.py:labels   the teacher alone
  configs/noisy_student.py:smoke    the same program, 60 steps of each net

The loss of an example is CE + KL at T = 1, without CE where its label is unknown.
The paper's students are EfficientNets with RandAugment and stochastic depth, which
see a label or a pseudo label of each image: 88.4% of ImageNet, a corruption error
(mCE) of 28.3; the best before had 45.7. Scores here:
experiments/noisy_student_mnist.
"""

from kd_jax import config as config_lib

VARIANTS = ("default", "once", "labels", "smoke")
STUDENTS = ("student_1", "student_2", "student")


def get_config(variant: str = "default"):
  """The config of a variant."""
  config_lib.check_variant(variant, VARIANTS)
  students = {"once": ("student",), "labels": ()}.get(variant, STUDENTS)
  config = config_lib.default("teacher", *students)

  config.data.name = "mnist"
  config.transfer.labelled = 1_000
  config.method, config.temperature = "kd", 1.0
  config.alpha, config.hard_weight, config.soft_weight = None, 1.0, 1.0
  config.batch_size, config.epochs = 128, 10
  config.student.views, config.student.hidden_dropout = "shift2", 0.5
  config.teacher.sees = "clean"

  teacher = config.nets.teacher
  teacher.widths, teacher.steps = (800, 800), 3_000
  teacher.views, teacher.hidden_dropout = "shift2", 0.5
  for before, name in zip(("teacher", *students), students, strict=False):
    config.nets[name].teachers = (before,)

  if variant == "smoke":
    config.steps = teacher.steps = 60
  return config
