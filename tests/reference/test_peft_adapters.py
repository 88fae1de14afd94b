"""Adapters of PEFT: read as PEFT's own merge_and_unload() merges them, or refused."""

import json
import warnings

import pytest
import torch

from lors.checkpoint.expert import open_expert, open_model
from lors.errors import LorsError
from tests.refusal import refusal

TARGETS = ["q_proj", "fc1"]
QUERY = "model.encoder.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def base(small_whisper, tmp_path_factory):
    """The directory of a small Whisper of Hugging Face."""
    path = tmp_path_factory.mktemp("base") / "whisper"
    small_whisper.save_pretrained(path)
    return path


def train(peft, base, out, prepare=None, **settings):
    """Save an adapter with trained weights; return PEFT's model."""
    from transformers import WhisperForConditionalGeneration

    model = WhisperForConditionalGeneration.from_pretrained(base)
    if prepare:
        prepare(model)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": TARGETS, **settings}
    with warnings.catch_warnings(action="ignore"):
        model = peft.get_peft_model(model, peft.LoraConfig(**settings))
        generator = torch.Generator().manual_seed(1)
        for parameter in model.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.data += 0.1 * noise
        model.save_pretrained(out)
    return model


def assert_read_as(base, adapter, merged):
    opened = open_model(base)
    expert = open_expert(opened, adapter)
    for name in expert.names():
        assert torch.allclose(expert.tensor(name), merged[name], atol=1e-6), name
    assert any(not torch.equal(merged[name], opened.tensor(name)) for name in expert.names())


HARMLESS = {
    "default": {},
    "random factors": {"init_lora_weights": False},
    "gaussian": {"init_lora_weights": "gaussian"},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "mica": {"init_lora_weights": "mica"},
    "rank-stabilised": {"use_rslora": True},
    "patterns": {
        "rank_pattern": {"fc1": 2, "^model.encoder.layers.0.self_attn.q_proj": 3},
        "alpha_pattern": {r"decoder\.layers\.[01]\.fc1": 3, "^model.encoder.*q_proj": 5, "fc1": 7},
    },
    "patterns, rank-stabilised": {"rank_pattern": {"fc1": 2}, "use_rslora": True},
    "some layers": {"layers_to_transform": [1], "layers_pattern": "layers"},
    "excluded layers": {"exclude_modules": r".*decoder.*"},
    "rank above the width": {"r": 40},
    "trained biases": {"bias": "all"},
    "biases of the layers": {"bias": "lora_only"},
    "trained layer norms": {"modules_to_save": ["layer_norm"]},
    "tied embedding": {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    "loftq without its initialisation": {"loftq_config": {"loftq_bits": 4}},
}


@pytest.mark.parametrize("case", HARMLESS)
def test_merged_as_peft_merges(peft, base, tmp_path, case):
    merged = train(peft, base, tmp_path / "a", **HARMLESS[case]).merge_and_unload().state_dict()
    assert_read_as(base, tmp_path / "a", merged)


def lora_ga(peft):
    def prepare(model):
        for module in model.modules():
            if isinstance(module, torch.nn.Linear):
                module._peft_loraga_grad = torch.randn(module.weight.shape)

    config = {"init_lora_weights": "lora_ga", "lora_ga_config": peft.LoraGAConfig()}
    return {**config, "prepare": prepare}


REFUSED = {
    "pissa": lambda _: {"init_lora_weights": "pissa"},
    "pissa_niter_4": lambda _: {"init_lora_weights": "pissa_niter_4"},
    "olora": lambda _: {"init_lora_weights": "olora"},
    "lora_ga": lora_ga,
    "use_dora": lambda _: {"use_dora": True},
    "lora_bias": lambda _: {"lora_bias": True},
    "kasa_config": lambda peft: {"kasa_config": peft.KasaConfig()},
    "alora_invocation_tokens": lambda _: {
        "alora_invocation_tokens": [3], "task_type": "CAUSAL_LM"
    },
    "trainable_token_indices": lambda _: {"trainable_token_indices": {"embed_tokens": [3, 4]}},
    "embed_tokens": lambda _: {"modules_to_save": ["embed_tokens"]},
    "proj_out": lambda _: {"target_modules": ["proj_out"]},
    "lora_embedding": lambda _: {"target_modules": ["embed_tokens"]},
    "conv1": lambda _: {"target_modules": ["conv1"]},
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_other_adapters_are_refused(peft, base, tmp_path, case):
    train(peft, base, tmp_path / "a", **REFUSED[case](peft))
    with refusal(tmp_path / "a", case) as caught:
        open_expert(open_model(base), tmp_path / "a")
    assert "merge_and_unload()" in caught.value.hint


SETTINGS_OF_TRAINING = """
    auto_mapping base_model_name_or_path bias corda_config ensure_weight_tying eva_config
    exclude_modules inference_mode init_lora_weights layers_pattern layers_to_transform loftq_config
    lora_dropout lora_ga_config megatron_core modules_to_save peft_version qalora_group_size
    revision target_modules task_type use_rslora
"""


def test_other_values_of_every_setting(peft, base, tmp_path):
    """Entries that a later version of PEFT adds are refused as long as LoRS does not know them."""
    train(peft, base, tmp_path / "a")
    file = tmp_path / "a" / "adapter_config.json"
    config, opened = json.loads(file.read_text()), open_model(base)
    accepted = set()
    for key, value in [*config.items(), ("unknown", False)]:
        file.write_text(json.dumps({**config, key: not value if value in (True, False) else "x"}))
        try:
            open_expert(opened, tmp_path / "a")
            accepted.add(key)
        except LorsError as error:
            assert key in str(error)
    assert accepted == set(SETTINGS_OF_TRAINING.split())
