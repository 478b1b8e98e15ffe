"""The main job, as a protocol: teacher, hard-label student, distilled student."""

from collections.abc import Callable
import contextlib
import pathlib
import time
from typing import Any

from kd_jax import methods
from kd_jax.config import build
from kd_jax.config.run import Run
from kd_jax.core.screen import Screen
from kd_jax.runs import records, teacher_store
from kd_jax.runs import setup as setup_lib
from kd_jax.runs.setup import Setup
from kd_jax.runs.teacher_store import PreparedTeacher
from kd_jax.training.settings import Training


def train_and_evaluate(
    run: Run,
    workdir: pathlib.Path,
    *,
    screen: Screen,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
  """Trains teacher, baseline and distilled student, and evaluates all three.

  Whatever is in `workdir` already and was made with the same settings is used
  again; an interrupted training is continued to the same bits.

  Args:
    run: What the config asks for.
    workdir: Where results go and where a rerun finds them.
    screen: Tells the user.
    stop: Asked between segments; if true, the run saves and ends.

  Returns:
    The summary, as written to `workdir/summary.json`.

  Raises:
    UserError: If something asked for cannot be.
    train_loop.Interrupted: If `stop` said so.
  """
  began = time.perf_counter()
  build.check_names(run.values)
  setup = setup_lib.prepare(run, workdir, screen, stop)
  with contextlib.closing(setup.recorder):
    # Everything that can be refused is built before anything is trained.
    own = setup_lib.transfer(setup, run)
    student = build.student(run.values, own.dataset)
    method = run.method
    summary, prepared = {}, None
    if method.needs_teacher:
      prepared = teacher_store.obtain(setup, student)
      summary["teacher"] = prepared.record
    summary["baseline"] = _student(
        own, "baseline", student, methods.METHODS["hard"])
    if method is not methods.METHODS["hard"]:
      summary["distilled"] = _student(
          own, "distilled", student, method, prepared)
    return _conclude(setup, summary, time.perf_counter() - began)


def _student(
    setup: Setup,
    name: str,
    training: Training,
    method: methods.Method,
    prepared: PreparedTeacher | None = None,
) -> dict[str, Any]:
  """Trains the student one way, or finds it trained; gives its record."""
  identity = teacher_store.student_identity(
      setup, training.hparams, prepared,
      setup.run.method_name if name == "distilled" else "hard")
  del identity["lane"]
  identity |= records.runtime() | setup_lib.device_identity(setup) | {"net": name}
  learner = build.learner(
      setup.run, training, method, prepared and prepared.teacher)
  record = setup_lib.net(
      setup, name, setup.workdir / "parameters" / name, identity, training, learner,
      prepared.splits if prepared else setup.splits)
  if name == "distilled":
    record |= {"method": setup.run.method_name, "alpha": setup.run.alpha}
    record |= teacher_store.loss_record(
        method, training.hparams, training.schedules)
  return record


def _conclude(setup: Setup, summary: dict, seconds: float) -> dict[str, Any]:
  """Writes the summary and shows the table."""
  dataset = setup.dataset
  summary = {
      "schema": records.SCHEMA,
      "dataset": {
          "name": dataset.name, "source": dataset.source,
          "train_examples": len(dataset.train_ids),
          "test_examples": len(dataset.test.label),
          **({"notice": dataset.notice} if dataset.notice else {})},
      **summary, "seconds": round(seconds, 2)}
  setup.announce()
  setup.recorder.write("summary.json", summary)
  columns = ["net", "test errors", "accuracy", "NLL", "ECE", "agreement",
             "parameters"]
  rows = [[name, *_figures(summary[name])]
          for name in ("teacher", "baseline", "distilled") if name in summary]
  title = f"{dataset.name}: errors of {len(dataset.test.label)} test examples"
  if "distilled" in summary:
    title += f"\nloss of distilled: {summary['distilled']['loss']}"
  if dataset.notice:
    title += f"\n{dataset.notice}"
  setup.screen.table(title, columns, rows)
  setup.screen.say(f"{seconds:.0f} s; everything is in {setup.workdir}")
  return summary


def _figures(record: dict[str, Any]) -> list[str]:
  shown = (("test_errors", "d"), ("test_accuracy", ".2%"), ("test_nll", ".4f"),
           ("test_ece", ".4f"), ("agreement", ".2%"), ("parameters", ",d"))
  return [format(record[key], form) if key in record else "-"
          for key, form in shown]
