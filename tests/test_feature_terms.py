"""Methods on features as wholes: weights, pairs, modules, padding, gradients."""

import collections
import functools
import json

from conftest import ROOT
import jax
import jax.numpy as jnp
import modes
import numpy as np
import pytest
from test_features import slow_layer, slow_regressor
from test_maps import attention, boundary, kernel, over_norm
from test_similarity import oracle as relation

from kd_jax import main, methods
from kd_jax.core import types
from kd_jax.methods import factors, fitting, variational
from kd_jax.methods import terms as terms_lib
from kd_jax.training import step as step_lib

HARD, WEIGHT, GAMMA, PARAPHRASE = 0.3, 0.7, 0.4, 0.6
NUMBERS = {"weight": WEIGHT, "gamma": GAMMA, "paraphrase": PARAPHRASE}
# Taps of both nets; some methods need as many channels, some a smaller map.
STUDENT = {"stem": (4, 4, 3), "stage1": (4, 4, 3), "stage2": (2, 2, 4),
           "pooled": (4,)}
WIDER = {"stem": (4, 4, 2), "stage1": (4, 4, 5), "stage2": (4, 4, 6),
         "pooled": (6,)}
TEACHERS = {"fsp": STUDENT,
            "ab": WIDER | {"stage1": (4, 4, 3), "stage2": (2, 2, 6)}}
NAMES = ("at", "sp", "pkt", "vid", "cc", "cc_kernel", "nst", "fsp", "ab", "ft",
         "ft_attention")
every = pytest.mark.parametrize("name", NAMES)
BATCH = 6
MASK = np.array([1, 1, 0, 1, 1, 0], bool)


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield


def bound(name, given=()):
  return methods.bind(
      methods.find(name), STUDENT, TEACHERS.get(name, WIDER), given)


@functools.cache
def drawn(name):
  """Taps under the names of the pairs, parameters and state, all random."""
  draw = np.random.default_rng(0).standard_normal
  method, pairs = bound(name)
  shapes = [{"-".join(pair): taps[pair[of]] for pair in pairs}
            for of, taps in enumerate((STUDENT, TEACHERS.get(name, WIDER)))]
  params, state = jax.eval_shape(
      lambda key: method.init(key, *shapes), jax.random.key(0))
  array = lambda x: draw(x.shape)
  # As the step gives them: jax sorts the keys of a plain dict.
  return ([collections.OrderedDict(
      (pair, draw((BATCH, *shape))) for pair, shape in taps.items())
           for taps in shapes], jax.tree.map(array, params),
          jax.tree.map(lambda x: array(x)**2, state))


LOGITS = np.random.default_rng(1).standard_normal((BATCH, 4))
LABELS = np.arange(BATCH) % 4


def terms_of(name, params, state, student, teacher, mask, rows=slice(None)):
  batch = types.Batch(
      None, jnp.asarray(LABELS[rows], jnp.int32), None, None, mask)
  method = bound(name)[0]
  logits = LOGITS[rows].astype(jax.tree.leaves(student)[0].dtype)
  own = terms_lib.Own(params, state)
  hparams = types.Hparams(
      hard_weight=HARD, soft_weight=9.0, label_smoothing=0.1,
      numbers={number: NUMBERS[number] for number in method.numbers})
  return terms_lib.and_state(method.terms(
      own, types.Outputs(jnp.asarray(logits), student),
      types.Outputs(None, teacher), batch, hparams), own)


def everything(students, teachers, mask, rows=slice(None)):
  """By method: loss, terms, state; gradients in parameters and both nets' taps."""
  def one(name):
    def loss(params, student, teacher):
      found = terms_of(name, params, drawn(name)[2], student, teacher, mask, rows)
      total = terms_lib.total(found.terms)
      each = jnp.where(mask, total, 0.0)
      return jnp.sum(each) / jnp.sum(mask, dtype=each.dtype), (
          {key: term.value for key, term in found.terms.items()}, found.state)

    (value, (terms, state)), gradients = jax.value_and_grad(
        loss, (0, 1, 2), has_aux=True)(
            drawn(name)[1], students[name], teachers[name])
    return value, terms, state, *gradients

  return {name: one(name) for name in NAMES}


