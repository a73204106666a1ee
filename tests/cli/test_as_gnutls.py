"""-u: `serve` where gnutls-serv serves, `connect` with the lines that gnutls-cli prints."""

from __future__ import annotations

import argparse
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gnutls_cookie import library_version
from gnutls_cookie.cli.report import Report
from tests.support.authority import pki
from tests.support.common import free_udp_port, gnutls_cli
from tests.support.peers import CERTS
from tests.support.serve import CERT, LINE, SECONDS, Served, client, echoes, serving

CONNECT = [sys.executable, "-X", "dev", "-m", "gnutls_cookie", "connect"]
TRUST = ["--x509cafile", CERT[1]]


def has_ipv6() -> bool:
    """Whether ::1 can be bound."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


# --- where it serves ------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", ["1", "2"])
def test_all_addresses_are_served(workers: str) -> None:
    """IPv4 and IPv6, on one port, each with a socket of its own: an address is seen as it is."""
    hosts = ["127.0.0.1", "127.0.0.2", *(["::1"] if has_ipv6() else [])]
    with serving("-u", "--workers", workers, *CERT) as served:
        served.wait_for(rf"serving on 0\.0\.0\.0 port {served.port}\n")
        if "::1" in hosts:
            served.wait_for(rf"serving on :: port {served.port}\n")
        for host in hosts:
            with client(served.port, host=host) as connection:
                assert echoes(connection)
            seen = "::1" if host == "::1" else r"127\.0\.0\.1"
            served.wait_for(rf"INFO {seen} port \d+: ended")
        assert served.end() == 0


def test_host_says_where_to_serve_with_u_too() -> None:
    """--host counts."""
    with serving("-u", "--host", "127.0.0.3", *CERT) as served:
        assert b"serving on 127.0.0.3 port" in served.said
        assert served.end() == 0


def test_port_that_is_taken_at_all_addresses(capfd: pytest.CaptureFixture[str]) -> None:
    """One line, exit code 1."""
    from gnutls_cookie.cli import main

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("0.0.0.0", 0))
        port = sock.getsockname()[1]
        assert main(["serve", "-u", "--port", str(port)]) == 1
    assert capfd.readouterr().err == (
        f"gnutls-cookie serve: cannot serve on all addresses port {port}: Address already in use\n"
    )


def test_any_certificate_of_a_client_with_u() -> None:
    """-r without --x509cafile, as gnutls-serv has it: with a warning."""
    with serving("-u", "-r", *CERT) as served:
        served.wait_for("WARNING clients' certificates are not verified")
        own = ["--x509certfile", str(CERTS / "stranger.pem")]
        own += ["--x509keyfile", str(CERTS / "stranger.key")]
        assert connecting(served.port, *own)[0] == 0
        assert connecting(served.port)[0] == 1
        assert served.end() == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_debug_messages_of_libgnutls(workers: str) -> None:
    """-d LEVEL, at both ends: lines of the log."""
    with serving("-d", "4", "--workers", workers, *CERT) as served:
        words = [*CONNECT, "-d", "4", *TRUST, "--wait", "0.3", "localhost", str(served.port)]
        done = subprocess.run(words, input=LINE, capture_output=True, timeout=SECONDS)
        assert (done.returncode, done.stdout) == (0, LINE)
        said = done.stderr.decode()
        assert re.search(r"^DEBUG .*CLIENT HELLO was queued", said, re.MULTILINE), said
        served.wait_for(r"DEBUG [^\n]*CLIENT HELLO[^\n]* was received")
        assert served.end() == 0


# --- what connect prints --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Of an echo server."""
    with serving(*CERT, "--quiet") as served:
        yield served.port


def connecting(port: int, *options: str, stdin: bytes = LINE) -> tuple[int, str]:
    """`connect -u` to its end: exit code and stdout."""
    words = [*CONNECT, "-u", "--wait", "0.5", *TRUST, "-p", str(port), *options, "localhost"]
    done = subprocess.run(words, input=stdin, capture_output=True, timeout=SECONDS)
    return done.returncode, done.stdout.decode()


