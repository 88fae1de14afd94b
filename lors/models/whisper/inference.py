"""Whisper's modules for training and inference, on windows of any length."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
import whisper
from torch import Tensor, nn
from torch.nn import functional
from whisper.audio import HOP_LENGTH, N_FFT, SAMPLE_RATE, mel_filters
from whisper.decoding import DecodingTask, GreedyDecoder
from whisper.model import AudioEncoder, ModelDimensions

from lors.checkpoint.reader import Checkpoint
from lors.models.recogniser import load_weights, pad_to
from lors.models.whisper.conf import WhisperOptions
from lors.models.whisper.prompts import TASK_NAMES, WhisperPrompts
from lors.tasks import Pair

log = logging.getLogger(__name__)
DYNAMIC_RANGE = 8.0  # in powers of ten, below the loudest bin of an utterance


class WindowEncoder(AudioEncoder):
    """OpenAI's encoder without the check that its input has thirty seconds."""

    def forward(self, x: Tensor) -> Tensor:
        """Encode features (batch, n_mels, frames) as (batch, ceil(frames / 2), n_state)."""
        x = functional.gelu(self.conv1(x))
        x = functional.gelu(self.conv2(x))
        x = x.permute(0, 2, 1)
        x = (x + self.positional_embedding[: x.shape[1]]).to(x.dtype)
        for block in self.blocks:
            x = block(x)
        return self.ln_post(x)


def new_whisper(dims: Mapping[str, int]) -> whisper.Whisper:
    """Return a Whisper with random weights whose encoder takes windows of any length."""
    model = whisper.Whisper(ModelDimensions(**dims))
    audio = [dims[f"n_audio_{name}"] for name in ("ctx", "state", "head", "layer")]
    model.encoder = WindowEncoder(dims["n_mels"], *audio)
    return model


@cache
def _window_of_fft(device: torch.device) -> Tensor:
    return torch.hann_window(N_FFT, device=device)


def log_mel(waveforms: Tensor, n_mels: int) -> Tensor:
    """Return Whisper's features of a batch.

    The features of one utterance are those of ``whisper.log_mel_spectrogram``. For a batch, that
    function takes the limit of the dynamic range from the loudest utterance; here each utterance
    has its own limit.

    Args:
        waveforms: 16 kHz, float32 of shape (batch, samples).
        n_mels: 80 or 128.

    Returns:
        Float32 of shape (batch, n_mels, samples / 160).
    """
    window = _window_of_fft(waveforms.device)
    spectrum = torch.stft(waveforms, N_FFT, HOP_LENGTH, window=window, return_complex=True)
    power = spectrum[..., :-1].abs() ** 2
    mel = (mel_filters(waveforms.device, n_mels) @ power).clamp(min=1e-10).log10()
    mel = torch.maximum(mel, mel.amax(dim=(1, 2), keepdim=True) - DYNAMIC_RANGE)
    return (mel + 4.0) / 4.0


def pad(waveforms: Sequence[np.ndarray], window: float) -> Tensor:
    """Pad or trim waveforms to `window` seconds: float32 of shape (batch, samples)."""
    return pad_to(waveforms, round(window * SAMPLE_RATE))


class BestToken(GreedyDecoder):
    """OpenAI's greedy search without log probabilities: no softmax over the vocabulary."""

    def update(self, tokens: Tensor, logits: Tensor, sum_logprobs: Tensor) -> tuple[Tensor, bool]:
        best = logits.argmax(dim=-1)
        best[tokens[:, -1] == self.eot] = self.eot
        return torch.cat([tokens, best[:, None]], dim=-1), bool((best == self.eot).all())


class BatchDecoding(DecodingTask):
    """OpenAI's decoding, changed so that beam search takes several utterances at a time."""

    def __init__(self, model: whisper.Whisper, options: whisper.DecodingOptions):
        super().__init__(model, options)
        if options.beam_size is None:
            self.decoder = BestToken(0.0, self.tokenizer.eot)

    def _get_audio_features(self, mel: Tensor) -> Tensor:
        return super()._get_audio_features(mel).repeat_interleave(self.n_group, dim=0)

    def _detect_language(self, audio_features: Tensor, tokens: Tensor) -> tuple[list[str], None]:
        return [self.options.language] * len(tokens), None


class WhisperModel:
    """A Whisper for inference by OpenAI's decoding, on batches of utterances.

    Args:
        directory: holds ``model.pth``, a state dict with OpenAI's names.
        prompts: the model's prompts and its ``whisper_conf``.
        device: torch device.

    Raises:
        LorsError: the weights are missing, or not those of a model with these dimensions.
    """

    def __init__(self, directory: str | os.PathLike, prompts: WhisperPrompts, device: str = "cpu"):
        self.model_file = Path(directory) / "model.pth"
        self.prompts = prompts
        self.device = torch.device(device)
        self._half = False
        self.model = new_whisper(prompts.conf.dims).eval()
        checkpoint = Checkpoint.open(self.model_file)
        self.load_state({name: checkpoint.tensor(name) for name in checkpoint.names()})
        self.model.to(self.device)

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Replace all weights.

        Raises:
            LorsError: names or shapes differ from the model's.
        """
        load_weights(self.model, state, self.model_file)

    @torch.inference_mode()
    def transcribe(
        self, waveforms: Sequence[np.ndarray], pair: Pair, options: WhisperOptions
    ) -> list[str]:
        """Transcribe or translate by greedy or beam search, `batch_size` utterances at a time."""
        half = options.dtype == "float16" or (
            options.dtype == "auto" and self.device.type == "cuda"
        )
        self._set_half(half)
        window = self.prompts.conf.window
        longer = sum(len(waveform) > window * SAMPLE_RATE for waveform in waveforms)
        if longer:
            log.warning(
                "%d of %d utterances of %s are longer than the window: only the first %g s are "
                "decoded",
                *(longer, len(waveforms), pair, window),
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
            fp16=half,
        )
        texts: list[str] = []
        for start in range(0, len(waveforms), options.batch_size):
            batch = pad(waveforms[start : start + options.batch_size], window)
            mel = log_mel(batch.to(self.device), self.model.dims.n_mels)
            texts += [result.text for result in BatchDecoding(self.model, decoding).run(mel)]
        return texts

    def _set_half(self, half: bool) -> None:
        """Convert matrices and convolutions to float16; norms stay in float32.

        Otherwise OpenAI's layers would convert the float32 weights at every use.
        """
        if self._half and not half:
            raise ValueError("the weights have been rounded to float16")
        self._half = half
        for module in self.model.modules():
            if isinstance(module, (nn.Linear, nn.Conv1d, nn.Embedding)):
                module.to(torch.float16 if half else torch.float32)
