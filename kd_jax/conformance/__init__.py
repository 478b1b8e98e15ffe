"""Conformance: does a loss keep the contract of knowledge distillation?

`python -m kd_jax.conformance TARGET` judges any

  loss(student_logits, teacher_logits, labels, temperature, alpha)

that returns a scalar or one value per example, of JAX, NumPy, PyTorch or Keras.
The contract (Hinton, Vinyals & Dean 2015, arXiv 1503.02531) is the gradient of

  (1 - alpha) * CE + alpha * T**2 * KL(teacher || student)

averaged over the batch. A method that is something else on purpose (reverse KL,
squared distances) fails the rows in which it differs, and rightly so.

With `--kind=features` it judges loss(student_features, teacher_features): by what
every distance of features should keep, and by the invariances that it claims.

`adapters.py` asks losses of any framework, `targets.py` finds them, `oracle.py`
has the right gradients and the known wrong ones in closed form, `probe.py` takes
hard and soft term apart, `properties.py` judges, `report.py` tells; `taps.py` has
the features and the invariances, `feature_loss.py` their judges. NumPy and rich are
all it imports by itself; jax, torch, keras come with what is judged.
"""
