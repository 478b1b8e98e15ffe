"""What the study runs: teachers, VAEs, and the cells of its table.

A cell is a teacher, a sampler and a reach b. It leaves a row for every seed and
kind of targets. A seed is a VAE and all draws; teacher and instances are the same.
"""

from collections.abc import Callable, Iterator
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from configs import mnist
from experiments import tasks
from experiments.deepvid19 import local, neighbours, plan
from experiments.protocol import Place
from kd_jax import config as config_lib
from kd_jax.config import build, identity, recipe, sweep
from kd_jax.config import run as run_lib
from kd_jax.core import compilation, randomness, types
from kd_jax.core.screen import Screen
from kd_jax.explain import linear
from kd_jax.models import vae as model
from kd_jax.report import Row
from kd_jax.runs import alone, jobs
from kd_jax.runs import setup as setup_lib
from kd_jax.training import parameters, vae
from kd_jax.training.train_loop import Interrupted

_AT_ONCE = 10  # Instances in a program.
_ASKED = 5000  # Images that a net is asked at once.


class Teacher(NamedTuple):
  """A trained net.

  Attributes:
    ask: `[B, pixels]` in [0, 1] to logits `[B, K]` and its last layer `[B, F]`.
    logits: Of the training images, `[N, K]`.
    last: The last layer there, `[N, F]`.
    record: Its numbers.
  """

  ask: Callable[[jax.Array], tuple[jax.Array, jax.Array]]
  logits: np.ndarray
  last: np.ndarray
  record: dict[str, Any]


class Work:
  """Data, teachers and VAEs of a run, each made when it is first needed.

  Args:
    form: Sizes.
    place: Teachers are kept in the folder beside it; a VAE is trained anew, in half
      a minute, by a run that goes on.
  """

  def __init__(self, form: plan.Form, place: Place):
    compilation.use_cache()
    parameters.quiet()
    self.form, self._place = form, place
    config = _config(form)
    self.dataset = build.dataset(config_lib.flatten(config), say=place.say)
    flat = lambda part: part.inputs.reshape(len(part.label), -1)
    self.train = jnp.asarray(flat(self.dataset.train))
    # Of each class the first of the test set.
    self.ids = np.concatenate([
        np.flatnonzero(self.dataset.test.label == c)[:form.instances]
        for c in range(self.dataset.num_classes)])
    self.instances = flat(self.dataset.test)[self.ids].astype(np.float32) / 255

  @functools.cache  # noqa: B019  # A run has one.
  def teacher(self, name: str) -> Teacher:
    """A teacher, trained or found."""
    folder = self._place.folder.parent / f"teacher_{name}"
    config = sweep.applied(_config(self.form), self.form.teachers[name])
    with Screen() as screen:
      setup = setup_lib.prepare(
          run_lib.read(config), folder, screen, self._place.stop)
      try:
        member, *_ = recipe.nets(config_lib.flatten(config), swept=True)
        wanted = jobs.Wanted(
            sweep.Lane({}, member.values), jobs.identity(member, setup))
        fingerprint = identity.fingerprint(wanted.identity)
        kept = alone.train(jobs.make(
            member, setup, build.training(member, setup.dataset),
            {fingerprint: wanted}, {}), fingerprint)
      finally:
        setup.recorder.close()
    ask = _asking(kept.training.model, kept.variables, setup.train.preprocess,
                  self.dataset.train.inputs.shape[1:])
    logits, last = _by_parts(jax.jit(ask), self.train)
    return Teacher(ask, logits, last, kept.record)

  @functools.cache  # noqa: B019
  def vae(self, seed: int) -> Any:
    """The parameters of a seed's VAE."""
    return vae.train(self.train, seed=seed, epochs=self.form.epochs,
                     stop=self._place.stop)

  @functools.cache  # noqa: B019
  def near(self, name: str, seed: int) -> np.ndarray:
    """The real neighbours by `plan.NEAR`, as places `[kinds, I, number]`."""
    teacher, params = self.teacher(name), self.vae(seed)
    encode = jax.jit(lambda x: model.encode(params, x))
    _, last = teacher.ask(self.instances)
    spaces = {"latent": (encode(self.instances), _by_parts(encode, self.train)),
              "pixels": (self.instances, self.train), "last": (last, teacher.last)}
    number = plan.RANKS[-1]
    return np.stack([neighbours.nearest(*spaces[kind], number=number)
                     for kind in plan.NEAR])

  def measured(self, cell: plan.Cell, seed: int) -> dict[str, np.ndarray]:
    """What `_measure` gives of every instance, `[I, ...]`."""
    name, sampler, b = cell
    teacher, near = self.teacher(name), self.near(name, seed)
    run = _program(teacher.ask, sampler, self.form)
    key = randomness.stream(jax.random.key(seed), "instance")
    found = []
    for first in range(0, len(self.ids), _AT_ONCE):
      if self._place.stop():
        raise Interrupted
      rows = slice(first, first + _AT_ONCE)
      places = near[:, rows].swapaxes(0, 1)  # [instances, kinds, number]
      keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(self.ids[rows])
      found.append(jax.device_get(run(
          keys, self.vae(seed), np.float32(b or 0), self.instances[rows],
          self.train[places], teacher.logits[places])))
    return jax.tree.map(lambda *parts: np.concatenate(parts), *found)


