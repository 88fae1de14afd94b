"""Whether a process that a file tells of is still there: here, on another machine, under Slurm."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

RUNNING, QUEUED, GONE = "running", "queued", ""
QUIET_SECONDS = 600  # what cannot be looked up and has written nothing for so long is gone
# Clocks are set right now and then; a process number is not given away twice within a minute.
_CLOCK_SLACK = 60.0
_SLURM_RUNNING = {"RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "SIGNALING"}
_SLURM_RUNNING |= {"RESIZING", "STAGE_OUT", "STOPPED"}
_SLURM_QUEUED = {"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD"}
_SLURM_QUEUED |= {"SPECIAL_EXIT"}


@dataclass(frozen=True)
class Process:
    """A process as somebody wrote it down.

    Attributes:
        host: name of its machine.
        pid: its number there, if it was written down.
        slurm_job: id of the Slurm job it belongs to, e.g. ``123`` or ``123_4``; empty for none.
        since: when it was certainly there, in seconds since the epoch.
        last_sign: when it last wrote something, in the same unit.
    """

    host: str
    pid: int | None = None
    slurm_job: str = ""
    since: float | None = None
    last_sign: float = 0.0


def states_of(processes: Sequence[Process]) -> list[str]:
    """``RUNNING``, ``QUEUED`` (by Slurm) or ``GONE`` for each process; Slurm is asked once.

    A process of this machine is looked up, one of another machine is known by its Slurm job; where
    neither is possible, it counts as running for ten minutes after its last sign of life.
    """
    here = socket.gethostname()
    seen = [_is_local(p, here) and _is_alive(p.pid, p.since) for p in processes]
    jobs = {
        p.slurm_job for p, alive in zip(processes, seen, strict=True) if p.slurm_job and not alive
    }
    queue = _ask_slurm(jobs) if jobs else None
    return [
        RUNNING if alive else _state_unseen(process, here, queue)
        for process, alive in zip(processes, seen, strict=True)
    ]


def _is_local(process: Process, here: str) -> bool:
    """Whether it can be looked up here; one name may have the domain and the other not."""
    return process.pid is not None and process.host.split(".")[0] == here.split(".")[0]


def _state_unseen(process: Process, here: str, queue: Mapping[str, str] | None) -> str:
    """The state of a process that does not run on this machine, or no more."""
    state = queue.get(process.slurm_job, GONE) if process.slurm_job and queue is not None else None
    if _is_local(process, here):
        # Its job may be back in the queue, or go on for other commands that were given to it.
        return QUEUED if state == QUEUED else GONE
    if state is not None:
        return state
    return RUNNING if time.time() - process.last_sign < QUIET_SECONDS else GONE


def _is_alive(pid: int, since: float | None) -> bool:
    """Whether a process runs here that was there at the time `since` already.

    One that began later has only got the number of the one that is meant.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = next(
            float(line.split()[1])
            for line in Path("/proc/stat").read_text().splitlines()
            if line.startswith("btime ")
        )
    except (OSError, StopIteration):
        return False
    if fields[0] in ("Z", "X"):  # it has ended, only its parent has not asked how
        return False
    began = boot + int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return since is None or began <= since + _CLOCK_SLACK


def _ask_slurm(jobs: Collection[str]) -> dict[str, str] | None:
    """Job id -> ``RUNNING`` or ``QUEUED``; a job that has ended is not in it.

    None if Slurm cannot be asked from here.
    """
    arrays = sorted({job.partition("_")[0] for job in jobs})
    command = ["squeue", "-a", "-h", "-r", "-o", "%i %T", "-j", ",".join(arrays)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    # What squeue says of a single job that ended some minutes ago.
    if done.returncode and "Invalid job id" not in done.stderr:
        return None
    queue = {}
    for line in done.stdout.splitlines():
        job, _, state = line.strip().partition(" ")
        if state in _SLURM_RUNNING:
            queue[job] = RUNNING
        elif state in _SLURM_QUEUED:
            queue[job] = QUEUED
    return queue
