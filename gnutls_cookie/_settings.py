"""What a session is made with, judged once: credentials, a priority string, names and times in C.

A Session makes its own; a Server makes one for all the sessions to come.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from ._check import bytes_copy, flag, integer, seconds, shown, utf8
from ._convert import c_text
from ._ffi import ffi, lib
from ._library import warn_of_faults
from .anonymous import AnonymousCredentials
from .credentials import CertificateCredentials, PSKCredentials
from .errors import GnuTLSError, check, error_from_code
from .tickets import TICKET_KEY_SIZE, TicketKey, digest_of, resumable, tickets_are_safe

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "MTU_MAX",
    "MTU_MIN",
    "TICK",
    "AlpnRequired",
    "ClientCertificate",
    "Credentials",
    "Role",
    "Settings",
    "hold_at",
    "new_session",
    "wire_at",
    "wire_in",
]

Role = Literal["client", "server"]
AlpnRequired = bool | Literal["offered"]
ClientCertificate = Literal["ignore", "request", "require"]
Credentials = CertificateCredentials | PSKCredentials | AnonymousCredentials

MTU_MIN, MTU_MAX = 128, 65507  # bytes of a UDP payload; below, no handshake fragment would fit
_RECORD_SIZES = (512, 16384)  # bytes, of gnutls_record_set_max_recv_size
TICK = 0.001  # seconds; the shortest time between two looks at a timer
_TICKET_KEY_SECONDS = 24 * 3600.0  # of a random one
_LONGEST_TIMEOUT_SECONDS = 4_000_000.0  # six weeks
_WIRE = ffi.typeof("struct gcookie_wire **")
_WIRE_POINTER = ffi.typeof("struct gcookie_wire *")
_WIRE_SIZE = ffi.sizeof("struct gcookie_wire")  # bytes
_SETTINGS = ffi.typeof("struct gcookie_settings **")

# NORMAL still has DTLS 1.0, which RFC 8996 forbids. It lacks AES-128-CCM-8, mandatory for PSK in
# CoAP (RFC 7252 9.1.3.1), and the CBC-SHA256 suites of small devices (RFC 5487 3.1). What is added
# comes last in preference.
_NORMAL = "NORMAL:-VERS-DTLS1.0"
# A client chooses the group, and 60 to 300 ms of a server for each handshake with these. Who has
# one of them has smaller ones or curves as well.
_WITHOUT_COSTLY = ":-GROUP-FFDHE4096:-GROUP-FFDHE6144:-GROUP-FFDHE8192"
_PSK = "+ECDHE-PSK:+DHE-PSK:+PSK:+AES-128-CCM-8:+SHA256"
_EXCHANGES_OF = {lib.GNUTLS_CRD_PSK: _PSK, lib.GNUTLS_CRD_ANON: "+ANON-ECDH:+ANON-DH"}
_KINDS = {
    CertificateCredentials: (lib.GNUTLS_CRD_CERTIFICATE, "a certificate"),
    PSKCredentials: (lib.GNUTLS_CRD_PSK, "a shared key"),
    AnonymousCredentials: (lib.GNUTLS_CRD_ANON, "nothing to prove"),
}
_REQUESTS = {
    "ignore": lib.GNUTLS_CERT_IGNORE,
    "request": lib.GNUTLS_CERT_REQUEST,
    "require": lib.GNUTLS_CERT_REQUIRE,
}
_DTLS = {lib.GNUTLS_DTLS0_9, lib.GNUTLS_DTLS1_0, lib.GNUTLS_DTLS1_2}
_EXCHANGES = {  # GNUTLS_KX_* that need credentials of a kind
    lib.GNUTLS_CRD_CERTIFICATE: {
        lib.GNUTLS_KX_RSA,
        lib.GNUTLS_KX_DHE_DSS,
        lib.GNUTLS_KX_DHE_RSA,
        lib.GNUTLS_KX_ECDHE_RSA,
        lib.GNUTLS_KX_ECDHE_ECDSA,
        lib.GNUTLS_KX_RSA_PSK,  # needs both
    },
    lib.GNUTLS_CRD_PSK: {
        lib.GNUTLS_KX_PSK,
        lib.GNUTLS_KX_DHE_PSK,
        lib.GNUTLS_KX_ECDHE_PSK,
        lib.GNUTLS_KX_RSA_PSK,
    },
    lib.GNUTLS_CRD_ANON: {lib.GNUTLS_KX_ANON_DH, lib.GNUTLS_KX_ANON_ECDH},
}


class Settings:
    """struct gcookie_settings, which sessions hold as long as they need it.

    Args:
        role: and the rest as of Session.

    Attributes:
        role: "client" or "server".
        lookup: of a server: asked for pre-shared keys; None without PSK, and where C has the key.
        number: an int that was never given before; C asks `lookup` by it.
        native: the pointer.
    """

    __slots__ = ("_box", "_owner", "lookup", "number", "role")

    def __init__(
        self,
        role: Role,
        credentials: Credentials | Sequence[Credentials],
        *,
        priority: str | None,
        server_name: str | None,
        verify_peer: bool | None,
        client_certificate: ClientCertificate | None,
        mtu: int | None,
        retransmit_timeout: float,
        handshake_timeout: float,
        sni: str | None = None,
        server_names: Sequence[str] = (),
        record_size: int | None = None,
        srtp_profiles: str | None = None,
        alpn: str | Sequence[str] = (),
        alpn_required: AlpnRequired = False,
        tickets: bool | TicketKey | None = False,
        resume: Buffer | None = None,
    ) -> None:
        if role not in ("client", "server"):
            raise ValueError(f"role must be 'client' or 'server', not {shown(role)}")
        is_server = role == "server"
        if server_name is not None and is_server:
            raise ValueError("server_name is for a client")
        listed = _listed(credentials)
        warn_of_faults()
        self.role: Role = role
        self.lookup: Callable[[str], bytes | None] | None = None
        self._box = ffi.new(_SETTINGS)
        check(lib.gcookie_settings_new(self._box))
        self._owner = ffi.gc(self._box, lib.gcookie_settings_release)
        native = self._box[0]
        self.number = int(native.number)
        native.is_server = is_server
        native.handshake_seconds = seconds(
            "handshake_timeout", handshake_timeout, TICK, _LONGEST_TIMEOUT_SECONDS
        )
        native.retransmit_seconds = seconds(
            "retransmit_timeout", retransmit_timeout, TICK, _LONGEST_TIMEOUT_SECONDS
        )
        kinds = [self._add_credentials(one) for one in listed]
        if priority is None or (isinstance(priority, str) and priority.startswith(":")):
            priority = _default(listed, kinds, is_server) + (priority or "")
        self._add_priority(priority, kinds)
        self._set_names(server_name, sni, server_names)
        certificates = [one for one in listed if isinstance(one, CertificateCredentials)]
        self._set_verification(server_name, verify_peer, certificates)
        self._set_request(
            client_certificate,
            lib.GNUTLS_CRD_CERTIFICATE in kinds,
            lib.GNUTLS_CRD_ANON in kinds,
        )
        if srtp_profiles is not None:
            self._set_text(lib.GCOOKIE_SRTP, utf8("srtp_profiles", srtp_profiles))
        if record_size is not None:
            native.record_size = integer("record_size", record_size, *_RECORD_SIZES)
        if mtu is not None:
            native.mtu = integer("mtu", mtu, MTU_MIN, MTU_MAX)
        self._set_alpn(alpn, alpn_required)
        self._set_tickets(tickets, kinds)
        if not is_server:
            meets = [
                digest_of(*parts) for parts in zip(*(one._meets for one in listed), strict=True)
            ]
            self._set_text(lib.GCOOKIE_MEETS, b"".join(meets))
        if resume is not None:
            self._set_resume(resume, kinds)

    @property
    def native(self) -> Any:
        """The pointer; NULL where the collector has freed it."""
        return self._box[0]

    @property
    def holders(self) -> int:
        """Who needs them: this object, and sessions."""
        return int(self._box[0].holders)

    def try_out(self) -> None:
        """Make a session, and free it.

        Raises:
            GnuTLSError: libgnutls refuses it.
        """
        new_session(self)

    def _add_credentials(self, one: Credentials) -> int:
        shared, _owner = one._of_role(self.role)
        lib.gcookie_settings_add(self._box[0], shared[0])
        if isinstance(one, CertificateCredentials):
            for key in one.peer_keys:
                check(lib.gcookie_settings_add_peer_key(self._box[0], key, len(key)), "peer_keys")
        elif isinstance(one, PSKCredentials) and self.role == "server":
            if one._client is None or one.lookup is not one._own:
                self.lookup = one.lookup
            else:
                name, key = one._client
                check(lib.gcookie_settings_set_psk(self._box[0], name, len(name), key, len(key)))
        return next(int(kind) for made, (kind, _) in _KINDS.items() if isinstance(one, made))

    def _add_priority(self, text: str, kinds: list[int]) -> None:
        raw = utf8("priority", text)
        shared, _owner, exchanges = _priority(raw)
        useless = _useless(exchanges, kinds)
        if exchanges == useless:
            names = dict(_KINDS.values())
            what = " or ".join(names[kind] for kind in kinds)
            raise ValueError(f"priority allows no key exchange with {what}: {text!r}")
        if useless and self.role == "server":
            # libgnutls would choose one of certificates all the same, and fail (lib/auth/cert.c,
            # _gnutls_select_server_cert). A client of it offers none that it has nothing for.
            shared, _owner, _ = _priority(raw + b"".join(map(_without, sorted(useless))))
        lib.gcookie_settings_add(self._box[0], shared[0])
        # Only there: libgnutls names the kind of certificate in the description of each session
        # that may have one of several.
        self._box[0].raw_keys = "CTYPE" in text.upper()

    def _set_verification(
        self,
        server_name: str | None,
        verify_peer: bool | None,
        certificates: Sequence[CertificateCredentials],
    ) -> None:
        native = self._box[0]
        if server_name is not None:
            name = _name("server_name", server_name)
            self._set_text(lib.GCOOKIE_NAME, name)
        if verify_peer is None:
            verify_peer = self.role == "client" and bool(certificates)
        flag("verify_peer", verify_peer)
        if verify_peer and not certificates:
            raise ValueError("verify_peer needs CertificateCredentials")
        has_names = any(one._has_names for one in certificates)
        if verify_peer and self.role == "client" and server_name is None and has_names:
            raise ValueError("server_name is needed to verify the server (or verify_peer=False)")
        native.verify_peer = verify_peer

    def _set_names(
        self, server_name: str | None, sni: str | None, server_names: Sequence[str]
    ) -> None:
        """Those of the server name extension (RFC 6066)."""
        if self.role == "server":
            if sni is not None:
                raise ValueError("sni is for a client")
        elif server_names:
            raise ValueError("server_names is for a server")
        asked = None if sni is None or sni == "" else _name("sni", sni)
        if sni is None and server_name is not None and not _is_ip_address(server_name):
            asked = _name("server_name", server_name)
        if asked is not None:
            self._set_text(lib.GCOOKIE_SNI, asked)
        if not isinstance(server_names, (list, tuple)):
            kind = type(server_names).__name__
            raise TypeError(f"server_names must be a list or tuple of str, not {kind}")
        served = b"".join(_name("server_names", name) + b"\0" for name in server_names)
        self._set_text(lib.GCOOKIE_SERVED, served)

    def _set_text(self, kind: int, text: bytes) -> None:
        check(lib.gcookie_settings_set_text(self._box[0], kind, text, len(text)))

    def _set_request(
        self, wanted: ClientCertificate | None, certificates: bool, is_anonymous: bool
    ) -> None:
        native = self._box[0]
        if wanted is None:
            wanted = "require" if self.role == "server" and native.verify_peer else "ignore"
        elif self.role == "client":
            raise ValueError("client_certificate is for a server")
        if not isinstance(wanted, str) or wanted not in _REQUESTS:
            names = ", ".join(map(repr, _REQUESTS))
            raise ValueError(f"client_certificate must be one of {names}, not {shown(wanted)}")
        if wanted != "ignore" and not certificates:
            raise ValueError("client_certificate needs CertificateCredentials")
        if wanted == "ignore" and native.verify_peer and self.role == "server":
            raise ValueError("verify_peer needs client_certificate 'request' or 'require'")
        native.request = _REQUESTS[wanted]
        if is_anonymous and wanted == "require":
            raise ValueError("client_certificate 'require' excludes AnonymousCredentials")

    def _set_alpn(self, alpn: str | Sequence[str], required: object) -> None:
        names: Sequence[object] = [alpn] if isinstance(alpn, str) else alpn
        if not isinstance(names, (list, tuple)):
            raise TypeError(f"alpn must be a list or tuple of str, not {type(alpn).__name__}")
        if len(names) > lib.GCOOKIE_ALPN_MOST:
            raise ValueError(f"alpn must be of at most {lib.GCOOKIE_ALPN_MOST} names")
        if not isinstance(required, bool) and required != "offered":
            kind = type(required).__name__
            raise TypeError(f"alpn_required must be a bool, not {kind}")
        if required and not names:
            raise ValueError("alpn_required needs alpn")
        for name in names:
            raw = utf8("alpn", name)
            if len(raw) > lib.GCOOKIE_ALPN_NAME_MOST:
                raise ValueError(
                    f"alpn must have names of 1..{lib.GCOOKIE_ALPN_NAME_MOST} bytes, not {len(raw)}"
                )
            check(lib.gcookie_settings_add_alpn(self._box[0], raw, len(raw)))
        if required:
            self._box[0].alpn_required = (
                lib.GCOOKIE_ALPN_OFFERED if required == "offered" else lib.GCOOKIE_ALPN_ALWAYS
            )

    def _set_tickets(self, tickets: object, kinds: list[int]) -> None:
        native = self._box[0]
        if tickets is None:  # a ticket must not outlive what a client was admitted by
            clients_are_alike = kinds == [lib.GNUTLS_CRD_CERTIFICATE] and not native.verify_peer
            tickets = clients_are_alike and tickets_are_safe()
        if tickets is False:
            return
        if self.role == "client":
            raise ValueError("tickets is for a server")
        if not isinstance(tickets, (bool, TicketKey)):
            kind = type(tickets).__name__
            raise TypeError(f"tickets must be a bool or a TicketKey, not {kind}")
        if not tickets_are_safe():
            raise ValueError("tickets need libgnutls 3.6.14: before, they open without a key")
        if native.texts[lib.GCOOKIE_SRTP].size > 0:
            return  # libgnutls reads them in another way than it writes them (lib/ext/srtp.c)
        if isinstance(tickets, bool):
            tickets = TicketKey.random()
            native.ticket_seconds = _TICKET_KEY_SECONDS
        asked = bytes([*sorted(kinds), native.request, native.verify_peer])
        lets_anybody_in = kinds == [lib.GNUTLS_CRD_CERTIFICATE] and not (
            native.verify_peer or native.request == lib.GNUTLS_CERT_REQUIRE
        )
        key = tickets.bytes_for(b"" if lets_anybody_in else asked)
        ffi.memmove(native.ticket_key, key, TICKET_KEY_SIZE)
        native.has_ticket_key = True

    def _set_resume(self, resume: Buffer, kinds: list[int]) -> None:
        if self.role == "server":
            raise ValueError("resume is for a client")
        native = self._box[0]
        text = native.texts[lib.GCOOKIE_NAME].data
        name = ffi.string(text) if text else b""
        meets = native.texts[lib.GCOOKIE_MEETS]
        data = resumable(
            bytes_copy("resume", resume),
            bool(native.verify_peer) and lib.GNUTLS_CRD_ANON not in kinds,
            lib.GNUTLS_CRD_PSK in kinds,
            name,
            ffi.buffer(meets.data, meets.size)[:],
        )
        if lib.gcookie_settings_set_resume(native, data, len(data)) < 0:
            raise MemoryError


def _default(listed: list[Credentials], kinds: list[int], is_server: bool) -> str:
    """The priority string where none is given. What stands first is preferred, and that is a raw
    key (RFC 7250) where one was given."""
    text = _NORMAL if lib.GNUTLS_CRD_CERTIFICATE in kinds else f"{_NORMAL}:-KX-ALL"
    text += "".join(f":{more}" for kind, more in _EXCHANGES_OF.items() if kind in kinds)
    text += _WITHOUT_COSTLY if is_server else ""
    own, peers = ("SRV", "CLI") if is_server else ("CLI", "SRV")
    for one in listed:
        if isinstance(one, CertificateCredentials):
            sides = [own] * one.has_raw_key + [peers] * bool(one.peer_keys)
            for side in sides:
                text += f":-CTYPE-{side}-X509:+CTYPE-{side}-RAWPK:+CTYPE-{side}-X509"
    return text


def new_session(settings: Settings) -> tuple[Any, Any]:
    """A struct gcookie_wire in a box, and the box's owner.

    Raises:
        GnuTLSError: libgnutls refuses the session.
    """
    box, what = ffi.new(_WIRE), ffi.new("char **")
    code = lib.gcookie_wire_new(box, _WIRE_SIZE, settings.native, what)
    check(code, "" if what[0] == ffi.NULL else c_text(what[0]))
    return box, ffi.gc(box, lib.gcookie_wire_release)


# Of each connection of a server, C holds the session for Python, until its end has been told or the
# server is freed. So all that Python has of it meanwhile is the number of its address, and what
# keeps the server: objects for each would be a tenth more for the garbage collector to look at.
# What lasts longer has a hold of its own, as new_session() gives it.


def wire_at(server: tuple[Any, ...], address: int) -> Any:
    """The struct gcookie_wire of an open connection.

    Args:
        server: the box of its server, and what keeps that and the session: Turns has it.
        address: where it stands.

    Raises:
        GnuTLSError: the garbage collector has freed the server.
    """
    if not server[0][0]:
        raise _freed()
    return ffi.cast(_WIRE_POINTER, address)


def wire_in(hold: tuple[Any, Any]) -> Any:
    """The same of a hold."""
    wire = hold[0][0]
    if not wire:
        raise _freed()
    return wire


def hold_at(server: tuple[Any, ...], address: int) -> tuple[Any, Any]:
    """A hold of one's own on the session of an open connection. Arguments as of wire_at()."""
    wire_at(server, address)
    box = ffi.new(_WIRE)
    owner = ffi.gc(box, lib.gcookie_wire_release)
    lib.gcookie_wire_hold_at(address, box)
    return box, owner


