"""Real networks, made of namespaces: hosts with several addresses, paths of an unknown MTU."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.session.test_guard import large_certificate
from tests.support import interop
from tests.support.common import ROOT, running
from tests.support.network import (
    PORT,
    SECONDS,
    Network,
    hears_its_echo,
    our_connect,
    serving,
)
from tests.support.peers import CERTS, drive

Words = list[str | Path]
Client = Callable[[str, int, str], list[str]]

CERT, KEY = CERTS / "localhost.pem", CERTS / "localhost.key"
LOCALHOST: Words = ["--x509certfile", CERT, "--x509keyfile", KEY]


def ours(host: str, port: int, _: str) -> list[str]:
    return [str(word) for word in our_connect(host, port, CERT)]


CLIENTS: dict[str, Client] = {
    "openssl": interop.s_client_command,
    "gnutls-cli": interop.gnutls_cli_command,
    "ours": ours,
}


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    made = Network()
    yield made
    made.close()


@pytest.mark.peer
@pytest.mark.parametrize(("host", "number"), [("0.0.0.0", 1), ("::", 1), ("::", 3)])
def test_a_wildcard_answers_from_the_address_that_was_asked(
    network: Network, host: str, number: int
) -> None:
    """The second one of the host, IPv4 and IPv6: clients connect their sockets to it."""
    with serving(network.server, host, *LOCALHOST):
        for client in CLIENTS.values():
            there = network.addresses[number]
            hears_its_echo([*network.client, *client(there, PORT, "X.509")])


LINK_LOCAL = """
import sys
from gnutls_cookie import CertificateCredentials, blocking

there, port, trust, *here = sys.argv[1:]
options = {
    "credentials": CertificateCredentials.from_files(trust=trust),
    "server_name": "localhost",
    "local_address": (here[0], 0) if here else None,
}
with blocking.connect(there, int(port), **options) as connection:
    connection.send(b"hello")
    assert connection.receive(60) == b"hello"
"""


def test_a_wildcard_answers_from_its_link_local_address(network: Network) -> None:
    """To a global address on the same link as well: Linux wants the interface with it."""
    with serving(network.server, "::", *LOCALHOST):
        asks = [*network.router, sys.executable, "-c", LINK_LOCAL, network.link_local]
        for here in ([], [network.on_link]):
            command = [*asks, str(PORT), str(CERT), *here]
            subprocess.run(command, check=True, cwd=ROOT, timeout=SECONDS)


class BlackHole(Network):
    """A path whose MTU nobody tells. 1280 bytes are the least that IPv6 allows.

    Attributes:
        host: the server's address.
        mtu: the option of a server that believes in more.
    """

    def __init__(self, family: str) -> None:
        super().__init__()
        self.host = self.addresses[0 if family == "IPv4" else 2]
        self.mtu: Words = ["--mtu", "1200" if family == "IPv4" else "1400"]
        self.black_hole(600 if family == "IPv4" else 1280)


@pytest.fixture(scope="module", params=["IPv4", "IPv6"])
def black_hole(request: pytest.FixtureRequest) -> Iterator[BlackHole]:
    made = BlackHole(request.param)
    yield made
    made.close()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Words:
    """The options for a certificate of 9 KiB."""
    folder = tmp_path_factory.mktemp("large")
    large_certificate(folder, names=200)
    return ["--x509certfile", folder / "large.pem", "--x509keyfile", folder / "large.key"]


@pytest.mark.slow
@pytest.mark.peer
@pytest.mark.parametrize("name", CLIENTS)
def test_a_server_passes_a_path_that_drops_large_datagrams_in_silence(
    black_hole: BlackHole, large: Words, name: str
) -> None:
    """Of 9 KiB of certificate no datagram of 1200 bytes arrives; those of 508 do."""
    there = black_hole.host
    commands: dict[str, Words] = {
        "openssl": ["openssl", "s_client", "-dtls1_2", "-connect", interop.url(there, PORT)],
        "gnutls-cli": ["gnutls-cli", "--udp", "--insecure", "--port", str(PORT), there],
        "ours": our_connect(there, PORT, CERT, "--insecure"),
    }
    CLIENTS[name](there, PORT, "X.509")  # the program is there, or the test is skipped
    with serving(black_hole.server, there, *large, *black_hole.mtu):
        hears_its_echo([*black_hole.client, *commands[name]])


@pytest.mark.slow
def test_a_client_passes_a_path_that_drops_large_datagrams_in_silence(
    black_hole: BlackHole, large: Words
) -> None:
    """A server is the one to be reached over it, with 9 KiB of a client's certificate."""
    demand: Words = ["--require-client-cert", "--x509cafile", large[1]]
    with serving(black_hole.server, black_hole.host, *LOCALHOST, *demand):
        own = [*large, *black_hole.mtu]
        hears_its_echo([*black_hole.client, *our_connect(black_hole.host, PORT, CERT, *own)])


# --- a link that is slower than its server --------------------------------------------------------

BURST = """
import asyncio, sys
from gnutls_cookie import PSKCredentials, aio

options = {"credentials": PSKCredentials("sensor", b"0123456789abcdef")}

async def send_all(connection):
    async for _ in connection:
        for _ in range(1000):
            await connection.send(bytes(1000))

async def main():
    async with await aio.start_server(send_all, sys.argv[1], 5684, **options) as server:
        print("ready", flush=True)
        while server.counters.server.messages_sent < 1000:
            await asyncio.sleep(0.01)
        print("lost:", server.counters.send_errors, flush=True)

asyncio.run(main())
"""
ASKS = """
import sys
from gnutls_cookie import PSKCredentials, blocking

credentials = PSKCredentials("sensor", b"0123456789abcdef")
with blocking.connect(sys.argv[1], 5684, credentials=credentials) as connection:
    connection.send(b"all of them")
    sys.stdin.read()
"""

