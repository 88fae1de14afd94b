"""Low-rank adapters as experts: those of PEFT and of ESPnet."""

import json

import pytest
import safetensors.torch
import torch

from lors.checkpoint.adapter import AdaptedCheckpoint
from lors.checkpoint.adapter_base import record_base, recorded_base
from lors.checkpoint.expert import open_expert, open_model
from lors.checkpoint.reader import Checkpoint
from lors.merge.run import MergePlan, iter_merged, run_merge
from lors.merge.task_vector import TaskVector
from tests.refusal import refusal
from tests.unit.whisper_files import (
    FORMS,
    WIDTH,
    openai_state,
    write_hugging_face,
    write_openai,
    write_peft,
)

HF_QUERY = "model.encoder.layers.1.self_attn.q_proj"


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
    """The same factors with scales 4 and 5, 4 from other settings, and 4 on another base form."""
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
    """An adapter of rank 2 is kept whole at rank 7, and its sparse part is zero."""
    down, up = factors_of()
    base = write_hugging_face(tmp_path / "base", openai_state(0))
    adapter = write_peft(tmp_path / "a", {HF_QUERY: (down, up)})
    merged = dict(iter_merged(MergePlan(str(base), (str(adapter),), "lors")))
    delta = merged[f"{HF_QUERY}.weight"] - open_model(base).tensor(f"{HF_QUERY}.weight")
    assert torch.allclose(delta, 4 * up @ down, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "fact"),
    [
        ({"use_dora": True}, "use_dora: True"),
        ({"peft_type": "IA3"}, "peft_type: IA3"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out: True"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights: pissa"),
        ({"init_lora_weights": "corda"}, "init_lora_weights: corda"),
        ({"init_lora_weights": "loftq"}, "init_lora_weights: loftq"),
        ({"init_lora_weights": 1}, "init_lora_weights: 1"),
        ({"of_a_later_version": {"a": 1}}, "of_a_later_version: {'a': 1}"),
    ],
)
def test_other_adapters_are_refused(tmp_path, settings, fact):
    base = open_model(write_hugging_face(tmp_path / "base", openai_state(0)))
    adapter = write_peft(tmp_path / "a", {HF_QUERY: factors_of()}, **settings)
    with refusal(adapter / "adapter_config.json", fact, "merge_and_unload()"):
        open_expert(base, adapter)


def test_entries_that_are_switched_off(tmp_path):
    base = open_model(write_hugging_face(tmp_path / "base", openai_state(0)))
    off = {"a": None, "b": False, "c": {}, "d": [], "r": 2, "init_lora_weights": "gaussian"}
    adapter = write_peft(tmp_path / "a", {HF_QUERY: factors_of()}, **off)
    assert open_expert(base, adapter).is_adapted(f"{HF_QUERY}.weight")


@pytest.mark.parametrize("settings", [{"r": 3}, {"r": 2, "rank_pattern": {"q_proj": 3}}])
def test_rank_of_the_description_is_that_of_the_factors(tmp_path, settings):
    base = open_model(write_hugging_face(tmp_path / "base", openai_state(0)))
    adapter = write_peft(tmp_path / "a", {HF_QUERY: factors_of()}, **settings)
    with refusal("adapter_config.json", "self_attn.q_proj", "rank 3", "rank 2"):
        open_expert(base, adapter)
    fitting = {"r": 3, "rank_pattern": {"self_attn.q_proj": 2}}
    adapter = write_peft(tmp_path / "b", {HF_QUERY: factors_of()}, **fitting)
    assert open_expert(base, adapter).is_adapted(f"{HF_QUERY}.weight")


def add_tensor(adapter, name, tensor):
    file = adapter / "adapter_model.safetensors"
    safetensors.torch.save_file({**safetensors.torch.load_file(file), name: tensor}, file)


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("decoder.embed_tokens.weight", ["decoder.embed_tokens.weight", "base/model.safetensors"]),
        ("encoder.layers.1.self_attn.q_proj.base_layer.weight", [HF_QUERY, "base/model"]),
        (
            "encoder.layers.1.self_attn.q_proj.lora_A.other.weight",
            ["1.self_attn.q_proj.lora_A"],
        ),
        ("encoder.conv1.lora_A.weight", ["encoder.conv1.lora_A.weight"]),
    ],
)
def test_tensors_that_make_an_adapter_more_than_its_factors(tmp_path, name, facts):
    base = open_model(write_hugging_face(tmp_path / "base", openai_state(0)))
    adapter = write_peft(tmp_path / "a", {HF_QUERY: factors_of()})
    kept = f"model.{name}".replace(".base_layer", "")
    shape = base.shape(kept) if kept in base.names() else (2, WIDTH)
    shape = (4, WIDTH, 3) if "conv1" in name else shape
    add_tensor(adapter, f"base_model.model.model.{name}", torch.ones(shape))
    with refusal(adapter / "adapter_config.json", *facts, "merge_and_unload()"):
        open_expert(base, adapter)


