"""The packages that hold the corpora: names, sums, and the places of their files when unpacked."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lors.config import load_config
from lors.data.g722 import EXTENSION
from lors.errors import LorsError, UsageError, shortened, unknown_name
from lors.fileio import file_digest, path_component
from lors.tasks import TARGET

PINNED = Path(__file__).parent / "packages.yaml"
_SOUNDS = "usr/share/asterisk/sounds"
_VOICES = "usr/share/festival/voices/russian"
_DOCUMENTS = "usr/share/doc"
_CHECK = 2**16  # bytes read at a time


@dataclass(frozen=True)
class Package:
    """A package of Debian for all architectures.

    Attributes:
        name: the package's name.
        version: its version.
        folder: its folder in Debian's archive.
        bytes: size of the package file.
        sha256: SHA-256 of the package file, in hex.
        contents: SHA-256 of the list of transcripts, or of the list of the recordings
            (:func:`list_digest`), in hex.
    """

    name: str
    version: str
    folder: str
    bytes: int
    sha256: str
    contents: str

    @property
    def file(self) -> str:
        """Name of the package file."""
        return f"{self.name}_{self.version}_all.deb"

    @property
    def unpacked(self) -> str:
        """Name of the folder that it is unpacked to."""
        return f"{self.name}_{self.version}"


@dataclass(frozen=True)
class Voice:
    """The packages of a language.

    Attributes:
        voice: name of the folder with the recordings.
        speaker: name of the speaker, as the folder's name or the package gives it.
        gender: ``m`` or ``f``.
        transcripts: package with the list of transcripts.
        recordings: package with the recordings.
    """

    voice: str
    speaker: str
    gender: str
    transcripts: Package
    recordings: Package


@dataclass(frozen=True)
class ReadVoice:
    """The package of the Russian sentences; attributes as of :class:`Voice`."""

    voice: str
    speaker: str
    gender: str
    sentences: Package


@dataclass(frozen=True)
class Release:
    """The content of ``packages.yaml``: language -> its packages, and the Russian sentences."""

    languages: dict[str, Voice]
    read_russian: ReadVoice | None = None

    def voices(self, langs: Iterable[str]) -> dict[str, Voice]:
        """Return the voices of these languages.

        Raises:
            UsageError: a language is not in the release.
        """
        for lang in langs:
            if lang not in self.languages:
                raise unknown_name("language", lang, self.languages, where="--langs")
        return {lang: self.languages[lang] for lang in langs}


def load_release(path: Path = PINNED) -> Release:
    """Read the list of packages.

    Raises:
        UsageError: it is not valid, has no English, or a name in it cannot be a file name.
    """
    release = load_config(Release, path)
    if TARGET not in release.languages:
        raise UsageError(
            f"a list of packages without {TARGET}, the language of the translations",
            where=path,
            got=", ".join(shortened(release.languages)),
        )
    voices: list[Voice | ReadVoice] = list(release.languages.values())
    packages = [
        p for voice in release.languages.values() for p in (voice.transcripts, voice.recordings)
    ]
    if release.read_russian:
        voices.append(release.read_russian)
        packages.append(release.read_russian.sentences)
    names = [name for p in packages for name in (p.name, p.version, *p.folder.split("/"))]
    for name in [*release.languages, *(voice.voice for voice in voices), *names]:
        path_component(name, path, UsageError)
    return release


def root_of(folder: Path, package: Package) -> Path:
    """Return the folder with the content of a package, ``usr/share/...``.

    Args:
        folder: of the packages, with the package unpacked; or one of the user with the content.
        package: the package.
    """
    unpacked = folder.resolve() / package.unpacked
    return unpacked if unpacked.is_dir() else folder.resolve()


def transcripts_of(folder: Path, lang: str, package: Package) -> Path:
    """Return the list of transcripts of a language below `folder` (:func:`root_of`).

    Raises:
        LorsError: it is missing, or its content is not the pinned one.
    """
    path = _find(folder, f"{_DOCUMENTS}/{package.name}/core-sounds-{lang}.txt.gz", package)
    digest = hashlib.sha256()
    try:
        with gzip.open(path) as file:
            while block := file.read(_CHECK):
                digest.update(block)
    except (EOFError, OSError, zlib.error) as error:
        raise LorsError(
            "a list of transcripts that cannot be read",
            where=path,
            got=error,
            hint=_remedy(folder, package),
        ) from None
    _check_contents(digest.hexdigest(), folder, package, path)
    return path


def recordings_of(folder: Path, voice: Voice) -> Path:
    """Return the folder with the recordings of a voice below `folder` (:func:`root_of`).

    Raises:
        LorsError: it is missing, or its content is not the pinned one.
    """
    found = _find(folder, f"{_SOUNDS}/{voice.voice}", voice.recordings)
    names = recording_names(found)
    files = sorted(f"{name}{EXTENSION}" for name in names)
    what = f"{len(names)} recordings"
    _check_contents(list_digest(found, files), folder, voice.recordings, found, what)
    return found


def sentences_of(folder: Path, voice: ReadVoice) -> Path:
    """Return the folder of the Russian voice: ``etc/txt.done.data`` and ``wav/*.wav``.

    Raises:
        LorsError: it is missing, or its content is not the pinned one.
    """
    found = _find(folder, f"{_VOICES}/{voice.voice}", voice.sentences)
    files = sorted(["etc/txt.done.data", *(f"wav/{path.name}" for path in found.glob("wav/*.wav"))])
    what = f"{len(files) - 1} sounds"
    _check_contents(list_digest(found, files), folder, voice.sentences, found, what)
    return found


def copyright_of(folder: Path, package: Package) -> Path:
    """Return the copyright file of a package.

    Raises:
        LorsError: it is missing.
    """
    return _find(folder, f"{_DOCUMENTS}/{package.name}/copyright", package)


def recording_names(folder: Path) -> list[str]:
    """Return the names of the recordings in a folder, sorted: paths without their extension."""
    return sorted(
        path.relative_to(folder).as_posix().removesuffix(EXTENSION)
        for path in folder.rglob(f"*{EXTENSION}")
    )


def list_digest(folder: Path, files: Iterable[str]) -> str:
    """Return the SHA-256 of the lines ``<sha256>  <file>`` of these files.

    This is the output of ``sha256sum`` for the files in their order.
    """
    digest = hashlib.sha256()
    for file in files:
        path = folder / file
        digest.update(f"{file_digest(path) if path.is_file() else 'none'}  {file}\n".encode())
    return digest.hexdigest()


def _find(folder: Path, name: str, package: Package) -> Path:
    path = root_of(folder, package) / name
    if not path.exists():
        raise LorsError(
            f"{package.name} {package.version} has not the expected content",
            where=path,
            got="no such file or folder",
            hint=_remedy(folder, package),
        )
    return path


def _check_contents(
    found: str, folder: Path, package: Package, where: Path, what: str = "a list"
) -> None:
    if found != package.contents:
        raise LorsError(
            f"other prompts than those of {package.name} {package.version}",
            where=where,
            expected=f"content with the SHA-256 {package.contents}",
            got=f"{what} with {found}",
            hint=f"results would not be comparable; {_remedy(folder, package)}; for another "
            "version write a file like lors/data/voice_prompts/packages.yaml and name it by "
            "--packages",
        )


def _remedy(folder: Path, package: Package) -> str:
    """Return how to get the pinned content of a package."""
    root = root_of(folder, package)
    if root != folder.resolve():
        return f"remove the folder {root} and run the same command again"
    # Never tell a user to remove files of the system: nothing is downloaded to such a folder.
    return (
        f"{root} has its own usr, which is used as it is: unpack {package.file} there, or name an "
        "empty folder (--folder; VOICE_PROMPTS in a recipe's db.sh) and run the same command again"
    )
