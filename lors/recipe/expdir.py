"""The layout of an experiment directory: which file of it is where.

| path | content |
|---|---|
| ``recipe.json`` | the latest run: its options, where it runs and how it ended |
| ``log/`` | logs of the job arrays, one a job |
| ``base/`` | the base model |
| ``stats/`` | ESPnet's shape files |
| ``expert/<lang>_<task>/`` | an expert |
| ``joint/`` | the joint multi-lingual multi-task model |
| ``sequential/`` | the model trained on one pair after the other: links to its last step |
| ``sequential/<number>_<lang>_<task>/`` | the model after each step |
| ``tune/<method>.<scope>/sweep.json`` | the search for a merge's parameters on dev |
| ``merged/<method>.<scope>/`` | a merged model; scope ``asr``, ``st`` or ``asr_st`` |
| ``inference/<split>/<system>/<lang>_<task>`` | hypotheses, as Kaldi text |
| ``scores/<split>/<system>/<lang>_<task>.json`` | their scores |

A model directory holds ``model.pth`` and ``config.yaml``. A *system* is what a row of the results
shows: ``base``, ``expert`` (every pair by its own expert), ``joint``, ``sequential``,
``<method>.langs`` (a merge over languages for each task) or ``<method>.langs_tasks`` (one merge
over languages and tasks).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from lors.errors import UsageError
from lors.tasks import Pair

SCOPES = ("langs", "langs_tasks")


# The work of an array of jobs, in the order that all jobs and lors.recipe.status agree on.


def scopes_of(tasks: Iterable[str]) -> list[tuple[str, ...]]:
    """The sets of tasks to merge over; job k of the search on dev has the k-th.

    The widest merge takes as long as all others together, so it starts first.
    """
    tasks = sorted(set(tasks))
    single = [(task,) for task in tasks]
    return [tuple(tasks), *single] if len(tasks) > 1 else single


def inference_units(
    systems: Iterable[str], pairs: Sequence[Pair], job: int = 1, num_jobs: int = 1
) -> list[tuple[str, Pair]]:
    """What inference decodes: every pair by every system; job k of n has every n-th of them."""
    units = [(system, pair) for system in systems for pair in pairs]
    return units[job - 1 :: num_jobs]


def hypothesis_marker(hypothesis: Path) -> Path:
    """The done marker of a hypothesis file."""
    return hypothesis.with_name(f".{hypothesis.name}.done")


def sequential_steps(pairs: Iterable[Pair]) -> list[str]:
    """Names of the sequential baseline's steps, one pair after the other."""
    return [f"{number:02d}_{pair}" for number, pair in enumerate(pairs, 1)]


class ExpDir:
    """Paths inside one experiment directory."""

    def __init__(self, root: str | os.PathLike):
        self.root = Path(root)

    @property
    def base(self) -> Path:
        return self.root / "base"

    @property
    def log(self) -> Path:
        """Logs of the job arrays."""
        return self.root / "log"

    @property
    def joint(self) -> Path:
        return self.root / "joint"

    @property
    def sequential(self) -> Path:
        return self.root / "sequential"

    def expert(self, pair: Pair) -> Path:
        return self.root / "expert" / str(pair)

    def merged(self, method: str, scope: str) -> Path:
        return self.root / "merged" / f"{method}.{scope}"

    def sweep(self, method: str, scope: str) -> Path:
        return self.root / "tune" / f"{method}.{scope}" / "sweep.json"

    def hypothesis(self, split: str, system: str, pair: Pair) -> Path:
        return self.root / "inference" / split / system / str(pair)

    def score(self, split: str, system: str, pair: Pair) -> Path:
        return self.root / "scores" / split / system / f"{pair}.json"

    def model(self, system: str, pair: Pair, tasks: Sequence[str]) -> Path:
        """The model directory that decodes `pair` in `system`, when `tasks` are all tasks.

        Raises:
            UsageError: no such system.
        """
        if system == "expert":
            return self.expert(pair)
        if system in ("base", "joint", "sequential"):
            return self.root / system
        method, _, scope = system.rpartition(".")
        if not method or scope not in SCOPES:
            raise UsageError(
                "unknown system",
                expected="base, expert, joint, sequential, <method>.langs or <method>.langs_tasks",
                got=system,
            )
        return self.merged(method, pair.task if scope == "langs" else "_".join(sorted(tasks)))
