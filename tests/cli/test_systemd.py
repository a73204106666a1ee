"""What `serve` tells a service manager (sd_notify(3)), and the sockets that it takes from one."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gnutls_cookie import PSKCredentials
from gnutls_cookie.blocking import connect
from gnutls_cookie.cli.systemd import Notifier
from tests.support.common import ROOT, running
from tests.support.peers import IDENTITY, PSK_KEY
from tests.support.serve import (
    CERT,
    SECONDS,
    Served,
    client,
    command,
    echoes,
    wait_until,
    workers_of,
)


class Manager:
    """The socket of a service manager, and what came in."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind("\0" + name[1:] if name[0] == "@" else name)
        self.sock.settimeout(SECONDS)

    def next(self) -> dict[str, str]:
        """The next message, but for signs of life."""
        while True:
            said = self.sock.recv(4096).decode()
            if said != "WATCHDOG=1":
                return dict(line.split("=", 1) for line in said.splitlines())

    def next_with(self, name: str) -> dict[str, str]:
        """The next message that has this variable."""
        deadline = time.monotonic() + SECONDS
        while name not in (said := self.next()):
            assert time.monotonic() < deadline, said
        return said

    def has_sign_of_life(self, seconds: float) -> bool:
        """Whether WATCHDOG=1 comes within some seconds."""
        deadline = time.monotonic() + seconds
        try:
            while (left := deadline - time.monotonic()) > 0:
                self.sock.settimeout(left)
                if self.sock.recv(4096) == b"WATCHDOG=1":
                    return True
        except TimeoutError:
            pass
        finally:
            self.sock.settimeout(SECONDS)
        return False


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    found = Manager(str(tmp_path / "notify"))
    with found.sock:
        yield found


@contextmanager
def serving_for(name: str, *options: str, fault: str = "", **env: str) -> Iterator[Served]:
    """`serve` with a service manager, as soon as it is started."""
    env = {**os.environ, "NOTIFY_SOCKET": name, **env}
    with running(command(*options, fault=fault), env=env) as child:
        yield Served(child, 0)


def port_of(served: Served) -> int:
    return int(served.wait_for(r"serving on \S+ port (\d+)\n")[1])


# --- how it is ------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", ["1", "3"])
@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_service_manager_hears_of_start_and_end(workers: str, kind: str, tmp_path: Path) -> None:
    """READY once clients are served, then STOPPING; nothing else but the status of workers."""
    path = str(tmp_path / "notify")
    manager = Manager(path if kind == "path" else f"@gnutls-cookie-{secrets.token_hex(8)}")
    options = ["--workers", workers, *CERT]
    with manager.sock, serving_for(manager.name, *options) as served:
        said = manager.next()
        assert said.pop("STATUS")
        assert said == {"READY": "1", "MAINPID": str(served.child.pid)}
        with client(port_of(served)) as connection:
            assert echoes(connection)
        assert served.end() == 0
        assert manager.next() == {"STOPPING": "1"}
    assert b"NOTIFY_SOCKET" not in served.said
    assert b"ResourceWarning" not in served.said


@pytest.mark.parametrize("workers", ["1", "3"])
def test_reload_is_over_when_every_worker_has_read(
    workers: str, manager: Manager, tmp_path: Path
) -> None:
    """After READY no worker knows the old key; RELOADING carries the time (sd_notify(3))."""
    psk = tmp_path / "psk"
    psk.touch(0o600)
    psk.write_text(f"{IDENTITY}:{PSK_KEY.hex()}\n")
    with serving_for(manager.name, "--workers", workers, "--pskpasswd", str(psk)) as served:
        manager.next_with("READY")
        port = port_of(served)
        for number in range(3):
            psk.write_text(f"new-{number}:{PSK_KEY.hex()}\n")
            before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            served.child.send_signal(signal.SIGHUP)
            said = manager.next()
            after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            assert said.keys() == {"RELOADING", "MONOTONIC_USEC"}
            assert before <= int(said["MONOTONIC_USEC"]) <= after
            assert manager.next()["READY"] == "1"
            for _ in range(4):
                new = PSKCredentials(f"new-{number}", PSK_KEY)
                connect("127.0.0.1", port, credentials=new, handshake_timeout=SECONDS).close()
        assert served.end() == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_reload_that_fails_is_over_too(workers: str, manager: Manager, tmp_path: Path) -> None:
    """The files cannot be read: it serves on with the old ones, and the manager does not wait."""
    psk = tmp_path / "psk"
    psk.touch(0o600)
    psk.write_text(f"{IDENTITY}:{PSK_KEY.hex()}\n")
    with serving_for(manager.name, "--workers", workers, "--pskpasswd", str(psk)) as served:
        manager.next_with("READY")
        psk.write_text("broken\n")
        served.child.send_signal(signal.SIGHUP)
        assert "RELOADING" in manager.next()
        assert manager.next()["READY"] == "1"
        served.wait_for("not read anew")
        assert served.end() == 0


