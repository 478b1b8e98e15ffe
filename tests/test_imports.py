"""A user's file may import files beside it; it is known by them too."""

import hashlib
import sys
import textwrap

import pytest

from kd_jax.core import imports, sources
from kd_jax.core.errors import UserError


@pytest.fixture(name="write")
def _write(tmp_path):
  """Writes files of a folder by their paths in it; gives that of the last."""
  def write(**texts):
    for name, text in texts.items():
      path = name.replace("__", "/").replace("/init", "/__init__")
      file = tmp_path / f"{path}.py"
      file.parent.mkdir(parents=True, exist_ok=True)
      file.write_text(textwrap.dedent(text))
    return file
  return write


def _asked(file):
  return sources.load("net", f"{file}:value")()


def test_a_file_imports_what_lies_beside_it_and_is_known_by_it(write):
  parts = {"layers": "from parts import deep\nsize = deep.size",
           "parts__init": "", "parts__deep": "size = 3",
           "mine": "import layers\ndef value(): return layers.size"}
  file = write(**parts)
  assert _asked(file) == 3
  hashes = {sources.sha256(f"{file}:value")}
  for name, text in {"parts__deep": "size = 4", "layers": "size = 5"}.items():
    write(**{name: text})
    hashes.add(sources.sha256(f"{file}:value"))
    assert _asked(file) == int(text[-1])
  write(unrelated="size = 6")
  hashes.add(sources.sha256(f"{file}:value"))
  assert len(hashes) == 3
  assert not {"layers", "parts", "parts.deep"} & sys.modules.keys()


def test_two_folders_may_have_files_of_one_name(write):
  text = "from utils import size\ndef value(): return size"
  first = write(one__utils="size = 1", one__mine=text)
  second = write(two__utils="size = 2", two__mine=text)
  assert [_asked(file) for file in (first, second, first)] == [1, 2, 1]


def test_a_module_that_others_have_imported_is_theirs_as_before(write, monkeypatch):
  theirs = write(theirs__utils="size = 1").parent
  monkeypatch.syspath_prepend(str(theirs))
  import utils  # pylint: disable=g-import-not-at-top,import-error
  monkeypatch.setitem(sys.modules, "utils", utils)
  file = write(ours__utils="size = 2",
               ours__mine="from utils import size\ndef value(): return size")
  assert _asked(file) == 2 and sys.modules["utils"] is utils


def test_what_is_installed_and_imported_stays_the_only_one(write):
  import numpy  # pylint: disable=g-import-not-at-top
  file = write(numpy="raise ValueError('two of it')",
               mine="import numpy\ndef value(): return numpy")
  assert _asked(file) is numpy


def test_a_module_of_a_package_is_known_by_what_it_imports(write, monkeypatch):
  folder = write(own_kd__init="", own_kd__layers="size = 1", own_kd__other="",
                 own_kd__nets="""
                     from .layers import size
                     def value(): return size""").parent.parent
  monkeypatch.syspath_prepend(str(folder))
  name = "own_kd.nets:value"
  before = sources.sha256(name)
  write(own_kd__other="size = 2")
  assert sources.sha256(name) == before
  write(own_kd__layers="size = 2")
  assert sources.sha256(name) != before


@pytest.mark.parametrize("line, found", [
    ("import a", ["a"]), ("import a.b as c", ["a", "a.b"]),
    ("from a import b", ["a", "a.b"]), ("from a.b import *", ["a", "a.b"]),
    ("def f():\n  import lazy", ["lazy"]), ("from . import b", []),
    ("import os, kd_jax.losses", []), ("x = 'import a'", []), ("import (", [])])
def test_what_a_line_imports(write, line, found):
  file = write(a__init="", a__b="", lazy="", mine=line)
  assert list(imports.beside(file, file.parent)) == found


@pytest.mark.parametrize("line, found", [
    ("from .b import x", ["a", "a.b"]), ("from . import b", ["a", "a.b"]),
    ("from a.b import x", ["a", "a.b"]), ("from . import *", ["a"]),
    ("from .. import b", [])])  # Above the folder.
def test_relative_imports_are_of_the_package(write, line, found):
  file = write(a__init="", a__b="x = 1", b="", a__c=line)
  assert list(imports.beside(file, file.parent.parent, "a.c")) == found


def test_what_is_installed_has_no_files_of_a_users():
  assert imports.home(pytest) is imports.home(sys) is imports.home(sources) is None


def test_a_file_that_imports_nothing_beside_it_is_known_by_itself(write):
  text = "import math\ndef value(): return math.pi\n"
  name = f"{write(math='', mine=text)}:value"
  assert sources.sha256(name) == hashlib.sha256(text.encode()).hexdigest()


def test_a_file_beside_it_may_have_another_encoding(write):
  file = write(mine="import layers\ndef value(): return layers.size")
  (file.parent / "layers.py").write_bytes(
      b"# coding: latin-1\nsize = '\xe9'")
  assert _asked(file) == "é" and sources.sha256(f"{file}:value")


def test_an_error_of_a_file_beside_it_is_a_line(write):
  file = write(layers="1 / 0", mine="import layers")
  with pytest.raises(UserError, match=r"ZeroDivisionError.*\(.*mine.py, line 1\)"):
    _asked(file)
