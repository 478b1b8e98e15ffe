"""Metrics are totals: they merge over ragged batches into the whole's number.

Oracles are float64 NumPy. Tests named `test_pN_` hold off a fault found in
shipped code elsewhere.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.training import metrics

log = math.log
EXAMPLES, CLASSES, BATCH = 103, 5, 16  # six batches, and one of seven


def oracle_probabilities(logits):
  power = np.exp(logits - logits.max(axis=-1, keepdims=True))
  return power / power.sum(axis=-1, keepdims=True)


def oracle_ece(logits, labels, bins=15):
  """Guo et al. 2017, eq. 3: example i is in the bin b/15 < c_i <= (b+1)/15."""
  probabilities = oracle_probabilities(logits)
  confidence = probabilities.max(axis=-1)
  correct = probabilities.argmax(axis=-1) == labels
  error = 0.0
  for b in range(bins):
    inside = (confidence > b / bins) & (confidence <= (b + 1) / bins)
    if inside.any():
      gap = abs(correct[inside].mean() - confidence[inside].mean())
      error += inside.mean() * gap
  return error


def oracle_nll(logits, labels):
  """Minus the log of the label's probability at T = 1, the mean of examples."""
  p = oracle_probabilities(logits)
  return -np.mean([log(p[i, y]) for i, y in enumerate(labels)])


def oracle_kl(student, teacher):
  """KL(teacher || student) at T = 1, the mean of examples."""
  q, p = oracle_probabilities(student), oracle_probabilities(teacher)
  return np.mean(np.sum(p * np.log(p / q), axis=-1))


def data():
  """Logits of a student, right more often than not, and a teacher; labels."""
  rng = np.random.default_rng(0)
  labels = rng.integers(CLASSES, size=EXAMPLES)
  student = rng.normal(size=(EXAMPLES, CLASSES)) + 1.5 * np.eye(CLASSES)[labels]
  teacher = student + rng.normal(size=(EXAMPLES, CLASSES))
  return np.float32(student), np.float32(teacher), np.int32(labels)


def batches(*arrays):
  """Batches of one size with a mask; rubbish where the last one is padded."""
  for start in range(0, EXAMPLES, BATCH):
    mask = np.arange(start, start + BATCH) < EXAMPLES
    index = np.where(mask, np.arange(start, start + BATCH), 0)
    batch = [np.array(a[index]) for a in arrays]
    for a in batch:
      if a.dtype == np.float32:
        a[~mask] = np.nan
    yield (*batch, mask)


classification = jax.jit(metrics.classification)
imitation = jax.jit(metrics.imitation)
calibration = jax.jit(metrics.Calibration.of, static_argnames="bins")


def merged(function, *arrays):
  return functools.reduce(
      metrics.merge, [function(*batch) for batch in batches(*arrays)])


# Means.


def test_mean_by_hand():
  mean = metrics.Mean.of(
      jnp.array([1.0, 2.0, 100.0, 6.0]), jnp.array([True, True, False, True]))
  # (1 + 2 + 6) / 3
  assert (mean.total, mean.count) == (9.0, 3)
  assert mean.compute() == 3.0


def test_merged_mean_by_hand():
  full = metrics.Mean.of(jnp.array([1.0, 3.0]), jnp.array([True, True]))
  padded = metrics.Mean.of(jnp.array([5.0, 9.0]), jnp.array([True, False]))
  assert metrics.merge(full, padded).compute() == 3.0  # (1 + 3 + 5) / 3


def test_masked_nan_does_not_count_and_an_unmasked_one_shows():
  values = jnp.array([1.0, jnp.nan])
  assert metrics.Mean.of(values, jnp.array([True, False])).compute() == 1.0
  assert math.isnan(metrics.Mean.of(values, jnp.array([True, True])).compute())


def test_mean_of_nothing_is_zero():
  mean = metrics.Mean.of(jnp.array([1.0, 2.0]), jnp.array([False, False]))
  assert mean.compute() == 0.0


def test_counts_are_exact_where_float32_is_not():
  # float32 has no 2^24 + 1: added up in it, ones stop counting at 2^24.
  many = metrics.Mean(total=jnp.int32(2**24), count=jnp.int32(2**24))
  one = metrics.Mean.of(jnp.array([1], jnp.int32), jnp.array([True]))
  total = functools.reduce(metrics.merge, (many, one, one, one))
  assert total.total.dtype == total.count.dtype == jnp.int32
  assert int(total.total) == int(total.count) == 2**24 + 3
  assert total.compute() == 1.0


# Errors and agreement.


