"""Files of ``torch.save``, read as data: no code in them is ever run."""

from __future__ import annotations

import datetime
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from lors.errors import LorsError, shortened

_SCALAR = np.float64(0).__reduce__()[0]
SAFE_GLOBALS = [
    datetime.timedelta,
    # The constructor of numpy numbers, under its names in numpy 1 and 2.
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "bool")),
]
"""Types that a file may hold besides tensors: the statistics in ESPnet's training checkpoints.

They hold values only. Use: ``torch.serialization.safe_globals(SAFE_GLOBALS)``.
"""


def load_torch(path: Path) -> Any:
    """Return the content of a file of ``torch.save``.

    Tensors are memory-mapped if the format allows it (PyTorch 1.6 and later).

    Raises:
        LorsError: the file cannot be opened, is truncated or corrupt, or would need to run code.
    """
    with open_to_read(path) as handle:
        start = handle.read(40)
    try:
        is_zip = zipfile.is_zipfile(path)
        if start.startswith(b"PK") and not is_zip:
            raise EOFError("the end of the archive is missing")
        if not is_zip and not start.startswith(pickle.PROTO):
            raise pickle.UnpicklingError(f"the file begins with {start!r}")
        with torch.serialization.safe_globals(SAFE_GLOBALS):
            return torch.load(path, map_location="cpu", mmap=is_zip, weights_only=True)
    except Exception as error:
        # A damaged file can raise nearly any exception, depending on the place of the damage.
        needed = re.search(r"GLOBAL (\S+)", str(error))
        if needed is None or not isinstance(error, pickle.UnpicklingError):
            raise corrupt_file(path, error) from error
        raise LorsError(
            "this checkpoint needs code to be run when it is read, and LoRS never does that",
            where=path,
            expected="a file of tensors only",
            got=f"a pickle that asks for {needed[1]}",
            hint="if you trust the file, load it in the program that made it and save the weights "
            'alone: torch.save(model.state_dict(), "model.pth")',
        ) from None


def state_dict_in(path: Path, content: Any) -> dict[str, Tensor]:
    """Return the state dict of the model in the content of a file.

    Args:
        path: the file, for errors.
        content: a state dict, or a mapping that holds it under ``model`` (ESPnet) or
            ``model_state_dict`` (OpenAI Whisper).

    Raises:
        LorsError: there is no state dict, or it has entries that are not tensors.
    """
    keys = list(content) if isinstance(content, Mapping) else []
    places = [content, *(content[key] for key in ("model", "model_state_dict") if key in keys)]
    shown = ", ".join(shortened(keys, 20)) or "none"
    got = f"a {type(content).__name__} with keys: {shown}"
    hint = None
    for place in places:
        if not isinstance(place, Mapping) or not place:
            continue
        others = [key for key, value in place.items() if not isinstance(value, Tensor)]
        if not others:
            return dict(place)
        if len(others) < len(place):
            types = [f"{key} ({type(place[key]).__name__})" for key in others]
            got = f"entries that are not tensors: {', '.join(shortened(types, 20))}"
            hint = "save the state dict again without these entries"
    raise LorsError(
        "no model weights found in this file",
        where=path,
        expected="a state dict, or one under 'model' (ESPnet) or 'model_state_dict' (Whisper)",
        got=got,
        hint=hint,
    )


def open_to_read(path: Path) -> IO[bytes]:
    """Open a checkpoint file in binary mode.

    Raises:
        LorsError: the operating system refuses it, e.g. for missing permission.
    """
    try:
        return path.open("rb")
    except OSError as error:
        raise LorsError(
            "cannot open this checkpoint",
            where=path,
            got=error.strerror,
            hint="check the permissions of the file",
        ) from None


def corrupt_file(path: Path, error: Exception) -> LorsError:
    """Return the error for a checkpoint file that cannot be read.

    Args:
        error: the exception of torch or safetensors; its first line is shown.
    """
    # Leave out torch's advice to load the file with weights_only=False, which would run its code.
    lines = [line.strip() for line in str(error).split("\n") if "weights_only" not in line]
    reason = next(filter(None, lines), "nothing that can be read without running code")
    return LorsError(
        "cannot read this checkpoint: the file is truncated or corrupt",
        where=path,
        got=f"{type(error).__name__}: {reason}",
        hint="copy or download the file again",
    )
