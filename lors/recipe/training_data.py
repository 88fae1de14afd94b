"""The data of a training: tables for ESPnet, made from Kaldi data directories."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from lors.data.datadir import Utterance, read_data_dir
from lors.data.translations import MISSING_HINT
from lors.errors import LorsError, shortened
from lors.fileio import file_digest, write_text
from lors.models.family import Family
from lors.recipe.eval_set import chosen
from lors.tasks import Pair

log = logging.getLogger(__name__)

SPLITS = {"train": "train", "dev": "valid"}
"""Splits of a training -> their names in ESPnet's options and directories."""


def write_data(
    family: Family,
    pairs: Sequence[Pair],
    dump: str | os.PathLike,
    out: Path,
    dev: int | None,
    by_language: bool = False,
) -> dict[str, list[str]]:
    """Write the data of `pairs` as one ESPnet data directory a split: ``out/data/<split>``.

    Args:
        family: the family of the model to be trained.
        pairs: language-task pairs.
        dump: holds ``<lang>/<split>`` Kaldi data directories with 16 kHz audio.
        out: the training's directory.
        dev: maximum number of dev utterances of each pair; None for all.
        by_language: also write ``utt2category``, from which ESPnet makes batches of one language
            each.

    Returns:
        Split -> sorted utterance ids.

    Raises:
        LorsError: as :func:`write_split`.
    """
    limits = {"train": None, "dev": dev}
    return {
        split: write_split(
            family, pairs, dump, split, out / "data" / split, limits[split], by_language
        )
        for split in SPLITS
    }


def write_split(
    family: Family,
    pairs: Sequence[Pair],
    dump: str | os.PathLike,
    split: str,
    out: str | os.PathLike,
    limit: int | None = None,
    by_language: bool = False,
) -> list[str]:
    """Write one split of several language-task pairs as one ESPnet data directory.

    Args:
        family: the family of the model to be trained.
        pairs: language-task pairs.
        dump: holds ``<lang>/<split>`` Kaldi data directories with 16 kHz audio.
        split: ``train`` or ``dev``.
        out: receives the files of ``family.data_files``. They have an utterance once for each task;
            the task is appended to its id.
        limit: maximum number of utterances of each pair, chosen by a hash of their ids.
        by_language: also write ``utt2category``: the language of each utterance.

    Returns:
        The utterance ids, sorted.

    Raises:
        LorsError: a data directory is missing or invalid, or has no transcripts, or no translation
            for an ST pair; an utterance id appears twice; or the model cannot use some utterances.
            Those of dev, which only chooses the best epoch, are left out if their pair has others.
    """
    rows: dict[str, dict[str, str]] = {}
    pair_of: dict[str, Pair] = {}
    unusable: dict[str, str] = {}
    for pair in pairs:
        directory = Path(dump) / pair.lang / split
        for utterance, text in _references(directory, pair, limit):
            key = f"{utterance.id}-{pair.task}"
            if key in rows:
                raise LorsError(
                    "an utterance appears twice",
                    where=directory,
                    got=f"utterance {utterance.id}, task {pair.task}",
                    hint="name every pair once, and give each language its own utterance ids",
                )
            fields = family.training_fields(utterance, pair, text)
            reason = family.why_unusable(utterance, fields)
            if reason:
                unusable[key] = f"{directory}: {utterance.id}: {reason}"
            rows[key] = {"wav.scp": utterance.wav, **fields}
            pair_of[key] = pair
    if split == "dev":
        rows = _usable(rows, pair_of, unusable)
    _check_usable([unusable[key] for key in rows if key in unusable], family.where)
    if not rows:
        named = f"{split} of {', '.join(map(str, pairs))}"
        raise LorsError("no utterances", where=Path(dump), got=named)
    _write_tables(rows, family.data_files, Path(out))
    if by_language:
        lines = (f"{key} {pair_of[key].lang}\n" for key in sorted(rows))
        write_text(Path(out) / "utt2category", "".join(lines))
    return sorted(rows)