def test_storm_of_reloads_ends_with_ready(manager: Manager) -> None:
    """However many SIGHUPs come, the last thing heard is READY, and the workers are the same."""
    with serving_for(manager.name, "--workers", "2", *CERT) as served:
        manager.next_with("READY")
        before = workers_of(served)
        for _ in range(50):
            served.child.send_signal(signal.SIGHUP)
            time.sleep(0.002)
        last = manager.next()
        assert "RELOADING" in last
        deadline = time.monotonic() + SECONDS
        manager.sock.settimeout(1)
        while time.monotonic() < deadline:
            try:
                last = manager.next()
            except TimeoutError:
                if "READY" in last:
                    break
        assert "READY" in last
        assert workers_of(served) == before
        assert served.end() == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_watchdog_hears_of_workers_that_turn(workers: str, manager: Manager) -> None:
    """Signs of life come more than once in the time that the manager has set."""
    with serving_for(manager.name, "--workers", workers, *CERT, WATCHDOG_USEC="2000000") as served:
        manager.next_with("READY")
        for _ in range(3):
            assert manager.has_sign_of_life(SECONDS)
        assert served.end() == 0


def test_watchdog_does_not_hear_of_a_stuck_worker(manager: Manager) -> None:
    """One of two is stopped: no more signs of life, one line says why; they come back with it."""
    with serving_for(manager.name, "--workers", "2", *CERT, WATCHDOG_USEC="1000000") as served:
        manager.next_with("READY")
        assert manager.has_sign_of_life(SECONDS)
        victim = workers_of(served)[1]
        os.kill(victim, signal.SIGSTOP)
        try:
            served.wait_for(r"worker \d is stuck: the service manager's watchdog is not told\n")
            while manager.has_sign_of_life(0.01):
                pass  # what was sent before
            assert not manager.has_sign_of_life(2)
        finally:
            os.kill(victim, signal.SIGCONT)
        assert manager.has_sign_of_life(SECONDS)
        assert served.end() == 0


def test_watchdog_hears_of_a_server_whose_workers_are_killed(manager: Manager) -> None:
    """They are replaced, which is no reason to end the whole service; the status says so."""
    with serving_for(manager.name, "--workers", "2", *CERT, WATCHDOG_USEC="2000000") as served:
        manager.next_with("READY")
        for pid in workers_of(served):
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: len(workers_of(served)) == 2, "two workers")
        assert all(manager.has_sign_of_life(SECONDS) for _ in range(3))
        assert served.end() == 0


def test_watchdog_of_a_moment_has_a_floor(manager: Manager) -> None:
    """Signs of life a million times a second would keep a CPU busy."""
    notifier = Notifier({"NOTIFY_SOCKET": manager.name, "WATCHDOG_USEC": "1"})
    assert notifier.watchdog_seconds == 0.04
    notifier.close()


@pytest.mark.parametrize(
    "env",
    [
        {"WATCHDOG_USEC": "200000", "WATCHDOG_PID": "1"},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "-1"},
        {"WATCHDOG_USEC": "many"},
        {"WATCHDOG_USEC": "9" * 400},
    ],
)
def test_watchdog_of_others_or_none(env: dict[str, str], manager: Manager) -> None:
    """No sign of life is sent."""
    with serving_for(manager.name, *CERT, **env) as served:
        manager.next_with("READY")
        assert not manager.has_sign_of_life(0.5)
        assert served.end() == 0
    assert b"Traceback" not in served.said


@pytest.mark.parametrize("name", ["nonsense", "vsock:2:1234", "/nowhere/notify", "@", "/" * 200])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_service_manager_that_is_not_there(name: str, workers: str) -> None:
    """One line of the log; it serves."""
    options = ["--workers", workers, *CERT]
    with serving_for(name, *options, WATCHDOG_USEC="100000") as served:
        port = port_of(served)
        with client(port) as connection:
            assert echoes(connection)
        served.child.send_signal(signal.SIGHUP)
        served.wait_for("read anew")
        assert served.end() == 0
    assert len(re.findall(rb"WARNING NOTIFY_SOCKET: .*\n", served.said)) == 1, served.said


def test_service_manager_that_does_not_read(manager: Manager) -> None:
    """Its queue is full: clients are served all the same, and it ends in time."""
    with serving_for(manager.name, *CERT, WATCHDOG_USEC="100000") as served:
        port = port_of(served)
        time.sleep(0.5)
        for _ in range(3):
            with client(port) as connection:
                assert echoes(connection)
        assert served.end() == 0


# --- sockets --------------------------------------------------------------------------------------

