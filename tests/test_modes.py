"""Every method trains on real digits, and in every mode those that are unlike KD.

All methods on features do so, most of them in tests that are marked slow.

KD itself: `test_lanes.py`, `test_devices.py`, `test_fit.py`. All of them in every
mode: `python tests/soak/methods.py`.
"""

import modes
import pytest

from kd_jax import methods

FEATURES = [name for name, own in methods.METHODS.items() if not own.on_logits]
SEVERAL = ("kd+rkd", "kd+hint+rkd", "kd+crd", "kd+ft_attention", "kd+sp+fsp",
           "kd+nd", "kd+simkd")
# Trained parameters of its own; terms that relate the examples of all devices.
QUICK = ("ctkd", "dist", "crd_drawn")
slow = lambda *values: pytest.param(*values, marks=pytest.mark.slow)
# A method of one's own on features runs in every mode in test_taps.py.
unlike_kd = pytest.mark.parametrize("method", [
    *QUICK, *(slow(name) for name in (*FEATURES, *SEVERAL) if name not in QUICK)])


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


@pytest.mark.parametrize("method", [
    "pkt", *(slow(name) for name in (*FEATURES, "kd+crd") if name != "pkt")])
def test_nets_in_bfloat16_learn_nearly_the_same(method):
  modes.check_half_precision(method)
