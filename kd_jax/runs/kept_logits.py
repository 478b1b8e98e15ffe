"""What is kept of the nets of a sweep: teachers' numbers, and logits."""

from collections.abc import Iterable, Mapping
import pathlib
from typing import Any
import zipfile
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.config import identity
from kd_jax.core import types
from kd_jax.core.errors import UserError
from kd_jax.runs import nets, records, results, schema_1, soft_targets
from kd_jax.runs.jobs import Job

_TEMPERATURES = (1.0, 2.0, 4.0, 8.0, 20.0)


def teachers(workdir: pathlib.Path, ready: Iterable[Job], study: str) -> None:
  """Writes `teachers.jsonl`: a row for each teacher, its members' after it."""
  rows: dict[str, dict[str, Any]] = {}
  for job in ready:
    if job.prepared is None or job.net.in_config:
      continue  # Those of a recipe have rows like all its nets.
    record = dict(job.prepared.record)
    about = {"schema": records.SCHEMA, "study": study,
             "teacher": identity.unlike_default(job.setup.run.values, "teacher.")}
    members = record.pop("members", [])
    if members:
      record["members"] = [member["fingerprint"] for member in members]
    record["entropy"] = _entropy(job)
    for net, each in [("teacher", record)] + [("member", m) for m in members]:
      rows.setdefault(each["fingerprint"], about | {"net": net} | each)
  if rows:
    results.write(workdir / "teachers.jsonl", list(rows.values()))


def keep_teachers(workdir: pathlib.Path, ready: Iterable[Job]) -> None:
  """Writes the logits of teachers, `[members, N, classes]` a split."""
  for job in ready:
    if job.prepared is not None:
      name = f"teacher-{job.prepared.record['fingerprint']}"
      _save(workdir, name, job.prepared.member_logits)


def keep(
    workdir: pathlib.Path, fingerprint: str, job: Job,
    variables: types.Variables,
) -> None:
  """Writes the logits of a lane's net, `[N, classes]` a split.

  They go to `workdir/logits/FINGERPRINT.npz`, in float16: its rounding is some
  thousandths of a logit, far less than differs from seed to seed.
  """
  predict = nets.predictor(job.setup.devices, job.training.model)
  _save(workdir, fingerprint, {
      name: predict(variables, split.data, jnp.int32(0))
      for name, split in job.setup.splits.items()})


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
    with np.load(path, allow_pickle=False) as file:
      return {name: file[name].astype(np.float32) for name in file.files}
  except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
    raise UserError(
        f"{path}: the logits of this net cannot be read ({error}); delete "
        f"{workdir} and give the same command again") from None


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


def _entropy(job: Job) -> dict[str, float]:
  """Mean entropy of the soft targets by temperature, in nats."""
  assert job.prepared is not None
  splits = job.prepared.splits
  # Of held-out data where there is some: a smoothing may be chosen by it.
  logits = splits.get("heldout", splits["test"]).teacher_logits
  if logits is None:
    return {}
  return {f"{t:g}": round(float(jnp.mean(soft_targets.entropy(logits, t))), 6)
          for t in _TEMPERATURES}
