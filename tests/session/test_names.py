"""The server name extension (RFC 6066) and the size of records (RFC 8449)."""

from __future__ import annotations

from typing import Any

import pytest

from gnutls_cookie import GnuTLSError, Server, Session
from gnutls_cookie.errors import FatalAlertError
from tests.support.peers import (
    certificate,
    client_of,
    deliver,
    echoes,
    established,
    messages,
    server_of,
    shake,
)


def asked(client: dict[str, Any], *names: str) -> str | None:
    """The name that a server which goes by `names` is asked for."""
    server = server_of("X.509", server_names=names)
    shake(client_of("X.509", **client), server)
    return server.server_name


@pytest.mark.parametrize(
    ("client", "name"),
    [
        ({}, "localhost"),
        ({"sni": "other.example"}, "other.example"),
        ({"sni": ""}, None),
        ({"server_name": "127.0.0.1"}, None),
        ({"server_name": "127.0.0.1", "sni": "localhost"}, "localhost"),
    ],
)
def test_name_that_is_asked_for_is_not_the_one_that_is_verified(
    client: dict[str, Any], name: str | None
) -> None:
    """sni in the place of server_name; "" is none."""
    assert asked(client) == name
    assert client_of("X.509", **client).server_name == name


@pytest.mark.parametrize("names", [["localhost"], ["a.example", "LocalHost"], []])
def test_server_that_goes_by_the_name(names: list[str]) -> None:
    """In any case of letters; one without names goes by all."""
    assert asked({}, *names) == "localhost"
    assert asked({"sni": ""}, *names) is None


@pytest.mark.parametrize("names", [["example.org"], ["localhos", "localhost2", "host"]])
def test_server_of_other_names_refuses(names: list[str]) -> None:
    """unrecognized_name, on both sides."""
    client, server = client_of("X.509"), server_of("X.509", server_names=names)
    client.handshake()
    deliver(client, server)
    with pytest.raises(GnuTLSError) as caught:
        server.handshake()
    assert caught.value.name == "GNUTLS_E_UNRECOGNIZED_NAME"
    deliver(server, client)
    with pytest.raises(FatalAlertError) as told:
        client.handshake()
    assert "name" in told.value.detail.lower()


@pytest.mark.parametrize("side", ["client", "server"])
def test_peer_sends_no_longer_records_than_it_may(side: str) -> None:
    """record_size bounds the other's data_mtu, and messages of that size go through."""
    client, server = client_of("PSK"), server_of("PSK")
    if side == "client":
        client = client_of("PSK", record_size=600)
    else:
        server = server_of("PSK", record_size=600)
    shake(client, server)
    sender, receiver = (server, client) if side == "client" else (client, server)
    assert sender.data_mtu == 600
    sender.send(bytes(sender.data_mtu))
    deliver(sender, receiver)
    assert messages(receiver) == [bytes(sender.data_mtu)]
    assert echoes(client, server)


def test_records_are_of_any_size_by_default() -> None:
    """What fits the MTU."""
    client, server = established("PSK")
    assert client.data_mtu == server.data_mtu > 1000


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: server_of("PSK", sni="a"), ValueError, "sni is for a client"),
        (lambda: client_of("PSK", sni=5), TypeError, "sni"),
        (lambda: client_of("PSK", sni=b""), TypeError, "sni"),
        (lambda: client_of("PSK", sni="a\0b"), ValueError, "sni"),
        (lambda: client_of("PSK", sni="x" * 256), ValueError, "sni must be of 1..255 bytes"),
        (lambda: client_of("X.509", server_name=5), TypeError, "server_name must be a str"),
        (lambda: client_of("X.509", server_name="a" * 256), ValueError, "server_name must be of 1"),
        (lambda: client_of("PSK", server_names=["a"]), ValueError, "server_names is for a server"),
        (lambda: server_of("PSK", server_names="a"), TypeError, "server_names must be a list"),
        (lambda: server_of("PSK", server_names=[5]), TypeError, "server_names"),
        (lambda: server_of("PSK", server_names=[""]), ValueError, "server_names"),
        (lambda: server_of("PSK", server_names=["a\0b"]), ValueError, "server_names"),
        (lambda: server_of("PSK", record_size=511), ValueError, "record_size"),
        (lambda: server_of("PSK", record_size=16385), ValueError, "record_size"),
        (lambda: server_of("PSK", record_size="512"), TypeError, "record_size"),
        (lambda: Server(certificate(), server_names="a"), TypeError, "server_names"),
        (lambda: Session("client", certificate(), sni=True, verify_peer=False), TypeError, "sni"),  # type: ignore[arg-type]
    ],
)
def test_names_and_sizes_that_cannot_be(make: Any, error: type[Exception], text: str) -> None:
    """An error that names the argument."""
    with pytest.raises(error, match=text):
        make()
