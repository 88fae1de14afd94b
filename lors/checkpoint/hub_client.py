"""Calls of huggingface_hub for models, and its errors as errors that a user can act on.

The package is imported at the first call: who reads local files does not need it.
"""

from __future__ import annotations

import contextlib
import glob
import logging
from collections.abc import Collection, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import lors
from lors.errors import LorsError, from_os_error
from lors.log import show_progress

if TYPE_CHECKING:
    from huggingface_hub import HfApi

log = logging.getLogger(__name__)

CARD = "README.md"
"""The card of a model on the Hub."""
LOG_IN = "log in by 'hf auth login', or set HF_TOKEN"
_OVERLOADED, _CHANGED = (408, 429), 412
"""Status codes: too many requests; not the expected commit any more."""


class Unreachable(LorsError):
    """The Hub did not answer, or is not to be asked (offline mode)."""


def client(repo: str) -> ModuleType:
    """Return the package huggingface_hub.

    Args:
        repo: the model that is asked for, for the error.

    Raises:
        LorsError: it is not installed.
    """
    try:
        import huggingface_hub
        import huggingface_hub.errors
        import huggingface_hub.utils
    except ImportError:
        raise LorsError(
            "models on the Hugging Face Hub need the package huggingface_hub",
            where=repo,
            hint="pip install huggingface_hub (the extra hub of lors); or correct the name, if "
            "this should be a local path",
        ) from None
    if not show_progress():
        huggingface_hub.utils.disable_progress_bars()
    for library in ("httpx", "httpx2"):
        # A line for each request, with addresses of the storage that let anybody read it.
        logging.getLogger(library).setLevel(logging.WARNING)
    return huggingface_hub


def api(repo: str) -> HfApi:
    """Return the interface of the Hub; LorsError if huggingface_hub is not installed."""
    return client(repo).HfApi(library_name="lors", library_version=lors.__version__)


def listing(repo: str, revision: str | None) -> list[str]:
    """Return the files of a model on the Hub.

    Raises:
        Unreachable: the Hub does not answer.
        LorsError: it has no such model, or refuses to show it.
    """
    with told(repo, revision):
        info = api(repo).model_info(repo, revision=revision)
        return [file.rfilename for file in info.siblings or []]


def card_data(repo: str, revision: str | None) -> dict[str, Any]:
    """Return the metadata in the card of a model on the Hub; LorsError as :func:`listing`."""
    with told(repo, revision):
        found = api(repo).model_info(repo, revision=revision).card_data
        return {} if found is None else found.to_dict()


def download(repo: str, revision: str | None, files: Collection[str]) -> Path:
    """Download files of a model that the cache lacks; return the directory of their commit.

    Raises:
        LorsError: as :func:`listing`; or a download fails.
    """
    with told(repo, revision):
        folder = client(repo).snapshot_download(
            repo,
            revision=revision,
            allow_patterns=[glob.escape(file) for file in files],
            library_name="lors",
            library_version=lors.__version__,
        )
    missing = [file for file in files if not (Path(folder) / file).is_file()]
    if missing:
        raise LorsError(
            "files of this model were not downloaded",
            where=repo,
            got=missing,
            hint="was the model changed at this moment? Run the same command again",
        )
    return Path(folder)


def cached_snapshot(repo: str, revision: str | None) -> Path | None:
    """Return the directory in the cache with a model, complete or not; None if there is none."""
    hub = client(repo)
    try:
        # No pattern: the directory need not hold any particular file.
        return Path(
            hub.snapshot_download(repo, revision=revision, local_files_only=True, allow_patterns=[])
        )
    except hub.errors.LocalEntryNotFoundError:
        return None


@contextlib.contextmanager
def told(repo: str, revision: str | None = None, uploads: bool = False) -> Iterator[None]:
    """Raise errors of huggingface_hub as LorsError.

    Args:
        repo: the model that is asked for.
        revision: its revision.
        uploads: whether files are sent to the Hub, and not fetched from it.
    """
    errors = client(repo).errors
    try:
        yield
    except errors.HfHubHTTPError as error:
        raise _answer(errors, error, repo, revision) from error
    except errors.HFValidationError as error:
        raise LorsError("not the name of a model on the Hub", where=repo, got=error) from None
    except errors.LocalTokenNotFoundError as error:
        raise LorsError("no token is stored here", where=repo, got=error, hint=LOG_IN) from None
    except errors.OfflineModeIsEnabled:
        raise Unreachable(
            "HF_HUB_OFFLINE is set, so that the Hub is not asked",
            where=repo,
            hint="unset HF_HUB_OFFLINE, or download the model before: hf download " + repo,
        ) from None
    except (errors.HTTPError, OSError, getattr(errors, "XetDownloadError", OSError)) as error:
        if isinstance(error, OSError) and error.errno and not isinstance(error, ConnectionError):
            raise from_os_error(error) from None
        again = "a download goes on where it ended"
        if uploads:
            again = "what has arrived is not sent again"
        raise Unreachable(
            "the Hugging Face Hub cannot be reached",
            where=repo,
            got=f"{type(error).__name__}: {_first_line(error)}",
            hint=f"check the network, then run the same command again: {again}",
        ) from error
    except RuntimeError as error:
        if type(error) is not RuntimeError:  # RecursionError and the like are faults of a program
            raise
        # The storage Xet raises nothing more precise, at a refused connection as at a full disk.
        raise Unreachable(
            "a transfer from or to the Hugging Face Hub has failed",
            where=repo,
            got=_first_line(error) or "RuntimeError",
            hint="check the network and the free space on this disk, then run the same command "
            "again",
        ) from error


def _answer(errors: ModuleType, error: Any, repo: str, revision: str | None) -> LorsError:
    """Return the error for an answer of the Hub that is a refusal."""
    status = error.response.status_code
    if isinstance(error, errors.GatedRepoError):
        return LorsError(
            "this model is gated: its authors decide who may download it",
            where=repo,
            got=f"status {status}",
            hint=f"ask for access on the page of the model ({repo}), then {LOG_IN}",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return LorsError(
            "this model has no such revision on the Hub",
            where=repo,
            expected="a branch, a tag or a commit",
            got=revision,
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return LorsError(
            "there is no such local path, and no such model on the Hugging Face Hub, or it is "
            "private",
            where=repo,
            got=f"status {status}",
            hint=f"correct the path or the name; for a private model, {LOG_IN}",
        )
    if status == 401:
        return LorsError(
            "the Hub refuses the token",
            where=repo,
            got=_first_line(error.server_message or error),
            hint=f"{LOG_IN}: with a token that is still valid",
        )
    if status in _OVERLOADED or status >= 500:
        return Unreachable(
            "the Hub answers no more requests for now",
            where=repo,
            got=f"status {status}: {_first_line(error)}",
            hint="wait a little, then run the same command again; who is logged in may ask more "
            "often",
        )
    if status == _CHANGED:
        return LorsError(
            "somebody has changed this model on the Hub in the meantime",
            where=repo,
            got=_first_line(error),
            hint="look at that change, then run the same command again",
        )
    return LorsError(
        "the Hub refuses this",
        where=repo,
        got=f"status {status}: {_first_line(error)}",
        hint=f"does your token have this right? {LOG_IN}",
    )


def _first_line(error: object) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), "")
