"""A linear student that explains its teacher near one image: DeepVID.

Wang et al. (2019) train a softmax regression on a teacher's softened labels of the
neighbours of an instance, which a VAE draws. Beside it the neighbours that others
use: cells of pixels masked, and Gaussian noise. `table` measures how faithful the
student is, on its own samples and on real images, how far its weights name pixels
that matter, and how stable they are; `constant` counts how often neighbours simply
have the instance's class, which needs no explanation; `examples` keeps two
instances to be shown.
"""

import functools

from experiments.deepvid19 import plan
from experiments.deepvid19.verdict import conclude, pictures, status
from experiments.protocol import Options, Place, Rows, Stage

__all__ = ["CLAIM", "COMMAND", "conclude", "pictures", "stages", "status"]

CLAIM = ("a linear student of a VAE's neighbours, given softened labels, explains "
         "its teacher at an instance (no number of theirs is at hand)")
DATA = "MNIST, as the paper's, 10 images of each class"
UNIT = "agreement and probability"
# No stage is a sweep.
COMMAND = ""


def stages(options: Options) -> list[Stage]:
  """The table, what a constant would reach, and what is shown."""
  form = plan.QUICK if options.quick else plan.FULL
  if options.seeds:
    form = form._replace(seeds=options.seeds)
  return [Stage("table", run=functools.partial(_table, form), shards=False),
          Stage("constant", run=functools.partial(_constant, form), shards=False),
          Stage("examples", run=functools.partial(_examples, form), shards=False)]


def _table(form: plan.Form, rows: Rows, place: Place) -> None:
  from experiments.deepvid19 import work  # jax, which a plan does not need
  work.run(form, place)


def _constant(form: plan.Form, rows: Rows, place: Place) -> None:
  from experiments.deepvid19 import work  # as above
  work.run_constant(form, place)


def _examples(form: plan.Form, rows: Rows, place: Place) -> None:
  from experiments.deepvid19 import work  # as above
  work.run_examples(form, place)
