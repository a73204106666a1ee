"""What comes before libgnutls' reassembly: fragments of every kind, genuine, hostile and forged.

libgnutls before 3.8.13 can be overrun by fragments that do not agree, by empty ones, and by a first
one of a single byte. All of these tests hold on such a version: a crash of the run is a failure.
"""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gnutls_cookie import (
    CertificateCredentials,
    Challenge,
    CookieGate,
    GnuTLSError,
    Session,
    Verified,
)
from gnutls_cookie._ffi import lib
from gnutls_cookie.errors import FatalAlertError
from gnutls_cookie.reference.wire import CONTENT_ALERT, CONTENT_HANDSHAKE
from tests.support.common import openssl, seeded
from tests.support.peers import (
    KINDS,
    Options,
    certificate,
    client_of,
    deliver,
    echoes,
    established,
    pair,
    server_of,
    shake,
    wait_for_timer,
)
from tests.support.sealing import fragment, record, sealed

ROLES = ("client", "server")
CLIENT_HELLO, SERVER_HELLO, HELLO_VERIFY_REQUEST, CERTIFICATE = 1, 2, 3, 11
CERTIFICATE_VERIFY, CLIENT_KEY_EXCHANGE, FINISHED = 15, 16, 20
measures_memory = pytest.mark.skipif(
    sys.platform != "linux" or "asan" in os.environ.get("LD_PRELOAD", ""),
    reason="reads /proc, and AddressSanitizer keeps back what is freed",
)
MOST_KEPT = 80 << 10  # bytes; GCOOKIE_MOST_KEPT in native/guard.h


