"""The build: sdist, wheel, and the one clear error where something is missing. Works offline."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Mapping
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import gnutls_cookie
from tests.support.common import ROOT, compiler, gnutls_flags, missing

pytestmark = pytest.mark.slow

NEEDED = "pip install 'setuptools>=77' 'cffi>=1.17'"
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))

# What a checkout has beside the sources, by name, at any depth.
NO_SOURCES = (
    *(".git", ".venv", ".dev", "build", "dist", "*.egg-info", "__pycache__", ".hypothesis"),
    *(".mypy_cache", ".ruff_cache", ".pytest_cache", "*.so", "*.o", "_ffi.c", "node_modules"),
)


def module(name: str) -> ModuleType:
    try:
        return __import__(name)
    except ImportError:
        missing(f"{name} is not installed: {NEEDED}")


@pytest.fixture(scope="module", autouse=True)
def _build_requirements() -> None:
    """What [build-system] requires must be there, for a build without isolation."""
    module("cffi")
    if int(module("setuptools").__version__.split(".")[0]) < 77:
        missing(f"setuptools is too old: {NEEDED}")
    compiler()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the sources alone."""
    return copy_of_sources(tmp_path)


def copy_of_sources(folder: Path) -> Path:
    shutil.copytree(ROOT, folder / "tree", ignore=shutil.ignore_patterns(*NO_SOURCES))
    return folder / "tree"


