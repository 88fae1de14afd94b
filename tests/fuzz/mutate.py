"""Seeded changes to inputs, shared by the fuzzers."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

FULL = 10_000
"""Number of inputs of a fuzzer with ``--full``."""


def seeds(request, few: int) -> Iterator[random.Random]:
    """Yield one random generator for each input: `few` of them, or 10,000 with ``--full``."""
    for seed in range(FULL if request.config.getoption("full") else few):
        yield random.Random(seed)


def mutated_bytes(rng: random.Random, content: bytes) -> bytes:
    """Change, remove, repeat or insert a few bytes."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        place, length = rng.randrange(len(changed) + 1), rng.choice((1, 1, 4, 16, 100))
        change = rng.choice(("flip", "flip", "cut", "remove", "repeat", "insert"))
        if change == "flip" and place < len(changed):
            changed[place] ^= 1 << rng.randrange(8)
        elif change == "cut":
            del changed[max(place, len(changed) - length) :]
        elif change == "remove":
            del changed[place : place + length]
        elif change == "repeat":
            changed[place:place] = changed[place : place + length]
        else:
            changed[place:place] = rng.randbytes(length)
    return bytes(changed)


STRANGE = (
    *(None, True, False, 0, -1, 1, 2**31, 2**64, 10**400, 0.5, -0.0, 1e308, float("inf")),
    *("", " ", "nan", "yes", "../x", "/", "é", "\x00", "\ud800", "x" * 300, "(a+)+$"),
    *([], {}, [[]], {"": None}, [None], {"a": {"a": {"a": 1}}}, [1] * 300),
)
"""Values that take the place of others."""


def mutated_value(rng: random.Random, value: Any) -> Any:
    """Return a copy of a value of JSON with something in it replaced, removed or added."""
    value = copy.deepcopy(value)
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        change = rng.random()
        if change < 0.1:
            del value[key]
        elif change < 0.2:
            value[rng.choice(("", "x", key.upper(), key + " ", "\ud800"))] = value.pop(key)
        elif change < 0.3:
            value[rng.choice(("x", "unknown", "Größe"))] = rng.choice(STRANGE)
        else:
            value[key] = mutated_value(rng, value[key])
        return value
    if isinstance(value, list) and value and rng.random() < 0.8:
        place = rng.randrange(len(value))
        value[place] = mutated_value(rng, value[place])
        return value
    return copy.deepcopy(rng.choice(STRANGE))
