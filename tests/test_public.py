"""What users may rely on, wherever the code behind it lies.

Names, commands, keys, exit codes and files that the documents promise. A module
may move: what is imported, typed and read here must go on as it is written here.
New names, keys and fields may be added; `tests/fixtures/keys.json` and
`tests/fixtures/records.json` are only ever made longer.
"""

import argparse
import ast
import contextlib
import functools
import importlib.util
import inspect
import itertools
import json
import os
import pathlib
import pkgutil
import re
import runpy
import shlex
import sys
import warnings

from conftest import ROOT
import jax
import ml_collections
import numpy as np
import pytest
import test_own_page as own_page

from kd_jax import config as config_lib
from kd_jax import data, models
from kd_jax.config import schema
from kd_jax.training.parameters import load_parameters

# Every import in a document, an example, a notebook or a config file, as users
# write it, and what they use of it. A function has the parameters that they pass:
# those before `*` by place, those after it by name; `=` marks what may be left out
# and `*parts` any number. None is for what is no function.
PROMISED: dict[str, dict[str, str | None]] = {
    "from kd_jax import losses": {
        "losses.distillation_loss":
            "student_logits, teacher_logits, labels, *, temperature, alpha=, "
            "hard_weight=, soft_weight=, label_smoothing=, where=",
        "losses.hard_cross_entropy": "logits, labels, *, label_smoothing=, where=",
        "losses.distillation_kl":
            "student_logits, teacher_logits, temperature, *, where=",
        "losses.soft_target_cross_entropy":
            "student_logits, teacher_logits, temperature, *, where=",
        "losses.logit_matching":
            "student_logits, teacher_logits, *, zero_mean=, where=",
        "losses.tempered_softmax": "logits, temperature, *, where=",
        "losses.tempered_log_softmax": "logits, temperature, *, where=",
        "losses.distillation_weights": "alpha=, hard_weight=, soft_weight=",
    },
    "from kd_jax import data": {
        "data.load": "name, *, directory=, holdout=, embedded=, resize=, split=, "
                     "split_size=, test_fraction=, channels=, label=, without=, "
                     "first_class=, weights=, say=",
        "data.from_arrays": "x_train, y_train, x_test, y_test, class_names=, "
                            "name=, directory=, w_train=",
        "data.split_ids": "num_examples, holdout",
        "data.with_pseudo": "dataset, kind, *, number, seed=, p=, s=",
    },
    "from kd_jax import models": {
        "models.MODELS": None,
        "models.linen_model": "module",
    },
    "from kd_jax import sweep": {
        "sweep.product": "*parts",
        "sweep.zipped": "*parts",
        "sweep.chain": "*sweeps",
        "sweep.fixed": "values",
    },
    "from kd_jax import conformance": {},
    "from kd_jax.conformance import adapters": {
        "adapters.jax": "function",
        "adapters.numpy": "function",
        "adapters.torch": "function",
        "adapters.keras": "function",
    },
    "from kd_jax import doctor": {},
    "from kd_jax import report": {
        "report.main": "argv=",
        "report.read": "study",
        "report.table": "rows",
        "report.write": "folder, *, reference=",
    },
    "from kd_jax import main": {"main.run": "argv"},
    "from kd_jax.checkpoint import load_parameters": {"load_parameters": "path"},
    "from kd_jax.predict import predict": {"predict": "workdir, inputs, net="},
    "from kd_jax.export import arrays": {
        "arrays.load_variables": "path", "arrays.into": "net, path"},
    "from kd_jax.runs import trained": {"trained.load": "workdir, name="},
    "from kd_jax import config": {
        "config.default": "*nets", "config.check_variant": "variant, known"},
    "from kd_jax.errors import UserError": {"UserError": None},
    "from kd_jax.errors import nearest": {"nearest": "word, known"},
    "from kd_jax.evaluate import evaluate": {
        "evaluate": "workdir, net=, *, beside=, overrides=, out="},
    "import kd_jax": {
        "kd_jax.NUMERICS": None, "kd_jax.__version__": None,
        "kd_jax.run": "config, workdir, overrides=, *, sweep=, quiet=",
        "kd_jax.load": "workdir"},
    # Of the notebook, which trains with the library's own step.
    "from kd_jax.training import segment": {
        "segment.DeviceData": "inputs, label, ids, preprocess, weight=",
        "segment.steps_per_epoch": "num_examples, batch_size",
        "segment.make_segment": "learner, views, batch_size",
    },
    "from kd_jax.training import optimizers": {
        "optimizers.OptimizerSpec": "name, schedule",
        "optimizers.schedule": "name, *, total_steps",
    },
    "from kd_jax.core import randomness": {
        "randomness.stream": "key, name, *counters"},
    "from kd_jax.training import step": {
        "step.Learner": "model, method, optimizer_spec, teacher=",
        "step.init": "learner, key, inputs, hparams",
    },
    "from kd_jax import teachers": {"teachers.banked": "bank"},
    "from kd_jax.core import types": {
        "types.Hparams": "*, temperature=, hard_weight=, soft_weight=, "
                         "label_smoothing=, learning_rate=, momentum=, "
                         "weight_decay=, rates=, max_norm=",
    },
    "from kd_jax.data.views import VIEWS": {"VIEWS": None},
    "from kd_jax.data import preprocess": {"preprocess.of": "kind, inputs"},
    "from kd_jax.methods import METHODS": {"METHODS": None},
    "from kd_jax.methods import Method": {
        "Method": "formula, init, terms, *, numbers="},
    "from kd_jax.methods import nothing": {"nothing": None},
    "from kd_jax.methods.terms import Term": {"Term": "weight, value"},
    "from kd_jax.report.canvas import COLOURS": {"COLOURS": None},
}
# Names that stand in a text or on a command line.
TOLD = (
    "kd_jax.NUMERICS", "kd_jax.compare", "kd_jax.config.default",
    "kd_jax.conformance",
    "kd_jax.conformance.ours:kd", "kd_jax.data", "kd_jax.data.load",
    "kd_jax.evaluate", "kd_jax.load", "kd_jax.losses.maps:attention_distance",
    "kd_jax.methods", "kd_jax.doctor", "kd_jax.explain", "kd_jax.export",
    "kd_jax.main", "kd_jax.models", "kd_jax.predict", "kd_jax.report",
    "kd_jax.run")
