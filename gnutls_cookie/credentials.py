"""What a session proves itself with: X.509 certificates (RFC 5246) or shared keys (RFC 4279)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ._check import bytes_copy, flag, utf8
from ._ffi import ffi, lib
from ._files import FileContent, StrPath, called, file_name
from ._owned import not_copied
from .certificates import (
    Datum,
    TextStyle,
    certificate_text,
    certificate_validity,
    certificates,
    exported,
    form_of,
    public_half,
    public_key_of,
)
from .errors import GnuTLSError, check, error_from_code
from .tickets import digest_of

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "CertificateCredentials",
    "FileContent",
    "PSKCredentials",
    "TextStyle",
    "certificate_text",
    "certificate_validity",
    "public_key_of",
]

PSKLookup = Callable[[str], "bytes | None"]
_PUBLIC_KEY = re.compile(rb"-----BEGIN (?:RSA )?PUBLIC KEY-----")  # RFC 7468 13


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
        crl: lists of revoked certificates, signed by these authorities; PEM, or one in DER.
        ocsp: for a server: the OCSP responses to staple (RFC 6066 8), PEM or DER: one for each
            certificate in their order; None: none for this one.
        raw_key: a private key, PEM or DER, whose public half is shown in place of a certificate
            where the peer takes that (RFC 7250).
        peer_keys: public keys, as SubjectPublicKeyInfo in PEM or DER, that a peer may prove itself
            with in place of a certificate. `verify_peer` trusts these alone: there is no authority
            and no name behind them. Without it `Session.peer_public_key` tells the application,
            which decides.

    `certificate` and `key`, both, may also be str: a URL that libgnutls reads by itself
    (pkcs11:...); `password` is its PIN then. With from_files() one of them may be a URL, and the
    other one a file. `trust` may be such a URL, too.

    Raises:
        GnuTLSError: libgnutls could not read one of them, or the key is not the certificate's;
            `detail` says which one.
        ValueError: certificate without key or key without certificate, more pairs without a first
            one, or trust without any certificate in it.
        TypeError: an argument is of another type.

    Stands on gnutls_certificate_set_x509_key_mem2, gnutls_certificate_set_x509_key_file2,
    gnutls_certificate_set_x509_trust_mem, gnutls_certificate_set_x509_trust_file,
    gnutls_certificate_set_x509_system_trust, gnutls_certificate_set_x509_crl_mem,
    gnutls_certificate_set_ocsp_status_request_mem and gnutls_certificate_set_rawpk_key_mem.
    """

    __reduce__ = not_copied

    def __init__(
        self,
        certificate: Buffer | str | None = None,
        key: Buffer | str | None = None,
        *,
        more_pairs: Sequence[tuple[Buffer | str, Buffer | str]] = (),
        password: str | None = None,
        trust: Buffer | str | None = None,
        system_trust: bool = False,
        crl: Buffer | None = None,
        ocsp: Sequence[Buffer | None] = (),
        raw_key: Buffer | None = None,
        peer_keys: Sequence[Buffer] = (),
    ) -> None:
        if (certificate is None) != (key is None):
            raise ValueError("certificate and key go together")
        pairs = _pairs(more_pairs)
        if certificate is not None and key is not None:
            pairs.insert(0, (certificate, key))
        elif pairs:
            raise ValueError("more_pairs needs certificate and key")
        self._shared, self._owner = _shared(lib.GCOOKIE_CERTIFICATES)
        self.has_certificate = bool(pairs) or raw_key is not None
        secret = ffi.NULL if password is None else utf8("password", password, least=0)
        for number, pair in enumerate(pairs, 1):
            self._add(*pair, secret, "" if number == 1 else f" {number}")
        if trust is not None:
            self._trust(trust)
        if flag("system_trust", system_trust):
            check(lib.gnutls_certificate_set_x509_system_trust(self._pointer), "system_trust")
        if crl is not None:
            self._add_crl(crl)
        for number, response in enumerate(_listed("ocsp", ocsp, most=len(pairs))):
            if response is not None:
                self._add_ocsp(number, response)
        self.has_raw_key = raw_key is not None
        if raw_key is not None:
            self._add_raw_key(raw_key, secret)
        # Raw keys alone have no name (RFC 7250), and without authorities no certificate is trusted.
        self._has_names = trust is not None or system_trust or not peer_keys
        self.peer_keys = tuple(_public_key(one) for one in _listed("peer_keys", peer_keys))
        trusted = utf8("trust", trust) if isinstance(trust, str) else trust or b""
        known = [bytes_copy("trust", trusted), *sorted(self.peer_keys)]
        # For a client's tickets: whom it trusts, and what identity it says.
        self._meets = digest_of(bytes([system_trust]), *known), b""

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
        crl: StrPath | None = None,
        ocsp: Sequence[StrPath | None] = (),
        raw_key: StrPath | None = None,
        peer_keys: Sequence[StrPath] = (),
    ) -> CertificateCredentials:
        """The same, from files (or URLs, as above). Errors name the file.

        Raises:
            OSError: a file could not be read.
            ValueError: a file is larger than 16 MiB, or its name cannot be one.
        """

        def content(name: str, path: StrPath | None) -> bytes | None:
            return None if path is None else FileContent.read(path, name)

        def content_or_url(name: str, path: Any) -> Buffer | str:
            file = file_name(name, path)
            return file if isinstance(path, str) and _is_url(name, file) else FileContent.read(file)

        return cls(
            None if certificate is None else content_or_url("certificate", certificate),
            None if key is None else content_or_url("key", key),
            more_pairs=[
                (content_or_url("more_pairs", one), content_or_url("more_pairs", two))
                for one, two in _pairs(more_pairs)
            ],
            password=password,
            trust=None if trust is None else content_or_url("trust", trust),
            system_trust=system_trust,
            crl=content("crl", crl),
            ocsp=[content("ocsp", path) for path in _listed("ocsp", ocsp)],
            raw_key=content("raw_key", raw_key),
            peer_keys=[
                FileContent.read(path, "peer_keys") for path in _listed("peer_keys", peer_keys)
            ],
        )

    def _add(
        self, certificate: Buffer | str, key: Buffer | str, password: Any, number: str
    ) -> None:
        if isinstance(certificate, str) or isinstance(key, str):
            self._add_urls(certificate, key, password, number)
            return
        names = called(f"certificate{number}", certificate), called(f"key{number}", key)
        with Datum(names[0], certificate) as chain, Datum(names[1], key) as private:
            form = form_of(chain)
            code = lib.gnutls_certificate_set_x509_key_mem2(
                self._pointer, chain.pointer, private.pointer, form, password, 0
            )
            if code < 0:
                raise _pair_error(code, chain, private, form, password, names)

    def _add_urls(
        self, certificate: Buffer | str, key: Buffer | str, password: Any, number: str
    ) -> None:
        """Of a token, both or one; the other one is a file then, which libgnutls reads again."""
        names, form = (f"certificate{number}", f"key{number}"), lib.GNUTLS_X509_FMT_PEM
        places = []
        for name, value, other in zip(names, (certificate, key), (key, certificate), strict=True):
            if isinstance(value, FileContent):
                with Datum(name, value) as content:
                    form = form_of(content)
                places.append(utf8(name, value.path))
            elif isinstance(value, str):
                if not isinstance(other, (str, FileContent)):
                    what = "a URL goes with a URL, or in from_files() with a file"
                    raise TypeError(f"{name} must be bytes-like, not str: {what}")
                _check_url(name, value)
                places.append(utf8(name, value))
        code = lib.gnutls_certificate_set_x509_key_file2(self._pointer, *places, form, password, 0)
        check(code, " and ".join(map(called, names, (certificate, key))))

    def _trust(self, trust: Buffer | str) -> None:
        name = called("trust", trust)
        if isinstance(trust, str):
            _check_url("trust", trust)
            code = lib.gnutls_certificate_set_x509_trust_file(
                self._pointer, utf8("trust", trust), lib.GNUTLS_X509_FMT_PEM
            )
        else:
            with Datum("trust", trust) as authorities:
                code = lib.gnutls_certificate_set_x509_trust_mem(
                    self._pointer, authorities.pointer, form_of(authorities)
                )
        if check(code, name) == 0 and not _is_token(trust):
            raise ValueError(f"{name} holds no certificate, or none that is marked as trusted")

    def _add_crl(self, crl: Buffer) -> None:
        name = called("crl", crl)
        lib.gnutls_certificate_set_flags(self._pointer, lib.GNUTLS_CERTIFICATE_VERIFY_CRLS)
        with Datum("crl", crl) as lists:
            code = lib.gnutls_certificate_set_x509_crl_mem(
                self._pointer, lists.pointer, form_of(lists)
            )
        if check(code, name) == 0:
            raise ValueError(f"{name} holds no list of a trusted authority")

    def _add_ocsp(self, number: int, response: Buffer) -> None:
        with Datum("ocsp", response) as answer:
            code = lib.gnutls_certificate_set_ocsp_status_request_mem(
                self._pointer, answer.pointer, number, form_of(answer)
            )
        check(code, called("ocsp", response))

    def _add_raw_key(self, raw_key: Buffer, password: Any) -> None:
        name = called("raw_key", raw_key)
        # libgnutls wants PEM with a NUL behind it.
        with Datum(name, bytes_copy(name, raw_key) + b"\0", trailing=1) as private:
            form = form_of(private)
            public = public_half(private, form, password, name) + b"\0"
            with Datum(name, public, trailing=1) as shown:
                code = lib.gnutls_certificate_set_rawpk_key_mem(
                    self._pointer, shown.pointer, private.pointer, form, password, 0, ffi.NULL, 0, 0
                )
        check(code, name)

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
            A long one needs a large `mtu`: libgnutls sends 32 datagrams in a flight at most.
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
        given: object = identity
        if callable(given) or isinstance(given, Mapping):
            kind = type(given).__name__
            raise TypeError(f"identity must be a str or bytes, not {kind}, which is for lookup=")
        if (identity is None) != (key is None):
            raise ValueError("identity and key go together")
        if identity is None and lookup is None:
            raise ValueError("either identity and key or lookup is needed")
        self.identity: str | None = None
        self._client: tuple[bytes, bytes] | None = None
        self._own: _Asking | None = None  # the lookup that knows them alone
        self._meets = b"", b""  # as of CertificateCredentials
        if identity is not None and key is not None:
            raw = _identity(identity)
            self.identity = identity_text(raw)
            self._client = (raw, psk_key("key", key))
            self._meets = b"", digest_of(raw)
            if lookup is None:
                lookup = self._own = _Asking(dict([self._client]))
        if isinstance(lookup, Mapping):
            self.lookup: PSKLookup = _Asking(lookup)
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
        with Datum("identity", self._client[0]) as name, Datum("key", self._client[1]) as secret:
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


