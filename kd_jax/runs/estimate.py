"""What a run or a sweep will take, and how far a sweep is."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from kd_jax import methods, teachers
from kd_jax.config import build, identity, recipe, schema, sweep
from kd_jax.config import run as run_lib
from kd_jax.config.recipe import Net
from kd_jax.config.run import Run
from kd_jax.core.screen import Screen
from kd_jax.core.words import counted
from kd_jax.data import Dataset, with_labels
from kd_jax.runs import plan, probe, programs, teacher_store
from kd_jax.runs.jobs import Job
from kd_jax.runs.plan import Chunk
from kd_jax.runs.results import Results, Row
from kd_jax.runs.shard import Shard
from kd_jax.training import cost
from kd_jax.training.lanes import Shape
from kd_jax.training.settings import Training

# Of the bar of a sweep.
_PARTS = 10_000


class Meter:
  """One bar for a sweep, or for a net of a recipe: lanes done, best, time left.

  Steps count by what they cost, so that small nets first promise nothing.
  """

  def __init__(
      self, screen: Screen, planned: Sequence[tuple[Job, Chunk]], results: Results,
      done: Sequence[tuple[Job, Chunk]]):
    self._screen, self._results = screen, results
    jobs = {job.program_fingerprint: job for job, _ in planned}
    self._costs = {
        program: cost.step_seconds(
            job.training, job.setup.train.inputs, job.learner.teacher)
        for program, job in jobs.items()}
    self._what = next(
        (job.net.name for job in jobs.values() if job.net.in_config), "sweep")
    self._lanes = len({row["fingerprint"] for row in self._rows}.union(
        *(chunk.lanes for _, chunk in planned)))
    self._total = sum(self._cost(*each) for each in planned)
    self._done = sum(self._cost(*each) for each in done)
    if done:
      screen.say(
          f"{self._what}: {len(self._rows)} of {self._lanes} lanes are done")

  @property
  def _rows(self) -> list[Row]:
    """Those of what the bar is of."""
    return [row for row in self._results.rows
            if row.get("net") in (None, self._what)]

  def tick(self, job: Job, chunk: Chunk, step: int) -> None:
    """Shows that a chunk has come to a step; its end is told by `finished`."""
    part = step / job.training.last_step
    if part < 1:
      self._show(job, self._done + part * self._cost(job, chunk))

  def finished(self, job: Job, chunk: Chunk) -> None:
    """Shows that the rows of a chunk are on disk."""
    self._done += self._cost(job, chunk)
    self._show(job, self._done)

  def _show(self, job: Job, now: float) -> None:
    split = "heldout" if "heldout" in job.setup.splits else "test"
    rows = self._rows
    errors = [row[f"{split}_errors"] for row in rows if row["failed"] is None]
    best = f"  best {min(errors)} errors ({split})" if errors else ""
    # Whole parts, as the bar wants; all of them only with the last row.
    done = (_PARTS if now >= self._total * (1 - 1e-9)
            else int(_PARTS * now / self._total))
    self._screen.advance(self._what, done, _PARTS, (
        f"{len(rows)} of {self._lanes} lanes{best}"))

  def _cost(self, job: Job, chunk: Chunk) -> float:
    return (self._costs[job.program_fingerprint] * job.training.last_step
            * chunk.shape.size)


_COLUMNS = ["net", "runs", "lanes at once", "chunks", "steps a run", "memory",
            "time"]


def show(
    screen: Screen, run: Run, shard: Shard | None = None,
    datasets: Mapping[str, Dataset] | None = None,
) -> None:
  """Shows what a run, a sweep, or a shard of it would take, before any work.

  Time is that of steps alone, a rough figure from arithmetic; memory is that of one
  chunk.

  Args:
    screen: Where it is shown; it is also told where data is read from.
    run: What the config asks for.
    shard: The part of a sweep; None for all of it.
    datasets: Those read before, by `data.` keys as of `Run.part`.
  """
  groups = _groups(run, screen.say, dict(datasets or {}))
  rows, place, differing = [], 0, _differing(groups)
  teaching: list[float] = []
  trained: list[tuple[int, int, float]] = []
  for group in groups:
    shape = _shape(run, group, shard)
    chunks = dealt = plan.chunks(
        "", [(seed, lane) for lane, seed in group.runs.items()], shape)
    if shard and not group.member:
      dealt = shard.part(chunks, before=place)
      place += len(chunks)
    runs = sum(len(set(chunk.lanes)) for chunk in dealt)
    steps = group.training.last_step if group.step else 0
    seconds = runs * steps * group.step
    held = group.inputs.nbytes + shape.size * cost.lane_bytes(
        group.training, group.inputs)
    rows.append([
        _name(group.net, differing[group.net.name]),
        _of(runs, len(group.runs)), plan.name(shape),
        _of(len(dealt), len(chunks)), f"{steps:,}",
        f"{held / 2**20:,.0f} MiB", _clock(seconds)])
    if group.member:
      teaching.append(seconds)
    else:
      trained.append((runs, len(group.runs), seconds))
  own, whole, seconds = map(sum, zip(*trained, strict=True))
  screen.table("plan", _COLUMNS, rows)
  screen.say(
      (f"shard {shard}: " if shard else "")
      + (counted(own, "run") if own == whole else f"{own} of {whole} runs")
      + f" in {counted(len(trained), 'compilation')}, "
      f"{counted(len(teaching), 'teacher')} ({_clock(sum(teaching))} unless found)"
      f"; about {_clock(seconds + sum(teaching))} on {cost.machine()}, plus "
      "compilation")


class _Group(NamedTuple):
  """Nets of a recipe that are one compiled program.

  Attributes:
    net: Any of them.
    training: Its training.
    inputs: Of the data set.
    step: Seconds of a step; 0 of a net that is not trained, but given.
    runs: The seed of each, by what it is.
  """

  net: Net
  training: Training
  inputs: Any
  step: float
  runs: dict[str, int]

  @property
  def seeds(self) -> list[int]:
    """The seed of each."""
    return [*self.runs.values()]

  @property
  def member(self) -> bool:
    """Whether they are members of the main job's teacher."""
    return self.net.member is not None


