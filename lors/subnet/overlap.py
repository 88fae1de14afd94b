"""Overlap of the masks of languages."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from lors.checkpoint.masks import Masks
from lors.linalg.combine import sum_of


def mask_findings(masks: Masks) -> dict[str, Any]:
    """Measure masks.

    Returns:
        ``languages``, ``matrices`` and ``entries`` (numbers), ``settings``; ``density``, language
        -> fraction of the entries inside its mask; ``jaccard``, languages x languages: entries
        inside both masks divided by entries inside at least one; ``shared``: number of languages
        -> the fraction of the entries that are inside the masks of so many languages.
    """
    langs = masks.languages
    both = {pair: 0 for pair in itertools.combinations_with_replacement(langs, 2)}
    shared = [0] * (len(langs) + 1)
    for name in masks.shapes:
        of = {lang: masks.mask(lang, name) for lang in langs}
        for one, other in both:
            both[one, other] += int((of[one] & of[other]).sum())
        holders = sum_of(mask.int() for mask in of.values())
        counts = holders.reshape(-1).bincount(minlength=len(shared))
        shared = [total + int(count) for total, count in zip(shared, counts, strict=True)]
    sizes = {lang: both[lang, lang] for lang in langs}
    return {
        "languages": langs,
        "matrices": len(masks.shapes),
        "entries": masks.entries,
        "settings": masks.settings,
        "density": {lang: size / masks.entries for lang, size in sizes.items()},
        "jaccard": [[_jaccard(both, sizes, a, b) for b in langs] for a in langs],
        "shared": {str(n): count / masks.entries for n, count in enumerate(shared)},
    }


def _jaccard(
    both: dict[tuple[str, str], int], sizes: dict[str, int], one: str, other: str
) -> float | None:
    common = both[(one, other) if (one, other) in both else (other, one)]
    either = sizes[one] + sizes[other] - common
    return common / either if either else None


def overlap_tables(findings: dict[str, Any]) -> list[Sequence[Sequence[str]]]:
    """Return the findings of :func:`mask_findings` as tables of text."""
    langs, settings = findings["languages"], findings["settings"]
    words = ", ".join(f"{name} {value}" for name, value in settings.items())
    about = f"{findings['matrices']} matrices, {findings['entries']} entries; {words}"
    density = [["mask", "kept"], *([lang, f"{d:.3f}"] for lang, d in findings["density"].items())]
    rows = zip(langs, findings["jaccard"], strict=True)
    jaccard = [[lang, *("-" if v is None else f"{v:.3f}" for v in row)] for lang, row in rows]
    shared = [[number, f"{share:.3f}"] for number, share in findings["shared"].items()]
    return [
        [[about]],
        density,
        [["overlap (Jaccard)", *langs], *jaccard],
        [["masks that hold an entry", "share"], *shared],
    ]
