"""GET /metrics over HTTP/1.1 (RFC 9112), for Prometheus; it never waits for who asks."""

from __future__ import annotations

import math
import select
import socket
import time
from collections.abc import Callable
from contextlib import suppress

from gnutls_cookie.metrics import CONTENT_TYPE, OPENMETRICS_CONTENT_TYPE

from .workers import Companion

__all__ = ["Exporter", "exporter_at"]

_MAX_CONNECTIONS = 32  # the oldest gives way to a new one
_MAX_REQUEST_BYTES = 8192
_MAX_READ_BYTES = 65536  # of a connection; what comes after the request is thrown away
_CONNECTION_SECONDS = 5.0  # from accept() to the end
_PAUSE_SECONDS = 1.0  # without accept() after it has failed: no descriptor is left, say
# A flood of scrapers takes some percent of a core, whatever it does: a page costs 0.4 ms.
_ACCEPTS, _WINDOW_SECONDS = 8, 0.05
_BACKLOG = 16

_STATUS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
}


def exporter_at(where: str, page: Callable[[bool], str]) -> Exporter:
    """Listen at HOST:PORT, or [ADDRESS]:PORT.

    Raises:
        ValueError: it has another form.
        OSError: the host is not known, or none of its addresses can be bound.
    """
    return Exporter(_listen(*_host_and_port(where)), page)


class Exporter(Companion):
    """Answers GET and HEAD of /metrics. Connections are bounded in number, bytes and time.

    Args:
        sock: a listening socket; closed by close().
        page: the text; its argument says whether it is to be OpenMetrics.
    """

    def __init__(self, sock: socket.socket, page: Callable[[bool], str]) -> None:
        self._sock = sock
        self._page = page
        self._connections: dict[int, _Connection] = {}  # by descriptor, the oldest first
        self._deaf_until = -math.inf
        self._window_end = -math.inf
        self._accepted = 0  # in the window

    @property
    def url(self) -> str:
        """Where the page is."""
        host, port = self._sock.getsockname()[:2]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/metrics"

    def events(self) -> dict[int, int]:
        """The listening socket and the connections."""
        found = {one: connection.wanted for one, connection in self._connections.items()}
        if self._deaf_until < time.monotonic():
            found[self._sock.fileno()] = select.POLLIN
        return found

    def due(self) -> float:
        """When the oldest connection is closed, or connections are accepted again."""
        first = next(iter(self._connections.values()), None)
        found = math.inf if first is None else first.deadline
        return min(found, self._deaf_until) if self._deaf_until > time.monotonic() else found

    def turn(self, ready: dict[int, int]) -> None:
        """Read requests, write answers, close what has lasted too long."""
        now = time.monotonic()
        for descriptor, connection in list(self._connections.items()):
            if descriptor in ready:
                connection.turn(self._page)
            if connection.is_over or now >= connection.deadline:
                self._close(descriptor)
        if self._sock.fileno() in ready:
            self._accept(now)

    def close(self) -> None:
        """Close everything."""
        for descriptor in list(self._connections):
            self._close(descriptor)
        self._sock.close()

    def _accept(self, now: float) -> None:
        if now >= self._window_end:
            self._window_end = now + _WINDOW_SECONDS
            self._accepted = 0
        while True:
            if self._accepted == _ACCEPTS:
                self._deaf_until = self._window_end
                return
            try:
                sock, _ = self._sock.accept()
            except BlockingIOError:
                return
            except OSError:
                self._deaf_until = now + _PAUSE_SECONDS
                return
            self._accepted += 1
            if len(self._connections) == _MAX_CONNECTIONS:
                self._close(next(iter(self._connections)))
            self._connections[sock.fileno()] = _Connection(sock, now + _CONNECTION_SECONDS)

    def _close(self, descriptor: int) -> None:
        self._connections.pop(descriptor).sock.close()