def test_weights_of_the_base_model_in_an_adapter(tmp_path):
    base = open_model(write_hugging_face(tmp_path / "base", openai_state(0)))
    down, up = factors_of()
    adapter = write_peft(tmp_path / "a", {HF_QUERY: (down, up)})
    prefix, embedding = "base_model.model.", "model.decoder.embed_tokens.weight"
    weight = base.tensor(f"{HF_QUERY}.weight")
    add_tensor(adapter, f"{prefix}{HF_QUERY}.base_layer.weight", weight)
    add_tensor(adapter, f"{prefix}{embedding}", base.tensor(embedding))
    vector = TaskVector(base, open_expert(base, adapter))
    assert torch.allclose(vector.delta(f"{HF_QUERY}.weight"), 4 * up @ down, atol=1e-5)
    assert not vector.delta(embedding).any()
    add_tensor(adapter, f"{prefix}{HF_QUERY}.base_layer.weight", weight[:4])
    with refusal(adapter, f"{HF_QUERY}.weight", "[8, 8]", "[4, 8]"):
        open_expert(base, adapter)


@pytest.mark.parametrize("tied", [True, False])
def test_a_trained_embedding_and_its_output_layer(tmp_path, tied):
    base = open_model(write_hugging_face(tmp_path / "base", openai_state(0)))
    adapter = write_peft(tmp_path / "a", {HF_QUERY: factors_of()}, ensure_weight_tying=True)
    embedding = "model.decoder.embed_tokens.weight"
    trained = base.tensor(embedding) + 1
    add_tensor(adapter, f"base_model.model.{embedding}", trained)
    add_tensor(
        adapter, "base_model.model.proj_out.weight", trained.clone() if tied else trained + 1
    )
    if tied:
        assert torch.equal(open_expert(base, adapter).tensor(embedding), trained)
    else:
        with refusal(adapter / "adapter_config.json", "proj_out.weight", embedding):
            open_expert(base, adapter)


def test_factors_without_a_rank(tmp_path):
    base = open_model(write_hugging_face(tmp_path / "base", openai_state(0)))
    empty = (torch.zeros(0, WIDTH), torch.zeros(WIDTH, 0))
    with refusal(tmp_path / "a", HF_QUERY, "[8, 0]", "[0, 8]"):
        open_expert(base, write_peft(tmp_path / "a", {HF_QUERY: empty}))


def test_a_scale_that_is_too_large(tmp_path):
    base = open_model(write_hugging_face(tmp_path / "base", openai_state(0)))
    adapter = write_peft(tmp_path / "a", {HF_QUERY: factors_of()}, lora_alpha=3e38)
    with refusal(adapter / "adapter_config.json", f"{HF_QUERY}.weight", "1.5e+38"):
        open_expert(base, adapter).factors(f"{HF_QUERY}.weight")


def test_patterns_that_would_take_years(tmp_path):
    base = open_model(write_hugging_face(tmp_path / "base", openai_state(0)))
    patterns = {"(([a-z_.0-9]+)+)+!": 3}
    adapter = write_peft(tmp_path / "a", {HF_QUERY: factors_of()}, alpha_pattern=patterns)
    with refusal(adapter / "adapter_config.json", *patterns) as caught:
        open_expert(base, adapter)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("content", "facts"),
    [
        ([1], ["[1]"]),
        ({"lora_alpha": None}, ["lora_alpha", "a number", "None"]),
        ({"lora_alpha": 1e308}, ["lora_alpha", "a number", "1e+308"]),
        ({"use_rslora": "yes"}, ["use_rslora", "true or false", "'yes'"]),
        ({"alpha_pattern": {"q_proj": "big"}}, ["alpha_pattern", "'big'"]),
        ({"alpha_pattern": {"(": 4}}, ["alpha_pattern", "'('"]),
    ],
)
def test_damaged_description_of_peft(tmp_path, content, facts):
    base = open_model(write_hugging_face(tmp_path / "base", openai_state(0)))
    adapter = write_peft(tmp_path / "a", {HF_QUERY: factors_of()})
    (adapter / "adapter_config.json").write_text(json.dumps(content))
    with refusal(adapter / "adapter_config.json", *facts) as caught:
        open_expert(base, adapter)
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
        with refusal() as caught:
            read()
        assert caught.value.where == adapter / "base.json"
        assert caught.value.expected and caught.value.got and caught.value.hint


