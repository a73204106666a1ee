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


@pytest.fixture(scope="module")
def black_hole() -> Iterator[Network]:
    made = Network()
    made.black_hole(600)
    yield made
    made.close()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with large.pem and large.key: a certificate of 9 KiB."""
    folder = tmp_path_factory.mktemp("large")
    large_certificate(folder, names=200)
    return folder


@pytest.mark.slow
@pytest.mark.peer
@pytest.mark.parametrize("name", CLIENTS)
def test_a_server_passes_a_path_that_drops_large_datagrams_in_silence(
    black_hole: Network, large: Path, name: str
) -> None:
    """Of 9 KiB of certificate no datagram of 1200 bytes arrives; those of 508 do."""
    there = black_hole.addresses[0]
    files: Words = ["--x509certfile", large / "large.pem", "--x509keyfile", large / "large.key"]
    commands: dict[str, Words] = {
        "openssl": ["openssl", "s_client", "-dtls1_2", "-connect", f"{there}:{PORT}"],
        "gnutls-cli": ["gnutls-cli", "--udp", "--insecure", "--port", str(PORT), there],
        "ours": our_connect(there, PORT, CERT, "--insecure"),
    }
    CLIENTS[name](there, PORT, "X.509")  # the program is there, or the test is skipped
    with serving(black_hole.server, there, *files):
        hears_its_echo([*black_hole.client, *commands[name]])


@pytest.mark.slow
def test_a_client_passes_a_path_that_drops_large_datagrams_in_silence(
    black_hole: Network, large: Path
) -> None:
    """A server is the one to be reached over it, with 9 KiB of a client's certificate."""
    there = black_hole.addresses[0]
    own: Words = ["--x509certfile", large / "large.pem", "--x509keyfile", large / "large.key"]
    demand: Words = ["--require-client-cert", "--x509cafile", large / "large.pem"]
    with serving(black_hole.server, there, *LOCALHOST, *demand):
        hears_its_echo([*black_hole.client, *our_connect(there, PORT, CERT, *own)])


@pytest.mark.slow
def test_an_ipv6_path_of_the_least_mtu_is_passed_in_silence(
    network_1280: Network, large: Path
) -> None:
    """1280 bytes carry 1232: a server that was told 1400 finds it out."""
    there = network_1280.addresses[2]
    files: Words = ["--x509certfile", large / "large.pem", "--x509keyfile", large / "large.key"]
    with serving(network_1280.server, there, *files, "--mtu", "1400"):
        hears_its_echo([*network_1280.client, *our_connect(there, PORT, CERT, "--insecure")])


@pytest.fixture
def network_1280() -> Iterator[Network]:
    made = Network()
    made.black_hole(1280)
    yield made
    made.close()
