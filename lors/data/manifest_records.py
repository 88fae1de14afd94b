"""Records of a TSV, CSV or JSONL manifest: one line each, with the manifest's own column names.

The file is UTF-8, with or without a byte order mark, with LF or CRLF line ends. TSV and CSV begin
with a line of column names. Nothing is quoted or escaped in TSV; a value of CSV may be in double
quotes, with a double quote written twice.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import json
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from lors.data.datadir import TRANSLATION
from lors.errors import LorsError, shortened

MOST_COLUMNS = 1000
"""Most columns of a manifest."""
_LONGEST_LINE = 2**26  # bytes; a small compressed file can hold a line of gigabytes
_SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "vertical bars"}

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
        path: the manifest or folder; the first one of several.
        rows: all rows that could be read.
        malformed: for each other row: where it is, the reason in one word, and in a sentence.
        others: the other manifests, if there are several.
    """

    path: Path
    rows: list[ManifestRow] = field(default_factory=list)
    malformed: list[tuple[str, str, str]] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)

    @property
    def where(self) -> list[Path]:
        """All manifests, for messages."""
        return [self.path, *self.others]


@contextlib.contextmanager
def open_manifest(path: Path) -> Iterator[IO[bytes]]:
    """Open a file of lines; decompress it if its name ends with ``.gz``.

    Raises:
        LorsError: a compressed file is damaged or cut short.
    """
    try:
        opened: Any = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rb") as handle:
            yield handle
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise LorsError(
            "not a complete gzip file",
            where=path,
            got=error,
            hint="copy or download the file again",
        ) from None


def decoded_lines(source: Source) -> Iterator[tuple[str, str]]:
    """Yield the position and text of each line that is not blank; list lines that are not UTF-8.

    Raises:
        LorsError: a file that ends with ``.gz`` is damaged or cut short, or a line is very long.
    """
    with open_manifest(source.path) as handle:
        for number, raw in enumerate(iter(lambda: handle.readline(_LONGEST_LINE), b""), 1):
            if len(raw) == _LONGEST_LINE:
                raise LorsError(
                    f"a line of {_LONGEST_LINE} bytes or more",
                    where=f"{source.path} line {number}",
                    hint="is this file a manifest, with a line for each clip?",
                )
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
            _check_names(source, names, "," if split is _split_csv else "\t")
        elif len(values) == len(names):
            yield where, dict(zip(names, values, strict=True))
        else:
            why = f"{len(values)} fields instead of {len(names)}"
            if len(values) > len(names):
                unit = "comma without quotes" if split is _split_csv else "tab"
                why += f": is there a {unit} inside of a sentence?"
            source.malformed.append((where, "wrong_fields", why))


def _check_names(source: Source, names: list[str], separator: str) -> None:
    """Check the column names of a table; raise a LorsError for a file of another kind."""
    check_number_of_columns(source, len(names))
    counts = Counter(names)
    repeated = sorted(name for name, count in counts.items() if count > 1)
    if repeated:
        raise LorsError(
            "column names are repeated",
            where=source.path,
            got=shortened(repr(name[:40]) for name in repeated),
            hint="remove or rename one of each",
        )
    others = [mark for mark in _SEPARATORS if mark != separator and mark in names[0]]
    if len(names) == 1 and others:
        raise LorsError(
            f"the values of this file are separated by {_SEPARATORS[others[0]]}",
            where=source.path,
            expected=f"{_SEPARATORS[separator]}, as its name ends with {source.path.suffix}",
            got=names[0][:200],
            hint=f"save it again with {_SEPARATORS[separator]}"
            + (", or name it .tsv" if others[0] == "\t" else "")
            + (", or name it .csv" if others[0] == "," else ""),
        )


def check_number_of_columns(source: Source, number: int) -> None:
    """Check that a manifest does not have too many columns, which would take much memory."""
    if number > MOST_COLUMNS:
        raise LorsError(
            f"{number} columns",
            where=source.path,
            expected=f"at most {MOST_COLUMNS}",
            hint="is this file a manifest, with a line for each clip?",
        )


def refuse_if_malformed(source: Source, what: str) -> None:
    """Raise a LorsError with the first malformed row, if there is one."""
    if source.malformed:
        where, _, why = source.malformed[0]
        hint = "save the file again as UTF-8 text, one row a line, under the same name"
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
    columns: set[str] = set()
    for where, line in decoded_lines(source):
        try:
            # Numbers keep their spelling: 1e5 stays 1e5.
            record = json.loads(
                line,
                object_pairs_hook=_unique_names,
                parse_float=str,
                parse_int=str,
                parse_constant=str,
            )
        except (ValueError, RecursionError) as error:
            why = "too many nested brackets" if isinstance(error, RecursionError) else str(error)
            source.malformed.append((where, "bad_json", why))
            continue
        if not isinstance(record, dict):
            source.malformed.append((where, "bad_json", "not an object {...}"))
            continue
        translations = record.get("translations")
        if isinstance(translations, dict):
            del record["translations"]
            record |= {TRANSLATION + code: value for code, value in translations.items()}
        wrong = [name for name, value in record.items() if not isinstance(value, str | None)]
        if wrong:
            names = ", ".join(shortened(name[:40] for name in wrong))
            source.malformed.append((where, "bad_json", f"neither text nor a number: {names}"))
        elif not is_utf8("".join(f"{name}{value}" for name, value in record.items())):
            source.malformed.append((where, "not_utf8", "half a surrogate pair (\\ud800 ...)"))
        else:
            columns.update(record)
            check_number_of_columns(source, len(columns))
            yield where, {name: as_text(value) for name, value in record.items()}


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object; ValueError for one that gives a name twice."""
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a name is given twice")
    return values


def is_utf8(text: str) -> bool:
    """Return whether a text can be written as UTF-8; half a surrogate pair cannot."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def as_text(value: Any) -> str:
    """Return a JSON or Arrow value as text; None is empty."""
    return "" if value is None else str(value)
