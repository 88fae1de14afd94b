"""utils/slurm.py without a cluster: Kaldi's configuration grammar, wrong calls, --dry_run."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "utils"))
import slurm
from jobs import Call

WRAPPER = Path(__file__).parents[2] / "utils/slurm.py"


@pytest.fixture(autouse=True)
def own_signals(monkeypatch):
    """A Runner that is made here does not take the signals of this process."""
    monkeypatch.setattr(slurm, "SignalQueue", lambda: None)


def run(*arguments, cwd, path="/usr/bin:/bin"):
    return subprocess.run(
        [WRAPPER, *map(str, arguments)],
        cwd=cwd,
        env={"PATH": str(path)},
        capture_output=True,
        text=True,
    )


def words(*arguments, cwd):
    """The words of the command that would submit."""
    done = run("--dry_run", "true", *arguments, cwd=cwd)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return shlex.split(done.stdout)


@pytest.fixture
def configured(tmp_path):
    """The words for a configuration; with `options` before the log."""

    def ask(configuration, *options):
        (tmp_path / "conf").mkdir(exist_ok=True)
        (tmp_path / "conf/slurm.conf").write_text(configuration)
        return words(*options, "x.log", "true", cwd=tmp_path)

    return ask


def test_configuration_of_the_repository(tmp_path):
    asked = ["--gpu", 2, "--mem", "16G", "--time", "4:00:00", "--num_threads", 4, "--num_nodes", 2]
    asked += ["--requeue", 3, "--partition", "gpu", "--account", "me", "--max_jobs_run", 5]
    found = words(*asked, "JOB=1:8", "log/x.JOB.log", "true", cwd=tmp_path)
    assert found[:3] == ["sbatch", "--export=ALL", "--requeue"]
    assert {
        *("--gres=gpu:2", "--mem=16G", "--time=4:00:00", "--cpus-per-task=4", "--nodes=2"),
        *("--ntasks-per-node=1", "--signal=B:USR1@120", "--partition=gpu", "--account=me"),
        *("--array=1-8%5", "--job-name=x", f"--chdir={tmp_path}", "--parsable"),
        *("--open-mode=append", f"--output={tmp_path}/log/x.%a.log"),
    } <= set(found)


def test_place_of_what_the_job_is_told_by(tmp_path):
    assert words("x.log", "true", cwd=tmp_path)[-2:] == [
        str(slurm.HERE / "slurm_task.sh"),
        "DIRECTORY",
    ]


def test_place_named_like_the_jobs(tmp_path):
    """Only in the log's name as it is typed does JOB stand for the number."""
    place = tmp_path / "my.JOB%"
    place.mkdir()
    found = words("JOB=1:2", "log/x%.JOB.log", "true", cwd=place)
    assert f"--output={tmp_path}/my.JOB%%/log/x%%.%a.log" in found
    assert f"--chdir={place}" in found


def test_what_is_not_asked_for_is_not_in_the_command(tmp_path):
    found = " ".join(words("x.log", "true", cwd=tmp_path))
    for word in ("--gres", "--mem", "--time", "--signal", "--partition"):
        assert word not in found


def test_grammar(configured):
    text = """# all of it
        command sbatch --account="a b" # comment
        option num_threads=*
        option num_nodes=*
        option requeue=*
        option gpu=0 -p cpu
        option gpu=* -p gpu --gres=gpu:$0 --label=x$0y
        default gpu=1
        option feature=* --constraint $0
    """
    assert configured(text)[:6] == [
        *("sbatch", "--account=a b", "-p", "gpu", "--gres=gpu:1", "--label=x1y"),
    ]
    assert configured(text, "--gpu", 0)[2:4] == ["-p", "cpu"]
    assert configured(text, "--feature", "big mem")[6:8] == ["--constraint", "big mem"]


