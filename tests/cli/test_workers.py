"""Workers of `serve`: they die, do not start, are stopped; signals come at any moment."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from gnutls_cookie import PSKCredentials
from gnutls_cookie.blocking import connect
from gnutls_cookie.cli.listening import Listening
from gnutls_cookie.cli.workers import Worker, Workers
from tests.support.common import running, seeded
from tests.support.peers import IDENTITY, PSK_KEY
from tests.support.serve import (
    CERT,
    SECONDS,
    Served,
    client,
    command,
    echoes,
    serving,
    starting,
    wait_until,
    workers_of,
)

ENDED = r"worker \d+ ended"


def in_(port: int, identity: str, key: bytes) -> bool:
    """Whether a client with this key is let in."""
    credentials = PSKCredentials(identity, key)
    try:
        # A wrong key is not answered at all: the client waits.
        connect(
            "127.0.0.1",
            port,
            credentials=credentials,
            retransmit_timeout=0.2,
            handshake_timeout=1.5,
        ).close()
    except TimeoutError:
        return False
    return True


def alive(pid: int) -> bool:
    """Whether a process is there and not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def memory_of(pid: int) -> int:
    """Resident memory of a process in kB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+)", status)[0])


# --- they die -------------------------------------------------------------------------------------


def test_worker_comes_back_with_what_was_read_last(tmp_path: Path) -> None:
    """A key that was taken out of the file stays out, whichever worker dies after the SIGHUP."""
    psk = tmp_path / "psk"
    psk.write_text(f"{IDENTITY}:{PSK_KEY.hex()}\n")
    psk.chmod(0o600)
    with serving("--workers", "2", "--pskpasswd", str(psk)) as served:
        assert in_(served.port, IDENTITY, PSK_KEY)
        psk.write_text(f"new:{PSK_KEY.hex()}\n")
        served.child.send_signal(signal.SIGHUP)
        for number in 0, 1:
            served.wait_for(f"worker {number}: read anew")
        served.said = b""
        for pid in workers_of(served):
            os.kill(pid, signal.SIGKILL)
        for number in 0, 1:
            served.wait_for(rf"worker {number} ended \(SIGKILL\)")
        for _ in range(6):  # of both sockets
            assert in_(served.port, "new", PSK_KEY)
        assert not any(in_(served.port, IDENTITY, PSK_KEY) for _ in range(2))
        assert served.end() == 0


def test_broken_file_reaches_no_worker(tmp_path: Path) -> None:
    """One line says what is wrong with it; a worker that dies then comes back with the old one."""
    psk = tmp_path / "psk"
    psk.write_text(f"{IDENTITY}:{PSK_KEY.hex()}\n")
    psk.chmod(0o600)
    with serving("--workers", "2", "--pskpasswd", str(psk)) as served:
        psk.write_text("broken\n")
        served.child.send_signal(signal.SIGHUP)
        served.wait_for(r"not read anew: credentials: \S+psk, line 1: not identity")
        os.kill(workers_of(served)[0], signal.SIGKILL)
        served.wait_for(ENDED)
        assert all(in_(served.port, IDENTITY, PSK_KEY) for _ in range(4))
        assert served.end() == 0
    assert served.said.count(b"not read anew") == 1


def test_five_dead_workers_at_once_end_nothing_else() -> None:
    """The others stay as they are, the five come back, all at the old port."""
    with serving("--workers", "8", *CERT) as served:
        before = workers_of(served)
        for pid in before[:5]:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: len(set(workers_of(served)) - set(before)) == 5, "five new workers")
        assert set(before[5:]) < set(workers_of(served))
        for _ in range(12):
            with client(served.port) as connection:
                assert echoes(connection)
        assert served.end() == 0


@pytest.mark.slow
def test_storm_of_kills_leaves_no_larger_server() -> None:
    """80 SIGKILLs at random moments: afterwards clients are served, and the parent has its size."""
    chance = seeded()
    with serving("--workers", "4", *CERT) as served:
        reader = _Reader(served)
        sizes = []
        for number in range(80):
            pids = workers_of(served)
            if pids:
                os.kill(chance.choice(pids), signal.SIGKILL)
            time.sleep(chance.uniform(0, 0.1))
            if number in (19, 79):
                sizes.append(memory_of(served.child.pid))
        wait_until(lambda: len(workers_of(served)) == 4, "four workers")
        for _ in range(8):
            with client(served.port) as connection:
                assert echoes(connection)
        assert sizes[1] - sizes[0] < 1024, sizes  # kB
        assert reader.end() == 0


def test_unknown_children_that_end_change_nothing() -> None:
    """A process that became the server may have had children; a shell does that (exec)."""
    code = (
        "import os, sys\n"
        "for _ in range(3):\n"
        "    if os.fork() == 0: os.execvp('sleep', ['sleep', '1'])\n"
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    serve = command("--workers", "2", *CERT)
    with running([sys.executable, "-c", code, *serve[1:]]) as child:
        served = Served(child, 0)
        served.port = int(served.wait_for(r"serving on \S+ port (\d+)\n")[1])
        wait_until(lambda: len(workers_of(served)) == 2, "the children over")
        with client(served.port) as connection:
            assert echoes(connection)
        assert served.end() == 0
    assert not re.search(ENDED.encode(), served.said)


def test_death_by_a_signal_without_a_name() -> None:
    """Real-time signals have none in Python."""
    with serving("--workers", "2", *CERT) as served:
        os.kill(workers_of(served)[0], signal.SIGRTMIN + 5)
        served.wait_for(rf"worker \d ended \(signal {signal.SIGRTMIN + 5}\)")
        wait_until(lambda: len(workers_of(served)) == 2, "two workers")
        assert served.end() == 0


# --- they do not start ----------------------------------------------------------------------------

# In the process of `serve`: workers, which are not it, fail as they start.
FAILS_TO_START = """
import os, sys
import gnutls_cookie.cli.serve as serve
real, parent = serve.start_server, os.getpid()
async def start_server(*args, **kwargs):
    if os.getpid() != parent and {when}:
        {how}
    return await real(*args, **kwargs)
