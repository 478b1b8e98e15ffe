"""The page on which nets are tried by hand, and what it does in a real browser.

KD_JAX_WEB is the folder in which `npm install onnxruntime-web` has run, or the
package itself. Without it, or without Chromium, nothing is tried in a browser.
"""

import base64
import functools
import gzip
import hashlib
import http.server
import io
import json
import os
import pathlib
import re
import threading

from conftest import ROOT
import numpy as np
from PIL import Image
import pytest
from test_page import chromium, find, wait  # noqa: F401

from kd_jax.data import embedded
from kd_jax.errors import UserError
from kd_jax.export import page as page_lib

EVIL = "</script><b>evil</b>"
DIGITS = tuple("0123456789")
NET = """
<ir_version: 10, opset_import: ["": 21]>
net (uint8[B,{shape}] inputs)
    => (float[B,{classes}] logits, float[B,{classes}] probabilities) {{
  pixels = Cast<to = 1>(inputs)
  flat = Flatten(pixels)
  logits = Gemm(flat, weights, bias)
  probabilities = Softmax(logits)
}}
"""


def linear(weights, bias, shape) -> bytes:
  """A linear net as ONNX; `weights` are of pixels from 0 to 255."""
  onnx = pytest.importorskip("onnx", reason="needs pip install onnx")
  net = onnx.parser.parse_model(NET.format(
      shape=",".join(map(str, shape)), classes=len(bias)))
  for name, values in (("weights", weights), ("bias", bias)):
    net.graph.initializer.append(
        onnx.numpy_helper.from_array(np.asarray(values, np.float32), name))
  return net.SerializeToString()


@functools.cache
def digit_nets() -> list[page_lib.Shown]:
  """Two that know digits: least squares, and the nearest mean of a class."""
  pixels, labels = embedded.load()[:2]
  flat = pixels.reshape(len(pixels), -1).astype(np.float64)
  wanted = np.eye(10)[labels]
  # Ten times the classes in the least squares, so that T = 1 is sure of something.
  ones = np.hstack([flat, np.full((len(flat), 1), 255.0)])
  solved = np.linalg.solve(
      ones.T @ ones + 1e7 * np.eye(785), ones.T @ (10 * wanted))
  means = wanted.T @ flat / wanted.sum(axis=0)[:, None]
  scale = 1e-5
  shape = (28, 28, 1)
  make = lambda name, model: page_lib.Shown(
      name, model, DIGITS, shape, {"test errors": "87 of 10,000", "size": "9 kB"})
  return [
      make("teacher", linear(solved[:-1], 255 * solved[-1], shape)),
      make("student", linear(
          scale * means.T, -scale / 2 * (means ** 2).sum(axis=1), shape))]


@functools.cache
def runtime() -> page_lib.Runtime:
  folder = os.environ.get("KD_JAX_WEB")
  if not folder:
    pytest.skip("needs KD_JAX_WEB=DIR, where npm install onnxruntime-web has run")
  return page_lib.runtime(pathlib.Path(folder))


def fake(name="net", classes=DIGITS, shape=(28, 28, 1), model=b"onnx", **facts):
  return page_lib.Shown(name, model, classes, shape, facts)


def stored(text: str) -> dict:
  """The data in a page."""
  return json.loads(re.search(
      r'<script type="application/json" id="data">(.*?)</script>', text)[1])


def unpacked(text: str) -> bytes:
  return gzip.decompress(base64.b64decode(text))


# Without a browser.


def test_a_page_holds_all_that_runs():
  web = page_lib.Runtime("1.2.3", b"export const x = 1;", b"\0asm")
  examples = np.arange(25 * 784, dtype=np.uint32).astype(np.uint8)
  text = page_lib.page(
      [fake("a", model=b"first", size="9 kB"), fake("b", model=b"second")], web,
      examples.reshape(25, 28, 28, 1), np.arange(25) % 10)
  data = stored(text)
  assert [(net["name"], unpacked(net["model"])) for net in data["nets"]] == [
      ("a", b"first"), ("b", b"second")]
  assert data["nets"][0]["facts"] == {"size": "9 kB"}
  assert [unpacked(part["packed"]) for part in data["runtime"]] == [*web[1:]]
  assert (data["classes"], data["shape"]) == ([*DIGITS], [28, 28, 1])
  assert unpacked(data["examples"]["pixels"]) == examples[:20 * 784].tobytes()
  assert data["examples"]["labels"] == [*range(10)] * 2
  assert "connect-src 'none'" in text and "1.2.3" in text
  for start in ("http:", "https:", "src=", "href=", "url(", "@import", " onclick"):
    assert start not in text
  assert page_lib.page([fake()], web) == page_lib.page([fake()], web)


