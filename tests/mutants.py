"""Breaks the code in known ways, one at a time; each must turn a test red.

  python tests/mutants.py [WORD ...]     all, or those whose name has a word
  python tests/mutants.py --seconds=150  as many as fit, others each commit

A mutation changes the syntax tree of one function in a copy of the repository,
so that it outlives a module that moves, a new format and other comments. One
that no longer applies, or that its tests do not notice, is an error.
"""

import ast
from collections.abc import Iterator, Sequence
import concurrent.futures
import copy
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[1]


class Mutant(NamedTuple):
  """One way to be wrong: `within` a function, `old` becomes `new`.

  No file is named, as files move: of several functions of that name it is the
  one that has `old` in it. In `old` each of `_1`, `_2`, ... stands for any
  expression, the same wherever it occurs, and in `new` for what that was. They
  keep patterns clear of names of modules, which move too: `_1(x)` for `lib.f(x)`.

  Attributes:
    name: What is wrong.
    within: `function`, `Class.method`, or a name that a module assigns to; of a
      function inside a function the outer one.
    old: An expression or a statement.
    new: An expression, or any statements for a statement.
    tests: Which must notice.
    times: How often `old` is there.
  """

  name: str
  within: str
  old: str
  new: str
  tests: str
  times: int = 1


MUTANTS = (
    Mutant("the first minimum of a likelihood is taken", "_fitted",
           "np.eye(len(free), dtype=bool)[:-1]",
           "np.zeros((0, len(free)), dtype=bool)", "test_mixed.py -k two_minima"),
    Mutant("an ensemble with a cell of its own says how teachers vary", "_degrees",
           "_contrasts(table)", "table.teachers - 1",
           "test_mixed.py -k quantile_of_a_mean"),
    Mutant("a function is asked by way of the pool of threads", "model",
           "jax.default_backend() == 'cpu'", "False",
           "test_function_teacher.py -k at_once"),
    Mutant("rows of a function are compared within a program", "_logits",
           "model.on_host is not None", "False",
           "test_function_teacher.py -k stored_rows"),
    Mutant("a text of one character has it in one place alone", "of_texts",
           "(before + inside) * character", "before * character",
           "test_ocr_teacher.py -k alignments"),
    Mutant("comparisons of a stage that is not there are not counted", "compared",
           "dict.fromkeys(FIXED, _NOT_YET)", "{}",
           "test_ocr_teacher.py -k counted_and_not_judged"),
    Mutant("a plan has the steps of a teacher that is not trained", "show",
           "_1 if group.step else 0", "_1",
           "test_function_teacher.py -k doctor_and_the_plan"),
    Mutant("a method's mean of its batch is taken for a value per example",
           "_of_terms", "not relations", "False",
           "test_own.py -k 'mistake_in_a_method and without'"),
    Mutant("an unknown name in a method's formula is met after training", "checked",
           "text.format(**dict.fromkeys(_1, 1.0))", "text.format",
           "test_own.py -k 'mistake_in_a_method and formula'"),
    Mutant("alpha of a user's loss is its weight, not its share", "of_loss",
           "hparams.soft_weight / _1", "hparams.soft_weight",
           "test_own.py -k 'term_with_its_alpha and places'"),
    Mutant("a user's loss is not weighed by the weights of a run", "of_loss",
           "hparams.hard_weight + hparams.soft_weight", "1.0",
           "test_own.py -k 'term_with_its_alpha and places'"),
    Mutant("a user's loss is called by position, whatever it names", "of_logits",
           "not needed <= uses", "True",
           "test_own.py -k 'term_with_its_alpha and by_name'"),
    Mutant("a method's file that was not edited is another method", "add",
           "before[1] is not own", "True", "test_own.py -k same_object"),
    Mutant("answers of a function do not tell its students apart", "_asked",
           "parameters.parameters_sha256(answers)", "fingerprint",
           "test_function_teacher.py -k other_answers"),
    Mutant("lanes of a function are taken for its batch", "model",
           "inputs.shape[:1 - len(seen.shape)]", "()",
           "test_function_teacher.py -k compiled_and_in_lanes"),
    Mutant("a function sees no views", "make_asked",
           "jnp.full_like(ids, view)", "jnp.zeros_like(ids)",
           "test_function_teacher.py -k views_that_nets_see"),
    Mutant("the start of another run is left out", "Points._wanted",
           "self._of_another_run(net, setup, training)", "None",
           "test_init_from.py -k each_net"),
    Mutant("the last net instead of the best one", "fit",
           "training.patience is not None and monitor.best is not None", "False",
           "test_patience.py -k best_epoch"),
    Mutant("a training waits one epoch less", "NetMonitor.check",
           "number - int(self.kept.epoch) >= patience",
           "number - int(self.kept.epoch) >= patience - 1",
           "test_patience.py -k best_epoch"),
    Mutant("an epoch after the end is read", "run_to_end",
           "unread and not monitor.over", "unread",
           "test_patience.py -k best_epoch"),
    Mutant("a lane that is over learns on", "_better",
           "alive & (after.errors < before.errors)", "after.errors < before.errors",
           "test_patience.py -k lane"),
    Mutant("all lanes end with the first", "LanesMonitor.check",
           "(number - self.kept.epoch >= self.patience).all()",
           "(number - self.kept.epoch >= self.patience).any()",
           "test_patience.py -k lane"),
    Mutant("a gradient is not clipped", "optimizer", "hparams.clip_norm is None",
           "True", "test_clip_and_weights.py -k scaled"),
    Mutant("a rate falls within an epoch", "_schedule",
           "_1(1.0, per_epoch, factor, staircase=True)",
           "_1(1.0, per_epoch, factor)", "test_optimizers.py -k schedule_does"),
    Mutant("an average leans towards its start", "with_average",
           "(1 - decay) / _1", "1 - decay", "test_ema.py -k after_each_step"),
    Mutant("an average forgets the net that it starts from",
           "AveragedState.starting", "jax.tree.map(jnp.copy, student)",
           "self.average[0]", "test_ema.py -k no_step"),
    Mutant("an average shares a buffer with the net", "AveragedState.starting",
           "self.average[1]", "self.method", "test_ema.py -k no_buffer"),
    Mutant("errors of the last weights are those of the average", "evaluate_state",
           "net(state.last)", "net(state)", "test_ema.py -k last_is_recorded"),
    Mutant("momentum stays as it is", "_updated",
           "optimizers.at(learner.optimizer_spec, hparams, state.step)", "hparams",
           "test_momentum.py -k 'linearly and True'"),
    Mutant("momentum moves as long as the run", "_optimizer_spec",
           "(own('momentum_epochs') or 0) * per_epoch or float(total)",
           "float(total)", "test_momentum.py -k epochs_of"),
    Mutant("closing 74: the base is compared with itself", "best_kind",
           "name != BASE", "True", "test_hinton15_closing.py -k another_than"),
    Mutant("closing 74: equal values have other ranks", "_ranks",
           "((each[:, None] == each).sum(1) + 1) / 2", "1",
           "test_hinton15_closing.py -k by_hand"),
    Mutant("closing 74: teachers are not paired", "paired",
           "row['overrides']['teacher.seed'], row['seed']", "0, row['seed']",
           "test_hinton15_closing.py -k over_teachers"),
    Mutant("soft terms are weighed by class", "terms_of",
           "counted(term) if terms_lib.of_labels(name) else term", "counted(term)",
           "test_clip_and_weights.py -k hard_term"),
    Mutant("balanced by how many there are", "_class_weights",
           "counts.sum() / (present * np.maximum(counts, 1))",
           "counts / counts.sum()", "test_clip_and_weights.py -k balanced"),
    Mutant("example weights: soft terms have them too", "terms_of",
           "found._replace(terms={_1: counted(_2) if _3 else _2 for _1, _2 in _4})",
           "found._replace(terms={_1: counted(_2) for _1, _2 in _4})",
           "test_example_weights.py -k 'hard_term_alone and 1-False'"),
    Mutant("example weights: those of classes take their place", "terms_of",
           "value *= batch.weight", "value = term.value * batch.weight",
           "test_example_weights.py -k 'hard_term_alone and 1-False'"),
    Mutant("example weights: those held out have a say", "example_weights",
           "weights[labelled].mean(dtype=np.float64)",
           "weights.mean(dtype=np.float64)",
           "test_example_weights.py -k mean_of_1"),
    Mutant("example weights: no part of the hash", "_fingerprint",
           "arrays if weights is None else (*arrays, weights)", "arrays",
           "test_example_weights.py -k hash"),
    Mutant("example weights: those of all rows are of the training rows", "find",
           "weights if weights is None else weights[~test]",
           "weights if weights is None else weights[:(~test).sum()]",
           "test_example_weights.py -k any_split"),
    Mutant("a notebook has a bar for every epoch", "Screen._draw",
           "self._drawn is None", "True", "test_screen.py -k one_bar"),
    Mutant("more widths than a net has places for are left out", "_check_widths",
           "len(given) != len(own)", "False", "test_nets.py -k 'another_number'"),
    Mutant("own files: classes are not in the order of their names", "_classes",
           "dict(sorted(found.items()))", "dict(sorted(found.items())[::-1])",
           "test_image_folders.py -k order_of_names"),
    Mutant("own files: an image of the same size and time is not seen", "signature",
           "facts.append((_1, of.st_size, of.st_mtime_ns, of.st_ctime_ns, _2))",
           "facts.append((_1, of.st_size, of.st_mtime_ns))",
           "test_image_folders.py -k decoded_anew"),
    Mutant("own files: decoded images are those of another size", "_images",
           "[asked.resize, asked.channels, image_files.version()]", "[]",
           "test_image_folders.py -k decoded_once"),
    Mutant("own files: damaged pixels are used", "load",
           "_checksum(images) != checksum", "False",
           "test_image_folders.py -k damaged_cache"),
    Mutant("own files: a class that training lacks is taken", "refuse_classes",
           "name not in train", "False",
           "test_image_folders.py -k training_lacks"),
    Mutant("own files: a test set is drawn by the order of names", "held_back",
           "digests <= digests[order[number - 1]]",
           "np.arange(len(names)) < number",
           "test_image_folders.py -k for_ever"),
    Mutant("own files: a missing value is taken", "_refuse_unusable",
           "int(column.missing.sum())", "0",
           "test_table_files.py -k none_is_refused"),
    Mutant("own files: a row that comes twice is on both sides", "held_back",
           "digests <= digests[order[number - 1]]",
           "np.isin(np.arange(len(names)), order[:number])",
           "test_table_files.py -k one_side"),
    Mutant("own files: an unknown label is a class", "numbered",
           "(label == -1) & (first_class > -1)", "label != label",
           "test_table_files.py -k first_class"),
    Mutant("the largest weights are pruned", "_without_smallest",
           "jnp.argsort(jnp.abs(array).reshape(-1), stable=True)",
           "jnp.argsort(-jnp.abs(array).reshape(-1), stable=True)",
           "test_compression.py -k 'are_pruned'"),
    Mutant("a pruned weight learns again", "sparse", "kernel * (kernel != 0)",
           "kernel", "test_compression.py -k no_gradient"),
    Mutant("all outputs have one scale", "rounded",
           "tuple(range(kernel.ndim - 1))", "tuple(range(kernel.ndim))",
           "test_compression.py -k grid"),
    Mutant("weights of few bits are kept as they were trained", "few_bits",
           "variables._replace(params=rounding(variables.params))", "variables",
           "test_compression.py -k 'passes_through'"),
    Mutant("a net starts from weights that are not pruned", "begun",
           "compression.pruned(params, *net.prune)", "params",
           "test_compression.py -k 'promises'"),
    Mutant("two shares of pruned weights are one net", "identity",
           "{'prune': net.prune} if net.prune else {}", "{}",
           "test_compression.py -k 'swept'"),
    Mutant("a file that is another net is kept", "_refuse_wrong",
           "not gap <= allowed", "False", "test_export.py -k another_net"),
    Mutant("an older file that is another net stays", "_refused", "file.unlink()",
           "None", "test_export.py -k goes_with_its_row"),
    Mutant("a good older file goes", "_refused", "not file.is_file()", "True",
           "test_export.py -k outlives"),
    Mutant("two exports write into one file", "replacing",
           "f'new-{secrets.token_hex(4)}-{path.name}'", "f'new-{path.name}'",
           "test_export.py -k same_net_at_once"),
    Mutant("rows are written by several at once", "alone",
           "records.alone(folder / NAME, say=_1, stop=_2)",
           "contextlib.nullcontext()", "test_export.py -k several_programs"),
    Mutant("a licence is of a row", "record", "row | licences.get(row['net'], {})",
           "row", "test_export.py -k chosen_once"),
    Mutant("what is stopped goes on", "stoppable", "raise Stopped(128 + number)",
           "pass", "test_export.py -k 'half_done'"),
    Mutant("files of a net in bfloat16 are in bfloat16", "load",
           "values |= _1", "pass", "test_export.py -k in_bfloat16"),
    Mutant("arrays of any shape are taken", "into",
           "leaf.shape != wanted[name].shape", "False",
           "test_model_card.py -k not_those_of_the_net"),
    Mutant("static int8 knows the test set", "net",
           "dataset.train.inputs[dataset.train_ids[np.unique(chosen)]]",
           "dataset.test.inputs[:256]", "test_export.py -k training_inputs"),
    Mutant("predict ends in a traceback at a damaged array", "_array",
           "Exception", "ValueError", "test_predict.py -k that_cannot_be_read"),
    Mutant("predict starts other programs for an image", "_formats",
           "name not in _OF_OTHERS", "True",
           "test_predict.py -k only_other_programs"),
    Mutant("predict blames a user's file for our mistake", "_own_errors",
           "not own", "False", "test_predict.py -k own_net_that"),
    Mutant("what a user's file lacks is taken for the file", "_absent",
           "str(error.filename) == file", "True",
           "test_config.py -k misses_another"),
    Mutant("what a method leaves in a net is not used", "_deployed",
           "method.inference is None", "True", "test_trained.py -k simkd"),
    Mutant("drop T**2 in the loss", "distillation_loss", "temperature**2 * _1",
           "_1", "test_losses.py -k p2"),
    Mutant("drop T**2 in the method", "kd", "hparams.temperature**2 * _1", "_1",
           "test_step.py -k papers_loss"),
    Mutant("swap KL", "kl", "p * gap + (q - p)", "-q * gap + (p - q)",
           "test_losses.py -k p5"),
    Mutant("near the teacher half of KL", "kl", "p * d**2 * series",
           "p * d**2 * 0.25",
           "test_losses.py -k near_the_teacher"),
    Mutant("a teacher draws as its student", "of_role", "zlib.crc32(_1)", "seed",
           "test_main.py -k not_its_student"),
    Mutant("a label of -1 is the last class", "is_class",
           "(labels >= 0) & (labels < classes)", "labels < classes",
           "test_logit_losses.py -k no_class"),
    Mutant("mean over classes", "kl", "jnp.sum(_1, axis=-1)",
           "jnp.mean(_1, axis=-1)", "test_losses.py -k p3"),
    Mutant("no stop_gradient in the loss", "teacher_log_softmax",
           "jax.lax.stop_gradient(_1)", "_1", "test_losses.py -k p9"),
    Mutant("no softmax", "tempered_log_softmax",
           "jax.nn.log_softmax(_1, axis=-1, where=_2)", "_1",
           "test_losses.py -k p1_"),
    Mutant("half precision", "at_least_float32", "logits.astype(_1)", "logits",
           "test_losses.py -k p13"),
    Mutant("alpha on the hard term", "distillation_weights",
           "(1 - alpha, alpha)", "(alpha, 1 - alpha)", "test_losses.py -k p6"),
    Mutant("1 - p by subtraction", "split", "_1(log_p, ~where)",
           "jnp.log1p(-jnp.exp(_1(log_p, where)))",
           "test_logit_identities.py -k underflow"),
    Mutant("the label among the others", "_others",
           "_1 & ~_2(labels, student_logits)", "_1",
           "test_logit_losses.py -k float64"),
    Mutant("classes above the label kept", "masked_correlation_kl",
           "teacher_logits >= v_label", "teacher_logits == v_label",
           "test_logit_identities.py -k above"),
    Mutant("a teacher sees the image where it should see the view", "take",
           "views.clean", "True", "test_segment.py -k same_view"),
    Mutant("a teacher sees the view where it should see the image", "_nets",
           "batch.clean is None", "True", "test_segment.py -k same_view"),
    Mutant("errors below 0 in a picture", "errors_by_temperature",
           "max(0, at.get_ylim()[0])", "at.get_ylim()[0]",
           "test_report.py -k below_zero"),
    Mutant("a mark in a picture says another's value", "_told",
           "dict(zip(_1, texts))", "dict(zip(_1, texts[::-1]))",
           "test_report.py -k its_own_value"),
    Mutant("colours of paper in a dark picture", "_styled",
           "known in _COLOURS", "False", "test_report.py -k svg_tells"),
    Mutant("CKA before a training is that after it", "pictures",
           "cka(step.deployed_variables(_1, start))", "cka(variables)",
           "test_inspected.py -k cka_is"),
    Mutant("shares of terms without their weights", "make_terms",
           "weight * mean", "mean", "test_inspected.py -k shares"),
    Mutant("attention is the size of maps", "make_attention",
           "jnp.square(_1)", "jnp.abs(_1)", "test_inspected.py -k energy"),
    Mutant("an example is its own neighbour in CKA", "centred",
           "gram * others", "gram", "test_alignment.py -k paper"),
    Mutant("no gradient through the deviation", "standardise",
           "deviation + epsilon", "jax.lax.stop_gradient(deviation) + epsilon",
           "test_logit_identities.py -k scale_and_shift"),
    Mutant("the mass of the rest dropped", "_bucketed",
           "_1(log_p, ~inside)[..., None]",
           "jnp.full((*log_p.shape[:-1], 1), -jnp.inf, log_p.dtype)",
           "test_logit_identities.py -k bucket"),
    Mutant("all of the teacher's logits from the first step on",
           "annealing_factor", "jnp.floor(_1)", "levels",
           "test_relations.py -k anneal"),
    Mutant("where KD stops, labels do not count", "at", "1 - alpha", "alpha",
           "test_methods.py -k jump"),
    Mutant("confidence of a class and not of an example", "teacher_max_weights",
           "jnp.max(log_p, axis=-1)", "jnp.max(log_p, axis=0)",
           "test_born_again.py -k cwtm"),
    Mutant("weights of examples not normalised", "teacher_max_weights",
           "confidence / mean", "confidence", "test_born_again.py -k cwtm_weights"),
    Mutant("padding among the weights of examples", "teacher_max_weights",
           "jnp.mean(confidence, where=valid)", "jnp.mean(confidence)",
           "test_born_again.py -k cwtm_weights"),
    Mutant("a permutation moves the maximum", "permuted_logits",
           "exists & _1", "exists", "test_born_again.py -k largest"),
    Mutant("a permutation over the examples", "permuted_logits",
           "jnp.take_along_axis(order, place, axis=-1)",
           "jnp.take_along_axis(order, place, axis=0)",
           "test_born_again.py -k permuted"),
    Mutant("all examples of a batch are permuted alike", "dkpp",
           "jax.random.fold_in(own.key, id)", "own.key",
           "test_born_again.py -k of_its_batch"),
    Mutant("unsure teachers weigh no more", "transformed_teacher_kl",
           "jnp.exp(_1) * kl", "kl", "test_logit_identities.py -k ttm"),
    Mutant("a member weighs by how unsure it is", "certainty_weights",
           "-jnp.log(_1)", "jnp.log(_1)", "test_logit_identities.py -k certainty"),
    Mutant("a member agrees with itself", "agreement_weights",
           "jnp.sum(p, axis=0, keepdims=True) - p",
           "jnp.sum(p, axis=0, keepdims=True)",
           "test_logit_identities.py -k agreement"),
    Mutant("a class that few members know is less likely", "mixture_logits",
           "w / _1", "w", "test_logit_identities.py -k some_classes"),
    Mutant("a teacher that is to see views of its own sees the student's",
           "other_views", "_1(key, 'teacher')", "_1(key, 'data')",
           "test_segment.py -k drawn_for"),
    Mutant("weights of teachers ignored", "mixture_logits",
           "jax.nn.logsumexp(log_p, axis=0, b=w)",
           "jax.nn.logsumexp(log_p, axis=0, b=1 / members)",
           "test_logit_identities.py -k mixture"),
    Mutant("teacher in training mode", "_nets",
           "model.apply(_1, _2, train=False, mask=_3)",
           "model.apply(_1, _2, train=True, mask=_3)",
           "test_step.py -k evaluation_mode"),
    Mutant("student in evaluation mode", "_part",
           "_1.apply(_2, _3, train=True, rngs=_4, mask=_5, rates=_6, "
           "axis_name=_7)",
           "_1.apply(_2, _3, train=False, rngs=_4, mask=_5, rates=_6, "
           "axis_name=_7)", "test_step.py -k training_mode"),
    Mutant("mask ignored by the loss", "_part",
           "jnp.where(view.batch.mask, _1, 0.0)", "_1",
           "test_step.py -k padding"),
    Mutant("a part of a batch has a mean of its own", "_in_parts",
           "part(state, batch, number)",
           "part.func(*part.args[:-1], jnp.sum(batch.mask, dtype=jnp.float32), "
           "state, batch, number)", "test_step.py -k in_parts"),
    Mutant("a part without examples changes statistics", "_in_parts",
           "jnp.sum(batch.mask, dtype=_1)", "1",
           "test_step.py -k statistics_of_parts"),
    Mutant("blocks computed again at once", "again",
           "jax.vjp(function, others, x + nothing)", "jax.vjp(function, others, x)",
           "test_nets.py -k less_memory"),
    Mutant("inputs mixed with padding", "_mixing",
           "jnp.where(mask, _1, 2.0)", "_1", "test_segment.py -k mixed_with_valid"),
    Mutant("the label of the mixture left out", "labels",
           "(1 - share) * value + share * _1", "value",
           "test_step.py -k mixture"),
    Mutant("mask ignored by BatchNorm", "_moments",
           "_1 if mask is None else mask", "_1",
           "test_models.py -k 'padding or valid'"),
    Mutant("mean of device means", "make_step",
           "psum(jnp.sum(batch.mask, dtype=_1))",
           "8 * jnp.sum(batch.mask, dtype=_1)",
           "test_step.py -k eight_devices"),
    Mutant("views off by one", "take",
           "_1(views, stored, view)", "_1(views, stored, view + 1)",
           "test_segment.py -k plain_loop"),
    Mutant("bank row permuted", "_looked_up", "x.at[ids, view]",
           "x.at[ids[::-1], view]", "test_segment.py -k live_teacher"),
    Mutant("bank of the wrong view", "_stored",
           "view if views > 1 else _1", "_1",
           "test_segment.py -k live_teacher"),
    Mutant("a bank on the host sends one epoch for all", "_teacher_arrays",
           "step // per_epoch", "0 * step", "test_fit.py -k bank_on_the_host"),
    Mutant("a bank on the host is compiled to other roundings", "streamed",
           "_1._replace(members=_of_epoch, rows=rows)", "_1._replace(rows=rows)",
           "test_fit.py -k bank_on_the_host"),
    Mutant("the divergence of a later epoch is sought in the first",
           "NetMonitor._first_bad", "int(self._good.step)", "0",
           "test_fit.py -k nan_in_a_bank"),
    Mutant("the cut matters", "make_segment", "epoch, first = _1",
           "epoch, first = _1\nfirst *= 0", "test_segment.py -k cuts"),
    Mutant("the same batches every epoch", "epoch_order",
           "_1(key, 'order', epoch)", "_1(key, 'order')", "test_randomness.py"),
    Mutant("constraint before the update", "_updated",
           "params = _1(params, hparams.max_norm)", "pass",
           "test_step.py -k projected"),
    Mutant("mask ignored by a mean", "Mean.of", "jnp.where(mask, values, 0)",
           "values", "test_metrics.py -k 'padding or masked'"),
    Mutant("mask ignored by the calibration", "Calibration.of",
           "_1 & mask[:, None]", "_1", "test_metrics.py -k padding"),
    Mutant("bins open above", "Calibration.of", "jnp.ceil(_1)",
           "jnp.floor(_1 + 1)", "test_metrics.py -k open_below"),
    Mutant("ECE without its bins", "Calibration.compute",
           "jnp.abs(_1 - self.confidence)",
           "jnp.abs(jnp.sum(self.correct) - jnp.sum(self.confidence))",
           "test_metrics.py -k ece"),
    Mutant("one seed for all lanes", "mapped_segment", "jax.random.key(seed)",
           "jax.random.key(0)", "test_lanes.py -k 1x2x3"),
    Mutant("an order for each point", "mapped_segment",
           "(_1, None, 0, None, None)", "(_1, None, 0, 0, None)",
           "test_lanes.py -k drawn_once"),
    Mutant("the plan is repacked", "extend", "planned = _1",
           "planned, mine = set(), []", "test_sweep.py -k repacked"),
    Mutant("lanes that have rows are planned again", "extend",
           "done.union(_1)", "set().union(_1)",
           "test_sweep.py -k whatever_packing"),
    Mutant("rows of schema 1 belong to the lane beside", "lanes_of",
           "row_fingerprint(lane, chunk)", "row_fingerprint(chunk.lanes[0], chunk)",
           "test_identity.py -k never_lost"),
    Mutant("labels alone have a teacher", "_learns",
           "weight != shown(0)", "True",
           "test_report.py -k with_two_teachers"),
    Mutant("teachers known from few, as if from many", "_degrees",
           "least > quantile(_1)", "False", "test_mixed.py -k mean_squares_of"),
    Mutant("teachers leave the variance of a mean", "_variance",
           "variances[0] * _1", "0.0", "test_mixed.py -k mixed_components"),
    Mutant("Satterthwaite's degrees without the components' error", "_degrees",
           "2 * own**2 / _1", "float(table.degrees.sum())",
           "test_mixed.py -k mean_squares_of"),
    Mutant("a single teacher speaks for others", "Cells.over",
           "max(numbers) > 1 and 1 not in numbers", "max(numbers) > 1",
           "test_mixed.py -k judged_by_its_own_runs"),
    Mutant("a row is verified by its number of errors alone", "compare",
           "key in row", "key == 'test_errors'", "test_verify.py -k not_enough"),
    Mutant("a row widens what it is allowed", "pick", "one is not row", "True",
           "test_verify.py -k was_changed"),
    Mutant("two seeds differ no more than one from its mean", "tolerance",
           "(2 * found.n) ** 0.5", "found.n ** 0.5", "test_verify.py -k elsewhere"),
    Mutant("a failed verification is recorded", "run",
           "verdict.verified and record", "record",
           "test_verify.py -k was_changed"),
    Mutant("a claim that is not shown does not hold", "Claim.judged",
           "high <= self.above or low >= self.below", "True",
           "test_claims.py -k excludes_it"),
    Mutant("wrong examples of all classes are those left out", "without",
           "np.isin(label[wrong], omitted).sum()", "len(wrong)",
           "test_hinton15_mnist.py -k own_wrong_ids"),
    Mutant("a link to a row is one line off", "_entries",
           "enumerate(report.read(folder, file.name), 1)",
           "enumerate(report.read(folder, file.name), 0)",
           "test_experiments.py -k all_seeds_of_a_point"),
    Mutant("rows of labels alone keep the road of a teacher", "labels_alone",
           "weights == (1, 0)", "weights == (0, 1)",
           "test_driver.py -k older_rows_of_labels"),
    Mutant("a claim of a family needs no corrected p", "Family.verdict",
           "self.adjusted.get(key, 1.0) >= LEVEL", "False",
           "test_claims.py -k family"),
    Mutant("stages that choose look at the test set", "hold_out",
           "(0.1, 'heldout')", "(0.1, 'own')",
           "test_experiments.py -k do_not_look"),
    Mutant("a paper's run compared with a mean", "single",
           "(told.n + 1) ** 0.5", "1.0", "test_claims.py -k is_no_mean"),
    Mutant("one side of the equivalence test", "equivalence",
           "max(above, below)", "above", "test_statistics.py -k equivalence"),
    Mutant("every device takes the first rows", "_mapped",
           "jax.lax.axis_index(_1) * size", "0",
           "test_devices.py -k 'fifty_steps and pmap'"),
    Mutant("a checkpoint's numbers are not checked", "Checkpoints._arrays",
           "_1(found) != record['sha256']", "not found",
           "test_checkpoints.py -k single_wrong_bit"),
    Mutant("a larger net is compared as if it were none", "markdown",
           "len({each.parameters for each in results if each.parameters}) > 1",
           "False", "test_compare.py -k column"),
    Mutant("seconds of programs before do not count", "Checkpoints._load",
           "record.get('seconds', 0.0)", "0.0",
           "test_checkpoints.py -k all_programs"),
    Mutant("seconds of the last program alone are saved", "Checkpoints.save",
           "round(self.seconds(), 3)", "time.monotonic() - self._began",
           "test_checkpoints.py -k all_programs"),
    Mutant("a checkpoint of any config", "Checkpoints._refuse_other",
           "changed and not self._force", "False",
           "test_checkpoints.py -k another_config"),
    Mutant("totals of an epoch are not saved", "_resumed",
           "found['told']", "totals", "test_fit.py -k uninterrupted"),
    Mutant("parameters that are not finite are good", "_finite",
           "bool(observed.fine) and _1", "_1", "test_fit.py -k parameters_alone"),
    Mutant("steps that are not finite count", "_unless", "keep(after, before)",
           "keep(after, after)", "test_step.py -k passed_over"),
    Mutant("the dustbin's odds turned round", "correct_dustbin",
           "jnp.log1p(_1)", "-jnp.log1p(_1)",
           "test_specialists.py -k bayes_optimal"),
    Mutant("who is not asked speaks", "combine",
           "jnp.where(asked, said, -jnp.inf)", "said",
           "test_specialists.py -k nobody_asked"),
    Mutant("a dustbin spread evenly", "combine",
           "_1(log_q[..., None, :], ~within)",
           "_1(0 * log_q[..., None, :], ~within)",
           "test_specialists.py -k closed_form"),
    Mutant("frequent classes far from all centres", "_directions",
           "columns / _1", "columns", "test_specialists.py -k planted"),
    Mutant("teachers see the transfer set", "Points._setup",
           "net.member is None", "True", "test_transfer.py -k students_see"),
    Mutant("all rows have the first teacher", "Job.of_rows",
           "self.wanted[lane].teacher", "self.prepared",
           "test_recipe.py -k 'swept_chain and 2x2'"),
    Mutant("a chain learns from the first net", "Points._wanted",
           "self._trained(number, each)",
           "self._trained(number, next(iter(self._recipes[number])))",
           "test_recipe.py -k trained_in_order"),
    Mutant("a net at its last epoch is another", "Points._checked",
           "known[key].ends == known[key].total_steps", "False",
           "test_recipe.py -k at_its_last_epoch"),
    Mutant("init_from starts anew", "_started", "not starts", "True",
           "test_recipe.py -k starts_from_another"),
    Mutant("gradients apart are of one term", "_part",
           "{name: term}", "found.terms", "test_taps.py -k gradients_apart"),
    Mutant("biases start small too", "_of_kernels",
           "getattr(path[-1], 'key', None) == 'kernel'", "path",
           "test_transfer.py -k kernels"),
    Mutant("a part not nested", "transfer_ids",
           "np.argsort(_1, kind='stable')",
           "np.argsort(_1 * np.uint64(1 + 1000 * part), kind='stable')",
           "test_transfer.py -k nested"),
    Mutant("a whole batch's loss counted once a device", "_whole_batch",
           "loss / jax.lax.axis_size(axis_name)", "loss",
           "test_methods.py -k eight_devices"),
    Mutant("a temperature that descends", "reverse_gradient", "held - _1",
           "held + _1", "test_relations.py -k climbs"),
    Mutant("padding among the rows of a Gram matrix", "_rows",
           "jnp.where(valid[:, None], x, 0.0)", "x",
           "test_relations.py -k masked_rows"),
    Mutant("half precision rounds every level of MLKD", "_sum_over_levels",
           "_1(student_logits)", "student_logits",
           "test_relations.py -k half_precision"),
    Mutant("conformance gives float32 a probability of 0", "NEVER", "-80.0",
           "-200.0", "test_conformance.py -k compute_in"),
    Mutant("conformance takes an ignored T for T**2", "temperature",
           "ignores_temperature(probe)", "False",
           "test_conformance.py -k planted"),
    Mutant("conformance of features takes any stationary point", "equality",
           "there.value <= min(others) + rounding", "True",
           "test_conformance_features.py -k planted"),
    Mutant("conformance of features passes a claim unseen", "_invariance",
           "name not in probe.claims", "True",
           "test_conformance_features.py -k planted"),
    Mutant("conformance of features takes NaN for a small gradient", "zeros",
           "all(size <= _EXPLODED for size in _1)",
           "not any(size > _EXPLODED for size in _1)",
           "test_conformance_features.py -k planted"),
    Mutant("both taps of a net change otherwise", "Taps.changed",
           "np.random.default_rng(_SEED + 1)",
           "np.random.default_rng(_SEED + tap.size)",
           "test_conformance_features.py -k two_taps"),
    Mutant("a diverged student looks learnt to ITRD", "information_loss",
           "trace != 0", "trace > 0", "test_projected.py -k diverged"),
    Mutant("rows are added whatever their place", "Results.add",
           "all(one < two for one, two in _1)", "True",
           "test_records.py -k order"),
    Mutant("rows are written anew each time", "Results.add",
           "all(one < two for one, two in _1)", "False",
           "test_records.py -k work"),
    Mutant("a warm-up of the wrong weight", "at",
           "soft = soft * _1", "hard = soft * _1", "test_methods.py -k warm_up"),
    Mutant("another teacher's mixture is the same program", "key_of",
           "asked.mean", "0", "test_step.py -k programs_are_shared"),
    Mutant("later keys are part of every identity", "_counted",
           "key.later and values[name] == key.default", "False",
           "test_transfer.py -k came_later"),
    Mutant("a finished run is written over", "refuse_other",
           "finished or _1", "False", "test_workdir.py -k not_replaced"),
    Mutant("one of another kind writes over an unfinished run", "refuse_other",
           "swept != sweeps and _1", "False", "test_workdir.py -k another_kind"),
    Mutant("a manifest of anything is ours", "refuse_newer",
           'found["versions"]["kd_jax"]', "None",
           "test_workdir.py -k somebody_else"),
    Mutant("what rows say of their data is not read", "keep_on_other_data",
           "'data_sha256' in row", "False", "test_workdir.py -k data_has_changed"),
    Mutant("what is no tap is taken for one", "_outputs",
           "not is_tap(_1, _2)", "False", "test_own.py -k no_tap"),
    Mutant("somebody's folder is written into", "_begun",
           "names <= _BEGUN", "True", "test_workdir.py -k somebody_else"),
    Mutant("a net of other numerics is written over", "replace",
           "other != record['fingerprint']", "False",
           "test_workdir.py -k other_numerics"),
    Mutant("settings are chosen by test examples", "dataset",
           'values["data.test"] == "heldout"', "False",
           "test_compare.py -k unseen"),
    Mutant("a setting that diverged once is chosen", "choose",
           "(found := errors(setting)) and len(found) == seeds",
           "(found := errors(setting))",
           "test_compare.py -k chosen"),
    Mutant("rows of another sweep are dropped", "save",
           "write(_1, [*rows, *_2])", "write(_1, rows)",
           "test_workdir.py -k one_store"),
    Mutant("an edited record is believed", "read_with_checksum",
           "record.get(_1, sha := record_sha256(record)) == sha", "True",
           "test_parameters.py -k edited_record"),
    Mutant("a student of float16 is called one of float32", "mixture",
           "dtype == 'float32'", "True", "test_main.py -k bank_of_float16"),
    Mutant("half a bank forgets its error", "_left",
           "rounding.numbers = begun['rounding']", "pass",
           "test_teacher.py -k stopped_bank"),
    Mutant("float16 is compared at T = 1", "Rounding.add",
           "x.astype(np.float64) / self.numbers['temperature']",
           "x.astype(np.float64)", "test_teacher.py -k what_it_costs"),
    Mutant("of several methods all modules stay in the net", "staying",
           "{name: tree[name] for name, m in _1 if m.inference}",
           "{name: tree[name] for name, m in _1}", "test_taps.py -k what_stays"),
    Mutant("all sizes of a grid are computed", "_of_size",
           "jax.lax.switch(place, _1)",
           "jax.lax.select_n(place, *[branch() for branch in _1])",
           "test_module_terms.py -k sizes_of"),
    Mutant("a right pair alone is what does not fit", "check",
           "return True", "return False", "test_feature_terms.py -k flows_the"),
    Mutant("a flipped bank is believed", "_checked",
           "sums != found.result()", "False",
           "test_faults.py -k 'spoilt and banks'"),
    Mutant("nothing is said of a teacher that is not there", "look",
           "setup.screen.say(line)", "None",
           "test_faults.py -k shelf_without"),
    Mutant("a teacher that cannot be written is trained", "_lacking",
           "raise UserError(_1) from None", "return None",
           "test_faults.py -k cannot_be_written"),
    Mutant("half a manifest ends the run", "refuse_newer",
           "isinstance(error, (ValueError, TypeError)) and _1", "False",
           "test_faults.py -k half_a_manifest"),
    Mutant("an epoch is told twice without an event", "fit",
           "step or begun", "step", "test_faults.py -k before_the_first_save"),
    Mutant("a save in five minutes", "pause", "max(_LEAST_SECONDS, _1)", "300.0",
           "test_checkpoints.py -k hundredth"),
    Mutant("a path keeps its ~", "read", "str(at_home(_1))", "_1",
           "test_faults.py -k begin_at_home"),
    Mutant("what a net leaves at its default is not tried", "check",
           "_adds(tried, trained) and _1",
           "False", "test_own.py -k 'otherwise and (OwnNoise or Statistics)'"),
    Mutant("a field is an option that nothing turns", "check",
           "place.method or _1", "place.method",
           "test_own.py -k 'hides_dropout and Field'"),
    Mutant("a model of the library is not looked at", "checking",
           "not looked and _1", "False", "test_own.py -k of_the_library"),
    Mutant("outputs of a sigmoid are taken for logits", "sigmoid",
           "low >= 0 and high <= 1 and _1", "False",
           "test_teacher_check.py -k of_a_sigmoid"),
    Mutant("a file that was filled in part is taken", "unfilled",
           "len(constant) < 2 or _1", "True",
           "test_teacher_check.py -k filled_in_part"),
    Mutant("a right teacher after a ReLU is refused", "unfilled",
           "elsewhere.any() and _1", "False",
           "test_teacher_check.py -k constant_rows"),
    Mutant("scaled probabilities are taken for logits", "_scaled",
           "near and soft", "False", "test_teacher_check.py -k times_a_number"),
    Mutant("logits of equal sums are taken for probabilities", "_scaled",
           "wide.shape[1] < 3 or wide.min() < 0 or _1", "not _total(wide)",
           "test_teacher_check.py -k of_equal_sums_are"),
    Mutant("columns that are likelier alone", "_wins",
           "(more_likely, more_right)", "(more_likely,)",
           "test_teacher_check.py -k likelier"),
    Mutant("columns that are wrong of other classes", "_wins",
           "-mean[mean < 0].sum() < _1", "True", "test_teacher_check.py -k blind"),
    Mutant("an accuracy far below what is promised", "account",
           "accuracy < _1", "False", "test_teacher_check.py -k far_below"),
    Mutant("any T of an array", "_checked_temperature",
           "jnp.where(fine, temperature, jnp.nan)", "temperature",
           "test_losses.py -k another_temperature"),
    Mutant("one part alone is standardised", "inputs",
           "_lacks_negatives(other, one)", "False",
           "test_own_data.py -k 'something_else and standardised'"),
    Mutant("a teacher that is not finite is not named", "NetMonitor._diverged",
           "self._teacher(step - 1)", "0", "test_fit.py -k is_named"),
    Mutant("parts of an NNX net are not tried", "nnx_model",
           "_intercept(made, hook)", "None",
           "test_own.py -k 'otherwise and NnxForgets'"),
    Mutant("a net that ends in a sigmoid is taken", "_bounded",
           "((found > 0) & (found <= 1)).all()", "False",
           "test_own.py -k 'otherwise and Sigmoid'"),
    Mutant("probabilities are taken for logits", "_bounded",
           "any(_1)", "False", "test_own.py -k 'otherwise and Raised'"),
    Mutant("logits without a gradient", "_refuse_values",
           "moves.any()", "True", "test_own.py -k 'otherwise and Stopped'"),
    Mutant("a layer that begins even has no values", "_refuse_values",
           "_moved(_1, _2)", "_1", "test_own.py -k 'another_make and Even'"),
    Mutant("a loss of no weight is trained", "check_names",
           "_weighs_nothing(values, method)", "False",
           "test_main.py -k whose_weights"),
    Mutant("parts of the rows are not looked at", "_other_rows",
           "_are_others(_1, least, _2, _3)", "False",
           "test_teacher_check.py -k a_part_of_the_rows"),
    Mutant("a class that a part lacks elsewhere", "_other_rows",
           "min(_1, elsewhere)", "_1",
           "test_teacher_check.py -k a_part_of_the_rows"),
    Mutant("masks of NumPy", "check",
           "x is not y and _1", "False",
           "test_own.py -k 'otherwise and OfNumpy'"),
    Mutant("masks of one key", "_traced",
           "used[-1]", "True", "test_own.py -k 'otherwise and OneKey'"),
    Mutant("a net without a gradient", "_traced",
           "_1(params)[0] if train else _2", "_2",
           "test_own.py -k 'otherwise and NoGradient'"),
    Mutant("a net of a file stands for its others", "model",
           "name, sources.sha256(name), tuple(size.items()), dtype, _1, _2",
           "(sources.sha256(name), tuple(size.items()), dtype, _1, _2)",
           "test_own.py -k each_net_of"),
    Mutant("a hard term without any label", "_check_labels",
           "not known.any()", "False",
           "test_teacher_check.py -k hard_term_without"),
    Mutant("an unknown label is a class", "terms_of",
           "jnp.where(known, value, 0.0)", "value",
           "test_labelled.py -k hard_term"),
    Mutant("hidden labels are known to the step", "transfer",
           "dataset.train is setup.dataset.train", "True",
           "test_labelled.py -k learns_from_labels"),
    Mutant("some classes have more labels", "labelled_ids",
           "np.lexsort((salted, place))", "np.argsort(salted)",
           "test_labelled.py -k as_many"),
    Mutant("noise of an image depends on the others", "_bytes",
           "distort.raw(kind, strength, _1)",
           "distort.raw(kind, strength + shape[0], _1)",
           "test_corruptions.py -k its_place"),
    Mutant("a corruption is turned the other way", "positions",
           "np.array([[cos, -sin], [sin, cos]])",
           "np.array([[cos, sin], [-sin, cos]])", "test_corruptions.py -k maps"),
    Mutant("errors of strengths and kinds change places", "errors",
           "wrong.reshape(len(corruptions.KINDS), corruptions.STRENGTHS, -1)",
           "wrong.reshape(corruptions.STRENGTHS, len(corruptions.KINDS), -1)"
           ".swapaxes(0, 1)", "test_corruptions.py -k finished"),
    Mutant("signals in a thread", "Signals.__enter__", "_1 if ours else ()", "_1",
           "test_trust.py -k signals"),
    Mutant("a name commands the terminal", "printable",
           "letter.isprintable() or _1", "True", "test_trust.py -k terminal"),
    Mutant("JSON with NaN", "_finite", "_1 if math.isfinite(value) else None", "_1",
           "test_trust.py -k is_strict"),
    Mutant("a target's exit code is the verdict", "apart",
           "end or status == _1", "True",
           "test_trust.py -k 'target_that and ctypes'"),
    Mutant("a config file ends the program", "refused",
           "functools.partial(instead, name)", "ends[name]",
           "test_trust.py -k 'config and _exit'"),
    Mutant("rkd counts the diagonal", "distance_loss",
           "_1 & ~jnp.eye(len(valid), dtype=bool)", "_1",
           "test_rkd.py -k papers"),
    Mutant("rkd detaches the student's mean", "distance_loss",
           "jnp.sum(distance) / jnp.maximum(count, 1.0)",
           "jax.lax.stop_gradient(jnp.sum(distance) / jnp.maximum(count, 1.0))",
           "test_rkd.py -k mean_has"),
    Mutant("taps a teacher trains: pairs of rows", "valid_rows",
           "jax.lax.stop_gradient(_1)", "_1", "test_similarity.py -k papers"),
    Mutant("taps a teacher trains: maps", "_pooled", "jax.lax.stop_gradient(_1)",
           "_1", "test_maps.py -k papers"),
    Mutant("taps a teacher trains: distances", "alike",
           "jax.lax.stop_gradient(_1)", "_1", "test_maps.py -k papers"),
    Mutant("taps a teacher trains: flow", "flow_distance",
           "jax.lax.stop_gradient(_1)", "_1", "test_maps.py -k papers"),
    Mutant("taps a teacher trains: through an embedding", "paired",
           "jax.lax.stop_gradient(_1)", "_1",
           "test_feature_terms.py -k gets_no_gradient"),
    Mutant("taps keep their padding", "paired", "layers.clean(tap, mask)", "tap",
           "test_feature_terms.py -k padding"),
    Mutant("taps in the order of the alphabet", "_paired",
           "collections.OrderedDict(_1)", "dict(_1)",
           "test_feature_terms.py -k order"),
    Mutant("taps of zeros are divided by zero", "unit",
           "jnp.where(short, 1.0, square)", "square", "test_maps.py -k zeros"),
    Mutant("at does not square the map", "attention_distance", "jnp.square(x)", "x",
           "test_maps.py -k papers"),
    Mutant("at over the channels of a pixel", "attention_distance", "(1, 2)", "1",
           "test_maps.py -k papers"),
    Mutant("ft over the pixels of a channel", "factor_distance", "(1, 2, 3)",
           "(1, 2)", "test_maps.py -k papers", times=2),
    Mutant("nst counts both nets' product once", "selectivity_distance",
           "2.0 * kernel(f, g)", "kernel(f, g)", "test_maps.py -k matrices"),
    Mutant("nst over the channels of a pixel", "selectivity_distance",
           "features.unit(_1, (1, 2))", "features.unit(_1, 3)",
           "test_maps.py -k papers"),
    Mutant("fsp is no mean over the pixels", "flow_distance",
           "_1 / (x.shape[1] * x.shape[2])", "_1", "test_maps.py -k papers"),
    Mutant("hint has the paper's half", "mean_squared_error",
           "_mean(jnp.square(s - t))", "0.5 * _mean(jnp.square(s - t))",
           "test_features.py -k hint_loss"),
    Mutant("taps train the teacher", "alike",
           "jax.lax.stop_gradient(teacher_tap)", "teacher_tap",
           "test_features.py -k hint_loss"),
    Mutant("hint has no ReLU", "apply", "jnp.maximum(y, 0.0) if relu else y", "y",
           "test_features.py -k regressor_by_hand"),
    Mutant("hint's statistics are of one device", "hint", "own.axis_name", "None",
           "test_modes.py -k 'eight_devices and pmap-hint'"),
    Mutant("ab on the wrong side", "boundary_distance",
           "jnp.where(t > 0, s, _1)", "jnp.where(t > 0, -s, _1)",
           "test_maps.py -k sign"),
    Mutant("ab finds 0 on", "boundary_distance", "t > 0", "t >= 0",
           "test_maps.py -k sign"),
    Mutant("ab weighs the first stage most", "ab", "0.5 * earlier + last",
           "earlier + 0.5 * last", "test_feature_terms.py -k formula"),
    Mutant("vid forgets the variance", "negative_log_likelihood",
           "_1 + jnp.log(v)", "_1", "test_maps.py -k papers"),
    Mutant("vid does not train the variance", "apply",
           "losses.at_least_float32(params['variance'])",
           "jax.lax.stop_gradient(params['variance'])",
           "test_feature_terms.py -k variance"),
    Mutant("sp over columns", "similarity_loss", "features.unit(_gram(s), 1)",
           "features.unit(_gram(s), 0)", "test_similarity.py -k papers"),
    Mutant("sp over B", "similarity_loss", "_count(valid, s)**2",
           "_count(valid, s)", "test_similarity.py -k papers"),
    Mutant("pkt leaves the diagonal out", "affinity_loss",
           "valid[:, None] & valid[None, :]",
           "valid[:, None] & valid[None, :] & ~jnp.eye(len(valid), dtype=bool)",
           "test_similarity.py -k papers"),
    Mutant("pkt swaps the nets", "affinity_loss", "p * log_ratio", "q * log_ratio",
           "test_similarity.py -k papers"),
    Mutant("cc pairs an example with padding", "congruence_loss", "both[order]",
           "both", "test_similarity.py -k masked"),
    Mutant("cc stops at order 1", "kernel_loss", "1.0 + c + 0.5 * jnp.square(c)",
           "1.0 + c", "test_similarity.py -k papers"),
    Mutant("cc_kernel compares taps with their norms", "kernel_loss",
           "features.unit(x, 1)", "x", "test_similarity.py -k papers"),
    Mutant("cc_kernel over B", "kernel_loss", "_count(valid, s)**2",
           "_count(valid, s)", "test_similarity.py -k papers"),
    Mutant("cc_kernel has one gamma for all", "cc_kernel",
           "hparams.numbers['gamma']", "1.0", "test_feature_terms.py -k formula"),
    Mutant("crd begins anew where a run goes on", "_resumed",
           "return (found['state'], found['told'], done)",
           "return (found['state'].replace(method_state=state.method_state), "
           "found['told'], done)", "test_feature_runs.py -k 'bits and single'"),
    Mutant("crd counts its own class among the negatives", "_others",
           "_1 & (labels >= 0)[None, :]", "(labels >= 0)[None, :]",
           "test_contrastive.py -k fewer"),
    Mutant("crd has what is no example among the negatives", "_others",
           "_1 & (labels >= 0)[None, :]", "_1", "test_contrastive.py -k fewer"),
    Mutant("crd takes another example's row for its own", "_own", "id[:, None]",
           "id[::-1, None]", "test_contrastive.py -k numpys"),
    Mutant("crd trains a memory", "scores", "jax.lax.stop_gradient(memory)",
           "memory", "test_contrastive.py -k no_gradient"),
    Mutant("crd trains its normaliser", "normaliser", "jax.lax.stop_gradient(_1)",
           "_1", "test_contrastive.py -k no_gradient"),
    Mutant("crd's memory has a gradient", "remembered",
           "jax.lax.stop_gradient(embedding)", "embedding",
           "test_contrastive.py -k no_gradient"),
    Mutant("crd forgets e", "contrastive_loss", "share + EPSILON", "share",
           "test_contrastive.py -k 'golden or constant'", times=2),
    Mutant("crd remembers padding", "remembered",
           "jnp.where(valid, id, len(memory))", "id",
           "test_contrastive.py -k where_the_batch_is"),
    Mutant("crd's Z counts padding", "normaliser",
           "jnp.where(valid, each, 0.0)", "each",
           "test_contrastive.py -k padding"),
    Mutant("crd compares a net with its own memory", "_crd",
           "before[other]['memory']", "before[net]['memory']",
           "test_contrastive.py -k two_steps"),
    Mutant("crd has one Z for both nets", "_crd", "before[net]['normaliser']",
           "states[pair].get('student', before[net])['normaliser']",
           "test_contrastive.py -k two_steps"),
    Mutant("crd trains the teacher", "_crd",
           "jax.lax.stop_gradient(teacher.features[pair])",
           "teacher.features[pair]", "test_contrastive.py -k both_embeddings"),
    Mutant("crd_drawn makes Z again at every step", "_crd",
           "jnp.where(known > 0, known, _1)", "_1",
           "test_contrastive.py -k 'two_steps and drawn'"),
    Mutant("crd_drawn draws one too many", "drawn_negatives",
           "jnp.int32(number) - 1", "jnp.int32(number)",
           "test_contrastive.py -k draws_are"),
    Mutant("crd_drawn draws its own class", "drawn_negatives",
           "jnp.where(others, draw, 2.0)", "draw",
           "test_contrastive.py -k draws_are"),
    Mutant("crd_drawn draws by the place in a batch", "drawn_negatives",
           "jax.vmap(_1)(id)", "jax.vmap(_1)(jnp.arange(len(id)))",
           "test_contrastive.py -k draws_are"),
    Mutant("ft trains the paraphraser by the student's term", "ft",
           "distance(through('translator', s), factor)",
           "distance(factor, through('translator', s))",
           "test_feature_terms.py -k paraphraser"),
    Mutant("wkd_f takes the variance of n", "gaussian_distance",
           "jnp.var(cells, axis=(2, 4), ddof=1)", "jnp.var(cells, axis=(2, 4))",
           "test_wasserstein.py -k numpys"),
    Mutant("wkd_f is a mean over channels", "gaussian_distance",
           "jnp.sum(_1, axis=(1, 2, 3))", "jnp.mean(_1, axis=(1, 2, 3))",
           "test_wasserstein.py -k constant_gap"),
    Mutant("wkd_f trains the teacher", "gaussian_distance",
           "jax.lax.stop_gradient(_1)", "_1", "test_wasserstein.py -k none_to"),
    Mutant("wkd_l moves the label's mass", "transport_distance",
           "~jax.nn.one_hot(labels, _1, dtype=bool)",
           "jax.nn.one_hot(labels, _1, dtype=bool) | True",
           "test_wasserstein.py -k transport"),
    Mutant("wkd_l trains the teacher", "transport_distance",
           "jax.lax.stop_gradient(_1)", "_1", "test_wasserstein.py -k transport"),
    Mutant("wkd stays as heavy as it is", "cosine_decay",
           "jnp.maximum(done, 0.0)", "0.0 * done",
           "test_module_terms.py -k rise_and_fall"),
    Mutant("pefd over the batch", "angle_distance", "features.unit(_1, -1)",
           "features.unit(_1, 0)", "test_projected.py -k angle"),
    Mutant("pefd without ReLU", "apply", "jnp.maximum(each, 0.0) if relu else each",
           "each", "test_module_terms.py -k 'formula and pefd'"),
    Mutant("srd standardises with padding", "log_distance",
           "_mean(jnp.square(_1), valid)",
           "jnp.mean(jnp.square(_1), axis=0, keepdims=True)",
           "test_projected.py -k 'masked and log'"),
    Mutant("srd squares once", "log_distance", "jnp.square(jnp.square(gap))",
           "jnp.square(gap)", "test_projected.py -k 'papers and log'"),
    Mutant("itrd takes the deviation of n", "correlation_loss",
           "jnp.maximum(number - 1.0, 0.0)", "number",
           "test_projected.py -k 'papers and correlation'"),
    Mutant("itrd compares the teacher alone", "information_loss",
           "g * cosines(t)", "cosines(t)",
           "test_projected.py -k 'papers and information'"),
    Mutant("projected batches train the teacher", "valid_rows",
           "jax.lax.stop_gradient(clean(teacher))", "clean(teacher)",
           "test_projected.py -k papers"),
    Mutant("nd detaches the student's norm", "direction_distance",
           "jnp.maximum(square(s), square(t))",
           "jnp.maximum(jax.lax.stop_gradient(square(s)), square(t))",
           "test_projected.py -k direction"),
    Mutant("nd weighs the last batch only", "mean_so_far",
           "number.astype(mean.dtype) * mean", "mean",
           "test_module_terms.py -k class_means"),
    Mutant("reviewkd weighs all sizes alike", "hierarchical_distance",
           "0.5**(place + 1)", "1.0", "test_stages.py -k golden"),
    Mutant("reviewkd has one gate for both", "apply",
           "z[..., :1] * x + z[..., 1:] * y", "z[..., :1] * x + z[..., :1] * y",
           "test_module_terms.py -k 'formula and reviewkd'"),
    Mutant("reviewkd at full weight from the start", "linear_ramp",
           "jnp.minimum(done, 1.0)", "1.0 + 0.0 * done",
           "test_module_terms.py -k rise_and_fall"),
    Mutant("ofd forgets what the student lacks", "margin_distance",
           "(s > u) | (u > 0)", "s > u", "test_stages.py -k golden"),
    Mutant("ofd takes the mean of all for the margin", "ofd",
           "jnp.where(below, x, 0.0)", "x", "test_module_terms.py -k margins"),
    Mutant("ofd weighs the first stage most", "ofd",
           "2.0**(place + 1 - len(order))", "2.0**-place",
           "test_module_terms.py -k 'formula and ofd'"),
    Mutant("cat over the classes of a pixel", "class_map_distance",
           "features.unit(x, (1, 2))", "features.unit(x, 3)",
           "test_stages.py -k golden"),
    Mutant("cat reads maps before their ReLU", "_rectified",
           "pair.split('-')[of].endswith('.preact')", "False",
           "test_module_terms.py -k 'formula and cat'"),
    Mutant("training errors are of the net without what stays", "_totals",
           "student if inference is None else inference(own, student)", "student",
           "test_taps.py -k training_errors"),
    Mutant("simkd's module is judged by the batch", "simkd_inference",
           "transfer.apply(_1, _2, _3, _4, train=False)",
           "transfer.apply(_1, _2, _3, _4, train=True)",
           "test_module_terms.py -k teachers_logits"),
    Mutant("a peer learns from itself too", "_terms",
           "jnp.delete(logits, place, axis=0)", "logits",
           "test_peers.py -k mutual_learning"),
    Mutant("taps of the wrong teacher", "_nets", "zip(names, found)",
           "zip(names[::-1], found)", "test_unlike_teachers.py -k descent"),
    Mutant("the modules of another teacher", "_terms_each", "own.params[at]",
           "own.params['teacher_0']",
           "test_unlike_teachers.py -k 'teacher_alone and vid'"),
    Mutant("which teacher has a tap is in no identity", "by_place",
           "places.get(name, name)", "''",
           "test_unlike_teachers.py -k which_teacher"),
    Mutant("teachers in another order are one program", "Points._program",
           "identity.by_place(net.values, net.teachers)", "net.values",
           "test_unlike_teachers.py -k another_order"),
    Mutant("peers pull their teachers along", "_terms",
           "teachers.outputs(asked, _1, batch, _2)",
           "types.Outputs(teachers.combine(_1, asked.weights, _2, mean=mean), {})",
           "test_peers.py -k constant"),
    Mutant("peers begin alike", "model",
           "randomness.stream(key, 'peer', place)", "key",
           "test_peers.py -k begin_apart"),
    Mutant("peers drop the same units", "model",
           "jax.random.fold_in(key, place)", "key", "test_peers.py -k begin_apart"),
    Mutant("the last layer is the first", "head", "max(found, key=_1)",
           "min(found, key=_1)", "test_module_terms.py -k several_dense"),
    Mutant("modules see padding", "clean", "jnp.where(of_rows(mask, x), x, 0.0)",
           "x", "test_module_terms.py -k 'garbage and simkd'"),
    Mutant("rows of different data are one point", "_by_data",
           "any(_1)", "False", "test_workdir.py -k do_not_say"),
    Mutant("a summary alone says that a run is finished", "_finished",
           "left and _1", "False", "test_workdir.py -k whatever_is_left"),
    Mutant("names alone say that a folder is ours", "_begun",
           "all(_1)", "True", "test_workdir.py -k somebody"),
    Mutant("a net evaluates an example by the others", "_depends",
           "_1(alone[[2, 5]], among[[2, 5]])", "0",
           "test_own.py -k 'by_the_others_is_refused and Little'"),
    Mutant("a net evaluates an example by its place", "_depends",
           "_1(alone[3], among[6])", "0",
           "test_own.py -k 'by_the_others_is_refused and Place'"),
    Mutant("a teacher's mask is not tried", "_refuse_values",
           "_1.ones(8, bool)", "None",
           "test_own.py -k 'by_the_others_is_refused and OfTheMask'"),
    Mutant("taps of other examples", "_refuse_values",
           "(*found[3], found[4], found[6])", "(found[4], found[6])",
           "test_own.py -k 'by_the_others_is_refused and TapFlipped'"),
    Mutant("a stream behind a guard is not given", "linen_model",
           "train and rngs and asked - names", "False",
           "test_own.py -k linen_would_be_given"),
    Mutant("all streams are one", "_streams",
           "zlib.crc32(name.encode())", "0", "test_own.py -k linen_would_be_given"),
    Mutant("an NNX stream behind a guard is not there", "Streams.__contains__",
           "return True", "return super().__contains__(name)",
           "test_own.py -k 'drawn_of_in_training and Xnnx'"),
    Mutant("a function asks for a stream that is not given", "_traced",
           'asked - {"dropout"}', "()",
           "test_own.py -k 'would_not_be_given and gets'"),
    Mutant("two classes of one name are one", "_kind",
           'f"{type(part).__module__}.{type(part).__qualname__}"',
           "type(part).__name__", "test_own.py -k two_classes"),
)

