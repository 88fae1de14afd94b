"""Any clip becomes 16 kHz mono FLAC or is counted and listed; interrupted work is taken up."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import soundfile
from cv_corpus import tone, write_mp3

from lors.data import clips as audio
from lors.data.clips import decode, encode_flac, flac_path, format_data_dir, worker_pool
from lors.data.datadir import Utterance, read_data_dir, validate_data_dir, write_data_dir
from lors.errors import LorsError, UsageError


@pytest.fixture
def pool():
    with worker_pool(1) as workers:
        yield workers


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


@pytest.mark.parametrize("rate", [16000, 22050, 32000, 44100, 48000])
@pytest.mark.parametrize("channels", [1, 2])
def test_every_rate_and_channel_count_becomes_16_khz_mono(tmp_path, rate, channels):
    path = write_mp3(tmp_path / "x.mp3", tone(rate, 2.0, channels=channels), rate)
    samples = decode(path)
    assert samples.shape == (32000,) and samples.dtype == np.float32
    assert correlation(samples, tone(16000, 2.0)) > 0.999
    assert np.abs(samples[2000:-2000]).max() == pytest.approx(0.5, abs=0.02)


def test_channels_are_averaged_not_chosen(tmp_path):
    left = tone(48000, 1.0, channels=2)
    left[:, 1] = 0
    soundfile.write(tmp_path / "x.wav", left, 48000)
    samples = decode(tmp_path / "x.wav")
    assert np.abs(samples[2000:-2000]).max() == pytest.approx(0.25, abs=0.01)


def test_frequencies_above_8_khz_do_not_alias(tmp_path):
    soundfile.write(tmp_path / "x.wav", tone(48000, 1.0, hertz=11000), 48000)
    assert np.abs(decode(tmp_path / "x.wav")[1000:-1000]).max() < 1e-3


@pytest.mark.parametrize(
    "content", [b"", b"<html>403 Forbidden</html>" * 100, np.random.default_rng(0).bytes(20000)]
)
def test_what_is_no_audio_is_refused(tmp_path, content):
    (tmp_path / "x.mp3").write_bytes(content)
    with pytest.raises(LorsError, match="not a known sound format"):
        decode(tmp_path / "x.mp3")


def test_what_is_no_file_is_refused(tmp_path):
    for path in (tmp_path / "nothing.mp3", tmp_path):
        with pytest.raises(LorsError, match="no such file"):
            decode(path)


def test_damage_inside_a_clip_is_told(tmp_path):
    path = write_mp3(tmp_path / "x.mp3", tone(48000, 3.0), 48000)
    content = path.read_bytes()
    noise = np.random.default_rng(0).bytes(3000)
    path.write_bytes(content[:5000] + noise + content[8000:])
    with pytest.raises(LorsError, match="cannot be decoded") as error:
        decode(path)
    assert "not a known sound format" not in str(error.value)


def test_audio_without_samples_is_refused(tmp_path):
    soundfile.write(tmp_path / "x.wav", np.zeros(0), 16000)
    with pytest.raises(LorsError, match="no sample"):
        decode(tmp_path / "x.wav")


def test_flac_is_exact_to_16_bit_and_clips_what_is_too_loud(tmp_path):
    samples = np.array([0.0, 0.25, -0.25, 1.5, -1.5, 3e-5], dtype=np.float32)
    (tmp_path / "x.flac").write_bytes(encode_flac(samples))
    info = soundfile.info(tmp_path / "x.flac")
    assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16")
    assert soundfile.read(tmp_path / "x.flac", dtype="int16")[0].tolist() == [
        0, 8192, -8192, 32767, -32768, 1,
    ]  # fmt: skip


def test_a_formatted_directory_is_the_same_data_with_flac_and_durations(tmp_path, pool):
    clips = mp3s(tmp_path, 3) | {"stereo": tmp_path / "stereo.mp3"}
    write_mp3(clips["stereo"], tone(48000, 1.25, channels=2), 48000)
    source, target = data_dir(tmp_path / "data/de/dev", clips), tmp_path / "dump/de/dev"
    report = format_data_dir(source, target, pool)
    assert validate_data_dir(target, check_audio=True) == []
    for before, after in zip(read_data_dir(source), read_data_dir(target), strict=True):
        samples, rate = soundfile.read(after.wav)
        assert rate == 16000 and samples.ndim == 1
        assert after.duration == pytest.approx(len(samples) / 16000)
        assert correlation(samples, decode(before.wav)) > 0.9999
        assert (after.id, after.text, after.translations, after.lang, after.speaker) == (
            before.id, before.text, before.translations, before.lang, before.speaker,
        )  # fmt: skip
    assert report["clips"] == 4 and report["dropped"] == {} and report["speakers"] == 1
    assert report["hours"] == pytest.approx((3 * 0.5 + 1.25) / 3600, abs=1e-4)


def test_clips_that_do_not_decode_are_counted_and_listed(tmp_path, pool):
    clips = mp3s(tmp_path, 18) | {"junk": tmp_path / "junk.mp3", "gone": tmp_path / "gone.mp3"}
    clips["junk"].write_bytes(b"no mp3 at all" * 50)
    target = tmp_path / "dump"
    report = format_data_dir(data_dir(tmp_path / "data", clips), target, pool)
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


def test_too_many_failures_are_refused_but_listed(tmp_path, pool):
    clips = mp3s(tmp_path, 3) | {"junk": tmp_path / "junk.mp3"}
    clips["junk"].write_bytes(b"no mp3 at all" * 50)
    source, target = data_dir(tmp_path / "data", clips), tmp_path / "dump"
    with pytest.raises(LorsError, match="1 of 4 clips cannot be decoded"):
        format_data_dir(source, target, pool)
    assert "s-junk" in (target / "dropped.tsv").read_text()
    assert not (target / "wav.scp").exists() and not (target / ".done").exists()
    assert format_data_dir(source, target, pool, max_bad_audio=0.25)["clips"] == 3


def test_duration_limits(tmp_path, pool):
    clips = {
        str(seconds): write_mp3(tmp_path / f"{seconds}.mp3", tone(16000, seconds), 16000)
        for seconds in (0.05, 0.1, 1, 2, 3)
    }
    source = data_dir(tmp_path / "data", clips)
    report = format_data_dir(source, tmp_path / "dump", pool, min_dur=0.1, max_dur=2)
    assert [utt.id for utt in read_data_dir(tmp_path / "dump")] == ["s-0.1", "s-1", "s-2"]
    assert report["dropped"] == {"too_long": 1, "too_short": 1}
    assert "s-3\ttoo_long\t3.000 s" in (tmp_path / "dump/dropped.tsv").read_text()
    assert len(list((tmp_path / "dump/audio").glob("*/*.flac"))) == 3
    assert format_data_dir(source, tmp_path / "all", pool)["clips"] == 5
    with pytest.raises(LorsError, match="no clip is left"):
        format_data_dir(source, tmp_path / "none", pool, min_dur=10)


def test_a_finished_directory_is_not_made_again(tmp_path, pool, monkeypatch):
    source, target = data_dir(tmp_path / "data", mp3s(tmp_path, 2)), tmp_path / "dump"
    report = format_data_dir(source, target, pool)
    monkeypatch.setattr(audio, "convert_clip", None)  # any further work would fail
    assert format_data_dir(source, target, pool) == report


@pytest.mark.parametrize("change", ["limit", "text", "audio"])
def test_a_directory_made_from_something_else_is_refused(tmp_path, pool, change):
    clips = mp3s(tmp_path, 2)
    source, target = data_dir(tmp_path / "data", clips), tmp_path / "dump"
    format_data_dir(source, target, pool)
    if change == "text":
        (source / "text").write_text("s-00 other\ns-01 words\n")
    elif change == "audio":
        write_mp3(clips["00"], tone(32000, 0.7), 32000)
    expected = {"limit": "max_dur", "text": "text: ", "audio": "audio files"}[change]
    with pytest.raises(LorsError, match="made with other settings") as error:
        format_data_dir(source, target, pool, max_dur=9 if change == "limit" else float("inf"))
    assert expected in str(error.value)


def test_good_files_of_an_interrupted_run_are_used_again(tmp_path, pool):
    clips = mp3s(tmp_path, 6)
    source, target = data_dir(tmp_path / "data", clips), tmp_path / "dump"
    format_data_dir(source, target, pool)
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
    format_data_dir(source, target, pool)
    assert {utt.id: soundfile.read(utt.wav)[0].tolist() for utt in read_data_dir(target)} == {
        key: samples.tolist() for key, samples in wanted.items()
    }
    remade = {path for path, inode in inodes.items() if path.stat().st_ino != inode}
    assert remade == {truncated, older, other_rate}


def test_a_file_that_cannot_be_written_is_no_fault_of_the_clip(tmp_path, pool):
    source = data_dir(tmp_path / "data", mp3s(tmp_path, 1))
    (tmp_path / "dump").mkdir()
    (tmp_path / "dump/audio").write_text("a file where a folder should be")
    with pytest.raises(OSError, match="audio"):
        format_data_dir(source, tmp_path / "dump", pool)
    assert not (tmp_path / "dump/.done").exists()


def kill_worker(task):
    os._exit(9)


def test_a_worker_that_dies_is_told(tmp_path, pool, monkeypatch):
    source = data_dir(tmp_path / "data", mp3s(tmp_path, 1))
    monkeypatch.setattr(audio, "convert_clip", kill_worker)
    with pytest.raises(LorsError, match="a worker process died"):
        format_data_dir(source, tmp_path / "dump", pool)


def test_worker_count_and_ids_are_checked(tmp_path):
    with pytest.raises(UsageError, match="at least one worker"), worker_pool(0):
        pass
    with pytest.raises(LorsError, match="cannot be a file name"):
        flac_path(tmp_path, "a/../../b")
