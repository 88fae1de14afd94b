"""From the rows of a corpus to its splits: what is taken, what is dropped and why.

What CoVoST 2 and Common Voice have in common. Rows without text (or translation) are dropped from
train only: dev and test keep every clip whose audio is there, so that scores can be compared with
other people's. Every drop is counted and listed, and too large a loss is refused.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from lors.data.datadir import Utterance, write_data_dir
from lors.data.tsv import (
    Table,
    is_clip_name,
    is_empty,
    kaldi_gender,
    one_line,
    speaker_id,
    utterance_id,
)
from lors.errors import LorsError
from lors.fileio import atomic_write, write_json
from lors.tasks import SPLITS

_BAD_AUDIO = ("missing_file", "empty_file")


class Row(NamedTuple):
    """A row that a corpus puts into a split.

    Attributes:
        split: ``train``, ``dev`` or ``test``.
        clip: the audio file's name.
        sentence: what is said.
        client: Common Voice's name of the speaker; empty if not known.
        translations: language code -> translation.
        where: the table and the line.
        joined: whether the row was found in all the tables it has to be in.
    """

    split: str
    clip: str
    sentence: str
    client: str
    translations: Mapping[str, str]
    where: str
    joined: bool = True


class Drop(NamedTuple):
    """A row that was left out: of which split, which clip, why, and where it stands."""

    split: str
    clip: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Selection:
    """What became of the rows of one language.

    Attributes:
        splits: split -> its utterances.
        drops: the rows that were left out.
        kept_empty: split -> clips of dev and test that were kept without text or translation.
    """

    splits: dict[str, list[Utterance]] = field(default_factory=lambda: {s: [] for s in SPLITS})
    drops: list[Drop] = field(default_factory=list)
    kept_empty: dict[str, list[str]] = field(default_factory=lambda: {s: [] for s in SPLITS})


def select(
    rows: Sequence[Row], folder: Path, lang: str, genders: Mapping[str, str | None]
) -> Selection:
    """Sort rows into splits and drops.

    A clip that is listed in several splits is never trained on: the test set takes first.

    Args:
        rows: in the order of the tables.
        folder: where the clips are.
        lang: Common Voice's language code.
        genders: client -> ``m``, ``f`` or None.

    Raises:
        LorsError: two clients would share a speaker id.
    """
    selection = Selection()
    taken: dict[str, str] = {}
    client_of: dict[str, str] = {}
    by_split: dict[str, list[Row]] = {split: [] for split in SPLITS}
    for row in rows:
        by_split[row.split].append(row)
    for split in reversed(SPLITS):
        for row in by_split[split]:
            wav = f"{folder}/{row.clip}"
            empty = _what_is_empty(row)
            if not is_clip_name(row.clip):
                reason = "unsafe_name"
            elif not row.joined:
                reason = "not_in_validated"
            elif row.clip in taken:
                first = taken[row.clip]
                reason = "repeated_row" if first == split else f"also_in_{first}"
            elif split == "train" and empty:
                reason = empty
            else:
                reason = _audio_problem(wav)
            if reason:
                selection.drops.append(Drop(split, row.clip, reason, row.where))
                continue
            taken[row.clip] = split
            if empty:
                selection.kept_empty[split].append(row.clip)
            # A clip whose speaker is not known counts as a speaker of its own.
            speaker = _new_speaker(row.client or row.clip, client_of)
            utterance = _utterance(row, wav, speaker, lang, genders.get(row.client))
            selection.splits[split].append(utterance)
    return selection


def genders_of(clients: Iterable[tuple[str, str]]) -> dict[str, str | None]:
    """Client -> ``m``, ``f``, or None for who gives none or both, from (client, gender) rows."""
    genders: dict[str, str | None] = {}
    contradictory = set()
    for client, said in clients:
        gender = kaldi_gender(said)
        if client and gender and genders.setdefault(client, gender) != gender:
            contradictory.add(client)
    return {**genders, **dict.fromkeys(contradictory)}


def all_drops(selection: Selection, tables: Iterable[Table]) -> list[Drop]:
    """What was left out, and the rows of `tables` that could not be read; by split and clip."""
    malformed = [
        Drop("-", "-", "malformed_row", f"{table.path.name} line {line}: {why}")
        for table in tables
        for line, why in table.malformed
    ]
    return sorted(selection.drops + malformed, key=lambda d: (d.split, d.clip, d.detail))


def report_of(rows: Sequence[Row], selection: Selection, tables: Sequence[Table]) -> dict[str, Any]:
    """The part of a language's report that all corpora share: splits, overlap, malformed rows."""
    train = selection.splits["train"]
    return {
        "malformed_rows": {table.path.name: len(table.malformed) for table in tables},
        "splits": {split: _split_report(split, rows, selection) for split in SPLITS},
        "overlap_with_train": {s: overlap(train, selection.splits[s]) for s in ("dev", "test")},
    }


def _split_report(split: str, rows: Sequence[Row], selection: Selection) -> dict[str, Any]:
    own = [row for row in rows if row.split == split]
    joined = sum(row.joined for row in own)
    utterances = selection.splits[split]
    dropped = Counter(drop.reason for drop in selection.drops if drop.split == split)
    return {
        "rows": len(own),
        "joined": joined,
        "join_rate": joined / len(own),
        "clips": len(utterances),
        "speakers": len({utterance.speaker for utterance in utterances}),
        "drop_rate": 1 - len(utterances) / len(own),
        "dropped": dict(sorted(dropped.items())),
        "kept_empty": sorted(selection.kept_empty[split]),
    }


