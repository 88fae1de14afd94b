"""Errors a user can act on.

Everything that can go wrong because of a file, an option or a configuration is raised as
:class:`LorsError`. Anything else that escapes is a bug in LoRS and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LorsError(Exception):
    """A problem with the user's data, files or machine (exit code 1).

    Args:
        what: one sentence, what went wrong.
        where: the file, line, tensor or option concerned.
        expected: what was expected there.
        got: what was found instead; of a list, every item gets a line of its own.
        hint: what to do next, ideally a command.
    """

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        expected: object = None,
        got: object = None,
        hint: str | None = None,
    ):
        self.what, self.where, self.expected, self.got, self.hint = what, where, expected, got, hint
        lines = [what]
        for label, value in (
            ("where", where),
            ("expected", expected),
            ("got", got),
            ("what to do", hint),
        ):
            if isinstance(value, list | tuple):
                lines.append("\n    - ".join([f"  {label}:", *map(str, value)]))
            elif value is not None:
                lines.append(f"  {label}: {value}")
        super().__init__("\n".join(lines))


class UsageError(LorsError):
    """A wrong option, option value or configuration key (exit code 2)."""

    exit_code = 2


def unknown_name(kind: str, name: str, valid: Iterable[str], where: object = None) -> UsageError:
    """The error for a name that is not in a known list, with near matches and the whole list."""
    valid = sorted(valid)
    return UsageError(
        f"unknown {kind} '{name}'",
        where=where,
        expected=f"one of: {', '.join(valid)}",
        hint=near_matches(name, valid),
    )


def near_matches(name: str, valid: Iterable[str]) -> str | None:
    """The hint at names that are nearly this one; None if there are none."""
    near = difflib.get_close_matches(name, list(valid), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else None


def shortened(items: Iterable[object], shown: int = 5) -> list[str]:
    """The first items as text; more than `shown` are counted: ``a, b, and 7 more``."""
    texts = [str(item) for item in items]
    more = len(texts) - shown
    return texts if more <= 0 else [*texts[:shown], f"and {more} more"]
