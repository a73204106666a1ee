"""blocking.start_server(): what a server object of threads does."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from gnutls_cookie import GnuTLSError, PSKCredentials, blocking
from gnutls_cookie.blocking import Connection, DTLSServer
from gnutls_cookie.endpoint import Endpoint
from gnutls_cookie.locks import OwnedLock
from tests.support.common import forking, python_in_silence
from tests.support.peers import PSK_KEY, psk
from tests.support.servers import SECONDS, bounded, open_files


def echo(connection: Connection) -> None:
    """Send everything back."""
    for message in connection:
        connection.send(message)


def start(handler: Any = echo, **options: Any) -> DTLSServer:
    """A server on a port of its own."""
    return blocking.start_server(handler, "127.0.0.1", **({"credentials": psk()} | options))


def connect(server: DTLSServer) -> Connection:
    """A client of it."""
    return blocking.connect(*server.address[:2], credentials=psk())


def test_block_closes_the_server() -> None:
    """With goodbyes; no thread and no socket stays."""
    files = open_files()
    threads = threading.active_count()
    with start() as server:
        client = connect(server)
        client.send(b"hello")
        assert client.receive(SECONDS) == b"hello"
    assert client.receive(SECONDS) is None
    client.close()
    deadline = time.monotonic() + SECONDS
    while threading.active_count() > threads:  # one that has done its work may still be ending
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert open_files() <= files


def test_serve_forever_returns_when_another_thread_closes() -> None:
    """As of asyncio's."""
    server = start()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    with connect(server) as client:
        client.send(b"hello")
        assert client.receive(SECONDS) == b"hello"
    server.close()
    thread.join(SECONDS)
    assert not thread.is_alive()
    server.serve_forever()  # over already


