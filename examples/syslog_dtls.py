"""Syslog over DTLS (RFC 6012): a collector that takes senders by the names in their certificates,
and a handler for Python's logging that sends to one.

python syslog_dtls.py collect 127.0.0.1 --cert log.pem --key log.key --trust ca.pem \
    --sender web.example.org
uptime | python syslog_dtls.py send 127.0.0.1 --cert web.pem --key web.key --trust ca.pem \
    --server-name log.example.org

rsyslog is a peer on both sides. Its omdtls and imdtls know no length before a message: collect
takes such messages too, and towards imdtls say send --bare.
"""

import argparse
import asyncio
import contextlib
import logging
import re
import socket
import sys
import time
from datetime import UTC, datetime

from gnutls_cookie import CertificateCredentials, GnuTLSError, aio, blocking

PORT = 6514
USER = 1  # the facility of user-level messages (RFC 5424 6.2.1)
SEVERITIES = (  # RFC 5424 6.2.1, from what level on
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
    (logging.NOTSET, 7),
)
RENEW_SECONDS = 600
_LENGTH = re.compile(rb"([1-9][0-9]{0,4}) ")  # MSG-LEN SP; a record has 2**14 bytes at most


# --- frames ---------------------------------------------------------------------------------------


def frame(message):
    """A message behind its length (RFC 6012 5.4)."""
    return b"%d %s" % (len(message), message)


def messages(record):
    """The messages of a record, one after the other.

    Raises:
        ValueError: what is left of it is not a frame. Part of one is none either: the rest of it
            would be in another datagram, which may be lost.
    """
    if record.startswith(b"<"):  # of a sender that writes no length
        yield record.removesuffix(b"\n")
        return
    at = 0
    while at < len(record):
        length = _LENGTH.match(record, at)
        if length is None or len(record) - length.end() < int(length[1]):
            raise ValueError("not a frame")
        at = length.end() + int(length[1])
        yield record[length.end() : at]


# --- the collector --------------------------------------------------------------------------------


class Sender(aio.Protocol):
    """One who sends us messages."""

    def __init__(self, names, take):
        self._names, self._take = names, take

    def connected(self, connection):
        # libgnutls has checked who signed its certificate; whose it is, is for us to ask.
        matches = connection.session.peer_matches
        self._name = next((name for name in self._names if matches(name)), None)
        if self._name is None:
            connection.close()

    def message_received(self, record):
        with contextlib.suppress(ValueError):
            for message in messages(record):
                self._take(self._name, message)


def start_collector(host, port, credentials, names, take):
    """Start a collector: `async with start_collector(...) as server`.

    Args:
        credentials: its certificate, and who signs those of senders.
        names: of which one has to be in a sender's certificate; *.example.org in it is for any.
        take: called with that name and each message, as bytes.
    """
    return aio.start_server(
        host=host,
        port=port,
        protocol_factory=lambda: Sender(names, take),
        credentials=credentials,
        verify_peer=True,  # a sender has to have a certificate, of who is trusted
    )


def show(name, message):
    """Print a message; what is no text in it cannot play tricks on a terminal, or add a line."""
    text = message.decode(errors="replace")
    print(name, "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text), flush=True)


# --- the sender -----------------------------------------------------------------------------------


class SyslogHandler(logging.Handler):
    """Sends what is logged to a collector, in the format of RFC 5424.

    As with UDP, what is lost is lost: a collector answers nothing (RFC 6012). One that was started
    again does not know us any more, and does not say so; hence a new handshake from time to time.
    What is logged waits for that: put logging.handlers.QueueHandler before it where nothing may.

    Args:
        credentials: our certificate, and who signs the collector's.
        server_name: in its certificate; None is `host`.
        bare: without the length before a message, as rsyslog's imdtls wants it.
        renew: seconds after which a connection is replaced by a new one.
    """

    def __init__(
        self, host, port, credentials, server_name=None, *, bare=False, renew=RENEW_SECONDS
    ):
        super().__init__()
        self._where = {
            "host": host,
            "port": port,
            "credentials": credentials,
            "server_name": server_name,
        }
        self._bare, self._renew = bare, renew
        self._connection, self._until = None, 0.0

    def emit(self, record):
        try:
            connection = self.connect()
            message = self._line(record, connection.data_mtu - len("16384 "))
            connection.send(message if self._bare else frame(message))
        except Exception:
            self.handleError(record)

    def close(self):
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        super().close()

    def connect(self):
        """Connect, where we are not; what fails is raised. emit() does it, too."""
        if self._connection is not None:
            with contextlib.suppress(TimeoutError, OSError):
                self._connection.receive(0)  # a goodbye, if there is one
            if not self._connection.is_open or time.monotonic() > self._until:
                self._connection.close()
                self._connection = None
        if self._connection is None:
            self._connection = blocking.connect(**self._where)
            self._until = time.monotonic() + self._renew
        return self._connection

    def _line(self, record, most):
        """The message, cut to `most` bytes."""
        severity = next(one for level, one in SEVERITIES if record.levelno >= level)
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        host, name = _word(socket.gethostname(), 255), _word(record.name, 48)
        head = f"<{USER * 8 + severity}>1 {when} {host} {name} {record.process or '-'} - - "
        line = (head + self.format(record)).encode()
        return line[:most].decode(errors="ignore").encode()


def _word(text, most):
    """A field of the header: printable ASCII without spaces (RFC 5424 6)."""
    return re.sub(r"[^!-~]", "_", text)[:most] or "-"


# --- both as a program ----------------------------------------------------------------------------


async def collect(options, credentials):
    where = (options.host, options.port, credentials, options.sender, show)
    async with start_collector(*where) as server:
        print(f"syslog over DTLS on {server.address[0]} port {server.address[1]}", flush=True)
        await server.serve_forever()


def send(options, credentials):
    handler = SyslogHandler(
        options.host, options.port, credentials, options.server_name, bare=options.bare
    )
    handler.connect()  # fails aloud
    logger = logging.getLogger("syslog_dtls")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    for line in sys.stdin:
        logger.info("%s", line.rstrip("\n"))
    handler.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, dest="command")
    for name in "collect", "send":
        one = commands.add_parser(name)
        one.add_argument("host")
        one.add_argument("--port", type=int, default=PORT)
        for option in "--cert", "--key", "--trust":
            one.add_argument(option, metavar="PEM", required=True)
        if name == "collect":
            one.add_argument("--sender", metavar="NAME", action="append", default=[])
        else:
            one.add_argument("--server-name", metavar="NAME", help="in its certificate (HOST)")
            one.add_argument("--bare", action="store_true", help="no lengths, for rsyslog's imdtls")
    options = parser.parse_args()
    files = (options.cert, options.key)
    try:
        credentials = CertificateCredentials.from_files(*files, trust=options.trust)
        if options.command == "collect":
            asyncio.run(collect(options, credentials))
        else:
            send(options, credentials)
    except (GnuTLSError, OSError, ValueError) as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
