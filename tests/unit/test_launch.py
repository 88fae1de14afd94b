"""lors.recipe.launch: one process, or torch's launcher, on one node or on those of a Slurm job."""

import sys

import pytest

from lors.errors import LorsError, UsageError
from lors.recipe.launch import training_command

OPTIONS = ["--config", "a b.yaml"]
SCONTROL = """#!/bin/sh
case $* in
    "show hostnames n[7-8]") printf 'n7\\nn8\\n' ;;
    "--oneliner show node n7") echo "NodeName=n7 Arch=x86_64 NodeAddr=10.0.0.7 NodeHostName=n7" ;;
    *) echo "unexpected: $*" >&2; exit 1 ;;
esac
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A Slurm job of two nodes, as far as the environment and scontrol tell."""
    (tmp_path / "scontrol").write_text(SCONTROL)
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for name, value in {
        "SLURM_JOB_ID": "20012",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_NODELIST": "n[7-8]",
        "SLURM_CPUS_PER_TASK": "6",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def no_slurm(monkeypatch):
    for name in ("SLURM_JOB_ID", "SLURM_JOB_NUM_NODES"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("ngpu", [0, 1])
def test_one_process(ngpu):
    assert training_command("a.train", OPTIONS, ngpu) == [
        *(sys.executable, "-m", "a.train", *OPTIONS, "--ngpu", str(ngpu)),
        *("--multiprocessing_distributed", "false"),
    ]


def test_several_gpus_of_one_node():
    assert training_command("a.train", OPTIONS, 4) == [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *("--nnodes", "1", "--nproc_per_node", "4", "-m", "a.train", *OPTIONS, "--ngpu", "1"),
        *("--multiprocessing_distributed", "false", "--dist_backend", "nccl"),
    ]


@pytest.mark.parametrize(("ngpu", "processes", "backend"), [(0, "1", "gloo"), (4, "4", "nccl")])
def test_several_nodes(slurm, ngpu, processes, backend):
    command = training_command("a.train", OPTIONS, ngpu, 2)
    assert command == [
        *("srun", "--export=ALL", "--kill-on-bad-exit=1", "--ntasks-per-node=1"),
        *("--nodes=2", "--ntasks=2", "--cpus-per-task=6"),
        *("sh", "-c", 'exec "$0" -m torch.distributed.run --node_rank "$SLURM_NODEID" "$@"'),
        *(sys.executable, "--master_addr", "10.0.0.7", "--master_port", "20012"),
        *(
            "--nnodes",
            "2",
            "--nproc_per_node",
            processes,
            "-m",
            "a.train",
            *OPTIONS,
            "--ngpu",
            str(min(ngpu, 1)),
        ),
        *("--multiprocessing_distributed", "false", "--dist_backend", backend),
    ]


def test_several_nodes_without_slurm(no_slurm):
    with pytest.raises(UsageError, match=r"(?s)a job of 2 nodes.*no Slurm job.*cmd_backend=slurm"):
        training_command("a.train", OPTIONS, 1, 2)


def test_a_job_of_other_nodes(slurm):
    with pytest.raises(UsageError, match=r"(?s)a job of 3 nodes.*a job of 2 nodes"):
        training_command("a.train", OPTIONS, 1, 3)


def test_slurm_that_does_not_answer(slurm, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_NODELIST", "elsewhere")
    with pytest.raises(LorsError, match=r"(?s)Slurm does not answer.*unexpected: show hostnames"):
        training_command("a.train", OPTIONS, 1, 2)