# Words that a config may have: of student.name, student.views and method.
MODELS = ("mlp", "cnn", "cnn_small", "convnet", "resnet8")
VIEWS = ("none", "shift2", "crop4_flip", "crop4_flip_cutout", "crop4_flip_strong",
         "affine", "elastic", "distort")
METHODS = (
    "hard", "kd", "logits", "mse", "annealed", "reverse_kl", "jsd", "ls", "normkd",
    "dkd", "nkd", "rld", "wttm", "topk", "topk_renormalised", "tfkd", "dist",
    "mlkd", "ctkd", "cwtm", "dkpp", "pseudo_label", "hint", "rkd", "at", "sp",
    "pkt", "vid", "cc", "cc_kernel", "nst", "fsp", "ab", "ft", "ft_attention",
    "pefd", "srd", "itrd", "nd", "wkd_l", "wkd_f", "reviewkd", "ofd", "cat",
    "simkd", "crd", "crd_drawn")

TEXTS = sorted([
    ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks/README.md",
    *(ROOT / "docs").glob("*.md"), *(ROOT / "experiments").rglob("README.md")])
PROGRAMS = sorted([
    *(ROOT / "examples").rglob("*.py"), ROOT / "notebooks/dark_knowledge.py",
    *(ROOT / "configs").glob("*.py"), *(ROOT / "experiments").rglob("config.py")])
FIXTURES = ROOT / "tests/fixtures"
KEYS = json.loads((FIXTURES / "keys.json").read_text())
RECORDS = json.loads((FIXTURES / "records.json").read_text())


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch):
  monkeypatch.chdir(ROOT)


# ---- Names


def test_takes_can_tell():
  """The check of a signature sees what is missing, renamed or newly required."""
  promised = "a, b, *, c, d="
  takes(lambda a, b, *, c, d=0, e=0: None, promised)
  for wrong in (lambda a, *, c, d=0: None, lambda b, a, *, c, d=0: None,
                lambda a, b, *, c: None, lambda a, b, *, c, d: None,
                lambda a, b, *, c, e, d=0: None):
    with pytest.raises((TypeError, AssertionError)):
      takes(wrong, promised)


