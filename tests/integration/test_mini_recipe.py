"""The mini recipe from nothing to packed models, at a smaller size: its products, and reruns."""

from __future__ import annotations

import os
import re
import shlex
import signal
from pathlib import Path

import jiwer
import numpy as np
import pytest
import sacrebleu
import soundfile
import torch
import yaml

from lors.data.datadir import read_data_dir, read_text, validate_data_dir
from lors.fileio import file_digest, read_json
from lors.score.text import get_normaliser
from tests.integration.recipe import (
    LANGS,
    OPTIONS,
    ROOT,
    Recipe,
    derive_config,
    file_times,
    same,
    stages_of,
    state,
    told_to_go_on,
    write_configs,
)
from tests.reference.test_merge_reference import boosted_float64, float64, lors_float64

pytestmark = [pytest.mark.espnet, pytest.mark.slow]

SPLITS = {"train": 12, "dev": 6, "test": 6}
TASKS = ["asr", "st"]
PAIRS = [f"{lang}_{task}" for lang in LANGS for task in TASKS]
METHODS = ["average", "task_arithmetic", "lors", "lors+boost"]
SCOPES = {"asr": ["asr"], "st": ["st"], "asr_st": ["asr", "st"]}
MERGES = [(method, scope) for method in METHODS for scope in SCOPES]
STEPS = [f"{number:02d}_{pair}" for number, pair in enumerate(PAIRS, 1)]
SYSTEMS = ["base", "expert", "joint", "sequential"] + [
    f"{method}.{over}" for method in METHODS for over in ("langs", "langs_tasks")
]
STAGES = ["data", "format", "base", "stats", "experts", "baselines"]
STAGES += ["tune", "merge", "inference", "score", "pack", "upload"]


# --- products -----------------------------------------------------------------------------------


def test_says_what_it_does_and_how_long_it_takes(reference):
    assert stages_of(reference.data.stderr) == STAGES[:2]
    assert stages_of(reference.rest.stderr) == STAGES
    took = re.findall(r"stage \d+ \((\w+)\) took \d+ s", reference.rest.stderr)
    assert took == STAGES
    rows = [
        line.split("\t") for line in (reference.recipe.exp / "stages.tsv").read_text().splitlines()
    ]
    assert [row[1] for row in rows[-len(STAGES) :]] == re.findall(
        r"stage (\d+ \(\w+\)) took", reference.rest.stderr
    )
    assert re.search(r"done in \d+ s\n$", reference.rest.stderr)
    assert "Traceback" not in reference.rest.stderr
    # Logs go to stderr; stdout has the table.
    assert "stage 5" not in reference.rest.stdout
    table = reference.rest.stdout.splitlines()
    for name in ("base", "expert", "joint", "sequential", *METHODS):
        assert any(line.startswith(name) for line in table), name


@pytest.mark.parametrize("lang", LANGS)
@pytest.mark.parametrize("split", SPLITS)
def test_data_directories(reference, lang, split):
    for kind in ("data", "dump"):
        directory = reference.recipe / f"{kind}/{lang}/{split}"
        assert validate_data_dir(directory, check_audio=True) == []
        utterances = read_data_dir(directory)
        assert len(utterances) == SPLITS[split]
        assert all(u.lang == lang and u.text and u.translations["en"] for u in utterances)
    info = soundfile.info(utterances[0].wav)
    assert (info.samplerate, info.channels, info.format) == (16000, 1, "FLAC")
    assert info.duration == pytest.approx(utterances[0].duration, abs=1e-3)


def test_training_moves_every_model_away_from_the_base(reference):
    exp = reference.recipe.exp
    base = state(exp / "base")
    trained = [state(exp / "expert" / pair) for pair in PAIRS] + [state(exp / "joint")]
    trained += [state(exp / "sequential" / step) for step in STEPS[1:]]  # the first is an expert
    for number, model in enumerate(trained):
        assert {n: v.shape for n, v in model.items()} == {n: v.shape for n, v in base.items()}
        assert not any(same(model, other) for other in [base, *trained[:number]])


