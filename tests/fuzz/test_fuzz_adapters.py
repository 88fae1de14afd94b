"""Adapters with damaged descriptions and weights: the right product, or a LorsError."""

import json
import time

import pytest
import safetensors.torch
import torch

from lors.checkpoint.expert import open_expert, open_model
from lors.checkpoint.reader import Checkpoint
from lors.errors import LorsError
from lors.merge.task_vector import TaskVector
from tests.fuzz.mutate import mutated_bytes, mutated_value, seeds
from tests.unit.whisper_files import WIDTH, openai_state, write_hugging_face

MODULES = ("encoder.layers.0.self_attn.q_proj", "decoder.layers.1.encoder_attn.v_proj")
EMBEDDING = "base_model.model.model.decoder.embed_tokens.weight"
CONFIG = {
    "peft_type": "LORA",
    "task_type": None,
    "base_model_name_or_path": "openai/whisper-small",
    "r": 2,
    "lora_alpha": 8,
    "lora_dropout": 0.1,
    "target_modules": ["q_proj", "v_proj"],
    "modules_to_save": None,
    "init_lora_weights": True,
    "use_rslora": False,
    "use_dora": False,
    "fan_in_fan_out": False,
    "bias": "none",
    "rank_pattern": {},
    "alpha_pattern": {},
    "layer_replication": None,
}
CHANGES = (
    *("cut rows", "cut columns", "transposed", "no rank", "vector", "partner", "infinite", "half"),
    *("other adapter", "base layer", "embedding", "bias", "magnitude", "unknown", "integers"),
)


def factors(rng):
    torch.manual_seed(rng.random())
    tensors = {}
    for module in MODULES:
        tensors[f"base_model.model.model.{module}.lora_A.weight"] = torch.randn(2, WIDTH)
        tensors[f"base_model.model.model.{module}.lora_B.weight"] = torch.randn(WIDTH, 2)
    return tensors


def mutated_tensors(rng, tensors):
    tensors = dict(tensors)
    name = rng.choice(list(tensors))
    value, change = tensors[name], rng.choice(CHANGES)
    stem = name.rsplit(".lora_", 1)[0]
    replaced = {
        "cut rows": lambda: value[1:],
        "cut columns": lambda: value[:, 1:],
        "transposed": lambda: value.T,
        "no rank": lambda: value[:0] if "lora_A" in name else value[:, :0],
        "vector": lambda: value[0],
        "infinite": lambda: value * rng.choice((float("inf"), float("nan"), 3e38)),
        "half": lambda: value.half(),
        "integers": lambda: value.int(),
    }
    added = {
        "other adapter": (name.replace(".weight", ".other.weight"), value),
        "base layer": (f"{stem}.base_layer.weight", torch.randn(WIDTH, WIDTH)),
        "embedding": (EMBEDDING, torch.randn(12, WIDTH)),
        "bias": (f"{stem}.base_layer.bias", torch.randn(WIDTH)),
        "magnitude": (f"{stem}.lora_magnitude_vector", torch.randn(WIDTH)),
        "unknown": (rng.choice(("", "x.weight", "é", f"{stem}.lora_C.weight")), value),
    }
    if change == "partner":
        del tensors[name]
    elif change in replaced:
        tensors[name] = replaced[change]()
    else:
        tensors[added[change][0]] = added[change][1].clone()
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def deltas_of(base, adapter):
    """Return the products of all adapted weights; None if the adapter is refused."""
    began = time.process_time()
    try:
        vector = TaskVector(base, open_expert(base, adapter))
        deltas = {name: vector.delta(name) for name in base.names()}
        return {name: deltas[name] for name in deltas if vector.finetuned.is_adapted(name)}
    except LorsError as error:
        assert len(str(error)) < 20_000
        return None
    finally:
        assert time.process_time() - began < 5


def expected(tensors, config):
    scale = config["lora_alpha"] / 2 ** (0.5 if config.get("use_rslora") else 1)
    products = {}
    for module in MODULES:
        down, up = (tensors[f"base_model.model.model.{module}.lora_{x}.weight"] for x in "AB")
        products[f"model.{module}.weight"] = scale * (up.float() @ down.float())
    return products


def agree(one, other):
    return one.keys() == other.keys() and all(
        torch.allclose(one[name], other[name], rtol=1e-3, atol=1e-3, equal_nan=True) for name in one
    )


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return open_model(write_hugging_face(tmp_path_factory.mktemp("base") / "b", openai_state(0)))


def test_damaged_adapters(base, folder, request):
    config_file, model_file = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    outcomes = {"read": 0, "refused": 0}
    for rng in seeds(request, 400):
        tensors, config = factors(rng), CONFIG
        part = rng.choice(("config", "config text", "tensors", "file", "both", "none"))
        if part in ("config", "both"):
            config = mutated_value(rng, CONFIG)
        if part in ("tensors", "both"):
            tensors = mutated_tensors(rng, tensors)
        text = json.dumps(config).encode()
        config_file.write_bytes(mutated_bytes(rng, text) if part == "config text" else text)
        content = safetensors.torch.save(tensors)
        model_file.write_bytes(mutated_bytes(rng, content) if part == "file" else content)
        found = deltas_of(base, folder)
        outcomes["refused" if found is None else "read"] += 1
        if part == "none":
            assert found is not None
        if found is not None and part == "config" and not config.get("alpha_pattern"):
            assert agree(found, expected(tensors, {"lora_alpha": 8, **config}))
        if found is not None and part == "tensors":
            assert agree(found, expected(tensors, config))
    assert min(outcomes.values()) > 50


def test_damaged_checkpoints_of_espnet(folder, request):
    name = "encoder.encoders.0.self_attn.linear_q"
    torch.save({f"{name}.weight": torch.ones(WIDTH, WIDTH)}, folder / "base.pth")
    (folder / "lora").mkdir()
    base, path = open_model(folder / "base.pth"), folder / "lora" / "model.pth"
    text = b"adapter: lora\nadapter_conf: {rank: 2, alpha: 6}\n"
    outcomes = {"read": 0, "refused": 0}
    for rng in seeds(request, 200):
        torch.manual_seed(rng.random())
        down, up = torch.randn(2, WIDTH), torch.randn(WIDTH, 2)
        torch.save({f"{name}.lora_A": down, f"{name}.lora_B": up}, path)
        whole = rng.random() < 0.2
        if rng.random() < 0.5 and not whole:
            path.write_bytes(mutated_bytes(rng, path.read_bytes()))
        changed = text if whole else mutated_bytes(rng, text)
        (folder / "lora" / "config.yaml").write_bytes(changed)
        found = deltas_of(base, path)
        outcomes["refused" if found is None else "read"] += 1
        if whole:
            assert torch.allclose(found[f"{name}.weight"], 3 * up @ down, atol=1e-4)
    assert min(outcomes.values()) > 20


def test_damaged_indexes_of_shards(folder, request):
    directory = write_hugging_face(folder / "m", openai_state(0), shards=3)
    index = directory / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    fingerprint = Checkpoint.open(directory).fingerprint()
    for rng in seeds(request, 200):
        text = json.dumps(mutated_value(rng, content)).encode()
        index.write_bytes(mutated_bytes(rng, text) if rng.random() < 0.5 else text)
        try:
            found = Checkpoint.open(directory).fingerprint()
        except LorsError as error:
            assert str(directory) in str(error)
        else:
            assert found == fingerprint
