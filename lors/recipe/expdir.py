"""The layout of an experiment directory.

| path | content |
|---|---|
| ``recipe.json`` | the latest run: its options, where it runs and how it ended |
| ``stages.tsv`` | the stages that ended: their seconds, machine and command |
| ``evaluate.json`` | the calls of ``lors.bin.evaluate``, if they wrote the scores |
| ``log/`` | logs of the job arrays, one file for each job |
| ``base/`` | the base model |
| ``stats/`` | ESPnet's shape files |
| ``expert/<lang>_<task>/`` | an expert |
| ``lora/<lang>_<task>/`` | an expert as an adapter, beside full experts |
| ``joint/`` | the joint multi-lingual multi-task model |
| ``sequential/`` | the model trained on one pair after the other: links to its last step |
| ``sequential/<number>_<lang>_<task>/`` | the model after each step |
| ``sequential_reversed/`` | the same with the pairs in the opposite order |
| ``importance/<lang>/`` | Taylor scores of the base model on a language |
| ``masks/<criterion>_<rate>/`` | masks of all languages |
| ``s3net_<criterion>_<rate>/`` | a model trained under these masks, and a copy of them |
| ``half/<system>/`` | the model after half of the training as ``base/``, and masks found on it, |
| | with ``importance/`` or ``expert/`` |
| ``overlap.json`` | overlap of the masks of two languages, and the loss of merging their experts |
| ``parameters.json`` | parameters and bytes of systems with and without sub-networks |
| ``packed/<system>/<lang>/`` | a language's sub-network as a model of its own; ``all``: of all |
| ``quantised/`` | the base model in 4 bits |
| ``{quantised,full}_sat/`` | the adapter of all speakers of the pre-training |
| ``{quantised,full}_[sat_]speaker/<lang>-x-<speaker>_<task>/`` | the adapter of a speaker |
| ``tune/<method>.<scope>/sweep.json`` | the search for merge parameters on dev |
| ``tune/<method>.<scope>/points/<index>.json`` | dev hypotheses of each setting |
| ``tune/<method>.<scope>/cost.json`` | CPU time of the search |
| ``merged/<method>.<scope>/`` | a merged model; ``cost.json`` is the CPU time of its merge |
| ``inference/<split>/<system>/<lang>_<task>`` | hypotheses, as Kaldi text |
| ``scores/<split>/<system>/<lang>_<task>.json`` | their scores |
| ``scores/<split>/<system>/<lang>_<task>.utterances.tsv`` | texts and counts of each utterance |

A model directory holds ``model.pth`` and ``config.yaml``; that of an expert may hold an adapter of
PEFT or a ``model.safetensors`` with a task vector instead (``lors extract``). A *scope* is the set
of tasks whose experts are merged: ``asr``, ``st`` or ``asr_st``. A *system* is a row of the
results: ``base``, ``expert`` and ``lora`` (each pair by its own expert), ``joint``, ``sequential``,
``sequential_reversed``, ``s3net_<criterion>_<rate>`` (each pair by the sub-network of its
language), ``<method>.langs`` (for each task, a merge over languages) or ``<method>.langs_tasks``
(one merge over languages and tasks).
A *method* is a merge method, or a variant of one that ``conf/tune.yaml`` names.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from lors.checkpoint.places import MASKS, PEFT_CONFIG, PEFT_MODEL, SUBNETWORK, masks_in, model_in
from lors.errors import LorsError, UsageError
from lors.fileio import file_digest, hash_of
from lors.tasks import Pair

IMPORTANCE = "importance.safetensors"
"""Taylor scores of a language."""
LORA = "lora"
"""The system of experts that are adapters, in a recipe where the experts are full models."""
SUBNETS = "s3net_"
"""Start of the name of a system that was trained under masks."""
ON_QUANTISED = ("quantised_sat", "quantised_speaker", "quantised_sat_speaker")
"""Systems of a recipe for speakers: adapters on the quantised base model, pre-trained on many
speakers (speaker adaptive training, sat), of each speaker from nothing, and of each from sat."""
ON_FULL = {f"full_{system.removeprefix('quantised_')}": system for system in ON_QUANTISED}
"""The same adapters on the base model in full precision -> the system whose adapters they are."""
PERSONAL = ("quantised", *ON_QUANTISED, *ON_FULL)
"""All systems of a recipe for speakers but the base model, in the order of reports."""
ORDERS = {"sequential": 1, "sequential_reversed": -1}
"""Baseline that is trained pair by pair -> the stride through the pairs, which gives its order."""
ONE_FOR_ALL = ("joint", *ORDERS)
"""Baselines that are one model for all pairs, with the experts' budget together."""
BASELINES = ("base", "expert", *ONE_FOR_ALL)
"""Systems that are not merged, in the order of reports."""
TRAININGS = (
    *("expert/*/.done", f"{LORA}/*/.done", "joint/.done"),
    *(f"{baseline}/*/.done" for baseline in ORDERS),
    *("half/*/base/.done", "half/*/expert/*/.done", f"{SUBNETS}*/.done"),
    *(f"{system}/.done" for system in ON_QUANTISED if not system.endswith("_speaker")),
    *(f"{system}/*/.done" for system in ON_QUANTISED if system.endswith("_speaker")),
)
"""Done markers of trainings; systems that share the adapters of others have none."""
OVER_LANGS, OVER_LANGS_TASKS = "langs", "langs_tasks"
MERGED_OVER = {OVER_LANGS: "languages", OVER_LANGS_TASKS: "languages and tasks"}
"""End of the name of a merged system -> the meaning in words."""