def build(
    tree: Path, kind: str, env: Mapping[str, str] | None = None, site: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the build backend as a front end would; what it made is in tree/out.

    `site` stands in for site-packages. Nothing is optimised: that takes half of the time.
    """
    out = tree / "out"
    out.mkdir(exist_ok=True)
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    code = f"from setuptools import build_meta; build_meta.build_{kind}({str(out)!r})"
    options = []
    if site is not None:
        options = ["-S"]
        code = f"import sys; sys.path.append({str(site)!r}); {code}"
    return subprocess.run(
        [sys.executable, *options, "-c", code],
        cwd=tree,
        env={**clean, "CFLAGS": f"{clean.get('CFLAGS', '')} -O0", **(env or {})},
        capture_output=True,
        text=True,
        timeout=300,
    )


def made(tree: Path, pattern: str) -> list[Path]:
    return sorted((tree / "out").glob(pattern))


# --- what is made ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist of the sources, unpacked."""
    folder = tmp_path_factory.mktemp("sdist")
    copied = copy_of_sources(folder)
    done = build(copied, "sdist")
    assert done.returncode == 0, done.stderr
    (archive,) = made(copied, "*.tar.gz")
    safely: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    with tarfile.open(archive) as tar:
        tar.extractall(folder, **safely)
    assert archive.name == f"gnutls_cookie-{gnutls_cookie.__version__}.tar.gz"
    return folder / f"gnutls_cookie-{gnutls_cookie.__version__}"


@pytest.fixture(scope="module")
def wheel(sdist: Path) -> Path:
    """The wheel that this sdist, and nothing else, builds."""
    done = build(sdist, "wheel")
    assert done.returncode == 0, done.stdout + done.stderr
    (archive,) = made(sdist, "*.whl")
    return archive


def test_page_of_the_package_is_the_readme_without_dead_links(sdist: Path) -> None:
    """A link to another file leads nowhere on a package index: there stands its name."""
    page = (sdist / "PKG-INFO").read_text(encoding="utf-8")
    assert "\nDescription-Content-Type: text/markdown\n" in page
    assert "\n# gnutls-cookie\n" in page
    assert "(docs/design.md)" in page
    links = re.findall(r"\]\(([^)]*)\)", page)
    assert [link for link in links if not link.startswith("https://")] == []


def test_sdist_holds_the_sources_and_nothing_built(sdist: Path) -> None:
    """All that the wheel needs, the tests and the licence; no object of a compiler."""
    names = {str(path.relative_to(sdist)) for path in sdist.rglob("*") if path.is_file()}
    wanted = {"setup.py", "build_ffi.py", "pyproject.toml", "LICENSE", "README.md", "PKG-INFO"}
    wanted |= {"gnutls_cookie/native/ffi.cdef", "gnutls_cookie/py.typed", "gnutls_cookie/_ffi.pyi"}
    wanted |= {
        str(path.relative_to(ROOT))
        for folder, pattern in (("gnutls_cookie", "*.py"), ("gnutls_cookie/native", "*.[ch]"))
        for path in (ROOT / folder).rglob(pattern)
        if path.name != "_ffi.c"
    }
    wanted |= {"tests/conftest.py", "tests/support/common.py", "tests/peers/cookies.c"}
    assert wanted - names == set()
    assert not [name for name in names if re.search(r"\.(so|o|pyc)$|_ffi\.c$", name)]


@pytest.mark.skipif(FREE_THREADED, reason="a free-threaded Python has another ABI")
def test_wheel_is_tagged_for_every_python_from_3_11_on(wheel: Path) -> None:
    """cp311-abi3 in the name, and a module that is named as each of them looks for it."""
    assert re.match(r"gnutls_cookie-[^-]+-cp311-abi3-[^-]+\.whl$", wheel.name)
    assert "_ffi.abi3.so" in libraries(wheel)


@pytest.mark.skipif(not FREE_THREADED, reason="not a free-threaded Python")
def test_wheel_of_a_free_threaded_python_is_tagged_for_it(wheel: Path) -> None:
    """For this version alone; from 3.15 on for every later one as well (PEP 803)."""
    version = "cp{}{}".format(*sys.version_info)
    tag = f"{version}-{version}t" if sys.version_info < (3, 15) else "cp315-abi3.abi3t"
    assert re.match(rf"gnutls_cookie-[^-]+-{re.escape(tag)}-[^-]+\.whl$", wheel.name)
    assert any(name.removeprefix("_ffi") in EXTENSION_SUFFIXES for name in libraries(wheel))


@pytest.mark.skipif(sys.platform != "linux", reason="built on Linux only")
def test_library_to_preload_is_named_alike_by_every_python(wheel: Path) -> None:
    """It is not a Python module."""
    assert "_preload.so" in libraries(wheel)


@pytest.mark.skipif(sys.platform != "linux", reason="built on Linux only")
def test_program_for_the_kernel_is_built_where_clang_is(wheel: Path, tree: Path) -> None:
    """Where it is not, there is none, and setuptools, told that it is optional, goes on."""
    code = """
import runpy, sys
from pathlib import Path
from unittest import mock
from setuptools.errors import CompileError
with mock.patch("setuptools.setup") as setup:
    functions = runpy.run_path("setup.py")
(xdp,) = [one for one in setup.call_args[1]["ext_modules"] if one.name == functions["XDP"]]
assert xdp.optional
try:
    functions["build_for_the_kernel"](Path("folder/_xdp.bpf.o"))
except CompileError as error:
    print("none:", error)
"""

    def said(**environment: str) -> str:
        return subprocess.run(
            [sys.executable, "-c", code],
            cwd=tree,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            text=True,
            timeout=60,
            check=True,
        ).stdout

    there_is = "gnutls_cookie/_xdp.bpf.o" in zipfile.ZipFile(wheel).namelist()
    assert there_is == (said() == "") == (tree / "folder/_xdp.bpf.o").exists()
    assert "none: without clang and libbpf's headers" in said(BPF_CLANG="/nowhere/clang")
    assert not (tree / "folder/_xdp.bpf.o").exists()
    if os.environ.get("REQUIRE_PEERS") == "1":
        assert there_is


def libraries(wheel: Path) -> list[str]:
    """The names of what was compiled."""
    names = (Path(name) for name in zipfile.ZipFile(wheel).namelist())
    return [path.name for path in names if path.suffix == ".so"]


@pytest.mark.skipif(FREE_THREADED, reason="its wheels are for itself")
@pytest.mark.parametrize("minor", range(11, 16))
def test_wheel_is_imported_by_another_python(wheel: Path, tmp_path: Path, minor: int) -> None:
    """Each Python of this machine finds the module; with cffi a cookie goes there and back."""
    other = another_python(minor)
    if other is None:
        pytest.skip(f"no other Python 3.{minor} here")
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = """
import importlib.util, sys
from importlib.machinery import FileFinder, ExtensionFileLoader, EXTENSION_SUFFIXES
where = sys.path[0] = sys.argv[1]
finder = FileFinder(where + "/gnutls_cookie", (ExtensionFileLoader, EXTENSION_SUFFIXES))
print(finder.find_spec("_ffi").origin)
if importlib.util.find_spec("_cffi_backend"):
    exec(sys.argv[2])
else:
    print("no cffi")
"""
    done = subprocess.run(
        [other, "-c", code, str(tmp_path), ONE_COOKIE],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    found, said = done.stdout.splitlines()
    assert found == str(tmp_path / "gnutls_cookie" / "_ffi.abi3.so")
    assert said in ("no cffi", f"{tmp_path / 'gnutls_cookie' / '__init__.py'} {VERIFIED}")


def another_python(minor: int) -> str | None:
    """A Python 3.MINOR that has the GIL and is not the running one, by its own word."""
    folder = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    programs = [f"python3.{minor}", *map(str, folder.glob(f"3.{minor}.*/bin/python3.{minor}"))]
    code = """
import sys, sysconfig
wanted = sys.version_info[1] == int(sys.argv[1]) and not sysconfig.get_config_var("Py_GIL_DISABLED")
sys.exit(not wanted or sys.base_prefix == sys.argv[2])
"""
    for program in programs:
        try:
            done = subprocess.run(
                [program, "-c", code, str(minor), sys.base_prefix], capture_output=True, timeout=60
            )
        except OSError:
            continue
        if done.returncode == 0:
            return program
    return None


def test_wheel_holds_every_module_the_types_and_the_licence(wheel: Path) -> None:
    """Whatever Python there is in the package is in the wheel; the tests are not."""
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "gnutls_cookie").rglob("*.py")
        if "__pycache__" not in path.parts
    }
    assert (modules | {"gnutls_cookie/py.typed", "gnutls_cookie/_ffi.pyi"}) - names == set()
    assert any(re.search(r"\.dist-info/(licenses/)?LICENSE$", name) for name in names)
    assert not [name for name in names if name.startswith(("tests/", "build"))]


