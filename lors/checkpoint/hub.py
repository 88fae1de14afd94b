"""Models by their names on the Hugging Face Hub: the one place where a name becomes a path.

A name is ``[hf://]organisation/model[@revision][/folder or file]``, the syntax of huggingface_hub:
``openai/whisper-small``, ``org/lora-fr@v2``, ``hf://org/experts@main/de/model.pth``. A revision is
a branch, a tag or a commit; a slash in it is written ``%2F``. Without ``hf://`` a local path of the
same name is read in its place, and a name that ends like a model file is always local.

The files come into the cache of huggingface_hub, which downloads them and finds the user's token.
Within one process a name means one commit.
"""

from __future__ import annotations

import functools
import logging
import os
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import quote, unquote

from lors.checkpoint.directories import packed_files
from lors.checkpoint.hub_client import Unreachable, cached_snapshot, download, listing
from lors.checkpoint.places import (
    BASE_RECORD,
    DIRECTORY_FILES,
    INDEX_SUFFIX,
    MODEL_SUFFIXES,
    PACK_RECORD,
    PEFT_CONFIG,
    PEFT_MODEL,
    PEFT_PICKLE,
    READ_SUFFIXES,
    RECIPE_MODEL,
    exists,
)
from lors.checkpoint.vocabulary import ESPNET_CONFIG, VOCABULARY_FILES
from lors.errors import LorsError, shortened
from lors.fileio import read_json_object

log = logging.getLogger(__name__)

SCHEME = "hf://"
BESIDE = frozenset(
    (*VOCABULARY_FILES, "config.json", "preprocessor_config.json", BASE_RECORD, "merge.yaml")
)
"""Files that describe the model in the same directory: they are fetched with it."""
_PART = r"\w(?:(?!--|\.\.)[\w.-])*"
_NAME = re.compile(
    rf"(?P<repo>{_PART}/{_PART})"
    r"(?:@(?P<revision>refs/pr/\d+|[^/@\s]+))?"
    r"(?:/(?P<path>[^/]+(?:/[^/]+)*))?",
    re.ASCII,
)
_IN_CACHE = re.compile(r"models--(?P<repo>.+)")
_COMMIT = re.compile(r"[0-9a-f]{40}")

Get = Callable[[Collection[str]], Path]
"""Function that makes sure of some files of a model, and returns the directory that holds them."""


@dataclass(frozen=True)
class HubName:
    """The name of a model on the Hub.

    Attributes:
        repo: organisation and model, with a slash between them.
        revision: branch, tag or commit; None for the default branch.
        path: folder or file in it; empty for the whole.
    """

    repo: str
    revision: str | None = None
    path: str = ""

    def __str__(self) -> str:
        text = self.repo
        if self.revision is not None:
            is_request = self.revision.startswith("refs/pr/")
            text += "@" + quote(self.revision, safe="/" if is_request else "")
        return SCHEME + "/".join(filter(None, [text, self.path]))


def hub_name(source: str | os.PathLike) -> HubName | None:
    """Return the name on the Hub that `source` is; None for a local path, missing or not.

    Raises:
        LorsError: after ``hf://`` stands no name.
    """
    # A Path has one of the slashes only.
    text = re.sub(r"^hf:/(?=[^/])", SCHEME, os.fspath(source))
    found = _NAME.fullmatch(text.removeprefix(SCHEME))
    if found is not None and ".." in text.split("/"):
        found = None
    if found is None and text.startswith(SCHEME):
        raise LorsError(
            "not the name of a model on the Hugging Face Hub",
            where=text,
            expected=f"{SCHEME}organisation/model, then @revision or /folder if needed",
        )
    if found is None:
        return None
    revision = found["revision"] and unquote(found["revision"])
    name = HubName(found["repo"], revision, found["path"] or "")
    if text.startswith(SCHEME):
        return name
    if text.endswith(MODEL_SUFFIXES):
        return None
    if exists(Path(text)):
        _tell_of_local(text)
        return None
    return name


@functools.cache
def _tell_of_local(text: str) -> None:
    log.info("%s is read from this disk; the model on the Hub would be %s%s", text, SCHEME, text)


def local_path(source: str | os.PathLike) -> Path:
    """Return the path of a model; for a name on the Hub, fetch the files that are needed.

    Without a network, or with ``HF_HUB_OFFLINE=1``, the newest copy in the cache is taken, and a
    warning says so.

    Args:
        source: a path, which need not exist, or a name on the Hub.

    Raises:
        LorsError: the Hub has no such model, revision or folder; it refuses to give the model; it
            cannot be reached and the cache has no copy; or huggingface_hub is not installed.
    """
    name = hub_name(source)
    if name is not None:
        return _fetched(name)
    path = Path(source)
    # Path makes org/x of ./org/x, and other functions would take that for a name.
    is_changed = os.fspath(path) != os.fspath(source)
    return path.absolute() if is_changed and _is_like_a_name(os.fspath(path)) else path


def origin_of(path: str | os.PathLike) -> str | None:
    """Return the name, with its commit, of a model in the Hub's cache; None for other paths."""
    path = Path(path)
    if path.name in DIRECTORY_FILES:
        path = path.parent
    for folder in (path, *path.parents):
        found = _IN_CACHE.fullmatch(folder.parents[1].name if len(folder.parents) > 1 else "")
        if found and folder.parent.name == "snapshots" and _COMMIT.fullmatch(folder.name):
            inside = path.relative_to(folder).as_posix()
            repo = found["repo"].replace("--", "/", 1)
            return str(HubName(repo, folder.name, "" if inside == "." else inside))
    return None


