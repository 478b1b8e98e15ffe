"""A user's tables, and arrays from Python: columns, classes, what is refused."""

import itertools
import json
import re
import sys

from conftest import ROOT
import numpy as np
import pandas as pd
import pytest

from kd_jax import data as data_lib
from kd_jax import main
from kd_jax.config import build, command_line
from kd_jax.core.errors import UserError
from kd_jax.data import own, own_tables, raw, table_files

HEADER = "width,colour,kind\n"


def rows(number: int, first: int = 0) -> str:
  """Lines whose number tells the class, and none of which is another."""
  return "".join(f"{i % 2 * 10 + i / 100},{('red', 'blue')[i % 3 == 0]},"
                 f"{('oak', 'birch')[i % 2]}\n"
                 for i in range(first, first + number))


@pytest.fixture(name="trees")
def fixture_trees(tmp_path, monkeypatch):
  """Writes DIR/trees.csv, or DIR/trees/train.csv and test.csv; gives DIR."""
  monkeypatch.delenv(data_lib.ENVIRONMENT_VARIABLE, raising=False)

  def write(whole=None, test=None, suffix=".csv"):
    for old in tmp_path.rglob("*.*"):
      old.unlink()
    whole = HEADER + rows(40) if whole is None else whole
    if test is None:
      (tmp_path / f"trees{suffix}").write_text(whole, encoding="utf-8")
    else:
      (tmp_path / "trees").mkdir(exist_ok=True)
      (tmp_path / f"trees/train{suffix}").write_text(whole, encoding="utf-8")
      (tmp_path / f"trees/test{suffix}").write_text(test, encoding="utf-8")
    return tmp_path
  return write


def load(directory, name="trees", label="kind", **how):
  lines: list[str] = []
  found = data_lib.load(
      name, directory=directory, label=label, say=lines.append, **how)
  return found, " ".join(lines)


def refusal(directory, name="trees", label="kind", **how) -> str:
  with pytest.raises(UserError) as error:
    load(directory, name, label, **how)
  assert "\n" not in str(error.value)
  return str(error.value)


# What is read.


def test_a_table_by_hand(trees):
  found, told = load(trees(
      HEADER + "1,red,oak\n2.5,blue,birch\n-3e2,green,oak\n",
      HEADER + "7,blue,birch\n8,red,oak\n"))
  assert found.source == "table" and found.class_names == ("birch", "oak")
  # width; then blue, green, red.
  np.testing.assert_array_equal(found.train.inputs, np.array(
      [[1, 0, 0, 1], [2.5, 1, 0, 0], [-300, 0, 1, 0]], np.float32))
  np.testing.assert_array_equal(found.test.inputs, [[7, 1, 0, 0], [8, 0, 0, 1]])
  assert found.train.inputs.dtype == np.float32
  assert found.train.label.tolist() == [1, 0, 1]
  assert found.test.label.tolist() == [0, 1]
  assert found.nominal == ((1, 4),)
  assert "features width, colour (1 of 2 are texts)" in told
  assert "classes of kind: birch, oak" in told


@pytest.mark.parametrize(("label", "named", "found"), [
    ("2,10,2,1", ("1", "2", "10"), [1, 2, 1, 0]),  # Numbers by their size.
    ("-1,1,1,-1", ("-1", "1"), [0, 1, 1, 0]),
    ("1.0,2.0,2.0,1.0", ("1", "2"), [0, 1, 1, 0]),
    ("1,,2,1", ("1", "2"), [0, -1, 1, 0]),  # An empty cell is an unknown label.
    ("b,a,A,b", ("A", "a", "b"), [2, 1, 0, 2]),
    ("3+,1,1,3+", ("1", "3+"), [1, 0, 0, 1])])
def test_each_value_of_the_label_is_a_class(trees, label, named, found):
  cells = label.split(",")
  text = "x,y\n" + "".join(f"{number},{cell}\n" for number, cell in zip(
      (5, 9, 2, 4), cells))
  set_, _ = load(trees(text, text.replace("9,", "7,")), label="y")
  assert set_.class_names == named and set_.train.label.tolist() == found


@pytest.mark.parametrize(("suffix", "delimiter"), [
    (".csv", ","), (".csv", ";"), (".csv", "\t"), (".tsv", "\t")])
