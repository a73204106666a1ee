"""The Server without a socket: what goes in, what comes out, its limits and its timers."""

from __future__ import annotations

import gc
import math
import sys
import threading
import traceback
import weakref
from typing import Any

import pytest

from gnutls_cookie import (
    HELLO_VERIFY_REQUEST_SIZE,
    Arrival,
    CertificateCredentials,
    GnuTLSError,
    PSKCredentials,
    Server,
    Session,
)
from gnutls_cookie._ffi import ffi, lib
from gnutls_cookie.errors import FatalAlertError, LargePacketError
from gnutls_cookie.server import Closed, CloseReason, Connected, HandshakeFailure, MessageReady
from tests.support.common import seeded
from tests.support.peers import CERTS, KINDS, PSK_KEY, certificate, client_of, messages, psk
from tests.support.servers import RETRANSMIT, Bench, Client, bounded, closed_by

DAY = 86_400.0


def hello_of(bench: Bench) -> Arrival:
    """The last verified hello that came in."""
    return [arrival for arrival in bench.arrivals if arrival.prestate is not None][-1]


# --- the ordinary course --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_client_is_challenged_once_then_connected(kind: str) -> None:
    """The cookie exchange, the handshake, one Connected event."""
    bench = Bench()
    client = bench.connected(kind)
    assert bench.challenges == 1
    assert bench.events == [Connected(bench.connection(client))]
    assert bench.connection(client).address == client.address
    assert (len(bench.server), client.address in bench.server) == (1, True)
    assert bench.server.counters.connected == bench.server.counters.sessions == 1


@pytest.mark.parametrize("kind", KINDS)
def test_messages_go_both_ways(kind: str) -> None:
    """What a client sends is received, what the server sends arrives, both are counted."""
    bench = Bench()
    client = bench.connected(kind)
    for number in range(10):
        assert bench.echoes(client, b"%d" % number)
    counters = bench.server.counters
    assert (counters.messages_received, counters.messages_sent) == (10, 10)


def test_what_was_agreed_on_stands_in_the_session() -> None:
    """The identity of a client with PSK, the version of each."""
    bench = Bench()
    with_psk, with_certificate = bench.connected("PSK"), bench.connected("X.509")
    assert bench.connection(with_psk).session.psk_identity == "sensor-1"
    assert bench.connection(with_certificate).session.psk_identity is None
    assert bench.connection(with_certificate).session.version == "DTLS1.2"


def test_message_ready_comes_when_the_first_waits() -> None:
    """One event for several messages; the next only after all were taken."""
    bench = Bench()
    client = bench.connected()
    connection = bench.connection(client)
    for message in (b"a", b"b", b"c"):
        client.session.send(message)
    bench.send(client)
    assert bench.events[1:] == [MessageReady(connection)]
    assert [connection.receive() for _ in range(4)] == [b"a", b"b", b"c", None]
    client.session.send(b"d")
    bench.send(client)
    assert bench.events[1:] == [MessageReady(connection)] * 2


class Taker:
    """A receiver that raises what it is told to, after it has noted the message."""

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.raises: BaseException | None = None

    def on_message(self, message: bytes) -> None:
        self.got.append(message)
        if self.raises is not None:
            raise self.raises


def test_receiver_gets_messages_in_the_place_of_an_event() -> None:
    """One call for each, in their order; none once it is taken away."""
    bench = Bench()
    client = bench.connected()
    connection = bench.connection(client)
    connection.receiver = taker = Taker()
    for message in (b"a", b"b", b"c"):
        client.session.send(message)
    bench.arrive(b"".join(client.session.datagrams_to_send()), client.address)
    assert (taker.got, connection.receive()) == ([b"a", b"b", b"c"], None)
    connection.receiver = None
    client.session.send(b"d")
    bench.send(client)
    assert bench.events[1:] == [MessageReady(connection)]
    assert connection.receive() == b"d"


def test_what_a_receiver_raises_loses_no_message() -> None:
    """It comes out; the messages behind, and the end of the connection, are told as ever."""
    bench = Bench()
    client = bench.connected()
    connection = bench.connection(client)
    connection.receiver = taker = Taker()
    taker.raises = SystemExit(3)
    for message in (b"a", b"b", b"c"):
        client.session.send(message)
    client.session.close()
    with pytest.raises(SystemExit):
        bench.arrive(b"".join(client.session.datagrams_to_send()), client.address)
    assert taker.got == [b"a"]
    assert bench.server.events() == [
        MessageReady(connection),
        Closed(connection, CloseReason.PEER),
    ]
    assert [connection.receive() for _ in range(3)] == [b"b", b"c", None]


def test_receiver_finds_a_connection_closed_that_is_closed() -> None:
    """Where the goodbye came in the same datagram."""
    bench = Bench()
    client = bench.connected()
    connection = bench.connection(client)
    seen = []

    class Asking(Taker):
        def on_message(self, message: bytes) -> None:
            seen.append((message, connection.is_open))
            with pytest.raises(GnuTLSError):
                bench.server.send(connection, b"answer", bench.now())

    connection.receiver = Asking()
    client.session.send(b"the last word")
    client.session.close()
    bench.arrive(b"".join(client.session.datagrams_to_send()), client.address)
    assert seen == [(b"the last word", False)]
    assert closed_by(bench.server) == {CloseReason.PEER: 1}


def test_events_are_given_once() -> None:
    """events() takes them away."""
    bench = Bench()
    bench.connected()
    assert bench.server.events() == []
    assert bench.server.datagrams_to_send() == []


def test_a_message_beyond_the_mtu_is_refused_and_the_connection_lives() -> None:
    """LargePacketError, and nothing was sent."""
    bench = Bench()
    client = bench.connected()
    connection = bench.connection(client)
    with pytest.raises(LargePacketError):
        bench.server.send(connection, bytes(connection.data_mtu + 1), bench.now())
    assert bench.server.counters.messages_sent == 0
    assert bench.echoes(client, bytes(connection.data_mtu))


def test_data_mtu_of_a_connection_makes_no_session() -> None:
    """It is the session's, whatever becomes of that, and of an ended connection as well."""
    bench = Bench()
    client, other = bench.connected(), bench.connected()
    connection, ended = bench.connection(client), bench.connection(other)
    most = connection.data_mtu
    assert connection._session is None
    assert most == connection.session.data_mtu == connection.data_mtu
    connection.session.mtu = 600
    assert 500 < connection.data_mtu == connection.session.data_mtu < 600
    assert bench.echoes(client, bytes(connection.data_mtu))
    bench.server.close(ended)
    assert ended.data_mtu == most


