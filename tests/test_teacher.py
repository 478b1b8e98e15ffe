"""Ensembles, and banks on disk: the right rows, or a refusal."""

import io
import json
import shutil

from conftest import blobs
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_step import CLASSES

from kd_jax import losses, teachers
from kd_jax.core import types
from kd_jax.core.errors import UserError
from kd_jax.data import views
from kd_jax.data.preprocess import Scaling
from kd_jax.models import MODELS
from kd_jax.runs import logit_bank
from kd_jax.training import devices, parameters, segment

SHIFT = views.VIEWS["shift2"]


def softmax(z, temperature=1.0):
  e = np.exp(np.asarray(z, np.float64) / temperature)
  return e / e.sum(-1, keepdims=True)


@pytest.fixture
def members():
  return np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32) * 3


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_mean_of_probabilities_at_the_temperature_asked(members, temperature):
  """P21: the arithmetic mean of tempered probabilities, at this T."""
  weights = np.array([0.2, 0.3, 0.5], np.float32)
  logits = teachers.combine(
      jnp.asarray(members), jnp.asarray(weights), temperature)
  expected = np.einsum("m,mbc->bc", weights, softmax(members, temperature))
  got = losses.tempered_softmax(logits, temperature)
  np.testing.assert_allclose(got, expected, rtol=2e-5)


def test_mean_of_logits_is_the_geometric_mean(members):
  weights = jnp.full((3,), 1 / 3, jnp.float32)
  logits = teachers.combine(jnp.asarray(members), weights, 4.0, mean="logits")
  product = np.prod(softmax(members, 4.0), axis=0) ** (1 / 3)
  expected = product / product.sum(-1, keepdims=True)
  np.testing.assert_allclose(
      losses.tempered_softmax(logits, 4.0), expected, rtol=2e-5)


def test_members_are_heard_by_their_confidence(members):
  """CA-MKD: weights (1 - softmax(c)) / (M - 1) of the cross-entropies c."""
  label = np.array([0, 3, 1, 4])
  batch = types.Batch(None, jnp.asarray(label), None, None, None)
  teacher = teachers.Teacher(
      lambda arrays, batch: types.Outputs(arrays, {}), jnp.asarray(members),
      jnp.full((3,), 1 / 3), "confidence")
  said = teachers.outputs(teacher, teacher.arrays, batch, 2.0)
  p = softmax(members, 1.0)[:, np.arange(4), label]
  weights = (1 - (1 / p) / (1 / p).sum(0)) / 2
  expected = np.einsum("mb,mbc->bc", weights, softmax(members, 2.0))
  np.testing.assert_allclose(
      losses.tempered_softmax(said.logits, 2.0), expected, rtol=2e-5)


@pytest.mark.parametrize("mean", ["certainty", "agreement"])
def test_members_weigh_by_example_without_labels(members, mean):
  """In evaluation too: nothing but their logits says how much each counts."""
  even = jnp.full((3,), 1 / 3)
  p = softmax(members)
  each = {"certainty": 1 / -(p * np.log(p)).sum(-1),
          "agreement": np.stack([(p[m] * (p.sum(0) - p[m])).sum(-1)
                                 for m in range(3)])}[mean]
  expected = np.einsum("mb,mbc->bc", each / each.sum(0), softmax(members, 2.0))
  teacher = teachers.Teacher(
      lambda arrays, batch: types.Outputs(arrays, {}), jnp.asarray(members), even,
      mean)
  batch = types.Batch(None, None, None, None, None)
  for logits in (teachers.combine(jnp.asarray(members), even, 2.0, mean=mean),
                 teachers.outputs(teacher, teacher.arrays, batch, 2.0).logits):
    np.testing.assert_allclose(
        losses.tempered_softmax(logits, 2.0), expected, rtol=2e-5)


