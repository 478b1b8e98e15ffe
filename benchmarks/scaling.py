"""One training on 1, 2, 4, 8 devices and 1, 2 processes; what saving costs.

  python -m benchmarks.scaling --data DIR --out FILE.json
  python -m benchmarks.scaling --table FILE.json --readme benchmarks/README.md

784-W-W-10 from a bank of logits, batch 128. On a CPU the devices are host devices
that share the cores, so the total cannot grow: what is seen is the overhead of the
wrappers. On a GPU the same in bfloat16 and float32. Every row is measured in a
process of its own, the rows in turn, round after round.
"""

import argparse
import json
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile
import time

from benchmarks import mnist_step, tables
from kd_jax import data as data_lib
from kd_jax.core import strict
from kd_jax.core.errors import UserError

_DEVICES = (1, 2, 4, 8)
_SECONDS = 2.0
_SAVE_SECONDS = 5.0  # At the default of config.checkpoint.every, the least.


def main(argv: list[str]) -> None:
  """Runs what the command line asks for."""
  parser = argparse.ArgumentParser(
      prog="python -m benchmarks.scaling", description=__doc__,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument(
      "--data", default=os.environ.get(data_lib.ENVIRONMENT_VARIABLE),
      help="folder of MNIST; default KD_JAX_DATA, else random images")
  parser.add_argument("--out", default="scaling.json", help="where numbers go")
  parser.add_argument("--width", type=int, default=800, help="of the student")
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument("--quick", action="store_true", help="one round, 2 rows")
  parser.add_argument("--table", help="print the tables of a FILE.json")
  parser.add_argument("--readme", help="with --table: put them into this file")
  parser.add_argument("--part", help=argparse.SUPPRESS)
  args = parser.parse_args(argv)
  if args.part:
    print(json.dumps(_part(json.loads(args.part))))
  elif args.table:
    text = block(json.loads(pathlib.Path(args.table).read_text()))
    print(text if not args.readme else tables.put(text, args.readme))
  else:
    measure(args)


def rows(backend: str, devices: int, *, quick: bool) -> list[dict]:
  """What is measured: kind, devices, processes, dtype."""
  row = lambda kind, devices, processes=1, dtype="float32": {
      "kind": kind, "devices": devices, "processes": processes, "dtype": dtype}
  if quick:
    return [row("single", 1), row("pmap", 2)]
  if backend != "cpu":
    several = [row(kind, n) for kind in ("pmap", "sharded")
               for n in _DEVICES if 1 < n <= devices]
    return [row("single", 1), row("single", 1, dtype="bfloat16"), *several]
  return [row("single", 1),
          *(row(kind, n) for n in _DEVICES for kind in ("pmap", "sharded")),
          row("sharded", 2, 2), row("single", 1, dtype="bfloat16")]


def measure(args: argparse.Namespace) -> None:
  """Measures every row in turn and writes the record after each round."""
  report: dict = {
      "command": mnist_step._command("scaling"),
      "commit": mnist_step._commit(), "date": time.strftime("%Y-%m-%d"),
      "load": round(os.getloadavg()[0], 2), "width": args.width,
      "data": "MNIST" if args.data else "random images", "rows": [],
      "machine": _run({"machine": True}, 1)[0]}
  wanted = rows(report["machine"]["backend"], report["machine"]["devices"],
                quick=args.quick)
  report["rows"] = [row | {"rates": []} for row in wanted]
  for number in range(1 if args.quick else args.rounds):
    for row in report["rows"]:
      print(f"round {number + 1}: {_name(row)}", file=sys.stderr, flush=True)
      spec = {key: row[key] for key in ("kind", "devices", "processes", "dtype")}
      found = _processes(spec | {"data": args.data, "width": args.width})
      row["rates"].append(found["rate"])
      row |= {"compile": found["compile"], "saving": found.get("saving")}
    pathlib.Path(args.out).write_text(strict.dumps(report, indent=1) + "\n")
  print(block(report))


def _processes(spec: dict) -> dict:
  """What process 0 of a row tells."""
  count = spec["processes"]
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  each = spec["devices"] // count
  found = _run(spec | {"port": port}, each, count)
  return found[0]


def _run(spec: dict, devices: int, count: int = 1) -> list[dict]:
  environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices)}
  running = [subprocess.Popen(
      [sys.executable, "-m", "benchmarks.scaling", "--part",
       json.dumps(spec | {"process": number})],
      cwd=mnist_step.ROOT, env=environment, text=True, stdout=subprocess.PIPE)
             for number in range(count)]
  said = [each.communicate()[0] for each in running]
  if any(each.returncode for each in running):
    raise UserError(f"measuring {spec} failed; its own message is above")
  return [json.loads(text.splitlines()[-1]) for text in said]


