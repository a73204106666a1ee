"""The commands serve and connect as processes: what several tests start, read and end."""

from __future__ import annotations

import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gnutls_cookie.blocking import Connection, connect
from tests.support.common import running
from tests.support.peers import CERTS, psk, trusting

CERT = [
    "--x509certfile",
    str(CERTS / "localhost.pem"),
    "--x509keyfile",
    str(CERTS / "localhost.key"),
]
LINE = b"hello, cookie\n"
SECONDS = 60.0  # a bound, never a measure


class Served:
    """A running server and what it has printed."""

    def __init__(self, child: subprocess.Popen[bytes], port: int) -> None:
        self.child = child
        self.port = port
        self.said = b""

    def wait_for(self, pattern: str) -> re.Match[bytes]:
        """Read what it prints until the pattern is there."""
        assert self.child.stdout is not None
        deadline = time.monotonic() + SECONDS
        with selectors.DefaultSelector() as selector:
            selector.register(self.child.stdout, selectors.EVENT_READ)
            while (found := re.search(pattern.encode(), self.said)) is None:
                assert time.monotonic() < deadline, f"no {pattern!r} in:\n{self.said.decode()}"
                if selector.select(0.1):
                    chunk = os.read(self.child.stdout.fileno(), 65536)
                    assert chunk, f"it ended:\n{self.said.decode()}"
                    self.said += chunk
        return found

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it by a signal; its exit code."""
        self.child.send_signal(number)
        said, _ = self.child.communicate(timeout=SECONDS)
        self.said += said
        return self.child.returncode


def command(*options: str, fault: str = "") -> list[str]:
    """The command line of `serve`; `fault` is Python that runs in its process before it."""
    if not fault:
        start = ["-m", "gnutls_cookie"]
    else:
        start = ["-c", f"{fault}\nimport sys\nfrom gnutls_cookie.cli import main\nsys.exit(main())"]
    return [sys.executable, "-X", "dev", *start, "serve", "--port", "0", *options]


@contextmanager
def starting(*options: str, fault: str = "", env: dict[str, str] | None = None) -> Iterator[Served]:
    """`serve` on a port of the system's choice, as soon as it is started."""
    with running(command(*options, fault=fault), env=env) as child:
        yield Served(child, 0)


@contextmanager
def serving(*options: str, fault: str = "", env: dict[str, str] | None = None) -> Iterator[Served]:
    """The same once it serves."""
    with starting(*options, fault=fault, env=env) as served:
        served.port = int(served.wait_for(r"serving on \S+ port (\d+)\n")[1])
        yield served


def workers_of(served: Served) -> list[int]:
    """The process ids of its workers."""
    path = Path(f"/proc/{served.child.pid}/task/{served.child.pid}/children")
    if not path.exists():
        pytest.skip("no /proc/PID/task/PID/children here")
    return [int(pid) for pid in path.read_text().split()]


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition; bounded."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"not {what}"
        time.sleep(0.02)


def client(port: int, kind: str = "X.509", host: str = "127.0.0.1") -> Connection:
    """A client of ours."""
    if kind == "PSK":
        return connect(host, port, credentials=psk(), handshake_timeout=SECONDS)
    return connect(
        host, port, credentials=trusting(), server_name="localhost", handshake_timeout=SECONDS
    )


def echoes(connection: Connection, message: bytes = LINE) -> bool:
    """Whether a message comes back; sent again where it was lost."""
    for _ in range(5):
        connection.send(message)
        try:
            return connection.receive(timeout=2) == message
        except TimeoutError:
            continue
    return False
