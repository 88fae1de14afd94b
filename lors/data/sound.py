"""Reading of sound: whole files, pieces of them, and utterances in the ark files of Kaldi."""

from __future__ import annotations

import io
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr

from lors.data import g722
from lors.data.audio_source import ark_place
from lors.data.clips import SAMPLE_RATE
from lors.data.pieces import Piece, seconds_text
from lors.errors import LorsError

LONGEST = 3600
"""Longest clip, in seconds. A small damaged or hostile file may claim, or expand to, terabytes."""
_RATES = range(1000, 1_000_001)  # Hz
_ARK_KINDS = (b"RIFF", b"fLaC", b"AUDIO")
_LARGEST_ARK_READ = 2**30  # bytes


class SoundError(LorsError):
    """A clip that cannot be read.

    Args:
        reason: why, in one word of a fixed list: ``undecodable``, ``too_long``,
            ``outside_recording``.
        source: the value of ``wav.scp``.
        got: why, in more words.
    """

    def __init__(self, reason: str, source: str, got: str):
        self.reason = reason
        super().__init__(f"a clip that cannot be used: {reason}", where=source, got=got)


def read_clip(source: str | Path, piece: Piece | None = None) -> np.ndarray:
    """Read sound as 16 kHz mono: float32, shape (samples,), nominally in [-1, 1].

    Channels are averaged; rates are converted by soxr in its high quality.

    Args:
        source: a file, or ``<ark file>:<offset>``.
        piece: the part to read; None for all.

    Raises:
        SoundError: the file cannot be decoded, has no samples or more than :data:`LONGEST`
            seconds, or does not have the piece.
    """
    source = str(source)
    place = ark_place(source)
    samples, rate = _read_ark(source, place, piece) if place else _read_file(source, piece)
    samples = samples.mean(axis=1) if samples.shape[1] > 1 else samples[:, 0]
    if rate != SAMPLE_RATE:
        samples = soxr.resample(samples, rate, SAMPLE_RATE)
    if not len(samples):
        raise SoundError("undecodable", source, "no samples")
    return samples


def seconds_of(source: str) -> float | None:
    """Return the length of a sound file by its header; None if it cannot be read."""
    place = ark_place(source)
    try:
        if place:
            samples, rate = _read_ark(source, place, None)
            return len(samples) / rate
        if not Path(source).is_file():
            return None
        if source.endswith(g722.EXTENSION):
            return g722.frames_of(Path(source)) / g722.RATE
        with soundfile.SoundFile(source) as file:
            return file.frames / file.samplerate
    except (SoundError, soundfile.SoundFileError, OSError, ValueError):
        return None


def lengths_of(sources: Iterable[str]) -> dict[str, float]:
    """Return the lengths in seconds of those sources that can be read."""
    sources = list(dict.fromkeys(sources))
    with ThreadPoolExecutor() as pool:  # the C library runs without Python's lock
        lengths = zip(sources, pool.map(seconds_of, sources, chunksize=64), strict=True)
        return {source: length for source, length in lengths if length is not None}


def _read_file(source: str, piece: Piece | None) -> tuple[np.ndarray, int]:
    """Return float32 samples, shape (samples, channels), and their rate."""
    try:
        if not Path(source).is_file():  # a pipe would wait for ever
            raise SoundError("undecodable", source, "no such file")
        if source.endswith(g722.EXTENSION):
            first, count = _range(source, g722.frames_of(Path(source)), g722.RATE, piece)
            return g722.decode(Path(source))[first : first + count], g722.RATE
        with soundfile.SoundFile(source) as file:
            first, count = _range(source, file.frames, file.samplerate, piece)
            if first:
                file.seek(first)
            return file.read(count, dtype="float32", always_2d=True), file.samplerate
    except (OSError, ValueError) as error:  # a name that is too long, or has a zero byte
        raise SoundError("undecodable", source, str(error)) from None
    except soundfile.SoundFileError as error:
        raise SoundError("undecodable", source, _cause(error)) from None


def _read_ark(source: str, place: tuple[str, int], piece: Piece | None) -> tuple[np.ndarray, int]:
    """Return float32 samples, shape (samples, channels), and their rate."""
    path, offset = place
    try:
        with Path(path).open("rb") as file:
            left = file.seek(0, io.SEEK_END) - offset
            file.seek(offset)
            header = file.read(8)
            kind = header[:5]
            # Content of another kind could be a pickle, which runs code.
            if not kind.startswith(_ARK_KINDS):
                raise SoundError("undecodable", source, "no sound at this place of the ark file")
            # The reader of WAV takes what is there; FLAC notices a missing end itself.
            if (
                kind.startswith(b"RIFF")
                and len(header) + int.from_bytes(header[4:], "little") > left
            ):
                raise SoundError("undecodable", source, "the ark file is cut short")
            if kind.startswith(b"fLaC") and left > _LARGEST_ARK_READ:
                raise SoundError("undecodable", source, "FLAC without its length in a large file")
            file.seek(offset)
            samples, rate = _kaldi_sound(file, source, kind)
    except FileNotFoundError:
        raise SoundError("undecodable", source, "no such file") from None
    except (OSError, ValueError) as error:
        raise SoundError("undecodable", source, str(error)) from None
    first, count = _range(source, len(samples), rate, piece)
    return samples[first : first + count], rate


def _kaldi_sound(file: BinaryIO, source: str, kind: bytes) -> tuple[np.ndarray, int]:
    """Read one utterance at the position of an ark file."""
    from kaldiio.matio import read_kaldi  # only dumps of Kaldi and ESPnet need it

    try:
        limit = {"frames": LONGEST * _RATES[-1]} if kind == b"AUDIO" else None
        rate, samples = read_kaldi(file, load_kwargs=limit)
        if samples.dtype == np.uint8:
            samples = (samples.astype(np.float32) - 128) / 128
        elif samples.dtype.kind == "i":
            samples = samples.astype(np.float32) / -float(np.iinfo(samples.dtype).min)
        return samples.reshape(len(samples), -1).astype(np.float32, copy=False), rate
    except Exception as error:  # whatever damaged content makes the reader raise
        cause = str(error) or type(error).__name__
        raise SoundError("undecodable", source, cause) from None


def _range(source: str, frames: int, rate: int, piece: Piece | None) -> tuple[int, int]:
    """Return the first frame to read and the number of frames."""
    if rate not in _RATES:
        raise SoundError("undecodable", source, f"a sample rate of {rate} Hz")
    length = frames / rate
    if piece is not None and not piece.is_in(length):
        raise SoundError(
            "outside_recording", source, f"{piece}, in a recording of {seconds_text(length)} s"
        )
    first = round(piece.start * rate) if piece else 0
    last = round(piece.end * rate) if piece and piece.end is not None else frames
    count = min(last, frames) - first
    if count > LONGEST * rate:
        raise SoundError("too_long", source, f"{count / rate:.3f} s, more than {LONGEST} s")
    return first, count


def _cause(error: soundfile.SoundFileError) -> str:
    """Return the cause of a decoding error; libsndfile calls unknown content a missing file."""
    message = str(error)
    return "not a known sound format" if message.startswith("Error opening") else message
