"""Single modules of the installed package openai-whisper, loaded without the whole package.

``import whisper.tokenizer`` would first run ``whisper/__init__.py``, which imports torch, numba and
the model code. That takes seconds, and these modules need only regular expressions or tiktoken.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from lors.errors import LorsError

PRIVATE_NAME = "_lors_whisper_{}"
"""Name of a loaded module in sys.modules, where its own imports and dataclasses look it up."""


def whisper_part(name: str) -> ModuleType:
    """Load a module or package of openai-whisper that imports no other part of openai-whisper.

    Args:
        name: ``normalizers`` or ``tokenizer``.

    Raises:
        LorsError: openai-whisper, or a package that the module imports, is not installed.
    """
    private = PRIVATE_NAME.format(name)
    if private in sys.modules:
        return sys.modules[private]
    whisper = importlib.util.find_spec("whisper")  # finds the folder without importing it
    folders = list(whisper.submodule_search_locations or []) if whisper else []
    for folder in map(Path, folders):
        for file, inner in (
            (folder / name / "__init__.py", [str(folder / name)]),
            (folder / f"{name}.py", None),
        ):
            if file.is_file():
                return _load(private, file, inner)
    raise _not_installed(name, f"a package 'whisper' without it in {folders}" if folders else None)


def _load(private: str, file: Path, inner: list[str] | None) -> ModuleType:
    spec = importlib.util.spec_from_file_location(private, file, submodule_search_locations=inner)
    if spec is None or spec.loader is None:
        raise _not_installed(private.rpartition("_")[2], f"{file}, which is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[private] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[private]
        if isinstance(error, ImportError):
            raise _not_installed(private.rpartition("_")[2], error) from error
        raise
    return module


def _not_installed(name: str, got: object) -> LorsError:
    return LorsError(
        f"cannot load the {name} of Whisper",
        expected="the Python package openai-whisper",
        got=got or "no package",
        hint="pip install --no-deps openai-whisper more-itertools regex tiktoken",
    )
