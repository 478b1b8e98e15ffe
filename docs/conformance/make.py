"""Judges losses of several libraries, and writes the table of what was found.

  python docs/conformance/make.py run NAME    judges one; leaves NAME.json here
  python docs/conformance/make.py             writes docs/conformance.md from all

A loss is judged wherever its library is installed, with the root of this
repository on PYTHONPATH. A row that fails must have a note in `TARGETS`, and a
note a row that fails: the document cannot say what was not found.
"""

import json
import pathlib
import subprocess
import sys
from typing import Any, NamedTuple

HERE = pathlib.Path(__file__).resolve().parent
DOCUMENT = HERE.parent / "conformance.md"
MARKS = {"holds": "+", "fails": "**fails**", "not judged": "-"}


class Target(NamedTuple):
  """A loss that is judged.

  Attributes:
    title: Of its section.
    arguments: Of `python -m kd_jax.conformance`.
    needs: What to install beside NumPy and rich.
    notes: What each failing row comes from; of "" what is to be said beside.
  """

  title: str
  arguments: str
  needs: str
  notes: dict[str, str]


_OPTAX = "examples/conformance/optax_kl.py"
_NAN = "0 * log 0 in the KL: the loss is NaN, its gradient is not."
_KERAS_NAN = (
    "`SparseCategoricalCrossentropy`, the hard term, takes 0 * log 0 on the JAX "
    "backend; the soft term alone is finite. The gradient is finite.")
_BFLOAT16 = "Each operation is rounded to the precision of the logits."
TARGETS = {
    "ours_kd": Target(
        "kd_jax: `losses.distillation_loss`",
        "kd_jax.conformance.ours:kd", "", {}),
    "keras_default": Target(
        "Keras 3: `LogitsDistillation()`, the default",
        "examples/conformance/keras_default.py --alpha=hard", "keras jax", {
         "temperature": "The code multiplies by T**2 only where it applies "
                        "softmax: nowhere. The gradient of v/T log(v/z), "
                        "-v/(z T), gives the -1.",
         "softmax": "`compute_loss` applies it only if its loss is an instance of "
                    "`KLDivergence`; the default is a string, which becomes a "
                    "function. Logits are clipped to [1e-7, 1] and taken as "
                    "probabilities.",
         "shift": "As above.",
         "equality": "As above: the gradient within the clipped range is -1 / T.",
         "limit": "As above.",
         "masked": _KERAS_NAN,
         "half": "A logit that is clipped to 1e-7 divides one that is not: more "
                 "than float16 can hold.",}),
    "keras_instance": Target(
        "Keras 3: `LogitsDistillation(loss=KLDivergence())`",
        "examples/conformance/keras_instance.py --alpha=hard", "keras jax", {
         "masked": _KERAS_NAN, "half": _BFLOAT16,}),
    "torchdistill_kd": Target(
        "torchdistill: `KDLoss`",
        "examples/conformance/torchdistill_kd.py --alpha=hard", "torchdistill", {
         "continuity": "`forward` returns the bare KL if alpha is 0: without "
                       "T**2 (here 16) and without beta.",
         "masked": _NAN}),
    "tunix_logit": Target(
        "tunix: `LogitStrategy`", "examples/conformance/tunix_logit.py",
        "google-tunix", {
         "masked": "0 * log 0, in the cross-entropy with one-hot labels and in the "
                   "KL: the loss is NaN, its gradient is not."}),
    "optax_right": Target(
        "optax: `kl_divergence(log_softmax(z), softmax(v))`",
        f"{_OPTAX}:right", "optax", {"masked": _NAN, "half": _BFLOAT16}),
    "optax_log_targets": Target(
        "optax: `kl_divergence_with_log_targets`, of log-probabilities",
        f"{_OPTAX}:log_targets", "optax", {
         "masked": _NAN, "half": _BFLOAT16}),
    "optax_cross_entropy": Target(
        "optax: `softmax_cross_entropy(z, softmax(v))`",
        f"{_OPTAX}:cross_entropy", "optax", {
         "masked": "0 * log 0 in the cross-entropy: the loss is NaN, its gradient "
                   "is not."}),
    "optax_swapped": Target(
        "optax: `kl_divergence(log_softmax(v), softmax(z))`, the wrong order",
        f"{_OPTAX}:swapped", "optax", {
         "direction": "optax takes KL from its second argument to its first.",
         "masked": "0 * log 0 in the KL. The gradient is NaN too, because the "
                   "student is the target here.",
         "half": "If float16 rounds a probability to 0, its gradient is NaN, as "
                 "for a masked class; bfloat16 as in 6."}),
    "optax_logits": Target(
        "optax: `kl_divergence(z, v)` of logits",
        f"{_OPTAX}:logits --alpha=none", "optax", {
         "": "It takes the logarithm of a negative logit. This mistake is easy to "
             "see."}),
    "optax_log_logits": Target(
        "optax: `kl_divergence_with_log_targets(z, v)` of logits",
        f"{_OPTAX}:log_logits --alpha=none", "optax", {
         "temperature": "T**2 times d/dz of exp(v/T) (v - z) / T is of order T.",
         "softmax": "The function needs log-probabilities, and applies no softmax "
                    "itself.",
         "shift": "As above.", "equality": "As above.", "limit": "As above.",
         "teacher": "The code does not stop the gradient.",
         "masked": "-inf minus -inf.",
         "half": "exp(v) of a logit above 11 is more than float16 can hold."}),
}


