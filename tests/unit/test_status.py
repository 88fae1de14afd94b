"""utils/status: the state of every stage's units, from markers and logs as a run leaves them."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lors.bin import record_run
from lors.bin.status import main
from lors.done_marker import DoneMarker
from lors.errors import UsageError
from lors.recipe.expdir import ExpDir, hypothesis_marker, inference_units, scopes_of
from lors.recipe.job_log import error_in, read_job_log
from lors.recipe.liveness import Process, states_of
from lors.recipe.run_record import RunRecord, begin_stage, read_run
from lors.recipe.status import STAGES, read_status
from lors.tasks import Pair, pairs_of

ROOT = Path(__file__).parents[2]
HERE = socket.gethostname()
SYSTEMS = ("base", "expert", "joint", "lors.langs", "lors.langs_tasks")
RUN = RunRecord(
    command="./run.sh --langs 'de es'",
    directory="/nowhere",
    host=HERE,
    pid=1,
    slurm_job="",
    began=time.time() - 3600,
    stage="experts",
    stop_stage=len(STAGES),
    skip_train=False,
    status=130,
    expdir="exp",
    data="data",
    dump="dump",
    langs=("de", "es"),
    tasks=("asr", "st"),
    methods=("average", "lors"),
    systems=SYSTEMS,
    train_base=False,
    base_langs=("de", "es"),
)
PAIRS = pairs_of(RUN.langs, RUN.tasks)
TRAIN = ["python", "-m", "lors.bin.train", "--pairs", *map(str, PAIRS), "--out", "exp/expert"]
TUNE = ["python", "-m", "lors.bin.tune", "--tasks", *RUN.tasks, "--methods", *RUN.methods]
INFER = ["python", "-m", "lors.bin.inference", "--langs", *RUN.langs, "--tasks", *RUN.tasks]
INFER += ["--systems", *SYSTEMS, "--split", "test", "--num_jobs", "2"]


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch):
    """Markers by the hundred: waiting for a busy disk would take minutes."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def exp(tmp_path, monkeypatch) -> ExpDir:
    """An experiment in which nothing has been made, in a recipe's directory."""
    monkeypatch.chdir(tmp_path)
    record()
    return ExpDir("exp")


def record(**changes) -> None:
    """Have a run as `changes` say; by default Ctrl-C has ended it."""
    begin_stage(dataclasses.replace(RUN, **changes))


@pytest.fixture(scope="module")
def gone() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def begin(marker: Path) -> None:
    DoneMarker(marker, {"seed": 1}).start()


def finish(marker: Path) -> None:
    DoneMarker(marker, {"seed": 1}).mark()


def write_log(
    name: str,
    command: list[str],
    said: str = "",
    *,
    on: str = HERE,
    status: int | None = None,
    age: float = 0,
    ended_by: str = "",
) -> Path:
    """A log as job wrappers write it, last written to `age` seconds ago."""
    path = Path("exp") / name
    path.parent.mkdir(parents=True, exist_ok=True)
    date = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() - age))
    lines = [f"# {' '.join(command)}", f"# Running on {on}", f"# Started at {date}", "#"]
    lines += said.splitlines()
    if status is not None:
        lines += [f"# Ended by {ended_by}"] if ended_by else []
        lines += ["# Accounting: time=1 threads=1", f"# Finished at {date} with status {status}"]
    path.write_text("\n".join(lines) + "\n")
    os.utime(path, (time.time() - age,) * 2)
    return path


def expert_log(number: int, *said: str, **options) -> Path:
    command = [*TRAIN, "--only", str(number)]
    return write_log(f"log/train_expert.{number}.log", command, *said, **options)


def states(stage: str) -> dict[str, str]:
    """Unit -> state in one stage."""
    return {unit.name: unit.state for unit in read_status("exp", stage).units}


def unit(stage: str, name: str):
    return next(unit for unit in read_status("exp", stage).units if unit.name == name)


def alive() -> str:
    return f"{HERE}, process {os.getpid()}"


