"""``EXPDIR/recipe.json``: what the latest run of a recipe makes, where it runs, how it ended."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lors.errors import LorsError, UsageError
from lors.fileio import read_json, write_json
from lors.recipe.liveness import Process

NAME = "recipe.json"
REFUSED = 2  # exit code of a command line that was not accepted


@dataclass(frozen=True)
class RunRecord:
    """A run of a recipe. Paths are as they were typed, from the recipe's `directory`.

    Attributes:
        command: the command line, as it can be typed again.
        directory: the recipe's directory.
        host, pid, slurm_job: the run's process; no Slurm job is an empty one.
        began: when it began, in seconds since the epoch.
        stage: the stage that it is at, or where it ended.
        stop_stage: the last stage that it will do.
        skip_train: it leaves out the stages that train.
        status: its exit code; None as long as it runs.
        expdir, data, dump: experiment, data directories of stage 1 and of stage 2.
        langs, tasks, methods, systems: what is compared.
        train_base: it trains the base model, on `base_langs`.
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
    train_base: bool
    base_langs: tuple[str, ...]

    def process(self, last_sign: float) -> Process:
        return Process(self.host, self.pid, self.slurm_job, self.began, last_sign)

    def is_same_run(self, other: RunRecord) -> bool:
        return (self.host, self.pid) == (other.host, other.pid)


def path_of(expdir: str | os.PathLike) -> Path:
    return Path(expdir) / NAME


def read_run(expdir: str | os.PathLike) -> RunRecord:
    """The latest run of an experiment.

    Raises:
        UsageError: there is no such directory, or no run of a recipe has written to it, or what it
            wrote cannot be read.
    """
    expdir = Path(expdir)
    hint = "call it in a recipe's directory, with the --expdir of ./run.sh"
    if not expdir.is_dir():
        raise UsageError("no such experiment directory", where=expdir, hint=hint)
    path = path_of(expdir)
    if not path.exists():
        raise UsageError(
            "no run of a recipe is recorded here",
            where=expdir,
            expected=NAME,
            hint=f"{hint}; a run of an older version records itself when it is called again",
        )
    try:
        return _parse(read_json(path))
    except LorsError as error:
        raise UsageError(
            "the record of the latest run cannot be read",
            where=path,
            got=error.got,
            hint="call ./run.sh again, which writes it anew",
        ) from None


def _parse(content: Any) -> RunRecord:
    """A record from its JSON; LorsError says what is wrong with it."""
    if not isinstance(content, dict):
        raise LorsError("not a record", got=type(content).__name__)
    values, wrong = {}, []
    for field in dataclasses.fields(RunRecord):
        kind = field.type.partition("[")[0].partition(" |")[0]
        value = content.get(field.name)
        good = {
            "str": isinstance(value, str),
            "int": isinstance(value, int) or (value is None and "None" in field.type),
            "float": isinstance(value, (int, float)),
            "bool": isinstance(value, bool),
            "tuple": isinstance(value, list) and all(isinstance(word, str) for word in value),
        }
        if not good[kind]:
            wrong.append(f"{field.name}: {value!r}")
        values[field.name] = tuple(value) if isinstance(value, list) else value
    if wrong:
        raise LorsError("not a record", got=", ".join(wrong))
    return RunRecord(**values)


def begin_stage(record: RunRecord) -> None:
    """Record that a run begins the stage `record.stage`; the time when the run began is kept."""
    earlier = _earlier(record)
    if earlier is not None:
        record = dataclasses.replace(record, began=earlier.began)
    write_json(path_of(record.expdir), dataclasses.asdict(record))


def end_run(record: RunRecord) -> None:
    """Record how a run ended, if it is still the latest one.

    Of a first run that was refused for its options, nothing is left behind.
    """
    earlier = _earlier(record)
    if earlier is None:
        return
    path = path_of(record.expdir)
    if record.status == REFUSED and [p.name for p in path.parent.iterdir()] == [NAME]:
        path.unlink()
        path.parent.rmdir()
        return
    ended = dataclasses.replace(earlier, status=record.status)
    write_json(path, dataclasses.asdict(ended))


def _earlier(record: RunRecord) -> RunRecord | None:
    """What this very run has recorded before."""
    try:
        earlier = read_run(record.expdir)
    except UsageError:
        return None
    return earlier if earlier.status is None and earlier.is_same_run(record) else None