def takes(function, promised: str) -> None:
  """Sees that a function can be called as promised."""
  places, _, named = f"{promised}, ".replace("*, ", "|", 1).partition("|")
  own, words = ([word for word in part.split(", ") if word]
                for part in (places, named))
  called(function, [word.strip("=") for word in own],
         [word.strip("=") for word in words])
  called(function, *([word for word in part if not word.endswith("=")]
                     for part in (own, words)))


def called(function, places: list[str], words: list[str]) -> None:
  """Sees that each word, given as its own value, comes to where it belongs."""
  signature = inspect.signature(function)
  found = signature.bind(*places, **{word: word for word in words}).arguments
  for word in (*places, *words):
    expected = (word,) if word.startswith("*") else word
    assert found.get(word.strip("*")) == expected, f"{word} of {signature}"


@pytest.mark.parametrize("statement", PROMISED)
def test_what_users_import_is_there_and_takes_what_they_pass(statement):
  names: dict = {}
  exec(statement, names)
  for use, promised in PROMISED[statement].items():
    found = eval(use, names)
    assert found is not None, use
    if promised is not None:
      assert callable(found), use
      takes(found, promised)


@pytest.mark.parametrize("name", TOLD)
def test_a_name_that_is_told_leads_somewhere(name):
  assert pkgutil.resolve_name(name) is not None


def test_the_words_of_a_config_are_known():
  from kd_jax.data.views import VIEWS as views
  from kd_jax.methods import METHODS as methods
  assert set(MODELS) <= set(models.MODELS)
  assert set(VIEWS) <= set(views)
  assert set(METHODS) <= set(methods)


def test_a_model_takes_classes_and_widths():
  model = models.MODELS["mlp"](num_classes=3, widths=(4,))
  assert callable(model.init) and callable(model.apply)


def test_a_data_set_has_what_examples_read(own_data):
  found = data.load("blobs", directory=own_data, holdout=0.1, say=lambda _: None)
  assert found.train.inputs.shape == (300, 12, 10, 1)
  assert found.test.label.shape == (110,)
  assert len(found.train_ids) + len(found.heldout_ids) == 300
  assert found.num_classes == 7 and found.source == "raw"


def test_a_loss_of_ones_own_can_still_be_called():
  from kd_jax.conformance import adapters
  assert adapters.numpy(lambda z, v, y, temperature, alpha: alpha)(
      None, None, None, 1.0, 0.5) == 0.5


def uses(source: str) -> set[tuple[str, str]]:
  """Import statements of kd_jax in a program, one name each, and their uses."""
  tree, found = ast.parse(source), set()
  known = {}
  for node in ast.walk(tree):
    if isinstance(node, ast.ImportFrom) and re.match(
        r"kd_jax\b", node.module or ""):
      for alias in node.names:
        statement = f"from {node.module} import {alias.name}"
        known[alias.asname or alias.name] = (statement, alias.name)
        found.add((statement, ""))
    elif isinstance(node, ast.Import):
      for alias in node.names:
        assert not alias.name.startswith("kd_jax."), "from kd_jax import ..."
  for node in ast.walk(tree):
    if isinstance(node, ast.Attribute) and isinstance(
        node.value, ast.Name) and node.value.id in known:
      statement, name = known[node.value.id]
      found.add((statement, f"{name}.{node.attr}"))
  return found


def test_the_list_holds_all_that_documents_and_examples_use():
  """Of objects such as METHODS what they hold is listed, not attributes."""
  sources = [file.read_text() for file in PROGRAMS]
  sources += [block for file in TEXTS for block in re.findall(
      r"```python\n(.*?)```", file.read_text(), re.S)]
  found = set().union(*map(uses, sources))
  assert len(found) > 30, "nothing was read"
  lacking = sorted(
      pair for pair in found
      if pair[0] not in PROMISED
      or (pair[1] and pair[1] not in PROMISED[pair[0]]))
  assert not lacking


def test_the_list_holds_all_names_in_texts():
  told = {name for file in TEXTS for name in re.findall(
      r"(?<!from )\bkd_jax(?:\.\w+)+(?::\w+)?", file.read_text())}
  assert len(told) > 5 and told <= set(TOLD)


