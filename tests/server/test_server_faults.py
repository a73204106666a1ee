"""What goes wrong around a server: credentials, ports, handlers, peers, the network, fork.

Each test ends with a client that is served: one fault never costs the others anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gnutls_cookie import (
    CertificateCredentials,
    CookieGate,
    GnuTLSError,
    KeyRing,
    Session,
    aio,
    blocking,
)
from gnutls_cookie._ffi import lib
from gnutls_cookie.aio import Connection, DTLSServer
from gnutls_cookie.endpoint import Endpoint
from gnutls_cookie.errors import CertificateVerificationError
from gnutls_cookie.reference import wire
from gnutls_cookie.server import CloseReason
from tests.support.common import peer_required, seeded, udp_socket
from tests.support.peers import CERTS, SocketClient, certificate, client_of, drive, psk, trusting
from tests.support.servers import asynchronous, echo, echo_or_fail, heard_errors


@asynccontextmanager
async def serving(handler: aio.Handler = echo, **options: Any) -> AsyncIterator[DTLSServer]:
    """A server for the block, which serves a new client at the end of it."""
    if "sock" not in options:
        options = {"host": "127.0.0.1", **options}
    options = {"credentials": [certificate(), psk()], "grace": 0.2, **options}
    async with await aio.start_server(handler, **options) as server:
        yield server
        async with await connect(server) as client:
            await client.send(b"still there?")
            assert await client.receive() == b"still there?"


async def connect(server: DTLSServer, **options: Any) -> Connection:
    """A client with PSK."""
    options = {"credentials": psk(), "retransmit_timeout": 0.1, **options}
    return await aio.connect(*server.address[:2], **options)


class Raw(SocketClient):
    """A client whose socket is at hand."""

    def __init__(self, sock: socket.socket, **options: Any) -> None:
        super().__init__(sock, client_of("PSK", **options))

    async def until(self, done: Callable[[], bool]) -> None:
        await asyncio.to_thread(drive, [self], done)

    async def connected(self) -> Raw:
        await self.until(lambda: self.session.established)
        return self

    async def echoes(self, message: bytes = b"hello") -> bool:
        """Whether a message comes back, and nothing else."""
        self.received.clear()
        self.session.send(message)
        await self.until(lambda: bool(self.received))
        return self.received == [message]


@asynccontextmanager
async def raw_client(server: DTLSServer) -> AsyncIterator[Raw]:
    """A connected client on a socket of its own."""
    with udp_socket() as sock:
        sock.connect(server.address)
        yield await Raw(sock).connected()


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until it holds; bounded by the test."""
    while not condition():
        await asyncio.sleep(0.01)


# --- credentials ----------------------------------------------------------------------------------


def test_credentials_that_are_missing(tmp_path: Path) -> None:
    """A file that is not there, and a server with none at all."""
    with pytest.raises(FileNotFoundError):
        CertificateCredentials.from_files(tmp_path / "none.pem", tmp_path / "none.key")
    with pytest.raises(ValueError, match="a server needs certificate and key"):
        blocking.serve(print, "127.0.0.1", credentials=CertificateCredentials())
    with pytest.raises(ValueError, match="certificate and key go together"):
        CertificateCredentials.from_files(CERTS / "localhost.pem")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else for a moment")
