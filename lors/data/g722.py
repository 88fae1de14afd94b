"""Sound in ITU-T G.722 at 64 kbit/s: files without a header, one byte for two samples at 16 kHz."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lors.errors import LorsError, pip_install

EXTENSION = ".g722"
RATE = 16_000  # Hz
_SAMPLES_A_BYTE = 2


def frames_of(path: Path) -> int:
    """Return the number of samples of a file, by its size."""
    return path.stat().st_size * _SAMPLES_A_BYTE


def decode(path: Path) -> np.ndarray:
    """Decode a file: float32, shape (samples, 1), in [-1, 1]. FFmpeg's decoder does the work.

    Raises:
        LorsError: PyAV is not installed.
        ValueError: the decoder refuses the file.
    """
    try:
        import av  # loads the libraries of FFmpeg; only this format needs it
    except ImportError:
        raise LorsError(
            "G.722 cannot be decoded: the Python package av is not installed",
            where=path,
            hint=pip_install("av"),
        ) from None
    try:
        decoder = av.CodecContext.create("g722", "r")
        frames = decoder.decode(av.Packet(path.read_bytes()))
    except av.FFmpegError as error:
        raise ValueError(str(error)) from None
    if not frames:
        return np.zeros((0, 1), np.float32)
    samples = np.concatenate([frame.to_ndarray().reshape(-1) for frame in frames])
    return (samples.astype(np.float32) / 32768)[:, None]