def run(form: plan.Form, place: Place) -> None:
  """The table: a task a cell."""
  work = Work(form, place)
  todo = []
  for cell in plan.cells(form):
    names = tuple(_fingerprint(work, cell, seed, targets)
                  for seed, targets in _rows_of(form))
    todo.append(tasks.Task(plan.named(cell), names, functools.partial(
        _cell, work, cell, names)))
  tasks.run(todo, place, study=plan.NAME)


def run_examples(form: plan.Form, place: Place) -> None:
  """Pictures of two instances: a task each."""
  work, todo = Work(form, place), []
  for number in range(2):
    name = identity.fingerprint({
        "study": plan.NAME, "example": number, "form": form._asdict(),
        "data": work.dataset.fingerprint})
    todo.append(tasks.Task(f"example {number + 1}", (name,), functools.partial(
        _example, work, number, name)))
  tasks.run(todo, place, study=plan.NAME)


def run_constant(form: plan.Form, place: Place) -> None:
  """What needs no student: the class of the instance for all its neighbours."""
  work, todo = Work(form, place), []
  for teacher in form.teachers:
    name = identity.fingerprint({
        "study": plan.NAME, "constant": teacher, "form": form._asdict(),
        "data": work.dataset.fingerprint})
    todo.append(tasks.Task(f"{teacher}, constant", (name,), functools.partial(
        _constant, work, teacher, name)))
  tasks.run(todo, place, study=plan.NAME)


def _constant(
    work: Work, teacher: str, name: str, stop: Callable[[], bool]
) -> list[Row]:
  del stop  # `work` has it from the place.
  net, near = work.teacher(teacher), work.near(teacher, 0)[..., :plan.REAL]
  own = np.argmax(net.ask(work.instances)[0], axis=-1)
  return [{
      "row": f"{teacher}, the instance's class", "method": "constant",
      "overrides": {"teacher": teacher}, "seed": 0, "fingerprint": name,
      "teacher_fingerprint": net.record["fingerprint"], "failed": None,
      "data": work.dataset.source, "data_sha256": work.dataset.fingerprint,
      "instances": len(own), **{
          kind: _round(same_class(net.logits[near[place]], own))
          for place, kind in enumerate(plan.NEAR)}}]


def same_class(logits: np.ndarray, own: np.ndarray) -> float:
  """How often neighbours `[I, N, K]` have the class `[I]` of their instance."""
  return float(np.mean(np.argmax(logits, axis=-1) == own[:, None]))


def _rows_of(form: plan.Form) -> Iterator[tuple[int, str]]:
  return ((seed, targets) for targets in plan.TARGETS
          for seed in range(form.seeds))


def _fingerprint(work: Work, cell: plan.Cell, seed: int, targets: str) -> str:
  # Of how many seeds there are the stability depends.
  return identity.fingerprint({
      "study": plan.NAME, "cell": list(cell), "seed": seed, "targets": targets,
      "form": work.form._asdict(), "data": work.dataset.fingerprint})


