"""conf/slurm.conf: how the options of a call become words for sbatch, in Kaldi's grammar.

command CMD ...           the command that submits
option NAME=* WORDS       --NAME VALUE adds WORDS, with $0 replaced by VALUE
option NAME=VALUE WORDS   the same for this one VALUE
default NAME=VALUE        the value if a call gives none
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from job_options import DEFAULTS, Call, UsageError

CONFIG = Path("conf/slurm.conf")
SWITCHES = {"detach": "", "dry_run": ""}
"""Options of utils/slurm.py alone, with their defaults: true or false."""
LARGEST_FILE = 1 << 20
_NOT_FOR_SBATCH = {"max_jobs_run", "config", "retry", "requeue", *SWITCHES}


def sbatch_words(call: Call) -> list[str]:
    """Return the command that submits a call; fill missing options of the call with the defaults.

    The configuration is that of --config, or else of the recipe, or else of this repository.

    Raises:
        UsageError: the configuration is wrong, or lacks an option of the call.
    """
    given = call.options["config"]
    here = Path(__file__).resolve().parent.parent
    config = SlurmConf(Path(given) if given else CONFIG if CONFIG.exists() else here / CONFIG)
    call.take_defaults(config.defaults)
    options = {name: str(getattr(call, name)) for name in ("num_threads", "gpu", "num_nodes")}
    if call.requeue:
        options["requeue"] = str(call.requeue)
    others = {**config.defaults, **call.given}
    options |= {k: value for k, value in others.items() if k not in _NOT_FOR_SBATCH and value}
    return [*config.command, *config.words(options)]


class SlurmConf:
    """A configuration file.

    Attributes:
        command: the words of ``command``.
        options: (name, value or ``*``) -> the words of ``option``.
        defaults: name -> the value of ``default``.

    Raises:
        UsageError: the file cannot be read, or has wrong lines, which are all listed.
    """

    def __init__(self, path: Path):
        self.path = path
        self.command = ["sbatch"]
        self.options: dict[tuple[str, str], list[str]] = {}
        self.defaults: dict[str, str] = {}
        problems = []
        for number, line in enumerate(_lines_of(path), 1):
            try:
                self._read(shlex.split(_text_of(line), comments=True))
            except ValueError as error:
                said = line[:80].decode(errors="backslashreplace").strip()
                problems.append(f"{path}:{number}: {error}: {said}")
        if problems:
            raise UsageError("\n  ".join(["wrong lines in the configuration", *problems]))

    def _read(self, words: list[str]) -> None:
        if not words:
            return
        kind, rest = words[0], words[1:]
        if kind == "command" and rest:
            self.command = rest
            return
        match = re.fullmatch(r"([A-Za-z][\w-]*)=(.*)", rest[0]) if rest else None
        if kind not in ("option", "default") or not match:
            raise ValueError("expected 'command ...', 'option A=B ...' or 'default A=B'")
        name, value = match[1].replace("-", "_"), match[2]
        if kind == "option":
            self.options[name, value] = rest[1:]
        elif name in ("config", *SWITCHES):
            raise ValueError(f"--{name} is an option of calls only, it cannot have a default here")
        elif len(rest) == 1:
            self.defaults[name] = value
        else:
            raise ValueError("expected one word after 'default'")

    def words(self, options: Mapping[str, str]) -> list[str]:
        """Return the words for sbatch that these options add."""
        result = []
        for name, value in options.items():
            words = self.options.get((name, value), self.options.get((name, "*")))
            if words is None and name in DEFAULTS:
                raise UsageError(f"{self.path}: no line 'option {name}=* ...' for --{name} {value}")
            if words is None:
                known = sorted({f"--{option}" for option, _ in self.options})
                raise UsageError(
                    f"--{name} {value}: not an option of utils/slurm.py, nor of {self.path}"
                    f" (which has {', '.join(known)})"
                )
            result += [word.replace("$0", value) for word in words]
        return result


def _lines_of(path: Path) -> list[bytes]:
    """Read the lines of a configuration file; UsageError if it is none."""
    try:
        if path.exists() and not path.is_file():
            raise UsageError(f"cannot read {path}: it is not a file")
        with path.open("rb") as handle:
            content = handle.read(LARGEST_FILE + 1)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    if len(content) > LARGEST_FILE:
        raise UsageError(f"cannot read {path}: over {LARGEST_FILE} bytes, so no configuration")
    return content.split(b"\n")


def _text_of(line: bytes) -> str:
    """Return a line as text; ValueError if it is no text of UTF-8."""
    try:
        text = line.decode()
    except UnicodeDecodeError:
        raise ValueError("not UTF-8, save the file in UTF-8") from None
    if "\0" in text:
        raise ValueError("a NUL byte, is this a text file?")
    return text
