"""lors.recipe.job_log with logs of all kinds; tests/contract/test_job_logs.py makes real ones."""

import os
import time
import tracemalloc

import pytest

from lors.recipe.job_log import error_in, read_job_log


def test_log_of_a_wrapper(tmp_path):
    path = tmp_path / "x.log"
    path.write_text(
        "slurmstepd: a line of the cluster\n# python -m a.b --text 'x y' --job 2\n"
        "# Running on node7.cluster, process 42, Slurm job 12_3\n"
        "# Started at 2025-01-01T12:00:00\n#\nhello\n"
    )
    log = read_job_log(path)
    process = log.process
    assert (process.host, process.pid, process.slurm_job) == ("node7.cluster", 42, "12_3")
    assert log.module == "a.b" and log.option("text") == ["x y"] and log.option("job") == ["2"]
    assert log.option("none") == [] and log.status is None
    assert process.seen_at == time.mktime((2025, 1, 1, 12, 0, 0, 0, 0, -1))


OOM = "slurmstepd: error: Detected 1 oom_kill event in StepId=12.batch."


@pytest.mark.parametrize(
    ("then", "status"),
    [("", 137), (f"{OOM}\n", 137), ("# python -m a.b\n# Running on node8, process 43\n#\n", None)],
)
def test_lines_after_the_end(tmp_path, then, status):
    """Slurm may write after the wrapper. A job that runs again appends to its log."""
    log = "# python -m a.b\n# Running on node7, process 42\n#\n"
    log += "# Finished at 2025-01-01T12:00:00 with status 137\n"
    (tmp_path / "x.log").write_text(log + then)
    assert read_job_log(tmp_path / "x.log").status == status


def test_logs_of_other_kinds(tmp_path):
    assert read_job_log(tmp_path / "none.log") is None
    (tmp_path / "x.log").write_bytes(b"\xff\xfe no header\n")
    assert read_job_log(tmp_path / "x.log") is None
    kaldi = "# sh -c 'x\n# Running on node7\n# Started at Wed Jan 1 12:00:00 UTC 2025\n#\nsaid\n"
    kaldi += "# Accounting: time=1 threads=1\n# Ended (code 7) at Wed Jan 1 12:00:01 UTC 2025\n"
    (tmp_path / "x.log").write_text(kaldi)
    log = read_job_log(tmp_path / "x.log")
    assert log.status == 7 and log.process.seen_at is None and log.command == ("sh", "-c", "'x")


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ("Traceback (most recent call last):\n  File 'x'\nKeyError: 'y'", "KeyError: 'y'"),
        (
            "train: error: it failed\n  got:\n    main.py: error: no --x\n  what to do: mend",
            "main.py: error: no --x",
        ),
        # Programs that start others report their end, below the reason.
        (
            "KeyError: 'y'\nelastic.multiprocessing.errors.ChildFailedError:\n---",
            "KeyError: 'y'",
        ),
        ("KeyError: 'y'\ntrain: error: training failed\n  where: exp/base", "KeyError: 'y'"),
        ("train: error: training failed\n  where: exp/base", "train: error: training failed"),
        ("one\ntwo\n\n", "two"),
        ("torch.OutOfMemoryError: CUDA\n# Ended by SIGKILL (out of memory?)", None),
        (f"# Ended by SIGKILL (out of memory?)\n{OOM}", None),
        ("RuntimeError: real reason\n# Ended by SIGTERM", "RuntimeError: real reason"),
        ("step 3\n# Ended by SIGSEGV", "ended by SIGSEGV"),
        ("# Ended by Slurm (SIGTERM)\n# Running on h\nKeyError: 'y'", "KeyError: 'y'"),
        ("", ""),
        ("x" * 300, "x" * 157 + "..."),
    ],
)
def test_error_of_a_log(tmp_path, said, error):
    (tmp_path / "x.log").write_text(f"# command\n# Running on h\n{said}\n# Finished at x\n")
    expected = "ended by SIGKILL (out of memory?)" if error is None else error
    assert error_in(tmp_path / "x.log") == expected


BEGIN = b"# echo 1\n# Running on h, process 7\n# Started at 2025-01-01T12:00:00\n#\n"
END = b"\n# Accounting: time=1 threads=1\n# Finished at 2025-01-01T12:00:01 with status 3\n"


def write_large(path, begin, end):
    """Write a file of 4 GB with one line of NUL bytes, which takes no space on the disk."""
    with path.open("wb") as handle:
        handle.write(begin)
        handle.truncate(1 << 32)
        handle.seek(0, os.SEEK_END)
        handle.write(end)


def test_large_log_is_read_at_both_ends_only(tmp_path):
    path = tmp_path / "x.log"
    write_large(path, BEGIN, b"\nKeyError: 'y'" + END)
    tracemalloc.start()
    began = time.process_time()
    log, error = read_job_log(path), error_in(path)
    assert (log.command, log.status, error) == (("echo", "1"), 3, "KeyError: 'y'")
    write_large(path, b"", END)
    assert read_job_log(path) is None
    write_large(path, BEGIN, b": error: " * 10_000 + END)
    assert len(error_in(path)) == 160
    assert time.process_time() - began < 2
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\0",
        b"# a 'b\n# Running on h\n",
        b"# a\n# Running on h, process " + b"9" * 5000 + b"\n",
        b"# a\n# Running on h\n# Started at 9999999999-99-99T99:99:99\n",
        b"# a\n# Running on h\n# Finished at x with status " + b"9" * 5000 + b"\n",
    ],
)
def test_damaged_log(tmp_path, content):
    path = tmp_path / "x.log"
    path.write_bytes(content)
    log = read_job_log(path)
    assert log is None or (log.process.host == "h" and log.status is None)
    assert isinstance(error_in(path), str)


def test_what_is_not_a_file(tmp_path):
    os.mkfifo(tmp_path / "x.log")
    (tmp_path / "y.log").mkdir()
    assert all(read_job_log(tmp_path / name) is None for name in ("x.log", "y.log", "z.log"))
