"""What a session proves itself with: X.509 certificates (RFC 5246) or shared keys (RFC 4279)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._check import bytes_copy, utf8
from ._convert import view
from ._ffi import ffi, lib
from ._owned import not_copied
from .errors import GnuTLSError, check, error_from_code

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["CertificateCredentials", "FileContent", "PSKCredentials", "certificate_validity"]

PSKLookup = Callable[[str], "bytes | None"]
StrPath = str | os.PathLike[str]

_MAX_FILE_SIZE = 1 << 24  # bytes


class CertificateCredentials:
    """X.509 certificates with their keys, and the authorities that peers' certificates must have.

    A server needs certificate and key. A client needs `trust` or `system_trust`, unless its session
    is told not to verify, and certificate and key where the server asks for them.

    Args:
        certificate: the certificate chain, its own first; PEM or DER.
        key: the private key; PEM or DER, the same as the certificate.
        more_pairs: further certificates with their keys, each pair as (certificate, key). For each
            client libgnutls chooses the first pair that the client's signature algorithms, key
            exchanges and server name allow: one RSA and one ECDSA certificate serve both kinds of
            clients.
        password: of encrypted keys.
        trust: certificates of trusted authorities; PEM or DER.
        system_trust: whether the authorities that this machine trusts are trusted as well.

    Raises:
        GnuTLSError: libgnutls could not read one of them, or the key is not the certificate's;
            `detail` says which one.
        ValueError: certificate without key or key without certificate, more pairs without a first
            one, or trust without any certificate in it.
        TypeError: an argument is of another type.

    Stands on gnutls_certificate_set_x509_key_mem2, gnutls_certificate_set_x509_trust_mem and
    gnutls_certificate_set_x509_system_trust.
    """

    __reduce__ = not_copied

    def __init__(
        self,
        certificate: Buffer | None = None,
        key: Buffer | None = None,
        *,
        more_pairs: Sequence[tuple[Buffer, Buffer]] = (),
        password: str | None = None,
        trust: Buffer | None = None,
        system_trust: bool = False,
    ) -> None:
        if (certificate is None) != (key is None):
            raise ValueError("certificate and key go together")
        pairs = _pairs(more_pairs)
        if certificate is not None and key is not None:
            pairs.insert(0, (certificate, key))
        elif pairs:
            raise ValueError("more_pairs needs certificate and key")
        self._shared, self._owner = _shared(lib.GCOOKIE_CERTIFICATES)
        self.has_certificate = bool(pairs)
        secret = ffi.NULL if password is None else utf8("password", password, least=0)
        for number, pair in enumerate(pairs, 1):
            self._add(*pair, secret, "" if number == 1 else f" {number}")
        if trust is not None:
            name = _called("trust", trust)
            with _datum("trust", trust) as authorities:
                code = lib.gnutls_certificate_set_x509_trust_mem(
                    self._pointer, authorities.pointer, _form(authorities)
                )
            if check(code, name) == 0:
                raise ValueError(f"{name} holds no certificate")
        if system_trust:
            check(lib.gnutls_certificate_set_x509_system_trust(self._pointer), "system_trust")

    @classmethod
    def from_files(
        cls,
        certificate: StrPath | None = None,
        key: StrPath | None = None,
        *,
        more_pairs: Sequence[tuple[StrPath, StrPath]] = (),
        password: str | None = None,
        trust: StrPath | None = None,
        system_trust: bool = False,
    ) -> CertificateCredentials:
        """The same, from files. Errors name the file.

        Raises:
            OSError: a file could not be read.
            ValueError: a file is larger than 16 MiB.
        """

        def content(path: StrPath | None) -> bytes | None:
            return None if path is None else FileContent.read(path)

        return cls(
            content(certificate),
            content(key),
            more_pairs=[(FileContent.read(one), FileContent.read(two)) for one, two in more_pairs],
            password=password,
            trust=content(trust),
            system_trust=system_trust,
        )

    def _add(self, certificate: Buffer, key: Buffer, password: Any, number: str) -> None:
        names = _called(f"certificate{number}", certificate), _called(f"key{number}", key)
        with _datum(names[0], certificate) as chain, _datum(names[1], key) as private:
            form = _form(chain)
            code = lib.gnutls_certificate_set_x509_key_mem2(
                self._pointer, chain.pointer, private.pointer, form, password, 0
            )
            if code < 0:
                raise _pair_error(code, chain, private, form, password, names)

    def __repr__(self) -> str:
        return f"<CertificateCredentials certificate={self.has_certificate}>"

    @property
    def _pointer(self) -> Any:
        return _pointer("gnutls_certificate_credentials_t", self._shared)

    def _of_role(self, role: str) -> tuple[Any, Any]:
        """A box with what C's settings hold, and the box's owner."""
        if role == "server" and not self.has_certificate:
            raise ValueError("credentials: a server needs certificate and key")
        if self._shared[0] == ffi.NULL:
            raise ReferenceError("credentials: the garbage collector has freed them")
        return self._shared, self._owner


class PSKCredentials:
    """A pre-shared key, or for a server many of them.

    Args:
        identity: the identity of the client, 1..65535 bytes (128 before libgnutls 3.7.7), zero
            bytes and all: bytes as they are, or a str, which goes as UTF-8 with surrogateescape.
            libgnutls sends a flight of more than 32 datagrams not: a long one needs a large `mtu`.
        key: its key, 1..65535 bytes.
        lookup: for a server in place of identity and key: a callable or a mapping from identity to
            key, None for a stranger. libgnutls goes on with a random key then, so that nobody can
            ask which identities there are. A callable gets a str (UTF-8; bytes that are not UTF-8
            as lone surrogates: `identity.encode("utf-8", "surrogateescape")` gives the bytes). A
            mapping is asked for that str, and if it has none for the bytes. Third-party clients may
            name an identity of no bytes: "".
        hint: for a server: the identity hint to send, at most 65535 bytes of UTF-8 without NUL;
            none by default (some third-party clients fail on it).

    Attributes:
        identity: the identity as a str, or None.

    Raises:
        ValueError: identity without key, key without identity, or neither these nor lookup; or one
            of them is too short or too long.
        TypeError: an argument is of another type.

    Stands on gnutls_psk_set_client_credentials2 and gnutls_psk_set_server_credentials_function2.
    """

    def __init__(
        self,
        identity: str | Buffer | None = None,
        key: Buffer | None = None,
        *,
        lookup: PSKLookup | Mapping[str, bytes] | Mapping[bytes, bytes] | None = None,
        hint: str | None = None,
    ) -> None:
        if (identity is None) != (key is None):
            raise ValueError("identity and key go together")
        if identity is None and lookup is None:
            raise ValueError("either identity and key or lookup is needed")
        self.identity: str | None = None
        self._client: tuple[bytes, bytes] | None = None
        if identity is not None and key is not None:
            raw = _identity(identity)
            self.identity = identity_text(raw)
            self._client = (raw, psk_key("key", key))
            if lookup is None:
                lookup = dict([self._client])
        if isinstance(lookup, Mapping):
            self.lookup: PSKLookup = _asking(lookup)
        elif callable(lookup):
            self.lookup = lookup
        else:
            raise TypeError(f"lookup must be a mapping or callable, not {type(lookup).__name__}")
        self._hint = None if hint is None else utf8("hint", hint, least=0)

    def __repr__(self) -> str:
        return f"<PSKCredentials identity={self.identity!r}>"

    def _of_role(self, role: str) -> tuple[Any, Any]:
        """A box with what C's settings hold, and the box's owner; new ones each time."""
        if role == "server":
            shared, owner = _shared(lib.GCOOKIE_PSK_SERVER)
            pointer = _pointer("gnutls_psk_server_credentials_t", shared)
            if self._hint is not None:
                check(lib.gnutls_psk_set_server_credentials_hint(pointer, self._hint), "hint")
            return shared, owner
        if self._client is None:
            raise ValueError("credentials: a client needs identity and key")
        shared, owner = _shared(lib.GCOOKIE_PSK_CLIENT)
        pointer = _pointer("gnutls_psk_client_credentials_t", shared)
        with _datum("identity", self._client[0]) as name, _datum("key", self._client[1]) as secret:
            code = lib.gnutls_psk_set_client_credentials2(
                pointer, name.pointer, secret.pointer, lib.GNUTLS_PSK_KEY_RAW
            )
        check(code, "identity and key")
        return shared, owner


def _shared(kind: int) -> tuple[Any, Any]:
    """Empty credentials in a box, and the box's owner."""
    box = ffi.new("struct gcookie_shared **")
    check(lib.gcookie_shared_credentials(box, kind))
    return box, ffi.gc(box, lib.gcookie_shared_release)


