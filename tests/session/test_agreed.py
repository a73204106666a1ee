"""What both sides learn of their session and of each other: protocols, names, chains, keys."""

from __future__ import annotations

import contextlib
import ctypes
import ssl
from typing import Any

import pytest

from gnutls_cookie import (
    CertificateCredentials,
    CertificateNames,
    FatalAlertError,
    GnuTLSError,
    PSKCredentials,
    Session,
    blocking,
)
from gnutls_cookie.certificates import matches, names_of
from gnutls_cookie.client import Client
from gnutls_cookie.server import Server
from tests.support.authority import authority
from tests.support.common import libgnutls, seeded
from tests.support.peers import (
    CERTS,
    certificate,
    client_of,
    deliver,
    established,
    messages,
    pair,
    psk,
    server_of,
    shake,
    trusting,
)

NO_PROTOCOL = -344  # GNUTLS_E_NO_APPLICATION_PROTOCOL
LABEL = "EXPERIMENTAL gnutls-cookie"


def agreed_on(client: Any, server: Any, kind: str = "PSK") -> tuple[str | None, str | None]:
    """What a client and a server with these names of protocols have in common."""
    one, other = client_of(kind, alpn=client), server_of(kind, alpn=server)
    assert (one.alpn, other.alpn) == (None, None)
    shake(one, other)
    return one.alpn, other.alpn


# --- ALPN -----------------------------------------------------------------------------------------


def test_protocol_is_the_first_of_the_client_that_the_server_has() -> None:
    """RFC 7301 leaves the choice to the server; libgnutls goes by the client's order."""
    assert agreed_on(["h2", "coap", "x"], ["x", "coap"]) == ("coap", "coap")
    assert agreed_on("coap", ("coap",)) == ("coap", "coap")
    assert agreed_on(["é" * 15, "a"], ["é" * 15]) == ("é" * 15, "é" * 15)
    eight = [f"{number}" * 31 for number in range(8)]
    assert agreed_on(eight[::-1], eight) == (eight[7], eight[7])


def test_without_a_common_protocol_there_is_a_session_without_one() -> None:
    """Unless it is required, nobody has to have one."""
    for client, server in ((["a"], ["b"]), ([], ["b"]), (["a"], [])):
        assert agreed_on(client, server) == (None, None)


@pytest.mark.parametrize("offered", [["b"], []])
def test_server_that_requires_a_protocol_refuses_who_offers_none(offered: list[str]) -> None:
    """The client hears no_application_protocol (RFC 7301 3.2), also where it named none at all."""
    client, server = (
        client_of("PSK", alpn=offered),
        server_of("PSK", alpn="a", alpn_required=True),
    )
    with pytest.raises(GnuTLSError) as caught:
        shake(client, server)
    assert caught.value.code == NO_PROTOCOL
    deliver(server, client)
    with pytest.raises(FatalAlertError, match=r"application protocol"):
        client.handshake()


def test_protocol_that_is_required_where_others_are_offered() -> None:
    """alpn_required="offered": a client of other protocols is refused, one of none is not."""
    server = server_of("PSK", alpn="a", alpn_required="offered")
    shake(client_of("PSK"), server)
    assert server.alpn is None
    server = server_of("PSK", alpn="a", alpn_required="offered")
    with pytest.raises(GnuTLSError) as caught:
        shake(client_of("PSK", alpn=["b"]), server)
    assert caught.value.code == NO_PROTOCOL


@pytest.mark.parametrize("chosen", [["b"], []])
def test_client_that_requires_a_protocol_refuses_who_chooses_none(chosen: list[str]) -> None:
    """The server hears of it."""
    client, server = (
        client_of("PSK", alpn="a", alpn_required=True),
        server_of("PSK", alpn=chosen),
    )
    with pytest.raises(GnuTLSError) as caught:
        shake(client, server)
    assert caught.value.code == NO_PROTOCOL
    assert not client.established
    deliver(client, server)
    with pytest.raises(FatalAlertError, match=r"application protocol"):
        server.receive()


def test_required_protocol_is_agreed_on() -> None:
    """With one in common both sides go on."""
    client, server = pair(alpn=["a", "b"], alpn_required=True)
    shake(client, server)
    assert (client.alpn, server.alpn) == ("a", "a")


