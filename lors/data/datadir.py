"""Kaldi data directories: the one form in which corpora enter a recipe.

A data directory holds one line per utterance in each of its files, ``<utterance id> <value>``:

- ``wav.scp`` the audio file's path, ``utt2spk`` the speaker, ``spk2utt`` the inverse of it;
- ``text`` the transcript, ``text.<code>`` the translation into another language,
  ``utt2lang`` the language, ``utt2dur`` the length in seconds (these where known);
- ``spk2gender`` ``m`` or ``f`` for the speakers whose gender is known.

Every file is sorted by id in the C locale's order (the order of UTF-8 bytes, which is also how
Python compares strings), and an utterance id starts with its speaker's id, so that sorting by
utterance sorts by speaker too. A transcript may be empty; every other value may not.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from lors.errors import LorsError
from lors.fileio import atomic_write

REQUIRED_FILES = ("wav.scp", "utt2spk", "spk2utt")
OPTIONAL_FILES = ("text", "utt2lang", "utt2dur", "spk2gender")
GENDERS = ("m", "f")
_TRANSLATION = "text."
_SHOWN = 20  # problems spelled out in an error message; the rest are only counted

Lines = list[tuple[str, str]]


@dataclass(frozen=True)
class Utterance:
    """One utterance of a data directory.

    Attributes:
        id: the utterance id, starting with the speaker's id, free of white space.
        wav: path of the audio file.
        speaker: the speaker's id.
        lang: language code in the corpus's own spelling, e.g. ``sv-SE``.
        text: the transcript.
        translations: language code to translation, one ``text.<code>`` file each.
        duration: length in seconds.
        gender: the speaker's, ``m`` or ``f``; the same in all utterances of a speaker.
    """

    id: str
    wav: str
    speaker: str
    lang: str | None = None
    text: str | None = None
    translations: Mapping[str, str] = field(default_factory=dict)
    duration: float | None = None
    gender: str | None = None


def read_text(path: str | os.PathLike) -> dict[str, str]:
    """Read ``<id> <words>`` lines, in the file's order; a line with only an id means no words.

    Raises:
        LorsError: the file is missing, or lines are blank, not UTF-8 or repeat an id (all listed).
    """
    lines, problems = _read_lines(Path(path))
    _raise_if(problems + _repeated(lines), path)
    return dict(lines)


def read_scp(path: str | os.PathLike) -> dict[str, str]:
    """Read ``<id> <value>`` lines, in the file's order (``wav.scp``, ``utt2spk``, ``utt2lang``).

    Raises:
        LorsError: as :func:`read_text`; also for an id without a value.
    """
    lines, problems = _read_lines(Path(path))
    _raise_if(problems + _repeated(lines) + _valueless(lines), path)
    return dict(lines)


def write_text(path: str | os.PathLike, values: Mapping[str, str]) -> None:
    """Atomically write ``<id> <value>`` lines sorted by id; an empty value leaves only the id.

    Raises:
        LorsError: an id is empty or has white space in it, or a value spans several lines.
    """
    bad = [key for key, value in values.items() if key.split() != [key] or _has_line_break(value)]
    if bad:
        raise LorsError(
            "ids must be free of white space and values must fit on one line",
            where=path,
            got=_some(repr(key) for key in bad),
        )
    with atomic_write(path) as handle:
        handle.writelines(
            f"{key} {values[key]}\n" if values[key] else f"{key}\n" for key in sorted(values)
        )


def write_data_dir(path: str | os.PathLike, utterances: Iterable[Utterance]) -> None:
    """Write a data directory, each file atomically; files it no longer has are removed.

    ``text``, ``text.<code>``, ``utt2lang`` and ``utt2dur`` are written if any utterance has the
    value; then all of them must. ``spk2gender`` has the speakers whose gender is known.

    Raises:
        LorsError: the utterances make no valid data directory (every problem is listed).
    """
    path = Path(path)
    utterances = sorted(utterances, key=lambda utterance: utterance.id)
    tables = _tables_of(utterances)
    _raise_if(_table_problems(tables), path)
    for name, lines in tables.items():
        write_text(path / name, dict(lines))
    for stale in set(data_files(path)) - set(tables):
        (path / stale).unlink()


def read_data_dir(path: str | os.PathLike) -> list[Utterance]:
    """Read a valid data directory, in its (sorted) order.

    Raises:
        LorsError: the directory is not valid; every problem is listed.
    """
    tables, problems = _load(Path(path))
    _raise_if(problems or _table_problems(tables), path)
    values = {name: dict(lines) for name, lines in tables.items()}
    targets = [name for name in values if name.startswith(_TRANSLATION)]

    def optional(name: str, key: str) -> str | None:
        return values[name][key] if name in values else None

    return [
        Utterance(
            id=key,
            wav=wav,
            speaker=values["utt2spk"][key],
            lang=optional("utt2lang", key),
            text=optional("text", key),
            translations={name.removeprefix(_TRANSLATION): values[name][key] for name in targets},
            duration=float(values["utt2dur"][key]) if "utt2dur" in values else None,
            gender=values.get("spk2gender", {}).get(values["utt2spk"][key]),
        )
        for key, wav in values["wav.scp"].items()
    ]


def validate_data_dir(path: str | os.PathLike, check_audio: bool = False) -> list[str]:
    """Everything that is wrong with a data directory, one sentence each; empty if it is valid.

    Args:
        path: the directory.
        check_audio: also look whether each audio file is there (one file-system call each).
    """
    tables, problems = _load(Path(path))
    problems += _table_problems(tables)
    if check_audio:
        gone = [key for key, wav in tables.get("wav.scp", []) if wav and not Path(wav).is_file()]
        if gone:
            problems.append(f"wav.scp: {len(gone)} audio file(s) are not there ({_some(gone)})")
    return problems


def data_files(path: str | os.PathLike) -> list[str]:
    """Names of the data directory's files that are there."""
    path = Path(path)
    translations = sorted(file.name for file in path.glob(_TRANSLATION + "*"))
    names = [*REQUIRED_FILES, *OPTIONAL_FILES, *translations]
    return [name for name in names if (path / name).is_file()]


