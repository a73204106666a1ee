"""The session in process: a client and a server that hand each other their datagrams."""

from __future__ import annotations

import copy
import ctypes
import gc
import os
import pickle
import random
import re
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from gnutls_cookie import (
    BadCookieError,
    CertificateCredentials,
    GnuTLSError,
    InvalidRequestError,
    Prestate,
    PSKCredentials,
    Session,
    cookie_send,
    cookie_verify,
    prestate_set,
)
from gnutls_cookie.errors import (
    CertificateVerificationError,
    FatalAlertError,
    LargePacketError,
    TimedOutError,
)
from gnutls_cookie.handles import TABLE
from tests.support.common import compile_peer, cookie_of, libgnutls, python_in_silence, seeded
from tests.support.peers import (
    CERTS,
    DTLS_1_0,
    IDENTITY,
    KINDS,
    PSK_KEY,
    Options,
    certificate,
    client_of,
    deliver,
    echoes,
    established,
    messages,
    pair,
    psk,
    server_of,
    shake,
    trusting,
    wait_for_timer,
)

LOCALHOST_PEM = (CERTS / "localhost.pem").read_bytes()
LOCALHOST_KEY = (CERTS / "localhost.key").read_bytes()


# --- the handshake --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_handshake_completes_and_messages_go_both_ways(kind: str) -> None:
    """With either kind of credentials, and by default in DTLS 1.2."""
    client, server = pair(kind)
    before = (client.version, client.cipher, client.description)
    already = client.established
    assert not already
    assert before == (None, None, None)
    shake(client, server)
    assert client.established
    assert server.established
    assert client.version == server.version == "DTLS1.2"
    assert client.cipher == server.cipher is not None
    assert client.description == server.description is not None
    assert echoes(client, server)
    assert echoes(server, client)


def test_handshake_of_a_complete_session_is_complete() -> None:
    """handshake() may be called in every turn of a loop."""
    client, server = established()
    assert client.handshake() is True
    assert server.handshake() is True
    assert client.datagrams_to_send() == []


def test_psk_identity_is_known_to_the_server_alone() -> None:
    """The server learns who the client is; a client is asked nothing."""
    client, server = pair("PSK")
    before = server.psk_identity
    assert before is None
    shake(client, server)
    assert server.psk_identity == IDENTITY
    assert client.psk_identity is None


def test_peer_certificate_is_known_in_der() -> None:
    """The client has the server's certificate; the server has none where it asked for none."""
    client, server = pair("X.509")
    before = client.peer_certificate
    assert before is None
    shake(client, server)
    der = subprocess_der(LOCALHOST_PEM)
    assert client.peer_certificate == der
    assert server.peer_certificate is None
    assert server.psk_identity is None


def test_server_with_both_kinds_serves_both() -> None:
    """One server session takes whichever its client has."""
    both: list[Any] = [certificate(), psk()]
    server = Session("server", both)
    shake(client_of("PSK"), server)
    assert server.psk_identity == IDENTITY
    server = Session("server", both)
    client = client_of("X.509")
    shake(client, server)
    assert server.psk_identity is None
    assert client.peer_certificate is not None


def test_client_with_both_kinds_is_served_by_either() -> None:
    """A client that has a key and trusts a certificate takes what the server has."""
    for kind in KINDS:
        client = Session("client", [trusting(), psk()], server_name="localhost")
        server = server_of(kind)
        shake(client, server)
        assert echoes(client, server)


@pytest.mark.parametrize("version", ["DTLS1.0", "DTLS1.2"])
@pytest.mark.parametrize("kind", KINDS)
def test_priority_chooses_the_version(kind: str, version: str) -> None:
    """NORMAL with one version only; DTLS 1.0 where the library and its policy still have it."""
    kx = ":-KX-ALL:+ECDHE-PSK:+DHE-PSK:+PSK" if kind == "PSK" else ""
    try:
        client, server = pair(kind, priority=f"NORMAL:-VERS-ALL:+VERS-{version}{kx}")
        shake(client, server)
    except (GnuTLSError, ValueError) as error:
        if version == "DTLS1.2":
            raise
        pytest.skip(f"this libgnutls makes no DTLS 1.0: {error}")
    assert (client.version, server.version) == (version, version)
    assert echoes(client, server)


def test_priority_chooses_the_cipher() -> None:
    """A cipher named alone is the one that is used."""
    client, server = pair("X.509", priority="NORMAL:-CIPHER-ALL:+AES-128-GCM")
    shake(client, server)
    assert client.cipher == server.cipher == "AES-128-GCM"


@pytest.mark.parametrize(
    ("priority", "position"), [("NORMAL:+NONSENSE", "+NONSENSE"), ("ABNORMAL", "ABNORMAL")]
)
def test_priority_that_is_not_understood_is_named_with_its_position(
    priority: str, position: str
) -> None:
    """The message shows where libgnutls stopped reading, and the whole."""
    with pytest.raises(ValueError, match=re.escape(f"at {position!r}: {priority!r}")):
        client_of("PSK", priority=priority)


@pytest.mark.parametrize("name", ["127.0.0.1", "::1"])
def test_server_name_may_be_an_ip_address(name: str) -> None:
    """It is looked for among the addresses of the certificate, and not sent (RFC 6066 3)."""
    client, server = pair_with(client={"server_name": name})
    client.handshake()
    hello = client.datagrams_to_send()[0]
    assert name.encode() not in hello
    server.receive_datagram(hello)
    server.handshake()
    deliver(server, client)
    shake(client, server)


def test_server_name_is_sent_to_the_server() -> None:
    """The server name extension of RFC 6066."""
    client = client_of("X.509")
    client.handshake()
    assert b"localhost" in client.datagrams_to_send()[0]


# --- messages -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mtu", [128, 228, 1200, 1500, 9000, 16384])
def test_largest_message_fills_the_mtu_and_one_byte_more_is_an_error(kind: str, mtu: int) -> None:
    """data_mtu bytes go in one datagram of at most mtu bytes; more is LargePacketError."""
    client, server = established(kind)
    client.mtu = mtu
    message = random.Random(mtu).randbytes(client.data_mtu)
    assert client.send(message) == len(message)
    (datagram,) = deliver(client, server)
    assert len(message) < len(datagram) <= mtu
    assert server.receive() == message
    with pytest.raises(
        LargePacketError, match=f"data of {len(message) + 1} bytes, where 1..{len(message)} fit"
    ):
        client.send(message + b"!")
    assert client.datagrams_to_send() == []
    assert echoes(client, server)


