"""The queue: which runs are missing, what they take, and how they are taken in."""

import json

import jax
import jax.numpy as jnp
import modes
import pytest

from experiments import index, queue
from experiments.features_cifar import study
from experiments.protocol import Cell
from kd_jax import config as config_lib
from kd_jax import methods
from kd_jax.config import names
from kd_jax.core.errors import UserError
from kd_jax.methods import fitting
from kd_jax.models import MODELS


def a_rate(parameters, seconds, **more):
  return queue.Rate(**{"machine": "2 cores", "study": "hinton15_temperature",
                       "parameters": parameters, "work": parameters,
                       "augmented": False, "seconds": seconds, **more})


def the_cell(name="hinton15_temperature.more_seeds"):
  return next(each for each in queue.todo() if each.name == name)


@pytest.fixture
def studies(tmp_path, monkeypatch):
  """The committed rows of one study, in a folder to be changed."""
  folder = tmp_path / "hinton15_temperature"
  folder.mkdir()
  for file in (index.ROOT / "hinton15_temperature").glob("*.jsonl"):
    (folder / file.name).write_bytes(file.read_bytes())
  monkeypatch.setattr(index, "ROOT", tmp_path)
  monkeypatch.setattr(index, "STUDIES", ("hinton15_temperature",))
  monkeypatch.setattr(index, "main", lambda: 0)
  return folder


def test_the_committed_queue_is_what_the_studies_lack():
  assert queue.PAGE.read_text() == queue.page()


def test_no_cell_is_made_of_rows_that_a_study_has():
  for each in queue.todo():
    rows = index.committed(index.ROOT / each.study).get("table", [])
    made = {queue._bare(row["overrides"]) for row in rows}
    assert made.isdisjoint(map(queue._bare, each.points)), each.name


def test_a_study_that_was_stopped_says_what_is_left(studies, monkeypatch):
  monkeypatch.setattr(queue, "todo", lambda: [])
  assert queue._stopped() == []
  rows = [{"seconds": seconds} for seconds in (60.0, 90.0, 900.0)]
  (studies / "more_seeds.jsonl").write_text("".join(
      json.dumps(row) + "\n" for row in rows))
  plan = {"chunks": [{"lanes": [*"abcd"]}, {"lanes": [*"efgh", "h"]}]}
  (studies / "unfinished.json").write_text(
      json.dumps({"stage": "more_seeds", "plan": plan}))
  # 8 runs, 5 of them missing, of 90 s.
  line = queue.page().splitlines()[-1]
  assert line.startswith("| hinton15_temperature | more_seeds | 3 of 8 | 7.5 | "
                         "`python -m experiments.reproduce hinton15_temperature ")
  (studies / "more_seeds.jsonl").unlink()
  assert "| more_seeds | 0 of 8 |  | " in queue.page()


def test_a_run_costs_what_the_nearest_net_did():
  each = the_cell()
  known = [a_rate(328_810, 2e-5), a_rate(24_790, 1.0), a_rate(328_810, 9.0, machine=
           "H100"), a_rate(2_395_210, 3e-5, augmented=True)]
  found = queue.estimate(each, "2 cores", known)
  # 15 epochs of 60,000 examples; a teacher of 200.
  assert found.each == pytest.approx(15 * 60_000 * 2e-5)
  assert found.teachers == pytest.approx(200 * 60_000 * 3e-5)
  assert found.minutes == pytest.approx((80 * found.each + found.teachers) / 60)


def test_a_larger_net_takes_longer_in_proportion():
  each = the_cell()
  small = [a_rate(164_405, 1e-6), a_rate(2_395_210, 1e-9, augmented=True)]
  assert queue.estimate(each, "2 cores", small).each == pytest.approx(
      2 * 15 * 60_000 * 1e-6)


def test_a_convolution_uses_its_parameters_for_every_pixel():
  cells = {cell.name: cell.config({}) for cell in study.CELLS}
  same, other = cells["others"], cells["unlike"]
  work = lambda net: queue._work(*queue._net(net, "cifar10"))
  # As docs/nets.md: 12.51 and 26.66 million multiplications, 6.52 for another net.
  for net, parameters, millions in (
      (same.student, 78_042, 12.51), (same.teacher, 175_258, 26.66),
      (other.student, 697_546, 6.52)):
    found = work(net)
    assert found[0] == parameters
    assert found[1] == pytest.approx(1e6 * millions, rel=0.1)
  # A net of an unlike kind with as many parameters takes as long as its work does.
  each = the_cell("features_cifar.others")
  dense = [a_rate(78_042, 1e-6), a_rate(175_258, 1e-6, augmented=True)]
  own = [a_rate(78_042, 1e-3, work=work(same.student)[1], study="features_cifar"),
         a_rate(175_258, 2e-3, work=work(same.teacher)[1], augmented=True)]
  assert queue.estimate(each, "2 cores", dense + own).each == pytest.approx(
      7 * 50_000 * 1e-3)
  uses = work(same.student)[1] / 78_042
  assert queue.estimate(each, "2 cores", dense[:1]).each == pytest.approx(
      7 * 50_000 * 1e-6 * uses)


