"""Kaldi data directories: the one form in which corpora enter a recipe.

Each file of a data directory has one line per utterance, ``<utterance id> <value>``:

- ``wav.scp``: the audio, a file or a place in an ark file (:mod:`lors.data.audio_source`);
- ``utt2spk``: speaker; ``spk2utt``: the inverse of it;
- ``segments``: the piece of a recording that an utterance is; ``wav.scp`` then has one line per
  recording (:mod:`lors.data.pieces`);
- ``text``: transcript; ``text.<code>``: translation into another language; ``utt2lang``: language;
  ``utt2dur``: length in seconds (these four, and ``segments``, only where they are known);
- ``spk2gender``: ``m`` or ``f``, for the speakers whose gender is known.

Every file is sorted by id in the order of the C locale. That is the order of UTF-8 bytes, and
Python compares strings in the same order. An utterance id starts with its speaker's id, so that
both sort alike. A transcript or translation may be empty; every other value may not.
"""

from __future__ import annotations

import os
from codecs import BOM_UTF8
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lors.data.datadir_audio import missing_audio, wrong_lengths
from lors.data.datadir_problems import (
    Lines,
    data_dir_problems,
    empty_values,
    repeated_ids,
    some_ids,
    speaker_lines,
)
from lors.data.pieces import SEGMENTS, Piece
from lors.errors import LorsError, shortened
from lors.fileio import atomic_write, write_files

REQUIRED_FILES = ("wav.scp", "utt2spk", "spk2utt")
OPTIONAL_FILES = (SEGMENTS, "text", "utt2lang", "utt2dur", "spk2gender")
TRANSLATION = "text."
"""Prefix of the name of a file, or of a manifest's column, with translations."""
_PROBLEMS_SHOWN = 20
_AT_ONCE = 30  # directories; their files are open at the same time


@dataclass(frozen=True)
class Utterance:
    """One utterance of a data directory.

    Attributes:
        id: the utterance id, starting with the speaker's id, free of white space.
        wav: path of the audio file, or ``<ark file>:<offset>``.
        speaker: the speaker's id.
        lang: language code in the corpus's own spelling, e.g. ``sv-SE``.
        text: the transcript.
        translations: language code -> translation, one ``text.<code>`` file each.
        duration: length in seconds.
        gender: the speaker's, ``m`` or ``f``; the same in all utterances of a speaker.
        piece: the part of the audio file that is the utterance; None for all of it.
    """

    id: str
    wav: str
    speaker: str
    lang: str | None = None
    text: str | None = None
    translations: Mapping[str, str] = field(default_factory=dict)
    duration: float | None = None
    gender: str | None = None
    piece: Piece | None = None


def one_line(text: str) -> str:
    """Return `text` with every run of white space (tabs, line breaks, ...) as one space."""
    return " ".join(text.split())


def read_text(path: str | os.PathLike) -> dict[str, str]:
    """Read ``<id> <words>`` lines, in the file's order; a line with only an id has no words.

    Raises:
        LorsError: the file is missing, or lines are blank, not UTF-8 or repeat an id (all listed).
    """
    lines, problems = scan_lines(Path(path))
    _raise_if(problems + repeated_ids(lines), path)
    return dict(lines)


def read_scp(path: str | os.PathLike) -> dict[str, str]:
    """Read ``<id> <value>`` lines, in the file's order (``wav.scp``, ``utt2spk``, ``utt2lang``).

    Raises:
        LorsError: as :func:`read_text`; also for an id without a value.
    """
    lines, problems = scan_lines(Path(path))
    _raise_if(problems + repeated_ids(lines) + empty_values(lines), path)
    return dict(lines)