def test_espnet_configuration(configured):
    """The lines of ESPnet's own conf/slurm.conf, which has no word of going back into the queue."""
    text = """# Default configuration
command sbatch --export=PATH
option name=* --job-name $0
default shell=slurm
option shell=*
option time=* --time $0
option mem=* --mem-per-cpu $0
option mem=0
option num_threads=* --cpus-per-task $0
option num_threads=1 --cpus-per-task 1
option num_nodes=* --nodes $0
default gpu=0
option gpu=0 -p cpu
option gpu=* -p gpu --gres=gpu:$0 -c $0  # Recommend allocating more CPU than, or equal to GPU
# note: the --max-jobs-run option is supported as a special case
# by slurm.pl and you don't have to handle it in the config file.
"""
    found = configured(text, "--gpu", 2, "--mem", "2G", "--time", "1-0")
    assert " ".join(found).startswith("sbatch --export=PATH --cpus-per-task 1 -p gpu --gres=gpu:2")
    assert {"-c", "--mem-per-cpu", "2G", "--time", "1-0", "--nodes"} <= set(found)
    assert {"-p", "cpu"} <= set(configured(text))


def test_defaults_of_the_configuration(configured):
    """They hold for what the wrapper itself has to know, too."""
    text = """command sbatch
        option num_threads=* -c $0
        option num_nodes=* -N $0
        option gpu=* -G $0
        option requeue=* --signal=B:USR1@$00
        option time=* -t $0
        default num_threads=4
        default requeue=2
        default time=60
        default gpu=1
    """
    found = " ".join(configured(text))
    assert found.startswith("sbatch -c 4 -G 1 -N 1 --signal=B:USR1@20 -t 60 --parsable")
    assert configured(text, "--time", 5, "--gpu", 0)[:3] == ["sbatch", "-c", "4"]
    assert "5" in configured(text, "--time", 5) and "60" not in configured(text, "--time", 5)


def test_most_jobs_at_a_time_and_retries_of_the_configuration(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf").mkdir()
    own = (slurm.HERE.parent / slurm.CONFIG).read_text()
    (tmp_path / "conf/slurm.conf").write_text(f"{own}default max-jobs-run=3\ndefault retry=2\n")

    def asked(*options):
        runner = slurm.Runner(Call([*options, "JOB=1:8", "x.JOB.log", "true"], slurm.SWITCHES))
        array = next(word for word in runner.command(range(1, 9)) if word.startswith("--array="))
        return array, runner.call.retry

    assert asked() == ("--array=1-8%3", 2)
    assert asked("--max_jobs_run", "5", "--retry", "0") == ("--array=1-8%5", 0)
    slurm.Runner(Call(["--detach", "true", "x.log", "true"], slurm.SWITCHES))  # is not refused


@pytest.mark.parametrize(
    ("configuration", "told"),
    [
        ("option gpu --gres=x\nnonsense\n", "conf/slurm.conf:1: expected 'command ...'"),
        ("option gpu --gres=x\nnonsense\n", "conf/slurm.conf:2: expected 'command ...'"),
        ('command sbatch "\n', "conf/slurm.conf:1: No closing quotation"),
        ("default gpu=1 2\n", "expected one word after 'default'"),
        (
            "default gpu=0\ndefault detach=true\n",
            "conf/slurm.conf:2: --detach is an option of calls",
        ),
        ("default dry-run=true\n", "conf/slurm.conf:1: --dry_run is an option of calls"),
        ("default config=x\n", "conf/slurm.conf:1: --config is an option of calls"),
        ("default max_jobs_run=0\n", "--max_jobs_run: expected a whole number from 1, got '0'"),
        ("", "conf/slurm.conf: no line 'option num_threads=* ...' for --num_threads 1"),
    ],
)
def test_broken_configuration(tmp_path, configuration, told):
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/slurm.conf").write_text(configuration)
    done = run("x.log", "true", cwd=tmp_path)
    assert done.returncode == 2 and told in done.stderr
    assert not (tmp_path / "x.log").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--memory", "2G", "x.log", "true"], "--memory 2G: not an option"),
        (["--config", "none.conf", "x.log", "true"], "cannot read none.conf"),
        (["--detach", "maybe", "x.log", "true"], "--detach: expected true or false"),
        (["--detach", "true", "JOB=1:2", "x.JOB.log", "true"], "--detach: only one job"),
        (["--detach", "true", "--retry", "1", "x.log", "true"], "--detach: only one job"),
        (["--retry", "-1", "x.log", "true"], "--retry: expected a whole number from 0"),
        (["JOB=1:2", "x.log", "true"], "all jobs would write the same log"),
        (["JOB=1:2", "xJOB.log", "true"], "all jobs would write the same log"),
        (["-", "true"], "needs a log file"),
        (["a\\b.log", "true"], "a log's path cannot have a backslash"),
        (["x.log"], "a log file and a command are needed"),
    ],
)
def test_wrong_calls(tmp_path, arguments, told):
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2 and told in done.stderr and "--help" in done.stderr


