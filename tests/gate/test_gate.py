"""CookieGate: each verdict and each reason by a datagram made for it."""

from __future__ import annotations

import struct
import threading
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from gnutls_cookie import (
    Challenge,
    CookieGate,
    Discarded,
    DiscardReason,
    KeyRing,
    Prestate,
    Verified,
    cookie_verify,
)
from gnutls_cookie.gate import GateCounters
from gnutls_cookie.reference import wire
from tests.support.common import cookie_of, hello_with
from tests.support.gate_cases import of_record_length

KEY, WHO = b"k" * 16, b"client"
COOKIE = cookie_of(KEY, WHO)
HELLO = wire.client_hello()


def patched(place: int, data: bytes, hello: bytes = HELLO) -> bytes:
    return hello[:place] + data + hello[place + len(data) :]


REASONS: dict[DiscardReason, list[bytes]] = {
    DiscardReason.RECORD_HEADER: [b"", b"\x16", HELLO[:12]],
    DiscardReason.CONTENT_TYPE: [
        bytes(13),
        patched(0, b"\x17"),
        patched(0, b"\x15"),
        b"\x00\x01\x00\x00\x21\x12\xa4\x42" + bytes(12),  # STUN binding request (RFC 5389 6)
    ],
    DiscardReason.RECORD_VERSION: [patched(1, b"\x03\x03"), patched(1, b"\xfe\xfc")],
    DiscardReason.EPOCH: [patched(3, b"\0\x01"), patched(3, b"\x01\0")],
    DiscardReason.RECORD_LENGTH: [
        HELLO[:13],
        HELLO[:-1],
        patched(11, struct.pack("!H", len(HELLO) - 12)),
        patched(11, b"\x40\x01", HELLO + bytes(20000)),
    ],
    DiscardReason.HANDSHAKE_HEADER: [
        patched(11, b"\0\0", HELLO[:13]),
        patched(11, b"\0\x0b", HELLO[:24]),
    ],
    DiscardReason.HANDSHAKE_TYPE: [patched(13, b"\x02"), patched(13, b"\x03")],
    DiscardReason.MESSAGE_SEQ: [patched(17, b"\x01\0"), patched(17, b"\xff\xff")],
    DiscardReason.FRAGMENT_OFFSET: [patched(19, b"\0\0\x01"), patched(19, b"\x01\0\0")],
    DiscardReason.FRAGMENT_LENGTH: [
        patched(22, struct.pack("!I", len(HELLO) - 26)[1:]),
        patched(14, struct.pack("!I", len(HELLO) - 26)[1:]),
    ],
    DiscardReason.TRAILING_DATA: [HELLO + b"\0", HELLO + HELLO],
    DiscardReason.SESSION_ID: [
        patched(59, b"\x21"),
        wire.handshake_record(1, bytes(34) + b"\x21", length=100, message_seq=0),
    ],
    DiscardReason.COOKIE_FIELD: [
        patched(60, b"\xff"),
        wire.handshake_record(1, bytes(34), length=100, message_seq=0),
        wire.handshake_record(1, bytes(35), length=100, message_seq=0),
    ],
}


@pytest.mark.parametrize(
    ("reason", "datagram"),
    [(reason, datagram) for reason, found in REASONS.items() for datagram in found],
)
def test_junk_is_discarded_for_its_reason_and_the_next_client_is_served(
    reason: DiscardReason, datagram: bytes
) -> None:
    """Silence, one count, and no trace in what comes after."""
    gate = CookieGate(KEY)
    assert gate.receive(datagram, WHO) == Discarded(reason)
    assert gate.counters == GateCounters(0, 0, 0, 0, {reason: 1})
    assert isinstance(gate.receive(HELLO, WHO), Challenge)
    assert isinstance(gate.receive(hello_with(COOKIE), WHO), Verified)


def test_record_of_2_to_the_14_bytes_is_the_longest_answered() -> None:
    """RFC 5246 6.2.1; one byte more is too many."""
    verdicts = []
    for length in (16384, 16385):
        hello = of_record_length(length, wire.client_hello(cookie=COOKIE))
        assert len(hello) == 13 + length
        verdicts.append(type(CookieGate(KEY).receive(hello, WHO)))
    assert verdicts == [Verified, Discarded]


