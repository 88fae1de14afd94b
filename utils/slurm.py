#!/usr/bin/env -S python3 -IS
"""Run a command, or an array of them, as Slurm jobs, with one log for each job.

Usage: utils/slurm.py [options] [JOB=first:last] LOGFILE COMMAND [ARGUMENT ...]
 e.g.: utils/slurm.py --gpu 1 --mem 16G JOB=1:8 exp/log/x.JOB.log python3 work.py --part JOB

The contract is that of utils/run.py and of Kaldi's slurm.pl: one job array is submitted, JOB is
replaced by a job's number, and the call blocks until all jobs have ended. Nothing passes through a
shell. Options (before or after JOB=; - and _ mean the same; --name value or --name=value):

  --num_threads N   cores of one job (default 1)
  --gpu N           GPUs of one job and node (default 0)
  --mem G           memory of one job, e.g. 16G
  --time T          time limit of one job, e.g. 4:00:00
  --num_nodes N     nodes of one job; the command runs on the first of them (default 1)
  --max_jobs_run N  most jobs of the array at the same time (default: no limit)
  --retry N         times that failed jobs are submitted again (default 0)
  --requeue N       times that a job goes back into the queue when its time is nearly up, or when it
                    ends with status 85; its command has to go on where it was (default 0)
  --config FILE     how to ask for all this (default conf/slurm.conf, which explains its grammar);
                    it may define further options
  --detach true     submit and return, with the job's id on stdout; for one job, without --retry
  --dry_run true    print the command that would submit
  --help            show this text

Exit status: 0, or 1 if any job failed, 2 for a wrong call, 128 + signal after Ctrl-C, TERM or HUP,
which cancel all jobs first; so does the end of the program that made the call. Jobs of an earlier
call with the same LOGFILE, which was killed and could not cancel them, are cancelled at the start;
while that call is at work, a second one is refused.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Container, Iterable, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import jobs
import slurm_client
from jobs import Call, Progress, SignalQueue, UsageError, say
from slurm_client import Result, SlurmError, Stopped, Task

HERE = Path(__file__).resolve().parent
CONFIG = Path("conf/slurm.conf")
POLL_SECONDS = 0.05, 5.0  # between two looks at the status files, at the beginning and later
ASK_SECONDS = 1.0, 30.0  # between two questions whether the jobs are still there
GONE_SECONDS = 2.0  # until a job is looked for again that Slurm does not know any more
UNSEEN_SECONDS = 60.0  # until a status counts as missing of a job that, says Slurm, has ended well
SWITCHES = {"detach": "", "dry_run": ""}


# --- conf/slurm.conf ----------------------------------------------------------------------------


class Config:
    """Kaldi's grammar of queue.conf and slurm.conf: how options become words for sbatch."""

    def __init__(self, path: Path):
        self.path = path
        self.command = ["sbatch"]
        self.options: dict[tuple[str, str], list[str]] = {}
        self.defaults: dict[str, str] = {}
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror}") from None
        problems = []
        for number, line in enumerate(lines, 1):
            try:
                self._read(shlex.split(line, comments=True))
            except ValueError as error:
                problems.append(f"{path}:{number}: {error}: {line.strip()}")
        if problems:
            raise UsageError("\n  ".join(["cannot understand the configuration", *problems]))

    def _read(self, words: list[str]) -> None:
        if not words:
            return
        kind, rest = words[0], words[1:]
        if kind == "command" and rest:
            self.command = rest
            return
        match = re.fullmatch(r"([A-Za-z][\w-]*)=(.*)", rest[0]) if rest else None
        if kind not in ("option", "default") or not match:
            raise ValueError("expected 'command ...', 'option A=B ...' or 'default A=B'")
        name, value = match[1].replace("-", "_"), match[2]
        if kind == "option":
            self.options[name, value] = rest[1:]
        elif name in ("config", *SWITCHES):
            raise ValueError(f"--{name} is an option of calls and has no default here")
        elif len(rest) == 1:
            self.defaults[name] = value
        else:
            raise ValueError("expected one word after 'default'")

    def words(self, options: dict[str, str]) -> list[str]:
        """The words for sbatch that these options stand for."""
        result = []
        for name, value in options.items():
            words = self.options.get((name, value), self.options.get((name, "*")))
            if words is None and name in jobs.DEFAULTS:
                raise UsageError(f"{self.path}: no line 'option {name}=* ...' for --{name} {value}")
            if words is None:
                known = sorted({f"--{option}" for option, _ in self.options})
                raise UsageError(
                    f"--{name} {value}: not an option of this wrapper, nor of {self.path}"
                    f" (which has {', '.join(known)})"
                )
            result += [word.replace("$0", value) for word in words]
        return result