def test_fragmented_hello_is_served() -> None:
    """A first fragment opens the session, the others find it (RFC 6347 4.2.3)."""
    bench = Bench()
    client = Client(
        client_of("X.509", mtu=128, server_name="a" * 250, verify_peer=False), ("192.0.2.7", 7)
    )
    client.session.handshake()
    fragments = client.session.datagrams_to_send()
    assert len(fragments) > 2
    for fragment in fragments:
        bench.arrive(fragment, client.address)
    assert (bench.challenges, bench.arrivals) == (1, [])
    bench.talk(client)
    assert bench.challenges == 1
    assert bench.echoes(client)


def test_a_datagram_of_a_stranger_is_counted() -> None:
    """It belongs to no session: a listener has forgotten too late, say."""
    bench = Bench()
    bench.server.receive(Arrival(("192.0.2.1", 1), b"\x17\xfe\xfd" + bytes(20), None), 0.0)
    assert bench.server.counters.strays == 1
    assert (len(bench.server), bench.server.timeout(0.0)) == (0, None)


def test_replaced_credentials_hold_for_new_sessions() -> None:
    """Those that there are keep theirs."""
    bench = Bench(PSKCredentials("sensor-1", b"another key altogether"))
    bench.server.credentials = [certificate(), psk()]
    early = bench.connected("PSK")
    bench.server.credentials = certificate()
    assert bench.connected("X.509")
    assert bench.echoes(early)


def test_credentials_that_no_server_can_use_are_refused_at_once() -> None:
    """Setting them raises, and the former ones hold."""
    bench = Bench()
    former = bench.server.credentials
    with pytest.raises(ValueError, match="a server needs certificate and key"):
        bench.server.credentials = CertificateCredentials.from_files(trust=CERTS / "localhost.pem")
    assert bench.server.credentials is former
    assert bench.connected()


# --- goodbye --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_goodbye_of_the_client_is_answered(kind: str) -> None:
    """Closed by PEER; what came before it can be taken still; the address is forgotten."""
    bench = Bench()
    client = bench.connected(kind)
    connection = bench.connection(client)
    client.session.send(b"last words")
    client.session.close()
    bench.send(client)
    assert bench.events[1:] == [
        MessageReady(connection),
        Closed(connection, CloseReason.PEER),
    ]
    assert (connection.receive(), connection.is_open) == (b"last words", False)
    bench.deliver(client)
    assert client.session.receive() is None
    assert client.session.peer_closed
    assert bench.server.forgotten() == [client.address]
    assert bench.server.forgotten() == []
    assert len(bench.server) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_goodbye_of_the_server_reaches_the_client(kind: str) -> None:
    """close() sends close_notify, tells Closed by LOCAL, and forgets; more calls do nothing."""
    bench = Bench()
    client = bench.connected(kind)
    connection = bench.connection(client)
    for _ in range(2):
        bench.server.close(connection)
    bench.deliver(client)
    assert client.session.receive() is None
    assert client.session.peer_closed
    assert bench.events[1:] == [Closed(connection, CloseReason.LOCAL)]
    assert bench.server.forgotten() == [client.address]
    assert closed_by(bench.server) == {CloseReason.LOCAL: 1}


def test_nothing_can_be_sent_once_closed() -> None:
    """send() raises a GnuTLSError, and counts nothing."""
    bench = Bench()
    connection = bench.connection(bench.connected())
    bench.server.close(connection)
    with pytest.raises(GnuTLSError, match="closed"):
        bench.server.send(connection, b"too late", bench.now())
    assert bench.server.counters.messages_sent == 0


def test_close_all_says_goodbye_to_everybody() -> None:
    """To clients in their handshake as well; no session and no timer is left."""
    bench = Bench()
    clients = [bench.connected(kind) for kind in KINDS for _ in range(3)]
    shaking = bench.client()
    bench.at_server_hello(shaking)
    assert len(bench.server) == 7
    bench.server.close_all()
    assert (len(bench.server), bench.server.timeout(bench.now())) == (0, None)
    bench.deliver(*clients, shaking)
    for client in clients:
        assert client.session.receive() is None
        assert client.session.peer_closed
    addresses = {client.address for client in (*clients, shaking)}
    assert set(bench.server.forgotten()) == addresses
    assert {address for _, address in bench.heard[-8:]} == addresses


def test_client_that_went_may_come_back_from_the_same_port() -> None:
    """After its goodbye, or after a silence: a new session like any other."""
    bench = Bench()
    first = bench.connected()
    first.session.close()
    bench.send(first)
    second = bench.connected(address=first.address)
    assert bench.echoes(second)
    assert bench.server.forgotten() == []  # the listener must keep what has come back
    assert closed_by(bench.server) == {CloseReason.PEER: 1}


# --- hellos that are repeated ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_duplicate_of_the_verified_hello_goes_to_its_session(kind: str) -> None:
    """During the handshake and after it: no second session, and the first one lives."""
    bench = Bench()
    client = bench.client(kind)
    bench.at_server_hello(client)
    hello = hello_of(bench)
    for _ in range(3):
        bench.server.receive(hello, bench.now())
    assert bench.server.counters.duplicates == 3
    bench.talk(client)
    before = bench.server.counters.duplicates  # the client's own timer may have added to them
    for _ in range(3):
        bench.server.receive(hello, bench.now())
    assert bench.server.counters.duplicates == before + 3
    assert len(bench.server) == 1
    assert bench.echoes(client)
    assert bench.events == [Connected(bench.connection(client)), *bench.events[1:]]
    assert closed_by(bench.server) == {}


def test_hello_sent_again_by_the_timer_of_the_client_is_a_duplicate() -> None:
    """A ServerHello that got lost does not cost a second session."""
    bench = Bench()
    client = bench.client()
    bench.at_server_hello(client)
    bench.lose()  # lost
    with bounded():
        while not bench.server.counters.duplicates:
            client.session.handle_timeout()
            bench.send(client)
    bench.talk(client)
    assert len(bench.server) == 1
    assert bench.echoes(client)


