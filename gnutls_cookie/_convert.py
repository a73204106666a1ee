"""What passes between Python and C: bytes without a copy, and text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._check import INT_MAX, check_key_size
from ._ffi import ffi

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["c_text", "readable", "readable_client_data", "readable_key", "view"]

_BYTES = ffi.typeof("unsigned char[]")


def view(name: str, value: object) -> Any:
    """A cffi view of a bytes-like object; no copy. It locks a bytearray until it is released.

    Raises:
        TypeError: the argument `name` is not bytes-like.
        ValueError: it is not contiguous.
    """
    try:
        return ffi.from_buffer(_BYTES, value)
    except TypeError:
        kind = type(value).__name__
        raise TypeError(f"{name} must be a bytes-like object, not {kind}") from None
    except (BufferError, ValueError) as error:
        raise ValueError(f"{name} must be contiguous: {error}") from None


# What a const pointer of C takes: bytes as they are, of anything else bytes-like a view(). len() is
# the size in bytes. The three are called among the arguments of the function that calls C, and no
# variable holds what they return: the traceback of an error would keep a bytearray locked.


def readable(name: str, value: Buffer) -> Any:
    """The bytes of an argument, for C to read. Raises as view() does."""
    return value if type(value) is bytes else view(name, value)


def readable_client_data(value: Buffer | None) -> Any:
    """readable() for the argument `client_data`, where None stands for no bytes."""
    return value if type(value) is bytes else b"" if value is None else view("client_data", value)


def readable_key(value: Buffer) -> Any:
    """readable() for the argument `key`. Raises as check_key_size() does, too."""
    key = value if type(value) is bytes else view("key", value)
    if len(key) > INT_MAX:
        size = len(key)
        del key
        check_key_size("key", size)
    return key


def c_text(pointer: Any) -> str:
    """A str from a char * of libgnutls."""
    return ffi.string(pointer).decode("utf-8", "replace")
