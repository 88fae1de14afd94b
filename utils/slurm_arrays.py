"""The job arrays of a call of utils/slurm.py: submit each once, find it in the queue, cancel it."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path

import slurm_client
from job_options import Call, UsageError
from job_report import say
from jobs import Signals
from slurm_client import SlurmError, Task
from slurm_files import owner_at_work

TASK_PROGRAM = Path(__file__).resolve().parent / "slurm_task.sh"


class Arrays:
    """The arrays that a call has submitted: one with all jobs, then one for each retry.

    Each array has the comment ``lors:LOGS#N``: LOGS is the absolute name of the logs with ``*`` for
    the number, N counts the arrays of the call. By the tag ``lors:LOGS`` the call finds its arrays
    in Slurm's queue, even an array whose id it never received.

    Args:
        call: the call.
        words: command that submits, with the options of the call: ``slurm_conf.sbatch_words``.
        signals: signals that end the waiting for a controller that does not answer.

    Attributes:
        logs: the logs' absolute name, with JOB in it.
        ids: ids of the arrays.
        array_of: number of a job -> id of its latest array.
        is_doubtful: Slurm may have accepted an array without an answer (docs/slurm_recovery.md,
            "Lost answers").
    """

    def __init__(self, call: Call, words: list[str], signals: Signals):
        self.call, self.words, self.signals = call, words, signals
        self.logs = Path(call.log).absolute()
        if re.search(r"[\\\n]", str(self.logs)):
            raise UsageError(
                "a log's path cannot have a backslash or a line break, which Slurm drops: "
                f"{str(self.logs)!r}"
            )
        self.tag = f"lors:{self.log('*')}"
        self.name = re.sub(r"\W*\*", "", call.all_logs.rpartition("/")[2]).removesuffix(".log")
        self.ids: list[int] = []
        self.array_of: dict[int, int] = {}
        self.is_doubtful = False

    def log(self, number: int | str) -> Path:
        """Return the absolute name of a job's log."""
        return Path(self.call.for_job(self.call.log, number)).absolute()

    def command(self, numbers: Iterable[int], directory: Path | str) -> list[str]:
        """Return the command that submits an array.

        Args:
            numbers: numbers of its jobs.
            directory: directory of the call (``slurm_files.CallDirectory``).
        """
        array = ",".join(_ranges(sorted(numbers)))
        if self.call.max_jobs_run:
            array += f"%{self.call.max_jobs_run}"
        # Slurm appends its own messages to the same log.
        log = str(self.log("\0")).replace("%", "%%").replace("\0", "%a")
        return [
            *self.words,
            "--parsable",
            f"--array={array}",
            f"--job-name={self.name}",
            f"--comment={self.tag}#{len(self.ids) + 1}",
            f"--chdir={Path.cwd()}",
            f"--output={log}",
            "--open-mode=append",
            str(TASK_PROGRAM),
            str(directory),
        ]

    def submit(self, numbers: Iterable[int], directory: Path) -> int:
        """Submit an array once, even if an answer of Slurm is lost; return its id.

        See docs/slurm_recovery.md, "Lost answers".

        Raises:
            SlurmError: Slurm refused it, or did not answer for a long time.
            Stopped: a signal came.
        """
        numbers = sorted(numbers)
        command = self.command(numbers, directory)

        def accepted() -> set[int]:
            tasks = slurm_client.queue().items()
            return {array for (array, _), task in tasks if f"--comment={task.comment}" in command}

        def try_it() -> int:
            found = accepted() if self.is_doubtful else set()
            if not found:
                try:
                    return slurm_client.submit(command)
                except SlurmError as error:
                    self.is_doubtful = True
                    found = accepted()
                    if not found:
                        raise type(error)(f"{error}\n  {shlex.join(command)}") from None
            return min(found)

        array = slurm_client.patiently(try_it, self.signals, say)
        self.ids.append(array)
        self.array_of.update(dict.fromkeys(numbers, array))
        return array

    def end_leftovers(self) -> None:
        """Cancel the jobs of an earlier call with the same logs that was killed.

        See docs/slurm_recovery.md, "Leftovers".

        Raises:
            SlurmError: that call is at work, or its jobs do not end.
            Stopped: a signal came.
        """
        slurm_client.patiently(self._end_leftovers, self.signals, say)

    def _end_leftovers(self) -> None:
        queue = slurm_client.queue()
        left = self._tagged(queue)
        if not left:
            return
        ids = ", ".join(map(str, sorted(left)))
        started = {str(array) for (array, _), task in queue.items() if task.state != "PENDING"}
        owner = owner_at_work(self.logs, ids, started)
        if owner:
            raise SlurmError(f"a call for these logs is at work, {owner}: {self.logs}")
        say(f"cancelling job {ids} of an earlier call for these logs")
        if not slurm_client.cancel(left):
            raise SlurmError(f"job {ids} of an earlier call does not end")

    def end_twins(self, queue: Mapping[tuple[int, int], Task]) -> set[int]:
        """Cancel arrays that were accepted after they had been submitted again; return their ids.

        See docs/slurm_recovery.md, "Twins".
        """
        twins = self._tagged(queue) - set(self.ids) if self.is_doubtful else set()
        for array in sorted(twins):
            with contextlib.suppress(SlurmError):  # the next look at the queue cancels it
                slurm_client.ask("scancel", str(array))
        return twins

    def cancel(self) -> bool:
        """Cancel all arrays and wait for their end; return False if some may still be there."""
        return slurm_client.cancel(self.ids, self.tag if self.is_doubtful else "")

    def _tagged(self, queue: Mapping[tuple[int, int], Task]) -> set[int]:
        """Return the ids of the arrays with this tag in a queue: of this call or an earlier one."""
        return {array for (array, _), task in queue.items() if task.tag == self.tag}


def _ranges(numbers: list[int]) -> list[str]:
    """Return sorted numbers as ranges, as Slurm writes them: 1-4, 7."""
    result: list[list[int]] = []
    for number in numbers:
        if result and number == result[-1][1] + 1:
            result[-1][1] = number
        else:
            result.append([number, number])
    return [f"{a}-{b}" if b > a else f"{a}" for a, b in result]
