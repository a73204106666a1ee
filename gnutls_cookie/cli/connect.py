"""gnutls-cookie connect HOST PORT: a DTLS client, a line at a time from stdin to stdout."""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import logging
import math
import os
import re
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator

from gnutls_cookie import Client
from gnutls_cookie.blocking import Connection, connect
from gnutls_cookie.errors import GnuTLSError
from gnutls_cookie.options import ClientOptions

from .console import (
    Output,
    complain,
    debug_logging,
    default_sigint,
    end_by,
    log_to,
    open_standard_files,
    reason,
)
from .credentials import Credentials, client_credentials, verifies
from .gnutls_options import CLI, add_others
from .options import (
    add_psk_arguments,
    add_session_arguments,
    file_or_url,
    file_path,
    number_in,
    real,
)
from .report import Report, wait_for

__all__ = ["add_arguments", "run"]

_log = logging.getLogger("gnutls_cookie")

_PROGRAM = "gnutls-cookie connect"
_PORT = 443  # gnutls-cli's
_LOOK_SECONDS = 0.1  # between two looks whether stdin has ended
_TIMEOUT_MIN_SECONDS, _TIMEOUT_MAX_SECONDS = 0.001, 4_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command; their names are gnutls-cli's."""
    add = parser.add_argument
    add("host", metavar="HOST", help="name or address; NAME:PORT too")
    add("port", metavar="PORT", nargs="?", type=number_in("a port", 1, 65535), help=f"({_PORT})")
    add(
        "-p",
        "--port",
        dest="service",
        metavar="PORT",
        type=_service,
        help="the same; a service's name too",
    )
    add(
        "-u",
        "--udp",
        action="store_true",
        help="print what gnutls-cli --udp prints of a session",
    )
    add("--logfile", metavar="FILE", type=file_path, help="print that to FILE, not to stdout")
    add("-V", "--verbose", action="store_true", help="with -u: print sizes and certificates, too")
    add("--x509cafile", metavar="FILE", type=file_or_url, help="trusted authorities (the system's)")
    add(
        "--x509crlfile",
        metavar="FILE",
        type=file_path,
        help="list of revoked certificates of these",
    )
    add("--x509certfile", metavar="FILE", type=file_or_url, help="own certificate")
    add("--x509keyfile", metavar="FILE", type=file_or_url, help="its private key")
    add(
        "--rawpkkeyfile",
        metavar="FILE",
        type=file_path,
        help="private key of an own raw public key",
    )
    add("--rawpkfile", metavar="FILE", type=file_path, help=argparse.SUPPRESS)
    add("--insecure", action="store_true", help="take any certificate")
    add(
        "--ca-verification",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="the server's certificate is verified; --no-ca-verification: as --insecure",
    )
    add("--sni-hostname", metavar="NAME", help="the name to ask the server for")
    add("--disable-sni", action="store_true", help="ask the server for no name")
    add("-r", "--resume", action="store_true", help="connect twice, and resume the session")
    add("--noticket", action="store_true", help="take no ticket, which resumes a session")
    add(
        "--verify-allow-broken",
        action="store_true",
        help="take certificates that are signed by broken algorithms",
    )
    add("--print-cert", action="store_true", help="print the server's certificate in PEM")
    add(
        "--save-cert", metavar="FILE", type=file_path, help="write the server's certificate to FILE"
    )
    stapled = parser.add_mutually_exclusive_group()
    stapled.add_argument(
        "--save-ocsp",
        metavar="FILE",
        type=file_path,
        help="write its stapled OCSP response to FILE, in DER",
    )
    stapled.add_argument(
        "--save-ocsp-multi", metavar="FILE", type=file_path, help="the same in PEM"
    )
    add("--crlf", action="store_true", help="send CR LF at the end of a line")
    add("--verify-hostname", metavar="NAME", help="the name in the server's certificate (HOST)")
    add_psk_arguments(parser)
    add_session_arguments(parser)
    add("--timeout", metavar="SECONDS", type=real, default=60.0, help="for the handshake (60)")
    add(
        "--wait",
        metavar="SECONDS",
        type=real,
        default=1.0,
        help="for further messages, once stdin has ended; inf: until the server ends it (1)",
    )
    add_others(parser, CLI)


