"""Cut manifests that lhotse wrote: the sound is that which lhotse loads, or the cut is refused."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from lors.bin import name_manifests
from lors.data.datadir import read_data_dir, validate_data_dir
from lors.data.manifest import prepare_manifest
from lors.data.manifest_names import parse_manifests
from lors.data.sound import read_clip
from lors.errors import pip_install
from tests.refusal import refusal
from tests.unit.kaldi_dirs import RATE, SPLITS
from tests.unit.test_manifest import PACKAGES

with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sys, "path", [*sys.path, str(PACKAGES)])
    lhotse = pytest.importorskip("lhotse")


@pytest.fixture(autouse=True)
def packages(monkeypatch):
    """The packages of the tests, which lhotse imports when it needs them."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(PACKAGES)])


def recording(path: Path, seconds: float = 2, channels: int = 1, rate: int = RATE):
    """A recording of noise."""
    rng = np.random.default_rng(sum(map(ord, path.name)))
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * rng.standard_normal((int(seconds * rate), channels)), rate)
    return lhotse.Recording.from_file(path)


def cut_of(recorded, number: int = 0, lang: str | None = "de", start=0.0, duration=None, **custom):
    """A cut with a text for all of it."""
    duration = recorded.duration if duration is None else duration
    text = lhotse.SupervisionSegment(
        f"s-{recorded.id}-{number}", recorded.id, start, duration, text=f"Satz {number}",
        language=lang, speaker=f"anna-{recorded.id}", gender="female",
        custom={"translated_text": {"en": f"Sentence {number}"}, **custom},
    )  # fmt: skip
    cut = recorded.to_cut()
    cut.supervisions = [text]
    return cut.truncate(offset=start, duration=duration).with_id(f"c-{recorded.id}-{number}")


def write(path: Path, cuts) -> Path:
    lhotse.CutSet.from_cuts(cuts).to_file(path)
    return path


def corpus(folder: Path, lang: str | None = "de") -> dict[str, list]:
    """Cuts of each split: a whole recording, and two pieces of another one."""
    return {
        split: [
            cut_of(recording(folder / f"wav/{split}1.wav"), 0, lang),
            *(
                cut_of(recording(folder / f"wav/{split}2.wav"), k, lang, start, 0.75)
                for k, start in enumerate((0.25, 1.25), 1)
            ),
        ]
        for split in SPLITS
    }


def write_all(folder: Path, cuts: dict[str, list]) -> list[Path]:
    return [write(folder / f"cuts_{split}.jsonl.gz", cuts[split]) for split in cuts]


def run(out: Path, *manifests: object, **options):
    return prepare_manifest(parse_manifests(map(str, manifests)), out / "data", **options)


# --- what can be kept ---------------------------------------------------------------------------


def test_the_sound_is_that_of_lhotse(tmp_path):
    cuts = corpus(tmp_path)
    (report,) = run(tmp_path, *write_all(tmp_path, cuts))
    assert {s: report["splits"][s]["clips"] for s in SPLITS} == dict.fromkeys(SPLITS, 3)
    for split in SPLITS:
        made = read_data_dir(tmp_path / f"data/de/{split}")
        assert validate_data_dir(tmp_path / f"data/de/{split}", check_audio=True) == []
        by_text = {cut.supervisions[0].text: cut for cut in cuts[split]}
        for utterance in made:
            cut = by_text.pop(utterance.text)
            heard = read_clip(utterance.wav, utterance.piece)
            np.testing.assert_array_equal(heard, cut.load_audio()[0])
            assert utterance.translations == {"en": utterance.text.replace("Satz", "Sentence")}
            assert utterance.gender == "f" and utterance.duration == pytest.approx(cut.duration)
        assert not by_text
    assert not (tmp_path / "data/audio").exists(), "no copies of the sound"


def test_other_names_of_translations_and_languages(tmp_path):
    cuts = corpus(tmp_path, lang="German")
    for part in cuts.values():
        for cut in part:
            cut.supervisions[0].custom = {"english": "x", "translations": {"fr": "y"}}
            cut.custom = {"spanish": "z", "number": 3}
    manifests = [f"de={path}" for path in write_all(tmp_path, cuts)]
    run(tmp_path, *manifests, rename={"text.en": "english", "text.es": "spanish"})
    (first, *_) = read_data_dir(tmp_path / "data/de/train")
    assert first.translations == {"en": "x", "fr": "y", "es": "z"}
    assert first.lang == "de"


