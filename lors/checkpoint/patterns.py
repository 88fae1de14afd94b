"""Regular expressions from files, matched within a time limit: some would need years for a name."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable

from lors.errors import BRIEF

SECONDS = 1.5
"""Limit of the CPU time for all names and patterns of a file."""
# In a process of its own, because the matching of one name cannot be interrupted.
_PROGRAM = f"""
import json, re, signal, sys
signal.setitimer(signal.ITIMER_PROF, {SECONDS})  # its signal ends the process
patterns, names = json.load(sys.stdin)
found = dict.fromkeys(names)
for pattern in patterns:
    try:
        compiled = re.compile(rf"(.*\\.)?({{pattern}})$")
    except Exception as error:
        json.dump({{"pattern": pattern, "error": str(error)}}, sys.stdout)
        sys.exit()
    for name in names:
        if found[name] is None and compiled.match(name):
            found[name] = pattern
json.dump({{"found": found}}, sys.stdout)
"""


class BadPattern(Exception):
    """A pattern is not a regular expression, or the matching takes too long."""


def first_match(patterns: Iterable[str], names: Iterable[str]) -> dict[str, str | None]:
    """Return the first pattern that matches the end of each name, at a dot, as in PEFT.

    Args:
        patterns: regular expressions, in order.
        names: names of modules.

    Returns:
        Each of `names` -> the pattern; None if no pattern matches.

    Raises:
        BadPattern: a pattern is not a regular expression, or the time limit is reached.
    """
    patterns, names = list(patterns), list(names)
    if not patterns:
        return dict.fromkeys(names)
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _PROGRAM],
        input=json.dumps([patterns, names]),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BadPattern(f"matching takes longer than {SECONDS} s: {', '.join(patterns):.200}")
    answer = json.loads(done.stdout)
    if "error" in answer:
        raise BadPattern(f"{BRIEF.repr(answer['pattern'])}: {answer['error']}")
    return answer["found"]