def _usable(
    rows: Mapping[str, dict[str, str]], pair_of: Mapping[str, Pair], unusable: Mapping[str, str]
) -> dict[str, dict[str, str]]:
    """Return the rows without the unusable ones of pairs that have others; warn of them."""
    left = {pair for key, pair in pair_of.items() if key not in unusable}
    out = dict.fromkeys(key for key in unusable if pair_of[key] in left)
    if out:
        log.warning(
            "%d of %d dev utterances are left out, because the model cannot use them: %s",
            *(len(out), len(rows), "; ".join(shortened(unusable[key] for key in out))),
        )
    return {key: row for key, row in rows.items() if key not in out}


def _check_usable(unusable: Sequence[str], where: object) -> None:
    if unusable:
        raise LorsError(
            "utterances that the model cannot be trained on",
            where=where,
            got=shortened(unusable),
            hint="delete their lines of wav.scp in these directories, then call "
            "utils/fix_data_dir.sh with each of them",
        )


def _references(directory: Path, pair: Pair, limit: int | None) -> Iterator[tuple[Utterance, str]]:
    """Yield the utterances of a data directory with their reference texts for the pair's task."""
    for utterance in chosen(read_data_dir(directory), limit):
        if utterance.text is None:
            raise LorsError("data without transcripts", where=directory / "text")
        text = pair.speech_task.reference(utterance.text, utterance.translations)
        if text is None:
            raise LorsError(
                "no translation for a translation task",
                where=directory / pair.speech_task.reference_file,
                got=f"utterance {utterance.id} is not in it",
                hint=MISSING_HINT,
            )
        yield utterance, text


def _write_tables(
    rows: Mapping[str, Mapping[str, str]], files: Mapping[str, object], out: Path
) -> None:
    for file in files:
        write_text(out / file, "".join(f"{i} {rows[i][file]}\n" for i in sorted(rows)))


def data_options(family: Family, data: Path) -> list[str]:
    """Return the options that name the files of :func:`write_data` to ESPnet."""
    options = []
    for split, option in SPLITS.items():
        for file, (name, kind) in family.data_files.items():
            value = f"{data / split / file},{name},{kind}"
            options += [f"--{option}_data_path_and_name_and_type", value]
    return options


def data_digests(family: Family, data: Path) -> dict[str, str]:
    """Return the digests of the files of :func:`write_data`, for a done marker."""
    files = [f"{split}/{file}" for split in SPLITS for file in family.data_files]
    return {file: file_digest(data / file) for file in files}


def shape_options(
    stats: Path, ids: Mapping[str, Sequence[str]], seed: int, data: Path
) -> list[str]:
    """Write the shapes of `ids` for ESPnet; return the options that name these files.

    Args:
        stats: directory of the collected statistics.
        ids: split -> utterance ids.
        seed: seed of the order of the utterances.
        data: receives ``<split>/{speech,text}_shape``.

    Raises:
        LorsError: as :func:`select_shapes`.
    """
    options = []
    for split, option in SPLITS.items():
        for name in ("speech_shape", "text_shape"):
            selected = data / split / name
            select_shapes(stats / option / name, ids[split], seed, selected)
            options += [f"--{option}_shape_file", str(selected)]
    return options


def select_shapes(shapes: Path, ids: Sequence[str], seed: int, out: Path) -> None:
    """Write the lines of `ids` in a shape file in a random order.

    ESPnet forms its batches once, in the order of this file. If it were sorted by id, every batch
    of a joint model would hold the utterances of one speaker, each with both tasks.

    Args:
        shapes: shape file of the collected statistics.
        ids: utterance ids.
        seed: seed of the order.
        out: the file to write.

    Raises:
        LorsError: no such file, or utterances that are not in it.
    """
    import numpy as np

    try:
        lines = dict(line.split(maxsplit=1) for line in shapes.read_text().splitlines())
    except FileNotFoundError:
        raise LorsError("no statistics", where=shapes, hint="run stage 4 (stats) first") from None
    missing = [i for i in ids if i not in lines]
    if missing:
        raise LorsError(
            f"{len(missing)} utterances without statistics",
            where=shapes,
            got=shortened(missing),
            hint=f"the data changed: remove {shapes.parents[1]} and run stage 4 (stats) again",
        )
    order = np.random.default_rng(seed).permutation(len(ids))
    write_text(out, "".join(f"{ids[i]} {lines[ids[i]]}\n" for i in order))
