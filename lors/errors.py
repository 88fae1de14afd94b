"""Errors that a user can act on.

A problem with a file, an option or a configuration is raised as :class:`LorsError`. Any other
exception that reaches the user is a bug in LoRS and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LorsError(Exception):
    """A problem with the user's data, files or machine (exit code 1).

    Args:
        what: the problem, in one sentence.
        where: the file, line, tensor or option with the problem.
        expected: the value or form that would be correct.
        got: the value or form that was found.
        hint: the next step for the user, ideally a command.

    `where`, `expected` and `got` may be lists: the message has one line for each item.
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
    """Return the error for a name that is not in `valid`, with similar names and the whole list."""
    valid = sorted(valid)
    return UsageError(
        f"unknown {kind} '{name}'",
        where=where,
        expected=f"one of: {', '.join(valid)}",
        hint=near_matches(name, valid),
    )


def near_matches(name: str, valid: Iterable[str]) -> str | None:
    """Return a hint with the names most similar to `name`; None if no name is similar."""
    near = difflib.get_close_matches(name, list(valid), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else None


def shortened(items: Iterable[object], shown: int = 5) -> list[str]:
    """Return the first `shown` items as text; the others are counted as ``and 7 more``."""
    texts = [str(item) for item in items]
    more = len(texts) - shown
    return texts if more <= 0 else [*texts[:shown], f"and {more} more"]
