"""Where the rows of a corpus of one's own come from: a table, a ``datasets`` folder, FLEURS.

- A TSV, CSV or JSONL manifest, UTF-8, with or without a byte order mark, lines ending with LF or
  CRLF. TSV and CSV begin with a line of column names. In TSV nothing is quoted or escaped; in CSV
  a value may stand in double quotes, a double quote in it twice. A row is one line.
- A folder that Hugging Face's ``datasets`` wrote with ``save_to_disk``: ``dataset_dict.json`` names
  the splits, each a folder with ``state.json``, which names the Arrow files, and
  ``dataset_info.json``, which has the names of class labels.
- A folder like FLEURS: ``<language>/{train,dev,test}.tsv`` without a line of names, the clips in
  ``<language>/audio/<split>``. Where there is English (``en_us``), a sentence's id leads to its
  translation.
"""

from __future__ import annotations

import csv
import difflib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lors.data.languages import from_fleurs
from lors.errors import LorsError, UsageError
from lors.fileio import atomic_write, read_json
from lors.tasks import TARGET

REQUIRED = ("audio", "lang", "text", "split")
OPTIONAL = ("id", "speaker", "translation", "duration", "gender")
TRANSLATION = "text."
"""What the name of a column with translations into another language begins with."""
_FLEURS_COLUMNS = ("id", "file", "text", "normalised", "characters", "samples", "gender")
_FLEURS_RATE = 16_000  # Hz


@dataclass(frozen=True)
class Row:
    """One row: where it stands, for messages, and column -> value."""

    where: str
    values: Mapping[str, str]


@dataclass
class Source:
    """The rows of a corpus.

    Attributes:
        path: what was read.
        rows: all that could be read.
        malformed: where and why a row could not be, and the reason's short name.
    """

    path: Path
    rows: list[Row] = field(default_factory=list)
    malformed: list[tuple[str, str, str]] = field(default_factory=list)


def read_source(
    path: Path, audio_dir: Path, rename: Mapping[str, str] | None = None, lang: str | None = None
) -> Source:
    """Read a manifest or a folder.

    Audio paths come back absolute. A row without an id gets one from the end of its path; in a
    datasets folder it is split and number, unless `rename` says which column has ids.

    Args:
        path: the manifest or folder.
        audio_dir: receives the clips that are inside of Arrow files.
        rename: column of :data:`REQUIRED` or :data:`OPTIONAL` -> its name in the manifest.
        lang: language of all rows, where there is no such column.

    Raises:
        LorsError: it cannot be read at all; columns are missing or unknown (all are listed, with
            near matches).
        UsageError: it is no kind of manifest that is known.
    """
    rename = dict(rename or {})
    if not path.exists():
        raise LorsError("manifest not found", where=path)
    source = Source(path)
    if path.is_dir():
        if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
            records, folder = _datasets_records(path, audio_dir, rename), path
        elif any(path.glob("*/*.tsv")):
            _read_fleurs(source)
            return source
        else:
            raise LorsError(
                "not a folder of a known kind",
                where=path,
                expected="what datasets' save_to_disk writes (dataset_dict.json or state.json), "
                "or <language>/{train,dev,test}.tsv and <language>/audio as in FLEURS",
            )
    else:
        readers = {".tsv": _table_records, ".csv": _table_records, ".jsonl": _json_records}
        if path.suffix not in readers:
            raise UsageError(
                "not a manifest of a known kind",
                where=path,
                expected=f"a name that ends with {', '.join(readers)}, or a folder",
            )
        records, folder = readers[path.suffix](source), path.parent
    _collect(source, records, folder.resolve(), rename, lang)
    return source


def _collect(
    source: Source,
    records: Iterable[tuple[str, dict[str, str]]],
    folder: Path,
    rename: Mapping[str, str],
    lang: str | None,
) -> None:
    """Fill `source` with rows whose columns have LoRS's names."""
    records = list(records)
    found = list(dict.fromkeys(name for _, values in records for name in values))
    given = {"lang": lang} if lang else {}
    if not records:
        _refuse_if_malformed(source, "no row that can be read")
        raise LorsError("no row", where=source.path)
    _check_columns(source.path, found, rename, given)
    to_ours = {theirs: ours for ours, theirs in rename.items()}
    # Objects of JSONL may lack a key that others have.
    nothing = dict.fromkeys([to_ours.get(name, name) for name in found], "")
    for where, values in records:
        named = {to_ours.get(name, name): value for name, value in values.items()}
        ours = {**nothing, **given, **named}
        if ours.get("audio"):
            if not ours.get("id"):
                ours["id"] = "_".join(Path(ours["audio"]).with_suffix("").parts[-3:])
            ours["audio"] = str(folder / ours["audio"])  # an absolute path stays as it is
        source.rows.append(Row(where, ours))


