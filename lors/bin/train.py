"""Collect statistics, or train one model through ESPnet."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lors.config import read_yaml
from lors.errors import UsageError
from lors.log import run_main
from lors.recipe.train import (
    check_sequence,
    collect_stats,
    fine_tuning_config,
    from_scratch_config,
    train,
    train_sequence,
)
from lors.tasks import Pair


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lors.bin.train",
        description="Train a model on language-task pairs through ESPnet: from a base model "
        "(--base), else from scratch. With --collect_stats, only collect the shapes and feature "
        "statistics that training needs.",
    )
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--base", help="model directory to fine-tune (config.yaml, model.pth)")
    start.add_argument(
        "--tokens", help="directory of tokens.txt and bpe.model, for an S2T model from scratch"
    )
    parser.add_argument("--pairs", nargs="+", required=True, help="e.g. de_asr de_st")
    parser.add_argument("--dump", required=True, help="data directories <lang>/{train,dev}")
    parser.add_argument("--config", required=True, help="ESPnet training options (YAML)")
    parser.add_argument("--out", required=True, help="directory to write")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--only", type=int, help="train on this one of the pairs (from 1) alone, into OUT/<pair>"
    )
    which.add_argument(
        "--sequential",
        action="store_true",
        help="train on one pair after the other, each from the model of the one before, into "
        "OUT/<number>_<pair>; with --collect_stats, only check that the configuration allows it",
    )
    parser.add_argument("--stats", help="directory of --collect_stats (needed to train)")
    parser.add_argument("--collect_stats", action="store_true")
    parser.add_argument(
        "--dev_utterances",
        type=int,
        help="of each pair, by which the best epoch is chosen (default: all)",
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--ngpu", type=int, default=0, help="GPUs of each node; 0: the CPU")
    parser.add_argument("--num_nodes", type=int, default=1, help="of the Slurm job that this is in")
    return parser


def work(args: argparse.Namespace) -> None:
    if args.dev_utterances is not None and args.dev_utterances < 1:
        raise UsageError(
            "no dev utterances",
            where="--dev_utterances",
            expected="1 or more",
            got=args.dev_utterances,
        )
    pairs = [Pair.parse(name) for name in args.pairs]
    config = read_yaml(args.config)
    if args.base:
        config = fine_tuning_config(args.base, config, pairs)
    elif args.tokens:
        config = from_scratch_config(args.tokens, config)
    elif "whisper_conf" not in config:
        raise UsageError(
            "nothing to start from",
            where=args.config,
            expected="--base, --tokens, or a whisper_conf in the configuration",
        )
    if args.sequential:
        check_sequence(config)
    out = Path(args.out)
    if args.only is not None:
        if not 1 <= args.only <= len(pairs):
            expected = f"1 to {len(pairs)}"
            raise UsageError("no such pair", where="--only", expected=expected, got=args.only)
        pairs = [pairs[args.only - 1]]
        out = out / str(pairs[0])
    if args.collect_stats:
        collect_stats(pairs, args.dump, config, out, args.dev_utterances)
    else:
        options = {"stats": args.stats, "seed": args.seed, "dev": args.dev_utterances}
        options |= {"ngpu": args.ngpu, "num_nodes": args.num_nodes}
        (train_sequence if args.sequential else train)(pairs, args.dump, config, out, **options)


def main(argv: list[str] | None = None) -> int:
    parser = get_parser()
    args = parser.parse_args(argv)
    if not args.collect_stats and not args.stats:
        parser.error("--stats is needed to train")
    if args.sequential and not args.base:
        parser.error("--base is needed with --sequential")
    return run_main(parser, work, argv)


if __name__ == "__main__":
    sys.exit(main())