def make_everything(exp: ExpDir) -> None:
    """What a run leaves that has done all stages."""
    for lang in RUN.langs:
        for split in ("train", "dev", "test"):
            directory = Path("data", lang, split)
            directory.mkdir(parents=True)
            for name in ("wav.scp", "utt2spk", "spk2utt"):
                (directory / name).touch()
            finish(Path("dump", lang, split, ".done"))
    merges = [("_".join(s), method) for s in scopes_of(RUN.tasks) for method in RUN.methods]
    made = [exp.base, exp.root / "stats", exp.joint, *map(exp.expert, PAIRS)]
    made += [exp.merged(method, scope) for scope, method in merges]
    made += [exp.sweep(method, scope).parent for scope, method in merges]
    for directory in made:
        finish(directory / ".done")
        (directory / "model.pth").touch()
    for system, pair in inference_units(SYSTEMS, PAIRS):
        hypothesis = exp.hypothesis("test", system, pair)
        finish(hypothesis_marker(hypothesis))
        hypothesis.touch()
        score = exp.score("test", system, pair)
        score.parent.mkdir(parents=True, exist_ok=True)
        score.touch()
    (exp.root / "RESULTS.md").touch()
    (exp.root / "packed").mkdir()
    for scope, method in merges:
        if method == "lors":
            (exp.root / f"packed/lors.{scope}.zip").touch()


# --- all of it ----------------------------------------------------------------------------------


def test_everything_is_done(exp, capsys):
    make_everything(exp)
    assert main([]) == 0
    counted = [6, 6, 1, 1, 4, 1, 6, 6, 20, 21, 3]
    stages = zip(range(1, 12), STAGES, counted, strict=True)
    lines = [f"{number:2d} {name:<10} {units}/{units} done" for number, name, units in stages]
    assert capsys.readouterr().out.splitlines()[1:] == lines


def test_nothing_is_done(exp, capsys):
    assert main([]) == 4
    out = capsys.readouterr().out
    assert " 5 experts    0/4 done\n" in out and "11 pack       0/3 done\n" in out
    assert out.endswith("go on with: cd /nowhere && ./run.sh --langs 'de es'\n")
    assert "ended in stage experts with status 130" in out


@pytest.mark.parametrize("stage", STAGES)
def test_each_stage_reads_what_its_work_leaves(exp, stage):
    make_everything(exp)
    products = {
        "data": Path("data/es/dev/utt2spk"),
        "format": Path("dump/es/dev/.done"),
        "base": exp.base / ".done",
        "stats": exp.root / "stats/.done",
        "experts": exp.expert(PAIRS[1]) / ".done",
        "baselines": exp.joint / ".done",
        "tune": exp.root / "tune/lors.st/.done",
        "merge": exp.merged("lors", "asr_st") / ".done",
        "inference": hypothesis_marker(exp.hypothesis("test", "joint", PAIRS[2])),
        "score": exp.score("test", "base", PAIRS[0]),
        "pack": exp.root / "packed/lors.st.zip",
    }
    products[stage].unlink()
    for other in STAGES:
        left = [name for name, state in states(other).items() if state != "done"]
        assert len(left) == (other == stage), (other, left)


def test_base_model_of_ones_own(exp):
    record(train_base=True, base_langs=("fr",))
    assert "pool/fr/dev" in states("data") and "pool/fr/dev" in states("format")
    begin(exp.base / ".done")
    finish(exp.root / "base_stats" / ".done")
    assert states("base") == {"base_stats": "done", "base": "interrupted"}
    write_log("base/train.log", ["espnet"], "OSError: no space", status=1)
    assert unit("base", "base").error == "OSError: no space"


def test_what_is_older_than_its_source_is_to_be_made_again(exp):
    make_everything(exp)
    later = time.time() + 60
    os.utime(exp.hypothesis("test", "joint", PAIRS[0]), (later, later))
    os.utime(exp.merged("lors", "st") / "model.pth", (later, later))
    assert states("score")["joint/de_asr"] == "pending"
    assert states("pack")["lors.st.zip"] == "pending"


