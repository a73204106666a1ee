"""The sockets of both adapters: the addresses of a name, in turn or all together."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Sequence
from typing import Any

from ._check import integer
from .errors import GnuTLSError, TimedOutError, naming
from .session import TICK

__all__ = [
    "LARGEST_DATAGRAM",
    "NOT_HERE",
    "Attempts",
    "bound",
    "host_and_port",
    "resolved",
    "server_name_for",
]

LARGEST_DATAGRAM = 65535  # bytes; more than any UDP datagram (RFC 768)

_RECEIVE_BUFFER_BYTES = 4 << 20
_TRIES = 20  # to find a port that is free for each of several addresses

# An address that this machine does not have, and a family that its kernel does not have.
NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def host_and_port(host: object, port: object, least_port: int = 0, prefix: str = "") -> None:
    """Judge the arguments `prefix`host and `prefix`port: getaddrinfo() takes a port of 65537 for 1.

    Raises:
        TypeError, ValueError: one is of no use; the text names it.
    """
    if not isinstance(host, str):
        raise TypeError(f"{prefix}host must be a str, not {type(host).__name__}")
    if not host or "\0" in host:
        raise ValueError(f"{prefix}host must be a name or an address, not {host!r}")
    try:
        host.encode("idna")  # as getaddrinfo() does
    except UnicodeError:
        raise ValueError(f"{prefix}host must be a name of RFC 1035, not {host!r}") from None
    integer(f"{prefix}port", port, least_port, 65535)


def resolved(host: str, port: int, *, family: int = 0, flags: int = 0) -> list[Any]:
    """What getaddrinfo finds for UDP.

    Raises:
        OSError: the name is not known; the text names it.
    """
    with naming(host):
        return socket.getaddrinfo(host, port, family=family, type=socket.SOCK_DGRAM, flags=flags)


def server_name_for(host: str, server_name: str | None) -> str:
    """What the server's certificate must name: `server_name`, or else `host`."""
    if server_name is not None:
        return server_name
    return host.partition("%")[0]  # without the zone (RFC 4007 11)


class Attempts:
    """The addresses of a name, each tried until one answers, within one total time.

    The next one is tried where the former is refused or cannot be reached, and where nothing at all
    has come from it when its share of the time is over: the time left, divided by the addresses
    left. Who has answered once has all the time that is left. What a server then does wrong (its
    certificate, say) is final: another address of the name is no way around it.

    Args:
        found: what getaddrinfo() gave.
        seconds: of all attempts together.
        now: the time.

    Attributes:
        info: the one to be tried, as getaddrinfo() gave it.
    """

    def __init__(self, found: Sequence[Any], seconds: float, now: float) -> None:
        self._left = list(dict.fromkeys(found))
        self._deadline = now + seconds
        self._failed: list[tuple[Any, OSError]] = []
        self.info = self._left.pop(0)

    def seconds(self, now: float) -> float:
        """The time left for everything."""
        return max(self._deadline - now, TICK)

    def patience(self, now: float) -> float | None:
        """How long the present address may be silent; None: to the end."""
        return self.seconds(now) / (len(self._left) + 1) if self._left else None

    def failed(self, error: Exception, now: float) -> bool:
        """Tell that the present address failed, and how.

        Returns:
            Whether there is another one to try, `info` now.

        Raises:
            Exception: `error`, or one of its kind that says what each address gave.
        """
        final = isinstance(error, GnuTLSError) and not isinstance(error, TimedOutError)
        if final or not isinstance(error, OSError):
            for one in self._failed:
                error.add_note(f"before that, {_gave(*one)}")
            raise error
        self._failed.append((self.info[4], error))
        if self._left and now < self._deadline:
            self.info = self._left.pop(0)
            return True
        failed, self._failed = self._failed, []  # an error's traceback holds this object
        if len(failed) == 1 and isinstance(error, TimedOutError):
            raise error
        raise _together(failed) from None


def _together(failed: list[tuple[Any, OSError]]) -> OSError:
    text = "; ".join(_gave(*one) for one in failed)
    for _, error in failed:
        if isinstance(error, TimedOutError):
            return TimedOutError(error.code, text)
    return OSError(failed[-1][1].errno, text)  # of the kind that belongs to the number


def _gave(address: Any, error: OSError) -> str:
    reason = "timed out" if isinstance(error, TimedOutError) else error.strerror or str(error)
    return f"{address[0]} port {address[1]}: {reason}"


def bound(found: Sequence[Any], reuse_port: bool = False) -> list[socket.socket]:
    """UDP sockets bound to what getaddrinfo found, non-blocking; all of them to one port.

    An address that this machine does not have (::1 of localhost in a container without IPv6) is
    left out where another one can be bound.

    Raises:
        OSError: one cannot be bound, or none is there.
    """
    found = list(dict.fromkeys(found))
    for _ in range(_TRIES if len(found) > 1 and found[0][4][1] == 0 else 0):
        try:
            return _bound(found, reuse_port)
        except OSError as error:  # what is free at the first address may be taken at the next
            if error.errno != errno.EADDRINUSE:
                raise
    return _bound(found, reuse_port)


def _bound(found: Sequence[Any], reuse_port: bool) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    try:
        for info in found:
            port = sockets[0].getsockname()[1] if sockets else None
            try:
                sockets.append(_socket(info, port, len(found) > 1, reuse_port))
            except OSError as error:
                if error.errno not in NOT_HERE:
                    raise
                missing = error
        if not sockets:
            raise OSError("no address to bind to") if missing is None else missing
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    finally:
        del missing  # its traceback holds this frame
    return sockets


def _socket(info: Any, port: int | None, several: bool, reuse_port: bool) -> socket.socket:
    """A socket bound to what getaddrinfo found, but to `port` where it is given."""
    family, kind, protocol, _, address = info
    if address[1] == 0 and port is not None:
        address = (address[0], port, *address[2:])
    sock = socket.socket(family, kind, protocol)
    try:
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6 and several:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # IPv4 has its own
        # Hellos, messages and goodbyes of many peers come at once. The kernel takes less memory
        # until it is needed, and on Linux never more than net.core.rmem_max.
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
        sock.setblocking(False)
        sock.bind(address)
    except BaseException as error:
        error.add_note(f"binding to {address[0]} port {address[1]}")
        sock.close()
        raise
    return sock
