"""The options of the installed gnutls-serv and gnutls-cli, and the tables of docs/drop-in.md.

    python -m tests.support.gnutls_options

writes the tables.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import re
import subprocess
from collections.abc import Mapping
from typing import NamedTuple

from gnutls_cookie.cli import COMMANDS
from gnutls_cookie.cli.gnutls_options import CLI, SERV, Fate
from tests.support.common import ROOT, peer_required

PAGE = ROOT / "docs" / "drop-in.md"
TOOLS: Mapping[str, tuple[str, Mapping[str, Fate]]] = {
    "gnutls-serv": ("serve", SERV),
    "gnutls-cli": ("connect", CLI),
}
_LINE = re.compile(
    r"^ +(?:-(?P<short>.), )?(?:  +)?--(?P<name>[\w-]+)(?P<value>\[?=\S+)?(?P<rest>.*)", re.M
)


class Found(NamedTuple):
    """An option as --help shows it."""

    short: str
    takes_value: bool


@functools.cache
def options_of_tool(program: str) -> dict[str, Found]:
    """What `PROGRAM --help` lists."""
    path = peer_required(program, "apt install gnutls-bin")
    text = subprocess.run([path, "--help"], capture_output=True, text=True, timeout=60).stdout
    return {
        found["name"]: Found(found["short"] or "", (found["value"] or "").startswith("="))
        for found in _LINE.finditer(text)
        if "an alias for" not in found["rest"]  # its value is not shown
    }


def parser_of(command: str) -> argparse.ArgumentParser:
    """The parser of a command of ours."""
    made = argparse.ArgumentParser(prog=command, exit_on_error=False)
    importlib.import_module(COMMANDS[command].module, "gnutls_cookie").add_arguments(made)
    return made


def own_options(command: str) -> list[str]:
    """The options of ours that the tool has not, those in the command's help alone."""
    _, fates = next(one for one in TOOLS.values() if one[0] == command)
    return sorted(
        string
        for action in parser_of(command)._actions
        if action.help is not argparse.SUPPRESS
        for string in action.option_strings
        if string.startswith("--") and string[2:].removeprefix("no-") not in fates
    )


def table(program: str) -> str:
    """The table of a program's options, in Markdown."""
    command, fates = TOOLS[program]
    said = {"same": "same", "nothing": "changes nothing", "refused": "refused"}
    rows = [f"| `{program}` | `{command}` |", "|---|---|"]
    for name in sorted(fates):
        fate = fates[name]
        option = f"`--{name}{f' {fate.metavar}' if fate.metavar else ''}`"
        if fate.short:
            option = f"`-{fate.short}`, {option}"
        rows.append(f"| {option} | {said[fate.kind]}{f': {fate.why}' if fate.why else ''} |")
    own = ", ".join(f"`{one}`" for one in own_options(command))
    return "\n".join(rows) + f"\n\nOnly `{command}` has: {own}.\n"


def between(program: str) -> tuple[str, str]:
    """The comments of the page between which the table stands."""
    return f"<!-- options of {program} -->\n", f"<!-- end of options of {program} -->\n"


def page_with_tables(text: str) -> str:
    """The page with tables as they should be."""
    for program in TOOLS:
        start, end = between(program)
        before, rest = text.split(start)
        _, after = rest.split(end)
        text = f"{before}{start}\n{table(program)}\n{end}{after}"
    return text


if __name__ == "__main__":
    PAGE.write_text(page_with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
