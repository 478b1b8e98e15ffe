"""Makes a notebook from its source: cells, run in a kernel, with what they show.

  python notebooks/make.py            dark_knowledge.py -> dark_knowledge.ipynb

Needs nbclient and ipykernel (requirements-dev.txt). A source is Python: `# %%`
begins a cell of code, `# %% [markdown]` one of text, whose lines are comments.
"""

import base64
import io
import pathlib
import re
from typing import Any

FOLDER = pathlib.Path(__file__).resolve().parent
_BEGINS = re.compile(r"^# %%(?: \[(markdown)\])?$", re.M)


def cells(source: str) -> list[tuple[str, str]]:
  """The cells of a source as kind, "markdown" or "code", and text.

  Example:
    >>> cells("# %% [markdown]\\n# Hello\\n# %%\\nx = 1\\n")
    [('markdown', 'Hello'), ('code', 'x = 1')]
  """
  _, *parts = _BEGINS.split(source)
  found = []
  for kind, text in zip(parts[::2], parts[1::2]):
    if kind:
      text = re.sub(r"^# ?", "", text, flags=re.M)
    found.append((kind or "code", text.strip()))
  return found


def made(name: str) -> Any:
  """The notebook of a source, run; it holds no name of this machine."""
  import nbclient
  import nbformat
  book = nbformat.v4.new_notebook(metadata={
      "kernelspec": {"name": "python3", "display_name": "Python 3",
                     "language": "python"},
      "language_info": {"name": "python"}})
  for number, (kind, text) in enumerate(
      cells((FOLDER / f"{name}.py").read_text())):
    cell = getattr(nbformat.v4, f"new_{kind}_cell")(text)
    # Drawn by chance otherwise, so that no two makings would be alike.
    cell["id"] = f"cell-{number}"
    book.cells.append(cell)
  nbclient.NotebookClient(
      book, timeout=900, startup_timeout=300, record_timing=False,
      resources={"metadata": {"path": str(FOLDER)}}).execute()
  for output in (o for cell in book.cells for o in cell.get("outputs", ())):
    if "image/png" in output.get("data", {}):
      output["data"]["image/png"] = _smaller(output["data"]["image/png"])
  return book


def _smaller(png: str) -> str:
  """A third of the size: a palette, which bars and lines need no more than."""
  from PIL import Image
  image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
  written = io.BytesIO()
  image.quantize(256).save(written, format="png", optimize=True)
  return base64.b64encode(written.getvalue()).decode()


def main() -> None:
  """Makes every notebook of this folder."""
  import nbformat
  for source in sorted(FOLDER.glob("*.py")):
    if source.name != "make.py":
      book = made(source.stem)
      nbformat.validate(book)
      file = source.with_suffix(".ipynb")
      nbformat.write(book, file)
      print(f"{file.name}: {file.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
  main()
