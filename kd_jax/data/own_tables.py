"""A user's own table as features and labels.

  DIR/NAME/train.csv and test.csv, or, where a part of each class is to be the test
  set (`data.test_fraction`), DIR/NAME.csv

One column names the classes (`data.label`). Each of its values is a class, in
order, numbers by their size; an empty cell is an unknown label. The other columns
are features, float32: numbers as they are, and texts as one column of 0 and 1 for
each text of the training set. One of them may be the weights of the training
examples instead (`data.weights`).
"""

from collections.abc import Callable, Sequence
import pathlib

import numpy as np

from kd_jax.core.errors import UserError, nearest
from kd_jax.data import check, own, table_files
from kd_jax.data.table_files import Table
from kd_jax.data.tables import Nominal

# Texts of a column, at most; more are names, and no values.
_MOST_TEXTS = 50


def files(
    name: str, directory: pathlib.Path
) -> tuple[pathlib.Path, pathlib.Path | None] | None:
  """The table of a set, or those of training and test; None if there is none."""
  folders = [directory / name, directory]
  last = pathlib.PurePath(name).name
  for folder in folders if last != "train" else ():
    if whole := _one(folder, last):
      return whole, None
  for folder in folders:
    if train := _one(folder, "train"):
      return train, _one(folder, "test")
  return None


def there(folder: pathlib.Path) -> list[pathlib.Path]:
  """The tables of a folder that are called like sets."""
  return sorted(path for path in folder.iterdir()
                if path.suffix.lower() in table_files.SUFFIXES and path.is_file()
                and path.stem not in ("train", "test"))


def find(
    name: str, directory: pathlib.Path, asked: own.Asked, say: Callable[[str], None]
) -> own.Found:
  """The table of a set as features and labels.

  Args:
    name: Of the set.
    directory: An existing folder.
    asked: `label`, `without`, `weights` and `test_fraction` count here.
    say: Receives a line for each thing worth telling.

  Raises:
    UserError: If there is no table, or it cannot be features and labels.
  """
  label = str(asked.label)
  tables = _read(name, directory, asked)
  for table in tables:
    _refuse_columns(table, label, asked, tables[0])
  names = [column for column in tables[0].columns
           if column not in (label, asked.weights, *asked.without)]
  _refuse_unusable(tables, names)
  inputs, nominal = _features(tables, names, say)
  named, labels = _labels(tables, label)
  weights = _weights(tables[0], asked.weights)
  where = [[f"{table.path.name} row {row}"
            for row in range(table.first, table.first + table.rows)]
           for table in tables]
  if len(tables) == 1:
    test = _held(tables[0], labels[0], asked.test_fraction, say)
    inputs, labels = ([each[0][~test], each[0][test]] for each in (inputs, labels))
    weights = weights if weights is None else weights[~test]
    where = [[each for each, held in zip(where[0], test) if held == part]
             for part in (False, True)]
  say(f"data: features {own.few(names)} ({len(nominal)} of {len(names)} are "
      f"texts); classes of {label}: {own.few(named)}")
  there = [[named[place] for place in np.unique(each[each >= 0])]
           for each in labels]
  own.refuse_classes(there[0], there[1], str(tables[0].path))
  return own.Found(
      "table", (inputs[0], labels[0], inputs[1], labels[1]), len(named), named,
      "; ".join(filter(None, [own.alike(named), _counting(tables[0], names)])),
      nominal, where, weights)


def _one(folder: pathlib.Path, stem: str) -> pathlib.Path | None:
  """The only table of a name in a folder."""
  found = [path for path in (folder / f"{stem}{suffix}"
                             for suffix in table_files.SUFFIXES) if path.is_file()]
  if len(found) > 1:
    raise UserError(f"{found[0]} and {found[1]}: which of them? move one away")
  return found[0] if found else None


