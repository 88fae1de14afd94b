"""Getting of packages: apt-get download, or Debian's archive by its address."""

from __future__ import annotations

import http.client
import logging
import os
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable
from pathlib import Path

from lors.data.voice_prompts.archives import unpack
from lors.data.voice_prompts.packages import Package
from lors.errors import LorsError, shortened
from lors.fileio import file_digest, locked, scratch_directory

ARCHIVE = "https://deb.debian.org/debian"
_PATIENCE = 30  # seconds without an answer
_LONGEST = 1800  # seconds of a download
_BLOCK = 2**16
log = logging.getLogger(__name__)


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
        LorsError: a package cannot be had, or is not the pinned one.
    """
    for package in packages:
        if (folder / package.unpacked).is_dir():
            continue
        path = folder / package.file
        with locked(folder / ".lock", seconds=_LONGEST):
            if not path.exists():
                with scratch_directory(folder / ".download.tmp") as scratch:
                    downloaded = _download(package, scratch, archive, path)
                    _check(downloaded, package)
                    downloaded.replace(path)
            _check(path, package)
            if not (folder / package.unpacked).is_dir():
                unpack(path, folder / package.unpacked)


def _download(package: Package, scratch: Path, archive: str, path: Path) -> Path:
    """Return the downloaded file, in `scratch`."""
    log.info("downloading %s %s (%.2f MB)", package.name, package.version, package.bytes / 1e6)
    problems = []
    for way in (_by_apt, _by_address):
        problem = way(package, scratch, archive)
        if (scratch / package.file).is_file() and not problem:
            return scratch / package.file
        problems.append(problem)
    raise LorsError(
        f"{package.name} {package.version} cannot be downloaded",
        where=path,
        got=problems,
        hint="check the network, and refresh the lists of packages (apt-get update), then run the "
        f"same command again; or get {package.file} elsewhere and put it there",
    )


def _by_apt(package: Package, scratch: Path, archive: str) -> str:
    """Download by apt-get; return the problem, or an empty string."""
    del archive  # apt has its own
    program = shutil.which("apt-get")
    if not program:
        return "apt-get: not on this system"
    patience = [f"-oAcquire::{kind}::Timeout={_PATIENCE}" for kind in ("http", "https")]
    command = [program, "-q", "-oAcquire::Retries=1", *patience, "download"]
    try:
        result = subprocess.run(
            [*command, f"{package.name}={package.version}"],
            cwd=scratch,
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_LONGEST,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"apt-get: {error}"
    if result.returncode == 0 and (scratch / package.file).is_file():
        return ""
    errors = [line for line in result.stdout.splitlines() if line.startswith(("E:", "Err:"))]
    lines = errors or result.stdout.splitlines()[-3:] or [f"exit code {result.returncode}"]
    return f"apt-get: {'; '.join(shortened(lines, 3))}"


def _by_address(package: Package, scratch: Path, archive: str) -> str:
    """Download by the package's address; return the problem, or an empty string."""
    address = f"{archive.rstrip('/')}/{package.folder}/{urllib.parse.quote(package.file)}"
    try:
        with (
            urllib.request.urlopen(address, timeout=_PATIENCE) as answer,
            (scratch / package.file).open("wb") as file,
        ):
            while block := answer.read(_BLOCK):
                file.write(block)
                if file.tell() > package.bytes:
                    return f"{address}: more than {package.bytes} bytes"
    except urllib.error.HTTPError as error:
        return f"{address}: {error.code} {error.reason}"
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ValueError) as error:
        return f"{address}: {getattr(error, 'reason', error)}"
    except ConnectionError as error:
        return f"{address}: {error}"
    return ""


def _check(path: Path, package: Package) -> None:
    """Check that a file is the pinned package."""
    size = path.stat().st_size
    digest = file_digest(path)
    if digest == package.sha256:
        return
    short = f"only {size} of {package.bytes} bytes: it was cut off" if size < package.bytes else ""
    raise LorsError(
        f"not the pinned file of {package.name} {package.version}",
        where=path,
        expected=f"SHA-256 {package.sha256}",
        got=f"SHA-256 {digest}" + (f"; {short}" if short else ""),
        hint="remove this file and run the same command again; a file from elsewhere, or of "
        "another version, has other prompts",
    )
