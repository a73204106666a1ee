"""This project with third-party DTLS programs and libraries: how each is run, and what a pair does.

python -m tests.support.interop runs tests/adapters/test_interop.py with every peer, and writes what
it saw into the table of docs/interop.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import importlib.metadata
import json
import os
import re
import selectors
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gnutls_cookie import GnuTLSError, PSKCredentials, aio, blocking, library_version
from gnutls_cookie.endpoint import Counters
from gnutls_cookie.reference import wire
from gnutls_cookie.server import CloseReason
from gnutls_cookie.session import Credentials
from tests.support.common import (
    PEERS,
    ROOT,
    compiler,
    free_udp_port,
    gnutls_cli,
    mbedtls_required,
    missing,
    openssl,
    peer_required,
    running,
    udp_socket,
)
from tests.support.peers import CERTS, certificate, drive, trusting

HOSTS = {"IPv4": "127.0.0.1", "IPv6": "::1"}
KINDS = ("X.509", "PSK")

IDENTITY = "sensor-1"
KEY = "interop-test-key"  # libcoap's programs take a key as text
HEX = KEY.encode().hex()
LINE = b"hello, cookie\n"
TRUST = str(CERTS / "localhost.pem")
TRUST_KEY = str(CERTS / "localhost.key")
SECONDS = 60.0  # a bound, never a measure

NPM = ROOT / ".dev" / "npm"
TABLE = ROOT / "docs" / "interop.md"

Command = list[str]
Maker = Callable[[str, int, str], Command]  # host, port, kind


def url(host: str, port: int) -> str:
    """host:port, as programs and URLs have it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


# --- third-party clients --------------------------------------------------------------------------


@dataclass(frozen=True)
class Client:
    """A client that sends a line of stdin, shows what comes back, and says goodbye at its end.

    Attributes:
        command: makes the command line.
        answer: what our handler answers to a message.
        says_goodbye: whether it has a goodbye of its own; else our side says it first.
        verifies: whether it refuses a self-signed certificate that it does not trust.
        never: kinds of credentials that it cannot use, and why.
    """

    command: Maker
    answer: Callable[[bytes], bytes] = bytes
    says_goodbye: bool = True
    verifies: bool = True
    never: dict[str, str] = field(default_factory=dict)


def gnutls_cli_command(host: str, port: int, kind: str) -> Command:
    command = [gnutls_cli(), "--udp", "--port", str(port)]
    if kind == "PSK":
        priority = "NORMAL:-KX-ALL:+ECDHE-PSK:+DHE-PSK:+PSK"
        return [*command, "--pskusername", IDENTITY, "--pskkey", HEX, "--priority", priority, host]
    name = ["--sni-hostname", "localhost", "--verify-hostname", "localhost"]
    return [*command, "--x509cafile", TRUST, *name, host]


def s_client_command(host: str, port: int, kind: str) -> Command:
    command = [openssl(), "s_client", "-dtls1_2", "-connect", url(host, port)]
    if kind == "PSK":
        return [*command, "-psk", HEX, "-psk_identity", IDENTITY]
    return [*command, "-CAfile", TRUST, "-verify_return_error"]


def coap_client_command(program: str) -> Maker:
    def command(host: str, port: int, kind: str) -> Command:
        path = peer_required(program, "apt install libcoap3-bin")
        secret = ["-k", KEY, "-u", IDENTITY] if kind == "PSK" else ["-R", TRUST]
        return [path, "-m", "get", "-B", str(int(SECONDS)), *secret, f"coaps://{url(host, port)}/"]

    return command


def mbedtls_command(host: str, port: int, kind: str) -> Command:
    mbedtls_required()
    program = str(ROOT / "tests" / "peers" / "mbedtls_client.py")
    secret = f"psk:{IDENTITY}:{HEX}" if kind == "PSK" else TRUST
    return [sys.executable, program, str(port), secret, host]


def pyopenssl_command(host: str, port: int, kind: str) -> Command:
    python_package("pyOpenSSL")
    return [sys.executable, str(PEERS / "pyopenssl_client.py"), host, str(port), *secret_of(kind)]


def wolfssl_command(role: str) -> Maker:
    return lambda host, port, kind: [
        str(wolfssl_peer()), role, host, str(port), *secret_of(kind, role),
    ]  # fmt: skip


