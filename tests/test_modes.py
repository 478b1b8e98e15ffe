"""Every method trains on real digits, and in every mode those that are unlike KD.

KD itself: `test_lanes.py`, `test_devices.py`, `test_fit.py`. All of them in every
mode: `python tests/soak/methods.py`.
"""

import modes
import pytest

from kd_jax import methods

# Trained parameters of its own; terms that relate the examples of all devices.
slow = lambda *values: pytest.param(*values, marks=pytest.mark.slow)
# A method of one's own on features runs in every mode in test_taps.py.
unlike_kd = pytest.mark.parametrize("method", [
    "ctkd", "dist", slow("hint"), slow("kd+rkd"), slow("kd+hint+rkd"),
    "crd_drawn", slow("kd+crd"), slow("cc"), slow("ab"), slow("kd+ft_attention"),
    slow("kd+sp+fsp"), slow("kd+nd"), slow("itrd"), slow("simkd"), slow("kd+simkd"),
    slow("wkd_f")])


@pytest.mark.parametrize(
    "method", [*methods.METHODS, "kd+rkd", "kd+hint+rkd", "kd+crd"])
def test_every_method_learns_on_digits(method):
  modes.check_training(method)


@unlike_kd
def test_lanes_are_single_runs(method):
  modes.check_lanes(method)


@unlike_kd
@pytest.mark.parametrize("kind", ["pmap", "sharded"])
def test_eight_devices_are_one(method, kind):
  modes.check_devices(method, kind)


@unlike_kd
def test_a_run_goes_on_to_the_same_bits(method, tmp_path):
  modes.check_resume(method, tmp_path)