def test_status_of_a_finished_experiment(reference):
    recipe = reference.recipe
    before = file_times(recipe.directory)
    code, stages = recipe.status()
    assert code == 0 and list(stages) == STAGES and list(stages["experts"]) == PAIRS
    numbers = [6, 6, 1, 1, len(PAIRS), 1 + len(PAIRS), len(MERGES), len(MERGES)]
    numbers += [len(SYSTEMS) * len(PAIRS), len(SYSTEMS) * len(PAIRS) + 1, len(SCOPES), 0]
    assert [len(units) for units in stages.values()] == numbers
    for stage in ("experts", "baselines", "tune", "inference"):
        assert all((recipe / unit["log"]).is_file() for unit in stages[stage].values())
    assert file_times(recipe.directory) == before


def states_of(units: dict[str, dict]) -> dict[str, str]:
    return {name: unit["state"] for name, unit in units.items()}


def test_joint_model_has_the_budget_of_all_experts_together(reference):
    exp = reference.recipe.exp
    expert = yaml.safe_load((exp / "expert" / "de_asr" / "config.yaml").read_text())
    joint = yaml.safe_load((exp / "joint" / "config.yaml").read_text())
    assert joint["num_iters_per_epoch"] == len(PAIRS) * expert["num_iters_per_epoch"] == 60
    assert joint["scheduler_conf"]["total_steps"] == 4 * 45
    differ = {key for key in expert if expert[key] != joint[key]}
    assert {key for key in differ if "shape_file" not in key and "data_path" not in key} == {
        "num_iters_per_epoch",
        "scheduler_conf",
        "config",
        "output_dir",
    }


def test_sequential_model_goes_from_pair_to_pair(reference):
    chain, experts = reference.recipe.exp / "sequential", reference.recipe.exp / "expert"
    before = reference.recipe.exp / "base"
    for step, pair in zip(STEPS, PAIRS, strict=True):
        inputs = read_json(chain / step / ".done")["inputs"]
        assert inputs["base"] == [file_digest(before / "model.pth")]
        assert f"Loading pretrained params from {relative(before, reference)}/model.pth" in (
            (chain / step / "train.log").read_text()
        )
        # Apart from its initial model, each step is the training of the expert of this pair.
        expert = read_json(experts / pair / ".done")["inputs"]
        for of in (inputs, expert):
            del of["base"], of["config"]["init_param"]
        assert inputs == expert and inputs["pairs"] == [pair]
        before = chain / step
    assert same(state(chain), state(before))
    assert (chain / "config.yaml").resolve() == (before / "config.yaml").resolve()


def relative(path: Path, reference) -> Path:
    return path.relative_to(reference.recipe.directory)


@pytest.mark.parametrize(("method", "scope"), MERGES)
def test_merged_model_equals_the_formula_in_float64(reference, method, scope):
    exp = reference.recipe.exp
    sweep = read_json(exp / "tune" / f"{method}.{scope}" / "sweep.json")
    params = sweep["grid"][sweep["best"]]["params"]
    merged = exp / "merged" / f"{method}.{scope}"
    plan = yaml.safe_load((merged / "merge.yaml").read_text())["plan"]
    boost = params.pop("boost", None)
    assert (plan["params"], plan["boost"]) == (params, boost)
    assert (boost is not None) == (method == "lors+boost")
    base = float64(exp / "base" / "model.pth")
    experts = [
        float64(exp / "expert" / f"{lang}_{task}" / "model.pth")
        for task in SCOPES[scope]
        for lang in LANGS
    ]
    result = float64(merged / "model.pth")
    assert list(result) == list(base)
    for name, value in base.items():
        taus = [expert[name] - value for expert in experts]
        pruned = is_pruned(name, value)
        if method.startswith("lors") and pruned:
            taus = [lors_float64(tau, params["rank"], params["density"]) for tau in taus]
        delta = np.mean(taus, axis=0) if method == "average" else np.sum(taus, axis=0)
        if boost is not None and pruned:
            delta = boosted_float64(delta, boost)
        expected = value + params["scaling_coef"] * delta
        error = np.linalg.norm(result[name] - expected)
        assert error <= 1e-5 * np.linalg.norm(expected), name


