"""What README and docs say of the options of `serve` and `connect`, and what their values mean."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from gnutls_cookie.cli import COMMANDS
from tests.support.common import ROOT, openssl, running, udp_socket
from tests.support.peers import CERTS
from tests.support.serve import CERT, SECONDS, Served, client, command, echoes, serving

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def parser(name: str) -> argparse.ArgumentParser:
    """The parser of a command."""
    import importlib

    made = argparse.ArgumentParser(prog=name)
    module = importlib.import_module(COMMANDS[name].module, "gnutls_cookie")
    module.add_arguments(made)
    return made


def options_of(name: str) -> set[str]:
    """The options in the help of a command."""
    return {
        option
        for action in parser(name)._actions
        if action.help is not argparse.SUPPRESS
        for option in action.option_strings
    } - {"-h", "--help"}


@pytest.mark.parametrize("name", ["serve", "connect"])
def test_page_has_the_options_that_there_are(name: str) -> None:
    """Each in the table, with no other. docs/drop-in.md has those that are not in its help."""
    text = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")
    section = text.split(f"## Options of `{name}`")[1].split("\n## ")[0]
    first_cells = re.findall(r"^\| (`-.*?) \|", section, re.MULTILINE)
    listed = set(re.findall(r"(?<![\w-])(--?[A-Za-z][\w-]*)", " ".join(first_cells)))
    assert listed == options_of(name)


@pytest.mark.parametrize("name", ["serve", "connect"])
def test_defaults_of_the_page(name: str) -> None:
    """The last cell of each line is the default."""
    text = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")
    section = text.split(f"## Options of `{name}`")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`-.*?) \| .* \| (.*?) ?\|$", section, re.MULTILINE)
    made = parser(name)
    known = 0
    for cell, said in rows:
        option = re.findall(r"--[a-z][\w-]*", cell)[0]
        default = made.get_default(option[2:].replace("-", "_"))
        if re.fullmatch(r"[\d.]+", said) and option != "--mtu":  # libgnutls' own
            assert str(default) in (said, f"{said}.0"), cell
            known += 1
    assert known >= 2


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.name))
def test_command_lines_of_the_guides_are_understood(page: Path) -> None:
    """Every `gnutls-cookie serve` and `connect` in a block of a page."""
    text = page.read_text(encoding="utf-8")
    for block in re.findall(r"```(?:sh|ini)\n(.*?)```", text, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            found = re.match(r"\s*(?:\S*=)?\S*gnutls-cookie (serve|connect) (.*)", line)
            if found:
                words = found[2].removesuffix(" &")
                parser(found[1]).parse_args(shlex.split(words, comments=True))


# --- values ---------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[int, str]] = {
    "--idle-timeout nan": (2, "--idle-timeout must be above 0, not nan"),
    "--idle-timeout 0": (2, "--idle-timeout must be above 0"),
    "--idle-timeout=-inf": (2, "--idle-timeout must be above 0"),
    "--idle-timeout soon": (2, "--idle-timeout: 'soon' is not a number"),
    "--handshake-timeout inf": (2, "0.001..4000000 seconds, not inf"),
    "--handshake-timeout nan": (2, "0.001..4000000 seconds, not nan"),
    "--handshake-timeout 1_0": (2, "--handshake-timeout: '1_0' is not a number"),
    "--max-handshakes \u0665": (2, "is not a whole number"),
    "--handshake-timeout 0": (2, "0.001..4000000 seconds"),
    "--stats nan": (2, "--stats must be above 0, not nan"),
    "--stats inf": (2, "--stats must be above 0.01 and finite"),
    "--stats 0.0001": (2, "--stats must be above 0.01"),
    "--stats=-1": (2, "--stats must be above 0"),
    "--rotate inf": (2, "--rotate: a key's life must be in 1..2147483647 seconds, not 'inf'"),
    "--rotate nan": (2, "--rotate: a key's life must be in 1..2147483647 seconds"),
    **{
        f"--rotate={life}": (2, "--rotate: a key's life must be in 1..2147483647 seconds")
        for life in ("-1", "0.99", "1e999", "x", "''", "9" * 5000)
    },
    "--rotate 0.5": (2, "--rotate: a key's life must be in 1..2147483647 seconds"),
    f"--rotate {'9' * 23}": (2, "--rotate: a key's life must be in 1..2147483647 seconds"),
    "--rotate \u0665\u0665": (2, "--rotate: a key's life must be in 1..2147483647 seconds"),
    "--pskpasswd /nowhere --x509cafile /nowhere": (2, "--x509cafile needs --x509certfile"),
    "--x509cafile /nowhere": (2, "--x509cafile needs --x509certfile"),
    "--x509certfile a --x509keyfile b --pskhint c": (2, "--pskhint needs --pskpasswd"),
    "--rawpkkeyfile a --pskhint c": (2, "--pskhint needs --pskpasswd"),
    "--pskpasswd /nowhere --ocsp-response x": (2, "--ocsp-response needs --x509certfile"),
    "--rawpkkeyfile /nowhere --ocsp-response x": (2, "--ocsp-response needs --x509certfile"),
    "--x509certfile a --x509keyfile b --ocsp-response x --ocsp-response y": (2, "one for each"),
    "-u -r": (2, "--require-client-cert needs --x509certfile"),
    "-u -r --pskpasswd /nowhere": (2, "--require-client-cert needs --x509certfile"),
    f"--x509keyfile {CERTS / 'localhost.key'}": (2, "go together"),
    "--x509certfile /nowhere/a.pem --x509keyfile /nowhere/a.key": (2, "/nowhere"),
    "--pskpasswd /dev/null": (2, "no keys in it"),
    "--cookie-secret-file /dev/null": (2, "at least 16 bytes"),
    "--stats 0": (2, "--stats must be above 0"),
    "--priority NONSENSE": (2, "priority is not understood"),
    "--pskpasswd /proc/self/mem": (2, "/proc/self/mem: Input/output error"),
    "--cookie-secret-file /proc/self/mem": (2, "/proc/self/mem: Input/output error"),
    "--pskpasswd ''": (2, "argument --pskpasswd: the name of a file is needed, not ''"),
    "--x509certfile ''": (2, "argument --x509certfile: the name of a file is needed"),
    "--cookie-secret-file ''": (2, "argument --cookie-secret-file: the name of a file"),
    "--metrics a..b:1": (2, "--metrics: no name of a host has such a label"),
    "--metrics *:0": (2, "--metrics: HOST:PORT or [ADDRESS]:PORT is needed"),
    "--max-sessions 99999999999999999999": (2, "--max-sessions must be in 1..4294967295"),
    "--max-sessions=-1": (2, "--max-sessions must be in 1..4294967295"),
    "--max-sessions 1e3": (2, "--max-sessions: '1e3' is not a whole number"),
    "--mtu 65508": (2, "mtu must be in 128..65507"),
    "--mtu abc": (2, "a whole number of bytes is needed, not 'abc'"),
    "--recordsize -1": (2, "a whole number of bytes is needed, not '-1'"),
    "--mtu 99999999999999999999": (2, "mtu must be in 128..65507"),
    "--port 65536": (2, "a port must be in 0..65535, not '65536'"),
    "--port=-1": (2, "a port must be in 0..65535"),
    "--port 56_84": (2, "a port must be in 0..65535"),
    "--port \u0665\u0665": (2, "a port must be in 0..65535"),
    "--port coaps": (2, "a port must be in 0..65535"),
    "--port ''": (2, "a port must be in 0..65535"),
    "--port 99999999999999999999999999": (2, "a port must be in 0..65535"),
    "--workers 1025": (2, "workers must be in 1..1024"),
    "--workers 1.5": (2, "workers must be in 1..1024"),
    "--host ''": (2, "--host must be a name or an address, not ''"),
    "--host ' '": (2, "--host must be a name or an address"),
    f"--host {'x' * 70}.invalid": (2, "--host must be a name or an address"),
    "--host a..b": (2, "--host must be a name or an address"),
    "--host ::1%nosuchzone": (1, "cannot serve on ::1%nosuchzone port 0: "),
    "--host 192.0.2.1": (1, "cannot serve on 192.0.2.1 port 0: "),
    "--host 1.2.3.4.5": (1, "cannot serve on 1.2.3.4.5 port 0: "),
    "--host 'a\nb'": (1, r"cannot serve on a\nb port 0: "),
    "--priority NORMAL": (2, "priority allows no key exchange with a shared key"),
    "--priority ''": (2, "priority"),
    "--no-such-option": (2, "unrecognized arguments: --no-such-option"),
    "word": (2, "unrecognized arguments: word"),
    "--stat 5 --nosuch": (2, "unrecognized arguments: --nosuch"),
    "--recordsize 511": (2, "record_size must be in 512..16384"),
    "--keymatexportsize 0": (2, "--keymatexportsize must be in 1..65535"),
    f"--keymatexport {'x' * 129}": (2, "a label must be of 1..128 bytes, not 129"),
    f"--alpn {'x' * 32}": (2, "alpn must have names of 1..31 bytes"),
    "--sni-hostname '' --sni-hostname-fatal": (2, "server_names"),
    "--sni-hostname ''": (2, "server_names must be of 1..65535 bytes, not 0"),
    f"--sni-hostname {'x' * 256}": (2, "server_names must be of 1..255 bytes, not 256"),
    f"--sni-hostname {'x' * 66000}": (2, "server_names must be of 1..65535 bytes, not 66000"),
    "--debug=-1": (2, "--debug must be in 0..9999"),
    "-d 10000": (2, "--debug must be in 0..9999"),
    "--x509crlfile /nowhere": (2, "--x509crlfile needs --x509cafile"),
    "--rawpkfile /nowhere": (2, "--rawpkfile needs --rawpkkeyfile"),
    "--rawpkkeyfile /nowhere": (2, "/nowhere: No such file or directory"),
    "--x509certfile pkcs11:token=none --x509keyfile pkcs11:token=none": (2, "credentials: "),
    "-u -r --priority NORMAL:+ANON-ECDH": (2, "--require-client-cert excludes anonymous key"),
    "-u -a -r": (2, "not allowed with argument"),
    "-u --verify-client-cert": (2, "--verify-client-cert needs --x509cafile"),
    "-r": (2, "--require-client-cert needs --x509cafile"),
    "-u --mtu 17": (2, "mtu must be in 128..65507"),
    "--x509": (2, "ambiguous option"),
    "--x509cert": (2, "expected one argument"),
}


@pytest.mark.parametrize("words", REFUSED)
def test_value_that_cannot_be(words: str, capfd: pytest.CaptureFixture[str]) -> None:
    """One line that names it, and the exit code; in process: nothing gets as far as serving."""
    from gnutls_cookie.cli import main

    code, text = REFUSED[words]
    got: object
    try:
        got = main(["serve", "--port", "0", *shlex.split(words)])
    except SystemExit as ended:
        got = ended.code
    said = capfd.readouterr()
    assert (got, said.out) == (code, ""), said.err
    assert text in said.err
    assert re.fullmatch(r"gnutls-cookie serve: [^\n]+\n", said.err)


@pytest.mark.parametrize(
    ("options", "address"),
    [
        (["--host", "0"], "0.0.0.0"),
        (["--host", "127.1"], "127.0.0.1"),
        (["--host", "localhost"], r"(?:127\.0\.0\.1|::1)"),
        (["--idle-timeout", "inf"], "127.0.0.1"),
        (["--idle-timeout", "1e300", "--rotate", "2147483647"], "127.0.0.1"),
        (["--max-sessions", "4294967295", "--mtu", "65507"], "127.0.0.1"),
    ],
)
def test_value_with_a_meaning(options: list[str], address: str) -> None:
    """As the page says: it serves, where it says so."""
    if "localhost" in options:
        try:
            socket.getaddrinfo("localhost", 0)
        except socket.gaierror:
            pytest.skip("this machine does not know localhost: no /etc/hosts, and an old C library")
    with serving(*options, *CERT) as served:
        assert re.search(rf"serving on {address} port".encode(), served.said)
        host = "::1" if b"serving on ::1" in served.said else "127.0.0.1"
        with client(served.port, host=host) as connection:
            assert echoes(connection)
        assert served.end() == 0


def test_name_whose_first_address_cannot_be_bound() -> None:
    """The next one is taken, as other servers do."""
    fault = (
        "import socket\nreal = socket.getaddrinfo\n"
        "def getaddrinfo(host, port, *a, **k):\n"
        "    return real('192.0.2.1', port, *a, **k) + real('127.0.0.1', port, *a, **k)\n"
        "socket.getaddrinfo = getaddrinfo\n"
    )
    for workers in "1", "2":
        with serving("--host", "x", "--workers", workers, *CERT, fault=fault) as served:
            with client(served.port) as connection:
                assert echoes(connection)
            assert served.end() == 0


# --- a socket from systemd ------------------------------------------------------------------------

# Puts a socket where systemd would, and becomes the rest of the command line.
ACTIVATE = """
import os, socket, sys
kind, fds = sys.argv[1:3]
made = {
    "stream": lambda: socket.create_server(("127.0.0.1", 0)),
    "udp": lambda: bound(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)),
    "unbound": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
    "unix": lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0],
    "unix stream": lambda: socket.socketpair()[0],
    "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM),
    "file": lambda: open("/dev/null"),
    "closed": lambda: None,
}
def bound(sock):
    sock.bind(("127.0.0.1", 0))
    return sock
