"""What third-party programs say of a session is what ours says: protocols, names, exported keys."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from gnutls_cookie import CertificateCredentials, Session, TicketKey, blocking
from tests.support.common import gnutls_cli, openssl, peer_required, running, udp_socket
from tests.support.interop import Server, started
from tests.support.peers import CERTS, CookieServer, certificate, drive, trusting

pytestmark = pytest.mark.peer

LINE = b"hello, cookie\n"
LABEL = "EXPERIMENTAL gnutls-cookie"
TRUST, KEY = str(CERTS / "localhost.pem"), str(CERTS / "localhost.key")


def cli(*options: str) -> Callable[[int], list[str]]:
    """gnutls-cli as a client of a port."""
    command = ["--udp", "--x509cafile", TRUST, "--verify-hostname", "localhost", *options]
    return lambda port: [gnutls_cli(), *command, "--port", str(port), "127.0.0.1"]


def s_client(*options: str) -> Callable[[int], list[str]]:
    """openssl s_client as a client of a port."""
    command = ["s_client", "-dtls1_2", "-CAfile", TRUST, *options]
    return lambda port: [openssl(), *command, "-connect", f"127.0.0.1:{port}"]


def serv(*options: str) -> Server:
    """gnutls-serv."""
    program = peer_required("gnutls-serv", "apt install gnutls-bin")
    command = [program, "--udp", "--echo", "--x509certfile", TRUST, "--x509keyfile", KEY]
    return Server(
        lambda host, port, kind: [*command, *options, "--port", str(port)],
        rb"listening on IPv4 .*done(?s:.*)IPv6 .*done",
    )


def s_server(*options: str) -> Server:
    """openssl s_server; with -listen it demands a cookie, and serves one client."""
    command = [openssl(), "s_server", "-dtls1_2", "-cert", TRUST, "-key", KEY]
    return Server(
        lambda host, port, kind: [*command, *options, "-accept", f"{host}:{port}"], rb"ACCEPT"
    )


def serve(
    command: Callable[[int], Sequence[str]],
    credentials: CertificateCredentials | None = None,
    **options: Any,
) -> tuple[Session, str]:
    """Let a program be our client until both have said goodbye: our session, what it printed."""
    said = bytearray()
    with udp_socket() as sock:
        server = CookieServer(sock, credentials or certificate(), **options)
        with running(command(sock.getsockname()[1])) as child:
            assert child.stdin is not None
            child.stdin.write(LINE)
            child.stdin.flush()
            drive([server], lambda: LINE in said or child.poll() is not None, child, said)
            child.stdin.close()
            child.stdin = None
            drive([server], lambda: server.done and child.poll() is not None, child, said)
            assert child.stdout is not None
            said += child.stdout.read()
    assert server.session is not None
    assert server.received == [LINE], said
    return server.session, said.decode(errors="replace")


def resuming(command: Sequence[str], keys: Sequence[TicketKey]) -> tuple[list[bool], str]:
    """Let a program connect once to each of our servers, which have one address in turn.

    Returns:
        Whether each of our sessions was resumed, and what the program printed.
    """
    said = bytearray()
    resumed = []
    with udp_socket() as sock:
        port = str(sock.getsockname()[1])
        with running([word.replace("PORT", port) for word in command]) as child:
            assert child.stdin is not None
            child.stdin.write(LINE)
            child.stdin.flush()
            for key in keys:
                server = CookieServer(sock, certificate(), tickets=key)

                def served(server: CookieServer = server) -> bool:
                    return server.done or LINE in said

                drive([server], served, child, said)
                assert server.session is not None
                resumed.append(server.session.resumed)
            child.stdin.close()
            child.stdin = None
            drive([server], lambda: child.poll() is not None, child, said)
            assert child.stdout is not None
            said += child.stdout.read()
    return resumed, said.decode(errors="replace")


def hex_of(text: str, pattern: str) -> bytes:
    """What a program prints in hex behind a pattern."""
    found = re.search(pattern + r"\s*([0-9A-Fa-f]+)", text)
    assert found is not None, text
    return bytes.fromhex(found[1])


def test_gnutls_cli_agrees_with_our_server() -> None:
    """ALPN, the name that it asks for, the exporter (RFC 5705)."""
    options = ["--alpn", "x", "--alpn", "coap", "--sni-hostname", "localhost"]
    session, said = serve(
        cli(*options, "--keymatexport", LABEL, "--keymatexportsize", "24"), alpn=["coap"]
    )
    assert "Application protocol: coap" in said
    assert (session.alpn, session.server_name) == ("coap", "localhost")
    assert hex_of(said, "Key material:") == session.export_keying_material(LABEL, 24)


def test_openssl_agrees_with_our_server() -> None:
    """The same; it calls extended master secret by its name."""
    options = ["-alpn", "x,coap", "-servername", "localhost"]
    session, said = serve(
        s_client(*options, "-keymatexport", LABEL, "-keymatexportlen", "24"), alpn=["coap"]
    )
    assert "ALPN protocol: coap" in said
    assert (session.alpn, session.server_name) == ("coap", "localhost")
    assert hex_of(said, "Keying material:") == session.export_keying_material(LABEL, 24)
    assert ("Extended master secret: yes" in said) == session.extended_master_secret


def test_our_client_agrees_with_gnutls_serv() -> None:
    """ALPN and the name that we send; without them it refuses a client."""
    options = ["--alpn", "coap", "--alpn-fatal", "--sni-hostname", "localhost"]
    with (
        started(serv(*options, "--sni-hostname-fatal"), "X.509", "127.0.0.1") as (_, port, _said),
        blocking.connect(
            "127.0.0.1",
            port,
            credentials=trusting(),
            server_name="localhost",
            alpn=["x", "coap"],
            alpn_required=True,
        ) as connection,
    ):
        connection.send(LINE)
        assert connection.receive(timeout=60) == LINE
        assert connection.session.alpn == "coap"


def test_our_client_agrees_with_openssl() -> None:
    """ALPN in the server's order, and the exporter."""
    options = ["-listen", "-alpn", "coap,x", "-keymatexport", LABEL, "-keymatexportlen", "24"]
    with started(s_server(*options), "X.509", "127.0.0.1") as (child, port, said):
        with blocking.connect(
            "127.0.0.1", port, credentials=trusting(), server_name="localhost", alpn=["x", "coap"]
        ) as connection:
            keys = connection.session.export_keying_material(LABEL, 24)
            assert connection.session.alpn == "coap"
        drive([], lambda: b"Keying material:" in said and b"Secure Reneg" in said, child, said)
    text = said.decode(errors="replace")
    assert "ALPN protocols selected: coap" in text
    assert hex_of(text, "Keying material:") == keys