def _freed() -> GnuTLSError:
    what = "the garbage collector has freed the connection"
    return error_from_code(lib.GNUTLS_E_INVALID_SESSION, what)


@functools.lru_cache(maxsize=64)
def _priority(text: bytes) -> tuple[Any, Any, frozenset[int]]:
    """A priority string as libgnutls has parsed it, for any number of sessions: a box, its owner,
    and the key exchanges in it (GNUTLS_KX_*)."""
    box = ffi.new("struct gcookie_shared **")
    raw = ffi.new("char[]", text)
    position = ffi.new("char **")
    if lib.gcookie_shared_priority(box, raw, position) < 0:
        rest = "" if position[0] == ffi.NULL else f" at {c_text(position[0])!r}"
        raise ValueError(
            f"priority is not understood{rest}: {text.decode('utf-8', 'surrogateescape')!r}"
        )
    owner = ffi.gc(box, lib.gcookie_shared_release)
    priority = ffi.cast("gnutls_priority_t", box[0].pointer)
    if not _DTLS.intersection(_numbers(lib.gnutls_priority_protocol_list, priority)):
        raise ValueError(
            f"priority allows no version of DTLS: {text.decode('utf-8', 'surrogateescape')!r}"
        )
    return box, owner, frozenset(_numbers(lib.gnutls_priority_kx_list, priority))


