"""Servers under `run` that do what servers do: their files, their users, their sandboxes."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gnutls_cookie.cli.run import find_preload
from gnutls_cookie.cli.writer import HEADER_SIZE, MAGIC
from gnutls_cookie.keys import key_material
from gnutls_cookie.reference import wire
from tests.support.common import compile_peer
from tests.support.run import (
    NOBODY,
    SECONDS,
    counters,
    lines,
    script,
    wait_until,
    writers,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="LD_PRELOAD is Linux' here")

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

CLIENT = b"192.0.2.1:5684"


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A folder that other users may enter."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and folder != Path("/tmp"):
            folder.chmod(folder.stat().st_mode | 0o711)
    return tmp_path


# --- files and descriptors ------------------------------------------------------------------------


def test_server_that_closes_all_descriptors(tmp_path: Path) -> None:
    """What it opens afterwards has a number that was another's: no key goes there."""
    own, record, stats = tmp_path / "own.log", tmp_path / "record", tmp_path / "stats"
    with script("--record", record, "--stats", stats) as server:
        server.ask("close")
        assert int(server.ask("open", own)) == 3
        assert server.ask("many", 10) == "5"
        wait_until(lambda: counters(stats), lambda found: found["verified"] == 5)
        wait_until(lambda: lines(record), lambda found: len(found) == 15)
        server.end()
    assert own.read_bytes() == b""


def test_server_has_no_descriptor_and_no_thread_of_ours(tmp_path: Path) -> None:
    """Neither its files, nor its numbers, nor its signals are shared with the library."""
    with script("--record", tmp_path / "record", "--stats", tmp_path / "stats") as server:
        server.ask("many", 10)
        process = Path(f"/proc/{server.child.pid}")
        assert sorted(os.listdir(process / "fd")) == ["0", "1", "2"]
        assert len(os.listdir(process / "task")) == 1
        children = (process / "task" / process.name / "children").read_text()
        assert children == ""


def test_closed_standard_descriptors(tmp_path: Path) -> None:
    """No file of ours takes the number of a closed stderr, where complaints go."""
    record = tmp_path / "record"
    with script("--record", record, preexec_fn=lambda: os.close(2)) as server:
        process = Path(f"/proc/{server.child.pid}")
        assert server.ask("many", 2) == "1"
        assert sorted(os.listdir(process / "fd")) == ["0", "1"]
        wait_until(lambda: lines(record), lambda found: len(found) == 3)


@pytest.mark.parametrize("sandbox", ["strict", "filter"])
@pytest.mark.parametrize("before", [0, 10])
def test_server_in_a_sandbox(sandbox: str, before: int, tmp_path: Path) -> None:
    """It may read and write, no more: whether its first call was made before or after that."""
    record, stats = tmp_path / "record", tmp_path / "stats"
    with script("--record", record, "--stats", stats, "--rotate", "1") as server:
        server.ask("many", before)
        assert server.ask(sandbox) == "0"
        for at in range(3):
            server.ask("time", 1000 + at)  # new keys are made in the sandbox
            assert server.ask("many", 1000) == "500"
        wait_until(lambda: counters(stats), lambda found: found["verified"] == 1500 + before / 2)
        assert server.end().count("\n") == 1  # where keys go
    wait_until(lambda: writers(record), lambda found: not found)
    assert len(lines(record)) >= 4500


@pytest.mark.parametrize("options", [(), ("--stats",), ("--record",)], ids=str)
def test_no_system_call_for_a_packet(options: tuple[str, ...], tmp_path: Path) -> None:
    """The clock is the real one here; whatever else were called would kill the server."""
    with script("--rotate", "1", *(word for one in options for word in (one, tmp_path / "f"))) as s:
        assert s.ask("filter") == "0"
        assert s.ask("many", 20_000) == "10000"
        s.end()


@as_root
def test_server_that_becomes_another_user_in_another_root(shared: Path) -> None:
    """And then forks and becomes a daemon: all is still written, with the rights of the caller."""
    record, stats, root = shared / "record", shared / "stats", shared / "root"
    root.mkdir()
    with script("--record", record, "--stats", stats) as server:
        for act in "daemon", f"root {root}", f"user {NOBODY}", "fork", "close":
            assert server.ask(act) == "0"
        assert server.child.wait(SECONDS) == 0  # the daemon's parent
        assert server.ask("many", 10) == "5"
        wait_until(lambda: counters(stats), lambda found: found["verified"] == 5)
        wait_until(lambda: lines(record), lambda found: len(found) == 15)
        server.end()
    wait_until(lambda: writers(record), lambda found: not found)
    assert record.stat().st_uid == 0
    assert record.stat().st_mode & 0o777 == 0o600


