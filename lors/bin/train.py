"""Train one model by its family's training program, or collect the statistics for it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lors.config import MOST_PROCESSES, SEED, Range, count, option_number
from lors.errors import UsageError
from lors.log import run_main
from lors.models import FAMILIES
from lors.recipe.expdir import ONE_FOR_ALL, ORDERS, ExpDir, order_of
from lors.recipe.names import check_names
from lors.recipe.train import check_sequence, collect_stats, train, train_sequence
from lors.recipe.training_config import (
    continued_config,
    fine_tuning_config,
    from_scratch_config,
)
from lors.recipe.training_options import read_training_options
from lors.tasks import Pair


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lors.bin.train",
        description="Train a model on language-task pairs through ESPnet: from a base model "
        "(--base), else from scratch. With --collect_stats: collect the shapes and the feature "
        "statistics that training needs.",
    )
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--base", help="model directory to fine-tune (config.yaml, model.pth)")
    start.add_argument(
        "--tokens", help="directory of tokens.txt and bpe.model, for a new S2T model"
    )
    parser.add_argument("--pairs", nargs="+", required=True, help="e.g. de_asr de_st")
    add_training_options(parser)
    parser.add_argument(
        "--adapter", help="model directory of an adapter of the base model, to start from"
    )
    parser.add_argument(
        "--baselines",
        nargs="+",
        choices=ONE_FOR_ALL,
        help="models of all pairs: joint, on all data at once; sequential, on one pair after the "
        "other, each from the model of the pair before, into OUT/sequential/<number>_<pair>; "
        "sequential_reversed, the same with the pairs in the opposite order. With "
        "--collect_stats: only check that the configuration allows them",
    )
    parser.add_argument(
        "--only",
        type=int,
        help="train only the pair with this number (from 1), into OUT/<pair>; with --baselines: "
        "only this baseline, into OUT/<baseline>",
    )
    parser.add_argument(
        "--collect_stats", action="store_true", help="collect statistics, do not train"
    )
    parser.add_argument(
        "--pretrained", help="experiment whose joint model the --baselines begin with"
    )
    nodes = option_number(Range(1, MOST_PROCESSES), whole=True)
    parser.add_argument("--num_nodes", type=nodes, default=1, help="nodes of this Slurm job")
    return parser


def add_training_options(parser: argparse.ArgumentParser) -> None:
    """Add the options about data, configuration and machine."""
    parser.add_argument("--dump", required=True, help="data directories <lang>/{train,dev}")
    parser.add_argument("--config", required=True, help="ESPnet's training options (YAML)")
    parser.add_argument("--out", required=True, help="directory to write")
    parser.add_argument("--stats", help="directory of --collect_stats (needed to train)")
    parser.add_argument(
        "--dev_utterances",
        type=count,
        help="dev utterances of each pair for the choice of the best epoch (default: all)",
    )
    seed = option_number(SEED, whole=True)
    parser.add_argument("--seed", type=seed, default=1, help="default: %(default)s")
    ngpu = option_number(Range(0, MOST_PROCESSES), whole=True)
    parser.add_argument("--ngpu", type=ngpu, default=0, help="GPUs of each node; 0: the CPU")


def work(args: argparse.Namespace) -> None:
    check_names(vars(args))
    pairs = [Pair.parse(name) for name in args.pairs]
    config = complete_config(args, pairs)
    baselines = args.baselines or ()
    if args.pretrained:
        config = continued_config(config, ExpDir(args.pretrained).joint)
    if any(name in ORDERS for name in baselines):
        check_sequence(config)
    if args.collect_stats:
        collect_stats(pairs, args.dump, config, args.out, args.dev_utterances)
        return
    out, chosen = Path(args.out), None
    if args.only is not None:
        kind, choices = ("baseline", baselines) if baselines else ("pair", pairs)
        if not 1 <= args.only <= len(choices):
            expected = f"1 to {len(choices)}"
            raise UsageError(f"no such {kind}", where="--only", expected=expected, got=args.only)
        chosen = choices[args.only - 1]
        out = out / str(chosen)
        if not baselines:
            pairs = [chosen]
        elif chosen in ORDERS:
            pairs = order_of(chosen, pairs)
    (train_sequence if chosen in ORDERS else train)(
        pairs,
        args.dump,
        config,
        out,
        stats=args.stats,
        seed=args.seed,
        ngpu=args.ngpu,
        num_nodes=args.num_nodes,
        dev=args.dev_utterances,
    )


def complete_config(args: argparse.Namespace, pairs: Sequence[Pair]) -> dict[str, Any]:
    """Return the training configuration, completed with the model to train.

    Args:
        args: values of the program's options.
        pairs: language-task pairs that will be trained.

    Raises:
        LorsError: as :func:`fine_tuning_config`.
        UsageError: as :func:`read_training_options`, or there is nothing to start from.
    """
    config = read_training_options(args.config)
    if args.base:
        adapter = getattr(args, "adapter", None)
        return fine_tuning_config(args.base, config, pairs, adapter)
    if getattr(args, "tokens", None):
        return from_scratch_config(args.tokens, config)
    if not any(family.matches(config) for family in FAMILIES.values()):
        raise UsageError(
            "nothing to start from",
            where=args.config,
            expected="--base, --tokens, or a configuration that describes a model (whisper_conf, "
            "wav2vec2_conf)",
        )
    return config


def main(argv: list[str] | None = None) -> int:
    parser = get_parser()
    args = parser.parse_args(argv)
    if not args.collect_stats and not args.stats:
        parser.error("--stats is needed to train")
    if args.collect_stats and args.only is not None:
        parser.error("--only is not for --collect_stats, whose statistics are of all pairs")
    if args.baselines and args.only is None and not args.collect_stats:
        parser.error("--only is needed to train one of the --baselines")
    if args.baselines and not args.base:
        parser.error("--base is needed with --baselines")
    if args.pretrained and not args.baselines:
        parser.error("--pretrained is for --baselines")
    if args.adapter and not args.base:
        parser.error("--base is needed with --adapter")
    return run_main(parser, work, argv)


if __name__ == "__main__":
    sys.exit(main())
