"""Do the data directories of a translation task have translations?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lors.errors import LorsError, shortened
from lors.tasks import pairs_of

MISSING_HINT = (
    "--tasks asr of ./run.sh leaves translation out; or add the translations, in a manifest as the "
    "column `translation`, and make the data again"
)


def check_translations(
    data: Path, langs: Sequence[str], splits: Sequence[str], tasks: Sequence[str]
) -> None:
    """Check that every data directory of a translation task has a file of translations.

    Args:
        data: holds ``<lang>/<split>``; directories that do not exist are left to others.
        langs: language codes.
        splits: names of splits.
        tasks: tasks of the recipe.

    Raises:
        LorsError: data directories without translations; all are listed.
    """
    missing = []
    for pair in pairs_of(langs, tasks):
        if pair.speech_task.target is None:
            continue
        folders = [data / pair.lang / split for split in splits]
        files = [folder / pair.speech_task.reference_file for folder in folders if folder.is_dir()]
        missing += [file for file in files if not file.is_file()]
    if missing:
        raise LorsError(
            "no translations for a translation task",
            where=shortened(missing, 20),
            expected="in each of these files a translation of every utterance",
            got="no such file",
            hint=MISSING_HINT,
        )
