r"""Early-stopped teachers (Cho & Hariharan 2019, arXiv 1910.01348) on MNIST.

`of_1` to `of_40`, of 2x30, learn from a teacher of 2x400 as it is after 1, 2, 5,
10, 20 and 40 epochs, its last; `stopped` from the last for half of its training,
then from labels alone (early-stopped KD, ESKD); `labels` from labels alone.

  python -m kd_jax.main --config=configs/early_stopped.py --workdir=runs/early

Each net has the keys of a student, such as `nets.of_5.temperature`. Others:

  --config.temperature=2                            of all students
  --config.nets.stopped.teacher_epochs="(10,)"      KD for half, of an early teacher
  --config.nets.stopped.schedules.alpha_percent=75  KD for three quarters

Variants:
  configs/early_stopped.py          20 epochs of each student
  configs/early_stopped.py:smoke    the same program, teachers of 64 to 384 steps

All are one training of the teacher, cut: early, its learning rate is still high.
Loss of a student: hard_weight * CE + soft_weight * T**2 * KL; alpha is the share of
the SOFT term. Scores: experiments/early_stopped_mnist.
"""

from kd_jax import config as config_lib

VARIANTS = ("default", "smoke")
LAST = 40
EPOCHS = (1, 2, 5, 10, 20, LAST)
STUDENTS = tuple(f"of_{epoch}" for epoch in EPOCHS)


def get_config(variant: str = "default"):
  """The config of a variant."""
  config_lib.check_variant(variant, VARIANTS)
  config = config_lib.default("teacher", "labels", *STUDENTS, "stopped")

  config.data.name = "mnist"
  config.method = "kd"
  config.temperature = 4.0
  config.alpha = 0.9
  config.batch_size = 128
  config.epochs = 20
  config.optimizer.name = "adam"
  config.optimizer.learning_rate = 1e-3
  config.optimizer.schedule = "cosine"

  config.nets.teacher.widths = (400, 400)
  config.nets.teacher.epochs = LAST
  config.nets.labels.widths = (30, 30)
  for name, epoch in zip((*STUDENTS, "stopped"), (*EPOCHS, LAST), strict=True):
    net = config.nets[name]
    net.widths, net.teachers = (30, 30), ("teacher",)
    net.teacher_epochs = (0 if epoch == LAST else epoch,)  # 0 is the last.
  config.nets.stopped.schedules.alpha = "jump"
  config.nets.stopped.schedules.alpha_end = 0.0
  config.nets.stopped.schedules.alpha_percent = 50.0

  if variant == "smoke":
    config.epochs, config.nets.teacher.widths = 1, (64, 64)
  return config
