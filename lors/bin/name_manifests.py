"""The lines of db.sh that name manifests and their languages, for setup.sh --from."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lors.data.audio_source import check_folder
from lors.data.manifest_names import parse_manifests
from lors.data.manifest_sources import languages_of
from lors.log import run_main


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lors.bin.name_manifests",
        description="Read manifests, without their audio, and print the lines of db.sh with their "
        "languages and splits.",
    )
    parser.add_argument(
        "manifests",
        nargs="+",
        metavar="[LANG/SPLIT=]PATH",
        help="as in local/prepare_manifest.sh --manifest",
    )
    return parser


def work(args: argparse.Namespace) -> None:
    given = parse_manifests(args.manifests)
    for manifest in given:
        check_folder(manifest.path)
    named, langs = languages_of(given)
    print("export MANIFEST=(")
    for manifest in named:
        # The links of a path stay: ESPnet's paths begin in a folder above it.
        print(f"    {shlex.quote(str(replace(manifest, path=Path.absolute(manifest.path))))}")
    print(")")
    print(f"export LANGS={shlex.quote(' '.join(langs))}")


def main(argv: Sequence[str] | None = None) -> int:
    return run_main(get_parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
