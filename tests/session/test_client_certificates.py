"""What a server asks of its clients' certificates: ignore, request, require; verified or not."""

from __future__ import annotations

from typing import Any

import pytest

from gnutls_cookie import CertificateCredentials, GnuTLSError, Server, Session
from gnutls_cookie.errors import CertificateVerificationError
from tests.support.authority import pki
from tests.support.peers import Options, certificate, client_of, server_of, shake


def credentials(name: str | None, *, trust: bool = True) -> CertificateCredentials:
    """Certificate NAME of the authority, and trust in it."""
    files = (None, None) if name is None else (pki() / f"{name}.pem", pki() / f"{name}.key")
    return CertificateCredentials.from_files(*files, trust=pki() / "ca.pem" if trust else None)


def shown(client: str | None, *, trust: bool = True, **options: Any) -> bool:
    """Whether the server of a complete handshake has a certificate of the client."""
    server = Session("server", credentials("server", trust=trust), **options)
    shake(Session("client", credentials(client), server_name="localhost"), server)
    return server.peer_certificate is not None


@pytest.mark.peer
@pytest.mark.parametrize("verify", [False, True])
def test_requested_certificate_may_be_missing(verify: bool) -> None:
    """A client with one shows it, a client without one is served all the same."""
    options: Options = {"client_certificate": "request", "verify_peer": verify}
    assert shown("client", **options)
    assert not shown(None, **options)


@pytest.mark.peer
def test_requested_certificate_is_verified_where_there_is_one() -> None:
    """One of another authority, or one for servers, is refused with verify_peer alone."""
    for name in "client", "server":
        assert shown(name, trust=False, client_certificate="request")
    for name, trust in ("client", False), ("server", True):
        with pytest.raises(CertificateVerificationError):
            shown(name, trust=trust, client_certificate="request", verify_peer=True)


@pytest.mark.peer
def test_required_certificate_need_not_be_verified() -> None:
    """Any will do without verify_peer, and one there must be."""
    assert shown("client", trust=False, client_certificate="require")
    with pytest.raises(GnuTLSError):
        shown(None, trust=False, client_certificate="require")


@pytest.mark.peer
def test_certificate_of_an_authority_that_the_server_does_not_name_is_sent() -> None:
    """As gnutls-cli and openssl do: the server refuses it, and does not ask where it is."""
    stranger = certificate("stranger", trust="stranger")
    client = Session("client", stranger, server_name="localhost", verify_peer=False)
    server = Session("server", credentials("server"), verify_peer=True)
    with pytest.raises(CertificateVerificationError, match="issuer is unknown"):
        shake(client, server)


@pytest.mark.peer
def test_nobody_asks_for_a_certificate_by_default() -> None:
    """Nor where it is said; with verify_peer it is required."""
    assert not shown("client")
    assert not shown("client", client_certificate="ignore")
    with pytest.raises(GnuTLSError):
        shown(None, verify_peer=True)


@pytest.mark.peer
def test_client_refuses_a_certificate_that_is_not_for_servers() -> None:
    """RFC 5280 4.2.1.12: extendedKeyUsage names clients alone."""
    client = Session("client", credentials(None), server_name="localhost")
    with pytest.raises(CertificateVerificationError) as caught:
        shake(client, Session("server", credentials("client")))
    assert "purpose" in caught.value.detail


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: server_of("X.509", client_certificate="always"), "must be one of 'ignore'"),
        (lambda: server_of("X.509", client_certificate=True), "must be one of 'ignore'"),
        (lambda: server_of("PSK", client_certificate="request"), "needs CertificateCredentials"),
        (lambda: client_of("X.509", client_certificate="request"), "is for a server"),
        (
            lambda: Server(certificate(), client_certificate="ignore", verify_peer=True),
            "verify_peer needs client_certificate",
        ),
    ],
)
def test_client_certificate_that_cannot_be(make: Any, text: str) -> None:
    """A ValueError that names it."""
    with pytest.raises(ValueError, match=text):
        make()
