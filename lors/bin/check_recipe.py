"""Check a recipe's options before its first stage: a slip must not cost the hours before it shows.

Called by lors.sh. The stages check what they use themselves; here is what can be known without the
corpus and the models, from option values and configurations alone.
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import dataclass
from typing import Annotated

import yaml

from lors.config import Range, build, load_config, read_yaml
from lors.errors import UsageError
from lors.log import run_main
from lors.models import FAMILIES
from lors.recipe.grid import read_grid

Count = Annotated[int, Range(1)]


@dataclass(frozen=True)
class Options:
    """Options of lors.sh that are numbers or choices."""

    nj: Count
    num_nodes: Count
    ngpu: Annotated[int, Range(0)]
    seed: Annotated[int, Range(0, 2**32 - 1)]
    dev_utterances: Count
    vocab_size: Count
    train_hours: Annotated[float, Range(0)] | None
    train_base: bool
    skip_train: bool
    submit: bool


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="./run.sh",
        description="Check the options of ./run.sh.",
    )
    for name in Options.__dataclass_fields__:
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--model_family", choices=sorted(FAMILIES), required=True)
    for name in sorted({name for family in FAMILIES.values() for name in family.import_options}):
        parser.add_argument(f"--{name}")
    for name in ("langs", "tasks", "methods", "directories"):
        parser.add_argument(f"--{name}", nargs="*", required=True)
    # Those that the stages of this run need.
    parser.add_argument("--base_langs", nargs="*", default=[])
    for name in ("base_model", "base_config", "train_config", "inference_config", "tune_config"):
        parser.add_argument(f"--{name}")
    return parser


def work(args: argparse.Namespace) -> None:
    given = {name: _plain(getattr(args, name)) for name in Options.__dataclass_fields__}
    build(Options, given, "the options of ./run.sh")
    for name in ("langs", "tasks"):
        if not getattr(args, name):
            raise UsageError("none given", where=f"--{name}", hint="./run.sh --help")
    for directory in args.directories:
        if re.search(r"(?<![A-Za-z0-9])JOB(?![A-Za-z0-9])", directory):
            raise UsageError(
                "JOB stands for a job's number and cannot be a name in a path",
                where=directory,
                hint="choose another name; JOBS or myJOB would do",
            )
    for config in filter(None, (args.base_config, args.train_config)):
        read_yaml(config)
    if args.inference_config:
        load_config(FAMILIES[args.model_family].inference_options, args.inference_config)
    if args.tune_config:
        read_grid(args.tune_config, args.methods)
    typed = {name: value for name, value in vars(args).items() if value not in (None, [])}
    lists = {n: " ".join(value) for n, value in typed.items() if isinstance(value, list)}
    FAMILIES[args.model_family].check_options({**typed, **lists})


def _plain(value: str) -> object:
    """What YAML makes of an option's value."""
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        return value


def main(argv: list[str] | None = None) -> int:
    return run_main(get_parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
