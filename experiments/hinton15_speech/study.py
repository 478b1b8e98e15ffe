"""Does distilling work for speech? Hinton, Vinyals & Dean (2015), section 4.

Table 1: an ensemble of 10 acoustic models names more frames rightly than one, and
a single net distilled from it keeps "more than 80% of the improvement".

A speaker is left out, six times. For each, `choosing` picks epochs and learning
rate on another speaker, so that the one left out has no say; `table` trains with
them on the five, and looks at the sixth once; `utterances` reads words off the
logits. What is tested, and how, is fixed here and in `verdict`, before any run.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from configs import mnist
from experiments import fair
from experiments.hinton15_speech import decode, sets, verdict
from experiments.protocol import Options, Rows, Stage
from kd_jax.config import sweep
from kd_jax.core.errors import UserError
from kd_jax.report import Row

CLAIM = ("frame accuracy 58.9% of an acoustic model, 61.1% of ten, 60.8% distilled "
         "from them: more than 80% of the gain")
DATA = "3,000 spoken digits of 6 speakers; the paper's 2,000 hours"
UNIT = "frame accuracy in %; the paper's too"
COMMAND = "--config=configs/mnist.py"
# Thousands of frames a net; and windows of the recordings, which are not ours.
NOT_COMMITTED = dict.fromkeys(
    ("choosing", "table", "utterances"), ("test_wrong_ids", "examples"))
REFERENCE = {"hard_weight": 1.0, "soft_weight": 0.0}
TEMPERATURES = (1.0, 2.0, 5.0, 10.0)
# The paper's best, so nothing is chosen by the rows.
HEADLINE = verdict.HEADLINE
MEMBERS = 10
SEEDS = 3
# "A relative weight of 0.5 on the cross-entropy for the hard targets": relative to
# the soft ones, whose weight is 1. With Adam only the ratio matters.
HARD = {"hard_weight": 1.0, "soft_weight": 0.0, "temperature": 1.0}
SOFT = {"hard_weight": 0.5, "soft_weight": 1.0}
# Six settings for the baseline, and the same six for the distilled net.
_EPOCHS = (2, 4)
_RATES = (3e-4, 1e-3, 3e-3)
_CHOOSING_SEED = 100
_TEACHER_SEED = 1000

status, pictures = verdict.status, verdict.pictures
# What a mean is over, and which key of a row says it.
OVER = ("speakers", "data.name")

# Of each speaker left out: the settings of the baseline and of the distilled net.
Setting = Mapping[str, Any]
Choice = Mapping[str, Mapping[str, Setting]]


def stages(options: Options) -> list[Stage]:
  """The settings, the nets, and the words that they hear."""
  seeds = options.seeds or (2 if options.quick else SEEDS)

  def with_sets(config: ml_collections.ConfigDict):
    # Here, not in a stage: a plan and a shard need them as well.
    sets.prepare(_data(options), options.quick, lambda line: print(
        line, flush=True))
    return config

  return [
      Stage("choosing", config=lambda rows: with_sets(choosing(options))),
      Stage("table", config=lambda rows: with_sets(table(
          options, choose(rows.get("choosing", ())), seeds))),
      Stage("utterances", run=decode.utterances, shards=False)]


def conclude(rows: Rows) -> str:
  """Table 1 in the paper's form, the verdicts, and what each fold chose."""
  choices: dict[str, tuple[fair.Setting, Sequence[fair.Setting]]] = {}
  tried = sweep.product({"epochs": _EPOCHS, "optimizer.learning_rate": _RATES})
  for speaker, own in choose(rows.get("choosing", ())).items():
    for system, setting in own.items():
      choices[f"without {speaker}, {system}"] = setting, tried
  return verdict.conclude(rows) + "\n" + fair.at_ends(choices)


def choosing(options: Options) -> ml_collections.ConfigDict:
  """Epochs and learning rate, by the frames of a speaker who helps to choose."""
  config = _config(options)
  # A small one of fixed settings: those of the ensemble are chosen here, too.
  config.teacher.count = 2 if options.quick else 3
  config.teacher.epochs = _epochs(options)[0]
  config.sweep.points = tuple(sweep.product(
      {"data.name": [f"choose_{speaker}" for speaker in _folds(options)],
       "seed": (_CHOOSING_SEED,), "epochs": _epochs(options),
       "optimizer.learning_rate": _rates(options)},
      [HARD, SOFT | {"temperature": HEADLINE}]))
  return config


