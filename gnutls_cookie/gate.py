"""The gate: one datagram of an unknown client in, one verdict out (RFC 6347 4.2.1).

Sans-IO, and without state for any client. libgnutls makes and verifies each cookie; the gate adds
the strict reading of the ClientHello, the echo of its two sequence numbers, and a second key. The
bytes are read in native/gate.c; reference/gate.py is the same in Python.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from ._check import seconds
from ._convert import readable, readable_client_data
from ._ffi import ffi, lib
from ._owned import not_copied
from .cookie import Prestate
from .keys import KeyRing, Keys

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Challenge", "CookieGate", "DiscardReason", "Discarded", "GateCounters", "Verified"]

_KEYS = ffi.typeof("struct gcookie_keys *")
_VERDICT = ffi.typeof("struct gcookie_verdict *")
_COUNTERS = ffi.typeof("struct gcookie_counters *")


class DiscardReason(IntEnum):
    """Why a datagram gets no answer. The first of these that applies is the reason."""

    RECORD_HEADER = 1
    """Shorter than a record header, 13 bytes (RFC 6347 4.1)."""
    CONTENT_TYPE = 2
    """The first record is not a handshake record (RFC 6347 4.1)."""
    RECORD_VERSION = 3
    """The version is none of DTLS 1.0 (feff), 1.2 (fefd) and 0.9 (0100) (RFC 6347 4.1)."""
    EPOCH = 4
    """The epoch is not 0: the record claims keys that nobody agreed on (RFC 6347 4.1)."""
    RECORD_LENGTH = 5
    """The record is longer than the datagram, or than 2**14 bytes (RFC 6347 4.1)."""
    HANDSHAKE_HEADER = 6
    """The record is shorter than a handshake header, 12 bytes (RFC 6347 4.2.2)."""
    HANDSHAKE_TYPE = 7
    """The handshake message is not a ClientHello (RFC 6347 4.2.2)."""
    MESSAGE_SEQ = 8
    """message_seq is above 255, more than libgnutls can echo (RFC 6347 4.2.2)."""
    FRAGMENT_OFFSET = 9
    """A later fragment: the cookie is in the first (RFC 6347 4.2.3)."""
    FRAGMENT_LENGTH = 10
    """fragment_length disagrees with the record, or with the message (RFC 6347 4.2.2)."""
    TRAILING_DATA = 11
    """The datagram goes on after a whole ClientHello, which is a flight (RFC 6347 4.2.4)."""
    SESSION_ID = 12
    """The session id is longer than 32 bytes (RFC 5246 7.4.1.2)."""
    COOKIE_FIELD = 13
    """The cookie field is not inside this fragment (RFC 6347 4.2.1)."""
    INTERNAL = 14
    """libgnutls could not make a cookie. Never seen."""


@dataclass(frozen=True, slots=True)
class Challenge:
    """The client has to show that it receives at its address: send `datagram` back to it.

    Attributes:
        datagram: a HelloVerifyRequest, 44 bytes.
        presented_cookie: whether the client presented a cookie (a wrong one, or one of an old key).
    """

    datagram: bytes
    presented_cookie: bool


@dataclass(frozen=True, slots=True)
class Verified:
    """The client has shown that it receives at its address: open a session.

    Attributes:
        prestate: for prestate_set() or `Session(prestate=...)`; the datagram is the first thing
            that the session must read.
        key_age: 0 where the current key made the cookie, 1 where it was the previous one.
    """

    prestate: Prestate
    key_age: int


@dataclass(frozen=True, slots=True)
class Discarded:
    """The datagram deserves no answer.

    Attributes:
        reason: why.
    """

    reason: DiscardReason


@dataclass(frozen=True, slots=True)
class GateCounters:
    """What became of the datagrams so far.

    Attributes:
        challenged: answered with a HelloVerifyRequest.
        presented: of these, how many presented a cookie.
        verified: verified with the current key.
        verified_previous: verified with the previous key.
        discarded: by reason; the reasons that occurred.
    """

    challenged: int
    presented: int
    verified: int
    verified_previous: int
    discarded: Mapping[DiscardReason, int]


class CookieGate:
    """Decides what to do with the first datagrams of clients.

    Nothing that comes from the network makes it raise, and nothing is kept of it. Many threads may
    use it at once.

    Args:
        keys: the cookie key (1..2**31-1 bytes), or a KeyRing.

    Raises:
        ValueError: the key is empty.
        OverflowError: the key is longer than 2**31-1 bytes.
        TypeError: keys is of another type.

    Example:
        >>> from gnutls_cookie import CookieGate, Discarded, KeyRing
        >>> gate = CookieGate(KeyRing.random())
        >>> gate.receive(b"what is this?", b"client")
        Discarded(reason=<DiscardReason.CONTENT_TYPE: 2>)
    """

    __slots__ = ("_made", "_ring", "native_counters")
    __reduce__ = not_copied

    def __init__(self, keys: Buffer | KeyRing) -> None:
        self._ring = keys if isinstance(keys, KeyRing) else _ring(keys)
        self._made: tuple[object, Any, Any] = ("not yet", None, None)
        self.native_counters = ffi.new(_COUNTERS)

    @property
    def keys(self) -> KeyRing:
        """The KeyRing in use. Another may be set, from any thread: cookies of the former one are
        no longer accepted, which costs a client in the middle of an exchange one round trip."""
        return self._ring

    @keys.setter
    def keys(self, keys: KeyRing) -> None:
        if not isinstance(keys, KeyRing):
            raise TypeError(f"keys must be a KeyRing, not {type(keys).__name__}")
        self._ring = keys

    @property
    def counters(self) -> GateCounters:
        """What became of the datagrams so far, a listener's included."""
        counted = self.native_counters
        return GateCounters(
            challenged=counted.challenged,
            presented=counted.presented,
            verified=counted.verified[0],
            verified_previous=counted.verified[1],
            discarded={
                reason: counted.discarded[reason]
                for reason in DiscardReason
                if counted.discarded[reason]
            },
        )

    def receive(
        self, datagram: Buffer, client_data: Buffer | None, now: float | None = None
    ) -> Challenge | Verified | Discarded:
        """Decide about a datagram from a client without a session.

        Args:
            datagram: the whole datagram as it came: any bytes, any size.
            client_data: what identifies the client, usually its address (see
                `gnutls_cookie.client_data`); may be empty or None.
            now: seconds since the epoch, for a KeyRing of from_secret(); None: now, by time.time().

        Returns:
            Challenge: send its datagram to the client and forget it.
            Verified: open a session with its prestate.
            Discarded: do nothing.

        Raises:
            TypeError: datagram or client_data is not bytes-like, or now not a number.
            ValueError: datagram or client_data is not contiguous, or now is NaN.
            OverflowError: as of KeyRing.keys_at().
        """
        if now is not None:
            seconds("now", now, -math.inf, math.inf)
        verdict = ffi.new(_VERDICT)
        c = readable_client_data(client_data)
        d = readable("datagram", datagram)
        kind = lib.gcookie_gate_counted(
            self.native_keys(now), c, len(c), d, len(d), verdict, self.native_counters
        )
        if kind == _CHALLENGE:
            return Challenge(ffi.buffer(verdict.reply)[:], verdict.presented != 0)
        if kind == _VERIFIED:
            return Verified(Prestate.from_struct(verdict.prestate), verdict.key_age)
        return _DISCARDED[verdict.reason]

    def native_keys(self, now: float | None) -> Any:
        """The keys at a time as C takes them. A change makes a new struct and never changes one in
        place: another thread may be using the old one, which is wiped when the last user is done.
        """
        source = self._ring._source
        keys = source.keys or source.at(now)
        made_of, native, _ = self._made
        if keys is not made_of or not native.current.size:  # or wiped, and this is a finalizer
            native, memory = _native(keys)
            self._made = (keys, native, memory)
        return native

    def __repr__(self) -> str:
        return f"<CookieGate {self._ring!r}>"


