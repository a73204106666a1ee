"""CookieListener on real sockets: what it answers, what it gives out, what it endures."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import select
import selectors
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest

from gnutls_cookie import (
    Arrival,
    CookieGate,
    CookieListener,
    DiscardReason,
    KeyRing,
    Prestate,
    Session,
    client_data,
)
from gnutls_cookie import listener as listener_module
from gnutls_cookie._ffi import lib
from gnutls_cookie.listener import send_each
from gnutls_cookie.reference import gate as reference
from gnutls_cookie.reference import wire
from tests.support.common import (
    ROOT,
    cookie_of,
    forking,
    gnutls_cli,
    hello_with,
    missing,
    openssl,
    python_in_silence,
    running,
    seeded,
    udp_socket,
)
from tests.support.listeners import (
    KEY,
    POLL,
    ListenerServer,
    address_of,
    client_of,
    cookie_for,
    listening,
    poll_until,
    second_hello,
    seen_as,
    verified,
)
from tests.support.peers import CERTS, SocketClient, certificate, psk

HOSTS = ["127.0.0.1", "::1"]
LINE = b"hello, cookie\n"
ALPN = ",".join(f"protocol-number-{number:03}" for number in range(40))
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="Linux' own")


@pytest.fixture
def listener() -> Iterator[CookieListener]:
    with listening() as made:
        yield made


@pytest.fixture
def client(listener: CookieListener) -> Iterator[socket.socket]:
    with client_of(listener) as sock:
        yield sock


def silent(sock: socket.socket) -> bool:
    """Whether nothing waits in a socket. What loopback sends is there when the call is over."""
    return not select.select([sock], [], [], 0)[0]


# --- the exchange ---------------------------------------------------------------------------------


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("seq", [0, 1, 200])
def test_reply_is_that_of_the_reference(host: str, seq: int) -> None:
    """44 bytes, made of the kernel's sockaddr, with both sequences of the hello."""
    with listening(host) as listener, client_of(listener) as client:
        hello = hello_with(seq=seq)
        client.send(hello)
        assert listener.poll(0) == []
        expected = reference.receive(hello, seen_as(client), KEY)
        assert isinstance(expected, reference.Challenge)
        assert client.recv(100) == expected.datagram
        assert silent(client)


@pytest.mark.parametrize("host", HOSTS)
def test_verified_client_arrives_with_address_datagram_and_prestate(host: str) -> None:
    """The address is as Python's socket gives it."""
    with listening(host) as listener, client_of(listener) as client:
        hello = second_hello(cookie_of(KEY, seen_as(client)), seq=3)
        client.send(hello)
        assert listener.poll(20) == [Arrival(client.getsockname(), hello, Prestate(3, 3, 2))]
        assert silent(client)


def test_dual_stack_sees_ipv4_clients_as_mapped() -> None:
    """One socket for both; client_data is the sockaddr_in6 that the kernel writes."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        try:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            sock.bind(("::", 0))
        except OSError as error:
            missing(f"no dual-stack socket: {error}")
        with CookieListener(sock, CookieGate(KEY)) as listener:
            for host in HOSTS:
                with client_of(listener, host) as client:
                    cookie = cookie_for(listener, client)
                    assert cookie == cookie_of(KEY, seen_as(client, socket.AF_INET6))
                    client.send(second_hello(cookie))
                    (arrival,) = listener.poll(20)
                    mapped = host if ":" in host else f"::ffff:{host}"
                    assert arrival.address == (mapped, client.getsockname()[1], 0, 0)
                    listener.admit(arrival.address)
                    client.send(b"data")
                    assert [found.datagram for found in listener.poll(20)] == [b"data"]
            assert listener.peers == 2


def test_ipv4_address_may_be_admitted_on_a_dual_stack_socket() -> None:
    """As client_data.sockaddr() maps it."""
    with listening("::1") as listener:
        listener.admit(("127.0.0.1", 5684))
        listener.forget(("::ffff:127.0.0.1", 5684, 0, 0))
        assert listener.peers == 0


def test_wrong_cookie_is_challenged(listener: CookieListener, client: socket.socket) -> None:
    """With the good one, which then verifies."""
    client.send(second_hello(bytes(16)))
    assert listener.poll(0) == []
    client.send(second_hello(client.recv(100)[-16:], seq=2))
    (arrival,) = listener.poll(20)
    assert arrival.prestate == Prestate(2, 2, 1)
    assert listener.gate.counters.presented == 1


def test_cookie_of_another_port_is_challenged(listener: CookieListener) -> None:
    """A cookie proves one address."""
    with client_of(listener) as one, client_of(listener) as other:
        cookie = cookie_for(listener, one)
        other.send(second_hello(cookie))
        assert listener.poll(0) == []
        assert other.recv(100)[-16:] != cookie


def test_rotation_reaches_a_listener_that_is_at_work() -> None:
    """The keys are asked for again: the previous one is still good, the one before is not."""
    ring = KeyRing(b"first")
    with (
        udp_socket() as sock,
        CookieListener(sock, CookieGate(ring)) as listener,
        client_of(listener) as client,
    ):
        hello = second_hello(cookie_for(listener, client))
        ring.rotate(b"second")
        client.send(hello)
        assert listener.poll(20)[0].prestate == Prestate(1, 1, 0)
        assert listener.gate.counters.verified_previous == 1
        ring.rotate(b"third")
        client.send(hello)
        assert listener.poll(0) == []
        assert client.recv(100)[-16:] == cookie_of(b"third", seen_as(client))


# --- admitted peers -------------------------------------------------------------------------------


def test_datagrams_of_an_admitted_peer_arrive(
    listener: CookieListener, client: socket.socket
) -> None:
    """Whatever they are, in order, up to the longest, empty ones too; others' do not."""
    listener.admit(client.getsockname())
    sent = [b"one", b"", bytes(60000), b"\x17\xfe\xfd" + bytes(65507 - 3), b"two"]
    found: list[Arrival] = []
    with client_of(listener) as stranger:
        for datagram in sent:  # one by one: a socket's buffer does not hold them all
            stranger.send(datagram)
            client.send(datagram)
            found += poll_until(listener, 1)
    assert [arrival.datagram for arrival in found] == sent
    assert {arrival.address for arrival in found} == {client.getsockname()}
    assert all(arrival.prestate is None for arrival in found)


