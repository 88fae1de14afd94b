"""A corpus of one's own, as Kaldi data directories: every row is used, or listed with a reason.

What is wrong with a row makes it a bad row. With ``strict`` one bad row refuses the corpus, after
all of them have been looked at; without it the bad rows are left out. Either way all are listed in
``dropped.tsv``. What is wrong with the file as a whole (columns, a split without any clip) refuses
it in both cases.

As for CoVoST 2, rows of train need text and translation; dev and test keep rows without, so that
a score is over all of them.
"""

from __future__ import annotations

import difflib
import hashlib
import logging
import os
import re
import stat
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lors.data.datadir import Utterance, write_data_dir
from lors.data.languages import CODES
from lors.data.manifest_sources import TRANSLATION, Row, Source, read_source
from lors.data.selection import overlap, write_drops
from lors.data.tsv import one_line
from lors.errors import LorsError, UsageError
from lors.fileio import write_json
from lors.tasks import SPLITS, TARGET

_SPLIT_OF = {split: split for split in SPLITS} | dict.fromkeys(
    ("validation", "valid", "val"), "dev"
)
_GENDERS = {
    **dict.fromkeys(("m", "male", "male_masculine"), "m"),
    **dict.fromkeys(("f", "female", "female_feminine"), "f"),
    **dict.fromkeys(("", "other", "unknown", "non-binary"), None),
}
_SHOWN = 50  # bad rows spelled out in an error message; all are in dropped.tsv
_LONGEST = 80  # characters of a clip's part of an utterance id, which becomes a file name
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Problem:
    """What is wrong with a row: which, in short, and in words with the place first."""

    lang: str
    split: str
    clip: str
    reason: str
    detail: str


@dataclass
class _Language:
    """What was found of a language; rows counts bad ones too."""

    splits: dict[str, list[Utterance]] = field(default_factory=lambda: {s: [] for s in SPLITS})
    genders: dict[str, str] = field(default_factory=dict)
    rows: Counter = field(default_factory=Counter)
    kept_empty: dict[str, list[str]] = field(default_factory=lambda: {s: [] for s in SPLITS})
    unknown_speakers: int = 0


def prepare_manifest(
    path: str | os.PathLike,
    out: str | os.PathLike,
    langs: Sequence[str] = (),
    strict: bool = True,
    rename: Mapping[str, str] | None = None,
    lang: str | None = None,
) -> list[dict[str, Any]]:
    """Write ``<out>/<lang>/{train,dev,test}``, ``report.json`` and ``dropped.tsv``.

    Args:
        path: a TSV, CSV or JSONL manifest or a folder (:mod:`lors.data.manifest_sources`).
        out: where to write; ``<out>/dropped.tsv`` has the bad rows whose language is not known.
        langs: languages to write; rows of others are counted and left alone. By default all. A
            language that is named here is known, whatever its code.
        strict: whether one bad row refuses the corpus.
        rename: our column name -> the manifest's.
        lang: language of all rows, for a manifest without such a column.

    Returns:
        the reports, one a language, as written to ``report.json``.

    Raises:
        LorsError: the manifest cannot be read; columns are missing; rows are bad (`strict`); a
            split of a language has no clip.
        UsageError: a language is asked for that no row has.
    """
    path, out = Path(path), Path(out)
    source = read_source(path, out / "audio", rename, lang)
    wanted = set(langs)
    known = CODES | wanted
    _check_translations(source, known)
    languages: dict[str, _Language] = defaultdict(_Language)
    problems = [
        Problem("-", "-", "-", reason, f"{where}: {why}") for where, reason, why in source.malformed
    ]
    _Reader(known, wanted, languages, problems).read(source.rows)
    others = {code: sum(languages[code].rows.values()) for code in languages if code not in wanted}
    if wanted:
        _check_wanted(wanted, languages, source.path, bool(problems) and strict)
        for code in others:
            del languages[code]
        problems = [p for p in problems if p.lang in wanted or p.lang == "-"]
    _write_problems(out, languages, problems)
    if problems and strict:
        _refuse(source.path, problems, out)
    _check_splits(languages, source.path, out)
    reports = [
        _write_language(out / code, code, source, languages[code], problems)
        for code in sorted(languages)
    ]
    if others and wanted:
        log.info("rows of languages that were not asked for: %s", _counts(others))
    return reports


