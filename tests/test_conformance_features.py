"""The feature mode of the conformance tool: every planted defect is found."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_conformance import failing, run

from kd_jax.conformance import adapters, feature_loss, properties, taps, targets

ROWS = list(feature_loss.PROPERTIES)
SMALL = taps.Taps(((2, 2, 3),))


def unit(x, axis=None, least=1e-24):
  return x / np.sqrt(np.sum(x**2, axis=axis, keepdims=True) + least)


def attention(x, power=2):
  return np.sum(np.abs(x)**power, axis=-1).reshape(len(x), -1)


def wide(function):
  """Computed in float64 at least, as half precision asks for."""
  return lambda s, t: function(s.astype(float), t.astype(float))


@wide
def right(s, t):
  """Attention transfer: one value an example."""
  return np.mean((unit(attention(s), 1) - unit(attention(t), 1))**2, axis=1)


def of(distance):
  return wide(lambda s, t: np.mean(distance(s, t)))


def gap(s, t):
  return np.mean((s - t)**2, axis=(1, 2, 3))


AT = ("examples", "pixels", "channels", "rotation", "scale", "example-scale")
HINT = ("examples", "pixels")
# A loss, what it claims, and the rows that must fail, and no others.
PLANTED = {
    "right": (right, AT, ""),
    "mean": (of(right), AT, ""),
    "hint": (wide(gap), HINT, ""),
    "absolute": (of(lambda s, t: np.abs(s - t)), HINT, ""),
    "sum": (wide(lambda s, t: np.sum(right(s, t))), AT, "split"),
    "sign": (wide(lambda s, t: -gap(s, t)), HINT, "equality"),
    "no square": (of(lambda s, t: s - t), HINT, "equality"),
    "root": (of(lambda s, t: np.sqrt(np.maximum(gap(s, t), 0))), HINT, ""),
    "norm of one net": (
        of(lambda s, t: (unit(attention(s), 1) - attention(t))**2), AT,
        "scale example-scale"),
    "norm of the batch": (
        of(lambda s, t: (unit(attention(s)) - unit(attention(t)))**2), AT,
        "example-scale split"),
    "norm without a guard": (
        of(lambda s, t: (unit(attention(s), 1, 0) - unit(attention(t), 1, 0))**2),
        AT, "zeros"),
    "attention of absolute values": (
        of(lambda s, t: (unit(attention(s, 1), 1) - unit(attention(t, 1), 1))**2),
        AT, "rotation"),
    "pixels of another order": (
        of(lambda s, t: (s - t.transpose(0, 2, 1, 3))**2), HINT,
        "equality pixels"),
    "half": (lambda s, t: np.mean((s * s - t * t)**2, dtype=s.dtype), HINT, "half"),
    "diverged": (wide(lambda s, t: np.nan_to_num(gap(s, t))), HINT, "diverged"),
    "deviation of one": (
        of(lambda s, t: (s / s.std(0, ddof=1) - t / t.std(0, ddof=1))**2),
        (*HINT, "scale"), "split single zeros"),
    "neighbours": (
        of(lambda s, t: np.abs(s - t) * np.abs(s - t)[::-1]), HINT,
        "examples split"),
}


def judge(loss, shapes=SMALL, claims=("examples",), relational=False, names=ROWS):
  kind = targets.of_features(shapes)
  probe = feature_loss.Probe(
      loss.of(kind.call(loss.function)), shapes, claims, relational)
  rules = {name: feature_loss.PROPERTIES[name] for name in names}
  return {row.name: row for row in properties.judged(probe, rules)}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_defect_fails_its_rows_and_no_others(name):
  loss, claims, rows = PLANTED[name]
  found = judge(adapters.numpy(loss), claims=claims)
  assert failing(found) == set(rows.split())
  assert {name for name, row in found.items() if row.finding.holds is None} == {
      "teacher", *taps.INVARIANCES} - set(claims)


@pytest.mark.parametrize("name", taps.INVARIANCES)
def test_a_claim_is_judged_and_else_only_measured(name):
  """A distance that weighs every entry otherwise has none of them."""
  def loss(s, t):
    weight = np.arange(s.size).reshape(s.shape)**2
    return np.mean(weight * (s - t)**2)
  claimed = judge(adapters.numpy(loss), claims=(name,), names=[name])[name].finding
  assert claimed.holds is False and max(claimed.numbers.values()) > 1e-3
  free = judge(adapters.numpy(loss), claims=(), names=[name])[name].finding
  assert free.absent and free.numbers == claimed.numbers


def test_two_taps_of_a_net_change_alike_and_keep_their_channels():
  shapes = taps.Taps(((2, 3, 4), (2, 3, 5)))
  rows = np.random.default_rng(0).normal(size=(6, 54))
  before = shapes.of(rows)
  after = {name: shapes.of(shapes.changed(rows, name)) for name in taps.INVARIANCES}
  for one, two in zip(before, after["rotation"]):
    np.testing.assert_allclose(np.sum(one**2, -1), np.sum(two**2, -1))
    assert np.abs(np.sort(one, -1) - np.sort(two, -1)).max() > 0.1
  for one, two in zip(before, after["channels"]):
    np.testing.assert_array_equal(np.sort(one, -1), np.sort(two, -1))
    assert (one != two).any()
  # One order of the pixels for both: the place of each in the tap as it was.
  places = [[np.argmin(np.abs(one[0].reshape(6, -1) - pixel).sum(-1))
             for pixel in two[0].reshape(6, -1)]
            for one, two in zip(before, after["pixels"])]
  assert places[0] == places[1] != list(range(6))
  assert np.ptp(after["channel-scale"][0] / before[0], axis=(0, 1, 2)).max() < 1e-12
  assert np.ptp(after["example-scale"][0] / before[0], axis=(1, 2, 3)).max() < 1e-12
  assert np.ptp(after["shift"][0] - before[0], axis=(0, 1, 2)).max() < 1e-12


def test_channels_may_come_first():
  shapes = taps.Taps(((4, 2, 3),), axis=1)
  rows = np.random.default_rng(0).normal(size=(6, 24))
  ratio = shapes.of(shapes.changed(rows, "channel-scale")) / shapes.of(rows)
  assert np.ptp(ratio, axis=(0, 2, 3)).max() < 1e-12 < np.ptp(ratio[0, :, 0, 0])


def test_gradients_of_jax_show_a_root_and_a_teacher_that_is_trained():
  def root(s, t):
    return jnp.mean(jnp.sqrt(jnp.sum(jnp.square(s - t), axis=(1, 2, 3))))
  names = ["equality", "teacher", "zeros", "half"]
  assert failing(judge(adapters.jax(root), names=names)) == {
      "equality", "teacher", "zeros"}
  held = lambda s, t: jnp.mean(jnp.square(s - jax.lax.stop_gradient(t)))
  assert not failing(judge(adapters.jax(held), names=names))


def test_a_relation_is_none_of_the_mean_of_halves_and_may_say_so():
  def relation(s, t):
    grams = [x.reshape(len(x), -1) @ x.reshape(len(x), -1).T for x in (s, t)]
    return np.mean((grams[0] - grams[1])**2)
  claims = ("examples", "rotation")
  loss = adapters.numpy(wide(relation))
  assert failing(judge(loss, claims=claims)) == {"split"}
  found = judge(loss, claims=claims, relational=True)
  assert not failing(found) and found["split"].finding.absent
  assert found["split"].finding.numbers["ratio"] == pytest.approx(1.0)


TORCH = """
import torch

