"""Records of a corpus folder: Hugging Face ``datasets``, or like FLEURS.

- A folder that ``save_to_disk`` of ``datasets`` wrote: ``dataset_dict.json`` names the splits. Each
  split is a folder with ``state.json``, which names the Arrow files, and ``dataset_info.json``,
  which has the names of class labels.
- A folder like FLEURS: ``<language>/{train,dev,test}.tsv`` without a line of column names, and the
  clips in ``<language>/audio/<split>``. If there is English (``en_us``), the translation of a
  sentence is the English sentence with the same id.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeGuard

from lors.data.languages import from_fleurs
from lors.data.manifest_records import Record, Source, as_text, decoded_lines
from lors.errors import LorsError, pip_install
from lors.fileio import BRIEF, atomic_write, name_problem, path_component, read_json_object
from lors.tasks import TARGET

_FLEURS_COLUMNS = ("id", "file", "text", "normalised", "characters", "samples", "gender")
_FLEURS_RATE = 16_000  # Hz
_SUFFIX = re.compile(r"\.\w{1,8}")


def datasets_records(
    path: Path, audio_dir: Path | None, rename: Mapping[str, str]
) -> Iterator[Record]:
    """Yield the rows of a ``datasets`` folder.

    Args:
        path: the folder.
        audio_dir: receives the clips that are stored in the Arrow files; None to leave them there.
        rename: LoRS's column name -> the folder's.

    Raises:
        LorsError: pyarrow is not installed, or a file cannot be read.
    """
    audio_column = rename.get("audio", "audio")
    for split in _splits(path / "dataset_dict.json"):
        folder = path / split
        labels = _class_labels(folder / "dataset_info.json")
        for number, record in enumerate(_arrow_rows(folder)):
            values = {"split": split} if split else {}
            for column, value in record.items():
                if column == audio_column and isinstance(value, dict):
                    part = split or "clips"
                    value = _audio_file(value, audio_dir and audio_dir / part / f"{number:08d}")
                elif column in labels and isinstance(value, int):
                    # -1 is a label that is not known.
                    value = dict(enumerate(labels[column])).get(value, "")
                if not isinstance(value, dict | list | bytes):  # features, lists of words, ...
                    values[column] = as_text(value)
            if "id" not in rename:  # a column "id" is often the sentence's, not the clip's
                values["id"] = f"{split or 'clip'}_{number:08d}"
            yield f"{folder.name} row {number}", values


def _splits(index: Path) -> list[str]:
    """Return the names of the splits, which are folders; one empty name if there is no index."""
    if not index.exists():
        return [""]
    splits = read_json_object(index).get("splits")
    if not _is_list_of_texts(splits) or not splits:
        raise _wrong_shape(index, '{"splits": ["train", ...]}', splits)
    for split in splits:
        path_component(split, index)
    if len(set(splits)) < len(splits):
        raise _wrong_shape(index, "different names of splits", splits)
    return splits


def _is_list_of_texts(value: Any) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _wrong_shape(path: Path, expected: str, got: Any) -> LorsError:
    return LorsError(
        "not a file of Hugging Face datasets",
        where=path,
        expected=expected,
        got=BRIEF.repr(got),
        hint="copy or download the folder again, or write it again with save_to_disk",
    )


def _arrow_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of all Arrow files of a split."""
    try:
        import pyarrow
    except ImportError:
        raise LorsError(
            "a datasets folder consists of Arrow files, which need pyarrow",
            where=folder,
            hint=f"{pip_install('pyarrow')}; or write a manifest: "
            "for split, part in dataset.items(): part.to_json(...) with paths of audio files",
        ) from None
    for name in _arrow_files(folder):
        try:
            with pyarrow.memory_map(str(name)) as file, pyarrow.ipc.open_stream(file) as stream:
                for batch in stream:
                    batch.validate(full=True)  # wrong offsets would be read as other memory
                    yield from batch.to_pylist()
        except Exception as error:  # whatever damaged content makes the reader raise
            raise LorsError(
                "not an Arrow file",
                where=name,
                got=f"{type(error).__name__}: {error}",
                hint="copy or download the folder again",
            ) from None


def _arrow_files(folder: Path) -> list[Path]:
    state = folder / "state.json"
    files = read_json_object(state).get("_data_files")
    names = None
    if isinstance(files, list) and all(isinstance(file, dict) for file in files):
        names = [file.get("filename") for file in files]
    if not _is_list_of_texts(names):
        raise _wrong_shape(state, '{"_data_files": [{"filename": "x.arrow"}, ...]}', files)
    return [folder / path_component(name, state) for name in names]


def _class_labels(path: Path) -> dict[str, list[str]]:
    """Return the names of the class labels by column."""
    features = (read_json_object(path).get("features") or {}) if path.exists() else {}
    if not isinstance(features, dict):
        raise _wrong_shape(path, '{"features": {"column": {...}}}', features)
    labels = {}
    for name, feature in features.items():
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel":
            names = feature.get("names")
            if not _is_list_of_texts(names):
                raise _wrong_shape(path, f'the "names" of the labels of column {name}', names)
            labels[name] = names
    return labels


def _audio_file(audio: Mapping[str, Any], place: Path | None) -> str:
    """Return the path of a clip; write a clip that is stored in the Arrow file to `place`."""
    content, name = audio.get("bytes"), audio.get("path") or ""
    if not isinstance(content, bytes) or place is None:
        return name if isinstance(name, str) else ""
    suffix = Path(name).suffix if isinstance(name, str) else ""
    target = place.with_suffix(suffix if _SUFFIX.fullmatch(suffix) else ".audio").absolute()
    if not target.is_file() or target.stat().st_size != len(content):
        with atomic_write(target, "wb") as handle:
            handle.write(content)
    return str(target)


def fleurs_records(source: Source) -> Iterator[Record]:
    """Yield the rows of a folder like FLEURS; list in ``malformed`` those that cannot be read."""
    tables = {
        file: list(_fleurs_rows(source, file)) for file in sorted(source.path.glob("*/*.tsv"))
    }
    translations = {
        row["id"]: row["text"]
        for file, rows in tables.items()
        if from_fleurs(file.parent.name) == TARGET
        for _, row in rows
    }
    for file, rows in tables.items():
        lang = from_fleurs(file.parent.name)
        for where, row in rows:
            if problem := name_problem(row["file"]):
                source.malformed.append((where, "unsafe_name", f"{row['file'][:80]!r}: {problem}"))
                continue
            audio = file.parent.resolve() / "audio" / file.stem / row["file"]
            values = {"audio": str(audio), "lang": lang, "split": file.stem, "text": row["text"]}
            values |= {"gender": row["gender"], "id": Path(row["file"]).stem, "speaker": ""}
            if re.fullmatch(r"[0-9]{1,15}", row["samples"]):
                values["duration"] = str(int(row["samples"]) / _FLEURS_RATE)
            if translations and lang != TARGET:
                values["translation"] = translations.get(row["id"], "")
            yield where, values


def _fleurs_rows(source: Source, file: Path) -> Iterator[Record]:
    part = Source(file)
    for where, line in decoded_lines(part):
        values = line.split("\t")
        where = f"{file.parent.name}/{where}"
        if len(values) == len(_FLEURS_COLUMNS):
            yield where, dict(zip(_FLEURS_COLUMNS, values, strict=True))
        else:
            why = f"{len(values)} fields instead of {len(_FLEURS_COLUMNS)}"
            source.malformed.append((where, "wrong_fields", why))
    source.malformed += [
        (f"{file.parent.name}/{where}", reason, why) for where, reason, why in part.malformed
    ]
