"""The licence and the credits of the recordings, written beside the data."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from lors.data.voice_prompts.packages import ReadVoice, Voice
from lors.fileio import write_text

_NO_SOUND = "debian/"  # files of the package itself


def write_licence(
    out: Path, source: Path, voices: Mapping[str, Voice | ReadVoice], langs: Collection[str]
) -> None:
    """Write ``<out>/LICENSE``, the package's copyright file, and ``<out>/CREDITS``.

    Args:
        out: the folder of the data directories.
        source: the copyright file, in Debian's machine-readable form.
        voices: language -> its voice; the credits name those that `langs` or `out` has.
        langs: languages that data directories are about to be written of.
    """
    text = source.read_text(encoding="utf-8", errors="replace")
    write_text(out / "LICENSE", text)
    stanzas = [stanza for stanza in text.split("\n\n") if stanza.startswith("Files:")]
    credits = [stanza for stanza in stanzas if _NO_SOUND not in stanza.splitlines()[0]]
    speakers = "\n".join(
        f"{lang}: {voice.speaker} ({voice.voice})"
        for lang, voice in voices.items()
        if lang in langs or (out / lang).is_dir()
    )
    write_text(
        out / "CREDITS",
        f"Speakers of these data, one for each language:\n\n{speakers}\n\n"
        f"Credits and licences, from the copyright file of the package:\n\n"
        + "\n\n".join(stanza.strip("\n") for stanza in credits)
        + "\n",
    )