def split_system(system: str) -> tuple[str, str]:
    """Split ``<method>.langs`` into method and ``langs``; ``base`` gives ``("base", "")``."""
    method, _, merged_over = system.rpartition(".")
    return (method, merged_over) if method else (merged_over, "")


def is_merge(system: str) -> bool:
    """Return whether a system is a merge."""
    return split_system(system)[1] in MERGED_OVER


def subnet_system(criterion: str, rate: int | str) -> str:
    """Return the name of the system trained under masks, e.g. ``s3net_taylor_30``."""
    return f"{SUBNETS}{criterion}_{rate}"


def scope_of(tasks: Iterable[str]) -> str:
    """Return the name of the merge of these tasks' experts, e.g. ``asr_st``."""
    return "_".join(sorted(set(tasks)))


def tasks_of(scope: str) -> list[str]:
    """Return the tasks that a scope names."""
    return scope.split("_")


# The jobs of an array and lors.recipe.status rely on the order of the results of these functions.


def scopes_of(tasks: Iterable[str]) -> list[str]:
    """Return the scopes of an experiment: all tasks together, then each task alone.

    A scope names the tasks whose experts are merged, e.g. ``asr_st``; one task has one scope. The
    scope of all tasks comes first, because its search takes as long as all others together.
    """
    tasks = sorted(set(tasks))
    return [scope_of(tasks), *tasks] if len(tasks) > 1 else tasks