# --- a client that comes back from the same port --------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_returning_client_replaces_its_session_when_its_handshake_is_complete(kind: str) -> None:
    """Until then the old session serves (RFC 6347 4.2.8); then it ends, without a goodbye."""
    bench = Bench()
    old = bench.connected(kind)
    new = bench.client(kind, old.address)
    former = bench.connection(old)
    bench.at_server_hello(new)
    assert len(bench.server) == 2
    still_open = former.is_open
    assert still_open
    with bench.delayed():
        assert bench.echoes(old)
    bench.talk(new)
    assert not former.is_open
    replaced, connected = [event for event in bench.events if not isinstance(event, MessageReady)][
        -2:
    ]
    assert replaced == Closed(former, CloseReason.REPLACED)
    assert connected == Connected(bench.connection(new))
    assert len(bench.server) == bench.server.counters.sessions == 1
    assert bench.echoes(new)
    assert bench.server.forgotten() == []
    bench.deliver(old)
    assert messages(old.session) == []
    assert not old.session.peer_closed


def test_replaced_connection_sends_nothing_more() -> None:
    """Its peer has lost the keys: send() raises, and no datagram goes out."""
    bench = Bench()
    old = bench.connected()
    former = bench.connection(old)
    bench.connected(address=old.address)
    bench.lose()
    with pytest.raises(GnuTLSError, match="closed"):
        bench.server.send(former, b"to nobody", bench.now())
    bench.server.close(former)
    assert bench.server.datagrams_to_send() == []


def test_messages_of_a_replaced_connection_can_still_be_taken() -> None:
    """They came while it was open."""
    bench = Bench()
    old = bench.connected()
    old.session.send(b"before the restart")
    bench.send(old)
    former = bench.connection(old)
    bench.connected(address=old.address)
    assert former.receive() == b"before the restart"


def test_second_return_while_the_first_is_pending() -> None:
    """The newest handshake counts, the established session serves until it is complete."""
    bench = Bench()
    old = bench.connected()
    given_up, new = bench.client(address=old.address), bench.client(address=old.address)
    bench.at_server_hello(given_up)
    bench.pass_time(2 * RETRANSMIT)
    bench.lose()
    bench.at_server_hello(new)
    assert len(bench.server) == 2
    assert closed_by(bench.server) == {CloseReason.REPLACED: 1}
    with bench.delayed():
        assert bench.echoes(old)
    bench.talk(new)
    assert closed_by(bench.server) == {CloseReason.REPLACED: 2}
    assert len(bench.server) == 1
    assert bench.echoes(new)


def test_return_during_the_first_handshake() -> None:
    """A client that starts again before its handshake ended is served, and nothing is left."""
    bench = Bench()
    first = bench.client()
    bench.at_server_hello(first)
    bench.lose()
    second = bench.client(address=first.address)
    bench.talk(second)
    assert bench.echoes(second)
    assert len(bench.server) == 1
    assert bench.server.forgotten() == []


def test_return_whose_handshake_never_completes_leaves_the_old_session() -> None:
    """Whoever got hold of a cookie of its address ends nobody's session."""
    bench = Bench(handshake_timeout=5.0)
    old = bench.connected()
    ghost = bench.client(address=old.address)
    bench.at_server_hello(ghost)
    bench.lose()
    bench.pass_time(6.0)
    bench.lose()
    assert closed_by(bench.server) == {CloseReason.TIMED_OUT: 1}
    assert (len(bench.server), bench.server.forgotten()) == (1, [])
    assert bench.echoes(old)


def test_return_whose_handshake_fails_leaves_the_old_session() -> None:
    """A wrong key, say."""
    bench = Bench()
    old = bench.connected()
    wrong = Client(_client_with_key(b"not the key at all"), old.address)
    with pytest.raises(GnuTLSError):
        bench.talk(wrong)
    bench.lose()
    bench.pass_time(31.0)
    bench.lose()
    assert bench.server.counters.sessions == len(bench.server) == 1
    assert bench.echoes(old)


def _client_with_key(key: bytes) -> Session:
    return Session(
        "client",
        PSKCredentials("sensor-1", key),
        retransmit_timeout=0.02,
        handshake_timeout=0.5,
    )


def test_datagrams_of_the_old_session_do_not_disturb_the_new_handshake() -> None:
    """Both have the same address: each reads what its keys open."""
    bench = Bench()
    old = bench.connected()
    new = bench.client(address=old.address)
    bench.at_server_hello(new)
    for number in range(20):
        old.session.send(b"%d" % number)
    bench.send(old)
    bench.talk(new)
    assert bench.echoes(new)


# --- limits ---------------------------------------------------------------------------------------


def test_beyond_max_sessions_clients_are_refused_in_silence_and_counted() -> None:
    """Until one of the others is gone: then the client's next hello is taken."""
    bench = Bench(max_sessions=2)
    first, second = bench.connected(), bench.client()
    bench.at_server_hello(second)
    third = bench.client()
    bench.at_server_hello(third)
    assert bench.server.counters.refused == 1
    assert third.address not in bench.server
    replies = [datagram for datagram, address in bench.heard if address == third.address]
    assert [len(reply) for reply in replies] == [HELLO_VERIFY_REQUEST_SIZE]
    bench.server.close(bench.connection(first))
    bench.server.receive(hello_of(bench), bench.now())
    bench.talk(second, third)
    assert bench.echoes(third)
    assert len(bench.server) == 2


def test_returning_client_needs_no_place_of_its_own_beside_the_one_it_leaves() -> None:
    """At the limit a second return takes the place of the first, which is under way."""
    bench = Bench(max_sessions=2)
    client = bench.connected()
    first, second = bench.client(address=client.address), bench.client(address=client.address)
    bench.at_server_hello(first)
    bench.pass_time(2 * RETRANSMIT)
    bench.lose()
    bench.at_server_hello(second)
    assert bench.server.counters.refused == 0
    assert closed_by(bench.server) == {CloseReason.REPLACED: 1}
    bench.talk(second)
    assert bench.echoes(second)


def test_replaced_connection_gets_no_datagram_more() -> None:
    """Not the one, either, that completed the handshake of its successor: no message can come from
    a connection whose end was told."""
    bench = Bench()
    old = bench.connected()
    former = bench.connection(old)
    new = bench.client(address=old.address)
    bench.at_server_hello(new)
    bench.deliver(new)
    new.session.handshake()
    old.session.send(b"in the last datagram of the new handshake")
    (late,) = old.session.datagrams_to_send()
    *flight, last = new.session.datagrams_to_send()
    for datagram in (*flight, last + late):
        bench.arrive(datagram, new.address)
    bench.talk(new)
    assert closed_by(bench.server) == {CloseReason.REPLACED: 1}
    assert former.receive() is None
    assert MessageReady(former) not in bench.events
    assert bench.echoes(new)