def _groups(
    run: Run, say: Callable[[str], None], datasets: dict[str, Dataset]
) -> list[_Group]:
  """Every net that is trained, once, by what they are compiled as."""
  groups: dict[str, _Group] = {}
  for lane in sweep.lanes(run.values, run.sweep.points or ({},)):
    whole: dict[str, str] = {}
    own: dict[str, _Group] = {}
    for net in recipe.nets(lane.values, swept=bool(run.sweep.points)):
      build.check_net(net)
      asked = run_lib.read(net.values)
      member = net.member is not None
      of_peers = [run_lib.read(values).part("") for _, values in net.peers]
      part = asked.part(*(("data.", "teacher.") if member else ("",)))
      if not member and asked.values["method"] == "hard":
        # T, and weights of terms that it has not, make it no other net.
        part = str(identity.student(
            net.values, content="", source=asked.sources["student"], method="hard",
            weights=()))
      # What it is, and all that it learns from; two members of a teacher are one.
      whole[net.name] = part + str([net.name, net.epoch, *of_peers, *(
          whole[other] for other in (*net.teachers, net.start) if other)])
      # The members of a teacher are a group: as many nets as there are.
      key = part if member else net.name + "".join(identity.group(values) for values
          in (net.values, *(values for _, values in net.peers)))
      if key not in groups:
        place = asked.part("data.")
        if place not in datasets:
          datasets[place] = build.dataset(net.values, say=say)
        groups[key] = _group(
            net, asked, datasets[place], [own[each] for each in net.teachers])
      own[net.name] = groups[key]
      own[net.name].runs.setdefault(whole[net.name], asked.values["seed"])
  # Peers are trained as one, and taken from there.
  return sorted((group for group in groups.values() if group.net.peer is None),
                key=lambda group: not group.member)


def _group(
    net: Net, asked: Run, found: Dataset, members: Sequence[_Group]
) -> _Group:
  """A group, of no nets yet; `members` are those of its teacher."""
  own = found if net.member is not None else build.transfer_set(net.values, found)
  if net.member is not None or not asked.method.needs_teacher:
    own = with_labels(own)
  training, inputs = build.training(net, own), found.train.inputs
  models = [member.training.model for member in members]
  teacher = None
  # Looking outputs up in a bank takes no time.
  taps = methods.joined(
      net.teachers, [member.training.taps for member in members]) if members else {}
  if members and not teacher_store.wants_bank(asked, found, training, taps):
    teacher = teachers.live(models, [
        cost.variables(model, inputs) for model in models])
  released = net.member is not None and (
      training.model.on_host is not None or asked.values["teacher.state_dict"])
  return _Group(net, training, inputs, 0.0 if released else cost.step_seconds(
      training, inputs, teacher), {})


def _shape(run: Run, group: _Group, shard: Shard | None) -> Shape:
  """The rectangle of a group, or the largest that would be tried."""
  if not run.sweep.points or group.member:
    return Shape(1, 1, 1)
  return programs.expected(
      run.sweep, identity.program(group.net.values), group.training,
      group.inputs, group.seeds, measure=shard is None) or (
          probe.candidates(group.seeds)[-1])


def _of(part: int, whole: int) -> str:
  return f"{whole}" if part == whole else f"{part} of {whole}"


def _differing(groups: Sequence[_Group]) -> dict[str, list[str]]:
  """Of each net of a recipe, the static keys in which its groups differ."""
  nets: dict[str, list[Mapping[str, Any]]] = {}
  for group in groups:
    nets.setdefault(group.net.name, []).append(group.net.values)
  known = schema.every()
  return {name: [
      key for key in some[0]
      if not known[key].traced and not key.startswith("sweep.")
      and len({str(values[key]) for values in some}) > 1]
          for name, some in nets.items()}


def _name(net: Net, differing: Sequence[str]) -> str:
  """A net of a recipe, with some of its keys."""
  if net.member is not None:
    return "teacher"
  return " ".join([net.name, sweep.title(
      {key: net.values[key] for key in differing})]).strip()


def _clock(seconds: float) -> str:
  if seconds < 90:
    return f"{seconds:.0f} s"
  return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