def _pairs(value: object) -> list[tuple[Buffer | str, Buffer | str]]:
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes, bytearray)):
        raise TypeError(f"more_pairs must be a sequence of pairs, not {type(value).__name__}")
    pairs: list[tuple[Buffer | str, Buffer | str]] = []
    for pair in value:
        if not isinstance(pair, Sequence) or isinstance(pair, (str, bytes)) or len(pair) != 2:
            raise TypeError("more_pairs must hold pairs (certificate, key)")
        pairs.append((pair[0], pair[1]))
    return pairs


def _pair_error(
    code: int, chain: Datum, private: Datum, form: int, password: Any, names: tuple[str, str]
) -> GnuTLSError:
    """Which of certificate and key it was that libgnutls did not take."""
    both = " and ".join(names)
    kind = "PEM" if form == lib.GNUTLS_X509_FMT_PEM else "DER"
    try:
        with certificates(chain, form):
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


def _check_url(name: str, text: str) -> None:
    if not text or not _is_url(name, text):  # not shown: it may be a private key
        raise ValueError(f"{name} must be bytes or a URL, not another str (see from_files())")


def _is_token(trust: Buffer | str) -> bool:
    """Whether it is a whole token, which libgnutls asks as it needs it (RFC 7512)."""
    return isinstance(trust, str) and re.search("[:;](object|id)=", trust) is None