def test_who_waits_for_the_end_is_not_woken_by_connections(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each waking is a change of threads, and a fight for the GIL."""
    woken: list[str] = []
    wait = OwnedLock.wait

    def counted(lock: OwnedLock, token: int, timeout: float | None = None) -> bool:
        told = wait(lock, token, timeout)
        woken.append(threading.current_thread().name)
        return told

    monkeypatch.setattr(OwnedLock, "wait", counted)
    server = start()
    thread = threading.Thread(target=server.serve_forever, name="waits")
    thread.start()
    for _ in range(3):
        with connect(server) as client:
            client.send(b"hello")
            assert client.receive(SECONDS) == b"hello"
    server.close()
    thread.join(SECONDS)
    assert woken.count("waits") <= 1


def test_handler_may_close_the_server_and_wait() -> None:
    """For all the others; it does not wait for itself."""
    done = threading.Event()

    def handler(connection: Connection) -> None:
        if connection.receive() == b"stop":
            server.close()
            server.wait_closed()
            done.set()

    server = start(handler, grace=SECONDS)
    idle, stopping = connect(server), connect(server)
    stopping.send(b"stop")
    with bounded():
        assert done.wait(SECONDS)
        server.wait_closed()
    for client in (idle, stopping):
        assert client.receive(SECONDS) is None
        client.close()


def test_socket_that_fails_closes_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error comes out where somebody waits, and every other socket is closed."""

    def fail(endpoint: Endpoint, now: float) -> Any:
        raise OSError(100, "Network is down")

    server = start()
    monkeypatch.setattr(Endpoint, "turn", fail)
    for wait in (server.wait_closed, server.serve_forever):
        with bounded(), pytest.raises(OSError, match="down"):
            wait()
    assert not server.is_serving()
    assert server.sockets[0].fileno() == -1


def test_server_that_never_served_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread could be started: an error, and no socket stays."""
    files = open_files()

    def starved(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", starved)
    server = start()
    with bounded(), pytest.raises(RuntimeError, match="thread"):
        server.wait_closed()
    assert open_files() <= files


def test_server_whose_thread_cannot_be_made_leaves_no_socket(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """start_server() raises."""
    files = open_files()

    def starved(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("gnutls_cookie.blocking.threads._thread.start_new_thread", starved)
    with pytest.raises(RuntimeError, match="thread"):
        start()
    assert open_files() <= files


def test_close_in_the_child_of_a_fork() -> None:
    """The parent's clients hear nothing."""
    program = """
import os, signal
from gnutls_cookie import PSKCredentials, blocking
credentials = PSKCredentials("sensor-1", b"0123456789abcdef")
def echo(connection):
    for message in connection:
        connection.send(message)
with blocking.start_server(echo, "127.0.0.1", credentials=credentials) as server:
    with blocking.connect(*server.address, credentials=credentials) as client:
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            server.close()
            server.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        client.send(b"still there")
        assert client.receive(20) == b"still there"
print("done")
"""
    assert python_in_silence(program, env=forking(), timeout=60) == "done\n"


def test_ctrl_c_in_serve_forever_says_goodbye() -> None:
    """KeyboardInterrupt comes out, after clients were told."""
    program = """
import os, signal, threading
from gnutls_cookie import PSKCredentials, blocking
credentials = PSKCredentials("sensor-1", b"0123456789abcdef")
ends = []
def client(address):
    connection = blocking.connect(*address, credentials=credentials)
    os.kill(os.getpid(), signal.SIGINT)
    ends.append(connection.receive(20))
    connection.close()
try:
    with blocking.start_server(list, "127.0.0.1", credentials=credentials) as server:
        thread = threading.Thread(target=client, args=(server.address,))
        thread.start()
        server.serve_forever()
except KeyboardInterrupt:
    thread.join(20)
    print(ends)
"""
    assert python_in_silence(program, timeout=60) == "[None]\n"


def test_many_threads_close_at_once() -> None:
    """And wait; each comes back."""
    server = start()
    client = connect(server)

    def end() -> None:
        server.close()
        server.wait_closed()

    threads = [threading.Thread(target=end) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
        assert not thread.is_alive()
    with contextlib.suppress(TimeoutError):
        assert client.receive(SECONDS) is None
    client.close()
    deadline = time.monotonic() + SECONDS
    while server.sockets[0].fileno() != -1:
        assert time.monotonic() < deadline


def test_lookup_that_waits_for_its_server_is_refused() -> None:
    """It runs in the thread that would have to end; close() is done once the lookup is over."""
    refused: list[str] = []
    served: list[Connection] = []

    def refuses(wait: Callable[[], object]) -> None:
        with pytest.raises(RuntimeError) as error:
            wait()
        refused.append(str(error.value))

    def lookup(identity: str) -> bytes:
        if served:
            (connection,) = served
            waits = (server.wait_closed, server.serve_forever, connection.wait_closed)
            calls = (connection.close, connection.receive, lambda: connection.send(b"x"))
            for call in (*calls, *waits):
                refuses(call)
            server.close()
        return PSK_KEY

    def handler(connection: Connection) -> None:
        served.append(connection)
        connection.wait_closed()

    with bounded():
        server = start(handler, credentials=PSKCredentials(lookup=lookup))
        first = connect(server)
        with contextlib.suppress(GnuTLSError):  # it is connected or not, as its last flight comes
            connect(server).close()
        assert first.receive(SECONDS) is None
        first.close()
        server.wait_closed()
    assert len(refused) == 6
    assert set(refused[3:]) == {"a PSK lookup cannot wait for the server that called it"}


def test_handler_that_works_on_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """The messages of one turn go to one handler after the other. One that does not come back, nor
    any other after it, neither keeps them nor its own last message."""
    go, done = threading.Event(), threading.Event()
    go.set()
    wait = Endpoint.wait

    def held(endpoint: Endpoint, timeout: float | None) -> None:
        assert go.wait(SECONDS)
        wait(endpoint, timeout)

    def handler(connection: Connection) -> None:
        for message in connection:
            connection.send(message)
            if message == b"stay":
                done.wait(SECONDS)

    monkeypatch.setattr(Endpoint, "wait", held)
    with start(handler) as server, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(server)) for _ in range(20)]
        try:
            for messages in ([b"go"] * 20, [b"stay"] + [b"go"] * 19, [b"late"] + [b"stay"] * 19):
                go.clear()  # so that all of them come in one turn
                for client, message in zip(clients, messages, strict=True):
                    client.send(message)
                go.set()
                is_last = messages[0] == b"late"  # to one that still stays
                for client, message in [*zip(clients, messages, strict=True)][is_last:]:
                    assert client.receive(SECONDS) == message
        finally:
            done.set()
        assert clients[0].receive(SECONDS) == b"late"