# --- a call -------------------------------------------------------------------------------------


class Runner:
    """Submits the jobs of a call and waits for the files that they leave."""

    def __init__(self, call: Call):
        self.call = call
        if call.log == jobs.NO_LOG:
            raise UsageError("a job that runs elsewhere needs a log file, not -")
        given = call.options["config"]
        config = Config(
            Path(given) if given else CONFIG if CONFIG.exists() else HERE.parent / CONFIG
        )
        # Of the configuration's defaults, --retry does not matter to a detached job.
        if call.options["detach"] == "true" and (len(call.numbers) > 1 or call.retry):
            raise UsageError("--detach: only one job, and without --retry: nobody waits for it")
        call.take_defaults(config.defaults)
        words = {name: str(getattr(call, name)) for name in ("num_threads", "gpu", "num_nodes")}
        if call.requeue:
            words["requeue"] = str(call.requeue)
        own = {"max_jobs_run", "config", "retry", "requeue", *SWITCHES}
        given = {**config.defaults, **call.given}
        words |= {name: value for name, value in given.items() if name not in own and value}
        self.words = [*config.command, *config.words(words)]
        self.logs = Path(call.log).absolute()
        if "\\" in str(self.logs):
            raise UsageError(f"a log's path cannot have a backslash, Slurm drops it: {self.logs}")
        self.comment = f"lors:{self._log('*')}"
        self.name = re.sub(r"\W*\*", "", call.all_logs.rpartition("/")[2]).removesuffix(".log")
        self.directory: Path | None = None  # of the files that the tasks leave
        self.arrays: list[int] = []  # ids of the job arrays submitted
        self.array_of: dict[int, int] = {}  # number -> id of its latest array
        self.doubtful = False  # whether Slurm may have accepted an array without telling its id
        self.left = False  # whether jobs may still run, though they were cancelled
        self.failures: dict[int, int] = {}
        self.failed: list[int] = []
        self.waiting: set[int] = set()
        self.again: set[int] = set()  # those that have failed and will be submitted once more
        self.gone: dict[int, float] = {}  # those that Slurm does not know any more, since when
        self.said: set[str] = set()
        self.done = self.running = 0
        self.signals = SignalQueue()
        self.progress = Progress(call)

    def _log(self, number: int | str) -> Path:
        return Path(self.call.for_job(self.call.log, number)).absolute()

    def command(self, numbers: Iterable[int]) -> list[str]:
        """The command that submits, but for the directory that the jobs are told by."""
        array = ",".join(map(str, _ranges(sorted(numbers))))
        if self.call.max_jobs_run:
            array += f"%{self.call.max_jobs_run}"
        # Slurm writes what itself has to say into the same log, at its end.
        log = str(self._log("\0")).replace("%", "%%").replace("\0", "%a")
        return [
            *self.words,
            "--parsable",
            f"--array={array}",
            f"--job-name={self.name}",
            f"--comment={self.comment}#{len(self.arrays) + 1}",
            f"--chdir={Path.cwd()}",
            f"--output={log}",
            "--open-mode=append",
            str(HERE / "slurm_task.sh"),
        ]

    def prepare(self) -> None:
        """Cancel what an earlier call has left running, empty the logs and write the call down."""
        folder, name = self.logs.parent, f".{self.logs.name}.slurm."
        self._patiently(lambda: self._end_leftovers(folder, name))
        for number in self.call.numbers:
            log = self._log(number)
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_text("")
        for old in folder.glob(glob.escape(name) + "*"):
            shutil.rmtree(old, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        self.directory = Path(tempfile.mkdtemp(prefix=name, dir=folder))
        call = {  # for _caller_at_work
            "detached": self.call.options["detach"] == "true",
            "host": os.uname().nodename,
            "pid": os.getpid(),
            "inside": os.environ.get("SLURM_ARRAY_JOB_ID", ""),
        }
        (self.directory / "call.json").write_text(json.dumps(call))
        (self.directory / "task").write_bytes(told(self.call))

    def submit(self, numbers: Iterable[int]) -> int:
        """Submit an array of these numbers; returns its id."""
        numbers = sorted(numbers)
        words = [*self.command(numbers), str(self.directory)]

        def accepted() -> set[int]:
            """What Slurm has accepted although the answer was lost: not to be submitted twice."""
            tasks = slurm_client.queue().items()
            return {array for (array, _), task in tasks if f"--comment={task.comment}" in words}

        def try_it() -> int:
            found = accepted() if self.doubtful else set()
            if not found:
                try:
                    return slurm_client.submit(words)
                except SlurmError as error:
                    self.doubtful = True
                    found = accepted()
                    if not found:
                        raise type(error)(f"{error}\n  {shlex.join(words)}") from None
            return min(found)

        array = self._patiently(try_it)
        self.arrays.append(array)
        for number in numbers:
            self.array_of[number] = array
        self.waiting.update(numbers)
        return array

    def _patiently(self, act: Callable[[], Result]) -> Result:
        return slurm_client.patiently(act, self.signals.wait, say)

    def run(self) -> int:
        """Run everything; return 0 or the number of the signal that asked to stop."""
        stopped = True
        try:
            self.prepare()
            self.submit(self.call.numbers)
            stop = self._wait()
            stopped = bool(stop)
            return stop
        finally:
            self.progress.close()
            if stopped or self.doubtful:
                self._cancel()
            if self.directory is not None and not self.left:
                shutil.rmtree(self.directory, ignore_errors=True)

    def detach(self) -> int:
        """Submit and leave the jobs to themselves; returns the array's id."""
        try:
            self.prepare()
            return self.submit(self.call.numbers)
        except BaseException:
            self._cancel()
            raise

    def _cancel(self) -> None:
        """Cancel all jobs, and wait for their end."""
        call = self.comment if self.doubtful else ""
        self.left = not slurm_client.cancel(self.arrays, call)
        if self.left:
            which = f"-j {','.join(map(str, self.arrays))}" if self.arrays else "--me"
            say(f"cancelled, but not all of them may have ended: squeue {which}")

    def _wait(self) -> int:
        began = asked = time.monotonic()
        while self.waiting:
            self.progress.show(self.done, self.running, len(self.failed))
            elapsed = time.monotonic() - began
            stop = self.signals.wait(_within(POLL_SECONDS, elapsed))
            if stop or self.signals.caller_is_gone():
                return stop or signal.SIGHUP
            self._collect()
            pause = GONE_SECONDS if self.gone else _within(ASK_SECONDS, elapsed)
            if self.waiting and time.monotonic() - asked > pause:
                self._look_for_the_lost()
                asked = time.monotonic()
            if self.again and not self.waiting:
                numbers, self.again = self.again, set()
                self.submit(numbers)
        self.progress.show(self.done, 0, len(self.failed))
        return 0

    def _collect(self) -> None:
        """Take note of the tasks that have ended."""
        for number, status in self._statuses().items():
            self._finished(number, status == 0)

    def _statuses(self) -> dict[int, int]:
        """The exit statuses that those we wait for have left: number -> status."""
        statuses = {}
        for path in self.directory.glob("status.*"):
            array, number = map(int, path.suffix[1:].split("_"))
            # Not of a task that has failed and was submitted again, nor of one submitted twice.
            if number in self.waiting and array == self.array_of[number]:
                text = path.read_text()
                # Else it is being written, or its task was killed or had no room to do that.
                if text.endswith("\n"):
                    statuses[number] = int(text)
        return statuses

    def _finished(self, number: int, well: bool) -> None:
        self.waiting.discard(number)
        self.gone.pop(number, None)
        if not well:
            self.failures[number] = self.failures.get(number, 0) + 1
            if self.failures[number] <= self.call.retry:
                self.again.add(number)
                return
            self.failed.append(number)
        self.done += 1

    def _look_for_the_lost(self) -> None:
        """Find tasks that were cancelled or killed, which leave no status."""
        try:
            listed = slurm_client.queue()
        except SlurmError as error:
            self._say_once(f"waiting, though Slurm does not answer: {error}")
            return
        if self.doubtful:
            self._end_twins(listed)
        self.running, now = 0, time.monotonic()
        for number in sorted(self.waiting):
            array = self.array_of[number]
            task = listed.get((array, number))
            if task is not None:
                self.gone.pop(number, None)
                self.running += task.state == "RUNNING"
                if task.is_stuck:
                    self._say_once(f"job {array}_{number} does not start: {task.reason}")
            elif number not in self.gone:
                self.gone[number] = now
            elif number not in self._statuses():
                end = slurm_client.how_it_ended(array, number)
                well = "JobState=COMPLETED" in end
                if well and now - self.gone[number] < UNSEEN_SECONDS:
                    continue  # a slow file system
                with contextlib.suppress(SlurmError):  # should Slurm have hidden it from us
                    slurm_client.ask("scancel", f"{array}_{number}")
                with self._log(number).open("a+") as handle:
                    handle.write(jobs.missing_newline(handle.fileno()))
                    handle.write(f"# Ended by Slurm: {end}\n")
                    handle.write(jobs.last_line(1))
                self._finished(number, well=False)

    def _end_twins(self, listed: Mapping[tuple[int, int], Task]) -> None:
        """Cancel what Slurm has accepted late, after it was submitted again."""
        for array in sorted(self._ours(listed) - set(self.arrays)):
            self._say_once(f"cancelling job {array}, which Slurm has after all: it was replaced")
            with contextlib.suppress(SlurmError):  # it will still be there at the next look
                slurm_client.ask("scancel", str(array))

    def _ours(self, listed: Mapping[tuple[int, int], Task]) -> set[int]:
        """Ids of the arrays in a queue that are of this call, or of an earlier one for its logs."""
        return {array for (array, _), task in listed.items() if task.call == self.comment}

    def _say_once(self, message: str) -> None:
        if message not in self.said:
            self.said.add(message)
            say(message)

    def _end_leftovers(self, folder: Path, name: str) -> None:
        """Cancel jobs for these logs whose call was killed; refuse while it is at work."""
        listed = slurm_client.queue()
        left = self._ours(listed)
        if not left:
            return
        ids = ", ".join(map(str, sorted(left)))
        started = {str(array) for (array, _), task in listed.items() if task.state != "PENDING"}
        for path in folder.glob(glob.escape(name) + "*/call.json"):
            who = _caller_at_work(path, started, ids)
            if who:
                raise SlurmError(f"a call for these logs is at work, {who}: {self.logs}")
        say(f"cancelling job {ids} of an earlier call for these logs")
        if not slurm_client.cancel(left):
            raise SlurmError(f"job {ids} of an earlier call does not end")


def _caller_at_work(path: Path, started: Container[str], ids: str) -> str:
    """Who waits for the jobs `ids` of the call in a ``call.json``; empty if nobody is known to.

    Args:
        started: ids of this user's job arrays that have begun.
    """
    try:
        call = json.loads(path.read_text(encoding="ascii"))
        detached, inside, host, pid = (call[k] for k in ("detached", "inside", "host", "pid"))
    except (OSError, ValueError, KeyError):
        return ""
    if detached:
        return f"job {ids}"
    if inside:  # a job; this very one if it was requeued
        other = inside != os.environ.get("SLURM_ARRAY_JOB_ID") and inside in started
        return f"job {inside}" if other else ""
    here = host == os.uname().nodename and jobs.is_running(pid)
    return f"process {pid}" if here else ""


def told(call: Call) -> bytes:
    """What utils/slurm_task.sh reads: four settings, the log's first line and the command's words.

    Each is ended by a NUL. Where JOB stands in the last two, the text is in pieces: the first of a
    text begins with w, and one that goes on after the number with j.
    """
    words = [str(value) for value in (call.num_threads, call.gpu, call.requeue)]
    words.append(call.options["detach"] or "false")
    for text in [" ".join(map(jobs.quoted, call.command)), *call.command]:
        first, *rest = call.around_job(text)
        words += [f"w{first}", *(f"j{piece}" for piece in rest)]
    return os.fsencode("".join(f"{word}\0" for word in words))


def _within(limits: tuple[float, float], elapsed: float) -> float:
    """A tenth of the time so far, within limits: quick for short jobs, rare for long ones."""
    return min(limits[1], max(limits[0], 0.1 * elapsed))


def _ranges(numbers: list[int]) -> list[str]:
    """Sorted numbers as Slurm writes them: 1-4, 7."""
    result: list[list[int]] = []
    for number in numbers:
        if result and number == result[-1][1] + 1:
            result[-1][1] = number
        else:
            result.append([number, number])
    return [f"{a}-{b}" if b > a else f"{a}" for a, b in result]


def main(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(__doc__, end="", file=sys.stdout if argv else sys.stderr)
        return 0 if argv else 2
    try:
        call = Call(argv, SWITCHES, free=True)
        for name in SWITCHES:
            if call.options[name] not in ("", "true", "false"):
                raise UsageError(f"--{name}: expected true or false, got '{call.options[name]}'")
        runner = Runner(call)
    except UsageError as error:
        say(f"error: {error}")
        say("what to do: utils/slurm.py --help")
        return 2
    if call.options["dry_run"] == "true":
        print(shlex.join([*runner.command(call.numbers), "DIRECTORY"]))
        return 0
    try:
        if call.options["detach"] == "true":
            print(runner.detach())
            return 0
        stop = runner.run()
    except Stopped as stopped:
        stop = stopped.signum
    except SlurmError as error:
        say(f"error: the jobs cannot be submitted: {error}")
        return 1
    except OSError as error:
        say(f"error: {error}")
        return 1
    if stop and runner.left:  # which has been said
        return 128 + stop
    return jobs.ended(call, stop, runner.failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
