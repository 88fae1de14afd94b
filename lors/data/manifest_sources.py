"""The rows of a user's own corpus: a manifest or a folder, with the column names of LoRS."""

from __future__ import annotations

import difflib
import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lors.data.datadir import TRANSLATION
from lors.data.languages import CODES
from lors.data.manifest_cuts import CUTS, cut_records, is_cut_manifest
from lors.data.manifest_folders import datasets_records, fleurs_records
from lors.data.manifest_kaldi import is_kaldi_dir, kaldi_records
from lors.data.manifest_names import (
    HOW_TO_SAY,
    Manifest,
    only,
    refuse_twice,
    split_called,
    told_by_name,
)
from lors.data.manifest_records import (
    ManifestRow,
    Record,
    Source,
    json_records,
    table_records,
)
from lors.errors import LorsError, UsageError, shortened, unknown_name
from lors.tasks import SPLITS, ST

REQUIRED = ("audio", "lang", "text", "split")
OPTIONAL = ("id", "speaker", "translation", "duration", "offset", "start", "end", "gender")
SAID = ("lang", "split")
"""Columns that may be said of a whole manifest: ``de/train=PATH``."""
AUDIO_NAME = "the end of the path"
"""Key of :attr:`ManifestRow.values` with the name of the sound file, for rows without an id."""
_LONGEST_NAME = 40  # characters; longer names take long to compare
_READERS = {".tsv": table_records, ".csv": table_records, ".jsonl": json_records}


def read_sources(
    manifests: Sequence[Manifest], audio_dir: Path | None, rename: Mapping[str, str] | None = None
) -> Source:
    """Read the rows of manifests and folders (:mod:`.manifest_records`, :mod:`.manifest_folders`,
    :mod:`.manifest_kaldi`, :mod:`.manifest_cuts`).

    Audio paths become absolute. A row without an id gets one from the last parts of its audio path;
    in a datasets folder the id is split and row number, unless `rename` names a column of ids.

    Args:
        manifests: their paths, with the language and split of all rows where these are known.
        audio_dir: receives the clips that are stored in Arrow files; None to leave them there.
        rename: column of :data:`REQUIRED` or :data:`OPTIONAL` -> its name in the manifests.

    Raises:
        LorsError: one cannot be read at all; columns are missing or unknown (all are listed, with
            near matches).
        UsageError: one is not of a known kind; the language or split of a data directory is not
            known (all are listed); or two have the same language and split.
    """
    sources = _read_each(manifests, audio_dir, rename or {})
    if len(sources) == 1:
        return sources[0]
    joined = Source(sources[0].path, others=[source.path for source in sources[1:]])
    for source in sources:
        # Tables in two folders may have the same name.
        joined.rows += [replace(row, where=_full(row.where, source)) for row in source.rows]
        joined.malformed += [
            (_full(where, source), reason, why) for where, reason, why in source.malformed
        ]
    return joined


def _full(where: str, source: Source) -> str:
    """Return the place of a row with the folder of its manifest."""
    return where if where.startswith(str(source.path)) else f"{source.path.parent}/{where}"


def _read_each(
    manifests: Sequence[Manifest], audio_dir: Path | None, rename: Mapping[str, str]
) -> list[Source]:
    """Read manifests one by one; list those that cannot be read at all."""
    sources, errors = [], []
    for manifest in with_names(manifests):
        try:
            sources.append(_read(manifest, audio_dir, rename))
        except LorsError as error:
            errors.append((manifest, error))
    if len(errors) == 1:
        raise errors[0][1]
    if errors:
        raise LorsError(
            f"{len(errors)} manifests cannot be read",
            got=[f"{m}: {error.what}: {', '.join(error.facts)}" for m, error in errors],
            hint=errors[0][1].hint,
        )
    if len(sources) > 1:
        refuse_twice([(pair, s.path) for s in sources for pair in _pairs_of(s) if all(pair)])
    return sources


def _pairs_of(source: Source) -> list[tuple[str, str]]:
    """Return the languages and splits of the rows, each pair once."""
    pairs = ((row.values["lang"].strip(), split_called(row.values["split"])) for row in source.rows)
    return list(dict.fromkeys(pairs))


def languages_of(manifests: Sequence[Manifest]) -> tuple[list[Manifest], list[str]]:
    """Read manifests without a look at their audio, and return what is known of them.

    Returns:
        The manifests, with their language and split where all rows have the same; and all
        languages, sorted.

    Raises:
        LorsError: as :func:`read_sources`; or a language lacks a split.
        UsageError: as :func:`read_sources`; or a language code is not known.
    """
    pairs = [_pairs_of(source) for source in _read_each(manifests, None, {})]
    where = [manifest.path for manifest in manifests]
    found: dict[str, set[str]] = defaultdict(set)
    for lang, split in itertools.chain.from_iterable(pairs):
        found[lang].add(split)
    if unknown := sorted(found.keys() - CODES):
        raise unknown_name("language", unknown, CODES, where)
    lacking = [f"{lang}/{s}" for lang in sorted(found) for s in SPLITS if s not in found[lang]]
    if lacking or not found:
        raise LorsError(
            "splits without a row",
            where=where,
            expected=f"{', '.join(SPLITS)} of every language",
            got=lacking or "no row that can be read",
            hint=HOW_TO_SAY,
        )
    named = [
        replace(manifest, lang=only(p[0] for p in own), split=only(p[1] for p in own))
        for manifest, own in zip(manifests, pairs, strict=True)
    ]
    return named, sorted(found)