def _part(spec: dict) -> dict:
  """In a process of its own: examples a second of one row."""
  # pylint: disable=g-import-not-at-top
  if spec.get("processes", 1) > 1:
    from kd_jax.core import hosts
    hosts.join(f"127.0.0.1:{spec['port']}", spec["processes"], spec["process"])
  import jax
  import jax.numpy as jnp

  from benchmarks import problem as problem_lib
  from kd_jax.core import randomness
  from kd_jax.training import devices as devices_lib
  from kd_jax.training import step as step_lib
  if spec.get("machine"):
    return mnist_step._machine(["jax"]) | {
        "backend": jax.default_backend(), "devices": jax.device_count()}
  problem = problem_lib.load(spec["data"], None)._replace(width=spec["width"])
  learner, data, hparams = _work(problem, spec["dtype"])
  where = devices_lib.choose(spec["kind"])
  key = jax.random.key(0)
  data, hparams, arrays = devices_lib.copies(
      where, (data, hparams, learner.teacher.arrays))
  begin = lambda key, hparams: step_lib.init(
      learner, randomness.stream(key, "init"), jnp.zeros((1, 28, 28, 1)), hparams)
  state = devices_lib.make(where, begin)(key, hparams)
  segment = devices_lib.compiled_segment(
      where, learner, _views(), problem_lib.BATCH)

  def advance(state, length):
    zero = devices_lib.copies(where, jnp.int32(0))
    state, _ = segment(
        state.replace(step=zero), data, arrays, hparams, key, jnp.int32(length))
    return jax.block_until_ready(state)

  began = time.perf_counter()
  state = advance(state, 1)
  compiling = time.perf_counter() - began
  began = time.perf_counter()
  state = advance(state, 20)
  taken = time.perf_counter() - began
  if where.mesh.size > 1:
    length = problem.steps // 4  # The same for every process.
  else:
    length = max(20, min(problem.steps, int(20 * _SECONDS / taken)))
  began = time.perf_counter()
  state = advance(state, length)
  taken = time.perf_counter() - began
  found = {"rate": length * problem_lib.BATCH / taken, "compile": compiling}
  if spec["kind"] == "single":
    found["saving"] = _saving(state)
  return found


def _saving(state) -> dict[str, float]:
  """Seconds that a checkpoint takes from training, and until it is on disk."""
  from kd_jax.training.checkpoints import Checkpoints  # pylint: disable=g-import-not-at-top
  with tempfile.TemporaryDirectory() as folder:
    progress = Checkpoints(pathlib.Path(folder) / "p", {})
    blocked, whole = [], []
    for step in range(4):
      began = time.perf_counter()
      progress.save(step, state)
      blocked.append(time.perf_counter() - began)
      progress.close()
      whole.append(time.perf_counter() - began)
    newest = pathlib.Path(folder) / "p" / "3"
    size = sum(file.stat().st_size for file in newest.rglob("*")
               if file.is_file())
  return {"blocked": statistics.median(blocked),
          "whole": statistics.median(whole), "bytes": size}


def _views():
  from kd_jax.data import views  # pylint: disable=g-import-not-at-top
  return views.VIEWS["none"]


def _work(problem, dtype: str):
  """Learner, data and hyper-parameters: distillation from a bank of logits."""
  # pylint: disable=g-import-not-at-top
  import jax.numpy as jnp
  import numpy as np

  from benchmarks import kd_jax_loops as loops
  from kd_jax import methods, models, teachers
  from kd_jax.training import optimizers
  from kd_jax.training import step as step_lib
  draw = np.random.default_rng(0)
  bank = draw.normal(0, 3, (len(problem.label), 1, 1, 10)).astype("f4")
  learner = step_lib.Learner(
      models.MODELS["mlp"](
          num_classes=10, widths=(problem.width,) * 2, dtype=dtype),
      methods.METHODS["kd"],
      optimizers.OptimizerSpec(
          "adam", optimizers.schedule("constant", total_steps=1)),
      teachers.banked(jnp.asarray(bank)))
  return learner, loops._data(problem), loops._hparams()


def _name(row: dict) -> str:
  text = f"{row['kind']}, {row['devices']} devices"
  if row["processes"] > 1:
    text += f" in {row['processes']} processes"
  return text + (f", {row['dtype']}" if row["dtype"] != "float32" else "")


def block(report: dict) -> str:
  """The tables of a record."""
  machine = report["machine"]
  base = report["rows"][0]["rates"]
  lines = [
      "<!-- begin scaling_cpu -->", "",
      f"`{report['command']}` at {report['commit']}, {report['date']}", "",
      f"- {machine['cpu']}, {machine['cores']} cores, {machine['backend']}; load "
      f"of the machine before the run {report['load']}",
      f"- 784-{report['width']}-{report['width']}-10 from a bank, "
      f"{report['data']}, batch 128, Adam; {len(base)} rounds, median (least to "
      "most)", "",
      "| devices | examples/s | times single | compilation, s |",
      "| --- | --: | --: | --: |"]
  for row in report["rows"]:
    ratios = [rate / one for rate, one in zip(row["rates"], base)]
    lines.append(
        f"| {_name(row)} | {_spread(row['rates'], ',.0f')} | "
        f"{_spread(ratios, '.2f')} | {row['compile']:.1f} |")
  saving = report["rows"][0]["saving"]
  percent = lambda seconds: f"{seconds / _SAVE_SECONDS:.2%}"
  lines += [
      "", f"A checkpoint of {saving['bytes'] / 2**20:.0f} MiB keeps training "
      f"waiting for {1e3 * saving['blocked']:.0f} ms and is on disk after "
      f"{1e3 * saving['whole']:.0f} ms. At the default, every "
      f"{_SAVE_SECONDS:.0f} seconds, that is {percent(saving['blocked'])} of a "
      f"run ({percent(saving['whole'])} if nothing of it overlapped).", "",
      "<!-- end scaling_cpu -->"]
  return "\n".join(lines)


def _spread(values: list[float], form: str) -> str:
  middle, least, most = (format(f(values), form) for f in (
      statistics.median, min, max))
  return f"{middle} ({least} to {most})"


if __name__ == "__main__":
  try:
    main(sys.argv[1:])
  except UserError as error:
    sys.exit(f"error: {error}")
