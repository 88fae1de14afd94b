"""Upload a model to the Hugging Face Hub, with its card, in one commit.

huggingface_hub uploads. Nothing of the model is on the Hub before all of it is, and a card that
somebody has edited is never replaced.
"""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import logging
import os
import re
import shlex
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import lors
from lors.checkpoint.directories import packed_files
from lors.checkpoint.hub import SCHEME, HubName, hub_name
from lors.checkpoint.hub_client import CARD, api, client, told
from lors.checkpoint.places import (
    DIRECTORY_FILES,
    INDEX_SUFFIX,
    MODEL_SUFFIXES,
    PACK_RECORD,
)
from lors.config import read_yaml
from lors.errors import LorsError, UsageError, shortened
from lors.fileio import full_disk_names, scratch_directory, write_text

log = logging.getLogger(__name__)

MERGE_RECORD = "merge.yaml"
"""Not uploaded: it has the paths of this machine, and the card has the plan."""
BESIDE_WEIGHTS = (
    *("*config.json", "tokenizer*.json", "*tokens*.json", "vocab*", "merges.txt", "*.model"),
    *("*.tiktoken", "normalizer.json", "*.jinja", "LICENSE*", "LICENCE*", "NOTICE*"),
)
"""Patterns of the files that are uploaded with the weights of a directory: what loads the model.
The files of its training (optimizer.pt, training_args.bin) are large, or have paths in them."""
TOKEN_LIST = "token_list"
"""Key of the configurations of ESPnet's S2T task; ESPnet loads no other package by its name."""
_MARK = re.compile(r"<!-- lors upload: ([0-9a-f]{64}) -->\s*\Z")


@dataclass(frozen=True)
class Target:
    """The place of an upload.

    Args:
        repo: organisation and model.
        private: whether the model is visible to the organisation only, a new one or an old one.
        keep_card: leave a card alone that somebody has edited, and upload the rest.
    """

    repo: str
    private: bool = False
    keep_card: bool = False


def repo_called(name: str) -> str:
    """Return the place of a model on the Hub.

    Raises:
        UsageError: `name` is not organisation and model, without revision and folder.
    """
    try:
        found = hub_name(SCHEME + name.removeprefix(SCHEME))
    except LorsError:
        found = None
    if found is None or found != HubName(found.repo):
        raise UsageError(
            "not a name for a model on the Hugging Face Hub",
            where="the place of the upload",
            expected="organisation/model",
            got=name,
        )
    return found.repo


def marked(card: str) -> str:
    """Return a card with a last line by which :func:`is_edited` recognises it."""
    text = _comparable(card)
    return f"{text}\n\n<!-- lors upload: {hashlib.sha256(text.encode()).hexdigest()} -->\n"


def is_edited(card: str) -> bool:
    """Return whether a card is not as :func:`marked` has written it."""
    found = _MARK.search(card)
    if found is None:
        return True
    return hashlib.sha256(_comparable(card[: found.start()]).encode()).hexdigest() != found[1]


def _comparable(text: str) -> str:
    return text.replace("\r\n", "\n").strip()


def local_card(model: Path) -> Path:
    """Return the place of the card beside a model: in its directory, or beside its zip file."""
    return model / CARD if model.is_dir() else model.with_suffix(f".{CARD}")


@contextlib.contextmanager
def files_of(model: Path) -> Iterator[dict[str, Path]]:
    """Yield the files of a model to upload: name on the Hub -> file.

    Args:
        model: a directory of Hugging Face, or a zip file of ``espnet2.bin.pack``, whose files are
            on this disk during the ``with`` block.

    Files of a directory that do not belong to the model are left out, with a warning.

    Raises:
        LorsError: the directory or the package is not complete, or no such thing; or no program
            loads the package.
    """
    if model.is_dir():
        yield _directory(model)
        return
    # A file of torch.save is a zip file, too.
    if model.suffix != ".zip" or not zipfile.is_zipfile(model):
        raise LorsError(
            "neither a directory of Hugging Face nor a zip file of ESPnet",
            where=model,
            expected="a directory of lors export-whisper, or a file of espnet2.bin.pack",
            hint=f"lors export-whisper --model {shlex.quote(str(model))} --out a_new_directory",
        )
    with (
        scratch_directory(model.with_name(f".{model.name}.unpacked")) as folder,
        zipfile.ZipFile(model) as archive,
    ):
        names = [name for name in archive.namelist() if not name.endswith("/")]
        wrong = [name for name in names if name.startswith("/") or ".." in name.split("/")]
        if wrong:
            raise LorsError("paths that leave the package", where=model, got=shortened(wrong))
        with full_disk_names(model.parent):
            archive.extractall(folder)
        packed = packed_files(folder)
        missing = [path.name for path in packed or () if not path.is_file()]
        if packed is None or missing:
            raise LorsError(
                "not a whole package of ESPnet",
                where=model,
                expected=f"{PACK_RECORD} and the files that it names",
                got=missing or shortened(names),
                hint="pack the model again: espnet2.bin.pack",
            )
        if TOKEN_LIST not in read_yaml(packed[1]):
            raise LorsError(
                "ESPnet cannot load this package by its name: it holds another kind of model",
                where=model,
                expected=f"a model of ESPnet's S2T task, with {TOKEN_LIST} in its configuration",
                hint="a Whisper is uploaded as a directory of lors export-whisper; models of "
                "wav2vec 2.0 cannot be uploaded",
            )
        yield {name: folder / name for name in names if name != CARD}


