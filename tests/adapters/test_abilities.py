"""What aio and blocking can do alike, with sockets of this machine."""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import queue
import re
import socket
import struct
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from gnutls_cookie import (
    CertificateVerificationError,
    CloseReason,
    ConnectionClosedError,
    FatalAlertError,
    GnuTLSError,
    KeyRing,
    LargePacketError,
    PSKCredentials,
    TimedOutError,
    aio,
    blocking,
)
from gnutls_cookie.endpoint import Endpoint
from tests.support.adapters import Blocking
from tests.support.adapters import both as both
from tests.support.common import free_udp_port, udp_socket
from tests.support.peers import certificate, psk, trusting
from tests.support.servers import SECONDS, client_options, needs_proc, open_files


def until(condition: Callable[[], bool]) -> None:
    """Wait until it holds; bounded."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def too_large(source: tuple[str, int], target: tuple[str, int]) -> None:
    """Say to `source` that a datagram of its to `target` was too large (RFC 792, RFC 1191)."""
    addresses = socket.inet_aton(source[0]) + socket.inet_aton(target[0])
    datagram = struct.pack("!BBHIBBH", 0x45, 0, 1428, 0x4000, 64, socket.IPPROTO_UDP, 0) + addresses
    datagram += struct.pack("!HHHH", source[1], target[1], 1408, 0)
    message = struct.pack("!BBHHH", 3, 4, 0, 0, 1400) + datagram
    total = sum(struct.unpack(f"!{len(message) // 2}H", message))
    check = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
        raw.sendto(message[:2] + struct.pack("!H", check) + message[4:], (source[0], 0))


# --- the ordinary course --------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("kind", ["PSK", "X.509"])
def test_echo_over_each_family(both: Blocking, host: str, kind: str) -> None:
    """Both sides know the other's address and what was agreed on."""
    seen: queue.Queue[Any] = queue.Queue()
    with udp_socket(host):  # or it skips
        pass
    with (
        both.serving(host, seen=seen.put) as server,
        both.client(*server.address, **client_options(kind)) as client,
    ):
        there = seen.get(timeout=SECONDS)
        assert both.echoes(client)
        assert client.address == server.address
        assert (there.address[0], client.session.version) == (host, "DTLS1.2")
        assert there.session.psk_identity == ("sensor-1" if kind == "PSK" else None)


