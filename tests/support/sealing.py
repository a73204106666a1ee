"""Records of a peer that has the keys and says what it likes: sealed by libgnutls' own ciphers.

A Session gives the keys that it writes with (gnutls_record_get_state); what stands in the record is
the test's. RFC 5246 6.2.3, RFC 5288, RFC 6655, RFC 7905, RFC 7366.
"""

from __future__ import annotations

import ctypes
import hmac
import os

from gnutls_cookie import Session
from gnutls_cookie.reference.wire import CONTENT_HANDSHAKE

_library = ctypes.CDLL("libgnutls.so.30")


class _Datum(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("size", ctypes.c_uint))

    def content(self) -> bytes:
        return ctypes.string_at(self.data, self.size) if self.size else b""


def _datum(data: bytes) -> tuple[_Datum, object]:
    kept = ctypes.create_string_buffer(data, len(data))
    return _Datum(ctypes.cast(kept, ctypes.c_void_p), len(data)), kept


def fragment(
    kind: int, length: int, seq: int, offset: int, data: bytes, size: int | None = None
) -> bytes:
    """A handshake fragment (RFC 6347 4.2.2) that says of itself what it is told."""
    said = len(data) if size is None else size
    return (
        bytes([kind])
        + length.to_bytes(3, "big")
        + seq.to_bytes(2, "big")
        + offset.to_bytes(3, "big")
        + said.to_bytes(3, "big")
        + data
    )


def record(kind: int, body: bytes, seq: int, epoch: int = 0) -> bytes:
    """A record of DTLS 1.2 (RFC 6347 4.1)."""
    head = bytes([kind, 0xFE, 0xFD]) + epoch.to_bytes(2, "big") + seq.to_bytes(6, "big")
    return head + len(body).to_bytes(2, "big") + body


def sealed(
    session: Session, cipher: str, plain: bytes, seq: int, kind: int = CONTENT_HANDSHAKE
) -> bytes:
    """A record of epoch 1 under the keys that `session` writes with, which are of that cipher."""
    address = ctypes.c_void_p(session._gnutls_session_address())
    mac_key, iv, key = _Datum(), _Datum(), _Datum()
    pointers = [ctypes.byref(one) for one in (mac_key, iv, key)]
    assert _library.gnutls_record_get_state(address, 0, *pointers, None) == 0
    number = (1).to_bytes(2, "big") + seq.to_bytes(6, "big")
    if "CBC" not in cipher:
        return record(kind, _aead(cipher, key, iv.content(), number, kind, plain), seq, 1)
    digest = {20: "sha1", 32: "sha256", 48: "sha384"}[mac_key.size]
    block_iv = os.urandom(16)

    def mac(data: bytes) -> bytes:
        head = number + bytes([kind, 0xFE, 0xFD]) + len(data).to_bytes(2, "big")
        return hmac.digest(mac_key.content(), head + data, digest)

    is_outside = bool(_library.gnutls_session_etm_status(address))
    inside = plain if is_outside else plain + mac(plain)
    padding = 15 - len(inside) % 16
    inside += bytes([padding]) * (padding + 1)
    body = block_iv + _cbc(cipher, key, block_iv, inside)
    return record(kind, body + mac(body) if is_outside else body, seq, 1)


def _id(cipher: str) -> int:
    return int(_library.gnutls_cipher_get_id(cipher.encode()))


def _aead(cipher: str, key: _Datum, iv: bytes, number: bytes, kind: int, plain: bytes) -> bytes:
    if "CHACHA20" in cipher:
        explicit = b""
        nonce = iv[:4] + bytes(a ^ b for a, b in zip(iv[4:], number, strict=True))
    else:
        explicit = number
        nonce = iv + explicit
    tag = 8 if cipher.endswith("CCM-8") else 16
    head = number + bytes([kind, 0xFE, 0xFD]) + len(plain).to_bytes(2, "big")
    handle = ctypes.c_void_p()
    assert (
        _library.gnutls_aead_cipher_init(ctypes.byref(handle), _id(cipher), ctypes.byref(key)) == 0
    )
    out = ctypes.create_string_buffer(len(plain) + tag)
    size = ctypes.c_size_t(len(out))
    code = _library.gnutls_aead_cipher_encrypt(
        handle,
        nonce,
        ctypes.c_size_t(len(nonce)),
        head,
        ctypes.c_size_t(len(head)),
        ctypes.c_size_t(tag),
        plain,
        ctypes.c_size_t(len(plain)),
        out,
        ctypes.byref(size),
    )
    _library.gnutls_aead_cipher_deinit(handle)
    assert code == 0
    return explicit + out.raw[: size.value]


def _cbc(cipher: str, key: _Datum, iv: bytes, plain: bytes) -> bytes:
    datum, _kept = _datum(iv)
    handle = ctypes.c_void_p()
    pointers = ctypes.byref(key), ctypes.byref(datum)
    assert _library.gnutls_cipher_init(ctypes.byref(handle), _id(cipher), *pointers) == 0
    data = ctypes.create_string_buffer(plain, len(plain))
    code = _library.gnutls_cipher_encrypt(handle, data, ctypes.c_size_t(len(plain)))
    _library.gnutls_cipher_deinit(handle)
    assert code == 0
    return data.raw
