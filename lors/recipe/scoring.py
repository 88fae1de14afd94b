"""Scores of the hypothesis files of an experiment."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from lors.data.datadir import read_text
from lors.errors import LorsError
from lors.fileio import write_json
from lors.recipe.expdir import ExpDir
from lors.recipe.made_from import MadeFrom
from lors.score import SCORERS, Score
from lors.score.text import LORS
from lors.tasks import Pair


def score_files(
    task: str,
    lang: str,
    ref: str | os.PathLike,
    hyp: str | os.PathLike,
    normaliser: str = LORS,
) -> Score:
    """Score a hypothesis file against its references.

    Args:
        task: name of the task.
        lang: code of the language of the text.
        ref: reference file, Kaldi text.
        hyp: hypothesis file, Kaldi text.
        normaliser: one of :data:`lors.score.text.NORMALISERS`.

    Raises:
        LorsError: a file is missing or malformed, or the files cannot be scored; both are named.
    """
    refs, hyps = read_text(ref), read_text(hyp)
    try:
        return SCORERS[task].score(refs, hyps, lang, normaliser)
    except LorsError as error:
        raise type(error)(
            error.what,
            where=[f"hypotheses: {hyp}", f"references: {ref}"],
            expected=error.expected,
            got=error.got,
            hint=error.hint,
        ) from error


def write_score(
    out: str | os.PathLike,
    task: str,
    lang: str,
    ref: str | os.PathLike,
    hyp: str | os.PathLike,
    score: Score,
) -> None:
    """Write a score file.

    Args:
        out: the file to write.
        task: name of the task.
        lang: language code.
        ref: reference file.
        hyp: hypothesis file.
        score: scores of the two files.
    """
    names = {"task": task, "lang": lang, "ref": str(ref), "hyp": str(hyp)}
    write_json(out, {**names, **score.to_json()})


def score_expdir(
    expdir: ExpDir,
    dump: str | os.PathLike,
    split: str,
    systems: Sequence[str],
    pairs: Sequence[Pair],
    normaliser: str = LORS,
) -> None:
    """Score the hypotheses of every system for every pair, except those with a current score.

    Args:
        expdir: experiment directory.
        dump: data directories ``<lang>/<split>``.
        split: name of the split.
        systems: names of the systems.
        pairs: language-task pairs.
        normaliser: one of :data:`lors.score.text.NORMALISERS`; scores that were computed with
            another one are computed again.

    Raises:
        LorsError: a file is missing, or hypotheses and references cannot be scored.
    """
    for pair in pairs:
        ref = Path(dump) / pair.lang / split / pair.speech_task.reference_file
        language = pair.speech_task.text_language(pair.lang)
        settings = SCORERS[pair.task].settings(normaliser)
        for system in systems:
            hyp, out = expdir.hypothesis(split, system, pair), expdir.score(split, system, pair)
            record = MadeFrom(out.with_name(f".{pair}.made_from"), [ref, hyp], [out], settings)
            if record.is_current():
                continue
            score = score_files(pair.task, language, ref, hyp, normaliser)
            write_score(out, pair.task, pair.lang, ref, hyp, score)
            record.record()