def _check_columns(
    path: Path, found: list[str], rename: Mapping[str, str], given: Mapping[str, str]
) -> None:
    """Refuse columns that are missing, or so near to a known name that they may be meant by it."""
    problems = [
        f"--rename {ours}={theirs}: there is no column '{theirs}'{_near(theirs, found)}"
        for ours, theirs in rename.items()
        if theirs not in found
    ]
    present = (set(found) | set(rename) | set(given)) - set(rename.values())
    free = [name for name in found if name not in (*REQUIRED, *OPTIONAL, *rename.values())]
    missing = [name for name in REQUIRED if name not in present]
    problems += [f"no column '{name}'{_near(name, free)}" for name in missing]
    for name in free:
        meant = difflib.get_close_matches(name.lower(), OPTIONAL, n=1, cutoff=0.8)
        if len(name) > 3 and meant and meant[0] not in present:
            problems.append(f"unknown column '{name}' (is '{meant[0]}' meant?)")
    if "translation" in present and TRANSLATION + TARGET in present:
        problems.append(f"'translation' and '{TRANSLATION}{TARGET}' mean the same")
    if problems:
        raise LorsError(
            f"{len(problems)} problem(s) with the columns",
            where=path,
            expected=f"{', '.join(REQUIRED)}; also known: {', '.join(OPTIONAL)}, "
            f"{TRANSLATION}<language>",
            got="\n    ".join(["", *problems, f"the columns are: {', '.join(found)}"]),
            hint="rename them in the file, or name them: --rename text=sentence; a corpus of one "
            "language without such a column: --lang de",
        )


def _near(name: str, names: Iterable[str]) -> str:
    lower = {candidate.lower(): candidate for candidate in names}
    near = difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.6)
    return f" (near: {', '.join(lower[match] for match in near)})" if near else ""


# --- tables -------------------------------------------------------------------------------------


def _decoded_lines(source: Source) -> Iterator[tuple[str, str]]:
    """Where each line stands and the line; those that are not UTF-8 become malformed rows."""
    with source.path.open("rb") as handle:
        for number, raw in enumerate(handle, 1):
            where = f"{source.path.name} line {number}"
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                why = f"not UTF-8: byte 0x{raw[error.start]:02x}"
                source.malformed.append((where, "not_utf8", why))
                continue
            if line.strip():
                yield where, line


def _table_records(source: Source) -> Iterator[tuple[str, dict[str, str]]]:
    split = _split_csv if source.path.suffix == ".csv" else _split_tsv
    names: list[str] = []
    for where, line in _decoded_lines(source):
        try:
            values = split(line)
        except csv.Error as error:
            source.malformed.append((where, "bad_quotes", f"{error} (a value is one line)"))
            continue
        if not names:
            _refuse_if_malformed(source, "the line of column names cannot be read")
            names = [name.strip() for name in values]
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise LorsError(
                    "column names appear twice", where=source.path, got=", ".join(twice)
                )
        elif len(values) == len(names):
            yield where, dict(zip(names, values, strict=True))
        else:
            why = f"{len(values)} fields instead of {len(names)}"
            if len(values) > len(names):
                unit = "comma without quotes" if split is _split_csv else "tab"
                why += f": is there a {unit} inside of a sentence?"
            source.malformed.append((where, "wrong_fields", why))


def _refuse_if_malformed(source: Source, what: str) -> None:
    if source.malformed:
        where, _, why = source.malformed[0]
        hint = "save the file as UTF-8, without changing its name" if "UTF-8" in why else None
        raise LorsError(what, where=source.path, got=f"{where}: {why}", hint=hint)


def _split_tsv(line: str) -> list[str]:
    return line.split("\t")


def _split_csv(line: str) -> list[str]:
    # One line at a time: a lone quote spoils its own row and swallows no other.
    return next(csv.reader([line], strict=True)) if '"' in line else line.split(",")


def _json_records(source: Source) -> Iterator[tuple[str, dict[str, str]]]:
    for where, line in _decoded_lines(source):
        try:
            record = json.loads(line)
        except ValueError as error:
            source.malformed.append((where, "bad_json", str(error)))
            continue
        if isinstance(record, dict):
            translations = record.pop("translations", None)
            if isinstance(translations, dict):
                record |= {TRANSLATION + code: value for code, value in translations.items()}
            elif translations is not None:
                record["translations"] = translations
        scalars = (str, int, float, type(None))
        if not isinstance(record, dict):
            source.malformed.append((where, "bad_json", "not an object {...}"))
        elif wrong := [n for n, v in record.items() if not isinstance(v, scalars)]:
            why = f"neither text nor a number: {', '.join(wrong)}"
            source.malformed.append((where, "bad_json", why))
        else:
            yield where, {name: _as_text(value) for name, value in record.items()}


