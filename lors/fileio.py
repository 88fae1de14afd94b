"""Atomic writing: a reader sees the old file or the new one, never a part of one.

Also locks, and the check of names that become file names.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from lors.errors import BRIEF, LorsError, UsageError, from_os_error

log = logging.getLogger(__name__)

LOCK_SECONDS = 30.0
"""Default waiting time of :func:`locked`: child processes of a killed program end sooner."""


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, mode: str = "w") -> Iterator[IO]:
    """Open a temporary file beside `path`; after a clean exit, fsync it and rename it to `path`.

    After an exception the temporary file is removed, and `path` is unchanged. The name of the
    temporary file depends on `path` only: a killed process leaves one file at most, and the next
    writer of `path` replaces it. If two processes write `path`, the second waits for the first.
    Text is written as UTF-8 with ``\\n`` line ends.

    Raises:
        LorsError: the text has characters that UTF-8 cannot encode (lone surrogates, as in file
            names that are not UTF-8).
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    binary = "b" in mode
    descriptor, temporary = _open_temporary(path)
    with (
        full_disk_names(path),
        os.fdopen(
            descriptor,
            mode,
            encoding=None if binary else "utf-8",
            newline=None if binary else "\n",
        ) as handle,
    ):
        try:
            yield handle
            handle.flush()
            os.fsync(descriptor)
            temporary.replace(path)
        except BaseException as error:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()
            # close() writes the buffer and may fail again: report the first error.
            with contextlib.suppress(OSError):
                handle.close()
            if isinstance(error, UnicodeEncodeError):
                raise _not_utf8(path, error) from None
            raise


@contextlib.contextmanager
def full_disk_names(path: str | os.PathLike) -> Iterator[None]:
    """Name `path` in an error of a full disk: write() itself names no file."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL and error.filename is None:
            error.filename = str(path)
        raise


def _not_utf8(path: Path, error: UnicodeEncodeError) -> LorsError:
    return LorsError(
        "text that cannot be written as UTF-8",
        where=path,
        got=BRIEF.repr(error.object[max(0, error.start - 40) : error.end + 40]),
        hint="is this a file name that is not UTF-8? Rename the file or folder",
    )


def _open_temporary(path: Path) -> tuple[int, Path]:
    """Open an empty temporary file for `path`, locked until it is closed."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        while (descriptor := _open_locked(temporary)) is None:
            time.sleep(0.02)
        os.ftruncate(descriptor, 0)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        # Without locks two writers could share the file: take a name that no other process has.
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        umask = os.umask(0)
        os.umask(umask)
        temporary = Path(name)
        temporary.chmod(0o666 & ~umask)  # as for any new file; mkstemp makes private ones
    return descriptor, temporary


_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
"""Errors of write() on a disk that is full or has a fault."""

_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS}
"""Errors of a lock on a file system without locks."""


def _open_locked(path: Path) -> int | None:
    """Open `path`, or create it, and lock it; the kernel removes the lock when the process ends.

    Returns:
        The descriptor; None if another process holds the lock.
    """
    from filelock import lock_descriptor  # a program that only reads needs no package

    while True:
        # Do not follow a link: another user could have pointed it at any file.
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        descriptor = os.open(path, flags, 0o666)
        try:
            is_held = lock_descriptor(descriptor, blocking=False)
            # The former owner of the lock may have removed or renamed the file meanwhile.
            with contextlib.suppress(FileNotFoundError):
                if is_held and os.path.samestat(os.fstat(descriptor), path.lstat()):
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        if not is_held:
            return None


@contextlib.contextmanager
def locked(path: str | os.PathLike, seconds: float | None = None) -> Iterator[None]:
    """Run the ``with`` block in one process at a time, by a lock on the file `path`.

    The file is created, and removed at the end. A killed process leaves the file, but not the
    lock. A file system without locks gives no protection; a warning is logged.

    Args:
        path: the lock file; it must have no other use.
        seconds: the longest time to wait for another process; None for `LOCK_SECONDS`.

    Raises:
        LorsError: another process still holds the lock after that time.
    """
    from filelock import unlock_descriptor

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = None
    try:
        descriptor = _lock_within(path, LOCK_SECONDS if seconds is None else seconds)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        path.unlink(missing_ok=True)
        log.warning("%s: this file system has no locks", path.parent)
    try:
        yield
    finally:
        if descriptor is not None:
            path.unlink(missing_ok=True)
            # close() alone is not enough: worker processes may have inherited the descriptor.
            unlock_descriptor(descriptor)
            os.close(descriptor)


def _lock_within(path: Path, seconds: float) -> int:
    """Open and lock a file; wait for another process as long as that."""
    deadline = time.monotonic() + seconds
    waited = False
    while (descriptor := _open_locked(path)) is None:
        if time.monotonic() > deadline:
            raise LorsError(
                "another process is at work in this directory",
                where=path.parent,
                got=f"{path} is locked",
                hint="wait for that process or stop it, then run the same command again",
            )
        if not waited:
            log.info("waiting for another process that is at work in %s", path.parent)
        waited = True
        time.sleep(0.1)
    return descriptor


@contextlib.contextmanager
def scratch_directory(path: str | os.PathLike) -> Iterator[Path]:
    """Make an empty directory, replacing an old one; remove it after the ``with`` block."""
    path = Path(path)
    remove_tree(path)
    path.mkdir(parents=True)
    try:
        yield path
    finally:
        remove_tree(path)


