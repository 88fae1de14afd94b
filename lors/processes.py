"""Child processes that end with their parent, also if the parent is killed."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Iterator

DRIVER = "LORS_DRIVER"
"""Environment variable set by a recipe's driver: the programs of lors then end with their parent.

Without it they do not, so that a user can start one in the background and close the shell.
"""
_PR_SET_PDEATHSIG = 1  # from <linux/prctl.h>


def end_with_parent(parent: int | None = None) -> None:
    """Let the kernel kill this process as soon as its parent ends; only on Linux.

    A parent that is killed with SIGKILL cannot stop its children, and their output could damage the
    files of the next run.

    Args:
        parent: process id of the parent, if known. If the parent has ended already, this process
            is killed at once.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # kept by exec, not by fork
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def end_with_driver() -> None:
    """Call :func:`end_with_parent` if a recipe's driver is running."""
    if os.environ.get(DRIVER):
        end_with_parent()


@contextlib.contextmanager
def starting_workers() -> Iterator[None]:
    """Start worker processes in the ``with`` block that ignore Ctrl-C from the beginning.

    SIGINT is blocked, and the workers inherit this. A worker that had to block it itself could be
    interrupted before, with a traceback. A Ctrl-C within the block is handled after the block.
    """
    from multiprocessing import resource_tracker  # not at the start of every program

    resource_tracker.ensure_running()  # it would unblock the signal at its first use
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
