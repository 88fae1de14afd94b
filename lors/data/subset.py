"""Subsets of training data by hours: the same everywhere, balanced over speakers, and nested.

All clips are put into one order, and a subset of h hours is its beginning: so the five-hour subset
lies inside the ten-hour one. First come the first clips of all speakers, then their second ones,
and so on; what is a speaker's first clip, and which speaker comes first, is decided by a hash of
the clip's name.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from lors.data.datadir import Utterance
from lors.errors import LorsError
from lors.fileio import write_text


def clip_names(utterances: Sequence[Utterance]) -> list[str]:
    """By what a subset calls its clips: file names, or utterance ids where file names repeat.

    An id holds the speaker's, and Common Voice names its speakers anew with every release.
    """
    names = [Path(utterance.wav).name for utterance in utterances]
    return names if len(set(names)) == len(names) else [utterance.id for utterance in utterances]


def in_order(utterances: Sequence[Utterance]) -> list[Utterance]:
    """All utterances, in the order in which subsets take them."""
    hashes = [hashlib.sha256(name.encode()).digest() for name in clip_names(utterances)]
    seen: Counter[str] = Counter()
    ranked = []
    for _, utterance in sorted(zip(hashes, utterances, strict=True), key=lambda p: p[0]):
        ranked.append((seen[utterance.speaker], utterance))
        seen[utterance.speaker] += 1
    return [utterance for _, utterance in sorted(ranked, key=lambda pair: pair[0])]


def listed(utterances: Sequence[Utterance], names: Iterable[str], where: object) -> list[Utterance]:
    """The utterances whose clips are named.

    Raises:
        LorsError: clips that are named twice, or that are none of `utterances`.
    """
    by_name = dict(zip(clip_names(utterances), utterances, strict=True))
    names = list(names)
    repeated = [name for name, count in Counter(names).items() if count > 1]
    unknown = [name for name in names if name not in by_name]
    if repeated or unknown or not names:
        raise LorsError(
            "a list of clips that does not fit the data",
            where=where,
            expected="one clip of the data directory a line, each once",
            got=f"{len(names)} lines, {len(unknown)} of clips that are not there, {len(repeated)} "
            f"repeated: {', '.join((unknown + repeated)[:3])}",
            hint="was the list made from another language or release?",
        )
    return [by_name[name] for name in names]


def read_list(path: str | os.PathLike) -> list[str]:
    """The lines of a list of clips.

    Raises:
        LorsError: the file is missing or not UTF-8.
    """
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise LorsError("file not found", where=path) from None
    except UnicodeDecodeError as error:
        raise LorsError("not UTF-8", where=path, got=str(error)) from None


def write_list(path: str | os.PathLike, names: Iterable[str]) -> None:
    """Write a list of clips, sorted, one a line; a file that has them already is left alone."""
    names = sorted(names)
    if not Path(path).exists() or read_list(path) != names:
        write_text(path, "".join(f"{name}\n" for name in names))
