"""Rows of a cut manifest of lhotse (``cuts.jsonl.gz``), read by lhotse: one for each cut.

A cut is kept as a whole sound file or a piece of one, without a copy of the sound. Stage 2 could
not repeat what lhotse computes at loading: augmentations, mixtures, padding, one channel of
several. Cuts with these are listed, and so are cuts whose text is not that of all their sound.
``CutSet.save_audios`` writes such sound to files, and ``CutSet.trim_to_supervisions`` cuts it.
Resampling to 16 kHz or more is no obstacle, because stage 2 resamples itself.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lors.data.audio_source import folder_of
from lors.data.clips import SAMPLE_RATE
from lors.data.datadir import TRANSLATION
from lors.data.manifest_pieces import Problems
from lors.data.manifest_records import Record, Source, decoded_lines, is_utf8, open_manifest
from lors.data.pieces import agree, seconds_text
from lors.errors import LorsError, pip_install, shortened

if TYPE_CHECKING:
    from lhotse.cut import Cut

CUTS = ".jsonl.gz"
_TYPES = ("MonoCut", "MultiCut", "MixedCut", "PaddingCut", "Cut")
_TRANSLATIONS = ("translated_text", "translations")
"""Custom fields with a text for each language; the first one is that of lhotse's own recipes."""
_FIRST_LINE = 2**20  # bytes that are read to find out what a file is
_SHOWN = 200  # characters of an error in a message


def is_cut_manifest(path: Path) -> bool:
    """Return whether a file is a cut manifest: ``.jsonl.gz``, or ``.jsonl`` with a cut first."""
    if path.name.endswith(CUTS):
        return True
    if path.suffix != ".jsonl" or not path.is_file():
        return False
    with open_manifest(path) as handle:
        line = handle.readline(_FIRST_LINE)
    try:
        first = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(first, dict) and first.get("type") in _TYPES and "id" in first


def cut_records(source: Source) -> Iterator[Record]:
    """Yield the cuts; list in ``malformed`` those that cannot be read or kept.

    The columns are those of LoRS, and the custom fields of cut and supervision that are texts.

    Raises:
        LorsError: lhotse is not installed, or a compressed file is damaged.
    """
    try:
        from lhotse.serialization import deserialize_item
    except ImportError:
        raise LorsError(
            "a cut manifest is read by lhotse, which is not installed",
            where=source.path,
            hint=pip_install("lhotse"),
        ) from None
    cuts = []
    for place, line in decoded_lines(source):
        where = f"{source.path} {place.removeprefix(source.path.name).strip()}"
        try:
            cut = deserialize_item(json.loads(line))
            problems = problems_of(cut)
            values = {} if problems else _values(cut)
        except Exception as error:  # whatever strange content makes lhotse raise
            why = f"{type(error).__name__}: {error}"[:_SHOWN]
            source.malformed.append((where, "bad_cut", why))
            continue
        wrong = [name for name, value in values.items() if not isinstance(value, str)]
        if problems:
            where = f"{where}, {cut.id}"
        elif wrong:
            problems = [("bad_cut", f"not a text: {', '.join(shortened(wrong))}")]
        elif not is_utf8("".join(f"{name}{value}" for name, value in values.items())):
            problems = [("not_utf8", "half a surrogate pair (\\ud800 ...)")]
        source.malformed += [(where, reason, why) for reason, why in problems]
        if not problems:
            cuts.append((where, values))
    folder = folder_of((values["audio"] for _, values in cuts), source.path.parent)
    for where, values in cuts:
        yield where, {**values, "audio": str(folder / values["audio"])}


def problems_of(cut: Cut) -> Problems:
    """Return why a cut cannot be kept: reasons in one word and in a sentence; empty if it can."""
    kind = type(cut).__name__
    if kind == "MixedCut":
        why = f"a mixture of {len(cut.tracks)} tracks; CutSet.save_audios writes its sound"
        return [("mixture", why)]
    if kind not in ("MonoCut", "MultiCut"):
        return [("no_cut", f"{kind}; lhotse cut simple makes cuts from -r recordings and -s texts")]
    if not cut.has_recording:
        return [("no_recording", "features, not sound")]
    problems = []
    recording = cut.recording
    changes = [str(t) for t in recording.transforms or () if not _is_harmless(t)]
    if changes:
        why = f"{', '.join(changes)}; CutSet.save_audios writes the sound with them"
        problems.append(("augmented", why[:_SHOWN]))
    kinds = [audio.type for audio in recording.sources]
    if kinds != ["file"]:
        why = f"sound from {', '.join(kinds) or 'nothing'}, not from one file"
        problems.append(("no_file", f"{why[:_SHOWN]}; CutSet.save_audios writes files"))
    own = cut.channel if isinstance(cut.channel, list) else [cut.channel]
    if sorted(own) != sorted(recording.channel_ids):
        why = f"channel {own} of {recording.channel_ids}; CutSet.save_audios writes it alone"
        problems.append(("one_channel", why))
    return problems + _problems_of_texts(cut)


def _problems_of_texts(cut: Cut) -> Problems:
    """Compare a cut with its supervision: the text must be that of all the sound."""
    if len(cut.supervisions) != 1:
        why = f"{len(cut.supervisions)} supervisions, not 1"
        return [("supervisions", f"{why}; CutSet.trim_to_supervisions makes a cut of each")]
    (text,) = cut.supervisions
    if agree(cut.duration, cut.duration - text.start) and agree(text.duration, cut.duration):
        return []
    span = f"{seconds_text(text.start)} to {seconds_text(text.end)} s"
    why = f"text from {span} in a cut of {seconds_text(cut.duration)} s"
    if text.start < 0 or text.end > cut.duration:
        return [("other_span", f"{why}: its sound is not complete")]
    return [("other_span", f"{why}; CutSet.trim_to_supervisions cuts there")]


def _is_harmless(transform: Any) -> bool:
    rate = getattr(transform, "target_sampling_rate", 0)
    return type(transform).__name__ == "Resample" and rate >= SAMPLE_RATE


def _values(cut: Cut) -> dict[str, str]:
    """Return the values of a cut by column."""
    (supervision,), recording = cut.supervisions, cut.recording
    custom = {**(cut.custom or {}), **(supervision.custom or {})}
    values = {
        "audio": recording.sources[0].source,
        "id": cut.id,
        "text": supervision.text or "",
        "speaker": supervision.speaker or "",
        "gender": supervision.gender or "",
        "duration": seconds_text(cut.duration),
        "start": "",
        "end": "",
    }
    if supervision.language:
        values["lang"] = supervision.language
    if cut.start or not math.isclose(cut.duration, recording.duration):
        values |= {"start": seconds_text(cut.start), "end": seconds_text(cut.end)}
    for name in _TRANSLATIONS:
        texts = custom.get(name)
        if isinstance(texts, dict):
            values |= {TRANSLATION + code: str(text or "") for code, text in texts.items()}
    # A custom field never replaces a value of the cut itself; "offset" is a name of "start". The
    # split is that of the manifest: a field of this name is often one of another partition.
    own = ("offset", "split")
    others = {k: text for k, text in custom.items() if isinstance(text, str) and k not in own}
    return others | values
