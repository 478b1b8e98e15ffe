"""The packages stay apart: imports point one way, libraries have one door."""

import ast
import pathlib

from conftest import ROOT
import pytest

# An arrow may point to the left only; what has a comma between is apart.
ORDER = """core < losses < methods, models, data < teachers < training < config
           < runs < report < export < main
           < compare, predict, explain, sweep, doctor, checkpoint, errors
           < evaluate, api"""
LEVEL = {name.strip(): level for level, names in enumerate(ORDER.split("<"))
         for name in names.split(",")}
# Judges losses of any framework, and knows no training.
ALLOWED = {"conformance": {"core", "losses"}}
FILES = sorted((ROOT / "kd_jax").rglob("*.py"))


def package(path: pathlib.Path) -> str:
  return path.relative_to(ROOT / "kd_jax").parts[0].removesuffix(".py")


def imports(path: pathlib.Path) -> set[str]:
  """Dotted names of all that a file imports, inside functions too."""
  found = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom) and node.module:
      found |= {f"{node.module}.{alias.name}" for alias in node.names}
  return found


def test_every_package_has_a_place():
  there = {package(f) for f in FILES} - {"__init__"}
  assert there == set(LEVEL) | set(ALLOWED)


@pytest.mark.parametrize(
    "path", FILES, ids=lambda p: str(p.relative_to(ROOT / "kd_jax")))
def test_imports_point_one_way(path):
  own = package(path)
  if own == "__init__":
    return
  for name in imports(path):
    parts = name.split(".")
    if parts[0] != "kd_jax" or len(parts) < 2 or parts[1] in (
        own, "__version__", "NUMERICS"):
      continue
    if own in ALLOWED:
      assert parts[1] in ALLOWED[own], name
    else:
      assert parts[1] not in ALLOWED and LEVEL[parts[1]] < LEVEL[own], name


@pytest.mark.parametrize(("library", "doors"), [
    ("flax.linen", {"models"}), ("orbax", {"training"}),
    ("tensorflow_datasets", {"data"}), ("tensorflow", {"data"}),
    ("optax", {"training"}), ("tensorboardX", {"runs"}),
    ("matplotlib", {"report"}), ("scipy", {"report", "teachers"}),
    ("rich", {"core"}), ("ml_collections", {"config", "runs"}),
])
def test_a_library_enters_by_its_door(library, doors):
  users = {package(f) for f in FILES for name in imports(f)
           if name == library or name.startswith(library + ".")}
  assert users and users <= doors


def test_nothing_is_unpickled_or_evaluated():
  for path in FILES:
    tree = ast.parse(path.read_text())
    assert "pickle" not in imports(path)
    for call in (n for n in ast.walk(tree) if isinstance(n, ast.Call)):
      name = ast.unparse(call.func)
      assert name not in ("eval", "exec", "os.system"), path
      if name == "np.load":
        kept = {k.arg: ast.unparse(k.value) for k in call.keywords}
        assert kept.get("allow_pickle") == "False", path
      if name == "torch.load":
        kept = {k.arg: ast.unparse(k.value) for k in call.keywords}
        assert kept.get("weights_only") == "True", path
