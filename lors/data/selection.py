"""From the rows of a corpus to its splits: which clips are kept, which are dropped and why.

CoVoST 2 and Common Voice share these rules. Rows without text (or translation) are dropped from
train only: dev and test keep every clip whose audio is there, so that scores can be compared with
those of others.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from lors.data.datadir import Utterance, one_line
from lors.data.speakers import SpeakerIds
from lors.data.tsv import Table
from lors.fileio import atomic_write
from lors.tasks import SPLITS

_CLIP_NAME = re.compile(r"\w[\w.-]*")
MALFORMED = "malformed_row"
"""Reason of a :class:`Drop` whose row could not be read."""
NO_SPLIT = "-"
"""The split of a row or table that belongs to none."""
SplitTable = tuple[str, Table]
"""A split (or :data:`NO_SPLIT`) and the table with its rows."""


class SplitRow(NamedTuple):
    """A row that belongs to a split.

    Attributes:
        split: ``train``, ``dev`` or ``test``.
        clip: the audio file's name.
        sentence: the words that are spoken.
        client: Common Voice's name of the speaker; empty if not known.
        translations: language code -> translation.
        where: the table and the line.
        joined: whether the clip is in all the tables that it must be in.
    """

    split: str
    clip: str
    sentence: str
    client: str
    translations: Mapping[str, str]
    where: str
    joined: bool = True


class Drop(NamedTuple):
    """A row that was left out.

    Attributes:
        split: its split, or ``-`` if it has none.
        clip: the name or path of its clip, or ``-``.
        reason: why, in one word of a fixed list.
        detail: where the row is, and possibly why in more words.
    """

    split: str
    clip: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Selection:
    """The rows of one language, as utterances and drops.

    Attributes:
        splits: split -> its utterances.
        drops: the rows that were left out.
        kept_empty: split -> clips of dev and test that were kept without text or translation.
    """

    splits: dict[str, list[Utterance]] = field(default_factory=lambda: {s: [] for s in SPLITS})
    drops: list[Drop] = field(default_factory=list)
    kept_empty: dict[str, list[str]] = field(default_factory=lambda: {s: [] for s in SPLITS})


def select(
    rows: Sequence[SplitRow], folder: Path, lang: str, genders: Mapping[str, str | None]
) -> Selection:
    """Sort rows into splits and drops.

    A clip that is listed in several splits is never trained on: it stays in the test set, else in
    dev.

    Args:
        rows: in the order of the tables.
        folder: the clips' folder.
        lang: Common Voice's language code.
        genders: client -> ``m``, ``f`` or None.

    Raises:
        LorsError: two clients have the same speaker id.
    """
    selection = Selection()
    taken: dict[str, str] = {}
    speakers = SpeakerIds()
    by_split: dict[str, list[SplitRow]] = {split: [] for split in SPLITS}
    for row in rows:
        by_split[row.split].append(row)
    for split in reversed(SPLITS):
        for row in by_split[split]:
            wav = f"{folder}/{row.clip}"
            empty = _empty_field(row)
            if reason := _drop_reason(row, wav, empty, taken):
                selection.drops.append(Drop(split, row.clip, reason, row.where))
                continue
            taken[row.clip] = split
            if empty:
                selection.kept_empty[split].append(row.clip)
            # A clip whose speaker is not known counts as a speaker of its own.
            speaker = speakers.of(row.client or row.clip)
            utterance = _utterance(row, wav, speaker, lang, genders.get(row.client))
            selection.splits[split].append(utterance)
    return selection


def all_drops(selection: Selection, tables: Iterable[SplitTable]) -> list[Drop]:
    """Return all drops, sorted by split and clip, with the rows that could not be read."""
    malformed = [
        Drop(split, "-", MALFORMED, f"{table.path.name} line {line}: {why}")
        for split, table in tables
        for line, why in table.malformed
    ]
    return sorted(selection.drops + malformed, key=lambda d: (d.split, d.clip, d.detail))


def write_drops(path: Path, drops: Iterable[Drop]) -> None:
    """Write ``dropped.tsv``: split, clip, reason, detail."""
    with atomic_write(path) as handle:
        handle.write("split\tclip\treason\tdetail\n")
        for drop in drops:
            handle.write(
                f"{drop.split}\t{one_line(drop.clip)}\t{drop.reason}\t{one_line(drop.detail)}\n"
            )


def is_empty(text: str) -> bool:
    """Return whether a sentence or translation is only white space and double quotes."""
    # The first test is for speed: most texts begin with a letter.
    return not text[:1].isalpha() and not text.replace('"', "").strip()


def is_clip_name(name: str) -> bool:
    """Return whether `name` is a plain file name.

    A name comes from a table and becomes part of a path and of ``wav.scp``. Folders, ``..``,
    white space and a final ``|`` (for some readers of ``wav.scp`` a command to run) are refused.
    """
    return _CLIP_NAME.fullmatch(name) is not None


def clip_name(name: str) -> str:
    """Return the file name of a clip; some releases of Common Voice leave out the ``.mp3``."""
    return name if "." in name or not name else f"{name}.mp3"


def utterance_id(speaker: str, lang: str, clip: str) -> str:
    """Return ``<speaker>-<lang>-<number>`` for ``common_voice_<lang>_<number>.mp3``.

    A clip of another name has that name, without its extension, in place of the number.
    """
    stem = clip.rsplit(".", 1)[0]
    return f"{speaker}-{lang}-{stem.removeprefix(f'common_voice_{lang}_')}"


def _drop_reason(row: SplitRow, wav: str, empty: str, taken: Mapping[str, str]) -> str:
    """Return why a row is dropped; an empty string if it is kept."""
    if not is_clip_name(row.clip):
        return "unsafe_name"
    if not row.joined:
        return "not_in_validated"
    if row.clip in taken:
        first = taken[row.clip]
        return "repeated_row" if first == row.split else f"also_in_{first}"
    if row.split == "train" and empty:
        return empty
    return _audio_problem(wav)


def _empty_field(row: SplitRow) -> str:
    if is_empty(row.sentence):
        return "empty_text"
    return "empty_translation" if any(map(is_empty, row.translations.values())) else ""


def _audio_problem(wav: str) -> str:
    try:
        state = os.stat(wav)  # noqa: PTH116  (a million calls; Path takes twice as long)
    except (OSError, ValueError):  # a name that is too long, or not UTF-8
        return "missing_file"
    if not stat.S_ISREG(state.st_mode):
        return "missing_file"
    return "" if state.st_size else "empty_file"


def _utterance(row: SplitRow, wav: str, speaker: str, lang: str, gender: str | None) -> Utterance:
    return Utterance(
        id=utterance_id(speaker, lang, row.clip),
        wav=wav,
        speaker=speaker,
        lang=lang,
        text="" if is_empty(row.sentence) else one_line(row.sentence),
        translations={
            code: "" if is_empty(text) else one_line(text)
            for code, text in row.translations.items()
        },
        gender=gender,
    )
