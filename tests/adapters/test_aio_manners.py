"""What users of asyncio expect: context managers, AbstractServer's methods, names of tasks."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import logging
from typing import Any

import pytest

from gnutls_cookie import GnuTLSError, PSKCredentials, aio
from gnutls_cookie.aio import Connection
from gnutls_cookie.aio.waiter import Waiter
from tests.support.common import free_udp_port, seeded
from tests.support.peers import PSK_KEY, psk
from tests.support.servers import asynchronous, bounded, echo, heard_errors


def start(handler: Any = echo, **options: Any) -> Any:
    """What start_server() returns, for a port of its own."""
    return aio.start_server(handler, "127.0.0.1", credentials=psk(), **options)


def connect(server: aio.DTLSServer, **options: Any) -> Any:
    """What connect() returns, for a client of it."""
    return aio.connect(*server.address[:2], **{"credentials": psk(), **options})


@asynchronous
async def test_connect_and_start_server_are_context_managers() -> None:
    """`async with` without `await`, or with it; closed after the block."""
    async with start() as server:
        async with connect(server) as client:
            await client.send(b"hello")
            assert await client.receive() == b"hello"
        assert not client.is_open
        async with await connect(server) as client:
            assert client.is_open
        assert not client.is_open
        with pytest.raises(ZeroDivisionError):
            async with connect(server) as client:
                raise ZeroDivisionError
        assert not client.is_open
    assert not server.is_serving()


@asynchronous
async def test_connect_fits_wherever_a_coroutine_does() -> None:
    """create_task(), gather(), wait_for(), a TaskGroup."""
    async with start() as server:
        clients = [await asyncio.create_task(connect(server))]
        clients += await asyncio.gather(connect(server), connect(server))
        clients.append(await asyncio.wait_for(connect(server), 20))
        async with asyncio.TaskGroup() as group:
            task = group.create_task(connect(server))
        clients.append(task.result())
        opening = connect(server)
        assert asyncio.iscoroutine(opening)
        opening.close()
        for client in clients:
            await client.send(b"hello")
            assert await client.receive() == b"hello"
            client.close()


@asynchronous
async def test_connect_that_is_not_awaited_says_so() -> None:
    """Whoever takes it for the connection itself is told, and so is whoever drops it."""
    opening: Any = aio.connect("127.0.0.1", free_udp_port(), credentials=psk())
    with pytest.raises(AttributeError, match=r"is_open: await connect\(\.\.\.\)"):
        _ = opening.is_open
    with pytest.raises(TypeError, match=r"send: await connect\(\.\.\.\)"):
        opening.send(b"hello")
    assert not hasattr(opening, "__name__")
    opening.close()
    with pytest.warns(RuntimeWarning, match="'start_server' was never awaited"):
        start()


@asynchronous
async def test_connect_that_is_cancelled_or_fails_in_async_with() -> None:
    """As of await: the error comes out at the head of the block."""
    with pytest.raises(ConnectionRefusedError):
        async with aio.connect("127.0.0.1", free_udp_port(), credentials=psk()):
            raise AssertionError

    async def enter(server: aio.DTLSServer) -> None:
        async with connect(server):
            raise AssertionError

    async with start(start_serving=False) as server:
        task = asyncio.create_task(enter(server))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


@asynchronous
async def test_server_is_an_abstract_server() -> None:
    """All of its methods, those of Python 3.13 too."""
    async with start(start_serving=False) as server:
        assert issubclass(aio.DTLSServer, asyncio.AbstractServer)
        assert server.get_loop() is asyncio.get_running_loop()
        assert not server.is_serving()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(connect(server), 0.1)
        await server.start_serving()
        await server.start_serving()
        assert server.is_serving()
        one, other = await connect(server), await connect(server)
        server.close_clients()
        assert await one.receive() is None
        assert await other.receive() is None
        assert server.is_serving()
        third = await connect(server)
        server.abort_clients()
        assert await third.receive() is None
        server.close()
        assert not server.is_serving()
        with pytest.raises(RuntimeError, match="closed"):
            await server.start_serving()
        await server.serve_forever()
    missing = {
        name
        for name, method in inspect.getmembers(asyncio.AbstractServer, inspect.isfunction)
        if getattr(aio.DTLSServer, name) is method
    }
    assert missing <= {"__init__"}


@asynchronous
async def test_serve_forever_starts_to_serve() -> None:
    """As asyncio's own."""
    server = await start(start_serving=False)
    task = asyncio.create_task(server.serve_forever())
    async with connect(server) as client:
        await client.send(b"hello")
        assert await client.receive() == b"hello"
    server.close()
    await task


