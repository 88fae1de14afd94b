"""The dimensions of a Whisper model (OpenAI's ``dims``), and the shapes that follow from them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lors.checkpoint.ctranslate2_whisper import heads_in
from lors.checkpoint.naming import names_in
from lors.checkpoint.places import CTRANSLATE2_FILE
from lors.checkpoint.reader import Checkpoint
from lors.checkpoint.torch_file import load_torch
from lors.checkpoint.vocabulary import ESPNET_CONFIG
from lors.config import read_yaml
from lors.errors import LorsError
from lors.fileio import read_json_object

HEADS = ("n_audio_head", "n_text_head")
HUGGING_FACE_HEADS = ("encoder_attention_heads", "decoder_attention_heads")
HEAD_WIDTH = 64
"""Width of an attention head in all of OpenAI's models."""
DIMS_TENSORS = {
    "encoder.conv1.weight": 3,
    "encoder.positional_embedding": 2,
    "decoder.positional_embedding": 2,
    "decoder.token_embedding.weight": 2,
}
"""Tensors whose shapes give the dimensions -> their number of axes."""
Shapes = Mapping[str, tuple[int, ...]]


def whisper_dims(model: Checkpoint) -> dict[str, int]:
    """Return the dimensions of a Whisper model, under OpenAI's names.

    All except the numbers of attention heads follow from the shapes of the weights. The numbers of
    heads are read from the file itself (OpenAI, CTranslate2), or from ``config.json`` (Hugging
    Face) or ``whisper_conf`` in ``config.yaml`` (a recipe) in its directory. Without any of these,
    heads of the width of all official models are assumed.

    Args:
        model: a Whisper model in any naming scheme.

    Raises:
        LorsError: it is not a Whisper model, the dimensions stored in its file contradict its
            weights, or the numbers of heads are not known.
    """
    shapes = {new: model.shape(old) for old, new in names_in("openai", model.names()).items()}
    missing = [name for name, axes in DIMS_TENSORS.items() if len(shapes.get(name, ())) != axes]
    if missing:
        raise LorsError(
            "this is not a complete Whisper model",
            where=model.path,
            got=f"missing or of another shape: {', '.join(missing)}",
        )
    stored = _stored_dims(model)
    audio_context, audio_state = shapes["encoder.positional_embedding"]
    text_context, text_state = shapes["decoder.positional_embedding"]
    audio_heads, text_heads = _heads(model, stored, audio_state, text_state)
    dims = {
        "n_mels": shapes["encoder.conv1.weight"][1],
        "n_audio_ctx": audio_context,
        "n_audio_state": audio_state,
        "n_audio_head": audio_heads,
        "n_audio_layer": _number_of_layers(shapes, "encoder"),
        "n_vocab": shapes["decoder.token_embedding.weight"][0],
        "n_text_ctx": text_context,
        "n_text_state": text_state,
        "n_text_head": text_heads,
        "n_text_layer": _number_of_layers(shapes, "decoder"),
    }
    if stored is not None:
        _check_stored(stored, dims, model.path)
    return dims


def _number_of_layers(shapes: Shapes, side: str) -> int:
    found = (re.match(rf"{side}\.blocks\.(\d+)", name) for name in shapes)
    return max((int(match[1]) + 1 for match in found if match), default=0)


def _check_stored(stored: Mapping[str, Any], dims: Mapping[str, int], where: Path) -> None:
    """Raise LorsError if the dimensions stored in a file are not those of its weights."""
    wrong = [name for name in dims if stored.get(name) != dims[name]]
    if wrong:
        raise LorsError(
            "the dims in the file of this Whisper model are not those of its weights",
            where=where,
            expected=", ".join(f"{name} {dims[name]}" for name in wrong),
            got=", ".join(f"{name} {stored.get(name, 'missing')}" for name in wrong),
            hint="copy or download the file again, or make it again from the weights",
        )


