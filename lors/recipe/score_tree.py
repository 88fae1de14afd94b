"""All scores of one or more experiment directories, read and checked.

:mod:`lors.recipe.expdir` defines the places of the files and the systems. Several experiment
directories are repetitions of one experiment with different seeds.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lors.errors import LorsError, unknown_name
from lors.fileio import read_json
from lors.recipe.expdir import BASELINES, MERGED_OVER, PERSONAL, ExpDir, split_system
from lors.score import SCORERS, Score, normalised_performance
from lors.score.normalised import undefined_because
from lors.tasks import TASKS, Metric, Pair


@dataclass(frozen=True)
class ScoreTable:
    """All scores of a split.

    Attributes:
        split: ``test`` or ``dev``.
        expdirs: experiment directories, one for each seed.
        systems: names of the systems, in the order of the report.
        pairs: language-task pairs, sorted by name.
        scores: system -> pair -> one score for each expdir; None where it is missing.
    """

    split: str
    expdirs: tuple[str, ...]
    systems: tuple[str, ...]
    pairs: tuple[Pair, ...]
    scores: Mapping[str, Mapping[Pair, tuple[Score | None, ...]]]

    @property
    def tasks(self) -> list[str]:
        """The scored tasks, in the order of ``TASKS``."""
        present = {pair.task for pair in self.pairs}
        return [task for task in TASKS if task in present]

    def languages(self, task: str) -> list[str]:
        """Return the scored languages of a task, sorted."""
        return [pair.lang for pair in self.pairs if pair.task == task]

    def values(self, system: str, pair: Pair, metric: Metric) -> list[float]:
        """Return one value for each expdir that has the score."""
        return [score.value(metric) for score in self.found(system, pair)]

    def found(self, system: str, pair: Pair) -> list[Score]:
        """Return the scores of a pair, without missing ones."""
        return [score for score in self.scores[system][pair] if score is not None]

    def complete_runs(self, system: str, tasks: Collection[str]) -> list[int]:
        """Return the indices of the expdirs that have all scores of a system for some tasks."""
        pairs = [pair for pair in self.pairs if pair.task in tasks]
        of_system = self.scores[system]
        return [
            index
            for index in range(len(self.expdirs))
            if all(of_system[pair][index] is not None for pair in pairs)
        ]

    def is_complete(self, system: str, task: str) -> bool:
        """Return whether every expdir has all scores of a system for a task."""
        return len(self.complete_runs(system, [task])) == len(self.expdirs)

    def files(self) -> list[Path]:
        """Return the score files that are there."""
        return [
            ExpDir(expdir).score(self.split, system, pair)
            for index, expdir in enumerate(self.expdirs)
            for system in self.systems
            for pair in self.pairs
            if self.scores[system][pair][index] is not None
        ]

    def missing(self) -> list[str]:
        """Return a line for the systems that lack the same scores in an expdir."""
        lines = []
        for index, expdir in enumerate(self.expdirs):
            lacking: dict[tuple[Pair, ...], list[str]] = {}
            for system in self.systems:
                gaps = tuple(p for p in self.pairs if self.scores[system][p][index] is None)
                lacking.setdefault(gaps, []).append(system)
            for gaps, systems in lacking.items():
                of = "" if gaps == self.pairs else f" for {', '.join(map(str, gaps))}"
                if gaps:
                    lines.append(f"{expdir} has no scores of {', '.join(systems)}{of}.")
        return lines

    def averages(self, system: str, task: str, metric: Metric) -> list[float]:
        """Return the mean over the languages of a task, one value for each expdir with all."""
        runs = [
            [score.value(metric) for score in self.scores_in(system, index, [task]).values()]
            for index in self.complete_runs(system, [task])
        ]
        return [sum(values) / len(values) for values in runs]

    def scores_in(self, system: str, index: int, tasks: Iterable[str]) -> dict[Pair, Score]:
        """Return pair -> score of a system in the expdir with this index, for some tasks.

        Missing scores are left out.
        """
        tasks = set(tasks)
        of_system = self.scores[system]
        found = {pair: of_system[pair][index] for pair in self.pairs if pair.task in tasks}
        return {pair: score for pair, score in found.items() if score is not None}

    def example(self, pair: Pair) -> Score:
        """Return one of the scores of a pair, for the settings that all its scores share."""
        return next(score for system in self.systems for score in self.found(system, pair))

    @property
    def can_normalise(self) -> bool:
        """Whether there are scores of base and expert, which normalised performance needs."""
        return {"base", "expert"} <= set(self.systems)

    def normalised(self, system: str, tasks: Sequence[str]) -> list[float]:
        """Return normalised performance over the pairs of `tasks`, for each expdir with all scores.

        Expdirs where it is undefined (:meth:`undefined`) are left out.
        """
        undefined = self.undefined(tasks)
        return [
            normalised_performance(
                *(self.scores_in(name, index, tasks) for name in (system, "base", "expert"))
            )
            for index in self._runs_with_ends(system, tasks)
            if index not in undefined
        ]

    def is_undefined(self, system: str, tasks: Sequence[str]) -> bool:
        """Whether a system has the scores for normalised performance only where it is undefined."""
        runs = self._runs_with_ends(system, tasks)
        return bool(runs) and self.undefined(tasks).keys() >= set(runs)

    def undefined(self, tasks: Sequence[str]) -> dict[int, str]:
        """Return index of an expdir -> why normalised performance over `tasks` is undefined."""
        reasons = {}
        for index in self._runs_with_ends("base", tasks):
            base, expert = (self.scores_in(name, index, tasks) for name in ("base", "expert"))
            if reason := undefined_because(base, expert):
                reasons[index] = reason
        return reasons

    def _runs_with_ends(self, system: str, tasks: Sequence[str]) -> list[int]:
        """Return the indices of the expdirs with all scores of a system, base and experts."""
        complete = (set(self.complete_runs(s, tasks)) for s in (system, "base", "expert"))
        return sorted(set.intersection(*complete))


def system_order(system: str) -> tuple:
    """Sort key: baselines in their order, other systems, then merges by method with lors last."""
    method, merged_over = split_system(system)
    if not merged_over:
        known = (*BASELINES, *PERSONAL)
        place = known.index(system) if system in known else len(known)
        return (0, place, system)
    merges = list(MERGED_OVER)
    place = merges.index(merged_over) if merged_over in merges else len(merges)
    return (1, method == "lors", method, place, merged_over)


def read_scores(
    expdirs: Sequence[str | os.PathLike],
    split: str = "test",
    partial: bool = False,
    systems: Collection[str] | None = None,
    tasks: Collection[str] | None = None,
) -> ScoreTable:
    """Read the scores of `expdirs`: all, or those of some systems or tasks.

    All experiment directories must have the same systems and the same language-task pairs, and
    every system must have a score for every pair, unless `partial` is set.

    Raises:
        LorsError: an experiment directory without scores; missing or malformed score files (all of
            them are listed); scores of one pair from different test sets or with different
            settings.
        UsageError: one of `systems` has no scores.
    """
    if len({Path(d).resolve() for d in expdirs}) < len(expdirs):
        raise LorsError("an experiment directory is given twice", got=[*expdirs])
    roots = [Path(d) / "scores" / split for d in expdirs]
    found = _files_in(roots)
    names = {path.parent.name for path in found}
    if systems is not None:
        if unknown := [name for name in systems if name not in names]:
            raise unknown_name("system", unknown, sorted(names), where=", ".join(map(str, roots)))
        names = set(systems)
        found = {path for path in found if path.parent.name in names}
    systems = sorted(names, key=system_order)
    pairs = [pair for pair in _pairs(found) if tasks is None or pair.task in tasks]
    files = {
        (system, pair): [ExpDir(d).score(split, system, pair) for d in expdirs]
        for system in systems
        for pair in pairs
    }
    missing = [path for paths in files.values() for path in paths if path not in found]
    if missing and not partial:
        raise LorsError(
            "score files are missing",
            expected=f"<lang>_<task>.json of the pairs {', '.join(map(str, pairs))} for each "
            f"system ({', '.join(systems)}) in every experiment directory",
            got=missing,
            hint="finish the inference and scoring stages; python -m lors.bin.results without "
            "--systems reports what is there",
        )
    scores = read_score_files(
        [(path, pair) for (_, pair), paths in files.items() for path in paths if path in found]
    )
    check_comparable(scores)
    table = {
        system: {pair: tuple(map(scores.get, files[system, pair])) for pair in pairs}
        for system in systems
    }
    return ScoreTable(split, tuple(map(str, expdirs)), tuple(systems), tuple(pairs), table)


def _files_in(roots: Sequence[Path]) -> set[Path]:
    """Return the score files in some directories, each of which must have one."""
    found = {root: [*root.glob("*/*.json")] for root in roots}
    if empty := [root for root, paths in found.items() if not paths]:
        raise LorsError(
            "no scores found",
            where=", ".join(map(str, empty)),
            expected="<system>/<lang>_<task>.json",
            hint="check the name of the directory, or finish the inference and scoring stages",
        )
    return {path for paths in found.values() for path in paths}


def _pairs(files: Iterable[Path]) -> list[Pair]:
    """Return the pairs that the names of score files give, sorted by name."""
    pairs, problems = set(), []
    for path in sorted(files):
        try:
            pairs.add(Pair.parse(path.stem))
        except LorsError:
            problems.append(path)
    if problems:
        raise LorsError(
            "not names of score files",
            expected="<lang>_<task>.json",
            got=problems,
            hint="remove these files, or give them such a name",
        )
    return sorted(pairs, key=str)


def read_score_files(files: Sequence[tuple[Path, Pair]]) -> dict[Path, Score]:
    """Read score files.

    Raises:
        LorsError: files are missing or malformed; all problems are listed.
    """
    scores: dict[Path, Score] = {}
    problems = []
    for path, pair in files:
        result = SCORERS[pair.task].result
        content = read_json(path)
        wrong = result.problems(content)
        problems += [f"{path}: {problem}" for problem in wrong]
        if not wrong:
            scores[path] = result.from_json(content)
    if problems:
        raise LorsError("malformed score files", got=problems, hint="score these systems again")
    return scores


def check_comparable(scores: Mapping[Path, Score]) -> None:
    """Check that scores of a pair have one test set in an expdir, and the same settings in all.

    Raises:
        LorsError: they have not; all problems are listed.
    """
    problems = []
    first: dict[Any, tuple[Path, Mapping[str, Any]]] = {}
    for path, score in scores.items():
        same_test_set = (path.parents[1], path.name)
        same_settings = path.name
        for group, facts in ((same_test_set, score.sizes), (same_settings, score.settings)):
            other, expected = first.setdefault(group, (path, facts))
            if facts != expected:
                problems.append(f"{path}: {facts}, but {other}: {expected}")
    if problems:
        raise LorsError(
            "score files that cannot be reported together",
            got=problems,
            hint="score these systems again, all on the same test set",
        )