_CHALLENGE: int = lib.GCOOKIE_CHALLENGE
_VERIFIED: int = lib.GCOOKIE_VERIFIED
_DISCARDED = {int(reason): Discarded(reason) for reason in DiscardReason}


def _ring(key: Buffer) -> KeyRing:
    try:
        return KeyRing(key)
    except TypeError:
        kind = type(key).__name__
        hint = " (shared keys are for PSKCredentials)" if isinstance(key, Mapping) else ""
        raise TypeError(
            f"keys of cookies must be a bytes-like object or a KeyRing, not {kind}{hint}"
        ) from None
    except ValueError:
        raise ValueError("keys must not be empty") from None
    except OverflowError as error:
        raise OverflowError(str(error).replace("current", "keys", 1)) from None


def _native(keys: Keys) -> tuple[Any, Any]:
    """The keys, wiped with the last reference to them, and their memory, which can be looked at
    after that: see _owned."""
    memory = ffi.new(_KEYS)
    native = ffi.gc(memory, lib.gcookie_keys_wipe)
    for field, key in (native.current, keys[0]), (native.previous, keys[1]):
        if key is not None:
            if len(key) > lib.GCOOKIE_KEY_CAPACITY:
                key = hashlib.sha1(key).digest()  # what HMAC-SHA1 makes of it (RFC 2104 2)
            ffi.memmove(field.data, key, len(key))
            field.size = len(key)
    return native, memory
