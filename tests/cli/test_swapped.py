"""Command lines of gnutls-serv and gnutls-cli, and ours in their place: their peers see the same.

A line of a server is tried with one client at gnutls-serv, which serves one at a time, and at
`serve`; a line of a client by gnutls-cli and by `connect`, at one server.
"""

from __future__ import annotations

import os
import re
import select
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.authority import pki
from tests.support.common import free_udp_port, gnutls_cli, openssl, peer_required, running
from tests.support.peers import CERTS
from tests.support.serve import LINE, SECONDS, Served

pytestmark = pytest.mark.peer

OURS = [sys.executable, "-m", "gnutls_cookie"]
PSK = "NORMAL:-KX-ALL:+ECDHE-PSK:+DHE-PSK:+PSK"
KEY = "00112233445566778899aabbccddeeff"
PATTERNS = {  # what the other end knows of a session
    "cipher suite": r"^- Description: \(DTLS1\.2(?:-X\.509)?\)-(.*)$|^New, (.*)$",
    "certificate": r"^subject=(.*)$|subject `([^']*)'",
    "kind": r"^- Certificate type: (.*)$",
    "SRTP": r"^SRTP Extension negotiated, profile=(.*)$|^- SRTP profile: (.*)$",
    "signature": r"^Peer signature type: (.*)$",
    "protocol": r"^ALPN protocol: (.*)$|^- Application protocol: (.*)$",
    "hint": r"PSK(?: identity)? hint:? '?([^'\n]*)",
    "own certificates": r"^- Successfully sent (\d)",
    "authorities": r"^Acceptable client certificate CA names\n(.*)$",
    "OCSP": r"OCSP Response Status: (.*)$",
    "status": r"^- Status: (The certificate is (?:NOT )?trusted)",
    "handshake": r"^(- Handshake was completed)$",
    "resumed": r"^(\*\*\* This is a resumed session)$",
    "ready": r"^(- Simple Client Mode:)$",
}


class Seen(NamedTuple):
    """What became of a client, as far as it is the server's doing."""

    echoed: bool
    facts: dict[str, str]


def filled(words: str) -> list[str]:
    """A command line's words, with {pki}, {certs} and so on filled in."""
    return shlex.split(words.format(pki=pki(), certs=CERTS, PSK=PSK, KEY=KEY, keys=keys()))


def keys() -> Path:
    """A PSK file of one client."""
    path = pki() / "keys.psk"
    if not path.exists():
        path.write_text(f"sensor-1:{KEY}\n")
        path.chmod(0o600)
    return path


def seen(command: Sequence[str], seconds: float = SECONDS) -> Seen:
    """Run a client until its line has come back, to its end, or for so long."""
    with running(command) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(LINE)
        child.stdin.flush()
        said, deadline = b"", time.monotonic() + seconds
        while LINE not in said and time.monotonic() < deadline:
            if not select.select([child.stdout], [], [], 0.5)[0]:
                continue
            chunk = os.read(child.stdout.fileno(), 65536)
            if not chunk:
                break
            said += chunk
    text = said.decode("utf-8", "replace")
    facts = {}
    for name, pattern in PATTERNS.items():
        if found := re.search(pattern, text, re.MULTILINE):
            facts[name] = next(group for group in found.groups() if group is not None)
    return Seen(LINE in said, facts)


# --- in the place of gnutls-serv ------------------------------------------------------------------


@contextmanager
def theirs(options: Sequence[str], env: dict[str, str] | None) -> Iterator[int]:
    """gnutls-serv; the port."""
    program = peer_required("gnutls-serv", "apt install gnutls-bin")
    port = free_udp_port()
    with running([program, "--port", str(port), *options], env=env) as child:
        Served(child, port).wait_for(r"listening on IPv4 0\.0\.0\.0 port \d+\.\.\.done\n")
        yield port


@contextmanager
def ours(options: Sequence[str], env: dict[str, str] | None) -> Iterator[int]:
    """serve; the port."""
    with running([*OURS, "serve", "--port", "0", *options], env=env) as child:
        yield int(Served(child, 0).wait_for(r"serving on 0\.0\.0\.0 port (\d+)\n")[1])


