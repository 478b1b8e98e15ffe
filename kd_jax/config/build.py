"""From a config to the data and trainings that it asks for."""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax import data as data_lib
from kd_jax import losses, methods, models, teachers
from kd_jax.config import flatten, names, recipe
from kd_jax.config import run as run_lib
from kd_jax.core import randomness, types
from kd_jax.core.errors import UserError
from kd_jax.data import preprocess, views
from kd_jax.methods import fitting
from kd_jax.models import compression
from kd_jax.training import optimizers, peers, schedules, segment, step
from kd_jax.training.settings import Training

# A batch may be larger than a small data set: it is padded to its size.
_SMALL = 1024
# A ConfigDict, or its flat values.
Values = Mapping[str, Any]


def dataset(
    values: Values, say: Callable[[str], None] = print,
    fetching: Callable[[str], None] | None = None,
) -> data_lib.Dataset:
  """The data set of a run; `say` and `fetching` as of `data.load`."""
  values = flatten(values)
  resize = values["data.resize"]
  found = data_lib.load(
      values["data.name"], directory=values["data.dir"],
      holdout=values["data.holdout"], embedded=values["data.embedded"],
      resize=resize and (resize[0], resize[-1]),
      num_classes=values["data.num_classes"],
      split=values["data.split"], split_size=values["data.split_size"],
      test_fraction=values["data.test_fraction"], channels=values["data.channels"],
      label=values["data.label"], without=values["data.without"],
      first_class=values["data.first_class"], weights=values["data.weights"],
      say=say, fetching=fetching)
  kind, number, seed, p, s = (values[f"data.{key}"] for key in (
      "pseudo", "pseudo_size", "pseudo_seed", "munge_p", "munge_s"))
  if kind != "none":
    found = data_lib.with_pseudo(found, kind, number=number, seed=seed, p=p, s=s)
  return data_lib.without_test(found) if values["data.test"] == "heldout" else found


def transfer_set(values: Values, found: data_lib.Dataset) -> data_lib.Dataset:
  """The data set as students see it; teachers see all of it.

  Raises:
    UserError: If nothing is left, a class does not exist, or there are no such
      labels.
  """
  ids = _transfer_ids(values, found)
  number, labels = values["transfer.labelled"], found.train.label
  if number is None:
    return found._replace(train_ids=ids) if ids is not found.train_ids else found
  try:
    chosen = data_lib.labelled_ids(
        ids, labels, number=number, seed=values["transfer.seed"])
  except ValueError as error:
    raise UserError(f"config.transfer.labelled={number}: {error}") from None
  hidden = np.setdiff1d(ids, chosen)
  labels = labels.copy()
  labels[hidden] = -1
  return found._replace(train_ids=ids, train=found.train._replace(label=labels))


def _transfer_ids(values: Values, found: data_lib.Dataset) -> np.ndarray:
  """The examples that students see."""
  classes, part = values["transfer.classes"], values["transfer.part"]
  if not classes and part == 1:
    return found.train_ids
  if max(classes, default=0) >= found.num_classes:
    raise UserError(
        f"config.transfer.classes={classes}: {found.name} has classes 0 to "
        f"{found.num_classes - 1}")
  ids = data_lib.transfer_ids(
      found.train_ids, found.train.label, classes=classes, part=part,
      seed=values["transfer.seed"])
  if not len(ids):
    raise UserError(
        f"config.transfer: leaves none of {len(found.train_ids)} examples")
  return ids


def device_data(
    examples: data_lib.Examples, ids: np.ndarray,
    preprocess: preprocess.Scaling | preprocess.AsStored,
    weight: np.ndarray | None = None,
) -> segment.DeviceData:
  """Puts examples on the device, those of `ids` in use."""
  return jax.device_put(segment.DeviceData(
      examples.inputs, examples.label, ids.astype(np.int32),  # type: ignore[arg-type]
      preprocess, weight))  # type: ignore[arg-type]


