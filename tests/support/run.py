"""A scripted server under `run`: tests/peers/preload_script.c, asked line by line."""

from __future__ import annotations

import argparse
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from gnutls_cookie.cli.run import Handed, add_arguments, hand_over
from gnutls_cookie.reference import wire
from tests.support.common import compile_peer

SECONDS = 30.0  # a bound for what takes far less

RUN = [sys.executable, "-m", "gnutls_cookie", "run"]
KEY = b"0123456789abcdef"
NOBODY = 65534

T = TypeVar("T")


class Script:
    """A running script: ask() has it do something, and gives its answer."""

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        self.child = child

    def ask(self, *words: object) -> str:
        """The answer to one line; bytes are written in hex."""
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        self.child.stdin.write(b" ".join(map(_word, words)) + b"\n")
        self.child.stdin.flush()
        said = b""
        deadline = time.monotonic() + SECONDS
        while not said.endswith(b"\n"):
            ready, _, _ = select.select([self.child.stdout], [], [], deadline - time.monotonic())
            assert ready, "no answer in time"
            more = os.read(self.child.stdout.fileno(), 65536)
            assert more, f"it ended with {self.child.wait(SECONDS)}"
            said += more
        return said.decode().rstrip("\n")

    def verify(
        self,
        client: bytes | None,
        message: bytes,
        numbers: tuple[int, int, int] = (0, 0, 0),
        key: bytes | None = KEY,
    ) -> tuple[int, tuple[int, int, int]]:
        """The result of gnutls_dtls_cookie_verify, and the prestate after it."""
        result, *after = map(int, self.ask("verify", key, client, message, *numbers).split())
        return result, (after[0], after[1], after[2])

    def send(
        self,
        client: bytes | None,
        numbers: tuple[int, int, int] = (0, 0, 0),
        key: bytes | None = KEY,
    ) -> tuple[int, bytes]:
        """The result of gnutls_dtls_cookie_send, and what was pushed."""
        result, _, pushed = self.ask("send", key, client, *numbers).partition(" ")
        return int(result), bytes.fromhex(pushed)

    def cookie(self, client: bytes) -> bytes:
        """The cookie that a client is sent."""
        assert self.verify(client, wire.client_hello())[0] < 0
        return wire.HelloVerifyRequest.decode(self.send(client)[1]).cookie

    def end(self) -> str:
        """Let it end, as at the end of its input; what it has written to stderr."""
        _, said = self.child.communicate(timeout=SECONDS)
        assert self.child.returncode == 0
        return said.decode()


def _word(word: object) -> bytes:
    if word is None:
        return b"null"
    if isinstance(word, bytes):
        return word.hex().encode() or b"-"
    return os.fsencode(str(word))


@contextmanager
def script(*options: str | Path, **more: Any) -> Iterator[Script]:
    """The script under `run` with these options."""
    program = compile_peer("preload_script.c", "-rdynamic", "-ldl")
    child = subprocess.Popen(
        [*RUN, *map(str, options), "--", str(program)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **more,
    )
    try:
        server = Script(child)
        server.ask("time", 0)  # it is the server now, and no longer `run`
        yield server
    finally:
        child.kill()
        child.communicate()


def handed(library: Path, *options: str) -> Handed:
    """What `run` would give a server, for one that a test starts itself."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return hand_over(parser.parse_args([*options, "--", "server"]), library)


def wait_until(get: Callable[[], T], fits: Callable[[T], object]) -> T:
    """What `get` gives, once it is as it has to be."""
    deadline = time.monotonic() + SECONDS
    while True:
        found = get()
        if fits(found):
            return found
        assert time.monotonic() < deadline, f"not in time: {found!r}"
        time.sleep(0.02)


def counters(file: Path) -> dict[str, Any]:
    """What is in a file of counters."""
    found = json.loads(file.read_text())
    assert isinstance(found, dict)
    return found


def lines(file: Path) -> list[dict[str, Any]]:
    """The whole lines of a record."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def writers(of: Path) -> Sequence[int]:
    """The processes that write a file for a server under `run`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if os.fsencode(of) in words and any(word.endswith(b"writer.py") for word in words):
                found.append(int(entry.name))
    return found
