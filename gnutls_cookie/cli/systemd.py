"""What a service manager is told (sd_notify(3)) and hands over (sd_listen_fds(3)), without its
library."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping

from .console import one_line, reason

__all__ = ["Notifier", "activated", "activated_count"]

_log = logging.getLogger("gnutls_cookie")

_LISTEN_FDS_START = 3  # sd_listen_fds(3)
_READY_SECONDS = 1.0  # that READY=1 waits for a service manager whose queue is full
_MOST_USEC = 1 << 53
_WATCHDOG_MIN_SECONDS = 0.04  # what is less would keep a CPU busy with signs of life


class Notifier:
    """Tells the service manager how the service is: systemd, or another with its protocol.

    Without NOTIFY_SOCKET every method does nothing. If the socket cannot be reached, one line of
    the log says so; nothing is raised.

    Args:
        environment: NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID are read.

    Attributes:
        watchdog_seconds: the service manager ends the service if watchdog() is not called for so
            long; None: it does not.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._socket: socket.socket | None = None
        self._failed = False
        self.watchdog_seconds: float | None = None
        name = environment.get("NOTIFY_SOCKET", "")
        if not name:
            return
        try:
            if name[0] not in "/@":
                raise ValueError("neither a path nor an abstract name (@NAME)")
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._address = ("\0" + name[1:] if name[0] == "@" else name).encode(
                "utf-8", "surrogateescape"
            )
        except (OSError, ValueError) as error:
            self._complain(error)
            return
        self.watchdog_seconds = _watchdog_seconds(environment)

    def ready(self, status: str) -> None:
        """It serves, for the first time or after reloading()."""
        lines = "READY=1", f"MAINPID={os.getpid()}", _status(status)
        self._tell(*lines, wait_seconds=_READY_SECONDS)

    def status(self, status: str) -> None:
        """A line for people (`systemctl status`)."""
        self._tell(_status(status))

    def reloading(self) -> None:
        """It reads its files again; ready() says that this is done."""
        now_usec = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._tell("RELOADING=1", f"MONOTONIC_USEC={now_usec}")

    def stopping(self) -> None:
        """It has begun to end."""
        self._tell("STOPPING=1")

    def watchdog(self) -> None:
        """It is alive."""
        self._tell("WATCHDOG=1")

    def close(self) -> None:
        """Tell nothing from now on: in the child of a fork, too."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _tell(self, *lines: str, wait_seconds: float = 0.0) -> None:
        if self._socket is None:
            return
        try:
            self._socket.settimeout(wait_seconds)
            self._socket.sendto("\n".join(lines).encode("utf-8", "replace"), self._address)
        except OSError as error:
            self._complain(error)

    def _complain(self, error: Exception) -> None:
        if not self._failed:
            self._failed = True
            _log.warning("NOTIFY_SOCKET: %s: the service manager is not told", reason(error))


def _status(text: str) -> str:
    return f"STATUS={one_line(text)}"


def _watchdog_seconds(environment: Mapping[str, str]) -> float | None:
    """What WATCHDOG_USEC says, if it is meant for this process (sd_watchdog_enabled(3))."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    text = environment.get("WATCHDOG_USEC", "")
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and 0 < int(text) < _MOST_USEC):
        return None
    return max(int(text) / 1e6, _WATCHDOG_MIN_SECONDS)


def activated_count(environment: Mapping[str, str]) -> str | None:
    """LISTEN_FDS, if it is meant for this process."""
    if environment.get("LISTEN_PID") != str(os.getpid()):
        return None
    return environment.get("LISTEN_FDS", "")


def activated(count: int, workers: int) -> list[list[socket.socket]]:
    """The UDP sockets that the service manager has bound: those of each worker, one of each
    address.

    Raises:
        ValueError: what is there is something else; the text says what.
    """
    sockets: list[socket.socket] = []
    try:
        for descriptor in range(_LISTEN_FDS_START, _LISTEN_FDS_START + count):
            try:
                sock = socket.socket(fileno=descriptor)
            except OSError as error:
                what = f"descriptor {descriptor} is not a socket: {reason(error)}"
                raise ValueError(what) from None
            sockets.append(sock)
            sock.set_inheritable(False)
            family, kind = (getattr(one, "name", one) for one in (sock.family, sock.type))
            internet = sock.family in (socket.AF_INET, socket.AF_INET6)
            if not internet or sock.type != socket.SOCK_DGRAM:
                raise ValueError(f"a UDP socket is needed (ListenDatagram=), not {family} {kind}")
            if sock.getsockname()[1] == 0:
                raise ValueError("the socket is not bound to a port")
        return _shared_out(sockets, workers)
    except BaseException:
        for sock in sockets:
            sock.close()
        raise


def _shared_out(sockets: list[socket.socket], workers: int) -> list[list[socket.socket]]:
    found: dict[tuple[str, int], list[socket.socket]] = {}
    for sock in sockets:
        found.setdefault(sock.getsockname()[:2], []).append(sock)
    for (host, port), those in found.items():
        if len(those) != workers:
            what = f"not {len(those)} for {workers}: {host} port {port}"
            raise ValueError(f"each worker has a socket of each address (ReusePort=yes), {what}")
    return [list(own) for own in zip(*found.values(), strict=True)]
