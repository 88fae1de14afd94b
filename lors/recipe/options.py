"""Options of the recipe scripts: the checks before the first stage, and the lists that follow.

A recipe script passes all its options as text (:mod:`lors.bin.check_recipe`) before its first
stage: a wrong option of a late stage is found at once, not after hours. Only option values and
configurations are read; the stages check corpus and models themselves.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import yaml

from lors.config import Range, build, keys_of, load_config, read_yaml
from lors.errors import UsageError
from lors.models import FAMILIES
from lors.models.family import Family
from lors.recipe.expdir import OVER_LANGS, OVER_LANGS_TASKS, scopes_of
from lors.recipe.grid import read_grid
from lors.tasks import TASKS, pairs_of

Count = Annotated[int, Range(1)]
Lists = Mapping[str, Sequence[str]]
"""Name of a variable of the script -> its words."""


@dataclass(frozen=True)
class ScriptOptions:
    """Options of every recipe script, with the names of the script."""

    stage: str
    stop_stage: str
    dry_run: bool
    submit: bool
    langs: tuple[str, ...]
    model_family: Literal[tuple(FAMILIES)]
    seed: Annotated[int, Range(0, 2**32 - 1)]
    dev_utterances: Count
    data_opts: tuple[str, ...]
    datadir: str
    dumpdir: str
    expdir: str
    nj: Count
    ngpu: Annotated[int, Range(0)]
    num_nodes: Count

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


@dataclass(frozen=True)
class LorsOptions(ScriptOptions):
    """Options of ``lors.sh``."""

    skip_train: bool
    group: str
    groups: str
    tasks: tuple[Literal[tuple(TASKS)], ...]
    methods: tuple[str, ...]
    baselines: tuple[Literal["joint", "sequential"], ...]
    train_hours: Annotated[float, Range(0)] | None
    train_subset: str
    device: Literal["cpu", "cuda"]
    base_model: str
    window: str
    st_language: str
    train_config: str
    inference_config: str
    tune_config: str

    def lists(self, stages: Collection[str]) -> Lists:
        langs = group_languages(self.group, self.groups) if self.group else self.langs
        _check_given("langs", langs)
        _check_given("tasks", self.tasks)
        self._check_family(langs, "base" in stages)
        if {"stats", "experts", "baselines"}.intersection(stages):
            read_yaml(self.completed("train_config"))
        if "tune" in stages:
            read_grid(self.tune_config, self.methods)
        if {"tune", "inference"}.intersection(stages):
            load_config(self.family.inference_options, self.completed("inference_config"))
        completed = ("base_model", "train_config", "inference_config")
        scopes = scopes_of(self.tasks)
        return {
            **{name: [self.completed(name)] for name in completed if self.completed(name)},
            "langs": langs,
            "tasks": self.tasks,
            "methods": self.methods,
            "baselines": self.baselines,
            "data_opts": self.data_opts,
            "import_options": _words(self._import_options()),
            "training_clips": self._training_clips(),
            "pairs": [str(pair) for pair in pairs_of(langs, self.tasks)],
            "scopes": scopes,
            "systems": self._systems(),
            "packed": [f"lors.{scope}" for scope in scopes if "lors" in self.methods],
        }

    def _check_family(self, langs: Sequence[str], imports_base: bool) -> None:
        options = {"langs": " ".join(langs), **self._import_options()}
        if imports_base:
            options["base_model"] = self.completed("base_model")
        self.family.check_options(options)

    def _import_options(self) -> dict[str, str]:
        """Return the options of ``lors.bin.import_base`` that only this model family has."""
        names = [name for name in self.family.import_options if hasattr(self, name)]
        return {name: getattr(self, name) for name in names}

    def _training_clips(self) -> list[str]:
        """Return the options of ``lors.bin.format_audio`` that choose the training clips."""
        if self.train_subset:
            return ["--train_subset", self.train_subset]
        return [] if self.train_hours is None else ["--train_hours", f"{self.train_hours:.15g}"]

    def _systems(self) -> list[str]:
        """Return the rows of the results: not merged, over languages, over languages and tasks."""
        over = [OVER_LANGS, OVER_LANGS_TASKS] if len(self.tasks) > 1 else [OVER_LANGS]
        merges = [f"{method}.{merged_over}" for merged_over in over for method in self.methods]
        return ["base", "expert", *self.baselines, *merges]


@dataclass(frozen=True)
class BaseOptions(ScriptOptions):
    """Options of ``local/train_base.sh``, which trains a base model from scratch."""

    vocab_size: Count
    base_config: str

    def lists(self, stages: Collection[str]) -> Lists:
        _check_given("langs", self.langs)
        self.family.check_options({"langs": " ".join(self.langs)})
        read_yaml(self.completed("base_config"))
        return {
            "langs": self.langs,
            "data_opts": self.data_opts,
            "base_config": [self.completed("base_config")],
            "pairs": [str(pair) for pair in pairs_of(self.langs, list(TASKS))],
        }


SCRIPTS: Mapping[str, type[ScriptOptions]] = {"lors": LorsOptions, "train_base": BaseOptions}


def resolve(
    script: str, texts: Mapping[str, str], stages: Collection[str], cmd_backend: str
) -> Lists:
    """Check the options of a recipe script.

    Args:
        script: a name in `SCRIPTS`.
        texts: name -> value of all its options.
        stages: names of the stages that are to run.
        cmd_backend: ``local`` or the cluster that jobs run on.

    Returns:
        The lists that the script reads: options that are lists, options that a default completes,
        and lists that follow from options, such as language-task pairs.

    Raises:
        UsageError: a wrong option or configuration.
        LorsError: a configuration is missing.
    """
    options = _parse(SCRIPTS[script], texts)
    for directory in (options.datadir, options.dumpdir, options.expdir):
        if re.search(r"(?<![A-Za-z0-9])JOB(?![A-Za-z0-9])", directory):
            raise UsageError(
                "JOB stands for a job's number and cannot be a name in a path",
                where=directory,
                hint="choose another name; JOBS or myJOB would do",
            )
    if cmd_backend == "local" and options.num_nodes != 1:
        raise UsageError(
            "one machine has one node",
            where="--num_nodes",
            got=options.num_nodes,
            hint="leave it out, or set cmd_backend in cmd.sh to a cluster",
        )
    return options.lists(stages)


def group_languages(group: str, groups: str) -> list[str]:
    """Return the languages of a group.

    Args:
        group: its name.
        groups: all groups, as ``name: de es; name: fr``.

    Raises:
        UsageError: no such group.
    """
    known = {}
    for text in filter(str.strip, groups.split(";")):
        name, _, langs = text.partition(":")
        known[name.strip()] = langs.split()
    if group not in known:
        listed = [f"{name}: {' '.join(langs)}" for name, langs in known.items()]
        raise UsageError(f"unknown group '{group}'", where="--group", expected=listed or "--groups")
    return known[group]


def _parse(cls: type[ScriptOptions], texts: Mapping[str, str]) -> ScriptOptions:
    # The script reads each list as a line with tabs between the words.
    torn = [f"--{name}" for name, text in texts.items() if re.search(r"[\t\n]", text)]
    if torn:
        raise UsageError("a tab or a line break in the value of an option", where=", ".join(torn))
    keys = keys_of(cls)
    values = {
        name: _value(text, keys[name].annotation) if name in keys else text
        for name, text in texts.items()
    }
    return build(cls, values, "the options of the recipe")


def _value(text: str, annotation: Any) -> Any:
    """Return the value of an option: text, the words of a list, or else a value in YAML."""
    if annotation is str:
        return text
    if typing.get_origin(annotation) is tuple:
        return tuple(text.split())
    if typing.get_origin(annotation) is Literal:
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _words(options: Mapping[str, str]) -> list[str]:
    """Return options as the words of a command line."""
    return [word for name, value in options.items() for word in (f"--{name}", value)]


def _check_given(name: str, words: Sequence[str]) -> None:
    if not words:
        raise UsageError("none given", where=f"--{name}", hint="--help lists every option")
