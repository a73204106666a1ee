"""What one address, and one network, may hold of a server; who gives way to whom where it is full.

Hellos go to the Server itself: that their senders have those addresses is the gate's to find out.
"""

from __future__ import annotations

import itertools
import os
import platform
from collections import Counter
from typing import Any

import pytest

from gnutls_cookie import Arrival, CloseReason, Prestate, RefusalReason, Server
from gnutls_cookie.reference import wire
from tests.support.common import Address, python, seeded
from tests.support.peers import client_of, psk
from tests.support.servers import Bench, closed_by, needs_proc

FIRST = 1.0  # seconds until a flight is sent again for the first time

_randoms = itertools.count(1)


def hello_template(kind: str = "PSK") -> bytes:
    """A second hello of a client, whose cookie nobody looks at here."""
    client = client_of(kind)
    client.handshake(0.0)
    (first,) = client.datagrams_to_send()
    client.receive_datagram(wire.HelloVerifyRequest(bytes(16)).encode())
    client.handshake(0.0)
    (second,) = client.datagrams_to_send()
    assert len(second) == len(first) + 16
    return second


HELLO = hello_template()
PRESTATE = Prestate(record_seq=1, hsk_read_seq=1, hsk_write_seq=0)


def fresh_hello() -> bytes:
    """One with a random that no other has."""
    return HELLO[:27] + next(_randoms).to_bytes(32, "big") + HELLO[59:]


class Flood:
    """A server that is told the time, and hellos that come to it."""

    def __init__(self, **limits: Any) -> None:
        self.server = Server(psk(), retransmit_timeout=FIRST, handshake_timeout=60.0, **limits)
        self.now = 0.0

    def hello(self, address: Address) -> bool:
        """A fresh hello; whether a session was opened for it."""
        before = self.server.counters.refused
        self.server.receive(Arrival(address, fresh_hello(), PRESTATE), self.now)
        return self.server.counters.refused == before

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.server.handle_timeout(self.now)

    @property
    def refused(self) -> dict[RefusalReason, int]:
        counters = self.server.counters
        refused = {reason: number for reason, number in counters.refused_by.items() if number}
        assert counters.refused == sum(refused.values())
        return refused


# --- one address and port -------------------------------------------------------------------------


def test_a_fresh_hello_does_not_replace_a_handshake_that_has_just_begun() -> None:
    """Not before its flight is due again; each hello would cost a signature, else."""
    flood = Flood()
    address = ("192.0.2.1", 1)
    assert flood.hello(address)
    flood.now = FIRST * 0.99
    assert [flood.hello(address) for _ in range(1000)] == [False] * 1000
    assert flood.refused == {RefusalReason.EARLY: 1000}
    assert (closed_by(flood.server), flood.server.counters.displaced) == ({}, 0)
    flood.now = FIRST
    assert flood.hello(address)
    assert closed_by(flood.server) == {CloseReason.REPLACED: 1}
    assert len(flood.server) == 1


def test_a_client_that_starts_again_at_once_is_served_by_its_next_hello() -> None:
    """And does not hear the flight of the handshake that it left, which it could not understand."""
    bench = Bench(retransmit_timeout=FIRST)
    former = bench.client()
    bench.at_server_hello(former)
    bench.lose()
    client = bench.client(address=former.address, retransmit_timeout=30.0)
    bench.at_server_hello(client)
    (hello,) = [one for one in bench.arrivals[-1:] if one.prestate is not None]
    assert bench.server.counters.refused_by[RefusalReason.EARLY] == 1
    bench.pass_time(1.5 * FIRST)
    assert bench.lose() == []
    assert (len(bench.server), closed_by(bench.server)) == (0, {CloseReason.REPLACED: 1})
    bench.server.receive(hello, bench.now())
    bench.talk(client)
    assert bench.echoes(client)


def test_a_handshake_that_goes_on_is_not_given_up_for_a_hello_in_its_name() -> None:
    """A recorded one, say: its client says more, and is served."""
    bench = Bench(retransmit_timeout=FIRST)
    client = bench.client(retransmit_timeout=30.0)
    bench.at_server_hello(client)
    bench.server.receive(Arrival(client.address, fresh_hello(), PRESTATE), bench.now())
    bench.server.receive(bench.arrivals[-1], bench.now())  # its own hello, once more
    bench.pass_time(1.5 * FIRST)
    bench.talk(client)
    assert bench.echoes(client)
    assert closed_by(bench.server) == {}


# --- one address, one network ---------------------------------------------------------------------

Scope = tuple[list[Address], Address]

