"""Experts in other forms than their base: other names, tied tensors, shards, adapters."""

import json
import shlex
import subprocess
import sys

import pytest
import torch

from lors.checkpoint import Checkpoint
from lors.errors import LorsError, UsageError
from lors.expert import AdaptedCheckpoint, open_expert, open_model, recorded_base
from lors.merge import MergePlan, iter_merged, run_merge
from lors.naming import names_in
from lors.task_vector import TaskVector
from lors.whisper_dims import whisper_dims
from tests.unit.whisper_files import (
    DIMS,
    WIDTH,
    espnet_state,
    hugging_face_state,
    openai_state,
    write_espnet,
    write_hugging_face,
    write_openai,
    write_peft,
)

FORMS = {
    "openai": lambda place, state: write_openai(place.with_suffix(".pt"), state),
    "espnet": lambda place, state: write_espnet(place.with_suffix(".pth"), state),
    "hugging_face": write_hugging_face,
    "tied": lambda place, state: write_hugging_face(place, state, tied=True),
    "sharded": lambda place, state: write_hugging_face(place, state, shards=3, tied=True),
}
QUERY = "encoder.blocks.1.attn.query.weight"
HF_QUERY = "model.encoder.layers.1.self_attn.q_proj"


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
        with pytest.raises(UsageError, match=r"a \.pt is a file of OpenAI's Whisper"):
            run_merge(plan, out, names=names)
        assert not out.exists()
        return
    if suffix == "pt" and base_form == "espnet":
        with pytest.raises(LorsError, match=r"number of attention heads .* is not known"):
            run_merge(plan, out, names=names)
        return
    run_merge(plan, out, names=names)
    expected = openai_state(1) | {"encoder.positional_embedding": torch.ones(6, WIDTH)}
    family = "openai" if suffix == "pt" else names
    if family is not None:
        expected = NAMED[family](expected)
    else:
        expected = NAMED.get(base_form, hugging_face_state)(expected)
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
    whisper = pytest.importorskip("whisper", reason="openai-whisper is not installed")
    base = write_hugging_face(tmp_path / "base", openai_state(0))
    expert = write_openai(tmp_path / "expert.pt", openai_state(1))
    run_merge(MergePlan(str(base), (str(expert),), "average"), tmp_path / "out" / "model.pt")
    model = whisper.load_model(str(tmp_path / "out" / "model.pt"), device="cpu")
    assert dict(vars(model.dims)) == DIMS
    merged = contents(Checkpoint.open(tmp_path / "out" / "model.pt"))
    assert equal({n: p.detach() for n, p in model.state_dict().items()}, merged)


def test_heads_of_official_width(tmp_path):
    state = {"decoder.token_embedding.weight": torch.zeros(5, 128)}
    state |= {
        f"{side}.positional_embedding": torch.zeros(4, 128) for side in ("encoder", "decoder")
    }
    state |= {f"{side}.blocks.0.attn_ln.bias": torch.zeros(128) for side in ("encoder", "decoder")}
    state["encoder.conv1.weight"] = torch.zeros(128, 80, 3)
    torch.save(state, tmp_path / "m.pth")
    dims = whisper_dims(Checkpoint.open(tmp_path / "m.pth"))
    assert dims["n_audio_head"] == dims["n_text_head"] == 2 and dims["n_mels"] == 80


def test_a_model_that_is_no_whisper_has_no_such_names(tmp_path):
    for seed in (0, 1):
        torch.save({"encoder.other.weight": torch.full((2,), seed)}, tmp_path / f"{seed}.pth")
    with pytest.raises(LorsError, match=r"no(t|ne)(.|\n)*encoder.other.weight"):
        names_in("openai", Checkpoint.open(tmp_path / "0.pth").names())
    with pytest.raises(UsageError, match="unknown family of names"):
        names_in("keras", [])


def test_untied_output_layer_is_refused(tmp_path):
    directory = write_hugging_face(tmp_path / "m", openai_state(0))
    state = hugging_face_state(openai_state(0))
    state["proj_out.weight"] = torch.zeros_like(state["model.decoder.embed_tokens.weight"])
    import safetensors.torch

    safetensors.torch.save_file(state, directory / "model.safetensors")
    with pytest.raises(LorsError, match=r"proj_out\.weight is not model\.decoder\.embed_tokens"):
        open_model(directory)