def is_pruned(name: str, value: np.ndarray) -> bool:
    """The weight matrices of attention and feed-forward layers, and no others."""
    return value.ndim >= 2 and re.search(r"coders\.\d+\.(self_attn|src_attn|feed_forward)", name)


def espnet(config: Path, model: Path, **options):
    from espnet2.bin.s2t_inference import Speech2Text

    limit = yaml.safe_load((ROOT / "egs/mini_covost/lors1/conf/inference_greedy.yaml").read_text())
    options["maxlenratio"] = limit["maxlenratio"]
    return Speech2Text(s2t_train_config=config, s2t_model_file=model, beam_size=1, **options)


def hypotheses(search, test_set) -> dict[str, str]:
    """Return the hypotheses of ESPnet's own search for some German utterances."""
    symbols = {"lang_sym": "<deu>", "task_sym": "<asr>"}
    return {
        u.id: search(soundfile.read(u.wav, dtype="float32")[0], **symbols)[0][3] for u in test_set
    }


def test_merged_model_is_an_ordinary_model_of_espnet(reference, monkeypatch):
    monkeypatch.chdir(reference.recipe.directory)
    model = reference.recipe.exp / "merged" / "lors.asr_st"
    search = espnet(model / "config.yaml", model / "model.pth", ctc_weight=0.0)
    some = read_data_dir(reference.recipe / "dump/de/test")[:3]
    ours = read_text(reference.recipe.exp / "inference/test/lors.langs_tasks/de_asr")
    assert hypotheses(search, some) == {u.id: ours[u.id] for u in some}


@pytest.mark.parametrize("scope", SCOPES)
def test_packed_model_opens_anywhere(reference, tmp_path, monkeypatch, scope):
    from espnet2.main_funcs.pack_funcs import unpack

    packed = reference.recipe.exp / "packed"
    assert sorted(p.name for p in packed.iterdir()) == sorted(f"lors+boost.{s}.zip" for s in SCOPES)
    monkeypatch.chdir(tmp_path)
    files = unpack(packed / f"lors+boost.{scope}.zip", tmp_path / "unpacked")
    merged = reference.recipe.exp / "merged" / f"lors+boost.{scope}"
    config, model = (Path(files[key]) for key in ("s2t_train_config", "s2t_model_file"))
    assert same(torch.load(model, weights_only=True), state(merged))
    if scope == "asr_st":
        search = espnet(config, model, ctc_weight=0.0)
        some = read_data_dir(reference.recipe / "dump/de/test")[:1]
        ours = read_text(reference.recipe.exp / "inference/test/lors+boost.langs_tasks/de_asr")
        assert hypotheses(search, some) == {u.id: ours[u.id] for u in some}


# --- results ------------------------------------------------------------------------------------


def tables(report: str) -> dict[str, list[dict[str, str]]]:
    """Heading -> rows (column -> cell) of the tables of a RESULTS.md."""
    found: dict[str, list[dict[str, str]]] = {}
    heading, header = "", None
    for line in report.replace("\\", "").splitlines():
        if line.startswith("## "):
            heading, header = line[3:], None
        elif line.startswith("| "):
            cells = [cell.strip() for cell in line.strip("|").split(" | ")]
            if header is None:
                header = cells
            elif not cells[0].startswith(":--"):
                found.setdefault(heading, []).append(dict(zip(header, cells, strict=True)))
    return found


def recomputed(recipe: Recipe, system: str, pair: str) -> float:
    """WER or BLEU from the files, by jiwer (after our normaliser) and sacreBLEU themselves."""
    lang, task = pair.split("_")
    ours = read_text(recipe.exp / "inference" / "test" / system / pair)
    truth = read_text(recipe / f"dump/{lang}/test/{'text' if task == 'asr' else 'text.en'}")
    assert list(ours) == list(truth)
    said, meant = list(ours.values()), list(truth.values())
    if task == "st":
        return sacrebleu.corpus_bleu(said, [meant]).score
    normalise = get_normaliser(lang)
    return 100 * jiwer.wer([normalise(t) for t in meant], [normalise(t) for t in said])


