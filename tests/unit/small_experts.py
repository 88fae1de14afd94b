"""Small experts of the models in tests/unit/merge_models.py."""

from __future__ import annotations

import json
from pathlib import Path

import safetensors
import safetensors.torch

from lors.checkpoint.vector_file import KEY
from lors.merge.extract import METHOD_OF, extract
from lors.merge.plan import MergePlan

SETTING = {"rank": 2, "density": 0.1}


def write_vector(base: str, expert: str, out: Path, **params) -> str:
    """Write the file of a task vector with `SETTING` and these parameters; return its path."""
    extract(MergePlan(base, (expert,), METHOD_OF["lors"], {**SETTING, **params}), "lors", out)
    return str(out)


def write_lora(base: str, expert: str, out: Path, rank: int) -> str:
    """Write an adapter of this rank; return its path."""
    extract(MergePlan(base, (expert,), METHOD_OF["lora"], {"rank": rank}), "lora", out)
    return str(out)


def changed(path: str, tensors=None, **description) -> str:
    """Change tensors or entries of the description of a task vector; return its path."""
    with safetensors.safe_open(path, framework="pt") as file:
        header = file.metadata()
    values = {**json.loads(header[KEY]), **description}
    content = safetensors.torch.load_file(path) | (tensors or {})
    content = {name: tensor for name, tensor in content.items() if tensor is not None}
    safetensors.torch.save_file(content, path, {**header, KEY: json.dumps(values)})
    return path


def with_content(path: str, tensors) -> str:
    """Change tensors of a task vector, and the hash of the content with them; return its path."""
    from lors.checkpoint.reader import Checkpoint

    changed(path, tensors)
    return changed(path, content=Checkpoint.open(path).fingerprint())
