"""Costs of a program in a process of its own, and the bounds of a refusal."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

CPU_SECONDS = 4.0
MEGABYTES = 200.0
"""Bounds of a refusal, beyond the costs of the same program with a small valid input.

The dearest one takes a second of a fast CPU, and CPUs differ by a factor of three."""
TEXT = 20_000
"""Longest message of a refusal, in characters."""
ROUNDS = 3
"""Most measurements of a case. Other work on the machine makes a process dearer, never cheaper, so
the least of several costs is nearest to its own."""
LIMIT = 20
"""CPU seconds after which a program is stopped: a test of a refusal without bounds must end."""
# Forks a process for each command. `python -m` runs in the fork, with the program's imports done
# before: they cost more than any refusal.
_SERVER = f"""
import importlib, json, os, resource, runpy, sys, traceback

def run(command):
    resource.setrlimit(resource.RLIMIT_CPU, ({LIMIT}, {LIMIT}))
    if command[1] != "-m":
        os.execvp(command[0], command)
    sys.argv = command[2:]
    try:
        runpy.run_module(command[2], run_name="__main__", alter_sys=True)
        return 0
    except SystemExit as end:
        return end.code
    except BaseException:
        traceback.print_exc()
        return 1

for line in sys.stdin:
    command, place = json.loads(line)
    if command[1] == "-m":
        importlib.import_module(command[2])
    process = os.fork()
    if not process:
        os.chdir(place)
        for number, name in ((0, os.devnull), (1, os.devnull), (2, "stderr.txt")):
            os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC), number)
        status = run(command)
        sys.stderr.flush()
        os._exit(status or 0)
    _, status, used = os.wait4(process, 0)
    status = os.waitstatus_to_exitcode(status)
    print(json.dumps([status, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024]), flush=True)
"""


@dataclass(frozen=True)
class Costs:
    """Costs of a program, with all processes that it waited for.

    Attributes:
        status: exit status; a negative number is the signal that ended the program.
        cpu: CPU seconds, user and system. They hardly depend on other work on the machine.
        megabytes: peak of the resident memory of one of its processes.
        error: text that it wrote to stderr.
    """

    status: int
    cpu: float
    megabytes: float
    error: str


@functools.cache
def _server(imports: bool) -> subprocess.Popen:
    """Return the process that starts programs; it ends with pytest, when its stdin is closed.

    A program takes over the peak of memory of the process that starts it, so one without imports
    starts all commands but ``python -m``.
    """
    return subprocess.Popen(
        [sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def costs_of(command: Sequence[object], place: Path) -> Costs:
    """Run a command and return its costs; those of ``python -m`` without its imports.

    Args:
        command: the program, found on PATH, and its arguments.
        place: directory to run it in.
    """
    words = list(map(str, command))
    server = _server(imports=words[1] == "-m")
    print(json.dumps([words, str(place)]), file=server.stdin, flush=True)
    found = json.loads(server.stdout.readline())
    return Costs(*found, (place / "stderr.txt").read_text(errors="replace"))


def check_refusal(
    case: Callable[[Path, bool], Sequence[object]], folder: Path, *facts: object, status: int
) -> None:
    """Check that a program refuses a hostile input clearly, within the bounds of this module.

    Args:
        case: function that writes the inputs into a folder, small and valid or hostile (True), and
            returns the command.
        folder: an empty directory.
        facts: texts or numbers that the message must hold.
        status: exit status of the refusal: 1 for an input, 2 for an option or a configuration.
    """
    places = folder / "small", folder / "hostile"
    for place in places:
        place.mkdir()
    commands = [case(place, place.name == "hostile") for place in places]
    cpu, megabytes = [], []
    for _ in range(ROUNDS):
        small, refused = map(costs_of, commands, places)
        assert small.status == 0, small.error
        assert refused.status == status, (refused.status, refused.error[-2000:])
        assert "Traceback" not in refused.error and len(refused.error) < TEXT, refused.error[:TEXT]
        missing = [fact for fact in facts if str(fact) not in refused.error]
        assert not missing, f"{missing} not in: {refused.error}"
        cpu.append(refused.cpu - small.cpu)
        megabytes.append(refused.megabytes - small.megabytes)
        if min(cpu) <= CPU_SECONDS and min(megabytes) <= MEGABYTES:
            return
    raise AssertionError(
        f"{min(cpu):.1f} CPU s and {min(megabytes):.0f} MB more than for a small input"
    )
