"""Stage 2 from the command line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from cv_corpus import tone, write_mp3

from lors.bin import format_audio
from lors.data.datadir import Utterance, read_data_dir, write_data_dir


def make_data(root, lang, split, durations):
    utterances = []
    for number, seconds in enumerate(durations):
        key = f"s-{lang}-{split}-{number:03}"
        wav = write_mp3(root / "clips" / f"{key}.mp3", tone(16000, seconds), 16000)
        utterances.append(Utterance(key, str(wav), "s", lang, "Satz", {"en": "sentence"}))
    write_data_dir(root / "data" / lang / split, utterances)


def arguments(root, *extra):
    return ["--data", str(root / "data"), "--dump", str(root / "dump"), "--nj", "2", *extra]


def test_limits_hold_for_train_only(tmp_path, capsys):
    for lang in ("de", "sv-SE"):
        for split in ("train", "dev"):
            make_data(tmp_path, lang, split, [0.05, 0.5, 2.0])
    args = arguments(tmp_path, "--langs", "de", "sv-SE", "--splits", "train", "dev")
    assert format_audio.main([*args, "--max_dur", "1"]) == 0
    table = capsys.readouterr().out
    for lang in ("de", "sv-SE"):
        assert len(read_data_dir(tmp_path / "dump" / lang / "train")) == 1
        assert len(read_data_dir(tmp_path / "dump" / lang / "dev")) == 3
    assert table.count("1 too_long, 1 too_short") == 2


def test_keep_all_keeps_long_training_clips_too(tmp_path):
    make_data(tmp_path, "de", "train", [0.05, 31.0])
    args = arguments(tmp_path, "--langs", "de", "--splits", "train", "--keep_all")
    assert format_audio.main(args) == 0
    assert len(read_data_dir(tmp_path / "dump/de/train")) == 2


def test_missing_data_directories_are_named_at_once(tmp_path, capsys):
    make_data(tmp_path, "de", "train", [0.5])
    assert format_audio.main(arguments(tmp_path, "--langs", "de", "fr")) == 1
    error = capsys.readouterr().err
    missing = ("de/dev", "de/test", "fr/train", "fr/dev", "fr/test")
    assert all(str(tmp_path / "data" / name) in error for name in missing)
    assert not (tmp_path / "dump").exists()


def test_translation_needs_translations(tmp_path, capsys):
    """They are asked for before any sound is read, and of the languages that are translated."""
    for lang in ("de", "en", "fr"):
        for split in ("train", "dev"):
            make_data(tmp_path, lang, split, [0.5])
    untranslated = [("de", "dev"), ("en", "train"), ("fr", "train")]
    for lang, split in untranslated:
        (tmp_path / "data" / lang / split / "text.en").unlink()
    args = arguments(tmp_path, "--langs", "de", "en", "fr", "--splits", "train", "dev")
    assert format_audio.main([*args, "--tasks", "asr", "st"]) == 1
    error = capsys.readouterr().err
    files = [str(tmp_path / "data" / name) for name in ("de/dev/text.en", "fr/train/text.en")]
    assert all(fact in error for fact in (*files, "--tasks asr", "`translation`"))
    assert "en/train" not in error and not (tmp_path / "dump").exists()
    assert format_audio.main([*args, "--tasks", "asr"]) == 0
    assert format_audio.main([*args[:4], "--langs", "en", "--tasks", "st", "--splits", "dev"]) == 0


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_and_run_again_gives_the_same_result(tmp_path, stop):
    wav = write_mp3(tmp_path / "x.mp3", tone(48000, 10.0), 48000)
    utterances = [Utterance(f"s-{k:03}", str(wav), "s", "de", "Satz") for k in range(120)]
    write_data_dir(tmp_path / "data/de/train", utterances)
    command = [sys.executable, "-m", "lors.bin.format_audio"]
    command += [*arguments(tmp_path, "--langs", "de", "--splits", "train")]
    audio = tmp_path / "dump/de/train/audio"
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 120
    while not list(audio.glob("*/*.flac")) and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(process.pid, stop)  # as Ctrl-C in a terminal: to the program and its workers
    error = process.communicate(timeout=120)[1]
    first = {path: path.stat().st_ino for path in audio.glob("*/*.flac")}
    assert process.returncode == (130 if stop == signal.SIGINT else 143), error
    assert "Traceback" not in error
    assert 0 < len(first) < 120 and not (tmp_path / "dump/de/train/wav.scp").exists()
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert all(fact in result.stderr for fact in ("120 clips", "0.33 hours", f"({len(first)} of"))
    assert all(path.stat().st_ino == inode for path, inode in first.items())
    assert {utt.duration for utt in read_data_dir(tmp_path / "dump/de/train")} == {10.0}
    assert not list(audio.rglob("*.tmp"))
