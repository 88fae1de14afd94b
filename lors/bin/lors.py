"""Merge fine-tuned checkpoints, look into them, quantise, export and upload models."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import Any

from lors import __version__
from lors.errors import UsageError, near_matches
from lors.log import run_main

# Command -> its program in lors.bin, the first arguments of the program, and its help.
COMMANDS = {
    "merge": ("merge", (), "merge experts that were fine-tuned from one base model"),
    "inspect": ("inspect", (), "measure task vectors and how experts interfere"),
    "extract": ("extract", (), "write an expert as a small file: LoRA, or low-rank plus sparse"),
    "export-whisper": ("export_whisper", (), "write a Whisper for transformers or openai-whisper"),
    "quantise": ("quantise", (), "write a model in 4 bits, or one in 4 bits in full precision"),
    "upload": ("upload", (), "upload a merged model to the Hugging Face Hub, with its card"),
    "list-methods": ("merge", ("--list_methods",), "describe every merge method"),
}
SHELLS = ("bash", "zsh", "tcsh")


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of the words before the options of a command."""
    width = max(map(len, COMMANDS))
    commands = [f"  {name:<{width}}  {text}" for name, (_, _, text) in COMMANDS.items()]
    parser = argparse.ArgumentParser(
        prog="lors",
        usage="lors COMMAND [options]",
        description=__doc__,
        epilog="\n".join(["commands:", *commands, "", "lors COMMAND --help lists its options."]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", metavar="COMMAND", help="one of those below")
    parser.add_argument("--version", action="version", version=f"lors {__version__}")
    parser.add_argument(
        "--completion",
        choices=SHELLS,
        action=_PrintCompletion,
        help="print a completion script for this shell and exit (needs the package shtab)",
    )
    return parser


def complete_parser() -> argparse.ArgumentParser:
    """Return the parser of every command and its options, for shtab, which also completes files."""
    import shtab

    parser = argparse.ArgumentParser(prog="lors", description=__doc__)
    subparsers = parser.add_subparsers(dest="command")
    for name, (program, given, text) in COMMANDS.items():
        if given:
            subparsers.add_parser(name, help=text)
            continue
        options = importlib.import_module(f"lors.bin.{program}").get_parser()
        command = subparsers.add_parser(name, help=text, parents=[options], add_help=False)
        for action in command._actions:
            if action.choices is None and action.nargs != 0:
                action.complete = shtab.FILE  # type: ignore[attr-defined]  # shtab reads it
    return parser


class _PrintCompletion(argparse.Action):
    """Print a completion script for a shell, then exit."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        try:
            import shtab
        except ImportError:
            parser.error("--completion needs the package shtab: pip install shtab")
        print(shtab.complete(complete_parser(), values))
        parser.exit()


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    if words[0] not in COMMANDS:
        # The options after an unknown command are not those of this parser.
        return run_main(get_parser(), _refuse, words if words[0].startswith("-") else words[:1])
    program, given, _ = COMMANDS[words[0]]
    module = importlib.import_module(f"lors.bin.{program}")
    parser = module.get_parser()
    parser.prog = f"lors {words[0]}"
    return run_main(parser, module.work, [*given, *words[1:]])


def _refuse(args: argparse.Namespace) -> None:
    raise UsageError(
        f"unknown command '{args.command}'",
        expected=f"one of: {', '.join(COMMANDS)}",
        hint=near_matches(args.command, COMMANDS) or "lors --help",
    )


if __name__ == "__main__":
    sys.exit(main())
