"""Files of task vectors with damage: the same task vector, other finite values, or a LorsError."""

import json
import time

import pytest
import safetensors
import safetensors.torch
import torch

from lors.checkpoint.expert import open_expert, open_model
from lors.checkpoint.reader import Checkpoint
from lors.checkpoint.vector_file import KEY
from lors.errors import LorsError
from lors.merge.extract import extract
from lors.merge.plan import MergePlan
from lors.merge.task_vector import TaskVector
from tests.fuzz.mutate import mutated_bytes, mutated_value, seeds
from tests.unit.merge_models import write_models

CHANGES = ("cut", "twice", "other", "dtype", "flat", "left out", "renamed", "swapped")


def deltas_of(base, path):
    """Return all task vectors of a file; None if it is refused."""
    began = time.process_time()
    try:
        vector = TaskVector(base, open_expert(base, path))
        names = [name for name in base.names() if base.dtype(name).is_floating_point]
        return {name: vector.delta(name) for name in names}
    except LorsError as error:
        assert len(str(error)) < 20_000
        return None
    finally:
        assert time.process_time() - began < 5


def mutated_tensors(rng, tensors):
    name = rng.choice(list(tensors))
    value = tensors[name]
    flat = value.reshape(-1).clone()
    change = rng.choice(
        ("cut", "twice", "other", "dtype", "flat", "left out", "renamed", "swapped")
    )
    if change == "left out":
        return {key: tensor for key, tensor in tensors.items() if key != name}
    if change == "renamed":
        new = rng.choice(("", "x", ":", name + "x", name.replace(":", "."), "other:whole"))
        return {new if key == name else key: tensor for key, tensor in tensors.items()}
    if change == "swapped":
        other = rng.choice(list(tensors))
        return tensors | {name: tensors[other].clone(), other: value.clone()}
    if change == "other":
        number = rng.choice((0, 1, 255, 65504, float("inf"), float("nan")))
        flat[rng.randrange(len(flat))] = number if value.is_floating_point() else 255
    made = {
        "cut": lambda: value[1:].clone(),
        "twice": lambda: torch.cat([value, value]),
        "other": lambda: flat.reshape(value.shape),
        "dtype": lambda: value.to(rng.choice((torch.float32, torch.int8, torch.bfloat16))),
        "flat": lambda: flat,
    }
    return tensors | {name: made[change]()}


@pytest.mark.parametrize("density", [0.1, 0.3])  # positions as gaps and as bitmaps
def test_damaged_task_vectors(folder, request, density):
    base, expert, _ = write_models(folder)
    path = folder / "v.safetensors"
    plan = MergePlan(base, (expert,), "lors", {"rank": 2, "density": density})
    extract(plan, "lors", path)
    content, tensors, base = path.read_bytes(), safetensors.torch.load_file(path), open_model(base)
    with safetensors.safe_open(path, framework="pt") as file:
        header = file.metadata()
    whole = deltas_of(base, path)
    outcomes = {"read": 0, "refused": 0}
    for rng in seeds(request, 400):
        part = rng.choice(("file", "description", "tensors", "hashed tensors"))
        if part == "file":
            path.write_bytes(mutated_bytes(rng, content))
        else:
            described, changed = json.loads(header[KEY]), tensors
            if part == "description":
                described = mutated_value(rng, described)
            else:
                changed = mutated_tensors(rng, tensors)
            safetensors.torch.save_file(changed, path, {KEY: json.dumps(described)})
            if part == "hashed tensors":
                described["content"] = Checkpoint.open(path).fingerprint()
                safetensors.torch.save_file(changed, path, {KEY: json.dumps(described)})
        found = deltas_of(base, path)
        outcomes["refused" if found is None else "read"] += 1
        if found is not None and part != "hashed tensors":
            assert all(torch.equal(found[name], whole[name]) for name in whole)
        if found is not None:
            assert all(torch.isfinite(delta).all() for delta in found.values())
    assert min(outcomes.values()) > 20
