"""The server and the client for asyncio, on sockets of this machine."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import socket
import sys
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from gnutls_cookie import GnuTLSError, KeyRing, PSKCredentials, aio
from gnutls_cookie.aio import Connection, DTLSServer
from gnutls_cookie.aio.waiter import Steps
from gnutls_cookie.client_endpoint import ClientEndpoint
from gnutls_cookie.endpoint import Endpoint
from gnutls_cookie.errors import (
    CertificateVerificationError,
    FatalAlertError,
)
from gnutls_cookie.handles import HandleTable
from gnutls_cookie.server import CloseReason
from tests.support.common import (
    python,
    python_in_silence,
    python_peer,
    udp_socket,
)
from tests.support.peers import (
    IDENTITY,
    PSK_KEY,
    SocketClient,
    certificate,
    client_of,
    drive,
    psk,
    trusting,
)
from tests.support.servers import (
    asynchronous,
    client_options,
    echo,
    echo_or_fail,
    heard_errors,
    needs_proc,
    open_files,
)


async def start(
    handler: aio.Handler = echo, host: str | None = "127.0.0.1", **options: Any
) -> DTLSServer:
    """A server with both kinds of credentials on a port of its own."""
    return await aio.start_server(
        handler, host, **({"credentials": [certificate(), psk()]} | options)
    )


async def connect(server: DTLSServer, kind: str = "PSK", **options: Any) -> Connection:
    """A client of it."""
    host, port = server.address[:2]
    return await aio.connect(host, port, **client_options(kind, **options))


async def echoes(connection: Connection, message: bytes = b"hello") -> bool:
    """Whether a message comes back."""
    await connection.send(message)
    return await connection.receive() == message


# --- the ordinary course --------------------------------------------------------------------------


@asynchronous
async def test_receive_may_be_given_a_time() -> None:
    """It ends with TimeoutError, and nothing is lost for the next."""
    async with await start() as server, await connect(server) as client:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(client.receive(), 0.05)
        assert await echoes(client)


@asynchronous
async def test_many_tasks_may_send() -> None:
    """On one connection; each message arrives whole."""
    async with await start() as server, await connect(server) as client:
        await asyncio.gather(*(client.send(b"%d" % number) for number in range(50)))
        came = {await client.receive() for _ in range(50)}
        assert came == {b"%d" % number for number in range(50)}


# --- goodbye --------------------------------------------------------------------------------------


@asynchronous
async def test_close_of_the_client_ends_the_handler() -> None:
    """`async for` ends, receive() gives None as often as it is asked, what came before is there."""
    came: asyncio.Queue[Any] = asyncio.Queue()

    async def handler(connection: Connection) -> None:
        await connection.wait_closed()
        came.put_nowait([message async for message in connection])
        came.put_nowait([await connection.receive() for _ in range(2)])
        came.put_nowait(connection.is_open)

    async with await start(handler) as server:
        client = await connect(server)
        await client.send(b"one")
        await client.send(b"two")
        client.close()
        client.close()
        assert await came.get() == [b"one", b"two"]
        assert await came.get() == [None, None]
        assert await came.get() is False
        assert server.counters.server.closed[CloseReason.PEER] == 1


@asynchronous
async def test_return_of_the_handler_says_goodbye() -> None:
    """The client gets what was sent before, and then the end."""

    async def handler(connection: Connection) -> None:
        await connection.send(b"that was all")

    async with await start(handler) as server:
        client = await connect(server)
        assert [message async for message in client] == [b"that was all"]
        assert await client.receive() is None
        assert not client.is_open
        assert client.session.peer_closed
        assert server.counters.server.closed[CloseReason.LOCAL] == 1


@asynchronous
async def test_client_that_does_not_read_sees_the_goodbye() -> None:
    """wait_closed() needs nobody who receives."""
    async with await start(grace=1.0) as server:
        client = await connect(server)
        await client.send(b"hello")
        server.close()
        await client.wait_closed()
        assert not client.is_open
        assert await client.receive() in (b"hello", None)


@asynchronous
async def test_shutdown_says_goodbye_to_every_client() -> None:
    """Each sees close_notify, handlers see the end and return by themselves, sockets are closed."""
    ended: list[Any] = []

    async def handler(connection: Connection) -> None:
        async for _ in connection:
            pass
        ended.append(connection.address)

    server = await start(handler)
    clients = await asyncio.gather(*(connect(server) for _ in range(10)))
    server.close()
    server.close()
    await server.wait_closed()
    assert len(set(ended)) == 10
    for client in clients:
        assert await client.receive() is None
        assert client.session.peer_closed
    assert [sock.fileno() for sock in server.sockets] == [-1]
    assert server.counters.server.closed[CloseReason.LOCAL] == 10
    assert server.counters.server.sessions == 0
    assert server.counters.listener.received >= 30
    assert repr(server) == "<DTLSServer closed>"


@asynchronous
async def test_cancelled_serve_forever_closes_the_server() -> None:
    """And its clients hear of it."""
    server = await start()
    task = asyncio.create_task(server.serve_forever())
    client = await connect(server)
    assert await echoes(client)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await client.receive() is None
    assert server.sockets[0].fileno() == -1


@asynchronous
async def test_serve_forever_ends_with_close() -> None:
    """It returns."""
    server = await start()
    task = asyncio.create_task(server.serve_forever())
    await asyncio.sleep(0)
    server.close()
    await task


@asynchronous
async def test_handler_that_hangs_is_cancelled_after_grace() -> None:
    """Not before it had its time, and it can clean up."""
    seen: list[str] = []

    async def handler(connection: Connection) -> None:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    server = await start(handler, grace=0.1)
    client = await connect(server)
    await asyncio.sleep(0.01)
    server.close()
    assert seen == []
    await server.wait_closed()
    assert seen == ["cancelled"]
    await client.wait_closed()


@asynchronous
async def test_handler_that_takes_no_notice_is_left_behind() -> None:
    """wait_closed() comes back nevertheless, and spins at nothing."""
    release, turns = asyncio.Event(), 0

    async def handler(connection: Connection) -> None:
        nonlocal turns
        while not release.is_set():
            turns += 1
            with contextlib.suppress(asyncio.CancelledError):
                await release.wait()

    server = await start(handler, grace=0.1)
    client = await connect(server)
    await asyncio.sleep(0.01)
    server.close()
    await server.wait_closed()
    assert turns == 2
    release.set()
    await client.wait_closed()
    await asyncio.sleep(0.01)


@asynchronous
async def test_handler_may_close_the_server_and_wait() -> None:
    """For all the others; it does not wait for itself."""
    done = asyncio.Event()

    async def handler(connection: Connection) -> None:
        if await connection.receive() == b"stop":
            server.close()
            await server.wait_closed()
            done.set()

    server = await start(handler, grace=60.0)
    idle, stopping = await connect(server), await connect(server)
    await stopping.send(b"stop")
    await done.wait()
    assert await idle.receive() is None
    assert await stopping.receive() is None


@asynchronous
async def test_handler_that_gives_nothing_to_await_is_named_once_per_connection() -> None:
    """A plain def; one that returns an awaitable is a handler."""
    plain: Any = lambda connection: 5  # noqa: E731
    with heard_errors() as told:
        async with await start(plain) as server:
            client = await connect(server)
            assert await client.receive() is None
    assert [type(context["exception"]) for context in told] == [TypeError]
    assert "handler must return an awaitable" in str(told[0]["exception"])
    future: Any = lambda connection: asyncio.ensure_future(echo_or_fail(connection))  # noqa: E731
    with heard_errors() as told:
        async with await start(future) as server:
            client = await connect(server)
            assert await echoes(client)
            client.close()
    assert told == []


@asynchronous
async def test_handler_whose_connection_failed_is_not_reported() -> None:
    """A peer that gave up is not the fault of the program: it is counted."""
    raised: asyncio.Queue[Exception] = asyncio.Queue()

    async def handler(connection: Connection) -> None:
        try:
            await connection.receive()
        except GnuTLSError as error:
            raised.put_nowait(error)
            raise

    async with await start(handler) as server:
        client = await connect(server)
        client.session._alert(2, 80)
        await client.send(b"so that the alert goes out")
        assert isinstance(await raised.get(), FatalAlertError)
        assert server.counters.server.closed[CloseReason.FAILED] == 1
        client.close()


@asynchronous
async def test_traceback_of_a_failed_connection_does_not_grow() -> None:
    """However often receive() raises, in however many tasks: each has an error of its own."""

    def frames(error: BaseException) -> int:
        number, trace = 0, error.__traceback__
        while trace is not None:
            number, trace = number + 1, trace.tb_next
        return number

    served: asyncio.Queue[Connection] = asyncio.Queue()

    async def handler(connection: Connection) -> None:
        served.put_nowait(connection)
        await connection.wait_closed()

    async def error_of(connection: Connection) -> BaseException:
        with pytest.raises(FatalAlertError) as caught:
            await connection.receive()
        return caught.value

    async with await start(handler) as server:
        client = await connect(server)
        client.session._alert(2, 80)
        await client.send(b"so that the alert goes out")
        there = await served.get()
        await there.wait_closed()
        errors = [await error_of(there) for _ in range(100)]
        assert {frames(error) for error in errors} == {frames(errors[0])}
        assert len({id(error) for error in errors}) == 100
        assert {str(error) for error in errors} == {str(errors[0])}
        with pytest.raises(ConnectionResetError) as caught:
            await there.send(b"too late")
        assert isinstance(caught.value.__cause__, FatalAlertError)
        client.close()


class Odd(BaseException):
    """Neither an Exception nor one of Python's own."""