# ---- Commands


# Programs that read their command line with argparse before they do anything, and
# those that have no flags and are only looked for, as they write files.
WITH_ARGPARSE = (
    "kd_jax.report", "kd_jax.conformance", "kd_jax.data", "experiments.record",
    "experiments.reproduce", "experiments.temperature_sweep",
    "benchmarks.mnist_step", "benchmarks.sweep", "benchmarks.lane_parts",
    "benchmarks.scaling", "benchmarks.accelerator", "benchmarks.report",
    "benchmarks.convolution", "benchmarks.memory", "benchmarks.exports",
    "experiments.queue", "experiments.hinton15_closing.teachers", "kd_jax.explain",
    "kd_jax.predict", "kd_jax.export", "kd_jax.evaluate")
WITHOUT_FLAGS = ("docs.methods", "docs.nets", "experiments.index")
# Flags that the documents and --help tell of, in no whole command.
TOLD_FLAGS = (
    ("kd_jax.main", "--config=configs/mnist.py --config.nonfinite=skip "
                    "--config.checkpoint.every='2 epochs' --resume=force"),
    ("kd_jax.main", "--config=configs/mnist.py --resume force --workdir runs/a"),
    ("kd_jax.main", "--config configs/mnist.py:sweep --shard 1/2 --plan"),
    ("kd_jax.main", "--config=configs/mnist.py --config.alpha=None "
                    "--config.hard_weight=1 --config.soft_weight=2"),
    ("kd_jax.main", "--config=configs/mnist.py --config.student.name="
                    "examples.own_model:Net --config.teacher.logits=FILE.npy "
                    "--config.teacher.test_logits=FILE.npy"),
    ("kd_jax.doctor", "--config=configs/mnist.py:sweep --shard=1/2 --plan"),
    ("kd_jax.report", "DIR --compare ID ID --readme FILE"),
    ("kd_jax.data", "prepare mnist --from DIR --dir DIR"),
    ("kd_jax.predict", "DIR a.png b.npy --net=teacher --top=5 --json --invert "
                       "--id=0-4 --data=DIR"),
    ("kd_jax.export", "DIR --net=teacher,distilled --format=onnx,safetensors "
                      "--int8=dynamic,static --licence=apache-2.0 --out=DIR "
                      "--data=DIR"),
    ("kd_jax.conformance", "TARGET --framework=torch --only=temperature,softmax "
                           "--kind=kd --json"),
    ("kd_jax.conformance", "TARGET --kind=features --shape=4,4,5 --shape=5,4,4 "
                           "--channels=first --invariant=examples,scale "
                           "--relational"),
    ("experiments.reproduce", "hinton15_mnist --plan --shard=1/2 --lanes=4x8 "
                              "--teachers=DIR --data=DIR --seeds=2"),
    ("experiments.reproduce", "hinton15_mnist --from-record --record"),
    ("experiments.reproduce", "hinton15_mnist --verify --record --teachers=DIR"),
    ("experiments.reproduce", "hinton15_mnist --verify 'alpha=0 seed=4'"),
    ("experiments.temperature_sweep", "--config=configs/mnist.py --minutes=1 "
                                      "--shard=1/2 --workdir=runs/a --plan"),
    ("benchmarks.mnist_step", "--quick --check"),
    ("benchmarks.sweep", "--minutes=12 --quick"),
)


class Accepted(BaseException):
  """Raised in place of work, once a command line has been read."""


def started(module: str, words: list[str], monkeypatch) -> list:
  """Starts `python -m MODULE WORDS` as far as it reads its command line.

  This function alone knows how a program does that. It returns the configs that
  would be trained, none for a program that has no config. A program that refuses
  the words ends with SystemExit. The imports stand here, so that a move of what
  lies behind a command fails the tests of that command, not the whole file.
  """
  from kd_jax import main as door
  configs: list = []
  note = lambda config, *_, **__: configs.append(config) or 0
  code = 0
  with monkeypatch.context() as patch:
    patch.setattr(door, "train", note)
    patch.setattr(door, "show_plan", note)
    if module == "kd_jax.main":
      code = door.run(words)
    elif module == "kd_jax.doctor":
      from kd_jax.runs.doctor import Visit
      from kd_jax.runs.doctor import command as doctor
      visit = Visit()
      configs.append(doctor.read(visit, words)[0])
      code = int(bool(visit.problems))
    elif module == "kd_jax.compare":
      from kd_jax import compare
      code = compare.main([*words, "--plan"])
    else:
      assert module in WITH_ARGPARSE, f"{module}: see that it is, and add it"
      stop_after_reading(patch)
      with contextlib.suppress(Accepted):
        code = as_program(module, words, patch)
  if code:
    raise SystemExit(code)
  return configs