def test_a_page_without_the_runtime_says_that_it_needs_a_network():
  text = page_lib.page([fake()], None)
  warning = re.search(r'<p class="warn">(.*?)</p>', text)[1]
  assert "needs a network" in warning and page_lib.VERSION in warning
  assert "connect-src https://cdn.jsdelivr.net;" in text
  for part, name in zip(stored(text)["runtime"], page_lib.FILES):
    assert part["url"] == (
        "https://cdn.jsdelivr.net/npm/onnxruntime-web@"
        f"{page_lib.VERSION}/dist/{name}")
    assert part["integrity"].startswith("sha384-")


def test_the_runtime_of_the_network_is_that_of_the_package():
  web = runtime()
  if web.version != page_lib.VERSION:
    pytest.skip(f"needs npm install onnxruntime-web@{page_lib.VERSION}")
  assert [base64.b64encode(hashlib.sha384(part).digest()).decode()
          for part in web[1:]] == [*page_lib.FILES.values()]


def test_the_documents_name_the_runtime_of_the_page():
  for name in ("docs/export.md", "CONTRIBUTING.md"):
    assert f"onnxruntime-web@{page_lib.VERSION}`" in (ROOT / name).read_text()


def test_a_page_of_digits_has_less_than_6_mb():
  assert len(page_lib.page(digit_nets(), runtime())) < 6e6


def test_no_name_ends_the_data():
  classes = (EVIL, "<!--", "]]>")
  net = fake(EVIL, classes, **{EVIL: EVIL})
  text = page_lib.page([net], None, title=EVIL)
  assert text.count("</script") == 2 and EVIL not in text and "<!" not in text[20:]
  data = stored(text)
  assert tuple(data["classes"]) == classes and data["nets"][0]["name"] == EVIL
  assert data["nets"][0]["facts"] == {EVIL: EVIL}


@pytest.mark.parametrize("given", [
    "", "onnxruntime-web", "onnxruntime-web/dist", "node_modules"])
def test_a_runtime_is_found_wherever_npm_has_put_it(tmp_path, given):
  folder = tmp_path / given
  for base in ({"": "node_modules/onnxruntime-web/dist", "onnxruntime-web": "dist",
                "onnxruntime-web/dist": "", "node_modules": "onnxruntime-web/dist"}
               [given],):
    (folder / base).mkdir(parents=True)
    for name in page_lib.FILES:
      (folder / base / name).write_text(f"/*!\n * ONNX Runtime Web v9.8.7\n{name}")
  found = page_lib.runtime(folder)
  assert found.version == "9.8.7" and found.wasm.endswith(b".wasm")
  assert found.script.endswith(b".mjs")


def test_a_missing_runtime_is_one_line_that_fetches_it(tmp_path):
  with pytest.raises(UserError) as error:
    page_lib.runtime(tmp_path)
  message = str(error.value)
  assert "\n" not in message and str(tmp_path) in message
  assert f"npm install onnxruntime-web@{page_lib.VERSION}" in message


@pytest.mark.parametrize(("other", "what"), [
    ({"classes": ("a",)}, "classes"), ({"shape": (28, 28, 3)}, "images"),
    ({"shape": (8, 8, 1)}, "images")])
def test_nets_of_other_images_do_not_share_a_page(other, what):
  with pytest.raises(ValueError, match=what):
    page_lib.page([fake(), fake(**other)], None)


def test_pictures_have_one_channel_or_three():
  with pytest.raises(ValueError, match="2 channels"):
    page_lib.page([fake(shape=(8, 8, 2))], None)


