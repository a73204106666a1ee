"""The DTLS cookie exchange of the real libgnutls, from Python (RFC 6347 4.2.1).

- cookie_send(), cookie_verify(), prestate_set(): libgnutls' functions, with C's meaning.
- CookieGate: a datagram in, a verdict out. CookieListener: the same on a UDP socket, in C.
  KeyRing: their keys, which rotate, or come from one secret for many nodes.
- Session, Server, Client: DTLS without sockets and clocks, with PSKCredentials or
  CertificateCredentials.
- gnutls_cookie.aio, gnutls_cookie.blocking: start_server() and connect(), for asyncio and threads.
- gnutls_cookie.xdp: the gate in the kernel. gnutls_cookie.metrics: counters for Prometheus.
- gnutls_cookie.reference, gnutls_cookie.differential: the functions in pure Python, and what tells
  an implementation of yours apart from libgnutls.

A stranger's first datagram is answered with a cookie:

    >>> from gnutls_cookie import CookieGate, KeyRing, client_data
    >>> from gnutls_cookie.reference.wire import client_hello
    >>> gate = CookieGate(KeyRing.random())
    >>> verdict = gate.receive(client_hello(), client_data.sockaddr(("192.0.2.1", 5684)))
    >>> type(verdict).__name__, len(verdict.datagram)
    ('Challenge', 44)
"""

from __future__ import annotations

import time as _time

from . import _early as _early
from . import _library as _library
from ._debug import debug_log
from ._version import __version__
from .address import client_data
from .anonymous import AnonymousCredentials
from .arrival import Arrival
from .certificates import CertificateNames
from .client import Client
from .cookie import (
    COOKIE_KEY_SIZE,
    COOKIE_SIZE,
    HELLO_VERIFY_REQUEST_SIZE,
    Prestate,
    cookie_reply,
    cookie_send,
    cookie_verify,
    generate_key,
    library_version,
    prestate_set,
)
from .errors import (
    BadCookieError,
    CertificateVerificationError,
    ConnectionClosedError,
    FatalAlertError,
    GnuTLSError,
    InvalidRequestError,
    LargePacketError,
    PushError,
    TimedOutError,
    UnexpectedPacketLengthError,
)
from .gate import Challenge, CookieGate, Discarded, DiscardReason, Verified
from .handles import HandleTable
from .keys import KeyRing
from .keys import use_clock as _use_clock
from .listener import CookieListener
from .server import (
    Closed,
    CloseReason,
    Connected,
    HandshakeFailure,
    MessageReady,
    RefusalReason,
    Server,
    ServerCounters,
)
from .session import CertificateCredentials, PSKCredentials, Session
from .tickets import TicketKey

__all__ = [
    "COOKIE_KEY_SIZE",
    "COOKIE_SIZE",
    "HELLO_VERIFY_REQUEST_SIZE",
    "AnonymousCredentials",
    "Arrival",
    "BadCookieError",
    "CertificateCredentials",
    "CertificateNames",
    "CertificateVerificationError",
    "Challenge",
    "Client",
    "CloseReason",
    "Closed",
    "Connected",
    "ConnectionClosedError",
    "CookieGate",
    "CookieListener",
    "DiscardReason",
    "Discarded",
    "FatalAlertError",
    "GnuTLSError",
    "HandleTable",
    "HandshakeFailure",
    "InvalidRequestError",
    "KeyRing",
    "LargePacketError",
    "MessageReady",
    "PSKCredentials",
    "Prestate",
    "PushError",
    "RefusalReason",
    "Server",
    "ServerCounters",
    "Session",
    "TicketKey",
    "TimedOutError",
    "UnexpectedPacketLengthError",
    "Verified",
    "__version__",
    "client_data",
    "cookie_reply",
    "cookie_send",
    "cookie_verify",
    "debug_log",
    "generate_key",
    "library_version",
    "prestate_set",
]

# The rooms below know no clock: this is the one that a KeyRing of from_secret() asks.
_use_clock(lambda: _time.time())
