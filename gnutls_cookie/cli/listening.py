"""The sockets that workers serve: each has one, or one for each of several addresses."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from typing import Any

from gnutls_cookie.sockets import bound

__all__ = ["Listening", "listening_at", "listening_everywhere"]


class Listening:
    """The sockets of one worker, all on one port."""

    def __init__(self, sockets: Sequence[socket.socket]) -> None:
        self.sockets = list(sockets)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where they are bound: host and port of each."""
        return [sock.getsockname()[:2] for sock in self.sockets]

    @property
    def description(self) -> str:
        """The same, in words."""
        return ", ".join(f"{host} port {port}" for host, port in self.addresses)

    def close(self) -> None:
        """Close all of them."""
        for sock in self.sockets:
            sock.close()


def listening_everywhere(port: int, workers: int) -> list[Listening]:
    """At all addresses, a socket for IPv4 and one for IPv6, as far as the machine has them.

    Raises:
        OSError: the port cannot be bound.
    """
    return _listening(_found(None, port), workers)


def listening_at(host: str, port: int, workers: int) -> list[Listening]:
    """At the first address of a host that can be bound.

    Raises:
        OSError: it is not known, or none can be bound.
        UnicodeError: no name has such a form (RFC 1035).
    """
    found = _found(host, port)
    for index, one in enumerate(found):
        try:
            return _listening([one], workers)
        except OSError:
            if index + 1 == len(found):
                raise
    raise AssertionError  # getaddrinfo gives one at least


def _found(host: str | None, port: int) -> list[Any]:
    return socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE)


def _listening(found: Sequence[Any], workers: int) -> list[Listening]:
    """What each worker serves, all of them at the same addresses."""
    made: list[Listening] = []
    try:
        for _ in range(workers):
            made.append(Listening(bound(found, workers > 1)))
            found = list(_where(made[0]))
    except BaseException:
        for one in made:
            one.close()
        raise
    return made


def _where(listening: Listening) -> Iterator[Any]:
    """As getaddrinfo() would give it."""
    for sock in listening.sockets:
        yield sock.family, sock.type, sock.proto, "", sock.getsockname()
