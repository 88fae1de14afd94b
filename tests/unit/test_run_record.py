"""lors.recipe.run_record by its program: the record of a run, from its first stage to its end."""

import dataclasses
import json
import socket
from pathlib import Path

import pytest

from lors.bin import record_run
from lors.errors import UsageError
from lors.recipe.run_record import read_run
from tests.refusal import refusal


def call_record(*event: str, pid: int = 7, langs: str = "de") -> None:
    options = ["--command", "./run.sh", "--expdir", "exp", "--data", "data", "--dump", "dump"]
    options += ["--langs", langs, "--tasks", "asr", "--methods", "--systems", "base"]
    options += ["--skip_train", "true"]
    assert record_run.main([*event, "--pid", str(pid), "--stop_stage", "11", *options]) == 0


def test_run_is_recorded_stage_by_stage(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLURM_JOB_ID", "99")
    call_record("--stage", "data")
    first = read_run("exp")
    assert (first.host, first.pid, first.slurm_job, first.stage) == (
        socket.gethostname(),
        7,
        "99",
        "data",
    )
    assert first.directory == str(tmp_path) and first.methods == () and first.skip_train
    call_record("--stage", "format")
    assert read_run("exp") == dataclasses.replace(first, stage="format")
    call_record("--status", "1")
    assert read_run("exp") == dataclasses.replace(first, stage="format", status=1)
    call_record("--stage", "data", langs="es")  # another run with the same process number
    assert read_run("exp").langs == ("es",) and read_run("exp").began > first.began
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "98")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    call_record("--stage", "data", pid=9)
    assert read_run("exp").slurm_job == "98_1"
    call_record("--status", "0", pid=8)  # not the latest run
    assert read_run("exp").status is None


def test_record_of_an_earlier_version_has_no_environment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call_record("--stage", "data", "--environment", "LORS_CMD_BACKEND=slurm ")
    assert read_run("exp").typed == "LORS_CMD_BACKEND=slurm ./run.sh"
    path = Path("exp/recipe.json")
    content = json.loads(path.read_text())
    del content["environment"]
    path.write_text(json.dumps(content))
    assert read_run("exp").typed == "./run.sh"


def test_refused_first_run_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call_record("--stage", "data")
    call_record("--status", "2")
    assert list(tmp_path.iterdir()) == []
    call_record("--stage", "data")
    Path("exp/base").mkdir()
    call_record("--status", "2")
    assert read_run("exp").status == 2


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"{}", b"null", b"\xff", b"\0" * 9, b"[" * 100_000]
)
def test_corrupt_record(tmp_path, content):
    path = tmp_path / "recipe.json"
    path.write_bytes(content)
    with refusal(path, "./run.sh", kind=UsageError):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("began", value) for value in (float("nan"), float("inf"), 1e300, "now", True, None)),
        *(("pid", value) for value in (7.0, 10**400, True, None)),
        *(("status", value) for value in (False, "0", 0.5)),
        *(("langs", value) for value in ("de", {}, [1], ["../de"], ["de", "de"], ["\ud800"])),
        *(("expdir", value) for value in ("", "a\0b", "a\nb", None)),
        *(("systems", value) for value in ([["base"]], ["../base"], None)),
        ("methods", ["a/b"]),
        ("host", "\ud800"),
        ("command", 1),
        ("environment", None),
    ],
)
def test_field_of_another_shape(tmp_path, monkeypatch, name, value):
    monkeypatch.chdir(tmp_path)
    call_record("--stage", "data")
    path = Path("exp/recipe.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    with refusal(path, name, "./run.sh", kind=UsageError):
        read_run("exp")


def test_record_of_more_test_sets_than_any_recipe_has(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call_record("--stage", "data")
    path = Path("exp/recipe.json")
    many = [f"x{number}" for number in range(2000)]
    path.write_text(json.dumps({**json.loads(path.read_text()), "langs": many, "systems": many}))
    with refusal(path, 4_000_000, kind=UsageError):
        read_run("exp")


def test_all_wrong_fields_are_listed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call_record("--stage", "data")
    path = Path("exp/recipe.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "pid": "x", "langs": "de"}))
    with refusal(path, "pid: 'x'", "langs: 'de'", kind=UsageError):
        read_run("exp")


def test_missing_record(tmp_path):
    with refusal(tmp_path / "none", kind=UsageError):
        read_run(tmp_path / "none")
    with refusal(tmp_path, "recipe.json", kind=UsageError):
        read_run(tmp_path)
