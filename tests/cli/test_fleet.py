"""Many nodes behind a balancer: with one secret it does not matter where a client's hellos land."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from gnutls_cookie import (
    Challenge,
    CookieGate,
    Discarded,
    GnuTLSError,
    KeyRing,
    Verified,
    client_data,
)
from gnutls_cookie.reference import wire
from tests.support.common import ROOT
from tests.support.fleet import (
    BALANCERS,
    LINE,
    SECONDS,
    SECRETS,
    Balancer,
    Holder,
    NftBalancer,
    Nginx,
    Node,
    TransparentNginx,
    complete,
    first_hello,
    fleet,
    give,
    our_client,
    s_client,
)
from tests.support.peers import SocketClient

ONE = (SECRETS[0], SECRETS[0])
TWO = SECRETS
CLIENTS = ("ours", "s_client")


@pytest.fixture(scope="module", params=BALANCERS)
def balancer(request: pytest.FixtureRequest) -> Iterator[Balancer]:
    """Each balancer in turn; its namespaces live as long as this module's tests."""
    made = BALANCERS[request.param]()
    yield made
    made.close()


@pytest.fixture(scope="module")
def kernel_balancer() -> Iterator[NftBalancer]:
    """The kernel's alone, for what needs its namespaces."""
    made = NftBalancer()
    yield made
    made.close()


def run_client(kind: str, balancer: Balancer) -> int:
    """A handshake and an echo through the balancer; the HelloVerifyRequests that the client saw."""
    if kind == "s_client":
        return s_client(balancer.address, balancer.prefix)
    with our_client(balancer) as client:
        return complete(client)


def gates(nodes: Sequence[Node]) -> list[tuple[int, int]]:
    """Of each node: hellos challenged, hellos verified. The node that was first comes first."""
    for node in nodes:
        node.end()
    return sorted((node.gate for node in nodes), key=lambda gate: gate[1])


# --- the two hellos of a client -------------------------------------------------------------------


@pytest.mark.peer
@pytest.mark.parametrize("kind", CLIENTS)
def test_one_secret_loses_no_round_trip(kind: str, balancer: Balancer, tmp_path: Path) -> None:
    """Hello 1 at one node, hello 2 at the other: one HelloVerifyRequest, as with one server."""
    with fleet(balancer, tmp_path, "settling", ONE) as nodes:
        assert run_client(kind, balancer) == 1
        assert gates(nodes) == [(1, 0), (0, 1)]


@pytest.mark.peer
@pytest.mark.parametrize("kind", CLIENTS)
def test_two_secrets_lose_one_round_trip(kind: str, balancer: Balancer, tmp_path: Path) -> None:
    """The second node cannot know the cookie: it makes its own, and the client goes on with it."""
    with fleet(balancer, tmp_path, "settling", TWO) as nodes:
        assert run_client(kind, balancer) == 2
        assert gates(nodes) == [(1, 0), (1, 1)]
        assert sorted(node.counters["gate"]["presented"] for node in nodes) == [0, 1]


def test_one_secret_works_with_a_balancer_that_never_settles(
    balancer: Balancer, tmp_path: Path
) -> None:
    """Where each hello goes to the next node, one secret still needs one HelloVerifyRequest."""
    with fleet(balancer, tmp_path, "restless", ONE) as nodes:
        assert run_client("ours", balancer) == 1
        assert gates(nodes) == [(1, 0), (0, 1)]


def test_two_secrets_do_not_bear_it(balancer: Balancer, tmp_path: Path) -> None:
    """Each node gets the other's cookies forever: libgnutls' client gives up at the fifth."""
    with fleet(balancer, tmp_path, "restless", TWO) as nodes, our_client(balancer) as client:
        assert_client_gives_up(client, nodes)


def assert_client_gives_up(client: SocketClient, nodes: Sequence[Node]) -> None:
    """It is challenged until libgnutls' client has had enough, and no node ever verifies."""
    with pytest.raises(GnuTLSError) as caught:
        complete(client)
    assert caught.value.name == "GNUTLS_E_UNEXPECTED_PACKET"
    assert client.challenges == 5
    assert sum(verified for _, verified in gates(nodes)) == 0


# --- nodes that go --------------------------------------------------------------------------------


@pytest.mark.peer
@pytest.mark.parametrize(("secrets", "challenges"), [(ONE, 1), (TWO, 2)], ids=["one", "two"])
@pytest.mark.parametrize("kind", CLIENTS)
def test_a_node_killed_between_the_hellos(
    kind: str, secrets: tuple[bytes, bytes], challenges: int, balancer: Balancer, tmp_path: Path
) -> None:
    """SIGKILL when it has sent the cookie: the other node verifies it, where the secret is one."""
    with fleet(balancer, tmp_path, "settling", secrets) as nodes:
        if kind == "ours":
            with our_client(balancer) as client:
                request = first_hello(client)
                left = kill_the_first(nodes)
                give(client, request)
                assert complete(client) == challenges
        else:
            holder = Holder(balancer)
            try:
                killer = Killer(holder, nodes)
                assert s_client(holder.address, balancer.prefix, meanwhile=killer) == challenges
                assert killer.left is not None
                left = killer.left
            finally:
                holder.close()
        left.end()
        assert left.gate == (challenges - 1, 1)
        assert left.counters["server"]["connected"] == 1


