"""Checks of a Kaldi data directory: each file alone, and the files against each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import pairwise

from lors.data.audio_source import is_command
from lors.data.pieces import SEGMENTS, Piece, agree, is_piece
from lors.errors import shortened

Lines = list[tuple[str, str]]
"""The (id, value) pairs of a file, in the file's order; the value may be empty."""

GENDERS = ("m", "f")
_NOT_BY_UTTERANCE = ("spk2utt", "spk2gender")
_IDS_SHOWN = 3


def data_dir_problems(files: Mapping[str, Lines]) -> list[str]:
    """Return one sentence for each problem of a data directory; an empty list if it is valid.

    Args:
        files: file name -> its lines.
    """
    problems = [
        f"{name}: {problem}"
        for name, lines in files.items()
        for problem in _file_problems(name, lines)
    ]
    problems += _coverage_problems(files)
    problems += _audio_problems(files)
    problems += _segment_problems(files)
    problems += _speaker_problems(files)
    problems += _duration_problems(files.get("utt2dur", []))
    problems += _gender_problems(files)
    return problems


def repeated_ids(lines: Lines) -> list[str]:
    """Return one sentence for each id that has several lines."""
    if len({key for key, _ in lines}) == len(lines):
        return []
    counts = Counter(key for key, _ in lines)
    return [f"id '{key}' appears {count} times" for key, count in counts.items() if count > 1]


def empty_values(lines: Lines) -> list[str]:
    """Return one sentence for each id without a value."""
    return [f"id '{key}' has no value" for key, value in lines if not value]


def not_utf8(files: Mapping[str, Lines]) -> list[str]:
    """Return one sentence for each file with text that UTF-8 cannot encode."""
    problems = []
    for name, lines in files.items():
        if _is_utf8("".join(value for _, value in lines) + "".join(key for key, _ in lines)):
            continue  # all lines at once: much faster
        wrong = [key for key, value in lines if not _is_utf8(f"{key} {value}")]
        problems.append(
            f"{name}: {len(wrong)} line(s) with a name or text that is not UTF-8 "
            f"{some_ids(map(repr, wrong))}"
        )
    return problems


def some_ids(ids: Iterable[str]) -> str:
    """Return the first ids and the number of the others, in parentheses."""
    return f"({', '.join(shortened(ids, _IDS_SHOWN))})"


def speaker_lines(utt2spk: Lines) -> Lines:
    """Return the lines of ``spk2utt`` for those of ``utt2spk``, sorted by speaker."""
    utterances: dict[str, list[str]] = {}
    for key, speaker in utt2spk:
        utterances.setdefault(speaker, []).append(key)
    return [(speaker, " ".join(utterances[speaker])) for speaker in sorted(utterances)]


def _file_problems(name: str, lines: Lines) -> list[str]:
    problems = [] if lines else ["empty"]
    problems += repeated_ids(lines)
    if not name.startswith("text"):
        problems += empty_values(lines)
    if any("\r" in value or "\n" in value for _, value in lines):
        problems.append("a value spans several lines")
    unsorted = next((pair for pair in pairwise(lines) if pair[0][0] > pair[1][0]), None)
    if unsorted:
        problems.append(
            f"not sorted in C order: '{unsorted[1][0]}' comes after '{unsorted[0][0]}' "
            "(sort it with LC_ALL=C)"
        )
    return problems


def _coverage_problems(files: Mapping[str, Lines]) -> list[str]:
    """Compare the utterances of each file with those of ``utt2spk``."""
    if "utt2spk" not in files:
        return []
    problems = []
    expected = {key for key, _ in files["utt2spk"]}
    for name, lines in files.items():
        if name == "utt2spk" or name in _NOT_BY_UTTERANCE:
            continue
        if name == "wav.scp" and SEGMENTS in files:
            continue
        found = {key for key, _ in lines}
        if lacking := sorted(expected - found):
            problems.append(
                f"{name}: lacks {len(lacking)} utterance(s) of utt2spk {some_ids(lacking)}"
            )
        if extra := sorted(found - expected):
            problems.append(
                f"{name}: has {len(extra)} utterance(s) that utt2spk lacks {some_ids(extra)}"
            )
    return problems


