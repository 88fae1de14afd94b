"""utils/status: the state of all units, from markers and logs as a run leaves them."""

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

from lors.bin.status import main
from lors.done_marker import DoneMarker
from lors.recipe.expdir import (
    ExpDir,
    hypothesis_marker,
    inference_units,
    scopes_of,
    utterances_file,
)
from lors.recipe.run_record import RunRecord, begin_stage
from lors.recipe.status import read_status
from lors.recipe.units import STAGES
from lors.tasks import pairs_of

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
)
PAIRS = pairs_of(RUN.langs, RUN.tasks)
TRAIN = ["python", "-m", "lors.bin.train", "--pairs", *map(str, PAIRS), "--out", "exp/expert"]
TUNE = ["python", "-m", "lors.bin.tune", "--tasks", *RUN.tasks, "--methods", *RUN.methods]
INFER = ["python", "-m", "lors.bin.inference", "--langs", *RUN.langs, "--tasks", *RUN.tasks]
INFER += ["--systems", *SYSTEMS, "--split", "test", "--num_jobs", "2"]


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch):
    """Do not wait for the disk: there are hundreds of markers."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def exp(tmp_path, monkeypatch) -> ExpDir:
    """Return an experiment without results, in a recipe's directory."""
    monkeypatch.chdir(tmp_path)
    record()
    return ExpDir("exp")


def record(**changes) -> None:
    """Record `RUN`, which Ctrl-C has ended, with these changes."""
    begin_stage(dataclasses.replace(RUN, **changes))


@pytest.fixture(scope="module")
def gone() -> int:
    """Return the number of a process that has ended."""
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
    """Write a log like a job wrapper, with the last change `age` seconds ago."""
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
    """Return unit -> state for one stage."""
    return {unit.name: unit.state for unit in read_status("exp", stage).units}


def unit(stage: str, name: str):
    return next(unit for unit in read_status("exp", stage).units if unit.name == name)


def alive() -> str:
    return f"{HERE}, process {os.getpid()}"


def make_everything(exp: ExpDir) -> None:
    """Write what a finished run leaves."""
    for lang in RUN.langs:
        for split in ("train", "dev", "test"):
            directory = Path("data", lang, split)
            directory.mkdir(parents=True)
            for name in ("wav.scp", "utt2spk", "spk2utt"):
                (directory / name).touch()
            finish(Path("dump", lang, split, ".done"))
    merges = [(scope, method) for scope in scopes_of(RUN.tasks) for method in RUN.methods]
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
        utterances_file(score).touch()
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
    stages = zip(range(1, 12), STAGES[:-1], counted, strict=True)
    lines = [f"{number:2d} {name:<10} {units}/{units} done" for number, name, units in stages]
    lines.append("12 upload     nothing to do")
    assert capsys.readouterr().out.splitlines()[1:] == lines


def test_nothing_is_done(exp, capsys):
    assert main([]) == 4
    out = capsys.readouterr().out
    assert " 5 experts    0/4 done\n" in out and "11 pack       0/3 done\n" in out
    assert out.endswith("go on with: cd /nowhere && ./run.sh --langs 'de es'\n")
    assert "ended in stage experts with status 130" in out


def test_environment_of_the_run_is_part_of_how_to_go_on(exp, capsys):
    record(environment="LORS_CMD_BACKEND=slurm ")
    assert main([]) == 4
    command = "LORS_CMD_BACKEND=slurm ./run.sh --langs 'de es'"
    assert capsys.readouterr().out.endswith(f"go on with: cd /nowhere && {command}\n")
    assert main(["--json"]) == 4
    assert json.loads(capsys.readouterr().out)["run"]["command"] == command


@pytest.mark.parametrize("stage", STAGES[:-1])  # an upload leaves nothing here
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


def test_results_that_are_older_than_their_sources(exp):
    make_everything(exp)
    later = time.time() + 60
    os.utime(exp.hypothesis("test", "joint", PAIRS[0]), (later, later))
    os.utime(exp.merged("lors", "st") / "model.pth", (later, later))
    assert states("score")["joint/de_asr"] == "pending"
    assert states("pack")["lors.st.zip"] == "pending"


