"""What the job wrappers share: the command line of Kaldi's contract, a task and its log, reports.

utils/run.py runs the tasks of a call on this machine. utils/slurm.py hands them to Slurm, where
utils/slurm_task.sh runs each and writes the same log. Only the standard library is used, so that
any Python 3 will do.
"""

from __future__ import annotations

import functools
import os
import re
import select
import shlex
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

TAIL_LINES = 30
DEFAULTS = {
    "num_threads": "1",
    "gpu": "0",
    "max_jobs_run": "",
    "mem": "",
    "time": "",
    "config": "",
    "num_nodes": "1",
    "retry": "0",
    "requeue": "0",
}
# The options that are whole numbers, and the least of each.
LEAST = {"num_threads": 1, "num_nodes": 1, "gpu": 0, "max_jobs_run": 1, "retry": 0, "requeue": 0}
NO_LOG = "-"
PR_SET_PDEATHSIG = 1  # of prctl(2)


class UsageError(Exception):
    """A call that cannot be understood or can never work here."""


def say(message: str) -> None:
    print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr, flush=True)


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S")


def quoted(argument: str) -> str:
    """An argument as one would type it in bash, on one line."""
    if "\n" not in argument:
        return shlex.quote(argument)
    escaped = argument.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"$'{escaped}'"


# --- the command line ---------------------------------------------------------------------------


class Call:
    """A parsed command line: options, the range of job numbers, log name and command.

    Args:
        argv: the words after the wrapper's name.
        more: further options that the wrapper knows, with their defaults.
        free: whether options that nobody knows are kept (a cluster's configuration may).
    """

    def __init__(self, argv: list[str], more: Mapping[str, str] | None = None, free: bool = False):
        self.options = {**DEFAULTS, **(more or {})}
        self.given: dict[str, str] = {}
        self.free = free
        self.job_name, self.first, self.last = "", 1, 1
        rest = self._leading_words(deque(argv))
        if len(rest) < 2:
            raise UsageError("a log file and a command are needed after the options")
        self.log, self.command = rest[0], rest[1:]
        if re.match(r"[A-Za-z_]\w*=", self.log):
            raise UsageError(
                f"expected NAME=first:last, once, before the log: {self.log}"
                f" (a log of this name: ./{self.log})"
            )
        self.num_threads = self._integer("num_threads")
        self.num_nodes = self._integer("num_nodes")
        self.gpu = self._integer("gpu")
        self.retry = self._integer("retry")
        self.requeue = self._integer("requeue")
        self.max_jobs_run = 0  # no limit was given
        if self.options["max_jobs_run"]:
            self.max_jobs_run = self._integer("max_jobs_run")
        same = self.for_job(self.log, 0) == self.log != NO_LOG
        if self.last > self.first and same:
            raise UsageError(
                f"all jobs would write the same log: put {self.job_name} into its name: {self.log}"
            )

    def take_defaults(self, defaults: Mapping[str, str]) -> None:
        """Use a configuration's values for those of the wrapper's options that were not given."""
        for key in LEAST:
            if key in defaults and key not in self.given:
                self.options[key] = defaults[key]
                setattr(self, key, self._integer(key))

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
            elif word.startswith("-") and word != NO_LOG:
                words.popleft()
                self._read_option(word, words)
            else:
                break
        return list(words)

    def _read_option(self, word: str, words: deque[str]) -> None:
        name, equals, value = word.partition("=")
        key = name.lstrip("-").replace("-", "_")
        if not name.startswith("--") or not (key in self.options or (self.free and key)):
            known = ", ".join(f"--{option}" for option in self.options)
            raise UsageError(f"unknown option {name} (known: {known})")
        if not equals:
            if not words:
                raise UsageError(f"{name} needs a value")
            value = words.popleft()
        self.options[key] = self.given[key] = value

    def _integer(self, key: str) -> int:
        value = self.options[key]
        if not value.isascii() or not value.isdecimal() or int(value) < LEAST[key]:
            raise UsageError(f"--{key}: expected a whole number from {LEAST[key]}, got '{value}'")
        return int(value)

    @property
    def numbers(self) -> range:
        return range(self.first, self.last + 1)

    def around_job(self, text: str) -> list[str]:
        """The pieces of `text` between which the number belongs: see :meth:`for_job`."""
        if not self.job_name:
            return [text]
        return re.split(rf"(?<![A-Za-z0-9]){self.job_name}(?![A-Za-z0-9])", text)

    def for_job(self, text: str, number: int | str) -> str:
        """`text` with the array's name replaced by a job's number, where it stands by itself.

        Letters and digits beside it make it a part of another word: ``x.JOB.log`` and ``part_JOB``
        are meant, ``/home/JOBS`` is not.
        """
        return str(number).join(self.around_job(text))

    @property
    def all_logs(self) -> str:
        """The logs' common name as a pattern, for messages."""
        return self.for_job(self.log, "*")

    @property
    def and_logs(self) -> str:
        """How a message about several jobs ends: where their logs are, if they have any."""
        return "" if self.log == NO_LOG else f", log is in {self.all_logs}"


