"""Data for the adaptation to speakers, from data directories with several speakers.

A test speaker has data directories of its own, ``<lang>-x-<speaker>/{train,dev,test}``; the others
are those that a model is pre-trained on, together in ``<lang>/{train,dev}``; a test speaker is not
among them in any language. Utterances are split in the order of their ids: the first ones adapt,
the next ones choose the epoch, the rest tests. Every run gives the same parts.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lors.config import read_yaml
from lors.data.datadir import Utterance, data_files, read_data_dir, write_data_dirs
from lors.done_marker import DoneMarker, recorded_inputs
from lors.errors import LorsError, UsageError, shortened, unknown_name
from lors.fileio import file_digest, name_problem, write_text
from lors.tasks import SPEAKERS_FILE, SPLITS, SpeechTask, of_speaker, spoken, task_called

log = logging.getLogger(__name__)

MARKER, OPTION = ".done", "--speakerdir"
PRETRAINING_FILE = "pretraining"
"""File with the codes of the languages that have other speakers."""
DEV_OF_TEN = 10
"""Every tenth utterance of the pre-training of a language is a dev utterance; of fewer the last."""


@dataclass(frozen=True)
class SpeakerRule:
    """How speakers are chosen and their utterances split.

    Attributes:
        number: test speakers of each language, those with the most utterances; not used if
            `speakers` or `partition` names them.
        speakers: ids of the test speakers; with a partition, some of its speakers.
        adapt, dev: utterances of a test speaker to adapt and for the choice of the epoch; the rest
            are for tests.
        least_test: fewest test utterances of a speaker.
        own_splits: keep the corpus's own splits, in place of `adapt` and `dev`.
        partition: speaker -> the first and the last dev utterance; those before adapt, those behind
            are for tests. In place of `adapt` and `dev`.

    Raises:
        UsageError: a partition beside the corpus's own splits, or speakers that it does not have.
    """

    number: int = 1
    speakers: tuple[str, ...] = ()
    adapt: int = 60
    dev: int = 10
    least_test: int = 10
    own_splits: bool = False
    partition: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.partition and self.own_splits:
            raise UsageError(
                "two ways to split the utterances of a speaker",
                where="--partition and --own_splits",
                expected="the dev utterances of the partition, or the splits of the corpus",
                hint="leave one of the two out",
            )
        unknown = [name for name in self.speakers if name not in self.partition]
        if self.partition and unknown:
            where = "the test speakers, which are chosen from those of --partition"
            raise unknown_name("speaker", unknown, self.partition, where)


@dataclass(frozen=True)
class _Spoken:
    """The utterances of a speaker, in the order of their ids, and their splits in the corpus."""

    lang: str
    speaker: str
    utterances: list[Utterance]
    split_of: Mapping[str, str]

    @property
    def name(self) -> str:
        """The speaker's id without the language, which some corpora write before it."""
        return self.speaker.removeprefix(f"{self.lang}-")

    @property
    def code(self) -> str:
        return of_speaker(self.lang, self.name)

    def of(self, split: str) -> list[Utterance]:
        return [u for u in self.utterances if self.split_of[u.id] == split]


def split_speakers(
    source: str | os.PathLike,
    langs: Sequence[str],
    out: str | os.PathLike,
    rule: SpeakerRule,
    tasks: Sequence[str] = ("asr",),
) -> list[str]:
    """Write the data directories of the test speakers and of all others.

    Args:
        source: data directories ``<lang>/{train,dev,test}``; not every split has to be there.
        langs: languages.
        out: receives the data directories, and the files :data:`SPEAKERS_FILE` and
            :data:`PRETRAINING_FILE`.
        rule: choice of speakers and utterances.
        tasks: tasks that the data is for; the data directories do not depend on them.

    Returns:
        The codes of the test speakers, sorted by language and name.

    Raises:
        UsageError: speakers that the corpus does not have.
        LorsError: no data; a language with fewer speakers than test speakers, speakers with too few
            utterances, or without the translations of a task (all are listed); no speaker is left
            to pre-train on; or `out` was made with another rule or from other data.
    """
    source, out = Path(source), Path(out)
    directories = [d for lang in langs for s in SPLITS if (d := source / lang / s).is_dir()]
    there = {directory.parent.name for directory in directories}
    if missing := [lang for lang in langs if lang not in there]:
        raise LorsError("no data directories", where=source, got=missing, hint="run stage format")
    # spk2utt is the inverse of utt2spk.
    files = [d / name for d in directories for name in data_files(d) if name != "spk2utt"]
    digests = {str(f.relative_to(source)): file_digest(f) for f in files}
    inputs = {"data": digests, "rule": dataclasses.asdict(rule)}
    marker = DoneMarker(out / MARKER, inputs, OPTION)
    translated = [task for task in map(task_called, tasks) if task.target]
    if marker.is_done():
        if translated:
            _check_translations({d: read_data_dir(d) for d in out.glob("*/*/")}, translated)
        return (out / SPEAKERS_FILE).read_text(encoding="utf-8").split()
    found = [speaker for lang in langs for speaker in _speakers_of(source, lang)]
    chosen = _choose(found, langs, rule)
    made = _parts_of(chosen, rule, out)
    pretraining = _pretraining(_others(found, chosen), langs, rule, out)
    if not pretraining:
        raise LorsError(
            "no speaker is left to pre-train on",
            where=source,
            got=f"{len(chosen)} test speakers of {len(found)}",
            hint="choose fewer test speakers, or more languages",
        )
    codes = [speaker.code for speaker in chosen]
    _check_translations({**made, **pretraining}, translated)
    with marker.work():
        write_data_dirs({**made, **pretraining})
        write_text(out / SPEAKERS_FILE, "".join(f"{code}\n" for code in codes))
        kept = dict.fromkeys(path.parent.name for path in pretraining)
        write_text(out / PRETRAINING_FILE, "".join(f"{lang}\n" for lang in kept))
    return codes


