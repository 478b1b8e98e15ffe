"""The study of speech: features, sets, words off logits, plans, verdicts."""

import io
import json
import wave
import zipfile

import numpy as np
import pytest

from experiments import index, reproduce
from experiments.hinton15_speech import (
  decode,
  features,
  recordings,
  sets,
  study,
  verdict,
)
from experiments.protocol import Options, Place
from kd_jax import data
from kd_jax.config import sweep
from kd_jax.core.errors import UserError


def tone(hertz: float, number: int = 1000) -> np.ndarray:
  return 0.5 * np.sin(2 * np.pi * hertz * np.arange(number) / features.RATE)


def wav(signal: np.ndarray, *, rate: int = 8000, channels: int = 1) -> bytes:
  held = io.BytesIO()
  with wave.open(held, "wb") as file:
    file.setnchannels(channels)
    file.setsampwidth(2)
    file.setframerate(rate)
    file.writeframes((signal * 2**15).astype("<i2").tobytes())
  return held.getvalue()


def test_a_wav_file_gives_its_samples():
  np.testing.assert_array_equal(
      features.samples(wav(np.array([0.0, 0.5, -1.0, 0.25]))),
      [0.0, 0.5, -1.0, 0.25])


@pytest.mark.parametrize(("content", "says"), [
    (wav(tone(500), rate=16000), "must be mono, 16 bit, 8000 Hz"),
    (wav(tone(500), channels=2), "has 2 channel"),
    (wav(tone(500))[:30], "no wav file"), (b"MP3", "no wav file"),
    (wav(np.zeros(0)), "no samples")])
def test_what_is_no_such_file_is_refused(content, says):
  with pytest.raises(ValueError, match=says):
    features.samples(content)


def test_mel_is_that_of_the_formula():
  # 2595 log10(1 + 700 / 700) = 2595 * 0.30103 = 781.17.
  assert features.mel(700.0) == pytest.approx(781.17, abs=0.01)
  assert features.hertz(features.mel(1234.5)) == pytest.approx(1234.5)
  # 41 equal steps up to mel(4000) = 2595 log10(6.71429) = 2146.06; the 21st
  # centre is at 21 / 41 of it, 1099.20: 700 (10**0.423584 - 1) = 1156.5 Hz.
  assert features.centres()[20] == pytest.approx(1156.5, abs=0.5)


def test_each_filter_is_one_at_its_centre_and_none_beyond_its_neighbours():
  bank, centres = features.filterbank(), features.centres()
  assert bank.shape == (257, 40) and (bank > 0).any(axis=0).all()
  bins = np.fft.rfftfreq(512, 1 / 8000)
  assert bank.max() <= 1
  # Two filters share every frequency between the first and the last centre.
  between = (bins > centres[0]) & (bins < centres[-1])
  np.testing.assert_allclose(bank[between].sum(axis=1), 1)
  assert (bank[bins <= centres[6], 7] == 0).all()
  assert (bank[bins >= centres[8], 7] == 0).all()


@pytest.mark.parametrize("band", [5, 12, 20, 33, 39])
def test_a_tone_is_heard_by_its_filter(band):
  heard = features.log_mel(tone(features.centres()[band]))
  assert (heard.argmax(axis=1) == band).all()


def test_loudness_is_an_offset_of_the_logarithm():
  loud, soft = features.log_mel(tone(900)), features.log_mel(tone(900) / 10)
  # Power falls by 100, so its logarithm by log(100) = 4.605, floor aside.
  np.testing.assert_allclose(loud[:, 18] - soft[:, 18], 4.60517, rtol=1e-5)


@pytest.mark.parametrize(("number", "frames"), [
    # 1 + (n - 200) // 80: 279 is one sample short of a second frame.
    (200, 1), (279, 1), (280, 2), (1000, 11), (1, 1), (199, 1)])
def test_frames_are_counted(number, frames):
  assert features.log_mel(tone(500, number)).shape == (frames, 40)


def test_silence_has_a_logarithm():
  assert (features.log_mel(np.zeros(400)) == np.log(2.0**-30)).all()


