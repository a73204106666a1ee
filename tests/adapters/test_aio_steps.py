"""A handler goes on past its task (aio/waiter.py, Steps), and cannot tell: it is as in a task."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from gnutls_cookie import aio
from gnutls_cookie.aio import Connection
from gnutls_cookie.aio.waiter import Steps, Waiter
from tests.support.peers import psk
from tests.support.servers import asynchronous, heard_errors

Receive = Callable[[], Awaitable[Any]]
Act = Callable[[Receive], Awaitable[Any]]

HERE: contextvars.ContextVar[str] = contextvars.ContextVar("HERE", default="nowhere")


def cancel_me(*message: Any) -> None:
    """Cancel the task that calls this."""
    task = asyncio.current_task()
    assert task is not None
    task.cancel(*message)


async def waits_again(receive: Receive) -> Any:
    """Cancelled, and the next thing is a message that does not come."""
    cancel_me("a reason")
    return await receive()


async def sleeps(receive: Receive) -> Any:
    """Cancelled, and the next thing is a future."""
    cancel_me("a reason")
    await asyncio.sleep(60)


async def yields(receive: Receive) -> Any:
    """Cancelled, and the next thing is a turn of the loop."""
    cancel_me("a reason")
    await asyncio.sleep(0)
    return "not cancelled"


async def waits_for_a_task(receive: Receive) -> Any:
    """What a cancelled task waits for is cancelled with it."""
    other = asyncio.create_task(asyncio.sleep(60))
    cancel_me("a reason")
    with contextlib.suppress(asyncio.CancelledError):
        await other
    return other.cancelled()


async def waits_for_what_goes_on(receive: Receive) -> Any:
    """A future that refuses to be cancelled: the task hears of it once that is over."""

    class Stubborn(asyncio.Future[int]):
        def cancel(self, msg: Any = None) -> bool:
            return False

    loop = asyncio.get_running_loop()
    future = Stubborn(loop=loop)
    cancel_me("a reason")
    loop.call_soon(future.set_result, 5)
    try:
        await future
    except asyncio.CancelledError as error:
        return "cancelled", error.args, future.result()
    return "not cancelled"


async def shields(receive: Receive) -> Any:
    """It goes on in spite of it, and hears it once."""
    heard = []
    cancel_me("a reason")
    for _ in range(3):
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError as error:
            heard.append(error.args)
    return heard


async def returns(receive: Receive) -> Any:
    """Cancelled, and over."""
    cancel_me("a reason")
    return "over"


async def raises(receive: Receive) -> Any:
    """Cancelled, and it fails."""
    cancel_me("a reason")
    raise LookupError("on purpose")


async def is_in_its_task(receive: Receive) -> Any:
    """The current task, its context and what is set in it, through all kinds of waits."""
    task, seen = asyncio.current_task(), []
    HERE.set("here")
    for _ in range(3):
        seen.append((asyncio.current_task() is task, HERE.get()))
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)
        seen.append((asyncio.current_task() is task, HERE.get()))
    return seen


async def has_no_time(receive: Receive) -> Any:
    """asyncio.timeout() around a message that does not come, and wait_for()."""
    try:
        async with asyncio.timeout(0.01):
            await receive()
    except TimeoutError:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(receive(), 0.01)
            return "a message"
        task = asyncio.current_task()
        assert task is not None
        return "too late", task.cancelling()


async def gathers(receive: Receive) -> Any:
    """Tasks of its own, of which one fails."""

    async def fails() -> None:
        raise LookupError("on purpose")

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(60))
            group.create_task(fails())
            await receive()
    except ExceptionGroup as group_of:
        return [str(error) for error in group_of.exceptions]


async def outcome(act: Act, receive: Receive) -> Any:
    """How a task ends that acts as its first message has come."""

    async def whole() -> Any:
        await receive()
        return await act(receive)

    try:
        return await whole()
    except asyncio.CancelledError as error:
        return "cancelled", error.args
    except Exception as error:
        return type(error), str(error)


ACTS = (
    waits_again, sleeps, yields, waits_for_a_task, waits_for_what_goes_on, shields, returns, raises,
    is_in_its_task, has_no_time, gathers,
)  # fmt: skip


@pytest.mark.parametrize("act", ACTS)
@asynchronous
async def test_a_handler_is_as_a_task(act: Act) -> None:
    """Whatever it does where a message has just come, it ends as it would in a task that reads a
    queue: seen from within, and by the task's own state."""
    queue: asyncio.Queue[bytes] = asyncio.Queue()
    inner: list[Any] = []
    tasks: list[asyncio.Task[Any]] = []

    async def noted(receive: Receive) -> None:
        inner.append(await outcome(act, receive))

    plain = asyncio.create_task(noted(queue.get))
    await asyncio.sleep(0.001)
    queue.put_nowait(b"go")
    await asyncio.wait([plain], timeout=20)

    async def handler(connection: Connection) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        await noted(connection.receive)

    async with aio.start_server(handler, "127.0.0.1", credentials=psk()) as server:
        async with aio.connect(*server.address[:2], credentials=psk()) as client:
            while not tasks:
                await asyncio.sleep(0)
            client.send_nowait(b"go")
            await client.wait_closed()
        await asyncio.wait(tasks, timeout=20)
    assert inner[0] == inner[1]
    assert (plain.done(), plain.cancelled()) == (tasks[0].done(), tasks[0].cancelled())
    assert plain.cancelling() == tasks[0].cancelling()


