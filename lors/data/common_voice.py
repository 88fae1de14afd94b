"""Common Voice's own splits, of any release, as Kaldi data directories for speech recognition.

Train is either ``train.tsv`` (official: few recordings of each sentence), or all validated clips
that are in neither dev nor test. Many speakers read the same sentence, so the second choice shares
sentences with the test set; the report has their number.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lors.config import FRACTION, check_number
from lors.data.audio_source import check_folder
from lors.data.corpus_report import check_files, selection_report, write_language
from lors.data.languages import check_languages
from lors.data.selection import SplitRow, all_drops, clip_name, select, write_drops
from lors.data.speakers import genders_of
from lors.data.tsv import Table, read_tsv
from lors.errors import LorsError, unknown_name
from lors.tasks import SPLITS

TRAIN_TABLES = ("train", "validated")
log = logging.getLogger(__name__)


def prepare_common_voice(
    release: Path, langs: Sequence[str], out: Path, train: str = "train", max_bad_audio: float = 0.1
) -> list[dict[str, Any]]:
    """Write the data directories ``<out>/<lang>/{train,dev,test}`` of several languages.

    Returns:
        the reports of the languages. For arguments and errors see :func:`check_release` and
        :func:`write_common_voice_splits`.
    """
    check_release(release, langs, train)
    check_number(max_bad_audio, FRACTION, "--max_bad_audio")
    reports = []
    for lang in langs:
        reports.append(write_common_voice_splits(release, lang, out / lang, train, max_bad_audio))
        log.info("%s: data directories written to %s", lang, out / lang)
    return reports


def check_release(release: Path, langs: Sequence[str], train: str = "train") -> None:
    """Check that the files of all languages are there.

    Raises:
        UsageError: the release does not have one of the languages, or its name is not a name of a
            folder.
        LorsError: the folder or files are missing (all are listed).
    """
    check_languages(langs, "--langs")
    check_folder(release)
    if not release.is_dir():
        raise LorsError(
            "the Common Voice folder does not exist",
            where=release,
            expected="a folder cv-corpus-<version>-<date> with one folder a language",
            hint="unpack the corpus there, or give the folder that has it (in a recipe: db.sh)",
        )
    present = {file.parent.name for file in release.glob("*/test.tsv")}
    names = [f"{table}.tsv" for table in (train, "dev", "test")] + ["clips"]
    files: list[Path] = []
    for lang in langs:
        if not (release / lang).is_dir():
            raise unknown_name("language", lang, present, where=release)
        files += [release / lang / name for name in names]
    check_files(files)


def write_common_voice_splits(
    release: Path, lang: str, out: Path, train: str = "train", max_bad_audio: float = 0.1
) -> dict[str, Any]:
    """Write the splits of one language: ``out/{train,dev,test}``, ``dropped.tsv``, ``report.json``.

    Args:
        release: folder with ``<lang>/{train,dev,test,validated}.tsv`` and ``<lang>/clips``.
        lang: Common Voice's language code.
        out: where to write.
        train: the table that train is taken from, ``train`` or ``validated``; its clips that are
            also in dev or test are left out.
        max_bad_audio: largest share (0 to 1) of a split's rows that are malformed, or have no or
            empty audio.

    Returns:
        the report, as written to ``report.json``.

    Raises:
        LorsError: a table cannot be read or has no row; more is lost than `max_bad_audio`
            (``dropped.tsv`` is still written); a split has no clip left.
    """
    columns = ("path", "sentence", "client_id")
    tables = {
        split: read_tsv(release / lang / f"{name}.tsv", columns, ("gender",))
        for split, name in zip(SPLITS, (train, "dev", "test"), strict=True)
    }
    rows = [row for split, table in tables.items() for row in _rows(split, table)]
    folder = (release / lang / "clips").resolve()
    genders = genders_of((row[2], row[3]) for table in tables.values() for row in table.rows)
    selection = select(rows, folder, lang, genders)
    write_drops(out / "dropped.tsv", all_drops(selection, tables.items()))
    report = {
        "lang": lang,
        "common_voice": str(release),
        "train_from": f"{train}.tsv",
        **selection_report(rows, selection, list(tables.items())),
    }
    write_language(out, selection, report, max_bad_audio)
    return report


def _rows(split: str, table: Table) -> list[SplitRow]:
    if not table.rows:
        raise LorsError(
            "a table without rows",
            where=table.path,
            got=f"{len(table.malformed)} malformed row(s)",
            hint="small languages of some releases have an empty dev.tsv or test.tsv: "
            "leave the language out of --langs",
        )
    return [
        SplitRow(split, clip_name(name), sentence, client, {}, f"{table.path.name} line {line}")
        for (name, sentence, client, _), line in zip(table.rows, table.lines, strict=True)
    ]
