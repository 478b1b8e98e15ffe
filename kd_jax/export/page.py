"""A page on which nets are tried by hand: one HTML file that a browser opens.

The nets are ONNX and run in the page, by ONNX Runtime Web. What is packed is gzip,
then base64: 14.2 MB of WebAssembly become 4.9 MB. Names and facts stand in the page
as JSON, and its script shows them as text.
"""

import base64
from collections.abc import Sequence
import gzip
import html
import json
import pathlib
import re
import string
from typing import Any, NamedTuple

import numpy as np

from kd_jax.core.errors import UserError

# ONNX Runtime Web of a page that does not hold it: the version, and the SHA-384 of
# its files, without which the page would run whatever the network gave.
VERSION = "1.30.0"
_NETWORK = "https://cdn.jsdelivr.net"
_PACKAGE = f"{_NETWORK}/npm/onnxruntime-web@{VERSION}/dist"
FILES = {
    "ort.wasm.bundle.min.mjs":
        "PLWz+nHEVHpjwBsO0YVdvQj6n5814Iv8E3b8FG0Rp/uIAtjFMCKOpP66iPzedrIG",
    "ort-wasm-simd-threaded.wasm":
        "vjBJ1z7qrhkTyYsNqKeF6c7N+nOJSU94czEo+tvZcu8G75JparGq9kB+kTnEUNVM",
}
# A strip of more would be longer than the rest of the page.
MOST = 20
_HERE = pathlib.Path(__file__).parent
# The report's colours and letters.
_STYLE = _HERE.parent / "report" / "page.css"


class Shown(NamedTuple):
  """A net of the page.

  Attributes:
    name: The heading over it.
    model: ONNX with the input `inputs`, uint8 `[B, H, W, C]`, and the output
      `logits`, float32 `[B, classes]`.
    classes: Their names.
    shape: (H, W, C) of an image; C is 1 or 3.
    facts: What else the page says of it, such as {"test errors": "87 of 10,000"}.
  """

  name: str
  model: bytes
  classes: tuple[str, ...]
  shape: tuple[int, ...]
  facts: dict[str, str]


class Runtime(NamedTuple):
  """ONNX Runtime Web, to be held by a page.

  Attributes:
    version: Such as 1.30.0.
    script: Its JavaScript, one module.
    wasm: Its WebAssembly.
  """

  version: str
  script: bytes
  wasm: bytes


def runtime(folder: pathlib.Path) -> Runtime:
  """ONNX Runtime Web from an npm package on disk.

  Args:
    folder: The package `onnxruntime-web`, its `dist`, or a `node_modules` that
      holds it, or the folder in which npm has made that.

  Raises:
    UserError: If it is not there; says how it is fetched.

  Example:
    runtime(pathlib.Path("node_modules")).version  # "1.30.0"
  """
  package = pathlib.Path("onnxruntime-web", "dist")
  for part in ("", "dist", package, "node_modules" / package):
    paths = [folder / part / name for name in FILES]
    if all(path.is_file() for path in paths):
      script, wasm = (path.read_bytes() for path in paths)
      found = re.search(rb"ONNX Runtime Web v(\S{1,40})", script[:1000])
      return Runtime(found[1].decode("ascii", "replace") if found else "",
                     script, wasm)
  raise UserError(
      f"{folder}: holds no {' and '.join(FILES)}; run npm install "
      f"onnxruntime-web@{VERSION}, and give the folder node_modules that it makes")


def page(
    nets: Sequence[Shown],
    runtime: Runtime | None,
    examples: np.ndarray | None = None,
    labels: Sequence[int] | np.ndarray = (),
    *,
    title: str = "Teacher and student",
) -> str:
  """The page of some nets that take the same images.

  Args:
    nets: Those side by side, the teacher first.
    runtime: What runs them; None for a page that loads it from a network.
    examples: Test images, uint8 `[N, H, W, C]`; the first 20 are a strip to click.
      They also tell whether the nets know light figures on a dark ground: then an
      image of dark ink is inverted. Without any, grey images are taken to be so.
    labels: Their classes, ints `[N]`.
    title: Of the page.

  Returns:
    HTML that loads nothing, but for the runtime if that is None.

  Raises:
    ValueError: If the nets differ in shape or classes, or images have other
      channels than 1 or 3.
  """
  classes, shape = nets[0].classes, nets[0].shape
  if any((net.classes, net.shape) != (classes, shape) for net in nets):
    raise ValueError("nets of one page must take the same images and classes")
  if shape[-1] not in (1, 3):
    raise ValueError(f"images of {shape[-1]} channels: must have 1 or 3")
  if examples is None:
    examples = np.zeros((0, *shape), np.uint8)
  data = {
      "nets": [{"name": net.name, "facts": net.facts, "model": _packed(net.model)}
               for net in nets],
      "classes": classes, "shape": shape,
      "on_black": _on_black(examples),
      "examples": {"pixels": _packed(examples[:MOST].tobytes()),
                   "labels": [int(label) for label in labels[:MOST]]},
      **_source(runtime),
  }
  text = lambda path: path.read_text(encoding="utf-8")
  return string.Template(text(_HERE / "page.html")).substitute(
      title=html.escape(title), css=text(_STYLE) + text(_HERE / "page.css"),
      js=text(_HERE / "page.js"), size="\u00a0×\u00a0".join(map(str, shape[:2])),
      network="'none'" if runtime else _NETWORK,
      warning="" if runtime else (
          f'<p class="warn">This page needs a network: it loads ONNX Runtime Web '
          f"{VERSION}, 14 MB, from {_NETWORK}. Pictures stay here.</p>"),
      runs=html.escape(
          "Everything runs in this browser, on one thread, by ONNX Runtime Web "
          f"{runtime.version if runtime else VERSION}. No picture leaves it."),
      # A name must not end the element that the JSON stands in.
      data=json.dumps(data).replace("<", "\\u003c"))


def _source(runtime: Runtime | None) -> dict[str, Any]:
  """Where the page has its runtime from, and what helps if it does not start."""
  if runtime:
    return {"runtime": [{"packed": _packed(part)}
                        for part in (runtime.script, runtime.wasm)],
            "advice": "A browser of 2023 or later runs them"}
  return {"runtime": [{"url": f"{_PACKAGE}/{name}", "integrity": f"sha384-{sha}"}
                      for name, sha in FILES.items()],
          "advice": "Is there a network?"}


def _packed(data: bytes) -> str:
  return base64.b64encode(gzip.compress(data, mtime=0)).decode()


def _on_black(examples: np.ndarray) -> bool:
  """Whether grey images are light figures on a dark ground, as MNIST's are.

  Example:
    >>> _on_black(np.full((1, 28, 28, 1), 255, np.uint8))
    False
  """
  sides = [examples[:, 0], examples[:, -1], examples[:, :, 0], examples[:, :, -1]]
  border = np.concatenate([side.ravel() for side in sides])
  return examples.shape[-1] == 1 and not (
      border.size and np.median(border) > 127)