_MAPS, _VECTORS = "--shape=4,4,5", "--shape=16 --relational"
_ROTATED = "examples,channels,rotation,scale"
# Losses of features, by the method: equation, claims and shapes, and what each
# failing row comes from.
FEATURES: dict[str, tuple[str, str, str, dict[str, str]]] = {
    "hint": ("features:mean_squared_error", "examples,pixels", _MAPS, {}),
    "at": ("maps:attention_distance", f"{_ROTATED},pixels,example-scale", _MAPS,
           {}),
    "ft": ("maps:factor_distance", "examples,pixels,scale,example-scale", _MAPS,
           {}),
    "nst": ("maps:selectivity_distance", "examples,pixels,channels,scale,"
            "example-scale,channel-scale", _MAPS, {}),
    "fsp": ("maps:flow_distance", "examples,pixels", f"{_MAPS} --shape=4,4,3", {}),
    "ab": ("features:boundary_distance", "examples,pixels", _MAPS, {
        "equality": "The student must reach a margin of 1 on the side of the "
                    "teacher's sign. It has learnt everything where s is +-1 "
                    "or further, not where s = t."}),
    "reviewkd": ("stages:hierarchical_distance", "examples", _MAPS, {}),
    "sp": ("similarity:similarity_loss", f"{_ROTATED},pixels",
           f"{_MAPS} --relational", {}),
    "pkt": ("similarity:affinity_loss", f"{_ROTATED},example-scale", _VECTORS, {}),
    "rkd_distance": ("rkd:distance_loss", f"{_ROTATED},shift", _VECTORS, {}),
    "rkd_angle": ("rkd:angle_loss", f"{_ROTATED},shift", _VECTORS, {}),
    "cc": ("similarity:congruence_loss", "examples", _VECTORS, {
        "teacher": "The teacher's embedding is trained too; the method stops the "
                   "gradient before it.",
        "examples": "It multiplies the differences of neighbouring rows, as "
                    "RepDistiller does."}),
    "cc_kernel": ("similarity:kernel_loss", f"{_ROTATED},example-scale",
                  _VECTORS, {}),
    "pefd": ("projected:angle_distance", "examples,scale,example-scale",
             "--shape=16", {}),
    "srd": ("projected:log_distance", "examples,scale,channel-scale,shift",
            _VECTORS, {}),
    "itrd_correlation": ("projected:correlation_loss",
                         "examples,scale,channel-scale,shift", _VECTORS, {}),
    "itrd_information": ("projected:information_loss",
                         f"{_ROTATED},example-scale", _VECTORS, {
        "equality": "It is the difference of two entropies, which is not smallest "
                    "where the relations are equal."}),
}


def features_arguments(name: str) -> str:
  """Of `python -m kd_jax.conformance`, for a loss of features."""
  function, claims, shape, _ = FEATURES[name]
  return (f"kd_jax.losses.{function} --kind=features {shape} "
          f"--invariant={claims}")


def run(name: str) -> int:
  """Judges a target; returns the exit code of the tool."""
  words = (TARGETS[name].arguments if name in TARGETS
           else features_arguments(name)).split()
  done = subprocess.run(
      [sys.executable, "-m", "kd_jax.conformance", *words, "--json"],
      cwd=HERE.parents[1], stdout=subprocess.PIPE, text=True, check=False)
  (HERE / f"{name}.json").write_text(done.stdout)
  return done.returncode


def read() -> dict[str, dict[str, Any]]:
  """What was found, by name."""
  return {name: json.loads((HERE / f"{name}.json").read_text())
          for name in (*TARGETS, *FEATURES)}


def failing(found: dict[str, Any]) -> list[dict[str, Any]]:
  """The rows that fail."""
  return [row for row in found.get("rows", ()) if row["verdict"] == "fails"]


def document(found: dict[str, dict[str, Any]]) -> str:
  """The whole document.

  Raises:
    ValueError: If notes and failing rows are not the same.
  """
  logits = {name: found[name] for name in TARGETS}
  judged = {name: each for name, each in logits.items() if "rows" in each}
  numbers = {name: index for index, name in enumerate(TARGETS, start=1)}
  names = [row["property"] for row in next(iter(judged.values()))["rows"]]
  lines = [
      "| | " + " | ".join(str(numbers[name]) for name in judged) + " |",
      "|---|" + ":-:|" * len(judged)]
  for index, name in enumerate(names):
    marks = [MARKS[each["rows"][index]["verdict"]] for each in judged.values()]
    lines.append(f"| {name} | " + " | ".join(marks) + " |")
  return "\n".join([
      _HEAD, *(f"{numbers[name]}. {target.title}"
               for name, target in TARGETS.items()), "",
      *lines, "",
      *(f"{numbers[name]} cannot be judged." for name in logits
        if name not in judged), "", _MEANING, *_effects(found["ours_kd"]), "",
      *(section(numbers[name], TARGETS[name], each)
        for name, each in logits.items()),
      *features({name: found[name] for name in FEATURES})])


