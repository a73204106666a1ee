"""The gate: one datagram of an unknown client in, one verdict out (RFC 6347 4.2.1).

Sans-IO and without state for any client. libgnutls makes each cookie and libgnutls judges it; the
gate adds the strict reading of the ClientHello, the echo of its two sequence numbers, and a second
key. The bytes are judged in native/gate.c; reference/gate.py is the same in Python.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from ._convert import view
from ._ffi import ffi, lib
from .cookie import Prestate, _or_empty, _owner
from .keys import KeyRing, Keys

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Challenge", "CookieGate", "DiscardReason", "Discarded", "GateCounters", "Verified"]

_KEYS = ffi.typeof("struct gcookie_keys *")
_VERDICT = ffi.typeof("struct gcookie_verdict *")
_PRESTATE = ffi.typeof("gnutls_dtls_prestate_st *")
_COUNTERS = ffi.typeof("struct gcookie_counters *")


class DiscardReason(IntEnum):
    """Why a datagram gets no answer. Judged in this order; the first that holds is the reason."""

    RECORD_HEADER = 1
    """Shorter than a record header, 13 bytes (RFC 6347 4.1)."""
    CONTENT_TYPE = 2
    """The first record is no handshake record (RFC 6347 4.1)."""
    RECORD_VERSION = 3
    """The version is none of DTLS 1.0 (feff), 1.2 (fefd) and 0.9 (0100) (RFC 6347 4.1)."""
    EPOCH = 4
    """The epoch is not 0: the record claims keys that nobody agreed on (RFC 6347 4.1)."""
    RECORD_LENGTH = 5
    """The record is longer than the datagram, or than 2**14 bytes (RFC 6347 4.1)."""
    HANDSHAKE_HEADER = 6
    """The record is shorter than a handshake header, 12 bytes (RFC 6347 4.2.2)."""
    HANDSHAKE_TYPE = 7
    """The handshake message is no ClientHello (RFC 6347 4.2.2)."""
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
        presented_cookie: whether the client presented a cookie (no good one, or no more).
    """

    datagram: bytes
    presented_cookie: bool


@dataclass(frozen=True, slots=True)
class Verified:
    """The client has shown that it receives at its address: a session is due.

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
    """Judges the first datagrams of clients.

    Nothing here raises on what came from the network, whatever its bytes; nothing is kept of it. It
    may be used by many threads at once.

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

    __slots__ = ("_counters", "_made", "_ring")

    def __init__(self, keys: Buffer | KeyRing) -> None:
        self._ring = keys if isinstance(keys, KeyRing) else _ring(keys)
        self._made: tuple[object, Any] = ("not yet", None)
        self._counters = ffi.new(_COUNTERS)

    @property
    def keys(self) -> KeyRing:
        """The KeyRing in use. Another may be set, from any thread: cookies of the former one are
        then good no more, which costs a client in mid-exchange one round trip."""
        return self._ring

    @keys.setter
    def keys(self, keys: KeyRing) -> None:
        if not isinstance(keys, KeyRing):
            raise TypeError(f"keys must be a KeyRing, not {type(keys).__name__}")
        self._ring = keys

    @property
    def counters(self) -> GateCounters:
        """What became of the datagrams so far, a listener's included."""
        counted = self._counters
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
        """Judge a datagram that came from a client without a session.

        Args:
            datagram: as it came, whole; any bytes of any number.
            client_data: what identifies the client, usually its address (see
                `gnutls_cookie.client_data`); may be empty or None.
            now: seconds since the epoch, for a KeyRing of from_secret(); None asks time.time().

        Returns:
            Challenge: send its datagram to the client and forget it.
            Verified: open a session with its prestate.
            Discarded: do nothing.

        Raises:
            TypeError: datagram or client_data is not bytes-like.
            ValueError: datagram or client_data is not contiguous.
        """
        made_of, keys = self._made
        if self._ring.fixed_keys is not made_of:  # replaced, or a matter of time
            keys = self._native_keys(now)
        try:
            seat = _SEATS.pop()
        except IndexError:  # asking first would leave room for another thread
            seat = _new_seat()
        verdict, reply = seat
        if type(datagram) is bytes and type(client_data) is bytes:
            kind = _C_GATE(
                keys, client_data, len(client_data), datagram, len(datagram), verdict,
                self._counters,
            )  # fmt: skip
        else:
            with (
                view("datagram", datagram) as d,
                view("client_data", _or_empty(client_data)) as c,
            ):
                kind = _C_GATE(keys, c, len(c), d, len(d), verdict, self._counters)
        answer: Challenge | Verified | Discarded
        if kind == _CHALLENGE:
            answer = _new(Challenge)  # a frozen dataclass' own __init__ takes twice as long
            _set_datagram(answer, reply[:])
            _set_presented_cookie(answer, verdict.presented != 0)
        elif kind == _VERIFIED:
            answer = Verified(_owner(ffi.new(_PRESTATE, verdict.prestate)), verdict.key_age)
        else:
            answer = _DISCARDED[verdict.reason]
        _SEATS.append(seat)
        return answer

    def __repr__(self) -> str:
        return f"<CookieGate {self._ring!r}>"

    def _native_keys(self, now: float | None = None) -> Any:
        """The keys as C wants them. Made anew where they changed, never changed in place: a thread
        may be at work with the old ones, which are wiped when nobody is any more."""
        keys = self._ring.fixed_keys
        if keys is None:
            keys = self._ring.keys_at(time.time() if now is None else now)
        made_of, native = self._made
        if keys is not made_of:
            native = _native(keys)
            self._made = (keys, native)
        return native


_C_GATE = lib.gcookie_gate_counted
_CHALLENGE: int = lib.GCOOKIE_CHALLENGE
_VERIFIED: int = lib.GCOOKIE_VERIFIED
_DISCARDED = {int(reason): Discarded(reason) for reason in DiscardReason}

_new = object.__new__
_set_datagram = vars(Challenge)["datagram"].__set__
_set_presented_cookie = vars(Challenge)["presented_cookie"].__set__

# Where C writes its verdicts, each with a view of its reply. A call takes one and gives it back, so
# that there are as many as threads ever were in receive() at once. list.pop and append are atomic.
_SEATS: list[tuple[Any, Any]] = []


def _new_seat() -> tuple[Any, Any]:
    verdict = ffi.new(_VERDICT)
    return verdict, ffi.buffer(verdict.reply)


def _ring(key: Buffer) -> KeyRing:
    try:
        return KeyRing(key)
    except TypeError:
        kind = type(key).__name__
        raise TypeError(f"keys must be a bytes-like object or a KeyRing, not {kind}") from None
    except ValueError:
        raise ValueError("keys must not be empty") from None
    except OverflowError as error:
        raise OverflowError(str(error).replace("current", "keys", 1)) from None


def _native(keys: Keys) -> Any:
    native = ffi.gc(ffi.new(_KEYS), _wipe)
    for field, key in (native.current, keys[0]), (native.previous, keys[1]):
        if key is not None:
            if len(key) > lib.GCOOKIE_KEY_CAPACITY:
                key = hashlib.sha1(key).digest()  # what HMAC-SHA1 makes of it (RFC 2104 2)
            ffi.memmove(field.data, key, len(key))
            field.size = len(key)
    return native


def _wipe(native: Any) -> None:
    lib.gnutls_memset(native, 0, ffi.sizeof("struct gcookie_keys"))