def resident() -> int:
    """Bytes of memory that this process has."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


def kept(session: Session) -> int:
    """Bytes of fragments that a session holds."""
    return int(lib.gcookie_wire_kept(session._wire))


def records(datagram: bytes) -> Iterator[bytes]:
    while datagram:
        size = 13 + int.from_bytes(datagram[11:13], "big")
        yield datagram[:size]
        datagram = datagram[size:]


def is_fragment(one: bytes) -> bool:
    """Whether a record is a handshake record that anybody can read."""
    return one[0] == CONTENT_HANDSHAKE and one[3:5] == b"\0\0"


def pieces(datagrams: list[bytes], cut: Callable[[], int]) -> list[bytes]:
    """The same flight in other fragments: `cut` says how long each may be."""
    found = []
    for one in (one for datagram in datagrams for one in records(datagram)):
        if not is_fragment(one):
            found.append(one)
            continue
        head, data = one[13:25], one[25:]
        kind, length, seq = head[0], int.from_bytes(head[1:4], "big"), head[4:6]
        offset = int.from_bytes(head[6:9], "big")
        while True:
            part, data = data[: (size := cut())], data[size:]
            body = fragment(kind, length, int.from_bytes(seq, "big"), offset, part)
            found.append(one[:11] + len(body).to_bytes(2, "big") + body)
            offset += len(part)
            if not data:
                break
    return found


def shake_by(
    client: Session, server: Session, carry: Callable[[list[bytes], Session], None]
) -> None:
    """A handshake whose datagrams `carry` hands over; timers go off where nothing happens."""
    deadline = time.monotonic() + 30  # a bound, never a measure
    while not (client.established and server.established):
        assert time.monotonic() < deadline, (client, server)
        sent = False
        for one, other in ((client, server), (server, client)):
            if not one.handshake():
                one.handle_timeout()
            elif one.receive() is not None:
                raise AssertionError("a message that nobody sent")
            datagrams = one.datagrams_to_send()
            sent = sent or bool(datagrams)
            if datagrams:
                carry(datagrams, other)
        if not sent:
            wait_for_timer(client, server)


# --- genuine fragments ----------------------------------------------------------------------------


def pair_of(kind: str) -> tuple[Session, Session]:
    """A client and a server; "mutual" is with certificates on both sides, the longest flights."""
    options: Options = {"retransmit_timeout": 0.05, "handshake_timeout": 60.0}
    if kind != "mutual":
        return pair(kind, **options)
    both = certificate(trust="localhost")
    client = Session("client", both, server_name="localhost", **options)
    return client, Session("server", both, verify_peer=True, **options)


@pytest.mark.parametrize("kind", [*KINDS, "mutual"])
@pytest.mark.parametrize("size", [1, 2, 7, 500, 501])
def test_fragments_of_any_size_make_a_handshake(kind: str, size: int) -> None:
    """One byte each, too: in order, one in a datagram."""
    client, server = pair_of(kind)

    def carry(datagrams: list[bytes], to: Session) -> None:
        for one in pieces(datagrams, lambda: size):
            to.receive_datagram(one)
            to.handshake()

    shake_by(client, server, carry)
    assert echoes(client, server)
    for session in (client, server):
        assert (session.records_refused, kept(session)) == (0, 0)


@pytest.mark.parametrize("kind", [*KINDS, "mutual"])
def test_fragments_in_any_order_and_number_make_a_handshake(kind: str) -> None:
    """Cut at random, shuffled, some twice, several in a datagram; others the next time."""
    chance = seeded()
    for _ in range(10):
        client, server = pair_of(kind)

        def carry(datagrams: list[bytes], to: Session) -> None:
            cut = pieces(datagrams, lambda: chance.choice([1, 3, 50, 400, 2000]))
            cut += chance.sample(cut, len(cut) // 3)
            chance.shuffle(cut)
            while cut:
                size = chance.choice([1, 1, 3, 20])
                to.receive_datagram(b"".join(cut[:size]))
                del cut[:size]
                if chance.random() < 0.5:
                    to.handshake()

        shake_by(client, server, carry)
        assert echoes(client, server)
        for session in (client, server):
            assert (session.records_refused, kept(session)) == (0, 0)


def test_a_flight_that_comes_backwards_needs_no_retransmission() -> None:
    """What is ahead waits for what is missing, the Finished for its keys too."""
    client, server = pair_of("mutual")
    flights = 0

    def carry(datagrams: list[bytes], to: Session) -> None:
        nonlocal flights
        flights += 1
        for one in reversed(pieces(datagrams, lambda: 100)):
            to.receive_datagram(one)

    shake_by(client, server, carry)
    assert flights == 4
    assert echoes(client, server)


def large_certificate(folder: Path, names: int = 400) -> CertificateCredentials:
    """One with hundreds of names, 45 bytes each: 18 KiB."""
    listed = ",".join(f"DNS:{number:04d}.{'a' * 30}.example" for number in range(names))
    files = ["-keyout", str(folder / "large.key"), "-out", str(folder / "large.pem")]
    command = [openssl(), "req", "-x509", "-nodes", "-newkey", "ec", "-subj", "/CN=large"]
    command += ["-pkeyopt", "ec_paramgen_curve:prime256v1", "-addext", f"subjectAltName={listed}"]
    subprocess.run([*command, *files], check=True, capture_output=True, timeout=60)
    return CertificateCredentials.from_files(folder / "large.pem", folder / "large.key")


@pytest.mark.parametrize("side", ["server", "both"])
def test_a_flight_of_more_than_8_kib_arrives_whole(side: str, tmp_path: Path) -> None:
    """A certificate of 18 KiB, whose flight outgrows the block that a call has for it."""
    large = large_certificate(tmp_path)
    client = Session(
        "client", large if side == "both" else CertificateCredentials(), verify_peer=False
    )
    server = Session("server", large)
    if side == "both":
        lib.gnutls_certificate_server_set_request(server._pointer, lib.GNUTLS_CERT_REQUEST)
    seen = shake(client, server)
    assert sum(map(len, seen)) > 16 << 10
    assert len(client.peer_certificate or b"") > 16 << 10
    assert len(server.peer_certificate or b"") > (16 << 10 if side == "both" else -1)
    assert echoes(client, server)


def with_extension(hello: bytes, size: int) -> bytes:
    """A ClientHello with an unknown extension of that many bytes added."""
    body = bytearray(hello[25:])
    at = 34 + 1 + body[34]
    at += 1 + body[at]
    at += 2 + int.from_bytes(body[at : at + 2], "big")
    at += 1 + body[at]
    extension = b"\xfa\xfa" + size.to_bytes(2, "big") + bytes(size)
    extensions = int.from_bytes(body[at : at + 2], "big") + len(extension)
    body[at : at + 2] = extensions.to_bytes(2, "big")
    return bytes(body + extension)


@pytest.mark.parametrize("size", [1200, 5000, 12_000])
def test_a_hello_of_post_quantum_size_is_answered(size: int) -> None:
    """In fragments, in any order, as whoever offers large key shares sends it."""
    client, server = pair()
    client.handshake()
    body = with_extension(client.datagrams_to_send()[0], size)
    cut = [
        record(CONTENT_HANDSHAKE, fragment(CLIENT_HELLO, len(body), 0, at, body[at : at + 900]), at)
        for at in range(0, len(body), 900)
    ]
    seeded().shuffle(cut)
    for one in cut:
        server.receive_datagram(one)
        server.handshake()
    assert server.datagrams_to_send()[0][13] == SERVER_HELLO
    assert server.records_refused == 0


def test_cookie_exchange_and_fragments_together() -> None:
    """The client goes on after any HelloVerifyRequest, the server where the gate says."""
    gate, other = CookieGate(b"k" * 16), CookieGate(b"o" * 16)
    client, verdict = client_of("X.509", mtu=200), None
    for judge in (gate, other, gate, gate):  # the keys change under way
        client.handshake()
        fragments = client.datagrams_to_send()
        assert len(fragments) > 1
        verdict = judge.receive(fragments[0], b"client")
        if isinstance(verdict, Challenge):
            for one in pieces([verdict.datagram], lambda: 5):
                client.receive_datagram(one)
    assert isinstance(verdict, Verified)
    server = Session("server", certificate(), prestate=verdict.prestate, mtu=200)
    for one in fragments:
        server.receive_datagram(one)
    shake(client, server)
    assert echoes(client, server)


# --- fragments that break a rule ------------------------------------------------------------------


def waiting_server() -> tuple[Session, Session, list[bytes]]:
    """A client whose second flight is under way, the server that waits for it, and the flight."""
    client, server = pair_of("mutual")
    client.handshake()
    deliver(client, server)
    server.handshake()
    deliver(server, client)
    client.handshake()
    return client, server, client.datagrams_to_send()


def waiting_client() -> tuple[Session, Session, list[bytes]]:
    """A client that waits for the first flight of a server, and the flight."""
    client, server = pair_of("mutual")
    client.handshake()
    deliver(client, server)
    server.handshake()
    return client, server, server.datagrams_to_send()


def bad_fragments(seq: int, kind: int) -> dict[str, list[bytes]]:
    """Handshake records that no peer sends; the message is the one that is waited for."""

    def one(*fragments: bytes) -> bytes:
        return record(CONTENT_HANDSHAKE, b"".join(fragments), 9)

    return {
        "empty": [one(fragment(kind, 300, seq, 0, b""))],
        "empty in the middle": [one(fragment(kind, 0xFFFFFF, seq, 2, b""))],
        "beyond its message": [one(fragment(kind, 300, seq, 290, bytes(11)))],
        "beyond its message by its offset": [one(fragment(kind, 300, seq, 301, b"", 0))],
        "beyond its record": [one(fragment(kind, 300, seq, 0, bytes(50), 51))],
        "beyond its record by far": [one(fragment(kind, 0xFFFFFF, seq, 0, bytes(50), 0xFFFFFF))],
        "no whole header": [one(bytes([kind]) + bytes(10))],
        "rubbish behind a fragment": [one(fragment(kind, 300, seq, 0, b"x"), b"\1\2\3")],
        "too long": [one(fragment(kind, 0xFFFFFF, seq, 0, bytes(100)))],
        "too far ahead": [one(fragment(kind, 300, seq + 8, 0, bytes(300)))],
        "the last number": [one(fragment(kind, 300, 0xFFFF, 0, bytes(300)))],
        "a hello again": [one(fragment(CLIENT_HELLO, 300, seq, 0, bytes(300)))],
        "HelloVerifyRequest to a server": [one(fragment(0x63, 19, seq, 0, bytes(19)))],
        "a Finished without keys": [one(fragment(FINISHED, 12, seq, 0, bytes(12)))],
        "a Finished ahead without keys": [one(fragment(FINISHED, 12, seq + 1, 0, bytes(12)))],
        "an empty record": [record(CONTENT_HANDSHAKE, b"", 9)],
    }


BAD = list(bad_fragments(0, 0))


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("role", ROLES)
def test_a_fragment_that_breaks_a_rule_is_refused_and_ends_nothing(role: str, what: str) -> None:
    """Counted; what the peer sends then completes the handshake."""
    client, server, flight = waiting_server() if role == "server" else waiting_client()
    victim = server if role == "server" else client
    expected = CERTIFICATE if role == "server" else SERVER_HELLO
    for datagram in bad_fragments(flight[0][18], expected)[what]:
        victim.receive_datagram(datagram)
        assert victim.handshake() is False
    assert victim.records_refused == 1
    assert kept(victim) <= 400
    for datagram in flight:
        victim.receive_datagram(datagram)
    shake(client, server)
    assert echoes(client, server)


@pytest.mark.parametrize("role", ROLES)
def test_fragments_that_do_not_agree_are_of_two_messages(role: str) -> None:
    """Other lengths, other types: a forged first fragment does not stand in the way."""
    client, server, flight = waiting_server() if role == "server" else waiting_client()
    victim = server if role == "server" else client
    seq, kind = flight[0][18], flight[0][13]
    length = int.from_bytes(flight[0][14:17], "big")
    for forged in (
        fragment(CERTIFICATE if kind != CERTIFICATE else CLIENT_KEY_EXCHANGE, length, seq, 0, b"A"),
        fragment(kind, 60, seq, 0, b"A" * 20),
        fragment(kind, 16_000, seq, 20, b"A" * 15_900),
        fragment(CERTIFICATE, 40_000, seq, 0, b"A"),
        fragment(CERTIFICATE, 40_000, seq, 39_999, b"A"),
        fragment(CERTIFICATE, 2, seq + 1, 0, b"A"),
    ):
        victim.receive_datagram(record(CONTENT_HANDSHAKE, forged, 5))
        assert victim.handshake() is False
    for datagram in pieces(flight, lambda: 30):
        victim.receive_datagram(datagram)
        victim.handshake()
    shake(client, server)
    assert echoes(client, server)


@pytest.mark.parametrize("role", ROLES)
def test_forged_fragments_that_take_every_place_give_way(role: str) -> None:
    """Eight lengths of the message whose turn it is: the genuine one needs no retransmission."""
    client, server, flight = waiting_server() if role == "server" else waiting_client()
    victim = server if role == "server" else client
    seq, kind = flight[0][18], flight[0][13]
    for length in range(300, 308):
        forged = fragment(kind, length, seq, 0, b"A")
        victim.receive_datagram(record(CONTENT_HANDSHAKE, forged, 5))
        assert victim.handshake() is False
    for datagram in pieces(flight, lambda: 30):
        victim.receive_datagram(datagram)
        victim.handshake()
    assert kept(victim) == 0
    shake(client, server)
    assert echoes(client, server)


@pytest.mark.parametrize("role", ROLES)
def test_one_datagram_full_of_forged_fragments_stalls_nothing(role: str) -> None:
    """Hundreds of messages that never were, in one datagram, before and amid the genuine fragments:
    at worst a flight is sent again."""
    chance = seeded()
    client, server, flight = waiting_server() if role == "server" else waiting_client()
    victim = server if role == "server" else client
    seq = flight[0][18]

    def forged() -> bytes:
        kinds = [CERTIFICATE, CLIENT_KEY_EXCHANGE, CERTIFICATE_VERIFY, SERVER_HELLO, 12, 13]
        return b"".join(
            record(
                CONTENT_HANDSHAKE,
                fragment(
                    chance.choice(kinds),
                    chance.randrange(300, 16_000),
                    seq + chance.randrange(8),
                    chance.randrange(200),
                    bytes(chance.randrange(1, 100)),
                ),
                chance.randrange(2**48),
            )
            for _ in range(300)
        )

    genuine = pieces(flight, lambda: 100)
    for at, datagram in enumerate(genuine):
        if at in (0, len(genuine) // 2):
            victim.receive_datagram(forged())
            victim.handshake()
            assert kept(victim) <= MOST_KEPT
        victim.receive_datagram(datagram)
        victim.handshake()

    def carry(datagrams: list[bytes], to: Session) -> None:
        for each in datagrams:
            to.receive_datagram(each)

    shake_by(client, server, carry)
    assert echoes(client, server)


def test_what_is_kept_of_fragments_is_bounded() -> None:
    """Whoever sends the beginnings of as many and as long messages as may be."""
    _, server, _ = waiting_server()
    for number in range(2000):
        kind = (CERTIFICATE, CLIENT_KEY_EXCHANGE, CERTIFICATE_VERIFY)[number % 3]
        length = 10_000 + number
        part = fragment(kind, length, 2 + number % 8, length - 1 - number % 7, b"x")
        server.receive_datagram(record(CONTENT_HANDSHAKE, part, number))
        server.handshake()
        assert 0 < kept(server) <= MOST_KEPT
    server.close()


@measures_memory
@pytest.mark.parametrize("what", ["first fragment", "messages ahead"])
def test_half_open_sessions_take_little_memory_and_address_space(what: str) -> None:
    """85 bytes that say "16 MiB will follow", and messages of that size that never end."""

    def kib(name: str) -> int:
        with open("/proc/self/status") as status:
            return int(next(line for line in status if line.startswith(name)).split()[1])

    gate, sessions = CookieGate(b"k" * 16), []
    names = ("VmSize", "VmRSS")
    client = client_of("X.509")
    client.handshake()
    (first,) = client.datagrams_to_send()
    challenge = gate.receive(first, b"who")
    assert isinstance(challenge, Challenge)
    client.receive_datagram(challenge.datagram)
    client.handshake()
    (hello,) = client.datagrams_to_send()
    if what == "first fragment":
        hello = record(CONTENT_HANDSHAKE, fragment(1, 0xFFFFFF, 1, 0, hello[25:97]), 1)
    verdict = gate.receive(hello, b"who")
    assert isinstance(verdict, Verified)
    before = [kib(name) for name in names]
    for _ in range(200):
        server = Session("server", certificate(), prestate=verdict.prestate)
        server.receive_datagram(hello)
        server.handshake()
        if what == "messages ahead":
            for seq in range(2, 9):
                for at in range(0, 60_000, 15_000):
                    part = fragment(CLIENT_KEY_EXCHANGE, 0xFFFFFF, seq, at, bytes(15_000))
                    server.receive_datagram(record(CONTENT_HANDSHAKE, part, seq))
                    server.handshake()
        sessions.append(server)
    for name, was in zip(names, before, strict=True):
        assert (kib(name) - was) / len(sessions) < 120, name


def test_change_cipher_specs_do_not_pile_up() -> None:
    """Each costs libgnutls 16 KiB until it is wanted: one is enough."""
    client, server, flight = waiting_server()
    for number in range(1000):
        server.receive_datagram(record(20, b"\1", number))
        server.handshake()
    for datagram in flight:
        server.receive_datagram(datagram)
    shake(client, server)
    assert echoes(client, server)


# --- fragments under keys -------------------------------------------------------------------------

CIPHERS = {
    "AES-128-GCM": "",
    "AES-256-GCM": "",
    "CHACHA20-POLY1305": "",
    "AES-256-CCM": "",
    "AES-128-CCM-8": "",
    "AES-128-CBC": "",
    "AES-256-CBC": ":%NO_ETM",
}


def before_the_finished(cipher: str, role: str) -> tuple[Session, Session, bytes, int]:
    """A peer that has the keys, the session of that role that waits for its Finished, this record,
    and its message_seq."""
    priority = f"NORMAL:-KX-ALL:+ECDHE-PSK:+PSK:-CIPHER-ALL:+{cipher}:+SHA256:+SHA384"
    client, server = pair(priority=priority + CIPHERS[cipher])
    peer, victim = (client, server) if role == "server" else (server, client)
    for _ in range(10):
        for one, other in ((client, server), (server, client)):
            one.handshake()
            for datagram in one.datagrams_to_send():
                for each in records(datagram):
                    if other is victim and each[3:5] == b"\0\1":
                        victim.handshake()
                        assert cipher in (peer.description or "") or role == "server"
                        return peer, victim, each, 2 if role == "server" else 4
                    other.receive_datagram(each)
    raise AssertionError("no Finished")


def bad_secrets(seq: int) -> dict[str, list[bytes]]:
    """What stands in records under keys; each would overrun libgnutls before 3.8.13."""

    def filled(one: bytes) -> bytes:
        return one.ljust(24, b"\0")  # of the size of a Finished

    return {
        "empty": [filled(fragment(FINISHED, 0xFFFFFF, seq, 2, b""))],
        "empty, ahead": [filled(fragment(FINISHED, 0xFFFFFF, seq + 1, 5, b""))],
        "no length": [
            filled(fragment(FINISHED, 0, seq + 1, 5000, b"")),
            filled(fragment(FINISHED, 20_000, seq + 1, 4996, bytes(12))),
        ],
        "disagreeing": [
            fragment(FINISHED, 400, seq, 0, bytes(100)),
            *[fragment(FINISHED, 60_000, seq, at, bytes(15_000)) for at in (100, 15_100, 30_100)],
        ],
        "one byte first": [
            fragment(FINISHED, 16_000, seq, 0, b"A"),
            fragment(FINISHED, 16_000, seq, 1, bytes(15_999)),
        ],
        "behind a Finished": [
            fragment(FINISHED, 12, seq, 0, bytes(12))
            + fragment(FINISHED, 60_000, seq, 12, bytes(12))
        ],
        "another length": [fragment(FINISHED, 24, seq, 0, bytes(12))],
        "another type": [fragment(CERTIFICATE, 12, seq, 0, bytes(12))],
    }


@pytest.mark.parametrize("what", list(bad_secrets(0)))
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("cipher", CIPHERS)
def test_a_peer_with_keys_sends_nothing_but_its_finished(cipher: str, role: str, what: str) -> None:
    """Fragments in encrypted records are refused, whatever the cipher; a Finished completes it."""
    peer, victim, finished, seq = before_the_finished(cipher, role)
    for number, plain in enumerate(bad_secrets(seq)[what]):
        victim.receive_datagram(sealed(peer, cipher, plain, 5 + number))
        assert victim.handshake() is False
    assert victim.records_refused == len(bad_secrets(seq)[what])
    victim.receive_datagram(finished)
    assert victim.handshake() is True


@pytest.mark.parametrize("cipher", CIPHERS)
def test_records_are_sealed_as_libgnutls_does_it(cipher: str) -> None:
    """What these tests make up would open: a Finished of other content fails the handshake."""
    peer, victim, _, seq = before_the_finished(cipher, "server")
    plain = fragment(FINISHED, 12, seq, 0, bytes(12))
    victim.receive_datagram(sealed(peer, cipher, plain, 5))
    with pytest.raises(GnuTLSError):
        victim.handshake()


@pytest.mark.parametrize("what", list(bad_secrets(0)))
@pytest.mark.parametrize("role", ROLES)
def test_an_established_session_puts_no_fragments_together(role: str, what: str) -> None:
    """A renegotiation is refused, and what is sent of it is kept nowhere."""
    cipher = "AES-128-GCM"
    priority = f"NORMAL:-KX-ALL:+ECDHE-PSK:+PSK:-CIPHER-ALL:+{cipher}"
    client, server = established(priority=priority)
    peer, victim = (client, server) if role == "server" else (server, client)
    number = 100
    for kind in (0, CLIENT_HELLO, FINISHED):
        for plain in bad_secrets(0)[what]:
            number += 1
            victim.receive_datagram(sealed(peer, cipher, bytes([kind]) + plain[1:], number))
            assert victim.receive() is None
    victim.datagrams_to_send()
    peer.send(b"x")  # number 1: within the window no more, as it should be
    victim.send(b"y")
    deliver(victim, peer)
    assert peer.receive() == b"y"


# --- one forged datagram --------------------------------------------------------------------------


def forged_datagrams() -> dict[str, bytes]:
    """What a stranger can send who knows the addresses, and not what was said."""
    return {
        "a record of a high number": record(CONTENT_HANDSHAKE, bytes(12), 100),
        "a record of the highest number": record(CONTENT_HANDSHAKE, bytes(12), 2**48 - 1),
        "ChangeCipherSpec": record(20, b"\1", 2**40),
        "a long ChangeCipherSpec": record(20, b"\1\1", 7),
        "application data": record(23, b"hello", 2**40),
        "a heartbeat": record(24, b"\1\0\0", 2**40),
        "another type of record": record(99, b"hello", 2**40),
        "a record of the next epoch": record(CONTENT_HANDSHAKE, bytes(40), 0, 1),
        "an alert of the next epoch": record(CONTENT_ALERT, b"\2\50", 0, 1),
        "a record of an epoch far ahead": record(CONTENT_HANDSHAKE, bytes(40), 0, 0xFFFF),
        "a warning": record(CONTENT_ALERT, b"\1\x64", 2**40),
        "another warning": record(CONTENT_ALERT, b"\1\x5a", 2**40),
        "an alert of one byte": record(CONTENT_ALERT, b"\2", 2**40),
        "another version": b"\x16\x01\x01" + record(CONTENT_HANDSHAKE, bytes(12), 8)[3:],
        "a fragment of what is waited for": record(
            CONTENT_HANDSHAKE, fragment(CERTIFICATE, 70, 2, 0, bytes(30)), 9
        ),
        "HelloRequest": record(CONTENT_HANDSHAKE, fragment(0, 0, 2, 0, b""), 9),
        "a message of another type": record(CONTENT_HANDSHAKE, fragment(14, 0, 2, 0, b""), 9),
    }


@pytest.mark.parametrize("what", list(forged_datagrams()))
@pytest.mark.parametrize("role", ROLES)
def test_one_forged_datagram_costs_a_handshake_nothing(role: str, what: str) -> None:
    """At each step of it, and without a retransmission."""
    for step in range(4):
        client, server = pair(retransmit_timeout=30.0, handshake_timeout=60.0)
        victim = server if role == "server" else client
        for turn in range(6):
            for one in (client, server):
                if turn == step and one is victim:
                    victim.receive_datagram(forged_datagrams()[what])
                one.handshake()
                deliver(one, server if one is client else client)
        assert (client.established, server.established) == (True, True), step
        assert echoes(client, server)


def test_forged_records_make_no_peer_send_a_flight_again_and_again() -> None:
    """A stranger's datagrams are no lever: in the time of one retransmission, one at most."""
    client, server, _ = waiting_server()
    before = time.monotonic()
    sent = 0
    for number in range(300):
        old = record(CONTENT_HANDSHAKE, fragment(CLIENT_HELLO, 60, 0, 0, bytes(60)), number)
        for forged in (old, record(20, b"\1", number)):
            server.receive_datagram(forged)
            server.handshake()
            sent += sum(datagram[13] == SERVER_HELLO for datagram in server.datagrams_to_send())
    assert sent <= 1 + (time.monotonic() - before) / 0.05
    client.close()