def whisper_shapes(dims: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every tensor of a Whisper with these dimensions.

    Names and order are those of OpenAI's files. Source: ``whisper/model.py`` of openai-whisper.
    Linear layers are out x in; the keys of the attention have no bias.
    """
    audio, text = dims["n_audio_state"], dims["n_text_state"]
    shapes: dict[str, tuple[int, ...]] = {
        "encoder.positional_embedding": (dims["n_audio_ctx"], audio),
        "encoder.conv1.weight": (audio, dims["n_mels"], 3),
        "encoder.conv1.bias": (audio,),
        "encoder.conv2.weight": (audio, audio, 3),
        "encoder.conv2.bias": (audio,),
    }
    for layer in range(dims["n_audio_layer"]):
        shapes |= _block(f"encoder.blocks.{layer}", audio, ["attn"])
    shapes |= _layer("encoder.ln_post", audio)
    shapes["decoder.positional_embedding"] = (dims["n_text_ctx"], text)
    shapes["decoder.token_embedding.weight"] = (dims["n_vocab"], text)
    for layer in range(dims["n_text_layer"]):
        shapes |= _block(f"decoder.blocks.{layer}", text, ["attn", "cross_attn"])
    return shapes | _layer("decoder.ln", text)


def _block(prefix: str, width: int, attentions: list[str]) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for name in attentions:
        shapes |= _layer(f"{prefix}.{name}.query", width, width)
        shapes[f"{prefix}.{name}.key.weight"] = (width, width)
        shapes |= _layer(f"{prefix}.{name}.value", width, width)
        shapes |= _layer(f"{prefix}.{name}.out", width, width)
        shapes |= _layer(f"{prefix}.{name}_ln", width)
    shapes |= _layer(f"{prefix}.mlp.0", 4 * width, width)
    shapes |= _layer(f"{prefix}.mlp.2", width, 4 * width)
    return shapes | _layer(f"{prefix}.mlp_ln", width)


def _layer(prefix: str, *shape: int) -> dict[str, tuple[int, ...]]:
    return {f"{prefix}.weight": shape, f"{prefix}.bias": shape[:1]}


def _stored_dims(model: Checkpoint) -> Mapping[str, Any] | None:
    """Return the dimensions stored in a file of OpenAI, unchecked; None for other files."""
    content = load_torch(model.path).content if model.path.suffix == ".pt" else None
    dims = content.get("dims") if isinstance(content, Mapping) else None
    return dims if isinstance(dims, Mapping) else None


def _heads(
    model: Checkpoint, stored: Mapping[str, Any] | None, audio_state: int, text_state: int
) -> tuple[int, int]:
    """Return the numbers of attention heads of encoder and decoder."""
    if stored is not None:
        return _integers(stored, HEADS, model.path)
    if model.path.name == CTRANSLATE2_FILE:
        heads = heads_in(model.path)
        if heads is not None:
            return heads
    config = model.path.parent / "config.json"
    if config.is_file():
        values = read_json_object(config)
        if set(HUGGING_FACE_HEADS) <= set(values):
            return _integers(values, HUGGING_FACE_HEADS, config)
    config = model.path.parent / ESPNET_CONFIG
    if config.is_file():
        conf = read_yaml(config).get("whisper_conf")
        dims = conf.get("dims") if isinstance(conf, Mapping) else None
        if isinstance(dims, Mapping) and dims:
            return _integers(dims, HEADS, config)
    if audio_state % HEAD_WIDTH or text_state % HEAD_WIDTH:
        raise LorsError(
            "the number of attention heads of this Whisper model is not known",
            where=model.path,
            expected="OpenAI's .pt with its dims, a config.json or config.yaml in the directory of "
            f"the model, or a width that is a multiple of {HEAD_WIDTH}",
            got=f"widths of {audio_state} and {text_state}",
        )
    return audio_state // HEAD_WIDTH, text_state // HEAD_WIDTH


def _integers(values: Mapping[str, Any], names: tuple[str, str], where: Path) -> tuple[int, int]:
    """Return the values under two names; LorsError if one is missing or not an integer."""
    first, second = (values.get(name, "missing") for name in names)
    if not (isinstance(first, int) and isinstance(second, int)):
        raise LorsError(
            "the number of attention heads of this Whisper model cannot be read",
            where=where,
            expected=f"integers under {' and '.join(names)}",
            got=f"{first} and {second}",
            hint="copy or download the model again, or make it again from the weights",
        )
    return first, second
