"""Task vectors restricted to the masks of their languages; entries in several masks are shared.

Every task vector is multiplied, entry by entry, by M_i / c: M_i is the mask of its language, and c
the number of experts whose masks hold the entry. A sum over the experts is then, for every entry,
the mean over the experts whose sub-networks have it: entries of one language stay as they are,
shared entries are averaged. A tensor outside the masks belongs to all sub-networks, so its share is
1/N.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from lors.checkpoint.masks import Masks
from lors.checkpoint.reader import Checkpoint
from lors.linalg.combine import sum_of

ALL = slice(None)


class Shares:
    """The shares of the experts of a merge.

    Args:
        base: the base model of the merge.
        path: file of masks of this base model.
        langs: the language of each expert.

    Raises:
        UsageError: a language without a mask.
        LorsError: the masks belong to another base model, or are damaged.
    """

    def __init__(self, base: Checkpoint, path: str, langs: Sequence[str]):
        self.masks, self.langs = Masks(path), langs
        self.masks.check_languages(langs)
        self.masks.check_base(base)

    def of(self, name: str) -> list[Tensor | float]:
        """Return the share of each expert in a tensor: float32 of its shape, or one number."""
        if name not in self.masks.shapes:
            return [1 / len(self.langs)] * len(self.langs)
        of_lang = {lang: self.masks.mask(lang, name).float() for lang in dict.fromkeys(self.langs)}
        holders = sum_of(of_lang[lang] for lang in self.langs).clamp_(min=1)
        return [of_lang[lang] / holders for lang in self.langs]


def shared(delta: Tensor, share: Tensor | float | None, rows: slice = ALL) -> Tensor:
    """Multiply rows of a task vector by the same rows of its share, in place; None for no masks."""
    if share is None:
        return delta
    return delta.mul_(share[rows] if isinstance(share, Tensor) else share)
