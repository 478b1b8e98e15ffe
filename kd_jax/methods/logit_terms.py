"""Terms of the methods on logits: a function a method, as of `terms.py`."""

import jax
import jax.numpy as jnp

from kd_jax import losses
from kd_jax.losses import (
  born_again,
  curriculum,
  decoupled,
  divergences,
  relations,
  standardised,
  targets,
  transformed,
)
from kd_jax.methods.terms import Term, Terms, labels


def hard(own, student, teacher, batch, hparams) -> Terms:
  """Cross-entropy with the labels alone, weight 1: how a teacher is trained."""
  del own, teacher
  return {"hard": labels(student, batch, hparams)._replace(weight=1.0)}


def _beside_hard(student, batch, hparams, soft: jax.Array) -> Terms:
  """hard_weight * CE + soft_weight * soft."""
  return {
      "hard": labels(student, batch, hparams),
      "soft": Term(hparams.soft_weight, soft),
  }


def kd(own, student, teacher, batch, hparams) -> Terms:
  """hard_weight * hard + soft_weight * T**2 * KL (Hinton et al. 2015, s. 2)."""
  del own
  kl = losses.distillation_kl(
      student.logits, teacher.logits, hparams.temperature)
  return _beside_hard(student, batch, hparams, hparams.temperature**2 * kl)


def logits(own, student, teacher, batch, hparams) -> Terms:
  """hard_weight * hard + soft_weight * |z - v|**2 / 2N, of centred logits.

  The limit of `kd` for T to infinity (eq. 4); with hard_weight = 0, Ba &
  Caruana's mimic training up to the centring and the factor 1 / N.
  """
  del own
  distance = losses.logit_matching(
      student.logits, teacher.logits, zero_mean=True)
  return _beside_hard(
      student, batch, hparams, distance / student.logits.shape[-1])


def mse(own, student, teacher, batch, hparams) -> Terms:
  """hard_weight * hard + soft_weight * |z - v|**2 / N (Kim et al. 2021)."""
  del own
  square = 2 * losses.logit_matching(student.logits, teacher.logits)
  return _beside_hard(student, batch, hparams, square / student.logits.shape[-1])


def annealed(own, student, teacher, batch, hparams) -> Terms:
  """hard_weight * hard + soft_weight * |z - a v|**2 / N (Jafari et al. 2021).

  a = 1 / levels, 2 / levels, ..., 1 for equal parts of the run, so that the teacher
  grows sharper. This is the paper's first phase; the second has labels alone, and
  is another net of a recipe (`configs/annealed.py`).
  """
  del own
  v = losses.at_least_float32(teacher.logits)
  factor = curriculum.annealing_factor(
      hparams.progress, hparams.numbers["levels"]).astype(v.dtype)
  square = 2 * losses.logit_matching(student.logits, factor * v)
  return _beside_hard(student, batch, hparams, square / student.logits.shape[-1])


def reverse_kl(own, student, teacher, batch, hparams) -> Terms:
  """hard_weight * hard + soft_weight * T**2 * KL(q || p) (Gu et al. 2024)."""
  del own
  t = hparams.temperature
  kl = divergences.reverse_kl(student.logits, teacher.logits, t)
  return _beside_hard(student, batch, hparams, t**2 * kl)


def jsd(own, student, teacher, batch, hparams) -> Terms:
  """hard_weight * hard + soft_weight * T**2 * JSD_beta (Agarwal et al. 2024).

  JSD_beta = beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q.
  """
  del own
  t = hparams.temperature
  divergence = divergences.jensen_shannon(
      student.logits, teacher.logits, t, hparams.numbers["beta"])
  return _beside_hard(student, batch, hparams, t**2 * divergence)


def ls(own, student, teacher, batch, hparams) -> Terms:
  """hard_weight * hard + soft_weight * T**2 * KL of Z-scores (Sun et al. 2024).

  Each net's logits z count as (z - mean z) / deviation of z, then over T.
  """
  del own
  t = hparams.temperature
  kl = standardised.standardised_kl(student.logits, teacher.logits, t)
  return _beside_hard(student, batch, hparams, t**2 * kl)


