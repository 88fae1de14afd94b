"""Done markers: a finished unit of work is not done again, and never mixed with other settings."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lors.errors import LorsError
from lors.fileio import BRIEF, hash_of, locked, read_json, write_json


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """``name: old -> new`` of each value that differs, nested ones with the names around them."""
    lines = []
    for key in sorted(set(before) | set(now)):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            lines += _differences(old, new, f"{prefix}{key}.")
        elif old != new:
            lines.append(f"{prefix}{key}: {BRIEF.repr(old)} -> {BRIEF.repr(new)}")
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

    The work is done in ``with marker.work():``, or ``start()`` comes before it and ``mark()`` after
    it; a later run with the same inputs finds it done, a later run with other inputs is refused,
    finished or not.

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
        if not self.path.exists():
            return False
        self.started.unlink(missing_ok=True)  # of a process that was killed in mark()
        return True

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

    @contextlib.contextmanager
    def work(self) -> Iterator[None]:
        """Work as the only process: :meth:`start` before it, :meth:`mark` if it went well.

        Raises:
            LorsError: another process is at this work.
        """
        with self.alone():
            self.start()
            yield
            self.mark()

    def alone(self) -> contextlib.AbstractContextManager[None]:
        """Keep other processes from this work, without a record of it: :func:`locked`."""
        name = self.path.name.removeprefix(".")
        return locked(self.path.with_name(f".{name}.lock"))

    def start(self) -> None:
        """Record what is being made here, before the first file of it is written."""
        write_json(self.started, {"inputs": self.inputs})

    def mark(self) -> None:
        """Record that the work is finished."""
        write_json(self.path, {"inputs": self.inputs, "hash": hash_of(self.inputs)})
        self.started.unlink(missing_ok=True)