def run(options: argparse.Namespace) -> int:
    """Connect, pass lines on until stdin or the server ends.

    A line is a message; one that does not fit into a datagram is several.

    Returns:
        The exit code: 0; or 1 where the connection failed, or stdin or stdout did; or 2 for
        unusable options. Where nobody reads stdout any more, and at Ctrl-C, the process ends by
        SIGPIPE or SIGINT, once the server was told.
    """
    open_standard_files()
    level = logging.DEBUG if options.debug else logging.INFO
    error_output = Output(None if sys.stderr is None else 2)
    log_to(error_output, level, tracebacks=options.debug > 0)
    try:
        host, port = _check(options)
        credentials = client_credentials(options)
        report = Report(options)
    except (OSError, ValueError, GnuTLSError) as error:
        return _failed(2, error)
    with report, debug_logging(options.debug, error_output):
        return _connected(options, host, port, credentials, report)


def _connected(
    options: argparse.Namespace,
    host: str,
    port: int,
    credentials: list[Credentials],
    report: Report,
    resume: bytes | None = None,
    again: bool = False,
) -> int:
    """Connect, and pass lines on; with --resume `again`, with the session of the first time.

    Returns:
        The exit code.
    """
    # Until there is a server to say goodbye to, Ctrl-C ends this process at once, a look-up of a
    # name in C included.
    former = default_sigint()
    given: ClientOptions = {
        "verify_peer": None if verifies(options) else False,
        "priority": _priority(options),
        "mtu": options.mtu,
        "alpn": options.alpn,
        "sni": _sni(options, host),
        "record_size": options.recordsize,
        "srtp_profiles": options.srtp_profiles,
        "handshake_timeout": options.timeout,
    }
    name = options.verify_hostname or None
    try:
        Client(credentials, server_name=name or host.partition("%")[0], **given)
    except (TypeError, ValueError, OverflowError, GnuTLSError) as error:  # libgnutls' word, too
        signal.signal(signal.SIGINT, former)
        return _failed(2, error)
    given["resume"] = resume
    try:
        report.say(f"Resolving '{host}:{port}'...\nConnecting to '{host}:{port}'...")
        connection = connect(host, port, credentials=credentials, server_name=name, **given)
    except BrokenPipeError:
        end_by(signal.SIGPIPE)
    except (OSError, GnuTLSError) as error:
        report.failed(error)
        if isinstance(error, OSError) and error.filename == host:
            error.filename = None  # of looking it up: the line says the host, and the port too
        return _failed(1, error, f"{host} port {port}: ")
    except (TypeError, ValueError, OverflowError) as error:
        return _failed(2, error)
    finally:
        signal.signal(signal.SIGINT, former)
    with connection:
        try:
            report.connected(connection.session, again)
            if again or not options.resume:
                report.ready()
                return _talk(connection, options.wait, options.crlf, report)
            resume = connection.session.session_data
            report.say("- Disconnecting\n\n\n- Connecting again- trying to resume previous session")
        except BrokenPipeError:
            connection.close()
            end_by(signal.SIGPIPE)
        except (OSError, GnuTLSError) as error:
            return _failed(1, error)
    return _connected(options, host, port, credentials, report, resume, again=True)


def _failed(code: int, error: Exception, where: str = "") -> int:
    what = reason(error)
    complain(_PROGRAM, what if what.startswith(where) else f"{where}{what}")
    return code


def _priority(options: argparse.Namespace) -> str | None:
    """The priority string, with what other options add to it."""
    more = {":%NO_TICKETS": options.noticket, ":%VERIFY_ALLOW_BROKEN": options.verify_allow_broken}
    added = "".join(one for one, wanted in more.items() if wanted)
    return (options.priority or "") + added if added else options.priority


def _sni(options: argparse.Namespace, host: str) -> str | None:
    """The name to ask the server for; "": none. gnutls-cli asks for HOST, whatever is verified."""
    if options.disable_sni:
        return ""
    if options.sni_hostname is not None or not options.udp:
        return str(options.sni_hostname) if options.sni_hostname is not None else None
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host.removesuffix(".")
    return ""


