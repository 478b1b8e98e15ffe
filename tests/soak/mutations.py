"""What can become of a file: mutators by name, each drawn by a seed.

A mutator takes the file and a random generator, and leaves something else in its
place. Some fit any file, some only JSON, or arrays.
"""

from collections.abc import Callable, Iterator
import gzip
import io
import json
import os
import pathlib
import random
import shutil
import struct
from typing import Any
import zipfile

import numpy as np

Mutator = Callable[[pathlib.Path, random.Random], None]
# Numbers, texts and containers that a reader may not expect.
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1e39, 1e-39, -0.0, float("nan"), float("inf"), 10**30, 1e308,
    10**400, "", "text", "\x1b[2Jx", "a\0b", "\ud800", "../../x", "/dev/null",
    "1" * 9999, [], {}, [None], {"a": {"b": None}}, [[1], {"c": 2}], "NaN")
_HUGE = 10**9


def _bytes(change: Callable[[bytearray, random.Random], bytes]) -> Mutator:
  """A mutator that changes a file's content."""
  return lambda path, draw: path.unlink() if path.is_dir() else _write(
      path, change(bytearray(path.read_bytes()), draw))


def _write(path: pathlib.Path, content: bytes) -> None:
  path.unlink()  # A hard link may lead elsewhere.
  path.write_bytes(content)


def _flipped(content: bytearray, draw: random.Random, bits: int = 1) -> bytes:
  for _ in range(bits if content else 0):
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
  return content


def _cut(content: bytearray, draw: random.Random) -> bytes:
  at = draw.randrange(len(content) or 1)
  del content[at:at + draw.randrange(1, 64)]
  return content


def _instead(place: Callable[[pathlib.Path], None]) -> Mutator:
  """A mutator that puts something that is no file of ours in the file's place."""

  def mutate(path: pathlib.Path, draw: random.Random) -> None:
    del draw
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    place(path)
  return mutate


def _loop(path: pathlib.Path) -> None:
  path.symlink_to(path.name)


# Of any file; some also of a folder.
OF_ANY: dict[str, Mutator] = {
    "truncated": _bytes(
        lambda content, draw: content[:draw.randrange(len(content) or 1)]),
    "flipped": _bytes(_flipped),
    "flipped often": _bytes(lambda content, draw: _flipped(content, draw, 40)),
    "cut": _bytes(_cut),
    "empty": _bytes(lambda content, draw: b""),
    "doubled": _bytes(lambda content, draw: content + content),
    "longer": _bytes(lambda content, draw: content + draw.randbytes(50)),
    "random": _bytes(lambda content, draw: draw.randbytes(300)),
    "zeros": _bytes(lambda content, draw: bytes(len(content))),
    "UTF-16": _bytes(
        lambda content, draw: content.decode("latin-1").encode("utf-16")),
    "byte order mark": _bytes(lambda content, draw: b"\xef\xbb\xbf" + content),
    "latin-1": _bytes(lambda content, draw: b"\xe9" + content + b"\xff"),
    "CRLF": _bytes(lambda content, draw: content.replace(b"\n", b"\r\n")),
    "gone": _instead(lambda path: None),
    "folder": _instead(pathlib.Path.mkdir),
    "FIFO": _instead(os.mkfifo),
    "dangling link": _instead(lambda path: path.symlink_to("nowhere")),
    "looping link": _instead(_loop),
    "endless device": _instead(lambda path: path.symlink_to("/dev/zero")),
    "empty device": _instead(lambda path: path.symlink_to("/dev/null")),
}
OF_FOLDER = {name: OF_ANY[name] for name in (
    "gone", "FIFO", "dangling link", "looping link", "empty device")}


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
  """All containers of a document, each with each of its keys."""
  keys = value if isinstance(value, dict) else (
      range(len(value)) if isinstance(value, list) else ())
  for key in keys:
    yield value, key
    yield from _places(value[key])