def test_counters_of_forks_are_summed_up(tmp_path: Path) -> None:
    """A worker counts in the same place as its parent."""
    stats = tmp_path / "stats"
    with script("--stats", stats) as server:
        server.ask("many", 10)
        server.ask("fork")
        server.ask("many", 10)
        wait_until(lambda: counters(stats), lambda found: found["verified"] == 10)
        server.end()


# --- the process that writes ----------------------------------------------------------------------


def test_writer_ends_with_the_server(tmp_path: Path) -> None:
    """However the server ends; the last counters are written, and no process is left."""
    stats = tmp_path / "stats"
    for end in signal.SIGTERM, signal.SIGKILL:
        with script("--stats", stats) as server:
            server.ask("many", 10)
            (writer,) = writers(stats)
            assert os.getsid(writer) != os.getsid(server.child.pid)  # Ctrl-C is for the server
            server.child.send_signal(end)
            assert server.child.wait(SECONDS) == -end
            wait_until(lambda: writers(stats), lambda found: not found)
        assert counters(stats)["verified"] == 5


def test_counters_are_replaced_as_a_whole(tmp_path: Path) -> None:
    """Whoever has opened the file reads all of it, however late; nothing else is in the folder."""
    stats = tmp_path / "stats"
    stats.write_text("of a former run")
    with script("--stats", stats) as server:
        with stats.open() as opened:
            first = os.fstat(opened.fileno())
            server.ask("many", 10)
            wait_until(lambda: counters(stats), lambda found: found["verified"] == 5)
            assert json.loads(opened.read())["verified"] == 0
            assert os.fstat(opened.fileno()).st_size == first.st_size
        assert list(tmp_path.iterdir()) == [stats]
        server.end()


def test_writer_outlives_signals_for_the_server(tmp_path: Path) -> None:
    """A service manager sends SIGTERM to all; a server takes its time and goes on counting."""
    stats = tmp_path / "stats"
    with script("--stats", stats) as server:
        (writer,) = writers(stats)
        for number in signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT:
            os.kill(writer, number)
        server.ask("many", 10)
        wait_until(lambda: counters(stats), lambda found: found["verified"] == 5)
        server.end()
    wait_until(lambda: writers(stats), lambda found: not found)


def test_writer_of_a_daemon_lets_go_of_stderr(tmp_path: Path) -> None:
    """Whoever started the daemon may wait for the end of its output, as ssh does."""
    stats = tmp_path / "stats"
    with script("--stats", stats) as server:
        (writer,) = writers(stats)
        stderr = Path(f"/proc/{writer}/fd/2")
        assert os.readlink(stderr) != os.devnull
        assert server.ask("daemon") == "0"
        wait_until(lambda: os.readlink(stderr), lambda found: found == os.devnull)
        server.ask("many", 10)
        wait_until(lambda: counters(stats), lambda found: found["verified"] == 5)
        server.end()


def test_server_outlives_the_writer(tmp_path: Path) -> None:
    """Without it calls are as before; what is not written fills the memory and is left out."""
    record = tmp_path / "record"
    with script("--record", record) as server:
        (writer,) = writers(record)
        os.kill(writer, signal.SIGKILL)
        assert server.ask("many", 100_000) == "50000"
        server.end()


def test_what_cannot_be_written_is_said_once(tmp_path: Path) -> None:
    """A folder that is removed, a file that may not grow: a line each, and the server goes on."""
    folder = tmp_path / "folder"
    folder.mkdir()
    stats, record = folder / "stats", tmp_path / "record"
    with script("--stats", stats, "--record", record) as server:
        (writer,) = writers(stats)
        resource.prlimit(writer, resource.RLIMIT_FSIZE, (8192, 8192))
        shutil.rmtree(folder)
        for _ in range(3):
            assert server.ask("many", 1000) == "500"
            time.sleep(0.1)
        said = server.end()
    assert "Traceback" not in said
    assert said.count("not all calls are in") == 1
    assert said.count(f"cannot record calls in {record}: File too large\n") == 1
    assert said.count(f"cannot write counters to {stats}: No such file or directory\n") == 1


