#!/usr/bin/env -S python3 -IS
"""Run one task of utils/slurm.py inside its Slurm job: utils/slurm_task.py DIRECTORY.

DIRECTORY/call.json says what to run; the number is SLURM_ARRAY_TASK_ID, and Slurm has made the log
this process's stdout. When the task has ended, its exit status appears as DIRECTORY/status.NUMBER,
atomically; utils/slurm.py waits for these files.

Signals: TERM (scancel, preemption, a time limit) ends the command and leaves no status, because
Slurm may have put the job back into the queue already. USR1 is the warning before the time limit:
the command is ended and the job goes back into the queue, where the call allows it (--requeue);
so does a command that ends with status 85, "go on later". What was requeued starts again with the
same command, so the command has to find what it has done.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import jobs

GO_ON_LATER = 85
GRACE_SECONDS = 60.0  # between TERM and KILL after the warning
SETTLE_SECONDS = 3.0  # until a command counts as killed by itself, not together with its job


def main(argv: list[str]) -> int:
    directory = Path(argv[0])
    call = json.loads((directory / "call.json").read_text(encoding="ascii"))
    number = int(os.environ["SLURM_ARRAY_TASK_ID"])
    # The array's id and the index: the plain id of an array's last task means all of it.
    job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{number}"
    signals = jobs.SignalQueue([signal.SIGUSR1])
    command = [jobs.with_number(word, call["job_name"], number) for word in call["command"]]
    gpus = None if call["gpu"] else []  # Slurm chooses devices, but leaves all visible without
    task = jobs.Task(command, 1, call["num_threads"], gpus, f", Slurm job {job}")
    asked = 0
    while not asked and not task.has_ended():
        asked = signals.wait(60.0)
    if asked == signal.SIGUSR1:
        task.write("# The time is nearly up: ending the command\n")
    if asked:
        jobs.stop_tasks([task], signals, GRACE_SECONDS)  # Slurm waits for its own KillWait
    status = task.finish()
    if not asked and status > 128:
        # Slurm signals the processes of a job in turn, and the command may have been the first.
        asked = signals.wait(SETTLE_SECONDS)
    if asked and asked != signal.SIGUSR1:
        task.write(f"# Ended by Slurm ({signal.Signals(asked).name}) at {jobs.now()}\n")
        return 128 + asked
    if asked:
        status = GO_ON_LATER  # whatever the command said when it was told to stop
    if status == GO_ON_LATER and call["requeue"]:
        times = _count(directory / f"requeued.{number}")
        if times <= call["requeue"]:
            task.write(f"# Back into the queue, for the {times}. time of {call['requeue']}\n")
            return _requeue(task, job)
        task.write(f"# Not back into the queue again: --requeue {call['requeue']}\n")
    task.sign(status)
    with contextlib.suppress(OSError):
        os.fsync(1)  # whoever sees the status, on another machine, is to see the log too
    part = directory / f".status.{number}.{os.getpid()}"
    part.write_text(f"{status}\n")
    part.replace(directory / f"status.{number}")
    if call["detached"]:  # nobody waits
        import shutil  # takes as long to import as a short task

        shutil.rmtree(directory, ignore_errors=True)
    return status


def _count(path: Path) -> int:
    """How often this has been called for `path`."""
    with path.open("a") as handle:
        handle.write("x")
    return path.stat().st_size


def _requeue(task: jobs.Task, job: str) -> int:
    """Put this very job back into the queue; Slurm ends it in doing so."""
    for _ in range(30):  # while the controller is away, say
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
        if done.returncode == 0:
            time.sleep(60)
            return 0
        task.write(f"# scontrol requeue {job}: {done.stderr.strip()}\n")
        time.sleep(2)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
