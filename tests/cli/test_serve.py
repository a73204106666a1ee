"""The commands serve and connect, as processes: beside gnutls-serv, with signals, with workers."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gnutls_cookie import HELLO_VERIFY_REQUEST_SIZE, GnuTLSError
from gnutls_cookie.blocking import connect
from gnutls_cookie.cli.credentials import secret_file
from gnutls_cookie.reference import wire
from tests.support.common import (
    free_udp_port,
    gnutls_cli,
    openssl,
    peer_required,
    running,
    udp_socket,
)
from tests.support.peers import CERTS, IDENTITY, PSK_KEY, trusting
from tests.support.serve import CERT, LINE, SECONDS, Served, client, echoes, serving, workers_of

TRUST = str(CERTS / "localhost.pem")
PSK_PRIORITY = "NORMAL:-KX-ALL:+ECDHE-PSK:+DHE-PSK:+PSK"


@pytest.fixture
def pskpasswd(tmp_path: Path) -> str:
    """A file of keys as psktool writes it."""
    path = tmp_path / "psk.txt"
    path.write_text(f"{IDENTITY}:{PSK_KEY.hex()}\n")
    return str(path)


@contextmanager
def gnutls_serv(*options: str) -> Iterator[Served]:
    """gnutls-serv --udp on a free port."""
    program = peer_required("gnutls-serv", "apt install gnutls-bin")
    taken = True
    while taken:
        port = free_udp_port()
        with running([program, "--udp", "--port", str(port), *options]) as child:
            served = Served(child, port)
            found = served.wait_for(r"listening on IPv4 .*(done|bind\(\) failed)")
            taken = found[1] != b"done"  # by another test, since it was free
            if not taken:
                yield served


def talk(command: list[str]) -> bytes:
    """Run a client program, give it a line, and wait until that comes back."""
    with running(command) as child:
        assert child.stdin is not None
        served = Served(child, 0)
        child.stdin.write(LINE)
        child.stdin.flush()
        served.wait_for(r"(?m)^hello, cookie")
        child.stdin.close()
        child.stdin = None
        child.wait(SECONDS)
        return served.said


# --- in the place of gnutls-serv ------------------------------------------------------------------

OPENSSL_X509 = ["-CAfile", TRUST, "-verify_return_error"]
CLI_X509 = ["--x509cafile", TRUST, "--sni-hostname", "localhost", "--verify-hostname", "localhost"]

# Options of the server, the same for both; and a client of it.
COMMAND_LINES: dict[str, tuple[list[str], Callable[[int], list[str]]]] = {
    "X.509, s_client": (
        [*CERT, "--echo"],
        lambda port: [openssl(), "s_client", "-dtls1_2", "-connect", f"127.0.0.1:{port}",
                      *OPENSSL_X509],
    ),
    "X.509, gnutls-cli": (
        [*CERT, "--echo"],
        lambda port: [gnutls_cli(), "--udp", "--port", str(port), *CLI_X509, "127.0.0.1"],
    ),
    "X.509, MTU, priority, gnutls-cli": (
        [*CERT, "--mtu", "600", "--priority", "NORMAL:-VERS-ALL:+VERS-DTLS1.2", "-a", "--echo"],
        lambda port: [gnutls_cli(), "--udp", "--mtu", "600", "--port", str(port), *CLI_X509,
                      "127.0.0.1"],
    ),
    "X.509, quiet, no tickets, no cache, s_client": (
        [*CERT, "--quiet", "--noticket", "--nodb", "--echo", "--disable-client-cert"],
        lambda port: [openssl(), "s_client", "-dtls1_2", "-connect", f"127.0.0.1:{port}",
                      *OPENSSL_X509],
    ),
    "PSK, s_client": (
        ["--pskpasswd", "PSKPASSWD", "--priority", PSK_PRIORITY, "--echo"],
        lambda port: [openssl(), "s_client", "-dtls1_2", "-connect", f"127.0.0.1:{port}",
                      "-psk_identity", IDENTITY, "-psk", PSK_KEY.hex()],
    ),
    "PSK with a hint, s_client": (
        ["--pskpasswd", "PSKPASSWD", "--pskhint", "who?", "--priority", PSK_PRIORITY, "--echo"],
        lambda port: [openssl(), "s_client", "-dtls1_2", "-connect", f"127.0.0.1:{port}",
                      "-psk_identity", IDENTITY, "-psk", PSK_KEY.hex()],
    ),
}  # fmt: skip


@pytest.mark.peer
@pytest.mark.parametrize("case", COMMAND_LINES)
def test_same_command_lines_as_gnutls_serv(case: str, pskpasswd: str) -> None:
    """A client's command line that gnutls-serv serves is served by the same options here."""
    options, command = COMMAND_LINES[case]
    options = [pskpasswd if word == "PSKPASSWD" else word for word in options]
    with gnutls_serv(*options) as theirs:
        assert LINE.strip() in talk(command(theirs.port))
    with serving("--udp", *options) as ours:
        assert LINE.strip() in talk(command(ours.port))
        assert ours.end() == 0


