"""The results of an experiment without its models: a file to keep, publish, report elsewhere."""

from __future__ import annotations

import gzip
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

from lors.errors import LorsError
from lors.fileio import atomic_write

LEFT_OUT_DIRS = frozenset({"data", "stats", "log", "images", "packed", "importance", "plots"})
"""Directories of an experiment with training data, logs, further models and figures."""
LEFT_OUT_ENDS = (
    *(".pth", ".safetensors", ".zip", ".npz", ".model"),
    *(".log", ".lock", ".part", ".html", ".made_from"),
)
"""Ends of the names of models, logs, temporary files, and pages that are made of the rest."""


def results_in(expdir: Path) -> Iterator[Path]:
    """Yield the files of an experiment that hold results and the records of how they were made.

    Links are left out, and with them the directory of a model that is another one's.
    """
    for folder, directories, files in os.walk(expdir):
        directories[:] = sorted(set(directories) - LEFT_OUT_DIRS)
        for name in sorted(files):
            path = Path(folder, name)
            if not name.endswith(LEFT_OUT_ENDS) and not path.is_symlink():
                yield path


def archive_results(expdir: str | os.PathLike, out: str | os.PathLike) -> int:
    """Write a ``.tar.gz`` of an experiment's results; the same results give the same bytes.

    Scores, hypotheses, the search on dev, and the records of training and merging are in it: what
    :mod:`lors.recipe.results`, :mod:`lors.page` and :mod:`lors.recipe.compare_systems` read. All
    lies in one directory, named like the experiment's.

    Args:
        expdir: experiment directory.
        out: file to write.

    Returns:
        The number of files in the archive.

    Raises:
        LorsError: there are no scores in the directory.
    """
    root = Path(expdir).resolve()
    if not (root / "scores").is_dir():
        raise LorsError(
            "no scores in the experiment",
            where=expdir,
            expected="a directory scores",
            hint="run the recipe up to stage score first",
        )
    files = [*results_in(root)]
    with (
        atomic_write(out, "wb") as handle,
        gzip.GzipFile("", "wb", fileobj=handle, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for path in files:
            member = tarfile.TarInfo(str(Path(root.name, path.relative_to(root))))
            member.size = path.stat().st_size
            with path.open("rb") as content:
                archive.addfile(member, content)
    return len(files)
