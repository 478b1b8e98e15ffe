"""What a teacher says beside the label: its soft targets at several T."""

from collections.abc import Mapping, Sequence
import math
from typing import Any

from kd_jax.report import canvas, names

# Of the examples and of the classes, so many are shown.
_EXAMPLES, _CLASSES = 6, 5
# Above, all bars look alike. Of those that a teacher was measured at, the nearest.
_USUAL = (1.0, 2.0, 4.0)


def softened(logits: Sequence[float], temperature: float) -> list[float]:
  """softmax(logits / T).

  Example:
    >>> softened([0.0, 0.0], 3.0)
    [0.5, 0.5]
  """
  top = max(logits)
  powers = [math.exp((logit - top) / temperature) for logit in logits]
  return [power / sum(powers) for power in powers]


def temperatures(teacher: Mapping[str, Any]) -> list[float]:
  """A few of the temperatures that a teacher was measured at."""
  known = sorted(entry["temperature"] for entry in teacher.get("entropy") or [])
  if not known:
    return list(_USUAL)
  near = lambda wanted: min(known, key=lambda t: abs(math.log(t / wanted)))
  return sorted({near(wanted) for wanted in _USUAL})


@canvas.styled
def knowledge(teacher: Mapping[str, Any] | None) -> Any:
  """Entropy of the soft targets against T, and examples with their classes."""
  if not teacher:
    return None
  entropy = sorted(teacher.get("entropy") or [], key=lambda e: e["temperature"])
  examples = (teacher.get("examples") or [])[:_EXAMPLES]
  if not entropy and not examples:
    return None
  heights = [2.6] * bool(entropy) + [0.4 + 0.85 * len(examples)] * bool(examples)
  drawn, parts = canvas.below_each_other(heights)
  if entropy:
    _entropy(parts[0].subplots(), entropy, examples)
  chosen = temperatures(teacher)
  if examples:
    most = [max(max(softened(each["logits"], t)) for each in examples)
            for t in chosen]
    for example, row in zip(examples, parts[-1].subplots(
        len(examples), 1 + len(chosen), squeeze=False)):
      _example(example, dict(zip(chosen, most)), row, first=example is examples[0],
               last=example is examples[-1])
  return drawn


def _entropy(axes: Any, entropy: Sequence[Any], examples: Sequence[Any]) -> None:
  across = [entry["temperature"] for entry in entropy]
  axes.plot(across, [entry["mean"] for entry in entropy], marker="o",
            markersize=4, color=canvas.COLOURS[0], label="mean")
  axes.fill_between(
      across, [entry["low"] for entry in entropy],
      [entry["high"] for entry in entropy], color=canvas.COLOURS[0], alpha=0.2,
      linewidth=0, label="10th to 90th percentile")
  if examples:
    most = math.log(len(examples[0]["logits"]))
    axes.axhline(most, color="black", linewidth=0.8, linestyle="--",
                 label="all classes alike")
  canvas.log_temperature(axes, across)
  axes.set(ylabel="entropy (nats)", ylim=(0, None))
  axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2,
              title="Entropy of the soft targets", alignment="left")


def _example(
    example: Mapping[str, Any], chosen: Mapping[float, float], row: Sequence[Any],
    *, first: bool, last: bool,
) -> None:
  """An image, and bars of the teacher's top classes at each T up to a number."""
  picture, *others = row
  canvas.picture(picture, example["image"])
  picture.set_axis_off()
  picture.set_title(f"label {example['label']}", fontsize=8)
  logits = example["logits"]
  top = sorted(range(len(logits)), key=lambda c: -logits[c])[:_CLASSES]
  for at, (temperature, most) in zip(others, chosen.items()):
    shares = softened(logits, temperature)
    colours = [canvas.COLOURS[1] if c == example["label"] else canvas.COLOURS[0]
               for c in top]
    at.bar(range(len(top)), [shares[c] for c in top], color=colours)
    at.set_xticks(range(len(top)), [str(c) for c in top],
                  rotation=90 if len(logits) > 10 else 0)
    # One scale a column: a step above its largest bar.
    end = math.ceil(10 * most) / 10
    at.set(ylim=(0, end), yticks=[0, end])
    at.tick_params(labelsize=8)
    at.grid(False, axis="x")
    if first:
      at.set_title(f"T = {names.shown(temperature)}", fontsize=8)
    if last:
      at.set_xlabel("class", fontsize=8)
  others[0].set_ylabel("probability", fontsize=8)