def test_what_arrives_is_not_counted_as_discarded(
    listener: CookieListener, client: socket.socket
) -> None:
    """The gate counts what met silence."""
    listener.admit(client.getsockname())
    client.send(b"data")
    with client_of(listener) as stranger:
        stranger.send(b"data")
    assert len(poll_until(listener, 1)) == 1
    listener.poll(0)
    assert listener.gate.counters.discarded == {DiscardReason.RECORD_HEADER: 1}
    assert listener.counters.arrivals == 1
    assert listener.counters.received == 2


def test_hello_of_an_admitted_peer_goes_through_the_gate(
    listener: CookieListener, client: socket.socket
) -> None:
    """RFC 6347 4.2.8: the client may have lost its state; its old session is not disturbed yet."""
    listener.admit(client.getsockname())
    cookie = cookie_for(listener, client)
    client.send(second_hello(cookie))
    (arrival,) = listener.poll(20)
    assert arrival.prestate == Prestate(1, 1, 0)
    assert listener.peers == 1


def test_forgotten_peer_meets_silence(listener: CookieListener, client: socket.socket) -> None:
    """And may be admitted again."""
    address = client.getsockname()
    for _ in range(2):
        listener.admit(address)
        listener.admit(address)
        assert listener.peers == 1
        client.send(b"data")
        assert [arrival.datagram for arrival in listener.poll(20)] == [b"data"]
        listener.forget(address)
        listener.forget(address)
        assert listener.peers == 0
        client.send(b"data")
        assert listener.poll(0) == []


def test_verified_client_counts_as_admitted_until_the_next_poll(
    listener: CookieListener, client: socket.socket
) -> None:
    """What it sends behind its hello is not lost in the meantime; without admit() it is, then."""
    client.send(second_hello(cookie_for(listener, client)))
    client.send(b"behind")
    assert [arrival.datagram for arrival in poll_until(listener, 2)][1] == b"behind"
    client.send(b"too late")
    assert listener.poll(0) == []
    assert listener.peers == 0


def test_admitted_in_time_stays(listener: CookieListener, client: socket.socket) -> None:
    """admit() between two polls makes it last."""
    listener.admit(verified(listener, client).address)
    for _ in range(3):
        client.send(b"data")
        assert [arrival.datagram for arrival in listener.poll(20)] == [b"data"]


def test_verified_client_may_be_forgotten_at_once(
    listener: CookieListener, client: socket.socket
) -> None:
    """forget() before the next poll, and after it nothing is left; verified again, it counts."""
    listener.forget(verified(listener, client).address)
    listener.forget(verified(listener, client).address)
    client.send(b"data")
    assert listener.poll(0) == []
    assert listener.peers == 0


def test_fragments_in_front_of_the_first_are_passed_over(
    listener: CookieListener, client: socket.socket
) -> None:
    """The order counts: nothing was verified yet."""
    cookie = cookie_for(listener, client)
    fragments = wire.client_hello_fragments(
        2, cookie=cookie, session_id=bytes(32), cipher_suites=range(60), record_seq=1, message_seq=1
    )
    client.send(fragments[1])
    client.send(fragments[0])
    client.send(fragments[1])
    found = poll_until(listener, 2)
    assert [arrival.datagram for arrival in found] == fragments
    assert [arrival.prestate is None for arrival in found] == [False, True]
    assert listener.gate.counters.discarded == {DiscardReason.FRAGMENT_OFFSET: 1}


def test_admitted_peers_have_a_bound() -> None:
    """A clear error beyond; room again after forget()."""
    with listening(max_peers=2) as listener:
        listener.admit(("127.0.0.1", 1))
        listener.admit(("127.0.0.1", 2))
        listener.admit(("127.0.0.1", 2))
        with pytest.raises(OverflowError, match="max_peers"):
            listener.admit(("127.0.0.1", 3))
        listener.forget(("127.0.0.1", 1))
        listener.admit(("127.0.0.1", 3))
        assert listener.peers == 2