def choose(rows: Sequence[Row]) -> dict[str, dict[str, dict[str, Any]]]:
  """For each speaker left out and each system, the setting with fewest errors.

  The `test_errors` of these rows are those of the speaker who helps to choose.
  """
  cells: dict[tuple[str, str], list[tuple]] = {}
  for row in rows:
    own = row["overrides"]
    if row["failed"] is None:
      key = (own["data.name"].removeprefix("choose_"),
             "distilled" if own["soft_weight"] else "baseline")
      cells.setdefault(key, []).append(
          (row["test_errors"], own["epochs"], own["optimizer.learning_rate"]))
  chosen: dict[str, dict[str, dict[str, Any]]] = {}
  for (speaker, system), settings in cells.items():
    _, epochs, rate = min(settings)
    chosen.setdefault(speaker, {})[system] = _setting(epochs, rate)
  return chosen


def table(
    options: Options, choice: Choice, seeds: int
) -> ml_collections.ConfigDict:
  """The nets of Table 1, for each speaker left out.

  Args:
    options: What the user asked for.
    choice: Of `choose`; before any run it is empty, and the plan is made with
      the longest training that may be chosen.
    seeds: Students of each kind.
  """
  config = _config(options)
  unchosen = _setting(_epochs(options)[-1], 1e-3)
  points = []
  for speaker in _folds(options):
    own = choice.get(speaker) if choice else {
        "baseline": unchosen, "distilled": unchosen}
    if own is None or len(own) < 2:
      raise UserError(
          f"hinton15_speech: no settings are chosen for the fold of {speaker}; "
          "let the stage choosing come to its end")
    baseline = own["baseline"]
    points.append(sweep.product(
        sweep.fixed({
            "data.name": f"fold_{speaker}",
            "teacher.count": 2 if options.quick else MEMBERS,
            # The members are baselines too.
            **{f"teacher.{key}": value for key, value in baseline.items()}}),
        {"seed": range(seeds)},
        sweep.chain(
            sweep.fixed({**HARD, **baseline}),
            sweep.product(sweep.fixed({**SOFT, **own["distilled"]}),
                          {"temperature": _temperatures(options)}))))
  config.sweep.points = tuple(sweep.chain(*points))
  # The utterance error is read off them.
  config.sweep.logits = True
  return config


def _config(options: Options) -> ml_collections.ConfigDict:
  """What both stages share: sets, nets, and how they are trained."""
  config = mnist.get_config()
  config.data.name = f"fold_{_folds(options)[0]}"
  config.data.dir = str(_data(options))
  config.data.embedded = "never"
  # Frames have mean 0 and deviation 1 as they are made; bytes have not.
  config.data.scale = "standard"
  config.tensorboard = False
  config.sweep.reference = tuple(REFERENCE.items())
  # Matrices of this size gain nothing from lanes side by side.
  config.sweep.lanes = "1x1"
  for run, net in ((config, config.student), (config.teacher, config.teacher)):
    net.widths = (32,) if options.quick else (256, 256)
    net.views = "none"
    run.batch_size = 64 if options.quick else 256
    run.min_steps = 0
    run.optimizer.learning_rate = 1e-3
  config.teacher.seed = _TEACHER_SEED
  return config


def _setting(epochs: int, rate: float) -> dict[str, Any]:
  return {"epochs": epochs, "optimizer.learning_rate": rate}


def _epochs(options: Options) -> tuple[int, ...]:
  return (8,) if options.quick else _EPOCHS


def _rates(options: Options) -> tuple[float, ...]:
  return (1e-3, 3e-3) if options.quick else _RATES


def _temperatures(options: Options) -> tuple[float, ...]:
  return (1.0, HEADLINE) if options.quick else TEMPERATURES


def _folds(options: Options) -> tuple[str, ...]:
  return sets.folds(options.quick)


def _data(options: Options):
  return options.workdir / "data"