def _pointer(kind: str, shared: Any) -> Any:
    return ffi.cast(kind, shared[0].pointer)


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


class FileContent(bytes):
    """What a file holds; errors name the file."""

    path: str

    @classmethod
    def read(cls, path: StrPath) -> FileContent:
        """Read a file.

        Raises:
            ValueError: it is larger than 16 MiB: a device, or another wrong file.
        """
        with Path(path).open("rb") as file:
            content = cls(file.read(_MAX_FILE_SIZE + 1))
        if len(content) > _MAX_FILE_SIZE:
            raise ValueError(f"{path} is larger than {_MAX_FILE_SIZE} bytes")
        content.path = str(path)
        return content


def _called(name: str, value: object) -> str:
    """What an error calls an argument: its file, where it is from one."""
    return value.path if isinstance(value, FileContent) else name


def _pairs(value: object) -> list[tuple[Buffer, Buffer]]:
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes, bytearray)):
        raise TypeError(f"more_pairs must be a sequence of pairs, not {type(value).__name__}")
    pairs: list[tuple[Buffer, Buffer]] = []
    for pair in value:
        if not isinstance(pair, Sequence) or isinstance(pair, (str, bytes)) or len(pair) != 2:
            raise TypeError("more_pairs must hold pairs (certificate, key)")
        pairs.append((pair[0], pair[1]))
    return pairs


