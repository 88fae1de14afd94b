"""Write the task vector of an expert as a small file: a LoRA adapter, or low-rank plus sparse."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from lors.checkpoint.hub import local_path
from lors.config import parse_assignments
from lors.errors import UsageError
from lors.log import run_main
from lors.merge.extract import METHOD_OF, Held, extract, held_share
from lors.merge.plan import MergePlan
from lors.recipe.report import aligned

RANKS = {"lora": 32, "lors": 7}
"""Default rank of each form."""


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lors.bin.extract",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Both are experts for merge, inspect, export-whisper and the recipes. The printed "
        "table has the\nshare of the energy (sum of squares) of the task vector that each part "
        "holds.\n\n"
        "examples:\n"
        "  lors extract --base base.pth --expert de.pth --as lora --rank 32 --out de_lora\n"
        "  lors extract --base base.pth --expert de.pth --as lors --rank 7 --density 0.1 \\\n"
        "      --out de.safetensors",
    )
    parser.add_argument(
        "--base", required=True, help="checkpoint of the base model, as for lors merge"
    )
    parser.add_argument(
        "--expert",
        required=True,
        help="model fine-tuned from it, in any form that lors merge reads",
    )
    parser.add_argument(
        "--as",
        dest="form",
        required=True,
        choices=list(METHOD_OF),
        help="lora: adapter of PEFT with the best approximation of each matrix; all other tensors "
        "are left out. lors: task vector as the merge method lors reduces it, in float16; tensors "
        "that are not pruned are whole",
    )
    parser.add_argument(
        "--out",
        required=True,
        help="new directory (lora) or .safetensors file (lors); an older one is replaced only if "
        "the same command wrote it",
    )
    _add_parameters(parser)
    parser.add_argument(
        "--quantised_base",
        metavar="DIR",
        help="only for lora: the base model in 4 bits (lors quantise), to which inference adds the "
        "adapter in place of --base",
    )
    parser.add_argument("--policy", help="as for lors merge")
    parser.add_argument(
        "--nj",
        type=int,
        default=os.cpu_count() or 1,
        help="threads; the result does not depend on it (default: %(default)s)",
    )
    return parser


def _add_parameters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rank",
        help="rank of the low-rank part (default: 32 for lora, 7 for lors); for lors also "
        "'{ratio: 0.01}' or '{energy: 0.5}'",
    )
    parser.add_argument(
        "--density",
        type=float,
        help="only for lors: fraction of the entries in the sparse part (default: 0.2)",
    )
    parser.add_argument(
        "--params",
        nargs="+",
        metavar="NAME=VALUE",
        help="only for lors: further parameters of the merge method (order, threshold, keep_norm)",
    )


def work(args: argparse.Namespace) -> None:
    plan = plan_of(args)
    quantised = args.quantised_base and local_path(args.quantised_base)
    held = extract(plan, args.form, args.out, args.nj, quantised)
    print("\n".join(aligned(energy_table(held))))
    print(f"written: {args.out} ({size_of_files(Path(args.out)) / 1e6:.1f} MB)")


def plan_of(args: argparse.Namespace) -> MergePlan:
    """Return the plan of the options.

    Raises:
        UsageError: a wrong option or value.
    """
    given = parse_assignments([f"rank={args.rank or RANKS[args.form]}"], "--rank")
    if args.form == "lora":
        if args.density is not None or args.params:
            raise UsageError(
                "an adapter has no sparse part",
                where="--density" if args.density is not None else "--params",
                expected="only --rank with --as lora",
                hint="--as lors keeps a sparse part too",
            )
        if type(given["rank"]) is not int or given["rank"] < 1:
            raise UsageError(
                "the rank of an adapter is one number for all matrices",
                where="--rank",
                expected="a whole number, 1 or more",
                got=args.rank,
            )
    elif args.quantised_base:
        raise UsageError(
            "a task vector cannot be added to a quantised model",
            where="--quantised_base",
            expected="only with --as lora",
        )
    if args.density is not None:
        given["density"] = args.density
    more = parse_assignments(args.params or [], "--params")
    if twice := [f"--{name}" for name in ("rank", "density") if name in more]:
        raise UsageError(
            "this parameter has an option of its own", where="--params", hint=f"{' '.join(twice)}"
        )
    if "scaling_coef" in more:
        raise UsageError(
            "scaling_coef is chosen when the expert is merged",
            where="--params",
            expected="order, threshold or keep_norm",
        )
    params = {**given, **more}
    return MergePlan(args.base, (args.expert,), METHOD_OF[args.form], params, args.policy)


def energy_table(held: Mapping[str, Held]) -> list[list[str]]:
    """Return the table of the energy of each reduced tensor, of all of them, and of the others."""
    reduced = {name: tensor for name, tensor in held.items() if tensor.action == "prune"}
    others = [tensor for tensor in held.values() if tensor.action != "prune"]
    whole = math.fsum(tensor.energy for tensor in held.values())
    table = [["tensor", "rank", "energy held", "of the whole energy"]]

    def row(name: str, rank: str, tensors: list[Held]) -> list[str]:
        share, part = held_share(tensors), math.fsum(tensor.energy for tensor in tensors)
        return [name, rank, _percent(share), _percent(part / whole if whole else None)]

    table += [row(name, str(tensor.rank), [tensor]) for name, tensor in reduced.items()]
    table.append(row(f"all {len(reduced)} matrices", "", list(reduced.values())))
    table.append(row(f"{len(others)} other tensors", "", others))
    table.append(row("all tensors", "", list(held.values())))
    return table


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def size_of_files(out: Path) -> int:
    """Return the size of a file, or of the files in a directory, in bytes."""
    files = out.iterdir() if out.is_dir() else [out]
    return sum(file.stat().st_size for file in files)


def main(argv: Sequence[str] | None = None) -> int:
    return run_main(get_parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
