"""The prompts as Kaldi data directories: selection, report and writing."""

from __future__ import annotations

import logging
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lors.config import Range, check_number
from lors.data import g722
from lors.data.audio_source import check_folder
from lors.data.corpus_report import counts, overlap, overlap_lines
from lors.data.datadir import Utterance, write_data_dirs
from lors.data.languages import check_languages
from lors.data.selection import MALFORMED, NO_SPLIT, Drop, write_drops
from lors.data.voice_prompts.download import ARCHIVE, get_packages
from lors.data.voice_prompts.groups import Groups
from lors.data.voice_prompts.licence import write_licence
from lors.data.voice_prompts.packages import (
    Release,
    Voice,
    copyright_of,
    recording_names,
    recordings_of,
    transcripts_of,
)
from lors.data.voice_prompts.transcripts import (
    Rules,
    TranscriptList,
    clean,
    is_prompt_name,
    load_rules,
    read_transcripts,
)
from lors.errors import LorsError, UsageError
from lors.fileio import write_json
from lors.tasks import SPLITS, TARGET

_FIGURE = 4  # letters; a figure is read as a word of about this length
_LONG_TEXT = 15  # letters; the rate of a shorter text says little
_SLOWEST, _FASTEST = 2.0, 0.6  # seconds a letter, relative to the median of the language
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """The shortest and the longest recording to keep, in seconds."""

    shortest: float = 0.4
    longest: float = 10.0


@dataclass(frozen=True)
class Cleaned:
    """The prompts of a language after cleaning.

    Attributes:
        texts: name -> cleaned text.
        reasons: name -> why the prompt has no usable text, in one word, and in more words.
        malformed: number -> line of the list that cannot be read.
    """

    texts: Mapping[str, str]
    reasons: Mapping[str, tuple[str, str]]
    malformed: Mapping[int, str]


@dataclass
class _Selected:
    splits: dict[str, list[Utterance]] = field(default_factory=lambda: {s: [] for s in SPLITS})
    drops: list[Drop] = field(default_factory=list)


def prepare_voice_prompts(
    folder: Path,
    langs: Sequence[str],
    out: Path,
    release: Release,
    limits: Limits | None = None,
    archive: str = ARCHIVE,
) -> list[dict[str, Any]]:
    """Write the data directories ``<out>/<lang>/{train,dev,test}`` of several languages.

    Beside them are ``dropped.tsv`` and ``report.json`` of each language, and ``<out>/LICENSE`` and
    ``<out>/CREDITS``. Packages that are not in `folder` are downloaded.

    Args:
        folder: with the packages, or with their unpacked content (``usr/share/...``).
        langs: language codes.
        out: where to write.
        release: the packages.
        limits: lengths of the recordings to keep.
        archive: address of Debian's archive or a mirror.

    Returns:
        the reports of the languages, as in ``report.json``.

    Raises:
        UsageError: a language that is not in the release, or limits out of range.
        LorsError: packages cannot be had, or a split has no prompt left. Every package is checked
            before anything is written.
    """
    limits = limits or Limits()
    check_limits(limits)
    check_languages(langs, "--langs")
    check_folder(folder)
    voices = release.voices(langs)
    packages = [voice.transcripts for voice in release.languages.values()]
    packages += [voice.recordings for voice in voices.values()]
    if not (folder / "usr").is_dir():
        get_packages(folder, packages, archive)

    rules = load_rules()
    cleaned = {
        lang: clean_list(
            read_transcripts(transcripts_of(folder, lang, voice.transcripts)), lang, rules
        )
        for lang, voice in release.languages.items()
    }
    groups = Groups(
        (name, lang, text) for lang, own in cleaned.items() for name, text in own.texts.items()
    )
    recordings = {lang: recordings_of(folder, voice) for lang, voice in voices.items()}
    # First, so that no data are ever without their licence, whatever fails later.
    source = copyright_of(folder, release.languages[TARGET].transcripts)
    write_licence(out, source, release.languages | voices, voices)
    reports = []
    for lang, voice in voices.items():
        english = None if lang == TARGET else cleaned[TARGET].texts
        selected = _select(lang, voice, recordings[lang], cleaned[lang], english, groups, limits)
        reports.append(_write(out / lang, lang, voice, selected, cleaned[lang], groups))
        log.info("%s: data directories written to %s", lang, out / lang)
    return reports


