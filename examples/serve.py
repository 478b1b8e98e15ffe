"""A server of an exported net: images in, class names with probabilities out.

  pip install fastapi uvicorn python-multipart pillow onnxruntime
  python examples/serve.py runs/mnist/exports/distilled.onnx --port=8000
  curl -F file=@seven.png http://127.0.0.1:8000/predict

`POST /predict` takes image files (multipart), or JSON: a list of inputs as the data
set stores them, such as pixels from 0 to 255. `GET /health` says what the net
takes. What is wrong with a request is told in a line, with a status of 400 to 499.
The file needs nothing of kd_jax: copy both to where they are to run. How fast it
is: `python examples/load_test.py FILE.onnx`.
"""

import argparse
import io
import json
import pathlib
import sys
import warnings

from fastapi import FastAPI, Request
import numpy as np
import onnxruntime
from PIL import Image, ImageOps
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

MOST_INPUTS, MOST_BYTES = 64, 10_000_000
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")


class Net:
  """An ONNX file of kd_jax, which says itself what its classes and inputs are."""

  def __init__(self, file: str):
    options = onnxruntime.SessionOptions()
    # A small net is fastest on one core; requests share the others.
    options.intra_op_num_threads = 1
    if not pathlib.Path(file).is_file():
      raise SystemExit(f"error: {file}: no such file")
    try:
      self._session = onnxruntime.InferenceSession(
          file, options, providers=["CPUExecutionProvider"])
      metadata = self._session.get_modelmeta().custom_metadata_map
      self.name, self.classes, takes = (
          json.loads(metadata[key]) for key in ("net", "classes", "input"))
      self.shape, self.dtype = tuple(takes["shape"][1:]), np.dtype(takes["dtype"])
      if self._run(np.zeros((1, *self.shape), self.dtype)).shape != (
          1, len(self.classes)):
        raise ValueError
    except Exception:  # onnxruntime's, or of metadata that others wrote.
      raise SystemExit(f"error: {file}: is no ONNX file with the names of its "
                       "classes; python -m kd_jax.export writes one") from None

  def _run(self, inputs: np.ndarray) -> np.ndarray:
    return self._session.run(["probabilities"], {"inputs": inputs})[0]

  def __call__(self, inputs: np.ndarray) -> list[dict]:
    """Label and probabilities of inputs `[N, *shape]`."""
    try:
      found = self._run(inputs)
    except Exception as error:  # onnxruntime's, such as of an id without a row.
      refuse(f"the net refuses the inputs: {str(error).rpartition('Message: ')[2]}")
    if not np.isfinite(found).all():
      refuse("the net has no finite answer to the inputs")
    return [{"label": self.classes[int(row.argmax())],
             "probabilities": dict(zip(self.classes, row.tolist()))}
            for row in found]

  def of_image(self, name: str, content: bytes) -> np.ndarray:
    """The pixels of an image file, as `kd_jax.predict` has them, but not scaled."""
    if len(self.shape) != 3 or self.dtype != np.uint8:
      refuse(f"{name}: the net takes no images; send JSON")
    height, width, channels = self.shape
    try:
      with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of damaged tags.
        image = Image.open(io.BytesIO(content), formats=FORMATS)
        # Before it is unpacked: a small file may have billions of pixels.
        if sorted(image.size) == sorted((width, height)):
          # Of 16 bits in three channels only the raw mode says so; the first of an
          # MPO, as telephones make them, is the photograph.
          deep = image.mode[0] in "IF" or ";16" in str([t[3] for t in image.tile])
          frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
          if deep or frames > 1:
            raise ValueError("must have one frame and 8 bits a channel")
          image = ImageOps.exif_transpose(image)
        if image.size != (width, height):
          raise ValueError(f"has {image.width} x {image.height} pixels, and the "
                           f"net takes {width} x {height}")
        if image.has_transparency_data:
          image = image.convert("RGBA")
          white = Image.new("RGBA", image.size, "white")
          white.alpha_composite(image)
          image = white
        image = image.convert("RGB").convert("L" if channels == 1 else "RGB")
    except ValueError as error:
      refuse(f"{name}: {error}")
    except Exception:  # Whatever damage makes Pillow raise.
      refuse(f"{name}: is no whole image of {', '.join(FORMATS)}")
    return np.asarray(image).reshape(self.shape)

  def of_json(self, body: bytes) -> np.ndarray:
    """Inputs of a JSON list, `[N, *shape]`, or one input, `shape`."""
    try:
      inputs = np.asarray(json.loads(body))
    except (ValueError, RecursionError):
      refuse("the body is no JSON list of inputs of the same shape")
    if inputs.shape == self.shape:
      inputs = inputs[None]
    if inputs.shape[1:] != self.shape or inputs.ndim == 0:
      refuse(f"the inputs have shape {list(inputs.shape)}, and the net takes "
             f"{['N', *self.shape]}")
    if inputs.dtype.kind not in ("iuf" if self.dtype.kind == "f" else "iu"):
      refuse(f"the net takes {self.dtype}, and these are other values")
    with np.errstate(over="ignore", invalid="ignore"):
      found = inputs.astype(self.dtype)
    exact = np.array_equal(found, inputs) or self.dtype.kind == "f"
    if not exact or not np.isfinite(found).all():
      refuse(f"the inputs have numbers that {self.dtype} does not hold")
    return found


