"""Costs of a program in a process of its own, and the bounds of a refusal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lors.errors import shortened

CPU_SECONDS = 2.0
MEGABYTES = 200.0
"""Bounds of a refusal, beyond the costs of the same program with a small valid input."""
TEXT = 20_000
"""Longest message of a refusal, in characters."""
ROUNDS = 3
"""Most measurements of a hostile input. Other work on the machine makes a process dearer, never
cheaper, so the least of several costs is nearest to its own."""
LIMIT = 20
"""CPU seconds after which a program is stopped: a test of a refusal without bounds must end."""
# A process takes over the peak of memory of the process that starts it. This one is small.
_STARTER = f"""
import json, os, resource, sys
process = os.fork()
if not process:
    resource.setrlimit(resource.RLIMIT_CPU, ({LIMIT}, {LIMIT}))
    os.execvp(sys.argv[2], sys.argv[2:])
_, status, used = os.wait4(process, 0)
with open(sys.argv[1], "w") as file:
    json.dump([used.ru_utime + used.ru_stime, used.ru_maxrss / 1024], file)
sys.exit(min(os.waitstatus_to_exitcode(status) % 256, 255))
"""


@dataclass(frozen=True)
class Costs:
    """Costs of a program, with all processes that it waited for.

    Attributes:
        status: exit status; 256 minus the signal for a program that a signal ended.
        cpu: CPU seconds, user and system. They hardly depend on other work on the machine.
        megabytes: peak of the resident memory of one of its processes.
        error: what it wrote to stderr.
    """

    status: int
    cpu: float
    megabytes: float
    error: str


def costs_of(command: Sequence[str], cwd: Path, environment: Mapping[str, str] = {}) -> Costs:
    """Run a command and return its costs.

    Args:
        command: the program, found on PATH, and its arguments.
        cwd: an existing directory; a file ``costs.json`` is left in it.
        environment: variables to set.
    """
    found = cwd / "costs.json"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _STARTER, str(found), *command],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    return Costs(done.returncode, *json.loads(found.read_text()), done.stderr)


def check_refusal(
    case: Callable[[Path, bool], Sequence[str]], folder: Path, *facts: object, status: int
) -> None:
    """Check that a program refuses a hostile input clearly, within the bounds of this module.

    Args:
        case: function that writes the inputs into a folder, small and valid or hostile (True), and
            returns the command.
        folder: an empty directory.
        facts: texts or numbers that the message must hold.
        status: exit status of the refusal: 1 for an input, 2 for an option or a configuration.
    """
    commands = {}
    for name in ("small", "hostile"):
        place = folder / name
        place.mkdir()
        commands[name] = list(map(str, case(place, name == "hostile")))
    program = tuple(commands["small"][:3])
    if program not in _SMALL:
        _SMALL[program] = costs_of(commands["small"], folder / "small")
    small, cpu, megabytes = _SMALL[program], [], []
    assert small.status == 0, small.error
    for _ in range(ROUNDS):
        refused = costs_of(commands["hostile"], folder / "hostile")
        assert refused.status == status, (refused.status, refused.error[-2000:])
        assert "Traceback" not in refused.error and len(refused.error) < TEXT, refused.error[:TEXT]
        missing = [fact for fact in facts if str(fact) not in refused.error]
        assert not missing, f"{shortened(missing)} not in: {refused.error}"
        cpu.append(refused.cpu - small.cpu)
        megabytes.append(refused.megabytes - small.megabytes)
        if min(cpu) <= CPU_SECONDS and min(megabytes) <= MEGABYTES:
            return
    raise AssertionError(
        f"{min(cpu):.1f} CPU s and {min(megabytes):.0f} MB more than for a small input"
    )


_SMALL: dict[tuple[str, ...], Costs] = {}
"""Python, its option and the program -> the costs with a small valid input, measured once."""
