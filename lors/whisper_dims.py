"""The dimensions that stand in a model file of OpenAI's Whisper beside its weights."""

from __future__ import annotations

import re
from collections.abc import Mapping

from lors.checkpoint import Checkpoint, load_torch
from lors.config import read_yaml
from lors.errors import LorsError
from lors.fileio import read_json
from lors.naming import names_in
from lors.vocabulary import ESPNET_CONFIG

HEAD_WIDTH = 64
"""Width of an attention head in all of OpenAI's models."""


def whisper_dims(model: Checkpoint) -> dict[str, int]:
    """The ``dims`` of a Whisper model, under OpenAI's names.

    All but the numbers of heads are in the shapes of the weights. The heads are told by the file
    itself (OpenAI's), by the ``config.json`` beside it (Hugging Face's) or by ``whisper_conf`` in
    the ``config.yaml`` beside it (a recipe's); else they have the width of those of all official
    models.

    Args:
        model: of any family that names the tensors of Whisper.

    Raises:
        LorsError: it is no Whisper model, or the number of heads cannot be told.
    """
    shapes = {new: model.shape(old) for old, new in names_in("openai", model.names()).items()}
    layers = {
        side: 1
        + max(
            int(found[1])
            for found in map(re.compile(rf"{side}.blocks.(\d+)").match, shapes)
            if found
        )
        for side in ("encoder", "decoder")
    }
    audio_context, audio_state = shapes["encoder.positional_embedding"]
    text_context, text_state = shapes["decoder.positional_embedding"]
    audio_heads, text_heads = _heads(model, audio_state, text_state)
    return {
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


def _heads(model: Checkpoint, audio_state: int, text_state: int) -> tuple[int, int]:
    if model.path.suffix == ".pt":
        dims = load_torch(model.path).get("dims")
        if isinstance(dims, Mapping):
            return int(dims["n_audio_head"]), int(dims["n_text_head"])
    config = model.path.parent / "config.json"
    if config.is_file():
        known = read_json(config)
        if {"encoder_attention_heads", "decoder_attention_heads"} <= set(known):
            return known["encoder_attention_heads"], known["decoder_attention_heads"]
    config = model.path.parent / ESPNET_CONFIG
    if config.is_file():
        dims = (read_yaml(config).get("whisper_conf") or {}).get("dims")
        if dims:
            return dims["n_audio_head"], dims["n_text_head"]
    if audio_state % HEAD_WIDTH or text_state % HEAD_WIDTH:
        raise LorsError(
            "the number of attention heads of this Whisper model is not known",
            where=model.path,
            expected="OpenAI's .pt with its dims, a config.json or config.yaml beside the model, "
            f"or a width that is a multiple of {HEAD_WIDTH}",
            got=f"widths of {audio_state} and {text_state}",
        )
    return audio_state // HEAD_WIDTH, text_state // HEAD_WIDTH