def format_reports(reports: Sequence[Mapping[str, Any]]) -> str:
    """The reports of several languages as one table for the terminal."""
    lines = [f"{'lang':7}{'split':7}{'rows':>9}{'clips':>9}{'speakers':>10}{'dropped':>9}  why"]
    for report in reports:
        for split, row in report["splits"].items():
            why = _counts(row["dropped"])
            if row["kept_empty"]:
                why += f"{'; ' if why else ''}kept though empty: {len(row['kept_empty'])}"
            lines.append(
                f"{report['lang']:7}{split:7}{row['rows']:9}{row['clips']:9}{row['speakers']:10}"
                f"{row['drop_rate']:9.2%}  {why}".rstrip()
            )
        if report["dropped_of_no_split"]:
            lines.append(
                f"{report['lang']:7}rows of no known split, see dropped.tsv: "
                f"{_counts(report['dropped_of_no_split'])}"
            )
        if report["unknown_speakers"]:
            lines.append(
                f"{report['lang']:7}{report['unknown_speakers']} clip(s) of unknown speakers, each "
                "counted as a speaker of its own"
            )
        for split, row in report["overlap_with_train"].items():
            lines.append(
                f"{report['lang']:7}{split} shares with train: {row['sentences']} of "
                f"{row['of_sentences']} sentences, {row['speakers']} of {row['of_speakers']} "
                "speakers"
            )
    malformed = reports[0]["malformed_rows"] if reports else {}
    if malformed:
        lines.append(f"rows of no known language, see dropped.tsv: {_counts(malformed)}")
    return "\n".join(lines)


# --- rows ---------------------------------------------------------------------------------------


@dataclass
class _Reader:
    """Sorts rows into utterances by language, and problems."""

    known: frozenset[str] | set[str]
    wanted: set[str]
    languages: dict[str, _Language]
    problems: list[Problem]

    def read(self, rows: Sequence[Row]) -> None:
        # A clip that is listed in several splits must never be trained on: test takes first.
        order = {"test": 0, "dev": 1}
        split_of = [_SPLIT_OF.get(row.values["split"].strip().lower(), "-") for row in rows]
        taken_ids: dict[str, tuple[str, str]] = {}
        taken_audio: dict[str, tuple[str, str]] = {}
        for index in sorted(range(len(rows)), key=lambda i: order.get(split_of[i], 2)):
            row, split = rows[index], split_of[index]
            lang = row.values["lang"].strip()
            if self.wanted and lang in CODES and lang not in self.wanted:
                self.languages[lang].rows[split] += 1
                continue
            utterance, wrong, gender = self._utterance(row, lang, split)
            for taken, key, what in (
                (taken_ids, utterance.id, "id"),
                (taken_audio, utterance.wav, "audio"),
            ):
                where, other = taken.setdefault(key, (row.where, split))
                if row.values["audio"] and where != row.where:
                    reason = f"repeated_{what}" if other == split else f"also_in_{other}"
                    wrong.append((reason, f"the same {what} as {where}"))
            self._file(row, lang, split, utterance, wrong, gender)

    def _utterance(
        self, row: Row, lang: str, split: str
    ) -> tuple[Utterance, list[tuple[str, str]], str | None]:
        """What a row says as an utterance, what is wrong with it, and the speaker's gender."""
        values = row.values
        wrong = [
            ("missing_value", f"no {name}")
            for name in ("audio", "lang", "split")
            if not values[name]
        ]
        if lang and lang not in self.known:
            wrong.append(("unknown_language", f"'{lang}'{_near(lang, self.known)}"))
        if split == "-" and values["split"]:
            wrong.append(
                ("unknown_split", f"'{values['split']}'{_near(values['split'], _SPLIT_OF)}")
            )
        if values["audio"]:
            wrong += _audio_problems(values["audio"])
        translations = {
            name.removeprefix(TRANSLATION): one_line(value)
            for name, value in values.items()
            if name.startswith(TRANSLATION)
        }
        if "translation" in values:
            translations[TARGET] = one_line(values["translation"])
        translations.pop(lang, None)  # an English row in a corpus that is translated into English
        text = one_line(values["text"])
        if split == "train":
            if not text:
                wrong.append(("empty_text", "no text"))
            wrong += [
                ("empty_translation", f"no translation into {code}")
                for code, translation in translations.items()
                if not translation
            ]
        duration = values.get("duration", "").strip()
        seconds = _seconds(duration)
        if duration and seconds is None:
            wrong.append(("bad_duration", f"'{duration}' is no number of seconds above 0"))
        gender = values.get("gender", "").strip().lower()
        if gender not in _GENDERS:
            wrong.append(("bad_gender", f"'{gender}', expected one of {', '.join(_GENDERS)}"))
        clip = _clip_id(row)
        speaker = _word(values.get("speaker", "").strip()) or clip.replace("-", "_")
        return (
            Utterance(
                id=f"{speaker}-{lang}-{clip}",
                wav=values["audio"],
                speaker=speaker,
                lang=lang,
                text=text,
                translations=translations,
                duration=seconds,
            ),
            wrong,
            _GENDERS.get(gender),
        )

    def _file(
        self,
        row: Row,
        lang: str,
        split: str,
        utterance: Utterance,
        wrong: list[tuple[str, str]],
        gender: str | None,
    ) -> None:
        """Put the utterance into its language's split, or what is wrong into the problems."""
        if lang not in self.known:
            lang = "-"
        else:
            found = self.languages[lang]
            found.rows[split] += 1
            if gender and found.genders.setdefault(utterance.speaker, gender) != gender:
                wrong.append(("bad_gender", f"'{gender}', in another row of this speaker not"))
            if not wrong:
                found.splits[split].append(utterance)
                found.unknown_speakers += not row.values.get("speaker", "").strip()
                if not utterance.text or not all(utterance.translations.values()):
                    found.kept_empty[split].append(utterance.id)
        self.problems += [
            Problem(lang, split, row.values["audio"] or "-", reason, f"{row.where}: {why}")
            for reason, why in wrong
        ]


