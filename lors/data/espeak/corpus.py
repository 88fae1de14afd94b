"""The files of the synthetic corpus, in the layout of Common Voice 4 and CoVoST 2."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial

from tqdm import tqdm

from lors.config import MOST_PROCESSES, Range, check_number
from lors.data.espeak import audio, grammar, voices
from lors.data.espeak.plan import Candidate, Clip, Settings, clip_counts, language_dir, plan
from lors.data.espeak.voices import Condition, Speaker
from lors.data.languages import check_languages
from lors.done_marker import DoneMarker
from lors.errors import LorsError, unknown_name
from lors.fileio import atomic_write, file_digest, write_text
from lors.log import show_progress
from lors.processes import end_with_parent, starting_workers
from lors.tasks import SPLITS, TARGET

logger = logging.getLogger(__name__)

COLUMNS = ("client_id", "path", "sentence", "up_votes", "down_votes", "age", "gender", "accent")
REPORTED_COLUMNS = ("sentence", "sentence_id", "locale", "reason")
MOST_CLIPS = 100_000
"""Most clips of a split: the sentences of all clips are drawn first, in memory."""
VERSION = 1
"""To be increased when a change of the code changes the corpus of the same settings."""
VOTES = {"other": (0, 0), "invalidated": (0, 2)}
"""Up and down votes of the clips that are not validated; all others have two up votes."""
Spoken = tuple[str, Speaker, Candidate]
"""Kind, speaker and sentence of a finished clip."""
Mapper = Callable[[Callable[[Clip], Candidate], Iterable[Clip]], Iterable[Candidate]]


def make_corpus(settings: Settings, nj: int = 1) -> None:
    """Write the corpus to ``settings.out`` with `nj` processes.

    Finished languages (with ``.done``) and finished clips are kept, so that an interrupted run
    continues where it stopped. The files are the same for every `nj`.

    Raises:
        UsageError: a language, condition or number is not valid.
        LorsError: espeak-ng is missing, or a directory has other files.
    """
    _check_numbers(settings, nj)
    todo = []
    for language in settings.languages:
        if language not in grammar.languages():
            raise unknown_name("language", language, grammar.languages())
        condition = voices.load_condition(
            settings.condition, language, vocab_holdout=settings.vocab_holdout
        )
        if not _is_finished(settings, language, condition):
            todo.append((language, condition))
    if not todo:
        logger.info("%s is complete, nothing to do", settings.out)
        return
    audio.check_programs(
        {voice for _, condition in todo for voice in condition.voices},
        {variant for _, condition in todo for variant in condition.variants},
    )
    total = len(todo) * sum(clip_counts(settings).values())
    with (
        _workers(nj) as mapper,
        tqdm(total=total, unit="clip", disable=not show_progress()) as progress,
    ):
        for language, condition in todo:
            progress.set_description(f"{settings.condition} {language}")
            _make_language(settings, language, condition, mapper, progress)


def _make_language(
    settings: Settings, language: str, condition: Condition, mapper: Mapper, progress: tqdm
) -> None:
    """Plan, speak and write one language; write its marker last."""
    clips = plan(settings, language, condition)
    directory = language_dir(settings.out, language)
    with _marker(settings, language, condition).work():
        (directory / "clips").mkdir(exist_ok=True)
        spoken = []
        candidates = mapper(partial(make_clip, condition), clips)
        for clip, candidate in zip(clips, candidates, strict=True):
            spoken.append((clip.kind, clip.speaker, candidate))
            progress.update()
        for name, text in common_voice_tables(spoken).items():
            write_text(directory / name, text)
        covost = settings.out / "covost2" / f"covost_v2.{language}_{TARGET}.tsv"
        write_text(covost, covost_table(spoken))
    logger.info("%s: %d clips in %s", language, len(spoken), directory)


def make_clip(condition: Condition, clip: Clip) -> Candidate:
    """Speak and write one clip, unless it exists; return its sentence.

    Raises:
        LorsError: every candidate is too long or too short.
    """
    for candidate in clip.candidates:
        if candidate.path.exists():
            return candidate
    for candidate in clip.candidates:
        speech = audio.speak(candidate.sentence, clip.speaker)
        samples = audio.record(speech, clip.speaker, condition, candidate.path.stem)
        if samples is not None:
            mp3 = audio.encode_mp3(samples, clip.speaker.sample_rate)
            with atomic_write(candidate.path, "wb") as handle:
                handle.write(mp3)
            return candidate
    raise LorsError(
        "no candidate sentence has the allowed length when spoken",
        where=f"voice {clip.speaker.voice}, {clip.speaker.rate_wpm} words per minute",
        expected=f"{audio.MIN_SECONDS} to {audio.MAX_SECONDS} s",
        got=[candidate.sentence for candidate in clip.candidates],
        hint=f"raise rate_wpm in {voices.CONDITIONS_FILE}",
    )


def common_voice_tables(spoken: Sequence[Spoken]) -> dict[str, str]:
    """Return the text of Common Voice's TSV files by file name.

    As in the real corpus, ``validated`` has every clip that two listeners accepted, even if it is
    in no split. Nothing is quoted.
    """
    rows: dict[str, list[tuple]] = {
        name: [COLUMNS] for name in (*SPLITS, "validated", "invalidated", "other")
    }
    for kind, speaker, candidate in spoken:
        if kind not in VOTES:
            rows["validated"].append(_row(speaker, candidate, (2, 0)))
        if kind in rows:
            rows[kind].append(_row(speaker, candidate, VOTES.get(kind, (2, 0))))
    rows["reported"] = [REPORTED_COLUMNS]
    return {f"{name}.tsv": _tsv(lines) for name, lines in rows.items()}


def covost_table(spoken: Sequence[Spoken]) -> str:
    """Return the text of CoVoST 2's TSV file."""
    lines: list[tuple] = [("path", "translation", "split")]
    for kind, _, candidate in spoken:
        if kind in (*SPLITS, "train_covost"):
            lines.append((candidate.path.name, candidate.translation, kind))
    return _tsv(lines)


