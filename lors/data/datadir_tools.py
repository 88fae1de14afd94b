"""Whole data directories put in order, cut to size, joined and split: Kaldi's tools of these names.

They work on the lines of the files as bytes, whose order is the C locale's, and know more files
than LoRS itself reads (features, for example): everything that Kaldi keys by utterance or by
speaker. Nothing is decoded, so that a million lines are a matter of seconds.

Audio that is cut by a ``segments`` file is refused: in LoRS an utterance is an audio file.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from lors.errors import LorsError, UsageError
from lors.fileio import atomic_write

BY_UTTERANCE = ("wav.scp", "text", "utt2lang", "feats.scp")
"""Files (and ``text.<code>``) without whose line an utterance is not whole."""
ABOUT_UTTERANCES = ("utt2dur", "utt2num_frames", "utt2uniq", "vad.scp")
BY_SPEAKER = ("spk2gender", "cmvn.scp", "spk2warp")
BACKUP = ".backup"

Table = dict[bytes, bytes]
"""Id -> the whole line with its line end, in the file's order; of a repeated id the first line."""
Speakers = dict[bytes, bytes]
"""Utterance id -> speaker; a choice gets it in sorted order."""
Choice = Callable[[Speakers], list[bytes]]
"""What a part of a data directory is to have: the ids of the utterances to keep."""


def fix_data_dir(path: str | os.PathLike) -> list[str]:
    """Sort every file and leave in each only the utterances that all of them have.

    Lines that are blank, have no value (but for texts) or repeat an id are taken out. ``spk2utt``
    is made anew from ``utt2spk``; files about speakers keep the speakers that are left. The files
    as they were are in ``.backup``. Unlike Kaldi's, a speaker of unknown gender is kept.

    Args:
        path: a data directory, with at least ``wav.scp`` and ``utt2spk``.

    Returns:
        what was done, one sentence each; empty if nothing had to be.

    Raises:
        LorsError: there is nothing to mend it from, or no utterance is left.
    """
    path = Path(path)
    tables, notes = {}, []
    for name in _files(path):
        tables[name], bad = _read(path / name)
        if bad:
            notes.append(f"{name}: {bad} line(s) that are blank, repeat an id or have no value")
    speakers = _speakers(tables["utt2spk"])
    kept = set(tables["utt2spk"])
    for name, table in tables.items():
        if _is_needed(name):
            kept &= table.keys()
    if not kept:
        raise LorsError(
            "no utterance is in all files",
            where=path,
            got=", ".join(f"{name} {len(table)}" for name, table in tables.items()),
            hint="do the files come from one preparation? Their ids must be the same",
        )
    if len(kept) < len(tables["utt2spk"]):
        notes.append(f"kept {len(kept)} of {len(tables['utt2spk'])} utterances")
    strangers = sum(not key.startswith(speakers[key]) for key in kept)
    if strangers:
        notes.append(
            f"{strangers} utterance id(s) do not start with their speaker's id: mend that yourself"
        )
    fixed = _restricted(tables, kept, speakers)
    changed = [name for name in fixed if not _is_same(path / name, fixed[name])]
    for name in changed:
        if (path / name).exists():
            (path / BACKUP).mkdir(exist_ok=True)
            shutil.copy2(path / name, path / BACKUP / name)
        _write(path / name, fixed[name])
    if changed:
        notes.append(f"written anew: {', '.join(changed)}; old files are in {path / BACKUP}")
    return notes


def subset_data_dir(
    source: str | os.PathLike,
    target: str | os.PathLike,
    choose: Choice,
) -> int:
    """Write a part of a data directory as another one.

    Args:
        source: a data directory; lines of its files that lack an utterance stay lacking.
        target: the data directory to write; files that the source does not have are removed.
        choose: one of the functions below, of what to keep.

    Returns:
        how many utterances the part has.

    Raises:
        LorsError: `source` lacks files, `target` is `source`, or nothing is chosen.
    """
    source, target = Path(source), Path(target)
    if source.resolve() == target.resolve():
        raise UsageError("source and target are the same directory", got=source)
    tables = _load(source)
    speakers = _speakers(tables["utt2spk"])
    kept = set(choose({key: speakers[key] for key in sorted(speakers)})) & speakers.keys()
    if not kept:
        raise LorsError("no utterance is chosen", where=source)
    _write_all(target, _restricted(tables, kept, speakers))
    return len(kept)


def first(number: int) -> Choice:
    """Choose the first utterances in sorted order."""

    def choose(speakers: Speakers) -> list[bytes]:
        _check_number(number, len(speakers))
        return list(speakers)[:number]

    return choose


def last(number: int) -> Choice:
    """Choose the last utterances in sorted order."""

    def choose(speakers: Speakers) -> list[bytes]:
        _check_number(number, len(speakers))
        return list(speakers)[-number:]

    return choose


def spread(number: int) -> Choice:
    """Choose utterances at even distances in sorted order: Kaldi's choice by default."""

    def choose(speakers: Speakers) -> list[bytes]:
        _check_number(number, len(speakers))
        return _spread(list(speakers), number)

    return choose