def gnutls(options: str, port: int) -> list[str]:
    """gnutls-cli, at the server."""
    trust = ["--x509cafile", f"{pki()}/ca.pem"]
    return [gnutls_cli(), "--udp", "--port", str(port), *trust, *filled(options), "127.0.0.1"]


def s_client(options: str, port: int) -> list[str]:
    """openssl s_client, at the server."""
    command = [openssl(), "s_client", "-dtls1_2", "-connect", f"127.0.0.1:{port}"]
    return [*command, "-CAfile", f"{pki()}/ca.pem", *filled(options)]


# gnutls-serv tells no client why it has failed, and a Finished of another key is answered by nobody
# (RFC 6347 4.1.2.7): a client that is refused may wait for long.
REFUSED_SECONDS = 2.0
SERVER = "--x509certfile {pki}/server.pem --x509keyfile {pki}/server.key"
RSA = "--x509certfile {pki}/server-rsa.pem --x509keyfile {pki}/server-rsa.key"
RAW = "--rawpkkeyfile {pki}/server.key --rawpkfile {pki}/server.pub"
TAKES_RAW = "--insecure --priority NORMAL:-CTYPE-SRV-X509:+CTYPE-SRV-RAWPK"
TRUST = "--x509cafile {pki}/ca.pem"
AS_PSK = "--priority NORMAL:-KX-ALL:+PSK --pskusername sensor-1 --pskkey {KEY}"
AS_CLIENT = "--x509certfile {pki}/client.pem --x509keyfile {pki}/client.key"
AS_STRANGER = "--x509certfile {certs}/stranger.pem --x509keyfile {certs}/stranger.key"

