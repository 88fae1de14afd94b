"""Done markers: finished work is not repeated, and not mixed with work of other settings."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lors.errors import BRIEF, LorsError
from lors.fileio import hash_of, locked, read_json, write_json


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return a line ``name: old -> new`` for each value that differs; nested names have dots."""
    lines = []
    for key in sorted(set(before) | set(now)):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            lines += _differences(old, new, f"{prefix}{key}.")
        elif old != new:
            lines.append(f"{prefix}{key}: {BRIEF.repr(old)} -> {BRIEF.repr(new)}")
    return lines


def recorded_inputs(marker: Path) -> Mapping[str, Any]:
    """Read the inputs of the result from its marker."""
    try:
        content = read_json(marker)
        problem = "" if isinstance(content, dict) else BRIEF.repr(content)
    except LorsError as error:
        content, problem = {}, f"{error.what}: {error.got}"
    inputs = None if problem else content.get("inputs")
    if not isinstance(inputs, dict):
        raise LorsError(
            "not a done marker",
            where=marker,
            got=problem or "no inputs",
            hint="remove it, and run again: the work is then repeated",
        )
    return inputs


def _is_valid(marker: Path) -> bool:
    """Return whether the marker exists; LorsError if it exists but cannot be read."""
    try:
        recorded_inputs(marker)
    except LorsError:
        # The process that does the work may have removed it meanwhile.
        if marker.exists():
            raise
        return False
    return True


class DoneMarker:
    """Files beside a result that record its inputs and whether the work is finished.

    Do the work in ``with marker.work():``, or call ``start()`` before it and ``mark()`` after it.
    A later run with the same inputs then skips finished work. A later run with other inputs is an
    error, for finished and unfinished work.

    Args:
        path: the marker, usually ``<dir>/.done``. While the work is unfinished there is
            ``<path>.started`` instead.
        inputs: JSON-serialisable description of everything that the result depends on.
        option: options of the recipes that choose another place for the result.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        inputs: Mapping[str, Any],
        option: str = "--expdir or --dumpdir",
    ):
        self.path = Path(path)
        self.started = self.path.with_name(self.path.name + ".started")
        self.option = option
        # JSON has no infinities: they are recorded, and so compared, as texts.
        self.inputs = json.loads(json.dumps(inputs, default=str), parse_constant=str)

    def is_done(self) -> bool:
        """Return whether the work is finished.

        Raises:
            LorsError: the work was started or finished with other inputs; the message shows the
                differences.
        """
        for marker in (self.path, self.started):
            if marker.exists():
                self.check(recorded_inputs(marker))
        if not self.path.exists():
            return False
        self.started.unlink(missing_ok=True)  # left by a process that was killed in mark()
        return True

    @classmethod
    def progress(cls, path: str | os.PathLike) -> str:
        """Return the state of the work with the marker `path`, for any inputs.

        Returns:
            ``"done"``, ``"started"``, or ``""`` for work that was never started.

        Raises:
            LorsError: a marker cannot be read; the next run would refuse it.
        """
        marker = cls(path, {})
        # This order: mark() writes the done marker before it removes the other.
        started = _is_valid(marker.started)
        return "done" if _is_valid(marker.path) else "started" if started else ""

    def check(self, previous: Mapping[str, Any]) -> None:
        """Check that work with the inputs `previous` is that of this marker.

        Raises:
            LorsError: the inputs differ; the message shows the differences.
        """
        if previous == self.inputs:
            return
        raise LorsError(
            "the result in this directory was made with other settings",
            where=self.path.parent,
            got=_differences(previous, self.inputs),
            hint=f"use another {self.option}, restore the settings, "
            f"or remove {self.path.parent} to make the result again",
        )

    @contextlib.contextmanager
    def work(self) -> Iterator[None]:
        """Do the work in the ``with`` block: :meth:`start` before it, :meth:`mark` if it succeeds.

        Raises:
            LorsError: another process is doing this work.
        """
        with self.alone():
            self.start()
            yield
            self.mark()

    def alone(self) -> contextlib.AbstractContextManager[None]:
        """Keep other processes from this work by a lock (:func:`locked`); no marker is written."""
        name = self.path.name.removeprefix(".")
        return locked(self.path.with_name(f".{name}.lock"))

    def start(self) -> None:
        """Record the inputs, before the first file of the result is written."""
        write_json(self.started, {"inputs": self.inputs})

    def mark(self) -> None:
        """Record that the work is finished."""
        write_json(self.path, {"inputs": self.inputs, "hash": hash_of(self.inputs)})
        self.started.unlink(missing_ok=True)
