"""`connect` as a tool among others: its standard files, its lines, its end."""

from __future__ import annotations

import contextlib
import os
import random
import re
import select
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gnutls_cookie.cli.connect import _pieces
from tests.support.common import free_udp_port, running, udp_socket
from tests.support.serve import CERT, LINE, SECONDS, Served, serving, wait_until

CONNECT = [sys.executable, "-X", "dev", "-m", "gnutls_cookie", "connect", "--insecure"]
CONNECTED = rb"INFO connected: [^\n]*\n"


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Of an echo server."""
    with serving(*CERT, "--quiet") as served:
        yield served.port


def run(port: int, *options: str, redirect: str = "", **more: object) -> tuple[int, bytes, bytes]:
    """Run it to its end: exit code, stdout and stderr (without the line that says "connected")."""
    words = [*CONNECT, *options, "127.0.0.1", str(port)]
    if redirect:
        words = ["sh", "-c", f'exec "$@" {redirect}', "sh", *words]
    more = {"capture_output": True, "timeout": SECONDS} | more
    done = subprocess.run(words, **more)  # type: ignore[call-overload]
    err = done.stderr or b""
    assert b"Traceback" not in err, err.decode()
    return done.returncode, done.stdout or b"", re.sub(CONNECTED, b"", err)


# --- stdin ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("redirect", ["<&-", "</dev/null", "<&- 2>&-"])
def test_no_stdin(port: int, redirect: str) -> None:
    """Closed, or at its end: connected, and ended with 0."""
    assert run(port, "--wait", "0.1", redirect=redirect) == (0, b"", b"")


def test_non_blocking_stdin(port: int) -> None:
    """As another program may have left it: waited for, and not taken for broken."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    words = [*CONNECT, "127.0.0.1", str(port)]
    with subprocess.Popen(words, stdin=reading, stdout=subprocess.PIPE) as child:
        time.sleep(1)
        os.write(writing, LINE)
        assert child.stdout is not None
        assert child.stdout.readline() == LINE
        os.close(writing)
        assert child.wait(SECONDS) == 0
    os.close(reading)


def test_stdin_that_cannot_be_read(port: int) -> None:
    """One that is open for writing alone: one line, exit code 1."""
    assert run(port, "--wait", "0.1", redirect="0>/dev/null") == (
        1,
        b"",
        b"gnutls-cookie connect: stdin: Bad file descriptor\n",
    )


def test_file_as_stdin(port: int, tmp_path: Path) -> None:
    """Its lines come back, binary ones too, the last one without its end."""
    content = b"one\n\0\xff\x1b[31m\n\nlast"
    path = tmp_path / "lines"
    path.write_bytes(content)
    code, out, err = run(port, redirect=f"<{shlex.quote(str(path))}")
    assert (code, sorted(out.splitlines()), err) == (0, sorted(content.splitlines()), b"")


@pytest.mark.parametrize("size", [1163, 1164, 5000, 20_000])
def test_line_longer_than_a_datagram_carries(port: int, size: int) -> None:
    """Sent in parts, one datagram each."""
    line = random.Random(size).randbytes(size).replace(b"\n", b" ") + b"\n"
    code, out, err = run(port, input=line)
    assert (code, len(out), err) == (0, len(line), b"")
    assert sorted(out) == sorted(line)  # loopback may change the order of datagrams


# --- stdout ---------------------------------------------------------------------------------------


def test_closed_stdout(port: int) -> None:
    """One line, exit code 1, as of other tools."""
    assert run(port, redirect=">&-", input=LINE) == (
        1,
        b"",
        b"gnutls-cookie connect: stdout: Bad file descriptor\n",
    )