def example_weights(found: data_lib.Dataset) -> np.ndarray | None:
  r"""The weight of the hard term of each example, float32 `[N]` by id; or None.

    w_i / mean_j w_j   over the j to train on whose label is known

  So the mean over an epoch is the weighted mean, sum_i w_i l_i / sum_i w_i, and
  alpha means the same whatever the weights add up to. Divided by the sum of a
  batch instead, an example would count by what is drawn beside it.

  Raises:
    UserError: If these weights are all 0.
  """
  weights, ids = found.weights, found.train_ids
  if weights is None or not len(labelled := ids[found.train.known[ids]]):
    return weights
  if not (mean := weights[labelled].mean(dtype=np.float64)):
    raise UserError(
        f"data.name={found.name}: the {len(labelled)} examples with a label that a "
        "net would train on all weigh 0; give some a weight, or keep others")
  return (weights / mean).astype(np.float32)


def student(values: Values, found: data_lib.Dataset) -> Training:
  """The training of the student."""
  values = flatten(values)
  training = _training(values, found, "student", student_hparams(values))
  _check_own_loss(values, found)
  seen, sees = training.views, values["teacher.sees"]
  if sees in views.VIEWS:
    _check_images("teacher.sees", sees, "views", found)
    seen = dataclasses.replace(seen, averaged=views.VIEWS[sees])
  elif sees != "views" and seen.count > 1:
    clean = sees == "clean"
    seen = dataclasses.replace(seen, clean=clean, independent=not clean)
  model, method = training.model, names.method(values["method"])
  if method.two_views:
    _check_two_views(values, seen)
    seen = dataclasses.replace(seen, independent=True, twice=True)
  model = models.probed(model) if method.probe else model
  return training._replace(
      model=model, views=seen, schedules=_schedules(values, training.total_steps))


def _check_two_views(values: Values, seen: views.Views) -> None:
  """Refuses what a method that sees each example in two views has no use for."""
  key = f"config.method={values['method']}: sees each example in two views"
  if seen.count == 1:
    raise UserError(f"{key}, and there is one; give views, such as "
                    "--config.student.views=crop4_flip_strong")
  if values["mixup"]:
    raise UserError(f"{key}, which mixup={values['mixup']:g} would mix with "
                    "others; use mixup=0")
  if values["teacher.sees"] != "views":
    raise UserError(f"{key}, both nets the same two; use teacher.sees=views")


def _check_images(
    key: str, name: str, usual: str, found: data_lib.Dataset) -> None:
  """Refuses views of what is no image."""
  if not preprocess.are_images(found.train.inputs):
    raise UserError(
        f"config.{key}={name}: is for images, and {found.name} has inputs "
        f"{found.train.inputs.shape[1:]}; give --config.{key}={usual}")


def _check_own_loss(values: Values, found: data_lib.Dataset) -> None:
  """Refuses what reaches the library's own term of the labels alone."""
  given = [what for what, is_given in (
      ("class_weights", values["class_weights"]),
      ("label_smoothing", values["label_smoothing"]),
      ("weights of examples", found.weights is not None)) if is_given]
  if given and names.method(values["method"]).own_labels:
    raise UserError(
        f"config.method={values['method']}: is a loss of your own as a whole, "
        f"which {given[0]} would not reach; leave them out, or write a Method "
        "whose term of the labels is called hard")


def student_hparams(values: Values) -> types.Hparams:
  """The traced numbers of the student's training, float32 scalars."""
  values = flatten(values)
  hard, soft = losses.distillation_weights(
      *(values[key] for key in ("alpha", "hard_weight", "soft_weight")))
  own = names.numbers(values)
  ends = {what: values[f"schedules.{what}_end"]
          for what in ("temperature", "alpha")
          if values[f"schedules.{what}"] != "constant"}
  return _traced(dataclasses.replace(
      _hparams(values, "student"), temperature=values["temperature"],
      hard_weight=hard, soft_weight=soft, numbers=own or None, ends=ends or None))