def test_delimiters_quotes_and_marks_of_order_are_understood(
    trees, suffix, delimiter):
  lines = [["a b", "ü", "y"], ["1", f'"x{delimiter}""z"""', "no"],
           ["2", '"two\nlines"', "no"], ["3", "w", "yes"], ["5", "w", "yes"]]
  text = "\r\n".join(delimiter.join(line) for line in lines)
  table = table_files.read(
      next(iter(trees("\ufeff" + text, suffix=suffix).glob("trees.*"))))
  assert list(table.columns) == ["a b", "ü", "y"]
  assert list(table.columns["a b"].numbers) == [1, 2, 3, 5]
  # A line break in quotes is kept as it was written.
  assert list(table.columns["ü"].texts) == [
      f'x{delimiter}"z"', "two\nlines", "w", "w"]


def test_parquet_is_the_same_data_as_csv(trees):
  place = trees()
  how = {"test_fraction": 0.25}
  csv, _ = load(place, **how)
  frame = pd.read_csv(place / "trees.csv")
  for number, change in enumerate((
      lambda x: x, lambda x: x.astype({"colour": "category"}))):
    (place / "trees.csv").unlink(missing_ok=True)
    change(frame).to_parquet(place / "trees.parquet")
    parquet, _ = load(place, **how)
    assert parquet.class_names == csv.class_names and parquet.nominal == csv.nominal
    assert parquet.fingerprint == csv.fingerprint, number


def test_truth_values_and_whole_numbers_of_parquet_are_numbers(tmp_path):
  frame = pd.DataFrame({"a": [True, False] * 3, "b": np.arange(0, 12, 2),
                        "y": ["n", "m"] * 3})
  frame.to_parquet(tmp_path / "trees.parquet")
  found, _ = load(tmp_path, label="y", test_fraction=0.4)
  both = np.concatenate([found.train.inputs, found.test.inputs])
  np.testing.assert_array_equal(
      both[np.argsort(both[:, 1])],
      np.stack([np.arange(6) % 2 == 0, np.arange(0, 12, 2)], 1))


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
  (tmp_path / "trees.parquet").write_bytes(b"PAR1")
  assert "cannot be read as Parquet" in refusal(tmp_path, test_fraction=0.2)
  monkeypatch.setitem(sys.modules, "pyarrow", None)
  assert "needs pyarrow: pip install pyarrow" in refusal(
      tmp_path, test_fraction=0.2)


def test_a_text_that_training_lacks_is_0_in_all_columns_and_told(trees):
  found, told = load(trees(
      HEADER + "1,red,oak\n2,blue,birch\n", HEADER + "3,black,oak\n4,red,birch\n"))
  np.testing.assert_array_equal(found.test.inputs, [[3, 0, 0], [4, 0, 1]])
  assert "test.csv has colour=black, and training has not" in told


# Both parts of one table.


def test_a_table_is_split_by_class_whatever_the_order_of_its_rows(trees):
  place = trees(HEADER + rows(40))
  found, told = load(place, test_fraction=0.25)
  assert np.bincount(found.test.label).tolist() == [5, 5]
  assert np.bincount(found.train.label).tolist() == [15, 15]
  assert "of each class 25% are the test set" in told
  held = set(found.test.inputs[:, 0].tolist())
  lines = rows(40).splitlines(keepends=True)
  again, _ = load(trees(HEADER + "".join(lines[::-1])), test_fraction=0.25)
  assert set(again.test.inputs[:, 0].tolist()) == held
  # Nor do columns that are left out change it; and one row more moves one at most.
  less, _ = load(place, test_fraction=0.25, without=("colour",))
  assert set(less.test.inputs[:, 0].tolist()) == held
  more, _ = load(trees(HEADER + rows(41)), test_fraction=0.25)
  assert len(held ^ set(more.test.inputs[:, 0].tolist()) - {0.4}) <= 1


def test_equal_rows_stand_on_one_side(trees):
  place = trees(HEADER + 4 * rows(40))
  found, _ = load(place, test_fraction=0.25)
  assert np.bincount(found.test.label).tolist() == [20, 20] and not found.notice
  # 0.27 * 80 = 21.6: the sixth of the rows comes with all of its four.
  found, _ = load(place, test_fraction=0.27)
  assert np.bincount(found.test.label).tolist() == [24, 24] and not found.notice
  assert own.held_back(["a", "a", "a"], 0.5).tolist() == [True, True, False]
  assert own.held_back(["a", "a", "b"], 0.9).sum() in (1, 2)
  found, _ = load(trees(HEADER + rows(40), HEADER + rows(2)))
  assert "2 of 2 test inputs are in the training set too" in found.notice
  assert "test.csv row 2 is train.csv row 2" in found.notice


