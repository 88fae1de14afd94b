"""utils/slurm.py without a cluster: wrong calls, exit statuses, answers of Slurm that are lost."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "utils"))
import slurm
import slurm_client
from job_options import Call
from slurm_conf import SWITCHES
from slurm_files import CallDirectory, owner_at_work

WRAPPER = Path(__file__).parents[2] / "utils/slurm.py"


def run(*arguments, cwd, path="/usr/bin:/bin"):
    return subprocess.run(
        [WRAPPER, *arguments], cwd=cwd, env={"PATH": str(path)}, capture_output=True, text=True
    )


@pytest.fixture
def make_runner(tmp_path, monkeypatch):
    """Make a Runner that leaves the signals of this process alone and never waits."""
    monkeypatch.setattr(slurm, "Signals", lambda: SimpleNamespace(wait=lambda seconds: 0))

    def make(*words):
        runner = slurm.Runner(Call(list(words), SWITCHES))
        runner.directory = CallDirectory(tmp_path)
        return runner

    return make


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        (["--memory", "2G", "x.log", "true"], ["--memory 2G", "conf/slurm.conf", "--partition"]),
        (["--config", "none.conf", "x.log", "true"], ["none.conf"]),
        (["--detach", "maybe", "x.log", "true"], ["--detach", "maybe"]),
        (["--detach", "true", "JOB=1:2", "x.JOB.log", "true"], ["--detach"]),
        (["--detach", "true", "--retry", "1", "x.log", "true"], ["--detach", "--retry"]),
        (["--retry", "-1", "x.log", "true"], ["--retry", "from 0", "'-1'"]),
        (["JOB=1:2", "x.log", "true"], ["JOB", "x.log"]),
        (["JOB=1:10000000000", "x.JOB.log", "true"], ["JOB=1:10000000000", "1000000000"]),
        (["JOB=1:2", "xJOB.log", "true"], ["JOB", "xJOB.log"]),
        (["-", "true"], ["not -"]),
        (["a\\b.log", "true"], [r"a\\b.log", "backslash"]),
        (["a\nb.log", "true"], [r"a\nb.log", "line break"]),
        (["x.log"], []),
    ],
)
def test_wrong_calls(tmp_path, arguments, facts):
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert all(fact in done.stderr for fact in [*facts, "utils/slurm.py --help"]), done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a b", "a'\"b", "a%b", "$HOME", os.fsdecode(b"a\xffb")])
def test_submission_from_a_directory_of_any_name(tmp_path, name):
    place = tmp_path / name
    place.mkdir()
    done = subprocess.run(
        [WRAPPER, "--dry_run", "true", "x.log", "true"], cwd=place, capture_output=True
    )
    assert (done.returncode, done.stderr) == (0, b"")
    words = shlex.split(os.fsdecode(done.stdout))
    assert f"--chdir={place}" in words
    assert f"--output={place}/x.log".replace("%", "%%") in words


def test_directory_that_was_removed(tmp_path):
    command = f"cd gone && rmdir ../gone && {sys.executable} {WRAPPER} x.log true"
    (tmp_path / "gone").mkdir()
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "what to do: " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '"x"', "[" * 100_000, '{"detached": 0}', '{"pid": 1}']
)
def test_damaged_record_of_an_earlier_call(tmp_path, content):
    directory = tmp_path / ".x.log.slurm.abc"
    directory.mkdir()
    (directory / "call.json").write_text(content)
    assert owner_at_work(tmp_path / "x.log", "7", set()) == ""


@pytest.mark.parametrize("pid", ["x", None, 10**30])
def test_earlier_call_without_a_process(tmp_path, pid):
    directory = tmp_path / ".x.log.slurm.abc"
    directory.mkdir()
    call = {"detached": False, "inside": "", "host": os.uname().nodename, "pid": pid}
    (directory / "call.json").write_text(json.dumps(call))
    assert owner_at_work(tmp_path / "x.log", "7", set()) == ""


def test_machine_without_slurm(tmp_path):
    programs, place = tmp_path / "bin", tmp_path / "place"
    programs.mkdir()
    place.mkdir()
    for name in ("env", "python3"):
        (programs / name).symlink_to(shutil.which(name, path="/usr/bin:/bin"))
    done = run("x.log", "true", cwd=place, path=programs)
    assert done.returncode == 1 and "squeue: No such file or directory" in done.stderr
    assert "what to do" in done.stderr and "LORS_CMD_BACKEND=local" in done.stderr
    assert list(place.iterdir()) == []


def test_a_status_counts_when_its_line_is_whole(make_runner, tmp_path):
    left = {"7_0": "0\n", "7_1": "", "7_2": "13", "7_3": "137\n", "7_4": "0\n", "6_5": "0\n"}
    left |= {"7_6": "zero\n", "7": "0\n", "x_y": "0\n", "7_" + "9" * 200: "0\n"}  # damaged
    for job, text in left.items():
        (tmp_path / f"status.{job}").write_text(text)
    runner = make_runner("JOB=0:6", "x.JOB.log", "true")
    # Job 4 has been counted. Job 5 failed in array 6 and was submitted again in array 7.
    runner.waiting = {0, 1, 2, 3, 5, 6}
    runner.arrays.array_of = dict.fromkeys(range(7), 7)
    assert runner._statuses() == {0: 0, 3: 137}
    runner._collect()
    assert (runner.waiting, runner.failed, runner.done) == ({1, 2, 5, 6}, [3], 2)


@pytest.fixture
def busy(monkeypatch):
    """Replace Slurm by a controller that accepts arrays late; return the list of its commands.

    Args (of the fixture's value):
        silent: how many commands get no answer.
        late: how many commands until the first array is in the queue.
    """

    def make(silent, late):
        asked, queue = [], []

        def ask(*command):
            asked.append(command[0])
            if command[0] == "sbatch":
                comment = next(word for word in command if word.startswith("--comment="))
                queue.append(f"{len(queue) + 11}|1|PENDING|None|{comment.partition('=')[2]}\n")
            if command[0] == "scancel":
                queue[:] = [line for line in queue if line.split("|")[0] not in command]
            if len(asked) <= silent:
                raise slurm_client.SlurmAway("timed out")
            if command[0] == "sbatch":
                return f"{len(queue) + 10}\n"
            return "".join(queue[len(asked) <= late :])

        monkeypatch.setattr(slurm_client, "ask", ask)
        return asked

    return make


def test_accepted_array_without_an_answer_is_not_submitted_twice(make_runner, busy):
    """At first the controller does not tell either whether it accepted the array."""
    asked = busy(silent=2, late=0)
    assert make_runner("JOB=1:1", "x.JOB.log", "true").submit([1]) == 11
    assert asked == ["sbatch", "squeue", "squeue"]


def test_array_that_was_accepted_late_is_cancelled(make_runner, busy):
    asked = busy(silent=2, late=4)
    runner = make_runner("JOB=1:1", "x.JOB.log", "true")
    assert runner.submit([1]) == 12
    runner._look_into_queue()
    assert asked == ["sbatch", "squeue", "squeue", "sbatch", "squeue", "scancel"]
    assert {array for array, _ in slurm_client.queue()} == {12}
