"""Sentences of novels read in Russian by one speaker, as data directories for recognition.

The speaker and the style differ from those of the Russian prompts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lors.data.corpus_report import overlap
from lors.data.datadir import Utterance, one_line, write_data_dirs
from lors.data.selection import Drop, write_drops
from lors.data.sound import seconds_of
from lors.data.voice_prompts.corpus import (
    Limits,
    check_limits,
    check_splits,
    malformed_drops,
    split_report,
)
from lors.data.voice_prompts.download import ARCHIVE, get_packages
from lors.data.voice_prompts.groups import Groups
from lors.data.voice_prompts.licence import write_licence
from lors.data.voice_prompts.packages import ReadVoice, Release, copyright_of, sentences_of
from lors.data.voice_prompts.transcripts import read_lines
from lors.errors import LorsError
from lors.fileio import write_json
from lors.tasks import SPLITS

LANG = "ru"
LIMITS = Limits(0.4, 30.0)
"""Lengths to keep by default: Whisper hears 30 s at once. The sentences last 3 to 18 s."""
_LINE = re.compile(r'\(\s*(\w+)\s+"(.*)"\s*\)', re.ASCII)


def prepare_read_russian(
    folder: Path,
    out: Path,
    release: Release,
    limits: Limits = LIMITS,
    archive: str = ARCHIVE,
) -> dict[str, Any]:
    """Write the data directories ``<out>/ru/{train,dev,test}``, without translations.

    For the other files, arguments, result and errors see
    :func:`lors.data.voice_prompts.corpus.prepare_voice_prompts`.
    """
    check_limits(limits)
    voice = release.read_russian
    if voice is None:
        raise LorsError("the list of packages has no read_russian", hint="see packages.yaml")
    if not (folder / "usr").is_dir():
        get_packages(folder, [voice.sentences], archive)
    source = sentences_of(folder, voice)
    listed, malformed = read_sentences(source / "etc" / "txt.done.data")
    splits, drops = _select(source, voice, listed, limits)
    drops = malformed_drops(malformed) + drops

    write_licence(out, copyright_of(folder, voice.sentences), {LANG: voice}, [LANG])
    directory = out / LANG
    write_drops(directory / "dropped.tsv", drops)
    check_splits(LANG, splits, directory / "dropped.tsv")
    report = {
        "lang": LANG,
        "packages": [voice.sentences.unpacked],
        "voice": voice.voice,
        "malformed_lines": len(malformed),
        "splits": {split: split_report(splits[split], drops, split) for split in SPLITS},
        "overlap_with_train": {s: overlap(splits["train"], splits[s]) for s in ("dev", "test")},
    }
    write_data_dirs({directory / split: splits[split] for split in SPLITS})
    write_json(directory / "report.json", report)
    return report


def read_sentences(path: Path) -> tuple[dict[str, str], dict[int, str]]:
    """Read ``( name "text" )`` lines.

    Returns:
        name -> cleaned text; number -> line of the lines that cannot be read. ``+`` (it marks the
        stress) and commas (they mark pauses) are removed.
    """
    texts: dict[str, str] = {}
    malformed = {}
    for number, line in enumerate(read_lines(path), 1):
        found = _LINE.fullmatch(line.strip())
        if found and found[1] not in texts:
            texts[found[1]] = one_line(re.sub("[+,]", "", found[2]))
        elif line.strip():
            malformed[number] = line
    return texts, malformed


def _select(
    source: Path, voice: ReadVoice, listed: Mapping[str, str], limits: Limits
) -> tuple[dict[str, list[Utterance]], list[Drop]]:
    groups = Groups((name, LANG, text) for name, text in listed.items())
    splits: dict[str, list[Utterance]] = {split: [] for split in SPLITS}
    drops = []
    speaker = f"{LANG}-{voice.speaker}"
    names = {*listed, *(path.stem for path in source.glob("wav/*.wav"))}
    for name in sorted(names):
        path = source / "wav" / f"{name}.wav"
        split = groups.split_of(name)
        seconds = seconds_of(str(path))
        reason = _problem(listed.get(name, ""), path, seconds, limits)
        if reason:
            drops.append(Drop(split, name, reason, f"{seconds or 0:.2f} s"))
            continue
        splits[split].append(
            Utterance(
                id=f"{speaker}-{name}",
                wav=str(path),
                speaker=speaker,
                lang=LANG,
                text=listed[name],
                duration=seconds,
                gender=voice.gender,
            )
        )
    return splits, drops


def _problem(text: str, path: Path, seconds: float | None, limits: Limits) -> str:
    """Return why a sentence cannot be used, in one word; an empty string if it can."""
    if not text:
        return "no_transcript"
    if not path.is_file():
        return "no_recording"
    if not seconds:
        return "undecodable"
    if seconds < limits.shortest:
        return "too_short"
    return "too_long" if seconds > limits.longest else ""
