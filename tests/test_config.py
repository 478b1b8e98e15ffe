"""Keys: every one is read, has a rule, and a mistake is told in a line."""

import hashlib
import subprocess
import sys

from conftest import ROOT
import jax
import jax.numpy as jnp
import ml_collections
import pytest

from kd_jax import config as config_lib
from kd_jax import data
from kd_jax.config import build, command_line, identity, recipe, schema
from kd_jax.config import run as run_lib
from kd_jax.core import sources
from kd_jax.core.errors import UserError
from kd_jax.data import preprocess


def valid() -> ml_collections.ConfigDict:
  config = config_lib.default()
  config.alpha = 0.9
  return config


def test_the_defaults_are_valid():
  config_lib.check(valid())


def test_a_new_key_makes_no_other_programs_of_its_default():
  """If this fails, rows made before are lost: mark the key as `later`."""
  program = identity.program(run_lib.read(config_lib.default()).values)
  assert hashlib.sha256(program.encode()).hexdigest().startswith("018b9d2743a9d56f")


def test_how_teachers_are_combined_is_part_of_a_students_identity():
  values = dict(run_lib.read(config_lib.default()).values)
  before = identity.mixture(values, ["a"], [1.0])
  others = {"teacher.mean": "logits", "teacher.bank_dtype": "float16",
            "teacher.classes": ((0, 1), (2,))}
  # These two are the members and the weights that it is given.
  assert others.keys() | {"teacher.count", "teacher.weights"} == {
      name for name, key in schema.every().items() if key.affects == schema.MIXTURE}
  for name, value in others.items():
    assert identity.mixture({**values, name: value}, ["a"], [1.0]) != before


def test_two_configs_share_nothing():
  first, second = valid(), config_lib.default()
  assert second.alpha is None and first.alpha == 0.9


def test_a_misspelt_key_is_refused():
  config = valid()
  with pytest.raises(AttributeError):
    config.tempreature = 3.0
  with pytest.raises(AttributeError):
    config.student.width = (3,)
  assert "did you mean temperature" in config_lib.unknown("tempreature")
  assert "it is optimizer.learning_rate" in config_lib.unknown("optimizer.lr")
  assert "optimizer.learning_rate" in config_lib.unknown("lr")
  assert "teacher.widths" in config_lib.unknown("teacher.width")


@pytest.mark.parametrize(("key", "value"), [
    ("temperature", 0.0), ("temperature", -1.0), ("temperature", float("inf")),
    ("temperature", float("nan")), ("alpha", 1.1), ("alpha", -0.1),
    ("batch_size", 0), ("epochs", 0), ("data.holdout", 1.0),
    ("student.hidden_dropout", 1.0), ("student.widths", (8, 0)),
    ("optimizer.name", "sdg"), ("optimizer.schedule", "cosinus"),
    ("optimizer.learning_rate", 0.0), ("teacher.mean", "median"),
    ("data.embedded", "maybe"), ("seed", -1), ("student.max_norm", 0.0),
    ("data.resize", (3, 4, 5)), ("label_smoothing", 2.0),
    ("data.test_fraction", 1.0), ("data.channels", 2), ("data.without", (1,)),
])
def test_a_value_out_of_range_is_named_with_what_is_allowed(key, value):
  config = valid()
  with config.unlocked():
    config.update_from_flattened_dict({key: value})
  with pytest.raises(UserError) as error:
    config_lib.check(config)
  message = str(error.value)
  assert f"config.{key}=" in message and "must be" in message
  assert len(message.splitlines()) <= 3


def test_a_config_from_scratch_is_told_where_to_start():
  config = ml_collections.ConfigDict({"temperature": 4.0})
  with pytest.raises(UserError, match=r"method: missing.*config\.default"):
    config_lib.check(config)


def test_alpha_and_weights_exclude_each_other():
  config = valid()
  config.hard_weight = 1.0
  with pytest.raises(UserError, match="alpha"):
    config_lib.check(config)
  config.alpha = None
  with pytest.raises(UserError, match="both"):
    config_lib.check(config)
  config.soft_weight = 2.0
  config_lib.check(config)


def test_one_unit_for_a_warm_up():
  config = valid()
  config.optimizer.warmup_steps = 3
  config.optimizer.warmup_percent = 5.0
  with pytest.raises(UserError, match=r"warmup_steps.*warmup_percent"):
    config_lib.check(config)


def test_a_command_line_is_read_before_jax_starts():
  """A sweep chooses its host devices after that, and mistakes are told at once."""
  done = subprocess.run(
      [sys.executable, "-c",
       "import sys; from kd_jax.config import command_line as a; "
       "c, _ = a.parse(['--config=configs/mnist.py', '--config.method=dkd']); "
       "print(c.dkd.beta, 'jax' in sys.modules)"],
      cwd=ROOT, capture_output=True, text=True, check=True)
  assert done.stdout.split() == ["8.0", "False"]


