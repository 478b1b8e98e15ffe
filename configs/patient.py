r"""Function matching (Beyer et al. 2022, arXiv 2106.05237) on MNIST: patience.

A teacher of 2x800 and a student of 2x100, both of the same 3,000 digits. The
student learns from the teacher alone, without labels, for many epochs, on digits
that are shifted and mixed with one another; both nets see the same (`student`).

  python -m kd_jax.main --config=configs/patient.py --workdir=runs/patient

Each net has the keys of a student, such as `nets.student.temperature`. Others:

  --config.nets.student.epochs=1000                      more patience
  --config.nets.student.mixup=0                          the same views, not mixed
  --config.nets.student.teacher_sees=independent         each its own views
  --config.nets.student.teacher_sees=clean               the fixed teacher
  --config.transfer.part=1                               all digits, for both

Variants:
  configs/patient.py          300 epochs of the student
  configs/patient.py:smoke    the same program, 60 steps of each net

The loss is KL(teacher || student) at T, times T**2. The paper mixes with uniform
shares, as mixup = 1 does, takes crops instead of shifts, and has Adam with
decoupled weight decay. Scores: experiments/patient_mnist.
"""

from kd_jax import config as config_lib

VARIANTS = ("default", "smoke")


def get_config(variant: str = "default"):
  """The config of a variant."""
  config_lib.check_variant(variant, VARIANTS)
  config = config_lib.default("teacher", "student")
  teacher, student = config.nets.teacher, config.nets.student

  config.data.name = "mnist"
  config.transfer.part = 0.05
  config.method = "kd"
  config.temperature = 2.0
  config.alpha = 1.0
  config.batch_size = 128
  config.optimizer.name = "adamw"
  config.optimizer.learning_rate = 1e-3
  config.optimizer.schedule = "cosine"

  teacher.widths, teacher.epochs = (800, 800), 100
  student.widths, student.epochs = (100, 100), 300
  teacher.views = student.views = "shift2"
  student.teachers = ("teacher",)
  student.mixup = 1.0

  if variant == "smoke":
    teacher.steps = student.steps = 60
  return config
