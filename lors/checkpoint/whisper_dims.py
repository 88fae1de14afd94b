"""The dimensions that stand in a model file of OpenAI's Whisper beside its weights, and what
weights a model of these dimensions has."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lors.checkpoint.naming import names_in
from lors.checkpoint.reader import Checkpoint, load_torch
from lors.checkpoint.vocabulary import ESPNET_CONFIG
from lors.config import read_yaml
from lors.errors import LorsError
from lors.fileio import read_json

HEADS = ("n_audio_head", "n_text_head")
HUGGING_FACE_HEADS = ("encoder_attention_heads", "decoder_attention_heads")
HEAD_WIDTH = 64
"""Width of an attention head in all of OpenAI's models."""
TELLING = {
    "encoder.conv1.weight": 3,
    "encoder.positional_embedding": 2,
    "decoder.positional_embedding": 2,
    "decoder.token_embedding.weight": 2,
}
"""The tensors whose shapes are read, with their numbers of axes."""


def whisper_dims(model: Checkpoint) -> dict[str, int]:
    """The ``dims`` of a Whisper model, under OpenAI's names.

    All but the numbers of heads are in the shapes of the weights. The heads are told by the file
    itself (OpenAI's), by the ``config.json`` beside it (Hugging Face's) or by ``whisper_conf`` in
    the ``config.yaml`` beside it (a recipe's); else they have the width of those of all official
    models.

    Args:
        model: of any family that names the tensors of Whisper.

    Raises:
        LorsError: it is no Whisper model, its file holds the dims of another one, or the number of
            heads cannot be told.
    """
    shapes = {new: model.shape(old) for old, new in names_in("openai", model.names()).items()}
    lacking = [name for name in TELLING if len(shapes.get(name, ())) != TELLING[name]]
    if lacking:
        raise LorsError(
            "not a whole Whisper model",
            where=model.path,
            got=f"missing or of another shape: {', '.join(lacking)}",
        )
    layers = {
        side: 1
        + max(
            (
                int(found[1])
                for found in map(re.compile(rf"{side}.blocks.(\d+)").match, shapes)
                if found
            ),
            default=-1,
        )
        for side in ("encoder", "decoder")
    }
    audio_context, audio_state = shapes["encoder.positional_embedding"]
    text_context, text_state = shapes["decoder.positional_embedding"]
    stored = _stored(model)
    audio_heads, text_heads = _heads(model, stored, audio_state, text_state)
    dims = {
        "n_mels": shapes["encoder.conv1.weight"][1],
        "n_audio_ctx": audio_context,
        "n_audio_state": audio_state,
        "n_audio_head": audio_heads,
        "n_audio_layer": layers["encoder"],
        "n_vocab": shapes["decoder.token_embedding.weight"][0],
        "n_text_ctx": text_context,
        "n_text_state": text_state,
        "n_text_head": text_heads,
        "n_text_layer": layers["decoder"],
    }
    differ = [name for name in dims if stored is not None and stored.get(name) != dims[name]]
    if differ:
        raise LorsError(
            "the dims in this Whisper model's file are not those of its weights",
            where=model.path,
            expected=", ".join(f"{name} {dims[name]}" for name in differ),
            got=", ".join(f"{name} {stored.get(name, 'missing')}" for name in differ),
            hint="copy or download the file again, or make it again from the weights",
        )
    return dims


def whisper_shapes(dims: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a Whisper with these ``dims``, as in OpenAI's files.

    The order is that of the files, too. Source: the model's definition in openai-whisper
    (``whisper/model.py``): linear layers are out x in, and keys have no bias.
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
    shapes = {}
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


def _stored(model: Checkpoint) -> Mapping[str, Any] | None:
    """The dims in a file of OpenAI's, whatever they are; None for other files."""
    dims = load_torch(model.path).get("dims") if model.path.suffix == ".pt" else None
    return dims if isinstance(dims, Mapping) else None


def _heads(
    model: Checkpoint, stored: Mapping[str, Any] | None, audio_state: int, text_state: int
) -> tuple[int, int]:
    if stored is not None:
        return _numbers(stored, HEADS, model.path)
    config = model.path.parent / "config.json"
    if config.is_file():
        known = read_json(config)
        if set(HUGGING_FACE_HEADS) <= set(known):
            return _numbers(known, HUGGING_FACE_HEADS, config)
    config = model.path.parent / ESPNET_CONFIG
    if config.is_file():
        dims = (read_yaml(config).get("whisper_conf") or {}).get("dims")
        if dims:
            return _numbers(dims, HEADS, config)
    if audio_state % HEAD_WIDTH or text_state % HEAD_WIDTH:
        raise LorsError(
            "the number of attention heads of this Whisper model is not known",
            where=model.path,
            expected="OpenAI's .pt with its dims, a config.json or config.yaml beside the model, "
            f"or a width that is a multiple of {HEAD_WIDTH}",
            got=f"widths of {audio_state} and {text_state}",
        )
    return audio_state // HEAD_WIDTH, text_state // HEAD_WIDTH


def _numbers(stored: Mapping[str, Any], names: tuple[str, str], where: Path) -> tuple[int, int]:
    """The values under two names; LorsError if one is missing or no integer."""
    first, second = (stored.get(name, "missing") for name in names)
    if not (isinstance(first, int) and isinstance(second, int)):
        raise LorsError(
            "the number of attention heads of this Whisper model cannot be read",
            where=where,
            expected=f"integers under {' and '.join(names)}",
            got=f"{first} and {second}",
            hint="copy or download the model again, or make it again from the weights",
        )
    return first, second