def normkd(own, student, teacher, batch, hparams) -> Terms:
  """hard_weight * hard + soft_weight * (T d)**2 * KL at T d (Chi et al. 2023).

  d is the deviation of an example's logits, each net's for its own softmax, the
  teacher's for the square.
  """
  del own
  return _beside_hard(student, batch, hparams, standardised.normalised_kl(
      student.logits, teacher.logits, hparams.temperature))


def dkd(own, student, teacher, batch, hparams) -> Terms:
  """hard_weight * hard + soft_weight * T**2 * (alpha TCKD + beta NCKD).

  KD taken apart: the label's class against all others, and the others among each
  other (Zhao et al. 2022).
  """
  del own
  t, soft, numbers = hparams.temperature, hparams.soft_weight, hparams.numbers
  both = student.logits, teacher.logits, batch.label, t
  return {
      "hard": labels(student, batch, hparams),
      "target": Term(
          soft * numbers["alpha"], t**2 * decoupled.target_class_kl(*both)),
      "others": Term(
          soft * numbers["beta"], t**2 * decoupled.non_target_class_kl(*both)),
  }


def nkd(own, student, teacher, batch, hparams) -> Terms:
  """hard_weight * hard + soft_weight * (target + gamma * T**2 * others).

  target = -p_y log q_y at T = 1, others = -sum_i p^_i log q^_i of the other classes
  at T, p^ and q^ each summing to 1 (Yang et al. 2023).
  """
  del own
  t, soft = hparams.temperature, hparams.soft_weight
  both = student.logits, teacher.logits, batch.label
  others = decoupled.non_target_cross_entropy(*both, t)
  return {
      "hard": labels(student, batch, hparams),
      "target": Term(soft, decoupled.confident_cross_entropy(*both)),
      "others": Term(soft * hparams.numbers["gamma"], t**2 * others),
  }


def rld(own, student, teacher, batch, hparams) -> Terms:
  """hard_weight * hard + soft_weight * (alpha S**2 SCD + beta T**2 MCD).

  SCD: the teacher's largest probability against the student's of the label, at S =
  confidence_temperature; MCD: KL of the classes that the teacher ranks below the
  label (Sun et al. 2024).
  """
  del own
  t, soft, numbers = hparams.temperature, hparams.soft_weight, hparams.numbers
  both = student.logits, teacher.logits, batch.label
  sure = numbers["confidence_temperature"]
  confidence = sure**2 * decoupled.sample_confidence_kl(*both, sure)
  return {
      "hard": labels(student, batch, hparams),
      "confidence": Term(soft * numbers["alpha"], confidence),
      "others": Term(soft * numbers["beta"],
                     t**2 * decoupled.masked_correlation_kl(*both, t)),
  }


def wttm(own, student, teacher, batch, hparams) -> Terms:
  """hard_weight * hard + soft_weight * U * KL(p(T) || q(1)) (Zheng & Yang 2024).

  The teacher is softened, the student is not; U = sum_i p_i(1)**(1 / T) weighs
  unsure examples more.
  """
  del own
  return _beside_hard(student, batch, hparams, transformed.transformed_teacher_kl(
      student.logits, teacher.logits, hparams.temperature))


def topk(own, student, teacher, batch, hparams) -> Terms:
  """hard_weight * hard + soft_weight * T**2 * KL, of k + 1 classes.

  Those k that the teacher finds likeliest, and all others as one.
  """
  del own
  t = hparams.temperature
  kl = targets.bucket_kl(
      student.logits, teacher.logits, t, hparams.numbers["k"])
  return _beside_hard(student, batch, hparams, t**2 * kl)


def topk_renormalised(own, student, teacher, batch, hparams) -> Terms:
  """hard_weight * hard + soft_weight * T**2 * KL, of k classes.

  Those that the teacher finds likeliest, both nets renormalised over them.
  """
  del own
  t = hparams.temperature
  kl = targets.top_k_kl(student.logits, teacher.logits, t, hparams.numbers["k"])
  return _beside_hard(student, batch, hparams, t**2 * kl)


def tfkd(own, student, teacher, batch, hparams) -> Terms:
  """hard_weight * hard + soft_weight * KL(softmax(u / T) || q(1)).

  A virtual teacher: u_y = correct, and (1 - correct) / (N - 1) elsewhere (Yuan et
  al. 2020).
  """
  del own, teacher
  return _beside_hard(student, batch, hparams, targets.virtual_teacher_kl(
      student.logits, batch.label, hparams.temperature,
      hparams.numbers["correct"]))