@pytest.mark.parametrize("kind", [Session, Client, Server])
@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"alpn": b"a"}, TypeError, "alpn must be a list or tuple of str, not bytes"),
        ({"alpn": 1}, TypeError, "alpn must be a list or tuple of str, not int"),
        ({"alpn": {"a"}}, TypeError, "alpn must be a list or tuple of str, not set"),
        ({"alpn": [b"a"]}, TypeError, "alpn must be a str, not bytes"),
        ({"alpn": [""]}, ValueError, "alpn must be of 1"),
        ({"alpn": ["a\0"]}, ValueError, "alpn must not contain NUL"),
        ({"alpn": ["a" * 32]}, ValueError, "alpn must have names of 1..31 bytes, not 32"),
        ({"alpn": ["a"] * 9}, ValueError, "alpn must be of at most 8 names"),
        ({"alpn": "a", "alpn_required": 1}, TypeError, "alpn_required must be a bool, not int"),
        ({"alpn_required": True}, ValueError, "alpn_required needs alpn"),
    ],
)
def test_unusable_protocols_are_refused(
    kind: Any, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    """Each error names the argument."""
    arguments = ("client", psk()) if kind is Session else (psk(),)
    with pytest.raises(error, match=text):
        kind(*arguments, **options)


# --- names and certificates -----------------------------------------------------------------------


def test_server_name_is_known_to_both() -> None:
    """What the client sends the server receives; in both, before the handshake is complete."""
    client, server = pair("X.509")
    assert (client.server_name, server.server_name) == ("localhost", None)
    client.handshake()
    deliver(client, server)
    server.handshake()
    assert server.server_name == "localhost"


def test_address_is_not_sent_as_a_server_name() -> None:
    """RFC 6066 3: literal addresses are not permitted; nor is there a name where none is given."""
    for options in ({"server_name": "127.0.0.1"}, {"server_name": None, "verify_peer": False}):
        client, server = client_of("X.509", **options), server_of("X.509")
        shake(client, server)
        assert (client.server_name, server.server_name) == (None, None)


def test_whole_chain_of_the_peer_is_at_hand() -> None:
    """All certificates that it sent, in its order; a peer without any has none."""
    issuer = authority()
    own, key = (path.read_bytes() for path in issuer.issue("localhost"))
    both = CertificateCredentials(
        own + issuer.certificate.read_bytes(), key, trust=issuer.certificate.read_bytes()
    )
    chain = tuple(
        ssl.PEM_cert_to_DER_cert(pem.decode()) for pem in (own, issuer.certificate.read_bytes())
    )
    client = Session("client", both, server_name="localhost")
    server = Session("server", both, verify_peer=True)
    shake(client, server)
    assert client.peer_certificates == server.peer_certificates == chain
    assert client.peer_certificate == server.peer_certificate == chain[0]
    client, server = client_of("X.509"), server_of("X.509")
    shake(client, server)
    assert server.peer_certificates == ()
    assert server.peer_certificate is None
    assert established("PSK")[0].peer_certificates == ()


def test_names_of_the_peer_are_read_from_its_certificate() -> None:
    """Each kind of them, and who signed it; a kind that libgnutls does not know is left out."""
    issuer = authority()
    every = "DNS:localhost,DNS:*.example.org,IP:192.0.2.1,IP:2001:db8::1,email:a@example.org,"
    pem, key = issuer.issue("localhost", names=every + "URI:coaps://example.org/,RID:1.2.3")
    client = Session(
        "client",
        CertificateCredentials.from_files(trust=issuer.certificate),
        server_name="localhost",
    )
    server = Session("server", CertificateCredentials.from_files(pem, key))
    assert (client.peer_names, server.peer_names) == (None, None)
    shake(client, server)
    assert client.peer_names == CertificateNames(
        subject="CN=localhost",
        issuer="CN=authority",
        dns=("localhost", "*.example.org"),
        ip=("192.0.2.1", "2001:db8::1"),
        email=("a@example.org",),
        uri=("coaps://example.org/",),
    )
    for name, is_its in {
        "localhost": True,
        "LOCALHOST": True,
        "one.example.org": True,
        "one.two.example.org": False,
        "192.0.2.1": True,
        "2001:db8::1": True,
        "192.0.2.2": False,
        "example.org": False,
    }.items():
        assert client.peer_matches(name) == is_its, name
        assert not server.peer_matches(name)
    assert server.peer_names is None
    for wrong in ("", "a\0b"):
        with pytest.raises(ValueError, match="name must"):
            server.peer_matches(wrong)


def test_names_of_a_broken_certificate_are_an_error_or_names() -> None:
    """Any byte of it may be another: libgnutls reads it, or says that it cannot."""
    chance = seeded()
    whole = ssl.PEM_cert_to_DER_cert((CERTS / "localhost.pem").read_text())
    assert names_of(whole).dns == ("localhost",)
    for _ in range(1000):
        broken = bytearray(whole)
        broken[chance.randrange(len(whole))] = chance.randrange(256)
        with contextlib.suppress(GnuTLSError):
            assert isinstance(names_of(bytes(broken)), CertificateNames)
        with contextlib.suppress(GnuTLSError):
            matches(bytes(broken), "localhost")
    for size in range(len(whole)):
        with pytest.raises(GnuTLSError):
            names_of(whole[:size])


# --- keys and facts -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PSK", "X.509"])
def test_exported_keys_are_the_same_on_both_sides(kind: str) -> None:
    """By label, length and context (RFC 5705 4): no context is another thing than an empty one."""
    client, server = established(kind)
    seen = set()
    for label in (LABEL, "x" * 128):
        for context in (None, b"", b"context", bytearray(65535)):
            keys = client.export_keying_material(label, 65535, context)
            assert keys == server.export_keying_material(label, 65535, context)
            assert keys[:32] == client.export_keying_material(label, 32, context)
            seen.add(keys[:32])
    assert len(seen) == 8
    assert established(kind)[0].export_keying_material(LABEL, 32) not in seen


def test_exported_keys_are_those_of_libgnutls() -> None:
    """The thin wrapper around gnutls_prf_rfc5705, in DTLS 1.0 too."""
    for options in ({}, {"priority": "NORMAL:-VERS-ALL:+VERS-DTLS1.0"}):
        client, _ = established("X.509", **options)
        out = ctypes.create_string_buffer(20)
        prf = libgnutls().gnutls_prf_rfc5705
        size, text = ctypes.c_size_t, ctypes.c_char_p
        prf.argtypes = [ctypes.c_void_p, size, text, size, text, size, text]
        assert prf(client.pointer, 4, b"test", 3, b"abc", 20, out) == 0
        assert client.export_keying_material("test", 20, b"abc") == out.raw


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((b"x", 32), TypeError, "label must be a str"),
        (("", 32), ValueError, "label must be of 1"),
        (("x" * 129, 32), ValueError, "label must be of 1..128 bytes, not 129"),
        (("x", 0), ValueError, "length must be in 1..65535, not 0"),
        (("x", 65536), ValueError, "length must be in 1..65535"),
        (("x", True), TypeError, "length must be an int"),
        (("x", 32, "context"), TypeError, "context must be a bytes-like object"),
        (("x", 32, bytes(65536)), ValueError, "context must be of at most 65535 bytes"),
    ],
)
def test_unusable_arguments_of_the_exporter_are_refused(
    arguments: Any, error: type[Exception], text: str
) -> None:
    """Each error names the argument."""
    client, _ = established()
    with pytest.raises(error, match=text):
        client.export_keying_material(*arguments)


