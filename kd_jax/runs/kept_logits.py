"""What nets say: their logits, and what a teacher knows beside the right answer."""

from collections.abc import Mapping, Sequence
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax import losses
from kd_jax import teachers as kd_teachers
from kd_jax.config import identity
from kd_jax.core import hosts, types
from kd_jax.core.errors import UserError
from kd_jax.core.files import damage, refuse_pipes
from kd_jax.data import preprocess
from kd_jax.runs import nets, records, results, schema_1
from kd_jax.runs import rows as rows_lib
from kd_jax.runs.jobs import Job
from kd_jax.runs.teacher_store import PreparedTeacher
from kd_jax.training import parameters

# Of the entropy: in a table, and as a curve of the report.
_TEMPERATURES = (1.0, 2.0, 4.0, 8.0, 20.0)
_SHOWN = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0, 10.0, 14.0, 20.0, 40.0)
_EXAMPLES = 6
# Training examples that an entropy is the mean over, at most.
_MOST = 60_000


def teachers(
    workdir: pathlib.Path, jobs: Sequence[Job], study: str, *, more: bool = False,
) -> None:
  """Writes what the teachers of jobs know, for the report and for tables.

  `teacher.json` has the soft targets of the first; `teachers.jsonl` a row for each,
  its members' after it; `logits/` the logits, if they are asked for.

  Args:
    workdir: Where.
    jobs: The students'.
    study: Name in the rows.
    more: Whether the run has other teachers too, which have their rows there.
  """
  _write_soft_targets(workdir / "teacher.json", jobs)
  file = workdir / "teachers.jsonl"
  rows: dict[str, dict[str, Any]] = {
      row["fingerprint"]: row for row in (
          results.read(workdir, file.name) if more and file.is_file() else ())}
  made: dict[str, dict[str, Any]] = {}
  for job in jobs:
    if job.prepared is None:
      continue
    record = dict(job.prepared.record)
    if job.setup.run.sweep.keep_logits:
      _save(workdir, f"teacher-{record['fingerprint']}",
            job.prepared.member_logits)
    if job.net.in_config:
      continue  # Those of a recipe have rows like all its nets.
    about = {"schema": records.SCHEMA, "study": study,
             **rows_lib.judged(job.setup.run),
             "teacher": identity.unlike_default(job.setup.run.values, "teacher.")}
    members = record.pop("members", [])
    if members:
      record["members"] = [member["fingerprint"] for member in members]
    record |= {"entropy": _entropies(job.prepared), **_of_training(job)}
    for net, each in [("teacher", record)] + [("member", m) for m in members]:
      made.setdefault(each["fingerprint"], about | {"net": net} | each)
  if rows := rows | made:
    results.write(file, list(rows.values()))


def keep(job: Job, fingerprint: str, variables: types.Variables) -> None:
  """Writes the logits of a net, `[N, classes]` a split, if they are asked for.

  They go to `workdir/logits/FINGERPRINT.npz`, in float16: its rounding is some
  thousandths of a logit, far less than differs from seed to seed.
  """
  if not job.setup.run.sweep.keep_logits:
    return
  logits = nets.logits(job.setup, job.training.model, variables)
  if hosts.first():
    _save(job.setup.workdir, fingerprint, logits)


