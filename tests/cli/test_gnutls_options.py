"""Every option of gnutls-serv and gnutls-cli: taken with its meaning, or refused with a reason."""

from __future__ import annotations

import argparse
import re

import pytest

from gnutls_cookie.cli import main
from gnutls_cookie.cli.gnutls_options import CLI, SERV
from tests.support.gnutls_options import (
    PAGE,
    TOOLS,
    options_of_tool,
    page_with_tables,
    parser_of,
)

FATES = {"serve": SERV, "connect": CLI}
REFUSED = [
    (command, name)
    for command, fates in FATES.items()
    for name in fates
    if fates[name].kind == "refused"
]
TAKEN = [
    (command, name)
    for command, fates in FATES.items()
    for name in fates
    if fates[name].kind != "refused"
]


def strings_of(command: str) -> dict[str, argparse.Action]:
    """Each option string of a command."""
    return dict(parser_of(command)._option_string_actions)


@pytest.mark.peer
@pytest.mark.parametrize("program", TOOLS)
def test_table_has_every_option_of_the_installed_tool(program: str) -> None:
    """With its letter, and with a value where it takes one. Another version may lack some."""
    _, fates = TOOLS[program]
    found = options_of_tool(program)
    assert len(found) > 40
    assert found.keys() <= fates.keys()
    for name, one in found.items():
        assert (fates[name].short, fates[name].metavar is not None) == one, name


def test_page_has_the_tables() -> None:
    """`python -m tests.support.gnutls_options` writes them."""
    text = PAGE.read_text(encoding="utf-8")
    assert page_with_tables(text) == text


@pytest.mark.parametrize(("command", "name"), TAKEN)
def test_option_is_taken(command: str, name: str) -> None:
    """By name and letter, with a value or without, as the table says."""
    fate = FATES[command][name]
    strings = strings_of(command)
    action = strings[f"--{name}"]
    assert (action.nargs == 0) == (fate.metavar is None)
    if fate.short:
        assert strings[f"-{fate.short}"] is action
    if action.help is not argparse.SUPPRESS:
        assert fate.kind == "same"


@pytest.mark.parametrize(("command", "name"), REFUSED)
def test_option_is_refused(command: str, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    """In one line that names it and says why; exit code 2; by its letter, too."""
    fate = FATES[command][name]
    for option in [f"--{name}", *([f"-{fate.short}"] if fate.short else [])]:
        words = [option, *(["5"] if fate.metavar else [])]
        with pytest.raises(SystemExit) as caught:
            main([command, *words, *(["localhost"] if command == "connect" else [])])
        said = capfd.readouterr()
        assert (caught.value.code, said.out) == (2, "")
        why = re.escape(fate.why.replace("`", ""))
        assert re.fullmatch(rf"gnutls-cookie {command}: {re.escape(option)}: {why}\n", said.err)


@pytest.mark.parametrize("command", FATES)
@pytest.mark.parametrize("option", ["-v", "--version"])
def test_version(command: str, option: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Of the package and of libgnutls; exit code 0."""
    with pytest.raises(SystemExit) as caught:
        main([command, option])
    assert caught.value.code == 0
    assert re.match(r"gnutls-cookie \S+, libgnutls 3\.", capfd.readouterr().out)