def stop_after_reading(patch) -> None:
  """Lets argparse read a command line, and nothing be done about it.

  Not parse_known_args, which it calls: who knows not all of the flags reads on.
  """
  read = argparse.ArgumentParser.parse_args

  def stop(*arguments):
    read(*arguments)
    raise Accepted

  patch.setattr(argparse.ArgumentParser, "parse_args", stop)


def as_program(module: str, words: list[str], monkeypatch) -> int:
  """Runs `python -m MODULE WORDS` in this process; its exit code."""
  monkeypatch.setattr(sys, "argv", [module, *words])
  # kd_jax.conformance sets it for its own process.
  monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "0")
  # Nor may it end this one at once, as it ends its own.
  monkeypatch.setattr(os, "_exit", sys.exit)
  try:
    with warnings.catch_warnings():
      # It is in sys.modules already, where another test has imported it.
      warnings.filterwarnings("ignore", ".*found in sys.modules", RuntimeWarning)
      runpy.run_module(module, run_name="__main__", alter_sys=True)
  except SystemExit as end:
    return end.code or 0
  return 0


def commands(text: str) -> list[tuple[str, tuple[str, ...]]]:
  """Module and words of each `python -m` of ours in a text."""
  fence = re.compile(r"^```\w*\n(.*?)^```", re.S | re.M)
  blocks = fence.findall(text)
  inline = [" ".join(code.split())
            for code in re.findall(r"`([^`]+)`", fence.sub("", text))]
  lines = "\n".join([*blocks, *inline]).replace("\\\n", " ")
  found = re.findall(
      r"\bpython -m ((?:kd_jax|experiments|benchmarks|docs)\b[\w.]*)(.*)", lines)
  return [(module, tuple(map(filled, shlex.split(words, comments=True))))
          for module, words in found]


def filled(word: str) -> str:
  """A word of a command with values for what a reader fills in."""
  for pattern, value in (
      (r"\$SLURM_ARRAY_TASK_ID", "1"), (r"\$SLURM_ARRAY_TASK_COUNT", "8"),
      (r"\$seed", "1"), ("HOST:PORT", "localhost:1234"), (r"\bI\b", "1"),
      (r"\bN\b", "2"), (r"\bNAME\b", "hinton15_mnist"),
      (r"\bTARGET\b", "kd_jax.conformance.ours:kd")):
    word = re.sub(pattern, value, word)
  return word


def documented() -> list[tuple[str, tuple[str, ...]]]:
  """The commands of all documents, each once."""
  texts = [file.read_text() for file in TEXTS]
  # The docstrings of configs/ are those of test_configs.py.
  for file in ("examples/own_model.py", "experiments/keras_example/config.py"):
    said = ast.get_docstring(ast.parse((ROOT / file).read_text()))
    texts.append(f"```\n{said}\n```")
  return sorted(set(itertools.chain(*map(commands, texts))))


def test_the_documents_have_commands():
  found = documented()
  assert len(found) > 50
  assert {module for module, _ in found} >= {
      "kd_jax.main", "kd_jax.report", "kd_jax.doctor", "kd_jax.conformance",
      "kd_jax.data", "experiments.reproduce", "experiments.record",
      "experiments.temperature_sweep", "benchmarks.mnist_step", "docs.methods"}


@pytest.mark.parametrize(
    ("module", "words"), [*documented(), *(
        (module, tuple(shlex.split(words))) for module, words in TOLD_FLAGS)],
    ids=lambda each: each if isinstance(each, str) else " ".join(each))
