"""The wheel of a release, for this machine: what is in it, and that it works."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import gnutls_cookie
from tests.support.common import ROOT, gnutls_flags, peer_required

pytestmark = pytest.mark.slow

NEEDED = ("ziglang", "wheel", "auditwheel", "abi3audit")

USE = """
import sys
sys.path[:0] = [{folder!r}, {cffi!r}]
import gnutls_cookie
from gnutls_cookie._ffi import ffi, lib
from gnutls_cookie import cookie_reply, Prestate
assert gnutls_cookie.__file__.startswith({folder!r})
built_with = ffi.string(lib.gcookie_built_with_libgnutls).decode()
print(built_with, len(cookie_reply(b"k", b"c", Prestate())))
"""


def tools_required() -> None:
    """Skip where what ./dev wheels installs is not."""
    lacking = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if lacking:
        pytest.skip(f"without {', '.join(lacking)}: pip install '.[wheels]'")


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The wheels made by ./dev wheels' script, in a copy of the sources; the stable one first."""
    tools_required()
    peer_required(os.environ.get("BPF_CLANG", "clang"), "apt install clang llvm libbpf-dev")
    if not sys.platform.startswith("linux") or platform.machine() not in ("x86_64", "aarch64"):
        pytest.skip("wheels are for Linux, x86_64 and aarch64")
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        pytest.skip("a free-threaded Python builds no such wheel")
    gnutls_flags()
    tree = tmp_path_factory.mktemp("wheels") / "tree"
    tree.mkdir()
    names = ("gnutls_cookie", "checks", "build_ffi.py", "setup.py", "pyproject.toml")
    for name in (*names, "README.md", "LICENSE", "MANIFEST.in"):
        (tree / name).symlink_to(ROOT / name)
    # resolve() would lead the script back to this checkout, and its dist/.
    (tree / "checks").unlink()
    (tree / "checks" / "wheels").mkdir(parents=True)
    script = tree / "checks" / "wheels" / "build.py"
    script.write_text((ROOT / "checks" / "wheels" / "build.py").read_text(encoding="utf-8"))
    tag = f"manylinux_2_28_{platform.machine()}"
    done = subprocess.run(
        [sys.executable, script, "--once", tag],
        env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000"},
        capture_output=True,
        text=True,
        timeout=580,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = sorted((tree / "dist").glob("*.whl"))
    start = f"gnutls_cookie-{gnutls_cookie.__version__}"
    known = ["cp311-abi3", "cp314-cp314t", "cp315-abi3.abi3t"]
    wanted = [f"{start}-{one}-{tag}.whl" for one in known]
    assert found[0].name == wanted[0]
    assert {one.name for one in found} <= set(wanted)
    return found


@pytest.fixture
def wheel(wheels: list[Path]) -> Path:
    """That for all Pythons with a GIL."""
    return wheels[0]


def test_no_wheel_is_built_without_the_program_of_xdp() -> None:
    """Elsewhere it is optional, a release has it; the message says what to install."""
    tools_required()
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        pytest.skip("a free-threaded Python builds no such wheel")
    done = subprocess.run(
        [sys.executable, ROOT / "checks" / "wheels" / "build.py"],
        env={**os.environ, "BPF_CLANG": "no-such-clang"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "no no-such-clang" in done.stderr
    assert "apt install clang llvm libbpf-dev" in done.stderr


def test_bill_of_materials_is_in_the_wheel(wheel: Path) -> None:
    """PEP 770; RECORD lists it, and it says that libgnutls is not in the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (one for one in archive.namelist() if "/sboms/" in one)
        document = json.loads(archive.read(name))
        (record,) = (one for one in archive.namelist() if one.endswith(".dist-info/RECORD"))
        assert name in archive.read(record).decode()
    assert re.fullmatch(r"gnutls_cookie-[\d.]+\.dist-info/sboms/gnutls-cookie\.cdx\.json", name)
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    assert document["metadata"]["timestamp"] == "2023-11-14T22:13:20+00:00"
    scopes = {one["name"]: one["scope"] for one in document["components"]}
    assert scopes == {"cffi": "excluded", "libgnutls": "excluded"}


def test_wheel_works_without_a_warning(wheel: Path, tmp_path: Path) -> None:
    """It was built for the oldest libgnutls, whatever version this machine's headers have."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    spec = importlib.util.find_spec("cffi")
    assert spec is not None
    assert spec.origin is not None
    code = USE.format(folder=str(tmp_path), cffi=str(Path(spec.origin).parent.parent))
    done = subprocess.run(
        [sys.executable, "-S", "-W", "error", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("3.6.13 44\n", "")


@pytest.mark.parametrize("version", ["3.14t", "3.15t"])
def test_free_threaded_python_has_a_wheel_of_its_own(wheels: list[Path], version: str) -> None:
    """With a module that is named as it looks for it, on this platform."""
    tag = version.replace(".", "").rstrip("t")
    own = [one for one in wheels[1:] if f"-cp{tag}-" in one.name]
    if not own:
        pytest.skip(f"no python{version} on PATH")
    code = "from importlib.machinery import EXTENSION_SUFFIXES as all; print(*all)"
    command = [f"python{version}", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    modules = {f"gnutls_cookie/_ffi{suffix}" for suffix in done.stdout.split()}
    assert modules.intersection(zipfile.ZipFile(own[0]).namelist())