SINK = """
import sys
from gnutls_cookie import PSKCredentials, blocking

def take(connection):
    for _ in connection:
        pass

credentials = PSKCredentials("sensor", b"0123456789abcdef")
with blocking.start_server(take, sys.argv[1], 5684, credentials=credentials) as server:
    print("ready", flush=True)
    sys.stdin.read()
"""
UPLOAD = {
    "blocking": """
import sys
from gnutls_cookie import PSKCredentials, blocking

credentials = PSKCredentials("sensor", b"0123456789abcdef")
with blocking.connect(sys.argv[1], 5684, credentials=credentials) as connection:
    for _ in range(1000):
        connection.send(bytes(1000))
    print("all of them", flush=True)
    sys.stdin.read()
""",
    "aio": """
import asyncio, sys
from gnutls_cookie import PSKCredentials, aio

credentials = PSKCredentials("sensor", b"0123456789abcdef")

async def main():
    async with aio.connect(sys.argv[1], 5684, credentials=credentials) as connection:
        for _ in range(1000):
            await connection.send(bytes(1000))
        print("all of them", flush=True)
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(main())
""",
}


def test_a_burst_waits_for_a_link_that_is_slower(network: Network) -> None:
    """A megabyte, of which a socket's buffer has room for a fifth: the rest is not lost at once."""
    there, path = network.addresses[0], {"PYTHONPATH": str(ROOT)}
    said = bytearray()
    serves = [*network.server, sys.executable, "-c", BURST, there]
    with network.slowed("100mbit", network.server), running(serves, env=path) as server:
        drive([], lambda: b"ready" in said, server, said)
        with running([*network.client, sys.executable, "-c", ASKS, there], env=path):
            drive([], lambda: b"lost: " in said and said.endswith(b"\n"), server, said)
    assert int(said.split()[-1]) < 100


@pytest.mark.parametrize("adapter", ["blocking", "aio"])
def test_a_clients_burst_waits_as_well(network: Network, adapter: str) -> None:
    """Nine tenths of a megabyte at least leave its host."""
    there = network.addresses[0]
    serves = [*network.server, sys.executable, "-c", SINK, there]
    sends = [*network.client, sys.executable, "-c", UPLOAD[adapter], there]
    said, told, path = bytearray(), bytearray(), {"PYTHONPATH": str(ROOT)}
    with running(serves, env=path) as server:
        drive([], lambda: b"ready" in said, server, said)
        slowed = network.slowed("100mbit", network.client)
        with slowed as count, running(sends, env=path) as client:
            drive([], lambda: b"all of them" in told, client, told)
            deadline = time.monotonic() + SECONDS
            while count() < 900:
                assert time.monotonic() < deadline, count()
                time.sleep(0.05)


# --- a server that is started again ---------------------------------------------------------------

STAYS = """
import sys
from gnutls_cookie import CertificateCredentials, TimedOutError, blocking

host, port, trust, own = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
options = {
    "credentials": CertificateCredentials.from_files(trust=trust),
    "server_name": "localhost",
    "local_address": ("::" if ":" in host else "0.0.0.0", own),
    "handshake_timeout": 60.0,
}
first = blocking.connect(host, port, idle_timeout=1.0, **options)
first.send(b"first")
print(first.receive(60), flush=True)
sys.stdin.readline()
first.send(b"lost")
try:
    print(first.receive(60), flush=True)
except TimedOutError:
    print("gone", flush=True)
first.close()
with blocking.connect(host, port, **options) as second:
    second.send(b"second")
    print(second.receive(60), flush=True)
"""


def serve(network: Network, host: str) -> list[str | Path]:
    command = [*network.server, sys.executable, "-m", "gnutls_cookie", "serve", "--host", host]
    return [*command, "--port", str(PORT), *LOCALHOST]


@contextlib.contextmanager
def killed_at_the_end(network: Network, host: str) -> Iterator[None]:
    """A server that says no goodbye."""
    said = bytearray()
    with running(serve(network, host)) as child:
        drive([], lambda: b"serving on " in said, child, said)
        yield
        child.kill()


@pytest.mark.peer
@pytest.mark.parametrize("number", [0, 2])
def test_a_server_that_is_started_again_serves_clients_at_their_old_ports(
    network: Network, number: int
) -> None:
    """openssl from the port that the dead server knew, gnutls-cli from any, IPv4 and IPv6."""
    there = network.addresses[number]
    any_address = "0.0.0.0" if number == 0 else "[::]"
    commands = {name: client(there, PORT, "X.509") for name, client in CLIENTS.items()}
    commands["openssl"] += ["-bind", f"{any_address}:40001"]
    del commands["ours"]
    for _ in range(2):
        with killed_at_the_end(network, there):
            for command in commands.values():
                hears_its_echo([*network.client, *command])


@pytest.mark.parametrize("number", [0, 2])
def test_our_client_finds_out_that_its_server_was_started_again_and_comes_back(
    network: Network, number: int
) -> None:
    """By the silence; from the same port, IPv4 and IPv6."""
    there = network.addresses[number]
    command = [*network.client, sys.executable, "-c", STAYS, there, str(PORT), str(CERT), "40002"]
    said = bytearray()
    with contextlib.ExitStack() as stack:
        with killed_at_the_end(network, there):
            client = stack.enter_context(running(command, env={"PYTHONPATH": str(ROOT)}))
            drive([], lambda: b"first" in said, client, said)
        with killed_at_the_end(network, there):
            assert client.stdin is not None
            client.stdin.write(b"\n")
            client.stdin.flush()
            drive([], lambda: b"second" in said, client, said)
    assert said.decode().split() == ["b'first'", "gone", "b'second'"]