def test_members_of_some_classes_count_for_these_alone(members):
  classes = ((0, 1), (1, 2, 3), ())
  known = np.array([[1, 1, 0, 0, 0], [0, 1, 1, 1, 0], [1, 1, 1, 1, 1]], bool)
  w = np.array([0.2, 0.3, 0.5], np.float32)
  mixed = lambda mean: np.asarray(teachers.combine(
      jnp.asarray(members), jnp.asarray(w), 2.0, mean=mean, classes=classes))
  share = w[:, None] * known / (w[:, None] * known).sum(0)
  # The level of logits is kept: a member's own, where it alone knows a class.
  np.testing.assert_allclose(
      mixed("logits"), (share[:, None] * members).sum(0), rtol=1e-5)
  np.testing.assert_array_equal(mixed("logits")[:, 4], members[2, :, 4])
  p = softmax(np.where(known[:, None], members, -np.inf), 2.0)
  expected = (w[:, None, None] * p).sum(0) / known.sum(0)
  np.testing.assert_allclose(
      losses.tempered_softmax(mixed("probabilities"), 2.0),
      expected / expected.sum(-1, keepdims=True), rtol=2e-5)
  # One that is certain says whose the example is, where no class is shared.
  sure = jnp.array([[[9.0, -9.0, 0, 0]], [[0, 0, 1.0, 1.0]]])
  found = losses.tempered_softmax(teachers.combine(
      sure, jnp.full((2,), 0.5), 1.0, mean="certainty",
      classes=((0, 1), (2, 3))), 1.0)
  np.testing.assert_allclose(found, [[1, 0, 0, 0]], atol=1e-3)
  # A class that nobody knows.
  none = teachers.combine(jnp.asarray(members[:2]), jnp.asarray(w[:2]), 2.0,
                          mean="logits", classes=classes[:2])
  assert (none[:, 4] == -jnp.inf).all() and np.isfinite(none[:, :4]).all()


def test_one_member_keeps_its_bits(members):
  one = jnp.asarray(members[:1])
  np.testing.assert_array_equal(
      teachers.combine(one, jnp.ones((1,)), 7.0), one[0])


def test_equal_members_are_one_teacher(members):
  same = jnp.asarray(np.stack([members[0]] * 4))
  logits = teachers.combine(same, jnp.full((4,), 0.25), 5.0)
  np.testing.assert_allclose(
      losses.tempered_softmax(logits, 5.0), softmax(members[0], 5.0), rtol=1e-5)


def test_a_bank_answers_by_id_and_view():
  bank = jnp.arange(6 * 3 * 2 * 4, dtype=jnp.float32).reshape(6, 3, 2, 4)
  ids, view = jnp.array([5, 0, 2]), jnp.array([1, 2, 0])
  batch = types.Batch(None, None, ids, view, None)
  said = teachers.banked(bank).members(bank, batch).logits
  np.testing.assert_array_equal(said[0], [bank[5, 1, 0], bank[0, 2, 0],
                                          bank[2, 0, 0]])
  np.testing.assert_array_equal(said[1], bank[ids, view, 1])


def teacher_of(data, where=None) -> logit_bank.Source:
  models = [MODELS["mlp"](num_classes=CLASSES, widths=(w,)) for w in (16, 24)]
  image = data.preprocess(data.inputs[:1])
  held = [m.init(jax.random.key(i), image) for i, m in enumerate(models)]
  where = where or devices.choose("single")
  return logit_bank.Source(
      models, *devices.copies(where, (held, data)), SHIFT, where)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
  """A teacher, and the folder of its bank; only read, or copied and spoilt."""
  image, label = blobs(150)
  source = teacher_of(segment.DeviceData(
      jnp.asarray(image), jnp.asarray(label), jnp.arange(150, dtype=jnp.int32),
      Scaling(jnp.full((1,), 1 / 255, jnp.float32), jnp.zeros((1,), jnp.float32))))
  folder = tmp_path_factory.mktemp("bank")
  bank = obtain(folder / "bank.npy", source)
  assert bank.shape == (150, 25, 2, CLASSES) and bank.dtype == np.float32
  assert isinstance(bank, np.memmap)
  assert not (folder / "bank.npy.begun.json").exists()
  return source, folder