def is_running(pid: int) -> bool:
    """Whether there is a process of this number on this machine, ours or not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


# --- one task -----------------------------------------------------------------------------------


@functools.cache
def _death_with_parent() -> Callable[[], None]:
    """What a new process calls to be killed by the kernel when its parent dies, however it dies."""
    import ctypes  # only where it is needed

    prctl, parent = getattr(ctypes.CDLL(None), "prctl", None), os.getpid()

    def ask_the_kernel() -> None:
        if prctl is not None:  # Linux
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:  # it has died before
                os.kill(os.getpid(), signal.SIGKILL)

    return ask_the_kernel


class Task:
    """A running command with its own process group, whose output and lines go to one log.

    It dies with this process.

    Args:
        command: words, the number filled in.
        log: file descriptor of the log, open to read and to append; None leaves the command's
            output alone.
        threads: set as OMP_NUM_THREADS and MKL_NUM_THREADS.
        gpus: set as CUDA_VISIBLE_DEVICES.
    """

    def __init__(self, command: list[str], log: int | None, threads: int, gpus: list[str]):
        self.log, self.threads, self.gpus = log, threads, gpus
        self.process: subprocess.Popen | None = None
        self.failure = 0
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
            "CUDA_VISIBLE_DEVICES": ",".join(gpus),
        }
        here = f"{os.uname().nodename}, process {os.getpid()}"
        self.write(f"# {' '.join(map(quoted, command))}\n# Running on {here}\n")
        self.write(f"# Started at {now()}\n#\n")
        self.start_time = time.monotonic()
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,  # so that the whole group can be signalled
                preexec_fn=_death_with_parent(),
            )
        except OSError as error:
            self.failure = 127 if isinstance(error, FileNotFoundError) else 126
            self.write(f"cannot start {command[0]}: {error.strerror}\n")
            if log is None:
                say(f"cannot start {command[0]}: {error.strerror}")

    def write(self, text: str) -> None:
        if self.log is not None:
            os.write(self.log, os.fsencode(text))

    def has_ended(self) -> bool:
        """Whether the command itself has ended. It is not reaped, so that its group's id stays."""
        if self.process is None or self.process.returncode is not None:
            return True
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self.process.pid, flags) is not None

    def signal_group(self, signum: int) -> bool:
        """Send a signal to every process of the task; False if none is left that we may signal."""
        try:
            if self.process is not None:
                os.killpg(self.process.pid, signum)
            return self.process is not None
        except (ProcessLookupError, PermissionError):
            return False

    def finish(self) -> int:
        """Reap an ended task, with what it left running, and return its exit status."""
        status = self.failure
        if self.process is not None:
            if self.process.returncode is None:
                self.signal_group(signal.SIGKILL)
            code = self.process.wait()
            self.write(missing_newline(self.log))
            status = 128 - code if code < 0 else code
            if code < 0:
                out_of_memory = " (out of memory?)" if -code == signal.SIGKILL else ""
                self.write(f"# Ended by {signal.Signals(-code).name}{out_of_memory}\n")
        seconds = round(time.monotonic() - self.start_time)
        self.write(f"# Accounting: time={seconds} threads={self.threads}\n")
        return status

    def sign(self, status: int) -> None:
        """Write the log's last line."""
        self.write(last_line(status))


