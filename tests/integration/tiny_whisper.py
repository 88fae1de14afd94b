"""A tiny Whisper with the official vocabulary, in OpenAI's form, made on the spot for tests."""

from __future__ import annotations

from pathlib import Path

import torch

DIMS = {
    "n_mels": 80,
    "n_audio_ctx": 1500,
    "n_audio_state": 32,
    "n_audio_head": 2,
    "n_audio_layer": 2,
    "n_vocab": 51865,
    "n_text_ctx": 448,
    "n_text_state": 32,
    "n_text_head": 2,
    "n_text_layer": 2,
}


def make_whisper(path: Path, seed: int = 0, scale: float = 1.0, **dims: int) -> Path:
    """Write ``{dims, model_state_dict}`` with random weights; returns the path.

    Args:
        scale: scale of all matrices. With the usual small ones the text is the same for any speech.
        dims: dimensions that differ from `DIMS`.
    """
    import whisper

    dims = {**DIMS, **dims}
    torch.manual_seed(seed)
    model = whisper.Whisper(whisper.model.ModelDimensions(**dims))
    torch.nn.init.normal_(model.decoder.positional_embedding, std=0.02)
    torch.nn.init.normal_(model.decoder.token_embedding.weight, std=0.02)
    state = {
        name: value * scale if value.ndim >= 2 and "positional" not in name else value
        for name, value in model.state_dict().items()
    }
    torch.save({"dims": dims, "model_state_dict": state}, path)
    return path