def bouncycastle_command(role: str) -> Maker:
    def command(host: str, port: int, kind: str) -> Command:
        java = peer_required("java", "apt install default-jdk-headless")
        # The compiler that makes slow code quickly: what runs here is short.
        program = [java, "-XX:TieredStopAtLevel=1", "-cp", bouncycastle_classes()]
        return [*program, "BouncyCastlePeer", role, host, str(port), *secret_of(kind, role)]

    return command


def erlang_command(role: str) -> Maker:
    def command(host: str, port: int, kind: str) -> Command:
        return [*erlang(), role, host, str(port), *secret_of(kind, role)]

    return command


def trio_command(role: str) -> Maker:
    def command(host: str, port: int, kind: str) -> Command:
        python_package("trio")
        program = [sys.executable, str(PEERS / "trio_peer.py"), role]
        return [*program, host, str(port), *secret_of(kind, role)]

    return command


def tinydtls_command(role: str) -> Maker:
    def command(host: str, port: int, kind: str) -> Command:
        optional_package("DTLSSocket")
        program = [sys.executable, str(PEERS / "tinydtls_peer.py"), role]
        return [*program, host, str(port), IDENTITY, HEX]  # whatever the kind: it has no other

    return command


def mbedtls_short_command(host: str, port: int, kind: str) -> Command:
    return [*mbedtls_command(host, port, kind), "512"]


def botan_command(host: str, port: int, kind: str) -> Command:
    botan = peer_required("botan", "apt install botan")
    command = ["stdbuf", "-o0", botan, "tls_client", host, f"--port={port}", "--type=udp"]
    return [*command, "--skip-system-cert-store", f"--trusted-cas={TRUST}"]


def jsse_command(host: str, port: int, kind: str) -> Command:
    java = peer_required("java", "apt install default-jdk-headless")
    if shutil.which("javac") is None:  # a program of one file is compiled as it is run
        missing("javac is not installed: apt install default-jdk-headless")
    return [java, str(PEERS / "JsseClient.java"), host, str(port), *secret_of(kind)]


def node_command(script: str) -> Maker:
    def command(host: str, port: int, kind: str) -> Command:
        node = node_with_packages()
        program = str(PEERS / script)
        path = f"NODE_PATH={NPM / 'node_modules'}"
        return ["env", path, node, program, host, str(port), *secret_of(kind)]

    return command


def secret_of(kind: str, role: str = "client") -> list[str]:
    """What the small programs of tests/peers take behind host and port."""
    if kind == "PSK":
        return ["psk", IDENTITY, HEX]
    return ["x509", TRUST] if role == "client" else ["x509", TRUST, TRUST_KEY]


def coap_answer(request: bytes) -> bytes:
    """The answer 2.05 Content to a confirmable request, with LINE as payload (RFC 7252 3)."""
    version_and_type, code, token_size = request[0] >> 4, request[1], request[0] & 0x0F
    assert (version_and_type, code) == (0x4, 0x01), request  # version 1, CON; GET
    assert token_size <= 8, request
    identifier_and_token = request[2 : 4 + token_size]
    return bytes([0x60 | token_size, 0x45]) + identifier_and_token + b"\xff" + LINE


CLIENTS: dict[str, Client] = {
    "gnutls-cli": Client(gnutls_cli_command),
    "openssl s_client": Client(s_client_command),
    "coap-client-gnutls": Client(
        coap_client_command("coap-client-gnutls"), coap_answer, verifies=False
    ),
    "coap-client-openssl": Client(
        coap_client_command("coap-client-openssl"), coap_answer, verifies=False
    ),
    "python-mbedtls": Client(mbedtls_command),
    "pyOpenSSL": Client(pyopenssl_command),
    "trio": Client(trio_command("client"), says_goodbye=False),
    "wolfSSL": Client(wolfssl_command("client")),
    "python-mbedtls, max_fragment_length 512": Client(mbedtls_short_command),
    "Botan": Client(
        botan_command, verifies=False, never={"PSK": "offers no cipher suite with PSK"}
    ),
    "JSSE": Client(jsse_command, never={"PSK": "has no cipher suite with PSK"}),
    "BouncyCastle": Client(bouncycastle_command("client")),
    "Erlang ssl": Client(erlang_command("client")),
    "tinydtls": Client(
        tinydtls_command("client"),
        never={"X.509": "offers cipher suites with PSK alone"},
    ),
    "node-dtls-client": Client(
        node_command("node_dtls_client.js"), never={"X.509": "offers cipher suites with PSK alone"}
    ),
    "werift": Client(
        node_command("werift_client.js"),
        says_goodbye=False,
        never={"PSK": "offers no cipher suite with PSK"},
    ),
}


