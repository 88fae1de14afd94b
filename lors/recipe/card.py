"""The card of a merged model for the Hugging Face Hub: its metadata, its plan and its scores."""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lors.checkpoint.hub import SCHEME, HubName, hub_name
from lors.checkpoint.hub_client import card_data, client
from lors.checkpoint.places import DIRECTORY_FILES, RECIPE_MODEL
from lors.config import read_yaml
from lors.errors import LorsError, UsageError
from lors.merge.methods import method_called
from lors.models.espnet_s2t.prompts import ISO_639_3, language_symbol, task_symbol
from lors.models.whisper.conf import ENGLISH, OFFICIAL
from lors.models.whisper.prompts import TASK_NAMES, language_code
from lors.recipe.comparison import SAMPLES
from lors.recipe.expdir import OVER_LANGS, OVER_LANGS_TASKS, ExpDir, tasks_of
from lors.recipe.report import Section, render_markdown
from lors.recipe.results import test_set_section, with_unit
from lors.recipe.score_tree import ScoreTable, read_scores
from lors.recipe.significance import Significance, significance_of
from lors.score.significance import SEED
from lors.tasks import ASR, ST, Pair, pairs_of, spoken, task_called

log = logging.getLogger(__name__)

PAPER = "https://arxiv.org/abs/2502.17380"
NEWER_NAMES = {"large": "large-v3", "turbo": "large-v3-turbo", "large-v1": "large"}
"""OpenAI's name of a Whisper -> the end of its name on the Hub, where the two differ."""
UNKNOWN = "unknown"
OTHER = "other"
"""Licence of the Hub for any that it has no name for: two of them may differ."""
PIPELINE = "automatic-speech-recognition"
"""The pipeline of transformers, and the tag of the Hub, for recognition and for translation of
speech, which has none of its own."""
PLACE = "PATH"
"""The word for an absolute path in the command of a card."""
_ROOT = r"(?:file:/*|~[\w.-]*)?/"
_QUOTED = re.compile(rf"""'{_ROOT}[^']*'(?:\\''[^']*')*|"{_ROOT}[^"]*\"""")
_PATH = re.compile(
    # No URL, and no part of a relative path; to the end of the word.
    rf"""(?:(?<![\w.:/~$*?%@+}})\]-])|(?<=:)(?!//)){_ROOT}(?:\\.|[^\s'";|&<>()\\])*"""
)
"""An absolute path in a command, which may begin with ~ or file:; all of a word in quotation marks,
and the part of a word."""


@dataclass(frozen=True)
class Source:
    """A model that was merged.

    Attributes:
        role: ``base model``, ``expert`` or ``merged model``.
        title: its name for readers: on the Hub, or the end of its path, never the whole path.
        name: its name on the Hub; None for a local model.
        licence: the licence in its card; None if there is none.
        languages: the languages in its card.
    """

    role: str
    title: str
    name: HubName | None
    licence: str | None
    languages: tuple[str, ...]


@dataclass(frozen=True)
class Scores:
    """The scores of a merged model of an experiment.

    Attributes:
        system: its row in the results.
        table: scores of this system, of the base model and of the experts, for its tasks.
        significance: their intervals.
    """

    system: str
    table: ScoreTable
    significance: Significance


def scores_of(expdir: ExpDir, merged: str) -> Scores:
    """Return the scores of a merged model, such as ``lors.asr_st``, in an experiment.

    Raises:
        UsageError: no such model in the results.
        LorsError: score files are missing or malformed.
    """
    method, _, scope = merged.rpartition(".")
    tasks = tasks_of(scope)
    system = f"{method}.{OVER_LANGS_TASKS if len(tasks) > 1 else OVER_LANGS}"
    there = {path.name for path in (expdir.root / "scores" / "test").glob("*")}
    systems = [*(name for name in ("base", "expert") if name in there), system]
    table = read_scores([expdir.root], systems=systems, tasks=tasks)
    if not table.pairs:
        raise UsageError(
            "no scores of this merged model",
            where=f"{expdir.root}: {merged}",
            expected=f"scores of {' and '.join(tasks)}",
        )
    return Scores(system, table, significance_of(table))


