"""What a config's run would meet, without running it.

Each net of the recipe is made and its first steps are compiled. The state, the
batch and the dropout are those of the run's own first step. Only a teacher is
another: an untrained one, unless it is a file of logits.
"""

from collections.abc import Mapping
import contextlib
import importlib.util
import pathlib
import tempfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.config import build, recipe
from kd_jax.config import run as run_lib
from kd_jax.config import sweep as sweeps
from kd_jax.config.recipe import Net
from kd_jax.config.run import Run
from kd_jax.core.machine import check_installed
from kd_jax.core.screen import Screen
from kd_jax.runs import driver, estimate, probe, teacher_store
from kd_jax.runs import setup as setup_lib
from kd_jax.runs.doctor import (
  Remark,
  Visit,
  first_batch,
  machine,
  size,
  sources,
)
from kd_jax.runs.doctor.first_batch import Begun, Term
from kd_jax.runs.setup import Setup
from kd_jax.training import cost, segment
from kd_jax.training import devices as devices_lib

# A few steps show whether a training diverges at once; long ones are not run.
_STEPS, _LONGEST_STEP = 3, 2.0


def examine(
    visit: Visit, config: Mapping[str, Any], workdir: pathlib.Path
) -> None:
  """Looks at the run of a checked config; every failure is a problem told."""
  with visit.check("config"), contextlib.ExitStack() as stack:
    asked = run_lib.read(config)
    run = _lane(visit, asked) if asked.sweep.points else asked
    nets = recipe.nets(run.values, swept=bool(asked.sweep.points))
    for net in nets:
      with visit.check("names"):
        build.check_net(net)
    # The records of the run's own setup go away again.
    folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
    screen, read = Screen(quiet=True), []
    screen.say = lambda text, **_: read.append(text)  # type: ignore[method-assign]
    setup = setup_lib.prepare(run, folder, screen, lambda: False, _fetching)
    setup_lib.say_seen(setup, run)
    stack.callback(setup.recorder.close)
    visit.fact("data", sources.describe(setup.dataset))
    for line in read:
      if line.startswith("data: "):  # Notices are told below.
        visit.fact("", line.removeprefix("data: "))
    for notice in setup_lib.notices(run, setup.dataset):
      visit.tell(notice, fatal=False)
    begun = begin(visit, setup, nets)
    if len(begun) < len(nets):
      return  # What is wrong with the others has been told.
    # Nets that trained together are taken from there, one by one.
    trained = [net.name for net in nets if net.peer is None]
    found: list[Term] = []
    with visit.check("first batch"):
      found = terms(visit, begun[trained[-1]])
    tell_of_disk(visit, setup, begun, workdir)
    if all(term.finite for term in found):
      needed = {}
      for each in (begun[name] for name in trained):
        with visit.check(each.net.name):
          needed[each.net.name] = size(memory(visit, setup, each))
      visit.fact("memory", ", ".join(map(" ".join, needed.items())))
    estimate.show(visit.screen, asked, datasets={run.part("data."): setup.dataset})


def _fetching(text: str) -> None:
  """A download is announced and not begun; without TensorFlow it is refused."""
  if importlib.util.find_spec("tensorflow") is not None:
    raise Remark(
        f"{text}: not on this machine, so the run begins with a download by TFDS; "
        "ask again after it to know more")


def _lane(visit: Visit, run: Run) -> Run:
  """The run of the first lane that distils, after what only sweeps need."""
  with visit.check("report"):
    check_installed()
  lanes = sweeps.lanes(run.values, run.sweep.points)
  with visit.check("sweep"):
    driver.check_reference(lanes, run.sweep.reference)
  soft = [lane for lane in lanes
          if build.student_hparams(lane.values).soft_weight > 0]
  return run_lib.read((soft or lanes)[0].values)


def begin(visit: Visit, setup: Setup, nets: list[Net]) -> dict[str, Begun]:
  """The nets that can be made; what is wrong with any is told."""
  begun: dict[str, Begun] = {}
  for net in nets:
    with visit.check(net.name):
      if not begun.keys() >= {*net.teachers, *filter(None, [net.start])}:
        build.training(net, setup.dataset)  # So much can be seen without them.
        continue
      made = begun[net.name] = first_batch.begin(setup, net, begun)
      visit.fact(net.name, first_batch.describe(made))
      if made.training.model.on_host is not None:
        answers, notes = first_batch.ask(made)
        visit.fact("", answers)
        for note in notes:
          visit.tell(f"{_prefix(net)}.name: {note}", fatal=False)
      if made.learner.pairs and net.peer is None:
        visit.fact("compared", first_batch.compared(made))
      if made.training.remark:
        visit.tell(made.training.remark, fatal=False)
      number, asks = len(made.setup.train.ids), made.training.batch_size
      if asks > number:
        visit.tell(
            f"{_prefix(net)}.batch_size={asks}: more than the {number} training "
            f"examples, so every step is a padded epoch; give at most {number}",
            fatal=False)
  return begun


