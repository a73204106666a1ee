"""Writes cases with the answers of the Python reference to stdout, for driver.c: COUNT SEED."""

from __future__ import annotations

import hashlib
import struct
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from gnutls_cookie.reference import gate as reference
from tests.support.gate_cases import Case, cases

_HEADER = struct.Struct("=4I4i3I44s")
_CAPACITY = 64  # GCOOKIE_KEY_CAPACITY; HMAC shortens longer keys first (RFC 2104 2)


def encoded(case: Case) -> bytes:
    """One case as driver.c reads it."""
    kind, reason, presented, age, numbers, reply = 0, 0, 0, 0, (0, 0, 0), b""
    match reference.receive(case.datagram, case.client_data, case.current, case.previous):
        case reference.Challenge(datagram, was_presented):
            kind, presented, reply = 1, int(was_presented), datagram
        case reference.Verified(prestate, key_age):
            kind, age = 2, key_age
            numbers = (prestate.record_seq, prestate.hsk_read_seq, prestate.hsk_write_seq)
        case reference.Discarded(why):
            reason = int(why)
    parts = [fitting(case.current), fitting(case.previous or b""), case.client_data, case.datagram]
    sizes = [len(part) for part in parts]
    return _HEADER.pack(*sizes, kind, reason, presented, age, *numbers, reply) + b"".join(parts)


def fitting(key: bytes) -> bytes:
    """A key that struct gcookie_key holds."""
    return hashlib.sha1(key).digest() if len(key) > _CAPACITY else key


def main() -> None:
    """Write them."""
    count, seed = int(sys.argv[1]), int(sys.argv[2])
    for case in cases(seed, count):
        sys.stdout.buffer.write(encoded(case))


if __name__ == "__main__":
    main()