def write_kaldi_text(path: str | os.PathLike, values: Mapping[str, str]) -> None:
    """Atomically write ``<id> <value>`` lines sorted by id; a line without value is only the id.

    Raises:
        LorsError: an id is empty or has white space in it, or a value spans several lines.
    """
    bad = [key for key, value in values.items() if key.split() != [key] or _has_line_break(value)]
    if bad:
        raise LorsError(
            "ids must be free of white space and values must fit on one line",
            where=path,
            got=shortened(map(repr, bad)),
        )
    with atomic_write(path) as handle:
        handle.writelines(
            f"{key} {values[key]}\n" if values[key] else f"{key}\n" for key in sorted(values)
        )


def write_data_dir(path: str | os.PathLike, utterances: Iterable[Utterance]) -> None:
    """Write one data directory, as :func:`write_data_dirs`."""
    write_data_dirs({Path(path): utterances})


def write_data_dirs(directories: Mapping[Path, Iterable[Utterance]]) -> None:
    """Write data directories, all or none; remove the files that they no longer have.

    ``text``, ``text.<code>``, ``utt2lang`` and ``utt2dur`` are written if any utterance has the
    value; then all utterances must have it. ``segments`` is written if any utterance is a piece of
    a recording. ``spk2gender`` holds the speakers of known gender.

    Raises:
        LorsError: the utterances make no valid data directory (every problem is listed).
    """
    made = {path: lines_of_files(utterances, path) for path, utterances in directories.items()}
    paths = list(made)
    for first in range(0, len(paths), _AT_ONCE):
        write_files(
            {
                path / name: (f"{key} {value}\n" if value else f"{key}\n" for key, value in lines)
                for path in paths[first : first + _AT_ONCE]
                for name, lines in made[path].items()
            }
        )
    for path, files in made.items():
        for stale in set(data_files(path)) - set(files):
            (path / stale).unlink()


def lines_of_files(utterances: Iterable[Utterance], where: str | os.PathLike) -> dict[str, Lines]:
    """Return the lines of every file of the data directory with these utterances.

    Raises:
        LorsError: as :func:`write_data_dirs`.
    """
    files = _lines_of(sorted(utterances, key=lambda utterance: utterance.id))
    problems = data_dir_problems(files)
    if bad := [key for lines in files.values() for key, _ in lines if key.split() != [key]]:
        problems.append(
            f"{len(bad)} id(s) are empty or have white space {some_ids(map(repr, bad))}"
        )
    _raise_if(problems, where)
    return files


def read_data_dir(path: str | os.PathLike) -> list[Utterance]:
    """Read a valid data directory; the utterances are sorted by id.

    Raises:
        LorsError: the directory is not valid; every problem is listed.
    """
    files, problems = _read_files(Path(path))
    _raise_if(problems or data_dir_problems(files), path)
    values = {name: dict(lines) for name, lines in files.items()}
    translations = [name for name in values if name.startswith(TRANSLATION)]

    def optional(name: str, key: str) -> str | None:
        return values[name][key] if name in values else None

    pieces = {key: Piece.parse(value) for key, value in values.get(SEGMENTS, {}).items()}
    return [
        Utterance(
            id=key,
            wav=values["wav.scp"][pieces[key].recording if pieces else key],
            speaker=speaker,
            lang=optional("utt2lang", key),
            text=optional("text", key),
            translations={
                name.removeprefix(TRANSLATION): values[name][key] for name in translations
            },
            duration=float(values["utt2dur"][key]) if "utt2dur" in values else None,
            gender=values.get("spk2gender", {}).get(speaker),
            piece=pieces.get(key),
        )
        for key, speaker in values["utt2spk"].items()
    ]


def validate_data_dir(path: str | os.PathLike, check_audio: bool = False) -> list[str]:
    """Return one sentence for each problem of a data directory; an empty list if it is valid.

    Args:
        path: the directory.
        check_audio: also check that each audio file is there, and that declared lengths and pieces
            are those of the audio (the header of each file is read, where there are any).
    """
    files, problems = _read_files(Path(path))
    problems += data_dir_problems(files)
    if check_audio:
        problems += missing_audio(files)
        if not problems:
            problems += wrong_lengths(files)
    return problems