@pytest.mark.parametrize(("channels", "border", "inside", "black"), [
    (1, 0, 255, True), (1, 255, 0, False), (3, 0, 255, False)])
def test_the_ground_of_grey_examples_is_black_or_not(
    channels, border, inside, black):
  examples = np.full((3, 8, 8, channels), border, np.uint8)
  examples[:, 2:6, 2:6] = inside
  net = fake(shape=(8, 8, channels))
  on_black = lambda *shown: stored(page_lib.page([net], None, *shown))["on_black"]
  assert on_black(examples, [0, 1, 2]) is black
  assert on_black() is (channels == 1)


# In a browser.


def opened(browser, path, *, ready=True):
  """A page whose nets are there."""
  for kind in ("browser", "performance"):
    browser.get_log(kind)
  browser.get(path.as_uri())
  wait(browser, lambda: not status(browser).startswith("Loading"))
  if ready:
    assert status(browser) == ""
  return browser


def status(page) -> str:
  return find(page, "#status")[0].text


@pytest.fixture(scope="module")
def examples():
  return tuple(part[::97][:8] for part in embedded.load()[2:])


@pytest.fixture(scope="module")
def files(tmp_path_factory, examples) -> pathlib.Path:
  """Pages of digits, of 100 classes in colour, and of hostile names."""
  folder = tmp_path_factory.mktemp("pages")
  draw = np.random.default_rng(0)
  shape = (8, 8, 3)
  colour = [
      fake(name, tuple(f"class {n}" for n in range(100)), shape,
           linear(draw.normal(size=(192, 100)) / 400, np.zeros(100), shape))
      for name in ("teacher", "student")]
  hostile = fake(EVIL, (EVIL, "<img src=x onerror=alert(1)>"), (28, 28, 1), linear(
      np.zeros((784, 2)), [1, 0], (28, 28, 1)), **{EVIL: EVIL})
  for name, nets, shown in (
      ("digits", digit_nets(), examples), ("colour", colour, ()),
      ("hostile", [hostile], (examples[0][:1], [0]))):
    (folder / f"{name}.html").write_text(
        page_lib.page(nets, runtime(), *shown), encoding="utf-8")
  return folder


@pytest.fixture
def page(chromium, files):  # noqa: F811
  """The page of digits, newly opened."""
  return opened(chromium, files / "digits.html")


def pixels(page, name="seen", channels=1) -> np.ndarray:
  """What is on a canvas, uint8 `[H, W, C]`."""
  width, height, values = page.execute_script("""
      const canvas = document.getElementById(arguments[0]);
      const {width, height} = canvas;
      const image = canvas.getContext("2d").getImageData(0, 0, width, height);
      return [width, height, [...image.data]];""", name)
  return np.array(values, np.uint8).reshape(height, width, 4)[..., :channels]


def bars(page) -> np.ndarray:
  """The probabilities of each net, `[nets, rows]`."""
  value = lambda row: float(row.get_attribute("data-value"))
  return np.array([[value(row) for row in find(net, ".bars li")]
                   for net in find(page, ".net")])


def answers(page) -> list[str]:
  return [each.text for each in find(page, ".class")]


def outputs(images, nets=None):
  """Logits and probabilities of each net, by ONNX Runtime for Python."""
  ort = pytest.importorskip("onnxruntime", reason="needs pip install onnxruntime")
  return np.swapaxes([
      ort.InferenceSession(net.model, providers=["CPUExecutionProvider"]).run(
          ["logits", "probabilities"], {"inputs": images})
      for net in nets or digit_nets()], 0, 1)


def softmax(logits, temperature):
  parts = np.exp((logits - logits.max(-1, keepdims=True)) / temperature)
  return parts / parts.sum(-1, keepdims=True)


def draw(page, *strokes):
  """Draws lines through points of the canvas, by a mouse."""
  from selenium.webdriver import ActionChains
  (canvas,) = find(page, "#drawing")
  page.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
  for points in strokes:
    hand = ActionChains(page, duration=10)
    for number, (x, y) in enumerate(points):
      hand.move_to_element_with_offset(canvas, x - 140, y - 140)
      if not number:
        hand.click_and_hold()
    hand.release().perform()
  wait(page, lambda: "–" not in answers(page))
  settled(page)


