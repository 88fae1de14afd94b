"""Experts in other forms than their base: other names, tied tensors, shards."""

import json

import pytest
import safetensors.torch
import torch

from lors.checkpoint.expert import open_expert, open_model
from lors.checkpoint.naming import names_in
from lors.checkpoint.reader import Checkpoint
from lors.errors import UsageError
from lors.merge.run import MergePlan, iter_merged, run_merge
from lors.merge.task_vector import TaskVector
from tests.refusal import refusal
from tests.unit.whisper_files import (
    DIMS,
    FORMS,
    WIDTH,
    espnet_state,
    hugging_face_state,
    openai_state,
    write_hugging_face,
    write_openai,
)

QUERY = "encoder.blocks.1.attn.query.weight"


def contents(checkpoint):
    return {name: checkpoint.tensor(name) for name in checkpoint.names()}


def equal(one, other):
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


# --- names --------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("base_form", FORMS)
def test_any_form_of_whisper_fits_any_other(tmp_path, base_form, form):
    base = open_model(FORMS[base_form](tmp_path / "base", openai_state(0)))
    expert = open_expert(base, FORMS[form](tmp_path / "expert", openai_state(1)))
    same_form = open_model(FORMS[base_form](tmp_path / "same", openai_state(1)))
    assert set(expert.names()) == set(base.names())
    assert equal(contents(expert), contents(same_form))
    assert expert.spec().keys() == same_form.spec().keys()


@pytest.mark.parametrize("base_form", FORMS)
def test_merges_of_mixed_forms_are_the_same_model(tmp_path, base_form):
    base = FORMS[base_form](tmp_path / "base", openai_state(0))
    mixed = [FORMS[f](tmp_path / f, openai_state(i + 1)) for i, f in enumerate(FORMS)]
    alike = [FORMS[base_form](tmp_path / f"{i}", openai_state(i + 1)) for i in range(len(FORMS))]
    params = {"rank": 2, "density": 0.3}
    plans = [MergePlan(str(base), tuple(map(str, e)), "lors", params) for e in (mixed, alike)]
    one, other = (dict(iter_merged(plan)) for plan in plans)
    assert equal(one, other) and "proj_out.weight" not in one
    sinusoids = [name for name in one if "encoder" in name and "position" in name]
    assert len(sinusoids) == 1 and torch.equal(one[sinusoids[0]], torch.ones(6, WIDTH))


NAMED = {"openai": dict, "huggingface": hugging_face_state, "espnet": espnet_state}


@pytest.mark.parametrize("base_form", FORMS)
@pytest.mark.parametrize("names", [None, *NAMED])
@pytest.mark.parametrize("suffix", ["pth", "safetensors", "pt"])
def test_any_form_can_be_written(tmp_path, base_form, names, suffix):
    base = FORMS[base_form](tmp_path / "base", openai_state(0))
    expert = FORMS["openai"](tmp_path / "expert", openai_state(1))
    plan = MergePlan(str(base), (str(expert),), "average")
    out = tmp_path / "merged" / f"model.{suffix}"
    if suffix == "pt" and names in ("huggingface", "espnet"):
        with refusal(out, names, kind=UsageError):
            run_merge(plan, out, names=names)
        assert not out.exists()
        return
    if suffix == "pt" and base_form == "espnet":
        with refusal(base, f"{WIDTH} and {WIDTH}"):
            run_merge(plan, out, names=names)
        return
    run_merge(plan, out, names=names)
    expected = openai_state(1) | {"encoder.positional_embedding": torch.ones(6, WIDTH)}
    scheme = "openai" if suffix == "pt" else names
    if scheme is not None:
        expected = NAMED[scheme](expected)
    else:
        expected = {**NAMED, "ctranslate2": dict}.get(base_form, hugging_face_state)(expected)
    found = contents(Checkpoint.open(out))
    assert set(found) == set(expected)
    assert all(torch.allclose(found[name], expected[name], atol=1e-6) for name in expected)
    if suffix == "pt":
        content = torch.load(out, weights_only=True)
        assert content["dims"] == DIMS and list(content) == ["dims", "model_state_dict"]


def test_adding_to_a_merged_model_under_other_names(tmp_path):
    base = write_openai(tmp_path / "base.pt", openai_state(0))
    one, other = (write_openai(tmp_path / f"{i}.pt", openai_state(i)) for i in (1, 2))
    merged = []
    for names in ("openai", "huggingface"):
        out = tmp_path / names / "model.safetensors"
        run_merge(MergePlan(str(base), (str(one),), "task_arithmetic"), out, names=names)
        plan = MergePlan(str(base), (str(other),), "task_arithmetic", onto=str(out))
        merged.append(dict(iter_merged(plan)))
    assert equal(*merged)


def test_openai_whisper_loads_what_is_written(tmp_path):
    import whisper

    base = write_hugging_face(tmp_path / "base", openai_state(0))
    expert = write_openai(tmp_path / "expert.pt", openai_state(1))
    run_merge(MergePlan(str(base), (str(expert),), "average"), tmp_path / "out" / "model.pt")
    model = whisper.load_model(str(tmp_path / "out" / "model.pt"), device="cpu")
    assert dict(vars(model.dims)) == DIMS
    merged = contents(Checkpoint.open(tmp_path / "out" / "model.pt"))
    assert equal({n: p.detach() for n, p in model.state_dict().items()}, merged)