@pytest.mark.parametrize(("word", "value"), [
    ("temperature=2", 2.0), ("batch_size=64", 64), ("student.widths=300", (300,)),
    ("data.resize=[8,8]", (8, 8)), ("student.max_norm=None", None),
    ("tensorboard=FALSE", False), ("tensorboard=0", False), ("tensorboard", True),
    ("data.name=7", "7"), ("data.dir=none", "none"), ("data.dir=None", None)])
def test_a_word_is_read_by_the_type_of_its_key(word, value, monkeypatch):
  monkeypatch.chdir(ROOT)
  found = config_lib.flatten(command_line.parse(
      ["--config=configs/mnist.py", f"--config.{word}"])[0])[word.split("=")[0]]
  assert (type(found), found) == (type(value), value)


@pytest.mark.parametrize("word", [
    "batch_size=True", "batch_size=2.0", "temperature=inf", "temperature=true",
    "temperature=", "tensorboard=2", "student.widths=a,b", "seed=1e3"])
def test_a_word_of_another_type_is_refused(word, monkeypatch):
  monkeypatch.chdir(ROOT)
  with pytest.raises(UserError, match=f"config.{word.split('=')[0]}=.*: must be"):
    command_line.parse(["--config=configs/mnist.py", f"--config.{word}"])


def test_help_lists_every_key():
  text = config_lib.describe()
  for name, key in schema.every().items():
    assert f"--config.{name}={key.default}" in text


class Watched(dict):
  """Flat values that remember which of their keys were read."""

  def __init__(self, values):
    super().__init__(values)
    self.read: set[str] = set()

  def __getitem__(self, name):
    self.read.add(name)
    return super().__getitem__(name)


def test_every_key_is_read(own_data, monkeypatch, tmp_path):
  """P19: a key that nothing reads would be accepted and ignored."""
  config = valid()
  config.data.name, config.data.dir = "blobs", str(own_data)
  config.transfer.part = 0.5
  for what in ("temperature", "alpha"):
    config.schedules[what], config.schedules[f"{what}_end"] = "linear", 0.5
  watched = Watched(config_lib.flatten(config))
  asked = run_lib.read(watched)
  recipe.nets(watched, swept=False)
  found = build.dataset(watched)
  build.transfer_set(watched, found)
  build.check_names(watched)
  build.student(watched, found)
  training = build.teacher(watched, found, 0)
  build.learner(asked, training, asked.method)
  # A method reads its own numbers alone.
  others = {name for name in schema.every()
            if schema.owner(name) not in (None, config.method)}
  unread = set(schema.every()) - watched.read - others
  unread |= {"teacher.dir", "teacher.test_logits"}  # Looked at for a "~".
  # What a run does beside its nets is read where it is done.
  runs = "".join(file.read_text() for file in (ROOT / "kd_jax/runs").rglob("*.py"))
  assert unread == {
      "data.scale", "evaluate.corruptions", "parallel", "checkpoint.every",
      "checkpoint.keep", "checkpoint.resume", "tensorboard", "tracker",
      "teacher.bank_dtype",
      "teacher.dir", "teacher.test_logits", "teacher.check"}
  assert all(f'values["{key}"]' in runs for key in unread)



def test_a_teacher_may_compute_in_half_precision_beside_its_student(own_data):
  config = valid()
  config.teacher.dtype = "bfloat16"
  found = data.load("blobs", directory=own_data)
  image = found.train.inputs[:2].astype("float32") / 255

  def exact(training):
    """Whether the first tap has more digits than bfloat16 holds."""
    model = training.model
    outputs, _ = model.apply(
        model.init(jax.random.key(0), image), image, train=False)
    tap = outputs.features["hidden_0"].astype("float32")
    return bool((tap != tap.astype(jnp.bfloat16).astype("float32")).any())

  assert exact(build.student(config, found))
  assert not exact(build.teacher(config, found, 0))
  config.teacher.dtype = None
  assert exact(build.teacher(config, found, 0))

def test_durations_in_epochs_percent_and_steps_agree(own_data):
  found = data.load("blobs", directory=own_data)  # 300: ten steps of 32
  shapes = []
  for key, value in (("steps", 5), ("epochs", 0.5), ("percent", 10.0)):
    config = valid()
    config.batch_size, config.epochs = 32, 5
    config.optimizer[f"warmup_{key}"] = value
    training = build.student(config, found)
    assert training.total_steps == 50
    shapes.append([round(float(training.optimizer_spec.schedule(s)), 6)
                   for s in (0, 3, 5, 20, 49)])
  assert shapes[0] == shapes[1] == shapes[2]
  assert shapes[0][0] == pytest.approx(1 / 6, abs=1e-5)
  config.min_steps = 77
  assert build.student(config, found).total_steps == 77
  config.steps = 3
  config.optimizer.warmup_percent = None
  assert build.student(config, found).total_steps == 3


def test_a_warm_up_longer_than_the_run_is_refused(own_data):
  config = valid()
  config.steps, config.optimizer.warmup_steps = 5, 5
  with pytest.raises(UserError, match="warmup"):
    build.student(config, data.load("blobs", directory=own_data))


