"""Commands, versions, seeds and settings behind the scores, from the records of the experiment."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lors.config import read_yaml
from lors.done_marker import recorded_inputs
from lors.errors import LorsError
from lors.page.tables import Cell, Table
from lors.recipe.commands import History, read_history
from lors.recipe.expdir import TRAININGS
from lors.recipe.sweeps import format_params

VOCABULARY = "token_list"
"""Key of a training configuration that is left out: it is long, and lies in ``config.yaml``."""


@dataclass(frozen=True)
class Record:
    """A text of settings.

    Attributes:
        name: what it is about.
        text: the text.
    """

    name: str
    text: str


@dataclass(frozen=True)
class Provenance:
    """How an experiment was made.

    Attributes:
        commands: what each command did, and the command.
        stages: table of what the stages took; without rows if there is no ``stages.tsv``.
        evaluated: table of the models of ``lors.bin.evaluate``; without rows if it has no part.
        merges: table of the merged models; without rows if there is no ``merge.yaml``.
        merge_records: their ``merge.yaml``.
        trainings: table of the trained models; without rows if there is no done marker.
        training_records: each different configuration of training.
        sources: the files that were read.
    """

    commands: Sequence[tuple[str, str]]
    stages: Table
    evaluated: Table
    merges: Table
    merge_records: Sequence[Record]
    trainings: Table
    training_records: Sequence[Record]
    sources: Sequence[Path]


def read_provenance(expdirs: Sequence[str]) -> Provenance:
    """Read all records of some experiment directories.

    Raises:
        LorsError: a record is malformed.
    """
    roots = [Path(d) for d in expdirs]
    histories = {expdir: read_history(expdir) for expdir in expdirs}
    commands = [command for history in histories.values() for command in history.commands]
    records = [path for root in roots for path in sorted(root.glob("merged/*/merge.yaml"))]
    markers = [
        path for root in roots for pattern in TRAININGS for path in sorted(root.glob(pattern))
    ]
    tables = _stages(histories), _evaluated(histories)
    merges, trainings = _merges(records), _trainings(markers)
    return Provenance(commands, *tables, *merges, *trainings, [*records, *markers])


def _stages(histories: Mapping[str, History]) -> Table:
    """Return the seconds of each stage on each machine."""
    seconds: dict[tuple[str, ...], list[int]] = {}
    for expdir, history in histories.items():
        for run in history.stages:
            place = (expdir, run.title, run.processor, str(run.cores))
            seconds.setdefault(place, []).append(run.seconds)
    rows = [
        [*map(Cell, (*place, str(len(of)), str(sum(of))))]
        for place, of in sorted(seconds.items(), key=lambda row: _in_order(row[0], histories))
    ]
    header = ["experiment", "stage", "processor", "cores", "calls", "seconds"]
    below = ["Seconds: wall clock time of all calls together, without stages that did not end."]
    return Table("Stages", header, rows, 3, (), below if rows else ())


def _in_order(place: tuple[str, ...], histories: Mapping[str, History]) -> tuple[int, int]:
    """Return the place of an experiment, and the number of a stage."""
    expdir, title, *_ = place
    return [*histories].index(expdir), int(title.split()[0])


def _evaluated(histories: Mapping[str, History]) -> Table:
    rows = dict.fromkeys(
        (expdir, *of)
        for expdir, history in histories.items()
        for call in history.evaluations
        for of in call.models.items()
    )
    cells = [[*map(Cell, row)] for row in rows]
    return Table("Evaluated models", ["experiment", "system", "model"], cells, 3)


def _merges(paths: Sequence[Path]) -> tuple[Table, list[Record]]:
    rows, records = [], []
    for path in paths:
        content = read_yaml(path)
        plan = content.get("plan")
        if not isinstance(plan, dict):  # the merge is not finished
            continue
        weights = plan.get("weights") or []
        given = any(weight != 1 for weight in weights)
        cells = (
            str(path.parent),
            str(plan.get("method", "")),
            format_params(plan.get("params") or {}),
            " ".join(f"{weight:g}" for weight in weights) if given else "1",
            str(plan.get("policy", "")),
            str(plan.get("seed", "")),
            str(content.get("lors_version", "")),
        )
        rows.append([*map(Cell, cells)])
        records.append(Record(str(path), path.read_text(encoding="utf-8").rstrip("\n")))
    header = ["model", "method", "parameters", "weights", "policy", "seed", "LoRS"]
    below = [
        "Make a model again: python -m lors.bin.merge --config <model>/merge.yaml --out <file>"
    ]
    return Table("Merged models", header, rows, 5, (), below if rows else ()), records


def _trainings(markers: Sequence[Path]) -> tuple[Table, list[Record]]:
    rows, masks = [], []
    settings: dict[str, list[str]] = {}
    for path in markers:
        inputs = recorded_inputs(path)
        config = inputs.get("config")
        if not isinstance(config, dict):
            raise LorsError("no training configuration", where=path, got=[*inputs])
        own = {key: value for key, value in config.items() if key not in (VOCABULARY, "seed")}
        text = json.dumps(own, indent=1, ensure_ascii=False)
        models = settings.setdefault(text, [])
        models.append(str(path.parent))
        number = list(settings).index(text) + 1
        pairs, base = inputs.get("pairs") or [], inputs.get("base") or []
        cells = (
            str(path.parent),
            " ".join(map(str, pairs)),
            _fact(config, "seed"),
            _fact(config, "max_epoch"),
            _fact(config.get("optim_conf"), "lr"),
            f"settings {number}",
            " ".join(str(digest)[:16] for digest in base),
        )
        rows.append([*map(Cell, cells)])
        masks.append(str(inputs.get("masks") or "")[:16])
    header = ["model", "pairs", "seed", "epochs", "learning rate", "configuration", "trained from"]
    if any(masks):
        header.append("masks")
        rows = [[*row, Cell(digest)] for row, digest in zip(rows, masks, strict=True)]
    below = [
        f"{' and '.join(header[6:]).capitalize()}: start of the SHA-256 of the file. "
        "<model>/run.sh has the command."
    ]
    table = Table("Trained models", header, rows, 2, (), below if rows else ())
    records = [
        Record(f"Settings {number}: {', '.join(models)}", text)
        for number, (text, models) in enumerate(settings.items(), 1)
    ]
    return table, records


def _fact(config: Any, key: str) -> str:
    value = config.get(key) if isinstance(config, dict) else None
    return "n/a" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
