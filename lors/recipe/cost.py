"""Cost of merging and of the search on dev: CPU time and wall time, kept in ``cost.json``.

Beside a merged model the file has the seconds of the merge; beside a sweep it has those of the
merges and of the inference of the whole search, all interruptions included, and the number of
utterances that were decoded. Measured seconds stand apart from results, which repeat exactly.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from lors.errors import LorsError
from lors.fileio import read_json, write_json
from lors.recipe.expdir import ExpDir, tasks_of
from lors.recipe.report import Section
from lors.recipe.sweeps import Sweep
from lors.score.result import is_number

FILE = "cost.json"
MERGING, INFERENCE, DECODED = "merging", "inference", "decoded"


class Cost:
    """Seconds of the parts of some work, kept in a file from one run to the next.

    Args:
        directory: where the file lies.

    Attributes:
        seconds: name of a part -> ``cpu_s``, CPU time of the process with all its threads, and
            ``wall_s``.
        decoded: number of utterances that were decoded.
    """

    def __init__(self, directory: Path):
        self.path = directory / FILE
        self.seconds: dict[str, dict[str, float]] = {}
        self.decoded = 0

    @classmethod
    def read(cls, directory: Path) -> Self | None:
        """Read ``cost.json`` in a directory; None if there is none.

        Raises:
            LorsError: the file is malformed.
        """
        cost = cls(directory)
        if not cost.path.exists():
            return None
        content = read_json(cost.path)
        if not _is_cost(content):
            raise LorsError(
                "not the cost of a merge or of a search",
                where=cost.path,
                expected="seconds of each part, and the number of decoded utterances",
                hint="remove this file",
            )
        cost.decoded = content[DECODED]
        cost.seconds = {name: part for name, part in content.items() if name != DECODED}
        return cost

    @contextlib.contextmanager
    def measured(self, part: str) -> Iterator[None]:
        """Add the time of the ``with`` block to a part."""
        cpu, wall = time.process_time(), time.perf_counter()
        yield
        before = self.seconds.get(part, {"cpu_s": 0.0, "wall_s": 0.0})
        self.seconds[part] = {
            "cpu_s": before["cpu_s"] + time.process_time() - cpu,
            "wall_s": before["wall_s"] + time.perf_counter() - wall,
        }

    def cpu_seconds(self, part: str) -> float:
        """Return the CPU seconds of a part; 0 if it was never done."""
        return self.seconds.get(part, {}).get("cpu_s", 0.0)

    def write(self) -> None:
        """Write the file."""
        rounded = {
            part: {name: round(value, 3) for name, value in of.items()}
            for part, of in self.seconds.items()
        }
        write_json(self.path, {**rounded, DECODED: self.decoded})


def _is_cost(content: Any) -> bool:
    if not isinstance(content, dict) or type(content.get(DECODED)) is not int:
        return False
    return all(
        isinstance(part, dict) and all(is_number(part.get(name)) for name in ("cpu_s", "wall_s"))
        for name, part in content.items()
        if name != DECODED
    )


def _directories(sweep: Sweep) -> tuple[Path, Path]:
    """Return the directories of the merge with the chosen parameters, and of the search."""
    exp = ExpDir(sweep.expdir)
    return (
        exp.merged(sweep.method, sweep.scope),
        exp.sweep(sweep.method, sweep.scope).parent,
    )


def cost_files(sweeps: Sequence[Sweep]) -> list[Path]:
    """Return the files that :func:`cost_sections` reads; some may be missing."""
    return [directory / FILE for sweep in sweeps for directory in _directories(sweep)]


def cost_sections(sweeps: Sequence[Sweep]) -> list[Section]:
    """Return the table of costs; nothing if no cost was measured.

    Raises:
        LorsError: a file of costs is malformed.
    """
    rows, is_measured = [], False
    for sweep in sweeps:
        merge, search = map(Cost.read, _directories(sweep))
        is_measured = is_measured or merge is not None or search is not None
        share = sweep.evaluations / (sweep.plain_evaluations or 1)
        rows.append(
            [
                *(sweep.method, " + ".join(tasks_of(sweep.scope)), sweep.expdir),
                *(_cpu(merge, MERGING), _cpu(search, MERGING), _cpu(search, INFERENCE)),
                str(sweep.evaluations),
                f"{100 * share:.0f} %",
            ]
        )
    header = ["method", "tasks", "run", "one merge", "merges of the search"]
    header += ["inference of the search", "evaluations", "of the plain grid"]
    above = [
        "CPU seconds of the process, all threads together. One merge: with the chosen parameters, "
        "from and to files. An evaluation is a dev utterance of a language and task for one "
        "setting; the plain grid evaluates every setting on all of dev. The methods of a search "
        "that approximate each task vector by one of low rank (lors, svp, lors_actmat) share its "
        "decompositions, which count for the first of them; all methods decode models with the "
        "same values once.",
    ]
    return [Section("Cost of merging", header, rows, 3, above)] if is_measured else []


def _cpu(cost: Cost | None, part: str) -> str:
    return "n/a" if cost is None else f"{cost.cpu_seconds(part):.1f}"