serve.start_server = start_server
"""


@pytest.mark.parametrize(
    ("workers", "how", "text"),
    [
        (2, "raise MemoryError", "MemoryError: no memory"),
        (8, "raise OSError(24, 'Too many open files')", "OSError: Too many open files"),
        (2, "os._exit(3)", "exit code 3"),
        (2, "os.kill(os.getpid(), 9)", "SIGKILL"),
    ],
)
def test_workers_that_never_start_are_given_up(workers: int, how: str, text: str) -> None:
    """Five times, later each time; then a line, exit code 1, and "serving" was never said."""
    with starting(
        "--workers", str(workers), fault=FAILS_TO_START.format(when=1, how=how)
    ) as served:
        said, _ = served.child.communicate(timeout=2 * SECONDS)
    assert served.child.returncode == 1
    for seconds in b"0.1", b"0.2", b"0.4", b"0.8":
        assert b"), and is started again in " + seconds + b" s\n" in said
    assert b"serving" not in said
    assert b"Traceback" not in said
    assert text.encode() in said
    assert re.search(rb"ERROR worker \d ended \(.*\), \d+ times in a row\n", said)
    assert len(re.findall(rb"started again", said)) <= 4 * workers


def test_one_worker_that_does_not_start_is_not_served_without(tmp_path: Path) -> None:
    """Three of four serve: that is not what was asked for, and is never called serving."""
    fault = FAILS_TO_START.format(
        when="kwargs['sock'][0].fileno() == min(socks)", how="raise MemoryError"
    )
    # The socket that the first worker serves, known by its number.
    fault += (
        "real_sockets = serve._sockets\n"
        "socks = []\n"
        "def _sockets(options):\n"
        "    found = real_sockets(options)\n"
        "    socks.extend(one.sockets[0].fileno() for one in found)\n"
        "    return found\n"
        "serve._sockets = _sockets\n"
    )
    with starting("--workers", "4", fault=fault) as served:
        said, _ = served.child.communicate(timeout=2 * SECONDS)
    assert served.child.returncode == 1
    assert b"serving" not in said


def test_serving_is_said_when_the_last_worker_serves(tmp_path: Path) -> None:
    """Not before; and nobody has to be asked twice."""
    gate = tmp_path / "gate"
    fault = FAILS_TO_START.format(
        when=f"kwargs['sock'][0].fileno() % 4 == 0 and not os.path.exists({str(gate)!r})",
        how="raise MemoryError",
    )
    with starting("--workers", "4", *CERT, fault=fault) as served:
        served.wait_for(ENDED)
        assert b"serving" not in served.said
        gate.touch()
        served.wait_for("serving on")
        assert len(workers_of(served)) == 4
        assert served.end() == 0


def test_worker_that_cannot_start_again_ends_nothing_else(tmp_path: Path) -> None:
    """Later than at the start: the others serve on, and it is tried for as long as it takes."""
    trouble = tmp_path / "trouble"
    fault = FAILS_TO_START.format(
        when=f"os.path.exists({str(trouble)!r})", how="raise OSError(24, 'Too many open files')"
    )
    fault += "import gnutls_cookie.cli.workers as w\nw._BACKOFF_MAX_SECONDS = 0.2\n"
    with serving("--workers", "2", *CERT, fault=fault) as served:
        trouble.touch()
        victim, other = workers_of(served)
        os.kill(victim, signal.SIGKILL)
        for _ in range(8):
            served.said = b""
            served.wait_for("Too many open files")
        assert other in workers_of(served)
        trouble.unlink()
        wait_until(lambda: len(workers_of(served)) == 2, "two workers")
        time.sleep(0.3)
        for _ in range(8):
            with client(served.port) as connection:
                assert echoes(connection)
        assert served.end() == 0


FORK_FAILS = """
import os
real, left = os.fork, [{times}]
def fork():
    if left[0]:
        left[0] -= 1
        raise BlockingIOError(11, "Resource temporarily unavailable")
    return real()
