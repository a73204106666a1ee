"""Servers of callbacks: aio.Protocol."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from gnutls_cookie import FatalAlertError, aio
from gnutls_cookie.server import CloseReason
from tests.support.peers import psk
from tests.support.servers import asynchronous, heard_errors


class Echo(aio.Protocol):
    """Sends back what comes, and tells what was called."""

    log: asyncio.Queue[tuple[Any, ...]]

    def connected(self, connection: aio.Connection) -> None:
        self.connection = connection
        self.log.put_nowait(("connected", connection.address))

    def message_received(self, message: bytes) -> None:
        self.log.put_nowait(("message", message))
        self.connection.send_nowait(message)

    def closed(self, error: Exception | None) -> None:
        self.log.put_nowait(("closed", type(error)))


async def start(kind: type[aio.Protocol] = Echo, **options: Any) -> aio.DTLSServer:
    """A server of it on a port of its own."""
    Echo.log = asyncio.Queue()
    return await aio.start_server(
        host="127.0.0.1", credentials=psk(), protocol_factory=kind, **options
    )


async def connect(server: aio.DTLSServer) -> aio.Connection:
    """A client of it."""
    return await aio.connect(*server.address[:2], credentials=psk())


@asynchronous
async def test_callbacks_in_their_order() -> None:
    """connected, a message each, closed once; what came before the goodbye comes first."""
    async with await start() as server:
        client = await connect(server)
        for message in (b"one", b"two"):
            await client.send(message)
            assert await client.receive() == message
        await client.send(b"three")
        client.close()
        here = client.address
        assert here == server.address
        called = [await Echo.log.get() for _ in range(5)]
        assert called[0][0] == "connected"
        assert called[1:] == [
            ("message", b"one"),
            ("message", b"two"),
            ("message", b"three"),
            ("closed", type(None)),
        ]
        assert server.counters.server.closed[CloseReason.PEER] == 1


@asynchronous
async def test_many_clients_of_a_protocol() -> None:
    """Each has its own object."""

    async def one(server: aio.DTLSServer, number: int) -> None:
        async with await connect(server) as client:
            for turn in range(20):
                await client.send(b"%d of %d" % (turn, number))
                assert await client.receive() == b"%d of %d" % (turn, number)

    async with await start() as server:
        await asyncio.gather(*(one(server, number) for number in range(20)))
        assert server.counters.server.messages_received == 400


@asynchronous
async def test_close_of_the_server_is_told() -> None:
    """closed(None) to each, before close() returns; the client hears a goodbye."""
    async with await start() as server:
        client = await connect(server)
        assert (await Echo.log.get())[0] == "connected"
        server.close()
        assert Echo.log.get_nowait() == ("closed", type(None))
        assert await client.receive() is None
    assert Echo.log.empty()


@asynchronous
async def test_failed_session_is_told() -> None:
    """closed() has the error."""
    async with await start() as server:
        client = await connect(server)
        client.session._alert(2, 80)
        await client.send(b"so that the alert goes out")
        called = [await Echo.log.get() for _ in range(2)]
        assert called[1] == ("closed", FatalAlertError)
        client.close()


@asynchronous
async def test_nothing_is_received_after_close() -> None:
    """A protocol that closes at the first message does not see those that wait behind it."""

    class Once(Echo):
        def message_received(self, message: bytes) -> None:
            self.log.put_nowait(("message", message))
            self.connection.close()
            self.connection.close()
            self.log.put_nowait(("end of", message))

    async with await start(Once) as server:
        client = await connect(server)
        for number in range(5):
            client.send_nowait(b"%d" % number)
        assert await client.receive() is None
        called = [await Echo.log.get() for _ in range(4)]
        assert called[1:] == [("message", b"0"), ("closed", type(None)), ("end of", b"0")]
        assert Echo.log.empty()


@pytest.mark.parametrize("where", ["factory", "connected", "message_received", "closed"])
@asynchronous
async def test_callback_that_raises_ends_its_own_connection(where: str) -> None:
    """Told to the loop's exception handler; the others are served."""

    class Failing(Echo):
        def __init__(self) -> None:
            self.fail("factory")

        def fail(self, name: str) -> None:
            if name == where and number == 1:
                raise ZeroDivisionError(name)

        def connected(self, connection: aio.Connection) -> None:
            super().connected(connection)
            self.fail("connected")

        def message_received(self, message: bytes) -> None:
            self.fail("message_received")
            super().message_received(message)

        def closed(self, error: Exception | None) -> None:
            super().closed(error)
            self.fail("closed")

    number = 0
    async with await start(Failing) as server:
        good = await connect(server)
        number = 1
        with heard_errors() as told:
            bad = await connect(server)
            with contextlib.suppress(ConnectionResetError):  # it may have ended by now
                await bad.send(b"hello")
            if where == "closed":
                assert await bad.receive() == b"hello"
                bad.close()
                while server.counters.server.sessions > 1:
                    await asyncio.sleep(0.01)
            else:
                assert await bad.receive() is None
        number = 0
        await good.send(b"still there")
        assert await good.receive() == b"still there"
        good.close()
    assert [str(context["exception"]) for context in told] == [where]
    assert "protocol" in told[0]["message"]


@asynchronous
async def test_handler_or_protocol() -> None:
    """One of them, and something that can be called."""

    async def handler(connection: aio.Connection) -> None: ...

    options: dict[str, Any] = {"host": "127.0.0.1", "credentials": psk()}
    with pytest.raises(TypeError, match="only one of handler and protocol_factory"):
        aio.start_server(handler, protocol_factory=Echo, **options)
    with pytest.raises(TypeError, match="handler must be callable"):
        aio.start_server(**options)
    wrong: Any = "Echo"
    with pytest.raises(TypeError, match="protocol_factory must be callable"):
        aio.start_server(protocol_factory=wrong, **options)


@pytest.mark.parametrize("made", [None, 5, aio.Protocol], ids=repr)
@asynchronous
async def test_factory_that_makes_no_protocol_is_named_once_per_connection(made: object) -> None:
    """A class in place of an object is none either; the connection ends."""

    def factory() -> Any:
        return made

    wrong: Any = factory
    with heard_errors() as told:
        async with await start(wrong) as server:
            for _ in range(2):
                client = await connect(server)
                assert await client.receive() is None
    assert len(told) == 2
    for context in told:
        assert isinstance(context["exception"], TypeError)
        assert "protocol_factory must return a Protocol" in str(context["exception"])


@asynchronous
async def test_object_with_the_callbacks_is_a_protocol() -> None:
    """Whatever its class is."""

    class Other:
        log: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()
        connected = Echo.connected
        message_received = Echo.message_received
        closed = Echo.closed

    other: Any = Other
    with heard_errors() as told:
        async with await start(other) as server:
            client = await connect(server)
            await client.send(b"hello")
            assert await client.receive() == b"hello"
            client.close()
    assert told == []