def test_echo_for_several_clients_at_once(both: Blocking) -> None:
    """Each has its own connection, handler and messages."""
    good: list[bool] = []

    def one(number: int) -> None:
        kind = ("PSK", "X.509")[number % 2]
        with both.client(*server.address, **client_options(kind)) as client:
            for turn in range(10):
                good.append(both.echoes(client, b"%d of %d" % (turn, number)))

    with both.serving() as server:
        threads = [threading.Thread(target=one, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS)
        assert good == [True] * 80
        assert server.counters.server.connected == 8
        assert server.counters.gate.challenged >= 8


def test_the_longest_timers_can_be_waited_for(both: Blocking) -> None:
    """In poll(2) a time is an int of milliseconds: 24 days."""
    longest = {"retransmit_timeout": 4e6, "handshake_timeout": 4e6, "idle_timeout": 1e300}
    with both.serving(**longest) as server, both.client(*server.address, **longest) as client:
        assert both.echoes(client)


def test_messages_keep_their_bounds(both: Blocking) -> None:
    """From 1 byte to data_mtu; a longer one is refused, and the connection lives."""
    with both.serving() as server, both.client(*server.address) as client:
        assert client.data_mtu == client.session.data_mtu
        for size in (1, 100, client.data_mtu):
            assert both.echoes(client, bytes(size))
        with pytest.raises(LargePacketError):
            both.send(client, bytes(client.data_mtu + 1))
        assert both.echoes(client)


# --- a server -------------------------------------------------------------------------------------


def test_server_tells_its_sockets_and_counters(both: Blocking) -> None:
    """While it runs and after."""
    with both.serving() as server:
        (sock,) = server.sockets
        assert server.address == sock.getsockname()
        assert repr(server) == f"<DTLSServer on {server.address}, 0 sessions>"
        assert server.is_serving()
        with both.client(*server.address) as client:
            assert both.echoes(client)
            assert server.counters.server.sessions == 1
            assert server.counters.gate.verified == server.counters.server.connected == 1
            assert server.counters.as_dict()["server"]["messages_received"] == 1
    assert not server.is_serving()
    assert sock.fileno() == -1
    assert repr(server) == "<DTLSServer closed>"
    assert server.counters.server.sessions == 0


def test_server_serves_all_addresses_of_a_name(
    both: Blocking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By one port; the counters are sums."""
    resolve = socket.getaddrinfo

    def several(host: Any, *more: Any, **options: Any) -> list[Any]:
        names = ["127.0.0.2", "127.0.0.3"] if host == "two.test" else [host]
        return [one for name in names for one in resolve(name, *more, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", several)
    with both.serving("two.test") as server:
        assert [one.getsockname()[0] for one in server.sockets] == ["127.0.0.2", "127.0.0.3"]
        port = server.address[1]
        for host in ("127.0.0.2", "127.0.0.3"):
            with both.client(host, port) as client:
                assert client.address == (host, port)
                assert both.echoes(client)
        assert server.counters.server.connected == 2
        assert server.counters.listener.replies == 2


def test_socket_that_fails_closes_the_whole_server(
    both: Blocking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients of its other sockets hear a goodbye."""
    resolve, turn = socket.getaddrinfo, Endpoint.turn

    def several(host: Any, *more: Any, **options: Any) -> list[Any]:
        names = ["127.0.0.2", "127.0.0.3"] if host == "two.test" else [host]
        return [one for name in names for one in resolve(name, *more, **options)]

    def fail(endpoint: Endpoint, now: float) -> Any:
        if broken and endpoint.sock is sockets[1]:
            raise OSError(100, "Network is down")
        return turn(endpoint, now)

    broken = False
    monkeypatch.setattr(socket, "getaddrinfo", several)
    monkeypatch.setattr(Endpoint, "turn", fail)
    server = both.start("two.test")
    sockets = server.sockets
    with both.client(*server.address) as client:
        assert both.echoes(client)
        broken = True
        with udp_socket() as stranger:
            stranger.sendto(b"something to read", sockets[1].getsockname())
        assert both.receive(client) is None
        until(lambda: [one.fileno() for one in sockets] == [-1, -1])
    with contextlib.suppress(OSError):  # of blocking: what ended it
        both.stop(server)
    assert not server.is_serving()


@pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="no SO_REUSEPORT here")
def test_servers_may_share_a_port(both: Blocking) -> None:
    """With reuse_port, and the same keys; without it the second one is refused."""
    keys = KeyRing.random()
    with both.serving(reuse_port=True, keys=keys) as first:
        with pytest.raises(OSError, match="in use"):
            both.start(*first.address)
        with both.serving(*first.address, reuse_port=True, keys=keys) as second:
            assert second.address == first.address
            for _ in range(8):
                with both.client(*first.address) as client:
                    assert both.echoes(client)
            connected = [one.counters.server.connected for one in (first, second)]
            assert sum(connected) == 8


def test_keys_of_a_server_may_be_replaced(both: Blocking) -> None:
    """Another KeyRing, for clients to come; the others are served on."""
    with both.serving() as server, both.client(*server.address) as early:
        ring = KeyRing(b"a key that the test knows")
        server.keys = ring
        assert server.keys is ring
        with pytest.raises(TypeError, match="keys"):
            server.keys = b"no ring"
        assert server.keys is ring
        with both.client(*server.address) as late:
            assert both.echoes(late)
        assert both.echoes(early)


def test_credentials_of_a_server_may_be_replaced(both: Blocking) -> None:
    """New clients need the new ones, others keep theirs; what is wrong changes nothing."""
    with both.serving(credentials=psk()) as server, both.client(*server.address) as early:
        wrong: Any = "no credentials"
        with pytest.raises(TypeError):
            both.do(lambda: server.set_credentials(wrong))
        with pytest.raises(ValueError, match="credentials"):
            both.do(lambda: server.set_credentials(trusting()))
        new = PSKCredentials("another", bytes(range(32)))
        both.do(lambda: server.set_credentials(new))
        with pytest.raises(TimedOutError):  # RFC 4279 2: who is not known is not told
            both.connect(*server.address, handshake_timeout=0.3)
        with both.client(*server.address, credentials=new) as late:
            assert both.echoes(late)
        assert both.echoes(early)


def test_limits_hold(both: Blocking) -> None:
    """max_sessions refuses in silence, and idle_timeout says goodbye."""
    with both.serving(max_sessions=1) as server, both.client(*server.address) as first:
        with pytest.raises(TimedOutError):
            both.connect(*server.address, handshake_timeout=0.2)
        assert server.counters.server.refused >= 1
        assert both.echoes(first)
    with both.serving(max_sessions=1, idle_timeout=0.2) as server:
        with both.client(*server.address) as first:
            assert both.receive(first) is None
        assert server.counters.server.closed[CloseReason.IDLE] == 1
        with both.client(*server.address) as second:
            assert both.receive(second) is None


def test_counters_go_through_json(both: Blocking) -> None:
    """as_dict() is made of dicts, strings and numbers, errors included."""

    def lookup(identity: str) -> bytes:
        raise LookupError(identity)

    credentials = [certificate(), PSKCredentials(lookup=lookup)]
    with both.serving(credentials=credentials) as server:
        with both.client(*server.address, **client_options("X.509")) as client:
            assert both.echoes(client)
        with pytest.raises(FatalAlertError):
            both.connect(*server.address)
        with udp_socket() as sock:
            sock.sendto(b"junk of a stranger", server.address)
        until(lambda: bool(server.counters.gate.discarded))
        plain = server.counters.as_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["server"]["closed"] == {
        "local": 0, "peer": 1, "replaced": 0, "idle": 0, "timed_out": 0, "failed": 1,
    }  # fmt: skip
    assert plain["server"]["last_error"] == "sensor-1"
    assert plain["gate"]["discarded"] == {"content_type": 1}
    assert plain["send_errors"] == 0


def test_close_says_goodbye_and_comes_back_at_once(both: Blocking) -> None:
    """wait_closed() waits for what is left, as often as it is called."""
    with both.serving() as server:
        address = server.address
        client = both.connect(*address)
        assert both.echoes(client)
        both.do(server.close)
        both.wait_closed(client)
        assert client.session.peer_closed
        both.do(server.close)
        both.stop(server)
        assert server.address == address  # as socketserver's: a line of the log has it still
        with pytest.raises(RuntimeError, match="the server is closed"):
            both.do(server.start_serving)
        both.do(client.close)


def test_given_socket_is_served_and_closed(both: Blocking) -> None:
    """A bound one from elsewhere; one of no use is refused, and stays open."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as stream:
        with pytest.raises(ValueError, match="UDP"):
            both.start(sock=stream)
        assert stream.fileno() >= 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        with pytest.raises(ValueError, match="sock must be bound"):
            both.start(sock=sock)
        sock.bind(("127.0.0.1", 0))
        with both.serving(None, sock=sock) as server, both.client(*server.address) as client:
            assert server.sockets == (sock,)
            assert both.echoes(client)
        assert sock.fileno() == -1
        with pytest.raises(ValueError, match="sock is closed"):
            both.start(sock=sock)


def test_given_sockets_are_served_together(both: Blocking) -> None:
    """Several that were bound elsewhere; none, and one of no use among them, are refused."""
    with pytest.raises(ValueError, match="sock must be a socket or several"):
        both.start(sock=[])
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other,
    ):
        one.bind(("127.0.0.1", 0))
        with pytest.raises(ValueError, match="sock must be bound"):
            both.start(sock=[one, other])
        other.bind(("127.0.0.2", 0))
        with both.serving(None, sock=[one, other]) as server:
            assert server.sockets == (one, other)
            for sock in server.sockets:
                with both.client(*sock.getsockname()) as client:
                    assert both.echoes(client)
        assert one.fileno() == other.fileno() == -1


def test_server_that_nobody_has_any_more_ends_with_a_warning(both: Blocking) -> None:
    """blocking: at once; aio: with its loop, which keeps it. No socket stays."""
    files = open_files()
    server = both.start("127.0.0.1")
    address = server.address
    if both.name == "aio":
        watched = weakref.ref(server)
        del server
        gc.collect()
        with both.client(*address) as client:
            assert both.echoes(client)
        server = watched()
        both.stop(server)
    else:
        client = both.connect(*address)
        with pytest.warns(ResourceWarning, match="unclosed DTLS server on"):
            del server
        assert client.receive(SECONDS) is None
        client.close()
        until(lambda: open_files() <= files)


# --- a client -------------------------------------------------------------------------------------


def test_client_from_a_given_address(both: Blocking) -> None:
    """local_address is what the server sees; port 0 leaves it to the system."""
    seen: queue.Queue[Any] = queue.Queue()
    with both.serving(seen=lambda connection: seen.put(connection.address)) as server:
        here = ("127.0.0.7", free_udp_port("127.0.0.7"))
        with both.client(*server.address, local_address=here) as client:
            assert seen.get(timeout=SECONDS) == here
            assert client.get_extra_info("sockname") == here
        with both.client(*server.address, local_address=("127.0.0.9", 0)):
            assert seen.get(timeout=SECONDS)[0] == "127.0.0.9"


@pytest.mark.parametrize(
    ("here", "error"),
    [
        ("127.0.0.7", TypeError),
        (("127.0.0.7",), TypeError),
        (("127.0.0.7", "5"), TypeError),
        (("127.0.0.7", 65536), ValueError),
        (("", 5), ValueError),
        (("192.0.2.77", 0), OSError),
    ],
)
def test_address_that_a_client_cannot_have(
    both: Blocking, here: Any, error: type[Exception]
) -> None:
    """Named in the error; no socket stays."""
    with udp_socket() as silent, pytest.raises(error, match=r"local_address|assign"):
        both.connect(*silent.getsockname(), local_address=here)


def test_peer_is_told_by_get_extra_info(both: Blocking) -> None:
    """By asyncio's names, on both sides."""
    seen: queue.Queue[Any] = queue.Queue()
    with both.serving(seen=seen.put) as server:
        options = {"credentials": trusting(), "server_name": "localhost"}
        with both.client(*server.address, **options) as client:
            there = seen.get(timeout=SECONDS)
            assert client.get_extra_info("peername") == server.address
            assert there.get_extra_info("peername") == client.get_extra_info("sockname")
            assert there.get_extra_info("sockname") == server.address
            assert there.get_extra_info("socket") is server.sockets[0]
            assert client.get_extra_info("socket").fileno() >= 0
            assert client.get_extra_info("session") is client.session
            assert client.get_extra_info("cipher") == client.session.cipher
            assert client.get_extra_info("version") == "DTLS1.2"
            assert client.get_extra_info("peercert") == client.session.peer_certificate
            assert client.get_extra_info("peercert") is not None
            assert there.get_extra_info("peercert", "none") == "none"
            assert there.get_extra_info("psk_identity") is None
            assert client.get_extra_info("no such name") is None
            assert client.get_extra_info("no such name", 5) == 5
        with both.client(*server.address):
            assert seen.get(timeout=SECONDS).get_extra_info("psk_identity") == "sensor-1"
        assert client.get_extra_info("sockname", "none") == "none"


def test_session_that_fails_at_once_is_connected_all_the_same(both: Blocking) -> None:
    """The last flight and an alert come together: receive() tells, not connect()."""

    def fail(there: Any) -> None:
        there.session._alert(2, 80)
        getattr(there, "send_nowait", there.send)(b"so that the alert goes out")

    for _ in range(5):
        with both.serving(seen=fail) as server:
            client = both.connect(*server.address)
            with pytest.raises(FatalAlertError, match="Internal error"):
                both.receive(client)
            both.do(client.close)


def test_end_of_a_connection_is_seen_without_reading(both: Blocking) -> None:
    """wait_closed() and is_open, on both sides; what came before can still be received."""
    seen: queue.Queue[Any] = queue.Queue()
    with both.serving(seen=seen.put) as server:
        client = both.connect(*server.address)
        there = seen.get(timeout=SECONDS)
        with pytest.raises(TimeoutError):
            both.wait_closed(client, 0.05)
        with pytest.raises(TimeoutError):
            both.wait_closed(there, 0.05)
        for one in (client, there):
            assert one.is_open
            assert not one.is_closing()
        both.send(there, b"the last word")
        both.do(there.close)
        both.wait_closed(client)
        both.wait_closed(there)
        for one in (client, there):
            assert not one.is_open
            assert one.is_closing()
        assert both.receive(client) == b"the last word"
        assert both.receive(client) is None
        for one in (client, there):
            with pytest.raises(ConnectionClosedError, match="the connection has ended"):
                both.send(one, b"too late")
        both.do(client.close)


def test_user_may_keep_things_with_a_connection(both: Blocking) -> None:
    """Any attribute that is not taken."""
    with both.serving() as server, both.client(*server.address) as client:
        client.purpose = "of the user"
        assert client.purpose == "of the user"


@pytest.mark.parametrize("mtu", [None, 128, 150])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_connect_to_a_closed_port(both: Blocking, host: str, mtu: int | None) -> None:
    """ICMP says so at once, whether recv() is told or the send of a hello's next datagram."""
    with pytest.raises(ConnectionRefusedError):
        both.connect(host, free_udp_port(host), mtu=mtu, handshake_timeout=SECONDS)


def test_router_that_says_that_a_datagram_was_too_large(both: Blocking) -> None:
    """ICMP in the middle of a handshake (RFC 1191): that datagram is lost, the handshake is not."""
    here = ("127.0.0.77", free_udp_port("127.0.0.77"))
    told: list[str] = []

    def lookup(identity: str) -> bytes:
        too_large(here, server.address)
        told.append(identity)
        return b"0123456789abcdef"

    try:
        too_large(here, ("127.0.0.78", 9))
    except PermissionError:
        pytest.skip("ICMP takes a raw socket, which is for root")
    with (
        both.serving("127.0.0.78", credentials=PSKCredentials(lookup=lookup)) as server,
        both.client(
            *server.address,
            credentials=PSKCredentials("sensor", b"0123456789abcdef"),
            local_address=here,
        ) as client,
    ):
        assert both.echoes(client)
    assert told == ["sensor"]


def test_connect_to_a_name_that_is_not_known(both: Blocking) -> None:
    """OSError, as of getaddrinfo, which does not say what it was asked for."""
    with pytest.raises(OSError, match=r"'nowhere\.invalid'"):
        both.connect("nowhere.invalid", 5684)


def test_certificate_that_is_not_trusted(both: Blocking) -> None:
    """The client says why, and the server hears of it at once: the slot is free again."""
    with both.serving(max_sessions=1) as server:
        options = client_options("X.509")
        for _ in range(2):
            with pytest.raises(CertificateVerificationError, match="NOT trusted"):
                both.connect(*server.address, **(options | {"credentials": trusting("stranger")}))
        with pytest.raises(CertificateVerificationError, match="name"):
            both.connect(*server.address, **(options | {"server_name": "elsewhere.example"}))
        until(lambda: server.counters.server.closed[CloseReason.FAILED] == 3)
        assert isinstance(server.counters.server.last_error, FatalAlertError)
        with both.client(*server.address, **options) as client:
            assert both.echoes(client)


def test_wrong_key_ends_by_an_error(both: Blocking, caplog: pytest.LogCaptureFixture) -> None:
    """Both sides drop what they cannot read; the time of one is over some time, and both say what
    it may be."""
    clue = "is the shared key the same on both sides?"
    wrong = PSKCredentials("sensor-1", b"wrong")
    with both.serving() as server, pytest.raises(TimedOutError, match=re.escape(clue)):
        both.connect(*server.address, credentials=wrong, handshake_timeout=0.3)
    with caplog.at_level(logging.INFO), both.serving(handshake_timeout=0.3) as server:
        with pytest.raises(GnuTLSError, match=re.escape(clue)):
            both.connect(*server.address, credentials=wrong)
        until(lambda: f"longer than handshake_timeout: {clue}" in caplog.text)


@needs_proc
@pytest.mark.parametrize("how", ["refused", "silent", "not trusted", "cannot be bound"])
def test_connect_that_fails_leaves_nothing(both: Blocking, how: str) -> None:
    """No socket, and an error of the kind that says why."""
    with both.serving() as server, udp_socket() as silent:
        before = open_files()
        if how == "refused":
            with pytest.raises(ConnectionRefusedError):
                both.connect("127.0.0.1", free_udp_port())
        elif how == "silent":
            with pytest.raises(TimedOutError):
                both.connect(*silent.getsockname(), handshake_timeout=0.2)
        elif how == "not trusted":
            with pytest.raises(CertificateVerificationError):
                both.connect(*server.address, credentials=trusting("stranger"))
        else:
            with pytest.raises(OSError, match="assign"):
                both.connect(*silent.getsockname(), local_address=("192.0.2.77", 0))
        gc.collect()
        assert open_files() <= before


@needs_proc
@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"max_sessions": 0}, ValueError),
        ({"credentials": trusting()}, ValueError),
        ({"keys": b""}, ValueError),
        ({"priority": "NONSENSE"}, ValueError),
        ({"mtu": "wide"}, TypeError),
    ],
)
def test_server_that_is_refused_leaves_nothing(
    both: Blocking, options: dict[str, Any], error: type[Exception]
) -> None:
    """What it had opened is closed."""
    before = open_files()
    with pytest.raises(error):
        both.start("127.0.0.1", **options)
    gc.collect()
    assert open_files() <= before


