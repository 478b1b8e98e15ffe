"""Means of the probabilities of nets that are there; nothing is trained."""

from collections.abc import Mapping, Sequence
import pathlib

import jax.numpy as jnp
import ml_collections
import numpy as np

from experiments.protocol import Place
from kd_jax import report
from kd_jax.config import build, identity
from kd_jax.losses import mixtures
from kd_jax.report import Row
from kd_jax.runs import kept_logits, records, results, rows


def write(
    nets: Mapping[tuple[str, int], Row], ensembles: Mapping[str, Sequence[str]],
    config: ml_collections.ConfigDict, place: Place,
) -> None:
  """Writes a row for each ensemble and seed, by the logits that `table` has kept.

  Args:
    nets: The rows of its nets, by name and seed.
    ensembles: By name, the nets of each.
    config: For the data.
    place: Where the rows go.
  """
  before, file = place.folder.parent / "table", place.folder / "results.jsonl"
  label = _labels(config, before)
  known = {(row["overrides"]["ensemble"], row["fingerprint"]): row
           for row in (report.read(place.folder) if file.is_file() else ())}
  found = []
  for seed in sorted({seed for _, seed in nets}):
    for name, names in ensembles.items():
      members = [nets[each, seed] for each in names if (each, seed) in nets]
      if len(members) < len(names):
        continue
      # Of rows that came from elsewhere the logits may not be here.
      found.append(known.get((name, _fingerprint(members))) or rows.stamp(
          [judged(name, members, before, label)], study="ban_mnist")[0])
  with records.locked(place.folder):
    results.write(file, found)


def judged(
    name: str, members: Sequence[Row], folder: pathlib.Path, label: np.ndarray
) -> Row:
  """The errors of the mean of the members' probabilities."""
  logits = np.stack([kept_logits.load(folder, row)["test"] for row in members])
  mean = mixtures.mixture_logits(jnp.asarray(logits), 1.0)
  return {
      "overrides": {"ensemble": name}, "seed": members[0]["seed"], "failed": None,
      "fingerprint": _fingerprint(members),
      "members": [row["fingerprint"] for row in members],
      "test_examples": len(label),
      "test_errors": int((np.asarray(mean).argmax(-1) != label).sum())}


def _fingerprint(members: Sequence[Row]) -> str:
  return identity.fingerprint({"mean of": [row["fingerprint"] for row in members]})


def _labels(
    config: ml_collections.ConfigDict, folder: pathlib.Path
) -> np.ndarray:
  """The test labels of what a stage was run on."""
  values = report.side_file(folder, "config.json") or {}
  config.data.embedded = values.get("data.embedded", config.data.embedded)
  return np.asarray(build.dataset(config, say=lambda line: None).test.label)