@functools.cache
def results(kind):
  """Of all rows, of the valid ones alone, and with garbage in the others."""
  rows = MASK if kind == "short" else slice(None)
  mask = np.ones(BATCH, bool) if kind == "whole" else MASK[rows]
  def taps(of, garbage):
    found = {name: jax.tree.map(np.copy, drawn(name)[0][of]) for name in NAMES}
    if kind == "garbage":
      for tap in jax.tree.leaves(found):
        tap[2], tap[5] = garbage, np.inf
    return jax.tree.map(lambda tap: tap[rows], found)

  with jax.enable_x64(True):
    return jax.tree.map(np.asarray, jax.jit(
        lambda s, t, m: everything(s, t, m, rows))(
            taps(0, np.nan), taps(1, 1e200), mask))


# Whole losses, from the papers.


def pooled_alike(s, t):
  """The larger of two maps by the mean of its windows."""
  def pool(x, size):
    n = len(x) // size
    return x if n == 1 else x.reshape(size, n, size, n, -1).mean((1, 3))
  return pool(s, min(len(s), len(t))), pool(t, min(len(s), len(t)))


def chain(params, x, count, between, last):
  """Layers one after the other; of kernels 3x3 with a border of zeros."""
  for place in range(count):
    layer = params[f"layer_{place}"]
    kernel_, bias = layer["kernel"], layer.get("bias", 0.0)
    if kernel_.ndim == 4:
      x = slow_layer("valid", kernel_, bias, np.pad(
          x, ((0, 0), (1, 1), (1, 1), (0, 0))))
    else:
      x = x @ kernel_ + bias
    if f"norm_{place}" in params:
      norm = params[f"norm_{place}"]
      x = ((x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)
           * norm["scale"] + norm["bias"])
    x = between(x) if place < count - 1 or last else x
  return x


leaky = lambda x: np.where(x > 0, x, 0.1 * x)
relu = lambda x: np.maximum(x, 0)


def vid(params, s, t):
  s, t = zip(*(pooled_alike(a, b) for a, b in zip(s, t)))
  m = chain(params, np.array(s), 3, relu, last=False)
  v = np.log(1 + np.exp(params["variance"])) + 1e-5
  return 0.5 * ((np.array(t) - m)**2 / v + np.log(v)).mean((1, 2, 3))


def cc(params, s, t):
  e = [x @ params[net]["kernel"] + params[net]["bias"]
       for net, x in (("student", s), ("teacher", t))]
  return relation("congruence", *e)


def flow(x, y):
  x, y = pooled_alike(x, y)
  return np.mean([np.outer(x[h, w], y[h, w]) for h, w in np.ndindex(x.shape[:2])],
                 axis=0)


def fsp(student, teacher):
  total = 0.0
  for one, two in (("stem", "stage1"), ("stage1", "stage2")):
    (a, b), (c, d) = ([taps[f"{tap}-{tap}"] for tap in (one, two)]
                      for taps in (student, teacher))
    total = total + np.array([
        ((flow(*x) - flow(*y))**2).mean() for x, y in zip(zip(a, b), zip(c, d))])
  return total


def ab(params, state, student, teacher):
  first, last = "stage1-stage1", "stage2-stage2"
  guess, _ = slow_regressor(params[last], state[last], student[last], False, True)
  each = lambda s, t: np.array(list(map(boundary, s, t)))
  return 0.5 * each(student[first], teacher[first]) + each(guess, teacher[last])


def ft(gap):
  def loss(params, s, t):
    factor = chain(params["encoder"], t, 3, leaky, last=True)
    rebuilt = chain(params["decoder"], factor, 3, leaky, last=True)
    own = chain(params["translator"], s, 3, leaky, last=True)
    gaps = [gap(*pooled_alike(a, b)) for a, b in zip(own, factor)]
    return (WEIGHT * np.array(gaps)
            + PARAPHRASE * ((rebuilt - t)**2).mean((1, 2, 3)))
  return loss


def summed(loss):
  """Over the pairs, of an example at a time."""
  return lambda params, state, student, teacher: sum(np.array([
      loss(*pooled_alike(s, t)) for s, t in zip(student[pair], teacher[pair])])
      for pair in student)


only = lambda loss: lambda params, state, student, teacher: loss(
    *(next(iter(taps.values())) for taps in (params, student, teacher) if taps))
