"""examples/own_sessions.py: the listener and Session, and a table that is the program's own."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from gnutls_cookie import GnuTLSError, PSKCredentials, blocking
from gnutls_cookie.reference import wire
from tests.support.common import ROOT, openssl, udp_socket
from tests.support.servers import SECONDS, bounded

EXAMPLE = ROOT / "examples" / "own_sessions.py"
IDENTITY, KEY = "sensor-1", b"secret"
CREDENTIALS = PSKCredentials(IDENTITY, KEY)


@contextmanager
def serving() -> Iterator[tuple[Any, tuple[str, int]]]:
    """Its Sessions, in a thread, and where they listen."""
    spec = importlib.util.spec_from_file_location("own_sessions", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    ended = threading.Event()
    with udp_socket() as sock:
        sessions = module.Sessions(sock, CREDENTIALS, bytes.upper)

        def run() -> None:
            while not ended.is_set():
                sessions.turn()
            sessions.close()

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield sessions, sock.getsockname()
        finally:
            ended.set()
            thread.join(SECONDS)
            assert not thread.is_alive()


def test_several_clients_and_their_end() -> None:
    """Each has a session, which goes with its goodbye; strangers have none."""
    with serving() as (sessions, address):
        clients = [blocking.connect(*address, credentials=CREDENTIALS) for _ in range(5)]
        for number, client in enumerate(clients):
            client.send(b"client %d" % number)
        for number, client in enumerate(clients):
            assert client.receive(SECONDS) == b"CLIENT %d" % number
        with udp_socket() as stranger:
            stranger.connect(address)
            stranger.settimeout(SECONDS)
            for _ in range(10):
                stranger.send(wire.client_hello())
                assert len(stranger.recv(2048)) == 44
        assert sessions.listener.peers == 5
        for client in clients:
            client.close()
        deadline = time.monotonic() + SECONDS
        while sessions.listener.peers and time.monotonic() < deadline:
            time.sleep(0.02)
        assert sessions.listener.peers == 0


def test_a_handshake_that_fails_leaves_the_others() -> None:
    """A wrong key is answered by nothing; the server's end is a goodbye."""
    with serving() as (_, address):
        good = blocking.connect(*address, credentials=CREDENTIALS)
        wrong = PSKCredentials(IDENTITY, b"another")
        with pytest.raises((GnuTLSError, TimeoutError)):
            blocking.connect(*address, credentials=wrong, handshake_timeout=1.5)
        good.send(b"still here")
        assert good.receive(SECONDS) == b"STILL HERE"
    assert good.receive(SECONDS) is None
    good.close()


@pytest.mark.peer
def test_openssl_at_the_program() -> None:
    """As its first lines have it."""
    server = subprocess.Popen(
        [sys.executable, str(EXAMPLE), "127.0.0.1", "0", IDENTITY, KEY.hex()],
        stdout=subprocess.PIPE,
    )
    client = None
    try:
        assert server.stdout is not None
        with bounded(int(SECONDS)):
            port = int(server.stdout.readline().split()[-1])
            client = subprocess.Popen(
                [openssl(), "s_client", "-dtls1_2", "-quiet", "-psk_identity", IDENTITY,
                 "-psk", KEY.hex(), "-connect", f"127.0.0.1:{port}"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            assert client.stdin is not None
            assert client.stdout is not None
            client.stdin.write(b"hello\n")
            client.stdin.flush()
            assert client.stdout.readline() == b"HELLO\n"
    finally:
        for one in client, server:
            if one is not None:
                one.kill()
                one.communicate(timeout=SECONDS)
