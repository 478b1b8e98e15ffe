"""What the study runs: all nets of a seed, and a file of each in LiteRT.

A seed is a run of a recipe such as `configs/deploy.py`, with more nets, in a folder
of its own, which a study that goes on finds again.
"""

from collections.abc import Callable, Sequence
import functools
import pathlib
from typing import Any
import zlib

from configs import cifar10, deploy
from experiments import tasks
from experiments.deploy_mnist import plan
from experiments.protocol import Place
from kd_jax import config as config_lib
from kd_jax.config import identity
from kd_jax.config import run as run_lib
from kd_jax.core import compilation
from kd_jax.core.screen import Screen
from kd_jax.export import files
from kd_jax.report import Row
from kd_jax.runs import driver
from kd_jax.training.train_loop import Interrupted

# Of the config that a study starts from, with its optimiser.
_SHARED = ("data.name", "data.scale", "method", "temperature", "alpha",
           "batch_size")


def run(form: plan.Form, place: Place) -> None:
  """A task a seed."""
  compilation.use_cache()
  todo = []
  for seed in range(form.seeds):
    made = config(form, seed)
    content = identity.fingerprint(
        {key: value for key, value in config_lib.flatten(made).items()
         if key != "data.dir"})
    names = [identity.fingerprint({
        "study": form.name, "run": content, "net": net.name, "form": kind})
             for net in plan.nets(form) for kind in net.forms]
    todo.append(tasks.Task(f"seed {seed}", tuple(names), functools.partial(
        _rows, form, place, seed, names)))
  tasks.run(todo, place, study=form.name)


def config(form: plan.Form, seed: int) -> Any:
  """The config of a seed."""
  nets = plan.nets(form)
  made = config_lib.default(*(net.name for net in nets))
  shared = (deploy if form.width else cifar10).get_config()
  made.update_from_flattened_dict({
      key: functools.reduce(getattr, key.split("."), shared)
      for key in (*_SHARED, *(f"optimizer.{name}" for name in shared.optimizer))})
  if form.quick:
    made.data.name, made.data.embedded = "mnist", "only"
  made.transfer.part = form.part
  made.epochs, made.seed, made.tensorboard = form.epochs, seed, False
  if form.width:
    made.parallel = "single"
  for net in nets:
    own = {**net.own, "views": shared.student.views}
    made.update_from_flattened_dict(
        {f"nets.{net.name}.{key}": value for key, value in own.items()})
  return made


def _rows(
    form: plan.Form, place: Place, seed: int, names: Sequence[str],
    stop: Callable[[], bool],
) -> list[Row]:
  """Trains the nets of a seed, or finds them, and writes their files."""
  folder = place.folder.parent / "nets" / f"seed-{seed}"
  with Screen() as screen:
    driver.train(run_lib.read(config(form, seed)), folder, screen=screen,
                 asked=driver.Asked(stop=stop, study=form.name))
  found = []
  for net in plan.nets(form):
    held = files.net(folder, net.name, lambda line: None)
    written = folder / "exports"
    written.mkdir(exist_ok=True)
    # What few bits cost is what is measured, so that no file is refused.
    kinds = [kind for kind in net.forms if kind != "none"]
    for row in files.write(held, ["litert"], kinds, written, disagreement=1.0,
                           say=lambda line: None):
      if row["int8"] in net.forms:
        found.append(_row(net, seed, written, row))
    if stop():
      raise Interrupted
  return [row | {"fingerprint": name}
          for row, name in zip(found, names, strict=True)]


def _row(
    net: plan.Net, seed: int, folder: pathlib.Path, row: dict[str, Any]
) -> Row:
  content = (folder / row["file"]).read_bytes()
  return {
      "row": plan.ROADS[net.road], "net": net.name, "method": net.road,
      "seed": seed,
      "overrides": {"road": net.road, "size": net.size, "form": row["int8"],
                    "seed": seed},
      "failed": None, "bytes_compressed": len(zlib.compress(content, 9)),
      **{key: row[key] for key in (
          "bytes", "test_errors", "test_examples", "agreement", "latency_us",
          "memory_bytes", "parameters_sha256", "processor")}}
