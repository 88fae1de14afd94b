#!/usr/bin/env -S python3 -IS
"""Run a command, or an array of them, on this machine, with one log for each job.

Usage: utils/run.py [options] [JOB=first:last] LOGFILE COMMAND [ARGUMENT ...]
 e.g.: utils/run.py --num_threads 2 JOB=1:8 exp/log/x.JOB.log python3 work.py --part JOB

The contract is that of Kaldi's run.pl, queue.pl and slurm.pl. JOB (any name) stands for the job's
number, in LOGFILE and in the arguments, where no letter or digit is beside it (x.JOB.log, part_JOB,
not JOBS). No shell reads the command: all other characters of an argument are passed unchanged.
If LOGFILE is -, there is no log, the output goes to the output of this call, and the exit status of
a single job is that of its command. The call ends when all jobs have ended. A call has at most
100000 jobs.
Options (before or after JOB=; - and _ mean the same; --name value or --name=value):

  --num_threads N   threads of one job, set as OMP_NUM_THREADS and MKL_NUM_THREADS (default 1);
                    they sleep while they wait, unless OMP_WAIT_POLICY and GOMP_SPINCOUNT are set
  --gpu N           GPUs of one job, set as CUDA_VISIBLE_DEVICES; with 0 it sees none (default 0)
  --max_jobs_run N  most jobs at the same time, up to 1000 (default: number of cores / num_threads)
  --retry N         times that a failed job is run again, after the others (default 0)
  --mem G, --time T, --requeue N, --config FILE
                    for wrappers of clusters (utils/slurm.py); accepted and not used here
  --num_nodes N     only 1 is possible here
  --help            show this text

Processes that a job leaves behind are killed when it ends, as on a cluster. Exit status: 0, 1 if
any job failed, 2 for a wrong call, 128 + signal after Ctrl-C, TERM or HUP, which end all jobs
first. The end of the calling program ends all jobs, too. LORS_PROGRESS=0/1 hides or shows the
progress line (default: shown on a terminal).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import deque
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from job_options import NO_LOG, Call, UsageError
from job_report import Progress, report_end, say, say_os_error
from jobs import Job, Log, Signals, stop_jobs

GRACE_SECONDS = 5.0  # between TERM and KILL
MOST_AT_ONCE = 1000  # jobs; each has an open log, of which systems allow 1024


def visible_gpus() -> list[str]:
    """Return the devices that this process may use; jobs get them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return []
    count = sum(line.startswith(b"GPU ") for line in listing.stdout.splitlines())
    return [str(index) for index in range(count)]


class Runner:
    """The jobs of a call; as many run at a time as cores and GPUs allow.

    Raises:
        UsageError: this machine cannot run the call.
    """

    def __init__(self, call: Call):
        self.call = call
        if call.num_nodes > 1:
            raise UsageError("--num_nodes: this wrapper has one machine, see utils/slurm.py")
        if call.max_jobs_run > MOST_AT_ONCE:
            raise UsageError(
                f"--max_jobs_run {call.max_jobs_run}: one machine runs at most {MOST_AT_ONCE} jobs"
            )
        cores = len(os.sched_getaffinity(0))
        self.max_jobs_run = call.max_jobs_run or max(1, cores // call.num_threads)
        self.gpus = visible_gpus() if call.gpu else []
        if call.gpu > len(self.gpus):
            raise UsageError(
                f"--gpu {call.gpu}: this machine offers {len(self.gpus)} GPU(s)"
                " (CUDA_VISIBLE_DEVICES, nvidia-smi -L)"
            )
        self.waiting = deque(call.numbers)
        self.running: dict[int, Job] = {}
        self.failures: dict[int, int] = {}  # number -> how often it has failed
        self.failed: list[int] = []
        self.status = 0  # of the job that ended last
        self.done = 0
        self.signals = Signals()
        self.progress = Progress(call)

    def run(self) -> int:
        """Run all jobs; return 0 or the number of the signal that asked to stop."""
        try:
            while self.waiting or self.running:
                self._start_jobs()
                self.progress.show(self.done, len(self.running), len(self.failed))
                stop = self.signals.wait(1.0)
                if stop or self.signals.caller_is_gone():
                    return stop or signal.SIGHUP
                for number in [n for n, job in self.running.items() if job.has_ended()]:
                    self._finish(number)
            self.progress.show(self.done, 0, len(self.failed))
            return 0
        finally:
            self.progress.close()
            stopped = [job for job in self.running.values() if not job.has_ended()]
            stop_jobs(stopped, self.signals, GRACE_SECONDS)
            for job in self.running.values():
                job.finish(stopped=job in stopped)

    def _start_jobs(self) -> None:
        while self.waiting and len(self.running) < self.max_jobs_run:
            if len(self.gpus) < self.call.gpu:
                return
            gpus, self.gpus = self.gpus[: self.call.gpu], self.gpus[self.call.gpu :]
            number = self.waiting.popleft()
            job = self.running[number] = self._start(number, gpus)
            if job.process is None:
                if self.call.log == NO_LOG:
                    say(job.why_not_started)
                self._finish(number)

    def _start(self, number: int, gpus: list[str]) -> Job:
        command = [self.call.for_job(argument, number) for argument in self.call.command]
        name = self.call.for_job(self.call.log, number)
        log = Log(None if name == NO_LOG else Path(name), empty=number not in self.failures)
        return Job(command, log, self.call.num_threads, gpus)

    def _finish(self, number: int) -> None:
        job = self.running.pop(number)
        self.gpus += job.gpus
        self.status = job.finish()
        if self.status != 0:
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
        say_os_error(error, call.all_logs)
        return 1
    status = report_end(call, stop, runner.failed)
    single_without_log = call.log == NO_LOG and not call.job_name
    return runner.status if status == 1 and single_without_log else status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