def test_every_reason_has_its_datagram() -> None:
    """But for the one that was never seen."""
    assert set(REASONS) == set(DiscardReason) - {DiscardReason.INTERNAL}


@pytest.mark.parametrize("size", [0, 1, 12, 13, 24, 25, 59, 60, 61, 62])
@pytest.mark.parametrize("fill", [b"\0", b"\x16", b"\xff"])
def test_short_junk_is_silence(size: int, fill: bytes) -> None:
    """No datagram of one repeated byte is answered."""
    assert isinstance(CookieGate(KEY).receive(fill * size, WHO), Discarded)


@pytest.mark.parametrize("record_seq", [0, 1, 255, 256, 2**32 - 1, 2**32, 2**48 - 1])
@pytest.mark.parametrize("message_seq", [0, 1, 255])
def test_challenge_echoes_both_sequences(record_seq: int, message_seq: int) -> None:
    """All 48 bits of the record's (RFC 6347 4.2.1), and message_seq."""
    hello = wire.client_hello(record_seq=record_seq, message_seq=message_seq)
    verdict = CookieGate(KEY).receive(hello, WHO)
    assert isinstance(verdict, Challenge)
    reply = wire.HelloVerifyRequest.decode(verdict.datagram)
    assert (reply.record_seq, reply.message_seq, reply.cookie) == (record_seq, message_seq, COOKIE)
    assert len(verdict.datagram) == 44 < len(hello)


@pytest.mark.parametrize(("message_seq", "written"), [(0, 0), (1, 0), (2, 1), (255, 254)])
def test_prestate_goes_on_from_the_hello(message_seq: int, written: int) -> None:
    """The full record sequence, and max(message_seq, 1) - 1 as the last one written."""
    hello = wire.client_hello(cookie=COOKIE, record_seq=2**32 - 1, message_seq=message_seq)
    assert CookieGate(KEY).receive(hello, WHO) == Verified(
        Prestate(2**32 - 1, message_seq, written), 0
    )


def test_ordinary_exchange_gives_what_cookie_verify_gives() -> None:
    """Record 1, message 1: nothing differs from the stock recipe."""
    hello = hello_with(COOKIE, seq=1)
    assert CookieGate(KEY).receive(hello, WHO) == Verified(cookie_verify(KEY, WHO, hello), 0)


def test_record_sequence_beyond_32_bits_is_challenged_not_verified() -> None:
    """The prestate could not carry it."""
    hello = wire.client_hello(cookie=COOKIE, record_seq=2**32)
    verdict = CookieGate(KEY).receive(hello, WHO)
    assert isinstance(verdict, Challenge)
    assert verdict.presented_cookie


@pytest.mark.parametrize("cookie", [COOKIE[:15], COOKIE + b"\0", bytes(16), bytes(255), b"x"])
def test_wrong_cookie_is_traffic(cookie: bytes) -> None:
    """Challenged again, and said to have presented one."""
    gate = CookieGate(KEY)
    verdict = gate.receive(hello_with(cookie), WHO)
    assert isinstance(verdict, Challenge)
    assert verdict.presented_cookie
    assert gate.counters == GateCounters(1, 1, 0, 0, {})


