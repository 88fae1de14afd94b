"""Sound in G.722: length, decoding, and what cannot be decoded."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from cv_corpus import tone

from lors.data.datadir import Utterance, read_data_dir, validate_data_dir, write_data_dir
from lors.data.formatting import format_data_dir
from lors.data.pieces import Piece
from lors.data.sound import LONGEST, SoundError, read_clip, seconds_of
from lors.errors import pip_install
from tests.prompt_packages import encode_g722
from tests.refusal import refusal


@pytest.fixture
def clip(tmp_path):
    """Half a second of a tone, in G.722."""
    path = tmp_path / "tone.g722"
    path.write_bytes(encode_g722(tone(16_000, 0.5)))
    return path


def test_a_tone_survives_the_codec(clip):
    samples = read_clip(clip)
    assert samples.dtype == np.float32 and samples.shape == (8000,)
    # The codec delays the sound by 22 samples.
    expected, found = tone(16_000, 0.5)[100:-100], samples[122:-78]
    assert np.corrcoef(expected, found)[0, 1] > 0.99
    assert 0.45 < np.abs(found).max() < 0.55


def test_the_length_is_that_of_the_file(clip):
    assert seconds_of(str(clip)) == 0.5
    clip.write_bytes(b"")
    assert seconds_of(str(clip)) == 0
    with pytest.raises(SoundError, match="no samples"):
        read_clip(clip)


def test_a_piece_is_the_same_samples(clip):
    piece = read_clip(clip, Piece("tone", 0.1, 0.3))
    assert np.array_equal(piece, read_clip(clip)[1600:4800])
    with pytest.raises(SoundError) as caught:
        read_clip(clip, Piece("tone", 0.6, 0.7))
    assert caught.value.reason == "outside_recording"


def test_a_file_of_hours_is_refused_before_it_is_decoded(tmp_path):
    path = tmp_path / "long.g722"
    with path.open("wb") as file:
        file.truncate((LONGEST + 1) * 8000)  # no blocks on the disk
    with pytest.raises(SoundError) as caught:
        read_clip(path)
    assert caught.value.reason == "too_long"


def test_a_missing_decoder_is_named_with_the_command_that_installs_it(clip, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with refusal(clip, pip_install("av")):
        read_clip(clip)


def test_a_data_directory_of_g722_is_checked_and_formatted(clip, tmp_path):
    utterance = Utterance("s-1", str(clip), "s", "de", "Ton", duration=0.5)
    write_data_dir(tmp_path / "data", [utterance])
    assert validate_data_dir(tmp_path / "data", check_audio=True) == []
    report = format_data_dir(tmp_path / "data", tmp_path / "dump")
    assert report["clips"] == 1 and report["dropped"] == {}
    [formatted] = read_data_dir(tmp_path / "dump")
    assert formatted.wav.endswith(".flac") and formatted.duration == 0.5
    assert np.allclose(read_clip(formatted.wav), read_clip(clip), atol=1e-4)
