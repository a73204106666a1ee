"""The three acts of the demo, and its exit code."""

from __future__ import annotations

import argparse
import secrets
from collections.abc import Callable
from functools import partial

from gnutls_cookie import GnuTLSError, PSKCredentials, library_version

from . import exchange, flood, restart
from .exchange import DemoError, MissingError
from .screen import BOLD, GREEN, RED, YELLOW, say

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command has no options."""


def run(options: argparse.Namespace) -> int:
    """Show the exchange, a change of keys and a flood.

    A client that is not installed is left out: whoever has only the package sees the rest.

    Returns:
        The exit code: 0 if all happened that should, otherwise 1.
    """
    identity, key = "demo", secrets.token_bytes(32)
    credentials = PSKCredentials(identity, key)
    failed, left_out = [], []
    say(f"1. The DTLS cookie exchange, libgnutls {library_version()}", BOLD)
    for name, client in exchange.clients(identity, key).items():
        say(f"\nClient: {name}", BOLD)
        try:
            if not _happens(partial(exchange.show, client, credentials)):
                failed.append(name)
        except MissingError as error:
            say(f"  left out: {error}", YELLOW)
            left_out.append(name)
    say("\n2. The key changes between a client's two hellos: the server was started again", BOLD)
    if not _happens(partial(restart.show, credentials)):
        failed.append("the client in mid-exchange")
    say("\n3. A flood of strangers", BOLD)
    if not _happens(partial(flood.show, credentials)):
        failed.append("the clients under the flood")
    if failed:
        say(f"\nNot served: {', '.join(failed)}", RED)
        return 1
    others = f" Left out: {', '.join(left_out)}." if left_out else ""
    say(f"\nAll clients were challenged, verified and served.{others}", GREEN)
    return 0


def _happens(act: Callable[[], None]) -> bool:
    try:
        act()
    except (DemoError, GnuTLSError, OSError) as error:
        say(f"  {error}", RED)
        return False
    return True
