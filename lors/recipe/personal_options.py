"""Options of ``pqm.sh``: adaptation of a quantised model to speakers."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal

from lors.config import load_config, read_yaml
from lors.data.speaker_split import read_partition
from lors.recipe.expdir import PERSONAL
from lors.recipe.script_options import (
    Count,
    Lists,
    ScriptOptions,
    SplitName,
    TaskName,
    check_all,
    words_of,
)


@dataclass(frozen=True)
class PqmOptions(ScriptOptions):
    """Options of ``pqm.sh``."""

    skip_train: bool
    tasks: tuple[TaskName, ...]
    splits: tuple[SplitName, ...]
    device: Literal["cpu", "cuda"]
    num_speakers: Count
    test_speakers: tuple[str, ...]
    partition: str
    own_splits: bool
    adapt_utterances: Count
    speaker_dev: Count
    least_test: Count
    double: bool
    base_model: str
    window: str
    base_window: str
    st_language: str
    sat_config: str
    train_config: str
    inference_config: str
    speakerdir: str

    def lists(self, stages: Collection[str]) -> Lists:
        checks: list[Callable[[], Any]] = [lambda: self.check_family(self.langs, "base" in stages)]
        if "speakers" in stages and self.partition:
            checks.append(lambda: read_partition(self.partition))
        if {"stats", "sat"}.intersection(stages):
            checks.append(lambda: read_yaml(self.sat_config))
        if "adapt" in stages:
            checks.append(lambda: read_yaml(self.train_config))
        if "inference" in stages:
            options, config = self.family.inference_options, self.completed("inference_config")
            checks.append(lambda: load_config(options, config))
        check_all(checks)
        completed = ("base_model", "inference_config")
        return {
            **{name: [self.completed(name)] for name in completed if self.completed(name)},
            "langs": self.langs,
            "tasks": self.tasks,
            "splits": self.splits,
            "data_opts": self.data_opts,
            "import_options": words_of(self.import_options(self.langs)),
            "speaker_options": self._speaker_options(),
            "quantise_options": ["--double"] if self.double else [],
            "systems": ["base", *PERSONAL],
        }

    def _speaker_options(self) -> list[str]:
        """Words of ``lors.bin.split_speakers``."""
        counts = {"adapt": self.adapt_utterances, "dev": self.speaker_dev}
        counts["least_test"] = self.least_test
        words = [word for name, count in counts.items() for word in (f"--{name}", str(count))]
        words += ["--own_splits"] if self.own_splits else []
        if self.partition:
            return [*words, "--partition", self.partition]
        if self.test_speakers:
            return [*words, "--speakers", *self.test_speakers]
        return [*words, "--number", str(self.num_speakers)]
