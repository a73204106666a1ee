"""The gate of gnutls_cookie.reference.gate: each reason at its boundary, both keys, both echoes."""

from __future__ import annotations

import random

import pytest

from gnutls_cookie.reference import wire
from gnutls_cookie.reference.cookie import Prestate, cookie
from gnutls_cookie.reference.gate import (
    Challenge,
    Discarded,
    DiscardReason,
    Verified,
    receive,
)
from gnutls_cookie.reference.wire import (
    HelloVerifyRequest,
    client_hello,
    client_hello_fragments,
    handshake_record,
)

CURRENT = bytes(range(16))
PREVIOUS = bytes(range(16, 32))
CLIENT_DATA = bytes(range(100, 116))
# printf 6465666768696a6b6c6d6e6f70717273 | xxd -r -p | openssl dgst -sha1 -mac HMAC
#   -macopt hexkey:000102030405060708090a0b0c0d0e0f | cut -c-45     (and 101112[...]1e1f)
GOOD = bytes.fromhex("573893d8fbb31b3b5733af72b449bea9")
GOOD_BEFORE = bytes.fromhex("bf2bad7cff8580b3d384104eb75c91b1")
WRONG = bytes(16)

HELLO = client_hello(cookie=GOOD, session_id=b"sid")
BARE = client_hello()


def replaced(datagram: bytes, offset: int, new: str) -> bytes:
    """Overwrite some bytes of a datagram, given in hex."""
    patch = bytes.fromhex(new)
    return datagram[:offset] + patch + datagram[offset + len(patch) :]


def first_fragment(
    fragment: bytes, length: int | None = None, *, record_seq: int = 0, message_seq: int = 0
) -> bytes:
    """Put any bytes into a ClientHello's first fragment; by default they are all of it."""
    return handshake_record(
        wire.CLIENT_HELLO,
        fragment,
        length=length,
        record_seq=record_seq,
        message_seq=message_seq,
    )


FIXED = b"\xfe\xfd" + bytes(32)  # client_version and random