@pytest.mark.parametrize(
    "function", ["gnutls_record_set_max_size", "gnutls_record_set_max_recv_size"]
)
def test_data_mtu_is_what_the_peer_takes(function: str) -> None:
    """A client that takes records of 600 bytes at most says so (RFC 8449): more is an error."""
    peer, session = client, server = pair()
    address = ctypes.c_void_p(peer._gnutls_session_address())
    assert getattr(libgnutls(), function)(address, ctypes.c_size_t(600)) == 0
    shake(client, server)
    assert session.data_mtu == 600
    session.send(bytes(600))
    deliver(session, peer)
    assert messages(peer) == [bytes(600)]
    for size in (601, 1100, 16384):
        with pytest.raises(LargePacketError, match=f"{size} bytes"):
            session.send(bytes(size))
    assert session.datagrams_to_send() == []
    assert echoes(client, server)


def test_mtu_above_a_record_is_cut_to_it() -> None:
    """libgnutls takes 16384 at most (RFC 6347 4.1: the largest record)."""
    client, _ = established()
    client.mtu = 65507
    assert client.mtu == 16384


def test_empty_message_is_an_error_and_nothing_is_sent() -> None:
    """An empty record says nothing; libgnutls refuses it."""
    client, server = established()
    with pytest.raises(InvalidRequestError, match="data of 0 bytes"):
        client.send(b"")
    assert client.datagrams_to_send() == []
    assert echoes(client, server)


@pytest.mark.parametrize("kind_of_bytes", [bytes, bytearray, memoryview])
def test_message_and_datagram_may_be_any_bytes(
    kind_of_bytes: Callable[[bytes | bytearray], Any],
) -> None:
    """bytearray and memoryview are copied: the caller may change them at once."""
    client, server = established()
    client.send(kind_of_bytes(b"message"))
    (datagram,) = client.datagrams_to_send()
    lent = bytearray(datagram)
    server.receive_datagram(kind_of_bytes(lent) if kind_of_bytes is not bytes else datagram)
    lent[:] = bytes(len(lent))
    assert server.receive() == b"message"


def test_each_message_is_one_datagram_in_order() -> None:
    """datagrams_to_send() gives what was sent since the last call, oldest first."""
    client, server = established()
    sent = [b"%d" % number for number in range(20)]
    for message in sent:
        client.send(message)
    assert len(deliver(client, server)) == 20
    assert client.datagrams_to_send() == []
    assert messages(server) == sent


def test_no_message_is_none() -> None:
    """receive() waits for nothing."""
    client, server = established()
    assert client.receive() is None
    assert server.receive() is None
    assert not client.peer_closed


def test_doubled_and_reordered_datagrams_give_each_message_once() -> None:
    """The sequence numbers of records (RFC 6347 4.1.2.6) tell a replay."""
    chance = seeded()
    client, server = established()
    for turn in range(20):
        sent = [b"%d-%d" % (turn, number) for number in range(16)]
        for message in sent:
            client.send(message)
        datagrams = client.datagrams_to_send() * 2
        chance.shuffle(datagrams)
        for datagram in datagrams:
            server.receive_datagram(datagram)
        assert sorted(messages(server)) == sorted(sent)
        assert server.receive() is None
    assert echoes(client, server)


def test_lost_message_is_lost_and_the_next_arrives() -> None:
    """DTLS repeats no application data (RFC 6347 3.2)."""
    client, server = established()
    client.send(b"lost")
    client.datagrams_to_send()
    client.send(b"next")
    deliver(client, server)
    assert messages(server) == [b"next"]


def test_replay_of_a_whole_conversation_gives_nothing() -> None:
    """Old datagrams of handshake and messages, once more: silence, and the session lives on."""
    client, server = pair()
    seen = shake(client, server)
    client.send(b"once")
    seen += deliver(client, server)
    assert messages(server) == [b"once"]
    for datagram in seen:
        server.receive_datagram(datagram)
        client.receive_datagram(datagram)
    assert messages(server) == messages(client) == []
    server.datagrams_to_send()
    assert echoes(client, server)


def test_send_and_receive_need_the_handshake() -> None:
    """Before it is complete both are errors that say so."""
    client = client_of("PSK")
    for call in (lambda: client.send(b"early"), client.receive):
        with pytest.raises(GnuTLSError, match="handshake is not complete"):
            call()


# --- goodbye --------------------------------------------------------------------------------------


@pytest.mark.parametrize("closer", ["client", "server"])
@pytest.mark.parametrize("kind", KINDS)
def test_close_is_seen_and_answered(kind: str, closer: str) -> None:
    """close_notify goes one way and then the other (RFC 5246 7.2.1)."""
    client, server = established(kind, retransmit_timeout=30.0, handshake_timeout=60.0)
    one, other = (client, server) if closer == "client" else (server, client)
    one.close()
    assert one.closed
    answered = one.peer_closed
    assert not answered
    assert len(deliver(one, other)) == 1
    noticed = other.peer_closed
    assert not noticed, "nobody has looked yet"
    assert other.receive() is None
    assert other.peer_closed
    assert other.closed
    assert len(deliver(other, one)) == 1
    assert one.receive() is None
    assert one.peer_closed
    assert one.datagrams_to_send() == []


def test_closed_session_sends_nothing_more() -> None:
    """send() is an error, close() once more does nothing, the timer is gone."""
    client, _ = established()
    client.close()
    assert len(client.datagrams_to_send()) == 1
    with pytest.raises(GnuTLSError, match="closed"):
        client.send(b"late")
    client.close()
    assert client.datagrams_to_send() == []
    assert client.timeout() is None


def test_closed_session_still_reads_what_was_under_way() -> None:
    """What the peer sent before its own goodbye arrives."""
    client, server = established()
    server.send(b"under way")
    client.close()
    deliver(server, client)
    assert messages(client) == [b"under way"]
    assert not client.peer_closed


def test_message_before_the_goodbye_is_read_first() -> None:
    """The last message, then None and peer_closed."""
    client, server = established()
    client.send(b"last words")
    client.close()
    deliver(client, server)
    assert server.receive() == b"last words"
    before = server.peer_closed
    assert not before
    assert server.receive() is None
    assert server.peer_closed
    with pytest.raises(GnuTLSError, match="closed"):
        server.send(b"too late")


def test_receive_after_the_goodbye_stays_none() -> None:
    """A loop that goes on reading reads nothing."""
    client, server = established()
    client.close()
    deliver(client, server)
    assert [server.receive() for _ in range(3)] == [None] * 3


def test_close_before_anything_was_sent_is_silent() -> None:
    """Nobody knows of the session: nobody is told."""
    for session in pair():
        session.close()
        assert session.closed
        assert session.datagrams_to_send() == []
        with pytest.raises(GnuTLSError, match="closed"):
            session.handshake()


