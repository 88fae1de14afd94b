"""Stage 2: data directories with their audio as 16 kHz mono FLAC, one copy for all tasks."""

from __future__ import annotations

import contextlib
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lors.config import FRACTION, MOST_PROCESSES, Range, check_number
from lors.data.audio_source import check_folder, file_of
from lors.data.clips import SAMPLE_RATE, ClipConversion, ConvertedClip, flac_path
from lors.data.datadir import (
    Utterance,
    data_files,
    one_line,
    read_data_dir,
    read_scp,
    write_data_dir,
)
from lors.data.language_report import language_report
from lors.data.languages import check_languages
from lors.data.subset import (
    HOURS,
    clip_names,
    read_list,
    subset_order,
    utterances_called,
    write_list,
)
from lors.done_marker import DoneMarker
from lors.errors import LorsError, UsageError, shortened
from lors.fileio import (
    atomic_write,
    file_digest,
    hash_of,
    name_problem,
    path_component,
    read_json,
    write_json,
)

_BAD_AUDIO = ("undecodable", "outside_recording", "wrong_duration")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FormatOptions:
    """The clips to keep, and the number of processes.

    Attributes:
        nj: worker processes.
        max_bad_audio: largest share (0 to 1) of clips that may fail to decode, or differ from
            their declared length.
        min_dur: shortest clip to keep, in seconds.
        max_dur: longest clip to keep, in seconds.
        hours: take a subset with this much speech (:mod:`lors.data.subset`): clips are decoded in
            its order until there is enough. If there is less speech, all clips are taken, with a
            warning.
        clips: take the clips of these names.
    """

    nj: int = 1
    max_bad_audio: float = 0.1
    min_dur: float = 0.0
    max_dur: float = float("inf")
    hours: float | None = None
    clips: Sequence[str] | None = None


