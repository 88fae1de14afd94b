"""utils/slurm_conf.py and --dry_run of utils/slurm.py: Kaldi's configuration grammar."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "utils"))
from job_options import Call, UsageError
from slurm_conf import CONFIG, SWITCHES, SlurmConf, sbatch_words

ROOT = Path(__file__).parents[2]


def words(*arguments, cwd):
    """Return the words of the command that would submit."""
    done = subprocess.run(
        [ROOT / "utils/slurm.py", "--dry_run", "true", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return shlex.split(done.stdout)


@pytest.fixture
def configured(tmp_path):
    """Return the words for a configuration, with options before the log."""

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


def test_task_program_is_the_last_word_but_its_directory(tmp_path):
    found = words("x.log", "true", cwd=tmp_path)
    assert found[-2:] == [str(ROOT / "utils/slurm_task.sh"), "DIRECTORY"]


def test_directory_named_like_the_jobs(tmp_path):
    """JOB stands for the number only in the log's name as it is typed."""
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
    """The lines of ESPnet's own conf/slurm.conf, which has no option requeue."""
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
    """They also set the options that the wrapper itself uses."""
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
    own = (ROOT / CONFIG).read_text()
    (tmp_path / "conf/slurm.conf").write_text(f"{own}default max-jobs-run=3\ndefault retry=2\n")

    def configured_call(*options):
        call = Call([*options, "JOB=1:8", "x.JOB.log", "true"], SWITCHES)
        assert not {"--retry", "--max_jobs_run"} & set(sbatch_words(call))
        return call.max_jobs_run, call.retry

    assert configured_call() == (3, 2)
    assert configured_call("--max_jobs_run", "5", "--retry", "0") == (5, 0)
    assert "--array=1-8%3" in words("JOB=1:8", "x.JOB.log", "true", cwd=tmp_path)
    words("--detach", "true", "x.log", "true", cwd=tmp_path)  # a default for --retry is no reason


def test_all_wrong_lines_are_listed(tmp_path):
    path = tmp_path / "slurm.conf"
    path.write_text("option gpu --gres=x\ncommand sbatch\nnonsense\n")
    with pytest.raises(UsageError) as caught:
        SlurmConf(path)
    assert all(fact in str(caught.value) for fact in (f"{path}:1: ", f"{path}:3: ", "nonsense"))
    assert f"{path}:2: " not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "facts"),
    [
        (b"command sbatch\n# Gr\xf6\xdfe\n", [":2: ", "UTF-8", r"Gr\xf6\xdfe"]),
        (b"command sbatch\noption gpu=* -G\0 $0\n", [":2: ", "NUL"]),
        (b"command sbatch\n" + b"#" * 2**20, ["1048576"]),
    ],
)
def test_file_that_is_no_configuration(tmp_path, content, facts):
    path = tmp_path / "slurm.conf"
    path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        SlurmConf(path)
    assert all(fact in str(caught.value) for fact in [str(path), *facts])


@pytest.mark.parametrize("path", ["/", "/dev/zero", "/no/such/slurm.conf"])
def test_path_that_is_no_file(path):
    with pytest.raises(UsageError) as caught:
        SlurmConf(Path(path))
    assert path in str(caught.value)


@pytest.mark.parametrize(
    ("configuration", "facts"),
    [
        ('command sbatch "\n', ["slurm.conf:1: "]),
        ("default gpu=1 2\n", ["slurm.conf:1: ", "'default'", "gpu=1 2"]),
        ("default gpu=0\ndefault detach=true\n", ["slurm.conf:2: ", "--detach"]),
        ("default dry-run=true\n", ["slurm.conf:1: ", "--dry_run"]),
        ("default config=x\n", ["slurm.conf:1: ", "--config"]),
        ("default max_jobs_run=0\n", ["--max_jobs_run", "from 1", "'0'"]),
        ("", ["slurm.conf: ", "option num_threads=*", "--num_threads 1"]),
    ],
)
def test_broken_configuration(tmp_path, configuration, facts):
    path = tmp_path / "slurm.conf"
    path.write_text(configuration)
    call = Call(["--config", str(path), "x.log", "true"], SWITCHES)
    with pytest.raises(UsageError) as caught:
        sbatch_words(call)
    assert all(fact in str(caught.value) for fact in facts)
