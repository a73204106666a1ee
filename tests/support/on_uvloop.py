"""A plugin of pytest: event loops of the tests are uvloop's, not those of their programs.

.venv/bin/python -m pytest -p tests.support.on_uvloop tests/adapters/test_aio.py
"""

from __future__ import annotations

import asyncio
import functools
import socket
from typing import Any

import uvloop


class _Loop(uvloop.Loop):  # type: ignore[misc]
    """Names go through the socket module, where tests put their own."""

    async def getaddrinfo(self, host: Any, port: Any, **options: Any) -> Any:
        ask = functools.partial(socket.getaddrinfo, host, port, **options)
        return await self.run_in_executor(None, ask)


asyncio.new_event_loop = asyncio.events.new_event_loop = _Loop
