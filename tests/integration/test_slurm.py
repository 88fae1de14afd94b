"""utils/slurm.py on a real Slurm: Kaldi's contract, and the cases of docs/slurm_recovery.md."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WRAPPER = ROOT / "utils/slurm.py"
SHOW = [sys.executable, "-c", "import sys; print(*map(repr, sys.argv[1:]), sep='\\n')"]
# Waits for a file "go"; writes a file when it begins and another one when it ends.
WAIT = "echo >> begun.$1; while [ ! -e go ]; do sleep 0.1; done; echo done >> ended.$1"


@pytest.fixture
def start(cluster, tmp_path):
    """Start the wrapper in a new directory; cancel all its jobs when the test ends."""
    started = []

    def start_one(*arguments, **more) -> subprocess.Popen:
        process = subprocess.Popen(
            [WRAPPER, *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, **cluster.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **more,
        )
        started.append(process)
        return process

    yield start_one
    for process in started:
        if process.poll() is None:
            process.kill()
            process.communicate()
    cluster.ask("scancel", "--user=root")
    cluster.wait_until(lambda: not cluster.jobs())


@pytest.fixture
def run(start):
    """Run the wrapper to its end; return its exit status, stdout and stderr."""

    def run_one(*arguments, **more) -> tuple[int, str, str]:
        process = start(*arguments, **more)
        stdout, stderr = process.communicate(timeout=300)
        return process.returncode, stdout, stderr

    return run_one


@pytest.fixture
def waiting(cluster, start, tmp_path):
    """Start an array whose jobs wait for a file; return when all of them have begun."""

    def begin(*options, number=1, command=("sh", "-c", WAIT, "sh", "JOB"), **more):
        process = start(*options, f"JOB=1:{number}", "x.JOB.log", *command, **more)
        begun = [tmp_path / f"begun.{task}" for task in range(1, number + 1)]
        cluster.wait_until(lambda: process.poll() is not None or all(p.exists() for p in begun))
        assert process.poll() is None, process.communicate()[1]
        return process

    return begin


def log_of(path: Path) -> list[str]:
    """Return the lines of a log that the command wrote."""
    return [line for line in path.read_text().splitlines() if not line.startswith("#")]


def only_logs(directory: Path) -> bool:
    """Return whether the directory of the call is gone."""
    return not [path.name for path in directory.iterdir() if path.name.startswith(".")]


# --- the contract -------------------------------------------------------------------------------


def test_arguments_arrive_as_typed(run, tmp_path):
    arguments = ["a b", "'", '"', "$HOME", "`id`", "$(id)", "*", "", "a\\n", "a\nb", "ü;|&<>", "%a"]
    assert run("x.log", *SHOW, *arguments) == (0, "", "")
    assert log_of(tmp_path / "x.log") == [repr(argument) for argument in arguments]
    assert only_logs(tmp_path)


def test_names_that_contain_the_array_name_arrive_as_typed(run, tmp_path):
    folder = "JOBS 'n' $HOME 100%a"
    arguments = [f"{folder}/myJOB", "part_JOB", "x.JOB.log", "JOB"]
    assert run("JOB=3:4", f"{folder}/x.JOB.log", *SHOW, *arguments) == (0, "", "")
    expected = [f"{folder}/myJOB", "part_4", "x.4.log", "4"]
    assert log_of(tmp_path / folder / "x.4.log") == [repr(argument) for argument in expected]


def test_log_has_the_lines_of_the_contract(run, tmp_path):
    assert run("--num_threads", 3, "dir/x.log", "echo", "a b")[0] == 0
    date = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d"
    assert re.fullmatch(
        rf"# echo 'a b'\n# Running on \S+, process \d+, Slurm job \d+_1\n# Started at {date}\n#\n"
        rf"a b\n# Accounting: time=\d+ threads=3\n# Finished at {date} with status 0\n",
        (tmp_path / "dir/x.log").read_text(),
    )


def test_failed_jobs_are_counted_and_the_first_log_is_shown(run, tmp_path):
    status, _, stderr = run("JOB=1:8", "dir/x.JOB.log", "sh", "-c", "echo no JOB; test JOB -lt 7")
    assert status == 1
    assert "2 / 8 failed, log is in dir/x.*.log\n" in stderr
    assert "failed: JOB=7,8\n" in stderr
    assert "the last lines of dir/x.7.log:\n" in stderr and "  no 7\n" in stderr
    assert only_logs(tmp_path / "dir")


def test_what_a_job_is_given(run, tmp_path):
    show = ["sh", "-c", "echo $CUDA_VISIBLE_DEVICES,$OMP_NUM_THREADS,$SLURM_CPUS_PER_TASK,$PWD"]
    assert run("x.log", *show)[0] == 0
    assert log_of(tmp_path / "x.log") == [f",1,1,{tmp_path}"]
    assert run("--gpu", 2, "--num-threads", 4, "x.log", *show)[0] == 0
    assert log_of(tmp_path / "x.log") == [f"0,1,4,4,{tmp_path}"]


def test_gpus_are_handed_out_one_job_each(run, tmp_path):
    command = "echo $SLURM_NODEID $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES; sleep 3"
    assert run("--gpu", 1, "JOB=1:4", "x.JOB.log", "sh", "-c", command)[0] == 0
    given = {log_of(tmp_path / f"x.{number}.log")[0] for number in range(1, 5)}
    assert given == {f"0 n{node} {gpu}" for node in (1, 2) for gpu in (0, 1)}


def test_most_jobs_at_a_time(run, tmp_path):
    count = "mkdir at.JOB; ls -d at.* | wc -l; sleep 0.5; rmdir at.JOB"
    assert run("--max_jobs_run", 2, "JOB=1:5", "x.JOB.log", "sh", "-c", count)[0] == 0
    counts = [int(log_of(tmp_path / f"x.{number}.log")[0]) for number in range(1, 6)]
    assert max(counts) <= 2


def test_several_nodes(run, tmp_path):
    command = ["srun", "--ntasks-per-node=1", "sh", "-c", "echo $SLURMD_NODENAME"]
    assert run("--num_nodes", 2, "x.log", *command)[0] == 0
    assert sorted(log_of(tmp_path / "x.log")) == ["n1", "n2"]


def test_retry_runs_only_what_failed(run, tmp_path):
    command = "echo try >> tried.JOB; test JOB != 2 || test $(wc -l < tried.2) = 3"
    assert run("--retry", 2, "JOB=1:3", "x.JOB.log", "sh", "-c", command)[0] == 0
    tried = [len((tmp_path / f"tried.{n}").read_text().splitlines()) for n in (1, 2, 3)]
    assert tried == [1, 3, 1]
    assert (tmp_path / "x.2.log").read_text().count("with status 1\n") == 2


def test_submission_that_slurm_refuses(run, tmp_path):
    status, _, stderr = run("--partition", "nowhere", "x.log", "true")
    assert status == 1
    assert "invalid partition" in stderr and "--partition=nowhere" in stderr
    assert only_logs(tmp_path)


def test_inside_another_job(run, tmp_path):
    """The variables of the outer job's allocation do not reach the jobs that it submits."""
    inner = [str(WRAPPER), "--num_threads", "2", "inner.log", "sh", "-c"]
    inner.append("echo $SLURM_CPUS_PER_TASK $SLURM_MEM_PER_NODE $SLURM_JOB_NAME")
    assert run("--mem", "3G", "outer.log", *inner)[0] == 0, (tmp_path / "outer.log").read_text()
    assert log_of(tmp_path / "inner.log") == ["2 inner"]