def test_machine_without_slurm(tmp_path):
    programs, place = tmp_path / "bin", tmp_path / "place"
    programs.mkdir()
    place.mkdir()
    for name in ("env", "python3"):
        (programs / name).symlink_to(shutil.which(name, path="/usr/bin:/bin"))
    done = run("x.log", "true", cwd=place, path=programs)
    assert done.returncode == 1
    assert "the jobs cannot be submitted: squeue: No such file or directory" in done.stderr
    assert list(place.iterdir()) == []


def test_a_status_counts_when_its_line_is_whole(tmp_path):
    """Before that it is being written, or its task was killed or had no room for it."""
    left = {"7_0": "0\n", "7_1": "", "7_2": "13", "7_3": "137\n", "7_4": "0\n", "6_5": "0\n"}
    for job, text in left.items():
        (tmp_path / f"status.{job}").write_text(text)
    runner = slurm.Runner(Call(["JOB=0:5", "x.JOB.log", "true"], slurm.SWITCHES))
    # Job 4 has been taken note of, and job 5 is in a second array since it has failed in the first.
    runner.directory, runner.waiting = tmp_path, {0, 1, 2, 3, 5}
    runner.array_of = dict.fromkeys(range(6), 7)
    assert runner._statuses() == {0: 0, 3: 137}
    runner._collect()
    assert (runner.waiting, runner.failed, runner.done) == ({1, 2, 5}, [3], 2)


@pytest.fixture
def busy(tmp_path, monkeypatch):
    """A controller that accepts what it is sent and answers nothing for the first questions.

    Args (of the fixture's value):
        silent: number of questions without an answer.
        late: number of questions until the first array is in the queue.
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
                raise slurm.slurm_client.SlurmAway("timed out")
            if command[0] == "sbatch":
                return f"{len(queue) + 10}\n"
            return "".join(queue[len(asked) <= late :])

        monkeypatch.setattr(slurm.slurm_client, "ask", ask)
        runner = slurm.Runner(Call(["JOB=1:1", "x.JOB.log", "true"], slurm.SWITCHES))
        monkeypatch.setattr(
            runner, "_patiently", lambda act: slurm.slurm_client.patiently(act, lambda _: 0, str)
        )
        runner.directory = tmp_path
        return runner, asked

    return make


def test_array_that_was_accepted_without_an_answer_is_not_submitted_twice(busy):
    """Though the question whether it was accepted is not answered either at first."""
    runner, asked = busy(silent=2, late=0)
    assert runner.submit([1]) == 11
    assert asked == ["sbatch", "squeue", "squeue"]


def test_array_that_was_accepted_late_is_cancelled(busy):
    runner, asked = busy(silent=2, late=4)
    assert runner.submit([1]) == 12
    runner._look_for_the_lost()
    assert asked == ["sbatch", "squeue", "squeue", "sbatch", "squeue", "scancel"]
    assert {array for array, _ in slurm.slurm_client.queue()} == {12}