@pytest.mark.parametrize("bit", range(128))
def test_every_bit_of_the_cookie_counts(bit: int) -> None:
    """One flipped bit, and it is another."""
    cookie = bytearray(COOKIE)
    cookie[bit // 8] ^= 1 << bit % 8
    assert isinstance(CookieGate(KEY).receive(hello_with(bytes(cookie)), WHO), Challenge)


def test_previous_key_verifies_with_its_age() -> None:
    """And the current one signs."""
    gate = CookieGate(KeyRing(b"new", KEY))
    verdict = gate.receive(hello_with(COOKIE), WHO)
    assert isinstance(verdict, Verified)
    assert verdict.key_age == 1
    assert gate.counters == GateCounters(0, 0, 0, 1, {})
    challenge = gate.receive(HELLO, WHO)
    assert isinstance(challenge, Challenge)
    assert challenge.datagram[-16:] == cookie_of(b"new", WHO)


@pytest.mark.parametrize("size", [1, 16, 63, 64, 65, 1000])
def test_key_of_every_size_gives_the_cookie_of_c(size: int) -> None:
    """Also those that HMAC shortens first (RFC 2104 2)."""
    key = bytes(range(256)) * 4
    verdict = CookieGate(key[:size]).receive(HELLO, WHO)
    assert isinstance(verdict, Challenge)
    assert verdict.datagram[-16:] == cookie_of(key[:size], WHO)


def test_first_fragment_is_verified_and_later_ones_are_not_answered() -> None:
    """One answer for a hello in four fragments (RFC 6347 4.2.3)."""
    fragments = wire.client_hello_fragments(4, extensions=((16, bytes(600)),))
    verdicts = [CookieGate(KEY).receive(one, WHO) for one in fragments]
    assert [type(one) for one in verdicts] == [Challenge, Discarded, Discarded, Discarded]
    assert verdicts[1:] == [Discarded(DiscardReason.FRAGMENT_OFFSET)] * 3


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_any_bytes_like_object_will_do(kind: Any) -> None:
    """And None is not client_data."""
    gate = CookieGate(kind(KEY))
    hello = hello_with(COOKIE)
    assert isinstance(gate.receive(kind(hello), kind(WHO)), Verified)
    assert isinstance(gate.receive(hello_with(cookie_of(KEY, b"")), None), Verified)


@pytest.mark.parametrize(
    ("datagram", "who", "error", "names"),
    [
        ("x", WHO, TypeError, "datagram"),
        (None, WHO, TypeError, "datagram"),
        (HELLO, "x", TypeError, "client_data"),
        (HELLO, 5, TypeError, "client_data"),
        (memoryview(HELLO)[::2], WHO, ValueError, "datagram"),
        (HELLO, memoryview(WHO)[::2], ValueError, "client_data"),
    ],
)
def test_wrong_argument_is_named(
    datagram: Any, who: Any, error: type[Exception], names: str
) -> None:
    """Callers get an error, the network never does."""
    with pytest.raises(error, match=names):
        CookieGate(KEY).receive(datagram, who)


def test_answers_are_frozen_and_slotted() -> None:
    """Made for match."""
    gate = CookieGate(KEY)
    for answer, name in (
        (gate.receive(HELLO, WHO), "datagram"),
        (gate.receive(hello_with(COOKIE), WHO), "prestate"),
        (gate.receive(b"", WHO), "reason"),
    ):
        with pytest.raises(FrozenInstanceError):
            setattr(answer, name, None)
        assert not hasattr(answer, "__dict__")


def test_counts_of_8_threads_are_exact() -> None:
    """Nothing is lost."""
    gate = CookieGate(KEY)

    def work() -> None:
        for _ in range(2000):
            gate.receive(HELLO, WHO)
            gate.receive(hello_with(COOKIE), WHO)
            gate.receive(b"", WHO)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert gate.counters == GateCounters(16000, 0, 16000, 0, {DiscardReason.RECORD_HEADER: 16000})


def test_first_datagram_with_keys_of_a_secret() -> None:
    """Keys that follow from a secret and the time serve the very first datagram too."""
    gate = CookieGate(KeyRing.from_secret(b"sixteen bytes ok", period=60))
    first = gate.receive(HELLO, WHO, now=0.0)
    assert isinstance(first, Challenge)
    assert gate.receive(HELLO, WHO, now=59.0) == first
    assert gate.receive(HELLO, WHO, now=60.0) != first


def test_another_key_ring() -> None:
    """A ring that is set signs from then on; its predecessor's cookies are challenged again."""
    gate = CookieGate(KEY)
    good = hello_with(COOKIE)
    assert isinstance(gate.receive(good, WHO), Verified)
    gate.keys = KeyRing(b"another key")
    assert isinstance(gate.receive(good, WHO), Challenge)
    with pytest.raises(TypeError, match="keys"):
        gate.keys = b"no ring"  # type: ignore[assignment]
