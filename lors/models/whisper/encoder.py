"""Whisper's features and modules, for windows of any length."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache

import numpy as np
import torch
import whisper
from torch import Tensor
from torch.nn import functional
from whisper.audio import HOP_LENGTH, N_FFT, mel_filters
from whisper.model import AudioEncoder, ModelDimensions, MultiHeadAttention

from lors.export.whisper_audio import SAMPLES_PER_POSITION
from lors.models.recogniser import pad_to
from lors.models.whisper.conf import WhisperConf
from lors.models.whisper.window import Window

DYNAMIC_RANGE = 8.0  # in powers of ten, below the loudest bin of an utterance
SILENT_POSITIONS = 3
"""Positions after the longest head of a batch: the first of them hears silence alone, and the
convolutions' own padding reaches the last one only."""


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


def pad(waveforms: Sequence[np.ndarray], window: Window) -> tuple[Tensor, Tensor]:
    """Pad or trim waveforms to the window.

    Returns:
        Float32 of shape (batch, longest padded length), and int64 of shape (batch,): the number of
        samples that each waveform is padded to.
    """
    samples = [window.samples(len(waveform)) for waveform in waveforms]
    trimmed = [w[:n] for w, n in zip(waveforms, samples, strict=True)]
    return pad_to(trimmed, max(samples)), torch.tensor(samples)


class KeyBias:
    """Bias of the attention scores of the encoder's positions, for the current batch.

    The encoder sets `value`; its own layers and the decoder's cross-attention read it.

    Attributes:
        value: shape (batch, positions); None if every position counts once.
    """

    value: Tensor | None = None


class WeightedAttention(MultiHeadAttention):
    """OpenAI's attention over the encoder's positions, each with its own weight."""

    def __init__(self, n_state: int, n_head: int, key_bias: KeyBias):
        super().__init__(n_state, n_head)
        self.key_bias = key_bias

    def qkv_attention(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the attention's output (batch, queries, n_state), and OpenAI's second value."""
        bias = self.key_bias.value
        if bias is None:
            return super().qkv_attention(q, k, v, mask)
        query, key, value = (x.unflatten(2, (self.n_head, -1)).transpose(1, 2) for x in (q, k, v))
        scores = bias.to(q.dtype)[:, None, None, :].expand(-1, 1, q.shape[1], -1)
        out = functional.scaled_dot_product_attention(query, key, value, attn_mask=scores)
        return out.transpose(1, 2).flatten(start_dim=2), None


class WindowEncoder(AudioEncoder):
    """OpenAI's encoder for windows of any length."""

    def __init__(self, *sizes: int, window: Window, key_bias: KeyBias):
        super().__init__(*sizes)
        self.window, self.key_bias = window, key_bias

    def forward(self, mel: Tensor, samples: Tensor | None = None) -> Tensor:
        """Encode features.

        Args:
            mel: (batch, n_mels, frames), from :func:`features`.
            samples: (batch,), from :func:`pad`; only read for the window ``auto``.

        Returns:
            (batch, positions, n_state). For the window ``auto``, rows with fewer positions are
            padded; no attention sees the padding.
        """
        x = functional.gelu(self.conv1(mel))
        x = functional.gelu(self.conv2(x)).permute(0, 2, 1)
        if self.window.is_auto:
            if samples is None:
                raise ValueError("the window auto needs the number of samples of each row")
            x = self._thin_out(x, samples.tolist())
        else:
            self.key_bias.value = None
            x = (x + self.positional_embedding[: x.shape[1]]).to(x.dtype)
        for block in self.blocks:
            x = block(x)
        return self.ln_post(x)

    def _thin_out(self, x: Tensor, samples: list[int]) -> Tensor:
        """Choose the positions of each row, add their embeddings, and set the bias of the keys."""
        layouts = [_layout(self.window, n) for n in samples]
        longest = max(len(positions) for positions, _ in layouts)
        positions = torch.stack([functional.pad(p, (0, longest - len(p))) for p, _ in layouts])
        padding = -torch.inf
        bias = [functional.pad(b, (0, longest - len(b)), value=padding) for _, b in layouts]
        self.key_bias.value = torch.stack(bias).to(x.device)
        heads = torch.tensor(samples, device=x.device) // SAMPLES_PER_POSITION
        positions = positions.to(x.device)
        # Every position of the silence has the same convolution output as the last whole one.
        silence = x.shape[1] - 2
        source = torch.where(positions < heads[:, None], positions, silence)
        chosen = x.gather(1, source[:, :, None].expand(-1, -1, x.shape[2]))
        return (chosen + self.positional_embedding[positions]).to(x.dtype)


@lru_cache(maxsize=256)
def _layout(window: Window, samples: int) -> tuple[Tensor, Tensor]:
    """Return the positions and the bias of their keys, both of shape (positions,)."""
    positions, sizes = zip(*window.layout(samples), strict=True)
    return torch.tensor(positions), torch.tensor(sizes, dtype=torch.float32).log()


def features(speech: Tensor, window: Window, n_mels: int) -> Tensor:
    """Return the encoder's input for padded speech: (batch, n_mels, frames).

    Args:
        speech: float32 of shape (batch, samples), from :func:`pad`.
        window: the model's window.
        n_mels: 80 or 128.
    """
    if window.is_auto:
        speech = functional.pad(speech, (0, SILENT_POSITIONS * SAMPLES_PER_POSITION))
    return log_mel(speech, n_mels)


def new_whisper(conf: WhisperConf) -> whisper.Whisper:
    """Return a Whisper with random weights whose encoder takes the window of `conf`."""
    dims, key_bias = conf.dims, KeyBias()
    model = whisper.Whisper(ModelDimensions(**dims))
    ctx, state, head, layer = (dims[f"n_audio_{n}"] for n in ("ctx", "state", "head", "layer"))
    window = conf.speech_window
    sizes = (dims["n_mels"], ctx, state, head, layer)
    model.encoder = WindowEncoder(*sizes, window=window, key_bias=key_bias)
    if window.is_auto:
        for block in model.encoder.blocks:
            block.attn = WeightedAttention(state, head, key_bias)
        for block in model.decoder.blocks:
            block.cross_attn = WeightedAttention(
                dims["n_text_state"], dims["n_text_head"], key_bias
            )
    return model
