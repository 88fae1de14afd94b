"""The model: transformers' ``Wav2Vec2ForPreTraining`` with the CTC layer of ``Wav2Vec2ForCTC``.

One model for both losses, so that pre-training and fine-tuning pass weights on, and masks and
merges fit all of them. The tensors have the names of transformers. transformers is slow to import,
so this module is imported where a model is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Wav2Vec2Config, Wav2Vec2ForPreTraining

from lors.errors import LorsError
from lors.models.recogniser import pad_to
from lors.models.wav2vec2.conf import IN_TRAINING, Wav2Vec2Conf, check_keys

OTHER_STRUCTURES = {"add_adapter": False, "adapter_attn_dim": None}
"""Keys for parts that this family does not have -> their value without these parts."""


class SpeechModel(Wav2Vec2ForPreTraining):
    """wav2vec 2.0 with its pre-training head, and a CTC layer if there is a vocabulary."""

    def __init__(self, config: Wav2Vec2Config, vocabulary: int):
        super().__init__(config)
        # transformers leaves this out for classes outside of it without tensors of their own: the
        # projections of the contrastive loss would begin like layers of the transformer.
        self.project_hid.reset_parameters()
        self.project_q.reset_parameters()
        self.dropout = nn.Dropout(config.final_dropout)
        if vocabulary:
            self.lm_head = nn.Linear(config.hidden_size, vocabulary)

    def ctc_logits(self, speech: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return the scores of the tokens, (batch, frames, vocabulary), and the numbers of frames.

        Args:
            speech: (batch, samples), padded with zeros.
            lengths: samples of each row.
        """
        encoded = self.wav2vec2(speech, attention_mask=self.attention_mask(speech, lengths))
        logits = self.lm_head(self.dropout(encoded.last_hidden_state))
        return logits, self._get_feat_extract_output_lengths(lengths)

    def attention_mask(self, speech: Tensor, lengths: Tensor) -> Tensor | None:
        """Return the mask of the samples that are no padding; None for a model without padding."""
        if self.config.feat_extract_norm != "layer":
            return None
        return (torch.arange(speech.shape[1], device=speech.device) < lengths[:, None]).long()


def checked_config(config: Mapping[str, Any], where: object) -> Wav2Vec2Config:
    """Return transformers' configuration of a model.

    Raises:
        LorsError: unknown keys or values, or a structure that this family does not have.
    """
    check_keys(config, set(vars(Wav2Vec2Config())), where)
    try:
        made = Wav2Vec2Config(**config)
    except Exception as error:  # of several packages, by version
        raise LorsError("not a configuration of wav2vec 2.0", where=where, got=f"{error}") from None
    other = {key: getattr(made, key, value) for key, value in OTHER_STRUCTURES.items()}
    # Without this probability transformers leaves out the vector of masked frames.
    if other != OTHER_STRUCTURES or not made.mask_time_prob > 0:
        raise LorsError(
            "a structure of wav2vec 2.0 that LoRS does not have",
            where=where,
            expected=f"{OTHER_STRUCTURES}, mask_time_prob above 0",
            got=f"{other}, mask_time_prob {made.mask_time_prob}",
        )
    return made


def new_model(
    conf: Wav2Vec2Conf,
    training: Mapping[str, Any] | None = None,
    cls: type[SpeechModel] = SpeechModel,
) -> SpeechModel:
    """Return a model with random weights.

    Args:
        conf: structure and vocabulary.
        training: keys of `IN_TRAINING` that differ from those of `conf`.
        cls: the class to make.

    Raises:
        LorsError: as :func:`checked_config`; keys of `training` that change the structure.
    """
    training = training or {}
    check_keys(training, IN_TRAINING, "config of model_conf")
    # The layers read dropout when they are made, the masks when they are used.
    early = {key: value for key, value in training.items() if "dropout" in key}
    model = cls(checked_config({**conf.config, **early}, "wav2vec2_conf"), len(conf.tokens))
    for key, value in training.items():
        setattr(model.config, key, value)
    return model


def pad(waveforms: Sequence[np.ndarray], shortest: int) -> tuple[Tensor, Tensor]:
    """Return waveforms as float32 (batch, samples), padded with zeros, and their lengths.

    Args:
        waveforms: arrays of shape (samples,).
        shortest: the least length, to which shorter waveforms are lengthened.
    """
    lengths = torch.tensor([max(len(waveform), shortest) for waveform in waveforms])
    return pad_to(waveforms, int(lengths.max())), lengths


def normalised(waveform: np.ndarray) -> np.ndarray:
    """Bring a waveform to mean 0 and variance 1, as ``Wav2Vec2FeatureExtractor`` does."""
    waveform = np.asarray(waveform, dtype=np.float32)
    return (waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-7)
