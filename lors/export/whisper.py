"""Export a Whisper model as a file of OpenAI or as a complete Hugging Face directory.

The directory has weights, configuration, tokenizer and feature extraction. All are made from the
weights, their dimensions and the vocabulary in openai-whisper.
"""

from __future__ import annotations

import functools
import itertools
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from lors.checkpoint.expert import RenamedCheckpoint, is_change, open_expert, open_model
from lors.checkpoint.finite import all_finite
from lors.checkpoint.hub import local_path
from lors.checkpoint.masks import check_unmasked
from lors.checkpoint.naming import names_in
from lors.checkpoint.reader import Checkpoint
from lors.checkpoint.whisper_dims import whisper_dims, whisper_shapes
from lors.checkpoint.writer import CheckpointWriter
from lors.errors import LorsError, UsageError, shortened
from lors.export.whisper_audio import (
    HOP_LENGTH,
    N_FFT,
    POSITIONS,
    POSITIONS_PER_SECOND,
    SAMPLES_PER_POSITION,
    SAMPLING_RATE,
)
from lors.export.whisper_tokenizer import WhisperTokens, tokenizer_files
from lors.export.whisper_vocabulary import whisper_tokens
from lors.fileio import atomic_directory, write_json, write_text
from lors.log import show_progress

MAX_INITIAL_TIMESTAMP = 50
"""Latest first timestamp, in steps of 20 ms: 1 s, the default of openai-whisper."""
MODEL_FILES = (".pt", ".pth", ".safetensors", ".bin")
"""Suffixes, in lower case, of model files; a directory is not given such a name."""


def export_whisper(
    model: str | os.PathLike,
    out: str | os.PathLike,
    dtype: torch.dtype | None = None,
    base: str | os.PathLike | None = None,
) -> None:
    """Write a Whisper model for other programs.

    Args:
        model: a Whisper in the naming scheme of OpenAI, Hugging Face or ESPnet, in any file format
            that :meth:`lors.checkpoint.reader.Checkpoint.open` reads, or its name on the Hub.
        out: a file of OpenAI if the name ends in ``.pt`` (for ``whisper.load_model``), otherwise a
            Hugging Face directory, which must be new or empty.
        dtype: dtype of the written weights; by default unchanged.
        base: base model of `model`, if that is an adapter or the file of a task vector.

    Raises:
        UsageError: `out` is the model itself, exists already, or has the suffix of another file.
        LorsError: the model cannot be read, is not a complete Whisper or (for Hugging Face) not a
            multi-lingual one, has masks, is an adapter or a task vector without `base`, a weight is
            too large for `dtype`, or writing fails.
    """
    out = Path(out)
    if out.suffix != ".pt" and out.suffix.lower() in MODEL_FILES:
        raise UsageError(
            "a Whisper model is exported to a file of OpenAI or to a Hugging Face directory",
            where=out,
            expected="a name that ends in .pt, or the name of a directory",
        )
    if Path(model).resolve() == out.resolve():
        raise UsageError("the exported model would overwrite the model itself", where=out)
    if base is None and is_change(model):
        raise LorsError(
            "this holds only the change of a base model, not a full model",
            where=model,
            hint="give its base model too, with --base",
        )
    checkpoint, dims = open_whisper(model, base)
    if out.suffix == ".pt":
        write_weights(checkpoint, dims, "openai", out, dtype)
    else:
        tokens = whisper_tokens(dims, checkpoint.path if base is None else local_path(base))
        widest = functools.reduce(torch.promote_types, _dtypes(checkpoint, dtype).values())
        with atomic_directory(out) as folder:
            for name, content in hugging_face_files(dims, tokens, widest).items():
                write = write_text if isinstance(content, str) else write_json
                write(folder / name, content)
            write_weights(checkpoint, dims, "huggingface", folder / "model.safetensors", dtype)
    logging.info("exported %s to %s", checkpoint.path, out)


