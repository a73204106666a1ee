"""The command line itself: its table of commands, its help, and what a command imports."""

from __future__ import annotations

import argparse
import gc
import importlib.util
import re
import signal
import socket
import subprocess
import sys

import pytest

from gnutls_cookie import PSKCredentials
from gnutls_cookie.cli import COMMANDS, main
from gnutls_cookie.cli.credentials import psk_credentials
from gnutls_cookie.cli.options import add_psk_arguments

MODULES = {
    name: importlib.util.resolve_name(command.module, "gnutls_cookie")
    for name, command in COMMANDS.items()
}


@pytest.fixture(autouse=True)
def _plain_help(monkeypatch: pytest.MonkeyPatch) -> None:
    """argparse looks for a terminal's width and colours."""
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")


def modules_after(statement: str) -> set[str]:
    """The modules of the package that a new interpreter has after a statement."""
    code = f"""
import sys
try:
    {statement}
except SystemExit:
    pass
print("\\n" + " ".join(name for name in sys.modules if name.startswith("gnutls_cookie")))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    return set(done.stdout.splitlines()[-1].split())


def test_the_package_imports_no_command() -> None:
    """`import gnutls_cookie` is for programs: nothing of the command line comes with it."""
    loaded = modules_after("import gnutls_cookie")
    assert "gnutls_cookie.server" in loaded
    assert {name for name in loaded if name.split(".")[1:2] == ["cli"]} == set()
    assert loaded & set(MODULES.values()) == set()


@pytest.mark.parametrize("name", [None, *COMMANDS])
def test_a_command_imports_no_other(name: str | None) -> None:
    """Nor does the help of all commands import any of them."""
    arguments = ["--help"] if name is None else [name, "--help"]
    loaded = modules_after(f"from gnutls_cookie.cli import main; main({arguments!r})")
    own = set() if name is None else {MODULES[name]}
    assert loaded & set(MODULES.values()) == own


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Usage with the command's name, and the line of the table."""
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert said.startswith(f"usage: gnutls-cookie {name} ")
    assert COMMANDS[name].help in said


def test_help_lists_all_commands(capsys: pytest.CaptureFixture[str]) -> None:
    """Each with its line, in the order of the table."""
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    listed = [line for line in lines if line[:1] and line[0] in COMMANDS]
    assert listed == [[name, command.help] for name, command in COMMANDS.items()]


@pytest.mark.parametrize(
    "arguments",
    [
        [], ["no-such-command"], ["--no-such-option"], ["-"], [""], ["--", "no-such-command"],
        ["serve", "--no-such-option"], ["connect"], ["--no-such-option", "demo"], ["demo", "x"],
    ],
)  # fmt: skip
def test_wrong_command_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """One line on stderr that names program and command, exit code 2."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    named = [word for word in arguments if word in COMMANDS]
    assert re.fullmatch(" ".join(["gnutls-cookie", *named]) + r": [^\n]+\n", captured.err)
    if not arguments:
        assert "gnutls-cookie --help lists them" in captured.err


def test_arguments_are_those_of_the_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """main() without arguments, as the console script calls it."""
    monkeypatch.setattr(sys, "argv", ["gnutls-cookie", "stats", "/no/such/file"])
    monkeypatch.setattr(gc, "freeze", lambda: None)  # this process goes on
    assert main() == 2
    assert capsys.readouterr().err.startswith("gnutls-cookie stats: /no/such/file: ")


def test_ctrl_c_ends_the_probe_by_the_signal() -> None:
    """While it waits for an answer; nothing is printed, as main() looks after it for all."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        silent.settimeout(60)
        words = ["probe", "--timeout", "50", "127.0.0.1", str(silent.getsockname()[1])]
        with subprocess.Popen(
            [sys.executable, "-m", "gnutls_cookie", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as probe:
            try:
                silent.recv(65536)
                probe.send_signal(signal.SIGINT)
                said = probe.communicate(timeout=40)
            finally:
                probe.kill()
        assert (probe.returncode, *said) == (-signal.SIGINT, b"", b"")


def test_ctrl_c_ends_a_command_as_soon_as_the_package_is_imported() -> None:
    """Without a traceback: what looks after that comes before any import that takes time."""
    code = """
import sys
before = set(sys.modules)
sys.argv = ["gnutls-cookie", "vectors"]
import gnutls_cookie, signal
assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL
names = [name for name in sys.modules if name not in before]
print(*names[: names.index("gnutls_cookie._early") + 1])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    first = set(done.stdout.split())
    assert first <= {"__future__", "gnutls_cookie", "time", "_signal", "gnutls_cookie._early"}


def test_what_is_left_at_a_commands_end_is_not_collected() -> None:
    """Python would look through all objects several times before Ctrl-C has ended a server."""
    code = """
import atexit, gc, sys
from gnutls_cookie.cli import main
sys.argv = ["gnutls-cookie", "vectors"]
atexit.register(lambda: print(gc.get_freeze_count() >= len(gc.get_objects()), file=sys.stderr))
sys.exit(main())
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == "True\n"


def psk_options(*arguments: str) -> argparse.Namespace:
    """A command line with the options of a pre-shared key."""
    parser = argparse.ArgumentParser()
    add_psk_arguments(parser)
    return parser.parse_args(arguments)


def test_options_of_a_pre_shared_key() -> None:
    """Both make credentials, neither makes none."""
    assert psk_credentials(psk_options()) is None
    credentials = psk_credentials(psk_options("--pskusername", "sensor-1", "--pskkey", "00ff"))
    assert isinstance(credentials, PSKCredentials)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--pskusername", "a"], "go together"),
        (["--pskkey", "00"], "go together"),
        (["--pskusername", "a", "--pskkey", "no hex"], "--pskkey must be hexadecimal"),
        (["--pskusername", "", "--pskkey", "00"], "identity"),
        (["--pskusername", "a", "--pskkey", ""], "psk key|key must"),
    ],
)
def test_unusable_pre_shared_key(arguments: list[str], error: str) -> None:
    """The error says which of the two is wrong, and nothing secret."""
    with pytest.raises(ValueError, match=error):
        psk_credentials(psk_options(*arguments))
