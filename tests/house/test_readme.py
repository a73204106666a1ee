"""The README's Python is run, so that it stays true: each block as a file of its own."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gnutls_cookie import PSKCredentials, aio
from gnutls_cookie.reference import wire
from tests.support.common import ROOT, free_udp_port, running, udp_socket

README = ROOT / "README.md"
CREDENTIALS = PSKCredentials("sensor-1", b"a secret of 16 B")


def python_blocks() -> list[str]:
    """The README's Python blocks, in order."""
    return re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def example(text: str) -> dict[str, Any]:
    """The names of the one block that has this text; it is imported, not run as a program."""
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(block_with(text), str(README), "exec"), names)
    return names


def block_with(text: str) -> str:
    """The one block that has this text."""
    (block,) = [block for block in python_blocks() if text in block]
    return block


@pytest.mark.parametrize("number", range(len(python_blocks())))
def test_every_block_runs_as_a_file_of_its_own(number: int, tmp_path: Path) -> None:
    """Pasted into a file it has all the imports that it needs."""
    text = python_blocks()[number]
    names: dict[str, Any] = {"__name__": "pasted"}
    exec(compile(text, str(tmp_path / "pasted.py"), "exec"), names)
    if "sock" in names:
        names["sock"].close()


def test_the_recipe_challenges_and_verifies_a_client() -> None:
    """It answers a first hello, and knows the client when it comes back."""
    names = example("def on_datagram(")
    with names["sock"], udp_socket() as client:
        handler = names["on_datagram"]
        assert handler(wire.client_hello(), client.getsockname()) is None
        reply = wire.HelloVerifyRequest.decode(client.recv(100))
        hello = wire.client_hello(cookie=reply.cookie, record_seq=1, message_seq=1)
        assert handler(hello, client.getsockname()) is not None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("def drive(", b"5 bytes"),
        ("def listen(", b"5 bytes"),
        ("def handler(", b"5 bytes"),
        ("async def echo(", b"hello"),
    ],
)
def test_a_server_answers_the_client_and_ends_by_ctrl_c(
    text: str, answer: bytes, tmp_path: Path
) -> None:
    """Each server of the README, as a program, is asked by the client of the README."""
    port = free_udp_port()
    program = tmp_path / "server.py"
    program.write_text(block_with(text).replace("5684", str(port)), encoding="utf-8")
    ask = example("def ask(")["ask"]
    with running([sys.executable, program]) as server:
        assert asked(ask, port) == answer
        if text != "def drive(":  # it serves one client, to its goodbye
            assert asked(ask, port) == answer
            server.send_signal(signal.SIGINT)
        assert (server.communicate(timeout=60)[0], server.returncode) == (b"", 0)


def test_the_asyncio_example_serves() -> None:
    """It echoes; a message longer than what its own datagrams carry comes back in parts."""
    names = example("async def echo(")

    async def run() -> None:
        server = await aio.start_server(names["echo"], "127.0.0.1", credentials=CREDENTIALS)
        async with server:
            client = await aio.connect(*server.address[:2], credentials=CREDENTIALS, mtu=1500)
            async with client:
                for message in b"hello", bytes(range(256)) * 5, b"hello":
                    await client.send(message)
                    answer = b""
                    while len(answer) < len(message):
                        part = await asyncio.wait_for(client.receive(), 20)
                        answer += part or b"?"
                    assert answer == message

    asyncio.run(run())


def asked(ask: Callable[[str, int], bytes | None], port: int) -> bytes | None:
    """The answer of a server that may not have bound its port yet."""
    until = time.monotonic() + 60
    while True:
        try:
            return ask("127.0.0.1", port)
        except ConnectionRefusedError:
            assert time.monotonic() < until
            time.sleep(0.1)


def test_both_commands_are_shown() -> None:
    """A newcomer finds the two commands."""
    text = README.read_text(encoding="utf-8")
    assert "./dev demo" in text
    assert "./dev test" in text