def _as_text(value: Any) -> str:
    return "" if value is None else str(value)


# --- Hugging Face datasets ----------------------------------------------------------------------


def _datasets_records(
    path: Path, audio_dir: Path, rename: Mapping[str, str]
) -> Iterator[tuple[str, dict[str, str]]]:
    try:
        import pyarrow
    except ImportError:
        raise LorsError(
            "a datasets folder is made of Arrow files, which need pyarrow",
            where=path,
            hint="pip install pyarrow; or write a manifest: "
            "for split, part in dataset.items(): part.to_json(...) with paths of audio files",
        ) from None
    index = path / "dataset_dict.json"
    splits = read_json(index)["splits"] if index.exists() else [""]
    audio_column = rename.get("audio", "audio")
    for split in splits:
        folder = path / split
        labels = _class_labels(folder / "dataset_info.json")
        number = itertools.count()
        for name in _arrow_files(folder):
            try:
                with pyarrow.memory_map(str(name)) as file, pyarrow.ipc.open_stream(file) as stream:
                    batches = list(stream)
            except (OSError, pyarrow.ArrowInvalid) as error:
                raise LorsError("not an Arrow file", where=name, got=str(error)) from None
            for record in (record for batch in batches for record in batch.to_pylist()):
                row = next(number)
                values = {"split": split} if split else {}
                for column, value in record.items():
                    if column == audio_column and isinstance(value, dict):
                        place = audio_dir / (split or "clips") / f"{row:08d}"
                        value = _extracted(value, place)
                    elif column in labels and isinstance(value, int):
                        value = labels[column][value] if value >= 0 else ""
                    if isinstance(value, dict | list | bytes):
                        continue  # features, word lists and the like: no column that is known
                    values[column] = _as_text(value)
                if "id" not in rename:  # what datasets call so is often the sentence's
                    values["id"] = f"{split or 'clip'}_{row:08d}"
                yield f"{folder.name} row {row}", values


def _arrow_files(folder: Path) -> list[Path]:
    state = read_json(folder / "state.json")
    try:
        return [folder / file["filename"] for file in state["_data_files"]]
    except (KeyError, TypeError):
        raise LorsError(
            "no list of Arrow files", where=folder / "state.json", expected="_data_files"
        ) from None


def _class_labels(path: Path) -> dict[str, list[str]]:
    features = (read_json(path).get("features") or {}) if path.exists() else {}
    return {
        name: feature["names"]
        for name, feature in features.items()
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
    }


def _extracted(audio: Mapping[str, Any], place: Path) -> str:
    """Path of a clip of an Arrow file; one that is inside of it is written to `place`."""
    content, name = audio.get("bytes"), audio.get("path") or ""
    if content is None:
        return name
    target = place.with_suffix(Path(name).suffix or ".audio").absolute()
    if not target.is_file() or target.stat().st_size != len(content):
        with atomic_write(target, "wb") as handle:
            handle.write(content)
    return str(target)


# --- FLEURS -------------------------------------------------------------------------------------


def _read_fleurs(source: Source) -> None:
    tables = {
        file: list(_fleurs_rows(source, file)) for file in sorted(source.path.glob("*/*.tsv"))
    }
    english = {
        row["id"]: row["text"]
        for file, rows in tables.items()
        if from_fleurs(file.parent.name) == TARGET
        for _, row in rows
    }
    for file, rows in tables.items():
        lang = from_fleurs(file.parent.name)
        for where, row in rows:
            audio = file.parent.resolve() / "audio" / file.stem / row["file"]
            values = {"audio": str(audio), "lang": lang, "split": file.stem, "text": row["text"]}
            values |= {"gender": row["gender"], "id": Path(row["file"]).stem, "speaker": ""}
            if row["samples"].isdigit():
                values["duration"] = str(int(row["samples"]) / _FLEURS_RATE)
            if english and lang != TARGET:
                values["translation"] = english.get(row["id"], "")
            source.rows.append(Row(where, values))


def _fleurs_rows(source: Source, file: Path) -> Iterator[tuple[str, dict[str, str]]]:
    part = Source(file)
    for where, line in _decoded_lines(part):
        values = line.split("\t")
        where = f"{file.parent.name}/{where}"
        if len(values) == len(_FLEURS_COLUMNS):
            yield where, dict(zip(_FLEURS_COLUMNS, values, strict=True))
        else:
            why = f"{len(values)} fields instead of {len(_FLEURS_COLUMNS)}"
            source.malformed.append((where, "wrong_fields", why))
    source.malformed += [
        (f"{file.parent.name}/{w}", reason, why) for w, reason, why in part.malformed
    ]
