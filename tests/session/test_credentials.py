"""Certificates with their keys: several pairs, and what an error says of which file."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gnutls_cookie import CertificateCredentials, GnuTLSError, Session
from gnutls_cookie.credentials import certificate_validity
from tests.support.peers import CERTS, certificate, pair, shake, trusting

ECDSA = (CERTS / "localhost.pem", CERTS / "localhost.key")
RSA = (CERTS / "localhost-rsa.pem", CERTS / "localhost-rsa.key")
BOTH_ROOTS = ECDSA[0].read_bytes() + RSA[0].read_bytes()


def client(signature: str) -> Session:
    """A client that knows one kind of signature, and trusts both certificates."""
    return Session(
        "client",
        CertificateCredentials(trust=BOTH_ROOTS),
        server_name="localhost",
        priority=f"NORMAL:-SIGN-ALL:+SIGN-{signature}-SHA256",
    )


def own_certificate(pem: bytes) -> bytes:
    """The DER of a PEM certificate, as a peer sees it."""
    server = Session("server", CertificateCredentials(pem, _key_of[pem]))
    seen = Session("client", trusting(), verify_peer=False)
    shake(seen, server)
    assert seen.peer_certificate is not None
    return seen.peer_certificate


_key_of = {one.read_bytes(): key.read_bytes() for one, key in (ECDSA, RSA)}


@pytest.mark.parametrize("from_files", [True, False])
@pytest.mark.parametrize("first", ["RSA", "ECDSA"])
@pytest.mark.parametrize("signature", ["RSA", "ECDSA"])
def test_client_gets_the_certificate_that_it_can_verify(
    signature: str, first: str, from_files: bool
) -> None:
    """Of two pairs libgnutls shows the one of the client's signature, whichever comes first."""
    pairs = [RSA, ECDSA] if first == "RSA" else [ECDSA, RSA]
    if from_files:
        credentials = CertificateCredentials.from_files(*pairs[0], more_pairs=pairs[1:])
    else:
        one, two = [(path.read_bytes(), key.read_bytes()) for path, key in pairs]
        credentials = CertificateCredentials(*one, more_pairs=[two])
    seen, server = client(signature), Session("server", credentials)
    shake(seen, server)
    wanted = RSA if signature == "RSA" else ECDSA
    assert seen.peer_certificate == own_certificate(wanted[0].read_bytes())


def test_of_several_pairs_of_a_kind_the_first_is_taken() -> None:
    """As libgnutls has it; the others are kept for nothing."""
    pairs = [(CERTS / "stranger.pem", CERTS / "stranger.key")] * 3
    server = Session("server", CertificateCredentials.from_files(*ECDSA, more_pairs=pairs))
    shake(client("ECDSA"), server)


def test_password_is_for_all_keys() -> None:
    """An encrypted one and one that is not, with one password."""
    pairs = [(ECDSA[0], CERTS / "localhost-encrypted.key")]
    credentials = CertificateCredentials.from_files(*RSA, more_pairs=pairs, password="secret")
    shake(client("ECDSA"), Session("server", credentials))


PEM, KEY = (path.read_bytes() for path in ECDSA)
RSA_KEY = RSA[1].read_bytes()
ENCRYPTED = (CERTS / "localhost-encrypted.key").read_bytes()


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: CertificateCredentials(more_pairs=[(PEM, KEY)]), ValueError, "more_pairs needs"),
        (lambda: CertificateCredentials(PEM, KEY, more_pairs=5), TypeError, "more_pairs"),  # type: ignore[arg-type]
        (lambda: CertificateCredentials(PEM, KEY, more_pairs=b"xy"), TypeError, "more_pairs"),  # type: ignore[arg-type]
        (lambda: CertificateCredentials(PEM, KEY, more_pairs=b""), TypeError, "be a sequence"),  # type: ignore[arg-type]
        (lambda: CertificateCredentials(PEM, KEY, more_pairs=""), TypeError, "be a sequence"),  # type: ignore[arg-type]
        (lambda: CertificateCredentials(PEM, KEY, more_pairs=[PEM]), TypeError, "more_pairs"),  # type: ignore[list-item]
        (lambda: CertificateCredentials(PEM, KEY, more_pairs=[(PEM,)]), TypeError, "more_pairs"),  # type: ignore[list-item]
        (lambda: CertificateCredentials(PEM, KEY, more_pairs=[(PEM, "x")]), TypeError, "key 2"),
        (
            lambda: CertificateCredentials(PEM, KEY, more_pairs=[(PEM, KEY), (PEM, RSA_KEY)]),
            GnuTLSError, "do not match.*certificate 3 and key 3$",
        ),
        (lambda: CertificateCredentials(b"x", KEY), GnuTLSError, "certificate is not a certif"),
        (lambda: CertificateCredentials(PEM, b"x"), GnuTLSError, "key is not a private key in PEM"),
        (lambda: CertificateCredentials(PEM, PEM), GnuTLSError, "key is not a private key in PEM"),
        (lambda: CertificateCredentials(PEM, ENCRYPTED), GnuTLSError, "key is encrypted"),
        (
            lambda: CertificateCredentials(PEM, ENCRYPTED, password="x"),
            GnuTLSError, "key has another password",
        ),
    ],
)  # fmt: skip
def test_error_says_which_one_it_was(
    make: Callable[[], object], error: type[Exception], text: str
) -> None:
    """Certificate or key, of which pair, and why."""
    with pytest.raises(error, match=text):
        make()


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (("junk", "good.key"), "junk is not a certificate in DER"),
        (("good.pem", "junk"), "junk is not a private key in PEM"),
        (("good.pem", "encrypted.key"), "encrypted.key is encrypted"),
        (("good.pem", "other.key"), "do not match.*good.pem and .*other.key$"),
        (("absent", "good.key"), "No such file or directory: .*absent"),
        (("good.pem", "folder"), "Is a directory: .*folder"),
    ],
)
@pytest.mark.parametrize("position", [1, 2])
def test_error_names_the_file(
    names: tuple[str, str], text: str, position: int, tmp_path: Path
) -> None:
    """Of the first pair and of a further one."""
    shutil.copy(ECDSA[0], tmp_path / "good.pem")
    shutil.copy(ECDSA[1], tmp_path / "good.key")
    shutil.copy(CERTS / "localhost-encrypted.key", tmp_path / "encrypted.key")
    shutil.copy(CERTS / "stranger.key", tmp_path / "other.key")
    (tmp_path / "junk").write_text("junk")
    (tmp_path / "folder").mkdir()
    pairs = [("good.pem", "good.key")] * (position - 1) + [names]
    paths = [(tmp_path / one, str(tmp_path / key)) for one, key in pairs]
    with pytest.raises((GnuTLSError, OSError), match=text):
        CertificateCredentials.from_files(*paths[0], more_pairs=paths[1:])


