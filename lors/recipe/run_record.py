"""The record of a recipe's latest run, ``EXPDIR/recipe.json``: its options, process and end."""

from __future__ import annotations

import dataclasses
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lors.errors import LorsError, UsageError, shortened
from lors.fileio import BRIEF, read_json, write_json
from lors.recipe.liveness import RecordedProcess
from lors.recipe.names import problems_of

NAME = "recipe.json"
REFUSED = 2  # exit code for a wrong command line
LATEST = 1 << 40
"""Largest number in a record; as a time in seconds it is far in the future."""
MOST_TEST_SETS = 1_000_000


@dataclass(frozen=True)
class RunRecord:
    """A run of a recipe. Paths are as they were typed, relative to `directory`.

    Attributes:
        command: the command line, as it can be typed again.
        directory: the recipe's directory.
        host, pid, slurm_job: its process; an empty job outside of Slurm.
        began: when it began, in seconds since the epoch.
        stage: name of its current stage, or of the stage where it ended.
        stop_stage: number of its last stage.
        skip_train: whether it skips the stages that train.
        status: its exit code; None while it runs.
        expdir, data, dump: experiment, data directories of stage 1 and of stage 2.
        langs, tasks, methods, systems: languages, tasks, merge methods, systems of the results.
        script: the recipe script (``lors``, ``s3net``, ``pqm``), which decides the stages.
        speakers: of ``pqm``: data directories of the speakers.
        environment: the variables that were set for the command, as a text to be typed before it:
            ``LORS_CMD_BACKEND=slurm `` with a space at its end, or empty.
    """

    command: str
    directory: str
    host: str
    pid: int
    slurm_job: str
    began: float
    stage: str
    stop_stage: int
    skip_train: bool
    status: int | None
    expdir: str
    data: str
    dump: str
    langs: tuple[str, ...]
    tasks: tuple[str, ...]
    methods: tuple[str, ...]
    systems: tuple[str, ...]
    script: str = "lors"
    speakers: str = ""
    environment: str = ""

    @property
    def typed(self) -> str:
        """The command with its environment, which goes on with the run in `directory`."""
        return self.environment + self.command

    def process(self, last_write: float) -> RecordedProcess:
        """Return the run's process; `last_write` is when the record was written."""
        return RecordedProcess(self.host, self.pid, self.slurm_job, self.began, last_write)

    def is_same_run(self, other: RunRecord) -> bool:
        return (self.host, self.pid) == (other.host, other.pid)


def record_path(expdir: str | os.PathLike) -> Path:
    return Path(expdir) / NAME


def read_run(expdir: str | os.PathLike) -> RunRecord:
    """Read the record of an experiment's latest run.

    Raises:
        UsageError: there is no such directory, or no record in it, or it cannot be read.
    """
    expdir = Path(expdir)
    hint = "call this in a recipe's directory, with the --expdir of ./run.sh"
    if not expdir.is_dir():
        raise UsageError("no such experiment directory", where=expdir, hint=hint)
    path = record_path(expdir)
    if not path.exists():
        raise UsageError(
            "no run of a recipe is recorded here",
            where=expdir,
            expected=NAME,
            hint=f"{hint}; after an update of LoRS call ./run.sh again",
        )
    try:
        return _parse(read_json(path))
    except LorsError as error:
        raise UsageError(
            "cannot read the record of the latest run",
            where=path,
            got=error.got,
            hint="call ./run.sh again: it writes a new record",
        ) from None


def _parse(content: Any) -> RunRecord:
    """Return the record in a JSON value; raise LorsError with all wrong fields."""
    if not isinstance(content, dict):
        raise LorsError("not a record", got=type(content).__name__)
    # Earlier versions have none of these.
    content = {"script": "lors", "speakers": "", "environment": "", **content}
    wrong = []
    for field in dataclasses.fields(RunRecord):
        if field.name not in content:
            wrong.append(f"{field.name}: missing")
        elif not _fits(str(field.type), content[field.name]):
            wrong.append(f"{field.name}: {BRIEF.repr(content[field.name])}")
    if not wrong:
        wrong = problems_of(content)
        test_sets = math.prod(len(content[name]) for name in ("systems", "langs", "tasks"))
        if test_sets > MOST_TEST_SETS:
            wrong.append(f"systems x langs x tasks: {test_sets}, expected {MOST_TEST_SETS} at most")
    if wrong:
        raise LorsError("not a record", got=shortened(wrong, len(dataclasses.fields(RunRecord))))
    values: dict[str, Any] = {}
    for field in dataclasses.fields(RunRecord):
        value = content[field.name]
        values[field.name] = tuple(value) if isinstance(value, list) else value
    return RunRecord(**values)


def _fits(annotation: str, value: Any) -> bool:
    """Return whether a value of JSON fits the type of a field of `RunRecord`."""
    if annotation == "bool":
        return isinstance(value, bool)
    if annotation == "str":
        return isinstance(value, str) and _is_text(value)
    if annotation.startswith("tuple"):
        return isinstance(value, list) and all(isinstance(v, str) and _is_text(v) for v in value)
    if value is None:
        return annotation.endswith("| None")
    kinds = (int, float) if annotation == "float" else (int,)
    return type(value) in kinds and abs(value) < LATEST  # false for NaN


def _is_text(value: str) -> bool:
    """Return whether a text can be printed, and be part of a path."""
    return "\0" not in value and not any("\ud800" <= character <= "\udfff" for character in value)


def begin_stage(record: RunRecord) -> None:
    """Record that a run begins the stage `record.stage`; keep the time when the run began."""
    earlier = _recorded(record)
    if earlier is not None:
        record = dataclasses.replace(record, began=earlier.began)
    write_json(record_path(record.expdir), dataclasses.asdict(record))


def end_run(record: RunRecord) -> None:
    """Record the exit code of a run, if it is the experiment's latest run.

    If the options of an experiment's first run were refused, its directory is removed.
    """
    earlier = _recorded(record)
    if earlier is None:
        return
    path = record_path(record.expdir)
    if record.status == REFUSED and [p.name for p in path.parent.iterdir()] == [NAME]:
        path.unlink()
        path.parent.rmdir()
        return
    ended = dataclasses.replace(earlier, status=record.status)
    write_json(path, dataclasses.asdict(ended))


def _recorded(record: RunRecord) -> RunRecord | None:
    """Return the earlier record of this run; None if there is none, or if the run has ended."""
    try:
        earlier = read_run(record.expdir)
    except UsageError:
        return None
    return earlier if earlier.status is None and earlier.is_same_run(record) else None