def test_a_column_that_numbers_the_rows_is_told_with_the_key(trees):
  lines = (HEADER + rows(40)).splitlines()
  text = "\n".join(f"{i + 6 if i else 'id'},{line}" for i, line in enumerate(lines))
  found, _ = load(trees(text), test_fraction=0.25)
  key, = set(re.findall(r'data\.without="(.+?)"', found.notice))
  assert key == "('id',)" and "numbers the rows" in found.notice
  found, _ = load(trees(text), test_fraction=0.25, without=("id",))
  assert found.train.inputs.shape == (30, 3) and not found.notice


# What is refused, with the remedy.


@pytest.mark.parametrize(("text", "words"), [
    (HEADER, "has no row in it"),
    ("", "has no row in it"),
    ("1,2,3\n1,2,3\n", "its first line has numbers"),
    ("a,a,kind\n1,2,x\n", "two columns are called 'a'"),
    (HEADER + "1,red,oak\n1,red\n", "line 3 has 2 cells, and the first line 3"),
    (HEADER + '1,"red,oak\n', "is damaged"),
    (HEADER + rows(9) + "1,,oak\n", "colour (1 in trees.csv, the first in row 11)"),
    (HEADER + rows(9) + "NaN,red,oak\n", "values are missing in width"),
    (HEADER + rows(9) + "?,red,oak\n", "has numbers in 9 of 10 rows, and others "
     "have none, such as '?'"),
    (HEADER + rows(9) + "inf,red,oak\n", "such as 'inf'"),
    (HEADER + rows(9) + "1_000,red,oak\n", "such as '1_000'"),
    (HEADER + "".join(f"1,name {i},{'ab'[i % 2]}\n" for i in range(51)),
     "colour: more than 50 different texts"),
    (HEADER + "".join(f"{i},red,{i}\n" for i in range(9)), "too many for classes"),
    (HEADER + "1,red,0.5\n2,red,1\n", "numbers such as 0.5"),
    (HEADER + rows(9) + "1,red,elm\n", "row 11 is the only one of its class"),
    (HEADER + "1,red,oak\n2,red,oak\n3,red,oak\n", "has one class, oak")])
def test_a_table_that_is_none_is_refused_with_the_remedy(trees, text, words):
  told = refusal(trees(text), test_fraction=0.2)
  assert words in told, told


def test_the_key_of_a_refusal_makes_it_work(trees):
  text = "age,name,width,kind\n" + "".join(
      f"{'' if i == 3 else i},name {i},{i * i},{'ab'[i % 2]}\n" for i in range(60))
  told = refusal(trees(text), test_fraction=0.2)
  assert "age (1 in trees.csv, the first in row 5)" in told
  assert 'leave it out with --config.data.without="(\'age\',)"' in told
  told = refusal(trees(text), test_fraction=0.2, without=("age",))
  assert 'leave it out with --config.data.without="(\'name\',)"' in told
  found, _ = load(trees(text), test_fraction=0.2, without=("age", "name"))
  assert found.train.inputs.shape == (48, 1)


@pytest.mark.parametrize(("train", "test", "words"), [
    (HEADER + rows(8), "width,colour\n1,red\n", "without labels no errors can be"),
    (HEADER + rows(8), "width,kind\n1,oak\n2,birch\n", "'colour' that"),
    (HEADER + rows(8), HEADER + "1,red,elm\n2,red,oak\n", "'elm' is in the test"),
    (HEADER + rows(8), HEADER + "a,red,oak\nb,red,birch\n", "has texts, and in"),
    (HEADER + rows(8), HEADER + "1,,oak\n2,red,birch\n", "(1 in test.csv")])
def test_tables_that_do_not_fit_each_other_are_refused(trees, train, test, words):
  assert words in refusal(trees(train, test))


def test_names_and_places_are_checked(trees):
  place = trees()
  assert "no such column; did you mean kind?" in refusal(
      place, label="knd", test_fraction=0.2)
  assert "no such column" in refusal(place, test_fraction=0.2, without=("a",))
  assert "is the label" in refusal(place, test_fraction=0.2, without=("kind",))
  assert "no column of features" in refusal(
      place, test_fraction=0.2, without=("width", "colour"))
  assert "give --config.data.test_fraction=0.2" in refusal(place)
  assert "which of its columns names the classes?" in refusal(place, label=None)
  assert "has none of shrubs" in refusal(place, "shrubs")
  (place / "trees.tsv").write_text("a")
  assert "which of them?" in refusal(place)
  place = trees(HEADER + rows(8), HEADER + rows(4, 8))
  assert "is the test set; leave the key out" in refusal(place, test_fraction=0.2)
  (place / "trees/train.csv").write_bytes(b"width,kind\n1,\xe9\n")
  assert "byte 13 is no text in UTF-8" in refusal(place)


