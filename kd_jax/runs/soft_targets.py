"""What a teacher knows beside the right answer, for the report to show."""

from collections.abc import Sequence
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax import losses
from kd_jax.data import preprocess
from kd_jax.runs import records
from kd_jax.runs.jobs import Job
from kd_jax.training import parameters

_TEMPERATURES = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0, 10.0, 14.0, 20.0, 40.0)
_EXAMPLES = 6


def write(file: pathlib.Path, ready: Sequence[Job]) -> None:
  """Writes the entropy of the soft targets, and some telling examples.

  Of the first job's teacher on the test set: the examples that it gets right,
  one a class, on which it is least sure.
  """
  prepared = next((job.prepared for job in ready if job.prepared), None)
  if prepared is None or (logits := prepared.splits["test"].teacher_logits) is None:
    file.unlink(missing_ok=True)  # Of an older sweep.
    return
  data = prepared.splits["test"].data
  entropies = {t: np.asarray(entropy(logits, t)) for t in _TEMPERATURES}
  label = np.asarray(data.label)
  right = np.asarray(jnp.argmax(logits, -1)) == label
  unsure = np.argsort(-np.where(right, entropies[4.0], -1.0), kind="stable")
  classes, first = np.unique(label[unsure], return_index=True)
  chosen = np.sort(first)[:_EXAMPLES]
  del classes
  parameters.write_json(file, {
      "schema": records.SCHEMA,
      "teacher_fingerprint": prepared.record["fingerprint"],
      "entropy": [
          {"temperature": t, "mean": round(float(e.mean()), 6),
           "low": round(float(np.quantile(e, 0.1)), 6),
           "high": round(float(np.quantile(e, 0.9)), 6)}
          for t, e in entropies.items()],
      "examples": [
          {"id": int(i), "label": int(label[i]), "image": _image(data.inputs[i]),
           "logits": [round(float(v), 4) for v in np.asarray(logits[i])]}
          for i in unsure[chosen]] if preprocess.are_images(data.inputs) else []})


def _image(image: jax.Array) -> list:
  """Pixels as a picture shows them: a grey image has no axis of channels."""
  pixels = np.asarray(image)
  return (pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).tolist()


def entropy(logits: jax.Array, temperature: float) -> jax.Array:
  """H = -sum p log p of the softened probabilities, in nats, `[N]`."""
  log_p = losses.tempered_log_softmax(logits, temperature)
  return -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)