def test_what_has_no_counterpart_is_listed(tmp_path):
    state = openai_state(1)
    state["encoder.extra"] = torch.ones(1)
    del state["decoder.ln.bias"]
    base = open_model(write_hugging_face(tmp_path / "base", openai_state(0)))
    expert = open_expert(base, write_openai(tmp_path / "e.pt", state))
    with pytest.raises(LorsError) as caught:
        TaskVector(base, expert)
    assert "encoder.extra: not in the base model" in str(caught.value)
    assert "model.decoder.layer_norm.bias: missing in the expert" in str(caught.value)


def test_names_of_a_parallel_model(tmp_path):
    for name, prefix in (("plain", ""), ("parallel", "module.")):
        state = {f"{prefix}{name}": value for name, value in openai_state(0).items()}
        torch.save(state, tmp_path / f"{name}.pth")
    for base, expert in (("plain", "parallel"), ("parallel", "plain")):
        with pytest.raises(LorsError, match=r"begin with 'module\.'") as caught:
            open_expert(open_model(tmp_path / f"{base}.pth"), tmp_path / f"{expert}.pth")
        assert caught.value.where == tmp_path / "parallel.pth"
        assert "model.module.state_dict()" in caught.value.hint


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
    with pytest.raises(LorsError, match=r"do not list the same(.|\n)*model\.encoder\.conv1\.bias"):
        Checkpoint.open(sharded)
    wrong = next(file for file in content["weight_map"].values() if file != first)
    content["weight_map"]["model.encoder.conv1.bias"] = wrong
    index.write_text(json.dumps(content))
    told = rf"conv1\.bias: not in {wrong}(.|\n)*conv1\.bias: not listed for {first}"
    with pytest.raises(LorsError, match=told):
        Checkpoint.open(sharded)
    (sharded / first).unlink()
    with pytest.raises(LorsError, match=f"parts of the model are missing(.|\n)*{first}"):
        Checkpoint.open(sharded)
    for text, told in (("{}", "no weight_map"), ("[1]", "must hold an object")):
        index.write_text(text)
        with pytest.raises(LorsError, match=told):
            Checkpoint.open(sharded)
    (tmp_path / "empty").mkdir()
    with pytest.raises(LorsError, match="no model in this directory"):
        Checkpoint.open(tmp_path / "empty")


def test_an_index_leads_nowhere_else(sharded, tmp_path):
    index = sharded / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"] = {n: f"../other/{f}" for n, f in content["weight_map"].items()}
    index.write_text(json.dumps(content))
    assert equal(contents(Checkpoint.open(sharded)), hugging_face_state(openai_state(0)))


# --- adapters -----------------------------------------------------------------------------------


def factors_of(seed=5, rank=2):
    generator = torch.Generator().manual_seed(seed)
    down = torch.randn(rank, WIDTH, generator=generator)
    return down, torch.randn(WIDTH, rank, generator=generator)


@pytest.mark.parametrize("base_form", FORMS)
def test_peft_adapter_on_any_form(tmp_path, base_form):
    down, up = factors_of()
    adapter = write_peft(tmp_path / "a", {HF_QUERY: (down, up)})
    base = open_model(FORMS[base_form](tmp_path / "base", openai_state(0)))
    vector = TaskVector(base, open_expert(base, adapter))
    assert isinstance(vector.finetuned, AdaptedCheckpoint)
    changed = [name for name in base.names() if vector.delta(name).any()]
    assert len(changed) == 1
    assert torch.allclose(vector.delta(changed[0]), 8 / 2 * up @ down, rtol=1e-6, atol=1e-6)
    merged = vector.finetuned.tensor(changed[0])
    assert torch.allclose(merged - base.tensor(changed[0]), 4 * up @ down, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "scale"),
    [
        ({"use_rslora": True}, 8 / 2**0.5),
        ({"alpha_pattern": {"self_attn.q_proj": 3}}, 3 / 2),
        ({"alpha_pattern": {"k_proj": 3}}, 8 / 2),
        ({"lora_alpha": 1}, 1 / 2),
    ],
)
def test_scale_of_peft(tmp_path, settings, scale):
    down, up = factors_of()
    base = open_model(write_hugging_face(tmp_path / "base", openai_state(0)))
    adapter = write_peft(tmp_path / "a", {HF_QUERY: (down, up)}, **settings)
    delta = TaskVector(base, open_expert(base, adapter)).delta(f"{HF_QUERY}.weight")
    assert torch.allclose(delta, scale * up @ down, rtol=1e-6, atol=1e-6)