class _Connection:
    """One request, its answer, and the end.

    Attributes:
        sock: the socket.
        deadline: when it is closed at the latest; time.monotonic().
        wanted: what poll(2) is to wait for.
        is_over: whether it is to be closed.
    """

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.deadline = deadline
        self.wanted = select.POLLIN
        self.is_over = False
        self._request = b""
        self._answer: memoryview | None = None
        self._read_bytes = 0

    def turn(self, page: Callable[[bool], str]) -> None:
        """Go on as far as it goes without waiting."""
        try:
            if self.wanted == select.POLLIN:
                self._read(page)
            if self._answer is not None:
                self._write(self._answer)
        except BlockingIOError:
            pass
        except OSError:
            self.is_over = True

    def _read(self, page: Callable[[bool], str]) -> None:
        data = self.sock.recv(_MAX_REQUEST_BYTES)
        self._read_bytes += len(data)
        if not data or self._read_bytes > _MAX_READ_BYTES:
            self.is_over = True
        elif self._answer is None:
            self._request += data
            end = self._request.find(b"\r\n\r\n")
            if end > _MAX_REQUEST_BYTES or (end < 0 and len(self._request) > _MAX_REQUEST_BYTES):
                self._answer = _response(431)
            elif end >= 0:
                self._answer = _answer(self._request[:end], page)

    def _write(self, answer: memoryview) -> None:
        if not answer:
            return
        self.wanted = select.POLLOUT
        self._answer = answer = answer[self.sock.send(answer) :]
        if not answer:
            # What the client still sends is read: close() would answer it with a reset, which
            # may overtake the answer (RFC 9112 9.6).
            with suppress(OSError):
                self.sock.shutdown(socket.SHUT_WR)
            self.wanted = select.POLLIN


def _answer(request: bytes, page: Callable[[bool], str]) -> memoryview:
    """The answer to the lines of a request."""
    first, *fields = request.decode("latin-1").split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or not all(words) or not words[2].startswith("HTTP/1."):
        return _response(400)
    method, target, _ = words
    is_head = method == "HEAD"
    if target.partition("?")[0] != "/metrics":
        return _response(404, is_head=is_head)
    if method != "GET" and not is_head:
        return _response(405, fields="Allow: GET, HEAD\r\n")
    accepted = [
        value.lower()
        for name, _, value in (field.partition(":") for field in fields)
        if name.lower() == "accept"
    ]
    openmetrics = any("application/openmetrics-text" in value for value in accepted)
    kind = OPENMETRICS_CONTENT_TYPE if openmetrics else CONTENT_TYPE
    return _response(200, kind, page(openmetrics), is_head=is_head)


def _response(
    status: int,
    kind: str = "text/plain; charset=utf-8",
    text: str | None = None,
    *,
    fields: str = "",
    is_head: bool = False,
) -> memoryview:
    body = (f"{status} {_STATUS[status]}\n" if text is None else text).encode()
    head = (
        f"HTTP/1.1 {status} {_STATUS[status]}\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(body)}\r\n{fields}Connection: close\r\n\r\n"
    )
    return memoryview(head.encode() + (b"" if is_head else body))


def _host_and_port(text: str) -> tuple[str, int]:
    """HOST:PORT, where an IPv6 address stands in brackets."""
    host, _, port = text.rpartition(":")
    if host[:1] == "[" and host[-1:] == "]":
        host = host[1:-1]
    elif ":" in host:
        host = ""
    if host in ("", "*") or not (port.isascii() and port.isdecimal() and int(port[:6]) <= 65535):
        raise ValueError(f"HOST:PORT or [ADDRESS]:PORT is needed, not {text[:80]!r}")
    return host, int(port)


def _listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket at the first address of a name that can be bound."""
    failed: OSError | None = None
    kind = socket.SOCK_STREAM
    for family, _, protocol, _, address in socket.getaddrinfo(host, port, type=kind):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
            sock.listen(_BACKLOG)
            sock.setblocking(False)
        except OSError as error:
            sock.close()
            failed = error
        else:
            return sock
    assert failed is not None  # getaddrinfo gives one at least
    raise failed
