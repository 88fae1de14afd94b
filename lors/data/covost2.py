"""CoVoST 2 on Common Voice 4: the official splits as Kaldi data directories.

The split rule is that of ``get_covost_splits.py`` (github.com/facebookresearch/covost): an inner
join of ``covost_v2.<lang>_en.tsv`` with ``validated.tsv`` on the clip's name; train is what is
marked ``train`` or ``train_covost``, dev and test are what is marked exactly so. What the join or
a check takes away is counted and listed, and too large a loss is refused.

Clips without text or translation are dropped from train only: dev and test keep every clip whose
audio is there, so that scores can be compared with other people's.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lors.data.common_voice import (
    Table,
    is_clip_name,
    is_empty,
    one_line,
    read_tsv,
    speaker_id,
    utterance_id,
)
from lors.datadir import Utterance, write_data_dir
from lors.errors import LorsError, unknown_name
from lors.fileio import atomic_write, write_json

TARGET = "en"
SPLITS = ("train", "dev", "test")
_SPLIT_OF = {"train": "train", "train_covost": "train", "dev": "dev", "test": "test"}
_BAD_AUDIO = ("missing_file", "empty_file")


@dataclass(frozen=True)
class Drop:
    """A row that was left out: of which split, which clip, why, and where it stands."""

    split: str
    clip: str
    reason: str
    detail: str


def check_corpus(common_voice: Path, covost2: Path, langs: Sequence[str]) -> None:
    """Check that the files of all `langs` are there before any work starts.

    Raises:
        UsageError: a language that neither corpus has.
        LorsError: a folder or files are missing (all are listed).
    """
    for name, folder in (("Common Voice", common_voice), ("CoVoST 2", covost2)):
        if not folder.is_dir():
            raise LorsError(
                f"the {name} folder does not exist",
                where=folder,
                hint="unpack the corpus there, or give the folder where you have it",
            )
    speech = {file.parent.name for file in common_voice.glob("*/validated.tsv")}
    suffix = f"_{TARGET}.tsv"
    translated = {
        file.name.removeprefix("covost_v2.").removesuffix(suffix)
        for file in covost2.glob(f"covost_v2.*{suffix}")
    }
    missing = []
    for lang in langs:
        if lang not in speech | translated:
            raise unknown_name(
                "language", lang, speech & translated, where=f"{common_voice} and {covost2}"
            )
        missing += [
            str(file)
            for file in (
                common_voice / lang / "validated.tsv",
                common_voice / lang / "clips",
                _covost_tsv(covost2, lang),
            )
            if not file.exists()
        ]
    if missing:
        raise LorsError(
            f"{len(missing)} file(s) or folder(s) of the corpus are missing",
            got="\n    ".join(["", *missing]),
            hint="unpack the archives of these languages, or leave the languages out of --langs",
        )


def prepare_language(
    common_voice: Path,
    covost2: Path,
    lang: str,
    out: Path,
    min_join: float = 0.95,
    max_bad_audio: float = 0.1,
) -> dict[str, Any]:
    """Write ``out/{train,dev,test}``, ``out/dropped.tsv`` and ``out/report.json`` of a language.

    Args:
        common_voice: folder of the release, with ``<lang>/validated.tsv`` and ``<lang>/clips``.
        covost2: folder with ``covost_v2.<lang>_en.tsv``.
        lang: Common Voice's language code.
        out: where to write.
        min_join: least share (0 to 1) of a split's rows that must be in ``validated.tsv``.
        max_bad_audio: largest share (0 to 1) of a split's joined rows with no or empty audio.

    Returns:
        the report, as written to ``report.json``.

    Raises:
        LorsError: a table cannot be read; more is lost than the limits allow (the list of what
            was dropped is written all the same); a split has no clip left.
    """
    validated = read_tsv(common_voice / lang / "validated.tsv", ("path", "sentence", "client_id"))
    covost = read_tsv(_covost_tsv(covost2, lang), ("path", "translation", "split"))
    clips: dict[str, tuple[str, str]] = {}
    for name, sentence, client in validated.rows:
        clips.setdefault(name, (sentence, client))
    _check_join(covost, clips, min_join)

    folder = (common_voice / lang / "clips").resolve()
    splits, drops, kept_empty = _select(covost, clips, folder, lang)
    for table in (validated, covost):
        drops += [
            Drop("-", "-", "malformed_row", f"{table.path.name} line {line}: {why}")
            for line, why in table.malformed
        ]
    _write_drops(out / "dropped.tsv", drops)
    report = {
        "lang": lang,
        "common_voice": str(common_voice),
        "covost2": str(covost2),
        "malformed_rows": {t.path.name: len(t.malformed) for t in (validated, covost)},
        "repeated_in_validated": len(validated.rows) - len(clips),
        "rows_of_other_splits": dict(
            Counter(row[2] for row in covost.rows if row[2] not in _SPLIT_OF)
        ),
        "splits": {
            split: _split_report(split, covost, clips, splits[split], drops, kept_empty[split])
            for split in SPLITS
        },
        "overlap_with_train": {
            split: _overlap(splits["train"], splits[split]) for split in ("dev", "test")
        },
    }
    _check_losses(report, max_bad_audio, out / "dropped.tsv")
    for split in SPLITS:
        write_data_dir(out / split, splits[split])
    write_json(out / "report.json", report)
    return report


def format_reports(reports: Sequence[Mapping[str, Any]]) -> str:
    """The reports of several languages as one table for the terminal."""
    lines = [
        f"{'lang':7}{'split':7}{'rows':>9}{'joined':>9}{'clips':>9}{'speakers':>10}"
        f"{'dropped':>9}  why"
    ]
    for report in reports:
        for split, row in report["splits"].items():
            why = ", ".join(f"{count} {reason}" for reason, count in row["dropped"].items())
            if row["kept_empty"]:
                why += f"{'; ' if why else ''}kept though empty: {len(row['kept_empty'])}"
            lines.append(
                f"{report['lang']:7}{split:7}{row['rows']:9}{row['join_rate']:9.2%}"
                f"{row['clips']:9}{row['speakers']:10}{row['drop_rate']:9.2%}  {why}".rstrip()
            )
        malformed = sum(report["malformed_rows"].values())
        if malformed:
            lines.append(f"{report['lang']:7}{malformed} malformed row(s), see dropped.tsv")
        for split, row in report["overlap_with_train"].items():
            lines.append(
                f"{report['lang']:7}{split} shares with train: {row['sentences']} of "
                f"{row['of_sentences']} sentences, {row['speakers']} of {row['of_speakers']} "
                "speakers"
            )
    return "\n".join(lines)


def _covost_tsv(covost2: Path, lang: str) -> Path:
    return covost2 / f"covost_v2.{lang}_{TARGET}.tsv"


def _check_join(covost: Table, clips: Mapping[str, Any], min_join: float) -> None:
    """Refuse a release on which too little of CoVoST 2 can be found."""
    rows, joined = Counter(), Counter()
    for name, _, split in covost.rows:
        target = _SPLIT_OF.get(split)
        rows[target] += 1
        joined[target] += name in clips
    absent = [split for split in SPLITS if not rows[split]]
    if absent:
        raise LorsError(
            f"no row of the split(s) {', '.join(absent)}",
            where=covost.path,
            got=f"{len(covost.rows)} readable and {len(covost.malformed)} malformed row(s)",
            hint="the file is incomplete: fetch and unpack its archive again",
        )
    if len(covost.malformed) > (1 - min_join) * (len(covost.rows) + len(covost.malformed)):
        first, why = covost.malformed[0]
        raise LorsError(
            f"{len(covost.malformed)} malformed rows, {len(covost.rows)} good ones",
            where=covost.path,
            got=f"line {first}: {why}",
        )
    if any(joined[split] < min_join * rows[split] for split in SPLITS):
        raise LorsError(
            "too few of CoVoST 2's clips are in this Common Voice release",
            where=covost.path,
            expected=f"at least {min_join:.0%} of each split's rows in validated.tsv",
            got=", ".join(
                f"{split} {joined[split]} of {rows[split]} ({joined[split] / rows[split]:.1%})"
                for split in SPLITS
            ),
            hint="CoVoST 2 is made for Common Voice 4 (cv-corpus-4-2019-12-10); "
            "--min_join lowers the limit if you know that the loss is right",
        )


def _select(
    covost: Table, clips: Mapping[str, tuple[str, str]], folder: Path, lang: str
) -> tuple[dict[str, list[Utterance]], list[Drop], dict[str, list[str]]]:
    """Sort the rows into splits, drops, and the empty ones that dev and test keep (by clip)."""
    rows: dict[str, list[tuple[str, str, int]]] = {split: [] for split in SPLITS}
    for (name, translation, mark), line in zip(covost.rows, covost.lines, strict=True):
        if mark in _SPLIT_OF:
            rows[_SPLIT_OF[mark]].append((name, translation, line))
    splits: dict[str, list[Utterance]] = {split: [] for split in SPLITS}
    kept_empty: dict[str, list[str]] = {split: [] for split in SPLITS}
    drops: list[Drop] = []
    taken: dict[str, str] = {}
    client_of: dict[str, str] = {}
    # A clip listed in several splits must never be trained on: the test set takes first.
    for split in reversed(SPLITS):
        for name, translation, line in rows[split]:
            sentence, client = clips.get(name, ("", ""))
            wav = f"{folder}/{name}"
            empty = _what_is_empty(sentence, translation)
            if not is_clip_name(name):
                reason = "unsafe_name"
            elif name not in clips:
                reason = "not_in_validated"
            elif name in taken:
                reason = "repeated_row" if taken[name] == split else f"also_in_{taken[name]}"
            elif split == "train" and empty:
                reason = empty
            else:
                reason = _audio_problem(wav)
            if reason:
                drops.append(Drop(split, name, reason, f"{covost.path.name} line {line}"))
                continue
            taken[name] = split
            if empty:
                kept_empty[split].append(name)
            # A clip whose speaker is not known counts as a speaker of its own.
            speaker = _new_speaker(client or name, client_of)
            splits[split].append(_utterance(name, wav, speaker, lang, sentence, translation))
    return splits, drops, kept_empty


def _utterance(
    name: str, wav: str, speaker: str, lang: str, sentence: str, translation: str
) -> Utterance:
    return Utterance(
        id=utterance_id(speaker, lang, name),
        wav=wav,
        speaker=speaker,
        lang=lang,
        text="" if is_empty(sentence) else one_line(sentence),
        translations={TARGET: "" if is_empty(translation) else one_line(translation)},
    )


def _what_is_empty(sentence: str, translation: str) -> str:
    if is_empty(sentence):
        return "empty_text"
    return "empty_translation" if is_empty(translation) else ""


def _audio_problem(wav: str) -> str:
    try:
        size = os.stat(wav).st_size  # noqa: PTH116  (a million calls; Path takes twice as long)
    except OSError:
        return "missing_file"
    return "" if size else "empty_file"


def _new_speaker(client: str, client_of: dict[str, str]) -> str:
    speaker = speaker_id(client)
    if client_of.setdefault(speaker, client) != client:
        raise LorsError(
            f"two clients share the speaker id {speaker}",
            got=f"{client_of[speaker]} and {client}",
            hint="make SPEAKER_DIGITS in lors/data/common_voice.py larger",
        )
    return speaker


def _split_report(
    split: str,
    covost: Table,
    clips: Mapping[str, Any],
    utterances: list[Utterance],
    drops: list[Drop],
    kept_empty: list[str],
) -> dict[str, Any]:
    names = [row[0] for row in covost.rows if _SPLIT_OF.get(row[2]) == split]
    joined = sum(name in clips for name in names)
    return {
        "rows": len(names),
        "joined": joined,
        "join_rate": joined / len(names),
        "clips": len(utterances),
        "speakers": len({utterance.speaker for utterance in utterances}),
        "drop_rate": 1 - len(utterances) / len(names),
        "dropped": dict(sorted(Counter(d.reason for d in drops if d.split == split).items())),
        "kept_empty": sorted(kept_empty),
    }


def _overlap(train: list[Utterance], other: list[Utterance]) -> dict[str, int]:
    """How many different sentences and speakers of `other` are in `train` too."""
    sentences = {utterance.text for utterance in other}
    speakers = {utterance.speaker for utterance in other}
    return {
        "sentences": len(sentences & {utterance.text for utterance in train}),
        "of_sentences": len(sentences),
        "speakers": len(speakers & {utterance.speaker for utterance in train}),
        "of_speakers": len(speakers),
    }


def _check_losses(report: Mapping[str, Any], max_bad_audio: float, listed_in: Path) -> None:
    for split, row in report["splits"].items():
        bad = sum(row["dropped"].get(reason, 0) for reason in _BAD_AUDIO)
        if bad > max_bad_audio * row["joined"]:
            raise LorsError(
                f"{report['lang']} {split}: {bad} of {row['joined']} clips have no audio file or "
                "an empty one",
                where=listed_in,
                expected=f"at most {max_bad_audio:.0%}",
                hint="is the archive unpacked completely? "
                "--max_bad_audio raises the limit if you know that the loss is right",
            )
        if not row["clips"]:
            raise LorsError(
                f"{report['lang']} {split}: no clip is left",
                where=listed_in,
                got=", ".join(f"{count} {why}" for why, count in row["dropped"].items()),
            )


def _write_drops(path: Path, drops: list[Drop]) -> None:
    with atomic_write(path) as handle:
        handle.write("split\tclip\treason\tdetail\n")
        for drop in sorted(drops, key=lambda d: (d.split, d.clip, d.detail)):
            handle.write(
                f"{drop.split}\t{one_line(drop.clip)}\t{drop.reason}\t{one_line(drop.detail)}\n"
            )
