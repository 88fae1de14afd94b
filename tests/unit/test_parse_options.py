"""utils/parse_options.sh: values, errors and the help text."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = """#!/usr/bin/env bash
# Usage: ./example.sh [options]
# shellcheck disable=SC1091
#
# Stages: 1 data, 2 format
#
set -euo pipefail
top=x

## Where to start
stage=1                    # first stage to run
langs="de es"              # languages, as one word
                           # (in the order of the tables)
## The rest
dry_run=false              # only say what would be done
scaling_coef=              # coefficient of a merge
model="a # b"              # a default with a #
hidden=3
word=w                     # a name that the parser uses itself
several=(1 2)              # arrays are no options
. PARSE_OPTIONS
late=4                     # no option: it is set below
for option in stage langs dry_run scaling_coef model hidden word; do
    printf '%s=<%s>\\n' "$option" "${!option}"
done
printf 'rest=<%s>\\n' "$@"
"""
DEFAULTS = {
    "stage": "1",
    "langs": "de es",
    "dry_run": "false",
    "scaling_coef": "",
    "model": "a # b",
    "hidden": "3",
    "word": "w",
}
HELP = """Usage: ./example.sh [options]

Stages: 1 data, 2 format

Where to start
  --stage         first stage to run [1]
  --langs         languages, as one word [de es]
                  (in the order of the tables)

The rest
  --dry_run       only say what would be done [false]
  --scaling_coef  coefficient of a merge []
  --model         a default with a # [a # b]
  --word          a name that the parser uses itself [w]
"""


@pytest.fixture
def script(tmp_path):
    """The example as a file; options are parsed by this repository's parse_options.sh."""
    path = tmp_path / "example.sh"
    path.write_text(SCRIPT.replace("PARSE_OPTIONS", f'"{ROOT}/utils/parse_options.sh"'))
    return path


def run(script, *arguments, cwd=None, name=None, environment=None):
    return subprocess.run(
        ["bash", name or script, *arguments],
        cwd=cwd or script.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def values(done):
    """Return the options and the other arguments that the example printed."""
    assert done.returncode == 0 and done.stderr == "", done.stderr
    pairs = [item.split("=<", 1) for item in done.stdout.removesuffix(">\n").split(">\n")]
    options = {name: value for name, value in pairs if name != "rest"}
    return options, [value for name, value in pairs if name == "rest" and value]


@pytest.mark.parametrize(
    ("arguments", "changed", "rest"),
    [
        (["--langs", "true", "--langs", "es"], {"langs": "es"}, []),
        ([], {}, []),
        (["--stage", "3"], {"stage": "3"}, []),
        (["--stage=merge", "--stage", "2"], {"stage": "2"}, []),
        (
            ["--dry-run", "true", "--scaling-coef=0.2"],
            {"dry_run": "true", "scaling_coef": "0.2"},
            [],
        ),
        (["--dry_run", "--stage", "2"], {"dry_run": "true", "stage": "2"}, []),
        (["--dry_run"], {"dry_run": "true"}, []),
        (["--langs", "", "--model="], {"langs": "", "model": ""}, []),
        (["--model", "--lr 3", "x"], {"model": "--lr 3"}, ["x"]),
        (["--model=--stage"], {"model": "--stage"}, []),
        (["--scaling_coef", "-1"], {"scaling_coef": "-1"}, []),
        (["--word", "--other"], {"word": "--other"}, []),
        (["--model=a=b"], {"model": "a=b"}, []),
        (["a", "--stage", "2"], {}, ["a", "--stage", "2"]),
        (["--stage", "2", "--", "--x"], {"stage": "2"}, ["--x"]),
    ],
)
def test_values(script, arguments, changed, rest):
    assert values(run(script, *arguments)) == ({**DEFAULTS, **changed}, rest)


def test_values_are_never_evaluated(script, tmp_path):
    for text in ("$(touch BAD)", "`touch BAD`", "'; touch BAD; '", "a[$(touch BAD)]", "$HOME", "*"):
        options, _ = values(run(script, "--langs", text, f"--scaling_coef={text}"))
        assert options["langs"] == options["scaling_coef"] == text
        assert run(script, f"--{text}", "1").returncode == 2
        assert run(script, "--dry_run", text).returncode == 2
    assert [path.name for path in tmp_path.iterdir()] == ["example.sh"]


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        (["--sclaing_coef", "1"], ["--sclaing_coef", "--scaling_coef"]),
        (["--scaling-ceof=1"], ["--scaling-ceof", "--scaling_coef"]),
        (["--lang", "de"], ["--lang ", "--langs"]),
        (["--scaling", "1"], ["--scaling ", "--scaling_coef"]),
        (["--quite_another", "1"], ["--quite_another"]),
        (["-s", "1"], ["-s"]),
        (["--=1"], ["--"]),
        (["--stage"], ["--stage"]),
        (["--stage", "--langs", "de"], ["--stage"]),
        (["--stage", "--dry-run=true"], ["--stage"]),
        (["--dry_run", "yes"], ["--dry_run", "true", "false", "'yes'"]),
        (["--dry_run="], ["--dry_run", "true", "false", "''"]),
        # Variables that are no options: undocumented, set later, of the shell, of the parser.
        (["--hidden", "1"], ["--hidden"]),
        (["--several", "1"], ["--several"]),
        (["--late", "1"], ["--late"]),
        (["--top", "1"], ["--top"]),
        (["--PATH", "1"], ["--PATH"]),
        (["--name", "1"], ["--name"]),
        (["--_po_used", "1"], ["--_po_used"]),
    ],
)
def test_wrong_options_end_the_script(script, arguments, facts):
    done = run(script, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    first, rest = done.stderr.split("\n", 1)
    assert first.startswith("example.sh: error: ") and all(fact in first for fact in facts)
    assert f"{script} --help" in rest


def test_no_other_option_is_named_for_one_that_looks_like_none(script):
    error = run(script, "--quite_another", "1").stderr
    assert not [name for name in DEFAULTS if f"--{name}" in error]


def test_unknown_option_without_python(script, tmp_path):
    (tmp_path / "bin").mkdir()
    for tool in ("bash", "env"):
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool))
    done = run(script, "--lang", "de", environment={"PATH": str(tmp_path / "bin")})
    assert done.returncode == 2 and "--lang" in done.stderr and "not found" not in done.stderr