def test_an_adapter_instead_of_a_model(tmp_path):
    base = open_model(write_hugging_face(tmp_path / "base", openai_state(0)))
    adapter = write_peft(tmp_path / "a", {HF_QUERY: factors_of()})
    file = adapter / "adapter_model.safetensors"
    for read in (lambda: open_expert(base, file), lambda: open_model(file)):
        with refusal(file, "adapter_config.json") as caught:
            read()
        assert str(adapter) in caught.value.hint
    with refusal(adapter, "PEFT", "model.safetensors") as caught:
        open_model(adapter)
    assert caught.value.where == adapter and caught.value.hint


def test_a_pickled_adapter(tmp_path):
    base = open_model(write_hugging_face(tmp_path / "base", openai_state(0)))
    adapter = write_peft(tmp_path / "a", {HF_QUERY: factors_of()})
    expected = open_expert(base, adapter).fingerprint()
    file = adapter / "adapter_model.safetensors"
    tensors = Checkpoint.open(file)
    state = {name: tensors.tensor(name) for name in tensors.names()}
    torch.save(state, adapter / "adapter_model.bin")
    file.unlink()
    assert open_expert(base, adapter).fingerprint() == expected
    (adapter / "adapter_model.bin").unlink()
    with refusal(file):
        open_expert(base, adapter)


def test_adapter_without_a_record_of_its_base(tmp_path, caplog):
    base = write_openai(tmp_path / "base.pt", openai_state(0))
    adapter = write_peft(tmp_path / "adapter", {HF_QUERY: factors_of()})
    open_expert(open_model(base), adapter)
    assert str(adapter) in caplog.text and "base.json" in caplog.text and str(base) in caplog.text
    named = write_peft(tmp_path / "b", {HF_QUERY: factors_of()}, base_model_name_or_path="me/v2")
    caplog.clear()
    open_expert(open_model(base), named)
    assert str(named) in caplog.text and "me/v2" in caplog.text and str(base) in caplog.text


def test_adapter_of_another_model(tmp_path):
    base = open_model(write_hugging_face(tmp_path / "base", openai_state(0)))
    wide = (torch.ones(2, WIDTH + 1), torch.ones(WIDTH, 2))
    factors = {HF_QUERY: wide, "model.encoder.layers.7.fc1": factors_of()}
    with refusal(tmp_path / "a") as caught:
        open_expert(base, write_peft(tmp_path / "a", factors))
    wide, missing = caught.value.got
    assert f"{HF_QUERY}.weight" in wide and "[8, 8]" in wide and "[8, 9]" in wide
    assert "model.encoder.layers.7.fc1.weight" in missing


def test_adapter_with_a_record_of_another_model(tmp_path):
    base, other = (
        open_model(write_openai(tmp_path / f"{seed}.pt", openai_state(seed))) for seed in (0, 1)
    )
    adapter = write_peft(tmp_path / "a", {HF_QUERY: factors_of()})
    record_base(base, adapter)
    assert recorded_base(adapter / "adapter_model.safetensors") == base.path
    assert isinstance(open_expert(base, adapter), AdaptedCheckpoint)
    with refusal(adapter, other.path, "../0.pt"):
        open_expert(other, adapter)
    base.path.unlink()
    with refusal(base.path):
        recorded_base(adapter / "adapter_model.safetensors")


def test_base_of_an_adapter_in_another_form(tmp_path):
    adapter = write_peft(tmp_path / "a", {HF_QUERY: factors_of()})
    record_base(open_model(write_openai(tmp_path / "base.pt", openai_state(0))), adapter)
    for form, write in FORMS.items():
        base = open_model(write(tmp_path / form, openai_state(0)))
        assert isinstance(open_expert(base, adapter), AdaptedCheckpoint)


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
        with refusal(config, "adapter_conf", "alpha"):
            open_expert(base, path)
    for alpha in ("big", "null", ".inf"):
        config.write_text(f"adapter_conf: {{rank: 2, alpha: {alpha}}}\n")
        with refusal(config, "alpha", "a number") as caught:
            open_expert(base, path)
        assert caught.value.hint
    path = espnet_lora(tmp_path, {f"{name}.lora_A": down})
    with refusal(path, f"{name}.lora_A"):
        open_expert(base, path)


def test_record_of_an_adapter_merge(tmp_path):
    base = write_hugging_face(tmp_path / "base", openai_state(0))
    adapter = write_peft(tmp_path / "a", {HF_QUERY: factors_of()})
    plan = MergePlan(str(base), (str(adapter),), "lors")
    run_merge(plan, tmp_path / "merged" / "model.safetensors")
    assert set(Checkpoint.open(tmp_path / "merged").names()) == set(open_model(base).names())
