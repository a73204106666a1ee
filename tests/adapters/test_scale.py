"""Many sessions at once: each echo comes back in the end, memory is bounded, nothing is left.

The server is a process of its own, and is asked what it holds; the clients are aio.connect's.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import resource
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from gnutls_cookie import (
    CertificateCredentials,
    Client,
    Connected,
    CookieGate,
    Session,
    aio,
    client_data,
)
from gnutls_cookie._ffi import ffi, lib
from gnutls_cookie.endpoint import Endpoint
from gnutls_cookie.listener import send_each
from gnutls_cookie.server import Connection
from tests.support.common import libgnutls, openssl, running, udp_socket
from tests.support.peers import CERTS, client_of, established, psk, trusting
from tests.support.servers import asynchronous

TRIES = 30  # of one echo: what UDP drops is sent again
PATIENCE = 1.0  # seconds for one try
UDP_GRO, SO_NO_CHECK = 104, 11  # linux/udp.h, asm-generic/socket.h
AT_ONCE = 100  # clients whose hello or goodbye may be on its way at the same time
SECONDS = 60.0  # a bound, never a measure

# Prints its port; then, for each line on stdin, what it holds.
SERVER = """
import asyncio, gc, json, os, socket, sys
from gnutls_cookie import CertificateCredentials, Session, aio
from gnutls_cookie.handles import TABLE

async def echo(connection):
    async for message in connection:
        await connection.send(message)

def resident():
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except FileNotFoundError:
        return 0

async def main():
    credentials = CertificateCredentials.from_files(*sys.argv[1:3])
    async with await aio.start_server(echo, "127.0.0.1", credentials=credentials) as server:
        print(server.address[1], flush=True)
        lines = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
        )
        while await lines.readline():
            gc.collect()
            said = server.counters.as_dict()["server"]
            said["lent"] = len(TABLE)
            said["alive"] = sum(isinstance(each, Session) for each in gc.get_objects())
            said["tasks"] = len(asyncio.all_tasks()) - 1
            said["memory"] = resident()
            print(json.dumps(said), flush=True)

asyncio.run(main())
"""


class Server:
    """The child, asked line by line."""

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        assert child.stdin is not None
        assert child.stdout is not None
        self._stdin, self._stdout = child.stdin, child.stdout
        self.port = int(self._stdout.readline())

    def holds(self) -> dict[str, Any]:
        """What the server counts, and holds."""
        self._stdin.write(b"\n")
        self._stdin.flush()
        said: dict[str, Any] = json.loads(self._stdout.readline())
        return said

    def wait_for(self, sessions: int) -> None:
        """Until so many sessions are left; bounded."""
        deadline = time.monotonic() + SECONDS
        while (held := self.holds())["sessions"] != sessions:
            assert time.monotonic() < deadline, held
            time.sleep(0.01)


async def echoes(connection: aio.Connection, name: int, count: int) -> int:
    """So many messages there and back, one at a time; how many had to be sent again."""
    again = 0
    for number in range(count):
        message = b"%d of %d " % (number, name) + bytes(100)
        for _ in range(TRIES):
            await connection.send(message)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(answer(connection, message), PATIENCE)
                break
            again += 1
        else:
            raise AssertionError(f"{message!r} never came back")
    return again


async def answer(connection: aio.Connection, message: bytes) -> None:
    """Wait for an echo; one of a message that was sent twice may come before it."""
    async for received in connection:
        if received == message:
            return
        assert received.split()[2] == message.split()[2], "the echo of another client"
    raise AssertionError("the connection ended")


async def wave(server: Server, count: int, messages: int) -> dict[str, Any]:
    """`count` clients at once, each with `messages` echoes; what the server held meanwhile."""
    turn = asyncio.Semaphore(AT_ONCE)

    async def connect() -> aio.Connection:
        async with turn:
            return await aio.connect(
                "127.0.0.1",
                server.port,
                credentials=trusting(),
                server_name="localhost",
                retransmit_timeout=0.5,
            )

    connections = await asyncio.gather(*(connect() for _ in range(count)))
    again = await asyncio.gather(
        *(echoes(connection, name, messages) for name, connection in enumerate(connections))
    )
    held = server.holds()
    print(f"{sum(again)} of {count * messages} messages were sent again")
    # A goodbye that is lost is not said again, and sockets hold some hundred datagrams.
    while connections:
        for connection in connections[-AT_ONCE:]:
            connection.close()
        del connections[-AT_ONCE:]
        server.wait_for(len(connections))
    return held


def waves(count: int, messages: int) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]:
    """What the server held before, during and after two waves of clients."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    files = [CERTS / "localhost.pem", CERTS / "localhost.key"]
    with running([sys.executable, "-c", SERVER, *files]) as child:
        server = Server(child)
        before = server.holds()
        during = [asyncio.run(wave(server, count, messages)) for _ in range(2)]
        after = server.holds()
    return before, during, after


