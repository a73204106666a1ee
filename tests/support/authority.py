"""An authority of the tests' own, made by openssl once in a run: certificates, a CRL, OCSP."""

from __future__ import annotations

import functools
import subprocess
import tempfile
from pathlib import Path

from tests.support.common import openssl

__all__ = ["Authority", "authority"]

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

    Attributes:
        certificate: the authority's, PEM.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "ca.cnf").write_text(_CONFIG)
        (folder / "index.txt").touch()
        (folder / "serial").write_text("01\n")
        (folder / "crlnumber").write_text("01\n")
        new = "req -x509 -config ca.cnf -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
        more = "-days 3650 -subj /CN=authority -addext basicConstraints=critical,CA:true"
        use = "-addext keyUsage=critical,keyCertSign,cRLSign,digitalSignature"
        self._run(f"{new} {more} {use} -keyout ca.key -out ca.pem")
        self.certificate = folder / "ca.pem"

    def issue(self, name: str, names: str | None = None, key: str = "ec") -> tuple[Path, Path]:
        """A certificate and its key, PEM.

        Args:
            name: the subject's common name.
            names: subjectAltName, as openssl has it; None: DNS:NAME.
            key: "ec" (P-256) or "rsa:2048".
        """
        kind = "-newkey ec -pkeyopt ec_paramgen_curve:P-256" if key == "ec" else f"-newkey {key}"
        stem = f"{name}-{key.partition(':')[0]}"
        extension = f"subjectAltName={names or f'DNS:{name}'}"
        self._run(
            f"req -new -config ca.cnf {kind} -nodes -subj /CN={name} -addext {extension} "
            f"-keyout {stem}.key -out {stem}.csr"
        )
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

    def _run(self, words: str) -> None:
        done = subprocess.run(
            [openssl(), *words.split()], cwd=self._folder, capture_output=True, timeout=60
        )
        assert done.returncode == 0, done.stderr.decode()


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="gnutls-cookie-authority-")


@functools.cache
def authority() -> Authority:
    """The authority of this run. What is revoked stays so: issue a name of your own for that."""
    return Authority(Path(_folder().name))
