"""Which nets of a sweep must be trained, where some have rows but no weights."""

import collections
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

# A net at a point of the sweep.
Key = TypeVar("Key", bound=Hashable)


def needed(
    teachers: Mapping[Key, Iterable[Key]], rows: Mapping[Key, str],
    chunks: Iterable[Sequence[str]],
) -> set[Key]:
  """All nets without a row, and all that have to be there to train these.

  That is whom they learn or start from, what is the same net at other points, and
  what is trained in one chunk with one of them.

  Args:
    teachers: Of each net those that it learns or starts from.
    rows: The fingerprints of those that have rows.
    chunks: Fingerprints of the nets that are trained together.

  Example:
    >>> chain = {"a": [], "b": ["a"], "c": ["b"], "other": ["a"]}
    >>> sorted(needed(chain, {"a": "1", "b": "2", "c": "3"}, []))
    ['a', 'other']
    >>> sorted(needed(chain, {"a": "1", "b": "2", "other": "4"}, []))
    ['a', 'b', 'c']
    >>> sorted(needed(chain, {"a": "1", "b": "2", "c": "3"}, [("1", "3")]))
    ['a', 'b', 'c', 'other']
  """
  same: dict[str, list[Key]] = collections.defaultdict(list)
  for key, fingerprint in rows.items():
    same[fingerprint].append(key)
  beside: dict[str, set[str]] = collections.defaultdict(set)
  for chunk in chunks:
    for fingerprint in chunk:
      beside[fingerprint].update(chunk)
  waiting = [key for key in teachers if key not in rows]
  found = {*waiting}
  while waiting:
    key = waiting.pop()
    more = [*teachers[key]]
    if key in rows:
      more += [other for fingerprint in (rows[key], *beside[rows[key]])
               for other in same[fingerprint]]
    new = {*more} - found
    found |= new
    waiting += new
  return found