def _cell(
    work: Work, cell: plan.Cell, names: tuple[str, ...], stop: Callable[[], bool]
) -> list[Row]:
  """The rows of a cell."""
  del stop  # `work` has it from the place.
  found = [work.measured(cell, seed) for seed in range(work.form.seeds)]
  maps = np.stack([each["maps"] for each in found])  # [seeds, I, targets, pixels]
  record, rows = work.teacher(cell.teacher).record, []
  for name, (seed, targets) in zip(names, _rows_of(work.form), strict=True):
    column = plan.TARGETS.index(targets)
    own = {key: value[:, column] for key, value in found[seed].items()
           if key != "random"}
    alike = local.stability(maps[:, :, column])[seed] if len(maps) > 1 else None
    rows.append({
        "row": f"{plan.named(cell)}, {targets}", "method": cell.sampler,
        "overrides": {**cell._asdict(), "targets": targets, "seed": seed},
        "seed": seed, "fingerprint": name, "teacher_seed": 0,
        "teacher_fingerprint": record["fingerprint"],
        "teacher_errors": record["test_errors"], "failed": None,
        "data": work.dataset.source, "data_sha256": work.dataset.fingerprint,
        "vae_elbo": round(vae.mean_elbo(
            work.vae(seed), work.instances), 2),
        **numbers(own, found[seed]["random"], alike)})
  return rows


def numbers(
    own: dict[str, np.ndarray], random: np.ndarray, alike: np.ndarray | None
) -> dict[str, Any]:
  """A row's means over instances, and some values of each instance.

  Args:
    own: `fidelity_WHERE` as `Fidelity` of `[I, N]`, stacked `[I, 4, N]`, and
      `deletion` `[I, counts]`.
    random: The deletion curve of random inked pixels, `[I, counts]`.
    alike: The stability `[I]`, or None with one seed.
  """
  found: dict[str, Any] = {"instances": len(random)}
  each = {}
  for where in ("own", *plan.NEAR):
    whole = local.Fidelity(*np.moveaxis(own[f"fidelity_{where}"], 1, 0))
    first = local.Fidelity(*(part[:, :plan.REAL] for part in whole))
    judged = first if where in plan.NEAR else whole
    found[where] = {
        "agreement": _round(judged.agreement.mean()),
        "kl": _round(judged.kl.mean()),
        "r2": _round(
            1 - judged.residual.sum() / max(judged.total.sum(), 1e-12))}
    each[where] = _round(judged.agreement.mean(axis=1))
    if where in plan.NEAR:
      found[where]["by_rank"] = [
          _round(whole.agreement[:, low:high].mean())
          for low, high in zip((0, *plan.RANKS), plan.RANKS)]
  each["deletion"] = _round(own["deletion"].mean(axis=1))
  return found | {
      "deletion": _round(own["deletion"].mean(axis=0)),
      "deletion_random": _round(random.mean(axis=0)),
      "stability": None if alike is None else _round(alike.mean()), "each": each}


def _round(values: Any) -> Any:
  return np.round(np.asarray(values, np.float64), 4).tolist()


@functools.cache
def _program(ask, sampler: str, form: plan.Form):
  """The measurement of some instances, compiled."""
  return jax.jit(jax.vmap(
      functools.partial(_measure, ask, sampler, form), (0, None, None, 0, 0, 0)))


def _measure(ask, sampler: str, form: plan.Form, key, params, b, x, near, logits):
  """One instance: neighbours, both linear students, their fidelity and maps.

  Args:
    ask: The teacher.
    sampler: One of `plan.SAMPLERS`.
    form: Sizes.
    key: Of this instance's draws.
    params: The VAE's.
    b: Its reach.
    x: The instance, `[pixels]`.
    near: Real neighbours, uint8 `[kinds, number, pixels]`.
    logits: What the teacher says of them, `[kinds, number, K]`.

  Returns:
    By name: `fidelity_WHERE` `[targets, 4, N]`, `deletion` `[targets, counts]`,
    `random` `[counts]`, `maps` `[targets, pixels]`: the weights of the class that
    the teacher names.
  """
  number = form.number + form.fresh
  draws = drawn(sampler, randomness.stream(key, sampler), params, b, x, number)
  asked, _ = ask(draws)
  best = jnp.argmax(ask(x[None])[0][0])
  students = fits(draws[:form.number], asked[:form.number], form)
  real = near.astype(jnp.float32) / 255
  sets = {"own": (draws[form.number:], asked[form.number:])} | {
      kind: (real[n], logits[n]) for n, kind in enumerate(plan.NEAR)}
  found = {}
  for name, (images, z) in sets.items():
    found[f"fidelity_{name}"] = jax.vmap(
        lambda student, images=images, z=z: jnp.stack(local.fidelity(
            z, student(images), temperature=form.temperature)))(students)
  maps = jnp.take(students.weights, best, axis=2)
  drop = lambda score: jax.nn.softmax(
      ask(local.without(x, score, plan.COUNTS))[0], axis=-1)[:, best]
  # The background goes last: there is nothing to delete.
  chance = jnp.where(x > 0, jax.random.uniform(
      randomness.stream(key, "random"), x.shape), -1.0)
  return found | {
      "deletion": jax.vmap(drop)(maps * x[None]), "random": drop(chance),
      "maps": maps}


