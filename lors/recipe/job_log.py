"""The logs that job wrappers write: what a job is to do, where it runs, and how it ended.

The lines of the wrapper, around the job's own output (process and Slurm job may be missing)::

    # python -m lors.bin.train --pairs de_asr de_st --only 2 --out exp/expert
    # Running on node7, process 4242, Slurm job 123_2
    # Started at 2025-01-01T12:00:00
    #
    ...
    # Accounting: time=63 threads=1
    # Finished at 2025-01-01T12:01:03 with status 1
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from lors.recipe.liveness import Process

# Exit codes after Ctrl-C, a closed terminal and TERM: somebody stopped the job.
STOPPED = (128 + 1, 128 + 2, 128 + 15)
HEAD_LINES = 100  # a cluster may write some lines of its own first
TAIL_BYTES = 1 << 16
_RUNNING = re.compile(
    r"# Running on (?P<host>[^\s,]+)(?:, process (?P<pid>\d+))?(?:, Slurm job (?P<slurm>[\w]+))?"
)
_STARTED = re.compile(r"# Started at (\S+)")
# The second form is that of Kaldi's own wrappers.
_FINISHED = re.compile(r"# (?:Finished at .* with status (\d+)|Ended \(code (\d+)\) at .*)")
_ENDED = re.compile(r"# Ended by (.*)")
_FROM_OUTSIDE = ("SIGKILL", "Slurm")  # before any other signal a command may say why
_ERROR = re.compile(r"\b\w*(?:[eE]rror|ERROR|Exception)\b(?::|$)|\bKilled\b")
ERROR_WIDTH = 160  # characters of an error that are shown


@dataclass(frozen=True)
class JobLog:
    """One job's log.

    Attributes:
        path: the log.
        command: the job's words.
        process: what does the job.
        status: its exit code; None if it has not ended, or was killed together with its wrapper.
        changed: when the log was last written to, in seconds since the epoch.
    """

    path: Path
    command: tuple[str, ...]
    process: Process
    status: int | None
    changed: float

    @property
    def has_failed(self) -> bool:
        return self.status is not None and self.status != 0 and self.status not in STOPPED

    def option(self, name: str) -> list[str]:
        """The words after ``--name`` in the command, up to the next option."""
        try:
            first = self.command.index(f"--{name}") + 1
        except ValueError:
            return []
        last = first
        while last < len(self.command) and not self.command[last].startswith("--"):
            last += 1
        return list(self.command[first:last])

    @property
    def module(self) -> str:
        """The Python module that the job runs; empty if it runs something else."""
        with contextlib.suppress(ValueError, IndexError):
            return self.command[self.command.index("-m") + 1]
        return ""


def read_job_log(path: str | os.PathLike) -> JobLog | None:
    """Read a log; None if there is none, or none that a wrapper has begun."""
    path = Path(path)
    try:
        with path.open(encoding="utf-8", errors="replace") as handle:
            head = [line.rstrip("\n") for line in islice(handle, HEAD_LINES)]
        changed = path.stat().st_mtime
        tail = _tail(path)
    except OSError:
        return None
    place = next((i for i, line in enumerate(head) if _RUNNING.match(line)), 0)
    if not place:
        return None
    # A job that went back into Slurm's queue has begun more than once, in the same log.
    lines = head[place:] + tail
    running = list(filter(None, map(_RUNNING.match, lines)))[-1]
    started = next(filter(None, map(_STARTED.match, reversed(lines))), None)
    process = Process(
        host=running["host"],
        pid=int(running["pid"]) if running["pid"] else None,
        slurm_job=running["slurm"] or "",
        since=seconds_of(started[1]) if started else None,
        last_sign=changed,
    )
    # Slurm may have had something to say after the wrapper's last line.
    finished = next(filter(None, map(_FINISHED.match, reversed(_of_last_run(tail)))), None)
    status = int(finished[1] or finished[2]) if finished else None
    return JobLog(path, _words(head[place - 1].removeprefix("# ")), process, status, changed)


def error_in(path: str | os.PathLike) -> str:
    """The line of a log that says best why its job failed; empty if there is no such line."""
    try:
        lines = [line.rstrip() for line in _of_last_run(_tail(Path(path))) if line.strip()]
    except OSError:
        return ""
    said = [line.strip() for line in lines if not line.startswith("#")]
    named = [line for line in said if _ERROR.search(line)]
    ended = next(filter(None, map(_ENDED.match, reversed(lines))), None)
    if ended and (ended[1].startswith(_FROM_OUTSIDE) or not named):
        return f"ended by {ended[1]}"
    line = (named or said or [""])[-1]
    return line if len(line) <= ERROR_WIDTH else line[: ERROR_WIDTH - 3] + "..."


def seconds_of(date: str) -> float | None:
    """A local time like 2025-01-01T12:00:00 in seconds since the epoch; None for another form."""
    try:
        return time.mktime(time.strptime(date, "%Y-%m-%dT%H:%M:%S"))
    except (ValueError, OverflowError):
        return None


def _of_last_run(lines: list[str]) -> list[str]:
    """What follows the last beginning of a job: it may have begun more than once in its log."""
    begun = [place for place, line in enumerate(lines) if _RUNNING.match(line)]
    return lines[begun[-1] + 1 :] if begun else lines


def _tail(path: Path) -> list[str]:
    """The last lines of a file, the first of them perhaps without its beginning."""
    with path.open("rb") as handle:
        size = handle.seek(0, os.SEEK_END)
        handle.seek(max(0, size - TAIL_BYTES))
        return handle.read().decode(errors="replace").splitlines()


def _words(command: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(command))
    except ValueError:  # no command of our wrappers, which quote theirs
        return tuple(command.split())
