"""wav2vec 2.0 as an ESPnet task: contrastive pre-training and CTC, for ESPnet's trainer.

ESPnet's own tasks have the CTC loss with other encoders, and HuBERT's pre-training, but not the
contrastive loss of wav2vec 2.0.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from espnet2.torch_utils.device_funcs import force_gatherable
from espnet2.train.abs_espnet_model import AbsESPnetModel
from espnet2.train.preprocessor import AbsPreprocessor
from rapidfuzz.distance import Levenshtein
from torch import Tensor
from torch.nn import functional
from transformers import Wav2Vec2ForPreTraining
from transformers.models.wav2vec2.modeling_wav2vec2 import (
    _compute_mask_indices,
    _sample_negative_indices,
)

from lors.config import build
from lors.models.speech_text_task import PADDING, SpeechTextTask
from lors.models.wav2vec2.conf import TrainingConf, Wav2Vec2Conf
from lors.models.wav2vec2.model import SpeechModel, new_model, normalised
from lors.models.wav2vec2.vocabulary import BLANK, decode, encode

Losses = tuple[Tensor, dict[str, Tensor], Tensor]


class Wav2Vec2Preprocessor(AbsPreprocessor):
    """Normalises speech, and spells text."""

    def __init__(self, train: bool, conf: Wav2Vec2Conf):
        super().__init__(train)
        self.conf = conf

    def __call__(self, uid: str, data: dict[str, str | np.ndarray]) -> dict[str, np.ndarray]:
        made = {}
        if "speech" in data:
            speech = np.asarray(data["speech"], dtype=np.float32)
            made["speech"] = normalised(speech) if self.conf.normalise else speech
        if "text" in data:
            text, tokens = str(data["text"]), self.conf.tokens
            # In pre-training a model may have no vocabulary: the length serves for the batches.
            ids = encode(text, tokens) if tokens else [0] * max(1, len(text))
            made["text"] = np.array(ids, dtype=np.int64)
        return made


class Wav2Vec2ESPnetModel(SpeechModel, AbsESPnetModel):
    """wav2vec 2.0 with its losses; the state dict has the names of transformers."""

    training_conf: TrainingConf
    tokens: Sequence[str]

    @property
    def extract_feats_in_collect_stats(self) -> bool:
        return False

    def forward(
        self, speech: Tensor, speech_lengths: Tensor, text: Tensor, text_lengths: Tensor, **_: Any
    ) -> Losses:
        """Return the loss of the objective, statistics, and the number of utterances.

        Args:
            speech: (batch, samples), padded with zeros.
            speech_lengths: (batch,).
            text: token ids (batch, tokens), padded with -1; not used in pre-training.
            text_lengths: (batch,).
        """
        if self.training_conf.objective == "ctc":
            loss, stats = self._ctc(speech, speech_lengths, text, text_lengths)
        else:
            loss, stats = self._contrastive(speech, speech_lengths)
        return force_gatherable((loss, {"loss": loss.detach(), **stats}, len(speech)), loss.device)

    def _ctc(
        self, speech: Tensor, lengths: Tensor, text: Tensor, text_lengths: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the CTC loss of a character; out of training also the character error rate."""
        logits, frames = self.ctc_logits(speech, lengths)
        log_probs = functional.log_softmax(logits.float(), dim=-1).transpose(0, 1)
        text = text[:, : int(text_lengths.max())]
        targets = text[text != PADDING]
        blank = self.tokens.index(BLANK)
        loss = functional.ctc_loss(
            log_probs, targets, frames, text_lengths, blank, reduction="sum", zero_infinity=True
        )
        loss = loss / text_lengths.sum()
        if self.training:
            return loss, {}
        best = logits.argmax(dim=-1).tolist()
        errors = 0
        for row, number, ids in zip(best, frames.tolist(), text.tolist(), strict=True):
            # Repetitions of the reference are no repetitions of frames: a blank between them.
            spelling = [i for target in ids if target != PADDING for i in (target, blank)]
            hypothesis, reference = (decode(i, self.tokens) for i in (row[:number], spelling))
            errors += Levenshtein.distance(hypothesis, reference)
        rate = torch.tensor(errors / int(text_lengths.sum()), device=loss.device)
        return loss, {"cer": rate}

    def _contrastive(self, speech: Tensor, lengths: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a masked frame: contrastive loss and weighted diversity loss.

        Out of training also the error (:func:`error_rate`), by which epochs are chosen: the loss
        leaves out negatives that equal the positive, and is least if all codevectors are one.
        """
        config = self.config
        frames = self._get_feat_extract_output_lengths(lengths)
        shape = (len(speech), int(self._get_feat_extract_output_lengths(speech.shape[1])))
        present = (torch.arange(shape[1]) < frames.cpu()[:, None]).long()
        seed = int(lengths.sum())
        with contextlib.nullcontext() if self.training else _fixed_chance(seed):
            masked = _compute_mask_indices(
                shape,
                config.mask_time_prob,
                config.mask_time_length,
                attention_mask=present,
                min_masks=max(1, config.mask_time_min_masks),
            )
            # A dummy span of a shorter row may lie in its padding.
            masked &= present.bool().numpy()
            drawn = _sample_negative_indices(shape, config.num_negatives, masked)
        chosen, negatives = (torch.from_numpy(of).to(speech.device) for of in (masked, drawn))
        found = Wav2Vec2ForPreTraining.forward(
            self,
            speech,
            attention_mask=self.attention_mask(speech, lengths),
            mask_time_indices=chosen,
            sampled_negative_indices=negatives,
        )
        number = chosen.sum()
        stats = {
            "contrastive": found.contrastive_loss.detach() / number,
            "diversity": found.diversity_loss.detach() / number,
            "perplexity": found.codevector_perplexity.detach(),
        }
        if not self.training:
            states, targets = found.projected_states, found.projected_quantized_states
            stats["error"] = error_rate(states.detach(), targets.detach(), chosen, negatives)
        return found.loss / number, stats

    def collect_feats(self, speech: Tensor, speech_lengths: Tensor, **_: Any) -> dict[str, Tensor]:
        """Return the waveforms as features: the model has no other statistics."""
        return {"feats": speech, "feats_lengths": speech_lengths}


def error_rate(states: Tensor, targets: Tensor, masked: Tensor, negatives: Tensor) -> Tensor:
    """Return the share of masked frames that are not told from their negatives, from 0 to 1.

    A frame is an error if the cosine of its projection with some negative is at least that with
    the positive. A negative that equals the positive is an error too, so that a model with one
    codevector for all frames has 1.0; the contrastive loss (equation 3 of wav2vec 2.0, 2006.11477,
    in transformers) leaves such negatives out.

    Args:
        states: projections of the transformer's output, (batch, frames, dimensions).
        targets: projected codevectors, of the same shape.
        masked: which frames are masked, (batch, frames).
        negatives: their places in all frames of the batch, (batch, frames, negatives).
    """
    state, positive = states[masked].float()[:, None], targets[masked].float()[:, None]
    negative = targets.flatten(0, 1)[negatives[masked].long()].float()
    found = torch.cosine_similarity(state, negative, dim=-1)
    nearer = found >= torch.cosine_similarity(state, positive, dim=-1)
    # Equal vectors, whose cosines rounding may tell apart.
    same = (negative == positive).all(dim=-1)
    return (nearer | same).any(dim=-1).float().mean()


@contextlib.contextmanager
def _fixed_chance(seed: int) -> Iterator[None]:
    """Mask the same frames of a dev batch in every epoch, so that epochs can be compared."""
    state = np.random.get_state()
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        np.random.set_state(state)


class Wav2Vec2Task(SpeechTextTask):
    """Training by ``python -m lors.bin.wav2vec2_train``, with ESPnet's options."""

    conf_options = {  # noqa: RUF012 - a constant, as the base class says
        "wav2vec2_conf": "structure, tokens and normalise, taken from the base model",
        "model_conf": "objective (ctc, contrastive), freeze_feature_encoder, gumbel_temperature, "
        "config",
    }

    @classmethod
    def build_preprocess_fn(cls, args: argparse.Namespace, train: bool) -> Callable | None:
        return Wav2Vec2Preprocessor(train, _conf(args))

    @classmethod
    def build_model(cls, args: argparse.Namespace) -> Wav2Vec2ESPnetModel:
        training = build(TrainingConf, args.model_conf or {}, "model_conf")
        model = new_model(_conf(args), training.config, Wav2Vec2ESPnetModel)
        assert isinstance(model, Wav2Vec2ESPnetModel)
        model.training_conf, model.tokens = training, _conf(args).tokens
        model.set_gumbel_temperature(training.gumbel_temperature)
        if training.objective == "contrastive":
            # A published model may say that its fine-tuning masks nothing; transformers then leaves
            # the frames as they are that the contrastive loss is to predict.
            model.config.apply_spec_augment = True
        if training.freeze_feature_encoder:
            model.freeze_feature_encoder()
        return model


def _conf(args: argparse.Namespace) -> Wav2Vec2Conf:
    return build(Wav2Vec2Conf, args.wav2vec2_conf, "wav2vec2_conf")
