"""What may be copied and pickled, and what refuses it."""

from __future__ import annotations

import asyncio
import copy
import pickle
import socket
from collections.abc import Callable

import pytest

from gnutls_cookie import (
    CertificateCredentials,
    Client,
    CookieGate,
    CookieListener,
    HandleTable,
    KeyRing,
    PSKCredentials,
    Server,
    aio,
    blocking,
)
from tests.support.common import ROOT
from tests.support.servers import asynchronous, echo

KEY = PSKCredentials("sensor-1", b"0123456789abcdef")
CERTS = ROOT / "tests" / "certs"


COPIES: list[Callable[[object], object]] = [copy.copy, copy.deepcopy, pickle.dumps]


def refused(one: object) -> bool:
    """Whether it can neither be copied nor pickled, and says so by its name."""
    for copied in COPIES:
        with pytest.raises(TypeError, match=f"^a {type(one).__name__} cannot be copied or pickled"):
            copied(one)
    return True


def listener() -> CookieListener:
    """One whose socket is closed."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return CookieListener(sock, CookieGate(b"key"))


@pytest.mark.parametrize(
    "make",
    [
        lambda: CertificateCredentials.from_files(CERTS / "localhost.pem", CERTS / "localhost.key"),
        lambda: Client(KEY),
        lambda: CookieGate(b"key"),
        listener,
        HandleTable,
        lambda: Server(KEY),
    ],
)
def test_what_exists_once_is_not_copied(make: Callable[[], object]) -> None:
    """Two owners of one state in C would tear at it; two tables would answer for one."""
    assert refused(make())


@asynchronous
async def test_connections_and_servers_are_not_copied() -> None:
    """Those of both adapters: a twin would read the messages of the other."""
    async with await aio.start_server(echo, "127.0.0.1", credentials=KEY) as server:
        host, port = server.address[:2]
        async with await aio.connect(host, port, credentials=KEY) as connection:
            assert refused(server)
            assert refused(connection)
            await connection.send(b"still there")
            assert await connection.receive() == b"still there"

        def talk() -> bytes | None:
            with blocking.connect(host, port, credentials=KEY) as connection:
                assert refused(connection)
                connection.send(b"still there")
                return connection.receive(60)

        assert await asyncio.to_thread(talk) == b"still there"


def test_copies_of_a_key_ring_rotate_apart() -> None:
    """It holds keys, nothing of C: a copy is a ring of its own, of the same keys."""
    for ring in KeyRing(b"one", b"two"), KeyRing.from_secret(b"s" * 16, 60):
        copies = [copy.copy(ring), copy.deepcopy(ring), pickle.loads(pickle.dumps(ring))]
        assert [one.keys_at(1000.0) for one in copies] == [ring.keys_at(1000.0)] * 3
    ring = KeyRing(b"one")
    other = copy.copy(ring)
    other.rotate(b"new")
    assert (ring.keys_at(0.0), other.keys_at(0.0)) == ((b"one", None), (b"new", b"one"))


def test_copied_key_credentials_are_as_good() -> None:
    """Identity, key and lookup are Python's; C's are made for each session."""
    for copied in copy.copy(KEY), copy.deepcopy(KEY):
        assert copied.identity == "sensor-1"
        assert copied.lookup("sensor-1") == b"0123456789abcdef"
        Server(copied)


def test_copies_of_a_pre_shared_key_are_as_good() -> None:
    """They hold nothing of C either."""
    for made in PSKCredentials("a", b"k" * 16), PSKCredentials(lookup={b"a": b"k" * 16}):
        for one in copy.copy(made), copy.deepcopy(made), pickle.loads(pickle.dumps(made)):
            assert one.lookup("a") == b"k" * 16
            assert one.lookup("b") is None
