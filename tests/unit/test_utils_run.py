"""utils/run.py: Kaldi's contract for running jobs, on this machine."""

import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WRAPPER = ROOT / "utils" / "run.py"
# Prints the arguments that arrive, one a line, as Python writes them.
SHOW = [sys.executable, "-c", "import sys; print(*map(repr, sys.argv[1:]), sep='\\n')"]


def environment(**extra):
    """Return the environment of a call: the tested Python first, no settings of the user."""
    names = ("CUDA_VISIBLE_DEVICES", "LORS_PROGRESS", "OMP_NUM_THREADS", "OMP_WAIT_POLICY")
    clean = {name: value for name, value in os.environ.items() if name not in names}
    return {**clean, "PATH": f"{Path(sys.executable).parent}:{clean['PATH']}", **extra}


def run(*arguments, cwd, **extra):
    return subprocess.run(
        [WRAPPER, *map(str, arguments)],
        cwd=cwd,
        env=environment(**extra),
        capture_output=True,
        text=True,
        timeout=300,
    )


def output_of(log):
    """Return the lines of a log that the command wrote."""
    return [line for line in Path(log).read_text().splitlines() if not line.startswith("#")]


def is_running(pid):
    """Whether a process runs; a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def wait_until(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def test_arguments_arrive_as_typed(tmp_path):
    arguments = ["a b", "'", '"', "$HOME", "`id`", "$(id)", "*", "", "a\\n", "a\nb", "ü;|&<>", "#"]
    done = run("x.log", *SHOW, *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert output_of(tmp_path / "x.log") == [repr(argument) for argument in arguments]
    first = (tmp_path / "x.log").read_text().splitlines()[0]
    again = subprocess.run(["bash", "-c", first.removeprefix("# ")], capture_output=True, text=True)
    assert again.stdout.splitlines() == output_of(tmp_path / "x.log")  # it can be pasted


def test_log_has_the_lines_of_the_contract(tmp_path):
    assert run("--num_threads", 3, "dir/x.log", "echo", "a b", cwd=tmp_path).returncode == 0
    date = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d"
    assert re.fullmatch(
        rf"# echo 'a b'\n# Running on \S+, process \d+\n# Started at {date}\n#\na b\n"
        rf"# Accounting: time=\d+ threads=3\n# Finished at {date} with status 0\n",
        (tmp_path / "dir" / "x.log").read_text(),
    )


@pytest.mark.parametrize("said", ["50%", "50%\n", ""])
def test_lines_of_the_wrapper_begin_a_line(tmp_path, said):
    assert run("x.log", "printf", "%s", said, cwd=tmp_path).returncode == 0
    end = said and "50%\n"
    assert f"\n#\n{end}# Accounting: " in (tmp_path / "x.log").read_text()


def test_log_with_an_equals_sign(tmp_path):
    assert run("./lr=0.1.log", "true", cwd=tmp_path).returncode == 0
    assert (tmp_path / "lr=0.1.log").exists()


@pytest.mark.parametrize("name", ["JOB", "n_1"])
def test_array_replaces_its_name_in_arguments_and_log(tmp_path, name):
    command = [f"{name}=3:5", f"log.{name}/x.{name}.log", *SHOW, f"--part={name}", f"a.{name}.b"]
    assert run(*command, cwd=tmp_path).returncode == 0
    assert sorted(path.name for path in tmp_path.rglob("*.log")) == [
        "x.3.log",
        "x.4.log",
        "x.5.log",
    ]
    assert output_of(tmp_path / "log.4" / "x.4.log") == ["'--part=4'", "'a.4.b'"]


def test_names_that_contain_the_array_name_arrive_as_typed(tmp_path):
    arguments = ["/home/JOBS/x", "myJOB", "part_JOB", "x.JOB.log", "JOB/JOB"]
    assert run("JOB=3", "JOBS/x.JOB.log", *SHOW, *arguments, cwd=tmp_path).returncode == 0
    expected = ["/home/JOBS/x", "myJOB", "part_3", "x.3.log", "3/3"]
    assert output_of(tmp_path / "JOBS/x.3.log") == [repr(argument) for argument in expected]


def test_retry_runs_only_what_failed(tmp_path):
    command = "echo try >> tried.JOB; test JOB != 2 || test $(wc -l < tried.2) = 3"
    done = run("--retry", 2, "JOB=1:3", "x.JOB.log", "sh", "-c", command, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    tried = [len((tmp_path / f"tried.{n}").read_text().splitlines()) for n in (1, 2, 3)]
    assert tried == [1, 3, 1]
    assert (tmp_path / "x.2.log").read_text().count("with status 1\n") == 2


def test_without_a_log_the_output_stays_where_it_is(tmp_path):
    done = run("-", "sh", "-c", "echo out; echo err >&2; exit 3", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "err\n")
    done = run("--retry=1", "JOB=1:3", "-", "test", "JOB", "=", 2, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == "run.py: 2 / 3 failed\nrun.py: failed: JOB=1,3\n"
    done = run("-", "no-such-program", cwd=tmp_path)
    assert done.returncode == 127
    assert "no-such-program: No such file" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_retry_ends(tmp_path):
    command = "echo try >> tried; false"
    done = run("--retry", 1, "x.log", "sh", "-c", command, cwd=tmp_path)
    assert done.returncode == 1 and "job failed, log is in x.log" in done.stderr
    assert (tmp_path / "tried").read_text() == "try\n" * 2


def test_jobs_end_with_a_killed_wrapper(tmp_path):
    """A killed wrapper cannot end its jobs: the kernel does it."""
    script = f"echo $$ > pid; exec {sys.executable} -c 'import time; time.sleep(300)'"
    process = subprocess.Popen([WRAPPER, "x.log", "sh", "-c", script], cwd=tmp_path)
    wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip())
    pid = int((tmp_path / "pid").read_text())
    assert is_running(pid)
    process.kill()
    process.wait()
    wait_until(lambda: not is_running(pid))


def test_array_of_one_and_options_on_both_sides(tmp_path):
    options = ["--mem", "4G", "JOB=7", "--time=1:00:00", "--num-threads", "2"]
    done = run(*options, "x.JOB.log", *SHOW, "JOB", "JOB=1:2", "--mem", "x", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert output_of(tmp_path / "x.7.log") == ["'7'", "'7=1:2'", "'--mem'", "'x'"]


def test_environment_of_a_job(tmp_path):
    show = 'echo "$OMP_NUM_THREADS $MKL_NUM_THREADS [$CUDA_VISIBLE_DEVICES] $KEPT"; '
    show += 'echo "$OMP_WAIT_POLICY $GOMP_SPINCOUNT"; cat'
    extra = {"OMP_NUM_THREADS": "9", "CUDA_VISIBLE_DEVICES": "0,1", "KEPT": "kept"}
    extra["GOMP_SPINCOUNT"] = "7"
    assert run("--num-threads=2", "x.log", "sh", "-c", show, cwd=tmp_path, **extra).returncode == 0
    assert output_of(tmp_path / "x.log") == ["2 2 [] kept", "PASSIVE 7"]


def most_at_a_time(logs):
    """Return how many jobs ran together at most, from lines "begin end" in their logs."""
    spans = [tuple(map(float, output_of(log)[0].split())) for log in logs]
    return max(sum(begin <= moment < end for begin, end in spans) for moment, _ in spans)


SPAN = "import time; t = time.monotonic(); time.sleep(0.3); print(t, time.monotonic())"


@pytest.mark.parametrize(
    ("options", "cores", "expected"),
    [(["--max_jobs_run", "3"], 1, 3), ([], 2, 2), (["--num_threads", "2"], 2, 1), ([], 1, 1)],
)
def test_most_jobs_at_a_time(tmp_path, options, cores, expected):
    if len(os.sched_getaffinity(0)) < cores:
        pytest.skip(f"needs {cores} cores")
    pinned = ["taskset", "-c", ",".join(map(str, sorted(os.sched_getaffinity(0))[:cores]))]
    command = [*options, "JOB=1:6", "x.JOB.log", sys.executable, "-S", "-c", SPAN]
    subprocess.run([*pinned, WRAPPER, *command], cwd=tmp_path, env=environment(), check=True)
    assert most_at_a_time(tmp_path.glob("x.*.log")) == expected


def test_failed_jobs_are_counted_and_the_first_log_is_shown(tmp_path):
    script = 'for i in $(seq 50); do echo "line $i of JOB"; done; [ JOB != 3 ] && [ JOB != 5 ]'
    done = run("JOB=1:8", "log/x.JOB.log", "bash", "-c", script, cwd=tmp_path)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert lines[0] == "run.py: 2 / 8 failed, log is in log/x.*.log"
    assert lines[1] == "run.py: failed: JOB=3,5"
    assert lines[2] == "run.py: the last lines of log/x.3.log:"
    assert len(lines) == 3 + 30
    assert lines[-3] == "  line 50 of 3" and lines[-1].endswith("with status 1")
    assert len(list(tmp_path.glob("log/*"))) == 8  # a failure does not stop the others


@pytest.mark.parametrize(
    ("command", "status", "text"),
    [
        (["no-such-program"], 127, "no-such-program: No such file"),
        (["/etc/passwd"], 126, "/etc/passwd: Permission denied"),
        (["sh", "-c", "exit 7"], 7, ""),
        (["sh", "-c", "kill -KILL $$"], 137, "# Ended by SIGKILL (out of memory?)"),
    ],
)
def test_status_of_a_failed_job(tmp_path, command, status, text):
    done = run("x.log", *command, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("run.py: job failed, log is in x.log\n")
    assert text in done.stderr
    assert (tmp_path / "x.log").read_text().endswith(f"with status {status}\n")


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        (["x.log"], []),
        (["--foo", "1", "x.log", "true"], ["--foo", "--num_threads", "--requeue"]),
        (["-n", "x.log", "true"], ["-n", "--num_threads"]),
        (["--mem"], ["--mem"]),
        (["--num_threads", "0", "x.log", "true"], ["--num_threads", "from 1", "'0'"]),
        (["--gpu=-1", "x.log", "true"], ["--gpu", "from 0", "'-1'"]),
        (["--num_nodes", "2", "x.log", "true"], ["--num_nodes"]),
        (["--retry", "9" * 5000, "x.log", "true"], ["--retry", "to 1000000", "'999"]),
        (["--num_threads", "٣", "x.log", "true"], ["--num_threads", "'٣'"]),
        (["--max_jobs_run", "1001", "x.log", "true"], ["--max_jobs_run 1001", "1000"]),
        (["JOB=2:1", "x.JOB.log", "true"], ["JOB=2:1"]),
        (["JOB=1:10000000000", "x.JOB.log", "true"], ["JOB=1:10000000000", "1000000000"]),
        (["JOB=1:100001", "x.JOB.log", "true"], ["JOB=1:100001", "100000 jobs"]),
        (["JOB=" + "9" * 5000, "x.JOB.log", "true"], ["JOB=999"]),
        (["JOB=1:2", "x.log", "true"], ["JOB", "x.log"]),
        (["JOB=1-4", "l.JOB.log", "true"], ["NAME=first:last", "JOB=1-4"]),
        (["JOB=1:2", "N=1:2", "l.JOB.log", "true"], ["N=1:2", "./N=1:2"]),
    ],
)
def test_wrong_calls(tmp_path, arguments, facts):
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert all(fact in done.stderr for fact in [*facts, "utils/run.py --help"]), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_help(tmp_path):
    done = run("--help", cwd=tmp_path)
    assert done.returncode == 0 and "--max_jobs_run" in done.stdout
    assert run(cwd=tmp_path).returncode == 2


@pytest.mark.parametrize(
    ("log", "path", "fact"),
    [
        ("file/x.log", "where: file\n", "File exists"),
        ("/dev/full", "where: /dev/full\n", "No space left on device"),
        ("", "where: .\n", "Is a directory"),
        ("x" * 300, "where: xxx", "File name too long"),
    ],
)
def test_log_that_cannot_be_written(tmp_path, log, path, fact):
    (tmp_path / "file").touch()
    done = run(log, "true", cwd=tmp_path)
    assert done.returncode == 1 and done.stderr.startswith("run.py: error: ")
    assert all(text in done.stderr for text in (path, fact, "what to do: ")), done.stderr


def test_end_of_a_log_without_lines_is_short(tmp_path):
    write = "import sys; sys.stdout.write('x' * 10**8); sys.exit(1)"
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    done = run("x.log", sys.executable, "-c", write, cwd=tmp_path)
    assert done.returncode == 1 and len(done.stderr) < 2000
    assert "  xxx" in done.stderr and "with status 1" in done.stderr
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < before + 200 * 1024


def test_long_list_of_failed_jobs_is_cut(tmp_path):
    done = run("JOB=1:103", "-", "false", cwd=tmp_path)
    assert "103 / 103 failed" in done.stderr
    assert "JOB=1,2,3," in done.stderr and ",100 and 3 more\n" in done.stderr


STRANGE_NAMES = ["a b", "a'\"b", "a%b", "$HOME", "a\nb", os.fsdecode(b"a\xffb")]


@pytest.mark.parametrize("name", STRANGE_NAMES)
def test_directory_of_any_name(tmp_path, name):
    place = tmp_path / name
    place.mkdir()
    show = [sys.executable, "-c", "import os; print(os.fsencode(os.getcwd()))"]
    done = run(*(f"log {name}/x.log", *show, name), cwd=place)
    assert (done.returncode, done.stderr) == (0, "")
    log = (place / f"log {name}" / "x.log").read_text(errors="surrogateescape")
    assert log.splitlines()[4] == repr(os.fsencode(place))
    again = subprocess.run(
        ["bash", "-c", os.fsencode(log.splitlines()[0].removeprefix("# "))],
        cwd=place,
        capture_output=True,
    )
    assert again.stdout.splitlines()[-1] == os.fsencode(repr(os.fsencode(place)))


def test_directory_that_was_removed(tmp_path):
    command = f"cd gone && rmdir ../gone && {sys.executable} {WRAPPER} x.log true"
    (tmp_path / "gone").mkdir()
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "what to do: " in done.stderr
    assert "Traceback" not in done.stderr


def test_environment_that_is_not_utf8(tmp_path):
    extra = {"STRANGE": os.fsdecode(b"\xff"), "GOMP_SPINCOUNT": os.fsdecode(b"\xfe")}
    show = 'printf %s "$STRANGE$GOMP_SPINCOUNT" | od -A n -t x1'
    assert run("x.log", "sh", "-c", show, cwd=tmp_path, **extra).returncode == 0
    assert output_of(tmp_path / "x.log") == [" ff fe"]


def test_gpus_are_handed_out_one_job_each(tmp_path):
    command = ["--gpu", "1", "--max_jobs_run", "6", "JOB=1:6", "x.JOB.log", sys.executable, "-c"]
    code = SPAN + "; import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"
    assert run(*command, code, cwd=tmp_path, CUDA_VISIBLE_DEVICES="5,7").returncode == 0
    logs = list(tmp_path.glob("x.*.log"))
    assert {output_of(log)[1] for log in logs} == {"5", "7"}
    for device in ("5", "7"):
        assert most_at_a_time([log for log in logs if output_of(log)[1] == device]) == 1


def test_gpus_are_counted_by_nvidia_smi(tmp_path):
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'GPU 0: A'; echo 'GPU 1: A'; echo '  MIG 1g'\n")
    program.chmod(0o755)
    path = f"{program.parent}:{environment()['PATH']}"
    show = ["sh", "-c", "echo $CUDA_VISIBLE_DEVICES"]
    assert run("--gpu", 2, "x.log", *show, cwd=tmp_path, PATH=path).returncode == 0
    assert output_of(tmp_path / "x.log") == ["0,1"]
    done = run("--gpu", 3, "x.log", *show, cwd=tmp_path, PATH=path)
    assert done.returncode == 2 and "--gpu 3" in done.stderr and "2 GPU" in done.stderr


@pytest.mark.parametrize("visible", ["", "-1"])
def test_hidden_gpus_cannot_be_used(tmp_path, visible):
    done = run("--gpu", 1, "x.log", "true", cwd=tmp_path, CUDA_VISIBLE_DEVICES=visible)
    assert done.returncode == 2 and "--gpu 1" in done.stderr and "0 GPU" in done.stderr


STUBBORN = "trap '' TERM; sleep 300 & echo $$ $! > pids.JOB; while :; do wait; done"
WILLING = "sleep 300 & echo $$ $! > pids.JOB; wait"
# As a library does that makes an error of its own of any exception.
CONFUSED = "trap 'exit 1' TERM; sleep 300 & echo $$ $! > pids.JOB; wait"


@pytest.mark.parametrize(
    ("signums", "script", "status"),
    [
        ([signal.SIGINT], WILLING, 130),
        ([signal.SIGTERM], WILLING, 143),
        ([signal.SIGHUP], WILLING, 129),
        ([signal.SIGINT], CONFUSED, 130),
        ([signal.SIGINT], STUBBORN, 130),  # ended by KILL after some seconds
        ([signal.SIGTERM, signal.SIGINT], STUBBORN, 143),  # ended by KILL at once
    ],
)
def test_signals_end_every_process_of_every_job(tmp_path, signums, script, status):
    wrapper = subprocess.Popen(
        [WRAPPER, "--max_jobs_run", "2", "JOB=1:4", "x.JOB.log", "bash", "-c", script],
        cwd=tmp_path,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    files = [tmp_path / "pids.1", tmp_path / "pids.2"]
    wait_until(lambda: all(file.exists() and file.read_text().endswith("\n") for file in files))
    pids = [int(pid) for file in files for pid in file.read_text().split()]
    assert len(pids) == 4 and all(map(is_running, pids))
    began = time.monotonic()
    for signum in signums:
        wrapper.send_signal(signum)
        time.sleep(0.3)
    assert wrapper.wait(timeout=120) == status
    if script is STUBBORN and len(signums) == 2:
        assert time.monotonic() - began < 4
    wait_until(lambda: not any(map(is_running, pids)), seconds=60)
    assert not (tmp_path / "x.3.log").exists()  # nothing new was started
    log = (tmp_path / "x.1.log").read_text()  # stopped, not failed, however the command took it
    assert "# Ended by SIGTERM\n" in log and log.endswith("with status 143\n")
    name = signal.Signals(signums[0]).name
    stderr = wrapper.stderr.read()
    assert name in stderr and "x.*.log" in stderr


def test_a_job_that_failed_before_the_stop_keeps_its_status(tmp_path):
    """The wrapper learns of the failure and of the signal at once."""
    script = "echo $$ > pid.part; mv pid.part pid; until [ -e fail ]; do sleep 0.05; done; exit 7"
    wrapper = subprocess.Popen(
        [WRAPPER, "x.log", "sh", "-c", script],
        cwd=tmp_path,
        env=environment(),
        stderr=subprocess.DEVNULL,
    )
    wait_until((tmp_path / "pid").exists)
    wrapper.send_signal(signal.SIGSTOP)
    (tmp_path / "fail").touch()
    job = Path("/proc", (tmp_path / "pid").read_text().strip(), "stat")
    wait_until(lambda: job.read_text().rpartition(")")[2].split()[0] == "Z")  # ended, not collected
    wrapper.send_signal(signal.SIGINT)
    wrapper.send_signal(signal.SIGCONT)
    assert wrapper.wait(timeout=120) == 130
    log = (tmp_path / "x.log").read_text()
    assert "Ended by" not in log and log.endswith("with status 7\n")


def test_hangup_stays_ignored_where_nohup_said_so(tmp_path):
    script = "echo $PPID > pid; sleep 1"
    command = ["nohup", WRAPPER, "x.log", "sh", "-c", script]
    wrapper = subprocess.Popen(command, cwd=tmp_path, env=environment())
    wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGHUP)
    assert wrapper.wait(timeout=120) == 0


@pytest.mark.parametrize(("nohup", "driver"), [(False, ""), (True, ""), (True, "1")])
def test_jobs_end_with_the_caller_unless_nohup_said_otherwise(tmp_path, nohup, driver):
    """They always end with a recipe's driver."""
    script = "echo $$ > pid; sleep 3; touch finished"
    command = f'{"nohup " * nohup}"{WRAPPER}" x.log bash -c "{script}" & echo $! > wrapper; wait'
    caller = subprocess.Popen(
        ["bash", "-c", command.replace("$$", "\\$\\$")],
        cwd=tmp_path,
        env={**environment(), "LORS_DRIVER": driver},
        stderr=subprocess.DEVNULL,
    )
    wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    caller.kill()
    caller.wait()
    wrapper, job = (int((tmp_path / name).read_text()) for name in ("wrapper", "pid"))
    wait_until(lambda: not is_running(wrapper) and not is_running(job))
    assert (tmp_path / "finished").exists() == (nohup and not driver)


