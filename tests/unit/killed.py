"""Processes that are killed in the middle of their work."""

import subprocess
import sys
from pathlib import Path

KILLED = """
import os, signal, sys
from pathlib import Path
from lors.done_marker import DoneMarker
from lors.fileio import atomic_directory, atomic_write, scratch_directory
place = Path(sys.argv[1])
with {block} as made:
    if hasattr(made, "write"):
        made.write("half a file, longer than the one that is to come")
        made.flush()
    elif made is not None:
        (made / "half").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def kill_within(block: str, place: Path) -> None:
    """Kill a process with SIGKILL in the ``with`` statement `block`."""
    done = subprocess.run([sys.executable, "-c", KILLED.format(block=block), place], timeout=60)
    assert done.returncode == -9