@pytest.fixture
def spoilt(built, tmp_path):
  """The teacher, and the file of a copy of its bank."""
  return built[0], shutil.copytree(built[1], tmp_path / "copy") / "bank.npy"


def obtain(path, source, tick=lambda done: None, say=print, **marks):
  return logit_bank.obtain(
      path, {"data": "d", "teachers": ["a", "b"], "views": "shift2"} | marks,
      source, num_classes=CLASSES, tick=tick, say=say)


def test_a_banks_rows_are_the_live_logits(built):
  source, folder = built
  written = (folder / "bank.npy").stat().st_mtime_ns
  bank = obtain(folder / "bank.npy", source)
  assert (folder / "bank.npy").stat().st_mtime_ns == written, "built once"
  ids = jnp.arange(64, dtype=jnp.int32)
  view = ids % 25
  batch = segment.take(source.data, SHIFT, ids, view, ids >= 0)
  live = teachers.live(source.models, source.variables)
  said = jax.jit(live.members)(live.arrays, batch).logits
  gap = np.abs(np.asarray(said).swapaxes(0, 1) - bank[ids, view]).max()
  assert gap <= 1e-5 * np.abs(bank).max()


def rounded(path, source, temperature=2.0, **more):
  """A bank of float16, and what is said of its error."""
  rounding = logit_bank.Rounding(temperature)
  return logit_bank.obtain(
      path, {"data": "d"}, source, num_classes=CLASSES, rounding=rounding,
      **more), rounding


def test_a_bank_of_float16_tells_what_it_costs(built, tmp_path):
  source, folder = built
  exact = np.load(folder / "bank.npy")
  exact64 = exact.astype(np.float64)
  path = tmp_path / "half.npy"
  bank, rounding = rounded(path, source)
  assert bank.dtype == np.float16
  np.testing.assert_array_equal(bank, exact.astype(np.float16))
  assert path.stat().st_size < 0.51 * (folder / "bank.npy").stat().st_size
  p, q = (np.exp(x / 2) / np.exp(x / 2).sum(-1, keepdims=True)
          for x in (exact64, bank.astype(np.float64)))
  kl = np.sum(p * np.log(p / q), axis=-1)
  told = rounding.record()
  assert told["max_kl"] == pytest.approx(kl.max(), rel=1e-6)
  assert told["mean_kl"] == pytest.approx(kl.mean(), rel=1e-6)
  assert told["temperature"] == 2.0 and 0 < told["mean_kl"] < told["max_kl"] < 1e-6
  # Found again, it says what it said when it was made.
  assert rounded(path, source, temperature=9.0)[1].record() == told
  # One of the other kind is no such bank.
  with pytest.raises(UserError, match="other dtype"):
    logit_bank.obtain(path, {"data": "d"}, source, num_classes=CLASSES)
  np.save(path, bank[np.random.default_rng(0).permutation(150)])
  said = []
  np.testing.assert_array_equal(
      rounded(path, source, say=said.append)[0], exact.astype(np.float16))
  assert "permuted, foreign or damaged" in said[0]


def test_a_stopped_bank_of_float16_knows_its_error(built, tmp_path):
  source, _ = built
  whole = rounded(tmp_path / "whole.npy", source)[1].record()

  def stop(done):
    if done == 9:
      raise KeyboardInterrupt
  with pytest.raises(KeyboardInterrupt):
    rounded(tmp_path / "half.npy", source, tick=stop)
  views = []
  told = rounded(tmp_path / "half.npy", source, tick=views.append)[1].record()
  assert views == list(range(10, 26))
  assert told == pytest.approx(whole)