SCOPES: dict[str, Scope] = {
    "address": ([("192.0.2.1", port) for port in range(1, 30)], ("192.0.2.2", 1)),
    "IPv6 address": (
        [("2001:db8::1", port, 0, 0) for port in range(1, 30)],
        ("2001:db8::2", 1, 0, 0),
    ),
    "mapped address": (
        [("::ffff:192.0.2.1", port, 0, 0) for port in range(1, 30)],
        ("::ffff:192.0.2.2", 1, 0, 0),
    ),
    "prefix": ([(f"192.0.2.{host}", 1) for host in range(1, 30)], ("192.0.3.1", 1)),
    "IPv6 prefix": (
        [(f"2001:db8:0:1:{host:x}::1", 1, 0, 0) for host in range(1, 30)],
        ("2001:db8:0:2::1", 1, 0, 0),
    ),
    "mapped prefix": (
        [(f"::ffff:192.0.2.{host}", 1, 0, 0) for host in range(1, 30)],
        ("::ffff:192.0.3.1", 1, 0, 0),
    ),
}


def reason_of(scope: str) -> RefusalReason:
    return RefusalReason.ADDRESS if scope.endswith("address") else RefusalReason.PREFIX


def limits_of(scope: str, what: str, most: int) -> dict[str, int]:
    return {f"max_{what}_per_{scope.split()[-1]}": most}


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("what", ["handshakes", "sessions"])
def test_at_its_limit_a_young_handshake_stays_and_the_newcomer_is_refused(
    scope: str, what: str
) -> None:
    """Others are served meanwhile."""
    addresses, other = SCOPES[scope]
    flood = Flood(**limits_of(scope, what, 5))
    assert [flood.hello(address) for address in addresses[:8]] == [True] * 5 + [False] * 3
    assert flood.hello(other)
    assert flood.refused == {reason_of(scope): 3}
    assert (closed_by(flood.server), flood.server.counters.displaced) == ({}, 0)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("what", ["handshakes", "sessions"])
def test_at_its_limit_the_oldest_handshake_gives_way_once_its_flight_is_due_again(
    scope: str, what: str
) -> None:
    """One for each newcomer, in the order in which they began."""
    addresses, other = SCOPES[scope]
    flood = Flood(**limits_of(scope, what, 3))
    assert flood.hello(other)
    for address in addresses[:3]:
        assert flood.hello(address)
        flood.wait(FIRST / 4)
    assert not flood.hello(addresses[3])
    flood.wait(FIRST / 4)
    assert flood.hello(addresses[3])
    assert not flood.hello(addresses[4])
    flood.wait(FIRST / 4)
    assert flood.hello(addresses[4])
    assert [address in flood.server for address in addresses[:5]] == [False] * 2 + [True] * 3
    assert other in flood.server
    assert flood.server.counters.displaced == 2


def test_one_that_gives_way_for_its_address_does_so_for_its_network_as_well() -> None:
    """No two go for one newcomer."""
    flood = Flood(max_handshakes_per_address=2, max_handshakes_per_prefix=3)
    for address in (("192.0.2.9", 1), ("192.0.2.1", 1), ("192.0.2.1", 2)):
        assert flood.hello(address)
    flood.wait(FIRST)
    assert flood.hello(("192.0.2.1", 3))
    assert flood.server.counters.displaced == 1
    assert ("192.0.2.9", 1) in flood.server


@pytest.mark.parametrize("scope", ["address", "prefix"])
def test_established_sessions_give_way_to_nobody(scope: str) -> None:
    """At the limit of sessions the next one of that address or network is refused, old or young."""
    limits: dict[str, Any] = limits_of(scope, "sessions", 3)
    bench = Bench(**limits, handshake_timeout=60.0)
    addresses, other = SCOPES[scope]
    clients = [bench.connected(address=address) for address in addresses[:3]]
    bench.at_server_hello(bench.client(address=addresses[3]))
    bench.pass_time(100.0)
    newcomer = bench.client(address=addresses[3])
    bench.at_server_hello(newcomer)
    assert bench.server.counters.refused_by[reason_of(scope)] == 2
    assert bench.echoes(bench.connected(address=other))
    for client in clients:
        assert bench.echoes(client)
    bench.server.close(bench.connection(clients[0]))
    bench.lose()
    bench.talk(newcomer)


# --- all of them ----------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", ["max_sessions", "max_handshakes"])
def test_where_all_is_full_the_oldest_handshake_gives_way_at_once(limit: str) -> None:
    """However young it is: else whoever fills the server keeps the others out."""
    flood = Flood(**{limit: 4})
    addresses = [(f"192.0.{number}.1", 1) for number in range(10)]
    assert [flood.hello(address) for address in addresses] == [True] * 10
    assert [address in flood.server for address in addresses] == [False] * 6 + [True] * 4
    assert flood.server.counters.displaced == 6
    assert flood.refused == {}


