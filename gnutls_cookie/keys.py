"""The two cookie keys of a server: the one that signs, and the one before it, which still verifies.

A cookie lives for one round trip, so the previous key is needed only for clients that are in
the middle of an exchange when the key changes.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from ._check import bytes_copy, check_key_size, seconds
from .cookie import COOKIE_KEY_SIZE, generate_key
from .tickets import secret_print

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["KeyRing", "Keys", "key_material", "use_clock"]

Keys = tuple[bytes, "bytes | None"]
"""The current key and the previous one."""

_SALT = b"gnutls-cookie"
_INFO = b"DTLS cookie key"
_FAR_SECONDS = 2.0**63  # from the epoch: the number of a period is written in 8 bytes


class KeyRing:
    """The current cookie key and the previous one. Both verify, the current one signs.

    Args:
        current: the key that signs, 1..2**31-1 bytes; 16 random ones are usual.
        previous: the key that verifies as well; None: only `current` does.

    Raises:
        ValueError: a key is empty.
        OverflowError: a key is longer than 2**31-1 bytes.
        TypeError: a key is not bytes-like.

    Example:
        >>> ring = KeyRing(b"first key")
        >>> ring.rotate(b"second key")
        >>> ring.keys_at(0.0)
        (b'second key', b'first key')
    """

    __slots__ = ("_source",)

    def __init__(self, current: Buffer, previous: Buffer | None = None) -> None:
        self._source: _FixedKeys | _KeysOfSecret = _FixedKeys(
            _key("current", current), None if previous is None else _key("previous", previous)
        )

    @classmethod
    def random(cls) -> KeyRing:
        """A ring with one fresh random key (gnutls_key_generate)."""
        return cls(generate_key())

    @classmethod
    def from_secret(cls, secret: Buffer, period: float = 3600.0) -> KeyRing:
        """A ring whose keys follow from one secret and the time: the same on every node of a fleet.

        The key of period number n (n = floor(unix time / period)) is HKDF-SHA256 (RFC 5869) of the
        secret with the salt "gnutls-cookie", the info "DTLS cookie key" followed by n as 8 bytes
        big-endian, and a length of 16 bytes. At any time the key of the present period signs, and
        that of the period before verifies as well. Nodes whose clocks disagree by d seconds cost a
        client one more round trip in the d seconds around a change, nothing else.

        Args:
            secret: at least 16 bytes that nobody can guess.
            period: seconds between two keys, at least 1.

        Raises:
            ValueError: the secret is shorter than 16 bytes, or the period than a second.
            TypeError: an argument is of another type.
        """
        ring = cls(b"replaced by the next line")
        ring._source = _KeysOfSecret(secret, period)
        return ring

    @property
    def fixed_keys(self) -> Keys | None:
        """What keys_at() gives at any time; None where it depends on the time."""
        return self._source.keys

    @property
    def prints(self) -> frozenset[bytes]:
        """What tells its secrets from others without being one: see TicketKey."""
        return self._source.prints()

    def rotate(self, key: Buffer | None = None) -> None:
        """Make a new key the current one, and the current one the previous.

        Args:
            key: the new key; None makes a random one of 16 bytes.

        Raises:
            RuntimeError: the ring was made by from_secret(), and rotates with time alone.
            ValueError, OverflowError, TypeError: as for a new ring.
        """
        self._source = self._source.rotated(key)

    def keys_at(self, now: float | None = None) -> Keys:
        """The current and the previous key (or None) at a time.

        The same tuple object is returned for as long as the keys stay the same.

        Args:
            now: seconds since the epoch, as time.time() gives them; it matters to from_secret().
                None: now.

        Raises:
            TypeError: now is not a number.
            ValueError: now is NaN.
            OverflowError: the number of the period at that time does not fit into 8 bytes.
        """
        return self._source.at(now)

    def __repr__(self) -> str:
        return f"<KeyRing {self._source!r}>"


class _FixedKeys:
    """Keys that a caller gives and changes."""

    __slots__ = ("keys",)

    def __init__(self, current: bytes, previous: bytes | None) -> None:
        self.keys: Keys = (current, previous)

    def at(self, now: float | None) -> Keys:
        if now is not None:
            seconds("now", now, -math.inf, math.inf)
        return self.keys

    def prints(self) -> frozenset[bytes]:
        return frozenset(secret_print(key) for key in self.keys if key is not None)

    def rotated(self, key: Buffer | None) -> _FixedKeys:
        new = generate_key() if key is None else _key("key", key)
        return _FixedKeys(new, self.keys[0])

    def __repr__(self) -> str:
        return f"of {1 if self.keys[1] is None else 2} keys"


class _KeysOfSecret:
    """Keys that follow from a secret and the time."""

    __slots__ = ("_last", "_period", "_secret")
    keys = None  # at any time

    def __init__(self, secret: Buffer, period: float) -> None:
        self._secret = _key("secret", secret)
        if len(self._secret) < 16:
            raise ValueError(f"secret must be of at least 16 bytes, not {len(self._secret)}")
        self._period = seconds("period", period, 1, sys.float_info.max)
        self._last: dict[int, Keys] = {}  # those of one period, by its number

    def at(self, now: float | None) -> Keys:
        time = _clock() if now is None else seconds("now", now, -math.inf, math.inf)
        if abs(time) >= _FAR_SECONDS:
            raise OverflowError(f"now must be less than 2**63 seconds from the epoch, not {time}")
        number = math.floor(time / self._period)
        keys = self._last.get(number)
        if keys is None:
            keys = (self._derived(number), self._derived(number - 1))
            self._last = {number: keys}
        return keys

    def prints(self) -> frozenset[bytes]:
        return frozenset([secret_print(self._secret)])

    def rotated(self, key: Buffer | None) -> _FixedKeys:
        raise RuntimeError("a ring made by from_secret() rotates with time alone")

    def __repr__(self) -> str:
        return f"from a secret, period {self._period:g} s"

    def _derived(self, number: int) -> bytes:
        return _hkdf(self._secret, _INFO + number.to_bytes(8, "big", signed=True), COOKIE_KEY_SIZE)


def _no_clock() -> float:
    raise RuntimeError("no clock: give the time, or call use_clock() first")


_clock: Callable[[], float] = _no_clock


def use_clock(clock: Callable[[], float]) -> None:
    """Set what is asked for the time where a caller gives None; the package sets time.time()."""
    global _clock
    _clock = clock


def key_material(secret: bytes) -> bytes:
    """The 32 bytes that all keys of a secret are made of: HKDF-SHA256, extract (RFC 5869 2.2)."""
    return hmac.digest(_SALT, secret, "sha256")


def _hkdf(secret: bytes, info: bytes, length: int) -> bytes:
    """HKDF-SHA256 for at most 32 bytes: extract, and the first block of expand (RFC 5869 2)."""
    assert length <= hashlib.sha256().digest_size
    return hmac.digest(key_material(secret), info + b"\x01", "sha256")[:length]


def _key(name: str, value: Buffer) -> bytes:
    key = bytes_copy(name, value, check_key_size)
    if not key:
        raise ValueError(f"{name} must not be empty")
    return key