def test_full_disk(port: int) -> None:
    """One line, exit code 1."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    assert run(port, redirect=">/dev/full", input=LINE) == (
        1,
        b"",
        b"gnutls-cookie connect: stdout: No space left on device\n",
    )


def test_reader_that_goes_away() -> None:
    """As with `| head -1`: the server hears a goodbye, the end is by SIGPIPE, in silence."""
    with serving(*CERT) as served:
        words = [*CONNECT, "127.0.0.1", str(served.port)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen(words, **pipes) as child:  # type: ignore[call-overload]
            child.stdin.write(LINE)
            child.stdin.flush()
            assert child.stdout.readline() == LINE
            child.stdout.close()
            child.stdin.write(LINE)
            child.stdin.flush()
            assert child.wait(SECONDS) == -signal.SIGPIPE
            assert re.sub(CONNECTED, b"", child.stderr.read()) == b""
        served.wait_for(r"port \d+: ended")
        assert served.end() == 0


def test_non_blocking_stdout_that_is_full(port: int) -> None:
    """Waited for: nothing is lost here, and nothing is said."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, bytes(4096))
    words = [*CONNECT, "127.0.0.1", str(port)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=writing) as child:
        os.close(writing)
        assert child.stdin is not None
        child.stdin.write(LINE)
        child.stdin.close()
        child.stdin = None
        time.sleep(1.5)
        assert child.poll() is None
        said = b""
        while chunk := os.read(reading, 65536):
            said += chunk
        assert said.strip(b"\0") == LINE
        assert child.wait(SECONDS) == 0
    os.close(reading)


# --- signals and the end --------------------------------------------------------------------------


def test_ctrl_c_says_goodbye() -> None:
    """The server hears it; the end is by SIGINT, in silence."""
    with serving(*CERT) as served:
        with running([*CONNECT, "127.0.0.1", str(served.port)]) as child:
            said = Served(child, 0)
            said.wait_for("INFO connected")
            assert said.end(signal.SIGINT) == -signal.SIGINT
        assert b"Traceback" not in said.said
        served.wait_for(r"port \d+: ended")
        assert served.end() == 0


@pytest.mark.parametrize("stuck", [True, False])
def test_ctrl_c_at_any_moment(stuck: bool) -> None:
    """While it imports, and while it waits for a server that does not answer."""
    with udp_socket() as silent:
        for moment in range(6):
            with running([*CONNECT, "127.0.0.1", str(silent.getsockname()[1])]) as child:
                maps = Path(f"/proc/{child.pid}/maps")
                wait_until(lambda maps=maps: "libgnutls" in maps.read_text(), "started")  # type: ignore[misc]
                if stuck:
                    silent.recv(2048)
                else:
                    time.sleep(moment * 0.03)
                said = Served(child, 0)
                assert said.end(signal.SIGINT) == -signal.SIGINT
                assert said.said == b""


def test_wait_is_for_the_server_where_it_is_infinite() -> None:
    """--wait inf: the end of stdin is none; the server's goodbye is."""
    with serving(*CERT) as served:
        words = [*CONNECT, "--wait", "inf", "127.0.0.1", str(served.port)]
        with subprocess.Popen(words, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as child:
            assert child.stderr is not None
            assert re.match(CONNECTED, child.stderr.readline())
            assert not select.select([child.stderr], [], [], 1.5)[0]
            assert served.end() == 0
            assert child.wait(SECONDS) == 0
            assert child.stderr.read() == b"INFO the server said goodbye\n"


def test_handshake_that_takes_too_long() -> None:
    """--timeout: one line with host, port and reason; exit code 1."""
    with udp_socket() as silent:
        port = silent.getsockname()[1]
        code, out, err = run(port, "--timeout", "0.5")
    assert (code, out) == (1, b"")
    line = err.decode()
    assert line.startswith(f"gnutls-cookie connect: 127.0.0.1 port {port}: ")
    assert "GNUTLS_E_TIMEDOUT" in line
    assert line.count("\n") == 1


# --- lines ----------------------------------------------------------------------------------------


def pieces(content: bytes, most: int, chunk: int) -> list[bytes]:
    """What is sent of a stdin that gives `chunk` bytes at a time."""
    rest = [content[start : start + chunk] for start in range(0, len(content), chunk)] + [b""]
    return list(_pieces(iter(rest).__next__, lambda: most))


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 100])
@pytest.mark.parametrize(
    ("content", "most", "sent"),
    [
        (b"", 5, []),
        (b"a\nb\n", 5, [b"a\n", b"b\n"]),
        (b"a\nb", 5, [b"a\n", b"b"]),
        (b"\n\n", 5, [b"\n", b"\n"]),
        (b"abcd\nx", 5, [b"abcd\n", b"x"]),
        (b"abcde\nx", 5, [b"abcde", b"\n", b"x"]),
        (b"abcdefghijk\n", 5, [b"abcde", b"fghij", b"k\n"]),
        (b"abcde", 5, [b"abcde"]),
        (b"ab", 1, [b"a", b"b"]),
    ],
)
def test_lines_and_parts(content: bytes, most: int, sent: list[bytes], chunk: int) -> None:
    """However stdin is cut, a message is a line, or a part of one that is too long."""
    assert pieces(content, most, chunk) == sent


