"""Whisper as an ESPnet task, for ESPnet's trainer, iterators, mixed precision and DDP.

ESPnet's S2T and ASR tasks cannot be used: they need a list of tokens, a front end and choices of
encoders and decoders, which Whisper does not have. The Whisper modules of these tasks load official
models only.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from espnet2.asr.specaug.abs_specaug import AbsSpecAug
from espnet2.asr.specaug.specaug import SpecAug
from espnet2.torch_utils.device_funcs import force_gatherable
from espnet2.train.abs_espnet_model import AbsESPnetModel
from espnet2.train.class_choices import ClassChoices
from espnet2.train.preprocessor import AbsPreprocessor
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from whisper.audio import HOP_LENGTH

from lors.config import build
from lors.models.quantised_task import QuantisedTask
from lors.models.speech_text_task import PADDING, SpeechTextTask
from lors.models.whisper.conf import WhisperConf
from lors.models.whisper.encoder import features, log_mel, new_whisper, pad
from lors.models.whisper.prompts import WhisperPrompts, encode, tokenizer_of


class WhisperPreprocessor(AbsPreprocessor):
    """Pads speech to the model's window, and encodes text as Whisper's tokens."""

    def __init__(self, train: bool, conf: WhisperConf):
        super().__init__(train)
        self.conf = conf

    def __call__(self, uid: str, data: dict[str, str | np.ndarray]) -> dict[str, np.ndarray]:
        # Not an attribute: the preprocessor is sent to worker processes.
        tokenizer = tokenizer_of(self.conf.dims["n_vocab"])
        made = {}
        if "speech" in data:
            speech = np.asarray(data["speech"])
            made["speech"] = pad([speech], self.conf.speech_window)[0][0].numpy()
        if "text" in data:
            made["text"] = np.array(encode(str(data["text"]), tokenizer), dtype=np.int64)
        return made


class WhisperESPnetModel(AbsESPnetModel):
    """Whisper with its training loss; the state dict has OpenAI's names.

    Args:
        conf: dimensions and window.
        specaug: augmentation of the features in training.
        lsm_weight: weight of label smoothing.
        gradient_checkpointing: keep only the input of every layer, and compute the layer again
            for its gradient: less memory, a third more time.
        extract_feats_in_collect_stats: option of ESPnet; if false, ESPnet collects only shapes and
            does not call :meth:`collect_feats`.
    """

    def __init__(
        self,
        conf: WhisperConf,
        specaug: AbsSpecAug | None = None,
        lsm_weight: float = 0.0,
        gradient_checkpointing: bool = False,
        extract_feats_in_collect_stats: bool = False,
    ):
        super().__init__()
        model = new_whisper(conf)
        self.encoder, self.decoder = model.encoder, model.decoder
        # For a model from scratch: OpenAI leaves the positions uninitialised, and its initial
        # embeddings are too large for output weights.
        torch.nn.init.normal_(self.decoder.positional_embedding, std=0.02)
        torch.nn.init.normal_(self.decoder.token_embedding.weight, std=0.02)
        self.specaug = specaug
        self.window, self.n_mels = conf.speech_window, conf.dims["n_mels"]
        self.eot = tokenizer_of(conf.dims["n_vocab"]).eot
        self.prompt_length = WhisperPrompts(conf, "whisper_conf").length
        self.lsm_weight = lsm_weight
        self.extract_feats_in_collect_stats = extract_feats_in_collect_stats
        if gradient_checkpointing:
            for block in [*self.encoder.blocks, *self.decoder.blocks]:
                block.forward = partial(checkpoint, block.forward, use_reentrant=False)

    def forward(
        self, speech: Tensor, speech_lengths: Tensor, text: Tensor, text_lengths: Tensor, **_: Any
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Return the cross entropy of the tokens after the prompt.

        Args:
            speech: (batch, samples), padded to the window.
            speech_lengths: (batch,), the samples of each row that are padded to the window.
            text: token ids (batch, tokens) from <|startoftranscript|> to <|endoftext|>, padded
                with -1.
            text_lengths: (batch,).

        Returns:
            Mean loss per token, statistics, and the number of utterances.
        """
        with torch.autocast(speech.device.type, enabled=False):
            mel = features(speech.float(), self.window, self.n_mels)
        if self.specaug is not None and self.training:
            mel = _augmented(self.specaug, mel, speech.shape[1] // HOP_LENGTH)
        targets = text[:, 1:]
        asked = targets != PADDING
        asked[:, : self.prompt_length - 1] = False
        given = text[:, :-1].masked_fill(text[:, :-1] == PADDING, self.eot)
        hidden = self._hidden(given, self.encoder(mel, speech_lengths))[asked]
        logits = (hidden @ self.decoder.token_embedding.weight.to(hidden.dtype).T).float()
        loss = functional.cross_entropy(logits, targets[asked], label_smoothing=self.lsm_weight)
        accuracy = (logits.argmax(dim=-1) == targets[asked]).float().mean()
        stats = {"loss": loss.detach(), "acc": accuracy}
        return force_gatherable((loss, stats, len(speech)), loss.device)

    def _hidden(self, tokens: Tensor, encoded: Tensor) -> Tensor:
        """Return the output of the decoder's last layer: (batch, tokens, n_state).

        OpenAI's decoder computes logits over the vocabulary for every position, prompt and padding
        included. For short sentences that takes most of the time and memory.
        """
        decoder = self.decoder
        x = decoder.token_embedding(tokens) + decoder.positional_embedding[: tokens.shape[1]]
        x = x.to(encoded.dtype)
        for block in decoder.blocks:
            x = block(x, encoded, mask=decoder.mask)
        return decoder.ln(x)

    def collect_feats(self, speech: Tensor, speech_lengths: Tensor, **_: Any) -> dict[str, Tensor]:
        """Return the features (batch, frames, n_mels) and their numbers of frames (batch,)."""
        features = log_mel(speech, self.n_mels).transpose(1, 2)
        return {"feats": features, "feats_lengths": speech_lengths // HOP_LENGTH}


class _WhisperTask(SpeechTextTask):
    """The task without quantised models."""

    conf_options = {  # noqa: RUF012 - a constant, as the base class says
        "whisper_conf": "dims, window and st_language, taken from the base model",
        "model_conf": "lsm_weight (label smoothing), gradient_checkpointing",
    }
    class_choices_list = [  # noqa: RUF012 - as ESPnet has it
        ClassChoices(
            name="specaug",
            classes={"specaug": SpecAug},
            type_check=AbsSpecAug,
            default=None,
            optional=True,
        )
    ]

    @classmethod
    def build_preprocess_fn(cls, args: argparse.Namespace, train: bool) -> Callable | None:
        return WhisperPreprocessor(train, _conf(args))

    @classmethod
    def build_model(cls, args: argparse.Namespace) -> WhisperESPnetModel:
        specaug = getattr(args, "specaug", None)
        if specaug is not None:
            choices = cls.class_choices_list[0]
            specaug = choices.get_class(specaug)(**args.specaug_conf)
        settings = getattr(args, "model_conf", None) or {}
        return WhisperESPnetModel(_conf(args), specaug, **settings)


def _augmented(specaug: AbsSpecAug, mel: Tensor, frames: int) -> Tensor:
    """Augment the first `frames` frames; the others are the silence of the window ``auto``."""
    speech = mel[:, :, :frames].transpose(1, 2)
    lengths = torch.full((len(mel),), frames, device=mel.device)
    augmented = specaug(speech, lengths)[0].transpose(1, 2)
    return torch.cat([augmented, mel[:, :, frames:]], dim=2)


def _conf(args: argparse.Namespace) -> WhisperConf:
    return build(WhisperConf, args.whisper_conf, "whisper_conf")


class WhisperTask(QuantisedTask, _WhisperTask):
    """Fine-tuning of Whisper by ``python -m lors.bin.whisper_train``, with ESPnet's options."""