def test_results_are_those_of_the_hypotheses(reference):
    recipe = reference.recipe
    report = tables((recipe.exp / "RESULTS.md").read_text(encoding="utf-8"))
    over = {"languages": ".langs", "languages and tasks": ".langs_tasks", "-": ""}
    headings = {
        "asr": "Speech recognition: WER in % (lower is better)",
        "st": "Speech translation: BLEU (higher is better)",
    }
    for task, heading in headings.items():
        rows = {row["system"] + over[row["merged over"]]: row for row in report[heading]}
        assert sorted(rows) == sorted(SYSTEMS)
        averages = {}
        for system, row in rows.items():
            scores = {lang: recomputed(recipe, system, f"{lang}_{task}") for lang in LANGS}
            for lang, score in scores.items():
                assert row[lang] == f"{score:.1f}", (system, lang, task)
            averages[system] = sum(scores.values()) / 2
            assert float(row["average"]) == pytest.approx(averages[system], abs=0.051)
        gain = averages["expert"] - averages["base"]
        has_gain = gain < 0 if task == "asr" else gain > 0
        ends = [rows[system]["norm. perf."] for system in ("base", "expert")]
        assert ends == (["0.00", "1.00"] if has_gain else ["undefined"] * 2)
    assert {row["utterances"] for row in report["The test sets"]} == {"6"}


def test_report_says_how_it_was_made(reference):
    report = (reference.recipe.exp / "RESULTS.md").read_text(encoding="utf-8")
    calls = [shlex.split(call) for call in re.findall(r"```bash\n(.*)\n```", report)]
    assert calls == [["./run.sh", *OPTIONS, "--stop_stage", "format"], ["./run.sh", *OPTIONS]]
    plots = re.findall(r"!\[[^]]*\]\(([^)]*)\)", report)
    assert plots and all((reference.recipe.exp / plot).stat().st_size > 1000 for plot in plots)


def test_sweeps_try_the_same_number_of_settings(reference):
    for method, scope in MERGES:
        sweep = read_json(reference.recipe.exp / "tune" / f"{method}.{scope}" / "sweep.json")
        assert len(sweep["grid"]) == (1 if method == "average" else 2)
        pairs = {f"{lang}_{task}" for task in SCOPES[scope] for lang in LANGS}
        assert all(set(point["scores"]) == pairs for point in sweep["grid"])
        assert all(s["utterances"] == 4 for p in sweep["grid"] for s in p["scores"].values())


# --- again, and interrupted ---------------------------------------------------------------------


def test_rerun_changes_nothing(reference):
    recipe = reference.recipe
    kept = ("base", "stats", "expert", "joint", "sequential")
    kept += ("tune", "merged", "inference", "scores", "plots", "packed")
    before = {part: file_times(recipe.exp / part) for part in kept}
    audio = file_times(recipe / "downloads"), file_times(recipe / "dump")
    ended = recipe.run(*OPTIONS)
    assert ended.status == 0, ended.stderr
    assert {part: file_times(recipe.exp / part) for part in kept} == before
    assert (file_times(recipe / "downloads"), file_times(recipe / "dump")) == audio
    assert ended.seconds < reference.rest.seconds / 3


@pytest.mark.parametrize("stage", ["score", "10"])
def test_a_stage_by_name_or_number(reference, tmp_path, stage):
    recipe = reference.recipe.fork(tmp_path / "recipe", "inference", "tune")
    ended = recipe.run(*OPTIONS, "--stage", stage, "--stop_stage", stage)
    assert ended.status == 0, ended.stderr
    assert stages_of(ended.stderr) == ["score"]
    report = [
        (r.exp / "RESULTS.md").read_text(encoding="utf-8").split("## Cost")[0]
        for r in (recipe, reference.recipe)
    ]
    assert report[0] == report[1]
    code, stages = recipe.status()
    assert code == 4
    for name, units in stages.items():
        there = name in ("data", "format", "tune", "inference", "score")
        states = {"done" if there else "pending"} if name != "upload" else set()  # nothing to do
        assert set(states_of(units).values()) == states, name


