"""What the two functions give under `run`, call by call: the gate's answer, or C's own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gnutls_cookie import KeyRing
from gnutls_cookie.cli.credentials import SECRET_MAX_SIZE, secret_file
from gnutls_cookie.differential import LIBGNUTLS, case_of_json
from gnutls_cookie.reference import wire
from tests.support.common import compile_peer, cookie_of
from tests.support.run import KEY, Script, counters, lines, script, wait_until, writers

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="LD_PRELOAD is Linux' here")

CLIENT = b"192.0.2.1:5684"
SECRET = b"a secret of a fleet, long enough"


@pytest.fixture(scope="module")
def server() -> Iterator[Script]:
    """A server with keys of its own."""
    with script() as running:
        yield running


def second_hello(cookie: bytes, seq: int = 1) -> bytes:
    return wire.client_hello(cookie=cookie, record_seq=seq, message_seq=1)


def echoed(reply: bytes) -> tuple[int, int]:
    """Both sequence numbers of a HelloVerifyRequest."""
    decoded = wire.HelloVerifyRequest.decode(reply)
    return decoded.record_seq, decoded.message_seq


# --- whose call it is -----------------------------------------------------------------------------


def test_recipe_is_the_gates(server: Script) -> None:
    """The reply echoes both numbers of the hello, and the cookie is good; nobody else's is."""
    assert server.verify(CLIENT, wire.client_hello(record_seq=2**40, message_seq=7))[0] < 0
    result, reply = server.send(CLIENT)
    assert (result, echoed(reply)) == (44, (2**40, 7))
    cookie = wire.HelloVerifyRequest.decode(reply).cookie
    assert cookie == cookie_of(KEY, CLIENT)
    assert server.verify(CLIENT, second_hello(cookie)) == (0, (1, 1, 0))
    assert server.verify(CLIENT + b"1", second_hello(cookie)) == (-214, (0, 0, 0))


def test_reply_to_another_client_is_left_alone(server: Script) -> None:
    """A client differs in one byte, in its length, or is none: no number of the hello is echoed."""
    for first, second in (
        (CLIENT, CLIENT[:-1] + b"5"),
        (CLIENT, CLIENT[:-1]),
        (CLIENT, CLIENT + b"\0"),
        (CLIENT, None),
        (None, CLIENT),
    ):
        for hello in wire.client_hello(record_seq=9, message_seq=9), b"\x16":
            assert server.verify(first, hello)[0] < 0
            result, reply = server.send(second)
            assert (result, echoed(reply)) == (44, (0, 0))


def test_a_verify_serves_one_reply(server: Script) -> None:
    """A second one without a verify is C's own, as is one with no verify at all."""
    assert server.verify(CLIENT, wire.client_hello(record_seq=9, message_seq=9))[0] < 0
    assert [echoed(server.send(CLIENT)[1]) for _ in range(2)] == [(9, 9), (0, 0)]


def test_long_client_data_is_left_alone(server: Script) -> None:
    """256 bytes are compared whole; where there are more nothing is remembered, and nothing cut."""
    hello = wire.client_hello(record_seq=9, message_seq=9)
    for size, numbers in (255, (9, 9)), (256, (9, 9)), (257, (0, 0)), (1000, (0, 0)):
        client = bytes(size)
        assert server.verify(client, hello)[0] < 0
        assert echoed(server.send(client)[1]) == numbers
        assert server.verify(client, hello)[0] < 0
        assert echoed(server.send(client[:-1] + b"\1")[1]) == (0, 0)
        cookie = cookie_of(KEY, client)
        assert server.verify(client, second_hello(cookie))[0] == 0
    assert server.verify(bytes(257), b"\x16")[0] < 0
    assert server.send(bytes(256))[0] == 44


@pytest.mark.parametrize("numbers", [(7, 0, 0), (0, 7, 0), (0, 0, 7), (2**32 - 1, 5, 9)])
def test_own_numbers_are_left_alone(server: Script, numbers: tuple[int, int, int]) -> None:
    """A caller that fills its prestate gets what libgnutls gives: low bytes, no echo."""
    assert server.verify(CLIENT, wire.client_hello(record_seq=9, message_seq=9))[0] < 0
    result, reply = server.send(CLIENT, numbers)
    assert (result, echoed(reply)) == (44, (numbers[0] & 255, numbers[2] & 255))
    assert server.verify(CLIENT, b"\x16", numbers) == (-9, numbers)
    assert server.send(CLIENT)[0] == 44
    hello = second_hello(cookie_of(KEY, CLIENT), 0x1234)
    assert server.verify(CLIENT, hello, numbers) == (0, (0x34, 1, 0))


