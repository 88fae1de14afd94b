"""The rows of a manifest as utterances of each language, or as drops with a reason."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field

from lors.data.datadir import TRANSLATION, Utterance, one_line
from lors.data.languages import CODES
from lors.data.manifest_records import ManifestRow, Source
from lors.data.manifest_sources import near_names
from lors.data.selection import Drop
from lors.data.speakers import GENDERS
from lors.tasks import SPLITS, TARGET

UNKNOWN = "-"
"""The split of a row whose split is missing or unknown."""
_SPLIT_OF = {split: split for split in SPLITS} | dict.fromkeys(
    ("validation", "valid", "val"), "dev"
)
_GENDERS = {**GENDERS, **dict.fromkeys(("", "other", "unknown", "non-binary"))}
_LONGEST = 80  # characters of a clip's part of an utterance id, which becomes a file name

Problems = list[tuple[str, str]]
"""For each problem of a row: the reason in one word of a fixed list, and in a sentence."""


@dataclass
class LanguageRows:
    """The rows of one language.

    Attributes:
        splits: split -> its utterances.
        drops: the bad rows, once for each problem.
        rows: split -> number of rows, bad ones included.
        genders: speaker -> ``m`` or ``f``.
        kept_empty: split -> ids of utterances of dev and test without text or translation.
        unknown_speakers: number of utterances without a speaker.
    """

    splits: dict[str, list[Utterance]] = field(default_factory=lambda: {s: [] for s in SPLITS})
    drops: list[Drop] = field(default_factory=list)
    rows: Counter[str] = field(default_factory=Counter)
    genders: dict[str, str] = field(default_factory=dict)
    kept_empty: dict[str, list[str]] = field(default_factory=lambda: {s: [] for s in SPLITS})
    unknown_speakers: int = 0


def sort_rows(
    source: Source, wanted: Collection[str], known: Collection[str]
) -> tuple[dict[str, LanguageRows], list[Drop]]:
    """Sort the rows by language.

    A clip that is listed in several splits is never trained on: it stays in the test set, else in
    dev.

    Args:
        source: the rows of the corpus.
        wanted: languages to read; rows of other languages are only counted. If empty, all.
        known: the language codes that are not typing errors.

    Returns:
        language -> its rows, and the drops without a known language.
    """
    languages: dict[str, LanguageRows] = defaultdict(LanguageRows)
    unplaced = [
        Drop(UNKNOWN, "-", reason, f"{where}: {why}") for where, reason, why in source.malformed
    ]
    order = {"test": 0, "dev": 1}
    split_of = [_SPLIT_OF.get(row.values["split"].strip().lower(), UNKNOWN) for row in source.rows]
    first_with: dict[tuple[str, str], tuple[str, str]] = {}
    for index in sorted(range(len(split_of)), key=lambda i: order.get(split_of[i], 2)):
        row, split = source.rows[index], split_of[index]
        lang = row.values["lang"].strip()
        if wanted and lang in CODES and lang not in wanted:
            languages[lang].rows[split] += 1
            continue
        problems = _row_problems(row, lang, split, known)
        utterance = _utterance(row, lang)
        for what, value in (("id", utterance.id), ("audio", utterance.wav)):
            where, other = first_with.setdefault((what, value), (row.where, split))
            if row.values["audio"] and where != row.where:
                reason = f"repeated_{what}" if other == split else f"also_in_{other}"
                problems.append((reason, f"the same {what} as {where}"))
        if lang in known:
            _add(languages[lang], row, split, utterance, problems)
        else:
            unplaced += _drops(row, split, problems)
    return dict(languages), unplaced


def _add(
    language: LanguageRows, row: ManifestRow, split: str, utterance: Utterance, problems: Problems
) -> None:
    """Add a row to its language: as an utterance, or as a drop for each problem."""
    language.rows[split] += 1
    gender = _GENDERS.get(_value(row, "gender").lower())
    if gender:
        other = language.genders.setdefault(utterance.speaker, gender)
        if other != gender:
            problems.append(
                ("bad_gender", f"'{gender}', but '{other}' in another row of this speaker")
            )
    if not problems:
        language.splits[split].append(utterance)
        language.unknown_speakers += not _value(row, "speaker")
        if not utterance.text or not all(utterance.translations.values()):
            language.kept_empty[split].append(utterance.id)
    language.drops += _drops(row, split, problems)


def _drops(row: ManifestRow, split: str, problems: Problems) -> list[Drop]:
    return [
        Drop(split, row.values["audio"] or "-", reason, f"{row.where}: {why}")
        for reason, why in problems
    ]


def _row_problems(row: ManifestRow, lang: str, split: str, known: Collection[str]) -> Problems:
    """Return the problems of a row alone, without a look at other rows."""
    values = row.values
    problems = [
        ("missing_value", f"no {name}") for name in ("audio", "lang", "split") if not values[name]
    ]
    if lang and lang not in known:
        problems.append(("unknown_language", f"'{lang}'{near_names(lang, known)}"))
    if split == UNKNOWN and values["split"]:
        name = values["split"]
        problems.append(("unknown_split", f"'{name}'{near_names(name, _SPLIT_OF)}"))
    if values["audio"]:
        problems += _audio_problems(values["audio"])
    if split == "train":
        if not one_line(values["text"]):
            problems.append(("empty_text", "no text"))
        problems += [
            ("empty_translation", f"no translation into {code}")
            for code, translation in _translations(row, lang).items()
            if not translation
        ]
    duration = _value(row, "duration")
    if duration and _seconds(duration) is None:
        problems.append(("bad_duration", f"'{duration}' is no number of seconds above 0"))
    gender = _value(row, "gender").lower()
    if gender not in _GENDERS:
        problems.append(("bad_gender", f"'{gender}', expected one of {', '.join(_GENDERS)}"))
    return problems


def _audio_problems(path: str) -> Problems:
    if path != path.strip() or any(c in path for c in "\n\r\t") or path.endswith("|"):
        return [("unsafe_name", f"{path!r}: white space at an end, a line break or a | at the end")]
    try:
        state = os.stat(path)  # noqa: PTH116  (a million calls; Path takes twice as long)
    except (OSError, ValueError):
        return [("missing_file", f"no such file: {path}")]
    if stat.S_ISDIR(state.st_mode):
        return [("is_directory", f"a directory, not a file: {path}")]
    return [] if state.st_size else [("empty_file", f"an empty file: {path}")]


def _utterance(row: ManifestRow, lang: str) -> Utterance:
    clip = _id_part(_value(row, "id"), keep="-")
    speaker = _id_part(_value(row, "speaker")) or clip.replace("-", "_")
    return Utterance(
        id=f"{speaker}-{lang}-{clip}",
        wav=row.values["audio"],
        speaker=speaker,
        lang=lang,
        text=one_line(row.values["text"]),
        translations=_translations(row, lang),
        duration=_seconds(_value(row, "duration")),
    )


def _translations(row: ManifestRow, lang: str) -> dict[str, str]:
    """Return the translations of a row by language, without the spoken language."""
    translations = {
        name.removeprefix(TRANSLATION): one_line(value)
        for name, value in row.values.items()
        if name.startswith(TRANSLATION)
    }
    if "translation" in row.values:
        translations[TARGET] = one_line(row.values["translation"])
    translations.pop(lang, None)  # English speech in a corpus with translations into English
    return translations


def _value(row: ManifestRow, column: str) -> str:
    return row.values.get(column, "").strip()


def _seconds(value: str) -> float | None:
    try:
        seconds = float(value)
    except ValueError:
        return None
    return seconds if 0 < seconds < float("inf") else None


def _id_part(name: str, keep: str = "") -> str:
    """Return `name` with letters, digits and underscores only, for a part of an utterance id.

    A hyphen separates the parts of an id. It sorts before all of these characters, so that ids are
    also sorted by speaker. Different names stay different: a name that is changed or cut gets some
    digits of its hash.
    """
    part = re.sub(rf"[^\w{keep}]+", "_", name)
    if len(part) > _LONGEST or (part != name and not keep):
        part = f"{part[-_LONGEST:]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return part
