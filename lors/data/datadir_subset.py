"""Parts of a data directory, chosen by number or by a list: Kaldi's ``subset_data_dir.sh``.

Every choice is the same in every run. A file that lacks utterances stays incomplete.
"""

from __future__ import annotations

import hashlib
import os
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from lors.data.datadir_lines import (
    Files,
    by_speaker,
    lines_for,
    raw_lines,
    read_files,
    speakers_of,
    write_data_files,
)
from lors.errors import LorsError, UsageError, shortened


class DataDir(NamedTuple):
    """A data directory and the lines of its files."""

    path: Path
    files: Files


SubsetRule = Callable[[DataDir, int], list[bytes]]
"""A function of a data directory and a number that returns the ids of the utterances to keep."""


def subset_by_number(
    source: str | os.PathLike, target: str | os.PathLike, number: int, rule: str = "spread"
) -> int:
    """Write `number` utterances of a data directory as another one.

    Args:
        source: a data directory.
        target: the data directory to write; files that the source does not have are removed.
        number: number of utterances: with the rule ``speakers`` a minimum, with ``per_spk`` a
            maximum for each speaker.
        rule: a name in :data:`RULES`.

    Returns:
        how many utterances the part has.

    Raises:
        LorsError: `source` lacks files or has bad lines, or lacks lengths for ``shortest``.
        UsageError: `target` is `source`, or there are fewer utterances than `number`.
    """
    data = _read_source(source, target)
    _check_number(number, len(data.files["utt2spk"]))
    return _write_part(data, target, RULES[rule](data, number))


def subset_by_list(
    source: str | os.PathLike,
    target: str | os.PathLike,
    id_list: str | os.PathLike,
    of_speakers: bool = False,
) -> int:
    """Write the utterances of a list, or all of the speakers of a list, as another data directory.

    Args:
        source: a data directory.
        target: the data directory to write; files that the source does not have are removed.
        id_list: a file whose lines begin with an id.
        of_speakers: whether these are ids of speakers.

    Returns:
        how many utterances the part has.

    Raises:
        LorsError: as :func:`subset_by_number`; or ids of the list are not in `source`, or the list
            is empty.
        UsageError: `target` is `source`.
    """
    data = _read_source(source, target)
    lines = [line.removeprefix(BOM_UTF8) for line in raw_lines(Path(id_list))]
    wanted = {line.split()[0] for line in lines if line.strip()}
    speakers = speakers_of(data.files)
    unknown = sorted(wanted - (set(speakers.values()) if of_speakers else speakers.keys()))
    if unknown:
        raise LorsError(
            f"{len(unknown)} listed id(s) are not in the data directory",
            where=id_list,
            got=shortened(key.decode("utf-8", errors="replace") for key in unknown),
            hint=f"take them out of the list, or choose another directory than {source}",
        )
    kept = [key for key in speakers if (speakers[key] if of_speakers else key) in wanted]
    return _write_part(data, target, kept)


def _read_source(source: str | os.PathLike, target: str | os.PathLike) -> DataDir:
    path = Path(source)
    if path.resolve() == Path(target).resolve():
        raise UsageError(
            "source and target are the same directory", got=source, hint="give another target"
        )
    return DataDir(path, read_files(path))


def _write_part(source: DataDir, target: str | os.PathLike, kept: Iterable[bytes]) -> int:
    kept = set(kept)
    if not kept:
        raise LorsError("no utterance is chosen", where=source.path, hint="is the list empty?")
    write_data_files(Path(target), lines_for(source.files, kept))
    return len(kept)


def _check_number(number: int, count: int) -> None:
    if not 1 <= number <= count:
        raise UsageError(
            "that many utterances cannot be chosen", expected=f"1 to {count}", got=number
        )


# --- rules --------------------------------------------------------------------------------------


def _spread(source: DataDir, number: int) -> list[bytes]:
    """Utterances at even distances in sorted order."""
    return _evenly(sorted(source.files["utt2spk"]), number)


def _first(source: DataDir, number: int) -> list[bytes]:
    """The first utterances in sorted order."""
    return sorted(source.files["utt2spk"])[:number]


def _last(source: DataDir, number: int) -> list[bytes]:
    """The last utterances in sorted order."""
    return sorted(source.files["utt2spk"])[-number:]


def _shortest(source: DataDir, number: int) -> list[bytes]:
    """The shortest utterances by ``utt2dur``."""
    path = source.path / "utt2dur"
    if "utt2dur" not in source.files:
        raise LorsError(
            "file not found",
            where=path,
            hint="data directories of stage 2 have this file; or choose by another rule",
        )
    lengths = {key: _length(line) for key, line in source.files["utt2dur"].items()}
    if bad := [key for key, length in lengths.items() if length is None]:
        lines = (source.files["utt2dur"][key].decode(errors="replace").strip() for key in bad)
        raise LorsError(
            f"{len(bad)} value(s) are not positive numbers",
            where=path,
            got=shortened(lines),
            hint="correct these lines",
        )
    seconds = {key: lengths[key] for key in source.files["utt2spk"] if key in lengths}
    _check_number(number, len(seconds))
    return sorted(seconds, key=lambda key: (seconds[key], key))[:number]


def _length(line: bytes) -> float | None:
    try:
        seconds = float(line.split()[1])
    except ValueError:
        return None
    return seconds if 0 < seconds < float("inf") else None


def _whole_speakers(source: DataDir, number: int) -> list[bytes]:
    """All utterances of as many speakers as make at least `number` utterances together.

    The speakers are taken in the order of a hash of their ids, so that a larger part has all
    speakers of a smaller part.
    """
    chosen: list[bytes] = []
    of_speaker = by_speaker(speakers_of(source.files))
    for speaker in sorted(of_speaker, key=lambda s: hashlib.sha256(s).digest()):
        if len(chosen) >= number:
            break
        chosen += of_speaker[speaker]
    return chosen


def _per_speaker(source: DataDir, number: int) -> list[bytes]:
    """Up to `number` utterances of every speaker, at even distances."""
    groups = by_speaker(speakers_of(source.files)).values()
    return [key for keys in groups for key in _evenly(keys, min(number, len(keys)))]


def _evenly(keys: list[bytes], number: int) -> list[bytes]:
    return [keys[position * len(keys) // number] for position in range(number)]


RULES: Mapping[str, SubsetRule] = {
    "spread": _spread,
    "first": _first,
    "last": _last,
    "shortest": _shortest,
    "speakers": _whole_speakers,
    "per_spk": _per_speaker,
}
"""The rules by their names on the command line; ``spread`` is Kaldi's by default."""