def training(net: recipe.Net, found: data_lib.Dataset) -> Training:
  """The training of a net of a recipe.

  Raises:
    UserError: Naming the key that is wrong.
  """
  each = []
  for name, values in net.peers:
    with recipe.errors_named(name):
      each.append(student(values, found))
  with net.errors_named():
    made = (student(net.values, found) if net.member is None
            else teacher(net.values, found, net.member))
  if net.peers:
    _check_peers(net, each)
    made = made._replace(
        taps=peers.taps([one.taps for one in each]),
        model=peers.model([one.model for one in each]))
  made = made._replace(seed=randomness.of_role(made.seed, net.role))
  if net.prune:
    made = made._replace(model=compression.sparse(made.model))
  if net.epoch is None:
    return made
  steps = net.epoch * segment.steps_per_epoch(
      len(found.train_ids), made.batch_size)
  if steps > made.total_steps:
    raise UserError(
        f"config.nets: {net.name} is a teacher at an epoch after its training, "
        f"which has {made.total_steps} steps")
  return made._replace(ends=steps, patience=None)


def _check_peers(net: recipe.Net, each: list[Training]) -> None:
  """Refuses two nets that train together whose taps their method cannot compare."""
  run = run_lib.read(net.values)
  if run.method.pairs is None:
    return
  try:
    for own, other in (each, each[::-1]):
      methods.bind(run.method, own.taps, other.taps, ())
      fitting.check(run.method, own.taps, other.taps, (), own.hparams)
  except ValueError as error:
    raise UserError(
        f"config.method={run.values['method']}: {error}; use another method, or "
        f"other nets for {net.name}") from None


def teacher(values: Values, found: data_lib.Dataset, member: int) -> Training:
  """The training of one member of the teacher; members differ in seed."""
  values = flatten(values)
  training = _training(
      values, found, "teacher", _traced(_hparams(values, "teacher")))
  if training.model.on_host is not None:
    _check_asked(values)
  return training._replace(seed=training.seed + member)


def _check_asked(values: Values) -> None:
  """Refuses what a teacher that is a function on the host cannot be or give."""
  method, name = names.method(values["method"]), values["teacher.name"]
  for key in ("teacher.count", "teacher.state_dict", "teacher.dir"):
    if values[key] not in (None, 1):
      raise UserError(
          f"config.{key}={values[key]}: is of nets that are trained or loaded "
          f"here, and teacher.name={name} is a function; leave one of them out")
  if method.heads:
    raise UserError(
        f"config.method={values['method']}: looks into its teacher, and "
        f"teacher.name={name} is a function, of which outputs alone are known; use "
        "a method on logits or features, such as kd or hint")
  if jax.process_count() > 1:
    raise UserError(f"config.teacher.name={name}: is a function, which one process "
                    "can ask; leave out --processes")


def learner(
    run: run_lib.Run, training: Training, method: methods.Method,
    teacher: teachers.Teacher | None = None,
) -> step.Learner:
  """The step of a training.

  Raises:
    UserError: If the method compares taps that a net does not have.
  """
  # Without a teacher, as among peers, taps are compared with those of the net.
  method, pairs = bound(
      run, training, method, teacher.taps if teacher else training.taps)
  return step.Learner(
      training.model, method, training.optimizer_spec, teacher, pairs=pairs,
      skip_nonfinite=run.values["nonfinite"] == "skip",
      schedules=training.schedules, unlabelled=training.unlabelled,
      mixup=training.mixup, accumulate=training.accumulate,
      class_weights=training.class_weights)


def method(net: recipe.Net, run: run_lib.Run) -> methods.Method:
  """The method by which a net of a recipe is trained.

  Raises:
    UserError: If nets that train together cannot learn by it.
  """
  if not net.peers:
    return run.method if net.member is None else methods.METHODS["hard"]
  try:
    return peers.method(run.method, tuple(name for name, _ in net.peers),
                        run.values["teacher.mean"])
  except ValueError as error:
    raise UserError(
        f"config.method={run.values['method']}: is none for {net.name}, which "
        f"train together: {error}; use one on logits, such as kd") from None


def bound(
    run: run_lib.Run, training: Training, method: methods.Method,
    taps: methods.Shapes,
) -> tuple[methods.Method, methods.Pairs]:
  """The method for a training and the taps of its teacher, and what it compares.

  Raises:
    UserError: If it compares taps that a net does not have.
  """
  given = run.values["features.pairs"]
  given = methods.ALL if given == ("all",) else given
  try:
    found = methods.bind(method, training.taps, taps, given)
    if found[1] and method.needs_teacher:
      fitting.check(method, training.taps, taps, given, training.hparams)
    return found
  except ValueError as error:
    remedy = "name others with config.features.pairs"
    for net, known in (("student", training.taps), ("teacher", taps)):
      if not known:
        remedy = f'let the {net} return its features too: logits, {{NAME: array}}'
    raise UserError(
        f"config.method={run.values['method']}: {error}; {remedy}") from None


