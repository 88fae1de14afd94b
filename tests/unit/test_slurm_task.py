"""utils/slurm_task.sh without Slurm: when a task leaves an exit status, and when it must not."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "utils"))
from job_options import Call
from slurm_conf import SWITCHES
from slurm_files import task_file

TASK = Path(__file__).parents[2] / "utils/slurm_task.sh"

# Writes its process id to a file and waits; takes some seconds to clean up when it gets TERM.
WAIT = """trap 'sleep {}; echo clean; exit 0' TERM
echo $$ > part; mv part pid; while :; do sleep 1; done"""


@pytest.fixture
def start(tmp_path):
    """Start a task of an array with a command, like Slurm."""
    started = []

    def start_one(*command, options=(), **environment):
        call = Call([*options, "JOB=3", "x.JOB.log", *command], SWITCHES)
        (tmp_path / "call").mkdir(exist_ok=True)
        (tmp_path / "call/task").write_bytes(task_file(call))
        numbers = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}
        with (tmp_path / "log").open("ab") as log:
            process = subprocess.Popen(
                [TASK, tmp_path / "call"],
                cwd=tmp_path,
                env={**os.environ, **numbers, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        started.append(process)
        return process

    yield start_one
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()


def begun(tmp_path):
    """Return the process id of a command, when it waits."""
    while not (tmp_path / "pid").exists():
        time.sleep(0.02)
    return int((tmp_path / "pid").read_text())


def statuses(tmp_path):
    return {path.name: path.read_text() for path in (tmp_path / "call").glob("*status*")}


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("status", [0, 3, 85])
def test_exit_status_is_left(start, tmp_path, status):
    assert start("sh", "-c", f"echo part JOB; exit {status}").wait(30) == status
    assert statuses(tmp_path) == {"status.7_3": f"{status}\n"}
    log = (tmp_path / "log").read_text()
    assert log.startswith(f"# sh -c 'echo part 3; exit {status}'\n# Running on ")
    assert ", Slurm job 7_3\n" in log and "\npart 3\n" in log
    assert log.endswith(f"with status {status}\n")


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_arguments_arrive_byte_by_byte(start, tmp_path, locale):
    words = [
        "",
        "a b",
        "ü\udcff",
        "w",
        "jJOB",
        "JOBS/JOB.JOB",
        "-n",
        "a\nb\n",
        "$(id)'\"\\",
        "%s\x01",
    ]
    show = ["sh", "-c", 'for word; do printf "%s\\0" "$word"; done > words', "sh"]
    assert start(*show, *words, LC_ALL=locale).wait(30) == 0
    found = (tmp_path / "words").read_bytes().decode(errors="surrogateescape").split("\0")
    assert found == [word.replace("S/JOB.JOB", "S/3.3") for word in words] + [""]


@pytest.mark.parametrize(
    ("command", "status", "said"),
    [
        ("no_such_program", 127, "\ncannot start no_such_program: No such file or directory\n"),
        ("./none", 127, "\ncannot start ./none: No such file or directory\n"),
        ("./call", 126, ": cannot execute: "),
    ],
)
def test_command_that_cannot_be_started(start, tmp_path, command, status, said):
    assert start(command).wait(30) == status
    assert statuses(tmp_path) == {"status.7_3": f"{status}\n"}
    log = (tmp_path / "log").read_text()
    assert said in log


def test_words_of_the_shell_are_no_commands(start):
    """Only programs are run, as by utils/run.py."""
    assert start("export", "A=b").wait(30) == 127


def test_names_of_the_user_arrive_as_exported(start, tmp_path):
    """Bash exports the value that a script assigns to a name of its environment."""
    names = ("directory", "number", "job", "asked", "pid", "texts", "date", "gpu", "requeue")
    exported = {name: f"user's {name}" for name in names}
    exported |= {f"BASH_FUNC_{name}%%": "() {  echo user\n}" for name in ("say", "now", "take")}
    show = "import json, os; json.dump(dict(os.environ), open('env', 'w'))"
    assert start(sys.executable, "-c", show, **exported).wait(30) == 0
    found = json.loads((tmp_path / "env").read_text())
    assert {name: found.get(name) for name in exported} == exported


def test_settings_of_the_users_shell_do_not_matter(start, tmp_path):
    """The task's own settings do not reach a command in bash, either."""
    command = ["bash", "-c", 'echo "[$unset]"; exit 1']
    assert start(*command, SHELLOPTS="errexit", SECONDS="500").wait(30) == 1
    assert statuses(tmp_path) == {"status.7_3": "1\n"}
    assert "\n[]\n" in (tmp_path / "log").read_text()
    assert re.search(r"^# Accounting: time=\d threads=1$", (tmp_path / "log").read_text(), re.M)


