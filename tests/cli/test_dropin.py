"""Beside servers in C: cookies under one key both ways, hand-over to a session made elsewhere.

The Python blocks of docs/drop-in.md are what runs here.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from gnutls_cookie import GnuTLSError, client_data, generate_key
from gnutls_cookie._ffi import ffi
from tests.support.common import (
    ROOT,
    compile_peer,
    free_udp_port,
    libgnutls,
    openssl,
    running,
    udp_socket,
)
from tests.support.fleet import LINE, SECONDS, LoopbackBalancer, complete, our_client, s_client
from tests.support.peers import CERTS

GUIDE = ROOT / "docs" / "drop-in.md"
LAYOUTS = {
    "sockaddr": "client_data.sockaddr",
    "storage": "client_data.sockaddr_storage",
    "text": "client_data.text",
    "none": "lambda address: None",
}
FILES = (str(CERTS / "localhost.pem"), str(CERTS / "localhost.key"))


def block_with(text: str) -> str:
    """The guide's one Python block that has a text in it."""
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    (block,) = [block for block in blocks if text in block]
    return str(block)


class Said:
    """A server as a process, and what it prints, a line at a time."""

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        self._child = child
        self.port = int(self.line())

    def line(self) -> str:
        """The next line that it prints."""
        assert self._child.stdout is not None
        line = self._child.stdout.readline().decode()
        assert line, "it ended"
        return line.strip()


@contextmanager
def in_c(key: bytes, layout: str) -> Iterator[Said]:
    """The manual's recipe: tests/peers/manual_server.c."""
    program = compile_peer("manual_server.c", "-O2")
    with running([program, *FILES, key.hex(), layout]) as child:
        yield Said(child)


@contextmanager
def in_python(key: bytes, layout: str) -> Iterator[Said]:
    """The guide's server of a gate and sessions, on a port of the system's choice."""
    code = (
        block_with("def serve(sock, keys, credentials, layout)")
        + f"""
import socket
from gnutls_cookie import CertificateCredentials, client_data
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("127.0.0.1", 0))
print(sock.getsockname()[1], flush=True)
credentials = CertificateCredentials.from_files({FILES[0]!r}, {FILES[1]!r})
serve(sock, bytes.fromhex("{key.hex()}"), credentials, {LAYOUTS[layout]})
"""
    )
    with running([sys.executable, "-c", code]) as child:
        yield Said(child)