def _pair_error(
    code: int, chain: _datum, private: _datum, form: int, password: Any, names: tuple[str, str]
) -> GnuTLSError:
    """Which of certificate and key it was that libgnutls did not take."""
    both = " and ".join(names)
    kind = "PEM" if form == lib.GNUTLS_X509_FMT_PEM else "DER"
    try:
        with _certificates(chain, form):
            pass
    except GnuTLSError as error:
        return error_from_code(error.code, f"{both}: {names[0]} is not a certificate in {kind}")
    out = ffi.new("gnutls_x509_privkey_t *")
    check(lib.gnutls_x509_privkey_init(out))
    try:
        result = lib.gnutls_x509_privkey_import2(out[0], private.pointer, form, password, 0)
    finally:
        lib.gnutls_x509_privkey_deinit(out[0])
    if result == lib.GNUTLS_E_DECRYPTION_FAILED:
        what = "is encrypted" if password == ffi.NULL else "has another password"
        return error_from_code(result, f"{both}: {names[1]} {what}")
    if result < 0:
        return error_from_code(result, f"{both}: {names[1]} is not a private key in {kind}")
    return error_from_code(code, both)


@contextmanager
def _certificates(chain: _datum, form: int) -> Iterator[list[Any]]:
    """The certificates (gnutls_x509_crt_t) of a chain, for a with block."""
    certificates = ffi.new("gnutls_x509_crt_t **")
    size = ffi.new("unsigned int *")
    check(lib.gnutls_x509_crt_list_import2(certificates, size, chain.pointer, form, 0))
    listed = [certificates[0][index] for index in range(size[0])]
    try:
        yield listed
    finally:
        for one in listed:
            lib.gnutls_x509_crt_deinit(one)
        lib.gcookie_free(certificates[0])


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
        _datum("certificate", certificate) as chain,
        _certificates(chain, _form(chain)) as (own, *_),
    ):
        return (
            int(lib.gnutls_x509_crt_get_activation_time(own)),
            int(lib.gnutls_x509_crt_get_expiration_time(own)),
        )


def _form(datum: _datum) -> int:
    """PEM where an encapsulation boundary is found (RFC 7468), else DER."""
    is_pem = b"-----BEGIN " in bytes(datum.view)
    return int(lib.GNUTLS_X509_FMT_PEM if is_pem else lib.GNUTLS_X509_FMT_DER)


def identity_text(raw: bytes) -> str:
    """A PSK identity as a str, from which `encode("utf-8", "surrogateescape")` makes it again."""
    return raw.decode("utf-8", "surrogateescape")


def _identity(value: str | Buffer) -> bytes:
    if isinstance(value, str):
        try:
            raw = value.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raise ValueError("identity must be text that UTF-8 can write") from None
    else:
        try:
            raw = bytes_copy("identity", value)
        except TypeError:
            kind = type(value).__name__
            raise TypeError(f"identity must be a str or bytes-like, not {kind}") from None
    most = _identity_most()
    if not 1 <= len(raw) <= most:
        old = "" if most == 0xFFFF else " before libgnutls 3.7.7"
        raise ValueError(f"identity must be of 1..{most} bytes{old}, not {len(raw)}")
    return raw


def _identity_most() -> int:
    """Bytes of the longest identity: MAX_USERNAME_SIZE of lib/gnutls_int.h, 128 before 3.7.7."""
    return 128 if lib.gnutls_check_version(b"3.7.7") == ffi.NULL else 0xFFFF


def _asking(mapping: Mapping[Any, bytes]) -> PSKLookup:
    def lookup(identity: str) -> bytes | None:
        key = mapping.get(identity)
        return mapping.get(identity.encode("utf-8", "surrogateescape")) if key is None else key

    return lookup


def psk_key(name: str, value: Buffer) -> bytes:
    """A pre-shared key as bytes: 1..65535 of them (opaque psk<0..2^16-1>, RFC 4279 2)."""
    secret = bytes_copy(name, value)
    if not 0 < len(secret) <= 0xFFFF:
        raise ValueError(f"{name} must be of 1..65535 bytes, not {len(secret)}")
    return secret