def check_limits(limits: Limits) -> None:
    """Check that some recording can be within the limits.

    Raises:
        UsageError: none can.
    """
    check_number(limits.shortest, Range(0), "--min_seconds")
    check_number(limits.longest, Range(0), "--max_seconds")
    if limits.shortest >= limits.longest:
        raise UsageError(
            "no recording can be as long as this",
            where="--min_seconds, --max_seconds",
            got=f"{limits.shortest} and {limits.longest}",
        )


def clean_list(listed: TranscriptList, lang: str, rules: Rules) -> Cleaned:
    """Clean the texts of a language (:func:`lors.data.voice_prompts.transcripts.clean`)."""
    texts: dict[str, str] = {}
    reasons: dict[str, tuple[str, str]] = {}
    for name, raw in listed.texts.items():
        reason = rules.reason_of(name, lang)
        text = raw
        if name in listed.contradictory:
            reasons[name] = ("contradictory_text", listed.contradictory[name])
            continue
        if not reason:
            text, reason = clean(raw, lang, listed.texts, rules)
        if reason:
            reasons[name] = (reason, raw)
        else:
            texts[name] = text
    return Cleaned(texts, reasons, listed.malformed)


def format_reports(reports: Sequence[Mapping[str, Any]]) -> str:
    """Format the reports of several languages as one table for the terminal."""
    lines = [f"{'lang':6}{'split':7}{'listed':>7}{'clips':>7}{'words':>7}{'minutes':>9}  dropped"]
    for report in reports:
        for split, row in report["splits"].items():
            lines.append(
                f"{report['lang']:6}{split:7}{row['listed']:7}{row['clips']:7}{row['words']:7}"
                f"{row['minutes']:9.2f}  {counts(row['dropped'])}".rstrip()
            )
        if report["malformed_lines"]:
            lines.append(f"{report['lang']:6}{report['malformed_lines']} malformed line(s)")
        lines += overlap_lines(report["lang"], report["overlap_with_train"])
    return "\n".join(lines)


def malformed_drops(malformed: Mapping[int, str]) -> list[Drop]:
    """Return a drop for each line that could not be read: number -> line."""
    return [
        Drop(NO_SPLIT, "-", MALFORMED, f"line {number}: {line[:80]}")
        for number, line in malformed.items()
    ]


def split_report(
    utterances: Sequence[Utterance], drops: Sequence[Drop], split: str
) -> dict[str, Any]:
    """Return the numbers of a split: listed, clips, words, minutes, speakers, dropped."""
    own = Counter(drop.reason for drop in drops if drop.split == split)
    return {
        "listed": len(utterances) + own.total(),
        "clips": len(utterances),
        "words": sum(len((utt.text or "").split()) for utt in utterances),
        "minutes": round(sum(utt.duration or 0 for utt in utterances) / 60, 3),
        "speakers": len({utt.speaker for utt in utterances}),
        "dropped": dict(sorted(own.items())),
    }


def check_splits(lang: str, splits: Mapping[str, Sequence[Utterance]], dropped: Path) -> None:
    """Check that no split is empty.

    Raises:
        LorsError: one is.
    """
    if empty := [split for split, utterances in splits.items() if not utterances]:
        raise LorsError(
            f"{lang}: no prompt is left for {', '.join(empty)}",
            where=dropped,
            hint="the file lists every prompt with the reason; widen --min_seconds and "
            "--max_seconds, or leave the language out of --langs",
        )


