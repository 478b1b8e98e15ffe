"""The points of a run: the nets of each, and those that are trained by now."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import contextlib
import json
import pathlib
from typing import Any

from kd_jax import teachers
from kd_jax.config import build, identity, recipe, schema
from kd_jax.config import run as run_lib
from kd_jax.config.recipe import Net
from kd_jax.config.run import Run
from kd_jax.config.sweep import Lane
from kd_jax.core.screen import Screen
from kd_jax.data.views import VIEWS
from kd_jax.runs import jobs, nets, teacher_store, tracker
from kd_jax.runs import setup as setup_lib
from kd_jax.runs.jobs import Job, Wanted
from kd_jax.runs.needed import needed
from kd_jax.runs.nets import Kept
from kd_jax.runs.setup import Setup
from kd_jax.training.settings import Training


class Points:
  """The points of a run: the nets of each, and which are trained.

  Everything that can be refused is refused when it is made.

  Attributes:
    names: The entries of the recipe in the order in which they are trained.
    first: The setup of the first point.
  """

  def __init__(
      self, run: Run, lanes: Sequence[Lane], workdir: pathlib.Path,
      stack: contextlib.ExitStack, screen: Screen, stop: Callable[[], bool],
      log: tracker.Log = tracker.nothing):
    self._workdir, self._screen, self._stop = workdir, screen, stop
    self._log = log
    self._stack, self._lanes = stack, lanes
    self._setups: dict[str, Setup] = {}
    self._given: dict[str, Kept | None] = {}
    self._teachers = teacher_store.Teachers()
    recipes = [recipe.nets(lane.values, swept=bool(run.sweep.points))
               for lane in lanes]
    for found in recipes:
      for net in found:
        build.check_net(net)
    known: dict[str, Training] = {}
    self._steps: set[str] = set()  # That were tried: alike in all that is static.
    # Of each point the trainings of its nets, by name.
    self._trainings: list[dict[str, Training]] = []
    self._recipes = [self._checked(found, known) for found in recipes]
    before = _before(self._recipes)
    self.names = _in_order(before)
    self.first = next(iter(self._setups.values()))
    setup_lib.say_seen(self.first, run)
    # Names of nets that others learn or start from.
    self._learnt_from = set().union(*before.values())
    # What determines the nets that are passed over, by point and entry.
    self._passed: dict[tuple[int, str], dict[str, Any]] = {}
    # Of each point and entry its net, and what is known of nets by fingerprint.
    self._fingerprints: dict[tuple[int, str], str] = {}
    self._nets: dict[str, Kept | None] = {}
    self._known_as: dict[str, str] = {}
    # Those that are not finite, and those that need one of these.
    self._failed: set[str] = set()

  def pass_over(
      self, done: Callable[[str], bool], hashes: Mapping[str, Sequence[list[str]]],
      chunks: Iterable[Sequence[str]],
  ) -> None:
    """Passes over nets that have rows, where no other is trained with their help.

    They need not be there: a study goes on from its rows alone. The main job's
    teachers have none; one that is not there is passed over with all its students.

    Args:
      done: Whether a net, by its fingerprint, has its row.
      hashes: Of `Results.teachers`.
      chunks: The fingerprints of nets that are trained together.
    """
    found: dict[tuple[int, str], tuple[str, dict[str, Any]]] = {}
    teachers_of: dict[tuple[int, str], list[tuple[int, str]]] = {}
    for number, nets_of in enumerate(self._recipes):
      known: dict[str, str] = {}
      for net in (nets_of[name] for name in self.names if name in nets_of):
        teachers_of[number, net.name] = [(number, each) for each in _needs(net)]
        if net.member is not None:
          each = jobs.identity(net, self._setup(net))
          fingerprint = identity.fingerprint(each)
          if self._gone(number, net, fingerprint):
            found[number, net.name] = fingerprint, each
            known[net.name] = fingerprint
        for each in self._by_rows(net, known, hashes):
          if done(fingerprint := identity.fingerprint(each)):
            found[number, net.name] = fingerprint, each
            known[net.name] = fingerprint
            break
    without = needed(
        teachers_of, {key: fingerprint for key, (fingerprint, _) in found.items()},
        chunks)
    self._passed = {key: each for key, (_, each) in found.items()
                    if key not in without}

  @property
  def passed_over(self) -> bool:
    """Whether any net is."""
    return bool(self._passed)

  def look(self) -> None:
    """Looks for the teachers of a user's folder, but for those passed over.

    Raises:
      UserError: If one is not there and cannot be put there.
    """
    nets.look(self._roots())

  def _by_rows(
      self, net: Net, known: Mapping[str, str],
      hashes: Mapping[str, Sequence[list[str]]],
  ) -> Iterator[dict[str, Any]]:
    """What may determine a net, by what rows say of teachers with fingerprints."""
    if (net.member is not None or net.start or net.peers or net.peer is not None
        or net.values["init_from"] is not None
        or not (net.in_config or net.teachers)):
      return
    setup = self._setup(net)
    run = setup.run
    if not run.method.needs_teacher:
      yield jobs.identity(net, setup)
    # Of a file nothing is known here, and a mean over views has other weights.
    elif net.teachers and run.values["teacher.sees"] not in VIEWS and (
        known.keys() >= {*net.teachers}):
      weights = teachers.weights_of(run.weights, len(net.teachers)).tolist()
      for of in hashes.get(teacher_store.together(
          [known[name] for name in net.teachers]), ()):
        yield jobs.identity(
            net, setup, identity.mixture(run.values, of, weights))

  def _gone(self, number: int, net: Net, fingerprint: str) -> bool:
    """Whether a teacher would have to be trained; one of a file is read again."""
    setup, training = self._setup(net), self._trainings[number][net.name]
    return (training.model.on_host is None
            and setup.run.values["teacher.state_dict"] is None
            and not setup.run.sweep.keep_logits  # Which would lack its own.
            and not nets.there(setup, fingerprint))

  def jobs(self, name: str) -> list[Job]:
    """What is to be trained of an entry, all points together."""
    groups: dict[str, list[tuple[int, Net, Setup]]] = {}
    for number, nets_of in enumerate(self._recipes):
      if name in nets_of:
        net = nets_of[name]
        groups.setdefault(self._program(number, net), []).append(
            (number, net, self._setup(net)))
    return [self._job(program, group) for program, group in groups.items()]

  def find(self, job: Job, fingerprint: str) -> Kept | None:
    """A net that others learn from, if it is trained."""
    if job.net.name not in self._learnt_from:
      return None
    if fingerprint not in self._nets:
      self.keep(fingerprint, nets.find(job.setup, job.training, fingerprint))
    return self._nets[fingerprint]

  def lacks(self, job: Job, fingerprint: str) -> bool:
    """Whether a net that others learn from is not there, though its row may be."""
    wanted = job.wanted[fingerprint]
    return (job.net.name in self._learnt_from
            and not wanted.passed_over and not wanted.lost
            and self.find(job, fingerprint) is None)

  def keep(self, fingerprint: str, net: Kept | None) -> None:
    """Keeps a trained net, if it is there, for those that learn from it."""
    self._nets[fingerprint] = net
    if net is not None and net.record.get("failed"):
      self._failed.add(fingerprint)

  def _roots(self) -> list[tuple[Setup, dict[str, Any]]]:
    """Setup and identity of the nets that others learn from, and that learn from
    nobody: those that are known before anything is trained."""
    found = [(net, self._setup(net)) for number, nets_of in enumerate(self._recipes)
             for net in nets_of.values()
             if net.name in self._learnt_from and not _needs(net)
             and (number, net.name) not in self._passed]
    return [(setup, jobs.identity(net, setup)) for net, setup in found
            if net.member is not None or not (
                setup.run.method.needs_teacher or net.values["init_from"])]

  def _setup(self, net: Net) -> Setup:
    """The setup in which a net is trained, with the data of its run, loaded once.

    Students see the transfer set; members of the teacher see everything.
    """
    run = run_lib.read(net.values)
    data = run.part("data.")
    if data not in self._setups:
      self._setups[data] = setup_lib.prepare(
          run, self._workdir, self._screen, self._stop, log=self._log)
      self._stack.callback(self._setups[data].recorder.close)
    setup = self._setups[data]._replace(run=run)
    if net.member is None:
      setup = setup_lib.transfer(setup, run)
    if net.member is not None or not run.method.needs_teacher:
      setup = setup_lib.labelled(setup)
    return setup

  def _checked(
      self, found: Sequence[Net], known: dict[str, Training]
  ) -> dict[str, Net]:
    """The nets of a point, each built once, so that what cannot be is refused."""
    nets_of: dict[str, Net] = {}
    before: dict[str, Training] = {}
    alike: dict[str, str] = {}
    own_names: dict[str, str] = {}
    for net in found:
      if net.name == "baseline" and not net.in_config and found[-1] is not net and (
          not self._setup(found[-1]).dataset.train.known.any()):
        self._screen.say("baseline: none, as no training example has a label")
        continue
      net = net._replace(
          teachers=tuple(own_names.get(each, each) for each in net.teachers),
          start=net.start and own_names.get(net.start, net.start))
      setup = self._setup(net)
      key = str([net, *(alike[other] for other in _needs(net))])
      if key not in known:
        made = build.training(net, setup.dataset)
        if made.remark not in ("", *(each.remark for each in known.values())):
          self._screen.say(made.remark)
        known[key] = made
        if net.member is None:
          jobs.check(net, setup, known[key], before, found)
          self._of_another_run(net, setup, known[key])
          step = str([identity.group(values) for values in (
              net.values, *(peer for _, peer in net.peers),
              *(nets_of[each].values for each in net.teachers))])
          if step not in self._steps:
            jobs.check_own_step(net, setup, known[key], before)
            self._steps.add(step)
          if setup.run.values["teacher.logits"] is not None:
            self._teachers.of(setup, known[key], ())  # The file is read now.
      if known[key].ends == known[key].total_steps:
        # At its last epoch a net is itself.
        own_names[net.name] = next(
            each.name for each in nets_of.values()
            if net == each._replace(name=net.name, epoch=net.epoch))
        continue
      nets_of[net.name], before[net.name], alike[net.name] = net, known[key], key
    self._trainings.append(before)
    return nets_of

  def _program(self, number: int, net: Net) -> str:
    """What a net's program is compiled for, with the nets that are compiled in."""
    if net.member is not None:
      return run_lib.read(net.values).part(
          "teacher.", "data.", "dtype", "nonfinite")
    if not net.in_config:
      return identity.group(net.values)
    of = self._recipes[number]
    own = identity.by_place(net.values, net.teachers)
    return json.dumps([identity.group(own), net.name, net.start is None,
                       net.prune is None, *(
        identity.group(of[teacher].values) for teacher in net.teachers), *(
            identity.group(values) for _, values in net.peers)])

  def _job(self, program: str, group: Sequence[tuple[int, Net, Setup]]) -> Job:
    """The job of an entry at those points where it is one program."""
    _, net, setup = group[0]
    training = build.training(net, setup.dataset)
    found: dict[str, list[Wanted]] = {}
    for number, own, each in group:
      wanted = self._wanted(number, own, setup._replace(run=each.run), training)
      fingerprint = identity.fingerprint(wanted.identity)
      self._fingerprints[number, net.name] = fingerprint
      if wanted.lost:
        self._failed.add(fingerprint)
      found.setdefault(fingerprint, []).append(wanted)
    job = jobs.make(net, setup, training, {
        fingerprint: same[0]._replace(lane=self._agreed(
            net, fingerprint, [each.lane for each in same]))
        for fingerprint, same in found.items()}, self._trainings[group[0][0]])
    return job._replace(program=program) if net.in_config else job

  def _wanted(
      self, number: int, net: Net, setup: Setup, training: Training
  ) -> Wanted:
    """What a point asks of a net."""
    lane = Lane(self._lanes[number].point, net.values)
    if net.name == "baseline" and not net.in_config:
      lane = lane._replace(point={"method": "hard"})
    if passed := self._passed.get((number, net.name)):
      return Wanted(lane, passed, passed_over=True)
    if lost := self._lost(number, net):
      # It is not trained. Its identity has the nets that failed, as no numbers of
      # theirs are known.
      return Wanted(lane, jobs.identity(net, setup, identity.mixture(
          net.values, [self._fingerprints[number, each] for each in _needs(net)],
          [])), lost=lost)
    # Peers are asked in the step, and one that is taken from them asks nobody.
    alone = net.member is not None or net.peers or net.peer is not None
    teacher = None if alone else self._teachers.of(
        setup, training, [self._trained(number, each) for each in net.teachers],
        net.teachers)
    start = self._trained(number, net.start) if net.start else (
        self._of_another_run(net, setup, training))
    if start and net.peer is None:
      start = jobs.begun(net, setup, training, start)
    determining = jobs.identity(
        net, setup, teacher and jobs.mixture(setup.run, teacher),
        start and start.sha256)
    return Wanted(lane, determining, teacher, start)

  def _lost(self, number: int, net: Net) -> str:
    """Why a net cannot be trained, or "": one that it needs is not finite."""
    # What is taken from nets that trained together says of each what it is.
    needed_ = () if net.peer is not None else _needs(net)
    return next((f"{name}, which it needs, has failed" for name in needed_
                 if self._fingerprints[number, name] in self._failed), "")

  def _of_another_run(
      self, net: Net, setup: Setup, training: Training) -> Kept | None:
    """The net of `config.init_from` that a net starts from, which is read once."""
    key = net.name + identity.group(net.values)
    if key not in self._given:
      self._given[key] = nets.given(net, setup, training)
    return self._given[key]

  def _trained(self, number: int, name: str) -> Kept:
    net = self._nets[self._fingerprints[number, name]]
    assert net is not None
    return net

  def _agreed(self, net: Net, fingerprint: str, lanes: Sequence[Lane]) -> Lane:
    """The lane of a net that several may want, who are told that it is one."""
    first, *others = lanes
    if not net.in_config:
      for other in others if net.member is None else ():
        self._screen.say(
            f"sweep: {other.name} is the same run as {first.name}")
      return first
    name = self._known_as.setdefault(fingerprint, net.name)
    if name != net.name and net.peer is None:
      keys = " ".join(f"--config.nets.{each}.seed=N" for each in schema.peers(
          net.name))
      self._screen.say(
          f"{net.name}: is the same net as {name}; give it another seed, {keys}")
    # It is named by what all points that want it have in common.
    return first._replace(point={
        key: value for key, value in first.point.items()
        if all(other.point.get(key) == value for other in others)})


def _needs(net: Net) -> tuple[str, ...]:
  """The nets that a net learns or starts from."""
  return (*net.teachers, net.start) if net.start else net.teachers


def _before(recipes: Sequence[dict[str, Net]]) -> dict[str, set[str]]:
  """Of each entry, all that it needs at any point."""
  before: dict[str, set[str]] = {}
  for nets_of in recipes:
    for net in nets_of.values():
      before.setdefault(net.name, set()).update(_needs(net))
  return before


def _in_order(before: dict[str, set[str]]) -> list[str]:
  """The names of entries, each after all that it needs at any point."""
  done: list[str] = []
  while len(done) < len(before):
    done.append(next(name for name in before if name not in done
                     and before[name] <= set(done)))
  return done