def test_logits_that_float16_does_not_hold_are_refused(built):
  rounding = logit_bank.Rounding(1.0)
  exact = np.array([[1e5, 0.0], [-np.inf, 1.0]], np.float32)
  with np.errstate(over="ignore"), pytest.raises(UserError, match="float32"):
    rounding.add(exact, exact.astype(np.float16))
  rounding.add(exact[1:], exact[1:].astype(np.float16))  # A class that is none.
  masked = np.array([[3.0, -1e9, 1.0]], np.float32)  # By a number instead of -inf.
  with np.errstate(over="ignore"):
    rounding.add(masked, masked.astype(np.float16))
  assert np.isfinite(rounding.record()["mean_kl"])
  assert rounding.record()["max_kl"] == 0.0


def test_what_a_teacher_masks_is_no_damage_to_a_bank_of_float16(built, tmp_path):
  path, (source, _) = tmp_path / "bank.npy", built

  def masking(model):
    def apply(variables, x, **how):
      outputs, state = model.apply(variables, x, **how)
      return outputs._replace(logits=outputs.logits.at[:, 1].set(-1e9)), state
    return model._replace(apply=apply)

  source = source._replace(models=[*map(masking, source.models)])
  with np.errstate(over="ignore"):
    bank, _ = rounded(path, source)
  assert np.isneginf(bank[..., 1]).all()
  logit_bank.verify(bank, source)
  with pytest.raises(parameters.Damaged):
    logit_bank.verify(np.roll(bank, 1, axis=0), source)
  with pytest.raises(parameters.Damaged):
    logit_bank.verify(np.roll(bank, 1, axis=-1), source)


def test_a_student_is_told_float32_of_a_bank_of_float16():
  bank = jnp.linspace(0, 1, 24, dtype=jnp.float16).reshape(3, 2, 1, 4)
  ids, view = jnp.array([2, 0]), jnp.array([1, 0])
  batch = types.Batch(None, None, ids, view, None)
  said = teachers.banked(bank).members(bank, batch).logits
  assert said.dtype == jnp.float32
  np.testing.assert_array_equal(
      said[0], np.asarray(bank, np.float32)[ids, view, 0])


def test_a_permuted_bank_is_made_again(spoilt):
  """P10: rows that belong to other images."""
  source, path = spoilt
  bank = np.load(path)
  np.save(path, bank[np.random.default_rng(0).permutation(150)])
  said = without_checksums(path)
  whole = obtain(path, source, say=said.append)
  assert "has no checksums" in said[0]
  assert "permuted, foreign or damaged" in said[1] and "making it again" in said[1]
  np.testing.assert_array_equal(whole, bank)
  np.save(path, np.roll(bank, 1, axis=1))  # views off by one
  said = without_checksums(path)
  np.testing.assert_array_equal(obtain(path, source, say=said.append), bank)
  assert "permuted, foreign or damaged" in said[1]


def without_checksums(path):
  """Makes a bank one of an earlier version; gives a list for what is said."""
  sidecar = path.with_name("bank.npy.json")
  told = json.loads(sidecar.read_text())
  sidecar.write_text(json.dumps({
      key: value for key, value in told.items()
      if key not in ("blocks", "record_sha256")}))
  return []


def test_a_bank_without_checksums_is_read_and_not_made_again(spoilt):
  source, path = spoilt
  said, before = without_checksums(path), path.stat().st_mtime_ns
  obtain(path, source, say=said.append)
  assert len(said) == 1 and "has no checksums" in said[0]
  assert path.stat().st_mtime_ns == before


def flipped(content):
  """One bit of one number, far from where any row is compared by chance."""
  return content[:-99] + bytes([content[-99] ^ 1]) + content[-98:]


def an_archive(content):
  """As `.npz`, which NumPy reads too."""
  out = io.BytesIO()
  np.savez(out, bank=np.load(io.BytesIO(content)))
  return out.getvalue()


