"""Random option words for the recipe scripts and for the job wrappers."""

from __future__ import annotations

import itertools
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lors.bin import check_recipe
from lors.errors import UsageError
from lors.recipe.names import check_names
from tests.fuzz.corpora import strange_text
from tests.fuzz.mutate import mutated_bytes, seeds
from tests.unit.test_options import BASE, LORS, STAGES

sys.path.insert(0, str(Path(__file__).parents[2] / "utils"))
import job_options
from slurm_conf import CONFIG, SWITCHES, SlurmConf, sbatch_words
from slurm_files import task_file

ROOT = Path(__file__).parents[2]
SECONDS = 2
"""The longest time for one input, on a busy machine."""
WORDS = (
    *("", " ", "-", "--", "-rf", "--expdir", "..", "../x", "/", ".", "a/b", "a=b", "JOB", "x_JOB"),
    *("de", "de de", "de es", "de_asr", "zh_TW", "asr st", "st asr", "mt", "joint", "lors average"),
    *("high", "high: de; low: es", "high: de; high: es", ";;:", "a: b: c", "true", "false", "null"),
    *("0", "1", "-1", "2", "007", "1e3", ".5", "1e999", "nan", "inf", "1:30", "0x1f", "1_0", "٣"),
    *("9" * 20, "9" * 5000, "1.", "+1", "cpu", "cuda", "whisper", "espnet_s2t", "tiny", "base"),
    *("conf/tune.yaml", "conf/none.yaml", "conf", "/dev/null", "x" * 300, "\udcff", "a\tb", "a\nb"),
    *("$(touch pwned)", "`touch pwned`", "; touch pwned", "a'b\"c\\d", "*", "~", "{a,b}", "%s"),
)


def strange_word(rng):
    """Return a word that a command line can hold: without NUL."""
    if rng.random() < 0.7:
        return rng.choice(WORDS)
    return strange_text(rng).replace("\0", "")


@pytest.fixture
def recipe(folder, monkeypatch):
    """An empty recipe directory with the configurations of the mini recipe."""
    shutil.copytree(ROOT / "egs/mini_covost/lors1/conf", folder / "recipe/conf")
    (folder / "recipe/base").mkdir()
    monkeypatch.chdir(folder / "recipe")
    return folder


def listing(folder):
    return sorted(path for path, _, _ in os.walk(folder)), len(list(folder.rglob("*")))


def is_component(name):
    """Return whether `name` below a folder is a file or folder directly in it."""
    return Path("x", name).parent == Path("x") and name != ".."


def test_options_of_recipe_scripts(request, recipe, capsys):
    before, accepted = listing(recipe), 0
    for rng in seeds(request, 600):
        script, good = rng.choice((("lors", LORS), ("train_base", BASE)))
        changed = {name: strange_word(rng) for name in rng.sample(list(good), rng.randint(1, 3))}
        stages = [stage for stage in STAGES if rng.random() < 0.3]
        backend = rng.choice(("local", "slurm"))
        words = [script, "--program", "./run.sh", "--cmd_backend", backend, "--stages", *stages]
        options = [f"{name}={value}" for name, value in {**good, **changed}.items()]
        began = time.process_time()
        status = check_recipe.main([*words, "--options", *options])
        out, error = capsys.readouterr()
        assert time.process_time() - began < SECONDS, changed
        if status:
            assert out == "" and "\n  " in error, changed
            continue
        accepted += 1
        lists = dict(line.partition("\t")[::2] for line in out.splitlines())
        paths = [{**good, **changed}[name] for name in ("expdir", "datadir", "dumpdir")]
        assert all(path.strip() and not path.startswith("-") for path in paths), changed
        for name in ("langs", "pairs", "methods", "systems", "scopes", "baselines"):
            items = lists.get(name, "").split("\t") if lists.get(name) else []
            assert len(items) == len(set(items)), changed
            assert all(is_component(item) for item in items), changed
    assert listing(recipe) == before
    assert accepted > 20


