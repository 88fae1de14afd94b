"""The report of stage 1 for CoVoST 2 and Common Voice: clips, drops, overlap with train."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lors.data.datadir import Utterance, write_data_dirs
from lors.data.selection import MALFORMED, Selection, SplitRow, SplitTable
from lors.errors import LorsError
from lors.fileio import write_json
from lors.tasks import SPLITS

_BAD = ("missing_file", "empty_file", MALFORMED)


def check_files(files: Iterable[Path]) -> None:
    """Check that these files and folders of a corpus exist; list all that are missing."""
    missing = [file for file in files if not file.exists()]
    if missing:
        raise LorsError(
            f"{len(missing)} file(s) or folder(s) of the corpus are missing",
            got=missing,
            hint="unpack the archives of these languages, or leave the languages out of --langs",
        )


def selection_report(
    rows: Sequence[SplitRow], selection: Selection, tables: Sequence[SplitTable]
) -> dict[str, Any]:
    """Return the parts of a language's report that do not depend on the corpus.

    These are ``malformed_rows``, ``splits`` and ``overlap_with_train``.
    """
    train = selection.splits["train"]
    return {
        "malformed_rows": {table.path.name: len(table.malformed) for _, table in tables},
        "splits": {
            split: _split_report(
                split, rows, selection, sum(len(t.malformed) for s, t in tables if s == split)
            )
            for split in SPLITS
        },
        "overlap_with_train": {s: overlap(train, selection.splits[s]) for s in ("dev", "test")},
    }


def overlap(train: Sequence[Utterance], other: Sequence[Utterance]) -> dict[str, int]:
    """Count the different sentences and speakers of `other`, and those that are also in `train`."""
    sentences = {utterance.text for utterance in other}
    speakers = {utterance.speaker for utterance in other}
    return {
        "sentences": len(sentences & {utterance.text for utterance in train}),
        "of_sentences": len(sentences),
        "speakers": len(speakers & {utterance.speaker for utterance in train}),
        "of_speakers": len(speakers),
    }


def overlap_lines(lang: str, overlaps: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Return the lines of a table that show what dev and test of a language share with train."""
    return [
        f"{lang:7}{split} shares with train: {row['sentences']} of {row['of_sentences']} "
        f"sentences, {row['speakers']} of {row['of_speakers']} speakers"
        for split, row in overlaps.items()
    ]


def write_language(
    out: Path, selection: Selection, report: Mapping[str, Any], max_bad_audio: float
) -> None:
    """Write ``out/{train,dev,test}`` and ``out/report.json``, unless too much is lost.

    Args:
        out: where to write; ``out/dropped.tsv`` lists the drops.
        selection: the utterances.
        report: with ``lang`` and the ``splits`` of :func:`selection_report`.
        max_bad_audio: largest share (0 to 1) of a split's rows that are malformed, or have no or
            empty audio.

    Raises:
        LorsError: more is lost than that, or a split has no clip left.
    """
    _check_losses(report, max_bad_audio, out / "dropped.tsv")
    write_data_dirs({out / split: selection.splits[split] for split in SPLITS})
    write_json(out / "report.json", report)


def format_corpus_reports(reports: Sequence[Mapping[str, Any]]) -> str:
    """Format the reports of several languages as one table for the terminal."""
    lines = [
        f"{'lang':7}{'split':7}{'rows':>9}{'joined':>9}{'clips':>9}{'speakers':>10}"
        f"{'dropped':>9}  why"
    ]
    for report in reports:
        for split, row in report["splits"].items():
            line = (
                f"{report['lang']:7}{split:7}{row['rows']:9}{row['join_rate']:9.2%}"
                f"{row['clips']:9}{row['speakers']:10}{row['drop_rate']:9.2%}  {losses(row)}"
            )
            lines.append(line.rstrip())
        malformed = sum(report["malformed_rows"].values())
        if malformed:
            lines.append(f"{report['lang']:7}{malformed} malformed row(s), see dropped.tsv")
        lines += overlap_lines(report["lang"], report["overlap_with_train"])
    return "\n".join(lines)


def losses(row: Mapping[str, Any]) -> str:
    """Return the last column of a split: the drops by reason, and the clips kept without text."""
    parts = [counts(row["dropped"])] if row["dropped"] else []
    if row["kept_empty"]:
        parts.append(f"kept though empty: {len(row['kept_empty'])}")
    return "; ".join(parts)


def counts(by_reason: Mapping[str, int]) -> str:
    """Return ``2 empty_text, 1 missing_file``, sorted by reason."""
    return ", ".join(f"{count} {reason}" for reason, count in sorted(by_reason.items()))


def _split_report(
    split: str, rows: Sequence[SplitRow], selection: Selection, malformed: int
) -> dict[str, Any]:
    own = [row for row in rows if row.split == split]
    total = len(own) + malformed
    joined = sum(row.joined for row in own)
    utterances = selection.splits[split]
    dropped = Counter(drop.reason for drop in selection.drops if drop.split == split)
    if malformed:
        dropped[MALFORMED] = malformed
    return {
        "rows": total,
        "joined": joined,
        "join_rate": joined / total,
        "clips": len(utterances),
        "speakers": len({utterance.speaker for utterance in utterances}),
        "drop_rate": 1 - len(utterances) / total,
        "dropped": dict(sorted(dropped.items())),
        "kept_empty": sorted(selection.kept_empty[split]),
    }


def _check_losses(report: Mapping[str, Any], max_bad_audio: float, drop_list: Path) -> None:
    for split, row in report["splits"].items():
        bad = sum(row["dropped"].get(reason, 0) for reason in _BAD)
        tried = row["joined"] + row["dropped"].get(MALFORMED, 0)
        if bad > max_bad_audio * tried:
            raise LorsError(
                f"{report['lang']} {split}: {bad} of {tried} rows are malformed, or have no audio "
                "file or an empty one",
                where=drop_list,
                expected=f"at most {max_bad_audio:.0%}",
                hint="is the archive unpacked completely? "
                "--max_bad_audio raises the limit if you know that the loss is right",
            )
        if not row["clips"]:
            raise LorsError(
                f"{report['lang']} {split}: no clip is left",
                where=drop_list,
                got=counts(row["dropped"]),
                hint="is the archive unpacked completely? Or leave the language out of --langs",
            )
