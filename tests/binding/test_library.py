"""What import says of the compiled module and of the libgnutls that it finds."""

from __future__ import annotations

import re
import shutil
import sys
import sysconfig
import warnings
from pathlib import Path

import cffi
import pytest

import gnutls_cookie
from gnutls_cookie import CertificateCredentials, Session, _library
from gnutls_cookie._ffi import ffi, lib
from gnutls_cookie.errors import CertificateVerificationError
from tests.support.authority import Authority
from tests.support.common import compile_peer, python
from tests.support.peers import shake

PACKAGE = Path(gnutls_cookie.__file__).parent


def text(pointer: object) -> str:
    return ffi.string(pointer).decode()


# --- the judgement --------------------------------------------------------------------------------


def judge(**changed: str) -> list[str]:
    """The warnings of check_versions() with one thing changed from a case where all is well."""
    versions = {
        "package": "1.2.3",
        "compiled": "1.2.3",
        "built_with": "3.7.9",
        "oldest": "3.6.13",
        "running": "3.7.9",
    }
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _library.check_versions(**{**versions, **changed})
    assert all(warning.category is RuntimeWarning for warning in caught)
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize("running", ["3.7.9", "3.7.10", "3.8.0", "3.10.0", "4.0.0", "3.8.9-rc1"])
def test_same_or_later_library_is_fine(running: str) -> None:
    """Numbers are compared as numbers: 3.7.10 and 3.10 come after 3.7.9."""
    assert judge(running=running) == []


@pytest.mark.parametrize("running", ["3.7.8", "3.6.13", "3.6.16", "3.7.0"])
def test_library_older_than_the_headers_is_a_warning(running: str) -> None:
    """It works as far as anyone knows, and both versions are named."""
    (message,) = judge(running=running)
    assert running in message
    assert "3.7.9" in message


@pytest.mark.parametrize("running", ["3.6.12", "3.6.11", "3.5.19", "3.6.2", "2.12.23", "3.6"])
def test_library_that_is_too_old_is_an_import_error(running: str) -> None:
    """Before 3.6.13 there are no PSK identities with zero bytes."""
    with pytest.raises(ImportError, match=rf"3\.6\.13.*{re.escape(running)}"):
        judge(running=running)


@pytest.mark.parametrize("compiled", ["1.2.2", "1.2.30", "0.1.0"])
def test_module_of_another_version_is_an_import_error(compiled: str) -> None:
    """A left-over _ffi beside new Python files is found out, whichever is older."""
    with pytest.raises(ImportError, match=rf"1\.2\.3.*{re.escape(compiled)}"):
        judge(compiled=compiled)


def test_versions_in_the_module_are_those_of_package_and_headers() -> None:
    """What was compiled in: the package's version, GNUTLS_VERSION, the oldest that is usable."""
    assert text(lib.gcookie_package_version) == gnutls_cookie.__version__
    assert re.match(r"\d+\.\d+\.\d+", text(lib.gcookie_built_with_libgnutls))
    assert text(lib.gcookie_oldest_libgnutls) == "3.6.13"


# --- for real -------------------------------------------------------------------------------------

IMPORT = "import gnutls_cookie; print('imported', gnutls_cookie.library_version())"


def import_with(version: str) -> tuple[int, str, str]:
    """Import in a child whose libgnutls says that it is of that version."""
    if sys.platform != "linux":
        pytest.skip("LD_PRELOAD")
    shim = compile_peer("old_version.c", "-shared", "-fPIC")
    done = python(IMPORT, env={"LD_PRELOAD": str(shim), "OLD_LIBGNUTLS_VERSION": version})
    return done.returncode, done.stdout, done.stderr


def test_import_beside_a_slightly_older_library_warns() -> None:
    """A RuntimeWarning with both versions, and everything is there."""
    built_with = text(lib.gcookie_built_with_libgnutls)
    if built_with == "3.6.13":
        pytest.skip("built with the oldest")
    code, out, err = import_with("3.6.13")
    assert (code, out) == (0, "imported 3.6.13\n")
    assert "RuntimeWarning: libgnutls 3.6.13 is older than" in err
    assert built_with in err


def test_import_beside_a_library_that_is_too_old_fails() -> None:
    """A clear ImportError."""
    code, out, err = import_with("3.6.12")
    assert (code, out) == (1, "")
    assert err.strip().splitlines()[-1] == (
        "ImportError: gnutls_cookie needs libgnutls 3.6.13 or later, and found 3.6.12"
    )