FORMULAS = {
    "at": summed(lambda s, t: ((attention(s) - attention(t))**2).mean()),
    "sp": only(lambda s, t: relation("similarity", *(
        x.reshape(len(x), -1) for x in (s, t)))),
    "pkt": only(functools.partial(relation, "affinity")),
    "vid": lambda params, state, student, teacher: sum(
        vid(params[pair], student[pair], teacher[pair]) for pair in student),
    "cc": only(cc),
    "cc_kernel": only(functools.partial(relation, "kernel")),
    "nst": summed(lambda s, t: kernel(t, t) + kernel(s, s) - 2 * kernel(s, t)),
    "fsp": lambda params, state, student, teacher: fsp(student, teacher),
    "ab": ab,
    "ft": only(ft(lambda s, t: np.abs(over_norm(s) - over_norm(t)).mean())),
    "ft_attention": only(ft(
        lambda s, t: np.abs(attention(s) - attention(t)).mean())),
}


@every
def test_a_loss_is_its_formula(name):
  (student, teacher), params, state = drawn(name)
  e = np.exp(LOGITS)
  log_q = np.log(e / e.sum(-1, keepdims=True))
  hard = -0.9 * log_q[np.arange(BATCH), LABELS] - 0.1 * log_q.mean(-1)
  part = FORMULAS[name](params, state, student, teacher)
  wanted = HARD * hard + (1.0 if name.startswith("ft") else WEIGHT) * part
  np.testing.assert_allclose(results("whole")[name][0], wanted.mean(), rtol=1e-10)


def test_the_loss_of_every_method_is_compared():
  assert set(FORMULAS) == set(NAMES) <= set(methods.METHODS)
  for name in NAMES:
    assert set(methods.METHODS[name].numbers) <= set(NUMBERS)
    assert set(drawn(name)[1]) <= {"-".join(pair) for pair in bound(name)[1]}


# Padding, and who is trained.


@every
def test_padding_is_as_if_it_were_not_there(name):
  """Values, states and gradients, also with NaN, 1e200 and inf in it."""
  long, short = results("garbage")[name], results("short")[name]
  relating = methods.METHODS[name].relations
  for key, value in long[1].items():
    alike = value[MASK] if value.ndim else value
    np.testing.assert_allclose(alike, short[1][key], rtol=1e-11)
    assert value.ndim == 0 if relating and key != "hard" else value.ndim == 1
  same = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-13)
  jax.tree.map(same, (long[0], *long[2:4]), (short[0], *short[2:4]))
  for one, two in zip(map(jax.tree.leaves, long[4:]),
                      map(jax.tree.leaves, short[4:]), strict=True):
    for gradient, alone in zip(one, two, strict=True):
      same(gradient[MASK], alone)
      np.testing.assert_array_equal(gradient[~MASK], 0.0)


@every
def test_the_teacher_gets_no_gradient_and_all_else_does(name):
  _, _, _, params, student, teacher = results("whole")[name]
  for gradient in jax.tree.leaves(teacher):
    np.testing.assert_array_equal(gradient, 0.0)
  for gradient in jax.tree.leaves((params, student)):
    # A norm after it takes the bias of a layer away.
    assert np.abs(gradient).max() > 1e-12 or gradient.ndim == 1


def test_a_variance_and_both_embeddings_are_trained():
  for variance in results("whole")["vid"][3].values():
    assert np.abs(variance["variance"]).min() > 1e-6
  (embeddings,) = results("whole")["cc"][3].values()
  for net in ("student", "teacher"):
    assert np.abs(embeddings[net]["kernel"]).max() > 1e-6


@pytest.mark.parametrize("name", ["ft", "ft_attention"])
def test_a_paraphraser_learns_from_its_own_term_alone(name, x64):
  """Else it would make the factors alike by making them poor."""
  (student, teacher), params, state = drawn(name)
  def of(key):
    def loss(params, student):
      terms = terms_of(name, params, state, student, teacher, np.ones(BATCH, bool))
      return jnp.sum(terms.terms[key].value)
    return jax.jit(jax.grad(loss, (0, 1)))(params, student)

  by_factor, into_student = of("factor")
  by_paraphrase, not_into = of("paraphrase")
  size = lambda tree: max(np.abs(x).max() for x in jax.tree.leaves(tree))
  (factor,), (paraphrase,) = by_factor.values(), by_paraphrase.values()
  for part in ("encoder", "decoder"):
    assert size(factor[part]) == 0 < 1e-6 < size(paraphrase[part])
  assert size(paraphrase["translator"]) == 0 < 1e-6 < size(factor["translator"])
  assert size(not_into) == 0 < 1e-9 < size(into_student)


