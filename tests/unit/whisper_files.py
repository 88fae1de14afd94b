"""A tiny Whisper in all forms: of OpenAI, Hugging Face, ESPnet and CTranslate2."""

from __future__ import annotations

import json
from pathlib import Path

import safetensors.torch
import torch

from tests.unit.ctranslate2_files import write_ctranslate2

WIDTH, MELS, VOCABULARY, CONTEXT = 8, 4, 12, 6


def openai_state(seed: int = 0, layers: int = 2) -> dict[str, torch.Tensor]:
    """Names and shapes as in OpenAI's files, in their order."""
    generator = torch.Generator().manual_seed(seed)

    def new(*shape):
        return torch.randn(*shape, generator=generator)

    def attention(prefix):
        yield f"{prefix}.query.weight", new(WIDTH, WIDTH)
        yield f"{prefix}.query.bias", new(WIDTH)
        yield f"{prefix}.key.weight", new(WIDTH, WIDTH)
        yield f"{prefix}.value.weight", new(WIDTH, WIDTH)
        yield f"{prefix}.value.bias", new(WIDTH)
        yield f"{prefix}.out.weight", new(WIDTH, WIDTH)
        yield f"{prefix}.out.bias", new(WIDTH)

    def norm(prefix):
        yield f"{prefix}.weight", new(WIDTH)
        yield f"{prefix}.bias", new(WIDTH)

    def block(prefix, cross):
        yield from attention(f"{prefix}.attn")
        yield from norm(f"{prefix}.attn_ln")
        if cross:
            yield from attention(f"{prefix}.cross_attn")
            yield from norm(f"{prefix}.cross_attn_ln")
        yield f"{prefix}.mlp.0.weight", new(4 * WIDTH, WIDTH)
        yield f"{prefix}.mlp.0.bias", new(4 * WIDTH)
        yield f"{prefix}.mlp.2.weight", new(WIDTH, 4 * WIDTH)
        yield f"{prefix}.mlp.2.bias", new(WIDTH)
        yield from norm(f"{prefix}.mlp_ln")

    state = {
        "encoder.positional_embedding": torch.ones(CONTEXT, WIDTH),
        "encoder.conv1.weight": new(WIDTH, MELS, 3),
        "encoder.conv1.bias": new(WIDTH),
        "encoder.conv2.weight": new(WIDTH, WIDTH, 3),
        "encoder.conv2.bias": new(WIDTH),
    }
    for layer in range(layers):
        state.update(block(f"encoder.blocks.{layer}", cross=False))
    state.update(norm("encoder.ln_post"))
    state["decoder.positional_embedding"] = new(CONTEXT, WIDTH)
    state["decoder.token_embedding.weight"] = new(VOCABULARY, WIDTH)
    for layer in range(layers):
        state.update(block(f"decoder.blocks.{layer}", cross=True))
    state.update(norm("decoder.ln"))
    return state


# Independent of lors/checkpoint/names, which is checked against it.
HUGGING_FACE = [
    ("encoder.positional_embedding", "model.encoder.embed_positions.weight"),
    ("decoder.positional_embedding", "model.decoder.embed_positions.weight"),
    ("decoder.token_embedding", "model.decoder.embed_tokens"),
    ("encoder.ln_post", "model.encoder.layer_norm"),
    ("decoder.ln.", "model.decoder.layer_norm."),
    ("encoder.conv", "model.encoder.conv"),
    ("encoder.blocks", "model.encoder.layers"),
    ("decoder.blocks", "model.decoder.layers"),
    (".cross_attn_ln.", ".encoder_attn_layer_norm."),
    (".attn_ln.", ".self_attn_layer_norm."),
    (".mlp_ln.", ".final_layer_norm."),
    (".cross_attn.", ".encoder_attn."),
    (".attn.", ".self_attn."),
    (".query.", ".q_proj."),
    (".key.", ".k_proj."),
    (".value.", ".v_proj."),
    ("_attn.out.", "_attn.out_proj."),
    (".mlp.0.", ".fc1."),
    (".mlp.2.", ".fc2."),
]


def hugging_face_state(state):
    """The same model under Hugging Face's names."""
    renamed = {}
    for name, value in state.items():
        for old, new in HUGGING_FACE:
            name = name.replace(old, new)
        renamed[name] = value
    return renamed


def espnet_state(state):
    """The same model under ESPnet's names."""
    return {
        ("encoder.encoders." if name.startswith("encoder.") else "decoder.decoders.")
        + name.split(".", 1)[1]: value
        for name, value in state.items()
    }


DIMS = {
    "n_mels": MELS,
    "n_audio_ctx": CONTEXT,
    "n_audio_state": WIDTH,
    "n_audio_head": 2,
    "n_audio_layer": 2,
    "n_vocab": VOCABULARY,
    "n_text_ctx": CONTEXT,
    "n_text_state": WIDTH,
    "n_text_head": 2,
    "n_text_layer": 2,
}


def write_openai(path: Path, state) -> Path:
    torch.save({"dims": DIMS, "model_state_dict": state}, path)
    return path


def write_espnet(path: Path, state) -> Path:
    torch.save(espnet_state(state), path)
    return path


def write_hugging_face(directory: Path, state, shards: int = 1, tied: bool = False) -> Path:
    """Write a directory as ``save_pretrained`` does: one file, or several with an index."""
    directory.mkdir(parents=True)
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    (directory / "config.json").write_text(json.dumps({"model_type": "whisper", **heads}))
    state = hugging_face_state(state)
    if tied:
        state["proj_out.weight"] = state["model.decoder.embed_tokens.weight"].clone()
    if shards == 1:
        safetensors.torch.save_file(state, directory / "model.safetensors", {"format": "pt"})
        return directory
    names = list(state)
    index = {}
    for number in range(shards):
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        part = names[number::shards]
        safetensors.torch.save_file({n: state[n] for n in part}, directory / file, {"format": "pt"})
        index.update(dict.fromkeys(part, file))
    total = sum(value.numel() * 4 for value in state.values())
    content = {"metadata": {"total_size": total}, "weight_map": index}
    (directory / "model.safetensors.index.json").write_text(json.dumps(content))
    return directory


def write_peft(directory: Path, factors, **settings) -> Path:
    """Write a LoRA adapter of PEFT with the factors module -> (A, B)."""
    directory.mkdir(parents=True)
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 8, "use_rslora": False, "use_dora": False}
    (directory / "adapter_config.json").write_text(json.dumps({**config, **settings}))
    tensors = {}
    for module, (down, up) in factors.items():
        tensors[f"base_model.model.{module}.lora_A.weight"] = down
        tensors[f"base_model.model.{module}.lora_B.weight"] = up
    safetensors.torch.save_file(tensors, directory / "adapter_model.safetensors")
    return directory


FORMS = {
    "openai": lambda place, state: write_openai(place.with_suffix(".pt"), state),
    "espnet": lambda place, state: write_espnet(place.with_suffix(".pth"), state),
    "hugging_face": write_hugging_face,
    "tied": lambda place, state: write_hugging_face(place, state, tied=True),
    "sharded": lambda place, state: write_hugging_face(place, state, shards=3, tied=True),
    "ctranslate2": write_ctranslate2,
}
"""Form of a Whisper model -> function that writes a state dict with OpenAI's names in it."""
