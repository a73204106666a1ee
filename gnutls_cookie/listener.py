"""CookieListener: one UDP socket, the gate in front of it, and only what passed it in Python.

The loop is in native/udp.c and runs with the GIL released. This module calls it for short slices of
time, so that signals and other threads get their turn under flood as well.
"""

from __future__ import annotations

import errno
import functools
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ._check import integer, seconds_to_wait
from ._ffi import ffi, lib
from ._owned import not_copied
from ._paths import source_text
from .address import SocketAddress, client_data
from .arrival import Arrival
from .cookie import Prestate
from .gate import CookieGate
from .locks import OwnedLock

__all__ = ["Arrival", "CookieListener", "ListenerCounters", "family_of", "send_each"]

_WAIT_MS = 50  # longest wait in C; then close(), or a signal that another thread took, is seen
_WORK_MS = 5  # longest work in C while datagrams keep coming; an event loop waits for it
_UDP = ffi.typeof("struct gcookie_udp **")
_DATAGRAM_CAPACITY = 65535  # bytes; no UDP datagram is longer (RFC 768)
_MAX_BATCH = 1024  # messages in one recvmmsg (UIO_MAXIOV of Linux)

_COUNTERS = ffi.typeof("struct gcookie_udp_counters *")


@dataclass(frozen=True, slots=True)
class ListenerCounters:
    """What passed through the socket so far. `CookieGate.counters` has the verdicts.

    Attributes:
        received: datagrams received, all of them.
        replies: HelloVerifyRequests sent.
        reply_errors: HelloVerifyRequests that the kernel did not take (ENOBUFS, EPERM, ...).
        receive_errors: errors received instead of a datagram (mostly from ICMP).
        truncated: datagrams cut by the kernel, and dropped. No UDP datagram is that long.
        arrivals: datagrams returned by poll().
    """

    received: int
    replies: int
    reply_errors: int
    receive_errors: int
    truncated: int
    arrivals: int