def open_whisper(
    path: str | os.PathLike, base: str | os.PathLike | None = None
) -> tuple[Checkpoint, dict[str, int]]:
    """Open a Whisper model in any file format and naming scheme.

    Args:
        path: the model.
        base: its base model, if `path` is an adapter or the file of a task vector.

    Returns:
        The model under OpenAI's names, and its dimensions.

    Raises:
        LorsError: the file cannot be read, is not a complete Whisper model, or has masks
            (:func:`lors.checkpoint.masks.check_unmasked`).
    """
    described = open_model(path if base is None else base)
    try:
        name_of = {new: old for old, new in names_in("openai", described.names()).items()}
    except LorsError as error:
        raise LorsError(
            "not a Whisper: it has tensors that no Whisper has",
            where=described.path,
            expected=error.expected,
            got=error.got,
            hint="give a Whisper; recipes take other kinds of models by another --model_family",
        ) from None
    dims = whisper_dims(RenamedCheckpoint(described, name_of))
    model = described if base is None else open_expert(described, path)
    for opened in (described, model):
        check_unmasked(opened.path)
    model = RenamedCheckpoint(model, name_of)
    _check_complete(model, dims)
    return model, dims


def hugging_face_files(
    dims: Mapping[str, int], tokens: WhisperTokens, dtype: torch.dtype
) -> dict[str, Any]:
    """Return the files of a Hugging Face directory except the weights.

    Args:
        dims: dimensions, from :func:`lors.checkpoint.whisper_dims.whisper_dims`.
        tokens: the tokens of the model.
        dtype: the dtype in which to load the weights.

    Returns:
        File name -> content: a str for a text file, any other value for a JSON file.
    """
    return {
        "config.json": _config(dims, tokens, dtype),
        "generation_config.json": _generation_config(dims, tokens),
        "preprocessor_config.json": _preprocessor_config(dims),
        **tokenizer_files(tokens, dims["n_text_ctx"]),
    }


def _config(dims: Mapping[str, int], tokens: WhisperTokens, dtype: torch.dtype) -> dict[str, Any]:
    return {
        "activation_dropout": 0.0,
        "activation_function": "gelu",
        "architectures": ["WhisperForConditionalGeneration"],
        "attention_dropout": 0.0,
        "bos_token_id": tokens.eot,
        "d_model": dims["n_audio_state"],
        "decoder_attention_heads": dims["n_text_head"],
        "decoder_ffn_dim": 4 * dims["n_text_state"],
        "decoder_layers": dims["n_text_layer"],
        "decoder_start_token_id": tokens.sot,
        "dropout": 0.0,
        "encoder_attention_heads": dims["n_audio_head"],
        "encoder_ffn_dim": 4 * dims["n_audio_state"],
        "encoder_layers": dims["n_audio_layer"],
        "eos_token_id": tokens.eot,
        "is_encoder_decoder": True,
        "max_source_positions": dims["n_audio_ctx"],
        "max_target_positions": dims["n_text_ctx"],
        "model_type": "whisper",
        "num_mel_bins": dims["n_mels"],
        "pad_token_id": tokens.eot,
        "scale_embedding": False,
        "tie_word_embeddings": True,
        "torch_dtype": str(dtype).removeprefix("torch."),
        "use_cache": True,
        "vocab_size": dims["n_vocab"],
    }


