"""The units of each job, found from the command in the log of the job.

The functions that the job itself uses turn its command into units. So a log of other languages or
of another number of jobs is never taken for a log of the current work.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from lors.checkpoint.places import SUBNETWORK
from lors.errors import LorsError
from lors.recipe.expdir import (
    ORDERS,
    ExpDir,
    inference_units,
    order_of,
    searches_of,
    sequential_steps,
    steps_of_half,
)
from lors.recipe.job_log import JobLog, read_job_log
from lors.tasks import Pair, pairs_of

Value = TypeVar("Value")
MOST_UNITS = 1_000_000


@dataclass(frozen=True)
class Job:
    """A job of the recipe: its log and the keys of all its units."""

    log: JobLog
    keys: tuple[str, ...]


def latest_jobs(expdir: str | os.PathLike, recorded_expdir: str) -> dict[str, Job]:
    """Return key of a unit -> the latest job that has, or had, this unit.

    Args:
        expdir: where the experiment is; its logs are read.
        recorded_expdir: name of the experiment directory in the commands of the jobs.
    """
    found: dict[str, Job] = {}
    for path in sorted(ExpDir(expdir).log.glob("*.log")):
        log = read_job_log(path)
        if log is None:
            continue
        job = Job(log, _keys_of(log, recorded_expdir))
        for key in job.keys:
            if key not in found or found[key].log.changed < log.changed:
                found[key] = job
    return found


def _keys_of(log: JobLog, expdir: str) -> tuple[str, ...]:
    """Return the keys of the units of a job; none for a command that no recipe calls."""
    try:
        if log.module in ("lors.bin.train", "lors.bin.import_base", "lors.bin.quantise"):
            return tuple(os.path.relpath(out, expdir) for out in _trained(log))
        if log.module == "lors.bin.importance":
            return (f"importance/{_only(log.option('langs'), log)}",)
        if log.module in _OF_SUBNETS:
            return _OF_SUBNETS[log.module](log, expdir)
        if log.module == "lors.bin.merge_tuned":
            scopes, methods = log.option("scopes"), log.option("methods")
            return tuple(f"merged/{method}.{scope}" for scope in scopes for method in methods)
        if log.module == "lors.bin.tune":
            jobs = int((log.option("jobs") or ["1"])[0])
            searches = searches_of(log.option("tasks"), log.option("methods"), jobs)
            scope, own = _only(searches, log)
            return tuple(f"tune/{method}.{scope}" for method in own)
        if log.module == "lors.bin.inference":
            langs, tasks, systems = map(log.option, ("langs", "tasks", "systems"))
            if len(langs) * len(tasks) * len(systems) > MOST_UNITS:
                return ()
            pairs = pairs_of(langs, tasks)
            job, number = int(log.option("job")[0]), int(log.option("num_jobs")[0])
            units = inference_units(systems, pairs, job, number)
            split = log.option("split")[0]
            return tuple(f"inference/{split}/{system}/{pair}" for system, pair in units)
    except (LorsError, ValueError, IndexError):
        pass
    return ()


def _masks(log: JobLog, _: str) -> tuple[str, ...]:
    criteria, rates = log.option("criteria"), log.option("rates")
    if len(criteria) * len(rates) > MOST_UNITS:
        return ()
    names = itertools.product(criteria, rates)
    return tuple(f"masks/{criterion}_{rate}" for criterion, rate in names)


def _trained_under_masks(log: JobLog, _: str) -> tuple[str, ...]:
    """Return a system, and before it what its training makes first if masks are found again."""
    system = _only(log.option("systems"), log)
    langs, tasks = log.option("langs"), log.option("tasks")
    if log.option("mask_rounds") != ["2"] or len(langs) * len(tasks) > MOST_UNITS:
        return (system,)
    return (*map(str, steps_of_half(ExpDir(""), system, pairs_of(langs, tasks))), system)


def _packed(log: JobLog, expdir: str) -> tuple[str, ...]:
    out = os.path.relpath(log.option("out")[0], expdir)
    return tuple(f"{out}/{name}/{SUBNETWORK}" for name in (*log.option("langs"), "all"))


_OF_SUBNETS: Mapping[str, Callable[[JobLog, str], tuple[str, ...]]] = {
    "lors.bin.find_masks": _masks,
    "lors.bin.train_subnet": _trained_under_masks,
    "lors.bin.mask_overlap": lambda *_: ("overlap.json",),
    "lors.bin.pack_subnets": _packed,
}
"""Program -> the keys of the units of its job, from its log and the experiment directory."""


def _trained(log: JobLog) -> list[Path]:
    """Return the model directories that a job of ``lors.bin.train`` or ``import_base`` writes."""
    out = Path(log.option("out")[0])
    if not log.option("only"):
        return [out]
    if not (baselines := log.option("baselines")):
        return [out / str(Pair.parse(_only(log.option("pairs"), log)))]
    out = out / _only(baselines, log)
    if out.name not in ORDERS:
        return [out]
    pairs = order_of(out.name, [Pair.parse(name) for name in log.option("pairs")])
    return [out / step for step in sequential_steps(pairs)]


def _only(values: Sequence[Value], log: JobLog) -> Value:
    """Return the value with the number in the job's option ``--only``, counted from 1."""
    index = int(log.option("only")[0]) - 1
    if index < 0:
        raise IndexError(index)
    return values[index]