# Hand-built datagrams, each wrong in one place and right in all that is checked before it.
MALFORMED = [
    # RECORD_HEADER
    (b"", DiscardReason.RECORD_HEADER),
    (b"\x16", DiscardReason.RECORD_HEADER),
    (HELLO[:12], DiscardReason.RECORD_HEADER),
    (b"\xff" * 12, DiscardReason.RECORD_HEADER),
    # CONTENT_TYPE: STUN, RTP, ChangeCipherSpec, alert, application data
    (bytes.fromhex("000100002112a442" + "00" * 12), DiscardReason.CONTENT_TYPE),
    (b"\x80" * 13, DiscardReason.CONTENT_TYPE),
    (replaced(HELLO, 0, "14"), DiscardReason.CONTENT_TYPE),
    (replaced(HELLO, 0, "15"), DiscardReason.CONTENT_TYPE),
    (replaced(HELLO, 0, "17"), DiscardReason.CONTENT_TYPE),
    # RECORD_VERSION: TLS 1.2, the DTLS 1.1 that never was, DTLS 1.3, each byte alone
    (replaced(HELLO, 1, "0303"), DiscardReason.RECORD_VERSION),
    (replaced(HELLO, 1, "fefe"), DiscardReason.RECORD_VERSION),
    (replaced(HELLO, 1, "fefc"), DiscardReason.RECORD_VERSION),
    (replaced(HELLO, 1, "ffff"), DiscardReason.RECORD_VERSION),
    (replaced(HELLO, 1, "01ff"), DiscardReason.RECORD_VERSION),
    (replaced(HELLO, 1, "0000"), DiscardReason.RECORD_VERSION),
    # EPOCH
    (client_hello(epoch=1), DiscardReason.EPOCH),
    (client_hello(epoch=256), DiscardReason.EPOCH),
    # RECORD_LENGTH: one byte cut off, one claimed too many, more than 2**14 that are all there
    (HELLO[:-1], DiscardReason.RECORD_LENGTH),
    (HELLO[:13], DiscardReason.RECORD_LENGTH),
    (replaced(HELLO, 11, "ffff"), DiscardReason.RECORD_LENGTH),
    (replaced(BARE, 11, "4001") + bytes(20000), DiscardReason.RECORD_LENGTH),
    # HANDSHAKE_HEADER: an empty record, and one of 11 bytes, with more behind it or not
    (replaced(HELLO[:13], 11, "0000"), DiscardReason.HANDSHAKE_HEADER),
    (replaced(HELLO[:24], 11, "000b"), DiscardReason.HANDSHAKE_HEADER),
    (replaced(HELLO, 11, "000b"), DiscardReason.HANDSHAKE_HEADER),
    # HANDSHAKE_TYPE: HelloRequest, ServerHello, HelloVerifyRequest, Finished
    (replaced(HELLO, 13, "00"), DiscardReason.HANDSHAKE_TYPE),
    (replaced(HELLO, 13, "02"), DiscardReason.HANDSHAKE_TYPE),
    (HelloVerifyRequest(cookie=GOOD).encode(), DiscardReason.HANDSHAKE_TYPE),
    (replaced(HELLO, 13, "14"), DiscardReason.HANDSHAKE_TYPE),
    # MESSAGE_SEQ
    (client_hello(message_seq=256), DiscardReason.MESSAGE_SEQ),
    (client_hello(message_seq=65535), DiscardReason.MESSAGE_SEQ),
    # FRAGMENT_OFFSET: each of its three bytes, and a real second fragment
    (replaced(HELLO, 19, "000001"), DiscardReason.FRAGMENT_OFFSET),
    (replaced(HELLO, 19, "000100"), DiscardReason.FRAGMENT_OFFSET),
    (replaced(HELLO, 19, "010000"), DiscardReason.FRAGMENT_OFFSET),
    (client_hello_fragments(4)[1], DiscardReason.FRAGMENT_OFFSET),
    # FRAGMENT_LENGTH: other than the record, on either side; longer than the message
    (replaced(HELLO, 22, "00003e"), DiscardReason.FRAGMENT_LENGTH),
    (replaced(HELLO, 22, "000040"), DiscardReason.FRAGMENT_LENGTH),
    (replaced(HELLO, 22, "01003f"), DiscardReason.FRAGMENT_LENGTH),
    (replaced(HELLO, 14, "00003e"), DiscardReason.FRAGMENT_LENGTH),
    (replaced(HELLO, 14, "000000"), DiscardReason.FRAGMENT_LENGTH),
    # TRAILING_DATA: one byte, a second hello, or an alert behind a whole hello
    (HELLO + b"\x00", DiscardReason.TRAILING_DATA),
    (BARE + BARE, DiscardReason.TRAILING_DATA),
    (HELLO + bytes.fromhex("15feff00000000000000010002022a"), DiscardReason.TRAILING_DATA),
    (first_fragment(b"") + b"\x00", DiscardReason.TRAILING_DATA),
    # SESSION_ID: one byte too long; the last byte of the fragment is enough to tell
    (first_fragment(FIXED + b"\x21" + bytes(33) + b"\x00" * 20), DiscardReason.SESSION_ID),
    (first_fragment(FIXED + b"\x21"), DiscardReason.SESSION_ID),
    (first_fragment(FIXED + b"\xff"), DiscardReason.SESSION_ID),
    # COOKIE_FIELD: no body, no session id, a session id cut short, no cookie length, a cookie cut
    (first_fragment(b""), DiscardReason.COOKIE_FIELD),
    (first_fragment(FIXED), DiscardReason.COOKIE_FIELD),
    (first_fragment(FIXED + b"\x00"), DiscardReason.COOKIE_FIELD),
    (first_fragment(FIXED + b"\x20" + bytes(31)), DiscardReason.COOKIE_FIELD),
    (first_fragment(FIXED + b"\x20" + bytes(32)), DiscardReason.COOKIE_FIELD),
    (first_fragment(FIXED + b"\x00\x01"), DiscardReason.COOKIE_FIELD),
    (first_fragment(FIXED + b"\x00\x10" + GOOD[:15]), DiscardReason.COOKIE_FIELD),
    (first_fragment(FIXED + b"\x00\xff" + bytes(254)), DiscardReason.COOKIE_FIELD),
    # ... and what is missing does not come from the next record of the datagram
    (first_fragment(FIXED, 100) + b"\x21" * 50, DiscardReason.COOKIE_FIELD),
    (first_fragment(FIXED + b"\x00", 100) + bytes(50), DiscardReason.COOKIE_FIELD),
    (first_fragment(FIXED + b"\x00\x10", 100) + GOOD + bytes(50), DiscardReason.COOKIE_FIELD),
    (client_hello_fragments(4)[0], DiscardReason.COOKIE_FIELD),
]


