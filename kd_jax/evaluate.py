"""Evaluates a finished net: errors, calibration, each class; beside another net.

  python -m kd_jax.evaluate runs/mnist
  python -m kd_jax.evaluate runs/mnist --net=baseline --beside=distilled
  python -m kd_jax.evaluate runs/mnist --config.data.name=mine --config.data.dir=DIR

It prints errors with their 95% interval, top-5 errors, NLL and calibration error
(ECE), with held-out data also after temperature scaling; recall and precision of
each class, and the class that it is most often confused with; and the comparison
with another net (default: the teacher): mended are the examples that only this net
has right, broken those that only the other has right. WORKDIR/evaluation/NET (or
--out=DIR) has all of this in evaluation.json, and confusion.csv, confusion.png,
reliability.png and, for images, flips.png.

The data are the test set of the run, or the data set of --config.data.KEY=VALUE,
which needs the same classes and inputs. The held-out data are those of the run
(data.holdout).
"""

import argparse
from collections.abc import Mapping, Sequence
import csv
import os
import pathlib
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from kd_jax.config import command_line
from kd_jax.core import exits, words
from kd_jax.core.errors import Parser, UserError

if TYPE_CHECKING:
  from kd_jax.data import Dataset
  from kd_jax.runs.trained import Trained

# Of more classes, the screen shows those with the largest part of errors.
_CLASSES = 20


class Evaluation(NamedTuple):
  """What is known of a net on a data set.

  Attributes:
    net: Its name.
    data: Name of the data set.
    scores: Of its answers.
    temperature: Fitted on held-out data; None without any.
    scaled: The scores at that temperature.
    classes: A line each.
    confusion: `[classes, classes]`, label by class that it is taken for.
    beside: The name of another net, its scores, and what changed from it to this.
  """

  net: str
  data: str
  scores: Any
  temperature: float | None
  scaled: Any
  classes: list[Any]
  confusion: np.ndarray
  beside: tuple[str, Any, Any] | None


def evaluate(
    workdir: str | os.PathLike, net: str | None = None, *,
    beside: str | None = None, overrides: Mapping[str, Any] | None = None,
    out: str | os.PathLike | None = None,
) -> Evaluation:
  """Evaluates a net of a finished run, and writes what it finds.

  Args:
    workdir: The run's folder.
    net: Its name in the run; by default the one that the run is about.
    beside: Another net of the run; by default the teacher, if one is kept.
    overrides: Keys of the data set, `data.KEY`, that are given anew.
    out: Where files go; by default `WORKDIR/evaluation/NET`.

  Raises:
    UserError: If there is no such net, or the data are not for it.
  """
  # pylint: disable=g-import-not-at-top
  from kd_jax.report import evaluation
  from kd_jax.runs import trained
  # pylint: enable=g-import-not-at-top
  workdir = pathlib.Path(workdir)
  opened = trained.load(workdir, net)
  other = _beside(workdir, opened, beside)
  dataset, held = _data(opened, overrides or {})
  logits, label = _logits(opened, dataset.test.inputs), dataset.test.label
  temperature = None if held is None else evaluation.fitted_temperature(
      _logits(opened, held.inputs), held.label)
  table = evaluation.confusion(logits.argmax(-1), label, len(opened.classes))
  changed, answers = None, [(opened.name, logits, label)]
  if other is not None:
    others = _logits(other, dataset.test.inputs)
    changed = other.name, evaluation.scores(others, label), evaluation.flips(
        others.argmax(-1), logits.argmax(-1), label)
    answers.append((other.name, others, label))
  if temperature is not None:
    answers.append((f"{opened.name}, T = {temperature:.3g}",
                    logits / temperature, label))
  found = Evaluation(
      opened.name, dataset.name, evaluation.scores(logits, label), temperature,
      None if temperature is None else evaluation.scores(
          logits, label, temperature),
      evaluation.by_class(table, opened.classes), table, changed)
  folder = pathlib.Path(out) if out else workdir / "evaluation" / opened.name
  _write(folder, found, opened, dataset, answers)
  return found


