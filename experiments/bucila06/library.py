"""The library: scikit-learn's models of two classes, as probabilities of class 1.

Models are fitted to the labelled examples. The scores of a support vector machine
become probabilities by a logistic curve (Platt 1999), which is fitted to the
examples that choose the ensemble, as in the paper.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
import itertools
import pickle
import time
from typing import Any, NamedTuple
import warnings

import numpy as np
from sklearn import (
  ensemble,
  exceptions,
  linear_model,
  naive_bayes,
  neighbors,
  neural_network,
  preprocessing,
  svm,
  tree,
)
from sklearn.pipeline import make_pipeline
import threadpoolctl

_ROWS = 5000  # Of examples whose kernel with all support vectors is held at once.


class Fitted(NamedTuple):
  """A model of the library.

  Attributes:
    name: In the rows.
    ask: Inputs `[N, F]` to the probability of class 1, `[N]`.
    seconds: Of a processor that its fit took.
    size: Bytes of it, as Python stores it.
  """

  name: str
  ask: Callable[[np.ndarray], np.ndarray]
  seconds: float
  size: int


def models(seed: int, *, quick: bool = False) -> dict[str, Any]:
  """The models, not fitted, by name; with `quick` a few small ones."""
  trees = 20 if quick else 100
  found: dict[str, Any] = {}
  for k, weights in itertools.product((1, 5, 25), ("uniform", "distance")):
    found[f"knn k={k} {weights}"] = neighbors.KNeighborsClassifier(
        k, weights=weights)
  for c, factor in itertools.product((1, 10, 100), (1, 4, 16)):
    found[f"svm C={c} gamma={factor:g}/(F var)"] = make_svm(c, factor)
  for fraction in ("sqrt", 0.5):
    options = {"n_estimators": trees, "max_features": fraction,
               "random_state": seed}
    found[f"forest {fraction}"] = ensemble.RandomForestClassifier(**options)
    found[f"extra trees {fraction}"] = ensemble.ExtraTreesClassifier(**options)
  found["bagged trees"] = ensemble.BaggingClassifier(
      n_estimators=trees, random_state=seed)
  for rate, leaves in ((0.1, 31), (0.05, 15)):
    boosted = ensemble.HistGradientBoostingClassifier(
        learning_rate=rate, max_leaf_nodes=leaves, max_iter=2 * trees,
        early_stopping=False, random_state=seed)
    found[f"boosted trees {rate} {leaves}"] = boosted
  found["boosted stumps"] = ensemble.AdaBoostClassifier(
      n_estimators=trees, random_state=seed)
  found["tree"] = tree.DecisionTreeClassifier(min_samples_leaf=5, random_state=seed)
  found["logistic regression"] = _standardised(
      linear_model.LogisticRegression(max_iter=1000))
  found["naive Bayes"] = naive_bayes.GaussianNB(var_smoothing=1e-3)
  for width, penalty in itertools.product((32, 128), (1e-4, 1e-2)):
    net = neural_network.MLPClassifier(
        (width,), alpha=penalty, max_iter=300, random_state=seed)
    found[f"net {width} L2={penalty:g}"] = _standardised(net)
  return {name: model for name, model in found.items()
          if not quick or name in _FEW}


_FEW = ("knn k=5 distance", "svm C=10 gamma=1/(F var)", "forest sqrt",
        "boosted trees 0.1 31", "logistic regression", "naive Bayes")


def make_svm(c: float, factor: float) -> "svm.SVC":
  """A support vector machine of gamma = factor / (F var), F columns, var theirs."""
  model = svm.SVC(C=c, gamma="scale")
  model.factor = factor
  return model


def fit(
    unfitted: Mapping[str, Any], train: tuple[np.ndarray, np.ndarray],
    choosing: tuple[np.ndarray, np.ndarray],
    stop: Callable[[], None] = lambda: None,
) -> list[Fitted]:
  """All models, fitted.

  Args:
    unfitted: Of `models`.
    train: Inputs `[N, F]` and labels in {0, 1} of the labelled examples.
    choosing: Those for Platt's curves.
    stop: Called before each fit.
  """
  found = []
  for name, model in unfitted.items():
    stop()
    began = time.process_time()
    if isinstance(model, svm.SVC):
      model.set_params(gamma=model.factor / (train[0].shape[1] * train[0].var()))
    # Threads of scikit-learn's trees wait for each other on a busy machine.
    with warnings.catch_warnings(), threadpoolctl.threadpool_limits(1):
      # A net may be at its last step before it has converged.
      warnings.simplefilter("ignore", exceptions.ConvergenceWarning)
      model.fit(*train)
    ask = functools.partial(_probability, model)
    if isinstance(model, svm.SVC):
      ask = platt(functools.partial(decision, model), *choosing)
    found.append(Fitted(name, ask, time.process_time() - began,
                        len(pickle.dumps(model))))
  return found


def asked(
    library: Sequence[Fitted], weights: np.ndarray, x: np.ndarray
) -> np.ndarray:
  """The weighted mean of the models' probabilities of class 1, `[N]`.

  Args:
    library: The models.
    weights: One a model; those of weight 0 are not asked.
    x: Inputs `[N, F]`.
  """
  used = [(model, weight) for model, weight in zip(library, weights) if weight]
  with threadpoolctl.threadpool_limits(1):
    return np.sum([weight * model.ask(x) for model, weight in used], axis=0)


def platt(
    score: Callable[[np.ndarray], np.ndarray], x: np.ndarray, label: np.ndarray
) -> Callable[[np.ndarray], np.ndarray]:
  """p(x) = 1 / (1 + exp(-(a score(x) + b))), a and b of least cross-entropy.

  Args:
    score: `[N, F]` to `[N]`.
    x: Examples that the score was not fitted to, `[N, F]`.
    label: In {0, 1}, `[N]`; as Platt does, n of a class count (n + 1) / (n + 2).
  """
  from_score = linear_model.LogisticRegression(
      C=np.inf, tol=1e-8, max_iter=1000)
  # Each example counts for both classes, by its smoothed target.
  number = np.bincount(label, minlength=2)
  high, low = (number[1] + 1) / (number[1] + 2), 1 / (number[0] + 2)
  target = np.where(label == 1, high, low)
  s = score(x)
  spread = max(float(s.std()), 1e-12)
  from_score.fit(
      np.concatenate([s, s])[:, None] / spread, np.repeat([1, 0], len(s)),
      sample_weight=np.concatenate([target, 1 - target]))
  return lambda asked: from_score.predict_proba(
      score(asked)[:, None] / spread)[:, 1]


def decision(model: "svm.SVC", x: np.ndarray) -> np.ndarray:
  """The score of a support vector machine with an RBF kernel, `[N]`.

  sum_i alpha_i exp(-gamma |x - v_i|**2) + b, as one product of matrices, which is
  far faster than the library's loop over hundreds of thousands of examples.
  """
  vectors = np.asarray(model.support_vectors_, np.float64)
  square = lambda rows: np.einsum("nf,nf->n", rows, rows)
  parts = []
  for first in range(0, len(x), _ROWS):
    rows = np.asarray(x[first:first + _ROWS], np.float64)
    distance = square(rows)[:, None] + square(vectors) - 2 * rows @ vectors.T
    parts.append(np.exp(-model._gamma * distance) @ model.dual_coef_[0])
  return np.concatenate(parts) + model.intercept_[0]


def _probability(model: Any, x: np.ndarray) -> np.ndarray:
  return model.predict_proba(x)[:, list(model.classes_).index(1)]


def _standardised(model: Any) -> Any:
  return make_pipeline(preprocessing.StandardScaler(), model)
