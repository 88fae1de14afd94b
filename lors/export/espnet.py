"""A model of a recipe as a package of ESPnet: one zip file that opens in any directory."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lors.checkpoint.places import RECIPE_MODEL
from lors.config import read_yaml
from lors.errors import LorsError, UsageError
from lors.fileio import full_disk_names, locked, scratch_directory, write_text

log = logging.getLogger(__name__)

CONFIG = "config.yaml"
BASE_FILES = ("bpe.model", "feats_stats.npz")
"""Files of the base model that every package holds, if they exist."""
NAMED_FILES = ("bpemodel", "normalize_conf.stats_file")
"""Keys of ``config.yaml`` whose values are files; a point goes into a section."""


def pack_espnet(model: str | os.PathLike, base: str | os.PathLike, out: str | os.PathLike) -> None:
    """Write the zip file of ``espnet2.bin.pack`` for a merged model.

    ESPnet names the files in a package by their real paths, relative to the current directory if
    they are in there. They are therefore packed from a directory of their own, where they have the
    same places for every experiment: ``exp/merged/NAME`` and ``exp/base``.

    Args:
        model: directory of ``model.pth`` and ``config.yaml``; the last part of its name is kept.
        base: directory of the base model, with the files that ``config.yaml`` names.
        out: the zip file; it is replaced when the new one is complete.

    Raises:
        UsageError: `out` does not end in .zip.
        LorsError: the model, its configuration or a file that it names is missing, or the model
            has masks.
    """
    from lors.checkpoint.masks import check_unmasked  # torch is slow to import

    model, base, out = Path(model), Path(base), Path(out)
    if out.suffix != ".zip":
        raise UsageError("a package is a zip file", where=out, expected="a name that ends in .zip")
    called = Path(os.path.abspath(model)).name  # noqa: PTH100  (a link keeps its name)
    merged, kept = Path("exp/merged", called), Path("exp/base")
    _check_files(model, base)
    check_unmasked(model / RECIPE_MODEL)
    config = read_yaml(model / CONFIG)
    named = _named_files(config, base, model / CONFIG)
    beside = {base / name for name in BASE_FILES if (base / name).is_file()}
    sources = {path.name: path for path in (*sorted(beside), *named.values())}
    for key, path in named.items():
        _section(config, key)[key.rpartition(".")[2]] = str(kept / path.name)
    with (
        locked(out.with_name(f".{out.name}.lock")),
        scratch_directory(out.with_name(f".{out.name}.tmp")) as scratch,
    ):
        _put(model / RECIPE_MODEL, scratch / merged / RECIPE_MODEL)
        for name, path in sources.items():
            _put(path, scratch / kept / name)
        write_text(scratch / merged / CONFIG, yaml.safe_dump(config, allow_unicode=True))
        with full_disk_names(out):
            _pack(scratch, merged, [kept / name for name in sources]).replace(out)
    log.info("%s: %.1f MB", out, out.stat().st_size / 1e6)


def _check_files(model: Path, base: Path) -> None:
    needed = (model / RECIPE_MODEL, model / CONFIG)
    missing = [path for path in needed if not path.is_file()]
    if missing:
        raise LorsError(
            "files of the model to pack are missing",
            where=model,
            expected=f"{RECIPE_MODEL} and {CONFIG}",
            got=[f"no {path.name}" for path in missing],
            hint="correct --model, or run stage merge of the recipe first",
        )
    if not base.is_dir():
        raise LorsError(
            "no directory of a base model",
            where=base,
            hint="correct --base, or run stage base of the recipe first",
        )


def _named_files(config: dict[str, Any], base: Path, where: Path) -> dict[str, Path]:
    """Return key -> file for the files that a configuration names.

    A relative path begins at the current directory, as in ESPnet. A file that is not there, as
    after a move of the experiment, is looked for in the directory of the base model.
    """
    found = {}
    for key in NAMED_FILES:
        value = _section(config, key).get(key.rpartition(".")[2])
        if not value:
            continue
        path = Path(str(value))
        found[key] = path if path.is_file() else base / path.name
        if not found[key].is_file():
            raise LorsError(
                "a file that the configuration names is missing",
                where=f"{where}: {key}",
                expected=f"{path} or {found[key]}",
                hint="run from the directory of the recipe, or put the file there",
            )
    return found


def _section(config: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return the mapping that holds a key of `NAMED_FILES`; an empty one if there is none."""
    section, _, _ = key.rpartition(".")
    found = config.get(section) if section else config
    return found if isinstance(found, dict) else {}


def _put(source: Path, place: Path) -> None:
    """Make `place` a hard link to a file, or a copy where the file system has no such link.

    ESPnet would follow a symbolic link and pack the path it leads to.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    real = os.path.realpath(source)
    try:
        os.link(real, place)
    except OSError:
        with full_disk_names(place):
            shutil.copyfile(real, place)


def _pack(scratch: Path, merged: Path, options: list[Path]) -> Path:
    """Pack the files in `scratch`, named relative to it; return the zip file, which is on disk."""
    from espnet2.main_funcs.pack_funcs import pack  # slow to import

    made = scratch.resolve() / "packed.zip"
    with contextlib.chdir(scratch), contextlib.redirect_stdout(io.StringIO()):
        pack(
            files={"s2t_model_file": merged / RECIPE_MODEL},
            yaml_files={"s2t_train_config": merged / CONFIG},
            option=options,
            outpath=made,
        )
    with made.open("rb") as handle:
        os.fsync(handle.fileno())
    return made