def whole_speakers(number: int) -> Choice:
    """Choose all utterances of as many speakers as make at least `number` utterances together.

    The speakers come in the order of a hash of their ids: the same ones every time, and those of
    a smaller choice are among those of a larger one.
    """

    def choose(speakers: Speakers) -> list[bytes]:
        _check_number(number, len(speakers))
        chosen: list[bytes] = []
        of_speaker = _by_speaker(speakers)
        for speaker in sorted(of_speaker, key=lambda s: hashlib.sha256(s).digest()):
            if len(chosen) >= number:
                break
            chosen += of_speaker[speaker]
        return chosen

    return choose


def per_speaker(number: int) -> Choice:
    """Choose up to `number` utterances of every speaker, at even distances."""

    def choose(speakers: Speakers) -> list[bytes]:
        _check_number(number, len(speakers))
        groups = _by_speaker(speakers).values()
        return [key for keys in groups for key in _spread(keys, min(number, len(keys)))]

    return choose


def shortest(number: int, source: str | os.PathLike) -> Choice:
    """Choose the shortest utterances by ``utt2dur`` of the data directory `source`.

    Raises:
        LorsError: there is no such file, or it is not one of numbers.
    """
    table, _ = _read(Path(source) / "utt2dur")
    try:
        seconds = {key: float(line.split()[1]) for key, line in table.items()}
    except ValueError as error:
        raise LorsError("not a length", where=Path(source) / "utt2dur", got=str(error)) from None

    def choose(speakers: Speakers) -> list[bytes]:
        known = [key for key in speakers if key in seconds]
        _check_number(number, len(known))
        return sorted(known, key=lambda key: (seconds[key], key))[:number]

    return choose


def listed(file: str | os.PathLike, speakers_are_listed: bool = False) -> Choice:
    """Choose the utterances (or all of the speakers) whose ids begin the lines of a file.

    Raises:
        LorsError: the file is not there; the choice raises it for ids that the data do not have.
    """
    wanted = {line.split()[0] for line in _lines(Path(file)) if line.strip()}

    def choose(speakers: Speakers) -> list[bytes]:
        known = set(speakers.values()) if speakers_are_listed else speakers.keys()
        unknown = sorted(wanted - known)
        if unknown:
            raise LorsError(
                f"{len(unknown)} listed id(s) are not in the data directory",
                where=file,
                got=_some(unknown),
            )
        return [
            key for key in speakers if (speakers[key] if speakers_are_listed else key) in wanted
        ]

    return choose


def combine_data(target: str | os.PathLike, sources: Sequence[str | os.PathLike]) -> list[str]:
    """Join data directories. A file that one of them lacks is left out of the result.

    Returns:
        the names of the files that are left out.

    Raises:
        LorsError: a directory lacks required files, or two of them have an id in common that
            does not mean the same (the utterance ids of two directories always differ).
    """
    target = Path(target)
    paths = [Path(source) for source in sources]
    if target.resolve() in [path.resolve() for path in paths]:
        raise UsageError("the target is one of the sources", got=target)
    parts = [_load(path) for path in paths]
    common = set.intersection(*(set(part) for part in parts)) | {"utt2spk"}
    left_out = sorted(set().union(*parts) - common)
    joined: dict[str, Table] = {}
    for name in sorted(common - {"spk2utt"}):
        table = joined[name] = {}
        for part in parts:
            # A speaker may be in several directories, an utterance may not.
            twice = [
                key
                for key in part[name].keys() & table.keys()
                if name not in BY_SPEAKER or part[name][key] != table[key]
            ]
            if twice:
                raise LorsError(
                    f"{len(twice)} id(s) are in several of the data directories",
                    where=f"{name} of {', '.join(map(str, paths))}",
                    got=_some(sorted(twice)),
                )
            table.update(part[name])
    speakers = _speakers(joined["utt2spk"])
    _write_all(target, _restricted(joined, set(speakers), speakers))
    return left_out


def split_data(path: str | os.PathLike, number: int, per_utterance: bool = False) -> list[Path]:
    """Split a data directory into consecutive parts of about the same number of utterances.

    Args:
        path: the data directory.
        number: how many parts.
        per_utterance: a speaker may be in two parts; by default none is.

    Returns:
        the parts, ``<path>/split<number>/1`` to ``.../<number>``, or, by utterance,
        ``<path>/split<number>utt/1`` and so on.

    Raises:
        UsageError: there are not that many utterances or speakers.
    """
    path = Path(path)
    tables = _load(path)
    speakers = _speakers(tables["utt2spk"])
    keys = sorted(speakers)
    groups = [[key] for key in keys] if per_utterance else list(_by_speaker(speakers).values())
    if not 1 <= number <= len(groups):
        unit = "utterances" if per_utterance else "speakers"
        raise UsageError(
            "that many parts cannot be made",
            where=path,
            expected=f"1 to {len(groups)}, the number of {unit}",
            got=number,
            hint=None if per_utterance else "--per-utt splits the utterances of a speaker too",
        )
    parts: list[list[bytes]] = [[] for _ in range(number)]
    current, done = 0, 0
    for index, group in enumerate(groups):
        # On to the next part when this one is full to its share, or each that follows needs one.
        full = parts[current] and done >= len(keys) * (current + 1) / number
        if full or (parts[current] and len(groups) - index == number - current - 1):
            current += 1
        parts[current] += group
        done += len(group)
    folder = path / f"split{number}{'utt' if per_utterance else ''}"
    targets = [folder / str(part) for part in range(1, number + 1)]
    for target, part in zip(targets, parts, strict=True):
        _write_all(target, _restricted(tables, part, speakers))
    return targets