@pytest.mark.parametrize(("datagram", "reason"), MALFORMED)
def test_malformed_datagram_is_discarded(datagram: bytes, reason: DiscardReason) -> None:
    """Each with the reason of the first thing that is wrong with it."""
    assert receive(datagram, CLIENT_DATA, CURRENT, PREVIOUS) == Discarded(reason)


def test_every_reason_on_the_network_is_in_the_list() -> None:
    """INTERNAL is the only one that no datagram can cause."""
    reasons = {reason for _, reason in MALFORMED}
    assert reasons == set(DiscardReason) - {DiscardReason.INTERNAL}


def test_reasons_are_numbered_in_the_order_of_the_checks() -> None:
    """The numbers are shared with the C gate."""
    assert [(reason.name, reason.value) for reason in DiscardReason] == [
        ("RECORD_HEADER", 1),
        ("CONTENT_TYPE", 2),
        ("RECORD_VERSION", 3),
        ("EPOCH", 4),
        ("RECORD_LENGTH", 5),
        ("HANDSHAKE_HEADER", 6),
        ("HANDSHAKE_TYPE", 7),
        ("MESSAGE_SEQ", 8),
        ("FRAGMENT_OFFSET", 9),
        ("FRAGMENT_LENGTH", 10),
        ("TRAILING_DATA", 11),
        ("SESSION_ID", 12),
        ("COOKIE_FIELD", 13),
        ("INTERNAL", 14),
    ]


# Each breaks one thing, from the last check to the first; an offset beyond the end appends.
BREAKS = [
    (DiscardReason.COOKIE_FIELD, 63, "ff"),
    (DiscardReason.SESSION_ID, 59, "21"),
    (DiscardReason.TRAILING_DATA, 1000, "00"),
    (DiscardReason.FRAGMENT_LENGTH, 14, "00000a"),
    (DiscardReason.FRAGMENT_OFFSET, 19, "000001"),
    (DiscardReason.MESSAGE_SEQ, 17, "01"),
    (DiscardReason.HANDSHAKE_TYPE, 13, "02"),
    (DiscardReason.HANDSHAKE_HEADER, 11, "000b"),
    (DiscardReason.RECORD_LENGTH, 11, "ffff"),
    (DiscardReason.EPOCH, 4, "01"),
    (DiscardReason.RECORD_VERSION, 1, "03"),
    (DiscardReason.CONTENT_TYPE, 0, "17"),
]


def test_first_failing_check_gives_the_reason() -> None:
    """With one more thing broken in front, the reason moves to the front."""
    datagram = client_hello(session_id=b"sid", cookie=b"")
    for reason, offset, patch in BREAKS:
        datagram = replaced(datagram, offset, patch)
        assert receive(datagram, CLIENT_DATA, CURRENT) == Discarded(reason)
    assert receive(datagram[:12], CLIENT_DATA, CURRENT) == Discarded(DiscardReason.RECORD_HEADER)


def test_hello_without_cookie_is_challenged() -> None:
    """The 44 bytes of gnutls_dtls_cookie_send with a zero prestate."""
    # By gnutls_dtls_cookie_send of libgnutls 3.7.9 through ctypes, with CURRENT and CLIENT_DATA.
    reply = bytes.fromhex(
        "16feff0000000000000000001f030000130000000000000013feff10573893d8fbb31b3b5733af72b449bea9"
    )
    assert receive(BARE, CLIENT_DATA, CURRENT) == Challenge(reply, presented_cookie=False)


