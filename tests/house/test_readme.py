"""The README's Python is run, so that it stays true."""

from __future__ import annotations

import asyncio
import re
import socket
from pathlib import Path
from typing import Any

from gnutls_cookie import Session, aio
from gnutls_cookie.reference import wire

README = Path(__file__).resolve().parent.parent.parent / "README.md"


def run_examples() -> dict[str, Any]:
    """Run the README's Python blocks one after the other in one namespace."""
    names: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 5
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)
    return names


def test_the_examples_challenge_and_verify_a_client() -> None:
    """Both server examples answer a first hello, and know the client when it comes back."""
    names = run_examples()
    sock = names["sock"]
    try:
        with udp_client() as client:
            for name in ("on_datagram", "on_first_datagram"):
                handler = names[name]
                assert handler(wire.client_hello(), client.getsockname()) is None
                reply = wire.HelloVerifyRequest.decode(client.recv(100))
                hello = wire.client_hello(cookie=reply.cookie, record_seq=1, message_seq=1)
                verified = handler(hello, client.getsockname())
                assert verified is not None
        assert isinstance(verified, Session)
    finally:
        sock.close()


def test_the_asyncio_example_serves() -> None:
    """Its handler, with the credentials of the example before it, echoes to a client.

    A message that is longer than what its own datagrams carry comes back in parts.
    """
    names = run_examples()
    names["sock"].close()

    async def run() -> None:
        credentials = names["credentials"]
        server = await aio.start_server(names["echo"], "127.0.0.1", credentials=credentials)
        async with server:
            client = await aio.connect(*server.address[:2], credentials=credentials, mtu=1500)
            async with client:
                for message in b"hello", bytes(range(256)) * 5, b"hello":
                    await client.send(message)
                    answer = b""
                    while len(answer) < len(message):
                        answer += await asyncio.wait_for(client.receive(), 20) or b"?"
                    assert answer == message

    asyncio.run(run())


def udp_client() -> socket.socket:
    """A UDP socket on loopback with a bounded wait."""
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.bind(("127.0.0.1", 0))
    client.settimeout(5)
    return client


def test_both_commands_are_shown() -> None:
    """A newcomer finds the two commands."""
    text = README.read_text(encoding="utf-8")
    assert "./dev demo" in text
    assert "./dev test" in text
