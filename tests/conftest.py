"""Settings of all tests: order, report of the total time, and a Hugging Face Hub on loopback."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.hub_server import Hub

# Tests in the background of a shell ignore Ctrl-C, and tests under nohup ignore the end of the
# terminal. The processes that the tests interrupt would inherit this.
signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)  # a handler, unlike SIG_IGN, is not inherited

TIERS = ("unit", "contract", "fuzz", "reference", "integration")


def pytest_addoption(parser):
    parser.addoption(
        "--full",
        action="store_true",
        help="30 kills of the mini recipe, 10,000 inputs for each fuzzer",
    )


def tier_of(item):
    """Return the index of a test's folder in TIERS: quick tests run before slow tests."""
    folder = Path(item.path).relative_to(Path(__file__).parent).parts[0]
    return TIERS.index(folder) if folder in TIERS else len(TIERS)


def pytest_collection_modifyitems(items):
    items.sort(key=tier_of)


def pytest_terminal_summary(terminalreporter):
    began = os.environ.get("LORS_TESTS_BEGAN")
    if began:
        seconds = time.time() - float(began)
        terminalreporter.write_line(f"total time with set-up and source checks: {seconds:.0f} s")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty Hub; huggingface_hub asks it, with an empty cache and without a token."""
    import huggingface_hub.constants as constants
    import huggingface_hub.utils._http as connections

    from lors.checkpoint import hub as names

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
