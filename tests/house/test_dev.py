"""./dev on machines that lack something: what it installs, what it says, where it goes on.

The package managers are scripts of the tests, on a PATH that has what a bare machine has.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.common import ROOT, compiler, gnutls_flags

# What `./dev prove` needs of a bare machine. It is the one command that needs no .venv.
PROGRAMS = "sh env cat chmod date dirname find grep id mkdir paste rm sed tail tr uname"
COMPILER = "as ld pkg-config"

# Fails for its lists as with a dead repository; installs cbmc as a package would.
APT_GET = """#!/bin/sh
echo "apt-get $*" >>"$SAID"
case " $* " in
*" update "*) echo 'E: The repository is not signed.'; exit "$UPDATE" ;;
*" $BAD "*) echo "E: Unable to locate package $BAD"; exit 100 ;;
*" cbmc "*) printf '#!/bin/sh\\n' >"$BIN/cbmc" && chmod +x "$BIN/cbmc" ;;
esac
"""


class Machine:
    """A checkout of ./dev with a PATH of its own; `run` gives what a command said.

    Attributes:
        bin: the only folder on PATH.
        asked: what apt-get was called with, in order.
    """

    def __init__(self, folder: Path) -> None:
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.checkout = folder / "a check out"
        (self.checkout / "checks" / "prove").mkdir(parents=True)
        shutil.copy(ROOT / "dev", self.checkout)
        (self.checkout / "checks" / "prove" / "prove.sh").write_text("echo proved\n")
        for name in f"{PROGRAMS} {COMPILER}".split():
            if path := shutil.which(name):
                (self.bin / name).symlink_to(path)
        self.script("cc", f'exec {shutil.which(compiler()[0])} "$@"')
        self.script("id", "echo 0")
        (self.bin / "apt-get").write_text(APT_GET)
        (self.bin / "apt-get").chmod(0o755)
        self.script("apt-cache", "exit 0")
        self.said = folder / "said"

    def script(self, name: str, text: str) -> None:
        path = self.bin / name
        path.unlink(missing_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def run(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        machine = {
            "PATH": str(self.bin),
            "BIN": str(self.bin),
            "SAID": str(self.said),
            "UPDATE": "0",
            "BAD": "no-such-package",
        }
        return subprocess.run(
            [shutil.which("sh") or "sh", str(self.checkout / "dev"), *words],
            env={**machine, **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )

    @property
    def asked(self) -> list[str]:
        return self.said.read_text().splitlines() if self.said.exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    gnutls_flags()
    if any(shutil.which("cbmc", path=folder) for folder in ("/usr/sbin", "/sbin")):
        pytest.skip("cbmc is in a folder that ./dev adds to PATH")
    return Machine(tmp_path)


def test_dead_list_stops_nothing(machine: Machine) -> None:
    """apt-get update fails, all that is needed can be had: one warning, and the command runs."""
    done = machine.run("prove", UPDATE="100")
    assert (done.returncode, done.stdout) == (0, "proved\n"), done.stderr
    assert "apt-get update failed" in done.stderr
    assert "E: The repository is not signed." in done.stderr
    assert machine.asked[0].endswith("update")
    assert machine.asked[1].endswith(" install cbmc")


def test_what_cannot_be_installed_is_named(machine: Machine) -> None:
    """The one that fails, in words; what can be had is installed all the same."""
    machine.script("cc", "exit 1")
    done = machine.run("prove", UPDATE="100", BAD="gcc")
    assert done.returncode == 1
    assert "apt-get could not install gcc libc6-dev" in done.stderr
    assert "E: Unable to locate package gcc" in done.stderr
    assert "still missing after the installation: compiler (Debian: gcc libc6-dev);" in done.stderr
    assert "prover" not in done.stderr.splitlines()[-1]
    assert (machine.bin / "cbmc").exists()


def test_nothing_is_asked_of_the_network_where_nothing_is_missing(machine: Machine) -> None:
    """No package manager runs."""
    machine.script("cbmc", "exit 0")
    done = machine.run("prove")
    assert (done.returncode, done.stdout, done.stderr) == (0, "proved\n", "")
    assert machine.asked == []


def test_without_root_and_sudo_what_to_install_is_told(machine: Machine) -> None:
    """Nothing is tried that cannot work."""
    machine.script("id", "echo 1000")
    done = machine.run("prove")
    assert done.returncode == 1
    assert "neither apt-get as root nor sudo here; install: prover (Debian: cbmc);" in done.stderr
    assert machine.asked == []


def test_sudo_is_used_where_it_is(machine: Machine) -> None:
    """Every call of apt-get goes through it."""
    machine.script("id", "echo 1000")
    machine.script("sudo", 'echo sudo >>"$SAID"; exec "$@"')
    assert machine.run("prove").returncode == 0
    assert machine.asked[::2] == ["sudo", "sudo"]


def test_help_names_every_command(machine: Machine) -> None:
    """From any folder; a word that is none of them is an error."""
    sessions = re.findall(r"@nox.session\ndef (\w+)", (ROOT / "noxfile.py").read_text())
    for words in ((), ("help",), ("--help",)):
        done = machine.run(*words)
        assert done.returncode == 0
        shown = re.findall(r"^  (\w+) +\w", done.stdout, re.MULTILINE)
        assert {*sessions, "matrix", "clean", "help"} - {"ci"} <= set(shown)
    done = machine.run("tset")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no command is called tset" in done.stderr


def test_odd_variables_of_the_environment_do_no_harm(machine: Machine) -> None:
    """No HOME, CDPATH, another language."""
    machine.script("cbmc", "exit 0")
    done = machine.run("prove", CDPATH="/", LANG="C", PYTHONPATH="/nowhere", PIP_USER="1")
    assert (done.returncode, done.stdout) == (0, "proved\n")


# --- what is handed to nox ------------------------------------------------------------------------

# Lacks nothing, and says what it is called with.
PYTHON = """case $1 in
-m) shift; echo "$@" ;;
esac"""


@pytest.fixture
def ready(machine: Machine) -> Machine:
    """With all that the commands need, but for the peers."""
    shutil.copy(ROOT / "pyproject.toml", machine.checkout)
    (machine.checkout / ".venv" / "bin").mkdir(parents=True)
    machine.script("../a check out/.venv/bin/python", PYTHON)
    for name in ("cc", "clang", "gnutls-cli", "certtool", "openssl", "valgrind"):
        machine.script(name, "exit 0")
    return machine


@pytest.mark.parametrize(
    "command", ["demo", "test", "check", "bench", "sanitize", "valgrind", "fuzz"]
)
def test_commands_are_sessions_of_nox(ready: Machine, command: str) -> None:
    """With their arguments as they are. What nox needs is installed once."""
    for _ in range(2):
        done = ready.run(command, "-k", "a or b")
        assert (done.returncode, done.stdout) == (0, f"nox -s {command} -- -k a or b\n")
    assert done.stderr == ""
    assert ready.asked == []


def test_ci_needs_every_peer_and_every_tool(ready: Machine) -> None:
    """What is not there is installed, and missed by its name where it cannot be."""
    (ready.bin / "clang").unlink()
    done = ready.run("test", CI="true")
    assert done.returncode == 1
    packages = {word for line in ready.asked for word in line.split()}
    assert {"cbmc", "clang", "shellcheck", "libcoap3-bin", "nodejs"} <= packages
    assert "shellcheck (Debian: shellcheck);" in done.stderr.splitlines()[-1]


# --- a Python that was chosen ---------------------------------------------------------------------


def chosen(machine: Machine) -> Path:
    """A Python like the running one, which looks for Python.h where it is not."""
    site = machine.bin.parent / "site"
    site.mkdir()
    text = "import sysconfig\nsysconfig.get_path = lambda *_: '/no/include'\n"
    (site / "sitecustomize.py").write_text(text)
    machine.script("chosen", f'PYTHONPATH={site} exec "{sys.executable}" "$@"')
    return machine.bin / "chosen"


def test_chosen_python_without_headers_is_told_of_python3_dev(machine: Machine) -> None:
    """Which file is missing, and which package has it."""
    done = machine.run("valgrind", PYTHON=str(chosen(machine)))
    assert done.returncode == 1
    version = f"python3.{sys.version_info[1]}"
    assert f"/no/include/Python.h (Debian: {version}-dev or python3-dev" in done.stderr


def test_chosen_python_that_does_not_run_is_told_so(machine: Machine) -> None:
    """A path with nothing there."""
    done = machine.run("valgrind", PYTHON="/no/such/python")
    assert done.returncode == 1
    assert "PYTHON=/no/such/python: it does not run" in done.stderr
    assert machine.asked == []