@pytest.mark.parametrize("kind", [Odd, MemoryError, RecursionError, asyncio.CancelledError])
@asynchronous
async def test_whatever_a_handler_raises_ends_its_own_connection(kind: type[BaseException]) -> None:
    """The loop's exception handler is told, of what is no Exception, too. A CancelledError is
    nothing to tell of."""

    async def handler(connection: Connection) -> None:
        if await connection.receive() == b"fail":
            raise kind("of the handler")
        await connection.send(b"fine")

    with heard_errors() as told:
        async with await start(handler) as server:
            one, other = await connect(server), await connect(server)
            await one.send(b"fail")
            assert await one.receive() is None
            await other.send(b"hello")
            assert await other.receive() == b"fine"
            assert await other.receive() is None
    expected = [] if kind is asyncio.CancelledError else [kind]
    assert [type(context["exception"]) for context in told] == expected
    for context in told:
        assert context["message"] == "unhandled exception in a connection's handler"
        assert isinstance(context["connection"], Connection)


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("eager", [False, True])
def test_system_exit_of_a_handler_ends_the_loop(kind: type[BaseException], eager: bool) -> None:
    """As of any task; the server says goodbye as it is closed."""
    if eager and sys.version_info < (3, 12):
        pytest.skip("eager tasks are of Python 3.12")
    client: Connection | None = None

    async def handler(connection: Connection) -> None:
        raise kind

    async def main() -> None:
        nonlocal client
        if eager:
            factory = getattr(asyncio, "eager_task_factory")  # noqa: B009
            asyncio.get_running_loop().set_task_factory(factory)
        async with await start(handler) as server:
            client = await connect(server)
            await asyncio.wait_for(client.wait_closed(), 20)
            await asyncio.sleep(20)

    with pytest.raises(kind):
        asyncio.run(main())
    if client is not None:
        client.close()