def test_alert_before_a_hello_is_ignored() -> None:
    """To a client that has said nothing, and to a server that has heard nothing."""
    fatal = record(CONTENT_ALERT, b"\2\50", 0)
    client, server = pair()
    for _ in range(3):
        server.receive_datagram(fatal)
        assert server.handshake() is False
    client.receive_datagram(fatal)
    shake(client, server)
    assert echoes(client, server)


@pytest.mark.parametrize("role", ROLES)
def test_a_forged_hello_for_later_does_not_wait_there(role: str) -> None:
    """Whole, with the numbers that other messages will have."""
    client, server = pair()
    victim, kind = (server, CLIENT_HELLO) if role == "server" else (client, SERVER_HELLO)
    victim.handshake()
    for seq in range(1, 8):
        one = record(CONTENT_HANDSHAKE, fragment(kind, 60, seq, 0, bytes(60)), seq)
        victim.receive_datagram(one)
        assert victim.handshake() is False
    assert (victim.records_refused, kept(victim)) == (7, 0)
    shake(client, server)
    assert echoes(client, server)


def test_fatal_alert_in_the_clear_ends_a_handshake() -> None:
    """It may be the peer's own (RFC 5246 7.2.2): before there are keys, nothing tells."""
    client, server, _ = waiting_server()
    server.receive_datagram(record(CONTENT_ALERT, b"\2\50", 2**40))
    with pytest.raises(FatalAlertError):
        server.handshake()
    client.close()


