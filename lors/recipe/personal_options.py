"""Options of ``pqm.sh``: adaptation of a quantised model to speakers."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lors.config import load_config, read_yaml
from lors.data.speaker_split import PRETRAINING_FILE, read_partition
from lors.errors import LorsError, UsageError
from lors.models import FAMILIES
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
from lors.tasks import SPEAKERS_FILE, pairs_of

SPEAKERS = "SPEAKERS"
"""Stands for the codes of the test speakers until stage speakers has chosen them."""
OF_SPEAKERS = frozenset({"stats", "sat", "adapt", "inference", "score"})
"""Stages that need the choice of the speakers."""


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
        speakers, pretraining = self._speakers(stages)
        others, personal = (pairs_of(codes, self.tasks) for codes in (pretraining, speakers))
        checks: list[Callable[[], Any]] = [
            lambda: self.check_family(self.langs, "base" in stages),
            lambda: self.check_tasks(self.tasks),
            self._check_quantised,
        ]
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
        if OF_SPEAKERS.intersection(stages) and not (others and personal):
            raise UsageError(
                "nothing to train on: English speech is not translated into English",
                where="--langs and --tasks",
                got=f"pre-training: {' '.join(pretraining)}, test speakers: {' '.join(speakers)}",
            )
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
            "speakers": speakers,
            "others": [str(pair) for pair in others],
            "personal": [str(pair) for pair in personal],
        }

    def _check_quantised(self) -> None:
        if not self.family.quantised:
            known = [name for name, family in FAMILIES.items() if family.quantised]
            raise UsageError(
                "models of this family cannot be quantised",
                where="--model_family",
                expected=", ".join(known),
                got=self.model_family,
            )

    def _speakers(self, stages: Collection[str]) -> tuple[list[str], list[str]]:
        """Return the test speakers and the languages of the pre-training, as stage speakers chose.

        Before that stage, and in a dry run, one name stands for all test speakers.
        """
        files = [Path(self.speakerdir) / name for name in (SPEAKERS_FILE, PRETRAINING_FILE)]
        if not self.dry_run:
            if all(file.is_file() for file in files):
                speakers, pretraining = (file.read_text(encoding="utf-8").split() for file in files)
                return speakers, pretraining
            if "speakers" not in stages and OF_SPEAKERS.intersection(stages):
                raise LorsError(
                    "no speakers have been chosen",
                    where=self.speakerdir,
                    hint="run stage speakers, or give its --speakerdir",
                )
        return [SPEAKERS], list(self.langs)

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
