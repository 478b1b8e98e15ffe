"""From a generalist to a single net again: the nets of one seed."""

from collections.abc import Callable, Mapping, Sequence
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.hinton15_specialists import nets, specialists
from kd_jax import data
from kd_jax.config import build
from kd_jax.core import types
from kd_jax.data import preprocess
from kd_jax.training import metrics, segment

Settings = Mapping[str, Any]
# What of the settings is a traced number of a training.
_TRACED = ("learning_rate", "label_smoothing", "temperature")


class Length(NamedTuple):
  """Widths, examples a step, and epochs of a generalist and of a specialist."""

  widths: tuple[int, ...]
  batch_size: int
  epochs: int
  further: int


class Said(NamedTuple):
  """Logits of the training examples and of those that judge, `[..., N, K]`."""

  train: np.ndarray
  judged: np.ndarray


class Nets(NamedTuple):
  """Stacked nets, `[L, ...]`, and what they say, with the dustbin."""

  variables: types.Variables
  said: Said


class Setup:
  """Data on the device, and who judges: the held-out part, or the test set.

  Attributes:
    dataset: Everything.
    length: How long nets are trained.
    judge: "heldout" or "test".
    label: Classes of the judged examples, `[J]`.
    own: Classes of the examples trained on, `[n]`.
  """

  def __init__(
      self, dataset: data.Dataset, length: Length, stop: Callable[[], bool]):
    self.dataset, self.length, self._stop = dataset, length, stop
    self.classes = dataset.num_classes
    self._preprocess = preprocess.of("standard", dataset.train.inputs)
    self._train = self._on_device(dataset.train, dataset.train_ids)
    self.judge = "heldout" if len(dataset.heldout_ids) else "test"
    held = dataset.train.label[dataset.heldout_ids]
    self.label = held if len(held) else dataset.test.label
    self.own = dataset.train.label[dataset.train_ids]

  def share(self, inside: np.ndarray) -> np.ndarray:
    """pi of each set `[M, classes]` in the training data, float32 `[M]`."""
    return inside[:, self.own].mean(axis=1, dtype=np.float32)

  def trained(self, method: str, epochs: int, lanes: nets.Lanes) -> Nets:
    """Trains lanes for so many epochs, and asks them."""
    steps = segment.steps_per_epoch(len(self.own), self.length.batch_size)
    program = nets.Program(
        self.length.widths, self.classes + 1, method, self.length.batch_size,
        epochs * steps)
    found = nets.train(program, self._train, lanes, stop=self._stop)
    say = lambda examples: nets.predict(found, examples, self.length.widths)
    said = say(self._train)
    if self.judge == "heldout":
      return Nets(found, Said(said, said[:, self.dataset.heldout_ids]))
    test = self.dataset.test
    return Nets(found, Said(said, say(
        self._on_device(test, np.arange(len(test.label))))))

  def lanes(
      self, seeds: Sequence[int], settings: Sequence[Settings], **more: Any
  ) -> nets.Lanes:
    """Lanes of all classes that learn the data as they are, but for `more`."""
    each = lambda leaf: np.broadcast_to(leaf, (len(seeds), *leaf.shape))
    hparams = jax.tree.map(lambda *x: np.stack(x), *map(_hparams, settings))
    everything = np.arange(self.classes + 1) < self.classes
    return nets.Lanes(
        np.asarray(seeds, np.uint32), hparams, each(self.dataset.train.label),
        each(self.dataset.train_ids), each(everything))._replace(**more)

  def _on_device(self, examples: data.Examples, ids: np.ndarray):
    return build.device_data(examples, ids, self._preprocess)


def generalists(
    bench: Setup, seeds: Sequence[int], settings: Sequence[Settings]) -> Nets:
  """Nets of all classes on hard labels."""
  return bench.trained("hard", bench.length.epochs, bench.lanes(seeds, settings))


