"""Damaged records, markers, logs and sweeps, as utils/status and the merges read them."""

from __future__ import annotations

import dataclasses
import json
import time

import pytest

from lors.bin.status import main
from lors.done_marker import DoneMarker
from lors.errors import LorsError, UsageError
from lors.recipe.expdir import ExpDir
from lors.recipe.job_log import error_in, read_job_log
from lors.recipe.run_record import begin_stage, read_run
from lors.recipe.sweeps import read_sweep
from tests.fuzz.mutate import mutated_bytes, mutated_value, seeds
from tests.unit.score_trees import make_sweeps
from tests.unit.test_status import PAIRS, RUN, expert_log, finish, write_log

SECONDS = 2
"""The longest time for one input, on a busy machine."""


@pytest.fixture
def exp(folder, monkeypatch):
    """An experiment with some markers and logs, in a recipe's directory."""
    monkeypatch.chdir(folder)
    begin_stage(dataclasses.replace(RUN, host="elsewhere"))
    exp = ExpDir("exp")
    finish(exp.base / ".done")
    finish(exp.expert(PAIRS[0]) / ".done")
    DoneMarker(exp.expert(PAIRS[1]) / ".done", {"seed": 1}).start()
    expert_log(1, "step 1", status=0)
    expert_log(2, "KeyError: 'y'", status=1)
    write_log("log/stats.log", ["python", "-m", "lors.bin.train", "--out", "exp/stats"], status=1)
    return exp


def damaged(rng, content):
    """Return the bytes of a file with changes: of a value if it is JSON, or of any bytes."""
    if rng.random() < 0.5 and content.startswith((b"{", b"[")):
        return json.dumps(mutated_value(rng, json.loads(content))).encode()
    return mutated_bytes(rng, content)


def test_status_of_a_damaged_experiment(request, exp, capsys):
    files = [path for path in exp.root.rglob("*") if path.is_file()]
    contents = {path: path.read_bytes() for path in files}
    seen = set()
    for rng in seeds(request, 400):
        path = rng.choice([exp.root / "recipe.json", rng.choice(files)])
        path.write_bytes(damaged(rng, contents[path]))
        began = time.process_time()
        status = main(["exp", *rng.choice(([], ["--all"], ["--json"], ["--stage", "experts"]))])
        out, error = capsys.readouterr()
        assert time.process_time() - began < SECONDS
        assert status in ((0, 1, 3, 4) if out else (1, 2)), path
        assert bool(out) != bool(error), path
        if error:
            assert str(path) in error and "what to do: " in error
        path.write_bytes(contents[path])
        seen.add(status)
    assert {file: file.read_bytes() for file in files} == contents
    assert len(seen) > 1


def test_damaged_record_and_marker(request, exp):
    for rng in seeds(request, 1000):
        record = exp.root / "recipe.json"
        content = record.read_bytes()
        record.write_bytes(damaged(rng, content))
        try:
            run = read_run("exp")
            assert all(isinstance(lang, str) for lang in run.langs)
        except UsageError as error:
            assert str(record) in str(error)
        record.write_bytes(content)
        marker = exp.base / ".done"
        content = marker.read_bytes()
        marker.write_bytes(damaged(rng, content))
        try:
            assert DoneMarker(marker, {"seed": 1}).is_done()
        except LorsError as error:
            assert str(marker.parent) in str(error) and error.hint
        marker.write_bytes(content)


def test_damaged_log(request, exp):
    path = exp.log / "train_expert.2.log"
    content = path.read_bytes()
    for rng in seeds(request, 2000):
        path.write_bytes(mutated_bytes(rng, content))
        began = time.process_time()
        log = read_job_log(path)
        assert log is None or (log.status is None or 0 <= log.status < 1000)
        assert len(error_in(path)) <= 160
        assert time.process_time() - began < SECONDS


def test_damaged_sweep(request, folder):
    expdir = ExpDir(make_sweeps(folder / "exp"))
    path = expdir.sweep("lors", "asr")
    content = path.read_bytes()
    for rng in seeds(request, 1000):
        path.write_bytes(damaged(rng, content))
        began = time.process_time()
        try:
            assert read_sweep(expdir, "lors", "asr").chosen
        except LorsError as error:
            assert str(path) in str(error)
        assert time.process_time() - began < SECONDS
