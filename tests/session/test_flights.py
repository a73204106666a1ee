"""How a flight is laid out in datagrams: records joined up to the MTU (RFC 6347 4.1.1), and smaller
fragments after losses (4.1.1.1). The clock is the test's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from gnutls_cookie import CertificateCredentials, Session
from gnutls_cookie._ffi import lib
from tests.session.test_guard import large_certificate
from tests.support.peers import (
    KINDS,
    Options,
    certificate,
    deliver,
    echoes,
    messages,
    pair,
    shake,
    trusting,
)


def records(datagram: bytes) -> list[bytes]:
    """The records of a datagram."""
    found = []
    while datagram:
        size = 13 + int.from_bytes(datagram[11:13], "big")
        assert size <= len(datagram)
        found.append(datagram[:size])
        datagram = datagram[size:]
    return found


def flights(client: Session, server: Session) -> list[list[bytes]]:
    """The datagrams of a whole handshake over a good network, flight by flight."""
    found: list[list[bytes]] = []
    for _ in range(10):
        for one, other in ((client, server), (server, client)):
            one.handshake(0.0)
            if datagrams := deliver(one, other):
                found.append(datagrams)
        if client.handshake(0.0) and server.handshake(0.0):
            return found
    raise AssertionError(f"no handshake: {client!r}, {server!r}")


def test_a_flight_that_fits_is_one_datagram() -> None:
    """With a shared key: hello; ServerHello to Done; ClientKeyExchange to Finished; Finished."""
    found = flights(*pair("PSK"))
    assert [len(flight) for flight in found] == [1, 1, 1, 1]
    assert [len(records(flight[0])) > 1 for flight in found] == [False, True, True, True]


@pytest.mark.parametrize("mtu", [128, 228, 400, 1200, 65507])
@pytest.mark.parametrize("kind", KINDS)
def test_datagrams_are_filled_up_to_the_mtu(kind: str, mtu: int) -> None:
    """None is longer, and none has room for the next record of its flight."""
    client, server = pair(kind, mtu=mtu)
    for flight in flights(client, server):
        for datagram, following in zip(flight, [*flight[1:], None], strict=True):
            assert len(datagram) <= mtu
            assert following is None or len(datagram) + len(records(following)[0]) > mtu
    assert echoes(client, server)


def test_a_flight_that_is_sent_again_is_joined_as_well() -> None:
    """By the timer, and where the peer says its Finished again."""
    client, server = pair("PSK", retransmit_timeout=1.0)
    client.handshake(0.0)
    deliver(client, server)
    server.handshake(0.0)
    lost = server.datagrams_to_send()
    server.handle_timeout(1.5)
    again = server.datagrams_to_send()
    assert [len(one) for one in again] == [len(one) for one in lost] == [len(lost[0])]
    client.receive_datagram(again[0])
    client.handshake(1.5)
    deliver(client, server)
    assert server.handshake(1.5)
    (last,) = server.datagrams_to_send()
    client.handle_timeout(3.0)
    deliver(client, server)
    assert server.receive() is None
    assert [len(one) for one in server.datagrams_to_send()] == [len(last)]
    client.receive_datagram(last)
    assert client.handshake(3.0)
    assert echoes(client, server)


def test_messages_and_goodbye_are_datagrams_of_their_own() -> None:
    """However small: a message that is lost takes no other with it."""
    client, server = pair("PSK")
    shake(client, server)
    for message in (b"1", b"2", b"3"):
        client.send(message)
    client.close()
    datagrams = client.datagrams_to_send()
    assert [len(records(datagram)) for datagram in datagrams] == [1, 1, 1, 1]
    for datagram in datagrams:
        server.receive_datagram(datagram)
    assert messages(server) == [b"1", b"2", b"3"]


# --- paths whose MTU nobody tells -----------------------------------------------------------------


class BlackHole:
    """A path that takes datagrams up to a size and says nothing of others, with a clock.

    Attributes:
        now: seconds.
        most: bytes.
        sent: the datagrams of the server and of the client so far, by the time they were sent at.
    """

    def __init__(self, client: Session, server: Session, most: int) -> None:
        self.now = 0.0
        self.sent: dict[Session, list[tuple[float, int]]] = {client: [], server: []}
        self._ends = ((client, server), (server, client))
        self.most = most

    def run(self, until: float) -> bool:
        """Whether the handshake is complete by then."""
        (client, server), _ = self._ends
        while self.now < until:
            moved = False
            for one, other in self._ends:
                if one.handshake(self.now):
                    messages(one)
                for datagram in one.datagrams_to_send():
                    moved = True
                    self.sent[one].append((self.now, len(datagram)))
                    if len(datagram) <= self.most:
                        other.receive_datagram(datagram)
            if client.established and server.established:
                return True
            if not moved:
                timers = [one.timeout(self.now) for one, _ in self._ends]
                self.now += max(min(timer for timer in timers if timer is not None), 0.001)
        return False


@pytest.mark.parametrize(
    ("most", "names", "within"),
    [(572, 200, 8.0), (508, 200, 8.0), (300, 70, 40.0), (228, 70, 40.0)],
)
@pytest.mark.parametrize("sender", ["server", "client"])
def test_after_two_lost_flights_the_fragments_are_smaller(
    sender: str, most: int, names: int, within: float, tmp_path: Path
) -> None:
    """Datagrams of 508 bytes after two losses and of 228 after four pass a black hole, with
    certificates of 9 and 3 KiB. Messages may be as long as before."""
    large = large_certificate(tmp_path, names)
    client, server = pair("X.509")
    if sender == "server":
        client = Session("client", CertificateCredentials(), verify_peer=False)
        server = Session("server", large)
    else:
        client = Session("client", large, verify_peer=False)
        server = Session("server", certificate())
        lib.gnutls_certificate_server_set_request(server._pointer, lib.GNUTLS_CERT_REQUEST)
    path = BlackHole(client, server, most)
    assert path.run(within)
    assert len((client if sender == "server" else server).peer_certificate or b"") > 40 * names
    longest: dict[float, int] = {}
    for when, size in path.sent[server if sender == "server" else client]:
        longest[when] = max(size, longest.get(when, 0))
    assert [size for size in longest.values() if size > most][:2] == [1200, 1200]
    assert sum(size > most for size in longest.values()) == (2 if most >= 508 else 4)
    assert client.mtu == server.mtu == 1200
    assert echoes(client, server)


def test_smaller_fragments_come_from_either_end_in_turn(tmp_path: Path) -> None:
    """libgnutls at the other side may hold the end of a message from before, and adds only what
    touches it: from the end to the start, and then all of it."""
    client = Session("client", CertificateCredentials(), verify_peer=False)
    server = Session("server", large_certificate(tmp_path, 70))
    client.handshake(0.0)
    deliver(client, server)
    hello_at = []
    for now in (0.0, 1.0, 3.0, 7.0, 15.0, 31.0):
        server.handshake(now)
        flight = server.datagrams_to_send()
        (at,) = (at for at, datagram in enumerate(flight) if datagram[13] == 2)  # ServerHello
        hello_at.append(at - len(flight) if at > 0 else 0)
    assert hello_at == [0, 0, -1, 0, -1, 0]


def test_a_flight_that_libgnutls_cannot_cut_smaller_stays_larger(tmp_path: Path) -> None:
    """With 18 KiB in more than 31 records it would fail: here it waits for a better time."""
    times: Options = {"retransmit_timeout": 1.0, "handshake_timeout": 200.0}
    client = Session("client", CertificateCredentials(), verify_peer=False, **times)
    server = Session("server", large_certificate(tmp_path), **times)
    path = BlackHole(client, server, 508)
    assert not path.run(35.0)
    assert 508 < max(size for when, size in path.sent[server] if when > 20) < 800
    path.most = 1200
    assert path.run(120.0)
    assert echoes(client, server)


def test_a_hello_is_not_cut_smaller() -> None:
    """However often nobody answers: many servers take no fragment of a ClientHello."""
    client = Session("client", trusting(), server_name="a" * 60 + ".example", mtu=228)
    client.mtu = 1200
    sizes = set()
    for turn in range(20):
        client.handshake(float(turn))
        sizes |= {len(datagram) for datagram in client.datagrams_to_send()}
    assert len(sizes) == 1
    assert min(sizes) > 228


def test_an_mtu_that_is_smaller_already_stays(tmp_path: Path) -> None:
    """It is what the caller chose."""
    client = Session("client", CertificateCredentials(), verify_peer=False)
    server = Session("server", large_certificate(tmp_path, 20), mtu=200)
    client.handshake(0.0)
    deliver(client, server)
    for turn in range(30):
        server.handshake(float(turn))
        assert max((len(one) for one in server.datagrams_to_send()), default=200) == 200
    assert server.mtu == 200
