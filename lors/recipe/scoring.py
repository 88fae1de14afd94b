"""Scores of the hypothesis files of an experiment."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from lors.data.datadir import read_text
from lors.data.languages import CODES
from lors.errors import BRIEF, LorsError, near_matches, shortened
from lors.fileio import json_text, write_files
from lors.recipe.expdir import ExpDir, utterances_file
from lors.recipe.made_from import MadeFrom
from lors.score import SCORERS, Score
from lors.score.text import LORS, OTHER_CODES
from lors.score.utterances import Utterances
from lors.score.words import CHARACTER_LANGUAGES, ELISION
from lors.tasks import Pair

log = logging.getLogger(__name__)

SHOWN = 20
"""Number of files that a message lists."""


def score_files(
    task: str,
    lang: str,
    ref: str | os.PathLike,
    hyp: str | os.PathLike,
    normaliser: str = LORS,
) -> tuple[Score, Utterances]:
    """Score a hypothesis file against its references.

    Args:
        task: name of the task.
        lang: code of the language of the text.
        ref: reference file, Kaldi text.
        hyp: hypothesis file, Kaldi text.
        normaliser: one of :data:`lors.score.text.NORMALISERS`.

    Returns:
        The scores, and the texts and counts of each utterance.

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
    utterances: Utterances,
) -> None:
    """Write a score file and the file of utterances beside it, both or none.

    Args:
        out: the score file to write.
        task: name of the task.
        lang: language code.
        ref: reference file.
        hyp: hypothesis file.
        score: scores of the two files.
        utterances: texts and counts of each utterance.
    """
    content = {"task": task, "lang": lang, "ref": str(ref), "hyp": str(hyp), **score.to_json()}
    write_files({utterances_file(out): utterances.lines(), Path(out): [json_text(content)]})


def score_expdir(
    expdir: ExpDir,
    dump: str | os.PathLike,
    split: str,
    systems: Sequence[str],
    pairs: Sequence[Pair],
    normaliser: str = LORS,
) -> None:
    """Score the hypotheses of every system for every pair, except those with a current score.

    Files that cannot be scored are an error after all others have their scores.

    Args:
        expdir: experiment directory.
        dump: data directories ``<lang>/<split>``.
        split: name of the split.
        systems: names of the systems.
        pairs: language-task pairs.
        normaliser: one of :data:`lors.score.text.NORMALISERS`; scores that were computed with
            another one are computed again.

    Raises:
        LorsError: a file is missing, or hypotheses and references cannot be scored; several such
            files are listed.
    """
    failed: list[tuple[Path, LorsError]] = []
    for pair in pairs:
        ref = Path(dump) / pair.lang / split / pair.speech_task.reference_file
        language = pair.speech_task.text_language(pair.lang)
        settings = SCORERS[pair.task].settings(normaliser)
        for system in systems:
            hyp, out = expdir.hypothesis(split, system, pair), expdir.score(split, system, pair)
            files = [out, utterances_file(out)]
            record = MadeFrom(out.with_name(f".{pair}.made_from"), [ref, hyp], files, settings)
            if record.is_current():
                continue
            try:
                score, utterances = score_files(pair.task, language, ref, hyp, normaliser)
            except LorsError as error:
                failed.append((hyp, error))
                continue
            write_score(out, pair.task, pair.lang, ref, hyp, score, utterances)
            record.record()
    if len(failed) == 1:
        raise failed[0][1]
    if failed:
        raise LorsError(
            f"{len(failed)} files of hypotheses cannot be scored",
            got=shortened((f"{hyp}: {error.what}" for hyp, error in failed), SHOWN),
            hint=failed[0][1].hint,
        ) from failed[0][1]


def warn_of_unknown(langs: Sequence[str]) -> None:
    """Warn of languages without a known code, whose text is normalised like that of most languages.

    A corpus may have a code of its own, so that this is not an error. A region is left out of the
    comparison: ``de-AT`` is known.
    """
    known = {*CODES, *OTHER_CODES, *CHARACTER_LANGUAGES, *ELISION}
    parts = {code.split("-")[0] for code in known}
    for lang in dict.fromkeys(langs):
        if lang.split("-")[0].lower() not in parts:
            hint = near_matches(lang, sorted(known))
            log.warning(
                "unknown language %s: its text is taken as words with spaces between them%s",
                BRIEF.repr(lang),
                f"; {hint}" if hint else "",
            )