def _read(name: str, directory: pathlib.Path, asked: own.Asked) -> list[Table]:
  """The table, or those of training and test; parts that do not fit are refused."""
  if not (found := files(name, directory)):
    raise UserError(
        f"data.label={asked.label}: is for tables, and {directory} has none of "
        f"{name}; call it {name}.csv, .tsv or .parquet there, or {name}/train.csv "
        f"and {name}/test.csv")
  (train, test), fraction = found, asked.test_fraction
  if test is None and fraction is None and asked.split is None:
    raise UserError(
        f"{train}: there is no test table; give --config.data.test_fraction=0.2, "
        "so that a fifth of each class is the test set, or train.csv and test.csv "
        f"in a folder called {name}")
  if test is not None and fraction is not None:
    raise UserError(f"data.test_fraction={fraction}: {test} is the test set; leave "
                    "the key out, or move that file away")
  return [table_files.read(path) for path in found if path]


def _refuse_columns(
    table: Table, label: str, asked: own.Asked, train: Table
) -> None:
  """Refuses names of columns that are not there, or not in both tables."""
  there, without, weights = table.columns, asked.without, asked.weights
  if label not in there:
    more = ("" if table is train else "; without labels no errors can be counted: "
            "move it away, and give --config.data.test_fraction=0.2")
    raise UserError(f"data.label={label}: {table.path} has no such column; "
                    f"{nearest(label, there)}{more}")
  for name in without:
    if name == label:
      raise UserError(f"data.without={name}: is the label; name features")
    if name not in there and name not in train.columns:
      raise UserError(f"data.without={name}: {table.path} has no such column; "
                      f"{nearest(name, there)}")
  if weights == label:
    raise UserError(f"data.weights={weights}: is the label; name a column of "
                    "numbers")
  if weights is not None and weights not in train.columns:
    raise UserError(f"data.weights={weights}: {train.path} has no such column; "
                    f"{nearest(weights, train.columns)}")
  for name in sorted({*there} ^ {*train.columns}):
    if name not in (weights, *without):  # Test examples need no weight.
      has, lacks = (table, train) if name in there else (train, table)
      raise UserError(f"{has.path}: has a column {name!r} that {lacks.path} lacks; "
                      f"give both alike, or {_leave_out([name])}")
  if not {*train.columns} - {label, weights, *without}:
    raise UserError(f"{train.path}: has no column of features beside {label!r}")


def _leave_out(names: Sequence[str]) -> str:
  listed = ",".join(map(repr, names)) + ("," if len(names) == 1 else "")
  return f'leave {"it" if len(names) == 1 else "them"} out with ' + (
      f'--config.data.without="({listed})"')


def _refuse_unusable(tables: Sequence[Table], names: Sequence[str]) -> None:
  """Refuses columns that are no features, with the key that leaves them out."""
  lacking: dict[str, str] = {}
  for table in tables:
    for name in names:
      column, of_train = table.columns[name], tables[0].columns[name]
      odd = column.odd
      if (column.numbers is None) != (of_train.numbers is None):
        kinds = "numbers", "texts"
        odd = odd or (f"has {kinds[column.numbers is None]}, and in "
                      f"{tables[0].path} {kinds[of_train.numbers is None]}")
      if odd:
        raise UserError(f"{table.path}: column {name!r} {odd}; make all of it "
                        f"numbers, or texts, or {_leave_out([name])}")
      if number := int(column.missing.sum()):
        row = table.first + int(column.missing.argmax())
        lacking.setdefault(name, f"{name} ({number} in {table.path.name}, the "
                                 f"first in row {row})")
  if lacking:
    raise UserError(
        f"{tables[0].path}: values are missing in "
        f"{own.few(list(lacking.values()))}; fill them in, take these "
        f"rows away, or {_leave_out(list(lacking))}")
  columns = tables[0].columns
  many = [name for name in names if columns[name].numbers is None
          and len(set(columns[name].texts)) > _MOST_TEXTS]
  if many:
    raise UserError(
        f"{tables[0].path}: {own.few(many)}: more than {_MOST_TEXTS} different "
        f"texts, too many for values of a feature; {_leave_out(many)}, or make "
        "numbers of them")