def test_a_command_of_a_document_is_accepted(
    module, words, monkeypatch, tmp_path):
  # The file of docs/own.md.
  (tmp_path / "mine.py").write_text("".join(own_page.CODE))
  words = [word.replace("=mine.py:", f"={tmp_path}/mine.py:") for word in words]
  assert importlib.util.find_spec(module), module
  if module in WITHOUT_FLAGS:
    assert not words
    return
  configs = started(module, list(words), monkeypatch)
  # `kd_jax.evaluate` has keys of the data alone, and no config to train.
  if any(word.startswith("--config=") for word in words):
    assert len(configs) == (2 if module == "kd_jax.compare" else 1)
    same(configs[0], list(words))
  if module == "experiments.reproduce":
    study = words[0]
    assert study == "all" or (ROOT / "experiments" / study / "study.py").is_file()


def test_a_sweep_of_a_file_is_accepted(tmp_path, monkeypatch):
  points = [{"temperature": 2.0}, {"temperature": 4.0, "alpha": 0.5}]
  file = tmp_path / "points.json"
  file.write_text(json.dumps(points))
  config, = started("kd_jax.main", [
      "--config=configs/mnist.py", f"--sweep={file}", "--sweep.seed=0,1"],
      monkeypatch)
  assert [dict(point) for point in config.sweep.points] == [
      {**point, "seed": seed} for point in points for seed in (0, 1)]


@pytest.mark.parametrize(("module", "words"), [
    ("kd_jax.main", ["--config=configs/mnist.py", "--config.temprature=2"]),
    ("kd_jax.main", ["--config=configs/mnist.py", "--config.temperature=-1"]),
    ("kd_jax.main", ["--config=configs/mnist.py", "--confg=1"]),
    ("kd_jax.doctor", ["--config=configs/mnist.py", "--config.alpha=2"]),
    ("kd_jax.explain", ["--workdir=DIR"]),
    ("kd_jax.predict", ["DIR", "a.png", "--top=0"]),
    ("kd_jax.export", ["DIR", "--format=tflit"]),
    ("kd_jax.report", ["merge", "DIR"]), ("kd_jax.data", ["prepare", "mnist"]),
    ("kd_jax.conformance", ["TARGET", "--alpha=half"]),
    ("experiments.reproduce", ["hinton15_mnist", "--minute"]),
    ("experiments.record", ["DIR", "--row=x"]),
    ("experiments.temperature_sweep", ["--config=configs/mnist.py", "--seeds=0"]),
    ("benchmarks.scaling", ["--datum", "DIR"])])
def test_a_command_that_is_wrong_is_not_accepted(module, words, monkeypatch):
  """Without it, the test above might accept anything."""
  with pytest.raises(SystemExit) as end:
    started(module, words, monkeypatch)
  assert end.value.code in (1, 2)


def same(config, words: list[str]) -> None:
  """Sees that a config has what its command line gives."""
  values = flat(config)
  given = dict(word.removeprefix("--config.").split("=", 1) for word in words
               if word.startswith("--config.") and "=" in word)
  for key, text in given.items():
    names = {"true": True, "false": False}
    try:
      expected = names[text] if text in names else ast.literal_eval(text)
    except (ValueError, SyntaxError):
      expected = text
    assert values[key] in (expected, (expected,)), f"--config.{key}={text}"


def row_commands(study: pathlib.Path) -> list[list[str]]:
  """Commands of a study's committed rows, those alike but for seeds once."""
  found = {}
  for file in sorted(study.glob("*.jsonl")):
    for line in file.read_text().splitlines():
      command = json.loads(line).get("command")
      if command:
        words = shlex.split(command)
        found[tuple(w for w in words if "seed=" not in w)] = words
  return list(found.values())


@pytest.mark.parametrize("study", sorted({
    file.parent.name for file in (ROOT / "experiments").glob("*/*.jsonl")
    if '"command": ' in file.read_text()}))
def test_the_command_of_a_committed_row_is_accepted(study, monkeypatch):
  rows = row_commands(ROOT / "experiments" / study)
  assert rows
  for words in rows:
    assert words[:3] == ["python", "-m", "kd_jax.main"]
    config, = started("kd_jax.main", words[3:], monkeypatch)
    same(config, words[3:])


def test_a_script_that_a_document_names_is_there():
  found = {script for file in TEXTS for script in re.findall(
      r"python ((?:\w+/)+\w+\.py)", file.read_text())}
  assert found and all((ROOT / script).is_file() for script in found)


