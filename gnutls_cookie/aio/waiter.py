"""What a task waits for in receive(), and how it goes on at once, in the very callback of the loop
in which a message came.

A future would call the task in the next turn of the loop. The difference is a third of what a
message costs; and past the task another third is saved.
"""

from __future__ import annotations

import asyncio
import contextvars
import types
from asyncio.tasks import _enter_task, _leave_task  # for tasks of others: "Extending", in its docs
from collections.abc import Callable, Coroutine, Generator
from typing import Any

__all__ = ["Steps", "Waiter"]


class Waiter:
    """One wait of one task at a time; it may be used again. Tasks ask it what they ask a future.

    Args:
        loop: the event loop.

    Attributes:
        callback: what lets the task go on; None where none waits.
        context: the contextvars.Context of the callback.
        is_free: whether no task waits, nor is about to go on.
        steps: where a Steps waits: that; None for any other task.
    """

    # asyncio.Task looks at the first one, sets it to False, and takes the rest as read. It asks
    # `_loop` where there is no get_loop(), which would be one more call for each message.
    __slots__ = (
        "_asyncio_future_blocking",
        "_cancelled",
        "_loop",
        "callback",
        "context",
        "is_free",
        "steps",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.is_free = True
        self._asyncio_future_blocking = False
        self._loop = loop
        self.callback: Callable[[Waiter], object] | None = None
        self.context: Any = None
        self._cancelled: asyncio.CancelledError | None = None
        self.steps: Steps | None = None

    @types.coroutine
    def wait(self) -> Generator[Waiter, None, None]:
        """Wait until somebody calls wake()."""
        self.is_free = False
        self._asyncio_future_blocking = True
        try:
            yield self
        finally:
            self.is_free = True

    def wake(self, is_direct: bool) -> None:
        """Let the task go on.

        Args:
            is_direct: at once. Only where no task runs, in a callback of the loop.
        """
        callback, self.callback = self.callback, None
        if callback is None:
            return
        if is_direct:
            self.context.run(callback, self)
        else:
            self._loop.call_soon(callback, self, context=self.context)

    # --- what a task asks a future ----------------------------------------------------------------

    def add_done_callback(
        self, callback: Callable[[Waiter], object], *, context: contextvars.Context | None = None
    ) -> None:
        """As of a future; there is one callback, the task's."""
        self.callback = callback
        self.context = contextvars.copy_context() if context is None else context

    def cancel(self, msg: Any = None) -> bool:
        """As of a future; False where the task is about to go on."""
        if self.callback is not None:
            self._cancelled = cancelled(msg)
            self.wake(is_direct=False)
            return True
        return self.steps is not None and self.steps.takes_cancellation(msg)

    def result(self) -> None:
        """As of a future: asked by the task as it goes on."""
        self.steps = None
        error, self._cancelled = self._cancelled, None
        if error is not None:
            raise error


class Steps(Waiter, Coroutine[Any, Any, None]):
    """A handler within its task, of which it is the coroutine. Of the handler's own connection it
    is the Waiter, too: one object less that the garbage collector has to look at.

    Where the handler waits for a message, its next step is taken past the task, which goes on
    waiting for the same thing. The task hears of what it has to do: of another thing to wait for,
    and the end.

    Args:
        loop: the event loop.
    """

    __slots__ = ("_cancel", "_coroutine", "_done", "_given", "_task")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._coroutine: Coroutine[Any, Any, Any] | None = None  # the handler's, once it has begun
        self._task: Any = None
        self._given: Any = None  # by a step of which the task has not heard: (what it yielded,)
        self._done: BaseException | None = None  # or what it raised: StopIteration at the end
        # (the message,) of a cancellation within a step, until the coroutine has it. None: no step
        # is under way; (): one is.
        self._cancel: tuple[Any, ...] | None = None

    # --- said by who runs a handler ---------------------------------------------------------------

    def _begin(self) -> Coroutine[Any, Any, Any]:
        """Call the handler, in its task."""
        raise NotImplementedError

    def _end(self, error: BaseException | None) -> bool:
        """The handler has ended.

        Args:
            error: what it raised; None: it has returned.

        Returns:
            Whether that is for its task to raise. Else the task just ends.
        """
        raise NotImplementedError

    # --- past the task ----------------------------------------------------------------------------

    def step(self, waiter: Waiter) -> None:
        """What the handler waits for has come: it goes on. Only where no task runs.

        Args:
            waiter: that it waits for, with a callback.
        """
        callback, waiter.callback = waiter.callback, None
        given: Any = None
        try:
            self._cancel = ()
            _enter_task(self._loop, self._task)
            try:
                given = waiter.context.run(self._coroutine.send, None)  # type: ignore[union-attr]
            finally:
                _leave_task(self._loop, self._task)
        except BaseException as error:
            self._done = error
        waiter.callback = callback
        if given is waiter and not self._cancel:
            self._cancel = None
            return  # it waits again, and nothing has changed for its task
        self._tell(waiter, given)

    def takes_cancellation(self, msg: Any) -> bool:
        """Its task is cancelled. Whether that is in a step."""
        if self._cancel is None:
            return False
        self._cancel = (msg,)
        return True

    # --- what its task asks of it -----------------------------------------------------------------

    def __await__(self) -> Steps:
        return self

    def __iter__(self) -> Steps:
        return self

    def __next__(self) -> Any:
        """Its task goes on."""
        return self._go_on(None)

    def send(self, value: Any) -> Any:
        """As of a coroutine."""
        return self._go_on(None)

    def throw(self, *raised: Any) -> Any:
        """As of a coroutine."""
        if self._done is None:
            self._given = None
        return self._go_on(raised)

    def close(self) -> None:
        """As of a coroutine."""
        if self._coroutine is not None:
            self._coroutine.close()

    # What tools ask of a coroutine, the handler's tells. Not by __getattr__(), which would make
    # each attribute slow.

    @property
    def __name__(self) -> str:
        return getattr(self._coroutine, "__qualname__", type(self).__qualname__)

    @property
    def cr_code(self) -> Any:
        """As of a coroutine."""
        return getattr(self._coroutine, "cr_code", None)

    @property
    def cr_frame(self) -> Any:
        """As of a coroutine."""
        return getattr(self._coroutine, "cr_frame", None)

    # --- helpers ----------------------------------------------------------------------------------

    def _go_on(self, raised: Any) -> Any:
        try:
            given = self._next(raised)
        except BaseException as error:
            # By StopIteration a coroutine returns. A handler that makes none may raise it.
            is_over = isinstance(error, StopIteration) and self._coroutine is not None
            self._task = None  # they hold one another
            if self._end(None if is_over else error):
                raise
        else:
            if isinstance(given, Waiter):
                given.steps = self
            return given
        raise StopIteration

    def _next(self, raised: Any) -> Any:
        coroutine, cancel = self._coroutine, self._cancel
        if self._done is not None:
            done, self._done = self._done, None
            if cancel and isinstance(done, StopIteration):  # as asyncio.Task does
                done, self._cancel = cancelled(*cancel), None
            try:
                raise done
            finally:
                del done
        if self._given is not None:
            (given,), self._given = self._given, None
            return given
        if coroutine is None:
            if raised:  # cancelled before it has begun
                raise raised[0]
            self._task = asyncio.current_task(self._loop)
            coroutine = self._coroutine = self._begin()
        if raised:
            return coroutine.throw(*raised)
        if cancel:
            self._cancel = None
            return coroutine.throw(cancelled(*cancel))
        return coroutine.send(None)

    def _tell(self, waiter: Waiter, given: Any) -> None:
        """The task deals with what a step gave, in its own name."""
        if given is waiter:  # and it was cancelled meanwhile
            asked, self._cancel = self._cancel, None
            waiter.cancel(*asked or ())
            return
        if self._done is None:
            self._given = (given,)
        if not self._cancel:
            self._cancel = None
        waiter.wake(is_direct=True)
        # asyncio.Task cancels what a cancelled coroutine goes on to wait for. Else, and where that
        # is over already, the coroutine hears of it as it goes on.
        if self._cancel and given is not None and given.cancel(*self._cancel):
            self._cancel = None


def cancelled(*message: Any) -> asyncio.CancelledError:
    """What a cancelled task raises."""
    return asyncio.CancelledError(*(one for one in message if one is not None))