def recorded(source: str | os.PathLike) -> str:
    """Return what a record says of a model: its path as given; or its name, with the commit."""
    return origin_of(local_path(source)) or os.fspath(source)


def source_in_record(text: str) -> str:
    """Return the source that :func:`recorded` has written as `text`.

    A name on the Hub is recorded with ``hf://``. Any other text is the path of a local model, and
    gets a form that :func:`hub_name` takes for a path, whether or not the model is still there.
    """
    return f"./{text}" if _is_like_a_name(text) else text


def _is_like_a_name(text: str) -> bool:
    return _NAME.fullmatch(text) is not None and not text.endswith(MODEL_SUFFIXES)


@functools.cache
def _fetched(name: HubName) -> Path:
    try:
        files = listing(name.repo, name.revision)
    except Unreachable as error:
        folder = cached_snapshot(name.repo, name.revision)
        if folder is None:
            raise Unreachable(
                f"there is no such local path, nothing in the cache, and {error.what}",
                where=name,
                got=error.got,
                hint=f"correct the path; or, for a model on the Hub: {error.hint}",
            ) from error
        log.warning("%s; commit %s of %s is in the cache", error.what, folder.name, name)
        files = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
        try:
            return _model_in(name, files, lambda _: folder)
        except LorsError as missing:
            raise LorsError(
                "the copy of this model in the cache is not complete, and the Hub cannot be asked",
                where=name,
                got=[missing.what, error.what],
                hint=error.hint,
            ) from None
    log.info("reading %s from the Hugging Face Hub", name)
    return _model_in(name, files, lambda wanted: download(name.repo, name.revision, wanted))


def _model_in(name: HubName, files: Collection[str], get: Get) -> Path:
    """Get the files of a model; return the path of its file or directory.

    Args:
        name: the name.
        files: all files of its repository.
        get: the function that gets some of them.
    """
    if name.path in files:
        path, directory, own = name.path, str(PurePosixPath(name.path).parent), [name.path]
    else:
        directory = name.path or "."
        path, own = _files_of_directory(name, directory, files, get)
    wanted = {*own, *(_joined(directory, file) for file in BESIDE)} & {*files}
    config = _joined(directory, ESPNET_CONFIG)
    if config in wanted:
        names = {PurePosixPath(word).name for word in _words(get([config]) / config)}
        wanted |= {_joined(directory, file) for file in names if not _is_model(file)} & {*files}
    for index in [file for file in own if file.endswith(INDEX_SUFFIX)]:
        parts = read_json_object(get([index]) / index).get("weight_map")
        # The reader refuses an index of another form.
        named = {str(part) for part in parts.values()} if isinstance(parts, dict) else ()
        wanted |= {_joined(directory, PurePosixPath(part).name) for part in named} & {*files}
    return get(sorted(wanted)) / path


def _joined(directory: str, file: str) -> str:
    return (PurePosixPath(directory) / file).as_posix()


def _files_of_directory(
    name: HubName, directory: str, files: Collection[str], get: Get
) -> tuple[str, list[str]]:
    """Return the path of the model in a directory, and the files of the model."""
    inside = {
        path.name for path in map(PurePosixPath, files) if path.parent == PurePosixPath(directory)
    }
    own = []
    if PEFT_CONFIG in inside:
        own += [PEFT_CONFIG, *[file for file in (PEFT_MODEL, PEFT_PICKLE) if file in inside][:1]]
    own += [file for file in DIRECTORY_FILES if file in inside][:1]
    if own:
        return directory, [_joined(directory, file) for file in own]
    if PACK_RECORD in inside:
        return directory, _packed(directory, files, get)
    readable = sorted(file for file in inside if file.endswith(READ_SUFFIXES))
    readable = [file for file in readable if file == RECIPE_MODEL] or readable
    if len(readable) == 1:
        return (path := _joined(directory, readable[0])), [path]
    others = sorted(file for file in files if file.endswith(MODEL_SUFFIXES))
    raise LorsError(
        "more than one model file here" if readable else "no model that LoRS reads is here",
        where=name,
        expected=f"{', '.join((PEFT_MODEL, *DIRECTORY_FILES))}, or one file that ends in "
        f"{', '.join(READ_SUFFIXES)}",
        got=shortened(others, 20) or "no model file at all",
        hint=f"give the folder or file: {SCHEME}{name.repo}/{others[0]}" if others else None,
    )


def _packed(directory: str, files: Collection[str], get: Get) -> list[str]:
    """Return the files of a model in the form of ESPnet's packages: those that it names."""
    record = _joined(directory, PACK_RECORD)
    folder = get([record]) / directory
    names = [path.relative_to(folder).as_posix() for path in packed_files(folder) or ()]
    config = _joined(directory, names[1])
    words = _words(get([record, config]) / config)
    named = {_joined(directory, word) for word in words if not _is_model(word)} & {*files}
    return [record, *(_joined(directory, file) for file in names), *named]


def _words(config: Path) -> set[str]:
    """Return all words of a configuration, the names of its files among them."""
    text = config.read_text(encoding="utf-8", errors="replace")
    return {word.strip("'\"") for word in text.split()}


def _is_model(file: str) -> bool:
    return file.endswith(MODEL_SUFFIXES)