# Prints where the package is, and a prestate.
ONE_COOKIE = """
import gnutls_cookie
from gnutls_cookie import Prestate, cookie_send, cookie_verify
from gnutls_cookie.reference.wire import client_hello
sent = []
cookie_send(b"key", b"who", Prestate(), sent, lambda to, data: to.append(data))
print(gnutls_cookie.__file__, cookie_verify(b"key", b"who", client_hello(cookie=sent[0][28:])))
"""
VERIFIED = "Prestate(record_seq=0, hsk_read_seq=0, hsk_write_seq=0)"


def test_wheel_works(wheel: Path, tmp_path: Path) -> None:
    """Unpacked anywhere it imports, and one cookie goes there and back."""
    zipfile.ZipFile(wheel).extractall(tmp_path)
    cffi = Path(module("cffi").__file__ or "").parent.parent
    code = f"import sys\nsys.path[:0] = [{str(tmp_path)!r}, {str(cffi)!r}]\n{ONE_COOKIE}"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{tmp_path / 'gnutls_cookie' / '__init__.py'} {VERIFIED}\n"


# --- where libgnutls is ---------------------------------------------------------------------------


def include_folders() -> list[Path]:
    """The folders that the compiler searches for <headers> of its own accord."""
    done = subprocess.run(
        [*compiler(), "-E", "-Wp,-v", "-xc", os.devnull], capture_output=True, text=True
    )
    listed = done.stderr.split("search starts here:")[-1].split("End of search list")[0]
    return [Path(line.strip()) for line in listed.splitlines() if line.startswith(" /")]