def test_peers_are_told_apart_by_all_of_their_address() -> None:
    """ip, port and scope_id; not by flowinfo, which may change from datagram to datagram."""
    with listening("::1") as listener:
        addresses = [
            ("fe80::1", 1, 0, 1),
            ("fe80::1", 1, 0, 2),
            ("fe80::1", 2, 0, 1),
            ("fe80::2", 1, 0, 1),
            ("::127.0.0.1", 1, 0, 0),
        ]
        for address in [*addresses, ("fe80::1", 1, 7, 1)]:
            listener.admit(address)
        assert listener.peers == len(addresses)
        listener.forget(("fe80::1", 1, 9, 1))
        assert listener.peers == len(addresses) - 1


def test_many_peers_come_and_go() -> None:
    """Each is found again, and none is left."""
    with listening() as listener, client_of(listener) as client:
        addresses = [(f"127.9.{n >> 8}.{n & 255}", 1024 + n) for n in range(3000)]
        for address in addresses:
            listener.admit(address)
        listener.admit(client.getsockname())
        assert listener.peers == 3001
        client.send(b"data")
        assert len(listener.poll(20)) == 1
        for address in addresses[::2] + addresses[1::2]:
            listener.forget(address)
        assert listener.peers == 1


def test_threads_may_admit_and_forget_while_another_polls(listener: CookieListener) -> None:
    """In the end there is what the last calls said."""
    stop = threading.Event()

    def turn(number: int) -> None:
        while not stop.is_set():
            for port in range(1, 100):
                listener.admit((f"127.0.{number}.1", port))
            for port in range(1, 100):
                listener.forget((f"127.0.{number}.1", port))

    threads = [threading.Thread(target=turn, args=(number,)) for number in range(4)]
    with client_of(listener) as client:
        for thread in threads:
            thread.start()
        for _ in range(30):
            listener.forget(verified(listener, client).address)
        stop.set()
        for thread in threads:
            thread.join()
    assert listener.peers == 0


# --- junk -----------------------------------------------------------------------------------------

HELLO = wire.client_hello()
JUNK: dict[str, tuple[DiscardReason, bytes]] = {
    "0 bytes": (DiscardReason.RECORD_HEADER, b""),
    "1 byte": (DiscardReason.RECORD_HEADER, HELLO[:1]),
    "12 bytes": (DiscardReason.RECORD_HEADER, HELLO[:12]),
    "13 bytes": (DiscardReason.RECORD_LENGTH, HELLO[:13]),
    "24 bytes": (DiscardReason.RECORD_LENGTH, HELLO[:24]),
    "25 bytes": (DiscardReason.RECORD_LENGTH, HELLO[:25]),
    **{f"{n} bytes": (DiscardReason.RECORD_LENGTH, HELLO[:n]) for n in range(59, 63)},
    "62 zero bytes": (DiscardReason.CONTENT_TYPE, bytes(62)),
    "random bytes": (DiscardReason.CONTENT_TYPE, bytes([0xA5]) + os.urandom(200)),
    "STUN": (DiscardReason.CONTENT_TYPE, b"\x00\x01\x00\x00\x21\x12\xa4\x42" + bytes(12)),
    "application data": (DiscardReason.CONTENT_TYPE, b"\x17\xfe\xfd\0\x01" + bytes(60)),
    "ServerHello": (DiscardReason.HANDSHAKE_TYPE, HELLO[:13] + b"\x02" + HELLO[14:]),
    "epoch 1": (DiscardReason.EPOCH, HELLO[:4] + b"\x01" + HELLO[5:]),
    "record too long": (DiscardReason.RECORD_LENGTH, HELLO[:12] + b"\xff" + HELLO[13:]),
    "fragment too short": (DiscardReason.FRAGMENT_LENGTH, HELLO[:24] + b"\x01" + HELLO[25:]),
    "two records": (DiscardReason.TRAILING_DATA, HELLO + HELLO),
    "longest": (DiscardReason.CONTENT_TYPE, b"\xff" * 65507),
}


@pytest.mark.parametrize("name", JUNK)
def test_junk_meets_silence_and_the_next_client_is_served(
    name: str, listener: CookieListener, client: socket.socket
) -> None:
    """The reason is counted, nothing is sent, nothing stays behind."""
    reason, datagram = JUNK[name]
    client.send(datagram)
    assert listener.poll(0) == []
    assert silent(client)
    assert listener.gate.counters.discarded == {reason: 1}
    assert verified(listener, client).address == client.getsockname()


def test_all_junk_in_one_batch(listener: CookieListener, client: socket.socket) -> None:
    """A hello in the midst of it is answered, and alone."""
    for number, (_, datagram) in enumerate(JUNK.values()):
        if number == 5:
            client.send(HELLO)
        client.send(datagram)
    listener.poll(0)
    assert len(client.recv(100)) == 44
    assert silent(client)
    assert sum(listener.gate.counters.discarded.values()) == len(JUNK)
    assert listener.counters.received == len(JUNK) + 1


# --- limits of one poll ---------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 2, 3, 64, 1024])
def test_every_batch_size_answers_each_hello_once(batch: int) -> None:
    """Each client gets the cookie of its own address."""
    with listening(batch=batch) as listener:
        clients = [client_of(listener) for _ in range(10)]
        entered = [manager.__enter__() for manager in clients]
        try:
            for client in entered:
                client.send(HELLO)
            while listener.counters.replies < len(entered):
                assert listener.poll(0) == []
            for client in entered:
                assert client.recv(100)[-16:] == cookie_of(KEY, seen_as(client))
                assert silent(client)
        finally:
            for manager in clients:
                manager.__exit__(None, None, None)


