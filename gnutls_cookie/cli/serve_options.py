"""The options of `serve`, and what they are to a Server."""

from __future__ import annotations

import argparse
import math
from typing import Any

from .gnutls_options import SERV, add_others
from .options import (
    add_key_life,
    add_metrics,
    add_session_arguments,
    file_or_url,
    file_path,
    number_in,
    real,
    whole,
)

__all__ = ["Unusable", "add_arguments", "check_numbers", "server_options"]

_PORT = 5556  # gnutls-serv's
_MAX_WORKERS = 1024
_MAX_SESSIONS = 0xFFFFFFFF
_SHARES = {  # with Server's own defaults
    "max_sessions_per_address": (None, "of one IP address (all but a 32nd of --max-sessions)"),
    "max_sessions_per_prefix": (None, "of one network, /24 or /64 (all but a 64th)"),
    "max_handshakes": (2048, "under way at once (2048)"),
    "max_handshakes_per_address": (512, "of one IP address (512)"),
    "max_handshakes_per_prefix": (1024, "of one network (1024)"),
}
_STATS_MIN_SECONDS = 0.01


class Unusable(Exception):
    """What was asked for cannot be done; the text says why."""

    def __init__(self, text: str, code: int = 2) -> None:
        super().__init__(text)
        self.code = code


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add = parser.add_argument
    add(
        "-p",
        "--port",
        type=number_in("a port", 0, 65535),
        default=_PORT,
        help=f"UDP port; 0: any ({_PORT})",
    )
    add("--host", help='address to serve on; "::" for all (127.0.0.1; with -u all)')
    add("-u", "--udp", action="store_true", help="be as gnutls-serv --udp: see docs/drop-in.md")
    add(
        "--x509certfile",
        metavar="FILE",
        type=file_or_url,
        action="append",
        help="certificate chain, PEM or DER; may be repeated, as --x509keyfile",
    )
    add(
        "--x509keyfile",
        metavar="FILE",
        type=file_or_url,
        action="append",
        help="private key of the certificate in the same place, PEM or DER",
    )
    for kind in "dsa", "ecc":  # names of former times
        for what in "cert", "key":
            add(
                f"--x509{kind}{what}file",
                dest=f"x509{what}file",
                type=file_or_url,
                action="append",
                help=argparse.SUPPRESS,
            )
    add(
        "--ocsp-response",
        metavar="FILE",
        type=file_path,
        action="append",
        default=[],
        help="OCSP response to staple to the certificate in the same place",
    )
    add("--rawpkkeyfile", metavar="FILE", type=file_path, help="private key of a raw public key")
    add("--rawpkfile", metavar="FILE", type=file_path, help=argparse.SUPPRESS)
    add(
        "--x509cafile",
        metavar="FILE",
        type=file_or_url,
        help="authorities of clients' certificates",
    )
    add(
        "--x509crlfile",
        metavar="FILE",
        type=file_path,
        help="list of revoked certificates of these",
    )
    add(
        "--verify-client-cert",
        action="store_true",
        help="ask for a client's certificate, and verify it if one is sent",
    )
    asked = parser.add_mutually_exclusive_group()
    asked.add_argument(
        "-r", "--require-client-cert", action="store_true", help="and one must be sent"
    )
    asked.add_argument(
        "-a",
        "--disable-client-cert",
        action="store_true",
        help="with -u: do not ask for a client's certificate",
    )
    add("--sni-hostname", metavar="NAME", help="log a warning where a client asks for another")
    add("--sni-hostname-fatal", action="store_true", help="refuse such a client")
    add("--alpn-fatal", action="store_true", help="refuse a client that has others alone")
    add(
        "--pskpasswd",
        metavar="FILE",
        type=file_path,
        help="pre-shared keys, a line identity:hex each",
    )
    add("--pskhint", metavar="TEXT", help="identity hint to send")
    add_session_arguments(parser)
    add("--noticket", action="store_true", help="let no session be resumed")
    add("--ticket-secret-file", metavar="FILE", type=file_path, help="ticket key of a fleet")
    add("--cookie-secret-file", metavar="FILE", type=file_path, help="cookie keys of a fleet")
    add_key_life(parser, 3600.0)
    add(
        "--workers",
        metavar="N",
        type=number_in("workers", 1, _MAX_WORKERS),
        default=1,
        help="processes on the port (1)",
    )
    add("--max-sessions", metavar="N", type=whole, default=10_000, help="of a process (10000)")
    for name, (most, text) in _SHARES.items():
        add(f"--{name.replace('_', '-')}", metavar="N", type=whole, default=most, help=text)
    add("--handshake-timeout", metavar="SECONDS", type=real, default=30.0, help="(30)")
    add("--idle-timeout", metavar="SECONDS", type=real, default=300.0, help="inf: none (300)")
    add("--stats", metavar="SECONDS", type=real, help="print counters every SECONDS")
    add_metrics(parser)
    add("--json", action="store_true", help="print and log JSON, an object a line")
    add("-q", "--quiet", action="store_true", help="log warnings only")
    add_others(parser, SERV)


def server_options(options: argparse.Namespace) -> dict[str, Any]:
    """What a Server is given besides credentials and tickets, by its arguments."""
    is_one_name_served = options.sni_hostname is not None and options.sni_hostname_fatal
    return {
        "priority": options.priority,
        "mtu": options.mtu,
        "server_names": [options.sni_hostname] if is_one_name_served else [],
        "record_size": options.recordsize,
        "srtp_profiles": options.srtp_profiles,
        "alpn": options.alpn,
        "alpn_required": "offered" if options.alpn_fatal and options.alpn else False,
        **_of_clients(options),
        "max_sessions": options.max_sessions,
        "handshake_timeout": options.handshake_timeout,
        "idle_timeout": options.idle_timeout,
        **_shares(options),
    }


def _of_clients(options: argparse.Namespace) -> dict[str, Any]:
    """What clients are asked for, by the arguments of Server.

    gnutls-serv asks for a certificate and takes any, unless it is told to verify. Where it is told
    whom to trust, a required one is verified here.
    """
    verify = options.verify_client_cert or (options.require_client_cert and options.x509cafile)
    wanted = "ignore"
    if options.require_client_cert:
        wanted = "require"
    elif not options.disable_client_cert and (options.x509certfile or options.rawpkkeyfile):
        wanted = "request" if options.udp or verify else "ignore"
    return {"client_certificate": wanted, "verify_peer": bool(verify) and wanted != "ignore"}


def _shares(options: argparse.Namespace) -> dict[str, int]:
    """The limits of addresses and networks; what is None is for Server to find."""
    given = {name: getattr(options, name) for name in _SHARES}
    return {name: most for name, most in given.items() if most is not None}


def check_numbers(options: argparse.Namespace) -> None:
    """Refuse what no limit can be. The library judges the rest, where it is used."""
    stats = options.stats
    if stats is not None and not _STATS_MIN_SECONDS <= stats < math.inf:
        least = "0" if not stats > 0 else f"{_STATS_MIN_SECONDS} and finite"
        raise Unusable(f"--stats must be above {least}, not {stats:g} seconds")
    if not options.idle_timeout > 0:
        raise Unusable(f"--idle-timeout must be above 0, not {options.idle_timeout:g} seconds")
    for name, most in {"max_sessions": options.max_sessions, **_shares(options)}.items():
        if not 1 <= most <= _MAX_SESSIONS:
            option = f"--{name.replace('_', '-')}"
            raise Unusable(f"{option} must be in 1..{_MAX_SESSIONS}, not {most}")