def remove_tree(path: str | os.PathLike) -> None:
    """Remove a directory and its contents, if it exists."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path)


@contextlib.contextmanager
def atomic_directory(path: str | os.PathLike, replace: bool = False) -> Iterator[Path]:
    """Make a temporary directory beside `path`; after a clean exit, rename it to `path`.

    After an exception the temporary directory is removed. A killed process leaves it; the next
    call for the same `path` removes it.

    Args:
        path: the directory to make.
        replace: replace a directory that exists; it is removed when the new one is complete.

    Raises:
        UsageError: `path` exists and is not an empty directory, or with `replace` no directory.
        LorsError: another process is making this directory.
    """
    path = Path(path)
    if path.exists() and not (path.is_dir() and (replace or not any(path.iterdir()))):
        raise UsageError(
            "the output directory exists already",
            where=path,
            expected="a new or an empty directory",
            got="a directory with files" if path.is_dir() else "a file",
            hint="choose another name, or remove it",
        )
    path = path.resolve()  # "." has no name, and a directory cannot replace a link
    with (
        locked(path.with_name(f".{path.name}.lock")),
        scratch_directory(path.with_name(f".{path.name}.tmp")) as temporary,
    ):
        yield temporary
        if replace:
            remove_tree(path)
        temporary.replace(path)


LONGEST_NAME = 240
"""Largest number of bytes of a name that becomes a file name.

File systems allow 255; the others are left for extensions and for the names of temporary files.
"""


def path_component(name: str, where: object, kind: type[LorsError] = LorsError) -> str:
    """Return `name` if it can be one component of a path; a file or folder below the given one.

    Every name from outside (an option, a file of a corpus) that becomes a part of a path goes
    through this function.

    Args:
        name: a language, a split, an utterance id, ...
        where: the option or file with the name, for the error message.
        kind: the class of the error; ``UsageError`` for an option.

    Raises:
        LorsError: the name is empty, ``.`` or ``..``; has a slash, white space or a control
            character; is not UTF-8; or is too long.
    """
    problem = name_problem(name)
    if problem:
        raise kind(
            "a name that cannot be a file name",
            where=where,
            expected="letters, digits and marks, without a slash or white space",
            got=f"{BRIEF.repr(name)}: {problem}",
        )
    return name


def name_problem(name: object) -> str:
    """Return why `name` cannot be one component of a path; an empty string if it can."""
    if not isinstance(name, str):
        return "not a text"
    if name in ("", ".", ".."):
        return "not a name"
    if "/" in name:
        return "a slash"
    if name.split() != [name]:
        return "white space"
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
        return "a control character, or a byte that is not UTF-8"
    if len(name.encode()) > LONGEST_NAME:
        return f"more than {LONGEST_NAME} bytes"
    return ""


def replace_link(link: Path, target: str | os.PathLike) -> None:
    """Make the symbolic link `link` to `target`, replacing an old one."""
    if not (link.is_symlink() and link.readlink() == Path(target)):
        link.unlink(missing_ok=True)
        link.symlink_to(target)


def write_files(files: Mapping[Path, Iterable[Any]], mode: str = "w") -> None:
    """Write the lines of several files, all or none: the first is renamed when all are written.

    Raises:
        LorsError: as :func:`atomic_write`.
    """
    with contextlib.ExitStack() as stack:
        for path, lines in files.items():
            handle = stack.enter_context(atomic_write(path, mode))
            handle.writelines(lines)
            handle.flush()
            os.fsync(handle.fileno())


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write `text` to `path` atomically, as UTF-8."""
    with atomic_write(path) as handle:
        handle.write(text)


def copy_file(source: str | os.PathLike, path: str | os.PathLike) -> None:
    """Copy a file to `path` atomically."""
    with Path(source).open("rb") as original, atomic_write(path, "wb") as copy:
        shutil.copyfileobj(original, copy)


def json_text(value: Any) -> str:
    """Return `value` as indented JSON with a line end; NaN and infinities raise ValueError."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write `value` atomically as indented UTF-8 JSON; NaN and infinities raise ValueError."""
    write_text(path, json_text(value))


def read_json(path: str | os.PathLike) -> Any:
    """Read a JSON file.

    Raises:
        LorsError: the file is missing, cannot be read, or is not valid JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise LorsError(
            "file not found", where=path, hint="correct the path, or write the file"
        ) from None
    except OSError as error:
        raise from_os_error(error) from None
    except (ValueError, RecursionError) as error:
        raise LorsError(
            "not valid JSON",
            where=path,
            got="too many nested brackets" if isinstance(error, RecursionError) else error,
            hint="copy or download the file again",
        ) from None


def read_json_object(path: str | os.PathLike) -> dict[str, Any]:
    """Read a JSON file that holds one object.

    Raises:
        LorsError: as in :func:`read_json`, or the file does not hold an object.
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
    """Return a short stable hash of a JSON-serialisable value: 16 hex digits of SHA-256."""
    encoded = json.dumps(value, sort_keys=True, ensure_ascii=True, default=str).encode()
    return hashlib.sha256(encoded).hexdigest()[:16]


def file_digest(path: str | os.PathLike) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    with Path(path).open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