@asynchronous
async def test_local_addr_is_asyncio_s_name_of_local_address() -> None:
    """One or the other."""
    async with start() as server:
        here = ("127.0.0.7", free_udp_port("127.0.0.7"))
        async with connect(server, local_addr=here) as client:
            assert client.get_extra_info("sockname") == here
        with pytest.raises(TypeError, match="local_addr"):
            connect(server, local_addr=here, local_address=here)


@asynchronous
async def test_task_of_a_handler_is_named_for_its_peer() -> None:
    """So that all_tasks() tells who is served."""
    names: asyncio.Queue[str] = asyncio.Queue()

    async def handler(connection: Connection) -> None:
        task = asyncio.current_task()
        assert task is not None
        names.put_nowait(task.get_name())
        await connection.wait_closed()

    async with start(handler) as server, connect(server) as client:
        assert await names.get() == f"connection of {client.get_extra_info('sockname')}"


@asynchronous
async def test_next_message_is_a_coroutine_as_of_every_async_iterator() -> None:
    """anext() may be a task of its own, which takes no other awaitable (from Python 3.12 on)."""
    async with start() as server, connect(server) as client:
        next_one = asyncio.create_task(anext(client))
        await client.send(b"hello")
        assert await next_one == b"hello"


@asynchronous
async def test_messages_may_be_sent_from_callbacks() -> None:
    """send_nowait(): the same errors as send(), and nothing to await."""
    async with start() as server, connect(server) as client:
        asyncio.get_running_loop().call_soon(client.send_nowait, b"hello")
        assert await client.receive() == b"hello"
        assert client.send_nowait(b"four") == 4
        assert await client.receive() == b"four"
        client.close()
        with pytest.raises(ConnectionResetError) as caught:
            client.send_nowait(b"too late")
        assert isinstance(caught.value, GnuTLSError)


@asynchronous
async def test_waiting_is_asyncio_s_own() -> None:
    """timeout(), wait_for(), cancellation, context variables, two that wait: as with a future."""
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)
    log: asyncio.Queue[list[Any]] = asyncio.Queue()

    async def handler(connection: Connection) -> None:
        variable.set(variable.get() + 1)
        seen: list[Any] = [await connection.receive()]
        try:
            async with asyncio.timeout(0.05):
                async for message in connection:
                    seen.append(message)
        except TimeoutError:
            seen.append("timeout")
        try:
            await asyncio.wait_for(connection.receive(), 0.05)
        except TimeoutError:
            seen.append("wait_for")
        task = asyncio.create_task(connection.receive())
        await asyncio.sleep(0)
        task.cancel("of the test")
        try:
            await task
        except asyncio.CancelledError as error:
            seen.append(str(error))
        await connection.send(b"go on")
        both = await asyncio.gather(connection.receive(), connection.receive())
        seen += sorted(message or b"" for message in both)
        async for message in connection:
            seen.append(message)
            await asyncio.sleep(0.01)
        seen += [variable.get(), await connection.receive()]
        log.put_nowait(seen)

    async with start(handler) as server, connect(server) as client:
        await client.send(b"early")
        assert await client.receive() == b"go on"
        for message in (b"a", b"b", b"c", b"d"):
            await client.send(message)
        client.close()
        assert await log.get() == [
            b"early", "timeout", "wait_for", "of the test", b"a", b"b", b"c", b"d", 1, None,
        ]  # fmt: skip