def model_card(
    record: Mapping[str, Any],
    title: str,
    library: str,
    scores: Scores | None = None,
    langs: Sequence[str] = (),
    licence: str | None = None,
    command: str | None = None,
    tasks: Sequence[str] = (),
) -> str:
    """Return the card of a merged model.

    Logs a warning if the merged models have no known common licence; then the card has none.

    Args:
        record: the content of its ``merge.yaml``.
        title: the name of the model on the Hub.
        library: the program that loads it, ``transformers`` or ``espnet``.
        scores: its scores, if there are any.
        langs: its languages; by default those of the scores and of the cards of merged models.
        licence: its licence; by default the one that all merged models have.
        command: a command of a recipe that made it; absolute paths in it are left out.
        tasks: names of its tasks; by default those of the scores, or else recognition.

    Raises:
        LorsError: the record holds no plan; or huggingface_hub is not installed.
    """
    plan = record.get("plan")
    if not isinstance(plan, Mapping):
        raise LorsError(
            "this record holds no plan", where="merge.yaml", hint="was the merge interrupted?"
        )
    sources = sources_of(plan)
    languages = _languages(sources, scores, langs)
    examples = _examples(tasks, scores, languages)
    data = client(title).ModelCardData(
        language=languages or None,
        license=licence or _common_licence(sources),
        library_name=library,
        pipeline_tag=PIPELINE,
        tags=_tags(examples),
        base_model=list(dict.fromkeys(s.name.repo for s in sources if s.name)) or None,
        base_model_relation="merge",
        metrics=_metrics(scores) or None,
    )
    sections = [_model_section(sources, plan), *_score_sections(scores)]
    body = render_markdown(sections, title, _about(record, plan, len(sources) - 1))
    blocks = [
        ("How to use it", "python", _usage(library, title, examples)),
        ("Plan", "yaml", _public_plan(record, plan, sources)),
        ("Command", "bash", _command(record, plan, sources) + _public_command(command)),
    ]
    text = [f"---\n{data.to_yaml()}\n---\n", body.rstrip()]
    text += [f"## {head}\n\n```{kind}\n{block.rstrip()}\n```" for head, kind, block in blocks]
    return "\n\n".join(text) + "\n"


def _about(record: Mapping[str, Any], plan: Mapping[str, Any], count: int) -> str:
    method, models = method_called(str(plan["method"])), "model" if count == 1 else "models"
    return (
        f"A merge of {count} {models} by the method `{method.name}` of LoRS "
        f"{record.get('lors_version', '')} ([paper]({PAPER})). {method.summary}"
    )


def _examples(tasks: Sequence[str], scores: Scores | None, languages: Sequence[str]) -> list[Pair]:
    """Return a language for each task of a model, to show how it is used."""
    names = tasks or ([ASR.name] if scores is None else scores.table.tasks)
    scored = () if scores is None else scores.table.pairs
    known = [*scored, *pairs_of(languages, names), *(Pair("en", name) for name in names)]
    return [next(pair for pair in known if pair.task == name) for name in names]


def _tags(examples: Iterable[Pair]) -> list[str]:
    translates = any(pair.task == ST.name for pair in examples)
    return ["merge", "lors", "speech", *(["speech-translation"] if translates else [])]