def test_names_of_programs(request):
    for rng in seeds(request, 600):
        option = rng.choice(("langs", "pairs", "methods", "systems", "scopes", "split", "expdir"))
        names = [strange_word(rng) for _ in range(rng.randint(1, 3))]
        value = names[0] if option in ("split", "expdir") else names
        began = time.process_time()
        try:
            check_names({option: value})
        except UsageError as error:
            assert f"--{option}: " in str(error)
        else:
            parts = [] if option == "expdir" else names[: 1 if option == "split" else None]
            assert all(Path("x", part).parent == Path("x") and part != ".." for part in parts), (
                names
            )
            assert len(parts) == len(set(parts))
        assert time.process_time() - began < SECONDS


CALL_WORDS = (
    *("JOB=1:3", "JOB=2", "JOB=3:1", "JOB=1:10000000000", "N=1:2", "JOB=1:", "=", "JOB=1:٣"),
    *("--num_threads", "--gpu=0", "--max-jobs-run", "--retry", "--requeue", "--mem", "--num_nodes"),
    *("--config", "--time=1", "--x", "-", "--", "log/x.JOB.log", "x.log", "echo", "JOB", "a.JOB"),
)


def test_command_line_of_the_job_wrappers(request):
    for rng in seeds(request, 3000):
        words = [rng.choice((*CALL_WORDS, strange_word(rng))) for _ in range(rng.randint(0, 8))]
        began = time.process_time()
        try:
            call = job_options.Call(words, SWITCHES, free=rng.random() < 0.5)
        except job_options.UsageError as error:
            assert str(error)
        else:
            assert 1 <= len(call.numbers) <= job_options.MOST_JOBS
            assert 0 <= call.last <= job_options.LARGEST_JOB
            number = rng.choice(call.numbers)
            assert command_of(task_file(call), number) == [
                call.for_job(word, number) for word in call.command
            ]
            logs = {call.for_job(call.log, n) for n in itertools.islice(call.numbers, 50)}
            assert len(logs) == min(50, len(call.numbers)) or call.log == "-"
        assert time.process_time() - began < SECONDS, words


def command_of(task, number):
    """Read a task file as utils/slurm_task.sh does."""
    words = []
    for field in os.fsdecode(task).split("\0")[4:-1]:
        if field.startswith("w"):
            words.append(field[1:])
        else:
            words[-1] += f"{number}{field[1:]}"
    return words[1:]


def test_configuration_of_slurm(request, folder):
    content, path = (ROOT / CONFIG).read_bytes(), folder / "slurm.conf"
    for rng in seeds(request, 300):
        path.write_bytes(mutated_bytes(rng, content))
        options = ["--config", str(path), "--mem", "1G", "--gpu", rng.choice("012")]
        began = time.process_time()
        try:
            SlurmConf(path)
            words = sbatch_words(job_options.Call([*options, "x.log", "true"], SWITCHES))
            assert not any("\0" in word for word in words)
        except job_options.UsageError as error:
            assert str(path) in str(error)
        assert time.process_time() - began < SECONDS


SCRIPT = """\
#!/usr/bin/env bash
set -euo pipefail
number=1 # a number
text="a b" # a text
flag=false # true or false
. parse_options.sh
printf '%s\\0' "$number" "$text" "$flag" "$@"
"""


def test_options_of_shell_scripts(request, folder):
    """A process for each input takes a while: 40 inputs, or 400."""
    place = folder / "here"
    place.mkdir()
    script = folder / "script.sh"
    script.write_text(SCRIPT)
    shutil.copy(ROOT / "utils/parse_options.sh", folder)
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    most = 400 if request.config.getoption("full") else 40
    for rng in itertools.islice(seeds(request, 40), most):
        expected = {"number": "1", "text": "a b", "flag": "false"}
        words = []
        for _ in range(rng.randint(0, 3)):
            name = rng.choice(("number", "text"))
            expected[name] = strange_word(rng)
            words.append(f"--{name}={expected[name]}")
        is_strange = rng.random() < 0.5
        if is_strange:
            words.insert(rng.randrange(len(words) + 1), strange_word(rng))
        done = subprocess.run(
            ["bash", script, *words], cwd=place, env=environment, capture_output=True, timeout=30
        )
        assert done.returncode in (0, 2), (words, done.stderr)
        if not is_strange:
            values = [os.fsencode(value) for value in expected.values()]
            assert done.stdout.split(b"\0")[:-1] == values, shlex.join(words)
        if done.returncode:
            assert b"error: " in done.stderr and b"what to do: " in done.stderr, words
        assert list(place.iterdir()) == [], words