def test_max_sessions_may_be_replaced() -> None:
    """More from then on, or fewer: those that there are stay."""
    bench = Bench(max_sessions=1)
    first = bench.connected()
    bench.server.max_sessions = 2
    second = bench.connected()
    bench.server.max_sessions = 1
    bench.at_server_hello(bench.client())
    assert bench.server.counters.refused == 1
    assert bench.echoes(first)
    assert bench.echoes(second)


def test_handshake_timeout_ends_a_handshake_without_an_event() -> None:
    """Counted as TIMED_OUT, forgotten, and never told of: nobody heard of it before."""
    bench = Bench(handshake_timeout=5.0)
    client = bench.client()
    bench.at_server_hello(client)
    bench.pass_time(4.0)
    assert bench.server.counters.handshaking == 1
    bench.pass_time(1.1)
    assert (bench.server.counters.handshaking, len(bench.server)) == (0, 0)
    assert closed_by(bench.server) == {CloseReason.TIMED_OUT: 1}
    assert bench.events == []
    assert bench.server.forgotten() == [client.address]
    assert bench.server.timeout(bench.now()) is None


def test_idle_timeout_ends_a_silent_connection_with_a_goodbye() -> None:
    """Closed by IDLE, close_notify to the client."""
    bench = Bench(idle_timeout=60.0)
    client = bench.connected()
    connection = bench.connection(client)
    bench.pass_time(59.0)
    assert connection.is_open
    bench.pass_time(1.1)
    assert bench.events[1:] == [Closed(connection, CloseReason.IDLE)]
    assert bench.server.forgotten() == [client.address]
    bench.deliver(client)
    assert client.session.receive() is None
    assert client.session.peer_closed


@pytest.mark.parametrize("way", ["received", "sent"])
def test_a_message_of_either_side_restarts_the_idle_time(way: str) -> None:
    """An hour of one message a minute."""
    bench = Bench(idle_timeout=90.0)
    client = bench.connected()
    connection = bench.connection(client)
    for _ in range(60):
        bench.pass_time(60.0)
        if way == "sent":
            bench.server.send(connection, b"are you there?", bench.now())
        else:
            client.session.send(b"here I am")
            bench.send(client)
    assert connection.is_open
    bench.pass_time(91.0)
    assert not connection.is_open


def test_garbage_does_not_keep_an_idle_connection_open() -> None:
    """Only messages count: anybody can send from that address."""
    bench = Bench(idle_timeout=60.0)
    client = bench.connected()
    bench.pass_time(50.0)
    bench.arrive(b"\x17\xfe\xfd" + bytes(7) + b"\x11\x00\x05hello", client.address)
    bench.pass_time(11.0)
    assert closed_by(bench.server) == {CloseReason.IDLE: 1}


def test_messages_beyond_max_queue_are_dropped_and_counted() -> None:
    """The first ones stay, and the connection lives."""
    bench = Bench(max_queue=3)
    client = bench.connected()
    connection = bench.connection(client)
    for number in range(5):
        client.session.send(b"%d" % number)
    bench.send(client)
    counters = bench.server.counters
    assert (counters.messages_received, counters.messages_dropped) == (5, 2)
    assert [connection.receive() for _ in range(4)] == [b"0", b"1", b"2", None]
    assert bench.echoes(client)


def test_messages_beyond_max_queue_bytes_are_dropped_and_counted() -> None:
    """What is taken makes room again, and one message always has room."""
    bench = Bench(max_queue_bytes=1000)
    client = bench.connected()
    connection = bench.connection(client)

    def arrives(*sizes: int) -> int:
        for size in sizes:
            client.session.send(bytes(size))
        before = bench.server.counters.messages_dropped
        bench.send(client)
        return bench.server.counters.messages_dropped - before

    assert arrives(600, 400, 1) == 1
    assert len(connection.receive() or b"") == 600
    assert arrives(601, 600) == 1
    assert [len(connection.receive() or b"") for _ in range(3)] == [400, 600, 0]
    assert arrives(1100, 1) == 1
    assert len(connection.receive() or b"") == 1100
    assert bench.echoes(client)


def test_a_queue_is_bounded_in_bytes_unless_told_otherwise() -> None:
    """256 KiB: a peer whose messages nobody takes costs no more."""
    bench = Bench(max_queue=10_000)
    client = bench.connected()
    size = client.session.data_mtu
    for _ in range(400):
        client.session.send(bytes(size))
    bench.send(client)
    assert bench.server.counters.messages_dropped == 400 - (256 << 10) // size


# --- what goes wrong ------------------------------------------------------------------------------


def test_garbage_from_an_admitted_address_does_no_harm() -> None:
    """Random bytes and plausible records, during the handshake and after it."""
    bench = Bench()
    chance = seeded()
    client = bench.client()
    bench.at_server_hello(client)

    def throw() -> None:
        for _ in range(100):
            body = chance.randbytes(chance.randrange(80))
            epoch = chance.choice((1, 2, 0xFFFF)).to_bytes(2, "big")
            header = bytes([chance.choice((20, 22, 23, 99)), 0xFE, 0xFD]) + epoch
            record = header + chance.randbytes(6) + len(body).to_bytes(2, "big") + body
            bench.arrive(record, client.address)
            bench.arrive(body, client.address)
            bench.arrive(record[: chance.randrange(len(record))], client.address)

    throw()
    bench.talk(client)
    throw()
    assert bench.echoes(client)
    assert closed_by(bench.server) == {}


@pytest.mark.parametrize("kind", KINDS)
def test_plaintext_records_after_the_handshake_are_ignored(kind: str) -> None:
    """Alerts of epoch 0 above all: a stranger can write those."""
    bench = Bench()
    client = bench.connected(kind)
    for level, description in ((1, 0), (2, 0), (2, 40), (2, 80), (1, 90)):
        for seq in (0, 7, 1 << 40):
            alert = b"\x15\xfe\xfd\0\0" + seq.to_bytes(6, "big") + b"\0\2"
            bench.arrive(alert + bytes([level, description]), client.address)
    assert bench.echoes(client)
    assert closed_by(bench.server) == {}


def test_lookup_that_raises_ends_that_handshake_alone() -> None:
    """The client hears an alert; the error stands in the counters; others are served."""

    def lookup(identity: str) -> bytes:
        raise LookupError(f"no database for {identity}")

    bench = Bench([certificate(), PSKCredentials(lookup=lookup)])
    other, client = bench.connected("X.509"), bench.client("PSK")
    with pytest.raises(FatalAlertError):
        bench.talk(client)
    assert closed_by(bench.server) == {CloseReason.FAILED: 1}
    assert str(bench.server.counters.last_error) == "no database for sensor-1"
    assert len(bench.server) == 1
    assert bench.server.forgotten() == [client.address]
    assert bench.echoes(other)