# --- third-party servers --------------------------------------------------------------------------


@dataclass(frozen=True)
class Server:
    """A server that answers a message.

    Attributes:
        command: makes the command line.
        ready: a pattern in what it prints once it serves.
        request: what our client sends.
        answers: whether that is its answer.
        shows: whether it prints the request and sends what it reads from stdin, and nothing else.
        says_goodbye: whether it answers a goodbye; one that does not is shown to serve the next.
        offset: DTLS is served on the port given plus this.
        never: kinds of credentials that it cannot use, and why.
    """

    command: Maker
    ready: bytes
    request: bytes = LINE
    answers: Callable[[bytes], bool] = LINE.__eq__
    shows: bool = False
    says_goodbye: bool = True
    offset: int = 0
    never: dict[str, str] = field(default_factory=dict)


def gnutls_serv_command(host: str, port: int, kind: str) -> Command:
    program = peer_required("gnutls-serv", "apt install gnutls-bin")
    command = [program, "--udp", "--echo", "--port", str(port)]
    if kind == "PSK":
        priority = "NORMAL:-KX-ALL:+ECDHE-PSK:+DHE-PSK:+PSK"
        return [*command, "--pskpasswd", str(psk_file()), "--priority", priority]
    return [*command, "--x509certfile", TRUST, "--x509keyfile", TRUST_KEY]


def s_server_command(host: str, port: int, kind: str) -> Command:
    command = [openssl(), "s_server", "-dtls1_2", "-listen", "-accept", url(host, port)]
    if kind == "PSK":
        return [*command, "-nocert", "-psk", HEX, "-psk_identity", IDENTITY]
    return [*command, "-cert", TRUST, "-key", TRUST_KEY]


def coap_server_command(host: str, port: int, kind: str) -> Command:
    program = peer_required("coap-server-gnutls", "apt install libcoap3-bin")
    secret = ["-k", KEY] if kind == "PSK" else ["-n", "-c", TRUST, "-j", TRUST_KEY]
    return [program, "-v", "7", "-A", host, "-p", str(port), *secret]


# A confirmable GET of "/" with an identifier and a token (RFC 7252 3), and its 2.05 Content.
COAP_GET = bytes.fromhex("42 01 1234 abcd")
COAP_CONTENT = bytes.fromhex("62 45 1234 abcd")


def coap_content(answer: bytes) -> bool:
    return answer.startswith(COAP_CONTENT) and b"\xffThis is a test server" in answer


SERVERS: dict[str, Server] = {
    "gnutls-serv": Server(
        gnutls_serv_command, rb"listening on IPv4 .*done(?s:.*)IPv6 .*done", says_goodbye=False
    ),
    "openssl s_server": Server(s_server_command, rb"ACCEPT", shows=True),
    "coap-server-gnutls": Server(
        coap_server_command, rb"created DTLS endpoint", COAP_GET, coap_content, offset=1
    ),
    "wolfSSL": Server(wolfssl_command("server"), rb"serving"),
    "trio": Server(trio_command("server"), rb"serving", says_goodbye=False),
    "BouncyCastle": Server(bouncycastle_command("server"), rb"serving"),
    "Erlang ssl": Server(erlang_command("server"), rb"serving"),
    "tinydtls": Server(
        tinydtls_command("server"),
        rb"serving",
        never={"X.509": "has no cipher suite with X.509 certificates"},
    ),
}