def loss(student_features, teacher_features):
  {before}
  maps = [x.float().pow(2).mean(1).flatten(1)
          for x in (student_features, teacher_features)]
  q, r = (x / {norm} for x in maps)
  return (q - r).pow(2).mean()
"""


@pytest.mark.parametrize(("before", "norm", "rows"), [
    ("teacher_features = teacher_features.detach()",
     "x.norm(dim=1, keepdim=True).clamp_min(1e-12)", ""),
    ("", "x.norm(dim=1, keepdim=True).clamp_min(1e-12)", "teacher"),
    ("teacher_features = teacher_features.detach()",
     "x.norm(dim=1, keepdim=True)", "zeros"),
    ("teacher_features = teacher_features.detach()", "x.norm().clamp_min(1e-12)",
     "split"),
])
def test_maps_of_pytorch_have_their_channels_first(
    tmp_path, capsys, before, norm, rows):
  pytest.importorskip("torch")
  file = tmp_path / "at.py"
  file.write_text(TORCH.format(before=before, norm=norm))
  assert run(str(file), "--kind=features", "--shape=5,4,3", "--channels=first",
             "--invariant=examples,pixels,rotation,scale", "--json") == bool(rows)
  told = json.loads(capsys.readouterr().out)
  assert told["framework"] == "torch" and told["shape"] == [[5, 4, 3]]
  assert rows.split() == [
      row["property"] for row in told["rows"] if row["verdict"] == "fails"]


@pytest.mark.parametrize(("arguments", "said"), [
    (["--shape=4,4"], "three sizes"), (["--shape=4,x,4"], "--shape"),
    (["--shape=100,100,100"], "10,000"), (["--shape=0"], "--shape"),
    (["--invariant=rotations"], "did you mean rotation"),
    (["--invariant="], "names no invariance"),
    (["--shape=8", "--invariant=pixels"], "have none"),
    (["--alpha=soft"], "is no option of --kind=features"),
    (["--only=masked"], "masked is no row"),
    (["--channels=second"], "--channels"),
    (["--shape=8"], "for others see --framework and --shape"),
])
def test_options_of_features_are_checked(capsys, arguments, said):
  attention = "kd_jax.losses.maps:attention_distance"
  assert run(attention, "--kind=features", *arguments) == 2
  error = capsys.readouterr().err
  assert said in error and len(error.splitlines()) == 1


def test_options_of_features_are_none_of_logits(capsys):
  for option in ("--shape=8", "--invariant=scale", "--relational",
                 "--channels=last"):
    assert run("kd_jax.conformance.ours:kd", option) == 2
    assert "is no option of --kind=kd" in capsys.readouterr().err
  assert run("kd_jax.conformance.ours:kd", "--kind=features") == 2
  assert "must take (student_features, teacher_features)" in (
      capsys.readouterr().err)


def test_a_decorated_loss_of_features_is_read(tmp_path, capsys):
  file = tmp_path / "own.py"
  file.write_text(
      "import numpy as np\nfrom kd_jax.conformance import adapters\n"
      "@adapters.numpy\ndef loss(student_features, teacher_features):\n"
      "  one, two = ((s - t)**2 for s, t in zip(student_features, "
      "teacher_features))\n"
      "  return one.mean() + two.mean()\n")
  assert run(str(file), "--kind=features", "--shape=2,2,3", "--shape=4",
             "--only=equality,split", "--json") == 0
  told = json.loads(capsys.readouterr().out)
  assert told["framework"] == "numpy" and told["kind"] == "features"
  assert "alpha" not in told and told["holds"]