@pytest.mark.parametrize("closer", ["client", "server"])
def test_close_during_the_handshake_ends_it_for_the_peer(closer: str) -> None:
    """user_canceled and close_notify (RFC 5246 7.2.2): the peer need not wait for its timers."""
    client, server = pair("X.509")
    client.handshake()
    deliver(client, server)
    server.handshake()
    deliver(server, client)
    one, other = (client, server) if closer == "client" else (server, client)
    one.close()
    assert len(deliver(one, other)) == 2
    with pytest.raises(GnuTLSError, match=r"peer gave up the handshake$|Peer has terminated"):
        other.handshake()
    assert other.closed


# --- MTU ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mtu", [128, 228, 400])
def test_small_mtu_fragments_the_handshake(mtu: int) -> None:
    """The certificate goes in fragments, and no datagram is longer than the MTU."""
    patient: Options = {"retransmit_timeout": 30.0, "handshake_timeout": 60.0}
    client, server = pair("X.509", mtu=mtu, **patient)
    seen = shake(client, server)
    assert max(map(len, seen)) <= mtu
    usual = shake(*pair("X.509", **patient))
    assert len(seen) > len(usual)
    assert echoes(client, server)


def test_mtu_can_be_read_and_set() -> None:
    """Default 1200; the room for data is smaller by what the records cost."""
    client, _ = established()
    assert client.mtu == 1200
    assert 1100 < client.data_mtu < 1200
    client.mtu = 600
    assert client.mtu == 600
    assert 500 < client.data_mtu < 600


# --- timers ---------------------------------------------------------------------------------------


def test_timer_runs_during_the_handshake_only() -> None:
    """None before the first handshake(), within the retransmission time after it, then None."""
    client, server = pair("X.509", retransmit_timeout=5.0, handshake_timeout=60.0)
    assert client.timeout() is None
    assert server.timeout() is None
    client.handshake()
    timer = client.timeout()
    assert timer is not None
    assert 0 < timer <= 5
    shake(client, server)
    assert client.timeout() is None
    assert server.timeout() is None


def test_server_that_waits_for_a_hello_has_only_its_total_time() -> None:
    """It has sent nothing that it could send again."""
    server = server_of("PSK", retransmit_timeout=1.0, handshake_timeout=50.0)
    assert server.handshake() is False
    timer = server.timeout()
    assert timer is not None
    assert 40 < timer <= 50
    server.handle_timeout()
    assert server.datagrams_to_send() == []


def test_timer_does_not_exceed_the_total_time() -> None:
    """Where the next retransmission would be later than that, and where it comes before."""
    client = client_of("PSK", retransmit_timeout=30.0, handshake_timeout=5.0)
    client.handshake()
    timer = client.timeout()
    assert timer is not None
    assert 0 < timer <= 5.0
    client = client_of("PSK", retransmit_timeout=5.0, handshake_timeout=30.0)
    client.handshake()
    timer = client.timeout()
    assert timer is not None
    assert 0 < timer <= 5.0


def test_timer_before_its_time_sends_nothing() -> None:
    """handle_timeout() may be called too early."""
    client = client_of("PSK", retransmit_timeout=10.0)
    client.handshake()
    assert len(client.datagrams_to_send()) == 1
    client.handle_timeout()
    assert client.datagrams_to_send() == []


def test_handle_timeout_without_a_timer_does_nothing() -> None:
    """Before, after and past the session."""
    client, server = pair()
    client.handle_timeout()
    assert client.datagrams_to_send() == []
    shake(client, server)
    client.handle_timeout()
    client.close()
    client.handle_timeout()


def test_unanswered_flight_is_sent_again() -> None:
    """The same ClientHello with a new record sequence number (RFC 6347 4.2.4)."""
    client = client_of("X.509")
    client.handshake()
    (first,) = client.datagrams_to_send()
    for turn in range(1, 4):
        wait_for_timer(client)
        (again,) = client.datagrams_to_send()
        assert again[:5] + again[11:] == first[:5] + first[11:]
        assert int.from_bytes(again[5:11], "big") == turn


def nth_lost(kind: str, n: int, **options: Any) -> bool:
    """A handshake whose datagram number n never arrives; whether there was one of that number."""
    client, server = pair(kind, **options)
    number = 0
    # The side that ends first answers a repeated flight from receive().
    for _ in range(200):
        moved = False
        for sender, receiver in ((client, server), (server, client)):
            if sender.handshake():
                assert messages(sender) == []
            for datagram in sender.datagrams_to_send():
                moved = True
                if number != n:
                    receiver.receive_datagram(datagram)
                number += 1
        if client.established and server.established:
            assert echoes(client, server)
            return number > n
        if not moved:
            wait_for_timer(client, server)
    raise AssertionError(f"no handshake without datagram {n}: {client!r}, {server!r}")


@pytest.mark.parametrize(
    ("kind", "options"),
    [("PSK", {}), ("X.509", {}), ("X.509", {"mtu": 228}), ("PSK", {"priority": None, "mtu": 128})],
    ids=["PSK", "X.509", "X.509 in fragments", "PSK in fragments"],
)
def test_handshake_survives_the_loss_of_any_datagram(kind: str, options: Any) -> None:
    """Number 0, 1, 2... is lost, one in each handshake, as long as there is one."""
    n = 0
    while nth_lost(kind, n, **options):
        n += 1
    assert n >= 4


def test_total_time_ends_the_handshake() -> None:
    """A client that nobody answers repeats itself and then gives up with a TimeoutError."""
    client = client_of("PSK", handshake_timeout=1.0)
    client.handshake()
    sent = len(client.datagrams_to_send())

    def repeat() -> None:
        nonlocal sent
        for _ in range(100):
            wait_for_timer(client)
            sent += len(client.datagrams_to_send())

    with pytest.raises(TimedOutError) as caught:
        repeat()
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.name == "GNUTLS_E_TIMEDOUT"
    assert client.datagrams_to_send() == []  # silence is not answered
    assert sent >= 3
    assert client.closed
    assert client.timeout() is None


def test_total_time_ends_a_server_that_hears_nothing() -> None:
    """It never sent anything, and its time is over just the same."""
    server = server_of("PSK", handshake_timeout=0.05)
    assert server.handshake() is False
    with pytest.raises(TimedOutError):
        wait_for_timer(server)
    assert server.closed


def test_time_does_not_run_before_the_first_handshake_call() -> None:
    """A session may be made long before it is used."""
    client, server = pair("PSK", handshake_timeout=0.05)
    time.sleep(0.06)
    assert client.timeout() is None
    client.handshake()
    server.close()


# --- failures and alerts --------------------------------------------------------------------------


def fail(client: Session, server: Session) -> dict[str, BaseException]:
    """A handshake that fails: what each side raised, by role, as far as it did."""
    raised: dict[str, BaseException] = {}
    for _ in range(20):
        for sender, receiver in ((client, server), (server, client)):
            if sender.role not in raised:
                try:
                    sender.handshake()
                    if sender.established:
                        sender.receive()
                except BaseException as error:
                    raised[sender.role] = error
                    assert sender.closed
            deliver(sender, receiver)
    return raised


