"""A job on this machine: its log, its processes, and the signals that end it.

The format of a job's log is that of Kaldi's wrappers. :class:`Log` writes it for utils/run.py, and
utils/slurm_task.sh writes the same in bash; lors/recipe/job_log.py reads it, and
tests/contract/test_job_logs.py compares the three::

    # python -m lors.bin.train --only 2 --out exp/expert
    # Running on node7, process 4242, Slurm job 123_2
    # Started at 2025-01-01T12:00:00
    #
    ... stdout and stderr of the command ...
    # Ended by SIGKILL (out of memory?)
    # Accounting: time=63 threads=1
    # Finished at 2025-01-01T12:01:03 with status 137

| line | meaning |
|---|---|
| first | the command on one line, in the syntax of bash |
| Running on | machine and process of the wrapper; the Slurm job only with utils/slurm.py |
| Ended by | the signal that ended the command or asked for it, or ``Slurm``; else absent |
| Accounting | wall time in seconds, threads of the job |
| Finished at | the exit status, 128 + signal after a signal |

Dates are local time. Each of these lines begins a line, even if the command's output does not end
with a newline. A job that runs again appends all lines to its log, so a reader looks at the lines
after the last ``Running on``. If ``Finished at`` is missing there, the job still runs, was ended by
Slurm, or was killed together with its wrapper. utils/slurm_task.sh writes further lines with ``#``
when a job goes back into the queue, and Slurm may append lines of its own.

Standard library only: any Python 3 of the system runs it.
"""

from __future__ import annotations

import functools
import os
import select
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

PR_SET_PDEATHSIG = 1  # of prctl(2)
# Threads of OpenMP that wait for each other sleep. By default they spin, which on a machine with
# other jobs takes the processors away from the threads that they wait for.
SLEEPING_THREADS = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}


# --- the log ------------------------------------------------------------------------------------


class Log:
    """A job's log in the format above.

    Args:
        path: the file, whose directory is made; None to write nothing.
        empty: remove the lines of an earlier call.

    Attributes:
        descriptor: the open file, for the command's own output; None without a log.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, path: Path | None, empty: bool = False):
        self.descriptor: int | None = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Append mode: the command and the wrapper write to the same file, each at its end.
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | (os.O_TRUNC if empty else 0)
            self.descriptor = os.open(path, flags, 0o666)

    def begin(self, command: list[str]) -> None:
        self._write(f"# {command_line(command)}\n")
        self._write(f"# Running on {os.uname().nodename}, process {os.getpid()}\n")
        self._write(f"# Started at {_now()}\n#\n")

    def say(self, message: str) -> None:
        """Write a message of the wrapper among the output of the command."""
        self._write(f"{message}\n")

    def ended_by(self, cause: str) -> None:
        self._write(f"# Ended by {cause}\n")

    def accounting(self, seconds: int, threads: int) -> None:
        self._write(f"# Accounting: time={seconds} threads={threads}\n")

    def finished(self, status: int) -> None:
        self._write(f"# Finished at {_now()} with status {status}\n")

    def close(self) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None

    def _write(self, text: str) -> None:
        """Append whole lines, after a newline if the log's last line lacks one."""
        if self.descriptor is None:
            return
        size = os.fstat(self.descriptor).st_size
        if size and os.pread(self.descriptor, 1, size - 1) != b"\n":
            text = f"\n{text}"
        os.write(self.descriptor, os.fsencode(text))


def command_line(words: list[str]) -> str:
    """Return a command on one line, in the syntax of bash."""
    return " ".join(map(_quoted, words))


def _quoted(word: str) -> str:
    if "\n" not in word:
        return shlex.quote(word)
    escaped = word.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"$'{escaped}'"


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S")


# --- the processes ------------------------------------------------------------------------------


