"""Builds gnutls_cookie._ffi with cffi against the libgnutls found. Metadata: pyproject.toml."""

import sysconfig
import tempfile
from pathlib import Path

# Without cffi setuptools would only warn about cffi_modules and build a wheel with no extension.
import cffi  # noqa: F401
from setuptools import setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

MISSING_HEADERS = """
The headers of libgnutls 3.6.12 or later were not found. Install them and try again:
  Debian, Ubuntu   apt install libgnutls28-dev
  Fedora, RHEL     dnf install gnutls-devel
  Alpine           apk add gnutls-dev
  macOS            brew install gnutls
Elsewhere, name them in GNUTLS_CFLAGS and GNUTLS_LIBS.
"""

PROBE = """
#include <gnutls/gnutls.h>
#include <gnutls/dtls.h>
#if GNUTLS_VERSION_NUMBER < 0x03060c
#error "libgnutls is older than 3.6.12"
#endif
"""


class BuildExt(build_ext):
    """build_ext that looks for libgnutls' headers first, so that their lack is one clear error."""

    def build_extensions(self) -> None:
        self.compile_probe("int probe;")  # a missing compiler is an error of its own
        try:
            self.compile_probe(PROBE)
        except CompileError as error:
            raise SystemExit(MISSING_HEADERS) from error
        super().build_extensions()

    def compile_probe(self, text: str) -> None:
        flags = self.extensions[0].extra_compile_args
        with tempfile.TemporaryDirectory() as folder:
            probe = Path(folder, "probe.c")
            probe.write_text(text, encoding="utf-8")
            self.compiler.compile([str(probe)], output_dir=folder, extra_preargs=flags)


# One wheel for CPython 3.10 and all after it; a free-threaded build has no stable ABI.
limited = not sysconfig.get_config_var("Py_GIL_DISABLED")

setup(
    cffi_modules=["build_ffi.py:ffibuilder"],
    cmdclass={"build_ext": BuildExt},
    options={"bdist_wheel": {"py_limited_api": "cp310"}} if limited else {},
)
