"""utils/slurm_client.py with stand-ins for Slurm's commands: its questions, and their answers."""

import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "utils"))
import slurm_client
from slurm_client import SlurmError, Stopped, Task

AWAY = "squeue: error: Unable to contact slurm controller (connect failure)"


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Make a stand-in for a command: a shell script, first on the PATH."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def make(name, script):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)

    return make


def patiently(act, said, give_up=0):
    signals = SimpleNamespace(wait=lambda seconds: give_up)
    return slurm_client.patiently(act, signals, said.append)


def test_queue_of_all_tasks(programs):
    programs(
        "squeue",
        "printf 'CLUSTER: c\\n12|1|RUNNING|None|lors:a|b#c#2\\n13|N/A|PENDING|None|\\377\\n'",
    )
    task = Task("RUNNING", "None", "lors:a|b#c#2")
    assert slurm_client.queue() == {(12, 1): task}
    assert task.tag == "lors:a|b#c"


def test_settings_of_the_user_and_of_the_job_around_do_not_reach_slurm(monkeypatch):
    dropped = {"SQUEUE_STATES", "SCANCEL_INTERACTIVE", "SLURM_MEM_PER_NODE", "SBATCH_WAIT"}
    for name in (*dropped, "SBATCH_ACCOUNT"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    kept = slurm_client.environment()
    assert {"SLURM_CONF", "SBATCH_ACCOUNT"} <= set(kept)
    assert not dropped & set(kept)


@pytest.mark.parametrize(
    ("state", "reason", "stuck"),
    [
        ("PENDING", "Priority", False),
        ("PENDING", "Resources", False),
        ("PENDING", "QOSMaxJobsPerUserLimit", False),
        ("PENDING", "JobHeldUser", True),
        ("PENDING", "PartitionTimeLimit", True),
        ("PENDING", "DependencyNeverSatisfied", True),
        ("PENDING", "BadConstraints", True),
        ("RUNNING", "BadConstraints", False),
    ],
)
def test_reasons_for_which_a_job_does_not_start(state, reason, stuck):
    assert Task(state, reason, "").is_stuck == stuck


@pytest.mark.parametrize(
    ("answer", "job", "cluster"), [("12", 12, ""), ("12;far", 12, "far"), ("Welcome!\n7", 7, "")]
)
def test_submission(programs, monkeypatch, tmp_path, answer, job, cluster):
    monkeypatch.setenv("SLURM_CLUSTERS", "")
    programs("sbatch", f"echo $@ > {tmp_path}/asked; printf '{answer}\\n'")
    assert slurm_client.submit(["sbatch", "--parsable", "task.sh"]) == job
    assert (tmp_path / "asked").read_text() == "--parsable task.sh\n"
    assert slurm_client.environment()["SLURM_CLUSTERS"] == cluster


def test_submission_with_another_answer(programs):
    programs("sbatch", "echo Submitted batch job 12")
    with pytest.raises(SlurmError, match="Submitted batch job 12"):
        slurm_client.submit(["sbatch"])


def test_patience_with_an_absent_controller(programs, tmp_path):
    asked = tmp_path / "asked"
    come_back = f"echo x >> {asked}\n[ $(wc -l < {asked}) -gt 2 ] && exit"
    programs("squeue", f"{come_back}\necho '{AWAY}' >&2; exit 1")
    said = []
    assert patiently(lambda: len(slurm_client.queue()), said) == 0
    assert len(asked.read_text().splitlines()) == 3
    assert len(said) == 1 and "squeue: " in said[0]


def test_an_answer_is_no_reason_for_patience(programs):
    programs("squeue", "echo 'invalid partition specified: x' >&2; exit 1")
    said = []
    with pytest.raises(SlurmError, match="squeue: invalid partition specified: x"):
        patiently(lambda: len(slurm_client.queue()), said)
    assert said == []


def test_patience_ends_with_a_signal(programs):
    programs("squeue", f"echo '{AWAY}' >&2; exit 1")
    said = []
    with pytest.raises(Stopped) as caught:
        patiently(lambda: len(slurm_client.queue()), said, signal.SIGTERM)
    assert caught.value.signum == signal.SIGTERM and len(said) == 1


def test_cancelled_until_nothing_is_left(programs, tmp_path):
    """A task that was just being requeued comes back once, and is cancelled again."""
    count = f"{tmp_path}/cancelled"
    programs("scancel", f"echo $* >> {count}")
    programs("squeue", f"[ $(cat {count} 2>/dev/null | wc -l) -gt 1 ] || echo '12|1|PENDING|x|y'")
    assert slurm_client.cancel([12, 13])
    assert (tmp_path / "cancelled").read_text() == "12\n12\n"


def test_arrays_of_a_call_are_cancelled_known_or_not(programs, tmp_path):
    count = f"{tmp_path}/cancelled"
    listed = (
        "12|1|RUNNING|x|lors:/log#1\\n14|1|RUNNING|x|lors:/log#2\\n15|1|RUNNING|x|lors:/other#1"
    )
    programs("scancel", f"echo $* >> {count}")
    programs("squeue", f"[ -e {count} ] || printf '{listed}\\n'")
    assert slurm_client.cancel([12], "lors:/log")
    assert (tmp_path / "cancelled").read_text() == "12 14\n"


def test_jobs_that_do_not_end(programs):
    programs("scancel", "exit 1")
    programs("squeue", "echo '12|1|COMPLETING|x|y'")
    assert not slurm_client.cancel([12], seconds=0.3)
    assert slurm_client.cancel([])
