"""Training programs: their command on one or several nodes, and how they are run."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lors.errors import UsageError
from lors.recipe.launch import run_training, training_command
from tests.refusal import refusal

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
    with refusal("--num_nodes", "2 nodes", "cmd_backend=slurm", kind=UsageError):
        training_command("a.train", OPTIONS, 1, 2)


def test_a_job_of_other_nodes(slurm):
    with refusal("--num_nodes", "3 nodes", "2 nodes", kind=UsageError):
        training_command("a.train", OPTIONS, 1, 3)


def test_slurm_that_does_not_answer(slurm, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_NODELIST", "elsewhere")
    with refusal("scontrol", "unexpected: show hostnames"):
        training_command("a.train", OPTIONS, 1, 2)


# --- running a program


def program(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_output_goes_to_the_log_and_to_stdout(tmp_path, capfd):
    both = "import sys; print('out', flush=True); print('err', file=sys.stderr)"
    run_training(program(both), tmp_path)
    assert (tmp_path / "train.log").read_text() == "out\nerr\n" == capfd.readouterr().out


def test_failure_shows_the_end_of_the_output(tmp_path):
    out = tmp_path / "the out"
    out.mkdir()
    lines = program("import sys; [print(f'line {n}.') for n in range(40)]; sys.exit(3)")
    script = f"bash '{out}/run.sh'"
    with refusal(out / "train.log", "line 39.", "line 20.", script) as caught:
        run_training(lines, out)
    assert "line 19." not in str(caught.value)


def test_line_without_end_is_cut_in_the_message(tmp_path, capfd):
    endless = program("import sys; sys.stdout.write('x' * 3 * 10**6); sys.exit(3)")
    with refusal(tmp_path / "train.log", "xxx") as caught:
        run_training(endless, tmp_path)
    assert len(str(caught.value)) < 30_000
    assert capfd.readouterr().out == "x" * 3 * 10**6


def test_program_that_cannot_start(tmp_path):
    with refusal(tmp_path / "train.log", "/no/such/python"):
        run_training(["/no/such/python", "-m", "x"], tmp_path)


def test_logs_of_earlier_parts_are_kept(tmp_path):
    out = tmp_path / "the out"
    out.mkdir()
    for part in ("one", "two", "three"):
        run_training(program(f"print('{part}')"), out)
    subprocess.check_output(["bash", out / "run.sh"])
    logs = {path.name: path.read_text() for path in out.glob("*.log")}
    earlier = {"train.1.log": "one\n", "train.2.log": "two\n", "train.3.log": "three\n"}
    assert logs == {**earlier, "train.log": "three\n"}


def test_the_script_has_the_threads_and_the_directory_of_the_job(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("MKL_NUM_THREADS", "2")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.setenv("GOMP_SPINCOUNT", "5")
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    run_training(program(f"import os; print(os.getcwd(), *map(os.getenv, {names}))"), tmp_path)
    for name in names:
        monkeypatch.delenv(name)
    by_hand = subprocess.check_output(["bash", tmp_path / "run.sh"], cwd="/", text=True)
    assert by_hand == f"{Path.cwd()} 3 2 ACTIVE 5\n" == (tmp_path / "train.1.log").read_text()


@pytest.mark.parametrize(("given", "each"), [("8", "4"), ("1", "1"), ("8,2", "8,2")])
def test_the_processes_of_a_training_share_the_threads_of_the_job(
    tmp_path, monkeypatch, given, each
):
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    run_training(program("import os; print(os.environ['OMP_NUM_THREADS'])"), tmp_path, processes=2)
    assert (tmp_path / "train.log").read_text() == f"{each}\n"


STOPPABLE = r"""
import os, signal, sys, time
def stop(*_):
    time.sleep(0.5)
    os.write(1, b"cleaned up\n")  # print() of a signal handler fails inside another print()
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
print(os.getpid(), flush=True)
time.sleep(60)
"""
DRIVER = """
import signal, sys
from pathlib import Path
from lors.recipe.launch import run_training
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
run_training([sys.executable, "-c", sys.argv[1]], Path(sys.argv[2]))
"""


@pytest.fixture
def driver(tmp_path):
    """A process that runs a training, and the directory of the training in /proc."""
    command = [*program(DRIVER), STOPPABLE, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    yield process, Path("/proc") / process.stdout.readline().strip()
    process.kill()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_training_ends_before_its_driver(driver, tmp_path, signum):
    process, training = driver
    process.send_signal(signum)
    assert process.wait(30) != 0
    assert not training.exists()
    assert (tmp_path / "train.log").read_text() == f"{training.name}\ncleaned up\n"


def test_a_training_ends_with_a_driver_that_is_killed(driver):
    process, training = driver
    process.kill()
    process.wait(30)
    deadline = time.monotonic() + 10
    while training.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not training.exists()
