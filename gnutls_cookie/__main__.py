"""python -m gnutls_cookie COMMAND (also: gnutls-cookie COMMAND)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from . import client, demo, probe, run, serve
from ._version import __version__
from .cookie import library_version
from .differential import command as diff

_Parser = argparse.ArgumentParser
_Command = tuple[str, Callable[[_Parser], None], Callable[[argparse.Namespace], int]]

COMMANDS: dict[str, _Command] = {
    "demo": ("show the exchange step by step on loopback", lambda _: None, lambda _: demo.run()),
    "serve": ("a DTLS echo server, as gnutls-serv --udp", serve.add_arguments, serve.run),
    "connect": ("a DTLS client, a line at a time", client.add_arguments, client.run),
    "probe": ("audit a DTLS server from outside", probe.add_arguments, probe.run),
    "diff": ("an implementation beside the real one", diff.add_arguments, diff.run),
    "run": ("a server of others with the gate in front", run.add_arguments, run.run),
    "stats": ("what `run --stats` has counted", run.add_stats_arguments, run.run_stats),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code is 0 where it succeeded."""
    parser = argparse.ArgumentParser(
        prog="gnutls-cookie", description="The DTLS cookie exchange of the real libgnutls."
    )
    parser.add_argument(
        "--version",
        action="version",
        version=f"gnutls-cookie {__version__}, libgnutls {library_version()}",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (text, add_arguments, _) in COMMANDS.items():
        add_arguments(commands.add_parser(name, help=text, description=text))
    options = parser.parse_args(arguments)
    return COMMANDS[options.command][2](options)


if __name__ == "__main__":
    sys.exit(main())
