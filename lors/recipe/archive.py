"""The results of an experiment without its models: a file to keep, publish, report elsewhere."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

from lors.errors import LorsError
from lors.fileio import atomic_write, json_text, read_json_object
from lors.recipe.run_record import record_path

LOCAL = {"directory": "", "environment": "", "host": "", "pid": 0}
"""Values of the run's record that tell of this machine -> those in the archive."""
LEFT_OUT_DIRS = frozenset({"data", "stats", "log", "images", "packed", "importance", "plots"})
"""Directories of an experiment with training data, logs, further models and figures."""
LEFT_OUT_ENDS = (
    *(".pth", ".safetensors", ".zip", ".npz", ".model"),
    *(".log", ".lock", ".part", ".html", ".html.made_from", "run.sh"),
)
"""Ends of the names of models, logs, temporary files, pages that are made of the rest, and scripts
that resume a training on this machine."""


def results_in(expdir: Path) -> Iterator[Path]:
    """Yield the files of an experiment that hold results and the records of how they were made.

    Links are left out, and with them the directory of a model that is another one's; and so are
    other experiments inside.
    """
    for folder, directories, files in os.walk(expdir):
        inside = set(directories) - LEFT_OUT_DIRS
        directories[:] = sorted(d for d in inside if not record_path(Path(folder, d)).exists())
        for name in sorted(files):
            path = Path(folder, name)
            if not name.endswith(LEFT_OUT_ENDS) and not path.is_symlink():
                yield path


def archive_results(expdir: str | os.PathLike, out: str | os.PathLike) -> int:
    """Write a ``.tar.gz`` of an experiment's results; the same results give the same bytes.

    Scores, hypotheses, the search on dev, and the records of training and merging are in it: what
    :mod:`lors.recipe.results`, :mod:`lors.page` and :mod:`lors.recipe.compare_systems` read. All
    lies in one directory, named like the experiment's. The names of this machine and of its
    directories are left out of the run's record.

    Args:
        expdir: experiment directory.
        out: file to write.

    Returns:
        The number of files in the archive.

    Raises:
        LorsError: the directory has neither scores nor searches, or the run's record is damaged.
    """
    root = Path(expdir).resolve()
    if not any((root / name).is_dir() for name in ("scores", "tune")):
        raise LorsError(
            "no scores in the experiment, and no searches",
            where=expdir,
            expected="a directory scores or tune",
            hint="run the recipe up to stage score, or up to stage tune, first",
        )
    files = [*results_in(root)]
    with (
        atomic_write(out, "wb") as handle,
        gzip.GzipFile("", "wb", fileobj=handle, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for path in files:
            content = path.read_bytes()
            if path == record_path(root):
                content = json_text({**read_json_object(path), **LOCAL}).encode()
            member = tarfile.TarInfo(str(Path(root.name, path.relative_to(root))))
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return len(files)