@measures_memory
def test_renegotiation_attempts_leave_no_memory_behind() -> None:
    """libgnutls would lose 16 KiB for each; all are answered: no_renegotiation."""
    cipher = "AES-128-GCM"
    client, server = established(priority=f"NORMAL:-KX-ALL:+ECDHE-PSK:+PSK:-CIPHER-ALL:+{cipher}")
    answers = 0
    for number in range(1200):
        if number == 200:
            before = resident()
        plain = fragment(CLIENT_HELLO, 60, number, 0, bytes(60))
        server.receive_datagram(sealed(client, cipher, plain, 100 + number))
        assert server.receive() is None
        answers += len(server.datagrams_to_send())
    assert answers == 1200
    assert resident() - before < 4 << 20
    client.send(b"still there")  # its number is too low by now
    server.send(b"and back")
    deliver(server, client)
    assert client.receive() == b"and back"


RECORDS = {
    "ChangeCipherSpec": (20, b"\1"),
    "an empty ChangeCipherSpec": (20, b""),
    "a long ChangeCipherSpec": (20, bytes(100)),
    "a warning": (CONTENT_ALERT, b"\1\x5a"),
    "HelloRequest": (CONTENT_HANDSHAKE, fragment(0, 0, 0, 0, b"")),
    "Finished": (CONTENT_HANDSHAKE, fragment(FINISHED, 12, 9, 0, bytes(12))),
    "ClientKeyExchange": (CONTENT_HANDSHAKE, fragment(CLIENT_KEY_EXCHANGE, 40, 9, 0, bytes(40))),
    "a message without data": (23, b""),
    "another type of record": (99, bytes(40)),
}


