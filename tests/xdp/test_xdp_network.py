"""Over networks of namespaces: the kernel challenges real clients, and the servers that serve them
never do; what dies on the way; a flood."""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.support import interop
from tests.support.common import ROOT, compile_peer, peer_required, running
from tests.support.fleet import Node
from tests.support.network import PORT, Network, hears_its_echo, ip, our_connect
from tests.support.peers import CERTS
from tests.support.record_hellos import ALPN
from tests.support.run import counters
from tests.support.serve import SECONDS, Served, wait_until
from tests.support.xdp import xdp_required
from tests.support.xdp_host import Host, Word

SECRET, OTHER_SECRET = (secrets.token_hex(32).encode() for _ in range(2))
TRUST = CERTS / "localhost.pem"
# Of Network.addresses, those that the kernel chooses for a server that does not: gnutls-serv.
FAMILIES = {"IPv4": 0, "IPv6": 3}
FLOOD_SECONDS = 8.0
FLOOD_SOURCES = 10_000
FLOOD_FROM = "10.99.0.0"

Client = Callable[[str, int, str], list[str]]
CLIENTS: dict[str, Client] = {
    "openssl": interop.s_client_command,
    "openssl, a hello in fragments": lambda host, port, kind: [
        *interop.s_client_command(host, port, kind),
        *("-mtu", "256", "-alpn", ALPN),
    ],
    "gnutls-cli": interop.gnutls_cli_command,
    "ours": lambda host, port, _: [str(word) for word in our_connect(host, port, TRUST)],
    "JSSE": interop.jsse_command,
}


class Site(Host):
    """A network whose server's host has the program at its interface.

    Attributes:
        network: the hosts.
        secret: the file of the cookie secret.
    """

    def __init__(self, network: Network, folder: Path) -> None:
        super().__init__(list(network.server), "wan")
        self.network = network
        self.secret = folder / "secret"
        self.secret.touch(0o600)
        self.secret.write_bytes(SECRET)

    def guarded(self, *words: Word) -> AbstractContextManager[Served]:
        """`attach` under the secret, once it is attached."""
        own: list[Word] = ["-p", str(PORT), "--cookie-secret-file", self.secret]
        return self.attached(*own, *words)

    def echoes(self, client: Client, host: str) -> None:
        """A client is served."""
        hears_its_echo([*self.network.client, *client(host, PORT, "X.509")])

    @contextmanager
    def node(self, folder: Path, host: str) -> Iterator[Node]:
        """`serve` under the same secret."""
        node = Node(folder, SECRET, host, PORT, self.network.server)
        try:
            yield node
        finally:
            node.kill()


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    xdp_required()
    made = Network()
    yield made
    made.close()


@pytest.fixture
def site(network: Network, tmp_path: Path) -> Iterator[Site]:
    made = Site(network, tmp_path)
    yield made
    made.run("detach", made.interface)  # of a test that has failed, or has killed `attach`


@pytest.fixture(params=FAMILIES)
def there(request: pytest.FixtureRequest) -> str:
    """An address of the server."""
    return Network.addresses[FAMILIES[request.param]]


@pytest.mark.peer
def test_clients_are_challenged_below_a_server(site: Site, there: str, tmp_path: Path) -> None:
    """All are served, and `serve` counts their good cookies, and no challenge."""
    with site.guarded(), site.node(tmp_path / "node", there) as node:
        for client in CLIENTS.values():
            site.echoes(client, there)
        node.end()
        status = site.status()
        challenged, verified = node.gate
        assert (challenged, status["presented"]) == (0, 0)
        assert status["challenged"] >= len(CLIENTS)  # more where one was slow, and sent twice
        assert status["verified"] == verified >= len(CLIENTS)


def test_native_mode_between_two_that_have_it(site: Site, tmp_path: Path) -> None:
    """On veth the other end needs a program of any kind."""
    there, name = Network.addresses[0], site.network.server[3].replace("server", "router")
    router = ["ip", "netns", "exec", name]
    stranger = [sys.executable, "-m", "tests.support.xdp_host", "to-server", "native"]
    subprocess.run([*router, *stranger], check=True, cwd=ROOT, capture_output=True)
    with site.guarded("--mode", "native") as guard, site.node(tmp_path / "node", there) as node:
        assert b"attached to wan in native mode, UDP port 5684\n" in guard.said
        site.echoes(CLIENTS["ours"], there)
        node.end()
        assert node.gate[0] == 0
        assert site.status()["challenged"] >= 1


def test_a_dual_stack_server_needs_mapped_addresses(site: Site, tmp_path: Path) -> None:
    """Its IPv4 clients are ::ffff:a.b.c.d, and its IPv6 clients as ever."""
    with site.guarded("--mapped"), site.node(tmp_path / "node", "::") as node:
        for there in Network.addresses[0], Network.addresses[2]:
            site.echoes(CLIENTS["ours"], there)
        node.end()
        assert node.gate[0] == 0
        assert site.status()["challenged"] >= 2


