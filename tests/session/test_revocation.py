"""Certificates that were revoked, by lists and by stapled responses; keys that libgnutls finds."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from gnutls_cookie import (
    CertificateCredentials,
    CertificateVerificationError,
    GnuTLSError,
    Session,
)
from tests.session.test_agreed_peers import s_client, serve
from tests.support.authority import authority
from tests.support.common import missing, peer_required, python_in_silence
from tests.support.peers import CERTS, shake

files = CertificateCredentials.from_files


def test_revoked_certificates_are_refused_on_both_sides() -> None:
    """By a list of the authority, which stands beside the trust in it; others are served."""
    issuer = authority()
    good, bad = issuer.issue("localhost"), issuer.issue("revoked")
    crl = issuer.revoke(bad[0])
    trust = issuer.certificate
    strict = files(*good, trust=trust, crl=crl)
    for pair, passes in ((good, True), (bad, False)):
        client = Session("client", files(*pair, trust=trust), server_name="localhost")
        server = Session("server", strict, verify_peer=True)
        if passes:
            shake(client, server)
        else:
            with pytest.raises(CertificateVerificationError, match="revoked"):
                shake(client, server)
    client = Session("client", files(trust=trust, crl=crl), server_name="revoked")
    with pytest.raises(CertificateVerificationError, match="revoked"):
        shake(client, Session("server", files(*bad)))
    client = Session("client", files(trust=trust), server_name="revoked")
    shake(client, Session("server", files(*bad)))


def test_stapled_response_reaches_the_client() -> None:
    """Byte for byte; without one there is none."""
    issuer = authority()
    ec, rsa = issuer.issue("localhost"), issuer.issue("localhost", key="rsa:2048")
    responses = [issuer.ocsp(one) for one, _ in (ec, rsa)]
    for ocsp, wanted in ((responses, 0), ([None, responses[1]], None), ((), None)):
        server = Session("server", files(*ec, more_pairs=[rsa], ocsp=ocsp))
        client = Session("client", files(), verify_peer=False)  # libgnutls 3.7.1 finds fault
        shake(client, server)
        expected = None if wanted is None else responses[wanted].read_bytes()
        assert client.ocsp_response == expected
        assert server.ocsp_response is None


@pytest.mark.peer
def test_openssl_takes_the_stapled_response() -> None:
    """It asks for one and verifies it."""
    issuer = authority()
    pair = issuer.issue("localhost")
    trust = ["-CAfile", str(issuer.certificate), "-verify_return_error"]
    _, said = serve(s_client(*trust, "-status"), files(*pair, ocsp=[issuer.ocsp(pair[0])]))
    assert "OCSP Response Status: successful" in said
    assert "Cert Status: good" in said


def test_unusable_lists_and_responses_are_refused() -> None:
    """Each error names the argument, or the file."""
    issuer = authority()
    pair, other = issuer.issue("localhost"), issuer.issue("other")
    crl, response = issuer.revoke(issuer.issue("again")[0]), issuer.ocsp(other[0])
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"crl": crl}, str(crl)),  # without the authority
        ({"trust": issuer.certificate, "crl": pair[0]}, str(pair[0])),
        ({"ocsp": [response]}, str(response)),  # of another certificate
        ({"ocsp": [pair[0]]}, str(pair[0])),
    ]
    for options, text in wrong:
        with pytest.raises(GnuTLSError, match=text):
            files(*pair, **options)
    with pytest.raises(ValueError, match="ocsp must be of at most 1"):
        files(*pair, ocsp=[None, None])
    with pytest.raises(TypeError, match="ocsp must be a list or tuple, not bytes"):
        CertificateCredentials(ocsp=b"x")  # type: ignore[arg-type]


# --- keys that libgnutls finds --------------------------------------------------------------------


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a SoftHSM token with the certificate and key of an authority."""
    program = peer_required("softhsm2-util", "apt install softhsm2")
    tool = peer_required("p11tool", "apt install gnutls-bin")
    modules = sorted(Path("/usr/lib").rglob("libsofthsm2.so"))
    if not modules:
        missing("libsofthsm2.so is not in /usr/lib: apt install softhsm2")
    folder = tmp_path_factory.mktemp("token")
    (folder / "tokens").mkdir()
    (folder / "softhsm2.conf").write_text(f"directories.tokendir = {folder}/tokens\n")
    env = {"SOFTHSM2_CONF": str(folder / "softhsm2.conf")}

    def run(*command: str) -> None:
        done = subprocess.run(
            command, env={**os.environ, **env}, capture_output=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    run(program, "--init-token", "--free", "--label", "cookie", "--so-pin", "1234", "--pin", "5678")
    pem, key = authority().issue("localhost")
    write = [tool, "--provider", str(modules[0]), "--login", "--set-pin", "5678", "--batch"]
    where = ["--label", "own", "pkcs11:token=cookie"]
    run(*write, "--write", "--load-privkey", str(key), *where)
    run(*write, "--write", "--load-certificate", str(pem), *where)
    trusted = ["--so-login", "--set-so-pin", "1234", "--mark-trusted", "--batch", "--write"]
    ca = ["--load-certificate", str(authority().certificate), "--label", "ca"]
    run(tool, "--provider", str(modules[0]), *trusted, *ca, "pkcs11:token=cookie")
    made = {"TRUST": str(authority().certificate), "OWN": str(pem)}
    return {**env, **made, "MODULE": str(modules[0])}


@pytest.mark.peer
def test_key_stays_in_its_token(token: dict[str, str]) -> None:
    """By URLs, with the PIN as the password; a wrong one is an error. Certificates may be there, or
    in a file; so may those of authorities. In a process of its own: the
    module is asked for by GnuTLS' configuration or, here, by a call."""
    code = """
import ctypes, os
from gnutls_cookie import CertificateCredentials, GnuTLSError, Session
lib = ctypes.CDLL("libgnutls.so.30")
lib.gnutls_pkcs11_init(0, None)
assert lib.gnutls_pkcs11_add_provider(os.environ["MODULE"].encode(), None) == 0
own, ca = "pkcs11:token=cookie;object=own", "pkcs11:token=cookie;object=ca;type=cert"
try:
    CertificateCredentials.from_files(own + ";type=cert", own + ";type=private", password="1")
except GnuTLSError as error:
    print("refused", error.name)
for certificate, trust in (own + ";type=cert", "TRUST"), (os.environ["OWN"], ca):
    server = Session("server", CertificateCredentials.from_files(
        certificate, own + ";type=private", password="5678"))
    client = Session("client", CertificateCredentials.from_files(
        trust=os.environ.get(trust, trust)), server_name="localhost")
    while not client.handshake():
        for one, other in (client, server), (server, client):
            for datagram in one.datagrams_to_send():
                other.receive_datagram(datagram)
            other.handshake()
    print(client.established)
"""
    lines = python_in_silence(code, env=token, dev=False).splitlines()
    assert lines[0].startswith("refused GNUTLS_E_PKCS11")
    assert lines[1:] == ["True"] * 2


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (("x", "y"), ValueError, "certificate must be bytes"),
        (("pkcs11:x", b"y"), TypeError, "certificate must be bytes-like, not str"),
        ((b"y", "pkcs11:x"), TypeError, "key must be bytes-like, not str"),
        (("pkcs11:object=none", "pkcs11:object=none"), GnuTLSError, "certificate and key"),
    ],
)
def test_unusable_urls_are_refused(arguments: Any, error: type[Exception], text: str) -> None:
    """Each error names the argument."""
    with pytest.raises(error, match=text):
        CertificateCredentials(*arguments)


def test_key_in_a_str_is_not_shown() -> None:
    """PEM as text in the place of bytes: the error says what is wanted, and no secret."""
    text = (CERTS / "localhost.key").read_text()
    wrong: list[dict[str, Any]] = [{"certificate": text, "key": text}, {"trust": text}]
    for arguments in wrong:
        with pytest.raises(ValueError, match="must be bytes or a URL") as caught:
            CertificateCredentials(**arguments)
        assert "BEGIN" not in str(caught.value)
