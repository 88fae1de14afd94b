"""Options of the recipe scripts: what all of them share, and those of ``lors.sh``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from lors.config import LARGEST_COUNT, MOST_PROCESSES, SEED, Range, load_config
from lors.data.subset import hours_of
from lors.errors import LorsError, UsageError, unknown_name
from lors.export.upload import repo_called
from lors.models import FAMILIES
from lors.models.family import Family
from lors.recipe.expdir import (
    ONE_FOR_ALL,
    OVER_LANGS,
    OVER_LANGS_TASKS,
    packed_merges,
    scopes_of,
    searches_of,
)
from lors.recipe.grid import read_grid
from lors.recipe.option_text import group_languages
from lors.recipe.training_options import read_training_options
from lors.tasks import SPLITS, TASKS, pairs_of

Count = Annotated[int, Range(1, LARGEST_COUNT)]
Jobs = Annotated[int, Range(1, MOST_PROCESSES)]
"""A number of jobs at a time, or of nodes."""
Lists = Mapping[str, Sequence[str]]
"""Name of a variable of the script -> its words."""
if TYPE_CHECKING:
    FamilyName = str
    BaselineName = str
    TaskName = str
    SplitName = str
else:  # known only when the program runs
    FamilyName = Literal[tuple(FAMILIES)]
    BaselineName = Literal[ONE_FOR_ALL]
    TaskName = Literal[tuple(TASKS)]
    SplitName = Literal[tuple(SPLITS)]


@dataclass(frozen=True)
class ScriptOptions:
    """Options of every recipe script, under their names there."""

    stage: str
    stop_stage: str
    dry_run: bool
    submit: bool
    langs: tuple[str, ...]
    model_family: FamilyName
    seed: Annotated[int, SEED]
    dev_utterances: Count
    data_opts: tuple[str, ...]
    datadir: str
    dumpdir: str
    expdir: str
    nj: Jobs
    ngpu: Annotated[int, Range(0, MOST_PROCESSES)]
    num_nodes: Jobs

    def lists(self, stages: Collection[str]) -> Lists:
        """Check the options that `stages` need, and return the lists that the script reads.

        Raises:
            UsageError: a wrong option or configuration.
            LorsError: a configuration is missing.
        """
        raise NotImplementedError

    @property
    def family(self) -> type[Family]:
        return FAMILIES[self.model_family]

    def completed(self, name: str) -> str:
        """Return the value of an option; if it is empty, the default of the model family."""
        return getattr(self, name) or self.family.defaults[name]

    def import_options(self, langs: Sequence[str]) -> dict[str, str]:
        """Return the options of ``lors.bin.import_base`` that only this model family has."""
        names = [name for name in self.family.import_options if hasattr(self, name)]
        values = {**{name: getattr(self, name) for name in names}, "langs": " ".join(langs)}
        return {name: values[name] for name in names if values[name]}

    def check_family(self, langs: Sequence[str], imports_base: bool) -> None:
        """Check the options of the model family."""
        options = {**self.import_options(langs), "langs": " ".join(langs)}
        if imports_base:
            options["base_model"] = self.completed("base_model")
        self.family.check_options(options)

    def check_tasks(self, tasks: Sequence[str]) -> None:
        """Check that models of the family have the tasks."""
        if unknown := [task for task in tasks if task not in self.family.tasks]:
            raise unknown_name("task", unknown, self.family.tasks, "--tasks")


@dataclass(frozen=True)
class ComparisonOptions(ScriptOptions):
    """Options of the scripts that compare merges with trained models."""

    skip_train: bool
    group: str
    groups: str
    tasks: tuple[TaskName, ...]
    methods: tuple[str, ...]
    compare_to: str
    baselines: tuple[BaselineName, ...]
    train_hours: tuple[str, ...]
    train_subset: str
    device: Literal["cpu", "cuda"]
    base_model: str
    window: str
    base_window: str
    st_language: str
    train_config: str
    inference_config: str
    tune_config: str

    def lists(self, stages: Collection[str]) -> Lists:
        langs = group_languages(self.group, self.groups) if self.group else self.langs
        checks: list[Callable[[], Any]] = [
            lambda: self.check_family(langs, "base" in stages),
            lambda: self.check_tasks(self.tasks),
            lambda: hours_of(self.train_hours, langs),
        ]
        if {"stats", "experts", "baselines"}.intersection(stages):
            checks.append(lambda: read_training_options(self.completed("train_config")))
        if {"tune", "merge"}.intersection(stages):
            checks += [self._check_methods, lambda: self._check_scopes(langs)]
        if "tune" in stages:
            checks.append(self._check_search)
        if {"tune", "inference"}.intersection(stages):
            options, config = self.family.inference_options, self.completed("inference_config")
            checks.append(lambda: load_config(options, config))
        if "score" in stages:
            checks.append(self._check_comparison)
        check_all(checks)
        completed = ("base_model", "train_config", "inference_config")
        scopes = scopes_of(self.tasks)
        return {
            **{name: [self.completed(name)] for name in completed if self.completed(name)},
            "langs": langs,
            "tasks": self.tasks,
            "methods": self.methods,
            "baselines": self.baselines,
            "data_opts": self.data_opts,
            "import_options": words_of(self.import_options(langs)),
            "training_clips": self._training_clips(),
            "report_options": ["--compare_to", self.compare_to] if self.compare_to else [],
            "pairs": [str(pair) for pair in pairs_of(langs, self.tasks)],
            "scopes": scopes,
            "searches": [scope for scope, _ in searches_of(self.tasks, self.methods, self.nj)],
            "systems": self._systems(),
            "packed": packed_merges(self.tasks, self.methods),
        }

    def _check_search(self) -> None:
        grid = read_grid(self.tune_config, self.methods)
        if grid.inference:
            options = self.family.inference_options
            grid.options_from(self.completed("inference_config"), options)

    def _check_methods(self) -> None:
        if not self.methods:
            raise UsageError(
                "no merge method to search for or to merge with",
                where="--methods",
                hint="give one, or end before stage tune: --stop_stage baselines",
            )

    def _check_scopes(self, langs: Sequence[str]) -> None:
        """Check that each task has an expert to merge."""
        empty = [task for task in self.tasks if not pairs_of(langs, [task])]
        if not empty:
            return
        others = " ".join(task for task in self.tasks if task not in empty)
        raise UsageError(
            "no expert to merge for a task, because English is not translated into itself",
            where="--langs and --tasks",
            expected=f"another language than English for {' '.join(empty)}",
            got=f"--langs '{' '.join(langs)}' --tasks '{' '.join(self.tasks)}'",
            hint="add a language" + (f", or give --tasks {others}" if others else ""),
        )

    def _check_comparison(self) -> None:
        known = {*self.methods, *self._systems()}
        if self.compare_to and self.compare_to not in known:
            raise unknown_name("system", self.compare_to, known, "--compare_to")

    def _training_clips(self) -> list[str]:
        """Words of ``lors.bin.format_audio`` that choose the training clips."""
        if self.train_subset:
            return ["--train_subset", self.train_subset]
        return ["--train_hours", *self.train_hours] if self.train_hours else []

    def _systems(self) -> list[str]:
        """Rows of the results: no merge, merges over languages, merges over languages and tasks."""
        over = [OVER_LANGS, OVER_LANGS_TASKS] if len(self.tasks) > 1 else [OVER_LANGS]
        merges = [f"{method}.{merged_over}" for merged_over in over for method in self.methods]
        return ["base", "expert", *self.baselines, *merges]


@dataclass(frozen=True)
class LorsOptions(ComparisonOptions):
    """Options of ``lors.sh``."""

    upload_repo: str
    upload_opts: tuple[str, ...]

    def lists(self, stages: Collection[str]) -> Lists:
        if "upload" in stages and self.upload_repo:
            repo_called(self.upload_repo)
            self._check_upload()
        found = super().lists(stages)
        if "upload" in stages and self.upload_repo and not found["packed"]:
            raise self._nothing_to_upload()
        return {**found, "upload_opts": self.upload_opts}

    def _check_upload(self) -> None:
        if not self.family.uploadable:
            known = sorted(name for name, family in FAMILIES.items() if family.uploadable)
            raise UsageError(
                "models of this family cannot be uploaded: no other program loads them",
                where="--upload_repo",
                expected=f"--model_family {' or '.join(known)}",
                got=self.model_family,
                hint="leave --upload_repo out; stage pack makes a file of each model",
            )

    def _nothing_to_upload(self) -> UsageError:
        return UsageError(
            "no model to upload: stage upload takes those of LoRS alone",
            where="--upload_repo and --methods",
            expected="lors+boost or lors among the methods",
            got=" ".join(self.methods) or "no method",
            hint="add one to --methods; or leave --upload_repo out, and upload the model of "
            "another method by hand: lors upload ... --merged (docs/export.md)",
        )


@dataclass(frozen=True)
class BaseOptions(ScriptOptions):
    """Options of ``local/train_base.sh``, which trains a base model from scratch."""

    vocab_size: Count
    base_config: str

    def lists(self, stages: Collection[str]) -> Lists:
        langs, config = {"langs": " ".join(self.langs)}, self.completed("base_config")
        checks = [lambda: self.family.check_options(langs), lambda: read_training_options(config)]
        check_all(checks)
        return {
            "langs": self.langs,
            "data_opts": self.data_opts,
            "base_config": [self.completed("base_config")],
            "pairs": [str(pair) for pair in pairs_of(self.langs, self.family.tasks)],
        }


def check_all(checks: Sequence[Callable[[], Any]]) -> None:
    """Run all checks; raise the error of one, or one error with those of several."""
    errors = []
    for check in checks:
        try:
            check()
        except LorsError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise UsageError(
            f"{len(errors)} problems with options and configurations",
            got=[str(error).replace("\n", "\n      ") for error in errors],
        )


def words_of(options: Mapping[str, str]) -> list[str]:
    """Return options as the words of a command line."""
    return [word for name, value in options.items() for word in (f"--{name}", value)]
