"""The Client without a socket: what goes in, what comes out, its limits, its timers, its end."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from gnutls_cookie import (
    Arrival,
    CertificateCredentials,
    Client,
    CookieGate,
    Prestate,
    PSKCredentials,
    Server,
    Verified,
)
from gnutls_cookie.errors import (
    ConnectionClosedError,
    FatalAlertError,
    LargePacketError,
    TimedOutError,
)
from gnutls_cookie.gate import Challenge
from gnutls_cookie.server import Closed, CloseReason, Connected, Connection, MessageReady
from tests.support.common import seeded

KEY = b"0123456789abcdef"
ADDRESS = ("192.0.2.1", 4711)


class Pair:
    """A Client and a Server behind a gate, in memory, by a clock of their own."""

    def __init__(self, lost: Any = lambda: False, **options: Any) -> None:
        self.now = -5.0
        self.gate = CookieGate(b"k" * 16)
        credentials = PSKCredentials(lookup={"sensor-1": KEY})
        # Longer than any chance takes: its end would be a goodbye to the client.
        self.server = Server(credentials, idle_timeout=1e6, handshake_timeout=1e6)
        options = {"credentials": PSKCredentials("sensor-1", KEY)} | options
        self.client = Client(**options)
        self.lost = lost
        self.events: list[Any] = []

    def carry(self) -> bool:
        """Whether there was something to carry."""
        upward = self.client.datagrams_to_send()
        for datagram in upward:
            if not self.lost():
                self._to_server(datagram)
        downward = self.server.datagrams_to_send()
        for datagram, _ in downward:
            if not self.lost():
                self.client.receive_datagram(datagram, self.now)
        self.events += self.client.events()
        return bool(upward or downward)

    def _to_server(self, datagram: bytes) -> None:
        if ADDRESS in self.server:
            self.server.receive(Arrival(ADDRESS, datagram, None), self.now)
            return
        verdict = self.gate.receive(datagram, b"client")
        if isinstance(verdict, Verified):
            self.server.receive(Arrival(ADDRESS, datagram, verdict.prestate), self.now)
        elif isinstance(verdict, Challenge) and not self.lost():
            self.client.receive_datagram(verdict.datagram, self.now)

    def run(self) -> None:
        """Until nothing is to be carried and no timer of a handshake runs."""
        self.client.connect(self.now)
        for _ in range(2000):
            while self.carry():
                pass
            timers = [self.client.timeout(self.now)]
            if not (self.connections and self.connections[0].session.established):
                timers.append(self.server.timeout(self.now))
            due = [timer for timer in timers if timer is not None]
            if not due or not self.client.is_open:
                return
            self.now += max(min(due), 0.001)
            self.client.handle_timeout(self.now)
            self.server.handle_timeout(self.now)
        raise AssertionError("no end")

    @property
    def connections(self) -> list[Connection]:
        return list(self.server._connections.values())


def connected(**options: Any) -> Pair:
    pair = Pair(**options)
    pair.run()
    assert pair.events == [Connected(pair.client)]
    pair.events.clear()
    return pair


def test_messages_go_both_ways() -> None:
    """Connected, then messages of either side, and MessageReady when the first waits."""
    pair = connected()
    pair.client.send(b"ping")
    pair.carry()
    (connection,) = pair.connections
    assert connection.receive() == b"ping"
    for message in (b"one", b"two"):
        pair.server.send(connection, message, pair.now)
    pair.carry()
    assert pair.events == [MessageReady(pair.client)]
    assert [pair.client.receive() for _ in range(3)] == [b"one", b"two", None]


def test_client_over_a_lossy_link_connects_by_its_timers() -> None:
    """Every third datagram is lost by chance; only the clock that is given runs."""
    chance = seeded()
    for _ in range(10):
        pair = Pair(lambda: chance.random() < 0.3, handshake_timeout=1e5, address=ADDRESS)
        pair.run()
        assert pair.events == [Connected(pair.client)]
        assert pair.client.session.established
        assert pair.client.timeout(pair.now) is None


def test_silence_ends_the_handshake_when_its_time_is_over() -> None:
    """Closed by TIMED_OUT, not before, whatever the clock counts from."""
    for start in (-1e9, 0.0, 7e8):
        client = Client(PSKCredentials("sensor-1", KEY), handshake_timeout=10.0)
        client.connect(start)
        client.handle_timeout(start + 9.5)
        assert client.is_open
        assert len(client.datagrams_to_send()) == 2
        assert client.timeout(start + 9.5) == pytest.approx(0.5)
        client.handle_timeout(start + 10.5)
        (event,) = client.events()
        assert isinstance(event, Closed)
        assert (event.reason, event.connection) == (CloseReason.TIMED_OUT, client)
        assert isinstance(event.error, TimedOutError)
        assert client.error is event.error
        assert (client.timeout(start + 11), client.is_open) == (None, False)


def talking(idle_timeout: float) -> Pair:
    """A pair after its handshake, at pair.now; the client's silence is bounded."""
    pair = Pair(idle_timeout=idle_timeout)
    pair.client.connect(pair.now)
    while pair.carry():
        pass
    assert pair.events == [Connected(pair.client)]
    pair.events.clear()
    return pair


