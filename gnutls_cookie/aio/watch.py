"""What tells an event loop that a socket is readable."""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Callable
from typing import Any

__all__ = ["Watch"]


class Watch:
    """A socket in an event loop.

    Loops other than asyncio's may stand on libuv, as uvloop does. After an ICMP error, which anyone
    can forge, libuv never looks at the descriptor again (POLLERR in its unix/poll.c), and nobody is
    called who would take the error from the socket. So they watch an epoll descriptor that has the
    socket, and no errors of its own.

    Args:
        loop: the event loop.
        sock: the socket, which stays open until stop().
    """

    __slots__ = ("_epoll", "_fd", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
        self._loop = loop
        self._fd = sock.fileno()
        self._epoll: Any = None

    def start(self, callback: Callable[..., object], *arguments: Any) -> None:
        """Have the loop call that where the socket is readable, or has an error to tell."""
        if not isinstance(self._loop, asyncio.BaseEventLoop) and hasattr(select, "epoll"):
            self._epoll = select.epoll()
            self._epoll.register(self._fd, select.EPOLLIN)
            self._fd = self._epoll.fileno()
        self._loop.add_reader(self._fd, callback, *arguments)

    def stop(self) -> None:
        """Take it out of the loop, unless that is closed."""
        if not self._loop.is_closed():
            self._loop.remove_reader(self._fd)
        self.close()

    def close(self) -> None:
        """Leave the loop alone: in the child of a fork, where the kernel's side of a selector is
        the parent's, too."""
        if self._epoll is not None:
            self._epoll.close()