@contextmanager
def started(
    server: Server, kind: str, host: str
) -> Iterator[tuple[subprocess.Popen[bytes], int, bytearray]]:
    """A server that serves: its process, the port for DTLS, and what it has printed so far.

    None of them can be told to choose a port, and some bind it at every address: one that finds it
    taken is restarted with another.
    """
    said = bytearray()
    for _ in range(_TRIES):
        said.clear()
        port = free_udp_port(host)
        with running(server.command(host, port, kind)) as child:

            def settled(child: subprocess.Popen[bytes] = child) -> bool:
                return (
                    child.poll() is not None
                    or b"already in use" in said
                    or re.search(server.ready, said) is not None
                )

            drive([], settled, child, said)
            if re.search(server.ready, said):
                yield child, port + server.offset, said
                return
    raise AssertionError(f"not started: {said.decode(errors='replace')}")


_TRIES = 5


# --- peers that must be made or found first -------------------------------------------------------


def python_package(name: str) -> str:
    """The version of an installed package."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        missing(f"{name} is not installed: pip install 'gnutls-cookie[peers]'")


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="gnutls-cookie-interop-")


@functools.cache
def psk_file() -> Path:
    """Identity and key as psktool writes them."""
    path = Path(_folder().name) / "psk.txt"
    path.write_text(f"{IDENTITY}:{HEX}\n")
    return path


@functools.cache
def wolfssl_peer() -> Path:
    """tests/peers/wolfssl_peer.c as a program."""
    program = Path(_folder().name) / "wolfssl_peer"
    command = [*compiler(), "-std=gnu11", "-Wall", "-Wextra", "-Werror"]
    probe = [*command, "-fsyntax-only", "-xc", "-"]
    includes = b"#include <wolfssl/options.h>\n#include <wolfssl/ssl.h>\n"
    if subprocess.run(probe, input=includes, capture_output=True).returncode:
        missing("the headers of wolfSSL are not installed: apt install libwolfssl-dev")
    command += [str(PEERS / "wolfssl_peer.c"), "-o", str(program), "-lwolfssl"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return program


@functools.cache
def bouncycastle_classes() -> str:
    """The class path of tests/peers/BouncyCastlePeer.java, compiled."""
    jars = [Path("/usr/share/java") / f"{name}.jar" for name in ("bctls", "bcprov", "bcutil")]
    if not all(jar.is_file() for jar in jars):
        missing("BouncyCastle is not installed: apt install libbctls-java")
    javac = peer_required("javac", "apt install default-jdk-headless")
    path, source = ":".join(map(str, jars)), str(PEERS / "BouncyCastlePeer.java")
    command = [javac, "-nowarn", "-cp", path, "-d", _folder().name, source]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    return f"{path}:{_folder().name}"


# Erlang and DTLSSocket are large or must be compiled: no test demands them, REQUIRE_PEERS=1 or not.


@functools.cache
def erlang() -> Command:
    """The command of tests/peers/erlang_peer.escript."""
    escript = shutil.which("escript")
    probe = ["erl", "-noshell", "-eval", "halt(case code:which(ssl) of non_existing->1;_->0 end)."]
    if escript is None or subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("Erlang's ssl is not installed: apt install erlang-ssl")
    return [escript, str(PEERS / "erlang_peer.escript")]


def optional_package(name: str) -> str:
    """The version of a package that nothing demands; without it skip."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{name} is not installed: pip install {name}")


@functools.cache
def node_with_packages() -> str:
    """The path of node; the packages of tests/peers/package.json are in .dev/npm then.

    They are installed where every peer is demanded, and nowhere else: a test takes nothing from a
    network unasked.
    """
    node = peer_required("node", "apt install nodejs")
    NPM.parent.mkdir(exist_ok=True)
    with (NPM.parent / "npm.lock").open("w") as lock:  # tests run side by side
        fcntl.flock(lock, fcntl.LOCK_EX)
        _install_packages()
    return node