_WILDCARD = re.compile(r"_[0-9]+")


def sources(repo: pathlib.Path) -> list[pathlib.Path]:
  """Where mutants look: the package, and what a study has of its own."""
  return sorted(path for folder in ("kd_jax", "experiments")
                for path in (repo / folder).rglob("*.py"))


def mutated(
    mutant: Mutant, files: Sequence[pathlib.Path]
) -> tuple[pathlib.Path, str]:
  """The one file that the mutant changes, and its new text.

  Raises:
    ValueError: If there is no such function, if not one alone has `old` in it,
      or not as often as expected.
  """
  homes, found = [], []
  for path in files:
    text = path.read_text()
    if mutant.within.rpartition(".")[2] not in text:  # parsing takes longer
      continue
    tree = ast.parse(text)
    for name, node in _definitions(tree):
      if name == mutant.within:
        homes.append(path.name)
        patch = _Patch(mutant)
        patch.visit_inside(node)
        if patch.count:
          found.append((path, tree, patch.count))
  where = f"{mutant.name}: {mutant.within}"
  if not homes:
    raise ValueError(f"{where} is in none of {len(files)} files")
  if not found:
    raise ValueError(f"{where} in {', '.join(homes)} has no {mutant.old!r}")
  if len(found) > 1:
    names = ", ".join(path.name for path, *_ in found)
    raise ValueError(f"{where} has {mutant.old!r} in several places: {names}")
  (path, tree, count), = found
  if count != mutant.times:
    raise ValueError(f"{where} has {mutant.old!r} {count} times, "
                     f"not {mutant.times}")
  return path, ast.unparse(tree)