def test_a_model_that_is_no_whisper_has_no_such_names(tmp_path):
    for seed in (0, 1):
        torch.save({"encoder.other.weight": torch.full((2,), seed)}, tmp_path / f"{seed}.pth")
    with refusal("openai", "encoder.other.weight"):
        names_in("openai", Checkpoint.open(tmp_path / "0.pth").names())
    with refusal("keras", "openai, huggingface, espnet", kind=UsageError):
        names_in("keras", [])


def test_untied_output_layer_is_refused(tmp_path):
    directory = write_hugging_face(tmp_path / "m", openai_state(0))
    state = hugging_face_state(openai_state(0))
    state["proj_out.weight"] = torch.zeros_like(state["model.decoder.embed_tokens.weight"])
    safetensors.torch.save_file(state, directory / "model.safetensors")
    with refusal(directory, "proj_out.weight", "model.decoder.embed_tokens.weight"):
        open_model(directory)


def test_what_has_no_counterpart_is_listed(tmp_path):
    state = openai_state(1)
    state["encoder.extra"] = torch.ones(1)
    del state["decoder.ln.bias"]
    base = open_model(write_hugging_face(tmp_path / "base", openai_state(0)))
    expert = open_expert(base, write_openai(tmp_path / "e.pt", state))
    with refusal("encoder.extra: ", "model.decoder.layer_norm.bias: "):
        TaskVector(base, expert)


PREFIXES = {
    "module.": "DataParallel",
    "_orig_mod.": "torch.compile",
    "module._orig_mod.": "DataParallel",
    "model.": "Lightning",
    "whisper.decoder.": "whisper.decoder.",
}


@pytest.mark.parametrize("prefix", PREFIXES)
def test_names_of_a_model_in_a_wrapper(tmp_path, prefix):
    for name, before in (("plain", ""), ("wrapped", prefix)):
        state = {f"{before}{name}": value for name, value in openai_state(0).items()}
        torch.save(state, tmp_path / f"{name}.pth")
    for base, expert in (("plain", "wrapped"), ("wrapped", "plain")):
        with refusal(f"'{prefix}'", PREFIXES[prefix], "state_dict()") as caught:
            open_expert(open_model(tmp_path / f"{base}.pth"), tmp_path / f"{expert}.pth")
        assert caught.value.where == tmp_path / "wrapped.pth"


def test_a_whisper_of_hugging_face_without_its_output_layer(tmp_path):
    state = hugging_face_state(openai_state(1))
    state = {name.removeprefix("model."): value for name, value in state.items()}
    safetensors.torch.save_file(state, tmp_path / "body.safetensors")
    base = open_model(write_hugging_face(tmp_path / "base", openai_state(0)))
    with refusal("'model.'", "with its output layer") as caught:
        open_expert(base, tmp_path / "body.safetensors")
    assert caught.value.where == base.path


def test_half_precision_files_of_openai(tmp_path):
    halves = [{n: v.half() for n, v in openai_state(seed).items()} for seed in (0, 1)]
    base = open_model(write_openai(tmp_path / "b.pt", halves[0]))
    same = TaskVector(base, open_expert(base, write_openai(tmp_path / "e.pt", halves[1])))
    assert same.delta(QUERY).dtype == torch.float32
    assert torch.equal(same.delta(QUERY), halves[1][QUERY].float() - halves[0][QUERY].float())
    single = TaskVector(base, open_expert(base, write_openai(tmp_path / "s.pt", openai_state(1))))
    assert torch.equal(single.delta(QUERY), openai_state(1)[QUERY] - halves[0][QUERY].float())


# --- shards -------------------------------------------------------------------------------------


@pytest.fixture
def sharded(tmp_path):
    return write_hugging_face(tmp_path / "m", openai_state(0), shards=3)


def test_index_or_directory(sharded):
    by_directory = Checkpoint.open(sharded)
    by_index = Checkpoint.open(sharded / "model.safetensors.index.json")
    assert equal(contents(by_directory), contents(by_index))
    assert equal(contents(by_directory), hugging_face_state(openai_state(0)))


def test_damaged_sets_of_shards(sharded, tmp_path):
    index = sharded / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    first = content["weight_map"].pop("model.encoder.conv1.bias")
    index.write_text(json.dumps(content))
    with refusal(index, "model.encoder.conv1.bias", first):
        Checkpoint.open(sharded)
    wrong = next(file for file in content["weight_map"].values() if file != first)
    content["weight_map"]["model.encoder.conv1.bias"] = wrong
    index.write_text(json.dumps(content))
    with refusal(index) as caught:
        Checkpoint.open(sharded)
    one, other = sorted(caught.value.got, key=lambda line: first in line)
    assert "model.encoder.conv1.bias" in one and wrong in one
    assert "model.encoder.conv1.bias" in other and first in other
    (sharded / first).unlink()
    with refusal(index, sharded / first):
        Checkpoint.open(sharded)
    for text, fact in (("{}", "weight_map"), ("[1]", "[1]")):
        index.write_text(text)
        with refusal(index, fact):
            Checkpoint.open(sharded)
    (tmp_path / "empty").mkdir()
    with refusal(tmp_path / "empty"):
        Checkpoint.open(tmp_path / "empty")


def test_an_index_leads_nowhere_else(sharded):
    index = sharded / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"] = {n: f"../other/{f}" for n, f in content["weight_map"].items()}
    index.write_text(json.dumps(content))
    assert equal(contents(Checkpoint.open(sharded)), hugging_face_state(openai_state(0)))
