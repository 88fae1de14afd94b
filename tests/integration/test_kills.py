"""The mini recipe, killed again and again: the end result is that of a run without kills."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.recipe import OPTIONS, TIMEOUT, Recipe, stages_of, write_configs

pytestmark = pytest.mark.espnet

SEED = 7
HANDFUL, FEW, MANY = 4, 5, 30  # kills: with one expert; with all; with all and --full
ONE_EXPERT = ["--langs", "de", "--tasks", "asr", "--methods", "lors", "--baselines", ""]
STAGES = ["data", "format", "base", "stats", "experts", "baselines"]
STAGES += ["tune", "merge", "inference", "score", "pack", "upload"]
WHOM = ("all", "driver", "descendant")
UNNOTICED = 10.0  # seconds after which the driver is killed too, if it still runs
SOON = 20.0  # seconds until processes that survived a kill must have ended by themselves
KEPT_LOG = re.compile(r"train\.\d+\.log")  # log of the first part of an interrupted training
TEMPORARY = re.compile(r"\.(tmp|lock|started|shards|decompositions)$|\.part\.")


@dataclass(frozen=True)
class Kill:
    """Time and target of a kill: seconds after a stage has begun, or at its end if sooner."""

    stage: str
    seconds: float
    whom: str


def plan(seed: int, number: int, seconds: dict[str, float]) -> list[Kill]:
    """Return random kills in the order of the stages, more of them in stages that take longer.

    A stage does not repeat its work from before a kill: the kills of a stage share its time.

    Args:
        seed: seed of the random numbers.
        number: number of kills; no stage is left out if there are enough of them.
        seconds: how long each stage takes.
    """
    rng = random.Random(seed)
    stages = list(seconds) if number >= len(seconds) else []
    stages += rng.choices(list(seconds), list(seconds.values()), k=number - len(stages))
    stages.sort(key=list(seconds).index)
    first = rng.randrange(len(WHOM))
    return [
        Kill(
            stage,
            rng.uniform(0, 1.5 * seconds[stage] / stages.count(stage)),
            WHOM[(first + index) % len(WHOM)],
        )
        for index, stage in enumerate(stages)
    ]


def seconds_of(log: str) -> dict[str, float]:
    """Return the seconds that each stage took according to a log, and one more."""
    took = re.findall(r"stage \d+ \((\w+)\) took (\d+) s", log)
    return {stage: int(seconds) + 1.0 for stage, seconds in took}


def wait_for(condition, seconds: float) -> bool:
    """Return whether a condition becomes true within a time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def kill(recipe: Recipe, driver: int, whom: str, rng: random.Random) -> str:
    """SIGKILL the driver, one of its descendants, or all; return a description of the victim."""
    if whom == "all":
        while running := recipe.running():
            for pid in running:
                _kill(pid)
        return "all"
    victim, descendants = driver, recipe.running()
    descendants.pop(driver, None)
    if whom == "descendant" and descendants:
        victim = rng.choice(sorted(descendants))
    _kill(victim)
    return descendants.get(victim, "driver")[:150]


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it may have ended meanwhile
        os.kill(pid, signal.SIGKILL)


def run_and_kill(
    recipe: Recipe, options: list[str], reached: str, one: Kill, rng: random.Random
) -> tuple[str, bool]:
    """Run from the stage `reached` on, with a kill.

    Returns:
        The stage that began last, and whether the run had not ended before the kill.
    """
    log = recipe.directory.with_suffix(".log")
    with log.open("w") as output:
        process = recipe.start(*options, "--stage", reached, output=output)

    def begun() -> list[str]:
        return stages_of(log.read_text())

    def is_over() -> bool:
        """Return whether the stage has ended, in this run or in an earlier one."""
        return process.poll() is not None or any(name in later for name in begun())

    later = STAGES[STAGES.index(one.stage) + 1 :]
    if reached in later:  # the machine was faster than planned
        wait_for(lambda: process.poll() is not None, min(one.seconds, 10.0))
    else:
        assert wait_for(lambda: one.stage in begun() or is_over(), TIMEOUT)
        wait_for(is_over, one.seconds)
    ended = process.poll() is not None
    victim = "nobody: it had ended" if ended else kill(recipe, process.pid, one.whom, rng)
    if not wait_for(lambda: process.poll() is not None, UNNOTICED):
        # Jobs beside the killed job run to their end, or the killed process was not needed.
        victim += ", and then all"
        kill(recipe, process.pid, "all", rng)
    status = process.wait(TIMEOUT)
    now = begun()
    print(f"{one}: {victim}; in stage {now[-1:]}, status {status}", flush=True)
    if ended:
        assert status == 0, log.read_text()
    elif one.whom != "descendant" or victim.endswith("all"):
        assert status == -signal.SIGKILL, log.read_text()
    gone = wait_for(lambda: not recipe.running(), SOON)
    assert gone, f"after {one} there are still: {recipe.processes()}"
    return now[-1] if now else reached, not ended