def test_nothing_is_exported_or_said_before_the_end_of_the_handshake() -> None:
    """Half a handshake has no keys of its own."""
    client, server = pair()
    client.handshake()
    deliver(client, server)
    server.handshake()
    deliver(server, client)
    for session in (client, server):
        with pytest.raises(GnuTLSError, match="the handshake is not complete"):
            session.export_keying_material(LABEL, 32)
        facts = session.resumed, session.extended_master_secret, session.safe_renegotiation
        assert facts == (False, False, False)


def test_facts_of_the_handshake_are_told() -> None:
    """Both have the extended master secret and secure renegotiation, unless one leaves it out."""
    client, server = established()
    for session in (client, server):
        assert session.extended_master_secret
        assert session.safe_renegotiation
        assert not session.resumed
    client, server = client_of("PSK", priority="NORMAL:+PSK:%NO_SESSION_HASH"), server_of("PSK")
    shake(client, server)
    assert not client.extended_master_secret
    assert not server.extended_master_secret


def test_pointer_leads_to_all_of_libgnutls() -> None:
    """Another binding of the same library takes it, during the session and after its end."""
    client, server = established("X.509")
    mac = libgnutls().gnutls_mac_get
    mac.argtypes = [ctypes.c_void_p]
    assert mac(client.pointer) == mac(server.pointer) != 0
    client.close()
    assert mac(client.pointer) == mac(server.pointer)
    deliver(client, server)
    assert messages(server) == []


