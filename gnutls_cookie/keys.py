"""The two cookie keys of a server: the one that signs, and the one before it, which still verifies.

A cookie lives for one round trip, so the previous key is needed only for clients that are in
mid-exchange when the key changes.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import math
from typing import TYPE_CHECKING

from ._convert import to_bytes
from .cookie import COOKIE_KEY_SIZE, check_key_size, generate_key

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["KeyRing", "key_material"]

Keys = tuple[bytes, "bytes | None"]

_SALT = b"gnutls-cookie"
_INFO = b"DTLS cookie key"


class KeyRing:
    """The current cookie key and the previous one. Both verify, the current one signs.

    Args:
        current: the key that signs, 1..2**31-1 bytes; 16 random ones are usual.
        previous: the key that verifies as well; None for no other.

    Raises:
        ValueError: a key is empty.
        OverflowError: a key is longer than 2**31-1 bytes.
        TypeError: a key is not bytes-like.

    Example:
        >>> ring = KeyRing(b"first key")
        >>> ring.rotate(b"second key")
        >>> ring.keys_at(0.0)
        (b'second key', b'first key')

    Attributes:
        fixed_keys: what keys_at() gives at any time; None where it depends on the time. Not to be
            set.
    """

    __slots__ = ("_period", "_periods", "_secret", "fixed_keys")

    def __init__(self, current: Buffer, previous: Buffer | None = None) -> None:
        self._secret: bytes | None = None
        self._period = math.inf
        self._periods: dict[int, Keys] = {}
        self.fixed_keys: Keys | None = (
            _key("current", current),
            None if previous is None else _key("previous", previous),
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
        ring = cls(b"\0")  # replaced below: a ring of this kind holds no key of its own
        ring._secret = _key("secret", secret)
        if len(ring._secret) < 16:
            raise ValueError(f"secret must be of at least 16 bytes, not {len(ring._secret)}")
        if isinstance(period, bool) or not isinstance(period, (int, float)):
            raise TypeError(f"period must be a number of seconds, not {type(period).__name__}")
        if not 1 <= period < math.inf:
            raise ValueError(f"period must be at least 1 second, not {period}")
        ring._period = float(period)
        ring.fixed_keys = None
        return ring

    def rotate(self, key: Buffer | None = None) -> None:
        """Make a new key the current one, and the current one the previous.

        Args:
            key: the new key; None makes a random one of 16 bytes.

        Raises:
            RuntimeError: the ring was made by from_secret(), and rotates with time alone.
            ValueError, OverflowError, TypeError: as for a new ring.
        """
        fixed = self.fixed_keys
        if fixed is None:
            raise RuntimeError("a ring made by from_secret() rotates with time alone")
        new = generate_key() if key is None else _key("key", key)
        self.fixed_keys = (new, fixed[0])

    def keys_at(self, now: float) -> Keys:
        """The current and the previous key (or None) at a time.

        The same tuple object comes back for as long as the keys stay the same.

        Args:
            now: seconds since the epoch, as time.time() gives them; it matters to from_secret().

        Raises:
            ValueError: now is no number at all (NaN).
            OverflowError: the number of the period at that time does not fit into 8 bytes.
        """
        fixed = self.fixed_keys
        if fixed is not None:
            return fixed
        number = math.floor(now / self._period)
        keys = self._periods.get(number)
        if keys is None:
            keys = (self._derived(number), self._derived(number - 1))
            self._periods = {number: keys}
        return keys

    def __repr__(self) -> str:
        fixed = self.fixed_keys
        if fixed is None:
            return f"<KeyRing from a secret, period {self._period:g} s>"
        return f"<KeyRing of {1 if fixed[1] is None else 2} keys>"

    def _derived(self, number: int) -> bytes:
        assert self._secret is not None
        return _hkdf(self._secret, _INFO + number.to_bytes(8, "big", signed=True), COOKIE_KEY_SIZE)


def key_material(secret: bytes) -> bytes:
    """The 32 bytes that all keys of a secret are made of: HKDF-SHA256, extract (RFC 5869 2.2)."""
    return hmac.digest(_SALT, secret, "sha256")


def _hkdf(secret: bytes, info: bytes, length: int) -> bytes:
    """HKDF-SHA256 for at most 32 bytes: extract, and the first block of expand (RFC 5869 2)."""
    assert length <= hashlib.sha256().digest_size
    return hmac.digest(key_material(secret), info + b"\x01", "sha256")[:length]


def _key(name: str, value: Buffer) -> bytes:
    with contextlib.suppress(TypeError):  # below
        check_key_size(name, memoryview(value).nbytes)  # before it is copied
    key = to_bytes(name, value)
    if not key:
        raise ValueError(f"{name} must not be empty")
    return key