def _install_packages() -> None:
    wanted = (PEERS / "package.json").read_text()
    stamp = NPM / "installed"
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    if os.environ.get("REQUIRE_PEERS") != "1":
        missing("the packages of tests/peers/package.json are not in .dev/npm: REQUIRE_PEERS=1")
    npm = peer_required("npm", "apt install npm")
    shutil.rmtree(NPM, ignore_errors=True)
    NPM.mkdir()
    (NPM / "package.json").write_text(wanted)
    command = [npm, "install", "--omit=optional", "--ignore-scripts", "--no-package-lock"]
    done = subprocess.run(
        [*command, "--no-audit", "--no-fund"], cwd=NPM, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    stamp.write_text(wanted)


# --- our server and a client ----------------------------------------------------------------------


@dataclass
class Served:
    """Our server, while it runs and afterwards.

    Attributes:
        port: where it serves.
        agreed: what the handshake agreed on, for each connection.
        identities: the PSK identity of each connection.
        messages: all that came.
        ended: set when a connection has ended.
        counters: of the server, once it is closed.
    """

    port: int = 0
    agreed: list[str] = field(default_factory=list)
    identities: list[str | None] = field(default_factory=list)
    messages: list[bytes] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)
    counters: Counters | None = None


@contextmanager
def serving(
    host: str, kind: str, answer: Callable[[bytes], bytes], says_goodbye: bool
) -> Iterator[Served]:
    """aio.start_server() in a thread, with a handler that answers each message.

    Args:
        host: where to serve.
        kind: "X.509" or "PSK".
        answer: made of a message.
        says_goodbye: whether our side closes, after one answer.
    """
    served = Served()
    started: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
    ready = threading.Event()
    credentials: Credentials = (
        certificate() if kind == "X.509" else PSKCredentials(lookup={IDENTITY: KEY.encode()})
    )

    async def handler(connection: aio.Connection) -> None:
        served.agreed.append(connection.session.description or "")
        served.identities.append(connection.session.psk_identity)
        try:
            async for message in connection:
                served.messages.append(message)
                await connection.send(answer(message))
                if says_goodbye:
                    return
        finally:
            served.ended.set()

    async def main() -> None:
        stop = asyncio.Event()
        async with await aio.start_server(handler, host, 0, credentials=credentials) as server:
            served.port = server.address[1]
            started.append((asyncio.get_running_loop(), stop))
            ready.set()
            await stop.wait()
        served.counters = server.counters

    with ThreadPoolExecutor(1) as pool:
        running_server = pool.submit(asyncio.run, main())
        running_server.add_done_callback(lambda _: ready.set())
        assert ready.wait(SECONDS)
        try:
            if not started:
                running_server.result()
            yield served
        finally:
            for loop, stop in started:
                loop.call_soon_threadsafe(stop.set)
        running_server.result(SECONDS)


def meet_client(client: Client, kind: str, host: str) -> str:
    """One cookie, the handshake, an answer, a goodbye, both ends end.

    Returns:
        What was agreed on.

    Raises:
        Crash: the client died by a signal after its handshake.
        DisallowedName: libgnutls did not take the server_name of its hello.
    """
    with udp_socket(host):  # skips where the machine has no such address
        pass
    said = bytearray()
    with (
        serving(host, kind, client.answer, not client.says_goodbye) as served,
        running(client.command(host, served.port, kind)) as child,
    ):
        assert child.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            child.stdin.write(LINE)
            child.stdin.flush()
        drive([], lambda: LINE in said or child.poll() is not None, child, said)
        if client.says_goodbye and child.poll() is None:
            child.stdin.close()
            child.stdin = None
        drive([], lambda: child.poll() is not None, child, said)
        assert child.stdout is not None
        said += child.stdout.read()
        if LINE in said:
            assert served.ended.wait(SECONDS)
    text = said.decode(errors="replace")
    counters = served.counters
    assert counters is not None
    assert counters.gate.challenged == 1, text
    assert counters.gate.verified == 1, text
    error = counters.server.last_error
    if isinstance(error, GnuTLSError) and error.name == DISALLOWED_NAME:
        raise DisallowedName
    assert counters.server.connected == 1, text
    assert served.identities == [IDENTITY if kind == "PSK" else None]
    if child.returncode < 0:
        raise Crash
    assert child.returncode == 0, text
    assert LINE in said, text
    assert served.messages
    reason = CloseReason.PEER if client.says_goodbye else CloseReason.LOCAL
    assert {key: n for key, n in counters.server.closed.items() if n} == {reason: 1}
    return served.agreed[0]


