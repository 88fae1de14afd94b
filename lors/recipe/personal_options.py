"""Options of ``pqm.sh``: adaptation of a quantised model to speakers."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any, Literal

from lors.config import load_config, read_yaml
from lors.data.speaker_split import SpeakerRule, check_split, chosen_speakers, read_partition
from lors.errors import LorsError, UsageError
from lors.models import FAMILIES
from lors.models.adapter_conf import check_alone
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
from lors.recipe.training_config import adapter_differences
from lors.recipe.training_options import read_training_options
from lors.tasks import pairs_of

SPEAKERS = "SPEAKERS"
"""Stands for the codes of the test speakers until stage speakers has chosen them."""
OF_SPEAKERS = frozenset({"stats", "sat", "adapt", "inference", "score"})
"""Stages that need the choice of the speakers."""
TEST_SPEAKERS = 2
"""Test speakers of each language, if neither their names nor their number is given."""


@dataclass(frozen=True)
class PqmOptions(ScriptOptions):
    """Options of ``pqm.sh``."""

    skip_train: bool
    tasks: tuple[TaskName, ...]
    splits: tuple[SplitName, ...]
    device: Literal["cpu", "cuda"]
    num_speakers: Count | None
    test_speakers: tuple[str, ...]
    partition: str
    own_splits: bool
    adapt_utterances: Count | None
    speaker_dev: Count | None
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
        checks: list[Callable[[], Any]] = [
            lambda: self.check_family(self.langs, "base" in stages),
            lambda: self.check_tasks(self.tasks),
            self._check_quantised,
        ]
        if {"speakers", *OF_SPEAKERS}.intersection(stages):
            checks += [self._check_numbers, self._check_choice]
        if {"stats", "sat"}.intersection(stages):
            checks.append(lambda: self._check_adapter("sat_config"))
        if "adapt" in stages:
            checks.append(lambda: self._check_adapter("train_config"))
        if "inference" in stages:
            options, config = self.family.inference_options, self.completed("inference_config")
            checks.append(lambda: load_config(options, config))
        check_all(checks)
        if {"sat", "adapt"} <= {*stages}:
            self._check_same_adapters()
        speakers, pretraining = self._speakers(stages)
        others, personal = (pairs_of(codes, self.tasks) for codes in (pretraining, speakers))
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

    def _check_choice(self) -> None:
        """Check the choice of the speakers, also against the one that stage speakers has made."""
        if self.num_speakers and (self.test_speakers or self.partition):
            raise UsageError(
                "a number of test speakers beside their names",
                where="--num_speakers",
                expected="no number beside --test_speakers or --partition",
                got=self.num_speakers,
                hint="leave --num_speakers out; if the recipe names the speakers, give "
                '--test_speakers "" or --partition "", or choose some of them by --test_speakers',
            )
        rule = SpeakerRule(
            speakers=self.test_speakers,
            adapt=self.adapt_utterances or SpeakerRule.adapt,
            dev=self.speaker_dev or SpeakerRule.dev,
            least_test=self.least_test,
            own_splits=self.own_splits,
            partition=read_partition(self.partition) if self.partition else {},
        )
        if not (self.test_speakers or self.partition):
            rule = replace(rule, number=self.num_speakers or TEST_SPEAKERS)
        if not self.dry_run:
            check_split(self.speakerdir, self.langs, rule)

    def _check_numbers(self) -> None:
        """Check that numbers of utterances are given only where they split the utterances."""
        numbers = {
            "--adapt_utterances": self.adapt_utterances,
            "--speaker_dev": self.speaker_dev,
        }
        given = {name: number for name, number in numbers.items() if number}
        if given and (self.own_splits or self.partition):
            raise UsageError(
                "numbers of utterances beside another way to split them",
                where=" and ".join(given),
                expected="neither beside --own_splits or --partition",
                got=[*given.values()],
                hint="leave them out; if the recipe has one of the other options, give "
                '--own_splits false or --partition ""',
            )

    def _check_adapter(self, option: str) -> None:
        config = getattr(self, option)
        check_alone(read_training_options(config), f"--{option} {config}")

    def _check_same_adapters(self) -> None:
        """Check that the training on a speaker can begin with the adapter of all speakers."""
        sat, own = read_yaml(self.sat_config), read_yaml(self.train_config)
        if differences := adapter_differences(sat, own):
            raise UsageError(
                "the adapters of the two configurations differ: a speaker's training begins with "
                "the adapter of all speakers",
                where=f"adapter_conf of {self.sat_config} and of {self.train_config}",
                expected="one rank, one alpha and the same target_modules",
                got=differences,
                hint="give both, --sat_config and --train_config",
            )

    def _speakers(self, stages: Collection[str]) -> tuple[list[str], list[str]]:
        """Return the test speakers and the languages of the pre-training, as stage speakers chose.

        Before that stage, and in a dry run, one name stands for all test speakers.
        """
        if not self.dry_run:
            if found := chosen_speakers(self.speakerdir):
                return found
            if "speakers" not in stages and OF_SPEAKERS.intersection(stages):
                raise LorsError(
                    "no speakers have been chosen",
                    where=self.speakerdir,
                    hint="run stage speakers, or give its --speakerdir",
                )
        return [SPEAKERS], list(self.langs)

    def _speaker_options(self) -> list[str]:
        """Words of ``lors.bin.split_speakers``."""
        counts = {"least_test": self.least_test}
        if not (self.own_splits or self.partition):
            adapt = self.adapt_utterances or SpeakerRule.adapt
            dev = self.speaker_dev or SpeakerRule.dev
            counts = {"adapt": adapt, "dev": dev, **counts}
        words = [word for name, count in counts.items() for word in (f"--{name}", str(count))]
        words += ["--own_splits"] if self.own_splits else []
        words += ["--partition", self.partition] if self.partition else []
        if self.test_speakers:
            return [*words, "--speakers", *self.test_speakers]
        number = str(self.num_speakers or TEST_SPEAKERS)
        return words if self.partition else [*words, "--number", number]