def check(
    count: int, messages: int, before: dict[str, Any], during: list[Any], after: dict[str, Any]
) -> None:
    """All were served at once, and nothing is left of them."""
    for number, held in enumerate(during, 1):
        assert held["sessions"] == count
        assert held["handshaking"] == held["lent"] == held["messages_dropped"] == 0
        assert held["connected"] == number * count
        assert held["messages_sent"] >= number * count * messages
    assert after["sessions"] == after["handshaking"] == after["lent"] == after["tasks"] == 0
    assert after["alive"] == before["alive"] == 0
    assert after["refused"] == 0
    assert after["last_error"] is None
    closed = {reason: number for reason, number in after["closed"].items() if number}
    assert set(closed) == {"peer"}
    assert closed["peer"] == 2 * count


def test_50_sessions_at_once() -> None:
    """10 echoes each; each comes back, and all is given back at the end."""
    before, during, after = waves(50, 10)
    check(50, 10, before, during, after)


@pytest.mark.slow
def test_1000_sessions_at_once() -> None:
    """10 echoes each; some 17 KiB a session, and a second thousand needs no more."""
    before, during, after = waves(1000, 10)
    check(1000, 10, before, during, after)
    if before["memory"] == 0:
        pytest.skip("no /proc/self/statm here: all but memory was looked at")
    each = (during[0]["memory"] - before["memory"]) / 1000
    print(f"{each / 1024:.1f} KiB a session")
    assert each < 64 * 1024
    assert during[1]["memory"] - during[0]["memory"] < 16 * 1024 * 1000


# --- what one call may send -----------------------------------------------------------------------