@pytest.fixture
def no_headers(tmp_path: Path) -> dict[str, str]:
    """The environment of a machine like this one, but without the headers of libgnutls."""
    folders = include_folders()
    if not folders:
        pytest.skip("this compiler does not tell where it looks for headers")
    words = [*compiler(), "-nostdinc"]
    for index, folder in enumerate(folders):
        view = tmp_path / "include" / str(index)
        view.mkdir(parents=True)
        for entry in folder.iterdir():
            if entry.name != "gnutls":
                (view / entry.name).symlink_to(entry)
        words += ["-isystem", str(view)]
    script = tmp_path / "cc"
    script.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n', encoding="utf-8")
    script.chmod(0o755)
    return {"CC": str(script), "PKG_CONFIG": "false", "GNUTLS_CFLAGS": "", "GNUTLS_LIBS": ""}


def header_folder() -> Path:
    """Where the headers of libgnutls really are."""
    done = subprocess.run(
        [*compiler(), *gnutls_flags(), "-M", "-xc", "-"],
        input="#include <gnutls/gnutls.h>\n#include <gnutls/dtls.h>\n",
        capture_output=True,
        text=True,
        check=True,
    )
    (header,) = (word for word in done.stdout.split() if word.endswith("gnutls/gnutls.h"))
    return Path(header).parent


def library() -> Path:
    """The libgnutls that the linker finds."""
    name = "libgnutls.dylib" if sys.platform == "darwin" else "libgnutls.so"
    done = subprocess.run(
        [*compiler(), f"-print-file-name={name}"], capture_output=True, text=True, check=True
    )
    path = Path(done.stdout.strip())
    if not path.is_absolute():
        pytest.skip("the linker finds libgnutls by pkg-config alone")
    return path.resolve()


def is_the_clear_error(done: subprocess.CompletedProcess[str]) -> bool:
    """The build failed, and its last words name the package for each system."""
    last = done.stderr[done.stderr.rfind("The headers of libgnutls") :]
    packages = ("apt install libgnutls28-dev", "dnf install gnutls-devel", "apk add gnutls-dev")
    wanted = (*packages, "brew install gnutls", "GNUTLS_CFLAGS")
    return done.returncode != 0 and all(word in last for word in wanted) and "\n  File" not in last


def test_missing_headers_are_one_clear_error(tree: Path, no_headers: dict[str, str]) -> None:
    """No wheel, and the package to install is named for apt, dnf, apk and brew."""
    done = build(tree, "wheel", no_headers)
    assert is_the_clear_error(done), done.stderr
    assert made(tree, "*.whl") == []


def test_headers_that_are_too_old_are_the_same_error(tree: Path, tmp_path: Path) -> None:
    """libgnutls 3.6.11 hands over 8 bits of record_seq only."""
    folder = tmp_path / "old" / "gnutls"
    folder.mkdir(parents=True)
    (folder / "gnutls.h").write_text("#define GNUTLS_VERSION_NUMBER 0x03060c\n")
    (folder / "dtls.h").write_text("")
    done = build(tree, "wheel", {"GNUTLS_CFLAGS": f"-I{folder.parent}", "GNUTLS_LIBS": ""})
    assert is_the_clear_error(done), done.stderr
    assert made(tree, "*.whl") == []


def test_missing_headers_of_python_are_one_clear_error(tree: Path, tmp_path: Path) -> None:
    """The package is named; nobody is sent to install libgnutls."""
    script = tmp_path / "cc"
    here = shlex.quote(f"-I{sysconfig.get_path('include')}")
    script.write_text(f"""#!/bin/sh
for word do
    shift
    [ "$word" = {here} ] || set -- "$@" "$word"
done
exec {shlex.join(compiler())} "$@"
""")
    script.chmod(0o755)
    done = build(tree, "wheel", {"CC": str(script)})
    assert done.returncode != 0
    last = done.stderr[done.stderr.rfind("The headers of this Python (Python.h)") :]
    assert "apt install python3-dev" in last, done.stderr
    assert "dnf install python3-devel" in last
    assert "libgnutls" not in last
    assert made(tree, "*.whl") == []