def load(workdir: pathlib.Path, row: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """The logits kept of the net of a row, by split, float32.

  Raises:
    UserError: If they are not there, or damaged.
  """
  names = [row["fingerprint"], row.get(schema_1.KEY)]
  there = [name for name in names
           if name and (workdir / "logits" / f"{name}.npz").is_file()]
  return _load(workdir, (there or names)[0])


def load_teacher(
    workdir: pathlib.Path, fingerprint: str
) -> dict[str, np.ndarray]:
  """The same of a teacher's members, `[members, N, classes]`."""
  return _load(workdir, f"teacher-{fingerprint}")


def _load(workdir: pathlib.Path, name: str) -> dict[str, np.ndarray]:
  path = workdir / "logits" / f"{name}.npz"
  try:
    refuse_pipes(path)
    with np.load(path, allow_pickle=False) as file:
      return {name: file[name].astype(np.float32) for name in file.files}
  except Exception as error:  # Whatever damage makes NumPy raise.
    raise UserError(
        f"{path}: the logits of this net cannot be read ({damage(error)}); give "
        "the same command with another --workdir, which makes them anew") from None


def _save(
    workdir: pathlib.Path, name: str, logits: Mapping[str, jax.Array]
) -> None:
  folder = workdir / "logits"
  folder.mkdir(parents=True, exist_ok=True)
  fresh = folder / f"{name}.new"
  with fresh.open("wb") as file:
    arrays: dict[str, Any] = {
        split: np.asarray(values, np.float16) for split, values in logits.items()}
    np.savez(file, **arrays)
  fresh.replace(folder / f"{name}.npz")


def _entropies(teacher: PreparedTeacher) -> dict[str, float]:
  """Mean entropy of the soft targets by temperature, in nats."""
  # Of held-out data where there is some: a smoothing may be chosen by it.
  logits = teacher.splits.get("heldout", teacher.splits["test"]).teacher_logits
  if logits is None:
    return {}
  return {f"{t:g}": round(float(jnp.mean(_entropy(logits, t))), 6)
          for t in _TEMPERATURES}


def _of_training(job: Job) -> dict[str, Any]:
  """The same of training examples, of the image itself, if they are in a bank."""
  assert job.prepared is not None
  teacher = job.prepared.teacher
  bank = teacher.arrays[0] if isinstance(teacher.arrays, tuple) else teacher.arrays
  # Of a bank that stays on the host little is here, and of other means the weights
  # of an example are not.
  if not isinstance(bank, jax.Array) or teacher.rows is not None or (
      teacher.mean not in ("probabilities", "logits")):
    return {}
  ids = np.asarray(job.setup.train.ids)[:_MOST]
  members = jnp.moveaxis(losses.at_least_float32(
      bank.addressable_data(0)[ids, 0]), 1, 0)  # All devices have all of it.
  of = lambda t: _entropy(kd_teachers.combine(
      members, jnp.asarray(np.asarray(teacher.weights)), t, mean=teacher.mean,
      classes=teacher.classes), t)
  return {"train_entropy": {
      f"{t:g}": round(float(jnp.mean(of(t))), 6) for t in _TEMPERATURES}}


def _write_soft_targets(file: pathlib.Path, jobs: Sequence[Job]) -> None:
  """Writes the entropy of the soft targets, and some telling examples.

  Of the first job's teacher on the test set: the examples that it gets right,
  one a class, on which it is least sure.
  """
  prepared = next((job.prepared for job in jobs if job.prepared), None)
  if prepared is None or (logits := prepared.splits["test"].teacher_logits) is None:
    file.unlink(missing_ok=True)  # Of an older sweep.
    return
  data = prepared.splits["test"].data
  entropies = {t: np.asarray(_entropy(logits, t)) for t in _SHOWN}
  label = np.asarray(data.label)
  right = np.asarray(jnp.argmax(logits, -1)) == label
  unsure = np.argsort(-np.where(right, entropies[4.0], -1.0), kind="stable")
  _, first = np.unique(label[unsure], return_index=True)  # Of each class.
  chosen = np.sort(first)[:_EXAMPLES]
  parameters.write_json(file, {
      "schema": records.SCHEMA,
      "teacher_fingerprint": prepared.record["fingerprint"],
      "entropy": [
          {"temperature": t, "mean": round(float(e.mean()), 6),
           "low": round(float(np.quantile(e, 0.1)), 6),
           "high": round(float(np.quantile(e, 0.9)), 6)}
          for t, e in entropies.items()],
      "examples": [
          {"id": int(i), "label": int(label[i]), "image": image(data.inputs[i]),
           "logits": [round(float(v), 4) for v in np.asarray(logits[i])]}
          for i in unsure[chosen]] if preprocess.are_images(data.inputs) else []})


def image(stored: jax.Array) -> list:
  """Pixels as a picture shows them: a grey image has no axis of channels."""
  pixels = np.asarray(stored)
  if pixels.dtype != np.uint8:
    pixels = np.interp(
        pixels, (pixels.min(), pixels.max()), (0, 255)).astype(np.uint8)
  return (pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).tolist()


def _entropy(logits: jax.Array, temperature: float) -> jax.Array:
  """H = -sum p log p of the softened probabilities, in nats, `[N]`."""
  log_p = losses.tempered_log_softmax(logits, temperature)
  return -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)
