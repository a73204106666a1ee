"""What sessions resume by (RFC 5077): the key of a server's tickets, and what a client keeps."""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING

from ._check import bytes_copy
from ._ffi import ffi, lib
from ._owned import not_copied
from .errors import check

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "TICKET_KEY_SIZE",
    "TicketKey",
    "digest_of",
    "kept_session",
    "resumable",
    "secret_print",
    "tickets_are_safe",
]

TICKET_KEY_SIZE = 64  # bytes: TICKET_MASTER_KEY_SIZE of lib/gnutls_int.h
_LEAST_SECRET = 16  # bytes
_SALT = b"gnutls-cookie"
_INFO = b"DTLS session ticket key"
_ASKS = b"what clients are asked for\0"


class TicketKey:
    """The key of a server's session tickets (gnutls_session_ticket_enable_server).

    A ticket is the whole state of a session, sealed: the client keeps it, and any server with the
    key resumes from it. Whoever has the key can open the tickets that passed on the network, and
    with them decrypt the sessions of those tickets, past ones too. So it is worth more than a
    cookie key, and is never made of the same secret.

    libgnutls seals with keys that follow from this one and the time: a new one every 18 hours, and
    the one before still opens. A ticket is good for six hours. Servers with the same key agree as
    long as their clocks do.

    Args:
        key: 64 bytes, as gnutls_session_ticket_key_generate() makes them.

    Raises:
        ValueError: it is of another size.
        TypeError: it is not bytes-like.

    Example:
        >>> from gnutls_cookie import TicketKey
        >>> TicketKey.from_secret(b"0123456789abcdef")
        <TicketKey from a secret>
    """

    __slots__ = ("_key", "_print")
    __reduce__ = not_copied

    def __init__(self, key: Buffer) -> None:
        self._key = bytes_copy("key", key)
        if len(self._key) != TICKET_KEY_SIZE:
            raise ValueError(f"key must be of {TICKET_KEY_SIZE} bytes, not {len(self._key)}")
        self._print: bytes | None = None  # of the secret that it is made of

    @classmethod
    def random(cls) -> TicketKey:
        """A fresh random key (gnutls_session_ticket_key_generate)."""
        out = ffi.new("gnutls_datum_t *")
        check(lib.gnutls_session_ticket_key_generate(out))
        try:
            return cls(bytes(ffi.buffer(out.data, out.size)))
        finally:
            lib.gnutls_memset(out.data, 0, out.size)
            lib.gcookie_free(out.data)

    @classmethod
    def from_secret(cls, secret: Buffer) -> TicketKey:
        """A key that follows from a secret: the same on every node of a fleet.

        It is HKDF-SHA512 (RFC 5869) of the secret with the salt "gnutls-cookie", the info "DTLS
        session ticket key" and a length of 64 bytes.

        Args:
            secret: at least 16 bytes that nobody can guess, and not the secret of the cookie keys.

        Raises:
            ValueError: it is shorter.
            TypeError: it is not bytes-like.
        """
        raw = bytes_copy("secret", secret)
        if len(raw) < _LEAST_SECRET:
            raise ValueError(f"secret must be of at least {_LEAST_SECRET} bytes, not {len(raw)}")
        key = cls(hmac.digest(hmac.digest(_SALT, raw, "sha512"), _INFO + b"\x01", "sha512"))
        key._print = secret_print(raw)
        return key

    def is_of(self, prints: frozenset[bytes]) -> bool:
        """Whether it is made of one of the secrets with these prints, or is one.

        Args:
            prints: KeyRing.prints.

        Raises:
            TypeError: it is not a frozenset.
        """
        if not isinstance(prints, frozenset):
            raise TypeError(f"prints must be a frozenset, not {type(prints).__name__}")
        return self._print in prints or secret_print(self._key) in prints

    def bytes_for(self, asked: bytes) -> bytes:
        """What libgnutls gets. Servers that ask other things of their clients have other keys: the
        ticket of one that lets anybody in must not pass by a shared key, or a certificate.

        Args:
            asked: what clients are asked for; b"": nothing.

        Raises:
            TypeError: it is not bytes-like.
        """
        asked = bytes_copy("asked", asked)
        return hmac.digest(self._key, _ASKS + asked, "sha512") if asked else self._key

    def __repr__(self) -> str:
        return f"<TicketKey {'of 64 bytes' if self._print is None else 'from a secret'}>"


def secret_print(secret: bytes) -> bytes:
    """What tells two secrets apart without being one."""
    return hashlib.sha256(b"gnutls-cookie: which secret\0" + secret).digest()


def tickets_are_safe() -> bool:
    """Whether libgnutls seals tickets with the key that it is given: before 3.6.14 it uses zeros
    until its first rotation (GNUTLS-SA-2020-06-03)."""
    return bool(lib.gnutls_check_version(b"3.6.14") != ffi.NULL)


# --- what a client keeps --------------------------------------------------------------------------
# A resumed handshake shows no certificate: what was verified is what counts. So the data says of
# whom that was, and a session that wants more than the earlier one is not made with it. A digest
# stands at the end: libgnutls reads what it wrote without looking, and crashes on anything else.

_MAGIC = b"gnutls-cookie session 2\0"
_DIGEST_SIZE = hashlib.sha256().digest_size
_MEETS_SIZE = 2 * _DIGEST_SIZE


def digest_of(*parts: bytes) -> bytes:
    """One for all of them, each with its length. 32 bytes."""
    return hashlib.sha256(b"".join(len(part).to_bytes(8) + part for part in parts)).digest()


def kept_session(data: bytes, verified: bool, name: bytes, meets: bytes) -> bytes:
    """What gnutls_session_get_data2 gave, with what was known of the server.

    Args:
        data: of libgnutls.
        verified: whether the server's certificate had to be trusted.
        name: the name in it, at most 255 bytes; b"" where none was asked for.
        meets: a digest of whom the client trusts, and one of the identity that it says.
    """
    assert len(meets) == _MEETS_SIZE
    kept = _MAGIC + bytes([verified, len(name)]) + name + meets + data
    return kept + hashlib.sha256(kept).digest()


def resumable(kept: bytes, verifies: bool, has_identity: bool, name: bytes, meets: bytes) -> bytes:
    """What gnutls_session_set_data takes of what kept_session() made.

    Args:
        kept: of an earlier session.
        verifies: whether the new session wants the server's certificate to be trusted.
        has_identity: whether it has one of a pre-shared key.
        name: the name that it wants in there.
        meets: as of kept_session().

    Raises:
        ValueError: it is something else, or of a session that was told less of the server.
    """
    at = len(_MAGIC) + 2
    end = len(kept) - _DIGEST_SIZE
    if not kept.startswith(_MAGIC) or end < at or kept[end:] != hashlib.sha256(kept[:end]).digest():
        raise ValueError("resume is not what session_data gave")
    verified, size = kept[at - 2 : at]
    other, at = kept[at : at + size], at + size
    trusts, says = kept[at : at + _DIGEST_SIZE], kept[at + _DIGEST_SIZE : at + _MEETS_SIZE]
    if verifies and not verified:
        raise ValueError("resume is of a session that did not verify its server")
    if verifies and other != name:
        raise ValueError("resume is of a session with a server of another name")
    if verifies and trusts != meets[:_DIGEST_SIZE]:
        raise ValueError("resume is of a session that trusted others")
    if has_identity and says != meets[_DIGEST_SIZE:]:
        raise ValueError("resume is of a session with another identity")
    return kept[at + _MEETS_SIZE : end]