def _prefix(net: Net) -> str:
  return "config" if net.member is None else "config.teacher"


def terms(visit: Visit, last: Begun) -> list[Term]:
  """Shows every term of the loss on the first batch; some would break a run."""
  run = last.setup.run
  loss = teacher_store.loss_record(
      last.learner.method, last.training.hparams, last.training.schedules)["loss"]
  found = first_batch.terms(last)
  visit.screen.table(
      f"first batch: {loss}", ["term", "weight", "value", "gradient norm"],
      [[term.name, *(f"{number:.4g}" for number in term[1:])] for term in found])
  first_batch.look_at_terms(visit, found, fatal=run.values["nonfinite"] == "stop")
  return found


def tell_of_disk(
    visit: Visit, setup: Setup, begun: Mapping[str, Begun], workdir: pathlib.Path
) -> int:
  """Bytes that a run needs at most: nets, banks, checkpoints at the worst."""
  banks, kept, unfinished = 0, 0, 0
  for each in begun.values():
    banks += _bank(setup, each)
    # A teacher lies in its store and among the run's own parameters.
    own = each.net.in_config or each.net.member is not None
    net = cost.num_bytes(each.state.student)
    kept += (2 if own else 1) * net
    best = net if "heldout" in setup.splits else 0
    unfinished = max(unfinished, cost.num_bytes(each.state) + best)
  # Those that are kept, and the one that is being written.
  kept += (setup.run.values["checkpoint.keep"] + 1) * unfinished
  needed, free = banks + kept, machine.free(workdir)
  visit.fact("disk needed", (
      f"at most {size(needed)} of {size(free)}: banks of logits {size(banks)}, "
      f"nets and checkpoints {size(kept)}"))
  if needed > free:
    visit.tell(
        f"--workdir={workdir}: the run needs about {size(needed)} of disk, "
        f"{size(free)} are free; make room, or give a --workdir elsewhere")
  return needed


def _bank(setup: Setup, begun: Begun, *, on_device: bool = False) -> int:
  """Bytes of the bank that a student learns from, or 0; those on the device."""
  teacher = begun.learner.teacher
  if not begun.net.teachers or teacher is None:
    return 0
  asked = begun.setup.run, setup.dataset, begun.training, teacher.taps
  whole = teacher_store.bank_bytes(*asked) * teacher_store.wants_bank(*asked)
  # Of an epoch, and of the next one.
  return 2 * whole // begun.training.views.count if (
      on_device and teacher_store.streams(*asked)) else whole


def memory(visit: Visit, setup: Setup, begun: Begun) -> int:
  """Bytes of the device that a training needs, as the compiler says.

  Where steps are quick, a few are run, so that a divergence is told.
  """
  training, learner, own = begun.training, begun.learner, begun.setup
  name, state = begun.net.name, begun.state
  arrays = learner.teacher.arrays if learner.teacher else ()
  key, length = jax.random.key(training.seed), jnp.int32(_STEPS)
  program: Any = segment.compiled_segment(
      learner, training.views, training.batch_size)
  compiled = program.lower(*cost.shapes((
      state, own.train, arrays, training.hparams, key, length))).compile()
  needed = cost.program_bytes(compiled) + cost.num_bytes(own.splits) + _bank(
      setup, begun, on_device=True)
  if needed > probe.device_bytes():
    visit.tell(
        f"{name}: a step needs {size(needed)} of the device's "
        f"{size(probe.device_bytes())}; give a smaller config.batch_size, more "
        "parts of it (config.accumulate), smaller widths or "
        "--config.teacher.bank=never")
  elif cost.step_seconds(
      training, own.train.inputs, learner.teacher) <= _LONGEST_STEP:
    if own.devices.kind != "single":
      compiled = devices_lib.compiled_segment(
          own.devices, learner, training.views, training.batch_size)
    arrays, hparams = devices_lib.copies(own.devices, (arrays, training.hparams))
    # The state is copied, as programs take it over.
    _, totals = compiled(
        jax.tree.map(jnp.copy, state), own.train, arrays, hparams, key, length)
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(totals)):
      visit.tell(
          f"{name}: NaN or infinite after a few steps; give a smaller "
          f"--{_prefix(begun.net)}.optimizer.learning_rate")
  return needed
