"""What the tests share: peers (third-party programs, small C programs), sockets, child processes.

Nothing here touches a network outside of 127.0.0.0/8 and ::1, and no child outlives its test.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import errno
import functools
import hmac
import importlib
import os
import random
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import requires
from pathlib import Path
from typing import Any, NoReturn

import pytest
from packaging.requirements import Requirement

from gnutls_cookie.reference import wire

ROOT = Path(__file__).resolve().parent.parent.parent
PEERS = ROOT / "tests" / "peers"

Address = tuple[str, int] | tuple[str, int, int, int]


# --- peers ----------------------------------------------------------------------------------------


def missing(reason: str) -> NoReturn:
    """Skip the test; fail it under REQUIRE_PEERS=1, where everything must be there."""
    if os.environ.get("REQUIRE_PEERS") == "1":
        pytest.fail(f"REQUIRE_PEERS=1, but {reason}")
    pytest.skip(reason)


def peer_required(program: str, install_hint: str) -> str:
    """The path of a program that the test runs against; without it skip, or fail (missing())."""
    path = shutil.which(program)
    if path is None:
        missing(f"{program} is not installed: {install_hint}")
    return path


def openssl() -> str:
    return peer_required("openssl", "apt install openssl")


def gnutls_cli() -> str:
    return peer_required("gnutls-cli", "apt install gnutls-bin")


@functools.cache
def mbedtls_required() -> None:
    """Skip without python-mbedtls; under REQUIRE_PEERS fail where pyproject.toml promises it."""
    if subprocess.run([sys.executable, "-c", "import mbedtls.tls"], capture_output=True).returncode:
        lacks("python-mbedtls")


def python_peer(project: str) -> Any:
    """The module of that name; skip or fail as for mbedtls_required()."""
    try:
        return importlib.import_module(project)
    except ImportError:
        lacks(project)


def lacks(project: str) -> NoReturn:
    """Skip; under REQUIRE_PEERS fail, where pyproject.toml promises the project."""
    for one in map(Requirement, requires("gnutls-cookie") or []):
        asked = one.marker is None or one.marker.evaluate({"extra": "peers"})
        if one.name == project and not asked:
            pytest.skip(f"{project} is for {one.marker} only")
    missing(f"{project} is not installed: pip install 'gnutls-cookie[peers]'")


def compiler() -> list[str]:
    """The command of the C compiler: CC, or cc."""
    command = shlex.split(os.environ.get("CC", "cc"))
    peer_required(command[0], "apt install gcc libc6-dev")
    return command


@functools.cache
def gnutls_flags() -> list[str]:
    """Compiler and linker flags for libgnutls, as the build finds them."""
    from build_ffi import find_libgnutls  # here: it reads the whole cdef

    cflags, libs = find_libgnutls()
    return [*cflags, *libs]


_built: dict[tuple[str, tuple[str, ...]], Path] = {}
_folder: tempfile.TemporaryDirectory[str] | None = None


def compile_peer(source: str, *flags: str) -> Path:
    """Compile tests/peers/SOURCE against libgnutls, once in a run, and give the program's path."""
    global _folder
    wanted = (source, flags)
    if wanted not in _built:
        if _folder is None:
            _folder = tempfile.TemporaryDirectory(prefix="gnutls-cookie-peers-")
        program = Path(_folder.name) / f"{len(_built)}-{Path(source).stem}"
        command = [*compiler(), "-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", *flags]
        command += ["-o", str(program), str(PEERS / source), *gnutls_flags()]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, f"{shlex.join(command)}\n{done.stderr}"
        _built[wanted] = program
    return _built[wanted]


@functools.cache
def libgnutls() -> ctypes.CDLL:
    """The libgnutls that the package uses, once more through ctypes."""
    name = "libgnutls.so.30" if sys.platform == "linux" else ctypes.util.find_library("gnutls")
    library = ctypes.CDLL(name)
    for function in ("gnutls_check_version", "gnutls_strerror", "gnutls_strerror_name"):
        getattr(library, function).restype = ctypes.c_char_p
    return library


# --- child processes ------------------------------------------------------------------------------


