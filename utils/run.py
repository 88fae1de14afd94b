#!/usr/bin/env -S python3 -IS
"""Run a command, or an array of them, on this machine, with one log for each job.

Usage: utils/run.py [options] [JOB=first:last] LOGFILE COMMAND [ARGUMENT ...]
 e.g.: utils/run.py --num_threads 2 JOB=1:8 exp/log/x.JOB.log python3 work.py --part JOB

This is the contract of Kaldi's run.pl, queue.pl and slurm.pl. JOB (any name may be used) is
replaced by the job's number in LOGFILE and in the arguments; nothing passes through a shell, so
every other character of an argument arrives as it was typed. The call blocks until all jobs have
ended. Options (before or after JOB=; - and _ mean the same; --name value or --name=value):

  --num_threads N   threads of one job, set as OMP_NUM_THREADS and MKL_NUM_THREADS (default 1)
  --gpu N           GPUs of one job, set as CUDA_VISIBLE_DEVICES; with 0 it sees none (default 0)
  --max_jobs_run N  most jobs at the same time (default: number of cores / num_threads)
  --mem G, --time T, --config FILE
                    for wrappers of clusters; accepted and not used here
  --num_nodes N     only 1 is possible here
  --help            show this text

A job that ends takes the processes that it left behind with it, as on a cluster. Exit status: 0,
or 1 if any job failed, 2 for a wrong call, 128 + signal after Ctrl-C, TERM or HUP, which end all
jobs first; so does the end of the program that made the call. LORS_PROGRESS=0/1 hides or shows
the progress line; without it, a terminal has it.
"""

from __future__ import annotations

import os
import re
import select
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

TAIL_LINES = 30
GRACE_SECONDS = 5.0  # between TERM and KILL
DEFAULTS = {
    "num_threads": "1",
    "gpu": "0",
    "max_jobs_run": "",
    "mem": "",
    "time": "",
    "config": "",
    "num_nodes": "1",
}


class UsageError(Exception):
    """A call that cannot be understood or can never work on this machine."""


def say(message: str) -> None:
    print(f"run.py: {message}", file=sys.stderr, flush=True)


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S")


# --- the command line ---------------------------------------------------------------------------