def test_failures_tell_who_failed_and_why() -> None:
    """Of handshakes alone, each once; what a lookup raised keeps the traceback of the lookup."""

    def lookup(identity: str) -> bytes:
        raise LookupError(f"no database for {identity}")

    bench = Bench([certificate(), PSKCredentials(lookup=lookup)], handshake_timeout=5.0)
    silent, unlucky = bench.client("X.509"), bench.client("PSK")
    bench.at_server_hello(silent)
    with pytest.raises(FatalAlertError):
        bench.talk(unlucky)
    bench.connected("X.509").session.close()
    bench.pass_time(6.0)
    first, second = bench.server.failures()
    assert (first.address, first.reason) == (unlucky.address, CloseReason.FAILED)
    assert isinstance(first.error, LookupError)
    assert [one.name for one in traceback.extract_tb(first.error.__traceback__)] == ["lookup"]
    assert second == HandshakeFailure(silent.address, CloseReason.TIMED_OUT)
    assert bench.server.failures() == []


def test_failures_that_are_not_taken_are_bounded() -> None:
    """The last ones stay."""
    bench = Bench(handshake_timeout=500.0)
    for clients in 44, 256:
        waiting = [bench.client() for _ in range(clients)]
        for client in waiting:
            bench.at_server_hello(client)
            bench.lose()
        bench.pass_time(501.0)
    failures = bench.server.failures()
    assert {one.address for one in failures} == {client.address for client in waiting}
    assert closed_by(bench.server) == {CloseReason.TIMED_OUT: 300}


@pytest.mark.parametrize("what", [KeyboardInterrupt, SystemExit])
def test_lookup_that_raises_an_exit_loses_no_place(what: type[BaseException]) -> None:
    """It comes out, and the server goes on with nothing of that client left."""
    raising = [what]

    def lookup(identity: str) -> bytes:
        for one in raising:
            raise one
        return PSK_KEY

    bench = Bench(PSKCredentials(lookup=lookup), max_sessions=1)
    client = bench.client()
    with pytest.raises(what):
        bench.talk(client)
    assert (len(bench.server), bench.server.timeout(bench.now())) == (0, None)
    assert client.address not in bench.server
    raising.clear()
    bench.lose()
    assert bench.echoes(bench.connected())


def test_session_that_cannot_be_made_costs_that_client_alone() -> None:
    """Counted and noted; the same client is served when it tries again."""
    bench = Bench(psk(), priority="NORMAL:-KX-ALL:+PSK:%COMPAT")
    other, client = bench.connected(), bench.client(retransmit_timeout=RETRANSMIT)
    priority = bench.server._settings.native.priority
    pointer, priority.pointer = priority.pointer, ffi.NULL  # which libgnutls refuses
    try:
        bench.at_server_hello(client)
    finally:
        priority.pointer = pointer
    counters = bench.server.counters
    assert counters.session_errors == 1
    (failed,) = bench.server.failures()
    assert (failed.address, failed.reason) == (client.address, CloseReason.FAILED)
    assert isinstance(failed.error, GnuTLSError)
    assert failed.error.name == "GNUTLS_E_NO_PRIORITIES_WERE_SET"
    assert counters.last_error is failed.error
    assert (len(bench.server), client.address in bench.server) == (1, False)
    assert bench.echoes(other)
    bench.talk(client)
    assert bench.echoes(client)


def test_client_of_another_mind_fails_alone() -> None:
    """No cipher in common: an alert for it, a number for the counters."""
    bench = Bench(certificate())
    other, client = bench.connected("X.509"), bench.client("PSK")
    with pytest.raises(FatalAlertError):
        bench.talk(client)
    assert closed_by(bench.server) == {CloseReason.FAILED: 1}
    assert isinstance(bench.server.counters.last_error, GnuTLSError)
    assert bench.echoes(other)


def test_fatal_alert_of_a_connected_client_ends_its_connection() -> None:
    """Closed by FAILED, with the error."""
    bench = Bench()
    client, other = bench.connected("X.509"), bench.connected("X.509")
    connection = bench.connection(client)
    client.session._alert(2, 80)  # under the session's keys, so it is the peer's own
    bench.send(client)
    closed = bench.events[-1]
    assert isinstance(closed, Closed)
    assert (closed.connection, closed.reason) == (connection, CloseReason.FAILED)
    assert isinstance(closed.error, FatalAlertError)
    assert bench.echoes(other)


# --- timers ---------------------------------------------------------------------------------------


def test_no_timer_runs_without_sessions() -> None:
    """And none of its own is left by sessions that are gone."""
    bench = Bench()
    assert bench.server.timeout(bench.now()) is None
    bench.server.close(bench.connection(bench.connected()))
    assert bench.server.timeout(bench.now()) is None


def test_timeout_is_that_of_the_next_timer() -> None:
    """Of a retransmission in the handshake, of idleness afterwards."""
    bench = Bench(idle_timeout=60.0, retransmit_timeout=1.0)
    client = bench.client()
    bench.at_server_hello(client)
    shaking = bench.server.timeout(bench.now())
    assert shaking is not None
    assert 0 < shaking <= 1.0
    bench.talk(client)
    with bounded():
        bench.pass_time(2.0)  # what is left of the handshake's timer
    idle = bench.server.timeout(bench.now())
    assert idle is not None
    assert 50 < idle <= 60.0


def test_lost_flight_is_sent_again() -> None:
    """By handle_timeout() alone, and it completes the handshake."""
    bench = Bench()
    client = bench.client(retransmit_timeout=5.0)
    bench.at_server_hello(client)
    flight = bench.lose()
    heard = len(bench.heard)
    with bounded():
        while len(bench.heard) < heard + len(flight):
            bench.pass_time(0.0)
    bench.talk(client)
    assert bench.echoes(client)


@pytest.mark.parametrize("state", ["nobody", "handshake", "connected", "both"])
def test_handle_timeout_never_leaves_a_timer_that_is_due(state: str) -> None:
    """After handle_timeout(now), timeout(now) is above 0: an event loop does not spin."""
    chance = seeded()
    bench = Bench(idle_timeout=3.7, handshake_timeout=2.9)
    if state in ("connected", "both"):
        bench.connected()
    if state in ("handshake", "both"):
        bench.at_server_hello(bench.client())
    with bounded():
        for _ in range(300):
            now = bench.now() + chance.choice((0.0, 0.001, chance.random() / 40))
            bench._added += now - bench.now()
            bench.server.handle_timeout(now)
            left = bench.server.timeout(now)
            assert left is None or left > 0
            if left is not None and chance.random() < 0.5:  # exactly when it wants to be called
                bench.server.handle_timeout(now + left)
                later = bench.server.timeout(now + left)
                assert later is None or later > 0
                bench._added += left


