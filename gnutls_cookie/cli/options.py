"""Options that several commands share, and what is made of them."""

from __future__ import annotations

import argparse

from gnutls_cookie import PSKCredentials

__all__ = ["add_psk_arguments", "psk_credentials"]


def add_psk_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of a client with a pre-shared key; their names are gnutls-cli's."""
    parser.add_argument("--pskusername", metavar="TEXT", help="PSK identity")
    parser.add_argument("--pskkey", metavar="HEX", help="PSK key")


def psk_credentials(options: argparse.Namespace) -> PSKCredentials | None:
    """The credentials of --pskusername and --pskkey; None if neither is given.

    Raises:
        ValueError: one is missing, or cannot be used.
    """
    if (options.pskusername is None) != (options.pskkey is None):
        raise ValueError("--pskusername and --pskkey go together")
    if options.pskusername is None:
        return None
    try:
        key = bytes.fromhex(options.pskkey)
    except ValueError:
        raise ValueError("--pskkey must be hexadecimal") from None
    return PSKCredentials(options.pskusername, key)