def continued(
    bench: Setup, generalist: Nets, seed: int, settings: Sequence[Settings]
) -> Nets:
  """The generalist trained on, as long as a specialist is, on all classes."""
  return bench.trained("hard", bench.length.further, bench.lanes(
      [seed] * len(settings), settings,
      params=_tiled(generalist.variables.params, len(settings))))


def specialised(
    bench: Setup, generalist: Nets, inside: np.ndarray, seeds: Sequence[int],
    settings: Sequence[Settings]) -> list[Said]:
  """Specialists of the sets `[M, classes]`, for each of some settings.

  They begin with the generalist's weights. The dustbin's are the mean of those of
  the classes outside, and log of their number: about what these say together.

  Returns:
    Corrected logits `[N, M, classes + 1]` for each setting.
  """
  starts = [_with_dustbin(generalist.variables.params, row, pi)
            for row, pi in zip(inside, bench.share(inside), strict=True)]
  own = {
      "label": np.asarray(jax.vmap(specialists.dustbin_labels, (None, 0))(
          jnp.asarray(bench.dataset.train.label), jnp.asarray(inside))),
      "exists": np.pad(inside, ((0, 0), (0, 1)), constant_values=True),
      "params": jax.tree.map(lambda *x: np.stack(x), *starts)}
  told = bench.trained("hard", bench.length.further, _of_sets(
      bench, inside, seeds, settings, own))
  return _corrected(told.said, bench.share(inside))


def regularised(
    bench: Setup, generalist: Nets, inside: np.ndarray, seeds: Sequence[int],
    settings: Sequence[Settings]) -> list[Said]:
  """Specialists of all classes, held to the generalist's soft targets.

  Section 6.1 proposes them. As they see S as often as the rest, the soft targets
  are those of a generalist of such data: log((1 - pi) / pi) is added to its logits
  in S, and so it is to the biases that they begin with.

  Returns:
    Collapsed and corrected logits `[N, M, classes + 1]` for each setting.
  """
  pi = bench.share(inside)[:, None]
  more = np.pad(inside * np.log((1 - pi) / pi), ((0, 0), (0, 1)))
  starts = [_shifted(generalist.variables.params, row) for row in more]
  own = {"bank": generalist.said.train + more[:, None, :],
         "params": jax.tree.map(lambda *x: np.stack(x), *starts)}
  told = bench.trained("kd", bench.length.further, _of_sets(
      bench, inside, seeds, settings, own))
  sets = _tiled(inside, len(settings))
  return _corrected(
      jax.tree.map(lambda z: _collapsed(z[..., :-1], sets), told.said),
      bench.share(inside))


def students(
    bench: Setup, seed: int, settings: Sequence[Settings],
    taught: Sequence[np.ndarray]) -> Nets:
  """New nets of the generalist's form, for as long as generalist and specialist.

  Args:
    bench: The data.
    seed: Of all of them.
    settings: One a net.
    taught: Log-probabilities of each one's teacher, `[N, classes]`.

  Returns:
    The nets.
  """
  bank = np.pad(np.stack(taught), ((0, 0), (0, 0), (0, 1)),
                constant_values=-np.inf)
  length = bench.length
  return bench.trained("kd", length.epochs + length.further, bench.lanes(
      [seed] * len(settings), settings, bank=bank))


def together(
    generalist: Said, specialist: Said, inside: np.ndarray, top: int) -> Said:
  """Log-probabilities of generalist and specialists, `[N, classes]`."""
  say = lambda z_g, z_m: np.asarray(_combined(z_g, z_m, inside, top))
  return jax.tree.map(say, generalist, specialist)


def ensemble(members: Nets) -> Said:
  """Log of the mean of their probabilities, `[N, classes]`."""
  return jax.tree.map(lambda z: np.asarray(_mean(z[..., :-1])), members.said)


def of_all_classes(told: Nets, number: int = 0) -> Said:
  """What one of the nets says, without a dustbin."""
  return jax.tree.map(lambda z: z[number, :, :-1], told.said)


