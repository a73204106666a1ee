"""Datagrams for the gate, from the generator of gnutls_cookie.differential."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gnutls_cookie.differential.cases import cases as generated
from gnutls_cookie.differential.datagrams import HELLOS, of_record_length

__all__ = ["HELLOS", "Case", "cases", "of_record_length"]


@dataclass(frozen=True)
class Case:
    """What the gate is asked: keys, client and datagram."""

    current: bytes
    previous: bytes | None
    client_data: bytes
    datagram: bytes


def cases(seed: int, count: int) -> Iterator[Case]:
    """`count` cases; the same for the same seed."""
    for case in generated(seed, ("receive",), count):
        yield Case(case.key, case.previous, case.client_data or b"", case.message)