def test_record_seq_beyond_a_prestate(server: Script) -> None:
    """32 bits can be handed over; above them a client with a good cookie is challenged again."""
    cookie = cookie_of(KEY, CLIENT)
    assert server.verify(CLIENT, second_hello(cookie, 2**32 - 1)) == (0, (2**32 - 1, 1, 0))
    for record_seq in 2**32, 2**32 + 1, 2**48 - 1:
        assert server.verify(CLIENT, second_hello(cookie, record_seq)) == (-214, (0, 0, 0))
        assert echoed(server.send(CLIENT)[1]) == (record_seq, 1)


def test_null_and_empty_arguments(tmp_path: Path) -> None:
    """What libgnutls refuses is refused alike, whether it is recorded or not."""
    record = tmp_path / "record"
    for options in (), ("--record", record):
        with script(*options) as server:
            for key in None, b"":
                assert server.verify(CLIENT, wire.client_hello(), key=key)[0] == -50
                assert server.send(CLIENT, key=key) == (-50, b"")
                assert server.send(CLIENT, (1, 0, 0), key=key) == (-50, b"")
            assert server.verify(None, wire.client_hello())[0] == -214
            assert server.send(None)[0] == 44
            assert server.verify(None, b"")[0] == -9
            server.end()
    wait_until(lambda: writers(record), lambda found: not found)
    for line in lines(record):
        case = case_of_json(str(line).replace("'", '"').replace("None", "null"))
        assert LIBGNUTLS.answer(case)[0] in ("error", "sent")


# --- keys of a fleet ------------------------------------------------------------------------------


@contextmanager
def fleet_server(secret: Path, period: str) -> Iterator[Script]:
    with script("--cookie-secret-file", secret, "--rotate", period) as server:
        yield server


@pytest.mark.parametrize("period", ["1", "7", "2.5", "86400", "2147483647"])
def test_keys_are_those_of_the_ring(period: str, tmp_path: Path) -> None:
    """At any time the cookie is that of KeyRing's key; the previous one is good, others are not."""
    secret = tmp_path / "secret"
    secret.write_bytes(SECRET + b"\n")
    secret.chmod(0o600)
    ring = KeyRing.from_secret(SECRET, float(period))
    with fleet_server(secret, period) as server:
        for periods in 1, 1.5, 2, 2.999, 3, 1000, 1001:
            now = periods * float(period)
            current, previous = ring.keys_at(now)
            assert previous is not None
            server.ask("time", repr(now))
            assert server.cookie(CLIENT) == cookie_of(current, CLIENT)
            for key, result in (current, 0), (previous, 0), (KEY, -214):
                hello = second_hello(cookie_of(key, CLIENT))
                assert server.verify(CLIENT, hello)[0] == result
            (older,) = ring.keys_at(now - 2 * float(period))[:1]
            for other in older, ring.keys_at(now + float(period))[0]:
                assert server.verify(CLIENT, second_hello(cookie_of(other, CLIENT)))[0] == -214


def test_previous_key_is_counted_as_such(tmp_path: Path) -> None:
    """So that the counters tell a change of keys from an ordinary exchange."""
    stats = tmp_path / "stats"
    with script("--stats", stats, "--rotate", "10") as server:
        server.ask("time", 1000)
        cookie = server.cookie(CLIENT)
        for now, result in (1009.9, 0), (1010, 0), (1019.9, 0), (1020, -214):
            server.ask("time", now)
            assert server.verify(CLIENT, second_hello(cookie))[0] == result
        found = wait_until(lambda: counters(stats), lambda found: found["challenged"] == 2)
        assert (found["verified"], found["verified_previous"]) == (1, 2)