def settled(page):
  """Waits until the nets are done with what they were given."""
  page.execute_async_script(
      "setTimeout(() => requestAnimationFrame(arguments[0]), 150)")


def at(page, value):
  """Moves the slider of T; 100 log10(T) is its value."""
  page.execute_script("""
      const slider = document.getElementById("temperature");
      slider.value = arguments[0];
      slider.dispatchEvent(new Event("input"));""", value)


def averaged(image, left, top, step, size):
  """Means over squares of `step` pixels, by integrals: [H, W] to [size, size]."""
  for start in (top, left):
    sums = np.vstack([np.zeros((1, image.shape[1])), np.cumsum(image, axis=0)])
    edges = start + step * np.arange(size + 1)
    # Interpolated, the integral is exact: pixels are constant. Outside is nothing.
    whole = np.array([np.interp(edges, np.arange(len(sums)), column)
                      for column in sums.T]).T
    image = (np.diff(whole, axis=0) / step).T
  return image


def as_mnist(ink):
  """A drawing as MNIST's digits are: 20 pixels long, its mass at pixel 14."""
  rows, columns = (np.flatnonzero(ink.any(axis=axis)) for axis in (1, 0))
  spans = [(columns[0], columns[-1] + 1), (rows[0], rows[-1] + 1)]
  step = max(last - first for first, last in spans) / 20
  mass = [(ink.sum(axis=axis) * (np.arange(280) + 0.5)).sum() / ink.sum()
          for axis in (0, 1)]
  left, top = (min(first, max(last - 28 * step, centre - 14.5 * step))
               for centre, (first, last) in zip(mass, spans))
  return averaged(ink, left, top, step, 28)


RING = [(140 + 60 * np.sin(angle), 140 - 90 * np.cos(angle))
        for angle in np.linspace(0, 2 * np.pi, 12)]


@pytest.mark.pictures
@pytest.mark.parametrize(("digit", "strokes"), [
    ("0", [RING]), ("1", [[(150, 40), (140, 240)]]),
    # Heavy above: with its mass in the middle the foot would be cut off.
    ("7", [[(80, 40), (190, 40)], [(80, 60), (200, 60), (150, 250)]]),
    ("4", [[(80, 60), (75, 140), (190, 140)], [(180, 50), (170, 240)]])])
def test_a_drawn_digit_is_seen_as_mnists_own(page, digit, strokes):
  draw(page, *strokes)
  assert answers(page) == [digit, digit]
  seen = pixels(page)
  wanted = as_mnist(pixels(page, "drawing")[..., 0].astype(np.float64))
  assert np.abs(seen[..., 0] - wanted).max() <= 0.5 + 1e-6
  # Twenty pixels long, and as bright as ink.
  assert 20 <= max(np.ptp(np.flatnonzero(seen.any(axis=axis))) + 1
                   for axis in ((1, 2), (0, 2))) <= 21
  assert seen.max() == 255
  np.testing.assert_allclose(
      bars(page), outputs(seen[None])[1][:, 0], rtol=0, atol=1e-4)


@pytest.mark.pictures
def test_a_stroke_ends_beside_the_drawing_too(page):
  from selenium.webdriver import ActionChains
  draw(page, [(140, 40), (140, 200), (300, 200)])
  (canvas,) = find(page, "#drawing")
  ActionChains(page).move_to_element_with_offset(canvas, -100, -100).perform()
  settled(page)
  ink = pixels(page, "drawing")[..., 0]
  assert ink[200, 145:].all() and not ink[:, :125].any()


