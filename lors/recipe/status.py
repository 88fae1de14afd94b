"""How far a recipe's experiment is, from its done markers and the logs of its jobs; only read.

The work of a stage is cut into *units*: a data directory, a training, a merge, a test set. Whether
one is done, a run that resumes and this module read from the same marker. What of the rest runs or
has failed is told by the logs of jobs (:mod:`lors.recipe.job_log`): which units a job has is read
from its own command, which cuts the work by the functions of :mod:`lors.recipe.expdir` as the job
does. So a log of other languages or another number of jobs is never taken for one of this work.
Stages without jobs are done by the run itself (:mod:`lors.recipe.run_record`).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lors.done_marker import DoneMarker
from lors.errors import LorsError, unknown_name
from lors.recipe.expdir import (
    ExpDir,
    hypothesis_marker,
    inference_units,
    scopes_of,
    sequential_steps,
)
from lors.recipe.job_log import STOPPED, JobLog, error_in, read_job_log
from lors.recipe.liveness import GONE, QUEUED, RUNNING, states_of
from lors.recipe.run_record import RunRecord, path_of, read_run
from lors.tasks import Pair, pairs_of

STAGES = ("data", "format", "base", "stats", "experts", "baselines")
STAGES += ("tune", "merge", "inference", "score", "pack")
TRAINING = STAGES[2:6]  # what --skip_train leaves out
ARRAYS = ("experts", "baselines", "tune", "inference")  # what is always done by jobs with logs
SPLITS = ("train", "dev", "test")
DONE, STARTED = "done", "started"
FAILED, INTERRUPTED, PENDING, LEFT_OUT = "failed", "interrupted", "pending", "left out"
STATES = (DONE, RUNNING, QUEUED, FAILED, INTERRUPTED, PENDING, LEFT_OUT)


@dataclass
class Unit:
    """A piece of a stage's work.

    Attributes:
        stage: a name of `STAGES`.
        name: what the user calls it, e.g. ``de_asr``.
        key: what its job calls it: the result's path in the experiment directory.
        progress: reads how far it is: ``DONE``, ``STARTED`` or an empty string.
        log: its own log; None where only the logs of an array tell of it.
    """

    stage: str
    name: str
    key: str
    progress: Callable[[], str]
    log: Path | None = None


@dataclass
class UnitStatus:
    """Where a unit is: a state of `STATES`; the log that tells, and of a failure the reason."""

    stage: str
    name: str
    state: str
    log: Path | None = None
    status: int | None = None
    error: str = ""


@dataclass
class Status:
    """Where an experiment is.

    Attributes:
        expdir: the experiment.
        run: its latest run.
        alive: whether that run is still there.
        units: of the stages that were asked for.
        stages: their names.
    """

    expdir: Path
    run: RunRecord
    alive: bool
    units: list[UnitStatus] = field(default_factory=list)
    stages: Sequence[str] = STAGES

    def of(self, stage: str) -> list[UnitStatus]:
        return [unit for unit in self.units if unit.stage == stage]

    @property
    def state(self) -> str:
        """``DONE``, ``FAILED`` (a unit has), ``RUNNING`` (or queued) or ``INTERRUPTED``."""
        states = {unit.state for unit in self.units}
        if states <= {DONE, LEFT_OUT}:
            return DONE
        if FAILED in states:
            return FAILED
        will_do = self.alive and any(stage in _to_come(self.run) for stage in self.stages)
        return RUNNING if will_do or states & {RUNNING, QUEUED} else INTERRUPTED


def counts(units: Collection[UnitStatus]) -> dict[str, int]:
    """State -> number of units, for the states that occur."""
    found = Counter(unit.state for unit in units)
    return {state: found[state] for state in STATES if found[state]}


def stage_name(word: str) -> str:
    """A stage by its name or number.

    Raises:
        UsageError: there is none.
    """
    numbers = {str(number): name for number, name in enumerate(STAGES, 1)}
    name = numbers.get(word, word)
    if name not in STAGES:
        raise unknown_name("stage", word, STAGES, where="--stage")
    return name


def read_status(expdir: str | os.PathLike, stage: str | None = None) -> Status:
    """Where the experiment of the latest run in `expdir` is, or one stage of it.

    Raises:
        UsageError: no such experiment, or no run is recorded in it.
    """
    run = read_run(expdir)
    stages = STAGES if stage is None else (stage_name(stage),)
    units = [unit for unit in units_of(run, expdir) if unit.stage in stages]
    jobs = _jobs_of(units, run, Path(expdir))
    logs = list({job.path: job for job, _ in jobs.values()}.values())
    processes = [job.process for job in logs]
    sign = path_of(expdir).stat().st_mtime
    *states, of_run = states_of([*processes, run.process(last_sign=sign)])
    alive = run.status is None and of_run != GONE
    state_of_log = dict(zip((job.path for job in logs), states, strict=True))
    status = Status(Path(expdir), run, alive, stages=stages)
    judge = _Judge(run, alive, jobs, state_of_log, {unit.key: _progress(unit) for unit in units})
    for name in stages:
        status.units += judge.stage(name, [unit for unit in units if unit.stage == name])
    return status


# --- what there is to do ------------------------------------------------------------------------


def units_of(run: RunRecord, expdir: str | os.PathLike) -> Iterator[Unit]:
    """All units of a run, stage by stage in the order in which they are done."""
    exp = ExpDir(expdir)
    place = _recipe_of(run, exp.root)
    pairs = pairs_of(run.langs, run.tasks)
    scopes = ["_".join(scope) for scope in scopes_of(run.tasks)]
    merges = [(method, scope) for scope in scopes for method in run.methods]
    yield from _data_units(run, place)
    base_log = exp.base / "train.log" if run.train_base else None
    if run.train_base:
        stats = exp.root / "base_stats"
        yield _model("base", "base_stats", stats, exp, stats / "train.log")
    yield _model("base", "base", exp.base, exp, base_log)
    stats = exp.root / "stats"
    yield _model("stats", "stats", stats, exp, stats / "train.log")
    for pair in pairs:
        yield _model("experts", str(pair), exp.expert(pair), exp)
    if "joint" in run.systems:
        yield _model("baselines", "joint", exp.joint, exp)
    for step in sequential_steps(pairs) if "sequential" in run.systems else ():
        yield _model("baselines", f"sequential/{step}", exp.sequential / step, exp)
    for method, scope in merges:
        sweep = exp.sweep(method, scope)
        yield _model("tune", f"{method}.{scope}", sweep.parent, exp)
    for method, scope in merges:
        yield _model("merge", f"{method}.{scope}", exp.merged(method, scope), exp)
    decoded = inference_units(run.systems, pairs)
    for system, pair in decoded:
        hypothesis = exp.hypothesis("test", system, pair)
        progress = _by_marker(hypothesis_marker(hypothesis), hypothesis)
        yield Unit("inference", f"{system}/{pair}", _key(hypothesis, exp), progress)
    scores = []
    for system, pair in decoded:
        score = exp.score("test", system, pair)
        scores.append(score)
        progress = _by_age(score, [exp.hypothesis("test", system, pair)])
        yield Unit("score", f"{system}/{pair}", _key(score, exp), progress)
    report = exp.root / "RESULTS.md"
    yield Unit("score", report.name, report.name, _by_age(report, scores))
    for scope in scopes if "lors" in run.methods else ():
        packed = exp.root / "packed" / f"lors.{scope}.zip"
        progress = _by_age(packed, [exp.merged("lors", scope) / "model.pth"])
        yield Unit("pack", packed.name, _key(packed, exp), progress)


def _data_units(run: RunRecord, place: Path) -> Iterator[Unit]:
    """The data directories of stages 1 and 2."""
    names = [f"{lang}/{split}" for lang in run.langs for split in SPLITS]
    if run.train_base:
        names += [f"pool/{lang}/{split}" for lang in run.base_langs for split in SPLITS[:2]]
    for name in names:
        yield Unit("data", name, f"data:{name}", _by_files(place / run.data / name))
    for name in names:
        directory = place / run.dump / name
        # Formatting leaves no marker before its end; what it has begun is checked file by file.
        progress = _by_marker(directory / ".done", begun=directory)
        yield Unit("format", name, f"format:{name}", progress)


def _model(stage: str, name: str, directory: Path, exp: ExpDir, log: Path | None = None) -> Unit:
    """A unit whose result is a directory with a marker of its own."""
    return Unit(stage, name, _key(directory, exp), _by_marker(directory / ".done"), log)


def _key(path: Path, exp: ExpDir) -> str:
    return str(path.relative_to(exp.root))


def _recipe_of(run: RunRecord, expdir: Path) -> Path:
    """The recipe's directory; it may have been moved, with its experiment, since the run."""
    typed = Path(run.expdir).parts
    here = expdir.absolute().parts
    if typed and here[-len(typed) :] == typed and not Path(run.expdir).is_absolute():
        return Path(*here[: -len(typed)])
    return Path(run.directory)


