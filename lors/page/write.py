"""The page: everything read, the templates filled in, the file written."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shlex
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import lors
from lors.fileio import write_text
from lors.page.charts import normalised_panels, score_panels
from lors.page.overlap_charts import overlap_plots
from lors.page.provenance import Provenance, read_provenance
from lors.page.summary import summarise
from lors.page.sweep_charts import scopes_of_sweeps, sweep_panels
from lors.page.tables import Table, normalised_table, of_section, score_table
from lors.page.texts import first_two, read_texts, utterance_files
from lors.recipe.cost import cost_files, cost_sections
from lors.recipe.expdir import ExpDir
from lors.recipe.made_from import MadeFrom
from lors.recipe.mask_overlap import overlap_files, overlap_sections
from lors.recipe.parameters import parameter_section
from lors.recipe.personal import size_files, size_sections
from lors.recipe.results import (
    DEFINITION,
    MISSING_NOTE,
    describe_runs,
    descriptions,
    error_section,
    read_report,
    test_set_section,
)
from lors.recipe.score_tree import ScoreTable
from lors.recipe.significance import (
    Significance,
    compared_section,
    read_significance,
    significance_file,
)
from lors.recipe.subnet_sizes import subnet_size_files, subnet_size_sections
from lors.recipe.sweeps import Sweep
from lors.recipe.weights import contribution_sections
from lors.tasks import ASR, task_called

TEMPLATES = Path(__file__).parent
TITLE = "Results"
FILES = ("page.html", "plots.html", "page.css", "page.js")
UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
"""Characters that HTML does not allow; each is shown as U+FFFD."""


def write_page(
    expdirs: Sequence[str | os.PathLike],
    out: str | os.PathLike,
    title: str = TITLE,
    significance: str | os.PathLike | None = None,
    systems: Collection[str] | None = None,
) -> list[str]:
    """Write the page of some experiment directories, unless it is there and nothing has changed.

    Args:
        expdirs: experiment directories, one for each seed.
        out: HTML file to write.
        title: its heading.
        significance: file with intervals and comparisons; by default that of ``RESULTS.md`` in
            the first directory, if it exists.
        systems: as of :func:`lors.recipe.results.read_report`.

    Returns:
        Remarks: whether the file was written, and what was left out.

    Raises:
        LorsError: there are no scores, or a file is malformed; `significance` does not exist.
        UsageError: one of `systems` has no scores.
    """
    out = Path(out)
    table, sweeps = read_report(expdirs, systems)
    provenance = read_provenance(table.expdirs)
    path = Path(significance or significance_file(Path(table.expdirs[0]) / "RESULTS.md"))
    has_significance = path.exists() or significance is not None
    sources = [*_sources(table, sweeps), *provenance.sources]
    sources += [path] if has_significance else []
    command = _command(table, out, title, significance, systems)
    settings = {"title": title, "command": command, **_histories(provenance)}
    record = MadeFrom(out.with_name(f".{out.name}.made_from"), sources, [out], settings)
    if record.is_current():
        return [f"up to date: {out}"]
    found = read_significance(table, path) if has_significance else None
    remarks, note = [], ""
    if found is None:
        why = "is not of these scores" if has_significance else "does not exist"
        todo = _making_intervals(table, systems, Path("RESULTS.md"))
        note = f"No intervals and no comparisons of systems: {path} {why}. To have them, {todo}."
    if found is None and has_significance:
        todo = _making_intervals(table, systems, out.with_name("RESULTS.md"))
        remarks.append(f"left out: {path}, which is not of these scores; {todo}")
    write_text(out, render(table, sweeps, found, note, provenance, title, command))
    record.record()
    return [*remarks, f"written: {out}"]


def _command(
    table: ScoreTable,
    out: Path,
    title: str,
    significance: str | os.PathLike | None,
    systems: Collection[str] | None,
) -> str:
    """Return the command that writes the page."""
    words = ["python", "-m", "lors.bin.report", "--expdirs", *table.expdirs]
    words += _systems_option(systems)
    words += ["--title", title] if title != TITLE else []
    words += ["--significance", str(significance)] if significance is not None else []
    return shlex.join([*words, "--out", out.name])


def _making_intervals(table: ScoreTable, systems: Collection[str] | None, results: Path) -> str:
    """Return what to call for intervals, with the report `results`."""
    words = ["python", "-m", "lors.bin.results", "--expdirs", *table.expdirs]
    words += [*_systems_option(systems), "--out", str(results)]
    return (
        f"call {shlex.join(words)}, then report again with "
        f"--significance {shlex.quote(str(significance_file(results)))}"
    )


def _histories(provenance: Provenance) -> dict[str, Any]:
    """Return what the page has of files that change after it was written, at the end of a stage."""
    tables = (provenance.stages, provenance.evaluated)
    rows = [[[cell.text for cell in row] for row in table.rows] for table in tables]
    return {"commands": [list(command) for command in provenance.commands], "tables": rows}


def _systems_option(systems: Collection[str] | None) -> list[str]:
    return [] if systems is None else ["--systems", *systems]


def _sources(table: ScoreTable, sweeps: Sequence[Sweep]) -> list[Path]:
    """Return the files that the page is made from, also those of the templates."""
    texts = [path for of in utterance_files(table).values() for path in of.values()]
    tuned = [ExpDir(s.expdir).sweep(s.method, s.scope) for s in sweeps]
    costs = [path for path in cost_files(sweeps) if path.exists()]
    of_dirs = (overlap_files, size_files, subnet_size_files)
    measured = [path for files_of in of_dirs for path in files_of(table.expdirs)]
    templates = [TEMPLATES / name for name in FILES]
    return [*table.files(), *texts, *tuned, *costs, *measured, *templates]


def render(
    table: ScoreTable,
    sweeps: Sequence[Sweep],
    significance: Significance | None,
    without_significance: str,
    provenance: Provenance,
    title: str,
    command: str,
) -> str:
    """Return the page, the same text for the same arguments."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    style, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in FILES[2:])
    plotted = [sweep for sweep in sweeps if not sweep.undefined]
    summary = summarise(table, sweeps, significance)
    best = summary.chosen[0].system if summary.chosen else None
    return environment.get_template("page.html").render(
        title=title,
        command=command,
        version=lors.__version__,
        style=style,
        script=script,
        style_hash=_csp_hash(style),
        script_hash=_csp_hash(script),
        runs=describe_runs(table),
        without_significance=without_significance,
        missing=table.missing(),
        missing_note=MISSING_NOTE,
        summary=summary,
        tasks=[_task(table, task, significance) for task in table.tasks],
        normalised=normalised_table(table, DEFINITION) if table.can_normalise else None,
        normalised_panels=normalised_panels(table) if table.can_normalise else [],
        sweep_panels=sweep_panels(plotted),
        scopes=[*scopes_of_sweeps(plotted).values()],
        several_runs=len(table.expdirs) > 1,
        has_intervals=significance is not None and not significance.problem,
        parameters=of_section(parameter_section(table, sweeps)),
        contributions=[of_section(section) for section in contribution_sections(sweeps)],
        costs=[of_section(section) for section in cost_sections(sweeps)],
        overlaps=[of_section(section) for section in overlap_sections(table.expdirs)],
        overlap_plots=overlap_plots(overlap_files(table.expdirs)),
        sizes=_sizes(table),
        errors=of_section(error_section(table)) if ASR.name in table.tasks else None,
        compared=_compared(table, significance),
        texts=read_texts(table),
        first_two=first_two(table, best),
        first_run=table.expdirs[0],
        provenance=provenance,
        test_sets=of_section(test_set_section(table)),
        descriptions=descriptions(table),
    )


def _printable(value: Any) -> Any:
    """Replace characters that HTML does not allow."""
    return UNPRINTABLE.sub("\ufffd", value) if type(value) is str else value


def _csp_hash(text: str) -> str:
    """Return the source expression of Content-Security-Policy that allows this text alone."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _task(table: ScoreTable, task: str, significance: Significance | None) -> dict[str, Any]:
    """Return tables and plots of a task."""
    speech_task = task_called(task)
    return {
        "name": task,
        "title": speech_task.title,
        "metric": speech_task.metric,
        "panels": score_panels(table, task, significance),
        "tables": [score_table(table, task, m, significance) for m in speech_task.metrics],
    }


def _sizes(table: ScoreTable) -> list[Table]:
    sections = [*size_sections(table.expdirs), *subnet_size_sections(table.expdirs)]
    return [of_section(section) for section in sections]


def _compared(table: ScoreTable, significance: Significance | None) -> list[Table]:
    if significance is None:
        return []
    tasks = [task for task in table.tasks if significance.comparisons.get(task)]
    return [of_section(compared_section(table, significance, task)) for task in tasks]
