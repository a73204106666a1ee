"""Manual pages and completion: they have every option, and their readers take them."""

from __future__ import annotations

import argparse
import shutil
import subprocess
from pathlib import Path

import pytest

from gnutls_cookie.cli import COMMANDS, command_parsers, main
from gnutls_cookie.cli.completion import script
from gnutls_cookie.cli.manual import page
from tests.support.common import ROOT


def options_of(name: str) -> list[str]:
    """Every option of a command that its help shows."""
    _, parsers = command_parsers(name)
    return [
        option
        for action in parsers[name]._actions
        if action.help != argparse.SUPPRESS
        for option in action.option_strings
    ]


def program(name: str) -> str:
    """One that reads what we print; without it the test is skipped."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def run(*command: str, given: str = "") -> str:
    """The stdout of a program that says nothing on stderr."""
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("name", [None, *COMMANDS])
def test_roff_reads_a_page_without_a_warning(name: str | None) -> None:
    """And shows each option, with its hyphens as they are typed."""
    shown = run(program("groff"), "-man", "-ww", "-Tascii", "-P-cbou", given=page(name))
    words = list(COMMANDS) if name is None else options_of(name)
    assert {word for word in words if word not in shown} == set()
    assert "EXIT STATUS" in shown


def test_a_page_has_no_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """argparse has some from Python 3.14 on."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\033" not in page("serve") + page(None) + script("fish")


def test_lines_of_a_page_are_macros_or_text() -> None:
    """Help that began with a full stop would be a macro, and vanish."""
    for name in COMMANDS:
        for line in page(name).splitlines():
            assert not line.startswith("'")
            if line.startswith("."):
                assert line.split()[0] in (".TH", ".SH", ".TP", ".nh", ".ad")


def test_all_pages_are_written_to_a_folder(tmp_path: Path) -> None:
    """One for the program and one for each command; a folder that cannot be is one line."""
    assert main(["manual", "--output-dir", str(tmp_path / "man1")]) == 0
    names = {path.name for path in (tmp_path / "man1").iterdir()}
    assert names == {"gnutls-cookie.1", *(f"gnutls-cookie-{name}.1" for name in COMMANDS)}
    (tmp_path / "file").touch()
    for wrong in ("file/man1", "file", "misspelt/man1"):
        assert main(["manual", "--output-dir", str(tmp_path / wrong)]) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"file", "man1"}


def test_a_page_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """That of the program, or of a command."""
    assert main(["manual"]) == 0
    assert capsys.readouterr().out.startswith(".TH GNUTLS\\-COOKIE 1 ")
    assert main(["manual", "serve"]) == 0
    assert capsys.readouterr().out.startswith(".TH GNUTLS\\-COOKIE\\-SERVE 1 ")


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["ma"], ["manual"]),
        (["serve", "--x509cer"], ["--x509certfile"]),
        (["--version", "conn"], ["connect"]),
        (["completion", ""], ["bash", "zsh", "fish"]),
        (["vectors", "--format", "m"], ["markdown"]),
        (["serve", "--x509certfile", "--p"], []),  # a file: bash's own completion
        (["stats", "f"], []),
    ],
)
def test_bash_completes(words: list[str], offered: list[str]) -> None:
    """Commands, options, known values; files are left to bash."""
    code = """
        source /dev/stdin
        COMP_WORDS=(gnutls-cookie "$@"); COMP_CWORD=$#
        _gnutls_cookie
        [ ${#COMPREPLY[@]} = 0 ] || printf '%s\\n' "${COMPREPLY[@]}"
    """
    said = run(program("bash"), "--norc", "-c", code, "bash", *words, given=script("bash"))
    assert said.split() == offered


def test_fish_completes(tmp_path: Path) -> None:
    """The same, with the help of each."""
    (tmp_path / "completion").write_text(script("fish"))
    code = f"source {tmp_path / 'completion'}; complete -C 'gnutls-cookie serve --x509cer'"
    said = run(program("fish"), "--no-config", "-c", code)
    assert said.startswith("--x509certfile\t")


def test_zsh_reads_its_script() -> None:
    """Syntax, and that the function is the command's."""
    code = "autoload -U compinit; compinit -u -D; source /dev/stdin; echo ${_comps[gnutls-cookie]}"
    said = run(program("zsh"), "-f", "-c", code, given=script("zsh"))
    assert said == "_gnutls_cookie\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_have_every_command_and_option(
    shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever a command is given later."""
    assert main(["completion", shell]) == 0
    words = capsys.readouterr().out
    for name in COMMANDS:
        assert name in words
        for option in options_of(name):
            assert option.lstrip("-") in words


def test_page_of_the_commands_has_them_all() -> None:
    """docs/commands.md, in the order of the table."""
    text = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    rows = [line.split("`")[1] for line in text.splitlines() if line.startswith("| `")]
    assert rows == list(COMMANDS)