def test_rounded_idle_time_does_not_spin() -> None:
    """Called to the very moment, where last_active + idle_timeout is a rounded float."""
    idle, now = 300.0, 1_000_000.1
    while (now + idle) - now >= idle:  # until the difference comes out short
        now += 0.1
    server = Server(psk(), idle_timeout=idle)
    bench = Bench(psk())
    bench.server = server
    bench.now = lambda: now  # type: ignore[method-assign]
    client = bench.connected()
    with bounded():
        server.handle_timeout(now + idle)
    assert closed_by(server) == {CloseReason.IDLE: 1}
    assert client.address not in server


def test_the_clock_may_stand_still() -> None:
    """With nothing due handle_timeout() comes back, however often it is called."""
    bench = Bench()
    bench.connected()
    now = bench.now()
    with bounded():
        for _ in range(1000):
            bench.server.handle_timeout(now)
    assert len(bench.server) == 1


def test_timers_far_ahead() -> None:
    """A machine that slept for a day: all is closed at once."""
    bench = Bench()
    clients = [bench.connected() for _ in range(5)]
    bench.at_server_hello(bench.client())
    bench.pass_time(DAY)
    assert len(bench.server) == 0
    assert closed_by(bench.server) == {CloseReason.IDLE: len(clients), CloseReason.TIMED_OUT: 1}


# --- memory ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["close", "peer", "failed"])
def test_closed_connection_is_freed_at_once(end: str) -> None:
    """No timer of minutes and no cycle keeps a session alive: not even the collector is needed."""
    bench = Bench(idle_timeout=DAY)
    client = bench.connected("X.509")
    gc.disable()
    try:
        watched = weakref.ref(bench.connection(client).session)
        if end == "close":
            bench.server.close(bench.connection(client))
        elif end == "peer":
            client.session.close()
            bench.send(client)
        else:
            client.session._alert(2, 80)
            bench.send(client)
        bench.lose()
        bench.events.clear()
        assert watched() is None
    finally:
        gc.enable()


def test_ended_handshake_is_freed_at_once() -> None:
    """The same for one that was given up: it holds the server's settings no more."""
    bench = Bench(handshake_timeout=5.0)
    before = bench.server._settings.holders
    bench.at_server_hello(bench.client())
    assert bench.server._settings.holders == before + 1
    bench.pass_time(6.0)
    assert bench.server._settings.holders == before


def test_many_clients_one_after_another_leave_nothing() -> None:
    """Counters add up, no session, no timer, nothing lent."""
    bench = Bench(idle_timeout=DAY)
    for _ in range(200):
        client = bench.connected()
        bench.server.close(bench.connection(client))
        bench.events.clear()
        bench.heard.clear()
    assert bench.server.counters.connected == 200
    assert closed_by(bench.server) == {CloseReason.LOCAL: 200}
    assert (len(bench.server), bench.server.timeout(bench.now())) == (0, None)
    assert len(bench.server.forgotten()) == 200


# --- what is held in C ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        ("192.0.2.255", 65535),
        ("2001:db8::1", 1, 0, 0),
        ("::ffff:192.0.2.1", 9, 0, 0),
        ("fe80:1111:2222:3333:4444:5555:6666:7777", 65535, 0xFFFFF, 2**32 - 1),
    ],
)
def test_address_is_shown_as_python_shows_it(address: Any) -> None:
    """The name of a handler's task, say: made without the tuple."""
    bench = Bench()
    connection = bench.connection(bench.connected(address=address))
    assert connection._shown_address == str(address) == str(connection.address)


def test_session_of_a_connection_outlives_connection_and_server() -> None:
    """What was agreed on can be asked first when all is over."""
    bench = Bench()
    asked_before, asked_after = bench.connected("X.509"), bench.connected("PSK")
    one, other = (bench.connection(client) for client in (asked_before, asked_after))
    assert isinstance(one.session, Session)
    assert one.session is one.session
    bench.server.close_all()
    bench.events.clear()
    del bench
    gc.collect()
    assert one.session.version == "DTLS1.2"
    assert other.session.psk_identity == "sensor-1"
    assert (other.session.closed, other.session.established) == (True, True)
    assert (other.address, other.local) == (asked_after.address, None)
    assert "closed" in repr(other)


def test_session_is_asked_for_the_first_time_as_its_connection_ends() -> None:
    """By another thread, which asks for its address all the time: what it finds is not freed."""
    bench = Bench()
    connections = [bench.connection(bench.connected()) for _ in range(60)]
    both = threading.Barrier(2, timeout=20)
    found: list[tuple[str | None, Any]] = []

    def ask() -> None:
        for connection in connections:
            both.wait()
            while connection._hold is None:
                assert connection._shown_address
            found.append((connection.session.psk_identity, connection.address))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    try:
        for connection in connections:
            both.wait()
            bench.server.close(connection)
            assert len([one for one in bench.server.events() if isinstance(one, Closed)]) == 1
    finally:
        sys.setswitchinterval(interval)
    thread.join(20)
    assert found == [("sensor-1", connection.address) for connection in connections]


def test_connection_whose_memory_the_collector_has_freed() -> None:
    """As a finalizer may find it: an error, unless the address was asked before."""
    bench = Bench()
    client = bench.connected()
    connection = bench.connection(client)
    assert connection.address == client.address
    bench.server.close(connection)
    bench.events.clear()
    lib.gcookie_wire_release(connection._hold[0])
    assert connection.address == client.address
    connection._address = None
    with pytest.raises(GnuTLSError, match="freed the connection"):
        _ = connection.address
    with pytest.raises(GnuTLSError, match="freed the connection"):
        _ = connection.local


def test_connection_whose_server_the_collector_has_freed() -> None:
    """The same of an open one: of that the server in C has the session."""
    bench = Bench()
    client = bench.connected()
    connection = bench.connection(client)
    assert connection.address == client.address
    lib.gcookie_server_free(bench.server._box)
    assert connection.address == client.address
    connection._address = None
    for ask in (
        lambda: connection.address,
        lambda: connection.local,
        lambda: connection.session,
        lambda: connection._shown_address,
    ):
        with pytest.raises(GnuTLSError, match="freed the connection"):
            ask()