@pytest.mark.parametrize("batch", [2, 64])
def test_limit_leaves_the_rest_in_the_socket(batch: int) -> None:
    """No more than that at once, nothing lost, the order kept."""
    with listening(batch=batch) as listener, client_of(listener) as client:
        listener.admit(client.getsockname())
        for number in range(10):
            client.send(bytes([number]))
        sizes = []
        found: list[Arrival] = []
        while len(found) < 10:
            more = listener.poll(20, limit=3)
            sizes.append(len(more))
            found += more
        assert max(sizes) <= 3
        assert [arrival.datagram[0] for arrival in found] == list(range(10))


def test_one_poll_gives_more_than_a_batch(client: socket.socket, listener: CookieListener) -> None:
    """As long as whole batches of arrivals wait."""
    listener.admit(client.getsockname())
    for number in range(150):
        client.send(bytes([number]))
    found = listener.poll(20)
    assert [arrival.datagram[0] for arrival in found] == list(range(150))


def test_timeout_is_kept(listener: CookieListener) -> None:
    """Not before it is over; 0 does not wait."""
    assert listener.poll(0) == []
    start = time.monotonic()
    assert listener.poll(0.12) == []
    assert time.monotonic() - start >= 0.12


@pytest.mark.parametrize("timeout", [None, math.inf, 1e300, 10**400])
def test_poll_without_timeout_waits_for_an_arrival(
    listener: CookieListener, client: socket.socket, timeout: float | None
) -> None:
    """Nor with one that no clock reaches. Clients that are not verified do not end it."""
    hello = second_hello(cookie_of(KEY, seen_as(client)))

    def send() -> None:
        for datagram in (HELLO, b"junk", hello):
            time.sleep(0.07)
            client.send(datagram)

    thread = threading.Thread(target=send)
    thread.start()
    (arrival,) = listener.poll(timeout)
    thread.join()
    assert arrival.datagram == hello


def test_buffers_do_not_leak_into_later_arrivals(
    listener: CookieListener, client: socket.socket
) -> None:
    """What was given out stays as it was."""
    listener.admit(client.getsockname())
    client.send(b"a" * 100)
    (first,) = listener.poll(20)
    client.send(b"b" * 50)
    (second,) = listener.poll(20)
    assert (first.datagram, second.datagram) == (b"a" * 100, b"b" * 50)


