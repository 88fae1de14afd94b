"""The command `lors`: it hands over to the programs in lors.bin."""

import importlib
import subprocess
import sys

import pytest

from lors import __version__
from lors.bin.lors import COMMANDS, main


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_the_options_of_its_program(command, capsys):
    program, _, _ = COMMANDS[command]
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    own = importlib.import_module(f"lors.bin.{program}").get_parser()
    own.prog = f"lors {command}"
    assert capsys.readouterr().out == own.format_help()


def test_list_methods_lists_them(capsys):
    assert main(["list-methods"]) == 0
    listed = capsys.readouterr().out
    assert main(["merge", "--list_methods"]) == 0
    assert capsys.readouterr().out == listed and "task_arithmetic" in listed


def test_an_error_names_the_command(capsys):
    assert main(["merge", "--base", "base.pth"]) == 2
    assert capsys.readouterr().err.startswith("lors merge: error: ")


def test_an_unknown_command_is_refused(capsys):
    for options in ([], ["--base", "base.pth", "--dry_run"], ["base.pth"]):
        assert main(["marge", *options]) == 2
        error = capsys.readouterr().err
        assert "unknown command 'marge'" in error and "did you mean merge?" in error


@pytest.mark.parametrize("words", [[], ["--help"]])
def test_help_lists_the_commands(words, capsys):
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert all(f"  {command} " in shown for command in COMMANDS)


def test_version(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0 and capsys.readouterr().out == f"lors {__version__}\n"


def test_help_is_there_without_torch():
    code = "import sys; from lors.bin.lors import main\ntry: main(['--help'])\n"
    code += "except SystemExit: sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0


def test_completion_knows_commands_and_options(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--completion", "bash"])
    assert ended.value.code == 0
    script = capsys.readouterr().out
    assert all(word in script for word in [*COMMANDS, "--list_methods", "--model"])
    checked = subprocess.run(["bash", "-n"], input=script, text=True, check=False)
    assert checked.returncode == 0


def test_completion_without_shtab_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(SystemExit) as ended:
        main(["--completion", "bash"])
    assert ended.value.code == 2 and "pip install shtab" in capsys.readouterr().err
