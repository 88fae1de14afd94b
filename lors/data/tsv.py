"""Common Voice releases: tab-separated tables, clips, speakers.

The tables are read by the names in their header line, never by position: releases add and
reorder columns. There is no quoting (a lone ``"`` is a character like any other), a backslash
takes the meaning of the next character away, and no word stands for a missing value. These are
the rules with which Common Voice and CoVoST 2 write their tables.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path

from lors.errors import LorsError

SPEAKER_DIGITS = 12  # 48 bits: 100,000 speakers share an id with probability 2e-5

# Old releases say male and female, new ones male_masculine and female_feminine; whoever says
# anything else, or nothing, has no gender in Kaldi's spk2gender.
_GENDERS = {"male": "m", "male_masculine": "m", "female": "f", "female_feminine": "f"}
_PIECES = re.compile(r"\\.|\\$|\t|[^\t\\]+", re.DOTALL)
_CLIP_NAME = re.compile(r"\w[\w.-]*")


@dataclass(frozen=True)
class Table:
    """The wanted columns of a tab-separated file.

    Attributes:
        path: the file.
        rows: one tuple a row, its values in the order in which the columns were asked for.
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
    """Read `columns`, and then those of `optional`, of a tab-separated file with a header line.

    An optional column that the file lacks has empty values. A byte order mark and CRLF line ends
    are accepted, blank lines are skipped. A row that is not UTF-8, or whose number of fields
    differs from the header's, is left out and listed in `malformed`: one such row in a million
    should not stop a corpus, and the caller counts them.

    Raises:
        LorsError: the file is missing or empty, or lacks a column.
    """
    path = Path(path)
    try:
        raw_lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        raise LorsError("file not found", where=path) from None
    header = raw_lines[0].decode("utf-8-sig", errors="replace").rstrip("\r").split("\t")
    if header == [""]:
        raise LorsError(
            "empty file" if len(raw_lines) == 1 else "the first line, the header, is blank",
            where=path,
            expected=f"a header line with the columns {', '.join(columns)}",
            hint="the download or its unpacking failed: fetch the archive again",
        )
    missing = [column for column in columns if column not in header]
    if missing:
        raise LorsError(
            f"column(s) missing: {', '.join(missing)}",
            where=path,
            expected=f"a tab-separated header line with {', '.join(columns)}",
            got=", ".join(header),
        )
    # The empty value that ends every list below stands for the columns that are not there.
    positions = [header.index(name) if name in header else -1 for name in (*columns, *optional)]
    pick = itemgetter(*positions, -1)  # with a last item to cut off: of one it makes no tuple
    table = Table(path)
    for number, raw in enumerate(raw_lines[1:], 2):
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


def split_row(line: str) -> list[str]:
    r"""Split a row at its tabs and take the backslash escapes out.

    ``\t`` written as backslash and tab is a tab inside a value, ``\"`` is ``"`` and ``\\`` is
    ``\``. A backslash at the very end of a row is kept: the row ends there in any case, where a
    reader that escapes the line end would swallow the next row.
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


def one_line(text: str) -> str:
    """`text` with every run of white space (tabs, line breaks, no-break spaces) as one space."""
    return " ".join(text.split())


def is_empty(text: str) -> bool:
    """Whether a sentence or translation says nothing: white space and double quotes only."""
    # Most begin with a letter, and every row of a corpus is asked.
    return not text[:1].isalpha() and not text.replace('"', "").strip()


def is_clip_name(name: str) -> bool:
    """Whether `name` is a plain file name that is safe to use as one.

    A name comes from a table and becomes part of a path and of ``wav.scp``: folders, ``..``,
    white space and a final ``|`` (a command to run, for some readers of ``wav.scp``) are not
    accepted.
    """
    return _CLIP_NAME.fullmatch(name) is not None


def speaker_id(client_id: str) -> str:
    """A short speaker id: the first hexadecimal digits of the SHA-256 of a client id."""
    return hashlib.sha256(client_id.encode("utf-8")).hexdigest()[:SPEAKER_DIGITS]


def kaldi_gender(gender: str) -> str | None:
    """``m`` or ``f`` for a value of the column ``gender``, None where it says neither."""
    return _GENDERS.get(gender.strip().lower())


def utterance_id(speaker: str, lang: str, clip: str) -> str:
    """``<speaker>-<lang>-<number>`` for ``common_voice_<lang>_<number>.mp3``.

    Any other clip name takes the number's place without its extension.
    """
    stem = clip.rsplit(".", 1)[0]
    return f"{speaker}-{lang}-{stem.removeprefix(f'common_voice_{lang}_')}"
