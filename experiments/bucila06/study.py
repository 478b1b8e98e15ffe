"""Model compression (Bucila, Caruana & Niculescu-Mizil 2006): Tables 2 to 4.

An ensemble is selected from a library of scikit-learn's models, labels pseudo
examples that MUNGE makes of the training set, and a net of one hidden layer learns
its probabilities. Beside it the paper's other generators, fewer examples and units,
and the same net from labels alone.
"""

import functools

from experiments.bucila06 import plan
from experiments.bucila06.verdict import conclude, pictures, status
from experiments.protocol import Options, Place, Rows, Stage

__all__ = ["CLAIM", "COMMAND", "conclude", "pictures", "stages", "status"]

CLAIM = ("a net of 256 units compresses an ensemble of hundreds of models by "
         "MUNGE's examples: RMSE on letter.p1 .092 from labels, .075 compressed, "
         ".075 the ensemble; letter.p2 .228, .179, .178; adult .328, .325, .317")
DATA = "UCI letter and adult, other splits than the paper's"
UNIT = "RMSE; the paper's too"
# Its sweeps are made within a task.
COMMAND = ""


def stages(options: Options) -> list[Stage]:
  """One stage: each split of each problem is a task."""
  form = plan.QUICK if options.quick else plan.FULL
  if options.seeds:
    form = form._replace(splits=options.seeds)
  return [Stage("table", run=functools.partial(_table, form))]


def _table(form: plan.Form, rows: Rows, place: Place) -> None:
  from experiments.bucila06 import work  # jax, which a plan does not need
  work.run(form, place)
