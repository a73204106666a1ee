"""Checks the compiled module and the libgnutls that it was loaded with: at import what they are,
and at the first session what is wrong with it."""

from __future__ import annotations

import importlib
import re
import sys
import warnings

from ._version import __version__

_NO_CALLBACKS = (
    "gnutls_cookie cannot be imported in a sub-interpreter of Python 3.11: there cffi runs "
    "callbacks (a push function, a PSK lookup) in another interpreter than the one that called. "
    "From Python 3.12 on it can."
)
_ISOLATED = (
    "gnutls_cookie cannot be imported in an isolated sub-interpreter (one with a GIL of its own), "
    "nor in any of a free-threaded Python: no module that cffi compiles can ({error}). In one that "
    "shares the main GIL it can."
)
_NO_LIBRARY = (
    "gnutls_cookie: libgnutls could not be loaded ({error}). Install libgnutls 3.6.13 or later: "
    "apt install libgnutls30t64 (libgnutls30 before Debian 13 and Ubuntu 24.04), dnf install "
    "gnutls, apk add gnutls, brew install gnutls"
)
_NO_MODULE = (
    "gnutls_cookie: the compiled module could not be loaded ({error}). A source tree needs a "
    "build first: pip install ."
)
_LACKS_FIXES = (
    "libgnutls {version} lacks fixes of how certificates are verified: it takes a name that an "
    "authority excluded, written in other letters (CVE-2026-3833), and may have the faults that "
    "were fixed with this one. Install your system's updates of libgnutls, or 3.8.13 or later"
)
_has_told = False


def _in_sub_interpreter() -> bool:
    """Whether this is not the main interpreter; called on Python 3.11 only."""
    try:
        interpreters = importlib.import_module("_xxsubinterpreters")
    except ImportError:  # not every Python has it
        import ctypes

        api = ctypes.pythonapi
        api.PyInterpreterState_Get.restype = ctypes.c_void_p
        api.PyInterpreterState_GetID.restype = ctypes.c_int64
        api.PyInterpreterState_GetID.argtypes = (ctypes.c_void_p,)
        return bool(api.PyInterpreterState_GetID(api.PyInterpreterState_Get()) != 0)
    return bool(interpreters.get_current() != interpreters.get_main())


if sys.version_info < (3, 12) and _in_sub_interpreter():
    raise ImportError(_NO_CALLBACKS)

try:
    from ._ffi import ffi, lib
except ImportError as error:
    text = _NO_MODULE
    if "subinterpreters" in str(error):
        text = _ISOLATED
    elif "libgnutls" in str(error):
        text = _NO_LIBRARY
    raise ImportError(text.format(error=error)) from error

__all__ = ["check_versions", "lacks_fixes", "warn_of_faults"]


def check_versions(package: str, compiled: str, built_with: str, oldest: str, running: str) -> None:
    """Check that these versions work together.

    Args:
        package: version of the Python files.
        compiled: version that was compiled into the module.
        built_with: libgnutls whose headers the module was compiled with.
        oldest: the oldest libgnutls that is supported.
        running: the libgnutls that was loaded.

    Raises:
        ImportError: the module is of another version of the package, or libgnutls is too old.

    Warns:
        RuntimeWarning: libgnutls is older than the one that the module was built with.
    """
    if package != compiled:
        raise ImportError(
            f"gnutls_cookie {package} was loaded with a compiled module of version {compiled}: "
            "install it again"
        )
    if _numbers(running) < _numbers(oldest):
        raise ImportError(f"gnutls_cookie needs libgnutls {oldest} or later, and found {running}")
    if _numbers(running) < _numbers(built_with):
        warnings.warn(
            f"libgnutls {running} is older than {built_with}, which gnutls_cookie was built with",
            RuntimeWarning,
            stacklevel=2,
        )


def warn_of_faults() -> None:
    """Warn, the first time, of a libgnutls with faults that nothing in the package can make up for.

    Warns:
        RuntimeWarning: see lacks_fixes().
    """
    global _has_told
    if not _has_told:
        _has_told = True
        if lacks_fixes():
            version = _text(lib.gnutls_check_version(ffi.NULL))
            # Above: Settings, then Session, Client or Server, then who made it.
            warnings.warn(_LACKS_FIXES.format(version=version), RuntimeWarning, stacklevel=4)


def lacks_fixes() -> bool:
    """Whether libgnutls lacks the fixes of certificates that came with 3.8.13.

    Distributions mend it and keep its version, so that what it does is tried: name constraints are
    compared without regard to case (RFC 5280 7.2), and were not before. Takes some microseconds.
    """
    box = ffi.new("gnutls_x509_name_constraints_t *")
    if lib.gnutls_x509_name_constraints_init(box) < 0:
        return False
    names = [ffi.from_buffer("unsigned char[]", text) for text in (b"example.net", b"EXAMPLE.NET")]
    excluded, asked = (
        ffi.new("gnutls_datum_t *", {"data": name, "size": len(name)}) for name in names
    )
    kind = lib.GNUTLS_SAN_DNSNAME
    code = lib.gnutls_x509_name_constraints_add_excluded(box[0], kind, excluded)
    passes = code == 0 and lib.gnutls_x509_name_constraints_check(box[0], kind, asked)
    lib.gnutls_x509_name_constraints_deinit(box[0])
    return bool(passes)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def _text(pointer: object) -> str:
    return ffi.string(pointer).decode("ascii")


check_versions(
    __version__,
    _text(lib.gcookie_package_version),
    _text(lib.gcookie_built_with_libgnutls),
    _text(lib.gcookie_oldest_libgnutls),
    _text(lib.gnutls_check_version(ffi.NULL)),
)
