#!/usr/bin/env python3
"""Costs of merging: CPU seconds, wall seconds and anonymous memory, against plain code and peers.

The benchmark makes models with the shapes of Whisper-small (base and experts, fp32; 5.8 GB for five
experts) and synthetic task vectors: by energy 40 % low-rank, 20 % sparse, 40 % dense. Each case is
a process of its own, which gives its CPU time (all threads, user and system) and its memory.
Compare ratios within one run; times of different runs or machines are not comparable.

    python utils/bench/merge.py --dir /tmp/bench                       # everything
    python utils/bench/merge.py --dir /tmp/bench --layers 2 --cases lors lors_plain   # a part
    python utils/bench/merge.py --dir /tmp/bench --width 512 --layers 6   # the size of Whisper-base
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import plain
import torch

ROOT = Path(__file__).resolve().parents[2]
SMALL, VOCABULARY = 768, 51865
METHODS = {
    "lors": ("lors", {"rank": 7, "density": 0.2}),
    "lors_rank76": ("lors", {"rank": 76, "density": 0.1}),
    "average": ("average", {}),
    "task_arithmetic": ("task_arithmetic", {}),
    "ties": ("ties", {"density": 0.2}),
    "dare_linear": ("dare_linear", {"density": 0.2}),
    "dare_ties": ("dare_ties", {"density": 0.2}),
    "breadcrumbs": ("breadcrumbs", {"density": 0.9, "gamma": 0.01}),
    "della": ("della", {"density": 0.2, "epsilon": 0.1}),
    "karcher": ("karcher", {}),
    "model_stock": ("model_stock", {}),
    "multislerp": ("multislerp", {}),
    "sce": ("sce", {"density": 0.1}),
    "pcb": ("pcb", {"density": 0.2}),
    "actmat": ("actmat", {"ridge": 1.0}),
    "actmat_pinv": ("actmat", {"ridge": 0}),
    "tact": ("tact", {"density": 0.2, "ridge": 1.0}),
    "lors_actmat": ("lors_actmat", {"rank": 7, "density": 0.2, "ridge": 1.0}),
    "ace": ("ace", {}),
    "cart": ("cart", {"rank": "{ratio: 0.08}"}),
    "svp": ("svp", {"rank": 7}),
    "mp": ("mp", {"density": 0.2}),
    "centred_lors": ("centred_lors", {"rank": "{ratio: 0.08}", "density": 0.1}),
    "star": ("star", {"eta": 0.4}),
    "tsv_m": ("tsv_m", {}),
    "boosted_tsv_m": ("boosted_tsv_m", {"beta": 0.9}),
    "iso_c": ("iso_c", {}),
    "iso_cts": ("iso_cts", {"common_fraction": 0.8}),
    "wudi": ("wudi", {}),
    "svc": ("task_arithmetic", {}),
    "boost": ("task_arithmetic", {}),
    "lines": ("task_arithmetic", {}),
}
OPTIONS = {"svc": ["--svc", "1"], "boost": ["--boost", "0.01"], "lines": ["--lines", "0.5", "1"]}
"""Further options of a case."""
# The grid is searched on 33 M pruned parameters. A plain merge takes the same time for any density
# and scaling_coef, so one plain merge for each rank is measured and counts 25 times.
GRID_LAYERS = 2
GRID = {
    "rank": [1, 7, 38, 76, 192],
    "density": [0.01, 0.05, 0.1, 0.2, 0.4],
    "scaling_coef": [0.1, 0.2, 0.4, 0.7, 1.0],
}
PLAIN = {case: case.removesuffix("_plain").removesuffix("_hermitian") for case in plain.FORMULAS}
GRID_CASES = {"grid": 1, "grid_plain": 25}
"""Factor of the time of a case: the grid has 125 points, its plain case 5."""
FLOOR = "floor"
"""The least work of any merge: import torch, read every input once, write one model."""
PTH = {
    "lors_pth": "lors",
    "average_pth": "average",
    "task_arithmetic_pth": "task_arithmetic",
}
"""Cases that read and write ``.pth`` files."""
NO_CRC = {f"{case}_no_crc": case for case in PTH}
"""The same without comparing the checksums of values, which no option turns off."""
GPU = {"lors_cuda": "lors", "lors_rank76_cuda": "lors_rank76"}
MERGEKIT = {  # case -> (mergekit's method, parameters, ours to compare with)
    "mergekit_linear": ("linear", {"weight": 0.2}, "average"),
    "mergekit_task_arithmetic": ("task_arithmetic", {"weight": 0.2}, "task_arithmetic"),
    "mergekit_ties": ("ties", {"density": 0.2, "weight": 1.0}, "ties"),
    "mergekit_dare_ties": ("dare_ties", {"density": 0.2, "weight": 1.0}, "dare_ties"),
    "mergekit_breadcrumbs": (
        "breadcrumbs",
        {"density": 0.9, "gamma": 0.01, "weight": 0.2},
        "breadcrumbs",
    ),
    "mergekit_della": ("della", {"density": 0.2, "epsilon": 0.1, "weight": 1.0}, "della"),
    "mergekit_karcher": ("karcher", {}, "karcher"),
}


# --- the models ---------------------------------------------------------------------------------


def shapes(layers: int, width: int) -> dict[str, tuple[int, ...]]:
    """Return OpenAI's names -> shapes of a Whisper of this width with `layers` layers a side."""
    made: dict[str, tuple[int, ...]] = {
        "encoder.positional_embedding": (1500, width),
        "encoder.conv1.weight": (width, 80, 3),
        "encoder.conv1.bias": (width,),
        "encoder.conv2.weight": (width, width, 3),
        "encoder.conv2.bias": (width,),
        "decoder.positional_embedding": (448, width),
        "decoder.token_embedding.weight": (VOCABULARY, width),
    }

    def add(prefix: str, *shape: int, bias: bool = True) -> None:
        made[f"{prefix}.weight"] = shape
        if bias:
            made[f"{prefix}.bias"] = shape[:1]

    for side in ("encoder", "decoder"):
        for layer in range(layers):
            block = f"{side}.blocks.{layer}"
            for attention in ("attn", "cross_attn")[: 1 + (side == "decoder")]:
                for part in ("query", "key", "value", "out"):
                    add(f"{block}.{attention}.{part}", width, width, bias=part != "key")
                add(f"{block}.{attention}_ln", width)
            add(f"{block}.mlp.0", 4 * width, width)
            add(f"{block}.mlp.2", width, 4 * width)
            add(f"{block}.mlp_ln", width)
        add("encoder.ln_post" if side == "encoder" else "decoder.ln", width)
    return made


