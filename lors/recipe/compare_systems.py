"""Comparison of the systems of one or two experiments, as tables and as JSON."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lors.errors import LorsError, UsageError, unknown_name
from lors.fileio import write_json
from lors.recipe.comparison import (
    FEW,
    Comparison,
    Outputs,
    Resampled,
    compare,
    mixed_units,
    read_outputs,
    signature,
    tests_of,
)
from lors.recipe.expdir import ExpDir
from lors.recipe.report import Section, render_text
from lors.score import Score
from lors.score.significance import MatchedPairs
from lors.tasks import ASR, TASKS, Metric, Pair, task_called

log = logging.getLogger(__name__)

CAPTION = (
    "Intervals and tests are over the utterances of the test set, taken as independent; not over "
    "speakers, nor over training runs."
)
"""States what the numbers of every table are about."""


def compare_systems(
    expdirs: Sequence[str | os.PathLike],
    systems: Sequence[str],
    split: str,
    langs: Sequence[str] | None,
    tasks: Sequence[str] | None,
    seed: int,
    out: str | os.PathLike | None = None,
    pooled: bool = False,
) -> str:
    """Compare the first system of the first experiment with every other system.

    Args:
        expdirs: one or two experiment directories.
        systems: names of systems.
        split: name of the split.
        langs: languages; None for all of the first system.
        tasks: tasks; None for all of the first system.
        seed: seed of the bootstrap samples.
        out: JSON file to write.
        pooled: compare over all languages together alone, not for each language.

    Returns:
        The tables as text.

    Raises:
        UsageError: an experiment twice, an unknown system, or no second system.
        LorsError: scores are missing or malformed, or not of the same utterances.
    """
    if seed < 0:
        raise UsageError("not a seed", where="--seed", expected="0 or more", got=seed)
    entries = _entries(expdirs, systems, split)
    names = list(entries)
    pairs = _pairs(entries[names[0]], langs, tasks)
    files = {
        name: {pair: [folder / f"{pair}.json"] for pair in pairs}
        for name, folder in entries.items()
    }
    outputs, examples = read_outputs(files)
    tables = []
    for task in TASKS:
        if of_task := [pair for pair in pairs if pair.task == task]:
            for metric in tests_of(task):
                tables.append((metric, _table(outputs, names, metric, of_task, seed, pooled)))
    if out is not None:
        write_json(out, _content(names, outputs, examples, tables, split, seed))
    sections = []
    for metric, found in tables:
        section = comparison_section(metric, found, seed)
        below = [*section.below, *mixed_units(examples, found)]
        sections.append(dataclasses.replace(section, below=below))
    title = f"Each system compared with {names[0]} on {split}"
    return render_text(sections, title, CAPTION).rstrip("\n")


def _entries(
    expdirs: Sequence[str | os.PathLike], systems: Sequence[str], split: str
) -> dict[str, Path]:
    """Return the name of each system in the tables -> its folder of score files."""
    if not 1 <= len(expdirs) <= 2 or len({Path(d).resolve() for d in expdirs}) < len(expdirs):
        raise UsageError(
            "one experiment directory or two different ones are compared",
            where="--expdir",
            got=[*map(str, expdirs)],
        )
    folders = {d: ExpDir(d).root / "scores" / split for d in expdirs}
    present = {
        d: sorted({path.parent.name for path in folder.glob("*/*.json")})
        for d, folder in folders.items()
    }
    if empty := [folder for d, folder in folders.items() if not present[d]]:
        raise LorsError(
            "no scores found", where=empty, expected="<system>/<lang>_<task>.json",
            hint="finish the inference and scoring stages",
        )  # fmt: skip
    if systems[0] not in present[expdirs[0]]:
        where = f"--systems, scores of {expdirs[0]}"
        raise unknown_name("system", systems[0], present[expdirs[0]], where)
    entries = {}
    for system in systems:
        having = [d for d in expdirs if system in present[d]]
        if not having:
            raise unknown_name("system", system, set().union(*present.values()), "--systems")
        for d in expdirs:
            if d not in having:
                log.warning("%s has no scores of %s: compared without it", d, system)
                continue
            entries[system if len(expdirs) == 1 else f"{d}:{system}"] = folders[d] / system
    if len(entries) < 2:
        raise UsageError(
            "nothing to compare", where="--systems", expected="two systems", got=[*entries]
        )
    return entries


def _pairs(folder: Path, langs: Sequence[str] | None, tasks: Sequence[str] | None) -> list[Pair]:
    """Return the wanted pairs, in the order of the tables."""
    scored = [Pair.parse(path.stem) for path in folder.glob("*.json")]
    known = sorted({pair.lang for pair in scored})
    for lang in langs or ():
        if lang not in known:
            raise unknown_name("language", lang, known, f"--langs, scores of {folder}")
    wanted = [
        pair for pair in scored if pair.lang in (langs or known) and pair.task in (tasks or TASKS)
    ]
    if not wanted:
        got = ", ".join(sorted(map(str, scored)))
        raise UsageError("no scores of these tasks and languages", where=folder, got=got)
    return sorted(wanted, key=str)


def _table(
    outputs: Outputs,
    names: Sequence[str],
    metric: Metric,
    pairs: Sequence[Pair],
    seed: int,
    pooled: bool,
) -> list[Comparison]:
    resampled = Resampled(outputs, metric, pairs, seed)
    groups = [[pair] for pair in pairs if not pooled or len(pairs) == 1]
    groups += [[*pairs]] if len(pairs) > 1 else []
    requests = [(name, names[0], group) for group in groups for name in names[1:]]
    return compare(outputs, metric, requests, resampled)


def comparison_section(metric: Metric, found: Sequence[Comparison], seed: int) -> Section:
    """Return the table of comparisons by one metric."""
    is_tested = any(comparison.matched_pairs for comparison in found)
    is_translation = metric not in ASR.metrics
    p_values = [
        *(["MAPSSWE p"] if is_tested else []),
        "bootstrap p",
        *(["sacreBLEU p"] if is_translation else []),
        "corrected p",
    ]
    name = metric.name
    header = [
        *("language", "system", "compared with", name, f"its {name}", "difference", "relative, %"),
        *("95 % interval", *p_values, "verdict"),
    ]
    rows = []
    for comparison in found:
        test, difference = comparison.matched_pairs, comparison.difference
        rows.append(
            [
                comparison.languages,
                comparison.system,
                comparison.reference,
                f"{comparison.score:.2f}",
                f"{comparison.reference_score:.2f}",
                f"{difference.value:+.2f}",
                _relative_text(difference.value, comparison.reference_score),
                f"{difference.low:+.2f} to {difference.high:+.2f}",
                *([_matched_pairs_text(test)] if is_tested else []),
                p_text(difference.p),
                *([p_text(difference.sacrebleu_p)] if is_translation else []),
                p_text(comparison.corrected_p),
                comparison.verdict,
            ]
        )
    better = "lower" if metric.lower_is_better else "higher"
    title = f"{name}{' in %' if metric.lower_is_better else ''} ({better} is better)"
    below = [f"Signature: {signature(found, seed)}"]
    if any(c.matched_pairs and c.matched_pairs.is_undefined for c in found):
        below.append(
            "MAPSSWE p is undefined where all segments have the same difference; there the "
            "bootstrap p is corrected."
        )
    if small := sum(comparison.is_small for comparison in found):
        below.append(
            f"Caution: fewer than {FEW} utterances or segments in {small} of {len(found)} rows; "
            "these p-values and intervals may be too small."
        )
    return Section(title, header, rows, labels=3, below=below)


def _relative_text(difference: float, reference: float) -> str:
    return f"{100 * difference / reference:+.1f}" if reference else "-"


def _matched_pairs_text(test: MatchedPairs | None) -> str:
    return "n/a" if test is None else "undefined" if test.is_undefined else p_text(test.p)


def p_text(p: float) -> str:
    """Return a p-value as in tables."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _content(
    names: Sequence[str],
    outputs: Outputs,
    examples: Mapping[Pair, Score],
    tables: Sequence[tuple[Metric, Sequence[Comparison]]],
    split: str,
    seed: int,
) -> dict[str, Any]:
    """Return the content of the JSON file."""
    of_first = outputs[names[0]]
    test_sets = {
        str(pair): {
            "language": pair.lang,
            "task": task_called(pair.task).name,
            "utterances": len(of_first[pair][0].ids),
            "references_digest": of_first[pair][0].references_digest,
            **score.settings,
        }
        for pair, score in examples.items()
    }
    return {
        "reference": names[0],
        "systems": list(names),
        "split": split,
        "about": CAPTION,
        "test_sets": test_sets,
        "tables": [
            {
                "metric": metric.name,
                "signature": signature(found, seed),
                "comparisons": [comparison.to_json() for comparison in found],
            }
            for metric, found in tables
        ],
    }
