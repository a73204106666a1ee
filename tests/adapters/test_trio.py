"""examples/dtls_trio.py: an adapter for another event loop, over the endpoints of the package."""

from __future__ import annotations

import importlib.util
import queue
import re
import select
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from gnutls_cookie import CertificateVerificationError, PSKCredentials, blocking
from tests.support.common import ROOT, free_udp_port, python_peer
from tests.support.interop import HEX, IDENTITY, LINE, gnutls_cli_command, s_client_command
from tests.support.peers import certificate, psk, trusting
from tests.support.servers import SECONDS

EXAMPLE = ROOT / "examples" / "dtls_trio.py"
BOTH = [certificate(), PSKCredentials(IDENTITY, bytes.fromhex(HEX))]


def example() -> Any:
    """The module; it needs trio."""
    python_peer("trio")
    spec = importlib.util.spec_from_file_location("dtls_trio", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def serving(credentials: Any = None, **limits: Any) -> Iterator[Any]:
    """Its echo server, in a thread; gives the address."""
    module, trio = example(), python_peer("trio")
    ends: queue.Queue[Any] = queue.Queue()
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    address = sock.getsockname()

    async def main() -> None:
        with trio.CancelScope() as scope:
            token = trio.lowlevel.current_trio_token()
            ends.put(lambda: token.run_sync_soon(scope.cancel))
            await module.serve(module.echo, sock, credentials or psk(), **limits)

    thread = threading.Thread(target=trio.run, args=(main,))
    thread.start()
    try:
        yield address
    finally:
        ends.get(timeout=SECONDS)()
        thread.join(SECONDS)
    assert not thread.is_alive()
    assert sock.fileno() == -1


def test_server_on_trio() -> None:
    """Several clients at once, silence, goodbyes of either side."""
    with serving() as address:
        clients = [blocking.connect(*address, credentials=psk()) for _ in range(5)]
        for turn in range(10):
            for number, client in enumerate(clients):
                client.send(b"%d of %d" % (turn, number))
            for number, client in enumerate(clients):
                assert client.receive(SECONDS) == b"%d of %d" % (turn, number)
        clients.pop().close()
        with blocking.connect(*address, credentials=psk()) as client:
            client.send(b"hello")
            assert client.receive(SECONDS) == b"hello"
    for client in clients:
        assert client.receive(SECONDS) is None
        client.close()


def test_timers_on_trio() -> None:
    """An idle client is told goodbye, though nothing comes."""
    with serving(idle_timeout=0.2) as address:
        client = blocking.connect(*address, credentials=psk())
        assert client.receive(SECONDS) is None
        client.close()


@pytest.mark.peer
@pytest.mark.parametrize(
    ("command", "kind"),
    [(s_client_command, "PSK"), (s_client_command, "X.509"), (gnutls_cli_command, "X.509")],
)
def test_third_party_clients_at_trio(command: Callable[..., list[str]], kind: str) -> None:
    """A line goes there and comes back."""
    with serving(BOTH) as address:
        child = subprocess.Popen(
            command(*address, kind),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        try:
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdin.write(LINE)
            child.stdin.flush()
            said, deadline = b"", time.monotonic() + SECONDS
            while LINE not in said:
                left = deadline - time.monotonic()
                assert select.select([child.stdout], [], [], max(left, 0))[0], said
                more = child.stdout.read1(65536)  # type: ignore[attr-defined]
                assert more, said
                said += more
        finally:
            child.kill()
            child.communicate(timeout=SECONDS)


def test_client_on_trio() -> None:
    """Messages, the end, and what a handshake fails with."""
    module, trio = example(), python_peer("trio")

    def handler(connection: blocking.Connection) -> None:
        for message in connection:
            connection.send(message)
            if message == b"stop":
                return

    async def main(address: Any) -> None:
        with trio.fail_after(SECONDS):
            async with trio.open_nursery() as nursery:
                one = await module.connect(nursery, *address, psk())
                other = await module.connect(nursery, *address, psk())
                for connection in (one, other):
                    await connection.send(b"hello")
                    assert await connection.receive() == b"hello"
                await one.send(b"stop")
                assert await one.receive() == b"stop"
                assert await one.receive() is None
                other.close()
                nursery.cancel_scope.cancel()

    async def fail(address: Any, credentials: Any) -> None:
        async with trio.open_nursery() as nursery:
            await module.connect(nursery, *address, credentials, server_name="localhost")

    credentials: list[Any] = [certificate(), psk()]
    with blocking.start_server(handler, "127.0.0.1", credentials=credentials) as server:
        trio.run(main, server.address)
        with pytest.raises(BaseExceptionGroup) as caught:
            trio.run(fail, server.address, trusting("stranger"))
        assert caught.group_contains(CertificateVerificationError)
    with pytest.raises(BaseExceptionGroup) as caught:
        trio.run(fail, ("127.0.0.1", free_udp_port()), psk())
    assert caught.group_contains(ConnectionRefusedError)


def test_example_is_short_and_the_page_shows_its_heart() -> None:
    """A hundred lines, blank ones apart; the block of the page is in it, word for word."""
    text = EXAMPLE.read_text(encoding="utf-8")
    assert len([line for line in text.splitlines() if line.strip()]) <= 100
    page = (ROOT / "docs" / "adapters.md").read_text(encoding="utf-8")
    (heart,) = re.findall(r"```python\n(class Driver.*?)```", page, re.DOTALL)
    assert heart.strip() in text
