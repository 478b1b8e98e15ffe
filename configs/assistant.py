r"""Teacher assistants (Mirzadeh et al. 2020, arXiv 1902.03393) on MNIST.

A 2x1200 teacher, then ever smaller nets, each the student of the one before: 2x400,
2x100, 2x30: each has a third or a quarter of its teacher's units.

  python -m kd_jax.main --config=configs/assistant.py --workdir=runs/assistant

Each net has the keys of a student: `nets.NAME.widths`, `.temperature`, `.alpha`,
`.epochs`, `.optimizer.learning_rate` and all others; one that is not set is the
run's, `temperature`, `alpha`, `epochs`. Other chains:

  --config.nets.student.teachers="('teacher',)"         without assistants
  --config.nets.student.teachers="('first','second')"   of both at once
  --sweep.nets.student.temperature=1,4,20 --sweep.seed=0,1,2

Variants:
  configs/assistant.py            20 epochs of each net
  configs/assistant.py:densely    each net learns from all nets above it
  configs/assistant.py:smoke      the same program with small nets, 300 steps

The loss of each student is hard_weight * CE + soft_weight * T**2 * KL; alpha is the
share of the SOFT term. In `densely` (Son et al. 2021, arXiv 2009.08825) KL is from
the mean of the probabilities at T of the n nets above; the authors' code (2599350)
sums the n KLs, and leaves one out in each step, at random. The settings are of
configs/mnist.py, not chosen for these chains. Expected score: not measured. All
paths from one teacher to one student: configs/assistant_paths.py.
"""

from kd_jax import config as config_lib

VARIANTS = ("default", "densely", "smoke")
NETS = ("teacher", "first", "second", "student")


def get_config(variant: str = "default"):
  """The config of a variant."""
  config_lib.check_variant(variant, VARIANTS)
  config = config_lib.default(*NETS)

  config.data.name = "mnist"
  config.method = "kd"
  config.temperature = 8.0
  config.alpha = 0.9
  config.batch_size = 128
  config.epochs = 20
  config.min_steps = 2000
  config.optimizer.name = "adam"
  config.optimizer.learning_rate = 1e-3
  config.optimizer.schedule = "cosine"

  widths = {"teacher": 1200, "first": 400, "second": 100, "student": 30}
  if variant == "smoke":
    config.steps = 300
    widths = {"teacher": 200, "first": 100, "second": 50, "student": 30}
  config.nets.teacher.views = "shift2"
  for number, name in enumerate(NETS):
    config.nets[name].widths = (widths[name], widths[name])
    config.nets[name].teachers = NETS[
        0 if variant == "densely" else max(number - 1, 0):number]
  return config
