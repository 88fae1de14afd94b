"""The command line of the job wrappers: [options] [JOB=first:last] LOGFILE COMMAND [ARGUMENT ...].

It is the contract of Kaldi's run.pl, queue.pl and slurm.pl. Standard library only: any Python 3 of
the system runs it.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping

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
SMALLEST = {"num_threads": 1, "num_nodes": 1, "gpu": 0, "max_jobs_run": 1, "retry": 0, "requeue": 0}
"""The options that are whole numbers, with the smallest value of each."""
LARGEST = 1_000_000
"""Largest whole number in an option."""
MOST_JOBS = 100_000
"""Largest number of jobs of a call; each has a log and a process of its own."""
LARGEST_JOB = 1_000_000_000
"""Largest number of a job."""
NO_LOG = "-"


class UsageError(Exception):
    """A wrong call (exit code 2)."""


class Call:
    """A parsed command line.

    Args:
        argv: the words after the wrapper's name.
        more: further options of the wrapper, with their defaults.
        free: keep unknown options, which a cluster's configuration may define.

    Attributes:
        options: all options, name -> text.
        given: the options of the command line alone.
        job_name: the name in place of a job's number, such as JOB; empty without an array.
        first, last: the range of job numbers.
        log: the log's name, or ``NO_LOG``.
        command: the words to run.
        num_threads, num_nodes, gpu, retry, requeue: options as numbers.
        max_jobs_run: the same; 0 for no limit.

    Raises:
        UsageError: the command line is wrong.
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
                f" (for a log with this name: ./{self.log})"
            )
        self.num_threads = self._integer("num_threads")
        self.num_nodes = self._integer("num_nodes")
        self.gpu = self._integer("gpu")
        self.retry = self._integer("retry")
        self.requeue = self._integer("requeue")
        self.max_jobs_run = self._integer("max_jobs_run") if self.options["max_jobs_run"] else 0
        same = self.for_job(self.log, 0) == self.log != NO_LOG
        if self.last > self.first and same:
            raise UsageError(
                f"all jobs would write the same log, put {self.job_name} into its name: {self.log}"
            )

    def take_defaults(self, defaults: Mapping[str, str]) -> None:
        """Use a configuration's values for the numeric options that the command line lacks."""
        for key in SMALLEST:
            if key in defaults and key not in self.given:
                self.options[key] = defaults[key]
                setattr(self, key, self._integer(key))

    def _leading_words(self, words: deque[str]) -> list[str]:
        """Read options and JOB=a:b from the front; return the remaining words."""
        while words:
            word = words[0]
            array = re.fullmatch(r"([A-Za-z_]\w*)=([0-9]+)(?::([0-9]+))?", word)
            if array and not self.job_name:
                self.job_name = array[1]
                self.first, self.last = _range_of_jobs(word, array[2], array[3] or array[2])
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
        value, smallest = self.options[key], SMALLEST[key]
        number = _whole_number(value)
        if number is None or not smallest <= number <= LARGEST:
            raise UsageError(
                f"--{key}: expected a whole number from {smallest} to {LARGEST}, got '{value[:40]}'"
            )
        return number

    @property
    def numbers(self) -> range:
        return range(self.first, self.last + 1)

    def split_at_job(self, text: str) -> list[str]:
        """Return `text` cut at every place of the job's number: see :meth:`for_job`."""
        if not self.job_name:
            return [text]
        return re.split(rf"(?<![A-Za-z0-9]){self.job_name}(?![A-Za-z0-9])", text)

    def for_job(self, text: str, number: int | str) -> str:
        """Return `text` with the job's number in place of the array's name.

        The name counts only if no letter or digit is beside it: it is replaced in ``x.JOB.log``
        and ``part_JOB``, but not in ``/home/JOBS``.
        """
        return str(number).join(self.split_at_job(text))

    @property
    def all_logs(self) -> str:
        """Pattern of the names of all logs, for messages."""
        return self.for_job(self.log, "*")

    @property
    def and_logs(self) -> str:
        """End of a message about several jobs: the place of their logs; empty without logs."""
        return "" if self.log == NO_LOG else f", log is in {self.all_logs}"


def _range_of_jobs(word: str, first: str, last: str) -> tuple[int, int]:
    """Return the first and the last number of ``NAME=first:last``; UsageError if it has no jobs."""
    numbers = _whole_number(first), _whole_number(last)
    if None in numbers or numbers[1] > LARGEST_JOB:
        raise UsageError(f"expected a job's number up to {LARGEST_JOB}: {word[:80]}")
    count = numbers[1] - numbers[0] + 1
    if count < 1:
        raise UsageError(f"empty range of jobs: {word}")
    if count > MOST_JOBS:
        raise UsageError(f"expected at most {MOST_JOBS} jobs, got {count}: {word}")
    return numbers


def _whole_number(text: str) -> int | None:
    """Return the number that decimal digits give; None for another text, or over 20 digits."""
    return int(text) if re.fullmatch(r"[0-9]{1,20}", text) else None
