"""utils/slurm_task.py without Slurm: when a task leaves an exit status, and when it must not."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

TASK = Path(__file__).parents[2] / "utils/slurm_task.py"


@pytest.fixture
def start(tmp_path):
    """Start a task with a command, as Slurm would in an array's job."""

    def start_one(*command, **call):
        told = {"job_name": "JOB", "num_threads": 1, "gpu": 0, "requeue": 0, "detached": False}
        (tmp_path / "call").mkdir()
        text = json.dumps({**told, **call, "command": command})
        (tmp_path / "call/call.json").write_text(text)
        with (tmp_path / "log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-IS", TASK, tmp_path / "call"],
                cwd=tmp_path,
                env={**os.environ, "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"},
                stdout=log,
                stderr=log,
            )

    return start_one


def statuses(tmp_path):
    return {path.name: path.read_text() for path in (tmp_path / "call").glob("*status*")}


@pytest.mark.parametrize("status", [0, 3, 85])
def test_exit_status_is_left(start, tmp_path, status):
    assert start("sh", "-c", f"echo part JOB; exit {status}").wait(30) == status
    assert statuses(tmp_path) == {"status.3": f"{status}\n"}
    log = (tmp_path / "log").read_text()
    assert ", Slurm job 7_3\n" in log and "\npart 3\n" in log
    assert log.endswith(f"with status {status}\n")


def test_command_that_was_killed_alone_has_failed(start, tmp_path):
    assert start("sh", "-c", "kill -KILL $$").wait(30) == 137
    assert statuses(tmp_path) == {"status.3": "137\n"}


@pytest.mark.parametrize("first", ["the task", "the command"])
def test_no_status_of_a_job_that_slurm_ends(start, tmp_path, first):
    """Slurm may have put it back into the queue; it signals one process after the other."""
    process = start("sh", "-c", "echo $$ > pid.part; mv pid.part pid; exec sleep 60")
    while not (tmp_path / "pid").exists():
        time.sleep(0.02)
    if first == "the command":
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGTERM)
        time.sleep(0.3)
    process.terminate()
    assert process.wait(30) == 128 + signal.SIGTERM
    assert statuses(tmp_path) == {}
    assert "# Ended by Slurm (SIGTERM) at " in (tmp_path / "log").read_text()


def test_files_of_a_detached_call_are_removed(start, tmp_path):
    assert start("true", detached=True).wait(30) == 0
    assert not (tmp_path / "call").exists()