@pytest.mark.parametrize("presented", [WRONG, GOOD[:15], GOOD + b"\x00", b"\x00", bytes(255)])
def test_wrong_cookie_is_challenged(presented: bytes) -> None:
    """With the right one, made with the current key."""
    for previous in (None, PREVIOUS):
        answer = receive(client_hello(cookie=presented), CLIENT_DATA, CURRENT, previous)
        assert isinstance(answer, Challenge)
        assert answer.presented_cookie
        assert HelloVerifyRequest.decode(answer.datagram).cookie == GOOD


def test_cookie_of_the_current_key_is_verified() -> None:
    """The ordinary second hello: both numbers are 1, the session's first message is 1."""
    hello = client_hello(cookie=GOOD, record_seq=1, message_seq=1)
    for previous in (None, PREVIOUS):
        assert receive(hello, CLIENT_DATA, CURRENT, previous) == Verified(Prestate(1, 1, 0), 0)


def test_cookie_of_the_previous_key_is_verified_with_age_1() -> None:
    """As long as there is a previous key."""
    hello = client_hello(cookie=GOOD_BEFORE, record_seq=1, message_seq=1)
    assert receive(hello, CLIENT_DATA, CURRENT, PREVIOUS) == Verified(Prestate(1, 1, 0), 1)
    for none in (None, b""):
        answer = receive(hello, CLIENT_DATA, CURRENT, none)
        assert isinstance(answer, Challenge)
        assert HelloVerifyRequest.decode(answer.datagram).cookie == GOOD


def test_current_key_is_tried_first() -> None:
    """The same key twice is age 0."""
    answer = receive(HELLO, CLIENT_DATA, CURRENT, CURRENT)
    assert isinstance(answer, Verified)
    assert answer.key_age == 0


def test_cookie_of_another_client_is_challenged() -> None:
    """client_data goes into the cookie; None is empty."""
    assert isinstance(receive(HELLO, CLIENT_DATA[::-1], CURRENT), Challenge)
    assert isinstance(receive(HELLO, None, CURRENT), Challenge)
    empty = client_hello(cookie=cookie(CURRENT, None))
    assert receive(empty, None, CURRENT) == receive(empty, b"", CURRENT)
    assert isinstance(receive(empty, None, CURRENT), Verified)


@pytest.mark.parametrize(
    ("message_seq", "hsk_write_seq"), [(0, 0), (1, 0), (2, 1), (4, 3), (254, 253), (255, 254)]
)
def test_prestate_continues_the_clients_message_numbers(
    message_seq: int, hsk_write_seq: int
) -> None:
    """After n HelloVerifyRequests the ServerHello has number n."""
    hello = client_hello(cookie=GOOD, record_seq=message_seq, message_seq=message_seq)
    assert receive(hello, CLIENT_DATA, CURRENT) == Verified(
        Prestate(message_seq, message_seq, hsk_write_seq), 0
    )


@pytest.mark.parametrize("record_seq", [0, 255, 256, 0x01020304, 2**32 - 1])
def test_prestate_has_all_32_bits_of_the_record_sequence_number(record_seq: int) -> None:
    """Where libgnutls itself keeps 8."""
    hello = client_hello(cookie=GOOD, record_seq=record_seq, message_seq=1)
    assert receive(hello, CLIENT_DATA, CURRENT) == Verified(Prestate(record_seq, 1, 0), 0)


@pytest.mark.parametrize("record_seq", [2**32, 2**32 + 1, 2**40, 2**48 - 1])
@pytest.mark.parametrize("presented", [GOOD, GOOD_BEFORE])
def test_record_sequence_number_beyond_a_prestate_is_challenged(
    record_seq: int, presented: bytes
) -> None:
    """Good cookie or not."""
    hello = client_hello(cookie=presented, record_seq=record_seq)
    answer = receive(hello, CLIENT_DATA, CURRENT, PREVIOUS)
    assert isinstance(answer, Challenge)
    assert answer.presented_cookie
    assert HelloVerifyRequest.decode(answer.datagram).record_seq == record_seq


