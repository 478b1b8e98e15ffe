"""The nets of the papers' tables against counts, shapes and the released nets."""

import functools
import importlib.util
import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_step import distance

from docs import nets as docs_nets
from kd_jax import data as data_lib
from kd_jax import models
from kd_jax.config import names
from kd_jax.core import types
from kd_jax.core.errors import UserError
from kd_jax.models.mobile import shuffle

FIXTURES = pathlib.Path(__file__).parent / "fixtures"
_spec = importlib.util.spec_from_file_location("nets", FIXTURES / "nets.py")
assert _spec is not None and _spec.loader is not None
nets = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(nets)

# Parameters with 100 and with 10 classes, channels of all BatchNorms, millions of
# multiplications of an image; of the released nets (Tian et al. 2020).
SIZES = {
    "resnet8": (83_892, 78_042, 336, 12.51),
    "resnet14": (181_108, 175_258, 560, 26.66),
    "resnet20": (278_324, 272_474, 784, 40.82),
    "resnet32": (472_756, 466_906, 1232, 69.13),
    "resnet44": (667_188, 661_338, 1680, 97.44),
    "resnet56": (861_620, 855_770, 2128, 125.75),
    "resnet110": (1_736_564, 1_730_714, 4144, 253.16),
    "resnet8x4": (1_233_540, 1_210_410, 1376, 177.07),
    "resnet32x4": (7_433_860, 7_410_730, 4960, 1083.04),
    "resnet50": (23_705_252, 23_520_842, 26_560, 1298.01),
    "wrn_16_1": (180_916, 175_066, 464, 26.66),
    "wrn_16_2": (703_284, 691_674, 912, 101.12),
    "wrn_40_1": (569_780, 563_930, 1360, 83.29),
    "wrn_40_2": (2_255_156, 2_243_546, 2704, 327.61),
    "vgg8": (3_965_028, 3_918_858, 1472, 96.19),
    "vgg11": (9_277_284, 9_231_114, 2752, 209.44),
    "vgg13": (9_462_180, 9_416_010, 2944, 284.94),
    "vgg16": (14_774_436, 14_728_266, 4224, 398.18),
    "vgg19": (20_086_692, 20_040_522, 5504, 511.43),
    "mobilenetv2_half": (812_836, 697_546, 9184, 6.52),
    "shufflenetv1": (949_258, 862_768, 11_868, 38.69),
    "shufflenetv2": (1_355_528, 1_263_278, 8090, 44.50),
}
# Of Mirzadeh et al. (2020), for 10 classes, and for 100: parameters, millions of
# multiplications, side and channels of the last map.
PLANES = {
    "plane2": (13_082, 1.04, "8.16"), "plane4": (37_338, 6.36, "8.32"),
    "plane6": (82_778, 9.89, "4.64"), "plane8": (327_962, 13.45, "2.128"),
    "plane10": (2_487_850, 71.80, "2.256"),
    "plane2_100": (215_172, 3.45, "8.32"), "plane4_100": (475_652, 24.89, "8.64"),
    "plane6_100": (1_107_204, 39.45, "8.128"),
    "plane8_100": (1_246_276, 52.86, "2.256"),
    "plane10_100": (2_931_460, 72.24, "2.256")}
# Side and channels of stem, stages; channels of the pooled vector.
TAPS = {
    "resnet56": "32.16 32.16 16.32 8.64 64",
    "resnet32x4": "32.32 32.64 16.128 8.256 256",
    "resnet50": "32.64 32.256 16.512 8.1024 4.2048 2048",
    "wrn_40_2": "32.16 32.32 16.64 8.128 128",
    "vgg13": "32.64 16.128 8.256 4.512 4.512 512",
    "mobilenetv2_half": "16.16 16.12 8.16 4.48 2.160 1280",
    "shufflenetv1": "32.24 16.240 8.480 4.960 960",
    "shufflenetv2": "32.24 16.116 8.232 4.464 1024",
}


