"""Inference with Whisper by OpenAI's decoding, on batches of utterances."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
import whisper
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from whisper.decoding import DecodingTask, GreedyDecoder, LogitFilter, PyTorchInference

from lors.checkpoint.places import model_in
from lors.checkpoint.quantised import is_quantised, open_quantised
from lors.export.whisper_audio import SAMPLING_RATE
from lors.models.nf4_layers import Nf4Weight, adapt, load_quantised
from lors.models.precision import dtype_of
from lors.models.recogniser import LoadedModel
from lors.models.whisper.conf import OwnInference, WhisperOptions
from lors.models.whisper.encoder import features, new_whisper, pad
from lors.models.whisper.prompts import TASK_NAMES, WhisperPrompts
from lors.models.whisper.window import Window
from lors.tasks import Pair

log = logging.getLogger(__name__)


class BestToken(GreedyDecoder):
    """OpenAI's greedy search without log probabilities: no softmax over the vocabulary."""

    def update(self, tokens: Tensor, logits: Tensor, sum_logprobs: Tensor) -> tuple[Tensor, bool]:
        best = logits.argmax(dim=-1)
        best[tokens[:, -1] == self.eot] = self.eot
        return torch.cat([tokens, best[:, None]], dim=-1), bool((best == self.eot).all())


class UnfinishedRows(PyTorchInference):
    """OpenAI's decoder for greedy search, without the rows whose text has ended.

    Rows are taken out once a quarter has ended, because that copies all keys and values.
    """

    def __init__(self, model: whisper.Whisper, initial_token_length: int, eot: int):
        super().__init__(model, initial_token_length)
        self.eot = eot

    def logits(self, tokens: Tensor, audio_features: Tensor) -> Tensor:
        """Return the logits (rows, tokens, vocabulary); they are 0 for rows that are taken out."""
        if not self.kv_cache:
            self.rows = torch.arange(len(tokens), device=tokens.device)
        unfinished = (tokens[self.rows, -1] != self.eot).nonzero()[:, 0]
        if len(unfinished) <= 0.75 * len(self.rows):
            self._keep(unfinished)
        computed = super().logits(tokens[self.rows], audio_features)
        if len(self.rows) == len(tokens):
            return computed
        logits = computed.new_zeros(len(tokens), *computed.shape[1:])
        logits[self.rows] = computed
        return logits

    def _keep(self, places: Tensor) -> None:
        self.rows = self.rows[places]
        for module, cached in self.kv_cache.items():
            self.kv_cache[module] = cached[places]
        key_bias = self.model.encoder.key_bias
        if key_bias.value is not None:
            key_bias.value = key_bias.value[places]


class LongestText(LogitFilter):
    """Ends each text at its maximum number of tokens.

    Args:
        most: shape (rows,): the maximum number of each row.
        begin: number of tokens of the prompt.
        eot: token that ends a text.
    """

    def __init__(self, most: Tensor, begin: int, eot: int):
        self.most, self.begin, self.eot = most, begin, eot

    def apply(self, logits: Tensor, tokens: Tensor) -> None:
        ended = tokens.shape[1] - self.begin >= self.most
        logits[ended] = -torch.inf
        logits[ended, self.eot] = 0


class BatchDecoding(DecodingTask):
    """OpenAI's decoding of encoded speech; beam search takes several utterances at a time.

    Args:
        model: the model.
        options: OpenAI's options.
        most: shape (utterances,): the maximum number of tokens of each text, beside those of
            `options`.
    """

    def __init__(self, model: whisper.Whisper, options: whisper.DecodingOptions, most: Tensor):
        super().__init__(model, options)
        rows = most.to(model.device).repeat_interleave(self.n_group)
        self.logit_filters.append(LongestText(rows, self.sample_begin, self.tokenizer.eot))
        if options.beam_size is None:
            eot = self.tokenizer.eot
            self.decoder = BestToken(0.0, eot)
            self.inference = UnfinishedRows(model, len(self.initial_tokens), eot)

    def _get_audio_features(self, encoded: Tensor) -> Tensor:
        key_bias = self.model.encoder.key_bias
        if key_bias.value is not None:
            key_bias.value = key_bias.value.repeat_interleave(self.n_group, dim=0)
        return encoded.repeat_interleave(self.n_group, dim=0)

    def _detect_language(self, audio_features: Tensor, tokens: Tensor) -> tuple[list[str], None]:
        return [self.options.language] * len(tokens), None