@pytest.mark.parametrize("record_seq", [1, 256, 0x010203040506, 2**48 - 1])
@pytest.mark.parametrize("message_seq", [0, 1, 255])
def test_challenge_echoes_both_sequence_numbers(record_seq: int, message_seq: int) -> None:
    """All 48 bits of one, all 8 that pass of the other; the rest is as always."""
    hello = client_hello(record_seq=record_seq, message_seq=message_seq)
    answer = receive(hello, CLIENT_DATA, CURRENT)
    assert isinstance(answer, Challenge)
    assert HelloVerifyRequest.decode(answer.datagram) == HelloVerifyRequest(
        cookie=GOOD,
        record_seq=record_seq,
        message_seq=message_seq,
        record_version=wire.DTLS_1_0,
        server_version=wire.DTLS_1_0,
    )


@pytest.mark.parametrize("version", [wire.DTLS_1_0, wire.DTLS_1_2, wire.DTLS_0_9])
def test_every_record_version_of_dtls_passes(version: int) -> None:
    """The record's version is not binding; the offered one is for the session to judge."""
    hello = client_hello(record_version=version, client_version=0x1234, cookie=GOOD)
    assert isinstance(receive(hello, CLIENT_DATA, CURRENT), Verified)


@pytest.mark.parametrize("session_id_size", [0, 1, 31, 32])
def test_session_id_of_up_to_32_bytes_passes(session_id_size: int) -> None:
    """A client that resumes a session is a client."""
    hello = client_hello(session_id=bytes(session_id_size), cookie=GOOD)
    assert isinstance(receive(hello, CLIENT_DATA, CURRENT), Verified)


def test_record_of_16384_bytes_passes() -> None:
    """The longest that there is."""
    body = FIXED + b"\x00\x10" + GOOD
    hello = first_fragment(body + bytes(16384 - 12 - len(body)))
    assert len(hello) == 13 + 16384
    assert isinstance(receive(hello, CLIENT_DATA, CURRENT), Verified)


def test_shortest_hello_that_is_answered_is_longer_than_the_answer() -> None:
    """61 bytes: an empty cookie field is the last thing in them."""
    hello = first_fragment(FIXED + b"\x00\x00")
    answer = receive(hello, CLIENT_DATA, CURRENT)
    assert isinstance(answer, Challenge)
    assert len(hello) == 61
    assert len(answer.datagram) == 44


def test_good_cookie_at_the_very_end_of_the_datagram_is_challenged() -> None:
    """gnutls_dtls_cookie_verify, which has the last word, wants one byte more."""
    body = FIXED + b"\x00\x10" + GOOD
    assert isinstance(receive(first_fragment(body), CLIENT_DATA, CURRENT), Challenge)
    before = first_fragment(FIXED + b"\x00\x10" + GOOD_BEFORE)
    assert isinstance(receive(before, CLIENT_DATA, CURRENT, PREVIOUS), Challenge)
    assert isinstance(receive(first_fragment(body + b"\x00"), CLIENT_DATA, CURRENT), Verified)
    # The byte may be of the next fragment, in a record of its own in the same datagram.
    longer = first_fragment(body, len(body) + 1)
    assert isinstance(receive(longer, CLIENT_DATA, CURRENT), Challenge)
    assert isinstance(receive(longer + b"\x16", CLIENT_DATA, CURRENT), Verified)


def test_first_fragment_with_the_cookie_is_verified_and_the_others_are_discarded() -> None:
    """One answer for a hello in three datagrams."""
    extensions = [(16, bytes(150))]
    first, *others = client_hello_fragments(3, cookie=GOOD, extensions=extensions, message_seq=1)
    assert isinstance(receive(first, CLIENT_DATA, CURRENT), Verified)
    for other in others:
        assert receive(other, CLIENT_DATA, CURRENT) == Discarded(DiscardReason.FRAGMENT_OFFSET)


def test_all_fragments_in_one_datagram_are_one_hello() -> None:
    """More may follow a first fragment in its datagram (RFC 6347 4.1.1)."""
    datagram = b"".join(client_hello_fragments(3, cookie=GOOD, extensions=[(16, bytes(150))]))
    assert isinstance(receive(datagram, CLIENT_DATA, CURRENT), Verified)
    challenged = b"".join(client_hello_fragments(3, extensions=[(16, bytes(150))]))
    assert isinstance(receive(challenged, CLIENT_DATA, CURRENT), Challenge)


