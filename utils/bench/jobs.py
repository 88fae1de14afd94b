#!/usr/bin/env python3
"""Measure the cost of the job wrappers: many trivial jobs, beside other ways to run them.

Usage: utils/bench/jobs.py [--tasks 100] [--rounds 3] [--nj 8] [--json FILE]

Each job runs `true`, with its own log if the program can write one; the seconds are the wall time
of the whole call. On this machine: utils/run.py beside GNU parallel and beside xargs, which only
starts processes. On Slurm: utils/slurm.py beside `sbatch --wait --array`, submitit, and "Slurm
itself": sbatch with jobs that leave a file each, and a loop that looks for them every 0.05 s.
Missing programs are left out with a message. Without a Slurm (sinfo) the cluster of the tests
(tests/integration/slurm_cluster.py) is started for the measurement.

Each round runs all programs one after the other, so that other load slows all of them.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SUBMITIT = """
import sys, submitit
executor = submitit.AutoExecutor(folder="submitit", cluster="slurm")
executor.update_parameters(timeout_min=5, slurm_array_parallelism=int(sys.argv[2]), mem_gb=0.1)
command = submitit.helpers.CommandFunction(["true"])
for job in executor.map_array(lambda _: command(), range(int(sys.argv[1]))):
    job.result()
"""
WATCHED = """
import os, subprocess, sys, time
tasks, nj = sys.argv[1:]
os.mkdir("ended")
task = "#!/bin/sh\\ntrue\\n: > ended/$SLURM_ARRAY_TASK_ID\\n"
array = ["sbatch", f"--array=1-{tasks}%{nj}", "--output=watched.%a.log"]
subprocess.run(array, input=task, text=True, check=True)
while len(os.listdir("ended")) < int(tasks):
    time.sleep(0.05)
"""


def local_programs(tasks: int, nj: int) -> dict[str, list[str]]:
    numbers = [str(number) for number in range(1, tasks + 1)]
    wrapper = [str(ROOT / "utils/run.py"), "--max_jobs_run", str(nj), f"JOB=1:{tasks}"]
    return {
        "utils/run.py": [*wrapper, "run/x.JOB.log", "true"],
        "parallel": ["parallel", "-j", str(nj), "--results", "parallel", "true", ":::", *numbers],
        "xargs": ["xargs", "-a", "numbers", "-P", str(nj), "-n", "1", "true"],
    }


def slurm_programs(tasks: int, nj: int) -> dict[str, list[str]]:
    wrapper = [str(ROOT / "utils/slurm.py"), "--max_jobs_run", str(nj), f"JOB=1:{tasks}"]
    wait = ["sbatch", "--wait", f"--array=1-{tasks}%{nj}", "--output=sbatch.%a.log", "--wrap=true"]
    return {
        "utils/slurm.py": [*wrapper, "slurm/x.JOB.log", "true"],
        "sbatch": wait,
        "submitit": [sys.executable, "-c", SUBMITIT, str(tasks), str(nj)],
        "Slurm itself": [sys.executable, "-c", WATCHED, str(tasks), str(nj)],
    }


def why_missing(name: str) -> str:
    """Return why a program cannot be measured; empty if it can."""
    if name == "submitit":
        return "" if importlib.util.find_spec("submitit") else "no Python package submitit"
    if name.startswith("utils/") or name == "Slurm itself":
        return ""
    return "" if shutil.which(name) else "not installed"


@contextlib.contextmanager
def slurm() -> Iterator[str]:
    """Provide a Slurm; yield its description, or "none" with the reason."""
    if shutil.which("sinfo") and subprocess.run(["sinfo"], capture_output=True).returncode == 0:
        yield "the one of this cluster"
        return
    sys.path.insert(0, str(ROOT))
    from tests.integration.slurm_cluster import Cluster, why_not

    if why_not():
        yield f"none: {why_not()}"
        return
    with Cluster() as cluster:
        os.environ.update(cluster.environment)
        yield "two nodes of 8 cores emulated on this machine"


def measure(programs: dict[str, list[str]], tasks: int, rounds: int) -> dict[str, list[float]]:
    """Return program -> wall seconds of each round."""
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, command in programs.items():
            with tempfile.TemporaryDirectory(prefix="bench_jobs.", dir=Path.cwd()) as directory:
                Path(directory, "numbers").write_text("".join(f"{i}\n" for i in range(tasks)))
                began = time.monotonic()
                done = subprocess.run(command, cwd=directory, capture_output=True, text=True)
                seconds[name].append(time.monotonic() - began)
            if done.returncode != 0:
                raise SystemExit(f"{name} failed: {done.stderr[-2000:]}")
    return seconds


def show(title: str, seconds: dict[str, list[float]], wrapper: str) -> None:
    print(f"\n{title}\n{'program':16}{'seconds':>9}{'spread':>16}   against {wrapper}")
    own = statistics.median(seconds[wrapper])
    for name, values in seconds.items():
        middle = statistics.median(values)
        spread = f"{min(values):.2f} to {max(values):.2f}"
        print(f"{name:16}{middle:9.2f}{spread:>16}   {middle / own:.2f}x")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--nj", type=int, default=8, help="jobs at the same time")
    parser.add_argument("--json", type=Path, help="write all seconds to this file")
    args = parser.parse_args()

    results: dict[str, dict[str, list[float]]] = {}

    def run(place: str, make: Callable[[int, int], dict[str, list[str]]], wrapper: str) -> None:
        programs = make(args.tasks, args.nj)
        for name in list(programs):
            if why_missing(name):
                print(f"left out: {name} ({why_missing(name)})", file=sys.stderr)
                del programs[name]
        results[place] = measure(programs, args.tasks, args.rounds)
        show(f"{place}: {args.tasks} tasks, {args.nj} at a time", results[place], wrapper)

    run("this machine", local_programs, "utils/run.py")
    with slurm() as which:
        if which.startswith("none"):
            print(f"\nSlurm, {which}", file=sys.stderr)
        else:
            run(f"Slurm ({which})", slurm_programs, "utils/slurm.py")
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
