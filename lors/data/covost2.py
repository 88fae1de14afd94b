"""CoVoST 2 on Common Voice 4: the official splits as Kaldi data directories.

The splits are those of ``get_covost_splits.py`` (github.com/facebookresearch/covost): an inner join
of ``covost_v2.<source>_<target>.tsv`` with ``validated.tsv`` on the clip's name. Rows marked
``train`` or ``train_covost`` are train, rows marked ``dev`` or ``test`` are dev or test, other
rows are not used. Every clip that is lost in the join or in a check is counted and listed, and too
large a loss is refused (:mod:`lors.data.selection`, :mod:`lors.data.corpus_report`).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lors.config import FRACTION, check_number
from lors.data.audio_source import check_folder
from lors.data.corpus_report import check_files, selection_report, write_language
from lors.data.languages import check_languages
from lors.data.selection import NO_SPLIT, SplitRow, all_drops, clip_name, select, write_drops
from lors.data.speakers import genders_of
from lors.data.tsv import Table, read_tsv
from lors.errors import LorsError, UsageError, unknown_name
from lors.fileio import path_component
from lors.tasks import SPLITS, TARGET

_SPLIT_OF = {"train": "train", "train_covost": "train", "dev": "dev", "test": "test"}
log = logging.getLogger(__name__)


def prepare_covost2(
    common_voice: Path,
    covost2: Path,
    langs: Sequence[str],
    out: Path,
    min_join: float = 0.95,
    max_bad_audio: float = 0.1,
    target: str = TARGET,
) -> list[dict[str, Any]]:
    """Write the data directories ``<out>/<lang>/{train,dev,test}`` of several languages.

    Returns:
        the reports of the languages. For arguments and errors see :func:`check_corpus` and
        :func:`write_covost2_splits`.
    """
    check_corpus(common_voice, covost2, langs, target)
    check_number(min_join, FRACTION, "--min_join")
    check_number(max_bad_audio, FRACTION, "--max_bad_audio")
    reports = []
    for lang in langs:
        reports.append(
            write_covost2_splits(
                common_voice, covost2, lang, out / lang, min_join, max_bad_audio, target
            )
        )
        log.info("%s: data directories written to %s", lang, out / lang)
    return reports


def check_corpus(
    common_voice: Path, covost2: Path, langs: Sequence[str], target: str = TARGET
) -> None:
    """Check that the files of all languages are there.

    Raises:
        UsageError: neither corpus has one of the languages, or its name is not a name of a folder.
        LorsError: a folder or files are missing (all are listed).
    """
    check_languages(langs, "--langs")
    path_component(target, "--target", UsageError)
    check_folder(common_voice)
    for name, folder in (("Common Voice", common_voice), ("CoVoST 2", covost2)):
        if not folder.is_dir():
            raise LorsError(
                f"the {name} folder does not exist",
                where=folder,
                hint="unpack the corpus there, or give the folder that has it (in a recipe: db.sh)",
            )
    speech = {file.parent.name for file in common_voice.glob("*/validated.tsv")}
    suffix = f"_{target}.tsv"
    translated = {
        file.name.removeprefix("covost_v2.").removesuffix(suffix)
        for file in covost2.glob(f"covost_v2.*{suffix}")
    }
    files: list[Path] = []
    for lang in langs:
        if lang not in speech | translated:
            raise unknown_name(
                "language", lang, speech & translated, where=f"{common_voice} and {covost2}"
            )
        folder = common_voice / lang
        files += [folder / "validated.tsv", folder / "clips", _covost_tsv(covost2, lang, target)]
    check_files(files)


def write_covost2_splits(
    common_voice: Path,
    covost2: Path,
    lang: str,
    out: Path,
    min_join: float = 0.95,
    max_bad_audio: float = 0.1,
    target: str = TARGET,
) -> dict[str, Any]:
    """Write the splits of one language: ``out/{train,dev,test}``, ``dropped.tsv``, ``report.json``.

    Args:
        common_voice: folder of the release, with ``<lang>/validated.tsv`` and ``<lang>/clips``.
        covost2: folder with ``covost_v2.<lang>_<target>.tsv``.
        lang: Common Voice's code of the spoken language.
        out: where to write.
        min_join: least share (0 to 1) of a split's rows that must be in ``validated.tsv``.
        max_bad_audio: largest share (0 to 1) of a split's joined rows with no or empty audio.
        target: CoVoST 2's code of the language of the translations.

    Returns:
        the report, as written to ``report.json``.

    Raises:
        LorsError: a table cannot be read; more is lost than the limits allow (``dropped.tsv`` is
            still written); a split has no clip left.
    """
    validated, covost = read_tables(common_voice, covost2, lang, target)
    rows, clips = join(validated, covost, target)
    _check_join(covost, rows, min_join)

    folder = (common_voice / lang / "clips").resolve()
    genders = genders_of((client, gender) for _, _, client, gender in validated.rows)
    selection = select(rows, folder, lang, genders)
    tables = [(NO_SPLIT, validated), (NO_SPLIT, covost)]
    write_drops(out / "dropped.tsv", all_drops(selection, tables))
    report = {
        "lang": lang,
        "target": target,
        "common_voice": str(common_voice),
        "covost2": str(covost2),
        "repeated_in_validated": len(validated.rows) - clips,
        "rows_of_other_splits": dict(
            Counter(row[2] for row in covost.rows if row[2] not in _SPLIT_OF)
        ),
        **selection_report(rows, selection, tables),
    }
    write_language(out, selection, report, max_bad_audio)
    return report


def read_tables(
    common_voice: Path, covost2: Path, lang: str, target: str = TARGET
) -> tuple[Table, Table]:
    """Read the tables of a language.

    Returns:
        ``validated.tsv`` with the columns path, sentence, client_id, gender; CoVoST 2's table with
        the columns path, translation, split.

    Raises:
        LorsError: a table cannot be read.
    """
    return (
        read_tsv(
            common_voice / lang / "validated.tsv", ("path", "sentence", "client_id"), ("gender",)
        ),
        read_tsv(_covost_tsv(covost2, lang, target), ("path", "translation", "split")),
    )


def _covost_tsv(covost2: Path, lang: str, target: str) -> Path:
    return covost2 / f"covost_v2.{lang}_{target}.tsv"


def join(validated: Table, covost: Table, target: str = TARGET) -> tuple[list[SplitRow], int]:
    """Return CoVoST 2's rows with their sentences, and the number of different validated clips."""
    clips: dict[str, tuple[str, str]] = {}
    for name, sentence, client, _ in validated.rows:
        clips.setdefault(clip_name(name), (sentence, client))
    rows = [
        SplitRow(
            _SPLIT_OF[mark],
            clip_name(name),
            *clips.get(clip_name(name), ("", "")),
            {target: translation},
            f"{covost.path.name} line {line}",
            joined=clip_name(name) in clips,
        )
        for (name, translation, mark), line in zip(covost.rows, covost.lines, strict=True)
        if mark in _SPLIT_OF
    ]
    return rows, len(clips)


