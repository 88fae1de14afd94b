"""Commands behind the results of an experiment, and what its stages took.

``stages.tsv`` has a line for each stage that ended, by ``utils/stages.sh``: a recipe is often
called several times, and ``recipe.json`` has the latest call only. ``evaluate.json`` has the calls
of ``lors.bin.evaluate``.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lors.config import build
from lors.errors import LorsError, UsageError
from lors.fileio import locked, read_json_object, write_json
from lors.recipe.run_record import RunRecord, read_run, record_path

log = logging.getLogger(__name__)

STAGES_FILE = "stages.tsv"
EVALUATIONS_FILE = "evaluate.json"
REPORTING = "score"
"""The stage that writes the reports."""
MOST_BYTES = 1 << 24
"""Bytes of ``stages.tsv`` that are read: tens of thousands of stages."""
# Earlier versions wrote the processor once for each core, with line ends between.
_STAGE = re.compile(
    r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\t(\d{1,5} \((\w{1,100})\))\t"
    r"(\d{1,9})\t(\d{1,9})\t([^\t]*)\t([^\t\n]+)\n",
    re.M,
)


@dataclass(frozen=True)
class StageRun:
    """A stage that ended.

    Attributes:
        title: its number and name, ``7 (tune)``.
        name: its name.
        seconds: wall clock time.
        cores: cores of the machine.
        processor: name of the processor.
        command: the recipe's command.
    """

    title: str
    name: str
    seconds: int
    cores: int
    processor: str
    command: str


@dataclass(frozen=True)
class Evaluation:
    """A call of ``lors.bin.evaluate``.

    Attributes:
        command: the command, as it can be typed again.
        models: system -> model directory, as it was typed.
    """

    command: str
    models: dict[str, str]


@dataclass(frozen=True)
class Evaluations:
    """The calls of ``lors.bin.evaluate`` with one directory, in their order."""

    calls: list[Evaluation]


@dataclass(frozen=True)
class History:
    """All that was called for an experiment.

    Attributes:
        commands: what a command did, and the command.
        stages: the stages that ended.
        evaluations: the calls of ``lors.bin.evaluate``.
    """

    commands: Sequence[tuple[str, str]]
    stages: Sequence[StageRun]
    evaluations: Sequence[Evaluation]


def noted_commands(
    expdirs: Sequence[str | os.PathLike], command: str | None = None
) -> list[tuple[str, str]]:
    """Return what each command behind a report did, and the command.

    Args:
        expdirs: experiment directories.
        command: the command that makes the report, if it is to be listed.

    Raises:
        LorsError: the record of evaluations is malformed.
    """
    noted = [of for expdir in expdirs for of in read_history(expdir).commands]
    is_new = command and command not in [line for _, line in noted]
    return [*noted, ("", command)] if command and is_new else noted


def read_history(expdir: str | os.PathLike) -> History:
    """Read what was called for an experiment.

    Without ``stages.tsv`` the command is that of the latest run in ``recipe.json``.

    Raises:
        LorsError: the record of evaluations is malformed.
    """
    runs, evaluations = read_stages(expdir), read_evaluations(expdir)
    stages: dict[str, list[str]] = {}
    for run in runs:
        stages.setdefault(run.command, []).append(run.name)
    latest = _latest_run(expdir)
    if latest and latest.status is None and latest.stage == REPORTING:  # the stage has not ended
        stages.setdefault(latest.command, []).append(REPORTING)
    commands = []
    for line, names in stages.items():
        different = list(dict.fromkeys(names))
        word = "stage" if len(different) == 1 else "stages"
        commands.append((f"{expdir}, {word} {', '.join(different)}", line))
    if latest and not stages:
        commands.append((f"{expdir}, latest run", latest.command))
    for call in evaluations:
        commands.append((f"{expdir}, systems {', '.join(call.models)}", call.command))
    return History(commands, runs, evaluations)


def read_stages(expdir: str | os.PathLike) -> list[StageRun]:
    """Read the stages that ended, in their order; a warning has the number of malformed lines."""
    path = Path(expdir) / STAGES_FILE
    if not path.exists():
        return []
    with path.open("rb") as file:
        text = file.read(MOST_BYTES).decode("utf-8", errors="replace").replace("\r\n", "\n")
        has_more = file.read(1) != b""
    found = [
        StageRun(title, name, int(seconds), int(cores), processor.partition("\n")[0], command)
        for title, name, seconds, cores, processor, command in _STAGE.findall(text)
    ]
    if left_out := [line for line in _STAGE.sub("", text).split("\n") if line.strip()]:
        log.warning("%s: left out %d lines that name no stage and command", path, len(left_out))
    if has_more:
        log.warning("%s: left out all after %d bytes", path, MOST_BYTES)
    return found


def _latest_run(expdir: str | os.PathLike) -> RunRecord | None:
    if not record_path(expdir).exists():
        return None
    try:
        return read_run(expdir)
    except UsageError as error:
        log.warning("%s", error)
        return None


def read_evaluations(expdir: str | os.PathLike) -> list[Evaluation]:
    """Read the calls of ``lors.bin.evaluate``; none without a record.

    Raises:
        LorsError: the record is malformed.
    """
    path = Path(expdir) / EVALUATIONS_FILE
    if not path.exists():
        return []
    try:
        return build(Evaluations, read_json_object(path), path).calls
    except LorsError as error:
        raise LorsError(
            "not a record of evaluations",
            where=path,
            got=error.got,
            hint="remove it and call python -m lors.bin.evaluate again, which skips finished files",
        ) from None


def record_evaluation(out: str | os.PathLike, command: str, models: Mapping[str, str]) -> None:
    """Add a call of ``lors.bin.evaluate`` to the record in its directory, unless it is there.

    Raises:
        LorsError: the record is malformed, or another process holds its lock.
    """
    path, call = Path(out) / EVALUATIONS_FILE, Evaluation(command, dict(models))
    with locked(path.with_name(f".{path.name}.lock")):
        calls = read_evaluations(out)
        if call not in calls:
            write_json(path, dataclasses.asdict(Evaluations([*calls, call])))
