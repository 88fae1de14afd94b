"""The commands of Slurm for utils/slurm.py: submit, read the queue, cancel."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time
from collections.abc import Callable, Collection
from typing import NamedTuple, TypeVar

from jobs import Signals

Result = TypeVar("Result")
PATIENCE_SECONDS = 600.0  # for a controller that is away or too busy
# Messages of a controller that is away or too busy; any other message is an answer.
_AWAY = re.compile(
    r"unable to contact|timed out|connection refused|temporarily|zero bytes|not responding|busy",
    re.IGNORECASE,
)
# Reasons for which a pending job will not start by itself. By default Slurm lets it wait for ever.
_STUCK = re.compile(
    r"held|never|BadConstraints|Partition\w+Limit|PartitionDown|Inactive|PerJob|PerNode|Invalid",
    re.IGNORECASE,
)


class SlurmError(Exception):
    """Slurm refused a command, or a command failed."""


class SlurmAway(SlurmError):
    """The controller did not answer; it may answer later."""


class SlurmMissing(SlurmError):
    """A command of Slurm is not on this machine."""


class Stopped(Exception):
    """A signal came while the controller did not answer."""

    def __init__(self, signum: int):
        super().__init__(signum)
        self.signum = signum


class Task(NamedTuple):
    """A task of a job array in Slurm's queue.

    Attributes:
        state: such as PENDING or RUNNING.
        reason: why it is pending.
        comment: ``TAG#N``, as ``slurm_arrays.Arrays`` submitted it.
    """

    state: str
    reason: str
    comment: str

    @property
    def is_stuck(self) -> bool:
        return self.state == "PENDING" and bool(_STUCK.search(self.reason))

    @property
    def tag(self) -> str:
        """The comment without the number of the submission."""
        return self.comment.rpartition("#")[0]


def environment() -> dict[str, str]:
    """Return the environment of Slurm's commands.

    It is the environment of this process without the variables of a surrounding Slurm job, and
    without the settings of a user that change listings (SQUEUE_*), ask before cancelling
    (SCANCEL_*) or let sbatch wait (SBATCH_WAIT).
    """
    kept = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT")
    return {
        name: value
        for name, value in os.environ.items()
        if name in kept or not name.startswith(("SLURM_", "SQUEUE_", "SCANCEL_", "SBATCH_WAIT"))
    }


def ask(*command: str) -> str:
    """Return the output of a Slurm command.

    Raises:
        SlurmAway: the controller did not answer.
        SlurmMissing: it is not installed.
        SlurmError: it failed for another reason.
    """
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="surrogateescape",  # comments of the user's other jobs may be any bytes
            env=environment(),
            start_new_session=True,  # Ctrl-C must not end a submission
        )
    except OSError as error:
        kind = SlurmMissing if isinstance(error, FileNotFoundError) else SlurmError
        raise kind(f"{command[0]}: {error.strerror}") from None
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()
        raise (SlurmAway if _AWAY.search(said) else SlurmError)(f"{command[0]}: {said}")
    return done.stdout


def queue() -> dict[tuple[int, int], Task]:
    """Return the array tasks of this user that have not ended: (array's id, number) -> task."""
    # --all: also the partitions that are hidden from this user, which may have the user's jobs.
    listing = ask("squeue", "--all", "--noheader", "--array", "--me", "--format=%F|%K|%T|%r|%k")
    found = {}
    for line in listing.split("\n"):
        words = line.split("|", 4)
        if len(words) == 5 and words[0].isdecimal() and words[1].isdecimal():
            found[int(words[0]), int(words[1])] = Task(*words[2:])
    return found


def submit(words: list[str]) -> int:
    """Submit a job array; return its id.

    Raises:
        SlurmAway: the controller did not answer, but may have accepted the array.
        SlurmError: sbatch failed, or its answer has no id.
    """
    answer = ask(*words)
    match = re.search(r"^(\d+)(?:;(\S+))?$", answer, re.MULTILINE)
    if not match:
        raise SlurmError(f"{words[0]} answered: {answer.strip()}")
    if match[2]:
        os.environ["SLURM_CLUSTERS"] = match[2]  # for later commands about this array
    return int(match[1])


def patiently(act: Callable[[], Result], signals: Signals, say: Callable[[str], None]) -> Result:
    """Return the result of `act`; call it again while the controller does not answer.

    See docs/slurm_recovery.md, "Controller away".

    Args:
        act: function that raises SlurmAway if the controller does not answer.
        signals: signals that end the waiting.
        say: prints a message for the user; called once.

    Raises:
        SlurmAway: no answer for `PATIENCE_SECONDS`.
        SlurmError: `act` failed for another reason.
        Stopped: a signal came.
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
            signum = signals.wait(delay)
            if signum:
                raise Stopped(signum) from None
            delay = min(30.0, 2 * delay)


def how_it_ended(array: int, number: int) -> str:
    """Return Slurm's record of a task that has ended: state, reason, exit code, nodes."""
    try:
        text = ask("scontrol", "--oneliner", "show", "job", f"{array}_{number}")
    except SlurmError as error:
        return f"the job is not known any more ({error})"
    facts = dict(re.findall(r"(\w+)=(\S*)", text))
    names = ("JobState", "Reason", "ExitCode", "NodeList")
    return ", ".join(f"{name}={facts[name]}" for name in names if facts.get(name))


def cancel(arrays: Collection[int], tag: str = "", seconds: float = 120.0) -> bool:
    """Cancel job arrays and wait for their end; return False if some may still be there.

    The queue is read again and again, and each time the remaining tasks are cancelled: a task that
    was just being requeued comes back.

    Args:
        arrays: ids.
        tag: cancel all arrays with this tag, too; none if it is empty.
        seconds: time limit.
    """
    deadline, delay = time.monotonic() + seconds, 0.1
    while arrays or tag:
        with contextlib.suppress(SlurmError):  # the controller may be away for a moment
            tasks = queue().items()
            left = {array for (array, _), task in tasks if array in arrays or task.tag == tag}
            if not left:
                return True
            ask("scancel", *map(str, sorted(left)))
        if time.monotonic() > deadline:
            return False
        time.sleep(delay)
        delay = min(2.0, 1.5 * delay)
    return True
