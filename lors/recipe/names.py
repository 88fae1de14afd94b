"""Checks of the names and paths that options give, before one of them becomes a file or folder.

:func:`lors.fileio.name_problem` says which names are allowed. `CHECKS` has the options of the
recipe scripts and of the programs that the recipes call.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lors.errors import UsageError, shortened
from lors.fileio import BRIEF, name_problem
from lors.recipe.expdir import scope_of
from lors.tasks import TASKS

SHOWN = 20
"""Number of problems that a message lists; the others are counted."""


def check_names(options: Mapping[str, Any]) -> None:
    """Check the options that become parts of paths: those of `CHECKS`.

    Args:
        options: name -> value, for example ``vars(args)``; None and other options are left alone.

    Raises:
        UsageError: names or paths that cannot be used, or names given twice; all are listed.
    """
    raise_problems(problems_of(options))


def raise_problems(problems: Sequence[str]) -> None:
    """Raise UsageError with these problems, if there are any."""
    if problems:
        count = "a wrong option" if len(problems) == 1 else f"{len(problems)} wrong options"
        raise UsageError(
            count, got=shortened(problems, SHOWN), hint="--help describes every option"
        )


def problems_of(options: Mapping[str, Any]) -> list[str]:
    """List everything that :func:`check_names` refuses, one line for each problem."""
    return [
        f"--{option}: {problem}"
        for option, value in options.items()
        if option in CHECKS and value is not None
        for problem in CHECKS[option](value)
    ]


def text_problem(text: str) -> str:
    """Return why a text cannot be a word of a command or a line of a file; empty if it can."""
    kinds = {unicodedata.category(character) for character in text}
    if "Cs" in kinds:
        return "not UTF-8"
    return "a line break or another control character" if "Cc" in kinds else ""


def _path_problems(path: str | os.PathLike) -> list[str]:
    path = os.fspath(path)
    problem = "an empty path" if not path.strip() else text_problem(path)
    if not problem and path.startswith("-"):
        problem = f"it looks like an option; write ./{path}"
    return [f"{BRIEF.repr(path)}: {problem}"] if problem else []


def _names_problems(names: Sequence[str]) -> list[str]:
    problems = []
    for name, number in Counter(names).items():
        problem = name_problem(name)
        if not problem and name.startswith("-"):
            problem = "it looks like an option"
        if problem:
            problems.append(f"{BRIEF.repr(name)}: {problem}")
        elif number > 1:
            problems.append(f"'{name}' is given {number} times")
    return problems


def _langs_problems(langs: Sequence[str]) -> list[str]:
    pairs = [lang for lang in dict.fromkeys(langs) if lang.rpartition("_")[2] in TASKS]
    wrong = [f"{BRIEF.repr(pair)}: a language is expected, without a task" for pair in pairs]
    return [*_names_problems(langs), *wrong]


def _pairs_problems(pairs: Sequence[str]) -> list[str]:
    langs = [pair.rpartition("_")[0] for pair in dict.fromkeys(pairs)]
    wrong = [pair for pair in pairs if pair.rpartition("_")[2] not in TASKS or pair[:1] == "_"]
    unknown = [f"{BRIEF.repr(pair)}: expected e.g. de_asr or de_st" for pair in wrong]
    return unknown or [*_names_problems(pairs), *_langs_problems(list(dict.fromkeys(langs)))]


def _scopes_problems(scopes: Sequence[str]) -> list[str]:
    known = {scope_of(tasks) for tasks in (*([task] for task in TASKS), TASKS)}
    wrong = [scope for scope in dict.fromkeys(scopes) if scope not in known]
    unknown = [f"{BRIEF.repr(scope)}: expected {', '.join(sorted(known))}" for scope in wrong]
    return unknown or _names_problems(scopes)


CHECKS: Mapping[str, Callable[[Any], list[str]]] = {
    **dict.fromkeys(("expdir", "datadir", "dumpdir", "speakerdir"), _path_problems),
    **dict.fromkeys(("data", "dump", "out"), _path_problems),
    **dict.fromkeys(("tasks", "methods", "baselines", "systems"), _names_problems),
    **dict.fromkeys(("split", "merged"), lambda name: _names_problems([name])),
    "langs": _langs_problems,
    "pairs": _pairs_problems,
    "scopes": _scopes_problems,
}
"""Name of an option -> the function that lists the problems of its value."""
