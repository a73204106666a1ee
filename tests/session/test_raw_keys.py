"""Raw public keys in place of certificates (RFC 7250), and who trusts them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from gnutls_cookie import (
    CertificateCredentials,
    CertificateVerificationError,
    GnuTLSError,
    Session,
    blocking,
)
from gnutls_cookie.credentials import public_key_of
from tests.session.test_agreed_peers import LINE, serv, serve
from tests.support.common import gnutls_cli
from tests.support.interop import started
from tests.support.peers import CERTS, certificate, echoes, shake, trusting

RAW = (CERTS / "localhost.key").read_bytes()
OTHER = (CERTS / "stranger.key").read_bytes()
CTYPES = "+CTYPE-SRV-RAWPK:+CTYPE-CLI-RAWPK"


def public(name: str) -> bytes:
    """The SubjectPublicKeyInfo of a key of tests/certs, of the certificate that it has."""
    client, server = Session("client", trusting(name), server_name=name), certificate(name)
    shake(client, Session("server", server))
    key = client.peer_public_key
    assert key is not None
    assert client.peer_certificate is not None
    assert key in client.peer_certificate
    return key


def meet(
    ours: CertificateCredentials, theirs: CertificateCredentials, **server: Any
) -> tuple[Session, Session]:
    """A client and a server after their handshake; the client verifies."""
    client = Session("client", ours, server_name="localhost")
    other = Session("server", theirs, **server)
    shake(client, other)
    assert echoes(client, other)
    return client, other


def test_server_proves_itself_by_a_key_alone() -> None:
    """The client trusts that key, and knows which one it was; there is no certificate."""
    known = CertificateCredentials(peer_keys=[public("stranger"), public("localhost")])
    client, server = meet(known, CertificateCredentials(raw_key=RAW))
    assert client.peer_public_key == public("localhost")
    assert client.peer_certificates == ()
    assert client.peer_certificate is None
    assert server.peer_public_key is None


def test_client_that_knows_keys_alone_needs_no_name() -> None:
    """A raw key has none. A certificate is not trusted then, whatever it names."""
    known = CertificateCredentials(peer_keys=[public("localhost")])
    client = Session("client", known)
    server = Session("server", CertificateCredentials(raw_key=RAW))
    shake(client, server)
    assert client.peer_public_key == public("localhost")
    for wrong in CertificateCredentials(raw_key=OTHER), certificate():
        either = Session("client", known, priority=f"NORMAL:{CTYPES}:+CTYPE-SRV-X509")
        with pytest.raises(CertificateVerificationError):
            shake(either, Session("server", wrong, priority=f"NORMAL:{CTYPES}:+CTYPE-SRV-X509"))
    authority = (CERTS / "localhost.pem").read_bytes()
    for more in {"trust": authority}, {"system_trust": True}:
        both: Any = {"peer_keys": [public("localhost")], **more}
        with pytest.raises(ValueError, match="server_name is needed"):
            Session("client", CertificateCredentials(**both))


def test_key_that_is_not_known_is_not_trusted() -> None:
    """Nor is any where none is known: there is no authority behind a raw key."""
    raw = CertificateCredentials(raw_key=RAW)
    with pytest.raises(CertificateVerificationError):
        meet(CertificateCredentials(peer_keys=[public("stranger")]), raw)
    client = Session(
        "client", trusting(), server_name="localhost", priority=f"NORMAL:-CTYPE-ALL:{CTYPES}"
    )
    with pytest.raises(CertificateVerificationError):
        shake(client, Session("server", raw))


def test_client_proves_itself_by_a_key_where_the_server_asks() -> None:
    """Both sides by raw keys; a client with another key is refused."""
    theirs = CertificateCredentials(raw_key=RAW, peer_keys=[public("stranger")])
    ours = CertificateCredentials(raw_key=OTHER, peer_keys=[public("localhost")])
    client, server = meet(ours, theirs, verify_peer=True)
    assert server.peer_public_key == public("stranger")
    assert client.peer_public_key == public("localhost")
    wrong = CertificateCredentials(raw_key=RAW, peer_keys=[public("localhost")])
    with pytest.raises(CertificateVerificationError, match="none of peer_keys"):
        meet(wrong, theirs, verify_peer=True)


def test_application_decides_where_nothing_is_verified() -> None:
    """The key of an unknown client is told."""
    theirs = CertificateCredentials(raw_key=RAW)
    client = Session("client", CertificateCredentials(raw_key=OTHER), verify_peer=False,
                     priority=f"NORMAL:{CTYPES}")  # fmt: skip
    server = Session("server", theirs, client_certificate="require", priority=f"NORMAL:{CTYPES}")
    shake(client, server)
    assert server.peer_public_key == public("stranger")
    assert client.peer_public_key == public("localhost")


def test_certificate_is_for_those_who_take_no_raw_key() -> None:
    """A server with both: each client gets what it can verify, a raw key if it takes either."""
    pem = (CERTS / "localhost.pem").read_bytes()
    both = CertificateCredentials(pem, RAW, raw_key=OTHER)
    assert meet(trusting(), both)[0].peer_certificates != ()
    raw = CertificateCredentials(peer_keys=[public("stranger")])
    assert meet(raw, both)[0].peer_certificates == ()
    either = CertificateCredentials(trust=pem, peer_keys=[public("stranger")])
    assert meet(either, both)[0].peer_certificates == ()
    assert meet(either, certificate())[0].peer_certificates != ()


def test_without_a_kind_in_common_there_is_no_session() -> None:
    """By default nobody takes raw keys."""
    with pytest.raises(GnuTLSError):
        meet(trusting(), CertificateCredentials(raw_key=RAW))


def test_key_may_be_encrypted_and_in_any_form(tmp_path: Path) -> None:
    """PEM or DER, bytes or a file; the keys of peers too."""
    import ssl

    encrypted = CertificateCredentials.from_files(
        raw_key=CERTS / "localhost-encrypted.key", password="secret"
    )
    body = re.sub(rb"-----.*?-----|\s", b"", RAW)
    import base64

    plain = CertificateCredentials(raw_key=bytearray(base64.b64decode(body)))
    one = ssl.DER_cert_to_PEM_cert(public("localhost")).replace("CERTIFICATE", "PUBLIC KEY")
    (tmp_path / "public.pem").write_text(one)
    known = CertificateCredentials.from_files(peer_keys=[tmp_path / "public.pem"])
    with pytest.raises(ValueError, match="peer_keys holds several keys"):
        CertificateCredentials(peer_keys=[(one + one).encode()])
    for theirs in (encrypted, plain):
        assert meet(known, theirs)[0].peer_public_key == public("localhost")


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"raw_key": b"x"}, GnuTLSError, "raw_key"),
        ({"raw_key": "x"}, TypeError, "raw_key must be a bytes-like object"),
        ({"peer_keys": [b"x"]}, GnuTLSError, "peer_keys"),
        ({"peer_keys": b"x"}, TypeError, "peer_keys must be a list or tuple, not bytes"),
        ({"peer_keys": [1]}, TypeError, "peer_keys must be a bytes-like object"),
    ],
)
def test_unusable_keys_are_refused(
    options: dict[str, Any], error: type[Exception], text: str
) -> None:
    """Each error names the argument."""
    with pytest.raises(error, match=text):
        CertificateCredentials(**options)


# --- with others ----------------------------------------------------------------------------------


def public_file(folder: Path, name: str) -> str:
    """A public key of tests/certs in a file, PEM."""
    import ssl

    path = folder / f"{name}.pub"
    text = ssl.DER_cert_to_PEM_cert(public(name))
    path.write_text(text.replace("CERTIFICATE", "PUBLIC KEY"))
    return str(path)


@pytest.mark.peer
def test_gnutls_cli_is_known_by_its_key(tmp_path: Path) -> None:
    """It shows its key, and sees ours."""
    options = ["--rawpkkeyfile", str(CERTS / "stranger.key")]
    files = ["--rawpkfile", public_file(tmp_path, "stranger")]
    theirs = CertificateCredentials(raw_key=RAW, peer_keys=[public("stranger")])
    session, said = serve(
        lambda port: [gnutls_cli(), "--udp", "--insecure", *options, *files,
                      "--priority", f"NORMAL:-CTYPE-ALL:{CTYPES}", "-p", str(port), "127.0.0.1"],
        theirs,
        verify_peer=True,
    )  # fmt: skip
    assert session.peer_public_key == public("stranger")
    assert "Raw Public Key" in said


@pytest.mark.peer
def test_gnutls_serv_is_known_by_its_key(tmp_path: Path) -> None:
    """Our client trusts that key alone, and shows its own."""
    options = ["--rawpkkeyfile", str(CERTS / "stranger.key"), "--rawpkfile"]
    server = serv(*options, public_file(tmp_path, "stranger"), "--priority", f"NORMAL:{CTYPES}")
    with started(server, "X.509", "127.0.0.1") as (_, port, _said):
        known = CertificateCredentials(peer_keys=[public("stranger")], raw_key=RAW)
        with blocking.connect("127.0.0.1", port, credentials=known) as connection:
            connection.send(LINE)
            assert connection.receive(timeout=60) == LINE
            assert connection.session.peer_public_key == public("stranger")
        wrong = CertificateCredentials(peer_keys=[public("localhost")])
        with pytest.raises(CertificateVerificationError):
            blocking.connect("127.0.0.1", port, credentials=wrong)


def test_public_key_of_a_certificate_is_its_own() -> None:
    """As openssl writes it: the bytes stand in the certificate."""
    with pytest.raises(GnuTLSError):
        public_key_of(b"x")
