"""The thin wrapper: one Python function for one C function, with the same meaning.

No repair and no check that C does not make, except those that stop a crash. The rules of the
exchange are RFC 6347 4.2.1; the C code is lib/dtls.c of GnuTLS.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from ._check import UINT_MAX, fits, shown
from ._convert import c_text, readable, readable_client_data, readable_key
from ._ffi import ffi, lib
from .errors import PushError, check
from .handles import TABLE, Transport

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "COOKIE_KEY_SIZE",
    "COOKIE_SIZE",
    "HELLO_VERIFY_REQUEST_SIZE",
    "Prestate",
    "cookie_reply",
    "cookie_send",
    "cookie_verify",
    "generate_key",
    "library_version",
    "prestate_set",
]

COOKIE_SIZE = 16
"""Bytes of a cookie: HMAC-SHA1 of client_data, cut (COOKIE_SIZE in lib/dtls.c)."""

COOKIE_KEY_SIZE: int = lib.GNUTLS_COOKIE_KEY_SIZE
"""Bytes of the keys that generate_key() makes (gnutls/dtls.h): 16."""

HELLO_VERIFY_REQUEST_SIZE: int = lib.GCOOKIE_HELLO_VERIFY_REQUEST_SIZE
"""Bytes of the datagram that cookie_send() pushes: always 44."""

T = TypeVar("T")

_UINTPTR_MAX = 2 ** (8 * ffi.sizeof("uintptr_t")) - 1
_PAGE_SIZE = 4096  # bytes; no system maps the first page
_ALIGNMENT = ffi.sizeof("void *")  # bytes, of what libgnutls allocates, at least
_SSIZE_MAX = sys.maxsize
_ZERO = 0
_PRESTATE = ffi.typeof("gnutls_dtls_prestate_st *")
_REPLY = ffi.typeof("unsigned char[]")


class Prestate:
    """What the cookie exchange leaves for the session (gnutls_dtls_prestate_st).

    Owns one C struct. Equal by value, can be copied and pickled; bytes() gives the 12 bytes of the
    struct in the byte order of the machine.

    Args:
        record_seq: sequence number of the ClientHello's record, 0..2**32-1.
        hsk_read_seq: message_seq of the ClientHello, 0..2**32-1.
        hsk_write_seq: message_seq of the last handshake message sent, 0..2**32-1.

    Raises:
        TypeError: a number is not an int.
        OverflowError: a number is outside 0..2**32-1.
    """

    __slots__ = ("_struct",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, record_seq: int = 0, hsk_read_seq: int = 0, hsk_write_seq: int = 0) -> None:
        struct: Any = ffi.new(_PRESTATE)
        self._struct = struct
        # The struct begins with zeros, and most Prestates are made to be filled by C.
        if record_seq is not _ZERO:
            struct.record_seq = fits("record_seq", record_seq, UINT_MAX)
        if hsk_read_seq is not _ZERO:
            struct.hsk_read_seq = fits("hsk_read_seq", hsk_read_seq, UINT_MAX)
        if hsk_write_seq is not _ZERO:
            struct.hsk_write_seq = fits("hsk_write_seq", hsk_write_seq, UINT_MAX)

    @classmethod
    def from_struct(cls, struct: Any) -> Prestate:
        """A Prestate with the values of a C struct."""
        prestate = cls()
        prestate._struct[0] = struct
        return prestate

    @property
    def record_seq(self) -> int:
        """Sequence number of the ClientHello's record; cookie_send() echoes its low byte."""
        return int(self._struct.record_seq)

    @record_seq.setter
    def record_seq(self, value: int) -> None:
        self._struct.record_seq = fits("record_seq", value, UINT_MAX)

    @property
    def hsk_read_seq(self) -> int:
        """message_seq of the ClientHello: the one the session reads first."""
        return int(self._struct.hsk_read_seq)

    @hsk_read_seq.setter
    def hsk_read_seq(self, value: int) -> None:
        self._struct.hsk_read_seq = fits("hsk_read_seq", value, UINT_MAX)

    @property
    def hsk_write_seq(self) -> int:
        """message_seq of the last message sent; the session goes on with the next."""
        return int(self._struct.hsk_write_seq)

    @hsk_write_seq.setter
    def hsk_write_seq(self, value: int) -> None:
        self._struct.hsk_write_seq = fits("hsk_write_seq", value, UINT_MAX)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Prestate):
            return NotImplemented
        return bytes(self) == bytes(other)

    def __bytes__(self) -> bytes:
        return bytes(ffi.buffer(self._struct))

    def __repr__(self) -> str:
        return (
            f"Prestate(record_seq={self.record_seq}, hsk_read_seq={self.hsk_read_seq}, "
            f"hsk_write_seq={self.hsk_write_seq})"
        )

    def __copy__(self) -> Prestate:
        return type(self)(self.record_seq, self.hsk_read_seq, self.hsk_write_seq)

    def __deepcopy__(self, memo: dict[int, Any]) -> Prestate:
        return self.__copy__()

    def __reduce__(self) -> tuple[type[Prestate], tuple[int, int, int]]:
        return type(self), (self.record_seq, self.hsk_read_seq, self.hsk_write_seq)