def one(told: Nets, number: int) -> Nets:
  """One of the nets, still stacked."""
  return jax.tree.map(lambda leaf: leaf[number:number + 1], told)


def numbers(bench: Setup, said: Said) -> dict[str, Any]:
  """Errors, NLL and ECE of what was said of the judged examples."""
  told, wrong = _measured(said.judged, bench.label)
  name = bench.judge
  row = {f"{name}_errors": int(told["errors"].total),
         f"{name}_examples": len(bench.label),
         f"{name}_nll": float(f"{told['nll'].compute():.7g}"),
         f"{name}_ece": float(f"{told['ece'].compute():.7g}")}
  if name == "test":
    row["test_wrong_ids"] = np.flatnonzero(wrong).tolist()
  fine = bool(np.isfinite(said.judged).all())
  return row | {"failed": None if fine else "not finite"}


@functools.partial(jax.jit, static_argnames="top")
def _combined(z_g, z_m, inside, top):
  return specialists.combine(
      z_g, z_m, inside, specialists.active_specialists(z_g, inside, top=top))


@jax.jit
def _mean(z):
  return jax.nn.logsumexp(jax.nn.log_softmax(z), axis=0) - jnp.log(
      jnp.float32(len(z)))


@jax.jit
def _measured(logits, label):
  mask = jnp.ones(label.shape, bool)
  return (metrics.classification(logits, label, mask),
          metrics.errors(logits, label))


# `[L, N, classes]` and a set for each lane.
_collapsed = jax.jit(jax.vmap(specialists.collapse))
# `[L, N, classes + 1]` and a share for each lane.
_undone = jax.jit(jax.vmap(specialists.correct_dustbin))


def _hparams(settings: Settings) -> types.Hparams:
  alpha = settings.get("alpha", 0.0)
  traced = {name: settings[name] for name in _TRACED if name in settings}
  return jax.tree.map(np.float32, types.Hparams(
      hard_weight=1.0 - alpha, soft_weight=alpha, **traced))


def _of_sets(bench: Setup, inside, seeds, settings, own) -> nets.Lanes:
  """Lanes of every set, for each setting, half of whose examples are of it."""
  every = [each for each in settings for _ in range(len(inside))]
  return bench.lanes(list(seeds) * len(settings), every, **_tiled(
      {"inside": inside[:, bench.own], **own}, len(settings)))


def _corrected(said: Said, share: np.ndarray) -> list[Said]:
  """The lanes of each setting, `[N, M, classes + 1]`, their bias undone."""
  sets = len(share)

  def undone(first: int, z: np.ndarray) -> np.ndarray:
    return np.moveaxis(
        np.asarray(_undone(z[first:first + sets], share)), 0, 1)

  return [jax.tree.map(functools.partial(undone, first), said)
          for first in range(0, len(said.train), sets)]


def _last(params: types.Tree) -> str:
  """The name of the layer that gives the logits."""
  return max(params, key=lambda name: int(name.rpartition("_")[2]))


def _with_dustbin(params: types.Tree, inside: np.ndarray, share: float):
  """A generalist's parameters as those of a specialist in training."""
  params = jax.tree.map(lambda leaf: leaf[0].copy(), params)
  last, outside = params[_last(params)], np.flatnonzero(~inside)
  last["kernel"][:, -1] = last["kernel"][:, outside].mean(axis=1)
  last["bias"][-1] = last["bias"][outside].mean() + np.log(
      len(outside)) - np.log((1 - share) / share)
  return params


def _shifted(params: types.Tree, more: np.ndarray):
  """A generalist's parameters with `more` on the biases of its logits."""
  params = jax.tree.map(lambda leaf: leaf[0].copy(), params)
  params[_last(params)]["bias"] += more
  return params


def _tiled(tree: types.Tree, number: int) -> types.Tree:
  """The leading axis again and again: settings outside, sets inside."""
  return jax.tree.map(
      lambda leaf: np.concatenate([leaf] * number, axis=0), tree)
