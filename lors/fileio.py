"""Atomic files and done markers: a reader sees the old file or the new one, never half of one."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import reprlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from lors.errors import LorsError, UsageError


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, mode: str = "w") -> Iterator[IO]:
    """Open a temporary file beside `path`; on clean exit fsync it and rename it over `path`.

    On any exception the temporary file is removed and `path` stays as it was. Text is UTF-8
    with ``\\n`` line ends.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    binary = "b" in mode
    descriptor, temporary = tempfile.mkstemp(
        dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"
    )
    try:
        with os.fdopen(
            descriptor,
            mode,
            encoding=None if binary else "utf-8",
            newline=None if binary else "\n",
        ) as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        # mkstemp files are private; give the result the permissions any new file would have.
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise


@contextlib.contextmanager
def atomic_directory(path: str | os.PathLike) -> Iterator[Path]:
    """Make a temporary directory beside `path`; on clean exit rename it to `path`.

    On any exception the temporary directory is removed with all that is in it.

    Raises:
        UsageError: `path` is there already and is not an empty directory.
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
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())  # as for files
        temporary.replace(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


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


def hash_of(value: Any) -> str:
    """A short stable hash (16 hex digits of SHA-256) of a JSON-serialisable value."""
    encoded = json.dumps(value, sort_keys=True, ensure_ascii=True, default=str).encode()
    return hashlib.sha256(encoded).hexdigest()[:16]


def file_digest(path: str | os.PathLike) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with Path(path).open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


_BRIEF = reprlib.Repr()  # a vocabulary, say, is not shown in full
_BRIEF.maxstring = _BRIEF.maxother = 100


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """``name: old -> new`` of each value that differs, nested ones with the names around them."""
    lines = []
    for key in sorted(set(before) | set(now)):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            lines += _differences(old, new, f"{prefix}{key}.")
        elif old != new:
            lines.append(f"{prefix}{key}: {_BRIEF.repr(old)} -> {_BRIEF.repr(new)}")
    return lines


def _inputs_in(marker: Path) -> Mapping[str, Any]:
    """What a marker says that its result is made from."""
    content = read_json(marker)
    if not isinstance(content, dict) or not isinstance(content.get("inputs"), dict):
        raise LorsError(
            "not a done marker",
            where=marker,
            hint="remove it, and the next run does its work again",
        )
    return content["inputs"]


def _is_there(marker: Path) -> bool:
    """Whether there is a marker; LorsError if there is one that cannot be read."""
    try:
        _inputs_in(marker)
    except LorsError:
        # One that is removed just now, since its work has ended, is none.
        if marker.exists():
            raise
        return False
    return True


class DoneMarker:
    """Remembers, beside a result, what it is made from and whether it is finished.

    ``start()`` before the work and ``mark()`` after it; a later run with the same inputs finds it
    done, a later run with other inputs is refused, finished or not.

    Args:
        path: the marker (conventionally ``<dir>/.done``); ``<path>.started`` stands beside it
            while the work is unfinished.
        inputs: JSON-serialisable description of everything the result depends on.
    """

    def __init__(self, path: str | os.PathLike, inputs: Mapping[str, Any]):
        self.path = Path(path)
        self.started = self.path.with_name(self.path.name + ".started")
        self.inputs = json.loads(json.dumps(inputs, default=str))

    def is_done(self) -> bool:
        """True if the work was finished from these very inputs, False if it never finished.

        Raises:
            LorsError: a marker was written for other inputs; the difference is shown.
        """
        for marker in (self.path, self.started):
            if marker.exists():
                self._check(_inputs_in(marker))
        return self.path.exists()

    @classmethod
    def progress(cls, path: str | os.PathLike) -> str:
        """How far the work of the marker at `path` is, whatever it was to be made from.

        Returns:
            ``"done"``, ``"started"``, or ``""`` for work that was never begun.

        Raises:
            LorsError: a marker cannot be read, so that the next run will refuse it.
        """
        marker = cls(path, {})
        # Both are there for a moment when work ends, and then the first of them is gone.
        started = _is_there(marker.started)
        return "done" if _is_there(marker.path) else "started" if started else ""

    def _check(self, previous: Mapping[str, Any]) -> None:
        if previous == self.inputs:
            return
        different = _differences(previous, self.inputs)
        raise LorsError(
            "this directory holds a result that was made with other settings",
            where=self.path.parent,
            got="\n    " + "\n    ".join(different),
            hint="use another --expdir/--dumpdir, put the settings back, "
            f"or remove {self.path.parent} to make it again",
        )

    def start(self) -> None:
        """Record what is being made here, before the first file of it is written."""
        write_json(self.started, {"inputs": self.inputs})

    def mark(self) -> None:
        """Record that the work is finished."""
        write_json(self.path, {"inputs": self.inputs, "hash": hash_of(self.inputs)})
        self.started.unlink(missing_ok=True)