def generate_key() -> bytes:
    """Make a fresh cookie key of COOKIE_KEY_SIZE (16) random bytes.

    Raises:
        GnuTLSError: the random generator failed.

    Stands on gnutls_key_generate; C's own copy is wiped.
    """
    datum = ffi.new("gnutls_datum_t *")
    check(lib.gnutls_key_generate(datum, COOKIE_KEY_SIZE))
    try:
        return bytes(ffi.buffer(datum.data, datum.size))
    finally:
        lib.gnutls_memset(datum.data, 0, datum.size)
        lib.gcookie_free(datum.data)


def library_version() -> str:
    """The version of the libgnutls in use, such as "3.8.9" (gnutls_check_version)."""
    return c_text(lib.gnutls_check_version(ffi.NULL))


def cookie_send(
    key: Buffer,
    client_data: Buffer | None,
    prestate: Prestate,
    transport: T,
    push: Callable[[T, bytes], int | None],
) -> int:
    """Make a HelloVerifyRequest for a client and hand its 44 bytes to `push`.

    Args:
        key: the cookie key, 1..2**31-1 bytes; COOKIE_KEY_SIZE (16) random ones are usual.
        client_data: what identifies the client, usually its address as C servers write it (see
            `gnutls_cookie.client_data`); may be empty or None (NULL, 0).
        prestate: its record_seq and hsk_write_seq, low bytes only, are the sequence number and
            message_seq of the reply.
        transport: any object; it is kept alive for the call and given back to `push`.
        push: the gnutls_push_func: called once as push(transport, data) with the 44 bytes; gives
            the number of bytes sent, or None for all of them.

    Returns:
        What `push` returned, narrowed to C's int: the low 32 bits of it, so that 2**32 + 44 is 44
        and -2**31 - 1 is 2147483647. None gives 44.

    Raises:
        InvalidRequestError: the key is empty.
        PushError: what `push` gave is negative once it is narrowed; or it does not fit into C's
            ssize_t (64 bits), or is not an int: then `detail` says so.
        TypeError: an argument is of another type.
        ValueError: key or client_data is not contiguous.
        OverflowError: the key is longer than 2**31-1 bytes.

    Whatever `push` raises comes out as itself. Stands on gnutls_dtls_cookie_send; RFC 6347 4.2.1.

    Example:
        >>> from gnutls_cookie import Prestate, cookie_send, generate_key
        >>> sent = []
        >>> cookie_send(generate_key(), b"client", Prestate(), sent, lambda t, data: t.append(data))
        44
        >>> sent[0][:3].hex()
        '16feff'
    """
    if not callable(push):
        raise TypeError(f"push must be callable, not {type(push).__name__}")
    call = _Send(transport, push)
    code = _c_send(call, readable_key(key), readable_client_data(client_data), _struct_of(prestate))
    if call.raised is not None:
        call.raise_again()
    return _checked(code, key)