def test_finished_hypothesis_that_was_removed(exp):
    make_everything(exp)
    exp.hypothesis("test", "base", PAIRS[0]).unlink()
    assert states("inference")["base/de_asr"] == "interrupted"


def test_stages_that_are_left_out(exp, capsys):
    finish(exp.base / ".done")
    record(skip_train=True)
    assert set(states("experts").values()) == {"left out"}
    assert states("base") == {"base": "done"}
    assert main(["--stage", "experts"]) == 0
    assert " 5 experts    0/4 done, 4 left out" in capsys.readouterr().out


def test_recipe_and_experiment_may_be_elsewhere(exp, tmp_path, monkeypatch):
    make_everything(exp)
    monkeypatch.chdir("/")
    assert read_status(tmp_path / "exp").state == "done"
    (tmp_path / "exp").rename(tmp_path / "renamed")
    assert read_status(tmp_path / "renamed", "experts").state == "done"
    assert read_status(tmp_path / "renamed", "data").state == "interrupted"  # /nowhere/data


# --- jobs ---------------------------------------------------------------------------------------


def test_experts_in_every_state(exp, gone, capsys):
    record(langs=("de", "es", "fr"), status=1)
    pairs = pairs_of(("de", "es", "fr"), RUN.tasks)
    command = ["python", "-m", "lors.bin.train", "--pairs", *map(str, pairs), "--out", "exp/expert"]
    finish(exp.expert(pairs[0]) / ".done")
    for pair in pairs[1:5]:
        begin(exp.expert(pair) / ".done")
    ends = {
        1: {"status": 0},
        2: {"on": alive()},
        3: {"said": "loading\nprog: error: no space\n  where: disk", "status": 1},
        4: {"on": f"{HERE}, process {gone}"},
        5: {"status": 143, "ended_by": "SIGTERM"},
    }
    for number, options in ends.items():
        said = options.pop("said", "")
        words = [*command, "--only", str(number)]
        write_log(f"log/train_expert.{number}.log", words, said, **options)
    expected = ["done", "running", "failed", "interrupted", "interrupted", "pending"]
    assert list(states("experts").values()) == expected
    assert main(["exp", "--stage", "5"]) == 1
    assert capsys.readouterr().out.splitlines()[1:-1] == [
        " 5 experts    1/6 done, 1 running, 1 failed, 2 interrupted",
        "     de_st   running      exp/log/train_expert.2.log",
        "     es_asr  failed       exp/log/train_expert.3.log  status 1: prog: error: no space",
        "     es_st   interrupted  exp/log/train_expert.4.log",
        "     fr_asr  interrupted  exp/log/train_expert.5.log",
    ]
    main(["--stage", "experts", "--all"])
    assert "     fr_st   pending\n" in capsys.readouterr().out


def test_job_that_has_not_begun_its_unit(exp):
    """It reads data for a while, or fails before there is a marker."""
    expert_log(1, on=alive())
    expert_log(2, "ValueError: bad", status=1)
    expert_log(3, status=143)
    found = read_status("exp", "experts")
    assert [u.state for u in found.units] == ["running", "failed", "pending", "pending"]


def test_log_of_other_languages_is_not_taken(exp):
    command = ["python", "-m", "lors.bin.train", "--pairs", "fr_asr", "--only", "1"]
    write_log("log/train_expert.1.log", [*command, "--out", "exp/expert"], "KeyError: x", status=1)
    write_log("log/train_expert.9.log", ["something", "else"], "KeyError: x", status=1)
    assert set(states("experts").values()) == {"pending"}


def test_joint_model(exp):
    begin(exp.joint / ".done")
    command = ["python", "-m", "lors.bin.train", "--pairs", "de_asr", "--out", "exp/joint"]
    write_log("log/train_joint.log", command, on=alive())
    assert states("baselines") == {"joint": "running"}


