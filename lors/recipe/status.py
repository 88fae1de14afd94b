"""How far an experiment is: the state of each unit of its latest run.

Markers show which units are done (:mod:`lors.recipe.units`). Logs show which of the other units run
or have failed (:mod:`lors.recipe.unit_jobs`). The run itself does the stages without jobs
(:mod:`lors.recipe.run_record`). Nothing is written. Standard library only.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lors.errors import LorsError, unknown_name
from lors.recipe.job_log import STOPPED, error_in
from lors.recipe.liveness import GONE, QUEUED, RUNNING, states_of
from lors.recipe.run_record import RunRecord, read_run, record_path
from lors.recipe.unit_jobs import Job, latest_jobs
from lors.recipe.units import DONE, STAGES, STARTED, TRAINING, Unit, stages_of, units_of

ARRAYS = (
    *("experts", "baselines", "importance", "subnets", "sat", "adapt"),
    *("tune", "inference"),
)
"""The stages whose units are always done by jobs with logs."""
FAILED, INTERRUPTED, PENDING, LEFT_OUT = "failed", "interrupted", "pending", "left out"
STATES = (DONE, RUNNING, QUEUED, FAILED, INTERRUPTED, PENDING, LEFT_OUT)


@dataclass
class UnitStatus:
    """The state of a unit.

    Attributes:
        stage, name: the unit.
        state: one of `STATES`.
        log: the log of its latest job, if there is one.
        status: exit code of a failed job.
        error: why the unit failed.
    """

    stage: str
    name: str
    state: str
    log: Path | None = None
    status: int | None = None
    error: str = ""


@dataclass
class Status:
    """The state of an experiment.

    Attributes:
        expdir: the experiment.
        run: its latest run.
        alive: whether that run still runs.
        units: the units of `stages`.
        stages: the stages that were asked for.
    """

    expdir: Path
    run: RunRecord
    alive: bool
    units: list[UnitStatus] = field(default_factory=list)
    stages: Sequence[str] = STAGES

    def of(self, stage: str) -> list[UnitStatus]:
        """Return the units of a stage."""
        return [unit for unit in self.units if unit.stage == stage]

    @property
    def state(self) -> str:
        """``DONE``, ``FAILED`` (at least one unit), ``RUNNING`` (or queued) or ``INTERRUPTED``."""
        states = {unit.state for unit in self.units}
        if states <= {DONE, LEFT_OUT}:
            return DONE
        if FAILED in states:
            return FAILED
        goes_on = self.alive and any(stage in _to_come(self.run) for stage in self.stages)
        return RUNNING if goes_on or states & {RUNNING, QUEUED} else INTERRUPTED


def counts(units: Collection[UnitStatus]) -> dict[str, int]:
    """Return state -> number of units, for the states that occur, in the order of `STATES`."""
    found = Counter(unit.state for unit in units)
    return {state: found[state] for state in STATES if found[state]}


def read_status(expdir: str | os.PathLike, stage: str | None = None) -> Status:
    """Read the state of an experiment.

    Args:
        expdir: the experiment directory.
        stage: name or number of the only stage to read; None for all.

    Raises:
        UsageError: no such experiment, no run is recorded in it, or no such stage.
    """
    run = read_run(expdir)
    stages = stages_of(run) if stage is None else (_stage_name(run, stage),)
    units = [unit for unit in units_of(run, expdir) if unit.stage in stages]
    keys = {unit.key for unit in units}
    jobs = {k: job for k, job in latest_jobs(expdir, run.expdir).items() if k in keys}
    logs = list({job.log.path: job.log for job in jobs.values()}.values())
    run_process = run.process(last_write=record_path(expdir).stat().st_mtime)
    *states, state_of_run = states_of([*(log.process for log in logs), run_process])
    alive = run.status is None and state_of_run != GONE
    job_states = dict(zip((log.path for log in logs), states, strict=True))
    judge = _Judge(run, alive, jobs, job_states, {unit.key: _progress(unit) for unit in units})
    status = Status(Path(expdir), run, alive, stages=stages)
    for name in stages:
        status.units += judge.stage(name, [unit for unit in units if unit.stage == name])
    return status


def _stage_name(run: RunRecord, word: str) -> str:
    """Return the name of a stage, from its name or number."""
    stages = stages_of(run)
    numbers = {str(number): name for number, name in enumerate(stages, 1)}
    name = numbers.get(word, word)
    if name not in stages:
        raise unknown_name("stage", word, stages, where="--stage")
    return name


def _progress(unit: Unit) -> str | LorsError | OSError:
    """Return the progress of a unit, or the error in reading it."""
    try:
        return unit.progress()
    except (LorsError, OSError) as error:
        return error


def _to_come(run: RunRecord) -> tuple[str, ...]:
    """Return the current stage of a run and the stages after it."""
    known = stages_of(run)
    first = known.index(run.stage) if run.stage in known else 0
    stages = known[first : run.stop_stage]
    return tuple(s for s in stages if not (run.skip_train and s in TRAINING))


class _Judge:
    """Decides the state of units.

    Args:
        run: the latest run.
        alive: whether it still runs.
        jobs: key of a unit -> its latest job.
        job_states: log of a job -> state of its process.
        progress: key of a unit -> its progress, or the error in reading it.
    """

    def __init__(
        self,
        run: RunRecord,
        alive: bool,
        jobs: Mapping[str, Job],
        job_states: Mapping[Path, str],
        progress: Mapping[str, str | LorsError | OSError],
    ):
        self.run, self.alive = run, alive
        self.jobs, self.job_states, self.progress = jobs, job_states, progress
        self.to_come = _to_come(run) if alive else ()

    def stage(self, name: str, units: Sequence[Unit]) -> list[UnitStatus]:
        """Return the states of all units of a stage."""
        found = [self._unit(unit) for unit in units]
        if name == self.run.stage:
            self._without_log(name, units, found)
        if self.run.skip_train and name in TRAINING:
            for unit in found:
                unit.state = LEFT_OUT if unit.state == PENDING else unit.state
        return found

    def _unit(self, unit: Unit) -> UnitStatus:
        """Return the state of a unit, from its marker and its log."""
        progress, job = self.progress[unit.key], self.jobs.get(unit.key)
        log = job.log if job else None

        def status(state: str, code: int | None = None, error: str = "") -> UnitStatus:
            return UnitStatus(unit.stage, unit.name, state, log.path if log else None, code, error)

        if progress == DONE:
            return status(DONE)
        if isinstance(progress, LorsError):
            return status(FAILED, error=f"{progress.what}: {progress.where}")
        if isinstance(progress, OSError):
            return status(FAILED, error=str(progress))
        is_its_turn = progress == STARTED or (job is not None and self._is_next(unit.key, job))
        state = self.job_states[log.path] if log and log.status is None else GONE
        if state != GONE:
            return status(state if is_its_turn else PENDING)
        if unit.stage in self.to_come and not (log and log.changed >= self.run.began):
            return status(PENDING)
        if job and job.log.has_failed and (is_its_turn or self._failed_at_once(job)):
            return status(FAILED, job.log.status, error_in(job.log.path))
        return status(INTERRUPTED if progress == STARTED else PENDING)

    def _is_next(self, key: str, job: Job) -> bool:
        """Return whether a job is at this unit: the first that is not done, if none is half done.

        Units that have not started wait for their turn.
        """
        left = [own for own in job.keys if self.progress.get(own, DONE) != DONE]
        return left[0] == key and not any(self.progress[own] == STARTED for own in left)

    def _failed_at_once(self, job: Job) -> bool:
        """Return whether no unit of a failed job is half done.

        Then the failure counts for all its units that are not done.
        """
        return not any(self.progress.get(key) == STARTED for key in job.keys)

    def _without_log(self, name: str, units: Sequence[Unit], found: list[UnitStatus]) -> None:
        """Set the state of the unit at which the run itself works, or worked when it failed."""
        started = {unit.name for unit in units if self.progress[unit.key] == STARTED}
        left = [unit for unit in found if unit.state in (PENDING, INTERRUPTED)]
        current = next((unit for unit in left if unit.name in started), left[0] if left else None)
        if current is None:
            return
        states = {unit.state for unit in found}
        if self.alive and name not in ARRAYS and RUNNING not in states:
            current.state = RUNNING
        elif self.run.status not in (None, 0, *STOPPED) and FAILED not in states:
            current.state, current.status = FAILED, self.run.status
            current.error = "no log: see the output of ./run.sh"
