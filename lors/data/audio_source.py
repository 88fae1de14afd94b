"""The values of ``wav.scp``: a file, a place in an ark file (``x.ark:123``), or a command."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable
from pathlib import Path

from lors.errors import LorsError

_ARK = re.compile(r"(.+\.ark):(\d{1,18})", re.DOTALL | re.ASCII)
_TRIED = 20


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


def folder_of(sources: Iterable[str], path: Path) -> Path:
    """Return the folder in which the relative paths of a corpus begin.

    They begin in the folder in which the corpus was made (ESPnet's recipe, for example), which is
    one of the folders above its files: the nearest one that has the most of the first files.

    Args:
        sources: values of ``wav.scp``.
        path: the file or folder that has these sources.
    """
    relative = (file_of(source) for source in sources if not os.path.isabs(source))  # noqa: PTH117
    tried = list(itertools.islice(dict.fromkeys(relative), _TRIED))
    above = [path.absolute(), *path.absolute().parents, *path.resolve().parents]
    folders = [folder for folder in dict.fromkeys(above) if folder.is_dir()]
    return max(folders, key=lambda folder: sum(is_file(folder / name) for name in tried))


def is_file(path: str | os.PathLike) -> bool:
    """Return whether a path is that of a file; False for a name that no file can have."""
    try:
        return os.path.isfile(path)  # noqa: PTH113  (a million calls; Path takes twice as long)
    except ValueError:  # a zero byte
        return False