def test_sequential_model(exp):
    record(systems=(*SYSTEMS, "sequential"))
    finish(exp.root / "sequential/01_de_asr/.done")
    begin(exp.root / "sequential/02_de_st/.done")
    command = ["python", "-m", "lors.bin.train", "--pairs", "de_asr", "de_st", "--sequential"]
    write_log("log/train_sequential.log", [*command, "--out", "exp/sequential"], on=alive())
    found = states("baselines")
    assert found["sequential/01_de_asr"] == "done"
    assert found["sequential/02_de_st"] == "running"


def test_search_on_dev_takes_the_widest_scope_first(exp):
    for method in RUN.methods:
        begin(exp.root / f"tune/{method}.asr_st/.done")
    write_log("log/tune.1.log", [*TUNE, "--only", "1"], on=alive())
    write_log("log/tune.3.log", [*TUNE, "--only", "3"], "prog: error: no model", status=1)
    assert states("tune") == {
        "average.asr_st": "running",
        "lors.asr_st": "running",
        "average.asr": "pending",
        "lors.asr": "pending",
        # It failed before it began any of them.
        "average.st": "failed",
        "lors.st": "failed",
    }


def test_test_sets_of_a_job(exp):
    units = inference_units(SYSTEMS, PAIRS)
    first, second = units[::2], units[1::2]
    for (system, pair), is_done in ((first[0], True), (first[1], False), (second[0], False)):
        hypothesis = exp.hypothesis("test", system, pair)
        begin(hypothesis_marker(hypothesis))
        if is_done:
            finish(hypothesis_marker(hypothesis))
            hypothesis.touch()
    write_log("log/inference.1.log", [*INFER, "--job", "1"], on=alive())
    write_log("log/inference.2.log", [*INFER, "--job", "2"], "MemoryError:", status=1)
    found = {u.name: u for u in read_status("exp", "inference").units}
    by_state = {"done": [first[0]], "running": [first[1]], "failed": [second[0]]}
    for state, names in by_state.items():
        expected = [f"{system}/{pair}" for system, pair in names]
        assert [name for name, u in found.items() if u.state == state] == expected
    # The other test sets wait for their turn, or for another run.
    assert sum(u.state == "pending" for u in found.values()) == len(units) - 3
    assert found["/".join(map(str, second[0]))].log == Path("exp/log/inference.2.log")


def test_the_newest_log_of_a_unit_counts(exp):
    """An earlier run had more jobs."""
    begin(hypothesis_marker(exp.hypothesis("test", "base", PAIRS[2])))
    old = [*INFER[:-1], "9", "--job", "3"]
    write_log("log/inference.3.log", old, "OSError: old", status=1, age=9000)
    assert unit("inference", "base/es_asr").error == "OSError: old"
    write_log("log/inference.1.log", [*INFER, "--job", "1"], on=alive())
    assert states("inference")["base/es_asr"] == "running"


# --- the run itself -----------------------------------------------------------------------------


def run_now(**changes) -> None:
    """A run that is there: this process."""
    record(pid=os.getpid(), began=time.time(), status=None, **changes)


def test_stage_without_jobs_is_done_by_the_run(exp):
    run_now(stage="merge")
    begin(exp.merged("average", "asr") / ".done")
    assert [name for name, s in states("merge").items() if s == "running"] == ["average.asr"]
    run_now(stage="data")
    assert list(states("data").values()) == ["running", *["pending"] * 5]
    assert set(states("format").values()) == {"pending"}


def test_what_a_new_run_will_do_again_has_not_failed(exp):
    begin(exp.expert(PAIRS[0]) / ".done")
    expert_log(1, "KeyError: 'x'", status=1, age=60)
    assert states("experts")["de_asr"] == "failed"
    run_now(stage="stats")
    assert states("experts")["de_asr"] == "pending"
    run_now(stage="tune")  # which does not come back to it
    assert states("experts")["de_asr"] == "failed"


def test_run_that_ended_without_a_word(exp, gone, capsys):
    begin(exp.base / ".done")
    record(stage="base", status=None, pid=gone)
    assert states("base") == {"base": "interrupted"}
    assert main([]) == 4
    assert "ended in stage base without a word" in capsys.readouterr().out


