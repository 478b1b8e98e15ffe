"""The verdict on mutual learning: who is compared with whom, by which rows."""

import numpy as np

from experiments.mutual_mnist import study

# Test errors of each arm with four seeds; the pairs as one after them.
ERRORS = {
    "labels": 300, "a peer like it": 290, "a large peer": 280,
    "two peers like it": 270, "a teacher like it": 295, "a large teacher": 260}
PAIRS = {"labels": 250, "a peer like it": 275}
NOISE = (-3, 1, 2, 0)


def row(setting, seed, *, net="student", heldout=None, test=None):
  return {"net": net, "seed": seed, "failed": None,
          "overrides": {"seed": seed, **setting}, "seconds": 1.0,
          "heldout_errors": heldout, "heldout_examples": 6_000,
          "test_errors": test, "test_examples": 10_000}


def rows():
  """Of each arm the third setting is the best."""
  found: dict[str, list] = {}
  for prefix, (_, arms) in study._KINDS.items():
    tried = found.setdefault(f"{prefix}choosing", [])
    final = found.setdefault(f"{prefix}table", [])
    for each in arms:
      tried += [row(setting, 100, heldout=200 + 10 * abs(place - 2))
                for place, setting in enumerate(each.settings)]
      for seed, noise in enumerate(NOISE):
        best = each.settings[2]
        final.append(row(best, seed, test=ERRORS[each.name] + noise * (seed + 1)))
        if each.name in PAIRS:
          final.append(row(best, seed, net="student+peer",
                           test=PAIRS[each.name] + noise))
          final.append(row(best, seed, net="peer", test=1))
  return found


def test_arms_have_as_many_settings_and_none_twice():
  assert {len(each.settings) for each in study.ARMS} == {6}
  settings = [str(sorted(s.items())) for each in study.ARMS for s in each.settings]
  assert len(set(settings)) == len(settings)


def test_students_and_pairs_are_judged_apart():
  known = {each.name: each for each in study.found(rows())}
  assert list(known) == [*ERRORS, *study._PAIRS.values()]
  for name, errors in ERRORS.items():
    assert list(known[name].errors.values()) == [
        errors + noise * (seed + 1) for seed, noise in enumerate(NOISE)]
  assert np.mean([*known["two from labels, as one"].errors.values()]) == 250
  assert np.mean([*known["two peers, as one"].errors.values()]) == 275


def test_seconds_are_of_all_that_trained_together():
  known = {each.name: each for each in study.found(rows())}
  # One row of each setting tried, four of the table, and four of both as one.
  assert known["a large teacher"].seconds == 6 + 4
  assert known["labels"].seconds == 6 + 4 + 4


def test_the_verdict_compares_with_labels_and_with_trained_teachers():
  text = study.conclude(rows())
  assert "a large teacher minus" not in text
  # 290 - 295, 280 - 260 and 270 - 290, the same noise on both sides.
  for line in ("a peer like it minus a teacher like it | −5.0",
               "a large peer minus a large teacher | +20.0",
               "two peers like it minus a peer like it | −20.0"):
    assert line in text
  assert "| labels |" in text and "reference" in text


def test_large_nets_are_compared_themselves():
  large = {each.name: each.settings[2] for each in study.ARMS}
  some = rows()
  for stage, name, errors in (
      ("table", "a large peer", 200), ("static_table", "a large teacher", 150)):
    some[stage] += [row(large[name], seed, net="peer", test=errors + noise)
                    for seed, noise in enumerate(NOISE)]
  assert "the peer minus the teacher: +50.0" in study.conclude(some)
  assert "of the nets of 2x800" not in study.conclude(rows())


def test_the_other_net_from_labels_and_means_are_compared_afterwards():
  text = study.conclude(rows())
  # Of each seed 300 and 1 error from labels; the same noise in the first alone.
  student = [280 + noise * (seed + 1) for seed, noise in enumerate(NOISE)]
  both = [(300 + noise * (seed + 1) + 1) / 2 for seed, noise in enumerate(NOISE)]
  mean = np.mean(student) - np.mean(both)
  assert f"the mean of the errors of both: +{mean:.1f}" in text
  assert "two peers, as one minus two from labels, as one: +25.0" in text


def test_rows_that_are_not_there_yet_are_left_out():
  some = {name: found for name, found in rows().items()
          if not name.startswith("three_")}
  text = study.conclude(some)
  assert "| two peers like it |" in text and "two peers like it minus" not in text
