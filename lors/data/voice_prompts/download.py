"""Getting of packages: apt-get download, or Debian's archive by its address."""

from __future__ import annotations

import http.client
import logging
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path

from lors.data.voice_prompts.archives import unpack
from lors.data.voice_prompts.packages import Package
from lors.errors import LorsError, shortened
from lors.fileio import file_digest, full_disk_names, locked, scratch_directory

ARCHIVE = "https://deb.debian.org/debian"
_PATIENCE = 30  # seconds without an answer
_LONGEST = 1800  # seconds of a download, all ways together
_BLOCK = 2**16
log = logging.getLogger(__name__)


class _NoAnswer(Exception):
    """Why an address does not give its file."""


def get_packages(folder: Path, packages: Iterable[Package], archive: str = ARCHIVE) -> None:
    """Download and unpack packages below `folder`, unless they are there already.

    A package file in `folder` is used; else ``apt-get download`` gets it, which needs no root; else
    it comes from `archive` by its address. Every file is checked before it is unpacked. Nothing
    half-made is left, and a later call goes on where this one stopped.

    Args:
        folder: gets ``<package>_<version>_all.deb`` and, unpacked, ``<package>_<version>/``.
        packages: the packages.
        archive: address of Debian's archive or a mirror.

    Raises:
        LorsError: a package cannot be had, or its file in `folder` is not the pinned one.
    """
    for package in packages:
        if (folder / package.unpacked).is_dir():
            continue
        path = folder / package.file
        with locked(folder / ".lock", seconds=_LONGEST):
            if path.exists():
                _check(path, package)
            else:
                with full_disk_names(path), scratch_directory(folder / ".download.tmp") as scratch:
                    _download(package, scratch, archive, path).replace(path)
            if not (folder / package.unpacked).is_dir():
                unpack(path, folder / package.unpacked)


def _download(package: Package, scratch: Path, archive: str, path: Path) -> Path:
    """Return the downloaded and checked file, in `scratch`."""
    log.info("downloading %s %s (%.2f MB)", package.name, package.version, package.bytes / 1e6)
    address = f"{archive.rstrip('/')}/{package.folder}/{urllib.parse.quote(package.file)}"
    deadline = time.monotonic() + _LONGEST
    found = scratch / package.file
    problems = []
    for way, get in (("apt-get", _by_apt), (address, _by_address)):
        problem = get(package, found, address, deadline) or _difference(found, package)
        if not problem:
            return found
        problems.append(f"{way}: {problem}")
    raise LorsError(
        f"{package.name} {package.version} cannot be downloaded",
        where=path,
        expected=f"{package.bytes} bytes with the SHA-256 {package.sha256}",
        got=problems,
        hint="check the network, and refresh the lists of packages (apt-get update), then run the "
        f"same command again; or get {package.file} elsewhere and put it there. Debian keeps old "
        "versions: --archive https://snapshot.debian.org/archive/debian/20240601T000000Z",
    )


def _by_apt(package: Package, file: Path, address: str, deadline: float) -> str:
    """Download by apt-get; return the problem, or an empty string."""
    del address  # apt has its own
    program = shutil.which("apt-get")
    if not program:
        return "not on this system"
    patience = [f"-oAcquire::{kind}::Timeout={_PATIENCE}" for kind in ("http", "https")]
    command = [program, "-q", "-oAcquire::Retries=1", *patience, "download"]
    try:
        result = subprocess.run(
            [*command, f"{package.name}={package.version}"],
            cwd=file.parent,
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=deadline - time.monotonic(),
            check=False,
        )
    except subprocess.TimeoutExpired:
        return _too_slow()
    except OSError as error:
        return str(error)
    if result.returncode == 0 and file.is_file():
        return ""
    errors = [line for line in result.stdout.splitlines() if line.startswith(("E:", "Err:"))]
    lines = errors or result.stdout.splitlines()[-3:] or [f"exit code {result.returncode}"]
    return "; ".join(shortened(lines, 3))


def _by_address(package: Package, file: Path, address: str, deadline: float) -> str:
    """Download by the package's address; return the problem, or an empty string."""
    try:
        with file.open("wb") as handle:
            for block in _blocks(address, deadline):
                handle.write(block)
                if handle.tell() > package.bytes:
                    return f"more than {package.bytes} bytes"
    except _NoAnswer as error:
        return str(error)
    return ""


def _blocks(address: str, deadline: float) -> Iterator[bytes]:
    """Yield what an address answers, as it comes; _NoAnswer if it does not."""
    try:
        with urllib.request.urlopen(address, timeout=_PATIENCE) as answer:
            length, got = answer.headers.get("Content-Length"), 0
            # read() would wait for a whole block, however slowly the bytes come. After the last
            # byte read1() may wait for the end of the connection.
            while str(got) != length and (block := answer.read1(_BLOCK)):
                if time.monotonic() > deadline:
                    raise _NoAnswer(_too_slow())
                got += len(block)
                yield block
    except urllib.error.HTTPError as error:
        raise _NoAnswer(f"{error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _NoAnswer(getattr(error, "reason", None) or error) from None


def _too_slow() -> str:
    return f"not finished {_LONGEST} seconds after the start of the download"


def _check(path: Path, package: Package) -> None:
    """Check that a package file that is there is the pinned one."""
    if difference := _difference(path, package):
        raise LorsError(
            f"not the pinned file of {package.name} {package.version}",
            where=path,
            expected=f"SHA-256 {package.sha256}",
            got=difference,
            hint="remove this file and run the same command again; a file from elsewhere, or of "
            "another version, has other prompts",
        )


def _difference(path: Path, package: Package) -> str:
    """Return how a file differs from the pinned package; an empty string if it does not."""
    digest = file_digest(path)
    if digest == package.sha256:
        return ""
    size = path.stat().st_size
    short = (
        f"; only {size} of {package.bytes} bytes: it was cut off" if size < package.bytes else ""
    )
    return f"SHA-256 {digest}{short}"