def test_a_split_of_another_partition_is_left_alone(tmp_path):
    """The split is that of the manifest; the field of lhotse's recipes has names of the corpus."""
    cuts = corpus(tmp_path)
    for part in cuts.values():
        for number, cut in enumerate(part):
            owner = cut.supervisions[0] if number else cut
            owner.custom = {**(owner.custom or {}), "split": "train-clean"}
    (report,) = run(tmp_path, *write_all(tmp_path, cuts))
    assert {s: report["splits"][s]["clips"] for s in SPLITS} == dict.fromkeys(SPLITS, 3)


def test_several_languages_and_a_plain_file(tmp_path, capsys):
    cuts = {split: [*corpus(tmp_path)[split], *corpus(tmp_path / "es", "es")[split]]
            for split in SPLITS}  # fmt: skip
    paths = [write(tmp_path / f"{split}.jsonl", cuts[split]) for split in SPLITS]
    assert [report["lang"] for report in run(tmp_path, *paths)] == ["de", "es"]
    assert name_manifests.main([*map(str, paths)]) == 0
    assert "export LANGS='de es'" in capsys.readouterr().out


def test_relative_paths(tmp_path):
    cuts = corpus(tmp_path)
    for part in cuts.values():
        for cut in part:
            source = cut.recording.sources[0]
            source.source = str(Path(source.source).relative_to(tmp_path))
    (tmp_path / "data/manifests").mkdir(parents=True)
    run(tmp_path, *write_all(tmp_path / "data/manifests", cuts))
    (first, *_) = read_data_dir(tmp_path / "data/de/train")
    assert first.wav.startswith(f"{tmp_path}/wav/train")


def test_resampling_is_left_to_stage_2(tmp_path):
    cuts = corpus(tmp_path)
    cuts["train"] = [cut_of(recording(tmp_path / "wav/high.wav", rate=48_000)).resample(RATE)]
    run(tmp_path, *write_all(tmp_path, cuts))
    (only,) = read_data_dir(tmp_path / "data/de/train")
    heard, loaded = read_clip(only.wav, only.piece), cuts["train"][0].load_audio()[0]
    assert (
        len(heard) == len(loaded) and np.corrcoef(heard, loaded)[0, 1] > 0.97
    )  # the filters differ


# --- what cannot --------------------------------------------------------------------------------


def bad_cuts(folder: Path) -> dict[str, object]:
    """Cuts that cannot be kept, by the reason in one word."""
    good = cut_of(recording(folder / "wav/good.wav"))
    stereo = recording(folder / "wav/stereo.wav", channels=2).to_cut()
    left = cut_of(recording(folder / "wav/left.wav"))
    left.recording = stereo.recording
    pipe = cut_of(recording(folder / "wav/pipe.wav"))
    pipe.recording.sources[0].type = "command"
    two = cut_of(recording(folder / "wav/two.wav"))
    two.supervisions = [*two.supervisions, *two.supervisions]
    part = recording(folder / "wav/part.wav").to_cut()
    part.supervisions = cut_of(
        recording(folder / "wav/part.wav"), start=0.5, duration=1
    ).supervisions
    part.supervisions[0].start = 0.5
    empty = cut_of(recording(folder / "wav/empty.wav"))
    empty.supervisions[0].text = ""
    return {
        "augmented": good.perturb_speed(1.1),
        "mixture": good.mix(part, snr=10),
        "one_channel": left,
        "no_file": pipe,
        "supervisions": two,
        "other_span": part,
        "empty_text": empty,
    }


def test_all_cuts_that_cannot_be_kept_are_listed(tmp_path):
    cuts = corpus(tmp_path)
    bad = bad_cuts(tmp_path)
    padded = cuts["dev"][0].pad(5)
    telephone = cut_of(recording(tmp_path / "wav/t.wav")).resample(8000)
    cuts["train"] += list(bad.values())
    shortened = cut_of(recording(tmp_path / "wav/s.wav")).truncate(duration=0.5)
    cuts["dev"] += [padded, telephone, shortened]
    paths = write_all(tmp_path, cuts)
    lines = [f"{paths[0]} line {4 + k}" for k in range(len(bad))]
    lines += [f"{paths[1]} line {number}" for number in (4, 5, 6)]
    with refusal(*bad, *lines, "Speed(factor=1.1)", "8000", "save_audios",
                 "trim_to_supervisions", "not complete"):  # fmt: skip
        run(tmp_path, *paths)
    assert sorted(p.name for p in (tmp_path / "data").rglob("*.*")) == ["dropped.tsv"] * 2
    (report,) = run(tmp_path, *paths, strict=False)
    assert [report["splits"][split]["clips"] for split in SPLITS] == [3, 3, 3]


