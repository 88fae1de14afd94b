"""Records of a TSV, CSV or JSONL manifest: one line each, with the manifest's own column names.

The file is UTF-8, with or without a byte order mark, with LF or CRLF line ends. TSV and CSV begin
with a line of column names. Nothing is quoted or escaped in TSV; a value of CSV may be in double
quotes, with a double quote written twice.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lors.data.datadir import TRANSLATION
from lors.errors import LorsError

_JSON_VALUES = (str, int, float, type(None))

Record = tuple[str, dict[str, str]]
"""Where a row is, for messages, and its values by column."""


@dataclass(frozen=True)
class ManifestRow:
    """A row of a corpus.

    Attributes:
        where: file and line, for messages.
        values: column -> value, with the column names of LoRS.
    """

    where: str
    values: Mapping[str, str]


@dataclass
class Source:
    """The rows of a corpus.

    Attributes:
        path: the manifest or folder.
        rows: all rows that could be read.
        malformed: for each other row: where it is, the reason in one word, and in a sentence.
    """

    path: Path
    rows: list[ManifestRow] = field(default_factory=list)
    malformed: list[tuple[str, str, str]] = field(default_factory=list)


def decoded_lines(source: Source) -> Iterator[tuple[str, str]]:
    """Yield the position and text of each line that is not blank; list lines that are not UTF-8."""
    with source.path.open("rb") as handle:
        for number, raw in enumerate(handle, 1):
            where = f"{source.path.name} line {number}"
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                why = f"not UTF-8: byte 0x{raw[error.start]:02x}"
                source.malformed.append((where, "not_utf8", why))
                continue
            if line.strip():
                yield where, line


def table_records(source: Source) -> Iterator[Record]:
    """Yield the rows of a TSV or CSV file; list those that cannot be read in ``malformed``."""
    split = _split_csv if source.path.suffix == ".csv" else _split_tsv
    names: list[str] = []
    for where, line in decoded_lines(source):
        try:
            values = split(line)
        except csv.Error as error:
            source.malformed.append((where, "bad_quotes", f"{error} (a value is one line)"))
            continue
        if not names:
            refuse_if_malformed(source, "the line of column names cannot be read")
            names = [name.strip() for name in values]
            repeated = sorted({name for name in names if names.count(name) > 1})
            if repeated:
                raise LorsError("column names are repeated", where=source.path, got=repeated)
        elif len(values) == len(names):
            yield where, dict(zip(names, values, strict=True))
        else:
            why = f"{len(values)} fields instead of {len(names)}"
            if len(values) > len(names):
                unit = "comma without quotes" if split is _split_csv else "tab"
                why += f": is there a {unit} inside of a sentence?"
            source.malformed.append((where, "wrong_fields", why))


def refuse_if_malformed(source: Source, what: str) -> None:
    """Raise a LorsError with the first malformed row, if there is one."""
    if source.malformed:
        where, _, why = source.malformed[0]
        hint = "save the file as UTF-8, without changing its name" if "UTF-8" in why else None
        raise LorsError(what, where=source.path, got=f"{where}: {why}", hint=hint)


def _split_tsv(line: str) -> list[str]:
    return line.split("\t")


def _split_csv(line: str) -> list[str]:
    # One line at a time: an unbalanced quote damages only its own row.
    return next(csv.reader([line], strict=True)) if '"' in line else line.split(",")


def json_records(source: Source) -> Iterator[Record]:
    """Yield the rows of a JSONL file; list those that cannot be read in ``malformed``.

    An object ``translations`` becomes columns ``text.<language>``.
    """
    for where, line in decoded_lines(source):
        try:
            record = json.loads(line)
        except ValueError as error:
            source.malformed.append((where, "bad_json", str(error)))
            continue
        if not isinstance(record, dict):
            source.malformed.append((where, "bad_json", "not an object {...}"))
            continue
        translations = record.get("translations")
        if isinstance(translations, dict):
            del record["translations"]
            record |= {TRANSLATION + code: value for code, value in translations.items()}
        wrong = [name for name, value in record.items() if not isinstance(value, _JSON_VALUES)]
        if wrong:
            why = f"neither text nor a number: {', '.join(wrong)}"
            source.malformed.append((where, "bad_json", why))
        else:
            yield where, {name: as_text(value) for name, value in record.items()}


def as_text(value: Any) -> str:
    """Return a JSON or Arrow value as text; None is empty."""
    return "" if value is None else str(value)