def assert_interrupted(recipe: Recipe, command: list[str], ended) -> None:
    assert ended.status == 130, ended.stderr
    assert told_to_go_on(ended.stderr) == ["cd", str(recipe.directory), "&&", "./run.sh", *command]
    assert "Traceback" not in ended.stderr
    assert recipe.processes() == []


def test_interrupted_corpus_is_the_same_in_the_end(corpus, tmp_path):
    reference, _ = corpus
    recipe = Recipe(tmp_path / "mini_covost")
    clips = recipe / "downloads/domain/cv-corpus-4-2019-12-10/de/clips"
    command = [*OPTIONS, "--stop_stage", "format"]
    ended = recipe.run_and_interrupt(*command, when=lambda: len(list(clips.glob("*.mp3"))) > 5)
    assert_interrupted(recipe, command, ended)
    assert not (recipe / "data").exists() and not (clips.parent / ".done").exists()
    ended = recipe.run(*command)
    assert ended.status == 0, ended.stderr
    for part in ("downloads", "data", "dump"):
        assert contents(recipe, part) == contents(reference, part)


def test_end_by_a_signal_is_recorded_as_such(tmp_path):
    """A signal ends the driver, bash, while a program of the recipe is at work."""
    recipe = Recipe(tmp_path / "mini_covost")
    record, command = recipe.exp / "recipe.json", [*OPTIONS, "--stop_stage", "data"]
    ended = recipe.run_and(lambda pid: os.kill(pid, signal.SIGTERM), *command, when=record.exists)
    assert ended.status == -signal.SIGTERM
    assert told_to_go_on(ended.stderr) == ["cd", str(recipe.directory), "&&", "./run.sh", *command]
    assert read_json(record)["status"] == 128 + signal.SIGTERM


def contents(recipe: Recipe, part: str) -> dict[str, bytes]:
    """Return the files below a part of the recipe, with RECIPE in place of its directory."""
    place = str(recipe.directory.resolve()).encode()
    files = (p for p in (recipe / part).rglob("*") if p.is_file() and p.name != ".done")
    return {
        str(p.relative_to(recipe.directory)): p.read_bytes().replace(place, b"RECIPE")
        for p in files
    }


def test_interrupted_training_and_search_give_the_same_result(reference, tmp_path):
    parts = ("base", "stats", "joint", "sequential")
    recipe = reference.recipe.fork(tmp_path / "mini_covost", *parts)
    command = [*OPTIONS, "--stage", "experts", "--stop_stage", "score"]
    expert, tune = recipe.exp / "expert", recipe.exp / "tune"

    ended = recipe.run_and_interrupt(*command, when=lambda: any(expert.glob("*/latest.pth")))
    assert_interrupted(recipe, command, ended)
    begun = [link.parent for link in expert.glob("*/latest.pth")]
    assert begun and not any(expert.glob("*/.done")) and not tune.exists()
    code, stages = recipe.status()
    assert code == 4 and set(states_of(stages["baselines"]).values()) == {"done"}
    for pair, state_of_pair in states_of(stages["experts"]).items():
        was_begun = (expert / pair / ".done.started").exists()
        assert state_of_pair == ("interrupted" if was_begun else "pending"), pair
    assert all(stages["experts"][d.name]["log"].startswith("exp/log/train_") for d in begun)

    # The average has one setting, so its search may end before the interruption reaches it.
    ended = recipe.run_and_interrupt(*command, when=lambda: any(tune.glob("lors.*/points/*.json")))
    assert_interrupted(recipe, command, ended)
    assert all("training was resumed" in (d / "train.log").read_text() for d in begun)
    assert all("epoch started" in (d / "train.1.log").read_text() for d in begun)
    assert not (recipe.exp / "merged").exists()
    code, stages = recipe.status()
    assert code == 4 and set(states_of(stages["experts"]).values()) == {"done"}
    assert "interrupted" in states_of(stages["tune"]).values()
    assert set(states_of(stages["merge"]).values()) == {"pending"}

    ended = recipe.run(*command)
    assert ended.status == 0, ended.stderr
    for model in [f"expert/{pair}" for pair in PAIRS] + [f"merged/{m}.{s}" for m, s in MERGES]:
        assert same(state(recipe.exp / model), state(reference.recipe.exp / model)), model
    for name in ("tune", "scores"):
        ours, theirs = (r.exp / name for r in (recipe, reference.recipe))
        files = sorted(path.relative_to(theirs) for path in theirs.rglob("*.json"))
        assert files == sorted(path.relative_to(ours) for path in ours.rglob("*.json"))
        files = [file for file in files if file.name != "cost.json"]  # measured seconds
        assert [read_json(ours / file) for file in files] == [read_json(theirs / f) for f in files]
    assert recipe.processes() == []


