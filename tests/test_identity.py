"""Committed rows keep their identity: `reproduce` finds them again, as before.

The fingerprint of each row is computed anew from its study's config, the data and
the hashes of its teachers, as a sweep does before it trains anything. What a change
makes missing would be trained again by `reproduce --from-record`.
"""

from collections.abc import Mapping, Sequence
import types

from conftest import ROOT, groups
import numpy as np
import pytest

from experiments import index
from experiments.protocol import Options
import kd_jax
from kd_jax.config import build, identity, recipe, schema
from kd_jax.config import run as run_lib
from kd_jax.report import Row
from kd_jax.runs import jobs, plan, schema_1
from kd_jax.runs import setup as setup_lib
from kd_jax.teachers import teacher as teachers_lib
from kd_jax.training.lanes import Shape

# By stage, how many committed rows are found again and how many there are. The
# first stage of hinton15_mnist got more settings later, so that its chunks are
# others now; hinton15_temperature does not tell the hash of its first stage's
# teacher.
FOUND = {
    "features_cifar": {
        "choosing": (16, 16), "sum_choosing": (2, 2), "table": (36, 36)},
    "fitnets_mnist": {
        "choosing": (90, 90), "table": (150, 150), "longer_choosing": (18, 18),
        "longer": (30, 30)},
    "hinton15_mnist": {
        "choosing": (24, 32), "table": (240, 240), "search": (16, 16),
        "best_0": (8, 8), "best_1": (8, 8), "best_2": (8, 8)},
    "hinton15_omitted": {"choosing": (8, 8), "table": (48, 48)},
    "hinton15_regulariser": {"choosing": (6, 6), "table": (108, 108)},
    "hinton15_speech": {"choosing": (72, 72), "table": (90, 90)},
    "hinton15_temperature": {"choosing": (0, 60), "table": (390, 390)},
    "keras_example": {"choosing": (32, 32), "table": (90, 90)},
    "methods_mnist": {"choosing": (432, 432), "table": (360, 360)},
    "ocr_teacher": {"table": (90, 90), "mnist": (90, 90)},
    "open_mnist": {"choosing": (16, 16), "table": (6, 6), "plain": (5, 5)},
}
_OF_NUMERICS_3 = ("fitnets_mnist", "features_cifar", "ocr_teacher")


@pytest.fixture(autouse=True)
def _data(official_data, monkeypatch):
  monkeypatch.chdir(ROOT)
  # The version of numbers that most committed rows are of.
  monkeypatch.setattr(kd_jax, "NUMERICS", 2)
  monkeypatch.setenv("KD_JAX_DATA", str(official_data))


def lanes(config, rows: Sequence[Row], teachers: Sequence[Row]):
  """By program, seed and fingerprint of the lanes of a sweep that have rows."""
  made: dict[str, list[tuple[int, str]]] = {}
  known = {point_of(row["overrides"]): row for row in rows}
  data = {}
  for group in groups(config, config.sweep.points):
    key = run_lib.read(group[0].values).part("data.", "transfer.")
    if key not in data:
      data[key] = data_of(group[0].values, rows)
    program = identity.fingerprint(
        {"program": identity.program(group[0].values)})
    made.setdefault(program, []).extend(
        (lane.seed, fingerprint(lane, data[key], row, teachers))
        for lane in group if (row := known.get(point_of(lane.point))))
  return made


def data_of(values, rows: Sequence[Row]):
  """The data of a sweep; of CIFAR, which is not at hand, its hash in the rows."""
  if values["data.name"].startswith("cifar"):
    return types.SimpleNamespace(fingerprint=rows[0]["data_sha256"])
  return build.transfer_set(values, build.dataset(values, say=lambda *_: None))


def converted(marks, rows: Sequence[Row]) -> list[Row]:
  """The rows as the sweep of these lanes takes them."""
  known = {}
  for program, marked in marks.items():
    known |= schema_1.lanes_of(schema_1.tried(program, marked, rows))
  return [schema_1.converted(row, known) for row in rows]