def test_detached(cluster, run, tmp_path):
    status, stdout, _ = run("--detach", "true", "x.log", "sh", "-c", WAIT, "sh", "1")
    assert status == 0
    cluster.wait_until((tmp_path / "begun.1").exists)
    assert cluster.jobs() == [f"{stdout.strip()}_1 RUNNING"]
    (tmp_path / "go").touch()
    cluster.wait_until(lambda: not cluster.jobs())
    assert (tmp_path / "x.log").read_text().endswith("with status 0\n")
    assert only_logs(tmp_path)


@pytest.mark.espnet
def test_espnet_launch_accepts_the_wrapper(cluster, tmp_path):
    launch = [sys.executable, "-m", "espnet2.bin.launch", "--cmd", f"{WRAPPER} --num_threads 2"]
    command = [*launch, "--log", "exp/train.log", "--ngpu", "1", "--", *SHOW, "a b"]
    environment = {**os.environ, **cluster.environment}
    done = subprocess.run(command, cwd=tmp_path, env=environment, timeout=300, check=False)
    assert done.returncode == 0
    arguments = ["a b", "--ngpu", "1", "--multiprocessing_distributed", "True"]
    assert log_of(tmp_path / "exp/train.log") == [repr(argument) for argument in arguments]


# --- what happens to jobs -----------------------------------------------------------------------