# --- programs that the server starts --------------------------------------------------------------


def test_children_know_nothing_of_it(tmp_path: Path) -> None:
    """Neither the library nor a setting is in their environment; the user's own libraries are."""
    own = shutil.which("true")
    assert own is not None
    seen = tmp_path / "seen"
    for others, kept in (None, ""), ("/no/a.so:/no/b.so c.so", "/no/a.so:/no/b.so:c.so"):
        environment = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
        if others is not None:
            environment["LD_PRELOAD"] = others
        with script("--rotate", "9", env=environment) as server:
            server.ask(f'shell echo "$LD_PRELOAD" >{seen}; env | grep -ci cookie_preload >>{seen}')
            maps = Path(f"/proc/{server.child.pid}/maps").read_text()
            assert "_preload.so" in maps
            assert server.verify(CLIENT, wire.client_hello())[0] < 0
        assert seen.read_text() == f"{kept}\n0\n"


def test_children_that_are_asked_for(tmp_path: Path) -> None:
    """With --children a program that the server starts counts with it, and has its keys."""
    stats, secret = tmp_path / "stats", tmp_path / "secret"
    secret.write_bytes(b"a secret of a fleet, long enough")
    secret.chmod(0o600)
    with script("--children", "--stats", stats, "--cookie-secret-file", secret) as server:
        program = Path(f"/proc/{server.child.pid}/exe").resolve()
        for close in False, True:  # through the descriptor, then through the writer's
            if close:
                server.ask("close")
            server.ask(f"shell echo many 10 | {program} >{tmp_path}/said")
            assert (tmp_path / "said").read_text() == "5\n"
        found = wait_until(lambda: counters(stats), lambda found: found["verified"] == 10)
        assert found["challenged"] == 10
        said = server.end()
    assert said == ""


def test_settings_that_lead_to_something_else(tmp_path: Path) -> None:
    """A descriptor with that number that is not the memory stays open, as it was; one line."""
    program = compile_peer("preload_script.c", "-rdynamic", "-ldl")
    file = tmp_path / "file"
    file.write_bytes(MAGIC + bytes(HEADER_SIZE * 2))
    before = file.read_bytes()
    with file.open("r+b") as opened:
        number, status = opened.fileno(), os.fstat(opened.fileno())
        for settings in (
            f"{number} {status.st_dev} {status.st_ino + 1}",
            f"{number} {status.st_dev + 1} {status.st_ino}",
            f"{number + 100} {status.st_dev} {status.st_ino}",
            f"{number} 1 1 {os.getpid()} {number}",
            "",
            "-1 -1 -1 -1 -1",
            "x" * 5000,
        ):
            done = subprocess.run(
                [program],
                input=b"many 10\nshell env | grep -ci preload\n",
                env={"LD_PRELOAD": str(find_preload()), "GNUTLS_COOKIE_PRELOAD": settings},
                pass_fds=[number],
                capture_output=True,
                timeout=SECONDS,
            )
            assert done.stdout == b"5\n0\n256\n"
            assert done.stderr.startswith(b"gnutls-cookie: the settings of `run` cannot be reached")
            assert done.stderr.count(b"\n") == 1
    assert file.read_bytes() == before


def test_a_secret_is_not_shown(tmp_path: Path) -> None:
    """Neither in the environment, nor in a command line, nor in the memory that is shared."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"a secret of a fleet, long enough")
    secret.chmod(0o600)
    stats = tmp_path / "stats"
    with script("--cookie-secret-file", secret, "--stats", stats) as server:
        assert server.verify(CLIENT, wire.client_hello())[0] < 0
        for pid in (server.child.pid, *writers(stats)):
            for name in "environ", "cmdline":
                shown = Path(f"/proc/{pid}/{name}").read_bytes()
                assert b"a secret" not in shown
                assert secret.read_bytes().hex().encode() not in shown
        (writer,) = writers(stats)
        links = {one: os.readlink(one) for one in Path(f"/proc/{writer}/fd").iterdir()}
        (memory,) = (one for one, target in links.items() if target.startswith("/memfd:"))
        with memory.open("r+b") as file:
            header = file.read(HEADER_SIZE)
            with pytest.raises(PermissionError):  # it would kill the server
                file.truncate(0)
        assert header.startswith(MAGIC)
        assert b"a secret" not in header
        assert key_material(secret.read_bytes()) not in header
