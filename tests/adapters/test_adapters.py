"""What aio and blocking have in common: arguments, the addresses of a name, time-outs, the log."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import math
import os
import queue
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from gnutls_cookie import GnuTLSError, PSKCredentials, _settings, aio, blocking
from gnutls_cookie._ffi import ffi
from gnutls_cookie.errors import (
    CertificateVerificationError,
    ConnectionClosedError,
    FatalAlertError,
    TimedOutError,
)
from gnutls_cookie.log import BoundedLog
from gnutls_cookie.sockets import bound
from tests.support.common import free_udp_port, udp_socket
from tests.support.peers import certificate, psk, trusting
from tests.support.servers import SECONDS, bounded, client_options

ADAPTERS = ("aio", "blocking")

# Of this process alone: a port that is free at one address is so at the others.
OTHER, THIRD = (f"127.{1 + os.getpid() // 256 % 250}.{os.getpid() % 256}.{n}" for n in (2, 3))

each_adapter = pytest.mark.parametrize("adapter", ADAPTERS)


@contextmanager
def serving(adapter: str, host: str | None = "127.0.0.1", **options: Any) -> Iterator[Any]:
    """An echo server of an adapter in a thread of its own; gives its address."""
    options = {"credentials": [certificate(), psk()], "grace": 0.5, **options}
    addresses: queue.Queue[Any] = queue.Queue()
    over = threading.Event()

    async def echo(connection: aio.Connection) -> None:
        async for message in connection:
            await connection.send(message)

    async def serve() -> None:
        async with await aio.start_server(echo, host, **options) as running:
            addresses.put(running.address)
            while not over.is_set():
                await asyncio.sleep(0.01)

    def run() -> None:
        try:
            if adapter == "aio":
                asyncio.run(serve())
            else:
                blocking.serve(
                    lambda connection: [connection.send(message) for message in connection],
                    host,
                    started=addresses.put,
                    stop=over,
                    **options,
                )
        except BaseException as error:
            addresses.put(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        address = addresses.get(timeout=SECONDS)
        if isinstance(address, BaseException):
            raise address
        yield address
    finally:
        over.set()
        thread.join(SECONDS)
    assert not thread.is_alive()
    assert addresses.empty()


def echo_through(adapter: str, host: str, port: Any, **options: Any) -> Any:
    """Connect, see a message come back, close; gives the address that was connected to."""

    async def whole() -> Any:
        async with await aio.connect(host, port, **options) as client:
            await client.send(b"hello")
            assert await asyncio.wait_for(client.receive(), SECONDS) == b"hello"
            return client.address

    if adapter == "aio":
        return asyncio.run(whole())
    with blocking.connect(host, port, **options) as client:
        client.send(b"hello")
        assert client.receive(SECONDS) == b"hello"
        return client.address


def serve_nothing(adapter: str, host: Any, port: Any, **options: Any) -> None:
    """Start a server that is to be refused for its arguments."""
    options = {"credentials": psk()} | options

    async def start() -> None:
        (await aio.start_server(no_handler, host, port, **options)).close()

    async def no_handler(connection: aio.Connection) -> None:
        raise AssertionError

    if adapter == "aio":
        asyncio.run(start())
    else:
        over = threading.Event()
        over.set()
        blocking.serve(print, host, port, stop=over, **options)


# --- arguments ------------------------------------------------------------------------------------

WRONG_PORTS = [
    (65536, ValueError),
    (65536 + 5684, ValueError),
    (-1, ValueError),
    (10**30, ValueError),
    ("5684", TypeError),
    (5684.0, TypeError),
    (None, TypeError),
    (True, TypeError),
    (b"5684", TypeError),
]
WRONG_HOSTS = [
    ("", ValueError),
    ("127.0.0.1\0", ValueError),
    ("a..b", ValueError),
    ("a" * 64 + ".invalid", ValueError),
    ("\udcff", ValueError),
    (b"127.0.0.1", TypeError),
    (127, TypeError),
]


@each_adapter
@pytest.mark.parametrize(("port", "error"), [*WRONG_PORTS, (0, ValueError)])
def test_connect_refuses_what_is_not_a_port(
    adapter: str, port: Any, error: type[Exception]
) -> None:
    """getaddrinfo() takes 65537 for 1, and None for any."""
    with bounded(), pytest.raises(error, match=r"^port must be "):
        echo_through(adapter, "127.0.0.1", port, credentials=psk(), handshake_timeout=0.2)


@each_adapter
@pytest.mark.parametrize(("port", "error"), WRONG_PORTS)
def test_server_refuses_what_is_not_a_port(adapter: str, port: Any, error: type[Exception]) -> None:
    """Else it would serve at another one."""
    with pytest.raises(error, match=r"^port must be "):
        serve_nothing(adapter, "127.0.0.1", port)


@pytest.mark.parametrize(("port", "error"), WRONG_PORTS)
def test_local_address_refuses_what_is_not_a_port(port: Any, error: type[Exception]) -> None:
    """It says which of the two ports it is."""
    with pytest.raises(error, match=r"^local_address: port must be "):
        echo_through("aio", "127.0.0.1", 5684, credentials=psk(), local_address=("127.0.0.1", port))


@pytest.mark.parametrize("local", ["127.0.0.1", ("127.0.0.1",), 5])
def test_local_address_is_a_pair(local: Any) -> None:
    """A TypeError that names it."""
    with pytest.raises(TypeError, match="local_address"):
        echo_through("aio", "127.0.0.1", 5684, credentials=psk(), local_address=local)


@each_adapter
@pytest.mark.parametrize(("host", "error"), WRONG_HOSTS)
def test_what_is_not_a_host(adapter: str, host: Any, error: type[Exception]) -> None:
    """Named, for a server and a client; no name is looked up in vain."""
    with pytest.raises(error, match=r"^host "):
        serve_nothing(adapter, host, 0)
    with pytest.raises(error, match=r"^host "):
        echo_through(adapter, host, 5684, credentials=psk())


@each_adapter
@pytest.mark.parametrize(
    ("value", "error"), [(math.nan, ValueError), ("1", TypeError), (True, TypeError)]
)
def test_grace_that_is_not_a_time(adapter: str, value: Any, error: type[Exception]) -> None:
    """Refused before anything is bound."""
    with pytest.raises(error, match=r"^grace must be "):
        serve_nothing(adapter, "127.0.0.1", 0, grace=value)


@each_adapter
@pytest.mark.parametrize("value", [math.inf, 1e300, 10**400, 0, -1, -math.inf, None])
def test_grace_without_end_or_none(adapter: str, value: Any) -> None:
    """Handlers that return by themselves are waited for; below 0 is 0."""
    with bounded(), serving(adapter, grace=value) as address:
        echo_through(adapter, *address, **client_options("PSK"))


@each_adapter
@pytest.mark.parametrize(
    ("value", "error"),
    [
        (math.inf, ValueError),
        (math.nan, ValueError),
        (-1, ValueError),
        (0, ValueError),
        (1e300, ValueError),
        (10**400, ValueError),
        (True, TypeError),
        ("1", TypeError),
        (None, TypeError),
    ],
)
def test_handshake_timeout_that_is_not_a_time(
    adapter: str, value: Any, error: type[Exception]
) -> None:
    """libgnutls counts it in milliseconds of 32 bits; refused on both sides."""
    with pytest.raises(error, match="handshake_timeout"):
        serve_nothing(adapter, "127.0.0.1", 0, handshake_timeout=value)
    with pytest.raises(error, match="handshake_timeout"):
        echo_through(adapter, "127.0.0.1", 5684, credentials=psk(), handshake_timeout=value)


@each_adapter
@pytest.mark.parametrize(
    ("value", "error"),
    [
        (math.nan, ValueError),
        (-1, ValueError),
        (0, ValueError),
        (10**400, ValueError),
        (True, TypeError),
        ("1", TypeError),
        (None, TypeError),
    ],
)
def test_idle_timeout_that_is_not_a_time(adapter: str, value: Any, error: type[Exception]) -> None:
    """Refused as the server is made, not when its first client comes."""
    with pytest.raises(error, match="idle_timeout"):
        serve_nothing(adapter, "127.0.0.1", 0, idle_timeout=value)


@each_adapter
@pytest.mark.parametrize("value", [math.inf, 1e300])
def test_idle_timeout_without_end(adapter: str, value: float) -> None:
    """No connection is idle for so long; the event loop's timers bear it."""
    with serving(adapter, idle_timeout=value) as address:
        echo_through(adapter, *address, **client_options("PSK"))