@pytest.mark.pictures
def test_the_slider_is_the_temperature(page, examples):
  find(page, "#examples button")[3].click()
  settled(page)
  logits = outputs(examples[0][3:4])[0][:, 0]
  for value, T in ((-30, 0.5), (0, 1), (60, 4), (130, 20)):
    at(page, value)
    assert float(find(page, "#T")[0].text) == T
    np.testing.assert_allclose(bars(page), softmax(logits, T), rtol=0, atol=1e-5)
    widths = [bar.get_attribute("style") for bar in find(page, ".track span")]
    np.testing.assert_allclose(
        [float(re.search(r"[\d.e-]+", width)[0]) / 100 for width in widths],
        softmax(logits, T).ravel(), atol=1e-4)
  (slider,) = find(page, "#temperature")
  assert [slider.get_attribute(name) for name in ("min", "max")] == ["-30", "130"]
  slider.send_keys("\ue012")  # The left arrow.
  assert slider.get_attribute("aria-valuetext") == "T = 19"


@pytest.mark.pictures
def test_nothing_is_loaded_and_nothing_complains(page):
  draw(page, [(70, 60), (200, 60), (130, 240)])
  assert page.get_log("browser") == []
  events = [json.loads(each["message"])["message"]
            for each in page.get_log("performance")]
  asked = [each["params"]["request"]["url"] for each in events
           if each["method"] == "Network.requestWillBeSent"]
  # The runtime comes out of the page itself.
  assert asked[0] == page.current_url and len(asked) == 2
  assert asked[1].startswith("blob:null/")
  refused = page.execute_async_script("""
      addEventListener("securitypolicyviolation",
                       (e) => arguments[0](e.effectiveDirective));
      fetch("https://example.org/").catch(() => 0);""")
  assert refused == "connect-src"


@pytest.mark.pictures
def test_hostile_names_are_shown_as_text(chromium, files):  # noqa: F811
  page = opened(chromium, files / "hostile.html")
  find(page, "#examples button")[0].click()
  settled(page)
  assert answers(page) == [EVIL]
  assert [each.text for each in find(page, "h2, dt, dd")[:3]] == [EVIL] * 3
  assert find(page, "b") == find(page, "img") == []
  assert status(page) == f"Test image 1; its label is {EVIL}"
  drop(page, ("<b>x</b>.png", png(np.zeros((28, 28), np.uint8))))
  assert status(page).startswith("<b>x</b>.png") and find(page, "b") == []
  assert page.get_log("browser") == []


def png(image) -> bytes:
  out = io.BytesIO()
  Image.fromarray(image).save(out, "png")
  return out.getvalue()


def drop(page, *files):
  """Drops files onto the page."""
  page.execute_script("""
      const transfer = new DataTransfer();
      for (const [name, text] of arguments[0]) {
        const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
        transfer.items.add(new File([bytes], name));
      }
      const event = new DragEvent(
        "drop", {dataTransfer: transfer, bubbles: true, cancelable: true});
      document.body.dispatchEvent(event);
      if (!event.defaultPrevented) throw "the browser would open the file";""",
      [(name, base64.b64encode(data).decode()) for name, data in files])
  settled(page)


@pytest.mark.pictures
def test_a_dropped_image_is_seen_pixel_by_pixel(page, examples):
  image = examples[0][5]
  drop(page, ("own.png", png(image[..., 0])))
  np.testing.assert_array_equal(pixels(page), image)
  assert status(page) == "own.png"
  np.testing.assert_allclose(
      bars(page), outputs(image[None])[1][:, 0], rtol=0, atol=1e-4)


@pytest.mark.pictures
def test_dark_ink_is_inverted_and_the_page_says_so(page, examples):
  image = examples[0][5]
  drop(page, ("paper.png", png(255 - image[..., 0])))
  np.testing.assert_array_equal(pixels(page), image)
  assert status(page) == "paper.png: inverted, as the nets know light on dark"
  (box,) = find(page, "#inverted input")
  assert box.is_selected()
  box.click()
  settled(page)
  np.testing.assert_array_equal(pixels(page), 255 - image)
  assert status(page) == "paper.png"
  assert "of 1 tried" in find(page, "#agreement")[0].text, "one picture still"