def pair_with(
    client: dict[str, Any] | None = None, server: dict[str, Any] | None = None
) -> tuple[Session, Session]:
    """An X.509 pair with options for each side; "credentials" among them."""
    client = {"credentials": trusting(), "server_name": "localhost", **(client or {})}
    server = {"credentials": certificate(), **(server or {})}
    return Session("client", **client), Session("server", **server)


def test_fatal_alert_of_the_peer_has_its_name() -> None:
    """Versions that have nothing in common: the server says why, the client raises it."""
    raised = fail(
        *pair_with({"priority": DTLS_1_0}, {"priority": "NORMAL:-VERS-ALL:+VERS-DTLS1.2"})
    )
    assert isinstance(raised["client"], FatalAlertError)
    assert isinstance(raised["client"], ConnectionError)
    assert raised["client"].name == "GNUTLS_E_FATAL_ALERT_RECEIVED"
    assert "rotocol version" in raised["client"].detail
    assert type(raised["server"]) is GnuTLSError


def test_credentials_that_do_not_fit_fail_on_both_sides() -> None:
    """A PSK client and an X.509 server have no key exchange in common."""
    raised = fail(client_of("PSK"), server_of("X.509"))
    assert isinstance(raised["server"], GnuTLSError)
    assert isinstance(raised["client"], FatalAlertError)
    assert raised["client"].detail


@pytest.mark.parametrize(
    ("client", "reason"),
    [
        ({"credentials": trusting("stranger")}, "not trusted"),
        ({"credentials": CertificateCredentials()}, "not trusted"),
        ({"server_name": "example.org"}, "name"),
        ({"server_name": "127.0.0.2"}, "name"),
    ],
    ids=["another authority", "no authority", "another name", "another address"],
)
def test_certificate_that_cannot_be_verified_fails_the_client(
    client: dict[str, Any], reason: str
) -> None:
    """CertificateVerificationError with the reason, and an alert for the server."""
    raised = fail(*pair_with(client))
    assert isinstance(raised["client"], CertificateVerificationError)
    assert raised["client"].name == "GNUTLS_E_CERTIFICATE_VERIFICATION_ERROR"
    assert reason in raised["client"].detail.lower()
    assert isinstance(raised["server"], FatalAlertError)
    assert raised["server"].detail


def test_client_told_not_to_verify_takes_any_certificate() -> None:
    """No name, no authority; the certificate can still be looked at."""
    client, server = pair_with(
        {"credentials": CertificateCredentials(), "server_name": None, "verify_peer": False},
        {"credentials": certificate("stranger")},
    )
    shake(client, server)
    assert client.peer_certificate == subprocess_der((CERTS / "stranger.pem").read_bytes())


def test_server_that_verifies_knows_the_client_by_its_certificate() -> None:
    """The client's certificate is asked for, verified, and known in DER."""
    client, server = pair_with(
        {"credentials": certificate("stranger", trust="localhost")},
        {"credentials": certificate("localhost", trust="stranger"), "verify_peer": True},
    )
    shake(client, server)
    assert server.peer_certificate == subprocess_der((CERTS / "stranger.pem").read_bytes())
    assert echoes(client, server)


def test_server_that_verifies_refuses_a_client_without_certificate() -> None:
    """The handshake fails on both sides."""
    raised = fail(
        *pair_with({}, {"credentials": certificate(trust="stranger"), "verify_peer": True})
    )
    assert isinstance(raised["server"], GnuTLSError)
    assert isinstance(raised["client"], FatalAlertError)


def test_server_that_verifies_refuses_the_certificate_of_a_stranger() -> None:
    """It is not a certificate of an authority that the server trusts."""
    raised = fail(
        *pair_with(
            {"credentials": certificate("stranger", trust="localhost")},
            {"credentials": certificate("localhost", trust="localhost"), "verify_peer": True},
        )
    )
    # A client sends no certificate where the authorities that the server names do not fit.
    assert isinstance(raised["server"], GnuTLSError)
    assert isinstance(raised["client"], FatalAlertError)


def test_failed_session_is_closed_for_good() -> None:
    """Every call that needs the session says so; its alert can still be taken."""
    client, server = pair_with({"server_name": "example.org"})
    with pytest.raises(CertificateVerificationError):
        shake(client, server)
    assert client.closed
    assert not client.established
    assert len(client.datagrams_to_send()) == 1
    for call in (client.handshake, client.receive, lambda: client.send(b"x")):
        with pytest.raises(GnuTLSError, match="closed"):
            call()
    client.close()
    assert client.datagrams_to_send() == []
    assert "failed" in repr(client)


def test_repr_tells_the_state_and_no_secret() -> None:
    """Role and handshake, description, closed or failed."""
    client, server = pair()
    assert repr(client) == "<Session client handshake>"
    shake(client, server)
    assert repr(server) == f"<Session server {server.description}>"
    server.close()
    assert repr(server) == "<Session server closed>"
    assert repr(psk()) == "<PSKCredentials identity='sensor-1'>"
    assert repr(certificate()) == "<CertificateCredentials certificate=True>"


# --- the hand-over of a prestate ------------------------------------------------------------------

KEY, WHO = b"cookie key of 16", b"client"


def challenged(client: Session) -> tuple[bytes, Prestate]:
    """Take a client through the exchange; its second hello, and what cookie_verify gave."""
    client.handshake()
    hello, *_ = client.datagrams_to_send()  # a timer may have sent it again
    with pytest.raises(BadCookieError):
        cookie_verify(KEY, WHO, hello)
    reply: list[bytes] = []
    assert cookie_send(KEY, WHO, Prestate(), reply, lambda to, data: to.append(data)) == 44
    client.receive_datagram(reply[0])
    client.handshake()
    (second,) = client.datagrams_to_send()
    assert cookie_of(KEY, WHO) in second
    return second, cookie_verify(KEY, WHO, second)


@pytest.mark.parametrize("how", ["argument", "prestate_set"])
@pytest.mark.parametrize("kind", KINDS)
def test_verified_client_is_handed_over(kind: str, how: str) -> None:
    """The prestate by the constructor or by prestate_set(); the verified datagram is read first."""
    client = client_of(kind)
    hello, prestate = challenged(client)
    if how == "argument":
        server = server_of(kind, prestate=prestate)
    else:
        server = server_of(kind)
        prestate_set(server, prestate)
    server.receive_datagram(hello)
    shake(client, server)
    assert echoes(client, server)