def receives(side: str) -> tuple[contextlib.ExitStack, blocking.Connection]:
    """A connection of blocking where nothing comes: a client's, or a handler's."""
    stack = contextlib.ExitStack()
    handlers: queue.Queue[Any] = queue.Queue()
    over = threading.Event()
    address: queue.Queue[Any] = queue.Queue()

    def handler(connection: blocking.Connection) -> None:
        handlers.put(connection)
        over.wait(SECONDS)

    thread = threading.Thread(
        target=blocking.serve,
        args=(handler, "127.0.0.1"),
        kwargs={"credentials": psk(), "stop": over, "started": address.put},
    )
    thread.start()
    stack.callback(thread.join, SECONDS)
    stack.callback(over.set)
    client = blocking.connect(*address.get(timeout=SECONDS), credentials=psk())
    stack.callback(client.close)
    return stack, client if side == "client" else handlers.get(timeout=SECONDS)


@pytest.mark.parametrize("side", ["client", "server"])
def test_timeouts_of_receive(side: str) -> None:
    """The same on either side: nothing waits where it is over, NaN and what is not a number are
    refused, and what no clock can hold waits forever."""
    stack, connection = receives(side)
    with stack, bounded():
        for past in (0, -1, -math.inf, 0.0, -(10**400), 0.05):
            with pytest.raises(TimeoutError, match="no message came within"):
                connection.receive(past)
        with pytest.raises(ValueError, match=r"^timeout must be a number of seconds, not NaN"):
            connection.receive(math.nan)
        wrong: object
        for wrong in (True, "1", [], b"1"):
            with pytest.raises(TypeError, match=r"^timeout must be a number of seconds, not "):
                connection.receive(wrong)  # type: ignore[arg-type]
        threads = [
            threading.Thread(target=connection.receive, args=(timeout,))
            for timeout in (None, math.inf, 1e12, 1e300, 10**400)
        ]
        for thread in threads:
            thread.start()
        time.sleep(0.1)
        assert all(thread.is_alive() for thread in threads)
        connection.close()
        for thread in threads:
            thread.join(SECONDS)
        assert not any(thread.is_alive() for thread in threads)


