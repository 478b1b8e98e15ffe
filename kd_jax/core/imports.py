"""The files beside a user's file that it imports, and which these import."""

import ast
from collections.abc import Collection, Iterator
import contextlib
import functools
import pathlib
import sys
from types import ModuleType
import warnings

# An edit of these is a matter of versions, which a record has.
_NOT_OWN = {"kd_jax", *sys.stdlib_module_names}
_INSTALLED = {"site-packages", "dist-packages"}


def home(module: ModuleType) -> pathlib.Path | None:
  """The folder that a user's module is imported from; None of what is installed.

  Example:
    >>> home(ast)
  """
  if not (file := getattr(module, "__file__", None)):
    return None
  path, depth = pathlib.Path(file).resolve(), module.__name__.count(".")
  folder = path.parents[depth + (path.name == "__init__.py")]
  if module.__name__.partition(".")[0] in _NOT_OWN or _INSTALLED & {*folder.parts}:
    return None
  return folder


def beside(
    file: pathlib.Path, folder: pathlib.Path, name: str = ""
) -> dict[str, bytes]:
  """The modules of a folder that a file imports, and those that these import.

  Args:
    file: A Python file.
    folder: Where modules are looked for, before those that are installed.
    name: That of the file's own module, if it is imported as one of the folder.

  Returns:
    Their texts by their names, sorted. What is imported by a name that is computed
    is not found.
  """
  found: dict[str, bytes] = {}
  left = [(name, file)]
  while left:
    importer, path = left.pop()
    package = (importer if path.name == "__init__.py"
               else importer.rpartition(".")[0])
    for each in _imported(path.read_bytes(), package):
      place = folder.joinpath(*each.split("."))
      for candidate in (place / "__init__.py", place.with_suffix(".py")):
        if each not in found and candidate != file and candidate.is_file():
          found[each] = candidate.read_bytes()
          left.append((each, candidate))
  return dict(sorted(found.items()))


@functools.cache
def _imported(text: bytes, package: str) -> list[str]:
  """What a text imports, with the packages of each; names in modules among them."""
  names: set[str] = set()
  try:
    with warnings.catch_warnings():  # The import itself warns.
      warnings.simplefilter("ignore")
      nodes = list(ast.walk(ast.parse(text)))
  except (SyntaxError, ValueError):  # What imports it says so.
    return []
  for node in nodes:
    if isinstance(node, ast.Import):
      names.update(alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      parts = package.split(".") if package else []
      if node.level > len(parts):  # Above the folder, where Python refuses it.
        continue
      above = parts[:len(parts) + 1 - node.level] if node.level else []
      source = ".".join([*above, *filter(None, [node.module])])
      names.update(f"{source}.{alias.name}" for alias in node.names)
  every = {".".join(parts[:end + 1]) for name in names
           for parts in [name.split(".")] for end in range(len(parts))}
  return sorted(each for each in every
                if each.partition(".")[0] not in _NOT_OWN and "*" not in each)


@contextlib.contextmanager
def folder_first(
    folder: pathlib.Path, modules: Collection[str]
) -> Iterator[None]:
  """Lets a file of a folder import modules of it, whatever others have their names.

  Another folder may have a `utils.py` too, and an edited one is another module: so
  they are imported anew, and are not left for others. What is installed and already
  imported stays, as there cannot be two of it.
  """
  before = {name: sys.modules[name] for name in modules if name in sys.modules}
  others = {name for name, module in before.items() if home(module) not in (
      None, folder.resolve())}
  for name in others:
    del sys.modules[name]
  # Bytecode is known by seconds and length only: an edit could be missed.
  written, sys.dont_write_bytecode = sys.dont_write_bytecode, True
  sys.path.insert(0, str(folder))
  try:
    yield
  finally:
    sys.path.remove(str(folder))
    sys.dont_write_bytecode = written
    for name in modules:
      sys.modules.pop(name, None)
    sys.modules.update(before)
