"""Controls without a larger teacher: each is reached by an ordinary command."""

from conftest import ROOT
import jax
import numpy as np
import pytest

from configs import born_again as recipe
from kd_jax import losses, main
from kd_jax.losses import targets
from kd_jax.report import plots
from kd_jax.runs import results

MAIN = "--config=configs/mnist.py:smoke"
# The words of each, the net that it is of, and its loss in words.
CONTROLS = {
    "self-distillation": (
        ("--config=configs/born_again.py:smoke",), "generation_1",
        "0.5 * CE + 0.5 * T**2 * KL, T = 1"),
    "label smoothing": (
        (MAIN, "--config.method=hard", "--config.label_smoothing=0.1"),
        "baseline", "CE"),
    "virtual teacher": (
        (MAIN, "--config.method=tfkd"), "distilled",
        "0.9 * CE + 0.1 * KL(u at T || student at 1), u_y = 0.99, T = 20"),
    "confidence alone": (
        (MAIN, "--config.method=cwtm"), "distilled",
        "0 * CE + 1 * B max p / sum max p * CE, T = 1"),
    "permuted classes": (
        (MAIN, "--config.method=dkpp"), "distilled",
        "0 * CE + 1 * T**2 * KL, all but the teacher's largest permuted, T = 1"),
}
WITHOUT_TEACHER = ("label smoothing", "virtual teacher")


@pytest.fixture(autouse=True)
def _as_users_run_it(monkeypatch):
  monkeypatch.chdir(ROOT)
  monkeypatch.setattr(plots, "write", lambda *_: {})
  with jax.numpy_dtype_promotion("standard"):
    yield


@pytest.mark.slow
@pytest.mark.parametrize("name", CONTROLS)
def test_a_control_is_an_ordinary_command(name, own_data, tmp_path):
  words, net, loss = CONTROLS[name]
  nets = recipe.GENERATIONS + ("student",) if net == "generation_1" else ()
  small = [f"--config.nets.{each}.widths=(6,)" for each in nets] or [
      "--config.student.widths=(6,)", "--config.teacher.widths=(8,)",
      "--config.teacher.steps=4", "--config.min_steps=0"]
  assert main.run([
      *words, *small, "--config.data.name=blobs", f"--config.data.dir={own_data}",
      "--config.steps=4", "--config.batch_size=64", "--config.tensorboard=false",
      f"--workdir={tmp_path}"]) == 0
  rows = {row["net"]: row for row in results.split(tmp_path)[0]}
  assert rows[net]["loss"] == loss
  teachers = {each for each in rows if "teacher" in each}
  assert not teachers or name not in WITHOUT_TEACHER
  if name == "self-distillation":
    before = rows["generation_0"]
    assert rows[net]["parameters"] == before["parameters"]
    assert rows[net]["teacher_sha256"] == [before["parameters_sha256"]]


def test_label_smoothing_is_kd_from_a_virtual_teacher():
  """Of T = 1 and the labels' share: the two controls are points of one family."""
  draw = np.random.default_rng(0)
  z, y = draw.normal(size=(6, 5)).astype(np.float32), np.arange(6) % 5
  teacher = targets.smoothed_label_logits(y, 5, 0.1)
  soft = losses.distillation_kl(z, teacher, 1.0)
  smoothed = losses.hard_cross_entropy(z, y, label_smoothing=0.1)
  # They differ by the entropy of the teacher, a constant.
  p = np.array([0.92] + [0.02] * 4)
  np.testing.assert_allclose(
      smoothed - soft, -(p * np.log(p)).sum(), rtol=1e-5)