# --- the addresses of a name ----------------------------------------------------------------------


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Names with their addresses, beside those that the machine knows."""
    table: dict[str, list[str]] = {}
    resolve = socket.getaddrinfo

    def looked_up(host: Any, *more: Any, **options: Any) -> list[Any]:
        found: list[Any] = []
        for address in table.get(host, [host]):
            found += resolve(address, *more, **options)
        return found

    monkeypatch.setattr(socket, "getaddrinfo", looked_up)
    return table


@each_adapter
def test_next_address_is_tried_where_one_is_refused(
    adapter: str, names: dict[str, list[str]]
) -> None:
    """As with localhost, whose ::1 nobody serves."""
    names["two.test"] = [OTHER, OTHER, "127.0.0.1"]
    with serving(adapter) as address:
        found = echo_through(adapter, "two.test", address[1], credentials=psk())
        assert found == address


@each_adapter
def test_next_address_is_tried_where_one_cannot_be_reached(
    adapter: str, names: dict[str, list[str]]
) -> None:
    """The kernel says so at once: EACCES for a broadcast, ENETUNREACH for most."""
    names["two.test"] = ["255.255.255.255", "127.0.0.1"]
    with serving(adapter) as address:
        assert echo_through(adapter, "two.test", address[1], credentials=psk()) == address


@each_adapter
def test_next_address_is_tried_where_one_is_silent(
    adapter: str, names: dict[str, list[str]]
) -> None:
    """After its share of the time: half of it where one more is left."""
    names["two.test"] = [OTHER, "127.0.0.1"]
    with serving(adapter) as address, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind((OTHER, address[1]))
        before = time.monotonic()
        options = {"credentials": psk(), "handshake_timeout": 4.0}
        assert echo_through(adapter, "two.test", address[1], **options) == address
        assert 1.5 < time.monotonic() - before < SECONDS


@each_adapter
def test_who_has_answered_has_all_the_time(adapter: str, names: dict[str, list[str]]) -> None:
    """A server that challenges and then takes long is not left for the next address."""
    names["many.test"] = [OTHER, *(f"127.0.0.{number}" for number in range(3, 10))]

    def lookup(identity: str) -> bytes:
        time.sleep(2.2)  # the share of the first address is 2 s
        return bytes(range(1, 17))

    with serving(adapter, OTHER, credentials=PSKCredentials(lookup=lookup)) as address:
        options = {"credentials": psk(), "handshake_timeout": 16.0}
        assert echo_through(adapter, "many.test", address[1], **options) == address


@each_adapter
def test_error_says_what_each_address_gave(adapter: str, names: dict[str, list[str]]) -> None:
    """Of the kind that they have in common; TimedOutError where one was silent. Of one address
    alone, too."""
    names["two.test"] = [OTHER, THIRD]
    names["one.test"] = [OTHER]
    port = free_udp_port(OTHER)
    for name in "two.test", "one.test":
        with pytest.raises(ConnectionRefusedError) as caught:
            echo_through(adapter, name, port, credentials=psk())
        assert caught.value.errno == errno.ECONNREFUSED
        for ip in names[name]:
            assert f"{ip} port {port}: Connection refused" in str(caught.value)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind((OTHER, 0))
        port = silent.getsockname()[1]
        with pytest.raises(TimedOutError) as late:
            echo_through(adapter, "two.test", port, credentials=psk(), handshake_timeout=0.4)
        assert f"{OTHER} port {port}: timed out; {THIRD} port {port}: " in str(late.value)


@each_adapter
def test_handshake_that_fails_is_final(adapter: str, names: dict[str, list[str]]) -> None:
    """A certificate that is not trusted does not make it ask another address."""
    names["localhost"] = [OTHER, "127.0.0.1", THIRD]
    with serving(adapter) as address:
        with pytest.raises(CertificateVerificationError) as caught:
            echo_through(adapter, "localhost", address[1], credentials=trusting("stranger"))
        assert caught.value.__notes__ == [
            f"before that, {OTHER} port {address[1]}: Connection refused"
        ]


@each_adapter
def test_alert_of_a_server_is_final(adapter: str, names: dict[str, list[str]]) -> None:
    """It is a ConnectionError, and yet no reason to ask another address."""
    names["two.test"] = ["127.0.0.1", OTHER]

    def lookup(identity: str) -> bytes:
        raise LookupError

    with serving(adapter, credentials=PSKCredentials(lookup=lookup)) as address:
        with pytest.raises(FatalAlertError) as caught:
            echo_through(adapter, "two.test", address[1], credentials=psk())
        assert OTHER not in str(caught.value)


@each_adapter
def test_host_is_the_name_in_the_certificate(adapter: str, names: dict[str, list[str]]) -> None:
    """The default of server_name, for the good and for the bad."""
    names["localhost"] = names["elsewhere.test"] = ["127.0.0.1"]
    with serving(adapter) as address:
        assert echo_through(adapter, "localhost", address[1], credentials=trusting()) == address
        with pytest.raises(CertificateVerificationError, match="name"):
            echo_through(adapter, "elsewhere.test", address[1], credentials=trusting())


@each_adapter
def test_address_that_the_machine_does_not_have_is_left_out(
    adapter: str, names: dict[str, list[str]]
) -> None:
    """As long as another one can be bound; none at all is an error."""
    names["two.test"] = ["192.0.2.77", "127.0.0.1"]
    with serving(adapter, "two.test") as address:
        assert address[0] == "127.0.0.1"
        assert echo_through(adapter, *address, credentials=psk()) == address
    names["two.test"] = ["192.0.2.77", "192.0.2.78"]
    with pytest.raises(OSError, match="assign") as caught:
        serve_nothing(adapter, "two.test", 0)
    assert caught.value.errno == errno.EADDRNOTAVAIL


@each_adapter
def test_port_that_is_taken_at_one_address_is_an_error(
    adapter: str, names: dict[str, list[str]]
) -> None:
    """Nothing is left out that is there."""
    names["two.test"] = [OTHER, "127.0.0.1"]
    with udp_socket(OTHER) as taken, pytest.raises(OSError, match="in use"):
        serve_nothing(adapter, "two.test", taken.getsockname()[1])


def test_family_that_the_kernel_does_not_have_is_left_out() -> None:
    """EAFNOSUPPORT, of a number that is not a family anywhere; alone it is an error."""
    missing = (200, socket.SOCK_DGRAM, 0, "", ("nowhere", 0))
    (here,) = socket.getaddrinfo("127.0.0.1", 0, type=socket.SOCK_DGRAM)
    (sock,) = bound([missing, here])
    with sock:
        assert sock.getsockname()[0] == "127.0.0.1"
    with pytest.raises(OSError, match="family") as caught:
        bound([missing])
    assert caught.value.errno == errno.EAFNOSUPPORT


def test_both_wildcards_are_bound_to_one_port() -> None:
    """IPV6_V6ONLY is set: else "::" would have IPv4's too, and 0.0.0.0 would be in use."""
    with udp_socket("::1"):
        pass
    found = [
        *socket.getaddrinfo("::", 0, type=socket.SOCK_DGRAM),
        *socket.getaddrinfo("0.0.0.0", 0, type=socket.SOCK_DGRAM),
    ]
    sockets = bound(found)
    try:
        assert len({sock.getsockname()[1] for sock in sockets}) == 1
        assert [sock.family for sock in sockets] == [socket.AF_INET6, socket.AF_INET]
        assert sockets[0].getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1
    finally:
        for sock in sockets:
            sock.close()


