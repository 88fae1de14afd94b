"""Inference with wav2vec 2.0: greedy search of CTC, on batches of utterances."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lors.checkpoint.places import model_in
from lors.errors import LorsError
from lors.models.recogniser import LoadedModel
from lors.models.wav2vec2.conf import Wav2Vec2Conf, Wav2Vec2Options, check_transformers
from lors.models.wav2vec2.vocabulary import decode
from lors.tasks import Pair

if TYPE_CHECKING:
    from lors.models.wav2vec2.model import SpeechModel


class Wav2Vec2Model(LoadedModel):
    """A wav2vec 2.0 model for inference.

    Args:
        directory: holds ``model.pth``, a state dict with the names of transformers, or a packed
            sub-network.
        conf: structure and vocabulary.
        device: torch device.

    Raises:
        LorsError: the weights are missing or those of another model; the model has no CTC layer;
            or transformers is not installed.
    """

    model: SpeechModel

    def __init__(self, directory: str | os.PathLike, conf: Wav2Vec2Conf, device: str = "cpu"):
        check_transformers()
        from lors.models.wav2vec2.model import new_model

        self.conf, self.device = conf, torch.device(device)
        self.model_file = self.where = model_in(Path(directory))
        if not conf.tokens:
            raise LorsError(
                "a model without a CTC layer cannot recognise speech",
                where=directory,
                hint="fine-tune it with objective: ctc",
            )
        self.model = new_model(conf).eval()
        self.load_file()
        self.model.to(self.device)

    def adapt(self, factors: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Models of this family are not quantised."""
        raise NotImplementedError

    @torch.inference_mode()
    def transcribe(
        self, waveforms: Sequence[np.ndarray], pair: Pair, options: Wav2Vec2Options
    ) -> list[str]:
        """Recognise speech; each text depends on its own waveform alone."""
        from lors.models.wav2vec2.model import normalised, pad

        texts: dict[int, str] = {}
        for batch in self._batches([len(w) for w in waveforms], options.batch_size):
            chosen = [waveforms[i] for i in batch]
            if self.conf.normalise:
                chosen = [normalised(w) if len(w) else w for w in chosen]
            speech, lengths = pad(chosen, self.conf.shortest)
            logits, frames = self.model.ctc_logits(speech.to(self.device), lengths.to(self.device))
            best = logits.argmax(dim=-1).cpu()
            for i, row, number in zip(batch, best, frames.tolist(), strict=True):
                texts[i] = decode(row[:number].tolist(), self.conf.tokens)
        return [texts[i] for i in range(len(waveforms))]

    def _batches(self, lengths: Sequence[int], size: int) -> Iterator[list[int]]:
        """Yield the numbers of utterances that are computed together, shorter ones first."""
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        groups = [order]
        if not self.conf.pads:
            equal = groupby(order, lambda i: max(lengths[i], self.conf.shortest))
            groups = [list(group) for _, group in equal]
        for group in groups:
            for start in range(0, len(group), size):
                yield group[start : start + size]