def check_net(net: recipe.Net) -> None:
  """`check_names`, of a net of a recipe."""
  for name, values in net.peers:
    with recipe.errors_named(name):
      check_names(values)
  with net.errors_named():
    method(net, run_lib.read(net.values))
    check_names(net.values)


def check_names(values: Values) -> None:
  """Refuses names that stand for nothing, before anything is loaded.

  Raises:
    UserError: Naming the key, and the nearest names that there are.
  """
  run = run_lib.read(values)
  values, method = run.values, run.method
  name, count, mean, logits, weights = (values[key] for key in (
      "method", "teacher.count", "teacher.mean", "teacher.logits",
      "teacher.state_dict"))
  if weights is not None and (logits is not None or count > 1):
    raise UserError(
        f"config.teacher.state_dict={weights}: is one net, which is the teacher; "
        "leave out teacher.logits, and teacher.count above 1")
  if values["inspect"] and values["sweep.points"]:
    raise UserError(f"config.inspect={values['inspect']}: looks at single runs, "
                    "and this is a sweep; give inspect=0")
  if values["data.test"] == "heldout":
    if not values["data.holdout"]:
      raise UserError("config.data.test=heldout: nothing is held out; give "
                      "data.holdout, such as 0.1")
    if values["teacher.test_logits"] is not None:
      raise UserError(
          "config.data.test=heldout: teacher.test_logits are of the test set, "
          "which stays unseen; leave them out")
  for key in ("patience", "teacher.patience"):
    if values[key] is not None and not values["data.holdout"]:
      raise UserError(
          f"config.{key}={values[key]}: waits for fewer held-out errors, and "
          "nothing is held out; give data.holdout, such as 0.1")
  if values["teacher.test_logits"] is not None and logits is None:
    raise UserError(
        f"config.teacher.test_logits={values['teacher.test_logits']}: is of a "
        "teacher in a file; give its logits of the training set, teacher.logits")
  _check_mixup(values, method)
  if values["accumulate"] > 1 and method.relations:
    raise UserError(
        f"config.accumulate={values['accumulate']}: method {name} relates examples "
        "of the whole batch, and would see a part; use accumulate=1")
  if _weighs_nothing(values, method):
    raise UserError(
        f"config.method={name}: the weights of all its terms are 0, so there is "
        "nothing to learn; give alpha, hard_weight, soft_weight or a weight of its "
        "own")
  if method.pairs is not None and method.needs_teacher:
    if logits is not None:
      raise UserError(
          f"config.teacher.logits={logits}: method {name} compares features, and a "
          "file of logits has none; let the run train its teacher")
    if count > 1 and (method.heads or method.inference or method.gradients):
      raise UserError(
          f"config.teacher.count={count}: method {name} asks for more of a teacher "
          "than its taps, such as its last layer, and is of one alone; use "
          "teacher.count=1, or a method that compares taps, such as hint")
  averages = _averages(values, method)
  if ((count > 1 or averages) and mean != "logits" and method.needs_teacher
      and method.any_temperature):
    raise UserError(
        f"config.teacher.mean={mean}: its mixture belongs to one temperature, and "
        f"{name} asks at others; use teacher.mean=logits")
  for net in ("student", "teacher"):
    names.known(f"{net}.views", values[f"{net}.views"], views.VIEWS)
    if ":" not in values[f"{net}.name"]:
      names.known(f"{net}.name", values[f"{net}.name"], models.MODELS)


def _averages(values: Values, method: methods.Method) -> bool:
  """Whether a teacher's answer is a mean over views; refuses what needs the net."""
  sees = names.known("teacher.sees", values["teacher.sees"], {
      **dict.fromkeys(("views", "clean", "independent"), False),
      **dict.fromkeys(set(views.VIEWS) - {"none"}, True)})
  for what, asks in (
      ("teacher.bank=never", values["teacher.bank"] == "never"),
      (f"mixup={values['mixup']:g}", values["mixup"] > 0),
      (f"method={values['method']}", bool(method.heads or method.pairs))):
    if sees and asks and method.needs_teacher:
      raise UserError(
          f"config.teacher.sees={values['teacher.sees']}: is a mean of logits that "
          f"are stored, and {what} asks the net itself; use teacher.sees=views")
  return sees


