"""The rows of a manifest as utterances of each language, or as drops with a reason."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from lors.data.audio_source import file_of, is_command
from lors.data.datadir import TRANSLATION, Utterance, one_line
from lors.data.languages import CODES
from lors.data.manifest_names import SPLIT_OF, split_called
from lors.data.manifest_pieces import Overlaps, Problems, Span, lengths_of_rows, span_of
from lors.data.manifest_records import ManifestRow, Source
from lors.data.manifest_sources import AUDIO_NAME, NearNames
from lors.data.selection import Drop
from lors.data.speakers import GENDERS
from lors.tasks import SPLITS, TARGET

UNKNOWN = "-"
"""The split of a row whose split is missing or unknown."""
_SHOWN = 300  # characters of a path in a message
_LONGEST = 80  # characters of a clip's part of an utterance id, which becomes a file name


@dataclass
class LanguageRows:
    """The rows of one language.

    Attributes:
        splits: split -> its utterances.
        drops: the bad rows, once for each problem.
        rows: split -> number of rows, bad ones included.
        genders: speaker -> ``m`` or ``f``, or None for one with both.
        unknown_genders: other values of ``gender`` -> number of rows.
        kept_empty: split -> ids of utterances of dev and test without text or translation.
        unknown_speakers: number of utterances without a speaker.
    """

    splits: dict[str, list[Utterance]] = field(default_factory=lambda: {s: [] for s in SPLITS})
    drops: list[Drop] = field(default_factory=list)
    rows: Counter[str] = field(default_factory=Counter)
    genders: dict[str, str | None] = field(default_factory=dict)
    unknown_genders: Counter[str] = field(default_factory=Counter)
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
    near = {"lang": NearNames(known), "split": NearNames(SPLIT_OF)}
    rows = [row for row in source.rows if not _is_other(row.values["lang"].strip(), wanted)]
    lengths = lengths_of_rows(rows)
    overlaps = Overlaps()
    has_pieces = any(_value(row, name) for row in rows for name in ("offset", "start", "end"))
    order = {"test": 0, "dev": 1}
    split_of = [split_called(row.values["split"]) or UNKNOWN for row in source.rows]
    first_with: dict[tuple[str, str], tuple[str, str]] = {}
    for index in sorted(range(len(split_of)), key=lambda i: order.get(split_of[i], 2)):
        row, split = source.rows[index], split_of[index]
        lang = row.values["lang"].strip()
        if _is_other(lang, wanted):
            languages[lang].rows[split] += 1
            continue
        span, wrong = span_of(row, lengths)
        problems = _row_problems(row, lang, split, known, near) + wrong
        utterance = _utterance(row, lang, span)
        sound = f"{utterance.wav} {span.start} {span.end}" if has_pieces else utterance.wav
        for what, value in (("id", utterance.id), ("audio", sound)):
            where, other = first_with.setdefault((what, value), (row.where, split))
            if row.values["audio"] and where != row.where:
                reason = f"repeated_{what}" if other == split else f"also_in_{other}"
                problems.append((reason, f"the same {what} as {where}"))
        if has_pieces and not problems:
            if other := overlaps.other_split(utterance.wav, span, split):
                problems.append((f"also_in_{other}", f"a part of it is in {other}"))
            else:
                overlaps.add(utterance.wav, span, split)
        if lang in known:
            _add(languages[lang], row, split, utterance, problems)
        else:
            unplaced += _drops(row, split, problems)
    return dict(languages), unplaced


def _is_other(lang: str, wanted: Collection[str]) -> bool:
    """Return whether a row is of a language that is known and not asked for."""
    return bool(wanted) and lang in CODES and lang not in wanted


def _add(
    language: LanguageRows, row: ManifestRow, split: str, utterance: Utterance, problems: Problems
) -> None:
    """Add a row to its language: as an utterance, or as a drop for each problem."""
    language.rows[split] += 1
    stated = _value(row, "gender").lower()
    gender = GENDERS.get(stated)
    if gender and language.genders.setdefault(utterance.speaker, gender) != gender:
        language.genders[utterance.speaker] = None
    if stated and not gender:
        language.unknown_genders[stated[:40]] += 1
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


def _row_problems(
    row: ManifestRow,
    lang: str,
    split: str,
    known: Collection[str],
    near: Mapping[str, NearNames],
) -> Problems:
    """Return the problems of a row alone, without a look at other rows or at its length."""
    values = row.values
    problems = [
        ("missing_value", f"no {name}")
        for name in ("audio", "lang", "split")
        if not values[name].strip()
    ]
    if lang and lang not in known:
        problems.append(("unknown_language", f"'{lang[:_LONGEST]}'{near['lang'].of(lang)}"))
    if split == UNKNOWN and values["split"].strip():
        name = values["split"]
        problems.append(("unknown_split", f"'{name[:_LONGEST]}'{near['split'].of(name)}"))
    if values["audio"].strip():
        problems += _audio_problems(values["audio"])
    if split == "train":
        if not one_line(values["text"]):
            problems.append(("empty_text", "no text"))
        problems += [
            ("empty_translation", f"no translation into {code}")
            for code, translation in _translations(row, lang).items()
            if not translation
        ]
    return problems


def _audio_problems(path: str) -> Problems:
    if path != path.strip() or any(c in path for c in "\n\r\t") or is_command(path):
        why = "white space at an end, a line break, or a | as of a command"
        return [("unsafe_name", f"{path[:_SHOWN]!r}: {why}")]
    try:
        state = os.stat(file_of(path))  # noqa: PTH116  (a million calls; Path takes twice as long)
    except (OSError, ValueError):
        return [("missing_file", f"no such file: {path[:_SHOWN]}")]
    if stat.S_ISDIR(state.st_mode):
        return [("is_directory", f"a directory, not a file: {path[:_SHOWN]}")]
    if not stat.S_ISREG(state.st_mode):
        return [("not_a_file", f"a pipe or a device, not a file: {path[:_SHOWN]}")]
    return [] if state.st_size else [("empty_file", f"an empty file: {path[:_SHOWN]}")]


def _utterance(row: ManifestRow, lang: str, span: Span) -> Utterance:
    name = _value(row, "id")
    if not name:
        name = _value(row, AUDIO_NAME)
        if span.is_piece:
            name += f"_{round(1000 * span.start):08d}"
    clip = _id_part(name, keep="-")
    speaker = _id_part(_value(row, "speaker")) or clip.replace("-", "_")
    return Utterance(
        id=f"{speaker}-{lang}-{clip}",
        wav=row.values["audio"],
        speaker=speaker,
        lang=lang,
        text=one_line(row.values["text"]),
        translations=_translations(row, lang),
        duration=span.duration,
        piece=span.piece(row.values["audio"]),
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


def _id_part(name: str, keep: str = "") -> str:
    """Return `name` with letters, digits and underscores only, for a part of an utterance id.

    A hyphen separates the parts of an id. It sorts before all of these characters, so that ids are
    also sorted by speaker. A name that is cut or changed gets some digits of its hash, so that
    different names stay different.

    Args:
        name: a name, cut if it is long.
        keep: other characters that stay, for a part whose hyphens cannot be mistaken. With `keep`,
            a name that is changed but not cut gets no hash: two names may become one.
    """
    part = re.sub(rf"[^\w{keep}]+", "_", name)
    if len(part) > _LONGEST or (part != name and not keep):
        part = f"{part[-_LONGEST:]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return part
