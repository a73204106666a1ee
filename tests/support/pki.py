"""A small authority, made once in a run by certtool: certificates of servers and clients, a CRL.

The keys are those of tests/certs, so that nothing has to be found prime.
"""

from __future__ import annotations

import base64
import functools
import re
import subprocess
import tempfile
from pathlib import Path

from tests.support.common import openssl, peer_required
from tests.support.peers import CERTS

_folder: tempfile.TemporaryDirectory[str] | None = None
_COMMON = "expiration_days = 3650\nsigning_key\n"
_SERVER = 'dns_name = "localhost"\nip_address = "127.0.0.1"\nip_address = "::1"\ntls_www_server\n'
_AT_EXAMPLE = 'dns_name = "example.org"\ntls_www_server\n'
_CLIENT = "tls_www_client\n"
_MADE = {  # name: the key in tests/certs, and its template
    "server": ("localhost", f'cn = "server"\n{_SERVER}'),
    "server-rsa": ("localhost-rsa", f'cn = "server-rsa"\n{_SERVER}encryption_key\n'),
    "example": ("stranger", f'cn = "example"\n{_AT_EXAMPLE}'),
    "client": ("stranger", f'cn = "client"\n{_CLIENT}'),
    "client-rsa": ("localhost-rsa", f'cn = "client-rsa"\n{_CLIENT}'),
    "revoked": ("stranger", f'cn = "revoked"\n{_CLIENT}'),
}


@functools.cache
def pki() -> Path:
    """The folder: NAME.pem, NAME.der, NAME.key and NAME.key.der for each of `ca`, `server`,
    `server-rsa`, `example` (of example.org), `client`, `client-rsa`, `revoked`; crl.pem, with the
    last one and `example` in it; server.pub, and server.ocsp, which says that it is good."""
    global _folder
    _folder = tempfile.TemporaryDirectory(prefix="gnutls-cookie-pki-")
    folder = Path(_folder.name)
    _write(folder, "ca", "localhost", 'cn = "authority"\nca\ncert_signing_key\ncrl_signing_key\n')
    _certtool(folder, "--generate-self-signed", "ca", "--load-privkey", "ca.key")
    signed = ["--load-ca-certificate", "ca.pem", "--load-ca-privkey", "ca.key"]
    for name, (key, template) in _MADE.items():
        _write(folder, name, key, template)
        _certtool(folder, "--generate-certificate", name, "--load-privkey", f"{name}.key", *signed)
    for name in ("ca", *_MADE):
        for source, target in ("pem", "der"), ("key", "key.der"):
            pem = (folder / f"{name}.{source}").read_text()
            body = re.search(r"-----BEGIN [A-Z0-9 ]+-----\n([^-]*)-----END", pem)
            assert body is not None
            (folder / f"{name}.{target}").write_bytes(base64.b64decode(body[1]))
    (folder / "crl.template").write_text("crl_next_update = 3650\ncrl_number = 1\n")
    revoked = "".join((folder / f"{name}.pem").read_text() for name in ("revoked", "example"))
    (folder / "to-revoke.pem").write_text(revoked)
    _certtool(folder, "--generate-crl", "crl", "--load-certificate", "to-revoke.pem", *signed)
    _openssl(folder, "pkey -in server.key -pubout -out server.pub")
    serial = _openssl(folder, "x509 -in server.pem -noout -serial").partition("=")[2].strip()
    (folder / "index.txt").write_text(f"V\t991231235959Z\t\t{serial}\tunknown\t/CN=server\n")
    signer = "-CA ca.pem -rsigner ca.pem -rkey ca.key -index index.txt"
    _openssl(folder, f"ocsp {signer} -issuer ca.pem -cert server.pem -ndays 9 -respout server.ocsp")
    return folder


def _write(folder: Path, name: str, key: str, template: str) -> None:
    (folder / f"{name}.template").write_text(_COMMON + template)
    (folder / f"{name}.key").write_bytes((CERTS / f"{key}.key").read_bytes())
    (folder / f"{name}.key").chmod(0o600)


def _certtool(folder: Path, what: str, name: str, *options: str) -> None:
    _run(folder, what, *options, "--template", f"{name}.template", "--outfile", f"{name}.pem")


def _run(folder: Path, *options: str) -> str:
    return _output(folder, peer_required("certtool", "apt install gnutls-bin"), *options)


def _openssl(folder: Path, words: str) -> str:
    return _output(folder, openssl(), *words.split())


def _output(folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout
