"""`report.html` in a real browser, from a file, without a network."""

import json
import pathlib
import re
import shutil

import pytest
from test_report import row, sweep_rows, teacher_json

from kd_jax import report

pytestmark = pytest.mark.pictures

ALERT = "<script>alert(1)</script>"
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
  """A study with a hostile row; `report.html` is written."""
  folder = tmp_path_factory.mktemp("study")
  rows = sweep_rows()
  rows[0] |= {"command": f"python {ALERT}", "loss": ALERT, "device": ALERT}
  rows.append(row(
      5, over={"alpha": 0.9, "student.widths": [5, 5], "data.name": ALERT},
      study=f'toy"</title>{ALERT}'))
  text = "".join(json.dumps(r) + "\n" for r in rows)
  (folder / "results.jsonl").write_text(text)
  (folder / "teacher.json").write_text(json.dumps(teacher_json()))
  (folder / "config.json").write_text(json.dumps({f"data.{ALERT}": ALERT}))
  (folder / "manifest.json").write_text(
      json.dumps({"versions": {"jax": "0.10.1"}, "command": "python -m x"}))
  report.write(folder, reference={"alpha": 0})
  return folder


@pytest.fixture(scope="module")
def full(tmp_path_factory) -> pathlib.Path:
  """A study that has every column and every picture, with long names."""
  folder = tmp_path_factory.mktemp("full")
  rows = []
  for alpha in (0.0, 0.5, 0.9):
    for t in (1.0, 4.0):
      for method in ("kd", "correlation"):
        for seed, errors in enumerate((0, 4, 8 + int(10 * alpha))):
          curve = [0.5, 0.3, 0.2]
          rows.append(row(
              errors, seed, over={
                  "alpha": alpha, "temperature": t, "method": method,
                  "optimizer.learning_rate": 0.001 * len(method),
                  "label_smoothing": 0.01 * len(method),
                  "epochs": 15 + len(method)},
              heldout_errors=errors, heldout_examples=600,
              heldout_curve=[30, 21, errors],
              curve={name: curve for name in (
                  "train_hard", "train_soft", "share_hard", "share_soft",
                  "cka_block_2.convolution_1")},
              test_bins={"count": [90, 90], "confidence": [40.0, 80.0],
                         "correct": [50, 81]}))
  taps = ["block_1.convolution_1", "block_2.convolution_1", "pooled"]
  table = {tap: dict.fromkeys(taps, 0.4) for tap in taps}
  image = [[0, 255], [128, 0]]
  maps = dict.fromkeys(taps[:2], image)
  example = {"label": 1, "image": image, "student": maps, "teacher": maps}
  (folder / "inspected.json").write_text(json.dumps({"distilled": {
      "cka": {"before": table, "after": table}, "examples": [example]}}))
  (folder / "results.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
  (folder / "teacher.json").write_text(json.dumps(teacher_json()))
  pictures = {path.stem for path in report.write(folder, reference={"alpha": 0})
              if path.suffix == ".png"}
  assert len(pictures) == 9
  return folder


@pytest.fixture(scope="module")
def chromium():
  """A headless Chromium."""
  webdriver = pytest.importorskip(
      "selenium.webdriver", reason="needs pip install selenium")
  if not (BROWSER and DRIVER):
    pytest.skip("needs a browser: apt-get install chromium chromium-driver")
  options = webdriver.ChromeOptions()
  for flag in ("--headless=new", "--no-sandbox", "--disable-gpu",
               "--disable-dev-shm-usage", "--window-size=1200,900"):
    options.add_argument(flag)
  options.binary_location = BROWSER
  options.set_capability(
      "goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
  # By its path, or selenium would look for a driver on the network.
  service = webdriver.ChromeService(DRIVER)
  driver = webdriver.Chrome(options=options, service=service)
  try:
    yield driver
  finally:
    driver.quit()
    # The pool of the connection to the driver stays open otherwise.
    driver.command_executor.close()


@pytest.fixture
def page(chromium, folder):
  """The page, newly opened, logs emptied before."""
  for kind in ("browser", "performance"):
    chromium.get_log(kind)
  chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
  chromium.get((folder / "report.html").as_uri())
  return chromium


@pytest.fixture
def opened(chromium, full):
  """Opens the page of `full` on a screen of some width, in a scheme of colours."""
  def at(width, scheme="light", media=""):
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {
        "media": media,
        "features": [{"name": "prefers-color-scheme", "value": scheme}]})
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
        "width": width, "height": 900, "deviceScaleFactor": 1,
        "mobile": width < 600})
    chromium.get((full / "report.html").as_uri())
    return chromium
  yield at
  chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def find(page, css):
  return page.find_elements("css selector", css)


