"""The model in a directory of Hugging Face, of CTranslate2 or of an unpacked model of ESPnet."""

from __future__ import annotations

from pathlib import Path

from lors.checkpoint.places import (
    DIRECTORY_FILES,
    MODEL_SUFFIXES,
    PACK_RECORD,
    PEFT_CONFIG,
    READ_SUFFIXES,
    conversion,
)
from lors.config import read_yaml
from lors.errors import LorsError, from_os_error, shortened


def packed_files(directory: Path) -> tuple[Path, Path] | None:
    """Return model and configuration of an unpacked model of ESPnet; None in other directories.

    Raises:
        LorsError: the record of the package is damaged.
    """
    record = directory / PACK_RECORD
    if not record.is_file():
        return None
    content = read_yaml(record)
    found, absolute = [], []
    for section, suffix in (("files", "_model_file"), ("yaml_files", "_train_config")):
        entries = content.get(section)
        entries = entries if isinstance(entries, dict) else {}
        named = [value for key, value in entries.items() if str(key).endswith(suffix)]
        paths = [Path(value) for value in named if isinstance(value, str)]
        absolute += [path for path in paths if path.is_absolute()]
        found += [path for path in paths if not path.is_absolute() and ".." not in path.parts]
    if absolute and len(found) < 2:
        raise LorsError(
            "this package names its files by absolute paths of the machine that has packed it",
            where=record,
            expected="paths inside of the package",
            got=shortened(map(str, absolute)),
            hint="pack it again: python -m lors.bin.pack",
        )
    if len(found) != 2:
        raise LorsError(
            "the record of this package does not name one model and one configuration",
            where=record,
            expected="files: {s2t_model_file: ...}, yaml_files: {s2t_train_config: ...}",
            hint="unpack or download the model again",
        )
    return directory / found[0], directory / found[1]


def file_of(directory: Path) -> Path:
    """Return the model file in a directory of Hugging Face, CTranslate2 or an ESPnet package."""
    found = [directory / name for name in DIRECTORY_FILES if (directory / name).is_file()]
    if found:
        return found[0]
    if packed := packed_files(directory):
        return packed[0]
    if (directory / PEFT_CONFIG).is_file():
        raise LorsError(
            "this directory holds a PEFT adapter, not a full model",
            where=directory,
            expected=" or ".join(DIRECTORY_FILES),
            hint="give the model that the adapter was trained on; give the adapter as an expert",
        )
    try:
        files = sorted(path for path in directory.iterdir() if path.suffix in MODEL_SUFFIXES)
    except OSError as error:
        raise from_os_error(error) from None
    hint = "give the path of the model file"
    if files:
        path = files[0]
        hint = f"give {path}" if path.suffix in READ_SUFFIXES else conversion(path)
    raise LorsError(
        f"no {DIRECTORY_FILES[0]} in this directory",
        where=directory,
        expected=" or ".join(DIRECTORY_FILES),
        got=shortened(path.name for path in files) or "no model file",
        hint=hint,
    )