def _json(change: Callable[[Any, random.Random], str]) -> Mutator:
  """A mutator of a document of JSON, or of one line of several."""

  def mutate(path: pathlib.Path, draw: random.Random) -> None:
    text = path.read_text()
    lines = text.splitlines() if path.suffix == ".jsonl" else [text]
    at = draw.randrange(len(lines))
    try:
      lines[at] = change(json.loads(lines[at]), draw)
    except ValueError:  # It is no JSON: nothing to change.
      lines[at] += " "
    _write(path, ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass"))
  return mutate


def _other(value: Any, draw: random.Random) -> str:
  places = list(_places(value))
  if places:
    inside, key = draw.choice(places)
    inside[key] = draw.choice(VALUES)
  return json.dumps(value)


def _less(value: Any, draw: random.Random) -> str:
  places = list(_places(value))
  if places:
    inside, key = draw.choice(places)
    del inside[key]
  return json.dumps(value)


def _more(value: Any, draw: random.Random) -> str:
  if isinstance(value, dict):
    value["unheard of"] = draw.choice(VALUES)
  return json.dumps(value)


def _deep_inside(value: Any, draw: random.Random) -> str:
  text = "\0".join(json.dumps(value).split(": "))
  at = draw.choice([i for i, letter in enumerate(text) if letter == "\0"] or [0])
  deep = "[" * 100_000 + "]" * 100_000
  return (text[:at] + ": " + deep + ', "z": ' + text[at + 1:]).replace("\0", ": ")


OF_JSON: dict[str, Mutator] = OF_ANY | {
    "another value": _json(_other),
    "another value 2": _json(_other),
    "another value 3": _json(_other),
    "a value less": _json(_less),
    "a value more": _json(_more),
    "another document": _json(lambda value, draw: json.dumps(draw.choice(VALUES))),
    "in a list": _json(lambda value, draw: json.dumps([value])),
    "deep": _json(lambda value, draw: "[" * 100_000),
    "deep and closed": _json(lambda value, draw: "[" * 100_000 + "]" * 100_000),
    "deep inside": _json(_deep_inside),
    "digits": _json(lambda value, draw: "9" * 100_000),
}


def _npy(header: str, content: bytes = b"") -> bytes:
  """A .npy file with this header, true or not."""
  text = header.encode("latin-1") + b"\n"
  return b"\x93NUMPY\x02\x00" + struct.pack("<I", len(text)) + text + content


def _said(dtype: str, shape: tuple[int, ...]) -> str:
  return f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}"


def _saved(array: np.ndarray) -> bytes:
  out = io.BytesIO()
  np.save(out, array, allow_pickle=True)  # To see that none is read.
  return out.getvalue()


def _elements(array: np.ndarray, draw: random.Random, value: float) -> np.ndarray:
  made = array.astype(np.float32)
  if made.size:
    made.reshape(-1)[draw.randrange(made.size)] = value
  return made


# Another array in place of one: as the content of a .npy file.
_ARRAYS: dict[str, Callable[[np.ndarray, random.Random], bytes]] = {
    "a billion declared": lambda array, draw: _npy(
        _said(array.dtype.str, (_HUGE, *array.shape[1:])), array.tobytes()),
    "2**70 declared": lambda array, draw: _npy(_said("|u1", (2**70,))),
    "negative sizes": lambda array, draw: _npy(_said("<f4", (-1, -5))),
    "another dtype": lambda array, draw: _saved(array.astype(draw.choice(
        ["f8", "f2", "c8", "i8", "u8", "bool", "U5", "S3"]))),
    "a dtype of nobody": lambda array, draw: _npy(_said("|V2", array.shape)),
    "records": lambda array, draw: _saved(np.zeros(len(array), "i4,f4")),
    "objects": lambda array, draw: _saved(np.array([{"a": 1}, None], object)),
    "dates": lambda array, draw: _saved(np.zeros(len(array), "M8[s]")),
    "another shape": lambda array, draw: _saved(draw.choice(
        [array[:0], array[None], array.reshape(-1), array[0], array[..., None],
         array.sum(), array[:-1], array[..., :0], array.reshape(len(array), -1)])),
    "a deep header": lambda array, draw: _npy("(" * 5000),
    "a header that computes": lambda array, draw: _npy("{'descr': 9**9**9}"),
    "a header of nothing": lambda array, draw: _npy("{}"),
    "another order": lambda array, draw: _saved(np.asfortranarray(array)),
    "other ends": lambda array, draw: _saved(array.astype(
        array.dtype.newbyteorder(">"))),
    "NaN inside": lambda array, draw: _saved(_elements(array, draw, np.nan)),
    "infinite inside": lambda array, draw: _saved(_elements(array, draw, -np.inf)),
    "huge inside": lambda array, draw: _saved(_elements(array, draw, 3e38)),
    "extremes": lambda array, draw: _saved(np.full(
        array.shape, draw.choice([2**62, -2**62, 255, -1, -2]), np.int64)),
}


def _of_npy(change: Callable[[np.ndarray, random.Random], bytes]) -> Mutator:
  return lambda path, draw: _write(path, change(np.load(path), draw))


def _of_npz(change: Callable[[np.ndarray, random.Random], bytes]) -> Mutator:
  """Changes one array of an archive."""

  def mutate(path: pathlib.Path, draw: random.Random) -> None:
    with np.load(path) as archive:
      arrays = {name: _saved(archive[name]) for name in archive.files}
      name = draw.choice(archive.files)
      arrays[name] = change(archive[name], draw)
    _write(path, _zipped(arrays))
  return mutate