def column(page, title):
  """The texts of a column of the table of points."""
  titles = [b.text for b in find(page, "#table th button")]
  at = titles.index(title) + 1
  return [cell.text for cell in find(page, f"#table td:nth-child({at})")]


def header(page, title):
  return next(b for b in find(page, "#table th button") if b.text == title)


def test_nothing_is_loaded_and_nothing_complains(page):
  # Longer than any late request of the page itself.
  page.execute_async_script("setTimeout(arguments[0], 300)")
  assert page.get_log("browser") == []
  events = [json.loads(e["message"])["message"] for e in
            page.get_log("performance")]
  asked = [e["params"]["request"]["url"] for e in events
           if e["method"] == "Network.requestWillBeSent"]
  assert [url for url in asked if not url.startswith("data:")] == [
      page.current_url]
  pictures = page.execute_script("""
      return [...document.querySelectorAll("figure svg")].map(
          (i) => [i.clientWidth, i.getAttribute("aria-label").length])""")
  assert len(pictures) == 5 and all(w > 100 and a > 9 for w, a in pictures)


def test_the_policy_forbids_the_network(page):
  told = page.execute_async_script("""
      const done = arguments[0];
      document.addEventListener("securitypolicyviolation",
                                (e) => done(e.effectiveDirective));
      fetch("https://example.org/").catch(() => 0);
      setTimeout(() => done("nothing"), 3000);""")
  assert told == "connect-src"


def test_a_header_sorts_numbers_up_and_down(page):
  button = header(page, "T")
  button.click()
  cell = button.find_element("xpath", "..")
  assert cell.get_attribute("aria-sort") == "ascending"
  up = ["1", "1", "4", "4", "20", "20"]
  assert column(page, "T") == [*up, "-", "-", "-"], "what is missing is last"
  button.click()
  assert cell.get_attribute("aria-sort") == "descending"
  assert column(page, "T") == [*up[::-1], "-", "-", "-"]
  header(page, "point").click()
  assert cell.get_attribute("aria-sort") is None
  assert len(find(page, "#table th[aria-sort]")) == 1


def test_differences_sort_by_number_whatever_their_sign_looks_like(page):
  header(page, "difference").click()
  shown = [float(text.split()[0].replace("−", "-"))
           for text in column(page, "difference")
           if text not in ("", "reference")]
  # 30 wide: 302.7 - 356 for T = 1 (301, 302, 306: 303), 306, 322; 800 alike.
  assert shown == [-53, -53, -50, -50, -34, -34]


def test_a_key_sorts_too(page):
  button = header(page, "test errors")
  page.execute_script("arguments[0].focus()", button)
  page.switch_to.active_element.send_keys("\n")
  found = [float(text.split()[0]) for text in column(page, "test errors")]
  assert found == sorted(found) and found[0] == 5
  # T = 4 of the wide net: 84, 88, 86.
  assert "86.0 ± 5.0" in column(page, "test errors")


def test_a_point_tells_its_values(page):
  from selenium.webdriver import ActionChains
  from selenium.webdriver.support.ui import WebDriverWait
  wait = WebDriverWait(page, 20).until
  mark = find(
      page, '.point[aria-label^="widths 30x30, alpha 0.9, T 4;"] .mark')[0]
  page.execute_script("arguments[0].scrollIntoView({block: 'center'})", mark)
  (tip,) = find(page, "#tip")
  assert not tip.is_displayed()
  ActionChains(page).move_to_element(mark).perform()
  wait(lambda _: tip.is_displayed())
  # Pairs: -46, -48, -56; mean -50, sd 5.29, s.e. 3.06, half 13.1.
  assert tip.text.split("\n") == [
      "widths 30x30, alpha 0.9, T 4", "306.0 ± 5.0 test errors", "n 3",
      "−50.0 [−63.1, −36.9] against widths 30x30, alpha 0"]
  ActionChains(page).move_by_offset(0, 150).perform()
  wait(lambda _: not tip.is_displayed())
  # And without a mouse.
  page.execute_script("arguments[0].parentNode.focus()", mark)
  wait(lambda _: tip.is_displayed())
  assert "306.0 ± 5.0" in tip.text