# --- arguments ------------------------------------------------------------------------------------

WRONG: list[dict[str, Any]] = [
    {"handler": None},
    {"handler": 5},
    {"host": None},
    {"host": 5},
    {"host": ""},
    {"port": 65536},
    {"port": "5684"},
    {"host": "127.0.0.1", "sock": 5},
    {"host": None, "sock": 5},
    {"keys": b""},
    {"keys": 5},
    {"grace": "long"},
    {"grace": float("nan")},
    {"credentials": None},
    {"credentials": []},
    {"credentials": trusting()},
    {"max_sessions": 0},
    {"max_session": 1},
    {"idle_timeout": 0},
    {"priority": "NO SUCH"},
    {"mtu": 1},
]


def refusal(start: Callable[..., Any], *given: Any, **options: Any) -> tuple[type, str]:
    """What is raised for the arguments."""
    with pytest.raises(Exception, match=r".") as caught:
        start(*given, **options)
    return caught.type, str(caught.value)


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_servers_refuse_alike(wrong: dict[str, Any]) -> None:
    """With the same kind of error, and the same words."""
    options: dict[str, Any] = {"host": "127.0.0.1", "credentials": psk(), **wrong}
    handler = options.pop("handler", print)
    said = [
        refusal(start, handler, **options) for start in (aio.start_server, blocking.start_server)
    ]
    assert said[0] == said[1]
    assert refusal(blocking.serve, handler, **options)[0] is said[0][0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"host": None},
        {"port": 0},
        {"port": True},
        {"credentials": None},
        {"local_address": "127.0.0.1"},
        {"local_address": ("127.0.0.1", -1)},
        {"handshake_timeout": 0},
        {"handshake_timeout": float("inf")},
        {"retransmit_timeout": "soon"},
        {"verify_peers": True},
        {"mtu": 1},
    ],
    ids=str,
)
def test_clients_refuse_alike(wrong: dict[str, Any]) -> None:
    """With the same kind of error, and the same words; before a name is resolved."""
    options = {"host": "no.such.name.invalid", "port": 5684, "credentials": psk()} | wrong
    said = [refusal(connect, **options) for connect in (aio.connect, blocking.connect)]
    assert said[0] == said[1]
    assert issubclass(said[0][0], TypeError | ValueError)
