"""The toy model: a linear layer from loudness and language to words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch


def features(
    waveforms: Sequence[np.ndarray], langs: Sequence[str], known: Sequence[str]
) -> torch.Tensor:
    """Return the loudness and a 1 in the columns of each utterance's language, else 0.

    The shape is (utterances, 2 * known languages).
    """
    table = torch.zeros(len(waveforms), len(known), 2)
    for row, waveform, lang in zip(table, waveforms, langs, strict=True):
        row[known.index(lang)] = torch.tensor([float(np.abs(waveform).mean()), 1.0])
    return table.flatten(1)


def new_model(conf: dict) -> torch.nn.Module:
    """Return a model without training."""
    layer = torch.nn.Linear(2 * len(conf["langs"]), len(conf["words"]), bias=False)
    return torch.nn.ModuleDict({"words": layer})