# --- how far a unit is --------------------------------------------------------------------------


def _by_marker(
    marker: Path, product: Path | None = None, begun: Path | None = None
) -> Callable[[], str]:
    """Progress by a done marker; it takes `product` to be done, and `begun` to be started."""

    def progress() -> str:
        found = DoneMarker.progress(marker)
        if found == DONE and product is not None and not product.exists():
            return STARTED
        return found or (STARTED if begun is not None and begun.exists() else "")

    return progress


def _by_files(data_dir: Path) -> Callable[[], str]:
    """Progress of a data directory, by the files that Kaldi asks for: a corpus may be anybody's."""

    def progress() -> str:
        if all((data_dir / name).exists() for name in ("wav.scp", "utt2spk", "spk2utt")):
            return DONE
        return STARTED if data_dir.exists() else ""

    return progress


def _by_age(product: Path, sources: Sequence[Path]) -> Callable[[], str]:
    """Progress of a file that is made anew when one of its sources is newer."""

    def progress() -> str:
        try:
            made = product.stat().st_mtime_ns
        except FileNotFoundError:
            return ""
        newer = (s for s in sources if s.exists() and s.stat().st_mtime_ns > made)
        return "" if next(newer, None) else DONE

    return progress


def _progress(unit: Unit) -> str | LorsError | OSError:
    """How far a unit is, or why that cannot be read."""
    try:
        return unit.progress()
    except (LorsError, OSError) as error:
        return error


