"""The server with threads and the client that waits, on sockets of this machine."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from gnutls_cookie import KeyRing, blocking
from gnutls_cookie.blocking import Connection
from gnutls_cookie.client_endpoint import ClientEndpoint
from gnutls_cookie.endpoint import Endpoint
from gnutls_cookie.errors import (
    FatalAlertError,
)
from tests.support.common import forking, python_in_silence
from tests.support.peers import certificate, psk
from tests.support.servers import bounded, client_options, needs_proc, open_files

SECONDS = 60.0  # a bound, never a measure


def echo(connection: Connection) -> None:
    """Send everything back."""
    for message in connection:
        connection.send(message)


class Serving:
    """A server in a thread of its own."""

    def __init__(self, handler: Callable[[Connection], object], **options: Any) -> None:
        self.stop = threading.Event()
        self.address: Any = None
        self.error: BaseException | None = None
        self._started = threading.Event()
        if "sock" not in options:
            options = {"host": "127.0.0.1"} | options
        self._options: dict[str, Any] = {"credentials": [certificate(), psk()], **options}
        self._thread = threading.Thread(target=self._run, args=(handler,), name="server")

    def start(self) -> None:
        self._thread.start()
        assert self._started.wait(SECONDS)
        if self.error is not None:
            raise self.error

    def end(self) -> None:
        self.stop.set()
        self._thread.join(SECONDS)
        assert not self._thread.is_alive()

    def _run(self, handler: Callable[[Connection], object]) -> None:
        try:
            blocking.serve(handler, stop=self.stop, started=self._on_start, **self._options)
        except BaseException as error:
            self.error = error
        finally:
            self._started.set()

    def _on_start(self, address: Any) -> None:
        self.address = address
        self._started.set()


@contextmanager
def serving(handler: Callable[[Connection], object] = echo, **options: Any) -> Iterator[Serving]:
    """A server for the block; it must end without an error, and leave no thread."""
    before = threading.active_count()
    server = Serving(handler, **options)
    server.start()
    try:
        yield server
    finally:
        server.end()
    assert server.error is None
    deadline = time.monotonic() + SECONDS
    while threading.active_count() > before:  # a thread that has done its work may still be ending
        assert time.monotonic() < deadline
        time.sleep(0.01)


def connect(server: Serving, kind: str = "PSK", **options: Any) -> Connection:
    """A client of it."""
    host, port = server.address[:2]
    return blocking.connect(host, port, **client_options(kind, **options))


def echoes(connection: Connection, message: bytes = b"hello") -> bool:
    """Whether a message comes back."""
    connection.send(message)
    return connection.receive(SECONDS) == message


# --- the ordinary course --------------------------------------------------------------------------


def test_receive_without_waiting_takes_what_is_there() -> None:
    """A timeout of 0 looks at the socket, too: it may be asked again and again."""
    with serving() as server, connect(server) as client:
        client.send(b"hello")
        deadline = time.monotonic() + SECONDS
        message = None
        while message is None:
            assert time.monotonic() < deadline
            with contextlib.suppress(TimeoutError):
                message = client.receive(0)
        assert message == b"hello"


def test_threads_share_a_client() -> None:
    """Two wait, one sends: every message comes to one of them, once."""
    came: list[bytes] = []

    def reader(client: Connection) -> None:
        came.extend(client)

    with serving() as server:
        client = connect(server)
        readers = [threading.Thread(target=reader, args=(client,)) for _ in range(2)]
        for thread in readers:
            thread.start()
        for number in range(20):
            client.send(b"%d" % number)
        deadline = time.monotonic() + SECONDS
        while len(came) < 20:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        client.close()
        for thread in readers:
            thread.join(SECONDS)
            assert not thread.is_alive()
    assert sorted(came) == sorted(b"%d" % number for number in range(20))


@pytest.mark.parametrize("timeout", [-1, 0, 0.05])
def test_second_reader_has_its_own_timeout(timeout: float) -> None:
    """It does not wait for the first one, who waits forever."""
    with serving() as server:
        client = connect(server)
        first = threading.Thread(target=client.receive)
        first.start()
        time.sleep(0.05)  # for the first one to be at the socket
        with bounded(), pytest.raises(TimeoutError):
            client.receive(timeout)
        client.close()
        first.join(SECONDS)
        assert not first.is_alive()


# --- goodbye --------------------------------------------------------------------------------------


def test_close_of_the_client_ends_the_handler() -> None:
    """The loop over messages ends; receive() gives None as often as it is asked."""
    came: list[Any] = []

    def handler(connection: Connection) -> None:
        came.append(list(connection))
        came.append([connection.receive() for _ in range(2)])

    with serving(handler) as server:
        client = connect(server)
        client.send(b"one")
        client.send(b"two")
        client.close()
        client.close()
        deadline = time.monotonic() + SECONDS
        while len(came) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert came == [[b"one", b"two"], [None, None]]


def test_close_that_a_signal_has_struck_is_ended_by_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At any step: the socket is closed in the end, and nothing warns of it."""
    for step in "end", "flush", "close":
        with serving() as server:
            client = blocking.connect(*server.address, credentials=psk())
            todo = getattr(ClientEndpoint, step)
            struck = [KeyboardInterrupt]

            def strike(*arguments: object, todo: Any = todo, struck: Any = struck) -> object:
                if struck:
                    raise struck.pop()
                return todo(*arguments)

            with monkeypatch.context() as patched:
                patched.setattr(ClientEndpoint, step, strike)
                with pytest.raises(KeyboardInterrupt):
                    client.close()
            client.close()
            assert not client.is_open
            del client
            gc.collect()