def takes_certificate(client: Client, host: str) -> bool:
    """Whether a client takes our server's certificate and shows an answer."""
    said = bytearray()
    with (
        serving(host, "X.509", client.answer, not client.says_goodbye) as served,
        running(client.command(host, served.port, "X.509")) as child,
    ):
        assert child.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            child.stdin.write(LINE)
            child.stdin.flush()
        drive([], lambda: LINE in said or child.poll() is not None, child, said)
    counters = served.counters
    assert counters is not None
    assert counters.gate.verified == 1, said.decode(errors="replace")
    return LINE in said


class Crash(Exception):
    """A client died by a signal, and our side is not to blame so far."""


class DisallowedName(Exception):
    """A client sent a server_name that is none."""


DISALLOWED_NAME = "GNUTLS_E_RECEIVED_DISALLOWED_NAME"


def gnutls_cli_crashes_with_gnutls_serv(kind: str, host: str) -> bool:
    """Whether gnutls-cli dies by a signal there as well."""
    with (
        started(SERVERS["gnutls-serv"], kind, host) as (_, port, _),
        running(gnutls_cli_command(host, port, kind)) as child,
    ):
        try:
            child.communicate(LINE, timeout=SECONDS)
        except subprocess.TimeoutExpired:
            return False
        return child.returncode < 0


def coap_server_refuses_name(client: Client, host: str) -> bool:
    """Whether coap-server-gnutls does not take the server_name of a client with PSK either."""
    with (
        started(SERVERS["coap-server-gnutls"], "PSK", host) as (child, port, said),
        running(client.command(host, port, "PSK")),
    ):
        after = re.compile(rb"disallowed SNI server name|session connected")
        drive([], lambda: after.search(said) is not None, child, said)
    return b"disallowed SNI server name" in said


def hello_of(client: Client, kind: str, host: str) -> wire.ClientHello:
    """The client's first hello, as a plain socket sees it."""
    with udp_socket(host) as sock, running(client.command(host, sock.getsockname()[1], kind)):
        _, _, hello = wire.decode_client_hello(sock.recv(65535))
    return hello


def server_name(hello: wire.ClientHello) -> str | None:
    """The name in extension 0, behind list length, type and length (RFC 6066 3)."""
    return next((data[5:].decode() for number, data in hello.extensions or () if number == 0), None)


def has_psk(suite: int) -> bool:
    """Whether the key exchange of a cipher suite uses a pre-shared key."""
    return any(first <= suite <= last for first, last in _PSK_SUITES)


_PSK_SUITES = (
    (0x002C, 0x002E),  # RFC 4785
    (0x008A, 0x0095),  # RFC 4279
    (0x00A8, 0x00B9),  # RFC 5487
    (0xC033, 0xC03B),  # RFC 5489
    (0xC064, 0xC071),  # RFC 6209
    (0xC08E, 0xC09B),  # RFC 6367
    (0xC0A4, 0xC0AB),  # RFC 6655
    (0xCCAB, 0xCCAE),  # RFC 7905
    (0xD001, 0xD005),  # RFC 8442
)

_SCSV = (0x00FF, 0x5600)  # signals, no cipher suites: RFC 5746 3.3, RFC 7507 4


def real_suites(hello: wire.ClientHello) -> list[int]:
    """The cipher suites of a hello, without numbers that are signals."""
    return [suite for suite in hello.cipher_suites if suite not in _SCSV]


# --- our client and a server ----------------------------------------------------------------------


class BlockingClient:
    """blocking.connect()."""

    def __init__(self, host: str, port: int, **options: Any) -> None:
        self._connection = blocking.connect(host, port, **options)
        self.agreed = self._connection.session.description

    def send(self, message: bytes) -> None:
        self._connection.send(message)

    def receive(self, seconds: float = SECONDS) -> bytes | None:
        return self._connection.receive(timeout=seconds)

    def close(self) -> None:
        self._connection.close()


class AsyncClient:
    """aio.connect(), in an event loop that runs for a step at a time."""

    def __init__(self, host: str, port: int, **options: Any) -> None:
        self._loop = asyncio.new_event_loop()
        try:
            self._connection = self._loop.run_until_complete(aio.connect(host, port, **options))
        except BaseException:
            self._loop.close()
            raise
        self.agreed = self._connection.session.description

    def send(self, message: bytes) -> None:
        self._loop.run_until_complete(self._connection.send(message))

    def receive(self, seconds: float = SECONDS) -> bytes | None:
        answer = asyncio.wait_for(self._connection.receive(), seconds)
        return self._loop.run_until_complete(answer)

    def close(self) -> None:
        self._connection.close()
        self._loop.run_until_complete(self._connection.wait_closed())
        self._loop.close()