class CookieListener:
    """Answers unknown clients on a UDP socket, and returns what verified ones sent.

    A ClientHello without a good cookie is answered with a HelloVerifyRequest; everything else from
    an unknown address is dropped. Both happen in C, and leave only counts behind.
    A ClientHello goes through the gate from every address, an admitted one too (RFC 6347 4.2.8).
    client_data is the kernel's sockaddr, `client_data.sockaddr(address)`.

    Memory: 64 KiB for each datagram of a batch, allocated at once, and some 100 bytes for each
    admitted peer.

    Where floods are expected, give the socket a large SO_RCVBUF (some MB): the default holds less
    than comes in while Python does the work of one handshake.

    On a socket that is bound to the wildcard address (0.0.0.0, ::) a reply leaves from the address
    that the hello was sent to, and Arrival.local tells it: what else is sent must come from there,
    or the client does not see it.

    Args:
        sock: a bound UDP socket (AF_INET or AF_INET6, also dual-stack). It need not be
            non-blocking, and close() leaves it open. Of its options only IP_PKTINFO or
            IPV6_RECVPKTINFO is set, and only on the wildcard address.
        gate: decides about the datagrams; may be shared.
        batch: datagrams in one system call, 1..1024.
        max_peers: admitted peers at most. The default is a bound on memory (100 MB), far above
            what one process serves; how many sessions are wanted is for the server to say.

    Raises:
        ValueError: sock is not a bound UDP socket over IP, or a number is out of range.
        TypeError: an argument is of another type.

    Example:
        >>> import socket
        >>> from gnutls_cookie import CookieGate, CookieListener, KeyRing
        >>> with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        ...     sock.bind(("127.0.0.1", 0))
        ...     with CookieListener(sock, CookieGate(KeyRing.random())) as listener:
        ...         listener.poll(timeout=0)
        []
    """

    __slots__ = ("_batch", "_family", "_gate", "_native", "_sock", "_turn")
    __reduce__ = not_copied

    def __init__(
        self, sock: socket.socket, gate: CookieGate, *, batch: int = 64, max_peers: int = 1 << 20
    ) -> None:
        self._native: tuple[Any, Any] | None = None
        if not isinstance(gate, CookieGate):
            raise TypeError(f"gate must be a CookieGate, not {type(gate).__name__}")
        self._family = family_of(sock)
        integer("batch", batch, 1, _MAX_BATCH)
        integer("max_peers", max_peers, 1, 0xFFFFFFFF)
        self._batch = batch
        self._sock = sock
        self._gate = gate
        self._turn = OwnedLock()  # from the first call into C to the last arrival copied
        native = lib.gcookie_udp_new(batch, _DATAGRAM_CAPACITY, max_peers)
        if native == ffi.NULL:
            raise MemoryError(f"no memory for {batch} datagrams of {_DATAGRAM_CAPACITY} bytes")
        lib.gcookie_udp_watch(native, sock.fileno())
        box = ffi.new(_UDP)
        box[0] = native
        # Freed with the last reference: a call in another thread has one of its own.
        self._native = box, ffi.gc(box, lib.gcookie_udp_release)

    @property
    def gate(self) -> CookieGate:
        """The CookieGate in use."""
        return self._gate

    @property
    def counters(self) -> ListenerCounters:
        """What passed through the socket so far.

        Raises:
            ValueError: the listener is closed.
        """
        counted = ffi.new(_COUNTERS)
        native, _owner = self._opened()
        lib.gcookie_udp_count(native, counted)
        return ListenerCounters(
            received=counted.received,
            replies=counted.replies,
            reply_errors=counted.reply_errors,
            receive_errors=counted.receive_errors,
            truncated=counted.truncated,
            arrivals=counted.arrivals,
        )

    @property
    def peers(self) -> int:
        """How many peers are admitted.

        Raises:
            ValueError: the listener is closed.
        """
        native, _owner = self._opened()
        return int(lib.gcookie_udp_peers(native))

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._native is None

    def poll(self, timeout: float | None = None, limit: int = 1024) -> list[Arrival]:
        """Answer unknown clients until others have sent something.

        Returns as soon as there is an arrival, with more than one if more wait. Fits any
        event loop: with timeout 0, whenever fileno() is readable.

        A client that was verified counts as admitted until the next call of poll(), so that the
        rest of a fragmented ClientHello is not lost: admit() it by then, or it is forgotten.

        Args:
            timeout: seconds to wait for an arrival. None, infinity and numbers above 10**9 (thirty
                years): without end. 0: not at all; it then spends at most 5 ms on what is there.
            limit: arrivals at most; the rest stays in the socket.

        Returns:
            The arrivals in the order in which they came; none if the time is over, or if close()
            was called meanwhile.

        Raises:
            OSError: the socket is closed or shut down. Errors of single datagrams are counted and
                never raised.
            ValueError: the listener is closed, timeout is negative, or limit less than 1.
            TypeError: an argument is of another type.
            RuntimeError: another poll() is under way. In the child of a fork none is, whatever the
                other threads of the parent were doing.
        """
        deadline = _deadline(timeout)
        integer("limit", limit, 1)
        token = self._turn.token()
        try:
            if not self._turn.take(token, 0):
                raise RuntimeError(
                    "poll() is under way already; a listener has one poll() at a time"
                )
            native, _owner = self._opened()
            return self._poll(native, deadline, limit)
        finally:
            self._turn.give(token)

    def fileno(self) -> int:
        """The file descriptor of the socket, for an event loop; -1 once the socket is closed."""
        return self._sock.fileno()

    def admit(self, address: SocketAddress) -> None:
        """Let the datagrams of this address through from now on. From any thread.

        Args:
            address: as in an Arrival.

        Raises:
            OverflowError: there are max_peers already.
            ValueError: not a numeric address of the socket's family, or the listener is closed.
            TypeError: address is of another type.
        """
        raw = client_data.sockaddr(address, self._family)
        native, _owner = self._opened()
        code = lib.gcookie_udp_admit(native, raw, len(raw))
        if code == -errno.ENOSPC:
            raise OverflowError("max_peers are admitted; forget() one first")
        if code == -errno.ENOMEM:
            raise MemoryError("no memory to admit a peer")

    def forget(self, address: SocketAddress) -> None:
        """Take back admit(); no error where the address is not admitted. From any thread.

        Raises:
            ValueError: not a numeric address of the socket's family, or the listener is closed.
            TypeError: address is of another type.
        """
        raw = client_data.sockaddr(address, self._family)
        native, _owner = self._opened()
        lib.gcookie_udp_forget(native, raw, len(raw))

    def close(self) -> None:
        """Wipe and free all memory, and end a poll() of another thread within 50 ms. The socket
        stays open. A second close() does nothing."""
        self._native = None

    def __enter__(self) -> CookieListener:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        if self._native is None:
            return "<CookieListener closed>"
        return f"<CookieListener on {self._sock.fileno()}, {self.peers} peers, {self._gate!r}>"

    def _poll(self, native: Any, deadline: float | None, limit: int) -> list[Arrival]:
        run, gate = lib.gcookie_udp_run, self._gate
        arrivals: list[Arrival] = []
        lib.gcookie_udp_begin(native)
        wait = _milliseconds_until(deadline)
        work = _WORK_MS
        while self._native is not None:
            want = min(limit - len(arrivals), _MAX_BATCH)
            # The descriptor is asked for each time: once the socket is closed, its number may be
            # that of another file.
            keys = gate.native_keys(time.time())
            counters = gate.native_counters
            number = run(native, self._sock.fileno(), keys, counters, want, wait, work)
            if number < 0:
                if arrivals:
                    break  # the error comes again
                raise OSError(-number, os.strerror(-number))
            found = lib.gcookie_udp_arrivals(native)
            for at in range(number):
                arrivals.append(_arrival(found[at]))
            if arrivals:
                # After a whole batch of arrivals there may be more. A flood makes no such batches,
                # so that this does not wait for its end.
                if number < self._batch or len(arrivals) >= limit:
                    break
                wait, work = 0, 0
                continue
            wait = _milliseconds_until(deadline)
            if deadline is not None and time.monotonic() >= deadline:
                break
        return arrivals

    def _opened(self) -> tuple[Any, Any]:
        """What C works on, and its owner, to be kept for the length of the call."""
        native = self._native
        if native is None or native[0][0] == ffi.NULL:  # or freed, and this is a finalizer
            raise ValueError("the listener is closed")
        return native[0][0], native[1]