@pytest.mark.skipif(
    not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="not a free-threaded Python"
)
def test_import_leaves_the_gil_off() -> None:
    """An extension that needs the GIL would turn it on, with a warning."""
    code = "import gnutls_cookie.aio, gnutls_cookie.blocking, sys; print(sys._is_gil_enabled())"
    assert python(code, options=["-W", "error"]).stdout == "False\n"


def test_import_beside_the_library_built_with_is_silent() -> None:
    """The shim itself changes nothing."""
    version = text(lib.gcookie_built_with_libgnutls)
    assert import_with(version) == (0, f"imported {version}\n", "")


SESSIONS = """
from gnutls_cookie import PSKCredentials, Session
credentials = PSKCredentials(identity="me", key=bytes(16))
sessions = [Session("client", credentials) for _ in range(2)]
"""


def test_session_warns_once_of_a_library_that_lacks_fixes() -> None:
    """One RuntimeWarning a process: the version, one fault that is there, and what to do."""
    if sys.platform != "linux":
        pytest.skip("LD_PRELOAD")
    shim = compile_peer("unmended.c", "-shared", "-fPIC")
    done = python(SESSIONS, env={"LD_PRELOAD": str(shim)}, options=["-W", "always"])
    assert done.returncode == 0
    told = f"RuntimeWarning: libgnutls {gnutls_cookie.library_version()} lacks fixes"
    assert done.stderr.count(told) == 1
    assert "CVE-2026-3833" in done.stderr
    assert "Install your system's updates" in done.stderr


@pytest.mark.peer
def test_warning_is_there_exactly_where_a_session_takes_an_excluded_name(tmp_path: Path) -> None:
    """It goes by what this machine's library does, not by its version: no false alarm, no miss."""
    authority = Authority(tmp_path, "excluded;DNS:EXAMPLE.net")
    trust = CertificateCredentials.from_files(trust=authority.certificate)
    own = CertificateCredentials.from_files(*authority.issue("example.net"))
    client, server = Session("client", trust, server_name="example.net"), Session("server", own)
    try:
        shake(client, server)
    except CertificateVerificationError:
        is_mended = True
    else:
        is_mended = False
    done = python(SESSIONS, options=["-W", "always"])
    assert ("CVE-2026-3833" in done.stderr) != is_mended


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the package that can be spoilt."""
    shutil.copytree(
        PACKAGE, tmp_path / "gnutls_cookie", ignore=shutil.ignore_patterns("__pycache__")
    )
    return tmp_path


def import_from(folder: Path) -> tuple[int, str]:
    """Import from that folder in a child; exit code and last line of stderr."""
    # -S: the finder of an editable installation would find what is missing from the copy.
    others = str(Path(cffi.__file__).parent.parent)
    code = f"import sys; sys.path[:0] = [{str(folder)!r}, {others!r}]; {IMPORT}"
    done = python(code, cwd=folder, options=["-S"])
    return done.returncode, (done.stderr.strip().splitlines() or [""])[-1]


def test_copied_package_imports(copied: Path) -> None:
    """The copy itself is not what makes the next tests fail."""
    assert import_from(copied) == (0, "")


def test_missing_module_is_a_clear_import_error(copied: Path) -> None:
    """A source tree that was not built: the message says what to do."""
    for module in (copied / "gnutls_cookie").glob("_ffi*.so"):
        module.unlink()
    code, line = import_from(copied)
    assert code == 1
    assert line.startswith("ImportError: gnutls_cookie: the compiled module could not be loaded")
    assert "pip install ." in line


@pytest.mark.skipif(sys.platform != "linux", reason="edits an ELF file")
def test_missing_libgnutls_is_a_clear_import_error(copied: Path) -> None:
    """A machine without the library: the message names it, and the package for each system."""
    (module,) = (copied / "gnutls_cookie").glob("_ffi*.so")
    binary = module.read_bytes()
    assert binary.count(b"libgnutls.so.30\0") == 1
    module.write_bytes(binary.replace(b"libgnutls.so.30\0", b"libgnutls.so.99\0"))
    code, line = import_from(copied)
    assert code == 1
    assert "libgnutls.so.99" in line
    apt = "apt install libgnutls30t64 (libgnutls30 before "
    for words in (apt, "dnf install gnutls", "apk add gnutls", "brew install gnutls"):
        assert words in line
    assert "pip install" not in line  # of a wheel, nobody has to build anything


def test_left_over_module_is_a_clear_import_error(copied: Path) -> None:
    """Python files of another version than the module."""
    (copied / "gnutls_cookie" / "_version.py").write_text('__version__ = "99.0"\n')
    code, line = import_from(copied)
    assert code == 1
    assert line.startswith("ImportError: gnutls_cookie 99.0 was loaded with a compiled module")