def test_command_that_was_killed_alone_has_failed(start, tmp_path):
    assert start("sh", "-c", "kill -KILL $$").wait(30) == 137
    assert statuses(tmp_path) == {"status.7_3": "137\n"}
    lines = (tmp_path / "log").read_text().splitlines()
    assert "# Ended by SIGKILL (out of memory?)" in lines
    assert all(line.startswith("#") for line in lines), lines


@pytest.mark.parametrize("status", [160, 193, 255])
def test_status_that_names_no_signal(start, tmp_path, status):
    assert start("sh", "-c", f"exit {status}").wait(30) == status
    log = (tmp_path / "log").read_text()
    assert "Ended by" not in log and "kill:" not in log


@pytest.mark.parametrize("said", ["50%", "50%\n", ""])
def test_lines_of_the_task_begin_a_line(start, tmp_path, said):
    assert start("printf", "%s", said).wait(30) == 0
    end = said and "50%\n"
    assert f"\n#\n{end}# Accounting: " in (tmp_path / "log").read_text()


def test_processes_that_a_command_leaves_are_ended(start, tmp_path):
    assert start("sh", "-c", "sleep 60 & echo $! > pid").wait(30) == 0
    assert not is_running(begun(tmp_path))


@pytest.mark.parametrize("first", ["the task", "the command"])
@pytest.mark.parametrize("does", ["exec sleep 60", "trap 'exit 1' TERM; sleep 60 & wait"])
def test_no_status_of_a_job_that_slurm_ends(start, tmp_path, first, does):
    """The job may be in the queue again. Slurm signals one process after the other.

    The command ends by the signal, or with an error that a library has made of it.
    """
    process = start("sh", "-c", f"echo $$ > pid.part; mv pid.part pid; {does}")
    pid = begun(tmp_path)
    if first == "the command":
        os.kill(pid, signal.SIGTERM)
        time.sleep(0.3)
    process.terminate()
    assert process.wait(30) == 128 + signal.SIGTERM
    assert statuses(tmp_path) == {}
    assert "# Ended by Slurm (SIGTERM) at " in (tmp_path / "log").read_text()


def test_warning_before_the_end(start, tmp_path):
    """The command cleans up. Without --requeue it does not go back into the queue."""
    process = start("sh", "-c", WAIT.format(0.5))
    begun(tmp_path)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(30) == 85
    assert statuses(tmp_path) == {"status.7_3": "85\n"}
    log = (tmp_path / "log").read_text()
    assert "\n# The time is nearly up" in log and "\nclean\n" in log


def test_warning_after_the_end(start, tmp_path):
    """A command that has ended by itself does not go back into the queue."""
    # The task calls tail on its log when the command has ended.
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/tail").write_text(f"#!/bin/sh\ntouch {tmp_path}/looks\nsleep 1\n")
    (tmp_path / "bin/tail").chmod(0o755)
    process = start("true", PATH=f"{tmp_path}/bin:{os.environ['PATH']}")
    while not (tmp_path / "looks").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(30) == 0
    assert statuses(tmp_path) == {"status.7_3": "0\n"}