def _select(
    lang: str,
    voice: Voice,
    recordings: Path,
    cleaned: Cleaned,
    english: Mapping[str, str] | None,
    groups: Groups,
    limits: Limits,
) -> _Selected:
    """Sort the prompts of a language into splits and drops."""
    selected = _Selected()
    recorded = set(recording_names(recordings))
    candidates: dict[str, Utterance] = {}
    for name in sorted({*cleaned.texts, *cleaned.reasons, *recorded}):
        path = recordings / f"{name}{g722.EXTENSION}"
        reason, detail = _text_problem(name, name in recorded, cleaned, english)
        if not reason:
            reason, detail = _sound_problem(path, limits)
        if reason:
            selected.drops.append(Drop(groups.split_of(name), name, reason, detail))
            continue
        speaker = f"{lang}-{voice.speaker}"
        candidates[name] = Utterance(
            id=f"{speaker}-{name.replace('/', '.')}",
            wav=str(path),
            speaker=speaker,
            lang=lang,
            text=cleaned.texts[name],
            translations={} if english is None else {TARGET: english[name]},
            duration=g722.frames_of(path) / g722.RATE,
            gender=voice.gender,
        )
    unusual = _unlike_text(candidates)
    for name, utterance in candidates.items():
        split = groups.split_of(name)
        if name in unusual:
            selected.drops.append(Drop(split, name, *unusual[name]))
        else:
            selected.splits[split].append(utterance)
    selected.drops.sort(key=lambda drop: (drop.split, drop.clip))
    return selected


def _text_problem(
    name: str, recorded: bool, cleaned: Cleaned, english: Mapping[str, str] | None
) -> tuple[str, str]:
    """Return why a prompt has no usable text, in one word and in more; or empty strings."""
    if name in cleaned.reasons:
        return cleaned.reasons[name]
    if not is_prompt_name(name):
        return "unsafe_name", repr(name)
    if name not in cleaned.texts:
        reason = load_rules().reason_of(name, "")
        return (reason or "no_transcript"), "a recording without a line in the list"
    if not recorded:
        return "no_recording", "a line of the list without a recording"
    if english is not None and name not in english:
        return "no_english_text", cleaned.texts[name]
    return "", ""


def _sound_problem(path: Path, limits: Limits) -> tuple[str, str]:
    """Return why a recording cannot be used, in one word and in more; or empty strings."""
    seconds = g722.frames_of(path) / g722.RATE
    if not seconds:
        return "empty_recording", path.name
    if seconds < limits.shortest:
        return "too_short", f"{seconds:.2f} s"
    return ("too_long", f"{seconds:.2f} s") if seconds > limits.longest else ("", "")


def _unlike_text(candidates: Mapping[str, Utterance]) -> dict[str, tuple[str, str]]:
    """Find recordings that are much longer or shorter than their texts."""
    rates = {
        name: (utterance.duration or 0) / _letters(utterance.text or "")
        for name, utterance in candidates.items()
        if _letters(utterance.text or "") >= _LONG_TEXT
    }
    usual = statistics.median(rates.values()) if rates else 0.0
    return {
        name: ("unlike_text", f"{rate / usual:.2f} times the usual length for its text")
        for name, rate in rates.items()
        if not _FASTEST * usual <= rate <= _SLOWEST * usual
    }


def _letters(text: str) -> int:
    return sum(_FIGURE if c.isdigit() else c.isalpha() for c in text)


def _write(
    out: Path, lang: str, voice: Voice, selected: _Selected, cleaned: Cleaned, groups: Groups
) -> dict[str, Any]:
    """Write the data directories, ``dropped.tsv`` and ``report.json`` of a language."""
    malformed = malformed_drops(cleaned.malformed)
    write_drops(out / "dropped.tsv", malformed + selected.drops)
    check_splits(lang, selected.splits, out / "dropped.tsv")
    train = selected.splits["train"]
    sizes = groups.sizes()
    report = {
        "lang": lang,
        "packages": [package.unpacked for package in (voice.transcripts, voice.recordings)],
        "voice": voice.voice,
        "groups": len(sizes),
        "largest_group": max(sizes.values()),
        "malformed_lines": len(malformed),
        "splits": {
            split: split_report(selected.splits[split], selected.drops, split) for split in SPLITS
        },
        "overlap_with_train": {s: overlap(train, selected.splits[s]) for s in ("dev", "test")},
    }
    write_data_dirs({out / split: selected.splits[split] for split in SPLITS})
    write_json(out / "report.json", report)
    return report