def _beside(workdir, opened: "Trained", name: str | None) -> "Trained | None":
  from kd_jax.runs import trained  # pylint: disable=g-import-not-at-top
  if name is None:
    kept = (workdir / "parameters" / "teacher").is_dir()
    name = "teacher" if kept and opened.name != "teacher" else None
  if name == opened.name:
    raise UserError(f"--beside={name}: is the net itself; name another")
  return None if name is None else trained.load(workdir, name)


def _data(opened: "Trained", overrides: Mapping[str, Any]):
  """The data set, and the examples that a temperature may be fitted on, or None."""
  # pylint: disable=g-import-not-at-top
  from kd_jax import config as config_lib
  from kd_jax.config import build
  from kd_jax.data import Examples
  # pylint: enable=g-import-not-at-top
  if strange := [key for key in overrides if not key.startswith("data.")]:
    raise UserError(f"--config.{strange[0]}: only keys of the data set, "
                    "config.data.KEY, are given to a finished net")
  own = {**opened.values, "data.test": "own", "data.pseudo": "none"}
  values = config_lib.changed(own, overrides)
  dataset = build.dataset(values)
  # Of another set than the run's own, wherever that lies.
  source = _own(own) if overrides.keys() - {"data.dir"} else dataset
  _check(opened, dataset)
  if source is None or not len(source.heldout_ids):
    return dataset, None
  return dataset, Examples(
      *(array[source.heldout_ids] for array in source.train))


def _own(values: Mapping[str, Any]) -> "Dataset | None":
  """The run's own data, if it holds some out and they are still there."""
  from kd_jax.config import build  # pylint: disable=g-import-not-at-top
  if not values["data.holdout"]:
    return None
  try:
    return build.dataset(values, say=lambda line: None)
  except UserError:
    return None


def _check(opened: "Trained", dataset: "Dataset") -> None:
  """Refuses data that are not for a net."""
  inputs = dataset.test.inputs
  if inputs.shape[1:] != opened.shape or inputs.dtype != opened.dtype:
    raise UserError(
        f"config.data.name={dataset.name}: has inputs {inputs.dtype} "
        f"{list(inputs.shape[1:])}, and {opened.name} takes {opened.dtype} "
        f"{list(opened.shape)}")
  if dataset.num_classes > len(opened.classes):
    raise UserError(
        f"config.data.name={dataset.name}: has {dataset.num_classes} classes, and "
        f"{opened.name} knows {len(opened.classes)}")
  named = dataset.named and not all(
      each.lstrip("-").isdigit() for each in opened.classes)
  if named and dataset.class_names != opened.classes:
    first = next(i for i, (a, b) in enumerate(
        zip(dataset.class_names, opened.classes)) if a != b) if (
            len(dataset.class_names) == len(opened.classes)) else None
    raise UserError(
        f"config.data.name={dataset.name}: its classes are not those of "
        f"{opened.name}" + (
            f": class {first} is {dataset.class_names[first]!r} there and "
            f"{opened.classes[first]!r} here" if first is not None else ""))


def _logits(net: "Trained", inputs: np.ndarray) -> np.ndarray:
  from kd_jax import predict  # pylint: disable=g-import-not-at-top
  return predict.ask(net, inputs).logits


def _write(folder, found, opened, dataset, answers) -> None:
  from kd_jax.core import strict  # pylint: disable=g-import-not-at-top
  from kd_jax.report import evaluation  # pylint: disable=g-import-not-at-top
  try:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "evaluation.json").write_text(strict.dumps(
        evaluation.as_json(found), indent=1) + "\n")
    with (folder / "confusion.csv").open("w", newline="") as file:
      lines = csv.writer(file)
      lines.writerow(["label", *opened.classes])
      lines.writerows([name, *row] for name, row in zip(
          opened.classes, found.confusion.tolist()))
  except OSError as error:
    raise UserError(f"--out={folder}: cannot be written: {error}") from None
  evaluation.draw_confusion(
      found.confusion, opened.classes,
      f"{found.net}: {found.scores.errors} errors of {found.scores.examples}",
      folder / "confusion.png")
  inputs = dataset.test.inputs
  reliability, flips = folder / "reliability.png", folder / "flips.png"
  for each in (reliability, flips):
    each.unlink(missing_ok=True)  # Of an earlier call.
  evaluation.draw_reliability(answers, reliability)
  if found.beside and inputs.ndim == 4 and inputs.shape[-1] in (1, 3) and (
      inputs.dtype == np.uint8):
    name, _, changed = found.beside
    evaluation.draw_flips(
        inputs, dataset.test.label,
        (answers[1][1].argmax(-1), answers[0][1].argmax(-1)), changed,
        opened.classes, (name, found.net), flips)