WITHOUT_IPV6 = """
import asyncio, socket, sys, threading
from gnutls_cookie import PSKCredentials, aio, blocking
credentials = PSKCredentials("sensor-1", b"0123456789abcdef")
assert len({one[4][0] for one in socket.getaddrinfo("localhost", 0, type=socket.SOCK_DGRAM)}) == 2
async def nothing(connection):
    pass
async def main():
    async with await aio.start_server(nothing, "localhost", credentials=credentials) as server:
        assert [one.getsockname()[0] for one in server.sockets] == ["127.0.0.1"]
        (await aio.connect("localhost", server.address[1], credentials=credentials)).close()
asyncio.run(main())
stop = threading.Event()
def started(address):
    assert address[0] == "127.0.0.1"
    stop.set()
blocking.serve(list, "localhost", credentials=credentials, stop=stop, started=started)
print("served")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for a network namespace")
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare (util-linux)")
def test_localhost_without_ipv6(tmp_path: Any) -> None:
    """A container whose /etc/hosts names ::1, and whose kernel has it not."""
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost\n::1 localhost\n")
    off = "/proc/sys/net/ipv6/conf/all/disable_ipv6"
    script = f'mount --bind {hosts} /etc/hosts && echo 1 > {off} && ip link set lo up && exec "$@"'
    command = ["unshare", "-n", "-m", "sh", "-c", script, "sh"]
    if subprocess.run([*command, "true"], capture_output=True, timeout=SECONDS).returncode:
        pytest.skip("no namespace without IPv6 can be made here")
    done = subprocess.run(
        [*command, sys.executable, "-c", WITHOUT_IPV6],
        capture_output=True,
        text=True,
        timeout=3 * SECONDS,
    )
    assert (done.stdout, done.stderr) == ("served\n", "")


# --- after the end --------------------------------------------------------------------------------


@each_adapter
def test_send_after_the_end_is_a_connection_error(adapter: str) -> None:
    """Whoever closed: ConnectionResetError, as of asyncio's streams, and a GnuTLSError too."""
    ends: queue.Queue[Any] = queue.Queue()

    async def both() -> None:
        async def handler(connection: aio.Connection) -> None:
            await connection.wait_closed()
            try:
                await connection.send(b"too late")
            except Exception as error:
                ends.put((error, connection.is_closing()))

        async with await aio.start_server(handler, "127.0.0.1", credentials=psk()) as running:
            client = await aio.connect(*running.address[:2], credentials=psk())
            assert not client.is_closing()
            client.close()
            try:
                await client.send(b"too late")
            except Exception as error:
                ends.put((error, client.is_closing()))

    if adapter == "aio":
        asyncio.run(both())
    else:

        def handler(connection: blocking.Connection) -> None:
            assert connection.receive(SECONDS) is None
            try:
                connection.send(b"too late")
            except Exception as error:
                ends.put((error, True))

        over = threading.Event()

        def started(address: Any) -> None:
            threading.Thread(target=one_client, args=(address,)).start()

        def one_client(address: Any) -> None:
            client = blocking.connect(*address, credentials=psk())
            client.close()
            try:
                client.send(b"too late")
            except Exception as error:
                ends.put((error, True))
            over.set()

        blocking.serve(
            handler, "127.0.0.1", credentials=psk(), started=started, stop=over, grace=SECONDS
        )
    for _ in range(2):
        error, closing = ends.get(timeout=SECONDS)
        assert type(error) is ConnectionClosedError
        assert isinstance(error, ConnectionResetError)
        assert isinstance(error, GnuTLSError)
        assert closing


