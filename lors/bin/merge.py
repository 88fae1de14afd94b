"""Merge experts that were fine-tuned from one base model."""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from lors.checkpoint.naming import schemes
from lors.config import REQUIRED, build, describe, keys_of, parse_assignments
from lors.errors import UsageError
from lors.log import run_main
from lors.merge.decompositions import Decompositions
from lors.merge.engine import check_threads
from lors.merge.methods import METHODS
from lors.merge.plan import check_inputs
from lors.merge.record import RECORD_NAME, read_plan
from lors.merge.run import MergePlan, open_inputs, prepare, run_merge, summary


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lors.bin.merge",
        description=__doc__,
        epilog="example: python -m lors.bin.merge --method lors --base base/valid.acc.best.pth "
        "--experts de/valid.acc.best.pth fr/valid.acc.best.pth --out merged/model.pth "
        "--params rank=7 density=0.2 scaling_coef=0.2",
    )
    parser.add_argument(
        "--config",
        help=f"YAML file with any of {', '.join(keys_of(MergePlan))} (conf/merge_*.yaml), or the "
        f"{RECORD_NAME} of a merged model to make it again",
    )
    parser.add_argument("--base", help="checkpoint of the base model")
    parser.add_argument("--experts", nargs="+", help="checkpoints fine-tuned from the base model")
    parser.add_argument("--out", help="merged model to write: .pth, .safetensors, or .pt (Whisper)")
    parser.add_argument("--method", help="merge method, see --list_methods")
    parser.add_argument(
        "--params",
        nargs="+",
        metavar="NAME=VALUE",
        help="parameters of the method and scaling_coef; they override those of --config",
    )
    parser.add_argument(
        "--policy",
        help="which tensors are pruned, merged whole or copied: a name from "
        "lors/merge/policies or a .yaml file (default: found from the names of the tensors)",
    )
    parser.add_argument(
        "--weights",
        nargs="+",
        type=float,
        help="a factor for every expert's task vector, negative to take it away (default: 1)",
    )
    parser.add_argument(
        "--svc",
        type=float,
        metavar="ALPHA",
        help="calibrate the singular values of a sum, with this floor of the coefficients",
    )
    parser.add_argument(
        "--onto",
        help="merged model to add the experts to; --base is still what they were trained from",
    )
    parser.add_argument("--seed", type=int, help="of the methods that draw at random (default: 0)")
    parser.add_argument(
        "--nj",
        type=int,
        default=os.cpu_count() or 1,
        help="threads; the result does not depend on it (default: %(default)s)",
    )
    parser.add_argument(
        "--cache",
        metavar="DIR",
        help="keep decompositions here, for further merges of the same experts (lors, svp)",
    )
    parser.add_argument(
        "--dtype",
        choices=["float32", "float16", "bfloat16"],
        help="dtype of the merged model (default: that of the base model, or of --onto)",
    )
    parser.add_argument(
        "--device",
        help="decompose matrices of one shape together, e.g. on cuda (lors, svp)",
    )
    parser.add_argument(
        "--names",
        choices=schemes(),
        help="names of the tensors of the merged model (default: the base model's; .pt: openai)",
    )
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="check the files, the options and (with --out) the place for the result, print the "
        "plan, write nothing",
    )
    parser.add_argument("--list_methods", action="store_true", help="print all methods and exit")
    return parser


def get_plan(args: argparse.Namespace) -> MergePlan:
    """The plan of --config and the options, which have the last word."""
    values = read_plan(Path(args.config)) if args.config else {}
    keys = keys_of(MergePlan)
    options = [name for name in vars(args) if name not in keys and name in values]
    if options:
        raise UsageError(
            "not part of a merge plan, but an option of the command line",
            where=args.config,
            expected=f"keys among: {', '.join(keys)}",
            got=", ".join(options),
            hint="give " + " and ".join(f"--{name}" for name in options) + " on the command line",
        )
    given = {name: getattr(args, name) for name in keys.keys() - {"params"}}
    values |= {name: value for name, value in given.items() if value is not None}
    if values.get("params") is None:
        values["params"] = {}
    if args.params and isinstance(values["params"], dict):  # anything else is reported by build()
        values["params"] |= parse_assignments(args.params, "--params")
    missing = [name for name, key in keys.items() if key.default is REQUIRED and name not in values]
    where = f"{args.config} and the command line" if args.config else "the command line"
    if missing:
        raise UsageError(
            f"missing: {', '.join(f'--{name}' for name in missing)}",
            where=where,
            hint="give them as options or as keys of the file of --config",
        )
    return build(MergePlan, values, where)


def check_device(device: str | None) -> None:
    """Check that torch can compute there; UsageError if not."""
    try:
        torch.zeros(1, device=device or "cpu").item()  # torch's "meta" has no values
    except (RuntimeError, AssertionError) as error:
        reason = re.split(r"\n|\. ", str(error))[0]  # torch goes on for pages
        raise UsageError(
            "cannot compute on this device",
            where="--device",
            expected="cpu, cuda",
            got=f"{device}: {reason}",
        ) from None


def list_methods() -> str:
    """A description of every method and its parameters."""
    lines = []
    for name in METHODS:
        method = METHODS[name]
        lines += [name, f"  {method.summary}"]
        for parameter, key in method.parameters.items():
            default = "required" if key.default is REQUIRED else f"default {key.default}"
            lines.append(f"    {parameter} ({describe(key.annotation)}; {default})")
            lines.append(f"        {method.help(parameter)}")
        default = "1/number of experts" if method.combines == "sum" else "1"
        lines += [f"    scaling_coef (a number; default {default})", ""]
    lines.append("merged model = base + scaling_coef * (what the method makes of the task vectors)")
    return "\n".join(lines)


def work(args: argparse.Namespace) -> None:
    if args.list_methods:
        print(list_methods())
        return
    plan = get_plan(args)
    check_threads(args.nj)
    check_device(args.device)
    if args.dry_run:
        inputs = open_inputs(plan)
        if args.out is None:
            check_inputs(plan, inputs)
        else:
            prepare(plan, inputs, Path(args.out), args.names)
        print(summary(plan, inputs))
        return
    if args.out is None:
        raise UsageError("no place for the merged model", where="--out", expected="a file name")
    cache = None
    if args.cache and plan.merge_method.decomposes:
        cache = Decompositions(args.cache)
    elif args.cache:
        logging.info("%s makes no decompositions to be kept", plan.method)
    run_merge(plan, args.out, args.nj, cache, args.names, args.device)


def main(argv: Sequence[str] | None = None) -> int:
    return run_main(get_parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