@contextmanager
def asyncio_server(key: bytes, folder: Path) -> Iterator[int]:
    """The guide's server in 15 lines, with its port and key replaced; its port."""
    block = block_with("start_server")
    port = free_udp_port()
    code = block.replace("5684", str(port)).replace("00112233445566778899aabbccddeeff", key.hex())
    assert code.count(str(port)) == code.count(key.hex()) == 1
    for name, file in zip(("cert.pem", "key.pem"), FILES, strict=True):
        shutil.copy(file, folder / name)
    child = subprocess.Popen(
        [sys.executable, "-c", code], cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    try:
        yield port
    finally:
        child.kill()
        child.wait()


@contextmanager
def between(first: int, second: int) -> Iterator[LoopbackBalancer]:
    """A hop that sends a client's hello 1 to one port, and the rest to another."""
    hop = LoopbackBalancer()
    try:
        for number, port in enumerate((first, second)):
            hop.place(number, ("127.0.0.1", port))
        hop.start("settling")
        yield hop
    finally:
        hop.close()


# --- cookies under one key ------------------------------------------------------------------------


@pytest.mark.peer
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_cookie_of_c_is_verified_in_python(layout: str) -> None:
    """Challenged by the manual's recipe, served by a gate and a Session."""
    key = generate_key()
    with in_c(key, layout) as first, in_python(key, layout) as second:
        with between(first.port, second.port) as hop:
            assert s_client(hop.address) == 1
        assert first.line() == "challenged"


@pytest.mark.peer
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_cookie_of_python_is_verified_in_c(layout: str) -> None:
    """Challenged by the gate, served by the manual's recipe."""
    key = generate_key()
    with in_python(key, layout) as first, in_c(key, layout) as second:
        with between(first.port, second.port) as hop:
            assert s_client(hop.address) == 1
        assert [second.line(), second.line()] == ["verified", "connected"]


def test_another_layout_is_another_cookie() -> None:
    """Under one key, but with another client_data, a cookie of C's is challenged once more."""
    key = generate_key()
    with (
        in_c(key, "storage") as first,
        in_python(key, "sockaddr") as second,
        between(first.port, second.port) as hop,
        our_client(hop) as client,
    ):
        assert complete(client) == 2


def test_the_recipe_stalls_where_the_gate_does_not() -> None:
    """A client with a cookie of another key goes on at the gate, and is lost at the recipe."""
    with in_c(generate_key(), "sockaddr") as theirs, in_python(generate_key(), "sockaddr") as ours:
        with between(theirs.port, ours.port) as hop, our_client(hop) as client:
            assert complete(client) == 2
        with (
            between(ours.port, theirs.port) as hop,
            our_client(hop, retransmit_timeout=0.1, handshake_timeout=2.0) as client,
            pytest.raises(GnuTLSError) as caught,
        ):
            complete(client)
        assert caught.value.name == "GNUTLS_E_TIMEDOUT"


# --- the server in 15 lines -----------------------------------------------------------------------


def test_it_has_15_lines() -> None:
    """As its heading says; blank ones do not count."""
    lines = [line for line in block_with("start_server").splitlines() if line.strip()]
    assert len(lines) <= 15


@pytest.mark.peer
def test_the_asyncio_server_takes_over_from_c(tmp_path: Path) -> None:
    """A client that the recipe in C has challenged, under the same key, is served by it; and one
    that it has challenged is served by the recipe."""
    key = generate_key()
    with in_c(key, "sockaddr") as theirs, asyncio_server(key, tmp_path) as ours:
        with between(ours, ours) as hop, our_client(hop) as client:
            complete(client)  # sends its hello again until the server is up
        with between(theirs.port, ours) as hop:
            assert s_client(hop.address) == 1
        assert theirs.line() == "challenged"
        with between(ours, theirs.port) as hop:
            assert s_client(hop.address) == 1
        assert [theirs.line(), theirs.line()] == ["verified", "connected"]


# --- a session that was made elsewhere ------------------------------------------------------------


@contextmanager
def ctypes_credentials() -> Iterator[ctypes.c_void_p]:
    """Certificate credentials of ctypes alone."""
    lib = libgnutls()
    credentials = ctypes.c_void_p()
    assert lib.gnutls_certificate_allocate_credentials(ctypes.byref(credentials)) == 0
    try:
        files = [name.encode() for name in FILES]
        code = lib.gnutls_certificate_set_x509_key_file(credentials, *files, 1)  # PEM
        assert code >= 0
        yield credentials
    finally:
        lib.gnutls_certificate_free_credentials(credentials)


def as_made(pointer: ctypes.c_void_p) -> Any:
    return pointer


def as_address(pointer: ctypes.c_void_p) -> Any:
    return pointer.value


def as_cffi(pointer: ctypes.c_void_p) -> Any:
    return ffi.cast("gnutls_session_t", pointer.value)


@pytest.mark.peer
@pytest.mark.parametrize("form", [as_made, as_address, as_cffi])
def test_a_session_of_ctypes_serves_a_client(form: Callable[[ctypes.c_void_p], Any]) -> None:
    """Challenged and verified here, handed over, served by a session that ctypes made: handshake,
    an echo, goodbye."""
    lib = libgnutls()
    names: dict[str, Any] = {}
    exec(compile(block_with("def session_for("), str(GUIDE), "exec"), names)
    hand_over = names["prestate_set"]
    names["prestate_set"] = lambda session, prestate: hand_over(form(session), prestate)
    key = generate_key()
    with ExitStack() as stack:
        sock = stack.enter_context(udp_socket())
        credentials = stack.enter_context(ctypes_credentials())
        command = [openssl(), "s_client", "-dtls1_2", "-quiet", "-verify_return_error"]
        command += ["-connect", f"127.0.0.1:{sock.getsockname()[1]}", "-CAfile", FILES[0]]
        child = stack.enter_context(running(command))
        assert child.stdin is not None
        child.stdin.write(LINE)
        child.stdin.flush()

        client, hello, prestate = names["verified_client"](sock, key)
        assert client_data.sockaddr(client)
        session, callbacks = names["session_for"](sock, client, hello, prestate, credentials)
        stack.callback(lib.gnutls_deinit, session)
        assert len(callbacks) == 3  # alive until here
        lib.gnutls_handshake_set_timeout(session, int(SECONDS) * 1000)
        lib.gnutls_record_set_timeout(session, int(SECONDS) * 1000)
        while (code := int(lib.gnutls_handshake(session))) != 0:
            assert not lib.gnutls_error_is_fatal(code), code
        buffer = ctypes.create_string_buffer(2048)
        size = int(lib.gnutls_record_recv(session, buffer, 2048))
        assert buffer.raw[: max(size, 0)] == LINE
        assert int(lib.gnutls_record_send(session, buffer, size)) == size
        assert child.stdout is not None
        while not (line := child.stdout.readline()).startswith(LINE.strip()):
            assert line, "s_client ended"
        assert int(lib.gnutls_bye(session, 1)) == 0  # GNUTLS_SHUT_WR
        child.wait(SECONDS)
