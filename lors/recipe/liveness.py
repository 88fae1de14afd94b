"""States of recorded processes: on this machine, on another machine, or as Slurm jobs."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

RUNNING, QUEUED, GONE = "running", "queued", ""
QUIET_SECONDS = 600  # a process that cannot be looked up counts as gone after this time
# A clock may be set by some seconds. A process number is not used again within a minute.
_CLOCK_SLACK = 60.0
_SLURM_RUNNING = {"RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "SIGNALING"}
_SLURM_RUNNING |= {"RESIZING", "STAGE_OUT", "STOPPED"}
_SLURM_QUEUED = {"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD"}
_SLURM_QUEUED |= {"SPECIAL_EXIT"}


@dataclass(frozen=True)
class RecordedProcess:
    """A process that a log or the record of a run describes. Times are seconds since the epoch.

    Attributes:
        host: name of its machine.
        pid: its number there, if it was recorded.
        slurm_job: id of its Slurm job, e.g. ``123`` or ``123_4``; empty outside of Slurm.
        seen_at: a time at which it ran.
        last_write: time of its last write to its log or record.
    """

    host: str
    pid: int | None = None
    slurm_job: str = ""
    seen_at: float | None = None
    last_write: float = 0.0


def states_of(processes: Sequence[RecordedProcess]) -> list[str]:
    """Return ``RUNNING``, ``QUEUED`` (by Slurm) or ``GONE`` for each process.

    A process of this machine is looked up here. A process of another machine is looked up by its
    Slurm job: one call of squeue for all of them. Where neither is possible, a process counts as
    running for ten minutes after its last write.
    """
    here = socket.gethostname()
    runs_here = [
        p.pid is not None and _is_local(p, here) and _is_alive(p.pid, p.seen_at) for p in processes
    ]
    jobs = {p.slurm_job for p, runs in zip(processes, runs_here, strict=True) if not runs} - {""}
    queue = _slurm_queue(jobs) if jobs else None
    return [
        RUNNING if runs else _state_elsewhere(process, here, queue)
        for process, runs in zip(processes, runs_here, strict=True)
    ]


def _is_local(process: RecordedProcess, here: str) -> bool:
    """Return whether a process can be looked up here; the domain in a machine's name is ignored."""
    return process.pid is not None and process.host.split(".")[0] == here.split(".")[0]


def _state_elsewhere(process: RecordedProcess, here: str, queue: Mapping[str, str] | None) -> str:
    """Return the state of a process that does not run on this machine."""
    state = queue.get(process.slurm_job, GONE) if process.slurm_job and queue is not None else None
    if _is_local(process, here):
        # Its Slurm job may be in the queue again, or still run other commands.
        return QUEUED if state == QUEUED else GONE
    if state is not None:
        return state
    return RUNNING if time.time() - process.last_write < QUIET_SECONDS else GONE


def _is_alive(pid: int, seen_at: float | None) -> bool:
    """Return whether the process that had this number at `seen_at` still runs here.

    A process that started after `seen_at` (by more than the clock may be wrong) is another process
    with the same number. If `seen_at` is None, any process with this number counts. A process that
    has ended but is still listed does not count.
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
    if fields[0] in ("Z", "X"):  # a zombie, or dead
        return False
    started = boot + int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return seen_at is None or started <= seen_at + _CLOCK_SLACK


def _slurm_queue(jobs: Collection[str]) -> dict[str, str] | None:
    """Return job id -> ``RUNNING`` or ``QUEUED`` for the jobs that have not ended.

    None if Slurm cannot be asked from here.
    """
    arrays = sorted({job.partition("_")[0] for job in jobs})
    command = ["squeue", "-a", "-h", "-r", "-o", "%i %T", "-j", ",".join(arrays)]
    try:
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    # "Invalid job id": the answer for a single job that ended some minutes ago.
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
