"""A user's own nets, methods and inputs, through the ordinary command."""

import json
import zlib

from conftest import ROOT
from flax import nnx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_main import SMALL

from kd_jax import config as config_lib
from kd_jax import doctor, main, methods, models
from kd_jax.config import identity
from kd_jax.core import sources, types
from kd_jax.core.errors import UserError
from kd_jax.methods import fitting
from kd_jax.methods import terms as terms_lib
from kd_jax.models import check, nnx_model, own_model
from kd_jax.models import own as own_lib
from kd_jax.runs import jobs
from kd_jax.training import fit

NETS = '''
from flax import nnx
import flax.linen as nn
import jax.numpy as jnp
from kd_jax.core import types

class Linen(nn.Module):
  num_classes: int
  widths: tuple = (5,)
  @nn.compact
  def __call__(self, x):
    x = x.reshape((len(x), -1))
    for width in self.widths:
      x = nn.relu(nn.Dense(width)(x))
    return nn.Dense(self.num_classes)(x)

class Nnx(nnx.Module):
  def __init__(self, num_classes, image_shape, *, rngs):
    size = image_shape[0] * image_shape[1]
    self.first = nnx.Linear(size, 8, rngs=rngs)
    self.norm = nnx.BatchNorm(8, rngs=rngs)
    self.drop = nnx.Dropout(0.2, rngs=rngs)
    self.last = nnx.Linear(8, num_classes, rngs=rngs)
  def __call__(self, x):
    x = nnx.relu(self.norm(self.first(x.reshape((len(x), -1)))))
    return self.last(self.drop(x)), {"pooled": x}

def function(num_classes, image_shape):
  size = image_shape[0] * image_shape[1]
  def init(key, inputs):
    return types.Variables({"w": jnp.zeros((size, num_classes))}, {})
  def apply(variables, inputs, **context):
    flat = inputs.reshape((len(inputs), -1))
    return types.Outputs(flat @ variables.params["w"], {}), {}
  return types.Model(init, apply)

def makes_linen(num_classes):
  return Linen(num_classes)

def makes_nothing(num_classes):
  return 3

def ends(num_classes):
  raise SystemExit(0)

class Ends(nn.Module):
  num_classes: int
  def __call__(self, x):
    raise SystemExit(0)

broken = 5
'''
METHOD = '''
from kd_jax.methods import METHODS, Method, nothing
from kd_jax.methods.terms import Term

def terms(own, student, teacher, batch, hparams):
  return METHODS["kd"].terms(own, student, teacher, batch, hparams) | {
      "pull": Term(hparams.numbers["pull"], (student.logits**2).mean(-1))}

mine = Method("mine {pull:g}", nothing, terms, numbers={"pull": 0.5})
kd = mine
other = 3
'''


@pytest.fixture(autouse=True)
def _as_users_run_it(monkeypatch):
  monkeypatch.chdir(ROOT)
  with jax.numpy_dtype_promotion("standard"):
    yield


@pytest.fixture
def own(tmp_path):
  """The path of a user's file of this text."""
  def write(text, name="mine.py"):
    (tmp_path / name).write_text(text)
    return str(tmp_path / name)
  return write


@pytest.fixture
def small(own_data, tmp_path, teachers):
  """Runs the small job; gives exit code and rows by net or point."""
  def run(*more, workdir="run"):
    place = tmp_path / workdir
    code = main.run([*SMALL, f"--config.data.dir={own_data}",
                     f"--config.teacher.dir={teachers}", f"--workdir={place}",
                     *more])
    file = place / "results.jsonl"
    return code, [json.loads(line) for line in
                  file.read_text().splitlines()] if file.is_file() else []
  return run


@pytest.mark.parametrize(("name", "parameters"), [
    ("Linen", 120 * 12 + 12 + 12 * 7 + 7), pytest.param(
        "makes_linen", 120 * 5 + 5 + 42, marks=pytest.mark.slow),
    ("Nnx", 120 * 8 + 8 + 16 + 8 * 7 + 7), ("function", 840)])
def test_an_own_net_of_a_file_is_a_student(small, own, name, parameters):
  code, rows = small(f"--config.student.name={own(NETS)}:{name}",
                     "--config.student.widths=(12,)")
  assert code == 0
  assert [row["net"] for row in rows] == ["baseline", "distilled"]
  assert {row["parameters"] for row in rows} == {parameters}


@pytest.mark.slow
def test_an_nnx_net_is_teacher_and_student_in_lanes(small, own):
  name = f"{own(NETS)}:Nnx"
  words = (f"--config.student.name={name}", f"--config.teacher.name={name}",
           "--config.method=kd+rkd")
  code, swept = small(*words, "--sweep.seed=0,1", "--config.sweep.lanes=2x1")
  assert code == 0 and len(swept) == 2
  code, alone = small(*words, "--config.seed=1", workdir="alone")
  assert code == 0
  assert alone[1]["test_nll"] == pytest.approx(swept[1]["test_nll"], rel=0.01)


@pytest.mark.parametrize(("name", "words"), [
    ("nothing", "has no nothing"), ("makes_nothing", "gives a int"),
    ("ends", "ends the program"), ("Ends", "ends the program"),
    ("broken", "is a int, not a class or a function")])
def test_what_is_no_net_is_told_in_a_line(small, own, capsys, name, words):
  code, _ = small(f"--config.student.name={own(NETS)}:{name}")
  told = capsys.readouterr().err
  assert code == 2 and words in told and len(told.strip().splitlines()) == 1


def test_a_file_that_raises_is_told(small, own, capsys):
  code, _ = small(f"--config.student.name={own('1 / 0')}:Net")
  told = capsys.readouterr().err
  assert code == 2 and "ZeroDivisionError" in told and "Traceback" not in told


@pytest.mark.slow
def test_a_changed_file_is_another_net(small, own, capsys):
  name = f"--config.student.name={own(NETS)}:makes_linen"
  _, first = small(name)
  own(NETS.replace("(5,)", "(6,)"))
  _, second = small(name)
  assert first[0]["fingerprint"] != second[0]["fingerprint"]
  assert first[0]["parameters"] != second[0]["parameters"]


class Stochastic(nnx.Module):
  def __init__(self, *, rngs):
    self.layers = nnx.List([nnx.Linear(4, 4, rngs=rngs) for _ in range(2)])
    self.norm = nnx.BatchNorm(4, momentum=0.5, rngs=rngs)
    self.drop = nnx.Dropout(0.5, rngs=rngs)

  def __call__(self, x):
    for layer in self.layers:
      x = layer(x)
    return self.drop(self.norm(x))


def test_nnx_state_and_dropout_are_those_of_the_step(key):
  model = nnx_model(lambda rngs: Stochastic(rngs=rngs))
  x = jax.random.normal(key, (6, 4))
  held = model.init(key, x)
  assert jax.tree.map(jnp.shape, held.params["layers"]) == {
      str(n): {"bias": (4,), "kernel": (4, 4)} for n in range(2)}
  run = jax.jit(lambda held, k: model.apply(
      held, x, train=True, rngs={"dropout": k}))
  one, state = run(held, jax.random.key(1))
  again, _ = run(held, jax.random.key(1))
  other, _ = run(held, jax.random.key(2))
  np.testing.assert_array_equal(one.logits, again.logits)
  assert np.any(one.logits != other.logits)
  assert 4 < int(jnp.sum(one.logits == 0)) < 20  # a half of 24 is dropped
  # The statistics move by half of the way, and evaluation uses and keeps them.
  layers = held.params["layers"]
  before = x
  for layer in layers.values():
    before = before @ layer["kernel"] + layer["bias"][None]
  np.testing.assert_allclose(
      state["norm"]["mean"], 0.5 * before.mean(0), rtol=1e-4, atol=1e-6)
  judged, kept = model.apply(
      types.Variables(held.params, state), x, train=False)
  jax.tree.map(np.testing.assert_array_equal, kept, state)
  assert not np.any(np.asarray(judged.logits) == 0)
  # It is the module's own call.
  module = Stochastic(rngs=nnx.Rngs(key))
  module.eval()
  with jax.numpy_rank_promotion("allow"):
    wanted = module(x)
  np.testing.assert_allclose(
      model.apply(held, x, train=False)[0].logits, wanted, rtol=1e-5, atol=1e-6)


def test_a_module_is_asked_for_what_it_names():
  class Odd(nn.Module):
    @nn.compact
    def __call__(self, x, where):
      return x

  with pytest.raises(TypeError, match="asks for 'where'"):
    own_model(Odd, {"num_classes": 3})


def test_an_own_method_of_a_file_has_keys_and_lanes(small, own, capsys):
  method = f"{own(METHOD)}:mine"
  code, rows = small(f"--config.method={method}", "--config.mine.pull=0.25")
  assert code == 0
  assert rows[1]["method"] == method and "mine 0.25" in rows[1]["loss"]
  assert "--config.mine.pull=0.25" in rows[1]["command"]
  assert "mine.pull" not in rows[0]["command"]
  code, swept = small(f"--config.method={method}", "--sweep.mine.pull=0,0.25,1",
                      "--config.sweep.lanes=1x3", workdir="swept")
  assert code == 0 and len(swept) == 3
  assert swept[1]["fingerprint"] == rows[1]["fingerprint"]
  assert swept[0]["test_nll"] != swept[2]["test_nll"]
  # Without a pull it is kd.
  _, plain = small("--config.method=kd", workdir="plain")
  assert plain[1]["test_wrong_ids"] == swept[0]["test_wrong_ids"]
  # Its file is part of what it is.
  own(METHOD.replace("**2", "**4"))
  _, changed = small(f"--config.method={method}", "--config.mine.pull=0.25")
  assert changed[-1]["net"] == "distilled"
  assert changed[-1]["fingerprint"] != rows[1]["fingerprint"]