SERVERS: dict[str, tuple[str, str, bool]] = {  # options, a client's, whether it is served
    "ecdsa": (f"-u --echo {SERVER}", "gnutls", True),
    "rsa": (f"--udp --echo {RSA}", "gnutls", True),
    "both, a client of RSA": (
        f"--udp --echo {SERVER} {RSA}",
        "openssl -cipher ECDHE-RSA-AES128-GCM-SHA256",
        True,
    ),
    "both, a client of ECDSA": (
        f"--udp --echo {RSA} {SERVER}",
        "openssl -cipher ECDHE-ECDSA-AES256-GCM-SHA384",
        True,
    ),
    "rsa, a client of DHE alone": (
        f"-u --echo {RSA}",
        "openssl -cipher DHE-RSA-AES256-GCM-SHA384",
        True,
    ),
    "names of former times": (
        "-u --echo --x509ecccertfile {pki}/server.pem --x509ecckeyfile {pki}/server.key",
        "openssl",
        True,
    ),
    "DER": (
        "-u --x509fmtder --x509certfile {pki}/server.der --x509keyfile {pki}/server.key.der",
        "openssl",
        True,
    ),
    "a key with a password": (
        "-u --x509certfile {certs}/localhost.pem --x509keyfile {certs}/localhost-encrypted.key",
        "gnutls --insecure",
        True,
    ),
    "http": (f"-u --http -q {SERVER}", "gnutls", True),
    "what changes nothing": (
        f"-u --echo --crlf --nodb --noticket -d 1 {SERVER}",
        "gnutls",
        True,
    ),
    "priority": (f"-u --echo --priority SECURE256 {SERVER}", "gnutls", True),
    "nothing in common": (
        f"-u --echo --priority NORMAL:-CIPHER-ALL:+AES-256-GCM {SERVER}",
        "openssl -cipher ECDHE-ECDSA-CHACHA20-POLY1305",
        False,
    ),
    "mtu": (f"-u --echo --mtu 600 {SERVER}", "gnutls --mtu 600", True),
    "psk": ("-u --echo --pskpasswd {keys} --priority {PSK}", f"gnutls {AS_PSK}", True),
    "psk with a hint": (
        "-u --echo --pskpasswd {keys} --pskhint plant --priority {PSK}",
        f"gnutls {AS_PSK}",
        True,
    ),
    "psk as the manual has it": (
        "-u --echo --pskpasswd {keys} --priority NORMAL:+ECDHE-PSK:+PSK",
        # Without it: DHE at gnutls-serv, and ECDHE, which costs less, at ours.
        "openssl -psk_identity sensor-1 -psk {KEY} "
        "-cipher ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-PSK-CHACHA20-POLY1305",
        True,
    ),
    "a wrong psk": (
        "-u --echo --pskpasswd {keys} --priority {PSK}",
        "gnutls --priority NORMAL:-KX-ALL:+PSK --pskusername sensor-1 --pskkey 00",
        False,
    ),
    "an unknown identity": (
        "-u --echo --pskpasswd {keys} --priority {PSK}",
        "gnutls --priority NORMAL:-KX-ALL:+PSK --pskusername sensor-2 --pskkey {KEY}",
        False,
    ),
    "psk and certificates": (
        f"-u --echo {SERVER} --pskpasswd {{keys}} --priority NORMAL:+ECDHE-PSK:+PSK",
        f"gnutls {AS_PSK}",
        True,
    ),
    "alpn": (f"-u --echo --alpn coap --alpn echo {SERVER}", "gnutls --alpn echo", True),
    "another alpn": (f"-u --echo --alpn coap {SERVER}", "gnutls --alpn echo", True),
    "another alpn, fatal": (
        f"-u --echo --alpn coap --alpn-fatal {SERVER}",
        "gnutls --alpn echo",
        False,
    ),
    "srtp": (
        f"-u --echo --srtp-profiles SRTP_AES128_CM_HMAC_SHA1_80 {SERVER}",
        "openssl -use_srtp SRTP_AES128_CM_SHA1_32:SRTP_AES128_CM_SHA1_80",
        True,
    ),
    "no alpn, fatal": (f"-u --echo --alpn coap --alpn-fatal {SERVER}", "gnutls", True),
    "alpn of openssl": (f"-u --echo --alpn coap {SERVER}", "openssl -alpn echo,coap", True),
    "a name": (
        f"-u --echo --sni-hostname localhost --sni-hostname-fatal {SERVER}",
        "openssl -servername localhost",
        True,
    ),
    "another name": (
        f"-u --echo --sni-hostname localhost --sni-hostname-fatal {SERVER}",
        "openssl -servername example.org",
        False,
    ),
    "no name": (
        f"-u --echo --sni-hostname localhost --sni-hostname-fatal {SERVER}",
        "openssl -noservername",
        True,
    ),
    "a certificate by name": (
        f"-u --echo {SERVER} --x509certfile {{pki}}/example.pem --x509keyfile {{pki}}/example.key",
        "gnutls --sni-hostname example.org --verify-hostname example.org",
        True,
    ),
    "recordsize": (f"-u --echo --recordsize 1024 {SERVER}", "gnutls", True),
    "clients are asked": (f"-u --echo {SERVER}", f"gnutls {AS_CLIENT}", True),
    "clients are not asked": (f"-u --echo -a {SERVER}", f"gnutls {AS_CLIENT}", True),
    "clients have a certificate": (
        f"-u --echo -r {SERVER}",
        f"gnutls --insecure {AS_STRANGER}",
        True,
    ),
    "clients must have one": (f"-u --echo --require-client-cert {SERVER}", "gnutls", False),
    "a good one": (
        f"-u --echo -r --verify-client-cert {TRUST} {SERVER}",
        f"gnutls {AS_CLIENT}",
        True,
    ),
    "the authorities are named": (
        f"-u --echo -r --verify-client-cert {TRUST} {SERVER}",
        "openssl -cert {pki}/client.pem -key {pki}/client.key",
        True,
    ),
    "a stranger's": (
        f"-u --echo -r --verify-client-cert {TRUST} {SERVER}",
        f"gnutls {AS_STRANGER}",
        False,
    ),
    "one that is revoked": (
        f"-u --echo -r --verify-client-cert {TRUST} --x509crlfile {{pki}}/crl.pem {SERVER}",
        "gnutls --x509certfile {pki}/revoked.pem --x509keyfile {pki}/revoked.key",
        False,
    ),
    "one that is not revoked": (
        f"-u --echo -r --verify-client-cert {TRUST} --x509crlfile {{pki}}/crl.pem {SERVER}",
        f"gnutls {AS_CLIENT}",
        True,
    ),
    "ocsp": (f"-u --echo --ocsp-response {{pki}}/server.ocsp {SERVER}", "openssl -status", True),
    "a raw key": (
        f"-u --echo {RAW} --priority NORMAL:+CTYPE-SRV-RAWPK",
        f"gnutls {TAKES_RAW}",
        True,
    ),
    "a raw key beside a certificate": (
        f"-u --echo {RAW} {SERVER} --priority NORMAL:+CTYPE-SRV-RAWPK",
        "gnutls",
        True,
    ),
    "anonymous, as the manual has it": (
        "-u --http --priority NORMAL:+ANON-ECDH:+ANON-DH",
        "gnutls --priority NORMAL:-KX-ALL:+ANON-ECDH",
        True,
    ),
    "none, where one may be": (f"-u --echo --verify-client-cert {TRUST} {SERVER}", "gnutls", True),
}


