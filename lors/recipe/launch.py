"""Start a training program: in one process, or in several by the launcher of torch."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from lors.errors import LorsError, UsageError
from lors.fileio import write_text
from lors.processes import end_with_parent

LOG = "train.log"
TAIL_LINES = 20
TAIL_WIDTH = 1000
"""Most characters of a line in the message about a failed training."""
PIECE = 1 << 16
"""Most characters that are read at once, of a line without end."""
THREAD_COUNTS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
THREAD_SETTINGS = (*THREAD_COUNTS, "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
"""Environment variables that the job wrappers set; a training resumed by hand keeps them."""
STOP_SECONDS = 15.0
"""How long a training program may take to end after TERM."""
RUN_SH = """\
#!/usr/bin/env bash
# Starts or resumes this training. Its log is {name}; the logs of earlier parts are numbered.
set -euo pipefail
cd {directory}
if [ -e {log} ]; then
    number=1
    while [ -e {stem}."$number".log ]; do number=$((number + 1)); done
    mv {log} {stem}."$number".log
fi
{threads}exec {command} > >(trap "" INT TERM; exec tee {log}) 2>&1
"""


def run_training(command: Sequence[str], out: Path, processes: int = 1) -> None:
    """Run a training program by the script ``out/run.sh``, which a user can also start by hand.

    The output goes to stdout and to ``out/train.log``. Ctrl-C and TERM end the program.

    Args:
        command: from :func:`training_command`.
        out: the training's directory.
        processes: processes of the training on each node, which share the threads of the job.

    Raises:
        LorsError: the program failed.
    """
    script = out / "run.sh"
    _write_script(command, script, out / LOG, processes)
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    # The script replaces itself by the program, which then gets the signals.
    process = subprocess.Popen(
        ["bash", str(script)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        preexec_fn=partial(end_with_parent, os.getpid()),
    )
    assert process.stdout is not None  # it is a pipe
    try:
        while line := process.stdout.readline(PIECE):
            print(line, end="", flush=True)
            tail.append(line[:TAIL_WIDTH].rstrip("\n"))
        status = process.wait()
    except BaseException:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            print(process.communicate(timeout=STOP_SECONDS)[0], end="", flush=True)
        process.kill()
        raise
    if status:
        raise LorsError(
            "the training failed",
            where=out / LOG,
            got="\n    ".join(["", *tail]),
            hint=f"mend the cause and run the stage again, or: bash {shlex.quote(str(script))}",
        )


def _write_script(command: Sequence[str], script: Path, log: Path, processes: int) -> None:
    """Write the shell script that starts or resumes a training, with the threads of this job."""
    settings = {name: os.environ[name] for name in THREAD_SETTINGS if name in os.environ}
    for name in THREAD_COUNTS:
        if settings.get(name, "").isdecimal():
            settings[name] = str(max(1, int(settings[name]) // processes))
    threads = [f"{name}={shlex.quote(value)}" for name, value in settings.items()]
    paths = {"directory": Path.cwd(), "log": log, "stem": log.with_suffix("")}
    text = RUN_SH.format(
        name=log.name,
        threads=f"export {' '.join(threads)}\n" if threads else "",
        command=shlex.join(command),
        **{name: shlex.quote(str(path)) for name, path in paths.items()},
    )
    write_text(script, text)


def training_command(
    module: str, options: Sequence[str], ngpu: int, num_nodes: int = 1
) -> list[str]:
    """Return the command of an ESPnet training program on `ngpu` GPUs of each of `num_nodes` nodes.

    The launcher ``torch.distributed.run`` starts several processes. On several nodes ``srun``
    starts the launcher once on each node. ESPnet then takes its rank from the environment.

    Args:
        module: module of the program, for ``python -m``.
        options: options of the program, except those about devices and processes.
        ngpu: GPUs of each node; 0 trains on CPUs, with one process on each node.
        num_nodes: nodes of the Slurm job that this process is in.

    Raises:
        UsageError: several nodes, but this process is not in a Slurm job with them.
        LorsError: Slurm does not tell the addresses of the nodes.
    """
    if num_nodes == 1 and ngpu <= 1:
        work = [sys.executable, "-m", module, *options]
        return [*work, "--ngpu", str(ngpu), "--multiprocessing_distributed", "false"]
    if num_nodes == 1:
        start = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    else:
        start = _on_every_node(num_nodes)
    processes = ["--nnodes", str(num_nodes), "--nproc_per_node", str(max(ngpu, 1))]
    return [
        *(*start, *processes, "-m", module, *options, "--ngpu", str(min(ngpu, 1))),
        *("--multiprocessing_distributed", "false", "--dist_backend", "nccl" if ngpu else "gloo"),
    ]


def _on_every_node(num_nodes: int) -> list[str]:
    """Return the command that starts the launcher on every node of this Slurm job."""
    job, nodes = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_JOB_NUM_NODES")
    if not job or nodes != str(num_nodes):
        raise UsageError(
            "training on several nodes needs a Slurm job that has them",
            where="--num_nodes",
            expected=f"a job of {num_nodes} nodes",
            got=f"a job of {nodes} nodes" if job else "no Slurm job",
            hint="set cmd_backend=slurm in cmd.sh and give --num_nodes to run.sh",
        )
    names = _scontrol("show", "hostnames", os.environ["SLURM_JOB_NODELIST"]).split()
    # The address that Slurm itself uses: other nodes may be unable to resolve the name.
    node = _scontrol("--oneliner", "show", "node", names[0])
    address = re.search(r"\bNodeAddr=(\S+)", node)
    host = address[1] if address else names[0]
    port = 20000 + int(job) % 20000  # different for each job on a node
    start = ["srun", "--export=ALL", "--kill-on-bad-exit=1", "--ntasks-per-node=1"]
    start += [f"--nodes={num_nodes}", f"--ntasks={num_nodes}"]
    start.append(f"--cpus-per-task={os.environ.get('SLURM_CPUS_PER_TASK', '1')}")
    # Slurm sets the rank of each node. Without a rank, torch compares the address with the names of
    # the node to find node 0, and may find none.
    shell = 'exec "$0" -m torch.distributed.run --node_rank "$SLURM_NODEID" "$@"'
    meet = ["--master_addr", host, "--master_port", str(port)]
    return [*start, "sh", "-c", shell, sys.executable, *meet]


def _scontrol(*words: str) -> str:
    try:
        done = subprocess.run(
            ["scontrol", *words],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=True,
            timeout=60,
        )
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        raise LorsError("Slurm does not answer", where="scontrol", got=said.strip()) from None
    return done.stdout
