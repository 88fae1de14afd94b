"""The mini recipe of PQM from nothing to its report, at a smaller size; and a run again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from lors.bin.evaluate import main as evaluate
from lors.bin.extract import main as extract
from lors.bin.merge import main as lors_merge
from lors.bin.quantise import main as quantise
from lors.bin.results import main as results
from lors.checkpoint.expert import open_expert, open_model
from lors.checkpoint.quantised import open_quantised
from lors.data.datadir import read_data_dir, read_text
from lors.fileio import read_json
from lors.recipe.expdir import ON_FULL, PERSONAL
from lors.recipe.units import PQM_STAGES
from tests.integration.recipe import Recipe, derive_config, file_times, stages_of
from tests.unit.test_librispeech import write_ten_speakers

pytestmark = [pytest.mark.espnet, pytest.mark.slow]

OPTIONS = ["--langs", "de", "--data_opts", "--num_train 24 --num_dev 4 --num_test 36"]
OPTIONS += ["--adapt_utterances", "8", "--speaker_dev", "4", "--least_test", "6"]
OPTIONS += ["--sat_config", "conf/tiny_sat.yaml", "--train_config", "conf/tiny_speaker.yaml"]
OPTIONS += ["--double", "true"]  # tests/reference has trainings on scales in full precision
SHARED = ("base", "quantised", "quantised_sat", "full_sat")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    recipe = Recipe(tmp_path_factory.mktemp("pqm") / "mini_covost", "mini_covost", "pqm1")
    for part in ("sat", "speaker"):
        derive_config(
            recipe,
            f"train_{part}.yaml",
            f"tiny_{part}.yaml",
            num_workers=0,
            batch_size=6,
            num_iters_per_epoch=4,
            max_epoch=1,
            scheduler_conf={"max_lr": 0.002, "total_steps": 4},
        )
    done = recipe.run(*OPTIONS)
    assert done.status == 0, done.stderr
    return recipe, done


@pytest.fixture(scope="module")
def speakers(finished):
    return (finished[0] / "speakers/speakers").read_text().split()


def test_every_stage_runs(finished, speakers):
    _, done = finished
    assert tuple(stages_of(done.stderr)) == PQM_STAGES
    assert len(speakers) == 2 and all(code.startswith("de-x-") for code in speakers)
    assert not [line for line in done.stderr.splitlines() if "Traceback" in line]


def test_speakers_are_apart(finished, speakers):
    recipe, _ = finished
    tested = {code.removeprefix("de-x-") for code in speakers}
    for split in ("train", "dev"):
        others = {u.speaker for u in read_data_dir(recipe / f"speakers/de/{split}")}
        assert others and others.isdisjoint(tested)
    for code in speakers:
        parts = [read_data_dir(recipe / f"speakers/{code}/{s}") for s in ("train", "dev", "test")]
        assert [len(part) for part in parts] == [8, 4, 6]
        assert {u.speaker for part in parts for u in part} == {code.removeprefix("de-x-")}


def adapter(recipe, system, speaker):
    folder = recipe.exp / system
    folder = folder if system in SHARED else folder / f"{speaker}_asr"
    return torch.load(folder / "model.pth", weights_only=True)


def test_only_adapters_are_trained(finished, speakers):
    recipe, _ = finished
    quantised = open_quantised(recipe.exp / "quantised")
    assert len(quantised.quantised_names()) == 50
    sat = adapter(recipe, "quantised_sat", "")
    assert all(name.endswith(("lora_A", "lora_B")) for name in sat)
    trained = [sat]
    for system in ("quantised_speaker", "quantised_sat_speaker"):
        trained += [adapter(recipe, system, speaker) for speaker in speakers]
    up = next(name for name in sat if name.endswith("lora_B"))
    values = [state[up] for state in trained]
    assert all(state.keys() == sat.keys() for state in trained)
    assert all(value.abs().sum() > 0 for value in values)
    assert all(not torch.equal(a, b) for i, a in enumerate(values) for b in values[:i])
    # The same adapters on the model in full precision.
    for full, system in ON_FULL.items():
        for speaker in speakers:
            assert torch.equal(
                adapter(recipe, full, speaker)[up], adapter(recipe, system, speaker)[up]
            )


def test_from_the_adapter_of_all_speakers(finished, speakers):
    """After four steps an adapter is near the one that it started from."""
    recipe, _ = finished
    sat = adapter(recipe, "quantised_sat", "")
    distance = {}
    for system in ("quantised_speaker", "quantised_sat_speaker"):
        state = adapter(recipe, system, speakers[0])
        names = [name for name in sat if name.endswith("lora_B")]
        distance[system] = sum((state[n] - sat[n]).norm() for n in names)
    assert distance["quantised_sat_speaker"] < distance["quantised_speaker"]
    run = yaml.safe_load(
        (recipe.exp / f"quantised_sat_speaker/{speakers[0]}_asr/config.yaml").read_text()
    )
    assert run["init_param"] == ["exp/quantised_sat/model.pth"]
    assert run["quantised_base"] == "exp/quantised/model.safetensors"


def test_scores_of_every_system_and_speaker(finished, speakers):
    recipe, done = finished
    for system in ("base", *PERSONAL):
        for speaker in speakers:
            hypotheses = read_text(recipe.exp / f"inference/test/{system}/{speaker}_asr")
            assert len(hypotheses) == 6
            score = read_json(recipe.exp / f"scores/test/{system}/{speaker}_asr.json")
            assert score["utterances"] == 6
        assert any(line.startswith(system) for line in done.stdout.splitlines()), system
    report = (recipe.exp / "RESULTS.md").read_text()
    assert all(text in report for text in (*speakers, "Sizes", "7.75", "vs. base"))
    sizes = read_json(recipe.exp / "sizes.json")
    assert sizes["adapter"]["parameters"] == 32768 and sizes["adapter"]["speakers"] == 2
    page = (recipe.exp / "report.html").read_text(encoding="utf-8")
    assert '<section id="sizes">' in page and "32768" in page


def test_status_and_a_run_again(finished, speakers):
    recipe, _ = finished
    code, stages = recipe.status()
    assert code == 0 and tuple(stages) == PQM_STAGES
    assert len(stages["adapt"]) == 2 * len(speakers)
    assert len(stages["inference"]) == (1 + len(PERSONAL)) * len(speakers)
    before = file_times(recipe.exp)
    again = recipe.run(*OPTIONS)
    assert again.status == 0, again.stderr
    after = file_times(recipe.exp)
    written = {name for name in before if before[name] != after[name]}
    trained = {n for n in written if n.endswith((".pth", ".safetensors")) and "full" not in n}
    assert not trained and not {n for n in written if n.startswith("inference/")}


def test_merged_speakers_and_their_cost(finished, speakers, monkeypatch):
    """The commands of the recipe's README: a merge quantised, and as an adapter in 4 bits."""
    recipe, _ = finished
    monkeypatch.chdir(recipe.directory)
    experts = [f"exp/quantised_sat_speaker/{speaker}_asr/model.pth" for speaker in speakers]
    base, merged = "exp/base/model.pth", "exp/merged_de/model.pth"
    words = ["--method", "average", "--policy", "espnet_s2t", "--params", "scaling_coef=1"]
    assert lors_merge([*words, "--base", base, "--out", merged, "--experts", *experts]) == 0
    assert quantise(["--model", "exp/merged_de", "--out", "exp/merged_quantised"]) == 0
    words = ["--base", base, "--expert", merged, "--as", "lora", "--rank", "8"]
    assert extract([*words, "--quantised_base", "exp/quantised", "--out", "exp/group"]) == 0
    names = ("base", "quantised", "quantised_sat", "merged_de", "merged_quantised", "group")
    options = ["--models", *(f"{name}=exp/{name}" for name in names), "--langs", *speakers]
    options += ["--tasks", "asr", "--dump", "speakers", "--out", "exp/merge_cost"]
    assert evaluate([*options, "--inference_config", "conf/inference_greedy.yaml"]) == 0
    for name in names:
        for speaker in speakers:
            assert read_json(f"exp/merge_cost/scores/test/{name}/{speaker}_asr.json")["wer"] >= 0
    words = ["--expdirs", "exp/merge_cost", "--out", "exp/merge_cost/RESULTS.md"]
    assert results([*words, "--compare_to", "quantised_sat"]) == 0
    report = Path("exp/merge_cost/RESULTS.md").read_text()
    assert "vs. quantised" in report and all(name.replace("_", "\\_") in report for name in names)
    # The adapter holds the whole change of the merge.
    quantised, full = open_quantised("exp/quantised"), open_model(base)
    group, whole = open_expert(quantised, "exp/group"), open_model(merged)
    for name in full.names():
        change = whole.tensor(name) - full.tensor(name)
        assert torch.allclose(group.tensor(name) - quantised.tensor(name), change, atol=1e-5), name


def test_librispeech_to_the_data_of_its_ten_speakers(tmp_path):
    """A corpus made in the layout of LibriSpeech, through the first three stages of the recipe."""
    partition = write_ten_speakers(tmp_path / "LibriSpeech")
    recipe = Recipe(tmp_path / "librispeech", "librispeech", "pqm1")
    options = ["--data_opts", f"--librispeech {tmp_path / 'LibriSpeech'}"]
    done = recipe.run(*options, "--stop_stage", "speakers")
    assert done.status == 0, done.stderr
    codes = (recipe / "speakers/speakers").read_text().split()
    assert codes == [f"en-x-{speaker}" for speaker in sorted(partition)]
    for speaker, ends in partition.items():
        dev = read_data_dir(recipe / f"speakers/en-x-{speaker}/dev")
        assert [u.id for u in dev] == list(ends)
    # The authors' order is that of texts: chapter 130127 adapts, and 13247 is behind it.
    adapt = read_data_dir(recipe / "speakers/en-x-3389/train")
    assert [u.id for u in adapt] == ["3389-130127-0000", "3389-13247-0021"]
    assert recipe.run(*options, "--langs", "de", "--datadir", "d2").status == 2
