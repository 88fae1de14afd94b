"""Errors that a user can act on.

A problem with a file, an option or a configuration is raised as :class:`LorsError`. Any other
exception that reaches the user is a bug in LoRS and keeps its traceback.
"""

from __future__ import annotations

import difflib
import errno
import itertools
import reprlib
from collections.abc import Iterable, Sequence


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
            if isinstance(value, (list, tuple)):
                lines.append("\n    - ".join([f"  {label}:", *map(str, value)]))
            elif value is not None:
                lines.append(f"  {label}: {value}")
        super().__init__("\n".join(lines))

    @property
    def facts(self) -> list[str]:
        """The items of `got` as texts: one item if it is no list."""
        found = self.got if isinstance(self.got, (list, tuple)) else [self.got]
        return [str(item) for item in found if item is not None]


class UsageError(LorsError):
    """A wrong option, option value or configuration key (exit code 2)."""

    exit_code = 2


def from_os_error(error: OSError) -> LorsError:
    """Return an error of the operating system with the file and the next step for the user."""
    files = [name for name in (error.filename, error.filename2) if name is not None]
    return LorsError(
        error.strerror or str(error),
        where=" and ".join(map(str, files)) or None,
        hint=_OS_HINTS.get(error.errno, "mend this, then run the same command again"),
    )


_OS_HINTS: dict[int | None, str] = {
    **dict.fromkeys(
        (errno.ENOSPC, errno.EDQUOT),
        "free some space on that disk, or write elsewhere; then run the same command again",
    ),
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS),
        "change the permissions, or write to a directory of your own",
    ),
    errno.EFBIG: "raise the limit of file sizes (ulimit -f), or write to another file system",
    errno.ENOENT: "is the path right, and the disk mounted?",
    errno.EISDIR: "a file is needed here: remove the directory, or give another name",
    **dict.fromkeys(
        (errno.ENOTDIR, errno.EEXIST),
        "a directory is needed here: remove the file, or give another name",
    ),
    errno.ENOTEMPTY: "empty this directory, or give another name",
    errno.ENAMETOOLONG: "shorten this name",
    **dict.fromkeys(
        (errno.EINVAL, errno.EILSEQ),
        "does the file system allow this name? Try letters, digits, - and _",
    ),
    errno.ELOOP: "remove the symbolic links that point at each other",
    **dict.fromkeys(
        (errno.EMFILE, errno.ENFILE), "raise the limit of open files (ulimit -n), or use fewer jobs"
    ),
    **dict.fromkeys(
        (errno.ENOMEM, errno.EAGAIN),
        "end other programs, or use fewer jobs (--nj): memory or processes are used up",
    ),
    **dict.fromkeys(
        (errno.EBUSY, errno.ETXTBSY), "end the program that uses this, then run the command again"
    ),
    errno.EXDEV: "both paths must be on one file system",
    **dict.fromkeys(
        (errno.ETIMEDOUT, errno.ECONNREFUSED, errno.ECONNRESET, errno.ENETUNREACH),
        "check the network, then run the same command again",
    ),
    errno.EIO: "the disk or the network file system has an error: see the messages of the system",
    errno.ESTALE: "the network file system was restarted: run the same command again",
}
"""Error number of the operating system -> the next step for the user."""


def pip_install(words: str) -> str:
    """Return the command that installs packages into the environment of the recipes.

    It is for packages of programs that recipes run. Their interpreter is not on the user's PATH.

    Args:
        words: packages and options of pip, quoted for the shell.
    """
    return f'"$(utils/install.sh)" -m pip install {words}'


def unknown_name(
    kind: str, name: str | Sequence[str], valid: Iterable[str], where: object = None
) -> UsageError:
    """Return the error for names that are not in `valid`, with similar names and the valid ones.

    Args:
        kind: what the names are, in the singular.
        name: an unknown name, or all unknown names.
        valid: the known names.
        where: the option or file with the names.
    """
    valid = sorted(valid)
    names = [name] if isinstance(name, str) else list(name)
    hints = [near_matches(name, valid) for name in names[:SHOWN_NAMES]]
    return UsageError(
        f"unknown {kind} " + ", ".join(shortened((f"'{name}'" for name in names), SHOWN_NAMES)),
        where=where,
        expected=f"one of: {', '.join(shortened(valid, MOST_COMPARED))}",
        hint="; ".join(filter(None, hints)) or None,
    )


def near_matches(name: str, valid: Iterable[str]) -> str | None:
    """Return a hint with the names most similar to `name`; None if no name is similar.

    It takes 20 ms at most: names of more than `LONGEST_COMPARED` characters are not compared, and
    no more than `MOST_COMPARED` of the valid ones are.
    """
    if len(name) > LONGEST_COMPARED:
        return None
    # Other lengths cannot be similar: the similarity is 2 * (common characters) / (all characters).
    near_length = (v for v in valid if len(name) <= 3 * len(v) and len(v) <= 3 * len(name))
    compared = list(itertools.islice(near_length, MOST_COMPARED))
    near = difflib.get_close_matches(name, compared, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else None


SHOWN_NAMES = 20
"""Most unknown names that one message shows."""
LONGEST_COMPARED, MOST_COMPARED = 64, 1000
"""Longest name that is compared, and most names it is compared with."""


class _Brief(reprlib.Repr):
    def repr(self, value: object) -> str:
        text = super().repr(value)
        return text if len(text) <= 400 else f"{text[:400]}..."

    def repr_int(self, value: int, level: int) -> str:
        # Python refuses to write integers of more than 4300 digits.
        return super().repr_int(value, level) if abs(value) < 2**4096 else "a huge integer"


BRIEF = _Brief()
"""Representation of values in messages: long ones, such as a vocabulary, are cut."""
BRIEF.maxstring = BRIEF.maxother = 100


def shortened(items: Iterable[object], shown: int = 5) -> list[str]:
    """Return the first `shown` items as text; the others are counted as ``and 7 more``."""
    texts = [str(item) for item in items]
    more = len(texts) - shown
    return texts if more <= 0 else [*texts[:shown], f"and {more} more"]
