"""Train one model under the masks of its languages: language-adaptive training."""

from __future__ import annotations

import argparse
import sys

from lors.bin.train import add_training_options, complete_config
from lors.checkpoint.places import MASKS
from lors.config import MOST_PROCESSES, Range, option_number
from lors.errors import UsageError
from lors.log import run_main
from lors.recipe.expdir import SUBNETS, ExpDir
from lors.recipe.mask_rounds import train_in_two_rounds
from lors.recipe.names import check_names
from lors.recipe.train import train
from lors.recipe.training_config import continued_config
from lors.tasks import TASKS, pairs_of


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lors.bin.train_subnet",
        description="Train OUT/s3net_<criterion>_<rate> from a base model. Every batch is of one "
        "language, and sees and changes only the sub-network that the language has in "
        "OUT/masks/<criterion>_<rate>/masks.safetensors (lors.bin.find_masks).",
    )
    parser.add_argument("--base", required=True, help="model directory (config.yaml, model.pth)")
    parser.add_argument("--langs", nargs="+", required=True, help="Common Voice codes")
    parser.add_argument("--tasks", nargs="+", required=True, choices=list(TASKS))
    parser.add_argument("--systems", nargs="+", required=True, help="e.g. s3net_taylor_30")
    parser.add_argument("--only", type=int, required=True, help="number of the system, from 1")
    parser.add_argument(
        "--mask_rounds",
        type=int,
        choices=(1, 2),
        default=1,
        help="2: after half of the training, find masks again on the model, as on the base model; "
        "default: %(default)s",
    )
    parser.add_argument(
        "--pretrained",
        help="experiment whose model of this system the training begins with, under its masks",
    )
    add_training_options(parser)
    nodes = option_number(Range(1, MOST_PROCESSES), whole=True)
    parser.add_argument("--num_nodes", type=nodes, default=1, help="nodes of this Slurm job")
    return parser


def work(args: argparse.Namespace) -> None:
    check_names(vars(args))
    if not 1 <= args.only <= len(args.systems):
        expected = f"1 to {len(args.systems)}"
        raise UsageError("no such system", where="--only", expected=expected, got=args.only)
    system, expdir = args.systems[args.only - 1], ExpDir(args.out)
    if not system.startswith(SUBNETS):
        expected = f"a name that begins with {SUBNETS}"
        raise UsageError(
            "not a system under masks", where="--systems", expected=expected, got=system
        )
    pairs = pairs_of(args.langs, args.tasks)
    config, masks = complete_config(args, pairs), expdir.masks(system)
    if args.pretrained:
        start = ExpDir(args.pretrained).subnet(system)
        config, masks = continued_config(config, start), start / MASKS
    options = {
        "stats": args.stats,
        "seed": args.seed,
        "ngpu": args.ngpu,
        "num_nodes": args.num_nodes,
        "dev": args.dev_utterances,
    }
    if args.mask_rounds == 2:
        train_in_two_rounds(system, pairs, args.dump, config, expdir, masks, **options)
        return
    train(pairs, args.dump, config, expdir.subnet(system), masks=masks, **options)


def main(argv: list[str] | None = None) -> int:
    """Run the program; return the exit code."""
    parser = get_parser()
    if not parser.parse_args(argv).stats:
        parser.error("--stats is needed")
    return run_main(parser, work, argv)


if __name__ == "__main__":
    sys.exit(main())