def _zipped(members: dict[str, bytes], kind: int = zipfile.ZIP_STORED) -> bytes:
  out = io.BytesIO()
  with zipfile.ZipFile(out, "w", kind) as archive:
    for name, content in members.items():
      archive.writestr(f"{name}.npy", content)
  return out.getvalue()


def _without_one(path: pathlib.Path, draw: random.Random) -> None:
  with np.load(path) as archive:
    arrays = {name: _saved(archive[name]) for name in archive.files}
  del arrays[draw.choice(list(arrays))]
  _write(path, _zipped(arrays))


def _bomb(path: pathlib.Path, draw: random.Random) -> None:
  """A small archive of a large array of zeros."""
  with np.load(path) as archive:
    arrays = {name: _saved(archive[name]) for name in archive.files}
  name = draw.choice(list(arrays))
  size = 60_000_000
  arrays[name] = _npy(_said("|u1", (size // 120, 12, 10))) + bytes(size)
  _write(path, _zipped(arrays, zipfile.ZIP_DEFLATED))


def _encrypted(path: pathlib.Path, draw: random.Random) -> None:
  """An archive whose members say that they are encrypted."""
  del draw
  content = bytearray(path.read_bytes())
  for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
    at = content.find(mark)
    while at >= 0:
      content[at + place] |= 1
      at = content.find(mark, at + 4)
  _write(path, bytes(content))


OF_NPY = OF_ANY | {name: _of_npy(change) for name, change in _ARRAYS.items()} | {
    "an archive": lambda path, draw: _write(
        path, _zipped({"a": path.read_bytes(), "b": path.read_bytes()}))}
OF_NPZ = OF_ANY | {name: _of_npz(change) for name, change in _ARRAYS.items()} | {
    "an array less": _without_one, "a bomb": _bomb, "encrypted": _encrypted,
    "no archive": lambda path, draw: _write(path, _saved(np.zeros(3)))}


def _idx(kind: int, sizes: tuple[int, ...]) -> Mutator:
  """An idx file whose header says something else."""
  return lambda path, draw: _write(path, struct.pack(
      f">4B{len(sizes)}I", 0, 0, kind, len(sizes), *sizes)
                                   + path.read_bytes()[16:])


OF_IDX = OF_ANY | {
    "a billion declared": _idx(8, (_HUGE, 28, 28)),
    "no dimension": _idx(8, ()),
    "many dimensions": _idx(8, (1,) * 60),
    "none": _idx(8, (0, 28, 28)),
    "floats": _idx(13, (5, 28, 28)),
    "large": _idx(8, (2**32 - 1,) * 3),
}


def _gz(path: pathlib.Path, draw: random.Random) -> None:
  del draw
  path.with_name(path.name + ".gz").write_bytes(gzip.compress(
      bytes(60_000_000), 1))
  path.unlink()


OF_IDX["a bomb"] = _gz


def _text(*texts: str) -> dict[str, Mutator]:
  """Files of Python with these words after theirs."""
  return {f"ends with {text.strip()[:24]!r}": _bytes(
      lambda content, draw, text=text: bytes(content) + text.encode())
          for text in texts}


OF_PYTHON = OF_ANY | _text(
    "\n1 / 0\n", "\nimport nothing_of_this_name\n", "\nraise SystemExit(0)\n",
    "\nget_config = 3\n", "\ndef get_config(): return {'steps': 3}\n",
    "\ndef get_config(): return None\n", "\ndef get_config(): raise ValueError\n",
    "\ndef get_config(a, b): return a\n",
    "\ndef get_config(): return get_config()\n",
    "\ndef get_config(): return __import__('ml_collections').ConfigDict()\n",
    "\nimport sys; sys.setrecursionlimit(5)\n", "\nclass E(Exception):\n"
    "  def __str__(self): return 1\ndef get_config(): raise E\n",
    "\nx = " + "(" * 300 + "\n", "\nassert False, 'a' * 10**6\n",
    "\nraise ValueError('\\x1b[2J\\n\\n\\n\\nz')\n",
    "\nraise ExceptionGroup('g', [ValueError(1), TypeError(2)])\n",
    "\nprint('\\ud800')\n")
OF_TEXT = OF_ANY


def of(path: pathlib.Path) -> dict[str, Mutator]:
  """The mutators that fit a file or folder."""
  if path.is_dir():
    return OF_FOLDER
  return {".json": OF_JSON, ".jsonl": OF_JSON, ".npy": OF_NPY, ".npz": OF_NPZ,
          ".py": OF_PYTHON}.get(
              path.suffix, OF_IDX if "ubyte" in path.name else OF_ANY)
