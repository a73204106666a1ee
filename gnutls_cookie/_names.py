"""The names in a certificate, as libgnutls reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ._check import utf8
from ._ffi import ffi, lib
from .errors import check

__all__ = ["CertificateNames", "matches", "names_of"]

_NAME_SIZE = 1 << 16  # bytes; libgnutls puts a NUL behind a name


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
    with _Imported(certificate) as cert:
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
    with _Imported(certificate) as cert:
        return bool(lib.gnutls_x509_crt_check_hostname(cert, wanted))


class _Imported:
    """A gnutls_x509_crt_t for a with block."""

    def __init__(self, certificate: bytes) -> None:
        self._certificate = certificate
        self._out = ffi.new("gnutls_x509_crt_t *")

    def __enter__(self) -> Any:
        check(lib.gnutls_x509_crt_init(self._out))
        data = ffi.from_buffer("unsigned char[]", self._certificate)
        datum = ffi.new("gnutls_datum_t *", {"data": data, "size": len(data)})
        code = lib.gnutls_x509_crt_import(self._out[0], datum, lib.GNUTLS_X509_FMT_DER)
        if code < 0:
            self.__exit__()
        check(code, "certificate")
        return self._out[0]

    def __exit__(self, *_: object) -> None:
        lib.gnutls_x509_crt_deinit(self._out[0])


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
