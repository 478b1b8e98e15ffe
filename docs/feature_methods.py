"""The part of `docs/methods.md` on methods that compare features."""

from collections.abc import Callable, Iterator
import inspect

from kd_jax import methods

FEATURES = {name: own for name, own in methods.METHODS.items() if not own.on_logits}
_HEAD = """
## On features

These compare taps of both nets ([what a net has](nets.md)): f of the student, g of
the teacher. r, m and A are modules that train beside the student and are not in the
net that comes out, but for `simkd`. *Taps* are the method's own choice;
`--config.features.pairs` names others. A loss *of* examples is a mean over them;
one of a batch relates its examples, on all devices. The weight of the labels is h =
1 as in the released code, which has no term of logits; `--config.method=kd+NAME`
adds one.

With several teachers, which may be unlike nets, a tap of a teacher is `NET.tap`, as
in `('stage2','wide.stage3')`. NET is what the recipe calls it; the members of
`teacher.count` are `teacher_0`, `teacher_1`, ... The loss is the sum of the terms
with each teacher alone, `NET_TERM`, each with modules of its own; `teacher.weights`
are of logits only. `all` and a method's own choice are taken with each teacher.
`simkd`, `cat` and `wkd_l` look at the last layer of one teacher and are refused. An
example is `configs/tasks.py:features`.
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
- `hint` is trained together with the labels from the first step on.
- `srd`: the authors' script for ImageNet adds a KL at T = 1. That is `kd+srd`.
- `nd` (KD++): the mean of a class is over all that the teacher gave up to this
  step, views included, so it is the authors' mean over the training set from the
  second epoch on. Their dropout before the projector is left out.
- `wkd_l`: the cost of two classes is of the cosine of their weights in the
  teacher's last layer. It is an option of the released code; the paper has CKA of
  features.
- `wkd_f`, `wkd_l`: the weight falls step by step, the authors' epoch by epoch.
- `reviewkd`: the warm-up is a share of the run, 20 of 240 epochs, and goes on
  within an epoch. The teacher is in evaluation mode; in the authors' code for CIFAR
  it is not.
- `ofd`: the margin is measured on the teacher's taps so far. The authors derive it
  from the last BatchNorm, and have their teacher in training mode.
- `cat`: the authors' nets have no bias in the last layer. Ours keep it, and it is
  in no map. The map is that of the last block after its ReLU.
- `simkd`: its projector and the teacher's last layer are in the net that comes out,
  and are counted: *parameters* of a row are the student's with its own last layer,
  in place of the teacher's, and the projector's. Such a net belongs in a column of
  its own; the training errors of a row are those of this net, too. The student's
  own last layer learns nothing, as the paper's hard weight is 0: the term `hard` of
  the curves is the cross-entropy of that layer, which nobody uses.
- `dogo` (Distill on the Go) is for nets that train together
  (`configs/on_the_go.py`), each of which shows the other its projections; a trained
  teacher shows its tap. Both see the same two views, and BatchNorm has statistics
  of both views at once; in the authors' code each net has two views of its own, one
  after the other. K is of the rows of both views, theirs of those of one. Their
  weight, 100 of a mean over 256**2 pairs, is 100 / 256 of a mean over rows, here
  for any batch; it is that of a net with NT-Xent, and SimSiam, their other
  objective, is not here. Labels train the last layer alone, along with the features
  and on the same views; they train it afterwards, on a net that stays as it is.
- The weights of `wkd_f`, `reviewkd`, `nd` and `cat` are those of resnet32x4 to
  resnet8x4; the papers have others for other pairs."""
_PROOF = """
*Equations* of these are compared with NumPy in float64, values and gradients, and
with values of the released modules. Padding has no influence whatever it holds,
modules and running statistics included; no gradient reaches the teacher; batches of
one and two examples, equal rows and zeros are finite (`test_maps.py`,
`test_similarity.py`, `test_rkd.py`, `test_contrastive.py`, `test_features.py`,
`test_projected.py`, `test_stages.py`, `test_wasserstein.py`,
`test_self_supervised.py`). Whole losses, with
weights and modules, are compared in `test_feature_terms.py` and
`test_module_terms.py`, that of two views in `test_two_views.py`; with several
teachers, each method with the sum of single ones in `test_unlike_teachers.py`.
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
    "pefd": (("projected.angle_distance",), (
        "the_angle_is_numpys_and_has_no_scale",
        "an_angle_with_nothing_is_1_without_gradient")),
    "srd": (("projected.log_distance",), (
        "the_log_distance_does_not_grow_with_the_batch_but_by_its_log",
        "equality_is_the_floor_that_is_told")),
    "itrd": (("projected.correlation_loss", "projected.information_loss"), (
        "what_does_not_change_the_distances_of_a_batch",
        "information_of_a_teacher_without_relations_to_add_is_zero")),
    "nd": (("projected.direction_distance",), (
        "the_direction_is_zero_only_along_the_centre_and_long_enough",
        "class_means_are_those_of_all_examples_so_far")),
    "wkd_l": (("wasserstein.transport_distance", "wasserstein.cost_of_classes"), (
        "where_all_moves_cost_1_it_is_half_the_gap_of_probabilities",
        "alike_classes_are_near_and_a_shift_is_not_seen")),
    "wkd_f": (("wasserstein.gaussian_distance",), (
        "a_constant_gap_is_its_square_a_channel",
        "places_within_a_cell_are_not_seen")),
    "reviewkd": (("stages.hierarchical_distance",), (
        "a_constant_gap_is_its_square_at_every_size",
        "the_sum_of_weights_by_height", "nearest_is_torchs")),
    "ofd": (("stages.margin_distance",), (
        "below_the_margin_a_student_may_be_anywhere_lower",
        "margins_are_means_of_what_is_below_zero")),
    "cat": (("stages.class_map_distance",), (
        "the_mean_of_class_maps_is_the_logits_without_bias",
        "logits_are_the_last_layer_of_the_map_that_is_pooled")),
    "simkd": (("features.mean_squared_error",), (
        "a_projection_that_is_the_teachers_map_has_the_teachers_logits",
        "modules_begin_as_torchs_do")),
    "crd": (("contrastive.contrastive_loss",), (
        "golden_values_of_the_released_modules", "constant_scores_by_hand",
        "a_memory_changes_where_the_batch_is_and_nowhere_else")),
    "dogo": (("self_supervised.nt_xent", "self_supervised.likeness_divergence"), (
        "the_other_view_among_all_rows_is_numpys",
        "nets_that_find_the_same_alike_learn_nothing_from_each_other",
        "each_net_is_shown_the_others_projections")),
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