class Job:
    """A running command in a process group of its own; the kernel kills it when this process dies.

    Args:
        command: words, with the job's number filled in.
        log: gets the lines of the wrapper and the output of the command. Without a file, the output
            of the command goes where the output of this process goes.
        threads: value of OMP_NUM_THREADS and MKL_NUM_THREADS. The variables of
            ``SLEEPING_THREADS`` are set too, unless the environment has them.
        gpus: value of CUDA_VISIBLE_DEVICES.

    Attributes:
        process: the command; None if it could not be started.
        why_not_started: the reason in that case, else empty.
    """

    def __init__(self, command: list[str], log: Log, threads: int, gpus: list[str]):
        self.log, self.threads, self.gpus = log, threads, gpus
        self.process: subprocess.Popen | None = None
        self.why_not_started = ""
        self._failure = 0
        environment = {
            **SLEEPING_THREADS,
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
            "CUDA_VISIBLE_DEVICES": ",".join(gpus),
        }
        log.begin(command)
        self.start_time = time.monotonic()
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log.descriptor,
                stderr=log.descriptor,
                env=environment,
                start_new_session=True,  # so that the whole group can be signalled
                preexec_fn=_death_with_parent(),
            )
        except OSError as error:
            self._failure = 127 if isinstance(error, FileNotFoundError) else 126
            self.why_not_started = f"cannot start {command[0]}: {error.strerror}"
            log.say(self.why_not_started)

    def has_ended(self) -> bool:
        """Return whether the command has ended.

        The process is not reaped, so that no other process can get the id of its group.
        """
        if self.process is None or self.process.returncode is not None:
            return True
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self.process.pid, flags) is not None

    def signal_group(self, signum: int) -> bool:
        """Send a signal to every process of the job; return False if no process can get it."""
        try:
            if self.process is not None:
                os.killpg(self.process.pid, signum)
            return self.process is not None
        except (ProcessLookupError, PermissionError):
            return False

    def finish(self, stopped: bool = False) -> int:
        """Kill the processes that the command left, complete its log, return its exit status.

        Args:
            stopped: the command was asked to end (:func:`stop_jobs`). Then its log says so, however
                it ended: a library may turn the request into an error, and a command that does not
                listen is killed. Neither is a failure of the job.
        """
        status = self._failure
        if self.process is not None:
            if self.process.returncode is None:
                self.signal_group(signal.SIGKILL)
            code = self.process.wait()
            if stopped and code != 0:
                code = -signal.SIGTERM
            status = 128 - code if code < 0 else code
            if code < 0:
                out_of_memory = " (out of memory?)" if -code == signal.SIGKILL else ""
                self.log.ended_by(f"{signal.Signals(-code).name}{out_of_memory}")
        self.log.accounting(round(time.monotonic() - self.start_time), self.threads)
        self.log.finished(status)
        self.log.close()
        return status


@functools.cache
def _death_with_parent() -> Callable[[], None]:
    """Return a function by which a new process asks the kernel to kill it with its parent."""
    import ctypes  # here because utils/slurm.py does not need it

    prctl, parent = getattr(ctypes.CDLL(None), "prctl", None), os.getpid()

    def ask_the_kernel() -> None:
        if prctl is not None:  # Linux
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:  # the parent died before prctl
                os.kill(os.getpid(), signal.SIGKILL)

    return ask_the_kernel


def stop_jobs(jobs: list[Job], signals: Signals, seconds: float) -> None:
    """End running jobs: TERM, then KILL after some seconds or at a further signal."""
    for job in jobs:
        job.signal_group(signal.SIGTERM)
    deadline = time.monotonic() + seconds
    left = list(jobs)
    while left and time.monotonic() < deadline and not signals.wait(0.05):
        for job in left:
            if job.process is not None:
                job.process.poll()
        left = [job for job in left if job.signal_group(0)]
    for job in left:
        job.signal_group(signal.SIGKILL)


# --- the signals --------------------------------------------------------------------------------


class Signals:
    """Signals of this process as values to wait for: no signal is lost, none interrupts the code.

    The end of the calling process counts as HUP: its jobs must not run on unseen, perhaps beside
    the jobs of a second call. Under nohup, HUP and the end of the caller are ignored. The end of a
    recipe's driver (lors.sh, which sets LORS_DRIVER) is never ignored, because the driver itself
    survives a hangup.
    """

    def __init__(self) -> None:
        self.parent = os.getppid()
        ignores_hangup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        self.outlives_caller = ignores_hangup and not os.environ.get("LORS_DRIVER")
        self.read_end, write_end = os.pipe()
        os.set_blocking(self.read_end, False)
        os.set_blocking(write_end, False)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        for signum in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signum != signal.SIGHUP or not ignores_hangup:
                signal.signal(signum, lambda *_: None)

    def wait(self, seconds: float) -> int:
        """Wait for a signal; return the first one other than CHLD, or 0."""
        if select.select([self.read_end], [], [], seconds)[0]:
            for signum in os.read(self.read_end, 4096):
                if signum != signal.SIGCHLD:
                    return signum
        return 0

    def caller_is_gone(self) -> bool:
        return os.getppid() != self.parent and not self.outlives_caller