def test_where_all_is_established_the_newcomer_is_refused() -> None:
    """FULL, and the sessions that there are go on."""
    bench = Bench(max_sessions=2)
    clients = [bench.connected(address=(f"192.0.{number}.1", 1)) for number in range(2)]
    bench.at_server_hello(bench.client(address=("192.0.9.1", 1)))
    assert bench.server.counters.refused_by[RefusalReason.FULL] == 1
    assert all(bench.echoes(client) for client in clients)


def test_a_flood_of_one_network_leaves_the_server_to_others() -> None:
    """With the limits that there are unless others are given: 3000 handshakes of one address, and
    3000 of its network."""
    flood = Flood()
    for port in range(3000):
        flood.hello(("192.0.2.1", 1 + port))
    assert flood.server.counters.handshaking == 512
    for number in range(3000):
        flood.hello((f"192.0.2.{number % 250 + 2}", 1 + number))
    assert flood.server.counters.handshaking == 1024
    assert [flood.hello((f"198.51.100.{host}", 1)) for host in range(100)] == [True] * 100
    assert (closed_by(flood.server), flood.server.counters.displaced) == ({}, 0)


def test_what_one_address_holds_is_bounded_unless_it_is_told_otherwise() -> None:
    """All but a 32nd of max_sessions, and for a network all but a 64th; both may be set."""
    for limits, most in (({}, 310), ({"max_sessions_per_address": 320}, 315)):
        flood = Flood(max_sessions=320, max_handshakes_per_address=1000, **limits)
        opened = [flood.hello(("192.0.2.1", 1 + port)) for port in range(330)]
        assert opened.count(True) == most
    flood.server.max_sessions = 640
    assert flood.hello(("192.0.2.1", 5000))


@pytest.mark.parametrize(
    "name",
    [
        *("max_sessions_per_address", "max_sessions_per_prefix", "max_handshakes"),
        *("max_handshakes_per_address", "max_handshakes_per_prefix"),
    ],
)
@pytest.mark.parametrize(("value", "kind"), [(0, ValueError), (1.5, TypeError), (True, TypeError)])
def test_limit_that_means_nothing_is_refused_by_name(
    name: str, value: Any, kind: type[Exception]
) -> None:
    """As every other limit."""
    limits: dict[str, Any] = {name: value}
    with pytest.raises(kind, match=rf"\b{name}\b"):
        Server(psk(), **limits)


# --- what handshakes keep -------------------------------------------------------------------------


def fragment(length: int, size: int, number: int) -> bytes:
    """The first `size` bytes of a certificate message of `length` bytes, in a record of epoch 0."""
    body = b"\x0b" + length.to_bytes(3, "big") + (2).to_bytes(2, "big") + bytes(3)
    body += size.to_bytes(3, "big") + bytes(size)
    head = b"\x16\xfe\xfd" + number.to_bytes(8, "big")
    return head + len(body).to_bytes(2, "big") + body


def test_bytes_that_handshakes_keep_are_bounded_in_all() -> None:
    """The first that kept something gives way, not those that keep nothing."""
    flood = Flood()
    flood.server._native.limits.kept = 150_000
    quiet = ("192.0.9.1", 1)
    assert flood.hello(quiet)
    addresses = [(f"192.0.{number}.1", 2) for number in range(6)]
    for address in addresses:
        assert flood.hello(address)
        for number in (2, 3):  # again: it is kept once
            flood.server.receive(Arrival(address, fragment(48_000, 9_000, number), None), flood.now)
    assert [address in flood.server for address in addresses] == [False] * 4 + [True] * 2
    assert quiet in flood.server
    assert flood.server.counters.displaced == 4


def test_the_worst_fragments_of_a_thousand_handshakes_take_megabytes_not_gigabytes() -> None:
    """80 KiB each would be 80 MB; all together keep 8 MiB."""
    flood = Flood()
    for number in range(1000):
        address = (f"192.{number // 250}.{number % 250}.1", 1)
        assert flood.hello(address)
        flood.server.receive(Arrival(address, fragment(48_000, 9_000, 2), None), flood.now)
    most = (8 << 20) // (48_000 * 9 // 8)
    assert flood.server.counters.handshaking == most


# --- any order ------------------------------------------------------------------------------------


