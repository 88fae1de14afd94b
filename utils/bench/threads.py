#!/usr/bin/env python3
"""Measure how waiting threads slow a training, on an idle and on a busy machine.

Usage: utils/bench/threads.py [--threads 2] [--others 2] [--steps 20] [--rounds 3] [--json FILE]

A step is one of a small training: products of matrices of the width of the mini recipe's model,
forwards and backwards, with work of Python between them, during which the threads of OpenMP wait.
By default they spin; with the settings of the job wrappers (SLEEPING_THREADS in utils/jobs.py) they
sleep. Each is measured alone and beside other processes that use a core each. All of them share as
many cores as the training has threads. The figures are seconds a step: the median of all steps, and
the smallest and the largest median of a round.

Each round measures all four one after the other, so that other load slows all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from jobs import SLEEPING_THREADS

from lors.processes import end_with_parent

WARM_UP = 2
WIDTH, LAYERS, FRAMES = 128, 50, 500  # many short operations, with a wait after each
BUSY = "while True: pass"


def train(steps: int) -> list[float]:
    """Return the seconds of each step of the training."""
    import torch

    torch.manual_seed(1)
    weights = [torch.randn(WIDTH, WIDTH) * WIDTH**-0.5 for _ in range(LAYERS)]
    for weight in weights:
        weight.requires_grad_()
    optimizer = torch.optim.Adam(weights, lr=1e-4)
    seconds = []
    for _ in range(WARM_UP + steps):
        began = time.perf_counter()
        features = torch.randn(FRAMES, WIDTH)
        for weight in weights:
            features = torch.tanh(features @ weight)
            sum(range(1000))  # as Python calls the layers of a model
        optimizer.zero_grad()
        features.square().mean().backward()
        optimizer.step()
        seconds.append(time.perf_counter() - began)
    return seconds[WARM_UP:]


def measure(settings: dict[str, str], threads: int, others: int, steps: int) -> list[float]:
    """Return the seconds of each step in a process with these settings of the environment.

    Args:
        settings: environment variables about waiting; others of this kind are removed.
        threads: number of threads.
        others: number of other processes that use a core each.
        steps: number of steps.
    """
    kept = {name: value for name, value in os.environ.items() if name not in SLEEPING_THREADS}
    number = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    with_parent = partial(end_with_parent, os.getpid())
    busy = [
        subprocess.Popen([sys.executable, "-c", BUSY], preexec_fn=with_parent)
        for _ in range(others)
    ]
    try:
        done = subprocess.run(
            [sys.executable, __file__, "--worker", "--steps", str(steps)],
            env={**kept, **number, **settings},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            preexec_fn=with_parent,
        )
    finally:
        for process in busy:
            process.kill()
            process.wait()
    return json.loads(done.stdout)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2, help="of the training; and cores")
    parser.add_argument("--others", type=int, default=2, help="processes beside the training")
    parser.add_argument("--steps", type=int, default=20, help="of a training")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the seconds of all steps to this file")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(train(args.steps)))
        return 0

    cores = sorted(os.sched_getaffinity(0))[: args.threads]
    if len(cores) < args.threads:
        parser.error(f"--threads {args.threads}: this machine offers {len(cores)} cores")
    os.sched_setaffinity(0, cores)
    places = {"alone": 0}
    if args.others:
        places[f"beside {args.others} processes"] = args.others
    cases = {
        f"{name}, {place}": (settings, others)
        for place, others in places.items()
        for name, settings in (("spinning", {}), ("sleeping", SLEEPING_THREADS))
    }
    seconds: dict[str, list[list[float]]] = {case: [] for case in cases}
    for _ in range(args.rounds):
        for case, (settings, others) in cases.items():
            seconds[case].append(measure(settings, args.threads, others, args.steps))
    print(f"{args.threads} threads on as many cores, seconds a step")
    for case, rounds in seconds.items():
        middle = statistics.median(step for steps in rounds for step in steps)
        medians = [statistics.median(steps) for steps in rounds]
        print(f"{case:32}{middle:9.4f}   {min(medians):.4f} to {max(medians):.4f}")
    if args.json:
        args.json.write_text(json.dumps(seconds, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
