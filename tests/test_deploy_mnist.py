"""Which road makes the best small file: what is run, and what the rows say."""

import pytest

from experiments.deploy_mnist import plan, study
from kd_jax.config import recipe, run


def row(road, size, form, seed, errors, kilobytes, compressed=None):
  return {
      "overrides": {"road": road, "size": size, "form": form, "seed": seed},
      "seed": seed, "test_errors": errors, "bytes": 1000 * kilobytes,
      "bytes_compressed": 1000 * (compressed or kilobytes),
      "latency_us": [10.0, 9.0, 12.0], "failed": None}


@pytest.fixture
def rows():
  made = []
  for seed in range(3):
    made += [
        row("distilled", 32, "none", seed, 200 + seed, 100),
        row("distilled", 16, "none", seed, 300 + seed, 50),
        row("distilled", 32, "dynamic", seed, 210 + seed, 28),
        row("labels", 32, "none", seed, 260 + 2 * seed, 100),
        row("pruned", 2, "none", seed, 190 - seed, 2600, 55)]
  return {"table": made}


def test_the_largest_file_that_fits_is_taken_whatever_its_errors(rows):
  files = study.by_file(rows)
  largest = lambda road, budget, key="bytes", of="float": study.largest(
      files, road, of, key, budget)
  assert largest("distilled", 120) == ("distilled", 32, "none")
  assert largest("distilled", 60) == ("distilled", 16, "none")
  assert largest("distilled", 60, of="8 bits") == ("distilled", 32, "dynamic")
  assert largest("distilled", 20) is None
  assert largest("pruned", 250) is None
  assert largest("pruned", 60, "bytes_compressed") == ("pruned", 2, "none")


def test_roads_are_compared_with_the_distilled_net_by_seed(rows):
  found = study.compared(rows, "bytes")
  file, test = found[120, "float", "labels"]
  assert file == ("labels", 32, "none")
  assert test.difference == pytest.approx(60 + 1)  # 60, 61 and 62.
  assert found[120, "float", "distilled"][1] is None
  assert (250, "float", "pruned") not in found
  _, test = study.compared(rows, "bytes_compressed")[60, "float", "pruned"]
  assert test.difference == pytest.approx(-110 - 2)  # -110, -112, -114.


def test_the_conclusion_has_each_file_and_each_budget(rows):
  text = study.conclude(rows)
  assert "| small net, distilled, 32 | float | 201.0 ± 2.5 (3) |" in text
  assert "| 120 kB, float: small net on labels | 32 |" in text
  assert "120 kB: small net, distilled (float) 201 ± 2 (3)" in study.status(rows)
  assert "picked by these test errors" in study.status(rows)
  assert study.conclude({"table": []}) == "No rows yet.\n"


def test_each_net_is_of_the_recipe_and_gradual_ones_start_from_the_last():
  from experiments.deploy_mnist import work  # pylint: disable=g-import-not-at-top
  values = run.read(work.config(plan.MNIST, 3)).values
  nets = {net.name: net for net in recipe.nets(values, swept=False)}
  assert list(nets) == [net.name for net in plan.nets(plan.MNIST)]
  assert len(nets) == 1 + 3 * 5 + 2 * 4 + 5 + 4
  assert all(net.values["seed"] == 3 for net in nets.values())
  assert nets["pruned_2"].start == "teacher" and nets["pruned_2"].prune[0] == 0.98
  assert [nets[f"gradual_{kept}"].start for kept in (20, 10, 5, 2)] == [
      "teacher", "gradual_20", "gradual_10", "gradual_5"]
  # Kept units are as many as those of the small nets.
  share, by = nets["channels_64"].prune
  assert by == "channels" and 800 - int(share * 800) == 64
  assert nets["labels_64"].values["student.widths"] == (64, 64)