def test_line_without_an_end_is_not_kept() -> None:
    """Of an endless one no more is kept than a message has."""
    chunks = iter([bytes(1000)] * 3)
    sent = _pieces(lambda: next(chunks), lambda: 400)
    assert [len(next(sent)) for _ in range(7)] == [400] * 7


# --- arguments ------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[int, str]] = {
    "'' 5684": (2, "HOST must be a name or an address, not ''"),
    "a..b 5684": (2, "name"),
    f"{'x' * 70}.invalid 5684": (2, "name"),
    "no.such.host.invalid 5684": (1, "no.such.host.invalid port 5684: "),
    "localhost 0": (2, "a port must be in 1..65535, not '0'"),
    "localhost 65536": (2, "a port must be in 1..65535"),
    f"localhost {65536 + 5684}": (2, "a port must be in 1..65535"),
    "localhost coaps": (2, "a port must be in 1..65535"),
    "": (2, "required: HOST"),
    "localhost:0": (2, "a port must be in 1..65535, not '0'"),
    "localhost:5684 5684": (2, "the port is given twice"),
    "[::1]:5684 5684": (2, "the port is given twice"),
    "[::1]:0": (2, "a port must be in 1..65535, not '0'"),
    "-p 5684 localhost 5684": (2, "the port is given twice"),
    "-p 0 localhost": (2, "a port must be in 1..65535, not '0'"),
    "-p no-such-service localhost": (2, "a port must be in 1..65535, not 'no-such-service'"),
    "--logfile /nowhere/log localhost 5684": (2, "/nowhere/log: No such file or directory"),
    "localhost 5684 more": (2, "unrecognized arguments: more"),
    "--wait nan localhost 5684": (2, "--wait must not be below 0, not nan"),
    "--wait=-1 localhost 5684": (2, "--wait must not be below 0"),
    "--wait 1_0 localhost 5684": (2, "--wait: '1_0' is not a number"),
    "--timeout 0 localhost 5684": (2, "--timeout must be in 0.001..4000000 seconds"),
    "--timeout nan localhost 5684": (2, "--timeout must be in"),
    "--timeout inf localhost 5684": (2, "--timeout must be in"),
    "--srtp-profiles x localhost 5684": (2, "srtp_profiles"),
    "--x509cafile '' localhost 5684": (2, "argument --x509cafile: the name of a file is needed"),
    "--rawpkkeyfile '' localhost 5684": (2, "argument --rawpkkeyfile: the name of a file"),
    "--logfile '' localhost 5684": (2, "argument --logfile: the name of a file is needed"),
    "--mtu 1 localhost 5684": (2, "mtu must be in 128..65507"),
    "--priority X localhost 5684": (2, "priority is not understood"),
    "--priority NORMAL:-KX-ALL:+PSK localhost 5684": (2, "no key exchange with a certificate"),
    "--pskusername a localhost 5684": (2, "--pskusername and --pskkey go together"),
    "--pskkey 00 localhost 5684": (2, "--pskusername and --pskkey go together"),
    "--pskusername a --pskkey xy localhost 5684": (2, "--pskkey must be hexadecimal"),
    "--pskusername a --pskkey '' localhost 5684": (2, "key must be of 1..65535 bytes"),
    "--pskusername a --pskkey 00 --x509crlfile b localhost 5684": (2, "needs --x509cafile"),
    "--pskusername '' --pskkey 00 localhost 5684": (2, "identity must be of 1.."),
    "--x509certfile /nowhere localhost 5684": (2, "go together"),
    "--x509cafile /nowhere localhost 5684": (2, "/nowhere: No such file or directory"),
    "--x509cafile /proc/self/mem localhost 5684": (2, "/proc/self/mem: Input/output error"),
    "--x509cafile / localhost 5684": (2, "/: Is a directory"),
    "--x509cafile /dev/null localhost 5684": (2, "/dev/null"),
}


