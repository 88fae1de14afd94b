"""A Whisper model in any file format as the base model of an experiment."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from lors.checkpoint.adapter_base import hash_of_weights
from lors.checkpoint.hub import hub_name, local_path, recorded
from lors.checkpoint.places import OWN_INFERENCE
from lors.config import build
from lors.done_marker import DoneMarker
from lors.errors import UsageError
from lors.export.whisper import open_whisper, write_weights
from lors.export.whisper_tokenizer import ENGLISH_ONLY
from lors.export.whisper_vocabulary import whisper_tokens
from lors.fileio import atomic_directory, write_text
from lors.models.whisper.conf import (
    OwnInference,
    WhisperConf,
    check_base_model,
    check_dims,
)
from lors.models.whisper.download import find_official
from lors.models.whisper.window import AUTO, Window

log = logging.getLogger(__name__)


def import_whisper(
    base_model: str,
    out: str | os.PathLike,
    window: float | str = 30.0,
    st_language: str = "source",
    base_window: float | None = None,
) -> None:
    """Write a model directory: ``model.pth`` (float32, OpenAI's names) and ``config.yaml``.

    ``source.yaml`` beside them says where the weights came from.

    Args:
        base_model: OpenAI's ``.pt``, a directory of Hugging Face or CTranslate2, another file with
            Whisper's tensors, an official name such as ``small``, which is looked for as in
            :func:`lors.models.whisper.download.find_official`, or a name on the Hugging Face Hub
            (:mod:`lors.checkpoint.hub`).
        out: the model directory to make.
        window, st_language, base_window: as in :class:`lors.models.whisper.conf.ImportOptions`.

    Raises:
        UsageError: there is no such model, its window is shorter, or `out` holds other files.
        LorsError: not a whole Whisper, or `out` holds another base model.
    """
    check_base_model(base_model, english=True)
    path, out = Path(base_model), Path(out)
    source = str(path.resolve())
    if not path.exists():
        if hub_name(base_model) is None:
            path, source = find_official(base_model)
        else:
            path, source = local_path(base_model), recorded(base_model)
    model, dims = open_whisper(path)
    check_dims(dims, path, english=True)
    if dims["n_vocab"] != ENGLISH_ONLY:
        whisper_tokens(dims, model.path)
    values = {"dims": dims, "window": window, "st_language": st_language}
    conf = build(WhisperConf, values, "--window")
    _check_windows({"window": window, "base_window": base_window}, dims, path)
    # Form and dtype of the file do not matter: the same weights from OpenAI, from Hugging Face or
    # from a package are the same base model.
    kept = {"whisper_conf": dataclasses.asdict(conf)}
    inputs: dict[str, Any] = {"model": hash_of_weights(model), **kept}
    if base_window is not None:
        inputs["base_window"] = base_window
    if DoneMarker(out / ".done", inputs).is_done():
        return
    # The directory appears whole, or not at all: a part of it would block the next import.
    with atomic_directory(out) as folder:
        write_weights(model, dims, "openai", folder / "model.pth", torch.float32)
        write_text(folder / "config.yaml", yaml.safe_dump(kept, sort_keys=False))
        if base_window is not None:
            own = dataclasses.asdict(OwnInference(base_window))
            write_text(folder / OWN_INFERENCE, yaml.safe_dump(own))
        origin = {"base_model": base_model, "source": source}
        write_text(folder / "source.yaml", yaml.safe_dump(origin, sort_keys=False))
        DoneMarker(folder / ".done", inputs).mark()
    log.info("base model %s written to %s", path, out)


def _check_windows(windows: Mapping[str, Any], dims: Mapping[str, int], path: Path) -> None:
    longest = Window(AUTO, dims["n_audio_ctx"]).longest
    for option, value in windows.items():
        if value not in (None, AUTO) and value > longest:
            raise UsageError(
                "the window is longer than the model's",
                where=f"--{option}",
                expected=f"at most {longest:g} s for {path}",
                got=f"{value:g} s",
            )