def test_forgotten_prestate_leaves_the_server_silent() -> None:
    """The server waits for message 0, got 1, and says nothing until both time out."""
    client = client_of("PSK", handshake_timeout=0.3)
    server = server_of("PSK", handshake_timeout=0.3)
    hello, _ = challenged(client)
    server.receive_datagram(hello)
    raised: set[str] = set()
    while len(raised) < 2:
        for sender, receiver in ((client, server), (server, client)):
            try:
                sender.handle_timeout()
                if not sender.closed:
                    sender.handshake()
            except TimedOutError:
                raised.add(sender.role)
            if sender is client or not sender.closed:
                sent = deliver(sender, receiver)
                assert sender is client or sent == []
        time.sleep(0.01)
    assert raised == {"client", "server"}


@pytest.mark.parametrize("end", ["closed", "failed", "peer closed"])
def test_prestate_of_a_closed_session_is_a_value_error(end: str) -> None:
    """There is nothing that it could change any more."""
    client, server = established()
    if end == "closed":
        server.close()
    elif end == "peer closed":
        client.close()
        deliver(client, server)
        server.receive()
    else:
        server = server_of("PSK", handshake_timeout=0.001)
        server.handshake()
        with pytest.raises(TimedOutError):
            wait_for_timer(server)
    with pytest.raises(ValueError, match="session is closed"):
        prestate_set(server, Prestate())


def test_prestate_after_the_first_flight_is_a_value_error() -> None:
    """In mid-handshake as well, where epoch 1 may have begun: numbers would be used again."""
    client, server = pair()
    client.handshake()
    with pytest.raises(ValueError, match="session has sent"):
        prestate_set(client, Prestate())
    server.handshake()
    prestate_set(server, Prestate(0, 0, 2**32 - 1))  # nothing went out yet: it begins with 0
    deliver(client, server)
    server.handshake()
    with pytest.raises(ValueError, match="session has sent"):
        prestate_set(server, Prestate(1, 0, 0))
    deliver(server, client)
    shake(client, server)
    assert echoes(client, server)


@pytest.mark.parametrize("kind", KINDS)
def test_prestate_of_an_established_session_is_refused(kind: str) -> None:
    """It would set the sequence numbers of encrypted records back; the session goes on unharmed."""
    client, server = established(kind)
    for session in client, server:
        with pytest.raises(ValueError, match="session has sent"):
            prestate_set(session, Prestate(1, 0, 0))
    server.send(b"one")
    (first,) = deliver(server, client)
    server.send(b"two")
    (second,) = deliver(server, client)
    assert (first[3:11], second[3:11]) == (b"\0\1" + bytes(5) + b"\1", b"\0\1" + bytes(5) + b"\2")
    assert messages(client) == [b"one", b"two"]


# --- PSK lookup -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lookup",
    [
        {IDENTITY: PSK_KEY},
        lambda identity: {IDENTITY: PSK_KEY}[identity],
        lambda _: bytearray(PSK_KEY),
        lambda _: memoryview(PSK_KEY),
    ],
    ids=["mapping", "callable", "bytearray", "memoryview"],
)
def test_lookup_gives_the_key_of_an_identity(lookup: Any) -> None:
    """A mapping or a callable; the key is any bytes."""
    client, server = client_of("PSK"), Session("server", PSKCredentials(lookup=lookup))
    shake(client, server)
    assert server.psk_identity == IDENTITY
    assert echoes(client, server)


@pytest.mark.parametrize(
    "credentials",
    [
        PSKCredentials(lookup=lambda _: None),
        PSKCredentials(lookup={IDENTITY: b"another key"}),
        PSKCredentials(IDENTITY + "\0", PSK_KEY),
        PSKCredentials("another-" + IDENTITY[8:], PSK_KEY),
        PSKCredentials(IDENTITY, b"another key"),
    ],
    ids=["none", "mapping", "longer pair", "another pair", "pair"],
)
def test_stranger_and_wrong_key_look_the_same(credentials: PSKCredentials) -> None:
    """Neither ends in an alert: nobody can ask which identities there are. Both sides time out."""
    options: Options = {"retransmit_timeout": 0.02, "handshake_timeout": 0.2}
    client = client_of("PSK", **options)
    server = Session("server", credentials, **options)
    raised: dict[str, BaseException] = {}
    while len(raised) < 2:
        for sender, receiver in ((client, server), (server, client)):
            try:
                sender.handle_timeout()
                if not sender.closed:
                    sender.handshake()
                    deliver(sender, receiver)
            except GnuTLSError as error:
                raised[sender.role] = error
        time.sleep(0.005)
    assert {role: type(error) for role, error in raised.items()} == {
        "client": TimedOutError,
        "server": TimedOutError,
    }
    for one in raised.values():
        assert "is the shared key the same on both sides?" in str(one)
    assert not client.established
    assert not server.established


class Boom(BaseException):
    """No Exception: an `except Exception` on the way would let it pass."""


@pytest.mark.parametrize(
    "what", [KeyboardInterrupt("stop"), SystemExit(3), ValueError("no database"), Boom()], ids=repr
)
def test_whatever_the_lookup_raises_comes_out_of_handshake(what: BaseException) -> None:
    """The same object; the session has failed, and the client is told."""

    def lookup(_: str) -> bytes:
        raise what

    client, server = client_of("PSK"), Session("server", PSKCredentials(lookup=lookup))
    raised = fail(client, server)
    assert raised["server"] is what
    assert isinstance(raised["client"], FatalAlertError)
    assert raised["client"].detail == "Internal error"
    with pytest.raises(GnuTLSError, match="closed"):
        server.handshake()


@pytest.mark.parametrize("key", ["text", 5, 1.5, [1, 2], object], ids=repr)
def test_lookup_that_gives_another_type_is_a_type_error(key: Any) -> None:
    """It comes out of handshake(), and names what was given."""
    client, server = client_of("PSK"), Session("server", PSKCredentials(lookup=lambda _: key))
    raised = fail(client, server)
    assert isinstance(raised["server"], TypeError)
    assert str(raised["server"]).startswith("the key that lookup gave must be a bytes-like")
    assert isinstance(raised["client"], FatalAlertError)


@pytest.mark.parametrize("size", [0, 65536])
def test_lookup_that_gives_a_key_of_no_size_is_a_value_error(size: int) -> None:
    """An empty key would let everybody in who has none; a longer one fits in no field."""
    client = client_of("PSK")
    server = Session("server", PSKCredentials(lookup=lambda _: bytes(size)))
    raised = fail(client, server)
    assert type(raised["server"]) is ValueError
    assert f"1..65535 bytes, not {size}" in str(raised["server"])
    assert isinstance(raised["client"], FatalAlertError)


def test_hint_does_no_harm() -> None:
    """A server with an identity hint serves our client as well."""
    client = client_of("PSK")
    server = Session("server", PSKCredentials(lookup={IDENTITY: PSK_KEY}, hint="which sensor?"))
    seen = shake(client, server)
    assert any(b"which sensor?" in datagram for datagram in seen)