def format_corpus(
    data: Path,
    dump: Path,
    langs: Sequence[str],
    splits: Sequence[str],
    options: FormatOptions,
    subset_lists: Path | None = None,
    hours: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Write ``<dump>/<lang>/<split>`` and ``<dump>/<lang>/report.json``.

    Length limits and subsets apply to splits whose name starts with ``train``; the other splits
    keep every clip that decodes, so that scores stay comparable.

    Args:
        data: the data directories of stage 1, ``<data>/<lang>/<split>``.
        dump: where to write. With `hours`, ``<dump>/subset/<lang>_<split>.txt`` lists the clips of
            every language that are taken.
        langs: language codes.
        splits: names of splits.
        options: limits of the train splits; `nj` and `max_bad_audio` of all splits.
        subset_lists: take the clips of such lists: a folder with ``<lang>_<split>.txt``.
        hours: language -> hours of its subset; other languages have all clips.

    Returns:
        the reports of the languages (:func:`lors.data.language_report.language_report`).

    Raises:
        LorsError: data directories are missing (all are listed); a list of clips is missing; or as
            :func:`format_data_dir`.
        UsageError: a number in `options` is out of range, or a language or split has a wrong name.
    """
    _check_options(options)
    check_languages(langs, "--langs")
    check_folder(dump)
    for split in splits:
        path_component(split, "--splits", UsageError)
    folders = [data / lang / split for lang in langs for split in splits]
    missing = [folder for folder in folders if not folder.is_dir()]
    if missing:
        raise LorsError(
            f"{len(missing)} data directories are missing",
            got=shortened(missing, 20),
            hint="run stage 1 for these languages first",
        )
    reports = []
    for lang in langs:
        for split in splits:
            source, target, name = data / lang / split, dump / lang / split, f"{lang}_{split}.txt"
            if not split.startswith("train"):
                everything = FormatOptions(options.nj, options.max_bad_audio)
                format_data_dir(source, target, everything)
                continue
            clips = read_list(subset_lists / name) if subset_lists else None
            subset = replace(options, clips=clips, hours=(hours or {}).get(lang))
            format_data_dir(source, target, subset)
            if hours:
                write_list(dump / "subset" / name, _clips_taken(source, target))
        reports.append(language_report(data, dump, lang, splits))
    return reports


def format_data_dir(
    source: str | os.PathLike, target: str | os.PathLike, options: FormatOptions | None = None
) -> dict[str, Any]:
    """Make `target` the data directory `source` with its audio as 16 kHz mono FLAC.

    `target` gets the FLAC files in ``audio/``, ``utt2dur``, ``dropped.tsv`` (id, reason, detail)
    and ``report.json``. Nothing is done if `target` is finished; after an interruption, good FLAC
    files of the same source are used again.

    Args:
        source: a valid data directory.
        target: the data directory to make.
        options: the clips to keep (default: all).

    Returns:
        the report, as written to ``report.json``.

    Raises:
        LorsError: `source` is not valid, or lacks one of ``options.clips``; `target` was made from
            other inputs; more clips fail than allowed (``dropped.tsv`` is still written); no
            clip is left.
        UsageError: a number in `options` is out of range.
    """
    source, target, options = Path(source), Path(target), options or FormatOptions()
    _check_options(options)
    marker = DoneMarker(target / ".done", _inputs(source, options))
    if marker.is_done():
        return read_json(target / "report.json")
    # Not marker.work(): it would refuse a source that was corrected after an error. The files of
    # an unfinished run are checked one by one.
    with marker.alone():
        report = _format(source, target, options)
        marker.mark()
    return report


def _check_options(options: FormatOptions) -> None:
    check_number(options.nj, Range(1, MOST_PROCESSES), "--nj")
    check_number(options.max_bad_audio, FRACTION, "--max_bad_audio")
    check_number(options.min_dur, Range(0), "--min_dur")
    if options.max_dur != float("inf"):
        check_number(options.max_dur, Range(0), "--max_dur")
    if options.hours is not None:
        check_number(options.hours, HOURS, "hours of training clips")


def _format(source: Path, target: Path, options: FormatOptions) -> dict[str, Any]:
    """Convert the clips, write the data directory and its report."""
    everything = read_data_dir(source)
    utterances = everything
    if options.clips is not None:
        utterances = utterances_called(options.clips, everything, source)
    elif options.hours is not None:
        utterances = subset_order(everything)
    results = _convert(utterances, target, options)
    _write_drops(target / "dropped.tsv", results)
    # A subset by hours has fewer results than utterances.
    kept = [
        replace(utt, wav=str(flac_path(target, utt.id)), duration=result.duration, piece=None)
        for utt, result in zip(utterances, results, strict=False)
        if not result.reason
    ]
    report = _report(kept, results, len(everything))
    _check_losses(report, target, options.max_bad_audio)
    if options.hours is not None and report["hours"] < options.hours:
        log.warning(
            "%s: %g hours were asked for, there are only %.2f",
            target,
            options.hours,
            report["hours"],
        )
    write_data_dir(target, kept)
    write_json(target / "report.json", report)
    reused = sum(result.reused for result in results)
    log.info(
        "%s: %d clips, %.2f hours%s",
        target,
        report["clips"],
        report["hours"],
        f" ({reused} of an earlier run)" if reused else "",
    )
    return report


def _convert(
    utterances: Sequence[Utterance], target: Path, options: FormatOptions
) -> list[ConvertedClip]:
    """Convert the utterances' clips, in their order, all or until there are enough hours."""
    # Imported here: the audio libraries take longer to import than the rerun of a finished stage.
    from lors.data.conversion import convert_clips, convert_hours, worker_pool

    if bad := [f"{utt.id!r}: {why}" for utt in utterances if (why := name_problem(utt.id))]:
        raise LorsError(
            f"{len(bad)} utterance id(s) cannot be file names",
            where=target,
            got=shortened(bad),
            hint="shorten or rename these ids in the data directory",
        )
    clips = [
        ClipConversion(
            id=utt.id,
            source=utt.wav,
            target=flac_path(target, utt.id),
            min_dur=options.min_dur,
            max_dur=options.max_dur,
            piece=utt.piece,
            declared=utt.duration,
        )
        for utt in utterances
    ]
    name = "/".join(target.parts[-2:])
    with worker_pool(min(options.nj, max(1, len(clips)))) as pool:
        if options.hours is None:
            return convert_clips(clips, pool, name)
        return convert_hours(clips, pool, name, options.hours)


def _inputs(source: Path, options: FormatOptions) -> dict[str, Any]:
    """Return everything that the formatted directory depends on."""
    audio = []
    for key, wav in read_scp(source / "wav.scp").items():
        size, modified = 0, 0
        with contextlib.suppress(OSError, ValueError):  # no such file, or no name of a file
            state = os.stat(file_of(wav))  # noqa: PTH116  (half the time of Path.stat)
            size, modified = state.st_size, state.st_mtime_ns
        audio.append((key, size, modified))
    inputs = {
        "sample_rate": SAMPLE_RATE,
        "min_dur": options.min_dur,
        "max_dur": str(options.max_dur),
        "audio files": hash_of(audio),
        **{name: file_digest(source / name)[:16] for name in data_files(source)},
    }
    if options.hours is not None:
        inputs["hours"] = options.hours
    if options.clips is not None:
        inputs["clips"] = hash_of(sorted(options.clips))
    return inputs


def _clips_taken(source: Path, target: Path) -> list[str]:
    """Return the names of the clips of `source` that are in `target`."""
    kept = {utterance.id for utterance in read_data_dir(target)}
    utterances = read_data_dir(source)
    names = zip(utterances, clip_names(utterances), strict=True)
    return [name for utterance, name in names if utterance.id in kept]


def _report(
    kept: Sequence[Utterance], results: Sequence[ConvertedClip], source_clips: int
) -> dict[str, Any]:
    dropped = Counter(result.reason for result in results if result.reason)
    if source_clips > len(results):
        dropped["not_in_subset"] = source_clips - len(results)
    return {
        "source_clips": source_clips,
        "clips": len(kept),
        "hours": round(sum(result.duration for result in results if not result.reason) / 3600, 4),
        "speakers": len({utt.speaker for utt in kept}),
        "dropped": dict(sorted(dropped.items())),
    }


def _check_losses(report: Mapping[str, Any], target: Path, max_bad_audio: float) -> None:
    bad = sum(report["dropped"].get(reason, 0) for reason in _BAD_AUDIO)
    tried = report["source_clips"] - report["dropped"].get("not_in_subset", 0)
    if bad > max_bad_audio * tried:
        raise LorsError(
            f"{bad} of {tried} clips cannot be decoded, or are not as long as the corpus says",
            where=target / "dropped.tsv",
            expected=f"at most {max_bad_audio:.0%}",
            hint="is the archive damaged, or an error page saved under its name? "
            "--max_bad_audio raises the limit if you know that the loss is right",
        )
    if not report["clips"]:
        raise LorsError(
            "no clip is left",
            where=target / "dropped.tsv",
            got=report["dropped"],
            hint="correct the length limits or the data; the file lists each clip with the reason",
        )


def _write_drops(path: Path, results: Sequence[ConvertedClip]) -> None:
    with atomic_write(path) as handle:
        handle.write("utterance\treason\tdetail\n")
        handle.writelines(
            f"{result.id}\t{result.reason}\t{one_line(result.detail)}\n"
            for result in results
            if result.reason
        )
