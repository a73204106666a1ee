"""All at once: workers are killed, files are read again, scrapers ask, nobody reads the output."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from gnutls_cookie.blocking import Connection, connect
from tests.support.common import free_tcp_port, free_udp_port, seeded
from tests.support.peers import trusting
from tests.support.serve import CERT, SECONDS, client, command, echoes, wait_until

STORM_SECONDS = 6.0


@contextmanager
def quiet_server(*options: str, env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """`serve` whose stdout is a full disk, and whose stderr is closed."""
    words = ["sh", "-c", 'exec "$@" >/dev/full 2>&-', "sh", *command(*options, *CERT)]
    child = subprocess.Popen(words, env={**os.environ, **env}, start_new_session=True)
    try:
        yield child
    finally:
        if child.poll() is None:
            child.kill()
        child.wait()


def workers_of(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def completed(port: int) -> float | None:
    """Handshakes that were completed, as a scraper sees them; None where it is not answered."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    except (OSError, http.client.HTTPException):  # it gave way to others
        return None
    finally:
        connection.close()
    (found,) = re.findall(r"^gnutls_cookie_handshakes_completed_total (\d+)$", text, re.MULTILINE)
    return float(found)


def is_ready(heard: list[bytes]) -> bool:
    """Whether READY is the last that the service manager heard, but for signs of life."""
    states = [one for one in heard if one.startswith((b"READY", b"RELOADING", b"STOPPING"))]
    return bool(states) and states[-1].startswith(b"READY")


def hasty_client(port: int) -> Connection:
    """One that soon gives up: its worker may have died in the middle of the handshake."""
    return connect(
        "127.0.0.1",
        port,
        credentials=trusting(),
        server_name="localhost",
        retransmit_timeout=0.3,
        handshake_timeout=3,
    )


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "3"])
def test_everything_at_once_is_survived(workers: str, tmp_path: Path) -> None:
    """Afterwards: as many workers as before, no more descriptors in the parent, READY as the last
    word, counters that never went back, an end with exit code 0."""
    chance = seeded()
    port = free_udp_port()
    metrics = free_tcp_port()
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.bind(str(tmp_path / "notify"))
    notify.settimeout(0.2)
    options = ["--port", str(port), "--workers", workers, "--metrics", f"127.0.0.1:{metrics}"]
    env = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "30000000"}
    with notify, quiet_server(*options, env=env) as child:
        heard: list[bytes] = []
        over = threading.Event()

        def manager() -> None:
            while not over.is_set():
                with suppress(TimeoutError):
                    heard.append(notify.recv(4096))

        def scraper() -> None:
            last = 0.0
            while not over.is_set():
                found = completed(metrics)
                if found is not None:
                    backwards.append(found < last)
                    last = found
                with suppress(OSError), socket.create_connection(("127.0.0.1", metrics), 5) as sock:
                    sock.sendall(chance.randbytes(chance.randrange(1, 2000)))

        backwards: list[bool] = []
        threads = [threading.Thread(target=one) for one in (manager, scraper, scraper)]
        threads[0].start()
        try:
            wait_until(lambda: is_ready(heard), "ready")
            descriptors = len(os.listdir(f"/proc/{child.pid}/fd"))
            for thread in threads[1:]:
                thread.start()
            deadline = time.monotonic() + STORM_SECONDS
            served = 0
            while time.monotonic() < deadline or served < 5:
                child.send_signal(signal.SIGHUP)
                for pid in workers_of(child.pid):
                    if chance.random() < 0.15:
                        os.kill(pid, signal.SIGKILL)
                with suppress(TimeoutError), hasty_client(port) as connection:
                    served += echoes(connection)
            wait_until(lambda: len(workers_of(child.pid)) == int(workers), "as many as before")
            for _ in range(4):
                with client(port) as connection:
                    assert echoes(connection)
            wait_until(lambda: is_ready(heard), "ready")
            assert completed(metrics) is not None
        finally:
            over.set()
            for thread in threads:
                if thread.is_alive():
                    thread.join(SECONDS)
        assert backwards
        assert not any(backwards)
        wait_until(
            lambda: len(os.listdir(f"/proc/{child.pid}/fd")) <= descriptors, "no more descriptors"
        )
        child.terminate()
        assert child.wait(SECONDS) == 0
