"""A Hugging Face Hub on loopback, and the client that is pointed at it."""

import sys
from pathlib import Path

import pytest

from tests.hub_server import Hub

PACKAGES = Path(__file__).parents[2] / ".test_packages"  # of tests/run.sh


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty Hub; huggingface_hub asks it, with an empty cache and without a token."""
    from lors.checkpoint import hub as names

    monkeypatch.setattr(sys, "path", [*sys.path, str(PACKAGES)])
    pytest.importorskip("huggingface_hub", reason="not installed: ./tests/run.sh does that")
    import huggingface_hub.constants as constants
    import huggingface_hub.utils._http as connections

    server = Hub()
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    for name, value in {
        "ENDPOINT": server.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": template,
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_TOKEN_PATH": str(tmp_path / "token"),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
    }.items():
        monkeypatch.setattr(constants, name, value)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    names._fetched.cache_clear()
    yield server
    names._fetched.cache_clear()
    connections.close_session()
    server.stop()


@pytest.fixture
def offline(monkeypatch):
    """A function that sets HF_HUB_OFFLINE, after the import of huggingface_hub."""

    def switch():
        from huggingface_hub import constants

        from lors.checkpoint import hub as names

        names._fetched.cache_clear()
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    return switch