def test_a_speaker_has_mean_zero_and_deviation_one():
  frames = np.random.default_rng(0).normal(-5, 3, (50, 40))
  frames[:, 3] = 1.0  # A filter that hears nothing stays finite.
  told = features.normalised(frames)
  np.testing.assert_allclose(told.mean(axis=0), 0, atol=1e-9)
  np.testing.assert_allclose(np.delete(told.std(axis=0), 3), 1)
  assert (told[:, 3] == 0).all()


def test_bytes_are_within_their_bound():
  z = np.linspace(-4, 4, 10_001)
  q = features.quantised(z)
  assert q.dtype == np.uint8 and q.min() == 0 and q.max() == 255
  assert np.abs(8 / 255 * q - 4 - z).max() <= 4 / 255 + 1e-12
  np.testing.assert_array_equal(
      features.quantised(np.array([-9.0, 0.01, 9.0])), [0, 128, 255])


def test_a_window_has_its_frame_at_the_21st_place():
  frames = np.arange(30, dtype=np.uint8)[:, None] * np.ones(40, np.uint8)
  told = features.windows(frames)[..., 0]
  assert told.shape == (30, 26)
  np.testing.assert_array_equal(told[:, 20], np.arange(30))
  np.testing.assert_array_equal(told[22], np.arange(2, 28))
  # Beyond the ends, the first or the last frame again.
  np.testing.assert_array_equal(told[0], [0] * 21 + [1, 2, 3, 4, 5])
  np.testing.assert_array_equal(told[29], [*range(9, 30)] + [29] * 5)


def test_thirds_are_dealt_out_evenly():
  # floor(3 t / 8) for t = 0 ... 7.
  assert features.segments(8).tolist() == [0, 0, 0, 1, 1, 1, 2, 2]
  assert features.segments(2).tolist() == [0, 1]
  assert features.states(4, 3).tolist() == [12, 13, 14]


def test_the_recordings_are_those_of_the_set():
  assert len(set(recordings.NAMES)) == 3000
  assert recordings.NAMES[51] == "1_george_1"


@pytest.fixture
def planted(tmp_path, monkeypatch):
  """A folder of data with four wav files, and their names."""
  monkeypatch.setenv("KD_JAX_DATA", str(tmp_path))
  (tmp_path / "spoken_digits").mkdir()
  names = ["0_ann_0", "0_bob_0", "1_ann_0", "1_bob_0"]
  with zipfile.ZipFile(tmp_path / "spoken_digits/recordings.zip", "w") as file:
    for place, name in enumerate(names):
      file.writestr(f"recordings/{name}.wav", wav(tone(400 + 100 * place)))
  return tmp_path / "spoken_digits", names


def test_recordings_come_from_the_archive_or_the_folder(planted):
  folder, names = planted
  packed = recordings.load(names)
  assert [(each.digit, each.speaker) for each in packed] == [
      (0, "ann"), (0, "bob"), (1, "ann"), (1, "bob")]
  with zipfile.ZipFile(folder / "recordings.zip") as file:
    file.extractall(folder)
  (folder / "recordings.zip").unlink()
  for loose, each in zip(recordings.load(names), packed, strict=True):
    np.testing.assert_array_equal(loose.samples, each.samples)


def _no_archive(folder):
  (folder / "recordings.zip").unlink()


def _cut(folder):
  file = folder / "recordings.zip"
  file.write_bytes(file.read_bytes()[:900])


def _no_wav(folder):
  with zipfile.ZipFile(folder / "recordings.zip", "w") as file:
    for name in ("0_ann_0", "0_bob_0", "1_ann_0", "1_bob_0"):
      file.writestr(f"{name}.wav", b"RIFF")


def _one_lost(folder):
  _no_wav(folder)
  with zipfile.ZipFile(folder / "recordings.zip", "w") as file:
    file.writestr("0_ann_0.wav", wav(tone(500)))