def refuse(line: str, status: int = 422):
  """Answers that a request is wrong, in a line."""
  # A name of a file may have what UTF-8 has no bytes for, or commands a terminal.
  line = "".join(letter if letter.isprintable() else ascii(letter)[1:-1]
                 for letter in " ".join(line.split()))
  raise HTTPException(status, line[:300])


class Limited:
  """Refuses a body of more bytes than are allowed, before it is all there."""

  def __init__(self, app, most: int):
    self._app, self._most = app, most

  async def __call__(self, scope, receive, send):
    left = self._most

    async def counted():
      nonlocal left
      message = await receive()
      left -= len(message.get("body", b""))
      if left < 0:
        refuse(f"the body is larger than {self._most:,} bytes", 413)
      return message

    await self._app(scope, counted, send)


async def inputs_of(request: Request, net: Net) -> np.ndarray:
  """The inputs `[N, *shape]` of a request, of JSON or of image files."""
  kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
  if kind == "application/json":
    return await run_in_threadpool(net.of_json, await request.body())
  if kind != "multipart/form-data":
    refuse("send image files as multipart/form-data, or application/json", 415)
  try:
    async with request.form(max_files=MOST_INPUTS) as form:
      files = [(each.filename, await each.read()) for _, each in form.multi_items()
               if not isinstance(each, str)]
  except (HTTPException, ClientDisconnect):
    raise
  except Exception:  # Whatever a broken form makes the parser raise.
    refuse("the form cannot be read")
  if not files:
    refuse("there is no image file in the form; curl -F file=@IMAGE")
  return np.stack([await run_in_threadpool(net.of_image, *each) for each in files])


def app(file: str) -> FastAPI:
  """The server of an ONNX file."""
  net, server = Net(file), FastAPI(title="kd_jax")
  server.add_middleware(Limited, most=MOST_BYTES)

  @server.get("/health")
  def health() -> dict:
    return {"status": "ok", "net": net.name, "classes": net.classes,
            "shape": net.shape, "dtype": net.dtype.name}

  @server.post("/predict")
  async def predict(request: Request) -> dict:
    try:
      inputs = await inputs_of(request, net)
    except ClientDisconnect:  # Nobody reads it; a traceback would be logged else.
      refuse("the body is not whole", 400)
    if not 0 < len(inputs) <= MOST_INPUTS:
      refuse(f"{len(inputs)} inputs: send 1 to {MOST_INPUTS}")
    return {"predictions": await run_in_threadpool(net, inputs)}

  return server


def main():
  """Serves a file until it is stopped."""
  import uvicorn
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("file", help="of python -m kd_jax.export --format=onnx")
  parser.add_argument("--host", default="127.0.0.1")
  parser.add_argument("--port", type=int, default=8000)
  arguments = parser.parse_args()
  server = app(arguments.file)
  print(f"http://{arguments.host}:{arguments.port}: POST /predict, GET /health",
        file=sys.stderr)
  uvicorn.run(server, host=arguments.host, port=arguments.port,
              log_level="warning", access_log=False)


if __name__ == "__main__":
  main()
