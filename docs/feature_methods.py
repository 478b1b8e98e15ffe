"""The part of `docs/methods.md` on methods that compare features."""

from collections.abc import Callable, Iterator
import inspect

from kd_jax import methods

FEATURES = {name: own for name, own in methods.METHODS.items() if not own.on_logits}
_HEAD = """
## On features

These compare taps of both nets ([what a net has](nets.md)): f of the student, g of
the teacher, r and m are modules that train beside the student and are not in the
net that comes out. *Taps* are the method's own choice; `--config.features.pairs`
names others. A loss *of* examples is a mean over them; one of a batch relates its
examples, on all devices. The weight of the labels is h = 1 as in the released code,
which has no term of logits. `--config.method=kd+NAME` adds one.
"""
_DEPARTURES = """
Where a method here is not its paper's, by choice:

- `fsp` and `ab` were published in two stages: this term alone for some epochs, then
  the labels (with logits at T = 3 in the code of `ab`'s authors). Here the term
  stands beside the labels all along, and its weight is that of the first stage,
  where it stood alone. In two stages: a net with `method=ab` and `hard_weight=0`,
  from which the student starts (`init_from`).
- `ft`: the paper trains the paraphraser on the teacher's maps before the student.
  Here it learns beside the student, from a term of its own that the student does
  not see, and the student's term does not move it.
- `cc` is the form that its authors gave to RepDistiller, and `cc_kernel` the
  paper's. The weight of `cc_kernel` is from no paper.
- `at` is a mean of squares as in its authors' code; the paper has the norm.
- `sp` and `pkt` are divided by B**2, so the last batch of an epoch, if it is
  smaller, counts more in them, as in the released code.
- `hint` is trained together with the labels from the first step on."""
_PROOF = """
*Equations* of these are compared with NumPy in float64, values and gradients, and
with values of the released modules. Padding has no influence whatever it holds,
modules and running statistics included; no gradient reaches the teacher; batches of
one and two examples, equal rows and zeros are finite (`test_maps.py`,
`test_similarity.py`, `test_rkd.py`, `test_contrastive.py`, `test_features.py`).
Whole losses, with weights and modules, are compared in `test_feature_terms.py`.
"""
# By method: equations of `kd_jax.losses`, and names of tests less their `test_`.
PROOFS = {
    "hint": (("features.mean_squared_error",), (
        "the_hint_loss_by_hand_and_at_equality",
        "a_relu_cannot_reach_a_teacher_below_zero")),
    "rkd": (("rkd.distance_loss", "rkd.angle_loss"), (
        "rotation_translation_and_scale_are_not_seen",
        "the_students_mean_has_a_gradient")),
    "at": (("maps.attention_distance",), (
        "attention_is_a_cosine_and_its_bound",
        "an_orthogonal_mix_of_the_channels")),
    "sp": (("similarity.similarity_loss",), (
        "values_by_hand", "rotation_and_scale_are_not_seen",
        "similarity_and_affinity_shrink_with_the_batch")),
    "pkt": (("similarity.affinity_loss",), (
        "values_by_hand", "rotation_and_scale_are_not_seen",
        "similarity_and_affinity_shrink_with_the_batch")),
    "vid": (("features.negative_log_likelihood",), (
        "the_likelihood_by_hand_and_its_best_variance",
        "a_variance_and_both_embeddings_are_trained")),
    "cc": (("similarity.congruence_loss",), (
        "values_by_hand", "congruence_sees_the_order_and_is_quadratic",
        "a_variance_and_both_embeddings_are_trained")),
    "cc_kernel": (("similarity.kernel_loss",), (
        "values_by_hand", "the_order_of_examples_is_not_seen")),
    "nst": (("maps.selectivity_distance",), (
        "selectivity_is_a_distance_of_matrices",
        "a_dead_channel_counts_among_the_channels")),
    "fsp": (("maps.flow_distance",), (
        "flow_is_bilinear_and_forgets_where",
        "taps_stay_in_the_order_of_their_pairs")),
    "ab": (("features.boundary_distance",), (
        "a_boundary_is_a_matter_of_the_teachers_sign",
        "a_connector_is_left_out_where_the_shapes_agree")),
    "ft": (("maps.factor_distance",), (
        "scale_is_not_seen", "a_paraphraser_learns_from_its_own_term_alone")),
    "ft_attention": (("maps.attention_distance",), (
        "scale_is_not_seen", "a_paraphraser_learns_from_its_own_term_alone")),
    "crd": (("contrastive.contrastive_loss",), (
        "golden_values_of_the_released_modules", "constant_scores_by_hand",
        "a_memory_changes_where_the_batch_is_and_nowhere_else")),
    "crd_drawn": (("contrastive.contrastive_loss",), (
        "all_are_the_mean_over_draws",
        "draws_are_of_other_classes_and_without_replacement")),
}


def taps(method: methods.Method) -> str:
  """What the method compares by itself, as its choice of pairs says."""
  assert method.pairs is not None
  said = (inspect.getdoc(method.pairs) or "").split("\n\n")[0]
  said = " ".join(said.split()).rstrip(".")
  return said[0].lower() + said[1:]


def lines(
    table: Callable[..., Iterator[str]], defaults: Callable[..., str],
    others: Callable[[str], str],
) -> Iterator[str]:
  """The section; `defaults` and `others` give the cell of a method."""
  yield _HEAD
  yield from table(
      ("method", "loss", "of", "taps", "defaults", "others' code", "paper"),
      ([f"`{name}`", f"`{own.named()}`", "a batch" if own.relations else "examples",
        taps(own), defaults(name, own), others(name), own.paper]
       for name, own in FEATURES.items()))
  yield _DEPARTURES
  yield _PROOF
  yield from table(
      ("method", "equations", "beside it"),
      ([f"`{name}`", ", ".join(f"`{each}`" for each in equations),
        ", ".join(each.replace("_", " ") for each in beside)]
       for name, (equations, beside) in PROOFS.items()))
