"""How a training program is started: one process, or torch's launcher for several."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence

from lors.errors import LorsError, UsageError


def training_command(
    module: str, options: Sequence[str], ngpu: int, num_nodes: int = 1
) -> list[str]:
    """The command that runs an ESPnet training program on `ngpu` GPUs of each of `num_nodes` nodes.

    With more than one process it goes through ``torch.distributed.run``, on several nodes started
    by ``srun`` once on each; ESPnet takes its rank from the environment then.

    Args:
        module: to be called as ``python -m``.
        options: its options, but for those of devices and processes.
        ngpu: GPUs of each node; 0 trains on CPUs, with one process a node.
        num_nodes: nodes of the Slurm job that this is called in.

    Raises:
        UsageError: several nodes, and this is no Slurm job that has them.
        LorsError: Slurm does not say where the nodes are.
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
    """What starts the launcher on every node of this Slurm job, and says where they meet."""
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
    # The address that Slurm itself uses: the name of a node need not be known to the others.
    node = _scontrol("--oneliner", "show", "node", names[0])
    address = re.search(r"\bNodeAddr=(\S+)", node)
    host = address[1] if address else names[0]
    port = 20000 + int(job) % 20000  # another one for every job of a node
    start = ["srun", "--export=ALL", "--kill-on-bad-exit=1", "--ntasks-per-node=1"]
    start += [f"--nodes={num_nodes}", f"--ntasks={num_nodes}"]
    start.append(f"--cpus-per-task={os.environ.get('SLURM_CPUS_PER_TASK', '1')}")
    # Node 0 is the meeting place because Slurm says so. Left to torch, every node would compare
    # the address with its own names, and perhaps none would know itself.
    shell = 'exec "$0" -m torch.distributed.run --node_rank "$SLURM_NODEID" "$@"'
    meet = ["--master_addr", host, "--master_port", str(port)]
    return [*start, "sh", "-c", shell, sys.executable, *meet]


def _scontrol(*words: str) -> str:
    try:
        done = subprocess.run(
            ["scontrol", *words], capture_output=True, text=True, check=True, timeout=60
        )
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        raise LorsError("Slurm does not answer", where="scontrol", got=said.strip()) from None
    return done.stdout