@pytest.mark.peer
def test_a_byte_that_makes_gnutls_serv_spin() -> None:
    """After one datagram of one byte gnutls-serv burns CPU and serves nobody; this one goes on."""

    def cpu_seconds(pid: int) -> float:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def spins(pid: int, seconds: float) -> bool:
        """Whether it burns a fifth of a second; a quiet one burns nothing."""
        before, deadline = cpu_seconds(pid), time.monotonic() + seconds
        while time.monotonic() < deadline:
            time.sleep(0.1)
            if cpu_seconds(pid) - before > 0.2:
                return True
        return False

    def challenged(port: int) -> bool:
        with udp_socket() as sock:
            sock.settimeout(1)
            sock.connect(("127.0.0.1", port))
            for _ in range(20):
                try:
                    sock.send(wire.client_hello())
                    return len(sock.recv(2048)) == HELLO_VERIFY_REQUEST_SIZE
                except TimeoutError:
                    return False
                except ConnectionRefusedError:
                    time.sleep(0.1)  # it has not bound its port yet
            return False

    if not Path("/proc/self/stat").exists():
        pytest.skip("no /proc here")
    program = peer_required("gnutls-serv", "apt install gnutls-bin")
    port = free_udp_port()
    # Its output goes nowhere: a full pipe would stop it from spinning.
    theirs = subprocess.Popen(
        [program, "--udp", "--port", str(port), *CERT, "--echo"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with serving(*CERT) as ours, udp_socket() as sock:
            assert challenged(port)
            assert challenged(ours.port)
            for number in port, ours.port:
                sock.sendto(b"\x16", ("127.0.0.1", number))
            assert spins(theirs.pid, SECONDS)
            assert not spins(ours.child.pid, 1)
            assert not challenged(port)
            assert challenged(ours.port)
            with client(ours.port) as connection:
                assert echoes(connection)
    finally:
        theirs.kill()
        theirs.wait()


@pytest.mark.peer
def test_the_commands_that_it_prints() -> None:
    """Without credentials a PSK is made, and the printed command lines are right as they stand."""
    with serving() as served:
        served.wait_for("gnutls-cli.*\n")
        lines = re.findall(r"^  (.*)$", served.said.decode(), re.MULTILINE)
        assert [line.split()[0] for line in lines] == ["gnutls-cookie", "openssl", "gnutls-cli"]
        for line in lines:
            words = shlex.split(line)
            if words[0] == "gnutls-cookie":
                words = [sys.executable, "-m", "gnutls_cookie", *words[1:]]
            else:
                peer_required(words[0], "apt install openssl gnutls-bin")
            with running(words) as child:
                assert child.stdin is not None
                child.stdin.write(LINE)
                child.stdin.flush()
                Served(child, 0).wait_for(LINE.decode())


# --- signals and workers --------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", [1, 3])
def test_goodbye_to_every_client(number: signal.Signals, workers: int) -> None:
    """SIGTERM and SIGINT: each client sees close_notify, the exit code is 0."""
    with serving(*CERT, "--workers", str(workers)) as served:
        clients = [client(served.port) for _ in range(10)]
        assert all(echoes(one) for one in clients)
        assert served.end(number) == 0
        assert [one.receive(timeout=SECONDS) for one in clients] == [None] * 10
        assert all(one.session.peer_closed for one in clients)
        for one in clients:
            one.close()


def test_sighup_reads_everything_again(tmp_path: Path) -> None:
    """New certificate, new secret; old sessions go on; what is broken changes nothing."""
    certificate, key, secret = (tmp_path / name for name in ("cert.pem", "key.pem", "secret"))

    def put(name: str) -> None:
        certificate.write_bytes((CERTS / f"{name}.pem").read_bytes())
        key.write_bytes((CERTS / f"{name}.key").read_bytes())
        secret.write_bytes(name.encode() * 4)
        secret.chmod(0o600)

    def shown(port: int) -> bytes | None:
        options = {"credentials": trusting(), "verify_peer": False}
        with connect("127.0.0.1", port, **options) as connection:  # type: ignore[arg-type]
            return connection.session.peer_certificate

    put("localhost")
    files = ["--x509certfile", str(certificate), "--x509keyfile", str(key)]
    with serving(*files, "--cookie-secret-file", str(secret)) as served:
        with client(served.port) as old:
            first = shown(served.port)
            put("stranger")
            served.child.send_signal(signal.SIGHUP)
            served.wait_for("INFO read anew")
            second = shown(served.port)
            assert first != second
            assert echoes(old)
            for broken in certificate, secret:
                put("localhost")
                broken.write_bytes(b"broken")
                served.said = b""
                served.child.send_signal(signal.SIGHUP)
                served.wait_for("ERROR not read anew")
                assert shown(served.port) == second
        assert served.end() == 0


def test_workers_are_watched() -> None:
    """A worker that dies is restarted on its socket; without their parent all of them end."""
    with serving("--workers", "2", *CERT) as served:
        workers = workers_of(served)
        assert len(workers) == 2
        os.kill(workers[0], signal.SIGKILL)
        served.wait_for(r"worker 0 ended \(SIGKILL\)")
        for _ in range(8):  # of both sockets
            with client(served.port) as connection:
                assert echoes(connection)
        again = workers_of(served)
        assert len(again) == 2
        assert again != workers
        served.child.kill()
        served.child.wait(SECONDS)
        deadline = time.monotonic() + SECONDS
        while any(Path(f"/proc/{pid}/fd/0").exists() for pid in again):
            assert time.monotonic() < deadline, "workers outlive their parent"
            time.sleep(0.02)


def test_socket_of_systemd() -> None:
    """A socket that was passed on as by sd_listen_fds(3) is served."""
    with udp_socket() as sock:
        port = sock.getsockname()[1]
        become = (
            "import os, sys; os.dup2(int(sys.argv[1]), 3);"
            "os.environ |= {'LISTEN_FDS': '1', 'LISTEN_PID': str(os.getpid())};"
            "os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
        )
        serve = ["-m", "gnutls_cookie", "serve", *CERT]
        child = subprocess.Popen(
            [sys.executable, "-c", become, str(sock.fileno()), *serve],
            pass_fds=[sock.fileno()],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        served = Served(child, port)
        try:
            served.wait_for(f"serving on 127.0.0.1 port {port}\n")
            with client(port) as connection:
                assert echoes(connection)
            assert served.end() == 0
        finally:
            child.kill()
            child.communicate()


# --- what it prints, and what it refuses ----------------------------------------------------------


def test_counters_as_json(pskpasswd: str) -> None:
    """Each line is an object, of the log too; the last one has everything that happened."""
    command = [sys.executable, "-m", "gnutls_cookie", "serve", "--port", "0", "--json"]
    command += ["--stats", "0.1", "--pskpasswd", pskpasswd]
    with running(command) as child:
        served = Served(child, 0)
        first = json.loads(served.wait_for(r"\{\"serving.*\}\n")[0])
        assert first["serving"] == "127.0.0.1"
        with udp_socket() as sock:
            sock.sendto(b"junk", ("127.0.0.1", first["port"]))
        with client(first["port"], "PSK") as connection:
            assert echoes(connection)
        assert served.end() == 0
        said = [json.loads(line) for line in served.said.splitlines()]
    logged = [one for one in said if "level" in one]
    assert all(one.keys() == {"time", "level", "message"} for one in logged)
    assert any(one["message"].endswith(": ended") for one in logged)
    last = [one for one in said if one not in logged][-1]
    assert last["worker"] == 0
    assert last["gate"]["verified"] == 1
    assert last["gate"]["discarded"] == {"record_header": 1}
    assert last["server"]["connected"] == last["server"]["messages_received"] == 1
    assert last["server"]["last_error"] is None
    assert last["send_errors"] == 0


def test_nothing_is_logged_for_strangers() -> None:
    """A flood of challenges and junk leaves no line behind, at the highest level of logging."""
    with serving("--debug", "9", *CERT) as served, udp_socket() as sock:
        sock.connect(("127.0.0.1", served.port))
        before = served.said
        for number in range(100):
            sock.send(wire.client_hello(cookie=bytes(16), record_seq=number))
            sock.recv(2048)
            sock.send(b"junk")
        assert served.end() == 0
        new = served.said[len(before) :].decode()
    asyncios_own = re.compile("Selector|selector|WARNING Executing .* took ")  # a slow machine
    assert [line for line in new.splitlines() if not asyncios_own.search(line)] == []


@pytest.mark.parametrize("workers", [1, 2])
def test_failed_handshakes_are_logged_at_a_bounded_rate(workers: int) -> None:
    """Who, and why, in one line each; of sixty at once a few, and how many more there were."""
    with serving("--workers", str(workers), *CERT) as served:
        for _ in range(60):
            with pytest.raises(GnuTLSError):
                connect(
                    "127.0.0.1",
                    served.port,
                    credentials=trusting(),
                    server_name="localhost",
                    priority="NORMAL:-VERS-ALL:+VERS-DTLS1.2:-CIPHER-ALL:+AES-128-CCM-8",
                    handshake_timeout=SECONDS,
                )
        assert served.end() == 0
    lines = [line for line in served.said.decode().splitlines() if "handshake failed" in line]
    assert re.fullmatch(r"INFO 127\.0\.0\.1 port \d+: handshake failed: .*NO_CIPHER.*", lines[0])
    assert 5 <= len(lines) < 60
    assert "Traceback" not in served.said.decode()


def test_file_of_a_secret(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """White space at the end is none of it; that others can read it is worth a warning."""
    path = tmp_path / "secret"
    path.write_bytes(b"sixteen bytes ok\r\n")
    path.chmod(0o600)
    assert secret_file(path) == b"sixteen bytes ok"
    assert caplog.text == ""
    path.chmod(0o644)
    secret_file(path)
    assert "others than its owner can read it" in caplog.text


# --- connect --------------------------------------------------------------------------------------


def connecting(*options: str, lines: bytes = LINE) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-X", "dev", "-m", "gnutls_cookie", "connect", *options]
    return subprocess.run(command, input=lines, capture_output=True, timeout=SECONDS)


def test_connect_passes_lines(pskpasswd: str) -> None:
    """Each line is a message, the last one without its end too; the echo comes out."""
    with serving("--pskpasswd", pskpasswd, *CERT) as served:
        psk_options = ["--pskusername", IDENTITY, "--pskkey", PSK_KEY.hex()]
        where = ["127.0.0.1", str(served.port)]
        done = connecting(*psk_options, *where, lines=b"one\ntwo\nthree")
        assert sorted(done.stdout.split()) == [b"one", b"three", b"two"]
        assert done.returncode == 0
        trust = ["--x509cafile", TRUST, "--verify-hostname", "localhost"]
        assert connecting(*trust, *where).stdout == LINE
        assert connecting("--insecure", *where).stdout == LINE


def test_connect_with_a_key_and_authorities_uses_both(pskpasswd: str) -> None:
    """As gnutls-cli: the server chooses, and an option that was given counts."""
    options = ["--pskusername", IDENTITY, "--pskkey", PSK_KEY.hex()]
    options += ["--x509cafile", TRUST, "--verify-hostname", "localhost"]
    for credentials, signed in (CERT, True), (["--pskpasswd", pskpasswd], False):
        with serving(*credentials) as served:
            done = connecting(*options, "127.0.0.1", str(served.port))
        assert done.stdout == LINE
        assert (b"ECDSA" in done.stderr) is signed


def test_connect_ends_with_the_server() -> None:
    """The server's goodbye ends it while stdin is still open."""
    with serving(*CERT) as served:
        command = [sys.executable, "-m", "gnutls_cookie", "connect", "--insecure"]
        with running([*command, "127.0.0.1", str(served.port)]) as child:
            said = Served(child, 0)
            said.wait_for("INFO connected")
            assert served.end() == 0
            said.wait_for("the server said goodbye")
            assert child.wait(SECONDS) == 0
