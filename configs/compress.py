r"""Model compression (Bucila, Caruana & Niculescu-Mizil 2006) on UCI's letters.

Is a letter an O? Ten nets learn from 5,000 labelled examples. One net learns the
mean of their probabilities on these, and on 100,000 pseudo examples that MUNGE
makes of them. The baseline learns from the 5,000 labels.

  python -m kd_jax.main --config=configs/compress.py --config.data.dir=DIR

DIR has letter-recognition.data, or uci/letter-recognition.data. Others:

  --config.data.name=letter.p2              A to M against N to Z; adult: two files
  --config.data.pseudo=nbe                  the paper's other generators, and none
  --config.data.split=1 --config.seed=1     another draw of the 5,000
  --config.teacher.logits=FILE              any model: examples/any_model.py

Variants:
  configs/compress.py          20,000 steps of each student
  configs/compress.py:smoke    the same program with little of everything

The loss is alpha * T**2 * KL at alpha = 1, T = 1: the cross-entropy with the
ensemble's probabilities, but for a constant. The paper's ensembles are of other
models than nets. Scores: experiments/bucila06.
"""

from kd_jax import config as config_lib

VARIANTS = ("default", "smoke")


def get_config(variant: str = "default"):
  """The config of a variant."""
  config_lib.check_variant(variant, VARIANTS)
  config = config_lib.default()
  config.data.name = "letter.p1"
  config.data.split = 0
  config.data.scale = "standard"
  config.data.pseudo = "munge"
  config.method = "kd"
  config.temperature = 1.0
  config.alpha = 1.0
  config.steps = 20_000

  config.student.widths = (256,)
  config.teacher.widths = (256,)
  config.teacher.count = 10
  config.teacher.steps = 4000
  config.teacher.views = "none"
  for training in (config, config.teacher):
    training.batch_size = 128
    training.optimizer.learning_rate = 2e-3

  if variant == "smoke":
    config.data.pseudo_size, config.steps = 10_000, 1000
    config.teacher.count, config.teacher.steps = 2, 1000
  return config