def test_stage_without_logs_that_failed(exp, capsys):
    begin(exp.merged("lors", "asr") / ".done")
    record(stage="merge", status=1)
    assert main(["--stage", "merge"]) == 1
    out = capsys.readouterr().out
    assert "lors.asr  failed       status 1: without a log: see what ./run.sh said" in out


def test_exit_code_while_the_run_goes_on(exp, capsys):
    run_now(stage="base")
    assert main([]) == 3
    assert main(["--stage", "score"]) == 3
    run_now(stage="base", stop_stage=4)  # so it will never get there
    assert main(["--stage", "score"]) == 4
    make_everything(exp)
    assert main(["--stage", "score"]) == 0
    assert f"stage base, on {HERE}, process {os.getpid()}" in capsys.readouterr().out


# --- where a process runs -----------------------------------------------------------------------


def test_other_machine(exp):
    for pair in PAIRS[:2]:
        begin(exp.expert(pair) / ".done")
    expert_log(1, on="elsewhere, process 1", age=60)
    expert_log(2, on="elsewhere, process 1", age=700)
    assert list(states("experts").values())[:2] == ["running", "interrupted"]


def test_log_without_a_process(exp):
    begin(exp.expert(PAIRS[0]) / ".done")
    expert_log(1)
    assert states("experts")["de_asr"] == "running"
    expert_log(1, age=700)
    assert states("experts")["de_asr"] == "interrupted"


def test_number_that_another_process_has_got():
    mine = Process(HERE, os.getpid(), since=time.time())
    before = Process(HERE, os.getpid(), since=time.time() - 30 * 86400)
    assert states_of([mine, before]) == ["running", ""]


