"""Rows of a data directory of Kaldi or ESPnet: one for each utterance.

A directory may lie in ``data/`` (with ``segments``) or in ``dump/raw`` of ESPnet, whose ``wav.scp``
names FLAC or WAV files or places in ark files. Translations are in ``text.<language>``, or as in
the recipes of ESPnet for translation in ``text.<case>.<language>``; the language of each utterance
in ``utt2lang``. ``spk2utt`` is not read: it follows from ``utt2spk``.
"""

from __future__ import annotations

import filecmp
import logging
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from lors.data.audio_source import ark_place, folder_of, is_command
from lors.data.datadir import TRANSLATION, scan_lines
from lors.data.datadir_problems import repeated_ids
from lors.data.languages import CODES
from lors.data.manifest_records import Record, Source
from lors.data.pieces import SEGMENTS, Piece, is_piece, seconds_text
from lors.errors import LorsError

_TEXT = re.compile(r"text\.(?:(tc|lc|tc\.rm|lc\.rm)\.)?([\w-]+)")
_CASES = ("tc", "", "lc", "tc.rm", "lc.rm")
"""Cases of ESPnet, the best first: true case, none named, lower case, without punctuation."""
_PROMPT = re.compile(r"<[^<>\s]+><(?:asr|st_\w+)>")
_MISSING = {
    "utt2spk": "no_speaker",
    "wav.scp": "no_audio",
    SEGMENTS: "no_audio",
    "text": "no_text",
    "utt2lang": "no_language",
}
"""File that lacks an utterance -> the reason in one word; other files have translations."""
_SHOWN = 200  # characters of a value in a message
log = logging.getLogger(__name__)

Values = dict[str, str]
"""Id -> value, one file of the directory."""


def is_kaldi_dir(path: Path) -> bool:
    """Return whether a folder is a data directory, possibly incomplete or one of features."""
    return any((path / name).is_file() for name in ("wav.scp", "feats.scp", "utt2spk"))


def kaldi_records(source: Source, lang: str, rename: Mapping[str, str]) -> Iterator[Record]:
    """Yield the utterances of a data directory; list in ``malformed`` those that are incomplete.

    Args:
        source: its ``path`` is the directory.
        lang: language of all utterances, if it is known.
        rename: ``text`` or ``text.<language>`` -> the file to read in its place.

    Raises:
        LorsError: the directory lacks a file or has features in place of sound.
    """
    path = source.path
    texts = _text_files(path, lang, rename)
    _check_files(path, lang, texts, rename)
    names = [name for name in ("utt2spk", "wav.scp", SEGMENTS, "utt2lang", "utt2dur", "spk2gender")
             if (path / name).is_file()]  # fmt: skip
    files = {name: _read(source, name) for name in names}
    files |= {column: _read(source, file) for column, file in texts.items()}
    folder = folder_of(files["wav.scp"].values(), path)
    audio = _sounds(source, files, folder)
    by_other_ids = {"utt2dur", "spk2gender"} | ({"wav.scp"} if SEGMENTS in files else set())
    needed = [name for name in files if name not in by_other_ids]
    for key in sorted(set().union(*(files[name] for name in needed))):
        where = f"{path} {key}"
        missing = [name for name in needed if key not in files[name]]
        source.malformed += [
            (where, _MISSING.get(name, "no_translation"), f"no line in {texts.get(name, name)}")
            for name in missing
        ]
        prompts = [name for name in texts if _PROMPT.match(files[name].get(key, ""))]
        source.malformed += [
            (where, "prompt_in_text", f"{texts[name]} begins with tokens of a model")
            for name in prompts
        ]
        speaker = files["utt2spk"].get(key, "-")
        if speaker.split() != [speaker]:
            why = f"the speaker {speaker[:_SHOWN]!r} is not one word"
            source.malformed.append((where, "no_speaker", why))
        elif not missing and not prompts and key in audio:
            yield where, _row(key, files, audio[key])


def _row(key: str, files: Mapping[str, Values], audio: Values) -> Values:
    """Return the values of a complete utterance by column."""
    speaker = files["utt2spk"][key]
    values = {"id": key.removeprefix(f"{speaker}-") or key, "speaker": speaker, **audio}
    values |= {name: file[key] for name, file in files.items() if name.startswith("text")}
    for column, name, of in (
        ("lang", "utt2lang", key),
        ("duration", "utt2dur", key),
        ("gender", "spk2gender", speaker),
    ):
        if name in files:
            values[column] = files[name].get(of, "")
    return values


def _text_files(path: Path, lang: str, rename: Mapping[str, str]) -> dict[str, str]:
    """Return ``text`` and ``text.<language>`` -> the file that has these texts."""
    by_language: dict[str, dict[str, str]] = defaultdict(dict)
    others = []
    for file in sorted(path.glob(TRANSLATION + "*")):
        found = _TEXT.fullmatch(file.name)
        if found and found[2] in CODES | {lang}:
            by_language[found[2]][found[1] or ""] = file.name
        else:
            others.append(file.name)
    best = {
        code: next(files[case] for case in _CASES if case in files)
        for code, files in by_language.items()
    }
    chosen = {"text": "text"} if (path / "text").is_file() else {}
    if lang in best:  # the transcript in another case
        chosen.setdefault("text", best.pop(lang))
    chosen |= {TRANSLATION + code: name for code, name in best.items()}
    chosen |= {ours: theirs for ours, theirs in rename.items() if ours.startswith("text")}
    unused = sorted({*others, *(n for files in by_language.values() for n in files.values())})
    unused = [name for name in unused if name not in chosen.values()]
    if unused:
        log.info("%s: texts that are not used: %s", path, ", ".join(unused))
    return chosen