def test_return_of_the_handler_says_goodbye() -> None:
    """The client gets what was sent before, and then the end."""
    with serving(lambda connection: connection.send(b"that was all")) as server:
        client = connect(server)
        assert list(client) == [b"that was all"]
        assert client.receive() is None
        assert client.session.peer_closed
        client.close()


def test_stop_says_goodbye_to_every_client() -> None:
    """Each sees close_notify, each handler returns by itself."""
    with serving() as server:
        clients = [connect(server) for _ in range(6)]
        assert all(echoes(client) for client in clients)
    for client in clients:
        assert client.receive(SECONDS) is None
        assert client.session.peer_closed
        client.close()


def test_handler_that_hangs_is_left_behind_after_grace(caplog: pytest.LogCaptureFixture) -> None:
    """serve() comes back, and says whom it left."""
    release = threading.Event()
    before = threading.active_count()
    server = Serving(lambda _: release.wait(SECONDS), grace=0.1)
    server.start()
    try:
        client = connect(server)
        with caplog.at_level(logging.WARNING, "gnutls_cookie"):
            server.end()
        assert client.receive(SECONDS) is None
        client.close()
        assert [record.message[:39] for record in caplog.records] == [
            "left behind: the handler in connection "
        ]
    finally:
        release.set()
    deadline = time.monotonic() + SECONDS
    while threading.active_count() > before:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_ctrl_c_says_goodbye() -> None:
    """KeyboardInterrupt comes out of serve(), after clients were told."""
    python_in_silence("""
import os, signal, threading
from gnutls_cookie import PSKCredentials, blocking
credentials = PSKCredentials("sensor-1", b"0123456789abcdef")
ends = []
def client(address):
    connection = blocking.connect(*address, credentials=credentials)
    os.kill(os.getpid(), signal.SIGINT)
    ends.append(connection.receive(20))
    connection.close()
def started(address):
    thread = threading.Thread(target=client, args=(address,))
    thread.start()
    ends.append(thread)
try:
    blocking.serve(list, "127.0.0.1", credentials=credentials, started=started)
except KeyboardInterrupt:
    thread = ends.pop(0)
    thread.join(20)
    assert ends == [None], ends
else:
    raise SystemExit("no KeyboardInterrupt")
""")