def test_first_fragment_is_cut_at_every_length() -> None:
    """Without all of the cookie field: discarded. With it: verified, if a byte more is there."""
    body = client_hello(cookie=GOOD, session_id=b"sid")[25:]
    cookie_end = 34 + 1 + 3 + 1 + 16
    for size in range(len(body)):
        answer = receive(first_fragment(body[:size], len(body)), CLIENT_DATA, CURRENT)
        if size < cookie_end:
            assert answer == Discarded(DiscardReason.COOKIE_FIELD)
        elif size == cookie_end:
            assert isinstance(answer, Challenge)
        else:
            assert isinstance(answer, Verified)


def test_hello_cut_at_every_length_gets_no_answer() -> None:
    """A datagram that lost its end is discarded in silence."""
    for size in range(len(HELLO)):
        answer = receive(HELLO[:size], CLIENT_DATA, CURRENT)
        short = DiscardReason.RECORD_HEADER if size < 13 else DiscardReason.RECORD_LENGTH
        assert answer == Discarded(short)


def test_rejected_cookie_costs_one_hmac_and_a_previous_key_one_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A flood of wrong cookies costs no more than the answers; none at all where there is none."""
    calls: list[bytes] = []

    def digest(key: bytes, msg: bytes, name: str) -> bytes:
        calls.append(key)
        return b"d" * 20

    monkeypatch.setattr("gnutls_cookie.reference.cookie.hmac.digest", digest)
    for presented, previous, keys in [
        (b"", None, [CURRENT]),
        (b"", PREVIOUS, [CURRENT]),
        (WRONG, None, [CURRENT]),
        (WRONG, PREVIOUS, [CURRENT, PREVIOUS]),
        (WRONG + b"x", PREVIOUS, [CURRENT]),
    ]:
        calls.clear()
        answer = receive(client_hello(cookie=presented), CLIENT_DATA, CURRENT, previous)
        assert isinstance(answer, Challenge)
        assert calls == keys
    calls.clear()
    receive(HELLO[:-1], CLIENT_DATA, CURRENT, PREVIOUS)
    assert calls == []


def test_empty_key_is_an_internal_fault() -> None:
    """Not the client's: only a datagram that would get an answer shows it."""
    assert receive(HELLO, CLIENT_DATA, b"") == Discarded(DiscardReason.INTERNAL)
    assert receive(HELLO[:5], CLIENT_DATA, b"") == Discarded(DiscardReason.RECORD_HEADER)


def test_verdicts_are_made_for_match() -> None:
    """Frozen, and taken apart by position."""
    match receive(BARE, CLIENT_DATA, CURRENT):
        case Challenge(datagram, False):
            assert len(datagram) == 44
        case other:
            pytest.fail(f"{other}")
    with pytest.raises(AttributeError):
        Discarded(DiscardReason.EPOCH).reason = DiscardReason.INTERNAL  # type: ignore[misc]


def test_nothing_raises_and_no_answer_is_longer_than_its_datagram() -> None:
    """20,000 datagrams, mutated or made up: one verdict each, the same when asked again."""
    seed = random.randrange(2**32)
    print("seed", seed)
    chooser = random.Random(seed)
    seeds = [HELLO, BARE, client_hello(cookie=WRONG), client_hello(cookie=GOOD_BEFORE)]
    kinds = {Challenge: 0, Verified: 0, Discarded: 0}
    for _ in range(20_000):
        if chooser.random() < 0.1:
            datagram = bytearray(chooser.randbytes(chooser.randrange(200)))
        else:
            datagram = bytearray(chooser.choice(seeds))
        for _ in range(chooser.randrange(3)):
            if datagram:
                datagram[chooser.randrange(len(datagram))] = chooser.randrange(256)
        data = bytes(datagram)
        answer = receive(data, CLIENT_DATA, CURRENT, PREVIOUS)
        assert answer == receive(data, CLIENT_DATA, CURRENT, PREVIOUS)
        kinds[type(answer)] += 1
        if isinstance(answer, Challenge):
            assert len(answer.datagram) == 44 < len(data)
    assert min(kinds.values()) > 500