def drawn(sampler: str, key, params, b, x, number: int) -> jax.Array:
  """Neighbours by the name of their sampler."""
  if sampler == "vae":
    return linear.neighbours(key, params, x, b=b, number=number)
  draw = {"masks": neighbours.by_masks, "noise": neighbours.by_noise}[sampler]
  return draw(key, x, number=number)


def fits(images: jax.Array, logits: jax.Array, form: plan.Form) -> linear.Linear:
  """Linear students by `plan.TARGETS`: softened labels at T, argmax at 1."""
  targets = jnp.stack([
      jax.nn.softmax(logits / form.temperature, axis=-1),
      jax.nn.one_hot(jnp.argmax(logits, axis=-1), logits.shape[-1])])
  return jax.vmap(lambda target, t: linear.fit(
      images, target, temperature=t, l2=form.l2, steps=form.steps))(
          targets, jnp.array([form.temperature, 1.0]))


def _example(
    work: Work, number: int, name: str, stop: Callable[[], bool]
) -> list[Row]:
  """An instance, 8 neighbours, and the maps of its two likeliest classes.

  The first is the 4 or 9 of the instances that the teacher doubts most between the
  two, the second the instance that it doubts most of all the others.
  """
  del stop  # as above
  form, (net, sampler, b) = work.form, plan.cells(work.form)[0]
  teacher, params = work.teacher(net), work.vae(0)
  p = np.asarray(jax.nn.softmax(teacher.ask(work.instances)[0] / form.temperature))
  place = int(np.minimum(p[:, 4], p[:, 9]).argmax())
  if number:
    second = np.sort(p)[:, -2]
    second[place] = 0
    place = int(second.argmax())
  x = work.instances[place]
  likeliest = np.argsort(-p[place])[:2]
  key = randomness.stream(
      jax.random.fold_in(jax.random.key(0), work.ids[place]), sampler)
  images = drawn(sampler, key, params, b, x, form.number)
  weights = fits(images, teacher.ask(images)[0], form).weights[0]
  whole = lambda images: np.round(255 * np.asarray(images)).astype(int).tolist()
  return [{
      "row": f"test image {work.ids[place]}", "method": sampler, "failed": None,
      "overrides": {"example": number}, "seed": 0, "fingerprint": name,
      "data": work.dataset.source, "b": b,
      "label": int(work.dataset.test.label[work.ids[place]]),
      "image": whole(x), "neighbours": whole(images[:8]),
      "classes": likeliest.tolist(), "p": _round(p[place][likeliest]),
      # In thousandths.
      "maps": np.round(1000 * np.asarray(weights[:, likeliest].T)).astype(
          int).tolist()}]


def _config(form: plan.Form):
  config = mnist.get_config()
  config.data.embedded = "auto" if form.quick else "never"
  config.teacher.min_steps, config.parallel, config.tensorboard = 0, "single", False
  return config


def _asking(
    net: types.Model, variables: types.Variables, scaling, shape: tuple[int, ...]
):
  """The net as a function of pixels in [0, 1]."""
  def ask(x):
    image = scaling(255 * x.reshape(-1, *shape))
    outputs, _ = net.apply(variables, image, train=False)
    taps = outputs.features
    return outputs.logits, taps["pooled" if "pooled" in taps else "hidden"]
  return ask


def _by_parts(run, images: jax.Array):
  """`run` on many images, as NumPy; pixels as it takes them."""
  found = [jax.device_get(run(images[first:first + _ASKED].astype(
      jnp.float32) / 255)) for first in range(0, len(images), _ASKED)]
  return jax.tree.map(lambda *parts: np.concatenate(parts), *found)