@pytest.mark.parametrize("what", RECORDS)
@pytest.mark.parametrize("role", ROLES)
@measures_memory
def test_records_of_a_peer_with_keys_do_not_pile_up(role: str, what: str) -> None:
    """libgnutls queues each ChangeCipherSpec, in 16 KiB, and nobody ever takes it."""
    kind, plain = RECORDS[what]
    cipher = "AES-128-GCM"
    client, server = established(priority=f"NORMAL:-KX-ALL:+ECDHE-PSK:+PSK:-CIPHER-ALL:+{cipher}")
    peer, victim = (client, server) if role == "server" else (server, client)
    for number in range(1500):
        if number == 100:
            before = resident()
        victim.receive_datagram(sealed(peer, cipher, plain, 100 + number, kind))
        with contextlib.suppress(GnuTLSError):
            victim.receive()
        victim.datagrams_to_send()
    assert resident() - before < 2 << 20
    if victim.established:
        victim.send(b"still there")
        deliver(victim, peer)
        assert peer.receive() == b"still there"


@pytest.mark.parametrize(
    ("role", "kind", "most"),
    [
        ("server", CERTIFICATE, 48 << 10),
        ("server", CLIENT_KEY_EXCHANGE, 68 << 10),
        ("server", CERTIFICATE_VERIFY, 16 << 10),
        ("client", SERVER_HELLO, 16 << 10),
        ("client", HELLO_VERIFY_REQUEST, 258),
    ],
)
def test_no_message_is_longer_than_its_sender_may_send(role: str, kind: int, most: int) -> None:
    """By role and type; the longest is kept, one byte more is refused."""
    client, server, flight = waiting_server() if role == "server" else waiting_client()
    victim = server if role == "server" else client
    for length, refused in ((most, 0), (most + 1, 1)):
        part = fragment(kind, length, flight[0][18], 1, b"x")
        victim.receive_datagram(record(CONTENT_HANDSHAKE, part, 5))
        assert victim.handshake() is False
        assert victim.records_refused == refused
    assert most <= kept(victim) <= most + most // 8 + 1


