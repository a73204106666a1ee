"""examples/coap_aiocoap.py: coaps:// for aiocoap, with libcoap's clients and its own as peers."""

from __future__ import annotations

import asyncio
import importlib.util
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gnutls_cookie import CertificateCredentials
from tests.support.common import ROOT, peer_required, port_of_two, python_peer
from tests.support.peers import CERTS, certificate, trusting
from tests.support.servers import SECONDS, asynchronous

EXAMPLE = ROOT / "examples" / "coap_aiocoap.py"
KEYS = {"sensor-1": b"secret", "sensor-2": b"another"}
CERT, KEY = str(CERTS / "localhost.pem"), str(CERTS / "localhost.key")


@pytest.fixture(scope="module")
def coap() -> Any:
    """The module; it needs aiocoap."""
    python_peer("aiocoap")
    spec = importlib.util.spec_from_file_location("coap_aiocoap", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def keys(**named: bytes) -> Any:
    """A CredentialsMap with pre-shared keys by identity."""
    credentials = python_peer("aiocoap.credentials")
    found = credentials.CredentialsMap()
    for identity, key in (named or KEYS).items():
        found[f":{identity}"] = credentials.DTLS(key, identity.encode())
    return found


@asynccontextmanager
async def serving(coap: Any, credentials: Any, **options: Any) -> AsyncIterator[str]:
    """A server of the example's resources; yields its URI."""
    context, transport = await coap.server_context(
        coap.site(), ("127.0.0.1", 0), credentials, **options
    )
    try:
        yield f"coaps://127.0.0.1:{transport.address[1]}"
    finally:
        await context.shutdown()


@asynccontextmanager
async def requesting(
    coap: Any, identity: str | None, key: Any, **options: Any
) -> AsyncIterator[Any]:
    """A client's context, with a key for all servers, or certificates."""
    context = await coap.client_context(**options)
    if identity is not None:
        key = python_peer("aiocoap.credentials").DTLS(key, identity.encode())
    context.client_credentials["coaps://*"] = key
    try:
        yield context
    finally:
        await context.shutdown()


async def asked(context: Any, uri: str, method: str = "GET", payload: bytes = b"") -> Any:
    """The response to one request."""
    aiocoap = python_peer("aiocoap")
    request = aiocoap.Message(code=getattr(aiocoap, method), uri=uri, payload=payload)
    async with asyncio.timeout(SECONDS):
        return await context.request(request).response


async def said_by(*command: str) -> str:
    """What a program prints, in its time."""
    child = await asyncio.create_subprocess_exec(
        *command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(SECONDS):
            return (await child.communicate())[0].decode()
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()


@asynchronous
async def test_several_clients_by_their_keys(coap: Any) -> None:
    """Each is told who it is; many requests go over one connection, at the same time."""
    async with (
        serving(coap, keys()) as uri,
        requesting(coap, "sensor-1", KEYS["sensor-1"]) as one,
        requesting(coap, "sensor-2", KEYS["sensor-2"]) as other,
    ):
        first = await asyncio.gather(*(asked(one, f"{uri}/whoami") for _ in range(20)))
        assert {response.payload for response in first} == {b"psk:sensor-1"}
        assert len({response.remote for response in first}) == 1
        second = await asked(other, f"{uri}/whoami")
        assert second.payload == b"psk:sensor-2"
        assert second.remote.uri_base == uri


@asynchronous
async def test_certificates_of_both_sides(coap: Any) -> None:
    """The server's has to have its name; the client's is told by its fingerprint."""
    server = {"": certificate(trust="localhost")}
    async with serving(coap, server, verify_peer=True) as uri:
        uri = uri.replace("127.0.0.1", "localhost")
        async with requesting(coap, None, certificate(trust="localhost")) as context:
            who = (await asked(context, f"{uri}/whoami")).payload
            assert who.startswith(b"sha256:")
            assert len(who) == len(b"sha256:") + 64
        # Who does not trust the server; who has no certificate; whose nobody trusts.
        strangers = trusting("stranger"), trusting(), certificate("stranger", trust="localhost")
        for credentials in strangers:
            async with requesting(coap, None, credentials) as context:
                with pytest.raises(python_peer("aiocoap.error").NetworkError):
                    await asked(context, f"{uri}/whoami")


@asynchronous
async def test_payloads_go_in_blocks(coap: Any) -> None:
    """Each in a datagram of its own, both ways."""
    content = bytes(range(256)) * 40
    async with (
        serving(coap, keys()) as uri,
        requesting(coap, "sensor-1", KEYS["sensor-1"]) as context,
    ):
        await asked(context, f"{uri}/echo", "PUT", content)
        assert (await asked(context, f"{uri}/echo")).payload == content


@asynchronous
async def test_observation_and_its_end(coap: Any) -> None:
    """Notifications come as long as the server is there; its end is an error, and a new
    connection serves the next request."""
    aiocoap = python_peer("aiocoap")
    async with requesting(coap, "sensor-1", KEYS["sensor-1"]) as context:
        async with serving(coap, keys()) as uri, asyncio.timeout(SECONDS):
            request = context.request(
                aiocoap.Message(code=aiocoap.GET, uri=f"{uri}/time", observe=0)
            )
            before = (await request.response).payload
            notifications = aiter(request.observation)
            assert (await anext(notifications)).payload > before

        async def observe() -> None:
            while True:
                await anext(notifications)

        with pytest.raises(aiocoap.error.Error):
            await observe()
        async with serving(coap, keys()) as uri:
            assert (await asked(context, f"{uri}/whoami")).payload == b"psk:sensor-1"


@asynchronous
async def test_a_refusal_is_an_error_of_the_network(coap: Any) -> None:
    """As aiocoap's users catch it; without credentials the request says so."""
    error = python_peer("aiocoap.error")
    async with serving(coap, keys()) as uri:
        async with requesting(coap, "stranger", b"any", handshake_timeout=2.0) as context:
            with pytest.raises(error.NetworkError):
                await asked(context, f"{uri}/whoami")
        async with requesting(coap, None, object()) as context:
            with pytest.raises(python_peer("aiocoap.credentials").CredentialsMissingError):
                await asked(context, f"{uri}/whoami")


@pytest.mark.peer
@pytest.mark.parametrize("library", ["gnutls", "openssl"])
@pytest.mark.parametrize("kind", ["PSK", "X.509"])
@asynchronous
async def test_clients_of_libcoap(coap: Any, library: str, kind: str) -> None:
    """coap-client with a key, and with the certificate of who signs."""
    program = peer_required(f"coap-client-{library}", "apt install libcoap3-bin")
    who = "nobody"
    credentials, options = {"": certificate()}, ["-C", CERT]
    if kind == "PSK":
        who, credentials, options = "psk:sensor-1", keys(), ["-u", "sensor-1", "-k", "secret"]
    async with serving(coap, credentials) as uri:
        assert who in await said_by(program, "-m", "get", *options, f"{uri}/whoami")
        links = await said_by(program, "-m", "get", *options, f"{uri}/.well-known/core")
        assert "</time>" in links


@pytest.mark.peer
@pytest.mark.parametrize("library", ["gnutls", "openssl"])
@asynchronous
async def test_servers_of_libcoap(coap: Any, library: str) -> None:
    """Our client asks for the server's first page, more than once over one connection."""
    program = peer_required(f"coap-server-{library}", "apt install libcoap3-bin")
    port = port_of_two()  # DTLS is on the next one
    server = await asyncio.create_subprocess_exec(
        program, "-A", "127.0.0.1", "-p", str(port), "-k", "secret", stderr=subprocess.DEVNULL
    )
    error = python_peer("aiocoap.error")
    try:
        async with requesting(coap, "sensor-1", b"secret") as context:
            while True:  # until it listens
                try:
                    first = await asked(context, f"coaps://127.0.0.1:{port + 1}/")
                    break
                except error.NetworkError:
                    await asyncio.sleep(0.05)
            second = await asked(context, f"coaps://127.0.0.1:{port + 1}/.well-known/core")
            assert b"This is a test server" in first.payload
            assert b"</time>" in second.payload
            assert first.remote is second.remote
    finally:
        server.kill()
        await server.wait()


@asynchronous
async def test_as_a_program(coap: Any, tmp_path: Path) -> None:
    """`serve` and `get`, as its first lines print them."""
    command = [sys.executable, str(EXAMPLE)]
    psk = ["--psk", "sensor-1:736563726574", "--psk", "sensor-2:616e6f74686572"]
    server = await asyncio.create_subprocess_exec(
        *command, "serve", "127.0.0.1", "0", *psk, stdout=subprocess.PIPE
    )
    try:
        assert server.stdout is not None
        async with asyncio.timeout(SECONDS):
            uri = (await server.stdout.readline()).decode().strip()
        said = await said_by(*command, "get", f"{uri}/whoami", "--psk", "sensor-2:616e6f74686572")
        assert said == "psk:sensor-2\n"
    finally:
        if server.returncode is None:
            server.kill()
        await server.wait()


def test_certificates_come_from_files(coap: Any) -> None:
    """The options of the program."""
    options = coap.argparse.Namespace(psk=[], cert=CERT, key=KEY, trust=None)
    (found,) = coap.credentials_of(options).values()
    assert isinstance(found, CertificateCredentials)
