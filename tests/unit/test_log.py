"""lors.log: log lines, and the exit codes of every program."""

import argparse
import errno
import logging
import os
import re
import signal
import subprocess
import sys

import pytest

from lors.errors import LorsError, UsageError
from lors.log import run_main, setup_logging, show_progress


@pytest.fixture(autouse=True)
def leave_the_process_as_it_was():
    """run_main sets a signal handler and the root logger's handlers."""
    handler, handlers = signal.getsignal(signal.SIGTERM), logging.getLogger().handlers[:]
    level = logging.getLogger().level
    yield
    signal.signal(signal.SIGTERM, handler)
    logging.getLogger().handlers[:] = handlers
    logging.getLogger().setLevel(level)


def main_that(action):
    """Return the main function of a program with one option that calls action(args)."""
    parser = argparse.ArgumentParser(prog="python -m lors.bin.example")
    parser.add_argument("--x", type=int, default=0)
    return lambda *argv: run_main(parser, action, argv)


def raising(error):
    def action(args):
        raise error

    return action


def test_log_lines(capsys):
    setup_logging()
    logging.info("%d clips", 3)
    logging.debug("not shown")
    captured = capsys.readouterr()
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d \(test_log\.py:\d+\) 3 clips\n", captured.err
    )
    assert captured.out == ""


def test_import_changes_no_setting():
    code = "import logging, lors.log, signal; print(logging.root.handlers, "
    code += "signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[] True\n"


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (LorsError("no clips", where="a.tsv"), 1, "error: no clips\n  where: a.tsv\n"),
        (UsageError("bad option"), 2, "error: bad option\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_errors_become_a_message_and_an_exit_code(capsys, error, status, text):
    assert main_that(raising(error))() == status
    captured = capsys.readouterr()
    prog = "python -m lors.bin.example: "
    assert captured.err == prog + text and captured.out == ""


PRINTING = """
import argparse, os, sys
from lors.log import run_main
def work(args):
    if sys.argv[1] == "stdout":
        print("x" * 10**6)
    else:
        reader, writer = os.pipe()
        os.close(reader)
        os.write(writer, b"x")
sys.exit(run_main(argparse.ArgumentParser(), work, []))
"""


def test_end_of_the_reader_of_stdout_is_no_message():
    command = [sys.executable, "-c", PRINTING, "stdout"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.read(1)
    process.stdout.close()
    assert (process.stderr.read(), process.wait()) == (b"", 141)


def test_end_of_another_reader_is_an_error():
    command = [sys.executable, "-c", PRINTING, "another pipe"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "Broken pipe" in done.stderr


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ENOSPC, errno.EACCES, errno.EISDIR, 1000])
def test_errors_of_the_system_name_the_file_and_the_next_step(capsys, number):
    error = OSError(number, "cannot do this", "a.tsv", None, "b.tsv")
    assert main_that(raising(error))() == 1
    message = capsys.readouterr().err
    assert all(fact in message for fact in ("cannot do this", "a.tsv", "b.tsv", "what to do: "))


def test_file_names_that_are_not_utf8_are_printed_as_they_are():
    code = "import argparse; from lors.log import run_main;"
    code += "run_main(argparse.ArgumentParser(), lambda args: print('a\\udcffb'), [])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout == b"a\xffb\n"


def test_success_passes_the_options_on(capsys):
    seen = []
    assert main_that(lambda args: seen.append(args.x))("--x", "3") == 0
    assert seen == [3] and capsys.readouterr().err == ""


def test_wrong_option_exits_with_2():
    with pytest.raises(SystemExit) as caught:
        main_that(raising(AssertionError("not reached")))("--y", "3")
    assert caught.value.code == 2


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        main_that(lambda args: 1 / args.x)()


def test_being_terminated_runs_the_clean_up(tmp_path):
    def work(args):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        finally:
            (tmp_path / "clean").touch()

    with pytest.raises(SystemExit) as caught:
        main_that(work)()
    assert caught.value.code == 143 and (tmp_path / "clean").exists()


@pytest.mark.parametrize(
    ("forced", "terminal", "shown"),
    [("1", False, True), ("0", True, False), (None, True, True), (None, False, False)],
)
def test_progress_is_for_terminals_unless_forced(monkeypatch, forced, terminal, shown):
    monkeypatch.delenv("LORS_PROGRESS", raising=False)
    if forced is not None:
        monkeypatch.setenv("LORS_PROGRESS", forced)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    assert show_progress() is shown
