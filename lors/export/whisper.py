"""A Whisper model in the forms that other programs load: OpenAI's file, Hugging Face's directory.

The directory is complete: weights, configuration, tokenizer and feature extraction. All of it is
made from the weights, their dimensions and the vocabulary that openai-whisper has.
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
from tqdm import tqdm

from lors.checkpoint.expert import RenamedCheckpoint, open_model
from lors.checkpoint.finite import all_finite
from lors.checkpoint.naming import names_in
from lors.checkpoint.reader import Checkpoint
from lors.checkpoint.whisper_dims import whisper_dims, whisper_shapes
from lors.checkpoint.writer import CheckpointWriter
from lors.errors import LorsError, UsageError
from lors.export.whisper_tokenizer import WhisperTokens, tokenizer_files
from lors.fileio import atomic_directory, write_json, write_text
from lors.log import show_progress

SAMPLING_RATE = 16000
N_FFT = 400
HOP_LENGTH = 160
"""Sampling rate (Hz), window and hop (samples) of all Whisper models: whisper/audio.py."""
SAMPLES_PER_POSITION = 2 * HOP_LENGTH
"""Of the encoder, whose second convolution halves the frames."""
POSITIONS_PER_SECOND = SAMPLING_RATE // SAMPLES_PER_POSITION
POSITIONS = 30 * POSITIONS_PER_SECOND
"""Of the encoder of every official model."""
MAX_INITIAL_TIMESTAMP = 50
"""In steps of 20 ms: openai-whisper's default of 1 s."""
MODEL_FILES = (".pt", ".pth", ".safetensors", ".bin")
"""Endings, in any case, that nobody gives to a directory."""


def export_whisper(
    model: str | os.PathLike, out: str | os.PathLike, dtype: torch.dtype | None = None
) -> None:
    """Write a Whisper model for other programs.

    Args:
        model: a Whisper under the names of OpenAI, Hugging Face or ESPnet, in any file that
            :meth:`lors.checkpoint.reader.Checkpoint.open` reads.
        out: a name that ends in ``.pt`` for a file of OpenAI's, which ``whisper.load_model`` loads;
            any other is a directory of Hugging Face, which must not be there yet.
        dtype: of the weights; by default they keep theirs.

    Raises:
        UsageError: `out` is the model itself, is there already, or is no such name.
        LorsError: the file cannot be read, is no whole Whisper or, for Hugging Face, no
            multi-lingual one, a weight is too large for `dtype`, or writing fails.
    """
    out = Path(out)
    if out.suffix != ".pt" and out.suffix.lower() in MODEL_FILES:
        raise UsageError(
            "a Whisper is exported to a file of OpenAI's or a directory of Hugging Face",
            where=out,
            expected="a name that ends in .pt, or that of a directory",
        )
    if Path(model).resolve() == out.resolve():
        raise UsageError("the exported model would overwrite the model itself", where=out)
    model, dims = open_whisper(model)
    if out.suffix == ".pt":
        write_weights(model, dims, "openai", out, dtype)
    else:
        tokens = WhisperTokens(dims["n_vocab"], where=model.path)
        widest = functools.reduce(torch.promote_types, _dtypes(model, dtype).values())
        with atomic_directory(out) as folder:
            for name, content in hugging_face_files(dims, tokens, widest).items():
                write = write_text if isinstance(content, str) else write_json
                write(folder / name, content)
            write_weights(model, dims, "huggingface", folder / "model.safetensors", dtype)
    logging.info("exported %s to %s", model.path, out)


def open_whisper(path: str | os.PathLike) -> tuple[Checkpoint, dict[str, int]]:
    """Open a Whisper of any kind of file: under OpenAI's names, and its dimensions.

    Raises:
        LorsError: the file cannot be read, or is no whole Whisper.
    """
    model = open_model(path)
    model = RenamedCheckpoint(
        model, {new: old for old, new in names_in("openai", model.names()).items()}
    )
    dims = whisper_dims(model)
    _check_whole(model, dims)
    return model, dims


def hugging_face_files(
    dims: Mapping[str, int], tokens: WhisperTokens, dtype: torch.dtype
) -> dict[str, Any]:
    """What a directory of Hugging Face holds beside the weights: file name -> content.

    Args:
        dims: as :func:`lors.checkpoint.whisper_dims.whisper_dims` gives them.
        tokens: of the model.
        dtype: that the weights are to be loaded in.

    Returns:
        The content of a text file as text, that of a JSON file as the value to write.
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
        # For word timestamps: what openai-whisper takes for a model that is not its own.
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
            "the encoder takes %g s of audio: transformers can do that (call the processor with "
            "max_length=%d), faster-whisper and openai-whisper's transcribe always give it 30 s",
            positions / POSITIONS_PER_SECOND,
            positions * SAMPLES_PER_POSITION,
        )
    # A feature extractor counts whole seconds.
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


def _check_whole(model: Checkpoint, dims: Mapping[str, int]) -> None:
    """Check that a model has every tensor of a Whisper with these dims; LorsError lists the rest.

    Programs that load it would make up what is missing.
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
            problems.append(f"a width of {width} cannot be shared by {heads} heads")
    if dims["n_audio_state"] != dims["n_text_state"]:
        problems.append("encoder and decoder are not of one width")
    if problems:
        raise LorsError(
            "not a whole Whisper model",
            where=model.path,
            got="\n    - ".join(["", *problems]),
        )


def _dtypes(model: Checkpoint, dtype: torch.dtype | None) -> dict[str, torch.dtype]:
    return {name: dtype or model.dtype(name) for name in model.names()}


def write_weights(
    model: Checkpoint,
    dims: Mapping[str, int],
    family: str,
    path: Path,
    dtype: torch.dtype | None,
) -> None:
    """Write weights tensor by tensor, in OpenAI's order.

    Args:
        model, dims: as :func:`open_whisper` gives them.
        family: whose names the tensors get, one of :func:`lors.checkpoint.naming.families`.
        path: the file; its ending says of which kind.
        dtype: of the weights; None keeps theirs.

    Raises:
        LorsError: values that are not finite, as they are or in `dtype`; or writing fails.
    """
    shapes, dtypes = whisper_shapes(dims), _dtypes(model, dtype)
    names = names_in(family, shapes)
    spec = {names[name]: (shape, dtypes[name]) for name, shape in shapes.items()}
    with CheckpointWriter(path, spec, dims) as writer:
        for name in tqdm(shapes, desc="export", unit="tensor", disable=not show_progress()):
            own = model.tensor(name)
            tensor = own.to(dtypes[name])
            if not all_finite(tensor):
                rounded = all_finite(own)
                raise LorsError(
                    f"there are infinite values or NaN as {tensor.dtype}",
                    where=f"{model.path}: {name}",
                    got=f"values in {own.dtype} that it cannot hold" if rounded else None,
                    hint="choose a dtype that holds them"
                    if rounded
                    else "the model itself is wrong: look for what happened to it, or take another",
                )
            writer.add(names[name], tensor)