# --- what goes wrong at one client ----------------------------------------------------------------


@each_adapter
def test_session_that_cannot_be_made_ends_nothing_else(
    adapter: str, caplog: pytest.LogCaptureFixture
) -> None:
    """libgnutls refuses it for one moment: the others are served, and so is the next one."""
    priority = "NORMAL:-KX-ALL:+PSK:%COMPAT"
    box, *_ = _settings._priority(priority.encode())

    def mend() -> None:
        try:
            wait_for(lambda: "GNUTLS_E_NO_PRIORITIES_WERE_SET" in caplog.text)
        finally:
            box[0].pointer = pointer

    with caplog.at_level(logging.INFO), serving(adapter, priority=priority) as address:
        early = blocking.connect(*address, credentials=psk())
        pointer, box[0].pointer = box[0].pointer, ffi.NULL
        mending = threading.Thread(target=mend)
        mending.start()
        try:
            options: dict[str, Any] = {"credentials": psk(), "retransmit_timeout": 0.1}
            assert echo_through(adapter, *address, **options) == address  # by its retransmission
        finally:
            mending.join()
        early.send(b"and I?")
        assert early.receive(SECONDS) == b"and I?"
        early.close()
    assert "GNUTLS_E_NO_PRIORITIES_WERE_SET" in caplog.text


