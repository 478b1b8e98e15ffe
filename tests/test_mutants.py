"""The mutants apply to the present code, wherever it lies, or say why not."""

import ast
import functools

from conftest import ROOT
import mutants
from mutants import Mutant
import pytest

MUTANTS = {mutant.name: mutant for mutant in mutants.MUTANTS}


@functools.cache
def present(name):
  return mutants.mutated(MUTANTS[name], mutants.sources(ROOT))


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
  """The package with all files renamed, moved, and written in another style."""
  package = tmp_path_factory.mktemp("moved") / "kd_jax"
  for number, path in enumerate(mutants.sources(ROOT)):
    moved = package / f"room{number % 3}" / f"file{number}.py"
    moved.parent.mkdir(parents=True, exist_ok=True)
    moved.write_text(ast.unparse(ast.parse(path.read_text())))
  return sorted(package.rglob("*.py"))


@pytest.fixture
def mutate(tmp_path):
  """Mutates the function `f`, or another, of small files; gives the new text."""

  def of(files, old, new, *, within="f", times=1):
    for name, text in files.items():
      file = tmp_path / "package" / name
      file.parent.mkdir(parents=True, exist_ok=True)
      file.write_text(text)
    _, text = mutants.mutated(
        Mutant("wrong", within, old, new, "test_x.py", times),
        sorted((tmp_path / "package").rglob("*.py")))
    return text

  return of


def test_every_mutant_has_its_own_name():
  assert len(MUTANTS) == len(mutants.MUTANTS)


@pytest.mark.parametrize("name", MUTANTS)
def test_applies_to_the_present_code_and_compiles(name):
  path, text = present(name)
  compile(text, path, "exec")
  assert text != ast.unparse(ast.parse(path.read_text()))


@pytest.mark.parametrize("name", MUTANTS)
def test_applies_alike_after_all_modules_moved(name, elsewhere):
  path, text = mutants.mutated(MUTANTS[name], elsewhere)
  assert path in elsewhere
  assert text == present(name)[1]


@pytest.mark.parametrize("name", MUTANTS)
def test_its_tests_are_in_a_file_that_exists(name):
  assert (ROOT / "tests" / MUTANTS[name].tests.split(" -k ")[0]).is_file()


def test_format_docstrings_and_comments_do_not_matter(mutate):
  text = '''def f(x):\n  """x + 1"""\n  return (x +  # more\n          1)\n'''
  assert mutate({"a.py": text}, "x+1", "x - 1").endswith("return x - 1")


@pytest.mark.parametrize("call", ["g", "lib.g", "a.b.g"])
def test_wildcards_stand_for_any_expression_and_keep_it(mutate, call):
  text = f"def f(x):\n  return {call}(x ** 2, 1)"
  assert mutate({"a.py": text}, "_1(_2, 1)", "_1(1, _2)") == (
      f"def f(x):\n    return {call}(1, x ** 2)")


def test_the_same_wildcard_is_the_same_expression(mutate):
  text = "def f(x, y):\n  return x * y + x.a * x.a"
  assert mutate({"a.py": text}, "_1 * _1", "_1").endswith("x * y + x.a")


def test_a_statement_becomes_several_or_none(mutate):
  text = "def f(x):\n  if x:\n    x = g(x)\n  return x"
  assert mutate({"a.py": text}, "x = _1", "y = _1\nx = -y").endswith(
      "y = g(x)\n        x = -y\n    return x")
  assert mutate({"a.py": text}, "x = _1", "pass").endswith(
      "pass\n    return x")


def test_numbers_of_other_types_are_other_numbers(mutate):
  text = "def f():\n  return (1, True, 1.0)"
  assert mutate({"a.py": text}, "1", "2").endswith("(2, True, 1.0)")


@pytest.mark.parametrize(("within", "line"), [
    ("C.f", "        return 2"), ("C.LIMIT", "    LIMIT: int = 2")])
def test_methods_and_names_of_a_class(mutate, within, line):
  files = {"a.py": "class C:\n  LIMIT: int = 1\n  def f(self):\n    return 1",
           "b.py": "def f():\n  return 1\nLIMIT = 1"}
  text = mutate(files, "1", "2", within=within)
  assert line in text.splitlines() and text.count("2") == 1


def test_functions_inside_and_names_of_a_module(mutate):
  files = {"a.py": "def f(x):\n  def inner(y):\n    return -y\n  return inner(x)"}
  assert "return y" in mutate(files, "-_1", "_1")
  assert mutate({"b.py": "if True:\n  N = -8.0"}, "-8.0", "-9.0",
                within="N").endswith("N = -9.0")


def test_of_several_functions_the_one_with_the_pattern(mutate):
  files = {"a.py": "def f(x):\n  return x + 1", "b/c.py": "def f(x):\n  return x"}
  assert mutate(files, "x + 1", "x") == "def f(x):\n    return x"


@pytest.mark.parametrize(("files", "old", "message"), [
    ({"a.py": "def g(): return 1"}, "1", "wrong: f is in none of 1 files"),
    ({"a.py": "def f(): return 1", "b.py": "def f(): return 3"}, "2",
     "wrong: f in a.py, b.py has no '2'"),
    ({"a.py": "def f(): return 1", "b/c.py": "def f(): return 1"}, "1",
     "wrong: f has '1' in several places: a.py, c.py"),
    ({"a.py": "def f(): return 1 + 1"}, "1", "wrong: f has '1' 2 times, not 1"),
    ({"a.py": "def f(): return 1"}, "return 1\nreturn 1",
     "one statement"),
])
def test_absence_and_ambiguity_are_errors(mutate, files, old, message):
  with pytest.raises(ValueError, match=message):
    mutate(files, old, "9")


def test_an_expression_is_not_replaced_by_statements(mutate):
  with pytest.raises(ValueError, match="expression takes the place"):
    mutate({"a.py": "def f(): return 1"}, "1", "pass")


def test_all_of_the_expected_number_are_replaced(mutate):
  text = "def f(): return 1 + 1"
  assert mutate({"a.py": text}, "1", "2", times=2).endswith("return 2 + 2")