@asynchronous
async def test_handler_for_which_no_task_can_be_made() -> None:
    """Its client hears goodbye, and the others are served."""
    loop = asyncio.get_running_loop()
    fail = [True]

    def factory(loop: Any, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        if isinstance(coroutine, Steps) and fail:
            raise MemoryError(fail.pop())
        return asyncio.Task(coroutine, loop=loop, **options)

    with heard_errors() as told:
        async with await start() as server:
            loop.set_task_factory(factory)
            early = await connect(server)
            assert await early.receive() is None
            async with await connect(server) as late:
                assert await echoes(late)
            loop.set_task_factory(None)
    assert [type(context["exception"]) for context in told] == [MemoryError]


@asynchronous
async def test_a_turn_lends_lookups_only_while_a_handshake_is_under_way() -> None:
    """Else nothing is lent to C."""
    lent: list[str] = []

    def lending(table: Any, value: object, function: Any, *arguments: Any) -> Any:
        lent.append(function.__name__)
        return lend(table, value, function, *arguments)

    lend = HandleTable.lending
    asked = PSKCredentials(lookup={IDENTITY: PSK_KEY})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HandleTable, "lending", lending)
        async with await start(credentials=asked) as server, await connect(server) as client:
            handshake = lent.count("gcookie_serve_turn")
            for _ in range(5):
                assert await echoes(client)
            assert 0 < handshake == lent.count("gcookie_serve_turn")


# --- how it is started ----------------------------------------------------------------------------