def _audio_problems(files: Mapping[str, Lines]) -> list[str]:
    """Find commands, which only Kaldi runs."""
    commands = [key for key, source in files.get("wav.scp", []) if is_command(source)]
    if not commands:
        return []
    return [
        f"wav.scp: {len(commands)} value(s) are commands {some_ids(commands)}: LoRS runs none. Run "
        "each command first, write its output to a file, and name that file"
    ]


def _segment_problems(files: Mapping[str, Lines]) -> list[str]:
    """Compare ``segments`` with the recordings of ``wav.scp`` and the lengths of ``utt2dur``."""
    lines = [(key, value) for key, value in files.get(SEGMENTS, []) if value]
    if not lines:
        return []
    problems = []
    if wrong := [key for key, value in lines if not is_piece(value)]:
        problems.append(
            f"{SEGMENTS}: {len(wrong)} line(s) are not <utterance> <recording> <start> <end>, with "
            f"0 <= start < end or an end of -1 {some_ids(wrong)}"
        )
    pieces = {key: Piece.parse(value) for key, value in lines if is_piece(value)}
    recordings = {key for key, _ in files.get("wav.scp", [])}
    used = {piece.recording for piece in pieces.values()}
    if "wav.scp" in files:
        if absent := sorted(used - recordings):
            problems.append(
                f"{SEGMENTS}: {len(absent)} recording(s) that wav.scp lacks {some_ids(absent)}"
            )
        if not wrong and (unused := sorted(recordings - used)):
            problems.append(
                f"wav.scp: {len(unused)} recording(s) that {SEGMENTS} lacks {some_ids(unused)}"
            )
    declared = {key: float(value) for key, value in files.get("utt2dur", []) if _is_positive(value)}
    different = [
        key
        for key, piece in pieces.items()
        if piece.duration and key in declared and not agree(declared[key], piece.duration)
    ]
    if different:
        problems.append(
            f"utt2dur: {len(different)} length(s) that are not those of {SEGMENTS} "
            f"{some_ids(different)}"
        )
    return problems


def _speaker_problems(files: Mapping[str, Lines]) -> list[str]:
    utt2spk = files.get("utt2spk", [])
    problems = []
    if strangers := [key for key, speaker in utt2spk if not key.startswith(speaker)]:
        problems.append(
            f"utt2spk: {len(strangers)} utterance id(s) do not start with their speaker's id "
            f"{some_ids(strangers)}"
        )
    if "spk2utt" in files:
        expected = {speaker: set(keys.split()) for speaker, keys in speaker_lines(utt2spk)}
        found = {speaker: set(keys.split()) for speaker, keys in files["spk2utt"]}
        different = [
            speaker
            for speaker in sorted(expected.keys() | found.keys())
            if expected.get(speaker) != found.get(speaker)
        ]
        if different:
            problems.append(
                f"spk2utt: does not agree with utt2spk for {len(different)} speaker(s) "
                f"{some_ids(different)}"
            )
    return problems


def _duration_problems(utt2dur: Lines) -> list[str]:
    bad = [key for key, value in utt2dur if value and not _is_positive(value)]
    return [f"utt2dur: {len(bad)} value(s) are not positive numbers {some_ids(bad)}"] if bad else []


def _gender_problems(files: Mapping[str, Lines]) -> list[str]:
    lines = files.get("spk2gender", [])
    speakers = {speaker for _, speaker in files.get("utt2spk", [])}
    problems = []
    if bad := [speaker for speaker, gender in lines if gender and gender not in GENDERS]:
        problems.append(f"spk2gender: {len(bad)} value(s) are neither m nor f {some_ids(bad)}")
    if strangers := [speaker for speaker, _ in lines if speaker not in speakers]:
        problems.append(
            f"spk2gender: {len(strangers)} speaker(s) that utt2spk lacks {some_ids(strangers)}"
        )
    return problems


def _is_utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _is_positive(value: str) -> bool:
    try:
        return 0 < float(value) < float("inf")
    except ValueError:
        return False
