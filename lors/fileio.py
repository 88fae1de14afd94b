"""Atomic files and done markers: a reader sees the old file or the new one, never half of one."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import os
import reprlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from lors.errors import LorsError, UsageError

log = logging.getLogger(__name__)

LOCK_SECONDS = 30.0
"""How long :func:`locked` waits: what a killed program started ends within a few seconds."""


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, mode: str = "w") -> Iterator[IO]:
    """Open a temporary file beside `path`; on clean exit fsync it and rename it over `path`.

    On any exception the temporary file is removed and `path` stays as it was. What a process that
    was killed has left, the next one that writes `path` takes over: the temporary file's name is
    that of `path`. Of two that write at the same time, the second waits. Text is UTF-8 with
    ``\\n`` line ends.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    binary = "b" in mode
    descriptor, temporary = _open_temporary(path)
    with os.fdopen(
        descriptor,
        mode,
        encoding=None if binary else "utf-8",
        newline=None if binary else "\n",
    ) as handle:
        try:
            yield handle
            handle.flush()
            os.fsync(descriptor)
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()
            # What is buffered still is not written either; the first error is the one to tell.
            with contextlib.suppress(OSError):
                handle.close()
            raise


def _open_temporary(path: Path) -> tuple[int, Path]:
    """An empty temporary file for `path`, open and locked for as long as it is open."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        descriptor = _open_locked(temporary, fcntl.LOCK_EX)
        os.ftruncate(descriptor, 0)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        # Without locks nobody can tell whose a file is: a name that nobody else has.
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        umask = os.umask(0)
        os.umask(umask)
        os.fchmod(descriptor, 0o666 & ~umask)  # of a new file; mkstemp's are private
        temporary = Path(name)
    return descriptor, temporary


_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS}  # what file systems without them answer


def _open_locked(path: Path, how: int) -> int:
    """Open `path`, made if it is not there, and lock it; the kernel unlocks it with its process.

    Raises:
        BlockingIOError: `how` says not to wait, and another holds the lock.
    """
    while True:
        # No link is followed: it would lead to a file that somebody else chose.
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o666)
        try:
            fcntl.flock(descriptor, how)
            # Who had the lock may have removed or renamed the file meanwhile.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), path.lstat()):
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


@contextlib.contextmanager
def locked(path: str | os.PathLike, seconds: float | None = None) -> Iterator[None]:
    """Be the only process in the ``with`` blocks of the file `path`, which is made and removed.

    A process that is killed leaves the file, but not the lock. File systems that know no locks
    give no protection.

    Args:
        path: a file that is for nothing else.
        seconds: how long to wait for another process; None for `LOCK_SECONDS`.

    Raises:
        LorsError: another process is still at work after that time.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + (LOCK_SECONDS if seconds is None else seconds)
    descriptor = None
    waited = False
    while descriptor is None:
        try:
            descriptor = _open_locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise LorsError(
                    "another process is at work here",
                    where=path.parent,
                    got=f"{path} is locked",
                    hint="wait until it has ended, or end it, and run the same command again",
                ) from None
            if not waited:
                log.info("waiting for another process that is at work in %s", path.parent)
            waited = True
            time.sleep(0.1)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            path.unlink(missing_ok=True)
            log.warning("%s: this file system has no locks", path.parent)
            break
    try:
        yield
    finally:
        if descriptor is not None:
            path.unlink(missing_ok=True)
            # Not left to close(): worker processes may have inherited the descriptor.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)


@contextlib.contextmanager
def scratch_directory(path: str | os.PathLike) -> Iterator[Path]:
    """An empty directory for the time of the ``with`` block; what is there before is removed."""
    path = Path(path)
    remove_tree(path)
    path.mkdir(parents=True)
    try:
        yield path
    finally:
        remove_tree(path)


def remove_tree(path: str | os.PathLike) -> None:
    """Remove a directory with all that is in it, if it is there."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path)


@contextlib.contextmanager
def atomic_directory(path: str | os.PathLike) -> Iterator[Path]:
    """Make a temporary directory beside `path`; on clean exit rename it to `path`.

    On any exception the temporary directory is removed with all that is in it; so is what a
    killed process has left of it, by the next one.

    Raises:
        UsageError: `path` is there already and is not an empty directory.
        LorsError: another process is making it.
    """
    path = Path(path)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise UsageError(
            "the directory to write is there already",
            where=path,
            expected="no such directory, or an empty one",
            got="a directory with files" if path.is_dir() else "a file",
            hint="choose another name, or remove it",
        )
    path = path.resolve()  # "." has no name, and a directory cannot be renamed to a link
    with (
        locked(path.with_name(f".{path.name}.lock")),
        scratch_directory(path.with_name(f".{path.name}.tmp")) as temporary,
    ):
        yield temporary
        temporary.replace(path)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Atomically write `text` to `path` as UTF-8."""
    with atomic_write(path) as handle:
        handle.write(text)


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Atomically write `value` as indented UTF-8 JSON; NaN and infinities are refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike) -> Any:
    """Read a JSON file.

    Raises:
        LorsError: the file is missing or is not valid JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LorsError("file not found", where=path) from None
    except ValueError as error:
        raise LorsError("not valid JSON", where=path, got=str(error)) from None


def read_json_object(path: str | os.PathLike) -> dict[str, Any]:
    """Read a JSON file that holds one object.

    Raises:
        LorsError: as :func:`read_json`, or the file holds something else.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise LorsError(
            "this JSON file must hold an object",
            where=path,
            expected='{"name": value, ...}',
            got=BRIEF.repr(content),
            hint="copy or download the file again",
        )
    return content


def hash_of(value: Any) -> str:
    """A short stable hash (16 hex digits of SHA-256) of a JSON-serialisable value."""
    encoded = json.dumps(value, sort_keys=True, ensure_ascii=True, default=str).encode()
    return hashlib.sha256(encoded).hexdigest()[:16]


def file_digest(path: str | os.PathLike) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with Path(path).open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


BRIEF = reprlib.Repr()  # a vocabulary, say, is not shown in full
BRIEF.maxstring = BRIEF.maxother = 100