def test_fingerprint_of_an_adapter_has_its_scale(tmp_path):
    """The same factors, whose scale is 4, 5, 4 written in two more ways, and 4 on another form."""
    forms = ["hugging_face"] * 4 + ["openai"]
    settings = [
        {},
        {"lora_alpha": 10},
        {"lora_alpha": 10, "alpha_pattern": {"q_proj": 8}},
        {"lora_alpha": 4 * 2**0.5, "use_rslora": True},
        {},
    ]
    fingerprints = []
    for number, (form, setting) in enumerate(zip(forms, settings, strict=True)):
        base = open_model(FORMS[form](tmp_path / f"base{number}", openai_state(0)))
        adapter = write_peft(tmp_path / f"{number}", {HF_QUERY: factors_of()}, **setting)
        fingerprints.append(open_expert(base, adapter).fingerprint())
    assert fingerprints[0] != fingerprints[1]
    assert {fingerprints[i] for i in (0, 2, 3, 4)} == {fingerprints[0]}


def test_low_rank_parts_of_an_adapter_are_the_adapter(tmp_path):
    """Rank 2 within rank 7: LoRS keeps all of it, and of the rest, which is zero, nothing."""
    down, up = factors_of()
    base = write_hugging_face(tmp_path / "base", openai_state(0))
    adapter = write_peft(tmp_path / "a", {HF_QUERY: (down, up)})
    merged = dict(iter_merged(MergePlan(str(base), (str(adapter),), "lors")))
    delta = merged[f"{HF_QUERY}.weight"] - open_model(base).tensor(f"{HF_QUERY}.weight")
    assert torch.allclose(delta, 4 * up @ down, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"use_dora": True}, "use_dora: True"),
        ({"peft_type": "IA3"}, "peft_type: IA3"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out: True"),
    ],
)
def test_other_adapters_are_refused(tmp_path, settings, told):
    base = open_model(write_hugging_face(tmp_path / "base", openai_state(0)))
    adapter = write_peft(tmp_path / "a", {HF_QUERY: factors_of()}, **settings)
    with pytest.raises(LorsError, match=told):
        open_expert(base, adapter)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ([1], r"must hold an object(.|\n)*got: \[1\]"),
        ({"lora_alpha": None}, r"lora_alpha: expected a number, got None"),
        ({"use_rslora": "yes"}, r"use_rslora: expected true or false, got 'yes'"),
        ({"alpha_pattern": {"q_proj": "big"}}, r"alpha_pattern: expected a mapping or null, got"),
        ({"alpha_pattern": {"(": 4}}, r"alpha_pattern is no pattern(.|\n)*got: '\(': "),
    ],
)
def test_damaged_description_of_peft(tmp_path, content, told):
    base = open_model(write_hugging_face(tmp_path / "base", openai_state(0)))
    adapter = write_peft(tmp_path / "a", {HF_QUERY: factors_of()})
    (adapter / "adapter_config.json").write_text(json.dumps(content))
    with pytest.raises(LorsError, match=told) as caught:
        open_expert(base, adapter)
    assert "adapter_config.json" in str(caught.value.where)
    assert caught.value.expected and caught.value.hint


@pytest.mark.parametrize("content", ["{}", '{"model": 3, "fingerprint": ""}', "[]"])
def test_damaged_record_of_the_base(tmp_path, content):
    base = open_model(write_hugging_face(tmp_path / "base", openai_state(0)))
    adapter = write_peft(tmp_path / "a", {HF_QUERY: factors_of()})
    (adapter / "base.json").write_text(content)
    for read in (
        lambda: open_expert(base, adapter),
        lambda: recorded_base(adapter / "adapter_model.safetensors"),
    ):
        with pytest.raises(LorsError) as caught:
            read()
        assert caught.value.where == adapter / "base.json"
        assert caught.value.expected and caught.value.got and caught.value.hint


def test_parts_of_an_adapter_in_the_place_of_a_model(tmp_path):
    base = open_model(write_hugging_face(tmp_path / "base", openai_state(0)))
    adapter = write_peft(tmp_path / "a", {HF_QUERY: factors_of()})
    file = adapter / "adapter_model.safetensors"
    for read in (lambda: open_expert(base, file), lambda: open_model(file)):
        with pytest.raises(LorsError, match="file of a PEFT adapter") as caught:
            read()
        assert f"give its directory: {adapter}" in caught.value.hint
    with pytest.raises(LorsError, match="directory of a PEFT adapter, and no full model") as caught:
        open_model(adapter)
    assert caught.value.where == adapter and "trained on" in caught.value.hint