def _check_mixup(values: Values, method: methods.Method) -> None:
  """Refuses what knows inputs, or classes, as they were before they were mixed."""
  if not values["mixup"]:
    return
  asked = f"config.mixup={values['mixup']:g}: mixes two inputs"
  if (method.needs_teacher and values["teacher.count"] > 1
      and values["teacher.mean"] == "confidence"):
    raise UserError(f"{asked}, and teacher.mean=confidence weighs members by the "
                    "class of one; use another mean, or mixup=0")
  if method.reads_labels or method.memory:
    raise UserError(f"{asked}, and method {values['method']} reads the class of "
                    "one; use another method, or mixup=0")
  if method.needs_teacher and (
      values["teacher.logits"] is not None or values["teacher.bank"] == "always"):
    raise UserError(f"{asked}, and stored logits are of one; ask the teacher live, "
                    "with teacher.bank=auto and without teacher.logits")


def _weighs_nothing(values: Values, method: methods.Method) -> bool:
  """Whether all weights of a method's terms are 0."""
  hard, soft = losses.distillation_weights(
      *(values[key] for key in ("alpha", "hard_weight", "soft_weight")))
  known = {"hard_weight": hard, "soft_weight": soft, **names.numbers(values)}
  return bool(method.weights) and not any(known[name] for name in method.weights)


def _reader(values: Values, net: str) -> Callable[[str], Any]:
  """Reads keys of "student" or "teacher"; the student is trained by the run's."""
  return lambda key: values[_key(values, net, key)]


def _key(values: Values, net: str, key: str) -> str:
  return f"{net}.{key}" if f"{net}.{key}" in values else key


def _training(
    values: Values, found: data_lib.Dataset, net: str, hparams: types.Hparams
) -> Training:
  """Reads the keys that `student` and `teacher` have in common."""
  own = _reader(values, net)
  name = own("name")
  seen = names.known(f"{net}.views", own("views"), views.VIEWS)
  if seen.count > 1:
    _check_images(f"{net}.views", own("views"), "none", found)
  if own("mixup") and not jnp.issubdtype(
      preprocess.seen(found.train.inputs, 1).dtype, jnp.floating):
    raise UserError(
        f"config.{_key(values, net, 'mixup')}={own('mixup'):g}: mixes pixels or "
        f"floats, and {found.name} has {found.train.inputs.dtype}; use 0")
  if own("mixup") and found.weights is not None:
    raise UserError(
        f"config.{_key(values, net, 'mixup')}={own('mixup'):g}: mixes two examples"
        f", and each of {found.name} has a weight of its own; use 0, or leave out "
        "the weights")
  number, batch_size = len(found.train_ids), own("batch_size")
  if batch_size > max(number, _SMALL):
    raise UserError(
        f"config.{_key(values, net, 'batch_size')}={batch_size}: there are "
        f"{number} examples to train on; give no more than these")
  per_epoch = segment.steps_per_epoch(number, batch_size)
  if own("accumulate") > batch_size:
    raise UserError(
        f"config.{_key(values, net, 'accumulate')}={own('accumulate')}: there are "
        f"only {batch_size} examples in a batch; give no more parts than these")
  total = own("steps") or max(own("epochs") * per_epoch, own("min_steps"))
  built, taps, remark = names.model(
      name, names.sizes(own), found, prefix=net,
      dtype=own("dtype") or values["dtype"])
  bits = values["student.weight_bits"] if net == "student" else None
  if bits is not None:
    built = compression.few_bits(built, bits)
  if hparams.rates is not None and "rates" not in built.understands:
    raise UserError(
        f"config.{net}.input_dropout, hidden_dropout: {name} has no dropout; set "
        "both to 0")
  return Training(
      model=built, views=seen,
      optimizer_spec=_optimizer_spec(values, net, per_epoch, total),
      hparams=hparams, batch_size=batch_size, total_steps=total,
      seed=own("seed"), taps=taps, remark=remark, mixup=own("mixup"),
      accumulate=own("accumulate"),
      class_weights=_class_weights(
          _key(values, net, "class_weights"), values, found),
      patience=own("patience"),
      unlabelled=not found.train.known[found.train_ids].all())