def overlap(train: Sequence[Utterance], other: Sequence[Utterance]) -> dict[str, int]:
    """How many different sentences and speakers of `other` are in `train` too."""
    sentences = {utterance.text for utterance in other}
    speakers = {utterance.speaker for utterance in other}
    return {
        "sentences": len(sentences & {utterance.text for utterance in train}),
        "of_sentences": len(sentences),
        "speakers": len(speakers & {utterance.speaker for utterance in train}),
        "of_speakers": len(speakers),
    }


def overlap_lines(lang: str, overlaps: Mapping[str, Mapping[str, int]]) -> list[str]:
    """What dev and test of a language share with train, as lines of a table."""
    return [
        f"{lang:7}{split} shares with train: {row['sentences']} of {row['of_sentences']} "
        f"sentences, {row['speakers']} of {row['of_speakers']} speakers"
        for split, row in overlaps.items()
    ]


def check_losses(report: Mapping[str, Any], max_bad_audio: float, listed_in: Path) -> None:
    """Refuse a language of which too much audio is not there, or a split of which nothing is left.

    Args:
        report: with ``lang`` and the ``splits`` of :func:`report_of`.
        max_bad_audio: largest share (0 to 1) of a split's rows with no or empty audio.
        listed_in: the file that lists the drops.

    Raises:
        LorsError: in these cases.
    """
    for split, row in report["splits"].items():
        bad = sum(row["dropped"].get(reason, 0) for reason in _BAD_AUDIO)
        if bad > max_bad_audio * row["joined"]:
            raise LorsError(
                f"{report['lang']} {split}: {bad} of {row['joined']} clips have no audio file or "
                "an empty one",
                where=listed_in,
                expected=f"at most {max_bad_audio:.0%}",
                hint="is the archive unpacked completely? "
                "--max_bad_audio raises the limit if you know that the loss is right",
            )
        if not row["clips"]:
            raise LorsError(
                f"{report['lang']} {split}: no clip is left",
                where=listed_in,
                got=", ".join(f"{count} {why}" for why, count in row["dropped"].items()),
            )


def check_files(files: Iterable[Path]) -> None:
    """LorsError that lists all those files and folders of a corpus that are missing."""
    missing = [str(file) for file in files if not file.exists()]
    if missing:
        raise LorsError(
            f"{len(missing)} file(s) or folder(s) of the corpus are missing",
            got="\n    ".join(["", *missing]),
            hint="unpack the archives of these languages, or leave the languages out of --langs",
        )


def write_language(
    out: Path, selection: Selection, report: Mapping[str, Any], max_bad_audio: float
) -> None:
    """Write ``out/{train,dev,test}`` and ``out/report.json``; LorsError as :func:`check_losses`."""
    check_losses(report, max_bad_audio, out / "dropped.tsv")
    for split in SPLITS:
        write_data_dir(out / split, selection.splits[split])
    write_json(out / "report.json", report)


def write_drops(path: Path, drops: Iterable[Drop]) -> None:
    """Write ``dropped.tsv``: split, clip, reason, detail."""
    with atomic_write(path) as handle:
        handle.write("split\tclip\treason\tdetail\n")
        for drop in drops:
            handle.write(
                f"{drop.split}\t{one_line(drop.clip)}\t{drop.reason}\t{one_line(drop.detail)}\n"
            )


def format_reports(reports: Sequence[Mapping[str, Any]]) -> str:
    """The reports of several languages as one table for the terminal."""
    lines = [
        f"{'lang':7}{'split':7}{'rows':>9}{'joined':>9}{'clips':>9}{'speakers':>10}"
        f"{'dropped':>9}  why"
    ]
    for report in reports:
        for split, row in report["splits"].items():
            why = ", ".join(f"{count} {reason}" for reason, count in row["dropped"].items())
            if row["kept_empty"]:
                why += f"{'; ' if why else ''}kept though empty: {len(row['kept_empty'])}"
            lines.append(
                f"{report['lang']:7}{split:7}{row['rows']:9}{row['join_rate']:9.2%}"
                f"{row['clips']:9}{row['speakers']:10}{row['drop_rate']:9.2%}  {why}".rstrip()
            )
        malformed = sum(report["malformed_rows"].values())
        if malformed:
            lines.append(f"{report['lang']:7}{malformed} malformed row(s), see dropped.tsv")
        lines += overlap_lines(report["lang"], report["overlap_with_train"])
    return "\n".join(lines)


def _utterance(row: Row, wav: str, speaker: str, lang: str, gender: str | None) -> Utterance:
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


def _what_is_empty(row: Row) -> str:
    if is_empty(row.sentence):
        return "empty_text"
    return "empty_translation" if any(map(is_empty, row.translations.values())) else ""


def _audio_problem(wav: str) -> str:
    try:
        size = os.stat(wav).st_size  # noqa: PTH116  (a million calls; Path takes twice as long)
    except OSError:
        return "missing_file"
    return "" if size else "empty_file"


def _new_speaker(client: str, client_of: dict[str, str]) -> str:
    speaker = speaker_id(client)
    if client_of.setdefault(speaker, client) != client:
        raise LorsError(
            f"two clients share the speaker id {speaker}",
            got=f"{client_of[speaker]} and {client}",
            hint="make SPEAKER_DIGITS in lors/data/tsv.py larger",
        )
    return speaker