def test_lines_of_a_session(port: int) -> None:
    """Those that scripts look for, in the order of gnutls-cli, and the message after them."""
    code, said = connecting(port)
    assert code == 0
    lines = [
        rf"Resolving 'localhost:{port}'\.\.\.",
        rf"Connecting to 'localhost:{port}'\.\.\.",
        r"- Certificate type: X\.509",
        r"- Got a certificate list of 1 certificates\.",
        r"- Certificate\[0\] info:",
        r" - subject `CN=localhost'(?:.*\n)*\t\tpin-sha256:.*",
        r"",
        r"- Status: The certificate is trusted\. ",
        r"- Description: \(DTLS1\.2.*",
        r"- Session ID: (?:[0-9A-F]{2}:){31}[0-9A-F]{2}",
        r"- Options: extended master secret, safe renegotiation,",
        r"- Handshake was completed",
        r"",
        r"- Simple Client Mode:",
        r"",
        re.escape(LINE.decode().strip()),
        r"",
    ]
    assert re.fullmatch("\n".join(lines), said), said


@pytest.mark.peer
@pytest.mark.parametrize("what", ["certificate", "resumed", "psk"])
def test_each_line_is_one_of_gnutls_cli(what: str, tmp_path: Path) -> None:
    """In its order, at one server: what it finds of certificates, keys, session and options. It has
    more before the handshake, and at the end."""
    where, psk = pki(), tmp_path / "psk"
    psk.write_text("sensor-1:00112233445566778899aabbccddeeff\n")
    psk.chmod(0o600)
    pair = ["--x509certfile", str(where / "server.pem"), "--x509keyfile", str(where / "server.key")]
    serves, asks = [*pair, "--alpn", "echo"], ["--x509cafile", f"{where}/ca.pem", "--alpn", "echo"]
    if what == "resumed":
        asks.append("--resume")
    elif what == "psk":
        serves = ["--pskpasswd", str(psk), "--pskhint", "plant"]
        asks = ["--priority", "NORMAL:-KX-ALL:+PSK", "--pskusername", "sensor-1"]
        asks += ["--pskkey", "00112233445566778899aabbccddeeff"]
    found = []
    with serving("-u", *serves) as served:
        for program in [gnutls_cli()], [*CONNECT, "--wait", "0"]:
            words = [*program, "-u", "-p", str(served.port), *asks, "127.0.0.1"]
            done = subprocess.run(
                words, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS, text=True
            )
            assert done.returncode == 0, done.stderr
            said = re.sub(r"(?<=Session ID: ).*", "", done.stdout).replace("-X.509)", ")")
            found.append(said.splitlines())
        assert served.end() == 0
    theirs = iter(found[0])
    assert len(found[1]) > 8
    assert [line for line in found[1] if line not in theirs] == []


def test_verbose_lines(port: int) -> None:
    """Certificates and sizes."""
    _, said = connecting(port, "-V")
    assert f"- Sent: {len(LINE)} bytes\n" in said
    assert f"- Received[{len(LINE)}]: {LINE.decode()}" in said
    assert (CERTS / "localhost.pem").read_text().strip() in said


def test_message_and_its_line_are_written_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sender's thread may say something at any moment."""
    written: list[tuple[int, bytes]] = []

    def write(descriptor: int, data: memoryview) -> int:
        written.append((descriptor, bytes(data)))
        return len(data)

    options = argparse.Namespace(
        udp=True, verbose=True, logfile=None, insecure=False, ca_verification=True
    )
    with Report(options) as report, monkeypatch.context() as patched:
        patched.setattr("os.write", write)
        report.received(LINE)
    assert written == [(1, b"- Received[%d]: %s" % (len(LINE), LINE))]


def test_certificate_that_is_not_trusted(port: int) -> None:
    """The line that gnutls-cli prints; exit code 1. Taken where it is not to be verified."""
    code, said = connecting(port, "--verify-hostname", "example.org")
    assert code == 1
    assert "- Status: The certificate is NOT trusted. " in said
    assert said.count("NOT trusted") == 1
    assert "*** PKI verification of server certificate failed...\n" in said
    for option in "--insecure", "--no-ca-verification":
        code, said = connecting(port, option, "--verify-hostname", "example.org")
        assert code == 0
        assert "- Status: The certificate was NOT verified. \n" in said


