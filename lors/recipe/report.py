"""The form of a report: sections with notes and a table, as Markdown and as plain text."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lors.fileio import write_text

MISSING = "missing"
"""Text of a cell without a score."""
UNDEFINED = "undefined"
"""Text of a cell whose scores give no number; a note below the table has the reason."""


@dataclass(frozen=True)
class Section:
    """A part of a report: a heading, notes, a table (may be empty), and notes below it.

    Attributes:
        title: the heading.
        header: heads of the table's columns.
        rows: rows of the table.
        labels: number of leading columns with words; the others are numbers, aligned right.
        above: notes above the table.
        below: notes below the table.
    """

    title: str
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    labels: int = 1
    above: Sequence[str] = ()
    below: Sequence[str] = ()


def render_markdown(
    sections: Sequence[Section],
    title: str,
    runs: str,
    figures: Sequence[tuple[str, str]] = (),
    commands: Sequence[tuple[str, str]] = (),
) -> str:
    """Return the report as Markdown.

    Args:
        sections: the sections.
        title: heading of the file.
        runs: one line about the runs of the report.
        figures: (caption, path relative to the file) of images to show.
        commands: what each command behind the results did (may be empty), and the command.
    """
    lines = [f"# {title}", "", runs, ""]
    for section in sections:
        lines += [f"## {section.title}", ""]
        lines += [text for note in section.above for text in (_escape(note), "")]
        if section.rows:
            marks = [":--" if i < section.labels else "--:" for i in range(len(section.header))]
            for row in (section.header, marks, *section.rows):
                lines.append("| " + " | ".join(_escape(text) for text in row) + " |")
            lines.append("")
        lines += [text for note in section.below for text in (_escape(note), "")]
    if figures:
        lines += ["## Plots", ""]
        lines += [text for caption, path in figures for text in (f"![{caption}]({path})", "")]
    if commands:
        lines += ["## Commands", ""]
    for note, command in commands:
        lines += [_escape(f"{note}:"), ""] if note else []
        lines += ["```bash", command, "```", ""]
    return "\n".join(lines)


def _escape(text: str) -> str:
    """Escape characters of literal text (signatures, names) that mean something in Markdown."""
    for character in "\\|_*":
        text = text.replace(character, "\\" + character)
    return text


def render_text(sections: Sequence[Section], title: str, runs: str) -> str:
    """Return the report for a terminal: the same tables, aligned by spaces."""
    lines = [title, runs, ""]
    for section in sections:
        lines += [section.title, *section.above]
        if section.rows:
            table = [section.header, *section.rows]
            head, *rest = aligned(table, section.labels)
            lines += [head, "  ".join("-" * width for width in _widths(table)), *rest]
        lines += [*section.below, ""]
    return "\n".join(lines)


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


def aligned(rows: Sequence[Sequence[str]], labels: int = 1) -> list[str]:
    """Return a line of text for each row, in columns: the first `labels` left, the others right."""
    lines, widths = [], _widths(rows)
    for row in rows:
        cells = [
            text.ljust(width) if i < labels else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def write_report(
    out: str | os.PathLike,
    sections: Sequence[Section],
    title: str,
    runs: str,
    figures: Sequence[tuple[str, str]] = (),
    commands: Sequence[tuple[str, str]] = (),
) -> str:
    """Write a report as Markdown.

    Args:
        out: file to write.
        sections, title, runs, commands: as of :func:`render_markdown`.
        figures: caption and path of each figure.

    Returns:
        The same report as plain text, then a line for each file of it.
    """
    links = [(caption, relative_to(path, Path(out).parent)) for caption, path in figures]
    write_text(out, render_markdown(sections, title, runs, links, commands))
    files = [f"written: {out}", *(f"figure: {path}" for _, path in figures)]
    return "\n".join([render_text(sections, title, runs), *files])


def two_digits(value: float | None) -> str:
    """Return a value as text; a dash if there is none."""
    return "-" if value is None else f"{value:.2f}"


def relative_to(path: str | os.PathLike, folder: str | os.PathLike) -> str:
    """Return `path` as a link from a file in `folder`."""
    return Path(os.path.relpath(path, folder)).as_posix()