def files(recipe: Recipe) -> set[str]:
    """Return the names of all files in the recipe directory."""
    return {
        str(path.relative_to(recipe.directory))
        for path in recipe.directory.rglob("*")
        if (path.is_symlink() or not path.is_dir()) and not KEPT_LOG.fullmatch(path.name)
    }


def results(recipe: Recipe) -> dict[str, bytes]:
    """Scores, sweeps, hypotheses and merged models, packed ones too: file -> content."""
    patterns = ("scores/**/*.json", "tune/*/sweep.json", "inference/*/*/*_*", "merged/*/*.pth")
    found = {}
    for path in (path for pattern in patterns for path in recipe.exp.glob(pattern)):
        # A marker has the digest of a model's file, which may have been packed in another way.
        if path.is_file() and not path.name.startswith("."):
            found[str(path.relative_to(recipe.exp))] = path.read_bytes()
    for path in recipe.exp.glob("packed/*.zip"):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith(".pth"):
                    found[f"{path.name}/{name}"] = archive.read(name)
    return found


def check(
    recipe: Recipe, options: list[str], kills: int, expected: Recipe, seconds: dict[str, float]
) -> None:
    """Kill runs of a new recipe and compare its final files with those of `expected`."""
    write_configs(recipe)
    shutil.copytree(expected / "tiny_base", recipe / "tiny_base")
    print(f"seed {SEED}, seconds of the stages: {seconds}")
    rng = random.Random(SEED)
    reached, hits = "data", 0
    for one in plan(SEED, kills, seconds):
        reached, hit = run_and_kill(recipe, options, reached, one, rng)
        hits += hit
    assert hits >= 0.8 * kills, "too many runs had ended before they could be killed"
    ended = recipe.run(*options)
    assert ended.status == 0, ended.stderr
    assert recipe.processes() == []
    wanted, got = results(expected), results(recipe)
    assert sorted(got) == sorted(wanted)
    assert [name for name in wanted if got[name] != wanted[name]] == []
    assert files(recipe) == files(expected)
    assert [name for name in files(recipe) if TEMPORARY.search(Path(name).name)] == []


def test_a_handful_of_kills_leaves_no_trace(corpus, tmp_path):
    """The smallest whole recipe: one expert and its merge."""
    options = [*OPTIONS, *ONE_EXPERT]
    expected = Recipe(tmp_path / "expected/mini_covost")
    write_configs(expected)
    shutil.copytree(corpus[0] / "tiny_base", expected / "tiny_base")
    ended = expected.run(*options)
    assert ended.status == 0, ended.stderr
    assert any("/merged/" in name for name in files(expected))
    seconds = seconds_of(ended.stderr)
    check(Recipe(tmp_path / "mini_covost"), options, HANDFUL, expected, seconds)


@pytest.mark.slow
def test_kills_leave_no_trace(reference, tmp_path, request):
    seconds = {**seconds_of(reference.rest.stderr), **seconds_of(reference.data.stderr)}
    kills = MANY if request.config.getoption("--full") else FEW
    check(Recipe(tmp_path / "mini_covost"), OPTIONS, kills, reference.recipe, seconds)


def test_a_plan_has_all_stages_and_all_kinds():
    seconds = {"data": 5.0, "experts": 60.0, "pack": 1.0}
    kills = plan(1, 12, seconds)
    assert [one.stage for one in kills] == sorted(
        (one.stage for one in kills), key=[*seconds].index
    )
    assert {one.stage for one in kills} == set(seconds) and {one.whom for one in kills} == set(WHOM)
    assert all(0 <= one.seconds <= 1.5 * seconds[one.stage] for one in kills)
    assert kills == plan(1, 12, seconds) != plan(2, 12, seconds)
    assert len(plan(1, 2, seconds)) == 2