class WhisperModel(LoadedModel):
    """A Whisper for inference by OpenAI's decoding, on batches of utterances.

    Args:
        directory: holds ``model.pth``, a state dict with OpenAI's names, a quantised model, or a
            packed sub-network.
        prompts: the model's prompts and its ``whisper_conf``.
        device: torch device.
        own: options that hold for the weights in `directory`, until others are loaded or added.

    Raises:
        LorsError: the weights are missing, or not those of a model with these dimensions.
    """

    model: whisper.Whisper

    def __init__(
        self,
        directory: str | os.PathLike,
        prompts: WhisperPrompts,
        device: str = "cpu",
        own: OwnInference | None = None,
    ):
        quantised = is_quantised(directory)
        self.model_file = self.where = model_in(Path(directory))
        self.prompts = prompts
        self.device = torch.device(device)
        self._dtype = torch.float32
        self.model = new_whisper(prompts.conf).eval()
        if quantised:
            load_quantised(self.model, open_quantised(self.model_file))
        else:
            self.load_file()
        self.model.to(self.device)
        self.own_window = own and Window(own.window, prompts.conf.dims["n_audio_ctx"])

    def window(self, samples: int) -> Window:
        """Return the window for an utterance: that of the weights alone, unless it is too short."""
        own, common = self.own_window, self.prompts.conf.speech_window
        if own and (samples <= own.longest * SAMPLING_RATE or own.longest >= common.longest):
            return own
        return common

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        super().load_state(state)
        self.own_window = None

    def adapt(self, factors: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Add an adapter to a quantised model (:func:`lors.models.nf4_layers.adapt`)."""
        adapt(self.model, factors)
        self.own_window = None

    @torch.inference_mode()
    def transcribe(
        self, waveforms: Sequence[np.ndarray], pair: Pair, options: WhisperOptions
    ) -> list[str]:
        """Transcribe or translate by greedy or beam search, `batch_size` utterances at a time.

        Each utterance is encoded at a length that depends on itself alone, and no attention sees
        the positions that make the rows of a batch equally long: a text never depends on the other
        utterances.
        """
        self._set_dtype(dtype_of(options.dtype, self.device))
        lengths = [len(waveform) for waveform in waveforms]
        longest = self.window(max(lengths, default=0)).longest
        longer = sum(length > longest * SAMPLING_RATE for length in lengths)
        if longer:
            log.warning(
                "%d of %d utterances of %s are longer than the window: only the first %g s are "
                "decoded",
                *(longer, len(waveforms), pair, longest),
            )
        decoding = whisper.DecodingOptions(
            task=TASK_NAMES[pair.task],
            language=self.prompts.language(pair),
            beam_size=options.beam_size if options.beam_size > 1 else None,
            patience=options.patience if options.beam_size > 1 else None,
            length_penalty=options.length_penalty,
            sample_len=options.max_tokens or None,
            suppress_tokens="-1" if options.suppress_symbols else "",
            without_timestamps=True,
        )
        texts: dict[int, str] = {}
        for batch in self._batches(lengths, options.batch_size):
            encoded = self._encode([waveforms[i] for i in batch])
            most = [options.most_tokens(lengths[i] / SAMPLING_RATE) for i in batch]
            results = BatchDecoding(self.model, decoding, torch.tensor(most)).run(encoded)
            texts.update((i, result.text) for i, result in zip(batch, results, strict=True))
        return [texts[i] for i in range(len(waveforms))]

    def _batches(self, lengths: Sequence[int], size: int) -> Iterator[list[int]]:
        """Yield the numbers of utterances in batches of one window and of similar lengths."""
        by_length = sorted(range(len(lengths)), key=lengths.__getitem__)
        for window, group in groupby(by_length, lambda i: self.window(lengths[i])):
            self.model.encoder.window = window
            utterances = list(group)
            for start in range(0, len(utterances), size):
                yield utterances[start : start + size]

    def _encode(self, waveforms: Sequence[np.ndarray]) -> Tensor:
        """Encode utterances in ascending order of length; set the bias of their positions.

        Utterances that are padded to the same length are encoded together.

        Returns:
            (batch, longest number of positions, n_state).
        """
        encoded: list[Tensor] = []
        bias: list[Tensor] = []
        window = self.model.encoder.window
        for _, group in groupby(waveforms, lambda waveform: window.samples(len(waveform))):
            speech, samples = pad(list(group), window)
            mel = features(speech.to(self.device), window, self.model.dims.n_mels)
            encoded.extend(self.model.encoder(mel.to(self._dtype), samples))
            if self.model.encoder.key_bias.value is not None:
                bias.extend(self.model.encoder.key_bias.value)
        if bias:
            self.model.encoder.key_bias.value = pad_sequence(
                bias, batch_first=True, padding_value=-torch.inf
            )
        return pad_sequence(encoded, batch_first=True)

    def _set_dtype(self, dtype: torch.dtype) -> None:
        """Convert matrices and convolutions; norms stay in float32.

        Otherwise OpenAI's layers would convert the float32 weights at every use.
        """
        if self._dtype not in (torch.float32, dtype):
            raise ValueError(f"the weights have been rounded to {self._dtype}")
        self._dtype = dtype
        for module in self.model.modules():
            if isinstance(module, Nf4Weight):
                continue  # OpenAI's layers convert what they dequantise
            if isinstance(module, (nn.Linear, nn.Conv1d, nn.Embedding)):
                module.to(dtype)