def test_packed_models_are_those_of_boosted_lors_if_it_was_run(exp):
    make_everything(exp)
    record(methods=("average", "lors", "lors+boost"))
    scopes = scopes_of(RUN.tasks)
    assert states("pack") == {f"lors+boost.{scope}.zip": "pending" for scope in scopes}


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
    """A job reads data for a while, or fails, before it writes a marker."""
    expert_log(1, on=alive())
    expert_log(2, "ValueError: bad", status=1)
    expert_log(3, status=143)
    found = read_status("exp", "experts")
    assert [u.state for u in found.units] == ["running", "failed", "pending", "pending"]


def test_error_of_a_training_program(exp):
    """A training job's log has the output of the program that it starts."""
    begin(exp.expert(PAIRS[0]) / ".done")
    said = """[node7] 2025-01-01 12:00:00 (trainer:762) INFO: 1epoch:train:1-20batch: loss=3.1
Traceback (most recent call last):
  File "espnet2/train/trainer.py", line 352, in run
torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB.
lors.bin.train: error: training failed
  where: exp/expert/de_asr
  what to do: mend the cause and run the stage again"""
    expert_log(1, said, status=1)
    failed = unit("experts", "de_asr")
    assert (failed.state, failed.status) == ("failed", 1)
    assert failed.error.startswith("torch.OutOfMemoryError: CUDA out of memory.")


def test_log_of_other_languages_is_not_taken(exp):
    command = ["python", "-m", "lors.bin.train", "--pairs", "fr_asr", "--only", "1"]
    write_log("log/train_expert.1.log", [*command, "--out", "exp/expert"], "KeyError: x", status=1)
    write_log("log/train_expert.9.log", ["something", "else"], "KeyError: x", status=1)
    assert set(states("experts").values()) == {"pending"}


BASELINES = ["python", "-m", "lors.bin.train", "--out", "exp"]
BASELINES += ["--pairs", "de_asr", "de_st", "es_asr", "es_st"]
BASELINES += ["--baselines", "joint", "sequential", "sequential_reversed"]


def test_quantised_model(exp):
    record(script="pqm", speakers="speakers", stage="quantise", systems=("base", "quantised"))
    command = ["python", "-m", "lors.bin.quantise", "--model", "exp/base"]
    command += ["--out", "exp/quantised"]
    write_log("log/quantise.log", command, "prog: error: no space", status=1)
    failed = unit("quantise", "quantised")
    assert (failed.state, failed.error) == ("failed", "prog: error: no space")


def test_joint_model(exp):
    begin(exp.joint / ".done")
    write_log("log/train_baseline.1.log", [*BASELINES, "--only", "1"], on=alive())
    assert states("baselines") == {"joint": "running"}


@pytest.mark.parametrize(
    ("number", "steps"),
    [
        (2, ["sequential/01_de_asr", "sequential/02_de_st", "sequential/03_es_asr"]),
        (3, [f"sequential_reversed/{step}" for step in ("01_es_st", "02_es_asr", "03_de_st")]),
    ],
)
def test_sequential_models(exp, number, steps):
    record(systems=(*SYSTEMS, "sequential", "sequential_reversed"))
    finish(exp.root / steps[0] / ".done")
    begin(exp.root / steps[1] / ".done")
    command = [*BASELINES, "--only", str(number)]
    write_log(f"log/train_baseline.{number}.log", command, on=alive())
    found = states("baselines")
    assert len(found) == 1 + 4 + 4 and found["joint"] == "pending"
    assert [found[step] for step in steps] == ["done", "running", "pending"]


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
        # Its job failed before it started any of them.
        "average.st": "failed",
        "lors.st": "failed",
    }


def test_methods_of_a_scope_are_divided_among_its_jobs(exp):
    record(tasks=("asr",), systems=("base", "expert", "average.langs", "lors.langs"))
    words = ["python", "-m", "lors.bin.tune", "--tasks", "asr", "--methods", *RUN.methods]
    for method in RUN.methods:
        begin(exp.root / f"tune/{method}.asr/.done")
    write_log("log/tune.2.log", [*words, "--jobs", "2", "--only", "2"], on=alive())
    assert states("tune") == {"average.asr": "interrupted", "lors.asr": "running"}


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
    # The other test sets wait for their turn or for the next run.
    assert sum(u.state == "pending" for u in found.values()) == len(units) - 3
    assert found["/".join(map(str, second[0]))].log == Path("exp/log/inference.2.log")