@asynchronous
async def test_client_that_comes_back_from_the_same_port() -> None:
    """Its new handshake makes a new connection, and the old handler sees the end."""
    ended: asyncio.Queue[int] = asyncio.Queue()
    count = 0

    async def handler(connection: Connection) -> None:
        nonlocal count
        count += 1
        mine = count
        await echo(connection)
        ended.put_nowait(mine)

    def lives(sock: socket.socket) -> None:
        client = SocketClient(sock, client_of("PSK"))
        drive([client], lambda: client.session.established)
        client.session.send(b"hello")
        drive([client], lambda: client.received == [b"hello"])

    async with await start(handler) as server:
        with udp_socket() as sock:
            sock.connect(server.address)
            await asyncio.to_thread(lives, sock)
            await asyncio.to_thread(lives, sock)
            assert await ended.get() == 1
            assert server.counters.server.closed[CloseReason.REPLACED] == 1
            assert server.counters.server.sessions == 1


# --- limits on a running server -------------------------------------------------------------------


@asynchronous
async def test_handler_that_does_not_read_loses_messages_and_no_more() -> None:
    """max_queue of them wait; more are dropped and counted."""
    go = asyncio.Event()
    came: asyncio.Queue[Any] = asyncio.Queue()

    async def handler(connection: Connection) -> None:
        await go.wait()
        came.put_nowait([message async for message in connection])

    async with await start(handler, max_queue=3) as server:
        client = await connect(server)
        for number in range(8):
            await client.send(b"%d" % number)
        while server.counters.server.messages_received < 8:
            await asyncio.sleep(0.01)
        client.close()
        go.set()
        assert await came.get() == [b"0", b"1", b"2"]
        assert server.counters.server.messages_dropped == 5


# --- changed while it runs ------------------------------------------------------------------------


@asynchronous
async def test_keys_changed_in_mid_exchange_cost_one_round_trip() -> None:
    """A client with a cookie of the former key is challenged once more, and completes."""
    async with await start() as server:
        with udp_socket() as sock:
            sock.connect(server.address)
            client = SocketClient(sock, client_of("PSK", retransmit_timeout=2.0))
            client.go_on()
            await asyncio.to_thread(client.readable)  # brings the cookie back, unread till we wait
            server.keys = KeyRing.random()
            await asyncio.to_thread(drive, [client], lambda: client.session.established)
            assert client.challenges in (1, 2)  # 1 where the loop was faster than we
            assert server.counters.gate.challenged == client.challenges


# --- connect that fails ---------------------------------------------------------------------------


@needs_proc
@asynchronous
async def test_cancelled_connect_leaves_no_socket() -> None:
    """No descriptor, no timer, no reader; ResourceWarning is an error here."""
    with udp_socket() as silent:
        before = open_files()
        host, port = silent.getsockname()
        task = asyncio.create_task(aio.connect(host, port, credentials=psk()))
        await asyncio.to_thread(silent.recv, 2000)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gc.collect()
        assert open_files() <= before


# --- turns ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["client", "server"])
@asynchronous
async def test_task_that_only_sends_leaves_others_their_turn(side: str) -> None:
    """Turns of another task are counted, not time."""
    turns = 0
    counts: asyncio.Queue[int] = asyncio.Queue()

    async def flood(connection: Connection) -> None:
        before = turns
        for _ in range(640):
            await connection.send(b"x")
        counts.put_nowait(turns - before)

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with await start(flood if side == "server" else echo) as server:
        task = asyncio.create_task(others())
        client = await connect(server)
        if side == "client":
            await flood(client)
        assert await counts.get() >= 10
        task.cancel()
        client.close()


@asynchronous
async def test_cancelled_readers_leave_nothing_behind() -> None:
    """On either side: neither memory nor wake-ups, and the next message goes to who still waits."""
    served: asyncio.Queue[Connection] = asyncio.Queue()

    async def handler(connection: Connection) -> None:
        served.put_nowait(connection)
        await connection.wait_closed()

    async with await start(handler) as server:
        client = await connect(server)
        there = await served.get()
        for one, other in ((client, there), (there, client)):
            gc.collect()
            before = sum(isinstance(each, asyncio.Future) for each in gc.get_objects())
            for _ in range(300):
                reader = asyncio.ensure_future(one.receive())
                await asyncio.sleep(0)
                reader.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await reader
            del reader
            gc.collect()
            after = sum(isinstance(each, asyncio.Future) for each in gc.get_objects())
            assert after - before < 30
            last = asyncio.ensure_future(one.receive())
            await asyncio.sleep(0)
            await other.send(b"hello")
            assert await last == b"hello"
        client.close()