os.fork = fork
"""


def test_fork_that_fails_is_tried_again() -> None:
    """EAGAIN, as at a limit of processes: three times, then all workers serve."""
    with serving("--workers", "2", *CERT, fault=FORK_FAILS.format(times=3)) as served:
        assert len(workers_of(served)) == 2
        with client(served.port) as connection:
            assert echoes(connection)
        assert served.end() == 0
    assert b"cannot be started (Resource temporarily unavailable)" in served.said


def test_fork_that_fails_forever_is_given_up() -> None:
    """One line for each try, exit code 1."""
    with starting("--workers", "2", fault=FORK_FAILS.format(times=-1)) as served:
        said, _ = served.child.communicate(timeout=2 * SECONDS)
    assert served.child.returncode == 1
    assert b"Traceback" not in said
    assert b"5 times in a row" in said


def test_fork_that_fails_later_ends_nothing_else(tmp_path: Path) -> None:
    """A worker that dies while no process can be made is started when one can."""
    trouble = tmp_path / "trouble"
    fault = FORK_FAILS.format(times=0).replace("left[0]:", f"os.path.exists({str(trouble)!r}):")
    with serving("--workers", "2", *CERT, fault=fault) as served:
        trouble.touch()
        victim, other = workers_of(served)
        os.kill(victim, signal.SIGKILL)
        served.wait_for(r"cannot be started")
        assert workers_of(served) == [other]
        trouble.unlink()
        wait_until(lambda: len(workers_of(served)) == 2, "two workers")
        assert served.end() == 0


SOCKET_FAILS = """
import gnutls_cookie.endpoint as endpoint
def turn(self, now): raise OSError(100, "Network is down")
endpoint.Endpoint.turn = turn
"""


@pytest.mark.parametrize("how", ["raise MemoryError", "os.kill(os.getpid(), 9)"])
def test_server_without_any_worker_is_given_up(how: str, tmp_path: Path) -> None:
    """All served once, and none has for so long (a minute): exit code 1, no endless tries."""
    trouble = tmp_path / "trouble"
    fault = FAILS_TO_START.format(when=f"os.path.exists({str(trouble)!r})", how=how)
    fault += "import gnutls_cookie.cli.workers as w\nw._NONE_SERVES_SECONDS = 1.0\n"
    with serving("--workers", "2", *CERT, fault=fault) as served:
        trouble.touch()
        for pid in workers_of(served):
            os.kill(pid, signal.SIGKILL)
        said, _ = served.child.communicate(timeout=2 * SECONDS)
    assert served.child.returncode == 1
    assert b"times in a row" in said


def test_deaths_of_long_ago_delay_no_restart() -> None:
    """A worker that had served for a minute is due again at once, each time; one that dies young is
    due later and later."""
    workers = Workers([], lambda *_: 0, lambda: True, lambda: None)
    with socket.socket() as sock:
        for up_s, waits in ((60.0, False), (0.0, True)):
            worker = Worker(0, Listening([sock]))
            for turn in range(3):
                worker.pid, worker.serves, worker.started = 1, True, time.monotonic() - up_s
                workers._bury(worker, -signal.SIGKILL)
                assert (worker.due > time.monotonic()) == (waits and turn > 0)
    for descriptor in (workers._lifeline, workers._held, workers._ready, workers._say_ready):
        os.close(descriptor)


def test_socket_that_fails_is_a_failure() -> None:
    """The server ends by itself: exit code 1, one line, no traceback."""
    with serving(*CERT, fault=SOCKET_FAILS) as served:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"x", ("127.0.0.1", served.port))
        said, _ = served.child.communicate(timeout=SECONDS)
    assert served.child.returncode == 1
    assert b"a socket of a DTLS server failed: OSError: Network is down\n" in said
    assert b"Traceback" not in said


# --- signals --------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 4])
def test_sighup_right_after_the_start_ends_no_worker(workers: int, tmp_path: Path) -> None:
    """Ten of them from the very line on that says "serving"; each worker reads, none ends."""
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(32) + b".")
    secret.chmod(0o600)
    options = ["--workers", str(workers), "--cookie-secret-file", str(secret), *CERT]
    with serving(*options) as served:
        before = workers_of(served)
        for _ in range(10):
            served.child.send_signal(signal.SIGHUP)
        for number in range(workers):
            served.wait_for(f"worker {number}: read anew" if workers > 1 else "read anew")
        assert workers_of(served) == before
        assert served.end() == 0
    assert not re.search(ENDED.encode(), served.said)


def test_sighup_before_it_serves_waits(tmp_path: Path) -> None:
    """It comes while a file is still read (a pipe that nobody writes to yet)."""
    fifo = tmp_path / "psk"
    os.mkfifo(fifo, 0o600)
    with starting("--pskpasswd", str(fifo)) as served:
        wait_until(lambda: _blocks_sighup(served.child.pid), "blocked")
        served.child.send_signal(signal.SIGHUP)
        fifo.write_text(f"{IDENTITY}:{PSK_KEY.hex()}\n")
        served.wait_for(r"serving on \S+ port (\d+)\n")
        served.wait_for("a pipe can be read once")
        assert served.end() == 0


@pytest.mark.parametrize("workers", [1, 3])
def test_sighup_at_any_moment_of_the_start(workers: int) -> None:
    """While it imports, too: it serves in the end."""
    chance = seeded()
    for _ in range(5):
        with starting("--workers", str(workers), *CERT) as served:
            wait_until(lambda served=served: _imports(served.child.pid), "started")  # type: ignore[misc]
            time.sleep(chance.uniform(0, 0.3))
            served.child.send_signal(signal.SIGHUP)
            served.wait_for("serving on")
            served.wait_for("read anew")
            assert served.end() == 0
        assert not re.search(ENDED.encode(), served.said)


def _blocks_sighup(pid: int) -> bool:
    mask = re.findall(r"SigBlk:\s+(\w+)", Path(f"/proc/{pid}/status").read_text())[0]
    return bool(int(mask, 16) & 1 << (signal.SIGHUP - 1))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", [1, 3])
def test_end_at_any_moment_of_the_start(number: signal.Signals, workers: int) -> None:
    """The process ends, by the signal or with 0, says nothing of it, and leaves nobody behind."""
    chance = seeded()
    for _ in range(8):
        with starting("--workers", str(workers), *CERT) as served:
            # From here on the moments are the package's own, not those of Python's start.
            wait_until(lambda served=served: _imports(served.child.pid), "started")  # type: ignore[misc]
            time.sleep(chance.uniform(0, 0.4))
            code = served.end(number)
            assert code in (0, -number), served.said.decode()
            assert b"Traceback" not in served.said
            # Workers share its process group, which is its own.
            wait_until(lambda served=served: not _group(served), "all ended")  # type: ignore[misc]


def _imports(pid: int) -> bool:
    """Whether a process has loaded libgnutls."""
    return "libgnutls" in Path(f"/proc/{pid}/maps").read_text()


def _group(served: Served) -> bool:
    try:
        os.killpg(served.child.pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("workers", [1, 3])
def test_signals_that_come_twice_say_the_same(workers: int) -> None:
    """SIGTERM, SIGINT and SIGHUP, five times, to all of them as a terminal does: exit code 0."""
    with serving("--workers", str(workers), *CERT) as served:
        for number in [signal.SIGTERM, signal.SIGINT, signal.SIGHUP] * 5:
            try:
                os.killpg(served.child.pid, number)
            except ProcessLookupError:
                break
        said, _ = served.child.communicate(timeout=SECONDS)
    assert served.child.returncode == 0
    assert b"Traceback" not in said


def test_worker_that_takes_no_notice_is_killed() -> None:
    """One that is stopped (SIGSTOP) at SIGTERM does not keep the others' end; exit code 1."""
    fault = "import gnutls_cookie.cli.workers as w\nw._END_SECONDS = 1.0\n"
    with serving("--workers", "2", *CERT, fault=fault) as served:
        os.kill(workers_of(served)[0], signal.SIGSTOP)
        assert served.end() == 1
    assert b"does not end, and is killed" in served.said