def test_no_order_of_hellos_breaks_a_limit_or_refuses_without_one() -> None:
    """By a model that knows only who holds what."""
    chance = seeded()
    limits = {
        "max_sessions": 12,
        "max_handshakes": 10,
        "max_handshakes_per_address": 3,
        "max_handshakes_per_prefix": 5,
        "max_sessions_per_address": 4,
        "max_sessions_per_prefix": 6,
    }
    flood = Flood(**limits)
    began: dict[Address, float] = {}
    addresses = [
        (f"192.0.{net}.{host}", port)
        for net in range(3)
        for host in range(3)
        for port in range(1, 5)
    ]
    for _ in range(3000):
        address = chance.choice(addresses)
        was_early = address in began and flood.now < began[address] + FIRST
        others = Counter(other[0] for other in began if other != address)
        nets = Counter(other[0].rpartition(".")[0] for other in began if other != address)
        net = address[0].rpartition(".")[0]
        opened = flood.hello(address)
        if was_early:
            assert not opened
        elif others[address[0]] < 3 and nets[net] < 5:
            assert opened
        if opened:
            began[address] = flood.now
        began = {other: when for other, when in began.items() if other in flood.server}
        holding = Counter(other[0] for other in began)
        assert not holding or max(holding.values()) <= 3
        by_net = Counter(other[0].rpartition(".")[0] for other in began)
        assert not by_net or max(by_net.values()) <= 5
        assert len(began) == len(flood.server) <= 10
        if chance.random() < 0.3:
            flood.wait(chance.random() * FIRST)
            flood.server.datagrams_to_send()
            began = {other: when for other, when in began.items() if other in flood.server}


MEMORY = """
import gc, resource, sys
from tests.server import test_fair
from tests.server.test_fair import Arrival, fragment, fresh_hello, hello_template, PRESTATE
from tests.support.peers import certificate
from tests.support.servers import Bench

senders, length, hellos = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
limits = {name: int(most) for name, most in (one.split("=") for one in sys.argv[4:])}
test_fair.HELLO = hello_template("X.509")

def resident() -> float:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize() / 1e6

def address(number: int) -> tuple[str, int]:
    match senders:
        case "one address":
            return ("192.0.2.1", 1 + number)
        case "one network":
            return (f"192.0.2.{number % 250}", 1 + number)
    return (f"10.{number // 250}.{number % 250}.1", 1)

def lose() -> None:
    bench.lose()
    bench.heard.clear()
    bench.server.failures()
    bench.server.forgotten()

bench = Bench(certificate(), retransmit_timeout=1.0, handshake_timeout=60.0, **limits)
server = bench.server
bench.connected("X.509", address=("198.51.100.1", 1))
server.receive(Arrival(("192.0.9.1", 1), fresh_hello(), PRESTATE), bench.now())
bench.pass_time(100.0)
lose()
before = most = resident()
for number in range(hellos):
    there = address(number)
    server.receive(Arrival(there, fresh_hello(), PRESTATE), bench.now())
    server.receive(Arrival(there, fragment(length, length - 10, 2), None), bench.now())
    lose()
    bench.pass_time(0.001)
    lose()
    most = max(most, resident())
held, refused = server.counters.handshaking, server.counters.refused
newcomer = bench.connected("X.509", address=("198.51.100.1", 2))
assert bench.echoes(newcomer)
assert server.counters.refused == refused
bench.pass_time(100.0)
lose()
gc.collect()
assert server.counters.handshaking == 0
print(most - before, resident() - before, held)
"""


def flooded(senders: str, length: int, hellos: int, *limits: str) -> None:
    """Memory of a server while half-open sessions come, and after them; in a process of its own."""
    done = python(MEMORY, senders, str(length), str(hellos), *limits, timeout=500)
    assert done.returncode == 0, done.stderr
    most, left, held = map(float, done.stdout.split())
    print(f"{held:.0f} half-open sessions: {most:.1f} MB, {left:.1f} MB after them")
    assert (most < 64, left < 10) == (True, True), (most, left)


glibc_gives_back = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or "asan" in os.environ.get("LD_PRELOAD", ""),
    reason="it is glibc's malloc that is asked to give memory back",
)


@pytest.mark.slow
@needs_proc
@glibc_gives_back
@pytest.mark.parametrize("senders", ["one network", "many"])
@pytest.mark.parametrize("length", [3_600, 9_000])
def test_memory_of_a_flood_is_bounded_and_given_back(senders: str, length: int) -> None:
    """With fragments that never become a message: as many as are kept of each, and large ones.
    A client of another network completes at once."""
    flooded(senders, length, 3_000)


@pytest.mark.long
@needs_proc
@glibc_gives_back
@pytest.mark.parametrize("senders", ["one address", "one network", "many"])
@pytest.mark.parametrize("length", [3_600, 9_000, 16_000])
def test_memory_of_a_long_flood_is_bounded_and_given_back(senders: str, length: int) -> None:
    """Twenty thousand."""
    flooded(senders, length, 20_000)