def test_status_85_goes_back_into_the_queue(run, tmp_path):
    command = "echo again >> tried; test $(wc -l < tried) = 3 || exit 85"
    assert run("--requeue", 2, "x.log", "sh", "-c", command)[0] == 0
    log = (tmp_path / "x.log").read_text()
    assert "Back into the queue, time 2 of 2" in log
    assert log.count("# Started at") == 3 and log.endswith("with status 0\n")


def test_going_back_into_the_queue_is_bounded(run, tmp_path):
    status, _, stderr = run("--requeue", 1, "x.log", "sh", "-c", "exit 85")
    assert status == 1 and "with status 85" in stderr
    assert (tmp_path / "x.log").read_text().count("# Started at") == 2


def test_status_85_is_a_failure_without_requeue(run, tmp_path):
    assert run("x.log", "sh", "-c", "exit 85")[0] == 1
    assert (tmp_path / "x.log").read_text().count("# Started at") == 1


def test_warning_before_the_time_limit(cluster, waiting, tmp_path):
    """The command gets TERM, cleans up, and starts again."""
    clean = f"trap 'echo clean >> cleaned; exit 0' TERM; {WAIT}"
    process = waiting("--requeue", 3, command=("sh", "-c", clean, "sh", "JOB"))
    job = cluster.jobs()[0].split()[0]
    cluster.ask("scancel", "--batch", "--signal=USR1", job)
    begun = tmp_path / "begun.1"
    cluster.wait_until(lambda: len(begun.read_text().splitlines()) == 2)
    (tmp_path / "go").touch()
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    assert (tmp_path / "cleaned").read_text() == "clean\n"
    assert "The time is nearly up" in (tmp_path / "x.1.log").read_text()


def test_preempted_job_starts_again(cluster, waiting, tmp_path):
    process = waiting(number=2)
    more = ["--partition=urgent", "--nodes=2", "--ntasks=2", "--cpus-per-task=8", "--wrap=sleep 2"]
    cluster.ask("sbatch", f"--output={tmp_path}/urgent.log", *more)
    begun = [tmp_path / f"begun.{number}" for number in (1, 2)]
    cluster.wait_until(lambda: all(len(p.read_text().splitlines()) == 2 for p in begun))
    (tmp_path / "go").touch()
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    assert "Ended by Slurm (SIGTERM)" in (tmp_path / "x.1.log").read_text()


def test_cancelled_job_is_a_failure(cluster, waiting, tmp_path):
    process = waiting(number=2)
    job = next(line.split()[0] for line in cluster.jobs() if "_2 " in line)
    cluster.ask("scancel", job)
    cluster.wait_until(lambda: "JobState=CANCELLED" in (tmp_path / "x.2.log").read_text())
    (tmp_path / "go").touch()
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "1 / 2 failed" in stderr and "failed: JOB=2" in stderr and "JobState=CANCELLED" in stderr


def test_memory_limit(run):
    hog = "import time; x = bytearray(600 << 20); time.sleep(30)"
    status, _, stderr = run("--mem", "100M", "x.log", sys.executable, "-c", hog)
    assert status == 1
    assert "xceeded" in stderr or "oom" in stderr.lower() or "ExitCode=0:9" in stderr, stderr


@pytest.mark.slow
@pytest.mark.parametrize("requeue", [0, 1])
def test_time_limit(run, tmp_path, requeue):
    """It takes a minute: Slurm's time limits are in minutes."""
    command = "echo begun >> begun; sleep 300"
    options = ["--time", 1, "--requeue", requeue, "--config", tmp_path / "slurm.conf"]
    text = (ROOT / "conf/slurm.conf").read_text().replace("USR1@120", "USR1@5")
    (tmp_path / "slurm.conf").write_text(text)
    status, _, stderr = run(*options, "x.log", "sh", "-c", command)
    assert status == 1
    log = (tmp_path / "x.log").read_text()
    if requeue:
        assert log.count("The time is nearly up") == 2 and "with status 85" in stderr
    else:
        assert "TIMEOUT" in stderr and "DUE TO TIME LIMIT" in stderr
    assert len((tmp_path / "begun").read_text().splitlines()) == 1 + requeue