def _generation_config(dims: Mapping[str, int], tokens: WhisperTokens) -> dict[str, Any]:
    layers, heads = dims["n_text_layer"], dims["n_text_head"]
    return {
        # For word timestamps: the default of openai-whisper for models that are not official.
        "alignment_heads": [
            list(pair) for pair in itertools.product(range(layers // 2, layers), range(heads))
        ],
        "begin_suppress_tokens": tokens.blank,
        "bos_token_id": tokens.eot,
        "decoder_start_token_id": tokens.sot,
        "eos_token_id": tokens.eot,
        "is_multilingual": True,
        "lang_to_id": tokens.languages,
        "max_initial_timestamp_index": MAX_INITIAL_TIMESTAMP,
        "max_length": dims["n_text_ctx"],
        "no_timestamps_token_id": tokens.no_timestamps,
        "pad_token_id": tokens.eot,
        "prev_sot_token_id": tokens.sot_prev,
        "return_timestamps": False,
        "suppress_tokens": tokens.suppressed,
        "task_to_id": tokens.tasks,
    }


def _preprocessor_config(dims: Mapping[str, int]) -> dict[str, Any]:
    positions = dims["n_audio_ctx"]
    if positions != POSITIONS:
        logging.warning(
            "the encoder takes %g s of audio: use it with transformers (call the processor with "
            "max_length=%d); faster-whisper and transcribe() of openai-whisper always give it 30 s",
            positions / POSITIONS_PER_SECOND,
            positions * SAMPLES_PER_POSITION,
        )
    # A feature extractor has a length in whole seconds.
    seconds = max(1, positions // POSITIONS_PER_SECOND)
    samples = seconds * SAMPLING_RATE
    return {
        "chunk_length": seconds,
        "feature_extractor_type": "WhisperFeatureExtractor",
        "feature_size": dims["n_mels"],
        "hop_length": HOP_LENGTH,
        "n_fft": N_FFT,
        "n_samples": samples,
        "nb_max_frames": samples // HOP_LENGTH,
        "padding_side": "right",
        "padding_value": 0.0,
        "processor_class": "WhisperProcessor",
        "return_attention_mask": False,
        "sampling_rate": SAMPLING_RATE,
    }


def _check_complete(model: Checkpoint, dims: Mapping[str, int]) -> None:
    """Check that a model has exactly the tensors of a Whisper with these dimensions.

    Programs that load an incomplete model would initialise the missing tensors at random.

    Raises:
        LorsError: tensors are missing, superfluous or of another shape, or the numbers of heads do
            not divide the widths.
    """
    expected = whisper_shapes(dims)
    got = {name: model.shape(name) for name in model.names()}
    problems = [
        f"{name}: shape {list(got[name])}, not {list(shape)}" if name in got else f"{name}: missing"
        for name, shape in expected.items()
        if got.get(name) != shape
    ]
    problems += [f"{name}: not a tensor of Whisper" for name in got if name not in expected]
    for side in ("audio", "text"):
        width, heads = dims[f"n_{side}_state"], dims[f"n_{side}_head"]
        if heads < 1 or width % heads:
            problems.append(f"a width of {width} cannot be divided by {heads} heads")
    if dims["n_audio_state"] != dims["n_text_state"]:
        problems.append("encoder and decoder have different widths")
    if problems:
        raise LorsError(
            "this is not a complete Whisper model", where=model.path, got=shortened(problems, 20)
        )


def _dtypes(model: Checkpoint, dtype: torch.dtype | None) -> dict[str, torch.dtype]:
    return {name: dtype or model.dtype(name) for name in model.names()}


def write_weights(
    model: Checkpoint,
    dims: Mapping[str, int],
    scheme: str,
    path: Path,
    dtype: torch.dtype | None,
) -> None:
    """Write the weights of a Whisper model, one tensor at a time, in OpenAI's order.

    Args:
        model: the model, from :func:`open_whisper`.
        dims: its dimensions, from the same function.
        scheme: naming scheme for the tensors, one of :func:`lors.checkpoint.naming.schemes`.
        path: the file; its suffix chooses the format.
        dtype: dtype of the written weights; None leaves it unchanged.

    Raises:
        LorsError: a value is NaN or infinite, in the model or after conversion to `dtype`; or
            writing fails.
    """
    shapes, dtypes = whisper_shapes(dims), _dtypes(model, dtype)
    names = names_in(scheme, shapes)
    spec = {names[name]: (shape, dtypes[name]) for name, shape in shapes.items()}
    with CheckpointWriter(path, spec, dims) as writer:
        for name in tqdm(shapes, desc="export", unit="tensor", disable=not show_progress()):
            original = model.tensor(name)
            tensor = original.to(dtypes[name])
            if not all_finite(tensor):
                raise _not_finite(original, tensor.dtype, f"{model.path}: {name}")
            writer.add(names[name], tensor)


def _not_finite(original: Tensor, dtype: torch.dtype, where: str) -> LorsError:
    """Return the error for values that are too large for `dtype`, or not finite before rounding."""
    if all_finite(original):
        return LorsError(
            f"some values are too large for {dtype}",
            where=where,
            got=f"values in {original.dtype}",
            hint="choose a dtype with a larger range",
        )
    return LorsError(
        "some values are NaN or infinite",
        where=where,
        hint="the model itself is damaged: check how it was trained or copied, or use another",
    )
