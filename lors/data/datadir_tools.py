"""Kaldi's tools that mend, join and split whole data directories."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from lors.data.datadir_lines import (
    BAD_LINES,
    BY_RECORDING,
    BY_SPEAKER,
    Files,
    LinesById,
    by_speaker,
    is_needed,
    known_files,
    lines_for,
    other_files,
    read_files,
    read_lines,
    recordings_of,
    speakers_of,
    write_data_files,
)
from lors.data.pieces import SEGMENTS
from lors.errors import LorsError, UsageError, shortened
from lors.fileio import write_files

BACKUP = ".backup"


def fix_data_dir(path: str | os.PathLike) -> list[str]:
    """Sort every file and leave in each only the utterances that all of them have.

    Lines that are blank, repeat an id or (texts excepted) have no value are removed, and so is a
    byte order mark. ``spk2utt`` is made from ``utt2spk``; files by speaker or recording keep those
    that are left. The files as they were are kept in ``.backup``. Unlike Kaldi's tool, speakers of
    unknown gender are kept.

    Args:
        path: a data directory, with at least ``wav.scp`` and ``utt2spk``.

    Returns:
        the changes, one sentence each; an empty list if there was nothing to mend.

    Raises:
        LorsError: ``wav.scp`` or ``utt2spk`` is missing, or no utterance is left.
    """
    path = Path(path)
    files: Files = {}
    notes = []
    for name in known_files(path):
        files[name], bad = read_lines(path / name)
        if bad:
            notes.append(f"{name}: {bad} {BAD_LINES}")
    kept = _complete_utterances(files, path)
    files |= other_files(path, files)[0]
    if len(kept) < len(files["utt2spk"]):
        notes.append(f"kept {len(kept)} of {len(files['utt2spk'])} utterances")
    speakers = speakers_of(files)
    strangers = sum(not key.startswith(speakers[key]) for key in kept)
    if strangers:
        notes.append(
            f"{strangers} utterance id(s) do not start with their speaker's id: mend that yourself"
        )
    changed = _rewrite(path, lines_for(files, kept))
    if changed:
        notes.append(f"rewritten: {', '.join(changed)}; old files are in {path / BACKUP}")
    return notes


def combine_data(target: str | os.PathLike, sources: Sequence[str | os.PathLike]) -> list[str]:
    """Join data directories. A file that one of them lacks is left out of the result.

    Returns:
        the names of the files that are left out.

    Raises:
        LorsError: a directory lacks required files or has bad lines; or two directories have an
            utterance in common, or a speaker with different values.
        UsageError: `target` is one of `sources`.
    """
    target = Path(target)
    paths = [Path(source) for source in sources]
    if target.resolve() in [path.resolve() for path in paths]:
        raise UsageError("the target is one of the sources", got=target, hint="give another target")
    parts = [read_files(path) for path in paths]
    common = set.intersection(*(set(part) for part in parts))
    left_out = sorted(set().union(*parts) - common)
    if SEGMENTS in left_out:  # the files of the other directories are recordings too
        left_out.remove(SEGMENTS)
        common.add(SEGMENTS)
        parts = [{SEGMENTS: _whole_files(part), **part} for part in parts]
    joined = {
        name: _joined(name, [part[name] for part in parts], paths, SEGMENTS in common)
        for name in sorted(common)
    }
    write_data_files(target, lines_for(joined, joined["utt2spk"]))
    return left_out


def split_data(path: str | os.PathLike, number: int, per_utterance: bool = False) -> list[Path]:
    """Split a data directory into consecutive parts of about the same number of utterances.

    Args:
        path: the data directory.
        number: how many parts.
        per_utterance: whether a speaker may be in two parts.

    Returns:
        the parts, ``<path>/split<number>/1`` to ``.../<number>``; with `per_utterance`,
        ``<path>/split<number>utt/1`` and so on.

    Raises:
        UsageError: there are fewer speakers (with `per_utterance`, utterances) than parts.
    """
    path = Path(path)
    files = read_files(path)
    speakers = speakers_of(files)
    groups = [[key] for key in speakers] if per_utterance else list(by_speaker(speakers).values())
    if not 1 <= number <= len(groups):
        unit = "utterances" if per_utterance else "speakers"
        raise UsageError(
            "that many parts cannot be made",
            where=path,
            expected=f"1 to {len(groups)}, the number of {unit}",
            got=number,
            hint=None if per_utterance else "--per-utt splits the utterances of a speaker too",
        )
    folder = path / f"split{number}{'utt' if per_utterance else ''}"
    targets = [folder / str(part) for part in range(1, number + 1)]
    for target, part in zip(targets, _balanced(groups, number), strict=True):
        write_data_files(target, lines_for(files, part))
    return targets


def _complete_utterances(files: Files, path: Path) -> set[bytes]:
    """Return the utterances that every needed file has."""
    kept = set(files["utt2spk"])
    for name, lines in files.items():
        if is_needed(name, files):
            kept &= lines.keys()
    recordings = recordings_of(files)
    kept = {key for key in kept if recordings.get(key, key) in files["wav.scp"]}
    if not kept:
        raise LorsError(
            "no utterance is in all files",
            where=path,
            got=[f"{name}: {len(lines)} utterances" for name, lines in files.items()],
            hint="do the files come from one preparation? Their ids must be the same",
        )
    return kept


def _rewrite(path: Path, files: dict[str, list[bytes]]) -> list[str]:
    """Write the files whose content changes, and keep the old ones; return their names."""
    changed = [
        name
        for name, lines in files.items()
        if not (path / name).is_file() or (path / name).read_bytes() != b"".join(lines)
    ]
    for name in changed:
        if (path / name).exists():
            (path / BACKUP).mkdir(exist_ok=True)
            shutil.copy2(path / name, path / BACKUP / name)
    write_files({path / name: files[name] for name in changed}, "wb")
    return changed


def _whole_files(part: Files) -> LinesById:
    """Return ``segments`` for a data directory with an audio file for each utterance."""
    return {key: b"%s %s 0 -1\n" % (key, key) for key in part["utt2spk"]}


def _joined(
    name: str, parts: Sequence[LinesById], paths: Sequence[Path], has_segments: bool
) -> LinesById:
    """Join one file of several data directories."""
    joined: LinesById = {}
    may_repeat = (*BY_SPEAKER, *BY_RECORDING) if has_segments else BY_SPEAKER
    for lines in parts:
        # A speaker or a recording may be in several directories, an utterance may not.
        repeated = [
            key
            for key in lines.keys() & joined.keys()
            if name not in may_repeat or lines[key] != joined[key]
        ]
        if repeated:
            raise LorsError(
                f"{len(repeated)} id(s) are in several of the data directories",
                where=f"{name} of {', '.join(map(str, paths))}",
                got=shortened(key.decode("utf-8", errors="replace") for key in sorted(repeated)),
                hint="rename them in one of the directories, or leave out one of the directories",
            )
        joined.update(lines)
    return joined


def _balanced(groups: Sequence[list[bytes]], number: int) -> list[list[bytes]]:
    """Share out the groups, in their order, among `number` parts of about the same size."""
    total = sum(map(len, groups))
    parts: list[list[bytes]] = [[] for _ in range(number)]
    current, done = 0, 0
    for index, group in enumerate(groups):
        is_full = parts[current] and done >= total * (current + 1) / number
        groups_left, parts_left = len(groups) - index, number - current - 1
        if is_full or (parts[current] and groups_left == parts_left):
            current += 1
        parts[current] += group
        done += len(group)
    return parts