# A small net of each family, whose blocks may be computed again.
SMALL = {
    "resnet": {"depth": 14, "widths": (2, 2, 3)},
    "resnet50": {"widths": (2, 2, 3, 3), "blocks": (2, 1, 1, 1)},
    "wrn": {"depth": 16, "widths": (4, 4, 6)},
    "vgg": {"depth": 11, "widths": (2, 3, 3, 4, 4)},
    "plane4": {"widths": (2, 3)},
    "fitnet1": {"widths": (2,) * 9},
    "mobilenetv2": {"widths": (2, 2, 3, 3, 4, 4, 5)},
    "shufflenetv1": {"widths": (48, 72, 96), "blocks": (2, 2, 1)},
    "shufflenetv2": {"widths": (8, 12, 16), "blocks": (2, 2, 1)},
    "efficientnet_small": {"widths": (4, 4, 5, 6), "stem": 4, "head": 8},
    "googlenet_small": {"widths": (16, 16, 32), "stem": 4},
}


def _rows() -> dict[str, list[str]]:
  """The table of `docs/nets.md` by net."""
  rows = [[cell.strip() for cell in line.strip("|").split("|")]
          for line in docs_nets.FILE.read_text().splitlines()
          if line.startswith("| `")]
  return {name.strip("`"): cells for name, *cells in rows}


# Quick nets, and in the end all: to trace a deep one takes seconds.
@pytest.mark.parametrize("nets", [
    ("resnet8", "wrn_16_1", "vgg8", "plane2", "fitnet1", "mobilenetv2_half",
     "efficientnet_small", "googlenet_small"),
    pytest.param(docs_nets.NETS, marks=pytest.mark.slow)], ids=["quick", "all"])
def test_the_table_of_nets_is_the_codes(nets):
  assert list(_rows()) == docs_nets.NETS
  written = docs_nets.FILE.read_text().splitlines()
  for name in nets:
    assert docs_nets.line(name) in written, "python -m docs.nets writes it anew"


def _shapes(name: str, classes: int = 10, **options):
  """Shapes of variables and of taps; nothing is computed."""
  model = models.MODELS[name](num_classes=classes, **options)
  image = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
  variables = jax.eval_shape(model.init, jax.random.key(0), image)
  outputs, _ = jax.eval_shape(
      lambda v, x: model.apply(v, x, train=False), variables, image)
  return variables, {tap: x.shape[1:] for tap, x in outputs.features.items()}


def test_nets_have_the_sizes_of_the_released_ones():
  rows = _rows()
  for name, (hundred, ten, norms, multiplied) in SIZES.items():
    assert rows[name][:4] == [
        f"{hundred:,}", f"{ten:,}", f"{multiplied:.2f}", str(norms)], name


def _of_efficientnet(classes: int) -> int:
  """Parameters by the paper's table: convolutions, BatchNorm, excitation."""
  conv = lambda inputs, outputs, size: size**2 * inputs * outputs + 2 * outputs
  total, inputs = conv(3, 32, 3), 32
  for width, expansion, size, blocks in (
      (16, 1, 3, 1), (24, 6, 3, 2), (40, 6, 5, 2), (80, 6, 3, 3)):
    for _ in range(blocks):
      inner, fewer = expansion * inputs, inputs // 4
      total += conv(inputs, inner, 1) if expansion > 1 else 0
      total += conv(1, inner, size) + conv(inner, width, 1)
      total += (inner + 1) * fewer + (fewer + 1) * inner
      inputs = width
  return total + conv(inputs, 320, 1) + (320 + 1) * classes


def _of_googlenet(classes: int) -> int:
  """By the shares of its block 3a: 64, 96 to 128, 16 to 32, and 32, of 256."""
  conv = lambda inputs, outputs, size: size**2 * inputs * outputs + 2 * outputs
  total, inputs = conv(3, 32, 3), 32
  for width in (64, 64, 128, 128, 256, 256):
    of = lambda channels, width=width: channels * width // 256
    total += sum((
        conv(inputs, of(64), 1), conv(inputs, of(96), 1), conv(of(96), of(128), 3),
        conv(inputs, of(16), 1), conv(of(16), of(32), 5), conv(inputs, of(32), 1)))
    inputs = width
  return total + (inputs + 1) * classes