@pytest.fixture
def squeue(tmp_path, monkeypatch):
    """Have a squeue on the PATH that says what it is told to, and count its calls."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def answer(*lines: str, status: int = 0, error: str = "") -> Path:
        program, calls = folder / "squeue", folder / "calls"
        said = "".join(f"echo '{line}'\n" for line in lines)
        program.write_text(
            f'#!/bin/sh\necho "$@" >>{calls}\n{said}echo "{error}" >&2\nexit {status}\n'
        )
        program.chmod(0o755)
        return calls

    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return answer


def test_jobs_of_slurm(exp, squeue):
    for number, pair in enumerate(PAIRS, 1):
        begin(exp.expert(pair) / ".done")
        expert_log(number, on=f"node7, process 1, Slurm job 123_{number}", age=7000)
    calls = squeue("123_1 RUNNING", "123_2 PENDING", "123_4 COMPLETED")
    expected = ["running", "queued", "interrupted", "interrupted"]
    assert list(states("experts").values()) == expected
    assert [line.split()[-2:] for line in calls.read_text().splitlines()] == [["-j", "123"]]
    squeue(status=1, error="slurm_load_jobs error: Invalid job id specified")
    assert set(states("experts").values()) == {"interrupted"}


def test_jobs_of_slurm_on_this_machine(exp, squeue, gone):
    for number, pair in enumerate(PAIRS, 1):
        begin(exp.expert(pair) / ".done")
        expert_log(number, on=f"{HERE}, process {gone}, Slurm job 123_{number}")
    expert_log(1, on=f"{alive()}, Slurm job 123_1")
    # The second is back in the queue; the third has ended, if not all that its job is for.
    squeue("123_2 PENDING", "123_3 RUNNING")
    expected = ["running", "queued", "interrupted", "interrupted"]
    assert list(states("experts").values()) == expected
    said = f"# Back into the queue\n# again\n# Running on {alive()}, Slurm job 123_4"
    expert_log(4, said, on=f"{HERE}, process {gone}, Slurm job 123_4")
    assert states("experts")["es_st"] == "running"


def test_slurm_that_does_not_answer(exp, squeue):
    squeue(status=1, error="squeue: error: Unable to contact slurm controller")
    expert_log(1, on="node7, process 1, Slurm job 123_1")
    expert_log(2, on="node7, process 1, Slurm job 123_2", age=700)
    assert list(states("experts").values())[:2] == ["running", "pending"]


# --- logs ---------------------------------------------------------------------------------------


def test_log_of_a_wrapper(tmp_path):
    path = tmp_path / "x.log"
    path.write_text(
        "slurmstepd: a line of the cluster\n# python -m a.b --text 'x y' --job 2\n"
        "# Running on node7.cluster, process 42, Slurm job 12_3\n"
        "# Started at 2025-01-01T12:00:00\n#\nhello\n"
    )
    log = read_job_log(path)
    process = log.process
    assert (process.host, process.pid, process.slurm_job) == ("node7.cluster", 42, "12_3")
    assert log.module == "a.b" and log.option("text") == ["x y"] and log.option("job") == ["2"]
    assert log.option("none") == [] and log.status is None
    assert process.since == time.mktime((2025, 1, 1, 12, 0, 0, 0, 0, -1))


OOM = "slurmstepd: error: Detected 1 oom_kill event in StepId=12.batch."


@pytest.mark.parametrize(
    ("then", "status"),
    [("", 137), (f"{OOM}\n", 137), ("# python -m a.b\n# Running on node8, process 43\n#\n", None)],
)
def test_last_word_on_how_a_job_ended(tmp_path, then, status):
    """Slurm may write after the wrapper, and a job that is run again goes on in its log."""
    log = "# python -m a.b\n# Running on node7, process 42\n#\n"
    log += "# Finished at 2025-01-01T12:00:00 with status 137\n"
    (tmp_path / "x.log").write_text(log + then)
    assert read_job_log(tmp_path / "x.log").status == status


def test_logs_of_other_kinds(tmp_path):
    assert read_job_log(tmp_path / "none.log") is None
    (tmp_path / "x.log").write_bytes(b"\xff\xfe no header\n")
    assert read_job_log(tmp_path / "x.log") is None
    kaldi = "# sh -c 'x\n# Running on node7\n# Started at Wed Jan 1 12:00:00 UTC 2025\n#\nsaid\n"
    kaldi += "# Accounting: time=1 threads=1\n# Ended (code 7) at Wed Jan 1 12:00:01 UTC 2025\n"
    (tmp_path / "x.log").write_text(kaldi)
    log = read_job_log(tmp_path / "x.log")
    assert log.status == 7 and log.process.since is None and log.command == ("sh", "-c", "'x")


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ("Traceback (most recent call last):\n  File 'x'\nKeyError: 'y'", "KeyError: 'y'"),
        (
            "train: error: it failed\n  got:\n    main.py: error: no --x\n  what to do: mend",
            "main.py: error: no --x",
        ),
        ("one\ntwo\n\n", "two"),
        ("torch.OutOfMemoryError: CUDA\n# Ended by SIGKILL (out of memory?)", None),
        (f"# Ended by SIGKILL (out of memory?)\n{OOM}", None),
        ("RuntimeError: real reason\n# Ended by SIGTERM", "RuntimeError: real reason"),
        ("step 3\n# Ended by SIGSEGV", "ended by SIGSEGV"),
        ("# Ended by Slurm (SIGTERM)\n# Running on h\nKeyError: 'y'", "KeyError: 'y'"),
        ("", ""),
        ("x" * 300, "x" * 157 + "..."),
    ],
)
def test_error_of_a_log(tmp_path, said, error):
    (tmp_path / "x.log").write_text(f"# command\n# Running on h\n{said}\n# Finished at x\n")
    expected = "ended by SIGKILL (out of memory?)" if error is None else error
    assert error_in(tmp_path / "x.log") == expected


# --- what cannot be read ------------------------------------------------------------------------


@pytest.mark.parametrize("name", [".done", ".done.started"])
@pytest.mark.parametrize("content", ["{", "[]", '{"hash": 1}'])
def test_corrupt_marker(exp, name, content, capsys):
    exp.joint.mkdir()
    (exp.joint / name).write_text(content)
    assert main(["--stage", "baselines"]) == 1
    assert f"exp/joint/{name}" in capsys.readouterr().out


def test_missing_experiment(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([]) == 2
    assert "no such experiment directory" in capsys.readouterr().err
    Path("exp").mkdir()
    assert main([]) == 2
    assert "no run of a recipe is recorded here" in capsys.readouterr().err
    assert list(Path("exp").iterdir()) == []


def test_unknown_stage(exp, capsys):
    assert main(["--stage", "expert"]) == 2
    assert "did you mean experts" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_corrupt_record(exp, content, capsys):
    Path("exp/recipe.json").write_text(content)
    assert main([]) == 2
    assert "call ./run.sh again" in capsys.readouterr().err


# --- the record ---------------------------------------------------------------------------------


def call_record(*event: str, pid: int = 7, langs: str = "de") -> None:
    options = ["--command", "./run.sh", "--expdir", "exp", "--data", "data", "--dump", "dump"]
    options += ["--langs", langs, "--tasks", "asr", "--methods", "--systems", "base"]
    options += ["--base_langs", "de", "--train_base", "false", "--skip_train", "true"]
    assert record_run.main([*event, "--pid", str(pid), "--stop_stage", "11", *options]) == 0


def test_run_is_recorded_stage_by_stage(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLURM_JOB_ID", "99")
    call_record("--stage", "data")
    first = read_run("exp")
    assert (first.host, first.pid, first.slurm_job, first.stage) == (HERE, 7, "99", "data")
    assert first.directory == str(tmp_path) and first.methods == () and first.skip_train
    call_record("--stage", "format")
    assert read_run("exp") == dataclasses.replace(first, stage="format")
    call_record("--status", "1")
    assert read_run("exp") == dataclasses.replace(first, stage="format", status=1)
    call_record("--stage", "data", langs="es")  # another run, if with the same process number
    assert read_run("exp").langs == ("es",) and read_run("exp").began > first.began
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "98")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    call_record("--stage", "data", pid=9)
    assert read_run("exp").slurm_job == "98_1"
    call_record("--status", "0", pid=8)  # of a run that is not the latest
    assert read_run("exp").status is None


def test_refused_first_run_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call_record("--stage", "data")
    call_record("--status", "2")
    assert list(tmp_path.iterdir()) == []
    call_record("--stage", "data")
    Path("exp/base").mkdir()
    call_record("--status", "2")
    assert read_run("exp").status == 2


# --- the program --------------------------------------------------------------------------------


def test_json(exp, capsys):
    make_everything(exp)
    (exp.expert(PAIRS[3]) / ".done").unlink()
    expert_log(4, "KeyError: 'x'", status=1)
    assert main(["--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["state"] == "failed" and found["run"]["command"] == RUN.command
    assert found["run"]["alive"] is False and found["run"]["status"] == 130
    assert [stage["name"] for stage in found["stages"]] == list(STAGES)
    experts = found["stages"][4]
    assert experts["number"] == 5 and experts["counts"] == {"done": 3, "failed": 1}
    assert experts["units"][3] == {
        "name": "es_st",
        "state": "failed",
        "log": "exp/log/train_expert.4.log",
        "status": 1,
        "error": "KeyError: 'x'",
    }


def test_program_only_reads(exp):
    expert_log(1, on=alive())
    before = {path: path.stat().st_mtime_ns for path in Path().rglob("*")}
    environment = {**os.environ, "LORS_PYTHON": sys.executable}
    command = [str(ROOT / "utils" / "status"), "exp", "--stage", "experts"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 3 and done.stderr == ""
    assert "de_asr  running      exp/log/train_expert.1.log" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in Path().rglob("*")} == before
    help_text = subprocess.run(
        [*command, "--help"], env=environment, capture_output=True, text=True
    )
    assert "exit code: 0 all is done" in help_text.stdout


def test_bad_pair_in_a_log_is_no_error(exp):
    write_log(
        "log/x.log", ["x", "-m", "lors.bin.train", "--out", "e", "--pairs", "x", "--only", "1"]
    )
    write_log("log/y.log", ["x", "-m", "lors.bin.tune", "--tasks", "asr", "--only", "0"])
    assert read_status("exp").state == "interrupted"
    with pytest.raises(UsageError):
        Pair.parse("x")
