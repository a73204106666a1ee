"""python -m gnutls_cookie COMMAND (also: gnutls-cookie COMMAND)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ._version import __version__
from .cookie import library_version


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
    parser.parse_args(arguments)
    from .demo import run

    return run()


if __name__ == "__main__":
    sys.exit(main())