# gnutls-serv has one session at a time, and its clients here leave without a goodbye.
OF_GNUTLS_SERV = {"IPv4": ("openssl", "JSSE"), "IPv6": ("gnutls-cli", "ours")}


@pytest.mark.peer
@pytest.mark.parametrize(
    ("family", "name"), [(one, name) for one in FAMILIES for name in OF_GNUTLS_SERV[one]]
)
def test_clients_are_challenged_below_gnutls_serv(
    site: Site, tmp_path: Path, family: str, name: str
) -> None:
    """Nobody has recompiled it: it is under `run`, with the secret."""
    there = Network.addresses[FAMILIES[family]]
    with site.guarded(), run_server(site, "gnutls-serv", there, tmp_path) as stats:
        site.echoes(CLIENTS[name], there)
        wait_until(lambda: counters(stats)["verified"] >= 1, "counted")
        assert counters(stats)["challenged"] == 0
        assert site.status()["challenged"] >= 1


@pytest.mark.peer
def test_clients_are_challenged_below_libcoap(site: Site, there: str, tmp_path: Path) -> None:
    """The same of a server whose cookies are made of both addresses."""
    server = interop.SERVERS["coap-server-gnutls"]
    layout = ["--client-data", "coap"]
    with (
        site.guarded(*layout),
        run_server(site, "coap-server-gnutls", there, tmp_path) as stats,
    ):
        command = [sys.executable, "-c", ASKS, there, str(PORT), interop.IDENTITY, interop.HEX]
        done = subprocess.run(
            [*site.network.client, *command, server.request.hex()],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            cwd=ROOT,
        )
        assert server.answers(bytes.fromhex(done.stdout)), done
        wait_until(lambda: counters(stats)["verified"] >= 1, "counted")
        assert counters(stats)["challenged"] == 0
        assert site.status()["challenged"] >= 1


ASKS = """
import sys
from gnutls_cookie import PSKCredentials, blocking

host, port, identity, key, request = sys.argv[1:]
psk = PSKCredentials(identity, bytes.fromhex(key))
with blocking.connect(host, int(port), credentials=psk, handshake_timeout=60.0) as connection:
    connection.send(bytes.fromhex(request))
    print(connection.receive(60).hex())
"""


@contextmanager
def run_server(site: Site, name: str, host: str, folder: Path) -> Iterator[Path]:
    """A server under `run` with the secret; the file of its counters."""
    server, stats = interop.SERVERS[name], folder / "stats.json"
    run: list[Word] = [sys.executable, "-m", "gnutls_cookie", "run", "--stats", stats]
    kind = "PSK" if name == "coap-server-gnutls" else "X.509"
    command = server.command(host, PORT - server.offset, kind)
    words = [*run, "--cookie-secret-file", site.secret, "--", *command]
    with running([*site.network.server, *words]) as child:
        Served(child, PORT).wait_for(server.ready.decode())
        yield stats


# --- in the middle of an exchange -----------------------------------------------------------------

# A client that stops between its two hellos until it is told to go on.
STOPS = """
import socket, sys, time
from gnutls_cookie import CertificateCredentials, Session
from tests.support.peers import SocketClient

host, port, trust = sys.argv[1], int(sys.argv[2]), sys.argv[3]
sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
sock.connect((host, port))
sock.settimeout(1)
credentials = CertificateCredentials.from_files(trust=trust)
# No timer goes off while it has stopped.
times = {"retransmit_timeout": 60.0, "handshake_timeout": 300.0}
session = Session("client", credentials, server_name="localhost", **times)
client = SocketClient(sock, session)
client.go_on()
first = sock.recv(65535)
print("challenged", flush=True)
sys.stdin.readline()
session.receive_datagram(first)
client.go_on()
while not session.established:
    try:
        client.readable()
    except TimeoutError:
        client.go_on()
print(client.challenges, "more")
"""


@contextmanager
def stopped(site: Site, host: str) -> Iterator[Callable[[], int]]:
    """A client that has got its cookie; a function has it go on, and gives its challenges more."""
    command = [*site.network.client, sys.executable, "-c", STOPS, host, str(PORT), str(TRUST)]
    with running(command, {"PYTHONPATH": str(ROOT)}) as child:
        said = Served(child, PORT)
        said.wait_for("challenged\n")

        def go_on() -> int:
            assert child.stdin is not None
            child.stdin.write(b"\n")
            child.stdin.flush()
            return int(said.wait_for(r"(\d+) more\n")[1])

        yield go_on