def test_datagram_longer_than_a_buffer_is_dropped_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not judged by its first half. No UDP datagram is longer than the real buffers."""
    monkeypatch.setattr(listener_module, "_DATAGRAM_CAPACITY", 200)
    with listening() as listener, client_of(listener) as client:
        long_hello = wire.client_hello(cipher_suites=range(100))
        client.send(long_hello)
        client.send(bytes(201))
        client.send(HELLO)
        listener.poll(0)
        assert client.recv(100)[-16:] == cookie_of(KEY, seen_as(client))
        assert silent(client)
        counters = listener.counters
        assert (counters.received, counters.truncated, counters.replies) == (3, 2, 1)
        assert listener.gate.counters.discarded == {}


# --- errors ---------------------------------------------------------------------------------------


@linux_only
def test_socket_that_cannot_send_any_more(listener: CookieListener, client: socket.socket) -> None:
    """EPIPE: each reply is lost and counted; what needs no reply arrives."""
    with pytest.raises(OSError):  # it takes effect, and says that nobody is connected  # noqa: PT011
        listener._sock.shutdown(socket.SHUT_WR)
    for _ in range(3):
        client.send(HELLO)
    client.send(second_hello(cookie_of(KEY, seen_as(client))))
    assert len(listener.poll(20)) == 1
    assert listener.counters.reply_errors == 3
    assert listener.counters.replies == 0


@linux_only
@pytest.mark.parametrize("bad_at", [{0}, {2}, {4}, {1, 2}, {0, 1, 2, 3, 4}])
def test_one_bad_reply_does_not_cost_the_others(listener: CookieListener, bad_at: set[int]) -> None:
    """No datagram can be sent to port 0 (EINVAL); the other hellos of the batch are answered."""
    here = address_of(listener)[1]
    try:
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP)
    except PermissionError:
        pytest.skip("a datagram from port 0 takes a raw socket, which is for root")
    with raw, client_of(listener) as client:
        for number in range(5):
            if number in bad_at:
                header = struct.pack("!HHHH", 0, here, 8 + len(HELLO), 0)
                raw.sendto(header + HELLO, ("127.0.0.1", 0))
            else:
                client.send(HELLO)
        while listener.counters.received < 5:
            assert listener.poll(0.1) == []
        for _ in range(5 - len(bad_at)):
            assert len(client.recv(100)) == 44
        assert silent(client)
        assert listener.counters.reply_errors == len(bad_at)
        assert listener.counters.replies == 5 - len(bad_at)


@linux_only
def test_icmp_errors_are_counted_and_taken_from_the_socket() -> None:
    """With IP_RECVERR: the client is gone. The socket does not stay readable for event loops."""
    with listening() as listener:
        listener._sock.setsockopt(socket.IPPROTO_IP, 11, 1)  # IP_RECVERR
        with client_of(listener) as client:
            for _ in range(3):
                client.send(HELLO)
        listener.poll(0)
        assert listener.counters.replies >= 1
        for _ in range(4):
            assert listener.poll(0) == []
        assert listener.counters.receive_errors > 0
        poller = select.poll()
        poller.register(listener.fileno(), select.POLLIN)
        assert poller.poll(0) == []
        with client_of(listener) as client:
            assert verified(listener, client).prestate == Prestate(1, 1, 0)


def test_closed_socket_is_an_oserror(listener: CookieListener) -> None:
    """It does not wait forever."""
    listener._sock.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        listener.poll()
    assert listener.fileno() == -1


def test_socket_closed_while_another_thread_polls(listener: CookieListener) -> None:
    """The thread comes back with the error."""
    raised: list[BaseException] = []

    def poll() -> None:
        try:
            listener.poll(20)
        except OSError as error:
            raised.append(error)

    thread = threading.Thread(target=poll)
    thread.start()
    time.sleep(0.05)
    listener._sock.close()
    thread.join(20)
    assert [type(error) for error in raised] == [OSError]


@linux_only
def test_socket_shut_down_is_an_oserror(listener: CookieListener) -> None:
    """It would be readable forever, and never have a datagram."""
    with pytest.raises(OSError):  # noqa: PT011
        listener._sock.shutdown(socket.SHUT_RDWR)
    with pytest.raises(OSError, match="shutdown"):
        listener.poll()


def test_error_of_the_socket_hides_no_arrival(client: socket.socket) -> None:
    """What was collected before it is given out; the error comes again, with the next poll()."""
    with listening(batch=1) as listener:
        client.connect(address_of(listener))
        verified(listener, client)
        listener.admit(client.getsockname())
        for number in range(2):
            client.send(b"%d" % number)
        with (
            contextlib.suppress(OSError),  # ENOTCONN, and yet it is done
            socket.socket(fileno=socket.dup(listener.fileno())) as sock,
        ):
            sock.shutdown(socket.SHUT_RDWR)
        came = listener.poll(20)
        assert [arrival.datagram for arrival in came] == [b"0", b"1"]
        with pytest.raises(OSError, match=r"."):
            listener.poll(20)


@linux_only
def test_poll_without_waiting_leaves_what_is_too_much(client: socket.socket) -> None:
    """An event loop has others to serve: 5 ms are promised. Datagrams are counted, not time: 20,000
    with a wrong cookie each, for which an HMAC is made and a reply is sent, take far longer."""
    number = 20_000
    with listening() as listener:
        with socket.socket(fileno=socket.dup(listener.fileno())) as sock:
            name, buffer = client_data.sockaddr(sock.getsockname()), number * 2048
            with contextlib.suppress(OSError):  # not for everybody, and then there is a limit
                sock.setsockopt(socket.SOL_SOCKET, 33, buffer)  # SO_RCVBUFFORCE
            if sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) < buffer:
                pytest.skip("needs root, for a socket that holds so much")
        wrong = second_hello(b"not this cookie!")
        for _ in range(number // 1000):
            send_each(client, [wrong] * 1000, [name] * 1000)
        listener.poll(0)
        first = listener.counters.received
        listener.poll(0)
        assert 0 < first < listener.counters.received


@pytest.mark.parametrize(
    ("arguments", "name", "text"),
    [
        ((socket.AF_INET, socket.SOCK_STREAM), ("127.0.0.1", 0), "must be a UDP socket"),
        ((socket.AF_UNIX, socket.SOCK_DGRAM), None, "must be a UDP socket"),
        ((socket.AF_INET, socket.SOCK_DGRAM), None, "must be bound"),
    ],
    ids=["stream", "unix", "unbound"],
)
def test_other_sockets_are_refused(arguments: tuple[int, int], name: Any, text: str) -> None:
    """A listener needs a bound UDP socket."""
    with socket.socket(*arguments) as sock:
        if name is not None:
            sock.bind(name)
        with pytest.raises(ValueError, match=f"sock {text}"):
            CookieListener(sock, CookieGate(KEY))


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda sock, gate: CookieListener(7, gate), TypeError),  # type: ignore[arg-type]
        (lambda sock, gate: CookieListener(sock, KEY), TypeError),  # type: ignore[arg-type]
        (lambda sock, gate: CookieListener(sock, gate, batch=0), ValueError),
        (lambda sock, gate: CookieListener(sock, gate, batch=1025), ValueError),
        (lambda sock, gate: CookieListener(sock, gate, batch=True), TypeError),
        (lambda sock, gate: CookieListener(sock, gate, batch=2.0), TypeError),  # type: ignore[arg-type]
        (lambda sock, gate: CookieListener(sock, gate, max_peers=0), ValueError),
        (lambda sock, gate: CookieListener(sock, gate, max_peers=2**32), ValueError),
    ],
)
def test_arguments_of_the_constructor_are_checked(
    make: Callable[[Any, Any], object], error: type[Exception]
) -> None:
    """By name, before anything is allocated."""
    with udp_socket() as sock, pytest.raises(error, match=r"sock|gate|batch|max_peers"):
        make(sock, CookieGate(KEY))


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((-1,), ValueError),
        ((float("nan"),), ValueError),
        (("1",), TypeError),
        ((True,), TypeError),
        ((0, 0), ValueError),
        ((0, -1), ValueError),
        ((-(10**5000),), ValueError),
        ((0, 1.0), TypeError),
        ((0, None), TypeError),
    ],
)
def test_arguments_of_poll_are_checked(
    listener: CookieListener, arguments: tuple[Any, ...], error: type[Exception]
) -> None:
    """And a wrong one leaves the listener usable."""
    with pytest.raises(error, match=r"timeout|limit"):
        listener.poll(*arguments)
    assert listener.poll(0) == []


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize(
    ("address", "error"),
    [
        (("localhost", 1), ValueError),
        (("127.0.0.1", -1), OverflowError),
        (("127.0.0.1", 65536), OverflowError),
        (("127.0.0.1", "1"), TypeError),
        ("127.0.0.1", TypeError),
        (None, TypeError),
    ],
)
def test_addresses_are_checked(host: str, address: Any, error: type[Exception]) -> None:
    """admit() and forget() resolve nothing and take nothing but addresses."""
    with listening(host) as listener:
        for function in (listener.admit, listener.forget):
            with pytest.raises(error):
                function(address)
        assert listener.peers == 0


def test_ipv6_address_is_none_of_an_ipv4_socket(listener: CookieListener) -> None:
    """Such a peer can never send anything there."""
    with pytest.raises(ValueError, match="IPv4"):
        listener.admit(("::1", 1, 0, 0))


# --- life -----------------------------------------------------------------------------------------


def polled(listener: CookieListener) -> tuple[threading.Thread, list[list[Arrival]]]:
    """A thread that is in a poll() now, and what that has given."""
    found: list[list[Arrival]] = []

    def poll() -> None:
        while not found:
            with contextlib.suppress(RuntimeError):  # whoever looks is in one
                found.append(listener.poll(20))

    thread = threading.Thread(target=poll)
    thread.start()
    deadline = time.monotonic() + 20
    with contextlib.suppress(RuntimeError):
        while time.monotonic() < deadline:
            listener.poll(0)
    time.sleep(0.1)  # it is under way, but may not be in C yet, where it waits
    return thread, found


def test_second_poll_at_once_is_refused(listener: CookieListener) -> None:
    """The buffers are one poll's."""
    thread, _ = polled(listener)
    with pytest.raises(RuntimeError, match="under way"):
        listener.poll(0)
    with client_of(listener) as client:
        client.send(second_hello(cookie_of(KEY, seen_as(client))))
        thread.join()
    assert listener.poll(0) == []