@pytest.mark.parametrize("line", SERVERS)
def test_client_sees_the_same_server(line: str) -> None:
    """Served or refused, and what was agreed on, as by gnutls-serv."""
    options, client, served = SERVERS[line]
    program, _, words = client.partition(" ")
    command = {"gnutls": gnutls, "openssl": s_client}[program]
    found = []
    for server in theirs, ours:
        env = {"GNUTLS_PIN": "secret"} if "encrypted" in options else None
        with server(filled(options), env) as port:
            found.append(seen(command(words, port), SECONDS if served else REFUSED_SECONDS))
    assert found[0].echoed is found[1].echoed is served
    if served:
        assert found[1] == found[0]


# --- in the place of gnutls-cli -------------------------------------------------------------------


@pytest.fixture(scope="module")
def ports() -> Iterator[dict[str, int]]:
    """Of servers of three kinds."""
    kinds = {
        "certificate": f"-u --alpn echo --srtp-profiles SRTP_AES128_CM_HMAC_SHA1_32 {SERVER}",
        "names": f"-u --sni-hostname example.org --sni-hostname-fatal {SERVER}",
        "psk": "-u --pskpasswd {keys} --pskhint plant --priority {PSK}",
        "revoked": "-u --x509certfile {pki}/example.pem --x509keyfile {pki}/example.key",
        "anonymous": "-u --priority NORMAL:+ANON-ECDH:+ANON-DH",
        "raw": f"-u {RAW} --priority NORMAL:+CTYPE-SRV-RAWPK",
        "clients": f"-u -r --verify-client-cert {TRUST} {SERVER}",
    }
    with ExitStack() as stack:
        yield {
            kind: stack.enter_context(ours(filled(words), None)) for kind, words in kinds.items()
        }