def test_handler_whose_connection_failed_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The error comes out of receive(), each time; what a peer gave up is not logged."""
    raised: list[Exception] = []

    def handler(connection: Connection) -> None:
        for _ in range(2):
            with contextlib.suppress(FatalAlertError):
                try:
                    connection.receive()
                except FatalAlertError as error:
                    raised.append(error)
                    raise
        connection.receive()

    with serving(handler) as server:
        client = connect(server)
        client.session._alert(2, 80)
        client.send(b"so that the alert goes out")
        deadline = time.monotonic() + SECONDS
        while len(raised) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        client.close()
    assert caplog.records == []


def test_no_thread_to_be_had_costs_one_client(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told goodbye, and the others are served on."""
    start = threading.Thread.start

    def starved(thread: threading.Thread) -> None:
        if thread.name.startswith("connection of"):
            raise RuntimeError("can't start new thread")
        start(thread)

    with serving() as server:
        early = connect(server)
        assert echoes(early)
        monkeypatch.setattr(threading.Thread, "start", starved)
        refused = connect(server)
        assert refused.receive(SECONDS) is None
        monkeypatch.undo()
        late = connect(server)
        assert echoes(late)
        assert echoes(early)
        for client in (early, refused, late):
            client.close()
    assert ["no thread for its handler" in record.message for record in caplog.records] == [True]


def test_ctrl_c_while_a_thread_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """KeyboardInterrupt comes out, not that such a thread cannot be joined."""
    start = threading.Thread.start
    before = threading.active_count()

    def interrupted(thread: threading.Thread) -> None:
        if thread.name.startswith("connection of"):
            threading.Timer(0.1, start, (thread,)).start()
            raise KeyboardInterrupt
        start(thread)

    server = Serving(echo)
    server.start()
    monkeypatch.setattr(threading.Thread, "start", interrupted)
    client = connect(server)
    assert client.receive(SECONDS) is None
    client.close()
    server.end()
    assert type(server.error) is KeyboardInterrupt
    deadline = time.monotonic() + SECONDS
    while threading.active_count() > before:
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Odd(BaseException):
    """Neither an Exception nor one of Python's own."""