class Raised(Exception):
    """What a signal handler of these tests raises."""


def test_raising_handler_leaves_no_poll_under_way(
    listener: CookieListener, client: socket.socket
) -> None:
    """3,000 at random moments, while a client sends: the next poll() is never refused."""
    draw = seeded()

    def handler(number: int, frame: object) -> None:
        raise Raised

    before = signal.signal(signal.SIGALRM, handler)
    try:
        for turn in range(3000):
            client.send(b"junk" if turn % 2 else wire.client_hello())
            try:
                signal.setitimer(signal.ITIMER_REAL, draw.uniform(10e-6, 300e-6))
                while True:
                    listener.poll(timeout=0 if turn % 3 else 0.001)
            except Raised:
                pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert verified(listener, client).prestate is not None


def test_poll_within_a_poll_of_its_own_thread_is_refused(listener: CookieListener) -> None:
    """A signal handler that polls what it interrupted gets the error, and no wait without end."""
    said: list[str] = []

    def handler(number: int, frame: object) -> None:
        with pytest.raises(RuntimeError, match="under way") as caught:
            listener.poll(0)
        said.append(str(caught.value))

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        assert listener.poll(0.3) == []
    finally:
        signal.signal(signal.SIGALRM, before)
    assert len(said) == 1
    assert listener.poll(0) == []


FORKS = """
import os, signal, socket, threading, time
from gnutls_cookie import CookieGate, CookieListener
from gnutls_cookie.reference import wire

sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("127.0.0.1", 0))
listener = CookieListener(sock, CookieGate(b"k" * 16))
listener.admit(("127.0.0.9", 9))
stop = threading.Event()
def poll():
    while not stop.is_set():
        listener.poll(timeout=0.05)
def flood():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        while not stop.is_set():
            client.sendto(b"x" * 20, sock.getsockname())
def change():
    while not stop.is_set():
        listener.admit(("127.0.0.8", 8))
        listener.forget(("127.0.0.8", 8))
threads = [threading.Thread(target=work) for work in (poll, flood, change)]
for thread in threads:
    thread.start()
time.sleep(0.1)
for turn in range(60):
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        status = 1
        try:
            before = listener.peers
            listener.admit(("127.0.0.7", 7))
            listener.forget(("127.0.0.9", 9))
            assert listener.peers == before
            listener.poll(timeout=0)
            listener.close()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0, turn
stop.set()
for thread in threads:
    thread.join()
print("done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_child_of_a_fork_beside_a_poll_may_use_its_listener() -> None:
    """Neither its peers nor poll() are held by threads that are not there."""
    assert python_in_silence(FORKS, env=forking(), dev=False, timeout=120) == "done\n"


def test_close_ends_a_poll_of_another_thread(listener: CookieListener) -> None:
    """It gives nothing; the next one is an error."""
    thread, found = polled(listener)
    listener.close()
    thread.join(20)
    assert found == [[]]


def test_closed_listener_refuses_and_leaves_the_socket_open(listener: CookieListener) -> None:
    """The socket is its owner's."""
    listener.close()
    listener.close()
    assert listener.closed
    assert listener.fileno() >= 0
    for use in (
        lambda: listener.poll(0),
        lambda: listener.admit(("127.0.0.1", 1)),
        lambda: listener.forget(("127.0.0.1", 1)),
        lambda: listener.peers,
        lambda: listener.counters,
    ):
        with pytest.raises(ValueError, match="closed"):
            use()
    assert "closed" in repr(listener)