@each_adapter
def test_what_a_lookup_raises_is_logged(adapter: str, caplog: pytest.LogCaptureFixture) -> None:
    """With its traceback and the client's address, by the logger of the package."""

    def lookup(identity: str) -> bytes:
        raise LookupError("the database is down")

    with serving(adapter, credentials=PSKCredentials(lookup=lookup)) as address:
        with pytest.raises(FatalAlertError):
            echo_through(adapter, *address, credentials=psk())
        wait_for(lambda: "the database is down" in caplog.text)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("gnutls_cookie", logging.ERROR)
    assert record.getMessage().startswith("127.0.0.1 port ")
    assert "in lookup" in caplog.text


@each_adapter
def test_failed_handshake_is_logged(adapter: str, caplog: pytest.LogCaptureFixture) -> None:
    """With address and reason; one whose time is over, too."""
    caplog.set_level(logging.INFO, "gnutls_cookie")
    with serving(adapter, handshake_timeout=0.5) as address:
        with pytest.raises(CertificateVerificationError):
            echo_through(adapter, "127.0.0.1", address[1], credentials=trusting("stranger"))
        wait_for(lambda: len(caplog.records) == 1)
        with pytest.raises(GnuTLSError):
            echo_through(
                adapter, *address, credentials=PSKCredentials("sensor-1", b"wrong"),
                handshake_timeout=0.2,
            )  # fmt: skip
        wait_for(lambda: len(caplog.records) == 2)
    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith("127.0.0.1 port ")
    assert "handshake failed" in first
    assert "GNUTLS_E_FATAL_ALERT_RECEIVED" in first
    assert "handshake failed" in second
    assert all(record.levelno == logging.INFO for record in caplog.records)