def test_weights_of_members_fit_their_number():
  config = valid()
  config.teacher.count, config.teacher.weights = 2, (1.0, 3.0)
  assert run_lib.read(config).weights == (0.25, 0.75)
  config.teacher.weights = (1.0,)
  with pytest.raises(UserError, match="2 numbers"):
    run_lib.read(config)


@pytest.mark.parametrize(("key", "value", "hint"), [
    ("method", "logit", "did you mean logits"), ("student.name", "mpl", "mlp"),
    ("teacher.views", "shift3", "shift2"),
])
def test_an_unknown_name_is_told_with_the_nearest(key, value, hint):
  config = valid()
  config.update_from_flattened_dict({key: value})
  with pytest.raises(UserError, match=hint):
    build.check_names(config)


@pytest.mark.parametrize(("name", "hint"), [
    ("no_such_module:Net", "there is none in .*, and none is installed; start"),
    ("examples.no_such:Net", "there is none in .*, and none is installed; start .*"
     ", here the clone of kd_jax: examples are not installed"),
    ("examples/no_such.py:Net", "there is none in .*; start .*, here the clone of"),
    ("nowhere/net.py:Net", "cannot be imported: there is none in .*; start"),
    ("/nowhere/net.py:Net", "FileNotFoundError"),
    ("flax.linen:Nope", "cannot be imported"),
    ("flax.linen:Dense", r"missing|features"),
])
def test_a_users_class_that_does_not_fit_is_told(name, hint, own_data):
  config = valid()
  config.student.name = name
  with pytest.raises(UserError, match=hint):
    build.student(config, data.load("blobs", directory=own_data))


@pytest.mark.parametrize(("text", "hint"), [
    ("open('no.txt')", "FileNotFoundError.*no.txt"),
    ("import no_such_one", "ModuleNotFoundError.*no_such_one")])
def test_a_users_file_that_misses_another_is_named(
    text, hint, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "net.py").write_text(text)
  with pytest.raises(UserError, match=hint + r".*net.py, line 1\)"):
    sources.load("name", "net.py:Net")


@pytest.mark.parametrize(("changes", "words"), [
    ({"method": "dkd"}, "reads the class of one"),
    ({"method": "crd"}, "reads the class of one"),
    ({"method": "tfkd"}, "reads the class of one"),
    ({"teacher.mean": "confidence", "teacher.count": 2}, "use another mean"),
    ({"teacher.bank": "always"}, "with teacher.bank=auto"),
    ({"teacher.logits": "logits.npy"}, "without teacher.logits")])
def test_mixup_goes_with_what_can_see_the_mixture(changes, words):
  values = config_lib.changed(config_lib.flatten(valid()), {"mixup": 0.2} | changes)
  with pytest.raises(UserError, match=f"config.mixup=0.2: .*{words}"):
    build.check_names(values)
  build.check_names(config_lib.changed(values, {"mixup": 0.0}))
  labels = config_lib.changed(values, {"method": "hard"})
  build.check_names(labels)  # Nobody is asked.


def test_blocks_are_computed_again_of_nets_that_have_some(own_data):
  found = data.load("blobs", directory=own_data)
  again = config_lib.changed(
      config_lib.flatten(valid()), {"student.model.remat": True})
  with pytest.raises(UserError, match="mlp has no remat; those that have: resnet"):
    build.student(again, found)
  small = config_lib.changed(again, {
      "student.name": "resnet8", "student.widths": (2, 2, 3)})
  plain = config_lib.changed(small, {"student.model.remat": False})
  assert build.student(small, found).model is not build.student(plain, found).model
  # The same net to rounding, so the same row; but another program.
  row = lambda values: identity.student(
      values, content="", source={}, method="hard", weights=())
  assert row(small) == row(plain)
  assert identity.program(small) != identity.program(plain)


def test_a_batch_has_parts_that_a_method_can_do_with(own_data):
  values = config_lib.changed(config_lib.flatten(valid()), {"accumulate": 4})
  build.check_names(values)
  found = data.load("blobs", directory=own_data)
  assert build.student(values, found).accumulate == 4
  assert build.teacher(values, found, 0).accumulate == 1
  for method in ("dist", "rkd", "kd+crd"):
    with pytest.raises(UserError, match="relates examples"):
      build.check_names(config_lib.changed(values, {"method": method}))
  small = config_lib.changed(values, {"batch_size": 3})
  with pytest.raises(UserError, match="accumulate=4: there are only 3 examples"):
    build.student(small, found)


def test_pixels_are_standardised_over_the_training_set(own_data):
  found = data.load("blobs", directory=own_data, holdout=0.2)
  scaling = preprocess.of("standard", found.train.inputs)
  pixels = found.train.inputs * scaling.scale + scaling.offset
  assert pixels.mean() == pytest.approx(0, abs=1e-4)
  assert pixels.std() == pytest.approx(1, abs=1e-4)
