"""Pieces of recordings (Kaldi's ``segments``), and the lengths that a corpus declares."""

from __future__ import annotations

from dataclasses import dataclass

from lors.errors import LorsError

SEGMENTS = "segments"
"""File of a data directory: ``<utterance id> <recording id> <start> <end>``, in seconds.

If it is there, ``wav.scp`` has the recordings. An end of -1 is the end of the recording.
"""
_TO_THE_END = "-1"
_TOLERANCE = 0.1  # seconds: the padding of a lossy codec, and rounding
_RELATIVE_TOLERANCE = 0.01


@dataclass(frozen=True)
class Piece:
    """A part of a recording.

    Attributes:
        recording: the recording's id.
        start: where it begins, in seconds.
        end: where it ends, in seconds; None for the end of the recording.
    """

    recording: str
    start: float = 0.0
    end: float | None = None

    @classmethod
    def parse(cls, value: str) -> Piece:
        """Return the piece of a line of ``segments``, without the utterance id.

        Raises:
            LorsError: the value is not ``<recording id> <start> <end>`` with 0 <= start < end.
        """
        try:
            recording, start, end = value.split()
            piece = cls(recording, float(start), None if float(end) == -1 else float(end))
        except ValueError:
            raise LorsError("not a segment", expected="<recording> <start> <end>") from None
        duration = piece.duration
        has_length = duration is None or 0 < duration < float("inf")
        if not (0 <= piece.start < float("inf") and has_length):
            raise LorsError("not a segment", expected="0 <= start < end, or an end of -1")
        return piece

    @property
    def duration(self) -> float | None:
        """The length in seconds; None if the piece ends with the recording."""
        return None if self.end is None else self.end - self.start

    def is_in(self, length: float) -> bool:
        """Return whether a recording of `length` seconds has this piece."""
        return self.start < length and (
            self.end is None
            or self.end <= length
            or agree(self.end - self.start, length - self.start)
        )

    def __str__(self) -> str:
        """The value of a line of ``segments``."""
        end = _TO_THE_END if self.end is None else seconds_text(self.end)
        return f"{self.recording} {seconds_text(self.start)} {end}"


def is_piece(value: str) -> bool:
    """Return whether `value` is one that :meth:`Piece.parse` accepts."""
    try:
        Piece.parse(value)
    except LorsError:
        return False
    return True


def agree(declared: float, found: float) -> bool:
    """Return whether a declared length in seconds can be that of the audio.

    They may differ by 0.1 s or 1 %.
    """
    return abs(declared - found) <= max(_TOLERANCE, _RELATIVE_TOLERANCE * found)


def seconds_text(seconds: float) -> str:
    """Return seconds with up to six decimals: ``1.5``."""
    return f"{seconds:.6f}".rstrip("0").rstrip(".")
