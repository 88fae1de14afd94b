"""Stage 1 of the recipe for a user's own corpus: a manifest to Kaldi data directories."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lors.data.datadir import TRANSLATION
from lors.data.manifest import format_manifest_reports, prepare_manifest
from lors.data.manifest_names import parse_manifests
from lors.data.manifest_sources import OPTIONAL, REQUIRED
from lors.errors import UsageError, unknown_name
from lors.log import run_main


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lors.bin.prepare_manifest",
        description="Write <out>/<lang>/{train,dev,test} (Kaldi data directories whose wav.scp "
        "points at the corpus's own clips), dropped.tsv and report.json for every language.",
    )
    parser.add_argument(
        "--manifest",
        nargs="+",
        required=True,
        metavar="[LANG/SPLIT=]PATH",
        help=f"TSV, CSV or JSONL with the columns {', '.join(REQUIRED)} (optional: "
        f"{', '.join(OPTIONAL)}, text.<language>), whose audio paths are relative to its folder; a "
        "data directory of Kaldi or ESPnet; a cut manifest of lhotse (.jsonl.gz); or a folder of "
        "Hugging Face datasets (save_to_disk) or like FLEURS. de/train=PATH, de=PATH or train=PATH "
        "says the language or split of all rows",
    )
    parser.add_argument("--langs", nargs="+", default=[], help="languages to write (all)")
    parser.add_argument("--out", type=Path, required=True, help="where to write, usually data")
    parser.add_argument(
        "--strict",
        choices=["true", "false"],
        default="true",
        help="true: one bad row refuses the corpus, after all bad rows have been listed; false: "
        "bad rows are left out, counted in report.json and listed in dropped.tsv (%(default)s)",
    )
    parser.add_argument(
        "--rename",
        nargs="+",
        default=[],
        metavar="OURS=THEIRS",
        help="columns with other names in the manifest, e.g. text=sentence speaker=client_id",
    )
    return parser


def parse_rename(words: Sequence[str]) -> dict[str, str]:
    """Return LoRS's column -> the manifest's column, from words like ``text=sentence``."""
    rename = {}
    for word in words:
        ours, equals, theirs = word.partition("=")
        if not equals or not theirs:
            raise UsageError(
                "not a renamed column", where="--rename", expected="text=sentence", got=word
            )
        if ours not in (*REQUIRED, *OPTIONAL) and not ours.startswith(TRANSLATION):
            raise unknown_name("column", ours, (*REQUIRED, *OPTIONAL), where="--rename")
        rename[ours] = theirs
    return rename


def work(args: argparse.Namespace) -> None:
    rename = parse_rename(args.rename)
    manifests = parse_manifests(args.manifest)
    reports = prepare_manifest(manifests, args.out, args.langs, args.strict == "true", rename)
    print(format_manifest_reports(reports))


def main(argv: Sequence[str] | None = None) -> int:
    return run_main(get_parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
