"""LibriSpeech as data directories, from a corpus in its layout; and the authors' ten speakers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from lors.bin.prepare_librispeech import main
from lors.data.datadir import read_data_dir, validate_data_dir
from lors.data.librispeech import prepare_librispeech
from lors.data.speaker_split import SpeakerRule, read_partition, split_speakers
from tests.refusal import refusal

SPEAKERS = Path(__file__).parents[2] / "egs/librispeech/pqm1/conf/speakers.yaml"


def write_chapter(root, subset, utterances):
    """Write recordings and transcripts of (speaker, chapter, number)."""
    for speaker, chapter, number in utterances:
        folder = root / subset / speaker / chapter
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{speaker}-{chapter}-{number:04d}"
        soundfile.write(folder / f"{name}.flac", np.zeros(8000, dtype=np.float32), 16000)
        with (folder / f"{speaker}-{chapter}.trans.txt").open("a") as handle:
            handle.write(f"{name} A LINE OF {number}\n")


@pytest.fixture
def corpus(tmp_path):
    root = tmp_path / "LibriSpeech"
    write_chapter(root, "train-clean-360", [("14", "208", n) for n in range(3)])
    write_chapter(root, "train-clean-360", [("115", "121720", n) for n in range(2)])
    (root / "SPEAKERS.TXT").write_text(
        ";ID |SEX| SUBSET |MINUTES| NAME\n14 | F | train-clean-360 | 25.03 | A. B.\n"
    )
    return root


def test_data_directory(corpus, tmp_path):
    assert prepare_librispeech(corpus, ["train-clean-360"], tmp_path / "data") == 5
    directory = tmp_path / "data/en/train"
    assert validate_data_dir(directory, check_audio=True) == []
    first = read_data_dir(directory)[0]
    assert (first.id, first.speaker, first.lang) == ("115-121720-0000", "115", "en")
    assert first.text == "a line of 0" and first.gender is None
    assert {u.gender for u in read_data_dir(directory) if u.speaker == "14"} == {"f"}


def test_missing_parts(corpus, tmp_path):
    with refusal("train-clean-100", "openslr"):
        prepare_librispeech(corpus, ["train-clean-100"], tmp_path / "data")
    chapter = corpus / "train-clean-360/14/208"
    (chapter / "14-208-0001.flac").unlink()
    (chapter / "14-208-0007.flac").touch()
    with refusal("no recording of 14-208-0001", "14-208-0007.flac: no transcript"):
        prepare_librispeech(corpus, ["train-clean-360"], tmp_path / "data")
    (corpus / "empty").mkdir()
    with refusal("no transcripts"):
        prepare_librispeech(corpus, ["empty"], tmp_path / "data")


def write_ten_speakers(root):
    """Write the first and the last dev utterance of each, some others, and another speaker.

    Speaker 3389 has chapter 130127 too, which is before chapter 13247 as text: it adapts.
    """
    partition = read_partition(SPEAKERS)
    for speaker, (first, last) in partition.items():
        ends = {tuple(end.split("-")) for end in (first, last)}
        utterances = {(s, c, int(n)) for s, c, n in ends}
        chapter, number = first.split("-")[1:]
        utterances |= {(speaker, chapter, int(number) - 1)}
        chapter, number = last.split("-")[1:]
        utterances |= {(speaker, chapter, int(number) + 1), (speaker, "999999", 0)}
        write_chapter(root, "train-clean-360", sorted(utterances))
    write_chapter(root, "train-clean-360", [("3389", "130127", 0)])
    write_chapter(root, "train-clean-360", [("14", "208", n) for n in range(12)])
    return partition


def test_ten_speakers_of_the_authors(tmp_path):
    root = tmp_path / "LibriSpeech"
    partition = write_ten_speakers(root)
    assert main(["--corpus", str(root), "--out", str(tmp_path / "data")]) == 0
    rule = SpeakerRule(partition=partition, least_test=1)
    codes = split_speakers(tmp_path / "data", ["en"], tmp_path / "speakers", rule)
    assert codes == [f"en-x-{speaker}" for speaker in sorted(partition)]
    for speaker, (first, last) in partition.items():
        parts = {
            split: [u.id for u in read_data_dir(tmp_path / f"speakers/en-x-{speaker}/{split}")]
            for split in ("train", "dev", "test")
        }
        assert parts["dev"] == [first, last]
        assert len(parts["train"]) == (2 if speaker == "3389" else 1)
        assert len(parts["test"]) == 2 and parts["test"][-1] == f"{speaker}-999999-0000"
        assert parts["train"] < parts["dev"] < parts["test"]
    adapt = [u.id for u in read_data_dir(tmp_path / "speakers/en-x-3389/train")]
    assert adapt == ["3389-130127-0000", "3389-13247-0021"]
    others = {u.speaker for u in read_data_dir(tmp_path / "speakers/en/train")}
    assert others == {"14"}