def _check_files(
    path: Path, lang: str, texts: Mapping[str, str], rename: Mapping[str, str]
) -> None:
    """Check that the files are there and that the directory has sound."""
    problems = [
        f"--rename {ours}={theirs}: a data directory has no columns, only files text.*"
        for ours, theirs in rename.items()
        if not ours.startswith("text")
    ]
    wanted = ["utt2spk", "wav.scp", *texts.values()]
    problems += [f"no file {name}" for name in wanted if not (path / name).is_file()]
    if "text" not in texts:
        problems.append("no file text")
    elif lang and not problems:
        # Recipes for translation of speech without transcripts have the translation in both.
        problems += [
            f"text is the same as {name}: a translation, not the transcript"
            for column, name in texts.items()
            if column != "text" and filecmp.cmp(path / texts["text"], path / name, shallow=False)
        ]
    kind = path / "feats_type"
    if kind.is_file() and not (stated := kind.read_bytes()[:_SHOWN].strip()).startswith(b"raw"):
        problems.append(f"feats_type is {stated.decode(errors='replace')!r}: features, not sound")
    elif (path / "feats.scp").is_file() and not (path / "wav.scp").is_file():
        problems.append("feats.scp: features, not sound")
    if problems:
        raise LorsError(
            "a data directory that cannot be used",
            where=path,
            expected="wav.scp, utt2spk and text; ESPnet's dump/raw has them",
            got=problems,
            hint="name the files of texts with --rename text=text.tc.de text.en=text.tc.en; "
            "features need the directory that they were made from",
        )


def _read(source: Source, name: str) -> Values:
    """Read a file of the directory; list lines that cannot be read, and repeated ids."""
    lines, problems = scan_lines(source.path / name)
    for problem in [*problems, *(f"{name}: {why}" for why in repeated_ids(lines))]:
        place, _, why = problem.partition(": ")
        source.malformed.append((f"{source.path}/{place}", "bad_line", why))
    return dict(lines)


def _sounds(source: Source, files: Mapping[str, Values], folder: Path) -> dict[str, Values]:
    """Return for each utterance ``audio`` and, for a piece of a recording, ``start`` and ``end``.

    Utterances without sound that can be used are left out, and those with a wrong value are listed.
    """
    recordings = {}
    for key, value in files["wav.scp"].items():
        if not value or is_command(value):
            why = f"{value[:_SHOWN]!r}: LoRS runs no command; write its output to a file first"
            reason = "command" if value else "no_audio"
            source.malformed.append((f"{source.path} {key}", reason, why if value else "no value"))
        else:
            recordings[key] = str(folder / value)  # an absolute path stays as it is
    _remove_cut_short(source, recordings)
    if SEGMENTS not in files:
        return {key: {"audio": value} for key, value in recordings.items()}
    sounds = {}
    for key, value in files[SEGMENTS].items():
        if not is_piece(value):
            why = f"{value[:_SHOWN]!r} is not <recording> <start> <end> with start < end"
            source.malformed.append((f"{source.path} {key}", "bad_segment", why))
            continue
        piece = Piece.parse(value)
        if piece.recording not in recordings:
            has_line = piece.recording in files["wav.scp"]
            why = "cannot be used" if has_line else "has no line in wav.scp"
            problem = f"its recording {piece.recording} {why}"
            source.malformed.append((f"{source.path} {key}", "no_audio", problem))
            continue
        end = "" if piece.end is None else seconds_text(piece.end)
        sounds[key] = {"audio": recordings[piece.recording], "end": end}
        sounds[key]["start"] = seconds_text(piece.start)
    used = {value.split()[0] for value in files[SEGMENTS].values() if value}
    if unused := recordings.keys() - used:
        log.info("%s: %d recording(s) of wav.scp have no segment", source.path, len(unused))
    return sounds


def _remove_cut_short(source: Source, recordings: Values) -> None:
    """Remove the utterances that lie behind the end of a shorter ark file, and list them.

    Only the end of an ark file can be missing: its last utterance is decoded.
    """
    places: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for key, value in recordings.items():
        if place := ark_place(value):
            places[place[0]].append((place[1], key))
    for ark, found in places.items():
        size = Path(ark).stat().st_size if Path(ark).is_file() else None
        if size is None:
            continue  # the checks of the rows list each
        inside = [place for place in found if place[0] < size]
        bad = {key: f"it ends at byte {size}" for offset, key in found if offset >= size}
        if inside and (why := _why_undecodable(recordings[max(inside)[1]])):
            bad[max(inside)[1]] = why
        for key, why in bad.items():
            problem = f"{recordings.pop(key)}: {why}"
            source.malformed.append((f"{source.path} {key}", "cut_short", problem))


def _why_undecodable(sound: str) -> str:
    from lors.data.sound import SoundError, read_clip  # the audio libraries take long to import

    try:
        read_clip(sound)
    except SoundError as error:
        return str(error.got)
    return ""
