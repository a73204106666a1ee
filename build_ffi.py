"""cffi build script (out-of-line, API mode) of gnutls_cookie._ffi.

setup.py runs it through cffi_modules; `python build_ffi.py` compiles in place. It reads the
declarations from gnutls_cookie/native/ffi.cdef and never imports the package.
"""

import os
import re
import shlex
import subprocess
import sysconfig
from pathlib import Path

from cffi import FFI

ROOT = Path(__file__).resolve().parent
NATIVE = ROOT / "gnutls_cookie" / "native"

# Relative to the project root: setuptools wants no absolute path in an sdist.
C_SOURCES = [
    "gnutls_cookie/native/lead.c",
    "gnutls_cookie/native/lock.c",
    "gnutls_cookie/native/debug.c",
    "gnutls_cookie/native/transport.c",
    "gnutls_cookie/native/gate.c",
    "gnutls_cookie/native/table.c",
    "gnutls_cookie/native/peers.c",
    "gnutls_cookie/native/source.c",
    "gnutls_cookie/native/udp.c",
    "gnutls_cookie/native/costs.c",
    "gnutls_cookie/native/guard.c",
    "gnutls_cookie/native/settings.c",
    "gnutls_cookie/native/seat.c",
    "gnutls_cookie/native/flight.c",
    "gnutls_cookie/native/wire.c",
    "gnutls_cookie/native/opening.c",
    "gnutls_cookie/native/address.c",
    "gnutls_cookie/native/turn.c",
    "gnutls_cookie/native/shares.c",
    "gnutls_cookie/native/connections.c",
    "gnutls_cookie/native/admission.c",
    "gnutls_cookie/native/server.c",
    "gnutls_cookie/native/send.c",
    "gnutls_cookie/native/waiting.c",
    "gnutls_cookie/native/serve.c",
]

# GNUTLS_COOKIE_PORTABLE_LOOP=1: one datagram a system call, as on systems without recvmmsg.
PORTABLE_LOOP = os.environ.get("GNUTLS_COOKIE_PORTABLE_LOOP", "") not in ("", "0")

PREAMBLE = """
#include <gnutls/abstract.h>
#include <gnutls/x509.h>
#include "lead.h"
#include "lock.h"
#include "debug.h"
#include "transport.h"
#include "counters.h"
#include "udp.h"
#include "settings.h"
#include "wire.h"
#include "server.h"
#include "serve.h"
static const char *const gcookie_package_version = "%s";
static const char *const gcookie_built_with_libgnutls = GNUTLS_VERSION;
static const char *const gcookie_oldest_libgnutls = GCOOKIE_OLDEST_LIBGNUTLS;
"""


def package_version() -> str:
    """The version that gnutls_cookie/_version.py states."""
    text = (ROOT / "gnutls_cookie" / "_version.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if match is None:
        raise RuntimeError("gnutls_cookie/_version.py states no version")
    return match[1]


def find_libgnutls() -> tuple[list[str], list[str]]:
    """Compiler and linker flags for libgnutls.

    GNUTLS_CFLAGS and GNUTLS_LIBS, where set, stand in for pkg-config's answer, one by one, as with
    autoconf's PKG_CHECK_MODULES; without either and without pkg-config it is plain -lgnutls.
    """
    return (
        _flags("GNUTLS_CFLAGS", "--cflags", default=[]),
        _flags("GNUTLS_LIBS", "--libs", default=["-lgnutls"]),
    )


def bpf_flags() -> list[str]:
    """What clang needs to compile for the kernel."""
    headers = sysconfig.get_config_var("MULTIARCH")  # asm/types.h is there on Debian and Ubuntu
    return ["-target", "bpf", "-ffreestanding", f"-I/usr/include/{headers}"]


def _flags(variable: str, option: str, default: list[str]) -> list[str]:
    if variable in os.environ:
        return shlex.split(os.environ[variable])
    command = [*shlex.split(os.environ.get("PKG_CONFIG", "pkg-config")), option, "gnutls"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return default
    return shlex.split(answer.stdout)


def make_ffi() -> FFI:
    """The FFI object that setuptools or `compile` turns into gnutls_cookie._ffi."""
    cflags, libs = find_libgnutls()
    ffi = FFI()
    ffi.cdef((NATIVE / "ffi.cdef").read_text(encoding="utf-8"))
    ffi.set_source(
        "gnutls_cookie._ffi",
        PREAMBLE % package_version(),
        sources=C_SOURCES,
        include_dirs=["gnutls_cookie/native"],
        extra_compile_args=["-std=gnu11", "-pthread", *cflags],
        extra_link_args=["-pthread", *libs],
        define_macros=[("GCOOKIE_PORTABLE_LOOP", None)] if PORTABLE_LOOP else [],
    )
    return ffi


ffibuilder = make_ffi()

if __name__ == "__main__":
    os.chdir(ROOT)
    ffibuilder.compile(verbose=True)
