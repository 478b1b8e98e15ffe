"""What a single run measures beside its training, which stays what it is."""

import contextlib
import io
import json
import shutil

from conftest import ROOT
import jax
import jax.numpy as jnp
from matplotlib import figure
import numpy as np
import pytest

from kd_jax import losses, main, report
from kd_jax.core import randomness
from kd_jax.data import views
from kd_jax.losses.alignment import alignment
from kd_jax.models import MODELS
from kd_jax.report import canvas, plots
from kd_jax.runs import teacher_store
from kd_jax.training import parameters

COMMON = (
    "--config=configs/mnist.py", "--config.data.name=blobs", "--config.epochs=2",
    "--config.min_steps=0", "--config.teacher.epochs=2",
    "--config.teacher.min_steps=0", "--config.batch_size=64",
    "--config.tensorboard=false", "--config.parallel=single",
    "--config.student.name=cnn", "--config.student.widths=(3,4)",
    "--config.teacher.name=cnn", "--config.teacher.widths=(4,6)",
    "--config.student.views=shift2", "--config.method=kd+at")


@pytest.fixture(scope="module")
def ran(own_data, teachers, tmp_path_factory):
  """Runs the small job; gives its workdir, and its student's epochs and row."""
  def run(*words):
    place = tmp_path_factory.mktemp("run") / "run"
    with contextlib.chdir(ROOT), contextlib.redirect_stdout(io.StringIO()), (
        pytest.MonkeyPatch.context()) as patch, (
            jax.numpy_dtype_promotion("standard")):
      patch.setattr(plots, "write", lambda *_: {})
      assert main.run([
          *COMMON, f"--workdir={place}", f"--config.data.dir={own_data}",
          f"--config.teacher.dir={teachers}", *words]) == 0
    lines = lambda name: [
        json.loads(line) for line in (place / name).read_text().splitlines()]
    epochs = [row for row in lines("metrics.jsonl") if row["net"] == "distilled"]
    return place, epochs, lines("results.jsonl")[-1]
  return run


@pytest.fixture(scope="module")
def looked_at(ran):
  return ran("--config.inspect=50")


def test_it_changes_no_bit_and_no_fingerprint(ran, looked_at):
  place, epochs, row = ran()
  assert not (place / "inspected.json").exists()
  assert not any(name.startswith(("cka", "share")) for name in epochs[-1])
  for name in ("fingerprint", "parameters_sha256", "test_wrong_ids"):
    assert row[name] == looked_at[2][name]


def nets(place):
  """Both nets as they were saved, and the student before its training."""
  student = MODELS["cnn"](num_classes=7, widths=(3, 4))
  start = student.init(randomness.stream(randomness.stream(
      jax.random.key(0), "init"), "student"), jnp.zeros((1, 12, 10, 1)))
  held = lambda name: parameters.load_parameters(place / "parameters" / name)
  return (student, start, held("distilled"),
          MODELS["cnn"](num_classes=7, widths=(4, 6)), held("teacher"))


def taps(model, variables, images):
  return model.apply(variables, images, train=False)[0].features


def test_cka_is_that_of_the_nets_that_were_saved(looked_at, own_data):
  place, epochs, row = looked_at
  student, start, end, teacher, held = nets(place)
  with np.load(own_data / "blobs.npz") as file:
    images = jnp.float32(file["x_train"][:50] / 255)
  found = json.loads((place / "inspected.json").read_text())["distilled"]["cka"]
  others = taps(teacher, held, images)
  for when, variables in (("before", start), ("after", end)):
    assert list(found[when]) == ["conv_0", "conv_1"]
    for own, tap in taps(student, variables, images).items():
      for other, its in others.items():
        assert found[when][own][other] == pytest.approx(
            float(alignment(tap, its)), abs=2e-4), (when, own, other)
  # Of each pair that is compared, and of no other, a curve.
  assert [name for name in epochs[0] if name.startswith("cka_")] == [
      "cka_conv_0-conv_0", "cka_conv_1-conv_1"]
  for tap in ("conv_0", "conv_1"):
    curve = row["curve"][f"cka_{tap}-{tap}"]
    assert curve == [epoch[f"cka_{tap}-{tap}"] for epoch in epochs]
    assert curve[-1] == found["after"][tap][tap] != curve[0]