@every
@pytest.mark.parametrize("valid", [0, 1, 2])
def test_small_batches_are_finite(name, valid):
  (student, teacher), params, state = jax.tree.map(np.float32, drawn(name))
  def loss(params, student):
    mask = jnp.arange(BATCH) < valid
    found = terms_of(name, params, state, student, teacher, mask)
    return jnp.sum(jnp.where(
        mask, terms_lib.total(found.terms), 0.0)), found.state
  value, gradients = jax.jit(jax.value_and_grad(
      loss, (0, 1), has_aux=True))(params, student)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves((value, gradients)))
  if valid == 0:
    assert not any(np.any(x) for x in jax.tree.leaves((value[0], gradients)))
    jax.tree.map(np.testing.assert_array_equal, value[1], state)


# Pairs, and their order.

NETS = {
    "small": {"stem": (8, 8, 4), "stage1": (8, 8, 4), "stage1.preact": (8, 8, 4),
              "stage2": (4, 4, 8), "pooled": (8,)},
    "large": {"stem": (8, 8, 4), "stage1": (8, 8, 4), "stage2": (4, 4, 8),
              "stage2.preact": (4, 4, 8), "stage3": (2, 2, 9), "pooled": (9,)},
    "dense": {"hidden_0": (8,), "pooled": (8,)},
}
NETS["small"]["odd"] = (3, 3, 8)
BOTH = (("stage1", "stage1"), ("stage2", "stage2"))


@pytest.mark.parametrize(("names", "pairs"), [
    (("at", "nst", "vid"), BOTH),
    (("fsp",), (("stem", "stem"), *BOTH)),
    (("ab",), (("stage1.preact", "stage1"), ("stage2", "stage2.preact"))),
    (("sp", "ft", "ft_attention"), (("stage2", "stage3"),)),
    (("pkt", "cc", "cc_kernel", "rkd"), (("pooled", "pooled"),))])
def test_each_has_the_taps_of_its_paper(names, pairs):
  for name in names:
    assert methods.bind(
        methods.find(name), NETS["small"], NETS["large"], ())[1] == pairs


def test_without_a_stem_the_flow_begins_with_a_stage():
  taps = {name: NETS["small"][name] for name in ("stage1", "stage2")}
  assert methods.bind(methods.find("fsp"), taps, NETS["small"], ())[1] == BOTH


@pytest.mark.parametrize("name", ["sp", "vid", "ab"])
def test_vectors_are_compared_where_a_method_can(name):
  assert methods.bind(methods.find(name), NETS["dense"], NETS["dense"], ())[1] == (
      ("hidden_0", "hidden_0"),)


@pytest.mark.parametrize(("name", "nets", "given", "says"), [
    ("at", ("dense", "dense"), (), "compares maps of stages"),
    ("fsp", ("dense", "small"), (), "compares maps of stages"),
    ("ft", ("dense", "dense"), (), "the student has none"),
    ("sp", ("large", "dense"), (("stage1", "hidden"),), "no tap 'hidden'"),
    ("at", ("small", "large"), (("pooled", "pooled"),), "are vectors"),
    ("nst", ("small", "large"), (("pooled", "stage1"),), "can be pooled"),
    ("vid", ("small", "large"), (("pooled", "stage1"),), "can be pooled"),
    ("ft", ("small", "large"), (("pooled", "pooled"),), "are vectors"),
    ("fsp", ("small", "large"), (("stage1", "stage1"),), "two pairs"),
    ("fsp", ("small", "large"), (("stage1", "stage2"), ("stage2", "stage3")),
     "as many channels in both nets, and have 4 and 8"),
    ("ab", ("small", "large"), (("pooled", "stage1"),), "no layer"),
    ("hint", ("small", "large"), (("pooled", "stage1"),), "no layer"),
    ("kd+at", ("small", "large"), (("pooled", "pooled"),), "are vectors"),
    ("fsp", ("small", "large"), (("pooled", "pooled"),), "are vectors"),
    ("fsp", ("small", "large"), (("stem", "stem"), ("pooled", "pooled")),
     "are vectors"),
    ("fsp", ("small", "small"), (("stage1", "stage1"), ("odd", "odd")),
     "can be pooled")])
def test_taps_that_do_not_fit_are_refused(name, nets, given, says):
  student, teacher = (NETS[net] for net in nets)
  with pytest.raises(ValueError, match=says):
    method, pairs = methods.bind(methods.find(name), student, teacher, given)
    shapes = [{"-".join(pair): taps[pair[of]] for pair in pairs}
              for of, taps in enumerate((student, teacher))]
    jax.eval_shape(lambda key: method.init(key, *shapes), jax.random.key(0))


