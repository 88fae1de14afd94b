"""Logging, and the function that runs every program of :mod:`lors.bin`.

Log lines go to stderr as ``2025-01-01T12:00:00 (merge.py:88) message``; results go to stdout.
Importing this module changes no setting: :func:`run_main` sets up logging when a program starts.
"""

from __future__ import annotations

import argparse
import io
import logging
import os
import select
import signal
import sys
from collections.abc import Callable, Sequence

from lors.errors import LorsError, from_os_error

FORMAT = "%(asctime)s (%(filename)s:%(lineno)d) %(message)s"
DATE_FORMAT = "%Y-%m-%dT%H:%M:%S"


def setup_logging(level: int = logging.INFO) -> None:
    """Send log records of `level` and above to stderr, in the line format above."""
    logging.basicConfig(
        level=level, format=FORMAT, datefmt=DATE_FORMAT, stream=sys.stderr, force=True
    )


def show_progress() -> bool:
    """Return whether to show progress bars.

    By default only if stderr is a terminal; LORS_PROGRESS=1 or 0 in the environment overrides it.
    """
    forced = os.environ.get("LORS_PROGRESS")
    return forced == "1" if forced in ("0", "1") else sys.stderr.isatty()


def run_main(
    parser: argparse.ArgumentParser,
    work: Callable[[argparse.Namespace], None],
    argv: Sequence[str] | None = None,
) -> int:
    """Parse `argv`, run `work(args)` and return the exit code.

    Returns:
        0 for success, 2 for a usage error (argparse itself exits with 2), 1 for any other
        :class:`LorsError` or an error of the operating system, 130 after Ctrl-C, 141 without a
        message if the reader of stdout has ended (``... | head``). Any other exception is a bug:
        it propagates with its traceback, and Python exits with 1.
    """
    args = parser.parse_args(argv)
    setup_logging()
    # A file name that is not UTF-8 is printed as it is.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")
    # SIGTERM must run the same clean-up (temporary files, worker pools) as Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        work(args)
        sys.stdout.flush()
    except LorsError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _stdout_is_closed():
            # Python would report the rest of the buffer at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 128 + 13  # as of a program that SIGPIPE ends
        print(f"{parser.prog}: error: {from_os_error(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted", file=sys.stderr)
        return 130
    return 0


def _stdout_is_closed() -> bool:
    """Return whether stdout is a pipe whose reader has ended."""
    if sys.platform == "win32":
        return False
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))
