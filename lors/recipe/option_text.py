"""Options of a recipe script as they were typed: their values, and problems with the text."""

from __future__ import annotations

import itertools
import os
import re
import sys
import typing
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from lors.data.subset import hours_of
from lors.errors import UsageError
from lors.fileio import BRIEF
from lors.recipe.names import problems_of, raise_problems, text_problem

LISTS = ("langs", "tasks", "methods", "baselines")
NEEDED = ("langs", "tasks")
"""Lists that cannot be empty."""
DIRECTORIES = ("datadir", "dumpdir", "expdir", "speakerdir")
IN_ARRAYS = (
    *("langs", "methods", "group"),
    *("sat_config", "train_config", "inference_config", "tune_config"),
    *("s3net_config", "lora_config", "pretrained"),
)
"""Options that become words of the commands of job arrays."""
LONGEST_NUMBER = 40
_WHOLE = re.compile(r"-?[0-9]+")
_NUMBER = re.compile(r"-?([0-9]+\.?[0-9]*|\.[0-9]+)(e[-+]?[0-9]+)?", re.IGNORECASE)
_JOB = re.compile(r"(?<![A-Za-z0-9])JOB(?![A-Za-z0-9])")
_HERE = "the directory of the recipe"


def value_of(text: str, annotation: Any) -> Any:
    """Return the value of an option: a text, the words of a list, a truth value or a number.

    YAML would read more as numbers: 010 as 8, and 1:30 as 90.

    Args:
        text: the text that was typed.
        annotation: type of the option. A text that does not fit it is returned as it is.
    """
    if annotation is str or typing.get_origin(annotation) is Literal:
        return text
    if typing.get_origin(annotation) is tuple:
        return tuple(text.split())
    if len(text) <= LONGEST_NUMBER:
        if _WHOLE.fullmatch(text):
            return int(text)
        if _NUMBER.fullmatch(text):
            return float(text)
    return {"": None, "true": True, "false": False}.get(text, text)


def option_problems(texts: Mapping[str, str], cmd_backend: str) -> list[str]:
    """List the problems of the options that become names, paths or words of commands.

    Args:
        texts: name -> value of all options.
        cmd_backend: ``local`` or the cluster that jobs run on.
    """
    names = {name: texts[name] for name in DIRECTORIES if name in texts}
    lists = {name: texts[name].split() for name in LISTS if name in texts}
    if texts.get("group"):
        lists.pop("langs", None)  # those of the group count
    return [
        *(f"--{name}: {text_problem(text)}" for name, text in texts.items() if text_problem(text)),
        *(f"--{name}: none given" for name in NEEDED if name in lists and not lists[name]),
        *problems_of({**lists, **names}),
        *_group_problems(texts.get("group", ""), texts.get("groups", "")),
        *_hours_problems(texts.get("train_hours", "").split()),
        *_problems_of_jobs(texts, cmd_backend),
        *_problems_of_directories(names),
    ]


def group_languages(group: str, groups: str) -> list[str]:
    """Return the languages of a group.

    Args:
        group: name of the group.
        groups: all groups, as ``name: de es; name: fr``.

    Raises:
        UsageError: there is no such group, or `groups` does not have this form.
    """
    raise_problems(_group_problems(group, groups))
    return dict(_groups(groups))[group]


def _groups(groups: str) -> list[tuple[str, list[str]]]:
    """Return the name and the languages of each group."""
    parts = (text.partition(":") for text in groups.split(";") if text.strip())
    return [(name.strip(), langs.split()) for name, _, langs in parts]


def _group_problems(group: str, groups: str) -> list[str]:
    """List the problems of --group and --groups; none if no group is chosen."""
    if not group:
        return []
    found = _groups(groups)
    problems = [
        f"--groups: the group {BRIEF.repr(name)} is given {number} times"
        for name, number in Counter(name for name, _ in found).items()
        if number > 1
    ]
    problems += [
        f"--groups: {BRIEF.repr(name)}: expected a name and languages, as in 'high: ca de; low: id'"
        for name, langs in found
        if not name or not langs
    ]
    if group in dict(found):
        wrong = problems_of({"langs": dict(found)[group]})
        return [*problems, *(problem.replace("--langs", "--groups") for problem in wrong)]
    known = "; ".join(f"{name}: {' '.join(langs)}" for name, langs in found) or "see --groups"
    return [*problems, f"--group: unknown group {BRIEF.repr(group)}; known: {known}"]


def _hours_problems(words: Sequence[str]) -> Iterator[str]:
    """Yield the problem with the words of --train_hours; stage 2 checks their languages."""
    try:
        hours_of(words, [word.rpartition("=")[0] for word in words])
    except UsageError as error:
        yield f"{error.where}: {BRIEF.repr(error.got)}: expected {error.expected}"


def _problems_of_jobs(texts: Mapping[str, str], cmd_backend: str) -> Iterator[str]:
    """Yield the problems that the job wrappers would have with the commands of the recipe."""
    words = {f"--{name}": texts.get(name, "") for name in (*DIRECTORIES, *IN_ARRAYS)}
    for option, text in {**words, "the path of Python": sys.executable}.items():
        if _JOB.search(text):
            yield (
                f"{option}: {BRIEF.repr(text)}: JOB stands for a job's number and cannot be a "
                "name; JOBS or myJOB would do"
            )
    if cmd_backend == "local" and texts.get("num_nodes", "1") != "1":
        yield (
            f"--num_nodes: {BRIEF.repr(texts['num_nodes'])}: one machine has one node; leave it "
            "out, or set cmd_backend in cmd.sh to a cluster"
        )
    if cmd_backend == "slurm":
        paths = {f"--{name}": texts.get(name, "") for name in DIRECTORIES}
        for option, path in {**paths, _HERE: str(Path.cwd())}.items():
            if "\\" in path:
                yield f"{option}: {BRIEF.repr(path)}: Slurm drops a backslash"


def _problems_of_directories(directories: Mapping[str, str]) -> Iterator[str]:
    """Yield the problems of the recipe's own directory, and of directories as words of a command.

    Args:
        directories: name of the option -> path.
    """
    here = str(Path.cwd())
    if text_problem(here):
        yield f"{_HERE}: {BRIEF.repr(here)}: {text_problem(here)}; rename it"
    for name, path in directories.items():
        if re.match(r"[A-Za-z_]\w*=", path):
            yield f"--{name}: {BRIEF.repr(path)}: it looks like a variable; write ./{path}"
    for (one, path), (other, same) in itertools.combinations(directories.items(), 2):
        if path and os.path.normpath(path) == os.path.normpath(same):
            yield f"--{one} and --{other}: one directory for both, {BRIEF.repr(path)}"