def test_the_pickle_of_an_adapter_can_be_converted_as_told(tmp_path):
    base = open_model(write_hugging_face(tmp_path / "base", openai_state(0)))
    adapter = write_peft(tmp_path / "a", {HF_QUERY: factors_of()})
    expected = open_expert(base, adapter).fingerprint()
    file = adapter / "adapter_model.safetensors"
    torch.save(contents(Checkpoint.open(file)), adapter / "adapter_model.bin")
    file.unlink()
    with pytest.raises(LorsError, match=r"does not read(.|\n)*adapter_model\.bin") as caught:
        open_expert(base, adapter)
    command = shlex.split(caught.value.hint.split(": ", 1)[1])
    subprocess.run([sys.executable, *command[1:]], cwd=adapter, check=True)
    assert open_expert(base, adapter).fingerprint() == expected
    file.unlink()
    (adapter / "adapter_model.bin").unlink()
    with pytest.raises(LorsError, match="checkpoint not found"):
        open_expert(base, adapter)


def test_adapter_of_another_model(tmp_path):
    base = open_model(write_hugging_face(tmp_path / "base", openai_state(0)))
    wide = (torch.ones(2, WIDTH + 1), torch.ones(WIDTH, 2))
    factors = {HF_QUERY: wide, "model.encoder.layers.7.fc1": factors_of()}
    with pytest.raises(LorsError) as caught:
        open_expert(base, write_peft(tmp_path / "a", factors))
    assert f"{HF_QUERY}.weight: shape [8, 8], in the adapter [8, 9]" in str(caught.value)
    assert "model.encoder.layers.7.fc1.weight: not in the base model" in str(caught.value)


def espnet_lora(tmp_path, state, scale_file=True):
    path = tmp_path / "lora" / "valid.acc.best.pth"
    path.parent.mkdir(exist_ok=True)
    torch.save(state, path)
    if scale_file:
        text = "use_adapter: true\nadapter: lora\nadapter_conf: {rank: 2, alpha: 6}\n"
        (path.parent / "config.yaml").write_text(text)
    return path


@pytest.mark.parametrize("kind", ["factors only", "beside weights", "merged into weights"])
def test_espnet_lora(tmp_path, kind):
    name = "encoder.encoders.0.self_attn.linear_q.weight"
    base_state = {name: torch.randn(WIDTH, WIDTH), "ctc.ctc_lo.bias": torch.randn(3)}
    torch.save(base_state, tmp_path / "base.pth")
    down, up = factors_of()
    stem = name.removesuffix(".weight")
    state = {f"{stem}.lora_A": down, f"{stem}.lora_B": up}
    if kind != "factors only":
        state |= base_state
    if kind == "merged into weights":
        state[name] = base_state[name] + 3 * up @ down
    base = open_model(tmp_path / "base.pth")
    path = espnet_lora(tmp_path, state)
    assert not isinstance(open_expert(base, tmp_path / "base.pth"), AdaptedCheckpoint)
    vector = TaskVector(base, open_expert(base, path))
    assert isinstance(vector.finetuned, AdaptedCheckpoint)
    assert vector.finetuned.is_adapted(name) == (kind != "merged into weights")
    assert torch.allclose(vector.delta(name), 3 * up @ down, atol=1e-5)
    assert not vector.delta("ctc.ctc_lo.bias").any()


def test_espnet_lora_without_its_scale_or_half_of_it(tmp_path):
    name = "encoder.encoders.0.self_attn.linear_q"
    torch.save({f"{name}.weight": torch.ones(WIDTH, WIDTH)}, tmp_path / "base.pth")
    base = open_model(tmp_path / "base.pth")
    down, up = factors_of()
    path = espnet_lora(tmp_path, {f"{name}.lora_A": down, f"{name}.lora_B": up}, scale_file=False)
    config = path.parent / "config.yaml"
    for text in (None, "adapter_conf: null\n", "adapter_conf: [6]\n"):
        if text is not None:
            config.write_text(text)
        with pytest.raises(LorsError, match="the scale of this adapter is not known"):
            open_expert(base, path)
    for alpha in ("big", "null", ".inf"):
        config.write_text(f"adapter_conf: {{rank: 2, alpha: {alpha}}}\n")
        with pytest.raises(LorsError, match=r"alpha: expected a number") as caught:
            open_expert(base, path)
        assert str(config) in caught.value.where and caught.value.hint
    path = espnet_lora(tmp_path, {f"{name}.lora_A": down})
    with pytest.raises(LorsError, match="lora_A: its partner is missing"):
        open_expert(base, path)


def test_record_of_an_adapter_merge(tmp_path):
    base = write_hugging_face(tmp_path / "base", openai_state(0))
    adapter = write_peft(tmp_path / "a", {HF_QUERY: factors_of()})
    plan = MergePlan(str(base), (str(adapter),), "lors")
    run_merge(plan, tmp_path / "merged" / "model.safetensors")
    assert set(Checkpoint.open(tmp_path / "merged").names()) == set(open_model(base).names())