def _features(
    tables: Sequence[Table], names: Sequence[str], say: Callable[[str], None]
) -> tuple[list[np.ndarray], Nominal]:
  """The inputs of each table, float32 `[N, F]`, and the spans of texts in them."""
  parts: list[list[np.ndarray]] = [[] for _ in tables]
  spans, width = [], 0
  for name in names:
    columns = [table.columns[name] for table in tables]
    if columns[0].numbers is not None:
      found = [np.asarray(column.numbers)[:, None] for column in columns]
    else:
      known = sorted(set(columns[0].texts))
      found = [np.array(column.texts, object)[:, None] == np.array(known, object)
               for column in columns]
      spans.append((width, width + len(known)))
      if new := sorted({*columns[-1].texts} - {*known}):
        say(f"data: {tables[-1].path.name} has {name}={own.few(new)}, and training "
            "has not: all columns of that text are 0")
    width += found[0].shape[1]
    for part, each in zip(parts, found):
      part.append(each)
  with np.errstate(over="ignore"):  # What float32 does not hold is told later.
    return [np.concatenate(part, axis=1).astype(np.float32)
            for part in parts], tuple(spans)


def _labels(
    tables: Sequence[Table], label: str
) -> tuple[tuple[str, ...], list[np.ndarray]]:
  """The names of the classes, and the labels of each table; -1 where unknown."""
  columns = [table.columns[label] for table in tables]
  for table, column in zip(tables, columns):
    if column.odd.startswith("is of"):
      raise UserError(f"{table.path}: column {label!r} {column.odd}")
  cells = [list(column.texts) for column in columns]
  order: Callable[[str], object] = str
  if all(column.numbers is not None for column in columns):
    numbers = [np.asarray(column.numbers) + 0.0 for column in columns]  # No -0.
    every = np.concatenate(numbers)
    if len(parts := every[np.isfinite(every) & (every % 1 != 0)]):
      raise UserError(f"data.label={label}: has numbers such as {parts[0]:g}, and "
                      "nets are trained on classes; name a column of classes")
    cells = [[f"{each:.0f}" if known else "" for each, known in zip(
        of, ~column.missing)] for of, column in zip(numbers, columns)]
    order = int
  named = sorted({*cells[0], *cells[-1]} - {""}, key=order)  # type: ignore[arg-type]
  if len(named) > max(2, (count := sum(map(len, cells))) // 2):
    raise UserError(f"data.label={label}: has {len(named)} different values in "
                    f"{count} rows, too many for classes; name a column of classes")
  place = {name: number for number, name in enumerate(named)} | {"": -1}
  return tuple(named), [np.array([place[cell] for cell in each], np.int32)
                        for each in cells]


def _weights(table: Table, name: str | None) -> np.ndarray | None:
  """The weights of all examples of a table `[N]`; None without such a column."""
  if name is None:
    return None
  column = table.columns[name]
  if column.numbers is None:
    problem = f"the column {column.odd or 'has texts'}; weights are numbers"
  else:
    problem = check.weights(
        column.numbers, table.rows, lambda row: f"row {table.first + row}")
  if problem:
    raise UserError(f"data.weights={name}: {table.path}: {problem}")
  return column.numbers


def _held(
    table: Table, label: np.ndarray, fraction: float | None,
    say: Callable[[str], None],
) -> np.ndarray:
  """Which rows are the test set, bool `[N]`, by a hash of each row.

  So another order of the rows changes nothing, nor do features that are left out.
  """
  test = np.zeros(table.rows, bool)
  if fraction is None:
    return test
  # Numbers as Python writes them, however a file does.
  rows = ["\x1f".join(row) for row in zip(*(
      column.texts if column.numbers is None else map(repr, column.numbers.tolist())
      for column in table.columns.values()))]
  for number in np.unique(label[label >= 0]):
    places = np.flatnonzero(label == number)
    if len(places) < 2:
      raise UserError(
          f"{table.path}: row {table.first + places[0]} is the only one of its "
          "class, which must have two, one for each part; add one, or take it away")
    test[places[own.held_back([rows[place] for place in places], fraction)]] = True
  say(f"data: of each class {100 * fraction:g}% are the test set, chosen by a hash "
      "of each row")
  return test


def _counting(table: Table, names: Sequence[str]) -> str:
  """A sentence on columns that number the rows; "" if there are none."""
  found = [name for name in names
           if (numbers := table.columns[name].numbers) is not None
           and len(numbers) > 2 and (np.diff(numbers) == 1).all()]
  return "" if not found else (
      f"column {own.few(found)} numbers the rows, and a net would learn from that; "
      f"if it is not meant, {_leave_out(found)}")