def test_the_newest_log_of_a_unit_counts(exp):
    """The log of an earlier run with more jobs is older."""
    begin(hypothesis_marker(exp.hypothesis("test", "base", PAIRS[2])))
    old = [*INFER[:-1], "9", "--job", "3"]
    write_log("log/inference.3.log", old, "OSError: old", status=1, age=9000)
    assert unit("inference", "base/es_asr").error == "OSError: old"
    write_log("log/inference.1.log", [*INFER, "--job", "1"], on=alive())
    assert states("inference")["base/es_asr"] == "running"


# --- the run itself -----------------------------------------------------------------------------


def run_now(**changes) -> None:
    """Record a run that still runs: this process."""
    record(pid=os.getpid(), began=time.time(), status=None, **changes)


def test_stage_without_jobs_is_done_by_the_run(exp):
    run_now(stage="merge")
    begin(exp.merged("average", "asr") / ".done")
    assert [name for name, s in states("merge").items() if s == "running"] == ["average.asr"]
    run_now(stage="data")
    assert list(states("data").values()) == ["running", *["pending"] * 5]
    assert set(states("format").values()) == {"pending"}


def test_unit_that_a_new_run_will_do_again_has_not_failed(exp):
    begin(exp.expert(PAIRS[0]) / ".done")
    expert_log(1, "KeyError: 'x'", status=1, age=60)
    assert states("experts")["de_asr"] == "failed"
    run_now(stage="stats")
    assert states("experts")["de_asr"] == "pending"
    run_now(stage="tune")
    assert states("experts")["de_asr"] == "failed"


def test_killed_run(exp, gone, capsys):
    begin(exp.base / ".done")
    record(stage="base", status=None, pid=gone)
    assert states("base") == {"base": "interrupted"}
    assert main([]) == 4
    assert f"killed in stage base, on {HERE}, process {gone}" in capsys.readouterr().out


def test_stage_without_logs_that_failed(exp, capsys):
    begin(exp.merged("lors", "asr") / ".done")
    record(stage="merge", status=1)
    assert main(["--stage", "merge"]) == 1
    assert "     lors.asr  failed       status 1: " in capsys.readouterr().out


def test_exit_code_while_the_run_goes_on(exp, capsys):
    run_now(stage="base")
    assert main([]) == 3
    assert main(["--stage", "score"]) == 3
    run_now(stage="base", stop_stage=4)  # a run that does not come to stage score
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


@pytest.fixture
def squeue(tmp_path, monkeypatch):
    """Put a squeue with given answers on the PATH; its calls are written to a file."""
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
    # The second is in the queue again. The third has ended, though its Slurm job runs on.
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
    assert "where: exp\n" in capsys.readouterr().err
    Path("exp").mkdir()
    assert main([]) == 2
    assert "recipe.json" in capsys.readouterr().err
    assert list(Path("exp").iterdir()) == []


def test_unknown_stage(exp, capsys):
    assert main(["--stage", "expert"]) == 2
    err = capsys.readouterr().err
    assert "'expert'" in err and "experts" in err


def test_commands_that_no_recipe_calls(exp):
    words = ["x", "-m", "lors.bin.train", "--out", "e", "--pairs", "x", "--only", "1"]
    write_log("log/x.log", words, "KeyError: x", status=1)
    words = ["x", "-m", "lors.bin.tune", "--tasks", "asr", "--only", "0"]
    write_log("log/y.log", words, "KeyError: x", status=1)
    assert read_status("exp").state == "interrupted"


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


@pytest.mark.parametrize("name", ["a b", "a'\"b", "a%b", "$HOME", "a\nb", os.fsdecode(b"a\xffb")])
def test_directory_of_any_name(exp, name, monkeypatch, capfdbinary):
    """The paths of the recipe and of the experiment, as the call gives them."""
    place = Path(name)
    place.mkdir()
    exp.root.rename(place / "exp")
    for here, called in ((".", f"{name}/exp"), (name, "exp")):
        monkeypatch.chdir(here)
        assert main([called]) == 4
        assert os.fsencode(called) in capfdbinary.readouterr().out
        assert main([called, "--json"]) == 4
        assert json.loads(capfdbinary.readouterr().out)["expdir"] == called


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b'{"inputs": 1}', None])
def test_damaged_marker_fails_its_unit(exp, content):
    marker = exp.expert(PAIRS[0]) / ".done"
    marker.parent.mkdir(parents=True)
    if content is None:
        marker.mkdir()
    else:
        marker.write_bytes(content)
    [failed] = [unit for unit in read_status("exp", "experts").units if unit.state == "failed"]
    assert failed.name == "de_asr" and str(marker) in failed.error