# --- a base model of one's own ------------------------------------------------------------------


def test_training_the_base_model(tmp_path):
    recipe = Recipe(tmp_path / "mini_covost")
    write_configs(recipe)
    schedule = {"max_lr": 0.005, "total_steps": 6}
    short = {"num_iters_per_epoch": 2, "scheduler_conf": schedule}
    derive_config(recipe, "tiny_expert.yaml", "short_expert.yaml", **short)
    data_opts = ["--data_opts", "--num_train 12 --num_dev 2 --num_test 2 --num_pool 12"]
    training = ["--langs", "de es", "--vocab_size", "60", "--base_config", "conf/tiny_base.yaml"]
    training += ["--expdir", "exp/own_base", *data_opts]
    ended = recipe.run(*training, program="local/train_base.sh")
    assert ended.status == 0, ended.stderr
    assert stages_of(ended.stderr) == ["data", "format", "tokens", "stats", "train"]
    base = recipe.exp / "own_base/base"
    before = file_times(base)
    ended = recipe.run(*training, program="local/train_base.sh")
    assert ended.status == 0 and file_times(base) == before, ended.stderr
    tokens = (base / "tokens.txt").read_text(encoding="utf-8").splitlines()
    assert {"<deu>", "<spa>", "<asr>", "<st_eng>", "<notimestamps>"} <= set(tokens)
    statistics = np.load(base / "feats_stats.npz")
    assert statistics["sum"].shape == (80,) and statistics["count"] > 0
    pool = read_data_dir(recipe / "dump/pool/es/train")
    assert len(pool) == 12 and not (recipe / "dump/es").exists()
    ended = recipe.run(
        *("--base_model", "exp/own_base/base", "--train_config", "conf/short_expert.yaml"),
        *("--langs", "de", "--tasks", "asr", "--stop_stage", "experts", *data_opts),
    )
    assert ended.status == 0, ended.stderr
    model, expert = state(base), state(recipe.exp / "expert" / "de_asr")
    assert model["decoder.embed.0.weight"].shape[0] == len(tokens)
    assert same(model, state(recipe.exp / "base"))
    assert list(model) == list(expert) and not same(model, expert)


def test_interrupted_chain_goes_on_at_its_step(reference, tmp_path):
    kept = [f"sequential/{step}" for step in STEPS[:2]]
    recipe = reference.recipe.fork(tmp_path / "mini_covost", "base", "stats", "joint", *kept)
    # Both baselines, as in the reference: with one, it would have all threads, and other roundings.
    command = [*OPTIONS, "--stage", "baselines", "--stop_stage", "baselines"]
    chain = recipe.exp / "sequential"
    before = file_times(chain)
    begun = chain / STEPS[2] / "latest.pth"
    ended = recipe.run_and_interrupt(*command, when=begun.is_symlink)
    assert_interrupted(recipe, command, ended)
    assert not (chain / "model.pth").exists() and not (chain / STEPS[3]).exists()

    ended = recipe.run(*command)
    assert ended.status == 0, ended.stderr
    assert before.items() <= file_times(chain).items()
    assert "training was resumed" in (begun.parent / "train.log").read_text()
    for step in STEPS:
        model = reference.recipe.exp / "sequential" / step
        assert same(state(chain / step), state(model)), step

    # A step notices that the model of the step before has changed.
    model = chain / STEPS[1] / "model.pth"
    model.unlink()
    torch.save(state(chain / STEPS[0]), model)
    ended = recipe.run(*command)
    assert ended.status == 1 and "made with other settings" in ended.stderr
    assert f"sequential/{STEPS[2]}" in ended.stderr and "base: " in ended.stderr