def _usage(library: str, name: str, examples: Sequence[Pair]) -> str:
    """Return lines of Python that load a model, and use it for each of its tasks."""
    if library == "transformers":
        lines = [
            "from transformers import pipeline\n",
            f'recogniser = pipeline("{PIPELINE}", model="{name}")',
        ]
        for pair in examples:
            lang, task = language_code(pair.lang), TASK_NAMES[pair.task]
            options = f'{{"language": "{lang}", "task": "{task}"}}'
            lines.append(f'print(recogniser("speech.wav", generate_kwargs={options}))')
        return "\n".join(lines)
    lines = [
        "# pip install espnet espnet_model_zoo; speech.wav: 16 kHz, mono",
        "import soundfile",
        "from espnet2.bin.s2t_inference import Speech2Text\n",
        f'recogniser = Speech2Text.from_pretrained("{name}")',
        'speech = soundfile.read("speech.wav")[0]',
    ]
    for pair in examples:
        lang = spoken(pair.lang)
        code = next((code for code in ISO_639_3 if lang in (code, code.split("-")[0])), "en")
        symbols = f'lang_sym="{language_symbol(code)}", task_sym="{task_symbol(pair.task)}"'
        lines.append(f"print(recogniser(speech, {symbols})[0][3])")  # without the prompt
    return "\n".join(lines)


def sources_of(plan: Mapping[str, Any]) -> list[Source]:
    """Return the merged models of a plan, the base model first."""
    given = [("base model", plan["base"]), *(("expert", path) for path in plan["experts"])]
    if plan.get("onto"):
        given.append(("merged model", plan["onto"]))
    return [_source(role, str(path)) for role, path in given]


def _source(role: str, path: str) -> Source:
    # Records have the names of the Hub in this form; any other text is a path, also if it is gone.
    name = hub_name(path) if path.startswith(SCHEME) else _imported_from(Path(path).parent)
    if name is None:
        return Source(role, _end_of(Path(path)), None, None, ())
    try:
        found = card_data(name.repo, name.revision)
    except LorsError as error:  # it may be gated, or gone
        log.warning("the card of %s cannot be read: %s", name.repo, error.what)
        found = {}
    languages = found.get("language") or ()
    languages = (languages,) if isinstance(languages, str) else tuple(map(str, languages))
    licence = found.get("license")
    return Source(role, name.repo, name, licence if isinstance(licence, str) else None, languages)


def _imported_from(directory: Path) -> HubName | None:
    """Return the name on the Hub of the base model that a recipe has imported, if it has one."""
    record = directory / "source.yaml"
    if not record.is_file():
        return None
    values = read_yaml(record)
    official, source = str(values.get("base_model", "")), str(values.get("source", ""))
    if source.startswith(SCHEME):
        return hub_name(source)
    if official not in (*OFFICIAL, *ENGLISH) or not source or Path(source).is_absolute():
        return None  # a file of the user
    return HubName(f"openai/whisper-{NEWER_NAMES.get(official, official)}")


def _end_of(path: Path) -> str:
    """Return the last part of a path that says what it is: exp/de_asr/model.pth -> de_asr."""
    is_generic = path.name in (RECIPE_MODEL, *DIRECTORY_FILES)
    return (path.parent.name if is_generic else "") or path.name or "a local model"


def _common_licence(sources: Iterable[Source]) -> str | None:
    """Return the licence of all models; log a warning if it is not the same, or not known."""
    found = {source.title: source.licence or UNKNOWN for source in sources}
    licences = set(found.values())
    if len(licences) == 1 and licences.isdisjoint((UNKNOWN, OTHER)):
        return licences.pop()
    log.warning(
        "the card has no licence, because those of the merged models are not all known and the "
        "same (%s); give one by --license",
        ", ".join(f"{title}: {licence}" for title, licence in found.items()),
    )
    return None


def _languages(sources: Iterable[Source], scores: Scores | None, langs: Sequence[str]) -> list[str]:
    """Return the languages of a model as codes of the Hub, without regions, sorted."""
    if langs:
        found = set(langs)
    elif scores is not None:
        pairs = scores.table.pairs
        found = {spoken(pair.lang) for pair in pairs}
        found |= {pair.speech_task.text_language(spoken(pair.lang)) for pair in pairs}
    else:
        # A base model such as Whisper knows many more than those that were trained.
        found = {lang for s in sources if s.role != "base model" for lang in s.languages}
    return sorted({code.split("-")[0] for code in found})


