"""Small experts wherever an expert is read: merge, inspect, export and the recipes."""

import shutil

import pytest
import torch

from lors.bin.export_whisper import main as export
from lors.bin.inspect import main as inspect
from lors.checkpoint.expert import open_expert, open_model
from lors.checkpoint.reader import Checkpoint
from lors.merge import Decompositions, merged_delta, run_merge
from lors.merge.engine import Merger
from lors.merge.plan import MergePlan, open_inputs
from lors.models import family_of
from lors.models.espnet_s2t.prompts import S2TOptions
from lors.recipe.expdir import ExpDir, check_models
from lors.recipe.inference import infer
from lors.recipe.tuner import plan_of
from lors.tasks import ASR, Pair
from tests.refusal import refusal
from tests.unit.merge_models import PRUNED, model, write_models
from tests.unit.small_experts import SETTING, write_lora, write_vector
from tests.unit.stand_ins import FakeS2TModel, use_fake_models, write_audio_dump, write_model
from tests.unit.whisper_files import openai_state, write_openai

PAIRS = [Pair("de", ASR.name), Pair("es", ASR.name)]
PARAMS = {**SETTING, "scaling_coef": 0.5}


@pytest.fixture
def files(tmp_path):
    return write_models(tmp_path)


@pytest.fixture
def small(files, tmp_path):
    base, *experts = files
    return [write_vector(base, e, tmp_path / f"v{n}.safetensors") for n, e in enumerate(experts)]


def test_inspect_reads_them(files, tmp_path, small, capsys):
    lora = write_lora(files[0], files[2], tmp_path / "lora", 2)
    assert inspect(["--base", files[0], "--experts", small[0], lora, "--rank", "2"]) == 0
    assert "1.000" in capsys.readouterr().out  # all the energy of the adapter is in its rank


def test_a_merged_model_takes_them(files, tmp_path, small):
    base, *experts = files
    one, both = tmp_path / "one" / "m.pth", tmp_path / "both" / "m.pth"
    run_merge(MergePlan(base, (small[0],), "lors", PARAMS), one)
    run_merge(MergePlan(base, (small[1],), "lors", PARAMS, onto=str(one)), both)
    direct = tmp_path / "direct" / "m.pth"
    run_merge(MergePlan(base, tuple(experts), "lors", PARAMS), direct)
    found, expected = (Checkpoint.open(path).tensor(PRUNED) for path in (both, direct))
    assert torch.allclose(found, expected, atol=1e-2)
    with refusal(small[0]):
        plan = MergePlan(base, (small[0],), "lors", PARAMS, onto=str(both))
        run_merge(plan, tmp_path / "x" / "m.pth")


def test_decompositions_of_them_are_kept(files, tmp_path, small):
    plan = MergePlan(files[0], tuple(small), "lors", {"rank": 1, "density": 0.1})
    cache = Decompositions(tmp_path / "cache")
    found = [merged_delta(plan, cache=of)[PRUNED] for of in (None, cache, cache)]
    assert torch.allclose(found[0], found[1], atol=1e-6) and torch.equal(found[1], found[2])


def test_the_engine_knows_for_which_expert_the_method_is_done(files, small):
    plan = MergePlan(files[0], (small[0], files[2]), "lors", SETTING)
    context = Merger(plan, open_inputs(plan)).context(PRUNED)
    assert context.is_term(0) and not context.is_term(1)
    for method, params in (("svp", {"rank": 2}), ("lors", {**SETTING, "keep_norm": True})):
        plan = MergePlan(files[0], (small[0],), method, params)
        assert not Merger(plan, open_inputs(plan)).context(PRUNED).is_term(0)


def test_the_same_expert_twice_is_refused(files, small):
    with refusal(small[0]):
        open_inputs(MergePlan(files[0], (small[0], small[0]), "lors"))


def test_a_file_that_was_moved(files, tmp_path, small):
    (tmp_path / "far").mkdir()
    moved = shutil.copy(small[0], tmp_path / "far")
    assert open_expert(open_model(files[0]), moved).names() == list(model(0))


@pytest.mark.parametrize("form", ["lors", "lora"])
def test_export_adds_them_to_their_base_model(tmp_path, form, capsys):
    base, expert = (str(write_openai(tmp_path / f"{n}.pt", openai_state(n))) for n in (0, 1))
    if form == "lors":
        path = write_vector(base, expert, tmp_path / "v.safetensors")
    else:
        path = write_lora(base, expert, tmp_path / "lora", 2)
    out = tmp_path / "out.pt"
    assert export(["--model", path, "--base", base, "--out", str(out)]) == 0
    expected = open_expert(open_model(base), path)
    state = torch.load(out)["model_state_dict"]
    assert all(torch.equal(state[name], expected.tensor(name)) for name in state)
    assert export(["--model", path, "--out", str(tmp_path / "again.pt")]) == 1
    assert path in capsys.readouterr().err


# --- the recipes ---------------------------------------------------------------------------------


@pytest.fixture
def expdir(tmp_path, monkeypatch):
    """An experiment with a task vector and an adapter in the places of its experts."""
    use_fake_models(monkeypatch)
    full, expdir = ExpDir(tmp_path / "full"), ExpDir(tmp_path / "exp")
    write_model(expdir.base, 0)
    base = str(expdir.base / "model.pth")
    experts = [
        str(write_model(full.expert(pair), 1 + n) / "model.pth") for n, pair in enumerate(PAIRS)
    ]
    write_vector(base, experts[0], expdir.expert(PAIRS[0]) / "model.safetensors")
    write_lora(base, experts[1], expdir.expert(PAIRS[1]), 2)
    return expdir


def test_recipes_merge_them(expdir):
    directories = [expdir.expert(pair) for pair in PAIRS]
    check_models(directories)
    plan = plan_of(expdir, PAIRS, "lors", {})
    assert plan.experts == (str(directories[0] / "model.safetensors"), str(directories[1]))
    assert len(merged_delta(plan)) == 3
    digests = expdir.digests(directories)
    assert len(set(digests.values())) == 2
    config = directories[1] / "adapter_config.json"
    config.write_text(config.read_text().replace('"lora_alpha": 2', '"lora_alpha": 4'))
    assert expdir.digests(directories) != digests


def test_recipes_decode_with_them(expdir, tmp_path):
    dump = write_audio_dump(tmp_path / "dump", splits=["test"])
    work = [(p, expdir.expert(p), expdir.hypothesis("test", "expert", p)) for p in PAIRS]
    infer(work, dump, "test", S2TOptions())
    assert all(hypothesis.read_text() for _, _, hypothesis in work)
    assert all(family_of(expdir.expert(pair)).name == "espnet_s2t" for pair in PAIRS)
    loads = [call for call in FakeS2TModel.calls if call[0] in ("load", "load_state")]
    base = ("load", str(expdir.base / "model.pth"), "cpu")
    assert loads == 2 * [base, ("load_state",)]
    FakeS2TModel.calls.clear()
    infer(work, dump, "test", S2TOptions())
    assert FakeS2TModel.calls == []


def test_recipes_name_directories_without_a_model(expdir):
    directory = expdir.expert(PAIRS[1])
    (directory / "adapter_model.safetensors").unlink()
    with refusal(directory / "model.pth"):
        check_models([directory])
