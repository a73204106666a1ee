"""python -m gnutls_cookie COMMAND (also: gnutls-cookie COMMAND)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from . import client, demo, serve
from ._version import __version__
from .cookie import library_version
from .differential import command as diff


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
    commands.add_parser("demo", help="show the exchange step by step on loopback")
    serving = commands.add_parser("serve", help="a DTLS echo server, as gnutls-serv --udp")
    serve.add_arguments(serving)
    connecting = commands.add_parser("connect", help="a DTLS client, a line at a time")
    client.add_arguments(connecting)
    comparing = commands.add_parser("diff", help="an implementation beside the real one")
    diff.add_arguments(comparing)
    options = parser.parse_args(arguments)
    if options.command == "serve":
        return serve.run(options)
    if options.command == "connect":
        return client.run(options)
    if options.command == "diff":
        return diff.run(options)
    return demo.run()


if __name__ == "__main__":
    sys.exit(main())