def check_split(out: str | os.PathLike, langs: Sequence[str], rule: SpeakerRule) -> None:
    """Check that the data directories in `out`, if they are finished, are those of a rule.

    Args:
        out: directory that :func:`split_speakers` wrote.
        langs: languages.
        rule: choice of speakers and utterances.

    Raises:
        LorsError: they were made of other languages, or by another rule.
    """
    marker = Path(out) / MARKER
    if marker.exists():
        made = recorded_inputs(marker)
        of = sorted({Path(file).parts[0] for file in made.get("data", {})})
        wanted = {"langs": sorted({*langs}), "rule": dataclasses.asdict(rule)}
        DoneMarker(marker, wanted, OPTION).check({"langs": of, "rule": made.get("rule")})


def chosen_speakers(out: str | os.PathLike) -> tuple[list[str], list[str]] | None:
    """Return the codes of the test speakers, and the languages that have other speakers.

    None until :func:`split_speakers` has written all of `out`.
    """
    if DoneMarker.progress(Path(out) / MARKER) != "done":
        return None
    files = [Path(out) / name for name in (SPEAKERS_FILE, PRETRAINING_FILE)]
    speakers, pretraining = (file.read_text(encoding="utf-8").split() for file in files)
    return speakers, pretraining


def read_partition(path: str | os.PathLike) -> dict[str, tuple[str, str]]:
    """Read the file of :attr:`SpeakerRule.partition`: speaker -> [first, last dev utterance].

    Raises:
        LorsError: the file is missing, or has other entries; all are listed.
    """
    content = read_yaml(path)
    wrong = [
        f"{speaker}: {ends!r}"
        for speaker, ends in content.items()
        if not (isinstance(ends, list) and len(ends) == 2 and all(isinstance(e, str) for e in ends))
    ]
    if wrong or not content:
        raise LorsError(
            "not a partition of speakers",
            where=path,
            expected="speaker: [first dev utterance, last dev utterance]",
            got=shortened(wrong, 20) or "nothing",
        )
    return {str(speaker): tuple(ends) for speaker, ends in content.items()}


def _check_translations(
    directories: Mapping[Path, Sequence[Utterance]], tasks: Sequence[SpeechTask]
) -> None:
    """Check that all utterances have the texts of tasks, but for speech in their target language.

    Raises:
        LorsError: speakers without them; all are listed.
    """
    missing: dict[str, int] = defaultdict(int)
    for directory in sorted(directories):
        lang = spoken(directory.parent.name)
        for task in tasks:
            for utterance in directories[directory] if task.target != lang else ():
                if task.reference("", utterance.translations) is None:
                    missing[f"{utterance.speaker} ({lang}): no {task.reference_file}"] += 1
    if missing:
        raise LorsError(
            "speakers without translations",
            where="--tasks",
            expected="translations of all utterances, or --tasks asr",
            got=[f"{line} for {count} utterances" for line, count in missing.items()],
            hint="give --tasks asr, or data in which all have them (in voice_prompts: "
            '--data_opts "--second_russian false" with other --test_speakers)',
        )


def _speakers_of(source: Path, lang: str) -> list[_Spoken]:
    """Return the speakers of a language, sorted by name."""
    split_of: dict[str, str] = {}
    by_speaker: dict[str, list[Utterance]] = defaultdict(list)
    for split in SPLITS:
        if not (source / lang / split).is_dir():
            continue
        for utterance in read_data_dir(source / lang / split):
            if utterance.id in split_of:
                raise LorsError(
                    "an utterance is in two splits",
                    where=source / lang,
                    got=f"{utterance.id} in {split_of[utterance.id]} and {split}",
                )
            split_of[utterance.id] = split
            by_speaker[utterance.speaker].append(utterance)
    return [
        _Spoken(lang, name, sorted(by_speaker[name], key=lambda u: u.id), split_of)
        for name in sorted(by_speaker)
    ]


