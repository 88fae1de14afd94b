"""A tiny wav2vec 2.0 of XLSR's architecture, in transformers' form, made on the spot for tests."""

from __future__ import annotations

import os
from pathlib import Path

from tests.integration.recipe import ROOT

PACKAGES = ROOT / ".test_packages"
"""Packages that tests/run.sh installs apart, transformers among them."""
CONFIG = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": [16] * 7,
    "conv_bias": True,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "num_codevectors_per_group": 8,
    "codevector_dim": 16,
    "proj_codevector_dim": 16,
    "num_negatives": 5,
    "mask_time_prob": 0.3,
    "mask_time_length": 3,
    "layerdrop": 0.0,
}


def environment() -> dict[str, str]:
    """Return the environment for programs that need transformers."""
    path = [str(ROOT), str(PACKAGES), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path), "HF_HUB_OFFLINE": "1"}


def make_wav2vec2(directory: Path, seed: int = 0, ctc: bool = False, **changes) -> Path:
    """Write ``config.json`` and ``model.safetensors`` with random weights; returns the directory.

    Args:
        ctc: a model with a CTC layer in place of the head of the pre-training.
        changes: keys of the configuration that differ from `CONFIG`.
    """
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC, Wav2Vec2ForPreTraining

    torch.manual_seed(seed)
    cls = Wav2Vec2ForCTC if ctc else Wav2Vec2ForPreTraining
    model = cls(Wav2Vec2Config(**{**CONFIG, **changes}))
    for name, parameter in model.named_parameters():
        if name.endswith("weight") and parameter.ndim == 2:
            parameter.data *= 3  # with the usual small ones all frames have the same best token
    model.save_pretrained(directory)
    return directory
