"""Find the file of a model, and say what to do if there is none that LoRS reads."""

from __future__ import annotations

import shlex
from pathlib import Path

from lors.errors import LorsError, from_os_error

INDEX_SUFFIX = ".safetensors.index.json"
CTRANSLATE2_FILE = "model.bin"
"""Model file in every directory of CTranslate2."""
PEFT_CONFIG, PEFT_MODEL = "adapter_config.json", "adapter_model.safetensors"
"""Files of an adapter of PEFT: its description and its tensors."""
PEFT_PICKLE = "adapter_model.bin"
"""Tensors of an adapter of an older PEFT, in the form of torch.save."""
BASE_RECORD = "base.json"
"""The record of an adapter's base model (:mod:`lors.checkpoint.adapter_base`)."""
DIRECTORY_FILES = (
    "model.safetensors",
    f"model{INDEX_SUFFIX}",
    CTRANSLATE2_FILE,
    "pytorch_model.bin",
)
"""Model files of directories of Hugging Face and CTranslate2; the first of them is read."""
PACK_RECORD = "meta.yaml"
"""The list of files of an unpacked model of ESPnet, as ``espnet2.bin.pack`` writes it."""
READ_SUFFIXES = (".pth", ".pt", ".safetensors")
MODEL_SUFFIXES = (*READ_SUFFIXES, ".bin", ".ckpt", ".pkl", ".h5", ".gguf", ".onnx", ".msgpack")
"""Suffixes of model files, also of those that LoRS does not read."""
RECIPE_MODEL, RECIPE_VECTOR = "model.pth", "model.safetensors"
"""Files of the models of a recipe: a full model or an ESPnet adapter; a task vector or a model in 4
bits."""
TRAINING_STATE = "checkpoint.pth"
"""ESPnet's file that a training is resumed from."""
OWN_INFERENCE = "inference.yaml"
"""Options of inference for the model in this directory, and not for what is made from it."""
MASKS, SUBNETWORK = "masks.safetensors", "subnetwork.safetensors"
"""The masks of the languages, beside a model that was trained under them; the file of a packed
sub-network, or of a model with its masks."""


def model_in(directory: Path) -> Path:
    """Return the path of the model in a directory of a recipe.

    It is ``model.pth``; for an expert without that file, ``model.safetensors`` with a task vector,
    or the directory itself with an adapter of PEFT. A packed sub-network is alone in its directory.
    """
    if (directory / SUBNETWORK).is_file():
        return directory / SUBNETWORK
    if not (directory / RECIPE_MODEL).exists():
        if (directory / RECIPE_VECTOR).is_file():
            return directory / RECIPE_VECTOR
        if (directory / PEFT_CONFIG).is_file() and (directory / PEFT_MODEL).is_file():
            return directory
    return directory / RECIPE_MODEL


def masks_in(directory: Path) -> Path | None:
    """Return the file with the masks of a model directory; None for a model without masks."""
    found = (directory / name for name in (MASKS, SUBNETWORK))
    return next((file for file in found if file.is_file()), None)


def exists(path: Path) -> bool:
    """Return whether there is such a file; LorsError if the system refuses to look for it."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:  # no permission, or a name that is too long
        raise from_os_error(error) from None
    except ValueError:  # a zero byte or half of a character
        return False
    return True


def not_found(path: Path) -> LorsError:
    """Return the error for a model that is not there."""
    hint = "correct the path"
    if not path.is_absolute():
        hint += f", which begins in the current directory, {Path.cwd()}"
    hint += "; for a file on the Hugging Face Hub, write hf:// before it"
    return LorsError("checkpoint not found", where=path, hint=hint)


def conversion(path: Path) -> str:
    """Return how to make a file of another kind, such as .bin and .ckpt, one that LoRS reads."""
    return (
        "LoRS reads files of torch.save under a name in .pth: try ln -s "
        f"{shlex.quote(str(path.resolve()))} {shlex.quote(path.stem + '.pth')}; if that is "
        "refused, save the weights in the program that made the file: "
        'torch.save(model.state_dict(), "model.pth")'
    )
