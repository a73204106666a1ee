"""examples/radius_dtls.py: RADIUS over DTLS, with radsecproxy as a client, and names checked."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from gnutls_cookie import GnuTLSError
from tests.support.common import ROOT, free_udp_port, peer_required
from tests.support.peers import CERTS, certificate, trusting
from tests.support.servers import SECONDS, asynchronous, bounded

EXAMPLE = ROOT / "examples" / "radius_dtls.py"
USERS = {b"alice": b"wonderland", b"bob": b"a password that takes two blocks"}


@pytest.fixture(scope="module")
def radius() -> Any:
    spec = importlib.util.spec_from_file_location("radius_dtls", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@asynchronous
async def test_users_of_a_client_with_the_right_name(radius: Any) -> None:
    """Accepted and rejected, with passwords of one and of several blocks."""
    credentials = certificate(trust="localhost")
    async with radius.start_server("127.0.0.1", 0, credentials, ["localhost"], USERS) as server:
        for user, password in USERS.items():
            for tried in password, b"wrong", b"":
                asked = radius.ask(*server.address, credentials, "localhost", user, tried)
                assert await asked == (tried == password)
        nobody = radius.ask(*server.address, credentials, "localhost", b"mallory", b"wonderland")
        assert not await nobody


@asynchronous
async def test_a_client_with_another_name(radius: Any) -> None:
    """Its certificate is good, and it is not served."""
    credentials = certificate(trust="localhost")
    async with radius.start_server("127.0.0.1", 0, credentials, ["nas"], USERS) as server:
        with pytest.raises(ConnectionError):
            await radius.ask(*server.address, credentials, "localhost", b"alice", b"wonderland")


@asynchronous
async def test_a_client_that_nobody_vouches_for(radius: Any) -> None:
    """Its name is right, and its certificate is its own."""
    clients = ["stranger", "localhost"]
    trusted = certificate(trust="localhost")
    async with radius.start_server("127.0.0.1", 0, trusted, clients, USERS) as server:
        for credentials in certificate("stranger", trust="localhost"), trusting():
            with pytest.raises((GnuTLSError, ConnectionError)):
                await radius.ask(*server.address, credentials, "localhost", b"alice", b"wonderland")


@pytest.mark.parametrize("size", [0, 19, 20, 21, 22, 23, 37])
def test_what_is_not_a_packet(radius: Any, size: int) -> None:
    """Cut, or with an attribute that is."""
    whole = radius.encode(1, 7, bytes(16), [(1, b"alice")])
    assert radius.decode(whole)[3][1] == b"alice"
    length = min(size, len(whole)).to_bytes(2, "big")
    for packet in whole[:size], whole[:2] + length + whole[4:size]:
        if size != 20 or packet[2:4] != length:  # a header alone is a packet
            with pytest.raises(ValueError, match=r"length|shorter"):
                radius.decode(packet)
    with pytest.raises(ValueError, match="Message-Authenticator"):
        radius.decode(whole[:-1] + b"x")


@pytest.mark.peer
def test_radsecproxy_is_a_client(radius: Any, tmp_path: Path) -> None:
    """A NAS asks it by UDP, it asks us, and its answer is ours."""
    program = peer_required("radsecproxy", "apt install radsecproxy")
    ours, its = free_udp_port(), free_udp_port()
    pem, key = str(CERTS / "localhost.pem"), str(CERTS / "localhost.key")
    files = ["--cert", pem, "--key", key, "--trust", pem]
    config = tmp_path / "radsecproxy.conf"
    config.write_text(f"""\
ListenUDP 127.0.0.1:{its}
LogLevel 2
tls default {{
    CACertificateFile {pem}
    CertificateFile {pem}
    CertificateKeyFile {key}
}}
client nas {{
    host 127.0.0.1
    type udp
    secret radius/dtls
}}
server ours {{
    host 127.0.0.1
    port {ours}
    type dtls
    secret radius/dtls
    StatusServer on
}}
realm * {{
    server ours
}}
""")
    server = subprocess.Popen(
        [sys.executable, str(EXAMPLE), "serve", "127.0.0.1", "--port", str(ours), *files,
         "--client", "localhost", "--user", "alice:wonderland"],
        stdout=subprocess.PIPE,
    )  # fmt: skip
    proxy = None
    try:
        assert server.stdout is not None
        with bounded(int(SECONDS)):
            assert b"RADIUS over DTLS" in server.stdout.readline()
            proxy = subprocess.Popen([program, "-f", "-c", str(config)], stderr=subprocess.DEVNULL)
            assert server.stdout.readline() == b"127.0.0.1 is localhost\n"
        assert asked_by_udp(radius, its, b"alice", b"wonderland") == radius.ACCESS_ACCEPT
        assert asked_by_udp(radius, its, b"alice", b"wonderful") == radius.ACCESS_REJECT
    finally:
        for one in proxy, server:
            if one is not None:
                one.kill()
                one.communicate(timeout=SECONDS)


def asked_by_udp(radius: Any, port: int, user: bytes, password: bytes) -> int:
    """The code of the answer, asked again until there is one."""
    authenticator = bytes(range(16))
    hidden = radius.hidden(password, authenticator)
    request = radius.encode(1, len(password), authenticator, [(1, user), (2, hidden)])
    deadline = time.monotonic() + SECONDS
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as nas:
        nas.connect(("127.0.0.1", port))
        nas.settimeout(1)
        while time.monotonic() < deadline:
            try:
                nas.send(request)
                answer = nas.recv(4096)
            except (TimeoutError, ConnectionRefusedError):
                continue
            assert radius.answers(answer, request)
            return int(radius.decode(answer)[0])
    pytest.fail("no answer")


@asynchronous
async def test_as_a_program(radius: Any) -> None:
    """`ask`, as its first lines have it."""
    pem, key = str(CERTS / "localhost.pem"), str(CERTS / "localhost.key")
    credentials = certificate(trust="localhost")
    async with radius.start_server("127.0.0.1", 0, credentials, ["localhost"], USERS) as server:
        for word, said in ("wonderland", b"accepted\n"), ("x", b"rejected\n"):
            child = await asyncio.create_subprocess_exec(
                sys.executable, str(EXAMPLE), "ask", "127.0.0.1", f"alice:{word}",
                "--port", str(server.address[1]), "--cert", pem, "--key", key, "--trust", pem,
                "--server-name", "localhost", stdout=subprocess.PIPE,
            )  # fmt: skip
            output, _ = await asyncio.wait_for(child.communicate(), SECONDS)
            assert output == said