def main(argv: list[str] | None = None) -> int:
  """Runs the command; returns its exit code."""
  given_words = command_line.joined(sys.argv[1:] if argv is None else argv)
  flags = [word for word in given_words if word.startswith("--config")]
  given = _parser().parse_args([word for word in given_words if word not in flags])
  try:
    from kd_jax.training import parameters  # pylint: disable=g-import-not-at-top
    parameters.quiet()
    found = evaluate(given.workdir, given.net, beside=given.beside, out=given.out,
                     overrides=_overrides(flags) | (
                         {"data.dir": given.data} if given.data else {}))
    show(found)
    place = given.out or given.workdir / "evaluation" / found.net
    print(f"evaluation.json and its pictures are in {place}")
  except (UserError, OSError) as error:
    print(f"error: {UserError(error)}", file=sys.stderr)
    return 2
  return 0


def _overrides(flags: Sequence[str]) -> dict[str, Any]:
  """`--config.data.KEY=VALUE` as values."""
  words_of = (flag.removeprefix("--config.").partition("=") for flag in flags)
  return {name: command_line.value(name, text) for name, _, text in words_of}


def show(found: Evaluation) -> None:
  """Prints an evaluation."""
  from kd_jax.core.screen import Screen  # pylint: disable=g-import-not-at-top
  screen = Screen()
  each = [(found.net, found.scores)]
  if found.scaled is not None:
    each.append((f"{found.net}, T = {found.temperature:.3g}", found.scaled))
  if found.beside is not None:
    each.append((found.beside[0], found.beside[1]))
  screen.table(
      f"{found.data}: {found.scores.examples} test examples",
      ["net", "errors", "95% interval", "top-5 errors", "NLL", "ECE"],
      [[name, f"{of.errors}", f"{of.low:.2%} to {of.high:.2%}",
        "-" if of.top5_errors is None else f"{of.top5_errors}", f"{of.nll:.4f}",
        f"{of.ece:.4f}"] for name, of in each])
  if found.temperature is None:
    screen.say("no temperature is fitted, as there are no held-out data of the "
               "run (--config.data.holdout=0.1 holds some out)")
  share = lambda of: of.errors / of.examples if of.examples else 0
  classes = found.classes
  if len(classes) > _CLASSES:
    classes = sorted(classes, key=share, reverse=True)[:_CLASSES]
    screen.say(f"of {len(found.classes)} classes those with the largest part of "
               "errors:")
  part = lambda value: "-" if value is None else f"{value:.2%}"
  screen.table(
      "by class",
      ["class", "examples", "errors", "recall", "precision", "most taken for"],
      [[of.name, f"{of.examples}", f"{of.errors}", part(of.recall),
        part(of.precision), f"{of.most[0]} ({of.most[1]})" if of.most else "-"]
       for of in classes])
  if found.beside is not None:
    name, _, changed = found.beside
    screen.say(
        f"from {name} to {found.net}: {len(changed.mended)} mended, "
        f"{len(changed.broken)} broken (p = {changed.p:.2g}, McNemar); "
        f"{words.counted(len(changed.both), 'example')} wrong of both, "
        f"{changed.alike} alike; agreement {changed.agreement:.2%}")


def _parser() -> Parser:
  parser = Parser(
      prog="python -m kd_jax.evaluate", description=__doc__, allow_abbrev=False,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("workdir", type=pathlib.Path, help="folder of a finished run")
  parser.add_argument("--net", metavar="NAME", help="name of a net in "
                      "WORKDIR/parameters (default: the last of the config, "
                      "such as distilled)")
  parser.add_argument("--beside", metavar="NAME",
                      help="the net to compare it with (default: the teacher)")
  parser.add_argument("--data", metavar="DIR", help="folder of the data set, if it "
                      "has moved (same as --config.data.dir=DIR)")
  parser.add_argument("--out", type=pathlib.Path, metavar="DIR",
                      help="folder for the files (default: WORKDIR/evaluation/NET)")
  return parser


if __name__ == "__main__":
  exits.command(main)
