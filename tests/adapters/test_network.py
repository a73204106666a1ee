"""Real networks, made of namespaces: hosts with several addresses, paths of an unknown MTU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import interop
from tests.support.network import (
    PORT,
    Network,
    hears_its_echo,
    our_connect,
    serving,
)
from tests.support.peers import CERTS

Client = Callable[[str, int, str], list[str]]

CERT, KEY = CERTS / "localhost.pem", CERTS / "localhost.key"
LOCALHOST: list[str | Path] = ["--x509certfile", CERT, "--x509keyfile", KEY]


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
