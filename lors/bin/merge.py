"""Merge experts that were fine-tuned from one base model."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from lors.checkpoint.naming import schemes
from lors.config import keys_of
from lors.errors import UsageError
from lors.log import run_main
from lors.merge.decompositions import decompositions_for
from lors.merge.describe import describe_methods, describe_plan
from lors.merge.plan import MergePlan
from lors.merge.plan_options import check_places, fingerprints_from, plan_from
from lors.merge.record import RECORD_NAME
from lors.merge.run import check_merge, run_merge


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lors.bin.merge",
        description=__doc__,
        epilog="example: python -m lors.bin.merge --method lors --base base/valid.acc.best.pth "
        "--experts de/valid.acc.best.pth fr/valid.acc.best.pth --out merged/model.pth "
        "--params rank=7 density=0.2 scaling_coef=0.2",
    )
    _add_models(parser)
    _add_method(parser)
    _add_execution(parser)
    return parser


def _add_models(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        help=f"YAML file with any of {', '.join(keys_of(MergePlan))} (conf/merge_*.yaml), or the "
        f"{RECORD_NAME} of a merged model to make it again",
    )
    parser.add_argument(
        "--base",
        help="checkpoint of the base model: .pth, .pt, .safetensors, a directory of Hugging Face "
        "or CTranslate2, or a name on the Hugging Face Hub: organisation/model[@revision][/folder]",
    )
    parser.add_argument(
        "--experts",
        nargs="+",
        help="checkpoints fine-tuned from the base model, in any of these forms, LoRA adapters, or "
        "files of lors extract; local or on the Hub",
    )
    parser.add_argument("--out", help="merged model to write: .pth, .safetensors, or .pt (Whisper)")
    parser.add_argument(
        "--onto",
        help="merged model to which the experts are added; --base is still the model that they "
        "were fine-tuned from",
    )
    parser.add_argument(
        "--weights",
        nargs="+",
        type=float,
        help="a factor for every expert's task vector, negative to remove the expert (default: 1)",
    )


def _add_method(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--method", help="merge method, see --list_methods")
    parser.add_argument(
        "--params",
        nargs="+",
        metavar="NAME=VALUE",
        help="parameters of the method and scaling_coef; they override those of --config",
    )
    parser.add_argument(
        "--policy",
        help="policy for the tensors to prune, to merge whole or to copy: a name from "
        "lors/merge/policies or a .yaml file (default: found from the names of the tensors)",
    )
    parser.add_argument(
        "--svc",
        type=float,
        metavar="ALPHA",
        help="calibrate the singular values of a sum, with this floor of the coefficients",
    )
    parser.add_argument(
        "--boost",
        type=float,
        metavar="BETA",
        help="raise the small singular values of the merged delta (subspace boosting): the leading "
        "ones with this fraction of the sum of all stay, the others become as large as the last of "
        "them",
    )
    parser.add_argument(
        "--lines",
        type=float,
        nargs=2,
        metavar=("ALPHA", "BETA"),
        help="scale the merged delta by depth (LiNeS): from ALPHA in the first layer of encoder "
        "and decoder to ALPHA + BETA in the last; all other tensors by ALPHA",
    )
    parser.add_argument(
        "--masks",
        help="file of masks of languages: restrict each task vector to the mask of its language; "
        "entries inside several masks are shared (with task_arithmetic: averaged)",
    )
    parser.add_argument("--langs", nargs="+", help="with --masks: the language of each expert")
    parser.add_argument(
        "--seed", type=int, help="seed of methods that draw random numbers (default: 0)"
    )
    parser.add_argument(
        "--dtype",
        choices=["float32", "float16", "bfloat16"],
        help="dtype of the merged model (default: that of the base model, or of --onto)",
    )
    parser.add_argument(
        "--names",
        choices=schemes(),
        help="names of the tensors of the merged model (default: the base model's; .pt: openai)",
    )


def _add_execution(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--nj",
        type=int,
        default=os.cpu_count() or 1,
        help="threads; the result does not depend on it (default: %(default)s)",
    )
    parser.add_argument(
        "--cache",
        metavar="DIR",
        help="keep decompositions here, for further merges of the same experts (lors, svp, "
        "lors_actmat)",
    )
    parser.add_argument(
        "--device",
        help="decompose matrices of one shape together, for example on cuda (lors, svp)",
    )
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="check the files, the options and (with --out) the place for the result, print the "
        "plan, write nothing",
    )
    parser.add_argument("--list_methods", action="store_true", help="print all methods and exit")


def work(args: argparse.Namespace) -> None:
    if args.list_methods:
        print(describe_methods())
        return
    plan = plan_from(args.config, vars(args))
    if args.config:
        check_places(args.config, vars(args), plan)
    fingerprints = fingerprints_from(args.config, vars(args))
    if args.dry_run:
        inputs = check_merge(plan, args.out, args.nj, args.names, args.device, fingerprints)
        print(describe_plan(plan, inputs))
        return
    if not args.out:
        raise UsageError("no place for the merged model", where="--out", expected="a file name")
    cache = decompositions_for(plan.merge_method, args.cache)
    run_merge(plan, args.out, args.nj, cache, args.names, args.device, fingerprints)


def main(argv: Sequence[str] | None = None) -> int:
    return run_main(get_parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
