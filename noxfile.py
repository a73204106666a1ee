"""The project's commands. `./dev COMMAND` runs them in the .venv that it made; `nox -l` lists them.

The sessions have no environment of their own: .venv holds the project, editable, as for daily work,
and a session installs there once what it needs beyond that.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import nox

ROOT = Path(__file__).resolve().parent
PYTHON = str(ROOT / ".venv" / "bin" / "python")
CC = shlex.split(os.environ.get("CC", "cc"))

# How long after Ctrl-C a command may take to end: pytest ends the processes of a test.
END_S = 60

nox.options.sessions = ["check", "test"]
nox.options.default_venv_backend = "none"


@nox.session
def demo(session: nox.Session) -> None:
    """Show the cookie exchange on loopback with real clients."""
    install(session)
    run(session, PYTHON, "-m", "gnutls_cookie", "demo", *session.posargs)


@nox.session
def test(session: nox.Session) -> None:
    """Run the tests, in up to 8 processes (-n 0: in one); arguments go to pytest."""
    peers = ["check", "peers"] if os.environ.get("REQUIRE_PEERS") == "1" else []
    install(session, "test", *peers)
    # One more than there are processors: half of a test's time is waiting.
    has_affinity = hasattr(os, "sched_getaffinity")
    processors = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    parallel = ["-n", str(min(processors + 1, 8)), "--dist", "loadfile"]
    run(session, PYTHON, "-m", "pytest", *parallel, *session.posargs)


@nox.session
def check(session: nox.Session) -> None:
    """Run linters, formatters and type checkers, for Python, C and shell."""
    install(session, "test", "check")
    failed = []
    for name, command in checks().items():
        session.log(name)
        try:
            run(session, *command, log=False)  # of a hundred files
        except nox.command.CommandFailed:  # goes on, so that one run tells all
            failed.append(name)
    if failed:
        session.error(f"check failed: {', '.join(failed)}")


@nox.session
def docs(session: nox.Session) -> None:
    """Make the pages of docs/ in build/docs; a warning is an error."""
    install(session, "docs", "hypothesis", "learn", "test")
    out = ROOT / "build" / "docs"
    run(session, PYTHON, "docs/pictures.py")
    options = ["-q", "-W", "--keep-going", "-E", "-d", "build/doctrees", "-c", "docs"]
    run(session, PYTHON, "-m", "sphinx", *options, *session.posargs, ".", str(out))
    session.log(f"open {out / 'index.html'}")


@nox.session
def wheels(session: nox.Session) -> None:
    """Build the wheels of a release in dist/, and judge them: [--once] [PLATFORM...]."""
    install(session, "wheels")
    run(session, PYTHON, "checks/wheels/build.py", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure beside the peers; arguments go to `python -m benchmarks`."""
    install(session, "bench")
    run(session, PYTHON, "-m", "benchmarks", *session.posargs)


@nox.session
def prove(session: nox.Session) -> None:
    """Prove every memory access of the packet path."""
    run(session, "sh", "checks/prove/prove.sh", *session.posargs)


@nox.session
def sanitize(session: nox.Session) -> None:
    """Run the packet path under AddressSanitizer and UBSan."""
    install(session, "test")
    run(session, "sh", "checks/sanitize/run.sh", *session.posargs)