@pytest.mark.parametrize("name", ["others", "unlike"])
def test_cells_compare_methods_that_fit_their_nets(name):
  config = next(cell for cell in study.CELLS if cell.name == name).config({})
  taps = [_taps(net) for net in (config.student, config.teacher)]
  tried = [point["method"] for point in config.sweep.points if point["seed"] == 0]
  assert tried[:2] == ["hard", "kd"] and len(set(tried)) == len(tried)
  for method in tried[2:]:
    own, pairs = methods.bind(methods.find(method), *taps, ())
    fitting.check(own, *taps, pairs, modes.hparams(method))
  if name == "others":
    assert {*tried[2:], *study._WEIGHTS} == {
        name for name, own in methods.METHODS.items()
        if not own.on_logits and not own.two_views}


def _taps(net):
  model = MODELS[net.name](num_classes=10, **names.sizes(
      config_lib.flatten(net).__getitem__))
  image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
  outputs, _ = jax.eval_shape(lambda image: model.apply(
      model.init(jax.random.key(0), image), image, train=False), image)
  return {tap: x.shape[1:] for tap, x in outputs.features.items()}


def a_file(tmp_path, *lines):
  file = tmp_path / "queue.jsonl"
  file.write_text("".join(json.dumps(line) + "\n" for line in lines))
  return file


def a_line(fingerprint, wrong, **more):
  point = the_cell().points[0]
  return {"study": "hinton15_temperature", "cell": "more_seeds",
          "file": "results.jsonl", "row": {
              "fingerprint": fingerprint, "test_wrong_ids": wrong, "overrides": {
                  key: list(value) if isinstance(value, tuple) else value
                  for key, value in point.items()}}, **more}


def test_recorded_rows_are_no_longer_missing(studies, tmp_path):
  before = len(the_cell().points)
  file = a_file(tmp_path, a_line("a", [1]), a_line("t", [2], file="teachers.jsonl"))
  queue.record(file)
  assert len((studies / "more_seeds.jsonl").read_text().splitlines()) == 1
  assert len((studies / "more_seeds_teachers.jsonl").read_text().splitlines()) == 1
  assert len(the_cell().points) == before - 1
  queue.record(file)  # A second time changes nothing.
  assert len((studies / "more_seeds.jsonl").read_text().splitlines()) == 1


def test_another_result_of_a_row_is_refused(studies, tmp_path):
  queue.record(a_file(tmp_path, a_line("a", [1])))
  before = (studies / "more_seeds.jsonl").read_bytes()
  with pytest.raises(UserError):  # Nor is the row before it taken in.
    queue.record(a_file(tmp_path, a_line("b", [1]), a_line("a", [1, 2])))
  assert (studies / "more_seeds.jsonl").read_bytes() == before


@pytest.mark.parametrize("text", ["{", "[]", "{}", '"a"'])
def test_another_file_is_refused(text, tmp_path):
  file = tmp_path / "queue.jsonl"
  file.write_text(text)
  with pytest.raises(UserError):
    queue.record(file)


def test_an_unknown_cell_is_refused(studies, tmp_path):
  with pytest.raises(UserError, match="more_seeds"):
    queue.record(a_file(tmp_path, a_line("a", [1]) | {"cell": "more_seed"}))


@pytest.mark.slow
def test_a_cell_that_breaks_off_does_not_cost_the_others(monkeypatch, tmp_path):
  made = []

  def make(each, args, stop):
    made.append(each.name)
    if len(made) == 1:
      raise RuntimeError("out of memory")
    return 0

  monkeypatch.setattr(queue, "_make", make)
  assert queue.main(["--run", f"--out={tmp_path}"]) == 1
  assert len(made) == len(queue.todo()) > 1


@pytest.mark.slow
def test_what_would_not_be_finished_is_passed_over(monkeypatch, tmp_path):
  made = []
  monkeypatch.setattr(
      queue, "_make", lambda each, args, stop: made.append(each.name))
  arguments = ["--run", "--whole", f"--out={tmp_path}", "--minutes=0.01"]
  assert queue.main(arguments) == 0
  assert made == []
  assert queue.main(["--run", f"--out={tmp_path}",
                     "--only=keras_example.other_weights"]) == 0
  assert made == ["keras_example.other_weights"]


def test_rows_are_put_aside_while_a_cell_runs(tmp_path):
  each = queue.Todo("s", Cell("c", 1, "", lambda rows: None), None, (), ())
  out = tmp_path / "queue.jsonl"
  for rows in (['{"a": 1}\n'], ['{"a": 1}\n', '{"a": 2}\n']):
    (tmp_path / "results.jsonl").write_text("".join(rows))
    queue.collect(each, tmp_path, out)
    other = queue.Todo("s", Cell("d", 1, "", lambda rows: None), None, (), ())
    queue.collect(other, tmp_path, out)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["cell"] for line in lines].count("c") == len(rows)