def _is_url(name: str, text: str) -> bool:
    return bool(lib.gnutls_url_is_supported(utf8(name, text)))


def _listed(name: str, value: object, most: int | None = None) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"{name} must be a list or tuple, not {type(value).__name__}")
    if most is not None and len(value) > most:
        raise ValueError(f"{name} must be of at most {most}, as certificates are")
    return list(value)


def _public_key(value: Buffer) -> bytes:
    """A public key in DER."""
    name = called("peer_keys", value)
    with Datum("peer_keys", value) as given:
        if len(_PUBLIC_KEY.findall(bytes(given.view))) > 1:
            raise ValueError(f"{name} holds several keys: each one is an item of peer_keys")
        return exported(
            lambda public: lib.gnutls_pubkey_import(public, given.pointer, form_of(given)), name
        )


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


class _Asking:
    """A lookup in a mapping. No function: those of a function cannot be pickled."""

    def __init__(self, mapping: Mapping[Any, bytes]) -> None:
        self._mapping = mapping

    def __call__(self, identity: str) -> bytes | None:
        key = self._mapping.get(identity)
        if key is None:
            key = self._mapping.get(identity.encode("utf-8", "surrogateescape"))
        return key


def psk_key(name: str, value: Buffer) -> bytes:
    """A pre-shared key as bytes: 1..65535 of them (opaque psk<0..2^16-1>, RFC 4279 2)."""
    secret = bytes_copy(name, value)
    if not 0 < len(secret) <= 0xFFFF:
        raise ValueError(f"{name} must be of 1..65535 bytes, not {len(secret)}")
    return secret
