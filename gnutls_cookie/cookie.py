"""The thin wrapper: one Python function for one C function, with the same meaning.

No repair and no check that C does not make, except those that stop a crash. The rules of the
exchange are RFC 6347 4.2.1; the C code is lib/dtls.c of GnuTLS.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from ._convert import c_text, view
from ._ffi import ffi, lib
from .errors import PushError, check, error_from_code
from .handles import LENT, Transport, new_handle

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

_C_VERIFY = lib.gcookie_verify
_UINT_MAX = 0xFFFFFFFF
_INT_MAX = 0x7FFFFFFF  # bytes of a key: lib/dtls.c passes its size on as an int
_UINTPTR_MAX = 2 ** (8 * ffi.sizeof("uintptr_t")) - 1
_SSIZE_MAX = sys.maxsize
_PRESTATE = ffi.typeof("gnutls_dtls_prestate_st *")
_REPLY = ffi.typeof("unsigned char[]")


class Prestate:
    """What the cookie exchange leaves for the session (gnutls_dtls_prestate_st).

    Owns one C struct. Equal by value, copies and pickles; bytes() gives the 12 bytes of the struct
    in the byte order of the machine.

    Args:
        record_seq: sequence number of the ClientHello's record, 0..2**32-1.
        hsk_read_seq: message_seq of the ClientHello, 0..2**32-1.
        hsk_write_seq: message_seq of the last handshake message sent, 0..2**32-1.

    Raises:
        TypeError: a number is no int.
        OverflowError: a number is outside 0..2**32-1.
    """

    __slots__ = ("_struct",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, record_seq: int = 0, hsk_read_seq: int = 0, hsk_write_seq: int = 0) -> None:
        struct = ffi.new(_PRESTATE)
        struct.record_seq = _uint("record_seq", record_seq)
        struct.hsk_read_seq = _uint("hsk_read_seq", hsk_read_seq)
        struct.hsk_write_seq = _uint("hsk_write_seq", hsk_write_seq)
        self._struct: Any = struct

    @property
    def record_seq(self) -> int:
        """Sequence number of the ClientHello's record; cookie_send() echoes its low byte."""
        return int(self._struct.record_seq)

    @record_seq.setter
    def record_seq(self, value: int) -> None:
        self._struct.record_seq = _uint("record_seq", value)

    @property
    def hsk_read_seq(self) -> int:
        """message_seq of the ClientHello: the one the session reads first."""
        return int(self._struct.hsk_read_seq)

    @hsk_read_seq.setter
    def hsk_read_seq(self, value: int) -> None:
        self._struct.hsk_read_seq = _uint("hsk_read_seq", value)

    @property
    def hsk_write_seq(self) -> int:
        """message_seq of the last message sent; the session goes on with the next."""
        return int(self._struct.hsk_write_seq)

    @hsk_write_seq.setter
    def hsk_write_seq(self, value: int) -> None:
        self._struct.hsk_write_seq = _uint("hsk_write_seq", value)

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
    struct = _prestate(prestate)
    if not callable(push):
        raise TypeError(f"push must be callable, not {type(push).__name__}")
    call = _Send(transport, push)
    if type(key) is bytes and type(client_data) is bytes and len(key) <= _INT_MAX:
        result = _send(key, client_data, struct, call)
    else:
        with view("key", key) as k, view("client_data", _or_empty(client_data)) as c:
            _key_size(k)
            result = _send(k, c, struct, call)
    raised = call.raised
    if raised is not None:
        # The frames of its traceback know `call`: without this the two would keep each other (and
        # the transport) alive until the next garbage collection.
        call.raised = None
        try:
            raise raised
        finally:
            del raised
    if result < 0:
        raise error_from_code(result)
    return result


def cookie_reply(key: Buffer, client_data: Buffer | None, prestate: Prestate) -> bytes:
    """Make a HelloVerifyRequest as cookie_send() does and give back its 44 bytes.

    The reply is captured in C: no callback into Python. Arguments and errors are those of
    cookie_send().
    """
    struct = _prestate(prestate)
    reply = ffi.new(_REPLY, HELLO_VERIFY_REQUEST_SIZE)
    with view("key", key) as k, view("client_data", _or_empty(client_data)) as c:
        size = check(lib.gcookie_reply(k, _key_size(k), c, len(c), struct, reply, len(reply)))
    return bytes(ffi.buffer(reply, size))