def test_connection_of_another_server_is_not_taken_for_one_of_its_own() -> None:
    """Both count theirs from one number: nothing is sent, and nobody's connection ends."""
    bench, another = Bench(), Bench()
    client = bench.connected()
    connection = bench.connection(client)
    stranger = another.connection(another.connected())
    with pytest.raises(GnuTLSError, match="closed"):
        bench.server.send(stranger, b"to whom?", bench.now())
    bench.server.close(stranger)
    assert (connection.is_open, stranger.is_open) == (True, True)
    assert bench.echoes(client)


@pytest.mark.parametrize("call", ["close_all", "handle_timeout", "receive", "send", "credentials"])
def test_lookup_that_calls_its_own_server_fails_alone(call: str) -> None:
    """A RuntimeError for that handshake; the server is as it was."""

    def lookup(identity: str) -> bytes:
        if not held:
            return PSK_KEY
        server, now = bench.server, bench.now()
        if call == "close_all":
            server.close_all()
        elif call == "handle_timeout":
            server.handle_timeout(now)
        elif call == "receive":
            server.receive(bench.arrivals[-1], now)
        elif call == "send":
            server.send(held[0], b"x", now)
        else:
            server.credentials = psk()
        return PSK_KEY

    held: list[Any] = []
    bench = Bench(PSKCredentials(lookup=lookup))
    other = bench.connected()
    held.append(bench.connection(other))
    with pytest.raises(FatalAlertError):
        bench.talk(bench.client())
    error = bench.server.counters.last_error
    assert type(error) is RuntimeError
    assert str(error) == "another call of this server is under way"
    assert closed_by(bench.server) == {CloseReason.FAILED: 1}
    held.clear()
    assert bench.echoes(other)
    assert bench.echoes(bench.connected())


def test_credentials_live_as_long_as_sessions_that_use_them() -> None:
    """Half-open ones as well: a lookup that was replaced meanwhile still answers theirs."""
    asked: list[str] = []

    def lookup(identity: str) -> bytes:
        asked.append(identity)
        return PSK_KEY

    bench = Bench(PSKCredentials(lookup=lookup))
    client = bench.client()
    bench.at_server_hello(client)
    for _ in range(20):
        bench.server.credentials = certificate()
    gc.collect()
    bench.talk(client)
    assert asked == ["sensor-1"]
    assert bench.echoes(client)
    assert len(bench.server._known) <= 3


# --- a client that starts again -------------------------------------------------------------------


def repeated(bench: Bench, hello: Arrival) -> int:
    """How many flights a verified hello is answered with, when it comes once more."""
    before = len(bench.heard)
    bench.server.receive(hello, bench.now())
    bench.lose()
    return sum(datagram[13] == 2 for datagram, _ in bench.heard[before:])  # ServerHello


@pytest.mark.parametrize("kind", KINDS)
def test_client_that_starts_again_with_the_same_hello_is_answered_within_seconds(kind: str) -> None:
    """A poor random generator: as soon as it cannot be a repetition, it is a new handshake, beside
    the old session until it is complete (RFC 6347 4.2.8)."""
    bench = Bench()
    bench.stop_clock()
    client = bench.connected(kind)
    hello, connection = hello_of(bench), bench.connection(client)
    assert repeated(bench, hello) == 0
    bench.pass_time(1.5)
    assert repeated(bench, hello) == 0
    assert bench.server.counters.duplicates == 2
    bench.pass_time(1.0)
    assert repeated(bench, hello) == 1
    assert (bench.server.counters.duplicates, bench.server.counters.handshaking) == (2, 1)
    assert bench.echoes(client)
    assert repeated(bench, hello) == 0  # of the new handshake, right behind it
    assert (bench.server.counters.duplicates, bench.server.counters.handshaking) == (3, 1)
    assert connection.is_open


def test_client_that_starts_again_amid_its_handshake_with_the_same_hello() -> None:
    """It had gone on already: the half-open session that it left gives way."""
    bench = Bench(handshake_timeout=30.0)
    client = bench.client("X.509")
    bench.at_server_hello(client)
    hello = hello_of(bench)
    bench.deliver(client)
    client.session.mtu = 128  # a datagram for each record
    client.session.handshake()
    key_exchange, *_ = client.session.datagrams_to_send()
    bench.arrive(key_exchange, client.address)
    assert repeated(bench, hello) == 0
    bench.pass_time(2.5)
    assert repeated(bench, hello) == 1
    assert closed_by(bench.server) == {CloseReason.REPLACED: 1}
    assert bench.server.counters.handshaking == 1


def test_client_that_starts_again_before_it_went_on_gets_the_flight_at_once() -> None:
    """With the same hello the half-open session is as good: its flight comes again, not more often
    than by its first timer (RFC 6347 4.2.4)."""
    bench = Bench(retransmit_timeout=20.0)
    client = bench.client("X.509")
    bench.at_server_hello(client)
    bench.lose()
    hello = hello_of(bench)
    assert repeated(bench, hello) == 0
    bench.stall(20.0)
    assert repeated(bench, hello) == 1
    assert repeated(bench, hello) == 0
    assert bench.server.counters.handshaking == 1


def test_the_same_random_with_another_cookie_is_another_hello() -> None:
    """The keys changed in between: its handshake could not be completed by the old session."""
    bench = Bench()
    client = bench.connected("PSK")
    hello = hello_of(bench)
    at = 60 + hello.datagram[59] + 1
    cookie = bytes(one ^ 1 for one in hello.datagram[at : at + 16])
    other = hello.datagram[:at] + cookie + hello.datagram[at + 16 :]
    assert repeated(bench, Arrival(client.address, other, hello.prestate)) == 1
    assert bench.server.counters.duplicates == 0


@pytest.mark.parametrize("size", [13, 27, 28, 59, 60, 61, 70])
def test_a_short_hello_of_a_careless_caller_raises_nothing(size: int) -> None:
    """A gate lets none through; one that comes otherwise is an answerless session."""
    bench = Bench()
    bench.connected()
    hello = hello_of(bench)
    short = hello.datagram[:11] + (size - 13).to_bytes(2, "big") + hello.datagram[13:size]
    bench.server.receive(Arrival(("192.0.2.9", 9), short, hello.prestate), bench.now())
    assert bench.server.counters.handshaking == 1


