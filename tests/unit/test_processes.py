"""lors.processes: child processes end with their parent, also if it is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lors.processes import DRIVER

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has this signal")

PARENT = """
import subprocess, sys, time
child = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, text=True)
print(child.pid, child.stdout.readline(), flush=True)
time.sleep(60)
"""
SLEEPS = "print('there', flush=True); import time; time.sleep(60)"
POOL = """
import os, sys, time
from lors.data.{module}
print(os.getpid(), flush=True)
with {pool} as pool:
    print(pool{submit}, flush=True)
    time.sleep(60)
"""


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def words_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


def blocks_interrupts(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    return bool(int(status.partition("SigBlk:")[2].split()[0], 16) & 1 << signal.SIGINT - 1)


def wait_for_end(pid: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not is_running(pid)


def survives_its_parent(command: list[str], environment: dict[str, str]) -> bool:
    """Kill the parent of a command; return whether the command still runs a second later."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, *command],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
    )
    child = int(parent.stdout.readline().split()[0])
    parent.kill()
    parent.wait()
    parent.stdout.close()
    ended = wait_for_end(child, 1.0)
    if not ended:
        os.kill(child, signal.SIGKILL)
    return not ended


def test_programs_of_a_recipe_end_with_their_parent():
    command = [sys.executable, "-c", f"import lors.bin; {SLEEPS}"]
    assert not survives_its_parent(command, {DRIVER: "1"})


def test_programs_that_no_recipe_started_go_on():
    command = [sys.executable, "-c", f"import lors.bin; {SLEEPS}"]
    assert survives_its_parent(command, {DRIVER: ""})


@pytest.mark.parametrize(
    ("module", "pool", "submit"),
    [
        ("conversion import worker_pool", "worker_pool(1)", ".submit(os.getpid).result()"),
        ("espeak.corpus import _workers", "_workers(2)", "(os.path.getsize, ['/']).__next__()"),
    ],
)
def test_worker_processes_end_with_their_parent(tmp_path, module, pool, submit):
    """The parent is killed. Workers block Ctrl-C from their first instruction."""
    script = tmp_path / "pool.py"
    body = POOL.format(module=module, pool=pool, submit=submit).strip().splitlines()
    lines = [*body[:2], "if __name__ == '__main__':", *(f"    {line}" for line in body[2:])]
    script.write_text("\n".join(lines))
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    parent.stdout.readline()
    parent.stdout.readline()  # a worker has answered
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    workers = [int(pid) for pid in children.read_text().split()]
    assert workers
    helper = "multiprocessing.resource_tracker"  # it handles Ctrl-C itself
    blocked = [blocks_interrupts(pid) for pid in workers if helper not in words_of(pid)]
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert blocked and all(blocked)
    # The resource tracker of multiprocessing ends after the last worker.
    assert all(wait_for_end(worker, 10.0) for worker in workers)