class Call:
    """A parsed command line: options, the range of job numbers, log name and command."""

    def __init__(self, argv: list[str]):
        self.options = dict(DEFAULTS)
        self.job_name, self.first, self.last = "", 1, 1
        rest = self._leading_words(deque(argv))
        if len(rest) < 2:
            raise UsageError("a log file and a command are needed after the options")
        self.log, self.command = rest[0], rest[1:]
        self.num_threads = self._integer("num_threads", minimum=1)
        self.gpu = self._integer("gpu", minimum=0)
        if self._integer("num_nodes", minimum=1) > 1:
            raise UsageError("--num_nodes: this wrapper has one machine; use one for a cluster")
        if self.options["max_jobs_run"]:
            self.max_jobs_run = self._integer("max_jobs_run", minimum=1)
        else:
            self.max_jobs_run = max(1, len(os.sched_getaffinity(0)) // self.num_threads)
        if self.last > self.first and self.job_name not in self.log:
            raise UsageError(
                f"all jobs would write the same log: put {self.job_name} into its name: {self.log}"
            )

    def _leading_words(self, words: deque[str]) -> list[str]:
        """Read options and JOB=a:b from the front; return what follows them."""
        while words:
            word = words[0]
            array = re.fullmatch(r"([A-Za-z_]\w*)=(\d+)(?::(\d+))?", word)
            if array and not self.job_name:
                self.job_name, self.first = array[1], int(array[2])
                self.last = int(array[3] or array[2])
                if self.last < self.first:
                    raise UsageError(f"empty range of jobs: {word}")
                words.popleft()
            elif word.startswith("-"):
                words.popleft()
                self._read_option(word, words)
            else:
                break
        return list(words)

    def _read_option(self, word: str, words: deque[str]) -> None:
        name, equals, value = word.partition("=")
        key = name.lstrip("-").replace("-", "_")
        if not name.startswith("--") or key not in self.options:
            known = ", ".join(f"--{option}" for option in self.options)
            raise UsageError(f"unknown option {name} (known: {known})")
        if not equals:
            if not words:
                raise UsageError(f"{name} needs a value")
            value = words.popleft()
        self.options[key] = value

    def _integer(self, key: str, minimum: int) -> int:
        value = self.options[key]
        if not value.isascii() or not value.isdecimal() or int(value) < minimum:
            raise UsageError(f"--{key}: expected a whole number from {minimum}, got '{value}'")
        return int(value)

    def for_job(self, text: str, number: int) -> str:
        """`text` with the array's name replaced by a job's number."""
        return text.replace(self.job_name, str(number)) if self.job_name else text

    @property
    def all_logs(self) -> str:
        """The logs' common name as a pattern, for messages."""
        return self.log.replace(self.job_name, "*") if self.job_name else self.log


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


def quoted(argument: str) -> str:
    """An argument as one would type it in bash, on one line."""
    if "\n" not in argument:
        return shlex.quote(argument)
    escaped = argument.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"$'{escaped}'"


# --- one job ------------------------------------------------------------------------------------


class Job:
    """A running command with its log, its devices and its own process group."""

    def __init__(self, call: Call, number: int, gpus: list[str]):
        self.number, self.gpus, self.threads = number, gpus, call.num_threads
        self.log = call.for_job(call.log, number)
        self.process: subprocess.Popen | None = None
        self.failure = 0
        Path(self.log).parent.mkdir(parents=True, exist_ok=True)
        # Append mode: the job and this wrapper write to the same file, each at its end.
        self.handle = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o666)
        command = [call.for_job(argument, number) for argument in call.command]
        self._write(f"# {' '.join(map(quoted, command))}\n# Running on {socket.gethostname()}\n")
        self._write(f"# Started at {now()}\n#\n")
        self.start_time = time.monotonic()
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(call.num_threads),
            "MKL_NUM_THREADS": str(call.num_threads),
            "CUDA_VISIBLE_DEVICES": ",".join(gpus),
        }
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=self.handle,
                stderr=self.handle,
                env=environment,
                start_new_session=True,  # so that the whole group can be signalled
            )
        except OSError as error:
            self.failure = 127 if isinstance(error, FileNotFoundError) else 126
            self._write(f"run.py: cannot start {command[0]}: {error.strerror}\n")

    def _write(self, text: str) -> None:
        os.write(self.handle, text.encode(errors="surrogateescape"))

    def has_ended(self) -> bool:
        """Whether the command itself has ended. It is not reaped, so that its group's id stays."""
        if self.process is None or self.process.returncode is not None:
            return True
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self.process.pid, flags) is not None

    def signal_group(self, signum: int) -> bool:
        """Send a signal to every process of the job; False if none is left that we may signal."""
        try:
            if self.process is not None:
                os.killpg(self.process.pid, signum)
            return self.process is not None
        except (ProcessLookupError, PermissionError):
            return False

    def finish(self) -> int:
        """Reap an ended job, write the log's last lines and return its exit status."""
        status = self.failure
        if self.process is not None:
            if self.process.returncode is None:
                self.signal_group(signal.SIGKILL)  # what the command left running
            code = self.process.wait()
            status = 128 - code if code < 0 else code
            if code < 0:
                out_of_memory = " (out of memory?)" if -code == signal.SIGKILL else ""
                self._write(f"# Ended by {signal.Signals(-code).name}{out_of_memory}\n")
        seconds = round(time.monotonic() - self.start_time)
        self._write(f"# Accounting: time={seconds} threads={self.threads}\n")
        self._write(f"# Finished at {now()} with status {status}\n")
        os.close(self.handle)
        return status


# --- all jobs -----------------------------------------------------------------------------------


class SignalQueue:
    """Signals as values to wait for: none is lost and none interrupts other code.

    The end of the calling process counts as HUP: its jobs must not run on unseen, perhaps beside
    those of a second call. Where nohup has made HUP ignored, both stay ignored.
    """

    def __init__(self) -> None:
        self.parent = os.getppid()
        self.ignores_hangup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        self.read_end, write_end = os.pipe()
        os.set_blocking(self.read_end, False)
        os.set_blocking(write_end, False)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        for signum in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signum != signal.SIGHUP or not self.ignores_hangup:
                signal.signal(signum, lambda *_: None)

    def wait(self, seconds: float) -> int:
        """Wait for a signal; return the first one that asks to stop, or 0."""
        if select.select([self.read_end], [], [], seconds)[0]:
            for signum in os.read(self.read_end, 4096):
                if signum != signal.SIGCHLD:
                    return signum
        return 0

    def caller_is_gone(self) -> bool:
        return os.getppid() != self.parent and not self.ignores_hangup


