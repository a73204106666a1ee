"""client_data as C servers write it, so that their cookies and ours are the same bytes."""

from __future__ import annotations

import socket
import struct
import sys

from ._check import UINT_MAX, fits, shown

__all__ = ["SocketAddress", "client_data"]

_SOCKADDR_STORAGE_SIZE = 128  # RFC 3493 3.10; the same on Linux, the BSDs and macOS

# BSD kernels write the length of the struct in a first byte, and the family in the second.
_HAS_LENGTH_BYTE = sys.platform.startswith(("darwin", "freebsd", "openbsd", "netbsd", "dragonfly"))

SocketAddress = tuple[str, int] | tuple[str, int, int, int]


class client_data:
    """The layouts of client_data that C servers use. None of them resolves a name.

    All take a socket address as Python's socket module gives it, (ip, port) or (ip, port,
    flowinfo, scope_id), and raise ValueError where the ip is not numeric or not of the family,
    TypeError where a part has another type, OverflowError where a field of the struct cannot hold
    a number.
    """

    @staticmethod
    def sockaddr(address: SocketAddress, family: int | None = None) -> bytes:
        """struct sockaddr_in (16 bytes) or sockaddr_in6 (28 bytes), as the kernel writes it.

        What gnutls-serv --udp and the server of the GnuTLS manual pass.

        Args:
            address: (ip, port) or (ip, port, flowinfo, scope_id); flowinfo and scope_id default
                to 0, "%scope" in the ip is understood.
            family: AF_INET or AF_INET6; None takes that of the ip. An IPv4 address with AF_INET6 is
                mapped (::ffff:a.b.c.d), as a dual-stack socket shows it.

        Example:
            >>> client_data.sockaddr(("127.0.0.1", 5684))[2:].hex()
            '16347f0000010000000000000000'
        """
        packed, port, flowinfo, scope_id = _parse(address, family)
        if len(packed) == 4:
            return _family(socket.AF_INET, 16) + struct.pack("!H4s8x", port, packed)
        head = _family(socket.AF_INET6, 28)
        return head + struct.pack("!HI16s", port, flowinfo, packed) + struct.pack("=I", scope_id)

    @staticmethod
    def sockaddr_storage(address: SocketAddress, family: int | None = None) -> bytes:
        """struct sockaddr_storage: sockaddr() and zeros up to 128 bytes. What pmacct passes."""
        return client_data.sockaddr(address, family).ljust(_SOCKADDR_STORAGE_SIZE, b"\0")

    @staticmethod
    def text(address: SocketAddress, family: int | None = None) -> bytes:
        """The text "ip:port", for IPv6 "[ip]:port", in inet_ntop's spelling; no scope.

        Example:
            >>> client_data.text(("::1", 5684))
            b'[::1]:5684'
        """
        packed, port, _, _ = _parse(address, family)
        if len(packed) == 4:
            return f"{socket.inet_ntop(socket.AF_INET, packed)}:{port}".encode("ascii")
        return f"[{socket.inet_ntop(socket.AF_INET6, packed)}]:{port}".encode("ascii")


def _parse(address: SocketAddress, family: int | None) -> tuple[bytes, int, int, int]:
    """Packed ip (4 or 16 bytes), port, flowinfo and scope_id of a socket address."""
    if not isinstance(address, tuple) or len(address) not in (2, 3, 4):
        raise TypeError(f"address must be a tuple (ip, port, ...), not {shown(address)}")
    host, port, *more = address
    flowinfo, scope_id = [*more, 0, 0][:2]
    if not isinstance(host, str):
        raise TypeError(f"address: the ip must be a str, not {type(host).__name__}")
    if family not in (None, socket.AF_INET, socket.AF_INET6):
        raise ValueError(f"family must be AF_INET, AF_INET6 or None, not {shown(family)}")
    ip, percent, scope = host.partition("%")
    if percent:
        scope_id = _scope_id(host, scope, fits("address: scope_id", scope_id, UINT_MAX))
    return (
        _packed(ip if percent else host, family, bool(more) or bool(percent)),
        fits("address: port", port, 0xFFFF),
        fits("address: flowinfo", flowinfo, 0xFFFFF),
        fits("address: scope_id", scope_id, UINT_MAX),
    )


def _packed(ip: str, family: int | None, is_ipv6: bool) -> bytes:
    if ":" in ip:
        if family == socket.AF_INET:
            raise ValueError(f"address: {ip!r} is not an IPv4 address")
        return _pton(socket.AF_INET6, ip)
    packed = _pton(socket.AF_INET, ip)
    if family == socket.AF_INET6:
        return b"\0" * 10 + b"\xff\xff" + packed
    if is_ipv6:
        raise ValueError(f"address: {ip!r} with flowinfo or scope_id is not an IPv6 address")
    return packed


def _pton(family: int, ip: str) -> bytes:
    try:
        return socket.inet_pton(family, ip)
    except (OSError, ValueError):
        raise ValueError(f"address: {ip!r} is not a numeric IP address") from None


def _scope_id(host: str, scope: str, given: int) -> int:
    try:
        scope_id = int(scope) if scope.isdecimal() else socket.if_nametoindex(scope)
    except (OSError, ValueError):
        raise ValueError(f"address: no interface is named in {host!r}") from None
    if given not in (0, scope_id):
        raise ValueError(f"address: {host!r} does not agree with scope_id {given}")
    return scope_id


def _family(family: int, size: int) -> bytes:
    return struct.pack("BB", size, family) if _HAS_LENGTH_BYTE else struct.pack("=H", family)
