"""Anonymous key exchange: by itself, and beside credentials that prove something."""

from __future__ import annotations

import pytest

from gnutls_cookie import AnonymousCredentials, GnuTLSError, Session
from gnutls_cookie.session import Credentials
from tests.support.peers import certificate, psk, shake, trusting

GROUPS = ["ANON-ECDH", "ANON-DH"]


@pytest.mark.parametrize("kx", GROUPS)
def test_handshake_without_any_proof(kx: str) -> None:
    """With nothing told of the peer."""
    client = Session("client", AnonymousCredentials(), priority=f"NORMAL:-KX-ALL:+{kx}")
    server = Session("server", AnonymousCredentials())
    shake(client, server)
    assert kx in str(server.description)
    assert server.peer_certificate is None
    assert server.psk_identity is None


def test_client_that_can_prove_itself_beside_those_that_cannot() -> None:
    """One server for both; the server of a client that verifies is verified."""
    credentials: list[Credentials] = [certificate(), psk(), AnonymousCredentials()]
    for client in (
        Session("client", [trusting(), AnonymousCredentials()], server_name="localhost"),
        Session("client", psk()),
        Session("client", AnonymousCredentials()),
    ):
        shake(client, Session("server", credentials))
    strangers: list[Credentials] = [trusting("stranger"), AnonymousCredentials()]
    with pytest.raises(GnuTLSError, match="NOT trusted"):
        shake(Session("client", strangers, server_name="localhost"), Session("server", credentials))


def test_nobody_who_must_have_a_certificate_is_anonymous() -> None:
    """Refused at once."""
    credentials: list[Credentials] = [certificate(), AnonymousCredentials()]
    for options in {"client_certificate": "require"}, {"verify_peer": True}:
        with pytest.raises(ValueError, match="AnonymousCredentials"):
            Session("server", credentials, **options)


def test_session_with_an_unknown_server_is_no_way_around_verification() -> None:
    """What an anonymous handshake gave resumes with who takes that, and with nobody else."""
    anonymous = Session("client", AnonymousCredentials())
    shake(anonymous, Session("server", AnonymousCredentials()))
    mixed = Session("client", [trusting(), AnonymousCredentials()], server_name="localhost")
    shake(mixed, Session("server", AnonymousCredentials()))
    kept = mixed.session_data
    assert kept is not None
    with pytest.raises(ValueError, match="did not verify its server"):
        Session("client", trusting(), server_name="localhost", resume=kept)
    Session("client", [trusting(), AnonymousCredentials()], server_name="localhost", resume=kept)
