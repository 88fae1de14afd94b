"""Scores, score files and sweep files for tests of tuning and of the report."""

import contextlib
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from lors.bin import results as results_main
from lors.recipe.scoring import write_score
from lors.score import SCORERS, ErrorRates, TranslationScores
from lors.tasks import Pair

SCORES = {
    "base": (40.0, 60.0, 10.0, 20.0),
    "expert": (20.0, 20.0, 30.0, 30.0),
    "joint": (24.0, 28.0, 26.0, 28.0),
    "average.langs": (30.0, 50.0, 15.0, 22.5),
    "average.langs_tasks": (35.0, 50.0, 15.0, 22.5),
    "lors.langs": (25.0, 30.0, 25.0, 27.5),
    "lors.langs_tasks": (30.0, 40.0, 20.0, 25.0),
}
"""System -> WER of de, WER of sv-SE, BLEU of de, BLEU of sv-SE."""


def error_rates(wer: float, **values) -> ErrorRates:
    defaults = {
        "cer": wer / 2,
        "substitutions": 3,
        "deletions": 2,
        "insertions": 1,
        "ref_words": 1000,
        "unit": "word",
        "utterances": 160,
        "empty_refs": 0,
        "empty_hyps": 0,
        "normaliser": "lors-basic",
        "normaliser_version": "lors 1",
        "jiwer_version": "4.0.0",
    }
    return ErrorRates(wer=wer, **{**defaults, **values})


def translation_scores(bleu: float, **values) -> TranslationScores:
    defaults = {
        "chrf": bleu + 20,
        "bleu_signature": "nrefs:1|case:mixed|tok:13a",
        "chrf_signature": "nrefs:1|nc:6",
        "utterances": 160,
        "empty_refs": 1,
        "empty_hyps": 0,
        "sacrebleu_version": "2.5.1",
    }
    return TranslationScores(bleu=bleu, **{**defaults, **values})


def put(path: Path, value) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def put_stages(expdir: Path, *stages: tuple[str, int, str]) -> Path:
    """Write number and name, seconds and command of some stages that ended, as the recipes do."""
    path, lines = expdir / "stages.tsv", []
    for title, seconds, command in stages:
        lines.append(f"2026-11-30T11:09:44\t{title}\t{seconds}\t2\tIntel(R)\t{command}\n")
    path.write_text("".join(lines), encoding="utf-8")
    return path


def change(path: Path, **values) -> None:
    put(path, {**json.loads(path.read_text(encoding="utf-8")), **values})


def change_at(path: Path, keys: Sequence[str | int], value) -> None:
    """Change the value that these keys and indices lead to."""
    content = json.loads(path.read_text(encoding="utf-8"))
    place = content
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    put(path, content)


def make_scores(expdir: Path, shift: float = 0.0) -> Path:
    for system, (de, sv, de_st, sv_st) in SCORES.items():
        folder = expdir / "scores" / "test" / system
        for lang, wer, bleu in (("de", de, de_st), ("sv-SE", sv, sv_st)):
            rates = error_rates(wer + shift, cer=wer / 2)
            put(folder / f"{lang}_asr.json", {"task": "asr", **rates.to_json()})
            scores = translation_scores(bleu + shift, chrf=bleu + 20)
            put(folder / f"{lang}_st.json", {"task": "st", **scores.to_json()})
    return expdir


def make_sweeps(expdir: Path, coefficient: float = 0.4) -> Path:
    """Sweeps of lors, where rank 3 with this scaling_coef is the best, and of average."""
    scores = {"de_asr": error_rates(30.0).to_json()}
    lors = [
        {
            "params": {"rank": rank, "density": 0.2, "scaling_coef": c},
            "objective": 0.6 - (c - coefficient) ** 2 - rank / 100,
            "scores": scores,
        }
        for rank in (3, 7)
        for c in (0.2, 0.4, 0.6)
    ]
    best = {"rank": 3, "density": 0.2, "scaling_coef": coefficient}
    chosen = [trial["params"] for trial in lors].index(best)
    average = [{"params": {}, "objective": 0.25, "scores": scores}]
    for scope in ("asr", "st", "asr_st"):
        for method, grid, index in (("lors", lors, chosen), ("average", average, 0)):
            content = {"method": method, "scope": scope, "grid": grid, "best": index}
            put(expdir / "tune" / f"{method}.{scope}" / "sweep.json", content)
    return expdir


