"""Standard files of `serve` that are full, closed or broken: it serves on, and ends when told."""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from gnutls_cookie.cli.console import Output, default_sigint, one_line, reason
from gnutls_cookie.cli.writer import COUNTERS as COUNTER_NAMES
from tests.support.common import free_udp_port, udp_socket
from tests.support.serve import CERT, SECONDS, client, command, echoes, wait_until


@contextmanager
def serving(
    *options: str, port: int | None = None, closed: str = "", **files: object
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """`serve` on a port known beforehand, with such standard files; the process and the port.

    Args:
        closed: redirections of a shell, ">&-" say.
        files: stdin, stdout and stderr, as subprocess.Popen has them.
    """
    port = free_udp_port() if port is None else port
    words = command(*CERT, *options)
    words[words.index("--port") + 1] = str(port)
    if closed:
        words = ["sh", "-c", f'exec "$@" {closed}', "sh", *words]
    files = {"stdin": subprocess.DEVNULL, "stderr": subprocess.DEVNULL} | files
    child = subprocess.Popen(words, **files)  # type: ignore[call-overload]
    try:
        yield child, port
    finally:
        child.kill()
        child.wait()
        for file in child.stdin, child.stdout, child.stderr:
            if file is not None:
                file.close()


def serves(port: int) -> bool:
    """Whether a client is served; within a bound."""
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            with client(port) as connection:
                return echoes(connection)
        except ConnectionRefusedError:  # it has not bound its port yet
            assert time.monotonic() < deadline
            time.sleep(0.05)


def ends(child: subprocess.Popen[bytes]) -> int:
    """The exit code after SIGTERM."""
    child.send_signal(signal.SIGTERM)
    return child.wait(SECONDS)


def fill(descriptor: int) -> int:
    """Fill a pipe up, by its writing end; how many bytes it takes."""
    os.set_blocking(descriptor, False)
    count = 0
    with suppress(BlockingIOError):
        while True:
            count += os.write(descriptor, bytes(4096))
    os.set_blocking(descriptor, True)
    return count


@pytest.mark.parametrize(
    ("which", "kind", "workers"),
    [("stdout", "pipe", 1), ("stderr", "pipe", 2), ("both", "pipe", 1), ("both", "socket", 2)],
)
def test_reader_that_does_not_read_stops_nothing(which: str, kind: str, workers: int) -> None:
    """A pipe, or a socket as the journal's, that is full from the start: served, and ended."""
    if kind == "pipe":
        reading, writing = os.pipe()
    else:
        ends_of_it = socket.socketpair()
        reading, writing = (one.detach() for one in ends_of_it)
    try:
        fill(writing)
        files: dict[str, Any] = {
            name: writing for name in ("stdout", "stderr") if which in (name, "both")
        }
        options = ["--stats", "0.02", "--json", "--debug", "9", "--workers", str(workers)]
        files = {"stdout": subprocess.DEVNULL} | files
        with serving(*options, **files) as (child, port):
            assert serves(port)
            child.send_signal(signal.SIGHUP)
            time.sleep(0.3)
            assert serves(port)
            assert os.get_blocking(writing)  # those who share it see no change
            before = time.monotonic()
            assert ends(child) == 0
            assert time.monotonic() - before < SECONDS / 2
    finally:
        os.close(reading)
        os.close(writing)


def test_slow_reader_gets_whole_lines() -> None:
    """What was kept for it, and the last counters too, though lines between may be missing."""
    reading, writing = os.pipe()
    with serving("--stats", "0.01", "--json", stdout=writing) as (child, port):
        os.close(writing)
        assert serves(port)
        time.sleep(1.5)  # more than a pipe takes
        child.send_signal(signal.SIGTERM)
        said = b""
        while chunk := os.read(reading, 65536):
            said += chunk
        os.close(reading)
        assert child.wait(SECONDS) == 0
    lines = [json.loads(line) for line in said.splitlines()]
    assert "serving" in lines[0]
    assert lines[-1]["server"]["connected"] == 1
    assert said.endswith(b"\n")


@pytest.mark.parametrize(
    ("closed", "workers"),
    [("<&-", 1), (">&-", 1), ("2>&-", 1), ("<&- >&-", 2), ("<&- >&- 2>&-", 1), ("<&- >&- 2>&-", 2)],
)
def test_closed_standard_files(closed: str, workers: int) -> None:
    """Served; and no socket has the number of a standard file, where lines would go into it."""
    options = ["--stats", "0.02", "--debug", "9", "--workers", str(workers)]
    with serving(*options, closed=closed, stdout=subprocess.DEVNULL) as (child, port):
        assert serves(port)
        folder = Path(f"/proc/{child.pid}/fd")
        if folder.exists():
            assert {os.readlink(folder / str(number)) for number in range(3)} == {"/dev/null"}
        assert ends(child) == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_full_disk(workers: int) -> None:
    """/dev/full: served on, and a line on stderr says that counters are lost."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    options = ["--stats", "0.02", "--json", "--workers", str(workers)]
    with (
        Path("/dev/full").open("wb") as full,
        serving(*options, stdout=full, stderr=subprocess.PIPE) as (child, port),
    ):
        assert serves(port)
        assert ends(child) == 0
        assert child.stderr is not None
        said = child.stderr.read().decode()
    assert "Traceback" not in said
    assert '"message": "stdout: No space left on device: serving goes on without it"' in said
    with Path("/dev/full").open("wb") as full, serving(stderr=full, stdout=full) as (child, port):
        assert serves(port)
        assert ends(child) == 0


@pytest.mark.parametrize("which", ["stdout", "stderr"])
@pytest.mark.parametrize("workers", [1, 2])
def test_reader_that_goes_away(workers: int, which: str) -> None:
    """As with `| head -1`: served on, ended by SIGTERM with 0."""
    options = ["--stats", "0.02", "--json", "--debug", "9", "--workers", str(workers)]
    files: dict[str, Any] = {"stdout": subprocess.DEVNULL, which: subprocess.PIPE}
    with serving(*options, **files) as (child, port):
        pipe = child.stdout if which == "stdout" else child.stderr
        assert pipe is not None
        pipe.readline()
        pipe.close()
        time.sleep(0.2)
        assert serves(port)
        assert ends(child) == 0


def test_stdin_is_left_alone() -> None:
    """A non-blocking one too: what waits there is still there afterwards."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.write(writing, b"for another")
    with serving(stdin=reading, stdout=subprocess.DEVNULL) as (child, port):
        assert serves(port)
        assert ends(child) == 0
    assert os.read(reading, 100) == b"for another"
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize("words", [["serve", "--mtu", "1"], ["connect", "-x"]])
def test_complaint_that_nobody_reads(words: list[str]) -> None:
    """Exit code 2 within a bound, where stderr is a full pipe, closed, or full."""
    base = [sys.executable, "-m", "gnutls_cookie", *words]
    reading, writing = os.pipe()
    fill(writing)
    assert subprocess.run(base, stderr=writing, timeout=SECONDS).returncode == 2
    os.close(reading)
    assert subprocess.run(base, stderr=writing, timeout=SECONDS).returncode == 2  # EPIPE
    os.close(writing)
    shell = ["sh", "-c", 'exec "$@" 2>&-', "sh", *base]
    assert subprocess.run(shell, timeout=SECONDS).returncode == 2
    with suppress(FileNotFoundError), Path("/dev/full").open("wb") as full:
        assert subprocess.run(base, stderr=full, timeout=SECONDS).returncode == 2


COUNTERS: dict[str, object] = dict.fromkeys(COUNTER_NAMES, 0) | {"discarded": {}}


@pytest.mark.parametrize(
    "words",
    [
        "demo",
        "stats FILE",
        "stats FILE --json",
        "vectors",
        "vectors --case CASE",
        "vectors gnutls_cookie.reference.cookie",
        "vectors gnutls_cookie.reference.cookie --json",
        "probe HOST PORT",
    ],
)
def test_what_cannot_be_printed(words: str, tmp_path: Path) -> None:
    """A full disk, and for what a command is there to print a closed stdout too: one line, once,
    and not the exit code of success."""
    file = tmp_path / "stats"
    file.write_text(json.dumps(COUNTERS))
    case = '{"operation": "verify", "key": "00", "client_data": "", "message": ""}'
    with serving() as (_, port):
        assert words != "probe HOST PORT" or serves(port)
        filled = {"FILE": str(file), "CASE": case, "HOST": "127.0.0.1", "PORT": str(port)}
        base = [sys.executable, "-m", "gnutls_cookie", *(filled.get(w, w) for w in words.split())]
        for where, text in (">/dev/full", "No space left on device"), (">&-", "it is closed"):
            if (where, words) == (">&-", "demo"):
                continue
            shell = ["sh", "-c", f'exec "$@" {where}', "sh", *base]
            done = subprocess.run(shell, stderr=subprocess.PIPE, text=True, timeout=SECONDS)
            said = f"gnutls-cookie {words.split()[0]}: stdout: {text}\n"
            assert (done.returncode, done.stderr) == (1, said)


@pytest.mark.parametrize(("words", "unbuffered"), [(["--version"], "1"), (["serve", "--help"], "")])
def test_help_that_cannot_be_written(
    words: list[str], unbuffered: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk: one line, exit code 1; where nobody reads: the end by SIGPIPE, in silence."""
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    base = [sys.executable, "-m", "gnutls_cookie", *words]
    named = "" if words[0].startswith("-") else f" {words[0]}"
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(base, stdout=full, stderr=subprocess.PIPE, timeout=SECONDS)
    assert (done.returncode, done.stderr) == (
        1,
        f"gnutls-cookie{named}: stdout: No space left on device\n".encode(),
    )
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(base, stdout=writing, stderr=subprocess.PIPE, timeout=SECONDS)
    os.close(writing)
    assert (done.returncode, done.stderr) == (-signal.SIGPIPE, b"")
    shell = ["sh", "-c", 'exec "$@" >&-', "sh", *base]
    done = subprocess.run(shell, stderr=subprocess.PIPE, timeout=SECONDS)
    assert done.returncode == 0
    assert b"Traceback" not in done.stderr


# --- Output itself --------------------------------------------------------------------------------


def test_output_keeps_order_and_drops_whole_lines() -> None:
    """More than is kept: what comes out are the first lines, whole, and then the newest."""
    reading, writing = os.pipe()
    output = Output(writing)
    for number in range(20_000):
        output.write(f"{number:06} {'x' * 100}\n")
    assert output.dropped > 0
    kept = 20_000 - output.dropped
    said = bytearray()
    while len(said) < kept * 108:
        said += os.read(reading, 1 << 20)
        output.flush()
    assert [int(line[:6]) for line in said.splitlines()] == list(range(kept))
    output.write("again\n")
    assert os.read(reading, 100) == b"again\n"
    output.close()
    os.close(writing)
    assert os.read(reading, 1) == b""
    os.close(reading)


def test_output_tells_a_loop_what_it_waits_for() -> None:
    """Watched while lines are kept, and no longer."""
    reading, writing = os.pipe()
    output = Output(writing)
    watched: dict[int, object] = {}
    output.watch_with(lambda number, call: watched.update({number: call}), watched.pop)
    output.write("x\n")
    assert watched == {}
    fill(writing)
    output.write("y\n")
    assert len(watched) == 1
    assert not select.select([], list(watched), [], 0)[1]
    while select.select([reading], [], [], 0)[0]:
        os.read(reading, 65536)
    output.flush()
    assert watched == {}
    output.close()
    assert os.read(reading, 65536) == b"y\n"
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize("size", [999, 50_000])
def test_output_without_proc(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the descriptor cannot be opened once more, it is asked before each small write: a pipe
    that has room for some bytes does not have it for a long line."""
    real = os.open

    def refused(path: str, *more: int) -> int:
        if path.startswith("/proc/self/fd/"):
            raise PermissionError
        return real(path, *more)

    monkeypatch.setattr(os, "open", refused)
    reading, writing = os.pipe()
    output = Output(writing)
    line = "x" * size + "\n"

    def write() -> None:
        for _ in range(3_000_000 // size):
            output.write(line)
        output.close()  # bounded

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    thread.join(SECONDS)
    assert not thread.is_alive()
    assert output.dropped > 0
    assert os.read(reading, size + 1) == line.encode()
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize("before", [signal.SIG_IGN, signal.default_int_handler])
def test_ignored_interrupt_stays_ignored(before: Any) -> None:
    """As under nohup; otherwise Ctrl-C ends the process at once."""
    former = signal.signal(signal.SIGINT, before)
    try:
        assert default_sigint() == before
        wanted = before if before is signal.SIG_IGN else signal.SIG_DFL
        assert signal.getsignal(signal.SIGINT) == wanted
    finally:
        signal.signal(signal.SIGINT, former)


def test_output_to_nowhere() -> None:
    """None, and a descriptor that is closed: nothing happens."""
    for descriptor in None, 9999:
        output = Output(descriptor)
        output.write("x\n")
        output.close()


def test_what_is_written_after_a_failure_goes_nowhere() -> None:
    """EPIPE is kept to be told, and nothing is raised."""
    reading, writing = os.pipe()
    output = Output(writing)
    os.close(reading)
    output.write("x\n")
    assert output.failed is not None
    assert reason(output.failed) == "Broken pipe"
    output.write("y\n")
    output.close()
    os.close(writing)


def test_line_that_a_full_disk_cut_is_ended_later(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """ENOSPC in the middle of a line: kept, and written once there is room."""
    real, room = os.write, [6]

    def write(descriptor: int, data: bytes) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = real(descriptor, data[: room[0]])
        room[0] -= taken
        return taken

    path = tmp_path / "said"
    with path.open("wb") as file:
        output = Output(file.fileno())
        monkeypatch.setattr(os, "write", write)
        output.write("first line\n")
        output.write("second line\n")
        assert path.read_bytes() == b"first "
        room[0] = 100
        output.write("third line\n")
        output.close()
    assert path.read_bytes() == b"first line\nsecond line\nthird line\n"
    assert output.dropped == 0


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (FileNotFoundError(2, "No such file", "a\nb"), r"a\nb: No such file"),
        (OSError("no number"), "no number"),
        (ValueError("\x1b[31m"), r"\x1b[31m"),
        (ValueError(), "ValueError"),
        (MemoryError(), "no memory"),
        (OSError(2, "No such file", b"\xff"), r"\udcff: No such file"),
    ],
)
def test_reason_is_one_line(error: Exception, text: str) -> None:
    """Names of files, control characters and errors without a text."""
    assert reason(error) == text


def test_one_line_is_fit_for_a_terminal() -> None:
    """Umlauts stay, what moves a cursor does not."""
    assert one_line("Grüße\r\n\x07\u202e") == r"Grüße\r\n\x07\u202e"


def test_nothing_is_left_in_a_udp_socket() -> None:
    """Lines of a server with a closed stdout never go into its socket."""
    with udp_socket() as sock, serving("--stats", "0.02", closed=">&- 2>&-") as (child, port):
        wait_until(lambda: serves(port), "served")
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.recv(100)
        assert ends(child) == 0
