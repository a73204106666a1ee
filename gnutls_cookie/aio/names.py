"""Names of hosts, resolved without waiting."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from gnutls_cookie.errors import naming

__all__ = ["resolve"]


async def resolve(host: str, port: int, *, family: int = 0, flags: int = 0) -> list[Any]:
    """What getaddrinfo finds for UDP.

    Raises:
        OSError: the name is not known; the text names it.
    """
    with naming(host):
        return await asyncio.get_running_loop().getaddrinfo(
            host, port, family=family, type=socket.SOCK_DGRAM, flags=flags
        )