def data_files(path: str | os.PathLike) -> list[str]:
    """Return the names of the files that a data directory has."""
    path = Path(path)
    translations = sorted(file.name for file in path.glob(TRANSLATION + "*"))
    names = [*REQUIRED_FILES, *OPTIONAL_FILES, *translations]
    return [name for name in names if (path / name).is_file()]


def _has_line_break(value: str) -> bool:
    return "\n" in value or "\r" in value


def _raise_if(problems: list[str], path: str | os.PathLike) -> None:
    if problems:
        raise LorsError(
            f"{len(problems)} problem(s) in Kaldi data",
            where=path,
            got=shortened(problems, _PROBLEMS_SHOWN),
            hint="utils/validate_data_dir.sh lists all problems of a data directory, and "
            "utils/fix_data_dir.sh mends order, repeated and incomplete lines",
        )


def scan_lines(path: Path) -> tuple[Lines, list[str]]:
    """Return the readable (id, value) lines of a file, and one sentence for each other line."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise LorsError("file not found", where=path, hint="is the path right?") from None
    lines, problems = [], []
    if content.startswith(BOM_UTF8):
        problems.append(
            f"{path.name} line 1: a byte order mark, which Kaldi takes for a part of the id"
        )
        content = content.removeprefix(BOM_UTF8)
    raw_lines = content.split(b"\n")
    if raw_lines[-1] == b"":
        raw_lines.pop()
    try:  # all lines at once: much faster than line by line
        decoded: Sequence[str | None] = content.decode("utf-8").split("\n")[: len(raw_lines)]
    except UnicodeDecodeError:
        decoded = [_decoded(raw) for raw in raw_lines]
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


def _read_files(path: Path) -> tuple[dict[str, Lines], list[str]]:
    """Read the lines of every file of a data directory; also return the problems in reading."""
    if not path.is_dir():
        raise LorsError(
            "data directory not found", where=path, hint="is the path right? (data/<lang>/<split>)"
        )
    present = data_files(path)
    problems = [f"{name}: file is missing" for name in REQUIRED_FILES if name not in present]
    files = {}
    for name in present:
        files[name], wrong = scan_lines(path / name)
        problems += wrong
    return files, problems


def _lines_of(utterances: list[Utterance]) -> dict[str, Lines]:
    """Return the lines of every file of the data directory with these (sorted) utterances."""
    files: dict[str, Lines] = {
        "wav.scp": [(utt.id, utt.wav) for utt in utterances],
        "utt2spk": [(utt.id, utt.speaker) for utt in utterances],
    }
    if any(utt.piece for utt in utterances):
        pieces = [utt.piece or Piece(utt.id) for utt in utterances]
        recordings = zip(pieces, utterances, strict=True)
        files["wav.scp"] = sorted({(piece.recording, utt.wav) for piece, utt in recordings})
        files[SEGMENTS] = [
            (utt.id, str(piece)) for utt, piece in zip(utterances, pieces, strict=True)
        ]
    files["spk2utt"] = speaker_lines(files["utt2spk"])
    optional = {
        "text": [(utt.id, utt.text) for utt in utterances],
        "utt2lang": [(utt.id, utt.lang) for utt in utterances],
        "utt2dur": [
            (utt.id, None if utt.duration is None else f"{utt.duration:.4f}") for utt in utterances
        ],
    }
    for code in sorted({code for utt in utterances for code in utt.translations}):
        optional[TRANSLATION + code] = [(utt.id, utt.translations.get(code)) for utt in utterances]
    genders = {(utt.speaker, utt.gender) for utt in utterances if utt.gender is not None}
    optional["spk2gender"] = sorted(genders)
    for name, lines in optional.items():
        known = [(key, value) for key, value in lines if value is not None]
        if known:
            files[name] = known
    return files
