"""A clip to convert to FLAC, and the result: plain data that goes to worker processes and back."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from lors.errors import LorsError

SAMPLE_RATE = 16_000  # Hz; the rate of Whisper, OWSM and the recipes' own models


@dataclass(frozen=True)
class ClipConversion:
    """A clip to convert.

    Attributes:
        id: the utterance id.
        source: path of the sound file.
        target: path of the FLAC file to write.
        min_dur: shortest length to keep, in seconds.
        max_dur: longest length to keep, in seconds.
    """

    id: str
    source: str
    target: Path
    min_dur: float
    max_dur: float


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
    if "/" in utterance_id or "\0" in utterance_id:
        raise LorsError("an utterance id that cannot be a file name", got=repr(utterance_id))
    shard = hashlib.sha256(utterance_id.encode()).hexdigest()[:2]
    return target.resolve() / "audio" / shard / f"{utterance_id}.flac"