@pytest.mark.parametrize(("name", "count"), [
    ("efficientnet_small", _of_efficientnet), ("googlenet_small", _of_googlenet)])
def test_nets_in_the_style_of_a_paper_have_the_parameters_of_its_table(name, count):
  assert _rows()[name][:2] == [f"{count(100):,}", f"{count(10):,}"]


def _taps(name, change=lambda params: params):
  """Taps of two images in evaluation; `change` is made to the parameters."""
  model = models.MODELS[name](num_classes=3, **SMALL[name])
  image = jax.random.normal(jax.random.key(1), (2, 16, 16, 3))
  variables = model.init(jax.random.key(0), image)
  return model.apply(variables._replace(params=change(variables.params)), image,
                     train=False)[0].features


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=() if name in ("wrn", "vgg", "resnet") else (
        pytest.mark.slow)) for name in SMALL])
def test_taps_have_the_signs_that_are_documented(name):
  both = {"wrn": ("stem", "stage"), "mobilenetv2": ("stage",),
          "efficientnet_small": ("stage",)}.get(name, ())
  swish = ("stem", "pooled") if name == "efficientnet_small" else ()
  for tap, x in _taps(name).items():
    if tap.endswith(".preact") or tap.startswith(both):
      assert x.min() < 0 < x.max(), tap
    else:
      assert x.min() >= (-0.28 if tap in swish else 0), tap


def test_a_googlenet_stage_is_the_relu_of_its_preact():
  taps = _taps("googlenet_small")
  for stage in ("stage1", "stage2", "stage3"):
    before = taps[f"{stage}.preact"]
    # Of each of four branches some are below 0 and some above.
    for branch in jnp.split(before, [4, 12, 14] if before.shape[-1] == 16 else [
        8, 24, 28], axis=-1):
      assert branch.min() < 0 < branch.max()
    np.testing.assert_array_equal(jnp.maximum(before, 0), taps[stage])


def test_excitation_weighs_the_channels_of_an_efficientnet():
  def shut(params):
    # The second layer of the first block's excitation: a sigmoid of -100 is 0.
    dense = params["Dense_1"]
    return params | {"Dense_1": dense | {"bias": dense["bias"] - 100}}

  taps, none = _taps("efficientnet_small"), _taps("efficientnet_small", shut)
  assert taps["stage1"].min() < 0 < taps["stage1"].max()
  assert -0.28 < taps["stem"].min() < 0, "a swish"
  np.testing.assert_array_equal(taps["stem"], none["stem"])
  # What is left of this block is its shortcut.
  np.testing.assert_allclose(none["stage1"], none["stem"], atol=1e-6)
  assert distance(taps["stage1"], taps["stem"]) > 0.1


def test_planes_have_the_sizes_of_the_released_ones():
  rows = _rows()
  for name, (number, multiplied, last) in PLANES.items():
    hundred, ten, found, _, taps = rows[name]
    assert (hundred if name.endswith("_100") else ten) == f"{number:,}", name
    # The table's are of 100 classes: 90 columns and biases more than of 10.
    more = int(hundred.replace(",", "")) - int(ten.replace(",", "")) - 90
    less = 0 if name.endswith("_100") else more / 1e6
    assert float(found) - less == pytest.approx(multiplied, abs=0.011), name
    side, _, channels = last.partition(".")
    stage = [tap for tap in taps.split(", ") if tap.startswith("stage")][-1]
    assert stage.split()[1] == f"{side}x{side}x{channels}", name


