"""Pieces and declared lengths in a manifest: ``offset`` (or ``start``), ``end``, ``duration``.

With ``offset`` and ``duration``, as in the manifests of NeMo, the utterance is that part of the
sound file. Without ``offset``, ``start`` and ``end``, ``duration`` is the length of the file.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lors.data.audio_source import ark_place, is_file
from lors.data.manifest_records import ManifestRow
from lors.data.pieces import Piece, agree, seconds_text

COLUMNS = ("offset", "start", "end", "duration")
_OVERLAP = 0.1  # seconds that pieces of two splits may share: cuts are not exact

Problems = list[tuple[str, str]]
"""For each problem of a row: the reason in one word of a fixed list, and in a sentence."""


@dataclass(frozen=True)
class Span:
    """The part of a sound file that a row names, and its length.

    Attributes:
        start: where it begins, in seconds.
        end: where it ends; infinite for the end of the file.
        duration: its length in seconds; None if it is not known.
        is_piece: whether it is a part, not the whole file.
    """

    start: float = 0.0
    end: float = math.inf
    duration: float | None = None
    is_piece: bool = False

    def piece(self, audio: str) -> Piece | None:
        """Return the piece of the sound file `audio`; None for the whole file."""
        if not self.is_piece:
            return None
        end = None if self.end == math.inf else self.end
        return Piece(_recording_id(audio), self.start, end)


def lengths_of_rows(rows: Iterable[ManifestRow]) -> dict[str, float]:
    """Return the lengths of the sound files of those rows that name a piece or a length.

    Files that are not there or whose header cannot be read are left out.
    """
    files = {
        row.values["audio"]
        for row in rows
        if any(_value(row, name) for name in COLUMNS)
        # An utterance of an ark file has no header: it would be decoded. Stage 2 does that.
        and not ark_place(row.values["audio"])
        and is_file(row.values["audio"])
    }
    if not files:
        return {}
    from lors.data.sound import lengths_of  # the audio libraries take long to import

    return lengths_of(files)


def span_of(row: ManifestRow, lengths: Mapping[str, float]) -> tuple[Span, Problems]:
    """Return the part of the sound file that a row names, and what is wrong with it.

    Args:
        row: the row.
        lengths: sound file -> length in seconds, where it is known.
    """
    values, problems = {}, []
    for name in COLUMNS:
        text = _value(row, name)
        values[name] = _seconds(text) if text else None
        if text and (values[name] is None or (name in ("end", "duration") and not values[name])):
            least = "above 0" if name in ("end", "duration") else "of 0 or more"
            problems.append(
                ("bad_duration", f"{name} '{text[:40]}' is no number of seconds {least}")
            )
    if problems:
        return Span(), problems
    start, end, duration = (values[name] for name in ("offset", "end", "duration"))
    start = values["start"] if start is None else start
    length = lengths.get(row.values["audio"])
    if start is None and end is None:
        if duration and length is not None and not agree(duration, length):
            why = f"a duration of {seconds_text(duration)} s, the file has {seconds_text(length)} s"
            problems.append(("wrong_duration", why))
        return Span(duration=duration), problems
    return _part(start or 0.0, end, duration, length)


def _part(
    start: float, end: float | None, duration: float | None, length: float | None
) -> tuple[Span, Problems]:
    """Return a span with a start or an end, and what is wrong with it."""
    if end is not None and end <= start:
        return Span(), [("bad_duration", f"end {seconds_text(end)} is not after the start")]
    if end is not None and duration and not agree(duration, end - start):
        other = seconds_text(end - start)
        why = f"a duration of {seconds_text(duration)} s, but {other} s from start to end"
        return Span(), [("wrong_duration", why)]
    if end is None:
        end = start + duration if duration else math.inf
    if length is not None:
        piece = Piece("-", start, None if end == math.inf else end)
        if not piece.is_in(length):
            to = "" if end == math.inf else f" to {seconds_text(end)} s"
            why = f"from {seconds_text(start)} s{to}, in a file of {seconds_text(length)} s"
            return Span(), [("outside_recording", why)]
        if start == 0 and (end == math.inf or agree(end, length)):
            return Span(duration=min(end, length)), []  # the whole file
    known = end if end != math.inf else length
    return Span(start, end, known and known - start, is_piece=True), []


class Overlaps:
    """The parts of sound files that are in one split, to find them in another."""

    def __init__(self) -> None:
        self._taken: dict[tuple[str, str], _Intervals] = defaultdict(_Intervals)

    def other_split(self, audio: str, span: Span, split: str) -> str:
        """Return a split, not this one, that has a part of the span; else an empty string."""
        for other in ("test", "dev", "train"):
            intervals = self._taken.get((audio, other))
            if other != split and intervals and intervals.share(span.start, span.end):
                return other
        return ""

    def add(self, audio: str, span: Span, split: str) -> None:
        """Add a span of a split."""
        self._taken[audio, split].add(span.start, span.end)


class _Intervals:
    """Disjoint intervals in order."""

    def __init__(self) -> None:
        self._starts: list[float] = []
        self._ends: list[float] = []

    def share(self, start: float, end: float) -> bool:
        """Return whether an interval has more than the allowed overlap with `start` to `end`."""
        index = bisect_right(self._ends, start)
        while index < len(self._starts) and self._starts[index] < end:
            if min(end, self._ends[index]) - max(start, self._starts[index]) > _OVERLAP:
                return True
            index += 1
        return False

    def add(self, start: float, end: float) -> None:
        """Add an interval; join it with those that it meets."""
        first, last = bisect_left(self._ends, start), bisect_right(self._starts, end)
        if first < last:
            start, end = min(start, self._starts[first]), max(end, self._ends[last - 1])
        self._starts[first:last], self._ends[first:last] = [start], [end]


def _recording_id(audio: str) -> str:
    """Return an id for a sound file, different for each path."""
    stem = "".join(c if c.isalnum() else "_" for c in Path(audio).stem)[-60:]
    return f"{stem}_{hashlib.sha256(audio.encode()).hexdigest()[:12]}"


def _value(row: ManifestRow, column: str) -> str:
    return row.values.get(column, "").strip()


def _seconds(text: str) -> float | None:
    """Return a number of seconds of 0 or more; None if the text is none."""
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if 0 <= seconds < math.inf else None
