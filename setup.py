"""Builds gnutls_cookie._ffi with cffi against the libgnutls found, the library that `run` preloads,
and, where clang and libbpf's headers are, the program that `xdp` loads into the kernel.
Metadata: pyproject.toml."""

import os
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

# Without cffi setuptools would only warn about cffi_modules and build a wheel with no extension.
import cffi
import setuptools
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.egg_info import egg_info
from setuptools.errors import CompileError

MISSING_HEADERS = """
The headers of libgnutls 3.6.13 or later were not found. Install them and try again:
  Debian, Ubuntu   apt install libgnutls28-dev
  Fedora, RHEL     dnf install gnutls-devel
  Alpine           apk add gnutls-dev
  macOS            brew install gnutls
Elsewhere, name them in GNUTLS_CFLAGS and GNUTLS_LIBS.
"""

MISSING_PYTHON_HEADERS = f"""
The headers of this Python (Python.h) were not found. Install them and try again:
  Debian, Ubuntu   apt install python3-dev (or python3.{sys.version_info[1]}-dev)
  Fedora, RHEL     dnf install python3-devel
  Alpine           apk add python3-dev
"""

PROBE = """
#include <gnutls/gnutls.h>
#include <gnutls/dtls.h>
#if GNUTLS_VERSION_NUMBER < 0x03060d
#error "libgnutls is older than 3.6.13"
#endif
"""


def stable_abi() -> str | None:
    """The first Python whose stable ABI the extension uses, as in a wheel's tag.

    None where it is for one Python: a debug build, or a free-threaded one without PEP 803 (of
    3.13 or 3.14, or where setuptools or cffi do not know it).
    """
    if sys.implementation.name != "cpython" or hasattr(sys, "gettotalrefcount"):
        return None
    if not sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "cp311"
    setuptools_version = int(setuptools.__version__.split(".")[0])
    if sys.version_info >= (3, 15) and setuptools_version >= 84 and cffi.__version_info__ >= (2, 1):
        return "cp315"
    return None


STABLE_ABI = stable_abi()


class EggInfo(egg_info):
    """egg_info whose description is for where no other file of the project is: README without its
    pictures, and with the names of files in the place of links to them."""

    def run(self) -> None:
        metadata = self.distribution.metadata
        text = re.sub(r"!\[[^]]*\]\([^)]*\)\n*", "", metadata.long_description or "")
        metadata.long_description = re.sub(
            r"\[([^]]*)\]\((?!https?://)([^)#]*)[^)]*\)",
            lambda link: link[1] if link[1] == link[2] else f"{link[1]} ({link[2]})",
            text,
        )
        super().run()


class BuildExt(build_ext):
    """build_ext that looks for the headers first, so that their lack is one clear error.

    It names what it builds so that each Python of the wheel's tag finds it, whichever built it:
    3.15 would write _ffi.abi3-x86_64-linux-gnu.so, which 3.11 to 3.13 do not import. And a wheel
    for musl or another processor is built by a Python of this machine.
    """

    def get_ext_filename(self, fullname: str) -> str:
        usual: str = super().get_ext_filename(fullname)  # type: ignore[no-untyped-call]
        folder, name = os.path.split(usual)
        stem = name.partition(".")[0]
        if stem == "_preload":  # not a Python module
            name = "_preload.so"
        elif stem == "_xdp":  # not even for this machine
            name = "_xdp.bpf.o"
        elif STABLE_ABI:
            name = f"{stem}.abi3.so" if STABLE_ABI == "cp311" else f"{stem}.abi3t.so"
        return os.path.join(folder, name)

    def build_extensions(self) -> None:
        self.compile_probe("int probe;")  # a missing compiler is an error of its own
        try:
            self.compile_probe("#include <Python.h>")
        except CompileError as error:
            raise SystemExit(MISSING_PYTHON_HEADERS) from error
        try:
            self.compile_probe(PROBE)
        except CompileError as error:
            raise SystemExit(MISSING_HEADERS) from error
        super().build_extensions()

    def build_extension(self, ext: Extension) -> None:
        if ext.name == XDP:
            build_for_the_kernel(Path(self.get_ext_fullpath(ext.name)))
        else:
            super().build_extension(ext)

    def compile_probe(self, text: str) -> None:
        flags = self.extensions[0].extra_compile_args
        with tempfile.TemporaryDirectory() as folder:
            probe = Path(folder, "probe.c")
            probe.write_text(text, encoding="utf-8")
            self.compiler.compile([str(probe)], output_dir=folder, extra_preargs=flags)


XDP = "gnutls_cookie._xdp"
XDP_SOURCE = "gnutls_cookie/native/xdp/gate.bpf.c"


def build_for_the_kernel(to: Path) -> None:
    """Compile the XDP program; it is the same for every machine of a byte order.

    Raises:
        CompileError: clang is missing, or libbpf's headers (libbpf-dev) or the kernel's.
    """
    clang = os.environ.get("BPF_CLANG", "clang")
    command = [clang, *build_ffi["bpf_flags"](), "-mcpu=v3", "-O2", "-g", "-Wall"]
    command += ["-fdebug-compilation-dir=."]
    to.parent.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run([*command, "-c", XDP_SOURCE, "-o", str(to)], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        to.unlink(missing_ok=True)
        raise CompileError(f"without clang and libbpf's headers there is no xdp: {error}") from None
    strip = shutil.which("llvm-strip")
    if strip:  # what debuggers want, not the BTF that the kernel wants
        subprocess.run([strip, "-g", str(to)], check=True)


# A plain shared library with no Python in it, where there is LD_PRELOAD. What of gate.c it does not
# use is left out: it must not ask for a symbol of libgnutls in a process that has none.
build_ffi = runpy.run_path("build_ffi.py", run_name="__cffi__")
preload = Extension(
    "gnutls_cookie._preload",
    sources=[
        *sorted(map(str, Path("gnutls_cookie/native/preload").glob("*.c"))),
        "gnutls_cookie/native/gate.c",
    ],
    depends=sorted(map(str, Path("gnutls_cookie/native").rglob("*.h"))),
    include_dirs=["gnutls_cookie/native"],
    extra_compile_args=[
        "-std=gnu11",
        "-fvisibility=hidden",
        "-ffunction-sections",
        "-fdata-sections",
        "-ftls-model=initial-exec",
        *build_ffi["find_libgnutls"]()[0],
    ],
    extra_link_args=["-Wl,--gc-sections", "-ldl"],
)

xdp = Extension(
    XDP,
    sources=[XDP_SOURCE],
    depends=sorted(map(str, Path("gnutls_cookie/native").rglob("*.[ch]"))),
    optional=True,
)

setup(
    ext_modules=[preload, xdp] if sys.platform == "linux" else [],
    cffi_modules=["build_ffi.py:ffibuilder"],
    cmdclass={"build_ext": BuildExt, "egg_info": EggInfo},
    options={"bdist_wheel": {"py_limited_api": STABLE_ABI}} if STABLE_ABI else {},
)