def test_taps_have_the_shapes_of_the_released_ones():
  for name, maps in TAPS.items():
    *maps, pooled = [each.partition(".") for each in maps.split()]
    names = ["stem", *(f"stage{number}" for number in range(1, len(maps)))]
    assert _rows()[name][4] == ", ".join([
        *(f"{tap} {side}x{side}x{channels}"
          for tap, (side, _, channels) in zip(names, maps, strict=True)),
        f"pooled {pooled[0]}"]), name


@pytest.mark.parametrize(
    "name", ["resnet8", "mobilenetv2_half", "vgg8", "wrn_16_1", "googlenet_small",
             "efficientnet_small"])
def test_a_stage_before_its_relu_has_the_same_shape(name):
  shapes = _shapes(name)[1]
  stages = [tap for tap in shapes if tap.startswith("stage") and "." not in tap]
  for tap in stages:
    assert shapes[f"{tap}.preact"] == shapes[tap]


@pytest.mark.parametrize(("family", "options", "preset"), [
    ("resnet", {"depth": 56}, "resnet56"), ("resnet8", {"depth": 20}, "resnet20"),
    ("wrn", {"depth": 40, "width": 2}, "wrn_40_2"),
    ("vgg", {"depth": 13}, "vgg13"), ("vgg8", {}, "vgg"),
    ("mobilenetv2", {"width": 0.5}, "mobilenetv2_half")])
def test_depth_and_width_give_the_presets(family, options, preset):
  assert _shapes(family, **options) == _shapes(preset)


@pytest.mark.parametrize(("name", "depth", "says"), [
    ("resnet", 21, "6 n . 2, such as 20 or 26"), ("wrn", 3, "such as 10 or 16"),
    ("vgg", 12, "one of 8, 11")])
def test_a_depth_that_no_net_has_is_refused(name, depth, says):
  with pytest.raises(ValueError, match=says):
    _shapes(name, depth=depth)


def _filled(shapes: types.Variables) -> types.Variables:
  """The weights of the fixture, by kind, number and name."""
  def fill(layers):
    return {layer: {name: jnp.asarray(nets.drawn(
        layer.split("_")[0], int(layer.split("_")[1]), name, leaf.shape))
                    for name, leaf in arrays.items()}
            for layer, arrays in layers.items()}
  return types.Variables(fill(shapes.params), {
      "batch_stats": fill(shapes.state["batch_stats"])})


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=() if name in ("resnet8x4", "wrn_16_2") else (
        pytest.mark.slow)) for name in nets.NETS])
def test_a_net_is_the_released_one(name):
  expected = json.loads(nets.FIXTURE.read_text())["rows"][name]
  model = models.MODELS[name](num_classes=nets.CLASSES, **nets.NETS[name][0])
  image = jnp.asarray(nets.images())
  variables = _filled(jax.eval_shape(model.init, jax.random.key(0), image))
  apply = jax.jit(model.apply, static_argnames="train")
  close = lambda found, wanted: np.testing.assert_allclose(
      found, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())
  outputs, _ = apply(variables, image, train=False)
  close(outputs.logits, expected["evaluated"])
  assert outputs.features.keys() == expected["taps"].keys()
  for tap, found in outputs.features.items():
    close(nets.summary(found), expected["taps"][tap])
  outputs, state = apply(variables, image, train=True)
  close(outputs.logits, expected["trained"])
  for number, wanted in enumerate(zip(expected["means"], expected["variances"])):
    norm = state["batch_stats"][f"BatchNorm_{number}"]
    for found, each in zip((norm["mean"], norm["variance"]), wanted):
      close(nets.summary(found), each)
  assert len(state["batch_stats"]) == len(expected["means"])


def _gradients(name: str, remat: bool, image, mask):
  """Of a sum of logits and all taps, and the running statistics after it."""
  model = models.MODELS[name](num_classes=3, remat=remat, **SMALL[name])
  variables = model.init(jax.random.key(0), image)
  weights = lambda x: jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape)

  @jax.jit
  @functools.partial(jax.grad, has_aux=True)
  def of(params):
    outputs, state = model.apply(
        variables._replace(params=params), image, train=True, mask=mask)
    valid = lambda x: x[:5]
    return sum(jnp.sum(valid(x * weights(x))) for x in (
        outputs.logits, *outputs.features.values())), state

  return of(variables.params)