SECRET = b"a secret of tickets, and of nothing else"


@pytest.mark.parametrize("other", [SECRET, SECRET + b"!"])
def test_gnutls_cli_resumes_at_another_node_with_the_secret(other: bytes) -> None:
    """--resume: it connects twice. With another secret there is a full handshake."""
    command = [gnutls_cli(), "--udp", "--x509cafile", TRUST, "--verify-hostname", "localhost"]
    nodes = [TicketKey.from_secret(SECRET), TicketKey.from_secret(other)]
    resumed, said = resuming([*command, "--resume", "--port", "PORT", "127.0.0.1"], nodes)
    assert resumed == [False, other == SECRET]
    assert ("*** This is a resumed session" in said) == (other == SECRET), said


@pytest.mark.parametrize("other", [SECRET, SECRET + b"!"])
def test_openssl_resumes_at_another_node_with_the_secret(other: bytes, tmp_path: Path) -> None:
    """-sess_out, then -sess_in: two programs, two nodes, two addresses."""
    file = str(tmp_path / "session")
    first, said = serve(s_client("-sess_out", file), tickets=TicketKey.from_secret(SECRET))
    assert (first.resumed, "New, " in said) == (False, True)
    second, said = serve(s_client("-sess_in", file), tickets=TicketKey.from_secret(other))
    assert (second.resumed, "Reused, " in said) == (other == SECRET, other == SECRET)


def test_our_client_resumes_at_gnutls_serv() -> None:
    """By its tickets."""
    data = None
    with started(serv(), "X.509", "127.0.0.1") as (_, port, _said):
        for resumed in (False, True):
            with blocking.connect(
                "127.0.0.1", port, credentials=trusting(), server_name="localhost", resume=data
            ) as connection:
                connection.send(LINE)
                assert connection.receive(timeout=60) == LINE
                data = connection.session.session_data
                assert connection.session.resumed == resumed


def test_our_client_resumes_at_a_server_without_tickets() -> None:
    """By its session ID (RFC 5246 7.3): openssl keeps sessions itself."""
    with started(s_server("-no_ticket"), "X.509", "127.0.0.1") as (child, port, said):
        connection, data = connected(port)
        assert not connection.session.resumed
        drive([], lambda: b"DONE" in said, child, said)
        assert connected(port, data)[0].session.resumed


def test_nothing_is_kept_of_a_session_that_its_server_does_not_keep() -> None:
    """Neither a ticket nor a session ID: a ServerHello without one says so."""
    with started(s_server("-no_ticket", "-no_cache"), "X.509", "127.0.0.1") as (_, port, _said):
        assert connected(port)[1] is None


def connected(port: int, data: bytes | None = None) -> tuple[blocking.Connection, bytes | None]:
    """A connection to a server here, which is closed, and its session_data."""
    with blocking.connect(
        "127.0.0.1", port, credentials=trusting(), server_name="localhost", resume=data
    ) as connection:
        return connection, connection.session.session_data
