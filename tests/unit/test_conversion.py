"""Any clip becomes 16 kHz mono samples and exact FLAC."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
from cv_corpus import tone, write_mp3

from lors.data.clips import ClipConversion
from lors.data.conversion import convert_clip, encode_flac
from lors.data.sound import SoundError, read_clip
from tests.full_disk import largest_file
from tests.refusal import refusal


def correlation(a, b):
    n = min(len(a), len(b))
    return np.corrcoef(a[:n], b[:n])[0, 1]


@pytest.mark.parametrize("rate", [16000, 22050, 32000, 44100, 48000])
@pytest.mark.parametrize("channels", [1, 2])
def test_every_rate_and_channel_count_becomes_16_khz_mono(tmp_path, rate, channels):
    path = write_mp3(tmp_path / "x.mp3", tone(rate, 2.0, channels=channels), rate)
    samples = read_clip(path)
    assert samples.shape == (32000,) and samples.dtype == np.float32
    assert correlation(samples, tone(16000, 2.0)) > 0.999
    assert np.abs(samples[2000:-2000]).max() == pytest.approx(0.5, abs=0.02)


def test_channels_are_averaged_not_chosen(tmp_path):
    left = tone(48000, 1.0, channels=2)
    left[:, 1] = 0
    soundfile.write(tmp_path / "x.wav", left, 48000)
    samples = read_clip(tmp_path / "x.wav")
    assert np.abs(samples[2000:-2000]).max() == pytest.approx(0.25, abs=0.01)


def test_frequencies_above_8_khz_do_not_alias(tmp_path):
    soundfile.write(tmp_path / "x.wav", tone(48000, 1.0, hertz=11000), 48000)
    assert np.abs(read_clip(tmp_path / "x.wav")[1000:-1000]).max() < 1e-3


@pytest.mark.parametrize(
    "content", [b"", b"<html>403 Forbidden</html>" * 100, np.random.default_rng(0).bytes(20000)]
)
def test_what_is_no_audio_is_refused(tmp_path, content):
    (tmp_path / "x.mp3").write_bytes(content)
    with refusal(tmp_path / "x.mp3", kind=SoundError):
        read_clip(tmp_path / "x.mp3")


def test_what_is_no_file_is_refused(tmp_path):
    for path in (tmp_path / "nothing.mp3", tmp_path):
        with refusal(path, kind=SoundError):
            read_clip(path)


def test_damage_inside_a_clip_has_its_own_cause(tmp_path):
    path = write_mp3(tmp_path / "x.mp3", tone(48000, 3.0), 48000)
    content = path.read_bytes()
    noise = np.random.default_rng(0).bytes(3000)
    path.write_bytes(content[:5000] + noise + content[8000:])
    with refusal(path, kind=SoundError) as damaged:
        read_clip(path)
    path.write_bytes(noise)
    with refusal(path, kind=SoundError) as unknown:
        read_clip(path)
    assert damaged.value.got != unknown.value.got


def test_audio_without_samples_is_refused(tmp_path):
    soundfile.write(tmp_path / "x.wav", np.zeros(0), 16000)
    with refusal(tmp_path / "x.wav", kind=SoundError):
        read_clip(tmp_path / "x.wav")


def test_flac_is_exact_to_16_bit_and_clips_what_is_too_loud(tmp_path):
    samples = np.array([0.0, 0.25, -0.25, 1.5, -1.5, 3e-5], dtype=np.float32)
    (tmp_path / "x.flac").write_bytes(encode_flac(samples))
    info = soundfile.info(tmp_path / "x.flac")
    assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16")
    assert soundfile.read(tmp_path / "x.flac", dtype="int16")[0].tolist() == [
        0, 8192, -8192, 32767, -32768, 1,
    ]  # fmt: skip


def test_a_full_disk_is_told_with_the_file_and_leaves_nothing(tmp_path):
    soundfile.write(tmp_path / "x.wav", tone(16_000, 2.0), 16_000)
    clip = ClipConversion("x", str(tmp_path / "x.wav"), tmp_path / "out" / "x.flac", 0.0, 10.0)
    with pytest.raises(OSError) as caught, largest_file(1000):
        convert_clip(clip)
    assert caught.value.filename == str(clip.target)
    assert list(clip.target.parent.iterdir()) == []