@pytest.mark.pictures
def test_a_tall_image_is_fitted_in_and_a_coloured_one_becomes_grey(page):
  # Red is 0.299 * 255 = 76; 56 x 20 halved is 28 x 10, 9 columns of ground aside.
  image = np.zeros((56, 20, 3), np.uint8)
  image[20:40, 8:12] = (255, 0, 0)
  drop(page, ("tall.png", png(image)))
  wanted = np.zeros((28, 28, 1))
  wanted[10:20, 13:15] = 76
  np.testing.assert_array_equal(pixels(page), wanted)


@pytest.mark.pictures
def test_files_are_chosen_too_and_what_is_no_image_is_named(
    page, examples, tmp_path):
  (field,) = find(page, "#file")
  (tmp_path / "a.png").write_bytes(png(examples[0][1][..., 0]))
  (tmp_path / "b.png").write_bytes(b"no image")
  field.send_keys(str(tmp_path / "a.png"))
  settled(page)
  np.testing.assert_array_equal(pixels(page), examples[0][1])
  field.send_keys(str(tmp_path / "b.png"))
  settled(page)
  assert status(page) == "b.png: this browser can read no picture from it"
  assert page.get_log("browser") == []


@pytest.mark.pictures
def test_agreement_counts_each_picture_once(page, examples):
  buttons = find(page, "#examples button")
  assert len(buttons) == len(examples[0])
  for button in [*buttons, buttons[0]]:
    button.click()
    settled(page)
  best = outputs(examples[0])[0].argmax(-1)
  same = (best[0] == best[1]).sum()
  assert 0 < same < 8, "both kinds are among them"
  text = lambda: find(page, "#agreement")[0].text
  assert text() == f"Agreement: same class on {same} of 8 tried"
  assert answers(page) == [str(each) for each in best[:, 0]]
  assert status(page) == f"Test image 1; its label is {examples[1][0]}"
  pressed = [button.get_attribute("aria-pressed") for button in buttons]
  assert pressed == ["true"] + 7 * ["false"]
  # A drawing of two strokes is one picture, and stays counted when it is wiped.
  draw(page, [(80, 60), (75, 140), (190, 140)], [(180, 50), (170, 240)])
  assert text().endswith("of 9 tried") and find(page, '[aria-pressed="true"]') == []
  find(page, "#clear")[0].click()
  settled(page)
  assert answers(page) == ["–", "–"] and text().endswith("of 9 tried")
  assert not pixels(page).any() and not pixels(page, "drawing").any()
  for each in find(page, ".latency"):
    assert 0 < float(each.text.removesuffix(" ms")) < 1000


@pytest.mark.pictures
def test_facts_of_each_net_stand_beside_it(page):
  for net in find(page, ".net"):
    facts = dict(zip(*([each.text for each in find(net, kind)]
                       for kind in ("dt", "dd"))))
    assert facts.pop("one image here") == "–"
    assert facts == {"test errors": "87 of 10,000", "size": "9 kB"}


@pytest.mark.pictures
def test_keys_draw_too(page):
  from selenium.webdriver import ActionChains, Keys
  hand = ActionChains(page)
  # From the start of the page Tab leads to the drawing first.
  hand.send_keys(Keys.TAB)
  hand.send_keys(5 * Keys.ARROW_LEFT + 9 * Keys.ARROW_UP + 5 * Keys.ARROW_RIGHT)
  hand.key_down(Keys.SHIFT)
  hand.send_keys(18 * Keys.ARROW_DOWN).key_up(Keys.SHIFT).perform()
  settled(page)
  assert page.switch_to.active_element.get_attribute("id") == "drawing"
  ink = pixels(page, "drawing")[..., 0]
  assert ink[50:230, 140].all() and not ink[:, :125].any() and not ink[:35].any()
  assert answers(page) == ["1", "1"]


@pytest.mark.pictures
def test_all_that_can_be_used_has_a_name(page):
  used = page.execute_script("""
      return [...document.querySelectorAll("button, input, canvas[tabindex]")].map(
        (e) => [e.ariaLabel || e.labels?.[0]?.textContent || e.textContent,
                e.tabIndex]);""")
  assert len(used) == 5 + 8
  assert all(name.strip() and index == 0 for name, index in used)


