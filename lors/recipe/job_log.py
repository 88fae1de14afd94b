"""Read the log of a job: the command, the process, the exit code, and the error.

utils/jobs.py describes the format. The logs of Kaldi's own wrappers can be read as well; they do
not name the process.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import time
from dataclasses import dataclass
from pathlib import Path

from lors.recipe.liveness import RecordedProcess

STOPPED = (128 + 1, 128 + 2, 128 + 15)
"""Exit codes of a job that a user stopped: closed terminal, Ctrl-C, TERM."""
ERROR_WIDTH = 160  # characters of an error that are shown
HEAD_LINES = 100  # the wrapper's first lines are among these; a cluster may write lines before
HEAD_BYTES = 1 << 18  # a recipe's commands are far shorter
TAIL_BYTES = 1 << 16
LONGEST_LINE = 2000  # characters in which an error is looked for
_RUNNING = re.compile(
    r"# Running on (?P<host>[^\s,]+)(?:, process (?P<pid>\d{1,18})(?!\d))?"
    r"(?:, Slurm job (?P<slurm>[\w]+))?"
)
_STARTED = re.compile(r"# Started at (\S+)")
# The second form is that of Kaldi's wrappers.
_FINISHED = re.compile(
    r"# (?:Finished at .* with status (\d{1,3})(?!\d)|Ended \(code (\d{1,3})\) at .*)"
)
_ENDED_BY = re.compile(r"# Ended by (.*)")
_FROM_OUTSIDE = ("SIGKILL", "Slurm")  # causes that a command cannot name in its output
_ERROR = re.compile(r"\b\w*(?:[eE]rror|ERROR|Exception)\b(?::|$)|\bKilled\b")
# A program reports that a child process has failed: the message of the child is better.
_ABOUT_CHILD = re.compile(r"\b(?:ChildFailedError|CalledProcessError)\b|: error: .*\bfailed\b")


@dataclass(frozen=True)
class JobLog:
    """The latest run of a job, as its log describes it.

    Attributes:
        path: the log.
        command: the job's words.
        process: the process that runs the job.
        status: its exit code; None if it runs, or was killed together with its wrapper.
        changed: when the log was last written to, in seconds since the epoch.
    """

    path: Path
    command: tuple[str, ...]
    process: RecordedProcess
    status: int | None
    changed: float

    @property
    def has_failed(self) -> bool:
        return self.status is not None and self.status != 0 and self.status not in STOPPED

    def option(self, name: str) -> list[str]:
        """Return the words after ``--name`` in the command, up to the next option."""
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
        """Name of the Python module that the job runs; empty for another program."""
        with contextlib.suppress(ValueError, IndexError):
            return self.command[self.command.index("-m") + 1]
        return ""


def read_job_log(path: str | os.PathLike) -> JobLog | None:
    """Read a log; return None if there is no such file, or no wrapper has begun to write it."""
    path = Path(path)
    try:
        if not path.is_file():
            return None
        head = _head(path)
        changed = path.stat().st_mtime
        tail = _tail(path)
    except OSError:
        return None
    place = next((i for i, line in enumerate(head) if _RUNNING.match(line)), 0)
    if not place:
        return None
    # A job that went back into Slurm's queue, or was run again, has these lines several times.
    lines = head[place:] + tail
    running = list(filter(None, map(_RUNNING.match, lines)))[-1]
    started = next(filter(None, map(_STARTED.match, reversed(lines))), None)
    process = RecordedProcess(
        host=running["host"],
        pid=int(running["pid"]) if running["pid"] else None,
        slurm_job=running["slurm"] or "",
        seen_at=_seconds_of(started[1]) if started else None,
        last_write=changed,
    )
    # Slurm may append lines of its own to the wrapper's last line.
    finished = next(filter(None, map(_FINISHED.match, reversed(_latest_run(tail)))), None)
    status = int(finished[1] or finished[2]) if finished else None
    return JobLog(path, _words(head[place - 1].removeprefix("# ")), process, status, changed)


def error_in(path: str | os.PathLike) -> str:
    """Return the line of a log that best explains why its job failed; empty if there is none.

    If the command was ended from outside, the line names the signal. Otherwise it is the last line
    of the output with an error, else it names the signal, else it is the last line of the output.
    """
    try:
        tail = _latest_run(_tail(Path(path)))
    except OSError:
        return ""
    lines = [line[:LONGEST_LINE].rstrip() for line in tail if line.strip()]
    output = [line.strip() for line in lines if not line.startswith("#")]
    errors = [line for line in output if _ERROR.search(line)]
    ended = next(filter(None, map(_ENDED_BY.match, reversed(lines))), None)
    if ended and (ended[1].startswith(_FROM_OUTSIDE) or not errors):
        return f"ended by {ended[1]}"
    own = [line for line in errors if not _ABOUT_CHILD.search(line)]
    line = (own or errors or output or [""])[-1]
    return line if len(line) <= ERROR_WIDTH else line[: ERROR_WIDTH - 3] + "..."


def _seconds_of(date: str) -> float | None:
    """Return a local time like 2025-01-01T12:00:00 as seconds since the epoch, or None."""
    try:
        return time.mktime(time.strptime(date, "%Y-%m-%dT%H:%M:%S"))
    except (ValueError, OverflowError):
        return None


def _latest_run(lines: list[str]) -> list[str]:
    """Return the lines after the last ``Running on``; all lines if there is none."""
    begun = [place for place, line in enumerate(lines) if _RUNNING.match(line)]
    return lines[begun[-1] + 1 :] if begun else lines


def _head(path: Path) -> list[str]:
    """The first lines of a file; the last of them may be cut."""
    lines: list[str] = []
    left = HEAD_BYTES
    with path.open("rb") as handle:
        while left > 0 and len(lines) < HEAD_LINES:
            line = handle.readline(left)
            if not line:
                break
            left -= len(line)
            lines.append(line.decode(errors="replace").rstrip("\r\n"))
    return lines


def _tail(path: Path) -> list[str]:
    """Return the last lines of a file; the first of them may be incomplete."""
    with path.open("rb") as handle:
        size = handle.seek(0, os.SEEK_END)
        handle.seek(max(0, size - TAIL_BYTES))
        return handle.read(TAIL_BYTES).decode(errors="replace").splitlines()


def _words(command: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(command))
    except ValueError:  # another wrapper's command, without quotes
        return tuple(command.split())
