"""A published ESPnet S2T model as the base model of an experiment."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

import yaml

from lors.checkpoint.directories import packed_files
from lors.checkpoint.hub import local_path, origin_of
from lors.config import read_yaml
from lors.done_marker import DoneMarker
from lors.errors import LorsError
from lors.fileio import atomic_write, copy_file, file_digest, path_component, write_text

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
RENAMED = ("*.embed.out.0.*", "*.embed.out.1.*")
"""Tensors that ESPnet 202611 renames when it loads a model of an older ESPnet."""
log = logging.getLogger(__name__)


def import_espnet_s2t(base_model: str | os.PathLike, out: str | os.PathLike) -> None:
    """Copy a model; the paths in its ``config.yaml`` are changed to the copies.

    Args:
        base_model: directory of ``config.yaml``, ``model.pth`` and the files that ``config.yaml``
            names (``bpe.model``, ``feats_stats.npz``); an expert or a merge of an experiment, whose
            ``config.yaml`` names those of its base model; an unpacked model of ESPnet
            (``meta.yaml``); or the name of one of these on the Hugging Face Hub
            (:mod:`lors.checkpoint.hub`).
        out: the model directory to make.

    Raises:
        LorsError: files are missing, ``model.pth`` is damaged or has masks, or `out` holds another
            model.
    """
    source, out = local_path(base_model), Path(out)
    packed = packed_files(source) if source.is_dir() else None
    folder = source.parent if source.is_file() else source
    model, described = packed or (folder / "model.pth", folder / "config.yaml")
    if source.is_file():  # the only model in a directory on the Hub
        model = source
    keys = {*MODEL_KEYS, "init", "specaug", "specaug_conf"}
    values = read_yaml(described) if described.exists() else {}
    config = {k: v for k, v in values.items() if k in keys}
    files = {"config.yaml": described, "model.pth": model}
    normalize = config.get("normalize_conf")
    for section, key in ((config, "bpemodel"), (normalize, "stats_file")):
        if isinstance(section, dict) and section.get(key):
            where = f"{described}: {key}"
            named = Path(str(section[key]))
            name = path_component(named.name, where)
            # A package has its files at the paths of its configuration.
            files[name] = source / named if packed else _file_named(named, folder)
            section[key] = str(out / name)
    _check_there(source, files.values())
    digests = {name: file_digest(path) for name, path in files.items()}
    marker = DoneMarker(out / ".done", digests)
    if marker.is_done():
        return
    from lors.checkpoint.masks import check_unmasked  # torch is slow to import
    from lors.checkpoint.reader import Checkpoint

    check_unmasked(model)
    checkpoint = Checkpoint.open(model)
    checkpoint.fingerprint()  # reads and checks all values
    with marker.work():
        for name, path in files.items():
            if path != described:
                copy_file(path, out / name)
        with atomic_write(out / "config.yaml") as handle:
            yaml.safe_dump(config, handle, sort_keys=False, allow_unicode=True)
        if any(fnmatchcase(name, old) for name in checkpoint.names() for old in RENAMED):
            _take_names_of_espnet(out)
        if origin := origin_of(source):
            record = {"base_model": os.fspath(base_model), "source": origin}
            write_text(out / "source.yaml", yaml.safe_dump(record, sort_keys=False))
    log.info("base model %s copied to %s", source, out)


def _file_named(named: Path, folder: Path) -> Path:
    """Return a file that the configuration of the model in `folder` names.

    It lies beside the model. An expert or a merge of an experiment has none: its configuration has
    the path of the file of the experiment's base model. A model from the Hub names no local file.
    """
    beside = folder / named.name
    is_elsewhere = not beside.exists() and named.is_file() and origin_of(folder) is None
    return named if is_elsewhere else beside


def _check_there(source: Path, files: Iterable[Path]) -> None:
    if missing := [path for path in files if not path.exists()]:
        raise LorsError(
            "files of the base model are missing",
            where=source,
            expected="config.yaml and model.pth, or a package of ESPnet",
            got=missing,
            hint="give --base_model the directory or the name of a model, or train one: "
            "egs/mini_covost/lors1/local/train_base.sh",
        )


def _take_names_of_espnet(directory: Path) -> None:
    """Name the tensors of a model as the installed ESPnet does: its experts are named so too."""
    from espnet2.tasks.s2t import S2TTask

    from lors.checkpoint.reader import Checkpoint
    from lors.checkpoint.writer import write_tensors

    model, _ = S2TTask.build_model_from_file(
        str(directory / "config.yaml"), str(directory / "model.pth"), "cpu"
    )
    state = model.state_dict()
    if set(state) == set(Checkpoint.open(directory / "model.pth").names()):
        return
    write_tensors(directory / "model.pth", state)
    log.info("tensors of %s renamed as in the installed ESPnet", directory / "model.pth")
