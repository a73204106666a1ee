"""Sessions resume: by the tickets of one server, or of any with the same key (RFC 5077)."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import pytest

from gnutls_cookie import CertificateCredentials, KeyRing, PSKCredentials, Session, TicketKey
from gnutls_cookie.errors import GnuTLSError
from tests.support.common import seeded
from tests.support.peers import (
    CERTS,
    KINDS,
    LossyNetwork,
    certificate,
    client_of,
    echoes,
    psk,
    server_of,
    shake,
    trusting,
    wait_for_timer,
)

SECRET = b"a secret of tickets, and of nothing else"


def meet(
    server_options: dict[str, Any], kind: str = "X.509", **client_options: Any
) -> tuple[Session, Session]:
    """A client and a server after their handshake, and an echo."""
    client, server = client_of(kind, **client_options), server_of(kind, **server_options)
    shake(client, server)
    assert echoes(client, server)
    assert client.resumed == server.resumed
    return client, server


# --- who resumes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_client_resumes_at_any_server_with_the_key(kind: str) -> None:
    """What was agreed on comes back, and who the peer is; the keys are fresh."""
    first, _ = meet({"tickets": TicketKey.from_secret(SECRET)}, kind)
    assert not first.resumed
    second, server = meet(
        {"tickets": TicketKey.from_secret(SECRET)}, kind, resume=first.session_data
    )
    assert second.resumed
    assert second.cipher == first.cipher
    assert second.peer_certificates == first.peer_certificates
    assert server.psk_identity == (psk().identity if kind == "PSK" else None)
    assert server.server_name == ("localhost" if kind == "X.509" else None)
    assert second.export_keying_material("EXPERIMENTAL", 32) == server.export_keying_material(
        "EXPERIMENTAL", 32
    )
    assert second.export_keying_material("EXPERIMENTAL", 32) != first.export_keying_material(
        "EXPERIMENTAL", 32
    )
    third, _ = meet({"tickets": TicketKey.from_secret(SECRET)}, kind, resume=second.session_data)
    assert third.resumed


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("key", [TicketKey.random(), TicketKey.from_secret(SECRET + b"!"), None])
def test_another_key_means_a_full_handshake(kind: str, key: TicketKey | None) -> None:
    """And with no key at all: the client is served as if it came for the first time."""
    first, _ = meet({"tickets": TicketKey.from_secret(SECRET)}, kind)
    second, _ = meet({"tickets": key}, kind, resume=first.session_data)
    assert not second.resumed


def test_session_without_a_ticket_is_not_resumed() -> None:
    """Its data is taken, and of no use."""
    first, _ = meet({})
    assert not meet({"tickets": TicketKey.random()}, resume=first.session_data)[0].resumed


def test_resumed_client_keeps_its_certificate() -> None:
    """The server knows who it is without being shown it again."""
    key = TicketKey.random()
    known = certificate(trust="localhost")
    data = None
    for resumed in (False, True):
        client = Session("client", known, server_name="localhost", resume=data)
        server = Session("server", known, verify_peer=True, tickets=key)
        shake(client, server)
        assert (client.resumed, server.resumed) == (resumed, resumed)
        assert server.peer_certificate == client.peer_certificate is not None
        data = client.session_data


STRICT: dict[str, dict[str, Any]] = {
    "require": {"client_certificate": "require"},
    "verified if there": {"client_certificate": "request", "verify_peer": True},
    "verified": {"verify_peer": True},
}


@pytest.mark.parametrize("other", [*STRICT, "a shared key", "either"])
def test_ticket_of_a_server_that_asks_for_less_does_not_open_one_that_asks_for_more(
    other: str,
) -> None:
    """Of two with one key: else whoever is let in at one would be at the other."""
    key = TicketKey.random()
    known = certificate(trust="localhost")
    servers = {name: Session("server", known, tickets=key, **STRICT[name]) for name in STRICT}
    servers["a shared key"] = Session("server", psk(), tickets=key)
    servers["either"] = Session("server", [known, psk()], tickets=key)
    for lax in ({}, {"client_certificate": "request"}, STRICT["verified if there"]):
        if lax == STRICT.get(other):
            continue
        stranger = Session("client", trusting(), server_name="localhost")
        shake(stranger, Session("server", known, tickets=key, **lax))
        again = Session("client", trusting(), server_name="localhost", resume=stranger.session_data)
        try:
            shake(again, servers[other])
        except GnuTLSError:  # no certificate, or no key exchange
            continue
        assert not again.resumed
        assert other in ("verified if there", "either")
        return


def test_resumed_handshake_survives_a_bad_network() -> None:
    """Here the client's Finished is the last message, and its loss is the client's to mend."""
    chance = seeded()
    key = TicketKey.random()
    data = meet({"tickets": key})[0].session_data
    for _ in range(10):
        client = client_of("X.509", resume=data)
        server = server_of("X.509", tickets=key)
        network = LossyNetwork(chance, 0.2, client, server)
        for _ in range(2000):
            client.handshake()
            server.handshake()
            network.carry()
            for session in (client, server):
                if session.established:
                    session.receive()
            if client.established and server.established:
                break
            wait_for_timer(client, server)
        assert client.resumed
        assert server.resumed


# --- what a client keeps --------------------------------------------------------------------------


def test_data_is_there_once_the_handshake_is_complete() -> None:
    """For a client alone."""
    client, server = client_of("PSK"), server_of("PSK", tickets=TicketKey.random())
    seen = [client.session_data]
    shake(client, server)
    seen += [server.session_data, client.session_data]
    assert [data is None for data in seen] == [True, True, False]


def test_data_of_an_unverified_server_does_not_pass_for_a_verified_one() -> None:
    """A resumed handshake shows no certificate: what was verified before is what counts."""
    key = TicketKey.random()
    careless, _ = meet({"tickets": key}, verify_peer=False, server_name="localhost")
    with pytest.raises(ValueError, match="resume is of a session that did not verify its server"):
        client_of("X.509", resume=careless.session_data)
    careful, _ = meet({"tickets": key})
    with pytest.raises(ValueError, match="resume is of a session with a server of another name"):
        client_of("X.509", server_name="127.0.0.1", resume=careful.session_data)
    for data in (careless.session_data, careful.session_data):
        assert meet({"tickets": key}, verify_peer=False, resume=data)[0].resumed


def test_data_of_other_trust_or_another_identity_is_refused() -> None:
    """The server that it resumes with would be one that this session does not know."""
    key = TicketKey.random()
    first, _ = meet({"tickets": key})
    others = CertificateCredentials.from_files(trust=CERTS / "stranger.pem")
    with pytest.raises(ValueError, match="resume is of a session that trusted others"):
        Session("client", others, server_name="localhost", resume=first.session_data)
    careless = Session("client", others, verify_peer=False, resume=first.session_data)
    assert careless.role == "client"
    secrets = {"a": b"k" * 16, "b": b"K" * 16}
    client = Session("client", PSKCredentials("a", secrets["a"]))
    server = Session("server", PSKCredentials(lookup=secrets), tickets=key)
    shake(client, server)
    data = client.session_data
    with pytest.raises(ValueError, match="resume is of a session with another identity"):
        Session("client", PSKCredentials("b", secrets["b"]), resume=data)
    again = Session("client", PSKCredentials("a", secrets["a"]), resume=data)
    shake(again, Session("server", PSKCredentials(lookup=secrets), tickets=key))
    assert again.resumed


def test_what_is_no_session_data_is_refused() -> None:
    """Each prefix of it, and with any bit changed: libgnutls would crash on some."""
    key = TicketKey.random()
    data = meet({"tickets": key})[0].session_data
    assert data is not None
    chance = seeded()
    wrongs = [data[:size] for size in range(len(data))] + [bytes(1000), data + b"x"]
    for at in range(len(data)):
        broken = bytearray(data)
        broken[at] ^= 1 << chance.randrange(8)
        wrongs.append(bytes(broken))
    for wrong in wrongs:
        with pytest.raises(ValueError, match="resume is not what session_data gave"):
            client_of("X.509", resume=wrong)
    for other in ("text", 1):
        with pytest.raises(TypeError, match="resume must be a bytes-like object"):
            client_of("X.509", resume=other)


def test_arguments_that_do_not_go_with_the_role_are_refused() -> None:
    """Tickets are a server's, and what resumes a client's."""
    with pytest.raises(ValueError, match="tickets is for a server"):
        Session("client", psk(), tickets=TicketKey.random())
    with pytest.raises(ValueError, match="resume is for a client"):
        Session("server", psk(), resume=b"x")
    with pytest.raises(TypeError, match="tickets must be a bool or a TicketKey, not bytes"):
        Session("server", psk(), tickets=bytes(64))  # type: ignore[arg-type]


# --- the key --------------------------------------------------------------------------------------


def test_key_follows_from_a_secret_as_documented() -> None:
    """HKDF-SHA512 with a label of its own, made here by the standard library alone."""
    extracted = hmac.new(b"gnutls-cookie", SECRET, hashlib.sha512).digest()
    expected = hmac.new(extracted, b"DTLS session ticket key\x01", hashlib.sha512).digest()
    first, _ = meet({"tickets": TicketKey(expected)})
    assert meet({"tickets": TicketKey.from_secret(SECRET)}, resume=first.session_data)[0].resumed


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: TicketKey(bytes(63)), ValueError, "key must be of 64 bytes, not 63"),
        (lambda: TicketKey("x" * 64), TypeError, "key must be a bytes-like object"),  # type: ignore[arg-type]
        (lambda: TicketKey.from_secret(bytes(15)), ValueError, "secret must be of at least 16"),
        (lambda: TicketKey.from_secret("x"), TypeError, "secret must be a bytes-like"),  # type: ignore[arg-type]
    ],
)
def test_unusable_keys_are_refused(make: Any, error: type[Exception], text: str) -> None:
    """Each error names the argument."""
    with pytest.raises(error, match=text):
        make()


def test_keys_are_not_shown() -> None:
    """Nor what they are made of."""
    assert repr(TicketKey(b"k" * 64)) == "<TicketKey of 64 bytes>"
    assert repr(TicketKey.from_secret(SECRET)) == "<TicketKey from a secret>"
    assert repr(TicketKey.random()) == "<TicketKey of 64 bytes>"


def test_key_knows_whether_it_is_of_a_cookie_secret() -> None:
    """However the two were made of it."""
    same = KeyRing.from_secret(SECRET).prints
    assert TicketKey.from_secret(SECRET).is_of(same)
    assert TicketKey.from_secret(SECRET).is_of(KeyRing(b"x", SECRET).prints)
    assert TicketKey(b"k" * 64).is_of(KeyRing(b"k" * 64).prints)
    assert not TicketKey.from_secret(SECRET + b"!").is_of(same)
    assert not TicketKey.random().is_of(KeyRing.random().prints)


def test_credentials_may_differ_between_nodes() -> None:
    """A resumed handshake uses none: a certificate that was renewed at one node ends no session."""
    key = TicketKey.random()
    first, _ = meet({"tickets": key})
    rsa = CertificateCredentials.from_files(
        "tests/certs/localhost-rsa.pem", "tests/certs/localhost-rsa.key"
    )
    client = client_of("X.509", resume=first.session_data)
    server = Session("server", rsa, tickets=key)
    shake(client, server)
    assert client.resumed