# ---- Keys


def flat(config: ml_collections.ConfigDict, prefix: str = "") -> dict:
  """A config as dotted keys and values, with ml_collections alone."""
  found = {}
  for name, value in config.items():
    if isinstance(value, ml_collections.ConfigDict):
      found |= flat(value, f"{prefix}{name}.")
    else:
      found[prefix + name] = value
  return found


@functools.cache
def defaults() -> dict:
  """Keys and defaults as JSON has them."""
  return json.loads(json.dumps(flat(config_lib.default())))


def test_every_key_is_there():
  assert len(KEYS) > 100 and not set(KEYS) - set(defaults())


@pytest.mark.parametrize("key", KEYS)
def test_a_key_has_its_default(key):
  found, promised = defaults()[key], KEYS[key]
  assert (type(found), found) == (type(promised), promised)


def test_keys_in_documents_are_promised():
  told = {key for file in TEXTS for key in re.findall(
      r"--(?:config|sweep)\.([a-z]\w*(?:\.\w+)*)", file.read_text())}
  # Of methods of examples/own_method.py and docs/own.md; of the nets of a recipe.
  told -= {"focal_kd.power", "focal.power"}
  told = {schema.of_nets().get(key.split(".", 2)[2], key)
          if key.startswith("nets.") else key for key in told}
  assert len(told) > 10 and told <= set(KEYS)


# ---- Exit codes
#
#     0 done; 1 the doctor's or conformance's "no"; 2 a mistake, or a disk that
#     cannot be written; 3 a loss that is not finite; 4 a lost process; 130 and 143
#     stopped by SIGINT and SIGTERM.
#
# Tested where a net has to be trained for it: 3 and 4 and the disk in
# test_faults.py (a_loss_that_is_not_finite, processes_go_on_after_a_kill,
# a_full_disk, a_read_only_workdir), 130 and 143 in test_main.py
# (interrupted_and_run_again, a_second_interrupt), the doctor's 0 in
# test_doctor.py. Here, each program as `python -m` ends it.


@pytest.mark.parametrize(("command", "code"), [
    ("kd_jax.main --help", 0),
    ("kd_jax.main --config=nowhere.py", 2),
    ("kd_jax.main --config=configs/mnist.py --config.temperature=-1", 2),
    ("kd_jax.main --config=configs/mnist.py --plan --shard=1/2", 2),
    ("kd_jax.doctor --help", 0),
    ("kd_jax.doctor --config=nowhere.py", 1),
    ("kd_jax.explain --help", 0),
    ("kd_jax.explain --workdir=nowhere --id=0", 2),
    ("kd_jax.predict --help", 0),
    ("kd_jax.predict nowhere README.md", 2),
    ("kd_jax.export --help", 0),
    ("kd_jax.export nowhere --format=npz", 2),
    ("kd_jax.report --help", 0),
    ("kd_jax.report", 2),
    ("kd_jax.report nowhere", 2),
    ("kd_jax.report merge nowhere --out nowhere", 2),
    ("kd_jax.data --help", 0),
    ("kd_jax.data prepare mnist --from nowhere", 2),
    ("kd_jax.conformance --help", 0),
    ("kd_jax.conformance {loss}:right --only=direction", 0),
    ("kd_jax.conformance {loss}:reversed --only=direction", 1),
    ("kd_jax.conformance {loss}:none", 2),
    ("experiments.reproduce nothing", 2),
    ("experiments.reproduce all --verify", 2),
    ("experiments.reproduce fitnets_mnist --verify seed=999", 2),
    ("experiments.record nowhere --study=nowhere --row=x", 2),
    ("experiments.temperature_sweep --config=nowhere.py", 2),
])
def test_a_program_ends_with_its_exit_code(command, code, tmp_path, monkeypatch):
  loss = tmp_path / "loss.py"
  loss.write_text(LOSSES)
  monkeypatch.setenv("KD_JAX_DATA", "")
  module, *words = command.format(loss=loss).split()
  assert as_program(module, words, monkeypatch) == code