def _has_line_break(value: str) -> bool:
    return "\n" in value or "\r" in value


def _some(names: Iterable[str]) -> str:
    """The first three names and a sign that there are more."""
    names = list(names)
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _raise_if(problems: list[str], path: str | os.PathLike) -> None:
    if problems:
        shown = problems[:_SHOWN]
        if len(problems) > _SHOWN:
            shown.append(f"and {len(problems) - _SHOWN} more")
        raise LorsError(
            f"{len(problems)} problem(s) in Kaldi data", where=path, got="\n    ".join(["", *shown])
        )


def _read_lines(path: Path) -> tuple[Lines, list[str]]:
    """All readable (id, value) lines of a file, and what is wrong with the others."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise LorsError("file not found", where=path) from None
    raw_lines = content.split(b"\n")
    if raw_lines[-1] == b"":
        raw_lines.pop()
    try:  # a million lines are decoded in one go where they can be
        decoded: list[str | None] = content.decode("utf-8").split("\n")[: len(raw_lines)]
    except UnicodeDecodeError:
        decoded = [_decoded(raw) for raw in raw_lines]
    lines, problems = [], []
    for number, line in enumerate(decoded, 1):
        if line is None:
            problems.append(f"{path.name} line {number}: not UTF-8")
            continue
        parts = line.split(maxsplit=1)
        if not parts:
            problems.append(f"{path.name} line {number}: blank line")
            continue
        lines.append((parts[0], parts[1].rstrip() if len(parts) == 2 else ""))
    return lines, problems


def _decoded(raw: bytes) -> str | None:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _load(path: Path) -> tuple[dict[str, Lines], list[str]]:
    """Every file of a data directory as lines, and the problems met in reading them."""
    if not path.is_dir():
        raise LorsError("data directory not found", where=path)
    tables, problems = {}, []
    present = data_files(path)
    problems += [f"{name}: file is missing" for name in REQUIRED_FILES if name not in present]
    for name in present:
        tables[name], wrong = _read_lines(path / name)
        problems += wrong
    return tables, problems


def _tables_of(utterances: list[Utterance]) -> dict[str, Lines]:
    """The lines of every file of the data directory that holds `utterances` (already sorted)."""
    tables: dict[str, Lines] = {
        "wav.scp": [(utt.id, utt.wav) for utt in utterances],
        "utt2spk": [(utt.id, utt.speaker) for utt in utterances],
    }
    tables["spk2utt"] = _spk2utt(tables["utt2spk"])
    optional = {
        "text": [(utt.id, utt.text) for utt in utterances],
        "utt2lang": [(utt.id, utt.lang) for utt in utterances],
        "utt2dur": [
            (utt.id, None if utt.duration is None else f"{utt.duration:.4f}") for utt in utterances
        ],
    }
    for code in sorted({code for utt in utterances for code in utt.translations}):
        optional[_TRANSLATION + code] = [(utt.id, utt.translations.get(code)) for utt in utterances]
    genders = {(utt.speaker, utt.gender) for utt in utterances if utt.gender is not None}
    optional["spk2gender"] = sorted(genders)
    for name, lines in optional.items():
        known = [(key, value) for key, value in lines if value is not None]
        if known:
            tables[name] = known
    return tables


def _spk2utt(utt2spk: Lines) -> Lines:
    speakers: dict[str, list[str]] = {}
    for key, speaker in utt2spk:
        speakers.setdefault(speaker, []).append(key)
    return [(speaker, " ".join(speakers[speaker])) for speaker in sorted(speakers)]


def _repeated(lines: Lines) -> list[str]:
    if len({key for key, _ in lines}) == len(lines):
        return []
    counts = Counter(key for key, _ in lines)
    return [f"id '{key}' appears {count} times" for key, count in counts.items() if count > 1]


def _valueless(lines: Lines) -> list[str]:
    return [f"id '{key}' has no value" for key, value in lines if not value]


def _table_problems(tables: Mapping[str, Lines]) -> list[str]:
    """What is wrong with the files of a data directory, alone and against each other."""
    problems = []
    for name, lines in tables.items():
        if not lines:
            problems.append(f"{name}: empty")
        found = _repeated(lines)
        if not name.startswith("text"):
            found += _valueless(lines)
        if any("\r" in value or "\n" in value for _, value in lines):
            found.append("a value spans several lines")
        unsorted = next((pair for pair in pairwise(lines) if pair[0][0] > pair[1][0]), None)
        if unsorted:
            found.append(
                f"not sorted in C order: '{unsorted[1][0]}' comes after '{unsorted[0][0]}' "
                "(sort it with LC_ALL=C)"
            )
        problems += [f"{name}: {problem}" for problem in found]
    return (
        problems
        + _coverage_problems(tables)
        + _speaker_problems(tables)
        + _duration_problems(tables.get("utt2dur", []))
        + _gender_problems(tables)
    )


def _coverage_problems(tables: Mapping[str, Lines]) -> list[str]:
    """Each file against the utterances of utt2spk."""
    if "utt2spk" not in tables:
        return []
    problems = []
    expected = {key for key, _ in tables["utt2spk"]}
    for name, lines in tables.items():
        if name in ("utt2spk", "spk2utt", "spk2gender"):
            continue
        found = {key for key, _ in lines}
        if lacking := sorted(expected - found):
            problems.append(
                f"{name}: lacks {len(lacking)} utterance(s) of utt2spk ({_some(lacking)})"
            )
        if extra := sorted(found - expected):
            problems.append(
                f"{name}: has {len(extra)} utterance(s) that utt2spk lacks ({_some(extra)})"
            )
    return problems


def _speaker_problems(tables: Mapping[str, Lines]) -> list[str]:
    utt2spk = tables.get("utt2spk", [])
    problems = []
    strangers = [key for key, speaker in utt2spk if not key.startswith(speaker)]
    if strangers:
        problems.append(
            f"utt2spk: {len(strangers)} utterance id(s) do not start with their speaker's id "
            f"({_some(strangers)})"
        )
    if "spk2utt" in tables:
        expected = {speaker: set(keys.split()) for speaker, keys in _spk2utt(utt2spk)}
        found = {speaker: set(keys.split()) for speaker, keys in tables["spk2utt"]}
        if expected != found:
            different = [
                speaker
                for speaker in sorted(expected.keys() | found.keys())
                if expected.get(speaker) != found.get(speaker)
            ]
            problems.append(
                f"spk2utt: does not agree with utt2spk for {len(different)} speaker(s) "
                f"({_some(different)})"
            )
    return problems


def _duration_problems(utt2dur: Lines) -> list[str]:
    bad = [key for key, value in utt2dur if value and not _is_positive(value)]
    if not bad:
        return []
    return [f"utt2dur: {len(bad)} value(s) are not positive numbers ({_some(bad)})"]


def _gender_problems(tables: Mapping[str, Lines]) -> list[str]:
    lines = tables.get("spk2gender", [])
    speakers = {speaker for _, speaker in tables.get("utt2spk", [])}
    problems = []
    if bad := [speaker for speaker, gender in lines if gender and gender not in GENDERS]:
        problems.append(f"spk2gender: {len(bad)} value(s) are neither m nor f ({_some(bad)})")
    if strangers := [speaker for speaker, _ in lines if speaker not in speakers]:
        problems.append(
            f"spk2gender: {len(strangers)} speaker(s) that utt2spk lacks ({_some(strangers)})"
        )
    return problems


def _is_positive(value: str) -> bool:
    try:
        return 0 < float(value) < float("inf")
    except ValueError:
        return False