def test_flight_longer_than_the_first_block_of_a_call_arrives(tmp_path: Path) -> None:
    """A certificate of more bytes than a call keeps room for, and then a short one again."""
    names = ",".join(f"DNS:{number:060d}.example" for number in range(300))
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = [openssl(), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += [
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
        "-keyout",
        str(key),
        "-out",
        str(certificate),
    ]
    command += ["-addext", f"subjectAltName=DNS:localhost,{names}"]
    subprocess.run(command, check=True, capture_output=True)
    der = ssl.PEM_cert_to_DER_cert(certificate.read_text())
    assert len(der) > 2 * lib.GCOOKIE_FIRST
    for _ in range(2):
        server = Session("server", CertificateCredentials.from_files(certificate, key))
        client = client_of("X.509", verify_peer=False)
        for _ in range(20):
            client.handshake()
            for datagram in client.datagrams_to_send():
                server.receive_datagram(datagram)
            server.handshake()
            for datagram in server.datagrams_to_send():
                client.receive_datagram(datagram)
        assert client.peer_certificate == der
        established("X.509")


def test_libgnutls_called_past_a_session_fails_and_does_not_crash() -> None:
    """Between calls nothing can be sent or read: an error."""
    client, server = established()
    for session in (client, server):
        pointer = ctypes.c_void_p(session._gnutls_session_address())
        assert libgnutls().gnutls_alert_send(pointer, 1, 100) < 0
        assert libgnutls().gnutls_record_recv(pointer, ctypes.create_string_buffer(99), 99) < 0
    assert client.datagrams_to_send() == server.datagrams_to_send() == []


# --- many datagrams in one system call ------------------------------------------------------------


def test_each_datagram_goes_to_its_own_address() -> None:
    """More than one batch, to three sockets in turn, in order."""
    with udp_socket() as sock, udp_socket() as one, udp_socket() as two, udp_socket() as three:
        there = [one, two, three]
        names = [client_data.sockaddr(each.getsockname()) for each in there]
        datagrams = [b"datagram %d" % number + bytes(number) for number in range(200)]
        assert send_each(sock, datagrams, [names[at % 3] for at in range(200)]) == 0
        for at, datagram in enumerate(datagrams):
            assert there[at % 3].recv(1000) == datagram
        assert send_each(sock, [], []) == 0


def test_datagram_that_the_kernel_refuses_is_counted_and_the_rest_is_sent() -> None:
    """One that is longer than UDP can carry, first, last and between."""
    long = bytes(65508)
    with udp_socket() as sock, udp_socket() as there:
        name = client_data.sockaddr(there.getsockname())
        assert send_each(sock, [long, b"1", long, long, b"2", long], [name] * 6) == 4
        assert [there.recv(100), there.recv(100)] == [b"1", b"2"]
    assert send_each(sock, [b"1", b"2"], [name] * 2) == 2  # closed


def test_lengths_that_disagree_are_not_read_beyond() -> None:
    """Too few bytes of data or of names: what is whole is sent, the rest is counted."""
    with udp_socket() as sock, udp_socket() as there:
        name = client_data.sockaddr(there.getsockname())
        for names, size, data, sizes, lost in [
            (name * 3, 16, b"abcdef", [2, 2, 2], 0),
            (name * 3, 16, b"abcdef", [2, 2, 3], 1),
            (name * 3, 16, b"abcdef", [2, 2**32 - 1, 2], 2),
            (name * 2, 16, b"abcdef", [2, 2, 2], 1),
            (name, 16, b"abcdef", [2, 2, 2], 2),
            (name[:15], 16, b"abcdef", [2, 2, 2], 3),
            (name, 0, b"abcdef", [2, 2, 2], 3),
            (name, 17, b"abcdef", [2, 2, 2], 3),
            (b"", 16, b"", [], 0),
        ]:
            given = (names, len(names), size, data, len(data), sizes, ffi.NULL, len(sizes))
            assert lib.gcookie_udp_send(sock.fileno(), *given) == lost
            for at in range(len(sizes) - lost):
                assert there.recv(100) == data[2 * at : 2 * at + 2]


@asynchronous
async def test_messages_of_one_size_to_one_peer_arrive_one_by_one() -> None:
    """The kernel may cut a run of them out of one message (UDP_SEGMENT): none is joined or lost."""
    sizes = [100] * 66 + [50] + [100] * 20 + [1, 2, 3] + [40] * 5

    async def handler(connection: aio.Connection) -> None:
        async for _ in connection:
            for number, size in enumerate(sizes):
                connection.send_nowait(bytes([number]) * size)

    options: dict[str, Any] = {"credentials": psk()}
    async with await aio.start_server(handler, "127.0.0.1", **options) as server:
        async with await aio.connect(*server.address[:2], **options) as client:
            await client.send(b"all of them")
            arrived = [await client.receive() for _ in sizes]
        assert arrived == [bytes([number]) * size for number, size in enumerate(sizes)]
        assert server.counters.send_errors == 0


def received_at_once(endpoint: Endpoint, number: int) -> int:
    """A peer is sent so many messages of one size: how many datagrams its kernel gives together."""
    with udp_socket() as sock:
        sock.connect(endpoint.sock.getsockname())
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
        client = Client(psk())
        client.connect(0.0)
        connections: list[Connection] = []
        while not connections:
            for datagram in client.datagrams_to_send():
                sock.send(datagram)
            connections = [e.connection for e in endpoint.turn(0.0) if isinstance(e, Connected)]
            with contextlib.suppress(BlockingIOError):
                client.receive_datagram(sock.recv(2000), 0.0)
        for _ in range(number):
            endpoint.send(connections[0], bytes(100), 0.0)
        endpoint.flush()
        sizes = []
        with contextlib.suppress(BlockingIOError):
            while True:
                sizes.append(len(sock.recv(65535)))
        assert sum(sizes) > 100 * number
        return number // len([size for size in sizes if size > 100])


@pytest.mark.skipif(sys.platform != "linux", reason="UDP_SEGMENT and UDP_GRO are Linux's")
def test_a_run_that_the_kernel_does_not_cut_leaves_those_of_others_whole() -> None:
    """It is sent one by one: because of its socket here, of the MTU of a path, say, elsewhere."""
    with contextlib.ExitStack() as stack:
        endpoints = []
        for _ in range(2):
            sock = stack.enter_context(udp_socket())
            sock.setblocking(False)
            endpoints.append(Endpoint(sock, CookieGate(b"k" * 16), psk()))
            stack.callback(endpoints[-1].close)
        plain, without_sums = endpoints
        if received_at_once(plain, 20) < 20:
            pytest.skip("this kernel gives no datagrams together")
        without_sums.sock.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
        assert received_at_once(without_sums, 20) == 1
        assert received_at_once(plain, 20) == 20


def test_new_sessions_beyond_those_of_a_turn_wait_for_the_next() -> None:
    """Some begin in each turn, and whoever drives it is told that there is more to do."""
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(udp_socket())
        sock.setblocking(False)
        endpoint = Endpoint(sock, CookieGate(b"k" * 16), psk())
        stack.callback(endpoint.close)
        socks = [stack.enter_context(udp_socket()) for _ in range(40)]
        clients = [Client(psk()) for _ in socks]
        for client, own in zip(clients, socks, strict=True):
            own.connect(sock.getsockname())
            client.connect(0.0)
            own.send(client.datagrams_to_send()[0])
        while endpoint.counters.listener.replies < len(clients):
            assert endpoint.turn(0.0) == []
        for client, own in zip(clients, socks, strict=True):
            client.receive_datagram(own.recv(100), 0.0)
            own.send(client.datagrams_to_send()[0])
        begun = 0
        while begun < len(clients):
            endpoint.turn(0.0)
            assert len(endpoint) > begun
            begun = len(endpoint)
            left = endpoint.timeout(0.0)
            assert left is not None
            assert (left == 0.0) == (begun < len(clients))