@asynchronous
async def test_cancelled_reader_loses_no_message() -> None:
    """Cancelled in the very turn in which a message comes for it: the next one has it."""
    served: asyncio.Queue[Connection] = asyncio.Queue()

    async def handler(connection: Connection) -> None:
        served.put_nowait(connection)
        await connection.wait_closed()

    async with start(handler) as server, connect(server) as client:
        there = await served.get()
        for number in range(50):
            reader = asyncio.ensure_future(there.receive())
            await asyncio.sleep(0)
            await client.send(b"%d" % number)
            for _ in range(number % 5):
                await asyncio.sleep(0)
            reader.cancel()
            try:
                got = await reader
            except asyncio.CancelledError:
                got = await asyncio.wait_for(there.receive(), 20)
            assert got == b"%d" % number


@asynchronous
async def test_message_with_a_goodbye_behind_it() -> None:
    """Both come in one turn: the answer is a ConnectionResetError, and no fault of the handler."""
    ends: asyncio.Queue[Any] = asyncio.Queue()

    async def handler(connection: Connection) -> None:
        try:
            await echo(connection)
        except ConnectionResetError:
            ends.put_nowait(connection.is_open)
            raise

    async with start(handler) as server:
        for _ in range(20):
            client = await connect(server)
            client.send_nowait(b"the last word")
            client.close()
        while server.counters.server.sessions or server.counters.server.connected != 20:
            await asyncio.sleep(0.01)
    assert not ends.empty()
    while not ends.empty():
        assert ends.get_nowait() is False


@asynchronous
async def test_readers_that_come_and_are_cancelled_at_random() -> None:
    """Whoever was not cancelled goes on by a message alone; who was is so, or has a message."""
    draw = seeded()
    served: asyncio.Queue[Connection] = asyncio.Queue()

    async def handler(connection: Connection) -> None:
        served.put_nowait(connection)
        await connection.wait_closed()

    async with start(handler) as server, connect(server) as client:
        there = await served.get()
        for one, other in ((there, client), (client, there)):
            readers: list[asyncio.Task[bytes | None]] = []
            cancelled: set[asyncio.Task[bytes | None]] = set()
            got: list[bytes | None] = []
            sent = 0
            for _ in range(2000):
                match draw.choice(("read", "read", "cancel", "send", "send", "turn", "turn")):
                    case "read" if len(readers) < 6:
                        readers.append(asyncio.create_task(one.receive()))
                    case "cancel" if readers:
                        reader = draw.choice(readers)
                        reader.cancel()
                        cancelled.add(reader)
                    case "send" if sent - len(got) < 100:
                        other.send_nowait(b"%d" % sent)
                        sent += 1
                    case _:
                        await asyncio.sleep(0)
                for reader in [reader for reader in readers if reader.done()]:
                    readers.remove(reader)
                    if reader.cancelled():
                        assert reader in cancelled
                    else:
                        got.append(reader.result())
            for reader in readers:
                reader.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    got.append(await reader)
            while len(got) < sent:
                got.append(await asyncio.wait_for(one.receive(), 20))
            assert sorted(got, key=str) == sorted((b"%d" % at for at in range(sent)), key=str)


@asynchronous
async def test_waiter_is_not_used_again_before_its_task_has_gone_on() -> None:
    """Neither where it was woken in a later turn nor where it was cancelled: the next task would
    take that for its own."""
    for how in ("woken", "cancelled"):
        waiter = Waiter(asyncio.get_running_loop())

        async def wait(waiter: Waiter = waiter) -> None:
            await waiter.wait()

        def is_free(waiter: Waiter = waiter) -> bool:
            return waiter.is_free

        task = asyncio.create_task(wait())
        assert is_free()
        await asyncio.sleep(0)
        assert not is_free()
        if how == "woken":
            waiter.wake(is_direct=False)
        else:
            task.cancel()
        assert not is_free()
        assert not waiter.cancel()
        await asyncio.wait([task])
        assert is_free()
        assert task.cancelled() == (how == "cancelled")


class Strange(BaseException):
    """No Exception, and nothing that ends a program."""