@pytest.mark.parametrize("how", ["anext", "receive", "two connections"])
@asynchronous
async def test_a_handler_that_is_cancelled_between_messages(how: str) -> None:
    """From outside, after messages that it took past its task: it hears so, and its peer goodbye.
    Also where it waits for a message of another connection."""
    tasks: list[asyncio.Task[Any]] = []
    there: list[Connection] = []

    async def handler(connection: Connection) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        there.append(connection)
        read = there[0] if how == "two connections" and len(there) == 2 else connection
        if how == "two connections" and len(there) == 1:
            await connection.wait_closed()
        elif how == "anext":
            async for message in read:
                await connection.send(message)
        else:
            while (message_or_none := await read.receive()) is not None:
                await connection.send(message_or_none)

    async with aio.start_server(handler, "127.0.0.1", credentials=psk()) as server:
        clients = [await aio.connect(*server.address[:2], credentials=psk())]
        if how == "two connections":
            while len(there) < 1:
                await asyncio.sleep(0)
            clients.append(await aio.connect(*server.address[:2], credentials=psk()))
        for number in range(20):
            await clients[0].send(b"%d" % number)
            assert await clients[-1].receive() == b"%d" % number
        tasks[-1].cancel("enough")
        assert await clients[-1].receive() is None
        await asyncio.wait(tasks[-1:], timeout=20)
        assert tasks[-1].cancelled()
        for client in clients:
            client.close()


@asynchronous
async def test_a_handler_that_is_cancelled_before_it_has_begun() -> None:
    """Its peer hears goodbye, as of one that is cancelled later."""

    async def handler(connection: Connection) -> None:
        raise AssertionError("it has begun")

    def factory(loop: Any, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        task = asyncio.Task(coroutine, loop=loop, **options)
        if isinstance(coroutine, Steps):
            task.cancel()
        return task

    async with aio.start_server(handler, "127.0.0.1", credentials=psk()) as server:
        asyncio.get_running_loop().set_task_factory(factory)
        async with aio.connect(*server.address[:2], credentials=psk()) as client:
            assert await asyncio.wait_for(client.receive(), 20) is None


@asynchronous
async def test_a_handler_that_has_ended_leaves_nothing_to_the_garbage_collector() -> None:
    """Its task and its connection are gone at once."""
    left: list[weakref.ref[Any]] = []

    async def handler(connection: Connection) -> None:
        left.extend((weakref.ref(connection), weakref.ref(asyncio.current_task())))
        async for message in connection:
            await connection.send(message)

    gc.disable()
    try:
        async with aio.start_server(handler, "127.0.0.1", credentials=psk()) as server:
            async with aio.connect(*server.address[:2], credentials=psk()) as client:
                for _ in range(3):
                    await client.send(b"hello")
                    assert await client.receive() == b"hello"
            async with asyncio.timeout(20):
                while any(one() is not None for one in left):
                    await asyncio.sleep(0.001)
    finally:
        gc.enable()


@asynchronous
async def test_what_a_handler_raises_past_its_task_is_the_task_s() -> None:
    """Its traceback names the handler; the loop hears of it once, and the others are served."""

    async def handler(connection: Connection) -> None:
        async for message in connection:
            if message == b"fail":
                raise LookupError("on purpose")
            await connection.send(message)

    with heard_errors() as told:
        async with aio.start_server(handler, "127.0.0.1", credentials=psk()) as server:
            for word in (b"fail", b"hello"):
                async with aio.connect(*server.address[:2], credentials=psk()) as client:
                    for said in (b"first", word):
                        await client.send(said)
                        got = await client.receive()
                    assert got == (None if word == b"fail" else b"hello")
    (context,) = told
    trace, names = context["exception"].__traceback__, []
    while trace is not None:
        names.append(trace.tb_frame.f_code.co_name)
        trace = trace.tb_next
    assert names[-1] == "handler"


@asynchronous
async def test_steps_are_what_a_coroutine_is() -> None:
    """send(), throw() and close(), for those who drive a task's coroutine by hand; a coroutine that
    is thrown away with its task has its finally block run; and tools find the handler's name."""
    loop = asyncio.get_running_loop()
    ended = []

    async def reader() -> str:
        try:
            await Waiter(loop).wait()
        except LookupError:
            return "thrown"
        finally:
            ended.append(True)
        return "woken"

    class Reading(Steps):
        def _begin(self) -> Coroutine[Any, Any, Any]:
            return reader()

        def _end(self, error: BaseException | None) -> bool:
            return True

    async def outer() -> Any:
        return await Reading(loop)

    one, other, third = Reading(loop), outer(), Reading(loop)
    assert all(isinstance(coroutine.send(None), Waiter) for coroutine in (one, other, third))
    assert one.__name__.endswith("reader")
    assert one.cr_frame.f_code is one.cr_code
    with pytest.raises(StopIteration, match="woken"):
        one.send(None)
    with pytest.raises(StopIteration, match="thrown"):
        other.throw(LookupError())
    third.close()
    assert len(ended) == 3
