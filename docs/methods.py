"""Writes `docs/methods.md` from the code: every method, and what is known of it.

  python -m docs.methods

Formulas, terms and defaults are those of `kd_jax.methods`, the differences from
authors' code those of `tests/fixtures/authors.json`, the costs XLA's own count
of a loss and its gradient, before it optimises, and the status what the committed
rows of `experiments/methods_mnist` say.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import json
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from docs import feature_methods
from experiments import claims, index
from experiments.methods_mnist import study, verdict
from kd_jax import methods
from kd_jax.core import types
from kd_jax.methods import Method
from kd_jax.methods import terms as terms_lib

LOGITS = {name: own for name, own in methods.METHODS.items() if own.on_logits}
FILE = pathlib.Path(__file__).with_suffix(".md")
FIXTURE = FILE.parents[1] / "tests/fixtures/authors.json"
BATCH, CLASSES = 128, 100
_HEAD = f"""# Methods

Generated from the code by `python -m docs.methods`; a test makes it again.

`--config.method=NAME` trains a student by any of these. A method's own numbers are
keys, `--config.NAME.NUMBER=VALUE`, and lanes of a sweep. A method that is chosen on
a command line, or in a sweep, takes the weights h = `hard_weight` and s =
`soft_weight` and the T = `temperature` of its paper. It does not take those that
are given (or that `alpha` gives: h = 1 - alpha, s = alpha). If the column
*defaults* has none of them, those of the config stay. A config file must write the
weights out.

z, q are the student's logits and softmax, v, p the teacher's, N is the number of
classes. `kd_jax/losses/` explains the other names, with the paper's equation. A
term marked * is one number for a whole batch, over all devices.