@asynchronous
async def test_a_lookup_may_close_its_server() -> None:
    """The server ends when the call is over in which the lookup was asked: all hear the goodbye."""
    asked = 0

    def lookup(identity: str) -> bytes:
        nonlocal asked
        asked += 1
        if asked == 2:
            server.close()
        return PSK_KEY

    server = await aio.start_server(
        echo, "127.0.0.1", credentials=PSKCredentials(lookup=lookup), grace=5.0
    )
    first = await connect(server)
    with contextlib.suppress(GnuTLSError):  # it is connected or not, as its last flight comes
        await connect(server, handshake_timeout=2.0)
    assert await asyncio.wait_for(first.receive(), 20) is None
    await asyncio.wait_for(server.wait_closed(), 20)
    assert [sock.fileno() for sock in server.sockets] == [-1]


@asynchronous
async def test_what_was_sent_before_a_call_in_a_lookup_is_not_lost() -> None:
    """close() of a connection is refused there; a message that was taken goes out all the same."""
    served: list[Connection] = []
    refused: list[RuntimeError] = []

    def lookup(identity: str) -> bytes:
        if served:
            served[0].send_nowait(b"from the lookup")
            try:
                served[0].close()
            except RuntimeError as error:
                refused.append(error)
        return PSK_KEY

    async def handler(connection: Connection) -> None:
        served.append(connection)
        await connection.wait_closed()

    credentials = PSKCredentials(lookup=lookup)
    async with (
        aio.start_server(handler, "127.0.0.1", credentials=credentials) as server,
        connect(server) as first,
        connect(server),
    ):
        assert await asyncio.wait_for(first.receive(), 20) == b"from the lookup"
    assert len(refused) == 1


@pytest.mark.parametrize("kind", [asyncio.CancelledError, GeneratorExit, Strange])
def test_what_a_lookup_raises_beyond_exception_is_logged_and_not_each(
    kind: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """The loop's exception handler would hear of each; the others are served."""

    def lookup(identity: str) -> bytes:
        if identity == "good":
            return PSK_KEY
        raise kind(identity)

    @asynchronous
    async def run() -> None:
        with heard_errors() as heard:
            credentials = PSKCredentials(lookup=lookup)
            async with aio.start_server(echo, "127.0.0.1", credentials=credentials) as server:
                for _ in range(20):
                    with pytest.raises(GnuTLSError):
                        await connect(server, credentials=PSKCredentials("bad", PSK_KEY))
                good = PSKCredentials("good", PSK_KEY)
                async with connect(server, credentials=good) as client:
                    await client.send(b"and I?")
                    assert await asyncio.wait_for(client.receive(), 20) == b"and I?"
        assert heard == []

    with caplog.at_level(logging.ERROR, "gnutls_cookie"):
        run()
    logged = [one for one in caplog.records if one.exc_info and one.exc_info[0] is kind]
    assert 5 <= len(logged) < 20  # five a second


def test_exit_in_a_lookup_ends_the_loop_which_serves_on_when_it_is_run_again() -> None:
    """As in every callback of the loop."""
    asked: list[str] = []

    def lookup(identity: str) -> bytes:
        asked.append(identity)
        if len(asked) == 1:
            raise SystemExit(3)
        return PSK_KEY

    async def meet(server: aio.DTLSServer) -> bytes | None:
        async with connect(server, handshake_timeout=20.0) as client:
            await client.send(b"hello")
            return await asyncio.wait_for(client.receive(), 20)

    async def start() -> aio.DTLSServer:
        return await aio.start_server(echo, "127.0.0.1", credentials=PSKCredentials(lookup=lookup))

    async def end(server: aio.DTLSServer) -> None:
        server.close()
        await server.wait_closed()

    loop = asyncio.new_event_loop()
    try:
        with bounded(60):
            server = loop.run_until_complete(start())
            first = loop.create_task(meet(server))
            with pytest.raises(SystemExit):
                loop.run_until_complete(first)
            with pytest.raises(GnuTLSError):  # its handshake has failed
                loop.run_until_complete(first)
            assert loop.run_until_complete(meet(server)) == b"hello"
            loop.run_until_complete(end(server))
    finally:
        loop.close()
