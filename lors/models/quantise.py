"""Quantise the model of a directory to 4 bits."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from lors.checkpoint.places import OWN_INFERENCE, RECIPE_MODEL, RECIPE_VECTOR, SUBNETWORK
from lors.done_marker import DoneMarker
from lors.errors import LorsError
from lors.fileio import atomic_write, file_digest
from lors.models import family_of

log = logging.getLogger(__name__)


def quantise_directory(
    directory: str | os.PathLike, out: str | os.PathLike, double: bool = False
) -> None:
    """Make a model directory with the weights of another one in NF4.

    The family of the model names the weights to quantise; the others stay in float32.

    Args:
        directory: holds ``model.pth`` and ``config.yaml``: a base, fine-tuned or merged model; or
            a packed sub-network.
        out: receives ``model.safetensors`` and a copy of ``config.yaml`` (and ``inference.yaml``).
        double: quantise the scales too.

    Raises:
        LorsError: the model is missing or damaged, an adapter, has masks, or is of a family without
            quantisation; or `out` holds another model, or a file that would be overwritten.
    """
    from lors.checkpoint.expert import open_model  # torch is slow to import
    from lors.checkpoint.lora_files import is_adapter
    from lors.checkpoint.quantised import write_quantised

    directory, out = Path(directory), Path(out)
    family = family_of(directory)
    packed = directory / SUBNETWORK
    source = packed if packed.is_file() else directory / RECIPE_MODEL
    config = directory / "config.yaml"
    _check_files(source, out)
    inputs = {"model": file_digest(source), "config": file_digest(config), "double": double}
    copied = [config]
    if (own := directory / OWN_INFERENCE).exists():
        copied.append(own)
        inputs["own_inference"] = file_digest(own)
    marker = DoneMarker(out / ".done", inputs)
    if marker.is_done():
        return
    if not marker.started.exists():
        _check_overwritten(out, [RECIPE_VECTOR, *(file.name for file in copied)])
    with marker.work():
        model = open_model(source)
        names = [
            name
            for name in model.names()
            if len(model.shape(name)) > 1 and any(fnmatchcase(name, p) for p in family.quantised)
        ]
        if is_adapter(model) or not names:
            raise LorsError(
                "this model cannot be quantised",
                where=source,
                expected=f"a full model of a family with quantised weights, such as "
                f"{' '.join(family.quantised[:3]) or 'whisper'}",
                got="an adapter" if is_adapter(model) else f"none of these in a {family.name}",
            )
        write_quantised(model, names, out / RECIPE_VECTOR, double)
        for file in copied:
            with atomic_write(out / file.name, "wb") as handle:
                handle.write(file.read_bytes())
    log.info("%s: %d of %d tensors in NF4", out, len(names), len(model.names()))


def _check_files(source: Path, out: Path) -> None:
    """Check that there is a model without masks, and none yet in the directory to write."""
    from lors.checkpoint.masks import check_unmasked

    if not source.exists():
        raise LorsError("no model to quantise", where=source, hint="run the stage that makes it")
    check_unmasked(source)
    if others := [out / name for name in (RECIPE_MODEL, SUBNETWORK) if (out / name).exists()]:
        raise LorsError(
            "a quantised model beside another model, which is used in its place",
            where=others,
            hint="choose another directory",
        )


def _check_overwritten(out: Path, names: Sequence[str]) -> None:
    """Check that no file of another program would be overwritten."""
    if there := [name for name in names if (out / name).exists()]:
        raise LorsError(
            "files that this command did not write would be overwritten",
            where=out,
            expected="a new or an empty directory, or one of lors quantise",
            got=there,
            hint="choose another directory",
        )