@pytest.mark.parametrize(
    ("kind", "logged"),
    [
        (ZeroDivisionError, True),
        (Odd, True),
        (KeyboardInterrupt, True),
        (GeneratorExit, True),
        (SystemExit, False),
    ],
)
def test_whatever_a_handler_raises_ends_its_own_connection(
    kind: type[BaseException], logged: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """SystemExit in silence, as in any thread; everything else is logged."""

    def handler(connection: Connection) -> None:
        for message in connection:
            if message == b"fail":
                raise kind("of the handler")
            connection.send(message)

    with serving(handler) as server:
        one, other = connect(server), connect(server)
        one.send(b"fail")
        assert one.receive(SECONDS) is None
        assert echoes(other)
        one.close()
        other.close()
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [kind] * logged
    for record in caplog.records:
        assert "unhandled exception in the handler of" in record.message


def test_error_of_a_connection_has_a_traceback_of_its_own_each_time() -> None:
    """However often receive() raises."""
    lengths: list[int] = []

    def handler(connection: Connection) -> None:
        for _ in range(50):
            try:
                connection.receive(SECONDS)
            except FatalAlertError as error:
                number, trace = 0, error.__traceback__
                while trace is not None:
                    number, trace = number + 1, trace.tb_next
                lengths.append(number)

    with serving(handler) as server:
        client = connect(server)
        client.session._alert(2, 80)
        client.send(b"so that the alert goes out")
        deadline = time.monotonic() + SECONDS
        while len(lengths) < 50:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        client.close()
    assert len(set(lengths)) == 1


def test_client_whose_session_failed_says_so_each_time() -> None:
    """The server's alert comes out of every receive(), and is the cause of what send() raises."""

    def handler(connection: Connection) -> None:
        connection.session._alert(2, 80)
        connection.send(b"so that the alert goes out")

    with serving(handler) as server:
        client = connect(server)
        for _ in range(3):
            with pytest.raises(FatalAlertError, match="Internal error"):
                client.receive(SECONDS)
        with pytest.raises(ConnectionResetError) as caught:
            client.send(b"too late")
        assert isinstance(caught.value.__cause__, FatalAlertError)
        client.close()
        assert client.receive(SECONDS) is None


def test_goodbye_that_cannot_be_said_leaves_no_handler_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """serve() raises what went wrong, once its handlers have seen the end."""

    def fail(endpoint: Endpoint) -> None:
        raise MemoryError("no goodbye")

    before = threading.active_count()
    server = Serving(echo)
    server.start()
    client = connect(server)
    assert echoes(client)
    monkeypatch.setattr(Endpoint, "end_all", fail)
    server.end()
    assert isinstance(server.error, MemoryError)
    deadline = time.monotonic() + SECONDS
    while threading.active_count() > before:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    client.close()


# --- several threads ------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["client", "server"])
def test_no_reader_waits_while_a_message_is_there(side: str) -> None:
    """Four threads in receive() of one connection, messages singly and in bursts: all arrive."""
    came: list[bytes] = []
    there: list[Connection] = []

    def read(connection: Connection) -> None:
        came.extend(connection)

    def handler(connection: Connection) -> None:
        there.append(connection)
        if side == "server":
            readers = [threading.Thread(target=read, args=(connection,)) for _ in range(3)]
            for thread in readers:
                thread.start()
            read(connection)
            for thread in readers:
                thread.join(SECONDS)
        else:
            echo(connection)

    with serving(handler) as server:
        client = connect(server)
        readers = [threading.Thread(target=read, args=(client,)) for _ in range(4)]
        if side == "client":
            for thread in readers:
                thread.start()
        sent = 0
        for burst in (1, 1, 20, 1, 50, 3):
            for _ in range(burst):
                client.send(b"%d" % sent)
                sent += 1
            deadline = time.monotonic() + SECONDS
            while len(came) < sent:
                assert time.monotonic() < deadline, came
                time.sleep(0.001)
        client.close()
        if side == "client":
            for thread in readers:
                thread.join(SECONDS)
                assert not thread.is_alive()
    assert sorted(came) == sorted(b"%d" % number for number in range(sent))


def test_cpu_of_an_echo_does_not_grow_with_idle_connections() -> None:
    """CPU time of this process for 200 echoes, beside none and beside 150 that are idle."""

    def cost(client: Connection) -> float:
        before = time.process_time()
        for _ in range(200):
            assert echoes(client)
        return time.process_time() - before

    with serving() as server:
        client = connect(server)
        cost(client)
        alone = min(cost(client) for _ in range(3))
        idle = [connect(server) for _ in range(150)]
        crowded = min(cost(client) for _ in range(3))
        for one in (client, *idle):
            one.close()
    assert crowded < 4 * alone


# --- fork -----------------------------------------------------------------------------------------

FORK = """
import os, signal, sys, threading, time
from gnutls_cookie import PSKCredentials, blocking
credentials = PSKCredentials("sensor-1", b"0123456789abcdef")
served, busy, stop, addresses = [], [], threading.Event(), []
def handler(connection):
    served.append(connection)
    for message in connection:
        connection.send(message)
def work(client):
    while True:
        try:
            client.send(b"x")
        except ConnectionError:  # the goodbye came with the last echo
            assert stop.is_set()
            return
        if client.receive(20) != b"x":
            assert stop.is_set()
            return
options = {"credentials": credentials, "stop": stop, "started": addresses.append}
server = threading.Thread(target=blocking.serve, args=(handler, "127.0.0.1"), kwargs=options)
server.start()
while not addresses:
    time.sleep(0.01)
clients = [blocking.connect(*addresses[0], credentials=credentials) for _ in range(3)]
waiting = threading.Thread(target=clients[0].receive)
waiting.start()
threads = [threading.Thread(target=work, args=(client,)) for client in clients[1:]]
for thread in threads:
    thread.start()
for turn in range(20):
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        for connection in [*clients, *served]:
            connection.close()
        served.clear()
        clients.clear()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, turn
assert waiting.is_alive() and all(thread.is_alive() for thread in threads)
clients[0].send(b"still there")
waiting.join(20)
assert not waiting.is_alive()
stop.set()
for thread in [*threads, server]:
    thread.join(20)
    assert not thread.is_alive()
for client in clients:
    client.close()
print("done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_child_that_closes_what_it_inherited_does_not_hang() -> None:
    """Beside threads that send and wait all the time; the peers of the parent hear nothing."""
    assert python_in_silence(FORK, env=forking(), timeout=120) == "done\n"


# --- how it is started ----------------------------------------------------------------------------


def test_keys_may_be_rotated_while_it_runs() -> None:
    """The ring that was given is the one in use."""
    ring = KeyRing.random()
    with serving(keys=ring) as server, connect(server) as early:
        for _ in range(3):
            ring.rotate()
            with connect(server) as late:
                assert echoes(late)
        assert echoes(early)


@needs_proc
def test_serve_that_fails_leaves_no_socket() -> None:
    """What `started` raises comes out, and what was opened is closed."""
    before = open_files()
    with pytest.raises(ZeroDivisionError):
        blocking.serve(echo, "127.0.0.1", credentials=psk(), started=lambda _: 1 / 0)
    gc.collect()
    assert open_files() <= before


# --- connect that fails ---------------------------------------------------------------------------


@needs_proc
def test_client_that_is_dropped_is_closed_with_a_warning() -> None:
    """By the reference count alone."""
    with serving() as server:
        before = open_files()
        client = connect(server)
        assert echoes(client)
        watched = weakref.ref(client.session)
        gc.collect()
        gc.disable()
        try:
            with pytest.warns(ResourceWarning, match="unclosed DTLS connection to"):
                del client
            assert watched() is None
        finally:
            gc.enable()
        assert open_files() <= before


def test_client_in_a_cycle_is_collected() -> None:
    """In whatever order: what the session has in C may be freed before the client."""
    python_in_silence(
        """
import gc, threading, time, warnings
from gnutls_cookie import PSKCredentials, blocking
warnings.simplefilter("ignore")
credentials = PSKCredentials("sensor-1", b"0123456789abcdef")
addresses, stop = [], threading.Event()
options = {"credentials": credentials, "stop": stop, "started": addresses.append}
server = threading.Thread(target=blocking.serve, args=(list, "127.0.0.1"), kwargs=options)
server.start()
while not addresses:
    time.sleep(0.01)
class Holder:
    pass
for _ in range(20):
    holder = Holder()
    holder.connection = blocking.connect(*addresses[0], credentials=credentials)
    holder.connection.holder = holder
    del holder
    gc.collect()
stop.set()
server.join(20)
"""
    )


# --- memory ---------------------------------------------------------------------------------------


def test_sessions_of_closed_connections_are_freed() -> None:
    """On both sides; the server goes on, and its idle timers are far away."""
    watched: list[Callable[[], object]] = []

    def handler(connection: Connection) -> None:
        watched.append(weakref.ref(connection.session))
        echo(connection)

    with serving(handler) as server:
        for _ in range(5):
            with connect(server) as client:
                assert echoes(client)
                watched.append(weakref.ref(client.session))
        del client
        deadline = time.monotonic() + SECONDS
        while any(one() is not None for one in watched):
            assert time.monotonic() < deadline, watched
            gc.collect()
            time.sleep(0.01)
    assert len(watched) == 10
