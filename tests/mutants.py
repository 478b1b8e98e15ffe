"""Breaks the code in known ways, one at a time; each must turn a test red.

  python tests/mutants.py [WORD ...]     all, or those whose name has a word
  python tests/mutants.py --seconds=150  as many as fit, others each commit

A mutation is a textual change in a copy of the repository. One that no longer
applies, or that its tests do not notice, is an error.
"""

import concurrent.futures
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[1]


class Mutant(NamedTuple):
  """One way to be wrong: in `file`, `old` becomes `new`; `tests` must notice."""

  name: str
  file: str
  old: str
  new: str
  tests: str


MUTANTS = (
    Mutant("drop T**2 in the loss", "losses.py",
           "soft = temperature**2 * distillation_kl(",
           "soft = distillation_kl(", "test_losses.py -k p2"),
    Mutant("drop T**2 in the method", "terms.py",
           "batch, hparams, hparams.temperature**2 * kl)", "batch, hparams, kl)",
           "test_steps.py -k papers_loss"),
    Mutant("swap KL", "losses.py", "  return jnp.sum(p * gap, axis=-1)",
           "  return -jnp.sum(jnp.exp(log_q) * gap, axis=-1)",
           "test_losses.py -k p5"),
    Mutant("mean over classes", "losses.py",
           "  return jnp.sum(p * gap, axis=-1)",
           "  return jnp.mean(p * gap, axis=-1)", "test_losses.py -k p3"),
    Mutant("no stop_gradient in the loss", "losses.py",
           "  logits = jax.lax.stop_gradient(logits)\n  return tempered",
           "  return tempered", "test_losses.py -k p9"),
    Mutant("no softmax", "losses.py",
           "  return jax.nn.log_softmax(scores, axis=-1, where=exists)",
           "  return scores", "test_losses.py -k p1_"),
    Mutant("half precision", "losses.py",
           "  return logits.astype(jnp.float64 if wide else jnp.float32)",
           "  return logits", "test_losses.py -k p13"),
    Mutant("alpha on the hard term", "losses.py", "    return 1 - alpha, alpha",
           "    return alpha, 1 - alpha", "test_losses.py -k p6"),
    Mutant("1 - p by subtraction", "logit_losses/parts.py",
           "log_sum(log_p, where), log_sum(log_p, ~where)]",
           "log_sum(log_p, where),\n"
           "      jnp.log1p(-jnp.exp(log_sum(log_p, where)))]",
           "test_logit_identities.py -k underflow"),
    Mutant("the label among the others", "logit_losses/decoupled.py",
           "      & ~parts.is_label(labels, student_logits))",
           "      )", "test_logit_losses.py -k float64"),
    Mutant("classes above the label kept", "logit_losses/decoupled.py",
           "~(teacher_logits >= v_label)", "~(teacher_logits == v_label)",
           "test_logit_identities.py -k above"),
    Mutant("no gradient through the deviation", "logit_losses/standardised.py",
           "centred, deviation, exists = _moments(logits, ddof, where)\n",
           "centred, deviation, exists = _moments(logits, ddof, where)\n"
           "  deviation = jax.lax.stop_gradient(deviation)\n",
           "test_logit_identities.py -k scale_and_shift"),
    Mutant("the mass of the rest dropped", "logit_losses/targets.py",
           "rest = parts.log_sum(log_p, ~inside)[..., None]",
           "rest = jnp.full((*log_p.shape[:-1], 1), -jnp.inf, log_p.dtype)",
           "test_logit_identities.py -k bucket"),
    Mutant("unsure teachers weigh no more", "logit_losses/transformed.py",
           "  return jnp.exp(parts.log_sum(powers, exists)) * kl",
           "  return kl", "test_logit_identities.py -k ttm"),
    Mutant("weights of teachers ignored", "logit_losses/mixtures.py",
           "logsumexp(log_p, axis=0, b=w)",
           "logsumexp(log_p, axis=0, b=1 / members)",
           "test_logit_identities.py -k mixture"),
    Mutant("teacher in training mode", "teacher.py",
           "train=False, mask=batch.mask)", "train=True, mask=batch.mask)",
           "test_steps.py -k evaluation_mode"),
    Mutant("student in evaluation mode", "steps.py", "batch.image, train=True,",
           "batch.image, train=False,", "test_steps.py -k training_mode"),
    Mutant("mask ignored by the loss", "steps.py",
           "jnp.where(view.batch.mask, terms_lib.total(terms), 0.0)",
           "terms_lib.total(terms)", "test_steps.py -k padding"),
    Mutant("mask ignored by BatchNorm", "models/linen.py",
           "rows = jnp.ones(len(x), bool) if mask is None else mask",
           "rows = jnp.ones(len(x), bool)", "test_models.py -k 'padding or valid'"),
    Mutant("mean of device means", "steps.py",
           "count = psum(jnp.sum(batch.mask, dtype=jnp.float32))",
           "count = 8 * jnp.sum(batch.mask, dtype=jnp.float32)",
           "test_steps.py -k eight_devices"),
    Mutant("views off by one", "loop.py",
           "image = augment.batch_views(views, rows(data.image), view)",
           "image = augment.batch_views(\n      views, rows(data.image), view + 1)",
           "test_loop.py -k plain_loop"),
    Mutant("bank row permuted", "teacher.py", "arrays.at[batch.id, view]",
           "arrays.at[batch.id[::-1], view]", "test_loop.py -k live_teacher"),
    Mutant("bank of the wrong view", "teacher.py",
           "view = batch.view if num_views > 1 else jnp.zeros_like(batch.view)",
           "view = jnp.zeros_like(batch.view)", "test_loop.py -k live_teacher"),
    Mutant("the cut matters", "loop.py",
           "epoch, first = jnp.divmod(state.step, num_steps)",
           "epoch, first = jnp.divmod(state.step, num_steps)\n    first *= 0",
           "test_loop.py -k cuts"),
    Mutant("the same batches every epoch", "rng.py",
           'stream(key, "order", epoch), ids)', 'stream(key, "order"), ids)',
           "test_rng.py"),
    Mutant("constraint before the update", "steps.py",
           "    params = optim.project(params, hparams.max_norm)\n", "",
           "test_steps.py -k projected"),
    Mutant("mask ignored by a mean", "metrics.py",
           "total=jnp.sum(jnp.where(mask, values, 0))",
           "total=jnp.sum(values)", "test_metrics.py -k 'padding or masked'"),
    Mutant("mask ignored by the calibration", "metrics.py",
           "jnp.arange(bins)[None, :]) & mask[:, None]",
           "jnp.arange(bins)[None, :])", "test_metrics.py -k padding"),
    Mutant("bins open above", "metrics.py", "jnp.ceil(confidence * bins)",
           "jnp.floor(confidence * bins + 1)", "test_metrics.py -k open_below"),
    Mutant("ECE without its bins", "metrics.py",
           "    gap = jnp.abs(self.correct.astype(self.confidence.dtype)"
           " - self.confidence)",
           "    gap = jnp.abs(jnp.sum(self.correct) - jnp.sum(self.confidence))",
           "test_metrics.py -k ece"),
    Mutant("one seed for all lanes", "lanes.py",
           "jax.random.key(seed), length)", "jax.random.key(0), length)",
           "test_lanes.py -k 1x2x3"),
    Mutant("an order for each point", "lanes.py",
           "_HELD, None, 0, None, None), (_HELD, None, 0, 0, None),",
           "_HELD, None, 0, 0, None), (_HELD, None, 0, 0, None),",
           "test_lanes.py -k drawn_once"),
    Mutant("the plan is repacked", "sweep/plan.py",
           "planned = {mark for chunk in mine for mark in chunk.lanes}",
           "planned, mine = set(), []", "test_sweep.py -k repacked"),
    Mutant("the plan is no part of a row", "sweep/plan.py",
           '{"lane": lane, "chunk": self.mark}', '{"lane": lane}',
           "test_sweep.py -k fingerprint"),
    Mutant("one side of the equivalence test", "statistics.py",
           "float(max(above, below))", "float(above)",
           "test_statistics.py -k equivalence"),
    Mutant("every device takes the first rows", "parallel.py",
           "jax.lax.axis_index(_AXIS) * size, size", "0, size",
           "test_parallel.py -k 'any_batch and mlp and pmap'"),
    Mutant("a checkpoint's numbers are not checked", "progress.py",
           'if checkpoint.parameters_sha256(found) != record["sha256"]:',
           "if not found:", "test_progress.py -k single_wrong_bit"),
    Mutant("a checkpoint of any config", "progress.py",
           "if not changed:", "if True:", "test_progress.py -k another_config"),
    Mutant("totals of an epoch are not saved", "follow.py",
           'state, told, done = found["state"], found["told"]',
           'state, told, done = found["state"], told',
           "test_fit.py -k uninterrupted"),
    Mutant("parameters that are not finite are good", "watch.py",
           "return bool(seen.fine) and all(", "return all(",
           "test_fit.py -k parameters_alone"),
    Mutant("steps that are not finite count", "steps.py",
           "keep(after, before).replace", "keep(after, after).replace",
           "test_steps.py -k passed_over"),
    Mutant("the dustbin's odds turned round", "specialists.py",
           "odds = jnp.log1p(-", "odds = -jnp.log1p(-",
           "test_specialists.py -k bayes_optimal"),
    Mutant("who is not asked speaks", "specialists.py",
           "said = jnp.where(asked, said, -jnp.inf)", "said = said",
           "test_specialists.py -k nobody_asked"),
    Mutant("a dustbin spread evenly", "specialists.py",
           "_log_share(log_q[..., None, :], ~within)",
           "_log_share(0 * log_q[..., None, :], ~within)",
           "test_specialists.py -k closed_form"),
    Mutant("frequent classes far from all centres", "confusable.py",
           "return columns / np.where(length > 0, length, 1.0)",
           "return columns", "test_specialists.py -k planted"),
    Mutant("teachers see the transfer set", "sweep/jobs.py",
           "taught = _taught(group.config, bench, training, teachers)",
           "taught = _taught(group.config, own, training, teachers)",
           "test_transfer.py -k students_see"),
    Mutant("biases start small too", "optim.py",
           """if getattr(path[-1], "key", None) == "kernel" else leaf, params)""",
           """if path else leaf, params)""", "test_transfer.py -k kernels"),
    Mutant("a part not nested", "data/__init__.py",
           "kept[np.argsort(salted, kind=\"stable\")[:round(part * len(ids))]]",
           "kept[np.argsort(salted * np.uint64(1 + 1000 * part), kind=\"stable\")"
           "[:round(part * len(ids))]]", "test_transfer.py -k nested"),
    Mutant("a whole batch's loss counted once a device", "steps.py",
           "lambda loss: loss / jax.lax.axis_size(axis_name),",
           "lambda loss: loss,", "test_distillers.py -k eight_devices"),
    Mutant("a temperature that descends", "logit_losses/curriculum.py",
           "return held - jax", "return held + jax",
           "test_relations.py -k climbs"),
    Mutant("padding among the rows of a Gram matrix", "logit_losses/relations.py",
           "zero = lambda x: jnp.where(valid[:, None], x, 0.0)",
           "zero = lambda x: x", "test_relations.py -k masked_rows"),
    Mutant("half precision rounds every level of MLKD", "logit_losses/relations.py",
           "z = losses.at_least_float32(student_logits)", "z = student_logits",
           "test_relations.py -k half_precision"),
    Mutant("conformance gives float32 a probability of 0", "conformance/oracle.py",
           "NEVER = -80.0", "NEVER = -200.0", "test_conformance.py -k compute_in"),
    Mutant("conformance takes an ignored T for T**2", "conformance/soft_term.py",
           "  if ignores_temperature(probe):", "  if False:",
           "test_conformance.py -k planted"),
    Mutant("a warm-up of the wrong weight", "schedules.py",
           'moved["soft_weight"] = soft * fraction(',
           'moved["hard_weight"] = soft * fraction(',
           "test_distillers.py -k warm_up"),
    Mutant("later keys mark everyone", "config.py",
           "  names = itertools.chain(*(later[whom] for whom in (\"all\", *nets)))",
           "  names = itertools.chain(*later.values())",
           "test_transfer.py -k concern"),
)


