r"""The roads from a large net to a small file, beside each other, on MNIST.

A teacher of 2x800 learns from labels. Of a tenth of its size or less are: `labels`,
2x64 units that learn from labels alone; `distilled`, the same as its student;
`few_bits`, the student trained as its weights are rounded to 4 bits; and of the
teacher itself, trained on, `pruned` (single weights), `channels` (whole units) and
`low_rank` (factors of its weights).

  python -m kd_jax.main --config=configs/deploy.py --workdir=runs/deploy
  python -m kd_jax.export runs/deploy --int8=dynamic \
      --net=teacher,labels,distilled,few_bits,pruned,channels,low_rank

Each net has the keys of a student. Others:

  --config.nets.pruned.prune=0.98               fewer weights; they stay 0
  --config.nets.low_rank.model.rank=10          thinner factors
  --config.nets.pruned.teachers="('teacher',)"  trained on as a student

Variants:
  configs/deploy.py          20 epochs of each net
  configs/deploy.py:smoke    the same program, 60 steps of each net

The loss of a student is 0.1 * CE + 0.9 * T**2 * KL; alpha is the share of the SOFT
term. Scores: experiments/deploy_mnist.
"""

from kd_jax import config as config_lib

VARIANTS = ("default", "smoke")
SMALL = ("labels", "distilled", "few_bits")
FROM_TEACHER = ("pruned", "channels", "low_rank")


def get_config(variant: str = "default"):
  """The config of a variant."""
  config_lib.check_variant(variant, VARIANTS)
  config = config_lib.default("teacher", *SMALL, *FROM_TEACHER)
  nets = config.nets

  config.data.name = "mnist"
  config.method = "kd"
  config.temperature = 4.0
  config.alpha = 0.9
  config.epochs = 20

  nets.teacher.widths, nets.teacher.hidden_dropout = (800, 800), 0.2
  for name in SMALL:
    nets[name].widths = (64, 64)
    nets[name].teachers = ("teacher",) if name != "labels" else ()
  nets.few_bits.weight_bits = 4
  for name in FROM_TEACHER:
    nets[name].widths, nets[name].init_from = (800, 800), "teacher"
    nets[name].optimizer.learning_rate = 3e-4
  nets.pruned.prune = nets.channels.prune = 0.92
  nets.channels.prune_by = "channels"
  nets.low_rank.model.rank = 32

  if variant == "smoke":
    config.steps = 60
  return config
