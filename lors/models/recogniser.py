"""Common code of the families' models for inference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lors.checkpoint.reader import Checkpoint
from lors.errors import LorsError


def pad_to(waveforms: Sequence[np.ndarray], samples: int) -> Tensor:
    """Pad waveforms with silence or trim them; return float32 of shape (batch, samples)."""
    speech = torch.zeros(len(waveforms), samples)
    for row, waveform in zip(speech, waveforms, strict=True):
        length = min(len(waveform), samples)
        row[:length] = torch.from_numpy(waveform[:length])
    return speech


class LoadedModel:
    """The weights of a model for inference (:class:`lors.models.family.Recogniser`).

    Attributes:
        model: the module of torch, of a class of each family.
        model_file: the file that it was read from.
        where: the file that an error about its weights names.
    """

    model: Any
    model_file: Path
    where: Path

    def load_file(self) -> None:
        """Take all weights from `model_file`; raises as :meth:`load_state`."""
        checkpoint = Checkpoint.open(self.model_file)
        self.load_state({name: checkpoint.tensor(name) for name in checkpoint.names()})

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Replace all weights.

        Raises:
            LorsError: names or shapes differ from the model's.
        """
        try:
            self.model.load_state_dict(state, strict=True)
        except RuntimeError as error:
            raise LorsError("weights of another model", where=self.where, got=str(error)) from None
