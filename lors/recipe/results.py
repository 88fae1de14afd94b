"""The report of an experiment: the same tables as Markdown and as plain text.

Every number comes from a score file or a sweep file. With several experiment directories (one a
seed) a cell is the mean and the sample standard deviation over them.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lors.recipe.expdir import SCOPES
from lors.recipe.score_tree import ScoreTable
from lors.recipe.sweeps import Sweep, format_params
from lors.score.normalised import unhelpful_experts
from lors.tasks import TASKS, Pair, task_called

SCOPE_NAMES = {"langs": "languages", "langs_tasks": "languages and tasks"}

DEFINITION = (
    "Normalised performance (LoRS's own definition): mean over language-task pairs of "
    "(merged - base) / (expert - base), WER sign-flipped; 0 is the base model, 1 the experts."
)


@dataclass(frozen=True)
class Section:
    """A part of the report: a heading, notes, a table (may be empty), and notes below it.

    Attributes:
        labels: how many leading columns are words (the others are numbers, aligned right).
    """

    title: str
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    labels: int = 1
    above: Sequence[str] = ()
    below: Sequence[str] = field(default=())


def make_report(table: ScoreTable, sweeps: Sequence[Sweep]) -> list[Section]:
    """The sections of the report, without title, plots and command."""
    sections = [_task_section(table, task) for task in table.tasks]
    if table.can_normalise and len(table.tasks) > 1:
        sections.append(_normalised_section(table))
    sections += [_second_metric_section(table, task) for task in table.tasks]
    sections.append(_parameter_section(table, sweeps))
    sections.append(_test_set_section(table))
    sections.append(Section("How the scores are computed", above=_how(table)))
    return sections


def describe_runs(table: ScoreTable) -> str:
    """One line: which set, how many seeds, and what a cell is."""
    runs = ", ".join(table.expdirs)
    if len(table.expdirs) == 1:
        return f"Scores on {table.split}; 1 run ({runs}), so no spread is known."
    return (
        f"Scores on {table.split}; mean ± sample standard deviation over "
        f"{len(table.expdirs)} seeds ({runs})."
    )


def cell(values: Sequence[float], digits: int) -> str:
    """``mean``, or ``mean ± sample standard deviation`` of several values."""
    mean = f"{statistics.fmean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def _system_cells(system: str) -> list[str]:
    method, _, scope = system.partition(".")
    return [method, SCOPE_NAMES.get(scope, scope) or "-"]


def _score_rows(table: ScoreTable, task: str, key: str) -> list[list[str]]:
    rows = []
    for system in table.systems:
        columns = [table.values(system, f"{lang}_{task}", key) for lang in table.languages(task)]
        columns.append(table.averages(system, task, key))
        rows.append(_system_cells(system) + [cell(values, 1) for values in columns])
    return rows


def _task_section(table: ScoreTable, task: str) -> Section:
    metric = task_called(task).metric
    header = ["system", "merged over", *table.languages(task), "average"]
    rows = _score_rows(table, task, metric.key)
    below = []
    if table.can_normalise:
        header.append("norm. perf.")
        for system, row in zip(table.systems, rows, strict=True):
            row.append(cell(table.normalised(system, [task]), 2))
        below = _unhelpful_notes(table, task)
    else:
        below = ["No normalised performance: it needs scores of both base and expert."]
    unit = " in %" if metric.lower_is_better else ""
    better = "lower" if metric.lower_is_better else "higher"
    title = f"{TASKS[task].title}: {metric.name}{unit} ({better} is better)"
    return Section(title, header, rows, labels=2, below=below)


def _unhelpful_notes(table: ScoreTable, task: str) -> list[str]:
    notes = []
    for index, expdir in enumerate(table.expdirs):
        pairs = unhelpful_experts(
            table.run("base", index, [task]), table.run("expert", index, [task])
        )
        if pairs:
            notes.append(
                f"Beware: in {expdir} the expert is worse than the base model for "
                f"{', '.join(pairs)}; there normalised performance rewards getting worse."
            )
    return notes


def _normalised_section(table: ScoreTable) -> Section:
    rows = []
    for system in table.systems:
        groups = [[task] for task in table.tasks] + [table.tasks]
        values = [cell(table.normalised(system, group), 2) for group in groups]
        rows.append(_system_cells(system) + values)
    header = [
        "system",
        "merged over",
        *(task_called(t).metric.name for t in table.tasks),
        "all pairs",
    ]
    title = "Normalised performance (higher is better)"
    return Section(title, header, rows, labels=2, above=[DEFINITION])


def _second_metric_section(table: ScoreTable, task: str) -> Section:
    metric = TASKS[task].metrics[1]
    unit = " in %" if metric.lower_is_better else ""
    header = ["system", "merged over", *table.languages(task), "average"]
    rows = _score_rows(table, task, metric.key)
    return Section(f"{metric.name}{unit}", header, rows, labels=2)


def _parameter_section(table: ScoreTable, sweeps: Sequence[Sweep]) -> Section:
    rows = [
        [
            sweep.method,
            sweep.scope.replace("_", " + "),
            sweep.expdir,
            format_params(sweep.chosen["params"]),
            f"{sweep.chosen['objective']:.3f}",
            str(len(sweep.grid)),
        ]
        for sweep in sweeps
    ]
    header = ["method", "tasks", "run", "parameters", "dev norm. perf.", "settings tried"]
    above = ["Chosen on dev by normalised performance."]
    untuned = _untuned(table, sweeps)
    below = [f"Without a sweep on dev: {', '.join(untuned)}."] if untuned else []
    if not rows:
        above = ["No sweep files: nothing was tuned on dev."]
    return Section("Merge parameters", header if rows else (), rows, 4, above, below)


def _untuned(table: ScoreTable, sweeps: Iterable[Sweep]) -> list[str]:
    """Merges in the table that have no sweep file, as ``method.scope in expdir``."""
    tuned = {(sweep.expdir, sweep.method, sweep.scope) for sweep in sweeps}
    missing = []
    for system in table.systems:
        method, _, scope = system.partition(".")
        if scope not in SCOPES:
            continue
        for expdir in table.expdirs:
            for of in table.tasks if scope == "langs" else ["_".join(table.tasks)]:
                if (expdir, method, of) not in tuned:
                    missing.append(f"{method}.{of} in {expdir}")
    return missing


def _test_set_section(table: ScoreTable) -> Section:
    rows = []
    for pair in table.pairs:
        lang, task = Pair.parse(pair).lang, Pair.parse(pair).task
        keys = ("utterances", "ref_words", "empty_refs")
        scores = table.scores[table.systems[0]][pair]
        rows.append([lang, task, *(_range(score.get(key) for score in scores) for key in keys)])
    header = ["language", "task", "utterances", "reference words", "empty references"]
    return Section(f"The {table.split} sets", header, rows, labels=2)


def _range(values: Iterable[int | None]) -> str:
    known = sorted({value for value in values if value is not None})
    return "-".join(str(value) for value in (known[:1] + known[1:][-1:])) or "n/a"


def _how(table: ScoreTable) -> list[str]:
    """Normaliser, jiwer version and sacreBLEU signatures, each with the languages they are for."""
    used: dict[str, list[str]] = {}
    for pair in table.pairs:
        lang, task = Pair.parse(pair).lang, Pair.parse(pair).task
        score = table.scores[table.systems[0]][pair][0]
        if task == "asr":
            how = (
                "WER and CER: hypothesis and reference normalised alike by "
                f"{score['normaliser']} (openai-whisper {score['openai_whisper_version']}), "
                f"errors counted by jiwer {score['jiwer_version']}"
            )
            if score["unit"] == "character":
                how += "; words are not separated, so both rates are over characters"
        else:
            how = (
                f"sacreBLEU signatures: BLEU {score['bleu_signature']}, "
                f"chrF {score['chrf_signature']}"
            )
        used.setdefault(how, []).append(lang)
    notes = [f"{how} ({', '.join(langs)})." for how, langs in used.items()]
    return [*notes, DEFINITION] if table.can_normalise else notes


def render_markdown(
    sections: Sequence[Section],
    title: str,
    runs: str,
    plots: Sequence[tuple[str, str]] = (),
    command: str | None = None,
) -> str:
    """The report as Markdown.

    Args:
        sections: of :func:`make_report`.
        title: heading of the file.
        runs: of :func:`describe_runs`.
        plots: (caption, path relative to the file) of images to show.
        command: the command that made the results, shown in a code block.
    """
    lines = [f"# {title}", "", runs, ""]
    for section in sections:
        lines += [f"## {section.title}", ""]
        lines += [text for note in section.above for text in (_escape(note), "")]
        if section.rows:
            marks = [":--" if i < section.labels else "--:" for i in range(len(section.header))]
            for row in (section.header, marks, *section.rows):
                lines.append("| " + " | ".join(_escape(text) for text in row) + " |")
            lines.append("")
        lines += [text for note in section.below for text in (_escape(note), "")]
    if plots:
        lines += ["## Plots", ""]
        lines += [text for caption, path in plots for text in (f"![{caption}]({path})", "")]
    if command:
        lines += ["## Command", "", "```bash", command, "```", ""]
    return "\n".join(lines)


def _escape(text: str) -> str:
    """Keep what is meant literally (signatures, names) from being read as Markdown."""
    for character in "\\|_*":
        text = text.replace(character, "\\" + character)
    return text


def render_text(sections: Sequence[Section], title: str, runs: str) -> str:
    """The report for a terminal: the same tables, aligned by spaces."""
    lines = [title, runs, ""]
    for section in sections:
        lines += [section.title, *section.above]
        if section.rows:
            grid = [section.header, *section.rows]
            widths = _widths(grid)
            lines += aligned(grid, section.labels)
            lines.insert(-len(section.rows), "  ".join("-" * width for width in widths))
        lines += [*section.below, ""]
    return "\n".join(lines)


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


def aligned(rows: Sequence[Sequence[str]], labels: int = 1) -> list[str]:
    """A line of text for each row, in columns: the first `labels` to the left, numbers right."""
    lines, widths = [], _widths(rows)
    for row in rows:
        cells = [
            text.ljust(width) if i < labels else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def relative_to(path: str | os.PathLike, folder: str | os.PathLike) -> str:
    """`path` as a link from a file in `folder`."""
    return Path(os.path.relpath(path, folder)).as_posix()
