"""Check the options of a recipe script before its first stage; called by utils/stages.sh."""

from __future__ import annotations

import argparse
import sys

from lors.errors import UsageError
from lors.log import run_main
from lors.recipe.options import SCRIPTS, resolve


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lors.bin.check_recipe",
        description="Check the options of a recipe script, and print the lists that follow from "
        "them: one a line, the name and the words with tabs between them.",
    )
    parser.add_argument("script", choices=sorted(SCRIPTS))
    parser.add_argument("--program", required=True, help="what the user calls, for messages")
    parser.add_argument("--cmd_backend", required=True, help="local, or the cluster of cmd.sh")
    parser.add_argument("--stages", nargs="*", required=True, help="names of the stages to run")
    parser.add_argument("--options", nargs="*", required=True, metavar="NAME=VALUE")
    return parser


def work(args: argparse.Namespace) -> None:
    wrong = [option for option in args.options if "=" not in option]
    if wrong:
        raise UsageError("not of the form NAME=VALUE", where="--options", got=wrong)
    texts = dict(option.split("=", 1) for option in args.options)
    for name, words in resolve(args.script, texts, args.stages, args.cmd_backend).items():
        print(name, *words, sep="\t")


def main(argv: list[str] | None = None) -> int:
    parser = get_parser()
    parser.prog = parser.parse_args(argv).program
    return run_main(parser, work, argv)


if __name__ == "__main__":
    sys.exit(main())
