"""blocking's servers: who takes turns at the socket, its own thread or those of handlers."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from gnutls_cookie import Connected, CookieGate, KeyRing, PSKCredentials, blocking
from gnutls_cookie.blocking import Connection, DTLSServer, driver
from gnutls_cookie.endpoint import Endpoint
from gnutls_cookie.locks import OwnedLock
from gnutls_cookie.server import Event
from tests.support.common import forking, python_in_silence, udp_socket
from tests.support.peers import PSK_KEY, psk
from tests.support.servers import SECONDS, bounded

has_gil: Callable[[], bool] = getattr(sys, "_is_gil_enabled", lambda: True)
pytestmark = pytest.mark.skipif(not has_gil(), reason="handlers are woken all at once")

turns: list[str] = []  # the names of the threads that took them


@pytest.fixture(autouse=True)
def slow_machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Messages of one client come soon, however busy the machine is; and it is seen who turns."""
    turn, lead = Endpoint.turn, Endpoint.lead

    def noted(endpoint: Endpoint, now: float) -> Any:
        turns.append(threading.current_thread().name)
        return turn(endpoint, now)

    def noted_if_one_was(endpoint: Endpoint, *arguments: Any) -> Any:
        events = lead(endpoint, *arguments)
        if events is not None:
            turns.append(threading.current_thread().name)
        return events

    monkeypatch.setattr(driver, "_LEAD_SECONDS", 0.3)
    monkeypatch.setattr(Endpoint, "turn", noted)
    monkeypatch.setattr(Endpoint, "lead", noted_if_one_was)
    turns.clear()
    with bounded():
        yield


def start(handler: Callable[[Connection], object], **options: Any) -> DTLSServer:
    """A server on a port of its own."""
    return blocking.start_server(handler, "127.0.0.1", **({"credentials": psk()} | options))


def echo(connection: Connection) -> None:
    """Send everything back."""
    for message in connection:
        connection.send(message)


def connect(server: DTLSServer) -> Connection:
    """A client of it."""
    return blocking.connect(*server.address[:2], credentials=psk())


def ask(client: Connection, message: bytes = b"hello") -> None:
    """Send a message, and wait for its echo."""
    client.send(message)
    assert client.receive(SECONDS) == message


def ask_until_its_handler_turns(client: Connection) -> None:
    """After some messages; where a handler has held up others, after some time."""
    handler = f"connection of {client.get_extra_info('sockname')}"
    del turns[:]
    deadline = time.monotonic() + SECONDS
    while turns[-5:] != [handler] * 5:
        assert time.monotonic() < deadline, turns[-20:]
        ask(client)


def test_messages_of_one_client_change_no_thread() -> None:
    """Its handler takes them from the socket itself, as long as they come; and so for the next
    client, and for two at once."""
    with start(echo) as server, connect(server) as one, connect(server) as other:
        for client in (one, other, one):
            ask_until_its_handler_turns(client)
        for _ in range(50):
            one.send(b"one")
            other.send(b"other")
            assert one.receive(SECONDS) == b"one"
            assert other.receive(SECONDS) == b"other"


def test_lookups_stay_in_the_thread_of_the_server() -> None:
    """Clients connect while another one's handler takes turns."""
    called: list[str] = []

    def lookup(identity: str) -> bytes:
        called.append(threading.current_thread().name)
        return PSK_KEY

    over = threading.Event()

    def go_on(client: Connection) -> None:
        while not over.is_set():
            ask(client)

    with start(echo, credentials=PSKCredentials(lookup=lookup)) as server, ExitStack() as stack:
        first = stack.enter_context(connect(server))
        ask_until_its_handler_turns(first)
        thread = threading.Thread(target=go_on, args=(first,))
        thread.start()
        try:
            for _ in range(5):
                ask(stack.enter_context(connect(server)))
        finally:
            over.set()
            thread.join(SECONDS)
        ask_until_its_handler_turns(first)
        assert set(called) == {f"server of {server.address}"}


def test_handler_that_works_on_leaves_the_socket() -> None:
    """Others are served meanwhile, and what it sent before has gone out."""
    done = threading.Event()

    def handler(connection: Connection) -> None:
        for message in connection:
            connection.send(message)
            if message == b"stay":
                done.wait(SECONDS)

    with start(handler) as server, connect(server) as one, connect(server) as other:
        for _ in range(3):
            ask_until_its_handler_turns(one)
            ask(one, b"stay")
            ask(other)
            with connect(server) as another:
                ask(another)
            done.set()
            ask(one)
            done.clear()
        done.set()


