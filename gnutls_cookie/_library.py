"""Judges, at import, the compiled module and the libgnutls that it was loaded with."""

from __future__ import annotations

import re
import warnings

from ._version import __version__

try:
    from ._ffi import ffi, lib
except ImportError as error:
    raise ImportError(
        f"gnutls_cookie: the compiled module could not be loaded ({error}). It needs libgnutls.so "
        "3.6.13 or later (apt: libgnutls30, dnf: gnutls, apk: gnutls, brew: gnutls) and, from a "
        "source tree, a build: pip install ."
    ) from error

__all__ = ["judge"]


def judge(package: str, compiled: str, built_with: str, oldest: str, running: str) -> None:
    """Say whether these versions go together.

    Args:
        package: version of the Python files.
        compiled: version that was compiled into the module.
        built_with: libgnutls whose headers the module was compiled with.
        oldest: the oldest libgnutls that is usable.
        running: the libgnutls that was loaded.

    Raises:
        ImportError: the module is of another version of the package, or libgnutls is too old.

    Warns:
        RuntimeWarning: libgnutls is older than the one that the module was built with.
    """
    if package != compiled:
        raise ImportError(
            f"gnutls_cookie {package} was loaded with a compiled module of version {compiled}: "
            "install it anew"
        )
    if _numbers(running) < _numbers(oldest):
        raise ImportError(f"gnutls_cookie needs libgnutls {oldest} or later, and found {running}")
    if _numbers(running) < _numbers(built_with):
        warnings.warn(
            f"libgnutls {running} is older than {built_with}, which gnutls_cookie was built with",
            RuntimeWarning,
            stacklevel=2,
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def _text(pointer: object) -> str:
    return ffi.string(pointer).decode("ascii")


judge(
    __version__,
    _text(lib.gc_package_version),
    _text(lib.gc_built_with_libgnutls),
    _text(lib.gc_oldest_libgnutls),
    _text(lib.gnutls_check_version(ffi.NULL)),
)
