"""The files of a Kaldi data directory as lines of bytes, for tools that only move whole lines.

Ids are compared as bytes, which is the order of the C locale. Nothing is decoded, so that a million
lines take seconds. The tools also know files that LoRS itself does not read (features, for
example), and take any other file whose lines begin with the ids of utterances, speakers or
recordings.
"""

from __future__ import annotations

import logging
from codecs import BOM_UTF8
from collections.abc import Iterable
from pathlib import Path

from lors.data.datadir import TRANSLATION
from lors.data.pieces import SEGMENTS, is_piece
from lors.errors import LorsError, shortened
from lors.fileio import write_files

NEEDED = (SEGMENTS, "wav.scp", "text", "utt2lang", "feats.scp")
"""Files (and ``text.<code>``) that must have a line for every utterance, if they are there.

If there are ``segments``, ``wav.scp`` must have a line for every recording instead.
"""
OPTIONAL = ("utt2dur", "utt2num_frames", "utt2uniq", "vad.scp")
"""Files that may lack utterances."""
BY_SPEAKER = ("spk2gender", "cmvn.scp", "spk2warp")
BY_RECORDING = ("wav.scp", "reco2dur", "reco2file_and_channel")
"""Files with a line for each recording, if there are ``segments``."""
BAD_LINES = "line(s) that are blank, repeat an id, have no good value or a byte order mark"
_LONGEST_ID = 65536  # bytes; a longer first line is not read to find out what a file is
log = logging.getLogger(__name__)

LinesById = dict[bytes, bytes]
"""Id -> its line with the line end, in the file's order; for a repeated id its first line."""
Files = dict[str, LinesById]
"""File name -> its lines."""
Speakers = dict[bytes, bytes]
"""Utterance id -> speaker."""


def known_files(path: Path) -> list[str]:
    """Return the names of the known files of a data directory, without ``spk2utt``.

    Raises:
        LorsError: it is not a data directory.
    """
    if not path.is_dir():
        raise LorsError(
            "data directory not found", where=path, hint="is the path right? (data/<lang>/<split>)"
        )
    names = ["utt2spk", *NEEDED, *_translations(path), *OPTIONAL, *BY_SPEAKER, *BY_RECORDING[1:]]
    present = [name for name in names if (path / name).is_file()]
    missing = [name for name in ("utt2spk", "wav.scp") if name not in present]
    if missing:
        raise LorsError(
            "not a data directory",
            where=path,
            got=f"no {', '.join(missing)}",
            hint="give the directory that has these files, usually data/<lang>/<split>",
        )
    return present


def other_files(path: Path, files: Files) -> tuple[Files, list[str]]:
    """Read the files that LoRS does not know, if their lines begin with ids.

    Args:
        path: a data directory.
        files: the lines of its known files.

    Returns:
        the lines of each file whose first line begins with the id of an utterance, a speaker or a
        recording (all lines of an id together), and the names of the other files.
    """
    known = (*files, "spk2utt")
    candidates = [file for file in sorted(path.iterdir()) if file.name not in known]
    candidates = [file for file in candidates if file.is_file() and file.name[0] != "."]
    if not candidates:
        return {}, []
    keys = {*files["utt2spk"], *speakers_of(files).values(), *files["wav.scp"]}
    found: Files = {}
    others = []
    for file in candidates:
        name = file.name
        with file.open("rb") as handle:
            first = handle.readline(_LONGEST_ID).split(maxsplit=1)
        if not first or first[0] not in keys:
            others.append(name)
            continue
        found[name] = {}
        for line in _complete_lines(file):
            if key := line.split(maxsplit=1)[:1]:
                found[name][key[0]] = found[name].get(key[0], b"") + line
    return found, others


def read_lines(path: Path) -> tuple[LinesById, int]:
    """Return the lines of a file by id, and the number of bad lines.

    A bad line is blank, repeats an id, has no value (texts excepted), or is not a segment in
    ``segments``. A byte order mark is removed, and makes a line bad.
    """
    lines = _complete_lines(path)
    bad = 0
    if lines and lines[0].startswith(BOM_UTF8):
        lines[0] = lines[0].removeprefix(BOM_UTF8)
        bad = 1
    may_be_empty = path.name.startswith("text")
    are_segments = path.name == SEGMENTS
    by_id: LinesById = {}
    for line in lines:
        parts = line.split(maxsplit=1)
        if parts and (len(parts) == 2 or may_be_empty) and parts[0] not in by_id:
            if are_segments and not is_piece(parts[1].decode(errors="replace")):
                continue
            by_id[parts[0]] = line
    return by_id, len(lines) - len(by_id) + bad


