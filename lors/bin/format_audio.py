"""Stage 2: data directories with their audio as 16 kHz mono FLAC, one copy for all tasks."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path

from lors.data.clips import format_data_dir, worker_pool
from lors.data.datadir import read_data_dir
from lors.data.language_report import format_language_reports, language_report
from lors.data.subset import clip_names, read_list, write_list
from lors.errors import LorsError, UsageError
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
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument(
        "--train_hours",
        type=float,
        help="take that many hours of each language's training clips, balanced over speakers and "
        "by a hash of the clip's name; the list is written to <dump>/subset/<lang>_<split>.txt",
    )
    chosen.add_argument(
        "--train_subset",
        type=Path,
        help="take the training clips of such lists: a folder with <lang>_<split>.txt",
    )
    return parser


def work(args: argparse.Namespace) -> None:
    if args.train_hours is not None and not args.train_hours > 0:
        raise UsageError("not a number of hours", where="--train_hours", got=args.train_hours)
    names = [f"{lang}/{split}" for lang in args.langs for split in args.splits]
    missing = [str(args.data / name) for name in names if not (args.data / name).is_dir()]
    if missing:
        raise LorsError(
            f"{len(missing)} data directories are missing",
            got=", ".join(missing),
            hint="run stage 1 for these languages first",
        )
    reports = []
    with worker_pool(args.nj) as pool:
        for lang in args.langs:
            for split in args.splits:
                _format(args, lang, split, pool)
            reports.append(language_report(args.data, args.dump, lang, args.splits))
    print(format_language_reports(reports))


def _format(args: argparse.Namespace, lang: str, split: str, pool: Executor) -> None:
    source, target = args.data / lang / split, args.dump / lang / split
    if not split.startswith("train"):
        format_data_dir(source, target, pool, max_bad_audio=args.max_bad_audio)
        return
    limits = {} if args.keep_all else {"min_dur": args.min_dur, "max_dur": args.max_dur}
    name = f"{lang}_{split}.txt"
    clips = read_list(args.train_subset / name) if args.train_subset else None
    format_data_dir(
        source,
        target,
        pool,
        **limits,
        max_bad_audio=args.max_bad_audio,
        hours=args.train_hours,
        clips=clips,
    )
    if args.train_hours is not None:
        kept = {utterance.id for utterance in read_data_dir(target)}
        everything = read_data_dir(source)
        taken = zip(everything, clip_names(everything), strict=True)
        write_list(args.dump / "subset" / name, (clip for utt, clip in taken if utt.id in kept))


def main(argv: Sequence[str] | None = None) -> int:
    return run_main(get_parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