@pytest.mark.parametrize(("name", "words"), [
    ("other", "must be a kd_jax.methods.Method"),
    ("kd", "there is another method kd"), ("none", "has no none"),
    ("mines", "has no mines; did you mean mine?")])
def test_what_is_no_method_is_told_in_a_line(small, own, capsys, name, words):
  code, _ = small(f"--config.method={own(METHOD)}:{name}")
  told = capsys.readouterr().err
  assert code == 2 and words in told and len(told.strip().splitlines()) == 1


def test_an_error_in_an_own_net_has_its_place(small, own, capsys):
  file = own("import flax.linen as nn\nclass Net(nn.Module):\n  num_classes: int\n"
             "  @nn.compact\n  def __call__(self, x):\n    return x.reshap(3)\n")
  code, _ = small(f"--config.student.name={file}:Net")
  line, = capsys.readouterr().err.strip().splitlines()
  assert code == 2 and "AttributeError" in line and f"({file}, line 6)" in line


# A method whose terms begin in line 5; what is wrong, and in which line it is told.
BROKEN = """
from kd_jax.methods import Method, nothing
from kd_jax.methods.terms import Changed, Term
import jax.numpy as jnp
def terms(own, student, teacher, batch, hparams):
  x = student.logits
  value = x[:, 0]
  return {returns}
mine = Method("{formula}", {init}, terms, {more})
"""


def _broken(returns="{'t': Term(1.0, value)}", formula="mine", init="nothing",
            more=""):
  return BROKEN.format(returns=returns, formula=formula, init=init, more=more)


@pytest.mark.parametrize(("text", "words", "line"), [
    (_broken(formula="{zz:g} * D"), "its formula has 'zz', which is none of its "
     "numbers; known: hard_weight, soft_weight, temperature", None),
    (_broken(formula="{0} * D"), "its formula '{0} * D' cannot be filled in", None),
    (_broken(formula="x {"), "its formula 'x {' cannot be filled in", None),
    (_broken(more="weights=('wieght',), numbers={'weight': 1.0}"),
     "its weights has 'wieght', which is none of its numbers; did you mean weight",
     None),
    (_broken(init="{}"), "its init is a dict, must be a function", None),
    (_broken("value"), "its terms are an array [6], must be a dict of Terms", 5),
    (_broken("{}"), "its terms are a dict, must be a dict of Terms", 5),
    (_broken("{'t': value}"), "its term 't' is an array [6], must be a Term", 5),
    (_broken("{'t': Term(1.0, value.mean())}"), "the value of its term t is one "
     "number; give one for each example, [6], without the mean", 5),
    (_broken("{'t': Term(1.0, x)}"), "the value of its term t is an array "
     "[6, 7]; give one number for each example, [6]", 5),
    (_broken("{'t': Term(value, value)}"),
     "the weight of its term t is an array [6], must be one number", 5),
    (_broken("{'t': Term(1.0, (x - x[:, :3]).sum(-1))}"), "(6, 7), (6, 3)", 8),
    (_broken("{'t': Term(hparams.numbers['power'], value)}"), "TypeError: ", 8),
    (_broken("{'t': Term(1.0, value if value[0] > 0 else -value)}"),
     "use jnp.where(a > b, c, d) or jax.lax.cond, ", 8),
    (_broken(init="lambda *_: {}"), "its init gives a dict, must give (params, "
     "state)", 9),
    (_broken(init="lambda *_: {}['a']"), "KeyError: 'a'", 9),
    (_broken("Changed({'t': Term(1.0, value)}, {'n': value})"),
     "its state after a step is {'n': ((6,), 'float32')}, must have the shapes "
     "and types of its init, {}", 5),
])
def test_a_mistake_in_a_method_of_a_file_is_a_line(own, text, words, line):
  file = own(text)
  with pytest.raises(UserError) as told:
    methods.add(f"{file}:mine")
    assert line is not None, "not refused when it is read"
    outputs = types.Outputs(jnp.zeros((6, 7)), {})
    @jax.eval_shape
    def _():
      made = methods.METHODS["mine"]
      state = made.init(jax.random.key(0), {}, {})
      return made.terms(terms_lib.Own(*state), outputs, outputs, None,
                        types.Hparams())
  told = str(told.value)
  assert told.startswith(f"config.method={file}:mine: ") and words in told
  assert "\n" not in told
  assert line is None or told.endswith(f"({file}, line {line})")


def test_a_method_that_relates_examples_may_give_one_number(own):
  file = own(_broken("{'t': Term(1.0, value.mean())}", more="relations=True"))
  methods.add(f"{file}:mine")
  outputs = types.Outputs(jnp.array([[2.0, 0.0], [4.0, 0.0]]), {})
  found = methods.METHODS["mine"].terms(
      terms_lib.Own({}, {}), outputs, outputs, None, types.Hparams())
  assert found.terms["t"].value == 3.0 and found.state == {}


def test_a_run_and_the_doctor_tell_of_a_method_in_the_same_line(
    small, own, own_data, capsys):
  file = own(_broken("{'t': Term(1.0, value.mean())}"))
  code, _ = small(f"--config.method={file}:mine")
  told = capsys.readouterr().err.strip()
  assert code == 2 and told.count("\n") == 0
  assert told.endswith(f"({file}, line 5)") and "is one number" in told
  assert doctor.run([*SMALL, f"--config.data.dir={own_data}",
                     f"--config.method={file}:mine"]) != 0
  said = "".join(capsys.readouterr())
  assert told.removeprefix("error: ") in " ".join(said.split())
  assert "not foreseen" not in said


# Losses of which none can be computed; what each is in a line, and where.
CANNOT = """
import jax, jax.numpy as jnp
import numpy as np
from kd_jax import losses
def mean(student_logits, teacher_logits):
  return losses.distillation_kl(student_logits, teacher_logits, 1.0).mean()
def branches(student_logits, teacher_logits, temperature):
  return student_logits[:, 0] if temperature > 1 else student_logits[:, 1]
def raises(student_logits, teacher_logits):
  return student_logits.nothing
def of_numpy(student_logits, teacher_logits):
  return np.square(np.asarray(student_logits)).sum(-1)
def number(student_logits, temperature):
  return student_logits[:, 0] / float(temperature)
def rows(student_logits, teacher_logits):
  return student_logits[student_logits[:, 0] > 0, 0]
def agrees(student_logits, teacher_logits):
  return student_logits.argmax(-1) == teacher_logits.argmax(-1)
def half(student_logits, teacher_logits):
  return jnp.square(student_logits.astype(jnp.float16)).sum(-1)
def loops(student_logits, teacher_logits):
  return jax.lax.while_loop(lambda x: x.sum() > 9, lambda x: x / 2,
                            student_logits)[:, 0]
"""
_SWEPT = ("--sweep.temperature=1,2", "--config.sweep.lanes=1x2")


@pytest.mark.parametrize(("name", "words", "line", "more"), [
    ("mean", "the value of its term loss is one number; give one", 5, ()),
    ("branches", "use jnp.where(a > b, c, d) or jax.lax.cond, ", 8, ()),
    ("branches", "use jnp.where(a > b, c, d) or jax.lax.cond, ", 8, _SWEPT),
    ("raises", "AttributeError: ", 10, ()),
    ("of_numpy", "use jnp in place of np, ", 12, ()),
    ("number", "leave out float(), int(), range() and .item(), ", 14, ()),
    ("rows", "use jnp.where(mask, x, 0), ", 16, ()),
    ("agrees", "the value of its term loss is of bool, which has no gradient", 17,
     ("--config.teacher.count=2",)),
    ("half", "the value of its term loss is of float16, which ends at", 19, ()),
    ("loops", "ValueError: Reverse-mode differentiation does not work", None, ()),
    ("loops", "ValueError: Reverse-mode differentiation does not work", None,
     ("--config.mixup=0.2",))])
def test_a_loss_that_cannot_be_computed_is_refused_before_any_training(
    own, own_data, tmp_path, capsys, monkeypatch, name, words, line, more):
  def trains(*_, **__):
    raise AssertionError("trained")
  monkeypatch.setattr(fit, "fit", trains)
  file = own(CANNOT)
  code = main.run([*SMALL, f"--config.data.dir={own_data}", *more,
                   f"--config.method={file}:{name}", f"--workdir={tmp_path / 'r'}"])
  told, = capsys.readouterr().err.strip().splitlines()
  assert code == 2
  assert told.startswith(f"error: config.method={file}:{name}: {words}")
  assert line is None or told.endswith(f"({file}, line {line})")


def test_the_doctor_knows_a_loss_without_a_gradient(own, own_data, capsys):
  file = own(CANNOT)
  assert doctor.run([*SMALL, f"--config.data.dir={own_data}",
                     f"--config.method={file}:loops"]) == 1
  said = " ".join(capsys.readouterr().out.split())
  assert f"problem: config.method={file}:loops: ValueError: Reverse" in said
  assert "1 problem(s)" in said and "not foreseen" not in said