def test_errors_and_agreement_by_hand_are_integers():
  student = jnp.array([[3.0, 1, 2], [1, 3, 2], [1, 2, 3], [3, 2, 1]])  # 0 1 2 0
  teacher = jnp.array([[9.0, 1, 2], [9, 3, 2], [1, 2, 9], [1, 9, 2]])  # 0 0 2 1
  errors = metrics.errors(student, jnp.array([0, 2, 2, 1]))
  agreement = metrics.agreement(student, teacher)
  assert errors.dtype == agreement.dtype == jnp.int32
  np.testing.assert_array_equal(errors, [0, 1, 0, 1])
  np.testing.assert_array_equal(agreement, [1, 0, 1, 0])


# Whole sets in ragged batches.


def test_counts_of_ragged_batches_are_exactly_the_whole_sets():
  student, teacher, labels = data()
  of_labels = merged(classification, student, labels)
  of_teacher = merged(imitation, student, teacher)
  wrong = int((student.argmax(-1) != labels).sum())
  same = int((student.argmax(-1) == teacher.argmax(-1)).sum())
  assert 0 < wrong < EXAMPLES and 0 < same < EXAMPLES
  assert of_labels["errors"].total.dtype == jnp.int32
  assert of_teacher["agreement"].total.dtype == jnp.int32
  assert int(of_labels["errors"].total) == wrong
  assert int(of_teacher["agreement"].total) == same
  for metric in (*of_labels.values(), *of_teacher.values()):
    assert metric.count.dtype == jnp.int32
    assert int(metric.count.sum()) == EXAMPLES
  assert of_labels["errors"].compute() == wrong / EXAMPLES
  assert of_teacher["agreement"].compute() == same / EXAMPLES


def test_nll_kl_and_ece_of_ragged_batches_equal_the_oracles_at_temperature_1():
  student, teacher, labels = data()
  result = {**merged(classification, student, labels),
            **merged(imitation, student, teacher)}
  student, teacher = np.float64(student), np.float64(teacher)
  for name, desired in (
      ("nll", oracle_nll(student, labels)),
      ("kl", oracle_kl(student, teacher)),
      ("ece", oracle_ece(student, labels)),
  ):
    assert result[name].compute() == pytest.approx(desired, rel=1e-5), name
  # The oracles tell KL's direction and the absence of calibration apart.
  assert oracle_kl(student, teacher) != pytest.approx(
      oracle_kl(teacher, student), rel=0.02)
  assert oracle_ece(student, labels) > 0.05


def test_order_of_merging_does_not_matter():
  student, _, labels = data()
  parts = [classification(*batch) for batch in batches(student, labels)]
  forwards = functools.reduce(metrics.merge, parts)
  backwards = functools.reduce(metrics.merge, parts[::-1])
  for name in forwards:
    np.testing.assert_array_equal(forwards[name].count, backwards[name].count)
    assert forwards[name].compute() == pytest.approx(
        backwards[name].compute(), rel=1e-6)


def test_sum_over_devices_is_the_merge():
  student, _, labels = data()
  parts = list(batches(student, labels))
  stacked = [np.stack(arrays) for arrays in zip(*parts)]
  summed = jax.jit(jax.vmap(
      lambda *batch: jax.lax.psum(metrics.classification(*batch), "batch"),
      axis_name="batch"))(*stacked)
  by_hand = merged(classification, student, labels)
  for name in by_hand:
    first = jax.tree.map(lambda a: a[0], summed[name])
    np.testing.assert_array_equal(first.count, by_hand[name].count)
    assert first.compute() == pytest.approx(by_hand[name].compute(), rel=1e-6)


def test_merging_different_metrics_is_refused():
  mean = metrics.Mean(total=jnp.float32(1), count=jnp.int32(1))
  with pytest.raises(ValueError):
    metrics.merge({"nll": mean}, {"kl": mean})


def test_p12_mean_of_batch_means_is_another_number():
  """haitong's and the cookbook's mean of batch means; tunix counts padding."""
  # Values 0, 0, 0 and 1: the mean is 1/4, of the means of batches 1/2.
  three = metrics.Mean.of(jnp.zeros(3), jnp.array([True] * 3))
  one = metrics.Mean.of(
      jnp.array([1.0, 7.0, 7.0]), jnp.array([True, False, False]))
  assert (three.compute() + one.compute()) / 2 == 0.5
  assert metrics.merge(three, one).compute() == 0.25


def test_p12_padding_has_no_weight_in_any_metric():
  """Whatever stands in a padded row."""
  student, teacher, labels = (a[:BATCH] for a in data())
  mask = np.arange(BATCH) < 11
  results = []
  for rubbish in (0.0, 1e30, np.nan):
    student[11:] = teacher[11:] = rubbish
    results.append({**classification(student, labels, mask),
                    **imitation(student, teacher, mask)})
  for result in results:
    for name, metric in result.items():
      assert int(metric.count.sum()) == 11
      assert metric.compute() == results[0][name].compute()
  valid = np.float64(student[:11]), labels[:11]
  assert results[0]["nll"].compute() == pytest.approx(oracle_nll(*valid))
  assert results[0]["ece"].compute() == pytest.approx(oracle_ece(*valid))


