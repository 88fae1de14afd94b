"""Language and split of a whole manifest, said by the user or clear from its name.

``de/train=dump/raw/train_de`` says both; ``train=...`` and ``de=...`` say one of them. Without
these words the name may tell: ``train_de``, ``de/train``, ``valid_zh-CN``, ``test.de-en`` (speech
in German with English translations, as ESPnet names it).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lors.data.languages import CODES
from lors.errors import UsageError
from lors.fileio import name_problem
from lors.tasks import SPLITS

SPLIT_OF = {split: split for split in SPLITS} | dict.fromkeys(("validation", "valid", "val"), "dev")
"""Names of splits -> names in LoRS."""
HOW_TO_SAY = "say it: de/train=PATH, or train=PATH or de=PATH if the manifest itself has the other"
_SAID = re.compile(r"([\w-]+)(?:/([\w-]+))?")
_TRANSLATED = re.compile(r"(?:^|[._])([a-z]{2,3})-([a-z]{2,3})$")
_BY_LOWER_CASE = {code.lower(): code for code in CODES}


@dataclass(frozen=True)
class Manifest:
    """A manifest and what is known of all its rows.

    Attributes:
        path: a file or folder.
        lang: language of all rows; empty if each row has its own.
        split: ``train``, ``dev`` or ``test`` for all rows; empty if each row has its own.
    """

    path: Path
    lang: str = ""
    split: str = ""

    def __str__(self) -> str:
        said = "/".join(filter(None, (self.lang, self.split)))
        return f"{said}={self.path}" if said else str(self.path)


def parse_manifests(words: Iterable[str]) -> list[Manifest]:
    """Return the manifests of words like ``de/train=PATH`` or ``PATH``.

    Raises:
        UsageError: a split is unknown, a language cannot be a file name, or a language and split
            are given twice (all are listed).
    """
    manifests, problems = [], []
    for word in words:
        said, equals, path = word.partition("=")
        parts = _SAID.fullmatch(said)
        if not equals or not parts or Path(word).exists():
            manifests.append(Manifest(Path(word)))
            continue
        lang, split = parts[1], parts[2] or ""
        if not split and split_called(lang):
            lang, split = "", lang
        if split and not split_called(split):
            problems.append(f"{word}: no split is called '{split}'")
        elif lang and (problem := name_problem(lang)):
            problems.append(f"{word}: the language '{lang[:40]}': {problem}")
        elif not path:
            problems.append(f"{word}: no path")
        manifests.append(Manifest(Path(path), lang, split_called(split)))
    if problems:
        raise UsageError(
            f"{len(problems)} manifest(s) whose names cannot be read",
            expected=f"e.g. de/train=dump/raw/train_de; splits are {', '.join(SPLIT_OF)}",
            got=problems,
        )
    refuse_twice([((m.lang, m.split), m.path) for m in manifests if m.lang and m.split])
    return manifests


def split_called(name: str) -> str:
    """Return ``train``, ``dev`` or ``test`` for a name of a split; empty for another name."""
    return SPLIT_OF.get(name.strip().lower(), "")


def refuse_twice(found: Sequence[tuple[tuple[str, str], Path]]) -> None:
    """Check that a language and split come from one manifest.

    Args:
        found: language and split, and the manifest that has them.

    Raises:
        UsageError: two manifests have the same language and split (all are listed).
    """
    first: dict[tuple[str, str], Path] = {}
    twice = []
    for (lang, split), path in found:
        if first.setdefault((lang, split), path) is not path:
            twice.append(f"{lang}/{split}: {first[lang, split]} and {path}")
    if twice:
        raise UsageError(
            f"{len(twice)} split(s) are given twice",
            expected="each split of a language in one manifest",
            got=twice,
            hint="leave one out, or join data directories first: utils/combine_data.sh",
        )


def told_by_name(path: Path) -> tuple[str, str]:
    """Return language and split by the name of a file or folder; empty where it is not clear.

    A folder whose name is a language or split alone (``de/train``) tells the missing one.
    """
    name = path.name.partition(".json")[0]
    words = re.split(r"[^A-Za-z0-9]+", name)
    splits = {split_called(word) for word in words} - {""}
    langs = _languages_in(name, words)
    above = path.absolute().parent.name
    if not splits:
        splits = {split_called(above)}
    if not langs:
        langs = {above} & CODES
    return only(langs), only(splits)


def only(names: Iterable[str]) -> str:
    """Return the one name; empty if there are several, or none."""
    different = set(names)
    return different.pop() if len(different) == 1 else ""


def _languages_in(name: str, words: Sequence[str]) -> set[str]:
    translated = _TRANSLATED.search(name)
    if translated and set(translated.groups()) <= CODES:
        return {translated[1]}
    lower = [word.lower() for word in words]
    found = set()
    skip = False
    for word, following in zip(lower, [*lower[1:], ""], strict=True):
        if skip:
            skip = False
        elif f"{word}-{following}" in _BY_LOWER_CASE:
            found.add(_BY_LOWER_CASE[f"{word}-{following}"])
            skip = True
        elif word in CODES:
            found.add(word)
    return found