def test_server_that_says_goodbye() -> None:
    """Peer has closed the GnuTLS connection."""
    with serving(*CERT) as served:
        words = [*CONNECT, "-u", *TRUST, "-p", str(served.port), "localhost"]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
            said = Served(child, 0)
            said.wait_for("- Simple Client Mode:\n")
            assert served.end() == 0
            said.wait_for("- Peer has closed the GnuTLS connection\n")
            assert child.wait(SECONDS) == 0
            assert child.stdin is not None
            child.stdin.close()


def test_log_file_and_certificates(port: int, tmp_path: Path) -> None:
    """--logfile: stdout has messages alone; --save-cert writes PEM, --print-cert prints it."""
    log, saved = tmp_path / "log", tmp_path / "cert.pem"
    code, said = connecting(port, "--logfile", str(log), "--save-cert", str(saved))
    assert (code, said) == (0, LINE.decode())
    assert "- Handshake was completed\n" in log.read_text()
    pem = (CERTS / "localhost.pem").read_text()
    assert saved.read_text() == pem
    words = [*CONNECT, *TRUST, "--print-cert", f"localhost:{port}"]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS)
    assert (done.returncode, done.stdout.decode().strip()) == (0, pem.strip())


@pytest.mark.peer
def test_ocsp_response_is_saved(tmp_path: Path) -> None:
    """--save-ocsp: in DER, as it was stapled; where none was, a warning says so. --save-ocsp-multi:
    in PEM."""
    where = pki()
    pair = ["--x509certfile", str(where / "server.pem"), "--x509keyfile", str(where / "server.key")]
    trust = ["--x509cafile", str(where / "ca.pem"), "--save-ocsp", str(tmp_path / "response")]
    if library_version() == "3.7.1":  # finds fault with each response
        trust.append("--no-ca-verification")
    for option, stapled in (
        ("--save-ocsp-multi", True),
        ("--save-ocsp", True),
        ("--save-ocsp", False),
    ):
        trust[2] = option
        options = ["--ocsp-response", str(where / "server.ocsp")] if stapled else []
        with serving(*pair, *options) as served:
            words = [*CONNECT, *trust, "--wait", "0", "localhost", str(served.port)]
            done = subprocess.run(
                words, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS
            )
            assert done.returncode == 0, done.stderr
            assert (b"has stapled no OCSP response" in done.stderr) is not stapled
            assert served.end() == 0
        response = (tmp_path / "response").read_bytes()
        if option == "--save-ocsp":
            assert response == (where / "server.ocsp").read_bytes()
        else:
            assert response.startswith(b"-----BEGIN OCSP RESPONSE-----\nMII")


def test_certificate_that_cannot_be_saved(port: int) -> None:
    """One line, exit code 1."""
    words = [*CONNECT, *TRUST, "--save-cert", "/nowhere/cert.pem", f"localhost:{port}"]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS)
    assert done.returncode == 1
    assert done.stderr == (b"gnutls-cookie connect: /nowhere/cert.pem: No such file or directory\n")


def test_line_ends(port: int) -> None:
    """--crlf: CR LF in the place of LF."""
    code, said = connecting(port, "--crlf", "--logfile", "/dev/null", stdin=b"one\ntwo")
    assert (code, sorted(said.splitlines())) == (0, ["one", "two"])
    assert "one\r\n" in said


def test_nobody_listens_with_u() -> None:
    """Exit code 1, as of gnutls-cli."""
    assert connecting(free_udp_port())[0] == 1


def test_ctrl_c_with_u() -> None:
    """The end is by SIGINT."""
    with serving(*CERT) as served:
        words = [*CONNECT, "-u", *TRUST, "-p", str(served.port), "localhost"]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
            said = Served(child, 0)
            said.wait_for("- Simple Client Mode:\n")
            assert said.end(signal.SIGINT) == -signal.SIGINT
        assert served.end() == 0