@contextmanager
def running(
    command: Sequence[str | Path], env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A child with pipes for stdin and stdout (stderr goes into stdout), killed at the end."""
    child = subprocess.Popen(
        [str(word) for word in command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=None if env is None else {**os.environ, **env},
        start_new_session=True,
    )
    try:
        yield child
    finally:
        if child.poll() is None:
            child.send_signal(signal.SIGKILL)
        child.communicate()


def ignoring(warning: str) -> dict[str, str]:
    """The environment of Python code that may warn so, beside what this process ignores."""
    told = [os.environ.get("PYTHONWARNINGS"), f"ignore::{warning}"]
    return {"PYTHONWARNINGS": ",".join(filter(None, told))}


def forking() -> dict[str, str]:
    """The environment of Python code that forks beside threads: from 3.12 on Python warns of it."""
    return ignoring("DeprecationWarning")


def python(
    code: str,
    *arguments: str,
    env: Mapping[str, str] | None = None,
    options: Sequence[str] = (),
    cwd: Path | None = None,
    timeout: float = 300.0,
) -> subprocess.CompletedProcess[str]:
    """Run Python code in a fresh interpreter, the project's root on its path."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, *options, "-c", code, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path, **(env or {})},
        cwd=cwd,
        timeout=timeout,
    )


def python_in_silence(
    code: str,
    *arguments: str,
    env: Mapping[str, str] | None = None,
    timeout: float = 300.0,
    dev: bool = True,
) -> str:
    """Run Python code that must end with exit code 0 and an empty stderr; give its stdout."""
    # -X dev: debug hooks on memory allocators, ResourceWarning, faulthandler.
    options = ["-X", "dev"] if dev else []
    done = python(code, *arguments, env=env, options=options, timeout=timeout)
    assert (done.returncode, done.stderr) == (0, ""), f"{done.returncode}: {done.stderr}"
    return done.stdout


# --- sockets and datagrams ------------------------------------------------------------------------


@contextmanager
def udp_socket(host: str = "127.0.0.1") -> Iterator[socket.socket]:
    """A UDP socket on a free port, with a timeout of 20 seconds: a bound, never a measure."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind((host, 0))
        except OSError as error:
            missing(f"no UDP socket on {host}: {error}")
        sock.settimeout(20)
        yield sock


def free_udp_port(host: str = "127.0.0.1") -> int:
    """A port that was free a moment ago, at all addresses of the machine, as some programs bind
    them all. A program that binds port 0 itself is the better way."""
    return _free_port("::" if ":" in host else "0.0.0.0", socket.SOCK_DGRAM)


def free_tcp_port() -> int:
    """The same of TCP."""
    return _free_port("0.0.0.0", socket.SOCK_STREAM)


def _free_port(host: str, kind: socket.SocketKind) -> int:
    """None of those that the kernel gives to whoever binds port 0, as all other tests do."""
    chance = random.SystemRandom()  # each worker of xdist draws others
    for _ in range(100):
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind) as sock:
            try:
                sock.bind((host, chance.choice(_ports_to_name())))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    missing(f"no socket on {host}: {error}")
            else:
                port: int = sock.getsockname()[1]
                return port
    raise OSError(errno.EADDRINUSE, "no port is free")


@functools.cache
def _ports_to_name() -> Sequence[int]:
    try:
        text = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text()
    except OSError:  # not Linux
        return [0]
    first, last = map(int, text.split())
    return [*range(10_000, first), *range(last + 1, 65_535)] or [0]


def port_of_two() -> int:
    """A free port of 127.0.0.1, the next of which is free as well: libcoap's has DTLS there."""
    while True:
        port = free_udp_port()
        with (
            suppress(OSError, OverflowError),
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
        ):
            sock.bind(("127.0.0.1", port + 1))
            return port


def cookie_of(key: bytes, client_data: bytes | None) -> bytes:
    """The cookie as the standard library makes it: an oracle that shares no code with anyone."""
    return hmac.digest(key, client_data or b"", "sha1")[:16]


def hello_with(cookie: bytes = b"", session_id: bytes = b"", seq: int = 1) -> bytes:
    """A whole ClientHello datagram with both sequence numbers `seq`."""
    return wire.client_hello(cookie=cookie, session_id=session_id, record_seq=seq, message_seq=seq)


def seeded(seed: int | None = None) -> random.Random:
    """A random generator whose seed is printed; TEST_SEED repeats a run."""
    if seed is None:
        seed = int(os.environ.get("TEST_SEED") or random.SystemRandom().getrandbits(32))
    print(f"TEST_SEED={seed}")
    return random.Random(seed)
