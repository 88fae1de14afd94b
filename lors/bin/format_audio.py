"""Stage 2: data directories with their audio as 16 kHz mono FLAC, one copy for all tasks."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lors.data.audio import format_data_dir, worker_pool
from lors.errors import LorsError
from lors.log import run_main


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lors.bin.format_audio",
        description="Write <dump>/<lang>/<split> from <data>/<lang>/<split>. The duration limits "
        "apply to splits whose name starts with 'train'; the others keep every clip that "
        "decodes, so that scores stay comparable.",
    )
    parser.add_argument("--data", type=Path, required=True, help="what stage 1 wrote")
    parser.add_argument("--dump", type=Path, required=True, help="where to write")
    parser.add_argument("--langs", nargs="+", required=True, help="language codes")
    parser.add_argument(
        "--splits", nargs="+", default=["train", "dev", "test"], help="splits (%(default)s)"
    )
    parser.add_argument(
        "--nj", type=int, default=os.cpu_count(), help="worker processes (one a core: %(default)s)"
    )
    parser.add_argument(
        "--min_dur", type=float, default=0.1, help="shortest training clip in s (%(default)s)"
    )
    parser.add_argument(
        "--max_dur", type=float, default=30.0, help="longest training clip in s (%(default)s)"
    )
    parser.add_argument(
        "--keep_all", action="store_true", help="no duration limits for training clips either"
    )
    parser.add_argument(
        "--max_bad_audio",
        type=float,
        default=0.1,
        help="largest share of a split's clips that may fail to decode (%(default)s)",
    )
    return parser


def work(args: argparse.Namespace) -> None:
    names = [f"{lang}/{split}" for lang in args.langs for split in args.splits]
    missing = [str(args.data / name) for name in names if not (args.data / name).is_dir()]
    if missing:
        raise LorsError(
            f"{len(missing)} data directories are missing",
            got=", ".join(missing),
            hint="run stage 1 for these languages first",
        )
    reports = {}
    with worker_pool(args.nj) as pool:
        for name in names:
            limited = name.split("/")[1].startswith("train") and not args.keep_all
            limits = {"min_dur": args.min_dur, "max_dur": args.max_dur} if limited else {}
            reports[name] = format_data_dir(
                args.data / name, args.dump / name, pool, **limits, max_bad_audio=args.max_bad_audio
            )
    print(_table(reports))


def _table(reports: dict[str, dict[str, Any]]) -> str:
    lines = [f"{'data':16}{'clips':>9}{'hours':>9}{'speakers':>10}  dropped"]
    for name, row in reports.items():
        why = ", ".join(f"{count} {reason}" for reason, count in row["dropped"].items())
        lines.append(
            f"{name:16}{row['clips']:9}{row['hours']:9.2f}{row['speakers']:10}  {why}".rstrip()
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    return run_main(get_parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