@pytest.mark.parametrize("call", ["handshake", "close", "send", "receive"])
def test_lookup_that_uses_its_own_session_is_an_error_out_of_handshake(call: str) -> None:
    """A session is not for two calls at once; nothing of it crashes or hangs."""
    held: list[Session] = []

    def lookup(_: str) -> bytes:
        getattr(held[0], call)(*([b"x"] if call == "send" else []))
        return PSK_KEY

    client, server = client_of("PSK"), Session("server", PSKCredentials(lookup=lookup))
    held.append(server)
    raised = fail(client, server)
    if call in ("handshake", "close"):
        assert type(raised["server"]) is RuntimeError
        assert str(raised["server"]) == "another call of this session is under way"
    else:
        assert isinstance(raised["server"], GnuTLSError)
    assert server.closed
    assert len(TABLE) == 0


def test_lookup_may_use_another_session() -> None:
    """A whole handshake of two others, from within."""
    inner: list[bool] = []

    def lookup(_: str) -> bytes:
        inner.append(echoes(*established("X.509")))
        return PSK_KEY

    client, server = client_of("PSK"), Session("server", PSKCredentials(lookup=lookup))
    shake(client, server)
    assert inner == [True]
    assert echoes(client, server)


def test_lookup_may_give_its_session_datagrams() -> None:
    """receive_datagram() and datagrams_to_send() touch no C: they may be called from anywhere."""
    held: list[Session] = []

    def lookup(_: str) -> bytes:
        held[0].receive_datagram(b"junk")
        held[0].datagrams_to_send()
        return PSK_KEY

    client, server = client_of("PSK"), Session("server", PSKCredentials(lookup=lookup))
    held.append(server)
    shake(client, server)


def test_second_thread_in_a_session_is_an_error() -> None:
    """A RuntimeError for the one that came later; the first goes on."""
    inside, leave = threading.Event(), threading.Event()

    def lookup(_: str) -> bytes:
        inside.set()
        assert leave.wait(20)
        return PSK_KEY

    client, server = client_of("PSK"), Session("server", PSKCredentials(lookup=lookup))
    worker = threading.Thread(target=shake, args=(client, server))
    worker.start()
    try:
        assert inside.wait(20)
        with pytest.raises(RuntimeError, match="under way"):
            server.handshake()
    finally:
        leave.set()
        worker.join()
    assert server.established
    assert echoes(client, server)


# --- credentials ----------------------------------------------------------------------------------


def subprocess_der(pem: bytes) -> bytes:
    """The DER that a PEM holds, by the standard library."""
    import ssl

    return ssl.PEM_cert_to_DER_cert(pem.decode())


def test_certificate_may_be_der() -> None:
    """As bytes, bytearray or memoryview, as trust and as the server's own."""
    der = subprocess_der(LOCALHOST_PEM)
    key = subprocess.run(
        ["openssl", "ec", "-outform", "DER"], input=LOCALHOST_KEY, capture_output=True, check=True
    ).stdout
    client, server = pair_with(
        {"credentials": CertificateCredentials(trust=bytearray(der))},
        {"credentials": CertificateCredentials(memoryview(der), key)},
    )
    shake(client, server)
    assert client.peer_certificate == der


def test_encrypted_key_needs_its_password() -> None:
    """With the right one it serves; with another or none it is an error."""
    key = subprocess.run(
        ["openssl", "pkcs8", "-topk8", "-passout", "pass:secret"],
        input=LOCALHOST_KEY,
        capture_output=True,
        check=True,
    ).stdout
    server = {"credentials": CertificateCredentials(LOCALHOST_PEM, key, password="secret")}
    shake(*pair_with({}, server))
    for password in ("wrong", None):
        with pytest.raises(GnuTLSError, match="certificate and key"):
            CertificateCredentials(LOCALHOST_PEM, key, password=password)


def test_system_trust_does_not_trust_a_stranger() -> None:
    """The authorities of this machine, where it has any, did not sign our test certificate."""
    client, server = pair_with({"credentials": CertificateCredentials(system_trust=True)})
    assert isinstance(fail(client, server)["client"], CertificateVerificationError)


def test_credentials_serve_many_sessions_at_once() -> None:
    """One object, twenty sessions in the middle of their handshakes."""
    shared_server, shared_client, both = certificate(), trusting(), psk()
    pairs = [
        (
            Session("client", shared_client, server_name="localhost"),
            Session("server", shared_server),
        )
        for _ in range(10)
    ] + [(Session("client", both), Session("server", both)) for _ in range(10)]
    for _ in range(10):
        for client, server in pairs:
            client.handshake()
            deliver(client, server)
            server.handshake()
            deliver(server, client)
    assert all(client.established and server.established for client, server in pairs)


# --- arguments ------------------------------------------------------------------------------------

PEM = LOCALHOST_PEM


