"""A published ESPnet S2T model as the base model of an experiment."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import yaml

from lors.config import read_yaml
from lors.done_marker import DoneMarker
from lors.errors import LorsError
from lors.fileio import atomic_write, file_digest, path_component

MODEL_KEYS = (
    "token_list",
    "token_type",
    "bpemodel",
    "cleaner",
    "g2p",
    "non_linguistic_symbols",
    "input_size",
    "ctc_conf",
    "frontend",
    "frontend_conf",
    "normalize",
    "normalize_conf",
    "preencoder",
    "preencoder_conf",
    "encoder",
    "encoder_conf",
    "postencoder",
    "postencoder_conf",
    "decoder",
    "decoder_conf",
    "preprocessor",
    "preprocessor_conf",
    "model",
    "model_conf",
)
"""Keys of ``config.yaml`` that set a model's structure and vocabulary, not its training."""
log = logging.getLogger(__name__)


def import_espnet_s2t(base_model: str | os.PathLike, out: str | os.PathLike) -> None:
    """Copy a model; the paths in its ``config.yaml`` are changed to the copies.

    Args:
        base_model: directory of ``config.yaml``, ``model.pth`` and the files that ``config.yaml``
            names (``bpe.model``, ``feats_stats.npz``).
        out: the model directory to make.

    Raises:
        LorsError: files are missing, ``model.pth`` is damaged, or `out` holds another model.
    """
    source, out = Path(base_model), Path(out)
    keys = {*MODEL_KEYS, "init", "specaug", "specaug_conf"}
    described = read_yaml(source / "config.yaml") if (source / "config.yaml").exists() else {}
    config = {k: v for k, v in described.items() if k in keys}
    files = ["config.yaml", "model.pth"]
    normalize = config.get("normalize_conf")
    for section, key in ((config, "bpemodel"), (normalize, "stats_file")):
        if isinstance(section, dict) and section.get(key):
            where = f"{source / 'config.yaml'}: {key}"
            name = path_component(Path(str(section[key])).name, where)
            section[key] = str(out / name)
            files.append(name)
    missing = [str(source / name) for name in files if not (source / name).exists()]
    if missing:
        raise LorsError(
            "files of the base model are missing",
            where=source,
            got=missing,
            hint="give --base_model the directory of a model, or train one: "
            "egs/mini_covost/lors1/local/train_base.sh",
        )
    digests = {name: file_digest(source / name) for name in files}
    marker = DoneMarker(out / ".done", digests)
    if marker.is_done():
        return
    from lors.checkpoint.reader import Checkpoint  # imports torch, which takes seconds

    Checkpoint.open(source / "model.pth").fingerprint()  # reads and checks all values
    with marker.work():
        for name in files[1:]:
            with (source / name).open("rb") as reader, atomic_write(out / name, "wb") as writer:
                shutil.copyfileobj(reader, writer)
        with atomic_write(out / "config.yaml") as handle:
            yaml.safe_dump(config, handle, sort_keys=False, allow_unicode=True)
    log.info("base model %s copied to %s", source, out)