def _choose(found: Sequence[_Spoken], langs: Sequence[str], rule: SpeakerRule) -> list[_Spoken]:
    """Return the test speakers, in the order of languages and names."""
    named = rule.speakers or tuple(rule.partition)
    if named:
        known = {speaker.speaker for speaker in found}
        if unknown := [name for name in named if name not in known]:
            raise UsageError(
                "speakers that are not in the corpus",
                where="the test speakers",
                expected=f"among {shortened(sorted(known), 20)}",
                got=shortened(unknown, 20),
            )
        chosen = [speaker for speaker in found if speaker.speaker in named]
    else:
        chosen = []
        too_few = []
        for lang in langs:
            of_lang = [speaker for speaker in found if speaker.lang == lang]
            most = sorted(of_lang, key=lambda s: (-len(s.utterances), s.speaker))[: rule.number]
            chosen += [speaker for speaker in of_lang if speaker in most]
            if len(most) < rule.number:
                too_few.append(f"{lang}: {len(most)}")
        if too_few:
            raise LorsError(
                "languages with too few speakers",
                where="the test speakers",
                expected=f"{rule.number} or more of each language (--num_speakers, by default two)",
                got=too_few,
                hint="give a smaller --num_speakers, other --langs, or names by --test_speakers",
            )
    codes = [speaker.code for speaker in chosen]
    bad = [f"{code}: {name_problem(code)}" for code in codes if name_problem(code)]
    bad += [f"{code}: two speakers" for code in dict.fromkeys(codes) if codes.count(code) > 1]
    if bad:
        raise LorsError("names of speakers that cannot be names of files", got=bad)
    return chosen


def _parts_of(
    chosen: Sequence[_Spoken], rule: SpeakerRule, out: Path
) -> dict[Path, list[Utterance]]:
    """Return the data directories of the test speakers."""
    directories: dict[Path, list[Utterance]] = {}
    problems = []
    for speaker in chosen:
        parts = _split(speaker, rule)
        counts = {split: len(part) for split, part in parts.items()}
        least = {"train": 1, "dev": 1, "test": rule.least_test}
        if not rule.own_splits and not rule.partition:
            least |= {"train": rule.adapt, "dev": rule.dev}
        if any(counts[split] < number for split, number in least.items()):
            needed = ", ".join(f"{number} {split}" for split, number in least.items())
            got = ", ".join(f"{number} {split}" for split, number in counts.items())
            problems.append(f"{speaker.speaker} ({speaker.lang}): {got}; needed: {needed}")
        directories |= {out / speaker.code / split: part for split, part in parts.items()}
    if problems:
        raise LorsError(
            "speakers with too few utterances",
            where="the test speakers",
            got=problems,
            hint="choose other speakers, or fewer utterances to adapt (--adapt_utterances)",
        )
    return directories


def _split(speaker: _Spoken, rule: SpeakerRule) -> dict[str, list[Utterance]]:
    if rule.own_splits:
        return {split: speaker.of(split) for split in SPLITS}
    utterances = speaker.utterances
    if rule.partition:
        first, last = rule.partition[speaker.speaker]
        ids = [u.id for u in utterances]
        if missing := [end for end in (first, last) if end not in ids]:
            raise LorsError(
                "utterances of the partition are not in the corpus",
                where=f"speaker {speaker.speaker}",
                got=missing,
                hint="is the corpus complete?",
            )
        start, end = ids.index(first), ids.index(last) + 1
    else:
        start, end = rule.adapt, rule.adapt + rule.dev
    return {"train": utterances[:start], "dev": utterances[start:end], "test": utterances[end:]}


def _others(found: Sequence[_Spoken], chosen: Sequence[_Spoken]) -> list[_Spoken]:
    """Return the speakers that are not tested in any language."""
    tested = {speaker.name for speaker in chosen}
    codes = {speaker.code for speaker in chosen}
    # The model would hear the voice of a test speaker in the pre-training.
    left_out = [s.code for s in found if s.name in tested and s.code not in codes]
    if left_out:
        log.warning(
            "not in the pre-training: %d test speakers in other languages (%s)",
            *(len(left_out), ", ".join(shortened(left_out))),
        )
    return [speaker for speaker in found if speaker.name not in tested]


def _pretraining(
    others: Sequence[_Spoken], langs: Sequence[str], rule: SpeakerRule, out: Path
) -> dict[Path, list[Utterance]]:
    """Return the data directories of the speakers that are not tested, by language."""
    directories: dict[Path, list[Utterance]] = {}
    for lang in langs:
        of_lang = [speaker for speaker in others if speaker.lang == lang]
        if rule.own_splits:
            train, dev = ([u for s in of_lang for u in s.of(split)] for split in ("train", "dev"))
        else:
            together = [u for s in of_lang for u in s.utterances]
            dev = together[DEV_OF_TEN - 1 :: DEV_OF_TEN] or together[1:][-1:]
            kept = {u.id for u in dev}
            train = [u for u in together if u.id not in kept]
        if train and dev:
            directories |= {out / lang / "train": train, out / lang / "dev": dev}
        else:
            log.warning(
                "%s is not in the pre-training: of its other speakers, %d train and %d dev clips",
                *(lang, len(train), len(dev)),
            )
    return directories
