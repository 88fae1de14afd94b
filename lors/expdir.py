"""The layout of an experiment directory: which file of it is where.

| path | content |
|---|---|
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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lors.errors import UsageError

SCOPES = ("langs", "langs_tasks")


@dataclass(frozen=True)
class Pair:
    """A language (Common Voice code) and a task (``asr`` or ``st``)."""

    lang: str
    task: str

    @classmethod
    def parse(cls, name: str) -> Pair:
        """From ``de_asr``.

        Raises:
            UsageError: the name is not of that form.
        """
        lang, _, task = name.rpartition("_")
        if not lang or task not in ("asr", "st"):
            raise UsageError("not a language-task pair", expected="e.g. de_asr or de_st", got=name)
        return cls(lang, task)

    def __str__(self) -> str:
        return f"{self.lang}_{self.task}"


class ExpDir:
    """Paths inside one experiment directory."""

    def __init__(self, root: str | os.PathLike):
        self.root = Path(root)

    @property
    def base(self) -> Path:
        return self.root / "base"

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