def _definitions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.AST]]:
  """Functions, classes, methods and assigned names, by qualified name.

  What is inside a function is found with it: patterns look there as well, and
  the fewer names a mutant depends on, the longer it lasts.
  """
  for node in ast.iter_child_nodes(tree):
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
      yield prefix + node.name, node
      if isinstance(node, ast.ClassDef):
        yield from _definitions(node, f"{prefix}{node.name}.")
    elif isinstance(node, (ast.Assign, ast.AnnAssign)):
      targets = node.targets if isinstance(node, ast.Assign) else [node.target]
      for target in targets:
        if isinstance(target, ast.Name):
          yield prefix + target.id, node
    elif isinstance(node, (ast.If, ast.Try, ast.With)):
      yield from _definitions(node, prefix)


class _Patch(ast.NodeTransformer):
  """Puts `new` where `old` is, and counts."""

  def __init__(self, mutant: Mutant):
    self.old, *more = _parsed(mutant.old)
    self.new = _parsed(mutant.new)
    self.count = 0
    one = len(self.new) == 1 and isinstance(self.new[0], ast.expr)
    if more or (isinstance(self.old, ast.expr) and not one):
      raise ValueError(f"{mutant.name}: an expression takes the place of an "
                       "expression, statements that of one statement")

  def visit_inside(self, node: ast.AST) -> None:
    """Changes what the node has in it, not the node itself."""
    super().generic_visit(node)

  def visit(self, node: ast.AST) -> Any:
    found: dict[str, ast.expr] = {}
    if not _matches(self.old, node, found):
      return self.generic_visit(node)
    self.count += 1
    new = [_Fill(found).visit(part) for part in copy.deepcopy(self.new)]
    if isinstance(node, ast.expr):
      return new[0]
    return [ast.Expr(part) if isinstance(part, ast.expr) else part
            for part in new]


