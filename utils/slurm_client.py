"""Slurm's commands as utils/slurm.py needs them: submit, look, cancel; patient with the controller.

Only the standard library is used.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time
from collections.abc import Callable, Collection
from typing import NamedTuple, TypeVar

Result = TypeVar("Result")
PATIENCE_SECONDS = 600.0  # with a controller that is away or too busy
# What Slurm says then; anything else is an answer.
_AWAY = re.compile(
    r"unable to contact|timed out|connection refused|temporarily|zero bytes|not responding|busy",
    re.IGNORECASE,
)
# Reasons for which a pending job will not start by itself, as Slurm's defaults allow it to wait.
_STUCK = re.compile(
    r"held|never|BadConstraints|Partition\w+Limit|PartitionDown|Inactive|PerJob|PerNode|Invalid",
    re.IGNORECASE,
)


class SlurmError(Exception):
    """Slurm refused something."""


class SlurmAway(SlurmError):
    """Slurm did not answer; it may do so later."""


class Stopped(Exception):
    """The user, or the end of the caller, has asked to stop while we waited for Slurm."""

    def __init__(self, signum: int):
        super().__init__(signum)
        self.signum = signum


class Task(NamedTuple):
    """A task of a job array that has not ended."""

    state: str
    reason: str
    comment: str

    @property
    def is_stuck(self) -> bool:
        return self.state == "PENDING" and bool(_STUCK.search(self.reason))

    @property
    def call(self) -> str:
        """The comment without the number of the submission that utils/slurm.py puts at its end."""
        return self.comment.rpartition("#")[0]


def environment() -> dict[str, str]:
    """This process's, without what describes the Slurm job that it may run in itself.

    Nor does a user's taste in listings and questions belong here (SQUEUE_*, SCANCEL_*), nor that of
    waiting for a submitted job (SBATCH_WAIT).
    """
    kept = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT")
    return {
        name: value
        for name, value in os.environ.items()
        if name in kept or not name.startswith(("SLURM_", "SQUEUE_", "SCANCEL_", "SBATCH_WAIT"))
    }


def ask(*command: str) -> str:
    """The output of a Slurm command.

    Raises:
        SlurmAway: the controller did not answer.
        SlurmError: it failed for another reason, or is not there.
    """
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="surrogateescape",  # comments of the user's other jobs may be any bytes
            env=environment(),
            start_new_session=True,  # Ctrl-C must not end one that is submitting
        )
    except OSError as error:
        raise SlurmError(f"{command[0]}: {error.strerror}") from None
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()
        raise (SlurmAway if _AWAY.search(said) else SlurmError)(f"{command[0]}: {said}")
    return done.stdout


def queue() -> dict[tuple[int, int], Task]:
    """(array's job id, number) -> what is known of it, for all of this user's array tasks."""
    # --all: partitions that are hidden from this user may still have his jobs.
    listing = ask("squeue", "--all", "--noheader", "--array", "--me", "--format=%F|%K|%T|%r|%k")
    found = {}
    for line in listing.splitlines():
        words = line.split("|", 4)
        if len(words) == 5 and words[0].isdecimal() and words[1].isdecimal():
            found[int(words[0]), int(words[1])] = Task(*words[2:])
    return found


def submit(words: list[str]) -> int:
    """Submit a job array; returns its job id.

    Raises:
        SlurmError: sbatch failed, or answered something else.
    """
    answer = ask(*words)
    match = re.search(r"^(\d+)(?:;(\S+))?$", answer, re.MULTILINE)
    if not match:
        raise SlurmError(f"{words[0]} answered: {answer.strip()}")
    if match[2]:
        os.environ["SLURM_CLUSTERS"] = match[2]  # where to ask for it, and to cancel it
    return int(match[1])


def patiently(
    act: Callable[[], Result], wait: Callable[[float], int], say: Callable[[str], None]
) -> Result:
    """`act`, again and again while the controller is away, for `PATIENCE_SECONDS` at most.

    Args:
        act: raises SlurmAway while it is.
        wait: waits some seconds, and returns the signal to stop for, or 0.
        say: tells the user, once.

    Raises:
        Stopped: by a signal.
    """
    deadline, delay = time.monotonic() + PATIENCE_SECONDS, 1.0
    while True:
        try:
            return act()
        except SlurmAway as error:
            if delay == 1.0:
                say(f"trying again for {PATIENCE_SECONDS / 60:.0f} minutes: {error}")
            if time.monotonic() > deadline:
                raise
            signum = wait(delay)
            if signum:
                raise Stopped(signum) from None
            delay = min(30.0, 2 * delay)


def how_it_ended(array: int, number: int) -> str:
    """What Slurm says of a task that it has ended: state, reason, node."""
    try:
        text = ask("scontrol", "--oneliner", "show", "job", f"{array}_{number}")
    except SlurmError as error:
        return f"nothing is known of it any more ({error})"
    facts = dict(re.findall(r"(\w+)=(\S*)", text))
    names = ("JobState", "Reason", "ExitCode", "NodeList")
    return ", ".join(f"{name}={facts[name]}" for name in names if facts.get(name))


def cancel(arrays: Collection[int], call: str = "", seconds: float = 120.0) -> bool:
    """Cancel job arrays and wait for their end; False if some may still be there after that time.

    Every look at the queue cancels again what is there: a task that is just being requeued would
    come back.

    Args:
        arrays: their ids.
        call: whose arrays are cancelled too, known or not; none if it is empty.
        seconds: to wait.
    """
    deadline, delay = time.monotonic() + seconds, 0.1
    while arrays or call:
        with contextlib.suppress(SlurmError):  # the controller may be away for a moment
            tasks = queue().items()
            left = {array for (array, _), task in tasks if array in arrays or task.call == call}
            if not left:
                return True
            ask("scancel", *map(str, sorted(left)))
        if time.monotonic() > deadline:
            return False
        time.sleep(delay)
        delay = min(2.0, 1.5 * delay)
    return True