# --- choosing -----------------------------------------------------------------------------------


def _check_number(number: int, count: int) -> None:
    if not 1 <= number <= count:
        raise UsageError(
            "that many utterances cannot be chosen", expected=f"1 to {count}", got=number
        )


def _spread(keys: list[bytes], number: int) -> list[bytes]:
    return [keys[position * len(keys) // number] for position in range(number)]


def _by_speaker(speakers: Speakers) -> dict[bytes, list[bytes]]:
    """Speaker -> utterances, both sorted."""
    grouped: dict[bytes, list[bytes]] = {}
    for key in sorted(speakers):
        grouped.setdefault(speakers[key], []).append(key)
    return {speaker: grouped[speaker] for speaker in sorted(grouped)}


def _some(keys: Sequence[bytes]) -> str:
    names = [key.decode("utf-8", errors="replace") for key in keys[:3]]
    return ", ".join(names) + (", ..." if len(keys) > 3 else "")


# --- files --------------------------------------------------------------------------------------


def _is_needed(name: str) -> bool:
    return name in BY_UTTERANCE or name.startswith("text.")


def _files(path: Path) -> list[str]:
    """The files of a data directory that the tools know."""
    if not path.is_dir():
        raise LorsError("data directory not found", where=path)
    names = ["utt2spk", *BY_UTTERANCE, *sorted(file.name for file in path.glob("text.*"))]
    names += [*ABOUT_UTTERANCES, *BY_SPEAKER]
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


def _lines(path: Path) -> list[bytes]:
    try:
        with path.open("rb") as handle:
            return handle.readlines()
    except FileNotFoundError:
        raise LorsError("file not found", where=path) from None


def _read(path: Path) -> tuple[Table, int]:
    """The table of a file, and the number of lines that say nothing or repeat an id."""
    table: Table = {}
    lines = _lines(path)
    if lines and not lines[-1].endswith(b"\n"):
        lines[-1] += b"\n"
    may_be_empty = path.name.startswith("text")
    for line in lines:
        parts = line.split(maxsplit=1)
        if parts and (len(parts) == 2 or may_be_empty) and parts[0] not in table:
            table[parts[0]] = line
    return table, len(lines) - len(table)


def _load(path: Path) -> dict[str, Table]:
    """All tables of a data directory that has no bad line."""
    tables = {}
    for name in _files(path):
        tables[name], bad = _read(path / name)
        if bad:
            raise LorsError(
                f"{bad} line(s) that are blank, repeat an id or have no value",
                where=path / name,
                hint=f"utils/fix_data_dir.sh {path} takes them out",
            )
    return tables


def _speakers(utt2spk: Table) -> Speakers:
    return {key: line.split()[1] for key, line in utt2spk.items()}


def _restricted(
    tables: dict[str, Table], kept: Iterable[bytes], speakers: Speakers
) -> dict[str, list[bytes]]:
    """The sorted lines of every file for these utterances and their speakers, and spk2utt."""
    keys = sorted(kept)
    of_speaker: dict[bytes, list[bytes]] = {}
    for key in keys:
        of_speaker.setdefault(speakers[key], []).append(key)
    names = sorted(of_speaker)
    made = {"spk2utt": [b"%s %s\n" % (name, b" ".join(of_speaker[name])) for name in names]}
    for name, table in tables.items():
        ids = names if name in BY_SPEAKER else keys
        made[name] = [table[key] for key in ids if key in table]
    return made


def _is_same(path: Path, lines: list[bytes]) -> bool:
    return path.is_file() and path.read_bytes() == b"".join(lines)


def _write(path: Path, lines: list[bytes]) -> None:
    with atomic_write(path, "wb") as handle:
        handle.writelines(lines)


def _write_all(path: Path, files: dict[str, list[bytes]]) -> None:
    """Write the files of a data directory; known ones that it no longer has are removed."""
    for name, lines in files.items():
        if lines:
            _write(path / name, lines)
    known = {*BY_UTTERANCE, *ABOUT_UTTERANCES, *BY_SPEAKER, *(f.name for f in path.glob("text.*"))}
    for name in known - {name for name, lines in files.items() if lines}:
        (path / name).unlink(missing_ok=True)