@pytest.mark.parametrize(("size", "number", "most"), [(10, 400, 256), (16_000, 150, 65)])
@asynchronous
async def test_queue_of_a_client_is_bounded(size: int, number: int, most: int) -> None:
    """In messages and in bytes: one that does not read loses what is beyond, and no more."""

    async def handler(connection: Connection) -> None:
        for at in range(number):
            await connection.send(at.to_bytes(4, "big") + bytes(size - 4))
            if at % 4 == 0:
                await asyncio.sleep(0.001)  # for the client to take them from its socket

    mtu = 65_507 if size > 1000 else None
    async with await start(handler, mtu=mtu) as server:
        client = await connect(server, mtu=mtu)
        await client.wait_closed()
        came = [message async for message in client]
    assert most / 2 < len(came) <= most
    assert [int.from_bytes(message[:4], "big") for message in came[:20]] == list(range(20))


@asynchronous
async def test_client_that_reads_loses_nothing() -> None:
    """The bound in bytes is of what waits, not of what ever came: 2 MB pass."""
    async with await start(mtu=65_507) as server, await connect(server, mtu=65_507) as client:
        for number in range(130):
            assert await echoes(client, number.to_bytes(4, "big") + bytes(16_000))


# --- what nobody closes ---------------------------------------------------------------------------


@asynchronous
async def test_client_that_is_dropped_is_closed_with_a_warning() -> None:
    """By the reference count alone: no reader, timer or callback of the loop keeps it."""
    async with await start() as server:
        files = open_files()
        client = await connect(server)
        assert await echoes(client)
        watched = weakref.ref(client.session)
        gc.collect()
        gc.disable()
        try:
            with pytest.warns(ResourceWarning, match="unclosed DTLS connection to"):
                del client
            assert watched() is None
        finally:
            gc.enable()
        assert open_files() <= files
        async with await connect(server) as other:  # on the same descriptor, most likely
            assert await echoes(other)


DROPPED = """
import asyncio, os, weakref
from gnutls_cookie import PSKCredentials, aio
credentials = PSKCredentials("sensor-1", b"0123456789abcdef")
def files():
    return set(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else set()
async def echo(connection):
    async for message in connection:
        await connection.send(message)
async def main():
    async with await aio.start_server(echo, "127.0.0.1", credentials=credentials) as server:
        await asyncio.to_thread(files)
        before = files()
        holder = [await aio.connect(*server.address, credentials=credentials)]
        watched = weakref.ref(holder[0])
        await asyncio.to_thread(holder.clear)
        while watched() is not None:  # without the GIL an object ends in the thread that made it
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.01)
        assert files() <= before
        async with await aio.connect(*server.address, credentials=credentials) as other:
            await other.send(b"hello")
            assert await other.receive() == b"hello"
asyncio.run(asyncio.wait_for(main(), 60))
"""


def test_client_that_another_thread_drops() -> None:
    """The collector may run anywhere: the loop takes its socket off in its own thread.

    In a process of its own: what pytest catches of warnings depends on the context from 3.14 on.
    """
    done = python(DROPPED, options=["-W", "always::ResourceWarning"], timeout=120)
    assert done.returncode == 0, done.stderr
    assert "ResourceWarning: unclosed DTLS connection to" in done.stderr
    assert "Traceback" not in done.stderr


@asynchronous
async def test_who_waits_for_a_message_is_not_forgotten() -> None:
    """A task that nobody keeps, at a client that only the task has: the loop keeps both."""
    came: asyncio.Queue[Any] = asyncio.Queue()
    go = asyncio.Event()

    async def handler(connection: Connection) -> None:
        await go.wait()
        await connection.send(b"hello")

    async with await start(handler) as server:

        async def wait_alone() -> None:
            client = await connect(server)
            came.put_nowait(await client.receive())
            await client.wait_closed()
            came.put_nowait(await client.receive())

        watched = weakref.ref(asyncio.create_task(wait_alone()))
        while not server.counters.server.sessions:
            await asyncio.sleep(0.01)
        for _ in range(3):
            gc.collect()
            await asyncio.sleep(0.01)
        go.set()
        assert await came.get() == b"hello"
        assert await came.get() is None
        del watched