ADAPTERS: dict[str, type[BlockingClient] | type[AsyncClient]] = {
    "blocking": BlockingClient,
    "aio": AsyncClient,
}


class Tap:
    """A relay in front of a server that counts what the server says; for a with block.

    Attributes:
        port: where clients find it.
        challenges: HelloVerifyRequests of the server.
        goodbyes: alerts of the server under the agreed keys.
    """

    def __init__(self, host: str, port: int) -> None:
        self.challenges = 0
        self.goodbyes = 0
        self._server = (host, port)
        self._family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._front = socket.socket(self._family, socket.SOCK_DGRAM)
        self._front.bind((host, 0))
        self.port: int = self._front.getsockname()[1]
        self._behind: dict[Any, socket.socket] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Tap:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        for sock in (self._front, *self._behind.values()):
            sock.close()

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._front, selectors.EVENT_READ, None)
            while not self._stop.is_set():
                for key, _ in selector.select(0.05):
                    with contextlib.suppress(ConnectionRefusedError):  # one of the ends has gone
                        if key.data is None:
                            self._from_client(selector)
                        else:
                            self._from_server(key.data)

    def _from_client(self, selector: selectors.BaseSelector) -> None:
        datagram, client = self._front.recvfrom(65535)
        if client not in self._behind:
            sock = self._behind[client] = socket.socket(self._family, socket.SOCK_DGRAM)
            sock.connect(self._server)
            selector.register(sock, selectors.EVENT_READ, client)
        self._behind[client].send(datagram)

    def _from_server(self, client: Any) -> None:
        datagram = self._behind[client].recv(65535)
        at = 0
        while at + 13 < len(datagram):  # RFC 6347 4.1: type, version, epoch, sequence, length
            kind, epoch = datagram[at], int.from_bytes(datagram[at + 3 : at + 5], "big")
            self.challenges += (kind, epoch, datagram[at + 13]) == (22, 0, 3)
            self.goodbyes += (kind, epoch) == (21, 1)
            at += 13 + int.from_bytes(datagram[at + 11 : at + 13], "big")
        self._front.sendto(datagram, client)


def meet_server(server: Server, kind: str, host: str, adapter: str) -> str:
    """One cookie, the handshake, an answer, a goodbye that the server understands.

    Returns:
        What was agreed on.
    """
    with (
        started(server, kind, host) as (child, port, said),
        Tap(host, port) as tap,
    ):
        client = connected(adapter, kind, host, tap.port)
        try:
            assert tap.challenges == 1
            client.send(server.request)
            if server.shows:
                drive([], lambda: server.request in said, child, said)
                assert child.stdin is not None
                child.stdin.write(LINE)
                child.stdin.flush()
            answer = client.receive()
            assert answer is not None
            assert server.answers(answer), answer
        finally:
            client.close()
        if server.says_goodbye:
            drive([], lambda: tap.goodbyes == 1, child, said)
        else:
            connected(adapter, kind, host, tap.port).close()
        assert child.poll() is None, said.decode(errors="replace")
    return client.agreed or ""


def connected(adapter: str, kind: str, host: str, port: int) -> BlockingClient | AsyncClient:
    """A client of ours after its handshake."""
    credentials: Credentials = (
        trusting() if kind == "X.509" else PSKCredentials(IDENTITY, KEY.encode())
    )
    return ADAPTERS[adapter](
        host, port, credentials=credentials, server_name="localhost", handshake_timeout=SECONDS
    )


# --- the table ------------------------------------------------------------------------------------


BEGIN, END = "<!-- table -->\n", "<!-- end of the table -->\n"


@dataclass(frozen=True)
class Seen:
    """What a test saw of a pair over one kind of address.

    Attributes:
        peer: its name.
        role: "client" or "server", which the peer was.
        kind: "X.509" or "PSK".
        network: "IPv4" or "IPv6".
        works: whether it does.
        text: what was agreed on, or why it cannot work.
    """

    peer: str
    role: str
    kind: str
    network: str
    works: bool
    text: str