# Of what is drawn: its colour on the screen, also of a mix, as a canvas has it.
_PAINTED = """
    const pen = document.createElement("canvas").getContext("2d");
    const seen = (colour) => {
      pen.clearRect(0, 0, 1, 1);
      pen.fillStyle = colour;
      pen.fillRect(0, 0, 1, 1);
      return [...pen.getImageData(0, 0, 1, 1).data];
    };
    const of = (css, key) => [...document.querySelectorAll(css)].map(
        (one) => getComputedStyle(one)[key]).filter((one) => one !== "none");
"""


def luminance(colour) -> float:
  """Relative luminance, WCAG 2."""
  linear = [value / 255 / 12.92 if value <= 10 else ((value / 255 + 0.055) / 1.055)
            ** 2.4 for value in colour[:3]]
  return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a, b) -> float:
  """WCAG 2: of black and white 21."""
  low, high = sorted((luminance(a), luminance(b)))
  return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(("scheme", "media", "white"), [
    ("light", "", True), ("dark", "", False), ("dark", "print", True)])
def test_pictures_have_the_ground_of_the_page(opened, scheme, media, white):
  page = opened(1280, scheme, media)
  ground, grounds, texts, lines = page.execute_script(_PAINTED + """
      // Text on cells and images has a ground of its own.
      const plain = "svg text:not([style*='#'])";
      return [seen(getComputedStyle(document.body).backgroundColor),
              of("svg > g > g:first-of-type > path:first-child", "fill").map(seen),
              of(plain, "fill").map(seen),
              of("svg .mark", "stroke").map(seen)];""")
  assert ground[:3] == ([255, 255, 255] if white else [20, 24, 29])
  assert len(grounds) >= 9 and all(one == ground for one in grounds)
  assert len(texts) > 100 and min(contrast(one, ground) for one in texts) > 4.5
  assert len(lines) > 15 and min(contrast(one, ground) for one in lines) > 2.9


def test_labels_of_pictures_are_whole(opened):
  page = opened(1280)
  cut = page.execute_script("""
      return [...document.querySelectorAll("figure svg")].flatMap((svg) => {
        const whole = svg.getBoundingClientRect();
        return [...svg.querySelectorAll("text")].filter((text) => {
          const box = text.getBoundingClientRect();
          return box.left < whole.left - 1 || box.right > whole.right + 1
              || box.top < whole.top - 1 || box.bottom > whole.bottom + 1;
        }).map((text) => [svg.getAttribute("aria-label"), text.textContent]);
      });""")
  assert cut == []
  heat = page.execute_script("""
      return [...document.querySelector("svg[aria-label^='Heat map of mean']")
          .querySelectorAll("text")].map((text) => text.textContent)""")
  # Of alpha 0.5: 0, 4, 13. With alpha 0 no T means anything, and it is no row.
  assert "alpha" in heat and "temperature T" in heat and "5.7" in heat
  assert "0" not in heat


def test_each_mark_has_its_own_tip(opened):
  page = opened(1280)
  number, wrong = page.execute_script("""
      const marks = [...document.querySelectorAll("svg use.mark")];
      return [marks.length, marks.filter((mark) => {
        mark.scrollIntoView({block: "center", behavior: "instant"});
        const box = mark.getBoundingClientRect();
        const at = document.elementFromPoint(
            box.left + box.width / 2, box.top + box.height / 2);
        return !at || at.closest(".point") !== mark.closest(".point");
      }).map((mark) => mark.closest(".point").getAttribute("aria-label"))];""")
  assert number > 15 and wrong == []


def test_all_columns_are_seen_at_1280(opened):
  page = opened(1280)
  table, wrapper = page.execute_script("""
      const table = document.getElementById("table");
      return [table.scrollWidth, table.parentNode.clientWidth]""")
  assert len(find(page, "#table th")) == 18 and table <= wrapper
  broken = page.execute_script("""
      return [...document.querySelectorAll("#table td.runs")].filter((cell) => {
        const range = document.createRange();
        range.selectNodeContents(cell);
        const tops = [...range.getClientRects()].map((box) => box.top);
        return Math.max(...tops) - Math.min(...tops) > 5;
      }).map((cell) => cell.textContent);""")
  assert broken == []