# --- which job does what ------------------------------------------------------------------------


def _jobs_of(
    units: Sequence[Unit], run: RunRecord, expdir: Path
) -> dict[str, tuple[JobLog, tuple[str, ...]]]:
    """Key of a unit -> the latest job that has or had it, and the keys of all units of that job."""
    wanted = {unit.key for unit in units}
    found: dict[str, tuple[JobLog, tuple[str, ...]]] = {}
    jobs = [(read_job_log(unit.log), (unit.key,)) for unit in units if unit.log is not None]
    logs = [read_job_log(path) for path in sorted(ExpDir(expdir).log.glob("*.log"))]
    jobs += [(log, _keys_of(log, run.expdir)) for log in logs if log is not None]
    for log, keys in jobs:
        for key in wanted.intersection(keys) if log is not None else ():
            if key not in found or found[key][0].changed < log.changed:
                found[key] = (log, keys)
    return found


def _keys_of(log: JobLog, expdir: str) -> tuple[str, ...]:
    """The units that a job has; none if its command is of another kind."""
    try:
        if log.module == "lors.bin.merge_tuned":
            scopes, methods = log.option("scopes"), log.option("methods")
            return tuple(f"merged/{method}.{scope}" for scope in scopes for method in methods)
        if log.module in ("lors.bin.train", "lors.bin.import_base"):
            out = Path(log.option("out")[0])
            if "--sequential" in log.command and "--collect_stats" not in log.command:
                steps = sequential_steps(Pair.parse(pair) for pair in log.option("pairs"))
                return tuple(os.path.relpath(out / step, expdir) for step in steps)
            only = log.option("only")
            if only:
                out /= str(Pair.parse(_nth(log.option("pairs"), only)))
            return (os.path.relpath(out, expdir),)
        if log.module == "lors.bin.tune":
            scope = "_".join(_nth(scopes_of(log.option("tasks")), log.option("only")))
            return tuple(f"tune/{method}.{scope}" for method in log.option("methods"))
        if log.module == "lors.bin.inference":
            pairs = pairs_of(log.option("langs"), log.option("tasks"))
            job, number = int(log.option("job")[0]), int(log.option("num_jobs")[0])
            units = inference_units(log.option("systems"), pairs, job, number)
            split = log.option("split")[0]
            return tuple(f"inference/{split}/{system}/{pair}" for system, pair in units)
    except (LorsError, ValueError, IndexError):
        pass  # not as lors.sh calls them
    return ()


