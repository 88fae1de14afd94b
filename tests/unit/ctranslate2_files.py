"""A Whisper as a directory of CTranslate2, written without the package.

Independent of lors/checkpoint/ctranslate2_*.py; tests/reference/test_ctranslate2_converter.py
compares both with the converter of CTranslate2.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

import torch

DTYPES = [torch.float32, torch.int8, torch.int16, torch.int32, torch.float16, torch.bfloat16]
NAMES = [
    ("encoder.positional_embedding", "encoder/position_encodings/encodings"),
    ("decoder.positional_embedding", "decoder/position_encodings/encodings"),
    ("decoder.token_embedding", "decoder/embeddings"),
    ("ln_post", "layer_norm"),
    ("decoder.ln.", "decoder.layer_norm."),
    (".blocks.", "/layer_"),
    (".cross_attn_ln.", ".attention.layer_norm."),
    (".attn_ln.", ".self_attention.layer_norm."),
    (".mlp_ln.", ".ffn.layer_norm."),
    (".cross_attn.out", ".attention.linear_2"),
    (".cross_attn.query", ".attention.linear_0"),
    (".attn.out", ".self_attention.linear_1"),
    (".mlp.0", ".ffn.linear_0"),
    (".mlp.2", ".ffn.linear_1"),
    ("layer_norm.weight", "layer_norm.gamma"),
    ("layer_norm.bias", "layer_norm.beta"),
    (".", "/"),
]
"""Parts of OpenAI's names -> parts of CTranslate2's, in this order."""
STACKS = {
    "attn": ("self_attention.linear_0", ("query", "key", "value")),
    "cross_attn": ("attention.linear_1", ("key", "value")),
}
SETTINGS = {
    "decoder/activation": torch.tensor(3, dtype=torch.int8),
    "decoder/alibi": torch.tensor(0, dtype=torch.int8),
    "decoder/alignment_heads": torch.tensor(1, dtype=torch.int16),
    "decoder/alignment_layer": torch.tensor(-1, dtype=torch.int16),
    "decoder/num_heads": torch.tensor(2, dtype=torch.int16),
    "decoder/pre_norm": torch.tensor(1, dtype=torch.int8),
    "decoder/scale_embeddings": torch.tensor(0, dtype=torch.int8),
    "encoder/num_heads": torch.tensor(2, dtype=torch.int16),
}
PROJECTION = ("decoder/projection/weight", "decoder/embeddings/weight")


def variables_of(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return CTranslate2's variables of a state dict with OpenAI's names."""
    state = dict(state)
    found = {}
    blocks = sorted({name.split(".attn.")[0] for name in state if ".attn." in name})
    for block in blocks:
        for attention, (stack, parts) in STACKS.items():
            prefix = f"{block}.{attention}"
            if f"{prefix}.key.weight" not in state:
                continue
            key = state[f"{prefix}.key.weight"]
            state[f"{prefix}.key.bias"] = torch.zeros(len(key), dtype=key.dtype)
            for kind in ("weight", "bias"):
                values = [state.pop(f"{prefix}.{part}.{kind}") for part in parts]
                found[_theirs(f"{block}.{stack}.{kind}")] = torch.cat(values)
    found |= {_theirs(name): value for name, value in state.items()}
    return dict(sorted((found | SETTINGS).items()))


def _theirs(name: str) -> str:
    for ours, theirs in NAMES:
        name = name.replace(ours, theirs)
    return name


def quantised(variables: dict[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Round all weights to int8, with a scale for each row, or to int16, with one scale."""
    found = {}
    for name, value in variables.items():
        if not name.endswith("/weight"):
            found[name] = value
            continue
        rows = value.float().flatten(1).abs()
        # A tensor over a tensor, since torch makes of a number over a tensor two operations.
        steps, largest = (127, rows.amax(1)) if dtype == torch.int8 else (1024, rows.amax())
        scale = torch.tensor(float(steps)) / largest
        scales = scale.reshape(-1, *[1] * (value.ndim - 1)) if scale.ndim else scale
        found[name] = (value.float() * scales).round().to(dtype)
        found[f"{name}_scale"] = scale
    return found


def entry(name: str, value: torch.Tensor) -> bytes:
    """Return a variable as bytes."""
    content = value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    shape = struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape)
    return (
        text(name) + shape + struct.pack("<BI", DTYPES.index(value.dtype), len(content)) + content
    )


def text(name: str) -> bytes:
    return struct.pack("<H", len(name) + 1) + name.encode() + b"\0"


def model_bin(
    variables: dict[str, torch.Tensor],
    aliases: tuple[tuple[str, str], ...] = (PROJECTION,),
    version: int = 6,
    spec: str = "WhisperSpec",
    revision: int = 3,
) -> bytes:
    """Return the content of a model.bin."""
    head = struct.pack("<I", version) + text(spec) + struct.pack("<II", revision, len(variables))
    entries = b"".join(entry(name, value) for name, value in variables.items())
    names = b"".join(text(alias) + text(name) for alias, name in aliases)
    return head + entries + struct.pack("<I", len(aliases)) + names


def write_model_bin(directory: Path, *args, **options) -> Path:
    """Write a directory with a model.bin; the arguments are those of :func:`model_bin`."""
    directory.mkdir(parents=True)
    (directory / "model.bin").write_bytes(model_bin(*args, **options))
    # The converter of CTranslate2 writes no numbers of heads here.
    config = {"alignment_heads": [[1, 0]], "lang_ids": [50259], "suppress_ids": []}
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def write_ctranslate2(
    directory: Path, state: dict[str, torch.Tensor], dtype: torch.dtype | None = None
) -> Path:
    """Write a Whisper with OpenAI's names as a directory of CTranslate2.

    Args:
        dtype: dtype of all weights; by default unchanged.
    """
    if dtype is not None and dtype.is_floating_point:
        state = {name: value.to(dtype) for name, value in state.items()}
    variables = variables_of(state)
    if dtype in (torch.int8, torch.int16):
        variables = quantised(variables, dtype)
    return write_model_bin(directory, variables)
