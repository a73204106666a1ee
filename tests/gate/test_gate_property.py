"""The gate in C against its pure Python reference: no datagram tells them apart."""

from __future__ import annotations

from collections import Counter

import pytest

from gnutls_cookie import Challenge, CookieGate, Discarded, DiscardReason, KeyRing, Verified
from gnutls_cookie.reference import gate as reference
from tests.support.common import seeded
from tests.support.gate_cases import HELLOS, Case, cases

Outcome = tuple[object, ...]


def of_gate(case: Case) -> Outcome:
    gate = CookieGate(KeyRing(case.current, case.previous))
    match gate.receive(case.datagram, case.client_data):
        case Challenge(datagram, presented):
            return "challenge", datagram, presented
        case Verified(prestate, age):
            return "verified", age, *numbers(prestate)
        case Discarded(reason):
            return "discarded", int(reason)


def of_reference(case: Case) -> Outcome:
    match reference.receive(case.datagram, case.client_data, case.current, case.previous):
        case reference.Challenge(datagram, presented):
            return "challenge", datagram, presented
        case reference.Verified(prestate, age):
            return "verified", age, *numbers(prestate)
        case reference.Discarded(reason):
            return "discarded", int(reason)


def numbers(prestate: object) -> tuple[object, ...]:
    return tuple(
        getattr(prestate, name) for name in ("record_seq", "hsk_read_seq", "hsk_write_seq")
    )


def compare(count: int) -> Counter[object]:
    """Compare `count` cases; gives how often each kind of outcome was seen."""
    seen: Counter[object] = Counter()
    for case in cases(seeded().getrandbits(32), count):
        outcome = of_gate(case)
        assert outcome == of_reference(case), case
        if outcome[0] == "challenge":
            assert len(case.datagram) >= 44
            seen["challenge", outcome[2]] += 1
        else:
            seen[outcome[:2]] += 1
    print(sorted(seen.items(), key=str))
    return seen


EVERY = {("challenge", False), ("challenge", True), ("verified", 0), ("verified", 1)} | {
    ("discarded", int(reason)) for reason in DiscardReason if reason != DiscardReason.INTERNAL
}


def test_gate_is_the_reference() -> None:
    """20,000 datagrams, every kind of verdict and every reason among them."""
    assert set(compare(20_000)) == EVERY


@pytest.mark.long
def test_gate_is_the_reference_1000000_times() -> None:
    """The long run."""
    assert set(compare(1_000_000)) == EVERY


@pytest.mark.parametrize("hello", range(len(HELLOS)))
def test_every_cut_of_a_real_hello(hello: int) -> None:
    """Each length of each recorded datagram."""
    for size in range(len(HELLOS[hello]) + 1):
        case = Case(b"key", None, b"client", HELLOS[hello][:size])
        assert of_gate(case) == of_reference(case)
