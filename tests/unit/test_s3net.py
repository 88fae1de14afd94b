"""The recipe of S3Net: options, units of its stages, masks of an experiment, Taylor scores."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path
from typing import get_args

import pytest
import torch
import yaml

from lors.bin import find_masks, importance, inspect, mask_overlap, train_subnet
from lors.checkpoint.masks import Masks
from lors.checkpoint.reader import Checkpoint
from lors.config import SEED, build, read_yaml
from lors.done_marker import DoneMarker
from lors.errors import LorsError, UsageError
from lors.fileio import read_json, write_json
from lors.merge import open_inputs
from lors.models import FAMILIES
from lors.plots.overlap import overlap_figure, overlap_points
from lors.plots.style import save_figures
from lors.recipe import mask_rounds
from lors.recipe.expdir import ExpDir, steps_of_half
from lors.recipe.mask_overlap import overlap_sections, read_overlap
from lors.recipe.mask_rounds import halves, second_seed, train_in_two_rounds
from lors.recipe.options import resolve
from lors.recipe.run_record import begin_stage
from lors.recipe.status import read_status
from lors.recipe.subnet_sizes import subnet_size_sections, write_subnet_sizes
from lors.recipe.subnetworks import find_masks_of
from lors.recipe.training_config import training_config
from lors.recipe.tuner import plan_of
from lors.recipe.unit_jobs import latest_jobs
from lors.recipe.units import SCRIPTS, TRAINING, stages_of, units_of
from lors.subnet.criteria import ONE_FOR_ALL, Criterion
from lors.subnet.find import pruned_matrices, write_scores
from lors.tasks import pairs_of
from tests.refusal import refusal
from tests.unit.merge_models import PRUNED, model
from tests.unit.score_trees import make_overlap
from tests.unit.test_manifest import PACKAGES
from tests.unit.test_options import COMPARISON
from tests.unit.test_status import HERE, RUN, write_log

ROOT = Path(__file__).parents[2]
OWN = {
    **{"criteria": "magnitude taylor", "rates": "30", "mask_scope": "matrix"},
    **{"mask_rounds": "1", "pretrained": ""},
    **{"s3net_config": "", "lora_config": ""},
    "stop_stage": "15",
}
CRITERIA, RUNS = ["magnitude", "taylor"], ["python", "-m"]
SUBNETS = ["s3net_magnitude_30", "s3net_taylor_30"]
LANGS, TASKS = ["de", "es"], ["asr", "st"]


# --- options ------------------------------------------------------------------------------------


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "egs/mini_covost/s3net1/conf", tmp_path / "conf")
    (tmp_path / "base").mkdir()
    monkeypatch.chdir(tmp_path)


def lists(stages=SCRIPTS["s3net"], **options):
    found = resolve("s3net", {**COMPARISON, **OWN, **options}, stages, "local")
    return {name: list(words) for name, words in found.items()}


def test_lists_of_s3net(recipe):
    found = lists()
    assert found["subnets"] == SUBNETS and found["scored"] == LANGS
    systems = ["base", "expert", "joint", *SUBNETS, "average.langs", "lors.langs"]
    assert found["systems"] == [*systems, "average.langs_tasks", "lors.langs_tasks"]
    assert "packed" not in found
    found = lists(langs="en de", tasks="st")
    assert found["langs"] == ["en", "de"] and found["masked"] == found["scored"] == ["de"]
    found = lists(criteria="magnitude", rates="10 50")
    assert found["subnets"] == ["s3net_magnitude_10", "s3net_magnitude_50"]
    assert found["scored"] == []
    found = lists(lora_config="conf/train_expert.yaml")
    assert found["systems"][:5] == ["base", "expert", "joint", "lora", SUBNETS[0]]


def test_experts_that_no_stage_reads(recipe):
    pairs, every = ["de_asr", "es_asr"], SCRIPTS["s3net"]

    def experts(criteria, last):
        stages = every[: every.index(last) + 1]
        found = lists(stages, criteria=criteria, tasks="asr")
        assert found["pairs"] == pairs  # of the baselines and of the statistics
        return found["experts"]

    assert experts("taylor", "subnets") == [] == experts("taylor common_taylor", "subnets")
    for criteria in ("magnitude taylor", "common", "common_taylor magnitude"):
        assert experts(criteria, "subnets") == pairs
    for last in ("experts", "masks", "tune", "pack"):  # a later run may need them; this one does
        assert experts("taylor", last) == pairs
    for stages in (("experts", "subnets", "inference"), ("experts", "subnets", "overlap")):
        assert lists(stages, criteria="taylor", tasks="asr")["experts"] == pairs


def test_rows_are_compared_with_a_system_under_masks(recipe):
    assert lists()["report_options"] == ["--compare_to", SUBNETS[0]]
    found = lists(criteria="taylor", rates="50 30")
    assert found["report_options"] == ["--compare_to", "s3net_taylor_50"]
    for system in ("lors", SUBNETS[1]):
        assert lists(compare_to=system)["report_options"] == ["--compare_to", system]


def test_lists_after_a_pre_training(recipe):
    assert lists()["from_pretrained"] == []
    found = lists(pretrained="exp/pretrain", criteria="taylor", base_model="base")
    assert found["from_pretrained"] == ["--pretrained", "exp/pretrain"]
    assert found["scored"] == [] and found["base_model"] == ["base"]
    assert lists(criteria="magnitude common")["scored"] == []
    for criteria in ("magnitude taylor", "common_taylor"):
        assert lists(criteria=criteria)["scored"] == ["de", "es"]
    Path("exp/pretrain/base").mkdir(parents=True)
    assert lists(pretrained="exp/pretrain")["base_model"] == ["exp/pretrain/base"]
    with refusal("JOB", kind=UsageError):
        lists(pretrained="exp/JOB")


@pytest.mark.parametrize("name", ["masks", "importance"])
def test_masks_of_a_pre_training_without_it(recipe, name):
    """Told before the stages that would write them into the pre-training."""
    Path("exp/pretrain/masks").mkdir(parents=True)
    (Path("exp") / name).symlink_to("pretrain/masks")
    for stages in (("importance",), ("masks",), ("subnets",), SCRIPTS["s3net"]):
        with refusal(f"exp/{name}", "exp/pretrain/masks", "--pretrained"):
            lists(stages)
        lists(stages, pretrained="exp/pretrain", base_model="base")
    lists(("score",))


def test_training_under_masks_is_like_that_of_the_joint_model(recipe, monkeypatch):
    """The default of ``s3net_config``: that of ``train_config``, which depends on the family."""
    found = lists()
    assert found["s3net_config"] == found["train_config"] == ["conf/train_expert.yaml"]
    of_wav2vec2 = {"model_family": "wav2vec2", "tasks": "asr", "base_model": "base"}
    of_wav2vec2 |= {"methods": "average", "inference_config": ""}
    monkeypatch.setattr(sys, "path", [*sys.path, str(PACKAGES)])
    if importlib.util.find_spec("transformers") is None:
        pytest.skip("transformers is not installed")
    found = lists(**of_wav2vec2)
    assert found["s3net_config"] == found["train_config"] == ["conf/train_wav2vec2.yaml"]
    given = "conf/train_wav2vec2_pretrain.yaml"
    assert lists(**of_wav2vec2, train_config=given)["s3net_config"] == [given]
    assert lists(**of_wav2vec2, s3net_config=given)["s3net_config"] == [given]


@pytest.mark.parametrize(
    ("changes", "facts"),
    [
        ({"batch_type": "unsorted"}, ("batch_type: unsorted",)),
        ({"valid_batch_type": "unsorted"}, ("valid_batch_type: unsorted",)),
        ({"iterator_type": "chunk"}, ("iterator_type: chunk",)),
        ({"valid_iterator_type": "chunk"}, ("valid_iterator_type: chunk",)),
        ({"shuffle_within_batch": True}, ("shuffle_within_batch: True",)),
        ({"train_dtype": "float16"}, ("train_dtype: float16",)),
        ({"drop_last_iter": True}, ("drop_last_iter: True",)),
        (
            {"accum_grad": 2, "use_adapter": True, "num_iters_per_epoch": 120},
            ("accum_grad: 2", "use_adapter: True"),
        ),
    ],
)
def test_training_under_masks_is_checked_before_any_stage(recipe, changes, facts):
    """And not after the hours of the experts."""
    own = Path("conf/own.yaml")
    known = read_yaml("conf/train_expert.yaml")
    own.write_text(yaml.safe_dump({**known, **changes}))
    for stages in (SCRIPTS["s3net"], ("importance",), ("subnets",)):
        with refusal("conf/own.yaml", *facts, "--s3net_config"):
            lists(stages, s3net_config="conf/own.yaml")
    lists(("experts",), s3net_config="conf/own.yaml")
    fine = {"valid_batch_type": "folded", "valid_iterator_type": None, "accum_grad": 1}
    own.write_text(yaml.safe_dump({**known, **fine}))
    lists(s3net_config="conf/own.yaml")


def test_a_training_without_halves_is_told_before_any_stage(recipe):
    known = read_yaml("conf/train_expert.yaml")
    Path("conf/own.yaml").write_text(
        yaml.safe_dump({**known, "max_epoch": 1, "num_iters_per_epoch": 240})
    )
    lists(s3net_config="conf/own.yaml")
    with refusal("max_epoch", 1, "--mask_rounds 1"):
        lists(s3net_config="conf/own.yaml", mask_rounds="2")


@pytest.mark.parametrize(
    ("options", "facts"),
    [
        ({"rates": "5"}, ("--rates", "5", "10 to 90")),
        ({"rates": "30 30"}, ("--rates", "30")),
        ({"rates": "0.3"}, ("--rates", "0.3")),
        ({"rates": ""}, ("--rates", "none")),
        ({"criteria": ""}, ("--criteria",)),
        ({"criteria": "magnitud"}, ("criteria", "magnitud")),
        ({"mask_scope": "layer"}, ("mask_scope", "layer")),
        ({"mask_rounds": "3"}, ("mask_rounds", "3", "from 1 to 2")),
        ({"methods": "masked_taylor", "criteria": "magnitude"}, ("taylor_30", "magnitude_30")),
    ],
)
def test_wrong_options(recipe, options, facts):
    with refusal(*facts, kind=UsageError):
        lists(**options)


def test_halves_of_a_training():
    config = {"max_epoch": 5, "scheduler_conf": {"max_lr": 1.0, "total_steps": 11}, "seed": 1}
    first, second = halves(config)
    assert first == {**config, "max_epoch": 2, "scheduler_conf": {"max_lr": 1.0, "total_steps": 5}}
    assert second["max_epoch"] == 3 and second["scheduler_conf"]["total_steps"] == 7
    assert "scheduler_conf" not in halves({"max_epoch": 2})[0]
    for wrong in ({}, {"max_epoch": 1}):
        with refusal("max_epoch", "--mask_rounds 1"):
            halves(wrong)


@pytest.mark.parametrize("marker", [".done", ".done.started"])
def test_two_rounds_where_one_has_been_trained(exp, monkeypatch, marker):
    """Refused before the first half; a second half of the same settings is not."""
    find_masks_of(exp, LANGS, TASKS, "taylor", 30, "matrix")
    system, pairs = SUBNETS[1], pairs_of(LANGS, TASKS)
    config = {"max_epoch": 4, "init_param": [str(exp.base / "model.pth")]}
    trained = []

    def train(pairs, dump, config, out, **options):
        trained.append((out, training_config(config, len(pairs), options["seed"])))
        raise LorsError("stopped")

    def two_rounds():
        masks = exp.masks(system)
        train_in_two_rounds(system, pairs, "dump", config, exp, masks, stats="stats", seed=1)

    def record(config):
        names = [str(pair) for pair in pairs]
        write_json(exp.subnet(system) / marker, {"inputs": {"pairs": names, "config": config}})

    monkeypatch.setattr(mask_rounds, "train", train)
    record(training_config(config, len(pairs), seed=1))
    with refusal(exp.subnet(system), "config.max_epoch: 4 -> 2", "config.init_param"):
        two_rounds()
    assert not trained
    start = [str(exp.half(system).base / "model.pth")]
    record(training_config({**halves(config)[1], "init_param": start}, len(pairs), seed=1))
    with refusal(exp.subnet(system), "config.seed: 1 -> 10001"):
        two_rounds()
    record(training_config({**halves(config)[1], "init_param": start}, len(pairs), seed=10001))
    with refusal("stopped"):
        two_rounds()
    assert trained == [(exp.half(system).base, {**halves(config)[0], "seed": 1})]


@pytest.mark.parametrize("criterion", get_args(Criterion))
def test_the_steps_of_two_rounds(exp, monkeypatch, criterion):
    """Those that status shows; the second half has another seed, so other batches."""
    system, pairs = f"s3net_{criterion}_30", pairs_of(LANGS, TASKS)
    find_masks_of(exp, LANGS, TASKS, criterion, 30, "matrix")
    seeds = {}

    def step(pairs, dump, config, out, *base, seed, **options):
        seeds[out] = seed

    for name in ("train", "estimate_importance"):
        monkeypatch.setattr(mask_rounds, name, step)
    monkeypatch.setattr(mask_rounds, "find_masks_of", lambda *words: seeds.update(found=words[3:]))
    config, masks = {"max_epoch": 4, "init_param": []}, exp.masks(system)
    train_in_two_rounds(system, pairs, "dump", config, exp, masks, stats="stats", seed=3)
    first = dict.fromkeys(steps_of_half(exp, system, pairs), 3)
    assert seeds == {**first, "found": (criterion, 30, "matrix"), exp.subnet(system): 10003}
    assert list(seeds) == [*first, "found", exp.subnet(system)]


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_seeds_of_two_rounds_are_far_apart(seed):
    other = second_seed(seed)
    assert other in SEED and abs(other - seed) >= 10_000


# --- status -------------------------------------------------------------------------------------


def test_units_of_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    systems = ("base", "expert", "joint", "lora", *SUBNETS, "lors.langs")
    run = build(type(RUN), {**vars(RUN), "script": "s3net", "systems": systems}, "run")
    assert stages_of(run) == SCRIPTS["s3net"] and stages_of(RUN) == SCRIPTS["lors"]
    assert {"importance", "masks", "subnets"} <= set(TRAINING) & set(SCRIPTS["s3net"])
    units = list(units_of(run, "exp"))
    keys = {unit.key: unit for unit in units}
    assert len(keys) == len(units) and {unit.stage for unit in units} == set(SCRIPTS["s3net"])
    of = {stage: [u.name for u in units if u.stage == stage] for stage in SCRIPTS["s3net"]}
    assert of["experts"][-1] == "lora/es_st" and len(of["experts"]) == 8
    assert of["importance"] == LANGS and of["subnets"] == SUBNETS
    assert of["masks"] == ["magnitude_30", "taylor_30"] and of["overlap"] == ["overlap.json"]
    assert of["pack"] == [f"{s}/{name}" for s in SUBNETS for name in (*LANGS, "all")]
    assert all(unit.progress() == "" for unit in units)
    # The logs of the jobs have the keys of the units.
    for name, words in JOBS.items():
        write_log(f"log/{name}.log", words)
    expected = {"importance/es", SUBNETS[0], "masks/magnitude_30", "masks/taylor_30"}
    expected |= {"overlap.json"}
    expected |= {f"packed/{SUBNETS[1]}/{n}/subnetwork.safetensors" for n in (*LANGS, "all")}
    assert set(latest_jobs("exp", "exp")) == expected <= set(keys)


JOBS = {
    "importance.2": [*RUNS, "lors.bin.importance", "--langs", *LANGS, "--only", "2"],
    "masks": [*RUNS, "lors.bin.find_masks", "--criteria", *CRITERIA, "--rates", "30"],
    "train_subnet.1": [*RUNS, "lors.bin.train_subnet", "--systems", *SUBNETS, "--only", "1"],
    "overlap": [*RUNS, "lors.bin.mask_overlap", "--expdir", "exp", "--systems", *SUBNETS],
    "pack.2": [
        *RUNS,
        "lors.bin.pack_subnets",
        "--langs",
        *LANGS,
        "--out",
        f"exp/packed/{SUBNETS[1]}",
    ],
}


@pytest.fixture
def running(tmp_path, monkeypatch):
    """Record a run that is at a stage; return the state of each unit of the stage."""
    monkeypatch.chdir(tmp_path)

    def states(stage):
        changes = {"script": "s3net", "systems": ("base", *SUBNETS), "stage": stage}
        changes |= {"pid": os.getpid(), "status": None}
        begin_stage(dataclasses.replace(RUN, **changes))
        return {unit.name: unit for unit in read_status("exp", stage).units}

    return states


@pytest.mark.parametrize(
    ("stage", "job"), [("masks", "masks"), ("overlap", "overlap"), ("pack", "pack.2")]
)
def test_status_names_the_log_of_a_job(running, stage, job):
    log = write_log(f"log/{job}.log", JOBS[job], on=f"{HERE}, process {os.getpid()}")
    found = [unit for unit in running(stage).values() if unit.log == log]
    assert [unit.state for unit in found] == ["running", *["pending"] * (len(found) - 1)]
    write_log(f"log/{job}.log", JOBS[job], "OSError: full", status=1)
    again = [unit for unit in running(stage).values() if unit.log == log]
    assert len(again) == len(found) and {unit.state for unit in again} == {"failed"}
    assert {unit.error for unit in again} == {"OSError: full"}


@pytest.mark.parametrize(
    ("number", "sources"),
    [
        (1, ["expert/de_asr", "expert/de_st", "expert/es_asr", "expert/es_st"]),
        (2, ["importance/de", "importance/es"]),
    ],
)
def test_status_of_a_training_in_two_rounds(running, number, sources):
    """Half-trained model, what masks are found again by, and system: one job, in this order."""
    exp, system = ExpDir("exp"), SUBNETS[number - 1]
    half = f"half/{system}"
    names = [half, *(f"{half}/{source}" for source in sources), system]
    words = [*RUNS, "lors.bin.train_subnet", "--systems", *SUBNETS, "--only", str(number)]
    words += ["--langs", *LANGS, "--tasks", *TASKS, "--mask_rounds", "2"]
    write_log(f"log/train_subnet.{number}.log", words, on=f"{HERE}, process {os.getpid()}")

    def states():
        found = running("subnets")
        return [found[name].state for name in names if name in found]

    assert states() == ["running"]
    places = [exp.half(system).base, *(exp.root / name for name in names[1:])]
    for step, place in enumerate(places):
        marker, to_come = DoneMarker(place / ".done", {}), len(places) - step - 1
        marker.start()
        assert states() == [*["done"] * step, "running", *["pending"] * to_come]
        marker.mark()
        assert states() == [*["done"] * (step + 1), *["running", *["pending"] * to_come][:to_come]]


def test_status_follows_the_masks_that_were_found_again(tmp_path, monkeypatch):
    """The masks of the trained model count for its overlap, as in the program."""
    monkeypatch.chdir(tmp_path)
    exp, system = ExpDir("exp"), SUBNETS[1]
    run = build(type(RUN), {**vars(RUN), "script": "s3net", "systems": (system,)}, "run")

    def progress(stage):
        return {unit.key: unit.progress() for unit in units_of(run, "exp") if unit.stage == stage}

    assert progress("subnets") == {system: ""} and exp.latest_masks(system) == exp.masks(system)
    files = [exp.masks(system), exp.root / "overlap.json", exp.subnet(system) / "masks.safetensors"]
    for age, file in enumerate(files):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        os.utime(file, (1e9 + age, 1e9 + age))
        assert progress("overlap")["overlap.json"] == ("done" if age == 1 else "")
    assert exp.latest_masks(system) == files[-1]
    # The first half of a training in two rounds.
    exp.half(system).base.mkdir(parents=True)
    found_by = {f"half/{system}/importance/{lang}": "" for lang in LANGS}
    assert progress("subnets") == {f"half/{system}/base": "", **found_by, system: ""}
    DoneMarker(exp.half(system).base / ".done", {}).mark()
    assert progress("subnets") == {f"half/{system}/base": "done", **found_by, system: ""}


# --- masks of an experiment ---------------------------------------------------------------------


@pytest.fixture
def exp(tmp_path) -> ExpDir:
    """An experiment with a base model, experts and Taylor scores."""
    exp = ExpDir(tmp_path / "exp")
    seeds = {exp.base: 0, **{exp.expert(p): n for n, p in enumerate(pairs_of(LANGS, TASKS), 1)}}
    for directory, seed in seeds.items():
        directory.mkdir(parents=True)
        torch.save(model(seed), directory / "model.pth")
    (exp.base / "config.yaml").write_text("token_list: [a]\n")
    base = Checkpoint.open(exp.base / "model.pth")
    for number, lang in enumerate(LANGS):
        scores = {n: model(9 + number)[n].abs() for n in pruned_matrices(base)}
        write_scores(exp.importance(lang) / "importance.safetensors", base, scores)
    return exp


def test_masks_of_an_experiment(exp, tmp_path, capsys):
    words = ["--expdir", str(exp.root), "--langs", *LANGS, "--tasks", *TASKS]
    words += ["--criteria", *get_args(Criterion), "--rates", "30", "50"]
    assert find_masks.main(words) == 0
    for criterion in get_args(Criterion):
        for rate in (30, 50):
            masks = Masks(exp.masks(f"s3net_{criterion}_{rate}"))
            assert masks.languages == LANGS
            assert masks.settings == {"criterion": criterion, "rate": rate, "scope": "matrix"}
            assert masks.density("de") == pytest.approx(1 - rate / 100, abs=0.01)
    # The mean magnitude of the two experts of a language.
    name = pruned_matrices(Checkpoint.open(exp.base / "model.pth"))[0]
    mean = (model(1)[name].abs() + model(2)[name].abs()) / 2
    mask = Masks(exp.masks("s3net_magnitude_50")).mask("de", name)
    assert mean[mask].min() >= mean[~mask].max()
    # A control has one mask: by the mean magnitude of all experts, or all Taylor scores.
    for criterion, seeds in (("common", (1, 2, 3, 4)), ("common_taylor", (9, 10))):
        mean = sum(model(seed)[name].abs() for seed in seeds) / len(seeds)
        common = Masks(exp.masks(f"s3net_{criterion}_50"))
        masks = [common.mask(lang, name) for lang in LANGS]
        assert torch.equal(*masks) and mean[masks[0]].min() >= mean[~masks[0]].max()
    files = list(exp.root.rglob("masks.safetensors"))
    before = {path: path.stat().st_mtime_ns for path in files}
    assert find_masks.main(words) == 0
    assert before == {path: path.stat().st_mtime_ns for path in files}
    assert find_masks.main([*words, "--scope", "global"]) == 1
    assert "scope" in capsys.readouterr().err
    out = tmp_path / "overlap.json"
    assert inspect.main(["--masks", str(files[0]), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert all(fact in printed for fact in ("de", "es", "1.000", str(out)))
    assert inspect.main(["--masks", str(files[0]), "--base", "base.pth", "--experts", "e.pth"]) == 2
    assert inspect.main([]) == 2


def test_sizes_of_the_systems(exp):
    find_masks_of(exp, LANGS, TASKS, "taylor", 30, "matrix")
    system, pairs = "s3net_taylor_30", pairs_of(LANGS, TASKS)
    assert subnet_size_sections([exp.root]) == []
    write_subnet_sizes(exp, [system], pairs)
    [section] = subnet_size_sections([exp.root])
    assert [row[0] for row in section.rows] == [system, "expert"]  # all that there is
    exp.joint.mkdir()
    torch.save(model(5), exp.joint / "model.pth")
    for number, pair in enumerate(pairs, 1):
        adapter = exp.model("lora", pair, ()) / "model.pth"
        adapter.parent.mkdir(parents=True)
        torch.save(adapter_of(number), adapter)
    write_subnet_sizes(exp, [system], pairs)
    [section] = subnet_size_sections([exp.root])
    found = json.loads((exp.root / "parameters.json").read_text())["systems"]
    assert list(found) == [row[0] for row in section.rows] == ["joint", system, "lora", "expert"]
    total = sum(value.numel() for value in model(0).values())
    masks = Masks(exp.masks(system))
    bits = [sum(int(masks.mask(lang, n).sum()) for n in masks.shapes) for lang in LANGS]
    assert found["joint"]["parameters"] == found["joint"]["used"] == total
    assert found[system]["parameters"] == total
    assert found[system]["used"] == pytest.approx(total - masks.entries + sum(bits) / 2, abs=1)
    assert found["lora"]["parameters"] == total + 7 * (1 + 2 + 3 + 4) + 4 * 3
    assert found["lora"]["used"] == total + (7 * 10 + 12) // 4
    assert found["expert"]["parameters"] == 4 * total
    size = (exp.base / "model.pth").stat().st_size
    on_disk = masks.path.stat().st_size
    assert found[system]["bytes"] == size + on_disk
    assert found[system]["bytes_of_a_further_language"] == round(on_disk / 2)
    experts = sum(exp.expert(pair).joinpath("model.pth").stat().st_size for pair in pairs)
    assert found["expert"]["bytes_of_a_further_language"] == round(experts / 2)


def test_masks_that_were_found_twice_are_told_below_the_sizes(exp):
    systems, pairs = [f"s3net_{kind}_30" for kind in CRITERIA], pairs_of(LANGS, TASKS)
    for criterion in CRITERIA:
        find_masks_of(exp, LANGS, TASKS, criterion, 30, "matrix")
    again = exp.half(systems[1])
    shutil.copytree(exp.masks(systems[1]).parent, again.masks(systems[1]).parent)
    other = exp.half(systems[0])  # of a training that was begun, and not ended, in two rounds
    shutil.copytree(exp.masks(systems[1]).parent, other.masks(systems[0]).parent)
    write_subnet_sizes(exp, systems, pairs)
    [section] = subnet_size_sections([exp.root])
    [note] = section.below
    assert systems[1] in note and systems[0] not in note and "--mask_rounds 2" in note
    again.masks(systems[1]).unlink()
    write_subnet_sizes(exp, systems, pairs)
    assert not subnet_size_sections([exp.root])[0].below
    # A file of an earlier version.
    file = exp.root / "parameters.json"
    write_json(file, {k: value for k, value in read_json(file).items() if k != "found_again"})
    assert not subnet_size_sections([exp.root])[0].below


def adapter_of(number):
    """Return an adapter with 7 * number + 3 parameters."""
    return {"a.lora_A": torch.zeros(number, 7), "a.lora_B": torch.zeros(3, 1)}


def test_sizes_of_experts_and_a_joint_model_that_are_adapters(exp):
    """All of them share the base model."""
    pairs = pairs_of(LANGS, TASKS)
    for number, pair in enumerate(pairs, 1):
        torch.save(adapter_of(number), exp.expert(pair) / "model.pth")
        exp.model("lora", pair, ()).mkdir(parents=True)
        torch.save(adapter_of(number), exp.model("lora", pair, ()) / "model.pth")
    exp.joint.mkdir()
    torch.save(adapter_of(5), exp.joint / "model.pth")
    write_subnet_sizes(exp, [], pairs)
    found = json.loads((exp.root / "parameters.json").read_text())["systems"]
    total = sum(value.numel() for value in model(0).values())
    assert found["expert"] == found["lora"]
    assert found["expert"]["parameters"] == total + 7 * (1 + 2 + 3 + 4) + 3 * 4
    files = [path / "model.pth" for path in (exp.base, exp.joint)]
    assert found["joint"] == {
        **{"parameters": total + 7 * 5 + 3, "used": total + 7 * 5 + 3},
        **{"bytes": sum(file.stat().st_size for file in files), "bytes_of_a_further_language": 0},
    }


def test_a_run_with_other_rates_measures_all_systems(exp, monkeypatch):
    """Those with a model, and with a mask of each language."""
    for rate, langs in ((30, LANGS), (50, LANGS), (70, LANGS), (90, LANGS[:1])):
        find_masks_of(exp, langs, TASKS, "taylor", rate, "matrix")
        system = f"s3net_taylor_{rate}"
        if rate != 70:  # not trained yet
            exp.subnet(system).mkdir()
            shutil.copy2(exp.base / "model.pth", exp.subnet(system))
            shutil.copy2(exp.masks(system), exp.subnet(system))
    measured = []
    monkeypatch.setattr(
        mask_overlap, "write_overlap", lambda _, systems, *__: measured.append(systems)
    )
    conf = ROOT / "egs/mini_covost/s3net1/conf"
    words = ["--expdir", str(exp.root), "--dump", "dump", "--langs", *LANGS, "--tasks", *TASKS]
    words += ["--grid", str(conf / "tune.yaml")]
    words += ["--inference_config", str(conf / "inference_greedy.yaml")]
    for given, expected in (("50", ["30", "50"]), ("70", ["30", "50", "70"])):
        assert mask_overlap.main([*words, "--systems", f"s3net_taylor_{given}"]) == 0
        systems = [f"s3net_taylor_{rate}" for rate in expected]
        found = json.loads((exp.root / "parameters.json").read_text())["systems"]
        assert measured.pop() == systems == [name for name in found if name != "expert"]


def test_masks_of_a_pre_training(exp, tmp_path, capsys):
    words = ["--langs", *LANGS, "--tasks", *TASKS, "--criteria", "taylor", "--rates", "30"]
    assert find_masks.main(["--expdir", str(exp.root), *words]) == 0
    other = ExpDir(tmp_path / "fine")
    shutil.copytree(exp.base, other.base)
    taken = ["--expdir", str(other.root), *words, "--pretrained", str(exp.root)]
    for _ in range(2):
        assert find_masks.main(taken) == 0
        assert Masks(other.masks(SUBNETS[1])).languages == LANGS
    assert (other.root / "masks").readlink() == Path("../exp/masks")
    assert (other.importance("de") / "importance.safetensors").is_file()
    assert find_masks.main([*taken, "--scope", "global"]) == 1
    assert "--mask_scope" in capsys.readouterr().err
    # Without --pretrained nothing is written through the links into the pre-training.
    assert find_masks.main([*taken[:-2], "--rates", "50"]) == 1
    message = capsys.readouterr().err
    assert str(other.root / "masks") in message and "--pretrained" in message
    words = ["--base", str(other.base), "--langs", "fr", "--tasks", "asr", "--only", "1"]
    words += ["--dump", str(tmp_path), "--config", "none.yaml", "--stats", str(tmp_path)]
    assert importance.main([*words, "--out", str(other.root / "importance")]) == 1
    message = capsys.readouterr().err
    assert str(other.root / "importance") in message and "--pretrained" in message
    assert not exp.masks("s3net_taylor_50").exists() and not exp.importance("fr").exists()
    torch.save(model(5), other.base / "model.pth")
    assert find_masks.main(taken) == 1
    assert Masks(exp.masks(SUBNETS[1])).base in capsys.readouterr().err
    assert find_masks.main([*taken, "--criteria", "magnitude"]) == 1
    (other.root / "masks").unlink()
    other.masks(SUBNETS[1]).parent.mkdir(parents=True)
    shutil.copy2(exp.base / "model.pth", other.base / "model.pth")
    assert find_masks.main(taken) == 1
    assert str(other.root / "masks") in capsys.readouterr().err


def test_masks_without_their_sources(exp):
    (exp.importance("es") / "importance.safetensors").unlink()
    with refusal("importance/es"):
        find_masks_of(exp, LANGS, TASKS, "taylor", 30, "matrix")
    with refusal("fr_asr", "fr_st"):
        find_masks_of(exp, ["de", "fr"], TASKS, "magnitude", 30, "matrix")
    assert not (exp.root / "masks").exists()


def test_overlap_in_the_report(tmp_path):
    assert overlap_sections([tmp_path]) == []
    masks = {
        "languages": ["es", "de"],  # those of a pre-training, in its order
        "matrices": 1,
        "entries": 80,
        "settings": {"criterion": "taylor", "rate": 50, "scope": "matrix"},
        "jaccard": [[1.0, 0.6], [0.6, 1.0]],
        "density": {"de": 0.5, "es": 0.5},
        "shared": {"0": 0.4, "1": 0.2, "2": 0.4},
    }
    merging = [{"langs": ["de", "es"], "task": "asr", "loss": 0.25}]
    merging.append({"langs": ["de", "es"], "task": "st", "loss": None})
    merging.append({"langs": ["de", "fr"], "task": "asr", "loss": 0.5})  # fr has no mask
    write_json(tmp_path / "overlap.json", {"masks": {"s3net_x_50": masks}, "merging": merging})
    [section] = overlap_sections([tmp_path])
    assert section.rows == [["es de", "0.60", "0.25", "-"], ["at random", "0.33", "-", "-"]]
    assert section.header[1] == "s3net_x_50" and len(section.above) == 1
    overlap = read_overlap(tmp_path / "overlap.json")
    assert overlap_points([overlap]) == {("s3net_x_50", "asr"): [(0.6, 0.25, "de es")]}
    save_figures({tmp_path / "overlap.png": lambda: overlap_figure([overlap])})
    assert (tmp_path / "overlap.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("least", "other", "note"),
    # Random masks have 0.333 here, so the bound is 0.333 + 0.85 * 0.667 = 0.9.
    [(0.91, 0.996, "0.910"), (0.89, 0.996, ""), (None, 0.996, "0.996"), (None, None, "")],
)
def test_masks_that_are_nearly_one_are_told(least, other, note, tmp_path):
    file = make_overlap(tmp_path) / "overlap.json"
    content = read_json(file)
    jaccard = [[1.0, least, other], [least, 1.0, other], [other, other, 1.0]]
    content["masks"]["s3net_magnitude_50"]["jaccard"] = jaccard
    write_json(file, content)
    [section] = overlap_sections([tmp_path])
    assert len(section.below) == (1 if note else 0)
    assert all("s3net_magnitude_50" in text and note in text for text in section.below)


@pytest.mark.parametrize(
    ("criterion", "control"),
    [
        ("magnitude", "common"),
        ("taylor", "common_taylor"),
        *((c, None) for c in sorted(ONE_FOR_ALL)),
    ],
)
def test_the_control_for_masks_that_are_nearly_one(criterion, control, tmp_path):
    """A control, whose masks are one, needs none."""
    file = make_overlap(tmp_path) / "overlap.json"
    content = read_json(file)
    found = content["masks"]["s3net_magnitude_50"]
    found["jaccard"] = [[1.0] * 3] * 3
    found["settings"] = {**found["settings"], "criterion": criterion}
    write_json(file, content)
    [section] = overlap_sections([tmp_path])
    told = [text for text in section.below if "s3net_magnitude_50" in text]
    assert len(told) == (control is not None)
    assert all(f"(--criteria {control})" in text for text in told)


def test_the_report_after_a_pre_training_says_so(tmp_path):
    exp = make_overlap(tmp_path / "exp/xlsr_adapted")
    (tmp_path / "exp/xlsr_pretrain/masks").mkdir(parents=True)
    (exp / "masks").symlink_to("../xlsr_pretrain/masks")
    [section] = overlap_sections([exp])
    assert f"{tmp_path}/exp/xlsr_pretrain." in section.above[1]


@pytest.fixture
def own_policy(tmp_path, monkeypatch):
    """A family from outside with a policy of its own, which prunes one matrix."""
    rules = [{"action": "prune", "patterns": [PRUNED]}, {"action": "copy", "patterns": ["*"]}]
    policy = tmp_path / "policy.yaml"
    policy.write_text(yaml.safe_dump({"family": "own", "detect": [PRUNED], "rules": rules}))
    matches = classmethod(lambda cls, config: "own_conf" in config)
    own = {"name": "own", "policy": str(policy), "matches": matches}
    monkeypatch.setitem(FAMILIES, "own", type("Own", (FAMILIES["espnet_s2t"],), own))
    return "own_conf: {}\n"


@pytest.mark.parametrize("criterion", CRITERIA)
def test_masks_have_the_matrices_that_merges_prune(exp, own_policy, criterion):
    (exp.base / "config.yaml").write_text(own_policy)
    find_masks_of(exp, LANGS, TASKS, criterion, 30, "matrix")
    assert list(Masks(exp.masks(f"s3net_{criterion}_30")).shapes) == [PRUNED]
    actions = open_inputs(plan_of(exp, pairs_of(LANGS, TASKS), "average", {})).actions
    assert [name for name, action in actions.items() if action == "prune"] == [PRUNED]


PROGRAMS = {
    importance: ["--only", "1"],
    train_subnet: ["--only", "1", "--systems", "s3net_taylor_30", "s3net_magnitude_30"],
}


def run(program, out, *more):
    """Run a program whose files are not there; the check of its options comes before them."""
    words = ["--base", "base", "--langs", "de", "es", "--tasks", "asr", "--dump", "dump"]
    words += ["--config", "train.yaml", "--out", str(out), *PROGRAMS[program]]
    return program.main([*words, *more])


@pytest.mark.parametrize(
    ("program", "more", "facts"),
    [
        *((program, ["--only", n], ("--only", "1 to 2", n)) for program in PROGRAMS for n in "03"),
        (train_subnet, ["--systems", "joint", "s3net_taylor_30"], ("--systems", "joint")),
    ],
)
def test_wrong_unit_of_a_program(program, more, facts, tmp_path, capsys):
    assert run(program, tmp_path / "out", "--stats", "stats", *more) == 2
    error = capsys.readouterr().err
    assert all(fact in error for fact in facts) and not (tmp_path / "out").exists()


@pytest.mark.parametrize("program", PROGRAMS)
def test_statistics_are_needed(program, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        run(program, tmp_path / "out")
    assert caught.value.code == 2 and "--stats" in capsys.readouterr().err.splitlines()[-1]


# --- Taylor scores ------------------------------------------------------------------------------


class Model(torch.nn.Module):
    """A loss that is linear in two matrices: its change when an entry becomes 0 is the score."""

    def __init__(self, state):
        super().__init__()
        self.matrices = torch.nn.ParameterDict()
        self.dropout = torch.nn.Dropout(0.5)
        self.names = {name.replace(".", "_"): name for name in state}
        for key, name in self.names.items():
            self.matrices[key] = torch.nn.Parameter(state[name].clone())

    def named_parameters(self, *args, **options):
        for key, parameter in self.matrices.items():
            yield self.names[key], parameter

    def forward(self, x, utt_id):
        loss = sum((self.dropout(w) * x).sum() for w in self.matrices.values())
        return loss, {"loss": loss.detach()}, torch.tensor(1.0)


@pytest.mark.espnet
def test_scores_are_the_first_order_changes_of_the_loss(tmp_path, own_policy):
    from lors.models.subnetworks import write_importance

    torch.save(model(0), tmp_path / "base.pth")
    base = Checkpoint.open(tmp_path / "base.pth")
    names, values = pruned_matrices(base), [0.5, -2.0, 0.25]
    state = {name: base.tensor(name) for name in names}
    batches = [(["u"], {"x": torch.tensor(x)}) for x in values]
    out = tmp_path / "scores.safetensors"
    options = argparse.Namespace(init_param=[str(tmp_path / "base.pth")], ngpu=0)
    options.importance = str(out)
    (tmp_path / "config.yaml").write_text("token_list: [a]\n")
    write_importance(Model(state), batches, options)
    found = Checkpoint.open(out)
    assert set(found.names()) == set(names) != {PRUNED}
    for name in names:
        expected = sum(abs(x) for x in values) * state[name].abs()
        torch.testing.assert_close(found.tensor(name), expected)
    (tmp_path / "config.yaml").write_text(own_policy)
    write_importance(Model(state), batches, options)
    assert Checkpoint.open(out).names() == [PRUNED]
    out.unlink()
    for nothing in ([(["u"], {"x": torch.tensor(0.0)})], []):
        with refusal(out, tmp_path / "base.pth", f"{len(nothing)} batches", "perplexity"):
            write_importance(Model(state), nothing, options)
    assert not out.exists()
