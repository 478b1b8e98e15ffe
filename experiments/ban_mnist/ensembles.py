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
  before = place.folder.parent / "table"
  label = _labels(config, before)
  found = []
  for seed in sorted({seed for _, seed in nets}):
    for name, members in ensembles.items():
      if all((member, seed) in nets for member in members):
        found.append(judged(
            name, [nets[member, seed] for member in members], before, label))
  with records.locked(place.folder):
    results.write(place.folder / "results.jsonl",
                  rows.stamp(found, study="ban_mnist"))


def judged(
    name: str, members: Sequence[Row], folder: pathlib.Path, label: np.ndarray
) -> Row:
  """The errors of the mean of the members' probabilities."""
  logits = np.stack([kept_logits.load(folder, row)["test"] for row in members])
  mean = mixtures.mixture_logits(jnp.asarray(logits), 1.0)
  fingerprints = [row["fingerprint"] for row in members]
  return {
      "overrides": {"ensemble": name}, "seed": members[0]["seed"], "failed": None,
      "fingerprint": identity.fingerprint({"mean of": fingerprints}),
      "members": fingerprints, "test_examples": len(label),
      "test_errors": int((np.asarray(mean).argmax(-1) != label).sum())}


def _labels(
    config: ml_collections.ConfigDict, folder: pathlib.Path
) -> np.ndarray:
  """The test labels of what a stage was run on."""
  values = report.side_file(folder, "config.json") or {}
  config.data.embedded = values.get("data.embedded", config.data.embedded)
  return np.asarray(build.dataset(config, say=lambda line: None).test.label)
