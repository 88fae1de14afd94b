"""Messages of the job wrappers on stderr: progress, failed jobs, the end of a call."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from job_options import NO_LOG, Call

TAIL_LINES = 30
TAIL_BYTES = 1 << 16
TAIL_WIDTH = 1000
"""Most characters of a line that are shown."""
MOST_NUMBERS = 100
"""Most failed jobs that are listed."""


def say(message: str) -> None:
    print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr, flush=True)


def say_os_error(error: OSError, path: str | os.PathLike = "") -> None:
    """Report an error of the operating system with the file and the next step for the user.

    Args:
        error: the error.
        path: the file, if the error does not name one.
    """
    root = Path(__file__).resolve().parent.parent
    sys.path.insert(0, str(root))
    from lors.errors import from_os_error  # the one table of next steps; a wrapper starts without

    if error.filename is None and path:
        error.filename = os.fspath(path)
    say(f"error: {from_os_error(error)}")


class Progress:
    """A line on the terminal that is updated while an array of jobs runs."""

    def __init__(self, call: Call):
        forced = os.environ.get("LORS_PROGRESS")
        wanted = forced == "1" if forced in ("0", "1") else sys.stderr.isatty()
        self.total, self.logs = len(call.numbers), call.all_logs
        self.shown = wanted and self.total > 1
        self.start_time = time.monotonic()

    def show(self, done: int, running: int, failed: int) -> None:
        if not self.shown:
            return
        minutes, seconds = divmod(int(time.monotonic() - self.start_time), 60)
        text = f"{done}/{self.total} jobs done, {running} running, {minutes}:{seconds:02d}"
        text += f", {failed} FAILED" if failed else ""
        print(f"\r{text}  ({self.logs})\x1b[K", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.shown:
            print(file=sys.stderr, flush=True)


def report_end(call: Call, stop: int, failed: Iterable[int]) -> int:
    """Report the end of a call; return its exit status.

    Args:
        call: the call.
        stop: the signal that ended it, or 0.
        failed: the numbers of the failed jobs.
    """
    if stop:
        say(f"stopped by {signal.Signals(stop).name}, all jobs ended{call.and_logs}")
        return 128 + stop
    if failed:
        _report_failures(call, failed)
        return 1
    return 0


def _report_failures(call: Call, failed: Iterable[int]) -> None:
    """Report the number of failed jobs, and show the end of the first failed log.

    The lines ``N / M failed, log is in LOG`` and ``job failed, log is in LOG`` are Kaldi's.
    """
    numbers, total = sorted(failed), len(call.numbers)
    log = call.for_job(call.log, numbers[0])
    if total > 1:
        say(f"{len(numbers)} / {total} failed{call.and_logs}")
        more = len(numbers) - MOST_NUMBERS
        listed = ",".join(map(str, numbers[:MOST_NUMBERS]))
        say(f"failed: {call.job_name}={listed}{f' and {more} more' if more > 0 else ''}")
    if call.log == NO_LOG:
        return
    if total == 1:
        say(f"job failed, log is in {log}")
    try:
        tail = _last_lines(Path(log))
    except OSError as error:
        say(f"cannot read {log}: {error.strerror}")
        return
    say(f"the last lines of {log}:")
    sys.stderr.writelines(f"  {line}\n" for line in tail)


def _last_lines(log: Path) -> list[str]:
    """Return the last lines of a log; a log of gigabytes, or its only line, may be cut."""
    with log.open("rb") as handle:
        handle.seek(max(0, handle.seek(0, os.SEEK_END) - TAIL_BYTES))
        lines = handle.read(TAIL_BYTES).decode(errors="replace").splitlines()[-TAIL_LINES:]
    cut = (line if len(line) <= TAIL_WIDTH else f"{line[:TAIL_WIDTH]} ..." for line in lines)
    return [line.rstrip() for line in cut]
