"""gnutls-cookie connect HOST PORT: a DTLS client, a line at a time from stdin to stdout."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import threading
import time
from pathlib import Path

from .blocking import Connection, connect
from .credentials import CertificateCredentials, PSKCredentials
from .errors import GnuTLSError
from .session import Credentials

__all__ = ["add_arguments", "run"]

_log = logging.getLogger("gnutls_cookie")

_LOOK = 0.1  # seconds between two looks whether stdin has ended


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command; their names are gnutls-cli's."""
    add = parser.add_argument
    add("host", metavar="HOST")
    add("port", metavar="PORT", type=int)
    add("--x509cafile", metavar="FILE", type=Path, help="trusted authorities (the system's)")
    add("--x509certfile", metavar="FILE", type=Path, help="own certificate")
    add("--x509keyfile", metavar="FILE", type=Path, help="its private key")
    add("--insecure", action="store_true", help="take any certificate")
    add("--verify-hostname", metavar="NAME", help="the name in the server's certificate (HOST)")
    add("--pskusername", metavar="TEXT", help="PSK identity")
    add("--pskkey", metavar="HEX", help="PSK key")
    add("--priority", metavar="TEXT", help="GnuTLS priority string")
    add("--mtu", metavar="BYTES", type=int, help="largest datagram to send (1200)")
    add("--timeout", metavar="SECONDS", type=float, default=60.0, help="for the handshake (60)")
    add(
        "--wait",
        metavar="SECONDS",
        type=float,
        default=1.0,
        help="for further messages, once stdin has ended (1)",
    )
    add("-d", "--debug", metavar="LEVEL", type=int, default=0, help="above 0: log more")
    add("--udp", "-u", action="store_true", help=argparse.SUPPRESS)


def run(options: argparse.Namespace) -> int:
    """Connect, pass lines on until stdin or the server ends.

    Returns:
        The exit code: 0, or 1 where the connection failed, or 2 for unusable options.
    """
    level = logging.DEBUG if options.debug else logging.INFO
    logging.basicConfig(level=level, format="%(levelname)s %(message)s", stream=sys.stderr)
    try:
        credentials = _credentials(options)
    except (OSError, ValueError, GnuTLSError) as error:
        print(f"gnutls-cookie connect: credentials: {error}", file=sys.stderr)
        return 2
    try:
        connection = connect(
            options.host,
            options.port,
            credentials=credentials,
            server_name=options.verify_hostname,
            verify_peer=False if options.insecure else None,
            priority=options.priority,
            mtu=options.mtu,
            handshake_timeout=options.timeout,
        )
    except (OSError, OverflowError, ValueError, GnuTLSError) as error:
        print(f"gnutls-cookie connect: {error}", file=sys.stderr)
        return 1
    _log.info("connected: %s", connection.session.description)
    with connection:
        try:
            return _talk(connection, options.wait)
        except KeyboardInterrupt:
            return 130


def _talk(connection: Connection, wait: float) -> int:
    ended = threading.Event()
    threading.Thread(target=_send_lines, args=(connection, ended), daemon=True).start()
    last = time.monotonic()
    while True:
        try:
            message = connection.receive(timeout=_LOOK)
        except TimeoutError:
            if not ended.is_set():
                last = time.monotonic()
            elif time.monotonic() - last >= wait:
                return 0
            continue
        except GnuTLSError as error:
            print(f"gnutls-cookie connect: {error}", file=sys.stderr)
            return 1
        if message is None:
            _log.info("the server said goodbye")
            return 0
        last = time.monotonic()
        sys.stdout.buffer.write(message)
        sys.stdout.buffer.flush()


def _send_lines(connection: Connection, ended: threading.Event) -> None:
    """Lines of stdin, each a message. Read by os.read: a thread that waits in sys.stdin when the
    program ends would hold its lock."""
    rest = b""
    while data := os.read(0, 65536):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            _send(connection, line + b"\n")
    if rest:
        _send(connection, rest)
    ended.set()


def _send(connection: Connection, line: bytes) -> None:
    try:
        connection.send(line)
    except GnuTLSError as error:
        print(f"gnutls-cookie connect: not sent: {error}", file=sys.stderr)


def _credentials(options: argparse.Namespace) -> Credentials:
    if (options.pskusername is None) != (options.pskkey is None):
        raise ValueError("--pskusername and --pskkey go together")
    if options.pskusername is not None:
        try:
            key = bytes.fromhex(options.pskkey)
        except ValueError:
            raise ValueError("--pskkey must be hexadecimal") from None
        return PSKCredentials(options.pskusername, key)
    return CertificateCredentials.from_files(
        options.x509certfile,
        options.x509keyfile,
        trust=options.x509cafile,
        system_trust=options.x509cafile is None and not options.insecure,
    )
