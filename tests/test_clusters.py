"""The examples for clusters, where their packages are there: every row once.

They are in no lock: Ray is larger than all that the tests need beside it.
"""

import json
import threading
import time

from conftest import ROOT
import jax
import pytest

WORDS = ["--config=mnist:few", "--sweep.temperature=1,4", "--sweep.seed=0,1",
         "--config.tensorboard=false", "--config.data.embedded=only",
         "--config.sweep.lanes=1x1"]


@pytest.fixture(autouse=True)
def _found(monkeypatch):
  monkeypatch.syspath_prepend(str(ROOT / "examples/clusters"))
  monkeypatch.setenv("PYTHONPATH", str(ROOT))
  with jax.numpy_dtype_promotion("standard"):
    yield


def rows(folder) -> list[dict]:
  lines = (folder / "all/results.jsonl").read_text().splitlines()
  return [json.loads(line) for line in lines]


@pytest.mark.slow
def test_parts_of_a_slurm_array_are_joined(tmp_path):
  pytest.importorskip("submitit")
  import submitit_sweep
  assert submitit_sweep.run(2, tmp_path, WORDS, "local") == 0
  assert len({row["fingerprint"] for row in rows(tmp_path)}) == 4


@pytest.mark.slow
def test_a_part_whose_node_is_lost_goes_on_elsewhere(tmp_path):
  ray = pytest.importorskip("ray")
  from ray.cluster_utils import Cluster
  cluster = Cluster(initialize_head=True, head_node_args={
      "num_cpus": 0, "include_dashboard": False})
  lost = [cluster.add_node(num_cpus=1), cluster.add_node(num_cpus=1)][1]
  ray.init(address=cluster.address, log_to_driver=False)
  import ray_sweep

  def kill():
    while not list(tmp_path.glob("part-*/progress/sweep*")):
      time.sleep(0.2)
    cluster.remove_node(lost, allow_graceful=False)

  killer = threading.Thread(target=kill, daemon=True)
  killer.start()
  try:
    assert ray_sweep.run(2, tmp_path, [
        *WORDS, "--config.steps=20000",
        "--config.checkpoint.every=500 steps"]) == 0
  finally:
    ray.shutdown()
    cluster.shutdown()
  assert not killer.is_alive(), "no node was lost"
  found = rows(tmp_path)
  assert len(found) == len({row["fingerprint"] for row in found}) == 4


def test_they_are_programs_of_a_page():
  page = (ROOT / "docs/devices.md").read_text()
  for file in (ROOT / "examples/clusters").glob("*.py"):
    assert f"examples/clusters/{file.name}" in page
    compile(file.read_text(), str(file), "exec")
