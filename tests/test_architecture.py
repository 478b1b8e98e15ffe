"""The rooms stay apart: imports point upward, libraries have one door."""

import ast
import pathlib

from conftest import ROOT
import pytest

# Lower numbers know nothing of higher ones.
LAYERS = {
    0: "types losses logit_losses metrics augment distort rng models statistics machine "
       "clustered",
    1: "errors terms schedules distillers teacher state steps optim loop lanes settings "
       "parallel hosts data",
    2: "keys config named build checkpoint records screen fit bench banks shelf "
       "train progress follow watch "
       "report compilation sweep arguments main doctor conformance",
}
LAYER = {name: n for n, names in LAYERS.items() for name in names.split()}
FILES = sorted((ROOT / "kd_jax").rglob("*.py"))


def room(path: pathlib.Path) -> str:
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


def test_every_file_has_a_room():
  assert {room(f) for f in FILES} - {"__init__"} == set(LAYER)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_imports_point_upward(path):
  if room(path) == "__init__":
    return
  for name in imports(path):
    parts = name.split(".")
    if parts[0] == "kd_jax" and len(parts) > 1 and parts[1] in LAYER:
      assert LAYER[parts[1]] <= LAYER[room(path)], f"{path.name}: {name}"


@pytest.mark.parametrize(("library", "doors"), [
    ("flax.linen", {"models"}), ("orbax", {"checkpoint", "progress"}),
    ("tensorflow_datasets", {"data"}), ("tensorflow", {"data"}),
    ("optax", {"optim", "steps"}), ("tensorboardX", {"records"}),
    ("matplotlib", {"report"}),
    ("scipy", {"statistics", "clustered"}),
    ("rich", {"screen"}), ("absl", {"arguments"}),
    ("ml_collections",
     {"config", "build", "bench", "shelf", "sweep", "train",
      "arguments"}),
])
def test_a_library_enters_by_its_door(library, doors):
  users = {room(f) for f in FILES for name in imports(f)
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
