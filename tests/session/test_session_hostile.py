"""Sessions under fire: random and mutated datagrams, full inboxes, a network that loses much.

One rule for each state: a handshake may fail, by a GnuTLSError and by nothing else; a session that
is established lets nothing happen at all that its peer did not send.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import Any

import pytest

from gnutls_cookie import GnuTLSError, Session
from gnutls_cookie.reference.wire import CONTENT_ALERT, DTLS_1_2, RecordHeader
from tests.support.common import seeded
from tests.support.peers import (
    KINDS,
    LossyNetwork,
    deliver,
    echoes,
    established,
    messages,
    pair,
    shake,
    wait_for_timer,
)

ROLES = ("client", "server")
INBOX_LIMIT = 256


def hostile(chance: random.Random, seen: list[bytes]) -> bytes:
    """A datagram that is random, or near to one that was seen."""
    kind = chance.randrange(8)
    if kind == 0:
        return chance.randbytes(chance.randrange(1, 80))
    if kind == 1:  # a well-formed record of any type, version, epoch and number around junk
        return record(chance, chance.randbytes(chance.randrange(64)))
    if kind == 2:  # an alert, real or not
        return record(chance, bytes([chance.choice([0, 1, 2, 3]), chance.randrange(256)]), 21)
    if kind == 3:
        return b"".join(chance.choices(seen, k=2))
    datagram = bytearray(chance.choice(seen))
    if kind == 4:
        return bytes(datagram[: chance.randrange(1, len(datagram))])
    if kind == 5:
        datagram += chance.randbytes(chance.randrange(1, 40))
        return bytes(datagram)
    for _ in range(chance.choice([1, 1, 1, 2, 5])):
        # Most of what a parser looks at stands at the front.
        at = chance.randrange(min(len(datagram), chance.choice([13, 30, 100, 2000])))
        datagram[at] = chance.choice([datagram[at] ^ 1 << chance.randrange(8), 0, 255])
    return bytes(datagram)


def record(chance: random.Random, content: bytes, kind: int | None = None) -> bytes:
    """A record of random header fields around `content`."""
    return (
        bytes([chance.choice([0, 20, 21, 22, 23, 24, 255]) if kind is None else kind])
        + chance.choice([b"\xfe\xff", b"\xfe\xfd", b"\x01\x00", b"\xfe\xfc", b"\x03\x03"])
        + chance.choice([0, 0, 1, 1, 2, 65535]).to_bytes(2, "big")
        + chance.choice([0, 1, 2, 5, 50, 2**32, 2**48 - 1]).to_bytes(6, "big")
        + len(content).to_bytes(2, "big")
        + content
    )


def conversation(kind: str) -> list[bytes]:
    """Every datagram of a handshake, two messages and a goodbye of another pair."""
    client, server = pair(kind)
    seen = shake(client, server)
    client.send(b"message")
    seen += deliver(client, server)
    server.send(b"answer")
    seen += deliver(server, client)
    client.close()
    return seen + client.datagrams_to_send()


# --- during the handshake -------------------------------------------------------------------------


def one_step(session: Session) -> bool:
    """Whatever a loop would call; False once the session has failed, by a GnuTLSError."""
    try:
        if session.handshake():
            session.receive()
        session.handle_timeout()
    except GnuTLSError:
        assert session.closed
        return False
    return True


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("kind", KINDS)
def test_hostile_datagrams_during_the_handshake_raise_nothing_but_gnutlserror(
    kind: str, role: str
) -> None:
    """In 150 handshakes, junk before and between the real datagrams."""
    chance = seeded()
    seen = conversation(kind)
    failed = completed = 0
    for _ in range(150):
        client, server = pair(kind, handshake_timeout=0.5)
        victim = client if role == "client" else server
        alive = {client.role: True, server.role: True}
        for _ in range(12):
            for sender, receiver in ((client, server), (server, client)):
                if receiver is victim:
                    for _ in range(chance.choice([0, 0, 1, 2])):
                        victim.receive_datagram(hostile(chance, seen))
                alive[sender.role] = alive[sender.role] and one_step(sender)
                deliver(sender, receiver)
            if not all(alive.values()):
                break
        failed += not all(alive.values())
        completed += client.established and server.established
    assert failed + completed > 0
    print(f"{failed} failed, {completed} completed")


@pytest.mark.parametrize("role", ROLES)
def test_nothing_but_junk_raises_nothing_but_gnutlserror(role: str) -> None:
    """Sessions that never hear a word of a real peer, 30 datagrams each."""
    chance = seeded()
    seen = conversation("PSK") + conversation("X.509")
    for _ in range(300):
        victim = pair(chance.choice(KINDS))[ROLES.index(role)]
        alive = one_step(victim)
        for _ in range(30):
            victim.receive_datagram(hostile(chance, seen))
            alive = alive and one_step(victim)
        victim.close()


@pytest.mark.parametrize("kind", KINDS)
def test_every_bit_of_the_hello_flipped(kind: str) -> None:
    """A server takes it or fails by a GnuTLSError; 100 bytes of header and hello."""
    client, _ = pair(kind)
    client.handshake()
    hello, *_ = client.datagrams_to_send()  # a timer may have sent it again
    for bit in range(8 * 100):
        flipped = bytearray(hello)
        flipped[bit // 8] ^= 1 << bit % 8
        _, server = pair(kind)
        server.receive_datagram(flipped)
        one_step(server)


@pytest.mark.parametrize("kind", KINDS)
def test_every_truncation_of_the_hello(kind: str) -> None:
    """Cut after each byte."""
    client, _ = pair(kind)
    client.handshake()
    hello, *_ = client.datagrams_to_send()  # a timer may have sent it again
    for size in range(len(hello)):
        _, server = pair(kind)
        server.receive_datagram(hello[:size])
        one_step(server)


def test_junk_that_libgnutls_ignores_leaves_the_handshake_alone() -> None:
    """Random bytes, later epochs, cut records: the handshake completes as if alone."""
    chance = seeded()
    for kind in KINDS:
        client, server = pair(kind)
        for _ in range(10):
            for sender, receiver in ((client, server), (server, client)):
                for junk in (
                    chance.randbytes(40)[:1] and bytes([99]) + chance.randbytes(40),
                    b"\x17\xfe\xfd\x00\x05" + bytes(6) + b"\x00\x04junk",
                    b"\x16",
                ):
                    receiver.receive_datagram(junk)
                sender.handshake()
                deliver(sender, receiver)
        assert echoes(client, server)


# --- established ----------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("kind", KINDS)
def test_hostile_datagrams_leave_an_established_session_alone(kind: str, role: str) -> None:
    """3,000 of them: no exception, no message, no goodbye; the next real message arrives."""
    chance = seeded()
    client, server = pair(kind)
    seen = shake(client, server)
    victim, peer = (client, server) if role == "client" else (server, client)
    seen += conversation(kind)
    for number in range(3000):
        victim.receive_datagram(hostile(chance, seen))
        assert victim.receive() is None
        assert not victim.closed
        if number % 50 == 0:
            peer.send(b"real %d" % number)
            (real,) = deliver(peer, victim)
            seen.append(real)
            assert victim.receive() == b"real %d" % number
    victim.datagrams_to_send()  # what a replayed last flight called for
    assert echoes(client, server)


@pytest.mark.parametrize("role", ROLES)
def test_every_bit_of_a_message_flipped_gives_nothing(role: str) -> None:
    """A flip is found by the record's authentication; the record itself arrives afterwards."""
    client, server = established()
    victim, peer = (client, server) if role == "client" else (server, client)
    peer.send(b"real")
    (real,) = peer.datagrams_to_send()
    for bit in range(8 * len(real)):
        flipped = bytearray(real)
        flipped[bit // 8] ^= 1 << bit % 8
        victim.receive_datagram(flipped)
        got = victim.receive()
        # The version in the header of a record is not part of what GnuTLS compares in DTLS.
        assert got is None or (got == b"real" and bit // 8 in (1, 2)), bit
        if got is not None:
            peer.send(b"real")
            (real,) = peer.datagrams_to_send()
    victim.receive_datagram(real)
    assert victim.receive() == b"real"
    assert echoes(client, server)


def test_every_truncation_of_a_message_gives_nothing() -> None:
    """Cut after each byte; the whole arrives afterwards."""
    client, server = established()
    client.send(b"real")
    (real,) = client.datagrams_to_send()
    for size in range(len(real)):
        server.receive_datagram(real[:size])
        assert server.receive() is None
    server.receive_datagram(real)
    assert server.receive() == b"real"


def test_alerts_that_nobody_authenticated_end_nothing() -> None:
    """Every level and description, in the clear, of each epoch."""
    client, server = established()
    for epoch in (0, 1, 2):
        for description in range(256):
            for level in (1, 2):
                forged = RecordHeader(CONTENT_ALERT, DTLS_1_2, epoch, 77 + description, 2).encode()
                client.receive_datagram(forged + bytes([level, description]))
                assert client.receive() is None
    assert not client.closed
    assert echoes(client, server)


def test_new_hello_in_the_clear_leaves_an_established_session_alone() -> None:
    """Who spoofs an address cannot make its session start again."""
    stranger, _ = pair()
    stranger.handshake()
    hello, *_ = stranger.datagrams_to_send()  # a timer may have sent it again
    client, server = established()
    server.receive_datagram(hello)
    assert server.receive() is None
    assert server.datagrams_to_send() == []
    assert echoes(client, server)


@pytest.mark.parametrize("size", [16384, 16385, 65507, 70000])
def test_giant_datagram_is_dropped(size: int) -> None:
    """Longer than any record, as junk and as a record that claims to be as long."""
    client, server = established()
    for start in (b"", b"\x17\xfe\xfd\x00\x01" + bytes(5) + b"\x63\xff\xff", b"\x17\xfe\xfd"):
        server.receive_datagram(start + bytes(size - len(start)))
        assert server.receive() is None
    assert echoes(client, server)


# --- the inbox ------------------------------------------------------------------------------------


def test_empty_datagrams_are_dropped_and_counted() -> None:
    """To libgnutls zero bytes would be the end of the stream."""
    client, server = pair()
    client.handshake()
    for session in (client, server):
        session.receive_datagram(b"")
        assert session.handshake() is False
        assert session.dropped == 1
    shake(client, server)
    server.receive_datagram(b"")
    assert server.receive() is None
    assert not server.peer_closed
    assert server.dropped == 2
    assert echoes(client, server)


def test_inbox_is_bounded_and_drops_the_newest() -> None:
    """256 datagrams wait; what comes after is lost, as UDP loses it, and counted."""
    client, server = established()
    for number in range(INBOX_LIMIT + 50):
        client.send(b"%d" % number)
    deliver(client, server)
    assert server.dropped == 50
    assert messages(server) == [b"%d" % number for number in range(INBOX_LIMIT)]
    assert echoes(client, server)
    assert server.dropped == 50


def test_inbox_is_bounded_in_bytes() -> None:
    """1 MiB waits; a datagram has room where none is there, and again once some were read."""
    client, server = pair()
    full = warnings_in_one_datagram(4000)
    for _ in range(100):
        server.receive_datagram(full)
    assert server.dropped == 100 - (1 << 20) // len(full)
    while server._inbox:
        server.handshake()
    assert server._inbox_bytes == 0
    shake(client, server)
    assert echoes(client, server)


def test_inbox_full_of_junk_before_a_handshake_is_read_away() -> None:
    """One call of handshake() gets past all of it."""
    client, server = pair()
    for number in range(INBOX_LIMIT - 1):
        server.receive_datagram(b"\x63junk %d" % number)
    shake(client, server)
    assert echoes(client, server)


def warnings_in_one_datagram(count: int) -> bytes:
    """user_canceled warnings in the clear, a record each."""
    return b"".join(
        RecordHeader(CONTENT_ALERT, DTLS_1_2, 0, number, 2).encode() + b"\x01\x5a"
        for number in range(count)
    )


@pytest.mark.parametrize("role", ROLES)
def test_datagram_full_of_warnings_is_bounded_work(role: str) -> None:
    """4,000 alerts in each of 256 datagrams: handshake() comes back each time, or fails."""
    victim = pair()[ROLES.index(role)]
    victim.handshake()
    full = warnings_in_one_datagram(4000)
    for _ in range(INBOX_LIMIT):
        victim.receive_datagram(full)
    calls = 0
    while one_step(victim) and calls < 20:
        calls += 1
    assert calls <= 20
    victim.close()


@pytest.mark.parametrize("kind", KINDS)
def test_call_that_finds_nothing_to_read_comes_back_at_once(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libgnutls is asked once more than there are datagrams, not over and over."""
    calls = 0
    real_call = Session._call

    def counted(session: Session, *arguments: Any) -> tuple[int, Any]:
        nonlocal calls
        calls += 1
        return real_call(session, *arguments)

    monkeypatch.setattr(Session, "_call", counted)
    client, server = pair(kind, retransmit_timeout=10.0)
    for session in (client, server):
        session.handshake()
    before = calls
    for session in (client, server):
        assert session.handshake() is False
    assert calls - before == 2
    seen = shake(client, server)
    assert calls <= 2 * len(seen) + 8
    before = calls
    for session in (client, server):
        assert session.receive() is None
    assert calls - before <= 2


@pytest.mark.parametrize("state", ["handshake", "established"])
def test_one_call_into_c_is_bounded_work(state: str) -> None:
    """A thread that is in C hears no signal: after 1024 records Python has its turn, and the rest
    of the datagram waits."""
    client, server = pair()
    client.handshake()
    deliver(client, server)
    if state == "established":
        shake(client, server)
    else:
        server.handshake()
    alert = RecordHeader(CONTENT_ALERT, DTLS_1_2, 1, 7, 5).encode() + bytes(5)
    full = alert * 3000
    server.receive_datagram(full)
    for calls in (1, 2):
        assert not (server.receive() if state == "established" else server.handshake())
        (rest,) = server._inbox
        assert len(rest) == len(full) - calls * 1024 * len(alert)
    assert not (server.receive() if state == "established" else server.handshake())
    assert not server._inbox


def test_established_session_ignores_a_datagram_full_of_warnings() -> None:
    """They are of a past epoch."""
    client, server = established()
    server.receive_datagram(warnings_in_one_datagram(4000))
    assert server.receive() is None
    assert echoes(client, server)


# --- a network that loses -------------------------------------------------------------------------


def numbered(count: int) -> Iterator[bytes]:
    return (b"message %d" % number for number in range(count))


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.1, 0.2, 0.3])
def test_fifty_handshakes_over_a_network_that_drops_doubles_and_delays(rate: float) -> None:
    """All complete; every message that arrives is one that was sent, and arrives once."""
    chance = seeded()
    networks = []
    for number in range(50):
        client, server = pair(
            KINDS[number % 2],
            mtu=chance.choice([228, 576, 1200]),
            retransmit_timeout=0.01,
            handshake_timeout=60.0,
        )
        networks.append((client, server, LossyNetwork(chance, rate, client, server)))

    deadline = time.monotonic() + 60  # a bound, never a measure
    going = list(networks)
    while going:
        assert time.monotonic() < deadline, [one for one, _, _ in going]
        for client, server, network in going:
            for session in (client, server):
                if session.handshake():
                    assert session.receive() is None
                session.handle_timeout()
            network.carry()
        going = [one for one in going if not (one[0].established and one[1].established)]
        time.sleep(0.001)

    # Some four datagrams a handshake, and what was lost again.
    assert sum(network.lost for _, _, network in networks) > 200 * rate
    for client, server, network in networks:
        arrived: dict[str, list[bytes]] = {"client": [], "server": []}
        for message in numbered(20):
            for session in (client, server):
                session.send(message)
            network.carry()
            for session in (client, server):
                arrived[session.role] += messages(session)
        for _ in range(6):
            network.carry()
            for session in (client, server):
                arrived[session.role] += messages(session)
        for got in arrived.values():
            assert len(got) == len(set(got))
            assert set(got) <= set(numbered(20))
            assert len(got) >= 2


def test_peer_that_never_answers_costs_few_datagrams() -> None:
    """The timer doubles (RFC 6347 4.2.4.1): in 1.3 s with a first timer of 20 ms, 7 or less."""
    client, _ = pair(handshake_timeout=1.3)
    client.handshake()
    sent = len(client.datagrams_to_send())
    while not client.closed:
        try:
            wait_for_timer(client)
        except GnuTLSError:
            break
        sent += len(client.datagrams_to_send())
    assert 3 <= sent <= 8
