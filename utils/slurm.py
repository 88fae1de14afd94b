#!/usr/bin/env -S python3 -IS
"""Run a command, or an array of them, as Slurm jobs, with one log for each job.

Usage: utils/slurm.py [options] [JOB=first:last] LOGFILE COMMAND [ARGUMENT ...]
 e.g.: utils/slurm.py --gpu 1 --mem 16G JOB=1:8 exp/log/x.JOB.log python3 work.py --part JOB

The contract is that of utils/run.py and of Kaldi's slurm.pl. JOB (any name) stands for the job's
number; the jobs are submitted as one job array, and the call ends when all of them have ended. A
call has at most 100000 jobs. No shell reads the command.
Options (before or after JOB=; - and _ mean the same; --name value or --name=value):

  --num_threads N   cores of one job (default 1)
  --gpu N           GPUs of one job on each node (default 0)
  --mem G           memory of one job, e.g. 16G
  --time T          time limit of one job, e.g. 4:00:00
  --num_nodes N     nodes of one job; the command runs on the first of them (default 1)
  --max_jobs_run N  most jobs of the array at the same time (default: no limit)
  --retry N         times that failed jobs are submitted again (default 0)
  --requeue N       times that a job goes back into the queue, when its time is nearly up or when it
                    ends with status 85; its command starts again and has to continue its work
                    (default 0)
  --config FILE     the options of sbatch for all this, and further options (default
                    conf/slurm.conf, which explains its grammar)
  --detach true     submit one job, print its id and return; not with --retry
  --dry_run true    print the command that would submit
  --help            show this text

Exit status: 0, 1 if any job failed, 2 for a wrong call, 128 + signal after Ctrl-C, TERM or HUP,
which cancel all jobs first. The end of the calling program cancels all jobs, too. A call that was
killed leaves its jobs: the next call with the same LOGFILE cancels them at its start. A second call
with the LOGFILE of a call at work is refused. docs/slurm_recovery.md explains the rare cases.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import slurm_client
from job_options import NO_LOG, Call, UsageError
from job_report import Progress, report_end, say, say_os_error
from jobs import Log, Signals, command_line
from slurm_arrays import Arrays
from slurm_client import SlurmError, SlurmMissing, Stopped
from slurm_conf import SWITCHES, sbatch_words
from slurm_files import CallDirectory

POLL_SECONDS = 0.05, 5.0  # between two looks at the status files: at first, later
ASK_SECONDS = 1.0, 30.0  # between two looks at Slurm's queue: at first, later
GONE_SECONDS = 2.0  # until the second look for a job that is not in the queue any more
UNSEEN_SECONDS = 60.0  # until a job that Slurm calls completed has failed, without its status file


class Runner:
    """The jobs of a call: submits them and waits for the status files that they leave.

    Raises:
        UsageError: the call, or the configuration, is wrong.
    """

    def __init__(self, call: Call):
        self.call = call
        if call.log == NO_LOG:
            raise UsageError("a job on another machine needs a log file, not -")
        if call.options["detach"] == "true" and (len(call.numbers) > 1 or call.retry):
            raise UsageError(
                "--detach: only for one job, and without --retry, because no call waits for its end"
            )
        words = sbatch_words(call)
        self.signals = Signals()
        self.arrays = Arrays(call, words, self.signals)
        self.directory: CallDirectory | None = None
        self.left = False  # whether jobs may still run although they were cancelled
        self.failures: dict[int, int] = {}  # number -> how often it has failed
        self.failed: list[int] = []
        self.waiting: set[int] = set()  # numbers that have not ended
        self.again: set[int] = set()  # numbers that have failed and will be submitted again
        self.gone: dict[int, float] = {}  # number -> when it was first not in Slurm's queue
        self.said: set[str] = set()
        self.done = self.running = 0
        self.progress = Progress(call)

    def run(self) -> int:
        """Run all jobs; return 0 or the number of the signal that asked to stop."""
        stopped = True
        try:
            self._prepare()
            self.submit(self.call.numbers)
            stop = self._wait()
            stopped = bool(stop)
            return stop
        finally:
            self.progress.close()
            if stopped or self.arrays.is_doubtful:
                self._cancel()
            if self.directory is not None and not self.left:
                self.directory.remove()

    def detach(self) -> int:
        """Submit the job and do not wait for it; return the array's id."""
        try:
            self._prepare()
            return self.submit(self.call.numbers)
        except BaseException:
            self._cancel()
            raise

    def submit(self, numbers: Iterable[int]) -> int:
        """Submit an array of these jobs; return its id."""
        numbers = set(numbers)
        array = self.arrays.submit(numbers, self.directory.path)
        self.waiting |= numbers
        return array

    def _prepare(self) -> None:
        """Cancel the jobs of an earlier call, empty the logs, make the directory of the call."""
        self.arrays.end_leftovers()
        for number in self.call.numbers:
            Log(self.arrays.log(number), empty=True).close()
        self.directory = CallDirectory.make(self.arrays.logs, self.call)

    def _cancel(self) -> None:
        """Cancel all jobs, and wait for their end."""
        self.left = not self.arrays.cancel()
        if self.left:
            ids = self.arrays.ids
            which = f"-j {','.join(map(str, ids))}" if ids else "--me"
            say(f"cancelled, but not all jobs may have ended: squeue {which}")

    def _wait(self) -> int:
        """Wait until all jobs have ended; return 0 or the signal that asked to stop."""
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
                self._look_into_queue()
                asked = time.monotonic()
            if self.again and not self.waiting:
                numbers, self.again = self.again, set()
                self.submit(numbers)
        self.progress.show(self.done, 0, len(self.failed))
        return 0

    def _collect(self) -> None:
        """Count the jobs that have left an exit status."""
        for number, status in self._statuses().items():
            self._finished(number, status == 0)

    def _statuses(self) -> dict[int, int]:
        """Return the exit statuses of the open jobs, each from its latest array."""
        return self.directory.statuses({n: self.arrays.array_of[n] for n in self.waiting})

    def _finished(self, number: int, is_good: bool) -> None:
        self.waiting.discard(number)
        self.gone.pop(number, None)
        if not is_good:
            self.failures[number] = self.failures.get(number, 0) + 1
            if self.failures[number] <= self.call.retry:
                self.again.add(number)
                return
            self.failed.append(number)
        self.done += 1

    def _look_into_queue(self) -> None:
        """Find jobs that have ended without a status, jobs that cannot start, and twins.

        See docs/slurm_recovery.md, "Jobs without a status" and "Twins".
        """
        try:
            queue = slurm_client.queue()
        except SlurmError as error:
            self._say_once(f"Slurm does not answer, still waiting: {error}")
            return
        for twin in sorted(self.arrays.end_twins(queue)):
            self._say_once(f"cancelling job {twin}, which Slurm accepted late: it was replaced")
        self.running = 0
        for number in sorted(self.waiting):
            array = self.arrays.array_of[number]
            task = queue.get((array, number))
            if task is None:
                self._not_in_queue(number, array)
                continue
            self.gone.pop(number, None)
            self.running += task.state == "RUNNING"
            if task.is_stuck:
                self._say_once(f"job {array}_{number} does not start: {task.reason}")

    def _not_in_queue(self, number: int, array: int) -> None:
        """Count a job as failed if it left the queue some time ago and has no status file."""
        now = time.monotonic()
        if number not in self.gone:
            self.gone[number] = now
        elif number not in self._statuses():
            end = slurm_client.how_it_ended(array, number)
            is_completed = "JobState=COMPLETED" in end
            if is_completed and now - self.gone[number] < UNSEEN_SECONDS:
                return  # a slow file system may show the status later
            with contextlib.suppress(SlurmError):  # the job may be hidden in the queue, yet run
                slurm_client.ask("scancel", f"{array}_{number}")
            log = Log(self.arrays.log(number))
            log.ended_by(f"Slurm: {end}")
            log.finished(1)
            log.close()
            self._finished(number, is_good=False)

    def _say_once(self, message: str) -> None:
        if message not in self.said:
            self.said.add(message)
            say(message)


def _within(limits: tuple[float, float], elapsed: float) -> float:
    """Return a tenth of the elapsed time, within limits: short for short jobs, else long."""
    return min(limits[1], max(limits[0], 0.1 * elapsed))


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
    except OSError as error:  # such as a current directory that was removed
        say_os_error(error)
        return 1
    if call.options["dry_run"] == "true":
        sys.stdout.reconfigure(errors="surrogateescape")  # paths that are not UTF-8, as they are
        print(command_line(runner.arrays.command(call.numbers, "DIRECTORY")))
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
        if isinstance(error, SlurmMissing):
            say(
                "what to do: call this where Slurm is installed, such as a login node; on this "
                "machine alone, write LORS_CMD_BACKEND=local before the command of a recipe, or "
                "call utils/run.py"
            )
        return 1
    except OSError as error:
        say_os_error(error, runner.arrays.logs.parent)
        return 1
    if stop and runner.left:  # the message was printed
        return 128 + stop
    return report_end(call, stop, runner.failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