def cookie_verify(
    key: Buffer,
    client_data: Buffer | None,
    message: Buffer,
    prestate: Prestate | None = None,
) -> Prestate:
    """Judge the cookie in a ClientHello datagram.

    C reads fixed offsets only: the session id's length at byte 59, then the cookie, and wants one
    byte after it. It looks neither at content type nor versions, epoch, lengths or fragments.

    Args:
        key: the key that the cookie was made with, 1..2**31-1 bytes.
        client_data: the bytes that the cookie was made for; may be empty or None (NULL, 0).
        message: the whole datagram, record header included; any size.
        prestate: filled on success; left untouched on failure. None makes a new one.

    Returns:
        The prestate, with record_seq and hsk_read_seq (low bytes of the ClientHello's numbers) and
        hsk_write_seq 0. Give it to the session by prestate_set().

    Raises:
        BadCookieError: there is no cookie, or it is another one.
        UnexpectedPacketLengthError: the datagram is too short for its fields (59 bytes and less,
            and so on), or its session id is longer than 32 bytes.
        InvalidRequestError: the key is empty.
        TypeError: an argument is of another type.
        ValueError: key, client_data or message is not contiguous.
        OverflowError: the key is longer than 2**31-1 bytes.

    Stands on gnutls_dtls_cookie_verify; RFC 6347 4.2.1.
    """
    if type(prestate) is Prestate:
        struct = prestate._struct
    else:
        struct = ffi.new(_PRESTATE) if prestate is None else _prestate(prestate)
    if (
        type(key) is bytes
        and type(client_data) is bytes
        and type(message) is bytes
        and (key_size := len(key)) <= _INT_MAX
    ):
        result = _C_VERIFY(
            key, key_size, client_data, len(client_data), message, len(message), struct
        )
    else:
        with (
            view("key", key) as k,
            view("client_data", _or_empty(client_data)) as c,
            view("message", message) as m,
        ):
            result = _C_VERIFY(k, _key_size(k), c, len(c), m, len(m), struct)
    if result < 0:
        raise error_from_code(result)
    return _owner(struct) if prestate is None else prestate


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
        OverflowError: the address is no pointer's.

    Stands on gnutls_dtls_prestate_set.
    """
    struct = _prestate(prestate)
    address = _session_address(session)
    check_prestate = getattr(type(session), "_check_prestate", None)
    if check_prestate is not None:
        check_prestate(session)
    lib.gnutls_dtls_prestate_set(ffi.cast("gnutls_session_t", address), struct)
    note = getattr(type(session), "_note_prestate", None)
    if note is not None:
        note(session, struct)


def check_key_size(name: str, size: int) -> None:
    """Whether libgnutls' cookie functions take a key of that many bytes; longer ones crash them.

    Raises:
        OverflowError: the argument `name` is longer than 2**31-1 bytes.
    """
    if size > _INT_MAX:
        raise OverflowError(f"{name} must be of at most 2**31-1 bytes, not {size}")


class _Send(Transport):
    """A cookie_send() under way: what its handle finds."""

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


def _send(key: Any, client_data: Any, struct: Any, call: _Send) -> int:
    handle = new_handle()
    try:
        LENT[handle] = call
        result: int = lib.gcookie_send(key, len(key), client_data, len(client_data), struct, handle)
    finally:
        LENT.pop(handle, None)
    return result


def _owner(struct: Any) -> Prestate:
    prestate = Prestate.__new__(Prestate)
    prestate._struct = struct
    return prestate


def _prestate(prestate: object) -> Any:
    if not isinstance(prestate, Prestate):
        raise TypeError(f"prestate must be a Prestate, not {type(prestate).__name__}")
    return prestate._struct


def _uint(name: str, value: object) -> int:
    if not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    number = int.__index__(value)  # the number itself, whatever a subclass says of it
    if not 0 <= number <= _UINT_MAX:
        raise OverflowError(f"{name} must be in 0..2**32-1, not {number}")
    return number


def _or_empty(client_data: Buffer | None) -> Buffer:
    return b"" if client_data is None else client_data


def _key_size(key: Any) -> int:
    size = len(key)
    check_key_size("key", size)
    return size


def _session_address(session: object) -> int:
    """The address of the gnutls_session_t behind any of the forms that prestate_set() takes."""
    own = getattr(type(session), "_gnutls_session_address", None)
    if own is not None:
        address = own(session)
    elif isinstance(session, int) and not isinstance(session, bool):
        address = int(session)
    elif isinstance(session, ffi.CData) and ffi.typeof(session).kind == "pointer":
        if ffi.typeof(session).item.kind == "pointer":
            raise TypeError("session must be a gnutls_session_t, not a pointer to one")
        address = int(ffi.cast("uintptr_t", session))
    else:
        address = _ctypes_address(session)
    if address == 0:
        raise ValueError("session is a NULL pointer")
    if not 0 < address <= _UINTPTR_MAX:
        raise OverflowError(f"session is no address: {address}")
    return int(address)


def _ctypes_address(session: object) -> int:
    ctypes = sys.modules.get("ctypes")  # where it was never imported nobody holds its pointers
    if ctypes is not None and isinstance(session, (ctypes.c_void_p, ctypes._Pointer)):
        pointers = (ctypes.c_void_p, ctypes._Pointer)
        if isinstance(session, ctypes._Pointer) and issubclass(session._type_, pointers):
            raise TypeError("session must be a gnutls_session_t, not a pointer to one")
        return ctypes.cast(session, ctypes.c_void_p).value or 0
    kind = type(session).__name__
    raise TypeError(f"session must be a Session, a pointer or an address, not {kind}")