CLIENTS: dict[str, tuple[str, str, bool]] = {  # server, options, whether it is served
    "trusted": ("certificate", f"--udp -p {{port}} {TRUST} 127.0.0.1", True),
    "by name": ("certificate", f"-u --port={{port}} {TRUST} localhost", True),
    "host and port": ("certificate", f"-u {TRUST} 127.0.0.1:{{port}}", True),
    "options behind the host": ("certificate", f"127.0.0.1 -u -p {{port}} {TRUST}", True),
    "authorities of the system": ("certificate", "-u -p {port} 127.0.0.1", False),
    "insecure": ("certificate", "-u -p {port} --insecure 127.0.0.1", True),
    "no verification": ("certificate", "-u -p {port} --no-ca-verification 127.0.0.1", True),
    "another name": (
        "certificate",
        f"-u -p {{port}} {TRUST} --verify-hostname example.org 127.0.0.1",
        False,
    ),
    "the right name": (
        "certificate",
        f"-u -p {{port}} {TRUST} --verify-hostname localhost 127.0.0.1",
        True,
    ),
    "another authority": (
        "certificate",
        "-u -p {port} --x509cafile {certs}/stranger.pem 127.0.0.1",
        False,
    ),
    "DER": ("certificate", "-u -p {port} --x509fmtder --x509cafile {pki}/ca.der 127.0.0.1", True),
    "priority": (
        "certificate",
        f"-u -p {{port}} {TRUST} --priority NORMAL:-CIPHER-ALL:+CHACHA20-POLY1305 127.0.0.1",
        True,
    ),
    "mtu": ("certificate", f"-u -p {{port}} {TRUST} --mtu 600 127.0.0.1", True),
    "verbose": ("certificate", f"-u -V -p {{port}} {TRUST} 127.0.0.1", True),
    "alpn": ("certificate", f"-u -p {{port}} {TRUST} --alpn echo 127.0.0.1", True),
    "srtp": (
        "certificate",
        f"-u -p {{port}} {TRUST} --srtp-profiles SRTP_AES128_CM_HMAC_SHA1_32 127.0.0.1",
        True,
    ),
    "name": (
        "names",
        f"-u -p {{port}} {TRUST} --sni-hostname example.org localhost",
        True,
    ),
    "a name that is not there": ("names", f"-u -p {{port}} {TRUST} localhost", False),
    "a name that is verified is not sent": (
        "names",
        f"-u -p {{port}} {TRUST} --verify-hostname localhost 127.0.0.1",
        True,
    ),
    "no name": ("names", f"-u -p {{port}} {TRUST} --disable-sni localhost", True),
    "resume": ("certificate", f"-u -r -p {{port}} {TRUST} 127.0.0.1", True),
    "no ticket": (
        "certificate",
        f"-u --noticket --verify-allow-broken -p {{port}} {TRUST} 127.0.0.1",
        True,
    ),
    "a certificate that is revoked": (
        "revoked",
        f"-u -p {{port}} {TRUST} --verify-hostname example.org --x509crlfile {{pki}}/crl.pem "
        "127.0.0.1",
        False,
    ),
    "a certificate that is not revoked": (
        "certificate",
        f"-u -p {{port}} {TRUST} --x509crlfile {{pki}}/crl.pem 127.0.0.1",
        True,
    ),
    "a raw key": ("raw", f"-u -p {{port}} {TAKES_RAW} 127.0.0.1", True),
    "resume by psk": ("psk", f"-u --resume -p {{port}} {AS_PSK} 127.0.0.1", True),
    "recordsize": ("certificate", f"-u -p {{port}} {TRUST} --recordsize 1024 127.0.0.1", True),
    "anonymous": (
        "anonymous",
        "-u -p {port} --resume --priority NORMAL:-KX-ALL:+ANON-ECDH:+ANON-DH 127.0.0.1",
        True,
    ),
    "psk": (
        "psk",
        f"-u -p {{port}} {AS_PSK} 127.0.0.1",
        True,
    ),
    "a wrong psk": (
        "psk",
        "-u -p {port} --priority NORMAL:-KX-ALL:+PSK --pskusername sensor-1 --pskkey 00 127.0.0.1",
        False,
    ),
    "own certificate": ("clients", f"-u -p {{port}} {TRUST} {AS_CLIENT} 127.0.0.1", True),
    "no own certificate": ("clients", f"-u -p {{port}} {TRUST} 127.0.0.1", False),
    "a stranger's certificate": (
        "clients",
        f"-u -p {{port}} {TRUST} {AS_STRANGER} 127.0.0.1",
        False,
    ),
}


@pytest.mark.parametrize("line", CLIENTS)
def test_client_does_the_same(line: str, ports: dict[str, int]) -> None:
    """Connected or not, and the lines that scripts look for, as by gnutls-cli.

    What a certificate is like gnutls-cli says before a handshake has failed, and of one that it is
    to take in any case.
    """
    kind, words, served = CLIENTS[line]
    words = words.replace("{port}", str(ports[kind]))
    told = {"handshake", "ready", "protocol", "resumed", "SRTP"}
    if kind == "certificate" and not re.search("--insecure|--no-ca", words):
        told.add("status")
    found = []
    for program in [gnutls_cli()], [*OURS, "connect"]:
        one = seen([*program, *filled(words)], SECONDS if served else REFUSED_SECONDS)
        found.append((one.echoed, {name: one.facts.get(name) for name in told}))
    assert found[0][0] is served
    assert found[1] == found[0]


@pytest.mark.parametrize("words", ["-u -p 1 127.0.0.1", "-u 127.0.0.1 --nonsense"])
def test_exit_code_of_a_failure(words: str) -> None:
    """Not 0, for either."""
    for program in [gnutls_cli()], [*OURS, "connect"]:
        done = subprocess.run([*program, *filled(words)], capture_output=True, timeout=SECONDS)
        assert done.returncode != 0
