"""Processes that end with the one that started them, however it is ended, and not before."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from multiprocessing import resource_tracker

DRIVER = "LORS_DRIVER"
"""Environment variable that a recipe's driver sets: the programs of lors end with their parent.

Without it they do not: who starts one of them in the background of a shell may leave the shell.
"""
_PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>


def end_with_parent(parent: int | None = None) -> None:
    """Have the kernel kill this process as soon as its parent is gone (on Linux).

    Being killed with SIGKILL a parent can do nothing for its children. What they would write on
    their own might come between the files of a second run.

    Args:
        parent: its process id, where it is known: it may be gone already. This process ends then.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # kept by exec, not by fork
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def end_with_driver() -> None:
    """:func:`end_with_parent`, if a recipe's driver is at work."""
    if os.environ.get(DRIVER):
        end_with_parent()


@contextlib.contextmanager
def starting_workers() -> Iterator[None]:
    """Processes that are started meanwhile leave Ctrl-C to this one, from their first instruction.

    To ignore the signal when they have started is too late: it would end them with a traceback. One
    that comes meanwhile is handled afterwards.
    """
    resource_tracker.ensure_running()  # which unblocks the signal where it is first needed
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
