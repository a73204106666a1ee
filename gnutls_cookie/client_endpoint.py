"""ClientEndpoint: a client's connected UDP socket and its session; the counterpart of Endpoint.

It uses the socket, and asks no clock: `now` is an argument. Nothing waits but wait().
"""

from __future__ import annotations

import errno
import math
import select
import socket
from typing import TYPE_CHECKING

from ._check import seconds
from .address import SocketAddress
from .client import Client
from .errors import timed_out
from .listener import family_of
from .server import Connection, Event
from .session import LATEST, TICK
from .sockets import LARGEST_DATAGRAM

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["ClientEndpoint"]

_DATAGRAMS = 64  # taken from a socket before others have their turn
_LONGEST_MS = 24 * 3600 * 1000  # at a time; poll(2) takes an int
_ROOM_MS = 10  # a wait for room in the socket's buffer
_VAIN_WAITS = 5  # in a row, before nothing waits until something was sent again
_TRIES = 8  # to send a datagram

# What ICMP said of an earlier datagram; the kernel tells it once, to recv() or to send() (udp(7)).
_UNREACHABLE = (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.EACCES)


class ClientEndpoint:
    """A client's socket and its session. Not thread-safe, except that wait() may run beside the
    other methods.

    Where the socket is readable, turn(); where timeout() is over, handle_timeout(). Both send what
    is to be sent and return what happened.

    Args:
        sock: connected to the server, and non-blocking; closed by close().
        client: the session.
        silent_until: the time at which the address is given up if nothing has come; None: never.

    Attributes:
        sock: the socket.
        client: the session.
        peer: the server's address.

    Raises:
        TypeError, ValueError: an argument is of another type, or sock not a UDP socket.
        OSError: sock is not connected.
    """

    def __init__(
        self, sock: socket.socket, client: Client, silent_until: float | None = None
    ) -> None:
        family_of(sock)
        if not isinstance(client, Client):
            raise TypeError(f"client must be a Client, not {type(client).__name__}")
        if silent_until is not None:
            seconds("silent_until", silent_until, -LATEST, LATEST)
        self.sock = sock
        self.client = client
        self.peer: SocketAddress = sock.getpeername()
        client.address = self.peer
        self._silent_until = silent_until
        self._unreachable: OSError | None = None  # what a send was told during the handshake
        self._vain_waits = 0  # since something was sent

    due = -math.inf  # as of Endpoint: not known, timeout() is to be asked

    def connect(self, now: float) -> None:
        """Begin the handshake.

        Raises:
            OSError: nobody listens there.
        """
        self.client.connect(now)
        self.flush()
        self._check_reachable()

    def wait(self, timeout: float | None) -> None:
        """Wait until there is something for turn(), at most so many seconds; None: forever."""
        number = self.sock.fileno()
        if number >= 0:  # else it was closed meanwhile
            poll = select.poll()
            poll.register(number, select.POLLIN)
            wait = math.inf if timeout is None else max(0.0, timeout)
            poll.poll(math.ceil(min(wait * 1000, _LONGEST_MS)))

    def turn(self, now: float) -> list[Event]:
        """Take what came, let the session work on it and on what its timers want, and send.

        So many datagrams at a time that others have their turn.

        Returns:
            What happened, in order.

        Raises:
            OSError: during the handshake: nobody listens there, nothing has come until
                `silent_until`, and so on.
        """
        for _ in range(_DATAGRAMS):
            try:
                datagram = self.sock.recv(LARGEST_DATAGRAM)
            except BlockingIOError:
                break
            except OSError as error:  # ICMP: only the handshake believes it, it may be forged
                if error.errno != errno.EMSGSIZE and not self.client.session.established:
                    raise
                break  # a datagram that was too large for a router is lost, and sent again
            self._silent_until = None
            self.client.receive_datagram(datagram, now)
        left = self.client.timeout(now)
        is_late = self._silent_until is not None and now >= self._silent_until
        is_due = is_late or (left is not None and left <= 0)
        if is_due:
            return self.handle_timeout(now)
        events = self.settle(now)
        self._check_reachable()
        return events

    def timeout(self, now: float) -> float | None:
        """Seconds until handle_timeout() wants to be called; None where no timer runs."""
        left = self.client.timeout(now)
        if left is not None:
            left = max(left, TICK)  # a session's timer that reads 0 may not be due yet
        if self._silent_until is None:
            return left
        silent = max(0.0, self._silent_until - now)
        return silent if left is None else min(left, silent)

    def handle_timeout(self, now: float) -> list[Event]:
        """Let the session do what is due, and send; returns what happened.

        Raises:
            OSError: as of turn().
        """
        if self._silent_until is not None and now >= self._silent_until:
            raise timed_out("nothing came from the server")
        self.client.handle_timeout(now)
        events = self.settle(now)
        self._check_reachable()
        return events

    def settle(self, now: float) -> list[Event]:
        """Send what the session has to send; returns what happened."""
        self.flush()
        return self.client.events()

    def flush(self) -> None:
        """Send what the session has to send. What the kernel does not take (ENOBUFS, EPERM, ...) is
        lost, as the network may lose it, and sent again where that is due."""
        for datagram in self.client.datagrams_to_send():
            for _ in range(_TRIES):
                try:
                    self.sock.send(datagram)
                    self._vain_waits = 0
                    break
                except BlockingIOError:
                    if not self._has_room():
                        break
                except OSError as error:  # it may be of an earlier datagram: this one was not sent
                    if error.errno in _UNREACHABLE and not self.client.session.established:
                        self._unreachable = error.with_traceback(None)  # which has this object

    def send(self, connection: Connection, data: Buffer, now: float) -> int:
        """Send a message to the server.

        Returns:
            The number of bytes sent: all.

        Raises:
            LargePacketError: data is longer than the connection's `data_mtu`.
            GnuTLSError: the connection has ended.
        """
        sent = self.client.send(data)
        self.flush()
        return sent

    def end(self, connection: Connection) -> None:
        """Say goodbye, by the next flush() or settle() at the latest."""
        self.client.close()

    def end_all(self) -> None:
        """The same as end(), by the name that an Endpoint has for it."""
        self.client.close()

    def close(self) -> None:
        """Close the socket. The goodbye has been said: end()."""
        self.sock.close()

    def _has_room(self) -> bool:
        """Whether the socket's buffer, which a burst filled, has room again within a moment."""
        poll = select.poll()
        poll.register(self.sock.fileno(), select.POLLOUT)
        while self._vain_waits < _VAIN_WAITS:
            if poll.poll(_ROOM_MS):
                return True
            self._vain_waits += 1
        return False

    def _check_reachable(self) -> None:
        """Raise what a send was told, unless the session knows better."""
        error, self._unreachable = self._unreachable, None
        try:
            if error is not None and self.client.is_open and not self.client.session.established:
                raise error
        finally:
            del error  # its traceback has this frame
