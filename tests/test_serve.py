"""The server of examples/serve.py: what it answers, and what it refuses."""

import asyncio
import concurrent.futures
import importlib.util
import io
import json
import subprocess
import sys
import warnings

from conftest import ROOT
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest
from test_predict import png_of_16_bits

from kd_jax.data import image_files
from kd_jax.export import formats

pytest.importorskip("fastapi", reason="pip install fastapi httpx python-multipart")
ONNX = formats.FORMATS["onnx"]
pytestmark = pytest.mark.skipif(
    bool(ONNX.missing), reason=f"{ONNX.missing}: {formats.INSTALL}")
CLASSES = ["cat", "dog", "none of them"]
WEIGHTS = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)


def example(name: str):
  """The module of a file in examples/."""
  spec = importlib.util.spec_from_file_location(name, ROOT / f"examples/{name}.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def exported(folder, shape, dtype):
  """An ONNX file: logits are numbers times WEIGHTS, of pixels in 0 to 1."""
  def function(inputs):
    flat = inputs.reshape(inputs.shape[0], 12).astype(jnp.float32)
    logits = (flat / 255 if dtype == "uint8" else flat) @ WEIGHTS
    return logits, jax.nn.softmax(logits)

  card = {"net": "distilled", "classes": CLASSES, "input": {
      "name": "inputs", "shape": ["batch", *shape], "dtype": dtype}}
  file = folder / f"{'x'.join(map(str, shape))}-{dtype}.onnx"
  with jax.numpy_dtype_promotion("standard"):
    net = formats.Served(function, shape, np.dtype(dtype), card, {})
    ONNX.code.write(net, file)
  return file


IDS = """
<ir_version: 10, opset_import: ["": 21]>
net (int32[{batch},2] inputs) => (float[{batch},3] probabilities) {{
  rows = Gather(table, inputs)
  logits = ReduceSum<keepdims = 0>(rows, axis)
  probabilities = Softmax(logits)
}}
"""


def of_ids(folder, batch="B", shape=(2,), classes=CLASSES):
  """An ONNX file of a net of two ids from 0 to 3, written by hand."""
  onnx = pytest.importorskip("onnx", reason="needs pip install onnx")
  net = onnx.parser.parse_model(IDS.format(batch=batch))
  for name, values in (("table", WEIGHTS[:4]), ("axis", np.array([1]))):
    net.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
  card = {"net": "ids", "classes": classes,
          "input": {"shape": ["batch", *shape], "dtype": "int32"}}
  onnx.helper.set_model_props(
      net, {key: json.dumps(value) for key, value in card.items()})
  (folder / "ids.onnx").write_bytes(net.SerializeToString())
  return str(folder / "ids.onnx")


def wanted(inputs) -> np.ndarray:
  """The probabilities, in NumPy."""
  flat = np.asarray(inputs, np.float64).reshape(-1, 12)
  exp = np.exp(flat @ WEIGHTS)
  return exp / exp.sum(axis=1, keepdims=True)


def check(answer, inputs) -> None:
  """Sees that an answer has the probabilities of inputs."""
  assert answer.status_code == 200, answer.text
  rows = answer.json()["predictions"]
  p = wanted(inputs)
  assert len(rows) == len(p)
  for row, own in zip(rows, p):
    assert row["label"] == CLASSES[own.argmax()]
    assert list(row["probabilities"]) == CLASSES
    np.testing.assert_allclose(list(row["probabilities"].values()), own, atol=1e-5)


@pytest.fixture(scope="module")
def client_of(tmp_path_factory):
  """Makes a client of a server that has a net of some inputs."""
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Of starlette, about the next httpx.
    from fastapi.testclient import TestClient
  folder, serve = tmp_path_factory.mktemp("serve"), example("serve")
  made = {}

  def client(shape=(4, 3, 1), dtype="uint8"):
    if (shape, dtype) not in made:
      # What would be a status of 500 is raised here.
      file = exported(folder, shape, dtype)
      made[shape, dtype] = TestClient(serve.app(str(file)))
    return made[shape, dtype]

  client.of_file = lambda file: TestClient(serve.app(file))
  return client


def pixels(number: int = 1, shape=(4, 3, 1)) -> np.ndarray:
  return np.random.default_rng(1).integers(0, 256, (number, *shape), dtype=np.uint8)


def image(array: np.ndarray, kind: str = "PNG", **more) -> bytes:
  """A file of an image of an array `[H, W, channels]`."""
  out = io.BytesIO()
  Image.fromarray(array.squeeze()).save(out, kind, **more)
  return out.getvalue()


def test_the_state_says_what_the_net_takes(client_of):
  assert client_of().get("/health").json() == {
      "status": "ok", "net": "distilled", "classes": CLASSES, "shape": [4, 3, 1],
      "dtype": "uint8"}


@pytest.mark.parametrize("number", [1, 3])
def test_files_of_images_are_classified(client_of, number):
  inputs = pixels(number)
  files = [("file", (f"{i}.png", image(one))) for i, one in enumerate(inputs)]
  check(client_of().post("/predict", files=files), inputs / 255)


def test_lists_of_pixels_are_classified(client_of):
  inputs = pixels(3)
  check(client_of().post("/predict", json=inputs.tolist()), inputs / 255)
  check(client_of().post("/predict", json=inputs[0].tolist()), inputs[:1] / 255)


def test_colours_and_rotation_are_those_of_predict(client_of, tmp_path):
  exif = Image.Exif()
  exif[274] = 6
  rgba = np.random.default_rng(2).integers(0, 256, (3, 4, 4), dtype=np.uint8)
  content = image(rgba, exif=exif)
  (tmp_path / "a.png").write_bytes(content)
  check(client_of().post("/predict", files={"file": ("a.png", content)}),
        image_files.read(tmp_path / "a.png", (4, 3, 1)) / 255)


def test_a_net_of_colours_is_given_three_channels(client_of):
  inputs = pixels(2, (2, 2, 3))
  files = [("file", (f"{i}.png", image(one))) for i, one in enumerate(inputs)]
  check(client_of((2, 2, 3)).post("/predict", files=files), inputs / 255)
  grey = np.array([[0, 50], [100, 200]], np.uint8)
  check(client_of((2, 2, 3)).post("/predict", files={"file": ("a", image(grey))}),
        np.repeat(grey[..., None], 3, axis=2) / 255)


def test_tables_are_lists_of_numbers(client_of):
  rows = np.random.default_rng(3).normal(size=(2, 12)).round(3)
  check(client_of((12,), "float32").post("/predict", json=rows.tolist()), rows)
  answer = client_of((12,), "float32").post(
      "/predict", files={"file": ("a.png", image(pixels()[0]))})
  assert answer.status_code == 422 and "takes no images" in answer.text


def test_what_the_runtime_refuses_is_one_line(client_of, tmp_path):
  client = client_of.of_file(of_ids(tmp_path))
  # Logits are the sums of two rows.
  logits = (WEIGHTS[1] + WEIGHTS[3]).astype(np.float64)
  answer = client.post("/predict", json=[1, 3])
  p = np.exp(logits) / np.exp(logits).sum()
  np.testing.assert_allclose(
      list(answer.json()["predictions"][0]["probabilities"].values()), p, atol=1e-5)
  answer = client.post("/predict", json=[[1, 3], [0, 4]])
  detail = answer.json()["detail"]
  assert answer.status_code == 422 and "\n" not in detail
  assert detail.startswith("the net refuses the inputs: ") and "idx=4" in detail


def test_a_batch_that_the_net_cannot_take_is_one_line(client_of, tmp_path):
  client = client_of.of_file(of_ids(tmp_path, batch=1))
  assert client.post("/predict", json=[[1, 3]]).status_code == 200
  answer = client.post("/predict", json=[[1, 3], [0, 2]])
  assert answer.status_code == 422
  assert answer.json()["detail"].startswith("the net refuses the inputs: ")


@pytest.mark.parametrize(("value", "says"), [
    ("NaN", "numbers that float32 does not hold"), ("-Infinity", "does not hold"),
    ("1e400", "does not hold"), ("1e39", "does not hold"),
    # The sum is more than float32 holds, and the softmax of infinity is no number.
    ("3e38", "has no finite answer to the inputs"), ("null", "other values")])
def test_numbers_that_are_not_finite_are_refused(client_of, value, says):
  answer = client_of((12,), "float32").post(
      "/predict", headers=LIST, content=f"[{', '.join([value] * 12)}]")
  assert answer.status_code == 422 and says in answer.json()["detail"]


def test_requests_at_once_are_answered_each_its_own(client_of):
  client, inputs = client_of(), pixels(24)
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    answers = pool.map(
        lambda each: client.post("/predict", json=each.tolist()), inputs)
    for answer, each in zip(answers, inputs, strict=True):
      check(answer, each[None] / 255)


LIST = {"content-type": "application/json"}
FORM = {"content-type": "multipart/form-data; boundary=a"}
FIELD = b'--a\r\nContent-Disposition: form-data; name="q"\r\n\r\nx\r\n--a--\r\n'


def wrong_bodies():
  """Requests that are refused: headers, body, status and words."""
  nested = pixels(1).tolist()
  with_value = lambda value: json.dumps(
      [[[[value]] + [[0]] * 2] + [[[0]] * 3] * 3]).encode()
  return {
      "no body": ({}, b"", 415, "send image files as multipart/form-data"),
      "text": ({"content-type": "text/plain"}, b"x", 415, "application/json"),
      "no JSON": (LIST, b"{", 422, "is no JSON list"),
      "not UTF-8": (LIST, b'["\xff"]', 422, "is no JSON list"),
      "ragged": (LIST, b"[[1], [2, 3]]", 422, "is no JSON list"),
      "deep": (LIST, b"[" * 100_000, 422, "is no JSON list"),
      "a number": (LIST, b"3", 422, "have shape []"),
      "a dict": (LIST, b'{"a": 1}', 422, "have shape []"),
      "null": (LIST, b"null", 422, "have shape []"),
      "none": (LIST, b"[]", 422, "have shape [0]"),
      "another shape": (LIST, json.dumps(nested[0][0]).encode(), 422,
                        "have shape [3, 1], and the net takes ['N', 4, 3, 1]"),
      "halves": (LIST, with_value(0.5), 422, "the net takes uint8"),
      "text in a list": (LIST, with_value("a"), 422, "the net takes uint8"),
      "bools": (LIST, json.dumps([[[[True]] * 3] * 4]).encode(), 422, "uint8"),
      "256": (LIST, with_value(256), 422, "numbers that uint8 does not hold"),
      "-1": (LIST, with_value(-1), 422, "numbers that uint8 does not hold"),
      "huge": (LIST, with_value(10**30), 422, "the net takes uint8"),
      "65": (LIST, json.dumps(nested * 65).encode(), 422, "send 1 to 64"),
      "no boundary": (
          {"content-type": "multipart/form-data"}, b"x", 400, "oundary"),
      "no form": (FORM, b"x", 400, ""),
      "no file": (FORM, FIELD, 422, "no image file in the form"),
      "a strange charset": (
          {"content-type": "multipart/form-data; boundary=a; charset=zzz"}, FIELD,
          422, "")}


@pytest.mark.parametrize("kind", wrong_bodies())
def test_a_wrong_request_is_refused_in_a_line(client_of, kind):
  headers, body, status, says = wrong_bodies()[kind]
  answer = client_of().post("/predict", headers=headers, content=body)
  assert answer.status_code == status
  detail = answer.json()["detail"]
  assert says in detail and "\n" not in detail and len(detail) <= 300


@pytest.mark.parametrize(("charset", "name"), [
    # Two encodings whose texts UTF-8 has no bytes for, which the answer is in.
    ("utf-7", b"+2AA-.png"), ("unicode_escape", b"\\ud800.png"),
    ("utf-8", "ä\x85\u2028\x1b[2J.png".encode())])
def test_a_strange_name_is_a_plain_line(client_of, charset, name):
  answer = client_of().post(
      "/predict", content=FIELD.replace(b'"q"', b'"q"; filename="' + name + b'"'),
      headers={"content-type": f"{FORM['content-type']}; charset={charset}"})
  assert answer.status_code == 422
  detail = answer.json()["detail"]
  assert "is no whole image" in detail and detail.isprintable()


@pytest.mark.parametrize("headers", [LIST, FORM])
def test_a_client_that_leaves_is_no_error_of_the_server(client_of, headers):
  body = FIELD[:60] if headers is FORM else b"[1, "
  parts = [{"type": "http.request", "body": body, "more_body": True},
           {"type": "http.disconnect"}]
  sent = []

  async def receive():
    return parts.pop(0)

  async def send(message):
    sent.append(message)

  asyncio.run(client_of().app({
      "type": "http", "method": "POST", "path": "/predict", "query_string": b"",
      "headers": [(key.encode(), value.encode()) for key, value in headers.items()],
  }, receive, send))
  assert sent[0]["status"] == 400
  assert json.loads(sent[1]["body"]) == {"detail": "the body is not whole"}


def test_a_form_that_breaks_the_parser_is_refused(client_of, monkeypatch):
  from starlette import requests  # pylint: disable=g-import-not-at-top
  def form(*_, **__):
    raise LookupError("unknown encoding")
  monkeypatch.setattr(requests.Request, "form", form)
  answer = client_of().post("/predict", headers=FORM, content=FIELD)
  assert answer.status_code == 422
  assert answer.json() == {"detail": "the form cannot be read"}


def wrong_images():
  """Files that are refused."""
  noise = np.random.default_rng(0).integers(0, 256, (4, 3, 3), dtype=np.uint8)
  two = Image.fromarray(pixels()[0, ..., 0])
  frames = io.BytesIO()
  two.save(frames, "GIF", save_all=True,
           append_images=[Image.fromarray(255 - pixels()[0, ..., 0])])
  return {
      "text": (b"no image", "is no whole image of PNG, JPEG"),
      "empty": (b"", "is no whole image"),
      "cut": (image(noise)[:60], "is no whole image"),
      "large": (image(np.zeros((40, 30), np.uint8)), "has 30 x 40 pixels, and the"),
      "lying": (image(np.zeros((3, 4), np.uint8)), "has 4 x 3 pixels"),
      "a bomb": (image(np.zeros((20_000, 20_000), bool)), "a.png: "),
      "frames": (frames.getvalue(), "must have one frame and 8 bits"),
      "48 bits": (png_of_16_bits(3, 4), "must have one frame and 8 bits"),
      "16 bits": (image(np.full((4, 3), 60_000, np.uint16)), "must have one frame"),
      "another kind": (image(noise, "TIFF"), "is no whole image of PNG")}


@pytest.mark.parametrize("kind", wrong_images())
def test_a_wrong_image_is_refused_in_a_line(client_of, kind):
  content, says = wrong_images()[kind]
  answer = client_of().post("/predict", files=[
      ("file", ("right.png", image(pixels()[0]))), ("file", ("a.png", content))])
  assert answer.status_code == 422
  detail = answer.json()["detail"]
  assert detail.startswith("a.png: ") and says in detail and "\n" not in detail


def test_too_many_files_are_refused(client_of):
  files = [("file", (f"{i}.png", image(pixels()[0]))) for i in range(65)]
  assert client_of().post("/predict", files=files[:64]).status_code == 200
  answer = client_of().post("/predict", files=files)
  assert answer.status_code == 400
  assert "Maximum number of files is 64" in answer.text


@pytest.mark.parametrize("headers", [LIST, FORM])
def test_a_body_that_is_too_large_is_not_read_to_its_end(client_of, headers):
  sent = 0

  def parts():
    nonlocal sent
    start = FIELD.split(b"x")[0].replace(b'name="q"', b'name="q"; filename="q"')
    yield start if headers is FORM else b"["
    for _ in range(50):
      sent += 1_000_000
      yield b"1" * 1_000_000

  answer = client_of().post("/predict", headers=headers, content=parts())
  assert answer.status_code == 413
  assert answer.json() == {"detail": "the body is larger than 10,000,000 bytes"}


def test_other_ways_are_refused(client_of):
  assert client_of().get("/predict").status_code == 405
  assert client_of().get("/nothing").status_code == 404


@pytest.mark.parametrize(("content", "says"), [
    (None, "no such file"), (b"no ONNX", "is no ONNX file with the names")])
def test_a_file_that_is_no_net_is_one_line(content, says, tmp_path):
  if content:
    (tmp_path / "net.onnx").write_bytes(content)
  with pytest.raises(SystemExit, match=says):
    example("serve").app(str(tmp_path / "net.onnx"))


@pytest.mark.parametrize("wrong", [{"shape": (3,)}, {"classes": ["cat", "dog"]}])
def test_a_net_is_what_its_file_says_of_it(wrong, tmp_path):
  with pytest.raises(SystemExit, match="is no ONNX file with the names"):
    example("serve").app(of_ids(tmp_path, **wrong))


@pytest.mark.slow
def test_requests_are_counted(tmp_path):
  file = exported(tmp_path, (4, 3, 1), "uint8")
  done = subprocess.run(
      [sys.executable, str(ROOT / "examples/load_test.py"), str(file),
       "--seconds=1", "--clients=2", "--inputs=3"], capture_output=True, text=True,
      check=False, timeout=120)
  assert done.returncode == 0, done.stderr
  number, = (float(word.replace(",", "")) for word in done.stdout.split()[:1])
  assert number > 0 and "of 3 inputs from 2 clients; latency" in done.stdout
