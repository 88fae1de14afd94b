"""The logs of both job wrappers, read by lors.recipe.job_log: one format (utils/jobs.py)."""

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lors.recipe.job_log import error_in, read_job_log

sys.path.insert(0, str(Path(__file__).parents[2] / "utils"))
from job_options import Call
from slurm_conf import SWITCHES
from slurm_files import task_file

UTILS = Path(__file__).parents[2] / "utils"
DATE = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d"


def run_here(*words):
    """Run a call by utils/run.py."""
    subprocess.run([UTILS / "run.py", *words], capture_output=True, timeout=60)


def run_as_slurm(*words):
    """Run each job of a call by utils/slurm_task.sh, as the tasks of Slurm's job array 7."""
    call = Call(list(words), SWITCHES)
    directory = Path("call")
    directory.mkdir(exist_ok=True)
    (directory / "task").write_bytes(task_file(call))
    for number in call.numbers:
        task = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": str(number)}
        with Path(call.for_job(call.log, number)).open("ab") as log:
            subprocess.run(
                [UTILS / "slurm_task.sh", directory],
                env={**os.environ, **task},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                timeout=60,
            )


@pytest.fixture(params=[run_here, run_as_slurm], ids=["run.py", "slurm_task.sh"])
def run(request, tmp_path, monkeypatch):
    """Run a call in an empty directory."""
    monkeypatch.chdir(tmp_path)
    return request.param


def slurm_job(run, number=1):
    return f"7_{number}" if run is run_as_slurm else ""


def test_success(run):
    began = int(time.time())
    words = [sys.executable, "-m", "json.tool", "--indent", "2", "in put.json", "o'ut.json"]
    Path("in put.json").write_text("{}")
    run("x.log", *words)
    log = read_job_log("x.log")
    assert log.command == tuple(words)
    assert log.module == "json.tool" and log.option("indent") == ["2", *words[-2:]]
    assert log.status == 0 and not log.has_failed
    assert log.process.host == socket.gethostname()
    assert log.process.pid > 0 and log.process.slurm_job == slurm_job(run)
    assert began <= log.process.seen_at <= time.time()
    assert Path("o'ut.json").exists()


def test_the_lines_of_both_wrappers_are_the_same(run):
    run("--num_threads", "3", "x.log", "sh", "-c", "echo out; echo err >&2; kill -KILL $$")
    job = ", Slurm job 7_1" if slurm_job(run) else ""
    assert re.fullmatch(
        r"# sh -c 'echo out; echo err >&2; kill -KILL \$\$'\n"
        rf"# Running on {re.escape(socket.gethostname())}, process \d+{job}\n"
        rf"# Started at {DATE}\n#\nout\nerr\n# Ended by SIGKILL \(out of memory\?\)\n"
        rf"# Accounting: time=\d+ threads=3\n# Finished at {DATE} with status 137\n",
        Path("x.log").read_text(),
    )


@pytest.mark.parametrize(
    ("script", "status", "error"),
    [
        ("echo KeyError: x; exit 3", 3, "KeyError: x"),
        ("kill -SEGV $$", 139, "ended by SIGSEGV"),
        ("echo KeyError: x; kill -KILL $$", 137, "ended by SIGKILL (out of memory?)"),
        ("printf 'no newline'; exit 1", 1, "no newline"),
        ("exit 1", 1, ""),
    ],
)
def test_failure(run, script, status, error):
    run("x.log", "sh", "-c", script)
    log = read_job_log("x.log")
    assert log.status == status and log.has_failed
    assert error_in("x.log") == error


def test_command_that_does_not_exist(run):
    run("x.log", "no-such-program")
    log = read_job_log("x.log")
    assert log.status == 127 and log.command == ("no-such-program",)
    assert error_in("x.log") == "cannot start no-such-program: No such file or directory"


def test_traceback_of_python(run):
    code = "import logging; logging.error('a worker failed'); {}['x']"
    run("x.log", sys.executable, "-c", code)
    assert read_job_log("x.log").status == 1
    assert error_in("x.log") == "KeyError: 'x'"


TRAINING_JOB = """
import argparse, sys
from pathlib import Path
from lors.log import run_main
from lors.recipe.launch import run_training

def work(args):
    code = "import logging; logging.error('epoch 1'); {}['x']"
    run_training([sys.executable, "-c", code], Path("out"))

sys.exit(run_main(argparse.ArgumentParser("lors.bin.train"), work, []))
"""


def test_error_of_a_training_program(run, monkeypatch):
    """The log of a training job has the output of the program that it starts."""
    monkeypatch.setenv("PYTHONPATH", str(UTILS.parent))
    run("x.log", sys.executable, "-c", TRAINING_JOB)
    assert read_job_log("x.log").status == 1
    assert error_in("x.log") == "KeyError: 'x'"


def test_job_that_a_user_stopped(run):
    """TERM, as from scancel or a closed terminal, is no failure of the job."""
    run("x.log", "sh", "-c", "kill -TERM $$")
    log = read_job_log("x.log")
    assert log.status == 143 and not log.has_failed
    assert error_in("x.log") == "ended by SIGTERM"


def test_array(run):
    run("JOB=2:4", "x.JOB.log", "sh", "-c", "test $1 != 3", "sh", "JOB", "--only", "JOB")
    logs = {number: read_job_log(f"x.{number}.log") for number in (2, 3, 4)}
    assert [log.status for log in logs.values()] == [0, 1, 0]
    assert [log.option("only") for log in logs.values()] == [["2"], ["3"], ["4"]]
    expected = [slurm_job(run, number) for number in logs]
    assert [log.process.slurm_job for log in logs.values()] == expected


@pytest.mark.parametrize("output", ["50%", "50%\n", "", "# Finished"])
def test_output_without_a_last_newline(run, output):
    run("x.log", "printf", "%s", output)
    assert read_job_log("x.log").status == 0
    assert Path("x.log").read_text().count("\n# Finished at ") == 1


def test_words_with_special_characters(run):
    words = ("a b", "'", "$HOME", "ü;|&<>", "#", "--out", "*")
    run("x.log", "true", *words)
    assert read_job_log("x.log").command == ("true", *words)


def test_a_job_that_runs_again_is_judged_by_its_last_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_here(
        "--retry", "1", "x.log", "sh", "-c", "test -e x || { touch x; echo OSError: x; false; }"
    )
    assert Path("x.log").read_text().count("# Running on ") == 2
    assert read_job_log("x.log").status == 0
    assert error_in("x.log") == ""


def test_a_job_that_goes_back_into_the_queue_has_not_ended(tmp_path, monkeypatch):
    """A stand-in for scontrol ends the task, as Slurm does when it requeues a job."""
    monkeypatch.chdir(tmp_path)
    Path("scontrol").write_text("#!/bin/sh\nkill -TERM $PPID\n")
    Path("scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    command = ["x.log", "sh", "-c", "test -e x || { touch x; exit 85; }"]
    run_as_slurm("--requeue", "1", *command)
    assert read_job_log("x.log").status is None
    run_as_slurm("--requeue", "1", *command)
    assert Path("x.log").read_text().count("# Running on ") == 2
    assert read_job_log("x.log").status == 0
