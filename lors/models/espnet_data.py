"""Prompts and training data of the ESPnet S2T family (OWSM and its kin).

One S2T model serves many languages and tasks; the prompt ``<sos><lang><task><notimestamps>``
tells it which.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from lors.datadir import read_data_dir
from lors.errors import LorsError, unknown_name
from lors.expdir import Pair
from lors.fileio import write_text

# Common Voice's codes -> ISO 639-3, which ESPnet's S2T models use in their language symbols.
ISO_639_3 = {
    "ar": "ara",
    "ca": "cat",
    "cy": "cym",
    "de": "deu",
    "en": "eng",
    "es": "spa",
    "et": "est",
    "fa": "fas",
    "fr": "fra",
    "id": "ind",
    "it": "ita",
    "ja": "jpn",
    "lv": "lav",
    "mn": "mon",
    "nl": "nld",
    "pt": "por",
    "ru": "rus",
    "sl": "slv",
    "sv-SE": "swe",
    "ta": "tam",
    "tr": "tur",
    "zh-CN": "zho",
}
TASKS = ("asr", "st")
NO_TIMESTAMPS = "<notimestamps>"


def language_symbol(lang: str) -> str:
    """The language symbol of a Common Voice code: ``de`` -> ``<deu>``."""
    if lang not in ISO_639_3:
        raise unknown_name("language", lang, ISO_639_3)
    return f"<{ISO_639_3[lang]}>"


def task_symbol(task: str, target: str = "en") -> str:
    """The task symbol: ``<asr>``, or ``<st_eng>`` for translation into English."""
    if task not in TASKS:
        raise unknown_name("task", task, TASKS)
    return "<asr>" if task == "asr" else f"<st_{ISO_639_3[target]}>"


def check_symbols(pairs: Sequence[Pair], tokens: Sequence[str], where: object) -> None:
    """Check that a vocabulary has the prompts of `pairs`.

    Sentencepiece would otherwise spell an unknown prompt letter by letter, without a word.

    Raises:
        LorsError: symbols are missing; all of them are named.
    """
    symbols = {s for p in pairs for s in (language_symbol(p.lang), task_symbol(p.task))}
    missing = sorted(symbols - set(tokens))
    if missing:
        known = [lang for lang in ISO_639_3 if language_symbol(lang) in set(tokens)]
        raise LorsError(
            f"the base model does not know {' '.join(missing)}",
            where=where,
            expected=f"languages among {' '.join(known)}",
            hint="choose such languages, or train a base model of your own: --train_base true "
            "with a new --expdir",
        )


def special_symbols(langs: Sequence[str], speech_length: float, resolution: float) -> list[str]:
    """The symbols of a new S2T vocabulary that stand for no text, in vocabulary order.

    ESPnet needs contiguous timestamp symbols from 0 to `speech_length` seconds even where no
    timestamp is ever used (``espnet2/train/preprocessor.py``, ``S2TPreprocessor``).
    """
    steps = round(speech_length / resolution)
    return [
        "<na>",
        NO_TIMESTAMPS,
        "<sop>",
        *(language_symbol(lang) for lang in langs),
        *(task_symbol(task) for task in TASKS),
        *(f"<{step * resolution:.2f}>" for step in range(steps + 1)),
    ]


def write_training_data(
    pairs: Sequence[Pair],
    dump: str | os.PathLike,
    split: str,
    out: str | os.PathLike,
) -> list[str]:
    """Write the S2T data files of several language-task pairs as one ESPnet data directory.

    Args:
        pairs: language-task pairs.
        dump: holds ``<lang>/<split>`` Kaldi data directories with 16 kHz audio.
        split: ``train`` or ``dev``.
        out: receives ``wav.scp text text_prev text_ctc``; an utterance appears once a task, with
            the task appended to its id.

    Returns:
        The utterance ids, sorted.

    Raises:
        LorsError: a data directory is missing or invalid, or has no transcripts, or no translation
            for an ST pair; or an utterance id appears twice.
    """
    rows: dict[str, tuple[str, str, str]] = {}
    for pair in pairs:
        directory = Path(dump) / pair.lang / split
        prefix = language_symbol(pair.lang) + task_symbol(pair.task) + NO_TIMESTAMPS
        for utterance in read_data_dir(directory):
            if utterance.text is None:
                raise LorsError("data without transcripts", where=directory / "text")
            text = utterance.text if pair.task == "asr" else utterance.translations.get("en")
            if text is None:
                raise LorsError(
                    "no translation for a translation task",
                    where=directory / "text.en",
                    got=f"utterance {utterance.id} is not in it",
                )
            key = f"{utterance.id}-{pair.task}"
            if key in rows:
                raise LorsError(
                    "an utterance appears twice",
                    where=directory,
                    got=f"utterance {utterance.id}, task {pair.task}",
                    hint="name every pair once, and give each language its own utterance ids",
                )
            rows[key] = (
                utterance.wav,
                f"{prefix} {text}",
                utterance.text,
            )
    if not rows:
        raise LorsError(
            "no utterances", where=Path(dump), got=f"{split} of {', '.join(map(str, pairs))}"
        )
    ids = sorted(rows)
    out = Path(out)
    write_text(out / "wav.scp", "".join(f"{i} {rows[i][0]}\n" for i in ids))
    write_text(out / "text", "".join(f"{i} {rows[i][1]}\n" for i in ids))
    write_text(out / "text_prev", "".join(f"{i} <na>\n" for i in ids))
    write_text(out / "text_ctc", "".join(f"{i} {rows[i][2]}\n" for i in ids))
    return ids