@nox.session
def valgrind(session: nox.Session) -> None:
    """Run a program that calls all of the C half under memcheck."""
    install(session)
    run(session, PYTHON, "checks/valgrind/run.py", *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Run libFuzzer on the C half: [SECONDS] [TARGET...]."""
    install(session)
    run(session, PYTHON, "checks/fuzz/fuzz.py", *session.posargs)


@nox.session
def ci(session: nox.Session) -> None:
    """Run check, prove, each fuzz target for 25 seconds, and the tests with every peer."""
    session.notify("check", [])
    session.notify("prove", [])
    session.notify("fuzz", ["25"])
    session.notify("test")


def checks() -> dict[str, list[str]]:
    """The commands of `check`, by name."""
    sys.path.insert(0, str(ROOT))
    from build_ffi import bpf_flags, find_libgnutls

    folders = ["gnutls_cookie/native", "tests", "checks", "benchmarks", "examples"]
    files = [str(path) for folder in folders for path in sorted(Path(folder).rglob("*.[ch]"))]
    # What checks/prove holds is for the provers, some of it with built-ins of theirs.
    compiled = [file for file in files if file.endswith(".c") and "checks/prove/" not in file]
    compiled.remove("examples/vectors.c")  # its table is made first: tests/differential compiles it
    compiled.remove(xdp := "gnutls_cookie/native/xdp/gate.bpf.c")  # clang's own: see below
    if not includes("wolfssl/options.h"):
        compiled.remove("tests/peers/wolfssl_peer.c")
    warnings = ["-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror"]
    clang_format = str(Path(PYTHON).with_name("clang-format"))
    python = ["gnutls_cookie", "tests", "benchmarks", "setup.py", "build_ffi.py", "noxfile.py"]
    # They are written without annotations; what they ask of the package is checked.
    untyped = [f"--allow-{what}" for what in ("untyped-defs", "untyped-calls", "subclassing-any")]
    untyped.append("--no-warn-unreachable")  # guesses, without annotations
    found = {
        "ruff check": [PYTHON, "-m", "ruff", "check", "."],
        "ruff format": [PYTHON, "-m", "ruff", "format", "--check", "."],
        "mypy": [PYTHON, "-m", "mypy", "--strict", *python],
        "mypy of the examples": [PYTHON, "-m", "mypy", *untyped, "examples"],
        "clang-format": [clang_format, "--dry-run", "-Werror", *files],
        "C warnings": [*CC, "-std=gnu11", *warnings, "-fsyntax-only", *find_libgnutls()[0]],
    }
    found["C warnings"] += ["-Ignutls_cookie/native", *compiled]
    if shutil.which("clang") and includes("bpf/bpf_helpers.h"):
        found["C warnings of xdp"] = ["clang", *bpf_flags(), *warnings, "-fsyntax-only", xdp]
    if shutil.which("shellcheck"):
        scripts = sorted(map(str, Path("checks").rglob("*.sh")))
        found["shellcheck"] = ["shellcheck", "dev", ".ci/run", *scripts]
    return found


def includes(header: str) -> bool:
    """Whether the C compiler finds a header."""
    command = [*CC, "-fsyntax-only", "-x", "c", "-"]
    program = f"#include <{header}>\n".encode()
    return subprocess.run(command, input=program, capture_output=True).returncode == 0


def install(session: nox.Session, *extras: str) -> None:
    """Bring the project into .venv, editable, with these extras and those that are there.

    A stamp holds what the last installation was made from, so that there is nothing to do, and no
    network is used, until that changes.
    """
    stamp = ROOT / ".venv" / "installed-by-nox"
    with open(ROOT / ".venv" / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        basis = build_basis()
        former, *there = stamp.read_text().split() if stamp.exists() else [""]
        built = list((ROOT / "gnutls_cookie").glob("_ffi*.so"))
        if former == basis and built and set(extras) <= set(there):
            return
        if former != basis:
            # setuptools rebuilds by the sources' dates; a header and libgnutls are not among them.
            for library in (ROOT / "gnutls_cookie").glob("_*.so"):
                library.unlink()
        wanted = sorted({*extras, *there})
        project = f".[{','.join(wanted)}]" if wanted else "."
        # Not isolated: a build after a change in C needs no network.
        run(session, PYTHON, "-m", "pip", "install", "-q", "--no-build-isolation", "-e", project)
        stamp.write_text(" ".join([basis, *wanted]))


def build_basis() -> str:
    """A digest of all that the extension is made from."""
    sys.path.insert(0, str(ROOT))
    from build_ffi import find_libgnutls

    parts = [str(ROOT), sys.version, sys.base_prefix, repr(find_libgnutls())]
    parts += [os.environ.get(name, "") for name in ("CC", "CFLAGS", "CPPFLAGS", "LDFLAGS")]
    pkg_config = shlex.split(os.environ.get("PKG_CONFIG", "pkg-config"))
    try:
        command = [*pkg_config, "--modversion", "gnutls"]
        parts.append(subprocess.run(command, capture_output=True, text=True).stdout)
    except OSError:
        pass
    files = ["pyproject.toml", "setup.py", "build_ffi.py", "gnutls_cookie/_version.py"]
    sources = sorted(path for path in (ROOT / "gnutls_cookie/native").rglob("*") if path.is_file())
    parts += [path.read_text() for path in [*map(Path, files), *sources]]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def run(session: nox.Session, *command: str, log: bool = True) -> None:
    """Run a command, with time to clean up after Ctrl-C."""
    session.run(
        *command,
        log=log,
        env={"PYTHON": PYTHON},
        external=True,
        interrupt_timeout=END_S,
        terminate_timeout=END_S,
    )