# Calibration.

# Confidence and correctness; all labels are 0, so a wrong top-1 is class 1.
HAND = [(0.9, True), (0.9, False), (0.7, True), (0.55, False)]


def with_confidence(pairs):
  p = np.array([[c, 1 - c] if right else [1 - c, c] for c, right in pairs])
  return np.float32(np.log(p)), np.zeros(len(pairs), np.int32)


def of_pairs(pairs):
  return calibration(*with_confidence(pairs), np.ones(len(pairs), bool))


def test_ece_by_hand():
  state = of_pairs(HAND)
  # 15 * (0.9, 0.7, 0.55) = 13.5, 10.5, 8.25: bins 13 (two examples), 10 and 8.
  bins = np.arange(15)
  np.testing.assert_array_equal(
      state.count, 2 * (bins == 13) + (bins == 10) + (bins == 8))
  np.testing.assert_array_equal(
      state.correct, (bins == 13).astype(int) + (bins == 10))
  np.testing.assert_allclose(
      state.confidence,
      1.8 * (bins == 13) + 0.7 * (bins == 10) + 0.55 * (bins == 8), rtol=1e-6)
  # 2/4 |1/2 - 0.9| + 1/4 |1 - 0.7| + 1/4 |0 - 0.55| = 0.2 + 0.075 + 0.1375
  assert state.compute() == pytest.approx(0.4125, rel=1e-6)
  assert oracle_ece(*with_confidence(HAND)) == pytest.approx(0.4125, rel=1e-6)


def test_mean_of_batch_eces_is_another_number():
  first, second = of_pairs(HAND[::2]), of_pairs(HAND[1::2])
  # (0.1 + 0.3) / 2 = 0.2 and (0.9 + 0.55) / 2 = 0.725, whose mean is 0.4625: by
  # batch, right and wrong of one bin do not make up for each other.
  assert first.compute() == pytest.approx(0.2, rel=1e-6)
  assert second.compute() == pytest.approx(0.725, rel=1e-6)
  assert metrics.merge(first, second).compute() == pytest.approx(0.4125, rel=1e-6)


def test_weighted_mean_of_batch_eces_is_never_the_smaller():
  student, _, labels = data()
  parts = [classification(*batch)["ece"] for batch in batches(student, labels)]
  sizes = [float(part.count.sum()) for part in parts]
  mean = np.average([part.compute() for part in parts], weights=sizes)
  assert mean > functools.reduce(metrics.merge, parts).compute()


@pytest.mark.parametrize("bins", [1, 4, 15])
def test_ece_equals_the_oracle_for_any_number_of_bins(bins):
  student, _, labels = data()
  state = calibration(student, labels, np.ones(EXAMPLES, bool), bins=bins)
  assert state.count.shape == (bins,)
  assert state.compute() == pytest.approx(
      oracle_ece(np.float64(student), labels, bins), rel=1e-5)


def test_bins_are_open_below_and_closed_above(monkeypatch):
  # Confidences exactly on an edge cannot be had through softmax on every
  # machine, so here the logits stand for the probabilities.
  monkeypatch.setattr(
      metrics.losses, "tempered_softmax", lambda logits, temperature: logits)
  def state(confidence):
    return metrics.Calibration.of(
        jnp.asarray(confidence)[:, None], jnp.zeros(15, jnp.int32),
        jnp.ones(15, bool))
  edges = np.float32(np.arange(1, 16) / 15)  # (b+1)/15 is the last of bin b
  np.testing.assert_array_equal(state(edges).confidence, edges)
  above = np.float32(np.arange(15) / 15 + 1e-4)  # b/15 and a little is in it
  np.testing.assert_array_equal(state(above).confidence, above)
  below = np.float32(np.arange(1, 16) / 15 - 1e-4)
  np.testing.assert_array_equal(state(below).confidence, below)


def test_certain_predictions_are_in_the_last_bin():
  logits = np.float32([[0, 1000], [1000, 0]])
  state = calibration(logits, np.int32([1, 1]), np.array([True, True]))
  assert int(state.count[14]) == 2
  assert state.compute() == 0.5  # |1/2 - 1|


def test_nan_shows_in_the_calibration_unless_masked():
  logits = np.float32([[0, 1000], [np.nan, np.nan]])
  shown = calibration(logits, np.int32([1, 1]), np.array([True, True]))
  assert int(shown.count.sum()) == 2
  assert math.isnan(shown.compute())
  masked = calibration(logits, np.int32([1, 1]), np.array([True, False]))
  assert int(masked.count.sum()) == 1
  assert masked.compute() == 0.0


def test_calibration_of_nothing_is_zero():
  logits = np.zeros((2, 2), np.float32)
  state = calibration(logits, np.int32([1, 1]), np.array([False, False]))
  assert state.compute() == 0.0