@pytest.mark.parametrize("size", [16, 31, 32, 4096, 5000, 65536])
@pytest.mark.parametrize("end", [b"", b"\n", b" \t\r\n\n\v\f"])
def test_one_meaning_of_a_secret_file(size: int, end: bytes, tmp_path: Path) -> None:
    """The same bytes are the same keys for `run` and for `serve`, in a file and in a pipe."""
    secret = bytes(range(33, 123)) * (size // 90) + bytes(33 + at for at in range(size % 90))
    secret = secret[: SECRET_MAX_SIZE - len(end)]
    path, pipe = tmp_path / "secret", tmp_path / "pipe"
    path.write_bytes(secret + end)
    path.chmod(0o600)
    os.mkfifo(pipe, 0o600)
    assert secret_file(path) == secret
    expected = cookie_of(KeyRing.from_secret(secret).keys_at(1e9)[0], CLIENT)
    feeder = threading.Thread(target=pipe.write_bytes, args=[secret + end])
    feeder.start()
    for one in path, pipe:
        with fleet_server(one, "3600") as server:
            server.ask("time", 10**9)
            assert server.cookie(CLIENT) == expected
    feeder.join()


@pytest.mark.parametrize("command", ["serve", "run"])
def test_what_is_not_a_secret(command: str, tmp_path: Path) -> None:
    """Too short, too long, endless, a folder: one line, for `serve` and for `run` alike."""
    secret = tmp_path / "secret"
    words = [sys.executable, "-m", "gnutls_cookie", command, "--cookie-secret-file"]
    program = compile_peer("preload_script.c", "-rdynamic", "-ldl")
    more = ["--port", "0"] if command == "serve" else ["--", program]
    contents = {b"": 0, b"x" * 15: 15, b"x" * 15 + b"\n": 15, b" " * 99: 0}
    for content, size in contents.items():
        secret.write_bytes(content)
        done = subprocess.run([*words, secret, *more], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"gnutls-cookie {command}: ")
        assert done.stderr.endswith(
            f"{secret}: a cookie secret has at least 16 bytes, not {size}\n"
        )
        assert done.stderr.count("\n") == 1
    secret.write_bytes(b"x" * 2**20)
    for path in (secret, Path("/dev/zero"), tmp_path, tmp_path / "nothing"):
        done = subprocess.run([*words, path, *more], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"gnutls-cookie {command}: ")
        assert str(path) in done.stderr
        assert done.stderr.count("\n") == 1
        if path.exists() and not path.is_dir():
            assert "at most 65536 bytes" in done.stderr


# --- the record -----------------------------------------------------------------------------------


def test_long_calls_are_recorded_whole(tmp_path: Path) -> None:
    """Any size that a datagram has; what is longer is left out and said, not cut."""
    record, stats = tmp_path / "record", tmp_path / "stats"
    sizes = [0, 1, 300, 439, 440, 441, 503, 504, 505, 2000, 65507, 65535]
    with script("--record", record, "--stats", stats) as server:
        for size in sizes:
            server.verify(CLIENT, bytes(size), (1, 2, 3))
        server.verify(bytes(69_000), bytes(69_000), (1, 2, 3))
        server.verify(CLIENT, b"", (1, 2, 3))
        wait_until(lambda: counters(stats), lambda found: found.get("not_recorded") == 1)
        said = server.end()
    wait_until(lambda: writers(record), lambda found: not found)
    assert [len(line["message"]) // 2 for line in lines(record)] == [*sizes, 0]
    assert {line["client_data"] for line in lines(record)} == {CLIENT.hex()}
    assert said.count("not all calls are in") == 1


def test_calls_beyond_the_ring_are_counted(tmp_path: Path) -> None:
    """A writer that does not come along costs the server nothing but lines."""
    record, stats = tmp_path / "record", tmp_path / "stats"
    with script("--record", record, "--stats", stats) as server:
        (writer,) = writers(record)
        os.kill(writer, signal.SIGSTOP)
        try:
            assert server.ask("many", 60_000) == "30000"
        finally:
            os.kill(writer, signal.SIGCONT)
        wait_until(lambda: counters(stats), lambda found: found.get("not_recorded"))
        assert server.ask("many", 10) == "5"
        server.end()
    wait_until(lambda: writers(record), lambda found: not found)
    written, lost = len(lines(record)), counters(stats)["not_recorded"]
    assert written + lost == 90_000 + 15
    assert written >= 65_536
