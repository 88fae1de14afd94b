"""Pack a merged model as a zip file of ESPnet that opens in any directory."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from lors.export.espnet import pack_espnet
from lors.log import run_main


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lors.bin.pack",
        description=__doc__,
        epilog="example: python -m lors.bin.pack --model exp/merged/lors.asr --base exp/base "
        "--out exp/packed/lors.asr.zip",
    )
    parser.add_argument(
        "--model", required=True, help="directory of the merged model: model.pth and config.yaml"
    )
    parser.add_argument(
        "--base",
        required=True,
        help="directory of its base model, with the files that config.yaml names: bpe.model, "
        "feats_stats.npz",
    )
    parser.add_argument("--out", required=True, help="zip file to write")
    return parser


def work(args: argparse.Namespace) -> None:
    pack_espnet(args.model, args.base, args.out)


def main(argv: Sequence[str] | None = None) -> int:
    return run_main(get_parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
