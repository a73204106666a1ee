"""What a peer's certificates may cost, before anybody knows whether they are to be trusted.

Each of these would take libgnutls a second or minutes, in one call, of whoever has an address.
"""

from __future__ import annotations

from typing import Any

import pytest

from gnutls_cookie import CertificateCredentials, Session
from gnutls_cookie.errors import CertificateVerificationError
from tests.session.test_guard import ROLES
from tests.support import der
from tests.support.peers import certificate, client_of, deliver, echoes, server_of, shake
from tests.support.sealing import fragment, record

SERVER_HELLO, CERTIFICATE, SERVER_KEY_EXCHANGE, SERVER_HELLO_DONE = 2, 11, 12, 14
CERTIFICATE_VERIFY, CLIENT_KEY_EXCHANGE, CHANGE_CIPHER_SPEC = 15, 16, 20
ECDHE_RSA_AES_128_GCM_SHA256 = b"\xc0\x2f"
RSA_SHA256 = b"\x04\x01"
POINT = bytes.fromhex(  # of P-256: its base point, as anybody's share
    "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"
    "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"
)
ORDINARY = der.key((1 << 2047) + 1, 65537)


def sized(data: bytes, size: int = 3) -> bytes:
    return len(data).to_bytes(size, "big") + data


def certificates(*ders: bytes) -> bytes:
    """The body of a Certificate (RFC 5246 7.4.2)."""
    return sized(b"".join(map(sized, ders)))


class Liar:
    """What a peer may write without any key, message by message."""

    def __init__(self, victim: Session, seq: int) -> None:
        self._victim = victim
        self._seq = seq
        self._records = 1000

    def say(self, kind: int, body: bytes, piece: int = 1200) -> None:
        """A message, in fragments where it is long."""
        for at in range(0, max(1, len(body)), piece):
            data = fragment(kind, len(body), self._seq, at, body[at : at + piece])
            self._victim.receive_datagram(record(22, data, self._records))
            self._records += 1
        self._seq += 1


def hearing(role: str, body: bytes, **options: Any) -> tuple[Session, Liar]:
    """A session whose peer has said this Certificate, and may go on."""
    if role == "client":
        options = {"server_name": "localhost", **options}
        victim = Session("client", CertificateCredentials(), **options)
        victim.handshake()
        liar = Liar(victim, 0)
        hello = b"\xfe\xfd" + bytes(range(32)) + b"\0" + ECDHE_RSA_AES_128_GCM_SHA256 + b"\0"
        liar.say(SERVER_HELLO, hello)
    else:
        victim = server_of("X.509", client_certificate="require", **options)
        client = client_of("X.509")
        client.handshake()
        deliver(client, victim)
        victim.handshake()
        liar = Liar(victim, 1)
    liar.say(CERTIFICATE, body)
    return victim, liar


def read_all(victim: Session) -> None:
    """A datagram a call."""
    for _ in range(60):
        victim.handshake()


def handshake_with(role: str, key: bytes, **options: Any) -> None:
    """A session hears a certificate with this key, and a signature that may be its."""
    victim, liar = hearing(role, certificates(der.certificate(key)), **options)
    signature = RSA_SHA256 + sized(bytes(2048), 2)
    if role == "client":
        liar.say(SERVER_KEY_EXCHANGE, b"\x03\x00\x17" + sized(POINT, 1) + signature)
        liar.say(SERVER_HELLO_DONE, b"")
    else:
        liar.say(CLIENT_KEY_EXCHANGE, sized(POINT, 1))
        liar.say(CERTIFICATE_VERIFY, signature)
    read_all(victim)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    ("modulus", "exponent"), [(8192, 8000), (8192, 65), (16392, 17)], ids=lambda bits: f"{bits}"
)
def test_rsa_key_whose_signature_would_take_long_is_refused(
    role: str, modulus: int, exponent: int
) -> None:
    """By its size, before a signature is checked. 32,768 bits for both would take 15 s."""
    large = der.key((1 << modulus - 1) + 1, (1 << exponent - 1) + 1)
    for verify in (False, True):
        with pytest.raises(CertificateVerificationError, match="RSA key is too large"):
            handshake_with(role, large, verify_peer=verify)


@pytest.mark.parametrize("role", ROLES)
def test_rsa_key_of_16384_bits_is_taken(role: str) -> None:
    """With an exponent of 64: the signature is looked at, and is none."""
    with pytest.raises(Exception, match="signature"):
        handshake_with(role, der.key((1 << 16383) + 1, (1 << 63) + 1), verify_peer=False)


def names(count: int) -> bytes:
    return der.extension("551d11", der.sequence(*[der.element(0x82, b"a")] * count))


def purposes(count: int) -> bytes:
    return der.extension("551d25", der.sequence(*[der.oid("2a03")] * count))


COSTLY = {
    "names": der.certificate(ORDINARY, extensions=names(1100)),
    "purposes": der.certificate(ORDINARY, extensions=purposes(1100)),
    "extensions": der.certificate(ORDINARY, extensions=der.extension("2a03", b"") * 400),
    "subject": der.certificate(ORDINARY, der.name(*["a"] * 300)),
    "attributes": der.certificate(
        ORDINARY, der.sequence(der.element(der.SET, der.name("a")[4:] * 400))
    ),
    "of unknown length": b"\x30\x80" * 600 + bytes(1200),
    "long tags": b"\x3f\x81\x01\x80" * 1100,
    "deep": der.element(4, der.element(3, b"\0" + der.sequence(*[der.number(1)] * 1100))),
}
MANY = certificates(*[der.certificate(ORDINARY)] * 60)


@pytest.mark.parametrize("is_whole", [True, False], ids=["whole", "fragments"])
@pytest.mark.parametrize("what", [*COSTLY, "many"])
def test_costly_certificate_is_dropped_and_the_genuine_one_taken(what: str, is_whole: bool) -> None:
    """Anybody can write one in a client's name. Nothing of it reaches libgnutls."""
    body = MANY if what == "many" else certificates(COSTLY[what])
    client = Session("client", certificate(trust="localhost"), server_name="localhost")
    server = server_of("X.509", client_certificate="require")
    client.handshake()
    deliver(client, server)
    server.handshake()
    deliver(server, client)
    Liar(server, 1).say(CERTIFICATE, body, 16000 if is_whole else 1000)
    assert server.handshake() is False
    assert server.records_refused == 1
    shake(client, server)
    assert server.peer_certificate is not None
    assert echoes(client, server)


@pytest.mark.parametrize(("role", "count"), [("server", 800), ("client", 3500)])
def test_certificate_with_many_names_is_looked_at(role: str, count: int) -> None:
    """Hundreds of a client, and thousands of a server."""
    body = certificates(der.certificate(ORDINARY, extensions=names(count)))
    victim, _ = hearing(role, body, verify_peer=True)
    with pytest.raises(CertificateVerificationError):
        read_all(victim)
    assert victim.records_refused == 0


@pytest.mark.parametrize("what", COSTLY)
def test_client_drops_what_is_four_times_as_costly(what: str) -> None:
    """A server's certificate may have more names."""
    inside = COSTLY[what]
    victim, _ = hearing("client", certificates(*[inside] * 4), verify_peer=False)
    assert victim.handshake() is False
    assert victim.records_refused == 1