def test_a_session_lives_on_one_node(balancer: Balancer, tmp_path: Path) -> None:
    """What is sent to a dead node's session is discarded in silence at the other; a new handshake
    from the same port is served there, for one HelloVerifyRequest."""
    with fleet(balancer, tmp_path, "settling", ONE) as nodes, our_client(balancer) as client:
        assert complete(client) == 1
        deadline = time.monotonic() + SECONDS
        while not (serves := [node for node in nodes if node.gate[1]]):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        (serving,) = serves
        (other,) = [node for node in nodes if node is not serving]
        serving.kill()
        balancer.lose(nodes.index(serving))
        client.session.send(LINE)
        client.send()
        other.wait_for(lambda: other.counters["gate"]["discarded"], "discarded")
        with our_client(balancer) as again:
            again.sock.close()
            again.sock = client.sock
            assert complete(again) == 1
        other.end()
        assert other.counters["server"]["connected"] == 1


class Killer:
    """Kills the node that has sent a cookie, while the cookie is held back."""

    def __init__(self, holder: Holder, nodes: list[Node]) -> None:
        self._holder = holder
        self._nodes = nodes
        self.left: Node | None = None

    def __call__(self) -> None:
        if self.left is None and self._holder.holding.is_set():
            self.left = kill_the_first(self._nodes)
            self._holder.release()


def kill_the_first(nodes: list[Node]) -> Node:
    """Kill the node that has challenged a client; gives the other one."""
    deadline = time.monotonic() + SECONDS
    while not (first := [node for node in nodes if node.gate[0]]):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    first[0].kill()
    (left,) = [node for node in nodes if node is not first[0]]
    return left


# --- the secret -----------------------------------------------------------------------------------


def test_a_secret_is_replaced_node_by_node(balancer: Balancer, tmp_path: Path) -> None:
    """SIGHUP to one node after the other: meanwhile a client may lose a round trip, no more."""
    new = b"the secret that follows it"
    with fleet(balancer, tmp_path, "settling", ONE) as nodes:
        assert run_client("ours", balancer) == 1
        for node, challenges in zip(nodes, (2, 1), strict=True):
            node.put(new)
            node.reload()
            assert run_client("ours", balancer) == challenges


@pytest.mark.parametrize("ahead", [0.5, 30.0], ids=["half a second", "half a period"])
def test_clocks_that_disagree_cost_a_round_trip_at_a_change_of_keys(ahead: float) -> None:
    """Of two nodes one has the next period's key already. It knows the other's cookies; the other
    does not know its own, and challenges once more. Away from the change nothing is lost."""
    period = 60.0
    change = 1_000 * period
    slow, fast = (CookieGate(KeyRing.from_secret(SECRETS[0], period)) for _ in range(2))

    def round_trips(first: CookieGate, second: CookieGate, now: float) -> int:
        """Challenges that a client sees whose hello 1 is at `first`, and the others at `second`."""
        who = client_data.sockaddr(("192.0.2.7", 40000))
        clocks = {id(slow): now, id(fast): now + ahead}
        hello, gate, challenges = wire.client_hello(), first, 0
        while True:
            match gate.receive(hello, who, clocks[id(gate)]):
                case Verified():
                    return challenges
                case Challenge(datagram):
                    challenges += 1
                    assert challenges < 5
                    request = wire.HelloVerifyRequest.decode(datagram)
                    hello = wire.client_hello(
                        cookie=request.cookie, record_seq=challenges, message_seq=challenges
                    )
                    gate = second
                case Discarded(reason):
                    raise AssertionError(reason)

    at_change = change - ahead / 2
    assert round_trips(slow, fast, at_change) == 1
    assert round_trips(fast, slow, at_change) == 2
    for quiet in (change - ahead - 1, change + 1):
        assert round_trips(slow, fast, quiet) == 1
        assert round_trips(fast, slow, quiet) == 1


# --- the balancers that the guide names -----------------------------------------------------------


@pytest.mark.peer
def test_the_rules_of_the_guide_spread_clients(
    kernel_balancer: NftBalancer, tmp_path: Path
) -> None:
    """The nftables rules of docs/fleet.md use both nodes, and keep each client at its own."""
    with fleet(kernel_balancer, tmp_path, "hashed", TWO) as nodes:
        for _ in range(24):
            assert run_client("ours", kernel_balancer) == 1
        assert run_client("s_client", kernel_balancer) == 1
        counted = gates(nodes)
        assert all(challenged == verified > 0 for challenged, verified in counted)
        assert sum(verified for _, verified in counted) == 25