@pytest.mark.parametrize(
    ("make", "error", "names"),
    [
        (lambda: Session("peer", psk()), ValueError, "role"),  # type: ignore[arg-type]
        (lambda: Session(b"client", psk()), ValueError, "role"),  # type: ignore[arg-type]
        (lambda: Session(["client"], psk()), ValueError, "role"),  # type: ignore[arg-type]
        (lambda: Session("client", None), TypeError, "credentials"),  # type: ignore[arg-type]
        (lambda: Session("client", "psk"), TypeError, "credentials"),  # type: ignore[arg-type]
        (lambda: Session("client", [psk(), 5]), TypeError, "credentials"),  # type: ignore[list-item]
        (lambda: Session("client", []), ValueError, "credentials"),
        (lambda: Session("client", [psk(), psk()]), ValueError, "credentials"),
        (lambda: Session("client", PSKCredentials(lookup={})), ValueError, "credentials"),
        (lambda: Session("server", CertificateCredentials()), ValueError, "credentials"),
        (lambda: client_of("PSK", priority=b"NORMAL"), TypeError, "priority"),
        (lambda: client_of("PSK", priority=""), ValueError, "priority"),
        (lambda: client_of("PSK", priority="NORMAL\0:+NONSENSE"), ValueError, "priority"),
        (lambda: client_of("PSK", priority="\ud800"), ValueError, "priority"),
        (lambda: client_of("X.509", server_name=5), TypeError, "server_name"),
        (lambda: client_of("X.509", server_name=b"localhost"), TypeError, "server_name"),
        (lambda: client_of("X.509", server_name=""), ValueError, "server_name"),
        (lambda: client_of("X.509", server_name="a\0b"), ValueError, "server_name"),
        (lambda: client_of("X.509", server_name="\ud800"), ValueError, "server_name"),
        (lambda: client_of("X.509", server_name="x" * 300), ValueError, "server_name"),
        (lambda: client_of("X.509", server_name=None), ValueError, "server_name"),
        (lambda: server_of("X.509", server_name="localhost"), ValueError, "server_name"),
        (lambda: server_of("PSK", verify_peer=True), ValueError, "verify_peer"),
        (lambda: client_of("X.509", verify_peer="no"), TypeError, "verify_peer"),
        (lambda: client_of("X.509", verify_peer=1), TypeError, "verify_peer"),
        (lambda: client_of("PSK", mtu="1200"), TypeError, "mtu"),
        (lambda: client_of("PSK", mtu=1200.0), TypeError, "mtu"),
        (lambda: client_of("PSK", mtu=True), TypeError, "mtu"),
        (lambda: client_of("PSK", mtu=127), ValueError, "mtu"),
        (lambda: client_of("PSK", mtu=65508), ValueError, "mtu"),
        (lambda: client_of("PSK", mtu=-1), ValueError, "mtu"),
        (lambda: client_of("PSK", mtu=2**70), ValueError, "mtu"),
        (lambda: server_of("PSK", prestate=(0, 0, 0)), TypeError, "prestate"),
        (lambda: client_of("PSK", prestate=Prestate()), ValueError, "prestate"),
        (lambda: client_of("PSK", retransmit_timeout="1"), TypeError, "retransmit_timeout"),
        (lambda: client_of("PSK", retransmit_timeout=None), TypeError, "retransmit_timeout"),
        (lambda: client_of("PSK", retransmit_timeout=True), TypeError, "retransmit_timeout"),
        (lambda: client_of("PSK", retransmit_timeout=0), ValueError, "retransmit_timeout"),
        (lambda: client_of("PSK", retransmit_timeout=-1), ValueError, "retransmit_timeout"),
        (lambda: client_of("PSK", retransmit_timeout=float("nan")), ValueError, "retransmit"),
        (lambda: client_of("PSK", retransmit_timeout=float("inf")), ValueError, "retransmit"),
        (lambda: client_of("PSK", retransmit_timeout=10**400), ValueError, "retransmit"),
        (lambda: client_of("PSK", handshake_timeout="60"), TypeError, "handshake_timeout"),
        (lambda: client_of("PSK", handshake_timeout=0), ValueError, "handshake_timeout"),
        (lambda: client_of("PSK", handshake_timeout=5e6), ValueError, "handshake_timeout"),
        (lambda: client_of("PSK", handshake_timeout=True), TypeError, "handshake_timeout"),
        (lambda: client_of("PSK", handshake_timeout=float("inf")), ValueError, "0.001..4000000"),
        (lambda: client_of("PSK", handshake_timeout=10**5000), ValueError, "a larger number"),
        (lambda: client_of("PSK").receive_datagram("x"), TypeError, "data"),  # type: ignore[arg-type]
        (lambda: client_of("PSK").receive_datagram(None), TypeError, "data"),  # type: ignore[arg-type]
        (lambda: client_of("PSK").send("x"), TypeError, "data"),  # type: ignore[arg-type]
        (lambda: PSKCredentials(), ValueError, "identity"),
        (lambda: PSKCredentials("a"), ValueError, "identity and key"),
        (lambda: PSKCredentials(key=b"k"), ValueError, "identity and key"),
        (lambda: PSKCredentials(5, b"k"), TypeError, "identity"),  # type: ignore[arg-type]
        (lambda: PSKCredentials(b"", b"k"), ValueError, "identity"),
        (lambda: PSKCredentials(bytes(65536), b"k"), ValueError, "identity"),
        (lambda: PSKCredentials("", b"k"), ValueError, "identity"),
        (lambda: PSKCredentials("\ud800", b"k"), ValueError, "identity"),
        (lambda: PSKCredentials("x" * 65536, b"k"), ValueError, "identity"),
        (lambda: PSKCredentials("é" * 32768, b"k"), ValueError, "identity"),
        (lambda: PSKCredentials("a", "k"), TypeError, "key"),  # type: ignore[arg-type]
        (lambda: PSKCredentials("a", 5), TypeError, "key"),  # type: ignore[arg-type]
        (lambda: PSKCredentials("a", b""), ValueError, "key"),
        (lambda: PSKCredentials("a", bytes(65536)), ValueError, "key"),
        (lambda: PSKCredentials(lookup=5), TypeError, "lookup"),  # type: ignore[arg-type]
        (lambda: PSKCredentials(lookup={}, hint=5), TypeError, "hint"),  # type: ignore[arg-type]
        (lambda: PSKCredentials(lookup={}, hint="a\0b"), ValueError, "hint"),
        (lambda: PSKCredentials(lookup={}, hint="x" * 65536), ValueError, "hint"),
        (lambda: CertificateCredentials(PEM), ValueError, "certificate and key"),
        (lambda: CertificateCredentials(key=LOCALHOST_KEY), ValueError, "certificate and key"),
        (lambda: CertificateCredentials("x", b"x"), TypeError, "certificate"),
        (lambda: CertificateCredentials(PEM, "x"), TypeError, "key"),
        (lambda: CertificateCredentials(memoryview(PEM)[::2], b"x"), ValueError, "certificate"),
        (lambda: CertificateCredentials(b"x", b"x"), GnuTLSError, "certificate and key"),
        (lambda: CertificateCredentials(b"", b""), GnuTLSError, "certificate and key"),
        (lambda: CertificateCredentials(PEM, LOCALHOST_KEY, password=5), TypeError, "password"),  # type: ignore[arg-type]
        (lambda: CertificateCredentials(PEM, LOCALHOST_KEY, password="\0"), ValueError, "password"),
        (lambda: CertificateCredentials(trust="x"), ValueError, "trust must be bytes"),
        (lambda: CertificateCredentials(trust="a\0b"), ValueError, "trust must not contain NUL"),
        (lambda: CertificateCredentials(trust=b"x"), GnuTLSError, "trust"),
        (lambda: CertificateCredentials(trust=b""), GnuTLSError, "trust"),
        (lambda: CertificateCredentials(trust=LOCALHOST_KEY), ValueError, "trust"),
        (lambda: CertificateCredentials.from_files("/no/such"), FileNotFoundError, "/no/such"),
    ],
)
def test_wrong_argument_is_an_error_that_names_it(
    make: Callable[[], object], error: type[Exception], names: str
) -> None:
    """Type and range of every argument are looked at before C sees them."""
    with pytest.raises(error, match=re.escape(names)):
        make()


def test_key_of_another_certificate_is_an_error() -> None:
    """They must belong together."""
    other = (CERTS / "stranger.key").read_bytes()
    with pytest.raises(GnuTLSError, match="certificate and key") as caught:
        CertificateCredentials(LOCALHOST_PEM, other)
    assert caught.value.name == "GNUTLS_E_CERTIFICATE_KEY_MISMATCH"


