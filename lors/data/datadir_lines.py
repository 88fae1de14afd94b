"""The files of a Kaldi data directory as lines of bytes, for tools that only move whole lines.

Ids are compared as bytes, which is the order of the C locale. Nothing is decoded, so that a million
lines take seconds. The tools also know files that LoRS itself does not read (features, for
example): all files that Kaldi keys by utterance or by speaker.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lors.data.datadir import TRANSLATION
from lors.errors import LorsError
from lors.fileio import atomic_write

NEEDED = ("wav.scp", "text", "utt2lang", "feats.scp")
"""Files (and ``text.<code>``) that must have a line for every utterance, if they are there."""
OPTIONAL = ("utt2dur", "utt2num_frames", "utt2uniq", "vad.scp")
"""Files that may lack utterances."""
BY_SPEAKER = ("spk2gender", "cmvn.scp", "spk2warp")

LinesById = dict[bytes, bytes]
"""Id -> its line with the line end, in the file's order; for a repeated id its first line."""
Files = dict[str, LinesById]
"""File name -> its lines."""
Speakers = dict[bytes, bytes]
"""Utterance id -> speaker."""


def is_needed(name: str) -> bool:
    """Return whether an utterance without a line in this file is incomplete."""
    return name in NEEDED or name.startswith(TRANSLATION)


def known_files(path: Path) -> list[str]:
    """Return the names of the known files of a data directory, without ``spk2utt``.

    Raises:
        LorsError: it is not a data directory; or it has ``segments``, although in LoRS each
            utterance is an audio file.
    """
    if not path.is_dir():
        raise LorsError("data directory not found", where=path)
    names = ["utt2spk", *NEEDED, *_translations(path), *OPTIONAL, *BY_SPEAKER]
    present = [name for name in names if (path / name).is_file()]
    missing = [name for name in ("utt2spk", "wav.scp") if name not in present]
    if missing:
        raise LorsError("not a data directory", where=path, got=f"no {', '.join(missing)}")
    if (path / "segments").exists():
        raise LorsError(
            "a data directory with segments of longer recordings",
            where=path / "segments",
            expected="an audio file for every utterance",
            hint="cut the recordings into one file an utterance, and remove the file",
        )
    return present


def read_lines(path: Path) -> tuple[LinesById, int]:
    """Return the lines of a file by id, and the number of bad lines.

    A bad line is blank, repeats an id or (texts excepted) has no value.
    """
    lines = raw_lines(path)
    if lines and not lines[-1].endswith(b"\n"):
        lines[-1] += b"\n"
    may_be_empty = path.name.startswith("text")
    by_id: LinesById = {}
    for line in lines:
        parts = line.split(maxsplit=1)
        if parts and (len(parts) == 2 or may_be_empty) and parts[0] not in by_id:
            by_id[parts[0]] = line
    return by_id, len(lines) - len(by_id)


def raw_lines(path: Path) -> list[bytes]:
    """Return all lines of a file, with their line ends."""
    try:
        with path.open("rb") as handle:
            return handle.readlines()
    except FileNotFoundError:
        raise LorsError("file not found", where=path) from None


def read_files(path: Path) -> Files:
    """Read all known files of a data directory.

    Raises:
        LorsError: as :func:`known_files`; or a file has bad lines.
    """
    files = {}
    for name in known_files(path):
        files[name], bad = read_lines(path / name)
        if bad:
            raise LorsError(
                f"{bad} line(s) that are blank, repeat an id or have no value",
                where=path / name,
                hint=f"utils/fix_data_dir.sh {path} removes them",
            )
    return files


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
    """Return the sorted lines of every file for these utterances and their speakers.

    ``spk2utt`` is made from ``utt2spk``.
    """
    utt2spk = files["utt2spk"]
    ids = sorted(utterances)
    of_speaker = by_speaker({key: utt2spk[key].split()[1] for key in ids})
    kept = {"spk2utt": [b"%s %s\n" % (s, b" ".join(keys)) for s, keys in of_speaker.items()]}
    for name, lines in files.items():
        kept[name] = [
            lines[key] for key in (of_speaker if name in BY_SPEAKER else ids) if key in lines
        ]
    return kept


def write_lines(path: Path, lines: list[bytes]) -> None:
    """Atomically write the lines of one file."""
    with atomic_write(path, "wb") as handle:
        handle.writelines(lines)


def write_files(path: Path, files: dict[str, list[bytes]]) -> None:
    """Write the files of a data directory; remove the known files that would be empty."""
    full = {name: lines for name, lines in files.items() if lines}
    for name, lines in full.items():
        write_lines(path / name, lines)
    known = {*NEEDED, *_translations(path), *OPTIONAL, *BY_SPEAKER}
    for name in known - full.keys():
        (path / name).unlink(missing_ok=True)


def _translations(path: Path) -> list[str]:
    return sorted(file.name for file in path.glob(TRANSLATION + "*"))