@pytest.mark.parametrize("words", REFUSED)
def test_argument_that_cannot_be(words: str, capfd: pytest.CaptureFixture[str]) -> None:
    """One line that names it, and the exit code; in process."""
    from gnutls_cookie.cli import main

    code, text = REFUSED[words]
    got: object
    try:
        got = main(["connect", *shlex.split(words)])
    except SystemExit as ended:
        got = ended.code
    said = capfd.readouterr()
    assert (got, said.out) == (code, ""), said.err
    assert text in said.err
    assert re.fullmatch(r"gnutls-cookie connect: [^\n]+\n", said.err)


def test_nobody_listens(capfd: pytest.CaptureFixture[str]) -> None:
    """Host, port and reason; exit code 1."""
    from gnutls_cookie.cli import main

    port = free_udp_port()
    assert main(["connect", "--insecure", "127.0.0.1", str(port)]) == 1
    said = capfd.readouterr().err
    assert said == f"gnutls-cookie connect: 127.0.0.1 port {port}: Connection refused\n"


def test_certificate_of_another_name(port: int) -> None:
    """Not trusted: one line with libgnutls' reason; exit code 1."""
    words = [*CONNECT[:-1], "--x509cafile", CERT[1], "--verify-hostname", "example.org"]
    done = subprocess.run(
        [*words, "127.0.0.1", str(port)], capture_output=True, input=b"", timeout=SECONDS
    )
    assert done.returncode == 1
    assert re.fullmatch(
        rb"gnutls-cookie connect: [^\n]*GNUTLS_E_CERTIFICATE_VERIFICATION_ERROR[^\n]*\n",
        done.stderr,
    )


def test_server_that_vanishes_while_it_talks() -> None:
    """Without a goodbye (SIGKILL): the end of stdin is the end, exit code 0, no traceback."""
    with serving(*CERT) as served, running([*CONNECT, "127.0.0.1", str(served.port)]) as child:
        said = Served(child, 0)
        said.wait_for("INFO connected")
        served.child.kill()
        served.child.wait(SECONDS)
        assert child.stdin is not None
        for _ in range(3):
            child.stdin.write(LINE)
            child.stdin.flush()
            time.sleep(0.1)
        child.stdin.close()
        child.stdin = None
        assert child.wait(SECONDS) == 0
        assert child.stdout is not None
        assert b"Traceback" not in child.stdout.read()


def test_a_socket_is_not_a_standard_file(port: int) -> None:
    """With closed standard files the connection's socket has another number than these."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM):
        words = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *CONNECT, "--wait", "2"]
        with subprocess.Popen([*words, "127.0.0.1", str(port)]) as child:
            folder = Path(f"/proc/{child.pid}/fd")
            if not folder.exists():
                pytest.skip("no /proc here")

            def sockets() -> list[int]:
                found = []
                for path in folder.iterdir():
                    with contextlib.suppress(OSError):
                        if os.readlink(path).startswith("socket:"):
                            found.append(int(path.name))
                return found

            wait_until(lambda: bool(sockets()), "connected")
            assert min(sockets()) > 2
            assert child.wait(SECONDS) == 0