def test_shares_are_those_of_gradients(looked_at, own_data):
  place, epochs, row = looked_at
  names = ("share_hard", "share_soft", "share_attention")
  for epoch in epochs:
    assert sum(epoch[name] for name in names) == pytest.approx(1.0, abs=2e-4)
    assert min(epoch[name] for name in names) > 0
  assert row["curve"]["train_attention"] == [
      epoch["train_attention"] for epoch in epochs]
  # Of hard and soft on the first batch, in its views.
  student, _, end, teacher, held = nets(place)
  with np.load(own_data / "blobs.npz") as file:
    image, label = jnp.asarray(file["x_train"]), jnp.asarray(file["y_train"])
  key = randomness.stream(jax.random.key(0), "data")
  ids = randomness.epoch_order(key, 0, jnp.arange(300, dtype=jnp.int32))[:64]
  view = randomness.epoch_views(key, 0, num_examples=300, num_views=25)[ids]
  seen = views.batch_views(views.VIEWS["shift2"], image[ids], view) / 255
  v = teacher.apply(held, seen, train=False)[0].logits

  def norm(loss):
    gradient = jax.grad(lambda params: jnp.mean(loss(student.apply(
        end._replace(params=params), seen, train=True)[0].logits)))(end.params)
    return sum(float(jnp.sum(leaf**2)) for leaf in jax.tree.leaves(gradient)) ** 0.5

  t = row["temperature"]
  hard = norm(lambda z: row["hard_weight"] * losses.hard_cross_entropy(
      z, label[ids]))
  soft = norm(lambda z: row["soft_weight"] * t**2 * losses.distillation_kl(z, v, t))
  assert epochs[-1]["share_soft"] / epochs[-1]["share_hard"] == pytest.approx(
      soft / hard, rel=5e-3)


def test_shares_of_a_bank_on_the_host_are_those_of_one_on_the_device(
    ran, monkeypatch):
  words = ("--config.inspect=50", "--config.method=kd",
           "--config.teacher.bank=always")
  _, whole, _ = ran(*words)
  monkeypatch.setattr(teacher_store, "_LARGEST_BANK", 1000)
  _, streamed, _ = ran(*words)
  shares = lambda epochs: [epoch["share_soft"] for epoch in epochs]
  assert shares(streamed) == pytest.approx(shares(whole), rel=1e-4)


def test_attention_is_the_energy_of_maps(looked_at, own_data):
  place, _, _ = looked_at
  student, _, end, _, _ = nets(place)
  with np.load(own_data / "blobs.npz") as file:
    images, label = file["x_test"], file["y_test"]
  found = json.loads(
      (place / "inspected.json").read_text())["distilled"]["examples"]
  assert len({example["label"] for example in found}) == 4
  for example in found:
    assert example["label"] == label[example["id"]]
    assert example["image"] == images[example["id"], :, :, 0].tolist()
    assert list(example["student"]) == list(example["teacher"])
    for tap, s in taps(student, end, jnp.float32(
        images[None, example["id"]] / 255)).items():
      energy = np.square(s[0]).mean(-1)
      np.testing.assert_allclose(
          example["student"][tap], 255 * energy / energy.max(), atol=0.6)


@pytest.mark.slow
def test_several_devices_measure_the_same(ran, looked_at):
  _, epochs, _ = ran("--config.inspect=50", "--config.parallel=pmap")
  numbers = lambda row: [value for name, value in row.items()
                         if name.startswith(("cka_", "share_"))]
  assert len(numbers(epochs[-1])) == 5
  np.testing.assert_allclose(
      numbers(epochs[-1]), numbers(looked_at[1][-1]), atol=2e-3)