def test_a_finished_job_leaves_no_process_behind(tmp_path):
    assert run("x.log", "sh", "-c", "sleep 300 & echo $! > pid", cwd=tmp_path).returncode == 0
    pid = int((tmp_path / "pid").read_text())
    wait_until(lambda: not is_running(pid), seconds=60)


def test_progress_line_of_an_array(tmp_path):
    done = run("JOB=1:2", "x.JOB.log", "true", cwd=tmp_path, LORS_PROGRESS="1")
    assert "2/2 jobs done, 0 running" in done.stderr and "x.*.log" in done.stderr
    assert run("JOB=1:2", "x.JOB.log", "true", cwd=tmp_path).stderr == ""  # no terminal
    assert run("x.log", "true", cwd=tmp_path, LORS_PROGRESS="1").stderr == ""  # no array


def test_starts_fast(tmp_path):
    def cpu_seconds():
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert run("x.log", "true", cwd=tmp_path).returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(cpu_seconds() for _ in range(5)) < 0.1


@pytest.mark.espnet
@pytest.mark.parametrize(("code", "status"), [("print('it ran', *sys.argv[1:])", 0), ("1/0", 1)])
def test_espnet_launch_accepts_the_wrapper(tmp_path, code, status):
    launch = [sys.executable, "-m", "espnet2.bin.launch", "--cmd", f"{WRAPPER} --num_threads 2"]
    command = [*launch, "--log", "exp/train.log", "--ngpu", "0", "--", sys.executable, "-c"]
    done = subprocess.run(
        [*command, f"import sys; {code}", "a b"], cwd=tmp_path, env=environment(), timeout=300
    )
    assert done.returncode == status
    log = (tmp_path / "exp" / "train.log").read_text()
    assert f"with status {status}" in log and "threads=2" in log
    assert ("it ran a b --ngpu 0 --multiprocessing_distributed True" in log) == (status == 0)