# --- arguments ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("max_sessions", 0, ValueError),
        ("max_sessions", -1, ValueError),
        ("max_sessions", 1.5, TypeError),
        ("max_sessions", True, TypeError),
        ("max_sessions", None, TypeError),
        ("max_queue", 0, ValueError),
        ("max_queue", "many", TypeError),
        ("max_queue", False, TypeError),
        ("max_queue_bytes", 0, ValueError),
        ("max_queue_bytes", 1.0, TypeError),
        ("max_queue_bytes", True, TypeError),
        ("idle_timeout", True, TypeError),
        ("idle_timeout", -math.inf, ValueError),
        ("idle_timeout", 10**400, ValueError),
        ("handshake_timeout", True, TypeError),
        ("handshake_timeout", 1e300, ValueError),
        ("handshake_timeout", 10**400, ValueError),
        ("retransmit_timeout", math.inf, ValueError),
        ("retransmit_timeout", math.nan, ValueError),
        ("idle_timeout", 0, ValueError),
        ("idle_timeout", -1.0, ValueError),
        ("idle_timeout", math.nan, ValueError),
        ("idle_timeout", None, TypeError),
        ("handshake_timeout", 0, ValueError),
        ("handshake_timeout", math.nan, ValueError),
        ("handshake_timeout", math.inf, ValueError),
        ("handshake_timeout", "soon", TypeError),
        ("retransmit_timeout", 0.0, ValueError),
        ("retransmit_timeout", [], TypeError),
        ("mtu", 10, ValueError),
        ("mtu", "large", TypeError),
        ("priority", "NONSENSE", ValueError),
        ("priority", 7, TypeError),
        ("verify_peer", "yes", TypeError),
    ],
)
def test_wrong_argument_is_named(name: str, value: object, error: type[Exception]) -> None:
    """At once, not at the first client."""
    options: dict[str, Any] = {name: value}
    with pytest.raises(error, match=name):
        Server(psk(), **options)


@pytest.mark.parametrize("value", [None, "secret", 7, [psk(), psk()], []])
def test_wrong_credentials_are_named(value: Any) -> None:
    """Another type, none, or two of a kind."""
    with pytest.raises((TypeError, ValueError), match="credentials"):
        Server(value)


def test_idle_timeout_may_be_infinite() -> None:
    """No connection is ever closed for its silence then."""
    bench = Bench(idle_timeout=math.inf)
    client = bench.connected()
    bench.pass_time(365 * DAY)
    assert bench.echoes(client)


@pytest.mark.parametrize(
    ("now", "error"),
    [
        (math.nan, ValueError),
        (math.inf, ValueError),
        (-math.inf, ValueError),
        (1e300, ValueError),
        (10**400, ValueError),
        (True, TypeError),
        ("1", TypeError),
        (None, TypeError),
    ],
)
def test_now_is_a_number_of_seconds(now: Any, error: type[Exception]) -> None:
    """Else timers would never be due, or always."""
    bench = Bench()
    client = bench.connected()
    connection = bench.connection(client)
    with pytest.raises(error, match="now"):
        bench.server.receive(Arrival(client.address, b"", None), now)
    with pytest.raises(error, match="now"):
        bench.server.send(connection, b"x", now)
    with pytest.raises(error, match="now"):
        bench.server.timeout(now)
    with pytest.raises(error, match="now"):
        bench.server.handle_timeout(now)
    assert bench.echoes(client)


@pytest.mark.parametrize("start", [0, -1e12, 9.9e11, 10**11])
def test_a_clock_may_begin_anywhere(start: float) -> None:
    """Far from zero too, timers come to an end."""
    bench = Bench(handshake_timeout=5.0)
    bench.now = lambda: start  # type: ignore[method-assign]
    client = bench.client()
    bench.at_server_hello(client)
    with bounded():
        for second in range(10):
            bench.server.handle_timeout(start + second)
    assert len(bench.server) == 0


def test_reprs_tell_whom_and_what() -> None:
    """For a log line."""
    bench = Bench()
    connection = bench.connection(bench.connected())
    assert repr(connection).startswith("<Connection ('192.0.2.1', 40000) <Session server (DTLS1.2")


def test_a_server_is_made_once() -> None:
    """What C works on would be taken away, under a call too; and it serves on."""
    bench = Bench()
    client = bench.connected("psk")
    with pytest.raises(RuntimeError, match="made once"):
        bench.server.__init__(psk())  # type: ignore[misc]
    assert bench.echoes(client, b"still here")


def test_a_finalizer_of_the_same_garbage_is_told_that_the_server_is_freed() -> None:
    """Of whatever it asks, and reads no memory that was given back."""
    said: list[str] = []

    class User:
        server: Server

        def __del__(self) -> None:
            for ask in (
                lambda: self.server.counters,
                lambda: self.server.refused,
                lambda: len(self.server),
            ):
                try:
                    said.append(repr(ask()))
                except GnuTLSError as error:
                    said.append(str(error))

    server = Server(psk())  # before the user, so that the collector takes it first
    user = User()
    user.server = server
    server.user = user  # type: ignore[attr-defined]
    del server, user
    gc.collect()
    assert len(said) == 3
    if getattr(sys, "_is_gil_enabled", lambda: True)():  # else the collector has another order
        assert all("freed the server" in one for one in said), said


@pytest.mark.parametrize("given", [None, 5, 1.5, "x", b"x", [], {}, ("127.0.0.1", 5), object()])
def test_argument_of_another_type_is_refused_by_name(given: Any) -> None:
    """By each method that takes one, and each field of an Arrival; nothing else happens."""
    bench = Bench(psk())
    client = bench.connected()
    server, now = bench.server, bench.now()
    fields: dict[str, Any] = {"address": client.address, "datagram": b"x", "prestate": None}

    def refuses(name: str, call: Any, *arguments: Any) -> None:
        with pytest.raises(TypeError, match=rf"^{name}\b.* must be "):
            call(*arguments)

    refuses("arrival", server.receive, given, now)
    if given != ("127.0.0.1", 5):
        refuses("address", server.receive, Arrival(**fields | {"address": given}), now)
    refuses("address", server.receive, Arrival(**fields | {"address": (given, [])}), now)
    if given != b"x":
        refuses("datagram", server.receive, Arrival(**fields | {"datagram": given}), now)
        refuses("data", server.send, bench.connection(client), given, now)
    if given is not None:
        refuses("prestate", server.receive, Arrival(**fields | {"prestate": given}), now)
    if given is not None and given != "x":
        refuses("local", server.receive, Arrival(**fields | {"local": given}), now)
    refuses("connection", server.send, given, b"x", now)
    refuses("connection", server.close, given)
    if given not in (5, 1.5):
        refuses("now", server.receive, Arrival(**fields), given)
        refuses("now", server.timeout, given)
        refuses("now", server.handle_timeout, given)
        refuses("now", server.send, bench.connection(client), b"x", given)
    assert bench.echoes(client)