def killed(mutant: Mutant) -> bool:
  """Whether the mutant's tests fail on a copy that has it."""
  with tempfile.TemporaryDirectory() as folder:
    copy = pathlib.Path(folder) / "repo"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(
        ".git", ".venv*", "runs", "__pycache__", ".*_cache", ".hypothesis"))
    file = copy / "kd_jax" / mutant.file
    text = file.read_text()
    if text.count(mutant.old) < 1:
      raise SystemExit(f"{mutant.name}: no longer applies to {mutant.file}")
    file.write_text(text.replace(mutant.old, mutant.new))
    words = mutant.tests.split(" -k ")
    chosen = ["-k", words[1].strip("'")] if len(words) > 1 else []
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", "-n0",
         f"tests/{words[0]}", *chosen], cwd=copy, capture_output=True,
        text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(copy)})
  if run.returncode not in (0, 1):  # 5: nothing was selected
    raise SystemExit(f"{mutant.name}: the tests did not run\n{run.stdout}")
  return run.returncode == 1


def main(arguments: list[str]) -> int:
  """Tries the mutants; returns the number that lived."""
  words = [word for word in arguments if not word.startswith("--seconds=")]
  limits = [float(word.partition("=")[2]) for word in arguments
            if word not in words]
  chosen = [m for m in MUTANTS if all(word in m.name for word in words)]
  if limits:
    first = _commit() % len(chosen)
    chosen = chosen[first:] + chosen[:first]
  end = time.monotonic() + min(limits, default=float("inf"))
  attempt = lambda mutant: None if time.monotonic() > end else killed(mutant)
  told = {True: "killed", False: "LIVED ", None: ""}
  found = []
  # Two at a time: most tests keep one core busy.
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    for mutant, dead in zip(chosen, pool.map(attempt, chosen)):
      found.append(dead)
      if dead is not None:
        print(f"{told[dead]}  {mutant.name}", flush=True)
  print(f"{found.count(True)} passed, {found.count(False)} failed, "
        f"{found.count(None)} not tried for want of time")
  return found.count(False)


def _commit() -> int:
  """The commit as a number: where to begin, so that all have their turn."""
  text = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], text=True,
                        capture_output=True, check=False).stdout
  return int(text[:8] or "0", 16)


if __name__ == "__main__":
  sys.exit(min(main(sys.argv[1:]), 1))
