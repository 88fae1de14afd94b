"""Checks of a data directory against its audio: files that are missing, lengths that differ."""

from __future__ import annotations

from collections.abc import Mapping

from lors.data.audio_source import file_of, is_command, is_file
from lors.data.datadir_problems import Lines, some_ids
from lors.data.pieces import SEGMENTS, Piece, agree


def missing_audio(files: Mapping[str, Lines]) -> list[str]:
    """Return a sentence with the audio files that are not there; an empty list if all are."""
    gone = [
        key
        for key, source in files.get("wav.scp", [])
        if source and not is_command(source) and not is_file(file_of(source))
    ]
    return [f"wav.scp: {len(gone)} audio file(s) are not there {some_ids(gone)}"] if gone else []


def wrong_lengths(files: Mapping[str, Lines]) -> list[str]:
    """Compare ``segments`` and ``utt2dur`` of a valid directory with the lengths of the audio.

    Audio whose header cannot be read is not compared; stage 2 counts it.
    """
    if SEGMENTS not in files and "utt2dur" not in files:
        return []
    from lors.data.sound import lengths_of  # the audio libraries take long to import

    sources = dict(files["wav.scp"])
    lengths = lengths_of(sources.values())
    pieces = {key: Piece.parse(value) for key, value in files.get(SEGMENTS, [])}
    if not pieces:
        pieces = {key: Piece(key) for key in sources}
    outside, wrong = [], []
    declared = dict(files.get("utt2dur", []))
    for key, piece in pieces.items():
        length = lengths.get(sources[piece.recording])
        if length is None:
            continue
        # The other checks compare utt2dur with pieces that have an end.
        own = key in declared and piece.end is None
        if not piece.is_in(length):
            outside.append(key)
        elif own and not agree(float(declared[key]), length - piece.start):
            wrong.append(key)
    problems = []
    if outside:
        problems.append(
            f"{SEGMENTS}: {len(outside)} utterance(s) lie outside of their recording "
            f"{some_ids(outside)}"
        )
    if wrong:
        problems.append(
            f"utt2dur: {len(wrong)} length(s) are not those of the audio {some_ids(wrong)}"
        )
    return problems