def send_each(
    sock: socket.socket,
    datagrams: Sequence[bytes],
    names: Sequence[bytes],
    sources: Sequence[str | None] = (),
) -> int:
    """Send datagrams[i] to names[i], client_data.sockaddr() of the socket's family; many in one
    system call, none of them waits.

    Args:
        sock: a UDP socket.
        datagrams: what to send.
        names: to whom.
        sources: from which address of this machine, as Arrival.local has it; empty, or None in it:
            the kernel chooses.

    Returns:
        How many the kernel did not take (ENOBUFS, EPERM, ...): lost, as the network loses some.
    """
    if not datagrams:
        return 0
    data, addresses = b"".join(datagrams), b"".join(names)
    sizes = [len(datagram) for datagram in datagrams]
    lost: int = lib.gcookie_udp_send(
        sock.fileno(),
        *(addresses, len(addresses), len(names[0])),
        *(data, len(data), sizes),
        _sources(sock.family, sources),
        len(sizes),
    )
    return lost


def _sources(family: int, sources: Sequence[str | None]) -> Any:
    if not any(sources):
        return ffi.NULL
    packed = [_NO_SOURCE if one is None else _source(family, one) for one in sources]
    return ffi.new("struct gcookie_source[]", packed)


_NO_SOURCE = (0, 0, b"")


@functools.lru_cache(maxsize=256)
def _source(family: int, local: str) -> tuple[int, int, bytes]:
    """An address that this machine has, as a struct gcookie_source."""
    ip, _, zone = local.partition("%")
    packed = socket.inet_pton(family, ip)
    return len(packed), int(zone or 0), packed


def _arrival(found: Any) -> Arrival:
    ip = ffi.buffer(found.ip, found.ip_size)
    address: SocketAddress
    if len(ip) == 4:
        address = (socket.inet_ntop(socket.AF_INET, ip), found.port)
    else:
        host = socket.inet_ntop(socket.AF_INET6, ip)
        address = (host, found.port, found.flowinfo, found.scope_id)
    prestate = Prestate.from_struct(found.prestate) if found.verified else None
    local = source_text(found.local)
    return Arrival(address, ffi.buffer(found.datagram, found.size)[:], prestate, local)


def family_of(sock: socket.socket) -> int:
    """The family of a socket that can be served.

    Raises:
        ValueError: sock is not a bound UDP socket over IP, or is closed.
        TypeError: sock is not a socket.
    """
    try:
        if sock.fileno() < 0:
            raise ValueError("sock is closed")
        family, kind, name = sock.family, sock.type, sock.getsockname()
    except AttributeError:
        raise TypeError(f"sock must be a socket, not {type(sock).__name__}") from None
    if family not in (socket.AF_INET, socket.AF_INET6) or kind != socket.SOCK_DGRAM:
        raise ValueError(f"sock must be a UDP socket over IPv4 or IPv6, not {sock!r}")
    if name[1] == 0:
        raise ValueError("sock must be bound to a port")
    return family


def _deadline(timeout: float | None) -> float | None:
    seconds = seconds_to_wait("timeout", timeout, least=0)
    return None if seconds is None else time.monotonic() + seconds


def _milliseconds_until(deadline: float | None) -> int:
    """Up to a slice; rounded up, so that the last wait is not one of many of 0 ms."""
    if deadline is None:
        return _WAIT_MS
    left = deadline - time.monotonic()
    return 0 if left <= 0 else _WAIT_MS if left * 1000 >= _WAIT_MS else int(left * 1000) + 1
