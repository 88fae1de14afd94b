"""A clip to convert to FLAC, and the result: plain data that goes to worker processes and back."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from lors.data.audio_source import ark_place
from lors.data.pieces import Piece
from lors.fileio import path_component

SAMPLE_RATE = 16_000  # Hz; the rate of Whisper, OWSM and the recipes' own models


@dataclass(frozen=True)
class ClipConversion:
    """A clip to convert.

    Attributes:
        id: the utterance id.
        source: path of the sound file, or ``<ark file>:<offset>``.
        target: path of the FLAC file to write.
        min_dur: shortest length to keep, in seconds.
        max_dur: longest length to keep, in seconds.
        piece: the part of the sound file; None for all of it.
        declared: length in seconds by the corpus; None if it does not say.
    """

    id: str
    source: str
    target: Path
    min_dur: float
    max_dur: float
    piece: Piece | None = None
    declared: float | None = None

    @property
    def origin(self) -> str:
        """The place of a clip in a longer file; empty for a file of its own."""
        place = ark_place(self.source)
        if place is None and self.piece is None:
            return ""
        return f"{Path(self.source).name} {self.piece or ''}".rstrip()


@dataclass(frozen=True)
class ConvertedClip:
    """The result of a conversion.

    Attributes:
        id: the utterance id.
        duration: length in seconds; 0 for a clip that is dropped.
        reason: why the clip is dropped, in one word; empty for a clip that is kept.
        detail: the reason in more words.
        reused: whether the FLAC file is from an earlier run.
    """

    id: str
    duration: float = 0.0
    reason: str = ""
    detail: str = ""
    reused: bool = False


def flac_path(target: Path, utterance_id: str) -> Path:
    """Return the path of an utterance's FLAC file, in one of 256 folders by a hash of its id.

    Raises:
        LorsError: the id cannot be a file name.
    """
    path_component(utterance_id, "an utterance id")
    shard = hashlib.sha256(utterance_id.encode()).hexdigest()[:2]
    return target.resolve() / "audio" / shard / f"{utterance_id}.flac"