def _check_join(covost: Table, rows: Sequence[SplitRow], min_join: float) -> None:
    """Check that enough of CoVoST 2's rows are in the release."""
    counts = Counter(row.split for row in rows)
    joined: Mapping[str, int] = Counter(row.split for row in rows if row.joined)
    absent = [split for split in SPLITS if not counts[split]]
    if absent:
        raise LorsError(
            f"no row of the split(s) {', '.join(absent)}",
            where=covost.path,
            got=f"{len(covost.rows)} readable and {len(covost.malformed)} malformed row(s)",
            hint="the file is incomplete: download and unpack its archive again",
        )
    if len(covost.malformed) > (1 - min_join) * (len(covost.rows) + len(covost.malformed)):
        first, why = covost.malformed[0]
        raise LorsError(
            f"{len(covost.malformed)} malformed rows, {len(covost.rows)} good ones",
            where=covost.path,
            got=f"line {first}: {why}",
            hint="the file is damaged: download and unpack its archive again",
        )
    if any(joined[split] < min_join * counts[split] for split in SPLITS):
        raise LorsError(
            "too few of CoVoST 2's clips are in this Common Voice release",
            where=covost.path,
            expected=f"at least {min_join:.0%} of each split's rows in validated.tsv",
            got=[
                f"{split} {joined[split]} of {counts[split]} ({joined[split] / counts[split]:.1%})"
                for split in SPLITS
            ],
            hint="CoVoST 2 is made for Common Voice 4 (cv-corpus-4-2019-12-10); "
            "--min_join lowers the limit if you know that the loss is right",
        )