def rows() -> list[tuple[str, str, str]]:
    """Peer, its role and the kind of credentials, for each row of the table."""
    return [
        *((peer, "client", kind) for peer in CLIENTS for kind in KINDS),
        *((peer, "server", kind) for peer in SERVERS for kind in KINDS),
    ]


def table(seen: list[Seen]) -> str:
    """The table of docs/interop.md, and the versions below it."""
    lines = ["| peer | is the | with | IPv4 | IPv6 | agreed on, or why not |", "|---" * 6 + "|"]
    for row in rows():
        of_row = [one for one in seen if (one.peer, one.role, one.kind) == row]
        cells = []
        for network in HOSTS:
            (works,) = {one.works for one in of_row if one.network == network}
            cells.append("yes" if works else "no")
        mixed = len(set(cells)) > 1
        texts = sorted({f"{one.network}: " * mixed + one.text for one in of_row})
        lines.append("| " + " | ".join([*row, *cells, "; ".join(texts)]) + " |")
    return "\n".join(lines) + "\n\nSeen with " + ", ".join(versions()) + ".\n"


def versions() -> list[str]:
    """Names and versions of all that took part."""
    node, pinned = node_with_packages(), NPM / "node_modules"
    mbedtls = importlib.import_module("mbedtls.version").version
    linked = importlib.import_module("OpenSSL.SSL").OpenSSL_version(0).decode()
    return [
        f"libgnutls {library_version()} on our side",
        said_by([gnutls_cli(), "--version"], r"gnutls-cli ([\d.]+)", "gnutls-cli and gnutls-serv"),
        said_by([openssl(), "version"], r"OpenSSL (\S+)", "OpenSSL"),
        said_by(
            [peer_required("coap-client-gnutls", "apt install libcoap3-bin")], r" v(\S+)", "libcoap"
        ),
        f"python-mbedtls {python_package('python-mbedtls')} over {mbedtls}",
        f"pyOpenSSL {python_package('pyOpenSSL')} over {' '.join(linked.split()[:2])}",
        f"trio {python_package('trio')}",
        said_by([str(wolfssl_peer())], r"wolfSSL (\S+)", "wolfSSL"),
        said_by(["botan", "version"], r"(\S+)", "Botan"),
        said_by(["java", "-version"], r'version "(\S+)"', "OpenJDK"),
        said_by(
            ["java", "-cp", bouncycastle_classes(), "BouncyCastlePeer"],
            r"BouncyCastle (\S+)",
            "BouncyCastle",
        ),
        said_by([*erlang(), "version"], r"ssl (.*)", "Erlang ssl"),
        f"tinydtls of DTLSSocket {optional_package('DTLSSocket')}",
        *(
            f"{name} {json.loads((pinned / name / 'package.json').read_text())['version']}"
            for name in ("node-dtls-client", "werift")
        ),
        said_by([node, "--version"], r"v(\S+)", "Node.js"),
    ]


def said_by(command: Command, pattern: str, name: str) -> str:
    """The name and what the pattern's group found in the output."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    found = re.search(pattern, done.stdout + done.stderr)
    assert found is not None, done
    return f"{name} {found[1]}"


class _Collector:
    """A pytest plugin that keeps what tests recorded, and whether all of them passed."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.others = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.outcome != "passed":
            self.others += 1
        elif report.when == "call":
            self.seen += [Seen(**value) for key, value in report.user_properties if key == "seen"]  # type: ignore[arg-type]


def main() -> int:
    """Run the tests with every peer, and write the table if all of them passed."""
    os.environ["REQUIRE_PEERS"] = "1"
    collector = _Collector()
    only_pairs = ["-k", "not table"]
    code = pytest.main(
        ["-q", str(ROOT / "tests" / "adapters" / "test_interop.py"), *only_pairs], [collector]
    )
    if code or collector.others:
        print("not written: not every test passed", file=sys.stderr)
        return 1
    before, _, rest = TABLE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    TABLE.write_text(before + BEGIN + table(collector.seen) + END + after)
    return 0


if __name__ == "__main__":
    sys.exit(main())
