"""Options of the recipe scripts: checks before the first stage, and lists made from the options.

A recipe script hands over all of its options as text (:mod:`lors.bin.check_recipe`), so that a slip
does not cost the hours before the stage that it concerns. It gets back the lists that it works
with, such as the language-task pairs. Only option values and configurations are read; the stages
check corpus and models themselves.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from lors.config import build, keys_of
from lors.errors import UsageError
from lors.recipe.names import raise_problems
from lors.recipe.option_text import option_problems, value_of
from lors.recipe.personal_options import PqmOptions
from lors.recipe.script_options import BaseOptions, Lists, LorsOptions, ScriptOptions
from lors.recipe.subnet_options import S3netOptions

SCRIPTS: Mapping[str, type[ScriptOptions]] = {
    "lors": LorsOptions,
    "s3net": S3netOptions,
    "pqm": PqmOptions,
    "train_base": BaseOptions,
}


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
        UsageError: a wrong option or configuration; all wrong options are listed.
        LorsError: a configuration is missing.
    """
    cls = SCRIPTS[script]
    keys = keys_of(cls)
    values = {
        name: value_of(text, keys[name].annotation) if name in keys else text
        for name, text in texts.items()
    }
    problems = option_problems(texts, cmd_backend)
    try:
        options = build(cls, values, "the options of the recipe")
    except UsageError as error:
        raise_problems([*(f"--{problem}" for problem in error.facts), *problems])
        raise
    raise_problems(problems)
    return options.lists(stages)
