"""Stage 2 on data directories: every clip becomes FLAC, or is counted and listed with a reason."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from cv_corpus import tone, write_mp3

from lors.data import conversion
from lors.data.clips import flac_path
from lors.data.datadir import Utterance, read_data_dir, validate_data_dir, write_data_dir
from lors.data.formatting import FormatOptions, format_corpus, format_data_dir
from lors.data.sound import read_clip
from lors.errors import UsageError
from tests.refusal import refusal


def data_dir(path, clips):
    """A data directory with one utterance a clip; `clips` maps a name to its file."""
    utterances = [
        Utterance(f"s-{name}", str(wav), "s", "de", "Satz", {"en": "sentence"})
        for name, wav in clips.items()
    ]
    write_data_dir(path, utterances)
    return path


def mp3s(folder, number, seconds=0.5):
    return {
        f"{k:02}": write_mp3(folder / f"{k:02}.mp3", tone(32000, seconds, 300 + 20 * k), 32000)
        for k in range(number)
    }


def correlation(a, b):
    n = min(len(a), len(b))
    return np.corrcoef(a[:n], b[:n])[0, 1]


def test_a_formatted_directory_is_the_same_data_with_flac_and_durations(tmp_path):
    clips = mp3s(tmp_path, 3) | {"stereo": tmp_path / "stereo.mp3"}
    write_mp3(clips["stereo"], tone(48000, 1.25, channels=2), 48000)
    source, target = data_dir(tmp_path / "data/de/dev", clips), tmp_path / "dump/de/dev"
    report = format_data_dir(source, target)
    assert validate_data_dir(target, check_audio=True) == []
    for before, after in zip(read_data_dir(source), read_data_dir(target), strict=True):
        samples, rate = soundfile.read(after.wav)
        assert rate == 16000 and samples.ndim == 1
        assert after.duration == pytest.approx(len(samples) / 16000)
        assert correlation(samples, read_clip(before.wav)) > 0.9999
        assert (after.id, after.text, after.translations, after.lang, after.speaker) == (
            before.id, before.text, before.translations, before.lang, before.speaker,
        )  # fmt: skip
    assert report["clips"] == 4 and report["dropped"] == {} and report["speakers"] == 1
    assert report["hours"] == pytest.approx((3 * 0.5 + 1.25) / 3600, abs=1e-4)


def test_clips_that_do_not_decode_are_counted_and_listed(tmp_path):
    clips = mp3s(tmp_path, 18) | {"junk": tmp_path / "junk.mp3", "gone": tmp_path / "gone.mp3"}
    clips["junk"].write_bytes(b"no mp3 at all" * 50)
    target = tmp_path / "dump"
    report = format_data_dir(data_dir(tmp_path / "data", clips), target)
    assert report["dropped"] == {"undecodable": 2} and report["source_clips"] == 20
    lines = [line.split("\t") for line in (target / "dropped.tsv").read_text().splitlines()]
    assert lines[0] == ["utterance", "reason", "detail"]
    assert [line[:2] for line in lines[1:]] == [
        ["s-gone", "undecodable"],
        ["s-junk", "undecodable"],
    ]
    assert all(line[2] for line in lines)
    assert len(read_data_dir(target)) == 18
    assert json.loads((target / "report.json").read_text()) == report


def test_too_many_failures_are_refused_but_listed(tmp_path):
    clips = mp3s(tmp_path, 3) | {"junk": tmp_path / "junk.mp3"}
    clips["junk"].write_bytes(b"no mp3 at all" * 50)
    source, target = data_dir(tmp_path / "data", clips), tmp_path / "dump"
    with refusal("1 of 4", "10%", target / "dropped.tsv"):
        format_data_dir(source, target)
    assert "s-junk" in (target / "dropped.tsv").read_text()
    assert not (target / "wav.scp").exists() and not (target / ".done").exists()
    assert format_data_dir(source, target, FormatOptions(max_bad_audio=0.25))["clips"] == 3


def test_duration_limits(tmp_path):
    clips = {
        str(seconds): write_mp3(tmp_path / f"{seconds}.mp3", tone(16000, seconds), 16000)
        for seconds in (0.05, 0.1, 1, 2, 3)
    }
    source = data_dir(tmp_path / "data", clips)
    report = format_data_dir(source, tmp_path / "dump", FormatOptions(min_dur=0.1, max_dur=2))
    assert [utt.id for utt in read_data_dir(tmp_path / "dump")] == ["s-0.1", "s-1", "s-2"]
    assert report["dropped"] == {"too_long": 1, "too_short": 1}
    assert "s-3\ttoo_long\t3.000 s" in (tmp_path / "dump/dropped.tsv").read_text()
    assert len(list((tmp_path / "dump/audio").glob("*/*.flac"))) == 3
    assert format_data_dir(source, tmp_path / "all")["clips"] == 5
    with refusal(tmp_path / "none/dropped.tsv", "'too_short': 5"):
        format_data_dir(source, tmp_path / "none", FormatOptions(min_dur=10))


def test_a_finished_directory_is_not_made_again(tmp_path, monkeypatch):
    source, target = data_dir(tmp_path / "data", mp3s(tmp_path, 2)), tmp_path / "dump"
    report = format_data_dir(source, target)
    monkeypatch.setattr(conversion, "convert_clip", None)  # any further work would fail
    assert format_data_dir(source, target) == report


@pytest.mark.parametrize("change", ["limit", "text", "audio"])
def test_a_directory_made_from_something_else_is_refused(tmp_path, change):
    clips = mp3s(tmp_path, 2)
    source, target = data_dir(tmp_path / "data", clips), tmp_path / "dump"
    format_data_dir(source, target)
    if change == "text":
        (source / "text").write_text("s-00 other\ns-01 words\n")
    elif change == "audio":
        write_mp3(clips["00"], tone(32000, 0.7), 32000)
    changed = {"limit": "max_dur", "text": "text: ", "audio": "audio files"}[change]
    options = FormatOptions(max_dur=9) if change == "limit" else FormatOptions()
    with refusal(target, changed):
        format_data_dir(source, target, options)


def test_good_files_of_an_interrupted_run_are_used_again(tmp_path):
    clips = mp3s(tmp_path, 6)
    source, target = data_dir(tmp_path / "data", clips), tmp_path / "dump"
    format_data_dir(source, target)
    wanted = {utt.id: soundfile.read(utt.wav)[0] for utt in read_data_dir(target)}
    (target / ".done").unlink()
    good, truncated, gone, older, other_rate = (flac_path(target, f"s-0{k}") for k in range(5))
    truncated.write_bytes(truncated.read_bytes()[:-200])
    soundfile.write(other_rate, tone(8000, 0.5), 8000, format="FLAC")
    for path, clip in ((truncated, clips["01"]), (other_rate, clips["04"])):
        source_time = clip.stat().st_mtime_ns
        os.utime(path, ns=(source_time, source_time))
    gone.unlink()
    os.utime(older, ns=(0, 0))  # made from a source that is no longer there
    inodes = {path: path.stat().st_ino for path in (good, truncated, older, other_rate)}
    format_data_dir(source, target)
    assert {utt.id: soundfile.read(utt.wav)[0].tolist() for utt in read_data_dir(target)} == {
        key: samples.tolist() for key, samples in wanted.items()
    }
    remade = {path for path, inode in inodes.items() if path.stat().st_ino != inode}
    assert remade == {truncated, older, other_rate}


def test_a_file_that_cannot_be_written_is_no_fault_of_the_clip(tmp_path):
    source = data_dir(tmp_path / "data", mp3s(tmp_path, 1))
    (tmp_path / "dump").mkdir()
    (tmp_path / "dump/audio").write_text("a file where a folder should be")
    with pytest.raises(OSError, match="audio"):
        format_data_dir(source, tmp_path / "dump")
    assert not (tmp_path / "dump/.done").exists()


def kill_worker(clip):
    os._exit(9)


def test_a_worker_that_dies_is_an_error(tmp_path, monkeypatch):
    source = data_dir(tmp_path / "data", mp3s(tmp_path, 1))
    monkeypatch.setattr(conversion, "convert_clip", kill_worker)
    with refusal("--nj"):
        format_data_dir(source, tmp_path / "dump")


@pytest.mark.parametrize(
    ("options", "facts"),
    [
        (FormatOptions(nj=0), ("--nj", 0)),
        (FormatOptions(nj=10**9), ("--nj", 10**9)),
        (FormatOptions(hours=0), ("hours", 0)),
        (FormatOptions(hours=float("nan")), ("hours", "nan")),
        (FormatOptions(max_bad_audio=float("nan")), ("--max_bad_audio", "nan")),
        (FormatOptions(max_bad_audio=float("inf")), ("--max_bad_audio", "inf")),
        (FormatOptions(min_dur=float("nan")), ("--min_dur", "nan")),
        (FormatOptions(max_dur=float("nan")), ("--max_dur", "nan")),
    ],
)
def test_options_are_checked_first(tmp_path, options, facts):
    with refusal(*facts, kind=UsageError):
        format_data_dir(tmp_path / "data", tmp_path / "dump", options)


def test_an_id_that_cannot_be_a_file_name(tmp_path):
    with refusal("a/../../b"):
        flac_path(tmp_path, "a/../../b")


def test_ids_that_cannot_be_file_names_are_listed_at_once(tmp_path):
    clips = mp3s(tmp_path, 2) | {"a/b": tmp_path / "00.mp3", "x" * 300: tmp_path / "01.mp3"}
    source = data_dir(tmp_path / "data", clips)
    with refusal("2 ", "s-a/b", "xxx"):
        format_data_dir(source, tmp_path / "dump")


@pytest.mark.parametrize(
    ("langs", "splits"), [(["../de"], ["dev"]), (["de"], ["../dev"]), (["de", "de"], ["dev"])]
)
def test_languages_and_splits_that_are_no_folders(tmp_path, langs, splits):
    data_dir(tmp_path / "data/de/dev", mp3s(tmp_path, 1))
    with refusal(kind=UsageError):
        format_corpus(tmp_path / "data", tmp_path / "dump", langs, splits, FormatOptions())
    assert not (tmp_path / "dump").exists()


def test_a_pipe_in_place_of_a_clip_is_not_waited_for(tmp_path):
    clips = mp3s(tmp_path, 1) | {"pipe": tmp_path / "pipe.wav"}
    os.mkfifo(clips["pipe"])
    source = data_dir(tmp_path / "data", clips)
    report = format_data_dir(source, tmp_path / "dump", FormatOptions(max_bad_audio=1))
    assert report["dropped"] == {"undecodable": 1}


def test_a_rerun_imports_no_audio_library(tmp_path):
    data_dir(tmp_path / "data/de/train", mp3s(tmp_path, 2))
    words = ["--data", tmp_path / "data", "--dump", tmp_path / "dump", "--langs", "de"]
    words += ["--splits", "train", "--nj", "1"]
    code = (
        "import sys; from lors.bin import format_audio; format_audio.main(sys.argv[1:]);"
        "print(sorted({'numpy', 'soundfile', 'soxr', 'tqdm'} & set(sys.modules)))"
    )
    for libraries in ("['numpy', 'soundfile', 'soxr', 'tqdm']", "[]"):
        command = [sys.executable, "-c", code, *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == libraries
        assert len(read_data_dir(tmp_path / "dump/de/train")) == 2