def searches_of(
    tasks: Iterable[str], methods: Sequence[str], jobs: int = 1
) -> list[tuple[str, Sequence[str]]]:
    """Return the scope and the merge methods of each job of the search on dev.

    Args:
        tasks: all tasks of the experiment.
        methods: the merge methods.
        jobs: number of jobs at the same time; with two or more for each scope the methods of a
            scope are divided among them.
    """
    scopes = scopes_of(tasks)
    parts = max(1, min(jobs // len(scopes), len(methods)))
    return [(scope, methods[part::parts]) for scope in scopes for part in range(parts)]


def packed_merges(tasks: Iterable[str], methods: Sequence[str]) -> list[str]:
    """Return the merges that become models for other programs: one method's, of every scope.

    The method is LoRS with subspace boosting (``lors+boost``, as in conf/merge_default.yaml); where
    it is not among `methods`, LoRS as published (``lors``); without either the list is empty.
    """
    for method in ("lors+boost", "lors"):
        if method in methods:
            return [f"{method}.{scope}" for scope in scopes_of(tasks)]
    return []


def inference_units(
    systems: Iterable[str], pairs: Sequence[Pair], job: int = 1, num_jobs: int = 1
) -> list[tuple[str, Pair]]:
    """Return the test sets for inference: every system with every pair.

    Job k of n has every n-th test set, beginning with the k-th.
    """
    units = [(system, pair) for system in systems for pair in pairs]
    return units[job - 1 :: num_jobs]


def hypothesis_marker(hypothesis: Path) -> Path:
    """Return the path of a hypothesis file's done marker."""
    return hypothesis.with_name(f".{hypothesis.name}.done")


def utterances_file(score: str | os.PathLike) -> Path:
    """Return the path of the file of utterances that belongs to a score file."""
    return Path(score).with_suffix(".utterances.tsv")


def order_of(baseline: str, pairs: Sequence[Pair]) -> list[Pair]:
    """Return all pairs in the order in which a baseline of `ORDERS` is trained on them."""
    return list(pairs[:: ORDERS[baseline]])


def sequential_steps(pairs: Iterable[Pair]) -> list[str]:
    """Return the names of a sequential baseline's steps, one for each pair in its order."""
    return [f"{number:02d}_{pair}" for number, pair in enumerate(pairs, 1)]


def steps_of_half(expdir: ExpDir, system: str, pairs: Sequence[Pair]) -> list[Path]:
    """Return the directories that a training makes before the masks are found again, in order.

    The half-trained model, and by the criterion its Taylor scores on each language or its
    fine-tuning on each pair.
    """
    half = expdir.half(system)
    if "_taylor_" in system:
        return [half.base, *map(half.importance, dict.fromkeys(pair.lang for pair in pairs))]
    return [half.base, *map(half.expert, pairs)]


def check_models(directories: Iterable[Path]) -> None:
    """Check that every directory has a model; raise LorsError with all that have none."""
    files = dict.fromkeys(map(model_in, directories))
    if missing := [file for file in files if not file.exists()]:
        raise LorsError("models are missing", got=missing, hint="run the stages that make them")


def model_digest(directory: Path) -> str:
    """Return a digest of the model in a directory."""
    path = model_in(directory)
    if path.is_file():
        return file_digest(path)
    return hash_of([file_digest(path / name) for name in (PEFT_CONFIG, PEFT_MODEL)])


def check_data(directories: Iterable[Path]) -> None:
    """Check that every data directory is there; raise LorsError with all that are missing."""
    if missing := [d for d in dict.fromkeys(directories) if not d.is_dir()]:
        raise LorsError("data directories not found", got=missing, hint="run stage 2 (format)")


class ExpDir:
    """Paths inside one experiment directory."""

    def __init__(self, root: str | os.PathLike):
        self.root = Path(root)

    @property
    def base(self) -> Path:
        return self.root / "base"

    @property
    def log(self) -> Path:
        """Logs of the job arrays."""
        return self.root / "log"

    @property
    def joint(self) -> Path:
        return self.root / "joint"

    def expert(self, pair: Pair) -> Path:
        return self.root / "expert" / str(pair)

    def importance(self, lang: str) -> Path:
        return self.root / "importance" / lang

    def masks(self, system: str) -> Path:
        """Return the file of masks of a system that is trained under masks."""
        return self.root / "masks" / system.removeprefix(SUBNETS) / MASKS

    def latest_masks(self, system: str) -> Path:
        """Return the file of masks that the model was trained under last; before it, :meth:`masks`.

        They may be found again after half of the training.
        """
        return masks_in(self.subnet(system)) or self.masks(system)

    def merged(self, method: str, scope: str) -> Path:
        return self.root / "merged" / f"{method}.{scope}"

    def sweep(self, method: str, scope: str) -> Path:
        return self.root / "tune" / f"{method}.{scope}" / "sweep.json"

    def hypothesis(self, split: str, system: str, pair: Pair) -> Path:
        return self.root / "inference" / split / system / str(pair)

    def score(self, split: str, system: str, pair: Pair) -> Path:
        return self.root / "scores" / split / system / f"{pair}.json"

    def subnet(self, system: str) -> Path:
        """Return the directory of a model that is trained under masks."""
        return self.root / system

    def half(self, system: str) -> ExpDir:
        """Return where masks of a system are found again, with the half-trained model as base."""
        return ExpDir(self.root / "half" / system)

    def packed(self, system: str, name: str) -> Path:
        """Return the file of a language's packed sub-network, or (``all``) of all of them."""
        return self.root / "packed" / system / name / SUBNETWORK

    def model(self, system: str, pair: Pair, tasks: Sequence[str]) -> Path:
        """Return the directory of the model that a system uses for a pair.

        Args:
            system: name of the system.
            pair: language and task.
            tasks: all tasks of the experiment.

        Raises:
            UsageError: no such system.
        """
        if system == "expert":
            return self.expert(pair)
        if system == LORA or (system in PERSONAL and system.endswith("_speaker")):
            return self.root / system / str(pair)
        if system in BASELINES or system in PERSONAL or system.startswith(SUBNETS):
            return self.root / system
        method, merged_over = split_system(system)
        if merged_over not in MERGED_OVER:
            raise UsageError(
                "unknown system",
                expected=", ".join(
                    [*BASELINES, LORA, f"{SUBNETS}<criterion>_<rate>"]
                    + [f"<method>.{over}" for over in MERGED_OVER]
                ),
                got=system,
            )
        return self.merged(method, pair.task if merged_over == OVER_LANGS else scope_of(tasks))

    def digests(self, models: Iterable[Path]) -> dict[str, str]:
        """Return model directory, relative to the experiment -> digest of its model."""
        return {str(d.relative_to(self.root)): model_digest(d) for d in models}