def _directory(model: Path) -> dict[str, Path]:
    found = sorted(path for path in model.iterdir() if not path.name.startswith("."))
    files = {path.name: path for path in found if path.is_file()}
    weights = [name for name in DIRECTORY_FILES if name in files]
    if not weights or "config.json" not in files:
        raise LorsError(
            "this directory holds no model of Hugging Face",
            where=model,
            expected=f"config.json and {' or '.join(DIRECTORY_FILES)}",
            got=shortened(files, 20) or "no files",
            hint="lors export-whisper writes such a directory",
        )
    from lors.checkpoint.reader import Checkpoint  # torch is slow to import

    # Opened, so that a shard that is missing, or half of a file, is found here. Its list has files
    # that would be read in place of the weights, too. An absolute path is never a name on the Hub.
    held = {file.name for file in Checkpoint.open(files[weights[0]].absolute()).files()}
    held -= {*DIRECTORY_FILES} - {weights[0]}
    kept = {
        name: path
        for name, path in files.items()
        if name in held or any(fnmatch.fnmatchcase(name, known) for known in BESIDE_WEIGHTS)
    }
    others = [path.name for path in found if path.name not in (*kept, CARD, MERGE_RECORD)]
    if others:
        log.warning(
            "not uploaded, because they do not belong to the model in %s: %s",
            *(model, ", ".join(shortened(others, 20))),
        )
    return kept


def upload(model: Path, files: dict[str, Path], card: str, target: Target) -> str:
    """Upload a model with its card; return the address of the commit.

    The card is also written beside the model (:func:`local_card`).

    Args:
        model: as for :func:`files_of`.
        files: its files, from that function.
        card: the text of the card, without its mark.
        target: the place.

    Raises:
        UsageError: a card that is there was edited, and `keep_card` is false; or the model on the
            Hub is public, and `private` is true.
        LorsError: the Hub refuses the upload, or the connection breaks.
    """
    repo, own = target.repo, local_card(model)
    beside = own.read_text(encoding="utf-8", errors="replace") if own.is_file() else None
    _check_card(beside, own, target)
    parent, others = _head(target, create=False)
    online = _card_online(repo, parent) if CARD in others else None
    _check_card(online, f"{repo} on the Hub", target)
    if parent is None:
        parent, others = _head(target, create=True)
    _warn_of_others(repo, [*others], [*files])
    if beside is None or not is_edited(beside):
        write_text(own, marked(card))
    if online is not None and is_edited(online):
        log.info("the card of %s stays as it is", repo)
    else:
        files = {**files, CARD: own}
    return _commit(repo, files, parent)


def _check_card(card: str | None, where: object, target: Target) -> None:
    if card is not None and is_edited(card) and not target.keep_card:
        raise UsageError(
            "this card was edited by hand, or is not from lors upload",
            where=where,
            hint="--keep_card leaves it as it is and uploads the rest; to get a new card, move "
            "this one away",
        )


def _head(target: Target, create: bool) -> tuple[str | None, list[str]]:
    """Return the newest commit of the model on the Hub, and its files; None if it is not there."""
    hub, repo = client(target.repo), target.repo
    with told(repo, uploads=True):
        if create:
            api(repo).create_repo(repo, private=target.private or None, exist_ok=True)
        try:
            info = api(repo).model_info(repo)
        except hub.errors.RepositoryNotFoundError:
            if create:
                raise
            return None, []
        if target.private and not info.private:
            raise UsageError(
                "this model on the Hub is public, and an upload does not make it private",
                where=f"{repo} on the Hub",
                expected="a private model, or a new one",
                hint="make it private in its settings on the Hub, or leave --private out",
            )
        return info.sha, [file.rfilename for file in info.siblings or []]


def _card_online(repo: str, commit: str | None) -> str:
    with told(repo):
        path = client(repo).hf_hub_download(repo, CARD, revision=commit)
    return Path(path).read_text(encoding="utf-8", errors="replace")


def _warn_of_others(repo: str, there: list[str], written: list[str]) -> None:
    """Warn of model files on the Hub that stay beside the new ones."""
    folders = {PurePosixPath(name).parent for name in written}
    others = [
        name
        for name in there
        if name.endswith((*MODEL_SUFFIXES, INDEX_SUFFIX))
        and name not in written
        and PurePosixPath(name).parent in folders
    ]
    if others:
        log.warning("%s has other model files, which stay: %s", repo, ", ".join(shortened(others)))


def _commit(repo: str, files: dict[str, Path], parent: str | None) -> str:
    hub = client(repo)
    operation, errors = hub.CommitOperationAdd, hub.errors
    log.info("uploading %d files to %s", len(files), repo)
    with told(repo, uploads=True):
        try:
            done = api(repo).create_commit(
                repo,
                [operation(name, os.fspath(path)) for name, path in files.items()],
                commit_message=f"Upload by LoRS {lors.__version__}",
                parent_commit=parent,
            )
        except RuntimeError as error:  # of the thread that uploaded a file
            raise error.__cause__ or error from None
        except (errors.HfHubHTTPError, errors.HFValidationError):
            raise  # some of them are ValueErrors, too
        except ValueError as error:
            raise LorsError(
                "the Hub does not accept the metadata of this card", where=repo, got=error
            ) from None
    return str(done.commit_url)
