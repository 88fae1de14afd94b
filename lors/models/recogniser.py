"""Common code of the families' models for inference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from lors.errors import LorsError


def pad_to(waveforms: Sequence[np.ndarray], samples: int) -> Tensor:
    """Pad waveforms with silence or trim them; return float32 of shape (batch, samples)."""
    speech = torch.zeros(len(waveforms), samples)
    for row, waveform in zip(speech, waveforms, strict=True):
        length = min(len(waveform), samples)
        row[:length] = torch.from_numpy(waveform[:length])
    return speech


def load_weights(model: nn.Module, state: Mapping[str, Tensor], where: object) -> None:
    """Replace all weights of a model.

    Args:
        model: the model to change.
        state: the new weights.
        where: a file of the model, for the error message.

    Raises:
        LorsError: names or shapes differ from the model's.
    """
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise LorsError("weights of another model", where=where, got=str(error)) from None