def test_pseudo_examples_keep_texts_as_values(trees):
  found, _ = load(trees(), test_fraction=0.25)
  more = data_lib.with_pseudo(found, "munge", number=50)
  made = more.train.inputs[len(found.train.label):]
  assert made.shape == (50, 3) and np.isin(made[:, 1:], (0, 1)).all()
  assert (made[:, 1:].sum(1) == 1).all()


# Labels of arrays that are not numbered from 0, and arrays from Python.


def blobs(number: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
  draw = np.random.default_rng(seed)
  label = draw.permutation(np.arange(number) % 3)
  return draw.integers(0, 50, (number, 4, 4), np.uint8) + np.uint8(
      60) * label[:, None, None].astype(np.uint8), label


def test_views_of_a_table_are_refused_with_the_words_that_leave_them_out(
    trees, monkeypatch):
  monkeypatch.chdir(ROOT)
  words = ["--config=configs/mnist.py", f"--config.data.dir={trees()}",
           "--config.data.name=trees", "--config.data.label=kind",
           "--config.data.test_fraction=0.25"]

  def made(*more):
    config, _ = command_line.parse([*words, *more])
    found = build.dataset(config, say=lambda line: None)
    return build.student(config, found), build.teacher(config, found, 0)

  for net, given in (("student", ["--config.student.views=crop4_flip"]),
                     ("teacher", [])):
    with pytest.raises(UserError, match=f"config.{net}.views=.* images") as refused:
      made(*given)
    remedy = re.search(r"give (--config\S+)$", str(refused.value))
    assert remedy and remedy[1] == f"--config.{net}.views=none"
    words.append(remedy[1])
  assert [each.views.count for each in made()] == [1, 1]


@pytest.fixture(name="run")
def fixture_run(tmp_path, capsys):
  numbers = itertools.count()

  def go(*words):
    workdir = tmp_path / f"run{next(numbers)}"
    code = main.run([
        "--config=configs/mnist.py:smoke", "--config.steps=3",
        "--config.method=hard", "--config.student.widths=(8,)",
        "--config.student.views=none", "--config.tensorboard=false",
        f"--workdir={workdir}", *words])
    told = capsys.readouterr()
    return code, " ".join((told.out + told.err).split())
  return go


def save(folder, first: int = 0):
  x, y = blobs(60)
  x_test, y_test = blobs(30, 1)
  np.savez(folder / "mine.npz", x_train=x, y_train=y + first, x_test=x_test,
           y_test=y_test + first)


def test_first_class_makes_labels_count_from_0(tmp_path):
  save(tmp_path)
  plain = data_lib.load("mine", directory=tmp_path)
  for first in (1, 7, -2):
    save(tmp_path, first)
    found = data_lib.load("mine", directory=tmp_path, first_class=first)
    assert found.fingerprint == plain.fingerprint and found.num_classes == 3
    assert found.class_names == tuple(map(str, range(first, first + 3)))
  with pytest.raises(UserError, match="there are labels from -2; give the small"):
    data_lib.load("mine", directory=tmp_path, first_class=1)
  labels = np.array([1, 2, -1], np.int32)
  assert raw.numbered((labels,) * 4, 1)[1].tolist() == [0, 1, -1]  # Unknown.
  # Where -1 is a class itself, none is unknown.
  assert raw.numbered((labels,) * 4, -1)[1].tolist() == [2, 3, 0]


@pytest.mark.slow
def test_a_run_says_the_key_that_numbers_labels_from_0(tmp_path, run):
  save(tmp_path, first=1)
  words = ["--config.data.name=mine", f"--config.data.dir={tmp_path}"]
  code, told = run(*words)
  assert code == 0 and "4 classes" in told
  assert "labels run from 1, and classes from 0: if they are numbered so, " in told
  assert "subtract 1, or give --config.data.first_class=1;" in told
  code, told = run(*words, "--config.data.first_class=1")
  assert code == 0 and "3 classes of 20 to 20 training examples;" in told


def test_arrays_of_labels_from_1_say_how_to_subtract(arrays):
  x, y, x_test, y_test = arrays
  with pytest.raises(UserError) as told:
    data_lib.from_arrays(x, y + 1, x_test, y_test + 1, ("a", "b", "c"))
  assert str(told.value).endswith(
      "must be 4 different names, each a line of text; classes are numbered from "
      "0, and these labels from 1: give y_train - 1 and y_test - 1")
  with pytest.raises(UserError) as told:
    data_lib.from_arrays(x, y + 1, x_test, y_test + 1, ("a", "b"))
  assert "numbered from" not in str(told.value)
  with pytest.raises(UserError, match=r"give y.astype\('int32'\)"):
    data_lib.from_arrays(x, y + 0.0, x_test, y_test + 0.0)
  folder = data_lib.from_arrays(x, y, x_test, y_test, ("a", "b", "c"))
  assert data_lib.load("mine", directory=folder).class_names == ("a", "b", "c")


@pytest.fixture(name="arrays")
def fixture_arrays(monkeypatch, tmp_path):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  return [*blobs(60), *blobs(30, 1)]


def test_arrays_are_kept_as_a_data_set(arrays, tmp_path):
  names = ("rot", "grün", "light blue")
  folder = data_lib.from_arrays(*arrays, names, name="my blobs")
  found = data_lib.load("my blobs", directory=folder)
  np.testing.assert_array_equal(found.train.inputs[..., 0], arrays[0])
  np.testing.assert_array_equal(found.test.label, arrays[3])
  assert found.class_names == names
  # The same arrays are the same place, of other arrays or names it is another.
  assert data_lib.from_arrays(*arrays, names, name="my blobs") == folder
  assert data_lib.from_arrays(*arrays, name="my blobs") != folder
  assert data_lib.from_arrays(
      255 - arrays[0], *arrays[1:], names, name="my blobs") != folder
  assert found.fingerprint == data_lib.load(
      "my blobs", directory=folder).fingerprint
  # Lists, and a folder of one's own, in which nothing is written over.
  own = data_lib.from_arrays(*(each.tolist() if each.ndim == 1 else each
                               for each in arrays), directory=tmp_path / "own")
  assert own == tmp_path / "own" and (own / "mine/mine.npz").is_file()
  data_lib.from_arrays(*arrays, directory=own)
  with pytest.raises(UserError, match="holds another data set"):
    data_lib.from_arrays(255 - arrays[0], *arrays[1:], directory=own)


@pytest.mark.parametrize(("change", "words"), [
    (lambda a: [a[0], a[1][:-1], *a[2:]], "60 inputs but 59 labels"),
    (lambda a: [a[0].astype(np.int64), *a[1:]], "from_arrays: inputs must be"),
    (lambda a: [a[0], a[1] / 2, *a[2:]], "from_arrays: labels must be integers"),
    (lambda a: [*a, ("a", "b")], "must be 3 different names"),
    (lambda a: [*a, ("a", "b", "b")], "must be 3 different names"),
    (lambda a: [*a, ("a", "b", "c\nd")], "each a line of text"),
    (lambda a: [*a, None, "mnist"], "name='mnist'"),
    (lambda a: [*a, None, "a/b"], "name='a/b'")])
def test_arrays_that_are_no_data_set_are_not_kept(arrays, tmp_path, change, words):
  with pytest.raises(UserError) as error:
    data_lib.from_arrays(*change(arrays))
  assert words in str(error.value)
  assert not list((tmp_path / "cache").rglob("*.npz"))


def test_a_table_of_a_file_called_like_a_part_is_no_set(tmp_path):
  (tmp_path / "train.csv").write_text(HEADER + rows(8))
  (tmp_path / "test.csv").write_text(HEADER + rows(4, 8))
  found, _ = load(tmp_path, "train")
  assert len(found.test.label) == 4
  assert not own_tables.there(tmp_path)


@pytest.mark.slow
def test_a_run_on_a_table_names_its_classes(trees, run, tmp_path):
  place = trees()
  code, told = run("--config.data.name=trees", f"--config.data.dir={place}",
                   "--config.data.label=kind", "--config.data.test_fraction=0.25",
                   "--config.data.without=colour")
  assert code == 0 and "a 30 x 1 table of float32" in told
  config = json.loads((tmp_path / "run0/config.json").read_text())
  assert config["data.without"] == ["colour"]
  from kd_jax.runs import trained
  assert trained.load(tmp_path / "run0").classes == ("birch", "oak")