# In NumPy, which compiles nothing.
LOSSES = """
import numpy as np


def log_softmax(x):
  x = x - x.max(-1, keepdims=True)
  return x - np.log(np.exp(x).sum(-1, keepdims=True))


def kl(p, q):
  return (np.exp(p) * (p - q)).sum(-1)


def right(z, v, labels, temperature, alpha):
  q, p = log_softmax(z / temperature), log_softmax(v / temperature)
  hard = -log_softmax(z)[np.arange(len(z)), labels]
  return (1 - alpha) * hard + alpha * temperature**2 * kl(p, q)


def reversed(z, v, labels, temperature, alpha):
  q, p = log_softmax(z / temperature), log_softmax(v / temperature)
  hard = -log_softmax(z)[np.arange(len(z)), labels]
  return (1 - alpha) * hard + alpha * temperature**2 * kl(q, p)
"""


# ---- Files


@pytest.fixture
def left(own_data, teachers, tmp_path, monkeypatch):
  """Runs the command on a small scale; the shape of what it left."""
  def run(*more) -> dict[str, list[str]]:
    with jax.numpy_dtype_promotion("standard"):
      assert as_program("kd_jax.main", [
          *TINY, *more, f"--config.data.dir={own_data}",
          f"--config.teacher.dir={teachers}", f"--workdir={tmp_path}"],
                        monkeypatch) == 0
    return shapes(tmp_path)
  return run


TINY = (
    "--config=configs/mnist.py:smoke", "--config.data.name=blobs",
    "--config.data.holdout=0.1", "--config.steps=4", "--config.teacher.steps=4",
    "--config.student.widths=(8,)", "--config.teacher.widths=(8,)",
    "--config.teacher.views=none", "--config.batch_size=100",
    "--config.teacher.batch_size=100", "--config.optimizer.name=sgd",
    "--config.teacher.optimizer.name=sgd", "--config.parallel=single")


def paths(value: dict, prefix: str = "") -> list[str]:
  """Keys of a JSON object, dotted below the first level."""
  return [path for key, each in value.items() for path in (
      paths(each, f"{prefix}{key}.") if isinstance(each, dict)
      else [prefix + key])]


def shapes(workdir: pathlib.Path) -> dict[str, list[str]]:
  """What a workdir holds: files, and of each record the keys it always has.

  Lines of a .jsonl are told apart by their net, where they have one.
  """
  found = {"": sorted(str(file.relative_to(workdir)) for file in (
      *workdir.glob("*"), *workdir.glob("parameters/*"),
      *workdir.glob("parameters/*/record.json"), *workdir.glob("tensorboard/*")))}
  for file in (*workdir.glob("*.json"), *workdir.glob("parameters/*/record.json")):
    found[str(file.relative_to(workdir))] = paths(json.loads(file.read_text()))
  for file in workdir.glob("*.jsonl"):
    for line in file.read_text().splitlines():
      row = json.loads(line)
      name = f"{file.name} {row.get('net', '')}".strip()
      found[name] = [path for path in paths(row)
                     if path in found.get(name, paths(row))]
  return found


def lacks(found: dict[str, list[str]], kind: str) -> list[str]:
  """What is promised of a kind of run, and not found."""
  return [f"{name}: {path}" for name, promised in RECORDS[kind].items()
          for path in promised if path not in found.get(name, ())]


def test_a_run_leaves_its_files(left, tmp_path):
  found = left()
  assert not lacks(found, "run")
  assert set(KEYS) <= set(found["config.json"])
  for name in ("teacher", "baseline", "distilled", "distilled_best"):
    variables = load_parameters(str(tmp_path / "parameters" / name))
    assert variables.params and variables.state == {}
    assert all(np.isfinite(each).all() for each in leaves(variables.params))


def leaves(tree) -> list[np.ndarray]:
  """Arrays of nested dicts."""
  if isinstance(tree, dict):
    return [each for value in tree.values() for each in leaves(value)]
  return [np.asarray(tree)]


@pytest.mark.pictures
def test_a_sweep_leaves_its_files(left, tmp_path):
  found = left("--sweep.temperature=1,4", "--config.sweep.lanes=1x2",
               "--config.tensorboard=false")
  assert not lacks(found, "sweep")
  assert set(KEYS) <= set(found["config.json"])
  lines = (tmp_path / "results.jsonl").read_text().splitlines()
  assert len(lines) == 2
