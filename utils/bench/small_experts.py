#!/usr/bin/env python3
"""Size of small experts, and the costs of merging them, against full experts in one run.

The benchmark makes models with the shapes of Whisper-small as utils/bench/merge.py does (5.8 GB for
five experts), extracts each expert as the file of a task vector, and merges the full and the small
experts with the method lors at the same setting, each merge in a process of its own. Then it
compares the two merged models.

    python utils/bench/small_experts.py --dir /tmp/bench
    python utils/bench/small_experts.py --dir /tmp/bench --layers 2    # a part
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

import torch
from merge import ROOT, SMALL, make_models, measure


def program(name: str, *words: object) -> list[str]:
    return [sys.executable, "-m", f"lors.bin.{name}", *map(str, words)]


def extract_all(
    paths: list[Path], folder: Path, setting: dict[str, float], nj: int
) -> tuple[list[Path], float]:
    """Write the small experts; return their paths and the CPU seconds."""
    small, seconds = [], 0.0
    for expert in paths[1:]:
        out = folder / f"{expert.parent.name}.safetensors"
        command = program("extract", "--as", "lors", "--base", paths[0], "--expert", expert)
        command += ["--out", str(out), "--nj", str(nj)]
        command += [f"--{name}={value}" for name, value in setting.items()]
        seconds += measure(command, {"PYTHONPATH": str(ROOT)})["cpu_s"]
        small.append(out)
    return small, seconds


def merge(
    base: Path, experts: list[Path], out: Path, setting: dict[str, float], nj: int
) -> dict[str, float]:
    command = program("merge", "--method", "lors", "--base", base, "--experts", *experts)
    command += ["--out", str(out), "--nj", str(nj)]
    command += ["--params", *(f"{name}={value}" for name, value in setting.items())]
    return measure(command, {"PYTHONPATH": str(ROOT)})


def difference(one: Path, other: Path, base: Path) -> tuple[float, float]:
    """Return the norm of the difference of two models, relative to the change that both made of the
    base model, and the largest difference relative to the largest change of its tensor."""
    from lors.checkpoint.reader import Checkpoint

    models = [Checkpoint.open(path) for path in (one, other, base)]
    lost = whole = largest = 0.0
    for name in models[0].names():
        first, second, start = (model.tensor(name).double() for model in models)
        lost += float((first - second).square().sum())
        whole += float((first - start).square().sum())
        change = float((first - start).abs().max())
        if change:
            largest = max(largest, float((first - second).abs().max()) / change)
    return (lost / whole) ** 0.5, largest


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dir", type=Path, required=True, help="directory for all models")
    parser.add_argument("--layers", type=int, default=12, help="layers a side (default: 12)")
    parser.add_argument("--width", type=int, default=SMALL, help="width (default: %(default)s)")
    parser.add_argument("--experts", type=int, default=5)
    parser.add_argument("--rank", type=int, default=7)
    parser.add_argument("--density", type=float, default=0.1)
    parser.add_argument("--nj", type=int, default=2, help="threads (default: 2)")
    parser.add_argument("--json", type=Path, help="file for the figures")
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    torch.set_num_threads(1)
    setting = {"rank": args.rank, "density": args.density}
    paths = make_models(args.dir, args.width, args.layers, args.experts)
    folder = args.dir / "small"
    shutil.rmtree(folder, ignore_errors=True)
    small, seconds = extract_all(paths, folder, setting, args.nj)
    merged, costs = {}, {}
    for kind, experts in {"full": paths[1:], "small": small}.items():
        merged[kind] = folder / kind / "model.safetensors"
        costs[kind] = merge(paths[0], experts, merged[kind], setting, args.nj)
    relative, largest = difference(merged["full"], merged["small"], paths[0])
    sizes = [path.stat().st_size for path in (paths[1], small[0])]
    found = {
        "full_mb": sizes[0] / 1e6,
        "small_mb": sizes[1] / 1e6,
        "size_ratio": sizes[1] / sizes[0],
        "extract_cpu_s": seconds / args.experts,
        "merge_full_cpu_s": costs["full"]["cpu_s"],
        "merge_small_cpu_s": costs["small"]["cpu_s"],
        "cpu_ratio": costs["small"]["cpu_s"] / costs["full"]["cpu_s"],
        "full_anonymous_gb": costs["full"]["anonymous_gb"],
        "small_anonymous_gb": costs["small"]["anonymous_gb"],
        "relative_difference": relative,
        "largest_difference": largest,
    }
    shutil.rmtree(folder)
    print("\n".join(f"{name:22}{value:12.5g}" for name, value in found.items()))
    if args.json:
        args.json.write_text(json.dumps({"args": vars(args), **found}, default=str))


if __name__ == "__main__":
    main()