def test_server_that_is_not_closed_ends_with_its_loop() -> None:
    """With a warning, and no socket stays; so does a client that somebody still has."""
    kept: list[Connection] = []

    async def main() -> None:
        server = await start()
        kept.append(await connect(server))
        assert await echoes(kept[0])

    files = open_files()
    with warnings.catch_warnings(record=True) as told:  # of its socket, too
        warnings.simplefilter("always")
        asyncio.run(main())
        gc.collect()
    assert any("unclosed DTLS server on" in str(one.message) for one in told)
    assert {one.category for one in told} == {ResourceWarning}
    kept[0].close()
    assert not kept[0].is_open
    assert open_files() <= files


def test_close_after_the_loop_is_closed() -> None:
    """No error, and no socket stays."""
    kept: list[Any] = []

    async def main() -> None:
        kept.append(await start())
        kept.append(await connect(kept[0]))

    files = open_files()
    asyncio.run(main())
    for one in kept:
        one.close()
        one.close()
    assert open_files() <= files


# --- memory ---------------------------------------------------------------------------------------


async def ended_client(server: DTLSServer, how: str) -> Callable[[], object]:
    """A reference to the session of a client that came to its end."""
    client = await connect(server)
    assert await echoes(client)
    if how == "client closed":
        client.close()
    else:
        await client.send(b"stop")
        await client.wait_closed()
    return weakref.ref(client.session)


async def stopping_echo(connection: Connection) -> None:
    """An echo that a client may end."""
    async for message in connection:
        if message == b"stop":
            break
        await connection.send(message)


@pytest.mark.parametrize("how", ["client closed", "server closed"])
@asynchronous
async def test_session_of_a_closed_client_is_freed(how: str) -> None:
    """By the reference count alone."""
    async with await start(stopping_echo) as server:
        gc.collect()
        gc.disable()
        try:
            watched = await ended_client(server, how)
            await asyncio.sleep(0.01)
            assert watched() is None
        finally:
            gc.enable()


@pytest.mark.parametrize("how", ["client closed", "server closed"])
@asynchronous
async def test_session_of_a_closed_connection_is_freed(how: str) -> None:
    """On the server's side, long before its idle timer is due."""
    watched: list[Callable[[], object]] = []

    async def handler(connection: Connection) -> None:
        watched.append(weakref.ref(connection.session))
        await stopping_echo(connection)

    async with await start(handler) as server:
        for _ in range(5):
            await ended_client(server, how)
        while len(server._tasks):
            await asyncio.sleep(0.01)
        gc.collect()
        assert [one() for one in watched] == [None] * 5


@asynchronous
async def test_session_of_a_failed_connect_is_freed() -> None:
    """Though the exception is kept: but for its traceback it holds neither session nor socket."""
    async with await start() as server:
        gc.collect()
        gc.disable()
        others = endpoints()  # of tests before this one
        try:
            kept: Exception | None = None
            try:
                await connect(server, "X.509", credentials=trusting("stranger"))
            except CertificateVerificationError as error:
                kept = error.with_traceback(None)
            assert kept is not None
            assert [one for one in endpoints() if not any(one is other for other in others)] == []
        finally:
            gc.enable()


def endpoints() -> list[ClientEndpoint]:
    """All that there are in this process."""
    return [one for one in gc.get_objects() if type(one) is ClientEndpoint]


@asynchronous
async def test_closed_server_is_freed() -> None:
    """With all that it held."""

    async def whole_life() -> Callable[[], object]:
        async with await start() as server:
            async with await connect(server) as client:
                assert await echoes(client)
            return weakref.ref(server)

    watched = await whole_life()
    while watched() is not None:  # its handlers may still be ending; bounded by the test
        await asyncio.sleep(0.01)
        gc.collect()


# --- the event loop -------------------------------------------------------------------------------


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks are of Python 3.12")
@asynchronous
async def test_eager_tasks() -> None:
    """A handler that runs at once, within the event that tells of its connection."""
    loop = asyncio.get_running_loop()
    loop.set_task_factory(getattr(asyncio, "eager_task_factory"))  # noqa: B009

    async def handler(connection: Connection) -> None:
        await connection.send(b"at once")

    async with await start(handler) as server:
        client = await connect(server)
        assert [message async for message in client] == [b"at once"]