def test_a_phone_shows_what_a_point_is_and_its_errors(opened):
  page = opened(400)
  assert [head.text for head in find(page, "#table th")[:3]] == [
      "point", "test errors", "difference"]
  ends = """
      const cells = document.querySelector("#table tbody tr").cells;
      return [0, 1].map((at) => cells[at].getBoundingClientRect()).flatMap(
          (box) => [box.left, box.right])"""
  left, name_end, errors, errors_end = page.execute_script(ends)
  assert 0 <= left < name_end <= errors + 1 < errors_end < 400
  page.execute_script(
      "document.querySelector('#table').parentNode.scrollLeft = 300")
  assert page.execute_script(ends)[:2] == [left, name_end], "the name stays"
  assert page.execute_script(ends)[3] < left


@pytest.mark.parametrize("sorted_first", [False, True])
def test_test_errors_lead_to_their_runs(page, sorted_first):
  if sorted_first:
    header(page, "test errors").click()
  runs = lambda: [
      cell.text for cell in find(page, "#runs-table tbody td:first-child")]
  at = column(page, "point").index("widths 800x800, alpha 0.9, T 20")
  find(page, "#table tbody tr")[at].find_element("css selector", "a").click()
  wait(page, lambda: runs() == ["widths 800x800, alpha 0.9, T 20"] * 3)
  assert page.current_url.endswith("#runs")
  (chosen,) = find(page, "#chosen")
  assert "widths 800x800, alpha 0.9, T 20" in chosen.text
  chosen.find_element("css selector", "button").click()
  wait(page, lambda: len(runs()) == 25)
  assert not chosen.is_displayed()


def test_paper_has_all_that_is_closed_and_parts_of_tall_pictures(opened):
  page = opened(1280)
  whole = "return document.querySelector('main').innerHTML"
  before = page.execute_script(whole)
  page.execute_script("""
      const tall = document.querySelector("svg[aria-label^='Learning']");
      window.high = tall.viewBox.baseVal.height;
      window.dispatchEvent(new Event("beforeprint"))""")
  assert find(page, "main > section")[0].get_attribute("id") == "table-part"
  assert not find(page, "details:not([open])")
  parts = page.execute_script("""
      return [...document.querySelectorAll("svg[aria-label^='Learning']")].map(
          ({viewBox}) => [viewBox.baseVal.y, viewBox.baseVal.height])""")
  assert len(parts) > 1 and parts[0][0] == 0
  ends = [top + height for top, height in parts]
  assert [top for top, _ in parts[1:]] == pytest.approx(ends[:-1], abs=0.01)
  assert ends[-1] == pytest.approx(page.execute_script("return high"), abs=0.01)
  # No letter is cut in two.
  assert page.execute_script("""
      return [...document.querySelectorAll(".cut svg")].flatMap((svg) => {
        const whole = svg.getBoundingClientRect();
        return [...svg.querySelectorAll("text")].filter((text) => {
          const {top, bottom} = text.getBoundingClientRect();
          return (top < whole.top - 1 && bottom > whole.top + 1)
              || (top < whole.bottom - 1 && bottom > whole.bottom + 1);
        }).map((text) => text.textContent);
      });""") == []
  page.execute_script("window.dispatchEvent(new Event('afterprint'))")
  assert page.execute_script(whole) == before


def test_a_phone_shows_letters_of_nine_pixels(opened):
  page = opened(400)
  sizes = page.execute_script("""
      return [...document.querySelectorAll("figure svg")].flatMap((svg) => {
        const scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
        return [...svg.querySelectorAll("text")].map(
            (text) => scale * parseFloat(getComputedStyle(text).fontSize));
      });""")
  assert len(sizes) > 100 and min(sizes) > 8.7
  whole, *charts = page.execute_script("""
      return [document.documentElement.scrollWidth,
              ...[...document.querySelectorAll(".chart")].map(
                  (chart) => chart.scrollWidth - chart.clientWidth)]""")
  assert whole <= 400 and sum(hidden <= 0 for hidden in charts) >= 7, charts


def test_hostile_text_is_shown_as_text(page):
  assert len(find(page, "script")) == 1, "the page's own"
  text = page.execute_script("return document.body.textContent")
  assert text.count(ALERT) >= 6
  assert ALERT in page.title and ALERT in find(page, "h1")[0].text
  assert any(ALERT in name for name in column(page, "point"))


