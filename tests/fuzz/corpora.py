"""Strange texts and names for the fuzzers of corpora, and what must hold after each input."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from lors.errors import LorsError

PIECES = (
    *("a", "Satz", "ß", "नमस्ते", "நான்", "İstanbul", "𝄞", "é", "0", "-", "_", "."),
    *('"', '""', "'", "\\", "\\\\", ",", ";", "|", "/", "..", "../x", "~", "$(id)", "%s", "{}"),
    *(
        " ",
        "  ",
        "\u00a0",
        "\u2028",
        "\x0b",
        "\x1c",
        "\x85",
        "\u200c",
        "\ufeff",
        "\x00",
        "\x1b[31m",
    ),
    *("null", "NA", "nan", "None", "true", "<html>", "#", "=1+1", "-1", "1e999"),
)
"""Parts of strange texts; none of them ends a line or a field of a table."""
SECONDS = 10
"""The longest time for one input, on a busy machine."""


def strange_text(rng, most=6):
    """Return some parts, now and then very many."""
    count = rng.choice((0, 1, 1, 2, most)) if rng.random() < 0.98 else 5000
    return "".join(rng.choices(PIECES, k=count))


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return the size and content of every file below a folder."""
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            files[str(path.relative_to(folder))] = (path.stat().st_size, path.read_bytes())
    return files


@contextlib.contextmanager
def refused_or_done(outcome: dict[str, object]):
    """Run the ``with`` block; a refusal is noted, and any other exception is a failure.

    Args:
        outcome: receives ``error``, the refusal or None.
    """
    began = time.monotonic()
    outcome["error"] = None
    try:
        yield
    except (LorsError, OSError) as error:
        assert str(error).strip()
        assert len(str(error)) < 20_000
        outcome["error"] = error
    assert time.monotonic() - began < SECONDS
