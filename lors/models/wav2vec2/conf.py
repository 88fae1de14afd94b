"""Configuration of a wav2vec 2.0 model: structure, vocabulary, training, inference."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from lors.config import Range
from lors.errors import LorsError, pip_install
from lors.models.family import InferenceOptions

SAMPLING_RATE = 16000
KERNELS, STRIDES = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)
"""Widths and steps of the convolutions, unless a configuration has others."""
IN_TRAINING = frozenset(
    {
        *("hidden_dropout", "activation_dropout", "attention_dropout", "feat_proj_dropout"),
        *("feat_quantizer_dropout", "final_dropout", "layerdrop", "apply_spec_augment"),
        *("mask_time_prob", "mask_time_length", "mask_time_min_masks"),
        *("mask_feature_prob", "mask_feature_length", "mask_feature_min_masks"),
        *("num_negatives", "contrastive_logits_temperature", "diversity_loss_weight"),
    }
)
"""Keys of transformers' configuration that concern training and leave the weights as they are."""
Objective = Literal["ctc", "contrastive"]


@dataclass(frozen=True)
class Wav2Vec2Conf:
    """``wav2vec2_conf`` in the ``config.yaml`` of a model: the same in training and inference.

    Attributes:
        config: keys of transformers' ``Wav2Vec2Config``; others have its defaults.
        tokens: vocabulary of the CTC layer, as in :mod:`lors.models.wav2vec2.vocabulary`; empty: a
            model in pre-training, without that layer.
        normalise: whether every waveform is brought to mean 0 and variance 1.
    """

    config: dict[str, Any]
    tokens: tuple[str, ...] = ()
    normalise: bool = True

    @property
    def pads(self) -> bool:
        """Whether utterances of different lengths can be computed together.

        A model whose first convolution has a group norm over time cannot: the norm sees the
        padding. Its published relatives are trained without attention masks.
        """
        return self.config.get("feat_extract_norm", "group") == "layer"

    @property
    def shortest(self) -> int:
        """Samples of the shortest waveform that gives a frame."""
        samples = 1
        convolutions = list(zip(*self._convolutions, strict=True))
        for kernel, stride in reversed(convolutions):
            samples = (samples - 1) * stride + kernel
        return samples

    def frames(self, samples: int) -> int:
        """Return the number of frames of a waveform."""
        for kernel, stride in zip(*self._convolutions, strict=True):
            samples = max(0, (samples - kernel) // stride + 1)
        return samples

    @property
    def _convolutions(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        kernels, strides = self.config.get("conv_kernel"), self.config.get("conv_stride")
        return tuple(kernels or KERNELS), tuple(strides or STRIDES)


@dataclass(frozen=True)
class TrainingConf:
    """``model_conf`` of a training configuration.

    Attributes:
        objective: the loss: ``ctc`` on the characters of the transcript, or ``contrastive`` of the
            pre-training, which needs no transcript.
        freeze_feature_encoder: leave the convolutions as they are, as usual in fine-tuning.
        gumbel_temperature: of the quantizer, for ``contrastive``; the same in all steps.
        config: keys of `IN_TRAINING` that differ from those of the model.
        extract_feats_in_collect_stats: option of ESPnet, which then collects shapes only.
    """

    objective: Objective = "ctc"
    freeze_feature_encoder: bool = False
    gumbel_temperature: Annotated[float, Range(0.01, 100)] = 2.0
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    extract_feats_in_collect_stats: bool = False


@dataclass(frozen=True)
class Wav2Vec2Options(InferenceOptions):
    """Options of ``conf/inference_*.yaml`` for wav2vec 2.0: greedy search of CTC only."""

    beam_size: Annotated[int, Range(1, 1)] = 1
    batch_size: Annotated[int, Range(1)] = 16

    def greedy(self) -> Wav2Vec2Options:
        return self


def check_keys(config: Mapping[str, Any], known: frozenset[str] | set[str], where: object) -> None:
    """Check the keys of a part of transformers' configuration; LorsError with all unknown ones."""
    if unknown := sorted(set(config) - known):
        raise LorsError(
            "unknown keys of a wav2vec 2.0 configuration",
            where=where,
            expected=f"keys among {', '.join(sorted(known))}",
            got=unknown,
        )


def check_transformers() -> None:
    """Check that the package transformers is installed, without importing it.

    Raises:
        LorsError: it is not.
    """
    if importlib.util.find_spec("transformers") is None:
        raise LorsError(
            "wav2vec 2.0 needs the Python package transformers",
            where="--model_family wav2vec2",
            hint="install it into the environment of the recipes (the extra wav2vec2 of lors): "
            + pip_install("'transformers>=5'"),
        )
