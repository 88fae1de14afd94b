"""The directory of a call of utils/slurm.py: the files that the call and its tasks exchange.

It lies beside the logs, as ``.LOG.slurm.XXXXXX``, and is removed when the call ends. A is the id of
a job array, N the number of a job:

| file | content | written by |
|---|---|---|
| ``task`` | what to run: :func:`task_file` | utils/slurm.py |
| ``call.json`` | who made the call, for a later call with the same logs | utils/slurm.py |
| ``started.A_N`` | Slurm's restart count at the latest start of the task | utils/slurm_task.sh |
| ``requeued.N`` | a byte for each return of the job to the queue | utils/slurm_task.sh |
| ``status.A_N`` | exit status of a task that has ended, a line | utils/slurm_task.sh |
"""

from __future__ import annotations

import glob
import json
import os
import re
import shutil
import tempfile
from collections.abc import Container, Mapping
from pathlib import Path

from job_options import Call
from jobs import command_line


class CallDirectory:
    """The directory of a call."""

    def __init__(self, path: Path):
        self.path = path

    @classmethod
    def make(cls, logs: Path, call: Call) -> CallDirectory:
        """Make the directory of a call; remove those of earlier calls with the same logs.

        Args:
            logs: the logs' name with JOB in it.
            call: the call.
        """
        for old in _directories(logs):
            shutil.rmtree(old, ignore_errors=True)
        logs.parent.mkdir(parents=True, exist_ok=True)
        path = Path(tempfile.mkdtemp(prefix=_prefix(logs), dir=logs.parent))
        maker = {
            "detached": call.options["detach"] == "true",
            "host": os.uname().nodename,
            "pid": os.getpid(),
            "inside": os.environ.get("SLURM_ARRAY_JOB_ID", ""),
        }
        (path / "call.json").write_text(json.dumps(maker))
        (path / "task").write_bytes(task_file(call))
        return cls(path)

    def statuses(self, tasks: Mapping[int, int]) -> dict[int, int]:
        """Return the exit statuses that tasks have left: number -> status.

        A file without a whole line is not counted: it is being written, or its task was killed or
        the disk was full.

        Args:
            tasks: number of a job -> id of the array whose status counts.
        """
        found = {}
        for path in self.path.glob("status.*"):
            name = re.fullmatch(r"\.([0-9]{1,18})_([0-9]{1,18})", path.suffix)
            if name and tasks.get(int(name[2])) == int(name[1]):
                line = re.fullmatch(rb"([0-9]{1,3})\n", path.read_bytes())
                if line:
                    found[int(name[2])] = int(line[1])
        return found

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def _prefix(logs: Path) -> str:
    return f".{logs.name}.slurm."


def _directories(logs: Path) -> list[Path]:
    return list(logs.parent.glob(glob.escape(_prefix(logs)) + "*"))


def owner_at_work(logs: Path, ids: str, started: Container[str]) -> str:
    """Return the process or job that still waits for the jobs of an earlier call; empty if none.

    Args:
        logs: the logs' name with JOB in it.
        ids: the job ids of that call, for the answer.
        started: ids of this user's job arrays that have started.
    """
    owners = (_owner(path / "call.json", ids, started) for path in _directories(logs))
    return next(filter(None, owners), "")


def _owner(call_json: Path, ids: str, started: Container[str]) -> str:
    try:
        call = json.loads(call_json.read_text(encoding="ascii"))
        detached, inside, host, pid = (call[k] for k in ("detached", "inside", "host", "pid"))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""  # damaged
    if detached:
        return f"job {ids}"
    if inside:  # the call was made in a job, perhaps in this one before it was requeued
        other = inside != os.environ.get("SLURM_ARRAY_JOB_ID") and inside in started
        return f"job {inside}" if other else ""
    here = host == os.uname().nodename and isinstance(pid, int) and _is_running(pid)
    return f"process {pid}" if here else ""


def _is_running(pid: int) -> bool:
    """Return whether a process with this number runs on this machine, for any user."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    except OverflowError:  # the file is damaged
        return False
    return True


def task_file(call: Call) -> bytes:
    """Return the file for utils/slurm_task.sh: settings, command line, and words of the command.

    Every field ends with a NUL. The settings are the options num_threads, gpu, requeue and detach.
    The command line (for the log) and each word are cut where the job's number belongs, a field for
    each piece. The task fills in the number: w begins the first piece of a text, j any other piece.
    """
    fields = [str(value) for value in (call.num_threads, call.gpu, call.requeue)]
    fields.append(call.options["detach"] or "false")
    for text in [command_line(call.command), *call.command]:
        first, *rest = call.split_at_job(text)
        fields += [f"w{first}", *(f"j{piece}" for piece in rest)]
    return os.fsencode("".join(f"{field}\0" for field in fields))
