"""HMAC-SHA1 under a key, half done: what the program in the kernel has in the place of the key.

hashlib does not tell the state of a hash after a block, so the two blocks of a key are worked out
here. It is done when keys change, not for a datagram.
"""

from __future__ import annotations

import hashlib
import struct

__all__ = ["hmac_states"]

_BLOCK_SIZE = 64
_START = (0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0)  # FIPS 180-4, 5.3.1
_INNER_PAD, _OUTER_PAD = 0x36, 0x5C  # RFC 2104, 2
_WORD = 0xFFFFFFFF


def hmac_states(key: bytes) -> bytes:
    """The SHA-1 states after the inner and after the outer block of a key (RFC 2104, 2).

    Args:
        key: 1 byte or more.

    Returns:
        40 bytes: struct gcookie_xdp_key of native/xdp/gate.h, 10 integers in the host's order.
    """
    if len(key) > _BLOCK_SIZE:
        key = hashlib.sha1(key).digest()
    block = key.ljust(_BLOCK_SIZE, b"\0")
    inner, outer = (_after(bytes(one ^ pad for one in block)) for pad in (_INNER_PAD, _OUTER_PAD))
    return struct.pack("=10I", *inner, *outer)


def _after(block: bytes) -> list[int]:
    """The state of SHA-1 after its first block (FIPS 180-4, 6.1.2)."""
    schedule = list(struct.unpack(">16I", block))
    for t in range(16, 80):
        mixed = schedule[t - 3] ^ schedule[t - 8] ^ schedule[t - 14] ^ schedule[t - 16]
        schedule.append(_rotated(mixed, 1))
    a, b, c, d, e = _START
    for t, word in enumerate(schedule):
        if t < 20:
            f, k = b & c | ~b & d, 0x5A827999
        elif t < 40:
            f, k = b ^ c ^ d, 0x6ED9EBA1
        elif t < 60:
            f, k = b & c | b & d | c & d, 0x8F1BBCDC
        else:
            f, k = b ^ c ^ d, 0xCA62C1D6
        a, b, c, d, e = (_rotated(a, 5) + f + e + k + word) & _WORD, a, _rotated(b, 30), c, d
    return [(x + y) & _WORD for x, y in zip(_START, (a, b, c, d, e), strict=True)]


def _rotated(word: int, bits: int) -> int:
    return (word << bits | word >> (32 - bits)) & _WORD