class Progress:
    """One line on the terminal that is rewritten while an array of jobs runs."""

    def __init__(self, call: Call):
        forced = os.environ.get("LORS_PROGRESS")
        wanted = forced == "1" if forced in ("0", "1") else sys.stderr.isatty()
        self.total, self.logs = call.last - call.first + 1, call.all_logs
        self.shown = wanted and self.total > 1
        self.start_time = time.monotonic()

    def show(self, done: int, running: int, failed: int) -> None:
        if not self.shown:
            return
        minutes, seconds = divmod(int(time.monotonic() - self.start_time), 60)
        text = f"{done}/{self.total} jobs done, {running} running, {minutes}:{seconds:02d}"
        text += f", {failed} FAILED" if failed else ""
        print(f"\rrun.py: {text}  ({self.logs})\x1b[K", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.shown:
            print(file=sys.stderr, flush=True)


class Runner:
    """Runs all jobs of a call, at most as many at a time as cores and GPUs allow."""

    def __init__(self, call: Call):
        self.call = call
        self.gpus = visible_gpus() if call.gpu else []
        if call.gpu > len(self.gpus):
            raise UsageError(
                f"--gpu {call.gpu}: this machine offers {len(self.gpus)} GPU(s)"
                " (CUDA_VISIBLE_DEVICES, nvidia-smi -L)"
            )
        self.waiting = deque(range(call.first, call.last + 1))
        self.running: list[Job] = []
        self.failed: list[int] = []
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
                for job in [job for job in self.running if job.has_ended()]:
                    self._finish(job)
            self.progress.show(self.done, 0, len(self.failed))
            return 0
        finally:
            self.progress.close()
            self._stop_jobs()

    def _start_jobs(self) -> None:
        while self.waiting and len(self.running) < self.call.max_jobs_run:
            if len(self.gpus) < self.call.gpu:
                return
            gpus, self.gpus = self.gpus[: self.call.gpu], self.gpus[self.call.gpu :]
            job = Job(self.call, self.waiting.popleft(), gpus)
            self.running.append(job)
            if job.process is None:
                self._finish(job)

    def _finish(self, job: Job) -> None:
        self.running.remove(job)
        self.gpus += job.gpus
        self.done += 1
        if job.finish() != 0:
            self.failed.append(job.number)

    def _stop_jobs(self) -> None:
        """End what still runs: TERM, then KILL after a while or at the second request."""
        for job in self.running:
            job.signal_group(signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS
        left = list(self.running)
        while left and time.monotonic() < deadline and not self.signals.wait(0.05):
            for job in left:
                if job.process is not None:
                    job.process.poll()
            left = [job for job in left if job.signal_group(0)]
        for job in left:
            job.signal_group(signal.SIGKILL)
        for job in self.running:
            job.finish()
        self.running.clear()


def report_failures(call: Call, failed: list[int]) -> None:
    """Say on stderr how many jobs failed and show the end of the first one's log."""
    total = call.last - call.first + 1
    if total == 1:
        say(f"job failed, log is in {call.for_job(call.log, failed[0])}")
    else:
        say(f"{len(failed)} / {total} failed, log is in {call.all_logs}")
        say(f"failed: {call.job_name}={','.join(str(number) for number in sorted(failed))}")
    log = call.for_job(call.log, min(failed))
    with Path(log).open(encoding="utf-8", errors="replace") as handle:
        tail = deque(handle, maxlen=TAIL_LINES)
    say(f"the last lines of {log}:")
    sys.stderr.writelines(f"  {line.rstrip()}\n" for line in tail)


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
    if stop:
        say(f"stopped by {signal.Signals(stop).name}, all jobs ended, log is in {call.all_logs}")
        return 128 + stop
    if runner.failed:
        report_failures(call, runner.failed)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