CTRL_C = """
import asyncio, os, signal, threading
from gnutls_cookie import PSKCredentials, aio, blocking
credentials = PSKCredentials("sensor-1", b"0123456789abcdef")
ends = []
def client(address):
    connection = blocking.connect(*address, credentials=credentials)
    connection.send(b"hello")
    ends.append(connection.receive(20))
    os.kill(os.getpid(), signal.SIGINT)
    ends.append(connection.receive(20))
    connection.close()
async def echo(connection):
    async for message in connection:
        await connection.send(message)
async def main():
    async with await aio.start_server(echo, "127.0.0.1", credentials=credentials) as server:
        thread = threading.Thread(target=client, args=(server.address,))
        thread.start()
        ends.append(thread)
        await server.serve_forever()
try:
    asyncio.run(main())
except KeyboardInterrupt:
    ends.pop(0).join(20)
    print(ends)
"""


def test_ctrl_c_says_goodbye() -> None:
    """KeyboardInterrupt comes out of asyncio.run(), after clients were told."""
    assert python_in_silence(CTRL_C, timeout=60, dev=False) == "[b'hello', None]\n"


UVLOOP = """
import asyncio, gc, sys, uvloop, warnings
from gnutls_cookie.endpoint import Endpoint
from gnutls_cookie import PSKCredentials, aio
credentials = PSKCredentials("sensor-1", b"0123456789abcdef")
async def echo(connection):
    async for message in connection:
        await connection.send(message)
async def main():
    options = {"credentials": credentials, "idle_timeout": float("inf")}
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: sys.exit(str(context)))
    async with await aio.start_server(echo, "127.0.0.1", **options) as server:
        async with await aio.connect(*server.address, credentials=credentials) as client:
            for number in range(100):
                await client.send(b"%d" % number)
                assert await client.receive() == b"%d" % number
        try:
            await client.send(b"too late")
        except ConnectionResetError:
            pass
        try:
            await aio.connect("127.0.0.1", server.address[1], credentials=PSKCredentials("a", b"k"),
                              handshake_timeout=0.3)
        except (TimeoutError, ConnectionError) as error:
            pass
        dropped = await aio.connect(*server.address, credentials=credentials)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            del dropped
            gc.collect()
        assert [one.category for one in told] == [ResourceWarning], told
        last = await aio.connect(*server.address, credentials=credentials)
        waiting = asyncio.ensure_future(last.receive())
        await asyncio.sleep(0.05)
        server.close()
        assert await waiting is None
    timeout = Endpoint.timeout
    Endpoint.timeout = lambda self, now: 0.0  # what is due at once, as after a turn with many
    async with aio.start_server(echo, "127.0.0.1", **options) as server:
        async with aio.connect(*server.address, credentials=credentials) as client:
            for number in range(10):
                await client.send(b"hello")
                assert await client.receive() == b"hello"
    Endpoint.timeout = timeout
with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(main())
print("done")
"""


def test_uvloop() -> None:
    """The same on the other loop that many use."""
    python_peer("uvloop")
    assert python_in_silence(UVLOOP, timeout=60, dev=False) == "done\n"


@asynchronous
async def test_server_with_more_to_do_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is due at once is done in the next turn of the loop. Turns are counted, not time."""
    called = 0
    handle_timeout = Endpoint.handle_timeout

    def counted(endpoint: Endpoint, now: float) -> Any:
        nonlocal called
        called += 1
        return handle_timeout(endpoint, now)

    async with await start() as server, await connect(server) as client:
        assert await echoes(client)
        monkeypatch.setattr(Endpoint, "due", -math.inf)
        monkeypatch.setattr(Endpoint, "timeout", lambda endpoint, now: 0.0)
        monkeypatch.setattr(Endpoint, "handle_timeout", counted)
        await client.send(b"a turn, which sets the timer")
        assert await client.receive() is not None
        called = 0
        for _ in range(100):
            await asyncio.sleep(0)
        monkeypatch.undo()
        assert called >= 25


@asynchronous
async def test_idle_server_does_not_work() -> None:
    """One client in silence: the loop sleeps. Turns of the loop are counted, not time."""
    loop = asyncio.get_running_loop()
    if not isinstance(loop, asyncio.BaseEventLoop):
        pytest.skip("turns are those of asyncio's own loop")
    async with await start() as server, await connect(server) as client:
        assert await echoes(client)
        turns, run_once = 0, loop._run_once  # type: ignore[attr-defined]

        def counted() -> None:
            nonlocal turns
            turns += 1
            run_once()

        loop._run_once = counted  # type: ignore[attr-defined]
        await asyncio.sleep(0.3)
        loop._run_once = run_once  # type: ignore[attr-defined]
        assert turns < 30
