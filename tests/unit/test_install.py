"""utils/install.sh and the packaging, with a Python and a pip that only record their calls."""

import ast
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = [
    *("awk", "bash", "cat", "chmod", "cp", "cut", "date", "df", "dirname", "du", "env", "flock"),
    *("grep", "head", "id", "mkdir", "mv", "rm", "sed", "sh", "sha256sum", "sleep", "tail"),
    *("touch", "tr", "true"),
]
# Stands for python3.11, also as .venv/bin/python. Writes its arguments to the file CALLS.
PYTHON = r"""#!/usr/bin/env bash
printf '%s ' "$@" | tr '\n' ' ' >>"$CALLS"
echo >>"$CALLS"
case "$*" in
    -V) echo "Python ${FAKE_VERSION:-3.11.4}" ;;
    "-m venv "*)
        mkdir -p "$3/bin"
        cp "$0" "$3/bin/python"
        cp "$0" "$3/bin/pip" ;;
    "-m pip "*requirements.lock)
        if [ -n "${FAKE_PIP_SLEEP:-}" ]; then touch "$CALLS.pip"; sleep "$FAKE_PIP_SLEEP"; fi
        if [ -n "${FAKE_PIP_ERROR:-}" ]; then echo "ERROR: $FAKE_PIP_ERROR"; exit 1; fi ;;
    *sysconfig*) echo "$FAKE_SITE" ;;
    "-c import torchaudio") exit "${FAKE_TORCHAUDIO_STATUS:-0}" ;;
    "-c import torch") exit "${FAKE_TORCH_STATUS:-0}" ;;
    "- torch "*) printf '%s' "${FAKE_LACKS:-}" ;;
esac
"""


