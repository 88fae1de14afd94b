"""The values of ``wav.scp``: a file, a place in an ark file (``x.ark:123``), or a command."""

from __future__ import annotations

import os
import re

from lors.errors import LorsError

_ARK = re.compile(r"(.+\.ark):(\d{1,18})", re.DOTALL | re.ASCII)


def ark_place(source: str) -> tuple[str, int] | None:
    """Return the ark file and the offset in it, in bytes; None for another source."""
    found = _ARK.fullmatch(source)
    return (found[1], int(found[2])) if found else None


def file_of(source: str) -> str:
    """Return the path of the file that has the audio of `source`."""
    place = ark_place(source) if ":" in source else None
    return place[0] if place else source


def check_folder(path: str | os.PathLike) -> None:
    """Check that paths below a folder can be written in ``wav.scp``.

    Raises:
        LorsError: the path has a line break, or is not UTF-8.
    """
    try:
        text = os.path.abspath(path)  # noqa: PTH100  (a link keeps its name)
        text.encode("utf-8")
    except UnicodeEncodeError:
        problem = "not UTF-8"
    else:
        if not any(character in text for character in "\n\r\0"):
            return
        problem = "a line break"
    raise LorsError(
        "a folder whose name cannot be written in wav.scp",
        where=repr(os.fspath(path)),
        got=problem,
        hint="rename the folder, or give it by a symbolic link with another name",
    )


def is_command(source: str) -> bool:
    """Return whether Kaldi would run `source` as a command, or read it from standard input."""
    return source.endswith("|") or source.startswith("|") or source == "-"