@each_adapter
def test_clients_cannot_fill_the_log(adapter: str, caplog: pytest.LogCaptureFixture) -> None:
    """40 lookups that raise: a few tracebacks, and how many more there were."""

    def lookup(identity: str) -> bytes:
        raise LookupError(identity)

    with serving(adapter, credentials=PSKCredentials(lookup=lookup)) as address:
        for _ in range(40):
            with pytest.raises(FatalAlertError):
                blocking.connect(*address, credentials=psk())
        wait_for(lambda: "not logged" in caplog.text)  # without another one that fails
    began = caplog.records[0].created
    seconds = caplog.records[-1].created - began
    counted: list[Any] = [
        record for record in caplog.records if "not logged" in record.getMessage()
    ]
    shown = [record for record in caplog.records if record.exc_info]
    assert len(shown) <= 5 * (seconds + 1)
    assert len(shown) + sum(int(str(one.args[0])) for one in counted if one.args) == 40
    assert len(shown) < 40 or seconds > 7


def test_bound_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """5 lines of a level within a second; the rest is counted once, when the second is over."""
    caplog.set_level(logging.INFO, "gnutls_cookie")
    log, address = BoundedLog(), ("192.0.2.1", 5)
    assert log.timeout(0.0) is None
    for number in range(100):
        log.write(number / 1000, logging.INFO, address, f"line {number}")
    log.write(0.5, logging.ERROR, address, "another level")
    assert log.timeout(0.25) == 0.75
    log.handle_timeout(0.99)
    assert [record.getMessage() for record in caplog.records] == [
        *(f"192.0.2.1 port 5: line {number}" for number in range(5)),
        "192.0.2.1 port 5: another level",
    ]
    log.handle_timeout(1.0)
    log.handle_timeout(3.0)
    assert caplog.records[-1].getMessage() == "95 more like the last one, not logged"
    assert len(caplog.records) == 7
    assert log.timeout(3.0) is None
    log.write(3.0, logging.INFO, address, "again")
    assert caplog.records[-1].getMessage() == "192.0.2.1 port 5: again"


def wait_for(condition: Callable[[], bool]) -> None:
    """Until it holds; bounded."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
