"""The report of a language after stages 1 and 2: clips, hours, speakers, drops, overlap."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lors.data.corpus_report import counts, overlap, overlap_lines
from lors.data.datadir import read_data_dir
from lors.fileio import read_json, write_json


def language_report(data: Path, dump: Path, lang: str, splits: Sequence[str]) -> dict[str, Any]:
    """Write ``<dump>/<lang>/report.json`` for formatted splits.

    Args:
        data: data directories of stage 1; the drops in ``<data>/<lang>/report.json``, if it is
            there, are added to those of stage 2.
        dump: data directories of stage 2.
        lang: language code.
        splits: the splits to report; the overlap is with ``train``, if it is among them.

    Returns:
        ``lang``, ``splits`` (clips, hours, speakers, and dropped: reason -> number) and
        ``overlap_with_train``.

    Raises:
        LorsError: a report or a data directory cannot be read.
    """
    earlier: dict[str, Any] = {}
    if (data / lang / "report.json").exists():
        earlier = read_json(data / lang / "report.json").get("splits", {})
    rows = {}
    for split in splits:
        row = read_json(dump / lang / split / "report.json")
        before = earlier.get(split, {})
        dropped = Counter(before.get("dropped", {})) + Counter(row["dropped"])
        rows[split] = {
            **{key: row[key] for key in ("clips", "hours", "speakers")},
            "dropped": dict(sorted(dropped.items())),
            "kept_empty": len(before.get("kept_empty", ())),
        }
    overlaps = {}
    if "train" in splits:
        train = read_data_dir(dump / lang / "train")
        others = [split for split in splits if split != "train"]
        overlaps = {split: overlap(train, read_data_dir(dump / lang / split)) for split in others}
    report = {"lang": lang, "splits": rows, "overlap_with_train": overlaps}
    path = dump / lang / "report.json"
    if not path.exists() or read_json(path) != report:  # a rerun leaves finished files alone
        write_json(path, report)
    return report


def format_language_reports(reports: Sequence[Mapping[str, Any]]) -> str:
    """Format the reports of several languages as one table for the terminal."""
    lines = [f"{'lang':7}{'split':7}{'clips':>9}{'hours':>9}{'speakers':>10}  dropped"]
    for report in reports:
        for split, row in report["splits"].items():
            lines.append(
                f"{report['lang']:7}{split:7}{row['clips']:9}{row['hours']:9.2f}"
                f"{row['speakers']:10}  {counts(row['dropped'])}".rstrip()
            )
        lines += overlap_lines(report["lang"], report["overlap_with_train"])
    return "\n".join(lines)