def _row(speaker: Speaker, candidate: Candidate, votes: tuple[int, int]) -> tuple:
    name, sentence = candidate.path.name, candidate.sentence
    return (speaker.client_id, name, sentence, *votes, speaker.age, speaker.gender, "")


def _tsv(rows: Iterable[Sequence[object]]) -> str:
    return "".join("\t".join(map(str, row)) + "\n" for row in rows)


def _check_numbers(settings: Settings, nj: int) -> None:
    for split in SPLITS:
        check_number(settings.count(split), Range(1, MOST_CLIPS), f"--num_{split}")
    check_number(nj, Range(1, MOST_PROCESSES), "--nj")
    if settings.vocab_holdout is not None:
        check_number(settings.vocab_holdout, Range(0, voices.MAX_HOLDOUT), "--vocab_holdout")
    check_languages(settings.languages, "--langs")


def _marker(settings: Settings, language: str, condition: Condition) -> DoneMarker:
    """Return the marker in the language's directory, with everything that its files depend on."""
    inputs = {
        "version": VERSION,
        **{key: getattr(settings, key) for key in ("condition", "seed")},
        **{f"num_{split}": settings.count(split) for split in SPLITS},
        **dataclasses.asdict(condition),
        "seconds": [audio.MIN_SECONDS, audio.MAX_SECONDS],
        "grammars": {
            code: file_digest(grammar.GRAMMAR_DIR / f"{code}.yaml")[:16]
            for code in (language, TARGET)
        },
    }
    return DoneMarker(language_dir(settings.out, language) / ".done", inputs)


def _is_finished(settings: Settings, language: str, condition: Condition) -> bool:
    """Return whether a language is complete.

    Raises:
        LorsError: its directory has a corpus of other settings, or files of another origin.
    """
    marker = _marker(settings, language, condition)
    directory = marker.path.parent
    try:
        done = marker.is_done()
    except LorsError as error:
        raise LorsError(
            "this directory has a synthetic corpus of other settings",
            where=directory,
            got=error.got,
            hint=f"use another --out, restore the settings, or remove {directory}",
        ) from None
    # A run that was killed before its first clip leaves hidden files.
    others = (path for path in directory.glob("*") if not path.name.startswith("."))
    if not done and not marker.started.exists() and any(others):
        raise LorsError(
            "this directory has files that are not from this program",
            where=directory,
            expected="an empty directory or none",
            hint="use another --out",
        )
    return done


@contextlib.contextmanager
def _workers(nj: int) -> Iterator[Mapper]:
    """Return a function like :func:`map` that works in `nj` processes and keeps the order."""
    if nj == 1:
        yield map
        return
    # spawn: the workers inherit nothing from this process (threads, a GPU).
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(
        nj, mp_context=context, initializer=end_with_parent, initargs=(os.getpid(),)
    )

    def mapper(speak: Callable[[Clip], Candidate], clips: Iterable[Clip]) -> Iterator[Candidate]:
        with starting_workers():
            return executor.map(speak, clips, chunksize=4)

    try:
        yield mapper
    except BrokenProcessPool:
        raise LorsError(
            "a worker process was killed",
            hint="was the machine out of memory? Run the same command again: it will continue",
        ) from None
    finally:
        # After an error or Ctrl-C, waiting clips are not started.
        executor.shutdown(cancel_futures=True)