@pytest.mark.slow
def test_storm_of_sighups_while_clients_connect() -> None:
    """200 at random moments over four workers: each client is served, no worker ends."""
    chance = seeded()
    with serving("--workers", "4", *CERT) as served:
        reader = _Reader(served)
        before = workers_of(served)
        over = threading.Event()

        def storm() -> None:
            for _ in range(200):
                served.child.send_signal(signal.SIGHUP)
                time.sleep(chance.uniform(0, 0.03))
            over.set()

        thread = threading.Thread(target=storm)
        thread.start()
        count = 0
        while not over.is_set() or count < 20:
            with client(served.port) as connection:
                assert echoes(connection)
            count += 1
        thread.join()
        assert workers_of(served) == before
        assert reader.end() == 0
    assert not re.search(ENDED.encode(), reader.said)


class _Reader:
    """Reads what a server prints meanwhile, so that its pipe does not fill up."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self.said = b""
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        assert self._served.child.stdout is not None
        while chunk := os.read(self._served.child.stdout.fileno(), 65536):
            self.said += chunk

    def end(self) -> int:
        """SIGTERM; the exit code."""
        self._served.child.terminate()
        self._served.child.wait(SECONDS)
        self._thread.join(SECONDS)
        return self._served.child.returncode


def test_workers_end_with_a_parent_that_was_killed() -> None:
    """Those that were started again too."""
    with serving("--workers", "2", *CERT) as served:
        os.kill(workers_of(served)[0], signal.SIGKILL)
        served.wait_for(ENDED)
        wait_until(lambda: len(workers_of(served)) == 2, "two workers")
        pids = workers_of(served)
        served.child.kill()
        served.child.wait(SECONDS)
        wait_until(lambda: not any(map(alive, pids)), "ended")


def test_no_name_is_looked_up_without_end() -> None:
    """Ctrl-C ends a look-up, which is a call of C that Python cannot interrupt."""
    for words in ["serve", "--host", "x"], ["connect", "--insecure", "x", "5684"]:
        fault = (
            "import ctypes, socket\n"
            "def getaddrinfo(*a, **k):\n"
            "    print('looking', flush=True); ctypes.CDLL(None).sleep(60)\n"
            "socket.getaddrinfo = getaddrinfo\n"
            "import sys\nfrom gnutls_cookie.cli import main\nsys.exit(main())"
        )
        with running([sys.executable, "-c", fault, *words]) as child:
            said = Served(child, 0)
            said.wait_for("looking")
            before = time.monotonic()
            assert said.end(signal.SIGINT) == -signal.SIGINT
            assert time.monotonic() - before < 30
            assert said.said.strip() == b"looking"


def test_exit_code_where_the_event_loop_cannot_be_made() -> None:
    """A limit of open files that is reached: one line, exit code 1."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (9, 9))\n"
    done = subprocess.run(
        command("--workers", "4", fault=f"import gnutls_cookie.cli.serve\n{limit}"),
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 1
    assert "Too many open files" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
