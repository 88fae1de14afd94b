"""The score tree of one or more experiment directories, read and checked.

Where the files are, and what a system is, says :mod:`lors.recipe.expdir`. Several experiment
directories are repetitions of one experiment with different seeds.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lors.errors import LorsError
from lors.fileio import read_json
from lors.recipe.expdir import SCOPES, ExpDir
from lors.score.normalised import normalised_performance
from lors.tasks import TASKS, Pair

BASELINES = ("base", "expert", "joint", "sequential")

# What has to agree between all scores of a pair, or they cannot stand in one column.
SETTINGS = {
    "asr": ("normaliser", "unit", "openai_whisper_version", "jiwer_version"),
    "st": ("bleu_signature", "chrf_signature"),
}
SIZES = {"asr": ("utterances", "empty_refs", "ref_words"), "st": ("utterances", "empty_refs")}


@dataclass(frozen=True)
class ScoreTable:
    """All scores of a split.

    Attributes:
        split: ``test`` or ``dev``.
        expdirs: the experiment directories, one a seed.
        systems: in the order of the report.
        pairs: language-task pairs (``de_asr``), sorted.
        scores: system -> pair -> the score files' contents, one an expdir.
    """

    split: str
    expdirs: tuple[str, ...]
    systems: tuple[str, ...]
    pairs: tuple[str, ...]
    scores: dict[str, dict[str, tuple[dict[str, Any], ...]]]

    @property
    def tasks(self) -> list[str]:
        """The tasks scored, in the order of ``TASKS``."""
        present = {Pair.parse(pair).task for pair in self.pairs}
        return [task for task in TASKS if task in present]

    def languages(self, task: str) -> list[str]:
        """The languages scored in `task`, sorted."""
        return [pair.lang for pair in map(Pair.parse, self.pairs) if pair.task == task]

    def values(self, system: str, pair: str, key: str) -> list[float]:
        """One value for each expdir."""
        return [score[key] for score in self.scores[system][pair]]

    def averages(self, system: str, task: str, key: str) -> list[float]:
        """Mean over the languages of `task`, one value for each expdir."""
        columns = [self.values(system, f"{lang}_{task}", key) for lang in self.languages(task)]
        return [sum(row) / len(row) for row in zip(*columns, strict=True)]

    def run(self, system: str, index: int, tasks: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Pair -> score of one system in expdir number `index`, for the pairs of `tasks`."""
        of_system = self.scores[system]
        return {p: of_system[p][index] for p in self.pairs if Pair.parse(p).task in set(tasks)}

    @property
    def can_normalise(self) -> bool:
        """Whether base and expert are there, which normalised performance is relative to."""
        return {"base", "expert"} <= set(self.systems)

    def normalised(self, system: str, tasks: Sequence[str]) -> list[float]:
        """Normalised performance over the pairs of `tasks`, one value for each expdir.

        Raises:
            LorsError: it is undefined in one of them (:func:`normalised_performance`).
        """
        values = []
        for i, expdir in enumerate(self.expdirs):
            runs = (self.run(s, i, tasks) for s in (system, "base", "expert"))
            try:
                values.append(normalised_performance(*runs))
            except LorsError as error:
                where = f"{expdir}, {self.split}, system {system}"
                raise LorsError(
                    error.what, where=where, expected=error.expected, got=error.got
                ) from error
        return values


def system_order(system: str) -> tuple:
    """Sort key: baselines in their order, other ones, then merges by method with lors last."""
    method, dot, scope = system.partition(".")
    if not dot:
        rank = BASELINES.index(system) if system in BASELINES else len(BASELINES)
        return (0, rank, system)
    return (1, method == "lors", method, SCOPES.index(scope) if scope in SCOPES else 9, scope)


def read_scores(expdirs: Sequence[str | os.PathLike], split: str = "test") -> ScoreTable:
    """Read the score trees of `expdirs`.

    Every system found in any of them must have a score for every language-task pair found in any
    of them, in all of them.

    Raises:
        LorsError: no scores; missing or malformed score files (all of them named); scores of one
            pair that come from different test sets or were computed differently.
    """
    if len({Path(d).resolve() for d in expdirs}) < len(expdirs):
        raise LorsError("an experiment directory is given twice", got=", ".join(map(str, expdirs)))
    roots = [Path(d) / "scores" / split for d in expdirs]
    found = {path for root in roots for path in root.glob("*/*.json")}
    if not found:
        where = ", ".join(map(str, roots))
        expected = "<system>/<lang>_<task>.json"
        raise LorsError("no scores found", where=where, expected=expected)
    systems = sorted({path.parent.name for path in found}, key=system_order)
    pairs = sorted({path.stem for path in found})
    problems = _name_problems(found)
    wanted = {}
    if not problems:
        wanted = {
            (s, p): [ExpDir(d).score(split, s, Pair.parse(p)) for d in expdirs]
            for s in systems
            for p in pairs
        }
    files = [path for paths in wanted.values() for path in paths]
    problems += [f"missing: {path}" for path in files if path not in found]
    if problems:
        raise LorsError(
            "the score tree is not complete",
            expected=f"<lang>_<task>.json of the pairs {', '.join(pairs)} for each system "
            f"({', '.join(systems)}) in every experiment directory",
            got="\n    " + "\n    ".join(problems),
            hint="finish the inference and scoring stages; or remove a system's folder altogether",
        )
    contents = {path: read_json(path) for path in files}
    scores = {s: {p: tuple(contents[f] for f in wanted[s, p]) for p in pairs} for s in systems}
    _check([(path, contents[path]) for path in files])
    return ScoreTable(split, tuple(map(str, expdirs)), tuple(systems), tuple(pairs), scores)


def _name_problems(found: Iterable[Path]) -> list[str]:
    problems = []
    for path in sorted(found):
        try:
            Pair.parse(path.stem)
        except LorsError:
            problems.append(f"{path}: name is not <lang>_<task>.json")
    return problems


def _check(files: Sequence[tuple[Path, Any]]) -> None:
    """Every score file has what its task needs, and scores of a pair can be compared."""
    problems = [
        f"{path}: {problem}" for path, score in files for problem in _malformed(path, score)
    ]
    if not problems:
        first_size: dict = {}
        first_setting: dict = {}
        for path, score in files:
            task = Pair.parse(path.stem).task
            # The same test set for all systems of a run; the same computation everywhere.
            size = {key: score[key] for key in SIZES[task]}
            run = (path.parents[1], path.stem)
            setting = {key: score[key] for key in SETTINGS[task]}
            for kept, key, value in ((first_size, run, size), (first_setting, path.stem, setting)):
                other, before = kept.setdefault(key, (path, value))
                if before != value:
                    problems.append(f"{path}: {value}, but {other}: {before}")
    if problems:
        raise LorsError(
            "score files that cannot be reported together",
            got="\n    " + "\n    ".join(problems),
            hint="score these systems again, all on the same test set",
        )


def _malformed(path: Path, score: Any) -> list[str]:
    if not isinstance(score, dict):
        return ["not a JSON object"]
    task = Pair.parse(path.stem).task
    numbers = [metric.key for metric in TASKS[task].metrics] + list(SIZES[task])
    problems = [f"'{key}' is not a number" for key in numbers if not is_number(score.get(key))]
    problems += [f"'{key}' is missing" for key in SETTINGS[task] if not score.get(key)]
    if score.get("task", task) != task:
        problems.append(f"is a score of task '{score['task']}'")
    return problems


def is_number(value: Any) -> bool:
    """Whether a value read from JSON is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
