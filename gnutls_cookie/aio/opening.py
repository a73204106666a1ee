"""What connect() and start_server() return: to be awaited, or entered at once."""

from __future__ import annotations

import inspect
from collections.abc import Coroutine, Generator
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

__all__ = ["Opening"]

T = TypeVar("T", bound=AbstractAsyncContextManager[Any])


class Opening(Coroutine[Any, Any, T], AbstractAsyncContextManager[T]):
    """A coroutine that is a context manager as well: `await x` gives what it opens, and
    `async with x` enters that, and closes it at the end of the block.

    Args:
        opening: the coroutine that opens it.
        function: the function that was called, for messages.
    """

    __slots__ = ("_function", "_opened", "_opening")

    def __init__(self, opening: Coroutine[Any, Any, T], function: str) -> None:
        # What Python's warning names, where this is never awaited.
        opening.__qualname__ = function  # type: ignore[attr-defined]
        self._opening, self._function = opening, function
        self._opened: T | None = None

    if not TYPE_CHECKING:  # mypy finds these by itself

        def __getattr__(self, name: str) -> Any:
            if name.startswith("_"):
                raise AttributeError(name)
            raise AttributeError(f"{name}: {self._hint()}")

    def _hint(self) -> str:
        return f"await {self._function}(...), or enter it by async with: this is only its coroutine"

    def send(self, value: Any) -> Any:
        """As of a coroutine."""
        # A connection's send() takes bytes, a coroutine's first one None.
        if value is not None and inspect.getcoroutinestate(self._opening) == inspect.CORO_CREATED:
            raise TypeError(f"send: {self._hint()}")
        return self._opening.send(value)

    def throw(self, *raised: Any) -> Any:
        """As of a coroutine."""
        return self._opening.throw(*raised)

    def close(self) -> None:
        """As of a coroutine."""
        self._opening.close()

    def __await__(self) -> Generator[Any, Any, T]:
        return self._opening.__await__()

    async def __aenter__(self) -> T:
        self._opened = await self._opening
        entered: T = await self._opened.__aenter__()
        return entered

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        assert self._opened is not None
        return await self._opened.__aexit__(kind, error, trace)