def test_the_remedies_of_the_message_help(tmp_path):
    cuts, bad = corpus(tmp_path), bad_cuts(tmp_path)
    noise = recording(tmp_path / "wav/noise.wav").to_cut()
    changed = [
        bad["augmented"].with_id("fast"),
        bad["one_channel"].with_id("left"),
        cuts["train"][0].mix(noise, snr=10).with_id("noisy"),
    ]
    saved = [*lhotse.CutSet.from_cuts(changed).save_audios(tmp_path / "saved")]
    trimmed = [*lhotse.CutSet.from_cuts([bad["other_span"]]).trim_to_supervisions()]
    cuts["train"] = [*saved, *trimmed]
    run(tmp_path, *write_all(tmp_path, cuts))
    made = {u.id.split("-de-")[1]: u for u in read_data_dir(tmp_path / "data/de/train")}
    for cut in (*changed, *trimmed):
        utterance = made.pop(cut.id)
        heard = read_clip(utterance.wav, utterance.piece)
        np.testing.assert_allclose(heard, cut.load_audio()[0], atol=1e-4)
    assert not made


@pytest.mark.parametrize(
    "line", ["{", "[]", "3", '{"type": "MonoCut"}', '{"type": "Sound", "id": "x"}', '{"id": 1}',
             "[" * 5000]
)  # fmt: skip
def test_lines_that_are_no_cuts(tmp_path, line):
    paths = write_all(tmp_path, corpus(tmp_path))
    with gzip.open(paths[0], "at") as file:
        file.write(f"{line}\n")
    with refusal(f"{paths[0]} line 4", "1 "):
        run(tmp_path, *paths)


def test_recordings_in_place_of_cuts(tmp_path):
    paths = write_all(tmp_path, corpus(tmp_path))
    lhotse.RecordingSet.from_recordings([recording(tmp_path / "wav/r.wav")]).to_file(paths[0])
    with refusal(paths[0], "1 no_cut", "Recording", "lhotse cut simple"):
        run(tmp_path, *paths)


def test_a_damaged_file(tmp_path):
    paths = write_all(tmp_path, corpus(tmp_path))
    content = paths[0].read_bytes()
    for damaged in (content[:-20], b"no gzip", content[:40] + b"\0" * 40 + content[80:]):
        paths[0].write_bytes(damaged)
        with refusal(paths[0]):
            run(tmp_path, *paths)


def test_a_small_file_with_a_very_long_line(tmp_path):
    path = tmp_path / "cuts_train_de.jsonl.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(b" " * 2**26)
    with refusal(f"{path} line 1"):
        run(tmp_path, path)


def test_a_missing_sound_file_and_no_language(tmp_path):
    cuts = corpus(tmp_path)
    (tmp_path / "wav/dev1.wav").unlink()
    paths = write_all(tmp_path, cuts)
    with refusal("1 missing_file", "wav/dev1.wav"):
        run(tmp_path, *paths)
    for cut in cuts["train"]:
        cut.supervisions[0].language = None
    with refusal(paths[0], "'lang'", "de=PATH"):
        run(tmp_path, *write_all(tmp_path, cuts))


def test_the_language_by_the_name(tmp_path):
    cuts = corpus(tmp_path, lang=None)
    named = {f"{split}_es": cuts[split] for split in SPLITS}
    (report,) = run(tmp_path, *write_all(tmp_path, named))
    assert report["lang"] == "es"


def test_without_lhotse(tmp_path, monkeypatch):
    path = tmp_path / "cuts_train_de.jsonl.gz"
    with gzip.open(path, "wt") as file:
        json.dump({"type": "MonoCut"}, file)
    monkeypatch.setitem(sys.modules, "lhotse.serialization", None)
    with refusal(path, pip_install("lhotse")):
        run(tmp_path, path)