def _nth(values: Sequence, number: list[str]):
    """The value that ``--only`` names, counted from 1."""
    index = int(number[0]) - 1
    if index < 0:
        raise IndexError(index)
    return values[index]


def _to_come(run: RunRecord) -> tuple[str, ...]:
    """The stages that a run that is still there is at or will come to."""
    first = STAGES.index(run.stage) if run.stage in STAGES else 0
    stages = STAGES[first : run.stop_stage]
    return tuple(s for s in stages if not (run.skip_train and s in TRAINING))


# --- the judgement ------------------------------------------------------------------------------


class _Judge:
    """Puts together what markers, logs and the run say."""

    def __init__(
        self,
        run: RunRecord,
        alive: bool,
        jobs: Mapping[str, tuple[JobLog, tuple[str, ...]]],
        state_of_log: Mapping[Path, str],
        progress: Mapping[str, str | LorsError | OSError],
    ):
        self.run, self.alive, self.jobs = run, alive, jobs
        self.state_of_log, self.progress = state_of_log, progress
        self.to_come = _to_come(run) if alive else ()

    def stage(self, name: str, units: Sequence[Unit]) -> list[UnitStatus]:
        """The units of one stage, which has all that their jobs have."""
        found = [self._unit(unit) for unit in units]
        started = {unit.name for unit in units if self.progress[unit.key] == STARTED}
        left = [unit for unit in found if unit.state in (PENDING, INTERRUPTED)]
        at_work = next((unit for unit in left if unit.name in started), None) or next(
            iter(left), None
        )
        states = {unit.state for unit in found}
        if name == self.run.stage and at_work is not None:
            ended_badly = self.run.status not in (None, 0, *STOPPED)
            if self.alive and name not in ARRAYS and RUNNING not in states:
                at_work.state = RUNNING  # by the run itself
            elif ended_badly and FAILED not in states:
                at_work.state, at_work.status = FAILED, self.run.status
                at_work.error = "without a log: see what ./run.sh said"
        if self.run.skip_train and name in TRAINING:
            for unit in found:
                unit.state = LEFT_OUT if unit.state == PENDING else unit.state
        return found

    def _unit(self, unit: Unit) -> UnitStatus:
        progress = self.progress[unit.key]
        log, keys = self.jobs.get(unit.key, (None, ()))
        state = self.state_of_log[log.path] if log and log.status is None else GONE
        path = log.path if log else None
        if progress == DONE:
            return UnitStatus(unit.stage, unit.name, DONE, path)
        if isinstance(progress, Exception):
            if isinstance(progress, LorsError):
                error = f"{progress.what}: {progress.where}"
            else:
                error = str(progress)
            return UnitStatus(unit.stage, unit.name, FAILED, path, None, error)
        # Of a job with several units, those that are not begun wait for their turn.
        begun = progress == STARTED or len(keys) == 1
        if state != GONE:
            return UnitStatus(unit.stage, unit.name, state if begun else PENDING, path)
        will_be_done = unit.stage in self.to_come
        if will_be_done and not (log and log.changed >= self.run.began):
            return UnitStatus(unit.stage, unit.name, PENDING, path)
        if log and log.has_failed and (begun or self._fails_before_any(keys)):
            error = error_in(log.path)
            return UnitStatus(unit.stage, unit.name, FAILED, path, log.status, error)
        return UnitStatus(
            unit.stage, unit.name, INTERRUPTED if progress == STARTED else PENDING, path
        )

    def _fails_before_any(self, keys: Sequence[str]) -> bool:
        """Whether a job failed before it began what it had left: then all of that has failed."""
        return not any(self.progress.get(key) == STARTED for key in keys)
