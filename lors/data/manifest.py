"""A user's own corpus as Kaldi data directories: every row is used, or listed with a reason.

With ``strict`` one bad row refuses the corpus, after all rows have been checked; otherwise the bad
rows are left out. All bad rows are listed in ``dropped.tsv`` in both cases. Problems of the file as
a whole (missing columns, a split without any clip) always refuse the corpus.

As for CoVoST 2, rows of train need text and translation; dev and test keep rows without them, so
that a score is over all rows.
"""

from __future__ import annotations

import functools
import logging
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lors.data.audio_source import check_folder
from lors.data.corpus_report import counts, losses, overlap, overlap_lines
from lors.data.datadir import TRANSLATION, Utterance, write_data_dirs
from lors.data.languages import CODES, check_languages
from lors.data.manifest_names import Manifest
from lors.data.manifest_records import Source
from lors.data.manifest_rows import UNKNOWN, LanguageRows, sort_rows
from lors.data.manifest_sources import NearNames, read_sources
from lors.data.selection import Drop, write_drops
from lors.errors import LorsError, UsageError, shortened
from lors.fileio import write_json
from lors.tasks import SPLITS

_ROWS_SHOWN = 50
log = logging.getLogger(__name__)


def prepare_manifest(
    manifests: str | os.PathLike | Sequence[Manifest],
    out: str | os.PathLike,
    langs: Sequence[str] = (),
    strict: bool = True,
    rename: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """Write ``<out>/<lang>/{train,dev,test}``, ``report.json`` and ``dropped.tsv``.

    Args:
        manifests: the path of a manifest, or several manifests with the languages and splits that
            are known of them (:mod:`lors.data.manifest_names`). A manifest is a table, a cut
            manifest or a folder (:mod:`lors.data.manifest_sources`).
        out: where to write; ``<out>/dropped.tsv`` lists the bad rows without a known language.
        langs: languages to write (default: all); rows of other languages are only counted. These
            languages may have any code.
        strict: whether one bad row refuses the corpus.
        rename: LoRS's column name -> the manifests'.

    Returns:
        the reports, one a language, as written to ``report.json``.

    Raises:
        LorsError: a manifest cannot be read; columns are missing; rows are bad (`strict`); a
            split of a language has no clip.
        UsageError: no row has one of `langs`; or as :func:`.manifest_sources.read_sources`.
    """
    out = Path(out)
    if isinstance(manifests, str | os.PathLike):
        manifests = [Manifest(Path(manifests))]
    if langs:
        check_languages(langs, "--langs")
    for folder in (*(manifest.path for manifest in manifests), out):
        check_folder(folder)
    source = read_sources(_not_of_others(manifests, langs), out / "audio", rename)
    where = source.where
    known = CODES | set(langs)
    _check_translations(source, known)
    languages, unplaced = sort_rows(source, langs, known)
    drops = [*unplaced, *(drop for found in languages.values() for drop in found.drops)]
    if langs:
        if not (drops and strict):
            _check_wanted(langs, languages, where)
        languages = _only(langs, languages)
    _list_drops(out, languages, unplaced)
    if drops and strict:
        _refuse(where, drops, out)
    _check_splits(languages, where, out)
    _log_genders(languages)
    write_data_dirs(
        {
            out / code / split: _complete(utterances, found)
            for code, found in languages.items()
            for split, utterances in found.splits.items()
        }
    )
    return [
        _write_report(out / code, code, where, languages[code], unplaced)
        for code in sorted(languages)
    ]


def format_manifest_reports(reports: Sequence[Mapping[str, Any]]) -> str:
    """Format the reports of several languages as one table for the terminal."""
    lines = [f"{'lang':7}{'split':7}{'rows':>9}{'clips':>9}{'speakers':>10}{'dropped':>9}  why"]
    for report in reports:
        lang = f"{report['lang']:7}"
        for split, row in report["splits"].items():
            line = (
                f"{lang}{split:7}{row['rows']:9}{row['clips']:9}{row['speakers']:10}"
                f"{row['drop_rate']:9.2%}  {losses(row)}"
            )
            lines.append(line.rstrip())
        if report["dropped_of_no_split"]:
            dropped = counts(report["dropped_of_no_split"])
            lines.append(f"{lang}rows of no known split, see dropped.tsv: {dropped}")
        if report["unknown_speakers"]:
            lines.append(
                f"{lang}{report['unknown_speakers']} clip(s) of unknown speakers, each counted as "
                "a speaker of its own"
            )
        lines += overlap_lines(report["lang"], report["overlap_with_train"])
    malformed = reports[0]["malformed_rows"] if reports else {}
    if malformed:
        lines.append(f"rows that cannot be read or placed, see dropped.tsv: {counts(malformed)}")
    return "\n".join(lines)


# --- checks -------------------------------------------------------------------------------------


def _not_of_others(manifests: Sequence[Manifest], langs: Collection[str]) -> Sequence[Manifest]:
    """Return the manifests without those that are said to be of a language that is not wanted."""
    wanted = [m for m in manifests if not (langs and m.lang) or m.lang in langs]
    if not wanted:
        return manifests  # the languages are checked later
    if others := [str(manifest) for manifest in manifests if manifest not in wanted]:
        log.info("not read, because --langs lacks the language: %s", ", ".join(others))
    return wanted


def _check_translations(source: Source, known: Collection[str]) -> None:
    """Check the languages of the columns ``text.<language>``."""
    columns = dict.fromkeys(name for row in source.rows for name in row.values)
    codes = [name.removeprefix(TRANSLATION) for name in columns if name.startswith(TRANSLATION)]
    unknown = [code for code in codes if code not in known]
    if unknown:
        near = NearNames(known)
        raise LorsError(
            "translations into unknown languages",
            where=source.where,
            got=shortened((f"{TRANSLATION}{code[:40]}{near.of(code)}" for code in unknown), 20),
            hint="correct the names of these columns; --langs allows any code",
        )


def _check_wanted(
    wanted: Collection[str], languages: Mapping[str, LanguageRows], where: Sequence[Path]
) -> None:
    """Check that there are rows of every wanted language."""
    absent = sorted(set(wanted) - {code for code, found in languages.items() if found.rows})
    if absent:
        near = NearNames(languages)
        raise UsageError(
            f"no row of {len(absent)} language(s)",
            where=["--langs", *where],
            expected=f"some of: {', '.join(sorted(languages))}",
            got=shortened((f"'{code}'{near.of(code)}" for code in absent), 20),
            hint="correct --langs, or the column lang",
        )


def _only(
    wanted: Collection[str], languages: Mapping[str, LanguageRows]
) -> dict[str, LanguageRows]:
    """Return the wanted languages; log the number of rows of the others."""
    others = {code: found.rows.total() for code, found in languages.items() if code not in wanted}
    if others:
        log.info("rows of languages that are not in --langs: %s", counts(others))
    return {code: found for code, found in languages.items() if code in wanted}


def _check_splits(languages: Mapping[str, LanguageRows], where: Sequence[Path], out: Path) -> None:
    """Check that every language has train, dev and test; a recipe needs all three."""
    absent = [
        f"{code} {split}: {found.rows[split]} rows, none of them good"
        for code, found in sorted(languages.items())
        for split in SPLITS
        if not found.splits[split]
    ]
    if absent or not languages:
        raise LorsError(
            "splits without a clip",
            where=where,
            expected=f"{', '.join(SPLITS)} of every language (dev may be called validation)",
            got=absent or "no good row at all",
            hint="move some speakers from train to the other splits; the bad rows are listed in "
            f"{out}/*/dropped.tsv",
        )


def _refuse(where: Sequence[Path], drops: Sequence[Drop], out: Path) -> None:
    """Raise the error for bad rows."""
    rows = [f"{drop.detail} ({drop.reason})" for drop in sorted(drops, key=_in_file_order)]
    raise LorsError(
        f"{len(drops)} problem(s) with the rows: {counts(Counter(d.reason for d in drops))}",
        where=where,
        got=shortened(rows, _ROWS_SHOWN),
        hint=f"correct them (all are listed in {out}/dropped.tsv and "
        f"{out}/<language>/dropped.tsv), or leave these rows out with --strict false",
    )


def _list_drops(out: Path, languages: Mapping[str, LanguageRows], unplaced: Sequence[Drop]) -> None:
    """Write ``dropped.tsv`` of all languages, and that of the rows without a known language."""
    write_drops(out / "dropped.tsv", sorted(unplaced, key=_in_file_order))
    for code, found in languages.items():
        write_drops(out / code / "dropped.tsv", sorted(found.drops, key=_in_file_order))


def _in_file_order(drop: Drop) -> tuple[str, ...]:
    """Return a key that sorts `line 10` after `line 9`."""
    return _sortable(drop.detail.split(": ")[0])


@functools.lru_cache(maxsize=1 << 16)  # a place with several problems is sorted several times
def _sortable(place: str) -> tuple[str, ...]:
    parts = re.split(r"(\d+)", place)
    return tuple(f"{int(part):012d}" if part.isdigit() else part for part in parts)


# --- output -------------------------------------------------------------------------------------


def _log_genders(languages: Mapping[str, LanguageRows]) -> None:
    """Log which labels are taken as an unknown gender."""
    labels: Counter[str] = Counter()
    for found in languages.values():
        labels += found.unknown_genders
    if labels:
        names = [f"{count} {label!r}" for label, count in labels.most_common()]
        log.info("gender taken as unknown: %s", ", ".join(shortened(names, 10)))
    both = [
        speaker for f in languages.values() for speaker, gender in f.genders.items() if not gender
    ]
    if both:
        log.info("speakers with two genders, taken as unknown: %s", ", ".join(shortened(both, 10)))


def _complete(utterances: list[Utterance], found: LanguageRows) -> list[Utterance]:
    """Return the utterances of a split with their genders, and with all durations or none."""
    known = [replace(utt, gender=found.genders.get(utt.speaker)) for utt in utterances]
    return _with_all_durations(known)


def _write_report(
    out: Path, lang: str, where: Sequence[Path], found: LanguageRows, unplaced: Iterable[Drop]
) -> dict[str, Any]:
    """Write and return the report of a language."""
    report = {
        "lang": lang,
        "manifests": [str(path) for path in where],
        "malformed_rows": dict(Counter(drop.reason for drop in unplaced)),
        "dropped_of_no_split": dict(_reasons(found, UNKNOWN)),
        "unknown_speakers": found.unknown_speakers,
        "splits": {split: _split_report(split, found) for split in SPLITS},
        "overlap_with_train": {
            split: overlap(found.splits["train"], found.splits[split]) for split in ("dev", "test")
        },
    }
    write_json(out / "report.json", report)
    return report


def _with_all_durations(utterances: list[Utterance]) -> list[Utterance]:
    """Remove the durations unless all utterances have one: ``utt2dur`` must be complete."""
    if all(utterance.duration is not None for utterance in utterances):
        return utterances
    return [replace(utterance, duration=None) for utterance in utterances]


def _split_report(split: str, found: LanguageRows) -> dict[str, Any]:
    utterances = found.splits[split]
    durations = [u.duration for u in utterances if u.duration is not None]
    complete = len(durations) == len(utterances)
    return {
        "rows": found.rows[split],
        "clips": len(utterances),
        "hours": round(sum(durations) / 3600, 4) if complete else None,
        "speakers": len({utterance.speaker for utterance in utterances}),
        "drop_rate": 1 - len(utterances) / found.rows[split],
        "dropped": dict(sorted(_reasons(found, split).items())),
        "kept_empty": sorted(found.kept_empty[split]),
    }


def _reasons(found: LanguageRows, split: str) -> Counter[str]:
    return Counter(drop.reason for drop in found.drops if drop.split == split)