def _service(text: str) -> int:
    """The type of --port for argparse: a number, or the name of a service."""
    if not text[:1].isdecimal():
        for protocol in "udp", "tcp":
            with contextlib.suppress(OSError, UnicodeError, ValueError):
                return socket.getservbyname(text, protocol)
    return number_in("a port", 1, 65535)(text)


def _check(options: argparse.Namespace) -> tuple[str, int]:
    """Refuse what no option can be. The library judges the rest, where it is used.

    Returns:
        Host and port.
    """
    if not options.host.strip():
        raise ValueError(f"HOST must be a name or an address, not {options.host!r}")
    if not _TIMEOUT_MIN_SECONDS <= options.timeout <= _TIMEOUT_MAX_SECONDS:
        limits = f"{_TIMEOUT_MIN_SECONDS}..{_TIMEOUT_MAX_SECONDS}"
        raise ValueError(f"--timeout must be in {limits} seconds, not {options.timeout}")
    if math.isnan(options.wait) or options.wait < 0:
        raise ValueError(f"--wait must not be below 0, not {options.wait}")
    host, ports = options.host, [options.port, options.service]
    bracketed = re.fullmatch(r"\[([^]]*)\](?::(.*))?", host)
    if bracketed is not None or host.count(":") == 1:  # else it is an IPv6 address
        host, service = bracketed.groups() if bracketed is not None else host.split(":")
    else:
        service = None
    if service is not None:
        try:
            ports.append(_service(service))
        except argparse.ArgumentTypeError as error:
            raise ValueError(str(error)) from None
    given = [port for port in ports if port is not None]
    if len(given) > 1:
        raise ValueError("the port is given twice")
    return host, given[0] if given else _PORT


def _talk(connection: Connection, wait: float, crlf: bool, report: Report) -> int:
    sender = _Sender(connection, crlf, report)
    sender.start()
    last = time.monotonic()
    while True:
        try:
            message = connection.receive(timeout=_LOOK_SECONDS)
        except TimeoutError:
            if not sender.ended.is_set():
                last = time.monotonic()
            elif time.monotonic() - last >= wait:
                break
            continue
        if message is None:
            report.say("- Peer has closed the GnuTLS connection", log="the server said goodbye")
            break
        last = time.monotonic()
        report.received(message)
    if sender.failure is not None:
        complain(_PROGRAM, sender.failure)
    return 0 if sender.failure is None else 1


class _Sender(threading.Thread):
    """Sends what stdin has.

    Read by os.read: a thread that waits in sys.stdin when the program ends would hold its lock.

    Attributes:
        ended: set once stdin has ended.
        failure: why not all was read, or sent.
    """

    def __init__(self, connection: Connection, crlf: bool, report: Report) -> None:
        super().__init__(daemon=True)
        self._connection = connection
        self._end = b"\r\n" if crlf else b"\n"
        self._report = report
        self.ended = threading.Event()
        self.failure: str | None = None

    def run(self) -> None:
        """Until stdin, or the connection, ends."""
        try:
            for piece in _pieces(self._read, lambda: self._connection.data_mtu):
                try:
                    self._report.sent(self._connection.send(piece))
                except (OSError, GnuTLSError) as error:
                    if not self._connection.session.closed:
                        self.failure = f"not sent: {reason(error)}"
                    return
        except OSError as error:
            self.failure = f"stdin: {reason(error)}"
        finally:
            self.ended.set()

    def _read(self) -> bytes:
        return _read().replace(b"\n", self._end)


def _pieces(read: Callable[[], bytes], most: Callable[[], int]) -> Iterator[bytes]:
    """Lines, each with its end, and parts of `most` bytes of those that are longer."""
    rest = bytearray()
    while data := read():
        rest += data
        while rest:
            limit = most()
            end = rest.find(b"\n", 0, limit) + 1
            if end == 0 and len(rest) < limit:
                break
            piece = bytes(rest[: end or limit])
            del rest[: len(piece)]
            yield piece
    if rest:
        yield bytes(rest)


def _read() -> bytes:
    if sys.stdin is None:
        return b""
    while True:
        try:
            return os.read(0, 65536)
        except BlockingIOError:
            wait_for(0, select.POLLIN)