def test_headers_of_the_kernel_are_not_asked_for() -> None:
    """musl comes without them, and the line of README for Alpine names no package that has them."""
    native = ROOT / "gnutls_cookie" / "native"
    files = [*native.glob("*.[ch]"), *native.glob("preload/*.[ch]")]
    assert len(files) > 20
    kernel = re.compile(r"^\s*#\s*include\s*<(linux|asm)/", re.MULTILINE)
    assert [file.name for file in files if kernel.search(file.read_text(encoding="utf-8"))] == []


def test_missing_compiler_is_not_taken_for_missing_headers(tree: Path) -> None:
    """Whoever lacks a compiler is not sent to install headers."""
    done = build(tree, "wheel", {"CC": "no-such-compiler"})
    assert done.returncode != 0
    assert "no-such-compiler" in done.stderr
    assert "The headers of libgnutls" not in done.stderr
    assert made(tree, "*.whl") == []


def test_flags_of_the_environment_are_used(
    tree: Path, tmp_path: Path, no_headers: dict[str, str]
) -> None:
    """Headers and a library that only GNUTLS_CFLAGS and GNUTLS_LIBS name, and no pkg-config."""
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    (elsewhere / "gnutls").symlink_to(header_folder())
    (
        elsewhere / f"libelsewhere{library().suffix if sys.platform == 'darwin' else '.so'}"
    ).symlink_to(library())
    flags = {
        "GNUTLS_CFLAGS": shlex.join([f"-I{elsewhere}"]),
        "GNUTLS_LIBS": shlex.join([f"-L{elsewhere}", "-lelsewhere"]),
    }
    done = build(tree, "wheel", {**no_headers, **flags})
    assert done.returncode == 0, done.stderr
    assert len(made(tree, "*.whl")) == 1


def test_library_of_the_environment_is_the_one_linked(tree: Path) -> None:
    """A library that is not there fails the build: GNUTLS_LIBS is not put aside."""
    done = build(tree, "wheel", {"GNUTLS_LIBS": "-lno-such-gnutls"})
    assert done.returncode != 0
    assert "no-such-gnutls" in done.stderr
    assert made(tree, "*.whl") == []


def test_build_needs_no_pkg_config(tree: Path) -> None:
    """Headers and library in the places where every compiler looks need no flags."""
    if not any((folder / "gnutls" / "gnutls.h").exists() for folder in include_folders()):
        pytest.skip("the headers are in no default place here")
    library()
    done = build(tree, "wheel", {"PKG_CONFIG": "/no/such/pkg-config"})
    assert done.returncode == 0, done.stderr
    assert len(made(tree, "*.whl")) == 1


# --- cffi -----------------------------------------------------------------------------------------


def test_missing_cffi_stops_the_build(tree: Path, tmp_path: Path) -> None:
    """No wheel without an extension in it, as setuptools alone would make one."""
    site = tmp_path / "site"
    site.mkdir()
    for entry in Path(module("setuptools").__file__ or "").parent.parent.iterdir():
        if not entry.name.startswith(("cffi", "_cffi_backend", "__editable__")):
            (site / entry.name).symlink_to(entry)
    done = build(tree, "wheel", site=site)
    assert done.returncode != 0
    assert "No module named 'cffi'" in done.stderr
    assert made(tree, "*.whl") == []


def test_cffi_is_a_build_requirement() -> None:
    """So that a build with isolation brings it."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    section = re.search(r"^\[build-system\]\n(.*?)^\[", text, re.DOTALL | re.MULTILINE)
    assert section is not None
    assert re.search(r'requires = \[.*"setuptools[^"]*".*"cffi[^"]*"\]', section[1])
