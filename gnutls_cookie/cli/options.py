"""Options that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable

__all__ = ["add_psk_arguments", "add_session_arguments", "number_in"]


def add_psk_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of a client with a pre-shared key; their names are gnutls-cli's."""
    parser.add_argument("--pskusername", metavar="TEXT", help="PSK identity")
    parser.add_argument("--pskkey", metavar="HEX", help="PSK key")


def add_session_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of whoever has DTLS sessions; their names are gnutls-cli's and gnutls-serv's."""
    parser.add_argument("--priority", metavar="TEXT", help="GnuTLS priority string")
    parser.add_argument("--mtu", metavar="BYTES", type=int, help="largest datagram to send (1200)")
    parser.add_argument(
        "-d", "--debug", metavar="LEVEL", type=int, default=0, help="above 0: log more"
    )
    parser.add_argument("-u", "--udp", action="store_true", help=argparse.SUPPRESS)


def number_in(name: str, least: int, most: int) -> Callable[[str], int]:
    """A type for argparse: whole numbers from `least` to `most`, in ASCII digits."""

    def number(text: str) -> int:
        if text.isascii() and text.isdecimal() and len(text) < 20 and least <= int(text) <= most:
            return int(text)
        raise argparse.ArgumentTypeError(f"{name} must be in {least}..{most}, not {text!r}")

    return number
