"""Run a command that is killed as soon as the process that called this is gone.

Usage: python -m lors.bin.end_with_parent COMMAND [ARGUMENT ...]

For what a recipe's driver calls that is no program of lors. The command takes the place of this
process.
"""

from __future__ import annotations

import os
import sys

from lors.processes import end_with_parent


def main(argv: list[str] | None = None) -> int:
    command = sys.argv[1:] if argv is None else argv
    if not command or command[0] in ("-h", "--help"):
        print(__doc__.strip(), file=sys.stdout if command else sys.stderr)
        return 0 if command else 2
    end_with_parent()
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"end_with_parent: {command[0]}: {error.strerror}", file=sys.stderr)
        return 127 if isinstance(error, FileNotFoundError) else 126


if __name__ == "__main__":
    sys.exit(main())
