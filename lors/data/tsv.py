"""The tab-separated tables of Common Voice and CoVoST 2.

Columns are found by their names in the header line, never by position: releases add and reorder
columns. There is no quoting (``"`` is a character like any other), a backslash escapes the next
character, and no word stands for a missing value. Both corpora write their tables by these rules.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path

from lors.errors import LorsError, shortened

MOST_COLUMNS = 1000
"""Most columns of a table; a file with more is not one of these tables."""
_PIECES = re.compile(r"\\.|\\$|\t|[^\t\\]+", re.DOTALL)


@dataclass(frozen=True)
class Table:
    """Some columns of a tab-separated file.

    Attributes:
        path: the file.
        rows: one tuple a row, with the columns in the order of the call of :func:`read_tsv`.
        lines: the line number of each row, counted from 1 (the header).
        malformed: line number and reason of every row that could not be read.
    """

    path: Path
    rows: list[tuple[str, ...]] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    malformed: list[tuple[int, str]] = field(default_factory=list)


def read_tsv(
    path: str | os.PathLike, columns: tuple[str, ...], optional: tuple[str, ...] = ()
) -> Table:
    """Read the columns `columns` and `optional` of a tab-separated file with a header line.

    An optional column that the file lacks has empty values. A byte order mark and CRLF line ends
    are accepted, blank lines are skipped. A row that is not UTF-8, or whose number of fields
    differs from the header's, is left out and listed in `malformed`: one such row in a million
    must not stop a corpus, and the caller counts them.

    Raises:
        LorsError: the file is missing or empty, lacks or repeats a column, or has more than
            :data:`MOST_COLUMNS`.
    """
    path = Path(path)
    try:
        raw_lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        raise LorsError(
            "file not found", where=path, hint="unpack the archive that has it, or correct the path"
        ) from None
    header = _header(path, raw_lines, columns, optional)
    # Position -1, an empty value at the end of each row, stands for the columns that are missing.
    positions = [header.index(name) if name in header else -1 for name in (*columns, *optional)]
    pick = itemgetter(*positions, -1)  # with a last item to cut off: for one item it is no tuple
    table = Table(path)
    for number, raw in enumerate(raw_lines[1:], 2):
        if raw.count(b"\t") > 10 * MOST_COLUMNS:  # it would take much memory to split
            table.malformed.append((number, f"{raw.count(bytes([9]))} tabs"))
            continue
        try:
            line = raw.decode("utf-8").rstrip("\r")
        except UnicodeDecodeError:
            table.malformed.append((number, "not UTF-8"))
            continue
        if not line:
            continue
        values = split_row(line)
        if len(values) != len(header):
            table.malformed.append((number, f"{len(values)} fields instead of {len(header)}"))
            continue
        values.append("")
        table.rows.append(pick(values)[:-1])
        table.lines.append(number)
    return table


def _header(
    path: Path, raw_lines: list[bytes], columns: tuple[str, ...], optional: tuple[str, ...]
) -> list[str]:
    """Return the column names of a table; raise a LorsError for a line that cannot be used."""
    expected = f"a tab-separated header line with {', '.join(columns)}"
    again = "the download or the unpacking failed: download the archive again"
    raw = raw_lines[0].removesuffix(b"\r")
    try:
        line = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LorsError(
            "the header is not UTF-8",
            where=path,
            expected=expected,
            got=f"byte 0x{raw[error.start]:02x}",
            hint=again,
        ) from None
    if not line:
        what = "empty file" if len(raw_lines) == 1 else "the first line, the header, is blank"
        raise LorsError(what, where=path, expected=expected, hint=again)
    if line.count("\t") >= MOST_COLUMNS:
        raise LorsError(
            f"a header of {line.count(chr(9)) + 1} columns",
            where=path,
            expected=f"at most {MOST_COLUMNS} columns",
            hint=again,
        )
    header = line.split("\t")
    missing = [column for column in columns if column not in header]
    if missing:
        raise LorsError(
            f"column(s) missing: {', '.join(missing)}",
            where=path,
            expected=expected,
            got=", ".join(shortened((name[:40] for name in header), 20)),
            hint="is this the table of another corpus, or separated by commas or semicolons?",
        )
    repeated = [column for column in (*columns, *optional) if header.count(column) > 1]
    if repeated:
        raise LorsError(
            f"column(s) repeated: {', '.join(repeated)}",
            where=path,
            expected=expected,
            hint="remove the wrong ones of these columns",
        )
    return header


def split_row(line: str) -> list[str]:
    r"""Split a row at its tabs and remove the backslash escapes.

    A backslash and a tab are a tab inside a value, ``\"`` is ``"`` and ``\\`` is ``\``. A backslash
    at the end of a row is kept and ends the row; it does not escape the line end, which would join
    the row with the next one.
    """
    if "\\" not in line:
        return line.split("\t")
    values = [""]
    for piece in _PIECES.findall(line):
        if piece == "\t":
            values.append("")
        elif piece[0] == "\\" and len(piece) == 2:
            values[-1] += piece[1]
        else:
            values[-1] += piece
    return values
