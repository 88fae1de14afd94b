"""Damaged files of CTranslate2: the values that are in the file, or a LorsError, soon."""

import random
import struct

import torch

from lors.checkpoint.reader import Checkpoint
from lors.checkpoint.whisper_dims import whisper_dims
from lors.errors import LorsError
from tests.fuzz.mutate import mutated_bytes, seeds
from tests.unit.ctranslate2_files import (
    PROJECTION,
    SETTINGS,
    entry,
    model_bin,
    quantised,
    text,
    variables_of,
)
from tests.unit.whisper_files import openai_state

HUGE = (0, 1, 2, 7, 255, 2**16, 2**31, 2**32 - 1)


def some_variables(rng):
    variables = variables_of(openai_state(seed=rng.randrange(100), layers=rng.choice((1, 1, 2))))
    if rng.random() < 0.5:
        return quantised(variables, rng.choice((torch.int8, torch.int16)))
    dtype = rng.choice((torch.float32, torch.float16, torch.bfloat16))
    return {name: value.to(dtype) if value.ndim else value for name, value in variables.items()}


def some_aliases(rng, variables):
    names = list(variables)
    return (PROJECTION, *((rng.choice([*names, "x"]), rng.choice([*names, "x"])) for _ in range(2)))


def other_variables(rng, variables):
    """Leave out, rename, repeat or reshape some variables."""
    variables = dict(variables)
    for _ in range(rng.randint(1, 2)):
        name = rng.choice(list(variables))
        value = variables.pop(name)
        change = rng.choice(("left out", "name", "dtype", "rows", "flat", "value", "axes"))
        if change == "name":
            variables[rng.choice((name + "_scale", name[:-1], "encoder/layer_99999999/x"))] = value
        elif change == "dtype":
            variables[name] = value.to(rng.choice((torch.int8, torch.int16, torch.int32)))
        elif change == "rows" and value.ndim:
            variables[name] = value[: rng.randrange(len(value) + 1)]
        elif change == "flat":
            variables[name] = value.flatten()
        elif change == "value" and value.ndim:
            strange = (0, -1, float("nan"), float("inf")) if value.is_floating_point() else (0, -1)
            variables[name] = torch.full_like(value, rng.choice(strange))
        elif change == "axes":
            variables[name] = value.reshape(*value.shape, *[1] * rng.randint(1, 9))
    return model_bin(variables, rng.choice(((PROJECTION,), some_aliases(rng, variables))))


def other_numbers(rng, variables):
    """Change a number before or behind the name of a variable."""
    content = bytearray(model_bin(variables))
    name = rng.choice([name for name in variables if name not in SETTINGS])
    place = content.index(text(name))
    at = rng.choice((place, place + len(text(name)), place + len(text(name)) + 1, 4, 18, 22))
    kind = rng.choice(["<B", "<H", "<I"])
    number = rng.choice(HUGE) % 256 ** struct.calcsize(kind)
    struct.pack_into(kind, content, at, number)
    return bytes(content)


def other_bytes(rng, variables):
    """Change bytes of the index alone, where the values are few."""
    content = model_bin(variables)
    start = rng.randrange(0, len(content), 97)
    return content[:start] + mutated_bytes(rng, content[start : start + 97]) + content[start + 97 :]


def entries_in_another_place(rng, variables):
    """Put a part of the file into another one."""
    content = model_bin(variables)
    part = entry(*rng.choice(list(variables.items())))
    place = rng.choice((content.index(part), rng.randrange(len(content))))
    return content[:place] + part + content[place + rng.choice((0, len(part))) :]


CHANGES = (other_variables, other_variables, other_numbers, other_bytes, entries_in_another_place)


def read(path):
    """Return all tensors; None if the file is refused."""
    try:
        opened = Checkpoint.open(path)
        found = {name: opened.tensor(name) for name in opened.names()}
        assert opened.spec() == {n: (tuple(v.shape), v.dtype) for n, v in found.items()}
        whisper_dims(opened)
        return found
    except LorsError as error:
        assert str(path) in str(error) and len(str(error)) < 10_000
        return None


def test_damaged_files(folder, request):
    path = folder / "model.bin"
    outcomes = {"read": 0, "refused": 0}
    for rng in seeds(request, 300):
        variables = some_variables(rng)
        path.write_bytes(rng.choice(CHANGES)(rng, variables))
        found = read(path)
        outcomes["refused" if found is None else "read"] += 1
        if found is not None:
            # No tensor is larger than the file, or longer than a variable in it.
            assert all(value.numel() <= path.stat().st_size for value in found.values())
    assert min(outcomes.values()) > 20


def test_whole_files(folder):
    """Any order of the variables, which the other test would not notice to be refused."""
    path = folder / "model.bin"
    for seed in range(20):
        rng = random.Random(seed)
        variables = some_variables(rng)
        path.write_bytes(model_bin(variables))
        first = read(path)
        items = list(variables.items())
        rng.shuffle(items)
        path.write_bytes(model_bin(dict(items)))
        second = read(path)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)