class _Fill(ast.NodeTransformer):
  """Puts what was found in the place of wildcards."""

  def __init__(self, found: dict[str, ast.expr]):
    self.found = found

  def visit_Name(self, node: ast.Name) -> ast.expr:
    return self.found[node.id] if _WILDCARD.fullmatch(node.id) else node


def _parsed(source: str) -> list[ast.AST]:
  """Statements, or an expression alone: one may stand where no statement can."""
  body = ast.parse(source).body
  if len(body) == 1 and isinstance(body[0], ast.Expr):
    return [body[0].value]
  return list(body)


def _matches(old: Any, node: Any, found: dict[str, ast.expr]) -> bool:
  """Whether two trees are alike; notes what the wildcards stand for."""
  if isinstance(old, ast.Name) and _WILDCARD.fullmatch(old.id):
    if not isinstance(node, ast.expr):
      return False
    known = found.setdefault(old.id, node)  # as text: read or assigned to
    return ast.unparse(known) == ast.unparse(node)
  if type(old) is not type(node):  # True is not 1
    return False
  if isinstance(old, ast.AST):  # fields alone: positions are attributes
    return all(_matches(getattr(old, field), getattr(node, field), found)
               for field in old._fields)
  if isinstance(old, list):
    return len(old) == len(node) and all(
        _matches(one, other, found) for one, other in zip(old, node))
  return old == node


