"""Sessions that resume: gnutls-cli, openssl s_client and `connect` at `serve`, and at its fleet."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support.common import gnutls_cli, openssl, running, udp_socket
from tests.support.serve import CERT, LINE, SECONDS, serving

CONNECT = [sys.executable, "-m", "gnutls_cookie", "connect", "--wait", "0.3"]
TRUST = ["--x509cafile", CERT[1]]
RESUMED = b"*** This is a resumed session\n"


def until(command: Sequence[str], end: bytes) -> bytes:
    """What a client prints until `end` is there, or it ends."""
    with running(command) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(LINE)
        child.stdin.flush()
        said, deadline = b"", time.monotonic() + SECONDS
        while end not in said and time.monotonic() < deadline:
            if select.select([child.stdout], [], [], 0.5)[0]:
                chunk = os.read(child.stdout.fileno(), 65536)
                if not chunk:
                    break
                said += chunk
    return said


def twice(port: int, program: str, *options: str) -> bool:
    """A client that connects twice at one server: whether the second session is resumed."""
    start = [gnutls_cli()] if program == "gnutls-cli" else CONNECT
    words = [*start, "-u", "--resume", "-p", str(port), *TRUST, *options, "127.0.0.1"]
    said = until(words, LINE)
    assert LINE in said, said.decode()
    assert b"- Resume Handshake was completed\n" in said
    return RESUMED in said


def s_client(port: int, *options: str) -> bool:
    """openssl at a server, once: whether its session is resumed."""
    words = [openssl(), "s_client", "-dtls1_2", "-connect", f"127.0.0.1:{port}", *options]
    said = until(words, LINE)
    assert LINE in said, said.decode()
    return b"\nReused, " in said


def secret(path: Path, content: str) -> Path:
    """A file with a secret."""
    path.write_text(content)
    path.chmod(0o600)
    return path


@pytest.mark.peer
@pytest.mark.parametrize("program", ["gnutls-cli", "connect"])
@pytest.mark.parametrize("workers", ["1", "4"])
def test_client_resumes(program: str, workers: str) -> None:
    """At whichever worker; the server says so, too."""
    with serving("--workers", workers, *CERT) as served:
        assert twice(served.port, program)
        if program == "connect":
            assert not twice(served.port, program, "--noticket")
        served.wait_for(r"INFO 127\.0\.0\.1 port \d+: \(DTLS[^\n]*, resumed\n")
        assert served.end() == 0


@pytest.mark.peer
@pytest.mark.parametrize("program", ["gnutls-cli", "connect"])
def test_server_without_tickets_resumes_nothing(program: str) -> None:
    """--noticket."""
    with serving("--noticket", *CERT) as served:
        assert not twice(served.port, program)
        assert served.end() == 0


@pytest.mark.parametrize(("options", "resumed"), [([], False), (["-u"], True)])
def test_who_has_a_key_resumes_where_gnutls_serv_lets_him(
    options: list[str], resumed: bool, tmp_path: Path
) -> None:
    """A ticket outlives a pre-shared key: only with -u."""
    keys = secret(tmp_path / "keys.psk", "sensor-1:00112233445566778899aabbccddeeff\n")
    psk = ["--pskusername", "sensor-1", "--pskkey", "00112233445566778899aabbccddeeff"]
    with serving("--pskpasswd", str(keys), *options) as served:
        words = [*CONNECT, "-u", "-r", "-p", str(served.port), *psk, "127.0.0.1"]
        assert (RESUMED in until(words, LINE)) is resumed
        assert served.end() == 0


@pytest.mark.peer
def test_openssl_resumes_at_another_node(tmp_path: Path) -> None:
    """-sess_out, -sess_in: at the server itself; with its ticket secret at another one, once the
    first is killed; with another secret it is a full handshake."""
    kept = str(tmp_path / "session")
    cookie = ["--cookie-secret-file", str(secret(tmp_path / "cookie", "the cookie secret"))]
    first, other = (
        ["--ticket-secret-file", str(secret(tmp_path / name, f"the ticket secret {name}"))]
        for name in ("first", "other")
    )
    with (
        serving(*CERT, *cookie, *first) as here,
        serving(*CERT, *cookie, *first) as there,
        serving(*CERT, *cookie, *other) as elsewhere,
    ):
        assert not s_client(here.port, "-sess_out", kept)
        assert s_client(here.port, "-sess_in", kept)
        here.child.kill()
        here.child.wait(SECONDS)
        assert s_client(there.port, "-sess_in", kept)
        assert not s_client(elsewhere.port, "-sess_in", kept)


@contextmanager
def handing_on(ports: Sequence[int]) -> Iterator[int]:
    """A hop that sends each new client to the next port of those; its own port."""
    with ExitStack() as stack:
        front = stack.enter_context(udp_socket())
        backs: dict[socket.socket, tuple[str, int]] = {}
        by_client: dict[tuple[str, int], socket.socket] = {}
        ended = threading.Event()

        def carry() -> None:
            while not ended.is_set():
                for sock in select.select([front, *backs], [], [], 0.1)[0]:
                    datagram, address = sock.recvfrom(65535)
                    if sock is not front:
                        front.sendto(datagram, backs[sock])
                        continue
                    if address not in by_client:
                        back = stack.enter_context(udp_socket())
                        back.connect(("127.0.0.1", ports[min(len(by_client), len(ports) - 1)]))
                        by_client[address], backs[back] = back, address
                    by_client[address].send(datagram)

        thread = threading.Thread(target=carry)
        thread.start()
        try:
            yield front.getsockname()[1]
        finally:
            ended.set()
            thread.join(SECONDS)


@pytest.mark.peer
@pytest.mark.parametrize("program", ["gnutls-cli", "connect"])
@pytest.mark.parametrize("resumed", [True, False])
def test_client_resumes_at_another_node(program: str, resumed: bool, tmp_path: Path) -> None:
    """Its first session is with one node, its second with another: of the same ticket secret or
    of another."""
    cookie = ["--cookie-secret-file", str(secret(tmp_path / "cookie", "the cookie secret"))]
    tickets = [
        ["--ticket-secret-file", str(secret(tmp_path / name, f"the ticket secret {name}"))]
        for name in ("first", "first" if resumed else "other")
    ]
    with ExitStack() as stack:
        nodes = [stack.enter_context(serving(*CERT, *cookie, *own)) for own in tickets]
        port = stack.enter_context(handing_on([node.port for node in nodes]))
        words = ["--verify-hostname", "localhost"]
        assert twice(port, program, *words) is resumed
        nodes[1].wait_for(r"INFO 127\.0\.0\.1 port \d+: \(DTLS")
        assert (b", resumed\n" in nodes[1].said) is resumed
        assert [node.end() for node in nodes] == [0, 0]


def refused(tmp_path: Path, *options: str) -> str:
    """What `serve` says of options that it refuses with exit code 2."""
    words = [sys.executable, "-m", "gnutls_cookie", "serve", "--port", "0", *CERT, *options]
    done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    return done.stderr


def test_ticket_secrets_that_cannot_be(tmp_path: Path) -> None:
    """The cookie secret, a short one, none at all, and none wanted."""
    same = secret(tmp_path / "same", "a secret of 16 bytes at least")
    secret(tmp_path / "short", "short")
    assert "the ticket secret must not be the cookie secret" in refused(
        tmp_path, "--cookie-secret-file", str(same), "--ticket-secret-file", str(same)
    )
    assert "a ticket secret has at least 16 bytes, not 5" in refused(
        tmp_path, "--ticket-secret-file", "short"
    )
    assert "nowhere: No such file" in refused(tmp_path, "--ticket-secret-file", "nowhere")
    assert "exclude each other" in refused(
        tmp_path, "--noticket", "--ticket-secret-file", str(same)
    )


@pytest.mark.peer
def test_other_ticket_secret_after_sighup(tmp_path: Path) -> None:
    """What was sealed by the former one is not opened."""
    kept = str(tmp_path / "session")
    path = secret(tmp_path / "ticket", "the ticket secret at first")
    with serving(*CERT, "--ticket-secret-file", str(path)) as served:
        assert not s_client(served.port, "-sess_out", kept)
        assert s_client(served.port, "-sess_in", kept)
        path.write_text("the ticket secret later on")
        served.child.send_signal(signal.SIGHUP)
        served.wait_for("read anew")
        assert not s_client(served.port, "-sess_in", kept)
        assert served.end() == 0
