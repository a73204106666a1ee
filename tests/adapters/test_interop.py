"""Each pair of this project and a DTLS peer made by others: X.509 and PSK, IPv4 and IPv6.

What they see becomes the table of docs/interop.md: python tests/support/interop.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from gnutls_cookie import GnuTLSError
from tests.support import interop as interop_support
from tests.support.interop import (
    ADAPTERS,
    BEGIN,
    CLIENTS,
    END,
    HOSTS,
    KINDS,
    SERVERS,
    TABLE,
    Crash,
    DisallowedName,
    Seen,
    coap_server_refuses_name,
    connected,
    gnutls_cli_crashes_with_gnutls_serv,
    has_psk,
    hello_of,
    meet_client,
    meet_server,
    real_suites,
    rows,
    server_name,
    started,
    takes_certificate,
)
from tests.support.peers import CERTS

Record = Callable[[str, object], None]


def usable(names: dict[str, object], never: bool = False) -> list[tuple[str, str]]:
    """Peers and kinds that a pair is tried with, or those that cannot work."""
    return [
        (name, kind)
        for name, peer in names.items()
        for kind in KINDS
        if (kind in getattr(peer, "never", {})) == never
    ]


@pytest.mark.peer
@pytest.mark.parametrize("network", HOSTS)
@pytest.mark.parametrize(("peer", "kind"), usable({**CLIENTS}))
def test_third_party_client_is_served_by_ours(
    peer: str, kind: str, network: str, record_property: Record
) -> None:
    """One HelloVerifyRequest, the handshake, an answer; a goodbye ends both.

    Some builds of some clients cannot, and tests prove that it is not our side's doing. gnutls-cli
    3.7.9 of Debian 12 crashes after any handshake with PSK: with gnutls-serv, too. libcoap 4.3.1's
    clients with PSK name a server by its IPv6 address, which RFC 6066 3 forbids: libgnutls refuses
    that, and so coap-server-gnutls does, too.
    """
    client, host = CLIENTS[peer], HOSTS[network]
    try:
        works, text = True, meet_client(client, kind, host)
    except Crash:
        assert peer == "gnutls-cli"
        assert gnutls_cli_crashes_with_gnutls_serv(kind, host)
        works, text = False, "crashes after the handshake; with gnutls-serv it does so, too"
    except DisallowedName:
        assert server_name(hello_of(client, kind, host)) == host
        assert coap_server_refuses_name(client, host)
        works = False
        text = "sends the address as server_name (RFC 6066 3); coap-server-gnutls refuses it, too"
    see(record_property, peer, "client", kind, network, works, text)


@pytest.mark.peer
@pytest.mark.parametrize("network", HOSTS)
@pytest.mark.parametrize(("peer", "kind"), usable({**CLIENTS}, never=True))
def test_third_party_client_has_nothing_to_offer(
    peer: str, kind: str, network: str, record_property: Record
) -> None:
    """A pair that cannot work: no cipher suite in the client's hello is of that kind."""
    client = CLIENTS[peer]
    (other,) = set(KINDS) - {kind}
    suites = real_suites(hello_of(client, other, HOSTS[network]))
    assert suites
    assert {has_psk(suite) for suite in suites} == {other == "PSK"}
    see(record_property, peer, "client", kind, network, False, client.never[kind])


@pytest.mark.peer
@pytest.mark.parametrize("peer", [name for name in CLIENTS if "X.509" not in CLIENTS[name].never])
def test_third_party_client_would_refuse_a_stranger(
    peer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That it takes our certificate means something: with other trust it does not.

    libcoap's clients take any that is self-signed, and Botan's goes on with any.
    """
    monkeypatch.setattr(interop_support, "TRUST", str(CERTS / "stranger.pem"))
    client = CLIENTS[peer]
    assert takes_certificate(client, HOSTS["IPv4"]) == (not client.verifies)


@pytest.mark.peer
@pytest.mark.parametrize(("network", "adapter"), list(zip(HOSTS, ADAPTERS, strict=True)))
@pytest.mark.parametrize(("peer", "kind"), usable({**SERVERS}))
def test_our_client_is_served_by_others(
    peer: str, kind: str, network: str, adapter: str, record_property: Record
) -> None:
    """One HelloVerifyRequest, the handshake, an answer, a goodbye that the server understands."""
    text = meet_server(SERVERS[peer], kind, HOSTS[network], adapter)
    see(record_property, peer, "server", kind, network, True, text)


@pytest.mark.peer
@pytest.mark.parametrize("network", HOSTS)
@pytest.mark.parametrize(("peer", "kind"), usable({**SERVERS}, never=True))
def test_third_party_server_has_nothing_to_choose(
    peer: str, kind: str, network: str, record_property: Record
) -> None:
    """A pair that cannot work: the server finds no cipher suite in our hello, and ends it."""
    server = SERVERS[peer]
    with (
        started(server, kind, HOSTS[network]) as (_, port, _),
        pytest.raises(GnuTLSError) as caught,
    ):
        connected("blocking", kind, HOSTS[network], port)
    assert caught.value.name == "GNUTLS_E_SESSION_EOF"
    see(record_property, peer, "server", kind, network, False, server.never[kind])


def test_table_has_a_row_for_each_pair() -> None:
    """docs/interop.md names the pairs that are tested, no more and no fewer."""
    lines = TABLE.read_text().partition(BEGIN)[2].partition(END)[0].splitlines()
    cells = [[cell.strip() for cell in line.split("|")] for line in lines if line.startswith("|")]
    assert [tuple(row[1:4]) for row in cells[2:]] == rows()


def see(
    record: Record, peer: str, role: str, kind: str, network: str, works: bool, text: str
) -> None:
    record("seen", dataclasses.asdict(Seen(peer, role, kind, network, works, text)))
