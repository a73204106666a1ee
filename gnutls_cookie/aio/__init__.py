"""DTLS servers and clients for asyncio, in the manner of its own start_server().

server.py and client.py are the two halves, over one driver of a socket in the event loop.
"""

from __future__ import annotations

from .client import connect
from .connection import Connection
from .protocol import Protocol
from .server import DTLSServer, Handler, start_server

__all__ = ["Connection", "DTLSServer", "Handler", "Protocol", "connect", "start_server"]
