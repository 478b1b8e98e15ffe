"""Nets that have to be there: those without a row, teachers, what is beside."""

from hypothesis import given
from hypothesis import strategies as st

from kd_jax.runs.needed import needed

# Two points of one chain, whose first net is the same.
CHAIN = {(point, name): [(point, before)] if before else []
         for point in (0, 1)
         for before, name in ((None, "a"), ("a", "b"), ("b", "c"))}
ROWS = {(point, name): f"{name}{point if name != 'a' else ''}"
        for point, name in CHAIN}


def without(*keys):
  return {key: row for key, row in ROWS.items() if key not in keys}


def test_a_net_is_needed_for_those_without_a_row_alone():
  assert needed(CHAIN, ROWS, []) == set()
  assert needed(CHAIN, ROWS, [("b0", "b1")]) == set()
  # The first net of point 1 is that of point 0.
  assert needed(CHAIN, without((0, "b")), []) == {(0, "b"), (0, "a"), (1, "a")}
  assert needed(CHAIN, without((1, "c")), []) == {
      (1, "c"), (1, "b"), (1, "a"), (0, "a")}


def test_what_is_trained_beside_a_needed_net_is_needed_with_its_teachers():
  lost = without((1, "c"))
  assert (0, "b") in needed(CHAIN, lost, [("b0", "b1")])
  assert (0, "c") not in needed(CHAIN, lost, [("b0", "b1")])
  # The one beside has a teacher of its own.
  chains = {"a": [], "b": ["a"], "x": [], "y": ["x"], "z": ["y"]}
  rows = dict(zip("abxy", "1234"))
  assert needed(chains, rows, [("2", "4")]) == {*"abxyz"}


@given(st.data())
def test_it_is_the_least_set_that_is_closed(data):
  names = [*range(8)]
  teachers = {name: data.draw(st.lists(st.sampled_from(names[:name]), max_size=2))
              if name else [] for name in names}
  rows = {name: data.draw(st.sampled_from("pqrst")) for name in names
          if data.draw(st.booleans())}
  chunks = data.draw(st.lists(st.lists(
      st.sampled_from("pqrst"), min_size=1, max_size=3), max_size=3))
  found = needed(teachers, rows, chunks)
  wanted = {name for name in names if name not in rows}
  for _ in names:
    wanted |= {each for name in wanted for each in teachers[name]}
    prints = {rows[name] for name in wanted if name in rows}
    prints |= {each for chunk in chunks if prints & {*chunk} for each in chunk}
    wanted |= {name for name in rows if rows[name] in prints}
  assert found == wanted