# --- of a server, and of the adapters -------------------------------------------------------------


def test_connections_of_the_adapters_tell_the_same() -> None:
    """One place: the Session of either side, and get_extra_info() by the same names."""
    seen: dict[str, Any] = {}
    names = (
        "peer_names",
        "peer_public_key",
        "alpn",
        "server_name",
        "peer_certificates",
        "resumed",
        "peercert",
        "nothing",
    )

    def handler(connection: blocking.Connection) -> None:
        seen.update({name: connection.get_extra_info(name) for name in names})
        seen["keys"] = connection.session.export_keying_material(LABEL, 16)
        connection.send(connection.receive() or b"")

    with (
        blocking.start_server(
            handler, "127.0.0.1", 0, credentials=certificate(), alpn=["coap"], alpn_required=True
        ) as server,
        blocking.connect(
            *server.address[:2],
            credentials=trusting(),
            server_name="localhost",
            alpn=["x", "coap"],
            alpn_required=True,
        ) as client,
    ):
        client.send(b"done?")
        assert client.receive() == b"done?"
        assert seen.pop("keys") == client.session.export_keying_material(LABEL, 16)
        assert seen == {
            "alpn": "coap",
            "server_name": "localhost",
            "peer_certificates": (),
            "resumed": False,
            "peercert": None,
            "peer_names": None,
            "peer_public_key": None,
            "nothing": None,
        }
        assert client.get_extra_info("alpn") == "coap"
        assert client.get_extra_info("peer_names").subject == "CN=localhost"
        assert client.get_extra_info("peer_public_key") in client.get_extra_info("peercert")
        assert client.get_extra_info("peer_certificates") == (client.get_extra_info("peercert"),)


def test_session_id_is_the_same_on_both_sides() -> None:
    """Before the handshake there is none."""
    client, server = pair("X.509")
    assert (client.session_id, server.session_id) == (b"", b"")
    shake(client, server)
    assert client.session_id == server.session_id
    assert 0 < len(client.session_id) <= 32


@pytest.mark.parametrize("hint", ["plant 7", None])
def test_client_knows_the_hint_of_its_server(hint: str | None) -> None:
    """And nobody else does: without shared keys there is none."""
    server = Session("server", PSKCredentials("sensor-1", bytes(range(1, 17)), hint=hint))
    client = Session("client", PSKCredentials("sensor-1", bytes(range(1, 17))))
    assert client.psk_hint is None
    shake(client, server)
    assert (client.psk_hint, server.psk_hint) == (hint, None)
    others = pair("X.509")
    shake(*others)
    assert [one.psk_hint for one in others] == [None, None]


@pytest.mark.parametrize("wanted", ["ignore", "request"])
def test_client_knows_whether_it_was_asked_for_a_certificate(wanted: Any) -> None:
    """It need not have one."""
    client, server = client_of("X.509"), server_of("X.509", client_certificate=wanted)
    shake(client, server)
    assert client.certificate_requested is (wanted == "request")
    assert not server.certificate_requested


@pytest.mark.parametrize("wanted", [True, False])
def test_whether_it_is_encrypted_first(wanted: bool) -> None:
    """RFC 7366: for suites of CBC, where both have it."""
    cbc = "NORMAL:-CIPHER-ALL:+AES-128-CBC" + ("" if wanted else ":%NO_ETM")
    client, server = client_of("X.509", priority=cbc), server_of("X.509")
    shake(client, server)
    assert client.encrypt_then_mac is server.encrypt_then_mac is wanted