def test_arguments_of_a_script_that_takes_none(script):
    script.write_text(script.read_text() + 'no_more_arguments "$@"\n')
    assert run(script, "--stage", "2").returncode == 0
    done = run(script, "--stage", "2", "stray")
    assert done.returncode == 2
    assert "stray" in done.stderr and f"{script} --help" in done.stderr


def test_options_are_listed_for_the_script(script):
    script.write_text(script.read_text() + "printf '%s\\n' \"${options[@]}\"\n")
    done = run(script, "--langs", "de  sv-SE", "--model=a=b")
    values = {**DEFAULTS, "langs": "de  sv-SE", "model": "a=b"}
    del values["hidden"]
    assert done.stdout.splitlines()[-len(values) :] == [f"{n}={v}" for n, v in values.items()]


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["--help", "--nonsense"]])
def test_help_shows_every_option(script, arguments):
    done = run(script, *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (0, HELP, "")


def test_help_shows_the_values_that_a_recipe_has_set(script):
    done = run(script, "--langs", "ca sv-SE", "--help")
    assert "  --langs         languages, as one word [ca sv-SE]\n" in done.stdout


def test_script_that_has_changed_its_directory(script, tmp_path):
    script.write_text(script.read_text().replace("top=x", 'cd "$(dirname "$0")"'))
    nested = tmp_path / "a" / "example.sh"
    nested.parent.mkdir()
    script.rename(nested)
    for cwd, name in ((tmp_path, "a/example.sh"), (nested.parent, "./example.sh"), ("/", nested)):
        done = run(nested, "--help", cwd=cwd, name=name)
        assert (done.returncode, done.stdout) == (0, HELP), done.stderr


def test_parser_leaves_nothing_behind(script):
    script.write_text(script.read_text() + "compgen -v _po_ || true\n")
    assert "_po_" not in run(script, "--stage", "2").stdout


def test_log_and_die(tmp_path):
    script = tmp_path / "x.sh"
    script.write_text(f'. "{ROOT}/utils/log.sh"\nlog "a  b" c\ndie -2 "bad: $1" "where: here"\n')
    done = run(script, "%s $HOME")
    assert (done.returncode, done.stdout) == (2, "")
    first, *rest = done.stderr.splitlines()
    assert first[10] == "T" and first[19:] == " (x.sh:2) a  b c"
    assert rest == ["x.sh: error: bad: %s $HOME", "  where: here"]
