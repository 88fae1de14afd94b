"""The rows of a user's own corpus: a manifest or a folder, with the column names of LoRS."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from lors.data.datadir import TRANSLATION
from lors.data.manifest_folders import datasets_records, read_fleurs
from lors.data.manifest_records import (
    ManifestRow,
    Record,
    Source,
    json_records,
    refuse_if_malformed,
    table_records,
)
from lors.errors import LorsError, UsageError, shortened
from lors.tasks import ST

REQUIRED = ("audio", "lang", "text", "split")
OPTIONAL = ("id", "speaker", "translation", "duration", "offset", "start", "end", "gender")
AUDIO_NAME = "the end of the path"
"""Key of :attr:`ManifestRow.values` with the name of the sound file, for rows without an id."""
_LONGEST_NAME = 40  # characters; longer names take long to compare
_READERS = {".tsv": table_records, ".csv": table_records, ".jsonl": json_records}


def read_source(
    path: Path, audio_dir: Path, rename: Mapping[str, str] | None = None, lang: str | None = None
) -> Source:
    """Read a manifest or a folder (:mod:`.manifest_records`, :mod:`.manifest_folders`).

    Audio paths become absolute. A row without an id gets one from the last parts of its audio path;
    in a datasets folder the id is split and row number, unless `rename` names a column of ids.

    Args:
        path: the manifest or folder.
        audio_dir: receives the clips that are stored in Arrow files.
        rename: column of :data:`REQUIRED` or :data:`OPTIONAL` -> its name in the manifest.
        lang: language of all rows, for a manifest without that column.

    Raises:
        LorsError: it cannot be read at all; columns are missing or unknown (all are listed, with
            near matches).
        UsageError: it is not a known kind of manifest.
    """
    rename = dict(rename or {})
    if not path.exists():
        raise LorsError("manifest not found", where=path, hint="is the path right?")
    source = Source(path)
    if path.is_dir():
        if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
            records, folder = datasets_records(path, audio_dir, rename), path
        elif any(path.glob("*/*.tsv")):
            read_fleurs(source)
            return source
        else:
            raise LorsError(
                "not a folder of a known kind",
                where=path,
                expected="what datasets' save_to_disk writes (dataset_dict.json or state.json), "
                "or <language>/{train,dev,test}.tsv and <language>/audio as in FLEURS",
                hint="give the manifest in this folder, or the folder above or below it",
            )
    else:
        if path.suffix not in _READERS:
            raise UsageError(
                "not a manifest of a known kind",
                where=path,
                expected=f"a name that ends with {', '.join(_READERS)}, or a folder",
                hint="save a spreadsheet as CSV (UTF-8)",
            )
        records, folder = _READERS[path.suffix](source), path.parent
    _collect(source, records, folder.resolve(), rename, lang)
    return source


def _collect(
    source: Source,
    records: Iterable[Record],
    folder: Path,
    rename: Mapping[str, str],
    lang: str | None,
) -> None:
    """Fill `source` with the records as rows with LoRS's column names."""
    records = list(records)
    found = list(dict.fromkeys(name for _, values in records for name in values))
    given = {"lang": lang} if lang else {}
    if not records:
        refuse_if_malformed(source, "no row can be read")
        raise LorsError("no row", where=source.path, hint="is this the right file?")
    _check_columns(source.path, found, rename, given)
    to_ours = {theirs: ours for ours, theirs in rename.items()}
    # Objects of JSONL may lack a key that others have.
    columns = {name: to_ours.get(name, name) for name in found}
    columns = {theirs: ours for theirs, ours in columns.items() if _is_ours(ours)}
    nothing = dict.fromkeys(columns.values(), "")
    for where, values in records:
        named = {columns[name]: value for name, value in values.items() if name in columns}
        ours = {**nothing, **given, **named}
        if not ours.get("audio", "").strip():
            ours["audio"] = ""
        else:
            path = Path(ours["audio"])
            parts = (path.with_suffix("") if path.name else path).parts
            ours[AUDIO_NAME] = "_".join(parts[-3:])
            ours["audio"] = str(folder / path)  # an absolute path stays as it is
        source.rows.append(ManifestRow(where, ours))


def _check_columns(
    path: Path, found: list[str], rename: Mapping[str, str], given: Mapping[str, str]
) -> None:
    """Check the column names; raise a LorsError with those that are missing or mistyped."""
    problems = [
        f"--rename {ours}={theirs}: there is no column '{theirs}'{near_names(theirs, found)}"
        for ours, theirs in rename.items()
        if theirs not in found
    ]
    present = (set(found) | set(rename) | set(given)) - set(rename.values())
    free = [name for name in found if name not in (*REQUIRED, *OPTIONAL, *rename.values())]
    missing = [name for name in REQUIRED if name not in present]
    problems += [f"no column '{name}'{near_names(name, free)}" for name in missing]
    long = [name for name in OPTIONAL if len(name) > 3]
    for name in free:
        meant = difflib.get_close_matches(name[:_LONGEST_NAME].lower(), long, n=1, cutoff=0.8)
        if len(name) > 3 and meant and meant[0] not in present:
            shown = name[:_LONGEST_NAME]
            problems.append(f"unknown column '{shown}' (is '{meant[0]}' meant?)")
    for one, other in (("translation", ST.reference_file), ("offset", "start")):
        if one in present and other in present:
            problems.append(f"'{one}' and '{other}' mean the same")
    if problems:
        raise LorsError(
            f"{len(problems)} problem(s) with the columns",
            where=path,
            expected=f"{', '.join(REQUIRED)}; also known: {', '.join(OPTIONAL)}, "
            f"{TRANSLATION}<language>",
            got=[
                *shortened(problems, 20),
                f"the columns are: {', '.join(shortened((name[:40] for name in found), 40))}",
            ],
            hint="rename them in the file, or with --rename text=sentence; for a corpus of one "
            "language without such a column: --lang de",
        )


def near_names(name: str, known: Iterable[str]) -> str:
    """Return the known names that may be meant, as the end of a message: ``, near: de``."""
    lower = {candidate[:_LONGEST_NAME].lower(): candidate[:_LONGEST_NAME] for candidate in known}
    name = name.strip()[:_LONGEST_NAME].lower()
    near = [part for part in re.split("[-_]", name)[:1] if part in lower]
    near += difflib.get_close_matches(name, sorted(lower.keys() - set(near)), n=3, cutoff=0.5)
    return f", near: {', '.join(lower[match] for match in near)}" if near else ""


class NearNames:
    """The known names that may be meant by unknown ones, for a limited number of these.

    A comparison takes milliseconds, and every row of a manifest can have another unknown name.
    """

    _MOST = 50

    def __init__(self, known: Iterable[str]):
        self._known = known
        self._ends: dict[str, str] = {}

    def of(self, name: str) -> str:
        """Return the end of a message, as :func:`near_names`; empty after fifty names."""
        if name not in self._ends:
            if len(self._ends) >= self._MOST:
                return ""
            self._ends[name] = near_names(name, self._known)
        return self._ends[name]


def _is_ours(column: str) -> bool:
    return column in (*REQUIRED, *OPTIONAL) or column.startswith(TRANSLATION)
