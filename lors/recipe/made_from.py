"""Records of the sources of files, so that the files are made again only if something has changed.

A done marker (:mod:`lors.done_marker`) protects results of hours: it refuses other settings. The
files here are results of seconds, such as scores and figures: they are simply made again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lors
from lors.errors import LorsError
from lors.fileio import file_digest, read_json, write_json


class MadeFrom:
    """The record of the sources and settings of some files.

    Args:
        path: file of the record.
        sources: files that the products are made from.
        products: files that are made.
        settings: everything else that they depend on, JSON-serialisable.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        sources: Sequence[Path],
        products: Sequence[Path],
        settings: Mapping[str, Any],
    ):
        self.path, self.sources, self.products = Path(path), sources, products
        self.settings = {**settings, "lors": lors.__version__}

    def is_current(self) -> bool:
        """Return whether sources, products and settings are the recorded ones.

        A product that is older than a source is never current, because :mod:`lors.recipe.status`
        compares only these times and has to give the same answer.
        """
        try:
            recorded = read_json(self.path)
        except LorsError:
            return False
        if not all(path.exists() for path in (*self.sources, *self.products)):
            return False
        newest_source = max((path.stat().st_mtime_ns for path in self.sources), default=0)
        oldest_product = min(path.stat().st_mtime_ns for path in self.products)
        return newest_source <= oldest_product and recorded == self._content()

    def record(self) -> None:
        """Write the record, after all products."""
        write_json(self.path, self._content())

    def _content(self) -> dict[str, Any]:
        files = {str(path): file_digest(path) for path in (*self.sources, *self.products)}
        return {"settings": self.settings, "files": files}
