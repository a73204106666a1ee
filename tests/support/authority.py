"""Authorities of the tests' own, made by openssl once in a run: certificates, a CRL, OCSP."""

from __future__ import annotations

import base64
import functools
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.support.common import openssl
from tests.support.peers import CERTS

__all__ = ["Authority", "authority", "pki"]

_CONFIG = """
[ca]
default_ca = own
[own]
database = index.txt
new_certs_dir = .
serial = serial
crlnumber = crlnumber
default_md = sha256
default_days = 3650
default_crl_days = 3650
policy = any
copy_extensions = copy
unique_subject = no
[any]
commonName = supplied
[req]
distinguished_name = name
[name]
"""


class Authority:
    """What openssl ca needs, in a folder of its own.

    Args:
        folder: an empty one.
        constraints: its nameConstraints, as openssl has them (RFC 5280 4.2.1.10).

    Attributes:
        certificate: the authority's, PEM.
    """

    def __init__(self, folder: Path, constraints: str | None = None) -> None:
        self._folder = folder
        (folder / "ca.cnf").write_text(_CONFIG)
        (folder / "index.txt").touch()
        (folder / "serial").write_text("01\n")
        (folder / "crlnumber").write_text("01\n")
        new = "req -x509 -config ca.cnf -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
        more = "-days 3650 -subj /CN=authority -addext basicConstraints=critical,CA:true"
        use = "-addext keyUsage=critical,keyCertSign,cRLSign,digitalSignature"
        if constraints is not None:
            use += f" -addext nameConstraints={constraints}"
        self._run(f"{new} {more} {use} -keyout ca.key -out ca.pem")
        self.certificate = folder / "ca.pem"

    def issue(
        self, name: str, names: str | None = None, key: str | Path = "ec", use: str = ""
    ) -> tuple[Path, Path]:
        """A certificate and its key, PEM.

        Args:
            name: the subject's common name.
            names: subjectAltName, as openssl has it; None: DNS:NAME.
            key: "ec" (P-256) or "rsa:2048"; or a key that there is already, whose certificate is
                then named by `name` alone.
            use: extendedKeyUsage, as openssl has it; "": any.
        """
        if isinstance(key, Path):
            stem = name
            shutil.copy(key, self._folder / f"{stem}.key")
            (self._folder / f"{stem}.key").chmod(0o600)
            kind = f"-key {stem}.key"
        else:
            stem = f"{name}-{key.partition(':')[0]}"
            curve = "-pkeyopt ec_paramgen_curve:P-256" if key == "ec" else ""
            kind = f"-newkey {key} {curve} -nodes -keyout {stem}.key"
        extensions = f"-addext subjectAltName={names or f'DNS:{name}'}"
        if use:
            extensions += f" -addext extendedKeyUsage={use}"
        self._run(f"req -new -config ca.cnf {kind} -subj /CN={name} {extensions} -out {stem}.csr")
        self._run(
            f"ca -config ca.cnf -batch -notext -in {stem}.csr -out {stem}.pem -cert ca.pem "
            "-keyfile ca.key"
        )
        return self._folder / f"{stem}.pem", self._folder / f"{stem}.key"

    def revoke(self, certificate: Path) -> Path:
        """A CRL (PEM) with a certificate in it."""
        signer = "-config ca.cnf -cert ca.pem -keyfile ca.key"
        self._run(f"ca {signer} -revoke {certificate}")
        self._run(f"ca {signer} -gencrl -out crl.pem")
        return self._folder / "crl.pem"

    def ocsp(self, certificate: Path) -> Path:
        """The OCSP response (DER) about a certificate."""
        answer = certificate.with_suffix(".ocsp")
        self._run(f"ocsp -issuer ca.pem -cert {certificate} -reqout request.der")
        self._run(
            "ocsp -index index.txt -rsigner ca.pem -rkey ca.key -CA ca.pem -ndays 3650 "
            f"-reqin request.der -respout {answer}"
        )
        return answer

    def public_key(self, certificate: Path) -> Path:
        """The public key of a certificate, PEM."""
        public = certificate.with_suffix(".pub")
        self._run(f"pkey -in {certificate.with_suffix('.key')} -pubout -out {public}")
        return public

    def _run(self, words: str) -> None:
        done = subprocess.run(
            [openssl(), *words.split()], cwd=self._folder, capture_output=True, timeout=60
        )
        assert done.returncode == 0, done.stderr.decode()


@functools.cache
def _folder(name: str) -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix=f"gnutls-cookie-{name}-")


@functools.cache
def authority() -> Authority:
    """The authority of this run. What is revoked stays so: issue a name of your own for that."""
    return Authority(Path(_folder("authority").name))


_HERE = "DNS:localhost,IP:127.0.0.1,IP:::1"
_MADE = {  # name: the key in tests/certs, subjectAltName, and what it is for
    "server": ("localhost", _HERE, "serverAuth"),
    "server-rsa": ("localhost-rsa", _HERE, "serverAuth"),
    "example": ("stranger", "DNS:example.org", "serverAuth"),
    "client": ("stranger", None, "clientAuth"),
    "client-rsa": ("localhost-rsa", None, "clientAuth"),
    "revoked": ("stranger", None, "clientAuth"),
}


@functools.cache
def pki() -> Path:
    """A folder of files for programs, of an authority of its own: NAME.pem, NAME.der, NAME.key and
    NAME.key.der for each of `ca`, `server`, `server-rsa`, `example` (of example.org), `client`,
    `client-rsa`, `revoked`; crl.pem, with the last one and `example` in it; server.pub, and
    server.ocsp, which says that it is good."""
    folder = Path(_folder("pki").name)
    issuer = Authority(folder)
    made = {
        name: issuer.issue(name, names, CERTS / f"{key}.key", use)[0]
        for name, (key, names, use) in _MADE.items()
    }
    for name in ("ca", *made):
        for source, target in ("pem", "der"), ("key", "key.der"):
            pem = (folder / f"{name}.{source}").read_text()
            body = re.search(r"-----BEGIN [A-Z0-9 ]+-----\n([^-]*)-----END", pem)
            assert body is not None
            (folder / f"{name}.{target}").write_bytes(base64.b64decode(body[1]))
    for name in ("revoked", "example"):
        issuer.revoke(made[name])
    issuer.public_key(made["server"])
    issuer.ocsp(made["server"])
    return folder