def cookie_reply(key: Buffer, client_data: Buffer | None, prestate: Prestate) -> bytes:
    """Make a HelloVerifyRequest as cookie_send() does and return its 44 bytes.

    C collects them: no callback into Python runs.

    Args:
        key: the cookie key, 1..2**31-1 bytes.
        client_data: what identifies the client; may be empty or None (NULL, 0).
        prestate: its record_seq and hsk_write_seq, low bytes only, are the sequence number and
            message_seq of the reply.

    Returns:
        The datagram to send to the client: HELLO_VERIFY_REQUEST_SIZE (44) bytes.

    Raises:
        InvalidRequestError: the key is empty.
        TypeError: an argument is of another type.
        ValueError: key or client_data is not contiguous.
        OverflowError: the key is longer than 2**31-1 bytes.

    Stands on gnutls_dtls_cookie_send; RFC 6347 4.2.1.

    Example:
        >>> from gnutls_cookie import Prestate, cookie_reply, generate_key
        >>> len(cookie_reply(generate_key(), b"client", Prestate(record_seq=1)))
        44
    """
    reply = ffi.new(_REPLY, HELLO_VERIFY_REQUEST_SIZE)
    code = _c_reply(
        readable_key(key), readable_client_data(client_data), _struct_of(prestate), reply
    )
    return bytes(ffi.buffer(reply, _checked(code, key)))


def cookie_verify(
    key: Buffer,
    client_data: Buffer | None,
    message: Buffer,
    prestate: Prestate | None = None,
) -> Prestate:
    """Verify the cookie in a ClientHello datagram.

    C reads fixed offsets only: the session id's length at byte 59, then the cookie, and requires
    one byte after it. It does not look at content type, versions, epoch, lengths or fragments.

    Args:
        key: the key that the cookie was made with, 1..2**31-1 bytes.
        client_data: the bytes that the cookie was made for; may be empty or None (NULL, 0).
        message: the whole datagram, record header included; any size.
        prestate: filled on success; left untouched on failure. None makes a new one.

    Returns:
        The prestate, with record_seq and hsk_read_seq (low bytes of the ClientHello's numbers) and
        hsk_write_seq 0. Give it to the session by prestate_set().

    Raises:
        BadCookieError: there is no cookie, or a wrong one.
        UnexpectedPacketLengthError: the datagram is too short for its fields (59 bytes and less,
            and so on), or its session id is longer than 32 bytes.
        InvalidRequestError: the key is empty.
        TypeError: an argument is of another type.
        ValueError: key, client_data or message is not contiguous.
        OverflowError: the key is longer than 2**31-1 bytes.

    Stands on gnutls_dtls_cookie_verify; RFC 6347 4.2.1.
    """
    filled = Prestate() if prestate is None else prestate
    code = _c_verify(
        readable_key(key),
        readable_client_data(client_data),
        readable("message", message),
        _struct_of(filled),
    )
    _checked(code, key)
    return filled


def prestate_set(session: object, prestate: Prestate) -> None:
    """Hand the outcome of the cookie exchange over to a session, before its handshake.

    The session then reads hsk_read_seq first, and goes on writing with hsk_write_seq + 1 and
    record_seq. libgnutls keeps hsk_write_seq + 1 in 16 bits, as message_seq has them on the wire
    (RFC 6347 4.2.2): 65535 goes on with 0, 65540 with 5. The other two are kept whole.

    Args:
        session: a `Session`, or a gnutls_session_t of the same libgnutls made elsewhere: a cffi
            pointer, a ctypes pointer or its address as an int.
        prestate: as cookie_verify() filled it.

    Raises:
        TypeError: the session is none of these, or None.
        ValueError: the session is a NULL pointer; or a `Session` that is closed, or has sent
            something already (of other sessions the caller must know it): libgnutls would use
            sequence numbers, and with them nonces, again.
        OverflowError: a pointer cannot hold the address.

    Stands on gnutls_dtls_prestate_set.
    """
    struct = _struct_of(prestate)
    address = _session_address(session)
    check_prestate = getattr(type(session), "_check_prestate", None)
    if check_prestate is not None:
        check_prestate(session)
    lib.gnutls_dtls_prestate_set(ffi.cast("gnutls_session_t", address), struct)
    note = getattr(type(session), "_note_prestate", None)
    if note is not None:
        note(session, struct)


