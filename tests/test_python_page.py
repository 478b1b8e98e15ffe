"""Each piece of Python of docs/python.md runs, one after the other."""

import re

from conftest import ROOT
import jax
import pytest

from kd_jax.report import plots

PAGE = (ROOT / "docs/python.md").read_text()
CODE = re.findall(r"```python\n(.*?)```", PAGE, re.S)


@pytest.mark.slow
def test_the_python_of_the_page_runs(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  monkeypatch.setattr(plots, "write", lambda *_: {})
  names: dict = {}
  with jax.numpy_dtype_promotion("standard"):
    for code in CODE:
      exec(compile(code, "docs/python.md", "exec"), names)
  told = capsys.readouterr().out
  assert "['baseline', 'distilled', 'teacher']" in told
  assert "(2, 10) (2, 10)" in told
  assert (tmp_path / "runs/python/evaluation/distilled/flips.png").exists()


def test_its_trackers_are_there():
  for path in re.findall(r"\(\.\./(examples/[^)]+)\)", PAGE):
    assert (ROOT / path).is_file() and "def track(" in (ROOT / path).read_text()
