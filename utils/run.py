#!/usr/bin/env -S python3 -IS
"""Run a command, or an array of them, on this machine, with one log for each job.

Usage: utils/run.py [options] [JOB=first:last] LOGFILE COMMAND [ARGUMENT ...]
 e.g.: utils/run.py --num_threads 2 JOB=1:8 exp/log/x.JOB.log python3 work.py --part JOB

This is the contract of Kaldi's run.pl, queue.pl and slurm.pl. JOB (any name may be used) is
replaced by the job's number in LOGFILE and in the arguments, where it stands by itself (x.JOB.log,
part_JOB, not JOBS); nothing passes through a shell, so every other character of an argument
arrives as it was typed. With - for LOGFILE there is no log, the output stays where it is, and the
exit status of a single job is that of its command. The call blocks until all jobs have ended.
Options (before or after JOB=; - and _ mean the same; --name value or --name=value):

  --num_threads N   threads of one job, set as OMP_NUM_THREADS and MKL_NUM_THREADS (default 1)
  --gpu N           GPUs of one job, set as CUDA_VISIBLE_DEVICES; with 0 it sees none (default 0)
  --max_jobs_run N  most jobs at the same time (default: number of cores / num_threads)
  --retry N         times that a failed job is run again, after the others (default 0)
  --mem G, --time T, --requeue N, --config FILE
                    for wrappers of clusters (utils/slurm.py); accepted and not used here
  --num_nodes N     only 1 is possible here
  --help            show this text

A job that ends takes the processes that it left behind with it, as on a cluster. Exit status: 0,
or 1 if any job failed, 2 for a wrong call, 128 + signal after Ctrl-C, TERM or HUP, which end all
jobs first; so does the end of the program that made the call. LORS_PROGRESS=0/1 hides or shows
the progress line; without it, a terminal has it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import deque
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import jobs
from jobs import Call, Progress, SignalQueue, Task, UsageError, say

GRACE_SECONDS = 5.0  # between TERM and KILL


def visible_gpus() -> list[str]:
    """The devices this process may hand out."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return []
    count = sum(line.startswith("GPU ") for line in listing.stdout.splitlines())
    return [str(index) for index in range(count)]


class Runner:
    """Runs all jobs of a call, at most as many at a time as cores and GPUs allow."""

    def __init__(self, call: Call):
        self.call = call
        if call.num_nodes > 1:
            raise UsageError("--num_nodes: this wrapper has one machine; use one for a cluster")
        cores = len(os.sched_getaffinity(0))
        self.max_jobs_run = call.max_jobs_run or max(1, cores // call.num_threads)
        self.gpus = visible_gpus() if call.gpu else []
        if call.gpu > len(self.gpus):
            raise UsageError(
                f"--gpu {call.gpu}: this machine offers {len(self.gpus)} GPU(s)"
                " (CUDA_VISIBLE_DEVICES, nvidia-smi -L)"
            )
        self.waiting = deque(call.numbers)
        self.running: dict[int, Task] = {}
        self.failures: dict[int, int] = {}  # number -> how often it has failed
        self.failed: list[int] = []
        self.status = 0  # of the job that ended last
        self.done = 0
        self.signals = SignalQueue()
        self.progress = Progress(call)

    def run(self) -> int:
        """Run everything; return 0 or the number of the signal that asked to stop."""
        try:
            while self.waiting or self.running:
                self._start_jobs()
                self.progress.show(self.done, len(self.running), len(self.failed))
                stop = self.signals.wait(1.0)
                if stop or self.signals.caller_is_gone():
                    return stop or signal.SIGHUP
                for number in [n for n, task in self.running.items() if task.has_ended()]:
                    self._finish(number)
            self.progress.show(self.done, 0, len(self.failed))
            return 0
        finally:
            self.progress.close()
            jobs.stop_tasks(list(self.running.values()), self.signals, GRACE_SECONDS)
            for task in self.running.values():
                task.sign(task.finish())

    def _start_jobs(self) -> None:
        while self.waiting and len(self.running) < self.max_jobs_run:
            if len(self.gpus) < self.call.gpu:
                return
            gpus, self.gpus = self.gpus[: self.call.gpu], self.gpus[self.call.gpu :]
            number = self.waiting.popleft()
            task = self.running[number] = self._start(number, gpus)
            if task.process is None:
                self._finish(number)

    def _start(self, number: int, gpus: list[str]) -> Task:
        command = [self.call.for_job(argument, number) for argument in self.call.command]
        if self.call.log == jobs.NO_LOG:
            return Task(command, None, self.call.num_threads, gpus)
        log = Path(self.call.for_job(self.call.log, number))
        log.parent.mkdir(parents=True, exist_ok=True)
        # Append mode: the job and this wrapper write to the same file, each at its end.
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
        first = number not in self.failures
        handle = os.open(log, flags | (os.O_TRUNC if first else 0), 0o666)
        return Task(command, handle, self.call.num_threads, gpus)

    def _finish(self, number: int) -> None:
        task = self.running.pop(number)
        self.gpus += task.gpus or []
        self.status = status = task.finish()
        task.sign(status)
        if task.log is not None:
            os.close(task.log)
        if status != 0:
            self.failures[number] = self.failures.get(number, 0) + 1
            if self.failures[number] <= self.call.retry:
                self.waiting.append(number)
                return
            self.failed.append(number)
        self.done += 1


def main(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(__doc__, end="", file=sys.stdout if argv else sys.stderr)
        return 0 if argv else 2
    try:
        call = Call(argv)
        runner = Runner(call)
    except UsageError as error:
        say(f"error: {error}")
        say("what to do: utils/run.py --help")
        return 2
    try:
        stop = runner.run()
    except OSError as error:
        say(f"error: cannot write a log: {error}")
        return 1
    status = jobs.ended(call, stop, runner.failed)
    return (
        runner.status if status == 1 and call.log == jobs.NO_LOG and not call.job_name else status
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