def fingerprint(lane, dataset, row: Row, teachers: Sequence[Row]) -> str:
  """What determines a lane, with the teachers that its row tells."""
  prepared = None
  if hashes := teachers_of(row, teachers):
    # Their bits belong to the identity, so they are made as a teacher's are.
    bank = np.zeros((1, 1, len(hashes), 1), np.float32)
    prepared = types.SimpleNamespace(identity=hashes, teacher=teachers_lib.banked(
        bank, weights=run_lib.read(lane.values).weights))
  setup = setup_lib.Setup(run_lib.read(lane.values), dataset, *[None] * 8)
  net = recipe.Net("student", lane.values)
  return identity.fingerprint(jobs.identity(
      net, setup, prepared and jobs.mixture(setup.run, prepared)))


def teachers_of(row: Row, teachers: Sequence[Row]) -> list[str] | None:
  """Hashes of a row's teachers; early rows tell their teacher's fingerprint."""
  if "teacher_sha256" in row:
    return row["teacher_sha256"]
  return [each["parameters_sha256"] for each in teachers
          if each["fingerprint"] == row["teacher_fingerprint"]]


def point_of(point: Mapping) -> frozenset:
  """A point, whether its values are tuples or a file's lists."""
  return frozenset((key, schema.plain(value)) for key, value in point.items())


def found(study: str, folder) -> dict[str, tuple[int, int]]:
  """By stage, how many committed rows are found again, and how many there are."""
  rows = index.committed(index.ROOT / study)
  counts = {}
  for stage in index.study(study).stages(Options(folder)):
    if stage.config is None or stage.name not in rows:
      continue
    teachers = "teachers" if stage.name == "table" else f"{stage.name}_teachers"
    config = stage.config(rows)
    if not any(row.get("test_set") for row in rows[stage.name]):
      config.data.test = "own"  # Stages that choose were not kept from it then.
    if config.recipe:  # Its nets learn from each other's bits, which rows tell.
      continue
    marks = lanes(config, rows[stage.name], rows.get(teachers, ()))
    made = [row for row in converted(marks, rows[stage.name]) if row["schema"] == 2]
    # A sweep that starts from them asks for no lane that has one.
    done = {row["fingerprint"] for row in made}
    asked = {lane for marked in marks.values() for _, lane in marked}
    counts[stage.name] = len(done & asked), len(rows[stage.name])
  return counts


@pytest.mark.parametrize("study", [
    pytest.param(name, marks=pytest.mark.slow if "speech" in name else ())
    for name in FOUND])
def test_committed_rows_are_found_again(study, tmp_path, monkeypatch):
  if study in _OF_NUMERICS_3:
    monkeypatch.setattr(kd_jax, "NUMERICS", 3)
  assert found(study, tmp_path) == FOUND[study]


def test_every_study_of_sweeps_is_looked_at(tmp_path):
  rows = {study: index.committed(index.ROOT / study) for study in index.STUDIES}
  sweeps = {study for study in index.STUDIES if any(
      # What a recipe's nets are is told by their rows alone.
      stage.config and stage.name in rows[study]
      and not stage.config(rows[study]).recipe
      for stage in index.study(study).stages(Options(tmp_path)))}
  assert sweeps == set(FOUND)


def test_another_key_is_another_run(tmp_path):
  study = index.study("hinton15_omitted")
  rows = index.committed(index.ROOT / "hinton15_omitted")
  stage = next(s for s in study.stages(Options(tmp_path)) if s.name == "choosing")
  config = stage.config(rows)
  config.data.test, config.optimizer.b2 = "own", 0.9
  marks = lanes(config, rows["choosing"], rows["teachers"])
  made = converted(marks, rows["choosing"])
  assert marks and made == rows["choosing"], "none is known"


def test_a_row_is_converted_and_never_lost():
  chunk = plan.Chunk("g", Shape(2, 1, 2), ("a", "b", "c", "c"))
  known = schema_1.lanes_of([chunk])
  row = {"schema": 1, "lanes": [2, 2], "test_errors": 3,
         "fingerprint": schema_1.row_fingerprint("b", chunk)}
  made = schema_1.converted(row, known)
  assert made == row | {
      "schema": 2, "fingerprint": "b", "packing": "2x1x2",
      "fingerprint_of_schema_1": row["fingerprint"]}
  assert schema_1.converted(made, known) == made
  for other in (row | {"fingerprint": "f"}, {"schema": 1, "fingerprint": "b"}):
    assert schema_1.converted(other, known) == other