def test_a_narrow_screen_scrolls_the_table_alone(page):
  page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
      "width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True})
  try:
    whole, seen = page.execute_script(
        "return [document.documentElement.scrollWidth, innerWidth]")
    table, wrapper = page.execute_script("""
        const table = document.getElementById("table");
        return [table.scrollWidth, table.parentNode.clientWidth]""")
    assert whole <= seen == 390 and table > wrapper
  finally:
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_each_run_has_its_command(page, folder):
  find(page, "#runs ~ details summary")[0].click()
  runs = [row.text for row in find(page, "#runs-table tbody tr")]
  assert len(runs) == 25
  (one,) = [text for text in runs if text.startswith("widths 30x30, alpha 0.9, T 4")
            and "python -m kd_jax.main --config.seed=2" in text]
  assert " 2 306 " in one, "its seed and errors"
  text = page.execute_script("return document.body.textContent")
  assert "versions.jax" in text and "0.10.1" in text
  assert "alpha is the share of the soft term" in text


def test_no_handler_stands_in_the_markup(folder):
  """Handlers in attributes would need a weaker policy than the page has."""
  text = (folder / "report.html").read_text()
  assert " onclick" not in text and "javascript:" not in text
  for start in ("src=\"http", "href=", "url(", "@import"):
    # Within a picture a shape is drawn in several places, and pixels are beside it.
    assert not re.findall(re.escape(start) + '(?!"?#|"data:image/png;)', text)


@pytest.fixture(scope="module")
def long(tmp_path_factory) -> pathlib.Path:
  """A study of 1,203 points, the best of which is on the last page."""
  folder = tmp_path_factory.mktemp("long")
  with (folder / "results.jsonl").open("w") as file:
    for n in range(1203):
      command = ALERT if n == 1200 else f"command {n}"
      file.write(json.dumps(row(
          5000 - n, over={"alpha": 0.9, "temperature": 1.0 + n},
          command=command)) + "\n")
  report.write(folder)
  return folder


def turn(page, name, what):
  """Presses a button of a pager, or types the number of a page into it."""
  (pager,) = find(page, f'nav[data-of="{name}"]')
  before = pager.text
  if isinstance(what, int):
    page.execute_script(
        "arguments[0].value = arguments[1];"
        "arguments[0].dispatchEvent(new Event('change'))",
        pager.find_element("css selector", "input"), what)
  else:
    (button,) = [b for b in pager.find_elements("css selector", "button")
                 if b.text == what]
    button.click()
  wait(page, lambda: pager.text != before)
  return pager.text


def wait(page, done):
  from selenium.webdriver.support.ui import WebDriverWait
  WebDriverWait(page, 20).until(lambda _: done())


def test_all_rows_of_a_long_table_are_reached(chromium, long):
  chromium.get_log("browser")
  chromium.get((long / "report.html").as_uri())
  ts = lambda: [int(text) for text in column(chromium, "T")]
  assert ts() == list(range(1, 501))
  assert "1,203" in find(chromium, "nav.pages")[0].text
  assert "501 to 1,000 of 1,203" in turn(chromium, "table", "Next")
  assert ts() == list(range(501, 1001))
  assert "1,001 to 1,203 of 1,203" in turn(chromium, "table", 3)
  assert ts() == list(range(1001, 1204))
  turn(chromium, "table", "Previous")
  assert ts()[0] == 501
  # Of all pages, not of one.
  header(chromium, "test errors").click()
  wait(chromium, lambda: ts()[0] == 1203)
  assert column(chromium, "test errors")[0] == "3798.0"
  assert ts() == list(range(1203, 703, -1))
  assert chromium.get_log("browser") == []


def test_long_runs_have_pages_of_their_own_and_stay_text(chromium, long):
  chromium.get((long / "report.html").as_uri())
  find(chromium, "#runs ~ details summary")[0].click()
  turn(chromium, "runs-table", 3)
  shown = [r.text for r in find(chromium, "#runs-table tbody tr")]
  assert len(shown) == 203 and shown[-1].endswith("command 1202")
  assert shown[-3].endswith(ALERT)
  assert len(find(chromium, "script:not([type])")) == 1, "the page's own"
  # The other table stays where it was.
  assert column(chromium, "T")[0] == "1"
  # From a page that came packed too.
  turn(chromium, "table", 3)
  find(chromium, "#table tbody tr")[199].find_element("css selector", "a").click()
  found = lambda: [r.text for r in find(chromium, "#runs-table tbody tr")]
  wait(chromium, lambda: len(found()) == 1)
  assert found()[0].startswith("T 1200 0 3801 ")
  assert found()[0].endswith("command 1199")
