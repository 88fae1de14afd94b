"""Inference with ESPnet's S2T models: batched greedy search, or ESPnet's beam search.

Speech is padded or trimmed to the model's fixed length, in training and inference alike. So the
hypothesis of an utterance does not depend on its batch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from lors.checkpoint.places import model_in
from lors.checkpoint.quantised import is_quantised, open_quantised
from lors.errors import LorsError
from lors.models.espnet_s2t.prompts import S2TOptions, prompt_symbols
from lors.models.nf4_layers import adapt, load_quantised
from lors.models.recogniser import LoadedModel, pad_to
from lors.tasks import Pair

if TYPE_CHECKING:
    from espnet.nets.pytorch_backend.transformer.attention import MultiHeadedAttention
    from espnet2.asr.decoder.transformer_decoder import TransformerDecoder

Layer = Callable[[torch.Tensor], torch.Tensor]


class S2TModel(LoadedModel):
    """An ESPnet S2T model for inference.

    Args:
        directory: holds ``model.pth`` (a state dict), a quantised model or a packed sub-network,
            and ``config.yaml``.
        device: torch device.

    Raises:
        LorsError: a file is missing, or the batched search does not support the decoder.
    """

    def __init__(self, directory: str | os.PathLike, device: str = "cpu"):
        # ESPnet takes seconds to import.
        from espnet2.bin.s2t_inference import Speech2Text

        self._quantised = is_quantised(directory)
        self.model_file = model_in(Path(directory))
        self.config = self.where = Path(directory) / "config.yaml"
        for path in (self.model_file, self.config):
            if not path.exists():
                raise LorsError(
                    "model file not found", where=path, hint="run the stage that makes it"
                )
        self.device = device
        self._beam_options = {
            "s2t_train_config": str(self.config),
            # ESPnet reads neither a quantised model nor a packed sub-network.
            "s2t_model_file": str(self.model_file) if self.model_file.suffix == ".pth" else None,
            "device": device,
        }
        self._speech2text = Speech2Text(beam_size=1, **self._beam_options)
        self.model = self._speech2text.s2t_model
        self._factors: Mapping[str, tuple[torch.Tensor, torch.Tensor]] = {}
        if self._quantised:
            load_quantised(self.model, open_quantised(self.model_file))
        elif self.model_file.suffix != ".pth":
            self.load_file()
        self._check_decoder()
        conf = self._speech2text.preprocessor_conf
        self.samples = int(conf["fs"] * conf["speech_length"])
        tokens = self.model.token_list
        self._token_id = {token: index for index, token in enumerate(tokens)}
        # Without timestamps in the prompt, ESPnet's search emits no timestamps (its ScoreFilter).
        first, last = (self._token_id[conf[f"{end}_time_symbol"]] for end in ("first", "last"))
        self._forbidden = slice(first, last + 1)

    def _check_decoder(self) -> None:
        from espnet2.asr.decoder.transformer_decoder import TransformerDecoder

        decoder = self.model.decoder
        known = isinstance(decoder, TransformerDecoder) and all(
            layer.normalize_before and not layer.concat_after and layer.sequential_attn is None
            for layer in decoder.decoders
        )
        if not known:
            raise LorsError(
                "batched search supports pre-norm transformer decoders only",
                where=self.config,
                got=type(decoder).__name__,
                hint="decode with espnet2.bin.s2t_inference",
            )

    def adapt(self, factors: Mapping[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Add an adapter to a quantised model (:func:`lors.models.nf4_layers.adapt`)."""
        self._factors = factors
        adapt(self.model, factors)

    def _prompt(self, pair: Pair) -> list[int]:
        symbols = prompt_symbols(pair)
        missing = [symbol for symbol in symbols if symbol not in self._token_id]
        if missing:
            raise LorsError(
                f"the model does not know {' '.join(missing)}",
                where=self.config,
                hint="choose languages and tasks that are in its token_list",
            )
        return [self.model.sos, *(self._token_id[symbol] for symbol in symbols)]

    def _text(self, token_ids: Sequence[int]) -> str:
        tokens = [self.model.token_list[i] for i in token_ids if i != self.model.blank_id]
        plain = [token for token in tokens if not (token[0] == "<" and token[-1] == ">")]
        return self._speech2text.tokenizer.tokens2text(plain)

    def transcribe(
        self, waveforms: Sequence[np.ndarray], pair: Pair, options: S2TOptions
    ) -> list[str]:
        """Transcribe or translate by batched greedy search, or by ESPnet's beam search.

        The result of greedy search equals that of ESPnet's ``Speech2Text`` with ``beam_size=1,
        ctc_weight=0`` and the same `maxlenratio`.
        """
        self.model.eval()
        prompt = self._prompt(pair)
        if not options.is_greedy:
            return self._beam(waveforms, pair, options)
        texts: list[str] = []
        for start in range(0, len(waveforms), options.batch_size):
            batch = waveforms[start : start + options.batch_size]
            for ids in self._greedy(self._encode(batch), prompt, options.maxlenratio):
                texts.append(self._text(ids))
        return texts

    @torch.inference_mode()
    def _encode(self, waveforms: Sequence[np.ndarray]) -> torch.Tensor:
        """Return the encoder output (batch, time, size) of padded or trimmed speech."""
        speech = pad_to(waveforms, self.samples)
        lengths = torch.full((len(waveforms),), self.samples, device=self.device)
        return self.model.encode(speech.to(self.device), lengths)[0]

    @torch.inference_mode()
    def _greedy(
        self, encoded: torch.Tensor, prompt: list[int], maxlenratio: float
    ) -> list[list[int]]:
        """Return token ids without prompt and <eos>; `encoded` has shape (batch, time, size)."""
        tokens = torch.tensor([prompt], device=encoded.device).repeat(len(encoded), 1)
        step = _IncrementalDecoder(self.model.decoder, encoded)
        finished = torch.zeros(len(tokens), dtype=torch.bool, device=encoded.device)
        start = tokens.size(1)
        for _ in range(max(1, int((maxlenratio or 1.0) * encoded.size(1)))):
            logits = step(tokens)
            logits[:, self._forbidden] = -torch.inf
            best = logits.argmax(dim=-1)
            best[finished] = self.model.eos
            tokens = torch.cat([tokens, best[:, None]], dim=1)
            finished |= best == self.model.eos
            if bool(finished.all()):
                break
        return [
            row[: row.index(self.model.eos)] if self.model.eos in row else row
            for row in tokens[:, start:].tolist()
        ]

    def _beam(self, waveforms: Sequence[np.ndarray], pair: Pair, options: S2TOptions) -> list[str]:
        """Return the texts of ESPnet's beam search, which takes one utterance at a time."""
        from espnet2.bin.s2t_inference import Speech2Text

        search = Speech2Text(
            beam_size=options.beam_size,
            ctc_weight=options.ctc_weight,
            penalty=options.penalty,
            maxlenratio=options.maxlenratio,
            **self._beam_options,
        )
        if self._quantised:
            load_quantised(search.s2t_model, open_quantised(self.model_file))
            adapt(search.s2t_model, self._factors)
        else:
            search.s2t_model.load_state_dict(self.model.state_dict())
        language, task, _ = prompt_symbols(pair)
        return [search(waveform, lang_sym=language, task_sym=task)[0][3] for waveform in waveforms]


