r"""From the logits of frames to the words that are heard, and a row for each net.

The score of digit d for a recording u of frames t = 0 ... F - 1 is

  score_u(d) = sum_t log p(state 3 d + s(t) | x_t),   s(t) = floor(3 t / F)

the log-probability of its states along the uniform segmentation; what is heard is
the digit with the highest score. *Utterance error* is the share of recordings in
which another digit is heard: the stand-in for the paper's word error rate. It has
no language model and no search over segmentations.
"""

from collections.abc import Callable, Mapping, Sequence
import pathlib
from typing import Any, NamedTuple

import numpy as np

from experiments.hinton15_speech import features, sets
from experiments.protocol import Place, Rows
from kd_jax.core.errors import UserError
from kd_jax.report import Row

# Share of frames that may be decided otherwise by logits of half precision.
_ROUNDING = 0.002


class Net(NamedTuple):
  """A net of the table.

  Attributes:
    system: "baseline", "hard", "distilled" or "ensemble".
    speaker: Who was left out.
    fingerprint: Of the net.
    errors: In frames, as counted when it was trained.
    teacher: Of a baseline or an ensemble, the ensemble's fingerprint.
    member: Of a baseline, its place in the ensemble.
    temperature: Of the soft targets; None without.
    seed: Of a student.
  """

  system: str
  speaker: str
  fingerprint: str
  errors: int
  teacher: str | None = None
  member: int | None = None
  temperature: float | None = None
  seed: int | None = None


def log_softmax(logits: np.ndarray) -> np.ndarray:
  """log p_c = z_c - log sum_k exp(z_k), float64 `[..., C]`."""
  z = logits.astype(np.float64)
  z = z - z.max(axis=-1, keepdims=True)
  return z - np.log(np.exp(z).sum(axis=-1, keepdims=True))


def ensemble(logits: np.ndarray) -> np.ndarray:
  """Log of the mean of the members' probabilities: `[M, N, C]` to `[N, C]`."""
  told = log_softmax(logits)
  highest = told.max(axis=0)
  return highest + np.log(np.exp(told - highest).mean(axis=0))


def scores(
    logits: np.ndarray, label: np.ndarray, utterance: np.ndarray
) -> np.ndarray:
  """The score of every digit for every recording, `[U, 10]`.

  Args:
    logits: Of frames, `[N, 30]`.
    label: Their states, of which only the segment is looked at, `[N]`.
    utterance: The recording of each frame, `[N]`.
  """
  told = log_softmax(logits).reshape(len(logits), -1, features.SEGMENTS)
  # The segment follows from the frame's place alone, whatever was said.
  segment = label % features.SEGMENTS
  frames = told[np.arange(len(told)), :, segment]
  total = np.zeros((int(utterance.max()) + 1, frames.shape[1]))
  np.add.at(total, utterance, frames)
  return total


def digits(label: np.ndarray, utterance: np.ndarray) -> np.ndarray:
  """The digit that is said in each recording, `[U]`."""
  said = np.zeros(int(utterance.max()) + 1, label.dtype)
  said[utterance] = label // features.SEGMENTS
  return said


def utterances(rows: Rows, place: Place) -> None:
  """A row for each net of the table: errors in frames and in recordings.

  Args:
    rows: Those of the stage `table`, whose logits lie in `table/logits`.
    place: Where the rows go, beside `table` and `data`.
  """
  # pylint: disable-next=g-import-not-at-top
  from experiments import tasks  # with jax, which takes seconds
  workdir = place.folder.parent

  def decoded(speaker: str, own: Sequence[Net]) -> tasks.Task:
    def run(stop: Callable[[], bool]) -> list[Row]:
      del stop  # It takes seconds.
      test = sets.tested(workdir / "data" / f"fold_{speaker}.npz")
      return [row(net, logits(net, workdir / "table"), test) for net in own]
    return tasks.Task(f"recordings of {speaker}",
                      tuple(net.fingerprint for net in own), run)

  wanted = nets(rows["table"], rows["teachers"])
  speakers = dict.fromkeys(net.speaker for net in wanted)
  tasks.run([decoded(speaker, [net for net in wanted if net.speaker == speaker])
             for speaker in speakers], place, study="hinton15_speech")


def nets(
    table: Sequence[Mapping[str, Any]], teachers: Sequence[Mapping[str, Any]]
) -> list[Net]:
  """The students of the table, and the ensembles that taught them, with members."""
  found, speakers = [], {}
  for told in table:
    own = told["overrides"]
    speaker = own["data.name"].removeprefix("fold_")
    speakers[told["teacher_fingerprint"]] = speaker
    soft = own["soft_weight"] > 0
    if told["failed"] is None:
      found.append(Net(
          "distilled" if soft else "hard", speaker,
          # The name that its logits have, and its row here had.
          told.get("fingerprint_of_schema_1", told["fingerprint"]),
          told["test_errors"], seed=told["seed"],
          temperature=own["temperature"] if soft else None))
  errors = {told["fingerprint"]: told["test_errors"] for told in teachers}
  for told in teachers:
    name = told["fingerprint"]
    if name in speakers and "members" in told:
      found.append(Net("ensemble", speakers[name], name, errors[name], name))
      found += [
          Net("baseline", speakers[name], member, errors[member], name, place)
          for place, member in enumerate(told["members"])]
  return found


def logits(net: Net, table: pathlib.Path) -> np.ndarray:
  """What a net said of the test frames, `[N, C]`; an ensemble, log-probabilities.

  Raises:
    UserError: If its logits are not there.
  """
  # pylint: disable-next=g-import-not-at-top
  from kd_jax.runs import kept_logits as said  # with jax, which takes seconds
  if net.teacher is None:
    return said.load(table, {"fingerprint": net.fingerprint})["test"]
  members = said.load_teacher(table, net.teacher)["test"]
  return ensemble(members) if net.member is None else members[net.member]


def row(
    net: Net, said: np.ndarray, test: Mapping[str, np.ndarray]
) -> dict[str, Any]:
  """A net's errors, as they are recorded.

  Args:
    net: The net.
    said: Its logits of the test frames, `[N, C]`.
    test: Of `sets.tested`.

  Raises:
    UserError: If the logits are not those of the net.
  """
  label, utterance = test["y_test"], test["utterance_test"]
  if len(said) != len(label) or abs(
      int((said.argmax(axis=-1) != label).sum()) - net.errors
  ) > _ROUNDING * len(label):
    raise UserError(
        f"{net.fingerprint}: its logits make other errors than its row says; "
        "delete the workdir's table and data, and give the same command again")
  wrong = scores(said, label, utterance).argmax(axis=-1) != digits(
      label, utterance)
  shown = net.system if net.temperature is None else (
      f"{net.system} T={net.temperature:g}")
  return {
      "row": f"{shown} without {net.speaker}", "overrides": {},
      "system": net.system, "speaker": net.speaker, "seed": net.seed,
      "temperature": net.temperature, "member": net.member,
      "fingerprint": net.fingerprint,
      "teacher_fingerprint": net.teacher, "frame_errors": net.errors,
      "frames": len(label), "utterance_errors": int(wrong.sum()),
      "utterances": len(wrong)}
