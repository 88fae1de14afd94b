"""Subsets of training data by hours: the same everywhere, balanced over speakers, and nested.

All clips have one order, and a subset of h hours is its beginning; so the five-hour subset is part
of the ten-hour subset. A hash of the name orders the clips of each speaker. The order begins with
the first clips of all speakers, then come all second clips, and so on, each group ordered by the
hash.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from lors.config import Range
from lors.data.datadir import Utterance
from lors.errors import LorsError, UsageError, shortened, unknown_name
from lors.fileio import write_text

HOURS = Range(0.001, 1e6)
"""Hours of a subset."""


def hours_of(words: Sequence[str], langs: Sequence[str]) -> dict[str, float]:
    """Return the hours of training clips of languages; a language with all of its clips is absent.

    Args:
        words: hours of every language, ``5``, and of single languages, ``fr=0.5``.
        langs: all languages.

    Raises:
        UsageError: a word of another form, a number out of range, a language that is not among
            `langs` or is given twice.
    """
    found: dict[str, float] = {}
    for word in words:
        lang, _, number = word.rpartition("=")
        try:
            hours = float(number)
        except ValueError:
            hours = float("nan")
        if hours not in HOURS or lang in found:
            raise UsageError(
                "no such hours of training clips",
                where="--train_hours",
                expected=f"hours {HOURS} of every language (5), of one language (fr=0.5), or "
                "both, each once",
                got=" ".join(words),
            )
        if lang and lang not in langs:
            raise unknown_name("language", lang, langs, where="--train_hours")
        found[lang] = hours
    every = {} if "" not in found else dict.fromkeys(langs, found.pop(""))
    return every | found


def clip_names(utterances: Sequence[Utterance]) -> list[str]:
    """Return the names of clips in a subset: file names, or utterance ids if file names repeat.

    Ids are the second choice: they include the speaker's id, which Common Voice changes with every
    release.
    """
    names = [Path(utterance.wav).name for utterance in utterances]
    return names if len(set(names)) == len(names) else [utterance.id for utterance in utterances]


def subset_order(utterances: Sequence[Utterance]) -> list[Utterance]:
    """Return all utterances, in the order in which subsets take them."""
    hashes = [hashlib.sha256(name.encode()).digest() for name in clip_names(utterances)]
    seen: Counter[str] = Counter()
    ranked = []
    for _, utterance in sorted(zip(hashes, utterances, strict=True), key=lambda p: p[0]):
        ranked.append((seen[utterance.speaker], utterance))
        seen[utterance.speaker] += 1
    return [utterance for _, utterance in sorted(ranked, key=lambda pair: pair[0])]


def utterances_called(
    names: Iterable[str], utterances: Sequence[Utterance], where: object
) -> list[Utterance]:
    """Return the utterances of these clip names, in the order of the names.

    Args:
        names: as from :func:`clip_names`.
        utterances: the utterances of a data directory.
        where: the data directory, for the error message.

    Raises:
        LorsError: there is no name, or a name is repeated or is not among `utterances`.
    """
    by_name = dict(zip(clip_names(utterances), utterances, strict=True))
    names = list(names)
    repeated = [name for name, count in Counter(names).items() if count > 1]
    unknown = [name for name in names if name not in by_name]
    if repeated or unknown or not names:
        raise LorsError(
            f"the list of clips ({len(names)} lines) does not match the data",
            where=where,
            expected="one clip of the data directory a line, each once",
            got=shortened(
                [f"not in the data: {name}" for name in unknown]
                + [f"repeated: {name}" for name in repeated]
            )
            or "an empty list",
            hint="was the list made from another language or release?",
        )
    return [by_name[name] for name in names]


def read_list(path: str | os.PathLike) -> list[str]:
    """Read a list of clips.

    Raises:
        LorsError: the file is missing or not UTF-8.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise LorsError(
            "file not found",
            where=path,
            expected="a list of clips, <lang>_<split>.txt",
            hint="give the folder that has the lists of these languages",
        ) from None
    except UnicodeDecodeError as error:
        raise LorsError(
            "not UTF-8", where=path, got=str(error), hint="copy the list again"
        ) from None


def write_list(path: str | os.PathLike, names: Iterable[str]) -> None:
    """Write a list of clips, sorted, one a line; an identical file is not written again."""
    names = sorted(names)
    if not Path(path).exists() or read_list(path) != names:
        write_text(path, "".join(f"{name}\n" for name in names))