def test_the_rules_of_the_guide_lose_a_node(kernel_balancer: NftBalancer, tmp_path: Path) -> None:
    """Its clients get the other node; in mid-exchange that costs nothing."""
    with fleet(kernel_balancer, tmp_path, "hashed", ONE) as nodes:
        with our_client(kernel_balancer) as client:
            request = first_hello(client)
            left = kill_the_first(nodes)
            kernel_balancer.lose(1 - nodes.index(left))
            give(client, request)
            assert complete(client) == 1
        left.end()
        assert left.gate == (0, 1)


# --- nginx ----------------------------------------------------------------------------------------

SESSION = "proxy_timeout 1s;"  # how long nginx keeps the session of a quiet client
GAP = 1.5  # seconds between hello 1 and hello 2: that session is over


@pytest.mark.peer
@pytest.mark.usefixtures("kernel_balancer")
@pytest.mark.parametrize("words", [[], pytest.param(["nginx"], marks=pytest.mark.long)], ids=str)
def test_the_example_shows_what_a_shared_secret_is_for(words: list[str]) -> None:
    """One round trip where all nodes have it, two where each has its own; nothing is left."""
    command = [sys.executable, str(ROOT / "examples" / "fleet.py"), *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as shown:
        said, _ = shown.communicate(timeout=10 * SECONDS)
    assert shown.returncode == 0
    assert re.findall(r"served by node-\d; HelloVerifyRequests: (\d)", said) == ["1", "2"]
    assert "HelloVerifyRequests: 1 each" in said
    left = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout
    assert f"fleet-{shown.pid}-" not in left


@pytest.mark.peer
@pytest.mark.parametrize("secrets", [ONE, TWO], ids=["one", "two"])
def test_nginx_keeps_a_client_at_its_node(secrets: tuple[bytes, bytes], tmp_path: Path) -> None:
    """Within a session both hellos come to one node, and from one port of nginx."""
    with nginx(Nginx(tmp_path, SESSION), tmp_path, secrets) as (balancer, nodes):
        for kind in CLIENTS:
            assert run_client(kind, balancer) == 1
        assert gates(nodes) == [(1, 1), (1, 1)]


@pytest.mark.peer
def test_plain_nginx_changes_the_port_with_the_session(tmp_path: Path) -> None:
    """After it hello 2 comes from another port of nginx: one secret does not help."""
    with (
        nginx(Nginx(tmp_path, SESSION), tmp_path, ONE) as (balancer, nodes),
        our_client(balancer) as client,
    ):
        request = first_hello(client)
        time.sleep(GAP)
        give(client, request)
        assert complete(client) == 2
        assert gates(nodes) == [(1, 0), (1, 1)]


@pytest.mark.peer
@pytest.mark.parametrize("option", ["proxy_requests 1;", "proxy_responses 1;"])
def test_plain_nginx_must_not_end_a_session_early(option: str, tmp_path: Path) -> None:
    """With a session, and so a port, for each hello no cookie is ever right."""
    with (
        nginx(Nginx(tmp_path, option), tmp_path, ONE) as (balancer, nodes),
        our_client(balancer) as client,
    ):
        assert_client_gives_up(client, nodes)


@pytest.mark.peer
@pytest.mark.parametrize(("secrets", "challenges"), [(ONE, 1), (TWO, 2)], ids=["one", "two"])
def test_transparent_nginx_keeps_the_address(
    secrets: tuple[bytes, bytes], challenges: int, tmp_path: Path
) -> None:
    """Hello 2 after the session goes to the other node, with the client's own address: it is
    verified there, where the secret is one."""
    with (
        nginx(TransparentNginx(tmp_path, SESSION), tmp_path, secrets) as (balancer, nodes),
        our_client(balancer) as client,
    ):
        request = first_hello(client)
        time.sleep(GAP)
        give(client, request)
        assert complete(client) == challenges
        assert gates(nodes) == [(1, 0), (challenges - 1, 1)]


@pytest.mark.peer
def test_transparent_nginx_notices_a_dead_node(tmp_path: Path) -> None:
    """Within a session, by what the node's kernel says: that is addressed to the client."""
    with (
        nginx(TransparentNginx(tmp_path, "proxy_timeout 1h;"), tmp_path, ONE) as (balancer, nodes),
        our_client(balancer) as client,
    ):
        request = first_hello(client)
        left = kill_the_first(nodes)
        give(client, request)
        assert complete(client) == 1
        left.end()
        assert left.gate == (0, 1)


@contextmanager
def nginx(
    balancer: Nginx, folder: Path, secrets: tuple[bytes, bytes]
) -> Iterator[tuple[Nginx, list[Node]]]:
    """Two nodes behind nginx."""
    try:
        with fleet(balancer, folder, "nginx", secrets) as nodes:
            yield balancer, nodes
    finally:
        balancer.close()