@pytest.mark.parametrize("attribute", ["established", "version", "closed", "data_mtu", "dropped"])
def test_what_is_known_cannot_be_assigned(attribute: str) -> None:
    """Only mtu can be set."""
    with pytest.raises(AttributeError):
        setattr(client_of("PSK"), attribute, 1)


# --- copies, garbage, memory ----------------------------------------------------------------------


@pytest.mark.parametrize("made", [copy.copy, copy.deepcopy, pickle.dumps])
@pytest.mark.parametrize("what", ["handshake", "established"])
def test_session_cannot_be_copied_or_pickled(made: Callable[[object], object], what: str) -> None:
    """Two owners of one gnutls_session_t would tear at it; the session itself is unharmed."""
    client, server = pair() if what == "handshake" else established()
    with pytest.raises(TypeError, match="Session"):
        made(client)
    if what == "handshake":
        shake(client, server)
    assert echoes(client, server)


class Owner:
    """Holds a session and its credentials, and is held by their lookup."""

    session: Session
    credentials: PSKCredentials


def test_session_in_a_cycle_with_its_credentials_is_collected() -> None:
    """Owner -> credentials -> lookup -> owner, and the session among them: all of it goes."""
    owner = Owner()

    def lookup(_: str, kept: Owner = owner) -> bytes:
        assert kept.session is not None
        return PSK_KEY

    owner.credentials = PSKCredentials(lookup=lookup)
    owner.session = Session("server", owner.credentials)
    client = client_of("PSK")
    shake(client, owner.session)
    watched: list[weakref.ref[Any]] = [
        weakref.ref(owner),
        weakref.ref(owner.session),
        weakref.ref(owner.credentials),
    ]
    del owner, lookup
    gc.collect()
    assert [ref() for ref in watched] == [None] * 3
    assert len(TABLE) == 0


def test_session_goes_at_once_where_there_is_no_cycle() -> None:
    """A session makes no cycle of its own: its memory waits for no collection."""
    gc.disable()
    try:
        client, server = established("X.509")
        watched = [weakref.ref(client), weakref.ref(server)]
        del client, server
        assert [ref() for ref in watched] == [None, None]
        failing, peer = pair_with({"server_name": "example.org"})
        with pytest.raises(CertificateVerificationError):
            shake(failing, peer)
        gone = weakref.ref(failing)
        del failing
        # pytest's own record of the error still names the frame; it goes with the collection.
        gc.collect()
        assert gone() is None
    finally:
        gc.enable()


def test_credentials_may_go_before_their_session() -> None:
    """The session keeps what C looks at, up to its own end."""
    for kind in KINDS:
        client, server = pair(kind)
        gc.collect()
        shake(client, server)
        assert echoes(client, server)


def test_session_that_was_refused_leaves_nothing() -> None:
    """An error in the constructor frees the half-made session."""
    for _ in range(100):
        with pytest.raises(ValueError, match="priority"):
            client_of("X.509", priority="NONSENSE")
    gc.collect()
    assert len(TABLE) == 0


HUNDREDS = """
import gc
from tests.support.peers import client_of, echoes, fail_in_lookup, server_of, shake
from gnutls_cookie.handles import TABLE

def resident():
    gc.collect()
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4  # KiB

def some(count):
    for number in range(count):
        kind = "X.509" if number % 4 == 0 else "PSK"
        client, server = client_of(kind), server_of(kind)
        shake(client, server)
        assert echoes(client, server)
        client.close()
        fail_in_lookup()
        if number % 50 == 0:  # free-threaded Python's collector may come late, and RSS stays high
            gc.collect()

some(150)
before = resident()
some(400)
grown = resident() - before
assert len(TABLE) == 0
print(grown if grown > 512 else "steady")
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs /proc")
def test_hundreds_of_sessions_leave_no_memory_behind() -> None:
    """400 handshakes with messages, and as many that fail: RSS grows by less than 512 KiB."""
    assert python_in_silence(HUNDREDS) == "steady\n"


def test_session_is_made_once() -> None:
    """A second __init__ would take away what a call under way works on."""
    session = client_of("PSK")
    with pytest.raises(RuntimeError, match="made once"):
        session.__init__("client", PSKCredentials("a", b"k"))  # type: ignore[misc]
    assert session.handshake() is False


UNDER_FIRE = """
import random, signal, sys
from tests.support.peers import deliver, established, messages
from gnutls_cookie.handles import TABLE

random.seed(int(sys.argv[1]))
wanted, caught = int(sys.argv[2]), 0

def handler(number, frame):
    raise KeyboardInterrupt

signal.signal(signal.SIGALRM, handler)
client, server = established()
while caught < wanted:
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(10e-6, 300e-6))
        while True:
            client.send(b"x")
            deliver(client, server)
            messages(server)
    except KeyboardInterrupt:
        caught += 1
    assert len(TABLE) == 0, "a loan was left open"
    if client.closed or server.closed:  # struck within a callback: the session has failed
        client, server = established()
    client.timeout(), client.send(b"x")
print("done")
"""


WIPED = """
import ctypes, os
from gnutls_cookie import session
from gnutls_cookie._ffi import ffi

library = ctypes.CDLL(os.environ["LD_PRELOAD"])
text = os.environ["FREED_TEXT"].encode()
seat = session._seat()
view = ffi.buffer(seat.message)
seat.written = len(view)
view[: len(text)] = text
view[len(view) - len(text) :] = text
before = library.freed()
del seat, view
assert library.freed() > before
assert library.freed_with_text() == 0, "a message is in freed memory"
libc = ctypes.CDLL(None)
libc.strdup.restype = ctypes.c_void_p
libc.free(ctypes.c_void_p(libc.strdup(text)))
assert library.freed_with_text() == 1, "the witness sees nothing"
"""


@pytest.mark.skipif(
    sys.platform != "linux" or "asan" in os.environ.get("LD_PRELOAD", ""),
    reason="preloads a library, as on Linux, and before any other",
)
def test_messages_do_not_stay_in_freed_memory() -> None:
    """What a call had for its length is wiped before it is given back."""
    library = compile_peer("freed_memory.c", "-shared", "-fPIC")
    env = {"LD_PRELOAD": str(library), "FREED_TEXT": "a message under keys"}
    python_in_silence(WIPED, env=env)


@pytest.mark.slow
def test_signal_at_any_moment_leaves_no_session_locked() -> None:
    """A handler that raises, 3,000 times at random: no loan stays open, no call is "under way"."""
    seed = seeded().getrandbits(32)
    assert python_in_silence(UNDER_FIRE, str(seed), "3000") == "done\n"