def with_names(manifests: Sequence[Manifest]) -> list[Manifest]:
    """Return the manifests with the languages and splits that the names of data directories tell.

    Raises:
        LorsError: manifests are missing (all are listed).
        UsageError: a data directory whose name does not tell them (all are listed).
    """
    missing = [manifest.path for manifest in manifests if not manifest.path.exists()]
    if missing:
        raise LorsError("manifest not found", where=missing, hint="is the path right?")
    complete, unclear = [], []
    for manifest in manifests:
        is_data_dir = manifest.path.is_dir() and is_kaldi_dir(manifest.path)
        if is_data_dir or is_cut_manifest(manifest.path):
            lang, split = told_by_name(manifest.path)
            # The utterances of such a manifest may have a language, and never have a split.
            has_lang = not is_data_dir or (manifest.path / "utt2lang").is_file()
            manifest = replace(
                manifest,
                lang=manifest.lang or ("" if has_lang else lang),
                split=manifest.split or split,
            )
            needed = {"language": manifest.lang or has_lang, "split": manifest.split}
            lacking = " and ".join(name for name, known in needed.items() if not known)
            if lacking:
                unclear.append(f"{manifest.path}: which {lacking}?")
        complete.append(manifest)
    if unclear:
        raise UsageError(
            f"the names of {len(unclear)} manifest(s) do not tell language and split",
            expected="names like train_de, dev_de, test_de",
            got=unclear,
            hint=HOW_TO_SAY,
        )
    return complete


def _read(manifest: Manifest, audio_dir: Path | None, rename: Mapping[str, str]) -> Source:
    path, source = manifest.path, Source(manifest.path)
    records: Iterable[Record]
    folder = path if path.is_dir() else path.parent
    if path.is_dir():
        if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
            records = datasets_records(path, audio_dir, rename)
        elif is_kaldi_dir(path):
            records, rename = kaldi_records(source, manifest.lang, rename), {}
        elif any(path.glob("*/*.tsv")) and not any(path.glob("*/*/wav.scp")):
            records, rename = fleurs_records(source), {}
        else:
            raise LorsError(
                "not a folder of a known kind",
                where=path,
                expected="a data directory of Kaldi (wav.scp), what datasets' save_to_disk writes "
                "(dataset_dict.json or state.json), or <language>/{train,dev,test}.tsv and "
                "<language>/audio as in FLEURS",
                hint="give the manifest or the data directories in this folder, or the one above",
            )
    elif is_cut_manifest(path):
        records = list(cut_records(source))
        if not manifest.lang and not any("lang" in values for _, values in records):
            manifest = replace(manifest, lang=told_by_name(path)[0])
    elif path.suffix in _READERS:
        records = _READERS[path.suffix](source)
    else:
        raise UsageError(
            "not a manifest of a known kind",
            where=path,
            expected=f"a name that ends with {', '.join((*_READERS, CUTS))}, or a folder",
            hint="save a spreadsheet as CSV (UTF-8)",
        )
    _collect(source, records, folder.resolve(), rename, manifest)
    return source


def _collect(
    source: Source,
    records: Iterable[Record],
    folder: Path,
    rename: Mapping[str, str],
    manifest: Manifest,
) -> None:
    """Fill `source` with the records as rows with LoRS's column names."""
    records = list(records)
    found = list(dict.fromkeys(name for _, values in records for name in values))
    given = {name: said for name in SAID if (said := getattr(manifest, name))}
    if not records:
        if source.malformed:
            return  # all of them are listed later
        raise LorsError("no row", where=source.path, hint="is this the right file?")
    _check_columns(source.path, found, rename, given)
    to_ours = {theirs: ours for ours, theirs in rename.items()}
    # Objects of JSONL may lack a key that others have.
    columns = {name: to_ours.get(name, name) for name in found}
    columns = {theirs: ours for theirs, ours in columns.items() if _is_ours(ours)}
    nothing = dict.fromkeys(columns.values(), "")
    for where, values in records:
        named = {columns[name]: value for name, value in values.items() if name in columns}
        ours = {**nothing, **named}
        if wrong := [why for name in given if (why := _contradiction(name, given, ours))]:
            source.malformed.append((where, "other_name", f"{', '.join(wrong)}: {manifest}"))
            continue
        ours |= given
        if not ours.get("audio", "").strip():
            ours["audio"] = ""
        else:
            path = Path(ours["audio"])
            parts = (path.with_suffix("") if path.name else path).parts
            ours[AUDIO_NAME] = "_".join(parts[-3:])
            ours["audio"] = str(folder / path)  # an absolute path stays as it is
        source.rows.append(ManifestRow(where, ours))


def _contradiction(name: str, given: Mapping[str, str], values: Mapping[str, str]) -> str:
    """Return the value of a row that contradicts the language or split of its manifest.

    A language in another spelling (``deu`` or ``German`` for ``de``) contradicts nothing.
    """
    own = values.get(name, "").strip()
    if name == "split":
        is_other = own and split_called(own) != given[name]
    else:
        alike = len(own.partition("-")[0]) == len(given[name].partition("-")[0])
        is_other = own in CODES and alike and own != given[name]
    return f"{name} '{own}'" if is_other else ""


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
            hint="rename them in the file, or with --rename text=sentence; for a manifest of one "
            "language or split without such a column: de=PATH, train=PATH or de/train=PATH",
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
