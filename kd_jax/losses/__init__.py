r"""Objectives on logits after Hinton's: pure functions, one equation each.

The conventions are those of `kd_jax.losses`, where Hinton's own objectives and the
distance of logits (Ba & Caruana; Kim et al.'s MSE) stand: logits `[..., classes]`
in, one bare value per example out, float32 at least, no gradient to the teacher,
classes masked by `where` or by a logit of -inf. A temperature is a scalar, or
`[..., 1]` for one an example. No weight and no T**2 is in a value unless it says
so: a method (`kd_jax.methods`) is a weighted sum of these terms.

  divergences.py    reverse_kl, jensen_shannon
  standardised.py   standardise, standardised_kl, normalised_kl (NormKD)
  decoupled.py      DKD: target_class_kl, non_target_class_kl
                    NKD: confident_cross_entropy, non_target_cross_entropy
                    RLD: sample_confidence_kl, masked_correlation_kl
  transformed.py    transformed_teacher_kl (TTM, WTTM)
  targets.py        top_k_classes, top_k_kl, bucket_kl; pseudo_label_cross_entropy;
                    manual_teacher_logits, smoothed_label_logits,
                    virtual_teacher_kl (Tf-KD)
  born_again.py     teacher_max_weights (CWTM), permuted_logits (DKPP)
  mixtures.py       mixture_logits, confidence_weights: several teachers as one
  relations.py      over a whole batch. DIST: row_correlation, column_correlation
                    MLKD: multi_level_kl, batch_relations, class_relations
  curriculum.py     CTKD: learned_temperature, reverse_gradient, cosine_ramp
                    Annealing-KD: annealing_factor
  features.py       of taps: mean_squared_error (FitNets), negative_log_likelihood
                    (VID), boundary_distance (AB), pooled_alike, unit
  maps.py           of maps: attention_distance (AT), factor_distance (FT),
                    selectivity_distance (NST), flow_distance (FSP)
  rkd.py            over a whole batch of embeddings: distance_loss, angle_loss
  similarity.py     over a whole batch: similarity_loss (SP), affinity_loss (PKT),
                    congruence_loss, kernel_loss (CC)
  projected.py      of embeddings: angle_distance (PEFD), direction_distance
                    (KD++); over a whole batch: log_distance (SRD),
                    correlation_loss and information_loss (ITRD)
  stages.py         of maps: hierarchical_distance (ReviewKD), margin_distance
                    (OFD), class_maps and class_map_distance (CAT)
  wasserstein.py    gaussian_distance (WKD-F), transport_distance (WKD-L)
  alignment.py      CKA of two taps, which is measured and not trained
  parts.py          what the others share, in log space
"""

from kd_jax.losses.hinton import (
  Scalar,
  at_least_float32,
  distillation_kl,
  distillation_loss,
  distillation_weights,
  existing,
  hard_cross_entropy,
  kl,
  logit_matching,
  soft_target_cross_entropy,
  teacher_log_softmax,
  tempered_log_softmax,
  tempered_softmax,
)

__all__ = [
    "Scalar",
    "at_least_float32",
    "distillation_kl",
    "distillation_loss",
    "distillation_weights",
    "existing",
    "hard_cross_entropy",
    "kl",
    "logit_matching",
    "soft_target_cross_entropy",
    "teacher_log_softmax",
    "tempered_log_softmax",
    "tempered_softmax",
]