def test_no_hello_is_longer_than_16_kib() -> None:
    """The first fragment, too, that comes with the cookie."""
    for length, refused in ((16 << 10, 0), ((16 << 10) + 1, 1)):
        server = server_of("PSK")
        part = fragment(CLIENT_HELLO, length, 0, 0, bytes(100))
        server.receive_datagram(record(CONTENT_HANDSHAKE, part, 0))
        assert server.handshake() is False
        assert server.records_refused == refused


def test_a_peer_that_repeats_itself_gets_the_flight_again_before_the_timer() -> None:
    """Its own flight was not answered, so ours is missing (RFC 6347 4.2.4); whatever the timer has
    grown to by then."""
    client, server = pair(retransmit_timeout=1.0, handshake_timeout=600.0)
    client.handshake()
    (hello,) = client.datagrams_to_send()
    server.receive_datagram(hello)
    now = 1000.0
    server.handshake(now)
    while (left := server.timeout(now) or 0.0) < 8.0:
        now += left
        server.handle_timeout(now)
    server.datagrams_to_send()
    now += 1.0
    assert (server.timeout(now) or 0.0) > 6.0
    server.receive_datagram(hello)
    server.handshake(now)
    assert SERVER_HELLO in [datagram[13] for datagram in server.datagrams_to_send()]
