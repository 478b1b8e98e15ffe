"""Each command of docs/data.md says what stands under it, on files as it says."""

import pathlib
import re
import shlex

from conftest import ROOT
import numpy as np
from PIL import Image
import pytest

from kd_jax import data as data_lib
from kd_jax import main
from kd_jax.config import build, command_line
from kd_jax.core.errors import UserError
from kd_jax.runs import setup

PAGE = (ROOT / "docs/data.md").read_text()
# A command, and the output under it.
SHOWN = re.findall(r"```sh\n(.*?)```\n```\n(.*?)```", PAGE, re.S)


@pytest.fixture(scope="module", name="place")
def fixture_place(tmp_path_factory) -> pathlib.Path:
  """A folder with `configs`, and with `data` as the page has it."""
  place = tmp_path_factory.mktemp("page")
  (place / "configs").symlink_to(ROOT / "configs")
  draw = np.random.default_rng(0)

  def image(file: str, shape=(16, 16, 3)) -> None:
    path = place / "data" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = draw.integers(0, 256, shape, dtype=np.uint8)
    pixels.flat[:2] = 0, 255  # The range that the page shows.
    Image.fromarray(pixels.squeeze()).save(path)

  pixels = (16, 16, 3)
  for part, number in (("train", 40), ("test", 10)):
    for name in ("cat", "dog", "owl"):
      for i in range(number):
        image(f"pets/{part}/{name}/{i}.{('png', 'BMP')[i % 2]}")
  for name, number in (("cat", 20), ("dog", 30)):
    for i in range(number):
      image(f"flat/{name}/{i}.png")
  for part, number in (("train", 4), ("test", 2)):
    for name in ("cat", "dog"):
      for i in range(number):
        odd = (part, name, i) == ("train", "dog", 3)
        image(f"mixed/{part}/{name}/{i}.png", (20, 12) if odd else pixels)
  (place / "data/flowers.csv").write_text("id,length,colour,species\n" + "".join(
      f"{i},{i % 2 * 7.5 + i / 20:.2f},{('red', 'blue', 'white')[i % 3]},"
      f"{('rose', 'daisy')[i % 2]}\n" for i in range(100)))
  (place / "data/survey.csv").write_text("age,income,people,answer\n" + "".join(
      f"{i},{99 - i},{0.5 if i % 7 else 12},{('no', 'yes')[i % 2]}\n"
      for i in draw.permutation(100)))
  arrays = {}
  for part, number in (("train", 60), ("test", 30)):
    arrays[f"x_{part}"] = draw.integers(0, 256, (number, 8, 8), dtype=np.uint8)
    arrays[f"x_{part}"][0, 0, :2] = 0, 255
    arrays[f"y_{part}"] = 1 + np.arange(number) % 3
  np.savez(place / "data/mine.npz", **arrays)
  return place


@pytest.fixture(autouse=True)
def _there(place, monkeypatch, tmp_path):
  monkeypatch.chdir(place)
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  monkeypatch.delenv(data_lib.ENVIRONMENT_VARIABLE, raising=False)


def words(text: str) -> str:
  return " ".join(text.split())


def test_the_page_shows_every_kind():
  names = {re.search(r"data\.name=(\w+)", command)[1] for command, _ in SHOWN}
  assert names == {"pets", "mixed", "flat", "flowers", "mine", "survey"}


@pytest.mark.parametrize(("command", "output"), SHOWN)
def test_a_command_of_the_data_page_says_what_stands_under_it(command, output):
  given = shlex.split(command.replace("\\\n", " "))
  assert given[:3] == ["python", "-m", "kd_jax.main"]
  config, _ = command_line.parse(given[3:])
  lines: list[str] = []
  try:
    found = build.dataset(config, say=lines.append)
    lines.append(setup.in_words(found))
    assert not found.notice
  except UserError as error:
    lines.append(f"error: {error}")
  assert words(" ".join(lines)) == words(output)


def test_the_python_of_the_data_page_is_a_run(monkeypatch):
  code, = re.findall(r"```python\n(.*?)```", PAGE, re.S)
  configs = []
  note = lambda config, *_, **__: configs.append(config)
  monkeypatch.setattr(main, "train", note)
  exec(compile(code, "docs/data.md", "exec"), {})
  found = build.dataset(configs[0])
  assert found.class_names == ("low", "high")
  assert found.train.inputs.shape == (200, 4)