class _IncrementalDecoder:
    """A decoder for one token at a time, with cached keys and values of both attentions.

    The cache of ESPnet holds layer outputs instead: for every token it projects the whole encoder
    output to keys and values again.
    """

    def __init__(self, decoder: TransformerDecoder, encoded: torch.Tensor):
        self.decoder = decoder
        self.source = [
            (_heads(a, a.linear_k, a.k_norm, encoded), _heads(a, a.linear_v, None, encoded))
            for a in (layer.src_attn for layer in decoder.decoders)
        ]
        self.past: list[tuple[torch.Tensor, torch.Tensor] | None] = [None] * len(self.source)
        self.length = 0

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the logits (batch, vocabulary) of the token after `tokens`."""
        # The embedding adds positions, so it needs the whole prefix; the layers need the new part.
        x = self.decoder.embed(tokens)[:, self.length :]
        causal = x.size(1) > 1  # the prompt, in the first call
        self.length = tokens.size(1)
        for index, layer in enumerate(self.decoder.decoders):
            attention = layer.self_attn
            y = layer.norm1(x)
            key = _heads(attention, attention.linear_k, attention.k_norm, y)
            value = _heads(attention, attention.linear_v, None, y)
            if (past := self.past[index]) is not None:
                key = torch.cat([past[0], key], dim=2)
                value = torch.cat([past[1], value], dim=2)
            self.past[index] = (key, value)
            x = x + _attend(attention, y, key, value, causal)
            x = x + _attend(layer.src_attn, layer.norm2(x), *self.source[index], False)
            x = x + layer.feed_forward(layer.norm3(x))
        return self.decoder.output_layer(self.decoder.after_norm(x[:, -1]))


def _heads(
    attention: MultiHeadedAttention, linear: Layer, norm: Layer | None, x: torch.Tensor
) -> torch.Tensor:
    """Project (batch, time, size) to (batch, heads, time, size / heads)."""
    y = linear(x).unflatten(-1, (attention.h, attention.d_k)).transpose(1, 2)
    return y if norm is None else norm(y)


def _attend(
    attention: MultiHeadedAttention,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    causal: bool,
) -> torch.Tensor:
    """Return the attention of a query over projected keys and values."""
    q = _heads(attention, attention.linear_q, attention.q_norm, query)
    y = torch.nn.functional.scaled_dot_product_attention(q, key, value, is_causal=causal)
    return attention.linear_out(y.transpose(1, 2).flatten(2))
