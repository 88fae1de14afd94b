"""Whether experiment directories are repetitions: other seeds, and all else the same."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lors.done_marker import recorded_inputs
from lors.errors import LorsError
from lors.recipe.expdir import TRAININGS, ExpDir, utterances_file
from lors.recipe.score_tree import ScoreTable
from lors.score.utterances import UTTERANCES
from lors.tasks import Pair

OF_AN_EXPERIMENT = (
    *("seed", "init_param", "quantised_base", "token_list", "bpemodel"),
    "normalize_conf",  # the file of statistics beside the base model
)
"""Options of a training that differ between repetitions: its seed, and files of its experiment."""
QUANTISED = "quantised"
"""Directory of the quantised base model: its double quantisation is compared like a setting."""
AUDIO = "wav.scp"
"""File of training data that has paths, which differ between machines."""

Trainings = Mapping[str, Mapping[str, Any]]
"""Directory of a model in its experiment, e.g. ``expert/de_asr`` -> the inputs of its training."""


def repetition_cautions(table: ScoreTable) -> list[str]:
    """Return a line for everything in which the experiments of a table are no repetitions.

    Experiments without done markers, for example those that were scored alone, are not compared.
    """
    if len(table.expdirs) < 2:
        return []
    trainings = {expdir: _trainings(Path(expdir)) for expdir in table.expdirs}
    known = {expdir: found for expdir, found in trainings.items() if found}
    return [*_same_seeds(known), *_other_trainings(known), *_other_test_sets(table)]


def _trainings(root: Path) -> Trainings:
    found = {}
    patterns = (*TRAININGS, f"{QUANTISED}/.done")
    for path in (path for pattern in patterns for path in sorted(root.glob(pattern))):
        try:
            inputs = recorded_inputs(path)
        except LorsError:  # the scores can be reported without it; the HTML page names it
            continue
        name = str(path.parent.relative_to(root))
        if name == QUANTISED:
            inputs = {"config": {"double": inputs.get("double")}}
        if isinstance(inputs.get("config"), dict):
            found[name] = inputs
    return found


def _same_seeds(known: Mapping[str, Trainings]) -> list[str]:
    users: dict[tuple[str, Any], list[str]] = {}
    for expdir, trainings in known.items():
        for model, inputs in trainings.items():
            if (seed := inputs["config"].get("seed")) is not None:
                users.setdefault((model, seed), []).append(expdir)
    shared = dict.fromkeys((seed, *of) for (_, seed), of in users.items() if len(of) > 1)
    return [f"Caution: {' and '.join(of)} have the same seed {seed}." for seed, *of in shared]


def _other_trainings(known: Mapping[str, Trainings]) -> list[str]:
    """Compare the trainings of each experiment with those of the first that has markers."""
    lines = []
    expdirs = list(known)
    for expdir in expdirs[1:]:
        options: set[str] = set()
        data = []
        for model in known[expdirs[0]].keys() & known[expdir].keys():
            before, now = known[expdirs[0]][model], known[expdir][model]
            options |= _differing(before["config"], now["config"], OF_AN_EXPERIMENT)
            files = [*(before.get("data") or {}), *(now.get("data") or {})]
            audio = [name for name in files if Path(name).name == AUDIO]
            if _differing(before.get("data") or {}, now.get("data") or {}, audio):
                data.append(model)
        both = f"Caution: {expdir} and {expdirs[0]} were trained"
        lines += [f"{both} with other settings of {', '.join(sorted(options))}."] if options else []
        lines += [f"{both} on other data: {', '.join(sorted(data))}."] if data else []
    return lines


def _differing(
    before: Mapping[str, Any], now: Mapping[str, Any], ignored: Sequence[str]
) -> set[str]:
    keys = (before.keys() | now.keys()) - {*ignored}
    return {key for key in keys if before.get(key) != now.get(key)}


def _other_test_sets(table: ScoreTable) -> list[str]:
    """Compare the test sets of each experiment with those of the first that has a score."""
    differing: dict[tuple[str, str], list[str]] = {}
    for pair in table.pairs:
        found: list[tuple[str, dict[str, Any]]] = []
        for index, expdir in enumerate(table.expdirs):
            if facts := _test_set(table, index, pair):
                found.append((expdir, facts))
        for expdir, facts in found[1:]:
            first, expected = found[0]
            shared = facts.keys() & expected.keys()
            if any(facts[key] != expected[key] for key in shared):
                differing.setdefault((expdir, first), []).append(str(pair))
    return [
        f"Caution: {expdir} and {first} have other test sets: {', '.join(pairs)}."
        for (expdir, first), pairs in differing.items()
    ]


def _test_set(table: ScoreTable, index: int, pair: Pair) -> dict[str, Any]:
    """Return the known sizes and the digest of a test set; empty without a score of it."""
    for system in table.systems:
        if (score := table.scores[system][pair][index]) is None:
            continue
        facts: dict[str, Any] = {k: size for k, size in score.sizes.items() if size is not None}
        file = utterances_file(ExpDir(table.expdirs[index]).score(table.split, system, pair))
        with contextlib.suppress(LorsError):  # missing or malformed: the intervals say so
            facts["digest"] = UTTERANCES[pair.task].read(file).references_digest
        return facts
    return {}