def delta(shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    """Return a task vector of norm 1: by energy 40 % of rank 32, 20 % in 2 % of the entries."""
    dense = random.standard_normal(shape, dtype=np.float32)
    dense *= 0.4**0.5 / np.linalg.norm(dense)
    if len(shape) < 2:
        return dense / np.linalg.norm(dense)
    rows, columns = shape[0], int(np.prod(shape[1:]))
    left = random.standard_normal((rows, 32), dtype=np.float32) * np.linspace(
        1, 0.2, 32, dtype="f4"
    )
    low_rank = (left @ random.standard_normal((32, columns), dtype=np.float32)).reshape(shape)
    sparse = random.standard_normal(shape, dtype=np.float32)
    sparse *= random.random(shape, dtype=np.float32) < 0.02
    low_rank *= 0.4**0.5 / np.linalg.norm(low_rank)
    sparse *= 0.2**0.5 / np.linalg.norm(sparse)
    return low_rank + sparse + dense


def make_models(
    directory: Path, width: int, layers: int, experts: int, suffix: str = ".safetensors"
) -> list[Path]:
    """Write base and experts if they are missing; return their paths."""
    from lors.checkpoint.writer import CheckpointWriter

    folder = directory / (f"layers{layers}" if width == SMALL else f"width{width}_layers{layers}")
    paths = [folder / name / f"model{suffix}" for name in ["base", *map(str, range(experts))]]
    spec = {name: (shape, torch.float32) for name, shape in shapes(layers, width).items()}
    for number, path in enumerate(paths):
        if path.exists():
            continue
        with CheckpointWriter(path, spec) as writer:
            for place, (name, (shape, _)) in enumerate(spec.items()):
                base = np.random.default_rng([0, place]).standard_normal(shape, dtype=np.float32)
                base *= 0.02
                if number:
                    tau = delta(shape, np.random.default_rng([number, place]))
                    base += 0.05 * np.linalg.norm(base) * tau
                writer.add(name, torch.from_numpy(base))
        print(f"written: {path}", flush=True)
    return paths


# --- whole searches, and the least work ----------------------------------------------------------


def run_grid(paths: list[Path], out: Path, nj: int) -> None:
    """Merge every point of the grid in memory, with decompositions kept in `out`."""
    from lors.merge import Decompositions, MergePlan, apply_delta, merged_delta, open_inputs

    base, *experts = map(str, paths)
    plan = MergePlan(base, tuple(experts), "lors")
    inputs, cache = open_inputs(plan), Decompositions(out, max(GRID["rank"]))
    delta = state = None
    for rank in GRID["rank"]:
        for density in GRID["density"]:
            params = {"rank": rank, "density": density}
            plan = MergePlan(base, tuple(experts), "lors", params)
            delta = merged_delta(plan, inputs, nj, cache, reuse=delta)
            for scaling_coef in GRID["scaling_coef"]:
                state = apply_delta(inputs.base, delta, scaling_coef, out=state)


def run_grid_plain(paths: list[Path]) -> None:
    """Run one plain merge for every rank of the grid."""
    import safetensors.torch

    for rank in GRID["rank"]:
        base, *experts = (safetensors.torch.load_file(path) for path in paths)
        formula = functools.partial(plain.lors, rank=rank, density=0.1, full=False)
        plain.merge_plainly(base, experts, formula)


def run_floor(paths: list[Path], out: Path) -> None:
    """Read every value of all files once, and write one model."""
    import safetensors

    from lors.checkpoint.writer import CheckpointWriter

    torch.set_num_threads(1)  # more threads would wait for each other
    models = [safetensors.safe_open(str(path), framework="pt") for path in paths]
    spec = {
        name: (tuple(tensor.shape), tensor.dtype)
        for name in models[0].keys()  # noqa: SIM118 - not a dict, it has no iterator
        for tensor in [models[0].get_tensor(name)]
    }
    with CheckpointWriter(out, spec) as writer:
        for name in spec:
            tensors = [model.get_tensor(name) for model in models]
            for tensor in tensors:
                tensor.sum()
            writer.add(name, tensors[0])


def run_without_checksums(arguments: list[str]) -> int:
    """Merge as ``lors.bin.merge`` with these arguments, but trust the values of ``.pth`` files."""
    from lors.bin.merge import main
    from lors.checkpoint import reader

    reader.records_in = lambda *_: {}  # no storage has a checksum to compare
    return main(arguments)


# --- measuring ----------------------------------------------------------------------------------


def measure(command: list[str], environment: dict[str, str]) -> dict[str, float]:
    """Return CPU seconds of a command and its children, wall seconds, peak anonymous GB."""
    peak, ended = [0], threading.Event()
    began = time.perf_counter()
    process = subprocess.Popen(command, env={**os.environ, **environment})

    def watch() -> None:
        status = Path(f"/proc/{process.pid}/status")
        while not ended.wait(0.02):
            try:
                for line in status.read_text().splitlines():
                    if line.startswith("RssAnon:"):
                        peak[0] = max(peak[0], int(line.split()[1]))
            except (OSError, ValueError):
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    _, status, usage = os.wait4(process.pid, 0)  # gives the CPU seconds, and only once
    ended.set()
    process.returncode = os.waitstatus_to_exitcode(status)
    watcher.join()
    if process.returncode:
        sys.exit(f"failed with {process.returncode}: {' '.join(command)}")
    return {
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "wall_s": time.perf_counter() - began,
        "anonymous_gb": peak[0] / 1e6,
    }


def command_of(
    case: str, paths: list[Path], out: Path, nj: int, directory: Path
) -> tuple[list[str], dict[str, str]]:
    base, *experts = map(str, paths)
    threads = {"OMP_NUM_THREADS": str(nj), "OPENBLAS_NUM_THREADS": str(nj)}
    like = NO_CRC.get(case, case)
    if like in METHODS or like in GPU or like in PTH:
        method, params = METHODS[{**GPU, **PTH}.get(like, like)]
        program = [__file__, "--inside", "no_crc"] if case in NO_CRC else ["-m", "lors.bin.merge"]
        command = [sys.executable, *program, "--method", method, "--base", base]
        command += ["--experts", *experts, "--out", str(out), "--nj", str(nj)]
        if params:
            command += ["--params", *(f"{name}={value}" for name, value in params.items())]
        command += OPTIONS.get(case, [])
        if case in GPU:
            command += ["--device", "cuda"]
        return command, {"PYTHONPATH": str(ROOT)}
    if case == FLOOR or case in PLAIN or case in GRID_CASES:
        command = [sys.executable, __file__, "--inside", case, "--out", str(out), "--nj", str(nj)]
        command += [base, *experts]
        return command, {**threads, "PYTHONPATH": str(ROOT)}
    method, params, _ = MERGEKIT[case]
    weights = {k: v for k, v in params.items() if k in ("weight", "density", "gamma", "epsilon")}
    models = [{"model": expert, "parameters": weights} for expert in experts]
    content = {"merge_method": method, "models": models, "dtype": "float32"}
    if method not in ("linear", "karcher"):
        content["base_model"] = base
    config = directory / f"{case}.json"  # JSON is YAML
    config.write_text(json.dumps(content))
    tool = shutil.which("mergekit-pytorch")
    return [str(tool), str(config), str(out.parent)], threads


def report(results: dict[str, dict[str, float]]) -> str:
    lines = [f"{'case':26}{'CPU s':>9}{'wall s':>9}{'anon GB':>9}  ratio of CPU s"]
    for case, found in results.items():
        peers = {name: ours for name, (_, _, ours) in MERGEKIT.items()}
        ours = {**PLAIN, **PTH, **NO_CRC, **peers}.get(case)
        ratio = ""
        if ours in results:
            ratio = f"{found['cpu_s'] / results[ours]['cpu_s']:.1f} x {ours}"
        if case == "grid_plain" and "grid" in results:
            times = GRID_CASES[case] * found["cpu_s"] / results["grid"]["cpu_s"]
            ratio = f"times {GRID_CASES[case]}: {times:.1f} x grid"
        numbers = f"{found['cpu_s']:9.1f}{found['wall_s']:9.1f}{found['anonymous_gb']:9.2f}"
        lines.append(f"{case:26}{numbers}  {ratio}")
    return "\n".join(lines)


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cases = [*METHODS, FLOOR, *PTH, *NO_CRC, *GPU, *PLAIN, *GRID_CASES, *MERGEKIT]
    parser.add_argument("--dir", type=Path, help="directory for the models and the merged models")
    parser.add_argument(
        "--layers", type=int, default=12, help="layers a side (default: 12, the real size)"
    )
    parser.add_argument(
        "--width", type=int, default=SMALL, help="width of the model (default: %(default)s)"
    )
    parser.add_argument("--experts", type=int, default=5)
    parser.add_argument("--nj", type=int, default=2, help="threads (default: 2)")
    parser.add_argument("--cases", nargs="+", choices=cases, default=cases)
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--inside", choices=[FLOOR, *PLAIN, *GRID_CASES], help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("paths", nargs="*", type=Path, help=argparse.SUPPRESS)
    return parser


def run_inside(args: argparse.Namespace) -> None:
    """Run a case that is measured as a process of its own."""
    if args.inside == FLOOR:
        run_floor(args.paths, args.out)
    elif args.inside == "grid":
        run_grid(args.paths, args.out.parent, args.nj)
    elif args.inside == "grid_plain":
        run_grid_plain(args.paths)
    else:
        plain.run_plain(args.inside, args.paths, args.out)


def main() -> None:
    if sys.argv[1:3] == ["--inside", "no_crc"]:  # the other arguments are those of lors.bin.merge
        sys.exit(run_without_checksums(sys.argv[3:]))
    parser = get_parser()
    args = parser.parse_args()
    if args.inside:
        run_inside(args)
        return
    if args.dir is None:
        parser.error("--dir is required")
    sys.path.insert(0, str(ROOT))
    paths = make_models(args.dir, args.width, args.layers, args.experts)
    if set(args.cases) & set(GRID_CASES):
        grid_paths = make_models(args.dir, args.width, GRID_LAYERS, args.experts)
    pth_cases = {*PTH, *NO_CRC}
    if set(args.cases) & pth_cases:
        pth_paths = make_models(args.dir, args.width, args.layers, args.experts, ".pth")
    results: dict[str, dict[str, float]] = {}
    for case in args.cases:
        if case in MERGEKIT and shutil.which("mergekit-pytorch") is None:
            print(f"{case}: left out, mergekit is not installed", flush=True)
            continue
        if case in GPU and not torch.cuda.is_available():
            print(f"{case}: left out, there is no GPU that torch can use", flush=True)
            continue
        suffix = ".pth" if case in pth_cases else ".safetensors"
        out = args.dir / "merged" / case / f"model{suffix}"
        shutil.rmtree(out.parent, ignore_errors=True)
        out.parent.mkdir(parents=True)
        inputs = grid_paths if case in GRID_CASES else pth_paths if case in pth_cases else paths
        results[case] = measure(*command_of(case, inputs, out, args.nj, args.dir))
        shutil.rmtree(out.parent)
        print(f"{case}: {results[case]}", flush=True)
        if args.json:
            args.json.write_text(json.dumps({"args": vars(args), "results": results}, default=str))
    print(f"\n{report(results)}")


if __name__ == "__main__":
    main()
