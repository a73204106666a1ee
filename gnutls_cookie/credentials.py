"""What a session proves itself with: X.509 certificates (RFC 5246) or shared keys (RFC 4279)."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._convert import c_string, to_bytes, view
from ._ffi import ffi, lib
from .errors import check

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["CertificateCredentials", "PSKCredentials"]

PSKLookup = Callable[[str], "bytes | None"]
StrPath = str | os.PathLike[str]


class CertificateCredentials:
    """An X.509 certificate with its key, and the authorities that peers' certificates must have.

    A server needs certificate and key. A client needs `trust` or `system_trust`, unless its session
    is told not to verify, and certificate and key where the server asks for them.

    Args:
        certificate: the certificate chain, its own first; PEM or DER.
        key: the private key; PEM or DER, the same as the certificate.
        password: of an encrypted key.
        trust: certificates of trusted authorities; PEM or DER.
        system_trust: whether the authorities that this machine trusts are trusted as well.

    Raises:
        GnuTLSError: libgnutls could not read one of them, or the key is not the certificate's.
        ValueError: certificate without key or key without certificate.
        TypeError: an argument is of another type.

    Stands on gnutls_certificate_set_x509_key_mem2, gnutls_certificate_set_x509_trust_mem and
    gnutls_certificate_set_x509_system_trust.
    """

    def __init__(
        self,
        certificate: Buffer | None = None,
        key: Buffer | None = None,
        *,
        password: str | None = None,
        trust: Buffer | None = None,
        system_trust: bool = False,
    ) -> None:
        if (certificate is None) != (key is None):
            raise ValueError("certificate and key go together")
        out = ffi.new("gnutls_certificate_credentials_t *")
        check(lib.gnutls_certificate_allocate_credentials(out))
        self._pointer = ffi.gc(out[0], lib.gnutls_certificate_free_credentials)
        self.has_certificate = certificate is not None
        if certificate is not None and key is not None:
            secret = ffi.NULL if password is None else c_string("password", password, least=0)
            with _datum("certificate", certificate) as chain, _datum("key", key) as private:
                form = _form(chain)
                code = lib.gnutls_certificate_set_x509_key_mem2(
                    self._pointer, chain.pointer, private.pointer, form, secret, 0
                )
            check(code, "certificate and key")
        if trust is not None:
            with _datum("trust", trust) as authorities:
                code = lib.gnutls_certificate_set_x509_trust_mem(
                    self._pointer, authorities.pointer, _form(authorities)
                )
            if check(code, "trust") == 0:
                raise ValueError("trust holds no certificate")
        if system_trust:
            check(lib.gnutls_certificate_set_x509_system_trust(self._pointer), "system_trust")

    @classmethod
    def from_files(
        cls,
        certificate: StrPath | None = None,
        key: StrPath | None = None,
        *,
        password: str | None = None,
        trust: StrPath | None = None,
        system_trust: bool = False,
    ) -> CertificateCredentials:
        """The same, from files.

        Raises:
            OSError: a file could not be read.
        """

        def content(path: StrPath | None) -> bytes | None:
            return None if path is None else Path(path).read_bytes()

        return cls(
            content(certificate),
            content(key),
            password=password,
            trust=content(trust),
            system_trust=system_trust,
        )

    def __repr__(self) -> str:
        return f"<CertificateCredentials certificate={self.has_certificate}>"

    def _of_role(self, role: str) -> tuple[int, Any]:
        """Kind and C pointer, as gnutls_credentials_set takes them."""
        if role == "server" and not self.has_certificate:
            raise ValueError("credentials: a server needs certificate and key")
        return lib.GNUTLS_CRD_CERTIFICATE, self._pointer


class PSKCredentials:
    """A pre-shared key, or for a server many of them.

    Args:
        identity: the identity of the client, 1..65535 bytes of UTF-8 without NUL.
        key: its key, 1..65535 bytes.
        lookup: for a server in place of identity and key: a mapping or a callable from identity
            (str; what is no UTF-8 as surrogates) to key, None for a stranger. libgnutls goes on
            with a random key then, so that nobody can ask which identities there are.
        hint: for a server: the identity hint to send; none by default (some clients of others fail
            on it).

    Raises:
        ValueError: identity without key, key without identity, or neither these nor lookup.
        TypeError: an argument is of another type.

    Stands on gnutls_psk_set_client_credentials and gnutls_psk_set_server_credentials_function.
    """

    def __init__(
        self,
        identity: str | None = None,
        key: Buffer | None = None,
        *,
        lookup: PSKLookup | Mapping[str, bytes] | None = None,
        hint: str | None = None,
    ) -> None:
        if (identity is None) != (key is None):
            raise ValueError("identity and key go together")
        if identity is None and lookup is None:
            raise ValueError("either identity and key or lookup is needed")
        if identity is not None and key is not None:
            c_string("identity", identity)
            self._client: tuple[str, bytes] | None = (identity, psk_key("key", key))
        else:
            self._client = None
        if lookup is None and self._client is not None:
            lookup = dict([self._client])
        if isinstance(lookup, Mapping):
            self.lookup: PSKLookup = lookup.get
        elif callable(lookup):
            self.lookup = lookup
        else:
            raise TypeError(f"lookup must be a mapping or callable, not {type(lookup).__name__}")
        self.identity = identity
        self._hint = None if hint is None else c_string("hint", hint, least=0)

    def __repr__(self) -> str:
        return f"<PSKCredentials identity={self.identity!r}>"

    def _of_role(self, role: str) -> tuple[int, Any]:
        """Kind and C pointer, as gnutls_credentials_set takes them; a new one for each session."""
        if role == "server":
            out = ffi.new("gnutls_psk_server_credentials_t *")
            check(lib.gnutls_psk_allocate_server_credentials(out))
            pointer = ffi.gc(out[0], lib.gnutls_psk_free_server_credentials)
            lib.gc_psk_set_callback(pointer)
            if self._hint is not None:
                check(lib.gnutls_psk_set_server_credentials_hint(pointer, self._hint), "hint")
            return lib.GNUTLS_CRD_PSK, pointer
        if self._client is None:
            raise ValueError("credentials: a client needs identity and key")
        out = ffi.new("gnutls_psk_client_credentials_t *")
        check(lib.gnutls_psk_allocate_client_credentials(out))
        pointer = ffi.gc(out[0], lib.gnutls_psk_free_client_credentials)
        identity, key = self._client
        with _datum("key", key) as secret:
            code = lib.gnutls_psk_set_client_credentials(
                pointer, c_string("identity", identity), secret.pointer, lib.GNUTLS_PSK_KEY_RAW
            )
        check(code, "identity and key")
        return lib.GNUTLS_CRD_PSK, pointer


class _datum:
    """A gnutls_datum_t that looks at a bytes-like object, for a with block."""

    def __init__(self, name: str, value: Buffer) -> None:
        self.view = view(name, value)
        self.pointer = ffi.new("gnutls_datum_t *")
        self.pointer.data = self.view
        self.pointer.size = len(self.view)

    def __enter__(self) -> _datum:
        return self

    def __exit__(self, *_: object) -> None:
        ffi.release(self.view)


def _form(datum: _datum) -> int:
    """PEM where an encapsulation boundary is found (RFC 7468), else DER."""
    is_pem = b"-----BEGIN " in bytes(datum.view)
    return int(lib.GNUTLS_X509_FMT_PEM if is_pem else lib.GNUTLS_X509_FMT_DER)


def psk_key(name: str, value: Buffer) -> bytes:
    """A pre-shared key as bytes: 1..65535 of them (opaque psk<0..2^16-1>, RFC 4279 2)."""
    secret = to_bytes(name, value)
    if not 0 < len(secret) <= 0xFFFF:
        raise ValueError(f"{name} must be of 1..65535 bytes, not {len(secret)}")
    return secret