def features(found: dict[str, dict[str, Any]]) -> list[str]:
  """The section on losses of features.

  Raises:
    ValueError: If notes and failing rows are not the same.
  """
  lines, notes = [], []
  names = [row["property"] for row in found["hint"]["rows"]]
  lines = ["| | " + " | ".join(names) + " |", "|---|" + ":-:|" * len(names)]
  for name, each in found.items():
    function, _, _, known = FEATURES[name]
    bad = {row["property"]: row["found"] for row in failing(each)}
    if set(bad) != set(known):
      raise ValueError(f"{name}: notes of {sorted(known)}, but {list(bad)} fail")
    marks = [MARKS[row["verdict"]] for row in each["rows"]]
    lines.append(f"| `{function}` | " + " | ".join(marks) + " |")
    notes += [f"- `{function}`, {row}: {text}. {known[row]}"
              for row, text in bad.items()]
  return [_FEATURES, *lines, "", *notes, "", _MEANING, *_effects(found["hint"]), ""]


def _effects(found: dict[str, Any]) -> list[str]:
  return [f"| {row['property']} | {_cell(row['expected'])} | {row['effect']} |"
          for row in found["rows"]]


def section(number: int, target: Target, found: dict[str, Any]) -> str:
  """One target: how it was judged, and why rows fail."""
  bad = failing(found)
  notes = {name for name in target.notes if name}
  if notes != {row["property"] for row in bad}:
    raise ValueError(f"{target.title}: notes of {sorted(notes)}, but "
                     f"{[row['property'] for row in bad]} fail")
  keras = "KERAS_BACKEND=jax " if "keras" in target.needs else ""
  lines = [f"## {number}. {target.title}", "", "```sh",
           f"pip install numpy rich {target.needs}" if target.needs else
           "pip install -r requirements.txt",
           f"{keras}python -m kd_jax.conformance {target.arguments}", "```", ""]
  if "error" in found:
    lines.append(f"Cannot be judged (exit code 2): {found['error']}")
  else:
    versions = ", ".join(
        f"{name} {version}" for name, version in found["versions"].items())
    lines.append(
        f"As {found['framework']}; {versions}. "
        + (f"{len(bad)} of {len(found['rows'])} rows "
           f"{'fails' if len(bad) == 1 else 'fail'}:" if bad
           else "Every row that is judged holds."))
  if bad:
    lines += ["", "| row | found | why |", "|---|---|---|"]
    lines += [f"| {row['property']} | {_cell(row['found'])} | "
              f"{target.notes[row['property']]} |" for row in bad]
  if "" in target.notes:
    lines += ["", target.notes[""]]
  return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
  return text.replace("|", "\\|")


_HEAD = """\
# Is a loss really distillation?

<!-- Made by docs/conformance/make.py from docs/conformance/*.json: do not edit. -->

`python -m kd_jax.conformance TARGET` tests any loss in JAX, NumPy, PyTorch or
Keras. It compares the loss and its gradient with those of
`(1 - alpha) * CE + alpha * T**2 * KL(teacher || student)` and prints one row for
each property. To test your own loss, see [here](own.md#is-my-loss-right).

This page has the results for losses of several libraries, called with their own
meaning of alpha, and for short losses that people write with optax. z are the
logits of the student, v those of the teacher. All results are measured: `+` holds;
`-` was not tested, because another failing row hides it or the loss has no such
term. If a library stops the teacher's gradient outside its loss, the test does so
too.

The tested functions are in [examples/conformance](../examples/conformance), the
outputs in [conformance](conformance). Each was tested in an environment with its
library, on a CPU, with the root of this repository on `PYTHONPATH`.
"""
_FEATURES = """\
## Losses of features

`--kind=features` tests `loss(student_features, teacher_features)`. It tests the
properties that every distance of features should have, and the invariances that
`--invariant` claims: changes of the features that must not change the loss. `-`
means that the invariance is not claimed, or, for split, that the loss compares the
examples of a batch. The table has the losses of kd_jax, each with the claims of its
docstring:

```sh
python -m kd_jax.conformance kd_jax.losses.maps:attention_distance \\
  --kind=features --shape=4,4,5 \\
  --invariant=examples,channels,rotation,scale,pixels,example-scale
```
"""
_MEANING = """\
What each row expects, and the effect of a failure on training:

| row | expected | effect of a failure |
|---|---|---|"""


if __name__ == "__main__":
  if sys.argv[1:2] == ["run"] and len(sys.argv) == 3:
    sys.exit(run(sys.argv[2]))
  DOCUMENT.write_text(document(read()))
