"""Reproduces a table of a paper, from data to verdict.

  python -m experiments.reproduce hinton15_temperature --plan
  python -m experiments.reproduce hinton15_temperature --minutes=60
  python -m experiments.reproduce hinton15_temperature --smoke

A study first chooses its settings on held-out data, then trains for the table
with them. What is finished is kept: the same command goes on.

On several machines each gives its part, `--shard=1/3` and so on, and leaves it in
`WORKDIR/choosing-1of3`. The parts of a stage are joined before the next begins:
`python -m kd_jax.report merge WORKDIR/choosing-*of3 --out WORKDIR/choosing`.
"""

import argparse
import os
import pathlib
import shlex
import shutil
import sys
from types import ModuleType

from experiments import temperature_sweep
from experiments.hinton15_temperature import study as hinton15_temperature
from kd_jax import main as door
from kd_jax import report
from kd_jax.errors import UserError, nearest
from kd_jax.sweep import shard as shards

STUDIES: dict[str, ModuleType] = {"hinton15_temperature": hinton15_temperature}


def main(argv: list[str] | None = None) -> int:
  """Runs the command; returns its exit code."""
  argv = sys.argv[1:] if argv is None else argv
  arguments = _parser().parse_args(argv)
  again = shlex.join(["python", "-m", "experiments.reproduce", *argv])
  try:
    if arguments.study not in STUDIES:
      raise UserError(f"{arguments.study}: no such study; "
                      f"{nearest(arguments.study, STUDIES)}")
    if arguments.data:
      os.environ["KD_JAX_DATA"] = str(arguments.data)
    if arguments.record and arguments.smoke:
      raise UserError("--record with --smoke: a smoke run proves nothing")
    shard = shards.parse(arguments.shard) if arguments.shard else None
    if arguments.record and shard:
      raise UserError("--record with --shard: merge the shards, then record "
                      "without --shard")
    study = STUDIES[arguments.study]
    workdir = arguments.workdir or pathlib.Path("runs") / (
        arguments.study + ("-smoke" if arguments.smoke else ""))
    if arguments.plan:
      return _plan(study, workdir, arguments, shard)
    with door.Signals(arguments.minutes) as stop:
      return _run(study, workdir, arguments, stop, again, shard)
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    return 2


def _run(study, workdir, arguments, stop, again: str, shard) -> int:
  """Both stages, and what they say; of a shard, the one whose turn it is."""
  made = study.smaller if arguments.smoke else lambda config: config
  stage = lambda name, config: door.train(
      _at(made(config), workdir), shards.apart(workdir / name, shard), stop,
      study.COMMAND, again=again, study=arguments.study, shard=shard)
  if not (shard and _whole(workdir / "choosing")):
    code = stage("choosing", study.choosing())
    if code or stop():
      return code or stop.code
    if shard:
      return _to_merge(workdir, "choosing", shard, "give the same commands again")
  choice = study.choose(report.read(workdir / "choosing"))
  for width, settings in choice.items():
    print(f"chosen for 2x{width}: {settings}", flush=True)
  code = stage("table", study.table(choice, arguments.seeds))
  if shard:
    return code if stop() else _to_merge(
        workdir, "table", shard, "give the command without --shard")
  if (workdir / "table" / "results.jsonl").is_file():
    verdict = study.conclude(report.read(workdir / "table"))
    (workdir / "table" / "conclusion.md").write_text(verdict)
    print("\n" + verdict)
    # What is recorded is whole; --minutes ends with 0 too, so ask the rows.
    if arguments.record and not stop():
      record(study, workdir)
  return code


def _whole(folder: pathlib.Path) -> bool:
  """Whether a folder holds all rows of a stage, run there or merged."""
  summary = report.side_file(folder, "summary.json")
  return summary is not None and summary.get("missing", 0) == 0


def _to_merge(workdir, stage: str, shard: shards.Shard, then: str) -> int:
  """Says what comes when all shards of a stage are through."""
  parts = workdir / f"{stage}-*of{shard.of}"
  print(f"{stage}: shard {shard} is done. When all are: python -m kd_jax.report "
        f"merge {parts} --out {workdir / stage}; then {then}", flush=True)
  return 0


def _plan(study, workdir, arguments, shard) -> int:
  made = study.smaller if arguments.smoke else lambda config: config
  print("Stage one, on held-out data.")
  door.show_plan(_at(made(study.choosing()), workdir), shard)
  # What will be chosen makes no difference to the cost.
  likely = {width: {"alpha": 0.9, "optimizer.learning_rate": 1e-3}
            for width in study.EPOCHS}
  print("Stage two, for the table.")
  return door.show_plan(
      _at(made(study.table(likely, arguments.seeds)), workdir), shard)


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
      prog="python -m experiments.reproduce", description=__doc__,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("study", help=f"one of: {', '.join(STUDIES)}")
  parser.add_argument("--workdir", type=pathlib.Path,
                      help="where everything goes (default: runs/STUDY)")
  parser.add_argument("--data", type=pathlib.Path,
                      help="folder of data sets (default: KD_JAX_DATA)")
  parser.add_argument("--seeds", type=temperature_sweep.positive, default=10,
                      help="runs of each point (default 10)")
  parser.add_argument("--minutes", type=float,
                      help="stop after so many, to go on another time")
  parser.add_argument("--shard", metavar="I/N",
                      help="run the I-th of N parts, in a folder of its own")
  parser.add_argument("--plan", action="store_true",
                      help="tell runs, compilations, memory and time; do nothing")
  parser.add_argument("--smoke", action="store_true",
                      help="the same program in a minute or two; proves nothing")
  parser.add_argument("--record", action="store_true",
                      help="make the study's committed rows and tables anew")
  return parser


def _at(config, workdir: pathlib.Path):
  """Takes the teachers that lie in `WORKDIR/teachers`, if any.

  Otherwise each stage keeps its own, which goes with it when it is merged; and
  shards that train at once do not write into one folder.
  """
  if (workdir / "teachers").is_dir():
    config.teacher.dir = str(workdir / "teachers")
  return config


def record(study: ModuleType, workdir: pathlib.Path) -> None:
  """Copies the rows into the study's folder and makes its tables anew."""
  folder = pathlib.Path(study.__file__).parent
  shutil.copy(workdir / "choosing" / "results.jsonl", folder / "choosing.jsonl")
  for name in ("results.jsonl", "teacher.json"):
    shutil.copy(workdir / "table" / name, folder / name)
  report.write(folder, reference=study.REFERENCE)
  rows = report.read(folder)
  (folder / "conclusion.md").write_text(study.conclude(rows))
  readme = folder.parents[1] / "README.md"
  readme.write_text(report.into(
      readme.read_text(), folder.name, study.overview(rows)))


if __name__ == "__main__":
  sys.exit(main())
