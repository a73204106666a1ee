"""The DTLS cookie exchange of the real libgnutls, from Python (RFC 6347 4.2.1)."""

from __future__ import annotations

import time as _time

from . import _early as _early
from . import _library as _library
from ._version import __version__
from .address import client_data
from .arrival import Arrival
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
    GnuTLSError,
    InvalidRequestError,
    PushError,
    UnexpectedPacketLengthError,
)
from .gate import Challenge, CookieGate, Discarded, DiscardReason, Verified
from .handles import HandleTable
from .keys import KeyRing
from .keys import use_clock as _use_clock
from .listener import CookieListener
from .server import Server
from .session import CertificateCredentials, PSKCredentials, Session

__all__ = [
    "COOKIE_KEY_SIZE",
    "COOKIE_SIZE",
    "HELLO_VERIFY_REQUEST_SIZE",
    "Arrival",
    "BadCookieError",
    "CertificateCredentials",
    "Challenge",
    "CookieGate",
    "CookieListener",
    "DiscardReason",
    "Discarded",
    "GnuTLSError",
    "HandleTable",
    "InvalidRequestError",
    "KeyRing",
    "PSKCredentials",
    "Prestate",
    "PushError",
    "Server",
    "Session",
    "UnexpectedPacketLengthError",
    "Verified",
    "__version__",
    "client_data",
    "cookie_reply",
    "cookie_send",
    "cookie_verify",
    "generate_key",
    "library_version",
    "prestate_set",
]

# The rooms below know no clock: this is the one that a KeyRing of from_secret() asks.
_use_clock(lambda: _time.time())