@pytest.mark.parametrize(("harm", "says"), [
    (_no_archive, "no recordings here"), (_cut, "damaged"),
    (_no_wav, "0_ann_0.wav no wav file"),
    (_one_lost, "lacks 3 of 4 recordings, such as 0_bob_0.wav")])
def test_what_is_wrong_with_recordings_is_told_in_a_line(planted, harm, says):
  folder, names = planted
  harm(folder)
  with pytest.raises(UserError, match=says) as told:
    recordings.load(names)
  assert "github.com/Jakobovski/free-spoken-digit-dataset" in str(told.value)
  assert "CC BY-SA 4.0" in str(told.value) and "\n" not in str(told.value)


@pytest.mark.parametrize("words", [["--plan"], []])
def test_the_command_says_where_to_get_them(
    tmp_path, monkeypatch, capsys, words):
  for place in (tmp_path, None):
    monkeypatch.setenv("KD_JAX_DATA", str(place or ""))
    assert reproduce.main(
        ["hinton15_speech", f"--workdir={tmp_path / 'w'}", *words]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and "Jakobovski" in told
    assert ("no recordings here" if place else "names no folder") in told
    assert "Traceback" not in told and told.count("\n") == 1


def test_nobody_is_on_both_sides_of_a_set():
  found = {split.name: split for split in sets.splits(quick=False)}
  assert len(found) == 12
  choosers = []
  for speaker in recordings.SPEAKERS:
    fold, choose = found[f"fold_{speaker}"], found[f"choose_{speaker}"]
    assert fold.test == speaker and len(fold.train) == 5
    assert {*fold.train, fold.test} == set(recordings.SPEAKERS)
    # The one left out has no say in what is chosen.
    assert speaker not in {*choose.train, choose.test}
    assert len(choose.train) == 4 and choose.test not in choose.train
    choosers.append(choose.test)
  assert sorted(choosers) == sorted(recordings.SPEAKERS)


@pytest.fixture(scope="module")
def quick(tmp_path_factory) -> Options:
  """The sets of the quick form, written."""
  options = Options(tmp_path_factory.mktemp("speech"), quick=True)
  sets.prepare(options.workdir / "data", True, lambda line: None)
  return options


def test_a_set_is_what_its_name_says(quick):
  file = quick.workdir / "data/fold_tones_b.npz"
  spoken = sets.by_speaker(recordings.synthetic())
  with np.load(file) as held:
    told = {key: held[key] for key in held.files}
  # 3 speakers x 10 digits x 4 takes; b is left out.
  own = spoken["tones_b"]
  assert told["names_test"].tolist() == [each.name for each in own]
  assert len(own) == 40 and all("tones_b" in name for name in told["names_test"])
  start = 0
  for place, each in enumerate(own):
    frames = slice(start, start + len(each.frames))
    assert (told["utterance_test"][frames] == place).all()
    np.testing.assert_array_equal(
        told["y_test"][frames] // 3, int(each.name[0]))
    np.testing.assert_array_equal(told["x_test"][frames, 20], each.frames)
    start += len(each.frames)
  assert start == len(told["y_test"]) == len(told["utterance_test"])
  others = [each for name in ("tones_a", "tones_c") for each in spoken[name]]
  np.testing.assert_array_equal(
      told["x_train"][:, 20], np.concatenate([each.frames for each in others]))
  assert set(told["y_train"]) == set(range(30))


def test_sets_are_read_as_a_users_own_and_not_written_twice(quick, monkeypatch):
  folder = quick.workdir / "data"
  read = lambda name: data.load(
      name, directory=folder, embedded="never", say=lambda line: None)
  first, second = read("fold_tones_a"), read("fold_tones_b")
  assert first.source == "raw" and first.num_classes == 30
  assert first.train.inputs.shape[1:] == (26, 40, 1)
  assert first.fingerprint != second.fingerprint
  said = []
  before = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
  (folder / "fold_tones_b.npz").write_bytes(b"half")
  sets.prepare(folder, True, said.append)
  assert said == [f"data: writing {folder / 'fold_tones_b.npz'}"]
  assert read("fold_tones_b").fingerprint == second.fingerprint
  after = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
  assert [file.name for file in before if before[file] != after[file]] == [
      "fold_tones_b.npz"]


def test_a_speakers_frames_are_theirs_alone():
  heard = recordings.synthetic()
  alone = sets.by_speaker([h for h in heard if h.speaker == "tones_b"])
  for one, other in zip(alone["tones_b"], sets.by_speaker(heard)["tones_b"]):
    np.testing.assert_array_equal(one.frames, other.frames)


# Two recordings, of digit 1 (three frames) and digit 0 (four frames).
LABEL = np.array([3, 4, 5, 0, 0, 1, 2], np.int32)
UTTERANCE = np.array([0, 0, 0, 1, 1, 1, 1], np.int32)


def planted_logits() -> np.ndarray:
  """Of 7 frames and 30 states, uniform but for what a test plants."""
  return np.zeros((7, 30))


def test_the_score_is_the_sum_along_the_segments():
  logits = planted_logits()
  logits[2, 3 * 7 + 2] = 2.0  # Digit 7, last third, where the last third is.
  logits[2, 3 * 9 + 0] = 9.0  # Digit 9, first third, in the same place.
  told = decode.scores(logits, LABEL, UTTERANCE)
  assert told.shape == (2, 10)
  # Frames 0 and 1: -log(30). Frame 2: 2 - log(28 + e**2 + e**9) for digit 7, and
  # without the 2 for all others: the state of digit 9 is not on its path.
  others = -2 * np.log(30) - np.log(28 + np.exp(2) + np.exp(9))
  np.testing.assert_allclose(told[0, [0, 7, 9]], [others, others + 2, others])
  np.testing.assert_allclose(told[1], -4 * np.log(30))
  np.testing.assert_array_equal(decode.digits(LABEL, UTTERANCE), [1, 0])


def test_the_mean_of_probabilities_is_that_of_the_ensemble():
  # softmax(0, log 3) = 1/4, 3/4 and softmax(0, 0) = 1/2, 1/2: mean 3/8, 5/8.
  members = np.log(np.array([[[1.0, 3.0]], [[1.0, 1.0]]])).astype(np.float16)
  np.testing.assert_allclose(
      np.exp(decode.ensemble(members)), [[0.375, 0.625]], rtol=1e-3)


def net(**more) -> decode.Net:
  return decode.Net(**{"system": "hard", "speaker": "tones_a",
                       "fingerprint": "f", "errors": 0, "seed": 0} | more)


def test_a_row_counts_frames_and_utterances():
  logits = planted_logits()
  logits[np.arange(7), LABEL] = 5.0
  logits[3:5] = 0.0
  logits[3:5, 3] = 20.0  # Digit 1 twice, strongly, where 0 is said.
  test = {"y_test": LABEL, "utterance_test": UTTERANCE}
  told = decode.row(net(errors=2), logits, test)
  assert (told["frame_errors"], told["frames"]) == (2, 7)
  assert (told["utterance_errors"], told["utterances"]) == (1, 2)
  with pytest.raises(UserError, match="other errors"):
    decode.row(net(errors=4), logits, test)
  with pytest.raises(UserError, match="other errors"):
    decode.row(net(errors=2), logits[:6], test)


def plant(quick: Options, workdir):
  """A table of two folds with logits, as the sweep leaves them."""
  (workdir / "table/logits").mkdir(parents=True)
  (workdir / "data").symlink_to(quick.workdir / "data")
  table, teachers = [], []
  for speaker in ("tones_a", "tones_b"):
    test = sets.tested(workdir / f"data/fold_{speaker}.npz")
    label = test["y_test"]
    draw = np.random.default_rng(len(table))

    def said(right, label=label, draw=draw):
      logits = draw.normal(0, 1, (len(label), 30))
      logits[np.arange(len(label)), label] += right
      return logits.astype(np.float16)

    errors = lambda logits, label=label: int((logits.argmax(-1) != label).sum())
    members = np.stack([said(2), said(2), said(2)])
    save = lambda name, logits: np.savez(
        workdir / f"table/logits/{name}.npz", test=logits)
    whole = f"whole-{speaker}"
    save(f"teacher-{whole}", members)
    names = [f"{whole}-{n}" for n in range(3)]
    teachers.append({"net": "teacher", "fingerprint": whole, "members": names,
                     "test_errors": errors(decode.ensemble(members))})
    teachers += [{"net": "member", "fingerprint": name,
                  "test_errors": errors(logits)}
                 for name, logits in zip(names, members, strict=True)]
    for soft, t, right in ((0.0, 1.0, 2), (1.0, 2.0, 2.5)):
      logits = said(right)
      name = f"{speaker}-{soft}"
      save(name, logits)
      table.append({
          "fingerprint": name, "teacher_fingerprint": whole, "seed": 0,
          "failed": None, "test_errors": errors(logits),
          "overrides": {"data.name": f"fold_{speaker}", "soft_weight": soft,
                        "temperature": t}})
  return {"table": table, "teachers": teachers}


def test_every_net_of_the_table_gets_a_row_once(quick, tmp_path, monkeypatch):
  rows = plant(quick, tmp_path)
  place = Place(tmp_path / "utterances", lambda: False, lambda line: None)
  file = place.folder / "results.jsonl"
  lines = lambda: [json.loads(line) for line in file.read_text().splitlines()]
  decode.utterances(rows, place)
  # 2 folds x (2 students, an ensemble and its 3 members).
  assert len(lines()) == 12
  found, done = lines(), file.read_bytes()
  by = lambda system: [r for r in found if r["system"] == system]
  assert [len(by(s)) for s in ("baseline", "ensemble", "hard", "distilled")] == [
      6, 2, 2, 2]
  assert {r["temperature"] for r in by("distilled")} == {2.0}
  assert {r["member"] for r in by("baseline")} == {0, 1, 2}
  for r in found:
    assert r["utterances"] == 40 and r["frame_errors"] > 0 and r["schema"] == 2
  # Ten noisy states a digit are added up, so words are heard better than frames.
  assert sum(r["utterance_errors"] for r in found) < 0.1 * 12 * 40
  better = lambda system: np.mean([r["frame_errors"] for r in by(system)])
  assert better("ensemble") < better("distilled") < better("baseline")
  monkeypatch.setattr(decode, "logits", None)  # What is there is passed over.
  decode.utterances(rows, place)
  assert sorted(file.read_bytes().split()) == sorted(done.split())
  # Of a table that has changed, the old nets' rows stand aside.
  decode.utterances({**rows, "table": rows["table"][2:]}, place)
  asked = [r for r in lines() if r.get("asked", True)]
  assert {r["speaker"] for r in asked} == {"tones_b"}


def test_logits_that_are_not_there_are_told(quick, tmp_path):
  rows = plant(quick, tmp_path)
  (tmp_path / "table/logits/teacher-whole-tones_a.npz").unlink()
  place = Place(tmp_path / "utterances", lambda: False, lambda line: None)
  with pytest.raises(UserError, match=r"tones_a.*the logits of this net cannot be"):
    decode.utterances(rows, place)


def chosen_row(speaker, soft, epochs, rate, errors, failed=None):
  return {"overrides": {
      "data.name": f"choose_{speaker}", "soft_weight": soft, "epochs": epochs,
      "optimizer.learning_rate": rate}, "test_errors": errors, "failed": failed}


def test_each_fold_and_system_has_a_choice_of_its_own():
  rows = [chosen_row("theo", 0.0, 2, 1e-3, 50),
          chosen_row("theo", 0.0, 4, 1e-3, 40),
          chosen_row("theo", 0.0, 4, 3e-3, 10, failed="not finite in epoch 1"),
          chosen_row("theo", 1.0, 2, 3e-3, 30),
          chosen_row("theo", 1.0, 4, 1e-3, 31),
          chosen_row("lucas", 0.0, 2, 3e-4, 9)]
  assert study.choose(rows) == {
      "theo": {"baseline": {"epochs": 4, "optimizer.learning_rate": 1e-3},
               "distilled": {"epochs": 2, "optimizer.learning_rate": 3e-3}},
      "lucas": {"baseline": {"epochs": 2, "optimizer.learning_rate": 3e-4}}}


NOWHERE = Options(index.ROOT / "nowhere")


@pytest.mark.parametrize("left", [[], ["baseline"]])
def test_a_fold_without_a_choice_is_told(left):
  both = {"baseline": {"epochs": 4}, "distilled": {"epochs": 2}}
  choice = {name: both for name in recordings.SPEAKERS}
  choice["lucas"] = {system: both[system] for system in left}
  with pytest.raises(UserError, match="chosen for the fold of lucas"):
    study.table(NOWHERE, choice, 3)


def test_the_study_is_what_its_readme_says():
  choosing = study.choosing(NOWHERE)
  points = choosing.sweep.points
  by_row = lambda soft: [p for p in points if p["soft_weight"] == soft
                         and p["data.name"] == "choose_theo"]
  # As many settings for the baseline as for the distilled net, at most eight.
  assert len(by_row(0.0)) == len(by_row(1.0)) == 6
  assert {p["temperature"] for p in by_row(1.0)} == {2.0}
  assert {p["data.name"] for p in points} == {
      f"choose_{name}" for name in recordings.SPEAKERS}
  table = study.table(NOWHERE, {}, study.SEEDS)
  assert table.sweep.logits and table.data.embedded == "never"
  # 6 folds x 3 seeds x (hard labels and 4 temperatures).
  assert len(table.sweep.points) == 6 * 3 * 5
  soft = [p for p in table.sweep.points if p["soft_weight"]]
  assert {p["temperature"] for p in soft} == {1.0, 2.0, 5.0, 10.0}
  assert {p["hard_weight"] / p["soft_weight"] for p in soft} == {0.5}
  assert {p["teacher.count"] for p in table.sweep.points} == {10}
  readme = (index.ROOT / "hinton15_speech/README.md").read_text()
  for part in ("26 frames", "CC BY-SA 4.0", "leave one speaker out", "T = 2",
               "0.5 CE + T**2 KL"):
    assert part.lower() in " ".join(readme.lower().split()), part


def test_a_choice_reaches_students_and_members():
  choice = {name: {
      "baseline": {"epochs": 4, "optimizer.learning_rate": 3e-4},
      "distilled": {"epochs": 2, "optimizer.learning_rate": 3e-3}}
      for name in recordings.SPEAKERS}
  table = study.table(NOWHERE, choice, 1)
  for lane in sweep.lanes(table, table.sweep.points):
    of = lambda key, own=lane.values: (
        own[f"{key}epochs"], own[f"{key}optimizer.learning_rate"])
    assert of("teacher.") == (4, 3e-4)
    assert of("") == ((2, 3e-3) if lane.values["soft_weight"] else (4, 3e-4))
    assert lane.values["alpha"] is None
    assert lane.values["data.name"].startswith("fold_")


def test_the_quick_form_plans_without_recordings(
    tmp_path, monkeypatch, capsys):
  monkeypatch.setenv("KD_JAX_DATA", "")
  assert reproduce.main(["hinton15_speech", "--quick", "--plan",
                         f"--workdir={tmp_path}"]) == 0
  told = capsys.readouterr().out
  # 2 folds x (2 rates x hard and soft), then 2 folds x 2 seeds x 3 losses.
  assert "8 runs in 2 compilations, 2 teachers" in told
  assert "12 runs in 2 compilations, 2 teachers" in told


# Points of frame accuracy by speaker: what the baseline has, what others gain.
BASE = (50.0, 55.0, 60.0, 52.0, 58.0, 61.0)
GAIN = (2.0, 2.4, 1.6, 2.2, 1.8, 2.0)


def heard(system, speaker, accuracy, temperature=None):
  return {"system": system, "speaker": speaker, "temperature": temperature,
          "frame_errors": round(100 * (100 - accuracy)), "frames": 10_000,
          "utterance_errors": 15, "utterances": 500}


def rows_of(share, *, gain=GAIN, wiggle=0.02):
  """Rows in which a distilled net keeps a share of what the ensemble gains."""
  found = []
  for place, speaker in enumerate(recordings.SPEAKERS):
    base, more = BASE[place], gain[place]
    found += [heard("baseline", speaker, base + 0.1),
              heard("hard", speaker, base - 0.1),
              heard("ensemble", speaker, base + more)]
    for t, kept in ((1.0, 0.5), (2.0, share)):
      own = base + kept * more + wiggle * (-1) ** place
      found.append(heard("distilled", speaker, own, t))
  return {"utterances": found}


@pytest.mark.parametrize(("share", "verdict_of_share"), [
    (0.95, "holds"), (0.4, "does not hold"), (0.8, "is not shown")])
def test_the_verdict_can_go_either_way(share, verdict_of_share):
  said = study.conclude(rows_of(share))
  assert f"The claim of more than 80% {verdict_of_share} here" in said
  lines = said.splitlines()
  ensemble = next(line for line in lines if line.startswith("| ensemble"))
  # The mean of BASE is 56.0, of GAIN 2.0; 15 of 500 recordings are 3%.
  assert "| 61.1 | 58.0 ± " in ensemble and "| +2.00 [" in ensemble
  assert "| yes | 10.7 | 3.0 ± 0.0 (6) |" in ensemble
  assert any(line.startswith("| baseline | 58.9 | 56.0 ± ") for line in lines)
  assert any(line.startswith("| 1 | 57.0 ± ") for line in lines)
  assert f"gain {share:.0%} [" in study.status(rows_of(share))


def test_no_gain_is_no_claim():
  said = study.conclude(rows_of(0.5, gain=(1.0, -1.2, 0.9, -1.0, 1.1, -0.7)))
  assert "cannot be judged" in said and "yes" not in said
  assert "a share that cannot be told" in said
  assert "Not all systems" in study.conclude({"utterances": []})
  assert study.status({}) == "not finished"
  lone = [row for row in rows_of(0.9)["utterances"] if row["speaker"] == "theo"]
  assert "Not all systems" in study.conclude({"utterances": lone})


def test_a_speaker_who_lacks_a_system_counts_nowhere():
  rows = [row for row in rows_of(0.9)["utterances"]
          if (row["system"], row["speaker"]) != ("ensemble", "theo")]
  cells = verdict.gather(rows)
  assert cells.speakers == tuple(
      name for name in recordings.SPEAKERS if name != "theo")
  assert all(len(values) == 5 for values in cells.accuracy.values())


def test_a_picture_is_drawn(tmp_path):
  study.pictures(rows_of(0.9), tmp_path)
  assert (tmp_path / "gains.png").read_bytes().startswith(b"\x89PNG")
  study.pictures({"utterances": []}, tmp_path / "none")


def test_nothing_of_the_recordings_is_recorded(tmp_path, monkeypatch):
  monkeypatch.setattr(index, "ROOT", tmp_path / "experiments")
  monkeypatch.setattr(index, "generate", lambda name, folder: None)
  monkeypatch.setattr(index, "documents", dict)
  folder, workdir = tmp_path / "experiments/hinton15_speech", tmp_path / "w"
  folder.mkdir(parents=True)
  row = {"fingerprint": "f", "test_errors": 2, "test_wrong_ids": [0, 1]}
  for stage in ("choosing", "table", "utterances"):
    (workdir / stage).mkdir(parents=True)
    for name in ("results", "teachers"):
      (workdir / stage / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
  (workdir / "table/teacher.json").write_text(json.dumps(
      {"entropy": [], "examples": [{"image": [[1]]}]}))
  index.record("hinton15_speech", ["choosing", "table", "utterances"], workdir)
  for name in ("results", "teachers", "choosing", "choosing_teachers"):
    assert json.loads((folder / f"{name}.jsonl").read_text()) == {
        "fingerprint": "f", "test_errors": 2}
  assert json.loads((folder / "teacher.json").read_text()) == {"entropy": []}