def test_nothing_is_set_on_the_socket() -> None:
    """A blocking socket stays one, and does not make poll() block."""
    with udp_socket() as sock, CookieListener(sock, CookieGate(KEY)) as listener:
        sock.settimeout(None)
        assert listener.poll(0) == []
        assert listener.poll(0.01) == []
        assert os.get_blocking(sock.fileno())
        sock.settimeout(0)
        assert listener.poll(0.01) == []
        assert not os.get_blocking(sock.fileno())


def test_socket_from_a_descriptor() -> None:
    """As with systemd's socket activation: a number, and nothing else."""
    with udp_socket() as original:
        number = os.dup(original.fileno())
    with socket.socket(fileno=number) as sock, CookieListener(sock, CookieGate(KEY)) as listener:
        assert listener.fileno() == number
        with client_of(listener) as client:
            verified(listener, client)


@pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="no SO_REUSEPORT")
def test_pair_on_one_port_with_one_key() -> None:
    """SO_REUSEPORT: the kernel gives each client to one of them; one's cookies are the other's."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as two,
    ):
        for sock in (one, two):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(("127.0.0.1", 0 if sock is one else one.getsockname()[1]))
        gate = CookieGate(KEY)
        with CookieListener(one, gate) as first, CookieListener(two, gate) as second:
            for _ in range(20):
                with client_of(first) as client:
                    client.send(HELLO)
                    assert first.poll(0) + second.poll(0) == []
                    client.send(second_hello(client.recv(100)[-16:]))
                    (arrival,) = first.poll(0) + second.poll(0)
                    assert arrival.address == client.getsockname()
            assert gate.counters.verified == 20
            assert first.counters.received + second.counters.received == 40


def test_asyncio_reader(listener: CookieListener, client: socket.socket) -> None:
    """poll(timeout=0) whenever the loop says that fileno() is readable."""
    found: list[Arrival] = []

    async def exchange() -> None:
        loop = asyncio.get_running_loop()
        arrived = asyncio.Event()

        def readable() -> None:
            found.extend(listener.poll(timeout=0))
            if found:
                arrived.set()

        loop.add_reader(listener.fileno(), readable)
        client.setblocking(False)
        await loop.sock_sendall(client, HELLO)
        reply = await asyncio.wait_for(loop.sock_recv(client, 100), 20)
        await loop.sock_sendall(client, second_hello(reply[-16:]))
        await asyncio.wait_for(arrived.wait(), 20)
        loop.remove_reader(listener.fileno())

    asyncio.run(exchange())
    assert [arrival.prestate for arrival in found] == [Prestate(1, 1, 0)]


def test_other_threads_run_during_poll(listener: CookieListener) -> None:
    """The GIL is released."""
    counted = 0
    stop = threading.Event()

    def poll() -> None:
        listener.poll(0.3)
        stop.set()

    thread = threading.Thread(target=poll)
    thread.start()
    while not stop.is_set():
        counted += 1
        time.sleep(0.001)
    thread.join()
    assert counted > 10


def test_arrival_is_frozen_and_slotted() -> None:
    """Made for match."""
    match Arrival(("127.0.0.1", 1), b"data", None):
        case Arrival(address=(host, port), datagram=datagram, prestate=None) as arrival:
            assert (host, port, datagram) == ("127.0.0.1", 1, b"data")
    with pytest.raises(FrozenInstanceError):
        arrival.datagram = b""  # type: ignore[misc]
    assert not hasattr(arrival, "__dict__")


def test_repr_shows_no_key(listener: CookieListener) -> None:
    """Where it listens, and for how many."""
    assert repr(listener).startswith(f"<CookieListener on {listener.fileno()}, 0 peers")
    assert KEY.decode() not in repr(listener)


# --- signals --------------------------------------------------------------------------------------


def interrupt(between: Callable[[int], None]) -> tuple[float, int]:
    """Ctrl-C during poll(): seconds until it was answered, and datagrams received by then."""
    with running([sys.executable, "-c", POLL]) as child:
        assert child.stdout is not None
        between(int(child.stdout.readline()))
        sent = time.monotonic()
        child.send_signal(signal.SIGINT)
        answered, received = child.stdout.readline().split()
        assert child.wait(20) == 0
    print(f"Ctrl-C was answered after {(float(answered) - sent) * 1000:.1f} ms")
    return float(answered) - sent, int(received)


def test_ctrl_c_ends_an_idle_poll() -> None:
    """KeyboardInterrupt comes out of poll(), at once by human measure."""
    seconds, received = interrupt(lambda port: time.sleep(0.2))
    assert received == 0
    assert seconds < 5


def test_signal_handler_that_does_not_raise_leaves_poll_going(
    listener: CookieListener, client: socket.socket
) -> None:
    """poll() goes on (PEP 475), and the handler ran before it ended."""
    ran: list[int] = []
    hello = second_hello(cookie_of(KEY, seen_as(client)))

    def handler(*_: object) -> None:
        ran.append(1)
        if len(ran) == 3:
            client.send(hello)
            signal.setitimer(signal.ITIMER_REAL, 0)

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
        (arrival,) = listener.poll(20)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert arrival.datagram == hello
    assert len(ran) == 3


# --- real clients ---------------------------------------------------------------------------------


def serve(
    listener: CookieListener, server: ListenerServer, command: list[str], env: dict[str, str] | None
) -> bytes:
    """Run a client until its line came back; gives what it said."""
    with running(command, env) as child, selectors.DefaultSelector() as selector:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(LINE)
        child.stdin.flush()
        selector.register(child.stdout, selectors.EVENT_READ)
        said = b""
        deadline = time.monotonic() + 20
        while said.count(LINE) == 0 or server.served == 0:
            assert time.monotonic() < deadline, said.decode()
            server.step(0.02)
            for _ in selector.select(0):
                chunk = os.read(child.stdout.fileno(), 65536)
                said += chunk
                if not chunk:
                    selector.unregister(child.stdout)
    return said


def openssl_command(port: int, *more: str) -> list[str]:
    return [
        openssl(), "s_client", "-dtls1_2", "-connect", f"127.0.0.1:{port}",
        "-CAfile", str(CERTS / "localhost.pem"), *more,
    ]  # fmt: skip


def gnutls_command(port: int) -> list[str]:
    return [
        gnutls_cli(), "--udp", "--port", str(port), "--x509cafile", str(CERTS / "localhost.pem"),
        "--sni-hostname", "localhost", "--verify-hostname", "localhost", "127.0.0.1",
    ]  # fmt: skip


@pytest.mark.peer
@pytest.mark.parametrize("client", [openssl_command, gnutls_command])
def test_third_party_client_is_served(
    listener: CookieListener, client: Callable[[int], list[str]]
) -> None:
    """One HelloVerifyRequest, one verified hello, a session from the prestate, an echo."""
    server = ListenerServer(listener, certificate())
    serve(listener, server, client(address_of(listener)[1]), None)
    assert listener.counters.replies == 1
    assert listener.gate.counters.verified == 1
    assert (server.served, server.failed) == (1, 0)


@pytest.mark.peer
@pytest.mark.parametrize("batch", [1, 2, 64])
def test_hello_in_fragments_gets_one_reply_and_is_served(batch: int) -> None:
    """openssl -mtu 256, a long ALPN list: no fragment is lost, only the first is answered."""
    with listening(batch=batch) as listener:
        server = ListenerServer(listener, certificate())
        command = openssl_command(address_of(listener)[1], "-mtu", "256", "-alpn", ALPN)
        serve(listener, server, command, None)
        assert listener.counters.replies == 1
        assert listener.gate.counters.verified == 1
        assert server.arrivals[1] >= 3
        assert listener.gate.counters.discarded[DiscardReason.FRAGMENT_OFFSET] >= 3


@pytest.mark.parametrize("host", HOSTS)
def test_own_clients_are_served_many_at_once(host: str) -> None:
    """20 sessions on one socket, each with its own data."""
    with listening(host) as listener:
        server = ListenerServer(listener, psk())
        managers = [client_of(listener) for _ in range(20)]
        clients = [
            SocketClient(manager.__enter__(), Session("client", psk())) for manager in managers
        ]
        try:
            deadline = time.monotonic() + 20
            sent = False
            while not all(client.received for client in clients):
                assert time.monotonic() < deadline
                server.step(0)
                for client in clients:
                    client.go_on()
                    while not silent(client.sock):
                        client.readable()
                if not sent and all(client.session.established for client in clients):
                    sent = True
                    for number, client in enumerate(clients):
                        client.session.send(b"client %d" % number)
            for number, client in enumerate(clients):
                assert client.received == [b"client %d" % number]
            assert listener.peers == 20
        finally:
            for manager in managers:
                manager.__exit__(None, None, None)


# --- the other loop -------------------------------------------------------------------------------


def test_loop_is_the_one_of_the_build_switch() -> None:
    """Batches on Linux and FreeBSD, unless the build was told otherwise."""
    batches = sys.platform.startswith(("linux", "freebsd"))
    wanted = os.environ.get("GNUTLS_COOKIE_PORTABLE_LOOP") == "1" or not batches
    assert bool(lib.GCOOKIE_UDP_PORTABLE) == wanted


@pytest.mark.slow
@pytest.mark.skipif(
    os.environ.get("GNUTLS_COOKIE_PORTABLE_LOOP") == "1", reason="this is that build"
)
def test_portable_loop_passes_the_same_tests(tmp_path: Path) -> None:
    """One datagram a system call, as on systems without recvmmsg: built apart, tested alike."""
    ignored = shutil.ignore_patterns("__pycache__", "*.so", "*.o", "_ffi.c")
    for folder in ("gnutls_cookie", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    for name in ("build_ffi.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    env = {**os.environ, "GNUTLS_COOKIE_PORTABLE_LOOP": "1", "PYTHONPATH": str(tmp_path)}
    env["CFLAGS"] = f"{env.get('CFLAGS', '')} -O1"  # it runs once
    pytest_options = ["-q", "-p", "no:cacheprovider", "tests/gate/test_listener.py"]
    for command in (["build_ffi.py"], ["-m", "pytest", *pytest_options]):
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