def raw_lines(path: Path) -> list[bytes]:
    """Return all lines of a file, with their line ends."""
    try:
        with path.open("rb") as handle:
            return handle.readlines()
    except FileNotFoundError:
        raise LorsError("file not found", where=path, hint="is the path right?") from None


def _complete_lines(path: Path) -> list[bytes]:
    """Return all lines of a file; the last one has a line end too."""
    lines = raw_lines(path)
    if lines and not lines[-1].endswith(b"\n"):
        lines[-1] += b"\n"
    return lines


def read_files(path: Path) -> Files:
    """Read all files of a data directory whose lines begin with ids; name the others in the log.

    Raises:
        LorsError: as :func:`known_files`; or a file has bad lines, or a segment is of a recording
            that ``wav.scp`` lacks.
    """
    files = {}
    for name in known_files(path):
        files[name], bad = read_lines(path / name)
        if bad:
            raise LorsError(
                f"{bad} {BAD_LINES}",
                where=path / name,
                hint=f"utils/fix_data_dir.sh {path} removes them",
            )
    absent = {recording for recording in recordings_of(files).values()} - files["wav.scp"].keys()
    if absent:
        raise LorsError(
            f"{len(absent)} recording(s) that wav.scp lacks",
            where=path / SEGMENTS,
            got=shortened(key.decode(errors="replace") for key in sorted(absent)),
            hint=f"utils/fix_data_dir.sh {path} removes their utterances",
        )
    unknown, others = other_files(path, files)
    if others:
        log.warning("%s: left out, the lines do not begin with ids: %s", path, ", ".join(others))
    return files | unknown


def recordings_of(files: Files) -> dict[bytes, bytes]:
    """Return the recording of each utterance in ``segments``; nothing if there are none."""
    return {key: line.split(maxsplit=2)[1] for key, line in files.get(SEGMENTS, {}).items()}


def speakers_of(files: Files) -> Speakers:
    """Return the speaker of each utterance, sorted by utterance id."""
    utt2spk = files["utt2spk"]
    return {key: utt2spk[key].split()[1] for key in sorted(utt2spk)}


def by_speaker(speakers: Speakers) -> dict[bytes, list[bytes]]:
    """Return the utterances of each speaker, both sorted."""
    grouped: dict[bytes, list[bytes]] = {}
    for key in sorted(speakers):
        grouped.setdefault(speakers[key], []).append(key)
    return {speaker: grouped[speaker] for speaker in sorted(grouped)}


def lines_for(files: Files, utterances: Iterable[bytes]) -> dict[str, list[bytes]]:
    """Return the sorted lines of every file for these utterances, their speakers and recordings.

    ``spk2utt`` is made from ``utt2spk``.
    """
    utt2spk = files["utt2spk"]
    ids = sorted(utterances)
    of_speaker = by_speaker({key: utt2spk[key].split()[1] for key in ids})
    recording = recordings_of(files)
    recordings = sorted({recording[key] for key in ids if key in recording})
    kept = {"spk2utt": [b"%s %s\n" % (s, b" ".join(keys)) for s, keys in of_speaker.items()]}
    for name, lines in files.items():
        keys: Iterable[bytes] = ids
        if name in BY_SPEAKER:
            keys = of_speaker
        elif name in BY_RECORDING:
            keys = recordings if recording else ids
        elif not _is_known(name) and not lines.keys() & utt2spk.keys():
            is_of_speakers = lines.keys() & set(speakers_of(files).values())
            keys = of_speaker if is_of_speakers else recordings
        kept[name] = [lines[key] for key in keys if key in lines]
    return kept


def write_data_files(path: Path, files: dict[str, list[bytes]]) -> None:
    """Write the files of a data directory, all or none; remove known files that would be empty."""
    full = {name: lines for name, lines in files.items() if lines}
    write_files({path / name: lines for name, lines in full.items()}, "wb")
    known = {*NEEDED, *_translations(path), *OPTIONAL, *BY_SPEAKER, *BY_RECORDING}
    for name in known - full.keys():
        (path / name).unlink(missing_ok=True)


def is_needed(name: str, files: Files) -> bool:
    """Return whether an utterance without a line in this file is incomplete."""
    if name == "wav.scp":
        return SEGMENTS not in files
    return name in NEEDED or name.startswith(TRANSLATION)


def _is_known(name: str) -> bool:
    known = ("utt2spk", *NEEDED, *OPTIONAL, *BY_SPEAKER, *BY_RECORDING)
    return name in known or name.startswith(TRANSLATION)


def _translations(path: Path) -> list[str]:
    return sorted(file.name for file in path.glob(TRANSLATION + "*"))