def dist(own, student, teacher, batch, hparams) -> Terms:
  """hard_weight * hard + soft_weight * T**2 * (beta * rows + gamma * columns).

  Each is 1 - Pearson's correlation of q and p: of an example over classes, and of a
  class over the batch, the mean over classes (Huang et al. 2022, eq. 11).
  """
  del own
  t, soft, numbers = hparams.temperature, hparams.soft_weight, hparams.numbers
  both = student.logits, teacher.logits, t
  columns = relations.column_correlation(*both, mask=batch.mask)
  return {
      "hard": labels(student, batch, hparams),
      "rows": Term(soft * numbers["beta"], t**2 * relations.row_correlation(*both)),
      "columns": Term(soft * numbers["gamma"], t**2 * columns),
  }


def mlkd(own, student, teacher, batch, hparams) -> Terms:
  """hard_weight * hard + soft_weight * (instances + batch + classes).

  instances = sum_k T_k**2 KL, batch = sum_k |P P' - Q Q'|**2 / B, classes =
  sum_k |P' P - Q' Q|**2 / N, of five temperatures T_k around T (Jin et al. 2023).
  """
  del own
  soft, numbers = hparams.soft_weight, hparams.numbers
  both = student.logits, teacher.logits, hparams.temperature
  alike = lambda function: function(*both, mask=batch.mask)
  return {
      "hard": labels(student, batch, hparams),
      "instances": Term(soft, relations.multi_level_kl(*both)),
      "batch": Term(soft * numbers["batch"], alike(relations.batch_relations)),
      "classes": Term(soft * numbers["classes"], alike(relations.class_relations)),
  }


def ctkd_init(key, student, teacher):
  """The parameter of the temperature, where the authors begin; no state."""
  del key, student, teacher
  return {"theta": jnp.ones((), jnp.float32)}, {}


def pseudo_label(own, student, teacher, batch, hparams) -> Terms:
  """hard_weight * hard + soft_weight * CE with the teacher's class (Lee 2013)."""
  del own
  return _beside_hard(student, batch, hparams, targets.pseudo_label_cross_entropy(
      student.logits, teacher.logits))


def ctkd(own, student, teacher, batch, hparams) -> Terms:
  """hard_weight * hard + soft_weight * T**2 * KL, T = start + span sigmoid(theta).

  theta climbs the loss that the student descends, the more the farther the run (Li
  et al. 2023). T is told as a term of weight 0.
  """
  numbers = hparams.numbers
  ramp = curriculum.cosine_ramp(hparams.progress, numbers["ramp"])
  t = curriculum.learned_temperature(
      own.params["theta"], ramp, start=numbers["start"], span=numbers["span"])
  kl = losses.distillation_kl(student.logits, teacher.logits, t)
  temperature = {"temperature": Term(0.0, jnp.full_like(kl, t))}
  return {**_beside_hard(student, batch, hparams, t**2 * kl), **temperature}


def cwtm(own, student, teacher, batch, hparams) -> Terms:
  """hard_weight * hard + soft_weight * w * CE, w = B max p / sum max p.

  The teacher's largest probability at T weighs the example, and nothing else of it
  counts; the weights of a batch have mean 1 (Furlanello et al. 2018, eq. 9).
  """
  del own
  weights = born_again.teacher_max_weights(
      teacher.logits, hparams.temperature, mask=batch.mask)
  hard = labels(student, batch, hparams)
  return {"hard": hard, "weighted": Term(hparams.soft_weight, weights * hard.value)}


def dkpp(own, student, teacher, batch, hparams) -> Terms:
  """hard_weight * hard + soft_weight * T**2 * KL to a permuted teacher.

  Its largest probability stays, and the others change places (Furlanello et al.
  2018, eq. 10). Each example draws a permutation of its own in each step: the paper
  does not say how often it draws. The key has the example's id in it, so that
  padding and the number of devices have no influence.
  """
  draw = lambda id: jax.random.uniform(
      jax.random.fold_in(own.key, id), teacher.logits.shape[1:])
  permuted = born_again.permuted_logits(
      teacher.logits, jax.vmap(draw)(batch.id))
  kl = losses.distillation_kl(student.logits, permuted, hparams.temperature)
  return _beside_hard(student, batch, hparams, hparams.temperature**2 * kl)