class _Send(Transport):
    """One call of cookie_send(): what its handle finds."""

    __slots__ = ("function", "transport")

    def __init__(self, transport: Any, function: Callable[[Any, bytes], object]) -> None:
        self.raised = None
        self.transport = transport
        self.function = function

    def push(self, data: bytes) -> int:
        sent = self.function(self.transport, data)
        if sent is None:
            return len(data)
        if not isinstance(sent, int):
            kind = type(sent).__name__
            raise PushError(lib.GNUTLS_E_PUSH_ERROR, f"push must give an int or None, not {kind}")
        sent = int.__index__(sent)  # the number itself, whatever a subclass says of it
        if not -_SSIZE_MAX - 1 <= sent <= _SSIZE_MAX:
            raise PushError(lib.GNUTLS_E_PUSH_ERROR, "push gave a number that C cannot hold")
        return sent


def _c_send(call: _Send, key: Any, client: Any, struct: Any) -> int:
    code: int = TABLE.lending(call, lib.gcookie_send, key, len(key), client, len(client), struct)
    return code


def _c_reply(key: Any, client: Any, struct: Any, reply: Any) -> int:
    code: int = lib.gcookie_reply(key, len(key), client, len(client), struct, reply, len(reply))
    return code


def _c_verify(key: Any, client: Any, message: Any, struct: Any) -> int:
    code: int = lib.gcookie_verify(
        key, len(key), client, len(client), message, len(message), struct
    )
    return code


def _checked(code: int, key: Buffer) -> int:
    """check(), with the reason that libgnutls does not tell."""
    if code >= 0:
        return code
    is_empty = code == lib.GNUTLS_E_INVALID_REQUEST and not memoryview(key).nbytes
    return check(code, "the key is empty" if is_empty else "")


def _struct_of(prestate: object) -> Any:
    if not isinstance(prestate, Prestate):
        raise TypeError(f"prestate must be a Prestate, not {type(prestate).__name__}")
    return prestate._struct


def _session_address(session: object) -> int:
    """The address of the gnutls_session_t behind any of the forms that prestate_set() takes."""
    own = getattr(type(session), "_gnutls_session_address", None)
    if own is not None:
        address = own(session)
    elif isinstance(session, int) and not isinstance(session, bool):
        address = int(session)
    elif isinstance(session, ffi.CData) and ffi.typeof(session).kind == "pointer":
        kind = ffi.typeof(session).item.kind
        if kind == "pointer":
            raise TypeError("session must be a gnutls_session_t, not a pointer to one")
        if kind not in ("struct", "void"):
            raise TypeError(f"session must be a gnutls_session_t, not {ffi.typeof(session)}")
        address = int(ffi.cast("uintptr_t", session))
    else:
        address = _ctypes_address(session)
    if address == 0:
        raise ValueError("session is a NULL pointer")
    if not 0 < address <= _UINTPTR_MAX:
        raise OverflowError(f"session is not an address: {shown(address)}")
    if address < _PAGE_SIZE or address % _ALIGNMENT:
        raise ValueError(f"session is not the address of a gnutls_session_t: {address:#x}")
    return int(address)


def _ctypes_address(session: object) -> int:
    ctypes = sys.modules.get("ctypes")  # without the module there are no ctypes pointers
    if ctypes is not None and isinstance(session, (ctypes.c_void_p, ctypes._Pointer)):
        pointers = (ctypes.c_void_p, ctypes._Pointer)
        if isinstance(session, ctypes._Pointer) and issubclass(session._type_, pointers):
            raise TypeError("session must be a gnutls_session_t, not a pointer to one")
        return ctypes.cast(session, ctypes.c_void_p).value or 0
    kind = type(session).__name__
    raise TypeError(f"session must be a Session, a pointer or an address, not {kind}")
