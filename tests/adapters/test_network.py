"""Real networks, made of namespaces: hosts with several addresses, paths of an unknown MTU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.session.test_guard import large_certificate
from tests.support import interop
from tests.support.network import (
    PORT,
    Network,
    hears_its_echo,
    our_connect,
    serving,
)
from tests.support.peers import CERTS

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