@pytest.mark.pictures
def test_a_finger_draws_on_a_narrow_screen_that_does_not_scroll(page):
  page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
      "width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": True})
  page.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
  try:
    whole, seen = page.execute_script(
        "return [document.documentElement.scrollWidth, innerWidth]")
    assert whole <= seen == 400
    first, second = (net.rect for net in find(page, ".net"))
    assert first["y"] == second["y"] and first["x"] < second["x"], "side by side"
    shown = [button.rect for button in find(page, "#examples button")]
    assert {each["y"] for each in shown} == {shown[0]["y"]}, "one row"
    assert shown[0]["y"] < first["y"], "the answers stay below what is touched"
    heights = {fact.rect["height"] for fact in find(page, "dd")}
    assert len(heights) == 1 and max(heights) < 30, "no number is broken"
    box = find(page, "#drawing")[0].rect
    touch = lambda kind, *points: page.execute_cdp_cmd(
        "Input.dispatchTouchEvent", {"type": kind, "touchPoints": [
            {"x": box["x"] + x, "y": box["y"] + y} for x, y in points]})
    touch("touchStart", (140, 230))
    for y in range(220, 40, -20):
      touch("touchMove", (140, y))
    touch("touchEnd")
    settled(page)
    assert answers(page) == ["1", "1"]
    assert page.execute_script("return scrollY") == 0
  finally:
    page.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.pictures
def test_colour_images_are_cropped_and_the_likeliest_classes_shown(
    chromium, files):  # noqa: F811
  page = opened(chromium, files / "colour.html")
  assert not find(page, "#drawing")[0].is_displayed()
  image = np.random.default_rng(1).integers(0, 256, (8, 16, 3), np.uint8)
  image[0] = 255  # Light at the border, which is no reason to invert a scene.
  drop(page, ("scene.png", png(image)))
  seen = pixels(page, channels=3)
  np.testing.assert_array_equal(seen, image[:, 4:12])
  assert status(page) == "scene.png"
  nets = stored((files / "colour.html").read_text())["nets"]
  models = [fake(model=unpacked(net["model"])) for net in nets]
  given = outputs(seen[None], models)[1][:, 0]
  order = np.argsort(-given.max(axis=0))[:10]
  for net, probabilities, shown in zip(find(page, ".net"), given, bars(page)):
    assert [each.text for each in find(net, ".label")] == [
        f"class {n}" for n in order]
    np.testing.assert_allclose(shown, probabilities[order], rtol=0, atol=1e-4)
    assert "10 of 100 classes" in net.text
  assert answers(page) == [f"class {n}" for n in given.argmax(axis=-1)]


@pytest.mark.pictures
@pytest.mark.parametrize("whole", [True, False])
def test_a_runtime_of_the_network_runs_only_if_it_is_the_known_one(
    chromium, tmp_path, whole):  # noqa: F811
  web = runtime()
  if web.version != page_lib.VERSION:
    pytest.skip(f"needs npm install onnxruntime-web@{page_lib.VERSION}")
  files = dict(zip(page_lib.FILES, web[1:]))

  class Handler(http.server.BaseHTTPRequestHandler):
    """The package, as the network gives it."""

    def do_GET(self):  # pylint: disable=invalid-name
      self.send_response(200)
      self.send_header("Access-Control-Allow-Origin", "*")
      self.end_headers()
      name = self.path.split("/")[-1]
      # A script with an empty line more would run as well.
      more = b"" if whole or name.endswith(".wasm") else b"\n"
      self.wfile.write(files[name] + more)

    def log_message(self, *_):
      pass

  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    here = f"http://127.0.0.1:{server.server_port}"
    path = tmp_path / "page.html"
    path.write_text(page_lib.page(digit_nets(), None).replace(
        "https://cdn.jsdelivr.net", here), encoding="utf-8")
    page = opened(chromium, path, ready=whole)
    if whole:
      draw(page, [(150, 40), (140, 240)])
      assert answers(page) == ["1", "1"]
    else:
      assert status(page).startswith("The nets do not run here: ")
      assert status(page).endswith("Is there a network?")
      assert not find(page, "#parts")[0].is_displayed()
    chromium.get("about:blank")
    server.shutdown()
