"""What a certificate says, as libgnutls reads it: names, times, keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ._check import utf8
from ._convert import view
from ._ffi import ffi, lib
from .errors import check

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "CertificateNames",
    "Datum",
    "TextStyle",
    "certificate_text",
    "certificate_validity",
    "certificates",
    "exported",
    "form_of",
    "matches",
    "names_of",
    "public_half",
    "public_key_of",
]

TextStyle = Literal["oneline", "compact", "full"]
_TEXT_STYLES = {
    "oneline": lib.GNUTLS_CRT_PRINT_ONELINE,
    "compact": lib.GNUTLS_CRT_PRINT_COMPACT,
    "full": lib.GNUTLS_CRT_PRINT_FULL,
}
_NAME_SIZE = 1 << 16  # bytes; libgnutls puts a NUL behind a name
_DER: int = lib.GNUTLS_X509_FMT_DER


@dataclass(frozen=True, slots=True)
class CertificateNames:
    """Whom a certificate is for, and who says so.

    Bytes that are not UTF-8, and zero bytes, stand in the texts as backslash escapes.

    Attributes:
        subject: its distinguished name, as RFC 4514 writes it: "CN=sensor-1,O=Example".
        issuer: that of who signed it.
        dns: names of hosts, of its subjectAltName (RFC 5280 4.2.1.6).
        ip: addresses, as text.
        email: mailboxes.
        uri: URIs.
    """

    subject: str
    issuer: str
    dns: tuple[str, ...]
    ip: tuple[str, ...]
    email: tuple[str, ...]
    uri: tuple[str, ...]


def names_of(certificate: bytes) -> CertificateNames:
    """The names in a certificate.

    Args:
        certificate: in DER.

    Raises:
        GnuTLSError: libgnutls cannot read it.
    """
    with Datum("certificate", certificate) as chain, certificates(chain, _DER) as (cert, *_):
        found: dict[int, list[str]] = {
            lib.GNUTLS_SAN_DNSNAME: [],
            lib.GNUTLS_SAN_IPADDRESS: [],
            lib.GNUTLS_SAN_RFC822NAME: [],
            lib.GNUTLS_SAN_URI: [],
        }
        for kind, raw in _alternative_names(cert):
            if kind == lib.GNUTLS_SAN_IPADDRESS:
                found[kind].append(_address(raw))
            elif kind in found:
                found[kind].append(_text(raw))
        return CertificateNames(
            _distinguished(lib.gnutls_x509_crt_get_dn3, cert),
            _distinguished(lib.gnutls_x509_crt_get_issuer_dn3, cert),
            *(tuple(names) for names in found.values()),
        )


def matches(certificate: bytes, name: str) -> bool:
    """Whether a certificate in DER is for a host of that name, or address (RFC 6125).

    Stands on gnutls_x509_crt_check_hostname.
    """
    wanted = utf8("name", name)
    with Datum("certificate", certificate) as chain, certificates(chain, _DER) as (cert, *_):
        return bool(lib.gnutls_x509_crt_check_hostname(cert, wanted))


def certificate_validity(certificate: Buffer) -> tuple[int, int]:
    """When the first certificate of a chain begins and ceases to be valid.

    Args:
        certificate: the chain; PEM or DER.

    Returns:
        Two times in seconds since the epoch.

    Raises:
        GnuTLSError: libgnutls could not read it.
    """
    with (
        Datum("certificate", certificate) as chain,
        certificates(chain, form_of(chain)) as (own, *_),
    ):
        return (
            int(lib.gnutls_x509_crt_get_activation_time(own)),
            int(lib.gnutls_x509_crt_get_expiration_time(own)),
        )


def certificate_text(certificate: Buffer, style: TextStyle = "compact") -> str:
    """What the first certificate of a chain says, for people (gnutls_x509_crt_print).

    Args:
        certificate: the chain; PEM or DER.
        style: "oneline", "compact" (that, and the hashes of its key), or "full".
    """
    out = ffi.new("gnutls_datum_t *")
    with (
        Datum("certificate", certificate) as chain,
        certificates(chain, form_of(chain)) as (own, *_),
    ):
        check(lib.gnutls_x509_crt_print(own, _TEXT_STYLES[style], out), "certificate")
    text = bytes(ffi.buffer(out.data, out.size)).decode("utf-8", "replace")
    lib.gcookie_free(out.data)
    return text


def public_key_of(certificate: bytes) -> bytes:
    """The SubjectPublicKeyInfo of a certificate; both in DER."""
    with Datum("certificate", certificate) as given:
        return exported(
            lambda public: lib.gnutls_pubkey_import_x509_raw(public, given.pointer, _DER, 0),
            "certificate",
        )


def public_half(private: Datum, form: int, password: Any, name: str) -> bytes:
    """The SubjectPublicKeyInfo of a private key, in the same form."""
    key = ffi.new("gnutls_privkey_t *")
    check(lib.gnutls_privkey_init(key))
    try:
        check(lib.gnutls_privkey_import_x509_raw(key[0], private.pointer, form, password, 0), name)
        return exported(
            lambda public: lib.gnutls_pubkey_import_privkey(public, key[0], 0, 0), name, form
        )
    finally:
        lib.gnutls_privkey_deinit(key[0])


def exported(load: Callable[[Any], int], name: str, form: int = _DER) -> bytes:
    """A SubjectPublicKeyInfo.

    Args:
        load: fills a gnutls_pubkey_t; gives libgnutls' code.
        name: what an error calls it.
        form: GNUTLS_X509_FMT_DER or _PEM.
    """
    key, out = ffi.new("gnutls_pubkey_t *"), ffi.new("gnutls_datum_t *")
    check(lib.gnutls_pubkey_init(key))
    try:
        check(load(key[0]), name)
        check(lib.gnutls_pubkey_export2(key[0], form, out), name)
        data = bytes(ffi.buffer(out.data, out.size))
        lib.gcookie_free(out.data)
        return data
    finally:
        lib.gnutls_pubkey_deinit(key[0])


class Datum:
    """A gnutls_datum_t that looks at a bytes-like object, for a with block."""

    def __init__(self, name: str, value: Buffer, trailing: int = 0) -> None:
        self.view = view(name, value)
        self.pointer = ffi.new("gnutls_datum_t *")
        self.pointer.data = self.view
        self.pointer.size = len(self.view) - trailing

    def __enter__(self) -> Datum:
        return self

    def __exit__(self, *_: object) -> None:
        ffi.release(self.view)


@contextmanager
def certificates(chain: Datum, form: int) -> Iterator[list[Any]]:
    """The certificates (gnutls_x509_crt_t) of a chain, for a with block."""
    out, size = ffi.new("gnutls_x509_crt_t **"), ffi.new("unsigned int *")
    code = lib.gnutls_x509_crt_list_import2(out, size, chain.pointer, form, 0)
    check(code, "certificate")
    listed = [out[0][index] for index in range(size[0])]
    try:
        yield listed
    finally:
        for one in listed:
            lib.gnutls_x509_crt_deinit(one)
        lib.gcookie_free(out[0])


def form_of(datum: Datum) -> int:
    """PEM where an encapsulation boundary is found (RFC 7468), else DER."""
    is_pem = b"-----BEGIN " in bytes(datum.view)
    return int(lib.GNUTLS_X509_FMT_PEM if is_pem else _DER)


def _alternative_names(cert: Any) -> Iterator[tuple[int, bytes]]:
    """Kind and bytes of each; those that libgnutls does not know are left out."""
    out, size = ffi.new("unsigned char[]", _NAME_SIZE), ffi.new("size_t *")
    number = 0
    while True:
        size[0] = _NAME_SIZE
        code = lib.gnutls_x509_crt_get_subject_alt_name(cert, number, out, size, ffi.NULL)
        if code == lib.GNUTLS_E_REQUESTED_DATA_NOT_AVAILABLE:
            return
        if code >= 0:
            yield code, bytes(ffi.buffer(out, size[0]))
        number += 1
        if number > _NAME_SIZE:  # each is an error
            return


def _distinguished(function: Callable[[Any, Any, int], int], cert: Any) -> str:
    out = ffi.new("gnutls_datum_t *")
    if function(cert, out, 0) < 0:
        return ""  # it is empty
    try:
        return _text(bytes(ffi.buffer(out.data, out.size)))
    finally:
        lib.gcookie_free(out.data)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace").replace("\0", "\\x00")


def _address(raw: bytes) -> str:
    import ipaddress

    return str(ipaddress.ip_address(raw)) if len(raw) in (4, 16) else raw.hex()