@pytest.mark.parametrize("content", [b"junk", b"", KEY])
def test_error_names_the_file_of_authorities(content: bytes, tmp_path: Path) -> None:
    """One that is nothing, and one that holds no certificate."""
    path = tmp_path / "ca.pem"
    path.write_bytes(content)
    with pytest.raises((GnuTLSError, ValueError), match=r"ca\.pem"):
        CertificateCredentials.from_files(trust=path)


def test_validity_of_a_certificate() -> None:
    """The times of its two fields; of a chain those of the first."""
    expired = (CERTS / "expired.pem").read_bytes()
    assert certificate_validity(expired) == (978307200, 1009843200)  # 2001-01-01, 2002-01-01
    assert certificate_validity(expired + PEM) == (978307200, 1009843200)
    start, end = certificate_validity(PEM)
    assert start < 2**32 < end
    with pytest.raises(GnuTLSError):
        certificate_validity(KEY)


def test_text_before_a_certificate_is_passed_over() -> None:
    """As `openssl x509 -text` writes it (RFC 7468 2); it is PEM all the same."""
    text = b"Certificate:\n    Data:\n        Version: 3 (0x2)\n"
    credentials = CertificateCredentials(text + PEM, KEY, trust=text + PEM)
    assert credentials.has_certificate
    assert certificate_validity(text + PEM) == certificate_validity(PEM)


def test_one_pair_as_before() -> None:
    """The two positional arguments mean what they did."""
    assert certificate().has_certificate
    assert not trusting().has_certificate
    shake(*pair("X.509"))


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="needs /dev/zero")
@pytest.mark.parametrize("name", ["certificate", "key", "trust"])
def test_file_without_an_end_is_refused(name: str) -> None:
    """A device in the place of a file: its name and the limit, not all of the memory."""
    paths: dict[str, Any] = {"certificate": ECDSA[0], "key": ECDSA[1], name: "/dev/zero"}
    with pytest.raises(ValueError, match=r"/dev/zero is larger than 16777216 bytes"):
        CertificateCredentials.from_files(**paths)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"certificate": 5, "key": "x"}, TypeError, "certificate must name a file.*not int"),
        ({"certificate": b"a.pem", "key": "x"}, TypeError, "certificate must name a file.*bytes"),
        ({"certificate": "", "key": "x"}, ValueError, "certificate must name a file, not ''"),
        ({"trust": ""}, ValueError, "trust must name a file, not ''"),
        ({"trust": "a\0b"}, ValueError, "trust must name a file"),
        ({"crl": b"x"}, TypeError, "crl must name a file"),
        ({"raw_key": ""}, ValueError, "raw_key must name a file"),
        ({"peer_keys": [5]}, TypeError, "peer_keys must name a file"),
        ({"more_pairs": None}, TypeError, "more_pairs must be a sequence of pairs, not NoneType"),
        ({"more_pairs": ["x"]}, TypeError, r"more_pairs must hold pairs \(certificate, key\)"),
        ({"more_pairs": [("", "x")]}, ValueError, "more_pairs must name a file"),
    ],
)
def test_file_that_cannot_be_one_is_named(
    options: dict[str, Any], error: type[Exception], text: str
) -> None:
    """By the argument that it was given as."""
    with pytest.raises(error, match=text):
        CertificateCredentials.from_files(**options)
