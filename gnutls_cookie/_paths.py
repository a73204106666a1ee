"""Addresses of peers between Python and C: tuples of the socket module, structs of the kernel."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from ._check import UINT_MAX, fits, shown
from ._ffi import ffi, lib

if TYPE_CHECKING:
    from .address import SocketAddress

__all__ = [
    "address_text",
    "native_address",
    "native_path",
    "own_text",
    "peer_shown",
    "peer_text",
    "source_text",
]

_TEXT = ffi.typeof("struct gcookie_address_text *")
_SHOWN = ffi.typeof(f"char[{lib.GCOOKIE_ADDRESS_SHOWN}]")


def native_address(address: Any) -> Any:
    """A union gcookie_address, not to be changed.

    Raises:
        TypeError, ValueError, OverflowError: it is not an address.
    """
    try:
        return _known_address(address)
    except TypeError:  # it may have no hash
        return _address(address)


def native_path(address: Any, local: Any) -> Any:
    """A struct gcookie_path, not to be changed. Raises as native_address()."""
    try:
        return _known_path(address, local)
    except TypeError:
        return _path(address, local)


def _address(address: Any) -> Any:
    if not isinstance(address, tuple) or len(address) not in (2, 4):
        raise TypeError(f"address must be a tuple (ip, port, ...), not {shown(address)}")
    host, port, *more = address
    if not isinstance(host, str):
        raise TypeError(f"address: the ip must be a str, not {type(host).__name__}")
    flowinfo, scope_id = more or (0, 0)
    out = ffi.new("union gcookie_address *")
    ip = host.encode("ascii", "replace")
    if b"\0" in ip or not lib.gcookie_address_parse(
        out,
        ip,
        fits("address: port", port, 0xFFFF),
        fits("address: flowinfo", flowinfo, 0xFFFFF),
        fits("address: scope_id", scope_id, UINT_MAX),
        bool(more),
    ):
        raise ValueError(f"address: {host!r} is not a numeric IP address")
    return out


def _path(address: Any, local: Any) -> Any:
    out = ffi.new("struct gcookie_path *")
    out.address = native_address(address)[0]
    if local is not None:
        if not isinstance(local, str):
            raise TypeError(f"local must be a str or None, not {type(local).__name__}")
        ip = local.encode("ascii", "replace")
        if b"\0" not in ip:
            lib.gcookie_source_parse(ffi.addressof(out, "source"), ip)
        if not out.source.size:
            raise ValueError(f"local: {local!r} is not a numeric IP address")
    return out


# Few are kept: each keeps a page of the heap that a flood of clients has left.
_known_address = functools.lru_cache(maxsize=128)(_address)
_known_path = functools.lru_cache(maxsize=128)(_path)


def peer_text(wire: Any) -> SocketAddress:
    """Whose connection of a server it is, by its struct gcookie_wire."""
    return address_text(ffi.addressof(lib.gcookie_connection_path(wire), "address"))


def peer_shown(wire: Any) -> str:
    """str(peer_text(wire)), at less cost."""
    out = ffi.new(_SHOWN)
    lib.gcookie_connection_show(wire, out)
    return ffi.string(out).decode("ascii")


def own_text(wire: Any) -> str | None:
    """Our address that the peer asked."""
    return source_text(ffi.addressof(lib.gcookie_connection_path(wire), "source"))


def source_text(source: Any) -> str | None:
    """What a struct gcookie_source * has, as text; None: it is not known."""
    if source.size == 0:
        return None
    text = ffi.new(_TEXT)
    lib.gcookie_source_text(source, text)
    return ffi.string(text.host).decode("ascii")


def address_text(native: Any) -> SocketAddress:
    """The address as Python's socket module gives it."""
    text = ffi.new(_TEXT)
    lib.gcookie_address_write(native, text)
    host = ffi.string(text.host).decode("ascii")
    if text.is_long:
        return host, text.port, text.flowinfo, text.scope_id
    return host, text.port
