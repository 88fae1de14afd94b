"""Unpacking of Debian packages: an ``ar`` archive with the files in ``data.tar.*``."""

from __future__ import annotations

import lzma
import shutil
import tarfile
import zlib
from pathlib import Path
from typing import BinaryIO, Literal

from lors.errors import LorsError
from lors.fileio import atomic_directory, full_disk_names

_MAGIC = b"!<arch>\n"
_HEADER = 60  # bytes: name (16), times and owners (32), size (10), end (2)
_LARGEST = 2**31  # bytes of all files together; the largest package has 200 MB


class _NotAFileBelow(Exception):
    """A member of an archive that is not unpacked: a link, a device, or a name that leads out."""


def unpack(package: Path, target: Path) -> None:
    """Unpack the files of a package to the new folder `target`; no script of it is run.

    Raises:
        LorsError: the package is damaged, too large, compressed in an unknown way, or has a link
            or a name that leads outside; nothing is left of it.
    """
    try:
        with (
            package.open("rb") as file,
            full_disk_names(target),
            atomic_directory(target) as folder,
        ):
            mode = _find_data(file)
            with tarfile.open(fileobj=file, mode=mode) as archive:
                _extract(archive, folder)
    except _NotAFileBelow as error:
        raise LorsError(
            "a package with more than files and folders below its own folder",
            where=package,
            got=error,
            hint="do not use this package; get it from Debian's archive",
        ) from None
    except (tarfile.TarError, EOFError, ValueError, lzma.LZMAError, zlib.error) as error:
        raise LorsError(
            "a package that cannot be unpacked",
            where=package,
            got=str(error) or "it ends too early",
            hint="remove this file and run the same command again",
        ) from None


_Mode = Literal["r|", "r|gz", "r|bz2", "r|xz"]
_MODES: dict[str, _Mode] = {"": "r|", "gz": "r|gz", "bz2": "r|bz2", "xz": "r|xz"}
"""How ``data.tar.*`` is compressed -> mode in which tarfile reads it."""


def _find_data(file: BinaryIO) -> _Mode:
    """Move to the begin of ``data.tar.*``; return the mode in which tarfile reads it."""
    if file.read(len(_MAGIC)) != _MAGIC:
        raise ValueError("not a Debian package")
    while len(header := file.read(_HEADER)) == _HEADER and header.endswith(b"`\n"):
        name = header[:16].decode("ascii", "replace").strip().rstrip("/")
        size = int(header[48:58])
        if name.startswith("data.tar"):
            kind = name.removeprefix("data.tar").lstrip(".")
            if kind not in _MODES:
                raise ValueError(f"{name}: cannot decompress {kind}")
            return _MODES[kind]
        file.seek(size + size % 2, 1)
    raise ValueError("no data.tar in it; it ends too early")


def _extract(archive: tarfile.TarFile, folder: Path) -> None:
    # By hand: tarfile has its filters only from Python 3.11.4 on, and Debian 12 has 3.11.2.
    size = 0
    for member in archive:
        size += member.size
        if size > _LARGEST:
            raise ValueError(f"more than {_LARGEST} bytes")
        path = folder / member.name.lstrip("/")
        if ".." in path.parts or not (member.isreg() or member.isdir()):
            raise _NotAFileBelow(member.name)
        content = archive.extractfile(member)
        if content is None:  # a folder
            path.mkdir(parents=True, exist_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        with content, path.open("wb") as file:
            shutil.copyfileobj(content, file)