@pytest.mark.parametrize(("name", "spoil", "words"), [
    ("bank.npy", flipped, "a damaged bank"),
    ("bank.npy", lambda content: content[:len(content) // 2], "unreadable bank"),
    ("bank.npy", lambda content: b"", "unreadable bank"),
    ("bank.npy", lambda content: content[:30] + b"((((" + content[34:],
     "unreadable bank"),
    ("bank.npy.json", lambda content: content.replace(b'"d"', b'"e"'),
     "a damaged record"),
    ("bank.npy.json", lambda content: content[:40], "a damaged record"),
    ("bank.npy.json", lambda content: b"[1]", "a damaged record"),
    ("bank.npy.json", lambda content: b"\xff\xfe", "a damaged record"),
    ("bank.npy.json", lambda content: b"[" * 100_000, "a damaged record"),
    ("bank.npy", an_archive, "unreadable bank"),
])
def test_a_damaged_bank_is_made_again_from_its_teacher(
    spoilt, built, monkeypatch, name, spoil, words):
  monkeypatch.setattr(logit_bank, "_BLOCK", 1000)
  source, path = spoilt
  path.with_name("bank.npy.json").unlink()
  obtain(path, source)  # In many blocks.
  file, said = path.with_name(name), []
  file.write_bytes(spoil(file.read_bytes()))
  whole = obtain(path, source, say=said.append)
  np.testing.assert_array_equal(whole, np.load(built[1] / "bank.npy"))
  assert len(said) == 1 and words in said[0] and "making it again" in said[0]
  obtain(path, source, say=said.append)
  assert len(said) == 1, "it is whole again"


def test_a_bank_is_read_once_when_it_is_made_and_when_it_is_opened(
    spoilt, monkeypatch):
  source, path = spoilt
  passes, checksums = [], logit_bank._checksums
  monkeypatch.setattr(logit_bank, "_checksums", lambda bank: (
      passes.append(bank.nbytes), checksums(bank))[1])
  bank = obtain(path, source)
  # A device that is the CPU takes the pages that were read.
  held = devices.copies(devices.choose("single"), bank)
  assert held.unsafe_buffer_pointer() == bank.ctypes.data
  path.with_name("bank.npy.json").unlink()
  made = obtain(path, source)
  assert passes == [bank.nbytes, made.nbytes]


def test_a_bank_of_something_else_is_refused(spoilt):
  source, path = spoilt
  with pytest.raises(UserError, match=r"other data.*delete it"):
    obtain(path, source, data="e")
  with pytest.raises(UserError, match="other teachers"):
    obtain(path, source, teachers=["b", "a"])


class Stopped(Exception):
  pass


def test_a_stopped_bank_goes_on_where_it_was(built, tmp_path):
  source, folder = built
  path, asked = tmp_path / "bank.npy", []

  def build(stop_at=None, **marks):
    def tick(done):
      asked.append(done)
      if done == stop_at:
        raise Stopped
    return obtain(path, source, tick, **marks)

  np.save(path, np.zeros((150, 25, 2, CLASSES), np.float32))  # Nobody's.
  with pytest.raises(Stopped):
    build(stop_at=10)
  with pytest.raises(Stopped):
    build(stop_at=12)
  whole = np.array(build())
  assert asked == [*range(1, 11), 11, 12, *range(13, 26)]
  np.testing.assert_array_equal(whole, np.load(folder / "bank.npy"))
  assert not path.with_name("bank.npy.begun.json").exists()
  # Of another teacher nothing is taken over.
  path.with_name("bank.npy.json").unlink()
  with pytest.raises(Stopped):
    build(stop_at=3)
  asked.clear()
  build(teachers=["b", "a"])
  assert asked == [*range(1, 26)]


def test_what_is_left_of_a_bank_is_not_trusted_blindly(spoilt):
  source, path = spoilt
  marks = json.loads(path.with_name("bank.npy.json").read_text())
  begun = path.with_name("bank.npy.begun.json")
  for told in ("[]", "{", json.dumps(marks)):
    path.with_name("bank.npy.json").unlink()
    begun.write_text(told)
    views = []
    obtain(path, source, views.append)
    assert views == [*range(1, 26)]
  # Another file, of views that it says are done.
  path.with_name("bank.npy.json").unlink()
  np.save(path, np.zeros((150, 25, 2, CLASSES), np.float32))
  identity = {key: marks[key] for key in marks.keys() - {"blocks", "record_sha256"}}
  begun.write_text(json.dumps(identity | {"done": 25}))
  with pytest.raises(UserError, match=r"permuted, foreign.* makes it again"):
    obtain(path, source)
  whole = np.array(obtain(path, source))
  assert np.abs(whole).max() > 0, "the same command has made it again"


def test_a_bank_of_several_devices_has_the_bits_of_one(built):
  source, folder = built
  out = np.empty((150, 25, 2, CLASSES), np.float32)
  spread = teacher_of(source.data, devices.choose("pmap", most=3))
  assert [*logit_bank.build(spread, out)] == [*range(1, 26)]
  np.testing.assert_array_equal(out, np.load(folder / "bank.npy"))


def own_logits(label, wrong=0):
  logits = np.eye(CLASSES)[label] * 5
  logits[:wrong] = np.roll(logits[:wrong], 1, axis=1)
  return logits


def test_a_users_logits_become_a_bank(tmp_path, device_data):
  label = np.asarray(device_data.label)
  file = str(tmp_path / "t.npy")
  np.save(file, own_logits(label, wrong=15))
  bank, accuracy = logit_bank.from_file(
      file, label, num_views=1, num_classes=CLASSES)
  assert bank.shape == (150, 1, 1, CLASSES) and accuracy == 0.9
  np.save(file, np.stack([own_logits(label)] * 25, axis=1))
  bank, _ = logit_bank.from_file(file, label, num_views=25, num_classes=CLASSES)
  assert bank.shape == (150, 25, 1, CLASSES)


@pytest.mark.parametrize(("make", "message"), [
    (lambda y: own_logits(y)[:-1], "must be"),
    (lambda y: own_logits(y)[:, :-1], "must be"),
    (lambda y: np.stack([own_logits(y)] * 3, 1), "views"),
    (lambda y: own_logits(np.roll(y, 1)), "order of the data set"),
    (lambda y: own_logits(y).astype(np.int64), "floats"),
    (lambda y: np.array([{}], dtype=object), "cannot be read"),
])
def test_logits_that_cannot_be_right_are_refused(
    make, message, tmp_path, device_data):
  label = np.asarray(device_data.label)
  file = str(tmp_path / "t.npy")
  np.save(file, make(label))
  with pytest.raises(UserError, match=message):
    logit_bank.from_file(file, label, num_views=1, num_classes=CLASSES)


def test_a_missing_file_of_logits_is_named(tmp_path):
  with pytest.raises(UserError, match=r"teacher\.logits=.*nope\.npy"):
    logit_bank.from_file(str(tmp_path / "nope.npy"), np.zeros(3, np.int32),
                    num_views=1, num_classes=2)


def test_a_mean_over_views_is_that_of_their_probabilities_at_t():
  """By hand: members 1/4 and 3/4, and each view as much as any other."""
  bank = np.random.default_rng(0).normal(size=(4, 3, 2, 5)).astype(np.float32)
  stored, weights, _ = teachers.averaged(bank, (0.25, 0.75), ())
  teacher = teachers.banked(jnp.asarray(stored), weights=weights)
  ids = jnp.array([2, 0])
  batch = types.Batch(jnp.zeros((2, 1)), ids, ids, jnp.array([1, 0]), ids >= 0)
  found = jax.nn.softmax(
      teachers.outputs(teacher, teacher.arrays, batch, 4.0).logits / 4.0)
  soft = np.exp(bank / 4) / np.exp(bank / 4).sum(-1, keepdims=True)
  wanted = np.einsum("nvmc,m->nc", soft, [0.25 / 3, 0.75 / 3])
  np.testing.assert_allclose(found, wanted[[2, 0]], rtol=1e-5)


def test_classes_of_members_are_those_of_each_view():
  bank = np.zeros((4, 3, 2, 5), np.float32)
  stored, weights, classes = teachers.averaged(bank, None, [(0, 1), (2, 3, 4)])
  assert stored.shape == (4, 1, 6, 5) and weights is None
  assert classes == ((0, 1), (2, 3, 4)) * 3
