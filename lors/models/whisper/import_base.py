"""A Whisper model in any file format as the base model of an experiment."""

from __future__ import annotations

import dataclasses
import logging
import os
from pathlib import Path

import torch
import yaml

from lors.config import build
from lors.done_marker import DoneMarker
from lors.errors import LorsError, UsageError
from lors.export.whisper import POSITIONS_PER_SECOND, open_whisper, write_weights
from lors.export.whisper_vocabulary import whisper_tokens
from lors.fileio import atomic_directory, write_text
from lors.models.whisper.conf import WhisperConf, check_base_model, check_dims
from lors.models.whisper.window import AUTO

log = logging.getLogger(__name__)


def import_whisper(
    base_model: str,
    out: str | os.PathLike,
    window: float | str = 30.0,
    st_language: str = "source",
) -> None:
    """Write a model directory: ``model.pth`` (float32, OpenAI's names) and ``config.yaml``.

    Args:
        base_model: OpenAI's ``.pt``, a directory of Hugging Face, another file with Whisper's
            tensors, or an official name such as ``small``. A named model is downloaded into
            OpenAI's cache (``~/.cache/whisper``) and its checksum compared.
        out: the model directory to make.
        window, st_language: as in :class:`lors.models.whisper.conf.ImportOptions`.

    Raises:
        UsageError: there is no such model, its window is shorter, or `out` holds other files.
        LorsError: not a whole multi-lingual Whisper, or `out` holds another base model.
    """
    path, out = _find(base_model), Path(out)
    model, dims = open_whisper(path)
    check_dims(dims, path)
    whisper_tokens(dims, model.path)
    values = {"dims": dims, "window": window, "st_language": st_language}
    conf = dataclasses.asdict(build(WhisperConf, values, "--window"))
    longest = dims["n_audio_ctx"] / POSITIONS_PER_SECOND
    if window != AUTO and window > longest:
        raise UsageError(
            "the window is longer than the model's",
            where="--window",
            expected=f"at most {longest:g} s for {path}",
            got=f"{window:g} s",
        )
    inputs = {"model": model.fingerprint(), "whisper_conf": conf}
    if DoneMarker(out / ".done", inputs).is_done():
        return
    # The directory appears whole, or not at all: a part of it would block the next import.
    with atomic_directory(out) as folder:
        write_weights(model, dims, "openai", folder / "model.pth", torch.float32)
        write_text(folder / "config.yaml", yaml.safe_dump({"whisper_conf": conf}, sort_keys=False))
        DoneMarker(folder / ".done", inputs).mark()
    log.info("base model %s written to %s", path, out)


def _find(base_model: str) -> Path:
    """Return the path of a model; download one with an official name."""
    check_base_model(base_model)
    path = Path(base_model)
    if path.exists():
        return path
    import whisper  # slow to import

    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "whisper"
    try:
        # Downloads if the file is missing or its SHA-256 differs from that in the address.
        return Path(whisper._download(whisper._MODELS[base_model], str(cache), in_memory=False))
    except (OSError, RuntimeError) as error:
        raise LorsError(
            f"cannot download the Whisper model {base_model}",
            where=whisper._MODELS[base_model],
            got=error,
            hint=f"download the file on another machine, put it into {cache}, or give its path",
        ) from None