def missing_newline(log: int | None) -> str:
    """What a log lacks at its end, so that the next line begins one: a newline or nothing.

    Args:
        log: file descriptor, open for reading too.
    """
    size = 0 if log is None else os.fstat(log).st_size
    return "\n" if size and os.pread(log, 1, size - 1) != b"\n" else ""


def last_line(status: int) -> str:
    """How the log of a task ends that will not be run again by itself."""
    return f"# Finished at {now()} with status {status}\n"


def stop_tasks(tasks: list[Task], signals: SignalQueue, seconds: float) -> None:
    """End what still runs: TERM, then KILL after a while or at a further signal."""
    for task in tasks:
        task.signal_group(signal.SIGTERM)
    deadline = time.monotonic() + seconds
    left = list(tasks)
    while left and time.monotonic() < deadline and not signals.wait(0.05):
        for task in left:
            if task.process is not None:
                task.process.poll()
        left = [task for task in left if task.signal_group(0)]
    for task in left:
        task.signal_group(signal.SIGKILL)


# --- all tasks ----------------------------------------------------------------------------------


class SignalQueue:
    """Signals as values to wait for: none is lost and none interrupts other code.

    The end of the calling process counts as HUP: its jobs must not run on unseen, perhaps beside
    those of a second call. Where nohup has made HUP ignored, both stay ignored; but the end of a
    recipe's driver (lors.sh, which sets LORS_DRIVER) never is, since it outlives a hangup itself.
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
        """Wait for a signal; return the first one that is not about a child, or 0."""
        if select.select([self.read_end], [], [], seconds)[0]:
            for signum in os.read(self.read_end, 4096):
                if signum != signal.SIGCHLD:
                    return signum
        return 0

    def caller_is_gone(self) -> bool:
        return os.getppid() != self.parent and not self.outlives_caller


class Progress:
    """One line on the terminal that is rewritten while an array of jobs runs."""

    def __init__(self, call: Call):
        forced = os.environ.get("LORS_PROGRESS")
        wanted = forced == "1" if forced in ("0", "1") else sys.stderr.isatty()
        self.total, self.logs = len(call.numbers), call.all_logs
        self.shown = wanted and self.total > 1
        self.start_time = time.monotonic()

    def show(self, done: int, running: int, failed: int) -> None:
        if not self.shown:
            return
        minutes, seconds = divmod(int(time.monotonic() - self.start_time), 60)
        text = f"{done}/{self.total} jobs done, {running} running, {minutes}:{seconds:02d}"
        text += f", {failed} FAILED" if failed else ""
        print(f"\r{text}  ({self.logs})\x1b[K", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.shown:
            print(file=sys.stderr, flush=True)


def report_failures(call: Call, failed: Iterable[int]) -> None:
    """Say on stderr how many jobs failed and show the end of the first one's log."""
    numbers, total = sorted(failed), len(call.numbers)
    log = call.for_job(call.log, numbers[0])
    if total > 1:
        say(f"{len(numbers)} / {total} failed{call.and_logs}")
        say(f"failed: {call.job_name}={','.join(map(str, numbers))}")
    if call.log == NO_LOG:
        return  # the rest has been seen
    if total == 1:
        say(f"job failed, log is in {log}")
    try:
        with Path(log).open(encoding="utf-8", errors="replace") as handle:
            tail = deque(handle, maxlen=TAIL_LINES)
    except OSError as error:
        say(f"cannot read {log}: {error.strerror}")
        return
    say(f"the last lines of {log}:")
    sys.stderr.writelines(f"  {line.rstrip()}\n" for line in tail)


def ended(call: Call, stop: int, failed: Iterable[int]) -> int:
    """Report how a call ended; returns its exit status."""
    if stop:
        say(f"stopped by {signal.Signals(stop).name}, all jobs ended{call.and_logs}")
        return 128 + stop
    if failed:
        report_failures(call, failed)
        return 1
    return 0