one = made[kind]()
if one is None:
    os.closerange(3, 10)
elif one.fileno() != 3:
    os.dup2(one.fileno(), 3)
if one is not None:
    os.set_inheritable(3, True)
os.environ |= {"LISTEN_FDS": fds, "LISTEN_PID": str(os.getpid())}
os.execv(sys.executable, [sys.executable, *sys.argv[3:]])
"""


@pytest.mark.parametrize(
    ("kind", "fds", "options", "text"),
    [
        ("stream", "1", [], "a UDP socket is needed (ListenDatagram=), not AF_INET SOCK_STREAM"),
        ("unix", "1", [], "a UDP socket is needed (ListenDatagram=), not AF_UNIX SOCK_DGRAM"),
        ("unix stream", "1", [], "not AF_UNIX SOCK_STREAM"),
        ("netlink", "1", [], "not AF_NETLINK SOCK_DGRAM"),
        ("file", "1", [], "descriptor 3 is not a socket"),
        ("closed", "1", [], "descriptor 3 is not a socket"),
        ("unbound", "1", [], "not bound to a port"),
        ("udp", "2", [], "descriptor 4 is not a socket"),
        ("udp", "3", ["--workers", "2"], "LISTEN_FDS='3'"),
        ("udp", "0", [], "LISTEN_FDS='0'"),
        ("udp", "", [], "LISTEN_FDS=''"),
        ("udp", "many", [], "LISTEN_FDS='many'"),
        ("udp", "-1", [], "LISTEN_FDS='-1'"),
        ("udp", "1", ["--workers", "2"], "--workers 2"),
    ],
)
def test_wrong_socket_of_systemd(kind: str, fds: str, options: list[str], text: str) -> None:
    """One line that says what is needed, exit code 2."""
    words = [*command(*options, *CERT)[1:]]
    done = subprocess.run(
        [sys.executable, "-c", ACTIVATE, kind, fds, *words],
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert (done.returncode, done.stdout) == (2, "")
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("gnutls-cookie serve: socket activation")
    assert text in lines[0]


def test_right_socket_of_systemd_for_another_process() -> None:
    """LISTEN_PID of another one: the variables are not for this process."""
    with udp_socket() as sock:
        env = {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}
        with running(command(*CERT), env=env) as child:
            served = Served(child, 0)
            found = served.wait_for(r"serving on \S+ port (\d+)\n")
            assert int(found[1]) != sock.getsockname()[1]
            assert served.end() == 0


# --- certificates ---------------------------------------------------------------------------------

RSA, ECDSA = (str(CERTS / name) for name in ("localhost-rsa", "localhost"))


def pair(name: str) -> list[str]:
    """The two options of a certificate of tests/certs."""
    return ["--x509certfile", f"{name}.pem", "--x509keyfile", f"{name}.key"]


@pytest.mark.peer
@pytest.mark.parametrize("first", ["RSA", "ECDSA"])
def test_certificates_of_two_kinds(first: str) -> None:
    """`openssl s_client` with one kind of signature gets the certificate of that kind."""
    pairs = pair(RSA) + pair(ECDSA) if first == "RSA" else pair(ECDSA) + pair(RSA)
    with serving(*pairs) as served:
        for kind in "RSA", "ECDSA":
            words = [openssl(), "s_client", "-dtls1_2", "-sigalgs", f"{kind}+SHA256", "-brief"]
            words += ["-connect", f"127.0.0.1:{served.port}"]
            done = subprocess.run(
                words, input=b"", capture_output=True, timeout=SECONDS, check=False
            )
            said = done.stderr.decode().lower()  # OpenSSL 3.5: "ecdsa_secp256r1_sha256"
            assert f"signature type: {kind.lower()}" in said, said
        assert served.end() == 0


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (pair(RSA)[:2] + pair(ECDSA), "go together: 2 and 1 are given"),
        (pair(RSA)[:2], "go together: 1 and 0 are given"),
        (pair(RSA)[2:] + pair(ECDSA), "go together: 1 and 2 are given"),
        (
            ["--x509certfile", f"{RSA}.pem", *pair(ECDSA), "--x509keyfile", f"{RSA}.key"],
            "do not match",
        ),
    ],
)
def test_certificates_and_keys_that_do_not_go_together(
    options: list[str], text: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Unequal numbers; pairs that are paired otherwise than in order."""
    from gnutls_cookie.cli import main

    assert main(["serve", "--port", "0", *options]) == 2
    said = capfd.readouterr().err
    assert re.fullmatch(rf"gnutls-cookie serve: .*{text}.*\n", said), said


def test_udp_port_in_use_is_named() -> None:
    """With workers too, whose sockets share a port among themselves alone."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port = str(sock.getsockname()[1])
        for workers in "1", "2":
            words = [sys.executable, "-m", "gnutls_cookie", "serve", "--port", port]
            done = subprocess.run(
                [*words, "--workers", workers], capture_output=True, text=True, timeout=SECONDS
            )
            assert done.returncode == 1
            assert done.stderr == (
                f"gnutls-cookie serve: cannot serve on 127.0.0.1 port {port}: "
                "Address already in use\n"
            )