class Checkout:
    """A copy of the files that install.sh uses, and a PATH with only `TOOLS` and the fakes."""

    def __init__(self, directory):
        self.root = directory / "checkout"
        self.bin = directory / "bin"
        self.calls_file = directory / "calls"
        shutil.copytree(ROOT / "utils", self.root / "utils", ignore=shutil.ignore_patterns("__*"))
        for name in ("requirements.lock", "setup.py"):
            shutil.copy(ROOT / name, self.root / name)
        self.bin.mkdir()
        for tool in TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool))
        self.program("python3.11", PYTHON)
        self.environment = {
            "PATH": str(self.bin),
            "HOME": str(directory),
            "CALLS": str(self.calls_file),
            "FAKE_SITE": str(directory / "site"),
        }
        self.venv = self.root / ".venv"
        self.python = str(self.venv / "bin" / "python")
        self.command = [shutil.which("bash"), str(self.root / "utils" / "install.sh")]

    def program(self, name, text, directory=None):
        path = (directory or self.bin) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
        return path

    def install(self, *arguments, **extra):
        return subprocess.run(
            [*self.command, *arguments],
            env={**self.environment, **extra},
            capture_output=True,
            text=True,
            timeout=200,
        )

    def start(self, **extra):
        return subprocess.Popen(
            self.command,
            env={**self.environment, **extra},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def calls(self, pattern=""):
        """Return the matching calls of the fake Python since the last time."""
        text = self.calls_file.read_text() if self.calls_file.exists() else ""
        self.calls_file.unlink(missing_ok=True)
        return [line for line in text.splitlines() if re.search(pattern, line)]

    def wait_for_pip(self):
        deadline = time.monotonic() + 120
        while not Path(f"{self.calls_file}.pip").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


def ready(checkout, done):
    """Return whether a call printed the interpreter of .venv, and nothing else, on stdout."""
    assert done.returncode == 0, done.stderr
    return done.stdout == f"{checkout.python}\n"


def test_first_call_installs_and_second_does_nothing(checkout):
    done = checkout.install()
    assert ready(checkout, done)
    assert re.search(r"\d{4}-.* \(install\.sh:\d+\) \d+ packages: \d+ s\n", done.stderr)
    pip = checkout.calls("^-m pip")
    assert [call.split()[-1] for call in pip] == [
        next(line for line in lock_lines() if line.startswith("setuptools==")),
        str(checkout.root / "requirements.lock"),
        str(checkout.root),
    ]
    assert all("--no-deps" in call for call in pip[1:])

    done = checkout.install()
    assert ready(checkout, done) and done.stderr == ""
    assert checkout.calls("^-m") == []


def test_called_through_a_link_from_elsewhere(checkout, tmp_path):
    recipe = tmp_path / "recipe"
    recipe.mkdir()
    (recipe / "utils").symlink_to(checkout.root / "utils")
    checkout.command[1] = str(recipe / "utils" / "install.sh")
    assert ready(checkout, checkout.install())


def test_another_lock_is_installed_over_the_old_one(checkout):
    checkout.install()
    checkout.calls()
    with (checkout.root / "requirements.lock").open("a") as handle:
        handle.write("extra==1\n")
    assert ready(checkout, checkout.install())
    assert checkout.calls("^-m venv") == []
    assert ready(checkout, checkout.install()) and checkout.calls("^-m") == []


@pytest.mark.parametrize("change", ["python", "place"])
def test_another_python_or_place_needs_a_new_environment(checkout, change):
    checkout.install()
    checkout.calls()
    (checkout.venv / "old").touch()
    if change == "python":
        checkout.environment["FAKE_VERSION"] = "3.11.5"
    else:
        moved = checkout.root.with_name("moved")
        checkout.root.rename(moved)
        checkout.command[1] = str(moved / "utils" / "install.sh")
        checkout.root, checkout.venv = moved, moved / ".venv"
        checkout.python = str(checkout.venv / "bin" / "python")
    done = checkout.install()
    assert ready(checkout, done) and "making .venv again" in done.stderr
    assert len(checkout.calls("^-m venv")) == 1 and not (checkout.venv / "old").exists()
    assert ready(checkout, checkout.install()) and checkout.calls("^-m") == []


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_interrupted_installation_is_made_again(checkout, signum, status):
    process = checkout.start(FAKE_PIP_SLEEP="300")
    checkout.wait_for_pip()
    process.send_signal(signum)
    _, messages = process.communicate(timeout=120)
    assert process.returncode == status and "the next call starts" in messages
    (checkout.venv / "half").touch()
    done = checkout.install()  # waits for the lock, longer than it may, if pip is still running
    assert ready(checkout, done) and "making .venv again" in done.stderr
    assert not (checkout.venv / "half").exists()


def test_failure_shows_the_end_of_the_log_and_can_be_repeated(checkout):
    done = checkout.install(FAKE_PIP_ERROR="No space left on device")
    assert (done.returncode, done.stdout) == (1, "")
    assert "  | ERROR: No space left on device\n" in done.stderr
    assert "status 1" in done.stderr
    assert f"{checkout.venv}/install.log" in done.stderr
    assert ready(checkout, checkout.install())


def test_concurrent_calls_install_once(checkout):
    first = checkout.start(FAKE_PIP_SLEEP="1.5")
    checkout.wait_for_pip()
    second = checkout.start()
    for process in (first, second):
        out, messages = process.communicate(timeout=120)
        assert process.returncode == 0 and out == f"{checkout.python}\n", messages
    assert "waiting for another installation" in messages
    assert len(checkout.calls("requirements.lock")) == 1


def test_pip_gets_further_arguments_and_a_clean_environment(checkout):
    checkout.program(
        "python3.11", PYTHON.replace("case", 'echo "[$PYTHONPATH]" >>"$CALLS"; case', 1)
    )
    extra = {
        "LORS_PIP_ARGS": "--extra-index-url file:///x y",
        "PYTHONPATH": "/old",
        "PIP_USER": "1",
    }
    assert ready(checkout, checkout.install(**extra))
    calls = checkout.calls()
    pip = [number for number, call in enumerate(calls) if call.startswith("-m pip")]
    assert pip and all("--extra-index-url file:///x y" in calls[number] for number in pip)
    assert all(calls[number + 1] == "[]" for number in pip)


def test_torch_with_cuda_where_there_is_a_gpu(checkout):
    torch = next(line for line in lock_lines() if line.startswith("torch=="))
    checkout.program("nvidia-smi", "#!/bin/sh\n")
    assert ready(checkout, checkout.install())
    (call,) = checkout.calls("--constraint")
    assert call.split()[-1] == f"{torch},!={torch.removeprefix('torch==')}+cpu"
    assert "--no-deps" not in call


def test_torch_that_does_not_start_gets_its_dependencies(checkout):
    done = checkout.install(FAKE_TORCH_STATUS="1")
    assert ready(checkout, done) and "CUDA libraries" in done.stderr
    (call,) = checkout.calls("--constraint")
    assert "--no-deps" not in call and call.split()[-1].startswith("torch==")


@pytest.mark.parametrize("cpu", [True, False])
def test_torchaudio_loses_its_cuda_libraries_beside_a_cpu_torch(checkout, tmp_path, cpu):
    library = tmp_path / "site" / "torchaudio" / "lib" / "_torchaudio.so"
    library.parent.mkdir(parents=True)
    library.touch()
    done = checkout.install(FAKE_TORCHAUDIO_STATUS="1" if cpu else "0")
    assert ready(checkout, done)
    assert library.exists() != cpu and ("torchaudio in .venv" in done.stderr) == cpu


# --- an environment of the user's own


def own_environment(checkout, tmp_path):
    return checkout.program("python", PYTHON, tmp_path / "own" / "bin")


def test_lors_python_is_used_as_it_is(checkout, tmp_path):
    python = own_environment(checkout, tmp_path)
    done = checkout.install(LORS_PYTHON=str(python))
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{python}\n", "")
    assert not checkout.venv.exists() and checkout.calls("^-m") == []


def test_lors_python_that_lacks_packages_is_an_error(checkout, tmp_path):
    python = own_environment(checkout, tmp_path)
    done = checkout.install(LORS_PYTHON=str(python), FAKE_LACKS="espnet, jiwer")
    assert (done.returncode, done.stdout) == (1, "")
    assert str(python) in done.stderr and "espnet, jiwer" in done.stderr
    done = checkout.install(LORS_PYTHON="/no/python")
    assert done.returncode == 1 and "/no/python" in done.stderr
    done = checkout.install(LORS_PYTHON=shutil.which("false"))
    assert done.returncode == 1 and shutil.which("false") in done.stderr


def test_lors_python_may_be_the_environment_of_the_checkout(checkout):
    assert ready(
        checkout, checkout.install(LORS_PYTHON=checkout.python, VIRTUAL_ENV=str(checkout.venv))
    )


@pytest.mark.parametrize("variable", ["VIRTUAL_ENV", "CONDA_PREFIX"])
def test_activated_environment(checkout, tmp_path, variable):
    python = own_environment(checkout, tmp_path)
    active = {variable: str(python.parents[1])}
    done = checkout.install(**active)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{python}\n", "")
    done = checkout.install(**active, FAKE_LACKS="espnet")
    assert ready(checkout, done)
    assert f"{tmp_path}/own" in done.stderr and "espnet" in done.stderr


def test_what_an_environment_lacks_is_found_by_the_real_python(checkout, tmp_path):
    """An empty environment lacks everything; tests ask for more than recipes."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "empty"], check=True)
    python = str(tmp_path / "empty" / "bin" / "python")
    done = checkout.install(LORS_PYTHON=python)
    assert (
        "missing: torch, numpy, scipy, safetensors, PyYAML, tqdm, threadpoolctl, xxhash, zlib-ng, "
        "filelock, espnet," in done.stderr
    )
    assert "ruff" not in done.stderr
    assert "ruff" in checkout.install("--test_tools", "true", LORS_PYTHON=python).stderr


def test_foreign_venv_in_the_checkout(checkout):
    checkout.program("python", PYTHON, checkout.venv / "bin")
    done = checkout.install(FAKE_LACKS="espnet")
    assert done.returncode == 1 and str(checkout.venv) in done.stderr
    assert "espnet" in done.stderr and [path.name for path in checkout.venv.iterdir()] == ["bin"]
    assert ready(checkout, checkout.install())  # complete: used as it is
    assert checkout.calls("^-m") == [] and [path.name for path in checkout.venv.iterdir()] == [
        "bin"
    ]


# --- the machine


def test_no_suitable_python(checkout):
    checkout.program("python3.11", "#!/bin/sh\nexit 1\n")
    done = checkout.install()
    assert done.returncode == 1 and "apt-get install python3.11-venv" in done.stderr


def test_missing_system_package_without_apt(checkout):
    done = checkout.install("--system_packages", "espeak-ng")
    assert (done.returncode, done.stdout) == (1, "")
    assert "sudo sh -c 'apt-get update && apt-get install -y espeak-ng'" in done.stderr
    assert checkout.calls("^-m") == [] and not checkout.venv.exists()
    assert ready(checkout, checkout.install())  # by default none is needed


def test_the_synthetic_corpus_asks_for_espeak(checkout, tmp_path):
    recipe = tmp_path / "recipe"
    recipe.mkdir()
    (recipe / "utils").symlink_to(checkout.root / "utils")
    for name in ("egs/TEMPLATE/lors1/path.sh", "local/make_espeak_corpus.sh"):
        shutil.copy(ROOT / name, recipe)
    command = [checkout.command[0], "make_espeak_corpus.sh", "--langs", "de"]
    kwargs = {"cwd": recipe, "env": checkout.environment, "capture_output": True, "text": True}
    done = subprocess.run(command, **kwargs, timeout=200)
    assert done.returncode == 1 and "apt-get install -y espeak-ng" in done.stderr
    assert checkout.calls("make_espeak_corpus") == []
    checkout.program("espeak-ng", "#!/bin/sh\n")
    assert subprocess.run(command, **kwargs, timeout=200).returncode == 0
    assert checkout.calls("^-m") == ["-m lors.bin.make_espeak_corpus --langs de "]


@pytest.mark.parametrize("user", ["root", "sudoer", "other"])
def test_missing_system_package_with_apt(checkout, user):
    log = checkout.bin.parent / "apt"
    script = f'#!/bin/sh\necho "$DEBIAN_FRONTEND $*" >>{log}\ncase "$*" in *update) exit 100 ;; *) '
    checkout.program("apt-get", f"{script}cp {checkout.bin}/du {checkout.bin}/espeak-ng ;; esac\n")
    (checkout.bin / "id").unlink()
    checkout.program("id", f"#!/bin/sh\necho {0 if user == 'root' else 1000}\n")
    checkout.program("sudo", "#!/bin/sh\n" + ('shift; exec "$@"' if user == "sudoer" else "exit 1"))
    wanted = ("--system_packages", "espeak-ng")
    done = checkout.install(*wanted)
    if user == "other":
        assert done.returncode == 1 and "sudo sh -c" in done.stderr and not log.exists()
        return
    assert ready(checkout, done)  # although the lists could not be refreshed
    update, install = log.read_text().splitlines()
    assert update == "noninteractive -qq -o DPkg::Lock::Timeout=300 update"
    assert install.endswith("install -y --no-install-recommends espeak-ng")
    assert ready(checkout, checkout.install(*wanted)) and len(log.read_text().splitlines()) == 2


def test_too_little_disk_space(checkout):
    (checkout.bin / "df").unlink()
    checkout.program("df", "#!/bin/sh\necho Filesystem\necho /dev/x 9 9 1024000 9 /\n")
    done = checkout.install()
    assert done.returncode == 1 and "1000 MB" in done.stderr
    assert not (checkout.venv / "bin").exists()


def test_wrong_calls(checkout):
    assert checkout.install("--tst_tools", "true").returncode == 2
    assert checkout.install("now").returncode == 2
    done = checkout.install("--help")
    assert done.returncode == 0 and "LORS_PYTHON=/path/to/python" in done.stdout
    assert not checkout.venv.exists()


# --- packaging


def lock_lines(name="requirements.lock"):
    text = (ROOT / name).read_text()
    return [line for line in text.splitlines() if not line.startswith("#")]


def requirements():
    """Return the lists MERGING and EXTRAS of setup.py."""
    tree = ast.parse((ROOT / "setup.py").read_text())
    values = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id in ("MERGING", "EXTRAS")
    }
    return values["MERGING"], values["EXTRAS"]


def canonical(requirement):
    return re.sub(r"[-_.]+", "-", re.split(r"[=<>!~[]", requirement)[0]).lower()


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-py312.lock"])
def test_locks_have_one_exact_version_of_everything_that_is_required(lock):
    lines, for_tests = lock_lines(lock), lock_lines("requirements-test.lock")
    both = lines + for_tests
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9.]+", line) for line in both)
    names = [canonical(line) for line in both]
    assert len(names) == len(set(names))
    merging, extras = requirements()
    wanted = {canonical(name) for name in [*merging, *extras["recipes"], *extras["test"]]}
    assert wanted <= set(names[: len(lines)])
    further = {canonical(name) for extra in ("exports", "lhotse", "docs") for name in extras[extra]}
    assert further <= set(names[len(lines) :])


def test_merging_needs_no_espnet():
    merging, _ = requirements()
    assert set(merging) == {
        "torch",
        "numpy",
        "scipy",
        "safetensors",
        "pyyaml",
        "tqdm",
        "threadpoolctl",
        "xxhash",
        "zlib-ng",
        "filelock>=3.30",
    }


def test_installer_asks_for_what_setup_py_requires():
    merging, extras = requirements()
    script = (ROOT / "utils" / "install.sh").read_text()
    always, for_tests = (
        group.split() for group in re.findall(r"packages\+?=\((.+?)\)", script, re.S)[:2]
    )
    assert [canonical(name) for name in always] == [
        canonical(n) for n in merging + extras["recipes"]
    ]
    assert [canonical(name) for name in for_tests] == [canonical(name) for name in extras["test"]]