def _class_weights(
    key: str, values: Values, found: data_lib.Dataset
) -> tuple[float, ...]:
  """The weight of the hard term of each class; () where all are alike."""
  given, number = values[key], found.num_classes
  if given and values[key.replace("class_weights", "mixup")]:
    raise UserError(f"config.{key}: are of one class, and mixup mixes two; leave "
                    "one of them out")
  labels = found.train.label[found.train_ids]
  if given == ("balanced",):
    counts = np.bincount(labels[labels >= 0], minlength=number)
    present = max(np.count_nonzero(counts), 1)  # None where no label is known.
    return tuple((counts.sum() / (present * np.maximum(counts, 1))).tolist())
  if given and len(given) != number:
    raise UserError(
        f"config.{key}={given}: there are {number} classes, and each needs a "
        "weight; or give balanced")
  if given and not any(given):
    raise UserError(f"config.{key}={given}: no class counts; give one a weight")
  return given


def _schedules(values: Values, total_steps: int) -> schedules.Schedules:
  own = lambda key: values[f"schedules.{key}"]
  steps = lambda what: own(f"{what}_percent") / 100 * total_steps
  return schedules.Schedules(
      total_steps, schedules.Course(own("temperature"), steps("temperature")),
      schedules.Course(own("alpha"), steps("alpha")), steps("warmup"))


def _hparams(values: Values, net: str) -> types.Hparams:
  """Reads the traced keys that `student` and `teacher` have in common."""
  own = _reader(values, net)
  rates = {"input": own("input_dropout"), "hidden": own("hidden_dropout")}
  return types.Hparams(
      label_smoothing=own("label_smoothing"),
      learning_rate=own("optimizer.learning_rate"),
      momentum=own("optimizer.momentum"),
      momentum_end=own("optimizer.momentum_end"),
      weight_decay=own("optimizer.weight_decay"),
      rates=rates if any(rates.values()) else None, max_norm=own("max_norm"),
      init_scale=None if own("init_scale") == 1 else own("init_scale"),
      clip_norm=own("optimizer.clip_norm"), ema=own("optimizer.ema"))


def _traced(hparams: types.Hparams) -> types.Hparams:
  return jax.tree.map(jnp.float32, hparams)


def _optimizer_spec(
    values: Values, net: str, per_epoch: int, total: int
) -> optimizers.OptimizerSpec:
  """Reads the keys of an optimiser but for the traced ones."""
  full = lambda key: _key(values, net, f"optimizer.{key}")
  own = lambda key: values[full(key)]
  warmup = round(
      own("warmup_steps") or (own("warmup_epochs") or 0) * per_epoch
      or (own("warmup_percent") or 0) / 100 * total)
  for key in ("nesterov", "momentum_end"):
    if own(key) not in (False, None) and own("name") != "sgd":
      raise UserError(f"config.{full(key)}={own(key)}: needs {full('name')}=sgd, "
                      f"not {own('name')}")
  if own("momentum_epochs") is not None and own("momentum_end") is None:
    raise UserError(
        f"config.{full('momentum_epochs')}={own('momentum_epochs'):g}: momentum "
        f"stays as it is; give {full('momentum_end')} too")
  if warmup >= total:
    key = next(key for key in ("warmup_steps", "warmup_epochs", "warmup_percent")
               if own(key))
    raise UserError(
        f"config.{full(key)}={own(key):g}: a warm-up of {warmup} steps, and the "
        f"run has {total} ({per_epoch} an epoch); give less of it, or more epochs")
  shape = optimizers.schedule(
      own("schedule"), total_steps=total, warmup_steps=warmup,
      boundaries=[round(total * percent / 100)
                  for percent in own("boundaries_percent")],
      factor=own("factor"), per_epoch=per_epoch)
  return optimizers.OptimizerSpec(
      own("name"), shape, own("nesterov"), own("b2"), own("epsilon"),
      1.0 if own("momentum_end") is None else
      (own("momentum_epochs") or 0) * per_epoch or float(total))