def test_who_has_no_taps_is_measured_by_its_terms(ran, own_data, tmp_path):
  np.save(tmp_path / "logits.npy", 9 * np.eye(7, dtype=np.float32)[
      np.load(own_data / "blobs.npz")["y_train"]])
  place, epochs, row = ran(
      "--config.inspect=50", "--config.method=kd", "--config.student.views=none",
      f"--config.teacher.logits={tmp_path / 'logits.npy'}")
  assert epochs[-1]["share_hard"] + epochs[-1]["share_soft"] == pytest.approx(
      1.0, abs=2e-4)
  assert not (place / "inspected.json").exists()
  assert set(row["curve"]) == {"train_hard", "train_soft", "test_errors",
                               "share_hard", "share_soft"}


def test_cells_show_no_negative_zero_and_nothing_of_nan():
  axes = figure.Figure().add_subplot()
  canvas.cells(axes, [[-0.001, 0.5], [float("nan"), -0.4]], digits=2, limits=(0, 1))
  assert [text.get_text() for text in axes.texts] == ["0.00", "0.50", "-0.40"]


@pytest.fixture
def drawn(looked_at, tmp_path, monkeypatch):
  """A copy of the workdir, and what is drawn of it, by the name of the picture."""
  place, figures, save = tmp_path / "run", {}, canvas.save

  def kept(figure, path, **more):
    figures[path.name] = figure
    return save(figure, path, **more)

  monkeypatch.setattr(canvas, "save", kept)
  shutil.copytree(looked_at[0], place)
  return place, figures


@pytest.mark.pictures
def test_the_report_of_a_single_run_has_its_pictures(drawn, looked_at, capsys):
  place, figures = drawn
  assert report.main([str(place)]) == 0
  # Cells as numbers, taps at the axes.
  found = json.loads((place / "inspected.json").read_text())["distilled"]["cka"]
  for when, axes in zip(("before", "after"), figures["cka.png"].axes):
    assert when in axes.get_title() and "distilled" in axes.get_title()
    cells = {(cell.get_position()[1], cell.get_position()[0]): cell.get_text()
             for cell in axes.texts}
    for y, own in enumerate(found[when]):
      assert axes.get_yticklabels()[y].get_text() == own
      for x, (other, value) in enumerate(found[when][own].items()):
        assert cells[y, x] == f"{value:z.2f}"
        assert axes.get_xticklabels()[x].get_text() == other
  # An image, then each stage of both nets; four of them.
  titles = [axes.get_title() for axes in figures["attention.png"].axes[:5]]
  assert titles == ["image", "student\nconv_0", "teacher\nconv_0",
                    "student\nconv_1", "teacher\nconv_1"]
  assert len(figures["attention.png"].axes) == 4 * 5
  # A line a term and a pair; an axis a term.
  shares, cka = figures["inspected.png"].axes
  curve = looked_at[2]["curve"]
  lines = {line.get_label(): list(line.get_ydata())
           for axes in (shares, cka) for line in axes.lines}
  assert lines == {name.split("_", 1)[1]: values for name, values in curve.items()
                   if name.startswith(("share_", "cka_"))}
  learning = figures["learning.png"].axes
  assert [axes.get_ylabel().split()[0] for axes in learning] == [
      "hard", "soft", "attention"]
  page = (place / "report.html").read_text()
  assert page.count("<figure>") == len(list(place.glob("*.png"))) >= 5


@pytest.mark.pictures
@pytest.mark.parametrize("wrong", [
    {"distilled": {}}, {"distilled": {"cka": {"before": {}, "after": {}}}},
    {"distilled": 5}, {"distilled": {"cka": {
        "before": {"a": {"b": "x"}}, "after": {"a": {"b": 1.0}}}}}])
def test_an_inspection_of_something_else_is_told(drawn, wrong, capsys):
  place, _ = drawn
  (place / "inspected.json").write_text(json.dumps(wrong))
  assert report.main([str(place)]) == 2
  told = capsys.readouterr().err
  assert "inspected.json: is not what a run writes" in told
  assert len(told.splitlines()) == 1