def test_credentials_that_may_not_be_read(tmp_path: Path) -> None:
    """PermissionError, not an empty certificate."""
    key = tmp_path / "secret.key"
    key.write_bytes((CERTS / "localhost.key").read_bytes())
    key.chmod(0)
    os.seteuid(65534)
    try:
        with pytest.raises(PermissionError):
            CertificateCredentials.from_files(CERTS / "localhost.pem", key)
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("content", [b"", b"no PEM", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_credentials_that_cannot_be_understood(tmp_path: Path, content: bytes) -> None:
    """A GnuTLSError that says which."""
    path = tmp_path / "broken.pem"
    path.write_bytes(content)
    with pytest.raises(GnuTLSError, match=r"broken\.pem is not a "):
        CertificateCredentials.from_files(path, CERTS / "localhost.key")
    with pytest.raises(GnuTLSError, match=r"broken\.pem is not a "):
        CertificateCredentials.from_files(CERTS / "localhost.pem", path)


def test_credentials_that_do_not_match() -> None:
    """A key of another certificate."""
    with pytest.raises(GnuTLSError, match="MISMATCH"):
        CertificateCredentials.from_files(CERTS / "localhost.pem", CERTS / "stranger.key")


def expired(folder: Path) -> tuple[Path, Path]:
    """A certificate for localhost that was good in 2001, and its key."""
    certtool = peer_required("certtool", "apt install gnutls-bin")
    template, key, cert = (folder / name for name in ("template", "expired.key", "expired.pem"))
    template.write_text(
        'cn = "localhost"\ndns_name = "localhost"\nca\ntls_www_server\n'
        'activation_date = "2001-01-01 00:00:00 UTC"\n'
        'expiration_date = "2001-12-31 00:00:00 UTC"\n'
    )
    for command in (
        ["--generate-privkey", "--key-type", "ecdsa", "--outfile", str(key)],
        ["--generate-self-signed", "--load-privkey", str(key), "--template", str(template),
         "--outfile", str(cert)],
    ):  # fmt: skip
        subprocess.run([certtool, *command], check=True, capture_output=True, timeout=20)
    return cert, key


@pytest.mark.peer
@asynchronous
async def test_credentials_that_are_expired(tmp_path: Path) -> None:
    """They are served, as by any server; the client refuses them, and the server lives on."""
    cert, key = expired(tmp_path)
    credentials = [CertificateCredentials.from_files(cert, key), psk()]
    async with serving(credentials=credentials) as server:
        trust = CertificateCredentials.from_files(trust=cert)
        with pytest.raises(CertificateVerificationError, match="expired"):
            await connect(server, credentials=trust, server_name="localhost")
        await until(lambda: server.counters.server.closed[CloseReason.FAILED] == 1)
        server.set_credentials([certificate(), psk()])
        async with await connect(server, credentials=trusting(), server_name="localhost") as client:
            assert client.session.established


# --- ports and handlers ---------------------------------------------------------------------------


@asynchronous
async def test_port_that_is_taken() -> None:
    """EADDRINUSE for who comes second; who was first is not disturbed."""
    async with serving() as server:
        host, port = server.address[:2]
        with pytest.raises(OSError, match="in use") as caught:
            await aio.start_server(echo, host, port, credentials=psk())
        assert caught.value.errno == errno.EADDRINUSE
        with pytest.raises(OSError, match="in use"):
            blocking.serve(print, host, port, credentials=psk())


@asynchronous
async def test_handler_that_raises() -> None:
    """Each is reported; nobody else is concerned."""
    with heard_errors() as told:
        async with serving(echo_or_fail) as server:
            for _ in range(5):
                client = await connect(server)
                await client.send(b"fail")
                assert await client.receive() is None
            assert server.counters.server.sessions == 0
    assert len(told) == 5


@asynchronous
async def test_handler_that_hangs() -> None:
    """It holds its own connection, and is cancelled when the server ends."""
    cancelled = asyncio.Event()

    async def handler(connection: Connection) -> None:
        async for message in connection:
            if message == b"hang":
                try:
                    await asyncio.Event().wait()
                finally:
                    cancelled.set()
            await connection.send(message)

    async with serving(handler) as server:
        client = await connect(server)
        await client.send(b"hang")
        await until(lambda: server.counters.server.messages_received == 1)
    assert cancelled.is_set()
    assert await client.receive() is None


@asynchronous
async def test_socket_that_is_of_no_use_any_more() -> None:
    """Shut down by somebody: it is reported, and the server closes instead of spinning."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    with heard_errors() as told:
        async with await aio.start_server(echo, sock=sock, credentials=psk()) as server:
            with contextlib.suppress(OSError):  # ENOTCONN, and yet it is done
                sock.shutdown(socket.SHUT_RDWR)
            await server.serve_forever()
    assert [one["message"] for one in told] == ["a socket of a DTLS server failed"]
    assert sock.fileno() == -1


# --- peers ----------------------------------------------------------------------------------------


@asynchronous
async def test_peer_that_vanishes() -> None:
    """Killed without a goodbye: idle_timeout ends its connection, and the handler."""
    ended = asyncio.Event()

    async def handler(connection: Connection) -> None:
        await echo(connection)
        ended.set()

    async with serving(handler, idle_timeout=2.0) as server:
        async with raw_client(server) as client:
            assert await client.echoes()
        await ended.wait()
        assert server.counters.server.closed[CloseReason.IDLE] == 1
        assert server.counters.server.sessions == 0


@asynchronous
async def test_goodbye_of_the_client_that_is_lost() -> None:
    """As if it had vanished; and it may come back from the same port before that is noticed."""
    async with serving() as server, raw_client(server) as client:
        client.session.close()
        assert client.session.datagrams_to_send()  # and they never arrive
        again = await Raw(client.sock).connected()
        assert await again.echoes()
        assert server.counters.server.closed[CloseReason.REPLACED] == 1
        assert server.counters.server.sessions == 1


@asynchronous
async def test_goodbye_of_the_server_that_is_lost() -> None:
    """What the client goes on sending meets silence; a new handshake from there is served."""

    async def handler(connection: Connection) -> None:
        async for message in connection:
            if message == b"end":
                return
            await connection.send(message)

    async with serving(handler) as server, raw_client(server) as client:
        client.session.send(b"end")
        client.send()
        await until(lambda: server.counters.server.closed[CloseReason.LOCAL] == 1)
        assert len(await asyncio.to_thread(client.sock.recv, 2000)) > 0  # the goodbye, unread
        before = server.counters.listener
        for _ in range(3):
            client.session.send(b"are you there?")
        client.send()
        await until(lambda: server.counters.listener.received == before.received + 3)
        assert server.counters.listener.replies == before.replies
        assert server.counters.listener.arrivals == before.arrivals
        again = await Raw(client.sock).connected()
        assert await again.echoes()
        assert await asyncio.to_thread(says_goodbye, again)


def says_goodbye(client: Raw) -> bool:
    """Whether a client and the server part as they should."""
    client.session.close()
    drive([client], lambda: client.session.receive() is None and client.session.peer_closed)
    return client.session.peer_closed


@asynchronous
async def test_icmp_unreachable_at_the_server() -> None:
    """The client's port is closed while the server sends: no error comes out of anywhere."""
    sent = asyncio.Event()

    async def handler(connection: Connection) -> None:
        async for message in connection:
            if message == b"send to nobody":
                for number in range(50):
                    await connection.send(b"%d" % number)
                    await asyncio.sleep(0.001)
                sent.set()
            else:
                await connection.send(message)

    async with serving(handler, idle_timeout=2.0) as server:
        other = await connect(server)
        async with raw_client(server) as client:
            client.session.send(b"send to nobody")
            client.send()
        await sent.wait()
        await other.send(b"and I?")
        assert await other.receive() == b"and I?"
        other.close()
        await until(lambda: server.counters.server.sessions == 0)
        assert server.counters.server.closed[CloseReason.FAILED] == 0


@asynchronous
async def test_icmp_unreachable_at_the_client() -> None:
    """The server's port is closed under a connection: it may be a lie, and is not believed."""
    async with await aio.start_server(echo, "127.0.0.1", credentials=psk()) as server:
        client = await connect(server)
        with deaf_kernel(server):  # so that the goodbye gets lost
            server.close()
            await server.wait_closed()
    for _ in range(10):
        await client.send(b"anybody?")
        await asyncio.sleep(0.005)
    assert client.is_open
    client.close()


# --- the kernel -----------------------------------------------------------------------------------


@contextlib.contextmanager
def deaf_kernel(server: DTLSServer) -> Iterator[None]:
    """Every send of the server fails within the block: EPIPE, of a real socket."""
    endpoint = server._endpoints[0]
    with udp_socket() as mute:
        with contextlib.suppress(OSError):  # ENOTCONN, and yet it is done
            mute.shutdown(socket.SHUT_WR)
        with pytest.raises(OSError, match=r"."):
            mute.sendto(b"", server.address)
        sock, endpoint.sock = endpoint.sock, mute
        try:
            yield
        finally:
            endpoint.sock = sock
            if server._closed.is_set():
                sock.close()


@asynchronous
async def test_messages_that_the_kernel_does_not_take() -> None:
    """One at a time, and many at once: lost as on the network, counted, and nothing is raised."""

    async def handler(connection: Connection) -> None:
        async for message in connection:
            for _ in range(int(message)):
                await connection.send(message)

    async with await aio.start_server(handler, "127.0.0.1", credentials=psk()) as server:
        client = await connect(server)
        with deaf_kernel(server):
            await client.send(b"1")
            await until(lambda: server.counters.send_errors == 1)
            await client.send(b"7")
            await until(lambda: server.counters.send_errors == 8)
        await client.send(b"2")
        assert [await client.receive() for _ in range(2)] == [b"2", b"2"]
        assert server.counters.send_errors == 8
        client.close()


@asynchronous
async def test_flight_that_the_kernel_does_not_take() -> None:
    """It is sent again by its timer."""
    async with serving(retransmit_timeout=0.05) as server:
        host, port = server.address[:2]
        with deaf_kernel(server):
            shaking = asyncio.create_task(aio.connect(host, port, credentials=psk()))
            await until(lambda: server.counters.send_errors > 0)
        (await shaking).close()


@asynchronous
async def test_challenge_that_the_kernel_does_not_take() -> None:
    """Counted by the listener; the client's timer asks again."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    async with await aio.start_server(echo, sock=sock, credentials=psk()) as server:
        with contextlib.suppress(OSError):  # ENOTCONN, and yet it is done
            sock.shutdown(socket.SHUT_WR)
        with udp_socket() as stranger:
            stranger.sendto(wire.client_hello(), server.address)
            await until(lambda: server.counters.listener.reply_errors == 1)
        assert server.counters.listener.replies == 0


# --- fork -----------------------------------------------------------------------------------------


@asynchronous
async def test_fork_in_the_middle_of_a_session() -> None:
    """A child that ends, however, leaves the parent's sessions alone."""
    async with serving() as server, raw_client(server) as client:
        for how in ("_exit", "drop everything"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # threads of the test's own
                child = os.fork()
            if child == 0:
                if how == "drop everything":  # destructors run, and must send nothing
                    server._drivers.clear()
                    client.session = None  # type: ignore[assignment]
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
            assert await client.echoes(how.encode())
        assert server.counters.server.closed[CloseReason.FAILED] == 0


@asynchronous
async def test_child_that_closes_what_it_inherited_leaves_the_parent_alone() -> None:
    """Server, clients and connections: no goodbye, and the parent's selector still has them."""
    served: list[Connection] = []

    async def handler(connection: Connection) -> None:
        served.append(connection)
        await echo(connection)

    async with serving(handler) as server, raw_client(server) as client:
        other = await connect(server)
        inherited: list[Connection | DTLSServer]
        for _ in range(3):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # threads of the test's own
                child = os.fork()
            if child == 0:
                status = 1
                try:
                    signal.alarm(20)
                    inherited = [*served, other, server]
                    for one in inherited:
                        one.close()
                    gc.collect()
                    status = 0
                finally:
                    os._exit(status)
            assert os.waitpid(child, 0)[1] == 0
            assert await client.echoes()
            await other.send(b"and I?")
            assert await other.receive() == b"and I?"
        other.close()


@asynchronous
async def test_program_that_is_started_inherits_no_socket() -> None:
    """Else the port would stay taken after the server has gone."""
    async with serving() as server:
        numbers = [str(sock.fileno()) for sock in server.sockets]
        code = (
            "import os, sys\n"
            "for number in map(int, sys.argv[1:]):\n"
            "    try: os.fstat(number)\n"
            "    except OSError: continue\n"
            "    sys.exit('inherited')"
        )
        done = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", code, *numbers], close_fds=False, timeout=20
        )
        assert done.returncode == 0


# --- strangers that write in a peer's name --------------------------------------------------------


@asynchronous
async def test_garbage_from_an_admitted_address() -> None:
    """From the client's own port: its session reads none of it."""
    chance = seeded()
    async with serving() as server, raw_client(server) as client:
        alert = b"\x15\xfe\xfd\0\0" + (5).to_bytes(6, "big") + b"\0\2\2\x28"
        cut = b"\x17\xfe\xfd\0\1" + (9).to_bytes(6, "big") + b"\xff\xff"
        for junk in [alert, cut, b"\0", b"x" * 2000, *map(chance.randbytes, range(1, 150))]:
            client.sock.send(junk)
        assert await client.echoes()
        assert server.counters.server.closed[CloseReason.FAILED] == 0
        assert server.counters.server.messages_received == 1


@asynchronous
async def test_spoofed_hello_from_an_admitted_address() -> None:
    """It is challenged as any other (RFC 6347 4.2.8); the session that is there lives on."""
    async with serving() as server, raw_client(server) as client:
        challenged = server.counters.gate.challenged
        for seq in range(3):
            client.sock.send(wire.client_hello(record_seq=seq, message_seq=seq))
            await until(lambda: server.counters.gate.challenged > challenged + seq)  # noqa: B023
        assert server.counters.server.handshaking == 0
        assert await client.echoes()
        assert client.challenges == 1 + 3
        assert server.counters.server.sessions == 1


@asynchronous
async def test_verified_hello_of_an_admitted_address_that_goes_no_further() -> None:
    """Somebody who reads the peer's datagrams too: a handshake that ends by its time, no more."""
    async with serving(handshake_timeout=0.5) as server, raw_client(server) as client:
        ghost = Session("client", psk())
        for _ in range(2):
            ghost.handshake()
            for datagram in ghost.datagrams_to_send():
                client.sock.send(datagram)
            if server.counters.server.handshaking:
                break
            ghost.receive_datagram(await asyncio.to_thread(client.sock.recv, 2000))
        await until(lambda: server.counters.server.handshaking == 1)
        assert await client.echoes(b"while it is pending")
        await until(lambda: server.counters.server.handshaking == 0)
        assert server.counters.server.closed[CloseReason.TIMED_OUT] == 1
        assert await client.echoes(b"afterwards")


@pytest.mark.parametrize("what", ["server", "listener"])
def test_endpoint_whose_memory_the_collector_has_freed(what: str) -> None:
    """As a finalizer may find it: an error, and no call of C on what is not there."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
        endpoint = Endpoint(sock, CookieGate(KeyRing.random()), psk())
        assert endpoint.turn(0.0) == []
        if what == "server":
            lib.gcookie_server_free(endpoint._server._box)
            kind: type[Exception] = GnuTLSError
        else:
            lib.gcookie_udp_release(endpoint._serving._boxes[0])
            kind = ValueError
        with pytest.raises(kind):
            endpoint.turn(1.0)
