"""The place of a small expert: a new one, or an older result of the same command."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lors.checkpoint.places import BASE_RECORD, MODEL_SUFFIXES, PEFT_CONFIG, PEFT_MODEL
from lors.checkpoint.reader import Checkpoint
from lors.checkpoint.vector_file import SUFFIX, is_vector, read_description
from lors.errors import BRIEF, LorsError, UsageError, shortened
from lors.fileio import read_json_object
from lors.merge.plan import MergeInputs

RECORD = "extract.json"
"""Record in the directory of an adapter: the options of the command, and the energy it holds."""
ADAPTER_FILES = {PEFT_CONFIG, PEFT_MODEL, BASE_RECORD, RECORD}


def check_place(out: Path, form: str, inputs: MergeInputs, made_from: Mapping[str, Any]) -> None:
    """Check that a small expert can be written to `out`.

    Args:
        out: file (``lors``) or directory (``lora``) to write.
        form: ``lora`` or ``lors``.
        inputs: the open models.
        made_from: the options of the command.

    Raises:
        UsageError: a wrong kind of name; `out` is a file of the base model or the expert; or it is
            there and no result of a command with the same options.
    """
    if form == "lors" and out.suffix != SUFFIX:
        raise UsageError(
            "a task vector is written to one file",
            where=out,
            expected=f"a name that ends in {SUFFIX}",
        )
    if form == "lora" and out.suffix.lower() in MODEL_SUFFIXES:
        raise UsageError(
            "an adapter is written to a directory",
            where=out,
            expected="the name of a directory, which ends in no suffix of a model file",
        )
    if out.resolve() in inputs.files():
        raise UsageError("the small expert would overwrite one of its inputs", where=out)
    if not out.exists() or (form == "lora" and out.is_dir() and not any(out.iterdir())):
        return
    recorded = _recorded_adapter(out) if form == "lora" else _recorded_vector(out)
    differ = [
        f"{name}: {BRIEF.repr(recorded.get(name))}, now {BRIEF.repr(value)}"
        for name, value in made_from.items()
        if recorded.get(name) != value
    ]
    if differ:
        raise UsageError(
            "there is another small expert at this place",
            where=out,
            expected="no such file, or one that the same command wrote",
            got=differ,
            hint="choose another name, or remove it",
        )


def _recorded_adapter(out: Path) -> Mapping[str, Any]:
    """Return the options that made an adapter; UsageError if it has other files or no record."""
    others = sorted({path.name for path in out.iterdir()} - ADAPTER_FILES) if out.is_dir() else []
    if others or not (out / RECORD).is_file():
        raise _foreign(out, shortened(others) or f"no {RECORD}")
    made_from = read_json_object(out / RECORD).get("made_from")
    return made_from if isinstance(made_from, dict) else {}


def _recorded_vector(out: Path) -> Mapping[str, Any]:
    """Return the options that made a task vector; UsageError if the file is no task vector."""
    try:
        found = Checkpoint.open(out)
        if is_vector(found):
            return read_description(found).made_from
    except LorsError as error:
        raise _foreign(out, error.what) from None
    raise _foreign(out, "another model")


def _foreign(out: Path, got: object) -> UsageError:
    return UsageError(
        "there is something else of this name already",
        where=out,
        expected="no such file, or a small expert that the same command wrote",
        got=got,
        hint="choose another name, or move it away",
    )