def _audio_problems(path: str) -> list[tuple[str, str]]:
    if path != path.strip() or any(c in path for c in "\n\r\t") or path.endswith("|"):
        return [("unsafe_name", f"{path!r}: white space at an end, a line break or a | at the end")]
    try:
        state = os.stat(path)  # noqa: PTH116  (a million calls; Path takes twice as long)
    except (OSError, ValueError):
        return [("missing_file", f"no such file: {path}")]
    if stat.S_ISDIR(state.st_mode):
        return [("is_directory", f"a directory, not a file: {path}")]
    return [] if state.st_size else [("empty_file", f"an empty file: {path}")]


def _seconds(value: str) -> float | None:
    try:
        seconds = float(value)
    except ValueError:
        return None
    return seconds if 0 < seconds < float("inf") else None


def _clip_id(row: Row) -> str:
    """The clip's part of an utterance id."""
    return _word(row.values.get("id", "").strip(), keep="-")


def _word(name: str, keep: str = "") -> str:
    """`name` with letters, digits and underscores only, so that ids sort by speaker, too.

    A hyphen, which separates the parts of an utterance id, sorts before all of them. Names that
    differ stay different: one that had to be changed or cut gets some digits of its hash.
    """
    word = re.sub(rf"[^\w{keep}]+", "_", name)
    if len(word) > _LONGEST or (word != name and not keep):
        word = f"{word[-_LONGEST:]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return word


def _near(name: str, known: Iterable[str]) -> str:
    """Names that may be meant, as the end of a message; ``de_DE`` may be ``de``."""
    name, known = name.strip().lower(), set(known)
    near = [part for part in re.split("[-_]", name)[:1] if part in known]
    near += difflib.get_close_matches(name, sorted(known - set(near)), n=3, cutoff=0.5)
    return f", near: {', '.join(near)}" if near else ""


# --- the corpus as a whole ----------------------------------------------------------------------


def _check_translations(source: Source, known: Iterable[str]) -> None:
    columns = dict.fromkeys(name for row in source.rows for name in row.values)
    codes = [name.removeprefix(TRANSLATION) for name in columns if name.startswith(TRANSLATION)]
    unknown = [code for code in codes if code not in known]
    if unknown:
        raise LorsError(
            "translations into unknown languages",
            where=source.path,
            got=", ".join(f"{TRANSLATION}{code}{_near(code, known)}" for code in unknown),
        )