@pytest.mark.slow
def test_lost_node(cluster, waiting, tmp_path):
    """A job whose node dies starts again on another one."""
    command = ("sh", "-c", f"echo $SLURMD_NODENAME >> nodes; {WAIT}", "sh", "JOB")
    process = waiting(command=command)
    lost = (tmp_path / "nodes").read_text().strip()
    cluster.lose(lost)
    try:
        cluster.wait_until(lambda: len((tmp_path / "nodes").read_text().split()) == 2)
        assert (tmp_path / "nodes").read_text().split()[1] != lost
        (tmp_path / "go").touch()
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == 0, stderr
    finally:
        cluster.start(lost)
        cluster.wait_until(lambda: cluster.nodes()[lost] == "idle")


@pytest.mark.slow
def test_node_out_of_sight(cluster, waiting, tmp_path):
    """A node does not answer: Slurm starts its job again, while the first one is still at work."""
    work = """echo $SLURMD_NODENAME >> nodes; touch begun.1
    while [ ! -e go.$SLURMD_NODENAME ]; do sleep 0.2; done
    [ $SLURMD_NODENAME != $(head -n 1 nodes) ]"""
    process = waiting(command=("sh", "-c", work))
    lost = (tmp_path / "nodes").read_text().strip()
    cluster.stop(lost, signal.SIGKILL)
    try:
        cluster.wait_until(lambda: len((tmp_path / "nodes").read_text().split()) == 2)
        (tmp_path / f"go.{lost}").touch()
        log = tmp_path / "x.1.log"
        cluster.wait_until(lambda: "has started the job on another node" in log.read_text())
        time.sleep(1)
        assert process.poll() is None
        (tmp_path / f"go.{(tmp_path / 'nodes').read_text().split()[1]}").touch()
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == 0, stderr
    finally:
        cluster.start(lost)
        cluster.wait_until(lambda: cluster.nodes()[lost] == "idle")


def test_restarted_controller(cluster, waiting, tmp_path):
    process = waiting(number=2)
    cluster.stop("slurmctld")
    (tmp_path / "go").touch()
    time.sleep(3)
    cluster.start("slurmctld")
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    cluster.wait_until(lambda: not cluster.jobs())


def test_submission_while_the_controller_is_away(cluster, start, tmp_path):
    cluster.stop("slurmctld")
    process = start("x.log", "echo", "there")
    try:
        time.sleep(1)
    finally:
        cluster.start("slurmctld")
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    assert log_of(tmp_path / "x.log") == ["there"]


# --- what happens to the wrapper ----------------------------------------------------------------


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_cancel_every_job(cluster, waiting, tmp_path, signum):
    handler = signal.getsignal(signal.SIGHUP)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        process = waiting(number=3, start_new_session=True)
    finally:
        signal.signal(signal.SIGHUP, handler)
    os.killpg(process.pid, signum)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + signum
    assert signum.name in stderr
    assert cluster.jobs() == [] and only_logs(tmp_path)
    assert not list(tmp_path.glob("ended.*"))


def test_jobs_of_a_killed_call_do_not_run_beside_those_of_the_next(cluster, waiting, tmp_path):
    process = waiting(number=2)
    before = cluster.jobs()
    process.kill()
    process.communicate()
    assert cluster.jobs() == before
    for path in tmp_path.glob("begun.*"):
        path.unlink()
    process = waiting(number=2)
    assert len(cluster.jobs()) == 2 and not set(cluster.jobs()) & set(before)
    (tmp_path / "go").touch()
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0
    assert before[0].split("_")[0] in stderr
    assert only_logs(tmp_path)


def test_second_call_for_the_same_logs_is_refused(cluster, waiting, run, tmp_path):
    process = waiting(number=2)
    before = cluster.jobs()
    status, _, stderr = run("JOB=1:2", "x.JOB.log", "true")
    assert status == 1
    assert f"process {process.pid}" in stderr
    assert cluster.jobs() == before
    (tmp_path / "go").touch()
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr


def test_detached_call_is_left_alone(cluster, run, tmp_path):
    command = ["--detach", "true", "x.log", "sh", "-c", WAIT, "sh", "1"]
    _, job, _ = run(*command)
    status, _, stderr = run(*command)
    assert status == 1 and f"job {job.strip()}" in stderr
    (tmp_path / "go").touch()
    cluster.wait_until(lambda: not cluster.jobs())
    assert (tmp_path / "ended.1").read_text() == "done\n"