def test_of_flows_the_pair_that_does_not_fit_is_told_and_what_does():
  student, teacher = NETS["small"], NETS["large"]
  own = methods.find("fsp")
  check = lambda *pairs: fitting.check(
      own, student, teacher, pairs, modes.hparams("fsp"))
  check(("stage1", "stage1"), ("stage2", "stage2"))
  with pytest.raises(ValueError) as error:
    check(("stage1", "stage1"), ("stage2", "stage3"))
  told, fits = str(error.value).split("what fits: ")
  assert told.startswith(
      "it cannot compare the student's stage2 (4x4x8) with the teacher's stage3")
  assert "('stage2', 'stage2')" in fits and "stage3" not in fits
  # A pair that is right is not what is wrong with one alone.
  with pytest.raises(ValueError, match=r"^it compares what happens.*two pairs of"):
    check(("stage1", "stage1"))


def test_taps_stay_in_the_order_of_their_pairs():
  """Through jax, which sorts the keys of a dict: stem would come after stage10."""
  pairs = tuple((tap, tap) for tap in ("stem", "stage2", "stage10"))
  outputs = types.Outputs(None, {tap: jnp.ones(1) for tap, _ in reversed(pairs)})
  found = step_lib.compared(outputs, pairs, 0)
  names = []
  jax.jit(jax.grad(lambda outputs: sum(
      names.append(name) or jnp.sum(x) for name, x in outputs.features.items())))(
          found)
  assert names == ["stem-stem", "stage2-stage2", "stage10-stage10"]


# What modules are at first.


def within(values, bound):
  assert np.abs(values).max() <= bound
  assert values.min() < -0.8 * bound and 0.8 * bound < values.max()


def test_modules_are_drawn_as_torch_draws():
  params = variational.init(jax.random.key(0), 64, 90)
  for place, inputs in enumerate((64, 90, 90)):
    layer = params[f"layer_{place}"]
    assert set(layer) == {"kernel"} and layer["kernel"].shape == (inputs, 90)
    within(layer["kernel"], inputs**-0.5)
  assert not (params["layer_1"]["kernel"] == params["layer_2"]["kernel"]).any()
  np.testing.assert_allclose(
      variational.apply(params, jnp.ones((2, 3, 3, 64)))[1], 5.0, rtol=1e-6)
  for transposed in (False, True):
    params, state = factors.init(
        jax.random.key(0), 32, 32, 16, 16, transposed=transposed)
    assert state == {} and len(params) == 3
    layer = params["layer_1"]
    assert layer["kernel"].shape == (3, 3, 32, 16)
    within(layer["kernel"], (9 * (16 if transposed else 32))**-0.5)
    within(layer["bias"], (9 * (16 if transposed else 32))**-0.5)
  params, state = factors.init(jax.random.key(0), 8, 8, 4, 4, norm=True)
  assert set(state) == {"norm_0", "norm_1", "norm_2"} == set(params) - {
      "layer_0", "layer_1", "layer_2"}
  params, _ = methods.METHODS["cc"].init(
      jax.random.key(0), {"a": (3, 3, 9)}, {"a": (64,)})
  for net, size in (("student", 81), ("teacher", 64)):
    assert params["a"][net]["kernel"].shape == (size, 128)
    within(params["a"][net]["bias"], size**-0.5)


def test_a_connector_is_left_out_where_the_shapes_agree():
  params = drawn("ab")[1]
  assert params["stage1-stage1"] == {} != params["stage2-stage2"]


def test_two_stages_are_a_recipe(own_data, tmp_path, monkeypatch):
  """As AB and FSP were published: first their term alone, then the labels."""
  monkeypatch.chdir(ROOT)
  with jax.numpy_dtype_promotion("standard"):
    assert main.run([
        "--config=tests/fixtures/chain.py", f"--config.data.dir={own_data}",
        f"--workdir={tmp_path}", "--config.tensorboard=false",
        "--config.parallel=single", "--config.nets.first.widths=(8,)",
        "--config.nets.first.method=ab", "--config.nets.first.hard_weight=0",
        "--config.nets.student.teachers=('teacher',)",
        "--config.nets.student.init_from=first"]) == 0
  rows = [json.loads(line) for line in
          (tmp_path / "results.jsonl").read_text().splitlines()]
  assert [row["method"] for row in rows] == ["hard", "ab", "kd"]