def killed(mutant: Mutant) -> bool | None:
  """Whether its tests fail on a copy that has it; None if all are skipped."""
  with tempfile.TemporaryDirectory() as folder:
    repo = pathlib.Path(folder) / "repo"
    # Not `runs` by its name: kd_jax has a package of it.
    left = shutil.ignore_patterns(
        ".git", ".venv*", "__pycache__", ".*_cache", ".hypothesis")
    shutil.copytree(ROOT, repo, ignore=lambda folder, names: {
        *left(folder, names), *(["runs"] if folder == str(ROOT) else [])})
    file, text = mutated(mutant, sources(repo))
    file.write_text(text)
    words = mutant.tests.split(" -k ")
    chosen = ["-k", words[1].strip("'")] if len(words) > 1 else []
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", "-n0",
         "--slow=all", f"tests/{words[0]}", *chosen], cwd=repo, capture_output=True,
        text=True, check=False,
        # The copy has no folder beside it where tests would find real data.
        env={"KD_JAX_DATA": str(ROOT.parent / "shared/data"), **os.environ,
             "PYTHONPATH": str(repo)})
  if run.returncode not in (0, 1):  # 5: nothing was selected
    raise SystemExit(f"{mutant.name}: the tests did not run\n{run.stdout}")
  if run.returncode == 0 and " passed" not in run.stdout.splitlines()[-1]:
    return None
  return run.returncode == 1


def main(arguments: list[str]) -> int:
  """Tries the mutants; returns the number that lived."""
  words = [word for word in arguments if not word.startswith("--seconds=")]
  limits = [float(word.partition("=")[2]) for word in arguments
            if word not in words]
  chosen = [m for m in MUTANTS if all(word in m.name for word in words)]
  if limits and chosen:
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
        f"{found.count(None)} not tried for want of time or data")
  return found.count(False)


def _commit() -> int:
  """The commit as a number: where to begin, so that all have their turn."""
  text = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], text=True,
                        capture_output=True, check=False).stdout
  return int(text[:8] or "0", 16)


if __name__ == "__main__":
  sys.exit(min(main(sys.argv[1:]), 1))
