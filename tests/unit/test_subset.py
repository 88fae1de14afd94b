"""Subsets by hours: the same everywhere, balanced over speakers, nested, and shared as a list."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
import soundfile
from cv_corpus import tone

from lors.bin import format_audio
from lors.data.datadir import Utterance, read_data_dir, write_data_dir
from lors.data.subset import clip_names, hours_of, subset_order, utterances_called
from lors.fileio import read_json
from tests.refusal import refusal


def utterances(counts):
    """Speaker -> number of clips, as utterances."""
    return [
        Utterance(f"{speaker}-{k}", f"/clips/{speaker}_{k}.mp3", speaker)
        for speaker, count in counts.items()
        for k in range(count)
    ]


def test_the_order_does_not_depend_on_the_order_of_the_corpus():
    clips = utterances({"a": 5, "b": 3, "c": 1})
    shuffled = random.Random(0).sample(clips, len(clips))
    assert subset_order(clips) == subset_order(shuffled)
    # ... nor on the names of the speakers, which every release changes.
    renamed = [
        Utterance(f"x{utt.id}", utt.wav.replace("/clips", "/else"), f"x{utt.speaker}")
        for utt in clips
    ]
    assert [u.id for u in subset_order(renamed)] == [f"x{u.id}" for u in subset_order(clips)]


def test_every_beginning_is_balanced_over_speakers():
    counts = {"a": 50, "b": 20, "c": 3, "d": 1}
    order = subset_order(utterances(counts))
    assert len(order) == 74
    for end in range(1, 75):
        taken = Counter(utt.speaker for utt in order[:end])
        for speaker, number in counts.items():
            # No speaker has two clips more than a speaker who has clips left.
            if taken[speaker] < number:
                assert max(taken.values()) <= taken[speaker] + 1


def test_speakers_and_clips_come_in_no_order_of_their_names():
    order = subset_order(utterances({f"s{k:02}": 2 for k in range(40)}))
    first = [utt.speaker for utt in order[:40]]
    assert len(set(first)) == 40 and first != sorted(first)
    assert {utt.id[-1] for utt in order[:40]} == {"0", "1"}


def test_clips_are_called_by_id_where_file_names_repeat():
    clips = [Utterance(f"{s}-1", f"/{s}/1.wav", s) for s in ("a", "b")]
    assert clip_names(clips) == ["a-1", "b-1"]
    assert clip_names(clips[:1]) == ["1.wav"]


@pytest.mark.parametrize(
    ("names", "wrong"),
    [([], ""), (["a_0.mp3", "a_0.mp3"], "a_0.mp3"), (["a_0.mp3", "z.mp3"], "z.mp3")],
)
def test_lists_that_do_not_match_the_data(names, wrong):
    with refusal("data/de/train", f"{len(names)} lines", wrong):
        utterances_called(names, utterances({"a": 2}), "data/de/train")


def make_data(root, lang="de"):
    """Forty clips of one or two seconds by eight speakers; one is damaged, one is too long."""
    rng, made = np.random.default_rng(0), []
    (root / "clips").mkdir(parents=True, exist_ok=True)
    for k in range(40):
        wav = root / "clips" / f"common_voice_{lang}_{k}.wav"
        soundfile.write(wav, tone(16000, float(rng.integers(1, 3))), 16000)
        made.append(Utterance(f"s{k % 8}-{lang}-{k}", str(wav), f"s{k % 8}", lang, "Satz"))
    (root / "clips" / f"common_voice_{lang}_7.wav").write_bytes(b"damaged")
    soundfile.write(root / "clips" / f"common_voice_{lang}_9.wav", tone(16000, 40), 16000)
    for split in ("train", "dev", "test"):
        write_data_dir(root / "data" / lang / split, made)


def run(root, dump, *options):
    names = ["--data", str(root / "data"), "--dump", str(root / dump), "--langs", "de"]
    return format_audio.main([*names, "--nj", "1", *options])


def test_a_smaller_subset_lies_inside_a_larger_one(tmp_path, capsys):
    make_data(tmp_path)
    chosen, reports = {}, {}
    for seconds in (9, 20, 35):
        hours = str(seconds / 3600)
        assert run(tmp_path, f"dump{seconds}", "--train_hours", hours) == 0
        train = read_data_dir(tmp_path / f"dump{seconds}/de/train")
        total = sum(utt.duration for utt in train)
        assert seconds <= total < seconds + 2
        chosen[seconds] = {utt.id for utt in train}
        reports[seconds] = read_json(tmp_path / f"dump{seconds}/de/train/report.json")
        names = (tmp_path / f"dump{seconds}/subset/de_train.txt").read_text().splitlines()
        assert len(names) == len(train) and names == sorted(names)
        audio = list((tmp_path / f"dump{seconds}/de/train/audio").glob("*/*.flac"))
        assert len(audio) == len(train)
        # dev and test keep every clip that decodes.
        assert len(read_data_dir(tmp_path / f"dump{seconds}/de/dev")) == 39
    assert chosen[9] < chosen[20] < chosen[35]
    assert len({utt.split("-")[0] for utt in chosen[9]}) >= 5
    row = reports[20]
    assert row["source_clips"] == 40 == row["clips"] + sum(row["dropped"].values())
    assert row["dropped"]["not_in_subset"] > 10
    assert "not_in_subset" in capsys.readouterr().out


def test_a_list_that_is_given_back_gives_the_same_subset(tmp_path):
    make_data(tmp_path)
    assert run(tmp_path, "first", "--train_hours", str(20 / 3600)) == 0
    assert run(tmp_path, "second", "--train_subset", str(tmp_path / "first/subset")) == 0
    for file in ("text", "utt2dur", "utt2spk"):
        first, second = (tmp_path / f"{d}/de/train/{file}" for d in ("first", "second"))
        assert first.read_text() == second.read_text()


def test_a_low_resource_language(tmp_path, capsys):
    """One language has little data, the other one has all of its data."""
    for lang in ("de", "es"):
        make_data(tmp_path, lang)
    both = ["--langs", "de", "es"]
    assert run(tmp_path, "dump", *both, "--train_hours", f"es={9 / 3600}") == 0
    clips = {lang: len(read_data_dir(tmp_path / f"dump/{lang}/train")) for lang in ("de", "es")}
    assert clips["de"] == 38 and 5 <= clips["es"] < 12
    again = ["--train_subset", str(tmp_path / "dump/subset")]
    assert run(tmp_path, "again", *both, *again) == 0
    for lang, number in clips.items():
        assert len(read_data_dir(tmp_path / f"again/{lang}/train")) == number
    assert run(tmp_path, "other", *both, "--train_hours", "5", "fr=1") == 2
    assert "fr" in capsys.readouterr().err
    hours = hours_of(["5", "es=0.5"], ["de", "es", "fr"])
    assert hours == {"de": 5, "es": 0.5, "fr": 5}
    assert hours_of(["es=0.5"], ["de", "es"]) == {"es": 0.5} and hours_of([], ["de"]) == {}


def test_less_speech_than_asked_for_is_all_taken_with_a_warning(tmp_path, capsys):
    make_data(tmp_path)
    assert run(tmp_path, "dump", "--train_hours", "5") == 0
    assert len(read_data_dir(tmp_path / "dump/de/train")) == 38
    warning = capsys.readouterr().err
    assert str(tmp_path / "dump/de/train") in warning and "5 hours" in warning


def test_a_rerun_leaves_everything_alone(tmp_path):
    make_data(tmp_path)
    times = []
    for _ in range(2):
        assert run(tmp_path, "dump", "--train_hours", str(9 / 3600)) == 0
        files = sorted(path for path in (tmp_path / "dump").rglob("*") if path.is_file())
        times.append({path: path.stat().st_mtime_ns for path in files})
    assert times[0] == times[1]
    assert tmp_path / "dump/subset/de_train.txt" in times[0]


def test_another_number_of_hours_is_refused_in_the_same_place(tmp_path, capsys):
    make_data(tmp_path)
    assert run(tmp_path, "dump", "--train_hours", str(9 / 3600)) == 0
    assert run(tmp_path, "dump", "--train_hours", str(20 / 3600)) == 1
    assert "hours: " in capsys.readouterr().err
    assert run(tmp_path, "other", "--train_hours", "0") == 2
    assert run(tmp_path, "other", "--train_subset", str(tmp_path / "none")) == 1
    assert "de_train.txt" in capsys.readouterr().err


def test_the_report_of_a_language(tmp_path, capsys):
    make_data(tmp_path)
    stage1 = {"splits": {"train": {"dropped": {"empty_text": 3}, "kept_empty": []}}}
    (tmp_path / "data/de/report.json").write_text(str(stage1).replace("'", '"'))
    assert run(tmp_path, "dump") == 0
    report = read_json(tmp_path / "dump/de/report.json")
    train = report["splits"]["train"]
    assert train["dropped"] == {"empty_text": 3, "too_long": 1, "undecodable": 1}
    assert train["clips"] == 38 and train["speakers"] == 8 and train["hours"] > 0.01
    assert report["overlap_with_train"]["test"] == {
        "sentences": 1, "of_sentences": 1, "speakers": 8, "of_speakers": 8,
    }  # fmt: skip
    assert "test shares with train: 1 of 1 sentences, 8 of 8 speakers" in capsys.readouterr().out