# Becomes `serve` with sockets from descriptor 3 on, as sd_listen_fds(3) wants them: all of one
# address ("same"), two of each ("pairs"), or each of its own.
BECOME = """
import os, socket, sys
count = int(sys.argv[1])
address, sockets = ("127.0.0.1", 0), []
for number in range(count):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    if sys.argv[2] != "other":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if sys.argv[2] == "pairs":
        address = (f"127.0.0.{1 + number // 2}", address[1])
    sock.bind(address)
    if sys.argv[2] != "other":
        address = sock.getsockname()
    sockets.append(os.dup(sock.fileno()))
high = [os.dup2(one, 100 + number) for number, one in enumerate(sockets)]
for number, one in enumerate(high):
    os.dup2(one, 3 + number)
os.closerange(3 + count, 200)
os.environ |= {"LISTEN_FDS": str(count), "LISTEN_PID": str(os.getpid())}
os.environ["LISTEN_FDNAMES"] = ":".join(["dtls"] * count)
os.execv(sys.executable, [sys.executable, *sys.argv[3:]])
"""


def test_each_worker_serves_a_socket_of_systemd() -> None:
    """As many as there are workers, of one address (ReusePort=yes)."""
    words = command("--workers", "3", *CERT)[1:]
    with running([sys.executable, "-c", BECOME, "3", "same", *words]) as child:
        served = Served(child, 0)
        port = port_of(served)
        wait_until(lambda: len(workers_of(served)) == 3, "three workers")
        for _ in range(8):
            with client(port) as connection:
                assert echoes(connection)
        assert served.end() == 0


def test_each_worker_serves_a_socket_of_each_address() -> None:
    """Of IPv4 and IPv6, say, where systemd has bound each."""
    words = command("--workers", "2", *CERT)[1:]
    with running([sys.executable, "-c", BECOME, "4", "pairs", *words]) as child:
        served = Served(child, 0)
        port = port_of(served)
        served.wait_for(rf"serving on 127\.0\.0\.2 port {port}")
        for host in ("127.0.0.1", "127.0.0.2") * 2:
            with client(port, host=host) as connection:
                assert echoes(connection)
        assert served.end() == 0


@pytest.mark.parametrize(
    ("count", "which", "workers", "text"),
    [
        (
            "2",
            "other",
            "2",
            "a socket of each address (ReusePort=yes), not 1 for 2: 127.0.0.1 port",
        ),
        ("3", "same", "2", "a socket for each worker, not LISTEN_FDS='3' and --workers 2"),
    ],
)
def test_sockets_of_systemd_that_do_not_fit(
    count: str, which: str, workers: str, text: str
) -> None:
    """One line, exit code 2."""
    done = subprocess.run(
        [sys.executable, "-c", BECOME, count, which, *command("--workers", workers, *CERT)[1:]],
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert text in done.stderr


def test_first_datagram_starts_the_service() -> None:
    """systemd-socket-activate waits for it, and `serve` answers it."""
    program = shutil.which("systemd-socket-activate")
    if program is None:
        pytest.skip("systemd-socket-activate is missing: apt install systemd")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    words = [program, "--datagram", f"--listen=127.0.0.1:{port}", *command(*CERT)]
    with running(words) as child:
        served = Served(child, port)
        served.wait_for("Listening on")
        with client(port) as connection:
            assert echoes(connection)
        assert served.end() == 0


# --- the units of the page ------------------------------------------------------------------------


def units() -> dict[str, str]:
    """The unit files of docs/operations.md, by name."""
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```ini\n# \S+/(\S+)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    return dict(blocks)


def test_systemd_takes_the_units_of_the_page(tmp_path: Path) -> None:
    """systemd-analyze has nothing to say of them, with a program that is there."""
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is missing: apt install systemd")
    found = units()
    assert found.keys() == {"gnutls-cookie.service", "gnutls-cookie.socket"}
    for name, text in found.items():
        (tmp_path / name).write_text(text.replace("/usr/local/bin/gnutls-cookie", "/bin/true"))
    done = subprocess.run(
        [program, "verify", "--man=no", *(str(tmp_path / name) for name in found)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
    )
    about_these = [line for line in done.stderr.splitlines() if "gnutls-cookie" in line]
    assert about_these == [], done.stderr
    assert done.returncode == 0, done.stderr


def test_service_of_the_page_starts(manager: Manager) -> None:
    """Its command, with a certificate that is there: READY, and as many sockets as workers."""
    found = units()
    (words,) = re.findall(r"^ExecStart=\S+ serve (.*)$", found["gnutls-cookie.service"], re.M)
    folder = "/etc/gnutls-cookie"
    certificate, key = CERT[1::2]
    words = words.replace(f"{folder}/cert.pem", certificate).replace(f"{folder}/key.pem", key)
    words = words.replace("--host ::", "").replace("--port 5684", "")
    with serving_for(manager.name, *words.split()) as served:
        assert manager.next()["STATUS"] == "4 of 4 workers serve"
        assert served.end() == 0
    assert found["gnutls-cookie.socket"].count("ListenDatagram=") == 4
