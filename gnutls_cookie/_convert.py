"""What passes between Python and C: bytes without a copy, bytes with one, text both ways."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._ffi import ffi

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["c_string", "c_text", "check_seconds", "to_bytes", "view"]


def view(name: str, value: object) -> Any:
    """A cffi view of a bytes-like object, for a with block; no copy.

    Raises:
        TypeError: the argument `name` is not bytes-like.
        ValueError: it is not contiguous.
    """
    try:
        return ffi.from_buffer("unsigned char[]", value)
    except TypeError:
        raise _no_bytes(name, value) from None
    except (BufferError, ValueError) as error:
        raise ValueError(f"{name} must be contiguous: {error}") from None


def to_bytes(name: str, value: Buffer) -> bytes:
    """A copy of a bytes-like object, to keep.

    Raises:
        TypeError: the argument `name` is not bytes-like.
    """
    try:
        return bytes(memoryview(value))
    except TypeError:
        raise _no_bytes(name, value) from None


def c_string(name: str, value: str, *, least: int = 1) -> bytes:
    """A str for C: UTF-8 (what was no UTF-8 comes back as it was), no NUL, at most 65535 bytes.

    Raises:
        TypeError: the argument `name` is no str.
        ValueError: it has NUL in it, too few or too many bytes, or lone surrogates.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    try:
        raw = value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise ValueError(f"{name} must be text that UTF-8 can write") from None
    if b"\0" in raw:
        raise ValueError(f"{name} must not contain NUL")
    if not least <= len(raw) <= 0xFFFF:
        raise ValueError(f"{name} must be of {least}..65535 bytes, not {len(raw)}")
    return raw


def c_text(pointer: Any) -> str:
    """A str from a char * of libgnutls."""
    return ffi.string(pointer).decode("utf-8", "replace")


def check_seconds(name: str, value: object, least: float, most: float) -> float:
    """An argument in seconds.

    Raises:
        TypeError: the argument `name` is not a number; a bool is none.
        ValueError: it is NaN, or not in least..most.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__}")
    is_huge = isinstance(value, int) and abs(value) > 10**300  # it has no float, maybe no text
    if is_huge or not least <= value <= most:
        said = "a larger number" if is_huge else value
        raise ValueError(f"{name} must be in {least:.15g}..{most:.15g} seconds, not {said}")
    return float(value)


def _no_bytes(name: str, value: object) -> TypeError:
    return TypeError(f"{name} must be a bytes-like object, not {type(value).__name__}")
