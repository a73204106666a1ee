"""DTLS servers and clients for plain scripts: a thread a connection, calls that wait.

server.py and client.py are the two halves, with the abilities of gnutls_cookie.aio.

Python runs signal handlers in the main thread alone, and what they raise (Ctrl-C does) may strike
between any two steps there. So a server's sessions are worked on by threads of its own, while
the main thread only waits for them; and what a main thread may hold, it holds by an OwnedLock.

Not for gevent's monkey.patch_all(): the waits are in C, where it does not see them. There a
greenlet drives a Server, with CookieListener.poll(0) after gevent.socket.wait_read().
"""

from __future__ import annotations

from .client import connect
from .connection import Connection
from .server import DTLSServer, Handler, serve, start_server

__all__ = ["Connection", "DTLSServer", "Handler", "connect", "serve", "start_server"]
