"""GnuTLSError and its subclasses: a negative libgnutls code becomes an exception with that code."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ._convert import c_text
from ._ffi import ffi, lib

__all__ = [
    "BadCookieError",
    "CertificateVerificationError",
    "ConnectionClosedError",
    "FatalAlertError",
    "GnuTLSError",
    "InvalidRequestError",
    "LargePacketError",
    "PushError",
    "TimedOutError",
    "UnexpectedPacketLengthError",
    "check",
    "connection_closed",
    "error_from_code",
    "fresh",
    "naming",
    "timed_out",
]


class GnuTLSError(Exception):
    """An error code of libgnutls: `code`, `name` and `detail`."""

    def __init__(self, code: int, detail: str = "") -> None:
        self.args = (code, detail)  # OSError, a base of some subclasses, would leave it empty

    @property
    def code(self) -> int:
        """The negative GNUTLS_E_* value, as C returned it."""
        return int(self.args[0])

    @property
    def detail(self) -> str:
        """What is known beyond the code; "" if nothing is."""
        return str(self.args[1])

    @property
    def name(self) -> str:
        """The symbol of the code, such as "GNUTLS_E_BAD_COOKIE" (gnutls_strerror_name)."""
        name = lib.gnutls_strerror_name(self.code)
        return "GNUTLS_E_UNKNOWN" if name == ffi.NULL else c_text(name)

    def __str__(self) -> str:
        text = f"{c_text(lib.gnutls_strerror(self.code))} [{self.name}, {self.code}]"
        return f"{text}: {self.detail}" if self.detail else text

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.code}{f', {self.detail!r}' if self.detail else ''})"

    def __reduce__(self) -> tuple[type[GnuTLSError], tuple[int, str]]:
        return type(self), (self.code, self.detail)


class BadCookieError(GnuTLSError, ValueError):
    """GNUTLS_E_BAD_COOKIE (-214): no cookie, or not the one of key and client_data."""


class UnexpectedPacketLengthError(GnuTLSError, ValueError):
    """GNUTLS_E_UNEXPECTED_PACKET_LENGTH (-9): the datagram ends within the fields."""


class InvalidRequestError(GnuTLSError, ValueError):
    """GNUTLS_E_INVALID_REQUEST (-50): for the cookie functions, an empty key."""


class LargePacketError(GnuTLSError, ValueError):
    """GNUTLS_E_LARGE_PACKET (-7): a message larger than one datagram of the MTU carries."""


class PushError(GnuTLSError, OSError):
    """GNUTLS_E_PUSH_ERROR (-53): the push function failed. Its errno is lost in C."""


class TimedOutError(GnuTLSError, TimeoutError):
    """GNUTLS_E_TIMEDOUT (-319): the handshake did not end within its total time."""


class FatalAlertError(GnuTLSError, ConnectionError):
    """GNUTLS_E_FATAL_ALERT_RECEIVED (-12): the peer gave up; `detail` is the alert's name."""


class ConnectionClosedError(GnuTLSError, ConnectionResetError):
    """GNUTLS_E_INVALID_SESSION (-10): a message for a connection of `aio` or `blocking` that has
    ended; `detail` says how, and `__cause__` is the error that it failed with, if it failed."""


class CertificateVerificationError(GnuTLSError, ValueError):
    """GNUTLS_E_CERTIFICATE_VERIFICATION_ERROR (-348): the peer's certificate is not trusted."""


_KINDS: dict[int, type[GnuTLSError]] = {
    lib.GNUTLS_E_BAD_COOKIE: BadCookieError,
    lib.GNUTLS_E_UNEXPECTED_PACKET_LENGTH: UnexpectedPacketLengthError,
    lib.GNUTLS_E_INVALID_REQUEST: InvalidRequestError,
    lib.GNUTLS_E_LARGE_PACKET: LargePacketError,
    lib.GNUTLS_E_PUSH_ERROR: PushError,
    lib.GNUTLS_E_TIMEDOUT: TimedOutError,
    lib.GNUTLS_E_FATAL_ALERT_RECEIVED: FatalAlertError,
    lib.GNUTLS_E_CERTIFICATE_VERIFICATION_ERROR: CertificateVerificationError,
}


def error_from_code(code: int, detail: str = "") -> GnuTLSError:
    """The exception for a negative libgnutls code."""
    return _KINDS.get(code, GnuTLSError)(code, detail)


def connection_closed(detail: str, cause: BaseException | None = None) -> ConnectionClosedError:
    """The error of a send() after the end of a connection."""
    error = ConnectionClosedError(lib.GNUTLS_E_INVALID_SESSION, detail)
    error.__cause__ = None if cause is None else fresh(cause)
    return error


def timed_out(detail: str = "") -> TimedOutError:
    """The error of a handshake that did not end in time."""
    return TimedOutError(lib.GNUTLS_E_TIMEDOUT, detail)


def fresh(error: BaseException) -> BaseException:
    """An error to raise again: a copy if it can be made.

    One object that several tasks raise would collect the frames of all of them in its traceback,
    and keep alive what they hold.
    """
    if isinstance(error, GnuTLSError):
        return type(error)(error.code, error.detail)
    return error.with_traceback(None)


@contextlib.contextmanager
def naming(path: object) -> Iterator[None]:
    """Have an OSError name a file, which those of reading and writing one do not (a bad disk), or
    a host, which those of looking one up do not."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


def check(code: int, detail: str = "") -> int:
    """Return a result of libgnutls, or raise it as an error.

    Raises:
        GnuTLSError: `code` is negative.
    """
    if code < 0:
        raise error_from_code(code, detail)
    return code
