"""Settings of all tests: their order and the report of the total time."""

import os
import signal
import time
from pathlib import Path

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