def test_later_start_of_a_job_counts(start, tmp_path):
    """Slurm starts a job again while the first one is still at work, on a node out of sight."""
    first = start("sh", "-c", WAIT.format(0))
    pid = begun(tmp_path)
    assert start("true", SLURM_RESTART_COUNT="1").wait(30) == 0
    assert statuses(tmp_path) == {"status.7_3": "0\n"}
    (tmp_path / "call/status.7_3").unlink()
    os.kill(pid, signal.SIGTERM)
    assert first.wait(30) == 1
    assert statuses(tmp_path) == {}
    assert "on another node" in (tmp_path / "log").read_text()


def test_job_with_a_status_does_not_run_again(start, tmp_path):
    command = ["sh", "-c", "echo x >> runs; exit 3"]
    assert [start(*command, SLURM_RESTART_COUNT=n).wait(30) for n in "01"] == [3, 3]
    (tmp_path / "call/status.7_3").write_text("3")  # not a whole line: the task was killed
    assert start(*command, SLURM_RESTART_COUNT="2").wait(30) == 3
    assert (tmp_path / "runs").read_text() == "x\nx\n"


def test_cancelled_while_it_ends_after_a_warning(start, tmp_path):
    """The job must not go back into the queue."""
    process = start("sh", "-c", WAIT.format(1), options=["--requeue", "1"])
    begun(tmp_path)
    process.send_signal(signal.SIGUSR1)
    time.sleep(0.3)
    process.terminate()
    assert process.wait(30) == 128 + signal.SIGTERM
    assert statuses(tmp_path) == {}


@pytest.fixture
def scontrol(start, tmp_path):
    """Start a command with --requeue 1; a shell script stands in for scontrol."""

    def start_with(script, *command):
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin/scontrol").write_text(f'#!/bin/sh\necho "$@" >> asked\n{script}\n')
        (tmp_path / "bin/scontrol").chmod(0o755)
        path = f"{tmp_path}/bin:{os.environ['PATH']}"
        return start("sh", "-c", *command, options=["--requeue", "1"], PATH=path)

    return start_with


def test_back_into_the_queue_as_often_as_allowed(scontrol, tmp_path):
    assert scontrol("kill -TERM $PPID", "exit 85").wait(30) == 0
    assert (tmp_path / "asked").read_text() == "requeue 7_3\n"
    assert [path.name for path in (tmp_path / "call").glob("requeued.*")] == ["requeued.3"]
    assert statuses(tmp_path) == {}
    assert "# Back into the queue, time 1 of 1\n" in (tmp_path / "log").read_text()


def test_warned_task_waits_for_slurm_to_end_it(scontrol, tmp_path):
    """The warning itself is not this end."""
    process = scontrol("(sleep 1; touch ended; kill -TERM $PPID) &", WAIT.format(0))
    begun(tmp_path)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(30) == 0
    assert (tmp_path / "ended").exists() and statuses(tmp_path) == {}


def test_cancelled_while_the_controller_is_away(scontrol, tmp_path):
    """The task must not ask again: the job would come back."""
    process = scontrol("exit 1", "exit 85")
    while not (tmp_path / "asked").exists():
        time.sleep(0.02)
    process.terminate()
    assert process.wait(30) == 128 + signal.SIGTERM
    assert (tmp_path / "asked").read_text() == "requeue 7_3\n"
    assert "# Ended by Slurm (SIGTERM) at " in (tmp_path / "log").read_text()


def test_job_whose_returns_cannot_be_counted_does_not_go_back(scontrol, tmp_path):
    command = "mkdir call/requeued.3; exit 85"
    assert scontrol("kill -TERM $PPID", command).wait(30) == 85
    assert not (tmp_path / "asked").exists() and statuses(tmp_path) == {"status.7_3": "85\n"}


def test_files_of_a_detached_call_are_removed(start, tmp_path):
    assert start("true", options=["--detach", "true"]).wait(30) == 0
    assert not (tmp_path / "call").exists()