MASKS = {
    "languages": ["sv-SE", "de", "fr"],  # those of a pre-training, in its order
    "matrices": 2,
    "entries": 100,
    "settings": {"criterion": "taylor", "rate": 50, "scope": "matrix"},
    "density": {"sv-SE": 0.4, "de": 0.5, "fr": 0.6},
    "jaccard": [[1.0, 0.625, 0.25], [0.625, 1.0, None], [0.25, None, 1.0]],
    "shared": {"0": 0.1, "1": 0.2, "2": 0.3, "3": 0.4},
}
"""Measurements of the masks of a system, with an overlap that is not defined."""


def make_overlap(expdir: Path, loss: float = 0.25) -> Path:
    """Write the overlap of masks of two systems, with a loss of merging that is not defined."""
    closer = [[1.0, 0.875, 0.75], [0.875, 1.0, 0.5], [0.75, 0.5, 1.0]]
    masks = {"s3net_taylor_50": MASKS, "s3net_magnitude_50": {**MASKS, "jaccard": closer}}
    merging = [
        {"langs": ["de", "sv-SE"], "task": "asr", "loss": loss},
        {"langs": ["de", "fr"], "task": "asr", "loss": 0.5},
        {"langs": ["sv-SE", "fr"], "task": "asr", "loss": -0.125},
        {"langs": ["de", "sv-SE"], "task": "st", "loss": None},
        {"langs": ["de", "fr"], "task": "st", "loss": 0.375},
    ]
    put(expdir / "overlap.json", {"masks": masks, "merging": merging})
    return expdir


def make_sizes(expdir: Path) -> Path:
    """Write the sizes of systems with sub-networks, and those of models of speakers."""
    keys = ("parameters", "used", "bytes", "bytes_of_a_further_language")
    sizes = {"joint": (2500000, 2500000, 10020000, 0), "lora": (2600000, 2525000, 10420000, 200000)}
    systems = {name: dict(zip(keys, of, strict=True)) for name, of in sizes.items()}
    put(expdir / "parameters.json", {"langs": ["de", "sv-SE"], "systems": systems})
    parts = {
        "base": {"bytes": 8000000, "parameters": 2000000},
        "quantised": {"bytes": 2000000, "parameters": 1600000, "bytes_in_4_bits": 800000},
        "adapter": {"bytes": 164000, "parameters": 40000, "speakers": 2},
    }
    put(expdir / "sizes.json", parts)
    return expdir


RATES = {
    "base": 0.5,
    "expert": 0.05,
    "average.langs": 0.3,
    "lors.langs": 0.2,
    "lors.langs_tasks": 0.25,
}
"""System -> share of words that are wrong in the experiments of :func:`make_texts`."""


def references(pair: Pair, number: int = 60) -> dict[str, str]:
    """Utterances of 1 to 12 words."""
    rng = random.Random(str(pair))
    words = [f"word{chr(97 + k)}" for k in range(20)]
    return {
        f"utt{k:03d}": " ".join(rng.choices(words, k=rng.randint(1, 12))) for k in range(number)
    }


def spoilt(refs: Mapping[str, str], rate: float, seed: str) -> dict[str, str]:
    """Hypotheses with this share of wrong words."""
    rng = random.Random(seed)
    return {
        key: " ".join("wrong" if rng.random() < rate else word for word in text.split())
        for key, text in refs.items()
    }


def put_score(expdir: Path, system: str, pair: Pair, refs, hyps) -> Path:
    """Write the score of hypotheses, as the recipe does."""
    out = expdir / "scores" / "test" / system / f"{pair}.json"
    language = pair.speech_task.text_language(pair.lang)
    score, utterances = SCORERS[pair.task].score(refs, hyps, language)
    write_score(out, pair.task, pair.lang, "ref", "hyp", score, utterances)
    return out


def make_texts(expdir: Path, seed: str = "", rates: Mapping[str, float] = RATES) -> Path:
    """Write scores of texts with errors, with their utterances."""
    for system, rate in rates.items():
        for lang in ("de", "es"):
            for task in ("asr", "st"):
                pair = Pair(lang, task)
                refs = references(pair)
                hyps = spoilt(refs, rate, f"{seed} {system} {pair}")
                put_score(expdir, system, pair, refs, hyps)
    return expdir


def make_experiment(expdir: Path, seed: str = "") -> Path:
    """Write an experiment with texts, sweeps, and comparisons of few samples; return its folder."""
    make_sweeps(make_texts(expdir, seed))
    with few_samples():
        out = expdir / "RESULTS.md"
        assert results_main.main(["--expdirs", str(expdir), "--out", str(out)]) == 0
    return expdir


@contextlib.contextmanager
def few_samples() -> Iterator[None]:
    """Make and read comparisons of 100 samples."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("comparison", "significance"):
            patch.setattr(f"lors.recipe.{module}.SAMPLES", 100)
        yield