def test_of_alike_points_one_step_is_tried(small, own, monkeypatch):
  tried = []
  monkeypatch.setattr(jobs, "check_own_step", lambda *each: tried.append(each))
  code, rows = small(f"--config.method={own(LOSS)}:loss", "--sweep.seed=0,1",
                     "--sweep.batch_size=100,200")
  assert code == 0 and len(rows) == 4
  assert [training.batch_size for _, _, training, _ in tried] == [100, 200]


def test_a_net_of_a_recipe_is_tried_beside_its_teachers(
    own, own_data, tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(fit, "fit", None)
  code = main.run([
      "--config=tests/fixtures/chain.py", f"--config.data.dir={own_data}",
      f"--config.nets.student.method={own(CANNOT)}:wrong_place",
      f"--workdir={tmp_path / 'chain'}"])
  assert code == 2 and "has no wrong_place" in capsys.readouterr().err
  code = main.run([
      "--config=tests/fixtures/chain.py", f"--config.data.dir={own_data}",
      f"--config.nets.student.method={own(CANNOT)}:branches",
      f"--workdir={tmp_path / 'chain'}"])
  told, = capsys.readouterr().err.strip().splitlines()
  assert code == 2 and told.startswith("error: config.nets.student.method=")
  assert "use jnp.where" in told


PLAIN_LISTS = """
from flax import nnx
class Net(nnx.Module):
  def __init__(self, num_classes, image_shape, *, rngs):
    size = image_shape[0] * image_shape[1]
    layer = nnx.Linear(size, num_classes, rngs=rngs)
    {}
  def __call__(self, x):
    return self.layers[0](x.reshape((len(x), -1)))
"""


@pytest.mark.parametrize(("text", "remedy", "placed"), [
    ("self.layers = [layer]", "nnx.List([...])", True),
    ("self.layers = (layer,)", "nnx.List([...])", True),
    ("self.layers = {0: layer}", "nnx.Dict({...})", True),
    ("self.layers = []; self.layers.append(layer)", "nnx.List([...])", False)])
def test_modules_in_a_plain_list_come_with_the_whole_remedy(
    small, own, capsys, text, remedy, placed):
  file = own(PLAIN_LISTS.format(text))
  code, _ = small(f"--config.student.name={file}:Net")
  told, = capsys.readouterr().err.strip().splitlines()
  assert code == 2 and told.startswith(
      f"error: config.student.name={file}:Net: use self.layers = {remedy}, as ")
  assert told.endswith(f"({file}, line 7)") == placed


@pytest.mark.parametrize("when", ["", "train and "])
def test_an_if_in_a_net_comes_with_the_whole_remedy(small, own, capsys, when):
  file = own("import flax.linen as nn\nclass Net(nn.Module):\n  num_classes: int\n"
             "  @nn.compact\n  def __call__(self, x, train):\n"
             "    x = nn.Dense(self.num_classes)(x.reshape((len(x), -1)))\n"
             f"    return x if {when}x.sum() > 0 else 2 * x\n")
  code, _ = small(f"--config.student.name={file}:Net")
  told, = capsys.readouterr().err.strip().splitlines()
  assert code == 2 and "use jnp.where(a > b, c, d) or jax.lax.cond, as" in told
  assert told.endswith(f"({file}, line 7)")


def test_a_method_that_fits_no_taps_says_which_do(own):
  file = own(METHOD + """
def differ(own, student, teacher, batch, hparams):
  pair, = student.features
  apart = student.features[pair] - teacher.features[pair]
  return {"d": Term(1.0, (apart**2).mean(-1))}
pair = mine._replace(
    terms=differ, numbers={}, formula="d", pairs=lambda s, t: (("a", "a"),))
""")
  methods.add(f"{file}:pair")
  taps = {"a": (3,), "b": (4,)}, {"a": (4,), "b": (3,)}
  with pytest.raises(ValueError, match=(
      r"cannot compare the student's a \(3\) with the teacher's a \(4\): TypeError"
      rf".*{file}, line 15\); what fits: \('a', 'b'\), \('b', 'a'\)")):
    fitting.check(methods.METHODS["pair"], *taps, (), types.Hparams())


LOSS = """
from kd_jax import losses
def loss(student_logits, teacher_logits, labels, temperature, alpha):
  return losses.distillation_loss(student_logits, teacher_logits, labels,
                                  temperature=temperature, alpha=alpha)
def mean(student_logits, teacher_logits, labels, temperature, alpha):
  return loss(student_logits, teacher_logits, labels, temperature, alpha).mean()
def wide(student_logits, teacher_logits):
  return student_logits - teacher_logits
def given(z, v, y, *, temperature, alpha):
  return loss(z, v, y, temperature, alpha)
def places(z, v, y, t, a):
  return loss(z, v, y, t, a)
def by_name(alpha, temperature, labels, teacher_logits, student_logits):
  return loss(student_logits, teacher_logits, labels, temperature, alpha)
def few(teacher_logits, student_logits):
  return student_logits[:, 0] - teacher_logits[:, 0]
def alone(labels, student_logits):
  return losses.hard_cross_entropy(student_logits, labels)
def odd(student_logits, power):
  return student_logits**power
"""
# z and v with p = (3/4, 1/4) and q = (1/4, 3/4) at T = 2, of the label 0 and 1.
_Z, _V = 2 * np.log([[3.0, 1.0], [1.0, 3.0]]), 2 * np.log([[1.0, 3.0], [1.0, 3.0]])


def _terms_of_loss(own, name, **numbers):
  methods.add(f"{own(LOSS)}:{name}")
  outputs = [types.Outputs(jnp.asarray(x, jnp.float32), {}) for x in (_Z, _V)]
  ids = jnp.arange(2)
  return methods.METHODS[name].terms(
      terms_lib.Own({}, {}), *outputs, types.Batch((), ids, ids, ids, ids >= 0),
      types.Hparams(**numbers)).terms


@pytest.mark.parametrize("name", ["loss", "given", "places", "by_name"])
def test_a_loss_of_a_file_is_a_term_with_its_alpha_and_weights(own, name):
  # At T = 1 these are (9/10, 1/10), so CE = log(10/9); T**2 KL = 4 * log(3) / 2.
  terms = _terms_of_loss(
      own, name, temperature=2.0, hard_weight=jnp.float32(0.5),
      soft_weight=jnp.float32(1.5))
  term, = terms.values()
  ce, kl = np.log(10 / 9), np.array([0.5 * np.log(3), 0.0])
  assert term.weight == 2.0
  np.testing.assert_allclose(
      term.weight * term.value, 0.5 * ce + 1.5 * 4 * kl, rtol=1e-5, atol=1e-6)
  # As of a warmup of alpha = 1, at its start.
  term, = _terms_of_loss(
      own, name, temperature=2.0, hard_weight=jnp.float32(0),
      soft_weight=jnp.float32(0)).values()
  assert term.weight == 0 and np.isfinite(term.value).all()


def test_a_loss_of_a_file_is_given_what_it_names(own):
  term, = _terms_of_loss(own, "few", hard_weight=0.3, soft_weight=0.3).values()
  np.testing.assert_allclose(term.value, (_Z - _V)[:, 0], rtol=1e-6)
  assert term.weight == 1
  assert methods.METHODS["few"].named() == "few"
  term, = _terms_of_loss(own, "alone").values()
  np.testing.assert_allclose(term.value, np.log([10 / 9, 10 / 9]), rtol=1e-5)
  _terms_of_loss(own, "loss")
  of = lambda field: [getattr(methods.METHODS[name], field)
                      for name in ("loss", "few", "alone")]
  assert of("needs_teacher") == [True, True, False]
  assert of("softens") == [True, False, False]
  assert of("reads_labels") == [True, False, True]
  assert methods.METHODS["loss"].formula.format(
      hard_weight=0.1, soft_weight=0.9, temperature=4.0) == (
          "loss(hard 0.1, soft 0.9), T = 4")


@pytest.mark.parametrize("more", [
    "class_weights=balanced", "label_smoothing=0.1"])
def test_what_does_not_reach_a_loss_of_a_file_is_refused(small, own, capsys, more):
  file = own(LOSS)
  assert small(f"--config.method={file}:loss", f"--config.{more}")[0] == 2
  told = capsys.readouterr().err
  assert f"which {more.split('=')[0]} would not reach" in told
  assert small(f"--config.method={file}:few", f"--config.{more}",
               "--config.steps=2")[0] == 0, "it reads no label"


@pytest.mark.parametrize(("name", "words"), [
    ("mean", "the value of its term loss is one number; give one for each example, "
     "[2], without the mean"),
    ("wide", "the value of its term loss is an array [2, 2]"),
    ("odd", "odd(student_logits, power): must take (student_logits, "
     "teacher_logits, labels, temperature, alpha)")])
def test_a_loss_of_a_file_that_is_none_is_refused(own, name, words):
  with pytest.raises(UserError) as told:
    _terms_of_loss(own, name)
  assert words in str(told.value) and f"mine.py:{name}: " in str(told.value)


def test_a_loss_of_a_file_trains_as_kd_alone_and_in_lanes(small, own):
  swept = ("--sweep.temperature=1,4", "--sweep.alpha=0.5,1",
           "--config.sweep.lanes=1x4")
  code, ours = small(f"--config.method={own(LOSS)}:loss", *swept)
  _, theirs = small("--config.method=kd", *swept, workdir="kd")
  assert code == 0 and len(ours) == len(theirs) == 4
  for mine, kd in zip(ours, theirs):
    assert mine["test_nll"] == pytest.approx(kd["test_nll"], rel=1e-4)
  assert len({row["test_nll"] for row in ours}) == 4
  assert "loss(hard 0.5, soft 0.5), T = 4" in {row["loss"] for row in ours}


def test_a_method_whose_file_is_as_it_was_stays_the_same_object(own):
  file = own(METHOD)
  methods.add(f"{file}:mine")
  before = methods.METHODS["mine"]
  methods.add(f"{file}:mine")
  assert methods.METHODS["mine"] is before
  own(METHOD.replace("**2", "**4"))
  methods.add(f"{file}:mine")
  assert methods.METHODS["mine"] is not before


@pytest.fixture
def tokens(tmp_path, monkeypatch):
  """A set of token ids, and the words that distil on it."""
  draw = np.random.default_rng(0)
  def some(number):
    label = draw.integers(0, 3, number)
    ids = 1 + 10 * label[:, None] + draw.integers(0, 10, (number, 6))
    ids[draw.random((number, 6)) < 0.3] = 0
    return ids, label.astype(np.int64)
  (x_train, y_train), (x_test, y_test) = some(200), some(90)
  np.savez(tmp_path / "topics.npz", x_train=x_train, y_train=y_train,
           x_test=x_test, y_test=y_test)
  net = "examples/tokens.py:BagOfEmbeddings"
  return ("--config.data.name=topics", f"--config.data.dir={tmp_path}",
          f"--config.student.name={net}", f"--config.teacher.name={net}",
          "--config.teacher.views=none", "--config.teacher.epochs=20",
          "--config.epochs=20", "--config.optimizer.learning_rate=0.02",
          "--config.teacher.optimizer.learning_rate=0.02")


@pytest.mark.slow
def test_token_ids_are_distilled_alone_and_in_lanes(small, tokens):
  code, alone = small(*tokens, "--config.method=kd+rkd")
  assert code == 0 and alone[1]["test_errors"] < 10
  code, swept = small(*tokens, "--config.method=kd+rkd", "--sweep.seed=0,1",
                      "--config.sweep.lanes=2x1", workdir="swept")
  assert code == 0
  assert swept[0]["test_nll"] == pytest.approx(alone[1]["test_nll"], rel=0.01)


def test_views_are_for_images(small, tokens, capsys):
  code, _ = small(*tokens, "--config.student.views=shift2")
  assert code == 2 and "is for images" in capsys.readouterr().err


@pytest.mark.parametrize(("ids", "words"), [
    (-np.ones((20, 4), np.int32), "token ids from -1"),
    (np.ones((20, 4, 4), np.int32), "got int32 [20, 4, 4]")])
def test_inputs_of_no_kind_are_refused(small, tmp_path, capsys, ids, words):
  label = np.arange(20) % 2
  np.savez(tmp_path / "odd.npz", x_train=ids, y_train=label, x_test=ids,
           y_test=label)
  code, _ = small("--config.data.name=odd", f"--config.data.dir={tmp_path}")
  assert code == 2 and words in capsys.readouterr().err


@pytest.mark.slow
def test_a_method_is_swept_for_a_net_and_named_by_a_config_file(
    own, own_data, tmp_path, capsys):
  method = f"{own(METHOD)}:mine"
  chain = ["--config=tests/fixtures/chain.py", f"--config.data.dir={own_data}",
           "--config.tensorboard=false", f"--workdir={tmp_path / 'chain'}"]
  assert main.run([*chain, f"--sweep.nets.student.method=kd,{method}",
                   "--config.sweep.lanes=1x1"]) == 0
  file = tmp_path / "config.py"
  file.write_text(
      "from kd_jax import config as config_lib\n"
      "def get_config():\n"
      "  config = config_lib.default()\n"
      "  config.alpha = 0.5\n"
      f"  config.method = {method!r}\n"
      "  return config\n")
  config, _ = main.parse([f"--config={file}", "--config.mine.pull=0.75"])
  assert config.mine.pull == 0.75
  assert main.run([f"--config={file}", "--config.mine.push=1"]) == 2
  assert "mine.push" in capsys.readouterr().err


def test_where_a_file_lies_makes_no_other_run(own, tmp_path):
  (tmp_path / "sub").mkdir()
  one, other = own(METHOD), own(METHOD, "sub/mine.py")
  values = config_lib.flatten(main.parse([
      "--config=configs/mnist.py", f"--config.method={one}:mine"])[0])
  of = lambda place: identity.student(
      values | {"method": f"{place}:mine"}, content="d", source={},
      method=f"{place}:mine", weights=(1, 1))
  assert of(one) == of(other) and of(one)["lane"] == "mine"


def test_a_method_that_says_all_stands_alone(own):
  methods.add(f"{own(METHOD)}:mine")
  for field in ("gradients", "inference"):
    methods.METHODS["mine"] = methods.METHODS["mine"]._replace(
        **{field: lambda *arguments: None})
    with pytest.raises(KeyError):
      methods.find("mine+rkd")


@pytest.mark.filterwarnings("ignore:Using .Module.sow")
def test_what_an_nnx_module_sows_is_no_state(key):
  class Sows(nnx.Module):
    def __init__(self, *, rngs):
      self.layer = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
      y = self.layer(x)
      self.sow(nnx.Intermediate, "seen", y)
      return y

  class Inherits(Sows):
    pass

  model = own_model(Inherits, {"num_classes": 3})
  held = model.init(key, None)
  outputs, state = model.apply(held, jnp.ones((2, 4)), train=True)
  assert outputs.logits.shape == (2, 3)
  assert jax.tree.structure(state) == jax.tree.structure(held.state)


def test_a_name_without_a_source_is_told(small, capsys):
  code, _ = small("--config.student.name=math:sqrt")
  assert code == 2 and "has no source" in capsys.readouterr().err


SWITCHED = """
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from kd_jax.models.linen import Dropout

class Base(nn.Module):
  num_classes: int
  @nn.compact
  def net(self, x, train):
    x = nn.Dense(8)(x.reshape((len(x), -1)))
    x = nn.BatchNorm(use_running_average=not train)(x)
    x = nn.Dropout(0.5)(x, deterministic=not train)
    return nn.Dense(self.num_classes)(x)

class Deterministic(Base):
  def __call__(self, x, deterministic: bool = True):
    return self.net(x, not deterministic)
class Training(Base):
  def __call__(self, x, training=True): return self.net(x, training)
class IsTraining(Base):
  def __call__(self, x, is_training): return self.net(x, is_training)
class Running(Base):
  def __call__(self, x, use_running_average=None):
    return self.net(x, not use_running_average)
class Nnx(nnx.Module):
  def __init__(self, num_classes, image_shape, *, rngs):
    size = image_shape[0] * image_shape[1]
    self.norm = nnx.BatchNorm(size, rngs=rngs)
    self.drop = nnx.Dropout(0.5, rngs=rngs)
    self.last = nnx.Linear(size, num_classes, rngs=rngs)
  def __call__(self, x, training: bool = False):
    x = self.norm(x.reshape((len(x), -1)), use_running_average=not training)
    return self.last(self.drop(x, deterministic=not training))

class Options(Base):
  # Options that change what it says, and neither draws nor state.
  def __call__(self, x, train, use_bias: bool = True, return_features=False,
               mode="bilinear", depth: int = 0, scale=None, loss_rate=0.5):
    z = self.net(x, train)
    z = z + use_bias
    return (z, [x]) if return_features else z
class FlaxOptions(Base):
  @nn.compact
  def __call__(self, x, *, deterministic=True, wide: bool = False):
    z = self.net(x, not deterministic)
    return z + nn.Dense(3)(z) if wide else z
class Frozen(nn.Module):
  num_classes: int
  @nn.compact
  def __call__(self, x, train=False):
    x = nn.Dense(8)(x.reshape((len(x), -1)))
    x = nn.BatchNorm(use_running_average=True)(x)
    x = nn.Dropout(0.5)(x, deterministic=not train)
    return nn.Dense(self.num_classes)(x)
class HasRng(nn.Module):
  num_classes: int
  @nn.compact
  def __call__(self, x):
    x = nn.Dropout(0.5)(x.reshape((len(x), -1)),
                        deterministic=not self.has_rng("dropout"))
    return nn.Dense(self.num_classes)(x)
class Counts(nn.Module):
  num_classes: int
  @nn.compact
  def __call__(self, x, train):
    seen = self.variable("count", "seen", jnp.zeros, ())
    seen.value = jnp.where(train, seen.value + 1, seen.value)
    return nn.Dense(self.num_classes)(x.reshape((len(x), -1)))
class NnxOptions(Nnx):
  def __call__(self, x, is_train=False, use_bias: bool = True):
    return Nnx.__call__(self, x, is_train) + use_bias
class NnxFrozen(Nnx):
  def __call__(self, x, train):
    x = self.norm(x.reshape((len(x), -1)), use_running_average=True)
    return self.last(self.drop(x))

class OtherName(Base):
  def __call__(self, x, learning: bool = False): return self.net(x, learning)
class OwnNoise(nn.Module):
  num_classes: int
  @nn.compact
  def __call__(self, x, train, noisy: bool = False):
    z = nn.Dense(self.num_classes)(x.reshape((len(x), -1)))
    z = nn.Dropout(0.5)(z, deterministic=not train)
    return z + jax.random.normal(self.make_rng("noise"), z.shape) if noisy else z
class OwnRate(nn.Module):
  num_classes: int
  @nn.compact
  def __call__(self, x, p=0.0):
    z = nn.Dense(self.num_classes)(x.reshape((len(x), -1)))
    return nn.Dropout(p)(z, deterministic=False) if p else z
class Statistics(nn.Module):
  num_classes: int
  @nn.compact
  def __call__(self, x, live=None):
    x = nn.BatchNorm(use_running_average=not live)(x.reshape((len(x), -1)))
    return nn.Dense(self.num_classes)(x)
class Swallows(Statistics):
  @nn.compact
  def __call__(self, x, **more):
    x = nn.BatchNorm(use_running_average=not more.get("train"))(
        x.reshape((len(x), -1)))
    return nn.Dense(self.num_classes)(x)
class Forgets(nn.Module):
  num_classes: int
  @nn.compact
  def __call__(self, x, train):
    return Statistics(self.num_classes)(x)
class NnxOther(Nnx):
  def __call__(self, x, learning=False): return Nnx.__call__(self, x, learning)
class NnxForgets(nnx.Module):
  def __init__(self, num_classes, image_shape, *, rngs):
    self.net = Nnx(num_classes, image_shape, rngs=rngs)
  def __call__(self, x, train): return self.net(x)
class NnxOff(Nnx):
  def __call__(self, x, train):
    x = self.norm(x.reshape((len(x), -1)))
    return self.last(self.drop(x, deterministic=True))
class NoGradient(nn.Module):
  num_classes: int
  @nn.compact
  def __call__(self, x, train):
    z = nn.Dense(self.num_classes)(x.reshape((len(x), -1)))
    if train:
      z = jax.lax.while_loop(lambda z: z.sum() > 9, lambda z: z / 2, z)
    return z
class Auxiliary(Base):
  def __call__(self, x, train):
    z = self.net(x, train)
    return jnp.concatenate([z, z], -1) if train else z
class SoftmaxInTraining(Base):
  def __call__(self, x, train):
    z = self.net(x, train)
    return nn.softmax(z) if train else z
class BornInTraining(Base):
  @nn.compact
  def __call__(self, x, train):
    if train:
      self.variable("memory", "count", jnp.zeros, ()).value += 1
    return self.net(x, train)
class OfTheBatch(Base):
  @nn.compact
  def __call__(self, x, train):
    last = self.variable("memory", "last", jnp.zeros, (len(x),))
    if train:
      last.value = x.mean((1, 2, 3))
    return self.net(x, train)
class Mode(Base):
  def __call__(self, x, mode="eval"): return self.net(x, mode == "train")
class Field(Base):
  training: bool = False
  def __call__(self, x): return self.net(x, self.training)
class OddField(Base):
  live: bool = False
  def __call__(self, x): return self.net(x, self.live)
class AlwaysOn(Base):
  def __call__(self, x): return self.net(x, True)
class NormAlwaysOn(nn.Module):
  num_classes: int
  @nn.compact
  def __call__(self, x):
    x = nn.BatchNorm(use_running_average=False)(x.reshape((len(x), -1)))
    return nn.Dense(self.num_classes)(x)
class NnxField(Nnx):
  def __init__(self, num_classes, image_shape, *, rngs):
    super().__init__(num_classes, image_shape, rngs=rngs)
    self.training = False
  def __call__(self, x): return Nnx.__call__(self, x, self.training)
class NnxDraws(Nnx):
  def __call__(self, x):
    x = self.norm(x.reshape((len(x), -1)))
    return self.last(self.drop(x, deterministic=False))
def makes(num_classes, training=False): return AlwaysOn(num_classes)
class FailsInTraining(Base):
  def __call__(self, x, train):
    return self.net(x, train) @ jnp.ones((7, 3)) if train else self.net(x, train)
class EndsInTraining(Base):
  def __call__(self, x, train):
    if train: raise SystemExit(0)
    return self.net(x, train)
class Grows(Base):
  def __call__(self, x, train):
    self.sow("seen", "x", x)
    return self.net(x, train)
class Softmax(Base):
  def __call__(self, x, train): return nn.softmax(self.net(x, train))
class Sigmoid(Base):
  def __call__(self, x, train): return nn.sigmoid(self.net(x, train))
class Percent(Base):
  def __call__(self, x, train): return 100 * nn.softmax(self.net(x, train))
class Part(Base):
  def __call__(self, x, train): return 0.9 * nn.softmax(self.net(x, train))
class Raised(Base):
  def __call__(self, x, train): return nn.softmax(self.net(x, train)) + 0.1
class OverTheBatch(Base):
  def __call__(self, x, train): return 100 * nn.softmax(self.net(x, train), axis=0)
class NnxSigmoid(Nnx):
  def __call__(self, x, train): return nnx.sigmoid(Nnx.__call__(self, x, train))
class Integers(Base):
  def __call__(self, x, train): return self.net(x, train).argsort(-1)
class Complex(Base):
  def __call__(self, x, train): return self.net(x, train).astype(jnp.complex64)
class Stopped(Base):
  def __call__(self, x, train): return jax.lax.stop_gradient(self.net(x, train))
class Rounded(Base):
  def __call__(self, x, train): return jnp.round(9 * self.net(x, train))
class Masked(nn.Module):
  num_classes: int
  @nn.compact
  def __call__(self, x, train):
    x = x.reshape((len(x), -1))
    z = nn.Dense(self.num_classes)(nn.BatchNorm(use_running_average=not train)(x))
    return z * self.keep(z.shape) if train else z
class OfNumpy(Masked):
  def keep(self, shape): return np.random.rand(*shape) > 0.5
class OfAGenerator(Masked):
  def keep(self, shape): return np.random.default_rng().random(shape) > 0.5
class OfOneKey(Masked):
  def keep(self, shape): return jax.random.bernoulli(jax.random.key(0), 0.5, shape)
class OfAnOldKey(Masked):
  def keep(self, shape):
    return jax.random.bernoulli(jax.random.PRNGKey(0), 0.5, shape)
class NnxOneKey(Nnx):
  def __call__(self, x, train):
    z = self.last(x.reshape((len(x), -1)))
    keep = jax.random.bernoulli(jax.random.key(0), 0.5, z.shape)
    return z * keep if train else z

class Rectified(Base):
  def __call__(self, x, train): return nn.relu(self.net(x, train))
class LogProbabilities(Base):
  def __call__(self, x, train): return nn.log_softmax(self.net(x, train))
class Centred(Base):
  def __call__(self, x, train):
    z = self.net(x, train)
    return z - z.mean(-1, keepdims=True)
class Tanh(Base):
  def __call__(self, x, train): return nn.tanh(self.net(x, train))
class Distances(Base):
  def __call__(self, x, train): return -self.net(x, train) ** 2
class FromZero(nn.Module):
  num_classes: int
  @nn.compact
  def __call__(self, x, train):
    x = nn.Dropout(0.5)(x.reshape((len(x), -1)), deterministic=not train)
    return nn.Dense(self.num_classes, kernel_init=nn.initializers.zeros)(x)
class Even(FromZero):
  @nn.compact
  def __call__(self, x, train):
    return nn.Dense(
        self.num_classes, kernel_init=nn.initializers.zeros,
        bias_init=nn.initializers.constant(0.5))(x.reshape((len(x), -1)))
class LogFromZero(FromZero):
  def __call__(self, x, train):
    return nn.log_softmax(FromZero.__call__(self, x, train))
class FixedFeatures(nn.Module):
  num_classes: int
  @nn.compact
  def __call__(self, x, train):
    fixed = jax.random.normal(jax.random.key(0), (16, 30))
    x = jnp.cos(x.reshape((len(x), -1)) @ fixed)
    return nn.Dense(self.num_classes)(nn.Dropout(0.5)(x, deterministic=not train))
class Unused(nn.Module):
  num_classes: int
  @nn.compact
  def __call__(self, x, train, rates=None):
    x = x.reshape((len(x), -1))
    x = Dropout()(x, 0.0) if train else x
    return nn.Dense(self.num_classes)(x)

class Three(Base):
  def __call__(self, x, train): return (self.net(x, train),) * 3
class Wrong(Base):
  def __call__(self, x, train): return {"output": self.net(x, train)}
class ClassesOfAnotherName(nn.Module):
  n_classes: int
  @nn.compact
  def __call__(self, x): return nn.Dense(self.n_classes)(x.reshape((len(x), -1)))

class Streams(Base):
  @nn.compact
  def __call__(self, x, train):
    held = self.variable("memory", "count", jnp.zeros, ())
    z = self.net(x, train)
    if train:
      held.value = held.value + 1
      z = z + jax.random.normal(self.make_rng("noise"), z.shape)
    return {"logits": z, "hidden": x.reshape((len(x), -1))}
"""


def _made(own, name, text=None):
  return own_model(sources.load("name", f"{own(text or SWITCHED)}:{name}"),
                   {"num_classes": 3, "image_shape": (4, 4, 1)})


@pytest.mark.parametrize("name", [
    "Deterministic", "Training", "IsTraining", "Running", "Nnx", "Streams",
    "Options", "FlaxOptions", "NnxOptions"])
def test_a_switch_of_any_usual_name_is_heard(own, key, name):
  model = _made(own, name)
  x = jax.random.normal(key, (8, 4, 4, 1)) + 3
  assert check(model, x) == []
  held = model.init(key, x)
  logits = lambda train, stream: np.asarray(model.apply(
      held, x, train=train, rngs={"dropout": jax.random.key(stream)})[0].logits)
  assert np.any(logits(True, 1) != logits(True, 2))
  np.testing.assert_array_equal(logits(False, 1), logits(False, 2))
  _, state = model.apply(held, x, train=True, rngs={"dropout": key})
  assert np.any(jax.tree.leaves(state)[0] != jax.tree.leaves(held.state)[0])
  alone = model.apply(held, x[:1], train=False)[0].logits
  np.testing.assert_allclose(alone, logits(False, 1)[:1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "frozen"), [
    ("Frozen", "['batch_stats']['BatchNorm_0']['mean']"), ("Counts", None),
    ("HasRng", None), *[(name, None) for name in (
        "Rectified", "LogProbabilities", "Centred", "Tanh", "Distances", "FromZero",
        "LogFromZero", "Even", "FixedFeatures", "Unused")],
    ("NnxFrozen", "['norm']['mean']")])
def test_a_right_net_of_another_make_is_taken(own, key, name, frozen):
  model = _made(own, name)
  x = jax.random.normal(key, (8, 4, 4, 1))
  assert check(model, x, learns=True)[:1] == [frozen] * (frozen is not None)


def test_a_net_without_a_gradient_is_a_teacher_and_no_student(small, own, capsys):
  name = f"{own(SWITCHED)}:Stopped"
  code, _ = small(f"--config.student.name={name}", "--config.student.widths=()")
  assert code == 2 and "no parameter has a gradient" in capsys.readouterr().err
  assert small(f"--config.teacher.name={name}")[0] == 0


def test_a_frozen_net_is_trained_and_told_in_a_line(small, own, capsys):
  code, _ = small(f"--config.student.name={own(SWITCHED)}:Frozen",
                  "--config.method=hard")
  told = " ".join(capsys.readouterr().out.split())
  assert code == 0 and told.count("['BatchNorm_0']['mean'] as they began") == 1


REFUSED = [
    ("OtherName", "left at learning=False"), ("Mode", "left at mode='eval'"),
    ("Field", "switch 'training'"), ("OddField", "OddField.live is False"),
    ("AlwaysOn", "draws random numbers in evaluation"),
    ("NormAlwaysOn", "in evaluation"),
    ("NnxField", "NnxField.training"), ("NnxDraws", "random numbers in evaluation"),
    ("makes", "switch 'training'"), ("FailsInTraining", "training call fails"),
    ("EndsInTraining", "training call fails: SystemExit"),
    ("Grows", "other names or shapes"), ("Softmax", "gives probabilities"),
    ("Three", "must give logits"), ("Wrong", "must give logits"),
    ("ClassesOfAnotherName", "num_classes"),
    ("OwnNoise", "left at noisy=False"), ("OwnRate", "left at p=0.0"),
    ("Statistics", "left at live=None"), ("Swallows", "left at train=None"),
    ("Forgets", "Statistics.__call__ is left at live=None"),
    ("NnxOther", "left at learning=False"),
    ("NnxForgets", "Nnx.__call__ is left at training=False"),
    ("NnxOff", "Dropout is off in training"), ("NoGradient", "training call fails"),
    ("Auxiliary", "in training"), ("SoftmaxInTraining", "gives probabilities"),
    ("BornInTraining", "training call fails"), ("OfTheBatch", "keep them alike"),
    *[(name, "gives probabilities") for name in (
        "Sigmoid", "Percent", "Part", "Raised", "OverTheBatch", "NnxSigmoid")],
    ("Integers", "logits of int32"), ("Complex", "logits of complex64"),
    ("Stopped", "no parameter has a gradient"),
    ("Rounded", "no parameter has a gradient"),
    *[(name, "the same at each step") for name in (
        "OfNumpy", "OfAGenerator", "OfOneKey", "OfAnOldKey", "NnxOneKey")]]


@pytest.mark.parametrize(("name", "words"), REFUSED)
def test_a_net_that_would_be_trained_otherwise_than_it_means_is_refused(
    own, name, words):
  x = jnp.ones((8, 4, 4, 1))
  with pytest.raises(TypeError, match=words):
    model = _made(own, name)
    jax.eval_shape(model.init, jax.random.key(0), x)
    check(model, x, learns=True)


TWO_OF_A_NAME = """
import flax.linen as nn
import jax

class Outer:
  class Block(nn.Module):
    @nn.compact
    def __call__(self, x, noisy=False):
      if not noisy:
        return x
      return x + jax.random.normal(self.make_rng("dropout"), x.shape)

class Block(nn.Module):
  @nn.compact
  def __call__(self, x, noisy="no"):
    return x

class Net(nn.Module):
  num_classes: int
  @nn.compact
  def __call__(self, x):
    x = Block()(Outer.Block()(x.reshape((len(x), -1))))
    return nn.Dense(self.num_classes)(x)
"""


UNFIT = """
import flax.linen as nn
import jax.numpy as jnp

class Net(nn.Module):
  num_classes: int
  @nn.compact
  def __call__(self, x):
    h = nn.Dense(5)(x.reshape((len(x), -1)))
    return nn.Dense(self.num_classes)(h), {"hidden": h, **self.more(h)}

class Turned(Net):
  more = lambda self, h: {"tap": h.T}
class Whole(Net):
  more = lambda self, h: {"tap": (h > 0).astype(int)}
class Scalar(Net):
  more = lambda self, h: {"tap": h.sum()}
class OfOne(Net):
  more = lambda self, h: {"tap": h[0]}
class Text(Net):
  more = lambda self, h: {"tap": "x"}
class Nothing(Net):
  more = lambda self, h: {"tap": None}

class NoParameters(nn.Module):
  num_classes: int
  def __call__(self, x):
    return x.reshape((len(x), -1))[:, :self.num_classes]
"""


@pytest.mark.parametrize("name", [
    "Turned", "Whole", "Scalar", "OfOne", "Text", "Nothing", "NoParameters"])
def test_a_net_without_parameters_or_with_what_is_no_tap_is_told_at_once(
    small, own, capsys, tmp_path, name):
  for net in ("student", "teacher"):
    code, _ = small(f"--config.{net}.name={own(UNFIT)}:{name}",
                    "--config.method=kd+rkd",
                    f"--config.teacher.dir={tmp_path / 'nets'}")
    told = capsys.readouterr().err
    assert code == 2 and len(told.strip().splitlines()) == 1
    assert ("no parameters" if name == "NoParameters" else "its tap tap is") in told
    assert not [*(tmp_path / "nets").glob("*")]


def test_two_classes_of_one_name_are_two(own):
  model = _made(own, "Net", TWO_OF_A_NAME)
  with pytest.raises(TypeError, match=r"Block\.__call__ is left at noisy=False"):
    check(model, jnp.ones((8, 4, 4, 1)))


def test_a_net_is_refused_before_anything_is_trained(small, own, capsys, tmp_path):
  for name, words in REFUSED[0], REFUSED[5], REFUSED[11]:
    for net in ("student", "teacher"):
      code, rows = small(f"--config.{net}.name={own(SWITCHED)}:{name}",
                         f"--config.teacher.dir={tmp_path / 'nets'}")
      told = capsys.readouterr().err
      assert code == 2 and words in told and rows == [], name
      assert len(told.strip().splitlines()) <= 3
      assert not [*(tmp_path / "nets").glob("*")]


HIDDEN = """
import enum
from flax import nnx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

class Base(nn.Module):
  num_classes: int

  def dropped(self, x):
    return nn.Dropout(0.5)(x.reshape((len(x), -1)), deterministic=False)

  def head(self, x):
    return nn.Dense(self.num_classes)(x.reshape((len(x), -1)))

class Phase(Base):
  @nn.compact
  def __call__(self, x, phase: int = 0):
    return self.head(self.dropped(x) if phase == 1 else x)

class Fit(Base):
  @nn.compact
  def __call__(self, x, mode: str = "predict"):
    return self.head(self.dropped(x) if mode == "fit" else x)

class Given(Base):
  @nn.compact
  def __call__(self, x, rng=None):
    x = x if rng is None else x * jax.random.bernoulli(rng, 0.5, x.shape)
    return self.head(x)

class GivenKeys(Base):
  @nn.compact
  def __call__(self, x, rngs=None):
    if rngs is not None:
      x = x * jax.random.bernoulli(rngs["dropout"], 0.5, x.shape)
    return self.head(x)

class Keeps(Base):
  @nn.compact
  def __call__(self, x, keep_prob=1.0):
    x = x.reshape((len(x), -1))
    return self.head(nn.Dropout(1 - keep_prob)(x, deterministic=False))

class OneIsEvaluation(Base):
  @nn.compact
  def __call__(self, x, phase: int = 1):
    return self.head(x if phase else self.dropped(x))

class OfAnEnum(Base):
  @nn.compact
  def __call__(self, x, phase=enum.Enum("Phase", "TEST TRAIN").TEST):
    return self.head(self.dropped(x) if phase.name == "TRAIN" else x)

class OfNumpysTruth(Base):
  @nn.compact
  def __call__(self, x, live=np.False_):
    return self.head(self.dropped(x) if live else x)

class Helper(Base):
  def body(self, x, live=False): return self.dropped(x) if live else x
  @nn.compact
  def __call__(self, x, train): return self.head(self.body(x))

class HelperOfStatistics(Base):
  def norm(self, x, live=False):
    return nn.BatchNorm(use_running_average=not live)(x)
  @nn.compact
  def __call__(self, x, train): return self.head(self.norm(x))

class SetUp(Base):
  def setup(self):
    self.drop, self.last = nn.Dropout(0.5), nn.Dense(self.num_classes)
  def features(self, x, phase="predict"):
    return self.drop(x, deterministic=False) if phase == "fit" else x
  def __call__(self, x, train):
    return self.last(self.features(x).reshape((len(x), -1)))

class Part(Base):
  live: bool = False
  @nn.compact
  def body(self, x): return self.dropped(x) if self.live else x
  def __call__(self, x): return x

class PartOfAField(Base):
  @nn.compact
  def __call__(self, x, train): return self.head(Part(3).body(x))

class FieldOfDropout(Base):
  stage: str = "predict"
  @nn.compact
  def __call__(self, x):
    return self.head(self.dropped(x) if self.stage == "fit" else x)

class FieldOfStatistics(Base):
  live: bool = False
  def setup(self):
    self.norm = nn.BatchNorm(use_running_average=not self.live)
    self.last = nn.Dense(self.num_classes)
  def __call__(self, x): return self.last(self.norm(x).reshape((len(x), -1)))

class NnxHelper(nnx.Module):
  def __init__(self, num_classes, image_shape, *, rngs):
    self.live = False
    self.drop = nnx.Dropout(0.5, rngs=rngs)
    self.last = nnx.Linear(16, num_classes, rngs=rngs)
  def body(self, x, live=False):
    return self.drop(x, deterministic=False) if live else x
  def __call__(self, x): return self.last(self.body(x.reshape((len(x), -1))))

class NnxField(NnxHelper):
  def __call__(self, x):
    return self.last(self.body(x.reshape((len(x), -1)), self.live))

class NnxPrivate(NnxHelper):
  def __init__(self, num_classes, image_shape, *, rngs):
    super().__init__(num_classes, image_shape, rngs=rngs)
    self._live = False
  def __call__(self, x):
    return self.last(self.body(x.reshape((len(x), -1)), self._live))

class NnxKeeps(NnxHelper):
  def __call__(self, x, keep=1.0):
    x = x.reshape((len(x), -1))
    return self.last(self.drop(x, deterministic=False) if keep < 1 else x)

class Right(Base):
  # Options, of which some bring in dropout, which `train` turns.
  rate: float = 0.0
  drops: bool = False
  keep: float = 1.0
  kind: str = "wide"
  frozen: bool = True
  def body(self, x, live=False, scale: float = 0.0, drops=None):
    x = nn.BatchNorm(use_running_average=self.frozen or not live)(x + scale)
    x = nn.Dropout(0.5)(x, deterministic=not live) if self.drops else x
    x = nn.Dropout(1 - self.keep)(x, deterministic=not live)
    return nn.Dropout(self.rate)(x, deterministic=not live)
  @nn.compact
  def __call__(self, x, train): return self.head(self.body(x, train))

class NnxRight(NnxHelper):
  # `train()` and `eval()` turn the dropout.
  def body(self, x, live=False): return self.drop(x)
"""
WRONG = ["Phase", "Fit", "Given", "Helper", "HelperOfStatistics", "SetUp",
         "PartOfAField", "FieldOfDropout", "FieldOfStatistics", "NnxHelper",
         "NnxField", "GivenKeys", "Keeps", "OneIsEvaluation", "OfAnEnum",
         "OfNumpysTruth", "NnxPrivate", "NnxKeeps"]


@pytest.mark.parametrize("name", WRONG)
def test_a_default_that_hides_dropout_or_statistics_is_refused(own, name):
  x = jnp.ones((8, 4, 4, 1))
  model = _made(own, name, HIDDEN)
  jax.eval_shape(model.init, jax.random.key(0), x)
  with pytest.raises(TypeError, match="in training, where"):
    check(model, x)


@pytest.mark.parametrize("name", ["Right", "NnxRight"])
def test_options_of_helpers_and_fields_are_taken(own, name):
  check(_made(own, name, HIDDEN), jnp.ones((8, 4, 4, 1)))


def test_a_model_of_the_library_is_looked_at_when_it_is_initialised(own, key):
  made = {name: sources.load("name", f"{own(HIDDEN)}:{name}")
          for name in ("Helper", "NnxHelper", "Right", "NnxRight")}
  def model(name):
    if name.startswith("Nnx"):
      return models.nnx_model(lambda rngs: made[name](3, (4, 4, 1), rngs=rngs))
    return models.linen_model(made[name](3))

  x = jnp.ones((1, 4, 4, 1))
  for name in ("Helper", "NnxHelper"):
    for init in (model(name).init, jax.jit(model(name).init)):
      with pytest.raises(TypeError, match="left at live=False"):
        init(key, x)
  for name in ("Right", "NnxRight"):
    for init in (model(name).init, jax.jit(model(name).init)):
      assert init(key, x).params


def test_each_net_of_a_file_is_looked_at(small, own, capsys):
  file = own(SWITCHED)
  for name, expected in (("Frozen", 0), ("Forgets", 2)):
    code, rows = small(f"--config.student.name={file}:{name}", workdir=name)
    assert code == expected and bool(rows) == (not expected)
  assert "left at live=None" in capsys.readouterr().err


def test_a_net_with_streams_collections_and_a_dict_is_trained(small, own):
  code, rows = small(f"--config.student.name={own(SWITCHED)}:Streams")
  assert code == 0 and len(rows) == 2


MIXES = """
from flax import nnx
import flax.linen as nn
import jax
import jax.numpy as jnp
from kd_jax.core import types

class Net(nn.Module):
  num_classes: int
  dtype: str = "float32"
  before = lambda self, x, mask: x
  after = lambda self, z, mask: z
  taps = lambda self, x, z: {}
  @nn.compact
  def __call__(self, x, train, mask=None):
    flat = self.before(x.reshape((len(x), -1)).astype(self.dtype), mask)
    hidden = nn.relu(nn.Dense(16, dtype=self.dtype)(flat))
    z = self.after(nn.Dense(self.num_classes, dtype=self.dtype)(hidden), mask)
    return z, self.taps(hidden, z)

class BatchStat(Net):
  before = lambda self, x, mask: (x - x.mean(0)[None]) / (x.std(0)[None] + 1e-3)
class WholeStat(Net):
  before = lambda self, x, mask: (x - x.mean()) / x.std()
class Largest(Net):
  before = lambda self, x, mask: x / jnp.abs(x).max()
class Fixed(Net):
  after = lambda self, z, mask: z - jax.lax.stop_gradient(z.mean(0)[None])
class Little(Net):
  after = lambda self, z, mask: z + 1e-3 * z.mean(0)[None]
class Flip(Net):
  after = lambda self, z, mask: z[::-1]
class Rolled(Net):
  after = lambda self, z, mask: jnp.roll(z, 1, 0)
class Before(Net):
  after = lambda self, z, mask: jnp.cumsum(z, 0)
class OfTheFirst(Net):
  after = lambda self, z, mask: z - z[:1]
class Attends(Net):
  after = lambda self, z, mask: nn.softmax(z @ z.T) @ z
class Half(Net):
  dtype: str = "bfloat16"
  before = lambda self, x, mask: x - x.mean(0)[None]
class Place(Net):
  after = lambda self, z, mask: z + jnp.arange(len(z))[:, None]
class OfTheMask(Net):
  def after(self, z, mask):
    return z if mask is None else z - (z * mask[:, None]).mean(0)[None]
class TapFlipped(Net):
  taps = lambda self, hidden, z: {"hidden": hidden[::-1]}
class Ids(Net):
  before = lambda self, x, mask: x + (x > 0).any(0)[None]

class Xnnx(nnx.Module):
  def __init__(self, num_classes, image_shape, *, rngs):
    self.norm = nnx.BatchNorm(16, rngs=rngs)
    self.last = nnx.Linear(16, num_classes, rngs=rngs)
  def __call__(self, x, train):
    x = self.norm(x.reshape((len(x), -1)))
    return self.last(x - x.mean(0)[None])

def function(num_classes, image_shape):
  def init(key, inputs):
    return types.Variables({"w": jax.random.normal(key, (16, num_classes))}, {})
  def apply(variables, inputs, **context):
    flat = inputs.reshape((len(inputs), -1))
    flat = flat - flat.mean(0)[None]
    return types.Outputs(flat @ variables.params["w"], {}), {}
  return types.Model(init, apply)

class Right(Net):
  # All of one example: places of an axis, groups of channels, the batch of one.
  def before(self, x, mask):
    y = nn.Conv(4, (3, 3), dtype=self.dtype)(x.reshape((len(x), 4, 4, -1)))
    y = nn.BatchNorm(use_running_average=True, dtype=self.dtype)(y)
    y = nn.GroupNorm(2, dtype=self.dtype)(y).reshape((len(x), 16, -1))
    y = nn.MultiHeadDotProductAttention(2, dtype=self.dtype)(y)
    y = nn.LayerNorm(dtype=self.dtype)(y).reshape((len(x), -1))
    return y / (1e-3 + jnp.abs(y).max(-1, keepdims=True))
  taps = lambda self, hidden, z: {"hidden": hidden, "mean": z.mean(-1)}
class RightHalf(Right):
  dtype: str = "bfloat16"
class Nothing(Net):
  # Not a number for an example of zeros alone.
  before = lambda self, x, mask: x / x.sum(-1, keepdims=True)
"""


@pytest.mark.parametrize("name", [
    "BatchStat", "WholeStat", "Largest", "Fixed", "Little", "Flip", "Rolled",
    "Before", "OfTheFirst", "Attends", "Half", "Place", "OfTheMask", "TapFlipped",
    "Ids", "Xnnx", "function"])
def test_a_net_that_evaluates_an_example_by_the_others_is_refused(own, name):
  x = jnp.ones((8, 4, 4, 1), jnp.int32 if name == "Ids" else jnp.float32)
  with pytest.raises(TypeError, match="on the others of its batch"):
    check(_made(own, name, MIXES), x)


@pytest.mark.parametrize("name", ["Right", "RightHalf", "Nothing"])
def test_a_net_that_mixes_what_is_of_one_example_is_taken(own, name):
  check(_made(own, name, MIXES), jnp.ones((8, 4, 4, 1)), learns=True)


def test_a_net_that_mixes_examples_is_told_before_anything_is_trained(
    small, own, capsys, tmp_path):
  for net, name in ("student", "Flip"), ("teacher", "BatchStat"):
    code, rows = small(f"--config.{net}.name={own(MIXES)}:{name}",
                       f"--config.teacher.dir={tmp_path / 'nets'}")
    told = capsys.readouterr().err
    assert code == 2 and "on the others of its batch" in told and rows == []
    assert len(told.strip().splitlines()) == 1
    assert not [*(tmp_path / "nets").glob("*")]


@pytest.mark.parametrize(("name", "dtype"), [
    (name, dtype) if dtype == "float32" and name in ("mlp", "cnn", "vgg8")
    else pytest.param(name, dtype, marks=pytest.mark.slow)
    for name in models.MODELS for dtype in ("float32", "bfloat16")
    if dtype == "float32" or name in ("mlp", "cnn", "resnet20", "vgg11", "plane4")])
def test_no_net_of_the_library_evaluates_an_example_by_the_others(key, name, dtype):
  model = models.MODELS[name](num_classes=5, dtype=dtype, width=0.25)
  x = jax.random.uniform(key, (8, 32, 32, 3))
  held = model.init(key, x[:1])
  held = held._replace(params=own_lib._moved(held.params, key))
  say = jax.jit(lambda x: model.apply(held, x, train=False)[0])
  once, mixed = say(x), say(own_lib._among_others(x, 3))
  assert np.any(once.logits != mixed.logits)
  assert not any(jax.tree.leaves(jax.tree.map(
      lambda x, y: own_lib._depends(np.float32(x), np.float32(y), 0), once, mixed)))


ASKS = """
from flax import nnx
import flax.linen as nn
import jax
import jax.numpy as jnp
from kd_jax.core import types

class Noisy(nn.Module):
  @nn.compact
  def __call__(self, x):
    if self.has_rng("noise"):
      x = x + jax.random.normal(self.make_rng("noise"), x.shape)
      if self.has_rng("more"):
        x = x + jax.random.normal(self.make_rng("more"), x.shape)
    return x

class Guarded(nn.Module):
  num_classes: int
  part = lambda self, x: Noisy()(x)
  @nn.compact
  def __call__(self, x):
    x = self.part(x.reshape((len(x), -1)))
    return nn.Dense(self.num_classes)(x)

class Remat(Guarded):
  part = lambda self, x: nn.remat(Noisy)()(x)
class Jitted(Guarded):
  part = lambda self, x: nn.jit(Noisy)()(x)
class Step(nn.Module):
  @nn.compact
  def __call__(self, x, _): return Noisy()(nn.Dense(x.shape[-1])(x)), None
class Scanned(Guarded):
  def part(self, x):
    return nn.scan(Step, variable_axes={"params": 0}, length=2, split_rngs={
        "params": True, "noise": True})()(x, None)[0]
class SetUp(nn.Module):
  num_classes: int
  def setup(self):
    self.noisy = self.has_rng("noise")
    self.last = nn.Dense(self.num_classes)
  def __call__(self, x):
    x = x.reshape((len(x), -1))
    if self.noisy: x = x + jax.random.normal(self.make_rng("noise"), x.shape)
    return self.last(x)
class Asks(nn.Module):
  # Not with a guard: of the stream of all names that it has none of.
  num_classes: int
  @nn.compact
  def __call__(self, x, train):
    x = x.reshape((len(x), -1))
    if train: x = x + jax.random.normal(self.make_rng("noise"), x.shape)
    return nn.Dense(self.num_classes)(x)

class Xnnx(nnx.Module):
  def __init__(self, num_classes, image_shape, *, rngs):
    self.last = nnx.Linear(16, num_classes, rngs=rngs)
    self.rngs = rngs
    self.noise = rngs.noise.fork() if "noise" in rngs else None
  def noisy(self, x, train):
    return x if self.noise is None or not train else x + self.noise.normal(x.shape)
  def __call__(self, x, train):
    return self.last(self.noisy(x.reshape((len(x), -1)), train))
class XnnxAtCall(Xnnx):
  def noisy(self, x, train):
    on = train and "noise" in self.rngs
    return x + self.rngs.noise.normal(x.shape) if on else x
class XnnxForked(XnnxAtCall):
  def __init__(self, num_classes, image_shape, *, rngs):
    super().__init__(num_classes, image_shape, rngs=rngs)
    self.rngs = rngs.fork()
class XnnxAlways(Xnnx):
  def __call__(self, x):
    return self.last(self.noisy(x.reshape((len(x), -1)), True))
class XnnxArgument(Xnnx):
  def __call__(self, x, rngs=None):
    x = x.reshape((len(x), -1))
    return self.last(x if rngs is None else x + rngs.noise.normal(x.shape))
class LinenArgument(nn.Module):
  num_classes: int
  @nn.compact
  def __call__(self, x, rngs=None):
    x = x.reshape((len(x), -1))
    if rngs and "noise" in rngs:
      x = x + jax.random.normal(rngs["noise"], x.shape)
    return nn.Dense(self.num_classes)(x)

def functions(stream, wrap=lambda f: f):
  def model(num_classes, image_shape):
    def init(key, inputs):
      return types.Variables({"w": jax.random.normal(key, (16, num_classes))}, {})
    @wrap
    def net(params, x, rngs):
      x = x.reshape((len(x), -1))
      if rngs and stream(rngs) is not None:
        x = x + jax.random.normal(stream(rngs), x.shape)
      return x @ params["w"]
    def apply(variables, inputs, *, rngs=None, **context):
      return types.Outputs(net(variables.params, inputs, rngs), {}), {}
    return types.Model(init, apply)
  return model

contains = functions(lambda rngs: rngs["noise"] if "noise" in rngs else None)
gets = functions(lambda rngs: rngs.get("noise"))
within = functions(lambda rngs: rngs.get("noise"), jax.checkpoint)
right = functions(lambda rngs: rngs["dropout"], jax.checkpoint)
"""


@pytest.mark.parametrize("name", [
    "Guarded", "Remat", "Jitted", "Scanned", "SetUp", "Xnnx", "XnnxAtCall",
    "XnnxForked", "right"])
def test_a_stream_that_a_net_asks_for_is_drawn_of_in_training(own, key, name):
  model = _made(own, name, ASKS)
  x = jax.random.normal(key, (8, 4, 4, 1))
  check(model, x, learns=True)
  held = model.init(key, x[:1])
  logits = lambda train, stream: np.asarray(jax.jit(lambda k: model.apply(
      held, x, train=train, rngs={"dropout": k} if train else None)[0].logits)(
          jax.random.key(stream)))
  np.testing.assert_array_equal(logits(True, 1), logits(True, 1))
  assert np.any(logits(True, 1) != logits(True, 2))
  assert np.any(logits(True, 1) != logits(False, 1))


def test_streams_are_those_that_linen_would_be_given(own, key):
  x = jax.random.normal(key, (8, 4, 4, 1))
  more = {name: jax.random.fold_in(key, zlib.crc32(name.encode()))
          for name in ("noise", "more")}
  for name, given in (("Guarded", more), ("Scanned", more), ("Asks", {})):
    kind = sources.load("name", f"{own(ASKS)}:{name}")
    held = (model := own_model(kind, {"num_classes": 3})).init(key, x[:1])
    words = {"train": True} if name == "Asks" else {}
    wanted = kind(3).apply({"params": held.params}, x, **words, rngs={
        "params": key, "dropout": key, **given})
    for _ in range(2):
      got, _ = model.apply(held, x, train=True, rngs={"dropout": key})
      np.testing.assert_array_equal(got.logits, wanted)


@pytest.mark.parametrize(("name", "words"), [
    ("XnnxAlways", "random numbers in evaluation"),
    ("XnnxArgument", "rngs=None in training, where nnx.Rngs brings"),
    ("LinenArgument", "rngs=None in training, where a dict of keys brings"),
    *[(name, "the random stream 'noise'") for name in (
        "contains", "gets", "within")]])
def test_a_stream_that_a_net_would_not_be_given_is_refused(own, name, words):
  model = _made(own, name, ASKS)
  with pytest.raises(TypeError, match=words):
    check(model, jnp.ones((8, 4, 4, 1)))
