"""What `pip install .` leaves: all packages, their files, and the configs."""

import os
import pathlib
import re
import subprocess
import sys
import tomllib

from conftest import ROOT
import pytest
from test_architecture import imports

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_all_packages_are_installed():
  there = {".".join(file.parent.relative_to(ROOT).parts)
           for file in (ROOT / "kd_jax").rglob("__init__.py")}
  assert set(PROJECT["tool"]["setuptools"]["packages"]) == there | {
      "kd_jax.configs"}


def test_files_that_are_no_modules_are_installed():
  given = PROJECT["tool"]["setuptools"]["package-data"]
  there = {(".".join(file.parent.relative_to(ROOT).parts), file.name)
           for file in (ROOT / "kd_jax").rglob("*")
           if file.is_file() and file.suffix not in (".py", ".pyc")}
  assert there == {(package, name) for package in given for name in given[package]}


# What a run can do without, and how each is named to who wants it.
OPTIONAL = {
    "tensorflow_datasets": "data", "etils": "data", "requests": "data",
    "tensorflow": "prepare", "pyarrow": "parquet", "IPython": None,
    **dict.fromkeys(("torch", "keras", "onnx", "onnxruntime", "jax2onnx",
                     "safetensors", "litert_converter", "ai_edge_litert",
                     "ai_edge_quantizer"), None),
}
# Of a library that is imported by another name than it is installed by.
INSTALLED = {"PIL": "pillow", "orbax": "orbax-checkpoint"}


def _named(packages: list[str]) -> set[str]:
  return {re.match(r"[\w-]+", package)[0] for package in packages}


def test_an_install_brings_all_that_a_run_imports():
  found = {name.partition(".")[0] for file in (ROOT / "kd_jax").rglob("*.py")
           for name in imports(file)} - {"kd_jax", *sys.stdlib_module_names}
  assert OPTIONAL.keys() <= found
  needed = {INSTALLED.get(name, name) for name in found - OPTIONAL.keys()}
  given = _named(PROJECT["project"]["dependencies"])
  assert needed == given - {"scikit-learn"}  # Which mlxtend imports.


def test_the_documents_name_every_extra():
  extras = PROJECT["project"]["optional-dependencies"].keys() - {"dev"}
  assert {*filter(None, OPTIONAL.values())} <= extras
  text = (ROOT / "README.md").read_text()
  assert extras <= set(re.findall(r"`\[(\w+)\]`", text))


@pytest.mark.slow
def test_an_installed_one_has_the_configs_from_any_folder(tmp_path):
  python = lambda *words, **more: subprocess.run(
      [sys.executable, *words], check=True, capture_output=True, text=True, **more)
  source = tmp_path / "source"
  subprocess.run(["git", "clone", "-q", str(ROOT), str(source)], check=True)
  # What is not committed yet, too.
  for name in ("pyproject.toml", "kd_jax", "configs"):
    subprocess.run(["cp", "-r", str(ROOT / name), str(source)], check=True)
  place = tmp_path / "site"
  python("-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation",
         f"--target={place}", str(source))
  elsewhere = tmp_path / "elsewhere"
  elsewhere.mkdir()
  told = python(
      "-c", "import kd_jax, runpy, sys; print(kd_jax.__file__); "
      "sys.argv[1:] = ['--config=born_again:smoke', '--plan', "
      "'--config.data.embedded=only']; "
      "runpy.run_module('kd_jax.main', run_name='__main__')",
      cwd=elsewhere, env={**os.environ, "PYTHONPATH": str(place)}).stdout
  assert pathlib.Path(told.splitlines()[0]).is_relative_to(place)