def test_server_closes_while_a_handler_takes_turns() -> None:
    """The handler sees the end."""
    ended = threading.Event()

    def handler(connection: Connection) -> None:
        echo(connection)
        ended.set()

    with connect(server := start(handler)) as client:
        ask_until_its_handler_turns(client)
        server.close()
        server.wait_closed()
        assert ended.is_set()
        assert client.receive(SECONDS) is None


def test_socket_that_fails_in_the_turn_of_a_handler_closes_the_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As in that of the server's own thread."""

    def fail(endpoint: Endpoint, *arguments: Any) -> Any:
        raise OSError(100, "Network is down")

    server = start(echo)
    with connect(server) as client:
        ask_until_its_handler_turns(client)
        monkeypatch.setattr(Endpoint, "lead", fail)
        client.send(b"last")
        with pytest.raises(OSError, match="down"):
            server.wait_closed()


def test_child_of_a_fork_leaves_the_socket_to_its_parent() -> None:
    """Also where the handler that forks takes turns there."""
    program = """
import os, signal, threading, time
from gnutls_cookie import Connected, CookieGate, KeyRing, PSKCredentials, blocking
from gnutls_cookie.blocking import driver
from gnutls_cookie.endpoint import Endpoint
from gnutls_cookie.locks import OwnedLock
from gnutls_cookie.server import Event
driver._LEAD_SECONDS = 0.3
lead, turned = Endpoint.lead, []
def noted(endpoint, *arguments):
    events = lead(endpoint, *arguments)
    if events is not None:
        turned[:] = [threading.current_thread()]
    return events
Endpoint.lead = noted
credentials = PSKCredentials("sensor-1", b"0123456789abcdef")
children = []
def wait(connection):
    try:
        connection.receive(0.5)
    except TimeoutError:
        os._exit(0)
    finally:
        os._exit(1)
def handler(connection):
    for message in connection:
        if turned == [threading.current_thread()] and not children:
            child = os.fork()
            if child == 0:
                signal.alarm(20)
                thread = threading.Thread(target=wait, args=(connection,))
                thread.start()
                thread.join()
            children.append(child)
        connection.send(message)
with blocking.start_server(handler, "127.0.0.1", credentials=credentials) as server:
    with blocking.connect(*server.address, credentials=credentials) as client:
        deadline, ended = time.monotonic() + 20, (0, 0)
        while ended == (0, 0) and time.monotonic() < deadline:
            client.send(b"hello")
            assert client.receive(20) == b"hello"
            if children:
                ended = os.waitpid(children[0], os.WNOHANG)
assert ended == (children[0], 0), ended
print("done")
"""
    assert python_in_silence(program, env=forking(), timeout=60) == "done\n"


class Refusing:
    """A receiver that raises."""

    def on_message(self, message: bytes) -> None:
        """As of Receiver."""
        raise ArithmeticError


def test_turn_that_waits_takes_the_lock_behind_the_wait() -> None:
    """Others may send meanwhile; where nothing came it is not taken at all."""
    lock = OwnedLock()
    found: list[bool] = []

    def look() -> None:
        token = lock.token()
        try:
            found.append(lock.take(token, 0))
        finally:
            lock.give(token)

    def in_thread(function: Callable[[], object]) -> threading.Thread:
        thread = threading.Thread(target=function)
        thread.start()
        return thread

    def lead(wait_ms: int) -> list[Event] | None:
        token = lock.token()
        try:
            events = endpoint.lead(lock, token, wait_ms, time.monotonic())
            in_thread(look).join(SECONDS)
            return events
        finally:
            lock.give(token)

    with udp_socket() as sock:
        sock.setblocking(False)
        endpoint = Endpoint(sock, CookieGate(KeyRing.random()), psk())
        try:
            looking = in_thread(look)
            assert lead(200) is None
            looking.join(SECONDS)
            assert found == [True, True]
            address = endpoint.address[:2]
            clients: list[Connection] = []
            thread = in_thread(
                lambda: clients.append(blocking.connect(*address, credentials=psk()))
            )
            events: list[Event] = []
            while not any(isinstance(event, Connected) for event in events):
                found.clear()
                events = lead(1000) or []
            assert found == [False]
            thread.join(SECONDS)
            # What a receiver raises comes out, and the next turns are as ever.
            connection = events[0].connection
            connection.receiver = Refusing()
            for message in (b"refused", b"taken"):
                clients[0].send(message)
                if message == b"refused":
                    with pytest.raises(ArithmeticError):
                        lead(5000)
                    connection.receiver = None
            while not connection.has_messages:
                assert lead(5000) is not None
            assert connection.receive() == b"taken"
            clients[0].close()
        finally:
            endpoint.close()