*Cost* is the number of arithmetic operations in the loss and its gradient with
respect to the logits, divided by that of `kd`, at {CLASSES} classes and batches of
{BATCH}. XLA counts it (`cost_analysis` of the program before optimisation). A net
has far more. *Others' code* is the largest relative difference, in float32, of
values and gradients from code of the authors or of a library. In parentheses is the
number of functions that were compared. The [table
below](#against-the-authors-own-code) lists them, and names our option where that
code departs from its paper. *Status*: every method is proven, as [below](#proof),
and trained in [every mode](modes.md). The numbers are its results in
[methods_mnist](../experiments/methods_mnist): test errors of 10,000, minus those of
`kd`, on 2x800 and on 2x30, with the paper's numbers and an equally small number of
settings tried for each. A bold number differs significantly from 0.

Defaults come from the paper, as far as it was at hand, or from the authors' code.
WTTM's come from the example in its README, which uses CRD too. RLD's beta = 8 is
the default of its code (a table of its paper has 4). DIST's are its CIFAR-100
recipe, with T**2 as in the code that trained it. k = 5 of the top-k losses comes
from no paper. CTKD's slow start needs SGD: Adam divides by the size of a gradient,
so its ramp has no effect there.
"""
_PROOF = """
## Proof

*Equations* are functions of `kd_jax/losses/`. Each is compared with an oracle,
which is written from the paper in float64 NumPy and in another form than the code.
Compared are values and gradients in float64, values in float32 and in half
precision, and values with masked classes or rows. float32 gradients are compared
with those of float64, those of half precision with those of float32, rounded once.
Degenerate and huge inputs stay finite (`tests/test_losses.py`,
`test_logit_losses.py`, `test_relations.py`, `test_born_again.py`). *Beside it* has
the names of tests of values derived by hand, and of identities. The whole loss of
every method, with its weights, is compared with its formula (`test_terms.py`).
"""


class Proof(NamedTuple):
  """What a method is proven by.

  Attributes:
    equations: Names of oracles in the tests, those of our functions.
    beside: Names of tests, less their `test_`.
  """

  equations: tuple[str, ...]
  beside: tuple[str, ...]


PROOFS = {
    "hard": Proof(("hard_cross_entropy",), (
        "hard_cross_entropy_by_hand",
        "fully_equal_logits_give_log_of_classes_and_no_gradient")),
    "kd": Proof(("distillation_kl", "distillation_loss"), (
        "distillation_kl_by_hand", "gradient_is_equation_2",
        "gradient_tends_to_equation_4_at_the_order_of_the_next_term",
        "kl_is_never_negative", "distance_and_its_gradient_are_zero_at_equality",
        "p11_ends_of_alpha_are_points_of_a_continuous_family")),
    "logits": Proof(("logit_matching_zero_mean",), (
        "logit_matching_by_hand",
        "scaled_kl_tends_to_centred_logit_matching_over_classes")),
    "mse": Proof(("logit_matching",), (
        "logit_matching_by_hand",
        "logit_matching_is_the_limit_at_high_temperature")),
    "annealed": Proof(("logit_matching",), (
        "the_annealing_factor_by_hand", "annealed_of_one_level_is_mse")),
    "reverse_kl": Proof(("reverse_kl",), (
        "value_by_hand", "reverse_kl_is_kl_with_the_nets_swapped",
        "excluded_by_the_teacher_is_infinite_in_reverse_only")),
    "jsd": Proof(("jensen_shannon",), (
        "value_by_hand", "jensen_shannon_tends_to_both_kl_at_its_ends",
        "jensen_shannon_is_symmetric_and_bounded")),
    "ls": Proof(("standardised_kl",), (
        "standardised_and_normalised_by_hand",
        "standardisation_does_not_see_scale_and_shift")),
    "normkd": Proof(("normalised_kl",), (
        "standardised_and_normalised_by_hand",
        "normalised_is_standardised_of_another_weight")),
    "dkd": Proof(("target_class_kl", "non_target_class_kl"), (
        "value_by_hand", "dkd_with_beta_1_minus_p_is_kd",
        "dkd_does_not_underflow")),
    "nkd": Proof(("confident_cross_entropy", "non_target_cross_entropy"), (
        "value_by_hand", "nkd_is_nckd_and_an_entropy")),
    "rld": Proof(("sample_confidence_kl", "masked_correlation_kl"), (
        "value_by_hand", "rld_is_dkd_where_the_teacher_is_right",
        "rld_says_nothing_of_classes_above_the_label")),
    "wttm": Proof(("transformed_teacher_kl",), (
        "value_by_hand", "ttm_at_temperature_1_is_kd",
        "ttm_has_the_gradient_of_the_paper")),
    "topk": Proof(("bucket_kl",), (
        "top_k_by_hand", "a_bucket_loses_what_is_within_it",
        "top_k_of_all_is_kd_and_of_one_is_nothing")),
    "topk_renormalised": Proof(("top_k_kl",), (
        "top_k_by_hand", "top_k_of_all_is_kd_and_of_one_is_nothing",
        "top_k_takes_the_first_of_equal_logits")),
    "tfkd": Proof(("virtual_teacher_kl", "manual_teacher_logits"), (
        "value_by_hand", "tf_kd_takes_probabilities_for_logits",
        "the_manual_teacher_is_label_smoothing_of_another_name")),
    "dist": Proof(("row_correlation", "column_correlation"), (
        "correlations_and_relations_by_hand",
        "a_shift_of_a_row_of_logits_is_not_seen",
        "rows_may_be_any_affine_map_of_the_teachers_probabilities")),
    "mlkd": Proof(("multi_level_kl", "batch_relations", "class_relations"), (
        "correlations_and_relations_by_hand",
        "it_is_zero_and_stationary_at_the_teacher",
        "a_permutation_of_classes_or_examples_is_not_seen")),
    "ctkd": Proof(("distillation_kl",), (
        "the_temperature_climbs_what_the_student_descends", "the_ramp_by_hand",
        "the_authors_first_temperature")),
    "cwtm": Proof(("teacher_max_weights", "hard_cross_entropy"), (
        "cwtm_weights_by_hand",
        "cwtm_of_a_teacher_that_is_equally_sure_is_cross_entropy",
        "cwtm_has_the_papers_gradient", "cwtm_does_not_see_padding")),
    "dkpp": Proof(("permuted_logits", "distillation_kl"), (
        "permuted_logits_by_hand",
        "a_permuted_teacher_keeps_its_largest_probability_and_all_moments",
        "every_permutation_of_the_others_is_equally_likely",
        "a_permutation_is_of_an_example_and_a_step_and_not_of_its_batch")),
    "pseudo_label": Proof(("pseudo_label_cross_entropy",), (
        "value_by_hand",
        "pseudo_labels_are_labels_and_the_limit_of_a_sure_teacher")),
    "several teachers, arithmetic": Proof(("mixture_logits_arithmetic",), (
        "mixtures_by_hand", "a_mixture_has_the_gradient_of_its_members",
        "a_class_that_a_member_excludes_is_the_others_in_the_arithmetic_mixture")),
    "several teachers, geometric": Proof(("mixture_logits_geometric",), (
        "mixtures_by_hand",
        "weights_are_even_by_default_and_one_teacher_is_itself")),
    "several teachers, by confidence": Proof(("confidence_weights",), (
        "mixtures_by_hand", "confidence_weights_are_shares")),
    "several teachers, by certainty or agreement": Proof((), (
        "weights_by_certainty_by_hand", "weights_by_agreement_by_hand",
        "weights_by_certainty_and_agreement_are_their_definitions",
        "weights_of_examples_are_shares_and_even_of_equal_members")),
    "several teachers, of some classes": Proof((), (
        "members_that_know_some_classes_by_hand",
        "members_of_some_classes_count_for_these_alone")),
}
_SEVERAL = """
## Several teachers

`teacher.count` says how many there are, and `teacher.mean` how they are mixed, for
every method that has a teacher. `teacher.weights` are the fixed w_m of the first
two. Methods that soften the teacher at other temperatures than T take `logits`
only. With `teacher.classes` each teacher counts for the classes that it knows, such
as those of its own task or data: of each class the mean is over those that know
it. Hinton's specialists, which know some classes and see the rest as one, are in
[hinton15_specialists](../experiments/hinton15_specialists).
"""
_MEANS = (
    ("probabilities", "v = T log sum_m w_m softmax(v_m / T)",
     "the arithmetic mean of probabilities, at the T of the loss",
     "Hinton, Vinyals & Dean (2015), arXiv 1503.02531, section 1"),
    ("logits", "v = sum_m w_m v_m",
     "the geometric mean of probabilities, whatever T is", "the same"),
    ("confidence", "as probabilities",
     "w_m of each example, from how near m is to its label",
     "Zhang et al. (2022), arXiv 2201.00007"),
    ("certainty", "as probabilities",
     "w_m of each example, from how sure m is, 1 / entropy; no label",
     "Kwon et al. (2020), ICASSP, in a form of ours"),
    ("agreement", "as probabilities",
     "w_m of each example, from how much the others agree with m; no label", "-"),
)
_LEFT_OUT = """
## Left out

- CTKD's temperature for each example. It comes from a net of its own, whose layout
  is not in the published code. The global temperature is here.
- MLKD's two views of an image, one of them with strong augmentation, and the masks
  of its trainer, which the paper does not have. All terms here see one view.
- Warm-up of the soft weight (20 epochs of 240 in the code of DKD and RLD). It is
  not part of a method: `--config.schedules.warmup_percent=8.3` does it for any.
- Tf-KD's second half, a student as its own teacher. It is `generation_1` of
  `configs/born_again.py`.
- KD-SVD (Lee et al. 2018): the gradient of a singular value decomposition is not
  stable where two singular values are near, and its code sets what is NaN to 0.
- SSKD (Xu et al. 2020) and HSAKD (Yang et al. 2021): four rotations of each image
  go through both nets, and teachers are trained with heads of their own.
- FCFD (Liu et al. 2023): a batch goes through the first stages of one net and the
  last ones of the other. Models here are called whole.
- MGD (Yang et al. 2022): a generator fills in channels that are masked at random.
  What it gains was published for ImageNet and detection, which are not here yet.
- NORM (Liu et al. 2023): layers that are merged into the net after training; its
  code also standardises the logits of both nets, in tests too.
- VkD (Miles et al. 2024): an orthogonal projector, for vision transformers, of
  which there is none here.
- DOT (Zhao et al. 2023): an optimizer with a momentum for each term. It is no loss;
  gradients of named terms apart, which it needs, are there (`Method.gradients`).
"""


def lines() -> Iterator[str]:
  """The document, block by block."""
  rows = json.loads(FIXTURE.read_text())["rows"]
  costs = {name: operations(own) for name, own in LOGITS.items()}
  tried = study.named(index.committed(index.ROOT / "methods_mnist"))
  yield _HEAD
  yield from table(
      ("method", "loss", "terms", "defaults", "cost", "others' code", "status",
       "paper"),
      ([f"`{name}`", f"`{own.named()}`", ", ".join(named(own)),
        defaults(name, own), f"{costs[name] / costs['kd']:.1f}",
        agreement(authors(name, rows)), status(name, tried), own.paper or "-"]
       for name, own in LOGITS.items()))
  yield from feature_methods.lines(
      table, defaults, lambda name: agreement(authors(name, rows)))
  yield "\n## Against the authors' own code\n"
  yield from table(
      ("row", "source", "commit", "float64", "float32", "where the code departs"),
      ([name, f"{row['source']} `{row['function']}`", row["commit"][:8],
        *(f"{row['largest_difference'][kind]:.0e}" if row["largest_difference"]
          else "-" for kind in ("float64", "float32")),
        row["departs"] or "-"] for name, row in rows.items()))
  yield _PROOF
  yield from table(
      ("method", "equations", "beside it"),
      ([f"`{name}`" if name in LOGITS else name,
        ", ".join(f"`{each}`" for each in proof.equations),
        ", ".join(each.replace("_", " ") for each in proof.beside)]
       for name, proof in PROOFS.items()))
  yield _SEVERAL
  yield from table(
      ("`teacher.mean`", "mixture", "which is", "paper"),
      ([f"`{name}`", f"`{mix}`", *rest] for name, mix, *rest in _MEANS))
  yield _LEFT_OUT


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
  """Markdown of a table."""
  yield f"| {' | '.join(head)} |"
  yield "|---" * len(head) + "|"
  for row in rows:
    yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"


def defaults(name: str, method: Method) -> str:
  """The paper's setting and the method's own numbers."""
  shown = lambda value: f"{value:g}" if value == int(value) else f"{value:.3g}"
  known = [f"{methods.NAMES[key]} {value:g}"
           for key, value in method.setting.items()]
  known += [f"{name}.{key} {shown(value)}" for key, value in method.numbers.items()]
  return ", ".join(known) or "-"


def named(method: Method) -> list[str]:
  """Names of the terms, those of a whole batch marked."""
  found = jax.eval_shape(*example(method))
  # jax sorts the names; labels come first everywhere else.
  return [name if found[name].value.ndim else f"{name}*"
          for name in sorted(found, key=lambda name: (name != "hard", name))]


def example(method: Method) -> tuple[Any, ...]:
  """The terms of a method as a function, and shapes to call it with."""
  shape = lambda *dims, dtype=jnp.float32: jax.ShapeDtypeStruct(dims, dtype)
  integer = shape(BATCH, dtype=jnp.int32)
  logits = shape(BATCH, CLASSES)
  hparams = types.Hparams(
      temperature=4.0, soft_weight=1.0, progress=0.5, numbers=dict(method.numbers))

  key = jax.random.key(0)

  def terms(student, teacher, label, mask):
    batch = types.Batch(student, label, label, label, mask)
    return method.terms(
        terms_lib.Own(*method.init(key, {}, {}), key=key),
        types.Outputs(student, {}), types.Outputs(teacher, {}), batch, hparams)

  return terms, logits, logits, integer, shape(BATCH, dtype=jnp.bool_)


def operations(method: Method) -> float:
  """Arithmetic operations of the loss and its gradient in the logits, by XLA."""
  terms, *shapes = example(method)
  loss = lambda student, *rest: jnp.mean(terms_lib.total(terms(student, *rest)))
  counted = jax.jit(jax.value_and_grad(loss)).lower(*shapes).cost_analysis()
  return counted["flops"]


def authors(name: str, rows: Mapping[str, Any]) -> dict[str, Any]:
  """The fixture's rows of a method: those whose first word it is."""
  # Rows of `crd` are compared with negatives that are drawn.
  first = {"topk_renormalised": "topk", "crd_drawn": "crd"}.get(name, name)
  return {row: found for row, found in rows.items() if row.split()[0] == first}


def agreement(rows: Mapping[str, Any]) -> str:
  """The largest difference in float32 from others' code, and from how much."""
  found = [row["largest_difference"]["float32"] for row in rows.values()
           if row["largest_difference"]]
  if not found:
    return "-"
  return f"{max(found):.0e} ({len(found)})"


def status(name: str, tried: verdict.Named) -> str:
  """A method's errors minus those of KD for each size, the certain ones in bold."""
  judged = verdict.family(tried)
  if all(method != name for _, method in tried):
    return "not tried"
  return ", ".join(
      f"**{test.difference:+.1f}**" if judged.verdict(key) != claims.OPEN
      else f"{test.difference:+.1f}"
      for key, test in judged.tests.items() if key[1] == name) or "the reference"


if __name__ == "__main__":
  FILE.write_text("\n".join(lines()))