def test_a_key_change_costs_a_client_one_round_trip(site: Site, there: str, tmp_path: Path) -> None:
    """The secret is another one between its two hellos: the kernel challenges once more."""
    with site.guarded() as guard, site.node(tmp_path / "node", there) as node:
        with stopped(site, there) as go_on:
            node.put(OTHER_SECRET)
            node.reload()
            site.secret.write_bytes(OTHER_SECRET)
            guard.child.send_signal(signal.SIGHUP)
            guard.wait_for("read anew")
            assert go_on() == 1
        node.end()
        assert node.gate[0] == 0
        assert site.status()["presented"] >= 1


def test_a_server_that_is_killed_and_started_again_is_not_noticed(
    site: Site, there: str, tmp_path: Path
) -> None:
    """Between a client's two hellos: the cookie of the first is good for the other server."""
    with (
        site.guarded(),
        site.node(tmp_path / "first", there) as first,
        stopped(site, there) as go_on,
    ):
        first.kill()
        with site.node(tmp_path / "second", there) as second:
            assert go_on() == 0
            second.end()
            assert second.gate[0] == 0


def test_without_its_process_the_program_lets_everybody_in(site: Site, tmp_path: Path) -> None:
    """Once the keys have expired the server challenges; attached again, the kernel does."""
    there = Network.addresses[0]
    client = CLIENTS["ours"]
    with site.node(tmp_path / "node", there) as node:
        with site.guarded("--rotate", "1") as guard:
            guard.child.kill()
            guard.child.wait(SECONDS)
        wait_until(lambda: site.status()["keys_seconds"] == 0, "expired")
        site.echoes(client, there)
        expired = site.status()
        assert (expired["challenged"], expired["expired"] >= 2) == (0, True)
        node.wait_for(lambda: node.gate[1] >= 1, "counted")
        challenged, verified = node.gate
        assert challenged >= 1
        with site.guarded() as guard:
            site.echoes(client, there)
            status = site.status()
            assert guard.end() == 0
            assert status["expired"] == expired["expired"]
            assert status["challenged"] >= 1
        node.wait_for(lambda: node.gate[1] > verified, "counted")
        assert node.gate[0] == challenged
    assert site.status() == {}


# --- a flood --------------------------------------------------------------------------------------

FIFTY = """
import sys
from concurrent.futures import ThreadPoolExecutor
from gnutls_cookie import CertificateCredentials, blocking

host, port, trust = sys.argv[1], int(sys.argv[2]), sys.argv[3]
credentials = CertificateCredentials.from_files(trust=trust)

def echo(number):
    options = {"server_name": "localhost", "handshake_timeout": 60.0}
    with blocking.connect(host, port, credentials=credentials, **options) as connection:
        connection.send(b"hello")
        return connection.receive(60) == b"hello"

with ThreadPoolExecutor(5) as pool:
    print(sum(pool.map(echo, range(50))), "served")
"""


def cpu_seconds(pid: int) -> float:
    """User and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.slow
def test_a_flood_costs_the_server_nothing(network: Network, site: Site, tmp_path: Path) -> None:
    """Hellos of many sources, as fast as a core can send them: 50 of 50 clients are served, and the
    server takes 5 % of a core at most."""
    there = Network.addresses[0]
    client_name, router_name = network.client[3], network.server[3].replace("server", "router")
    ip("-n", client_name, "route", "add", "local", f"{FLOOD_FROM}/16", "dev", "lo")
    ip("-n", router_name, "route", "add", f"{FLOOD_FROM}/16", "via", "10.98.2.1")
    taskset = [peer_required("taskset", "apt install util-linux"), "-c"]
    cores = sorted(os.sched_getaffinity(0))
    program = compile_peer("flood.c", "-O2")
    numbers = [str(FLOOD_SOURCES), str(FLOOD_SECONDS), "0", FLOOD_FROM]
    with site.guarded(), site.node(tmp_path / "node", there) as node:
        flood = [*network.client, *taskset, str(cores[0]), program, there, PORT, "hello", *numbers]
        with running([str(word) for word in flood]) as flooding:
            before, began = cpu_seconds(node.pid), time.monotonic()
            done = subprocess.run(
                [*network.client, sys.executable, "-c", FIFTY, there, str(PORT), str(TRUST)],
                capture_output=True,
                text=True,
                timeout=SECONDS,
                cwd=ROOT,
            )
            assert done.stdout == "50 served\n", done.stderr
            said, _ = flooding.communicate(timeout=SECONDS)
            share = (cpu_seconds(node.pid) - before) / (time.monotonic() - began)
        sent = int(re.findall(rb"(\d+) sent", said)[0])
        status = site.status()
        print(f"{sent} sent, {status['challenged']} challenged, {share:.2%} of a core")
        assert status["challenged"] > sent // 2
        node.end()
        assert node.gate[0] == 0
        assert share <= 0.05
