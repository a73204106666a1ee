"""The command line: the table of commands, and main().

A command's module is imported only when that command is asked for. It has two functions:
add_arguments(parser) and run(options), which returns the exit code.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from gnutls_cookie import __version__, library_version

__all__ = ["COMMANDS", "Command", "main"]


class Command(NamedTuple):
    """One command.

    Attributes:
        help: one line for `gnutls-cookie --help`.
        module: where it is, relative to the package gnutls_cookie.
        add_arguments: name of the module's function that adds the options to a parser.
        run: name of the module's function that runs the command.
    """

    help: str
    module: str
    add_arguments: str = "add_arguments"
    run: str = "run"


COMMANDS = {
    "demo": Command("show the exchange step by step on loopback", ".cli.demo"),
    "serve": Command("a DTLS echo server, as gnutls-serv --udp", ".serve"),
    "connect": Command("a DTLS client, a line at a time", ".client"),
    "probe": Command("audit a DTLS server from outside", ".cli.probe.command"),
    "diff": Command("compare an implementation with libgnutls", ".differential.command"),
    "run": Command("run an unmodified server with the gate in front", ".run"),
    "stats": Command(
        "print the counters of a server under `run --stats`",
        ".run",
        "add_stats_arguments",
        "run_stats",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: the command line without the program's name; None takes sys.argv's.

    Returns:
        The exit code; 0 if the command succeeded.

    Raises:
        SystemExit: with code 2 for a wrong command line, with code 0 for --help and --version.
    """
    if arguments is None:
        arguments = sys.argv[1:]
    parser = argparse.ArgumentParser(
        prog="gnutls-cookie", description="The DTLS cookie exchange of the real libgnutls."
    )
    parser.add_argument(
        "--version",
        action="version",
        version=f"gnutls-cookie {__version__}, libgnutls {library_version()}",
    )
    parsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    # No option before the command takes a value, so that the first other word names the command.
    asked = next((word for word in arguments if not word.startswith("-")), None)
    run: Callable[[argparse.Namespace], int] | None = None
    for name, command in COMMANDS.items():
        subparser = parsers.add_parser(name, help=command.help, description=command.help)
        if name == asked:
            module = importlib.import_module(command.module, "gnutls_cookie")
            getattr(module, command.add_arguments)(subparser)
            run = getattr(module, command.run)
    options = parser.parse_args(arguments)
    assert run is not None  # argparse refuses a command line without a command of the table
    return run(options)
