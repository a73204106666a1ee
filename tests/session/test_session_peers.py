"""Sessions with third-party programs over UDP: challenged by a push in Python, verified, served.

The server is CookieServer of tests.support: cookie_send with a Python callable on a real socket,
cookie_verify, prestate hand-over, an echo. Data goes both ways, and both sides say goodbye.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

from gnutls_cookie.errors import LargePacketError
from tests.support.common import (
    gnutls_cli,
    openssl,
    running,
    udp_socket,
)
from tests.support.peers import (
    CERTS,
    DTLS_1_0,
    IDENTITY,
    PSK_KEY,
    CookieServer,
    SocketClient,
    certificate,
    client_of,
    drive,
    psk,
)

pytestmark = pytest.mark.peer

LINE = b"hello, cookie\n"
PSK_HEX = PSK_KEY.hex()
TRUST = str(CERTS / "localhost.pem")

Command = Callable[[str, int], list[str]]


def s_client(*more: str) -> Command:
    def command(host: str, port: int) -> list[str]:
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        return [openssl(), "s_client", "-connect", where, *more]

    return command


def cli(*more: str) -> Command:
    def command(host: str, port: int) -> list[str]:
        return [gnutls_cli(), "--udp", "--port", str(port), *more, host]

    return command


OPENSSL_X509 = ["-CAfile", TRUST, "-verify_return_error"]
CLI_X509 = ["--x509cafile", TRUST, "--sni-hostname", "localhost", "--verify-hostname", "localhost"]

CLIENTS: dict[str, tuple[Command, str, str]] = {
    "openssl X.509": (s_client("-dtls1_2", *OPENSSL_X509), "X.509", "DTLS1.2"),
    "openssl PSK": (
        s_client("-dtls1_2", "-psk", PSK_HEX, "-psk_identity", IDENTITY), "PSK", "DTLS1.2",
    ),
    "openssl DTLS 1.0": (
        s_client("-dtls1", "-cipher", "DEFAULT@SECLEVEL=0", *OPENSSL_X509), "X.509", "DTLS1.0",
    ),
    "gnutls-cli X.509": (cli(*CLI_X509), "X.509", "DTLS1.2"),
    "gnutls-cli DTLS 1.0": (cli(*CLI_X509, "--priority", DTLS_1_0), "X.509", "DTLS1.0"),
}  # fmt: skip


def serve(
    command: Command,
    kind: str,
    host: str = "127.0.0.1",
    first_to_close: str = "client",
    priority: str | None = None,
) -> tuple[CookieServer, subprocess.Popen[bytes], bytes]:
    """Run a client against our server until both have said goodbye, one of them first."""
    credentials = certificate() if kind == "X.509" else psk()
    said = bytearray()
    with udp_socket(host) as sock:
        server = CookieServer(sock, credentials, priority=priority)
        with running(command(host, sock.getsockname()[1])) as child:
            assert child.stdin is not None
            child.stdin.write(LINE)
            child.stdin.flush()
            drive([server], lambda: LINE in said or child.poll() is not None, child, said)
            if child.poll() is None:
                if first_to_close == "client":
                    child.stdin.close()
                    child.stdin = None
                    drive([server], lambda: server.done, child, said)
                else:
                    assert server.session is not None
                    server.session.close()
                    server.send()
            drive([server], lambda: child.poll() is not None, child, said)
            assert child.stdout is not None
            said += child.stdout.read()
    return server, child, bytes(said)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("client", CLIENTS)
def test_third_party_client_is_challenged_verified_and_served(client: str, host: str) -> None:
    """One cookie, the handshake, an echo, close_notify from each side, exit code 0."""
    command, kind, version = CLIENTS[client]
    priority = DTLS_1_0 if version == "DTLS1.0" else None
    server, child, said = serve(command, kind, host, priority=priority)
    if version == "DTLS1.0" and server.session is None:
        # Proven, not guessed: the client itself says that its build has no DTLS 1.0.
        assert any(word in said for word in (b"no protocols available", b"not supported"))
        pytest.skip(f"{client}: this build has no DTLS 1.0")
    assert LINE in said, said.decode()
    assert server.challenges == 1
    assert server.received == [LINE]
    assert server.session is not None
    assert server.session.version == version
    assert server.session.peer_closed
    assert server.session.psk_identity == (IDENTITY if kind == "PSK" else None)
    assert child.returncode == 0, said.decode()


@pytest.mark.parametrize("client", ["openssl X.509", "openssl PSK", "gnutls-cli X.509"])
def test_third_party_client_understands_our_goodbye(client: str) -> None:
    """We close first: the client says that it was closed, and ends with exit code 0."""
    command, kind, _ = CLIENTS[client]
    server, child, said = serve(command, kind, first_to_close="server")
    assert server.received == [LINE]
    assert b"closed" in said.splitlines()[-1], said.decode()
    assert child.returncode == 0


def test_hello_in_fragments_is_challenged_once_and_served() -> None:
    """`s_client -mtu 256` with a long -alpn list: only the first fragment can hold the cookie.

    The verified fragment is the first thing that the session reads; the others follow it there.
    """
    protocols = ",".join(f"protocol-{number:03}" for number in range(40))
    command = s_client("-dtls1_2", "-mtu", "256", "-alpn", protocols, *OPENSSL_X509)
    server, child, said = serve(command, "X.509")
    assert server.challenges == 1
    assert [len(hello) <= 256 for hello in server.hellos] == [True, True]
    for hello in server.hellos:  # RFC 6347 4.2.2: length at 14, fragment_length at 22
        assert int.from_bytes(hello[14:17], "big") > int.from_bytes(hello[22:25], "big")
    assert server.received == [LINE]
    assert child.returncode == 0, said.decode()


@pytest.mark.parametrize("kind", ["X.509", "PSK"])
def test_client_that_takes_small_fragments_gets_no_larger_ones(kind: str) -> None:
    """max_fragment_length 512 (RFC 6066 4): data_mtu says so, more is an error, nothing is lost."""
    more = OPENSSL_X509 if kind == "X.509" else ["-psk", PSK_HEX, "-psk_identity", IDENTITY]
    command = s_client("-dtls1_2", "-maxfraglen", "512", "-quiet", *more)
    credentials = certificate() if kind == "X.509" else psk()
    whole = b"x" * 511 + b"\n"
    said = bytearray()
    with udp_socket() as sock:
        server = CookieServer(sock, credentials)
        with running(command("127.0.0.1", sock.getsockname()[1])) as child:
            assert child.stdin is not None
            child.stdin.write(LINE)
            child.stdin.flush()
            drive([server], lambda: LINE in said or child.poll() is not None, child, said)
            assert server.session is not None
            assert server.session.data_mtu == 512
            for size in (513, 1000, 20_000):
                with pytest.raises(LargePacketError):
                    server.session.send(bytes(size))
            server.session.send(whole)
            server.send()
            drive([server], lambda: whole in said or child.poll() is not None, child, said)
    assert whole in said


def test_client_of_small_fragments_is_known_by_its_certificate() -> None:
    """Its Certificate comes in pieces, and from our guard as well: libgnutls refuses a record that
    is longer than was agreed."""
    files = ["-cert", str(CERTS / "localhost-rsa.pem"), "-key", str(CERTS / "localhost-rsa.key")]
    command = s_client("-dtls1_2", "-maxfraglen", "512", *files, *OPENSSL_X509)
    said = bytearray()
    with udp_socket() as sock:
        server = CookieServer(sock, certificate(trust="localhost-rsa"), verify_peer=True)
        with running(command("127.0.0.1", sock.getsockname()[1])) as child:
            assert child.stdin is not None
            child.stdin.write(LINE)
            child.stdin.flush()
            drive([server], lambda: LINE in said or child.poll() is not None, child, said)
    assert LINE in said, said.decode()


@pytest.mark.parametrize("kind", ["X.509", "PSK"])
def test_our_client_is_served_by_our_server_on_sockets(kind: str) -> None:
    """Both ways, and goodbye both ways."""
    with udp_socket() as here, udp_socket() as there:
        there.connect(here.getsockname())
        session = client_of(kind, retransmit_timeout=1.0)  # one hello, one challenge
        server = CookieServer(here, certificate() if kind == "X.509" else psk())
        client = SocketClient(there, session)
        drive([server, client], lambda: session.established)
        session.send(LINE)
        drive([server, client], lambda: client.received == [LINE])
        session.close()
        client.send()
        drive([server, client], lambda: server.done)
        there.settimeout(5)
        session.receive_datagram(there.recv(65535))
        assert session.receive() is None
        assert session.peer_closed
    assert server.challenges == 1