def _metrics(scores: Scores | None) -> list[str]:
    return [] if scores is None else [task_called(t).metric.key for t in scores.table.tasks]


def _model_section(sources: Sequence[Source], plan: Mapping[str, Any]) -> Section:
    weights = ["", *(f"{float(weight):g}" for weight in plan.get("weights") or [])]
    weights += [""] * (len(sources) - len(weights))
    rows = [
        [
            *(source.title, source.role),
            *((source.name.revision or "") if source.name else "", source.licence or UNKNOWN),
            weight,
        ]
        for source, weight in zip(sources, weights, strict=False)
    ]
    return Section("Merged models", ["model", "role", "revision", "licence", "weight"], rows, 4)


def _score_sections(scores: Scores | None) -> list[Section]:
    if scores is None:
        return []
    table, significance = scores.table, scores.significance
    sections = []
    for task in table.tasks:
        metric = task_called(task).metric
        rows = []
        for system in table.systems:
            values = [table.values(system, Pair(c, task), metric) for c in table.languages(task)]
            values.append(table.averages(system, task, metric))
            ends = significance.intervals.get((task, system), [None] * len(values))
            cells = [_cell(value, end) for value, end in zip(values, ends, strict=True)]
            rows.append(["this model" if system == scores.system else system, *cells])
        better = "lower" if metric.lower_is_better else "higher"
        about = f"On the {table.split} sets; {better} is better. "
        about += significance.problem or (
            f"In brackets: 95 % intervals (bootstrap over utterances, {SAMPLES} samples, seed "
            f"{SEED})."
        )
        title = f"{task_called(task).title}: {with_unit(metric)}"
        header = ["system", *table.languages(task), "average"]
        sections.append(Section(title, header, rows, above=[about]))
    signatures = dict.fromkeys(table.example(pair).description for pair in table.pairs)
    above = [f"{text}." for text in signatures]
    return [*sections, test_set_section(table), Section("How the scores are computed", above=above)]


def _cell(values: Sequence[float], ends: tuple[float, float] | None) -> str:
    if not values:
        return "missing"
    text = f"{values[0]:.1f}"
    return text if ends is None else f"{text} ({ends[0]:.1f} to {ends[1]:.1f})"


def _public(plan: Mapping[str, Any], sources: Sequence[Source]) -> dict[str, Any]:
    """Return a plan without paths of this machine, and without options that are not in use."""
    names = [str(source.name) if source.name else source.title for source in sources]
    count = len(plan["experts"])
    public = {**plan, "base": names[0], "experts": names[1 : 1 + count]}
    if plan.get("onto"):
        public["onto"] = names[-1]
    for key in ("masks", "policy"):
        if public.get(key):
            public[key] = Path(str(public[key])).name
    if all(float(weight) == 1 for weight in plan.get("weights") or []):
        public["weights"] = None
    return {key: value for key, value in public.items() if value not in (None, [], {}, "")}


def _public_plan(
    record: Mapping[str, Any], plan: Mapping[str, Any], sources: Sequence[Source]
) -> str:
    content = {"plan": _public(plan, sources), "fingerprints": record.get("fingerprints")}
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def _public_command(command: str | None) -> str:
    """Return a line without absolute paths, which would tell of the machine and its users."""
    return "\n" + _PATH.sub(PLACE, _QUOTED.sub(PLACE, command)) if command else ""


def _command(record: Mapping[str, Any], plan: Mapping[str, Any], sources: Sequence[Source]) -> str:
    """Return the command that makes the merged model."""
    words = ["lors", "merge"]
    for key, value in _public(plan, sources).items():
        if key == "params":
            value = [f"{name}={_flow(setting)}" for name, setting in value.items()]
        if key == "seed" and not value:
            continue
        words += [f"--{key}", *map(str, value if isinstance(value, list) else [value])]
    return shlex.join([*words, "--out", Path(str(record.get("model", RECIPE_MODEL))).name])


def _flow(value: Any) -> str:
    """Return a value of a plan on one line of YAML."""
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("\n").removesuffix("\n...")