def _check_wanted(
    wanted: set[str], languages: Mapping[str, _Language], path: Path, is_refused: bool
) -> None:
    absent = sorted(wanted - {code for code, found in languages.items() if found.rows})
    if absent and not is_refused:
        raise UsageError(
            f"no row of the language(s) {', '.join(absent)}",
            where=f"--langs and {path}",
            expected=f"some of: {', '.join(sorted(languages))}",
            got=", ".join(f"'{code}'{_near(code, languages)}" for code in absent),
        )


def _check_splits(languages: Mapping[str, _Language], path: Path, out: Path) -> None:
    """Refuse languages without train, dev or test; a recipe needs all three."""
    absent = [
        f"{code} {split}: {found.rows[split]} rows, none of them good"
        for code, found in sorted(languages.items())
        for split in SPLITS
        if not found.splits[split]
    ]
    if absent or not languages:
        raise LorsError(
            "splits without a clip",
            where=path,
            expected=f"{', '.join(SPLITS)} of every language (dev may be called validation)",
            got="\n    ".join(["", *absent]) if absent else "no good row at all",
            hint=f"give some speakers of train to the others; bad rows are in {out}/*/dropped.tsv",
        )


def _refuse(path: Path, problems: Sequence[Problem], out: Path) -> None:
    shown = [f"{p.detail} ({p.reason})" for p in sorted(problems, key=_in_file_order)]
    if len(shown) > _SHOWN:
        shown[_SHOWN:] = [f"and {len(shown) - _SHOWN} more"]
    raise LorsError(
        f"{len(problems)} problem(s) with the rows: {_counts(Counter(p.reason for p in problems))}",
        where=path,
        got="\n    ".join(["", *shown]),
        hint=f"mend them (all are listed in {out}/dropped.tsv and {out}/<language>/dropped.tsv), "
        "or leave these rows out with --strict false",
    )


def _in_file_order(problem: Problem) -> list[int | str]:
    """Sorts `line 10` after `line 9`."""
    parts = re.split(r"(\d+)", problem.detail.split(": ")[0])
    return [f"{int(part):012d}" if part.isdigit() else part for part in parts]


def _counts(counter: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(counter.items()))


def _write_problems(out: Path, languages: Iterable[str], problems: Sequence[Problem]) -> None:
    by_lang: dict[str, list[Problem]] = {code: [] for code in languages} | {"-": []}
    for problem in sorted(problems, key=_in_file_order):
        by_lang[problem.lang].append(problem)
    for code, listed in by_lang.items():
        write_drops((out if code == "-" else out / code) / "dropped.tsv", listed)


def _write_language(
    out: Path, lang: str, source: Source, found: _Language, problems: Sequence[Problem]
) -> dict[str, Any]:
    for split, utterances in found.splits.items():
        known = [replace(utt, gender=found.genders.get(utt.speaker)) for utt in utterances]
        write_data_dir(out / split, _with_all_durations(known))
    report = {
        "lang": lang,
        "manifest": str(source.path),
        "malformed_rows": dict(Counter(p.reason for p in problems if p.lang == "-")),
        "dropped_of_no_split": dict(
            Counter(p.reason for p in problems if (p.lang, p.split) == (lang, "-"))
        ),
        "unknown_speakers": found.unknown_speakers,
        "splits": {
            split: _split_report(split, found, [p for p in problems if p.lang == lang])
            for split in SPLITS
        },
        "overlap_with_train": {
            split: overlap(found.splits["train"], found.splits[split]) for split in ("dev", "test")
        },
    }
    write_json(out / "report.json", report)
    return report


def _with_all_durations(utterances: list[Utterance]) -> list[Utterance]:
    """Either all utterances have a duration or none has: utt2dur is a whole file."""
    if all(utterance.duration is not None for utterance in utterances):
        return utterances
    return [replace(utterance, duration=None) for utterance in utterances]


def _split_report(split: str, found: _Language, problems: Sequence[Problem]) -> dict[str, Any]:
    utterances = found.splits[split]
    durations = [utterance.duration for utterance in utterances]
    return {
        "rows": found.rows[split],
        "clips": len(utterances),
        "hours": None if None in durations else round(sum(durations) / 3600, 4),
        "speakers": len({utterance.speaker for utterance in utterances}),
        "drop_rate": 1 - len(utterances) / found.rows[split],
        "dropped": dict(sorted(Counter(p.reason for p in problems if p.split == split).items())),
        "kept_empty": sorted(found.kept_empty[split]),
    }