def test_silence_of_the_server_ends_the_connection() -> None:
    """With a goodbye, and an error that says so; less of it does not."""
    pair = talking(idle_timeout=100.0)
    assert pair.client.timeout(pair.now) == pytest.approx(100.0)
    pair.client.handle_timeout(pair.now + 99.0)
    assert (pair.client.is_open, pair.client.datagrams_to_send()) == (True, [])
    pair.client.handle_timeout(pair.now + 100.0)
    (event,) = pair.client.events()
    assert isinstance(event, Closed)
    assert (event.reason, event.error) == (CloseReason.IDLE, pair.client.error)
    assert isinstance(event.error, TimedOutError)
    assert len(pair.client.datagrams_to_send()) == 1
    assert (pair.client.is_open, pair.client.timeout(pair.now + 101.0)) == (False, None)
    with pytest.raises(ConnectionClosedError):
        pair.client.send(b"x")


def test_only_a_message_of_the_server_breaks_its_silence() -> None:
    """Neither what the client sends does, nor what a stranger or a recording says."""
    pair = talking(idle_timeout=100.0)
    (connection,) = pair.connections
    pair.now += 60.0
    pair.server.send(connection, b"one", pair.now)
    ((record, _),) = pair.server.datagrams_to_send()
    pair.client.receive_datagram(record, pair.now)
    assert pair.client.timeout(pair.now) == pytest.approx(100.0)
    pair.now += 60.0
    pair.client.send(b"two")
    for junk in (record, b"", b"x" * 50, record[:20] + b"x" + record[21:]):
        pair.client.receive_datagram(junk, pair.now)
    assert pair.client.timeout(pair.now) == pytest.approx(40.0)


def test_no_silence_is_too_long_unless_it_is_told_so() -> None:
    """The default: no timer runs after the handshake."""
    pair = connected()
    pair.client.handle_timeout(pair.now + 1e9)
    assert (pair.client.is_open, pair.client.timeout(pair.now + 1e9)) == (True, None)


def test_alert_of_the_server_fails_the_handshake() -> None:
    """Closed by FAILED with the error, and nothing is raised for what the server sent."""
    pair = Pair(credentials=CertificateCredentials(), verify_peer=False)
    pair.client.connect(pair.now)
    for _ in range(10):
        pair.carry()
    (event,) = pair.events
    assert (event.reason, event.error) == (CloseReason.FAILED, pair.client.error)
    assert isinstance(event.error, FatalAlertError)
    with pytest.raises(ConnectionClosedError):
        pair.client.send(b"x")


@pytest.mark.parametrize("closer", ["client", "server"])
def test_either_side_may_say_goodbye(closer: str) -> None:
    """Closed once, with who it was; what came before can be received, nothing can be sent."""
    pair = connected()
    (connection,) = pair.connections
    pair.server.send(connection, b"last", pair.now)
    pair.carry()
    if closer == "client":
        pair.client.close()
    else:
        pair.server.close(connection)
    pair.carry()
    pair.carry()
    pair.client.close()
    reason = CloseReason.LOCAL if closer == "client" else CloseReason.PEER
    assert pair.events[-1] == Closed(pair.client, reason)
    assert pair.client.events() == []
    assert (pair.client.receive(), pair.client.receive()) == (b"last", None)
    assert not connection.is_open
    with pytest.raises(ConnectionClosedError):
        pair.client.send(b"x")
    pair.client.receive_datagram(b"late", pair.now)
    assert pair.client.datagrams_to_send() == []


@pytest.mark.parametrize(("limits", "kept"), [({"max_queue": 3}, 3), ({"max_queue_bytes": 250}, 2)])
def test_queue_is_bounded(limits: Any, kept: int) -> None:
    """In messages and in bytes; what is dropped is counted."""
    pair = connected(**limits)
    (connection,) = pair.connections
    for _ in range(10):
        pair.server.send(connection, bytes(100), pair.now)
    pair.carry()
    waiting = list(itertools.takewhile(bool, iter(pair.client.receive, None)))
    assert (len(waiting), pair.client.messages_dropped) == (kept, 10 - kept)
    pair.server.send(connection, bytes(1000), pair.now)  # one always has room
    pair.carry()
    assert pair.client.receive() == bytes(1000)


def test_message_beyond_the_mtu_is_refused_and_the_connection_lives() -> None:
    """LargePacketError, and nothing was sent."""
    pair = connected()
    with pytest.raises(LargePacketError):
        pair.client.send(bytes(pair.client.session.data_mtu + 1))
    assert pair.client.datagrams_to_send() == []
    assert pair.client.is_open


@pytest.mark.parametrize("now", [float("nan"), 1e13, -float("inf")])
def test_time_out_of_range_is_a_value_error(now: float) -> None:
    """Each call that takes a time names it."""
    client = Client(PSKCredentials("sensor-1", KEY))
    calls: list[Any] = [client.connect, client.timeout, client.handle_timeout]
    for call in [*calls, lambda now: client.receive_datagram(b"x", now)]:
        with pytest.raises(ValueError, match="now"):
            call(now)
    with pytest.raises(TypeError, match="now"):
        client.connect("soon")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["max_queue", "max_queue_bytes", "idle_timeout"])
def test_limit_that_is_not_positive_is_an_error(name: str) -> None:
    """The argument is named."""
    limits: dict[str, Any] = {name: 0}
    with pytest.raises(ValueError, match=name):
        Client(PSKCredentials("sensor-1", KEY), **limits)


def test_prestate_is_none_of_a_client() -> None:
    """What only a server takes is an unknown argument here."""
    options: dict[str, Any] = {"prestate": Prestate()}
    with pytest.raises(TypeError, match="prestate"):
        Client(PSKCredentials("sensor-1", KEY), **options)