@pytest.mark.parametrize("name", [
    name if name in ("resnet", "vgg", "wrn") else pytest.param(
        name, marks=pytest.mark.slow) for name in SMALL])
def test_blocks_that_are_computed_again_give_the_same(name):
  image = jax.random.normal(jax.random.key(1), (6, 16, 16, 3))
  mask = jnp.arange(6) < 5
  stored, again = (_gradients(name, remat, image, mask) for remat in (False, True))
  for one, other in zip(again, stored):
    assert distance(one, other) < 1e-5


def test_blocks_that_are_computed_again_take_less_memory():
  """Within a loop, as a step is. `jax.checkpoint` saves nothing on a CPU."""
  image = jnp.zeros((32, 32, 32, 3))

  def temporary(remat):
    model = models.MODELS["resnet14"](num_classes=10, remat=remat)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)

    def step(_, variables):
      of = lambda params: jnp.sum(model.apply(variables._replace(
          params=params), image, train=True)[0].logits)
      return variables._replace(params=jax.tree.map(
          jnp.subtract, variables.params, jax.grad(of)(variables.params)))

    loop = jax.jit(lambda variables, number: jax.lax.fori_loop(
        0, number, step, variables))
    return loop.lower(shapes, jnp.int32(1)).compile(
        ).memory_analysis().temp_size_in_bytes

  assert temporary(True) < 0.6 * temporary(False)


def test_channels_are_shuffled_by_turns():
  x = jnp.arange(12).reshape(1, 1, 1, 12)
  assert shuffle(x, 3).ravel().tolist() == [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]
  np.testing.assert_array_equal(shuffle(shuffle(x, 3), 4), x)


# Widths that are none of a net.

FOUND = data_lib.stand_in(np.zeros((2, 32, 32, 3), np.uint8), ("a", "b", "c"))


@pytest.mark.parametrize("name", sorted(models.MODELS))
def test_another_number_of_widths_is_refused_with_those_that_there_are(name):
  if name == "mlp" or (name.startswith(("resnet", "wrn")) and name != "resnet50"):
    for widths in ((8,), (8, 8), (8, 8, 8, 8)):
      models.MODELS[name](num_classes=3, widths=widths)
    return
  for number in (1, 30):
    with pytest.raises(UserError) as refused:
      names.model(name, {"widths": (8,) * number}, FOUND, prefix="student")
    said = str(refused.value)
    assert said.startswith("config.student.widths=(8,") and "\n" not in said
    assert f"there {'is' if number == 1 else 'are'} {number}" in said
    # The widths that it names are some that the net takes.
    given = re.search(r"takes (\d+) widths, such as \(([\d,]+)\);", said)
    widths = tuple(map(int, given[2].split(",")))
    assert len(widths) == int(given[1])
    models.MODELS[name](num_classes=3, widths=widths)


@pytest.mark.parametrize("width", [0, -3])
def test_a_width_below_1_is_refused(width):
  for name in models.MODELS:
    with pytest.raises(ValueError, match=f"a width of {width}; each must be 1 or"):
      models.MODELS[name](num_classes=3, widths=(8, width))


@pytest.mark.parametrize(("name", "widths", "words"), [
    ("shufflenetv1", (12, 24, 36), "12 channels after 24: widths must grow"),
    ("shufflenetv1", (36, 50, 72), "50 channels after 36: .* by multiples of 12"),
    ("shufflenetv2", (24, 1, 48), "1 channel: must have 2 or more")])
def test_widths_that_blocks_cannot_part_are_refused(name, widths, words):
  with pytest.raises(UserError, match=words):
    names.model(name, {"widths": widths}, FOUND, prefix="student")
  names.model("shufflenetv1", {"widths": (36, 60, 72)}, FOUND, prefix="student")