def _numbers(function: Any, priority: Any) -> list[int]:
    out = ffi.new("const unsigned int **")
    count = function(priority, out)
    return [int(number) for number in out[0][0:count]] if count > 0 else []


def _useless(exchanges: frozenset[int], kinds: list[int]) -> frozenset[int]:
    """Those of some key exchanges that there are no credentials for."""
    lacking = [found for kind, found in _EXCHANGES.items() if kind not in kinds]
    known = frozenset[int]().union(*_EXCHANGES.values())
    return exchanges - known.difference(*lacking)


def _without(exchange: int) -> bytes:
    """What takes a key exchange out of a priority string."""
    name = lib.gnutls_kx_get_name(exchange)
    return b"" if name == ffi.NULL else b":-" + bytes(ffi.string(name))


def _name(argument: str, name: str) -> bytes:
    raw = utf8(argument, name)
    if len(raw) > 255:  # RFC 1035 2.3.4
        raise ValueError(f"{argument} must be of 1..255 bytes, not {len(raw)}")
    return raw


def _listed(credentials: Credentials | Sequence[Credentials]) -> list[Credentials]:
    listed = list(credentials) if isinstance(credentials, Sequence) else [credentials]
    for one in listed:
        if not isinstance(one, tuple(_KINDS)):
            names = ", ".join(kind.__name__ for kind in _KINDS)
            kind = type(one).__name__
            raise TypeError(f"credentials must be {names} or a sequence of them, not {kind}")
    if not listed or len({type(one) for one in listed}) != len(listed):
        raise ValueError("credentials must be one, or one of each kind")
    return listed


def _is_ip_address(name: str) -> bool:
    import ipaddress

    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
